"""`stage_roof_trace`: how near each prefill and decode came to what the GPU could do at most."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.attributed import Attributed, wall_time
from dsprof.measures import stage_devices, stage_totals
from dsprof.roofs import stage_roofs
from dsprof.table import Coded, Table, integer, name, real

_ROOFS = ("compute", "memory")


def build(a: Attributed) -> dict[str, Any]:
    """A row per stage whose costs are known, by start; none without a model (``--model-config``)."""
    found = stage_roofs(a)
    rows = a.stage_ranges[found.row]
    ranges, totals, peaks = a.trace.ranges, stage_totals(a), found.peaks
    first, last = totals.proj_start_ns[found.row], totals.proj_end_ns[found.row]
    shares = {"mfu": found.mfu, "busy_mfu": found.busy_mfu, "bandwidth": found.bandwidth,
              "busy_bandwidth": found.busy_bandwidth}  # fmt: skip
    return {
        "stage": Coded(a.stage_of_range[rows], a.stage_names),
        "instance": a.instance_of_range[rows],
        "request": a.request_of_stage[found.row],
        "batch": found.batch,
        "tokens": a.tokens[found.row],
        "context_tokens": found.context,
        "devices": found.devices,
        "model_flops": found.flops,
        "model_bytes": found.bytes,
        "flops_per_byte": found.flops / np.maximum(found.bytes, 1),
        "wall_ns": wall_time(ranges.start[rows], ranges.end[rows], first, last),
        "gpu_busy_ns": totals.gpu_busy_ns[found.row],
        **{f"{column}_pct": 100.0 * share for column, share in shares.items()},
        "peak_flops_per_s": found.devices * (peaks.flops_per_s if peaks else 0.0),
        "peak_bytes_per_s": found.devices * (peaks.bytes_per_s if peaks else 0.0),
        "compute_roof_ns": found.compute_ns,
        "memory_roof_ns": found.memory_ns,
        "roof": Coded((found.memory_ns > found.compute_ns).astype(np.int64), _ROOFS),
    }


TABLE = Table(
    "stage_roof_trace",
    "one prefill or one decode whose costs are known",
    (
        name("stage", "The stage: prefill or decode."),
        integer("instance", "Which of its stage, from 0, as in stage_trace."),
        integer("request", "Number of the request.", True),
        integer("batch", "Sequences of the request; 1 where that is not known, and a finding says so."),
        integer("tokens", "Tokens of one sequence: the prompt's, or the decode steps."),
        integer("context_tokens", "Tokens of one sequence in the KV cache before it."),
        integer("devices", "GPUs it ran on; their peaks are added up."),
        integer("model_flops", "Floating-point operations that its tokens need; a multiply-add is 2."),
        integer("model_bytes", "Bytes of weights and KV cache that must be moved at least; activations do not count."),
        real("flops_per_byte", "Arithmetic intensity: model_flops by model_bytes."),
        integer("wall_ns", "Wall time, as in stage_trace."),
        integer("gpu_busy_ns", "Time the GPU was busy with it, as in stage_trace."),
        real("mfu_pct", "Model FLOPs utilization: compute_roof_ns in percent of wall_ns.", True),
        real("busy_mfu_pct", "The same of gpu_busy_ns.", True),
        real("bandwidth_pct", "Memory-bandwidth utilization: memory_roof_ns in percent of wall_ns.", True),
        real("busy_bandwidth_pct", "The same of gpu_busy_ns.", True),
        real("peak_flops_per_s", "Operations a second at most, dense, for the type of the model's weights."),
        real("peak_bytes_per_s", "Bytes a second at most, between GPU and its memory."),
        real("compute_roof_ns", "model_flops by peak_flops_per_s: the time that they take at least."),
        real("memory_roof_ns", "model_bytes by peak_bytes_per_s: the time that they take at least."),
        name("roof", "The roof that takes longer: compute or memory."),
    ),
    build,
    (stage_totals, stage_devices),
)
