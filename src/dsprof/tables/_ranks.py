"""What the tables of ranks have in common: which rank a row is of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from attrs import evolve

from dsprof.answers.collectives import INCONCLUSIVE, YES, MatchedCollectives
from dsprof.answers.identity import RANK_FROM
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import Floats, count_by, sum_by
from dsprof.tables._table import CodedText, Table, integer, name, real, share_pct
from dsprof.trace import pid_of

#: Which rank it is.
WHO = (
    integer("rank", "The number of the rank; missing where nothing tells it.", True),
    name(
        "rank_from", "What tells it: NCCL, the environment by its launcher, the device, the file name.", nullable=True
    ),
    integer("pid", "Process."),
    integer("device_id", "CUDA device."),
    integer("group", "Ranks that make their collectives together have the same; missing without a match.", True),
)
#: What collectives took.
TOOK = (
    integer("collectives", "Number of collectives."),
    integer("matched", "Those of them whose match on the other ranks is known."),
    integer("total_ns", "Sum of their durations: transfer, waiting, and those without a match."),
    integer("transfer_ns", "Of the matched, the shortest duration among the ranks: a proxy for the transfer.", True),
    integer("wait_ns", "Of the matched, what they took longer than that: waiting for the others.", True),
    integer("unmatched_ns", "The durations of those without a match, of which nothing is known."),
    real("last_pct", "Of the matched, those that this rank began last, so that the others waited for it.", True),
    real("inconclusive_pct", "Of the matched, those of which the clocks do not tell whether it did.", True),
)
#: The column that tables over several reports begin with.
REPORT = name("report", "The report, by its file.")


def who(matched: MatchedCollectives, rank: Ints) -> dict[str, Any]:
    """Values of `WHO` and `REPORT` for some places in `ranks`."""
    ranks = matched.ranks

    def column(values: Sequence[int]) -> Ints:
        return np.array(values, np.int64)[rank]

    return {
        "report": CodedText(column([one.report for one in ranks]), matched.reports),
        "rank": column([one.number for one in ranks]),
        "rank_from": CodedText(column([one.number_from for one in ranks]), RANK_FROM),
        "pid": pid_of(column([one.process for one in ranks])),
        "device_id": column([one.device for one in ranks]),
        "group": column([NULL if one.group < 0 else one.group for one in ranks]),
    }


def summed(matched: MatchedCollectives, group: Ints, count: int) -> dict[str, Ints | Floats]:
    """Values of `TOOK` for each group of collectives; transfer, wait and unmatched add up to the total.

    Of a group without a match nothing is known, so those are missing that are of the matched.
    """
    columns = matched.columns
    found = columns["collective"] != NULL
    of, duration = group[found], columns["end"] - columns["start"]
    matches = count_by(of, count)

    def total(column: str) -> Ints:
        return np.where(matches > 0, sum_by(of, columns[column][found], count), NULL)

    def share(last: int) -> Floats:
        known: Floats = np.where(
            matches > 0, share_pct(count_by(group[columns["last"] == last], count), matches), np.nan
        )
        return known

    return {
        "collectives": count_by(group, count),
        "matched": matches,
        "total_ns": sum_by(group, duration, count),
        "transfer_ns": total("transfer"),
        "wait_ns": total("wait"),
        "unmatched_ns": sum_by(group[~found], duration[~found], count),
        "last_pct": share(YES),
        "inconclusive_pct": share(INCONCLUSIVE),
    }


def of_several(table: Table) -> Table:
    """The table over several reports: each row says of which it is."""
    return evolve(table, columns=(REPORT, *table.columns))
