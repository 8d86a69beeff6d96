"""How much a report holds, and what it lacks."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from attrs import field, fields

from dsprof import arrays as at
from dsprof.arrays import Ints
from dsprof.attribute.launches import Launches
from dsprof.attribute.ranges import VIA
from dsprof.facts import Measure
from dsprof.records import frozen
from dsprof.trace import GRAPH_LAUNCHES, process_of


@frozen
class Tally(Measure):
    """How much a report holds, and what it lacks; the last three by process.

    `graphs`: replays of CUDA graphs traced as a whole; `replays`: those traced by their nodes, of which it has `nodes`.
    """

    processes: frozenset[int] = frozenset()
    threads: frozenset[int] = frozenset()
    calls: int = 0
    kernels: int = 0
    kernel_total_ns: int = 0
    memops: int = 0
    graphs: int = 0
    replays: int = 0
    nodes: int = 0
    via: tuple[int, ...] = (0,) * len(VIA)
    expected: dict[int, int] = field(factory=dict)
    lost: dict[int, int] = field(factory=dict)
    orphans: dict[int, int] = field(factory=dict)

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        trace, kernels = launches.trace, launches.trace.own_kernels
        threads = np.concatenate([launches.tree.threads, at.distinct(trace.calls.thread)])
        processes = np.concatenate([process_of(threads), at.distinct(trace.operations.process)])
        via = launches.of_op(launches.via_of_call, missing=0)[: len(trace.kernels)][kernels]
        caller = process_of(trace.calls.thread[trace.own_calls])
        launching = trace.call_launches[trace.own_calls]
        replays, nodes = _nodes(launches)
        orphan = launches.call_of_op[trace.own_ops] < 0
        process = trace.operations.process[trace.own_ops]
        return cls(
            processes=frozenset(processes.tolist()),
            threads=frozenset(threads.tolist()),
            calls=len(caller),
            kernels=len(trace.kernels) - trace.part.kernels,
            kernel_total_ns=int((trace.kernels.end - trace.kernels.start)[kernels].sum()),
            memops=len(trace.memops) - trace.part.memops,
            graphs=int(trace.kernels.is_graph[kernels].sum()),
            replays=replays,
            nodes=nodes,
            via=tuple(np.bincount(via, minlength=len(VIA)).tolist()),
            expected=_by_process(caller[launching]),
            lost=_by_process(caller[launching & ~launches.call_has_op[trace.own_calls]]),
            orphans=_by_process(process[orphan]),
        )

    def merge(self, other: Self) -> Self:
        """Both together."""

        def added(name: str) -> Any:
            mine, theirs = getattr(self, name), getattr(other, name)
            if isinstance(mine, frozenset):
                return mine | theirs
            if isinstance(mine, tuple):
                return tuple(x + y for x, y in zip(mine, theirs, strict=True))
            if isinstance(mine, dict):
                return {key: mine.get(key, 0) + theirs.get(key, 0) for key in {**mine, **theirs}}
            return mine + theirs

        return type(self)(**{column.name: added(column.name) for column in fields(Tally)})


def _nodes(launches: Launches) -> tuple[int, int]:
    """Replays of CUDA graphs that were traced by their nodes, and the nodes."""
    trace = launches.trace
    launching = trace.named(*GRAPH_LAUNCHES)
    if not launching.any():
        return 0, 0
    whole = np.zeros(len(trace.calls) + 1, np.bool_)
    whole[launches.call_of_op[: len(trace.kernels)][trace.kernels.is_graph]] = True
    by_nodes = launching[trace.calls.name] & launches.call_has_op & ~whole[:-1]
    nodes = launches.of_op(by_nodes.astype(np.int64), missing=0)
    return int(by_nodes[trace.own_calls].sum()), int(nodes[trace.own_ops].sum())


def _by_process(process: Ints) -> dict[int, int]:
    heads, group = at.group_rows(process)
    return dict(zip(process[heads].tolist(), np.bincount(group).tolist(), strict=True))
