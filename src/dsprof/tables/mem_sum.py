"""`mem_sum`: time and bytes of each kind of copy and of sets (``cuda_gpu_mem_time_sum``, ``_size_sum``)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from dsprof.arrays.statistics import Distribution, add_distributions, distribution
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.records import frozen
from dsprof.tables._table import STATISTICS, CodedText, Table, integer, name, real, share_pct, statistics
from dsprof.trace import operation_names


@frozen(eq=False)
class MemoryOperations(Measure):
    """Durations, and bytes, of the memory operations by kind."""

    durations: Distribution
    bytes: Distribution

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        memops, own = launches.trace.memops, launches.trace.own_memops
        kind = operation_names(memops.kind[own])[0]
        return cls(distribution(kind, (memops.end - memops.start)[own]), distribution(kind, memops.bytes[own]))

    def merge(self, other: Self) -> Self:
        """Both together."""
        return type(self)(
            add_distributions(self.durations, other.durations), add_distributions(self.bytes, other.bytes)
        )


def build(measured: MemoryOperations) -> dict[str, Any]:
    """A row per kind of operation, the greatest total time first."""
    labels = operation_names(np.zeros(0, np.int64))[1]
    times, sizes = measured.durations.describe(), measured.bytes.describe()
    order = np.argsort(-times.total, kind="stable")
    times, sizes = times.take(order), sizes.take(order)
    return {
        "kind": CodedText(times.group, labels),
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
