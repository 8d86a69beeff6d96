"""Which stages make a request, which of them were a warm-up, and which steps stand out.

::

    request   |-------------------------------------------------------|      a range, or paired: see `Requests`
    stages      |--- prefill ---||-------------- decode -------------|
    steps                         |--1--|--2--|----3----|--4--|--5--|
                                  first token             last token
"""

from __future__ import annotations

import numpy as np
from attrs import frozen

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import Floats, count_by, describe, sum_by
from dsprof.attributed import Attributed, wall_time
from dsprof.measures import stage_totals
from dsprof.stages import DECODE, PREFILL
from dsprof.trace import process_of

#: How a request was found, as the column `found` says it.
FOUND = ("range", "paired")
#: What took this much longer than the usual is a warm-up where it came first, and may be an outlier elsewhere.
NOTABLE = 1.2
#: A slope of less than so many of its standard errors is no drift that can be told.
DRIFT_ERRORS = 2.0
#: Iglewicz and Hoaglin, How to Detect and Handle Outliers (1993), 3.3: a value is one where 0.6745 times its distance
#: from the median is more than 3.5 times the median of all such distances.
_Z, _Z_LIMIT = 0.6745, 3.5


@frozen(eq=False)
class Requests:
    """The requests of a report, by start: ranges named ``request``, and what `_pairs` finds outside of them.

    `range`: row of the range, -1 for a pair; `number`: payload of the range, else its ordinal, pairs counting on from
    there; `thread`: globalTid; `of_stage`: row of the request of each of `Attributed.stage_ranges`, -1 for none.
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


def requests_of(a: Attributed) -> Requests:
    """The requests of a report."""
    ranges, stages, own = a.trace.ranges, a.stage_ranges, a.request_ranges
    payload = ranges.number[own]
    number = np.where(payload != NULL, payload, np.arange(len(own)))
    place = np.full(len(ranges) + 1, -1)
    place[own] = np.arange(len(own))
    of_stage = place[a.enclosing(own, a.place_of(ranges.thread[stages]), ranges.start[stages], widen=True)[0]]
    head, pair = _pairs(a, of_stage)
    first = int(number.max(initial=-1)) + 1
    found = Requests(
        range=np.append(own, np.full(len(head), -1)),
        number=np.append(number, first + np.arange(len(head))),
        thread=ranges.thread[np.append(own, stages[head])],
        start=ranges.start[np.append(own, stages[head])],
        end=np.append(ranges.end[own], _latest(pair, ranges.end[stages], len(head))),
        of_stage=np.where(pair >= 0, len(own) + pair, of_stage),
    )
    order = np.argsort(found.start, kind="stable")
    rank = np.empty(len(order) + 1, np.int64)
    rank[order], rank[-1] = np.arange(len(order)), -1
    return Requests(found.range[order], found.number[order], found.thread[order], found.start[order],
                    found.end[order], rank[found.of_stage])  # fmt: skip


def _pairs(a: Attributed, of_stage: Ints) -> tuple[Ints, Ints]:
    """Prefills and decodes outside of all requests, paired: the stage that begins each pair, and the pair of each.

    A decode goes with the prefill that began last before it on its thread, if that had ended when the decode began;
    a prefill without a decode, and a decode without a prefill, is a request of its own. -1 for the other stages.
    """
    ranges, stages = a.trace.ranges, a.stage_ranges
    left = of_stage < 0
    prefill, decode = np.flatnonzero(left & _is(a, PREFILL)), np.flatnonzero(left & _is(a, DECODE))
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
    head = np.unique(leader[leader >= 0])
    return head, np.where(leader >= 0, np.searchsorted(head, leader), -1)


def _is(a: Attributed, stage: str) -> Bools:
    """True for those of `stage_ranges` that are of the stage; False throughout where the rules have none such."""
    names = a.stage_names[:-1]
    chosen: Bools = a.stage_of_range[a.stage_ranges] == (names.index(stage) if stage in names else -2)
    return chosen


def _latest(group: Ints, times: Ints, groups: int) -> Ints:
    """The greatest of the times of each group, NULL where it has none; a negative group is none."""
    latest = np.full(groups, NULL)
    np.maximum.at(latest, group[group >= 0], times[group >= 0])
    return latest


# -- what a request's stages say -----------------------------------------------------------------------------


@frozen(eq=False)
class Tokens:
    """What is known of each request's tokens, and when the first and the last were there; NULL where it is not known.

    `prompt`: tokens of its prefills; `steps`: those of its decodes; `first`, `last`: the end on the host of the last
    prefill before the decodes, and of the last decode; `first_gpu`, `last_gpu`: the end of their last GPU operation;
    `busy`: GPU busy time of the decodes, whose number is `decodes`. Of a request that prefills again once it decodes,
    nothing but the prompt and the first token is known: it may be a second turn, or another's prompt.
    """

    prompt: Ints
    steps: Ints
    first: Ints
    last: Ints
    first_gpu: Ints
    last_gpu: Ints
    busy: Ints
    decodes: Ints


def tokens_of(a: Attributed, found: Requests) -> Tokens:
    """The tokens of the requests."""
    ranges, stages, count = a.trace.ranges, a.stage_ranges, len(found)
    start, end, proj_end = ranges.start[stages], ranges.end[stages], stage_totals(a).proj_end_ns[:-1]
    prefill, decode = (np.where(_is(a, stage), found.of_stage, -1) for stage in (PREFILL, DECODE))
    begun = np.full(count + 1, np.iinfo(np.int64).max)
    np.minimum.at(begun, decode, start)
    begun[-1] = np.iinfo(np.int64).max
    early = np.where(end <= begun[prefill], prefill, -1)
    first, first_gpu = _latest(early, end, count), _latest(early, proj_end, count)
    last, last_gpu = _latest(decode, end, count), _latest(decode, proj_end, count)
    plain = (first != NULL) & (last != NULL) & (count_by(prefill + 1, count + 1) == count_by(early + 1, count + 1))[1:]
    steps = np.where(plain, _whole(decode, a.tokens, count), NULL)
    return Tokens(
        prompt=_whole(early, a.tokens, count),
        steps=steps,
        first=first,
        last=np.where(plain, last, NULL),
        first_gpu=first_gpu,
        last_gpu=np.where(plain, last_gpu, NULL),
        busy=sum_by(decode + 1, stage_totals(a).gpu_busy_ns[:-1], count + 1)[1:],
        decodes=count_by(decode + 1, count + 1)[1:],
    )


def _whole(group: Ints, values: Ints, groups: int) -> Ints:
    """Sum of the values of each group; NULL where it has none, or one of them is missing."""
    rows, known = group[group >= 0], values[group >= 0]
    missing = (count_by(rows, groups) == 0) | (count_by(rows[known == NULL], groups) > 0)
    return np.where(missing, NULL, sum_by(rows, np.where(known == NULL, 0, known), groups))


def context_of_step(a: Attributed) -> Ints:
    """Tokens before and with each of `step_ranges`: the prompt's, and its number; NULL where either is not known.

    Known in requests with one decode, after all their prefills.
    """
    found = requests_of(a)
    tokens = tokens_of(a, found)
    prompt = np.append(np.where((tokens.last != NULL) & (tokens.decodes == 1), tokens.prompt, NULL), NULL)
    of_range = np.full(len(a.trace.ranges) + 1, -1)
    of_range[a.stage_ranges] = np.where(_is(a, DECODE), found.of_stage, -1)
    before = prompt[of_range[a.stage_of_step]]
    return np.where(before != NULL, before + a.step_number, NULL)


# -- warm-up -------------------------------------------------------------------------------------------------


def warm_up(costs: Floats) -> int:
    """How many at the head of a series were a warm-up.

    Those, up to half of it, that each took more than `NOTABLE` times the median of the later half.

    >>> warm_up(np.array([300.0, 100, 101])), warm_up(np.array([100.0, 101])), warm_up(np.array([300.0]))
    (1, 0, 0)
    """
    half = len(costs) // 2
    if not half:
        return 0
    slow = costs[:half] > NOTABLE * np.median(costs[half:])
    return half if slow.all() else int(np.argmin(slow))


def steady_stages(a: Attributed) -> Bools:
    """False for those of `stage_ranges` that were a warm-up of their process, by `warm_up` of their wall time.

    Stages with steps are compared by the time of a step. Of the others, whose work may differ from one to the next,
    a warm-up must have taken longer both as a whole and by the token, where tokens are known.
    """
    ranges, rows, totals = a.trace.ranges, a.stage_ranges, stage_totals(a)
    wall = wall_time(ranges.start[rows], ranges.end[rows], totals.proj_start_ns[:-1], totals.proj_end_ns[:-1])
    steps = count_by(a.stage_of_step[a.stage_of_step >= 0], len(ranges))[rows]
    process, stage = process_of(ranges.thread[rows]), a.stage_of_range[rows]
    steady = np.ones(len(rows), np.bool_)
    for _, same in at.each(at.group_rows(process, stage)[1]):
        steady[same[: _warm_instances(wall[same], steps[same], a.tokens[same])]] = False
    return steady


def _warm_instances(wall: Ints, steps: Ints, tokens: Ints) -> int:
    if len(wall) == 1:
        return 0
    if (steps > 0).all():
        return warm_up(wall / steps)
    whole = warm_up(wall.astype(np.float64))
    return min(whole, warm_up(wall / tokens)) if (tokens > 0).all() else whole


def steady_steps(a: Attributed) -> Bools:
    """False for those of `step_ranges` that were a warm-up: their stage was one, or they head the first of its kind.

    `warm_up` tells it from the host times of the first decode of each process. Steps outside of all stages are steady.
    """
    ranges, stages, owner = a.trace.ranges, a.stage_ranges, a.stage_of_step
    of_range = np.append(np.zeros(len(ranges), np.bool_), True)
    of_range[stages] = steady_stages(a)
    steady = of_range[owner]
    duration = ranges.end[a.step_ranges] - ranges.start[a.step_ranges]
    firsts = set(stages[at.group_rows(process_of(ranges.thread[stages]), a.stage_of_range[stages])[0]].tolist())
    for stage, mine in at.each(owner):
        if stage in firsts:
            steady[mine[: warm_up(duration[mine].astype(np.float64))]] = False
    return steady


# -- outliers ------------------------------------------------------------------------------------------------


def outliers(group: Ints, values: Ints, considered: Bools) -> tuple[Bools, Floats]:
    """Which values are far above the usual of their group, and each in multiples of its group's median.

    Far: by the modified z-score (see `_Z`), and more than `NOTABLE` times the median, so that in a very regular
    series a trifle is none; and where the median is not above 0 there is none, as all have no multiple of it. Median
    and deviations are those of the values `considered`, and only those can be outliers; NaN where a group has none of
    them, or no multiple.
    """
    groups = int(group.max(initial=-1)) + 1
    usual, spread = np.full(groups, np.nan), np.full(groups, np.nan)
    found = describe(group[considered], values[considered])
    usual[found.group] = found.med
    away = 2 * values - (2 * usual)[group]  # the median of an even number ends in a half
    inside = np.abs(away[considered]).astype(np.int64)
    found = describe(group[considered], inside)
    spread[found.group] = found.med
    center = usual[group]
    far = (_Z * away > _Z_LIMIT * spread[group]) & (values > NOTABLE * center) & (center > 0) & considered
    ratio = np.divide(values, center, out=np.full(len(values), np.nan), where=center > 0)
    return far, ratio


def step_outliers(a: Attributed, steady: Bools) -> tuple[Bools, Floats]:
    """Of `step_ranges`: which are `outliers` among the steady steps of their decode, by their time on the host."""
    ranges, rows = a.trace.ranges, a.step_ranges
    group = np.unique(a.stage_of_step, return_inverse=True)[1].reshape(-1)
    return outliers(group, ranges.end[rows] - ranges.start[rows], steady)
