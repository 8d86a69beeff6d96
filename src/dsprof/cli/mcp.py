"""``dsprof mcp``: a server for agents."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsprof.cli import completing
from dsprof.cli.options import app, load_numpy
from dsprof.errors import ServingRefused


@app.command(epilog="Example: dsprof mcp --root ~/reports")
def mcp(
    root: Annotated[
        list[Path],
        typer.Option(
            metavar="DIR", help="A folder below which it may read; several: again.", autocompletion=completing.files
        ),
    ],
) -> None:
    """Serve agents on standard input and output by the Model Context Protocol: analyze, table, query, diff, whatif.

    It reads below the folders that are named and nowhere else, and writes nothing but exports to the cache. It is
    started by the agent's program, not by hand. It needs pip install 'dsprof[mcp]'.
    """
    load_numpy()
    try:
        import mcp.server.mcpserver  # noqa: F401
    except ImportError as error:
        raise ServingRefused(
            "The server needs the package mcp, version 2.1 or newer, which is not installed here.",
            "Install it: pip install 'dsprof[mcp]'.",
        ) from error
    from dsprof.agents.server import serve

    serve(root)
