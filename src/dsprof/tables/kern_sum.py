"""`kern_sum`: what each kernel took in the whole report, as Nsight's ``cuda_gpu_kern_sum`` says it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.attributed import Attributed
from dsprof.measures import kernels_by_stage, regrouped
from dsprof.table import STATISTICS, Coded, Table, name, real, share_pct, statistics


def build(a: Attributed) -> dict[str, Any]:
    """A row per kernel name, the greatest total first."""
    by_stage = kernels_by_stage(a)
    groups = regrouped(by_stage, by_stage.group % len(a.trace.names)).describe()
    order = np.argsort(-groups.total, kind="stable")
    found = groups.take(order)
    return {
        "kernel": Coded(found.group, a.trace.names),
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
    (kernels_by_stage,),
)
