"""What is known of each prefill and each decode: its request, its tokens, its times, and whether it was a warm-up."""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.answers.batches import Batches, of_all
from dsprof.answers.ends import StageEnds
from dsprof.answers.requests import Requests
from dsprof.answers.warm_up import ColdTime, WarmUp, times_the_usual
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import Floats
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.measures.totals import StageTotals
from dsprof.records import frozen
from dsprof.trace import process_of
from dsprof.words import PREFILL


@frozen(eq=False)
class Stages:
    """The stages of a report, by start: the rows of `StageRanges.rows`, and of `stage_trace`. NULL: not known.

    `range`: row of its range; `code`: which stage; `instance`: which of its stage; `request`: number of its request;
    `batch`: its sequences; `tokens` of each of them: its steps, else its payload; `prompt`: of the prefill that it
    follows in its request, of one sequence; `proj_start` and `proj_end`: of its operations on the GPU; `wall`: from its
    begin until host and GPU are both done; `busy`: time that the GPU worked for it; `steady`: False for a `warm_up`,
    and for one that the selected window cuts, where others of its stage and process are whole.
    """

    range: Ints
    code: Ints
    instance: Ints
    request: Ints
    thread: Ints
    start: Ints
    end: Ints
    batch: Ints
    tokens: Ints
    prompt: Ints
    proj_start: Ints
    proj_end: Ints
    wall: Ints
    busy: Ints
    steady: Bools
    warm_up: WarmUp

    @classmethod
    def take(
        cls,
        tree: RangeTree,
        staged: StageRanges,
        requests: Requests,
        batches: Batches,
        totals: StageTotals,
        cold: ColdTime,
        ends: StageEnds,
    ) -> Self:
        """Of a report."""
        ranges, rows = tree.ranges, staged.rows
        proj_start, proj_end = totals.proj_start_ns[:-1], totals.proj_end_ns[:-1]
        wall = wall_time(ranges.start[rows], ends.end, proj_start, proj_end)
        warm_up = _warm_up(tree, staged, of_all(staged.tokens, batches.of_stage), wall, cold)
        return cls(
            range=rows,
            code=staged.code,
            instance=staged.instance_of_range[rows],
            request=requests.number_of_stage,
            thread=ranges.thread[rows],
            start=ranges.start[rows],
            end=ends.end,
            batch=batches.of_stage,
            tokens=staged.tokens,
            prompt=_prompts(tree, staged, requests),
            proj_start=proj_start,
            proj_end=proj_end,
            wall=wall,
            busy=totals.gpu_busy_ns[:-1],
            steady=~(warm_up.warm | _halves(tree, staged)),
            warm_up=warm_up,
        )

    @property
    def all_tokens(self) -> Ints:
        """Tokens of all its sequences; of one where its batch is not known. Those of an engine's step are of all."""
        return of_all(self.tokens, self.batch)


def wall_time(start: Ints, end: Ints, proj_start: Ints, proj_end: Ints) -> Ints:
    """From the first begin until host and GPU are both done; the projection is NULL where there is none.

    A GPU operation begins before its stage only where the two clocks disagree; then the wall begins with it.
    """
    begin = np.where(proj_end == NULL, start, np.minimum(start, proj_start))
    return np.maximum(end, proj_end) - begin


def _prompts(tree: RangeTree, staged: StageRanges, requests: Requests) -> Ints:
    """Tokens of the prefill that each stage follows in its request, of its process; in none, on its thread; NULL."""
    thread, is_prefill = tree.ranges.thread[staged.rows], staged.are(PREFILL)
    own = np.where(requests.of_stage >= 0, process_of(thread), thread)
    prompt, last = np.full(len(thread), NULL, np.int64), dict[tuple[int, int], int]()
    rows = np.flatnonzero(staged.engine_row < 0)
    for row, key in zip(
        rows.tolist(), zip(own[rows].tolist(), requests.of_stage[rows].tolist(), strict=True), strict=True
    ):
        if is_prefill[row]:
            last[key] = int(staged.tokens[row])
        prompt[row] = last.get(key, NULL)
    return prompt


def _halves(tree: RangeTree, staged: StageRanges) -> Bools:
    """Which stages were cut by the window that was selected, where others of their stage and process were not."""
    group = at.group_rows(process_of(tree.ranges.thread[staged.rows]), staged.code)[1]
    halves: Bools = staged.cut & np.isin(group, group[~staged.cut])
    return halves


def _warm_up(tree: RangeTree, staged: StageRanges, tokens: Ints, wall: Ints, cold: ColdTime) -> WarmUp:
    """Which stages were a warm-up of their process; `tokens`: of all their sequences.

    Stages with steps are compared by the time of a step. Of the others, and of the steps of engines, whose work may
    differ from one to the next, a warm-up must have taken longer both as a whole and by the token, where tokens are
    known.
    """
    group = at.group_rows(process_of(tree.ranges.thread[staged.rows]), staged.code)[1]
    group, slower = np.where(staged.cut, -1, group), np.zeros(len(wall))
    steps = np.where(staged.engine_row < 0, staged.step_count, 0)
    for one, same in at.each(group):
        if one >= 0:
            slower[same] = _slower(wall[same], steps[same], tokens[same])
    return WarmUp.of(group, slower, wall, cold.stages)


def _slower(wall: Ints, steps: Ints, tokens: Ints) -> Floats:
    """By how many times each of some stages of a kind took longer than the usual one."""
    one = np.zeros(len(wall), np.int64)
    if (steps > 0).all():
        return times_the_usual(one, wall / steps)
    whole = times_the_usual(one, wall.astype(np.float64))
    return np.minimum(whole, times_the_usual(one, wall / tokens)) if (tokens > 0).all() else whole
