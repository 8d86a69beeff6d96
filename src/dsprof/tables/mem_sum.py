"""`mem_sum`: time and bytes of each kind of copy and of sets (``cuda_gpu_mem_time_sum``, ``_size_sum``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.attributed import Attributed
from dsprof.stats import describe
from dsprof.table import STATISTICS, Coded, Table, integer, name, real, share_pct, statistics
from dsprof.trace import operation_names


def build(a: Attributed) -> dict[str, Any]:
    """A row per kind of operation, the greatest total time first."""
    memops = a.trace.memops
    codes, labels = operation_names(memops.kind)
    times, sizes = describe(codes, memops.end - memops.start), describe(codes, memops.bytes)
    order = np.argsort(-times.total, kind="stable")
    times, sizes = times.take(order), sizes.take(order)
    return {
        "kind": Coded(times.group, labels),
        "share_pct": share_pct(times.total, int(times.total.sum())),
        **statistics(times),
        "total_bytes": sizes.total,
        "avg_bytes": sizes.avg,
        "med_bytes": sizes.med,
        "min_bytes": sizes.min,
        "max_bytes": sizes.max,
        "stddev_bytes": sizes.stddev,
    }


TABLE = Table(
    "mem_sum",
    "a kind of memory operation",
    (
        name("kind", "[CUDA memcpy …] with its direction, or [CUDA memset], as Nsight's reports word it."),
        real("share_pct", "Its total time in percent of all copies and sets."),
        integer("instances", "Number of operations."),
        *STATISTICS[1:],
        integer("total_bytes", "Sum of the bytes."),
        real("avg_bytes", "Mean size."),
        real("med_bytes", "Median size."),
        integer("min_bytes", "Smallest size."),
        integer("max_bytes", "Greatest size."),
        real("stddev_bytes", "Sample standard deviation of the sizes; 0 for a single one."),
    ),
    build,
)
