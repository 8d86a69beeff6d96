"""Change of a mean, with its interval: of the logarithms of run means, or of requests where the runs are too few.

Steps of one request are like each other, and so are requests of one process; a test over pooled steps therefore sees a
difference where there is none. So steps are averaged by request, requests by run, and the runs are compared; what is
over requests knows nothing of what differs from run to run, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from attrs import evolve

from dsprof.arrays.statistics import Floats
from dsprof.ground.student import quantile
from dsprof.records import frozen

#: An interval holds the change so often; a change that would be seen is one that is seen so often.
LEVEL, SEEN = 0.95, 0.8
#: From so many runs in all on, runs are compared, and not requests.
LEAST_RUNS = 4
#: What differs from run to run where too few runs tell it, as a standard deviation of logarithms: of wall about what
#: recorded runs of one program on one machine showed, of the GPU's busy time twice that (benchmarks/COMPARED.md).
RUN_NOISE = {"gpu_busy": 0.001, "wall": 0.11}
#: More runs of a side are not advised.
MOST_RUNS = 1_000


@frozen
class Change:
    """By how much something changed, as the logarithm of after by before; intervals None where no noise is known.

    `over`: ``run`` or ``request``, of which there are `before_n` and `after_n`; `deviation`: of these, pooled; `seen`:
    the change that would have been seen four times in five.
    """

    log: float
    low: float | None
    high: float | None
    seen: float | None
    over: str
    before_n: int
    after_n: int
    deviation: float | None
    level: float = LEVEL

    @property
    def pct(self) -> float:
        """The change in percent of before."""
        return 100 * math.expm1(self.log)


def percent_of(log: float | None) -> float | None:
    """A logarithm of a ratio in percent; None stays None, what is too large is infinite."""
    if log is None:
        return None
    return 100 * math.expm1(log) if log < 700 else math.inf


def change(before: Sequence[Floats], after: Sequence[Floats], level: float = LEVEL) -> Change | None:
    """The change from the runs before to those after, each the means of its requests; None where a mean is not above 0.

    Swapped sides give the same numbers with the other sign, to the last bit.
    """
    over = "run" if len(before) + len(after) >= LEAST_RUNS else "request"
    sides = [_logs(runs, over) for runs in (before, after)]
    if any(side is None for side in sides):
        return None
    x, y = (side for side in sides if side is not None)
    log = float(y.mean() - x.mean())
    freedom = len(x) + len(y) - 2
    if freedom < 1:
        return Change(log, None, None, None, over, len(x), len(y), None, level)
    squares = float(((x - x.mean()) ** 2).sum() + ((y - y.mean()) ** 2).sum())
    deviation = math.sqrt(squares / freedom)
    error = deviation * math.sqrt(1 / len(x) + 1 / len(y))
    reach = quantile((1 + level) / 2, freedom) * error
    seen = reach + quantile(SEEN, freedom) * error
    return Change(log, log - reach, log + reach, seen, over, len(x), len(y), deviation, level)


def _logs(runs: Sequence[Floats], over: str) -> Floats | None:
    """The logarithms of what is compared of a side; None where there is none, or it is not above 0."""
    if not runs or any(not len(run) for run in runs):
        return None
    values = np.array([run.mean() for run in runs]) if over == "run" else np.concatenate(runs)
    return np.log(values) if (values > 0).all() else None


def widened(found: Change, run_noise: float) -> Change:
    """A change over requests, with what differs from run to run taken to be `run_noise`, a standard deviation of logs.

    It counts for one run a side. A change over runs has it already and stays as it is, and so does one of single
    requests, of which no noise is known.
    """
    if found.over == "run" or found.deviation is None:
        return found
    freedom = found.before_n + found.after_n - 2
    own = found.deviation**2 * (1 / found.before_n + 1 / found.after_n)
    error = math.sqrt(own + 2 * run_noise**2)
    reach = quantile((1 + found.level) / 2, freedom) * error
    seen = reach + quantile(SEEN, freedom) * error
    return evolve(found, low=found.log - reach, high=found.log + reach, seen=seen, deviation=run_noise)


def runs_to_see(limit: float, deviation: float) -> int | None:
    """How many runs a side see a change of `limit` (a log) four times in five; None for more than are advised."""
    if limit <= 0:
        return None
    least, most = 2, MOST_RUNS
    if _seen(most, deviation) > limit:
        return None
    while least < most:
        middle = (least + most) // 2
        least, most = (least, middle) if _seen(middle, deviation) <= limit else (middle + 1, most)
    return least


def _seen(runs: int, deviation: float) -> float:
    """The change that so many runs a side see four times in five."""
    freedom = 2 * runs - 2
    return (quantile((1 + LEVEL) / 2, freedom) + quantile(SEEN, freedom)) * deviation * math.sqrt(2 / runs)
