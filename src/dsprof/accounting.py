"""Where the wall time of a stage or a step went: GPU busy, and the GPU idle by what kept it waiting.

::

    host      | launch |  python   | launch | sync ………… |
    GPU              [ kernel ]          [ kernel ]
    idle      llllllll         hhhhhhhhhhll           ss     l launch, h host, s sync

Each instant is counted once, for the first cause that holds then, in the order of `CAUSES`; so the parts add up
to the wall time exactly. "Host" is what is left: the thread was outside of all CUDA calls.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dsprof import attribution as at
from dsprof.attributed import Attributed, row_in
from dsprof.attribution import NULL, Bools, Ints

#: Why the GPU was idle, by name, in the order in which a cause is preferred, and what it means.
CAUSES = {
    "other_work": "the GPU ran operations of the process that were launched elsewhere",
    "latency": "an operation was launched, and had not begun",
    "profiler": "the profiler's own overhead on the thread",
    "alloc": "the thread allocated or freed memory",
    "copy": "the thread was in a call that copies or sets memory",
    "sync": "the thread waited for the GPU in a synchronizing call",
    "launch": "the thread was in a call that launches a kernel or a graph",
    "api": "the thread was in another CUDA call",
    "host": "the thread was outside of all CUDA calls",
}
_CALLS = {
    "alloc": ("cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaHostRegister", "cuMemAlloc", "cuMemFree", "cuMemCreate",
              "cuMemMap"),
    "copy": ("cudaMemcpy", "cudaMemset", "cuMemcpy", "cuMemset"),
    "launch": ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch"),
}  # fmt: skip


class Windows(NamedTuple):
    """Stretches of wall time to account for, and which of them each operation and API call belongs to.

    `thread`: the globalTid that opened each; `of_op`, `of_call`: row of the window, -1 for none.
    """

    thread: Ints
    start: Ints
    end: Ints
    of_op: Ints
    of_call: Ints


def account(a: Attributed, windows: Windows) -> dict[str, Ints]:
    """GPU busy time (``busy``) and idle time by cause of each window; they add up to its length.

    Only calls of a window's own thread count: what other threads do does not keep it waiting.
    """
    names = list(CAUSES)
    layers = [_busy(a, windows), _other_work(a, windows), _latency(a, windows), _profiler(a, windows)]
    layers += _calls(a, windows, names[3:-1])
    group, start, end = (np.concatenate(parts) for parts in zip(*layers, strict=True))
    layer = np.repeat(np.arange(len(layers)), [len(part[0]) for part in layers])
    start, end = np.maximum(start, windows.start[group]), np.minimum(end, windows.end[group])
    painted = at.paint(group, start, end, layer, len(windows.start), len(layers))
    found = dict(zip(("busy", *names[:-1]), painted.T, strict=True))
    return {**found, "host": windows.end - windows.start - painted.sum(axis=1)}


def stage_windows(a: Attributed) -> Windows:
    """A window for each of `stage_ranges`, from its begin until host and GPU are done with it."""
    of_op = row_in(a, a.stage_ranges, a.stage_range_of_op)
    return _windows(a, a.stage_ranges, of_op, row_in(a, a.stage_ranges, a.stage_range_of_call))


def step_windows(a: Attributed) -> Windows:
    """A window for each of `step_ranges`, from its begin until host and GPU are done with it."""
    of_call = row_in(a, a.step_ranges, a.step_range_of_call)
    return _windows(a, a.step_ranges, a.of_op(of_call), of_call)


def _windows(a: Attributed, rows: Ints, of_op: Ints, of_call: Ints) -> Windows:
    ranges, ops = a.trace.ranges, a.trace.operations
    start, end = ranges.start[rows].copy(), ranges.end[rows].copy()
    inside = of_op >= 0
    np.minimum.at(start, of_op[inside], ops.start[inside])
    np.maximum.at(end, of_op[inside], ops.end[inside])
    return Windows(ranges.thread[rows], start, end, of_op, of_call)


def host_in_calls(a: Attributed, windows: Windows) -> Ints:
    """Nanoseconds of each window in which its thread was inside a CUDA API call."""
    calls, (group, start, end) = a.trace.calls, _layer(a, windows, windows.of_call >= 0)
    mine = calls.thread[windows.of_call >= 0] == windows.thread[group]
    return at.union_length(group[mine], start[mine], end[mine], len(windows.start))


_Layer = tuple[Ints, Ints, Ints]


def _busy(a: Attributed, windows: Windows) -> _Layer:
    ops, inside = a.trace.operations, np.flatnonzero(windows.of_op >= 0)
    return windows.of_op[inside], ops.start[inside], ops.end[inside]


def _latency(a: Attributed, windows: Windows) -> _Layer:
    """From the end of the launching call to the start of the operation."""
    inside = np.flatnonzero(windows.of_op >= 0)
    called = a.trace.calls.end[a.call_of_op[inside]] if len(inside) else inside
    return windows.of_op[inside], called, a.trace.operations.start[inside]


def _other_work(a: Attributed, windows: Windows) -> _Layer:
    """Operations of the window's process that belong to another window or to none."""
    ops = a.trace.operations
    found: list[_Layer] = [(np.zeros(0, np.int64),) * 3]
    process = windows.thread & ~np.int64(0xFFFFFF)
    for one in at.distinct(np.sort(process)):
        rows, mine = np.flatnonzero(process == one), np.flatnonzero(ops.process == one)
        mine = mine[np.argsort(ops.start[mine], kind="stable")]
        start, end = ops.start[mine], ops.end[mine]
        low = np.searchsorted(np.maximum.accumulate(end), windows.start[rows], side="right") if len(mine) else rows * 0
        high = np.maximum(np.searchsorted(start, windows.end[rows], side="left"), low)
        owner, position = at.explode(low, high)
        strange = windows.of_op[mine[position]] != rows[owner]
        found.append((rows[owner[strange]], start[position[strange]], end[position[strange]]))
    group, begin, stop = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return group, begin, stop


def _profiler(a: Attributed, windows: Windows) -> _Layer:
    """The profiler's overhead on the window's thread."""
    overheads = a.trace.overheads
    threads, scope = np.unique(np.concatenate([windows.thread, overheads.thread]), return_inverse=True)
    scope = scope.reshape(-1)
    count = len(windows.start)
    keys = at.Keys(len(threads), windows.start, windows.end, overheads.start)
    if not len(overheads) or not count:
        return (np.zeros(0, np.int64),) * 3
    order = np.argsort(keys.pack(scope[:count], windows.start), kind="stable")
    slot = np.searchsorted(
        keys.pack(scope[:count], windows.start)[order], keys.pack(scope[count:], overheads.start), side="right"
    )
    row = np.where(slot > 0, order[slot - 1], -1)
    inside = (row >= 0) & (windows.thread[row] == overheads.thread) & (overheads.start < windows.end[row])
    return row[inside], overheads.start[inside], overheads.end[inside]


def _calls(a: Attributed, windows: Windows, kinds: list[str]) -> list[_Layer]:
    """The API calls of the window's own thread, a layer for each kind; the last kind takes what is left."""
    calls = a.trace.calls
    inside = windows.of_call >= 0
    inside &= calls.thread == np.append(windows.thread, NULL)[windows.of_call]
    left, layers = inside.copy(), []
    for kind in kinds[:-1]:
        chosen = inside & _is(a, kind)
        left &= ~chosen
        layers.append(_layer(a, windows, chosen))
    return [*layers, _layer(a, windows, left)]


def _is(a: Attributed, kind: str) -> Bools:
    if kind == "sync":
        return a.trace.call_synchronizes
    chosen: Bools = a.trace.named(*_CALLS[kind])[a.trace.calls.name]
    return chosen


def _layer(a: Attributed, windows: Windows, chosen: Bools) -> _Layer:
    rows = np.flatnonzero(chosen)
    return windows.of_call[rows], a.trace.calls.start[rows], a.trace.calls.end[rows]
