"""Where the wall time of a stage or a step went: GPU busy, and the GPU idle by what kept it waiting.

::

    host      | launch |  python   | launch | sync ………… |
    GPU              [ kernel ]          [ kernel ]
    idle      llllllll         hhhhhhhhhhll           ss     l launch, h host, s sync

Each instant is counted once, for the first cause that holds then, in the order of `CAUSES`; so the parts add up
to the wall time exactly. "Host" is what is left: the thread was outside of all CUDA calls.

What holds at an instant is the same for all stages and steps of a thread, but for one thing: whether the GPU ran their
own operations. So each thread's time is cut once into a `_Timeline`, and a window's sums are differences of running
sums; of the time in which the process kept the GPU running, what is not the window's own is other work.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsprof import attribution as at
from dsprof import fast
from dsprof.attributed import Attributed
from dsprof.attribution import Bools, Ints
from dsprof.measure import add_columns, measure
from dsprof.measures import stage_totals, step_totals
from dsprof.trace import MEMORY_KINDS, SYNCHRONIZING, process_of

#: Why the GPU was idle, by name, in the order in which a cause is preferred, and what it means.
CAUSES = {
    "other_work": "the GPU ran operations of the process that were launched elsewhere",
    "latency": "an operation was launched, and had not begun",
    "profiler": "the profiler's own overhead on the thread",
    "alloc": "the thread allocated or freed memory",
    "pageable": "the thread was in a call that copies from or to pageable memory of the host",
    "copy": "the thread was in another call that copies or sets memory",
    "sync": "the thread waited for the GPU in a synchronizing call",
    "launch": "the thread was in a call that launches a kernel or a graph",
    "api": "the thread was in another CUDA call",
    "host": "the thread was outside of all CUDA calls",
}
_CALLS = {
    "alloc": ("cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaHostRegister", "cuMemAlloc", "cuMemFree", "cuMemCreate",
              "cuMemMap"),
    "sync": SYNCHRONIZING,
    "copy": ("cudaMemcpy", "cudaMemset", "cuMemcpy", "cuMemset"),
    "launch": ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch"),
}  # fmt: skip


class Windows(NamedTuple):
    """Stretches of wall time to account for; in a part of a report, what of each lies in the part.

    `thread`: the globalTid that opened each.
    """

    thread: Ints
    start: Ints
    end: Ints


class Accounts(NamedTuple):
    """By cause, the time of each of `stage_ranges` and of each of `step_ranges`.

    ``busy`` and `CAUSES` add up to the wall time; ``in_calls``, beside them, is the time in which the thread was inside
    a CUDA API call.
    """

    stages: dict[str, Ints]
    steps: dict[str, Ints]


def _add(one: Accounts, other: Accounts) -> Accounts:
    return Accounts(add_columns(one.stages, other.stages), add_columns(one.steps, other.steps))


@measure(merge=_add)
def accounts(a: Attributed) -> Accounts:
    """The accounts of all stages and steps, each from its begin until host and GPU are done with it.

    Of the calls only those of the window's own thread count: what other threads do does not keep it waiting. An outer
    stage is waiting for what its thread does in an inner one, too.
    """
    kinds, events = (stage_windows(a), step_windows(a)), _events(a)
    found = Accounts(*(_nothing(len(windows.start)) for windows in kinds))
    for thread in np.unique(np.concatenate([windows.thread for windows in kinds])):
        mine = [np.flatnonzero((one.thread == thread) & (one.end > one.start)) for one in kinds]
        start, end = (
            np.concatenate([column[rows] for column, rows in zip(columns, mine, strict=True)])
            for columns in zip(*((one.start, one.end) for one in kinds), strict=True)
        )
        if not len(start):
            continue
        for name, value in _sums(events, int(thread), start, end).items():
            found.stages[name][mine[0]], found.steps[name][mine[1]] = np.split(value, [len(mine[0])])
    for account, totals in zip(found, (stage_totals(a), step_totals(a)), strict=True):
        account["busy"] = totals.gpu_busy_ns[: len(account["busy"])]
        account["other_work"] -= account["busy"]
    return found


def _nothing(windows: int) -> dict[str, Ints]:
    return {name: np.zeros(windows, np.int64) for name in ("busy", *CAUSES, "in_calls")}


def stage_windows(a: Attributed) -> Windows:
    """A window for each of `stage_ranges`, from its begin until host and GPU are done with it."""
    return _windows(a, a.stage_ranges, a.stage_row[a.stage_range_of_op])


def step_windows(a: Attributed) -> Windows:
    """A window for each of `step_ranges`, from its begin until host and GPU are done with it."""
    return _windows(a, a.step_ranges, a.of_op(a.step_row[a.step_range_of_call]))


def _windows(a: Attributed, rows: Ints, of_op: Ints) -> Windows:
    ranges, ops = a.trace.ranges, a.trace.operations
    start, end = ranges.start[rows].copy(), ranges.end[rows].copy()
    inside = np.flatnonzero(of_op >= 0)
    np.minimum.at(start, of_op[inside], ops.start[inside])
    np.maximum.at(end, of_op[inside], ops.end[inside])
    return Windows(ranges.thread[rows], a.trace.clip(start), a.trace.clip(end))


#: What a timeline tells apart, the preferred first; the calls of a thread are the last of them.
_LAYERS = ("other_work", "latency", "profiler", "alloc", "pageable", "copy", "sync", "launch", "api")
_FIRST_CALL = _LAYERS.index("alloc")
_LAYER_BITS = 4


class _Timeline(NamedTuple):
    """A thread's time, cut where something begins or ends.

    `time`: the cuts, sorted; `open`: from each cut on, a bit for each of `_LAYERS` that holds, the lowest first.
    """

    time: Ints
    open: npt.NDArray[np.uint16]

    def sums(self, start: Ints, end: Ints) -> dict[str, Ints]:
        """Nanoseconds of each window by cause, and in any call; the windows may nest."""
        found = {name: np.zeros(len(start), np.int64) for name in (*_LAYERS, "in_calls")}
        holds, length = _LOWEST[self.open], np.diff(self.time, append=self.time[-1:])
        for layer in np.flatnonzero(np.bincount(holds, minlength=len(_LAYERS) + 1)[: len(_LAYERS)]).tolist():
            found[_LAYERS[layer]] = self._within(holds == layer, length, start, end)
        found["in_calls"] = self._within(self.open >> _FIRST_CALL != 0, length, start, end)
        return {**found, "host": end - start - np.sum([found[name] for name in _LAYERS], axis=0)}

    def _within(self, chosen: Bools, length: Ints, start: Ints, end: Ints) -> Ints:
        """Nanoseconds of each window that the chosen pieces cover."""
        if not len(self.time):
            return np.zeros(len(start), np.int64)
        covered = np.cumsum(length * chosen)

        def until(moment: Ints) -> Ints:
            piece = np.maximum(np.searchsorted(self.time, moment, side="right") - 1, 0)
            within = np.clip(moment - self.time[piece], 0, length[piece])
            return covered[piece] - np.where(chosen[piece], length[piece] - within, 0)

        found: Ints = until(end) - until(start)
        return found


#: The lowest bit of each combination of open layers; the number of layers for none.
_LOWEST = np.array(
    [(mask & -mask).bit_length() - 1 if mask else len(_LAYERS) for mask in range(1 << len(_LAYERS))], np.uint8
)


_Intervals = tuple[Ints, Ints]


class _Source(NamedTuple):
    """Intervals of which a timeline is made: the process or thread of each, and its layer, or one layer for all."""

    owner: Ints
    layer: Ints
    start: Ints
    end: Ints

    def by_layer(self, owner: int) -> dict[int, _Intervals]:
        """The intervals of an owner; none that is empty, or not the right way round."""
        mine = (self.owner == owner) & (self.start < self.end)
        if len(self.layer) == 1:
            return {int(self.layer[0]): _chosen(mine, self.start, self.end)}
        return {
            layer: _chosen(mine & (self.layer == layer), self.start, self.end)
            for layer in range(_FIRST_CALL, len(_LAYERS))
        }


def _events(a: Attributed) -> list[_Source]:
    """What runs, waits to run, holds a thread up, and is called: the first two by process, the others by thread."""
    ops, calls, overheads = a.trace.operations, a.trace.calls, a.trace.overheads
    layer = np.full(len(a.trace.names), len(_LAYERS) - 1)
    for number in range(len(_LAYERS) - 2, _FIRST_CALL - 1, -1):  # the preferred last
        layer[a.trace.named(*_CALLS.get(_LAYERS[number], ()))] = number
    of_call = layer[calls.name]
    of_call[_pageable(a)] = _LAYERS.index("pageable")
    called = a.of_op(calls.end, missing=np.iinfo(np.int64).max)
    process, called, start, end = (column[a.op_order] for column in (ops.process, called, ops.start, ops.end))
    return [
        _Source(process, _only("other_work"), start, end),
        _Source(process, _only("latency"), called, start),
        _Source(overheads.thread, _only("profiler"), overheads.start, overheads.end),
        _Source(calls.thread, of_call, calls.start, calls.end),
    ]


def _only(layer: str) -> Ints:
    return np.array([_LAYERS.index(layer)])


def _pageable(a: Attributed) -> Ints:
    """The API calls that copy from or to pageable memory of the host, where the report says of what kind it is."""
    memops, kind = a.trace.memops, MEMORY_KINDS.index("Pageable")
    copies = np.flatnonzero((memops.kind >= 0) & ((memops.source == kind) | (memops.destination == kind)))
    call = a.call_of_op[len(a.trace.kernels) + copies]
    return call[call >= 0]


def _sums(events: list[_Source], thread: int, start: Ints, end: Ints) -> dict[str, Ints]:
    """Nanoseconds of some windows of a thread by cause, and in any call."""
    process = int(process_of(np.array([thread]))[0])
    owned = list(zip(events, (process, process, thread, thread), strict=True))
    if loops := fast.loops():
        return _swept(loops, owned, start, end)
    layers = {layer: found for source, owner in owned for layer, found in source.by_layer(owner).items()}
    return _timeline(layers, int(start.min()), int(end.max())).sums(start, end)


def _swept(loops: Any, owned: list[tuple[_Source, int]], start: Ints, end: Ints) -> dict[str, Ints]:
    """The same, by going through all that begins and ends once, without a timeline."""
    moments = at.distinct_in_any_order(np.concatenate([start, end]))
    streams = []
    for source, owner in owned:
        columns = map(at.contiguous, source)
        for edges in loops.edges(*columns, owner, int(moments[0]), _LAYER_BITS + 1):
            if not loops.settle(edges):
                edges.sort()
            streams.append(edges)
    first = np.append(0, np.cumsum([len(stream) for stream in streams]))
    events, since = np.concatenate(streams), moments - moments[0]
    reach = loops.sweep(events, first, _LAYER_BITS + 1, since, len(_LAYERS), _FIRST_CALL)
    spent = reach[np.searchsorted(moments, end)] - reach[np.searchsorted(moments, start)]
    return dict(zip((*_LAYERS, "host", "in_calls"), spent.T, strict=True))


def _timeline(layers: dict[int, _Intervals], low: int, high: int) -> _Timeline:
    """The timeline of a thread between two moments, from when each of `_LAYERS` is open."""
    keys = []
    for layer, (start, end) in layers.items():
        start, end = _chosen((end > low) & (start < high), start, end)
        begin, finish = at.united(np.maximum(start, low), np.minimum(end, high))
        keys += [(edge - low) << _LAYER_BITS | layer for edge in (begin, finish)]
    edges = np.concatenate(keys)
    del keys
    edges.sort(kind="stable")  # runs that are sorted already
    changed = (edges & (1 << _LAYER_BITS) - 1).astype(np.uint8)
    edges >>= _LAYER_BITS
    edges += low
    return _Timeline(edges, np.bitwise_xor.accumulate(np.left_shift(1, changed, dtype=np.uint16)))


def _chosen(which: Bools, start: Ints, end: Ints) -> _Intervals:
    return (start, end) if which.all() else (start[which], end[which])
