"""``dsprof diff``: two sides compared; ``dsprof baseline``: sides that are kept."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.cli import completing
from dsprof.cli.options import AnalysisFlags, SelectionFlags, app, load_numpy, say, with_flags
from dsprof.cli.progress import Progress

if TYPE_CHECKING:
    from dsprof.analysis.diff import Comparison
    from dsprof.compare.gates import Gate

#: Stands for ``--`` among the arguments, which the parser would take for the end of the options.
BETWEEN = "\0--"


class DiffFormat(StrEnum):
    """How `diff` prints a comparison."""

    RICH = "rich"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


@app.command(epilog="Example: dsprof diff before/ -- after/ --gate 'decode.gpu_busy<1%' --gate 'decode.wall<5%'")
@with_flags
def diff(
    sides: Annotated[
        list[str],
        typer.Argument(
            metavar="BEFORE… -- AFTER…",
            help="Runs of both sides: reports, session folders, folders of tables, baselines, patterns of these. "
            "Of two names alone the second is AFTER.",
            autocompletion=completing.reports,
        ),
    ],
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STAGE.MEASURE<N%",
            help="Fail where it grew by so much: gpu_busy, wall, launches, kernels, graph_launches, operations; of all "
            "stages without STAGE; default: gpu_busy<1% and wall<5%. Can be repeated.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Compare also what is not comparable.")] = False,
    top: Annotated[int, typer.Option(min=0, help="Operations to show for each stage; a page has all.")] = 5,
    format_: Annotated[DiffFormat, typer.Option("--format", help="How to print it.")] = DiffFormat.RICH,
    *,
    selected: SelectionFlags,
    flags: AnalysisFlags,
) -> None:
    """Compare the runs of two sides: what got slower or faster, by how much, why, and whether gates are passed.

    Ends with 0 where they are comparable and no gate says otherwise, with 1 for a regression, and with 3 where they
    are not comparable, or too noisy for a gate. Options of the analysis are for reports; folders of tables are taken
    as they are.
    """
    load_numpy()
    before, after = _sides(sides)
    from dsprof.analysis.diff import diff_as
    from dsprof.analysis.sides import WANTED

    gates = _gates(gate, flags.rules)
    with Progress() as progress:
        found = diff_as(before, after, gates, force, flags.options(tables=WANTED, **selected.options), progress)
    _show(found, format_, top)
    raise typer.Exit(found.exit_code)


def _sides(words: list[str]) -> tuple[list[str], list[str]]:
    """The names before and after ``--``; of two names one each."""
    if BETWEEN in words:
        at = words.index(BETWEEN)
        return words[:at], [word for word in words[at + 1 :] if word != BETWEEN]
    if len(words) == 2:
        return words[:1], words[1:]
    raise typer.BadParameter("say which are before and which after: dsprof diff BEFORE… -- AFTER…")


def _gates(given: list[str] | None, rules: Path | None) -> tuple[Gate, ...]:
    """The gates that are named, or else those of the rules file; a wrong one is a usage error."""
    from dsprof.analysis.rules_file import gates_in_effect
    from dsprof.compare.gates import gates_of

    if given is None:
        return gates_in_effect(rules)
    try:
        return gates_of(given)
    except ValueError as error:
        raise typer.BadParameter(f"--gate {error}") from error


def _show(found: Comparison, format_: DiffFormat, top: int) -> None:
    from dsprof.show import plain, terminal

    outcome = found.outcome
    if format_ is DiffFormat.RICH:
        terminal.print_diff(outcome, terminal.console(), top)
    elif format_ is DiffFormat.MARKDOWN:
        typer.echo(plain.diff_markdown(outcome, top))
    elif format_ is DiffFormat.HTML:
        typer.echo(found.page())
    else:
        typer.echo(plain.diff_json(outcome))


baseline = typer.Typer(
    no_args_is_help=True,
    help="Keep what comparisons read of a report, small enough for a repository.",
    epilog="Example: dsprof baseline add main run-1/ run-2/ run-3/",
)
app.add_typer(baseline, name="baseline")
Out = Annotated[Path, typer.Option(help="The folder of the baselines.", autocompletion=completing.files)]


@baseline.command(epilog="Example: dsprof baseline add main run-1/ run-2/ run-3/")
@with_flags
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the baseline: letters, digits, '.', '_', '-'.")],
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…",
            help="Reports, session folders, folders of tables, patterns of these.",
            autocompletion=completing.reports,
        ),
    ],
    out: Out = Path("baselines"),
    *,
    flags: AnalysisFlags,
) -> None:
    """Add runs to a baseline, which `dsprof diff NAME -- AFTER…` then takes; a report that is in it is replaced."""
    load_numpy()
    from dsprof.analysis.sides import WANTED, runs_of
    from dsprof.analysis.slim import baseline_named, write_slim

    try:
        target = baseline_named(name, out)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with Progress() as progress:
        found = runs_of(runs, flags.options(tables=WANTED), progress)
        written = [write_slim(recording, target) for run in found for recording in run.recordings]
    for folder in written:
        say(f"Baseline {name}: {folder}")


@baseline.command("list", epilog="Example: dsprof baseline list")
def list_(out: Out = Path("baselines")) -> None:
    """List the baselines and their recordings."""
    from dsprof.analysis.slim import baselines

    for name, recordings in baselines(out).items():
        say(f"{name}: {', '.join(recordings)}")
