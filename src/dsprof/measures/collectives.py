"""Collectives: the kernels by which ranks talk to each other, a row each."""

from __future__ import annotations

from typing import Self

import numpy as np
from attrs import evolve

from dsprof.arrays import NULL, Bools, Ints, used_codes
from dsprof.attribute.launches import Launches
from dsprof.attribute.nccl import NcclRanges
from dsprof.facts import Measure
from dsprof.measures.by_name import Words, united
from dsprof.records import frozen
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
