"""Goes through the parts of a report, once for all that is asked: measures that are merged, rows of tables of events.

A report that fits into memory is one part, which stays there; a larger one is read anew for each time through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import pyarrow as pa

from dsprof.analysis.parquet import OrderedRows
from dsprof.arrays.backend import Workers
from dsprof.attribute.modules import ModuleRanges
from dsprof.attribute.nccl import NcclRanges
from dsprof.attribute.ranges import RangeTree, prepare
from dsprof.attribute.stages import StageRanges
from dsprof.facts import Facts, Measure, MergeTree
from dsprof.nsys.parts import CutTooLate
from dsprof.records import frozen
from dsprof.rules.families import FamilyCodes
from dsprof.rules.rules import Rules
from dsprof.tables._table import EventTable
from dsprof.trace import Trace

T = TypeVar("T")
Rows = Mapping[EventTable, OrderedRows]


class ReportReader(Protocol):
    """A report that is read in parts."""

    @property
    def trace(self) -> Trace:
        """The ranges, and what the report says of itself."""

    @property
    def at_once(self) -> int:
        """How many parts may be there at once."""

    def parts(self) -> Iterator[Trace]:
        """Each part in turn. Raises `CutTooLate`: after `cut_earlier`, begin again."""

    def cut_earlier(self, late: CutTooLate) -> None:
        """Cut somewhere else, before an operation that began before its part."""


@frozen
class WholeReport:
    """A report that is read already, and is its only part."""

    trace: Trace
    at_once: int = 1

    def parts(self) -> Iterator[Trace]:
        """That part."""
        yield self.trace

    def cut_earlier(self, late: CutTooLate) -> None:
        """Nothing was cut."""
        raise late


class Work:
    """What is asked of a report under some rules; `facts` holds what is known of it as a whole."""

    def __init__(self, source: ReportReader, rules: Rules, metadata: Mapping[str, str]) -> None:
        tree = RangeTree(source.trace)
        staged = StageRanges(tree, rules)
        self._source, self._metadata = source, metadata
        families, modules = FamilyCodes(tree.names, rules.families), ModuleRanges(tree, staged, source.trace.nodes)
        nccl = NcclRanges(tree, source.trace.nccl, source.trace.nodes)
        self._shared = (tree, staged, rules, families, modules, source.trace.samples, nccl)
        self.facts = Facts(*self._shared)
        self._only_part = Facts(source.trace, *self._shared) if isinstance(source, WholeReport) else None

    @property
    def keeps_its_part(self) -> bool:
        """Is the report in memory, so that to ask again is cheap?"""
        return self._only_part is not None

    def measure(self, kinds: Iterable[type[Measure]]) -> None:
        """Add to `facts` those of some measures that are not there."""
        wanted = [kind for kind in dict.fromkeys(kinds) if kind not in self.facts]
        if wanted:
            self.through(wanted, {})

    def through(self, kinds: Iterable[type[Measure]], rows: Rows) -> None:
        """Go through all parts, for some measures, and for the rows of some tables of events."""
        wanted = [kind for kind in dict.fromkeys(kinds) if kind not in self.facts]
        while True:
            try:
                return self._through(wanted, rows)
            except CutTooLate as late:
                self._source.cut_earlier(late)
                for begun in rows.values():
                    begun.begin_again()

    def each(self, take: Callable[[Facts], T], give: Callable[[T], object]) -> None:
        """Take something of each part, some at once, and give it on, one after another in the order of the parts.

        Nothing that was given can be taken back, so a pass before must have told that the cuts hold.
        """
        for taken in self._from_parts(take):
            give(taken)
            del taken  # before the next one is waited for

    def _through(self, kinds: list[type[Measure]], rows: Rows) -> None:
        merged: dict[type[Measure], MergeTree[Any]] = {kind: MergeTree() for kind in kinds}
        for taken in self._taken(kinds, list(rows)):
            for kind, measure in taken.measures.items():
                merged[kind].add(measure)
            for table, pieces in taken.pieces.items():
                rows[table].add(pieces, taken.high)
            del taken  # before the next one is waited for
        for sink in rows.values():
            sink.finish()
        self.facts.add(*(found.whole() for found in merged.values()))

    def _taken(self, kinds: list[type[Measure]], tables: list[EventTable]) -> Iterator[_Taken]:
        """All that is wanted of each part."""

        def work(part: Facts) -> _Taken:
            taken = self._take(part, kinds, tables)
            if self.keeps_its_part:
                return taken
            return _Taken(taken.measures, {table: list(pieces) for table, pieces in taken.pieces.items()}, taken.high)

        return self._from_parts(work)

    def _from_parts(self, work: Callable[[Facts], T]) -> Iterator[T]:
        """What is found in each part, in their order; some parts are worked on at once."""
        if self._only_part is not None:
            yield work(self._only_part)
            return
        for shared in self._shared:
            prepare(shared)
        with Workers(self._source.at_once) as workers:
            ahead, parts = self._source.at_once, self._source.parts()
            yield from workers.in_turn(lambda trace: work(Facts(trace, *self._shared)), parts, ahead)

    def _take(self, part: Facts, kinds: list[type[Measure]], tables: list[EventTable]) -> _Taken:
        measures = {kind: part[kind] for kind in kinds}
        pieces = {table: table.pieces(part, self._metadata) for table in tables}
        return _Taken(measures, pieces, part[Trace].part.high)


@frozen(eq=False)
class _Taken:
    """What was taken of a part: measures by their kinds, rows of tables of events, and when the part ends."""

    measures: dict[type[Measure], Measure]
    pieces: Mapping[EventTable, Iterable[pa.Table]]
    high: int
