"""``dsprof report``: one HTML file of a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsprof.cli import completing
from dsprof.cli.options import (
    AnalysisFlags,
    DefaultRules,
    Report,
    SelectionFlags,
    analyzed,
    app,
    load_numpy,
    say,
    tell_remembered,
    with_flags,
)
from dsprof.cli.progress import Progress


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
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    default_rules: DefaultRules = False,
    *,
    selected: SelectionFlags,
    flags: AnalysisFlags,
) -> None:
    """Write one HTML file that shows a report: to be looked at in any browser, and sent.

    It needs no network and no other file, and can be read without JavaScript and on paper. Results of `dsprof analyze`
    beside the report are used; otherwise the report is analyzed, and no tables are written.
    """
    load_numpy()
    from dsprof.ground.whole import check_free, write_whole
    from dsprof.page.source import TABLES

    options = flags.options(tables=list(TABLES), remembered=not default_rules, **selected.options)
    if out is not None:
        check_free(out, force)  # before there is work that would be in vain
    with Progress() as progress:
        analysis = analyzed(report, options, progress)
        target = out or Path(f"{analysis.path.name.split('.')[0]}.html")
        check_free(target, force)
        write_whole(target, analysis.page(), force)
    tell_remembered(analysis)
    say(f"Report: {target}")
