"""What a program does once: loading kernels, allocating, making graphs and handles, launching a kernel at first.

Each stage and each step has the host's time in such calls. What the others have too is no sign of a warm-up; what it
has beyond them is (`answers.warm_up`).
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from attrs import astuple

from dsprof import arrays as at
from dsprof.arrays import Ints
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.measures.causes import CAUSES
from dsprof.measures.totals import absorb_columns
from dsprof.records import frozen

#: Calls that are made once as a rule, as their names begin, by what they do.
ONCE = {
    "loading kernels": CAUSES["load"].calls,
    "allocating": CAUSES["alloc"].calls,
    "making graphs": ("cudaStreamBeginCapture", "cuStreamBeginCapture", "cudaStreamEndCapture", "cuStreamEndCapture",
                      "cudaGraphInstantiate", "cuGraphInstantiate", "cudaGraphUpload", "cuGraphUpload"),
    "making handles": ("cudaStreamCreate", "cuStreamCreate", "cudaEventCreate", "cuEventCreate", "cuCtxCreate",
                       "cuDevicePrimaryCtxRetain", "cudaDeviceSetLimit"),
}  # fmt: skip
FIRST_LAUNCHES = "first launches"


class Spent(NamedTuple):
    """Of each stage, or of each step: how many calls it made, and their time in ns."""

    calls: Ints
    time: Ints

    def and_also(self, other: Spent) -> Spent:
        """Both together."""
        return Spent(self.calls + other.calls, self.time + other.time)


@frozen(eq=False)
class ColdCalls(Measure):
    """The host's calls `ONCE`, by what they do: of each stage, and of each step."""

    stages: dict[str, Spent]
    steps: dict[str, Spent]

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        trace, staged = launches.trace, launches.stages
        own = trace.own_calls
        stage = staged.row[launches.stage_range_of_call][own]
        step = staged.step_row[launches.step_range_of_call][own]
        spent, name = (trace.calls.end - trace.calls.start)[own], trace.calls.name[own]
        found: tuple[dict[str, Spent], dict[str, Spent]] = {}, {}
        for what, prefixes in ONCE.items():
            mine = np.flatnonzero(trace.named(*prefixes)[name])
            for columns, row, rows in zip(found, (stage, step), (len(staged.rows), len(staged.steps)), strict=True):
                columns[what] = spent_by(row[mine], spent[mine], rows)
        return cls(*found)

    def merge(self, other: Self) -> Self:
        """Both together."""
        return type(self)(
            {what: one.and_also(other.stages[what]) for what, one in self.stages.items()},
            {what: one.and_also(other.steps[what]) for what, one in self.steps.items()},
        )

    def absorb(self, later: Self) -> bool:
        """Add a later part's."""
        _absorb(self.stages, later.stages)
        _absorb(self.steps, later.steps)
        return True


def _absorb(into: dict[str, Spent], later: dict[str, Spent]) -> None:
    """Add what a later part knows of each kind, in place."""
    for what, one in into.items():
        absorb_columns(one._asdict(), later[what]._asdict())


def spent_by(row: Ints, spent: Ints, rows: int) -> Spent:
    """Calls and their time of each row; -1 for none."""
    return Spent(count_by(row + 1, rows + 1)[1:], sum_by(row + 1, spent, rows + 1)[1:])


@frozen(eq=False)
class FirstLaunches(Measure):
    """The first launch of each kernel name in each process: when it was, how long its call took, and where it was.

    `api` is the code of the call's name; `stage` and `step` are rows of `StageRanges.rows` and `StageRanges.steps`, -1
    for none.
    """

    process: Ints
    kernel: Ints
    start: Ints
    spent: Ints
    api: Ints
    stage: Ints
    step: Ints

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        kernels, calls, staged = launches.trace.kernels, launches.trace.calls, launches.stages
        own = np.arange(launches.trace.part.kernels, len(kernels))
        own = own[launches.call_of_op[own] >= 0]
        call = launches.call_of_op[own]
        stage = staged.row[launches.stage_range_of_call][call]
        step = staged.step_row[launches.step_range_of_call][call]
        start, spent, api = calls.start[call], (calls.end - calls.start)[call], calls.name[call].astype(np.int64)
        name = kernels.name[own].astype(np.int64)
        return cls(kernels.process[own], name, start, spent, api, stage, step)._first()

    def merge(self, other: Self) -> Self:
        """Both together; they are of one report."""
        columns = zip(astuple(self, recurse=False), astuple(other, recurse=False), strict=True)
        return type(self)(*map(np.concatenate, columns))._first()

    def _first(self) -> Self:
        """The first of each name in each process."""
        order = at.in_order(self.start)
        heads = order[at.group_rows(self.process[order], self.kernel[order])[0]]
        return type(self)(*(column[heads] for column in astuple(self, recurse=False)))
