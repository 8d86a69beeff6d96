"""Which ranges are of modules of a model, how they lie in each other, and in which each node of a graph was born."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import Ints
from dsprof.arrays.statistics import count_by
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.rules.modules import module_of
from dsprof.trace import GraphNodes, process_of


class ModuleRanges:
    """The ranges of `tree` that are of modules; each index is made once, when it is asked for.

    A module is in the nearest one around that holds it whole, on its thread. A kernel is in the innermost module around
    its launch and in those around that; one of a CUDA graph in those around the birth of its node.
    """

    def __init__(self, tree: RangeTree, stages: StageRanges, nodes: GraphNodes) -> None:
        self._tree, self._stages, self.nodes = tree, stages, nodes

    @cached_property
    def _named(self) -> tuple[tuple[str, ...], Ints]:
        """The modules' names, sorted, and the code of each of the report's names among them, -1 for none."""
        used = at.distinct(self._tree.ranges.name.astype(np.int64)).tolist()
        found = {code: module for code in used if (module := module_of(self._tree.names[code])) is not None}
        names = sorted(set(found.values()))
        place, of_name = {name: code for code, name in enumerate(names)}, np.full(len(self._tree.names), -1)
        of_name[list(found)] = [place[module] for module in found.values()]
        return tuple(names), of_name

    @property
    def names(self) -> tuple[str, ...]:
        """The qualified names of the modules, sorted."""
        return self._named[0]

    @cached_property
    def rows(self) -> Ints:
        """The ranges that are of a module, those around others first."""
        ranges = self._tree.ranges
        rows = np.flatnonzero(self._named[1][ranges.name] >= 0) if self.names else np.zeros(0, np.int64)
        return rows[np.lexsort((-ranges.end[rows], ranges.start[rows], self._lane_of(rows)))]

    def _lane_of(self, rows: Ints) -> Ints:
        """Ranges of one lane can be in each other: those of a thread, and those of a process as a whole."""
        tree, ranges = self._tree, self._tree.ranges
        process = np.searchsorted(tree.processes, process_of(ranges.thread[rows]))
        return np.where(ranges.of_process[rows], len(tree.threads) + process, tree.of_thread[rows])

    @cached_property
    def place(self) -> Ints:
        """Where in `rows` each range stands, -1 for one that is none; and -1 more, for no range."""
        place = np.full(len(self._tree.ranges) + 1, -1)
        place[self.rows] = np.arange(len(self.rows))
        return place

    @cached_property
    def code(self) -> Ints:
        """Which of `names` each of `rows` is of."""
        return self._named[1][self._tree.ranges.name[self.rows]]

    @cached_property
    def parent(self) -> Ints:
        """The nearest of `rows` around each, -1 for none."""
        ranges = self._tree.ranges
        return at.containers(self._lane_of(self.rows), ranges.start[self.rows], ranges.end[self.rows])

    @cached_property
    def beyond(self) -> Ints:
        """Where in `rows` that is which is no more inside of each: what is in it stands from behind it to there."""
        ranges = self._tree.ranges
        return at.content_ends(self._lane_of(self.rows), ranges.end[self.rows])

    @cached_property
    def outermost(self) -> Ints:
        """Those of `rows` that are in no other range of the same module."""
        first = np.arange(len(self.rows))
        return np.flatnonzero(at.containers(self.code, first, self.beyond) < 0)

    @cached_property
    def usual(self) -> tuple[Ints, Ints]:
        """Of each module the one around it, -1 for none, and how many are around it: as most of its ranges have it."""
        around = np.append(self.code, -1)[self.parent]
        depth = at.levels(self.parent)
        heads, group = at.group_rows(self.code, around, depth)
        count = count_by(group, len(heads))
        order = np.lexsort((heads, -count, self.code[heads]))
        first = heads[order[np.searchsorted(self.code[heads[order]], np.arange(len(self.names)))]]
        return around[first], depth[first]

    @cached_property
    def stage(self) -> Ints:
        """Code of the stage in which each of `rows` began."""
        thread, start = self._tree.ranges.thread[self.rows], self._tree.ranges.start[self.rows]
        stages = self._stages
        return stages.code_of(stages.around(stages.rows, self._tree.place_of(thread), start)[0])

    @cached_property
    def of_node(self) -> Ints:
        """The innermost of `rows` in which each of `nodes` was born, -1 for none; and -2 more, for no node."""
        return np.append(self.around(self.nodes.thread, self.nodes.start), -2)

    def around(self, thread: Ints, time: Ints) -> Ints:
        """The innermost of `rows` around some points in time of some threads, -1 for none."""
        if not len(self.rows):
            return np.full(len(time), -1)
        return self.place[self._stages.around(self.rows, self._tree.place_of(thread), time)[0]]

    def of_nodes(self, process: Ints, node: Ints) -> Ints:
        """The innermost of `rows` in which some nodes of processes were born, -1 for none; -2 where nobody knows."""
        known = self.nodes
        return self.of_node[at.join_calls(process, node, known.process, known.node, np.zeros(len(known), np.int64))]
