"""Each stage on each rank of a run beside the others: what it took, and which rank holds the others up.

Two things tell that. Where collectives are matched: a rank for which the others wait, because it begins most collectives
last, and which itself waits that much less. Else: a rank that takes longer than the median rank, by so much and so far
out of what the ranks differ by.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
from attrs import frozen

from dsprof.words import NO_STAGE

#: A rank stands out that takes so many times what the median rank takes, and is so many robust deviations from it.
LEAST_FACTOR, LEAST_Z = 1.05, 3.5
#: Of fewer ranks a deviation says nothing.
LEAST_RANKS = 3
#: A rank holds the others up that began so many of the collectives last, in percent.
LEAST_LAST_PCT = 50.0
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
COLLECTIVE_COLUMNS = ("report", "rank", "pid", "stage", "stage_instance", "duration_ns", "wait_ns", "last")


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

    `by`: what tells it, a key of `QUANTITIES`, or ``"last"`` for the collectives that it began last. `held_ns`: how much
    longer the others take or wait for it, in each instance. `label`: what each rank is called.
    """

    run: str
    stage: str
    lines: tuple[RankLine, ...]
    labels: tuple[str, ...]
    holds: int | None = None
    by: str = ""
    held_ns: float | None = None


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


def stages_of(stage_trace: pa.Table, collectives: Iterable[pa.Table] = ()) -> list[StageOfRun]:
    """The stages of all runs that have several ranks, in the order of the tables.

    `stage_trace` has `STAGE_COLUMNS`, `collectives` some tables of `COLLECTIVE_COLUMNS`.
    """
    lines = _lines(stage_trace, _waits(collectives))
    found: dict[tuple[str, str], list[RankLine]] = {}
    for line in lines:
        found.setdefault((line.run, line.stage), []).append(line)
    return [_judged(run, stage, of) for (run, stage), of in found.items() if len(of) > 1]


def _judged(run: str, stage: str, lines: list[RankLine]) -> StageOfRun:
    order = {line.report: place for place, line in reversed(list(enumerate(lines)))}
    lines = sorted(lines, key=lambda line: (line.rank is None, line.rank or 0, order[line.report], line.pid))
    labels = _labels(lines)
    waits = [line.wait_ns for line in lines]
    if all(one is not None for one in waits):
        least = min(range(len(lines)), key=lambda place: waits[place] or 0.0)
        held = statistics.median(wait for place, wait in enumerate(waits) if place != least and wait is not None)
        held -= waits[least] or 0.0
        wall = statistics.median(line.wall_ns for line in lines)
        if (lines[least].last_pct or 0) >= LEAST_LAST_PCT and held >= (LEAST_FACTOR - 1) * wall:
            return StageOfRun(run, stage, tuple(lines), labels, least, "last", held)
    for quantity in ("own_ns", "wall_ns", "host_ns", "compute_ns"):
        values = [getattr(line, quantity) for line in lines]
        if (most := standing_out(values)) is not None:
            held = values[most] - statistics.median(values)
            if held >= (LEAST_FACTOR - 1) * statistics.median(line.wall_ns for line in lines):
                return StageOfRun(run, stage, tuple(lines), labels, most, quantity, held)
    return StageOfRun(run, stage, tuple(lines), labels)


def _labels(lines: Sequence[RankLine]) -> tuple[str, ...]:
    """What tells the ranks apart: their numbers, or else their reports, with the process where that is needed."""
    ranks = [line.rank for line in lines]
    if None not in ranks and len(set(ranks)) == len(ranks):
        return tuple(map(str, ranks))
    reports = [line.report for line in lines]
    if len(set(reports)) == len(reports):
        return tuple(reports)
    return tuple(f"{line.report}:{line.pid}" for line in lines)


#: What is added up of the collectives of an instance of a stage: all, waiting, number, matched, begun last; and the rank.
_Waits = dict[tuple[str, int, str, int], list[Any]]


def _waits(collectives: Iterable[pa.Table]) -> _Waits:
    import pyarrow.compute as pc

    found: _Waits = {}
    keys = ["report", "pid", "stage", "stage_instance"]
    for table in collectives:
        table = _plain(table)
        last = pc.equal(table.column("last"), "yes").cast(pa.int64())
        table = table.set_column(table.column_names.index("last"), "last", last)
        sums = [("duration_ns", "sum"), ("wait_ns", "sum"), ("wait_ns", "count"), ("last", "sum"), ("rank", "min")]
        summed = table.group_by(keys).aggregate(sums)
        values = [summed.column(f"{column}_{kind}").to_pylist() for column, kind in sums]
        for key, duration, wait, matched, late, rank in zip(_keys(summed, keys), *values, strict=True):
            before = found.setdefault(key, [0, 0, 0, 0, None])
            for place, more in enumerate((duration, wait, matched, late)):
                before[place] += more or 0
            before[4] = rank if rank is not None else before[4]
    return found


def _keys(table: pa.Table, names: Sequence[str]) -> list[Any]:
    return list(zip(*(table.column(name).to_pylist() for name in names), strict=True))


def _plain(table: pa.Table) -> pa.Table:
    """The table with texts in place of codes, which tables of their own may have otherwise."""
    columns = [
        column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns
    ]
    return pa.table(columns, names=table.column_names)


def _lines(stage_trace: pa.Table, waits: _Waits) -> list[RankLine]:
    """A line for each stage of each process; only steady instances count where there are some."""
    rows: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    for row in _plain(stage_trace.select(STAGE_COLUMNS)).to_pylist():
        if row["stage"] != NO_STAGE:
            rows.setdefault((row["run"], row["stage"], row["report"], row["pid"]), []).append(row)
    return [_line(run, stage, report, pid, of, waits) for (run, stage, report, pid), of in rows.items()]


def _line(run: str, stage: str, report: str, pid: int, rows: list[dict[str, Any]], waits: _Waits) -> RankLine:
    steady = [row for row in rows if row["steady"]] or rows
    count = len(steady)
    told = [waits[key] for row in steady if (key := (report, pid, stage, row["instance"])) in waits]
    inside, wait, matched, late = (sum(one[place] for one in told) for place in range(4))
    rank = next((one[4] for one in told if one[4] is not None), rows[0]["rank"])

    def mean(column: str) -> float:
        return float(sum(row[column] or 0 for row in steady) / count)

    wall = mean("wall_ns")
    return RankLine(
        run, stage, rank, report, pid, count, wall, max(mean("duration_ns") - mean("sync_ns"), 0.0),
        max(mean("gpu_busy_ns") - inside / count, 0.0), inside / count,
        wait / count if matched else None, max(wall - wait / count, 0.0) if matched else None,
        100.0 * late / matched if matched else None,
    )  # fmt: skip
