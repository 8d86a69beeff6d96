"""Windows of time, each with a slice of pieces: how much time each window has of which piece."""

from __future__ import annotations

import numpy as np

from dsprof.arrays import backend
from dsprof.arrays.rows import Ints, batches, explode
from dsprof.arrays.slicing import slice_sum
from dsprof.arrays.statistics import Sums, sums

#: Pieces that are in so many windows, all together, are counted name by name.
_TIMES_EACH = 8


def spent_in_windows(
    low: Ints, high: Ints, begin: Ints, finish: Ints, start: Ints, end: Ints, name: Ints, names: int
) -> tuple[Ints, Ints, Ints, Ints]:
    """Windows from `begin` to `finish`, each with the pieces from `low` to before `high`: how many are of which name.

    Returns four columns: the window, the name, the number of its pieces of that name, and their time in the window.
    """
    if int((high - low).sum()) > _TIMES_EACH * (len(low) + len(start)) and len(low) * names < int((high - low).sum()):
        return _spent_by_name(low, high, begin, finish, start, end, name, names)
    if loops := backend.loops():
        found: tuple[Ints, Ints, Ints, Ints] = loops.spent_in_windows(low, high, begin, finish, start, end, name, names)
        return found
    parts = [Sums(low[:0], low[:0], low[:0])]
    for some in batches(np.arange(len(low)), high - low):
        owner, piece = explode(low[some], high[some])
        owner = some[owner]
        spent = np.minimum(end[piece], finish[owner]) - np.maximum(start[piece], begin[owner])
        inside = np.flatnonzero(spent > 0)
        key = owner[inside] * names + name[piece[inside]]
        parts.append(sums(key, np.ones(len(key), np.int64), spent[inside]))
    group, count, total = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return (*np.divmod(group, max(names, 1)), count, total)


def _spent_by_name(
    low: Ints, high: Ints, begin: Ints, finish: Ints, start: Ints, end: Ints, name: Ints, names: int
) -> tuple[Ints, Ints, Ints, Ints]:
    """The same name by name, for windows that nest so that a piece is in many."""
    filled = np.flatnonzero(high > low)
    low, high, begin, finish = low[filled], high[filled], begin[filled], finish[filled]
    before, behind = np.maximum(begin - start[low], 0), np.maximum(end[high - 1] - finish, 0)
    found = [(filled[:0],) * 4]
    for one in range(names):
        mine = np.flatnonzero((name == one) & (start < end))
        first, last = np.searchsorted(mine, low), np.searchsorted(mine, high)
        total = slice_sum((end - start)[mine], first, last)
        total -= before * (name[low] == one) + behind * (name[high - 1] == one)
        rows = np.flatnonzero(total > 0)
        found.append((filled[rows], np.full(len(rows), one), (last - first)[rows], total[rows]))
    window, slot, count, spent = (np.concatenate(columns) for columns in zip(*found, strict=True))
    order = np.lexsort((slot, window))
    return window[order], slot[order], count[order], spent[order]
