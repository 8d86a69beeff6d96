"""``dsprof completion``: what a shell reads to complete commands, options, names of tables and reports."""

from __future__ import annotations

from typing import Annotated

import typer

from dsprof.cli.completing import Shell, script
from dsprof.cli.options import app


@app.command(epilog="Example: dsprof completion bash > dsprof.bash")
def completion(shell: Annotated[Shell, typer.Argument(help="The shell that is to complete.")]) -> None:
    """Print what makes a shell complete commands, options, tables and reports at a tab.

    It goes into the file that the shell reads when it starts: in ~/.bashrc the line eval "$(dsprof completion bash)".
    """
    typer.echo(script(shell))
