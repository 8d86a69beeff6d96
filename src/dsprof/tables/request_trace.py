"""`request_trace`: every request: time to first token, time per output token, tokens per second, on host and GPU.

TTFT and TPOT are those of the field: TPOT is (end-to-end latency - TTFT) / (output tokens - 1), with the latency to the
last token. Sources: vLLM, docs/benchmarking, "TPOT" and "ITL"; NVIDIA NIM, "LLM inference benchmarking: metrics".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.answers.batches import of_all
from dsprof.answers.collectives import MatchedCollectives
from dsprof.answers.rank_requests import SUMS, RankRequests
from dsprof.answers.requests import FOUND
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import Floats
from dsprof.tables._table import CodedText, Column, Table, integer, name, real
from dsprof.trace import pid_of, tid_of


def build(requests: RankRequests, matched: MatchedCollectives) -> dict[str, Any]:
    """A row per request, by start.

    ::

        host   start |== prefill ==|=== step 1 ===|=== step 2 ===|  end
        GPU              |--busy----|  |-busy-|       |-busy-|
        TTFT         |............. host                            (last - first) / steps = TPOT, on each clock
                     |.............. GPU
    """
    found = requests.columns
    batch, steps = found["batch"], found["steps"]
    new: Ints = of_all(np.where(steps != NULL, steps + 1, NULL), batch)
    duration = found["end"] - found["start"]
    return {
        "report": CodedText(found["report"], matched.reports),
        "request": found["number"],
        "found": CodedText(found["paired"], FOUND),
        "pid": pid_of(found["thread"]),
        "tid": tid_of(found["thread"]),
        "range_id": found["range_id"],
        "ranks": found["ranks"],
        "start_ns": found["start"],
        "end_ns": found["end"],
        "batch": batch,
        "prompt_tokens": of_all(found["prompt"], batch),
        "new_tokens": new,
        "steady": found["steady"] > 0,
        **_latencies(found),
        "e2e_ns": duration,
        "tokens_per_s": _per_second(new, duration),
        "limit_tokens_per_s": _per_second(new, found["work"]),
        "stages": found["stages"],
        **{column: found[column] for column in (*SUMS, "wait_ns")},
    }


def _latencies(found: dict[str, Ints]) -> dict[str, Any]:
    """Time to first token, and per token after it, as the host saw them and as the GPU did."""
    start, first, last, steps = (found[name] for name in ("start", "first", "last", "steps"))
    first_gpu, last_gpu, work = (found[name] for name in ("first_gpu", "last_gpu", "decode_work"))
    some = (steps != NULL) & (steps > 0)
    on_gpu = some & (first_gpu != NULL) & (last_gpu != NULL) & (last_gpu >= first_gpu)
    return {
        "ttft_host_ns": np.where(first != NULL, first - start, NULL),
        "ttft_gpu_ns": np.where(first_gpu != NULL, first_gpu - start, NULL),
        "tpot_host_ns": _ratio(last - first, steps, some),
        "tpot_gpu_ns": _ratio(last_gpu - first_gpu, steps, on_gpu),
        "tpot_busy_ns": _ratio(work, steps, some & (work > 0)),
    }


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
        integer(
            "request",
            "Its number: payload of its range, else its ordinal, from 0; one per process and payload, or for all the "
            "ranks that make it together.",
        ),
        name(
            "found",
            "How it was found: range (the range `request`), or paired (a prefill that no such range holds, with the "
            "decodes that follow it on its thread before the next prefill).",
        ),
        integer("pid", "Process; of several ranks the first."),
        integer("tid", "Thread that began it."),
        integer("range_id", "Its row in range_trace; missing where it was paired.", True),
        integer(
            "ranks",
            "How many processes make it: the ranks of a tensor-parallel group, whose requests have the same number and "
            "tokens, and whose collectives are each other's, all-reduces for the better part.",
        ),
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
            "GPU busy time of the decode by its steps, without waiting for other ranks, on the slowest rank: a step "
            "cannot take less with these kernels.",
            True,
        ),
        integer("e2e_ns", "End-to-end latency on the host: end_ns - start_ns."),
        real("tokens_per_s", "new_tokens by e2e_ns.", True),
        real(
            "limit_tokens_per_s",
            "new_tokens by gpu_busy_ns, without waiting for other ranks, on the slowest rank: more cannot be had with "
            "these kernels.",
            True,
        ),
        integer("stages", "Its stages on all its ranks, whatever their names; the sums that follow are theirs."),
        integer("gpu_busy_ns", "Sum of its stages' GPU busy times, wait_ns included."),
        integer("launches", "CUDA API calls that put its operations on the GPU."),
        integer("gpu_ops", "Its GPU operations."),
        integer("kernels", "Its kernels."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("memcpy_ns", "Sum of its copies' durations."),
        integer("sync_ns", "Host time in calls that only wait for the GPU."),
        integer("wait_ns", "Of gpu_busy_ns: nothing but waiting for other ranks; see stage_trace."),
    ),
    build,
)
