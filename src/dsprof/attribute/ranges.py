"""How the ranges of a report nest, and which one is around a point in time."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import NamedTuple

import numpy as np
from attrs import evolve

from dsprof import arrays as at
from dsprof.arrays import Bools, Ints
from dsprof.trace import Trace, process_of

#: How a launch came by its stage, as the column `via` says it.
VIA = ("none", "thread", "process")


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


#: Indexes of a tree that depend on when ranges end.
_BY_ENDS = {"parent", "spans", "summed", "level", "_by_start", "_nearness"}


class RangeTree:
    """The ranges of a report, which lie in each other; each index is made once, when it is asked for.

    `names` are those that all codes of the report stand for, `report` and `impossible` what it says of itself.
    """

    def __init__(self, trace: Trace) -> None:
        self.ranges, self.names = trace.ranges, trace.names
        self.report, self.impossible = trace.report, trace.impossible
        self.graph_launches = trace.graph_launches

    @cached_property
    def threads(self) -> Ints:
        """Distinct ``globalTid`` of the ranges."""
        return at.distinct(self.ranges.thread)

    @cached_property
    def processes(self) -> Ints:
        """Distinct ``globalPid`` of the ranges."""
        return at.distinct(process_of(self.threads))

    @cached_property
    def of_thread(self) -> Ints:
        """Small number of each range's thread."""
        return np.searchsorted(self.threads, self.ranges.thread)

    def lasting(self, end: Ints) -> RangeTree:
        """The same ranges with other ends; what does not depend on these is shared."""
        other = copy.copy(self)
        for name in _BY_ENDS & vars(other).keys():
            delattr(other, name)
        other.ranges = evolve(self.ranges, end=end)
        return other

    # -- ranges -----------------------------------------------------------------------------------------

    @cached_property
    def parent(self) -> Ints:
        """The enclosing range of the same thread, domain and style, -1 for none; shape (ranges,)."""
        ranges = self.ranges
        lane = at.group_rows(self.of_thread, ranges.domain.astype(np.int64), ranges.style)[1]
        return at.containers(lane, ranges.start, ranges.end)

    @cached_property
    def groups(self) -> tuple[Ints, Ints]:
        """A first range of each (name, domain, style, thread), and the group of every range."""
        ranges = self.ranges
        parts = (ranges.name, ranges.domain, ranges.style, self.of_thread)
        return at.group_rows(*(part.astype(np.int64) for part in parts))

    @cached_property
    def spans(self) -> Spans:
        """The spans of the groups; those of ranges that belong to their process are apart."""
        ranges = self.ranges
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
        spans, ranges = self.spans, self.ranges
        shared, thread = ranges.of_process[spans.first], self.of_thread[spans.first]
        process = numbered(self.processes, process_of(ranges.thread[spans.first]))
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
        return Places(numbered(self.threads, thread), numbered(self.processes, process_of(thread)))

    def enclosing(self, candidates: Ints, places: Places, time: Ints, widen: bool = False) -> tuple[Ints, Ints]:
        """The latest-starting of the ranges `candidates` around each point, and how it was found.

        `places` (see `place_of`) and `time` say where the points are. Returns two columns of the points' shape:
        the range's row, -1 for none, and an index into `VIA`. `widen`: where the own thread has none, take
        one that was open anywhere in the process.
        """
        ranges = self.ranges
        candidates = self._near(candidates, time)
        own, shared = candidates[~ranges.of_process[candidates]], candidates[ranges.of_process[candidates]]
        found = self._innermost(own, self.of_thread[own], places.thread, time)
        via = (found >= 0).astype(np.int64)
        for extra, only_empty in ((shared, False), (own, True)):
            if not len(extra) or (only_empty and not widen):
                continue
            of_range = numbered(self.processes, process_of(ranges.thread[extra]))
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
        start, end = self.ranges.start[candidates], self.ranges.end[candidates]
        near: Ints = candidates[(start <= time.max()) & (end > time.min())]
        return near

    def touching(self, low: int, high: int) -> Ints:
        """The ranges that begin before `high` and end after `low`, by row; it looks at those of that time alone."""
        order, start, bounds, reach = self._by_start
        begun = int(np.searchsorted(start, high))
        some = np.flatnonzero(reach[: np.searchsorted(bounds, begun)] > low)
        rows = order[at.explode(bounds[some], np.minimum(bounds[some] + _BLOCK, begun))[1]]
        return np.sort(rows[self.ranges.end[rows] > low])

    @cached_property
    def _by_start(self) -> tuple[Ints, Ints, Ints, Ints]:
        """The ranges by start, those starts, where each block of them begins, and the last end in each block."""
        ranges = self.ranges
        order = np.argsort(ranges.start, kind="stable")
        bounds = np.arange(0, len(order), _BLOCK)
        reach = np.maximum.reduceat(ranges.end[order], bounds) if len(order) else bounds
        return order, ranges.start[order], bounds, reach

    @cached_property
    def _nearness(self) -> Ints:
        """Which of two ranges around a point is inside: later start, then shorter, then later row."""
        ranges = self.ranges
        rank = np.empty(len(ranges), np.int64)
        rank[np.lexsort((-ranges.end, ranges.start))] = np.arange(len(ranges))
        return rank

    def _innermost(self, candidates: Ints, scope: Ints, at_scope: Ints, time: Ints) -> Ints:
        ranges = self.ranges
        found = at.innermost(scope, ranges.start[candidates], ranges.end[candidates], at_scope, time)
        if not len(candidates):
            return found
        return np.where(found >= 0, candidates[found], -1)


def prepare(indexes: object) -> None:
    """Make every index of an object now, so that threads share them."""
    for name, member in vars(type(indexes)).items():
        if isinstance(member, cached_property):
            getattr(indexes, name)
