"""`mem_trace`: every memory copy and memory set with its launch, its range, its stage and its step."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.attributed import VIA, Attributed
from dsprof.attribution import NULL, Ints
from dsprof.table import Coded, Table, integer, name
from dsprof.trace import MEMORY_KINDS, operation_names, pid_of, tid_of


def build(a: Attributed) -> dict[str, Any]:
    """A row per copy or set, by start."""
    memops, calls, first = a.trace.memops, a.trace.calls, len(a.trace.kernels)
    order = np.argsort(memops.start, kind="stable")
    stage_range = a.stage_range_of_op[first:][order]
    call_start, call_end = (a.of_op(column, NULL)[first:][order] for column in (calls.start, calls.end))
    launched = call_start != NULL
    row = a.of_op(a.range_of_call)[first:][order]
    return {
        "kind": Coded(*operation_names(memops.kind[order])),
        "bytes": memops.bytes[order],
        "source": _memory(memops.source[order]),
        "destination": _memory(memops.destination[order]),
        "start_ns": memops.start[order],
        "end_ns": memops.end[order],
        "duration_ns": (memops.end - memops.start)[order],
        "device_id": memops.device[order],
        "context_id": memops.context[order],
        "stream_id": memops.stream[order],
        "pid": pid_of(memops.process[order]),
        "tid": np.where(launched, tid_of(a.of_op(calls.thread, 0)[first:][order]), NULL),
        "correlation_id": memops.correlation[order],
        "graph_node_id": memops.graph_node[order],
        "api_name": Coded(a.of_op(calls.name.astype(np.int64))[first:][order], a.trace.names),
        "api_start_ns": call_start,
        "api_ns": np.where(launched, call_end - call_start, NULL),
        "queue_ns": np.where(launched, np.maximum(memops.start[order] - call_end, 0), NULL),
        "range_id": np.where(row >= 0, np.append(a.trace.ranges.range_id, NULL)[row], NULL),
        "stage": Coded(a.stage_code(stage_range), a.stage_names),
        "stage_instance": np.where(stage_range >= 0, np.append(a.instance_of_range, NULL)[stage_range], NULL),
        "step": a.step_of_op[first:][order],
        "via": Coded(a.via_of_op[first:][order], VIA),
    }


def _memory(kind: Ints) -> Coded:
    return Coded(np.where((kind >= 0) & (kind < len(MEMORY_KINDS)), kind, -1), MEMORY_KINDS)


TABLE = Table(
    "mem_trace",
    "a memory copy or memory set",
    (
        name("kind", "[CUDA memcpy …] with its direction, or [CUDA memset], as Nsight's reports word it."),
        integer("bytes", "Bytes moved or set."),
        name("source", "Kind of the memory read: Pageable, Pinned, Device, …", nullable=True),
        name("destination", "Kind of the memory written.", nullable=True),
        integer("start_ns", "When it began on the GPU."),
        integer("end_ns", "When it ended on the GPU."),
        integer("duration_ns", "Its time on the GPU."),
        integer("device_id", "CUDA device."),
        integer("context_id", "CUDA context."),
        integer("stream_id", "CUDA stream."),
        integer("pid", "Process that launched it."),
        integer("tid", "Thread that launched it; missing without a launch in the report.", True),
        integer("correlation_id", "CUPTI's number of the launch, one per process.", True),
        integer("graph_node_id", "Node of the CUDA graph that it is, where it is one.", True),
        name("api_name", "The CUDA API call that launched it.", nullable=True),
        integer("api_start_ns", "When that call began.", True),
        integer("api_ns", "API time: how long the call took.", True),
        integer(
            "queue_ns",
            "Queue time: from the call's end to the operation's start, 0 where they overlap.",
            True,
        ),
        integer("range_id", "The innermost NVTX range around the launch, of any domain.", True),
        name("stage", "The stage of the launch, or (no stage)."),
        integer("stage_instance", "Which prefill or decode of the report, from 0.", True),
        integer("step", "Decode step of the launch.", True),
        name("via", "How the stage was found: by the launch's thread, its process, or none."),
    ),
    build,
)
