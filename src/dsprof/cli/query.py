"""``dsprof query``: SQL over the tables of one report, or of several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.cli import completing
from dsprof.cli.options import (
    AnalysisFlags,
    DefaultRules,
    Force,
    Raw,
    Reports,
    SelectionFlags,
    analyzed,
    app,
    files_named,
    load_numpy,
    of_folder,
    say,
    tell_remembered,
    with_flags,
)
from dsprof.cli.progress import Progress
from dsprof.cli.table import TableFormat, check_terminal, content_of, print_rows

if TYPE_CHECKING:
    from dsprof.analysis.analyze import Analysis
    from dsprof.analysis.many import ManyAnalysis

#: Rows that are given unless it is told how many.
_ROWS = 100_000
#: Of which format a file is, by its suffix.
_SUFFIXES = {".csv": TableFormat.CSV, ".json": TableFormat.JSON, ".md": TableFormat.MARKDOWN,
             ".parquet": TableFormat.PARQUET}  # fmt: skip


@app.command(epilog="Example: dsprof query run.nsys-rep 'SELECT stage, wall_mean_ns FROM stage_sum'")
@with_flags
def query(
    reports: Reports,
    sql: Annotated[
        str,
        typer.Argument(metavar="SQL", help="One statement, in DuckDB's dialect; -: from standard input."),
    ],
    format_: Annotated[
        TableFormat | None,
        typer.Option("--format", help="How to print the rows; rich on standard output, and by the suffix of --out."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "--rows", min=1, help=f"Rows to give; {_ROWS} by default, of which a screen shows 20."),
    ] = None,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds that the statement may take.")] = 60.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="A file to write: .csv, .json, .md or .parquet.",
            autocompletion=completing.files,
        ),
    ] = None,
    force: Force = False,
    raw: Raw = False,
    default_rules: DefaultRules = False,
    *,
    selected: SelectionFlags,
    flags: AnalysisFlags,
) -> None:
    """Ask the tables of a report in SQL: those that `dsprof tables` lists, under their names.

    The statement reads these tables and nothing else, takes 2 GB of memory at most (--memory: another size), and
    changes nothing. Several reports are analyzed as one, as `dsprof analyze` does and where it writes. SHOW TABLES and
    DESCRIBE tell what there is; duckdb_columns() has what each column means in its column `comment`. It needs DuckDB:
    pip install 'dsprof[query]'.
    """  # fmt: skip
    load_numpy()
    form = format_ or (TableFormat.RICH if out is None else _SUFFIXES.get(out.suffix, TableFormat.CSV))
    if out is None:
        check_terminal(form)
    from dsprof.ground.sql import Limits
    from dsprof.ground.whole import check_free, writing_whole
    from dsprof.show import plain

    if out is not None:
        check_free(out, force)
    statement = sys.stdin.read() if sql == "-" else sql
    with Progress() as progress:
        analysis = _analysis(reports, statement, selected, flags, default_rules, progress)
        given = flags.options().memory
        limits = Limits(timeout_s, rows=limit or _ROWS, **({"memory": given} if given else {}))
        found = analysis.ask(statement, limits)
    tell_remembered(analysis)
    _tell_failed(analysis)
    if found.cut:
        say(f"dsprof: there are more rows than these {limits.rows}: --limit gives more.", err=True)

    def to_json() -> str:
        return plain.query_json(statement, found.table, limits.rows, found.cut)

    if out is None:
        print_rows("query", found.table, form, limit, raw, to_json)
    else:
        with writing_whole(out, force) as file:
            file.write(content_of(found.table, form, raw, to_json))


def _tell_failed(analysis: Analysis | ManyAnalysis) -> None:
    """Say which of several reports are not in the tables."""
    from dsprof.analysis.many import ManyAnalysis

    if isinstance(analysis, ManyAnalysis):
        errors = analysis.arrow("reports").column("error")
        if failed := len(errors) - errors.null_count:
            say(
                f"dsprof: {failed} of {len(errors)} reports failed: what is said of each is in the table `reports`.",
                err=True,
            )


def _analysis(
    reports: list[Path], sql: str, selected: SelectionFlags, flags: AnalysisFlags, default_rules: bool,
    progress: Progress,
) -> Analysis | ManyAnalysis:  # fmt: skip
    """What is asked: the tables of a report, of a folder of tables, or of several reports."""
    from dsprof.analysis.many import analyze_files
    from dsprof.analysis.query import tables_in

    if (
        len(reports) == 1
        and (found := of_folder(reports[0], tables_in(sql), selected, flags, default_rules)) is not None
    ):
        return found
    files = files_named(reports)
    more = {"remembered": not default_rules, **selected.options}
    if len(files) == 1:
        return analyzed(files[0], flags.options(tables=tables_in(sql), **more), progress)
    return analyze_files(files, flags.options(**more), progress=progress)
