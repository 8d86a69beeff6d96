"""Unions of intervals of time: how much they cover, what they are, and what two of them have in common."""

from __future__ import annotations

import numpy as np

from dsprof.arrays import backend
from dsprof.arrays.rows import NULL, Ints, Keys, contiguous, explode, in_order


def union_length(group: Ints, start: Ints, end: Ints, groups: int) -> Ints:
    """Nanoseconds that the union of each group's intervals covers; shape ``(groups,)``.

    ::

        |------|
            |------|      |---|      covered: 11 + 5
    """
    total = np.zeros(groups, np.int64)
    if not len(group):
        return total
    if loops := backend.loops():
        group, start, end = map(contiguous, (group, start, end))
        compiled: Ints = loops.union_length(in_order(start), group, start, end, groups)
        return compiled
    keys = Keys(groups, start, end)
    begin, reach = keys.pack(group, start), keys.pack(group, end)
    if (begin[1:] < begin[:-1]).any():
        order = np.argsort(begin, kind="stable")  # nearly in order as a rule, which this sort is fast at
        begin, reach, group, start, end = begin[order], reach[order], group[order], start[order], end[order]
    covered = np.maximum.accumulate(reach)
    if keys.are_ranks:  # times too wide to be packed: what is covered already is looked up in the times themselves
        holder = np.maximum.accumulate(np.where(np.append(True, covered[1:] > covered[:-1]), np.arange(len(end)), 0))
        before = np.append(start[0], end[holder[:-1]])
        fresh = end - np.where(np.append(NULL, covered[:-1]) >= begin, before, start)
    else:
        np.maximum(begin[1:], covered[:-1], out=begin[1:])
        fresh = reach - begin
    np.maximum(fresh, 0, out=fresh)
    heads = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
    total[group[heads]] = np.add.reduceat(fresh, heads)
    return total


def united(start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """The union of some intervals, as sorted disjoint intervals that do not touch.

    ::

        |------|        |--|
            |------|      |---|      ->   |----------|  |-----|
    """
    if not len(start):
        return start, end
    if (start[1:] < start[:-1]).any():
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
    reach = np.maximum.accumulate(end)
    heads = np.flatnonzero(np.append(True, start[1:] > reach[:-1]))
    return start[heads], reach[np.append(heads[1:], len(end)) - 1]


def common(one: tuple[Ints, Ints], other: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    """Where two sets of intervals are at once, each sorted and disjoint, as `united` gives them.

    ::

        |----------|  |-----|
            |-----------|        ->       |------|  |-|
    """
    low = np.searchsorted(other[1], one[0], side="right")
    high = np.searchsorted(other[0], one[1], side="left")
    owner, place = explode(low, np.maximum(low, high))
    start, end = np.maximum(one[0][owner], other[0][place]), np.minimum(one[1][owner], other[1][place])
    some = start < end
    return start[some], end[some]


def beside(one: tuple[Ints, Ints], other: tuple[Ints, Ints]) -> tuple[Ints, Ints]:
    """Where the first of two such sets of intervals is and the second is not."""
    return common(one, (np.append(NULL, other[1]), np.append(other[0], np.iinfo(np.int64).max)))
