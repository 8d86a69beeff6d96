"""`analyze`: from a report to tables; `Analysis`: the tables of one report, built when they are asked for."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dsprof import findings
from dsprof.attributed import Attributed, Rules, Threads
from dsprof.errors import OutputRefused, UnknownTable
from dsprof.families import read_rules
from dsprof.findings import Finding
from dsprof.measures import check, range_sums, tally
from dsprof.model_record import find_record, read_record
from dsprof.nsys.locate import locate
from dsprof.nsys.parts import CutTooLate, PartialReport, size_of
from dsprof.nsys.reader import Progress, read
from dsprof.parquet import Gathered, InOrder, Written, parquet, write_parquet
from dsprof.roofs import stage_roofs
from dsprof.summary import Summary, summarize
from dsprof.table import Table
from dsprof.tables import all_tables
from dsprof.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

    from dsprof.measure import Measure

#: How many kernels of each stage a summary names unless it is told otherwise.
TOP_KERNELS = 5


def analyze(
    path: str | os.PathLike[str],
    *,
    stages: Mapping[str, str] | None = None,
    step: str | None = None,
    threads: Threads = "thread",
    families: str | os.PathLike[str] | None = None,
    memory: int | None = None,
    model_config: str | os.PathLike[str] | None = None,
    nsys: str | None = None,
    progress: Progress = lambda sentence: None,
) -> Analysis:
    """Read a report and tie its kernels to its stages.

    `path`: an SQLite export, a ``.nsys-rep`` or ``.qdrep`` (exported with the nsys that is found, beside the
    report), or a session folder. `stages`: more stages, or other patterns for the usual ones, as regular
    expressions searched for in range names. `step`: the pattern of decode steps. `threads`: ``"process"``
    gives launches of threads without a stage the one that is open in their process. `families`: a TOML file of
    rules for kernel families, put before the usual ones. `model_config`: the file that says which model ran, for
    roofs; by default what lies beside the report (``<report>.model.json``, a capture's ``session.json``). `memory`:
    bytes that the analysis may take; a report that would take more is worked through in parts, with the same results.
    `progress` is told what is being done. Raises a `DsprofError` that says what to do.

    >>> analysis = analyze("run.nsys-rep")          # doctest: +SKIP
    >>> analysis["stage_kern_sum"].head()           # doctest: +SKIP
    """
    own = read_rules(Path(families)) if families is not None else ()
    named = read_record(Path(model_config)) if model_config is not None else None
    report, exported = locate(Path(path), nsys, progress)
    usual = Rules()
    model = named or find_record(report)
    rules = Rules({**usual.stages, **(stages or {})}, step or usual.step, threads, (*own, *usual.families), model)
    parts = 1 if memory is None else size_of(exported).parts(memory)
    if parts == 1:
        return Analysis(read(exported, progress), rules, report)
    partial = PartialReport(exported, parts, progress=progress)
    return Analysis(partial.trace, rules, report, partial)


class Analysis(Mapping[str, "pd.DataFrame"]):
    """The tables of one report, by name, as DataFrames: ``analysis["kern_sum"]``.

    Text columns are categories, int64 columns that can miss a value are pandas' nullable ``Int64``. `partial`: the
    report is read in parts, so as not to be in memory at once; then `trace` is its ranges alone.
    """

    def __init__(
        self,
        trace: Trace,
        rules: Rules | None = None,
        path: Path | None = None,
        partial: PartialReport | None = None,
    ) -> None:
        self.path = path
        self.attributed = Attributed(trace, rules)
        self._partial = partial
        self._arrow: dict[str, pa.Table] = {}

    # -- tables -----------------------------------------------------------------------------------------

    def arrow(self, name: str) -> pa.Table:
        """The table `name` as Arrow, units and sentences in its fields' metadata. Raises `UnknownTable`."""
        table = known_table(name)
        if name not in self._arrow:
            if table.of_events and self._partial is not None:
                rows = Gathered()
                self._work_through({table: rows})
                self._arrow[name] = rows.table()
            else:
                self._arrow[name] = table.arrow(self._measured(), self._metadata)
        return self._arrow[name]

    def _measured(self) -> Attributed:
        """What the tables are built from; of a report in parts, once all parts were measured."""
        if self._partial is not None and not self.attributed.measured:
            self._work_through({})
        return self.attributed

    def _work_through(self, rows: Mapping[Table, InOrder]) -> None:
        """Go through the parts of the report once: take all measures, and the rows of some tables of events."""
        assert self._partial is not None  # noqa: S101 - the callers asked
        whole = self.attributed
        measures = [] if whole.measured else _measures()
        while True:
            try:
                whole.measured |= self._gather(self._partial, rows, measures)
            except CutTooLate as late:
                self._partial.cut_earlier(late)
                for begun in rows.values():
                    begun.begin_again()
            else:
                return

    def _gather(
        self, partial: PartialReport, rows: Mapping[Table, InOrder], measures: list[Measure[Any]]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.attributed.prepare()
        for trace in partial.parts():
            part = Attributed(trace, self.attributed.rules, self.attributed)
            for measure in measures:
                measure.add(found, part)
            for table, sink in rows.items():
                sink.add(table.arrow(part, self._metadata), trace.part.high)
        for sink in rows.values():
            sink.finish()
        return found

    def __getitem__(self, name: str) -> pd.DataFrame:
        table = self.arrow(name)
        frame = table.to_pandas(integer_object_nulls=True)
        nullable = [field.name for field in table.schema if field.nullable and pa.types.is_int64(field.type)]
        typed: pd.DataFrame = frame.astype(dict.fromkeys(nullable, "Int64"))
        return typed

    def __iter__(self) -> Iterator[str]:
        return iter(all_tables())

    def __len__(self) -> int:
        return len(all_tables())

    @cached_property
    def _metadata(self) -> dict[str, str]:
        report = self.attributed.trace.report
        return {
            "dsprof.version": version("dsprof"),
            "dsprof.report_sha256": report.sha256,
            "dsprof.nsys_export": report.exporter,
            "dsprof.nsys_schema": report.schema,
            "dsprof.gpu": ", ".join(gpu.name for gpu in report.gpus),
        }

    # -- what it says -----------------------------------------------------------------------------------

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """What the report lacks or hides, and whether the tables reconcile with it."""
        a = self._measured()
        return (*check(a), *stage_roofs(a).trouble, *self._unreconciled())

    def _unreconciled(self) -> list[Finding]:
        """Tables whose sums are not the report's; there should never be one."""
        seen = tally(self._measured())
        whole = (seen.kernels, seen.kernel_total_ns)
        checked = (
            ("kern_sum", "instances", "total_ns"),
            ("stage_kern_sum", "instances", "total_ns"),
            ("stage_family_sum", "instances", "total_ns"),
            ("stage_sum", "kernels_total", "kernel_total_ns"),
        )
        sums = [
            (name, (_sum(self.arrow(name), count), _sum(self.arrow(name), total))) for name, count, total in checked
        ]
        return [findings.unreconciled(name, found, whole) for name, found in sums if found != whole]

    def summary(self, top: int = TOP_KERNELS) -> Summary:
        """The first screen as data, with the `top` kernels of each stage."""
        wanted = ("stage_sum", "stage_trace", "stage_kern_sum", "stage_family_sum", "stage_roof_trace")
        tables = {name: self.arrow(name) for name in wanted}
        return summarize(self.attributed, tables, self.findings, version("dsprof"), top)

    def _repr_html_(self) -> str:
        from dsprof.render.html import summary_html

        return summary_html(self.summary())

    def __repr__(self) -> str:
        return f"<dsprof.Analysis of {self.attributed.trace.report.file}: {', '.join(self)}>"

    # -- files ------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where `write` puts the tables unless it is told otherwise: ``<stem>.dsprof`` beside the report."""
        report = self.path or Path(self.attributed.trace.report.file)
        return report.with_suffix(".dsprof")

    def write(self, folder: str | os.PathLike[str] | None = None, progress: Progress = lambda name: None) -> Path:
        """Write every table as ``<table>.parquet`` and return the folder; each file appears whole or not at all.

        Raises `OutputRefused` where the folder cannot be written.
        """
        target = Path(folder) if folder is not None else self.folder
        try:
            target.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".writing-", dir=target) as temporary:
                self._write_events(Path(temporary), progress)
                for name, table in all_tables().items():
                    if not table.of_events or self._partial is None:
                        progress(f"writing {name}")
                        write_parquet(self.arrow(name), parquet(temporary, name))
                for name in self:
                    parquet(temporary, name).replace(parquet(target, name))
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputRefused(
                f"The tables cannot be written to {target} ({reason}).", "Name another folder with --out."
            ) from error
        return target

    def _write_events(self, folder: Path, progress: Progress) -> None:
        """Write the tables of events of a report in parts, as its parts come by."""
        if self._partial is None:
            return
        progress("writing tables of events")
        tables = {name: table for name, table in all_tables().items() if table.of_events}
        with contextlib.ExitStack() as stack:
            rows = {table: stack.enter_context(Written(parquet(folder, name))) for name, table in tables.items()}
            self._work_through(rows)


def known_table(name: str) -> Table:
    """The table of that name. Raises `UnknownTable`."""
    if name not in all_tables():
        raise UnknownTable(f"There is no table {name}.", f"There are: {', '.join(all_tables())}.")
    return all_tables()[name]


def _measures() -> list[Measure[Any]]:
    """All that tables and findings are made of, each once."""
    asked: list[Measure[Any]] = [tally, range_sums]
    asked += [measure for table in all_tables().values() for measure in table.measures]
    return list({measure.name: measure for measure in asked}.values())


def _sum(table: pa.Table, column: str) -> int:
    return pc.sum(table.column(column)).as_py() or 0
