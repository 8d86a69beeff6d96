"""What the ranges of a report say by themselves: nesting, stages, steps, requests; which one is around a point."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import count_by
from dsprof.families import OTHER, RULES, Rule, families_of
from dsprof.model_record import ModelRecord
from dsprof.patterns import first_found
from dsprof.stages import NO_STAGE, PREFILL, REQUEST, STAGES, STEP
from dsprof.trace import Trace, process_of

Threads = Literal["thread", "process"]
#: How a launch came by its stage, as the column `via` says it.
VIA = ("none", "thread", "process")


@frozen
class Rules:
    """Which ranges are stages and steps, and whether a stage reaches the other threads of its process.

    `stages` maps a stage to the regular expression that is searched for in a range's name (the domain is
    not part of it); where several fit, the first stage counts. `threads="process"` gives a launch whose
    own thread has no stage open the one that was open anywhere in its process. `families` are the rules that
    tell a kernel's family by its name, in order. `model`: which model ran, where that is known.
    """

    stages: dict[str, str] = field(factory=lambda: {name: f"^{re.escape(name)}$" for name in STAGES})
    step: str = f"^{re.escape(STEP)}$"
    threads: Threads = "thread"
    families: tuple[Rule, ...] = RULES
    model: ModelRecord | None = None


def numbered(among: Ints, values: Ints) -> Ints:
    """The place of each value in the sorted column `among`; its length for a value that is not there."""
    if not len(among):
        return np.zeros(len(values), np.int64)
    place = np.searchsorted(among, values)
    return np.where(among[np.minimum(place, len(among) - 1)] == values, place, len(among))


#: Begins and ends of other ranges that lie inside of the ranges of a name are looked at, up to so many in a report, or
#: so many for each range in it.
_MOST_INSIDE, _INSIDE_PER_RANGE = 1 << 21, 48
#: Ranges, by start, of which the last end is known, so that those of another time are passed over.
_BLOCK = 1 << 10


class Spans(NamedTuple):
    """Stretches of time that the ranges of a group cover together: those that overlap each other make one.

    ::

        ranges of one name   |---------|      |--------------|
                                 |--------|       |----|
        spans                |------------|   |--------------|

    `of_range`: the span of each range; `first`: a range of each span, of whose group and scope it is; `ranges`: how
    many it has.
    """

    of_range: Ints
    first: Ints
    start: Ints
    end: Ints
    ranges: Ints


class Places(NamedTuple):
    """On which threads, and in which processes, some points in time are: small numbers."""

    thread: Ints
    process: Ints


class Ranged:
    """The ranges of `trace` under `rules`: indexes of the ranges, each computed once, when asked for."""

    def __init__(self, trace: Trace, rules: Rules | None = None) -> None:
        self.trace = trace
        self.rules = rules or Rules()

    def prepare(self) -> None:
        """Compute every index now, for others to share."""
        for name, member in vars(Ranged).items():
            if isinstance(member, cached_property):
                getattr(self, name)

    @cached_property
    def threads(self) -> Ints:
        """Distinct ``globalTid`` of the ranges."""
        return at.distinct(self.trace.ranges.thread)

    @cached_property
    def _processes(self) -> Ints:
        return at.distinct(process_of(self.threads))

    @cached_property
    def range_thread(self) -> Ints:
        """Small number of each range's thread."""
        return np.searchsorted(self.threads, self.trace.ranges.thread)

    # -- ranges -----------------------------------------------------------------------------------------

    @cached_property
    def parent(self) -> Ints:
        """The enclosing range of the same thread, domain and style, -1 for none; shape (ranges,)."""
        ranges = self.trace.ranges
        lane = at.group_rows(self.range_thread, ranges.domain.astype(np.int64), ranges.style)[1]
        return at.containers(lane, ranges.start, ranges.end)

    @cached_property
    def groups(self) -> tuple[Ints, Ints]:
        """A first range of each (name, domain, style, thread), and the group of every range."""
        ranges = self.trace.ranges
        parts = (ranges.name, ranges.domain, ranges.style, self.range_thread)
        return at.group_rows(*(part.astype(np.int64) for part in parts))

    @cached_property
    def spans(self) -> Spans:
        """The spans of the groups; those of ranges that belong to their process are apart."""
        ranges = self.trace.ranges
        group = 2 * self.groups[1] + ranges.of_process
        keys = at.Keys(2 * len(self.groups[0]), ranges.start, ranges.end)
        begin, finish = (keys.pack(group, times) for times in (ranges.start, ranges.end))
        order = at.sorted_by(begin)
        reach = np.maximum.accumulate(finish[order])
        is_head = np.append(True, begin[order[1:]] >= reach[:-1])[: len(order)]
        heads, of_range = np.flatnonzero(is_head), np.empty(len(order), np.int64)
        of_range[order] = np.cumsum(is_head) - 1
        count = np.diff(np.append(heads, len(order)))
        last = np.maximum.reduceat(ranges.end[order], heads) if len(heads) else heads
        return Spans(of_range, order[heads], ranges.start[order[heads]], last, count)

    @cached_property
    def summed(self) -> Bools:
        """The groups whose kernels `range_kern_sum` adds up: all, unless they lie inside each other by the thousand.

        Then those go in that have the fewest begins and ends of others inside them, so as not to look at each range
        once for each one around it.
        """
        spans, group, count = self.spans, self.groups[1], len(self.groups[0])
        inside = np.zeros(count, np.int64)
        np.add.at(inside, group[spans.first], self._edges_inside())
        order = np.lexsort((self.groups[0], inside))
        most = max(_MOST_INSIDE, _INSIDE_PER_RANGE * len(spans.first))
        chosen = np.zeros(count, np.bool_)
        chosen[order[np.cumsum(inside[order]) <= most]] = True
        return chosen

    def _edges_inside(self) -> Ints:
        """How many spans begin or end inside of each: of its thread and its process; of a process's own, all of it."""
        spans, ranges = self.spans, self.trace.ranges
        shared, thread = ranges.of_process[spans.first], self.range_thread[spans.first]
        process = numbered(self._processes, process_of(ranges.thread[spans.first]))
        keys = at.Keys(len(self.threads) + 1, spans.start, spans.end)
        every, inside = np.ones(len(shared), np.bool_), np.zeros(len(shared), np.int64)
        for scope, within, edges in ((thread, ~shared, ~shared), (process, ~shared, shared), (process, shared, every)):
            times = (spans.start, spans.end)
            packed = np.sort(np.concatenate([keys.pack(scope[edges], time[edges]) for time in times]))
            begin, finish = (keys.pack(scope[within], time[within]) for time in times)
            inside[within] += np.searchsorted(packed, finish) - np.searchsorted(packed, begin)
        return inside

    @cached_property
    def level(self) -> Ints:
        """Depth below the outermost range of the same thread, domain and style."""
        return at.levels(self.parent)

    def place_of(self, thread: Ints) -> Places:
        """Small numbers of some threads and of their processes, for `enclosing`."""
        return Places(numbered(self.threads, thread), numbered(self._processes, process_of(thread)))

    def enclosing(self, candidates: Ints, places: Places, time: Ints, widen: bool = False) -> tuple[Ints, Ints]:
        """The latest-starting of the ranges `candidates` around each point, and how it was found.

        `places` (see `place_of`) and `time` say where the points are. Returns two columns of the points' shape:
        the range's row, -1 for none, and an index into `VIA`. `widen`: where the own thread has none, take
        one that was open anywhere in the process.
        """
        ranges = self.trace.ranges
        candidates = self._near(candidates, time)
        own, shared = candidates[~ranges.of_process[candidates]], candidates[ranges.of_process[candidates]]
        found = self._innermost(own, self.range_thread[own], places.thread, time)
        via = (found >= 0).astype(np.int64)
        for extra, only_empty in ((shared, False), (own, True)):
            if not len(extra) or (only_empty and not widen):
                continue
            of_range = numbered(self._processes, process_of(ranges.thread[extra]))
            other = self._innermost(extra, of_range, places.process, time)
            better = (other >= 0) & (found < 0)
            if not only_empty:
                better |= (other >= 0) & (found >= 0) & (self._nearness[other] > self._nearness[found])
            found, via = np.where(better, other, found), np.where(better, 2, via)
        return found, via

    def _near(self, candidates: Ints, time: Ints) -> Ints:
        """Those of the ranges that touch the time of the points: all others cannot be around one."""
        if not len(time):
            return candidates
        start, end = self.trace.ranges.start[candidates], self.trace.ranges.end[candidates]
        near: Ints = candidates[(start <= time.max()) & (end > time.min())]
        return near

    def touching(self, low: int, high: int) -> Ints:
        """The ranges that begin before `high` and end after `low`, by row; it looks at those of that time alone."""
        order, start, bounds, reach = self._by_start
        begun = int(np.searchsorted(start, high))
        some = np.flatnonzero(reach[: np.searchsorted(bounds, begun)] > low)
        rows = order[at.explode(bounds[some], np.minimum(bounds[some] + _BLOCK, begun))[1]]
        return np.sort(rows[self.trace.ranges.end[rows] > low])

    @cached_property
    def _by_start(self) -> tuple[Ints, Ints, Ints, Ints]:
        """The ranges by start, those starts, where each block of them begins, and the last end in each block."""
        ranges = self.trace.ranges
        order = np.argsort(ranges.start, kind="stable")
        bounds = np.arange(0, len(order), _BLOCK)
        reach = np.maximum.reduceat(ranges.end[order], bounds) if len(order) else bounds
        return order, ranges.start[order], bounds, reach

    @cached_property
    def _nearness(self) -> Ints:
        """Which of two ranges around a point is inside: later start, then shorter, then later row."""
        ranges = self.trace.ranges
        rank = np.empty(len(ranges), np.int64)
        rank[np.lexsort((-ranges.end, ranges.start))] = np.arange(len(ranges))
        return rank

    def _innermost(self, candidates: Ints, scope: Ints, at_scope: Ints, time: Ints) -> Ints:
        ranges = self.trace.ranges
        found = at.innermost(scope, ranges.start[candidates], ranges.end[candidates], at_scope, time)
        if not len(candidates):
            return found
        return np.where(found >= 0, candidates[found], -1)

    # -- kernel names -----------------------------------------------------------------------------------

    @cached_property
    def family_names(self) -> tuple[str, ...]:
        """The families that the rules know, each once, and ``other`` last."""
        return (*dict.fromkeys(rule.family for rule in self.rules.families if rule.family != OTHER), OTHER)

    @cached_property
    def _family_codes(self) -> Ints:
        """Index into `family_names` for each of the trace's names, -2 where nobody asked yet."""
        return np.full(len(self.trace.names), -2, np.int64)

    def families_of(self, names: npt.NDArray[np.integer[Any]]) -> Ints:
        """Index into `family_names` for each of a column of kernel names; the rules are asked once for a name."""
        number = {family: code for code, family in enumerate(self.family_names)}
        codes = self._family_codes
        new = np.flatnonzero((np.bincount(names, minlength=len(codes)) > 0) & (codes == -2))
        found = families_of([self.trace.names[name] for name in new.tolist()], self.rules.families)
        codes[new] = [number[family] for family in found]
        of_row: Ints = codes[names]
        return of_row

    # -- stages -----------------------------------------------------------------------------------------

    def matching(self, pattern: str) -> Bools:
        """True for the ranges in whose name `pattern` is found; shape (ranges,). Raises `PatternTooSlow`."""
        found: Bools = self._first_matching([pattern]) == 0
        return found

    def _first_matching(self, patterns: Sequence[str]) -> Ints:
        """For each range which of the patterns is found first, in their order, in its name; -1 for none."""
        used = at.distinct(self.trace.ranges.name.astype(np.int64))
        first = np.full(len(self.trace.names), -1, np.int64)
        first[used] = first_found(patterns, [self.trace.names[code] for code in used.tolist()])
        return first[self.trace.ranges.name]

    @cached_property
    def stage_names(self) -> tuple[str, ...]:
        """The stages in the rules' order, and `(no stage)` last: code ``-1`` counts from the end."""
        return (*self.rules.stages, NO_STAGE)

    @cached_property
    def stage_of_range(self) -> Ints:
        """Code of the stage that a range itself is, -1 for a range that is none; shape (ranges,)."""
        return self._first_matching(list(self.rules.stages.values()))

    @cached_property
    def stage_ranges(self) -> Ints:
        """The ranges that are stages, by start: the rows of `stage_trace`."""
        rows = np.flatnonzero(self.stage_of_range >= 0)
        return rows[np.argsort(self.trace.ranges.start[rows], kind="stable")]

    @cached_property
    def stage_row(self) -> Ints:
        """Where in `stage_ranges` each range stands, -1 for one that is none; and -1 more, for no range."""
        return self._row_in(self.stage_ranges)

    def _row_in(self, rows: Ints) -> Ints:
        place = np.full(len(self.trace.ranges) + 1, -1)
        place[rows] = np.arange(len(rows))
        return place

    def stage_code(self, stage_range: Ints) -> Ints:
        """Stage code of a column of stage ranges; `len(stage_names) - 1` for ``(no stage)``."""
        if not len(self.trace.ranges):
            return np.full(len(stage_range), len(self.stage_names) - 1, np.int64)
        return np.where(stage_range >= 0, self.stage_of_range[stage_range], len(self.stage_names) - 1)

    @cached_property
    def instance_of_range(self) -> Ints:
        """Ordinal of each stage range among those of its stage, from 0; -1 for the other ranges."""
        instance = np.full(len(self.trace.ranges), -1, np.int64)
        rows = self.stage_ranges
        for code in range(len(self.rules.stages)):
            same = rows[self.stage_of_range[rows] == code]
            instance[same] = np.arange(len(same))
        return instance

    # -- steps and requests -----------------------------------------------------------------------------

    @cached_property
    def step_ranges(self) -> Ints:
        """The ranges that are decode steps, by start."""
        rows = np.flatnonzero(self.matching(self.rules.step))
        return rows[np.argsort(self.trace.ranges.start[rows], kind="stable")]

    @cached_property
    def stage_of_step(self) -> Ints:
        """The stage range around each of `step_ranges`, -1 for none."""
        ranges = self.trace.ranges
        steps, widen = self.step_ranges, self.rules.threads == "process"
        return self.enclosing(self.stage_ranges, self.place_of(ranges.thread[steps]), ranges.start[steps], widen)[0]

    @cached_property
    def step_row(self) -> Ints:
        """Where in `step_ranges` each range stands, -1 for one that is none; and -1 more, for no range."""
        return self._row_in(self.step_ranges)

    @cached_property
    def stages_with_steps(self) -> Ints:
        """Those of `stage_ranges` that have steps."""
        return self.stage_ranges[np.isin(self.stage_ranges, self.stage_of_step)]

    @cached_property
    def step_number(self) -> Ints:
        """Each step's payload, else its ordinal within its stage (from 1); shape of `step_ranges`."""
        owner = self.stage_of_step
        order = np.argsort(owner, kind="stable")
        heads = np.flatnonzero(np.append(True, owner[order][1:] != owner[order][:-1])) if len(owner) else owner
        ordinal = np.empty(len(owner), np.int64)
        ordinal[order] = np.arange(len(owner)) - np.repeat(heads, np.diff(np.append(heads, len(owner)))) + 1
        payload = self.trace.ranges.number[self.step_ranges]
        return np.where(payload != NULL, payload, ordinal)

    @cached_property
    def request_ranges(self) -> Ints:
        """The ranges named ``request``, by start."""
        rows = np.flatnonzero(self.matching(f"^{re.escape(REQUEST)}$"))
        return rows[np.argsort(self.trace.ranges.start[rows], kind="stable")]

    @cached_property
    def request_of_stage(self) -> Ints:
        """Request number of each of `stage_ranges`: payload of the enclosing ``request``, else its ordinal; NULL."""
        ranges, rows = self.trace.ranges, self.stage_ranges
        requests = self.request_ranges
        number = np.full(len(ranges) + 1, NULL, np.int64)
        payload = ranges.number[requests]
        number[requests] = np.where(payload != NULL, payload, np.arange(len(requests)))
        return number[self.enclosing(requests, self.place_of(ranges.thread[rows]), ranges.start[rows], widen=True)[0]]

    @cached_property
    def prompt_of_stage(self) -> Ints:
        """Tokens of the prefill that each of `stage_ranges` follows: in its request, else on its thread; NULL."""
        rows, request = self.stage_ranges, self.request_of_stage
        thread, names = self.trace.ranges.thread[rows], self.stage_names[:-1]
        own = np.where(request != NULL, process_of(thread), thread)
        is_prefill = self.stage_of_range[rows] == (names.index(PREFILL) if PREFILL in names else -2)
        prompt, last = np.full(len(rows), NULL, np.int64), dict[tuple[int, int], int]()
        for row, key in enumerate(zip(own.tolist(), request.tolist(), strict=True)):
            if is_prefill[row]:
                last[key] = int(self.tokens[row])
            prompt[row] = last.get(key, NULL)
        return prompt

    @cached_property
    def tokens(self) -> Ints:
        """Tokens of each of `stage_ranges`: its decode steps where it has some, else its payload; NULL."""
        steps = count_by(self.stage_of_step[self.stage_of_step >= 0], len(self.trace.ranges))[self.stage_ranges]
        return np.where(steps > 0, steps, self.trace.ranges.number[self.stage_ranges])
