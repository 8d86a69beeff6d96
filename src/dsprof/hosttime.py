"""What the host's threads were in while stages and steps went on: which CUDA API call, at each instant.

::

    runtime    |== cudaLaunchKernel ==|     python     |== cudaMalloc ==|
    driver        |- cuLaunchKernel -|
    counted    111222222222222222222211                 3333333333333333      the innermost call, each instant once
"""

from __future__ import annotations

import numpy as np

from dsprof import attribution as at
from dsprof.attributed import Attributed
from dsprof.attribution import Ints
from dsprof.measure import measure
from dsprof.names import api_name
from dsprof.stats import Distribution, Sums, add_distributions, distribution, sums


def _add(one: Sums, other: Sums) -> Sums:
    return sums(*(np.concatenate(columns) for columns in zip(one, other, strict=True)))


@measure(merge=add_distributions)
def calls_by_stage(a: Attributed) -> Distribution:
    """Durations of the API calls by stage and name; the group is ``stage * len(names) + name``."""
    calls, own = a.trace.calls, a.trace.own_calls
    stage = a.stage_code(a.stage_range_of_call[own])
    return distribution(stage * len(a.trace.names) + calls.name[own], (calls.end - calls.start)[own])


@measure(merge=_add)
def host_of_stages(a: Attributed) -> Sums:
    """Nanoseconds of each of `stage_ranges` in each call; the group is ``row * len(names) + name``."""
    return _host(a, a.stage_ranges)


@measure(merge=_add)
def host_of_steps(a: Attributed) -> Sums:
    """Nanoseconds of each of `step_ranges` in each call; the group is ``row * len(names) + name``."""
    return _host(a, a.step_ranges)


def call_names(a: Attributed, names: Ints) -> tuple[Ints, tuple[str, ...]]:
    """What some names of API calls are without their version: codes, and the names they stand for."""
    used = at.distinct(names)
    slots: dict[str, int] = {}
    slot = [slots.setdefault(api_name(a.trace.names[code]), len(slots)) for code in used.tolist()]
    return np.array(slot, np.int64)[np.searchsorted(used, names)], tuple(slots)


def _host(a: Attributed, rows: Ints) -> Sums:
    ranges, names = a.trace.ranges, len(a.trace.names)
    found = [Sums(rows[:0], rows[:0], rows[:0])]
    for thread in np.unique(ranges.thread[rows]):
        start, end, name = _pieces(a, int(thread))
        used = at.distinct(name)
        name = np.searchsorted(used, name)
        mine = np.flatnonzero(ranges.thread[rows] == thread)
        begin, finish = a.trace.clip(ranges.start[rows[mine]]), a.trace.clip(ranges.end[rows[mine]])
        low = np.searchsorted(end, begin, side="right")
        high = np.maximum(np.searchsorted(start, finish, side="left"), low)
        for some in at.batches(np.arange(len(mine)), high - low):
            owner, piece = at.explode(low[some], high[some])
            owner = some[owner]
            spent = np.minimum(end[piece], finish[owner]) - np.maximum(start[piece], begin[owner])
            inside = np.flatnonzero(spent > 0)
            key = mine[owner[inside]] * len(used) + name[piece[inside]]
            group, count, total = sums(key, np.ones(len(key), np.int64), spent[inside])
            row, slot = np.divmod(group, max(len(used), 1))
            found.append(Sums(row * names + used[slot] if len(used) else group, count, total))
    return sums(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def _pieces(a: Attributed, thread: int) -> tuple[Ints, Ints, Ints]:
    """A thread's time in calls, by start, cut where a call is within a call: start, end, and the innermost's name."""
    calls = a.trace.calls
    mine = np.flatnonzero(calls.thread == thread)
    mine = mine[np.argsort(calls.start[mine], kind="stable")]
    start, end, name = calls.start[mine], calls.end[mine], calls.name[mine].astype(np.int64)
    if not (start[1:] < end[:-1]).any():  # the usual case: no call in a call
        return a.trace.clip(start), a.trace.clip(end), name
    cuts = at.distinct_in_any_order(np.concatenate([start, end]))
    nothing = np.zeros(len(cuts) - 1, np.int64)
    owner = at.innermost(np.zeros(len(start), np.int64), start, end, nothing, cuts[:-1])
    kept = np.flatnonzero(owner >= 0)
    # Only now may they be cut at the part's ends: which call is inside another is told by when it began.
    return a.trace.clip(cuts[kept]), a.trace.clip(cuts[kept + 1]), name[owner[kept]]
