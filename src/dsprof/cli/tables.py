"""``dsprof tables``: which tables there are."""

from __future__ import annotations

import typer

from dsprof.cli.options import app


@app.command(epilog="Example: dsprof tables")
def tables() -> None:
    """List the tables, and their columns with unit and meaning."""
    from dsprof.tables import all_tables

    for one in all_tables().values():
        typer.echo(f"{one.name}: a row is {one.row}")
        width = max(len(column.name) for column in one.columns)
        for column in one.columns:
            typer.echo(f"  {column.name:<{width}}  {column.text}")
        typer.echo()
