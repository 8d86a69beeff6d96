"""A part of a report, with every launch tied to its ranges, stage and step: what all measures are taken from."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple, Self

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints
from dsprof.attribute.ranges import Places, RangeTree, numbered
from dsprof.attribute.stages import StageRanges
from dsprof.trace import Trace, process_of


class Scope(NamedTuple):
    """Operations in the order in which the threads (or processes) of a trace launched them."""

    number: Ints  # of the scope, for each position of the order
    launch: Ints  # when the API call started, for each position
    op: Ints  # the operation at each position


class Launches:
    """The API calls and operations of `trace`, tied to ranges and stages: each index is made once, when asked for."""

    def __init__(self, trace: Trace, tree: RangeTree, stages: StageRanges) -> None:
        self.trace, self.tree, self.stages = trace, tree, stages

    @classmethod
    def take(cls, trace: Trace, tree: RangeTree, stages: StageRanges) -> Self:
        """Of a part of a report."""
        return cls(trace, tree, stages)

    # -- launches ---------------------------------------------------------------------------------------

    @cached_property
    def call_of_op(self) -> Ints:
        """The API call behind each operation, -1 where the report has none; shape (operations,)."""
        ops, calls = self.trace.operations, self.trace.calls
        if self.trace.call_of_op is not None:
            return self.trace.call_of_op
        return at.join_calls(ops.process, ops.correlation, process_of(calls.thread), calls.correlation, calls.start)

    @cached_property
    def _places(self) -> Places:
        return self.tree.place_of(self.trace.calls.thread)

    @cached_property
    def call_has_op(self) -> Bools:
        """True for the API calls that put something on the GPU; shape (calls,)."""
        has = np.zeros(len(self.trace.calls), np.bool_)
        has[self.call_of_op[self.call_of_op >= 0]] = True
        return has

    @cached_property
    def op_order(self) -> Ints:
        """The operations by start."""
        return at.in_order(self.trace.operations.start)

    @cached_property
    def thread_order(self) -> Scope:
        """Operations that have a launch, by thread and launch time."""
        return self._order(self._places.thread)

    @cached_property
    def process_order(self) -> Scope:
        """Operations that have a launch, by process and launch time."""
        return self._order(self._places.process)

    def _order(self, scope_of_call: Ints) -> Scope:
        start, call = self.trace.calls.start, self.call_of_op
        by_start, rank = at.in_order(start), np.empty(len(start), np.int64)
        rank[by_start[at.by_number(scope_of_call[by_start], len(self.tree.threads) + 1)]] = np.arange(len(start))
        # By the calls, so that the operations of each of two calls at once stay together.
        op = at.by_number(self.of_op(rank), len(rank))
        call = call[op]
        return Scope(scope_of_call[call], start[call], op)

    # -- ranges -----------------------------------------------------------------------------------------

    @cached_property
    def reached(self) -> Ints:
        """The ranges that can enclose a call of this part; all, in a whole report."""
        part = self.trace.part
        if self.trace.is_whole:
            return np.arange(len(self.tree.ranges))
        low = min(part.low, int(self.trace.calls.start.min(initial=part.low)))
        return self.tree.touching(low, part.high)

    @cached_property
    def covered(self) -> list[tuple[Scope, Ints, Ints, Ints]]:
        """What the ranges `reached` enclose: ``(order, positions in `reached`, low, high)``, per kind of scope.

        A range encloses the launches of its thread; one that another thread ended, those of its process.
        """
        ranges, of = self.tree.ranges, self.reached
        reach = ranges.of_process[of]
        parts = []
        for whole in (False, True):
            which = np.flatnonzero(reach == whole)
            if not len(which) and whole:
                continue
            order, chosen = (self.process_order if whole else self.thread_order), of[which]
            process = process_of(ranges.thread[chosen])
            number = numbered(self.tree.processes, process) if whole else self.tree.of_thread[chosen]
            start, end = ranges.start[chosen], ranges.end[chosen]
            scopes = int(max(number.max(initial=0), order.number.max(initial=0))) + 1
            keys = at.Keys(scopes, order.launch, start, end)
            low, high = at.slices(
                keys.pack(order.number, order.launch), keys.pack(number, start), keys.pack(number, end)
            )
            parts.append((order, which, low, high))
        return parts

    @cached_property
    def range_of_call(self) -> Ints:
        """The innermost range of any domain around each API call, -1 for none; shape (calls,)."""
        calls = self.trace.calls
        return self.tree.enclosing(self.reached, self._places, calls.start)[0]

    def of_op(self, of_call: Ints, missing: int = -1) -> Ints:
        """Carry a column of the API calls over to their operations; `missing` where there is no call."""
        if not len(of_call):
            return np.full(len(self.call_of_op), missing, np.int64)
        if self._every_op_has_a_call:
            return of_call[self.call_of_op]
        return np.where(self.call_of_op >= 0, of_call[self.call_of_op], missing)

    @cached_property
    def _every_op_has_a_call(self) -> bool:
        return not (self.call_of_op < 0).any()

    # -- stages and steps -------------------------------------------------------------------------------

    @cached_property
    def _stage_of_call(self) -> tuple[Ints, Ints]:
        return self.stages.around(self.stages.rows, self._places, self.trace.calls.start)

    @property
    def stage_range_of_call(self) -> Ints:
        """The nearest stage range around each API call, -1 for none."""
        return self._stage_of_call[0]

    @cached_property
    def stage_range_of_op(self) -> Ints:
        """The nearest stage range around each operation's launch, -1 for none."""
        return self.of_op(self.stage_range_of_call)

    @property
    def via_of_call(self) -> Ints:
        """How each API call came by its stage: an index into `VIA`."""
        return self._stage_of_call[1]

    @cached_property
    def step_range_of_call(self) -> Ints:
        """The nearest step range around each API call, -1 for none, or for a step of another stage."""
        found = self.stages.around(self.stages.steps, self._places, self.trace.calls.start)[0]
        stage = np.append(self.stages.of_step, -1)[self.stages.step_row[found]]
        return np.where(stage == self.stage_range_of_call, found, -1)

    @cached_property
    def step_of_call(self) -> Ints:
        """Number of the step around each API call, NULL for none."""
        return np.append(self.stages.step_number, NULL)[self.stages.step_row[self.step_range_of_call]]
