"""`stage_family_sum`: what each family of kernels took in each stage; it sums up `stage_kern_sum` without rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays.statistics import sum_by
from dsprof.attributed import Attributed
from dsprof.measures import kernels_by_stage, regrouped
from dsprof.table import STATISTICS, Coded, Table, name, real, share_pct, statistics


def build(a: Attributed) -> dict[str, Any]:
    """A row per stage and family: stages in order, ``(no stage)`` last, the greatest total first."""
    by_stage, families = kernels_by_stage(a), a.family_names
    stage, kernel = np.divmod(by_stage.group, len(a.trace.names))
    groups = regrouped(by_stage, stage * len(families) + a.families_of(kernel)).describe()
    order = np.lexsort((-groups.total, groups.group // len(families)))
    found = groups.take(order)
    of_stage = found.group // len(families)
    stage_total = sum_by(of_stage, found.total, len(a.stage_names))
    return {
        "stage": Coded(of_stage, a.stage_names),
        "family": Coded(found.group % len(families), families),
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
    (kernels_by_stage,),
)
