"""What of a report is analyzed: a window of time, devices, processes.

It is chosen where rows are read, so that nothing behind knows of it::

    calls          those of the processes that begin in the window
    operations     what those calls launched on the devices; without a call, what begins in the window
    ranges         those of the processes that overlap the window, cut at its edges

A process that launched operations, and none on the devices, is left out. Of the calls of the others none is: what they
launched elsewhere is no launch here, and not lost either (`Trace.elsewhere`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from fractions import Fraction

import numpy as np
from attrs import evolve, field

from dsprof.arrays import NULL, Bools, Ints, join_calls
from dsprof.errors import SelectionEmpty
from dsprof.nsys import schema
from dsprof.nsys.about import duration_of
from dsprof.nsys.export import Columns, Export
from dsprof.records import frozen
from dsprof.trace import (
    CAPTURE_BEGIN,
    CAPTURE_END,
    Calls,
    Kernels,
    MemOps,
    Overheads,
    PythonSamples,
    Ranges,
    Report,
    Selection,
    pid_of,
    process_of,
    rows_of,
)

_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9}
_EDGE = r"(?:(\d{1,20}(?:\.\d{1,20})?)\s*(ns|us|µs|μs|ms|s|%))?"
_WINDOW = re.compile(rf"\s*{_EDGE}\s*\.\.\s*{_EDGE}\s*", re.ASCII)
#: No capture is longer (`nsys.possible`), no process and no device has a greater number.
_LONGEST, _GREATEST = 1 << 53, (1 << 31) - 1
_FOREVER = int(np.iinfo(np.int64).max)
#: So many processes and devices are named where another one was asked for.
_NAMED = 12


@frozen
class Edge:
    """An edge of a window: ns from the begin of the capture, or percent of its length."""

    value: Fraction
    percent: bool = False

    def at(self, duration: int) -> int:
        """When that is, in a capture of so many ns."""
        return int(self.value * duration / 100 if self.percent else self.value)


@frozen
class Window:
    """From `begin` on and before `end`; None: there is no such edge."""

    begin: Edge | None = None
    end: Edge | None = None


@frozen
class Wanted:
    """What of a report is asked for, before the report is known; all where nothing is."""

    window: Window | None = None
    devices: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()

    def over(self, other: Wanted) -> Wanted:
        """What is asked for here, and of each kind that is not asked for here the other's."""
        return Wanted(self.window or other.window, self.devices or other.devices, self.pids or other.pids)


#: All of a report.
ALL = Wanted()


def window_of(text: str) -> Window:
    """A window in words. Raises ValueError.

    >>> window_of("3s..5.5s").end.at(0), window_of("..10%").end.at(2_000), window_of("250ms..").end
    (5500000000, 200, None)
    """
    found = _WINDOW.fullmatch(text)
    begin, end = (_edge(*found.groups()[at : at + 2]) for at in (0, 2)) if found else (None, None)
    if begin is None and end is None:
        raise ValueError(
            f"'{text[:80]}' is no window like 3s..5s, ..5s, 250ms.. or 10%..90%: a number with ns, us, ms, s or % "
            "before or behind two dots."
        )
    if begin and end and begin.percent == end.percent and begin.value >= end.value:
        raise ValueError(f"'{text[:80]}' ends before anything is in it: its begin comes first, and is inside.")
    return Window(begin, end)


def _edge(number: str | None, unit: str | None) -> Edge | None:
    if number is None or unit is None:
        return None
    value = Fraction(number) * _UNITS.get(unit, 1)
    if value > (100 if unit == "%" else _LONGEST):
        raise ValueError(f"'{number}{unit}' is beyond the end of any capture.")
    return Edge(value, unit == "%")


def numbers_of(given: str | int | Iterable[int] | None) -> tuple[int, ...]:
    """Numbers of devices or processes, sorted, each once; with commas between in a text. Raises ValueError.

    >>> numbers_of("1, 0,1"), numbers_of(7), numbers_of([3])
    ((0, 1), (7,), (3,))
    """
    if given is None:
        return ()
    texts = given.split(",") if isinstance(given, str) else [given] if isinstance(given, int) else list(given)
    if not texts:
        raise ValueError("no number is named: leave it out to have all.")
    return tuple(sorted({_number(one) for one in texts}))


def _number(one: object) -> int:
    text = one.strip() if isinstance(one, str) else str(one)
    if isinstance(one, bool) or not re.fullmatch("[0-9]{1,10}", text) or int(text) > _GREATEST:
        raise ValueError(f"'{text[:40]}' is no number like 0 or 4711; several have commas between.")
    return int(text)


@frozen(eq=False)
class Chosen:
    """What is chosen of a report that is known.

    `processes`: globalPid, sorted, None for all; `low`, `high`: of the window, without an edge as far as int64 goes;
    `capturing`: threads that were in a stream capture when the window begins.
    """

    selection: Selection
    processes: Ints | None = None
    devices: tuple[int, ...] = ()
    low: int = NULL
    high: int = _FOREVER
    capturing: frozenset[int] = field(factory=frozenset)

    def of_process(self, process: Ints) -> Bools:
        """True for what is of the processes."""
        if self.processes is None:
            return np.ones(len(process), np.bool_)
        found: Bools = np.isin(process, self.processes)
        return found

    def on_device(self, device: Ints) -> Bools:
        """True for what ran on the devices."""
        found: Bools = np.isin(device, self.devices) if self.devices else np.ones(len(device), np.bool_)
        return found

    def begun(self, start: Ints) -> Bools:
        """True for what begins in the window."""
        inside: Bools = (start >= self.low) & (start < self.high)
        return inside

    def calls(self, raw: Columns) -> Bools:
        """True for the API calls, in columns, of the processes that begin in the window."""
        return self.begun(raw["start"]) & self.of_process(process_of(raw["globalTid"]))

    def ranges(self, ranges: Ranges) -> Ranges:
        """The ranges of the processes that overlap the window, cut at its edges.

        Of ranges that have the same edges then, those that had begun before come first, which nest the others.
        """
        overlaps = (ranges.start < self.high) & ((ranges.end > self.low) | (ranges.start >= self.low))
        ranges = rows_of(ranges, np.flatnonzero(overlaps & self.of_process(process_of(ranges.thread))))
        early, late = ranges.start < self.low, ranges.end > self.high
        if not (early | late).any():
            return ranges
        ranges = evolve(ranges, cut=early | late, truncated=ranges.truncated & ~late)
        order = np.lexsort((-ranges.end, ranges.start))
        inside = np.clip(ranges.start, self.low, None), np.clip(ranges.end, None, self.high)
        return rows_of(evolve(ranges, start=inside[0], end=inside[1]), order)

    def events(self, calls: Calls, kernels: Kernels, memops: MemOps) -> tuple[Calls, Kernels, MemOps, Bools | None]:
        """What is chosen of all events of a report, and which of the calls launched something on another device."""
        kept = self.begun(calls.start) & self.of_process(process_of(calls.thread))
        elsewhere = np.zeros(len(calls), np.bool_)
        chosen = []
        for ops in (kernels, memops):
            call = join_calls(ops.process, ops.correlation, process_of(calls.thread), calls.correlation, calls.start)
            alone = self.begun(ops.start) & self.of_process(ops.process)
            here, launched = self.on_device(ops.device), np.where(call >= 0, np.append(kept, False)[call], alone)
            elsewhere[call[(call >= 0) & ~here]] = True
            chosen.append(np.flatnonzero(here & launched))
        of_calls = np.flatnonzero(kept)
        return (
            rows_of(calls, of_calls),
            rows_of(kernels, chosen[0]),
            rows_of(memops, chosen[1]),
            elsewhere[of_calls] if self.devices else None,
        )

    def overheads(self, overheads: Overheads) -> Overheads:
        """What the profiler took of the time of the processes, as far as it overlaps the window."""
        overlaps = (overheads.start < self.high) & (overheads.end > self.low)
        return rows_of(overheads, np.flatnonzero(overlaps & self.of_process(process_of(overheads.thread))))

    def samples(self, samples: PythonSamples) -> PythonSamples:
        """The samples of the processes in the window."""
        rows = np.flatnonzero(self.begun(samples.start) & self.of_process(samples.process))
        columns = {name: getattr(samples, name)[rows] for name in ("start", "process", "thread", "stack")}
        return evolve(samples, **columns)

    def report(self, report: Report) -> Report:
        """What the report says of itself, and what is chosen of it."""
        return evolve(report, selection=self.selection)

    def nothing(self, report: Report) -> SelectionEmpty:
        """The error where nothing is chosen of a report that holds something."""
        lasts = f" It lasts {Selection(end_ns=report.duration_ns)}." if report.duration_ns else ""
        return SelectionEmpty(
            f"{report.file} holds nothing of what is selected ({self.selection}).",
            f"Times are from the begin of the capture.{lasts.replace('--window ..', '')}",
        )


def choose(export: Export, wanted: Wanted) -> Chosen | None:
    """What is chosen of an export; None for all of it. Raises `SelectionEmpty` for what is not in it."""
    if wanted == ALL:
        return None
    low, high = _times(export, wanted.window)
    selection = Selection(None if low == NULL else low, None if high == _FOREVER else high, wanted.devices, wanted.pids)
    processes = _processes(export, wanted) if wanted.devices or wanted.pids else None
    capturing = _capturing(export, low) if low != NULL else frozenset[int]()
    return Chosen(selection, processes, wanted.devices, low, high, capturing)


def _times(export: Export, window: Window | None) -> tuple[int, int]:
    """When the window begins and ends; percent are of the capture's length, or else until the last event."""
    if window is None:
        return NULL, _FOREVER
    edges = (window.begin, window.end)
    lasts = _lasts(export) if any(edge is not None and edge.percent for edge in edges) else 0
    low, high = (usual if edge is None else edge.at(lasts) for edge, usual in zip(edges, (NULL, _FOREVER), strict=True))
    if low >= high:
        raise SelectionEmpty(
            f"In {export.name} the window {Selection(low, high)} ends before it begins.".replace("--window ", ""),
            "Give both edges in the same unit.",
        )
    return low, high


def _lasts(export: Export) -> int:
    if duration := duration_of(export):
        return duration
    tables = [source.table for source in schema.EVENTS if export.has(source.table, "start", "end")]
    return max(map(export.last_end, tables), default=0)


def _processes(export: Export, wanted: Wanted) -> Ints:
    """The processes that are wanted and worked on the devices, or on none. Raises `SelectionEmpty`."""
    threads = [source.table for source in (schema.RANGES, schema.CALLS) if export.has(source.table, "globalTid")]
    callers = {table: {thread & ~0xFFFFFF for (thread,) in export.distinct(table, "globalTid")} for table in threads}
    worked: set[tuple[int, int]] = set()
    calling = callers.get(schema.RUNTIME, set())
    for source in schema.OPERATIONS:
        if export.has(source.table, "start"):
            worked |= {_where_of(row, calling) for row in export.distinct(source.table, "globalPid", "deviceId")}
    every = set().union(*callers.values(), (process for process, _ in worked if process != NULL))
    pids = {pid_of(process) for process in every}
    _refuse(export, "--pid", "process", wanted.pids, pids)
    _refuse(export, "--device", "device", wanted.devices, {device for _, device in worked if device != NULL})
    elsewhere = {process for process, _ in worked} - {process for process, at in worked if at in wanted.devices}
    chosen = every - (elsewhere if wanted.devices else set())
    if wanted.pids:
        chosen = {process for process in chosen if pid_of(process) in wanted.pids}
    elif any(process == NULL for process, _ in worked):
        chosen.add(NULL)  # operations of which no file says the process
    return np.array(sorted(chosen), np.int64)


def _where_of(row: tuple[int, ...], callers: set[int]) -> tuple[int, int]:
    """Process and device of operations; a process that is not named is the only one that called, else NULL."""
    process, device = row
    return (next(iter(callers)) if process == NULL and len(callers) == 1 else process, device)


def _refuse(export: Export, option: str, what: str, wanted: tuple[int, ...], there: set[int]) -> None:
    missing = [number for number in wanted if number not in there]
    if missing:
        named = ", ".join(map(str, sorted(there)[:_NAMED])) + ", …" * (len(there) > _NAMED)
        raise SelectionEmpty(
            f"{export.name} has no {what} {missing[0]}.",
            f"{option} may name {named}." if there else f"It has no {what} with anything in it.",
        )


def _capturing(export: Export, low: int) -> frozenset[int]:
    """The threads that are in a stream capture when the window begins: what they launch there launches nothing."""
    columns = ("start", "globalTid", "nameId", "correlationId")
    if not (export.has(schema.RUNTIME, *columns) and export.has(schema.STRINGS, "id", "value")):
        return frozenset()
    change = {
        int(number): step
        for names, step in ((CAPTURE_BEGIN, 1), (CAPTURE_END, -1))
        for name in names
        for (number,) in export.rows(f"SELECT id FROM {schema.STRINGS} WHERE value GLOB '{name}*'")
    }
    depth, seen = Counter[int](), set[tuple[int, int]]()
    for thread, name, number in _calls_before(export, low, list(change)):
        call = (pid_of(thread), number)
        if number in (NULL, 0) or call not in seen:  # of two rows of one call the first counts
            depth[thread] += change[name]
            seen.add(call)
    return frozenset(thread for thread, open_ in depth.items() if open_ > 0)


def _calls_before(export: Export, low: int, names: list[int]) -> Iterator[tuple[int, ...]]:
    """Thread, name and id of the calls of some names that begin before `low`, by their begin; as they are stored."""
    columns = ("start", "globalTid", "nameId", "correlationId")
    found = [np.zeros((len(columns), 0), np.int64)]
    for raw in export.blocks(schema.RUNTIME, columns):
        rows = np.flatnonzero(np.isin(raw["nameId"], names) & (raw["start"] < low))
        found.append(np.stack([raw[name][rows] for name in columns]))
    start, *told = np.concatenate(found, axis=1)
    order = np.argsort(start, kind="stable")
    yield from zip(*(column[order].tolist() for column in told), strict=True)
