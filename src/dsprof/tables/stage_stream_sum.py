"""`stage_stream_sum`: each stage on each device and stream; a row without a stream is the whole device."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from attrs import evolve

from dsprof.arrays import NULL, Ints, group_rows, union_length
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.measures.by_name import Words, united
from dsprof.records import frozen
from dsprof.tables._table import CodedText, Table, integer, name
from dsprof.trace import pid_of

_KEYS = ("stage", "process", "device_id", "stream_id")


@frozen(eq=False)
class Streams(Measure):
    """Sums of the operations by stage, process, device and stream, and without the stream (NULL).

    An operation whose stream the report does not tell is in the row of its device alone.
    """

    stages: Words
    columns: dict[str, Ints]

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        ops, stage = launches.trace.operations, launches.stages.code_of(launches.stage_range_of_op)
        heads, group = group_rows(stage, ops.process, ops.device, ops.stream)
        keys = (stage[heads], ops.process[heads], ops.device[heads])
        first, device = group_rows(*keys)
        whole = dict(zip(_KEYS, (*(key[first] for key in keys), np.full(len(first), NULL)), strict=True))
        streams = dict(zip(_KEYS, (*keys, ops.stream[heads]), strict=True)) | _sums(launches, group, len(heads))
        told = streams["stream_id"] != NULL
        whole |= _sums(launches, device[group], len(first))
        columns = {column: np.concatenate([whole[column], streams[column][told]]) for column in whole}
        return cls(launches.stages.names, columns)

    def merge(self, other: Self) -> Self:
        """Both together."""
        stages, codes = united(self.stages, other.stages, last=1)
        one, two = (
            {**each.columns, "stage": code[each.columns["stage"]]}
            for each, code in zip((self, other), codes, strict=True)
        )
        both = {column: np.concatenate([one[column], two[column]]) for column in one}
        heads, group = group_rows(*(both[column] for column in _KEYS))
        sums = {column: sum_by(group, values, len(heads)) for column, values in both.items() if column not in _KEYS}
        return evolve(self, stages=stages, columns={**{column: both[column][heads] for column in _KEYS}, **sums})


def _sums(launches: Launches, group: Ints, count: int) -> dict[str, Ints]:
    trace, ops = launches.trace, launches.trace.operations
    duration, own, kernels = ops.end - ops.start, trace.own_ops, trace.own_kernels
    return {
        "gpu_ops": count_by(group[own], count),
        "kernels": count_by(group[: ops.kernels][kernels], count),
        "kernel_total_ns": sum_by(group[: ops.kernels][kernels], duration[: ops.kernels][kernels], count),
        "gpu_total_ns": sum_by(group[own], duration[own], count),
        "gpu_busy_ns": union_length(group, trace.clip(ops.start), trace.clip(ops.end), count),
    }


def build(streams: Streams) -> dict[str, Any]:
    """A row per stage, process, device and stream, and one per stage, process and device."""
    order = np.lexsort([streams.columns[column] for column in reversed(_KEYS)])
    columns = {column: value[order] for column, value in streams.columns.items()}
    return {**columns, "stage": CodedText(columns["stage"], streams.stages), "pid": pid_of(columns["process"])}


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
        integer("gpu_busy_ns", "Time covered by at least one of the operations, collectives that wait included."),
    ),
    build,
)
