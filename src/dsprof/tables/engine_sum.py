"""`engine_sum`: what a serving engine ran on each of its threads, by mode: steps, requests, tokens, times, rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof import arrays as at
from dsprof.answers.engine_times import EngineTimes
from dsprof.answers.painting import StageBusy
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import Floats, count_by, distribution, sum_by
from dsprof.attribute.engines import COUNTS
from dsprof.attribute.stages import StageRanges
from dsprof.measures.totals import StageTotals
from dsprof.tables._table import CodedText, Table, integer, name, real
from dsprof.trace import pid_of, tid_of

_COUNTED = COUNTS[:4]
_PERCENTS = (50, 90, 99)


def build(staged: StageRanges, times: EngineTimes, totals: StageTotals, busy: StageBusy) -> dict[str, Any]:
    """A row per thread that runs an engine, over all its steps; after it one for each mode of them.

    ::

        first step's begin |= step =|  |= step =|      pause      |= step =| last step's range ends
                           |------------------- span_ns -------------------|
        active_ns                       span_ns - pause_ns
    """
    steps = staged.engine
    workers, modes = np.arange(len(steps.workers)), len(steps.modes) + 1
    pairs = at.distinct_in_any_order(steps.worker * modes + steps.mode + 1)
    keys = at.distinct_in_any_order(workers * modes, pairs)
    step = np.concatenate([np.arange(len(steps))] * 2)
    row = np.searchsorted(keys, np.append(steps.worker * modes, steps.worker * modes + steps.mode + 1))
    worker, mode, rows, whole = keys // modes, keys % modes - 1, len(keys), keys % modes == 0

    def total(values: Ints, of: Any = slice(None)) -> Ints:
        """The sum of a column of the steps in each row; NULL where one of them is not known."""
        chosen, kept = values[step[of]], row[of]
        summed: Ints = np.where(
            count_by(kept[chosen == NULL], rows) > 0, NULL, sum_by(kept, np.maximum(chosen, 0), rows)
        )
        return summed

    counts = {column: total(steps.counts[column]) for column in _COUNTED}
    followed = times.between_ns[step] != NULL
    pause = followed & times.pause[step]
    span, paused = _spans(steps.worker, times, len(steps.workers))[worker], total(times.between_ns, pause)
    active = np.where(whole, span - paused, NULL)
    stage = staged.row[steps.rows]
    return {
        "engine": CodedText(worker, tuple(one.title for one in steps.workers)),
        "form": CodedText(worker, tuple(one.form.name for one in steps.workers)),
        "pid": pid_of(_threads(staged)[worker]),
        "tid": tid_of(_threads(staged)[worker]),
        "mode": CodedText(mode, steps.modes),
        "steps": count_by(row, rows),
        "pauses": count_by(row[pause], rows),
        **counts,
        "max_requests": _most(row, steps.requests[step], rows),
        "span_ns": np.where(whole, span, NULL),
        "pause_ns": paused,
        "active_ns": active,
        "in_range_ns": total(times.in_range_ns),
        "after_range_ns": total(times.after_range_ns, followed),
        "between_ns": total(times.between_ns, followed & ~pause),
        "gpu_busy_ns": total((totals.gpu_busy_ns - busy.collectives.wait)[:-1][stage]),
        "kernels": total(totals.kernels[:-1][stage]),
        "kernel_total_ns": total(totals.kernel_total_ns[:-1][stage]),
        "after_kernels": total(times.after_kernels),
        "after_kernel_total_ns": total(times.after_kernel_total_ns),
        "context_tokens_per_s": _rate(counts["context_tokens"], active),
        "output_tokens_per_s": _rate(counts["generation_requests"], active),
        **_token_intervals(row, step, steps.counts["generation_requests"], times, rows),
    }


def _threads(staged: StageRanges) -> Ints:
    return np.array([one.thread for one in staged.engine.workers], np.int64)


def _spans(worker: Ints, times: EngineTimes, workers: int) -> Ints:
    """From the begin of the first step of each thread to the end of its last one."""
    first, last = np.full(workers, np.iinfo(np.int64).max), np.full(workers, NULL)
    np.minimum.at(first, worker, times.start)
    np.maximum.at(last, worker, times.end)
    span: Ints = last - first
    return span


def _most(row: Ints, values: Ints, rows: int) -> Ints:
    found = np.full(rows, NULL)
    np.maximum.at(found, row, values)
    return found


def _rate(count: Ints, active: Ints) -> Floats:
    """How many a second; NaN where either is not known."""
    known = (count != NULL) & (active > 0)
    rate: Floats = np.divide(count * 1e9, active, out=np.full(len(count), np.nan), where=known)
    return rate


def _token_intervals(row: Ints, step: Ints, requests: Ints, times: EngineTimes, rows: int) -> dict[str, Floats]:
    """Percentiles over output tokens of the interval that each took: a step counts once for each request in it."""
    kept = (requests[step] > 0) & (times.interval_ns[step] != NULL) & ~times.pause[step]
    found = distribution(row[kept], times.interval_ns[step[kept]], requests[step[kept]])
    reach = np.cumsum(found.times)
    total = sum_by(found.group, found.times, rows)
    before, columns = np.cumsum(total) - total, {}
    for percent in _PERCENTS:
        rank = before + np.ceil(total * percent / 100).astype(np.int64) - 1
        place = np.minimum(np.searchsorted(reach, np.maximum(rank, 0), side="right"), max(len(reach) - 1, 0))
        value = np.append(found.value, 0)[place]
        columns[f"token_interval_p{percent}_ns"] = np.where(total > 0, value, np.nan)
    return columns


TABLE = Table(
    "engine_sum",
    "a thread that runs a serving engine, over all its steps, and over those of each mode",
    (
        name("engine", "The engine."),
        name("form", "Which of the engine's forms the names of its steps have: see dsprof.rules.engines."),
        integer("pid", "Process."),
        integer("tid", "Thread."),
        name(
            "mode", "What the steps do: prefill, decode, mixed, empty, unknown; ? for a guess; missing for all.", True
        ),
        integer("steps", "Steps, those at the rims of the capture too."),
        integer("pauses", "Those of them after which the engine waited for requests: see step_trace."),
        integer("context_requests", "Sum over the steps: a prompt in chunks counts once for each.", True),
        integer("context_tokens", "Tokens of prompts that were scheduled.", True),
        integer(
            "generation_requests",
            "Sum over the steps, which is the tokens that were generated but for drafts and the first of each request.",
            True,
        ),
        integer("generation_tokens", "Tokens that were scheduled for these.", True),
        integer("max_requests", "Most requests in a step.", True),
        integer("span_ns", "From the begin of the first step to the end of the last one.", True),
        integer("pause_ns", "Of that, in pauses."),
        integer("active_ns", "span_ns - pause_ns.", True),
        integer("in_range_ns", "Host time in the ranges of the steps."),
        integer("after_range_ns", "Host time after them, until the last CUDA API call of each step."),
        integer("between_ns", "Time from then, or from when the GPU was done, to the next step; without pauses."),
        integer(
            "gpu_busy_ns",
            "Sum over the steps of the time in which the GPU worked for each and waited for no rank.",
        ),
        integer("kernels", "Their kernels."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("after_kernels", "Of the kernels, those launched after the range of their step."),
        integer("after_kernel_total_ns", "Sum of the durations of these."),
        real("context_tokens_per_s", "context_tokens by active_ns.", True),
        real("output_tokens_per_s", "generation_requests by active_ns: at least so many tokens a second.", True),
        *(
            real(
                f"token_interval_p{percent}_ns",
                f"Time per output token: {percent} of 100 took no longer, from the begin of their step to that of the "
                "next one; pauses left out.",
                True,
            )
            for percent in _PERCENTS
        ),
    ),
    build,
)
