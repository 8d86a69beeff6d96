"""Collectives: the kernels by which ranks talk to each other, a row each, and the time of all other kernels."""

from __future__ import annotations

from typing import Self

import numpy as np
from attrs import evolve, frozen

from dsprof.arrays import NULL, Bools, Ints, group_rows, union_length, used_codes
from dsprof.arrays.statistics import sum_by
from dsprof.attribute.launches import Launches
from dsprof.attribute.nccl import NcclRanges
from dsprof.facts import Measure
from dsprof.measures.by_name import Words, united
from dsprof.rules.collectives import COMMUNICATION
from dsprof.rules.families import FamilyCodes


def communicates(launches: Launches, families: FamilyCodes) -> Bools:
    """True for the kernels of a part that communicate, also for those carried over."""
    kernels = launches.trace.kernels
    if COMMUNICATION not in families.names:
        return np.zeros(len(kernels), np.bool_)
    chosen: Bools = families.of(kernels.name) == families.names.index(COMMUNICATION)
    return chosen


@frozen(eq=False)
class Collectives(Measure):
    """The collectives of all processes, a row each, in no order that means anything.

    `names`: the kernels' names, each once. `columns`: `process` (globalPid), `device`, `stream`, `start` and `end` in
    ns of the report's clock, `launched` (when the API call began; NULL without one), `name` (place in `names`),
    `stage_range` (row of the nearest stage range around the launch, -1), `step_range` (the same of the step),
    `nccl_call` (place in `NcclRanges.launching` of NCCL's call that it is of, -1).
    """

    names: Words
    columns: dict[str, Ints]

    @classmethod
    def take(cls, launches: Launches, families: FamilyCodes, nccl: NcclRanges) -> Self:
        """Of a part of a report."""
        trace, kernels = launches.trace, launches.trace.kernels
        chosen = communicates(launches, families)
        chosen[: trace.part.kernels] = False
        rows = np.flatnonzero(chosen)
        call = launches.call_of_op[rows]
        used, name = used_codes(kernels.name[rows], len(trace.names))
        columns = {
            "process": kernels.process[rows],
            "device": kernels.device[rows],
            "stream": kernels.stream[rows],
            "start": kernels.start[rows],
            "end": kernels.end[rows],
            "launched": _at(trace.calls.start, call, NULL),
            "name": name,
            "stage_range": _at(launches.stage_range_of_call, call, -1),
            "step_range": _at(launches.step_range_of_call, call, -1) if len(rows) else rows,
            "nccl_call": nccl.of_kernels(launches, rows),
        }
        return cls(tuple(trace.names[code] for code in used.tolist()), columns)

    def merge(self, other: Self) -> Self:
        """Both together."""
        names, codes = united(self.names, other.names)
        one, two = (
            {**each.columns, "name": code[each.columns["name"]]}
            for each, code in zip((self, other), codes, strict=True)
        )
        return evolve(self, names=names, columns={column: np.concatenate([one[column], two[column]]) for column in one})


def _at(column: Ints, rows: Ints, missing: int) -> Ints:
    """A column at some rows, `missing` where the row is -1."""
    return np.append(column, missing)[rows]


@frozen(eq=False)
class ComputeBusy(Measure):
    """The time that kernels which do not communicate cover, by stage, process and device: a row each.

    `columns`: `stage` (place in `stages`), `process`, `device`, `compute_ns` (their union).
    """

    stages: Words
    columns: dict[str, Ints]

    @classmethod
    def take(cls, launches: Launches, families: FamilyCodes) -> Self:
        """Of a part of a report."""
        trace, kernels = launches.trace, launches.trace.kernels
        stage = launches.stages.code_of(launches.stage_range_of_op[: len(kernels)])
        heads, group = group_rows(stage, kernels.process, kernels.device)
        own = ~communicates(launches, families)
        busy = union_length(group[own], trace.clip(kernels.start[own]), trace.clip(kernels.end[own]), len(heads))
        keys = {"stage": stage, "process": kernels.process, "device": kernels.device}
        columns = {column: values[heads] for column, values in keys.items()}
        return cls(launches.stages.names, {**columns, "compute_ns": busy})

    def merge(self, other: Self) -> Self:
        """Both together."""
        stages, codes = united(self.stages, other.stages, last=1)
        one, two = (
            {**each.columns, "stage": code[each.columns["stage"]]}
            for each, code in zip((self, other), codes, strict=True)
        )
        both = {column: np.concatenate([one[column], two[column]]) for column in one}
        heads, group = group_rows(both["stage"], both["process"], both["device"])
        columns = {column: values[heads] for column, values in both.items()}
        columns["compute_ns"] = sum_by(group, both["compute_ns"], len(heads))
        return evolve(self, stages=stages, columns=columns)
