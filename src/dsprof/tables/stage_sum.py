"""`stage_sum`: a stage over its steady instances, and over its warm-up; with ``(no stage)`` they are the report."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof import arrays as at
from dsprof.answers.painting import StageBusy
from dsprof.answers.stages import Stages
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import percentiles
from dsprof.attribute.stages import StageRanges
from dsprof.measures.totals import StageTotals
from dsprof.tables._table import CodedText, Column, Table, integer, name, real, share_pct

#: What is summed and spread out over the instances: the name's stem, its unit, and a word for it.
_METRICS = (
    ("duration", "_ns", "time on the host"),
    ("wall", "_ns", "time until host and GPU are done"),
    ("proj_duration", "_ns", "length of the GPU projection"),
    ("gpu_busy", "_ns", "GPU busy time (waiting for other ranks included)"),
    ("gpu_idle", "_ns", "GPU idle time"),
    ("launches", "", "launches"),
    ("gpu_ops", "", "GPU operations"),
    ("kernels", "", "kernels"),
    ("kernel_total", "_ns", "summed kernel time"),
    ("memcpy", "_ns", "summed copy time"),
    ("memcpy", "_bytes", "bytes copied"),
    ("sync", "_ns", "host time in calls that only wait"),
)
#: Of these, the ones that `(no stage)` has too: what is launched is launched somewhere.
_EVERYWHERE = ("launches", "gpu_ops", "kernels", "kernel_total", "memcpy", "sync", "gpu_busy")
_SPREAD = ("mean", "std", "p50", "p90", "p99")


#: What the GPU was busy with, which is summed and not spread out, and what each is.
_SPLIT = {
    "compute_ns": "a kernel ran that is no collective",
    "transfer_ns": "nothing but a collective that transferred; missing where none has its match",
    "wait_ns": "nothing but one that waited for another rank, which is no work; missing where none has its match",
    "unmatched_ns": "nothing but one without a match",
    "other_ns": "a copy or a set, and no kernel that is no collective",
}


def build(staged: StageRanges, stages: Stages, totals: StageTotals, parts: StageBusy) -> dict[str, Any]:
    """A row per stage of the rules over its steady instances, one over its warm-up, if any, and ``(no stage)`` last."""
    kind, last = 2 * stages.code + ~stages.steady, len(staged.names) - 1
    kinds = at.distinct_in_any_order(2 * np.arange(last), kind)
    count, of_row = len(kinds), np.searchsorted(kinds, kind)
    values: dict[str, Any] = {
        "stage": CodedText(np.append(kinds // 2, last), staged.names),
        "warm_up": np.append(kinds % 2 > 0, False),
        "instances": np.append(np.bincount(of_row, minlength=count), NULL),
    }
    for (stem, unit, _), (rows, outside) in zip(_METRICS, _measured(stages, totals), strict=True):
        total, spread = _totals(rows, of_row, count), _spread(rows, of_row, count)
        values[_total_name(stem, unit)] = np.append(total, outside if stem in _EVERYWHERE else NULL)
        for word, column in zip(_SPREAD, spread, strict=True):
            values[f"{stem}_{word}{unit}"] = np.append(column, np.nan)
    tokens = _totals(stages.all_tokens, of_row, count)
    duration = values["duration_total_ns"][:-1]
    values["tokens"] = np.append(tokens, NULL)
    counted = (tokens != NULL) & (duration > 0)
    per_second = np.divide(tokens * 1e9, duration, out=np.full(count, np.nan), where=counted)
    values["tokens_per_s"] = np.append(per_second, np.nan)
    for column, rows in parts.columns.items():
        values[_split_name(column)] = np.append(_totals(rows[:-1], of_row, count), rows[-1])
    busy, wall = values["gpu_busy_total_ns"][:-1], values["wall_total_ns"][:-1]
    values["busy_pct"] = np.append(np.where(wall > 0, share_pct(busy, wall), np.nan), np.nan)
    waited = values["wait_total_ns"][:-1]
    working = np.where((wall > 0) & (waited != NULL), share_pct(busy - np.maximum(waited, 0), wall), np.nan)
    values["work_pct"] = np.append(working, np.nan)
    return values


def _split_name(column: str) -> str:
    """The name of the sum of a part of the busy time.

    >>> _split_name("wait_ns")
    'wait_total_ns'
    """
    return f"{column.removesuffix('_ns')}_total_ns"


def _total_name(stem: str, unit: str) -> str:
    """Name of a metric's sum; what is a total in each instance is a total of all."""
    return f"{stem.removesuffix('_total')}_total{unit}"


def _measured(stages: Stages, totals: StageTotals) -> list[tuple[Ints, int]]:
    """For each of `_METRICS`: its value in every stage range, and outside of them."""
    projection = np.where(stages.proj_end == NULL, 0, stages.proj_end - stages.proj_start)
    columns = (
        np.append(stages.end - stages.start, 0), np.append(stages.wall, 0), np.append(projection, 0),
        totals.gpu_busy_ns, np.append(stages.wall - stages.busy, 0), totals.launches, totals.gpu_ops, totals.kernels,
        totals.kernel_total_ns, totals.memcpy_ns, totals.memcpy_bytes, totals.sync_ns,
    )  # fmt: skip
    return [(column[:-1], int(column[-1])) for column in columns]


def _totals(rows: Ints, of_row: Ints, stages: int) -> Ints:
    """Sum per stage over the rows that have a value; NULL for a stage without one."""
    known = rows != NULL
    total = np.bincount(of_row[known], weights=rows[known], minlength=stages).astype(np.int64)
    return np.where(np.bincount(of_row[known], minlength=stages) > 0, total, NULL)


def _spread(rows: Ints, of_row: Ints, stages: int) -> list[Any]:
    """Mean, sample standard deviation and percentiles per stage; NaN where there is no instance."""
    mean, std = np.full(stages, np.nan), np.full(stages, np.nan)
    for stage in at.distinct_in_any_order(of_row).tolist():
        values = rows[of_row == stage]
        mean[stage], std[stage] = values.mean(), values.std(ddof=1) if len(values) > 1 else 0.0
    return [mean, std, *percentiles(of_row, rows, stages, (50, 90, 99))]


def _columns() -> list[Column]:
    words = {"mean": "Mean", "std": "Sample standard deviation", "p50": "Median", "p90": "90th percentile",
             "p99": "99th percentile"}  # fmt: skip
    columns = []
    for stem, unit, text in _METRICS:
        columns.append(integer(_total_name(stem, unit), f"Sum of the instances' {text}.", True))
        columns += [
            real(f"{stem}_{word}{unit}", f"{said} of the instances' {text}.", True) for word, said in words.items()
        ]
    return columns


TABLE = Table(
    "stage_sum",
    "a stage over its steady instances, and over its warm-up",
    (
        name("stage", "The stage, or (no stage) for everything launched outside of all stages."),
        Column(
            "warm_up",
            "True for the row over the stage's warm-up and what --window cuts, False over its steady instances.",
            "bool",
        ),
        integer("instances", "How many instances of the stage the row is over.", True),
        integer("tokens", "Tokens of all these instances and their sequences: see stage_trace.", True),
        real("tokens_per_s", "tokens by duration_total_ns.", True),
        real("busy_pct", "gpu_busy_total_ns in percent of wall_total_ns.", True),
        real(
            "work_pct", "The same without the time in which the GPU waited for other ranks, where that is known.", True
        ),
        *(integer(_split_name(column), f"Of gpu_busy_total_ns: {text}.", True) for column, text in _SPLIT.items()),
        *_columns(),
    ),
    build,
)
