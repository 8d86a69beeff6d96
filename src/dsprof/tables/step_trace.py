"""`step_trace`: every decode step, on the host and on the GPU; the steps part their decode without rest."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof import arrays as at
from dsprof.accounting import CAUSES, accounts
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import Floats
from dsprof.attributed import Attributed, wall_time
from dsprof.hosttime import call_names, host_times
from dsprof.measures import Totals, stage_totals, step_totals
from dsprof.requests import context_of_step, requests_of, steady_stages, steady_steps, step_outliers
from dsprof.stages import OUTSIDE_CUDA
from dsprof.table import Coded, Column, Table, integer, name, real
from dsprof.trace import pid_of, tid_of

_SUMS = ("launches", "gpu_ops", "kernels", "kernel_total_ns", "gpu_busy_ns", "memcpy_ns", "sync_ns")


def build(a: Attributed) -> dict[str, Any]:
    """A row per step, by start; then a row without a number per stage that launched something between its steps."""
    steps, with_steps, totals = a.step_ranges, a.stages_with_steps, step_totals(a)
    between = len(steps) + np.flatnonzero(totals.gpu_ops[len(steps) : -1] > 0)
    owner = np.concatenate([a.stage_of_step, with_steps[between - len(steps)]])
    return {
        **_place(a, steps, owner),
        **_times(a, steps, len(between), totals),
        **_standing_out(a, len(between)),
        **{column: getattr(totals, column)[np.append(np.arange(len(steps)), between)] for column in _SUMS},
    }


def _place(a: Attributed, steps: Ints, owner: Ints) -> dict[str, Any]:
    ranges, none = a.trace.ranges, np.full(len(owner) - len(steps), NULL)
    stage_row = a.stage_row[owner]
    thread = ranges.thread[np.append(steps, owner[len(steps) :])]
    of_row = np.append(steady_steps(a), np.append(steady_stages(a), True)[stage_row[len(steps) :]])
    return {
        "stage": Coded(a.stage_code(owner), a.stage_names),
        "instance": np.where(owner >= 0, a.instance_of_range[owner], NULL) if len(ranges) else owner,
        "request": np.append(requests_of(a).number_of_stage, NULL)[stage_row],
        "step": np.append(a.step_number, none),
        "pid": pid_of(thread),
        "tid": tid_of(thread),
        "range_id": np.append(ranges.range_id[steps], none),
        "steady": of_row,
        "tokens": np.append(np.ones(len(steps), np.int64), none),
        "context_tokens": np.append(context_of_step(a), none),
    }


def _standing_out(a: Attributed, between: int) -> dict[str, Any]:
    """Which steps are outliers, by how much, and what they spent more time in than the others."""
    steady, none = steady_steps(a), np.full(between, np.nan)
    far, ratio = step_outliers(a, steady)
    code, excess, names = _excess(a, steady, far)
    return {
        "outlier": np.append(far, np.zeros(between, np.bool_)),
        "duration_by_median": np.append(ratio, none),
        "excess_in": Coded(np.append(code, np.full(between, -1)), names),
        "excess_ns": np.append(excess, none),
    }


def _excess(a: Attributed, steady: Bools, far: Bools) -> tuple[Ints, Floats, tuple[str, ...]]:
    """Of each outlier: the call, or the time outside, that grew most over its median in the decode's steady steps."""
    code, excess = np.full(len(far), -1), np.full(len(far), np.nan)
    if not far.any():
        return code, excess, (OUTSIDE_CUDA,)
    ranges, spent, all_names = a.trace.ranges, host_times(a).steps, len(a.trace.names)
    step, (of_call, found) = spent.group // all_names, call_names(a, spent.group % all_names)
    names = (*found, OUTSIDE_CUDA)
    duration = ranges.end[a.step_ranges] - ranges.start[a.step_ranges]
    kept, known, place = np.flatnonzero(steady), np.flatnonzero(steady[step]), np.full(len(far), -1)
    inside = {stage: known[rows] for stage, rows in at.each(a.stage_of_step[step[known]])}
    for stage, mine in at.each(a.stage_of_step[kept]):
        rows = kept[mine]
        if not far[rows].any():
            continue
        place[rows] = np.arange(len(rows))
        times, some = np.zeros((len(rows), len(names))), inside.get(stage, mine[:0])
        np.add.at(times, (place[step[some]], of_call[some]), spent.total[some])
        times[:, -1] = duration[rows] - times.sum(axis=1)
        out = far[rows]
        more = (times - np.median(times, axis=0))[out]
        code[rows[out]], excess[rows[out]] = more.argmax(axis=1), more.max(axis=1)
    return code, excess, names


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
        integer("request", "Number of its request in request_trace.", True),
        integer("step", "The step's number: payload of its range, else its ordinal; missing between the steps.", True),
        integer("pid", "Process."),
        integer("tid", "Thread that began the step."),
        integer("range_id", "Its row in range_trace.", True),
        Column(
            "steady", "False for a warm-up: in a decode that was one, or at the head of its process's first.", "bool"
        ),
        integer("start_ns", "When it began on the host.", True),
        integer("end_ns", "When it ended on the host.", True),
        integer("duration_ns", "Time on the host: the latency of this token.", True),
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
    (stage_totals, step_totals, accounts, host_times),
)
