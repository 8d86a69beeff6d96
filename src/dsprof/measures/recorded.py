"""What a replay needs of a recording: in stretches of a stage, the calls that launch or wait, and what they launched.

::

    stretch    | step 1            | step 2            |         one decode's steps in a row, or one prefill
    calls        L  L   L  W          L  L   L  W                L launches, W waits for the GPU
    operations    ===  ==  ====        ===  ==  ====

Of a stage that has more units (steps, or instances where it has no steps) than `MOST`, stretches are taken that lie
evenly among all.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints
from dsprof.attribute.launches import Launches
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.facts import Measure
from dsprof.records import frozen
from dsprof.trace import GRAPH_LAUNCHES, SYNCHRONIZING

T = TypeVar("T", "RecordedCalls", "RecordedOps")
#: Steps of a stretch, and units of a stage, that are replayed at most.
LONGEST, MOST = 256, 1 << 10
#: Calls that make a stream wait for what another recorded, as their names begin.
_STREAM_WAITS = ("cudaStreamWaitEvent", "cuStreamWaitEvent")
#: Calls that copy and return when that is done, whatever memory it is.
_COPY_AND_WAIT = ("cudaMemcpy_v", "cudaMemcpy2D_v", "cuMemcpyHtoD_v", "cuMemcpyDtoH_v", "cuMemcpy_v")
_FREED = ("cudaFree_v", "cuMemFree_v")
#: What a call may be beside one that launches, a bit each.
WAITS, STREAM_WAIT, COPIES, GRAPH, FREES = 1, 2, 4, 8, 16
#: What an operation may be beside a kernel, a bit each.
TO_HOST, TO_DEVICE, PAGEABLE = 1, 2, 4
_TO_DEVICE, _TO_HOST = 1, 2


@frozen(eq=False)
class Stretches:
    """Stretches of a thread's time, whose parts are `units`: by start, those of all stages.

    `stage`: row of the stage in `StageRanges.rows`; `first`, `last`: of the units of each, from and to before.
    `unit_start`: when each unit begins; `unit_row`: its row in `StageRanges.steps`, -1 where it is the stage itself.
    """

    stage: Ints
    scope: Ints
    start: Ints
    end: Ints
    first: Ints
    last: Ints
    unit_start: Ints
    unit_row: Ints

    @classmethod
    def of(cls, tree: RangeTree, staged: StageRanges, kind: type[Recorded]) -> Self:
        """Stretches of about so many units of each stage as `kind` says; the same for all parts of a report."""
        made = _MADE.setdefault(staged, {})
        if kind not in made:
            made[kind] = cls._of(tree, staged, kind.MOST, kind.WHOLE)
        found: Self = made[kind]
        return found

    @classmethod
    def _of(cls, tree: RangeTree, staged: StageRanges, most: int, whole: bool) -> Self:
        ranges = staged.lasting.ranges
        steps = np.flatnonzero(staged.of_step >= 0)
        steps = steps[np.lexsort((ranges.start[staged.steps[steps]], staged.row[staged.of_step[steps]]))]
        of_stage = staged.row[staged.of_step[steps]]
        place = np.arange(len(steps)) - np.searchsorted(of_stage, of_stage)
        longest = max(min(LONGEST, most // 8), 1)
        alone = np.flatnonzero((staged.step_count == 0) & whole)
        stage = np.concatenate([of_stage, alone])
        row = np.concatenate([steps, np.full(len(alone), -1)])
        part = np.concatenate([place // longest, np.zeros(len(alone), np.int64)])
        heads = np.flatnonzero(np.append(True, (stage[1:] != stage[:-1]) | (part[1:] != part[:-1]))[: len(stage)])
        last = np.append(heads[1:], len(stage))[: len(heads)]
        kept = _evenly(staged.code[stage[heads]], last - heads, most)
        heads, last = heads[kept], last[kept]
        unit = at.explode(heads, last)[1]
        of_unit = np.where(row >= 0, np.append(staged.steps, 0)[row], staged.rows[stage])
        size = np.cumsum(last - heads, dtype=np.int64)
        return cls(
            stage=stage[heads],
            scope=tree.of_thread[staged.rows[stage[heads]]],
            start=ranges.start[of_unit[heads]],
            end=ranges.end[of_unit[last - 1]],
            first=size - last + heads,
            last=size,
            unit_start=ranges.start[of_unit[unit]],
            unit_row=row[unit],
        )

    def __len__(self) -> int:
        return len(self.stage)


#: The stretches of reports that are worked on, by what they are for.
_MADE: WeakKeyDictionary[StageRanges, dict[type, Any]] = WeakKeyDictionary()


def _evenly(stage: Ints, units: Ints, most: int) -> Ints:
    """Stretches that lie evenly among those of their stage and have no more than about so many units."""
    kept = []
    for _, same in at.each(stage):
        total = int(units[same].sum())
        number = len(same) if total <= most else max(most * len(same) // total, 1)
        kept.append(same[np.arange(number) * len(same) // number])
    return np.sort(np.concatenate([np.zeros(0, np.int64), *kept]))


class RecordedCalls(NamedTuple):
    """Calls on the host, by stretch and start; `kind` as `WAITS` and its like say it."""

    stretch: Ints
    start: Ints
    end: Ints
    kind: Ints


class RecordedOps(NamedTuple):
    """Operations, by stretch, start of their call (`called`), and start.

    `before`: the end of what ran before it on its stream, if that was still running when it was launched, else NULL;
    `name`: code of a kernel's name, -1 and less for what `trace.operation_names` calls a copy or a set.
    """

    stretch: Ints
    called: Ints
    start: Ints
    end: Ints
    stream: Ints
    device: Ints
    process: Ints
    before: Ints
    name: Ints
    kind: Ints
    bytes: Ints


@frozen(eq=False)
class Recorded(Measure):
    """Calls and operations of the stretches of a report (see the module).

    `MOST` units of a stage; `WHOLE`: also of those that have no steps, whose units are long.
    """

    calls: RecordedCalls
    ops: RecordedOps
    MOST: ClassVar[int] = MOST
    WHOLE: ClassVar[bool] = True

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        stretches = Stretches.of(launches.tree, launches.stages, cls)
        calls, called = _calls_of(launches, stretches)
        return cls(calls, _ops_of(launches, stretches, called))

    def merge(self, other: Self) -> Self:
        """Both together; they are of one report."""
        calls = RecordedCalls(*map(np.concatenate, zip(self.calls, other.calls, strict=True)))
        ops = RecordedOps(*map(np.concatenate, zip(self.ops, other.ops, strict=True)))
        return type(self)(_sorted(calls, calls.stretch, calls.start), _sorted(ops, ops.stretch, ops.called, ops.start))

    @cached_property
    def streams(self) -> Ints:
        """Which stream each operation ran on, numbered from 0."""
        return at.group_rows(self.ops.process, self.ops.device, self.ops.stream)[1]


@frozen(eq=False)
class RecordedSample(Recorded):
    """The same of a few steps, which every analysis can afford."""

    MOST: ClassVar[int] = 16
    WHOLE: ClassVar[bool] = False


def _sorted(rows: T, *by: Ints) -> T:
    order = np.lexsort(by[::-1])
    return type(rows)(*(column[order] for column in rows))


def _kinds(launches: Launches) -> Ints:
    """What each API call may be beside one that launches."""
    trace = launches.trace
    kind = np.zeros(len(trace.names), np.int64)
    for names, bit in (
        (SYNCHRONIZING, WAITS),
        (_FREED, WAITS | FREES),
        (_STREAM_WAITS, STREAM_WAIT),
        (GRAPH_LAUNCHES, GRAPH),
    ):
        kind |= np.where(trace.named(*names), bit, 0)
    kind |= np.where(trace.named(*_COPY_AND_WAIT), WAITS | COPIES, 0)
    of_call = kind[trace.calls.name]
    pageable = np.flatnonzero(_memory_kinds(launches) & PAGEABLE)
    call = launches.call_of_op[len(trace.kernels) + pageable]
    of_call[call[call >= 0]] |= WAITS | COPIES
    return of_call


def _memory_kinds(launches: Launches) -> Ints:
    """What each memory operation is."""
    memops = launches.trace.memops
    bits = ((memops.kind == _TO_HOST, TO_HOST), (memops.kind == _TO_DEVICE, TO_DEVICE), (memops.pageable, PAGEABLE))
    kind: Ints = sum(np.where(which, bit, 0) for which, bit in bits) + np.zeros(len(memops), np.int64)
    return kind


def _calls_of(launches: Launches, stretches: Stretches) -> tuple[RecordedCalls, Ints]:
    """The calls of the stretches that this part counts; and when the outermost call around each call of it began."""
    trace, calls = launches.trace, launches.trace.calls
    kind, by_start = _kinds(launches), at.in_order(calls.start)
    begun = calls.start[by_start]
    low, high = (np.searchsorted(begun, edge) for edge in (stretches.start, stretches.end))
    stretch, place = at.explode(low, np.maximum(low, high))
    call = by_start[place]
    scope = launches.tree.place_of(calls.thread[call]).thread
    chosen = (scope == stretches.scope[stretch]) & (launches.call_has_op[call] | (kind[call] > 0))
    stretch, call = stretch[chosen], call[chosen]
    order = np.lexsort((-calls.end[call], calls.start[call], stretch))
    stretch, call = stretch[order], call[order]
    outer = _outermost(stretch, calls.start[call], calls.end[call], len(stretches))
    called = np.full(len(calls), NULL)
    called[call] = calls.start[call[outer]]
    heads = np.flatnonzero(outer == np.arange(len(outer)))
    merged = np.bitwise_or.reduceat(kind[call], heads) if len(heads) else heads
    own = np.flatnonzero(call[heads] >= trace.part.calls)
    first = call[heads[own]]
    return RecordedCalls(stretch[heads[own]], calls.start[first], calls.end[first], merged[own]), called


def _outermost(stretch: Ints, start: Ints, end: Ints, stretches: int) -> Ints:
    """Of calls by stretch and start, for each the place of the outermost call that it is in, its own as a rule."""
    keys = at.Keys(stretches, start, end)
    reach = np.maximum.accumulate(keys.pack(stretch, end))
    inside = np.append(False, keys.pack(stretch, start)[1:] < reach[:-1])[: len(start)]
    return np.maximum.accumulate(np.where(inside, 0, np.arange(len(start))))


def _ops_of(launches: Launches, stretches: Stretches, called: Ints) -> RecordedOps:
    """The operations of the stretches that this part counts; `called`: when each call's outermost call began."""
    trace, ops = launches.trace, launches.trace.operations
    order = launches.thread_order
    before = _before(launches)
    keys = at.Keys(len(launches.tree.threads) + 1, order.launch, stretches.start, stretches.end)
    low, high = at.slices(
        keys.pack(order.number, order.launch),
        keys.pack(stretches.scope, stretches.start),
        keys.pack(stretches.scope, stretches.end),
    )
    stretch, place = at.explode(low, high)
    op = order.op[place]
    mine = _own(launches)[op]
    stretch, op = stretch[mine], op[mine]
    kernels = len(trace.kernels)
    name = np.concatenate([trace.kernels.name.astype(np.int64), -2 - trace.memops.kind])
    kind = np.concatenate([np.zeros(kernels, np.int64), _memory_kinds(launches)])
    size = np.concatenate([np.zeros(kernels, np.int64), trace.memops.bytes])
    found = RecordedOps(
        stretch, called[launches.call_of_op[op]], ops.start[op], ops.end[op], ops.stream[op], ops.device[op],
        ops.process[op], before[op], name[op], kind[op], size[op],
    )  # fmt: skip
    return _sorted(found, found.stretch, found.called, found.start)


def _own(launches: Launches) -> Bools:
    own = np.zeros(len(launches.trace.operations), np.bool_)
    own[launches.trace.own_ops] = True
    return own


def _before(launches: Launches) -> Ints:
    """When what ran before each operation on its stream ended, if that was after its launch; else NULL."""
    ops, calls = launches.trace.operations, launches.trace.calls
    heads, stream = at.group_rows(ops.process, ops.device, ops.stream)
    order = launches.op_order[at.by_number(stream[launches.op_order], len(heads))]
    before = np.full(len(ops), NULL)
    same = stream[order[1:]] == stream[order[:-1]]
    before[order[1:]] = np.where(same, ops.end[order[:-1]], NULL)
    launched = launches.of_op(calls.start, missing=np.iinfo(np.int64).max)
    return np.where(before > launched, before, NULL)
