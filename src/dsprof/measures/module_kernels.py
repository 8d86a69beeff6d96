"""Kernel time by the module of the model that it is of."""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import Sums, sums
from dsprof.attribute.launches import Launches
from dsprof.attribute.modules import ModuleRanges
from dsprof.facts import Measure
from dsprof.records import frozen


@frozen(eq=False)
class ModuleKernels(Measure):
    """Kernels by stage and innermost range of a module; the group is ``stage * (ranges + 1) + range``.

    A range is a place in `ModuleRanges.rows`, the last one stands for none. `replayed`: those of the kernels that are
    of a CUDA graph and of the module in which their node was born. `unborn`: kernels of graphs whose node's birth is
    not in the report, where that has ranges of modules.
    """

    ranges: int
    kernels: Sums
    replayed: Sums
    unborn: int

    @classmethod
    def take(cls, launches: Launches, modules: ModuleRanges) -> Self:
        """Of a part of a report."""
        kernels, own, stages = launches.trace.kernels, launches.trace.own_kernels, launches.stages
        duration, ranges = (kernels.end - kernels.start)[own], len(modules.rows)
        stage = stages.code_of(launches.stage_range_of_op[: len(kernels)][own])
        module, born = _modules(launches, modules)
        group = stage * (ranges + 1) + np.where(module >= 0, module, ranges)
        replayed = np.flatnonzero(born >= 0)
        return cls(
            ranges,
            sums(group, np.ones_like(group), duration),
            sums(group[replayed], np.ones_like(replayed), duration[replayed]),
            int(np.count_nonzero(born == _UNBORN)),
        )

    def merge(self, other: Self) -> Self:
        """Both together; they are of one report."""

        def both(mine: Sums, theirs: Sums) -> Sums:
            return sums(*(np.concatenate(columns) for columns in zip(mine, theirs, strict=True)))

        kernels, replayed = both(self.kernels, other.kernels), both(self.replayed, other.replayed)
        return type(self)(self.ranges, kernels, replayed, self.unborn + other.unborn)


#: In place of a range: the node's birth is not known; the kernel is of no graph.
_UNBORN, _NO_NODE = -2, -3


def _modules(launches: Launches, modules: ModuleRanges) -> tuple[Ints, Ints]:
    """Of each kernel of its own the innermost range of a module, -1 for none; and that of its node's birth."""
    trace = launches.trace
    process, node = (column[trace.own_kernels] for column in (trace.kernels.process, trace.kernels.graph_node))
    born = np.full(len(node), _NO_NODE)
    if not len(modules.rows):
        return np.full(len(node), -1), born
    launched = launches.of_op(modules.around(trace.calls.thread, trace.calls.start))
    launched = launched[: len(trace.kernels)][trace.own_kernels]
    replayed = np.flatnonzero(node != NULL)
    if len(replayed):
        born[replayed] = modules.of_nodes(process[replayed], node[replayed])
    return np.where(born >= 0, born, launched), born
