"""When the host was done with each stage, and where the time up to then went.

A range says when its stage ended. A step of an engine lasts beyond its range, until its thread has made its last CUDA
call; what is left until the next one begins is the scheduler's, or a wait for requests, and no part of it::

    ranges   |=== step ===|                               |=== next ===|
    calls     L  L  L  L  L    L  L  W                     L  L
    step     |------------------------|------ between ----|
"""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof.arrays import NULL, Ints
from dsprof.attribute.stages import StageRanges
from dsprof.measures.causes import CAUSES
from dsprof.measures.engine_steps import AfterRange
from dsprof.measures.totals import StageTotals
from dsprof.records import frozen

#: What a thread may be in that makes no call, with its own GPU work done, the likeliest first; then what it can be in
#: where a call began before the step and lasts beyond it, as no thread does by itself.
_BETWEEN = tuple(dict.fromkeys(("host", "other_work", "latency", "profiler", "queued", *CAUSES)))


@frozen(eq=False)
class StageEnds:
    """The end on the host of each of `StageRanges.rows` and of its `steps`.

    `left`, `step_left`: what is left of the windows of `Accounts` when host and GPU are both done, in ns; 0 but for
    steps of engines.
    """

    end: Ints
    step_end: Ints
    left: Ints
    step_left: Ints

    @classmethod
    def take(cls, staged: StageRanges, totals: StageTotals, after: AfterRange) -> Self:
        """Of a report."""
        ranges, steps = staged.lasting.ranges, staged.engine
        end, step_end = ranges.end[staged.rows], ranges.end[staged.steps]
        if not len(steps):
            return cls(end, step_end, np.zeros_like(end), np.zeros_like(step_end))
        range_end = np.minimum(staged.range_end[steps.rows], steps.reach)
        done = np.minimum(np.maximum(range_end, after.last_call), steps.reach)
        gpu_done = totals.proj_end_ns[:-1][staged.row[steps.rows]]
        left = np.maximum(steps.reach - np.maximum(done, gpu_done), 0)
        return cls(
            np.where(staged.engine_row >= 0, staged.of_engine(done), end),
            np.where(staged.step_engine_row >= 0, np.append(done, NULL)[staged.step_engine_row], step_end),
            staged.of_engine(left, 0),
            np.append(left, 0)[staged.step_engine_row],
        )


def settled(account: dict[str, Ints], left: Ints) -> dict[str, Ints]:
    """An account of windows without what is left of them at their ends."""
    if not left.any():
        return account
    found, rest = dict(account), left
    if "off_cpu" in account:
        found["off_cpu"] = np.minimum(np.maximum(account["off_cpu"] - left, 0), np.maximum(account["host"] - left, 0))
    for cause in _BETWEEN:
        taken = np.minimum(found[cause], rest)
        found[cause], rest = found[cause] - taken, rest - taken
    return found
