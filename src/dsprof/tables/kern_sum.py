"""`kern_sum`: what each kernel took in the whole report, as Nsight's ``cuda_gpu_kern_sum`` says it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays.statistics import distribution
from dsprof.measures.by_name import KernelsByStage
from dsprof.tables._table import STATISTICS, CodedText, Table, name, real, share_pct, statistics


def build(kernels: KernelsByStage) -> dict[str, Any]:
    """A row per kernel name, the greatest total first."""
    groups = distribution(kernels.name, kernels.durations.value, kernels.durations.times).describe()
    order = np.argsort(-groups.total, kind="stable")
    found = groups.take(order)
    return {
        "kernel": CodedText(found.group, kernels.names),
        "share_pct": share_pct(found.total, int(found.total.sum())),
        **statistics(found),
    }


TABLE = Table(
    "kern_sum",
    "a kernel name",
    (
        name("kernel", "The kernel's full, demangled name."),
        real("share_pct", "Its total in percent of all kernel time of the report."),
        *STATISTICS,
    ),
    build,
)
