"""A report in parts: as much of it at a time as a limit of memory allows.

::

    launches   x x  x x x | x  x x x x | x x  x          cut in time: a part has what was launched in it
    kernels      [-] [----|--][-] [-]  |[-] [-]          and, carried over, what still runs or is still called

A part knows all operations that its calls launched, whenever they ran, so counts and sums of parts add up; and all that
took time in its own stretch of time, so times that are unions of intervals add up, too. `Part` in `dsprof.trace` says
which rows are which. What begins some parts later is read again there: until then one of all the operations that were
launched in the same ranges stands for the others (`_Left`). The ranges, few beside the rest, are whole in every part.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import attrs
import numpy as np

from dsprof.arrays import NULL, Bools, Ints, distinct, group_rows, join_calls
from dsprof.arrays.backend import Workers
from dsprof.errors import MemoryTooSmall
from dsprof.nsys import schema
from dsprof.nsys.about import report_of
from dsprof.nsys.ahead import check
from dsprof.nsys.export import Columns, Export, is_null, nulls
from dsprof.nsys.graph_nodes import NODE, graph_nodes_of, knows_modules, table_of
from dsprof.nsys.inputs import Input
from dsprof.nsys.nccl import nccl_of
from dsprof.nsys.off_cpu import off_cpu_of
from dsprof.nsys.python_samples import python_samples_of
from dsprof.nsys.reader import Progress, nothing_recorded
from dsprof.nsys.rows import calls_of, graph_launches_in, kernels_of, memops_of, overheads_of, ranges_of
from dsprof.nsys.selection import ALL, Wanted, choose
from dsprof.nsys.strings import Names
from dsprof.nsys.survey import Blocks, Ids, Survey, id_ranges, together
from dsprof.records import frozen
from dsprof.trace import Calls, Kernels, MemOps, Part, Ranges, Trace, no_nodes, process_of, rows_of
from dsprof.words import CUDA_GRAPH

# What an analysis takes at its peak, in bytes: by itself (30 MiB of it for what machines differ in: huge pages, files
# that are mapped whole), and for each row that is there at a time.
_BYTES_ALONE, _BYTES_PER_RANGE, BYTES_PER_CALL, BYTES_PER_OP = 200 << 20, 800, 200, 400
#: And for each row that tells how a CUDA graph was made, which are whole as the ranges are.
_BYTES_PER_NODE = 300
#: What compiled loops take: half of it whenever they are loaded, all while they are compiled for the first time.
_BYTES_COMPILED = 220 << 20
#: What is read ahead takes less than what is worked on.
_READ_AHEAD = 0.4
#: Rows of a part: with fewer, Python's own share of the work grows, with more the memory. What has no more than two
#: parts' rows is not cut. And the rows of the smallest part that is worth its while.
_ROWS_PER_PART, _LEAST_ROWS = 1 << 18, 1 << 16
#: Parts that are worked on at once: four take a tenth more memory, and on 16 processors no less time.
_AT_ONCE = 3
#: Parts are made so much smaller than the limit would allow: rows are not spread evenly over time.
_SPARE = 0.7
#: Rows are copied run by run where a run has that many of them on average.
_ROWS_PER_RUN = 64
_FOREVER = int(np.iinfo(np.int64).max)
_Rows = TypeVar("_Rows", Calls, Kernels, MemOps)


@frozen
class Size:
    """How many rows a report has, and so the memory that an analysis of it takes, with compiled loops or without."""

    ranges: int
    calls: int
    ops: int
    compiled: bool = False
    nodes: int = 0

    @property
    def rows(self) -> int:
        """API calls and operations: what is cut into parts."""
        return self.calls + self.ops

    @property
    def fixed_bytes(self) -> int:
        """What it takes however small its parts are."""
        whole = _BYTES_PER_RANGE * self.ranges + _BYTES_PER_NODE * self.nodes
        return _BYTES_ALONE + _BYTES_COMPILED * self.compiled + whole + self.calls

    @property
    def events_bytes(self) -> int:
        """What all its API calls and operations take, were they there at once."""
        return BYTES_PER_CALL * self.calls + BYTES_PER_OP * self.ops

    def plan(self, limit: int | None, workers: int | None = None) -> Plan:
        """In how many parts it is quick to work on, and stays below so many bytes. Raises `MemoryTooSmall`.

        `workers`: how many parts may be worked on at once, as many as there are processors for us unless given.
        """
        if self.rows <= 2 * _ROWS_PER_PART and (limit is None or self.fixed_bytes + self.events_bytes <= limit):
            return Plan(1, 1, self.fixed_bytes + self.events_bytes)
        for at_once in range(min(_AT_ONCE, workers or len(os.sched_getaffinity(0))), 0, -1):
            parts = max(-(-self.rows // _ROWS_PER_PART), self._parts(limit, at_once))
            if self.rows >= parts * _LEAST_ROWS or at_once == 1:
                break
        peak = self.fixed_bytes + int(self.events_bytes / parts / _SPARE * (at_once + _READ_AHEAD))
        if limit is not None and self.rows < parts * _LEAST_ROWS:
            least = self.fixed_bytes + int(
                self.events_bytes / max(self.rows // _LEAST_ROWS, 1) / _SPARE * (1 + _READ_AHEAD)
            )
            raise MemoryTooSmall(
                f"The report has {self.ranges} ranges and {self.calls} API calls, and cannot be analyzed in "
                f"{limit / 1e9:.2f} GB of memory.",
                f"Give it {least / 1e9 + 0.01:.2f} GB or more with --memory.",
            )
        return Plan(parts, at_once, peak)

    def _parts(self, limit: int | None, at_once: int) -> int:
        """Parts of which so many at once stay below the limit; more than there are rows where none would."""
        if limit is None:
            return 1
        left = int((limit - self.fixed_bytes) * _SPARE / (at_once + _READ_AHEAD))
        return -(-self.events_bytes // left) if left > 0 else self.rows + 1


@frozen
class Plan:
    """In how many parts to work, how many of them at once, and about how many bytes of memory that takes."""

    parts: int
    at_once: int
    peak_bytes: int


def size_of(given: Input | Path) -> Size:
    """How many rows the export has. Raises `ReportDamaged` and `NvprofDatabase`."""

    def rows(export: Export, *sources: schema.Source) -> int:
        present = [source.table for source in sources if source.table in export.columns]
        return sum(_rows_in(export, table) for table in present)

    with Export(given) as export:
        export.sniff()
        nodes = _rows_in(export, table) if (table := table_of(export)) else 0
        events = rows(export, schema.CALLS), rows(export, *schema.OPERATIONS)
        return Size(rows(export, schema.RANGES), *events, nodes=nodes)


def _rows_in(export: Export, table: str) -> int:
    """How many rows there may be, told at once in what nsys wrote; in other files they are counted."""
    ends = export.ends_of(table)
    if ends is None:
        return 0
    if export.is_dense(table):
        return ends[1] - ends[0] + 1
    return int(export.rows(f'SELECT count(*) FROM "{table}"')[0][0])


class CutTooLate(Exception):
    """An operation began at `began`, before the `cut`, and was launched after it: the two clocks disagree."""

    def __init__(self, cut: int, began: int) -> None:
        super().__init__(f"an operation that was launched after {cut} began at {began}")
        self.cut, self.began = cut, began


class ReportInParts:
    """A report that is read part by part, any number of times; `trace` has its ranges and no events."""

    def __init__(
        self,
        given: Input | Path,
        parts: int,
        details: bool = True,
        progress: Progress = lambda sentence: None,
        at_once: int = 2,
        wanted: Wanted = ALL,
    ) -> None:
        self.at_once, self._details, self._progress = at_once, details, progress
        with Export(given) as export, Workers(2) as beside:
            export.sniff()
            self._input = export.input
            checked, hashed = beside.submit(check, export.input), beside.submit(lambda: export.input.sha256)
            progress("reading names and ranges")
            self._names, chosen = Names(), choose(export, wanted)
            ranges, overheads = ranges_of(export, self._names), overheads_of(export)
            samples, nccl = python_samples_of(export, self._names), nccl_of(export, ranges, self._names)
            if chosen is not None:
                ranges, overheads, samples = chosen.ranges(ranges), chosen.overheads(overheads), chosen.samples(samples)
            off_cpu = off_cpu_of(export, distinct(ranges.thread))
            born = knows_modules(self._names) or len(nccl) > 0
            nodes = graph_nodes_of(export) if born else no_nodes()
            self._extra = {schema.KERNEL: (NODE,)} if born and not details else {}
            progress("looking where to cut")
            calls, operations = Blocks(schema.CALLS), [Blocks(source) for source in schema.OPERATIONS]
            self._survey, self._chosen = Survey(export, calls, operations, chosen), chosen
            self._names.learn(export, self._survey.call_names)
            self._names.learn(export, self._survey.kernel_names)
            self._names.code(CUDA_GRAPH)
            hashed.result()
            report, found = report_of(export), export.possible.found()
            launched = graph_launches_in(export, self._names, self._survey.call_names)  # which are counted already
            checked.result()
        if not len(ranges) and self._survey.is_empty:
            raise nothing_recorded(report.file) if chosen is None else chosen.nothing(report)
        report = report if chosen is None else chosen.report(report)
        none = _nothing()
        self.trace = Trace(
            report, self._names.all(), ranges, none.calls, none.kernels, none.memops, overheads, off_cpu,
            impossible=found, samples=samples, graph_launches=launched, nodes=nodes, nccl=nccl,
        )  # fmt: skip
        self._moments = _Moments(ranges)
        self.cuts = self._survey.cuts(parts, BYTES_PER_CALL, BYTES_PER_OP, _SPARE)

    def parts(self) -> Iterator[Trace]:
        """Each part in turn, the next one read ahead. Raises `CutTooLate`: after `cut_earlier`, begin again."""
        counted = Ids()
        bounds = list(itertools.pairwise([NULL, *self.cuts, _FOREVER]))
        before = _nothing(self._chosen.capturing if self._chosen is not None else frozenset())
        with Export(self._input) as export, Workers(1) as reader:
            coming = reader.submit(self._part, export, counted, before, *bounds[0])
            for number in range(1, len(bounds) + 1):
                self._progress(f"working on part {number} of {len(bounds)}")
                part, left = coming.result()
                if number < len(bounds):
                    coming = reader.submit(self._part, export, counted, left, *bounds[number])
                yield part
                del part  # before the next one is waited for

    def cut_earlier(self, late: CutTooLate) -> None:
        """Move the cut that an operation lies across to where the operation began."""
        self.cuts = sorted({late.began if cut == late.cut else cut for cut in self.cuts})

    def _part(self, export: Export, counted: Ids, before: _Left, low: int, high: int) -> tuple[Trace, _Left]:
        """What was launched in ``[low, high)``, and what it leaves; `counted`: ids of the calls of the parts before."""
        survey = self._survey
        raw = survey.calls.read_between(export, low, high)
        if self._chosen is not None:
            raw = _where(raw, survey.made(raw))
        if survey.repeats:
            raw = _where(raw, ~counted.has(process_of(raw["globalTid"]), raw["correlationId"]))
            counted.add(process_of(raw["globalTid"]), raw["correlationId"])
        made = calls_of(raw, self._names, survey.repeats)
        launched, call, begun = self._launched(export, made, before.calls, low, high)
        split = len(launched[0]["start"]) + len(launched[1]["start"])
        kernels, memops = self._operations(launched)
        (running, moving), (arriving, coming) = before.reaching(low, high), self._operations(begun)
        running, moving = _both(running, arriving), _both(moving, coming)
        called, callers = before.called_by((running, moving), low)
        call = np.where(call >= 0, call + len(called), -1)
        calls, elsewhere = _both(called, made), None
        if self._chosen is not None and self._chosen.devices:
            elsewhere = survey.elsewhere.has(process_of(calls.thread), calls.correlation)
        part = attrs.evolve(
            self.trace,
            calls=calls,
            elsewhere=elsewhere,
            kernels=_both(running, kernels),
            memops=_both(moving, memops),
            part=Part(low, high, len(called), len(running), len(moving), before.capturing),
            call_of_op=np.concatenate([callers[0], call[:split], callers[1], call[split:]]),
        )
        return part, before.after(part, made, self._moments)

    def _operations(self, tables: list[Columns]) -> tuple[Kernels, MemOps]:
        kernels, graphs, copies, sets = tables
        caller = self._survey.caller
        return kernels_of(kernels, graphs, self._names, caller), memops_of(copies, sets, caller)

    def _launched(
        self, export: Export, calls: Calls, earlier: Calls, low: int, high: int
    ) -> tuple[list[Columns], Ints, list[Columns]]:
        """The operations that `calls` launched, and those in ``[low, high)`` that no call launched, by table.

        Besides, the call behind each of them all, -1 for none; and what begins in ``[low, high)``, launched `earlier`.
        """
        ids = id_ranges(process_of(calls.thread), calls.correlation)
        launched, begun, called = [], [], []
        for blocks in self._survey.operations:
            wanted = blocks.with_ids(ids) | blocks.between(low, high)
            extra = self._extra.get(blocks.source.table, ())
            read = blocks.pieces(export, wanted, self._details, extra)
            pieces = [self._own(raw, calls, earlier, low, high) for raw in read]
            launched.append(together([own for own, _, _ in pieces], blocks.source))
            begun.append(together([other for _, _, other in pieces], blocks.source))
            called += [call for _, call, _ in pieces]
        return launched, np.concatenate([np.zeros(0, np.int64), *called]), begun

    def _own(self, raw: Columns, calls: Calls, earlier: Calls, low: int, high: int) -> tuple[Columns, Ints, Columns]:
        """The same of some rows of a table: where ids say little of where they are, few of them belong to the part."""
        if self._chosen is not None:
            raw = _where(raw, self._survey.holds(raw))
        start, process, number = raw["start"], self._survey.process(raw["globalPid"]), raw["correlationId"]
        call = join_calls(process, number, process_of(calls.thread), calls.correlation, calls.start)
        kept = call >= 0
        if (began := int(start[kept].min(initial=_FOREVER))) < low:
            raise CutTooLate(low, began)
        strange = np.flatnonzero(~kept & (start >= low) & (start < high))
        has_call = self._survey.seen.has(process[strange], number[strange])
        kept[strange] = ~has_call
        others = strange[has_call]
        others = others[
            join_calls(process[others], number[others], process_of(earlier.thread), earlier.correlation, earlier.start)
            >= 0
        ]
        return _where(raw, kept), call[kept], {name: column[others] for name, column in raw.items()}


class _Moments:
    """Where ranges begin and end: two calls of a thread with none in between are in the same ranges."""

    def __init__(self, ranges: Ranges) -> None:
        self._processes, thread_process = np.unique(process_of(ranges.thread), return_inverse=True)
        process = np.concatenate([thread_process.reshape(-1)] * 2)
        times = np.concatenate([ranges.start, ranges.end])
        order = np.lexsort((times, process))
        self._first = np.searchsorted(process[order], np.arange(len(self._processes) + 1))
        self._times = times[order]

    def before(self, calls: Calls) -> Ints:
        """For each call: how many of its process's moments are not after its begin."""
        found = np.zeros(len(calls), np.int64)
        process = process_of(calls.thread)
        for number, one in enumerate(self._processes.tolist()):
            mine = np.flatnonzero(process == one)
            times = self._times[self._first[number] : self._first[number + 1]]
            found[mine] = np.searchsorted(times, calls.start[mine], side="right")
        return found


@frozen(eq=False)
class _Left:
    """What is left of some parts for those after them.

    `calls`: those that last longer, or launched something that does, and `until` when. `kernels` and `memops`: what
    runs over the end; and, of what begins later, so much that the parts until then know that something waits: one of
    all that were launched in the same ranges, and what was launched by calls over the end. `capturing`: threads in a
    stream capture.
    """

    calls: Calls
    until: Ints
    kernels: Kernels
    memops: MemOps
    capturing: frozenset[int] = frozenset()

    def reaching(self, low: int, high: int) -> tuple[Kernels, MemOps]:
        """What reaches into ``[low, high)``, but for what begins in it, or waits there."""
        kernels, memops = ((ops.start < low) | (ops.start >= high) for ops in (self.kernels, self.memops))
        return rows_of(self.kernels, np.flatnonzero(kernels)), rows_of(self.memops, np.flatnonzero(memops))

    def called_by(self, ops: tuple[Kernels, MemOps], low: int) -> tuple[Calls, list[Ints]]:
        """The calls that last beyond `low`, or launched some operations, and the call behind each of those."""
        behind = [_join(some, self.calls) for some in ops]
        needed = self.calls.end > low
        for call in behind:
            needed[call[call >= 0]] = True
        place = np.append(np.cumsum(needed) - 1, -1)
        return rows_of(self.calls, np.flatnonzero(needed)), [place[call] for call in behind]

    def after(self, part: Trace, made: Calls, moments: _Moments) -> _Left:
        """What is left when a part is added, in which these calls were made."""
        high, first = part.part.high, part.part.calls
        ops, call = part.operations, part.call_of_op
        assert call is not None  # noqa: S101 - parts know it
        until = made.end.copy()
        own = np.flatnonzero(call >= first)
        np.maximum.at(until, call[own] - first, ops.end[own])
        later = [np.flatnonzero(column > high) for column in (self.until, until)]
        group = part.calls.thread, moments.before(part.calls)
        split = len(part.kernels)
        kept = [
            _reaching(some, call, part.calls, group, high) for some, call in (
                (part.kernels, call[:split]), (part.memops, call[split:])
            )
        ]  # fmt: skip
        return _Left(
            _both(rows_of(self.calls, later[0]), rows_of(made, later[1])),
            np.concatenate([self.until[later[0]], until[later[1]]]),
            rows_of(part.kernels, kept[0]),
            rows_of(part.memops, kept[1]),
            part.capturing_at_end(),
        )


def _reaching(ops: Kernels | MemOps, call: Ints, calls: Calls, group: tuple[Ints, Ints], high: int) -> Ints:
    """The rows of what is called or runs at `high`, and of so much of what begins later as `_Left` says; by row."""
    called = call >= 0
    called[called] = calls.end[call[called]] > high
    waiting = np.flatnonzero((ops.start >= high) & (call >= 0) & ~called)
    waiting = waiting[np.argsort(-ops.start[waiting], kind="stable")]  # the last to begin waits longest
    heads, _ = group_rows(*(column[call[waiting]] for column in group))
    runs = (ops.end > high) & ((ops.start < high) | (call < 0))
    return np.sort(np.concatenate([np.flatnonzero(called | runs), waiting[heads]]))


def _where(raw: Columns, kept: Bools) -> Columns:
    """The rows that are kept; where they lie in a few long runs, run by run, which is quicker than row by row."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).view(np.int8)))
    if len(edges) * _ROWS_PER_RUN > len(kept):
        rows = np.flatnonzero(kept)
        return {name: column[rows] for name, column in raw.items()}
    runs = [slice(*run) for run in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
    count = int(np.count_nonzero(kept))
    return {
        name: nulls(count) if is_null(column) else np.concatenate([column[:0], *(column[run] for run in runs)])
        for name, column in raw.items()
    }


def _no(kind: type[_Rows]) -> _Rows:
    types = {"name": np.int32, "is_graph": np.bool_}
    return kind(**{one.name: np.zeros(0, types.get(one.name, np.int64)) for one in attrs.fields(kind)})


def _nothing(capturing: frozenset[int] = frozenset()) -> _Left:
    return _Left(_no(Calls), np.zeros(0, np.int64), _no(Kernels), _no(MemOps), capturing)


def _both(one: _Rows, other: _Rows) -> _Rows:
    if not len(one):
        return other
    names = [column.name for column in attrs.fields(type(one))]
    return type(one)(**{name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in names})


def _join(ops: Kernels | MemOps, calls: Calls) -> Ints:
    """The call behind each operation, -1 for none."""
    return join_calls(ops.process, ops.correlation, process_of(calls.thread), calls.correlation, calls.start)
