"""``dsprof table``: one table of a report."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.cli import completing
from dsprof.cli.options import (
    AnalysisFlags,
    DefaultRules,
    Report,
    SelectionFlags,
    analyzed,
    app,
    listed,
    load_numpy,
    tell_remembered,
    with_flags,
)
from dsprof.cli.progress import Progress

if TYPE_CHECKING:
    import pyarrow as pa

#: How many rows a screen shows unless it is told.
_ROWS = 20


class TableFormat(StrEnum):
    """How `table` prints a table."""

    RICH = "rich"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"
    PARQUET = "parquet"


@app.command(epilog="Example: dsprof table run.nsys-rep stage_kern_sum --format csv > kernels.csv")
@with_flags
def table(
    report: Report,
    name: Annotated[
        str,
        typer.Argument(help="Name of the table; `dsprof tables` lists them.", autocompletion=completing.tables),
    ],
    format_: Annotated[
        TableFormat,
        typer.Option("--format", help="How to print it; csv escapes controls and formulas in names, json does not."),
    ] = TableFormat.RICH,
    columns: Annotated[str | None, typer.Option(metavar="NAME,NAME", help="Columns to print, in this order.")] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="CONDITION", help="Rows to print, like \"stage == 'decode'\", by raw numbers; pandas' query."
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Columns to sort by; -NAME for the largest first.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "--rows", min=1, help="Rows to print; all by default, and 20 where --format is rich."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Numbers as they are, in the unit of the column's name, on a screen as well.")
    ] = False,
    default_rules: DefaultRules = False,
    *,
    selected: SelectionFlags,
    flags: AnalysisFlags,
) -> None:
    """Print one table of a report; --format parquet writes the file to standard output.

    A terminal and Markdown show numbers in units that people read; other formats, and with --raw all of them, show the
    numbers themselves, which --where and --sort always go by. Rules that the tables beside the report were made with
    hold here too, unless others are named. Of a folder that holds an analysis of several reports it is the table over
    all of them; `reports` has a row for each.
    """
    load_numpy()
    if format_ is TableFormat.PARQUET and sys.stdout.isatty():
        raise typer.BadParameter("--format parquet writes a file, and this is a terminal: add > table.parquet.")
    made = _of_several(report, name, plain_words=(selected, flags) == (SelectionFlags(), AnalysisFlags()))
    if made is None:
        options = flags.options(tables=[name], remembered=not default_rules, **selected.options)
        with Progress() as progress:
            analysis = analyzed(report, options, progress)
            made = analysis.arrow(name)
        tell_remembered(analysis)
    from dsprof.show import plain, terminal
    from dsprof.show.select import select

    shown = (limit or _ROWS) if format_ is TableFormat.RICH else None
    found = select(made, listed(columns) or (), where, listed(sort) or (), None if shown else limit)

    if shown:
        terminal.print_table(name, found, terminal.console(), shown, raw)
    elif format_ is TableFormat.PARQUET:
        _parquet_to_stdout(found)
    elif format_ is TableFormat.CSV:
        typer.echo(plain.to_csv(found), nl=False)
    else:
        typer.echo(plain.to_json(name, found) if format_ is TableFormat.JSON else plain.to_markdown(found, raw))


def _of_several(folder: Path, name: str, plain_words: bool) -> pa.Table | None:
    """The table over several reports, where the folder is of an analysis of several."""
    if not os.path.isfile(folder / "tables" / "reports.json"):  # noqa: PTH113  Path raises for a name that is too long
        return None
    from dsprof.analysis.many import ManyAnalysis

    if not plain_words:
        raise typer.BadParameter("The tables over several reports are as they were made: `dsprof analyze` has options.")
    return ManyAnalysis(folder).arrow(name)


def _parquet_to_stdout(table: pa.Table) -> None:
    import io

    from dsprof.analysis.parquet import write_table

    content = io.BytesIO()
    write_table(table, content)
    sys.stdout.buffer.write(content.getbuffer())
