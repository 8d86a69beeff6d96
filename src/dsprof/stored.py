"""The results of an earlier run: used again while neither the report, nor the rules, nor dsprof has changed.

Beside its tables, a folder holds ``analysis.json``: what they were made from, and the summary. It is written last, and
removed before anything else is written, so a folder with one is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import dsprof
from dsprof.ranged import Rules
from dsprof.summary import Summary
from dsprof.table import SCHEMA_VERSION

RECORD = "analysis.json"
SCHEMA = "dsprof.analysis/1"


def identity(report: Path, rules: Rules) -> dict[str, Any]:
    """What results depend on: the report as it lies there, the rules, and the code."""
    status = report.stat()
    return {
        "schema": SCHEMA,
        "report": [report.name, status.st_size, status.st_mtime_ns],
        "rules": hashlib.sha256(repr(rules).encode()).hexdigest(),
        "code": _code(),
        "tables_schema": SCHEMA_VERSION,
    }


def _code() -> str:
    """A fingerprint of the package's files, so that no other version's results are taken for this one's."""
    package = Path(dsprof.__file__).parent
    files = sorted((str(path.relative_to(package)), path.stat()) for path in package.rglob("*.py"))
    seen = [(name, status.st_size, status.st_mtime_ns) for name, status in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def store(folder: Path, made_from: dict[str, Any], tables: Iterable[str], summary: Summary) -> None:
    """Say of a folder whose tables are written what they were made from."""
    from cattrs import unstructure

    partial = folder / f".{RECORD}.partial"
    files = {table: _file(folder, table) for table in sorted(tables)}
    document = {"made_from": made_from, "tables": files, "summary": unstructure(summary)}
    partial.write_text(json.dumps(document), encoding="ascii")  # a file's name may be no UTF-8
    partial.replace(folder / RECORD)


def _file(folder: Path, table: str) -> list[int]:
    """Size and time of a table's file, by which one that somebody changed is told."""
    status = (folder / f"{table}.parquet").stat()
    return [status.st_size, status.st_mtime_ns]


def forget(folder: Path) -> None:
    """The folder's tables are about to change: it is not whole until `store` says so."""
    (folder / RECORD).unlink(missing_ok=True)


def find(folder: Path, made_from: dict[str, Any], tables: Iterable[str]) -> Summary | None:
    """The summary of the results in a folder, if they are of this very report, rules and code, and hold the tables."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        document = json.loads((folder / RECORD).read_text(encoding="ascii"))
        as_written = all(_file(folder, table) == found for table, found in document["tables"].items())
        if document["made_from"] == made_from and set(tables) <= set(document["tables"]) and as_written:
            return _summary(document["summary"])
    return None


def _summary(document: Any) -> Summary:
    from cattrs import Converter

    converter = Converter()
    for kind in (int, float):  # a number that has no value is None, whatever its kind
        converter.register_structure_hook(kind, lambda value, _: value)
    return converter.structure(document, Summary)
