"""`rank_sum`: each stage on each rank: what it computed, transferred and waited, and how long its host took."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof import arrays as at
from dsprof.answers.collectives import MatchedCollectives
from dsprof.answers.painting import of_ranks
from dsprof.arrays import NULL, Ints, group_rows
from dsprof.arrays.statistics import Floats, sum_by
from dsprof.tables._ranks import TOOK, WHO, summed, who
from dsprof.tables._table import CodedText, Table, integer, name, real

#: What the host took, by the columns of `MatchedCollectives.hosts`.
_HOST = {"wall_ns": "wall_ns", "host_ns": "host_ns", "calls_ns": "host_in_calls_ns"}
#: What is compared with the median rank of a group.
_COMPARED = {"wall": "wall_ns", "compute": "compute_busy_ns", "host": "host_ns"}


def build(matched: MatchedCollectives) -> dict[str, Any]:
    """A row per stage and rank, in that order; ``(no stage)`` last.

    ::

        total_ns    = transfer_ns + wait_ns + unmatched_ns                  each collective for itself
        busy_ns     = compute_busy_ns + other_busy_ns + transfer_exposed_ns + wait_exposed_ns + unmatched_exposed_ns
        transfer_ns = transfer_exposed_ns + transfer_hidden_ns              each instant once
    """
    columns, compute, hidden = matched.columns, matched.compute, matched.hidden
    stage, rank = (np.concatenate([compute[key], columns[key], hidden[key]]) for key in ("stage", "rank"))
    heads, group = group_rows(stage, rank)
    count = len(heads)
    of_work, of_collective, of_hidden = np.split(group, np.cumsum([len(compute["stage"]), len(columns["stage"])]))
    took = summed(matched, of_collective, count)
    alone = of_ranks(matched, of_collective, count, of_hidden)
    matches = took["matched"] > 0

    def worked(column: str) -> Ints:
        return sum_by(of_work, compute[column], count)

    def told(values: Ints | Floats) -> Ints:
        return np.where(matches, values, NULL)

    found: dict[str, Any] = {
        **who(matched, rank[heads]),
        "stage": CodedText(stage[heads], matched.stages),
        **took,
        "compute_busy_ns": worked("compute_ns"),
        "transfer_exposed_ns": told(alone.transfer),
        "wait_exposed_ns": told(alone.wait),
        "unmatched_exposed_ns": alone.unmatched,
        "other_busy_ns": worked("other_ns"),
        "busy_ns": worked("busy_ns"),
        "transfer_hidden_ns": told(took["transfer_ns"] - alone.transfer),
        "wait_hidden_ns": told(took["wait_ns"] - alone.wait),
        "launches": worked("launches"),
        **_on_host(matched, stage[heads], rank[heads]),
    }
    known = np.where(found["host_ns"] == NULL, NULL, found["host_ns"] - found["host_in_calls_ns"])
    found["host_outside_ns"] = known
    of_group = np.array([one.group for one in matched.ranks], np.int64)[rank[heads]]
    compared = group_rows(stage[heads], np.where(of_group < 0, -1 - rank[heads], of_group))[1]
    for stem, column in _COMPARED.items():
        found[f"{stem}_vs_median_pct"] = _beyond_the_median(found[column], compared)
    return found


def _on_host(matched: MatchedCollectives, stage: Ints, rank: Ints) -> dict[str, Ints]:
    """What the host took in a stage of a rank's process; NULL where it has no such stage."""
    hosts, ranks = matched.hosts, matched.ranks
    report, process = (np.array([getattr(one, key) for one in ranks], np.int64) for key in ("report", "process"))
    wanted = (stage, report[rank], process[rank])
    keys = zip((hosts["stage"], hosts["report"], hosts["process"]), wanted, strict=True)
    heads, group = group_rows(*map(np.concatenate, keys))
    of_host, of_row = np.split(group, [len(hosts["stage"])])
    there = np.isin(of_row, of_host)
    return {
        name: np.where(there, sum_by(of_host, hosts[column], len(heads))[of_row], NULL)
        for column, name in _HOST.items()
    }


def _beyond_the_median(values: Ints, group: Ints) -> Floats:
    """By how many percent each value is above the median of its group, which has two values or more; else NaN."""
    found = np.full(len(values), np.nan)
    for _, rows in at.each(group):
        mine = values[rows]
        if len(rows) > 1 and (mine != NULL).all() and (middle := float(np.median(mine))):
            found[rows] = 100 * (mine / middle - 1)
    return found


TABLE = Table(
    "rank_sum",
    "a stage x rank",
    (
        name("stage", "The stage in which the kernels were launched, or (no stage)."),
        *WHO,
        *TOOK,
        integer("compute_busy_ns", "Time covered by at least one kernel that is no collective."),
        integer("transfer_exposed_ns", "Of the rest, covered by a collective that transfers.", True),
        integer("wait_exposed_ns", "Of the rest, covered by one that waits for other ranks: no work.", True),
        integer("unmatched_exposed_ns", "Of the rest, covered by one without a match."),
        integer("other_busy_ns", "Covered by copies and sets, and by no kernel that is no collective."),
        integer(
            "busy_ns",
            "Time covered by at least one operation: compute, other, and the exposed transfer, wait and unmatched.",
        ),
        integer("transfer_hidden_ns", "transfer_ns beside other work of the stage, or beside other collectives.", True),
        integer("wait_hidden_ns", "wait_ns beside other work of the stage, or beside other collectives.", True),
        integer("launches", "CUDA API calls that put its operations on this device."),
        integer("wall_ns", "Of its process: the wall time of the stage's instances, as in stage_trace.", True),
        integer("host_ns", "Of its process: their time on the host.", True),
        integer("host_in_calls_ns", "Of host_ns: their thread was in a CUDA API call.", True),
        integer("host_outside_ns", "Of host_ns: it was outside of all CUDA API calls.", True),
        *(
            real(
                f"{stem}_vs_median_pct",
                f"By how many percent {column} is above the median of the ranks of its group.",
                True,
            )
            for stem, column in _COMPARED.items()
        ),
    ),
    build,
)
