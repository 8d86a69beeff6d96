"""`stage_trace`: every prefill and every decode, on the host and on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.accounting import CAUSES, accounts
from dsprof.arrays import NULL
from dsprof.attributed import Attributed, wall_time
from dsprof.measures import stage_totals
from dsprof.requests import requests_of, steady_stages
from dsprof.table import Coded, Column, Table, integer, name, real, share_pct
from dsprof.trace import pid_of, tid_of


def build(a: Attributed) -> dict[str, Any]:
    """A row per stage range, by start.

    ::

        host   start |=========== duration ===========| end
        GPU            proj_start |--busy--|  |--busy--|-----|
        wall         |======================================|      wall = busy + idle
    """
    ranges, rows, totals = a.trace.ranges, a.stage_ranges, stage_totals(a)
    start, end = ranges.start[rows], ranges.end[rows]
    proj_start, proj_end, busy = totals.proj_start_ns[:-1], totals.proj_end_ns[:-1], totals.gpu_busy_ns[:-1]
    wall = wall_time(start, end, proj_start, proj_end)
    idle = accounts(a).stages
    return {
        "stage": Coded(a.stage_of_range[rows], a.stage_names),
        "instance": a.instance_of_range[rows],
        "request": requests_of(a).number_of_stage,
        "pid": pid_of(ranges.thread[rows]),
        "tid": tid_of(ranges.thread[rows]),
        "range_id": ranges.range_id[rows],
        "steady": steady_stages(a),
        "start_ns": start,
        "end_ns": end,
        "duration_ns": end - start,
        "tokens": a.tokens,
        "proj_start_ns": proj_start,
        "proj_end_ns": proj_end,
        "proj_duration_ns": np.where(proj_end == NULL, NULL, proj_end - proj_start),
        "wall_ns": wall,
        "gpu_busy_ns": busy,
        "gpu_idle_ns": wall - busy,
        "busy_pct": share_pct(busy, wall),
        "launches": totals.launches[:-1],
        "gpu_ops": totals.gpu_ops[:-1],
        "kernels": totals.kernels[:-1],
        "kernel_total_ns": totals.kernel_total_ns[:-1],
        "memcpy_ns": totals.memcpy_ns[:-1],
        "memcpy_bytes": totals.memcpy_bytes[:-1],
        "sync_ns": totals.sync_ns[:-1],
        **{f"idle_{cause}_ns": idle[cause] for cause in CAUSES},
    }


TABLE = Table(
    "stage_trace",
    "one prefill or one decode",
    (
        name("stage", "The stage: prefill, decode, or one of --stage."),
        integer("instance", "Which of its stage, from 0 in the order of start."),
        integer("request", "Number of its request in request_trace.", True),
        integer("pid", "Process."),
        integer("tid", "Thread that began it."),
        integer("range_id", "Its row in range_trace."),
        Column(
            "steady",
            "False for a warm-up: at the head of its stage in its process, at most half, those that took more than "
            "1.2 times the median of the later half; by step where there are steps, else as a whole and by token.",
            "bool",
        ),
        integer("start_ns", "When it began on the host."),
        integer("end_ns", "When it ended on the host."),
        integer("duration_ns", "Time on the host."),
        integer("tokens", "Tokens: the decode steps in it, else the range's payload.", True),
        integer("proj_start_ns", "Start of its first GPU operation.", True),
        integer("proj_end_ns", "End of its last GPU operation.", True),
        integer("proj_duration_ns", "Length of its GPU projection.", True),
        integer("wall_ns", "From its begin, on the host as a rule, until host and GPU are both done with it."),
        integer("gpu_busy_ns", "Time covered by at least one of its GPU operations."),
        integer("gpu_idle_ns", "wall_ns - gpu_busy_ns."),
        real("busy_pct", "gpu_busy_ns in percent of wall_ns."),
        integer("launches", "CUDA API calls that put its operations on the GPU."),
        integer("gpu_ops", "Its GPU operations: kernels, copies, sets, whole graphs."),
        integer("kernels", "Its kernels."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("memcpy_ns", "Sum of the copies' durations."),
        integer("memcpy_bytes", "Bytes copied."),
        integer("sync_ns", "Host time in calls that only wait for the GPU."),
        *(integer(f"idle_{cause}_ns", f"Of gpu_idle_ns: {text}.") for cause, text in CAUSES.items()),
    ),
    build,
    (stage_totals, accounts),
)
