"""What `kern_trace` and `mem_trace` have in common: where an operation ran, and the launch behind it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.attributed import VIA, Attributed
from dsprof.attribution import NULL, Ints
from dsprof.table import Coded, integer, name
from dsprof.trace import Kernels, MemOps, pid_of, tid_of

#: When and where it ran.
PLACE = (
    integer("start_ns", "When it began on the GPU."),
    integer("end_ns", "When it ended on the GPU."),
    integer("duration_ns", "Its time on the GPU."),
    integer("device_id", "CUDA device."),
    integer("context_id", "CUDA context."),
    integer("stream_id", "CUDA stream."),
    integer("pid", "Process that launched it."),
)
#: The API call that launched it.
LAUNCH = (
    integer("tid", "Thread that launched it; missing without a launch in the report.", True),
    integer("correlation_id", "CUPTI's number of the launch, one per process.", True),
    integer("graph_node_id", "Node of the CUDA graph that it is, where it is one.", True),
    name("api_name", "The CUDA API call that launched it.", nullable=True),
    integer("api_start_ns", "When that call began.", True),
    integer("api_ns", "API time: how long the call took.", True),
    integer("queue_ns", "Queue time: from the call's end to its start on the GPU, 0 where they overlap.", True),
)
#: The range, stage and step of the launch.
STAGE = (
    integer("range_id", "The innermost NVTX range around the launch, of any domain.", True),
    name("stage", "The stage of the launch, or (no stage)."),
    integer("stage_instance", "Which prefill or decode of the report, from 0.", True),
    integer("step", "Decode step of the launch.", True),
    name("via", "How the stage was found: by the launch's thread, its process, or none."),
)


def by_start(rows: Kernels | MemOps, carried: int) -> Ints:
    """The operations but for the first `carried` by start; of one moment by process and correlationId, then by row."""
    start = rows.start[carried:]
    order = np.argsort(start, kind="stable")
    if (start[order][1:] == start[order][:-1]).any():
        order = np.lexsort((rows.correlation[carried:], pid_of(rows.process[carried:]), start))
    return carried + order


def launched(a: Attributed, rows: Kernels | MemOps, first: int, order: Ints) -> dict[str, Any]:
    """Values of `PLACE`, `LAUNCH` and `STAGE` for operations that begin at `first` of all, in the order given."""
    calls, call = a.trace.calls, a.call_of_op[first + order]
    whole = not (call < 0).any()

    def of(column: Any, missing: int) -> Ints:
        """A column of the API calls for the operations; a small copy of `missing` where there is no call."""
        if not len(calls):
            return np.full(len(call), missing, np.int64)
        found: Ints = column[call] if whole else np.where(call >= 0, column[call], missing)
        return found

    start, call_start, call_end = rows.start[order], of(calls.start, NULL), of(calls.end, NULL)
    has_launch = call >= 0
    stage_range, row = of(a.stage_range_of_call, -1), of(a.range_of_call, -1)
    return {
        "start_ns": start,
        "end_ns": rows.end[order],
        "duration_ns": rows.end[order] - start,
        "device_id": rows.device[order],
        "context_id": rows.context[order],
        "stream_id": rows.stream[order],
        "pid": pid_of(rows.process[order]),
        "tid": np.where(has_launch, tid_of(of(calls.thread, 0)), NULL),
        "correlation_id": rows.correlation[order],
        "graph_node_id": rows.graph_node[order],
        "api_name": Coded(of(calls.name, -1), a.trace.names),
        "api_start_ns": call_start,
        "api_ns": np.where(has_launch, call_end - call_start, NULL),
        "queue_ns": np.where(has_launch, np.maximum(start - call_end, 0), NULL),
        "range_id": np.append(a.trace.ranges.range_id, NULL)[row],
        "stage": Coded(a.stage_code(stage_range), a.stage_names),
        "stage_instance": np.append(a.instance_of_range, NULL)[stage_range],
        "step": of(a.step_of_call, NULL),
        "via": Coded(of(a.via_of_call, 0), VIA),
    }
