"""`step_trace`: every decode step, on the host and on the GPU; the steps part their decode without rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.accounting import CAUSES, accounts
from dsprof.attributed import Attributed, row_in, wall_time
from dsprof.attribution import NULL, Ints
from dsprof.measures import Totals, stages_with_steps, step_totals
from dsprof.table import Coded, Table, integer, name
from dsprof.trace import pid_of, tid_of

_SUMS = ("launches", "gpu_ops", "kernels", "kernel_total_ns", "gpu_busy_ns", "memcpy_ns", "sync_ns")


def build(a: Attributed) -> dict[str, Any]:
    """A row per step, by start; then a row without a number per stage that launched something between its steps."""
    steps, with_steps, totals = a.step_ranges, stages_with_steps(a), step_totals(a)
    between = len(steps) + np.flatnonzero(totals.gpu_ops[len(steps) : -1] > 0)
    owner = np.concatenate([a.stage_of_step, with_steps[between - len(steps)]])
    return {
        **_place(a, steps, owner),
        **_times(a, steps, len(between), totals),
        **{column: getattr(totals, column)[np.append(np.arange(len(steps)), between)] for column in _SUMS},
    }


def _place(a: Attributed, steps: Ints, owner: Ints) -> dict[str, Any]:
    ranges, none = a.trace.ranges, np.full(len(owner) - len(steps), NULL)
    stage_row = row_in(a, a.stage_ranges, owner)
    thread = ranges.thread[np.append(steps, owner[len(steps) :])]
    prompt = np.append(a.prompt_of_stage, NULL)
    number = np.append(a.step_number, none)
    known = (prompt[stage_row] != NULL) & (number != NULL) & (stage_row >= 0)
    return {
        "stage": Coded(a.stage_code(owner), a.stage_names),
        "instance": np.where(owner >= 0, a.instance_of_range[owner], NULL) if len(ranges) else owner,
        "request": np.where(stage_row >= 0, np.append(a.request_of_stage, NULL)[stage_row], NULL),
        "step": number,
        "pid": pid_of(thread),
        "tid": tid_of(thread),
        "range_id": np.append(ranges.range_id[steps], none),
        "tokens": np.append(np.ones(len(steps), np.int64), none),
        "context_tokens": np.where(known, prompt[stage_row] + number, NULL),
    }


def _times(a: Attributed, steps: Ints, between: int, totals: Totals) -> dict[str, Ints]:
    """Times of the steps; a row between the steps has no times of its own."""
    start, end = a.trace.ranges.start[steps], a.trace.ranges.end[steps]
    first, last = totals.proj_start_ns[: len(steps)], totals.proj_end_ns[: len(steps)]
    idle, wall = accounts(a).steps, wall_time(start, end, first, last)
    columns = {
        "start_ns": start,
        "end_ns": end,
        "duration_ns": end - start,
        "wall_ns": wall,
        "gpu_idle_ns": wall - idle["busy"],
        "api_ns": idle["in_calls"],
        "first_kernel_delay_ns": np.where(first == NULL, NULL, first - start),
        "graph_launches": totals.graph_launches[: len(steps)],
        **{f"idle_{cause}_ns": idle[cause] for cause in CAUSES},
    }
    return {column: np.append(values, np.full(between, NULL)) for column, values in columns.items()}


TABLE = Table(
    "step_trace",
    "a decode step, and a stage between its steps",
    (
        name("stage", "The stage that the step is in, or (no stage)."),
        integer("instance", "Which of its stage, from 0.", True),
        integer("request", "Number of the request.", True),
        integer("step", "The step's number: payload of its range, else its ordinal; missing between the steps.", True),
        integer("pid", "Process."),
        integer("tid", "Thread that began the step."),
        integer("range_id", "Its row in range_trace.", True),
        integer("start_ns", "When it began on the host.", True),
        integer("end_ns", "When it ended on the host.", True),
        integer("duration_ns", "Time on the host: the latency of this token.", True),
        integer("wall_ns", "From its begin until host and GPU are both done with it.", True),
        integer("tokens", "Tokens that it makes: 1, for a batch as well, whose sequences are not told apart.", True),
        integer("context_tokens", "Tokens before and with this one: the prompt's and the steps so far.", True),
        integer("launches", "CUDA API calls that put its operations on the GPU."),
        integer("graph_launches", "Those of them that launch a CUDA graph.", True),
        integer("gpu_ops", "Its GPU operations."),
        integer("kernels", "Its kernels."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("gpu_busy_ns", "Time covered by at least one of its GPU operations."),
        integer("gpu_idle_ns", "wall_ns - gpu_busy_ns.", True),
        integer("api_ns", "Host time inside CUDA API calls.", True),
        integer("first_kernel_delay_ns", "From its begin to its first GPU operation.", True),
        integer("memcpy_ns", "Sum of its copies' durations."),
        integer("sync_ns", "Host time in calls that only wait for the GPU."),
        *(integer(f"idle_{cause}_ns", f"Of gpu_idle_ns: {text}.", True) for cause, text in CAUSES.items()),
    ),
    build,
    (step_totals, accounts),
)
