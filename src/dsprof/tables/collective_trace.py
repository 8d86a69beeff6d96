"""`collective_trace`: every collective of every rank with its transfer, its waiting, and who started last."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.answers.collectives import LAST, TOGETHER, MatchedCollectives, hexadecimal
from dsprof.arrays import NULL, Ints
from dsprof.rules.collectives import OPERATIONS
from dsprof.rules.names import short_kernel_name
from dsprof.tables._ranks import WHO, who
from dsprof.tables._table import CodedText, Column, Table, integer, name


def build(matched: MatchedCollectives) -> dict[str, Any]:
    """A row per collective and rank, by start; of one moment by rank."""
    order = np.lexsort((np.arange(len(matched.columns["start"])), matched.columns["start"]))
    columns = {column: values[order] for column, values in matched.columns.items()}
    return {
        **who(matched, columns["rank"]),
        "group": np.where(columns["group"] < 0, NULL, columns["group"]),
        "communicator": _communicators(columns["communicator"]),
        "bytes": columns["bytes"],
        "operation": CodedText(columns["operation"], tuple(OPERATIONS)),
        "kernel": CodedText(columns["name"], tuple(short_kernel_name(text) for text in matched.names)),
        "ends_together": TOGETHER[columns["operation"]],
        "collective": columns["collective"],
        "ranks": columns["of"],
        "stream_id": columns["stream"],
        "api_start_ns": columns["launched"],
        "start_ns": columns["start"],
        "end_ns": columns["end"],
        "duration_ns": columns["end"] - columns["start"],
        "transfer_ns": columns["transfer"],
        "wait_ns": columns["wait"],
        "after_first_ns": columns["after"],
        "last": CodedText(columns["last"], LAST),
        "stage": CodedText(columns["stage"], matched.stages),
        "stage_instance": np.where(columns["instance"] < 0, NULL, columns["instance"]),
        "step": columns["step"],
    }


def _communicators(column: Ints) -> CodedText:
    """Communicators as text; missing where they are not known."""
    known, code = np.unique(column, return_inverse=True)
    unknown = len(known) > 0 and known[0] == NULL
    return CodedText(code.reshape(-1) - unknown, tuple(map(hexadecimal, known[int(unknown) :].tolist())))


TABLE = Table(
    "collective_trace",
    "a collective x rank",
    (
        name("operation", "What it does: all-reduce, all-gather, …; other where its name does not say it."),
        name("kernel", "Its kernel, short."),
        Column("ends_together", "Do all its ranks end at one moment? Of others one may be done early.", "bool"),
        integer("collective", "Which collective of its group it is, from 0; missing without a match.", True),
        integer("ranks", "How many ranks of the report, or of the reports, it has.", True),
        *WHO,
        name("communicator", "Its communicator, as NCCL says in the payload of its ranges; missing without.", True),
        integer("bytes", "The message size that NCCL was told: what a rank sends; missing without.", True),
        integer("stream_id", "CUDA stream.", True),
        integer("api_start_ns", "When the API call that launched it began.", True),
        integer("start_ns", "When it began on the GPU."),
        integer("end_ns", "When it ended on the GPU."),
        integer("duration_ns", "Its time on the GPU."),
        integer("transfer_ns", "The shortest duration among its ranks, a proxy for what the transfer takes.", True),
        integer("wait_ns", "What it took longer than that: waiting for the others.", True),
        integer("after_first_ns", "How long after the first of its ranks it began.", True),
        name("last", "Did this rank begin last? inconclusive within what the clocks, or their ends, leave open.", True),
        name("stage", "The stage of the launch, or (no stage)."),
        integer("stage_instance", "Which prefill or decode of the report, from 0.", True),
        integer("step", "Decode step of the launch.", True),
    ),
    build,
)
