"""`rank_sum`: each stage on each rank: what it computed, transferred and waited."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.answers.collectives import MatchedCollectives
from dsprof.arrays import group_rows
from dsprof.arrays.statistics import sum_by
from dsprof.tables._ranks import TOOK, WHO, summed, who
from dsprof.tables._table import CodedText, Table, integer, name


def build(matched: MatchedCollectives) -> dict[str, Any]:
    """A row per stage and rank, in that order; ``(no stage)`` last."""
    columns, compute = matched.columns, matched.compute
    stage, rank = (np.concatenate([compute[key], columns[key]]) for key in ("stage", "rank"))
    heads, group = group_rows(stage, rank)
    rest = len(compute["stage"])
    return {
        **who(matched, rank[heads]),
        "stage": CodedText(stage[heads], matched.stages),
        **summed(matched, group[rest:], len(heads)),
        "compute_busy_ns": sum_by(group[:rest], compute["compute_ns"], len(heads)),
    }


TABLE = Table(
    "rank_sum",
    "a stage x rank",
    (
        name("stage", "The stage in which the kernels were launched, or (no stage)."),
        *WHO,
        *TOOK,
        integer("compute_busy_ns", "Time covered by at least one kernel that is no collective."),
    ),
    build,
)
