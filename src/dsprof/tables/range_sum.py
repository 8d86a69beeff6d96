"""`range_sum`: what each range name took, on the host and on the GPU (``nvtx_sum``, ``nvtx_gpu_proj_sum``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays import NULL, Ints, group_rows
from dsprof.arrays.statistics import describe, sum_by
from dsprof.attribute.ranges import RangeTree
from dsprof.measures.range_sums import RangeSums
from dsprof.tables._table import CodedText, Table, integer, name, real, statistics
from dsprof.trace import STYLES

_SUMS = ("api_calls", "gpu_ops", "kernels", "kernel_total_ns", "gpu_busy_ns")
#: The statistics of the ranges' projections, by what `describe` calls them.
_PROJECTION = {"total": "Sum", "avg": "Mean", "med": "Median", "min": "Shortest", "max": "Longest",
               "stddev": "Sample standard deviation"}  # fmt: skip


def build(tree: RangeTree, enclosed: RangeSums) -> dict[str, Any]:
    """A row per range name, domain and style, the greatest total on the host first."""
    ranges, sums = tree.ranges, enclosed.of_all()
    heads, group = group_rows(ranges.name.astype(np.int64), ranges.domain.astype(np.int64), ranges.style)
    host = describe(group, ranges.end - ranges.start)
    order = np.argsort(-host.total, kind="stable")
    host, head = host.take(order), heads[order]
    values: dict[str, Any] = {
        "name": CodedText(ranges.name[head], tree.names),
        "domain": CodedText(ranges.domain[head], tree.names),
        "style": CodedText(ranges.style[head], STYLES),
        **statistics(host),
        **_projections(group, sums["proj_start_ns"], sums["proj_end_ns"], order),
    }
    return values | {column: sum_by(group, sums[column], len(heads))[order] for column in _SUMS}


def _projections(group: Ints, start: Ints, end: Ints, order: Ints) -> dict[str, Any]:
    """Statistics of the projections of each group, in an order; nothing of one without any."""
    known = np.flatnonzero(end != NULL)
    found = describe(group[known], (end - start)[known])
    place = np.full(len(order), len(found.group))
    place[found.group] = np.arange(len(found.group))
    place = place[order]
    values: dict[str, Any] = {"proj_instances": np.append(found.instances, 0)[place]}
    for word in _PROJECTION:
        column = getattr(found, word)
        none = NULL if column.dtype == np.int64 else np.nan
        values[f"proj_{word}_ns"] = np.append(column, none)[place]
    return values


TABLE = Table(
    "range_sum",
    "a range name",
    (
        name("name", "The ranges' name."),
        name("domain", "Name of their NVTX domain; empty for the default domain."),
        name("style", "PushPop or StartEnd."),
        integer("instances", "Number of ranges."),
        integer("total_ns", "Sum of their times on the host."),
        real("avg_ns", "Mean time on the host."),
        real("med_ns", "Median time on the host."),
        integer("min_ns", "Shortest time on the host."),
        integer("max_ns", "Longest time on the host."),
        real("stddev_ns", "Sample standard deviation of the times on the host; 0 for a single one."),
        integer("proj_instances", "Ranges that launched something on the GPU."),
        *(
            (integer if word in ("total", "min", "max") else real)(
                f"proj_{word}_ns", f"{said} of their projections on the GPU, each from first start to last end.", True
            )
            for word, said in _PROJECTION.items()
        ),
        integer("api_calls", "CUDA API calls in them that put operations on the GPU."),
        integer("gpu_ops", "GPU operations launched in them; one in two of them counts twice."),
        integer("kernels", "Kernels launched in them."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("gpu_busy_ns", "Sum of the times the GPU was busy with each of them, collectives that wait included."),
    ),
    build,
)
