"""The options of `capture` for several runs, and what is told of them."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.cli.options import listed, say
from dsprof.errors import BaselineFailed, RunsFailed
from dsprof.records import frozen

if TYPE_CHECKING:
    from dsprof.capture.runs import Runs, Unfinished

#: More runs of a side than anybody wants.
MOST_RUNS = 1000


@frozen
class RunFlags:
    """How often a program is recorded, and in turn with which."""

    runs: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_RUNS, metavar="N", help="Record it N times, a session each, for dsprof diff."),
    ] = None
    before: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND|OPTIONS",
            help="The program that this is to be compared with, recorded in turn with it: a command, or options of a "
            "session that were different.",
        ),
    ] = None
    sides: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME]", help="What the runs are called; before,after, or run where all are alike."),
    ] = None
    pause_s: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Wait so long between two runs.")] = 0.0

    @property
    def wanted(self) -> bool:
        """Are there several, or may be?"""
        return self.runs is not None or self.before is not None

    def names(self) -> list[str]:
        """The names of the sides. Raises `typer.BadParameter` for wrong ones, and for options that mean nothing."""
        from dsprof.capture.runs import AFTER, ALONE, BEFORE, check_names

        if not self.wanted and (self.sides is not None or self.pause_s):
            raise typer.BadParameter("--sides and --pause-s belong to --runs or --before.")
        usual = [ALONE] if self.before is None else [BEFORE, AFTER]
        names = listed(self.sides) or usual
        if len(names) != len(usual):
            raise typer.BadParameter(f"--sides wants {len(usual)} of them here, and {len(names)} are named.")
        try:
            check_names(names)
        except ValueError as error:
            raise typer.BadParameter(f"--sides: {error}") from error
        return names

    def words(self) -> list[str]:
        """The words of --before. Raises `typer.BadParameter`."""
        try:
            words = shlex.split(self.before or "")
        except ValueError as error:
            raise typer.BadParameter(f"--before is no command: {error}.") from error
        if not words:
            raise typer.BadParameter("--before names nothing.")
        return words


def tell_runs(done: Runs) -> None:
    """What there is, and the command that compares it."""
    if not done.whole and not done.unfinished:
        return
    counts = " and ".join(f"{len(done.of(side))} of {side}" for side in done.sides)
    say(f"Runs: {done.folder} ({counts})")
    say("      each is a session (to pass on: all but the .nsys-rep, or what `dsprof scrub` makes of the export)")
    if done.comparison:
        say(f"Then: {done.comparison}")


def end_runs(done: Runs) -> None:
    """End as the runs did: where none is whole, as the first did."""
    for one in done.whole:
        if one.profile.ending != "finished" or one.profile.left or one.profile.short:
            say(f"dsprof: {one.folder.name}: {one.profile.explain()}.", err=True)
    for bad in done.unfinished:
        kept = f" What there is lies in {bad.folder}." if bad.folder else ""
        say(f"dsprof: {bad.turn.name} does not count: {bad.why}.{kept}", err=True)
    if done.interrupted:
        say(f"dsprof: interrupted; {_count(done.left_out)} not begun.", err=True)
        raise typer.Exit(130)
    if done.unfinished and not done.whole:
        _end_as(done.unfinished[0])
    if done.unfinished or done.left_out:
        turns = done.unfinished[0].turn.turns
        gone = f" {_count(done.left_out).capitalize()} left out after that." if done.left_out else ""
        raise RunsFailed(
            f"Of {turns} runs {len(done.whole)} are whole.{gone}", "They can be compared as they are, or recorded anew."
        )
    if problems := [problem for one in done.whole for problem in one.session.baseline.problems]:
        raise BaselineFailed(problems[0], "The recordings are whole. See the logs in their folders.")


def _count(runs: int) -> str:
    return f"{runs} run was" if runs == 1 else f"{runs} runs were"


def _end_as(bad: Unfinished) -> None:
    if bad.error is not None:
        raise bad.error
    code = bad.capture.session.exit_code if bad.capture else 1
    raise typer.Exit(code if code > 0 else 1)
