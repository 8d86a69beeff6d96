"""`stage_family_sum`: what each family of kernels took in each stage; it sums up `stage_kern_sum` without rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays.statistics import distribution, sum_by
from dsprof.measures.by_name import KernelsByStage
from dsprof.rules.families import FamilyCodes
from dsprof.tables._table import STATISTICS, CodedText, Table, name, real, share_pct, statistics


def build(kernels: KernelsByStage, families: FamilyCodes) -> dict[str, Any]:
    """A row per stage and family: stages in order, ``(no stage)`` last, the greatest total first."""
    names = families.names
    group = kernels.stage * len(names) + families.of(kernels.name)
    groups = distribution(group, kernels.durations.value, kernels.durations.times).describe()
    order = np.lexsort((-groups.total, groups.group // len(names)))
    found = groups.take(order)
    of_stage = found.group // len(names)
    stage_total = sum_by(of_stage, found.total, len(kernels.stages))
    return {
        "stage": CodedText(of_stage, kernels.stages),
        "family": CodedText(found.group % len(names), names),
        "share_pct": share_pct(found.total, stage_total[of_stage]),
        **statistics(found),
    }


TABLE = Table(
    "stage_family_sum",
    "a stage x kernel family",
    (
        name("stage", "The stage in which the kernels were launched, or (no stage)."),
        name("family", "What the kernels do, by their names; other where no rule fits."),
        real("share_pct", "Its total in percent of the stage's kernel time."),
        *STATISTICS,
    ),
    build,
)
