"""How long the steps of engines took: in their ranges, after them, and until the next one began.

::

    range    |=== step ===|              pause, or the scheduler   |=== next ===|
    calls     L  L  L  L     L  L  W                                L  L
             | in_range   | after_range |       between            |
             |                      interval                       |
"""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.answers.ends import StageEnds
from dsprof.arrays import NULL, Bools, Ints
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.measures.engine_steps import AfterRange
from dsprof.records import frozen

#: A thread that lets so many times the usual pass between two steps, and more than a step takes, has nothing to do.
PAUSE = 10.0


@frozen(eq=False)
class EngineTimes:
    """Of each of `EngineSteps.rows`, in ns: NULL after the last step of a thread.

    `end`: when host and GPU were both done with it, the next one's begin at most; `whole`: False for the last step of a
    thread, of which no more than its range is known, and for one whose range the capture cut; `pause`: True before a
    wait for requests.
    """

    start: Ints
    end: Ints
    in_range_ns: Ints
    after_range_ns: Ints
    between_ns: Ints
    interval_ns: Ints
    whole: Bools
    pause: Bools
    after_launches: Ints
    after_kernels: Ints
    after_kernel_total_ns: Ints

    @classmethod
    def take(cls, tree: RangeTree, staged: StageRanges, ends: StageEnds, after: AfterRange) -> Self:
        """Of a report."""
        steps, row = staged.engine, staged.row[staged.engine.rows]
        start, followed = tree.ranges.start[steps.rows], steps.next != NULL
        range_end = np.minimum(tree.ranges.end[steps.rows], steps.reach)
        host_end, left = ends.end[row], ends.left[row]
        between = np.where(followed, left, NULL)
        return cls(
            start=start,
            end=steps.reach - left,
            in_range_ns=range_end - start,
            after_range_ns=np.where(followed, host_end - range_end, NULL),
            between_ns=between,
            interval_ns=np.where(followed, steps.next - start, NULL),
            whole=followed & ~tree.ranges.truncated[steps.rows],
            pause=_pauses(steps.worker, between, host_end - start),
            after_launches=after.launches,
            after_kernels=after.kernels,
            after_kernel_total_ns=after.kernel_total_ns,
        )


def _pauses(worker: Ints, between: Ints, duration: Ints) -> Bools:
    """The steps after which a thread had nothing to do; see `PAUSE`."""
    pause = np.zeros(len(worker), np.bool_)
    for _, rows in at.each(worker):
        known = rows[between[rows] != NULL]
        if len(known):
            longest = max(PAUSE * float(np.median(between[known])), float(np.median(duration[known])))
            pause[known] = between[known] > longest
    return pause
