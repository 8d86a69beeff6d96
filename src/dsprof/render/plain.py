"""Tables and summaries as plain text: CSV, JSON, Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from dsprof.documents import json_pieces
from dsprof.render.layout import coverage, grids, headline
from dsprof.render.safe import for_csv, for_json, for_markdown
from dsprof.summary import Summary


def cells(table: pa.Table) -> list[list[str]]:
    """A table's values as text: floats with one digit as Nsight prints them, nothing for a missing value."""
    columns = [[_cell(value) for value in column.to_pylist()] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def to_csv(table: pa.Table) -> str:
    """A table as CSV with a header, every row, floats in full; texts as `for_csv` makes them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.column_names)
    columns = [map(_csv_cell, column.to_pylist()) for column in table.columns]
    writer.writerows(zip(*columns, strict=True))
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    return for_csv(value) if isinstance(value, str) else value


def to_json(name: str, table: pa.Table) -> str:
    """A table as one JSON document: its name, its columns with unit and sentence, its rows as objects."""
    about = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()}
    columns = [
        {
            "name": field.name,
            **{key.decode(): value.decode() for key, value in (field.metadata or {}).items()},
        }
        for field in table.schema
    ]
    document = {
        "table": name,
        "schema": int(about["dsprof.table_schema"]),
        "columns": columns,
        "rows": table.to_pylist(),
    }
    return for_json(json.dumps(document, indent=1, ensure_ascii=False))


def summary_json(summary: Summary) -> Iterator[str]:
    """The summary as a JSON document, piece by piece."""
    return map(for_json, json_pieces(summary, lines=True, ascii_alone=False))


def to_markdown(table: pa.Table) -> str:
    """A table as Markdown, every row."""
    numeric = [pa.types.is_integer(field.type) or pa.types.is_floating(field.type) for field in table.schema]
    return _markdown(table.column_names, cells(table), numeric)


def summary_markdown(summary: Summary) -> str:
    """The summary as Markdown: for an issue, a pull request, a job's page."""
    parts = ["\n".join(f"- **{label}**: {for_markdown(text)}" for label, text in headline(summary))]
    parts += [f"**{for_markdown(one.sentence)}** {for_markdown(one.remedy)}" for one in summary.verdicts]
    for grid in grids(summary):
        numeric = [position >= grid.names for position in range(len(grid.header))]
        parts.append(f"**{for_markdown(grid.title)}**\n\n{_markdown(grid.header, grid.rows, numeric)}")
        parts += map(for_markdown, grid.notes)
    notes = [f"- {for_markdown(str(found))}" for found in summary.findings]
    parts.append("\n".join([for_markdown(coverage(summary)), *notes]))
    return "\n\n".join(parts)


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    rule = ["---:" if right else "---" for right in numeric]
    texts = [[for_markdown(cell) for cell in row] for row in [header, *rows]]
    lines = [texts[0], rule, *texts[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
