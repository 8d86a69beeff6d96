"""What the host's threads were in while stages and steps went on: which CUDA API call, at each instant.

::

    runtime    |== cudaLaunchKernel ==|     python     |== cudaMalloc ==|
    driver        |- cuLaunchKernel -|
    counted    111222222222222222222211                 3333333333333333      the innermost call, each instant once
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from attrs import evolve

from dsprof import arrays as at
from dsprof.arrays import Bools, Ints
from dsprof.arrays.statistics import Sums, sums
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.records import frozen
from dsprof.rules.names import api_name


@frozen(eq=False)
class HostPieces:
    """Time in calls of the threads that have stages or steps, by thread and start.

    `name` is a place in `used`, the codes of the names that there are.
    """

    scope: Ints
    start: Ints
    end: Ints
    name: Ints
    used: Ints

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report; cut where a call is in a call, the pieces have the innermost one's name."""
        calls, tree, stages = launches.trace.calls, launches.tree, launches.stages
        wanted = np.zeros(len(tree.threads) + 1, np.bool_)
        wanted[tree.of_thread[np.append(stages.rows, stages.steps)]] = True
        scope = tree.place_of(calls.thread).thread
        by_start = at.in_order(calls.start)
        mine = by_start[at.by_number(np.where(wanted[scope], scope, -1)[by_start], len(wanted))]
        scope, start, end = scope[mine], calls.start[mine], calls.end[mine]
        used, name = at.used_codes(calls.name[mine], len(launches.trace.names))
        if not ((start[1:] < end[:-1]) & (scope[1:] == scope[:-1])).any():  # the usual case: no call in a call
            return cls(scope, launches.trace.clip(start), launches.trace.clip(end), name, used)
        keys = at.Keys(len(wanted), start, end)
        both, times = np.append(scope, scope), np.append(start, end)
        cuts = np.unique(keys.pack(both, times), return_index=True)[1]
        owner = at.innermost(scope, start, end, both[cuts], times[cuts])
        kept = np.flatnonzero(owner >= 0)  # where a thread's last call ends, none is open
        # Only now may they be cut at the part's ends: which call is inside another is told by when it began.
        begin, finish = (launches.trace.clip(times[cuts[place]]) for place in (kept, kept + 1))
        return cls(both[cuts[kept]], begin, finish, name[owner[kept]], used)


@frozen(eq=False)
class HostTimeOfSteps(Measure):
    """Time in each API call in each of `StageRanges.steps`; the group is ``row * len(names) + name``."""

    names: tuple[str, ...]
    spent: Sums

    @classmethod
    def take(cls, launches: Launches, pieces: HostPieces) -> Self:
        """Of a part of a report."""
        windows, names = windows_of(launches, launches.stages.steps, pieces), launches.trace.names
        row, slot, count, total = at.spent_in_windows(*windows, pieces.start, pieces.end, pieces.name, len(pieces.used))
        return cls(names, sums(row * len(names) + pieces.used[slot], count, total))

    def merge(self, other: Self) -> Self:
        """Both together; they are of one report."""
        return evolve(self, spent=both(self.spent, other.spent))


@frozen(eq=False)
class HostInCalls(Measure):
    """How long the thread of each of `StageRanges.rows` was in CUDA API calls while that went on, in ns."""

    in_calls: Ints

    @classmethod
    def take(cls, launches: Launches, pieces: HostPieces) -> Self:
        """Of a part of a report."""
        low, high, begin, finish = windows_of(launches, launches.stages.rows, pieces)
        running = np.append(0, np.cumsum(pieces.end - pieces.start))
        found, some = running[high] - running[low], np.flatnonzero(high > low)
        found[some] -= np.maximum(begin[some] - pieces.start[low[some]], 0)
        found[some] -= np.maximum(pieces.end[high[some] - 1] - finish[some], 0)
        return cls(found)

    def merge(self, other: Self) -> Self:
        """Both together; they are of one report."""
        return type(self)(self.in_calls + other.in_calls)


def call_names(names: tuple[str, ...], codes: Ints) -> tuple[Ints, tuple[str, ...]]:
    """What the API calls of some codes of `names` are called without their version: places, and these names."""
    used = at.distinct(codes)
    slots: dict[str, int] = {}
    slot = [slots.setdefault(api_name(names[code]), len(slots)) for code in used.tolist()]
    return np.array(slot, np.int64)[np.searchsorted(used, codes)], tuple(slots)


def both(one: Sums, other: Sums) -> Sums:
    """The sums of two parts together."""
    return sums(*map(np.concatenate, zip(one, other, strict=True)))


class HostWindows(NamedTuple):
    """Windows from `begin` to `finish`, each with the pieces of its thread from `low` to before `high`."""

    low: Ints
    high: Ints
    begin: Ints
    finish: Ints

    def of(self, chosen: Bools) -> HostWindows:
        """Some of the windows."""
        return HostWindows(*(column[chosen] for column in self))


def windows_of(launches: Launches, rows: Ints, pieces: HostPieces) -> HostWindows:
    """Some ranges, those of an engine's steps until the next one, each with the pieces that lie in it."""
    scope = launches.tree.of_thread[rows]
    ranges = launches.stages.lasting.ranges
    begin, finish = (launches.trace.clip(times[rows]) for times in (ranges.start, ranges.end))
    keys = at.Keys(len(launches.tree.threads) + 1, pieces.start, pieces.end, begin, finish)
    low = np.searchsorted(keys.pack(pieces.scope, pieces.end), keys.pack(scope, begin), side="right")
    high = np.searchsorted(keys.pack(pieces.scope, pieces.start), keys.pack(scope, finish), side="left")
    return HostWindows(low, np.maximum(high, low), begin, finish)


def spent_in_all(windows: HostWindows, pieces: HostPieces) -> tuple[Ints, Ints, Ints]:
    """Of all the windows together: the names of their pieces, how many, and their time; however the windows nest.

    A piece counts in as many windows as begin before it and end after it; those at either end are cut.
    """
    low, high, begin, finish = windows.of(windows.high > windows.low)
    size = len(pieces.start) + 1
    around = np.cumsum(np.bincount(low, minlength=size) - np.bincount(high, minlength=size))[:-1]
    count, total = np.zeros((2, len(pieces.used)), np.int64)
    np.add.at(count, pieces.name, around)
    np.add.at(total, pieces.name, around * (pieces.end - pieces.start))
    np.subtract.at(total, pieces.name[low], np.maximum(begin - pieces.start[low], 0))
    np.subtract.at(total, pieces.name[high - 1], np.maximum(pieces.end[high - 1] - finish, 0))
    slot = np.flatnonzero(total > 0)
    return slot, count[slot], total[slot]
