"""The requests of a report: which stages make one, how many tokens it took and made, and when the first was there.

::

    request   |-------------------------------------------------------|      a range, or paired: see `Requests`
    stages      |--- prefill ---||-------------- decode -------------|
    steps                         |--1--|--2--|----3----|--4--|--5--|
                                  first token             last token
"""

from __future__ import annotations

from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.measures.totals import StageTotals
from dsprof.records import frozen
from dsprof.words import DECODE, PREFILL

#: How a request was found, as the column `found` says it.
FOUND = ("range", "paired")


@frozen(eq=False)
class Requests:
    """The requests of a report, by start: ranges named ``request``, and what `_pairs` finds outside of them.

    What is not wholly in the window that was selected is no request.

    `range`: row of the range, -1 for a pair; `number`: payload of the range, else its ordinal, pairs counting on from
    there; `thread`: globalTid; `of_stage`: row of the request of each of `StageRanges.rows`, -1 for none.
    """

    range: Ints
    number: Ints
    thread: Ints
    start: Ints
    end: Ints
    of_stage: Ints

    def __len__(self) -> int:
        return len(self.start)

    @property
    def number_of_stage(self) -> Ints:
        """Number of the request of each stage range, NULL for none."""
        return np.append(self.number, NULL)[self.of_stage]

    @classmethod
    def take(cls, tree: RangeTree, staged: StageRanges) -> Self:
        """Of a report."""
        ranges, stages = tree.ranges, staged.rows
        own = staged.requests[~ranges.cut[staged.requests]]
        payload = ranges.number[own]
        number = np.where(payload != NULL, payload, np.arange(len(own)))
        place = np.full(len(ranges) + 1, -1)
        place[own] = np.arange(len(own))
        places = tree.place_of(ranges.thread[stages])
        around = tree.enclosing(staged.requests, places, ranges.start[stages], widen=True)[0]
        alone = staged.engine_row < 0  # a step of an engine is of many requests
        of_stage = np.where(alone, place[around], -1)
        head, pair = _whole_pairs(tree, staged, *_pairs(tree, staged, (around < 0) & alone))
        first = int(number.max(initial=-1)) + 1
        start = ranges.start[np.append(own, stages[head])]
        order = np.argsort(start, kind="stable")
        rank = np.empty(len(order) + 1, np.int64)
        rank[order], rank[-1] = np.arange(len(order)), -1
        return cls(
            range=np.append(own, np.full(len(head), -1))[order],
            number=np.append(number, first + np.arange(len(head)))[order],
            thread=ranges.thread[np.append(own, stages[head])][order],
            start=start[order],
            end=np.append(ranges.end[own], latest(pair, ranges.end[stages], len(head)))[order],
            of_stage=rank[np.where(pair >= 0, len(own) + pair, of_stage)],
        )


def _pairs(tree: RangeTree, staged: StageRanges, left: Bools) -> tuple[Ints, Ints]:
    """Prefills and decodes `left` outside of all requests, in pairs: the stage that begins each, and the pair of each.

    A decode goes with the prefill that began last before it on its thread, if that had ended when the decode began;
    a prefill without a decode, and a decode without a prefill, is a request of its own. -1 for the other stages.
    """
    ranges, stages = tree.ranges, staged.rows
    prefill, decode = np.flatnonzero(left & staged.are(PREFILL)), np.flatnonzero(left & staged.are(DECODE))
    leader = np.full(len(stages), -1)
    leader[prefill], leader[decode] = prefill, decode
    start, thread = ranges.start[stages], ranges.thread[stages]
    if len(prefill):
        keys = at.Keys(len(stages), start)
        begun = keys.pack(np.unique(thread, return_inverse=True)[1].reshape(-1), start)
        by_thread = prefill[np.argsort(begun[prefill], kind="stable")]
        before = by_thread[np.maximum(np.searchsorted(begun[by_thread], begun[decode], side="right") - 1, 0)]
        own = (thread[before] == thread[decode]) & (begun[before] <= begun[decode])
        whole = own & (ranges.end[stages[before]] <= start[decode])
        leader[decode[whole]] = before[whole]
    head = at.distinct_in_any_order(leader[leader >= 0])
    return head, np.where(leader >= 0, np.searchsorted(head, leader), -1)


def _whole_pairs(tree: RangeTree, staged: StageRanges, head: Ints, pair: Ints) -> tuple[Ints, Ints]:
    """The pairs that the window which was selected does not cut.

    Nor may a thread's last prefill be one by itself where the window ends: its decode may come after it.
    """
    halves = at.distinct_in_any_order(pair[staged.cut & (pair >= 0)])
    if tree.report.selection.end_ns is not None and len(head) and staged.are(DECODE).any():
        thread = tree.ranges.thread[staged.rows[head]]
        last = len(head) - 1 - np.unique(thread[::-1], return_index=True)[1]
        halves = np.union1d(halves, np.setdiff1d(last, pair[staged.are(DECODE)]))
    if not len(halves):
        return head, pair
    kept = np.setdiff1d(np.arange(len(head)), halves, assume_unique=True)
    place = np.full(len(head) + 1, -1)
    place[kept] = np.arange(len(kept))
    return head[kept], place[pair]


def latest(group: Ints, times: Ints, groups: int) -> Ints:
    """The greatest of the times of each group, NULL where it has none; a negative group is none."""
    latest = np.full(groups, NULL)
    np.maximum.at(latest, group[group >= 0], times[group >= 0])
    return latest


# -- what a request's stages say -----------------------------------------------------------------------------


@frozen(eq=False)
class RequestTokens:
    """What is known of each request's tokens, and when the first and the last were there; NULL where it is not known.

    `prompt`: tokens of its prefills; `steps`: those of its decodes, both of one sequence; `first`, `last`: the end on
    the host of the last prefill before the decodes, and of the last decode; `first_gpu`, `last_gpu`: the end of their
    last GPU operation; `busy`: GPU busy time of the decodes, whose number is `decodes`. Where no stage says of how many
    tokens it is, there is none to wait for. Of a request that prefills again once it decodes, nothing but the prompt
    and the first token is known: it may be a second turn, or another's prompt.
    """

    prompt: Ints
    steps: Ints
    first: Ints
    last: Ints
    first_gpu: Ints
    last_gpu: Ints
    busy: Ints
    decodes: Ints

    @classmethod
    def take(cls, tree: RangeTree, staged: StageRanges, requests: Requests, totals: StageTotals) -> Self:
        """Of the requests of a report."""
        ranges, stages, count = tree.ranges, staged.rows, len(requests)
        start, end, proj_end = ranges.start[stages], ranges.end[stages], totals.proj_end_ns[:-1]
        prefill, decode = (np.where(staged.are(stage), requests.of_stage, -1) for stage in (PREFILL, DECODE))
        begun = np.full(count + 1, np.iinfo(np.int64).max)
        np.minimum.at(begun, decode, start)
        begun[-1] = np.iinfo(np.int64).max
        early = np.where(end <= begun[prefill], prefill, -1)
        some = np.append(count_by(requests.of_stage[staged.tokens != NULL] + 1, count + 1)[1:] > 0, False)
        told = np.where(some[early], early, -1)
        first, first_gpu = latest(told, end, count), latest(told, proj_end, count)
        last, last_gpu = latest(decode, end, count), latest(decode, proj_end, count)
        again = (count_by(prefill + 1, count + 1) != count_by(early + 1, count + 1))[1:]
        plain = (first != NULL) & (last != NULL) & ~again
        return cls(
            prompt=_whole(early, staged.tokens, count),
            steps=np.where(plain, _whole(decode, staged.tokens, count), NULL),
            first=first,
            last=np.where(plain, last, NULL),
            first_gpu=first_gpu,
            last_gpu=np.where(plain, last_gpu, NULL),
            busy=sum_by(decode + 1, totals.gpu_busy_ns[:-1], count + 1)[1:],
            decodes=count_by(decode + 1, count + 1)[1:],
        )


def _whole(group: Ints, values: Ints, groups: int) -> Ints:
    """Sum of the values of each group; NULL where it has none, or one of them is missing."""
    rows, known = group[group >= 0], values[group >= 0]
    missing = (count_by(rows, groups) == 0) | (count_by(rows[known == NULL], groups) > 0)
    return np.where(missing, NULL, sum_by(rows, np.where(known == NULL, 0, known), groups))
