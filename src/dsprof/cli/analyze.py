"""``dsprof analyze``: tables and summary of a report."""

from __future__ import annotations

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
    say,
    with_flags,
)
from dsprof.cli.progress import Progress

if TYPE_CHECKING:
    from dsprof.show.summary import Summary

Top = Annotated[int, typer.Option(min=0, help="Kernels to show for each stage.")]


class SummaryFormat(StrEnum):
    """How `analyze` prints its summary."""

    RICH = "rich"
    JSON = "json"
    MARKDOWN = "markdown"


@app.command(epilog="Example: dsprof analyze run.nsys-rep --stage vision=encode_image --threads process")
@with_flags
def analyze(
    report: Report,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables, <report>.dsprof by default.")] = None,
    top: Top = 3,
    format_: Annotated[SummaryFormat, typer.Option("--format", help="How to print the summary.")] = SummaryFormat.RICH,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where data is missing, lost or unreconciled.")] = False,
    tables: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME", help="Tables to write; `dsprof tables` lists them.", autocompletion=completing.tables
        ),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Do not use the results of an earlier run.")] = False,
    default_rules: DefaultRules = False,
    *,
    selected: SelectionFlags,
    flags: AnalysisFlags,
) -> None:
    """Attribute a report's kernels to stages, write all tables as Parquet, print a summary.

    Where the report has not changed since the tables were written, they are used as they are. Rules that they were
    made with hold again, unless others are named.
    """
    load_numpy()
    chosen = listed(tables)
    options = flags.options(
        tables=chosen, folder=out, reuse=not again, remembered=not default_rules, **selected.options
    )
    with Progress() as progress:
        analysis = analyzed(report, options, progress)
        folder = analysis.write(out, progress)
        summary = analysis.summary(top)
    show(summary, format_, folder)
    codes = [found.strict_exit for found in summary.findings if found.strict_exit]
    if strict and codes:
        raise typer.Exit(min(codes))


def show(summary: Summary, format_: SummaryFormat, folder: Path) -> None:
    """Print a summary, and where its tables are; what to know of the data also goes to stderr beside a document."""
    from dsprof.show import plain, terminal

    if format_ is SummaryFormat.RICH:
        terminal.print_summary(summary, terminal.console())
        say(f"Tables: {folder}")
        return
    if format_ is SummaryFormat.MARKDOWN:
        typer.echo(plain.summary_markdown(summary))
    else:
        sys.stdout.writelines(plain.summary_json(summary))
        typer.echo()
    for found in summary.findings:
        say(f"dsprof: {found}", err=True)
