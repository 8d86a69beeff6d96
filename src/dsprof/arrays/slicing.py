"""Slices of an order of operations: sums, extremes and busy time of each, however they overlap."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

import numpy as np

from dsprof.arrays.rows import (
    NULL,
    Ints,
    Keys,
    batches,
    distinct_in_any_order,
    explode,
)
from dsprof.arrays.unions import union_length

#: Slices that hold the values so often, all together, are reduced by a table.
_TIMES_EACH = 8
#: Slices in which operations overlap are united one by one, unless they hold the operations so often.
_TIMES_MIXED = 32


def slices(order_keys: Ints, start_keys: Ints, end_keys: Ints) -> tuple[Ints, Ints]:
    """The slice ``[low, high)`` of a sorted order of launches that each range covers."""
    low = np.searchsorted(order_keys, start_keys, side="left")
    high = np.searchsorted(order_keys, end_keys, side="left")
    return low, np.maximum(low, high)


def slice_sum(values: Ints, low: Ints, high: Ints) -> Ints:
    """Sum of the values in each slice."""
    running = np.append(np.int64(0), np.cumsum(values, dtype=np.int64))
    return running[high] - running[low]


def _slice_reduce(ufunc: np.ufunc, values: Ints, low: Ints, high: Ints) -> Ints:
    result = np.full(len(low), NULL, np.int64)
    filled = np.flatnonzero(high > low)
    if int((high - low)[filled].sum()) > _TIMES_EACH * (len(values) + len(filled)):
        result[filled] = _reduce_by_table(ufunc, values, low[filled], high[filled])
    elif len(filled):
        # In their order, so that what lies between two slices, which is reduced as well, is short.
        filled = filled[np.argsort(low[filled], kind="stable")]
        bounds = np.stack([low[filled], high[filled]], axis=1).ravel()
        result[filled] = ufunc.reduceat(np.append(values, values[-1]), bounds)[::2]
    return result


def _reduce_by_table(ufunc: np.ufunc, values: Ints, low: Ints, high: Ints) -> Ints:
    """The same for slices that overlap much, none of them empty: each is two runs of a power of two, that overlap."""
    result, power = np.empty(len(low), np.int64), np.frexp((high - low).astype(np.float64))[1] - 1
    for one in range(int(power.max()) + 1):
        if one:
            values = ufunc(values[: -(1 << one - 1)], values[1 << one - 1 :])
        rows = np.flatnonzero(power == one)
        result[rows] = ufunc(values[low[rows]], values[high[rows] - (1 << one)])
    return result


def slice_min(values: Ints, low: Ints, high: Ints) -> Ints:
    """Smallest value in each slice; NULL for an empty one."""
    return _slice_reduce(np.minimum, values, low, high)


def slice_max(values: Ints, low: Ints, high: Ints) -> Ints:
    """Greatest value in each slice; NULL for an empty one."""
    return _slice_reduce(np.maximum, values, low, high)


def slice_sum_above(values: Ints, weights: Ints, low: Ints, high: Ints, bound: Ints) -> Ints:
    """Sum of the weights of those values in each slice that are above a bound of its own.

    However the slices overlap, it takes a look at each value and slice for each bit of the values' ranks: values are
    parted by the highest bit and then by the next, and the slices go along (a wavelet matrix).
    """
    known = distinct_in_any_order(values)
    rank, least = np.searchsorted(known, values), np.searchsorted(known, bound, side="right")
    total = np.zeros(len(low), np.int64)
    for bit in reversed(range(len(known).bit_length())):
        is_one, wanted = rank >> bit & 1 == 1, least >> bit & 1 == 1
        zeros = np.append(0, np.cumsum(~is_one))
        order = np.concatenate([np.flatnonzero(~is_one), np.flatnonzero(is_one)])
        rank, weights = rank[order], weights[order]
        ones = [zeros[-1] + edge - zeros[edge] for edge in (low, high)]
        total += np.where(wanted, 0, slice_sum(weights, *ones))
        low, high = (np.where(wanted, one, zeros[edge]) for one, edge in zip(ones, (low, high), strict=True))
    return total + slice_sum(weights, low, high)


def busy_in_slices(scope: Ints, start: Ints, end: Ints, low: Ints, high: Ints) -> Ints:
    """Nanoseconds that the union of the operations of each slice covers.

    `scope`, `start`, `end`: the operations in launch order. Where they ran one after another, as on one
    stream, the union is the sum; only slices with an overlap inside are united interval by interval.
    """
    busy = slice_sum(end - start, low, high)
    if not len(start):
        return busy
    keys = Keys(int(scope.max()) + 1, start, end)
    reach = np.maximum.accumulate(keys.pack(scope, end))
    overlaps = np.append(False, keys.pack(scope, start)[1:] < reach[:-1]).astype(np.int64)
    mixed = np.flatnonzero(slice_sum(overlaps, low, high) > 0)
    if int((high - low)[mixed].sum()) > _TIMES_MIXED * (len(start) + len(mixed)):
        busy[mixed] = _busy_by_turns(scope, start, end, low[mixed], high[mixed])
        return busy
    for some in batches(mixed, high[mixed] - low[mixed]):
        owner, position = explode(low[some], high[some])
        busy[some] = union_length(owner, start[position], end[position], len(some))
    return busy


def _busy_by_turns(scope: Ints, start: Ints, end: Ints, low: Ints, high: Ints) -> Ints:
    """The same for slices that overlap much: each moment is of the last operation so far that covers it.

    Then what a slice covers is what its operations have at its end: what they took, less what they lost up to there.
    """
    turns = [np.array(columns, np.int64).reshape(3, -1) for columns in _turns(scope, start, end)]
    at, of, change = np.concatenate(turns, axis=1) if turns else np.zeros((3, 0), np.int64)
    until = np.searchsorted(at, high)
    return slice_sum_above(of, change, np.zeros(len(until), np.int64), until, low - 1)


def _turns(scope: Ints, start: Ints, end: Ints) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """When each operation, in turn, takes time, and from which others: at which one, whose time, and how much.

    By scope; `held` are the stretches of time that belong to an operation, in order: begin, end, operation.
    """
    edges = np.flatnonzero(np.append(True, scope[1:] != scope[:-1])).tolist()
    for first, last in zip(edges, [*edges[1:], len(scope)], strict=True):
        held: list[tuple[int, int, int]] = []
        turns: tuple[list[int], list[int], list[int]] = ([], [], [])
        times = zip(start[first:last].tolist(), end[first:last].tolist(), strict=True)
        for op, (begin, finish) in enumerate(times, first):
            if begin < finish:
                lost = _take(held, begin, finish, op)
                turns[0].extend([op] * (len(lost) + 1))
                turns[1].extend([owner for *_, owner in lost] + [op])
                turns[2].extend([max(begin, one) - min(finish, other) for one, other, _ in lost] + [finish - begin])
        yield turns


def _take(held: list[tuple[int, int, int]], begin: int, finish: int, op: int) -> list[tuple[int, int, int]]:
    """Give the time from `begin` to `finish` to an operation; the stretches that it takes all or a part of."""
    low = bisect_right(held, (begin, finish, op))
    low -= low > 0 and held[low - 1][1] > begin
    high = bisect_left(held, (finish,), low)
    lost = held[low:high]
    left = [(one, begin, owner) for one, _, owner in lost[:1] if one < begin]
    right = [(finish, other, owner) for _, other, owner in lost[-1:] if other > finish]
    held[low:high] = [*left, (begin, finish, op), *right]
    return lost
