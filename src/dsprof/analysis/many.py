"""`analyze_many`: many reports as one analysis; a report that fails is a row, and what is there is not made again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dsprof.analysis.analyze import Analysis, analysis_in, frame_of
from dsprof.analysis.gather import (
    RECORD_OF_ALL,
    REPORT_COLUMNS,
    REPORTS,
    REPORTS_TABLE,
    TABLES,
    WHO,
    check_folder,
    gather,
    recorded_waits,
)
from dsprof.analysis.one_report import Row, Task
from dsprof.analysis.options import AnalysisOptions
from dsprof.analysis.paged import Paged
from dsprof.analysis.parquet import parquet, read_file
from dsprof.analysis.query import ask_folder, sql_table
from dsprof.analysis.which import Named, files_of, folder_of, named
from dsprof.analysis.workers import AUTO, On, rows_of
from dsprof.errors import OutputRefused, ReportMissing, UnknownTable
from dsprof.ground.sql import Limits, Rows, SqlTable
from dsprof.ground.versions import our_version
from dsprof.show.by_rank import COLLECTIVE_COLUMNS, STAGE_COLUMNS
from dsprof.show.reports import ReportsSummary, summarize_reports
from dsprof.tables import all_tables, known_table
from dsprof.tables._table import EventTable

if TYPE_CHECKING:
    import pandas as pd

#: The folder of an analysis of several reports, in the one that holds them all.
FOLDER = "reports.dsprof"
#: Rows that are read at once for the first screen.
_ROWS_AT_ONCE = 1 << 17
_Path = str | os.PathLike[str]


def analyze_many(
    paths: Iterable[_Path],
    *,
    on: str = AUTO,
    threads_per_report: int | None = None,
    name_pattern: str | None = None,
    out: _Path | None = None,
    progress: Callable[[str], None] = lambda sentence: None,
    **options: Any,
) -> ManyAnalysis:
    """Analyze several reports as one: a dataset of the tables of all, in a folder.

    `paths`: reports, folders of reports, and patterns like ``"job-*/"``. `on`: ``"loop"``, ``"processes"``,
    ``"processes:4"``, the address of a Dask scheduler or its file; ``"auto"`` takes processes where that is worth
    their start. `threads_per_report`: in how many threads a large report is worked on; what there is for each worker
    unless given. `name_pattern`: a regular expression for the reports' paths, whose groups ``run``, ``node`` and
    ``rank`` say what each is of. `out`: the folder, ``reports.dsprof`` in that which holds all reports unless given;
    reports whose results are there are not analyzed again. The other `options` are those of `analyze`, for each report;
    so is ``memory``. A report that cannot be analyzed is a row of ``reports``, with its error, and raises nothing.
    Raises a `DsprofError` where nothing is to be analyzed, or the folder cannot be written; ValueError for what is no
    pattern and no kind of workers.

    >>> many = dsprof.analyze_many(["run/"])            # doctest: +SKIP
    >>> many["stage_sum"].groupby("rank").wall_ns.sum()  # doctest: +SKIP
    """
    files = files_of(map(Path, paths), progress)
    target = Path(out) if out is not None else None
    return analyze_files(
        files, AnalysisOptions(**options), on=on, threads=threads_per_report, pattern=name_pattern, out=target,
        progress=progress,
    )  # fmt: skip


def analyze_files(
    files: Sequence[Path],
    options: AnalysisOptions,
    *,
    on: str = AUTO,
    threads: int | None = None,
    pattern: str | None = None,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda sentence: None,
) -> ManyAnalysis:
    """As `analyze_many`, with files and the options in one. Raises as that does."""
    if not files:
        raise ReportMissing("No report is named.", "Name reports, or folders that hold some.")
    where = On.of(on, list(map(_size, files)))
    folder = Path(os.path.realpath(folder_of(files) / FOLDER if out is None else out))
    reports = named(files, folder, pattern)
    check_folder(folder)
    try:
        (folder / REPORTS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputRefused(
            f"{folder} cannot be written ({error.strerror or error}).", "Name another folder with --out."
        ) from error
    tasks = [_task(one, folder, options, threads) for one in reports]
    rows: list[Row | None] = [None] * len(tasks)
    for done, (place, row) in enumerate(rows_of(tasks, where), start=1):
        rows[place] = row
        progress(f"{done} of {len(tasks)} reports")
    gather(folder, [row for row in rows if row is not None], options.tables, progress)
    return ManyAnalysis(folder)


def _task(one: Named, folder: Path, options: AnalysisOptions, threads: int | None) -> Task:
    place = folder / REPORTS / one.key
    return Task(one, place, options.of_one(place, options.memory), threads)


def _size(path: Path) -> int:
    """Bytes of a report, negative where it is packed; 0 where that cannot be told."""
    try:
        size = path.stat().st_size
    except OSError:
        return 0
    return -size if path.suffix in (".xz", ".gz") else size


class ManyAnalysis(Paged, Mapping[str, "pd.DataFrame"]):
    """The tables over several reports, by name, as DataFrames: ``many["stage_sum"]``; read from their folder.

    Each has the columns ``report``, ``run``, ``node`` and ``rank`` in front, those of events behind; ``reports`` is the
    table with a row for each report.
    """

    def __init__(self, folder: _Path) -> None:
        self.folder = Path(folder)
        if not parquet(self.folder / TABLES, REPORTS_TABLE).exists():
            raise ReportMissing(f"{self.folder} holds no analysis of several reports.", "Make one with analyze_many.")

    def arrow(self, name: str) -> pa.Table:
        """The table `name` as Arrow; a table of events of all reports may be large. Raises `UnknownTable`."""
        place = self.folder / TABLES
        if name != REPORTS_TABLE and isinstance(known_table(name), EventTable):
            if not (place / name).is_dir():
                raise _left_out(name)
            import pyarrow.dataset as ds

            return ds.dataset(place / name, format="parquet", partitioning="hive").to_table()
        if not parquet(place, name).exists():
            raise _left_out(name)
        return read_file(parquet(place, name))

    def query(self, sql: str, *, limit: int | None = None, seconds: float = 60.0) -> pd.DataFrame:
        """What one statement of SQL says of the tables, `reports` among them; as `Analysis.query`."""
        return frame_of(self.ask(sql, Limits(seconds, rows=limit)).table)

    def ask(self, sql: str, limits: Limits) -> Rows:
        """As `query`, with the limits in one, and the rows as Arrow."""
        return ask_folder(sql, self.folder / TABLES, self._to_be_asked, limits)

    @cached_property
    def _to_be_asked(self) -> dict[str, SqlTable]:
        known = [all_tables()[name] for name in self if name in all_tables()]
        columns = {table.name: {one.name: one for one in (*WHO, *table.columns)} for table in known}
        found = {table.name: sql_table(f"{table.row}, of any report", columns[table.name].values()) for table in known}
        return found | {REPORTS_TABLE: sql_table("a report", REPORT_COLUMNS)}

    def __getitem__(self, name: str) -> pd.DataFrame:
        return frame_of(self.arrow(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    @cached_property
    def _names(self) -> tuple[str, ...]:
        found = sorted(path for path in (self.folder / TABLES).iterdir() if not path.name.startswith("."))
        return tuple(path.name.removesuffix(".parquet") for path in found if path.suffix == ".parquet" or path.is_dir())

    def summary(self) -> ReportsSummary:
        """The first screen as data: who holds the others up, what failed, a line for each report."""
        stages = self._pieces("stage_trace", STAGE_COLUMNS)
        return summarize_reports(self.arrow("reports"), stages, self._pieces("collective_trace", COLLECTIVE_COLUMNS),
                                 recorded_waits(self.folder))  # fmt: skip

    def _pieces(self, name: str, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of a table, which may be large, piece by piece; none where it was left out."""
        import pyarrow.parquet as pq

        place = parquet(self.folder / TABLES, name)
        if place.exists():
            with place.open("rb") as file:
                for batch in pq.ParquetFile(file).iter_batches(_ROWS_AT_ONCE, columns=list(columns)):
                    yield pa.Table.from_batches([batch])

    def page(self) -> str:
        """All of it as one HTML file, which needs nothing else to be read."""
        from dsprof.page.many import reports_page

        return reports_page(self.summary(), our_version())

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def _repr_html_(self) -> str:
        from dsprof.show.html import reports_html

        return reports_html(self.summary())

    def __repr__(self) -> str:
        return f"<dsprof.ManyAnalysis of {self.folder}: {', '.join(self)}>"


def tables_in_folder(folder: Path, tables: Iterable[str]) -> Analysis | ManyAnalysis | None:
    """The analysis whose tables lie in a folder, of several reports or of one that needs `tables`; None without any.

    Raises `NoReportInFolder` where another dsprof made them, or not all are there.
    """
    if os.path.isfile(folder / TABLES / RECORD_OF_ALL):  # noqa: PTH113  Path raises for a name that is too long
        return ManyAnalysis(folder)
    return analysis_in(folder, tables)


def _left_out(name: str) -> UnknownTable:
    return UnknownTable(f"{name} was left out of this analysis.", "Name it among the tables that are wanted.")
