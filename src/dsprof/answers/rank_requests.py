"""Requests of several ranks: those of a tensor-parallel group are one, which each of its ranks has a range for.

::

    rank 0   |== request 3 ==|     |== request 4 ==|      the same number and tokens, and the collectives in them are
    rank 1    |== request 3 ==|     |== request 4 ==|     each other's matches, all-reduces for the better part: one

An all-reduce adds up over ranks what is of one request, so that its ranks work on the same; other collectives are also
made by ranks that serve requests of their own, as in expert parallelism. Of those nothing tells, and they stay apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.answers.batches import Batches
from dsprof.answers.collectives import Clock, MatchedCollectives
from dsprof.answers.painting import StageBusy
from dsprof.answers.requests import Requests, RequestTokens, latest
from dsprof.answers.stages import Stages
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.measures.totals import StageTotals
from dsprof.records import frozen
from dsprof.rules.collectives import OPERATIONS
from dsprof.trace import process_of
from dsprof.words import DECODE

#: What is summed up over the stages of a request.
SUMS = ("gpu_busy_ns", "launches", "gpu_ops", "kernels", "kernel_total_ns", "memcpy_ns", "sync_ns")
#: Of the collectives of each of two requests so many must be each other's, and of those so many all-reduces.
_SHARED, _REDUCED = 0.9, 0.5
#: Of what a request is called, what must be equal.
_LABELS = ("label", "paired", "batch", "prompt", "steps")
#: Of each of those that are one, the latest counts; of the others that of the first rank.
_LATEST = ("end", "first", "last", "first_gpu", "last_gpu", "work", "decode_work")
_TIMES = ("start", "end", "first", "last", "first_gpu", "last_gpu")


@frozen(eq=False)
class RequestRows:
    """The requests of a report, a row each as each process saw them; it can be pickled.

    `columns`: `number`, `label` (what its range says, NULL for nothing), `paired` (1: no range), `thread`, `range_id`,
    `start`, `end`, `batch`, `prompt` and `steps` (of one sequence), `steady`, `first`, `last`, `first_gpu`, `last_gpu`
    as in `RequestTokens`, `stages`, `decode_busy`, and `SUMS`. `of_stage`: the row of each of `StageRanges.rows`, -1
    for none; `decodes`: 1 for those that are decodes.
    """

    columns: dict[str, Ints]
    of_stage: Ints
    decodes: Ints

    @classmethod
    def take(
        cls,
        tree: RangeTree,
        staged: StageRanges,
        found: Requests,
        batches: Batches,
        tokens: RequestTokens,
        stages: Stages,
        totals: StageTotals,
    ) -> Self:
        """Of a report."""
        count, of_stage = len(found), found.of_stage
        columns = {
            "number": found.number,
            "label": np.append(tree.ranges.number, NULL)[found.range],
            "paired": (found.range < 0).astype(np.int64),
            "thread": found.thread,
            "range_id": np.append(tree.ranges.range_id, NULL)[found.range],
            "start": found.start,
            "end": found.end,
            "batch": batches.of_request,
            "prompt": tokens.prompt,
            "steps": tokens.steps,
            "steady": (count_by(of_stage[~stages.steady & (of_stage >= 0)], count) == 0).astype(np.int64),
            **{name: getattr(tokens, name) for name in ("first", "last", "first_gpu", "last_gpu")},
            "stages": count_by(of_stage + 1, count + 1)[1:],
            "decode_busy": tokens.busy,
            **{column: _sum(of_stage, getattr(totals, column)[:-1], count) for column in SUMS},
        }
        return cls(columns, of_stage, staged.are(DECODE).astype(np.int64))


@frozen(eq=False)
class RankRequests:
    """The requests of all ranks, each once, by start: `columns` as in `RequestRows`, sums over the ranks.

    Besides `report`, `ranks` (how many make it), `wait_ns` (of all), `work` and `decode_work` (how long the GPU worked
    for it, and for its decodes, without waiting, on the rank where that is longest). `apart`: how many requests share
    their collectives with others while nothing tells whether they are one; `of_row`: where each of `RequestRows` is.
    """

    columns: dict[str, Ints]
    of_row: Ints
    apart: int

    @property
    def ranks_of_row(self) -> Ints:
        """How many processes make each of the `RequestRows`, those of all reports behind each other."""
        return self.columns["ranks"][self.of_row]

    @classmethod
    def take(cls, matched: MatchedCollectives, rows: RequestRows, busy: StageBusy) -> Self:
        """Of one report."""
        return cls.of(matched, [rows], [busy.collectives.wait[:-1]])

    @classmethod
    def of(cls, matched: MatchedCollectives, reports: Sequence[RequestRows], waits: Sequence[Ints]) -> Self:
        """Of several reports; `waits`: how long the GPU waited in each of the stages of each of them."""
        parts, first = [], [0]
        for number, (rows, wait) in enumerate(zip(reports, waits, strict=True)):
            columns, count = rows.columns, len(rows.columns["number"])
            wait_ns = _sum(rows.of_stage, wait, count)
            clock = _clock(matched, number)
            moved = {
                name: np.where(columns[name] == NULL, NULL, columns[name] + clock.shift(columns[name]))
                for name in _TIMES
            }
            parts.append({
                **columns, **moved, "report": np.full(count, number), "wait_ns": wait_ns,
                "work": columns["gpu_busy_ns"] - wait_ns,
                "decode_work": columns["decode_busy"] - _sum(rows.of_stage, wait * rows.decodes, count),
            })  # fmt: skip
            first.append(first[-1] + count)
        every = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        leader, apart = _leaders(matched, reports, first, every)
        return cls(*_merged(every, leader), apart)


def _clock(matched: MatchedCollectives, report: int) -> Clock:
    """How the times of a report are put on the common clock: as those of its ranks are."""
    return next((rank.clock for rank in matched.ranks if rank.report == report), Clock())


def _sum(of_stage: Ints, values: Ints, requests: int) -> Ints:
    """Sum per request over its stages."""
    return sum_by(of_stage + 1, values, requests + 1)[1:]


def _leaders(
    matched: MatchedCollectives, reports: Sequence[RequestRows], first: Sequence[int], every: dict[str, Ints]
) -> tuple[Ints, int]:
    """For each request the one that stands for it, itself as a rule; and how many may be one and stay apart."""
    leader, apart = np.arange(first[-1]), set[int]()
    request = _of_collectives(matched, reports, first)
    numbers = np.array([one.number for one in matched.ranks], np.int64)
    for rows in matched.of_groups():
        order = np.argsort(numbers[matched.columns["rank"][rows[:, 0]]], kind="stable")
        head, *others = request[rows[order]]
        reduces = matched.columns["operation"][rows[0]] == tuple(OPERATIONS).index("all-reduce")
        whole = np.bincount(head + 1)[1:]
        for other in others:
            count = np.bincount(other + 1)[1:]
            for one, two, shared, reduced in _pairs(head, other, reduces):
                if one == two or not all(every[label][one] == every[label][two] for label in _LABELS):
                    continue
                if shared < _SHARED * max(whole[one], count[two]):
                    continue
                if reduced >= _REDUCED * shared:
                    leader[two] = leader[one]
                else:
                    apart |= {one, two}
    return leader, len(apart)


def _of_collectives(matched: MatchedCollectives, reports: Sequence[RequestRows], first: Sequence[int]) -> Ints:
    """The request of each collective, among those of all reports; -1 for none."""
    columns, found = matched.columns, np.full(len(matched.columns["rank"]), -1)
    report = np.array([one.report for one in matched.ranks], np.int64)[columns["rank"]]
    for number, rows in enumerate(reports):
        mine = np.flatnonzero(report == number)
        own = np.append(rows.of_stage, -1)[columns["stage_row"][mine]]
        found[mine] = np.where(own >= 0, own + first[number], -1)
    return found


def _pairs(head: Ints, other: Ints, reduces: Ints) -> Iterator[tuple[int, int, int, int]]:
    """Requests of two ranks that share collectives: both, how many these are, and how many of them all-reduces."""
    some = np.flatnonzero((head >= 0) & (other >= 0))
    heads, pair = at.group_rows(head[some], other[some])
    shared, reduced = count_by(pair, len(heads)), count_by(pair[reduces[some]], len(heads))
    yield from zip(*(x.tolist() for x in (head[some[heads]], other[some[heads]], shared, reduced)), strict=True)


def _merged(every: dict[str, Ints], leader: Ints) -> tuple[dict[str, Ints], Ints]:
    """The requests that stand for themselves, by start, with what those have that they stand for; where each is."""
    heads = np.flatnonzero(leader == np.arange(len(leader)))
    of, count = np.searchsorted(heads, leader), len(heads)
    columns = {name: values[heads] for name, values in every.items()}
    columns |= {name: sum_by(of, every[name], count) for name in (*SUMS, "wait_ns", "stages")}
    columns |= {name: latest(of, every[name], count) for name in _LATEST}
    columns["start"], columns["steady"] = (
        -latest(of, -every["start"], count),
        (count_by(of[every["steady"] == 0], count) == 0).astype(np.int64),
    )
    makers = at.group_rows(of, every["report"], process_of(every["thread"]))[0]
    columns["ranks"] = count_by(of[makers], count)
    order = np.argsort(columns["start"], kind="stable")
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    return {name: values[order] for name, values in columns.items()}, place[of]
