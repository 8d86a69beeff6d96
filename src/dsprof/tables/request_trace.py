"""`request_trace`: every request: time to first token, time per output token, tokens per second, on host and GPU.

TTFT and TPOT are those of the field: TPOT is (end-to-end latency - TTFT) / (output tokens - 1), with the latency to the
last token. Sources: vLLM, docs/benchmarking, "TPOT" and "ITL"; NVIDIA NIM, "LLM inference benchmarking: metrics".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.answers.batches import Batches, of_all
from dsprof.answers.painting import StageBusy
from dsprof.answers.requests import FOUND, Requests, RequestTokens
from dsprof.answers.stages import Stages
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import Floats, count_by, sum_by
from dsprof.attribute.ranges import RangeTree
from dsprof.measures.totals import StageTotals
from dsprof.tables._table import CodedText, Column, Table, integer, name, real
from dsprof.trace import pid_of, tid_of

_SUMS = ("gpu_busy_ns", "launches", "gpu_ops", "kernels", "kernel_total_ns", "memcpy_ns", "sync_ns")


def build(
    tree: RangeTree,
    found: Requests,
    batches: Batches,
    tokens: RequestTokens,
    stages: Stages,
    totals: StageTotals,
    busy: StageBusy,
) -> dict[str, Any]:
    """A row per request, by start.

    ::

        host   start |== prefill ==|=== step 1 ===|=== step 2 ===|  end
        GPU              |--busy----|  |-busy-|       |-busy-|
        TTFT         |............. host                            (last - first) / steps = TPOT, on each clock
                     |.............. GPU
    """
    sums = {column: _sum(found.of_stage, getattr(totals, column)[:-1], len(found)) for column in _SUMS}
    wait = busy.collectives.wait[:-1]
    sums["wait_ns"] = _sum(found.of_stage, wait, len(found))
    new: Ints = of_all(np.where(tokens.steps != NULL, tokens.steps + 1, NULL), batches.of_request)
    duration = found.end - found.start
    return {
        "request": found.number,
        "found": CodedText((found.range < 0).astype(np.int64), FOUND),
        "pid": pid_of(found.thread),
        "tid": tid_of(found.thread),
        "range_id": np.append(tree.ranges.range_id, NULL)[found.range],
        "start_ns": found.start,
        "end_ns": found.end,
        "batch": batches.of_request,
        "prompt_tokens": of_all(tokens.prompt, batches.of_request),
        "new_tokens": new,
        "steady": count_by(found.of_stage[~stages.steady & (found.of_stage >= 0)], len(found)) == 0,
        **_latencies(found, tokens),
        "e2e_ns": duration,
        "tokens_per_s": _per_second(new, duration),
        "limit_tokens_per_s": _per_second(new, sums["gpu_busy_ns"] - sums["wait_ns"]),
        "stages": count_by(found.of_stage + 1, len(found) + 1)[1:],
        **sums,
    }


def _latencies(found: Requests, tokens: RequestTokens) -> dict[str, Any]:
    """Time to first token, and per token after it, as the host saw them and as the GPU did."""
    some = (tokens.steps != NULL) & (tokens.steps > 0)
    on_gpu = some & (tokens.first_gpu != NULL) & (tokens.last_gpu != NULL) & (tokens.last_gpu >= tokens.first_gpu)
    return {
        "ttft_host_ns": np.where(tokens.first != NULL, tokens.first - found.start, NULL),
        "ttft_gpu_ns": np.where(tokens.first_gpu != NULL, tokens.first_gpu - found.start, NULL),
        "tpot_host_ns": _ratio(tokens.last - tokens.first, tokens.steps, some),
        "tpot_gpu_ns": _ratio(tokens.last_gpu - tokens.first_gpu, tokens.steps, on_gpu),
        "tpot_busy_ns": _ratio(tokens.busy, tokens.steps, some & (tokens.busy > 0)),
    }


def _sum(of_stage: Ints, values: Ints, requests: int) -> Ints:
    """Sum per request over its stages."""
    return sum_by(of_stage + 1, values, requests + 1)[1:]


def _ratio(part: Ints | Floats, whole: Ints, known: Bools) -> Floats:
    """`part` by `whole`; NaN where it is not known."""
    ratio: Floats = np.divide(part, whole, out=np.full(len(part), np.nan), where=known)
    return ratio


def _per_second(tokens: Ints, duration: Ints) -> Floats:
    return _ratio(1e9 * tokens.astype(np.float64), duration, (tokens != NULL) & (duration > 0))


TABLE = Table(
    "request_trace",
    "a request",
    (
        integer("request", "Its number: payload of its range, else its ordinal, from 0; one per process and payload."),
        name(
            "found",
            "How it was found: range (the range `request`), or paired (a prefill that no such range holds, with the "
            "decodes that follow it on its thread before the next prefill).",
        ),
        integer("pid", "Process."),
        integer("tid", "Thread that began it."),
        integer("range_id", "Its row in range_trace; missing where it was paired.", True),
        integer("start_ns", "When it began on the host: its range, else its first stage."),
        integer("end_ns", "When it ended on the host: its range, else the last of its stages."),
        integer("batch", "Sequences that it serves at once; missing where nothing says it.", True),
        integer(
            "prompt_tokens",
            "Tokens of its prefills, as their ranges' payloads say, by batch; those of one sequence where batch is "
            "missing.",
            True,
        ),
        integer(
            "new_tokens",
            "Tokens that it made: one of each sequence by the prefill, and by each decode step; those of one sequence "
            "where batch is missing.",
            True,
        ),
        Column("steady", "False where one of its stages was a warm-up: see stage_trace.", "bool"),
        integer(
            "ttft_host_ns",
            "Time to first token as the host saw it: from its start to the end of its prefill, when generate() has the "
            "token in hand; missing where no prefill or decode says of how many tokens it is.",
            True,
        ),
        integer("ttft_gpu_ns", "From its start to the end of the prefill's last GPU operation.", True),
        real(
            "tpot_host_ns",
            "Time per output token of a sequence after the first (mean inter-token latency) as the host saw it: from "
            "the first token to the end of the decode, by its steps.",
            True,
        ),
        real(
            "tpot_gpu_ns",
            "The same on the GPU: from the prefill's last GPU operation to the decode's last, by its steps.",
            True,
        ),
        real(
            "tpot_busy_ns",
            "GPU busy time of the decode by its steps: a step cannot take less with these kernels.",
            True,
        ),
        integer("e2e_ns", "End-to-end latency on the host: end_ns - start_ns."),
        real("tokens_per_s", "new_tokens by e2e_ns.", True),
        real("limit_tokens_per_s", "new_tokens by gpu_busy_ns: more cannot be had with these kernels.", True),
        integer("stages", "Its stages, whatever their names; the sums that follow are theirs."),
        integer("gpu_busy_ns", "Sum of its stages' GPU busy times."),
        integer("launches", "CUDA API calls that put its operations on the GPU."),
        integer("gpu_ops", "Its GPU operations."),
        integer("kernels", "Its kernels."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("memcpy_ns", "Sum of its copies' durations."),
        integer("sync_ns", "Host time in calls that only wait for the GPU."),
    ),
    build,
)
