"""What each NVTX range encloses: sums, and the first start and the last end of its operations on the GPU."""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Ints
from dsprof.attribute.launches import Launches, Scope
from dsprof.facts import Measure
from dsprof.measures.totals import add_columns
from dsprof.records import frozen

#: From the end of a range so many calls are looked at one by one: more than one hardly ever end after it.
_CALLS_BACK = 16
#: Sums over what a range encloses, as `range_trace` names them.
SUMS = ("api_calls", "straddling_calls", "gpu_ops", "kernels", "kernel_total_ns", "gpu_busy_ns")


@frozen(eq=False)
class RangeSums(Measure):
    """Columns of some of `count` ranges, given by their sorted rows; all others have launched nothing."""

    count: int
    rows: Ints
    columns: dict[str, Ints]

    def of_all(self) -> dict[str, Ints]:
        """The columns for all ranges."""
        if len(self.rows) == self.count:
            return self.columns
        columns = {name: np.full(self.count, NULL if name.startswith("proj_") else 0) for name in self.columns}
        for name, column in self.columns.items():
            columns[name][self.rows] = column
        return columns

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        rows = launches.reached
        result = {column: np.zeros(len(rows), np.int64) for column in SUMS}
        result |= {column: np.full(len(rows), NULL) for column in ("proj_start_ns", "proj_end_ns")}
        for order, which, low, high in launches.covered:
            for column, value in _enclosed(launches, order, low, high).items():
                result[column][which] = value
            ends = launches.tree.ranges.end[rows[which]]
            result["straddling_calls"][which] = _straddling(launches, order, ends, low, high)
        return cls(len(launches.tree.ranges), rows, result)

    def merge(self, other: Self) -> Self:
        """Both together."""
        rows = np.concatenate([self.rows, other.rows])
        order = np.argsort(rows, kind="stable")  # two runs
        rows = rows[order]
        kept = np.append(True, rows[1:] != rows[:-1])[: len(rows)]
        again = np.flatnonzero(~kept)
        both = {name: np.concatenate([column, other.columns[name]])[order] for name, column in self.columns.items()}
        parts = [{name: column[again + shift] for name, column in both.items()} for shift in (-1, 0)]
        for name, values in add_columns(*parts).items():
            both[name][again - 1] = values
        return type(self)(self.count, rows[kept], {name: column[kept] for name, column in both.items()})


def _enclosed(launches: Launches, order: Scope, low: Ints, high: Ints) -> dict[str, Ints]:
    trace, ops = launches.trace, launches.trace.operations
    start, end, call = ops.start[order.op], ops.end[order.op], launches.call_of_op[order.op]
    is_kernel = order.op < ops.kernels
    result = {"gpu_busy_ns": at.busy_in_slices(order.number, trace.clip(start), trace.clip(end), low, high)}
    first_of_call = np.append(True, call[1:] != call[:-1])[: len(call)]
    if not isinstance(trace.own_ops, slice):
        own = trace.own_ops[order.op]
        rank = np.append(0, np.cumsum(own))
        low, high = rank[low], rank[high]
        start, end, is_kernel, first_of_call = start[own], end[own], is_kernel[own], first_of_call[own]
    return {
        **result,
        "api_calls": at.slice_sum(first_of_call.astype(np.int64), low, high),
        "gpu_ops": high - low,
        "kernels": at.slice_sum(is_kernel.astype(np.int64), low, high),
        "kernel_total_ns": at.slice_sum(is_kernel * (end - start), low, high),
        "proj_start_ns": at.slice_min(start, low, high),
        "proj_end_ns": at.slice_max(end, low, high),
    }


def _straddling(launches: Launches, order: Scope, range_end: Ints, low: Ints, high: Ints) -> Ints:
    """Of some ranges: API calls with operations that start in it and end after it."""
    call = launches.call_of_op[order.op]
    first = np.append(True, call[1:] != call[:-1])[: len(call)] & (call >= launches.trace.part.calls)
    rank = np.append(0, np.cumsum(first))
    low, high, number = rank[low], rank[high], order.number[first]
    last, call_end, count = high - 1, launches.trace.calls.end[call[first]], np.zeros(len(low), np.int64)
    keys = at.Keys(int(number.max(initial=0)) + 1, call_end, range_end)
    reach = np.maximum.accumulate(keys.pack(number, call_end))
    active = np.arange(len(low))
    # From the slice's last call backwards, as far as any earlier call ends after the range.
    for _ in range(_CALLS_BACK):
        active = active[last[active] >= low[active]]
        limit = keys.pack(number[last[active]], range_end[active])
        active = active[reach[last[active]] > limit]
        count[active] += call_end[last[active]] > range_end[active]
        last[active] -= 1
    if len(active):
        ones = np.ones(len(call_end), np.int64)
        count[active] = at.slice_sum_above(call_end, ones, low[active], high[active], range_end[active])
    return count
