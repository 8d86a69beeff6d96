"""A report in parts: as much of it at a time as a limit of memory allows.

::

    launches   x x  x x x | x  x x x x | x x  x          cut in time: a part has what was launched in it
    kernels      [-] [----|--][-] [-]  |[-] [-]          and, carried over, what still runs or is still called

The ranges, which are few beside the rest, are there whole in every part. A part knows all operations that its calls
launched, whenever they ran, so counts and sums of parts add up; and all that took time in its own stretch of time, so
times that are unions of intervals add up, too. `Part` in `dsprof.trace` says which rows are which.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import attrs
import numpy as np
from attrs import frozen

from dsprof.attribution import NULL, Ints, join_calls
from dsprof.errors import MemoryTooSmall
from dsprof.nsys import schema
from dsprof.nsys.about import report_of
from dsprof.nsys.export import Columns, Export, Names
from dsprof.nsys.reader import Progress, nothing_recorded
from dsprof.nsys.rows import calls_of, kernels_of, memops_of, overheads_of, ranges_of
from dsprof.nsys.survey import Blocks, Survey
from dsprof.stages import CUDA_GRAPH
from dsprof.trace import Calls, Kernels, MemOps, Part, Trace, process_of

# What an analysis takes at its peak, in bytes: by itself, and for each row.
_BYTES_ALONE, _BYTES_PER_RANGE, BYTES_PER_CALL, BYTES_PER_OP = 230 << 20, 700, 330, 560
#: Rows of a part that is as quick to work on as any: more do not fit a processor's caches.
_COMFORTABLE_ROWS = 1 << 20
#: Rows of the smallest part that is worth a limit.
_LEAST_ROWS = 1 << 16
#: Parts are made so much smaller than the limit would allow: rows are not spread evenly over time.
_SPARE = 0.7
_FOREVER = int(np.iinfo(np.int64).max)
_Rows = TypeVar("_Rows", Calls, Kernels, MemOps)


@frozen
class Size:
    """How many rows a report has, and so the memory that an analysis of it takes."""

    ranges: int
    calls: int
    ops: int

    @property
    def fixed_bytes(self) -> int:
        """What it takes however small its parts are."""
        return _BYTES_ALONE + _BYTES_PER_RANGE * self.ranges + self.calls

    @property
    def whole_bytes(self) -> int:
        """What it takes in one part."""
        return self.fixed_bytes + BYTES_PER_CALL * self.calls + BYTES_PER_OP * self.ops

    def parts(self, limit: int | None) -> int:
        """In how many parts it stays below so many bytes, and is quick to work on. Raises `MemoryTooSmall`."""
        rows = self.calls + self.ops
        comfortable = -(-rows // _COMFORTABLE_ROWS) if rows > 2 * _COMFORTABLE_ROWS else 1
        if limit is None or self.whole_bytes <= limit:
            return comfortable
        left = int((limit - self.fixed_bytes) * _SPARE)
        least = _LEAST_ROWS * (BYTES_PER_CALL + BYTES_PER_OP)
        if left < least:
            needed = self.fixed_bytes + int(least / _SPARE)
            raise MemoryTooSmall(
                f"The report has {self.ranges} ranges and {self.calls} API calls, and cannot be analyzed in "
                f"{limit / 1e9:.2f} GB of memory.",
                f"Give it {needed / 1e9 + 0.005:.2f} GB or more with --memory.",
            )
        return max(comfortable, -(-(self.whole_bytes - self.fixed_bytes) // left))


def size_of(path: Path) -> Size:
    """How many rows the export has. Raises `ReportDamaged` and `NvprofDatabase`."""

    def rows(export: Export, *sources: schema.Source) -> int:
        """The last rowid: at once, and no less than what is there in a file that nsys wrote."""
        present = [source.table for source in sources if source.table in export.columns]
        return sum(int(export.rows(f'SELECT max(rowid) FROM "{table}"')[0][0] or 0) for table in present)

    with Export(path) as export:
        export.sniff()
        return Size(rows(export, schema.RANGES), rows(export, schema.CALLS), rows(export, *schema.OPERATIONS))


class CutTooLate(Exception):
    """An operation began at `began`, before the `cut`, and was launched after it: the two clocks disagree."""

    def __init__(self, cut: int, began: int) -> None:
        super().__init__(f"an operation that was launched after {cut} began at {began}")
        self.cut, self.began = cut, began


class PartialReport:
    """A report that is read part by part, any number of times; `trace` has its ranges and no events."""

    def __init__(
        self, path: Path, parts: int, details: bool = True, progress: Progress = lambda sentence: None
    ) -> None:
        self.path, self._details, self._progress = path, details, progress
        with Export(path) as export:
            export.sniff()
            progress("reading names and ranges")
            self._names = Names(export)
            ranges, overheads, report = ranges_of(export, self._names), overheads_of(export), report_of(export)
            self._names.code(CUDA_GRAPH)
            progress("looking where to cut")
            self._survey = Survey(export)
        if not len(ranges) and self._survey.is_empty:
            raise nothing_recorded(path)
        calls, kernels, memops = _no(Calls), _no(Kernels), _no(MemOps)
        self.trace = Trace(report, self._names.all(), ranges, calls, kernels, memops, overheads)
        self.cuts = self._survey.cuts(parts, BYTES_PER_CALL, BYTES_PER_OP)

    def parts(self) -> Iterator[Trace]:
        """Each part in turn, the next one read ahead. Raises `CutTooLate`: after `cut_earlier`, begin again."""
        bounds = list(itertools.pairwise([NULL, *self.cuts, _FOREVER]))
        with Export(self.path) as export, ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._part, export, self.trace, *bounds[0])
            for number in range(1, len(bounds) + 1):
                self._progress(f"working on part {number} of {len(bounds)}")
                part = coming.result()
                if number < len(bounds):
                    coming = reader.submit(self._part, export, part, *bounds[number])
                yield part

    def cut_earlier(self, late: CutTooLate) -> None:
        """Move the cut that an operation lies across to where the operation began."""
        self.cuts = sorted({late.began if cut == late.cut else cut for cut in self.cuts})

    def _part(self, export: Export, before: Trace, low: int, high: int) -> Trace:
        survey, called = self._survey, _still_called(before, low)
        made = calls_of(survey.calls.read_between(export, low, high), self._names, _identities(called))
        kernels, graphs, copies, sets = (
            self._launched(export, blocks, made, low, high) for blocks in survey.operations
        )
        running = _rows(before.kernels, np.flatnonzero(before.kernels.end > low))
        moving = _rows(before.memops, np.flatnonzero(before.memops.end > low))
        return attrs.evolve(
            self.trace,
            calls=_both(called, made),
            kernels=_both(running, kernels_of(kernels, graphs, self._names, survey.caller)),
            memops=_both(moving, memops_of(copies, sets, survey.caller)),
            part=Part(low, high, len(called), len(running), len(moving), before.capturing_at_end()),
        )

    def _launched(self, export: Export, blocks: Blocks, calls: Calls, low: int, high: int) -> Columns:
        """The operations that these calls launched, and those in ``[low, high)`` that no call launched."""
        survey, caller = self._survey, process_of(calls.thread)
        wanted = blocks.with_ids(caller, calls.correlation) | (blocks.orphans & blocks.between(low, high))
        raw = blocks.read(export, wanted, self._details)
        process, number, start = survey.process(raw["globalPid"]), raw["correlationId"], raw["start"]
        joined = join_calls(process, number, caller, calls.correlation, calls.start) >= 0
        if (began := int(start[joined].min(initial=_FOREVER))) < low:
            raise CutTooLate(low, began)
        lone = (start >= low) & (start < high) & ~survey.seen.has(process, number)
        kept = np.flatnonzero(joined | lone)
        return {name: column[kept] for name, column in raw.items()}


def _no(kind: type[_Rows]) -> _Rows:
    types = {"name": np.int32, "is_graph": np.bool_}
    return kind(**{one.name: np.zeros(0, types.get(one.name, np.int64)) for one in attrs.fields(kind)})


def _rows(of: _Rows, rows: Ints) -> _Rows:
    return type(of)(**{one.name: getattr(of, one.name)[rows] for one in attrs.fields(type(of))})


def _both(one: _Rows, other: _Rows) -> _Rows:
    if not len(one):
        return other
    names = [column.name for column in attrs.fields(type(one))]
    return type(one)(**{name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in names})


def _still_called(before: Trace, low: int) -> Calls:
    """The calls of the part before that last beyond its end, or launched something that does."""
    calls, ops = before.calls, before.operations
    late = np.flatnonzero(ops.end > low)
    callers = join_calls(
        ops.process[late], ops.correlation[late], process_of(calls.thread), calls.correlation, calls.start
    )
    kept = calls.end > low
    kept[callers[callers >= 0]] = True
    return _rows(calls, np.flatnonzero(kept))


def _identities(calls: Calls) -> Columns:
    return {"globalTid": calls.thread, "correlationId": calls.correlation, "start": calls.start}
