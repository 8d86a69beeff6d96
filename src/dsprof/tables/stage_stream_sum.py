"""`stage_stream_sum`: each stage on each device and stream; a row without a stream is the whole device."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays import NULL, Ints, group_rows, union_length
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attributed import Attributed
from dsprof.measure import measure
from dsprof.table import Coded, Table, integer, name
from dsprof.trace import pid_of

_KEYS = ("stage", "process", "device_id", "stream_id")


def _add(one: dict[str, Ints], other: dict[str, Ints]) -> dict[str, Ints]:
    both = {column: np.concatenate([one[column], other[column]]) for column in one}
    heads, group = group_rows(*(both[column] for column in _KEYS))
    sums = {column: sum_by(group, values, len(heads)) for column, values in both.items() if column not in _KEYS}
    return {**{column: both[column][heads] for column in _KEYS}, **sums}


@measure(merge=_add)
def by_stream(a: Attributed) -> dict[str, Ints]:
    """Sums of the operations by stage, process, device and stream, and without the stream (NULL).

    An operation whose stream the report does not tell is in the row of its device alone.
    """
    ops, stage = a.trace.operations, a.stage_code(a.stage_range_of_op)
    heads, group = group_rows(stage, ops.process, ops.device, ops.stream)
    keys = (stage[heads], ops.process[heads], ops.device[heads])
    first, device = group_rows(*keys)
    whole = dict(zip(_KEYS, (*(key[first] for key in keys), np.full(len(first), NULL)), strict=True))
    streams = dict(zip(_KEYS, (*keys, ops.stream[heads]), strict=True)) | _sums(a, group, len(heads))
    told = streams["stream_id"] != NULL
    whole |= _sums(a, device[group], len(first))
    return {column: np.concatenate([whole[column], streams[column][told]]) for column in whole}


def build(a: Attributed) -> dict[str, Any]:
    """A row per stage, process, device and stream, and one per stage, process and device."""
    columns = by_stream(a)
    order = np.lexsort([columns[column] for column in reversed(_KEYS)])
    columns = {column: value[order] for column, value in columns.items()}
    return {
        **columns,
        "stage": Coded(columns["stage"], a.stage_names),
        "pid": pid_of(columns["process"]),
    }


def _sums(a: Attributed, group: Ints, count: int) -> dict[str, Ints]:
    trace, ops = a.trace, a.trace.operations
    duration, own, kernels = ops.end - ops.start, trace.own_ops, trace.own_kernels
    return {
        "gpu_ops": count_by(group[own], count),
        "kernels": count_by(group[: ops.kernels][kernels], count),
        "kernel_total_ns": sum_by(group[: ops.kernels][kernels], duration[: ops.kernels][kernels], count),
        "gpu_total_ns": sum_by(group[own], duration[own], count),
        "gpu_busy_ns": union_length(group, trace.clip(ops.start), trace.clip(ops.end), count),
    }


TABLE = Table(
    "stage_stream_sum",
    "a stage x device x stream, and a stage x device",
    (
        name("stage", "The stage in which the operations were launched, or (no stage)."),
        integer("pid", "Process."),
        integer("device_id", "CUDA device."),
        integer("stream_id", "CUDA stream; missing in the row for the whole device.", True),
        integer("gpu_ops", "GPU operations."),
        integer("kernels", "Kernels."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("gpu_total_ns", "Sum of the durations of all operations."),
        integer("gpu_busy_ns", "Time covered by at least one of the operations."),
    ),
    build,
    (by_stream,),
)
