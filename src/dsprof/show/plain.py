"""Tables and summaries as plain text: CSV, JSON, Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from dsprof.answers.what_if import WhatIf
from dsprof.compare.outcome import Outcome
from dsprof.ground.documents import json_pieces
from dsprof.show import diff, reports, units
from dsprof.show.layout import Grid, coverage, grids, headline, verdicts
from dsprof.show.reports import ReportsSummary
from dsprof.show.safe import for_csv, for_json, for_markdown
from dsprof.show.summary import Summary
from dsprof.show.what_if import grid

#: The schema of what a statement of SQL gave.
QUERY_SCHEMA = "dsprof.query/1"


def cells(table: pa.Table, raw: bool = False) -> list[list[str]]:
    """A table's rows as text, in the units of the first screen, ``-`` for a missing value.

    `raw`: whole numbers as they are, floats with one digit as Nsight prints them, nothing for a missing value.
    """
    columns = []
    for field, column in zip(table.schema, table.columns, strict=True):
        shown = _raw_cell if raw else units.of_column(field.name, _unit(field), kind_of(field.type))
        columns.append([shown(value) for value in column.to_pylist()])
    return [list(row) for row in zip(*columns, strict=True)]


def kind_of(kind: pa.DataType) -> str:
    """Whether a column's values are whole numbers, floats, or something else."""
    return "int" if pa.types.is_integer(kind) else "float" if pa.types.is_floating(kind) else "other"


def _unit(field: pa.Field) -> str:
    found: bytes = (field.metadata or {}).get(b"unit", b"")
    return found.decode()


def _raw_cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def to_csv(table: pa.Table) -> str:
    """A table as CSV with a header, every row, floats in full; texts as `for_csv` makes them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(for_csv, table.column_names))
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
        "selection": about.get("dsprof.selection", ""),
        "columns": columns,
        "rows": table.to_pylist(),
    }
    return for_json(json.dumps(document, indent=1, ensure_ascii=False))


def query_json(sql: str, rows: pa.Table, limit: int | None, cut: bool) -> str:
    """What a statement of SQL gave as one JSON document; `cut`: there are more rows than `limit`."""
    document = {
        "schema": QUERY_SCHEMA,
        "sql": sql,
        "limit": limit,
        "cut": cut,
        "columns": [{"name": one.name, "kind": _kind(one.type), "unit": _unit(one)} for one in rows.schema],
        "rows": [{name: _finite(value) for name, value in row.items()} for row in rows.to_pylist()],
    }
    return for_json(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False))


def _kind(kind: pa.DataType) -> str:
    return "bool" if pa.types.is_boolean(kind) else kind_of(kind).replace("other", "text")


def _finite(value: Any) -> Any:
    """A value that JSON has: a number that is none is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary_json(summary: Summary) -> Iterator[str]:
    """The summary as a JSON document, piece by piece."""
    return map(for_json, json_pieces(summary, lines=True, ascii_alone=False))


def what_if_json(found: WhatIf) -> str:
    """A what-if as a JSON document."""
    return for_json(json.dumps(found.document(), indent=1, ensure_ascii=False))


def what_if_markdown(found: WhatIf) -> str:
    """A what-if as Markdown."""
    return _grid_markdown(grid(found))


def diff_json(outcome: Outcome) -> str:
    """A comparison as a JSON document."""
    return for_json(json.dumps(diff.document(outcome), indent=1, ensure_ascii=False, allow_nan=False))


def diff_markdown(outcome: Outcome, top: int = diff.TOP_OPERATIONS) -> str:
    """A comparison as Markdown: for a pull request."""
    parts = [f"### dsprof diff: {for_markdown(outcome.verdict)}"]
    answer = diff.answer(outcome)
    parts += [_grid_markdown(answer)] if answer.rows else []
    lines = [f"- **{level}**: {for_markdown(sentence)}" for level, sentence in diff.said(outcome)]
    lines += [f"- {'passed' if passed else '**not passed**'} {for_markdown(sentence)}"
              for passed, sentence in diff.gates(outcome)]  # fmt: skip
    parts += filter(None, ["\n".join(lines)])
    parts += map(_grid_markdown, diff.grids(outcome, top))
    parts.append("\n".join(f"- **{label}**: {for_markdown(text)}" for label, text in diff.headline(outcome)))
    return "\n\n".join(parts)


def to_markdown(table: pa.Table, raw: bool = False) -> str:
    """A table as Markdown, every row, in units unless they are to be `raw`."""
    numeric = [kind_of(field.type) != "other" for field in table.schema]
    return _markdown(table.column_names, cells(table, raw), numeric)


def summary_markdown(summary: Summary) -> str:
    """The summary as Markdown: for an issue, a pull request, a job's page."""
    parts = ["\n".join(f"- **{label}**: {for_markdown(text)}" for label, text in headline(summary))]
    parts += [f"**{for_markdown(one.sentence)}** {for_markdown(one.remedy)}" for one in verdicts(summary)]
    parts += map(_grid_markdown, grids(summary))
    notes = [f"- {for_markdown(str(found))}" for found in summary.findings]
    parts += filter(None, [for_markdown(coverage(summary)), "\n".join(notes)])
    return "\n\n".join(parts)


def reports_json(summary: ReportsSummary) -> Iterator[str]:
    """The summary of several reports as a JSON document, piece by piece."""
    return map(for_json, json_pieces(summary, lines=True, ascii_alone=False))


def reports_markdown(summary: ReportsSummary) -> str:
    """The summary of several reports as Markdown."""
    parts = ["\n".join(f"- **{label}**: {for_markdown(text)}" for label, text in reports.headline_of(summary))]
    parts += filter(None, [for_markdown(reports.nobody_compared(summary))])
    parts += map(_grid_markdown, reports.reports_grids(summary))
    parts += filter(None, ["\n".join(f"- {for_markdown(one)}" for one in reports.failures(summary))])
    return "\n\n".join(parts)


def _grid_markdown(shown: Grid) -> str:
    numeric = [position >= shown.names for position in range(len(shown.header))]
    table = f"**{for_markdown(shown.title)}**\n\n{_markdown(shown.header, shown.rows, numeric)}"
    return "\n\n".join([table, *map(for_markdown, shown.notes)])


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[bool]) -> str:
    rule = ["---:" if right else "---" for right in numeric]
    texts = [[for_markdown(cell) for cell in row] for row in [header, *rows]]
    lines = [texts[0], rule, *texts[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
