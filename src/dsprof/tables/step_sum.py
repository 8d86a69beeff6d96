"""`step_sum`: how long the steps of a decode take: percentiles, drift with the context's length, outliers."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from dsprof import arrays as at
from dsprof.answers.engine_times import EngineTimes
from dsprof.answers.painting import StepBusy
from dsprof.answers.stages import Stages
from dsprof.answers.steps import Steps
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import count_by, describe, percentiles, slopes
from dsprof.attribute.stages import StageRanges
from dsprof.measures.totals import StepTotals
from dsprof.records import frozen
from dsprof.tables._table import CodedText, Column, Table, integer, name, real

#: What is told of a step: the name's stem, its unit, and a word for it.
_METRICS = (
    ("duration", "_ns", "time on the host"),
    ("gpu_busy", "_ns", "GPU busy time (waiting for other ranks included)"),
    ("gpu_work", "_ns", "GPU busy time without waiting for other ranks"),
    ("launches", "", "launches"),
    ("kernels", "", "kernels"),
)
_PERCENTS = (50, 90, 99)
#: Bits of the logarithm of a batch.
_SIZES = 8
#: Of these, the ones for which a drift is told.
_DRIFTING = ("duration", "gpu_busy", "gpu_work")


def build(
    staged: StageRanges, stages: Stages, steps: Steps, totals: StepTotals, engine: EngineTimes, busy: StepBusy
) -> dict[str, Any]:
    """A row per stage with steps, over its steady ones; then its parts: instances, with all their steps, or batches.

    ::

        (decode, -)       all steady steps of the stage     `steps` + `warm_up_steps` + `cut_steps` of this row is the
        (decode, 0)       every step of its first instance  sum of the `steps` of its instances
        (decode, 1)       ...
        (mixed, -)        an engine's: those of which the end is known
        (mixed, 3 to 4)   of these the ones with a batch of that size
    """
    whole = np.append(engine.whole, True)[staged.step_engine_row]
    of = _Rows.of(staged, steps, whole)
    measured, rows = _measured(steps, totals, busy), len(of.code)
    values: dict[str, Any] = {
        "stage": of.code,
        "instance": np.append(stages.instance, NULL)[of.stage],
        "request": np.append(stages.request, NULL)[of.stage],
        "batch_min": of.batch_min,
        "batch_max": of.batch_max,
        "steps": count_by(of.group, rows),
        "warm_up_steps": count_by(of.kind[~steps.steady], rows),
        "cut_steps": count_by(of.kind[steps.steady & ~whole], rows),
        "outliers": count_by(of.group[steps.outlier[of.step]], rows),
        **_statistics(measured, of.group, of.step, rows),
        **_intervals(staged, engine, of, rows),
        **_drift(measured, steps, of.group, of.step, rows),
    }
    order = np.lexsort((values["batch_min"], values["instance"], values["stage"]))
    ordered = {column: value[order] for column, value in values.items()}
    return {**ordered, "stage": CodedText(ordered["stage"], staged.names)}


@frozen(eq=False)
class _Rows:
    """The rows of the table, and which steps each is over.

    `code`: the stage of each row; `stage`: its place in `StageRanges.rows`, -1 for none; `batch_min`, `batch_max`: of
    an engine's requests. `kind`: the row of the stage of each step; `step`, `group`: steps, and the row of each.
    """

    code: Ints
    stage: Ints
    batch_min: Ints
    batch_max: Ints
    kind: Ints
    step: Ints
    group: Ints

    @classmethod
    def of(cls, staged: StageRanges, steps: Steps, whole: Bools) -> Self:
        owner, code, is_engine = steps.stage, staged.code_of(steps.stage), staged.step_engine_row >= 0
        inside = np.flatnonzero((owner >= 0) & ~is_engine)
        instances, kinds = at.distinct_in_any_order(owner[inside]), at.distinct_in_any_order(code)
        some = np.flatnonzero(steps.steady & whole)
        requests = np.append(staged.engine.requests, NULL)[staged.step_engine_row]
        sized = some[requests[some] > 0]
        size = np.ceil(np.log2(requests[sized])).astype(np.int64)
        buckets = at.distinct_in_any_order(code[sized] << _SIZES | size)
        kind = len(instances) + np.searchsorted(kinds, code)
        bucket = len(instances) + len(kinds) + np.searchsorted(buckets, code[sized] << _SIZES | size)
        power = 1 << (buckets & (1 << _SIZES) - 1)
        none = np.full(len(instances) + len(kinds), NULL)
        return cls(
            code=np.concatenate([staged.code_of(instances), kinds, buckets >> _SIZES]),
            stage=np.concatenate([staged.row[instances], np.full(len(kinds) + len(buckets), -1)]),
            batch_min=np.append(none, (power >> 1) + 1),
            batch_max=np.append(none, power),
            kind=kind,
            step=np.concatenate([inside, some, sized]),
            group=np.concatenate([np.searchsorted(instances, owner[inside]), kind[some], bucket]),
        )


def _intervals(staged: StageRanges, engine: EngineTimes, of: _Rows, rows: int) -> dict[str, Any]:
    """From the begin of an engine's step to that of the next one, pauses left out; and how much was in each step."""
    row, steps = staged.step_engine_row[of.step], staged.engine
    values: dict[str, Any] = {}
    for stem, column in (("requests", steps.requests), ("tokens", steps.tokens), ("interval", engine.interval_ns)):
        known = np.append(column, NULL)[row] != NULL
        if stem == "interval":
            known &= ~np.append(engine.pause, False)[row]
        percents = (50,) if stem != "interval" else _PERCENTS
        found = percentiles(of.group[known], np.append(column, NULL)[row[known]], rows, percents)
        unit = "_ns" if stem == "interval" else ""
        values |= {f"{stem}_p{percent}{unit}": value for percent, value in zip(percents, found, strict=True)}
    return values


def _measured(steps: Steps, totals: StepTotals, busy: StepBusy) -> dict[str, Ints]:
    """For each of `_METRICS`, in order: its value in every step."""
    columns = {
        **totals.columns,
        "duration_ns": steps.duration,
        "gpu_work_ns": totals.gpu_busy_ns - busy.collectives.wait,
    }
    return {stem: columns[stem + unit][: len(steps.range)] for stem, unit, _ in _METRICS}


def _statistics(measured: dict[str, Ints], group: Ints, step: Ints, rows: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for (stem, unit, _), column in zip(_METRICS, measured.values(), strict=True):
        found = describe(group, column[step])
        spread = {"mean": found.avg, "std": found.stddev, "max": found.max}
        whole = {word: np.full(rows, np.nan if word != "max" else NULL, statistic.dtype)
                 for word, statistic in spread.items()}  # fmt: skip
        for word, statistic in spread.items():
            whole[word][found.group] = statistic
        for percent, statistic in zip(_PERCENTS, percentiles(group, column[step], rows, _PERCENTS), strict=True):
            whole[f"p{percent}"] = statistic
        values |= {f"{stem}_{word}{unit}": statistic for word, statistic in whole.items()}
    return values


def _drift(measured: dict[str, Ints], steps: Steps, group: Ints, step: Ints, rows: int) -> dict[str, Any]:
    """Slopes over the tokens of context, of the steps that are no outliers and whose context is known."""
    kept = ~steps.outlier[step] & (steps.context[step] != NULL)
    group, step = group[kept], step[kept]
    shortest, longest = np.full(rows, np.iinfo(np.int64).max), np.full(rows, NULL)
    np.minimum.at(shortest, group, steps.context[step])
    np.maximum.at(longest, group, steps.context[step])
    values: dict[str, Any] = {
        "context_min_tokens": np.where(longest == NULL, NULL, shortest),
        "context_max_tokens": longest,
    }
    for stem in _DRIFTING:
        slope, error = slopes(group, steps.stage[step], steps.context[step], measured[stem][step], rows)
        values |= {f"{stem}_drift_ns_per_token": slope, f"{stem}_drift_error_ns_per_token": error}
    return values


def _columns() -> list[Column]:
    words = {"mean": "Mean", "std": "Sample standard deviation", "p50": "Median", "p90": "90th percentile",
             "p99": "99th percentile (interpolated by rank, as numpy does)"}  # fmt: skip
    columns = []
    for stem, unit, text in _METRICS:
        columns += [real(f"{stem}_{word}{unit}", f"{said} of the steps' {text}.", True) for word, said in words.items()]
        columns.append(integer(f"{stem}_max{unit}", f"Greatest of the steps' {text}.", True))
    columns += [
        real("requests_p50", "Median of the requests in an engine's steps.", True),
        real("tokens_p50", "Median of the tokens scheduled in them.", True),
        *(
            real(
                f"interval_p{percent}_ns",
                f"{words[f'p{percent}']} of interval_ns in step_trace, pauses left out.",
                True,
            )
            for percent in _PERCENTS
        ),
        integer("context_min_tokens", "Fewest tokens of context among the steps that the drifts are over.", True),
        integer("context_max_tokens", "Most tokens of context among them.", True),
    ]
    for stem in _DRIFTING:
        text = next(text for other, _, text in _METRICS if other == stem)
        columns += [
            real(
                f"{stem}_drift_ns_per_token",
                f"Least-squares slope of the {text} over context_tokens, outliers left out; over several decodes, each "
                "has an intercept of its own.",
                True,
            ),
            real(
                f"{stem}_drift_error_ns_per_token",
                "Its standard error: a slope of less than twice that is none that can be told.",
                True,
            ),
        ]
    return columns


TABLE = Table(
    "step_sum",
    "a stage with steps over its steady ones; each of its instances; an engine's steps of a mode by size of batch",
    (
        name("stage", "The stage, or (no stage); of an engine's steps their mode."),
        integer("instance", "Which of its stage, with all its steps; missing in the row over the steady ones.", True),
        integer("request", "Number of the instance's request in request_trace.", True),
        integer("batch_min", "Of an engine: fewest requests in the steps that the row is over; missing for all.", True),
        integer("batch_max", "Most requests in them.", True),
        integer("steps", "Steps that the row tells of."),
        integer("warm_up_steps", "Steps that the row over the steady ones leaves out: see step_trace."),
        integer(
            "cut_steps",
            "Steps of an engine that it leaves out as their end is not known: the last of a thread, or cut by the "
            "capture's end.",
        ),
        integer("outliers", "Of its steps those that are outliers: see step_trace."),
        *_columns(),
    ),
    build,
)
