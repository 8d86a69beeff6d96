"""`analyze`: from a report to tables; `Analysis`: the tables of one report, built when they are asked for."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from dsprof import findings
from dsprof.attributed import Attributed, Rules, Threads
from dsprof.errors import OutputRefused, UnknownTable
from dsprof.families import read_rules
from dsprof.findings import Finding
from dsprof.nsys.locate import locate
from dsprof.nsys.reader import Progress, read
from dsprof.summary import Summary, summarize
from dsprof.table import Table
from dsprof.tables import all_tables
from dsprof.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

#: How many kernels of each stage a summary names unless it is told otherwise.
TOP_KERNELS = 5


def analyze(
    path: str | os.PathLike[str],
    *,
    stages: Mapping[str, str] | None = None,
    step: str | None = None,
    threads: Threads = "thread",
    families: str | os.PathLike[str] | None = None,
    nsys: str | None = None,
    progress: Progress = lambda sentence: None,
) -> Analysis:
    """Read a report and tie its kernels to its stages.

    `path`: an SQLite export, a ``.nsys-rep`` or ``.qdrep`` (exported with the nsys that is found, beside the
    report), or a session folder. `stages`: more stages, or other patterns for the usual ones, as regular
    expressions searched for in range names. `step`: the pattern of decode steps. `threads`: ``"process"``
    gives launches of threads without a stage the one that is open in their process. `families`: a TOML file of
    rules for kernel families, put before the usual ones. `progress` is told what is being done. Raises a
    `DsprofError` that says what to do.

    >>> analysis = analyze("run.nsys-rep")          # doctest: +SKIP
    >>> analysis["stage_kern_sum"].head()           # doctest: +SKIP
    """
    own = read_rules(Path(families)) if families is not None else ()
    report, exported = locate(Path(path), nsys, progress)
    trace = read(exported, progress)
    usual = Rules()
    rules = Rules({**usual.stages, **(stages or {})}, step or usual.step, threads, (*own, *usual.families))
    return Analysis(trace, rules, report)


class Analysis(Mapping[str, "pd.DataFrame"]):
    """The tables of one report, by name, as DataFrames: ``analysis["kern_sum"]``.

    Text columns are categories, int64 columns that can miss a value are pandas' nullable ``Int64``.
    """

    def __init__(self, trace: Trace, rules: Rules | None = None, path: Path | None = None) -> None:
        self.path = path
        self.attributed = Attributed(trace, rules)
        self._arrow: dict[str, pa.Table] = {}

    # -- tables -----------------------------------------------------------------------------------------

    def arrow(self, name: str) -> pa.Table:
        """The table `name` as Arrow, units and sentences in its fields' metadata. Raises `UnknownTable`."""
        table = known_table(name)
        if name not in self._arrow:
            self._arrow[name] = table.arrow(self.attributed, self._metadata)
        return self._arrow[name]

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
        return (*self.attributed.check(), *self._unreconciled())

    def _unreconciled(self) -> list[Finding]:
        """Tables whose sums are not the report's; there should never be one."""
        kernels = self.attributed.trace.kernels
        whole = (len(kernels), int((kernels.end - kernels.start).sum()))
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
        wanted = ("stage_sum", "stage_trace", "request_trace", "step_sum", "step_trace", "stage_kern_sum",
                  "stage_family_sum")  # fmt: skip
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
                for name in self:
                    progress(f"writing {name}")
                    write_parquet(self.arrow(name), Path(temporary, f"{name}.parquet"))
                for name in self:
                    Path(temporary, f"{name}.parquet").replace(target / f"{name}.parquet")
        except OSError as error:
            reason = error.strerror or str(error)
            raise OutputRefused(
                f"The tables cannot be written to {target} ({reason}).", "Name another folder with --out."
            ) from error
        return target


def known_table(name: str) -> Table:
    """The table of that name. Raises `UnknownTable`."""
    if name not in all_tables():
        raise UnknownTable(f"There is no table {name}.", f"There are: {', '.join(all_tables())}.")
    return all_tables()[name]


def _sum(table: pa.Table, column: str) -> int:
    return pc.sum(table.column(column)).as_py() or 0


def write_parquet(table: pa.Table, path: Path) -> None:
    """One table as Parquet: zstd, names as dictionaries, integers by difference."""
    import pyarrow.parquet as pq

    names = [field.name for field in table.schema if pa.types.is_dictionary(field.type)]
    integers = {field.name: "DELTA_BINARY_PACKED" for field in table.schema if pa.types.is_int64(field.type)}
    options = {"compression": "zstd", "use_dictionary": names, "column_encoding": integers}
    with path.open("wb") as file, contextlib.closing(pq.ParquetWriter(file, table.schema, **options)) as writer:
        writer.write_table(table)
