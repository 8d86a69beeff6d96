"""The results of an analysis: `Fresh` works them out when they are asked for, `Stored` finds them in a folder."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Concatenate, ParamSpec, Protocol, TypeVar

import pyarrow as pa

from dsprof import findings
from dsprof.analysis.parquet import (
    Asked,
    Condition,
    RowsInFile,
    RowsInMemory,
    parquet,
    rows_that,
    write_parquet,
    write_table,
)  # fmt: skip
from dsprof.analysis.work import ReportReader, Work
from dsprof.answers.checks import check, requests_apart, warm_ups
from dsprof.answers.engine_checks import check_engines
from dsprof.answers.rank_checks import check_ranks
from dsprof.answers.replay import Replay, SampleReplay
from dsprof.answers.roofs import StageRoofs
from dsprof.answers.what_if import Changes, WhatIf, what_if
from dsprof.arrays import backend
from dsprof.errors import UnknownTable
from dsprof.facts import Facts, Measure, measures_behind
from dsprof.findings import Finding
from dsprof.ground.versions import our_version
from dsprof.measures.tally import Tally
from dsprof.nsys.reader import Progress
from dsprof.rules.rules import Rules
from dsprof.show.summary import TOP_KERNELS, Summary, summarize
from dsprof.tables import all_tables, known_table
from dsprof.tables._table import EventTable, Table
from dsprof.trace import Report

P = ParamSpec("P")
T = TypeVar("T")
#: Tables that the summary and the check of the sums are made from.
_SUMMED = ("kern_sum", "range_sum", "stage_sum", "stage_trace", "request_trace", "step_sum", "step_trace", "engine_sum",
           "stage_kern_sum", "stage_family_sum", "stage_roof_trace", "host_python_sum", "layer_sum",
           "rank_sum")  # fmt: skip


class Results(Protocol):
    """What an analysis says, wherever it has it from."""

    @property
    def report(self) -> Report:
        """What the report says of itself."""

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the report lacks or hides, and whether the tables reconcile with it."""

    @property
    def in_memory(self) -> bool:
        """Is all that it says made of what is in memory, or written already?"""

    def arrow(self, name: str) -> pa.Table:
        """The table `name` as Arrow. Raises `UnknownTable`."""

    def rows_where(self, *asked: Asked) -> list[pa.Table]:
        """Columns of those rows of each table for which all its conditions hold. Raises `UnknownTable`."""

    def file(self, name: str) -> BinaryIO:
        """The table `name` as a Parquet file, opened. Raises `UnknownTable`."""

    def summary(self, top: int) -> Summary:
        """The first screen as data, with the `top` kernels of each stage."""

    def write(self, names: tuple[str, ...], folder: Path, progress: Progress) -> None:
        """Write some tables as ``<table>.parquet``. Raises OSError."""


def _on_its_backend(method: Callable[Concatenate[Fresh, P], T]) -> Callable[Concatenate[Fresh, P], T]:
    """A method that works with the backend of its results, in whichever thread it is called."""

    @functools.wraps(method)
    def wrapped(self: Fresh, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with backend.using(self._backend):
            return method(self, *args, **kwargs)

    return wrapped


def _those(alternatives: Sequence[Sequence[Condition]]) -> Callable[[pa.Table], pa.Table]:
    """What keeps the rows of a table that fulfil one of some conditions."""
    return lambda table: rows_that(table, *alternatives)


class Fresh:
    """Results that are worked out from a report, each when it is asked for; with the backend of the one who makes it.

    `tables`: those that are wanted; of a report in many parts all are measured for when one is asked for.
    """

    def __init__(self, source: ReportReader, rules: Rules, tables: Iterable[str]) -> None:
        self.report, self._wanted = source.trace.report, tuple(tables)
        self._work = Work(source, rules, self._metadata)
        self.facts = self._work.facts
        self._backend = backend.current()
        self._arrow: dict[str, pa.Table] = {}
        self._summaries: dict[int, Summary] = {}

    @property
    def in_memory(self) -> bool:
        """Is the report in memory, and not worked on in parts?"""
        return self._work.keeps_its_part

    @_on_its_backend
    def arrow(self, name: str) -> pa.Table:
        """The table `name` as Arrow, units and sentences in its fields' metadata. Raises `UnknownTable`."""
        table = known_table(name)
        if isinstance(table, EventTable) and name not in self._wanted:
            raise UnknownTable(f"{name} was left out of this analysis.", "Name it among the tables that are wanted.")
        if name not in self._arrow:
            self._arrow[name] = self._rows(table) if isinstance(table, EventTable) else self._built(table)
        return self._arrow[name]

    @_on_its_backend
    def rows_where(self, *asked: Asked) -> list[pa.Table]:
        """Columns of those rows of each table for which all its conditions hold. Raises `UnknownTable`.

        Of events all rows are made, in pieces, and no others kept; of a report in many parts it is gone through again,
        once for all that is asked.
        """
        wanted: dict[EventTable, list[Sequence[Condition]]] = {}
        for name, _, conditions in asked:
            table = known_table(name)
            if isinstance(table, EventTable) and name not in self._arrow:
                wanted.setdefault(table, []).append(conditions)
        rows = {table: RowsInMemory(_those(some)) for table, some in wanted.items()}
        if rows:
            self._work.through([], rows)
        found = {table.name: kept.table() for table, kept in rows.items()}
        return [
            rows_that(found[name] if name in found else self.arrow(name), conditions).select(list(columns))
            for name, columns, conditions in asked
        ]

    def file(self, name: str) -> BinaryIO:
        """The table `name` as a Parquet file that has no name, opened. Raises `UnknownTable`."""
        table = self.arrow(name)
        file = os.fdopen(os.memfd_create(name), "w+b")
        write_table(table, file)
        file.flush()
        return file

    def _rows(self, table: EventTable) -> pa.Table:
        rows = RowsInMemory()
        self._work.through([], {table: rows})
        return rows.table()

    def _built(self, table: Table) -> pa.Table:
        self._measure(table.measures)
        return table.arrow(self.facts, self._metadata)

    def _measure(self, kinds: Iterable[type[Measure]]) -> None:
        """Measure what is asked for; of a report in many parts all that may be.

        For whoever looks at one table will look at another, and to go through the parts again takes longer than that.
        """
        asked = [kind for kind in kinds if kind not in self.facts]
        if asked and not self._work.keeps_its_part:
            asked += _measures(self._wanted)
        self._work.measure(asked)

    @_on_its_backend
    def fact(self, kind: type[T]) -> T:
        """A fact of the report that measures tell, whatever table it is for."""
        self._measure([kind] if issubclass(kind, Measure) else measures_behind(kind.take))  # type: ignore[attr-defined]
        return self.facts[kind]

    @_on_its_backend
    def each(self, take: Callable[[Facts], T], give: Callable[[T], object]) -> None:
        """Take something of each part of the report, and give it on in the order of the parts."""
        self._measure(_measures(()) if not self._work.keeps_its_part else ())
        self._work.each(take, give)

    @cached_property
    def _metadata(self) -> dict[str, str]:
        return {
            "dsprof.version": our_version(),
            "dsprof.report_sha256": self.report.sha256,
            "dsprof.nsys_export": self.report.exporter,
            "dsprof.nsys_schema": self.report.schema,
            "dsprof.gpu": ", ".join(gpu.name for gpu in self.report.gpus),
            "dsprof.selection": str(self.report.selection),
        }

    @cached_property
    @_on_its_backend
    def findings(self) -> tuple[Finding, ...]:
        """What the report lacks or hides, and whether the tables reconcile with it."""
        self._measure(_measures(()))
        found = (*self.facts.call(check), *self.facts.call(check_engines), *self.facts.call(warm_ups))
        found = (
            *found,
            *self.facts.call(requests_apart),
            *self.facts.call(check_ranks, selected=self.report.selection),
        )
        return (*found, *self.facts[StageRoofs].trouble, *self._unreconciled())

    def _unreconciled(self) -> list[Finding]:
        """Tables whose sums are not the report's; there should never be one."""
        seen = self.facts[Tally]
        whole = (seen.kernels, seen.kernel_total_ns)
        checked = (
            ("kern_sum", "instances", "total_ns"),
            ("stage_kern_sum", "instances", "total_ns"),
            ("stage_family_sum", "instances", "total_ns"),
            ("stage_sum", "kernels_total", "kernel_total_ns"),
            ("layer_sum", "exclusive_kernels", "exclusive_total_ns"),
        )
        sums = [
            (name, (_sum(self.arrow(name), count), _sum(self.arrow(name), total))) for name, count, total in checked
        ]
        return [findings.unreconciled(name, found, whole) for name, found in sums if found != whole]

    @_on_its_backend
    def summary(self, top: int = TOP_KERNELS) -> Summary:
        """The first screen as data, with the `top` kernels of each stage."""
        if top not in self._summaries:
            self._measure(_measures(()))
            tables = {name: self.arrow(name) for name in _SUMMED}
            self._summaries[top] = summarize(self.facts, tables, self.findings, our_version(), top)
        return self._summaries[top]

    @_on_its_backend
    def what_if(self, changes: Changes) -> WhatIf:
        """What steps would take with some changes. Raises `NotPredictable`."""
        self._measure(measures_behind(Replay.take))
        return self.facts.call(what_if, replay=self.facts[Replay], changes=changes)

    @_on_its_backend
    def write(self, names: tuple[str, ...], folder: Path, progress: Progress) -> None:
        """Write tables; those of events as their parts come by. Raises OSError."""
        tables = [known_table(name) for name in names]
        events = [table for table in tables if isinstance(table, EventTable)]
        with contextlib.ExitStack() as stack:
            files = {table: stack.enter_context(RowsInFile(parquet(folder, table.name))) for table in events}
            for event_table in events:
                progress(f"writing {event_table.name}")
                if event_table.name in self._arrow:
                    files.pop(event_table).put(self._arrow[event_table.name])
            if files or not self._work.keeps_its_part:
                self._work.through(_measures(names), files)
        for table in tables:
            if table not in events:
                progress(f"writing {table.name}")
                write_parquet(self.arrow(table.name), parquet(folder, table.name))


def _measures(tables: Iterable[str]) -> list[type[Measure]]:
    """All that some tables, the summary and the findings are made of, each once."""
    asked = [*measures_behind(check), *measures_behind(StageRoofs.take), *measures_behind(SampleReplay.take)]
    for name in dict.fromkeys((*tables, *_SUMMED)):
        table = all_tables()[name]
        asked += () if isinstance(table, EventTable) else table.measures
    return list(dict.fromkeys(asked))


def _sum(table: pa.Table, column: str) -> int:
    return sum(value or 0 for value in table.column(column).to_pylist())
