"""Statistics of durations by group, with the meaning that Nsight's own reports give to the words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dsprof.arrays.rows import KEY_LIMIT, Ints

Floats = npt.NDArray[np.float64]

#: A table of sums may have this many slots for each row, and this many more whatever their number.
_SLOTS_PER_ROW, _SLOTS_FREE = 4, 1 << 20


class Groups(NamedTuple):
    """Statistics of the groups that have a value, in the order of their numbers; each of shape ``(k,)``."""

    group: Ints
    instances: Ints
    total: Ints
    avg: Floats
    med: Floats
    min: Ints
    max: Ints
    stddev: Floats

    def take(self, order: Ints) -> Groups:
        """The same groups in another order."""
        return Groups(*(column[order] for column in self))  # type: ignore[arg-type]


class Distribution(NamedTuple):
    """How often each group has each value: sorted by group and value, each pair once; columns of shape ``(k,)``.

    Durations are multiples of the GPU's clock tick, so this is far smaller than the values themselves, and two of
    them add up to the one of all values.
    """

    group: Ints
    value: Ints
    times: Ints

    def describe(self) -> Groups:
        """The statistics of `describe`."""
        group, value, times = self
        if not len(group):
            none, nothing = np.zeros(0, np.int64), np.zeros(0)
            return Groups(none, none, none, nothing, nothing, none, none, nothing)
        heads = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        last = np.append(heads[1:], len(group)) - 1
        reach = np.cumsum(times)
        instances = np.add.reduceat(times, heads)
        before = reach[last] - instances
        total = np.add.reduceat(value * times, heads)
        avg = total / instances
        middle, other = (
            value[np.searchsorted(reach, before + rank, side="right")]
            for rank in (instances // 2, (instances - 1) // 2)
        )
        squares = np.add.reduceat(times * (value - np.repeat(avg, last - heads + 1)) ** 2, heads)
        stddev = np.sqrt(squares / np.maximum(instances - 1, 1))
        return Groups(group[heads], instances, total, avg, (middle + other) / 2, value[heads], value[last], stddev)


def distribution(group: Ints, values: Ints, counts: Ints | None = None) -> Distribution:
    """The distribution of `values` by `group`; `counts`: how often each row counts, once unless given."""
    if not len(group):
        return Distribution(group[:0], values[:0], group[:0])
    low, base = int(group.min()), int(values.min())
    span = int(values.max()) - base + 1
    if (int(group.max()) - low + 1) * span >= KEY_LIMIT:
        order = np.lexsort((values, group))
        return _runs(group[order], values[order], None if counts is None else counts[order])
    key, times = _sorted((group - low) * span + (values - base), counts)
    found, value = np.divmod(key, span)
    return Distribution(found + low, value + base, times)


def _sorted(key: Ints, counts: Ints | None) -> tuple[Ints, Ints]:
    """The sorted distinct keys, and how often each is there."""
    if counts is None:
        key.sort()
    else:
        order = np.argsort(key, kind="stable")
        key, counts = key[order], counts[order]
    heads = np.flatnonzero(np.append(True, key[1:] != key[:-1]))
    return key[heads], _run_lengths(heads, len(key), counts)


def _runs(group: Ints, values: Ints, counts: Ints | None) -> Distribution:
    heads = np.flatnonzero(np.append(True, (group[1:] != group[:-1]) | (values[1:] != values[:-1])))
    return Distribution(group[heads], values[heads], _run_lengths(heads, len(group), counts))


def _run_lengths(heads: Ints, rows: int, counts: Ints | None) -> Ints:
    return np.diff(np.append(heads, rows)) if counts is None else np.add.reduceat(counts, heads)


def add_distributions(one: Distribution, other: Distribution) -> Distribution:
    """The distribution of the values of both."""
    group, value, times = (np.concatenate(columns) for columns in zip(one, other, strict=True))
    return distribution(group, value, times)


def describe(group: Ints, values: Ints) -> Groups:
    """Count, sum, mean, median, least, greatest and sample standard deviation of `values` by `group`.

    Both of shape ``(n,)``. The median of an even number of values is the mean of the middle two; the
    standard deviation divides by n - 1 and is 0 for a single value.
    """
    return distribution(group, values).describe()


def percentiles(group: Ints, values: Ints, groups: int, percents: Sequence[int]) -> list[Floats]:
    """Percentiles of `values` by group, each of shape ``(groups,)``; NaN for an empty group.

    Between two values the percentile is interpolated by its rank, ``(n - 1) * percent / 100`` from the least one:
    definition 7 of Hyndman and Fan, Sample Quantiles in Statistical Packages, 1996, and the usual one of numpy.
    """
    order = np.lexsort((values, group))
    count = count_by(group, groups)
    head, sorted_values = np.cumsum(count) - count, np.append(values[order], 0)
    filled, columns = count > 0, []
    for percent in percents:
        rank = (count - 1) * percent / 100
        below = np.where(filled, np.floor(rank), 0).astype(np.int64)
        low = sorted_values[head + below]
        high = sorted_values[head + np.where(filled, np.ceil(rank), 0).astype(np.int64)]
        columns.append(np.where(filled, low + (high - low) * (rank - below), np.nan))
    return columns


def slopes(group: Ints, within: Ints, x: Ints, y: Ints, groups: int) -> tuple[Floats, Floats]:
    """Least-squares slope of `y` over `x` by group, with its standard error; both of shape ``(groups,)``.

    Each part of a group, told by `within`, has an intercept of its own, so that a difference between two parts is no
    slope. NaN where `x` does not vary within a part, or no degree of freedom is left: there are n - parts - 1.
    """
    part = np.unique(np.stack([group, within]), axis=1, return_inverse=True)[1].reshape(-1)
    size = np.bincount(part)
    dx, dy = (values - (np.bincount(part, values) / size)[part] for values in (x, y))
    sxx, sxy, count = (np.bincount(group, weights, groups) for weights in (dx * dx, dx * dy, None))
    parts = np.bincount(group, 1 / size[part], groups)
    freedom = np.rint(count - parts - 1)
    known = (sxx > 0) & (freedom > 0)
    slope: Floats = np.divide(sxy, sxx, out=np.full(groups, np.nan), where=known)
    rest = np.bincount(group, (dy - slope[group] * dx) ** 2, groups)
    variance = np.divide(rest, freedom * sxx, out=np.full(groups, np.nan), where=known)
    return slope, np.sqrt(variance)


def sum_by(group: Ints, values: Ints, groups: int) -> Ints:
    """Sum of `values` by group, shape ``(groups,)``; exact up to 2**53 (104 days in nanoseconds)."""
    return np.bincount(group, weights=values, minlength=groups).astype(np.int64)


def count_by(group: Ints, groups: int) -> Ints:
    """Number of rows by group, shape ``(groups,)``."""
    return np.bincount(group, minlength=groups).astype(np.int64)


class Sums(NamedTuple):
    """How many values each group has, and their sum, for the groups that have some; columns of shape ``(k,)``."""

    group: Ints
    instances: Ints
    total: Ints


def sums(group: Ints, count: Ints, total: Ints) -> Sums:
    """Add up counts and totals by group; groups are sorted."""
    if not len(group):
        return Sums(group, count, total)
    low, high = int(group.min()), int(group.max())
    if high - low >= _SLOTS_PER_ROW * len(group) + _SLOTS_FREE:
        found, place = np.unique(group, return_inverse=True)
        place = place.reshape(-1)
        return Sums(found, sum_by(place, count, len(found)), sum_by(place, total, len(found)))
    counts, totals = (sum_by(group - low, values, high - low + 1) for values in (count, total))
    kept = np.flatnonzero(counts)
    return Sums(kept + low, counts[kept], totals[kept])


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation; the latter is 0 for a single value. Raises ValueError for none."""
    if not len(values):
        raise ValueError("mean_std needs at least one value.")
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


def mfu(flops: float, seconds: float, peak_flops_per_s: float) -> float:
    """Model FLOPs utilization: the model's analytic FLOPs by what the device could have done, from 0 to 1.

    Raises ValueError for times and peaks that are not positive, and for a result above 1, which says that one
    of the three is wrong. Source of the term: Chowdhery et al., PaLM, 2022, appendix B.
    """
    if seconds <= 0 or peak_flops_per_s <= 0:
        raise ValueError("mfu needs a positive time and a positive peak.")
    share = flops / (seconds * peak_flops_per_s)
    if share > 1:
        raise ValueError(f"A utilization of {share:.3f} cannot be: the FLOPs, the time or the peak is wrong.")
    return share
