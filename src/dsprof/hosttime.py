"""What the host's threads were in while stages and steps went on: which CUDA API call, at each instant.

::

    runtime    |== cudaLaunchKernel ==|     python     |== cudaMalloc ==|
    driver        |- cuLaunchKernel -|
    counted    111222222222222222222211                 3333333333333333      the innermost call, each instant once
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import Bools, Ints
from dsprof.arrays.statistics import Distribution, Sums, add_distributions, distribution, sums
from dsprof.attributed import Attributed
from dsprof.measure import measure
from dsprof.names import api_name


@measure(merge=add_distributions)
def calls_by_stage(a: Attributed) -> Distribution:
    """Durations of the API calls by stage and name; the group is ``stage * len(names) + name``."""
    calls, own = a.trace.calls, a.trace.own_calls
    stage = a.stage_code(a.stage_range_of_call[own])
    return distribution(stage * len(a.trace.names) + calls.name[own], (calls.end - calls.start)[own])


class HostTimes(NamedTuple):
    """Nanoseconds in each call: in all ranges of a stage together, and in each of `step_ranges`.

    Groups are ``stage * len(names) + name``, and ``row * len(names) + name``.
    """

    stages: Sums
    steps: Sums


def _add(one: HostTimes, other: HostTimes) -> HostTimes:
    return HostTimes(*(sums(*map(np.concatenate, zip(*both, strict=True))) for both in zip(one, other, strict=True)))


@measure(merge=_add)
def host_times(a: Attributed) -> HostTimes:
    """What the threads of stages and steps were in while those went on."""
    pieces = _pieces(a, np.append(a.stage_ranges, a.step_ranges))
    stages, steps = (_windows(a, rows, pieces) for rows in (a.stage_ranges, a.step_ranges))
    names = len(a.trace.names)
    of_stages = [_spent_in_all(stages.of(a.stage_of_range[a.stage_ranges] == code), pieces)
                 for code in range(len(a.rules.stages))]  # fmt: skip
    groups = [code * names + pieces.used[slot] for code, (slot, _, _) in enumerate(of_stages)]
    columns = (np.concatenate([pieces.used[:0], *found]) for found in (groups, *list(zip(*of_stages, strict=True))[1:]))
    row, slot, count, total = at.spent_in_windows(*steps, pieces.start, pieces.end, pieces.name, len(pieces.used))
    return HostTimes(Sums(*columns), sums(row * names + pieces.used[slot], count, total))


def call_names(a: Attributed, names: Ints) -> tuple[Ints, tuple[str, ...]]:
    """What some names of API calls are without their version: codes, and the names they stand for."""
    used = at.distinct(names)
    slots: dict[str, int] = {}
    slot = [slots.setdefault(api_name(a.trace.names[code]), len(slots)) for code in used.tolist()]
    return np.array(slot, np.int64)[np.searchsorted(used, names)], tuple(slots)


class _Windows(NamedTuple):
    """Windows from `begin` to `finish`, each with the pieces of its thread from `low` to before `high`."""

    low: Ints
    high: Ints
    begin: Ints
    finish: Ints

    def of(self, chosen: Bools) -> _Windows:
        """Some of the windows."""
        return _Windows(*(column[chosen] for column in self))


def _windows(a: Attributed, rows: Ints, pieces: _Pieces) -> _Windows:
    """Some ranges, each with the pieces that lie in it."""
    scope = a.range_thread[rows]
    begin, finish = (a.trace.clip(times[rows]) for times in (a.trace.ranges.start, a.trace.ranges.end))
    keys = at.Keys(len(a.threads) + 1, pieces.start, pieces.end, begin, finish)
    low = np.searchsorted(keys.pack(pieces.scope, pieces.end), keys.pack(scope, begin), side="right")
    high = np.searchsorted(keys.pack(pieces.scope, pieces.start), keys.pack(scope, finish), side="left")
    return _Windows(low, np.maximum(high, low), begin, finish)


def _spent_in_all(windows: _Windows, pieces: _Pieces) -> tuple[Ints, Ints, Ints]:
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


class _Pieces(NamedTuple):
    """Threads' time in calls, by thread and start; `name` is a place in `used`, the names that there are."""

    scope: Ints
    start: Ints
    end: Ints
    name: Ints
    used: Ints


def _pieces(a: Attributed, rows: Ints) -> _Pieces:
    """The pieces of the threads of some ranges; cut where a call is in a call, they have the innermost one's name."""
    calls, wanted = a.trace.calls, np.zeros(len(a.threads) + 1, np.bool_)
    wanted[a.range_thread[rows]] = True
    scope = a.place_of(calls.thread).thread
    by_start = at.in_order(calls.start)
    mine = by_start[at.by_number(np.where(wanted[scope], scope, -1)[by_start], len(wanted))]
    scope, start, end = scope[mine], calls.start[mine], calls.end[mine]
    used, name = at.used_codes(calls.name[mine], len(a.trace.names))
    if not ((start[1:] < end[:-1]) & (scope[1:] == scope[:-1])).any():  # the usual case: no call in a call
        return _Pieces(scope, a.trace.clip(start), a.trace.clip(end), name, used)
    keys = at.Keys(len(wanted), start, end)
    both, times = np.append(scope, scope), np.append(start, end)
    cuts = np.unique(keys.pack(both, times), return_index=True)[1]
    owner = at.innermost(scope, start, end, both[cuts], times[cuts])
    kept = np.flatnonzero(owner >= 0)  # where a thread's last call ends, none is open
    # Only now may they be cut at the part's ends: which call is inside another is told by when it began.
    begin, finish = (a.trace.clip(times[cuts[place]]) for place in (kept, kept + 1))
    return _Pieces(both[cuts[kept]], begin, finish, name[owner[kept]], used)
