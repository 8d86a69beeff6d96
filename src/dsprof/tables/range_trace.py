"""`range_trace`: every NVTX range, its place among the others, and its projection on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays import NULL
from dsprof.attribute.ranges import RangeTree
from dsprof.measures.range_sums import RangeSums
from dsprof.tables._table import CodedText, Column, Table, integer, name
from dsprof.trace import STYLES, pid_of, tid_of


def build(tree: RangeTree, enclosed: RangeSums) -> dict[str, Any]:
    """A row per range, by start."""
    ranges, sums = tree.ranges, enclosed.of_all()
    order = np.lexsort((ranges.range_id, ranges.start))
    parent_id = np.where(tree.parent >= 0, ranges.range_id[tree.parent], NULL) if len(ranges) else tree.parent
    values: dict[str, Any] = {
        "range_id": ranges.range_id,
        "parent_id": parent_id,
        "level": tree.level,
        "pid": pid_of(ranges.thread),
        "tid": tid_of(ranges.thread),
        "start_ns": ranges.start,
        "end_ns": ranges.end,
        "duration_ns": ranges.end - ranges.start,
        "payload": ranges.payload,
        "truncated": ranges.truncated | ranges.cut,
        **sums,
        "proj_duration_ns": np.where(sums["proj_end_ns"] == NULL, NULL, sums["proj_end_ns"] - sums["proj_start_ns"]),
    }
    texts = {
        "name": CodedText(ranges.name[order], tree.names),
        "domain": CodedText(ranges.domain[order], tree.names),
        "style": CodedText(ranges.style[order], STYLES),
    }
    return {**{column: value[order] for column, value in values.items()}, **texts}


TABLE = Table(
    "range_trace",
    "an NVTX range",
    (
        integer("range_id", "Row of the range in NVTX_EVENTS."),
        integer("parent_id", "range_id of the enclosing range of the same thread, domain and style.", True),
        integer("level", "Depth below the outermost range of the same thread, domain and style."),
        name("name", "The range's own name."),
        name("domain", "Name of its NVTX domain; empty for the default domain."),
        name("style", "PushPop or StartEnd."),
        integer("pid", "Process that began the range."),
        integer("tid", "Thread that began the range."),
        integer("start_ns", "When it began."),
        integer("end_ns", "When it ended."),
        integer("duration_ns", "Time on the host."),
        integer("payload", "The range's integer payload.", True),
        Column("truncated", "True where it was still open at the end of the capture, or is cut by --window.", "bool"),
        integer("proj_start_ns", "Start of the first GPU operation launched in the range.", True),
        integer("proj_end_ns", "End of the last GPU operation launched in the range.", True),
        integer("proj_duration_ns", "Length of the projection, from first start to last end.", True),
        integer("api_calls", "CUDA API calls in the range that put operations on the GPU (NumGPUOps of Nsight)."),
        integer("straddling_calls", "Those of them that end after the range does; Nsight leaves these out."),
        integer("gpu_ops", "GPU operations launched in the range: kernels, copies, sets, whole graphs."),
        integer("kernels", "Kernels launched in the range."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("gpu_busy_ns", "Time covered by one of its GPU operations or more, collectives that wait included."),
    ),
    build,
)
