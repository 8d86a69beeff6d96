"""`stage_api_sum`: what the host did in each stage: CUDA API calls by name, and the time outside of CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attributed import Attributed
from dsprof.hosttime import call_names, calls_by_stage, host_times
from dsprof.measures import regrouped
from dsprof.stages import OUTSIDE_CUDA
from dsprof.table import Coded, Table, integer, name, real, share_pct


def build(a: Attributed) -> dict[str, Any]:
    """A row per stage and call name, the greatest total first, then the stage's time outside; ``(no stage)`` last.

    ::

        host       |== cudaLaunchKernel ==|   python   |== cudaMalloc ==|
        driver        |- cuLaunchKernel -|
        total_ns   11111111111111111111111              1111111111111111      each call from begin to end
                      22222222222222222
        host_ns    11122222222222222222211333333333333331111111111111111      each instant once
    """
    by_stage, all_names = calls_by_stage(a), len(a.trace.names)
    inside = host_times(a).stages
    code, names = call_names(a, np.concatenate([by_stage.group % all_names, inside.group % all_names]))
    width, stages = len(names) + 1, len(a.stage_names)
    of_call, of_host = np.split(code, [len(by_stage.group)])
    found = regrouped(by_stage, by_stage.group // all_names * width + of_call).describe()
    host = _host_time(a, width, inside.group // all_names, of_host, inside.total)
    key = np.union1d(found.group, np.flatnonzero(host != NULL))
    slot = np.full(stages * width, len(found.group))
    slot[found.group] = np.arange(len(found.group))
    statistics = {
        "total_ns": np.append(found.total, NULL)[slot],
        "instances": np.append(found.instances, NULL)[slot],
        "avg_ns": np.append(found.avg, np.nan)[slot],
        "med_ns": np.append(found.med, np.nan)[slot],
        "min_ns": np.append(found.min, NULL)[slot],
        "max_ns": np.append(found.max, NULL)[slot],
        "stddev_ns": np.append(found.stddev, np.nan)[slot],
    }
    last = key % width == width - 1
    key = key[np.lexsort((-host[key], -np.maximum(statistics["total_ns"][key], -1), last, key // width))]
    of_stage, spent = key // width, host[key]
    in_calls = sum_by(found.group // width, found.total, stages)
    duration = sum_by(np.arange(stages * width) // width, np.maximum(host, 0), stages)
    total, known = statistics["total_ns"][key], spent != NULL
    return {
        "stage": Coded(of_stage, a.stage_names),
        "api_name": Coded(key % width, (*names, OUTSIDE_CUDA)),
        "share_pct": np.where(total != NULL, share_pct(total, in_calls[of_stage]), np.nan),
        **{column: values[key] for column, values in statistics.items()},
        "host_ns": spent,
        "host_pct": np.where(known, share_pct(np.maximum(spent, 0), duration[of_stage]), np.nan),
    }


def _host_time(a: Attributed, width: int, of_stage: Ints, code: Ints, spent: Ints) -> Ints:
    """Host time by stage and call name, the last of each stage outside of all calls; NULL where there is none."""
    ranges, rows = a.trace.ranges, a.stage_ranges
    stages, slots = len(a.stage_names), len(a.stage_names) * width
    slot, stage = of_stage * width + code, a.stage_of_range[rows]
    host = sum_by(slot, spent, slots)
    host[width - 1 :: width] += sum_by(stage, ranges.end[rows] - ranges.start[rows], stages)
    host[width - 1 :: width] -= sum_by(of_stage, spent, stages)
    return np.where(count_by(np.append(slot, stage * width + width - 1), slots) > 0, host, NULL)


TABLE = Table(
    "stage_api_sum",
    "a stage x CUDA API call, and the time outside of CUDA",
    (
        name("stage", "The stage in which the calls began, or (no stage)."),
        name("api_name", "The call without the version of its arguments, or (outside CUDA)."),
        real("share_pct", "Its total in percent of the total of the stage's calls.", True),
        integer("total_ns", "Sum of the calls' durations, each from its begin to its end.", True),
        integer("instances", "Number of calls; missing where the stage has only a part of one.", True),
        real("avg_ns", "Mean duration.", True),
        real("med_ns", "Median duration.", True),
        integer("min_ns", "Shortest duration.", True),
        integer("max_ns", "Longest duration.", True),
        real("stddev_ns", "Sample standard deviation of the durations; 0 for a single one.", True),
        integer(
            "host_ns",
            "Of the stage's time on the host, on the thread that began it: in such calls and in no call inside them. A "
            "stage's rows add up to its duration_total_ns in stage_sum; missing in (no stage).",
            True,
        ),
        real("host_pct", "host_ns in percent of the stage's time on the host.", True),
    ),
    build,
    (calls_by_stage, host_times),
)
