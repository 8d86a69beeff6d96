"""Commands that read a report: analyze, table, tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.cli.options import (
    Families,
    Fast,
    Memory,
    ModelConfig,
    Nsys,
    Report,
    Stage,
    Step,
    SummaryFormat,
    TableFormat,
    Threads,
    ThreadsOption,
    analysis_of,
    app,
    load_numpy,
    say,
)
from dsprof.cli.progress import Progress

if TYPE_CHECKING:
    from dsprof.analysis import Analysis
    from dsprof.summary import Summary


@app.command(epilog="Example: dsprof analyze run.nsys-rep --stage vision=encode_image --threads process")
def analyze(
    report: Report,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables, <report>.dsprof by default.")] = None,
    stage: Stage = None,
    step: Step = None,
    threads: Threads = ThreadsOption.THREAD,
    top: Annotated[int, typer.Option(min=0, help="Kernels to show for each stage.")] = 5,
    format_: Annotated[SummaryFormat, typer.Option("--format", help="How to print the summary.")] = SummaryFormat.RICH,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where data is missing, lost or unreconciled.")] = False,
    families: Families = None,
    model_config: ModelConfig = None,
    tables: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Tables to write; `dsprof tables` lists them.")
    ] = None,
    memory: Memory = None,
    fast: Fast = None,
    again: Annotated[bool, typer.Option("--again", help="Do not use the results of an earlier run.")] = False,
    nsys: Nsys = None,
) -> None:
    """Attribute a report's kernels to stages, write all tables as Parquet, print a summary.

    Where the report has not changed since the tables were written, they are used as they are.
    """
    load_numpy()
    chosen = [name.strip() for name in tables.split(",")] if tables is not None else None
    with Progress() as progress:
        analysis = analysis_of(
            report, progress, stage=stage, step=step, threads=threads, families=families, model_config=model_config,
            memory=memory, fast=fast, nsys=nsys, tables=chosen, folder=out, reuse=not again,
        )  # fmt: skip
        folder = analysis.write(out, progress)
        summary = analysis.summary(top)
    show(summary, format_, folder)
    codes = [found.strict_exit for found in summary.findings if found.strict_exit]
    if strict and codes:
        raise typer.Exit(min(codes))


@app.command(epilog="Example: dsprof table run.nsys-rep stage_kern_sum --format csv > kernels.csv")
def table(
    report: Report,
    name: Annotated[str, typer.Argument(help="Name of the table; `dsprof tables` lists them.")],
    format_: Annotated[
        TableFormat,
        typer.Option(
            "--format",
            help="How to print it; csv escapes controls and formulas in names, json does not.",
        ),
    ] = TableFormat.RICH,
    rows: Annotated[int, typer.Option(min=1, help="Rows to show; the other formats print all.")] = 20,
    stage: Stage = None,
    step: Step = None,
    threads: Threads = ThreadsOption.THREAD,
    families: Families = None,
    model_config: ModelConfig = None,
    memory: Memory = None,
    fast: Fast = None,
    nsys: Nsys = None,
) -> None:
    """Print one table of a report; --format parquet writes the file to standard output."""
    load_numpy()
    from dsprof.analysis import known_table

    known_table(name)
    if format_ is TableFormat.PARQUET and sys.stdout.isatty():
        raise typer.BadParameter("--format parquet writes a file, and this is a terminal: add > table.parquet.")
    with Progress() as progress:
        analysis = analysis_of(
            report, progress, stage=stage, step=step, threads=threads, families=families, model_config=model_config,
            memory=memory, fast=fast, nsys=nsys, tables=[name],
        )  # fmt: skip
        found = analysis.arrow(name)
    from dsprof.render import plain, terminal

    if format_ is TableFormat.PARQUET:
        _parquet_to_stdout(analysis, name)
    elif format_ is TableFormat.RICH:
        terminal.print_table(name, found, terminal.console(), rows)
    elif format_ is TableFormat.CSV:
        typer.echo(plain.to_csv(found), nl=False)
    else:
        typer.echo(plain.to_json(name, found) if format_ is TableFormat.JSON else plain.to_markdown(found))


@app.command(epilog="Example: dsprof tables")
def tables() -> None:
    """List the tables, and their columns with unit and meaning."""
    from dsprof.tables import all_tables

    for one in all_tables().values():
        typer.echo(f"{one.name}: a row is {one.row}")
        width = max(len(column.name) for column in one.columns)
        for column in one.columns:
            typer.echo(f"  {column.name:<{width}}  {column.text}")
        typer.echo()


def show(summary: Summary, format_: SummaryFormat, folder: Path) -> None:
    """Print a summary, and where its tables are; what to know of the data also goes to stderr beside a document."""
    from dsprof.render import plain, terminal

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


def _parquet_to_stdout(analysis: Analysis, name: str) -> None:
    import io

    from dsprof.parquet import write_table

    content = io.BytesIO()
    write_table(analysis.arrow(name), content)
    sys.stdout.buffer.write(content.getbuffer())
