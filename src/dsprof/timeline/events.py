"""What of a part of a report is drawn: its API calls, and its operations with the call that launched each."""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.measures.rank_work import OpsOfRanks
from dsprof.records import frozen
from dsprof.rules.families import FamilyCodes
from dsprof.trace import Calls, Trace, operation_names, rows_of

#: What a copy or a set is beside the families of kernels.
MEMORY = "memory"
Words = tuple[str, ...]
#: Sorted disjoint intervals.
Times = tuple[Ints, Ints]


@frozen
class Outline(Measure):
    """When the first event or range of a report begins, 0 where none is before that, and whose operations it has."""

    begin: int
    processes: frozenset[int]

    @classmethod
    def take(cls, trace: Trace) -> Self:
        """Of a part of a report."""
        columns = (trace.ranges.start, trace.calls.start, trace.operations.start)
        processes = frozenset(at.distinct(trace.operations.process).tolist())
        return cls(min(int(column.min(initial=0)) for column in columns), processes)

    def merge(self, other: Self) -> Self:
        """That of both."""
        return type(self)(min(self.begin, other.begin), self.processes | other.processes)


@frozen(eq=False)
class PartEvents:
    """The calls and operations that a part counts, columns in order of start; all of it can go to another thread.

    `names`: what codes of calls and kernels stand for. `operations`: `start`, `end`, `process`, `device`, `stream`,
    `correlation`, `name` (of a copy or a set behind `names`, in `memory`), `family` (in `families`), `bytes`
    (NULL: a kernel), `stage` (in `stages`), `step` (NULL: none), `call` (row of `calls`, -1: none) and `first` (1: no
    other operation of its call begins before it). `busy`: by device, when its operations run in this part's time;
    `talking`: of that, by each device that has collectives, when nothing else runs.
    """

    names: Words
    families: Words
    stages: Words
    calls: Calls
    operations: dict[str, Ints]
    busy: dict[int, Times]
    talking: dict[int, Times]

    @classmethod
    def take(cls, launches: Launches, families: FamilyCodes, ops: OpsOfRanks) -> Self:
        """Of a part of a report."""
        trace = launches.trace
        calls, place = _own_calls(launches)
        operations = _operations(launches, families)
        operations["call"] = np.append(place, -1)[operations["call"]]
        stages = launches.stages.names
        device = launches.trace.operations.device
        busy = _when(ops, device, np.ones(len(device), np.bool_))
        talking = _talking(ops, device, busy) if ops.communicates.any() else {}
        return cls(trace.names, (*families.names, MEMORY), stages, calls, operations, busy, talking)

    @property
    def all_names(self) -> Words:
        """What the codes of operations stand for."""
        return (*self.names, *operation_names(np.zeros(0, np.int64))[1])


def _own_calls(launches: Launches) -> tuple[Calls, Ints]:
    """The calls that a part counts, by start and the longest first, and where each call of the part is among them."""
    calls, own = launches.trace.calls, launches.trace.own_calls
    order = own.start + np.lexsort((-calls.end[own], calls.start[own]))
    place = np.full(len(calls), -1)
    place[order] = np.arange(len(order))
    return rows_of(calls, order), place


def _operations(launches: Launches, families: FamilyCodes) -> dict[str, Ints]:
    trace, count = launches.trace, len(launches.trace.kernels)
    ops, kernels, memops = trace.operations, trace.kernels, trace.memops
    own = np.arange(len(ops))[trace.own_ops]
    order = own[np.lexsort((-ops.end[own], ops.start[own]))]
    call = launches.call_of_op[order]
    columns = {name: getattr(ops, name)[order] for name in ("start", "end", "process", "device", "stream")}
    memory = len(trace.names) + operation_names(memops.kind)[0]
    of_memory = np.full(len(memops), len(families.names))
    known = np.where(ops.correlation[order] >= 0, ops.correlation[order], NULL)
    columns |= {
        "correlation": known,
        "name": np.concatenate([kernels.name.astype(np.int64), memory])[order],
        "family": np.concatenate([families.of(kernels.name), of_memory])[order],
        "bytes": np.concatenate([np.full(count, NULL), memops.bytes])[order],
        "stage": launches.stages.code_of(launches.stage_range_of_op[order]),
        "step": launches.of_op(launches.step_of_call, NULL)[order],
        "call": call,
        "first": _firsts(call),
    }
    return columns


def _firsts(call: Ints) -> Ints:
    """1 for the first operation of each call, 0 for the others and those without."""
    first = np.zeros(len(call), np.int64)
    first[np.unique(call, return_index=True)[1]] = 1
    return np.where(call >= 0, first, 0)


def _when(ops: OpsOfRanks, device: Ints, which: Bools) -> dict[int, Times]:
    """When some operations of each device run in the part's own time, whichever part counts them."""
    running = which & (ops.end > ops.start)
    return {
        one: at.united(ops.start[rows[running[rows]]], ops.end[rows[running[rows]]]) for one, rows in at.each(device)
    }


def _talking(ops: OpsOfRanks, device: Ints, busy: dict[int, Times]) -> dict[int, Times]:
    """When nothing but collectives runs, by each device that has some."""
    others = _when(ops, device, ~ops.communicates)
    return {one: at.beside(busy[one], others[one]) for one in at.distinct(device[ops.communicates]).tolist()}
