"""``dsprof schema``: the JSON Schemas of the documents."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from dsprof.cli.options import app


class Document(StrEnum):
    """A document that has a schema."""

    SUMMARY = "summary"
    REPORTS = "reports"
    TABLE = "table"
    QUERY = "query"
    DIFF = "diff"
    WHATIF = "whatif"
    SESSION = "session"


@app.command(epilog="Example: dsprof schema summary > summary.schema.json")
def schema(
    name: Annotated[Document | None, typer.Argument(help="The document; without it, all are listed.")] = None,
) -> None:
    """Print the JSON Schema (draft 2020-12) of a document that dsprof writes, or list those that there are."""
    from dsprof.agents.schemas import schemas

    if name is not None:
        typer.echo(json.dumps(schemas()[name], indent=1, ensure_ascii=False))
        return
    for document, one in schemas().items():
        typer.echo(f"{document}  {one['description']} {one['$id']}")
