"""`mem_sum`: time and bytes of each kind of copy and of sets (``cuda_gpu_mem_time_sum``, ``_size_sum``)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays.statistics import Distribution, add_distributions, distribution
from dsprof.attributed import Attributed
from dsprof.measure import measure
from dsprof.table import STATISTICS, Coded, Table, integer, name, real, share_pct, statistics
from dsprof.trace import operation_names


def _add(one: tuple[Distribution, ...], other: tuple[Distribution, ...]) -> tuple[Distribution, ...]:
    return tuple(add_distributions(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@measure(merge=_add)
def memops_by_kind(a: Attributed) -> tuple[Distribution, ...]:
    """Durations, and bytes, of the memory operations by kind."""
    memops, own = a.trace.memops, a.trace.own_memops
    codes = operation_names(memops.kind[own])[0]
    return distribution(codes, (memops.end - memops.start)[own]), distribution(codes, memops.bytes[own])


def build(a: Attributed) -> dict[str, Any]:
    """A row per kind of operation, the greatest total time first."""
    labels = operation_names(np.zeros(0, np.int64))[1]
    times, sizes = (found.describe() for found in memops_by_kind(a))
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
    (memops_by_kind,),
)
