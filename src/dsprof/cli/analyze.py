"""``dsprof analyze``: tables and summary of a report."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from dsprof.cli import completing
from dsprof.cli.options import (
    AnalysisFlags,
    DefaultRules,
    Reports,
    SelectionFlags,
    analyzed,
    app,
    files_named,
    listed,
    load_numpy,
    say,
    with_flags,
)
from dsprof.cli.progress import Progress

if TYPE_CHECKING:
    from dsprof.analysis.analyze import Analysis
    from dsprof.analysis.many import ManyAnalysis
    from dsprof.analysis.options import AnalysisOptions
    from dsprof.show.reports import ReportsSummary
    from dsprof.show.summary import Summary

Top = Annotated[int, typer.Option(min=0, help="Kernels to show for each stage.")]


On = Annotated[
    str,
    typer.Option(
        metavar="auto|loop|processes[:N]|ADDRESS|FILE",
        help="Who analyzes several reports: this process, processes beside it, or the workers of a Dask scheduler, by "
        "its address or file.",
    ),
]
ThreadsPerReport = Annotated[
    int | None,
    typer.Option(min=1, help="Threads for each of several reports; by default the processors that a worker has."),
]
NamePattern = Annotated[
    str | None,
    typer.Option(metavar="REGEX", help="Of several reports, what their paths say, by the groups run, node and rank."),
]


class SummaryFormat(StrEnum):
    """How `analyze` prints its summary."""

    RICH = "rich"
    JSON = "json"
    MARKDOWN = "markdown"


@app.command(epilog="Example: dsprof analyze run.nsys-rep --stage vision=encode_image --threads process")
@with_flags
def analyze(
    reports: Reports,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the tables; <report>.dsprof by default, of several reports.dsprof.")
    ] = None,
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
    on: On = "auto",
    threads_per_report: ThreadsPerReport = None,
    name_pattern: NamePattern = None,
    *,
    selected: SelectionFlags,
    flags: AnalysisFlags,
) -> None:
    """Attribute a report's kernels to stages, write all tables as Parquet, print a summary.

    Where the report has not changed since the tables were written, they are used as they are. Rules that they were
    made with hold again, unless others are named. Several reports are one analysis, in one folder; those that fail are
    told, and the others are there.
    """
    if len(reports) == 1:
        from dsprof.nsys import ahead

        ahead.begin(reports[0], out, again)
    load_numpy()
    chosen = listed(tables)
    options = flags.options(
        tables=chosen, folder=out, reuse=not again, remembered=not default_rules, **selected.options
    )
    files = files_named(reports)
    if len(files) > 1:
        analyze_several(files, options, Several(on, threads_per_report, name_pattern, out), format_, strict)
        return
    with Progress() as progress:
        analysis = analyzed(files[0], options, progress)
    summary = show_and_write(analysis, out, top, format_)
    codes = [found.strict_exit for found in summary.findings if found.strict_exit]
    if strict and codes:
        raise typer.Exit(min(codes))


class Several(NamedTuple):
    """The options of several reports alone."""

    on: str = "auto"
    threads: int | None = None
    pattern: str | None = None
    out: Path | None = None

    def check(self) -> None:
        """Wrong words are usage errors."""
        from dsprof.analysis.which import name_pattern
        from dsprof.analysis.workers import On

        try:
            On.of(self.on)
            name_pattern(self.pattern) if self.pattern is not None else None
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error


def analyze_several(
    files: list[Path], options: AnalysisOptions, several: Several, format_: SummaryFormat, strict: bool
) -> None:
    """Analyze several reports as one and print the screen; what failed is told at the end, by `ReportsFailed`."""
    from dsprof.analysis.many import analyze_files
    from dsprof.errors import ReportsFailed

    several.check()
    with Progress(len(files)) as progress:
        many = analyze_files(files, options, **several._asdict(), progress=progress)
        summary = many.summary()
    _show_several(summary, format_, many)
    failed = summary.failed
    if failed:
        codes = ", ".join(map(str, sorted({line.exit_code for line in failed if line.exit_code is not None})))
        raise ReportsFailed(
            f"{len(failed)} of {len(summary.reports)} reports failed (exit codes {codes}); the others are there.",
            "What is said of each is above, and in tables/reports.parquet. The next run tries these alone again.",
        )
    strict_codes = [line.strict_exit for line in summary.reports if line.strict_exit]
    if strict and strict_codes:
        raise typer.Exit(min(strict_codes))


def _show_several(summary: ReportsSummary, format_: SummaryFormat, many: ManyAnalysis) -> None:
    if format_ is SummaryFormat.RICH:
        from dsprof.show.terminal import console, print_reports

        print_reports(summary, console())
        say(f"Tables: {many.folder / 'tables'}")
        return
    from dsprof.show import plain

    if format_ is SummaryFormat.MARKDOWN:
        typer.echo(plain.reports_markdown(summary))
    else:
        sys.stdout.writelines(plain.reports_json(summary))
        typer.echo()


def show_and_write(analysis: Analysis, out: Path | None, top: int, format_: SummaryFormat) -> Summary:
    """Print the summary, write the tables and say where they are.

    What is in memory is shown before it is written; the parts of a large report are gone through for both at once.
    """
    with Progress() as progress:
        folder = None if analysis.in_memory else analysis.write(out, progress)
        summary = analysis.summary(top)
    try:
        _show(summary, format_)
        sys.stdout.flush()
    finally:  # also where nobody reads to the end, as in ``| head``
        with Progress() as progress:
            folder = folder or analysis.write(out, progress)
    if format_ is SummaryFormat.RICH:
        say(f"Tables: {folder}")
    return summary


def _show(summary: Summary, format_: SummaryFormat) -> None:
    """Print a summary; what to know of the data also goes to stderr beside a document."""
    if format_ is SummaryFormat.RICH:
        from dsprof.show.terminal import console, print_summary

        print_summary(summary, console())
        return
    from dsprof.show import plain

    if format_ is SummaryFormat.MARKDOWN:
        typer.echo(plain.summary_markdown(summary))
    else:
        sys.stdout.writelines(plain.summary_json(summary))
        typer.echo()
    for found in summary.findings:
        say(f"dsprof: {found}", err=True)
