"""What is known of each decode step: its context, whether it was a warm-up, and whether it stands out."""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof.answers.ends import StageEnds
from dsprof.answers.requests import Requests, RequestTokens
from dsprof.answers.stages import Stages
from dsprof.answers.warm_up import NOTABLE, ColdTime, WarmUp, times_the_usual
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import Floats, describe
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.records import frozen
from dsprof.words import DECODE

#: A slope of less than so many of its standard errors is no drift that can be told.
DRIFT_ERRORS = 2.0
#: Nor is one over a span of context that is a smaller share of the longest.
DRIFT_SPAN = 0.1
#: Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993), 3.3: a value is one where 0.6745 times its distance
#: from the median is more than 3.5 times the median of all such distances.
_Z, _Z_LIMIT = 0.6745, 3.5


@frozen(eq=False)
class Steps:
    """The decode steps of a report, by start: the rows of `StageRanges.steps`, and of `step_trace`.

    `range`: row of its range; `stage`: row of its stage's range, -1 for none; `number`: its payload, else its ordinal;
    `context`: tokens before and with it, NULL where they are not known; `duration`: on the host; `group`: a number of
    those that it is compared with, its decode's, or its engine's of its mode; `steady`: False for a warm-up; `outlier`:
    among the steady steps of its group; `ratio`: its duration by their median.
    """

    range: Ints
    stage: Ints
    number: Ints
    context: Ints
    duration: Ints
    group: Ints
    steady: Bools
    outlier: Bools
    ratio: Floats

    @classmethod
    def take(
        cls,
        tree: RangeTree,
        staged: StageRanges,
        stages: Stages,
        requests: Requests,
        tokens: RequestTokens,
        cold: ColdTime,
        ends: StageEnds,
    ) -> Self:
        """Of a report."""
        rows, group = staged.steps, _groups(staged)
        duration = ends.step_end - tree.ranges.start[rows]
        of_stage = np.append(~stages.warm_up.warm, True)[staged.row[staged.of_step]]  # one of a cut stage is whole
        steady = of_stage & ~_warm_up(staged, group, duration, cold).warm
        far, ratio = outliers(group, duration, steady)
        context = _context(staged, requests, tokens)
        return cls(rows, staged.of_step, staged.step_number, context, duration, group, steady, far, ratio)


def _groups(staged: StageRanges) -> Ints:
    """A number for each step, the same for those of a decode, and for those of a thread of an engine with one mode."""
    steps, row = staged.engine, staged.step_engine_row
    of_engine = -2 - (steps.worker * max(len(steps.modes), 1) + steps.mode)
    group = np.where(row >= 0, np.append(of_engine, -1)[row], staged.of_step)
    return np.unique(group, return_inverse=True)[1].reshape(-1)


def _context(staged: StageRanges, requests: Requests, tokens: RequestTokens) -> Ints:
    """Tokens before and with each step: the prompt's, and its number; NULL where either is not known.

    Known in requests with one decode, after all their prefills.
    """
    known = (tokens.last != NULL) & (tokens.decodes == 1)
    prompt = np.append(np.where(known, tokens.prompt, NULL), NULL)
    of_decode = np.append(np.where(staged.are(DECODE), requests.of_stage, -1), -1)
    before = prompt[of_decode[staged.row[staged.of_step]]]
    return np.where(before != NULL, before + staged.step_number, NULL)


def _warm_up(staged: StageRanges, group: Ints, duration: Ints, cold: ColdTime) -> WarmUp:
    """Which steps were a warm-up among those of their stage, by their time on the host; of an engine by its stage."""
    compared = np.where((staged.of_step >= 0) & (staged.step_engine_row < 0), group, -1)
    return WarmUp.of(compared, times_the_usual(compared, duration.astype(np.float64)), duration, cold.steps)


def drift_is_told(slope: float | None, error: float | None, shortest: int | None, longest: int | None) -> bool:
    """Can a slope over the contexts from the shortest to the longest be told from none? None: not known.

    >>> drift_is_told(5.0, 1.0, 100, 200), drift_is_told(1.9, 1.0, 100, 200), drift_is_told(5.0, 1.0, 1000, 1020)
    (True, False, False)
    """
    if slope is None or error is None or shortest is None or longest is None:
        return False
    return bool(slope) and abs(slope) >= DRIFT_ERRORS * error and longest - shortest >= DRIFT_SPAN * longest


# -- outliers ------------------------------------------------------------------------------------------------


def outliers(group: Ints, values: Ints, considered: Bools) -> tuple[Bools, Floats]:
    """Which values are far above the usual of their group, and each in multiples of its group's median.

    Far: by the modified z-score (see `_Z`), and more than `NOTABLE` times the median, so that in a very regular
    series a trifle is none; and where the median is not above 0 there is none, as all have no multiple of it. Median
    and deviations are those of the values `considered`, and only those can be outliers; NaN where a group has none of
    them, or no multiple.
    """
    groups = int(group.max(initial=-1)) + 1
    usual, spread = np.full(groups, np.nan), np.full(groups, np.nan)
    found = describe(group[considered], values[considered])
    usual[found.group] = found.med
    away = 2 * values - (2 * usual)[group]  # the median of an even number ends in a half
    inside = np.abs(away[considered]).astype(np.int64)
    found = describe(group[considered], inside)
    spread[found.group] = found.med
    center = usual[group]
    far = (_Z * away > _Z_LIMIT * spread[group]) & (values > NOTABLE * center) & (center > 0) & considered
    ratio = np.divide(values, center, out=np.full(len(values), np.nan), where=center > 0)
    return far, ratio
