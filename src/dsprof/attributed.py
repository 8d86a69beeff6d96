"""A trace with every launch tied to its ranges, stage and step: what all tables are built from."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from attrs import field, frozen

from dsprof import attribution as at
from dsprof import findings
from dsprof.attribution import NULL, Bools, Ints
from dsprof.families import OTHER, RULES, Rule, family_of
from dsprof.findings import Finding
from dsprof.stages import NO_STAGE, REQUEST, STAGES, STEP
from dsprof.stats import count_by, sum_by
from dsprof.trace import Trace, process_of

Threads = Literal["thread", "process"]
#: How a launch came by its stage, as the column `via` says it.
VIA = ("none", "thread", "process")


@frozen
class Rules:
    """Which ranges are stages and steps, and whether a stage reaches the other threads of its process.

    `stages` maps a stage to the regular expression that is searched for in a range's name (the domain is
    not part of it); where several fit, the first stage counts. `threads="process"` gives a launch whose
    own thread has no stage open the one that was open anywhere in its process. `families` are the rules that
    tell a kernel's family by its name, in order.
    """

    stages: dict[str, str] = field(factory=lambda: {name: f"^{re.escape(name)}$" for name in STAGES})
    step: str = f"^{re.escape(STEP)}$"
    threads: Threads = "thread"
    families: tuple[Rule, ...] = RULES


class Scope(NamedTuple):
    """Operations in the order in which the threads (or processes) of a trace launched them."""

    number: Ints  # of the scope, for each position of the order
    launch: Ints  # when the API call started, for each position
    op: Ints  # the operation at each position


class Attributed:
    """`trace` under `rules`: indexes of ranges for calls and operations, each computed once, when asked for."""

    def __init__(self, trace: Trace, rules: Rules | None = None) -> None:
        self.trace = trace
        self.rules = rules or Rules()

    # -- launches ---------------------------------------------------------------------------------------

    @cached_property
    def call_of_op(self) -> Ints:
        """The API call behind each operation, -1 where the report has none; shape (operations,)."""
        ops, calls = self.trace.operations, self.trace.calls
        return at.join_calls(ops.process, ops.correlation, process_of(calls.thread), calls.correlation, calls.start)

    @cached_property
    def _threads(self) -> Ints:
        trace = self.trace
        return np.unique(np.concatenate([at.distinct(trace.ranges.thread), at.distinct(trace.calls.thread)]))

    @cached_property
    def range_thread(self) -> Ints:
        """Small number of each range's thread."""
        return np.searchsorted(self._threads, self.trace.ranges.thread)

    @cached_property
    def call_thread(self) -> Ints:
        """Small number of each API call's thread."""
        return np.searchsorted(self._threads, self.trace.calls.thread)

    def _process_number(self, thread: Ints) -> Ints:
        return np.searchsorted(self.trace.processes, process_of(thread))

    @cached_property
    def thread_order(self) -> Scope:
        """Operations that have a launch, by thread and launch time."""
        return self._order(self.call_thread)

    @cached_property
    def process_order(self) -> Scope:
        """Operations that have a launch, by process and launch time."""
        return self._order(self._process_number(self.trace.calls.thread))

    def _order(self, scope_of_call: Ints) -> Scope:
        op = np.flatnonzero(self.call_of_op >= 0)
        call = self.call_of_op[op]
        number, launch = scope_of_call[call], self.trace.calls.start[call]
        order = np.lexsort((call, launch, number))
        return Scope(number[order], launch[order], op[order])

    # -- kernel names -----------------------------------------------------------------------------------

    @cached_property
    def family_names(self) -> tuple[str, ...]:
        """The families that the rules know, each once, and ``other`` last."""
        return (*dict.fromkeys(rule.family for rule in self.rules.families if rule.family != OTHER), OTHER)

    @cached_property
    def family_of_name(self) -> Ints:
        """Index into `family_names` for each of the trace's names, -1 for those of no kernel; shape (names,)."""
        number = {family: code for code, family in enumerate(self.family_names)}
        used = np.flatnonzero(np.bincount(self.trace.kernels.name, minlength=len(self.trace.names)))
        code = np.full(len(self.trace.names), -1, np.int64)
        code[used] = [number[family_of(self.trace.names[name], self.rules.families)] for name in used.tolist()]
        return code

    # -- ranges -----------------------------------------------------------------------------------------

    @cached_property
    def parent(self) -> Ints:
        """The enclosing range of the same thread, domain and style, -1 for none; shape (ranges,)."""
        ranges = self.trace.ranges
        lane = at.group_rows(self.range_thread, ranges.domain.astype(np.int64), ranges.style)[1]
        return at.containers(lane, ranges.start, ranges.end)

    @cached_property
    def level(self) -> Ints:
        """Depth below the outermost range of the same thread, domain and style."""
        return at.levels(self.parent)

    def covered(self, of: Ints) -> list[tuple[Scope, Ints, Ints, Ints]]:
        """What the ranges `of` enclose: ``(order, positions in `of`, low, high)``, per kind of scope.

        A range encloses the launches of its thread; one that another thread ended, those of its process.
        """
        ranges = self.trace.ranges
        reach = ranges.of_process[of]
        parts = []
        for whole, scope_of_range in ((False, self.range_thread), (True, None)):
            which = np.flatnonzero(reach == whole)
            if not len(which) and whole:
                continue
            order = self.process_order if whole else self.thread_order
            chosen = of[which]
            number = (
                scope_of_range[chosen] if scope_of_range is not None else self._process_number(ranges.thread[chosen])
            )
            start, end = ranges.start[chosen], ranges.end[chosen]
            scopes = int(max(number.max(initial=0), order.number.max(initial=0))) + 1
            keys = at.Keys(scopes, order.launch, start, end)
            low, high = at.slices(
                keys.pack(order.number, order.launch), keys.pack(number, start), keys.pack(number, end)
            )
            parts.append((order, which, low, high))
        return parts

    def enclosing(self, candidates: Ints, thread: Ints, time: Ints, widen: bool = False) -> tuple[Ints, Ints]:
        """The latest-starting of the ranges `candidates` around each point, and how it was found.

        `thread` (globalTid) and `time` say where the points are. Returns two columns of the points' shape:
        the range's row, -1 for none, and an index into `VIA`. `widen`: where the own thread has none, take
        one that was open anywhere in the process.
        """
        ranges = self.trace.ranges
        own, shared = candidates[~ranges.of_process[candidates]], candidates[ranges.of_process[candidates]]
        found = self._innermost(own, np.searchsorted(self._threads, ranges.thread[own]),
                                np.searchsorted(self._threads, thread), time)  # fmt: skip
        via = np.where(found >= 0, 1, 0)
        process = self._process_number(thread)
        for extra, only_empty in ((shared, False), (own, True)):
            if not len(extra) or (only_empty and not widen):
                continue
            other = self._innermost(extra, self._process_number(ranges.thread[extra]), process, time)
            better = (other >= 0) & (found < 0)
            if not only_empty:
                better |= (other >= 0) & (found >= 0) & (self._nearness[other] > self._nearness[found])
            found, via = np.where(better, other, found), np.where(better, 2, via)
        return found, via

    @cached_property
    def _nearness(self) -> Ints:
        """Which of two ranges around a point is inside: later start, then shorter, then later row."""
        ranges = self.trace.ranges
        rank = np.empty(len(ranges), np.int64)
        rank[np.lexsort((-ranges.end, ranges.start))] = np.arange(len(ranges))
        return rank

    def _innermost(self, candidates: Ints, scope: Ints, at_scope: Ints, time: Ints) -> Ints:
        ranges = self.trace.ranges
        found = at.innermost(scope, ranges.start[candidates], ranges.end[candidates], at_scope, time)
        if not len(candidates):
            return found
        return np.where(found >= 0, candidates[found], -1)

    @cached_property
    def range_of_call(self) -> Ints:
        """The innermost range of any domain around each API call, -1 for none; shape (calls,)."""
        calls = self.trace.calls
        return self.enclosing(np.arange(len(self.trace.ranges)), calls.thread, calls.start)[0]

    def of_op(self, of_call: Ints, missing: int = -1) -> Ints:
        """Carry a column of the API calls over to their operations; `missing` where there is no call."""
        if not len(of_call):
            return np.full(len(self.call_of_op), missing, np.int64)
        return np.where(self.call_of_op >= 0, of_call[self.call_of_op], missing)

    @cached_property
    def straddling(self) -> Ints:
        """Per range: API calls with operations that start in it and end after it; shape (ranges,)."""
        ranges, calls = self.trace.ranges, self.trace.calls
        count = np.zeros(len(ranges), np.int64)
        for order, which, low, high in self.covered(np.arange(len(ranges))):
            call = self.call_of_op[order.op]
            first = np.append(True, call[1:] != call[:-1])[: len(call)]
            rank = np.append(0, np.cumsum(first))
            low, last, number = rank[low], rank[high] - 1, order.number[first]
            call_end, range_end = calls.end[call[first]], ranges.end[which]
            keys = at.Keys(int(number.max(initial=0)) + 1, call_end, range_end)
            reach = np.maximum.accumulate(keys.pack(number, call_end))
            active = np.arange(len(which))
            # From the slice's last call backwards, as far as any earlier call ends after the range.
            while len(active := active[last[active] >= low[active]]):
                limit = keys.pack(number[last[active]], range_end[active])
                active = active[reach[last[active]] > limit]
                count[which[active]] += call_end[last[active]] > range_end[active]
                last[active] -= 1
        return count

    # -- stages -----------------------------------------------------------------------------------------

    def matching(self, pattern: str) -> Bools:
        """True for the ranges in whose name `pattern` is found; shape (ranges,)."""
        search = re.compile(pattern).search
        used = np.zeros(len(self.trace.names), np.bool_)
        for code in np.unique(self.trace.ranges.name):
            used[code] = search(self.trace.names[code]) is not None
        return used[self.trace.ranges.name]

    @cached_property
    def stage_names(self) -> tuple[str, ...]:
        """The stages in the rules' order, and `(no stage)` last: code ``-1`` counts from the end."""
        return (*self.rules.stages, NO_STAGE)

    @cached_property
    def stage_of_range(self) -> Ints:
        """Code of the stage that a range itself is, -1 for a range that is none; shape (ranges,)."""
        stage = np.full(len(self.trace.ranges), -1, np.int64)
        for code, pattern in reversed(list(enumerate(self.rules.stages.values()))):
            stage[self.matching(pattern)] = code
        return stage

    @cached_property
    def stage_ranges(self) -> Ints:
        """The ranges that are stages, by start: the rows of `stage_trace`."""
        rows = np.flatnonzero(self.stage_of_range >= 0)
        return rows[np.argsort(self.trace.ranges.start[rows], kind="stable")]

    @cached_property
    def _stage_of_call(self) -> tuple[Ints, Ints]:
        calls = self.trace.calls
        return self.enclosing(self.stage_ranges, calls.thread, calls.start, self.rules.threads == "process")

    @cached_property
    def stage_range_of_call(self) -> Ints:
        """The nearest stage range around each API call, -1 for none."""
        return self._stage_of_call[0]

    @cached_property
    def stage_range_of_op(self) -> Ints:
        """The nearest stage range around each operation's launch, -1 for none."""
        return self.of_op(self.stage_range_of_call)

    @cached_property
    def via_of_op(self) -> Ints:
        """How each operation came by its stage: an index into `VIA`."""
        return self.of_op(self._stage_of_call[1], missing=0)

    def stage_code(self, stage_range: Ints) -> Ints:
        """Stage code of a column of stage ranges; `len(stage_names) - 1` for ``(no stage)``."""
        if not len(self.trace.ranges):
            return np.full(len(stage_range), len(self.stage_names) - 1, np.int64)
        return np.where(stage_range >= 0, self.stage_of_range[stage_range], len(self.stage_names) - 1)

    @cached_property
    def instance_of_range(self) -> Ints:
        """Ordinal of each stage range among those of its stage, from 0; -1 for the other ranges."""
        instance = np.full(len(self.trace.ranges), -1, np.int64)
        rows = self.stage_ranges
        for code in range(len(self.rules.stages)):
            same = rows[self.stage_of_range[rows] == code]
            instance[same] = np.arange(len(same))
        return instance

    # -- steps and requests -----------------------------------------------------------------------------

    @cached_property
    def step_ranges(self) -> Ints:
        """The ranges that are decode steps, by start."""
        rows = np.flatnonzero(self.matching(self.rules.step))
        return rows[np.argsort(self.trace.ranges.start[rows], kind="stable")]

    @cached_property
    def stage_of_step(self) -> Ints:
        """The stage range around each of `step_ranges`, -1 for none."""
        ranges = self.trace.ranges
        steps, widen = self.step_ranges, self.rules.threads == "process"
        return self.enclosing(self.stage_ranges, ranges.thread[steps], ranges.start[steps], widen)[0]

    @cached_property
    def step_number(self) -> Ints:
        """Each step's payload, else its ordinal within its stage (from 1); shape of `step_ranges`."""
        owner = self.stage_of_step
        order = np.argsort(owner, kind="stable")
        heads = np.flatnonzero(np.append(True, owner[order][1:] != owner[order][:-1])) if len(owner) else owner
        ordinal = np.empty(len(owner), np.int64)
        ordinal[order] = np.arange(len(owner)) - np.repeat(heads, np.diff(np.append(heads, len(owner)))) + 1
        payload = self.trace.ranges.payload[self.step_ranges]
        return np.where(payload != NULL, payload, ordinal)

    @cached_property
    def step_range_of_call(self) -> Ints:
        """The nearest step range around each API call, -1 for none, or for a step of another stage."""
        calls, stage = self.trace.calls, np.full(len(self.trace.ranges) + 1, -1, np.int64)
        stage[self.step_ranges] = self.stage_of_step
        found = self.enclosing(self.step_ranges, calls.thread, calls.start, self.rules.threads == "process")[0]
        return np.where(stage[found] == self.stage_range_of_call, found, -1)

    @cached_property
    def step_of_op(self) -> Ints:
        """Number of the step around each operation's launch, NULL for none."""
        number = np.full(len(self.trace.ranges) + 1, NULL, np.int64)
        number[self.step_ranges] = self.step_number
        return self.of_op(number[self.step_range_of_call], missing=NULL)

    @cached_property
    def request_ranges(self) -> Ints:
        """The ranges named ``request``, by start."""
        rows = np.flatnonzero(self.matching(f"^{re.escape(REQUEST)}$"))
        return rows[np.argsort(self.trace.ranges.start[rows], kind="stable")]

    @cached_property
    def totals(self) -> StageTotals:
        """What was launched in each stage range and in none."""
        rows, last = self.stage_ranges, len(self.stage_ranges)
        of_op = row_in(self, rows, self.stage_range_of_op, last)
        return totals_of(self, of_op, row_in(self, rows, self.stage_range_of_call, last), last + 1)

    @cached_property
    def stages_with_steps(self) -> Ints:
        """Those of `stage_ranges` in which there is a step."""
        return self.stage_ranges[np.isin(self.stage_ranges, self.stage_of_step)]

    @cached_property
    def step_totals(self) -> StageTotals:
        """What was launched in each of `step_ranges`; then between the steps of each of `stages_with_steps`."""
        steps, between = len(self.step_ranges), len(self.stages_with_steps)
        of_step = row_in(self, self.step_ranges, self.step_range_of_call)
        of_stage = row_in(self, self.stages_with_steps, self.stage_range_of_call)
        last = steps + between
        of_call = np.where(of_step >= 0, of_step, np.where(of_stage >= 0, steps + of_stage, last))
        return totals_of(self, self.of_op(of_call, last), of_call, last + 1)

    @cached_property
    def tokens(self) -> Ints:
        """Tokens of each of `stage_ranges`: its decode steps where it has some, else its payload; NULL."""
        steps = count_by(self.stage_of_step[self.stage_of_step >= 0], len(self.trace.ranges))[self.stage_ranges]
        return np.where(steps > 0, steps, self.trace.ranges.payload[self.stage_ranges])

    # -- findings ---------------------------------------------------------------------------------------

    def check(self) -> list[Finding]:
        """What a reader of the tables must know: the trace's own findings, lost data, calls across an end."""
        found = [*self.trace.check(), *self.trace.lost(self.call_of_op)]
        if len(self.trace.ranges) and not len(self.stage_ranges):
            found.append(findings.no_stages(tuple(self.rules.stages)))
        across = int((self.straddling > 0).sum())
        if across:
            found.append(findings.straddling(int(self.straddling.sum()), across))
        return found


@frozen(eq=False)
class StageTotals:
    """What was launched in each stage range, in the order of `stage_ranges`; the last row is ``(no stage)``."""

    launches: Ints
    gpu_ops: Ints
    kernels: Ints
    kernel_total_ns: Ints
    gpu_busy_ns: Ints
    proj_start_ns: Ints
    proj_end_ns: Ints
    memcpy_ns: Ints
    memcpy_bytes: Ints
    sync_ns: Ints


def row_in(a: Attributed, rows: Ints, range_of: Ints, missing: int = -1) -> Ints:
    """Where in `rows`, a selection of ranges, each entry of a column of ranges stands; `missing` where it does not."""
    place = np.full(len(a.trace.ranges) + 1, missing)
    place[rows] = np.arange(len(rows))
    return place[range_of]


def totals_of(a: Attributed, of_op: Ints, of_call: Ints, rows: int) -> StageTotals:
    """Sums over the operations and API calls of each of `rows` groups; the two columns tell the group of each."""
    ops, calls, copies = a.trace.operations, a.trace.calls, a.trace.memops
    duration = ops.end - ops.start
    of_kernel, of_copy = of_op[: ops.kernels], of_op[ops.kernels :][copies.kind >= 0]
    has_op = np.zeros(len(calls), np.bool_)
    has_op[a.call_of_op[a.call_of_op >= 0]] = True
    waits = a.trace.call_synchronizes
    first, last = _extremes(of_op, ops.start, ops.end, rows)
    return StageTotals(
        launches=count_by(of_call[has_op], rows),
        gpu_ops=count_by(of_op, rows),
        kernels=count_by(of_kernel, rows),
        kernel_total_ns=sum_by(of_kernel, duration[: ops.kernels], rows),
        gpu_busy_ns=at.union_length(of_op, ops.start, ops.end, rows),
        proj_start_ns=first,
        proj_end_ns=last,
        memcpy_ns=sum_by(of_copy, duration[ops.kernels :][copies.kind >= 0], rows),
        memcpy_bytes=sum_by(of_copy, copies.bytes[copies.kind >= 0], rows),
        sync_ns=sum_by(of_call[waits], (calls.end - calls.start)[waits], rows),
    )


def _extremes(group: Ints, start: Ints, end: Ints, groups: int) -> tuple[Ints, Ints]:
    """First start and last end of each group, NULL for an empty one."""
    first, last = np.full(groups, np.iinfo(np.int64).max), np.full(groups, NULL)
    np.minimum.at(first, group, start)
    np.maximum.at(last, group, end)
    return np.where(last == NULL, NULL, first), last


def wall_time(start: Ints, end: Ints, proj_start: Ints, proj_end: Ints) -> Ints:
    """From the first begin until host and GPU are both done; the projection is NULL where there is none.

    A GPU operation begins before its stage only where the two clocks disagree; then the wall begins with it.
    """
    begin = np.where(proj_end == NULL, start, np.minimum(start, proj_start))
    return np.maximum(end, proj_end) - begin
