"""Where the wall time of a stage or a step went: GPU busy, and the GPU idle by what kept it waiting.

::

    host      | launch |  python   | launch | sync ………… |
    GPU              [ kernel ]          [ kernel ]
    idle      llllllll         hhhhhhhhhhll           ss     l launch, h host, s sync

Each instant is counted once, for the first cause that holds then, in the order of `CAUSES`; so the parts add up
to the wall time exactly. "Host" is what is left: the thread was outside of all CUDA calls.

What holds at an instant is the same for all stages and steps of a thread (`arrays.timelines`), but for one thing:
whether the GPU ran their own operations. Of the time in which the process kept the GPU running, what is not the
window's own is other work.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dsprof.arrays import Ints
from dsprof.arrays.timelines import Layers, Source, Windows, time_by_layer
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
    for name, value in time_by_layer(events, every.of(filled), _ORDER).items():
        of_window = np.zeros(len(every.start), np.int64)
        of_window[filled] = value
        cause = "host" if name == "rest" else name
        found.stages[cause], found.steps[cause] = np.split(of_window, [len(kinds[0].start)])
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
    thread = ranges.thread[rows]
    return Windows(process_of(thread), thread, a.trace.clip(start), a.trace.clip(end))


#: What a timeline tells apart, the preferred first; the calls of a thread are the last of them.
_LAYERS = ("other_work", "latency", "profiler", "alloc", "pageable", "copy", "sync", "launch", "api")
_FIRST_CALL = _LAYERS.index("alloc")
_ORDER = Layers(_LAYERS, _LAYERS.index("profiler"), _FIRST_CALL)


def _events(a: Attributed) -> list[Source]:
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
        Source(process, _only("other_work"), start, end),
        Source(process, _only("latency"), called, start),
        Source(overheads.thread, _only("profiler"), overheads.start, overheads.end),
        Source(calls.thread, of_call, calls.start, calls.end),
    ]


def _only(layer: str) -> Ints:
    return np.array([_LAYERS.index(layer)])


def _pageable(a: Attributed) -> Ints:
    """The API calls that copy from or to pageable memory of the host, where the report says of what kind it is."""
    memops, kind = a.trace.memops, MEMORY_KINDS.index("Pageable")
    copies = np.flatnonzero((memops.kind >= 0) & ((memops.source == kind) | (memops.destination == kind)))
    call = a.call_of_op[len(a.trace.kernels) + copies]
    return call[call >= 0]
