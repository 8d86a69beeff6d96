"""`analyze`: from a report to tables; `Analysis`: the tables of one report, built when they are asked for."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import pyarrow as pa
from attrs import evolve, frozen

from dsprof import findings
from dsprof.arrays import backend
from dsprof.attributed import Attributed, Rules, Threads
from dsprof.errors import MemoryTooSmall, OutputRefused, UnknownTable
from dsprof.families import read_rules
from dsprof.findings import Finding
from dsprof.measure import Merged
from dsprof.measures import check, range_sums, tally
from dsprof.memory import allowed, bytes_of
from dsprof.model_record import find_record, read_record
from dsprof.nsys.inputs import Input
from dsprof.nsys.locate import locate
from dsprof.nsys.parts import CutTooLate, PartialReport, Plan, Size, size_of
from dsprof.nsys.reader import Progress, read
from dsprof.parquet import Gathered, InOrder, Written, parquet, write_parquet
from dsprof.roofs import stage_roofs
from dsprof.stored import RECORD, Results, find, identity, store, strangers
from dsprof.summary import Summary, summarize, top_kernels
from dsprof.swap import clear_unfinished, replacing
from dsprof.table import EventTable, Table
from dsprof.tables import all_tables
from dsprof.trace import Trace
from dsprof.versions import our_version

if TYPE_CHECKING:
    import pandas as pd

    from dsprof.measure import Measure

P = ParamSpec("P")
T = TypeVar("T")
U = TypeVar("U")
#: How many kernels of each stage a summary names unless it is told otherwise.
TOP_KERNELS = 5
#: Tables that the summary and the check of the sums are made from.
_SUMMED = ("kern_sum", "stage_sum", "stage_trace", "request_trace", "step_sum", "step_trace", "stage_kern_sum",
           "stage_family_sum", "stage_roof_trace")  # fmt: skip


def analyze(
    path: str | os.PathLike[str],
    *,
    stages: Mapping[str, str] | None = None,
    step: str | None = None,
    threads: Threads = "thread",
    families: str | os.PathLike[str] | None = None,
    model_config: str | os.PathLike[str] | None = None,
    tables: Iterable[str] | None = None,
    memory: int | str | None = None,
    compiled: bool | None = None,
    folder: str | os.PathLike[str] | None = None,
    reuse: bool = True,
    nsys: str | None = None,
    progress: Progress = lambda sentence: None,
) -> Analysis:
    """Read a report and tie its kernels to its stages.

    `path`: an SQLite export, a ``.nsys-rep`` or ``.qdrep`` (exported with the nsys that is found, into the cache),
    or a session folder. `stages`: more stages, or other patterns for the usual ones, as regular
    expressions searched for in range names. `step`: the pattern of decode steps. `threads`: ``"process"``
    gives launches of threads without a stage the one that is open in their process. `families`: a TOML file of
    rules for kernel families, put before the usual ones. `model_config`: the file that says which model ran, for
    roofs; by default what lies beside the report (``<report>.model.json``, a capture's ``session.json``). `tables`:
    those that are wanted, all unless given. `memory`: bytes, or ``"2GB"``, that the analysis may take, three quarters
    of what is free unless given; a report that would take more is worked through in parts, with the same results.
    `compiled`: whether numba compiles the loops, so that large reports take less time; unless given, it does for them
    where it is installed (`dsprof[fast]`). The results are the same.
    `folder`: where the tables go, or lie already; results that lie there and are of the same report, rules and dsprof
    are used again, unless `reuse` is False. `progress` is told what is being done. Raises a `DsprofError` that says
    what to do.

    >>> analysis = analyze("run.nsys-rep")          # doctest: +SKIP
    >>> analysis["stage_kern_sum"].head()           # doctest: +SKIP
    """
    own = read_rules(Path(families)) if families is not None else ()
    named = read_record(Path(model_config)) if model_config is not None else None
    wanted = tuple(known_table(name).name for name in (all_tables() if tables is None else tables))
    limit = bytes_of(memory) if isinstance(memory, str) else memory
    report, exported = locate(Path(path), nsys, progress, anew=not reuse)
    usual = Rules()
    model = named or find_record(report)
    rules = Rules({**usual.stages, **(stages or {})}, step or usual.step, threads, (*own, *usual.families), model)
    place = Path(folder) if folder is not None else report.with_suffix(".dsprof")
    made = Made(report, place, identity(exported.name, rules), wanted, exported)
    results = find(place, made.made_from, exported, wanted) if reuse else None
    if results is not None:
        return Stored(results, made)
    return _fresh(exported, rules, made, limit, compiled, progress)


@frozen
class Made:
    """Of which report, for which folder, from what, and with which tables an analysis is made."""

    report: Path
    folder: Path
    made_from: dict[str, Any]
    tables: tuple[str, ...]
    input: Input | None = None


def _fresh(
    exported: Input, rules: Rules, made: Made, limit: int | None, compiled: bool | None, progress: Progress
) -> Analysis:
    """Read the export, in as many parts as the limit asks for."""
    details = any(isinstance(all_tables()[name], EventTable) for name in made.tables)
    chosen, plan = _plan(size_of(exported), allowed() if limit is None else limit, compiled)
    with backend.using(chosen):
        if plan.parts == 1:
            return Analysis(read(exported, progress, details), rules, made=made)
        progress(f"working in {plan.parts} parts, in about {plan.peak_bytes / 1e9:.1f} GB of memory")
        partial = PartialReport(exported, plan.parts, details, progress, plan.at_once)
        return Analysis(partial.trace, rules, partial=partial, made=made)


def _plan(size: Size, limit: int | None, compiled: bool | None) -> tuple[backend.Backend, Plan]:
    """How to work on a report; without compiled loops where they do not fit, unless they are asked for."""
    chosen = backend.choose(compiled, size.rows)
    if chosen != backend.NUMPY:
        try:
            return chosen, evolve(size, compiled=True).plan(limit)
        except MemoryTooSmall:
            if compiled:
                raise
    return backend.NUMPY, size.plan(limit)


def _on_its_backend(method: Callable[Concatenate[Analysis, P], T]) -> Callable[Concatenate[Analysis, P], T]:
    """A method that works with the backend of its analysis, in whichever thread it is called."""

    @functools.wraps(method)
    def wrapped(self: Analysis, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with backend.using(self._backend):
            return method(self, *args, **kwargs)

    return wrapped


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
        made: Made | None = None,
    ) -> None:
        report = path or Path(trace.report.file)
        self._made = made or Made(report, report.with_suffix(".dsprof"), {}, tuple(all_tables()))
        self.attributed = Attributed(trace, rules, only_measured=partial is not None)
        self._partial, self._backend = partial, backend.current()
        self._arrow: dict[str, pa.Table] = {}
        self._summaries: dict[int, Summary] = {}

    @property
    def path(self) -> Path:
        """The report."""
        return self._made.report

    # -- tables -----------------------------------------------------------------------------------------

    @_on_its_backend
    def arrow(self, name: str) -> pa.Table:
        """The table `name` as Arrow, units and sentences in its fields' metadata. Raises `UnknownTable`."""
        table = known_table(name)
        if isinstance(table, EventTable) and name not in self._made.tables:
            raise UnknownTable(f"{name} was left out of this analysis.", "Name it among the tables that are wanted.")
        if name not in self._arrow:
            if isinstance(table, EventTable) and self._partial is not None:
                rows = Gathered()
                self._work_through([], {table: rows})
                self._arrow[name] = rows.table()
            else:
                self._arrow[name] = table.arrow(self._measured(table.measures), self._metadata)
        return self._arrow[name]

    def _measured(self, measures: Iterable[Measure[Any]]) -> Attributed:
        """What tables of these measures are built from; of a report in parts, once all parts were measured.

        Then they are measured for all tables, as whoever looks at one will look at another, and to go through the
        parts again takes longer than that.
        """
        asked = {measure.name: measure for measure in measures}
        if self._partial is not None and not asked.keys() <= self.attributed.measured.keys():
            asked |= {measure.name: measure for measure in _measures(self)}
            self._work_through([one for name, one in asked.items() if name not in self.attributed.measured], {})
        return self.attributed

    def _work_through(self, measures: list[Measure[Any]], rows: Mapping[EventTable, InOrder]) -> None:
        """Go through the parts of the report once, for some measures, and for the rows of some tables of events."""
        assert self._partial is not None  # noqa: S101 - the callers asked
        while True:
            try:
                self.attributed.measured |= self._gather(self._partial, rows, measures)
            except CutTooLate as late:
                self._partial.cut_earlier(late)
                for begun in rows.values():
                    begun.begin_again()
            else:
                return

    def _gather(
        self, partial: PartialReport, rows: Mapping[EventTable, InOrder], measures: list[Measure[Any]]
    ) -> dict[str, Any]:
        found = {measure.name: Merged(measure) for measure in measures}
        self.attributed.prepare()
        with backend.Workers(partial.at_once) as workers:
            for taken in _in_turn(workers, lambda trace: self._take(trace, measures, list(rows)), partial.parts(),
                                  partial.at_once):  # fmt: skip
                taken.go_into(found, rows)
                del taken  # before the next one is waited for
        for sink in rows.values():
            sink.finish()
        return {name: merged.whole() for name, merged in found.items()}

    def _take(self, trace: Trace, measures: list[Measure[Any]], tables: list[EventTable]) -> _Taken:
        """All that is wanted of a part."""
        part = Attributed(trace, self.attributed.rules, self.attributed)
        for measure in measures:
            measure(part)
        pieces = {table: list(table.pieces(part, self._metadata)) for table in tables}
        return _Taken(part.measured, pieces, trace.part.high)

    def __getitem__(self, name: str) -> pd.DataFrame:
        table = self.arrow(name)
        frame = table.to_pandas(integer_object_nulls=True)
        nullable = [field.name for field in table.schema if field.nullable and pa.types.is_int64(field.type)]
        typed: pd.DataFrame = frame.astype(dict.fromkeys(nullable, "Int64"))
        return typed

    def __iter__(self) -> Iterator[str]:
        return iter(self._made.tables)

    def __len__(self) -> int:
        return len(self._made.tables)

    def __contains__(self, name: object) -> bool:
        return name in self._made.tables  # without making the table, as a mapping would

    @cached_property
    def _metadata(self) -> dict[str, str]:
        report = self.attributed.trace.report
        return {
            "dsprof.version": our_version(),
            "dsprof.report_sha256": report.sha256,
            "dsprof.nsys_export": report.exporter,
            "dsprof.nsys_schema": report.schema,
            "dsprof.gpu": ", ".join(gpu.name for gpu in report.gpus),
        }

    # -- what it says -----------------------------------------------------------------------------------

    @cached_property
    @_on_its_backend
    def findings(self) -> tuple[Finding, ...]:
        """What the report lacks or hides, and whether the tables reconcile with it."""
        a = self._measured(_measures(()))
        return (*check(a), *stage_roofs(a).trouble, *self._unreconciled())

    def _unreconciled(self) -> list[Finding]:
        """Tables whose sums are not the report's; there should never be one."""
        seen = tally(self.attributed)
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

    @_on_its_backend
    def summary(self, top: int = TOP_KERNELS) -> Summary:
        """The first screen as data, with the `top` kernels of each stage."""
        if top not in self._summaries:
            self._measured(_measures(()))
            tables = {name: self.arrow(name) for name in _SUMMED}
            self._summaries[top] = summarize(self.attributed, tables, self.findings, our_version(), top)
        return self._summaries[top]

    def _repr_html_(self) -> str:
        from dsprof.render.html import summary_html

        return summary_html(self.summary())

    def __repr__(self) -> str:
        return f"<dsprof.Analysis of {self.attributed.trace.report.file}: {', '.join(self)}>"

    # -- files ------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where `write` puts the tables unless it is told otherwise: ``<stem>.dsprof`` beside the report."""
        return self._made.folder

    def write(self, folder: str | os.PathLike[str] | None = None, progress: Progress = lambda name: None) -> Path:
        """Write every table as ``<table>.parquet`` and return the folder, which is replaced whole or not at all.

        Raises `OutputRefused` where the folder cannot be written, or holds what dsprof did not write.
        """
        target = Path(folder) if folder is not None else self.folder
        try:
            with replacing(target, strangers, last=RECORD) as fresh:
                self._write_tables(fresh, progress)
                if self._made.input is not None:
                    store(fresh, self._made.made_from, self._made.input.record(), self, self.summary())
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputRefused(
                f"The tables cannot be written to {target} ({reason}).", "Name another folder with --out."
            ) from error
        return target

    @_on_its_backend
    def _write_tables(self, folder: Path, progress: Progress) -> None:
        """Write the tables; those of events of a report in parts as its parts come by."""
        tables = [all_tables()[name] for name in self]
        events = [table for table in tables if isinstance(table, EventTable)]
        with contextlib.ExitStack() as stack:
            files = {table: stack.enter_context(Written(parquet(folder, table.name))) for table in events}
            if self._partial is None:
                self._write_events(files, progress)
            else:
                self._work_through(_measures(self), files)
        for table in tables:
            if table not in files:
                progress(f"writing {table.name}")
                write_parquet(self.arrow(table.name), parquet(folder, table.name))

    def _write_events(self, files: Mapping[EventTable, Written], progress: Progress) -> None:
        """Write the tables of events piece by piece, as they are large beside all else."""
        for table, file in files.items():
            progress(f"writing {table.name}")
            made = self._arrow.get(table.name)
            for piece in table.pieces(self.attributed, self._metadata) if made is None else [made]:
                file.put(piece)


class Stored(Analysis):
    """The results of an earlier run, as they lie in a folder."""

    def __init__(self, results: Results, made: Made) -> None:
        self._made, self._results, self._summary = made, results, results.summary

    def arrow(self, name: str) -> pa.Table:
        """The table `name` as Arrow, from its file. Raises `UnknownTable`."""
        import pyarrow.parquet as pq

        known_table(name)
        with self._results.table(name).open("rb") as file:
            return pq.read_table(file)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the report lacks or hides."""
        return self._summary.findings

    def summary(self, top: int = TOP_KERNELS) -> Summary:
        """The first screen as data, with the `top` kernels of each stage."""
        if top == TOP_KERNELS or "stage_kern_sum" not in self:
            return self._summary
        return evolve(self._summary, top_kernels=tuple(top_kernels(self.arrow("stage_kern_sum"), top)))

    def __repr__(self) -> str:
        return f"<dsprof.Analysis of {self._summary.report.file}: {', '.join(self)}>"

    def write(self, folder: str | os.PathLike[str] | None = None, progress: Progress = lambda name: None) -> Path:
        """Where the tables are; to another folder they are copied. Raises `OutputRefused`."""
        target = Path(folder) if folder is not None else self.folder
        if target.resolve() != self.folder.resolve():
            return super().write(target, progress)
        clear_unfinished(target)
        return target

    def _write_tables(self, folder: Path, progress: Progress) -> None:
        for name in self:
            progress(f"writing {name}")
            self._results.copy(name, parquet(folder, name))


@frozen(eq=False)
class _Taken:
    """What was taken of a part: measures by their names, rows of tables of events, and when the part ends."""

    measured: dict[str, Any]
    pieces: dict[EventTable, list[pa.Table]]
    high: int

    def go_into(self, found: Mapping[str, Merged[Any]], rows: Mapping[EventTable, InOrder]) -> None:
        """Add it to what was measured, and written, of the parts before."""
        for name, measured in self.measured.items():
            if name in found:
                found[name].add(measured)
        for table, pieces in self.pieces.items():
            rows[table].add(pieces, self.high)


def _in_turn(workers: Executor, work: Callable[[T], U], items: Iterable[T], ahead: int) -> Iterator[U]:
    """`work` on each item, some at once and no more of them ready than that; results in the order of the items."""
    waiting: deque[Future[U]] = deque()
    for item in items:
        waiting.append(workers.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def known_table(name: str) -> Table:
    """The table of that name. Raises `UnknownTable`."""
    if name not in all_tables():
        near = difflib.get_close_matches(name, all_tables(), 1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise UnknownTable(f"There is no table {name}.", f"{meant}There are: {', '.join(all_tables())}.")
    return all_tables()[name]


def _measures(tables: Iterable[str]) -> list[Measure[Any]]:
    """All that some tables, the summary and the findings are made of, each once."""
    asked: list[Measure[Any]] = [tally, range_sums]
    asked += [one for name in (*tables, *_SUMMED) for one in all_tables()[name].measures]
    return list({measure.name: measure for measure in asked}.values())


def _sum(table: pa.Table, column: str) -> int:
    return sum(value or 0 for value in table.column(column).to_pylist())
