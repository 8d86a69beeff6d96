"""`step_trace`: every step of a decode or of an engine, on the host and on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof import arrays as at
from dsprof.answers.ends import StageEnds, settled
from dsprof.answers.engine_times import PAUSE, EngineTimes
from dsprof.answers.painting import StepBusy
from dsprof.answers.stages import Stages, wall_time
from dsprof.answers.steps import Steps
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import Floats
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.measures.accounting import Accounts
from dsprof.measures.causes import CAUSES
from dsprof.measures.host_time import HostTimeOfSteps, call_names
from dsprof.measures.totals import StepTotals
from dsprof.tables._table import CodedText, Column, Table, integer, name, real
from dsprof.trace import pid_of, tid_of
from dsprof.words import OUTSIDE_CUDA

#: The columns of what an engine says of its steps, by the numbers in their names.
_COUNTS = {
    "context_requests": "context_requests", "context_tokens_in_step": "context_tokens",
    "generation_requests": "generation_requests", "generation_tokens": "generation_tokens",
    "context_kv_tokens": "context_kv_tokens", "generation_kv_tokens": "generation_kv_tokens",
}  # fmt: skip
_ENGINE_TIMES = ("in_range_ns", "after_range_ns", "between_ns", "interval_ns", "after_launches", "after_kernels",
                 "after_kernel_total_ns")  # fmt: skip
_SUMS = ("launches", "gpu_ops", "kernels", "kernel_total_ns", "gpu_busy_ns", "memcpy_ns", "sync_ns")


def build(
    tree: RangeTree,
    staged: StageRanges,
    stages: Stages,
    steps: Steps,
    totals: StepTotals,
    accounts: Accounts,
    host: HostTimeOfSteps,
    ends: StageEnds,
    engine: EngineTimes,
    busy: StepBusy,
) -> dict[str, Any]:
    """A row per step, by start; then a row without a number per stage that launched something between its steps."""
    count = len(steps.range)
    between = count + np.flatnonzero(totals.gpu_ops[count:-1] > 0)
    owner = np.append(steps.stage, staged.with_steps[between - count])
    return {
        **_place(tree, staged, stages, steps, owner),
        **_times(tree, steps, totals, accounts, ends, len(between)),
        **_of_engine(staged, engine, len(between)),
        **_standing_out(steps, host, len(between)),
        **{column: getattr(totals, column)[np.append(np.arange(count), between)] for column in _SUMS},
        **{column: values[np.append(np.arange(count), between)] for column, values in busy.collectives.columns.items()},
    }


def _place(tree: RangeTree, staged: StageRanges, stages: Stages, steps: Steps, owner: Ints) -> dict[str, Any]:
    """Where each row is; `owner`: the range of its stage, -1 for none."""
    ranges, count, none = tree.ranges, len(steps.range), np.full(len(owner) - len(steps.range), NULL)
    stage = staged.row[owner]
    thread = ranges.thread[np.append(steps.range, owner[count:])]
    return {
        "stage": CodedText(staged.code_of(owner), staged.names),
        "instance": np.append(stages.instance, NULL)[stage],
        "request": np.append(stages.request, NULL)[stage],
        "step": np.append(steps.number, none),
        "pid": pid_of(thread),
        "tid": tid_of(thread),
        "range_id": np.append(ranges.range_id[steps.range], none),
        "steady": np.append(steps.steady, np.append(stages.steady, True)[stage[count:]]),
        "tokens": np.append(_tokens(staged, stages, stage[:count]), none),
        "context_tokens": np.append(steps.context, none),
    }


def _tokens(staged: StageRanges, stages: Stages, stage: Ints) -> Ints:
    """Tokens that each step makes; of an engine's, what is known of is one for each request that generates."""
    generating = np.append(staged.engine.counts["generation_requests"], NULL)[staged.step_engine_row]
    each = np.maximum(np.append(stages.batch, NULL)[stage], 1)
    return np.where(staged.step_engine_row >= 0, generating, each)


def _of_engine(staged: StageRanges, engine: EngineTimes, between: int) -> dict[str, Any]:
    """What an engine's names say of its steps, and what came after the range of each."""
    row = np.append(staged.step_engine_row, np.full(between, -1))
    steps = staged.engine
    counts = {column: np.append(steps.counts[count], NULL)[row] for column, count in _COUNTS.items()}
    titles = tuple(worker.title for worker in steps.workers)
    times = {column: np.append(getattr(engine, column), NULL)[row] for column in _ENGINE_TIMES}
    return {
        "engine": CodedText(np.append(steps.worker, -1)[row], titles),
        "mode": CodedText(np.append(steps.mode, -1)[row], steps.modes),
        **counts,
        **times,
        "pause": np.append(engine.pause, False)[row],
    }


def _standing_out(steps: Steps, host: HostTimeOfSteps, between: int) -> dict[str, Any]:
    """Which steps are outliers, by how much, and what they spent more time in than the others."""
    code, excess, names = _excess(steps, host)
    none = np.full(between, np.nan)
    return {
        "outlier": np.append(steps.outlier, np.zeros(between, np.bool_)),
        "duration_by_median": np.append(steps.ratio, none),
        "excess_in": CodedText(np.append(code, np.full(between, -1)), names),
        "excess_ns": np.append(excess, none),
    }


def _excess(steps: Steps, host: HostTimeOfSteps) -> tuple[Ints, Floats, tuple[str, ...]]:
    """Of each outlier: the call, or the time outside, that grew most over its median in the decode's steady steps."""
    code, excess = np.full(len(steps.range), -1), np.full(len(steps.range), np.nan)
    if not steps.outlier.any():
        return code, excess, (OUTSIDE_CUDA,)
    step, name = np.divmod(host.spent.group, len(host.names))
    of_call, found = call_names(host.names, name)
    names = (*found, OUTSIDE_CUDA)
    kept, known, place = np.flatnonzero(steps.steady), np.flatnonzero(steps.steady[step]), np.full(len(code), -1)
    inside = {group: known[rows] for group, rows in at.each(steps.group[step[known]])}
    for group, mine in at.each(steps.group[kept]):
        rows = kept[mine]
        if not steps.outlier[rows].any():
            continue
        place[rows] = np.arange(len(rows))
        times, some = np.zeros((len(rows), len(names)), np.int64), inside.get(group, mine[:0])
        np.add.at(times, (place[step[some]], of_call[some]), host.spent.total[some])
        times[:, -1] = steps.duration[rows] - times.sum(axis=1)
        out = steps.outlier[rows]
        more = (times - np.median(times, axis=0))[out]
        code[rows[out]], excess[rows[out]] = more.argmax(axis=1), more.max(axis=1)
    return code, excess, names


def _times(
    tree: RangeTree, steps: Steps, totals: StepTotals, accounts: Accounts, ends: StageEnds, between: int
) -> dict[str, Ints]:
    """Times of the steps; a row between the steps has no times of its own."""
    start, end = tree.ranges.start[steps.range], ends.step_end
    first, last = totals.proj_start_ns[: len(start)], totals.proj_end_ns[: len(start)]
    idle, wall = settled(accounts.steps, ends.step_left), wall_time(start, end, first, last)
    columns = {
        "start_ns": start,
        "end_ns": end,
        "duration_ns": steps.duration,
        "wall_ns": wall,
        "gpu_idle_ns": wall - idle["busy"],
        "api_ns": idle["in_calls"],
        "first_kernel_delay_ns": np.where(first == NULL, NULL, first - start),
        "graph_launches": totals.graph_launches[: len(start)],
        **{f"idle_{cause}_ns": idle[cause] for cause in CAUSES},
    }
    return {column: np.append(values, np.full(between, NULL)) for column, values in columns.items()}


TABLE = Table(
    "step_trace",
    "a step of a decode or of an engine, and a stage between its steps",
    (
        name("stage", "The stage that the step is in, or (no stage); of an engine's step its mode."),
        integer("instance", "Which of its stage, from 0.", True),
        integer("request", "Number of its request in request_trace.", True),
        integer(
            "step",
            "The step's number: payload of its range, else its ordinal; missing between the steps. Of an engine's "
            "step, the iteration in its name, else its ordinal on its thread.",
            True,
        ),
        integer("pid", "Process."),
        integer("tid", "Thread that began the step."),
        integer("range_id", "Its row in range_trace.", True),
        Column(
            "steady",
            "False for a warm-up: in a stage that was one, or by the rule of stage_trace among the steps of its stage.",
            "bool",
        ),
        integer("start_ns", "When it began on the host.", True),
        integer("end_ns", "When it ended on the host.", True),
        integer(
            "duration_ns", "Time on the host: the latency of its tokens. Of an engine's step, see after_range_ns.", True
        ),
        Column(
            "outlier",
            "True for a steady step whose duration_ns is above 1.2 times the median of its decode's steady steps, with "
            "a modified z-score above 3.5 (0.6745 x (duration - median) / median absolute deviation); none where the "
            "median is 0.",
            "bool",
        ),
        real("duration_by_median", "duration_ns by the median of its decode's steady steps.", True),
        name(
            "excess_in",
            "Of an outlier: the CUDA API call, or (outside CUDA), whose time on its thread is farthest above the "
            "median in those steps.",
            nullable=True,
        ),
        real("excess_ns", "By how much.", True),
        integer("wall_ns", "From its begin until host and GPU are both done with it.", True),
        integer(
            "tokens",
            "Tokens that it makes: one for each sequence, 1 where the batch is not known; of an engine's step, one for "
            "each of generation_requests.",
            True,
        ),
        integer(
            "context_tokens",
            "Of one sequence, tokens before and with this one: the prompt's and the steps so far.",
            True,
        ),
        name("engine", "The engine whose step it is.", nullable=True),
        name(
            "mode",
            "What the engine's name for it says: prefill, decode, mixed, empty or unknown; a ? marks a guess.",
            nullable=True,
        ),
        integer("context_requests", "Requests whose prompt, or a chunk of it, is in it.", True),
        integer("context_tokens_in_step", "Tokens of prompts that are scheduled in it.", True),
        integer("generation_requests", "Requests that generate in it.", True),
        integer(
            "generation_tokens",
            "Tokens that are scheduled for these: more than one a request where drafts are verified, or where a "
            "request that was preempted is computed again.",
            True,
        ),
        integer("context_kv_tokens", "Tokens in the cache of the former requests after it, in all.", True),
        integer("generation_kv_tokens", "Tokens in the cache of the latter requests after it, in all.", True),
        integer("in_range_ns", "Of duration_ns: in the engine's range.", True),
        integer("after_range_ns", "Of duration_ns: after that, until its thread's last CUDA API call.", True),
        integer("between_ns", "From then, or when the GPU was done if that is later, until the next step began.", True),
        integer("interval_ns", "From its begin to that of the next step of its thread.", True),
        Column(
            "pause",
            f"True where between_ns is above {PAUSE:g} times its median on the thread and above the median of "
            "duration_ns: the engine waited for requests.",
            "bool",
        ),
        integer("after_launches", "Of launches: after the engine's range.", True),
        integer("after_kernels", "Of kernels: launched after it.", True),
        integer("after_kernel_total_ns", "Sum of the durations of these.", True),
        integer("launches", "CUDA API calls that put its operations on the GPU."),
        integer("graph_launches", "Those of them that launch a CUDA graph.", True),
        integer("gpu_ops", "Its GPU operations."),
        integer("kernels", "Its kernels."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("gpu_busy_ns", "Time covered by at least one of its GPU operations, wait_ns included."),
        integer("transfer_ns", "Of gpu_busy_ns: nothing but a collective that transfers; as in stage_trace.", True),
        integer("wait_ns", "Of gpu_busy_ns: nothing but one that waits for another rank; as in stage_trace.", True),
        integer("unmatched_ns", "Of gpu_busy_ns: nothing but one without a match; as in stage_trace."),
        integer("gpu_idle_ns", "wall_ns - gpu_busy_ns.", True),
        integer("api_ns", "Host time inside CUDA API calls.", True),
        integer("first_kernel_delay_ns", "From its begin to its first GPU operation.", True),
        integer("memcpy_ns", "Sum of its copies' durations."),
        integer("sync_ns", "Host time in calls that only wait for the GPU."),
        *(integer(f"idle_{cause.name}_ns", f"Of gpu_idle_ns: {cause.meaning}.", True) for cause in CAUSES.values()),
    ),
    build,
)
