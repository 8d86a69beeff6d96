"""Where the wall time of a stage or a step went: GPU busy, and the GPU idle by what kept it waiting.

::

    host      | launch |  python   | launch | sync ………… |
    GPU              [ kernel ]          [ kernel ]
    idle      llllllll         hhhhhhhhhhll           ss     l launch, h host, s sync

Each instant is counted once, for the first cause that holds then, in the order of `CAUSES`; so the parts add up
to the wall time exactly. "Host" is what is left: the thread was outside of all CUDA calls.

What holds at an instant is the same for all stages and steps of a thread, but for one thing: whether the GPU ran their
own operations. So time is cut once into a `_Timeline` of all processes, one behind the other, and, of the time that is
left, into one of all threads, and a window's sums are differences of running sums; of the time in which the process
kept the GPU running, what is not the window's own is other work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsprof import arrays as at
from dsprof.arrays import Bools, Ints, backend
from dsprof.attributed import Attributed
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

    def of(self, rows: Ints) -> Windows:
        """Some of the windows."""
        return Windows(*(column[rows] for column in self))


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
    every = Windows(*(np.concatenate(columns) for columns in zip(*kinds, strict=True)))
    filled = np.flatnonzero(every.end > every.start)
    found = Accounts(*(_nothing(len(windows.start)) for windows in kinds))
    for name, value in _sums(events, every.of(filled)).items():
        of_window = np.zeros(len(every.start), np.int64)
        of_window[filled] = value
        found.stages[name], found.steps[name] = np.split(of_window, [len(kinds[0].start)])
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
_FIRST_OWN, _FIRST_CALL = _LAYERS.index("profiler"), _LAYERS.index("alloc")
_LAYER_BITS = 4
#: Nanoseconds that all threads may have together on one axis, so that a time and a layer fit into an int64; and threads
#: that are gone through one by one where loops are compiled.
_LONGEST, _FEW_THREADS = 1 << 58, 64


class _Timeline(NamedTuple):
    """Time, cut where something begins or ends.

    `time`: the cuts, sorted; `open`: from each cut on, a bit for each of `_LAYERS` that holds, the lowest first.
    """

    time: Ints
    open: npt.NDArray[np.uint16]

    def sums(self, start: Ints, end: Ints) -> dict[str, Ints]:
        """Nanoseconds of each window by layer; the windows may nest."""
        found = {name: np.zeros(len(start), np.int64) for name in _LAYERS}
        holds = _LOWEST[self.open]
        for layer in np.flatnonzero(np.bincount(holds, minlength=len(_LAYERS) + 1)[: len(_LAYERS)]).tolist():
            until = self.until(holds == layer)
            found[_LAYERS[layer]] = until(end) - until(start)
        return found

    def until(self, chosen: Bools) -> Callable[[Ints], Ints]:
        """Tells how many nanoseconds up to some moments the chosen pieces cover."""
        if not len(self.time):
            return np.zeros_like
        length = np.diff(self.time, append=self.time[-1:])
        length[~chosen] = 0
        covered = np.append(0, np.cumsum(length))

        def at_moments(moment: Ints) -> Ints:
            piece = np.maximum(np.searchsorted(self.time, moment, side="right") - 1, 0)
            found: Ints = covered[piece] + np.clip(moment - self.time[piece], 0, length[piece])
            return found

        return at_moments


class _Axis(NamedTuple):
    """The time of several threads, or processes, one behind the other: of each from its first window to its last."""

    scope: Ints
    low: Ints
    high: Ints

    @staticmethod
    def of(scope: Ints, start: Ints, end: Ints) -> _Axis:
        """The axis for some windows."""
        scopes, group = np.unique(scope, return_inverse=True)
        low, high = np.full(len(scopes), np.iinfo(np.int64).max), np.full(len(scopes), np.iinfo(np.int64).min)
        np.minimum.at(low, group.reshape(-1), start)
        np.maximum.at(high, group.reshape(-1), end)
        return _Axis(scopes, low, high)

    @property
    def offset(self) -> Ints:
        """Where each begins; and where the last ends."""
        return np.append(0, np.cumsum(self.high - self.low))

    def number(self, scope: Ints) -> Ints:
        """The place of each scope among those of the axis, -1 for none of them."""
        place = np.minimum(np.searchsorted(self.scope, scope), len(self.scope) - 1)
        return np.where(self.scope[place] == scope, place, -1)

    def place(self, number: Ints, time: Ints) -> Ints:
        """Where on the axis a time of each scope is; the nearest, for one outside of its windows."""
        found: Ints = self.offset[number] + np.clip(time, self.low[number], self.high[number]) - self.low[number]
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

    def on(self, axis: _Axis, placed: Callable[[Ints, Ints], Ints]) -> dict[int, _Intervals]:
        """The intervals by layer, `placed` on an axis; none that is empty, or not the right way round."""
        number = axis.number(self.owner)
        mine = np.flatnonzero((number >= 0) & (self.start < self.end))
        start, end = (placed(number[mine], time[mine]) for time in (self.start, self.end))
        kept = start < end
        if len(self.layer) == 1:
            return {int(self.layer[0]): _chosen(kept, start, end)}
        layer = self.layer[mine]
        return {one: _chosen(kept & (layer == one), start, end) for one in range(_FIRST_CALL, len(_LAYERS))}


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


def _sums(events: list[_Source], windows: Windows) -> dict[str, Ints]:
    """Nanoseconds of some windows by cause, and in any call."""
    threads = _Axis.of(windows.thread, windows.start, windows.end)
    if not len(threads.scope):
        return {}
    if (loops := backend.loops()) and len(threads.scope) <= _FEW_THREADS:
        return _of_each(threads.scope, windows, lambda mine: _swept(loops, events, mine))
    if np.sum(threads.high - threads.low, dtype=np.float64) >= _LONGEST and len(threads.scope) > 1:
        return _of_each(threads.scope, windows, lambda mine: _painted(events, mine))
    return _painted(events, windows)


def _of_each(threads: Ints, windows: Windows, sums: Callable[[Windows], dict[str, Ints]]) -> dict[str, Ints]:
    """The sums thread by thread."""
    found = {name: np.zeros(len(windows.start), np.int64) for name in (*_LAYERS, "host", "in_calls")}
    for thread in threads.tolist():
        mine = np.flatnonzero(windows.thread == thread)
        for name, value in sums(windows.of(mine)).items():
            found[name][mine] = value
    return found


def _painted(events: list[_Source], windows: Windows) -> dict[str, Ints]:
    """The sums by timelines: of the processes, and of what they leave free, of the threads."""
    running, waiting, held, called = events
    process = process_of(windows.thread)
    times = (windows.start, windows.end)
    processes = _Axis.of(process, *times)
    of_process = processes.number(process)
    shared = _timeline({**running.on(processes, processes.place), **waiting.on(processes, processes.place)})
    found = shared.sums(*(processes.place(of_process, time) for time in times))
    busy = shared.until(shared.open != 0)
    threads = _Axis.of(windows.thread, *times)
    of_thread, its_process = threads.number(windows.thread), processes.number(process_of(threads.scope))

    def not_busy(number: Ints, time: Ints) -> Ints:
        moment = processes.place(its_process[number], time)
        return moment - busy(moment)

    every = np.arange(len(threads.scope))
    left = _Axis(threads.scope, *(not_busy(every, edge) for edge in (threads.low, threads.high)))

    def free(number: Ints, time: Ints) -> Ints:
        return left.place(number, not_busy(number, time))  # which is clipped to the thread's windows there

    own = _timeline({**held.on(threads, free), **called.on(threads, free)})
    begin, finish = (free(of_thread, time) for time in times)
    of_own = own.sums(begin, finish)
    found |= {name: of_own[name] for name in _LAYERS[_FIRST_OWN:]}
    found["host"] = finish - begin - np.sum([found[name] for name in _LAYERS[_FIRST_OWN:]], axis=0)
    calls = _timeline(called._replace(layer=_only("api")).on(threads, threads.place))
    inside = calls.until(calls.open != 0)
    begin, finish = (inside(threads.place(of_thread, time)) for time in times)
    return {**found, "in_calls": finish - begin}


def _swept(loops: Any, events: list[_Source], windows: Windows) -> dict[str, Ints]:
    """The sums of the windows of one thread, by going through all that begins and ends once, without a timeline."""
    thread, (start, end) = int(windows.thread[0]), windows[1:]
    process = int(process_of(windows.thread[:1])[0])
    owned = zip(events, (process, process, thread, thread), strict=True)
    moments = at.distinct_in_any_order(np.concatenate([start, end]))
    streams = []
    for source, owner in owned:
        columns = map(at.contiguous, source)
        for edges in loops.edges(*columns, owner, int(moments[0]), _LAYER_BITS + 1):
            if not loops.settle(edges):
                edges.sort()
            streams.append(edges)
    first = np.append(0, np.cumsum([len(stream) for stream in streams]))
    since = moments - moments[0]
    reach = loops.sweep(np.concatenate(streams), first, _LAYER_BITS + 1, since, len(_LAYERS), _FIRST_CALL)
    spent = reach[np.searchsorted(moments, end)] - reach[np.searchsorted(moments, start)]
    return dict(zip((*_LAYERS, "host", "in_calls"), spent.T, strict=True))


def _timeline(layers: dict[int, _Intervals]) -> _Timeline:
    """The timeline that says when each of `_LAYERS` is open; times are not negative."""
    keys = [np.zeros(0, np.int64)]
    for layer, intervals in layers.items():
        keys += [edge << _LAYER_BITS | layer for edge in at.united(*intervals)]
    edges = np.concatenate(keys)
    del keys
    edges.sort(kind="stable")  # runs that are sorted already
    changed = (edges & (1 << _LAYER_BITS) - 1).astype(np.uint8)
    edges >>= _LAYER_BITS
    return _Timeline(edges, np.bitwise_xor.accumulate(np.left_shift(1, changed, dtype=np.uint16)))


def _chosen(which: Bools, start: Ints, end: Ints) -> _Intervals:
    return (start, end) if which.all() else (start[which], end[which])
