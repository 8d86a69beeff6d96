"""What was launched in each stage and in each step: counts, sums, busy time, and on which GPUs."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from attrs import fields

from dsprof import arrays as at
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.records import frozen
from dsprof.trace import GRAPH_LAUNCHES


def earliest(one: Ints, other: Ints) -> Ints:
    """The smaller of each two values, NULL being none."""
    return np.where((one == NULL) | (other == NULL), np.maximum(one, other), np.minimum(one, other))


def add_columns(one: dict[str, Ints], other: dict[str, Ints]) -> dict[str, Ints]:
    """Columns of two parts, added by name; the first start and the last end are chosen."""
    choose: dict[str, Any] = {"proj_start_ns": earliest, "proj_end_ns": np.maximum, "last_call": np.maximum}
    return {name: choose.get(name, np.add)(one[name], other[name]) for name in one}


#: What a row has of which a part knows nothing, where that is not 0.
_EMPTY = {"proj_start_ns": NULL, "proj_end_ns": NULL, "last_call": NULL}


def absorb_columns(into: dict[str, Ints], later: dict[str, Ints], tail: int = 0) -> None:
    """Add columns of a later part to others in place, where it has something; by row, but for the last `tail` ones."""
    rows = len(next(iter(into.values()))) - tail
    some = np.zeros(rows, np.bool_)
    for name, column in later.items():
        some |= column[:rows] != _EMPTY.get(name, 0)
    found = np.flatnonzero(some)
    stretches = [slice(found[0], found[-1] + 1)] if len(found) else []
    for stretch in (*stretches, slice(rows, None)):
        known = add_columns(*({name: column[stretch] for name, column in part.items()} for part in (into, later)))
        for name, column in known.items():
            into[name][stretch] = column


@frozen(eq=False)
class Totals(Measure):
    """What was launched in each of some ranges; the last row is everything launched outside of all of them."""

    launches: Ints
    gpu_ops: Ints
    kernels: Ints
    kernel_total_ns: Ints
    gpu_busy_ns: Ints
    proj_start_ns: Ints
    proj_end_ns: Ints
    memcpy_ns: Ints
    memcpy_bytes: Ints
    sync_ns: Ints
    graph_launches: Ints

    def merge(self, other: Self) -> Self:
        """Both together."""
        return type(self)(**add_columns(self.columns, other.columns))

    def absorb(self, later: Self) -> bool:
        """Add a later part's."""
        absorb_columns(self.columns, later.columns, tail=1)
        return True

    @property
    def columns(self) -> dict[str, Ints]:
        """Each sum by its name."""
        return {one.name: getattr(self, one.name) for one in fields(Totals)}


@frozen(eq=False)
class StageTotals(Totals):
    """What was launched in each of `StageRanges.rows`, and in none."""

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        last, stages = len(launches.stages.rows), launches.stages
        of_call = stages.row[launches.stage_range_of_call]
        of_call[of_call < 0] = last
        return cls(**_totals(launches, launches.of_op(of_call, last), of_call, last + 1))


@frozen(eq=False)
class StepTotals(Totals):
    """What was launched in each of `StageRanges.steps`, then in each of its `with_steps` between them, and in none."""

    @classmethod
    def take(cls, launches: Launches, by_stage: StageTotals) -> Self:
        """Of a part of a report."""
        stages, steps = launches.stages, len(launches.stages.steps)
        last = steps + len(stages.with_steps)
        if stages.steps_are_stages:  # and nothing is between them
            empty = {name: np.full(last - steps, _EMPTY.get(name, 0)) for name in by_stage.columns}
            return cls(**{name: np.concatenate([column[:-1], empty[name], column[-1:]])
                          for name, column in by_stage.columns.items()})  # fmt: skip
        of_call, rows = step_of_call(launches)
        return cls(**_totals(launches, launches.of_op(of_call, last), of_call, rows))


def step_of_call(launches: Launches) -> tuple[Ints, int]:
    """The row of `StepTotals` of each API call, the last for those in none; and how many rows it has."""
    stages, steps = launches.stages, len(launches.stages.steps)
    last = steps + len(stages.with_steps)
    between = np.full(len(stages.rows) + 1, last)
    between[stages.row[stages.with_steps]] = np.arange(steps, last)
    of_step = stages.step_row[launches.step_range_of_call]
    of_call = np.where(of_step >= 0, of_step, between[stages.row[launches.stage_range_of_call]])
    return of_call, last + 1


def _totals(launches: Launches, of_op: Ints, of_call: Ints, rows: int) -> dict[str, Ints]:
    """Sums over the operations and API calls of each of `rows` groups; the two columns tell the group of each."""
    trace = launches.trace
    ops, own = trace.operations, trace.own_ops
    duration = ops.end - ops.start
    kernels = trace.own_kernels
    copies = np.flatnonzero(trace.memops.kind >= 0)
    copies = copies[copies >= trace.part.memops]
    of_copy = of_op[ops.kernels + copies]
    calls, own_call = trace.calls, of_call[trace.own_calls]
    has_op, waits = launches.call_has_op[trace.own_calls], trace.call_synchronizes[trace.own_calls]
    graphs = has_op & trace.named(*GRAPH_LAUNCHES)[calls.name[trace.own_calls]]
    first, last = _extremes(of_op[own], ops.start[own], ops.end[own], rows)
    return {
        "launches": count_by(own_call[has_op], rows),
        "gpu_ops": count_by(of_op[own], rows),
        "kernels": count_by(of_op[: ops.kernels][kernels], rows),
        "kernel_total_ns": sum_by(of_op[: ops.kernels][kernels], duration[: ops.kernels][kernels], rows),
        "gpu_busy_ns": at.union_length(of_op, trace.clip(ops.start), trace.clip(ops.end), rows),
        "proj_start_ns": first,
        "proj_end_ns": last,
        "memcpy_ns": sum_by(of_copy, duration[ops.kernels + copies], rows),
        "memcpy_bytes": sum_by(of_copy, trace.memops.bytes[copies], rows),
        "sync_ns": sum_by(own_call[waits], (calls.end - calls.start)[trace.own_calls][waits], rows),
        "graph_launches": count_by(own_call[graphs], rows),
    }


def _extremes(group: Ints, start: Ints, end: Ints, groups: int) -> tuple[Ints, Ints]:
    """First start and last end of each group, NULL for an empty one."""
    first, last = np.full(groups, np.iinfo(np.int64).max), np.full(groups, NULL)
    np.minimum.at(first, group, start)
    np.maximum.at(last, group, end)
    return np.where(last == NULL, NULL, first), last


@frozen(eq=False)
class StageDevices(Measure):
    """On which devices each stage ran: the distinct pairs of a row of `StageRanges.rows` and a device."""

    pairs: Ints  # row << 16 | device

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        stage = launches.stages.row[launches.stage_range_of_op]
        inside = np.flatnonzero(stage >= 0)
        return cls(at.distinct(stage[inside] << 16 | launches.trace.operations.device[inside] & 0xFFFF))

    def merge(self, other: Self) -> Self:
        """Both together."""
        return type(self)(at.distinct_in_any_order(self.pairs, other.pairs))

    @property
    def stage(self) -> Ints:
        """The row of each pair."""
        return self.pairs >> 16

    @property
    def device(self) -> Ints:
        """The device of each pair."""
        return self.pairs & 0xFFFF
