"""The command line, and the one place that catches `DsprofError`.

Heavy modules are imported inside the commands, so that ``dsprof --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.errors import DsprofError

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from dsprof.analysis import Analysis
    from dsprof.summary import Summary

app = typer.Typer(
    name="dsprof",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From an Nsight Systems report to what prefill and decode did on the GPU.",
)


class SummaryFormat(StrEnum):
    """How `analyze` prints its summary."""

    RICH = "rich"
    JSON = "json"
    MARKDOWN = "markdown"


class TableFormat(StrEnum):
    """How `table` prints a table."""

    RICH = "rich"
    CSV = "csv"
    JSON = "json"
    MARKDOWN = "markdown"
    PARQUET = "parquet"


class ThreadsOption(StrEnum):
    """Whose launches a stage encloses."""

    THREAD = "thread"
    PROCESS = "process"


Report = Annotated[Path, typer.Argument(metavar="REPORT", help="A .nsys-rep, .qdrep or .sqlite, or a session folder.")]
Stage = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=REGEX", help="Ranges whose name holds REGEX are stage NAME. Can be repeated."),
]
Step = Annotated[str | None, typer.Option(metavar="REGEX", help="Ranges whose name holds REGEX are decode steps.")]
Threads = Annotated[
    ThreadsOption,
    typer.Option(help="process: a stage also takes the launches of its process's other threads."),
]
Nsys = Annotated[str | None, typer.Option(metavar="PATH", help="The nsys that exports a .nsys-rep.")]


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """From an Nsight Systems report to what prefill and decode did on the GPU."""
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"dsprof {installed('dsprof')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


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
    nsys: Nsys = None,
) -> None:
    """Attribute a report's kernels to stages, write all tables as Parquet, print a summary."""
    with Progress() as progress:
        analysis = _analysis(report, stage, step, threads, nsys, progress)
        folder = analysis.write(out, progress)
        summary = analysis.summary(top)
    _show(summary, format_)
    if format_ is SummaryFormat.RICH:
        typer.echo(f"Tables: {folder}")
    elif summary.findings:
        typer.echo("\n".join(f"dsprof: {found}" for found in summary.findings), err=True)
    codes = [found.strict_exit for found in summary.findings if found.strict_exit]
    if strict and codes:
        raise typer.Exit(min(codes))


@app.command(epilog="Example: dsprof table run.nsys-rep stage_kern_sum --format csv > kernels.csv")
def table(
    report: Report,
    name: Annotated[str, typer.Argument(help="Name of the table; `dsprof tables` lists them.")],
    format_: Annotated[TableFormat, typer.Option("--format", help="How to print it.")] = TableFormat.RICH,
    rows: Annotated[int, typer.Option(min=1, help="Rows to show; the other formats print all.")] = 20,
    stage: Stage = None,
    step: Step = None,
    threads: Threads = ThreadsOption.THREAD,
    nsys: Nsys = None,
) -> None:
    """Print one table of a report; --format parquet writes the file to standard output."""
    with Progress() as progress:
        analysis = _analysis(report, stage, step, threads, nsys, progress)
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


def _analysis(
    report: Path,
    stage: list[str] | None,
    step: str | None,
    threads: ThreadsOption,
    nsys: str | None,
    progress: Callable[[str], None],
) -> Analysis:
    from dsprof.analysis import analyze as run

    return run(report, stages=_stages(stage), step=_pattern("--step", step), threads=threads.value, nsys=nsys,
               progress=progress)  # fmt: skip


def _stages(options: list[str] | None) -> dict[str, str]:
    """``NAME=REGEX`` options as a dictionary; a wrong one is a usage error."""
    stages = {}
    for option in options or []:
        name, separator, pattern = option.partition("=")
        if not (name and separator and pattern):
            raise typer.BadParameter(f"'{option}' is not NAME=REGEX, like prefill=^my_prefill$.")
        stages[name] = _pattern("--stage", pattern) or ""
    return stages


def _pattern(option: str, pattern: str | None) -> str | None:
    import re

    try:
        re.compile(pattern or "")
    except re.error as error:
        raise typer.BadParameter(f"{option} '{pattern}' is no regular expression: {error}.") from error
    return pattern


def _show(summary: Summary, format_: SummaryFormat) -> None:
    from dsprof.render import plain, terminal

    if format_ is SummaryFormat.RICH:
        terminal.print_summary(summary, terminal.console())
    elif format_ is SummaryFormat.MARKDOWN:
        typer.echo(plain.summary_markdown(summary))
    else:
        import json

        from cattrs import unstructure

        typer.echo(json.dumps(unstructure(summary), indent=1, ensure_ascii=False))


def _parquet_to_stdout(analysis: Analysis, name: str) -> None:
    import tempfile

    from dsprof.analysis import write_parquet

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.parquet")
        write_parquet(analysis.arrow(name), path)
        sys.stdout.buffer.write(path.read_bytes())


class Progress(AbstractContextManager["Progress"]):
    """A bar on a terminal's stderr that says what is being done, once it has taken longer than a second."""

    _PATIENCE_S = 1.0
    #: Sentences that an analysis says: what it reads, and the tables that it writes.
    _SENTENCES = 16

    def __init__(self) -> None:
        self._sentence, self._said = "reading", 0
        self._lock = threading.Lock()
        self._over = False
        self._bar: RichProgress | None = None
        self._timer = threading.Timer(self._PATIENCE_S, self._start)
        self._timer.daemon = True

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True
            if self._bar is not None:
                self._bar.stop()

    def __call__(self, sentence: str) -> None:
        """Tell what is being done now."""
        with self._lock:
            self._sentence, self._said = sentence, self._said + 1
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], description=sentence, completed=self._said)

    def _start(self) -> None:
        from dsprof.render.terminal import progress_bar

        with self._lock:
            if self._over:
                return
            self._bar = progress_bar()
            self._bar.add_task(self._sentence, total=self._SENTENCES, completed=self._said)
            self._bar.start()


def main() -> None:
    """Run the command line; the exit codes are listed in `dsprof.errors` and `dsprof.findings`."""
    try:
        app()
    except DsprofError as error:
        typer.echo(f"dsprof: {error.message}", err=True)
        if error.hint:
            typer.echo(f"        {error.hint}", err=True)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        typer.echo("dsprof: interrupted.", err=True)
        raise SystemExit(130) from None
