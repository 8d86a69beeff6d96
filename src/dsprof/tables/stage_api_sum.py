"""`stage_api_sum`: what the host did in each stage: CUDA API calls by name, and the time outside of CUDA."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof import arrays as at
from dsprof.answers.stages import Stages
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import count_by, distribution, sum_by
from dsprof.measures.by_name import CallsByStage, HostTimeOfStages
from dsprof.measures.host_time import call_names
from dsprof.tables._table import CodedText, Table, integer, name, real, share_pct
from dsprof.words import OUTSIDE_CUDA


def build(stages: Stages, calls: CallsByStage, inside: HostTimeOfStages) -> dict[str, Any]:
    """A row per stage and call name, the greatest total first, then the stage's time outside; ``(no stage)`` last.

    ::

        host       |== cudaLaunchKernel ==|   python   |== cudaMalloc ==|
        driver        |- cuLaunchKernel -|
        total_ns   11111111111111111111111              1111111111111111      each call from begin to end
                      22222222222222222
        host_ns    11122222222222222222211333333333333331111111111111111      each instant once
    """
    host_stage, host_name = np.divmod(inside.spent.group, len(inside.names))
    code, names = call_names(calls.names, np.append(calls.name, host_name))
    width, count = len(names) + 1, len(calls.stages)
    of_call, of_host = np.split(code, [len(calls.name)])
    found = distribution(calls.stage * width + of_call, calls.durations.value, calls.durations.times).describe()
    host = _host_time(stages, count, width, host_stage, of_host, inside.spent.total)
    key = at.distinct_in_any_order(found.group, np.flatnonzero(host != NULL))
    slot = np.full(count * width, len(found.group))
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
    in_calls = sum_by(found.group // width, found.total, count)
    duration = sum_by(np.arange(count * width) // width, np.maximum(host, 0), count)
    total, known = statistics["total_ns"][key], spent != NULL
    return {
        "stage": CodedText(of_stage, calls.stages),
        "api_name": CodedText(key % width, (*names, OUTSIDE_CUDA)),
        "share_pct": np.where(total != NULL, share_pct(total, in_calls[of_stage]), np.nan),
        **{column: values[key] for column, values in statistics.items()},
        "host_ns": spent,
        "host_pct": np.where(known, share_pct(np.maximum(spent, 0), duration[of_stage]), np.nan),
    }


def _host_time(stages: Stages, count: int, width: int, of_stage: Ints, code: Ints, spent: Ints) -> Ints:
    """Host time by stage and call name, the last of each stage outside of all calls; NULL where there is none."""
    slots, slot = count * width, of_stage * width + code
    host = sum_by(slot, spent, slots)
    host[width - 1 :: width] += sum_by(stages.code, stages.end - stages.start, count)
    host[width - 1 :: width] -= sum_by(of_stage, spent, count)
    return np.where(count_by(np.append(slot, stages.code * width + width - 1), slots) > 0, host, NULL)


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
            "stage's rows add up to duration_total_ns of its rows in stage_sum; missing in (no stage).",
            True,
        ),
        real("host_pct", "host_ns in percent of the stage's time on the host.", True),
    ),
    build,
)
