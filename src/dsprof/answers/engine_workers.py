"""The threads that run a serving engine's steps, which of them run the same ones, and how their batches changed."""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof.answers.engine_times import EngineTimes
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import Floats
from dsprof.attribute.engines import COUNTS
from dsprof.attribute.stages import StageRanges
from dsprof.records import frozen

#: A step of drafts, or of what is computed again, has more tokens than requests; what most steps have is drafts.
_STEADY = 0.5
#: Stretches of time that a batch's size is told of.
STRETCHES = 60


@frozen(eq=False)
class EngineWorkers:
    """Of each worker of `EngineSteps`: the first one whose steps say the same (`alike`, itself if none does).

    `requests`: the mean number of requests that it served in each of `STRETCHES` equal stretches of time from its first
    step to its last one, NaN where its steps do not say; shape (workers, STRETCHES).
    """

    alike: Ints
    requests: Floats

    @classmethod
    def take(cls, staged: StageRanges, times: EngineTimes) -> Self:
        """Of a report."""
        steps, first = staged.engine, dict[bytes, int]()
        alike, requests = np.arange(len(steps.workers)), np.full((len(steps.workers), STRETCHES), np.nan)
        stop = np.where(times.pause | (times.interval_ns == NULL), times.end, times.start + times.interval_ns)
        edges = np.searchsorted(steps.worker, np.arange(len(steps.workers) + 1))
        for worker, (low, high) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
            said = np.array([steps.mode[low:high], *(steps.counts[count][low:high] for count in COUNTS)])
            alike[worker] = first.setdefault(said.tobytes(), worker)
            requests[worker] = _over_time(times.start[low:high], stop[low:high], steps.requests[low:high])
        return cls(alike, requests)


def _over_time(start: Ints, stop: Ints, requests: Ints) -> Floats:
    """The mean number of requests in each stretch of time, by how long each step lasted; 0 where none ran."""
    known = requests != NULL
    if not known.any():
        return np.full(STRETCHES, np.nan)
    edges = np.linspace(int(start[0]), int(stop[-1]), STRETCHES + 1)
    moments = np.column_stack([start[known], stop[known]]).reshape(-1) - start[0]
    served = np.cumsum(np.column_stack([np.zeros(known.sum()), (stop - start)[known] * requests[known]]).reshape(-1))
    reached = np.interp(edges - start[0], moments, served)
    mean: Floats = np.diff(reached) / np.maximum(np.diff(edges), 1)
    return mean


def several_tokens(requests: Ints, tokens: Ints) -> tuple[int, int, float]:
    """Steps with requests that generate, those of them with more tokens than requests, and tokens a request in those.

    >>> several_tokens(np.array([2, 2, 0, NULL]), np.array([2, 8, 0, NULL]))
    (2, 1, 4.0)
    """
    known = (requests > 0) & (tokens != NULL)
    more = known & (tokens > requests)
    ratio = float(tokens[more].sum() / requests[more].sum()) if more.any() else 1.0
    return int(known.sum()), int(more.sum()), ratio


def are_drafts(steps: int, more: int) -> bool:
    """Do so many of the steps have more tokens than requests that it is how the engine works, and no recomputation?"""
    return more > _STEADY * steps
