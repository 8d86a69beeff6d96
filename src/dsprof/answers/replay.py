r"""A recording as a program that can be run again: what the host does, what it launches, and what each waits for.

::

    host      | gap | call |  gap  | call | gap | wait ......|
    stream          \..latency..[ operation ].gap.[ operation ]
                                                              |  the wait returns a little after what it waited for

A call takes its own time. An operation begins its latency after its call did, and its gap after what ran before it on
its stream or what its stream was told to wait for, whichever is later. A call that waits returns its own time after it
began, and its return after the last of what it waited for ended, whichever is later. Which of the two it was in the
recording is told by the usual latency, gap and return of the report; of the one it was, the recorded value is taken, up
to `FAR` times the usual one, and of the other the usual one. What is longer is not explained by this model, and is
missing when the program is run again without a change: the residual says how much that is.
"""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from typing import Self, TypeVar

import numpy as np

from dsprof import arrays as at
from dsprof.answers.collectives import MatchedCollectives
from dsprof.answers.stages import Stages
from dsprof.answers.steps import Steps
from dsprof.arrays import NULL, Bools, Ints
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.measures.recorded import (
    COPIES,
    GRAPH,
    STREAM_WAIT,
    WAITS,
    Recorded,
    RecordedOps,
    RecordedSample,
    Stretches,
)
from dsprof.records import frozen

#: What is longer than so many times the usual is not explained by what the model knows.
FAR = 8
#: Where a report has none to go by: the usual latency, gap, return and own time of a call that waits, in ns.
_LATENCY, _GAP, _RETURN, _OWN = 5_000, 1_000, 5_000, 2_000
#: Launches that a stream holds back at least when its queue is full, so that the next one waits.
_QUEUE = 512
#: None such, in a column of places; and, of units, the end of a stretch.
NEVER, END = -1, -2


@frozen(eq=False)
class Program:
    """What is run again, as columns of the host's events and of the operations, both in the order of the host.

    Events: `gap` is the host's time before each, `own` its own time, `back` how long after what it waits for it
    returns; `first` the place of its first operation, one more for the end; `wait_first` that of its first in `waits`,
    which are places of operations, one more for the end; `unit` is 0 where a unit begins, `NEVER` for a call, `END` for
    the end of a stretch; `kind` as in `RecordedCalls`.
    Operations: `latency` after the begin of their call, `queue` after the end of what they follow (the operations at
    `before` and `other`, `NEVER` for none, and the moment `busy_until` of their stretch), `length`.
    """

    gap: Ints
    own: Ints
    back: Ints
    first: Ints
    wait_first: Ints
    waits: Ints
    unit: Ints
    kind: Ints
    latency: Ints
    queue: Ints
    length: Ints
    before: Ints
    other: Ints
    busy_until: Ints

    def run(self) -> Ints:
        """How long each unit takes, in ns: to the next one of its stretch, the last until the GPU is done as well."""
        return np.array(_run(self), np.int64)


def _run(program: Program) -> list[int]:
    """One event after another, in Python's own integers, which are quicker here than numpy's."""
    more = (program.other >= 0) | (program.busy_until >= 0)
    columns = (program.latency, program.queue, program.length, program.before, more, program.other, program.busy_until)
    ops, waits = zip(*(column.tolist() for column in columns), strict=True), iter(program.waits.tolist())
    counts = (np.diff(program.first), np.diff(program.wait_first))
    host = (program.gap, program.own, program.back, *counts, program.unit)
    ends, took = [NEVER] * (len(more) + 1), list[int]()  # the end of each operation, and behind them that of none
    now = begun = op = first = 0
    inside = False
    for gap, own, back, launched, waited, unit in zip(*(column.tolist() for column in host), strict=True):
        call = now + gap
        now = call + own
        for latency, queue, length, before, has_more, other, busy in islice(ops, launched):
            free = (max(ends[before], ends[other], busy) if has_more else ends[before]) + queue
            start = call + latency
            ends[op] = (start if start > free else free) + length
            op += 1
        for target in islice(waits, waited) if waited else ():
            now = max(now, ends[target] + back)
        if unit != NEVER:
            now = max([now, *ends[first:op]]) if unit == END else now
            if inside:
                took.append(now - begun)
            inside, begun = unit != END, now
            now, first = (now, first) if inside else (0, op)
    return took


@frozen(eq=False)
class Replay:
    """The stretches of a report as a program, and what is known of its operations and units.

    `recorded`: how long each unit took, in ns, as `Program.run` counts it; `stage`: code of the stage of each;
    `steady`: False for a warm-up; `event_stage`: code of the stage of each event. `ops`: the recorded operations, in
    the order of those of the program; `wait`: of each, how long it waited for other ranks.
    """

    program: Program
    ops: RecordedOps
    recorded: Ints
    stage: Ints
    steady: Bools
    has_steps: Bools
    event_stage: Ints
    usual: Usual
    wait: Ints

    @classmethod
    def take(
        cls,
        recorded: Recorded,
        tree: RangeTree,
        staged: StageRanges,
        stages: Stages,
        steps: Steps,
        matched: MatchedCollectives,
    ) -> Self:
        """Of a report."""
        stretches = Stretches.of(tree, staged, type(recorded))
        events = _Events.of(recorded, stretches)
        program, usual = events.program()
        stretch = np.repeat(np.arange(len(stretches)), stretches.last - stretches.first)
        stage, is_step = stretches.stage[stretch], stretches.unit_row >= 0
        steady = stages.steady[stage] & np.where(is_step, np.append(steps.steady, True)[stretches.unit_row], True)
        of_event = staged.code[stretches.stage][events.stretch]
        wait = _waits_of(events.ops, matched)
        return cls(program, events.ops, events.recorded(), staged.code[stage], steady, is_step, of_event, usual, wait)

    @cached_property
    def replayed(self) -> Ints:
        """How long each unit takes when the program is run without a change, in ns."""
        return self.program.run()


@frozen(eq=False)
class SampleReplay:
    """The same of a few steps, which every analysis can afford."""

    replay: Replay

    @classmethod
    def take(
        cls,
        recorded: RecordedSample,
        tree: RangeTree,
        staged: StageRanges,
        stages: Stages,
        steps: Steps,
        matched: MatchedCollectives,
    ) -> Self:
        """Of a report."""
        return cls(Replay.take(recorded, tree, staged, stages, steps, matched))


def _waits_of(ops: RecordedOps, matched: MatchedCollectives) -> Ints:
    """How long each operation waited for other ranks; 0 for what is no collective, or has no match."""
    keys, columns = ("process", "device", "stream", "start", "end"), matched.columns
    of = {"start": "own_start", "end": "own_end"}
    group = at.group_rows(*(np.append(getattr(ops, key), columns[of.get(key, key)]) for key in keys))[1]
    of_op, of_collective = np.split(group, [len(ops.start)])
    wait = np.zeros(int(group.max(initial=-1)) + 1, np.int64)
    wait[of_collective] = np.maximum(columns["wait"], 0)  # NULL without a match
    return wait[of_op]


@frozen
class Usual:
    """What is usual in a report, in ns: `latency` of operations launched one by one.

    `launch` and `graph_launch` are the host's time in one such call, `graph_latency` that until a graph's first
    operation begins; None where the report has none.
    """

    latency: int
    launch: int | None
    graph_launch: int | None
    graph_latency: int | None


@frozen(eq=False)
class _Events:
    """Calls, begins of units and ends of stretches, in the order of the host; and the operations, linked to them."""

    stretch: Ints
    start: Ints
    end: Ints
    kind: Ints
    unit: Ints
    origin: Ints
    ops: RecordedOps
    event: Ints
    streams: Ints

    @classmethod
    def of(cls, recorded: Recorded, stretches: Stretches) -> Self:
        """Of the calls and operations of the stretches; of operations only those whose call is there."""
        calls, every = recorded.calls, np.arange(len(stretches))
        units = np.repeat(every, stretches.last - stretches.first)
        order_of = np.concatenate(
            [np.full(len(calls.start), 1), np.zeros(len(units), np.int64), np.full(len(every), 2)]
        )
        stretch = np.concatenate([calls.stretch, units, every])
        start = np.concatenate([calls.start, stretches.unit_start, stretches.end])
        end = np.concatenate([calls.end, stretches.unit_start, stretches.end])
        nothing = np.zeros(len(units) + len(every), np.int64)
        kind = np.concatenate([calls.kind, nothing])
        unit = np.concatenate([np.full(len(calls.start), NEVER), np.arange(len(units)), np.full(len(every), END)])
        last = order_of == 2
        order = np.lexsort((order_of, start, last, stretch))
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        keys = at.Keys(len(every), calls.start, recorded.ops.called)
        known = keys.pack(calls.stretch, calls.start)
        wanted = keys.pack(recorded.ops.stretch, recorded.ops.called)
        found = np.minimum(np.searchsorted(known, wanted), max(len(known) - 1, 0))
        linked = np.flatnonzero(known[found] == wanted) if len(known) else found[:0]
        ops = RecordedOps(*(column[linked] for column in recorded.ops))
        return cls(
            stretch[order], start[order], end[order], kind[order], unit[order], stretches.start[stretch[order]],
            ops, place[found[linked]], recorded.streams[linked],
        )  # fmt: skip

    # -- as it was --------------------------------------------------------------------------------------

    def recorded(self) -> Ints:
        """How long each unit took: to the next one, the last of a stretch until the GPU is done as well."""
        marks = np.flatnonzero(self.unit != NEVER)
        time = self.start[marks].copy()
        ends = np.flatnonzero(self.unit[marks] == END)
        done = np.full(int(self.stretch.max(initial=-1)) + 1, NULL)
        np.maximum.at(done, self.ops.stretch, self.ops.end)
        time[ends] = np.maximum(time[ends], done[self.stretch[marks[ends]]])
        took = np.diff(time, append=0)
        kept: Ints = np.delete(took, ends)
        return kept

    @cached_property
    def _keys(self) -> at.Keys:
        """Keys of times in stretches, one behind the other."""
        return at.Keys(int(self.stretch.max(initial=-1)) + 1, self.ops.end, self.end)

    @cached_property
    def _gap(self) -> Ints:
        """The host's time before each event: from the end of all before it, or from the begin of its stretch."""
        key = self._keys.pack(self.stretch, self.end)
        latest = np.maximum.accumulate(np.where(key == np.maximum.accumulate(key), np.arange(len(key)), 0))
        before = np.append(0, latest[:-1])[: len(latest)]
        inside = (self.stretch[before] == self.stretch) & (before < np.arange(len(key)))
        since = np.where(inside, np.maximum(self.end[before], self.origin), self.origin)
        gap: Ints = np.maximum(self.start - since, 0)
        return gap

    # -- what follows what ------------------------------------------------------------------------------

    @cached_property
    def _streams(self) -> list[tuple[Ints, Ints]]:
        """The operations of each stream in the order of their launches, and the event of each."""
        return [(rows, self.event[rows]) for _, rows in at.each(self.streams)]

    @cached_property
    def before(self) -> Ints:
        """What ran before each operation on its stream, of its stretch; `NEVER` for none."""
        found = np.full(len(self.event), NEVER)
        for rows, _ in self._streams:
            same = self.ops.stretch[rows[1:]] == self.ops.stretch[rows[:-1]]
            found[rows[1:]] = np.where(same, rows[:-1], NEVER)
        return found

    def _last_before(self, event: Ints, of: tuple[Ints, Ints], itself: bool) -> Ints:
        """The last operation of a stream that was launched before some events, or by them; `NEVER` for none."""
        rows, events = of
        place = np.searchsorted(events, event, side="right" if itself else "left") - 1
        row = np.where(place >= 0, rows[np.maximum(place, 0)], NEVER)
        return np.where((row >= 0) & (self.ops.stretch[row] == self.stretch[event]), row, NEVER)

    def others(self) -> Ints:
        """What each operation's stream was told to wait for: the last launch on another before it was told so.

        Where that ended only after the operation began, it was something else, which is not known: `NEVER`.
        """
        found = np.full(len(self.event), NEVER)
        told = np.flatnonzero(self.kind & STREAM_WAIT)
        if not len(told) or len(self._streams) < 2:
            return found
        for number, (rows, events) in enumerate(self._streams):
            last = np.searchsorted(told, events) - 1
            wait = told[np.maximum(last, 0)]
            previous = np.append(-1, events[:-1])
            asked = (last >= 0) & (wait > previous) & (self.stretch[wait] == self.stretch[events])
            for other, of in enumerate(self._streams):
                if other == number:
                    continue
                row = self._last_before(wait, of, itself=False)
                fits = asked & (row >= 0) & (self.ops.end[row] <= self.ops.start[rows])
                later = fits & ((found[rows] < 0) | (self.event[row] > self.event[found[rows]]))
                found[rows] = np.where(later, row, found[rows])
        return found

    def waits(self) -> tuple[Ints, Ints]:
        """Pairs of an event and an operation whose end it waited for: on each stream the last one launched before it.

        Where that had not ended when the call returned, the call did not wait for it; then, on the stream on which
        something ended last before its return, it is that which it waited for.
        """
        event = np.flatnonzero((self.kind & WAITS > 0) | self._held_back())
        columns, pending = [], []
        for of in self._streams:
            row = self._last_before(event, of, itself=True)
            ended = self._last_ended(event, of)
            there = row >= 0
            whole = there & (self.ops.end[row] <= self.end[event])
            late = there & ~whole & (ended >= 0) & (self.ops.end[ended] > self.start[event])
            columns.append(np.where(whole, row, NEVER))
            pending.append(np.where(late, ended, NEVER))
        if not columns:
            return event[:0], event[:0]
        found, early = np.stack(columns, axis=1), np.stack(pending, axis=1)
        none = (np.where(found >= 0, self.ops.end[found], NULL) <= self.start[event][:, None]).all(axis=1)
        latest = np.where(early >= 0, self.ops.end[early], NULL).argmax(axis=1)
        instead = early[np.arange(len(event)), latest]
        use = none & (instead >= 0)
        found[use, latest[use]] = instead[use]
        pair, stream = np.nonzero(found >= 0)
        return event[pair], found[pair, stream]

    def _last_ended(self, event: Ints, of: tuple[Ints, Ints]) -> Ints:
        """The last operation of a stream that was launched before some events and ended before they returned."""
        rows, events = of
        ends = np.maximum.accumulate(self._keys.pack(self.stretch[events], self.ops.end[rows]))
        moment = self._keys.pack(self.stretch[event], self.end[event])
        place = (
            np.minimum(np.searchsorted(ends, moment, side="right"), np.searchsorted(events, event, side="right")) - 1
        )
        row = np.where(place >= 0, rows[np.maximum(place, 0)], NEVER)
        return np.where((row >= 0) & (self.ops.stretch[row] == self.stretch[event]), row, NEVER)

    def _held_back(self) -> Bools:
        """The launches that took long because so many others were waiting on their stream."""
        found = np.zeros(len(self.start), np.bool_)
        took = self.end - self.start
        launches = np.zeros(len(found), np.bool_)
        launches[self.event] = True
        launches &= self.kind & (WAITS | COPIES) == 0
        if not launches.any():
            return found
        long = launches & (took > FAR * max(int(np.median(took[launches])), 1))
        for of in self._streams:
            rows, events = of
            mine = at.distinct_in_any_order(events[long[events]])
            ended, last = self._last_ended(mine, of), self._last_before(mine, of, itself=True)
            place = np.empty(len(self.event), np.int64)
            place[rows] = np.arange(len(rows))
            found[mine[(ended >= 0) & (last >= 0) & (place[last] - place[ended] >= _QUEUE)]] = True
        return found

    # -- as a program -----------------------------------------------------------------------------------

    def program(self) -> tuple[Program, Usual]:
        """The program, and what is usual in it."""
        ops, event = self.ops, self.event
        before, other = self.before, self.others()
        outside = np.where((ops.before != NULL) & (ops.before != np.append(ops.end, NULL)[before]), ops.before, NULL)
        free = np.maximum.reduce([np.append(ops.end, NULL)[before], np.append(ops.end, NULL)[other], outside])
        called, length = ops.called, ops.end - ops.start
        after, behind = ops.start - called, np.where(free != NULL, ops.start - free, 0)
        in_graph = self.kind[event] & GRAPH > 0
        first_of_call = np.append(True, event[1:] != event[:-1])[: len(event)]
        alone = first_of_call & (free <= called)
        latency = np.where(
            in_graph, _usual(after[alone & in_graph], 2 * _LATENCY), _usual(after[alone & ~in_graph], _LATENCY)
        )
        queued = (free != NULL) & (free > called + latency)
        gap = np.maximum(
            np.where(in_graph, _usual(behind[queued & in_graph], _GAP), _usual(behind[queued & ~in_graph], _GAP)), 1
        )
        follows = (free != NULL) & (free + gap >= called + latency)
        staged = self.kind[event] & COPIES > 0  # what is copied first comes to a buffer of the driver's, by the call
        own_latency = np.where(staged, after, np.minimum(after, FAR * latency))
        waiting, target = self.waits()
        own, back = self._host(waiting, target)
        launches = np.zeros(len(self.start), np.bool_)
        launches[event] = True
        plain = launches & (self.kind & (WAITS | COPIES | GRAPH) == 0)
        took = self.end - self.start
        usual = Usual(
            latency=_usual(after[alone & ~in_graph], _LATENCY),
            launch=_usual(took[plain], None),
            graph_launch=_usual(took[launches & (self.kind & GRAPH > 0)], None),
            graph_latency=_usual(after[alone & in_graph], None),
        )
        program = Program(
            gap=self._gap,
            own=own,
            back=back,
            first=np.searchsorted(event, np.arange(len(self.start) + 1)),
            wait_first=np.searchsorted(waiting, np.arange(len(self.start) + 1)),
            waits=target,
            unit=np.where(self.unit >= 0, 0, self.unit),
            kind=self.kind,
            latency=np.where(follows, np.minimum(latency, after), own_latency),
            queue=np.where(follows, np.minimum(behind, FAR * gap), np.minimum(gap, behind)),
            length=length,
            before=before,
            other=other,
            busy_until=np.where(outside != NULL, outside - self.origin[event], NEVER),
        )
        return program, usual

    def _host(self, waiting: Ints, target: Ints) -> tuple[Ints, Ints]:
        """The own time and the return of each event."""
        took = self.end - self.start
        until = np.full(len(self.start), NULL)
        np.maximum.at(until, waiting, self.ops.end[target])
        can, copies = self.kind & WAITS > 0, self.kind & COPIES > 0
        ended = until <= self.start  # or there was nothing to wait for
        returned = np.where(until != NULL, self.end - until, 0)
        own_usual = _usual(took[can & ended & ~copies], _OWN)
        back_usual = _usual(returned[~ended & ~copies], _RETURN)
        waited = (until != NULL) & (until + back_usual >= self.start + own_usual)
        most = np.where(copies, returned, np.minimum(returned, FAR * back_usual))
        back = np.where(waited, most, np.minimum(back_usual, returned))
        own = np.where(waited, np.minimum(own_usual, took), took)
        return own, back


D = TypeVar("D", int, None)


def _usual(values: Ints, default: D) -> int | D:
    """The median, the lower of two."""
    return int(np.sort(values)[(len(values) - 1) // 2]) if len(values) else default
