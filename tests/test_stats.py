"""Statistics by group against Python's own `statistics`."""

from __future__ import annotations

import statistics
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import slow_reference as slow
from dsprof.arrays.statistics import count_by, describe, mean_std, mfu, sum_by

some = settings(max_examples=150, deadline=None)
HOUR = 3_600_000_000_000
#: Durations from nothing to hours, and bytes: the same function describes both.
values = st.integers(0, 9) | st.integers(0, HOUR) | st.integers(0, 2**40)
groups = st.integers(0, 4) | st.integers(0, 2**40)
rows = st.lists(st.tuples(groups, values), max_size=40)


def split(drawn: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.array([row[column] for row in drawn], np.int64) for column in (0, 1))


@some
@given(rows)
@example([(1, 5)])
@example([(1, 5), (1, 5), (1, 5)])
@example([(0, HOUR), (0, HOUR + 1), (0, HOUR + 2)])
def test_describe(drawn):
    found = describe(*split(drawn))
    by_group: dict[int, list[int]] = {}
    for group, value in drawn:
        by_group.setdefault(group, []).append(value)
    assert found.group.tolist() == sorted(by_group)
    for number, group in enumerate(found.group.tolist()):
        want = slow.figures(by_group[group])
        assert found.instances[number] == want["instances"]
        assert found.total[number] == want["total_ns"]
        assert found.min[number] == want["min_ns"]
        assert found.max[number] == want["max_ns"]
        assert found.avg[number] == pytest.approx(want["avg_ns"], rel=1e-14)
        assert found.med[number] == want["med_ns"]
        assert found.stddev[number] == pytest.approx(want["stddev_ns"], rel=1e-9, abs=1e-3)


def test_describe_the_textbook_s_example():
    found = describe(np.zeros(8, np.int64), np.array([2, 4, 4, 4, 5, 5, 7, 9]))
    assert (found.instances[0], found.total[0], found.avg[0], found.med[0]) == (8, 40, 5.0, 4.5)
    assert found.stddev[0] == pytest.approx((32 / 7) ** 0.5)


def test_describe_nothing():
    assert all(len(column) == 0 for column in describe(np.zeros(0, np.int64), np.zeros(0, np.int64)))


small_rows = st.lists(st.tuples(st.integers(0, 6), values), max_size=40)


@some
@given(small_rows, st.integers(7, 10))
def test_sum_and_count_by_group(drawn, count):
    group, column = split(drawn)
    sums, counts = sum_by(group, column, count), count_by(group, count)
    assert sums.dtype == counts.dtype == np.int64
    assert sums.tolist() == [sum(value for one, value in drawn if one == group) for group in range(count)]
    times = Counter(one for one, _ in drawn)
    assert counts.tolist() == [times[group] for group in range(count)]


def test_sums_are_exact_as_far_as_they_say():
    day = 24 * HOUR
    sums = sum_by(np.array([0, 0, 1]), np.array([103 * day, 1, 7]), 2)
    assert sums.tolist() == [103 * day + 1, 7]


def test_mean_std_is_that_of_the_statistics_module():
    assert mean_std([3.0, 5.0, 10.0]) == pytest.approx((6.0, statistics.stdev([3.0, 5.0, 10.0])))
    assert mean_std([7.0]) == (7.0, 0.0)
    with pytest.raises(ValueError, match="at least one"):
        mean_std([])


def test_mfu_is_a_share_and_never_more_than_the_whole():
    assert mfu(5e12, 1.0, 1e13) == 0.5
    assert mfu(1e13, 1.0, 1e13) == 1.0
    for flops, seconds, peak in ((2e13, 1.0, 1e13), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)):
        with pytest.raises(ValueError, match=r"cannot be|positive"):
            mfu(flops, seconds, peak)
