"""The measures that several tables share: sums of stages and steps, kernels by stage, and a tally of the report."""

from __future__ import annotations

from typing import Any

import numpy as np
from attrs import field, fields, frozen

from dsprof import arrays as at
from dsprof import findings
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import Distribution, add_distributions, count_by, distribution, sum_by
from dsprof.attributed import VIA, Attributed, Rules, Scope
from dsprof.findings import Finding
from dsprof.measure import add_columns, earliest, measure
from dsprof.patterns import first_found, near
from dsprof.trace import pid_of, process_of

#: Share of launches without a kernel below which nothing is said: the rim of every capture loses a few.
_LOST_SHARE = 0.001
#: So many sentences on lost records, which are by process, are said.
_MOST_LOST = 8
#: From the end of a range so many calls are looked at one by one: more than one hardly ever end after it.
_CALLS_BACK = 16
#: Sums over what a range encloses, as `range_trace` names them.
RANGE_SUMS = ("api_calls", "straddling_calls", "gpu_ops", "kernels", "kernel_total_ns", "gpu_busy_ns")


@frozen(eq=False)
class Totals:
    """What was launched in each of some ranges; the last row is everything launched outside of all of them."""

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
    graph_launches: Ints


def _add_totals(one: Totals, other: Totals) -> Totals:
    choose: dict[str, Any] = {"proj_start_ns": earliest, "proj_end_ns": np.maximum}
    names = [one.name for one in fields(Totals)]
    return Totals(*(choose.get(name, np.add)(getattr(one, name), getattr(other, name)) for name in names))


@measure(merge=_add_totals)
def stage_totals(a: Attributed) -> Totals:
    """What was launched in each of `stage_ranges`, and in none."""
    last = len(a.stage_ranges)
    of_call = a.stage_row[a.stage_range_of_call]
    of_call[of_call < 0] = last
    return _totals(a, a.of_op(of_call, last), of_call, last + 1)


@measure(merge=_add_totals)
def step_totals(a: Attributed) -> Totals:
    """What was launched in each of `step_ranges`, then in each of `stages_with_steps` between them, and in none."""
    steps = len(a.step_ranges)
    last = steps + len(a.stages_with_steps)
    between = np.full(len(a.stage_ranges) + 1, last)
    between[a.stage_row[a.stages_with_steps]] = np.arange(steps, last)
    of_step = a.step_row[a.step_range_of_call]
    of_call = np.where(of_step >= 0, of_step, between[a.stage_row[a.stage_range_of_call]])
    return _totals(a, a.of_op(of_call, last), of_call, last + 1)


def _totals(a: Attributed, of_op: Ints, of_call: Ints, rows: int) -> Totals:
    """Sums over the operations and API calls of each of `rows` groups; the two columns tell the group of each."""
    trace = a.trace
    ops, own = trace.operations, trace.own_ops
    duration = ops.end - ops.start
    kernels = trace.own_kernels
    copies = np.flatnonzero(trace.memops.kind >= 0)
    copies = copies[copies >= trace.part.memops]
    of_copy = of_op[ops.kernels + copies]
    calls, own_call = trace.calls, of_call[trace.own_calls]
    has_op, waits = a.call_has_op[trace.own_calls], trace.call_synchronizes[trace.own_calls]
    graphs = has_op & trace.named("cudaGraphLaunch", "cuGraphLaunch")[calls.name[trace.own_calls]]
    first, last = _extremes(of_op[own], ops.start[own], ops.end[own], rows)
    return Totals(
        launches=count_by(own_call[has_op], rows),
        gpu_ops=count_by(of_op[own], rows),
        kernels=count_by(of_op[: ops.kernels][kernels], rows),
        kernel_total_ns=sum_by(of_op[: ops.kernels][kernels], duration[: ops.kernels][kernels], rows),
        gpu_busy_ns=at.union_length(of_op, trace.clip(ops.start), trace.clip(ops.end), rows),
        proj_start_ns=first,
        proj_end_ns=last,
        memcpy_ns=sum_by(of_copy, duration[ops.kernels + copies], rows),
        memcpy_bytes=sum_by(of_copy, trace.memops.bytes[copies], rows),
        sync_ns=sum_by(own_call[waits], (calls.end - calls.start)[trace.own_calls][waits], rows),
        graph_launches=count_by(own_call[graphs], rows),
    )


def _extremes(group: Ints, start: Ints, end: Ints, groups: int) -> tuple[Ints, Ints]:
    """First start and last end of each group, NULL for an empty one."""
    first, last = np.full(groups, np.iinfo(np.int64).max), np.full(groups, NULL)
    np.minimum.at(first, group, start)
    np.maximum.at(last, group, end)
    return np.where(last == NULL, NULL, first), last


@measure(merge=add_distributions)
def kernels_by_stage(a: Attributed) -> Distribution:
    """Durations of the kernels by stage and name; the group is ``stage * len(names) + name``."""
    kernels, own = a.trace.kernels, a.trace.own_kernels
    stage = a.stage_code(a.stage_range_of_op[: len(kernels)][own])
    return distribution(stage * len(a.trace.names) + kernels.name[own], (kernels.end - kernels.start)[own])


@frozen(eq=False)
class RangeSums:
    """Columns of some of `count` ranges, given by their sorted rows; all others have launched nothing."""

    count: int
    rows: Ints
    columns: dict[str, Ints]

    def of_all(self) -> dict[str, Ints]:
        """The columns for all ranges."""
        if len(self.rows) == self.count:
            return self.columns
        columns = {name: np.full(self.count, NULL if name.startswith("proj_") else 0) for name in self.columns}
        for name, column in self.columns.items():
            columns[name][self.rows] = column
        return columns


def _add_range_sums(one: RangeSums, other: RangeSums) -> RangeSums:
    rows = np.concatenate([one.rows, other.rows])
    order = np.argsort(rows, kind="stable")  # two runs
    rows = rows[order]
    kept = np.append(True, rows[1:] != rows[:-1])[: len(rows)]
    again = np.flatnonzero(~kept)
    both = {name: np.concatenate([column, other.columns[name]])[order] for name, column in one.columns.items()}
    parts = [{name: column[again + shift] for name, column in both.items()} for shift in (-1, 0)]
    for name, values in add_columns(*parts).items():
        both[name][again - 1] = values
    return RangeSums(one.count, rows[kept], {name: column[kept] for name, column in both.items()})


@measure(merge=_add_range_sums)
def range_sums(a: Attributed) -> RangeSums:
    """What each range encloses: sums, and first start and last end of its operations; columns of `range_trace`."""
    rows = a.reached
    result = {column: np.zeros(len(rows), np.int64) for column in RANGE_SUMS}
    result |= {column: np.full(len(rows), NULL) for column in ("proj_start_ns", "proj_end_ns")}
    for order, which, low, high in a.covered:
        for column, value in _enclosed(a, order, low, high).items():
            result[column][which] = value
        ends = a.trace.ranges.end[rows[which]]
        result["straddling_calls"][which] = _straddling(a, order, ends, low, high)
    return RangeSums(len(a.trace.ranges), rows, result)


def _enclosed(a: Attributed, order: Scope, low: Ints, high: Ints) -> dict[str, Ints]:
    trace, ops = a.trace, a.trace.operations
    start, end, call = ops.start[order.op], ops.end[order.op], a.call_of_op[order.op]
    is_kernel = order.op < ops.kernels
    result = {"gpu_busy_ns": at.busy_in_slices(order.number, trace.clip(start), trace.clip(end), low, high)}
    first_of_call = np.append(True, call[1:] != call[:-1])[: len(call)]
    if not isinstance(trace.own_ops, slice):
        own = trace.own_ops[order.op]
        rank = np.append(0, np.cumsum(own))
        low, high = rank[low], rank[high]
        start, end, is_kernel, first_of_call = start[own], end[own], is_kernel[own], first_of_call[own]
    return {
        **result,
        "api_calls": at.slice_sum(first_of_call.astype(np.int64), low, high),
        "gpu_ops": high - low,
        "kernels": at.slice_sum(is_kernel.astype(np.int64), low, high),
        "kernel_total_ns": at.slice_sum(is_kernel * (end - start), low, high),
        "proj_start_ns": at.slice_min(start, low, high),
        "proj_end_ns": at.slice_max(end, low, high),
    }


def _straddling(a: Attributed, order: Scope, range_end: Ints, low: Ints, high: Ints) -> Ints:
    """Of some ranges: API calls with operations that start in it and end after it."""
    call = a.call_of_op[order.op]
    first = np.append(True, call[1:] != call[:-1])[: len(call)] & (call >= a.trace.part.calls)
    rank = np.append(0, np.cumsum(first))
    low, high, number = rank[low], rank[high], order.number[first]
    last, call_end, count = high - 1, a.trace.calls.end[call[first]], np.zeros(len(low), np.int64)
    keys = at.Keys(int(number.max(initial=0)) + 1, call_end, range_end)
    reach = np.maximum.accumulate(keys.pack(number, call_end))
    active = np.arange(len(low))
    # From the slice's last call backwards, as far as any earlier call ends after the range.
    for _ in range(_CALLS_BACK):
        active = active[last[active] >= low[active]]
        limit = keys.pack(number[last[active]], range_end[active])
        active = active[reach[last[active]] > limit]
        count[active] += call_end[last[active]] > range_end[active]
        last[active] -= 1
    if len(active):
        ones = np.ones(len(call_end), np.int64)
        count[active] = at.slice_sum_above(call_end, ones, low[active], high[active], range_end[active])
    return count


@measure(merge=np.union1d)
def stage_devices(a: Attributed) -> Ints:
    """Which devices each stage ran on: the distinct ``row in stage_ranges << 16 | device``."""
    stage = a.stage_row[a.stage_range_of_op]
    inside = np.flatnonzero(stage >= 0)
    return at.distinct(stage[inside] << 16 | a.trace.operations.device[inside] & 0xFFFF)


def regrouped(found: Distribution, group: Ints) -> Distribution:
    """A distribution with other groups, one for each of its rows."""
    return distribution(group, found.value, found.times)


@frozen
class Tally:
    """How much a report holds, and what it lacks; the last three by process."""

    processes: frozenset[int] = frozenset()
    threads: frozenset[int] = frozenset()
    calls: int = 0
    kernels: int = 0
    kernel_total_ns: int = 0
    memops: int = 0
    graphs: int = 0
    via: tuple[int, ...] = (0,) * len(VIA)
    expected: dict[int, int] = field(factory=dict)
    lost: dict[int, int] = field(factory=dict)
    orphans: dict[int, int] = field(factory=dict)


def _add_tallies(one: Tally, other: Tally) -> Tally:
    def added(name: str) -> Any:
        mine, theirs = getattr(one, name), getattr(other, name)
        if isinstance(mine, frozenset):
            return mine | theirs
        if isinstance(mine, tuple):
            return tuple(x + y for x, y in zip(mine, theirs, strict=True))
        if isinstance(mine, dict):
            return {key: mine.get(key, 0) + theirs.get(key, 0) for key in {**mine, **theirs}}
        return mine + theirs

    return Tally(**{column.name: added(column.name) for column in fields(Tally)})


@measure(merge=_add_tallies)
def tally(a: Attributed) -> Tally:
    """How much there is, launches without an operation, and operations without a launch."""
    trace, kernels = a.trace, a.trace.own_kernels
    threads = np.concatenate([a.threads, at.distinct(trace.calls.thread)])
    processes = np.concatenate([process_of(threads), at.distinct(trace.operations.process)])
    via = np.bincount(a.of_op(a.via_of_call, missing=0)[: len(trace.kernels)][kernels], minlength=len(VIA))
    caller = process_of(trace.calls.thread[trace.own_calls])
    launches = trace.call_launches[trace.own_calls]
    orphan = a.call_of_op[trace.own_ops] < 0
    process = trace.operations.process[trace.own_ops]
    return Tally(
        processes=frozenset(processes.tolist()),
        threads=frozenset(threads.tolist()),
        calls=len(caller),
        kernels=len(trace.kernels) - trace.part.kernels,
        kernel_total_ns=int((trace.kernels.end - trace.kernels.start)[kernels].sum()),
        memops=len(trace.memops) - trace.part.memops,
        graphs=int(trace.kernels.is_graph[kernels].sum()),
        via=tuple(via.tolist()),
        expected=_by_process(caller[launches]),
        lost=_by_process(caller[launches & ~a.call_has_op[trace.own_calls]]),
        orphans=_by_process(process[orphan]),
    )


def _by_process(process: Ints) -> dict[int, int]:
    found, count = np.unique(process, return_counts=True)
    return dict(zip(found.tolist(), count.tolist(), strict=True))


def check(a: Attributed) -> list[Finding]:
    """What a reader of the tables must know: what the report lacks or hides, lost data, ranges that are no stages."""
    found = [*_lacks(a), *map(findings.nsys_says, a.trace.report.diagnostics), *_lost(tally(a))]
    if len(a.trace.ranges) and not len(a.stage_ranges):
        found.append(findings.no_stages(tuple(a.rules.stages)))
    found += _unfitting(a)
    straddling = range_sums(a).columns["straddling_calls"]
    if across := int((straddling > 0).sum()):
        found.append(findings.straddling(int(straddling.sum()), across))
    return found


def _unfitting(a: Attributed) -> list[Finding]:
    """The patterns of the user's own that make no range a stage or a step."""
    usual, codes = Rules(), set(at.distinct(a.stage_of_range).tolist())
    lost = [
        (f"Stage {stage}", pattern)
        for code, (stage, pattern) in enumerate(a.rules.stages.items())
        if code not in codes and usual.stages.get(stage) != pattern
    ]
    if a.rules.step != usual.step and not len(a.step_ranges):
        lost.append(("--step", a.rules.step))
    if not lost or not len(a.trace.ranges):
        return []
    names = [a.trace.names[code] for code in at.distinct(a.trace.ranges.name.astype(np.int64)).tolist()]
    found = []
    for what, pattern in lost:
        fitted = first_found([pattern], names).count(0)
        found.append(findings.unfitting(what, pattern, len(names), fitted, [] if fitted else near(pattern, names)))
    return found


def _lacks(a: Attributed) -> list[Finding]:
    """What this report lacks or hides, whatever its stages."""
    seen, found = tally(a), []
    if not len(a.trace.ranges):
        found.append(findings.no_nvtx())
    if not seen.kernels and not seen.memops:
        found.append(findings.no_cuda())
    elif not seen.calls:
        found.append(findings.no_api())
    impossible = a.trace.impossible
    if impossible.times:
        found.append(findings.impossible_times(impossible.times))
    if impossible.sizes:
        found.append(findings.impossible_sizes(impossible.sizes))
    if seen.graphs:
        found.append(findings.graphs_hidden(seen.graphs))
    if truncated := int(a.trace.ranges.truncated.sum()):
        found.append(findings.truncated_ranges(truncated))
    if names := int((~a.summed).sum()):
        found.append(findings.left_out(names, int((~a.summed)[a.groups[1]].sum())))
    return found


def _lost(seen: Tally) -> list[Finding]:
    """Launches without an operation and operations without a launch, by process."""
    found: list[Finding] = []
    for process in sorted(seen.processes) if seen.calls else ():
        if len(found) >= _MOST_LOST:
            return [*found, findings.more_lost(len(seen.processes))]
        lost, expected = seen.lost.get(process, 0), seen.expected.get(process, 0)
        if lost > _LOST_SHARE * expected:
            found.append(findings.lost_kernels(lost, expected, pid_of(process)))
        if orphans := seen.orphans.get(process, 0):
            found.append(findings.orphan_operations(orphans, pid_of(process)))
    return found
