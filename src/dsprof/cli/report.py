"""``dsprof report``: one HTML file of a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dsprof.cli import completing
from dsprof.cli.options import (
    AnalysisFlags,
    DefaultRules,
    Force,
    Report,
    SelectionFlags,
    analyzed,
    app,
    load_numpy,
    of_folder,
    say,
    tell_remembered,
    with_flags,
)
from dsprof.cli.progress import Progress

if TYPE_CHECKING:
    from dsprof.analysis.analyze import Analysis
    from dsprof.analysis.many import ManyAnalysis


@app.command(epilog="Example: dsprof report run.nsys-rep -o run.html")
@with_flags
def report(
    report: Report,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The file to write; <report>.html in this folder by default.",
            autocompletion=completing.files,
        ),
    ] = None,
    force: Force = False,
    default_rules: DefaultRules = False,
    *,
    selected: SelectionFlags,
    flags: AnalysisFlags,
) -> None:
    """Write one HTML file that shows a report: to be looked at in any browser, and sent.

    It needs no network and no other file, and can be read without JavaScript and on paper. Results of `dsprof analyze`
    beside the report are used; otherwise the report is analyzed, and no tables are written. A folder of tables has a
    page without its report, and that of an analysis of several reports has one that compares ranks.
    """
    load_numpy()
    from dsprof.analysis.analyze import Analysis
    from dsprof.ground.whole import check_free, spare
    from dsprof.page.source import TABLES

    options = flags.options(tables=list(TABLES), remembered=not default_rules, **selected.options)
    if out is not None:
        check_free(out, force)  # before there is work that would be in vain
        spare([report], out)
    with Progress() as progress:
        found = of_folder(report, TABLES, selected, flags, default_rules) or analyzed(report, options, progress)
        target = out or Path(f"{_name(found)}.html")
        found.report(target, force=force)
    if isinstance(found, Analysis):
        tell_remembered(found)
    say(f"Report: {target}")


def _name(found: Analysis | ManyAnalysis) -> str:
    """What a page is called."""
    from dsprof.analysis.analyze import Analysis

    return (found.path if isinstance(found, Analysis) else found.folder).name.split(".")[0]
