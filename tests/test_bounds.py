"""Time and memory on hostile reports: what takes other ways where ranges nest deep gives the same, and counts little."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import slow_reference as slow
from dsprof import attribution as at
from dsprof import measures
from test_properties import analysis_of, assert_rows, recordings, renamed, rows_of

INTERVALS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 12)), max_size=25)


@contextmanager
def deep() -> Iterator[None]:
    """Within, every report takes the ways that only deep nesting takes otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_STEPS", "_TIMES_EACH", "_TIMES_MIXED"):
            patch.setattr(at, name, 0)
        patch.setattr(measures, "_CALLS_BACK", 0)
        yield


def columns(rows: list[tuple]) -> list[np.ndarray]:
    return list(np.array(rows, np.int64).reshape(-1, 3).T)


@given(INTERVALS)
def test_a_tree_finds_the_container_that_steps_find(drawn):
    scope, start, length = columns(drawn)
    usual = at.containers(scope, start, start + length)
    with deep():
        assert at.containers(scope, start, start + length).tolist() == usual.tolist()


@given(INTERVALS, INTERVALS)
def test_a_tree_finds_the_innermost_range_that_steps_find(drawn, points):
    (scope, start, length), (at_scope, time, _) = columns(drawn), columns(points)
    usual = at.innermost(scope, start, start + length, at_scope, time)
    with deep():
        assert at.innermost(scope, start, start + length, at_scope, time).tolist() == usual.tolist()


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.data())
def test_sums_above_a_bound_are_those_of_a_loop(values, data):
    places = st.integers(0, len(values))
    slices = data.draw(st.lists(st.tuples(places, places, st.integers(-6, 6)).map(lambda s: (*sorted(s[:2]), s[2]))))
    low, high, bound = columns(slices)
    weights = np.arange(len(values)) ** 2 + 1
    found = at.slice_sum_above(np.array(values), weights, low, high, bound)
    assert found.tolist() == [
        sum(int(weights[place]) for place in range(one, other) if values[place] > least) for one, other, least in slices
    ]


@given(recordings())
def test_ranges_are_told_the_same_however_deep(rec):
    expected = renamed(slow.range_trace(rec), row="range_id", parent_row="parent_id")
    with deep():
        assert_rows(rows_of(analysis_of(rec), "range_trace"), expected)
