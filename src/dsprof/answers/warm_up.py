"""Which stages and steps were a warm-up: what took notably longer, and did once what the others did not.

A slow host makes a request slow, and not a warm-up; so being slow is not enough. A part of the time that an instance
took beyond the usual must have gone to what a program does once (`measures.cold`), and the others did not do as long.
That need not be a large part: what libraries do once beside such calls, outside of CUDA, takes longer than the calls.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import Bools, Ints
from dsprof.arrays.statistics import Floats, distribution
from dsprof.attribute.stages import StageRanges
from dsprof.measures.by_name import CallsByStage
from dsprof.measures.cold import FIRST_LAUNCHES, ColdCalls, FirstLaunches, Spent, spent_by
from dsprof.records import frozen

#: What took this much longer than the usual may be a warm-up, or an outlier.
NOTABLE = 1.2
#: Of the time that it took more than the usual, a warm-up spent at least this share in what a program does once.
EXPLAINED = 0.02


@frozen(eq=False)
class ColdTime:
    """The host's calls for what a program does once, by what that is, of each stage and of each step.

    A first launch counts for as long as its call took more than the calls of its name do as a rule.
    """

    stages: dict[str, Spent]
    steps: dict[str, Spent]

    @classmethod
    def take(cls, staged: StageRanges, calls: ColdCalls, first: FirstLaunches, all_calls: CallsByStage) -> Self:
        """Of a report."""
        usual = distribution(all_calls.name, all_calls.durations.value, all_calls.durations.times).describe()
        of_name = np.zeros(len(all_calls.names))
        of_name[usual.group] = usual.med
        more = np.maximum(first.spent - of_name[first.api], 0).astype(np.int64)
        stages, steps = (
            spent_by(row, more, rows)
            for row, rows in ((first.stage, len(staged.rows)), (first.step, len(staged.steps)))
        )
        return cls({**calls.stages, FIRST_LAUNCHES: stages}, {**calls.steps, FIRST_LAUNCHES: steps})


@frozen(eq=False)
class WarmUp:
    """Which of some instances were a warm-up, and by what.

    `by`: place among the kinds of `ColdTime` of what took the longest beyond the usual, -1 for none; `more`: how much
    longer that was, in ns.
    """

    warm: Bools
    by: Ints
    more: Ints

    @classmethod
    def of(cls, groups: Ints, slower: Floats, costs: Ints, cold: dict[str, Spent]) -> Self:
        """Of instances that are compared within their groups, -1 for none.

        `slower`: by how many times each took longer than the usual of its group; `costs`: what it took, in ns; `cold`:
        what it did of what a program does once. Where it made as many calls as the others, only their time differs.
        """
        calls, spent = (np.array([column[place] for column in cold.values()]).reshape(len(cold), len(groups))
                        for place in (0, 1))  # fmt: skip
        beyond = np.zeros_like(spent)
        for group, same in at.each(groups):
            if group >= 0:
                more = calls[:, same] > _usual(calls[:, same])[:, None]
                beyond[:, same] = more * np.maximum(spent[:, same] - _usual(spent[:, same])[:, None], 0)
        longer = costs - np.divide(costs, slower, out=costs.astype(np.float64), where=slower > NOTABLE)
        warm = (slower > NOTABLE) & (beyond.sum(axis=0) >= EXPLAINED * longer) & (beyond.sum(axis=0) > 0)
        return cls(warm, np.where(warm, beyond.argmax(axis=0), -1), np.where(warm, beyond.max(axis=0), 0))


def times_the_usual(groups: Ints, costs: Floats) -> Floats:
    """Each cost by the usual of its group; 0 where that is 0, and for the group -1.

    The usual is the middle one, the lower of two: of two instances it is the quicker one.

    >>> times_the_usual(np.array([0, 0, 0, 1, -1]), np.array([200.0, 100.0, 150.0, 9.0, 9.0])).round(2).tolist()
    [1.33, 0.67, 1.0, 1.0, 0.0]
    """
    result = np.zeros(len(costs))
    for group, same in at.each(groups):
        usual = _usual(costs[same])
        if group >= 0 and usual > 0:
            result[same] = costs[same] / usual
    return result


def _usual(values: Any) -> Any:
    """The median along the last axis, the lower of two."""
    return np.sort(values, axis=-1)[..., (values.shape[-1] - 1) // 2]
