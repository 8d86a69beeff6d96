"""`collective_sum`: what each rank spent in each kind of collective of each stage, transferring and waiting."""

from __future__ import annotations

from typing import Any

from dsprof.answers.collectives import MatchedCollectives
from dsprof.arrays import group_rows
from dsprof.rules.collectives import OPERATIONS
from dsprof.tables._ranks import TOOK, WHO, summed, who
from dsprof.tables._table import CodedText, Table, name


def build(matched: MatchedCollectives) -> dict[str, Any]:
    """A row per stage, operation and rank, in that order; ``(no stage)`` last."""
    columns = matched.columns
    heads, group = group_rows(columns["stage"], columns["operation"], columns["rank"])
    return {
        **who(matched, columns["rank"][heads]),
        "stage": CodedText(columns["stage"][heads], matched.stages),
        "operation": CodedText(columns["operation"][heads], tuple(OPERATIONS)),
        **summed(matched, group, len(heads)),
    }


TABLE = Table(
    "collective_sum",
    "a stage x operation x rank",
    (
        name("stage", "The stage in which the collectives were launched, or (no stage)."),
        name("operation", "What they do: all-reduce, all-gather, …; other where the name does not say it."),
        *WHO,
        *TOOK,
    ),
    build,
)
