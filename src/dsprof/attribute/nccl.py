"""Which of NCCL's calls launched a kernel, and so its communicator and message size.

::

    ncclAllReduce    [launch]              a call launches what it does itself,
    ncclGroupStart []
    ncclSend         []   []               but of calls in a group the end of the outermost one does:
    ncclGroupEnd             [launch]      what they have in common is known, and whose kernel is whose is not

A kernel that came through a CUDA graph is of the call in which its node was born, at each launch of the graph anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Ints
from dsprof.attribute.launches import Launches
from dsprof.attribute.ranges import RangeTree
from dsprof.trace import GraphNodes, NcclCalls

#: The calls that launch kernels, and those around a group of them, as their ranges are named.
_LAUNCHING = frozenset(
    ("ncclAllReduce", "ncclAllGather", "ncclReduceScatter", "ncclBroadcast", "ncclBcast", "ncclReduce", "ncclSend",
     "ncclRecv", "ncclAlltoAll", "ncclAllToAll", "ncclAllToAllv", "ncclGather", "ncclScatter")
)  # fmt: skip
_GROUP_START, _GROUP_END = "ncclGroupStart", "ncclGroupEnd"
_OTHER, _CALL, _START, _END = range(4)


class Launching(NamedTuple):
    """Ranges in which NCCL launches kernels: their rows, and what is known of all that they launch; NULL: nothing."""

    row: Ints
    communicator: Ints
    bytes: Ints


class NcclRanges:
    """NCCL's calls of a report that says what they are; each index is made once, when it is asked for."""

    def __init__(self, tree: RangeTree, calls: NcclCalls, nodes: GraphNodes) -> None:
        self._tree, self.calls, self._nodes = tree, calls, nodes

    @cached_property
    def _kind(self) -> Ints:
        """What each range is: a place in ``_OTHER, _CALL, _START, _END``."""
        names = self._tree.names
        kind = np.zeros(len(names), np.int64)
        for code in at.distinct(self._tree.ranges.name.astype(np.int64)).tolist():
            kind[code] = (
                _START if names[code] == _GROUP_START
                else _END if names[code] == _GROUP_END
                else _CALL if names[code] in _LAUNCHING
                else _OTHER
            )  # fmt: skip
        return kind[self._tree.ranges.name]

    @cached_property
    def launching(self) -> Launching:
        """The calls, and the ends of groups, in which kernels are launched."""
        ranges = self._tree.ranges
        if not len(self.calls):
            nothing = np.zeros(0, np.int64)
            return Launching(nothing, nothing, nothing)
        said = np.full((2, len(ranges)), NULL)
        by_id = np.argsort(ranges.range_id, kind="stable")
        place = np.searchsorted(ranges.range_id[by_id], self.calls.range_id)
        there = ranges.range_id[by_id[np.minimum(place, len(ranges) - 1)]] == self.calls.range_id if len(ranges) else []
        rows = by_id[place[there]]
        said[0, rows], said[1, rows] = self.calls.communicator[there], self.calls.bytes[there]
        whole = np.concatenate([np.zeros((3, 0), np.int64), *self._of_threads(said)], axis=1)
        return Launching(*whole)

    def _of_threads(self, said: Ints) -> Iterator[Ints]:
        """Of each thread `launching`; `said`: communicator and bytes of each range."""
        ranges = self._tree.ranges
        rows = np.flatnonzero(self._kind > 0)
        rows = rows[np.lexsort((ranges.start[rows], ranges.thread[rows]))]
        for _, of_thread in at.each(ranges.thread[rows]):
            own = rows[of_thread]
            kind = self._kind[own]
            inside = np.cumsum((kind == _START).astype(np.int64) - (kind == _END))
            inside -= np.minimum(np.minimum.accumulate(inside), 0)  # ends whose start came before the recording
            before = np.append(0, inside[:-1])
            alone = own[(kind == _CALL) & (inside == 0)]
            yield np.stack([alone, *said[:, alone]])
            ends = np.flatnonzero((kind == _END) & (before == 1))
            group = np.searchsorted(ends, np.flatnonzero((kind == _CALL) & (inside > 0)))
            calls = own[(kind == _CALL) & (inside > 0)]
            yield np.stack([own[ends], *_in_common(said[:, calls], group, len(ends))])

    @cached_property
    def _of_node(self) -> Ints:
        """The place in `launching` of the call around each node's birth, -1 for none; and -1 more, for no node."""
        return np.append(self._around(self._nodes.thread, self._nodes.start), -1)

    def of_kernels(self, launches: Launches, rows: Ints) -> Ints:
        """The place in `launching` of the call that each of some kernels of a part is of, -1 for none."""
        trace, call = launches.trace, launches.call_of_op[rows]
        found, called = np.full(len(rows), -1), np.flatnonzero(call >= 0)
        found[called] = self._around(trace.calls.thread[call[called]], trace.calls.start[call[called]])
        node = trace.kernels.graph_node[rows]
        if not len(self._nodes) or not (node != NULL).any():
            return found
        known = self._nodes
        nothing = np.zeros(len(known), np.int64)
        born = at.join_calls(trace.kernels.process[rows], node, known.process, known.node, nothing)
        return np.where((found < 0) & (node != NULL), self._of_node[born], found)

    def _around(self, thread: Ints, time: Ints) -> Ints:
        """The place in `launching` of the innermost range around some points in time of threads, -1 for none."""
        found = self.launching.row
        if not len(found):
            return np.full(len(time), -1)
        place = np.full(len(self._tree.ranges) + 1, -1)
        place[found] = np.arange(len(found))
        return place[self._tree.enclosing(found, self._tree.place_of(thread), time)[0]]

    def said_of(self, call: Ints, launched: Ints) -> tuple[Ints, Ints]:
        """Communicator and size of all kernels by their calls; of several that one call launched no size is known.

        `launched`: when the API call of each began: those of a graph, outside of NCCL's call, are of that launch alone.
        """
        known, ranges = self.launching, self._tree.ranges
        begin, end = (np.append(edge[known.row], NULL)[call] for edge in (ranges.start, ranges.end))
        heads, group = at.group_rows(call, np.where((launched >= begin) & (launched < end), NULL, launched))
        alone = np.bincount(group, minlength=len(heads))[group] == 1
        size = np.append(known.bytes, NULL)[call]
        return np.append(known.communicator, NULL)[call], np.where(alone, size, NULL)


def _in_common(said: Ints, group: Ints, groups: int) -> tuple[Ints, Ints]:
    """Of calls in groups what holds for all that a group launches: a communicator if it is one, a size of one call."""
    known = group < groups
    communicator, size, group = said[0][known], said[1][known], group[known]
    low, high = np.full(groups, np.iinfo(np.int64).max), np.full(groups, NULL)
    np.minimum.at(low, group, communicator)
    np.maximum.at(high, group, communicator)
    sizes = np.full(groups, NULL)
    sizes[group] = size
    return np.where(low == high, low, NULL), np.where(np.bincount(group, minlength=groups) == 1, sizes, NULL)
