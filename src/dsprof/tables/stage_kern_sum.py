"""`stage_kern_sum`: what each kernel took in each stage; the stages part `kern_sum` without rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays.statistics import sum_by
from dsprof.attributed import Attributed
from dsprof.measures import kernels_by_stage
from dsprof.table import STATISTICS, Coded, Table, name, real, share_pct, statistics


def build(a: Attributed) -> dict[str, Any]:
    """A row per stage and kernel name: stages in order, ``(no stage)`` last, the greatest total first."""
    names, groups = a.trace.names, kernels_by_stage(a).describe()
    order = np.lexsort((-groups.total, groups.group // len(names)))
    found = groups.take(order)
    of_stage, kernel = found.group // len(names), found.group % len(names)
    stage_total = sum_by(of_stage, found.total, len(a.stage_names))
    return {
        "stage": Coded(of_stage, a.stage_names),
        "kernel": Coded(kernel, names),
        "family": Coded(a.families_of(kernel), a.family_names),
        "share_pct": share_pct(found.total, stage_total[of_stage]),
        **statistics(found),
    }


TABLE = Table(
    "stage_kern_sum",
    "a stage x kernel name",
    (
        name("stage", "The stage in which the kernels were launched, or (no stage)."),
        name("kernel", "The kernel's full, demangled name."),
        name("family", "What it does, by its name: gemm, attention, copy, …; other where no rule fits."),
        real("share_pct", "Its total in percent of the stage's kernel time."),
        *STATISTICS,
    ),
    build,
    (kernels_by_stage,),
)
