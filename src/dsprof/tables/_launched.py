"""What `kern_trace` and `mem_trace` have in common: where an operation ran, and the launch behind it."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from dsprof.arrays import NULL, Ints, sorted_by
from dsprof.attribute.launches import Launches
from dsprof.attribute.ranges import VIA
from dsprof.tables._table import CodedText, integer, name
from dsprof.trace import Kernels, MemOps, pid_of, tid_of

_Number = TypeVar("_Number", bound=np.integer[Any])

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
    return carried + sorted_by(rows.start[carried:], pid_of(rows.process[carried:]), rows.correlation[carried:])


def launched(launches: Launches, rows: Kernels | MemOps, first: int, order: Ints) -> dict[str, Any]:
    """Values of `PLACE`, `LAUNCH` and `STAGE` for operations that begin at `first` of all, in the order given."""
    calls, names, call = launches.trace.calls, launches.trace.names, launches.call_of_op.take(first + order)
    no_call = np.flatnonzero(call < 0)
    start, end = rows.start.take(order), rows.end.take(order)
    call_start, call_end = _at(calls.start, call, no_call, NULL), _at(calls.end, call, no_call, NULL)
    launch = {
        "tid": tid_of(_at(calls.thread, call, no_call, 0)),
        "api_ns": call_end - call_start,
        "queue_ns": np.maximum(start - call_end, 0),
    }
    for column in launch.values():
        column[no_call] = NULL
    return {
        **launch,
        **_stage(launches, call, no_call),
        "start_ns": start,
        "end_ns": end,
        "duration_ns": end - start,
        "device_id": rows.device.take(order),
        "context_id": rows.context.take(order),
        "stream_id": rows.stream.take(order),
        "pid": pid_of(rows.process.take(order)),
        "correlation_id": rows.correlation.take(order),
        "graph_node_id": rows.graph_node.take(order),
        "api_name": CodedText(_at(calls.name, call, no_call, -1), names),
        "api_start_ns": call_start,
    }


def _stage(launches: Launches, call: Ints, no_call: Ints) -> dict[str, Any]:
    """Values of `STAGE` for the launches by some calls."""
    ranges, stages = launches.tree.ranges, launches.stages
    stage_range, row = (
        _at(column, call, no_call, -1) for column in (launches.stage_range_of_call, launches.range_of_call)
    )
    no_stage, no_range = np.flatnonzero(stage_range < 0), np.flatnonzero(row < 0)
    return {
        "range_id": _at(ranges.range_id, row, no_range, NULL),
        "stage": CodedText(_at(stages.of_range, stage_range, no_stage, len(stages.names) - 1), stages.names),
        "stage_instance": _at(stages.instance_of_range, stage_range, no_stage, NULL),
        "step": _at(launches.step_of_call, call, no_call, NULL),
        "via": CodedText(_at(launches.via_of_call, call, no_call, 0), VIA),
    }


def _at(column: npt.NDArray[_Number], rows: Ints, absent: Ints, missing: int) -> npt.NDArray[_Number]:
    """A column at some rows, `missing` at the places `absent`, where the row is negative: there is none."""
    if not len(column):
        return np.full(len(rows), missing, column.dtype)
    found = column.take(rows)
    found[absent] = missing
    return found
