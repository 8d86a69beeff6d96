"""Rows of int64 columns: distinct ones, groups, orders, and keys that sort like pairs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dsprof.arrays import backend

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
#: Stands for SQL's NULL in an int64 column.
NULL = np.iinfo(np.int64).min
#: Packed keys stay below this, far from where int64 would wrap.
KEY_LIMIT = 1 << 62
#: A look-up table may have this many slots for each key, and this many more whatever their number.
SLOTS_PER_KEY, SLOTS_FREE = 16, 1 << 20
#: How many values of a column are a sample of it.
_SAMPLES = 4096
#: How many (slice, position) pairs are looked at together.
AT_ONCE = 1 << 20
#: Distinct values that are few, as those of processes, threads and devices are.
FEW = 64


def distinct(values: Ints) -> Ints:
    """The sorted distinct values of a column with long runs or few values, without sorting the whole column."""
    if not len(values):
        return values[:0].copy()
    low, high = int(values.min()), int(values.max())
    if low == high:
        return values[:1].copy()
    if high - low < len(values):
        return np.flatnonzero(np.bincount(values - low)) + low
    heads = values[np.append(True, values[1:] != values[:-1])]
    found = distinct_in_any_order(heads[:: max(len(heads) // _SAMPLES, 1)])
    # A few values as a rule, and a sample has them all; what it lacks is looked for in turn.
    rest = heads[found[np.minimum(np.searchsorted(found, heads), len(found) - 1)] != heads]
    return distinct_in_any_order(np.concatenate([found, rest]))


def distinct_in_any_order(*columns: Ints) -> Ints:
    """The sorted distinct values of columns without long runs.

    Several times faster than `np.unique` and `np.union1d`, which moreover load all of `numpy.ma` to ask a question.
    """
    values = np.sort(np.concatenate(columns), kind="stable")
    found: Ints = values[np.append(True, values[1:] != values[:-1])[: len(values)]]
    return found


def group_rows(*columns: Ints) -> tuple[Ints, Ints]:
    """Numbers the distinct rows of some columns: the first row of each group, and the group of every row.

    Groups are in the order of their values, the first column leading.
    """
    if (loops := backend.loops()) and (found := _group_rows_compiled(loops, *columns)):
        return found
    key, size = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        values = distinct(column)
        if len(values) < 2:  # as with the process, as a rule
            continue
        if size * len(values) >= KEY_LIMIT:
            key = np.unique(key, return_inverse=True)[1].reshape(-1)
            size = len(key)
        key, size = key * len(values) + _place_among(values, column), size * len(values)
    if size > SLOTS_PER_KEY * len(key) + SLOTS_FREE:
        _, heads, group = np.unique(key, return_index=True, return_inverse=True)
        return heads, group.reshape(-1)
    first = np.full(size, -1, np.int64)
    first[key[::-1]] = np.arange(len(key) - 1, -1, -1)
    number = np.cumsum(first >= 0) - 1
    return first[first >= 0], number[key]


def _place_among(values: Ints, column: Ints) -> Ints:
    """The place of each element of a column among its distinct values: by a table where they are near each other."""
    low, span = int(values[0]), int(values[-1]) - int(values[0]) + 1
    if span > len(column):
        return np.searchsorted(values, column)
    table = np.empty(span, np.int64)
    table[values - low] = np.arange(len(values))
    return table[column - low]


def _group_rows_compiled(loops: Any, *columns: Ints) -> tuple[Ints, Ints] | None:
    """What `group_rows` gives, None where there are too many groups for a small table."""
    heads, number = np.zeros(1, np.int64), contiguous(columns[0])
    for column in columns[1:] or columns:
        heads, number = loops.pair_rows(number, contiguous(column))
        if not len(heads):
            return None
    order = np.lexsort([column[heads] for column in reversed(columns)])
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return heads[order], rank[number]


def used_codes(codes: npt.NDArray[np.integer[Any]], most: int) -> tuple[Ints, Ints]:
    """The codes from 0 to before `most` that a column has, sorted, and the place of each row's among them."""
    there = np.bincount(codes, minlength=most) > 0
    return np.flatnonzero(there), (np.cumsum(there) - 1).take(codes)


def contiguous(values: Ints) -> Ints:
    """The column as compiled loops take it."""
    return np.ascontiguousarray(values, np.int64)


def in_order(values: Ints) -> Ints:
    """The rows of a column by their values; quick where they are nearly in order already."""
    if len(values) and (values[1:] < values[:-1]).any():
        return np.argsort(values, kind="stable")
    return np.arange(len(values))


def by_number(numbers: Ints, most: int) -> Ints:
    """The rows whose number is from 0 to before `most`, in the order of their numbers, then in that of the rows."""
    if loops := backend.loops():
        compiled: Ints = loops.by_number(contiguous(numbers), most)
        return compiled
    order = np.argsort(numbers.astype(np.int16) if most < 1 << 15 else numbers, kind="stable")  # int16: a radix sort
    found: Ints = order[np.searchsorted(numbers[order], 0) :]
    return found


def each(values: Ints) -> Iterator[tuple[int, Ints]]:
    """Every distinct value of a column, and its rows in their order."""
    order = np.argsort(values, kind="stable")
    heads = np.flatnonzero(np.append(True, values[order[1:]] != values[order[:-1]])[: len(values)])
    ends = np.append(heads[1:], len(values))[: len(heads)]
    for value, first, last in zip(values[order[heads]].tolist(), heads, ends, strict=True):
        yield value, order[first:last]


def sorted_by(key: Ints, *breakers: Ints) -> Ints:
    """The order of rows by `key`, of those that tie by the first of `breakers` and so on, and then by row.

    As `np.lexsort`, but only the rows that tie are sorted by more than the key.
    """
    order = np.argsort(key, kind="stable")
    found = key.take(order)
    same = found[1:] == found[:-1]
    if same.any():
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        rows = order[tied]
        order[tied] = rows[np.lexsort((*(breaker[rows] for breaker in reversed(breakers)), found[tied]))]
    return order


class Keys:
    """Packs (scope, time) into one int64 that sorts like the pair, for all `times` it was made with."""

    def __init__(self, scopes: int, *times: Ints) -> None:
        filled = [column for column in times if len(column)]
        self._base = min((int(column.min()) for column in filled), default=0)
        self._span = max((int(column.max()) for column in filled), default=0) - self._base + 1
        self._ranks: Ints | None = None
        if (scopes + 1) * self._span >= KEY_LIMIT:
            self._ranks = distinct_in_any_order(np.concatenate(filled))
            self._span = len(self._ranks)

    @property
    def are_ranks(self) -> bool:
        """Do differences of keys of one scope say nothing of the time between them?"""
        return self._ranks is not None

    def pack(self, scope: Ints, time: Ints) -> Ints:
        """One key per (scope, time); `time` must be among the times that the keys were made with."""
        offset = time - self._base if self._ranks is None else np.searchsorted(self._ranks, time)
        return scope * self._span + offset


def explode(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Every (slice, position) pair, slice by slice: 0 0 0 1 1 …, and the positions within the order."""
    length = high - low
    owner = np.repeat(np.arange(len(low)), length)
    first = np.cumsum(length) - length
    return owner, np.arange(len(owner)) - np.repeat(first - low, length)


def batches(rows: Ints, sizes: Ints) -> Iterator[Ints]:
    """The rows in turn, so many that their sizes come to about `AT_ONCE`: what is large is not there at once."""
    reach = np.cumsum(sizes)
    bounds = np.searchsorted(reach, np.arange(AT_ONCE, int(reach[-1]) if len(reach) else 0, AT_ONCE)).tolist()
    for first, last in zip([0, *bounds], [*bounds, len(rows)], strict=True):
        if last > first:
            yield rows[first:last]
