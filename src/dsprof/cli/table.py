"""``dsprof table``: one table of a report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.cli import completing
from dsprof.cli.options import (
    AnalysisFlags,
    DefaultRules,
    Raw,
    Report,
    SelectionFlags,
    analyzed,
    app,
    listed,
    load_numpy,
    of_folder,
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
    raw: Raw = False,
    default_rules: DefaultRules = False,
    *,
    selected: SelectionFlags,
    flags: AnalysisFlags,
) -> None:
    """Print one table of a report; --format parquet writes the file to standard output.

    A terminal and Markdown show numbers in units that people read; other formats, and with --raw all of them, show the
    numbers themselves, which --where and --sort always go by. Rules that the tables beside the report were made with
    hold here too, unless others are named. A folder of tables needs no report; of one that holds an analysis of several
    reports it is the table over all of them, and `reports` has a row for each.
    """
    load_numpy()
    check_terminal(format_)
    with Progress() as progress:
        analysis = of_folder(report, [name], selected, flags, default_rules)
        if analysis is None:
            options = flags.options(tables=[name], remembered=not default_rules, **selected.options)
            analysis = analyzed(report, options, progress)
        made = analysis.arrow(name)
    tell_remembered(analysis)
    from dsprof.show import plain
    from dsprof.show.select import select

    rows = None if format_ is TableFormat.RICH else limit
    found = select(made, listed(columns) or (), where, listed(sort) or (), rows)
    print_rows(name, found, format_, limit, raw, lambda: plain.to_json(name, found))


def check_terminal(format_: TableFormat) -> None:
    """A terminal is no place for a file: a usage error."""
    if format_ is TableFormat.PARQUET and sys.stdout.isatty():
        raise typer.BadParameter("--format parquet writes a file, and this is a terminal: add > table.parquet.")


def print_rows(
    name: str, rows: pa.Table, format_: TableFormat, limit: int | None, raw: bool, to_json: Callable[[], str]
) -> None:
    """Print rows; on a screen `limit` of them, and 20 unless that is told."""
    if format_ is TableFormat.RICH:
        from dsprof.show import terminal

        terminal.print_table(name, rows, terminal.console(), limit or _ROWS, raw)
    else:
        typer.echo(content_of(rows, format_, raw, to_json), nl=False)


def content_of(rows: pa.Table, format_: TableFormat, raw: bool, to_json: Callable[[], str]) -> bytes:
    """Rows as a file of a format; `to_json` is asked for that form, which says more than rows."""
    from dsprof.show import plain

    if format_ is TableFormat.PARQUET:
        import io

        from dsprof.analysis.parquet import write_table

        content = io.BytesIO()
        write_table(rows, content)
        return content.getvalue()
    if format_ is TableFormat.CSV:
        text = plain.to_csv(rows)
    else:
        text = (to_json() if format_ is TableFormat.JSON else plain.to_markdown(rows, raw)) + "\n"
    return text.encode(errors="backslashreplace")
