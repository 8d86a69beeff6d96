"""Which range does a launch belong to, and what did its operations do on the GPU? Pure array code.

Everything is an int64 array; time is nanoseconds; a *scope* is the small number of a thread (or process)
within which ranges and launches are compared. A range covers ``[start, end)``: it encloses the API calls
that *start* in it. No function loops over ranges, launches or operations in Python.

::

    range A     |------------------------|
    range B          |--------|
    launches      x    x    x    x     x       innermost: A B B A A
    cuts        A    B         A         -     one searchsorted answers all launches
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dsprof import fast

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

#: Stands for SQL's NULL in an int64 column.
NULL = np.iinfo(np.int64).min
#: Packed keys stay below this, far from where int64 would wrap.
_KEY_LIMIT = 1 << 62
#: A look-up table may have this many slots for each key, and this many more whatever their number.
_SLOTS_PER_KEY, _SLOTS_FREE = 16, 1 << 20
#: How many values of a column are a sample of it.
_SAMPLES = 4096
#: How many (slice, position) pairs are looked at together.
_AT_ONCE = 1 << 20
#: Distinct values that are few, as those of processes, threads and devices are.
_FEW = 64
#: Steps from range to range that are taken one by one, before the rest is looked up in a tree; a report as programs
#: write it needs fewer.
_STEPS = 16
#: Slices that hold the values so often, all together, are reduced by a table.
_TIMES_EACH = 8
#: Slices in which operations overlap are united one by one, unless they hold the operations so often.
_TIMES_MIXED = 32


def distinct(values: Ints) -> Ints:
    """The sorted distinct values of a column with long runs or few values, without sorting the whole column."""
    if not len(values):
        return values[:0].copy()
    low, high = int(values.min()), int(values.max())
    if high - low < len(values):
        return np.flatnonzero(np.bincount(values - low)) + low
    if (loops := fast.loops()) and len(few := loops.distinct_few(contiguous(values), _FEW)):
        return np.sort(few)
    heads = values[np.append(True, values[1:] != values[:-1])]
    found = distinct_in_any_order(heads[:: max(len(heads) // _SAMPLES, 1)])
    # A few values as a rule, and a sample has them all; what it lacks is looked for in turn.
    rest = heads[found[np.minimum(np.searchsorted(found, heads), len(found) - 1)] != heads]
    return distinct_in_any_order(np.concatenate([found, rest]))


def distinct_in_any_order(values: Ints) -> Ints:
    """The sorted distinct values of a column without long runs; several times faster than `np.unique`."""
    values = np.sort(values, kind="stable")
    found: Ints = values[np.append(True, values[1:] != values[:-1])[: len(values)]]
    return found


def group_rows(*columns: Ints) -> tuple[Ints, Ints]:
    """Numbers the distinct rows of some columns: the first row of each group, and the group of every row.

    Groups are in the order of their values, the first column leading.
    """
    if (loops := fast.loops()) and (found := _group_rows_compiled(loops, *columns)):
        return found
    key, size = np.zeros(len(columns[0]), np.int64), 1
    for column in columns:
        values = distinct(column)
        if size * max(len(values), 1) >= _KEY_LIMIT:
            key = np.unique(key, return_inverse=True)[1].reshape(-1)
            size = len(key)
        key, size = key * len(values) + np.searchsorted(values, column), size * len(values)
    if size > _SLOTS_PER_KEY * len(key) + _SLOTS_FREE:
        _, heads, group = np.unique(key, return_index=True, return_inverse=True)
        return heads, group.reshape(-1)
    first = np.full(size, -1, np.int64)
    first[key[::-1]] = np.arange(len(key) - 1, -1, -1)
    number = np.cumsum(first >= 0) - 1
    return first[first >= 0], number[key]


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
    if loops := fast.loops():
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
        if (scopes + 1) * self._span >= _KEY_LIMIT:
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


def join_calls(
    op_process: Ints, op_correlation: Ints, call_process: Ints, call_correlation: Ints, call_start: Ints
) -> Ints:
    """The API call behind each GPU operation, by (process, correlationId); -1 where there is none.

    Of two calls with one identity the earliest counts, so that nothing is doubled.
    """
    joined, processes = np.full(len(op_process), -1, np.int64), distinct(op_process)
    if len(processes) > _FEW:
        return _join_pairs(op_process, op_correlation, call_process, call_correlation, call_start)
    for process in processes.tolist():
        columns = (op_process, op_correlation, call_process, call_correlation, call_start)
        if (loops := fast.loops()) and _join_compiled(loops, process, joined, *columns):
            continue
        ops = np.flatnonzero((op_process == process) & (op_correlation != NULL))
        calls = np.flatnonzero((call_process == process) & (call_correlation != NULL))
        if len(ops) and len(calls):
            begun = call_start[calls]
            if (begun[1:] < begun[:-1]).any():
                calls = calls[np.argsort(begun, kind="stable")]
            found = _first_match(op_correlation[ops], call_correlation[calls])
            joined[ops] = np.where(found >= 0, calls[found], -1)
    return joined


def _join_pairs(
    op_process: Ints, op_correlation: Ints, call_process: Ints, call_correlation: Ints, call_start: Ints
) -> Ints:
    """The same for many processes at once: by the place of the process and of the number among those of the calls."""
    joined = np.full(len(op_process), -1, np.int64)
    calls = np.flatnonzero(call_correlation != NULL)
    if not len(calls):
        return joined
    calls = calls[in_order(call_start[calls])]
    columns = (call_process[calls], call_correlation[calls])
    known = [distinct_in_any_order(column) for column in columns]
    key, wanted = (
        np.searchsorted(known[0], process) * len(known[1]) + np.searchsorted(known[1], number)
        for process, number in (columns, (op_process, op_correlation))
    )
    order = np.argsort(key, kind="stable")
    call = calls[order[np.minimum(np.searchsorted(key[order], wanted), len(order) - 1)]]
    same = (call_process[call] == op_process) & (call_correlation[call] == op_correlation)
    return np.where(same, call, -1)


def _join_compiled(loops: Any, process: int, joined: Ints, *columns: Ints) -> bool:
    """Join the operations of one process; False where its ids are spread too wide for a table."""
    op_process, op_correlation, call_process, call_correlation, call_start = map(contiguous, columns)
    low, high, count = loops.id_range(call_process, call_correlation, process)
    if count and high - low >= _SLOTS_PER_KEY * count + _SLOTS_FREE:
        return False
    if count:
        loops.join(process, low, high, joined, op_process, op_correlation, call_process, call_correlation, call_start)
    return True


def _first_match(wanted: Ints, keys: Ints) -> Ints:
    """Position of the first of `keys` that equals each of `wanted`, -1 where none does."""
    low, high = int(keys.min()), int(keys.max())
    if high - low >= _SLOTS_PER_KEY * len(keys) + _SLOTS_FREE:
        order = np.argsort(keys, kind="stable")
        slot = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
        return np.where(keys[order[slot]] == wanted, order[slot], -1)
    table = np.full(high - low + 1, -1, np.int64)
    table[keys[::-1] - low] = np.arange(len(keys) - 1, -1, -1)
    inside = (wanted >= low) & (wanted <= high)
    return np.where(inside, table[np.where(inside, wanted - low, 0)], -1)


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
    if loops := fast.loops():
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


def explode(low: Ints, high: Ints) -> tuple[Ints, Ints]:
    """Every (slice, position) pair, slice by slice: 0 0 0 1 1 …, and the positions within the order."""
    length = high - low
    owner = np.repeat(np.arange(len(low)), length)
    first = np.cumsum(length) - length
    return owner, np.arange(len(owner)) - np.repeat(first - low, length)


def batches(rows: Ints, sizes: Ints) -> Iterator[Ints]:
    """The rows in turn, so many that their sizes come to about `_AT_ONCE`: what is large is not there at once."""
    reach = np.cumsum(sizes)
    bounds = np.searchsorted(reach, np.arange(_AT_ONCE, int(reach[-1]) if len(reach) else 0, _AT_ONCE)).tolist()
    for first, last in zip([0, *bounds], [*bounds, len(rows)], strict=True):
        if last > first:
            yield rows[first:last]


def union_length(group: Ints, start: Ints, end: Ints, groups: int) -> Ints:
    """Nanoseconds that the union of each group's intervals covers; shape ``(groups,)``.

    ::

        |------|
            |------|      |---|      covered: 11 + 5
    """
    total = np.zeros(groups, np.int64)
    if not len(group):
        return total
    if loops := fast.loops():
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
    if (loops := fast.loops()) and _mixed_compiled(loops, busy, mixed, start, end, low, high):
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


def _mixed_compiled(loops: Any, busy: Ints, mixed: Ints, start: Ints, end: Ints, low: Ints, high: Ints) -> bool:
    """Set `busy` for the slices `mixed`; False where they cross each other so often that it would take much memory."""
    low, high = low[mixed], high[mixed]
    bounds = distinct_in_any_order(np.concatenate([low, high]))
    first, last = np.searchsorted(bounds, low), np.searchsorted(bounds, high)
    total = int((last - first).sum())
    if total > _AT_ONCE + len(start):
        return False
    piece = np.repeat(np.arange(-1, len(bounds)), np.diff(np.concatenate([[0], bounds, [len(start)]])))
    start, end = contiguous(start), contiguous(end)
    busy[mixed] = loops.busy_in_slices(first, last, piece, in_order(start), start, end, total)
    return True


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
