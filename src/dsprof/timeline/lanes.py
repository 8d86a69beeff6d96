"""Which of several tracks of one name a slice is on, so that a track's slices follow each other, or nest.

A viewer can show nothing else on a track. Kernels of one stream overlap all the same: by some nanoseconds as their
clock ticks, or as the nodes of a graph, which run beside each other::

    lane 0   |----- a -----||-- c --|
    lane 1          |-- b --|              a tick too early for lane 0

Slices come by in pieces, each in order of their start, and lanes remember what they hold.
"""

from __future__ import annotations

import heapq

import numpy as np

from dsprof.arrays import NULL, Bools, Ints

#: A slice that is not nested in any of so many lanes gets one where nothing nests: to look through all takes too long.
_NESTING_LANES = 64


def begins_and_ends(start: Ints, end: Ints, track: Ints | None = None) -> tuple[Ints, Bools]:
    """The begins and ends of slices as a reader must come by them on each track: rows, and which of them are ends.

    By time; of one moment ends come first, inner ones before outer ones, then begins, outer ones first, each slice
    that lasts no time ending right after it began.
    """
    rows = len(start)
    of = () if track is None else (track,)
    place = np.empty(rows, np.int64)
    place[np.lexsort((-end, start, *of))] = np.arange(rows)
    empty = start == end
    time, is_end = np.concatenate([start, end]), np.arange(2 * rows) >= rows
    later = np.concatenate([np.ones(rows, np.bool_), empty])
    tie = np.concatenate([2 * place, np.where(empty, 2 * place + 1, -place)])
    order = np.lexsort((tie, later, time, *(np.concatenate([column, column]) for column in of)))
    return order % max(rows, 1), is_end[order]


def nests(start: Ints, end: Ints) -> bool:
    """Does each slice lie in one of the others whole, or beside it? Brackets that match say so."""
    row, is_end = begins_and_ends(start, end)
    level = np.cumsum(np.where(is_end, -1, 1)) + is_end
    if len(level) and level.min() < 1:
        return False
    order = np.argsort(level, kind="stable")
    opened, closed = row[order][::2], row[order][1::2]
    alternate = not is_end[order][::2].any() and bool(is_end[order][1::2].all())
    return alternate and bool((end[opened] == end[closed]).all())


class FlatLanes:
    """Lanes on which nothing overlaps; also where a piece begins before the one that came by before it."""

    def __init__(self) -> None:
        self._until: list[int] = []  # when the last slice of each lane ends
        self._busy: list[tuple[int, int]] = []  # the same of those that may not have ended, and which lane it is
        self._free: list[int] = []
        self._seen = NULL  # lanes are free from then on

    @property
    def count(self) -> int:
        """How many lanes there are."""
        return len(self._until)

    def place(self, start: Ints, end: Ints) -> Ints:
        """The lane of each of some slices in order of start."""
        lane = np.zeros(len(start), np.int64)
        if not len(start):
            return lane
        before = max(self._until, default=NULL)
        reach = np.maximum(np.maximum.accumulate(end), before)
        alone = start >= np.append(before, reach[:-1])
        alone &= np.append(alone[1:], True)  # what overlaps nothing is on the first lane
        for row in np.flatnonzero(~alone).tolist():
            lane[row] = self.next(int(start[row]), int(end[row]))
        if alone[-1]:
            self._put_on_the_first(int(start[-1]), int(end[-1]))
        return lane

    def _put_on_the_first(self, start: int, end: int) -> None:
        """A slice that begins after all others have ended."""
        self._until[:1] = [end]
        self._busy, self._free, self._seen = [(end, 0)], list(range(1, self.count)), start

    def next(self, start: int, end: int) -> int:
        """The lane of one slice: the first that is free."""
        if start < self._seen:
            self._busy, self._free = sorted((until, lane) for lane, until in enumerate(self._until)), []
        self._seen = start
        while self._busy and self._busy[0][0] <= start:
            heapq.heappush(self._free, heapq.heappop(self._busy)[1])
        if not self._free:
            self._free.append(self.count)
            self._until.append(end)
        lane = heapq.heappop(self._free)
        self._until[lane] = end
        heapq.heappush(self._busy, (end, lane))
        return lane


class NestedLanes:
    """Lanes on which slices may lie in each other."""

    def __init__(self) -> None:
        self._open: list[list[int]] = []  # of each lane when its open slices end, the outermost first
        self._flat = FlatLanes()

    @property
    def count(self) -> int:
        """How many lanes there are."""
        return len(self._open) + self._flat.count

    def place(self, start: Ints, end: Ints) -> Ints:
        """The lane of each of some slices in order of start, of one moment the longest first."""
        if not len(start):
            return np.zeros(0, np.int64)
        held = [until for until in (self._open[0] if self._open else []) if until > start[0]]
        around = np.array(held, np.int64)
        if len(self._open) <= 1 and nests(np.append(np.full(len(held), start[0] - 1), start), np.append(around, end)):
            reach = np.append(around, end)
            self._open = [np.sort(reach[reach > start[-1]])[::-1].tolist()]
            return np.zeros(len(start), np.int64)
        return np.array([self._next(*each) for each in zip(start.tolist(), end.tolist(), strict=True)], np.int64)

    def _next(self, start: int, end: int) -> int:
        for lane, stack in enumerate(self._open):
            while stack and stack[-1] <= start:
                stack.pop()
            if not stack or end <= stack[-1]:
                stack.append(end)
                return lane
        if len(self._open) < _NESTING_LANES:
            self._open.append([end])
            return len(self._open) - 1
        return _NESTING_LANES + self._flat.next(start, end)
