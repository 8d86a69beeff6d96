"""Write down what the SQLite exports of one nsys look like: names and types of every table, no data.

    usage: python tests/schemas/make.py NSYS|EXPORT.sqlite… OUT_FOLDER

Given an nsys executable, it captures a short program that needs no GPU and exports the report with every table that
this nsys knows (``--lazy=false``). Given exports of one version, it takes the tables that they hold (``"lazy": true``).
The result is ``OUT_FOLDER/<version of the exporter>.json``:

``version``  of the exporter, as ``2023.4.4``
``lazy``     whether tables without rows may be absent from the list
``meta``     the version table's name, with its rows on product and schema, and no others: the rest names files,
             machines and people
``enums``    for a few ENUM_ tables that hold rows: ``{id: [name, label]}``; nsys leaves them empty where the capture
             has no events of their kind
``tables``   ``{table: [[column, SQLite type, 1 for NOT NULL], ...]}``
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from sqlite3 import Connection, connect
from typing import Any

VERSION_TABLES = ("META_DATA_EXPORT", "EXPORT_META_DATA")
VERSION_ROWS = ("EXPORT_PRODUCT_", "EXPORT_SCHEMA_")
ENUMS = ("ENUM_CUDA_MEMCPY_OPER", "ENUM_CUDA_MEM_KIND", "ENUM_NSYS_EVENT_TYPE", "ENUM_NSYS_EVENT_CLASS")
LIMIT_S = 120

# What nsys wrote, as JSON takes it.
Columns = list[list[str | int]]
Enum = dict[str, list[str]]
Tables = dict[str, Columns]


def export_of(nsys: Path, folder: Path) -> Path:
    """Capture a short program with this nsys, and export the report with all tables.

    nsys keeps sessions and half-made reports under TMPDIR; a folder of our own takes them away with it.
    """
    report, export = folder / "capture.nsys-rep", folder / "capture.sqlite"
    program = [sys.executable, "-c", "pass"]
    options = ["--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", f"--output={report}"]
    for arguments in (
        ["profile", *options, *program],
        ["export", "--type=sqlite", "--lazy=false", f"--output={export}", str(report)],
    ):
        run([str(nsys), *arguments], folder)
    return export


def run(command: list[str], folder: Path) -> None:
    """Run nsys in a process group of its own: what it started ends with it, should it hang (2022.4.2 does at times)."""
    with subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f"{command[0]} {command[1]} took more than {LIMIT_S} s: run again") from None
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} {command[1]} failed:\n{output}")


def columns(database: Connection, table: str) -> Columns:
    """The columns of a table, in its order; ``[]`` for no such table."""
    rows = database.execute('SELECT name, type, "notnull" FROM pragma_table_info(?) ORDER BY cid', (table,))
    return [list(row) for row in rows]


def tables(database: Connection) -> dict[str, Columns]:
    """Every table, by name."""
    names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
    return {name: columns(database, name) for (name,) in names if not name.startswith("sqlite_")}


def enum(database: Connection, table: str) -> Enum:
    """What an ENUM_ table says: its names and labels by id."""
    rows = database.execute(f'SELECT id, name, label FROM "{table}" ORDER BY id')  # one of ENUMS
    return {str(identifier): [name, label] for identifier, name, label in rows}


def meta(database: Connection, found: Iterable[str]) -> dict[str, dict[str, str]]:
    """The version table with what it says on product and schema."""
    for table in VERSION_TABLES:
        if table in found:
            rows = database.execute(f'SELECT name, value FROM "{table}"').fetchall()
            return {table: {name: value for name, value in rows if name.startswith(VERSION_ROWS)}}
    return {}


def merged(exports: list[Path]) -> dict[str, Any]:
    """The tables of several exports of one version, each of which lacks what it had no rows for."""
    documents = [schema(export, lazy=True) for export in exports]
    if len({document["version"] for document in documents}) != 1:
        raise SystemExit("the exports must be of one version")
    every: Tables = {}
    for document in documents:
        every |= document["tables"]
    return {**documents[0], "tables": dict(sorted(every.items()))}


def schema(export: Path, *, lazy: bool) -> dict[str, Any]:
    """All that is written about one export."""
    with closing(connect(f"{export.resolve().as_uri()}?mode=ro", uri=True)) as database:
        found = tables(database)
        versions = meta(database, found)
        enums = {table: rows for table in ENUMS if table in found and (rows := enum(database, table))}
    product = next((rows["EXPORT_PRODUCT_VERSION"] for rows in versions.values()), None)
    if product is None:
        raise SystemExit(f"{export}: no version table: is it complete, and from nsys 2022 or later?")
    version = ".".join(product.split(".")[:3])
    return {"version": version, "lazy": lazy, "meta": versions, "enums": enums, "tables": found}


def compact(document: dict[str, object]) -> str:
    """JSON with one table, and one enum, a line: short, and easy to compare between versions."""
    lines = []
    for key, value in document.items():
        if isinstance(value, dict):
            rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in value.items())
            lines.append(f" {json.dumps(key)}: {{\n{rows}\n }}" if rows else f" {json.dumps(key)}: {{}}")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def is_database(path: Path) -> bool:
    """Whether a file is an SQLite database, by its first bytes: its name may say anything."""
    with path.open("rb") as file:
        return file.read(16) == b"SQLite format 3\0"


def main(arguments: list[str]) -> None:
    """Write the schema of one nsys, or of one export."""
    if len(arguments) < 2:
        raise SystemExit("usage: make.py NSYS|EXPORT.sqlite… OUT_FOLDER")
    *sources, out = (Path(argument) for argument in arguments)
    if all(map(is_database, sources)):
        document = merged(sources)
    else:
        with tempfile.TemporaryDirectory(prefix="dsprof-schema-") as folder:
            document = schema(export_of(sources[0], Path(folder)), lazy=False)
    target = out / f"{document['version']}.json"
    target.write_text(compact(document), encoding="utf-8")
    print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
