"""What tables are made of: quantities that can be taken from each part of a report, and added up.

A small report is one part. A large one under a memory limit is read part by part; then each measure is taken from
every part and merged, and the tables are built from the merged ones, from the same code and to the same nanosecond.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from dsprof.arrays import NULL, Ints

if TYPE_CHECKING:
    from dsprof.attributed import Attributed

T = TypeVar("T")


class Measure(Generic[T]):
    """A quantity of an `Attributed`, taken once: ``stage_totals(a)``; `merge` adds those of two parts."""

    def __init__(self, name: str, take: Callable[[Attributed], T], merge: Callable[[T, T], T]) -> None:
        self.name, self.merge = name, merge
        self._take = take
        self.__doc__ = take.__doc__

    def __call__(self, a: Attributed) -> T:
        """The measure of `a`, taken now or before."""
        if self.name not in a.measured:
            if a.only_measured:
                raise LookupError(f"{self.name} was not measured: a table that needs it must name it")
            a.measured[self.name] = self._take(a)
        found: T = a.measured[self.name]
        return found


class Merged(Generic[T]):
    r"""What is measured part by part: as in a merge sort only what is of as many parts is merged.

    So each part takes part in few merges, and a report of ten times as many parts takes ten times as long, not a
    hundred times. ::

        parts    1   2   3   4   5          after the fifth: [1234] [5]
                 \_12_/   \_34_/
                   \__1234_/
    """

    def __init__(self, measure: Measure[T]) -> None:
        self._merge = measure.merge
        self._runs: list[tuple[int, T]] = []

    def add(self, found: T) -> None:
        """Add what was measured of the next part."""
        parts = 1
        while self._runs and self._runs[-1][0] == parts:
            found = self._merge(self._runs.pop()[1], found)
            parts *= 2
        self._runs.append((parts, found))

    def whole(self) -> T:
        """The measure of all parts; there must be one."""
        return reduce(lambda later, earlier: self._merge(earlier, later), (found for _, found in reversed(self._runs)))


def measure(merge: Callable[[T, T], T]) -> Callable[[Callable[[Attributed], T]], Measure[T]]:
    """Make a function of an `Attributed` a measure."""

    def made(take: Callable[[Attributed], T]) -> Measure[T]:
        return Measure(f"{take.__module__}.{take.__qualname__}", take, merge)

    return made


def earliest(one: Ints, other: Ints) -> Ints:
    """The smaller of each two values, NULL being none."""
    return np.where((one == NULL) | (other == NULL), np.maximum(one, other), np.minimum(one, other))


def add_columns(one: dict[str, Ints], other: dict[str, Ints]) -> dict[str, Ints]:
    """Columns of two parts, added by name; the first start and the last end are chosen."""
    choose: dict[str, Any] = {"proj_start_ns": earliest, "proj_end_ns": np.maximum}
    return {name: choose.get(name, np.add)(one[name], other[name]) for name in one}
