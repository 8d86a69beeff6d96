"""The application, and the options that several commands share."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import attrs
import typer

from dsprof.cli import completing
from dsprof.records import frozen
from dsprof.words import NO_STAGE

if TYPE_CHECKING:
    from dsprof.analysis.analyze import Analysis
    from dsprof.analysis.many import ManyAnalysis
    from dsprof.analysis.options import AnalysisOptions

app = typer.Typer(
    name="dsprof",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From an Nsight Systems report to what prefill and decode did on the GPU.",
)
Command = Callable[..., None]
Report = Annotated[
    Path,
    typer.Argument(
        metavar="REPORT",
        help="A .nsys-rep, .qdrep or .sqlite, or a session folder.",
        autocompletion=completing.reports,
    ),
]
Reports = Annotated[
    list[Path],
    typer.Argument(
        metavar="REPORT...",
        help="A .nsys-rep, .qdrep or .sqlite, or a session folder; several, folders of several, or 'job-*/' are one "
        "analysis of many.",
        autocompletion=completing.reports,
    ),
]
Nsys = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="The nsys that exports a .nsys-rep.", autocompletion=completing.files),
]
DefaultRules = Annotated[
    bool,
    typer.Option("--default-rules", help="Leave aside the rules that earlier tables of the report were made with."),
]
#: Of commands that write a file.
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there.")]
#: Of commands that print rows.
Raw = Annotated[
    bool, typer.Option("--raw", help="Numbers as they are, in the unit of the column's name, on a screen as well.")
]


class ThreadsOption(StrEnum):
    """Whose launches a stage encloses."""

    THREAD = "thread"
    PROCESS = "process"


@frozen
class AnalysisFlags:
    """Options of the commands that analyze a report."""

    stage: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=REGEX", help="Ranges whose name holds REGEX are stage NAME. Can be repeated."),
    ] = None
    step: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Ranges whose name holds REGEX are decode steps.")
    ] = None
    threads: Annotated[
        ThreadsOption | None,
        typer.Option(help="process: a stage also takes the launches of its process's other threads; usually not."),
    ] = None
    families: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Rules for kernel families, put before the usual ones: TOML, see docs/your-own-program.md.",
            autocompletion=completing.files,
        ),
    ] = None
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|none", help="The serving engine whose steps are looked for; by default, whichever it is."
        ),
    ] = None
    model_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Which model ran, for roofs: a config.json or session.json.",
            autocompletion=completing.files,
        ),
    ] = None
    rules: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A TOML file of such options; by default dsprof.toml beside the report or here; none: no file.",
            autocompletion=completing.files,
        ),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Memory to take at most, like 2GB; three quarters of what is free by default."
        ),
    ] = None
    fast: Annotated[
        bool | None,
        typer.Option(
            "--fast/--no-fast", help="Let numba compile loops, or not; where it is installed, large reports do."
        ),
    ] = None
    nsys: Nsys = None

    def options(self, **more: Any) -> AnalysisOptions:
        """These and some `more`, checked: wrong patterns and sizes are usage errors."""
        from dsprof.analysis.options import AnalysisOptions

        try:
            return AnalysisOptions(
                stages=stages_of(self.stage), step=pattern("--step", self.step),
                threads=self.threads.value if self.threads else None, families=self.families, engine=self.engine,
                model_config=self.model_config, rules=self.rules, memory=self.memory, compiled=self.fast,
                nsys=self.nsys, **more,
            )  # fmt: skip
        except ValueError as error:
            raise typer.BadParameter(f"--memory {error}") from error


@frozen
class SelectionFlags:
    """What of a report is analyzed."""

    window: Annotated[
        str | None,
        typer.Option(
            metavar="FROM..TO",
            help="What the host began then, like 3s..5s, ..250ms, 10%..90%, from the capture's begin.",
        ),
    ] = None
    device: Annotated[
        str | None, typer.Option(metavar="N,N", help="The GPU operations of some devices, and who launched them.")
    ] = None
    pid: Annotated[str | None, typer.Option(metavar="N,N", help="Some processes.")] = None

    @property
    def options(self) -> dict[str, Any]:
        """These as options of an analysis, checked: wrong ones are usage errors."""
        from dsprof.nsys.selection import numbers_of, window_of

        given = {"window": self.window, "device": self.device, "pid": self.pid}
        for name, value in given.items():
            check: Callable[[str], object] = window_of if name == "window" else numbers_of
            try:
                check(value) if value is not None else None
            except ValueError as error:
                raise typer.BadParameter(f"--{name} {error}") from error
        return given


def analyzed(report: Path, options: AnalysisOptions, progress: Callable[[str], None]) -> Analysis:
    """The analysis of what the command line names; of a folder, the report in it is chosen and told."""
    from dsprof.analysis.analyze import analyze_as
    from dsprof.ground.memory import keep_freed
    from dsprof.nsys.folders import report_in

    keep_freed()
    if os.path.isdir(report):  # noqa: PTH112  Path raises for a name that is too long
        report = report_in(report, lambda sentence: say(f"dsprof: {sentence}.", err=True))
    return analyze_as(report, options, progress)


def of_folder(
    folder: Path, tables: Iterable[str], selected: SelectionFlags, flags: AnalysisFlags, default_rules: bool
) -> Analysis | ManyAnalysis | None:
    """The analysis whose tables a folder holds, of one report or of several; None where it is no such folder."""
    if not any(os.path.isfile(folder / name) for name in ("analysis.json", "tables/reports.json")):  # noqa: PTH113
        return None
    if (selected, flags, default_rules) != (SelectionFlags(), AnalysisFlags(), False):
        raise typer.BadParameter(
            "The tables in a folder are as they were made: name their report, or drop the options."
        )
    from dsprof.analysis.many import tables_in_folder

    return tables_in_folder(folder, tables)


def files_named(reports: list[Path]) -> list[Path]:
    """The reports that the command line names, by files, folders and patterns; what was chosen is told."""
    from dsprof.analysis.which import files_of

    return files_of(reports, lambda sentence: say(f"dsprof: {sentence}.", err=True))


def tell_remembered(analysis: Analysis | ManyAnalysis) -> None:
    """Say on stderr which rules hold that were not named this time, and what of the report is selected."""
    from dsprof.analysis.many import ManyAnalysis
    from dsprof.show.layout import rules_told

    if isinstance(analysis, ManyAnalysis):
        return

    if any(rule.remembered or rule.file for rule in analysis.rules):
        say(f"dsprof: rules: {rules_told(analysis.rules)}", err=True)
    if selected := str(analysis.selection):
        say(f"dsprof: selected: {selected}", err=True)


def with_flags(command: Command) -> Command:
    """A command whose parameters of a class of options are given as the options of that class."""
    hints = get_type_hints(command, include_extras=True)
    classes = {name: hints[name] for name in signature(command).parameters if attrs.has(hints[name])}
    parameters: list[Parameter] = []
    for name, parameter in signature(command).parameters.items():
        parameters += _spread(classes[name]) if name in classes else [parameter.replace(annotation=hints[name])]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        made = {name: kind(**{one.name: values.pop(one.name) for one in attrs.fields(kind)})
                for name, kind in classes.items()}  # fmt: skip
        command(**values, **made)

    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _spread(kind: type) -> Sequence[Parameter]:
    """The fields of a class of options as parameters of a command."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        Parameter(one.name, Parameter.POSITIONAL_OR_KEYWORD, default=one.default, annotation=hints[one.name])
        for one in attrs.fields(kind)
    ]


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """From an Nsight Systems report to what prefill and decode did on the GPU."""
    if version:
        from dsprof.ground.versions import our_version

        typer.echo(f"dsprof {our_version()}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def say(text: str, err: bool = False) -> None:
    """Print lines that may hold names of files and reports."""
    from dsprof.show.safe import for_terminal

    typer.echo(for_terminal(text), err=err)


def load_numpy() -> None:
    """Load numpy without the threads of its linear algebra."""
    from dsprof.ground.threads import without_threads

    with without_threads():
        import numpy  # noqa: F401


def listed(text: str | None) -> list[str] | None:
    """The names of an option that takes several, with commas between; None where it was not given."""
    return None if text is None else [name.strip() for name in text.split(",")]


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

    from dsprof.ground.patterns import compiled

    try:
        compiled(text or "")
    except re.error as error:
        raise typer.BadParameter(f"{option} '{text}' is no regular expression: {error}.") from error
    return text
