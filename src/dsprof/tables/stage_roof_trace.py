"""`stage_roof_trace`: how near each prefill and decode came to what the GPU could do at most."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.answers.painting import StageBusy
from dsprof.answers.roofs import StageRoofs
from dsprof.answers.stages import Stages
from dsprof.attribute.stages import StageRanges
from dsprof.tables._table import CodedText, Table, integer, name, real

_ROOFS = ("compute", "memory")


def build(staged: StageRanges, stages: Stages, found: StageRoofs, busy: StageBusy) -> dict[str, Any]:
    """A row per stage whose costs are known, by start; none without a model (``--model-config``)."""
    known, rows, peaks = found.known, found.known.row, found.peaks
    shares = {"mfu": found.mfu, "busy_mfu": found.busy_mfu, "bandwidth": found.bandwidth,
              "busy_bandwidth": found.busy_bandwidth}  # fmt: skip
    return {
        "stage": CodedText(stages.code[rows], staged.names),
        "instance": stages.instance[rows],
        "request": stages.request[rows],
        "batch": known.batch,
        "forwards": known.forwards,
        "tokens": stages.all_tokens[rows],
        "context_tokens": known.context,
        "devices": known.devices,
        "model_flops": known.flops,
        "model_bytes": known.bytes,
        "flops_per_byte": known.flops / np.maximum(known.bytes, 1),
        "wall_ns": stages.wall[rows],
        "gpu_busy_ns": (stages.busy - busy.collectives.wait[:-1])[rows],
        **{f"{column}_pct": 100.0 * share for column, share in shares.items()},
        "peak_flops_per_s": known.flops / (found.compute_ns / 1e9),
        "peak_bytes_per_s": known.devices * (peaks.bytes_per_s if peaks else 0.0),
        "compute_roof_ns": found.compute_ns,
        "memory_roof_ns": found.memory_ns,
        "roof": CodedText((found.memory_ns > found.compute_ns).astype(np.int64), _ROOFS),
    }


TABLE = Table(
    "stage_roof_trace",
    "one prefill or one decode whose costs are known",
    (
        name("stage", "The stage: prefill or decode."),
        integer("instance", "Which of its stage, from 0, as in stage_trace."),
        integer("request", "Number of the request.", True),
        integer("batch", "Sequences that it serves at once; 1 where that is not known, and a finding says so."),
        integer("forwards", "Forwards of the model: 1 of a prefill, the steps of a decode."),
        integer("tokens", "Tokens of all its sequences, as in stage_trace."),
        integer("context_tokens", "Tokens of one sequence in the KV cache before it."),
        integer("devices", "GPUs it ran on, also those of other ranks of its request; their peaks are added up."),
        integer("model_flops", "Floating-point operations that its tokens need; a multiply-add is 2."),
        integer("model_bytes", "Bytes of weights and KV cache that must be moved at least; activations do not count."),
        real("flops_per_byte", "Arithmetic intensity: model_flops by model_bytes."),
        integer("wall_ns", "Wall time, as in stage_trace."),
        integer("gpu_busy_ns", "Time the GPU was busy with it: gpu_busy_ns of stage_trace without its wait_ns."),
        real("mfu_pct", "Model FLOPs utilization: compute_roof_ns in percent of wall_ns.", True),
        real("busy_mfu_pct", "The same of gpu_busy_ns.", True),
        real("bandwidth_pct", "Memory-bandwidth utilization: memory_roof_ns in percent of wall_ns.", True),
        real("busy_bandwidth_pct", "The same of gpu_busy_ns.", True),
        real("peak_flops_per_s", "Operations a second at most, dense, each for the type in which it is made."),
        real("peak_bytes_per_s", "Bytes a second at most, between GPU and its memory."),
        real("compute_roof_ns", "model_flops by peak_flops_per_s: the time that they take at least."),
        real("memory_roof_ns", "model_bytes by peak_bytes_per_s: the time that they take at least."),
        name("roof", "The roof that takes longer: compute or memory."),
    ),
    build,
)
