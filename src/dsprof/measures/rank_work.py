"""What GPUs did beside collectives, so that what collectives took is told apart once they are matched.

How much of a collective is transfer and how much is waiting, only the other ranks say, so a part of a report cannot
paint it. It says instead what else covers its time; what is left to the collective is then cut in two::

    collective    |~~~~~~~~ waiting ~~~~~~~~|== transfer ==|
    other work        |#####|           |#######|
    hidden            |-----|           |-------|               what `Hidden` keeps, which is mostly nothing
    busy          |~~~|#####|~~~~~~~~~~~|#######|==========|    compute and others first, then transfer, then waiting
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from attrs import evolve

from dsprof import arrays as at
from dsprof.arrays import Bools, Ints
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.measures.by_name import Words, united
from dsprof.measures.collectives import communicates
from dsprof.measures.totals import StageTotals, add_columns, step_of_call
from dsprof.records import frozen
from dsprof.rules.families import FamilyCodes


@frozen(eq=False)
class OpsOfRanks:
    """The operations of a part: which are collectives, and when they run in the part's time."""

    communicates: Bools
    is_kernel: Bools
    start: Ints
    end: Ints

    @classmethod
    def take(cls, launches: Launches, families: FamilyCodes) -> Self:
        """Of a part of a report."""
        trace = launches.trace
        ops, kernels = trace.operations, np.zeros(len(trace.operations), np.bool_)
        kernels[: ops.kernels] = True
        chosen = np.append(communicates(launches, families), np.zeros(len(trace.memops), np.bool_))
        return cls(chosen, kernels, trace.clip(ops.start), trace.clip(ops.end))

    def covered(self, group: Ints, which: Bools, groups: int) -> Ints:
        """How much the union of some operations covers in each group."""
        rows = np.flatnonzero(which)
        return at.union_length(group[rows], self.start[rows], self.end[rows], groups)


@frozen(eq=False)
class Hidden:
    """Where collectives of a group and other operations of it run at once: disjoint pieces of time, by group."""

    group: Ints
    start: Ints
    end: Ints

    @classmethod
    def of(cls, ops: OpsOfRanks, group: Ints, groups: int, others: Ints, busy: Ints) -> Self:
        """Of a part; `others`, `busy`: how much the operations but for collectives, and all, cover in each group."""
        nothing = np.zeros(0, np.int64)
        if not ops.communicates.any():
            return cls(nothing, nothing, nothing)
        some = ops.covered(group, ops.communicates, groups) + others > busy
        rows = np.flatnonzero(some[group])
        if not len(rows):
            return cls(nothing, nothing, nothing)
        moments = at.distinct_in_any_order(np.append(ops.start[rows], ops.end[rows]))
        size, chosen = len(moments), ops.communicates[rows]
        begin, finish = (group[rows] * size + np.searchsorted(moments, edge[rows]) for edge in (ops.start, ops.end))
        collectives, work = (at.united(begin[which], finish[which]) for which in (chosen, ~chosen))
        start, end = at.common(collectives, work)
        return cls(start // size, moments[start % size], moments[end % size])

    def and_(self, other: Hidden) -> Hidden:
        """Those of two parts."""
        edges = ((self.group, other.group), (self.start, other.start), (self.end, other.end))
        return Hidden(*map(np.concatenate, edges))


@frozen(eq=False)
class RankWork(Measure):
    """What each rank did in each stage: a row for each stage, process and device.

    `columns`: `stage` (place in `stages`), `process`, `device`; `compute_ns`, covered by kernels that do not
    communicate, `other_ns`, by copies and sets beside them, `busy_ns`, by anything; `launches`. `hidden`: `stage`,
    `process`, `device`, `start`, `end` of each piece of `Hidden`.
    """

    stages: Words
    columns: dict[str, Ints]
    hidden: dict[str, Ints]

    @classmethod
    def take(cls, launches: Launches, ops: OpsOfRanks) -> Self:
        """Of a part of a report."""
        every, stage = launches.trace.operations, launches.stages.code_of(launches.stage_range_of_op)
        heads, group = at.group_rows(stage, every.process, every.device)
        groups = len(heads)
        compute = ops.covered(group, ops.is_kernel & ~ops.communicates, groups)
        others = ops.covered(group, ~ops.communicates, groups)
        busy = ops.covered(group, np.ones(len(group), np.bool_), groups) if ops.communicates.any() else others
        hidden = Hidden.of(ops, group, groups, others, busy)
        keys = {"stage": stage, "process": every.process, "device": every.device}
        of_call = np.full(len(launches.trace.calls), -1)
        called = np.flatnonzero(launches.call_of_op >= 0)
        of_call[launches.call_of_op[called]] = group[called]
        own = of_call[launches.trace.own_calls]
        columns = {name: values[heads] for name, values in keys.items()}
        columns |= {"compute_ns": compute, "other_ns": others - compute, "busy_ns": busy,
                    "launches": count_by(own[own >= 0], groups)}  # fmt: skip
        pieces = {name: values[heads][hidden.group] for name, values in keys.items()}
        return cls(launches.stages.names, columns, {**pieces, "start": hidden.start, "end": hidden.end})

    def merge(self, other: Self) -> Self:
        """Both together."""
        stages, codes = united(self.stages, other.stages, last=1)
        both, hidden = (
            {name: np.concatenate([one[name], two[name]]) for name in one}
            for one, two in zip(
                *(each._coded(code) for each, code in zip((self, other), codes, strict=True)), strict=True
            )
        )
        heads, group = at.group_rows(both["stage"], both["process"], both["device"])
        columns = {
            name: values[heads] if name in ("stage", "process", "device") else sum_by(group, values, len(heads))
            for name, values in both.items()
        }
        return evolve(self, stages=stages, columns=columns, hidden=hidden)

    def _coded(self, stage: Ints) -> tuple[dict[str, Ints], dict[str, Ints]]:
        """Columns and pieces with other numbers for stages."""
        one, two = ({**columns, "stage": stage[columns["stage"]]} for columns in (self.columns, self.hidden))
        return one, two


@frozen(eq=False)
class StageWork(Measure):
    """The same of each of `StageRanges.rows`, the last row of what is in none; whatever the device."""

    compute_ns: Ints
    other_ns: Ints
    hidden: Hidden

    @classmethod
    def take(cls, launches: Launches, ops: OpsOfRanks, totals: StageTotals) -> Self:
        """Of a part of a report."""
        last = len(launches.stages.rows)
        group = launches.stages.row[launches.stage_range_of_op]
        group = np.where(group >= 0, group, last)
        compute = ops.covered(group, ops.is_kernel & ~ops.communicates, last + 1)
        busy = totals.gpu_busy_ns
        others = ops.covered(group, ~ops.communicates, last + 1) if ops.communicates.any() else busy
        return cls(compute, others - compute, Hidden.of(ops, group, last + 1, others, busy))

    def merge(self, other: Self) -> Self:
        """Both together."""
        return type(self)(hidden=self.hidden.and_(other.hidden), **add_columns(self._columns, other._columns))

    @property
    def _columns(self) -> dict[str, Ints]:
        return {"compute_ns": self.compute_ns, "other_ns": self.other_ns}


@frozen(eq=False)
class StepWork(Measure):
    """Where collectives of a step and other operations of it run at once; groups are the rows of `StepTotals`."""

    hidden: Hidden

    @classmethod
    def take(cls, launches: Launches, ops: OpsOfRanks) -> Self:
        """Of a part of a report."""
        if not ops.communicates.any():
            nothing = np.zeros(0, np.int64)
            return cls(Hidden(nothing, nothing, nothing))
        of_call, groups = step_of_call(launches)
        group = launches.of_op(of_call, groups - 1)
        others, busy = (ops.covered(group, ~ops.communicates | which, groups) for which in (False, True))
        return cls(Hidden.of(ops, group, groups, others, busy))

    def merge(self, other: Self) -> Self:
        """Both together."""
        return type(self)(self.hidden.and_(other.hidden))


@frozen(eq=False)
class RankProgress(Measure):
    """How much a rank had worked when each of its collectives began and ended: a row for each such moment.

    `moments`: `process`, `device`, `time`, and how much kernels that do not communicate (`compute`) and copies and sets
    beside them (`other`) had covered by then; `whole`: the same at the end of the report, a row for each rank.
    """

    moments: dict[str, Ints]
    whole: dict[str, Ints]

    @classmethod
    def take(cls, launches: Launches, ops: OpsOfRanks) -> Self:
        """Of a part of a report."""
        every, part = launches.trace.operations, launches.trace.part
        heads, group = at.group_rows(every.process, every.device)
        begins = ops.communicates & (every.start >= part.low) & (every.start < part.high)
        ends = ops.communicates & (every.end > part.low) & (every.end <= part.high)
        rows = [np.zeros((5, 0), np.int64)]
        whole = np.zeros((4, len(heads)), np.int64)
        for place, mine in at.each(group):
            computing, working = (
                _Covered.by(ops, mine[~ops.communicates[mine] & which[mine]])
                for which in (ops.is_kernel, np.ones(len(group), np.bool_))
            )
            times = np.append(every.start[mine[begins[mine]]], every.end[mine[ends[mine]]])
            times = at.distinct_in_any_order(times)
            compute = computing.until(times)
            process, device = every.process[heads[place]], every.device[heads[place]]
            rows.append(np.stack([np.full(len(times), process), np.full(len(times), device), times,
                                  compute, working.until(times) - compute]))  # fmt: skip
            whole[:, place] = process, device, computing.whole, working.whole - computing.whole
        names = ("process", "device", "time", "compute", "other")
        return cls(
            dict(zip(names, np.concatenate(rows, axis=1), strict=True)),
            dict(zip((*names[:2], *names[3:]), whole, strict=True)),
        )

    def merge(self, other: Self) -> Self:
        """That of one part, and that of a later one, whose work comes after it."""
        rows = {name: np.concatenate([self.whole[name], other.whole[name]]) for name in self.whole}
        heads, group = at.group_rows(rows["process"], rows["device"])
        whole = {name: rows[name][heads] for name in ("process", "device")}
        whole |= {name: sum_by(group, rows[name], len(heads)) for name in ("compute", "other")}
        later = dict(other.moments)
        of = _place_of(self.whole, later["process"], later["device"])
        for name in ("compute", "other"):
            later[name] = later[name] + np.append(self.whole[name], 0)[of]
        return type(self)({name: np.concatenate([self.moments[name], later[name]]) for name in later}, whole)

    def at(self, process: Ints, device: Ints, time: Ints) -> tuple[Ints, Ints]:
        """Compute, and other work, until some of the moments."""
        known = self.moments
        rank = _place_of(self.whole, known["process"], known["device"])
        wanted = _place_of(self.whole, process, device)
        keys = at.Keys(len(self.whole["process"]) + 1, known["time"], time)
        packed = keys.pack(rank, known["time"])
        order = np.argsort(packed, kind="stable")
        place = order[np.minimum(np.searchsorted(packed[order], keys.pack(wanted, time)), len(order) - 1)]
        return known["compute"][place], known["other"][place]


def _place_of(rows: dict[str, Ints], process: Ints, device: Ints) -> Ints:
    """Which of some rows is of each process and device, -1 for none."""
    places = {
        pair: place for place, pair in enumerate(zip(rows["process"].tolist(), rows["device"].tolist(), strict=True))
    }
    heads, group = at.group_rows(process, device)
    pairs = zip(process[heads].tolist(), device[heads].tolist(), strict=True)
    return np.array([places.get(pair, -1) for pair in pairs], np.int64)[group]


class _Covered(NamedTuple):
    """How much of the time is covered until each of some moments, between which that grows with time or not at all."""

    start: Ints
    end: Ints
    before: Ints

    @classmethod
    def by(cls, ops: OpsOfRanks, rows: Ints) -> Self:
        """By some operations."""
        start, end = at.united(ops.start[rows], ops.end[rows])
        return cls(start, end, np.append(0, np.cumsum(end - start)))

    @property
    def whole(self) -> int:
        return int(self.before[-1])

    def until(self, times: Ints) -> Ints:
        place = np.searchsorted(self.start, times, side="right")
        beyond = np.append(0, self.end)[place] - times
        covered: Ints = self.before[place] - np.where(place > 0, np.maximum(beyond, 0), 0)
        return covered
