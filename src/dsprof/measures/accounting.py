"""Where the wall time of a stage or a step went: GPU busy, and the GPU idle by what kept it waiting.

::

    host      | launch |  python   | launch | sync ………… |
    GPU              [ kernel ]          [ kernel ]
    idle      llllllll         hhhhhhhhhhll           ss     l launch, h host, s sync

Each instant is counted once, for the first cause that holds then, in the order of `CAUSES` (`measures.causes`); so the
parts add up to the wall time exactly. "Host" is what is left: the thread was outside of all CUDA calls.

What holds at an instant is the same for all stages and steps of a thread (`arrays.timelines`), but for one thing:
whether the GPU ran their own operations. Of the time in which the process kept the GPU running, what is not the
window's own is other work.
"""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import Ints
from dsprof.arrays.timelines import Layers, Source, Windows, time_by_layer
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.measures.causes import CAUSES
from dsprof.measures.totals import StageTotals, StepTotals, absorb_columns, add_columns
from dsprof.records import frozen
from dsprof.trace import process_of


@frozen(eq=False)
class Accounts(Measure):
    """By cause, the time of each of `StageRanges.rows` and of each of its `steps`.

    ``busy`` and `CAUSES` add up to the wall time; ``in_calls``, beside them, is the time in which the thread was inside
    a CUDA API call, and ``off_cpu``, of ``host``, that in which it was off the CPU, where the report tells.
    """

    stages: dict[str, Ints]
    steps: dict[str, Ints]

    @classmethod
    def take(cls, launches: Launches, stage_totals: StageTotals, step_totals: StepTotals) -> Self:
        """Of a part of a report: of all stages and steps, each from its begin until host and GPU are done with it.

        Of the calls only those of the window's own thread count: what other threads do does not keep it waiting. An
        outer stage is waiting for what its thread does in an inner one, too.
        """
        shared = launches.stages.steps_are_stages
        kinds = (_stage_windows(launches), *(() if shared else (_step_windows(launches),)))
        every = Windows(*(np.concatenate(columns) for columns in zip(*kinds, strict=True)))
        filled = np.flatnonzero(every.end > every.start)
        found = [_nothing(len(windows.start)) for windows in kinds]
        for name, value in time_by_layer(_events(launches), every.of(filled), _ORDER).items():
            of_window = np.zeros(len(every.start), np.int64)
            of_window[filled] = value
            cause = "host" if name == "rest" else name
            for account, own in zip(found, np.split(of_window, [len(kinds[0].start)]), strict=False):
                account[cause] = own
        of_ops = (launches.stages.row[launches.stage_range_of_op], _step_of_op(launches))
        rows = (launches.stages.rows, launches.stages.steps)
        for place, (account, totals) in enumerate(zip(found, (stage_totals, step_totals), strict=False)):
            account["busy"] = totals.gpu_busy_ns[: len(account["busy"])].copy()
            account["queued"] = _with_queued(launches, rows[place], kinds[place], of_ops[place]) - account["busy"]
            account["other_work"] -= account["busy"] + account["queued"]
            account["host"] += account["off_cpu"]
            if launches.trace.off_cpu is None:
                del account["off_cpu"]
        return cls(found[0], found[-1])

    def merge(self, other: Self) -> Self:
        """Both together."""
        stages = add_columns(self.stages, other.stages)
        return type(self)(stages, stages if self._is_one else add_columns(self.steps, other.steps))

    def absorb(self, later: Self) -> bool:
        """Add a later part's."""
        absorb_columns(self.stages, later.stages)
        if not self._is_one:
            absorb_columns(self.steps, later.steps)
        return True

    @property
    def _is_one(self) -> bool:
        """Are the steps the stages, and so one account?"""
        return self.steps is self.stages


def _nothing(windows: int) -> dict[str, Ints]:
    return {name: np.zeros(windows, np.int64) for name in ("busy", *CAUSES, "in_calls", "off_cpu")}


def _stage_windows(launches: Launches) -> Windows:
    """A window for each stage, from its begin until host and GPU are done with it."""
    return _windows(launches, launches.stages.rows, launches.stages.row[launches.stage_range_of_op])


def _step_windows(launches: Launches) -> Windows:
    """A window for each step, from its begin until host and GPU are done with it."""
    return _windows(launches, launches.stages.steps, _step_of_op(launches))


def _step_of_op(launches: Launches) -> Ints:
    return launches.of_op(launches.stages.step_row[launches.step_range_of_call])


def _with_queued(launches: Launches, rows: Ints, windows: Windows, of_op: Ints) -> Ints:
    """Time in each window in which the GPU ran its own operations, or those that its thread had launched before it.

    ::

        thread     | step 1: launches a b c | step 2: launches d |
        GPU              aaaaaa  bbbbbbbbbbbbbbbb cccccccc dddddd        b and c are before step 2, d is its own

    Operations that run in a window follow each other in the order of their launches, or nearly: so from the first that
    ends after its begin to the last that starts before its end they are looked at.
    """
    order, ops, trace = launches.thread_order, launches.trace.operations, launches.trace
    found, kept = np.zeros(len(rows), np.int64), np.flatnonzero(windows.end > windows.start)
    place = np.full(len(rows) + 1, -1)
    place[kept] = np.arange(len(kept))
    rows, windows, of_op = rows[kept], windows.of(kept), place[of_op]
    start, end = ops.start[order.op], ops.end[order.op]
    begin, scope = launches.tree.ranges.start[rows], launches.tree.of_thread[rows]
    keys = at.Keys(len(launches.tree.threads) + 1, order.launch, start, end, begin, windows.start, windows.end)
    reach = np.maximum.accumulate(keys.pack(order.number, end))
    ahead = np.minimum.accumulate(keys.pack(order.number, start)[::-1])[::-1]
    low = np.searchsorted(reach, keys.pack(scope, windows.start), side="right")
    launched = np.searchsorted(keys.pack(order.number, order.launch), keys.pack(scope, begin), side="left")
    high = np.minimum(launched, np.searchsorted(ahead, keys.pack(scope, windows.end), side="left"))
    window, place = at.explode(low, np.maximum(high, low))
    window, place = window[order.number[place] == scope[window]], place[order.number[place] == scope[window]]
    own = np.flatnonzero(of_op >= 0)
    group = np.append(window, of_op[own])
    since = np.append(np.maximum(start[place], windows.start[window]), trace.clip(ops.start[own]))
    until = np.append(np.minimum(end[place], windows.end[window]), trace.clip(ops.end[own]))
    found[kept] = at.union_length(group, since, np.maximum(since, until), len(rows))
    return found


def _windows(launches: Launches, rows: Ints, of_op: Ints) -> Windows:
    ranges, ops = launches.stages.lasting.ranges, launches.trace.operations
    start, end = ranges.start[rows].copy(), ranges.end[rows].copy()
    inside = np.flatnonzero(of_op >= 0)
    np.minimum.at(start, of_op[inside], ops.start[inside])
    np.maximum.at(end, of_op[inside], ops.end[inside])
    thread = ranges.thread[rows]
    return Windows(process_of(thread), thread, launches.trace.clip(start), launches.trace.clip(end))


#: What a timeline tells apart, the preferred first; the calls of a thread are behind all others but that it is off the
#: CPU. What is queued is a part of other work, the host is that and what is left.
_LAYERS = (*tuple(CAUSES)[1:-1], "off_cpu")
_FIRST_CALL, _ANY_CALL = _LAYERS.index("load"), _LAYERS.index("api")
_ORDER = Layers(_LAYERS, _LAYERS.index("profiler"), _FIRST_CALL, _ANY_CALL + 1)


def _events(launches: Launches) -> list[Source]:
    """What runs, waits to run, holds a thread up, is called, and when it was off the CPU: the first two by process."""
    ops, calls, overheads = launches.trace.operations, launches.trace.calls, launches.trace.overheads
    layer = np.full(len(launches.trace.names), _ANY_CALL)
    for number in range(_ANY_CALL - 1, _FIRST_CALL - 1, -1):  # the preferred last
        layer[launches.trace.named(*CAUSES[_LAYERS[number]].calls)] = number
    of_call = layer[calls.name]
    of_call[_pageable(launches)] = _LAYERS.index("pageable")
    called = launches.of_op(calls.end, missing=np.iinfo(np.int64).max)
    process, called, start, end = (column[launches.op_order] for column in (ops.process, called, ops.start, ops.end))
    sources = [
        Source(process, _only("other_work"), start, end),
        Source(process, _only("latency"), called, start),
        Source(overheads.thread, _only("profiler"), overheads.start, overheads.end),
        Source(calls.thread, of_call, calls.start, calls.end),
    ]
    if (off := launches.trace.off_cpu) is not None:
        sources.append(Source(off.thread, _only("off_cpu"), off.start, off.end))
    return sources


def _only(layer: str) -> Ints:
    return np.array([_LAYERS.index(layer)])


def _pageable(launches: Launches) -> Ints:
    """The API calls that copy from or to pageable memory of the host, where the report says of what kind it is."""
    copies = np.flatnonzero(launches.trace.memops.pageable)
    call = launches.call_of_op[len(launches.trace.kernels) + copies]
    return call[call >= 0]
