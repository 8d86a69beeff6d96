"""What an engine did after the range of a step, before the next one began; and its last call of the CUDA API."""

from __future__ import annotations

from typing import Self

import numpy as np
from attrs import fields

from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.measures.totals import absorb_columns, add_columns
from dsprof.records import frozen


@frozen(eq=False)
class AfterRange(Measure):
    """Of each of `EngineSteps.rows`: the end of its last API call, NULL for none; and what it launched after its range.

    ::

        range       |=== step ===|                    |=== next ===|
        calls         L  L  L  L    L  L  W                            L launches, W waits
                                 |- after its range -|
    """

    last_call: Ints
    launches: Ints
    kernels: Ints
    kernel_total_ns: Ints

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        staged, trace, steps = launches.stages, launches.trace, len(launches.stages.engine)
        if not steps:
            return cls(*np.zeros((4, 0), np.int64))
        row = staged.engine_place[launches.stage_range_of_call]
        row[launches.stage_range_of_call < 0] = -1
        last = np.full(steps + 1, NULL)
        own = trace.own_calls
        np.maximum.at(last, row[own], trace.calls.end[own])
        range_end = np.append(launches.tree.ranges.end[staged.engine.rows], 0)
        after = np.where(trace.calls.start >= range_end[row], row, -1)
        kernels, of_kernel = trace.kernels, launches.of_op(after)[: len(trace.kernels)]
        mine = trace.own_kernels
        return cls(
            last_call=last[:-1],
            launches=count_by(after[own][launches.call_has_op[own]] + 1, steps + 1)[1:],
            kernels=count_by(of_kernel[mine] + 1, steps + 1)[1:],
            kernel_total_ns=sum_by(of_kernel[mine] + 1, (kernels.end - kernels.start)[mine], steps + 1)[1:],
        )

    def merge(self, other: Self) -> Self:
        """Both together."""
        return type(self)(**add_columns(self._columns, other._columns))

    def absorb(self, later: Self) -> bool:
        """Add a later part's."""
        absorb_columns(self._columns, later._columns)
        return True

    @property
    def _columns(self) -> dict[str, Ints]:
        return {one.name: getattr(self, one.name) for one in fields(AfterRange)}
