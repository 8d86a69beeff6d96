"""``dsprof scrub``: a copy of an export that can be passed on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsprof.cli.options import Force, app, say


@app.command(epilog="Example: dsprof scrub run.sqlite -o safe.sqlite")
def scrub(
    report: Annotated[Path, typer.Argument(metavar="REPORT.sqlite", help="An SQLite export.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")],
    force: Force = False,
) -> None:
    """Copy an export without environment, paths, users, hosts and process lists; every event row stays."""
    from dsprof.nsys.scrub import scrub as run

    done = run(report, output, force=force)
    say(f"{done.target}: {sum(done.kept.values())} rows kept, {sum(done.removed.values())} removed.")
    for what, times in done.found.items():
        say(f"  taken out of {times} texts: {what}")
