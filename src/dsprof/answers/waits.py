"""Who holds the other ranks up, and why: of each wait in a collective, which rank was last and what made it late.

Between two collectives of a group each rank computes, copies, or does nothing; the last of them did more of one of
these than the rank that waits for it, so the wait is what it did more::

    rank 0   ==|## compute ##|~~~~~~~ wait ~~~~~~~|= next =|
    rank 1   ==|## compute ##|      nothing       |= next =|     late by its host: its next call came late
    rank 2   ==|############ compute #############|= next =|     late by its kernels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
from attrs import evolve

from dsprof import arrays as at
from dsprof.answers.collectives import YES, MatchedCollectives
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import sum_by
from dsprof.attribute.stages import StageRanges
from dsprof.ground.student import quantile
from dsprof.records import frozen
from dsprof.rules.collectives import OPERATIONS
from dsprof.trace import pid_of

#: What makes a rank late: its host had not launched what comes next; its kernels, or its copies, took longer; something
#: between the launch and the begin.
REASONS = ("host", "kernels", "copies", "latency")
#: A rank is the straggler where it causes so many times its share of the waiting, by odds, and causes it throughout.
_TIMES_ITS_SHARE = 3.0
#: Percent of the wall time of the ranks that wait from which on their waiting is worth a word.
NOTABLE_PCT = 5.0
#: Ranks come together again after each step, so a step is one observation, or an instance without steps; of so many at
#: least, put together to so many stretches, it is told whether a rank is late by more than chance.
_LEAST, _STRETCHES = 4, 12
#: With more instances of a stage than this they are not looked at one by one.
_MOST_INSTANCES = 64
#: How often chance must stay below what tells a straggler.
_CERTAIN = 1 - 1 / 2000
#: What a rank does between two collectives, by the columns of `ReportCollectives`.
_WORK = ("computed", "copied")


@frozen(eq=False)
class Waits:
    """For each row of `MatchedCollectives.columns` with a match: for whom it waited, and why that was late.

    `rank`: the place of the rank that began last, -1 where that is not certain, or it is itself. `late`: the wait by
    `REASONS`, in ns; the four add up to it, and one may be negative where the late rank did less of it.
    """

    rank: Ints
    late: tuple[Ints, ...]

    @classmethod
    def take(cls, matched: MatchedCollectives) -> Self:
        """Of the collectives of one report, or of several."""
        columns, count = matched.columns, len(matched.columns["rank"])
        rank, late = np.full(count, -1), tuple(np.zeros(count, np.int64) for _ in REASONS)
        for rows in matched.of_groups():
            _of_group(columns, rows, rank, late)
        return cls(rank, late)


@frozen(eq=False)
class WaitedFor:
    """The rank that each of `StageRanges.rows` waited for longest: its number, and how long; NULL where not known."""

    rank: Ints
    wait: Ints

    @classmethod
    def take(cls, staged: StageRanges, matched: MatchedCollectives, waits: Waits) -> Self:
        """Of a report."""
        return cls.of(len(staged.rows), matched, waits, np.ones(len(waits.rank), np.bool_))

    @classmethod
    def of(cls, count: int, matched: MatchedCollectives, waits: Waits, mine: Bools) -> Self:
        """Of one of several reports, which has so many rows, and the collectives `mine`."""
        row, rank, wait = matched.columns["stage_row"], waits.rank, matched.columns["wait"]
        some = np.flatnonzero(mine & (row >= 0) & (rank >= 0) & (wait > 0))
        heads, pair = at.group_rows(row[some], rank[some])
        total = sum_by(pair, wait[some], len(heads))
        order = np.argsort(total, kind="stable")  # the longest last, which is what stays
        of_row = row[some[heads]][order]
        numbers = np.array([one.number for one in matched.ranks], np.int64)
        found, most = (np.full(count, NULL) for _ in range(2))
        most[of_row], found[of_row] = total[order], numbers[rank[some[heads]][order]]
        return cls(found, most)


def _of_group(columns: dict[str, Ints], rows: Ints, rank: Ints, late: tuple[Ints, ...]) -> None:
    """Fill in the waits of a group; shape of `rows`: (ranks, collectives)."""
    last = columns["last"][rows] == YES
    sure = last.any(axis=0)
    who = last.argmax(axis=0)
    mine = sure & ~last
    rank[rows] = np.where(mine, columns["rank"][rows[who, np.arange(len(who))]], -1)
    start, launched = columns["start"][rows], columns["launched"][rows]
    before = start - _since(start, columns["end"][rows])
    took = {name: _since(columns[f"{name}_before"][rows], columns[f"{name}_until"][rows]) for name in _WORK}
    nothing = np.maximum(start - before - took["computed"] - took["copied"], 0)
    uncalled = np.where(launched == NULL, 0, np.clip(launched - before, 0, nothing))
    parts = (uncalled, took["computed"], took["copied"])
    chosen = np.arange(len(who))
    more = [np.where(mine, part[who, chosen] - part, 0) for part in parts]
    rest = np.where(mine, columns["wait"][rows], 0) - sum(more)
    for column, value in zip(late, (*more, rest), strict=True):
        column[rows] = value


def _since(begin: Ints, end: Ints) -> Ints:
    """What came between the end of the collective before and the begin of each; of the first nothing is known."""
    return np.concatenate([np.zeros_like(begin[:, :1]), begin[:, 1:] - end[:, :-1]], axis=1)


@frozen
class Blame:
    """What a rank of a group did to the others: `place` in `MatchedCollectives.ranks`.

    `last_pct`: of the collectives whose last rank is certain, those it began last; `caused_ns`: how long the others
    waited then, all together, and `late_ns` that by `REASONS`; `waited_ns`: how long it waited itself, for whomever.
    """

    place: int
    name: str
    last_pct: float
    caused_ns: int
    late_ns: tuple[int, ...]
    waited_ns: int

    @property
    def reason(self) -> str:
        """What made it late most."""
        return REASONS[int(np.argmax(self.late_ns))]


@frozen
class InTurn:
    """Requests in a row in which one rank, a place in `HeldUp.ranks`, holds the others up for one of `REASONS`.

    `first`, `last`: their numbers, or those of instances of the stage where these are in no request (`of` says which).
    """

    straggler: int
    reason: str
    of: str
    first: int
    last: int


@frozen
class HeldUp:
    """How the ranks of a group waited for each other: `ranks` by their number, and which of them is the straggler.

    `pct`: how long those that waited did so, in percent of their wall time: for the straggler, if there is one, else
    for each other; `straggler`: a place in `ranks`, -1 for none. `in_turn`: requests in which there is one.
    `bus_bytes`: what the collectives whose size is known move over each rank's link, `bus_ns`: their transfer.
    """

    ranks: tuple[Blame, ...]
    straggler: int
    pct: float
    in_turn: tuple[InTurn, ...] = ()
    bus_bytes: int = 0
    bus_ns: int = 0

    @property
    def late_ns(self) -> tuple[int, ...]:
        """Waiting of all ranks by `REASONS`."""
        return tuple(map(sum, zip(*(one.late_ns for one in self.ranks), strict=True)))

    def by_reason(self, whole: int) -> dict[str, int]:
        """So much of something shared out to `REASONS`, as waiting is; what is less than nothing has none of it."""
        late = [max(time, 0) for time in self.late_ns]
        return {reason: whole * time // max(sum(late), 1) for reason, time in zip(REASONS, late, strict=True)}

    @property
    def reason(self) -> str:
        """What made ranks late most; of the straggler, if there is one."""
        late = self.late_ns if self.straggler < 0 else self.ranks[self.straggler].late_ns
        return REASONS[int(np.argmax(late))]


@frozen(eq=False)
class StageWaits:
    """How the ranks waited for each other in each stage, in its steady instances; by the stage's name."""

    of_stage: dict[str, tuple[HeldUp, ...]]

    @classmethod
    def take(cls, matched: MatchedCollectives, waits: Waits) -> Self:
        """Of one report, or of several."""
        columns, hosts, found = matched.columns, matched.hosts, dict[str, tuple[HeldUp, ...]]()
        steady = np.append(hosts["steady"] > 0, False)[matched.host_row]
        for code in at.distinct(columns["stage"][steady]).tolist():
            found[matched.stages[code]] = held_up(matched, waits, steady & (columns["stage"] == code))
        return cls(found)


def held_up(matched: MatchedCollectives, waits: Waits, rows: Bools) -> tuple[HeldUp, ...]:
    """How the ranks of each group waited in some rows."""
    found, chosen = [], rows & (matched.columns["collective"] != NULL)
    for group, mine in at.each(np.where(chosen, matched.columns["group"], -1)):
        if group < 0:
            continue
        places = at.distinct_in_any_order(matched.columns["rank"][mine]).tolist()
        ordered = sorted(places, key=lambda place: (matched.ranks[place].number, place))
        held = _held_up(matched, waits, mine, ordered)
        found.append(evolve(held, in_turn=_in_turn(matched, waits, mine, ordered)))
    return tuple(found)


def _held_up(matched: MatchedCollectives, waits: Waits, rows: Ints, places: Sequence[int]) -> HeldUp:
    columns = matched.columns
    rank, wait, cause = columns["rank"][rows], columns["wait"][rows], waits.rank[rows]
    last = columns["last"][rows] == YES
    sure = max(int(last.sum()), 1)
    blames = tuple(
        Blame(
            place,
            called(matched, place),
            100 * int((last & (rank == place)).sum()) / sure,
            int(wait[cause == place].sum()),
            tuple(int(part[rows][cause == place].sum()) for part in waits.late),
            int(wait[rank == place].sum()),
        )
        for place in places
    )
    wall = [_wall(matched, rows[rank == place]) for place in places]
    worst = max(range(len(blames)), key=lambda one: blames[one].caused_ns)
    others = sum(wall) - wall[worst]
    pct = 100 * blames[worst].caused_ns / others if others else 0.0
    stretch = _stretches(columns["instance"][rows], columns["step"][rows], columns["collective"][rows])
    if pct >= NOTABLE_PCT and _stands_out(blames, worst) and _throughout(stretch, places, worst, cause, wait):
        return HeldUp(blames, worst, pct, (), *_on_the_bus(matched, rows, len(places)))
    pct = 100 * sum(one.waited_ns for one in blames) / sum(wall) if sum(wall) else 0.0
    return HeldUp(blames, -1, pct, (), *_on_the_bus(matched, rows, len(places)))


#: How many times the size of a collective a rank's link carries, by how many ranks there are: as NCCL's own tests count
#: it, where NCCL says what a rank sends, or is left with.
_BUS: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda ranks: 2 * (ranks - 1) / ranks,
    "all-gather": lambda ranks: ranks - 1,
    "reduce-scatter": lambda ranks: ranks - 1,
    "broadcast": lambda _: 1,
    "reduce": lambda _: 1,
}


def _on_the_bus(matched: MatchedCollectives, rows: Ints, ranks: int) -> tuple[int, int]:
    """What the collectives of known size move over a link, in bytes, and their transfer in ns."""
    columns = matched.columns
    factor = np.array([_BUS[one](ranks) if one in _BUS else 0.0 for one in OPERATIONS])
    times, size = factor[columns["operation"][rows]], columns["bytes"][rows]
    known = (size != NULL) & (times > 0)
    moved, took = (size * times)[known].sum() / ranks, columns["transfer"][rows][known].sum() / ranks
    return round(moved), round(took)


def _wall(matched: MatchedCollectives, rows: Ints) -> int:
    """The wall time of the stages that some collectives of a rank are in."""
    stages = at.distinct_in_any_order(matched.host_row[rows])
    return int(matched.hosts["wall_ns"][stages[stages >= 0]].sum())


def _in_turn(matched: MatchedCollectives, waits: Waits, rows: Ints, places: Sequence[int]) -> tuple[InTurn, ...]:
    """The instances of a stage in which one rank holds the others up though none does in all, those in a row as one."""
    collective = matched.columns["collective"][rows]
    order = np.argsort(collective, kind="stable")
    heads = rows[order[np.append(True, np.diff(collective[order]) > 0)]]  # one row of each speaks for all ranks
    instance, host = matched.columns["instance"][heads], matched.host_row[heads]
    found = list[InTurn]()
    if not 1 < len(instances := at.distinct_in_any_order(instance)) <= _MOST_INSTANCES:
        return ()
    for number in instances.tolist():
        mine = np.flatnonzero(instance == number)
        some = np.isin(collective, matched.columns["collective"][heads[mine]])
        one = _held_up(matched, waits, rows[some], places)
        request = int(matched.hosts["request"][host[mine[0]]])
        of, label = ("instance", number) if request == NULL else ("request", request)
        if one.straggler < 0:
            continue
        before = found[-1] if found else None
        if before and (before.straggler, before.reason, before.of, before.last + 1) == (
            one.straggler, one.reason, of, label,
        ):  # fmt: skip
            found[-1] = evolve(before, last=label)
        else:
            found.append(InTurn(one.straggler, one.reason, of, label, label))
    return tuple(found)


def _stands_out(blames: Sequence[Blame], worst: int) -> bool:
    """Does the worst rank cause clearly more than its share of the waiting, and begin last more often than that?"""
    caused, whole = blames[worst].caused_ns, sum(one.caused_ns for one in blames)
    more = caused * (len(blames) - 1) >= _TIMES_ITS_SHARE * (whole - caused)
    return more and blames[worst].last_pct > 100 / len(blames)


def _stretches(instance: Ints, step: Ints, collective: Ints) -> Ints:
    """The stretch of each row, of collectives whose ranks come together between them; -1 where there are too few."""
    order = np.argsort(collective, kind="stable")
    of_collective = np.flatnonzero(np.append(True, np.diff(collective[order]) > 0))
    first = order[of_collective]  # one row speaks for all ranks: instances are counted on each by itself
    new = (np.diff(instance[first]) != 0) | (np.diff(step[first]) != 0)
    unit = np.append(0, np.cumsum(new))
    count = int(unit[-1]) + 1
    if count < _LEAST:
        return np.full(len(collective), -1)
    stretch = unit * min(count, _STRETCHES) // count
    return stretch[np.searchsorted(collective[first], collective)]


def _throughout(stretch: Ints, places: Sequence[int], worst: int, cause: Ints, wait: Ints) -> bool:
    """Does the worst rank cause more waiting than the next one in all stretches, by more than they vary?"""
    if not len(stretch) or stretch[0] < 0:
        return False
    count = int(stretch.max()) + 1
    caused = np.stack([
        np.bincount(stretch[cause == place], weights=wait[cause == place], minlength=count) for place in places
    ])  # fmt: skip
    more = caused[worst] - np.delete(caused, worst, axis=0).max(axis=0)
    error = more.std(ddof=1) / np.sqrt(count)
    return bool(more.mean() > quantile(_CERTAIN, count - 1) * error)


def called(matched: MatchedCollectives, place: int) -> str:
    """What a rank is called: by its number, else by its process and device."""
    rank = matched.ranks[place]
    if rank.number != NULL:
        return f"rank {rank.number}"
    of = f" of {matched.reports[rank.report]}" if len(matched.reports) > 1 else ""
    return f"process {pid_of(rank.process)} on device {rank.device}{of}"
