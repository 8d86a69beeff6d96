"""Each array function of `dsprof.arrays` against plain Python."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsprof import arrays as at
from dsprof.arrays import NULL
from slow_reference import covered_length, nearest

LEAST, GREATEST = NULL, 2**63 - 1
some = settings(max_examples=150, deadline=None)
few = settings(some, max_examples=40)

#: Where time begins; the last one so far off that times cannot be packed with a scope and must be ranked.
bases = st.sampled_from([0, -17, 10**18, 2**62])
scopes = st.integers(0, 3)
times = st.integers(0, 25)


def ints(values) -> np.ndarray:
    return np.array(list(values), np.int64)


def columns(rows: list[tuple], width: int) -> list[np.ndarray]:
    return [ints(row[number] for row in rows) for number in range(width)]


@dataclass(frozen=True)
class Interval:
    row: int
    scope: int
    start: int
    end: int


@st.composite
def intervals(draw, max_size: int = 14) -> list[Interval]:
    """Intervals that overlap, touch, nest, repeat and are empty; at times some of them are very far away."""
    drawn = draw(st.lists(st.tuples(scopes, times, st.integers(0, 12)), max_size=max_size))
    base, far = draw(bases), draw(st.sampled_from([0, 0, 2**60, -(2**62)]))
    return [
        Interval(row, scope, (base + start + far * (row % 2)), (base + start + far * (row % 2) + length))
        for row, (scope, start, length) in enumerate(drawn)
    ]


def split(drawn: list[Interval]) -> list[np.ndarray]:
    return [ints(getattr(one, column) for one in drawn) for column in ("scope", "start", "end")]


# -- distinct values, groups, keys ------------------------------------------------------------------------


@some
@given(st.lists(st.integers(0, 4) | st.integers(LEAST, GREATEST), max_size=30))
def test_distinct(values):
    assert at.distinct(ints(values)).tolist() == sorted(set(values))


@some
@given(st.lists(st.tuples(times, st.integers(0, 2), st.integers(0, 3)), max_size=30), bases, st.integers(0, 2))
def test_sorted_by(rows, base, breakers):
    key, *others = columns(rows, 3)
    key, others = key + base, others[:breakers]
    assert at.sorted_by(key, *others).tolist() == np.lexsort((*reversed(others), key)).tolist()


def groups_by_hand(rows: list[tuple]) -> tuple[list[int], list[int]]:
    found = sorted(set(rows))
    return [rows.index(row) for row in found], [found.index(row) for row in rows]


@some
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.tuples(*[st.integers(0, 3) | st.sampled_from([LEAST, GREATEST])] * width), max_size=40
        ).map(lambda rows: (width, rows))
    )
)
def test_groups_of_rows(drawn):
    width, rows = drawn
    heads, group = at.group_rows(*columns(rows, width))
    assert (heads.tolist(), group.tolist()) == groups_by_hand(rows)


@few
@given(
    st.sampled_from([(40, 3), (150, 4), (50, 12), (300, 20)]), st.integers(1, 8), st.randoms(use_true_random=False)
)  # fmt: skip
def test_groups_of_rows_with_many_values(shape, repeated, random):
    """So many different values that the keys must be sorted, and even numbered anew before they overflow."""
    count, width = shape
    rows = [tuple(random.getrandbits(64) - 2**63 for _ in range(width)) for _ in range(count // repeated or 1)]
    rows = [random.choice(rows) for _ in range(count)]
    heads, group = at.group_rows(*columns(rows, width))
    assert (heads.tolist(), group.tolist()) == groups_by_hand(rows)


@some
@given(
    st.sampled_from([1, 4, 1000, 2**31, 2**40]).flatmap(
        lambda count: st.tuples(
            st.just(count),
            st.lists(
                st.tuples(
                    st.integers(0, count - 1),
                    st.integers(0, 3) | st.integers(-(2**40), 2**40) | st.integers(LEAST, GREATEST)
                    | st.sampled_from([LEAST, LEAST + 1, -1, 0, GREATEST]),
                ),
                max_size=12,
            ),
        )
    ),
    st.integers(0, 12),
)  # fmt: skip
@example((4, [(3, GREATEST), (3, LEAST), (0, 0), (2, GREATEST), (3, GREATEST)]), 2)
def test_packed_keys_sort_like_the_pairs(drawn, cut):
    """Whatever the times are, those of one column or another, up to both ends of int64."""
    count, pairs = drawn
    scope, time = columns(pairs, 2)
    packed = at.Keys(count, time[:cut], time[cut:]).pack(scope, time).tolist()
    for one, key in zip(pairs, packed, strict=True):
        for other, other_key in zip(pairs, packed, strict=True):
            assert (one < other) == (key < other_key)
            assert (one == other) == (key == other_key)


# -- joining ----------------------------------------------------------------------------------------------

#: Dense as in a real report, now and then sparse up to the ends of int64, or missing.
correlations = st.integers(0, 6) | st.sampled_from([NULL, NULL + 1, 2**40, GREATEST, -5])


@some
@given(
    st.lists(st.tuples(scopes, correlations), max_size=15),
    st.lists(st.tuples(scopes, correlations, st.integers(0, 5)), max_size=15),
)
@example([(0, 3), (0, NULL)], [(0, NULL, 0), (1, 3, 0), (0, 3, 9), (0, 3, 4)])
def test_joining_operations_to_calls(ops, calls):
    joined = at.join_calls(*columns(ops, 2), *columns(calls, 3))
    for (process, correlation), found in zip(ops, joined.tolist(), strict=True):
        same = [row for row, call in enumerate(calls) if correlation != NULL and call[:2] == (process, correlation)]
        assert found == min(same, key=lambda row: (calls[row][2], row), default=-1)


# -- containers, levels, innermost ------------------------------------------------------------------------


def parent_by_hand(one: Interval, ranges: list[Interval]) -> int:
    containers = [
        other
        for other in ranges
        if other.scope == one.scope
        and other.start <= one.start
        and other.end >= one.end
        and ((other.start, other.end) != (one.start, one.end) or other.row < one.row)
    ]
    found = nearest(containers)
    return -1 if found is None else found.row


@some
@given(intervals())
def test_containers_and_levels(ranges):
    parent = at.containers(*split(ranges))
    assert parent.tolist() == [parent_by_hand(one, ranges) for one in ranges]
    depth = []
    for one in ranges:
        row, steps = one.row, 0
        while parent[row] >= 0:
            row, steps = int(parent[row]), steps + 1
        depth.append(steps)
    assert at.levels(parent).tolist() == depth


@pytest.mark.parametrize("depth", [1, 2, 3, 64, 1000])
def test_levels_of_a_deep_nest(depth):
    start = np.arange(depth)
    parent = at.containers(np.zeros(depth, np.int64), start, 10**6 - start)
    assert parent.tolist() == [-1, *range(depth - 1)]
    assert at.levels(parent).tolist() == list(range(depth))


@some
@given(intervals(), st.lists(st.tuples(scopes, st.integers(-2, 40)), max_size=25), st.data())
def test_the_innermost_range(ranges, drawn, data):
    edges = [time for one in ranges for time in (one.start, one.end, one.start - 1, one.end - 1)]
    points = [
        (scope, data.draw(st.sampled_from(edges)) if edges and number % 3 else time)
        for number, (scope, time) in enumerate(drawn)
    ]
    found = at.innermost(*split(ranges), *columns(points, 2))
    for (scope, time), row in zip(points, found.tolist(), strict=True):
        around = nearest(one for one in ranges if one.scope == scope and one.start <= time < one.end)
        assert row == (-1 if around is None else around.row)


# -- slices -----------------------------------------------------------------------------------------------

sorted_keys = st.lists(times, max_size=30).map(sorted)


@some
@given(sorted_keys, st.lists(st.tuples(st.integers(-3, 28), st.integers(-3, 28)), max_size=12))
def test_slices_of_an_order(keys, bounds):
    start, end = columns(bounds, 2)
    low, high = at.slices(ints(keys), start, end)
    for number, (first, last) in enumerate(bounds):
        inside = [position for position, key in enumerate(keys) if first <= key < last]
        assert list(range(low[number], high[number])) == inside
        assert low[number] == bisect_left(keys, first)


@st.composite
def values_and_slices(draw, least: int = -(10**12), greatest: int = 10**12):
    values = draw(st.lists(st.integers(least, greatest), max_size=20))
    bound = st.integers(0, len(values))
    return values, [tuple(sorted(pair)) for pair in draw(st.lists(st.tuples(bound, bound), max_size=12))]


@some
@given(values_and_slices())
def test_sum_least_and_greatest_of_slices(drawn):
    values, bounds = drawn
    column, (low, high) = ints(values), columns(bounds, 2)
    parts = [values[first:last] for first, last in bounds]
    assert at.slice_sum(column, low, high).tolist() == [sum(part) for part in parts]
    assert at.slice_min(column, low, high).tolist() == [min(part, default=NULL) for part in parts]
    assert at.slice_max(column, low, high).tolist() == [max(part, default=NULL) for part in parts]


@some
@given(values_and_slices())
def test_exploded_slices(drawn):
    owner, position = at.explode(*columns(drawn[1], 2))
    pairs = [(number, place) for number, (low, high) in enumerate(drawn[1]) for place in range(low, high)]
    assert list(zip(owner.tolist(), position.tolist(), strict=True)) == pairs


# -- time covered -----------------------------------------------------------------------------------------


@some
@given(intervals(20), st.integers(0, 2))
def test_the_length_of_a_union(drawn, extra):
    """Also where intervals lie 2**60 ns apart; `extra` groups have none."""
    found = at.union_length(*split(drawn), groups=4 + extra)
    by_hand = [
        covered_length((one.start, one.end) for one in drawn if one.scope == group) for group in range(4 + extra)
    ]
    assert found.tolist() == by_hand


@some
@given(intervals(20))
def test_a_union_is_what_a_set_of_nanoseconds_says(drawn):
    found = at.union_length(*split(drawn), groups=4)
    for group in range(4):
        ticked = set()
        for one in drawn:
            ticked.update(range(one.start, one.end) if one.scope == group else ())
        assert found[group] == len(ticked)


@st.composite
def launched(draw) -> tuple[list[Interval], list[tuple[int, int]]]:
    """Operations in launch order, by scope, mostly one after another; and slices within one scope each."""
    drawn = draw(st.lists(st.tuples(scopes, st.integers(-4, 6), st.integers(0, 8)), max_size=25))
    ops, clock = [], draw(bases)
    for row, (scope, gap, length) in enumerate(sorted(drawn, key=lambda fields: fields[0])):
        start = clock + gap
        ops.append(Interval(row, scope, start, start + length))
        clock = start + length
    slices = []
    for scope in range(4):
        rows = [op.row for op in ops if op.scope == scope]
        if rows:
            bound = st.integers(rows[0], rows[-1] + 1)
            slices += [tuple(sorted(pair)) for pair in draw(st.lists(st.tuples(bound, bound), max_size=5))]
    return ops, slices


@some
@given(launched())
def test_busy_time_of_slices(drawn):
    ops, slices = drawn
    found = at.busy_in_slices(*split(ops), *columns(slices, 2))
    assert found.tolist() == [covered_length((op.start, op.end) for op in ops[low:high]) for low, high in slices]


def test_nothing_at_all():
    none = np.zeros(0, np.int64)
    one = np.ones(1, np.int64)
    assert [part.tolist() for part in at.group_rows(none, none)] == [[], []]
    assert at.join_calls(none, none, one, one, one).tolist() == []
    assert at.join_calls(one, one, none, none, none).tolist() == [-1]
    assert at.containers(none, none, none).tolist() == at.levels(none).tolist() == []
    assert at.innermost(none, none, none, one, one).tolist() == [-1]
    assert at.innermost(one, one, one, none, none).tolist() == []
    assert at.union_length(none, none, none, 2).tolist() == [0, 0]
    assert at.busy_in_slices(none, none, none, np.zeros(1, np.int64), np.zeros(1, np.int64)).tolist() == [0]
