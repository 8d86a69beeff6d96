"""``dsprof timeline``: reports as a timeline that Perfetto shows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import asdict

from dsprof.cli import completing
from dsprof.cli.options import (
    AnalysisFlags,
    DefaultRules,
    Force,
    Reports,
    SelectionFlags,
    analyzed,
    app,
    files_named,
    load_numpy,
    say,
    tell_remembered,
    with_flags,
)
from dsprof.cli.progress import Progress
from dsprof.records import frozen

if TYPE_CHECKING:
    from dsprof.analysis.analyze import Analysis
    from dsprof.analysis.options import AnalysisOptions
    from dsprof.analysis.timelines import StepWanted, Timeline

#: Where one of these is set, a browser can open a window.
_DESKTOPS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
#: A step by its number: 12, or 3:12 of request 3.
_STEP = re.compile(r"(?:(\d{1,18}):)?(\d{1,18})", re.ASCII)


@frozen
class TimelineFlags(AnalysisFlags):
    """The same options, but that ``--step 12`` chooses a step."""

    step: Annotated[
        str | None,
        typer.Option(
            metavar="N|REQUEST:N|REGEX",
            help="Draw step N, of the first request that has it or of REQUEST, and what is around it; anything else is "
            "a pattern: ranges whose name holds REGEX are decode steps.",
        ),
    ] = None

    @property
    def wanted(self) -> StepWanted | None:
        """The step to draw, None for all."""
        from dsprof.analysis.timelines import StepWanted

        found = _STEP.fullmatch(self.step or "")
        return StepWanted(int(found[2]), int(found[1]) if found[1] else None) if found else None

    def options(self, **more: Any) -> AnalysisOptions:
        """As of any analysis."""
        pattern = None if self.wanted else self.step
        return AnalysisFlags(**{**asdict(self), "step": pattern}).options(**more)


@app.command(epilog="Example: dsprof timeline run.nsys-rep -o run.pftrace.gz --open")
@with_flags
def timeline(
    reports: Reports,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The file to write, packed where its name ends in .gz; may be left out with --open.",
            autocompletion=completing.files,
        ),
    ] = None,
    force: Force = False,
    open_: Annotated[
        bool,
        typer.Option("--open", help="Show it in a browser, in the Perfetto UI, until Ctrl-C; nothing is sent away."),
    ] = False,
    ui: Annotated[
        str | None, typer.Option(metavar="URL", help="The Perfetto UI to show it in, with --open; by default Google's.")
    ] = None,
    default_rules: DefaultRules = False,
    *,
    selected: SelectionFlags,
    flags: TimelineFlags,
) -> None:
    """Write what reports say as a timeline for Perfetto: streams, API calls, ranges, stages, steps, collectives.

    Open the file with ui.perfetto.dev, or let --open do it. Several reports are ranks of one run, in one timeline on
    one clock; --window is then on each one's own.
    """
    if output is None and not open_:
        raise typer.BadParameter("Name a file to write with -o, or add --open.")
    if ui is not None and not open_:
        raise typer.BadParameter("--ui says where --open shows it.")
    address = _ui(ui)
    load_numpy()
    options = flags.options(tables=_tables(), remembered=not default_rules, **selected.options)
    files = files_named(reports)
    if output is not None:
        from dsprof.ground.whole import spare

        spare(files, output)

    def write(target: Path) -> Timeline:
        from dsprof.analysis.timelines import write_timeline

        with Progress() as progress:
            opened = [_opening(file, options, progress) for file in files]
            return write_timeline(opened, target, flags.wanted, force, progress)

    if output is not None:
        written = write(output)
        say(f"Timeline: {written.path}")
        if open_:
            _show(written, address)
    else:
        _show_once(write, files[0], address)


def _tables() -> tuple[str, ...]:
    from dsprof.timeline.stages import TABLES

    return TABLES


def _opening(file: Path, options: AnalysisOptions, progress: Progress) -> Callable[[], Analysis]:
    """What analyzes a report, any number of times; what holds without being named is told once."""
    told: list[Path] = []

    def opened() -> Analysis:
        analysis = analyzed(file, options, progress)
        if not told:
            told.append(file)
            tell_remembered(analysis)
        return analysis

    return opened


def _ui(given: str | None) -> str | None:
    """The address that is given, checked: a wrong one is a usage error."""
    if given is None:
        return None
    from dsprof.timeline.serve import ui_of

    try:
        return ui_of(given)
    except ValueError as error:
        raise typer.BadParameter(f"--ui {error}") from error


def _show_once(write: Callable[[Path], Timeline], report: Path, ui: str | None) -> None:
    """Show a timeline that is kept no longer than that."""
    from dsprof.ground.leftovers import own_folder

    with own_folder("dsprof-timeline-") as folder:
        _show(write(folder / f"{report.name.split('.')[0] or 'report'}.pftrace.gz"), ui)


def _show(written: Timeline, ui: str | None) -> None:
    """Open a timeline in a browser, and serve it until somebody interrupts."""
    import webbrowser

    from dsprof.timeline.serve import UI, Served, Shown

    path = written.path
    shown = Shown(path.name, written.sight, ui or UI)
    with Served(shown, path.stat().st_size, lambda: path.open("rb")) as served:
        say(f"dsprof: open {served.address} if no browser does; Ctrl-C ends it.", err=True)
        if any(os.environ.get(name) for name in _DESKTOPS):  # a browser in the terminal would take its place
            webbrowser.open(served.address)
        try:
            served.serve_forever()
        except KeyboardInterrupt:
            return
