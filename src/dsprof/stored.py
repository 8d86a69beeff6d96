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
    document = {"made_from": made_from, "tables": sorted(tables), "summary": unstructure(summary)}
    partial.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    partial.replace(folder / RECORD)


def forget(folder: Path) -> None:
    """The folder's tables are about to change: it is not whole until `store` says so."""
    (folder / RECORD).unlink(missing_ok=True)


def find(folder: Path, made_from: dict[str, Any], tables: Iterable[str]) -> Summary | None:
    """The summary of the results in a folder, if they are of this very report, rules and code, and hold the tables."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        document = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        whole = all((folder / f"{table}.parquet").is_file() for table in document["tables"])
        if document["made_from"] == made_from and set(tables) <= set(document["tables"]) and whole:
            return _summary(document["summary"])
    return None


def _summary(document: Any) -> Summary:
    from cattrs import Converter

    return Converter().structure(document, Summary)
