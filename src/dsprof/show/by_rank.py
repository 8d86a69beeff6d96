"""Each stage on each rank of a run beside the others: what it took, and which rank holds the others up.

Two things tell that. Where collectives are matched, they do (`answers/waits.py`). Else: a rank that takes longer than
the median rank, by so much and so far out of what the ranks differ by.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from attrs import evolve

from dsprof.records import frozen
from dsprof.words import NO_STAGE

#: A rank stands out that takes so many times what the median rank takes, and is so many robust deviations from it.
LEAST_FACTOR, LEAST_Z = 1.05, 3.5
#: Of fewer ranks a deviation says nothing.
LEAST_RANKS = 3
#: By which a median deviation is that of a normal distribution.
_MAD = 1.4826
#: What is compared, by field of `RankLine`, and how that is called.
QUANTITIES = {
    "own_ns": "wall time without waiting",
    "wall_ns": "wall time",
    "host_ns": "host time without waiting for the GPU",
    "compute_ns": "GPU time without collectives",
    "collective_ns": "time in collectives",
}
#: Columns of tables that lines are made of.
STAGE_COLUMNS = ("report", "run", "rank", "stage", "instance", "pid", "steady", "wall_ns", "duration_ns", "sync_ns",
                 "gpu_busy_ns")  # fmt: skip
COLLECTIVE_COLUMNS = ("report", "run", "rank", "pid", "stage", "stage_instance", "duration_ns", "wait_ns", "last")


@frozen
class RankLine:
    """A stage on a rank of a run: means of its steady instances, in ns.

    `own_ns`: wall less waiting for other ranks; `wait_ns` and `last_pct` (of its matched collectives, those that it
    began last) are None without a match. `host_ns` is without calls that wait for the GPU, `compute_ns` GPU time
    without collectives, `collective_ns` theirs.
    """

    run: str
    stage: str
    rank: int | None
    report: str
    pid: int
    instances: int
    wall_ns: float
    host_ns: float
    compute_ns: float
    collective_ns: float
    wait_ns: float | None = None
    own_ns: float | None = None
    last_pct: float | None = None


@frozen
class StageOfRun:
    """A stage of a run on its ranks, and which of them holds the others up: a place in `lines`, None for nobody.

    `by`: what tells it, a key of `QUANTITIES`, or ``"last"`` for the collectives that it began last. `held_ns`: how
    long the others wait for it, or how much longer it takes, in each instance. `labels`: what each rank is called.
    `reason`: by what it is late, where collectives tell it; `in_turn`: which rank does so in which requests,
    in words.
    """

    run: str
    stage: str
    lines: tuple[RankLine, ...]
    labels: tuple[str, ...]
    holds: int | None = None
    by: str = ""
    held_ns: float | None = None
    reason: str = ""
    in_turn: tuple[str, ...] = ()

    def called(self, place: int) -> str:
        """What a rank is called in a sentence."""
        return f"rank {self.labels[place]}" if self.labels[place].isdecimal() else self.labels[place]


@frozen
class Turn:
    """Requests, or instances, from `first` to `last` in which a rank, a place in `Held.ranks`, holds the others up."""

    straggler: int
    reason: str
    of: str
    first: int
    last: int


@frozen
class Held:
    """How a group of ranks, each by its report and process, waited for each other in a stage, as its collectives tell.

    `straggler`: a place in `ranks`, -1 for none; `reason`: by what it is late.
    """

    run: str
    stage: str
    ranks: tuple[tuple[str, int], ...]
    straggler: int
    reason: str
    in_turn: tuple[Turn, ...]


def from_median(values: Sequence[float | None]) -> list[float | None]:
    """How far each value is from the median, in percent of it; None where it is not known or the median is 0.

    >>> from_median([2, 2, 3])
    [0.0, 0.0, 50.0]
    """
    known = [value for value in values if value is not None]
    middle = statistics.median(known) if known else 0
    return [100.0 * (value / middle - 1) if value is not None and middle else None for value in values]


def standing_out(values: Sequence[float | None]) -> int | None:
    """Which value stands out above the others, the farthest if several do; None for none.

    >>> standing_out([100, 101, 99, 112]), standing_out([100, 101, 99, 102])
    (3, None)
    """
    far = from_median(values)
    if any(one is None for one in far) or len(far) < LEAST_RANKS:
        return None
    told = [one for one in far if one is not None]
    spread = statistics.median(map(abs, told)) * _MAD
    most = max(range(len(told)), key=told.__getitem__)
    enough = told[most] >= 100 * (LEAST_FACTOR - 1) and told[most] >= LEAST_Z * spread
    return most if enough else None


def stages_of(
    stage_trace: Iterable[pa.Table], collectives: Iterable[pa.Table] = (), held: Iterable[Held] = ()
) -> list[StageOfRun]:
    """The stages of all runs that have several ranks, in the order of the tables.

    `stage_trace` are the pieces of a table with `STAGE_COLUMNS`, `collectives` of one with `COLLECTIVE_COLUMNS`; the
    runs come one after another, in both in the same order, and no more than one is looked at at a time.
    """
    told: dict[tuple[str, str], list[Held]] = {}
    for one in held:
        told.setdefault((one.run, one.stage), []).append(one)
    return [_judged(run, stage, lines, told.get((run, stage), []))
            for run, stages, inside in _together(_by_run(stage_trace), _by_run(collectives))
            for stage, lines in _of_run(stages, inside).items() if len(lines) > 1]  # fmt: skip


def _of_run(stage_trace: pa.Table, collectives: pa.Table | None) -> dict[str, list[RankLine]]:
    """The ranks of each stage of a run."""
    found: dict[str, list[RankLine]] = {}
    for line in _ranks(stage_trace, {} if collectives is None else _waits(collectives)):
        found.setdefault(line.stage, []).append(line)
    return found


_OfRun = Iterator[tuple[str, pa.Table]]


def _together(first: _OfRun, second: _OfRun) -> Iterator[tuple[str, pa.Table, pa.Table | None]]:
    """Each run of the first, and what the second has of it, which may have none of some runs."""
    other = next(second, None)
    for run, table in first:
        same = other is not None and other[0] == run
        yield run, table, other[1] if same and other is not None else None
        other = next(second, None) if same else other


def _by_run(pieces: Iterable[pa.Table]) -> _OfRun:
    """The rows of each run, of pieces in which those of a run lie together."""
    current, waiting = "", list[pa.Table]()
    for piece in pieces:
        table = _plain(piece)
        codes = table.column("run").combine_chunks().dictionary_encode()
        codes = codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
        numbers = np.from_dlpack(codes.indices) if len(table) else np.zeros(0, np.int32)
        edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(table)]
        for begin, end in pairwise(edges):
            if begin == end:
                continue
            run = codes.dictionary[int(numbers[begin])].as_py()
            if waiting and run != current:
                yield current, pa.concat_tables(waiting)
                waiting = []
            current = run
            waiting.append(table.slice(begin, end - begin))
    if waiting:
        yield current, pa.concat_tables(waiting)


def _judged(run: str, stage: str, lines: list[RankLine], held: Sequence[Held]) -> StageOfRun:
    order = {line.report: place for place, line in reversed(list(enumerate(lines)))}
    lines = sorted(lines, key=lambda line: (line.rank is None, line.rank or 0, order[line.report], line.pid))
    labels = _labels(lines)
    found = StageOfRun(run, stage, tuple(lines), labels)
    if held:
        return _as_held(found, held)
    least = (LEAST_FACTOR - 1) * statistics.median(line.wall_ns for line in lines)
    for quantity in ("wall_ns", "host_ns", "compute_ns"):
        values = [getattr(line, quantity) for line in lines]
        if (most := standing_out(values)) is not None:
            more = values[most] - statistics.median(values)
            if more >= least:
                return evolve(found, holds=most, by=quantity, held_ns=more)
    return found


def _as_held(found: StageOfRun, held: Sequence[Held]) -> StageOfRun:
    """With what matched collectives say: of several groups of ranks, the first that has a straggler."""
    places = {(line.report, line.pid): place for place, line in enumerate(found.lines)}
    turns = tuple(
        f"{found.called(places[one.ranks[turn.straggler]])} in {turn.of} "
        f"{turn.first if turn.first == turn.last else f'{turn.first} to {turn.last}'} (its {turn.reason})"
        for one in held for turn in one.in_turn if one.ranks[turn.straggler] in places
    )  # fmt: skip
    found = evolve(found, in_turn=turns)
    for one in held:
        place = places.get(one.ranks[one.straggler]) if one.straggler >= 0 else None
        if place is not None:
            waits = [line.wait_ns or 0.0 for line in found.lines]
            others = statistics.median(wait for number, wait in enumerate(waits) if number != place)
            return evolve(found, holds=place, by="last", held_ns=max(others - waits[place], 0.0), reason=one.reason)
    return found


def _labels(lines: Sequence[RankLine]) -> tuple[str, ...]:
    """What tells the ranks apart: their numbers, or else their reports, with the process where that is needed."""
    ranks = [line.rank for line in lines]
    if None not in ranks and len(set(ranks)) == len(ranks):
        return tuple(map(str, ranks))
    reports = [line.report for line in lines]
    if len(set(reports)) == len(reports):
        return tuple(reports)
    return tuple(f"{line.report}:{line.pid}" for line in lines)


#: What is added up of the collectives of an instance of a stage: all, waiting, begun last, matched; and the rank.
_Waits = dict[tuple[str, int, str, int], list[Any]]


def _waits(collectives: pa.Table) -> _Waits:
    import pyarrow.compute as pc

    keys = ["report", "pid", "stage", "stage_instance"]
    last = pc.equal(collectives.column("last"), "yes").cast(pa.int64())
    table = collectives.set_column(collectives.column_names.index("last"), "last", last)
    sums = [("duration_ns", "sum"), ("wait_ns", "sum"), ("last", "sum"), ("wait_ns", "count"), ("rank", "min")]
    summed = table.group_by(keys).aggregate(sums)
    values = [summed.column(f"{column}_{kind}").to_pylist() for column, kind in sums]
    return {
        key: [duration, wait or 0, late or 0, matched, rank]
        for key, duration, wait, late, matched, rank in zip(_keys(summed, keys), *values, strict=True)
    }


def _keys(table: pa.Table, names: Sequence[str]) -> list[Any]:
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def _plain(table: pa.Table) -> pa.Table:
    """The table with texts in place of codes, which tables of their own may have otherwise."""
    columns = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns]
    return pa.table(columns, names=table.column_names)


def _ranks(stage_trace: pa.Table, waits: _Waits) -> Iterator[RankLine]:
    """Each stage of each process; only steady instances count where there are some."""
    rows: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    for row in stage_trace.select(STAGE_COLUMNS).to_pylist():
        if row["stage"] != NO_STAGE:
            rows.setdefault((row["run"], row["stage"], row["report"], row["pid"]), []).append(row)
    for (run, stage, report, pid), of in rows.items():
        steady = [row for row in of if row["steady"]] or of
        inside = [waits.get((report, pid, stage, row["instance"])) for row in steady]
        yield _line(run, stage, report, pid, steady, [one for one in inside if one is not None])


def _line(
    run: str, stage: str, report: str, pid: int, rows: list[dict[str, Any]], collectives: list[list[Any]]
) -> RankLine:
    count = len(rows)
    inside, wait, late, matched = (sum(one[place] for one in collectives) for place in range(4))
    rank = next((one[4] for one in collectives if one[4] is not None), rows[0]["rank"])

    def mean(column: str) -> float:
        return float(sum(row[column] or 0 for row in rows) / count)

    wall = mean("wall_ns")
    return RankLine(
        run, stage, rank, report, pid, count, wall, max(mean("duration_ns") - mean("sync_ns"), 0.0),
        max(mean("gpu_busy_ns") - inside / count, 0.0), inside / count,
        wait / count if matched else None, max(wall - wait / count, 0.0) if matched else None,
        100.0 * late / matched if matched else None,
    )  # fmt: skip
