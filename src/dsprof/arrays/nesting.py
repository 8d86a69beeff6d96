"""Ranges within ranges: which one is around another, or around a point in time.

A *scope* is the small number of a thread (or process) within which ranges and points are compared. A range covers
``[start, end)``: it encloses the API calls that *start* in it.

::

    range A     |------------------------|
    range B          |--------|
    launches      x    x    x    x     x       innermost: A B B A A
    cuts        A    B         A         -     one searchsorted answers all launches
"""

from __future__ import annotations

import numpy as np

from dsprof.arrays import backend
from dsprof.arrays.rows import NULL, Ints, Keys, contiguous

#: Steps from range to range that are taken one by one, before the rest is looked up in a tree; a report as programs
#: write it needs fewer.
_STEPS = 16


def _outer_first(scope: Ints, start: Ints, end: Ints) -> Ints:
    """Order by scope, then start, the longer first, then by row: a container comes before its content."""
    return np.lexsort((-end, start, scope))


def _previous_container(scope: Ints, end: Ints) -> Ints:
    """Of ranges in outer-first order: the nearest one before each that ends no earlier; -1 where none does.

    Between a range and its candidate all ranges end earlier, so a candidate that is too short hands over
    to its own candidate; all hand over at once, and siblings halve their distance at every turn.
    """
    candidate = np.arange(-1, len(end) - 1)
    active = np.arange(len(end))
    for _ in range(_STEPS):
        of = candidate[active]
        strange = (of >= 0) & (scope[of] != scope[active])
        candidate[active[strange]] = -1
        active = active[(of >= 0) & ~strange & (end[of] < end[active])]
        candidate[active] = candidate[candidate[active]]
    candidate[active] = _last_reaching(end, candidate[active], end[active])
    return np.where((candidate >= 0) & (scope[candidate] == scope), candidate, -1) if len(end) else candidate


def _last_reaching(values: Ints, place: Ints, bound: Ints) -> Ints:
    """The last of the values, up to each place, that is as great as a bound or greater; -1 where none is.

    By a tree of the greatest of each two, four, eight … values: what is before a place is one of its nodes for each
    bit of it, and the first of these, from the place backwards, that is great enough is gone down.
    """
    found, entered, node = np.full(len(place), -1), np.full(len(place), -1), place + 1
    levels = [values]
    while len(place) and len(levels[-1]) > 1:
        levels[-1] = np.append(levels[-1], NULL) if len(levels[-1]) % 2 else levels[-1]
        levels.append(np.maximum(levels[-1][::2], levels[-1][1::2]))
    for level, greatest in enumerate(levels):
        here = np.flatnonzero((node & 1 == 1) & (entered < 0))
        here = here[greatest[node[here] - 1] >= bound[here]]
        entered[here], found[here] = level, node[here] - 1
        node >>= 1
    for level in range(len(levels) - 1, 0, -1):
        here = np.flatnonzero(entered >= level)
        right = 2 * found[here] + 1
        found[here] = right - (levels[level - 1][right] < bound[here])
    return found


def containers(scope: Ints, start: Ints, end: Ints) -> Ints:
    """The latest-starting range of the same scope that contains each range whole; -1 where none does.

    Ranges with the same start and end contain each other by row order, the earlier row outside.
    """
    order = _outer_first(scope, start, end)
    previous = _previous_container(scope[order], end[order])
    parent = np.full(len(start), -1, np.int64)
    parent[order] = np.where(previous >= 0, order[previous], -1)
    return parent


def content_ends(scope: Ints, end: Ints) -> Ints:
    """Of ranges in outer-first order (by scope, start, the longer first): the place behind what each of them holds.

    What it holds, itself and what `containers` puts inside, stands there without a gap, up to the first that ends
    later.
    """
    keys, count = Keys(int(scope.max(initial=0)) + 1, end), len(end)
    reach = keys.pack(scope, end)[::-1].copy()  # of a later scope, so that it ends later
    return count - 1 - _last_reaching(reach, np.arange(count - 2, -2, -1), reach[::-1] + 1)


def levels(parent: Ints) -> Ints:
    """Depth of each range below its root (0 for a root), from the parents."""
    level = (parent >= 0).astype(np.int64)
    ancestor = parent.copy()
    while (deeper := np.flatnonzero(ancestor >= 0)).size:
        above = ancestor[deeper]
        level[deeper] += level[above]
        ancestor[deeper] = ancestor[above]
    return level


def innermost(scope: Ints, start: Ints, end: Ints, at_scope: Ints, at: Ints) -> Ints:
    """The latest-starting range of scope `at_scope` that covers the time `at`; -1 where none does.

    Arguments: three columns of ranges, two columns of points; the ranges may overlap in any way. They are
    cut once into disjoint segments, and one binary search then answers every point.
    """
    if not len(start) or not len(at):
        return np.full(len(at), -1, np.int64)
    scopes = int(max(scope.max(), at_scope.max())) + 1
    keys = Keys(scopes, start, end, at)
    order = _outer_first(scope, start, end)
    cut_scope, cut_time = np.concatenate([scope, scope]), np.concatenate([start, end])
    cuts = keys.pack(cut_scope, cut_time)
    by_time = np.argsort(cuts, kind="stable")
    owner = _owners(scope[order], end[order], keys.pack(scope[order], start[order]), cuts, cut_scope, cut_time)
    if loops := backend.loops():
        owner = np.where(owner >= 0, order[owner], -1)[by_time]
        first = np.searchsorted(cut_scope[by_time], np.arange(scopes + 1))
        compiled: Ints = loops.owners(first, cut_time[by_time], owner, contiguous(at_scope), contiguous(at))
        return compiled
    segment = np.searchsorted(cuts[by_time], keys.pack(at_scope, at), side="right") - 1
    found = np.where(segment >= 0, owner[by_time[segment]], -1)
    return np.where(found >= 0, order[found], -1)


def _owners(scope: Ints, end: Ints, start_keys: Ints, cuts: Ints, cut_scope: Ints, cut_time: Ints) -> Ints:
    """Of ranges in outer-first order: the one that owns the segment behind each cut, -1 where none does."""
    parent = _previous_container(scope, end)
    owner = np.searchsorted(start_keys, cuts, side="right") - 1
    owner[(owner >= 0) & (scope[owner] != cut_scope)] = -1
    active = np.flatnonzero(owner >= 0)
    for _ in range(_STEPS):
        active = active[end[owner[active]] <= cut_time[active]]
        owner[active] = parent[owner[active]]
        active = active[owner[active] >= 0]
    # All that are left between a range and the next one around it ended earlier.
    owner[active] = _last_reaching(end, owner[active], cut_time[active] + 1)
    return np.where((owner >= 0) & (scope[owner] == cut_scope) & (end[owner] > cut_time), owner, -1)
