"""What the host's threads were in while stages and steps went on: which CUDA API call, at each instant.

::

    runtime    |== cudaLaunchKernel ==|     python     |== cudaMalloc ==|
    driver        |- cuLaunchKernel -|
    counted    111222222222222222222211                 3333333333333333      the innermost call, each instant once
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dsprof import attribution as at
from dsprof import fast
from dsprof.attributed import Attributed
from dsprof.attribution import Ints
from dsprof.measure import measure
from dsprof.names import api_name
from dsprof.stats import Distribution, Sums, add_distributions, distribution, sums


@measure(merge=add_distributions)
def calls_by_stage(a: Attributed) -> Distribution:
    """Durations of the API calls by stage and name; the group is ``stage * len(names) + name``."""
    calls, own = a.trace.calls, a.trace.own_calls
    stage = a.stage_code(a.stage_range_of_call[own])
    return distribution(stage * len(a.trace.names) + calls.name[own], (calls.end - calls.start)[own])


class HostTimes(NamedTuple):
    """Nanoseconds of each of `stage_ranges` and `step_ranges` in each call; groups are ``row * len(names) + name``."""

    stages: Sums
    steps: Sums


def _add(one: HostTimes, other: HostTimes) -> HostTimes:
    return HostTimes(*(sums(*map(np.concatenate, zip(*both, strict=True))) for both in zip(one, other, strict=True)))


@measure(merge=_add)
def host_times(a: Attributed) -> HostTimes:
    """What the threads of stages and steps were in while those went on."""
    kinds = (a.stage_ranges, a.step_ranges)
    threads = np.unique(np.concatenate([a.range_thread[rows] for rows in kinds]))
    pieces = {number: _pieces(a, int(a.threads[number])) for number in threads.tolist()}
    return HostTimes(*(_host(a, rows, pieces) for rows in kinds))


def call_names(a: Attributed, names: Ints) -> tuple[Ints, tuple[str, ...]]:
    """What some names of API calls are without their version: codes, and the names they stand for."""
    used = at.distinct(names)
    slots: dict[str, int] = {}
    slot = [slots.setdefault(api_name(a.trace.names[code]), len(slots)) for code in used.tolist()]
    return np.array(slot, np.int64)[np.searchsorted(used, names)], tuple(slots)


def _host(a: Attributed, rows: Ints, pieces: dict[int, _Pieces]) -> Sums:
    ranges, names = a.trace.ranges, len(a.trace.names)
    found = [Sums(rows[:0], rows[:0], rows[:0])]
    for number, (start, end, name, used) in pieces.items():
        mine = np.flatnonzero(a.range_thread[rows] == number)
        begin, finish = a.trace.clip(ranges.start[rows[mine]]), a.trace.clip(ranges.end[rows[mine]])
        low = np.searchsorted(end, begin, side="right")
        high = np.maximum(np.searchsorted(start, finish, side="left"), low)
        row, slot, count, total = _spent(low, high, begin, finish, start, end, name, len(used))
        found.append(Sums(mine[row] * names + used[slot], count, total))
    group, count, total = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.argsort(group, kind="stable")  # a row is of one thread, so each is there once
    return Sums(group[order], count[order], total[order])


def _spent(
    low: Ints, high: Ints, begin: Ints, finish: Ints, start: Ints, end: Ints, name: Ints, names: int
) -> tuple[Ints, Ints, Ints, Ints]:
    """Windows from `begin` to `finish`, each with the pieces from `low` to before `high`: how many are of which name.

    Returns four columns: the window, the name, the number of its pieces of that name, and their time in the window.
    """
    if loops := fast.loops():
        found: tuple[Ints, Ints, Ints, Ints] = loops.spent_in_windows(low, high, begin, finish, start, end, name, names)
        return found
    parts = [Sums(low[:0], low[:0], low[:0])]
    for some in at.batches(np.arange(len(low)), high - low):
        owner, piece = at.explode(low[some], high[some])
        owner = some[owner]
        spent = np.minimum(end[piece], finish[owner]) - np.maximum(start[piece], begin[owner])
        inside = np.flatnonzero(spent > 0)
        key = owner[inside] * names + name[piece[inside]]
        parts.append(sums(key, np.ones(len(key), np.int64), spent[inside]))
    group, count, total = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return (*np.divmod(group, max(names, 1)), count, total)


class _Pieces(NamedTuple):
    """A thread's time in calls, by start; `name` is a place in `used`, the names that there are."""

    start: Ints
    end: Ints
    name: Ints
    used: Ints


def _pieces(a: Attributed, thread: int) -> _Pieces:
    """The pieces of a thread; cut where a call is within a call, they have the name of the innermost."""
    calls = a.trace.calls
    mine = np.flatnonzero(calls.thread == thread)
    mine = mine[at.in_order(calls.start[mine])]
    start, end = calls.start[mine], calls.end[mine]
    used, name = at.used_codes(calls.name[mine], len(a.trace.names))
    if not (start[1:] < end[:-1]).any():  # the usual case: no call in a call
        return _Pieces(a.trace.clip(start), a.trace.clip(end), name, used)
    cuts = at.distinct_in_any_order(np.concatenate([start, end]))
    nothing = np.zeros(len(cuts) - 1, np.int64)
    owner = at.innermost(np.zeros(len(start), np.int64), start, end, nothing, cuts[:-1])
    kept = np.flatnonzero(owner >= 0)
    # Only now may they be cut at the part's ends: which call is inside another is told by when it began.
    return _Pieces(a.trace.clip(cuts[kept]), a.trace.clip(cuts[kept + 1]), name[owner[kept]], used)
