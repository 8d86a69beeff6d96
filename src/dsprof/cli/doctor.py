"""``dsprof doctor``: would a capture work here?"""

from __future__ import annotations

import typer

from dsprof.cli.options import Nsys, app


@app.command(epilog="Example: dsprof doctor --nsys /opt/nvidia/nsight-systems/2025.3.1/bin/nsys")
def doctor(nsys: Nsys = None) -> None:
    """Say whether a capture would work here, and what to do where it would not."""
    from dsprof.capture.doctor import examine, works
    from dsprof.show.terminal import console, print_checks

    checks = examine(nsys)
    print_checks(checks, console())
    if not works(checks):
        raise typer.Exit(1)
