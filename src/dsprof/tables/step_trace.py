"""`step_trace`: every decode step, on the host and on the GPU; the steps part their decode without rest."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from dsprof.accounting import CAUSES, Windows, account, call_names, host_by_call, host_in_calls, step_windows
from dsprof.attributed import Attributed, StageTotals, row_in
from dsprof.attribution import NULL, Bools, Ints
from dsprof.requests import context_of_step, requests_of, steady_stages, steady_steps, step_outliers
from dsprof.stages import OUTSIDE_CUDA
from dsprof.stats import Floats, count_by
from dsprof.table import Coded, Column, Table, integer, name, real
from dsprof.trace import pid_of, tid_of

_SUMS = ("launches", "gpu_ops", "kernels", "kernel_total_ns", "gpu_busy_ns", "memcpy_ns", "sync_ns")


def build(a: Attributed) -> dict[str, Any]:
    """A row per step, by start; then a row without a number per stage that launched something between its steps."""
    steps, totals = a.step_ranges, a.step_totals
    between = len(steps) + np.flatnonzero(totals.gpu_ops[len(steps) : -1] > 0)
    owner = np.concatenate([a.stage_of_step, a.stages_with_steps[between - len(steps)]])
    return {
        **_place(a, steps, owner),
        **_times(a, steps, len(between), totals),
        **_standing_out(a, len(between)),
        **{column: getattr(totals, column)[np.append(np.arange(len(steps)), between)] for column in _SUMS},
    }


def _place(a: Attributed, steps: Ints, owner: Ints) -> dict[str, Any]:
    ranges, none = a.trace.ranges, np.full(len(owner) - len(steps), NULL)
    stage_row = row_in(a, a.stage_ranges, owner)
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
    ranges, names = a.trace.ranges, (*call_names(a)[1], OUTSIDE_CUDA)
    code, excess = np.full(len(far), -1), np.full(len(far), np.nan)
    if not far.any():
        return code, excess, names
    chosen = np.flatnonzero(steady & np.isin(a.stage_of_step, a.stage_of_step[far]))
    chosen = chosen[np.argsort(a.stage_of_step[chosen], kind="stable")]
    rows, owner = a.step_ranges[chosen], a.stage_of_step[chosen]
    start, end = ranges.start[rows], ranges.end[rows]
    step, name_code, spent = host_by_call(a, Windows(ranges.thread[rows], start, end, rows[:0]))
    bounds = np.append(np.unique(owner, return_index=True)[1], len(owner))
    for low, high in itertools.pairwise(bounds.tolist()):
        inside = slice(*np.searchsorted(step, (low, high)))
        times = np.zeros((high - low, len(names)))
        times[step[inside] - low, name_code[inside]] = spent[inside]
        times[:, -1] = end[low:high] - start[low:high] - times.sum(axis=1)
        out = far[chosen[low:high]]
        more = (times - np.median(times, axis=0))[out]
        code[chosen[low:high][out]], excess[chosen[low:high][out]] = more.argmax(axis=1), more.max(axis=1)
    return code, excess, names


def _times(a: Attributed, steps: Ints, between: int, totals: StageTotals) -> dict[str, Ints]:
    """Times of the steps; a row between the steps has no times of its own."""
    ranges, windows = a.trace.ranges, step_windows(a)
    start, end = ranges.start[steps], ranges.end[steps]
    idle = account(a, windows)
    first = totals.proj_start_ns[: len(steps)]
    of_call = row_in(a, steps, a.step_range_of_call)
    graphs = a.trace.named("cudaGraphLaunch", "cuGraphLaunch")[a.trace.calls.name] & (of_call >= 0)
    columns = {
        "start_ns": start,
        "end_ns": end,
        "duration_ns": end - start,
        "wall_ns": windows.end - windows.start,
        "gpu_idle_ns": windows.end - windows.start - idle["busy"],
        "api_ns": host_in_calls(a, windows),
        "first_kernel_delay_ns": np.where(first == NULL, NULL, first - start),
        "graph_launches": count_by(of_call[graphs], len(steps)),
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
            "a modified z-score above 3.5 (0.6745 x (duration - median) / median absolute deviation).",
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
)
