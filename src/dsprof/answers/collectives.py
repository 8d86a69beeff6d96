"""Which collectives of several ranks are one, and what each rank spent in them: transfer, and waiting for the others.

A rank is a process and a device of a report. The collectives of a communicator are the same sequence on each of its
ranks, so ranks whose sequences of operations agree may be one group; that they are is told by their ends, which lie at
one moment where a collective cannot end before all have begun::

    rank 0   |#### wait ####|= transfer =|        the shortest of a match is all transfer, and how much of the others is
    rank 1                  |= transfer =|        a proxy: no rank says when it had what it waited for
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from attrs import frozen

from dsprof import arrays as at
from dsprof.answers.stages import Stages
from dsprof.arrays import NULL, Bools, Ints, group_rows
from dsprof.attribute.stages import StageRanges
from dsprof.measures.by_name import Words, united
from dsprof.measures.collectives import Collectives
from dsprof.measures.host_time import HostInCalls
from dsprof.measures.rank_work import RankProgress, RankWork
from dsprof.rules.collectives import ENDS_TOGETHER, OPERATIONS, operations_of
from dsprof.trace import pid_of, process_of

#: The ends of one collective lie no further apart than this on clocks of one host.
TOGETHER_NS = 100_000
#: So many of the collectives that two ranks have in common must end together for the ranks to be of one group.
TOGETHER_SHARE = 0.9
#: Of fewer collectives in a row the ends tell no clock, and no match unless these are all that there are.
LEAST_FOR_A_CLOCK = 20
#: So many times one rank may lack what the other has; what comes behind that has no match.
_MOST_STRETCHES = 100
#: A stretch has so many collectives at most, so that what is looked at anew behind each is little.
_AT_ONCE = 1 << 14
#: The residual is the distance of ends that this share of the collectives stays below.
_RESIDUAL_SHARE = 0.95
#: Did a rank start a collective last? Places in `LAST`; -1 where there is no match.
LAST = ("no", "yes", "inconclusive")
NO, YES, INCONCLUSIVE = range(3)
#: What tells that a process is this rank, in order of trust.
RANK_FROM = ("device", "file name")
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
    ended (`computed_before`, `copied_before`, `computed_until`, `copied_until`, as `RankProgress` has them).
    `compute`, `hidden`: as in `RankWork`. `hosts`: a row for each of `StageRanges.rows`: `stage`, `process`, `request`
    (NULL: none), `steady`, `wall_ns`, `host_ns` (its time on the host), `calls_ns` (of that, in CUDA calls).
    """

    stages: Words
    names: Words
    columns: dict[str, Ints]
    compute: dict[str, Ints]
    hidden: dict[str, Ints]
    hosts: dict[str, Ints]

    @classmethod
    def take(
        cls,
        found: Collectives,
        work: RankWork,
        progress: RankProgress,
        staged: StageRanges,
        stages: Stages,
        host: HostInCalls,
    ) -> Self:
        """Of a report."""
        columns = dict(found.columns)
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
        return cls(staged.names, found.names, columns, dict(work.columns), dict(work.hidden), hosts)


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


class Rank(NamedTuple):
    """A process and a device of a report, and what is known of it as one of several ranks.

    `number`: the rank, NULL where it is not known, and `number_from` a place in `RANK_FROM`, -1 for none. `group`:
    those that it makes its collectives with, -1 for none; `matched`: how many of its `collectives` have their match,
    from the `first` to before the `last`.
    `shift_ns`: what its times are shifted by on the common clock, `by_ends`: as told by the ends of its collectives.
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
    shift_ns: int = 0
    by_ends: bool = False
    like: int = -1
    agree: int = 0


@frozen(eq=False)
class MatchedCollectives:
    """The collectives of all ranks of one report or of several, in the order of `ranks`, a row each.

    `columns`: those of `ReportCollectives`, times on the common clock, and `rank` (place in `ranks`), `collective`
    (which of its group, from 0), `of` (how many ranks it has), `transfer`, `wait`, `after` (how long after the first of
    them it started), each NULL where there is no match, and `last` (place in `LAST`, -1 where there is none).
    `residual_ns`: of each group, how far apart the ends of one collective lie (95 %), NULL where nothing tells it.
    `compute`: as in `ReportCollectives`, with `rank`; `hidden`: the same, on the common clock; `hosts`: the same, with
    `report`. `reports`: what each report is called.
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
        found = _Groups(joined, len(reports) == 1 or NULL not in began)
        ranks = _numbered(found.ranks, numbers)
        columns, residual = joined.columns | {"rank": joined.rank}, []
        columns |= {name: np.full(len(joined.rank), NULL) for name in ("collective", "of", "transfer", "wait", "after")}
        columns["last"] = np.full(len(joined.rank), -1)
        shift = np.array([rank.shift_ns for rank in ranks], np.int64)
        for name in ("start", "end", "launched"):
            columns[name] = np.where(columns[name] == NULL, NULL, columns[name] + shift[joined.rank])
        for members, matches in zip(found.groups, found.matches, strict=True):
            rows = np.stack([joined.rows[member][own] for member, own in zip(members, matches, strict=True)])
            residual.append(_of_group(columns, rows))
        hidden, hosts = _beside(reports, joined.stages, ranks)
        return cls(joined.stages, joined.names, columns, ranks, tuple(residual), joined.compute, hidden, hosts, files)

    @property
    def host_row(self) -> Ints:
        """The row of `hosts` that each collective's stage is, -1 for none."""
        report = np.array([one.report for one in self.ranks], np.int64)[self.columns["rank"]]
        first = np.searchsorted(self.hosts["report"], np.arange(len(self.reports)))
        row = self.columns["stage_row"]
        return np.where(row >= 0, first[report] + row, -1)

    def of_groups(self) -> Iterator[Ints]:
        """The rows of the matches of each group, in order; shape (ranks, matches)."""
        group = np.array([one.group for one in self.ranks], np.int64)[self.columns["rank"]]
        collective = self.columns["collective"]
        for number, rows in at.each(np.where(collective == NULL, -1, group)):
            if number >= 0:
                order = rows[np.lexsort((collective[rows], self.columns["rank"][rows]))]
                yield order.reshape(-1, int(collective[rows].max()) + 1)


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
    ranks = [
        Rank(int(report[head]), int(process[head]), int(device[head]), collectives=len(own), shift_ns=int(shifts[head]))
        for head, own in zip(heads.tolist(), rows, strict=True)
    ]
    return _Joined(stages, names, columns, compute, ranks, of_row, rows)


def _beside(
    reports: Sequence[ReportCollectives], stages: Words, ranks: Sequence[Rank]
) -> tuple[dict[str, Ints], dict[str, Ints]]:
    """What else ran beside collectives, and the stages on the hosts, of all reports behind each other."""
    place = {(rank.report, rank.process, rank.device): number for number, rank in enumerate(ranks)}
    shift = np.array([rank.shift_ns for rank in ranks], np.int64)
    hidden, hosts = [], []
    for number, one in enumerate(reports):
        code = united(stages, one.stages, last=1)[1][1]
        pairs = zip(one.hidden["process"].tolist(), one.hidden["device"].tolist(), strict=True)
        rank = np.array([place[number, *pair] for pair in pairs], np.int64)
        moved = {edge: one.hidden[edge] + shift[rank] for edge in ("start", "end")}
        hidden.append({"stage": code[one.hidden["stage"]], "rank": rank, **moved})
        report = np.full(len(one.hosts["stage"]), number)
        hosts.append(one.hosts | {"stage": code[one.hosts["stage"]], "report": report})
    found, told = ({name: np.concatenate([one[name] for one in some]) for name in some[0]} for some in (hidden, hosts))
    return found, told


class _Groups:
    """Ranks that make their collectives together: `groups` of places in `ranks`, two or more each.

    `matches`: of each group, for each of its ranks, which of its collectives have their match; shape (ranks, matches).
    """

    def __init__(self, joined: _Joined, clocks: bool) -> None:
        self.ranks, self.groups, self.matches = list(joined.ranks), list[list[int]](), list[Ints]()
        self._columns, self._rows, self._clocks = joined.columns, joined.rows, clocks
        self._operations = [joined.columns["operation"][rows] for rows in joined.rows]
        self._pairs = list[list[_Pair]]()
        for place, rows in enumerate(joined.rows):
            if len(rows):
                self._join(place)
        self._keep()

    def _join(self, place: int) -> None:
        """Put a rank into the first group that it belongs to, or into a new one."""
        like, most = -1, -1
        for members, pairs in zip(self.groups, self._pairs, strict=True):
            head = members[0]
            agree = _agreement(self._operations[head], self._operations[place])
            if agree > most:
                like, most = head, agree
            if pair := self._pair(head, place, agree):
                members.append(place)
                pairs.append(pair)
                break
        else:
            self.groups.append([place])
            self._pairs.append([])
        if like >= 0:
            self.ranks[place] = self.ranks[place]._replace(like=like, agree=most)

    def _pair(self, head: int, place: int, agree: int) -> _Pair | None:
        """What of the collectives of two ranks is one, None where they are of no group."""
        same = self.ranks[head].report == self.ranks[place].report
        if (same or self._clocks) and (found := self._ending_together(head, place)):
            return found
        whole = agree == len(self._rows[head]) == len(self._rows[place])
        if same or not whole or agree < LEAST_FOR_A_CLOCK:
            return None
        told, by_ends = self.ranks[place], int(np.median(self._ends(head) - self._ends(place)))
        self.ranks[place] = told._replace(shift_ns=told.shift_ns + by_ends, by_ends=True)
        if found := self._ending_together(head, place):
            return found
        self.ranks[place] = told
        return None

    def _ends(self, place: int, which: slice = slice(None)) -> Ints:
        return self._columns["end"][self._rows[place][which]] + self.ranks[place].shift_ns

    def _ending_together(self, head: int, place: int) -> _Pair | None:
        """The collectives of two ranks of which the end that lies nearest to that of one is that of the other.

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
                rank = self.ranks[place]
                self.ranks[place] = rank._replace(group=number, matched=len(own), first=first, last=last)


class _Pair(NamedTuple):
    """Of two ranks the collectives that are one: places in the sequence of the first, and in that of the other."""

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


def _numbered(ranks: Sequence[Rank], numbers: Sequence[int]) -> tuple[Rank, ...]:
    """The ranks with their numbers, by the first of `RANK_FROM` that tells those of a group apart."""
    found = list(ranks)
    for group in {rank.group for rank in ranks} - {-1}:
        places = [place for place, rank in enumerate(ranks) if rank.group == group]
        devices = [ranks[place].device for place in places]
        named = [numbers[ranks[place].report] if numbers else NULL for place in places]
        for source, said in enumerate((devices, named)):
            if len(set(said)) == len(said) and min(said) >= 0:
                for place, number in zip(places, said, strict=True):
                    found[place] = found[place]._replace(number=number, number_from=source)
                break
    return tuple(found)


def unmatched(matched: MatchedCollectives) -> list[str]:
    """A sentence for each rank some of whose collectives have no match: how many, and where its sequence parts."""
    return [
        _sentence(matched, place, rank)
        for place, rank in enumerate(matched.ranks)
        if rank.matched < rank.collectives and len(matched.ranks) > 1
    ]


def _sentence(matched: MatchedCollectives, place: int, rank: Rank) -> str:
    lost = rank.collectives - rank.matched
    said = f"{lost} of {rank.collectives} collectives of {_called(matched, place)} have no match"
    if rank.group >= 0:
        return f"{said}: {_rest(matched, place, rank)}."
    like, agree = rank.like, rank.agree
    if like < 0:
        like = next((other for other, one in enumerate(matched.ranks) if one.like == place), -1)
        agree = matched.ranks[like].agree
    if like < 0:
        return f"{said}: no other rank has any."
    own, other = (_operation(matched, each, agree) for each in (place, like))
    if own == other == "":
        return (
            f"{said}: their sequence is that of {_called(matched, like)}, but they do not end together. They are of "
            "another group, or their clocks differ."
        )
    return (
        f"{said}: their sequence parts from that of {_called(matched, like)} after {agree}: {_differing(own, other)}."
    )


def _rest(matched: MatchedCollectives, place: int, rank: Rank) -> str:
    """Where the collectives without a match are, of a rank that has some with one."""
    between, after = rank.last - rank.first - rank.matched, rank.collectives - rank.last
    reasons = [f"{rank.first} before those of the others begin"] if rank.first else []
    reasons += [f"{between} in between, that end with none of the others"] if between else []
    if after:
        own, why = _operation(matched, place, rank.last), "they end with none of the others"
        for other, one in enumerate(matched.ranks):
            if one.group == rank.group and (there := _operation(matched, other, one.last)) != own:
                why = f"their sequence parts from that of {_called(matched, other)}: {_differing(own, there)}"
                break
        reasons.append(f"{after} after the first {rank.last}, where {why}")
    return "; ".join(reasons)


def _differing(own: str, other: str) -> str:
    return f"{own or 'no more'}, there {other or 'no more'}"


def _operation(matched: MatchedCollectives, place: int, number: int) -> str:
    """What the collective of this number of a rank does; empty after the last."""
    of_rank = matched.columns["operation"][matched.columns["rank"] == place]
    return _OPERATIONS[of_rank[number]] if number < len(of_rank) else ""


def _called(matched: MatchedCollectives, place: int) -> str:
    rank = matched.ranks[place]
    of = f" of {matched.reports[rank.report]}" if len(matched.reports) > 1 else ""
    return f"process {pid_of(rank.process)} on device {rank.device}{of}"
