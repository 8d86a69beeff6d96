"""Which samples of Python were taken while its thread was in a CUDA call; the others are outside of CUDA."""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import Bools
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.records import frozen
from dsprof.trace import PythonSamples, pid_of

#: Python's number of a process's main thread.
MAIN = 1


@frozen(eq=False)
class PythonInCuda(Measure):
    """For each sample: was its thread in a CUDA call? Known of main threads alone; False for the others."""

    inside: Bools

    @classmethod
    def take(cls, launches: Launches, samples: PythonSamples) -> Self:
        """Of a part of a report: of the samples in its time."""
        inside, part, calls = np.zeros(len(samples), np.bool_), launches.trace.part, launches.trace.calls
        mine = (samples.start >= part.low) & (samples.start < part.high) & (samples.thread == MAIN)
        for process, rows in at.each(np.where(mine, samples.process, -1)):
            own = np.flatnonzero(calls.thread == process | pid_of(process)) if process >= 0 else rows[:0]
            if not len(own):
                continue
            order = own[np.argsort(calls.start[own], kind="stable")]
            until = np.maximum.accumulate(calls.end[order])
            before = np.searchsorted(calls.start[order], samples.start[rows], side="right") - 1
            inside[rows] = (before >= 0) & (until[np.maximum(before, 0)] > samples.start[rows])
        return cls(inside)

    def merge(self, other: Self) -> Self:
        """Both together."""
        return type(self)(self.inside | other.inside)
