"""Loops that numba compiles, each with the meaning of the array code that has its name: see `dsprof.arrays.backend`.

Arguments are contiguous int64 arrays unless it says otherwise. Loops go over rows in an order of time where the array
code has to sort by group first, and remember in small tables what it has to sort to find.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Ints = npt.NDArray[np.int64]

NULL = np.iinfo(np.int64).min
#: Places of a table to begin with, a power of two.
_FEW = 1 << 12
#: Spreads keys over a table (2**64 over the golden ratio, as an int64).
_SPREAD = np.int64(-7046029254386353131)


@njit(nogil=True, cache=True)
def union_length(order: Ints, group: Ints, start: Ints, end: Ints, groups: int) -> Ints:
    """Nanoseconds that the union of each group's intervals covers; `order`: the intervals by start."""
    total, reach = np.zeros(groups, np.int64), np.full(groups, NULL)
    for row in order:
        one = group[row]
        begin = max(start[row], reach[one])
        if end[row] > begin:
            total[one] += end[row] - begin
            reach[one] = end[row]
    return total


@njit(nogil=True, cache=True)
def owners(first: Ints, cut: Ints, owner: Ints, at_scope: Ints, at: Ints) -> Ints:
    """The owner of the segment around each point, -1 for none; those of a scope begin at ``first[scope]``.

    A segment reaches from its `cut` to the next. Of points of one scope each is looked for from the one before it on.
    """
    found, place = np.empty(len(at), np.int64), first[:-1] - 1
    for row in range(len(at)):
        scope, time = at_scope[row], at[row]
        if scope >= len(place):
            found[row] = -1
            continue
        low, high = first[scope] - 1, first[scope + 1]  # cut[low] <= time < cut[high]
        here, step = place[scope], 1
        if here < low + 1 or cut[here] <= time:
            low = here
            while here + step < high:
                if cut[here + step] > time:
                    high = here + step
                else:
                    low, step = here + step, 2 * step
        else:
            high = here
        while high - low > 1:
            middle = (low + high) >> 1
            if cut[middle] <= time:
                low = middle
            else:
                high = middle
        place[scope] = low
        found[row] = owner[low] if low >= first[scope] else -1
    return found


@njit(nogil=True, cache=True)
def by_number(numbers: Ints, most: int) -> Ints:
    """The rows whose number is from 0 to before `most`, in the order of their numbers, then in that of the rows."""
    place = np.zeros(most + 1, np.int64)
    for number in numbers:
        if number >= 0:
            place[number + 1] += 1
    for number in range(most):
        place[number + 1] += place[number]
    order = np.empty(place[most], np.int64)
    for row in range(len(numbers)):
        if numbers[row] >= 0:
            order[place[numbers[row]]] = row
            place[numbers[row]] += 1
    return order


@njit(nogil=True, cache=True)
def pair_rows(one: Ints, other: Ints) -> tuple[Ints, Ints]:
    """Numbers the distinct pairs by their first rows: those rows, and the number of every row.

    No rows where there are too many for a small table.
    """
    table, mask = np.full(2 * _FEW, np.int64(-1)), 2 * _FEW - 1
    heads, number, found, last = np.empty(_FEW, np.int64), np.empty(len(one), np.int64), 0, np.int64(0)
    for row in range(len(one)):
        head = heads[last]
        if not found or one[head] != one[row] or other[head] != other[row]:
            mixed = (one[row] * _SPREAD) ^ other[row]
            slot = (((mixed ^ (mixed >> 32)) * _SPREAD) >> 32) & mask
            while table[slot] >= 0:
                head = heads[table[slot]]
                if one[head] == one[row] and other[head] == other[row]:
                    break
                slot = (slot + 1) & mask
            if table[slot] < 0:
                if found == _FEW:
                    return heads[:0].copy(), number[:0].copy()
                heads[found], table[slot] = row, found
                found += 1
            last = table[slot]
        number[row] = last
    return heads[:found].copy(), number


@njit(nogil=True, cache=True)
def settle(values: Ints) -> bool:
    """Sort values that are nearly in order, in place; False where they are not, and then they are left as they lie."""
    moves = 16 * len(values)
    for row in range(1, len(values)):
        value, place = values[row], row
        while place > 0 and values[place - 1] > value:
            values[place] = values[place - 1]
            place -= 1
        values[place] = value
        moves -= row - place
        if moves < 0:
            return False
    return True


@njit(nogil=True, cache=True)
def edges(
    owner: Ints, layer: Ints, start: Ints, end: Ints, wanted: int, base: int, code_bits: int
) -> tuple[Ints, Ints]:
    """The begins and the ends of the intervals of one owner, as `sweep` takes them; without those that are empty.

    `layer`: that of each interval, or one for all. Times are from `base` on.
    """
    opens, closes, count = np.empty(len(owner), np.int64), np.empty(len(owner), np.int64), 0
    for row in range(len(owner)):
        if owner[row] == wanted and start[row] < end[row]:
            code = layer[row if len(layer) > 1 else 0] << 1
            opens[count] = (start[row] - base) << code_bits | code
            closes[count] = (end[row] - base) << code_bits | code | 1
            count += 1
    return opens[:count].copy(), closes[:count].copy()


@njit(nogil=True, cache=True)
def sweep(
    events: Ints, first: Ints, code_bits: int, moments: Ints, layers: int, first_call: int, after_calls: int
) -> Ints:
    """Nanoseconds of each layer up to each of some moments, in their order, from the first of them on.

    `events`: streams, each sorted, that begin at `first` (and end at its next): ``time << code_bits | layer << 1 |
    closes``. An instant counts for the lowest layer that is open, for column `layers` where none is, and besides for
    the column behind that where a layer from `first_call` to before `after_calls` is open. Shape: ``(moments,
    layers + 2)``.
    """
    at, last = first[:-1].copy(), first[1:]
    result, spent = np.zeros((len(moments), layers + 2), np.int64), np.zeros(layers + 2, np.int64)
    count, lowest, calls, now = np.zeros(layers + 1, np.int64), layers, 0, moments[0]
    count[layers] = 1
    for number in range(len(moments)):
        until = moments[number]
        while True:
            stream, bound = -1, until << code_bits
            for one in range(len(at)):
                if at[one] < last[one] and events[at[one]] < bound:
                    stream, bound = one, events[at[one]]
            if stream < 0:
                break
            at[stream] += 1
            time, layer, closes = bound >> code_bits, (bound & ((1 << code_bits) - 1)) >> 1, bound & 1
            if time > now:
                spent[lowest] += time - now
                if calls > 0:
                    spent[layers + 1] += time - now
                now = time
            change = 1 - 2 * closes
            count[layer] += change
            if first_call <= layer < after_calls:
                calls += change
            if layer <= lowest:
                lowest = 0
                while count[lowest] <= 0:
                    lowest += 1
        spent[lowest] += until - now
        if calls > 0:
            spent[layers + 1] += until - now
        now = until
        result[number] = spent
    return result


@njit(nogil=True, cache=True)
def spent_in_windows(
    low: Ints, high: Ints, begin: Ints, finish: Ints, start: Ints, end: Ints, name: Ints, names: int
) -> tuple[Ints, Ints, Ints, Ints]:
    """Windows from `begin` to `finish`, each with the pieces from `low` to before `high`: how many are of which name.

    Returns four columns: the window, the name, the number of its pieces of that name, and their time in the window.
    """
    found, rows = np.empty((4, 1024), np.int64), 0
    count, total = np.zeros(names, np.int64), np.zeros(names, np.int64)
    for window in range(len(low)):
        for piece in range(low[window], high[window]):
            spent = min(end[piece], finish[window]) - max(start[piece], begin[window])
            if spent > 0:
                count[name[piece]] += 1
                total[name[piece]] += spent
        if rows + names > found.shape[1]:
            wider = np.empty((4, 2 * found.shape[1] + names), np.int64)
            wider[:, :rows] = found[:, :rows]
            found = wider
        for one in range(names):
            if count[one] > 0:
                found[0, rows], found[1, rows], found[2, rows], found[3, rows] = window, one, count[one], total[one]
                count[one], total[one] = 0, 0
                rows += 1
    return found[0, :rows].copy(), found[1, :rows].copy(), found[2, :rows].copy(), found[3, :rows].copy()
