"""The application, and the options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.stages import NO_STAGE

if TYPE_CHECKING:
    from dsprof.analysis import Analysis

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
Families = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Rules for kernel families, put before the usual ones: TOML, see docs/your-own-program.md."
    ),
]
ModelConfig = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Which model ran, for roofs: a config.json or session.json."),
]
Memory = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory to take at most, like 2GB; three quarters of what is free by default."),
]
Fast = Annotated[
    bool | None,
    typer.Option(
        "--fast/--no-fast",
        help="Let numba compile loops, or not; where it is installed, large reports do.",
    ),
]
Nsys = Annotated[str | None, typer.Option(metavar="PATH", help="The nsys that exports a .nsys-rep.")]


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """From an Nsight Systems report to what prefill and decode did on the GPU."""
    if version:
        from dsprof.versions import our_version

        typer.echo(f"dsprof {our_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def say(text: str, err: bool = False) -> None:
    """Print lines that may hold names of files and reports."""
    from dsprof.render.safe import for_terminal

    typer.echo(for_terminal(text), err=err)


def load_numpy() -> None:
    """Load numpy without the threads of its linear algebra."""
    from dsprof.environment import without_threads

    with without_threads():
        import numpy  # noqa: F401


def analysis_of(
    report: Path,
    progress: Callable[[str], None],
    *,
    stage: list[str] | None,
    step: str | None,
    threads: ThreadsOption,
    families: Path | None,
    model_config: Path | None,
    memory: str | None,
    fast: bool | None,
    nsys: str | None,
    tables: Sequence[str] | None,
    folder: Path | None = None,
    reuse: bool = True,
) -> Analysis:
    """Analyze a report as the options say; wrong patterns and sizes are usage errors."""
    from dsprof.analysis import analyze as run
    from dsprof.nsys.folders import report_in

    if os.path.isdir(report):  # noqa: PTH112  Path raises for a name that is too long
        report = report_in(report, lambda sentence: say(f"dsprof: {sentence}.", err=True))
    return run(report, stages=stages_of(stage), step=pattern("--step", step), threads=threads.value,
               families=families, model_config=model_config, tables=tables, memory=_size(memory),
               compiled=fast, folder=folder, reuse=reuse, nsys=nsys, progress=progress)  # fmt: skip


def _size(text: str | None) -> int | None:
    from dsprof.memory import bytes_of

    try:
        return None if text is None else bytes_of(text)
    except ValueError as error:
        raise typer.BadParameter(f"--memory {error}") from error


def stages_of(options: list[str] | None) -> dict[str, str]:
    """``NAME=REGEX`` options as a dictionary; a wrong one is a usage error."""
    stages = {}
    for option in options or []:
        name, separator, text = option.partition("=")
        if not (name and separator and text) or name == NO_STAGE:
            raise typer.BadParameter(f"'{option}' is not NAME=REGEX, like prefill=^my_prefill$.")
        if name.encode(errors="ignore").decode() != name:
            raise typer.BadParameter(f"'{option}' names a stage with bytes that are no UTF-8.")
        stages[name] = pattern("--stage", text) or ""
    return stages


def pattern(option: str, text: str | None) -> str | None:
    """The value of an option that is a regular expression; a wrong one is a usage error."""
    import re

    from dsprof.patterns import compiled

    try:
        compiled(text or "")
    except re.error as error:
        raise typer.BadParameter(f"{option} '{text}' is no regular expression: {error}.") from error
    return text
