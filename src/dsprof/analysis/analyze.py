"""`analyze`: from a report to tables; `Analysis`: the tables of one report, built when they are asked for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from attrs import evolve, field

from dsprof.analysis.named_rules import NamedRules
from dsprof.analysis.options import AnalysisOptions
from dsprof.analysis.paged import Paged
from dsprof.analysis.parquet import Asked
from dsprof.analysis.results import Fresh, Results
from dsprof.analysis.rules_file import find_rules_file
from dsprof.analysis.stored import RECORD, Stored, find, identity, open_folder, remembered, store, strangers
from dsprof.analysis.work import ReportReader, WholeReport
from dsprof.answers.collectives import ReportCollectives
from dsprof.answers.painting import StepPlaces
from dsprof.answers.rank_requests import RequestRows
from dsprof.answers.report_work import ReportWork
from dsprof.answers.what_if import Changes, WhatIf
from dsprof.arrays import backend
from dsprof.attribute.stages import StageRanges
from dsprof.errors import MemoryTooSmall, OutputRefused, ReportMissing
from dsprof.findings import Finding
from dsprof.ground.memory import allowed
from dsprof.ground.swap import clear_unfinished, replacing
from dsprof.ground.whole import spare
from dsprof.measures.rank_work import StageWork
from dsprof.model.baseline import baseline_of
from dsprof.model.launched import launched_of
from dsprof.model.record import find_record, find_session
from dsprof.nsys.inputs import Input
from dsprof.nsys.locate import locate
from dsprof.nsys.parts import Plan, ReportInParts, Size, size_of
from dsprof.nsys.reader import Progress, read
from dsprof.nsys.selection import Wanted
from dsprof.records import frozen
from dsprof.rules.rules import Rules, Threads
from dsprof.show.summary import TOP_KERNELS, RuleLine, Summary
from dsprof.tables import all_tables
from dsprof.tables._table import EventTable
from dsprof.trace import Selection, Trace

if TYPE_CHECKING:
    import pandas as pd

    from dsprof.ground.sql import Limits, Rows


def analyze(
    path: str | os.PathLike[str],
    *,
    stages: Mapping[str, str] | None = None,
    step: str | None = None,
    threads: Threads | None = None,
    families: str | os.PathLike[str] | None = None,
    engine: str | None = None,
    model_config: str | os.PathLike[str] | None = None,
    rules: str | os.PathLike[str] | None = None,
    window: str | None = None,
    device: int | str | Iterable[int] | None = None,
    pid: int | str | Iterable[int] | None = None,
    tables: Iterable[str] | None = None,
    memory: int | str | None = None,
    compiled: bool | None = None,
    folder: str | os.PathLike[str] | None = None,
    reuse: bool = True,
    remembered: bool = True,
    nsys: str | None = None,
    progress: Progress = lambda sentence: None,
) -> Analysis:
    """Read a report and tie its kernels to its stages.

    `path`: an SQLite export, a ``.nsys-rep`` or ``.qdrep`` (exported with the nsys that is found, into the cache),
    or a session folder. `stages`: more stages, or other patterns for the usual ones, as regular
    expressions searched for in range names. `step`: the pattern of decode steps. `threads`: ``"process"``
    gives launches of threads without a stage the one that is open in their process, ``"thread"``, the usual, does not.
    `families`: a TOML file of rules for kernel families, put before the usual ones. `engine`: the serving engine whose
    steps are looked for (``"vllm"``; `dsprof.rules.engines` has their names), ``"none"`` for none; unless given, each
    thread has that which it has most steps of. `model_config`: the file that says
    which model ran, for roofs; by default what lies beside the report (``<report>.model.json``, a capture's
    ``session.json``). `rules`: a TOML file that says some of all these, by their names; by default ``dsprof.toml``
    beside the report, or else in the working folder; ``"none"`` is without one. What is named here goes before it.
    `window` (``"3s..5s"``, ``"..250ms"``, ``"10%..90%"`` of the capture, from whose begin times are), `device` and
    `pid` (a number, or several): what of the report is analyzed. `tables`: those that are wanted, all unless given.
    `memory`: bytes, or ``"2GB"``, that the analysis may take, three quarters of what is free unless given; a report
    that would take more is worked through in parts, with the same results. `compiled`: whether numba compiles the
    loops, so that large reports take less time; unless given, it does for them where it is installed (`dsprof[fast]`).
    The results are the same. `folder`: where the tables go, or lie already; results that lie there and are of the same
    report, rules and dsprof are used again, unless `reuse` is False. The rules (`stages`, `step`, `threads`,
    `families`, `engine`, `model_config`) that tables of the same report in that folder were made with hold here too,
    each kind of them unless it is named; ``remembered=False`` is without them. `progress` is told what is being done.
    Raises a `DsprofError` that says what to do.

    >>> analysis = analyze("run.nsys-rep")          # doctest: +SKIP
    >>> analysis["stage_kern_sum"].head()           # doctest: +SKIP
    """
    options = AnalysisOptions(
        stages=stages, step=step, threads=threads, families=families, engine=engine, model_config=model_config,
        rules=rules, window=window, device=device, pid=pid, tables=tables, memory=memory, compiled=compiled,
        folder=folder, reuse=reuse, remembered=remembered, nsys=nsys,
    )  # fmt: skip
    return analyze_as(Path(path), options, progress)


def analyze_as(path: Path, options: AnalysisOptions, progress: Progress, threads: int | None = None) -> Analysis:
    """As `analyze`, with its options in one. Raises a `DsprofError` that says what to do.

    `threads`: in how many it may work on a report in parts; as many as there are processors unless given.
    """
    report, exported = locate(path, options.nsys, progress, anew=not options.reuse, threads=threads)
    place = Path(options.folder) if options.folder is not None else report.with_suffix(".dsprof")
    file = find_rules_file(report) if options.rules is None else options.rules
    before = remembered(place, exported) if options.remembered else NamedRules()
    # A rules file is read each time, so what it says is not remembered: whoever takes a line out of it is rid of it.
    named, holding = options.named.over(before), options.named.over(file.named).over(before)
    session, wanted = find_session(report), options.wanted.over(file.wanted)
    rules = holding.rules(find_record(report), baseline_of(session), launched_of(session, report.name))
    told = (*holding.lines(options.named, file.named, file.label), *file.selecting(options.wanted))
    origin = Origin(report, place, options.tables, identity(exported.name, rules, wanted), exported, named, told)
    found = find(place, origin.made_from, exported, options.tables, named) if options.reuse else None

    def read_again() -> Fresh:
        return _fresh(exported, rules, wanted, options, progress, threads)

    return Analysis(found or read_again(), origin, read_again)


def _fresh(
    exported: Input, rules: Rules, wanted: Wanted, options: AnalysisOptions, progress: Progress, threads: int | None
) -> Fresh:
    """Read what is wanted of the export, in as many parts as the limit asks for."""
    details = any(isinstance(all_tables()[name], EventTable) for name in options.tables)
    limit = allowed() if options.memory is None else options.memory
    chosen, plan = _plan(size_of(exported), limit, options.compiled, threads)
    with backend.using(chosen):
        source: ReportReader
        if plan.parts == 1:
            source = WholeReport(read(exported, progress, details, wanted))
        else:
            progress(f"working in {plan.parts} parts, in about {plan.peak_bytes / 1e9:.1f} GB of memory")
            source = ReportInParts(exported, plan.parts, details, progress, plan.at_once, wanted)
        fresh = Fresh(source, rules, options.tables)
        _check_stages(fresh.facts[StageRanges], plan, limit)
        return fresh


#: What each stage and each step takes, in bytes, beside what a range does: they are told once the names are read.
_BYTES_PER_STAGE = 1_700
#: What is less than this share of the limit goes into what plans leave free.
_SPARE = 0.1


def _check_stages(staged: StageRanges, plan: Plan, limit: int | None) -> None:
    """Raises `MemoryTooSmall` where there are so many stages and steps that they do not fit."""
    more = _BYTES_PER_STAGE * (len(staged.rows) + len(staged.steps))
    least = plan.peak_bytes + more
    if limit is not None and least > limit and more > _SPARE * limit:
        raise MemoryTooSmall(
            f"The report has {len(staged.rows)} stages and {len(staged.steps)} steps, and cannot be analyzed in "
            f"{limit / 1e9:.2f} GB of memory.",
            f"Give it {least / 1e9 + 0.01:.2f} GB or more with --memory.",
        )


def _plan(
    size: Size, limit: int | None, compiled: bool | None, threads: int | None = None
) -> tuple[backend.Backend, Plan]:
    """How to work on a report; without compiled loops where they do not fit, unless they are asked for."""
    chosen = backend.choose(compiled, size.rows)
    if chosen != backend.NUMPY:
        try:
            return chosen, evolve(size, compiled=True).plan(limit, threads)
        except MemoryTooSmall:
            if compiled:
                raise
    return backend.NUMPY, size.plan(limit, threads)


def analysis_in(folder: Path, tables: Iterable[str]) -> Analysis | None:
    """The analysis whose tables lie in a folder, whose report need not be there; None where the folder has none.

    Raises `NoReportInFolder` where they are of another dsprof, or not all of `tables` are there.
    """
    opened = open_folder(folder, tables)
    if opened is None:
        return None
    found, named = opened

    def read_again() -> Fresh:
        raise ReportMissing(f"{folder} holds the tables of {found.report.file} alone.", "Name the report itself.")

    told = named.lines(NamedRules(), NamedRules(), "")
    origin = Origin(folder / found.report.file, folder, tuple(tables), named=named, rules=told)
    return Analysis(found, origin, read_again)


@frozen
class Origin:
    """Of which report an analysis is, where its tables go, which they are, and from what they are made.

    `named`: the rules to remember, which `rules` tells.
    """

    report: Path
    folder: Path
    tables: tuple[str, ...]
    made_from: Mapping[str, Any] = field(factory=dict)
    input: Input | None = None
    named: NamedRules = field(factory=NamedRules)
    rules: tuple[RuleLine, ...] = ()


def frame_of(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a DataFrame."""
    frame = table.to_pandas(integer_object_nulls=True)
    nullable = [field.name for field in table.schema if field.nullable and pa.types.is_int64(field.type)]
    typed: pd.DataFrame = frame.astype(dict.fromkeys(nullable, "Int64"))
    return typed


class Analysis(Paged, Mapping[str, "pd.DataFrame"]):
    """The tables of one report, by name, as DataFrames: ``analysis["kern_sum"]``.

    Text columns are categories, int64 columns that can miss a value are pandas' nullable ``Int64``.
    """

    def __init__(self, results: Results, origin: Origin, read_again: Callable[[], Fresh]) -> None:
        self.results, self._origin, self._read_again = results, origin, read_again

    @classmethod
    def of(cls, read: Trace | ReportReader, rules: Rules | None = None, path: Path | None = None) -> Analysis:
        """The analysis of what is read already; `path`: of which report, of the one of its name unless given."""
        source = WholeReport(read) if isinstance(read, Trace) else read
        report = path or Path(source.trace.report.file)
        origin = Origin(report, report.with_suffix(".dsprof"), tuple(all_tables()))
        results = Fresh(source, rules or Rules(), origin.tables)
        return cls(results, origin, lambda: results)

    @property
    def path(self) -> Path:
        """The report."""
        return self._origin.report

    @property
    def made_from(self) -> Mapping[str, Any]:
        """What its results depend on, beside what is in the report."""
        return self._origin.made_from

    @property
    def rules(self) -> tuple[RuleLine, ...]:
        """The rules other than the usual that it is made with, as options."""
        return self._origin.rules

    @property
    def selection(self) -> Selection:
        """What of the report it is of; all of it unless something was selected."""
        return self.results.report.selection

    @property
    def in_memory(self) -> bool:
        """Is all that its tables and the summary are made of in memory, and not in parts of a large report?"""
        return self.results.in_memory

    # -- tables -----------------------------------------------------------------------------------------

    def arrow(self, name: str) -> pa.Table:
        """The table `name` as Arrow, units and sentences in its fields' metadata. Raises `UnknownTable`."""
        return self.results.arrow(name)

    def rows_where(self, *asked: Asked) -> list[pa.Table]:
        """Of each table that is asked for, by name, columns and conditions, the rows for which all of these hold.

        A condition is like ``("start_ns", "<", 7)``. So of a table with a row per event no more is held than is asked
        for, and a report in parts is gone through once for all. Raises `UnknownTable`.
        """
        return self.results.rows_where(*asked)

    def query(self, sql: str, *, limit: int | None = None, seconds: float = 60.0) -> pd.DataFrame:
        """What one statement of SQL says of the tables, in DuckDB's dialect: ``"SELECT * FROM stage_sum"``.

        It reads these tables alone, and may take so many `seconds` and 2 GB of memory. `limit`: rows, all unless given.
        Raises `QueryFailed`, also where DuckDB is missing, and `UnknownTable`.

        >>> analysis.query("SELECT stage, sum(wall_ns) AS wall_ns FROM stage_trace GROUP BY ALL")      # doctest: +SKIP
        """
        from dsprof.ground.sql import Limits

        return frame_of(self.ask(sql, Limits(seconds, rows=limit)).table)

    def ask(self, sql: str, limits: Limits) -> Rows:
        """As `query`, with the limits in one, and the rows as Arrow."""
        from dsprof.analysis.query import ask_files, tables_in

        with contextlib.ExitStack() as opened:
            files = {name: opened.enter_context(self.results.file(name)) for name in tables_in(sql, self)}
            return ask_files(sql, files, limits)

    def __getitem__(self, name: str) -> pd.DataFrame:
        return frame_of(self.arrow(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._origin.tables)

    def __len__(self) -> int:
        return len(self._origin.tables)

    def __contains__(self, name: object) -> bool:
        return name in self._origin.tables  # without making the table, as a mapping would

    @property
    def fresh(self) -> Fresh:
        """Its results as the report itself tells them, whatever was written of it earlier."""
        return self._from_report()

    @property
    def collectives(self) -> ReportCollectives:
        """Its collectives, to be matched with those of other reports (`dsprof.analysis.ranks`); can be pickled."""
        return self._from_report().fact(ReportCollectives)

    @property
    def rank_work(self) -> ReportWork:
        """What its stages and requests did beside that; can be pickled as well."""
        fresh = self._from_report()
        hidden, requests, steps = fresh.fact(StageWork).hidden, fresh.fact(RequestRows), fresh.fact(StepPlaces)
        return ReportWork.of(fresh.arrow("stage_trace"), hidden, requests, steps)

    # -- what it says -----------------------------------------------------------------------------------

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the report lacks or hides, and whether the tables reconcile with it."""
        return self.results.findings

    def summary(self, top: int = TOP_KERNELS) -> Summary:
        """The first screen as data, with the `top` kernels of each stage."""
        return evolve(self.results.summary(top), rules=self._origin.rules)

    def what_if(
        self,
        *,
        stage: str | None = None,
        cuda_graphs: bool = False,
        no_sync: bool = False,
        no_pageable: bool = False,
        host: float = 1.0,
        families: Mapping[str, float] | None = None,
        kernels: Mapping[str, float] | None = None,
        batch: int | None = None,
    ) -> WhatIf:
        """What the steady steps of each stage, or of `stage`, would take if something were otherwise.

        The recording is run again with the changes that `Changes` explains; factors are of times, 0.5 is half of it.
        Raises `NotPredictable` for what cannot be told, and ValueError for what is no factor.

        >>> analysis.what_if(stage="decode", cuda_graphs=True).stages[0].step_predicted_ns     # doctest: +SKIP
        """
        changes = Changes(
            cuda_graphs=cuda_graphs, no_sync=no_sync, no_pageable=no_pageable, host=host, families=families,
            kernels=kernels, batch=batch,
        )  # fmt: skip
        return self.predict(changes, *filter(None, [stage]))

    def predict(self, changes: Changes, *stages: str) -> WhatIf:
        """As `what_if`, with the changes in one; of all stages unless some are named."""
        return self._from_report().what_if(changes).of(*stages)

    def _from_report(self) -> Fresh:
        """Results that know the report, which is read again where what is here was written earlier."""
        if not isinstance(self.results, Fresh):
            self.results = self._read_again()
        return self.results

    def page(self) -> str:
        """All of it as one HTML file, which needs nothing else to be read."""
        from dsprof.page.document import page

        return page(self.summary(), self)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def timeline(
        self, path: str | os.PathLike[str], *, step: int | tuple[int, int] | None = None, force: bool = False
    ) -> Path:
        """Write a timeline that Perfetto opens, packed where the name ends in ``.gz``, and return its path.

        `step`: nothing but this one and what is around it, by its number, or by request and number. `force`: replace a
        file that is there. The file is there whole or not at all; times are the report's, in ns. Raises `OutputExists`,
        `OutputRefused`, `SelectionEmpty` where there is no such step, and `ReportMissing` where there is no report.

        >>> analysis.timeline("run.pftrace.gz", step=(3, 12))     # doctest: +SKIP
        """
        from dsprof.analysis.timelines import StepWanted, write_timeline

        request, number = step if isinstance(step, tuple) else (None, step)
        wanted = None if number is None else StepWanted(number, request)
        target = Path(path)
        spare([self.path], target)
        return write_timeline([lambda: self], target, wanted, force).path

    def _repr_html_(self) -> str:
        from dsprof.show.html import summary_html

        return summary_html(self.summary())

    def __repr__(self) -> str:
        return f"<dsprof.Analysis of {self.results.report.file}: {', '.join(self)}>"

    # -- files ------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where `write` puts the tables unless it is told otherwise: ``<stem>.dsprof`` beside the report."""
        return self._origin.folder

    def write(self, folder: str | os.PathLike[str] | None = None, progress: Progress = lambda name: None) -> Path:
        """Write every table as ``<table>.parquet`` and return the folder, which is replaced whole or not at all.

        Results that were found in that folder stay as they are. Raises `OutputRefused` where the folder cannot be
        written, or holds what dsprof did not write.
        """
        target = Path(folder) if folder is not None else self.folder
        if isinstance(self.results, Stored) and target.resolve() == self.folder.resolve():
            clear_unfinished(target)
            return target
        origin = self._origin
        try:
            with replacing(target, strangers, last=RECORD) as fresh:
                self.results.write(origin.tables, fresh, progress)
                if origin.input is not None:
                    summary = self.results.summary(TOP_KERNELS)
                    store(fresh, origin.made_from, origin.input.record(), self, origin.named, summary)
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputRefused(
                f"The tables cannot be written to {target} ({reason}).", "Name another folder with --out."
            ) from error
        return target
