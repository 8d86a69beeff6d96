"""What the host was in between the ranges of an engine's steps, as far as other ranges of its thread say it.

::

    range    |=== step ===|                            |=== next ===|
    others                  |- sample -| |- schedule -|                   the outermost count
"""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.answers.engine_times import EngineTimes
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attribute.ranges import RangeTree, numbered
from dsprof.attribute.stages import StageRanges
from dsprof.records import frozen


@frozen(eq=False)
class BetweenSteps:
    """Ranges between the steps of each worker, by worker and name: how many there are, and their time in ns.

    Those before a pause, and after the last step of a thread, are left out. `name` is a code of the tree's names;
    `whole_ns`: of each worker, the time between the ranges of its steps.
    """

    worker: Ints
    name: Ints
    instances: Ints
    total_ns: Ints
    whole_ns: Ints

    @classmethod
    def take(cls, tree: RangeTree, staged: StageRanges, times: EngineTimes) -> Self:
        """Of a report."""
        steps, ranges = staged.engine, tree.ranges
        counted = times.whole & ~times.pause
        gap = np.where(counted, times.interval_ns - times.in_range_ns, 0)
        whole = sum_by(steps.worker, gap, len(steps.workers))
        row, worker = _between(tree, staged, times, counted)
        heads, group = at.group_rows(worker, ranges.name[row].astype(np.int64))
        total = sum_by(group, (ranges.end - ranges.start)[row], len(heads))
        name = ranges.name[row[heads]].astype(np.int64)
        return cls(worker[heads], name, count_by(group, len(heads)), total, whole)


def _between(tree: RangeTree, staged: StageRanges, times: EngineTimes, counted: Bools) -> tuple[Ints, Ints]:
    """The outermost ranges that lie between the ranges of two steps, and the worker of each."""
    steps, ranges = staged.engine, tree.ranges
    threads = np.array([one.thread for one in steps.workers], np.int64)
    by_thread = np.argsort(threads, kind="stable")
    place = numbered(threads[by_thread], ranges.thread)
    rows = np.flatnonzero((place < len(threads)) & (staged.engine_place[:-1] < 0) & ~ranges.of_process)
    if not len(rows) or not len(steps):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    worker = by_thread[place[rows]]
    keys = at.Keys(len(threads) + 1, times.start, ranges.start[rows])
    before = np.searchsorted(keys.pack(steps.worker, times.start), keys.pack(worker, ranges.start[rows]), "right") - 1
    own = (before >= 0) & (steps.worker[before] == worker) & counted[before]
    range_end = times.start + times.in_range_ns
    inside = own & (ranges.start[rows] >= range_end[before]) & (steps.next[before] != NULL)
    inside &= ranges.end[rows] <= steps.next[before]
    found = np.zeros(len(ranges) + 1, np.bool_)
    found[rows[inside]] = True
    outermost = inside & ~found[tree.parent[rows]]
    return rows[outermost], worker[outermost]
