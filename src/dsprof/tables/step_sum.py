"""`step_sum`: how long the steps of a decode take: percentiles, drift with the context's length, outliers."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import count_by, describe, percentiles, slopes
from dsprof.attributed import Attributed
from dsprof.measures import stage_totals, step_totals
from dsprof.requests import context_of_step, requests_of, steady_steps, step_outliers
from dsprof.table import Coded, Column, Table, integer, name, real

#: What is told of a step: the name's stem, its unit, and a word for it.
_METRICS = (
    ("duration", "_ns", "time on the host"),
    ("gpu_busy", "_ns", "GPU busy time"),
    ("launches", "", "launches"),
    ("kernels", "", "kernels"),
)
_PERCENTS = (50, 90, 99)
#: Of these, the ones for which a drift is told.
_DRIFTING = ("duration", "gpu_busy")


def build(a: Attributed) -> dict[str, Any]:
    """A row per stage with steps, over its steady ones; after it a row per instance, over all of its own.

    ::

        (stage, -)    all steady steps of the stage        `steps` + `warm_up_steps` of this row is the sum of the
        (stage, 0)    every step of its first instance     `steps` of the rows below it
        (stage, 1)    ...
    """
    owner, steady = a.stage_of_step, steady_steps(a)
    outlier = step_outliers(a, steady)[0]
    instances = np.unique(owner[owner >= 0])
    stages = np.unique(a.stage_code(owner))
    of_stage = len(instances) + np.searchsorted(stages, a.stage_code(owner))
    inside, some = np.flatnonzero(owner >= 0), np.flatnonzero(steady)
    step = np.concatenate([inside, some])
    group = np.concatenate([np.searchsorted(instances, owner[inside]), of_stage[some]])
    rows = len(instances) + len(stages)
    values: dict[str, Any] = {
        **_place(a, instances, stages),
        "steps": count_by(group, rows),
        "warm_up_steps": count_by(of_stage[~steady], rows),
        "outliers": count_by(group[outlier[step]], rows),
        **_statistics(a, group, step, rows),
        **_drift(a, group, step, rows, ~outlier[step]),
    }
    order = np.lexsort((values["instance"], values["stage"]))
    ordered = {column: value[order] for column, value in values.items()}
    return {**ordered, "stage": Coded(ordered["stage"], a.stage_names)}


def _place(a: Attributed, instances: Ints, stages: Ints) -> dict[str, Ints]:
    request = np.full(len(a.trace.ranges), NULL)
    request[a.stage_ranges] = requests_of(a).number_of_stage
    none = np.full(len(stages), NULL)
    return {
        "stage": np.append(a.stage_code(instances), stages),
        "instance": np.append(a.instance_of_range[instances], none),
        "request": np.append(request[instances], none),
    }


def _measured(a: Attributed) -> dict[str, Ints]:
    ranges, rows, totals = a.trace.ranges, a.step_ranges, step_totals(a)
    return {
        "duration": ranges.end[rows] - ranges.start[rows],
        **{stem: getattr(totals, stem + unit)[: len(rows)] for stem, unit, _ in _METRICS[1:]},
    }


def _statistics(a: Attributed, group: Ints, step: Ints, rows: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for (stem, unit, _), column in zip(_METRICS, _measured(a).values(), strict=True):
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


def _drift(a: Attributed, group: Ints, step: Ints, rows: int, kept: Any) -> dict[str, Any]:
    """Slopes over the tokens of context, of the steps whose context is known."""
    context, measured = context_of_step(a), _measured(a)
    kept = kept & (context[step] != NULL)
    group, step = group[kept], step[kept]
    values: dict[str, Any] = {}
    for stem in _DRIFTING:
        slope, error = slopes(group, a.stage_of_step[step], context[step], measured[stem][step], rows)
        values |= {f"{stem}_drift_ns_per_token": slope, f"{stem}_drift_error_ns_per_token": error}
    return values


def _columns() -> list[Column]:
    words = {"mean": "Mean", "std": "Sample standard deviation", "p50": "Median", "p90": "90th percentile",
             "p99": "99th percentile (interpolated by rank, as numpy does)"}  # fmt: skip
    columns = []
    for stem, unit, text in _METRICS:
        columns += [real(f"{stem}_{word}{unit}", f"{said} of the steps' {text}.", True) for word, said in words.items()]
        columns.append(integer(f"{stem}_max{unit}", f"Greatest of the steps' {text}.", True))
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
    "a stage with steps over its steady ones, and each of its instances",
    (
        name("stage", "The stage, or (no stage)."),
        integer("instance", "Which of its stage, with all its steps; missing in the row over the steady ones.", True),
        integer("request", "Number of the instance's request in request_trace.", True),
        integer("steps", "Steps that the row tells of."),
        integer("warm_up_steps", "Steps that the row over the steady ones leaves out: see step_trace."),
        integer("outliers", "Of its steps those that are outliers: see step_trace."),
        *_columns(),
    ),
    build,
    (stage_totals, step_totals),
)
