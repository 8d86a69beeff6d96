"""`stage_kern_sum`: what each kernel took in each stage; the stages part `kern_sum` without rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays.statistics import sum_by
from dsprof.measures.by_name import KernelsByStage
from dsprof.rules.families import FamilyCodes
from dsprof.tables._table import STATISTICS, CodedText, Table, name, real, share_pct, statistics


def build(kernels: KernelsByStage, families: FamilyCodes) -> dict[str, Any]:
    """A row per stage and kernel name: stages in order, ``(no stage)`` last, the greatest total first."""
    names, groups = kernels.names, kernels.durations.describe()
    order = np.lexsort((-groups.total, groups.group // len(names)))
    found = groups.take(order)
    of_stage, kernel = found.group // len(names), found.group % len(names)
    stage_total = sum_by(of_stage, found.total, len(kernels.stages))
    return {
        "stage": CodedText(of_stage, kernels.stages),
        "kernel": CodedText(kernel, names),
        "family": CodedText(families.of(kernel), families.names),
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
)
