"""`kern_trace`: every kernel with its launch, its range, its stage and its step."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.attributed import VIA, Attributed
from dsprof.attribution import NULL
from dsprof.names import short_kernel_name
from dsprof.table import Coded, Table, integer, name
from dsprof.trace import dimensions, pid_of, tid_of


def build(a: Attributed) -> dict[str, Any]:
    """A row per kernel, by start."""
    kernels, calls = a.trace.kernels, a.trace.calls
    order = np.argsort(kernels.start, kind="stable")
    stage_range = a.stage_range_of_op[order]
    call_start, call_end = a.of_op(calls.start, NULL)[order], a.of_op(calls.end, NULL)[order]
    launched = call_start != NULL
    short = tuple(short_kernel_name(text) if used else "" for text, used in zip(a.trace.names, _used(a), strict=True))
    grid, block = dimensions(kernels.grid[order]), dimensions(kernels.block[order])
    return {
        "kernel": Coded(kernels.name[order], a.trace.names),
        "short_name": Coded(kernels.name[order], short),
        "family": Coded(a.family_of_name[kernels.name[order]], a.family_names),
        "start_ns": kernels.start[order],
        "end_ns": kernels.end[order],
        "duration_ns": (kernels.end - kernels.start)[order],
        "device_id": kernels.device[order],
        "context_id": kernels.context[order],
        "stream_id": kernels.stream[order],
        "pid": pid_of(kernels.process[order]),
        "tid": np.where(launched, tid_of(a.of_op(calls.thread, 0)[order]), NULL),
        "correlation_id": kernels.correlation[order],
        "graph_node_id": kernels.graph_node[order],
        "api_name": Coded(a.of_op(calls.name.astype(np.int64))[order], a.trace.names),
        "api_start_ns": call_start,
        "api_ns": np.where(launched, call_end - call_start, NULL),
        "queue_ns": np.where(launched, np.maximum(kernels.start[order] - call_end, 0), NULL),
        "grid": Coded(*grid),
        "block": Coded(*block),
        "registers_per_thread": kernels.registers[order],
        "shared_memory_bytes": kernels.shared_memory[order],
        "range_id": _range_id(a, a.of_op(a.range_of_call)[order]),
        "stage": Coded(a.stage_code(stage_range), a.stage_names),
        "stage_instance": np.where(stage_range >= 0, np.append(a.instance_of_range, NULL)[stage_range], NULL),
        "step": a.step_of_op[order],
        "via": Coded(a.via_of_op[order], VIA),
    }


def _used(a: Attributed) -> Any:
    used = np.zeros(len(a.trace.names), np.bool_)
    used[a.trace.kernels.name] = True
    return used.tolist()


def _range_id(a: Attributed, row: Any) -> Any:
    return np.where(row >= 0, np.append(a.trace.ranges.range_id, NULL)[row], NULL)


TABLE = Table(
    "kern_trace",
    "a kernel",
    (
        name("kernel", "The kernel's full, demangled name; (CUDA graph) for a replay traced as a whole."),
        name("short_name", "The same, short enough to read: its function and its functor."),
        name("family", "What it does, by its name: gemm, attention, copy, …; other where no rule fits."),
        integer("start_ns", "When it began on the GPU."),
        integer("end_ns", "When it ended on the GPU."),
        integer("duration_ns", "Kernel time."),
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
        integer("queue_ns", "Queue time: from the call's end to the kernel's start, 0 where they overlap.", True),
        name("grid", "Grid as x,y,z.", nullable=True),
        name("block", "Block as x,y,z.", nullable=True),
        integer("registers_per_thread", "Registers per thread.", True),
        integer("shared_memory_bytes", "Static and dynamic shared memory per block.", True),
        integer("range_id", "The innermost NVTX range around the launch, of any domain.", True),
        name("stage", "The stage of the launch, or (no stage)."),
        integer("stage_instance", "Which prefill or decode of the report, from 0.", True),
        integer("step", "Decode step of the launch.", True),
        name("via", "How the stage was found: by the launch's thread, its process, or none."),
    ),
    build,
)
