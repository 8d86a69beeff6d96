"""Statistics of durations by group, with the meaning that Nsight's own reports give to the words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


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


def describe(group: Ints, values: Ints) -> Groups:
    """Count, sum, mean, median, least, greatest and sample standard deviation of `values` by `group`.

    Both of shape ``(n,)``. The median of an even number of values is the mean of the middle two; the
    standard deviation divides by n - 1 and is 0 for a single value.
    """
    if not len(group):
        none, nothing = np.zeros(0, np.int64), np.zeros(0)
        return Groups(none, none, none, nothing, nothing, none, none, nothing)
    order = np.lexsort((values, group))
    ordered, values = group[order], values[order]
    heads = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    count = np.diff(np.append(heads, len(values)))
    total = np.add.reduceat(values, heads, dtype=np.int64)
    avg = total / count
    middle, other = values[heads + count // 2], values[heads + (count - 1) // 2]
    squares = np.add.reduceat((values - np.repeat(avg, count)) ** 2, heads)
    return Groups(
        ordered[heads], count, total, avg, (middle + other) / 2, values[heads], values[heads + count - 1],
        np.sqrt(squares / np.maximum(count - 1, 1)),
    )  # fmt: skip


def sum_by(group: Ints, values: Ints, groups: int) -> Ints:
    """Sum of `values` by group, shape ``(groups,)``; exact up to 2**53 (104 days in nanoseconds)."""
    return np.bincount(group, weights=values, minlength=groups).astype(np.int64)


def count_by(group: Ints, groups: int) -> Ints:
    """Number of rows by group, shape ``(groups,)``."""
    return np.bincount(group, minlength=groups).astype(np.int64)


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
