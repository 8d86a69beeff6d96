"""Which collectives of several ranks are one, and what each rank spent in them: transfer, and waiting for the others.

A rank is a process and a device of a report. The collectives of a communicator are the same sequence on each of its
ranks, so ranks whose sequences of operations agree may be one group; that they are is told by their ends, which lie at
one moment where a collective cannot end before all have begun::

    rank 0   |#### wait ####|= transfer =|        the shortest of a match is all transfer, and how much of the others is
    rank 1                  |= transfer =|        a proxy: no rank says when it had what it waited for
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from attrs import field

from dsprof import arrays as at
from dsprof.answers.identity import Place, Told, numbered
from dsprof.answers.stages import Stages
from dsprof.arrays import NULL, Bools, Ints, group_rows
from dsprof.attribute.nccl import NcclRanges
from dsprof.attribute.stages import StageRanges
from dsprof.measures.by_name import Words, united
from dsprof.measures.collectives import Collectives
from dsprof.measures.host_time import HostInCalls
from dsprof.measures.rank_work import RankProgress, RankWork
from dsprof.records import frozen
from dsprof.rules.collectives import ENDS_TOGETHER, OPERATIONS, operations_of
from dsprof.trace import pid_of, process_of

#: The ends of one collective lie no further apart than this on clocks of one host.
TOGETHER_NS = 100_000
#: So many of the collectives that two ranks have in common must end together for the ranks to be of one group.
TOGETHER_SHARE = 0.9
#: Of fewer collectives in a row the ends tell no clock, and no match unless these are all that there are.
LEAST_FOR_A_CLOCK = 20
#: What the ends of collectives lie apart on one clock in most cases; where it is more, they may tell a better one.
ONE_CLOCK_NS = 5_000
#: Where clocks tell nothing, so many ends of one rank are looked for among so many of the other, and must fit so many
#: times better at one place than at any other.
_SOUGHT, _SEARCHED, _FITS_BETTER = 128, 20_000, 4
#: So many times one rank may lack what the other has; what comes behind that has no match.
_MOST_STRETCHES = 100
#: A stretch has so many collectives at most, so that what is looked at anew behind each is little.
_AT_ONCE = 1 << 14
#: The residual is the distance of ends that this share of the collectives stays below.
_RESIDUAL_SHARE = 0.95
#: Did a rank start a collective last? Places in `LAST`; -1 where there is no match.
LAST = ("no", "yes", "inconclusive")
NO, YES, INCONCLUSIVE = range(3)
_OPERATIONS = tuple(OPERATIONS)
#: For each operation: do all its ranks end at one moment?
TOGETHER = np.array([operation in ENDS_TOGETHER for operation in _OPERATIONS])


@frozen(eq=False)
class ReportCollectives:
    """The collectives of one report, a row each, by process and device in the order in which they were launched.

    It knows nothing of the report behind it and can be pickled. `columns`: `process`, `device`, `stream`, `start`,
    `end`, `launched` (NULL: not known), `name` (place in `names`), `operation` (in `OPERATIONS`), `stage` (in
    `stages`), `instance` of the stage and `step` (NULL: none), `stage_row` and `step_row` (places in
    `StageRanges.rows` and its `steps`, -1: none); how much its rank had computed and copied by when it began and
    ended (`computed_before`, `copied_before`, `computed_until`, `copied_until`, as `RankProgress` has them);
    `communicator` and `bytes` (as NCCL says, NULL: not known).
    `compute`, `hidden`: as in `RankWork`. `hosts`: a row for each of `StageRanges.rows`: `stage`, `process`, `request`
    (NULL: none), `steady`, `wall_ns`, `host_ns` (its time on the host), `calls_ns` (of that, in CUDA calls). `told`:
    which rank each process is.
    """

    stages: Words
    names: Words
    columns: dict[str, Ints]
    compute: dict[str, Ints]
    hidden: dict[str, Ints]
    hosts: dict[str, Ints]
    told: Told = field(factory=Told)

    @classmethod
    def take(
        cls,
        found: Collectives,
        work: RankWork,
        progress: RankProgress,
        staged: StageRanges,
        stages: Stages,
        host: HostInCalls,
        nccl: NcclRanges,
        told: Told,
    ) -> Self:
        """Of a report."""
        columns = dict(found.columns)
        columns["communicator"], columns["bytes"] = nccl.said_of(columns.pop("nccl_call"), columns["launched"])
        stage_range, step_range = columns.pop("stage_range"), columns.pop("step_range")
        number = {operation: code for code, operation in enumerate(_OPERATIONS)}
        operation = np.array([number[one] for one in operations_of(found.names)], np.int64)
        instance = np.append(staged.instance_of_range, NULL)[stage_range]
        step = np.append(staged.step_number, NULL)[staged.step_row[step_range]]
        columns |= {
            "operation": operation[columns["name"]],
            "stage": staged.code_of(stage_range),
            "instance": instance,
            "step": step,
            "stage_row": staged.row[stage_range],
            "step_row": staged.step_row[step_range],
        }
        for edge, word in (("start", "before"), ("end", "until")):
            done = progress.at(columns["process"], columns["device"], columns[edge])
            columns |= {f"computed_{word}": done[0], f"copied_{word}": done[1]}
        order = _sequence(columns, found.names)
        columns = {name: values[order] for name, values in columns.items()}
        hosts = {
            "stage": stages.code,
            "process": process_of(stages.thread),
            "request": stages.request,
            "steady": stages.steady.astype(np.int64),
            "wall_ns": stages.wall,
            "host_ns": stages.end - stages.start,
            "calls_ns": host.in_calls,
        }
        return cls(staged.names, found.names, columns, dict(work.columns), dict(work.hidden), hosts, told)


def _sequence(columns: dict[str, Ints], names: Words) -> Ints:
    """The rows by process and device in the order of launch; those of a stream never otherwise than they ran."""
    by_name = np.empty(len(names), np.int64)
    by_name[np.argsort(np.array(names, object))] = np.arange(len(names))
    name = by_name[columns["name"]]
    place = (columns["device"], columns["process"])
    order = np.lexsort((name, columns["end"], columns["start"], columns["stream"], *place))
    begun = np.where(columns["launched"] == NULL, columns["start"], columns["launched"])
    streams = group_rows(columns["process"], columns["device"], columns["stream"])[1]
    for _, rows in at.each(streams[order]):
        of_stream = order[rows]
        begun[of_stream] = np.minimum.accumulate(begun[of_stream][::-1])[::-1]
    return np.lexsort((name, columns["stream"], columns["end"], columns["start"], begun, *place))


class Clock(NamedTuple):
    """How times of a report become those of the common clock: `shift_ns` later, and `drift` for each ns since `at`.

    `by_ends`: as told by the ends of its collectives, and not by when its capture began.
    """

    shift_ns: int = 0
    drift: float = 0.0
    at: int = 0
    by_ends: bool = False

    def shift(self, times: Ints) -> Ints:
        """What is added to each of some times of the report, in ns."""
        shift: Ints = self.shift_ns + np.rint(self.drift * (times - self.at)).astype(np.int64)
        return shift


class Rank(NamedTuple):
    """A process and a device of a report, and what is known of it as one of several ranks.

    `number`: the rank, NULL where it is not known, and `number_from` a place in `RANK_FROM`, -1 for none. `group`:
    those that it makes its collectives with, most of them where it has several groups, -1 for none; `matched`: how many
    of its `collectives` have their match, from the `first` to before the `last`.
    `clock`: how its times are put on the common clock.
    `like`: the place of the rank before it whose sequence has most in common with its own, -1 for none; `agree`: so
    many operations are the same on both before they part.
    """

    report: int
    process: int
    device: int
    number: int = NULL
    number_from: int = -1
    group: int = -1
    collectives: int = 0
    matched: int = 0
    first: int = 0
    last: int = 0
    clock: Clock = Clock()
    like: int = -1
    agree: int = 0


class Lane(NamedTuple):
    """The collectives of one `communicator` of a rank, or those of which it is not known (NULL).

    `place`: which rank it is; `told`: the same of its collectives alone as of all of a rank.
    """

    place: int
    communicator: int
    told: Rank


@frozen(eq=False)
class MatchedCollectives:
    """The collectives of all ranks of one report or of several, in the order of `ranks`, a row each.

    `columns`: those of `ReportCollectives`, times on the common clock (`own_start`, `own_end`: on the report's), and
    `rank` (place in `ranks`), `lane` (place in `lanes`, which are what is matched), `group` (-1 for none), `collective`
    (which of its group, from 0), `of` (how many ranks it has), `transfer`, `wait`, `after` (how long after the first of
    them it started), each NULL where there is no match, and `last` (place in `LAST`, -1 where there is none).
    `residual_ns`: of each group, how far apart the ends of one collective lie (95 %), NULL where nothing tells it.
    `compute`: as in `ReportCollectives`, with `rank`; `hidden`: the same; `hosts`: the same, with `report`. `reports`:
    what each report is called.
    """

    stages: Words
    names: Words
    columns: dict[str, Ints]
    ranks: tuple[Rank, ...]
    residual_ns: tuple[int, ...]
    compute: dict[str, Ints]
    hidden: dict[str, Ints]
    hosts: dict[str, Ints]
    reports: Words = ("",)
    lanes: tuple[Lane, ...] = ()

    @classmethod
    def take(cls, one: ReportCollectives) -> Self:
        """Of one report."""
        return cls.of([one])

    @classmethod
    def of(
        cls,
        reports: Sequence[ReportCollectives],
        began: Sequence[int] = (),
        numbers: Sequence[int] = (),
        files: Words = ("",),
    ) -> Self:
        """Of several reports.

        `began`: when the capture of each began, in ns of its host's clock, NULL where that is not known; `numbers`: the
        rank that each report's file is named after, NULL for none; `files`: what each is called.
        """
        joined = _joined(reports, list(began) or [NULL] * len(reports))
        lanes, rows_of = _lanes(joined)
        found = _Groups(joined.columns, lanes, rows_of, len(reports) == 1 or NULL not in began)
        ranks = _numbered(_of_lanes(joined.ranks, found.lanes), reports, numbers)
        lane, residual = np.zeros(len(joined.rank), np.int64), []
        for number, rows in enumerate(rows_of):
            lane[rows] = number
        group = np.array([one.told.group for one in found.lanes], np.int64)[lane]
        columns = joined.columns | {"rank": joined.rank, "lane": lane, "group": group}
        columns |= {f"own_{edge}": columns[edge].copy() for edge in ("start", "end")}
        columns |= {name: np.full(len(joined.rank), NULL) for name in ("collective", "of", "transfer", "wait", "after")}
        columns["last"] = np.full(len(joined.rank), -1)
        for rank, own in zip(ranks, joined.rows, strict=True):
            _onto(rank.clock, columns, own)
        for members, matches in zip(found.groups, found.matches, strict=True):
            rows = np.stack([rows_of[member][own] for member, own in zip(members, matches, strict=True)])
            residual.append(_of_group(columns, rows))
        hidden, hosts = _beside(reports, joined.stages, ranks)
        return cls(
            joined.stages, joined.names, columns, ranks, tuple(residual), joined.compute, hidden, hosts, files,
            tuple(found.lanes),
        )  # fmt: skip

    @property
    def host_row(self) -> Ints:
        """The row of `hosts` that each collective's stage is, -1 for none."""
        report = np.array([one.report for one in self.ranks], np.int64)[self.columns["rank"]]
        first = np.searchsorted(self.hosts["report"], np.arange(len(self.reports)))
        row = self.columns["stage_row"]
        return np.where(row >= 0, first[report] + row, -1)

    def of_groups(self) -> Iterator[Ints]:
        """The rows of the matches of each group, in order; shape (ranks, matches)."""
        group, collective = self.columns["group"], self.columns["collective"]
        for number, rows in at.each(np.where(collective == NULL, -1, group)):
            if number >= 0:
                order = rows[np.lexsort((collective[rows], self.columns["rank"][rows]))]
                yield order.reshape(-1, int(collective[rows].max()) + 1)


def _onto(clock: Clock, columns: dict[str, Ints], rows: Ints) -> None:
    """Put the times of some rows on the common clock; durations stay what they are."""
    end, launched = columns["end"][rows], columns["launched"][rows]
    shift = clock.shift(end)
    columns["start"][rows] += shift
    columns["end"][rows] = end + shift
    columns["launched"][rows] = np.where(launched == NULL, NULL, launched + clock.shift(launched))


class _Joined(NamedTuple):
    """The rows of all reports behind each other, and the ranks that they are of."""

    stages: Words
    names: Words
    columns: dict[str, Ints]
    compute: dict[str, Ints]
    ranks: list[Rank]
    rank: Ints
    rows: list[Ints]


def _joined(reports: Sequence[ReportCollectives], began: Sequence[int]) -> _Joined:
    stages, names = reports[0].stages, reports[0].names
    for one in reports[1:]:
        stages, names = united(stages, one.stages, last=1)[0], united(names, one.names)[0]
    first = min((one for one in began if one != NULL), default=0)
    parts, computed = [], []
    for number, one in enumerate(reports):
        stage, name = united(stages, one.stages, last=1)[1][1], united(names, one.names)[1][1]
        shift = np.int64(0 if began[number] == NULL else began[number] - first)
        of = {"report": np.full(len(one.columns["name"]), number), "shift": np.full(len(one.columns["name"]), shift)}
        parts.append(one.columns | of | {"stage": stage[one.columns["stage"]], "name": name[one.columns["name"]]})
        of = {"report": np.full(len(one.compute["stage"]), number), "shift": np.full(len(one.compute["stage"]), shift)}
        computed.append(one.compute | of | {"stage": stage[one.compute["stage"]]})
    columns, compute = (
        {column: np.concatenate([part[column] for part in some]) for column in some[0]} for some in (parts, computed)
    )
    report, process, device = (np.concatenate([compute[key], columns[key]]) for key in ("report", "process", "device"))
    shifts = np.concatenate([compute.pop("shift"), columns.pop("shift")])
    heads, rank = group_rows(report, process, device)
    of_row = rank[len(compute["stage"]) :]
    compute["rank"] = rank[: len(compute["stage"])]
    rows = [np.flatnonzero(of_row == place) for place in range(len(heads))]
    keys = np.stack([report, process, device, shifts], axis=1)[heads].tolist()
    ranks = [
        Rank(of, process, device, collectives=len(own), clock=Clock(shift))
        for (of, process, device, shift), own in zip(keys, rows, strict=True)
    ]
    return _Joined(stages, names, columns, compute, ranks, of_row, rows)


def _beside(
    reports: Sequence[ReportCollectives], stages: Words, ranks: Sequence[Rank]
) -> tuple[dict[str, Ints], dict[str, Ints]]:
    """What else ran beside collectives, and the stages on the hosts, of all reports behind each other."""
    place = {(rank.report, rank.process, rank.device): number for number, rank in enumerate(ranks)}
    hidden, hosts = [], []
    for number, one in enumerate(reports):
        code = united(stages, one.stages, last=1)[1][1]
        pairs = zip(one.hidden["process"].tolist(), one.hidden["device"].tolist(), strict=True)
        rank = np.array([place[number, *pair] for pair in pairs], np.int64)
        times = {edge: one.hidden[edge] for edge in ("start", "end")}
        hidden.append({"stage": code[one.hidden["stage"]], "rank": rank, **times})
        report = np.full(len(one.hosts["stage"]), number)
        hosts.append(one.hosts | {"stage": code[one.hosts["stage"]], "report": report})
    found, told = ({name: np.concatenate([one[name] for one in some]) for name in some[0]} for some in (hidden, hosts))
    return found, told


def _lanes(joined: _Joined) -> tuple[list[Lane], list[Ints]]:
    """The lanes of all ranks and the rows of each; of a rank the longest first, as that tells its clock best.

    Where a rank knows none of its communicators, those that others know are of no use, and each rank is one lane.
    """
    lanes, rows_of = list[Lane](), list[Ints]()
    known = all((joined.columns["communicator"][rows] != NULL).any() for rows in joined.rows if len(rows))
    for place, (rank, rows) in enumerate(zip(joined.ranks, joined.rows, strict=True)):
        communicator = joined.columns["communicator"][rows] if known else np.full(len(rows), NULL)
        split = [(one, rows[own]) for one, own in at.each(communicator)] or [(NULL, rows)]
        for one, own in sorted(split, key=lambda lane: (-len(lane[1]), lane[0])):
            lanes.append(Lane(place, one, rank._replace(collectives=len(own))))
            rows_of.append(own)
    return lanes, rows_of


def _of_lanes(ranks: Sequence[Rank], lanes: Sequence[Lane]) -> list[Rank]:
    """The ranks with what is told by their lanes: the group and clock of the longest that tells one."""
    found = list(ranks)
    matched = [0] * len(ranks)
    for place, _, told in lanes:
        rank = found[place]
        if rank.group < 0 <= told.group:
            rank = rank._replace(group=told.group)
        if told.clock.by_ends and not rank.clock.by_ends:
            rank = rank._replace(clock=told.clock)
        matched[place] += told.matched
        found[place] = rank._replace(matched=matched[place])
    return found


class _Groups:
    """Lanes of ranks that are one communicator's: `groups` of places in `lanes`, two or more each.

    `matches`: of each group, for each of its lanes, which of its collectives have their match; shape (lanes, matches).
    """

    def __init__(self, columns: dict[str, Ints], lanes: list[Lane], rows_of: list[Ints], clocks: bool) -> None:
        self.lanes, self.groups, self.matches = list(lanes), list[list[int]](), list[Ints]()
        self._columns, self._rows, self._clocks = columns, rows_of, clocks
        self._operations = [columns["operation"][rows] for rows in rows_of]
        self._pairs = list[list[_Pair]]()
        self._ranks = list[set[int]]()  # of each group
        for place, rows in enumerate(rows_of):
            if len(rows):
                self._join(place)
        self._keep()

    def _join(self, place: int) -> None:
        """Put a lane into the first group that it belongs to, or into a new one."""
        like, most = -1, -1
        for members, pairs, ranks in zip(self.groups, self._pairs, self._ranks, strict=True):
            head = members[0]
            if self.lanes[place].place in ranks or not self._may_be_one(head, place):
                continue
            agree = _agreement(self._operations[head], self._operations[place])
            if agree > most:
                like, most = head, agree
            if pair := self._pair(head, place, agree):
                members.append(place)
                pairs.append(pair)
                ranks.add(self.lanes[place].place)
                break
        else:
            self.groups.append([place])
            self._pairs.append([])
            self._ranks.append({self.lanes[place].place})
        if like >= 0:
            self._tell(place, like=like, agree=most)

    def _tell(self, place: int, **told: Any) -> None:
        lane = self.lanes[place]
        self.lanes[place] = lane._replace(told=lane.told._replace(**told))

    def _may_be_one(self, head: int, place: int) -> bool:
        """Is it not known that two lanes are of different communicators?"""
        one, other = self.lanes[head].communicator, self.lanes[place].communicator
        return one == other or NULL in (one, other)

    def _pair(self, head: int, place: int, agree: int) -> _Pair | None:
        """What of the collectives of two lanes is one, None where they are of no group.

        Those of one communicator are one in their order where both have all of them, whatever their ends say.
        """
        one, other = self.lanes[head], self.lanes[place]
        same, known = one.told.report == other.told.report, one.communicator == other.communicator != NULL
        found = self._ending_together(head, place) if same or self._clocks else None
        if not same:
            found = self._on_another_clock(head, place, agree, found)
        if found is None and known and agree == len(self._rows[head]) == len(self._rows[place]):
            return _Pair(np.arange(agree), np.arange(agree))
        return found

    def _on_another_clock(self, head: int, place: int, agree: int, found: _Pair | None) -> _Pair | None:
        """The same of two reports: what is found, or what is once a clock is told by ends that is a better one."""
        before = list(self.lanes)
        pair = found or self._by_order(head, place, agree)
        if pair is None or not self._fit(head, place, pair):
            return found
        if better := self._ending_together(head, place):
            return better
        self.lanes = before
        return found

    def _by_order(self, head: int, place: int, agree: int) -> _Pair | None:
        """Two sequences of which one holds the beginning of the other, whatever their clocks; None for any others."""
        count, longest = agree, max(len(self._rows[head]), len(self._rows[place]))
        if count == longest and count >= LEAST_FOR_A_CLOCK:
            return _Pair(np.arange(count), np.arange(count))
        later = _found_in(self._ends(head), self._ends(place))
        if later is None:
            return None
        first, own = max(later, 0), max(-later, 0)
        count = _agreement(self._operations[head][first:], self._operations[place][own:])
        rows = np.arange(count)
        return _Pair(first + rows, own + rows) if count >= LEAST_FOR_A_CLOCK else None

    def _fit(self, head: int, place: int, pair: _Pair) -> bool:
        """Tell a rank's clock by the ends of collectives, where that is better than what is known of it."""
        telling = _telling(self._operations[head][pair.of_head])
        of_head, own = pair.of_head[telling], pair.own[telling]
        if len(own) < LEAST_FOR_A_CLOCK:
            return False
        rank, ends = self.lanes[place].told, self._ends(head)[of_head]
        raw = self._columns["end"][self._rows[place][own]]
        known = _spread(ends - raw - rank.clock.shift(raw))
        if self._clocks and known <= ONE_CLOCK_NS:
            return False
        steady = Clock(int(np.median(ends - raw)), by_ends=True)
        drifting = _line(raw, ends - raw)
        apart = [_spread(ends - raw - clock.shift(raw)) for clock in (steady, drifting)]
        clock, spread = (drifting, apart[1]) if 2 * apart[1] < apart[0] else (steady, apart[0])
        if self._clocks and 2 * spread >= known:
            return False
        for number, lane in enumerate(self.lanes):
            if number == place or (lane.place == self.lanes[place].place and not lane.told.clock.by_ends):
                self._tell(number, clock=clock)
        return True

    def _ends(self, place: int, which: slice = slice(None)) -> Ints:
        ends = self._columns["end"][self._rows[place][which]]
        return ends + self.lanes[place].told.clock.shift(ends)

    def _ending_together(self, head: int, place: int) -> _Pair | None:
        """The collectives of two lanes of which the end that lies nearest to that of one is that of the other.

        Stretch by stretch: in each, both ranks have all; between two, one of them has some that the other has not.
        """
        found, first, own = list[_Pair](), 0, 0
        for _ in range(len(self._rows[head]) // _AT_ONCE + _MOST_STRETCHES):
            stretch = self._stretch(head, first, place, own, 2 * _AT_ONCE) or self._stretch(head, first, place, own)
            if stretch is None:
                break
            found.append(_Pair(first + stretch.of_head, own + stretch.own))
            first, own = (int(rows[-1]) + 1 for rows in found[-1])
        return _Pair(*map(np.concatenate, zip(*found, strict=True))) if found else None

    def _stretch(self, head: int, first: int, place: int, own: int, most: int | None = None) -> _Pair | None:
        """The first stretch from two places in the sequences on, looked for in so many collectives of each."""
        here, there = (slice(since, None if most is None else since + most) for since in (first, own))
        operations, others = self._operations[head][here], self._operations[place][there]
        return _stretch(operations, self._ends(head, here), others, self._ends(place, there))

    def _keep(self) -> None:
        """Leave out those that are alone; of the others say what has its match on all of them."""
        kept = [place for place, members in enumerate(self.groups) if len(members) > 1]
        self.groups, all_pairs = [self.groups[place] for place in kept], [self._pairs[place] for place in kept]
        for number, (members, pairs) in enumerate(zip(self.groups, all_pairs, strict=True)):
            common = pairs[0].of_head
            for pair in pairs[1:]:
                common = common[np.isin(common, pair.of_head)]
            others = [pair.own[np.searchsorted(pair.of_head, common)] for pair in pairs]
            self.matches.append(np.stack([common, *others]))
            for place, own in zip(members, self.matches[-1], strict=True):
                first, last = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
                self._tell(place, group=number, matched=len(own), first=first, last=last)


class _Pair(NamedTuple):
    """Of two lanes the collectives that are one: places in the sequence of the first, and in that of the other."""

    of_head: Ints
    own: Ints


def _stretch(operations: Ints, ends: Ints, others: Ints, other_ends: Ints) -> _Pair | None:
    """The first stretch of two sequences, or tails of them, in which collectives end together; None for none."""
    if not len(ends) or not len(other_ends):
        return None
    later = _later(operations, ends, other_ends)
    first, own = max(later, 0), max(-later, 0)
    count = min(_agreement(operations[first:], others[own:]), _AT_ONCE)
    left = min(len(ends) - first, len(other_ends) - own)
    telling = _telling(operations[first : first + count])
    told = np.flatnonzero(telling)
    ends = ends[first : first + count]
    apart = np.abs(other_ends[own : own + count] - ends)
    right = (apart <= _nearest(ends, other_ends)[1]) & (apart <= TOGETHER_NS)
    if not right[told].any():
        return None
    wrong = told[np.searchsorted(told, told[right[told]][-1], "right") :]
    reach = int(wrong[0]) if len(wrong) else count
    told = told[told < reach]
    if reach < min(left, LEAST_FOR_A_CLOCK) or np.mean(right[told]) < TOGETHER_SHARE:
        return None
    # What tells no clock is right where those around it are.
    place, padded = np.arange(reach), np.concatenate([[True], right[told], [True]])
    before, after = padded[np.searchsorted(told, place, "right")], padded[np.searchsorted(told, place, "left") + 1]
    rows = np.flatnonzero(np.where(telling[:reach], right[:reach], before & after))
    return _Pair(first + rows, own + rows)


def _spread(apart: Ints) -> int:
    """How far from nothing most of some distances are, in ns."""
    return int(np.sort(np.abs(apart))[int(len(apart) * _RESIDUAL_SHARE)])


def _line(times: Ints, apart: Ints) -> Clock:
    """The line through the distances of ends at some times, by medians, so that a few that are wrong change nothing."""
    at, half = int(times[0]), len(times) // 2
    run, rise = (values[half:] - values[: len(values) - half] for values in (times, apart))
    drift = float(np.median(rise[run > 0] / run[run > 0])) if (run > 0).any() else 0.0
    return Clock(int(np.median(apart - np.rint(drift * (times - at)))), drift, at, True)


def _found_in(ends: Ints, others: Ints) -> int | None:
    """How many collectives the others begin after the first, told by the time from each end to the next; None: nothing.

    The beginning of one is looked for in the other, and must fit at one place far better than at any other.
    """
    found = [(_fits(ends, others), 1), (_fits(others, ends), -1)]
    told = [(apart, sign * place) for (apart, place), sign in found if place is not None]
    return min(told)[1] if told else None


def _fits(ends: Ints, others: Ints) -> tuple[int, int | None]:
    """Where in `ends` the beginning of others lies, and how far apart from one to the next they are there (median)."""
    gaps, sought = np.diff(ends)[:_SEARCHED], np.diff(others)[:_SOUGHT]
    if len(sought) < LEAST_FOR_A_CLOCK or len(gaps) < len(sought):
        return 0, None
    windows = np.lib.stride_tricks.sliding_window_view(gaps, len(sought))
    apart = np.concatenate(
        [np.median(np.abs(windows[at : at + 1024] - sought), axis=1) for at in range(0, len(windows), 1024)]
    )
    place = int(np.argmin(apart))
    others_apart = np.delete(apart, place)
    unlike = not len(others_apart) or float(others_apart.min()) > _FITS_BETTER * max(float(apart[place]), 1.0)
    return int(apart[place]), place if unlike and apart[place] <= TOGETHER_NS else None


def _later(operations: Ints, ends: Ints, other_ends: Ints) -> int:
    """How many collectives the other's sequence begins after the first, as those say that are the first to end near."""
    telling = np.flatnonzero(_telling(operations))
    nearest, apart = _nearest(ends[telling], other_ends)
    near = np.flatnonzero(apart <= TOGETHER_NS)[:LEAST_FOR_A_CLOCK]
    if not len(near):
        return 0
    later, times = np.unique(telling[near] - nearest[near], return_counts=True)
    return int(later[np.argmax(times)])


def _nearest(ends: Ints, others: Ints) -> tuple[Ints, Ints]:
    """Which of the others lies nearest to each end, and how far apart they are."""
    order = np.argsort(others, kind="stable")
    right = np.searchsorted(others[order], ends)
    around = order[np.stack([np.maximum(right - 1, 0), np.minimum(right, len(others) - 1)])]
    apart = np.abs(others[around] - ends)
    chosen, rows = np.argmin(apart, axis=0), np.arange(len(ends))
    return around[chosen, rows], apart[chosen, rows]


def _agreement(one: Ints, other: Ints) -> int:
    """How many operations two sequences have in common before they part."""
    shorter = min(len(one), len(other))
    differs = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differs[0]) if len(differs) else shorter


def _telling(operation: Ints) -> Bools:
    """Those that end together; where there are none, all."""
    chosen: Bools = TOGETHER[operation]
    return chosen if chosen.any() else np.ones(len(operation), np.bool_)


def _of_group(columns: dict[str, Ints], rows: Ints) -> int:
    """Fill in what is known of the matches of a group, by the rows of each of its ranks; how good its clock is."""
    start, end = columns["start"][rows], columns["end"][rows]
    duration = end - start
    together = TOGETHER[columns["operation"][rows[0]]]
    spread = np.sort((end.max(axis=0) - end.min(axis=0))[together])
    residual = int(spread[int(len(spread) * _RESIDUAL_SHARE)]) if len(spread) else NULL
    columns["collective"][rows] = np.arange(rows.shape[1])
    columns["of"][rows] = len(rows)
    columns["transfer"][rows] = transfer = duration.min(axis=0)
    columns["wait"][rows] = duration - transfer
    columns["after"][rows] = start - start.min(axis=0)
    if residual == NULL:
        columns["last"][rows] = INCONCLUSIVE
    else:
        late = start.max(axis=0) - start <= residual
        columns["last"][rows] = np.where(late, np.where(late.sum(axis=0) == 1, YES, INCONCLUSIVE), NO)
    return residual


def _numbered(ranks: Sequence[Rank], reports: Sequence[ReportCollectives], numbers: Sequence[int]) -> tuple[Rank, ...]:
    """The ranks with their numbers."""
    places = [Place(rank.report, rank.process, rank.device, rank.group) for rank in ranks]
    found = numbered(places, [one.told for one in reports], numbers)
    return tuple(
        rank._replace(number=number, number_from=source) for rank, (number, source) in zip(ranks, found, strict=True)
    )


def unmatched(matched: MatchedCollectives) -> list[str]:
    """A sentence for each rank some of whose collectives have no match: how many, and where its sequence parts.

    Of a rank with several communicators one for each of them.
    """
    return [
        _sentence(matched, number, lane.told)
        for number, lane in enumerate(matched.lanes)
        if lane.told.matched < lane.told.collectives and len(matched.ranks) > 1
    ]


def clocks(matched: MatchedCollectives, began: Sequence[int]) -> list[str]:
    """A sentence for each report after the first: what tells its clock, and how well; `began` as in `of`."""
    said = []
    for report in range(1, len(matched.reports)):
        ranks = [rank for rank in matched.ranks if rank.report == report]
        rank = next((one for one in ranks if one.clock.by_ends), ranks[0] if ranks else Rank(report, 0, 0))
        groups = {one.group for one in ranks} - {-1}
        abroad = {one.group for one in matched.ranks if one.report != report} & groups
        residual = max((matched.residual_ns[group] for group in abroad), default=NULL)
        said.append(f"{matched.reports[report]}: {_clock(rank.clock, began[report] != NULL, residual)}.")
    return said


def _clock(clock: Clock, began: bool, residual: int) -> str:
    if residual == NULL:
        known = "its clock is told by when its capture began" if began else "nothing tells its clock"
        return f"{known}, and no collective confirms it, so its times are compared with no other host's"
    told = "by when its capture began"
    if clock.by_ends:
        told = f"by the ends of collectives (it drifts by {clock.drift * 1e6:+.2f} us a second)"
    return f"its clock is told {told}; ends of one collective lie {residual / 1000:.1f} us apart (95 %)"


def _sentence(matched: MatchedCollectives, number: int, told: Rank) -> str:
    lanes = matched.lanes
    lost = told.collectives - told.matched
    said = f"{lost} of {told.collectives} collectives of {_called(matched, number)} have no match"
    if told.group >= 0:
        return f"{said}: {_rest(matched, number, told)}."
    like, agree = told.like, told.agree
    if like < 0:
        like = next((other for other, one in enumerate(lanes) if one.told.like == number), -1)
        agree = lanes[like].told.agree
    if like < 0:
        known = lanes[number].communicator != NULL
        return f"{said}: no other rank has any{' of that communicator' if known else ''}."
    own, other = (_operation(matched, each, agree) for each in (number, like))
    if own == other == "":
        return (
            f"{said}: their sequence is that of {_called(matched, like)}, but they do not end together. They are of "
            "another group, or their clocks differ."
        )
    return (
        f"{said}: their sequence parts from that of {_called(matched, like)} after {agree}: {_differing(own, other)}."
    )


def _rest(matched: MatchedCollectives, number: int, told: Rank) -> str:
    """Where the collectives without a match are, of a lane that has some with one."""
    between, after = told.last - told.first - told.matched, told.collectives - told.last
    reasons = [f"{told.first} before those of the others begin"] if told.first else []
    reasons += [f"{between} in between, that end with none of the others"] if between else []
    if after:
        own, why = _operation(matched, number, told.last), "they end with none of the others"
        for other, one in enumerate(matched.lanes):
            if one.told.group == told.group and (there := _operation(matched, other, one.told.last)) != own:
                why = f"their sequence parts from that of {_called(matched, other)}: {_differing(own, there)}"
                break
        reasons.append(f"{after} after the first {told.last}, where {why}")
    return "; ".join(reasons)


def _differing(own: str, other: str) -> str:
    return f"{own or 'no more'}, there {other or 'no more'}"


def _operation(matched: MatchedCollectives, lane: int, number: int) -> str:
    """What the collective of this number of a lane does; empty after the last."""
    of_lane = matched.columns["operation"][matched.columns["lane"] == lane]
    return _OPERATIONS[of_lane[number]] if number < len(of_lane) else ""


def _called(matched: MatchedCollectives, number: int) -> str:
    lane = matched.lanes[number]
    rank = lane.told
    several = sum(one.place == lane.place for one in matched.lanes) > 1
    within = f" in communicator {hexadecimal(lane.communicator)}" if several and lane.communicator != NULL else ""
    of = f" of {matched.reports[rank.report]}" if len(matched.reports) > 1 else ""
    return f"process {pid_of(rank.process)} on device {rank.device}{of}{within}"


def hexadecimal(communicator: int) -> str:
    """A communicator as NCCL's own log calls it.

    >>> hexadecimal(-2)
    '0xfffffffffffffffe'
    """
    return f"{communicator & (1 << 64) - 1:#x}"
