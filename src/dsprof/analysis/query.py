"""SQL over the tables of an analysis, of one report or of several: which a statement names, and where they lie."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
from attrs import evolve

from dsprof.ground.memory import allowed
from dsprof.ground.sql import Limits, Rows, SqlTable, ask
from dsprof.tables import all_tables
from dsprof.tables._table import Column


def tables_in(sql: str, names: Iterable[str] | None = None) -> list[str]:
    """The tables whose names stand in a statement, wherever: those that it reads are among them."""
    words = set(re.findall(r"\w+", sql.lower()))
    return [name for name in (all_tables() if names is None else names) if name in words]


def ask_files(sql: str, files: Mapping[str, BinaryIO], limits: Limits) -> Rows:
    """The rows of a statement over tables in files that are open; the other tables are there without rows.

    Raises `QueryFailed` and `UnknownTable`.
    """
    tables = {
        name: sql_table(table.row, table.columns, f"/proc/self/fd/{files[name].fileno()}" if name in files else None)
        for name, table in all_tables().items()
    }
    return _with_units(ask(sql, tables, bounded(limits), [file.fileno() for file in files.values()]))


def ask_folder(sql: str, folder: Path, tables: Mapping[str, SqlTable], limits: Limits) -> Rows:
    """The same over tables in a folder: each a file, or a folder of files, of which those are read that are named."""
    named = set(tables_in(sql, tables))
    with contextlib.ExitStack() as opened:
        found, handles = {}, []
        for name, table in tables.items():
            path = folder / f"{name}.parquet"
            if name in named and path.is_file():
                handles.append(opened.enter_context(path.open("rb")).fileno())
                table = table._replace(path=f"/proc/self/fd/{handles[-1]}")
            elif name in named and (folder / name).is_dir():
                table = table._replace(path=os.fspath(folder / name), folder=True)
            found[name] = table
        return _with_units(ask(sql, found, bounded(limits), handles))


def _with_units(rows: Rows) -> Rows:
    """Rows whose columns have the units that their names end in, as those of tables do."""
    fields = [
        one.with_metadata({"unit": unit}) if one.name and (unit := Column(one.name, "").unit) else one
        for one in rows.table.schema
    ]
    return rows._replace(table=rows.table.cast(pa.schema(fields)))


def sql_table(row: str, columns: Iterable[Column], path: str | None = None) -> SqlTable:
    """A table to be asked, from what it is."""
    return SqlTable(row, [(one.name, one.kind, one.text) for one in columns], path)


def bounded(limits: Limits) -> Limits:
    """The limits, and no more memory than there is."""
    free = allowed()
    return limits if free is None else evolve(limits, memory=min(limits.memory, free))
