"""An SQLite export of Nsight Systems as it lies on disk: which tables and columns it has, and their values.

Rows come through ADBC's SQLite driver straight into Arrow columns; what is small (versions, GPUs) through
the standard library. The file is opened read-only and as immutable: nothing is ever written beside it.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dsprof.arrays import NULL, Ints, group_rows
from dsprof.errors import NotAReport, NvprofDatabase
from dsprof.nsys import schema
from dsprof.nsys.event_files import EventFiles, event_files_of
from dsprof.nsys.inputs import Input
from dsprof.nsys.pages import Pages, PageTable
from dsprof.nsys.possible import Possible
from dsprof.nsys.sound import damaged, refuse_cut, refuse_unfinished, uri_of

Columns = dict[str, Ints]
#: Chooses the rows whose value in a column is one of some.
Where = tuple[str, tuple[int, ...]]

_NULL_SQL = "(-9223372036854775807 - 1)"
_BATCH_ROWS = "65536"
#: Rows that are looked at together, where all are looked at for little.
_ROWS_AT_ONCE = 1 << 20
#: How many rows at the head of a table say when a capture was.
_SAMPLES = 64
#: The end of a table's declaration; nothing but options of the table follows its last bracket.
_WITHOUT_ROWID = re.compile(r"\bWITHOUT\s+ROWID\b[^)]*$", re.IGNORECASE)


class Export:
    """The file under its two connections, with the columns that each table really has."""

    def __init__(self, given: Input | Path) -> None:
        self.input = given if isinstance(given, Input) else Input(given)
        self.path, self.name = self.input.path, self.input.name
        self._uri = uri_of(self.path)
        self.columns: dict[str, list[str]] = {}
        #: Threads that read two tables may both ask; ADBC allows one of them at a time.
        self._one_query = threading.Lock()

    def __enter__(self) -> Export:
        # The low-level interface: the DB-API one loads pandas, which costs more than reading a small report.
        import adbc_driver_manager as adbc
        import adbc_driver_sqlite

        refuse_unfinished(self.path, self.name)
        with self.guarded():
            self._sql = sqlite3.connect(self._uri, uri=True)
            self._sql.text_factory = lambda raw: raw.decode("utf-8", "replace")
            ((self.encoding,),) = self._sql.execute("PRAGMA encoding")
            for (table,) in self._sql.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"):
                self.columns[table] = self._columns_of(table)
            self._events = event_files_of(self.path)
            if self._events is not None:
                self.columns.update(self._events.columns())
            self._database = adbc_driver_sqlite.connect(self._uri)
            self._arrow = adbc.AdbcConnection(self._database)
            self._new_statement = adbc.AdbcStatement
        self._pages = Pages(self.path).__enter__()
        self._tables: dict[str, PageTable | None] = {}
        self.possible = Possible(self._moments())
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._pages.__exit__(None, None, None)
        self._sql.close()
        self._arrow.close()
        self._database.close()
        if kind is None or issubclass(kind, Exception):
            self.input.check()  # whatever was read, or went wrong, says nothing if the file changed meanwhile

    def _columns_of(self, table: str) -> list[str]:
        """The columns of a table; none where that is for SQLite a mistake: a view of nothing, a module of others."""
        try:
            return [name for (name,) in self._sql.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise
            return []

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn the two drivers' errors into the one that users see."""
        try:
            yield
        except (sqlite3.DatabaseError, pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise damaged(self.name, error) from error
        except Exception as error:
            if type(error).__module__.startswith("adbc_driver_manager"):
                raise damaged(self.name, error) from error
            raise

    def sniff(self) -> None:
        """Refuse what is no whole export: a file shorter than it says, an nvprof database."""
        refuse_cut(self.path, self.name)
        if "StringTable" in self.columns and schema.STRINGS not in self.columns:
            raise NvprofDatabase(
                f"{self.name} is an nvprof database, not an Nsight Systems report.",
                "Record the program again with `nsys profile --trace=cuda,nvtx`.",
            )
        if not any(name in self.columns for name in (schema.STRINGS, *schema.VERSION_TABLES, *schema.EXPECTED)):
            raise NotAReport(
                f"{self.name} is an SQLite database, but no Nsight Systems export.",
                "Name a .nsys-rep, or what `nsys export --type=sqlite` made of it.",
            )
        for table in schema.READ:
            if table in self.columns and not self.is_apart(table) and (what := self._odd(table)):
                raise NotAReport(
                    f"{self.name} is no export as nsys writes it: {table} {what}.",
                    "Export the report again with `nsys export --type=sqlite`.",
                )

    def _odd(self, table: str) -> str:
        """What a table is or has whose rows cannot be told by SQLite's own number, or are not stored; else empty."""
        ((kind, sql),) = self.rows("SELECT type, sql FROM sqlite_master WHERE name = ? AND type != 'index'", (table,))
        declared = self.rows("SELECT name, hidden FROM pragma_table_xinfo(?)", (table,))
        if kind != "table":
            return f"is a {kind}"
        if str(sql).upper().startswith("CREATE VIRTUAL"):
            return "is a virtual table"
        if any(hidden for _, hidden in declared):
            return "has a generated column"
        if "rowid" in (str(name).lower() for name, _ in declared):
            return "has a column named rowid"
        return "is a table without rowids" if _WITHOUT_ROWID.search(str(sql)) else ""

    def rows(self, query: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """A small query, as Python tuples."""
        with self.guarded(), closing(self._sql.execute(query, parameters)) as cursor:
            return cursor.fetchall()

    def arrow(self, query: str) -> pa.Table:
        """A large query, as an Arrow table."""
        with self._one_query, self.guarded(), closing(self._new_statement(self._arrow)) as statement:
            statement.set_options(**{"adbc.sqlite.query.batch_rows": _BATCH_ROWS})
            statement.set_sql_query(query)
            stream, _ = statement.execute_query()
            return pa.RecordBatchReader.from_stream(stream).read_all()

    def has(self, table: str, *columns: str) -> bool:
        """Is there such a table, with all these columns?"""
        return table in self.columns and set(columns) <= set(self.columns[table])

    def is_apart(self, table: str) -> bool:
        """Does the table lie in Arrow files beside the others?"""
        return self._events is not None and table in self._events

    def ends_of(self, table: str) -> tuple[int, int] | None:
        """The first and the last number of a table's rows; None for a table without any.

        The numbers between need not all be there.
        """
        if self._events is not None and self.is_apart(table):
            return 1, self._events.rows(table)
        # Each by itself is a look at one end of the table; both in one query would be a look at every row.
        low, high = (self.rows(f'SELECT {end}(rowid) FROM "{table}"')[0][0] for end in ("min", "max"))
        return None if low is None else (int(low), int(high))

    def is_dense(self, table: str) -> bool:
        """Are there about as many rows as numbers from the first to the last? In what nsys wrote, there are."""
        ends = self.ends_of(table)
        # A row has a byte at least.
        return ends is None or self.is_apart(table) or ends[1] - ends[0] < self.path.stat().st_size

    def blocks(self, table: str, columns: tuple[str, ...]) -> Iterator[Columns]:
        """Some columns of all rows as they are stored, many rows at a time; without those that are not there."""
        ends = self.ends_of(table)
        if ends is None or not any(self.has(table, name) for name in columns):
            return
        step = _ROWS_AT_ONCE if self.is_dense(table) else ends[1] - ends[0] + 1
        for first in range(ends[0], ends[1] + 1, step):
            yield self._values(table, columns, None, (first, min(first + step - 1, ends[1])))

    def distinct(self, table: str, *columns: str) -> set[tuple[int, ...]]:
        """What there is in some columns of a table's rows, but for rows that are all NULL."""
        found: set[tuple[int, ...]] = set()
        for some in self.blocks(table, columns):
            rows = max(map(len, some.values()), default=0)
            there = [some.get(name, nulls(rows)) for name in columns]
            heads, _ = group_rows(*there)
            found.update(zip(*(column[heads].tolist() for column in there), strict=True))
        return found - {(NULL,) * len(columns)}

    def last_end(self, table: str) -> int:
        """When the last row of a table ends that ends at a possible time; 0 for none."""
        low, high = self.possible.low, self.possible.high
        ends = (some["end"] for some in self.blocks(table, ("end",)))
        return max((int(end[(end >= low) & (end <= high)].max(initial=0)) for end in ends), default=0)

    def _moments(self) -> list[int]:
        """When the first rows of each table of events began: some usual times of the capture."""
        stored = {name for (name,) in self.rows("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE TABLE%'")}
        tables = [one.table for one in schema.EVENTS if one.table in stored and self.has(one.table, "start")]
        apart = [] if self._events is None else [
            moment for table in self._events.columns()
            for moment in self._events.read(table, ["start"], (1, _SAMPLES))["start"].tolist()
        ]  # fmt: skip
        queries = [f'SELECT CAST("start" AS INTEGER) FROM "{table}" LIMIT {_SAMPLES}' for table in tables]
        return [*apart, *(moment for query in queries for (moment,) in self.rows(query) if moment is not None)]

    def integers(
        self,
        source: schema.Source,
        where: Where | None = None,
        extra: tuple[str, ...] = (),
        details: bool = True,
        rowids: tuple[int, int] | None = None,
    ) -> Columns:
        """The columns of `source` as int64, NULL where the file has none; empty where there is no table.

        `extra`: further columns, which may be ``rowid``. `details`: those of its details too; else they are NULL, and
        take no memory. `where`: the rows whose value in a column is one of some. `rowids`: the first and the last row.
        The columns are read from the file's pages, where those are as usual, and else by SQL. Of events, only what
        `possible` lets pass.
        """
        asked = (*source.columns, *source.details, *extra)
        wanted = asked if details else (*source.columns, *extra)
        if not self.has(source.table, "start"):
            return {name: np.zeros(0, np.int64) for name in asked}
        columns = self._values(source.table, wanted, where, rowids)
        if source.table != schema.NVTX:  # of which only some rows have times that count
            if "end" in source.columns:
                columns.setdefault("end", nulls(len(columns["start"])))
            columns = self.possible.rows(source.table, columns)
        rows = len(columns["start"])
        return {name: columns[name] if name in columns else nulls(rows) for name in asked}

    def _values(
        self, table: str, wanted: tuple[str, ...], where: Where | None, rowids: tuple[int, int] | None
    ) -> Columns:
        """Columns as they are stored; only those that are there."""
        present = [name for name in wanted if name == "rowid" or self.has(table, name)]
        if self._events is not None and self.is_apart(table):
            return self._from_files(self._events, table, present, where, rowids)
        columns = self._from_pages(table, present, where, rowids)
        return self._from_sql(table, present, where, rowids) if columns is None else columns

    def _from_files(
        self, events: EventFiles, table: str, columns: list[str], where: Where | None, rowids: tuple[int, int] | None
    ) -> Columns:
        filtered = [*columns, where[0]] if where and where[0] not in columns else columns
        with self.guarded():
            found = events.read(table, filtered, rowids)
        if where is None:
            return found
        rows = np.flatnonzero(np.isin(found[where[0]], where[1]))
        return {name: found[name][rows] for name in columns}

    def _from_pages(
        self, table: str, columns: list[str], where: Where | None, rowids: tuple[int, int] | None
    ) -> Columns | None:
        """The columns as the file's pages hold them; None where those are not as usual."""
        if table not in self._tables:
            self._tables[table] = self._pages.table(table)
        found = self._tables[table]
        return None if found is None else found.read(columns, rowids, NULL, where)

    def _from_sql(self, table: str, columns: list[str], where: Where | None, rowids: tuple[int, int] | None) -> Columns:
        within = [condition(where)] if where else []
        if rowids:
            within.append(f"rowid BETWEEN {rowids[0]} AND {rowids[1]}")
        rows = f"WHERE {' AND '.join(within)}" if within else ""
        chosen = [f'coalesce("{name}", {_NULL_SQL}) AS "{name}"' for name in columns]
        found = self.arrow(f'SELECT {", ".join(chosen)} FROM "{table}" NOT INDEXED {rows}')
        return {name: self._int64(found.column(name)) for name in found.column_names}

    def _int64(self, column: pa.ChunkedArray) -> Ints:
        """An Arrow column as int64; a column that a tool rewrote as text or floats is converted."""
        if not pa.types.is_int64(column.type):
            import pyarrow.compute as pc

            with self.guarded():
                column = pc.cast(column, pa.int64())  # a fraction, or too large for it, is refused
        return np.concatenate(
            [np.zeros(0, np.int64), *(np.from_dlpack(chunk) for chunk in column.chunks if len(chunk))]
        )


def nulls(rows: int) -> Ints:
    """A column of NULL that takes no memory."""
    return np.broadcast_to(np.int64(NULL), rows)


def is_null(column: Ints) -> bool:
    """Is it a column that `nulls` made?"""
    return column.strides == (0,)


def condition(where: Where) -> str:
    """The same in SQL, which compares one by one more quickly than it looks into a list."""
    column, values = where
    return f"({' OR '.join(f'{column} = {value}' for value in values)})"


def text_of(raw: object, encoding: str = "UTF-8") -> str:
    """A text as SQLite gave it, bytes decoded with replacement; `encoding` is that of the file."""
    return raw.decode(encoding, "replace") if isinstance(raw, bytes) else str(raw or "")
