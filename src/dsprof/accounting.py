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
from dsprof.attribution import Bools, Ints
from dsprof.names import api_name
from dsprof.stats import sum_by
from dsprof.trace import process_of

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
    """Stretches of wall time to account for, and which of them each operation belongs to.

    `thread`: the globalTid that opened each; `of_op`: row of the window, -1 for none.
    """

    thread: Ints
    start: Ints
    end: Ints
    of_op: Ints


def account(a: Attributed, windows: Windows) -> dict[str, Ints]:
    """GPU busy time (``busy``) and idle time by cause of each window; they add up to its length.

    Of the calls only those of the window's own thread count: what other threads do does not keep it waiting. An
    outer stage is waiting for what its thread does in an inner one, too.
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
    return _windows(a, a.stage_ranges, row_in(a, a.stage_ranges, a.stage_range_of_op))


def step_windows(a: Attributed) -> Windows:
    """A window for each of `step_ranges`, from its begin until host and GPU are done with it."""
    return _windows(a, a.step_ranges, a.of_op(row_in(a, a.step_ranges, a.step_range_of_call)))


def _windows(a: Attributed, rows: Ints, of_op: Ints) -> Windows:
    ranges, ops = a.trace.ranges, a.trace.operations
    start, end = ranges.start[rows].copy(), ranges.end[rows].copy()
    inside = of_op >= 0
    np.minimum.at(start, of_op[inside], ops.start[inside])
    np.maximum.at(end, of_op[inside], ops.end[inside])
    return Windows(ranges.thread[rows], start, end, of_op)


def host_in_calls(a: Attributed, windows: Windows) -> Ints:
    """Nanoseconds of each window in which its thread was inside a CUDA API call."""
    calls = a.trace.calls
    group, row = _overlapping(windows.thread, windows, calls.thread, calls.start, calls.end)
    start, end = np.maximum(calls.start[row], windows.start[group]), np.minimum(calls.end[row], windows.end[group])
    return at.union_length(group, start, end, len(windows.start))


def call_names(a: Attributed) -> tuple[Ints, tuple[str, ...]]:
    """What each API call is, by name without version: codes and the names they stand for."""
    used = at.distinct(a.trace.calls.name.astype(np.int64))
    slots: dict[str, int] = {}
    slot = [slots.setdefault(api_name(a.trace.names[code]), len(slots)) for code in used.tolist()]
    return np.array(slot, np.int64)[np.searchsorted(used, a.trace.calls.name)], tuple(slots)


def host_by_call(a: Attributed, windows: Windows) -> tuple[Ints, Ints, Ints]:
    """What each window's thread was in: ``(window, call name, ns)``, names as codes of `call_names`.

    Of calls within calls, as the driver's are within the runtime's, each instant counts for the innermost; so the
    times of a window add up to `host_in_calls`.
    """
    code = call_names(a)[0]
    start, end, owner = _pieces(a)
    window, row = _overlapping(windows.thread, windows, a.trace.calls.thread[owner], start, end)
    spent = np.minimum(end[row], windows.end[window]) - np.maximum(start[row], windows.start[window])
    window, name, spent = window[spent > 0], code[owner[row]][spent > 0], spent[spent > 0]
    heads, group = at.group_rows(window, name)
    return window[heads], name[heads], sum_by(group, spent, len(heads))


def _pieces(a: Attributed) -> tuple[Ints, Ints, Ints]:
    """The threads' time in calls, cut at every begin and end: start, end, and the innermost call of each piece."""
    calls, thread = a.trace.calls, a.call_thread
    order = np.lexsort((calls.start, thread))
    follows = thread[order][1:] == thread[order][:-1]
    if not (follows & (calls.start[order][1:] < calls.end[order][:-1])).any():  # the usual case: no call in a call
        return calls.start, calls.end, np.arange(len(calls))
    scope, cut = np.tile(thread, 2), np.concatenate([calls.start, calls.end])
    order = np.lexsort((cut, scope))
    scope, cut = scope[order], cut[order]
    piece = np.flatnonzero((scope[1:] == scope[:-1]) & (cut[1:] > cut[:-1]))
    start, end = cut[piece], cut[piece + 1]
    owner = at.innermost(thread, calls.start, calls.end, scope[piece], start)
    return start[owner >= 0], end[owner >= 0], owner[owner >= 0]


_Layer = tuple[Ints, Ints, Ints]


def _busy(a: Attributed, windows: Windows) -> _Layer:
    ops, inside = a.trace.operations, np.flatnonzero(windows.of_op >= 0)
    return windows.of_op[inside], ops.start[inside], ops.end[inside]


def _other_work(a: Attributed, windows: Windows) -> _Layer:
    """Operations of the window's process, its own among them: those count as busy already."""
    ops = a.trace.operations
    group, op = _overlapping(process_of(windows.thread), windows, ops.process, ops.start, ops.end)
    return group, ops.start[op], ops.end[op]


def _latency(a: Attributed, windows: Windows) -> _Layer:
    """From the end of the launching call to the start of the operation, for all of the window's process."""
    ops = a.trace.operations
    launched = np.flatnonzero(a.call_of_op >= 0)
    called = a.trace.calls.end[a.call_of_op[launched]] if len(launched) else launched
    begun = np.maximum(ops.start[launched], called)
    group, which = _overlapping(process_of(windows.thread), windows, ops.process[launched], called, begun)
    return group, called[which], begun[which]


def _profiler(a: Attributed, windows: Windows) -> _Layer:
    """The profiler's overhead on the window's thread."""
    overheads = a.trace.overheads
    group, row = _overlapping(windows.thread, windows, overheads.thread, overheads.start, overheads.end)
    return group, overheads.start[row], overheads.end[row]


def _calls(a: Attributed, windows: Windows, kinds: list[str]) -> list[_Layer]:
    """The API calls of the window's thread, a layer for each kind; the last kind takes what is left."""
    calls = a.trace.calls
    group, row = _overlapping(windows.thread, windows, calls.thread, calls.start, calls.end)
    left, layers = np.ones(len(row), np.bool_), []
    for kind in kinds[:-1]:
        chosen = _is(a, kind)[row]
        left &= ~chosen
        layers.append((group[chosen], calls.start[row[chosen]], calls.end[row[chosen]]))
    return [*layers, (group[left], calls.start[row[left]], calls.end[row[left]])]


def _is(a: Attributed, kind: str) -> Bools:
    if kind == "sync":
        return a.trace.call_synchronizes
    chosen: Bools = a.trace.named(*_CALLS[kind])[a.trace.calls.name]
    return chosen


def _overlapping(scope: Ints, windows: Windows, of: Ints, start: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Every (window, interval) pair of one scope (thread or process) that overlaps in time; windows may nest."""
    groups, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for one in np.unique(scope):
        mine, theirs = np.flatnonzero(scope == one), np.flatnonzero(of == one)
        if not len(theirs):
            continue
        theirs = theirs[np.argsort(start[theirs], kind="stable")]
        low = np.searchsorted(np.maximum.accumulate(end[theirs]), windows.start[mine], side="right")
        high = np.searchsorted(start[theirs], windows.end[mine], side="left")
        owner, position = at.explode(low, np.maximum(high, low))
        kept = end[theirs[position]] > windows.start[mine[owner]]
        groups.append(mine[owner[kept]])
        rows.append(theirs[position[kept]])
    return np.concatenate(groups), np.concatenate(rows)
