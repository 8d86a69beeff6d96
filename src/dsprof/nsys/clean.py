"""Clean a fresh export of what it must not pass on: environments, secrets of the command line, the program's output.

nsys writes into a report, and so into an export, the environments of the program and of the processes around it,
the command line, and what the program printed. An export made by dsprof has none of them: environments and output
are gone, secrets of the command line are taken out of it, and what was secret there is taken out of every other
text as well. What tells of user, machine and folders stays; `scrub` takes that out, too.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

from dsprof.ground.command_lines import masked
from dsprof.nsys import schema
from dsprof.nsys.sought import Sought, variables_in
from dsprof.records import frozen

CAPTURE, STREAMS = "META_DATA_CAPTURE", "ProcessStreams"
#: Tables of names and values that describe machine, capture and export.
_DESCRIBING = (schema.SYSTEM, CAPTURE, *schema.VERSION_TABLES)
#: Rows of them that hold an environment: by their name, or as variables stand there between NULs.
_ARE_VARIABLES = "instr(CAST(value AS BLOB), x'00') AND instr(value, '=')"
_IS_ENVIRONMENT = f"(name LIKE '%environment%' OR ({_ARE_VARIABLES}))"
#: ``NAME=...``, the first part a name.
_IS_VARIABLE = "value GLOB '[A-Za-z_]*=*' AND substr(value, 1, instr(value, '=') - 1) NOT GLOB '*[^A-Za-z0-9_]*'"
_ARGUMENT = re.compile(r"(.*:)?(COMMAND|ARGUMENT_(\d+))")
#: So many texts are looked at together.
_TOGETHER = 10_000


def clean(exported: Path, command: Sequence[str] = (), named: Iterable[int] = ()) -> None:
    """Clean the export in the file `exported`, in place; `command` is what was recorded, where it is known.

    `named`: ids of strings that rows of events use which are not in this file.

    When a page of the file became full, half of its rows went to a new one, and what is left of them there is in no
    row: so the file is written anew from its rows. Raises `sqlite3.OperationalError` where the disk is full.
    """
    with closing(sqlite3.connect(exported, isolation_level=None)) as database:
        database.text_factory = bytes
        database.execute("PRAGMA journal_mode = OFF")  # the file has no name yet, and is thrown away after a failure
        database.execute("BEGIN")
        _Clean(database, command, named).run()
        database.execute("COMMIT")
        database.execute("VACUUM")


class _Clean:
    """One export that is cleaned."""

    def __init__(self, database: sqlite3.Connection, command: Sequence[str], named: Iterable[int]) -> None:
        self.db, self._named = database, named
        self.tables = tables_of(database)
        self.sought = Sought()
        self.sought.secrets_of_environment(os.environ)
        self.sought.command(command)

    def run(self) -> None:
        """Learn what is secret from what goes, then take it out of what stays."""
        for table in self.tables:
            if table.name in _DESCRIBING and {"name", "value"} <= set(table.names):
                self._clean_arguments(table)
                self._forget_environments(table)
        if any(table.name == schema.STRINGS and {"id", "value"} <= set(table.names) for table in self.tables):
            self._forget_strings()
        if chosen := self.sought.anywhere:
            self.db.create_function("removed", 1, self.sought.remover(words=False), deterministic=True)
            for table in self.tables:
                self._take_out(table, chosen)

    def _clean_arguments(self, table: Table) -> None:
        """Take the secrets out of the arguments, which stand in a row each: ``PROCESS_0:ARGUMENT_1``."""
        for rows in commands_in(self.db.execute(f"SELECT name, value FROM {quoted(table.name)}")):
            words = [word for _, word in rows]
            self.sought.command(words)
            for (name, before), after in zip(rows, masked(words), strict=True):
                if after != before:
                    self.db.execute(f"UPDATE {quoted(table.name)} SET value = ? WHERE name = ?", (after, name))

    def _forget_environments(self, table: Table) -> None:
        """Remove the rows that hold variables, one in each or all in one."""
        where = f"FROM {quoted(table.name)} WHERE {_IS_ENVIRONMENT}"
        for (value,) in self.db.execute(f"SELECT value {where}"):
            self._learn(decoded(value))
        self.db.execute(f"DELETE {where}")

    def _learn(self, text: str) -> None:
        for name, value in variables_in(text):
            self.sought.secrets_of_variable(name, value.strip('"'))

    def _forget_strings(self) -> None:
        """Blank the strings that are an environment or output of a program, and nothing that a row of events names.

        An environment has a NUL between its variables, which no name has; one of a single variable is known by its
        sign of equality, and by being referred to by no row.
        """
        self.db.execute("CREATE TEMP TABLE going (id INTEGER PRIMARY KEY)")
        self.db.execute(f"INSERT INTO going SELECT id FROM StringIds WHERE {_IS_VARIABLE}")
        for table in self.tables:
            if table.name == STREAMS and "contentId" in table.names:
                self.db.execute(f"INSERT OR IGNORE INTO going SELECT CAST(contentId AS INTEGER) FROM {STREAMS}")
        self._keep_what_is_named()
        self.db.execute(f"INSERT OR IGNORE INTO going SELECT id FROM StringIds WHERE {_ARE_VARIABLES}")
        where = "WHERE id IN (SELECT id FROM going)"
        for (value,) in self.db.execute(
            f"SELECT value FROM StringIds {where} AND length(CAST(value AS BLOB)) < 262144"
        ):
            self._learn(decoded(value))
        self.db.execute(f"UPDATE StringIds SET value = '' {where}")

    def _keep_what_is_named(self) -> None:
        self.db.executemany("DELETE FROM going WHERE id = ?", ((number,) for number in self._named))
        for table in self.tables:
            if table.name in (schema.STRINGS, STREAMS):
                continue
            for column in map(quoted, sorted(table.references)):
                self.db.execute(
                    f"DELETE FROM going WHERE id IN (SELECT {column} FROM {quoted(table.name)} "
                    f"WHERE {column} IN (SELECT id FROM going))"
                )

    def _take_out(self, table: Table, chosen: Sequence[bytes]) -> None:
        columns = [quoted(name) for name, kind, _, _ in table.columns if re.search("TEXT|CHAR|BLOB|^$", kind.upper())]
        if not columns:
            return
        any_text = " OR ".join(f"{column} IS NOT NULL" for column in columns)
        texts = self.db.execute(f"SELECT {', '.join(columns)} FROM {quoted(table.name)} WHERE {any_text}")
        there = _found(texts, chosen)
        for column in columns:
            raw = f"CAST({column} AS BLOB)"
            text = f"CASE typeof({column}) WHEN 'text' THEN CAST(removed({raw}) AS TEXT) ELSE removed({raw}) END"
            for secret in there:
                self.db.execute(
                    f"UPDATE {quoted(table.name)} SET {column} = {text} WHERE typeof({column}) IN ('text', 'blob') "
                    f"AND instr({raw}, ?)",
                    (secret,),
                )


def commands_in(rows: Iterable[Sequence[object]]) -> Iterator[list[tuple[str, str]]]:
    """The command lines in rows of names and values: of each process its rows in the order of the arguments."""
    by_process: dict[str, list[tuple[int, str, str]]] = {}
    for name, value in ((decoded(row[0]), decoded(row[1])) for row in rows):
        if found := _ARGUMENT.fullmatch(name):
            by_process.setdefault(found[1] or "", []).append((int(found[3] or -1), name, value))
    for found_rows in by_process.values():
        yield [(name, value) for _, name, value in sorted(found_rows)]


def _found(cursor: sqlite3.Cursor, chosen: Sequence[bytes]) -> list[bytes]:
    """Which of the secrets stand in the texts that a query gives; looked for in many texts at once."""
    there: set[bytes] = set()
    while rows := cursor.fetchmany(_TOGETHER):
        texts = b"\0".join(cell for row in rows for cell in row if isinstance(cell, bytes))
        there.update(secret for secret in chosen if secret in texts)
    return sorted(there)


# -- tables and columns -----------------------------------------------------------------------------------


@frozen
class Table:
    """A table of an export: its columns as (name, type, NOT NULL, place in the primary key)."""

    name: str
    columns: tuple[tuple[str, str, bool, int], ...]
    references: frozenset[str]  # columns that hold ids of strings
    rowid: str  # under which name the row's number can be asked for; empty for none

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return [name for name, _, _, _ in self.columns]


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'


def decoded(raw: object) -> str:
    """A text that was read as bytes, UTF-8 or not; empty for none."""
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw or "")


def tables_of(database: sqlite3.Connection, of: str = "main") -> list[Table]:
    """The tables of an attached database, in their order, without SQLite's own, virtual ones and views."""
    rows = database.execute(f"SELECT name, sql FROM {of}.sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall()
    declared = [(decoded(name), decoded(sql)) for name, sql in rows]
    plain = [
        (name, sql) for name, sql in declared if not name.startswith("sqlite_") and "VIRTUAL" not in sql[:16].upper()
    ]
    return [_table(database, of, name, sql) for name, sql in plain]


def _table(database: sqlite3.Connection, of: str, name: str, sql: str) -> Table:
    rows = database.execute('SELECT name, type, "notnull", pk FROM pragma_table_info(?, ?)', (name, of)).fetchall()
    columns = tuple(
        (decoded(column), kind if re.fullmatch(r"[\w (),]*", kind := decoded(raw)) else "", bool(needed), int(place))
        for column, raw, needed, place in rows
    )
    names = {column for column, _, _, _ in columns}
    said = re.findall(r"^\s*\"?(\w+)\"?[^\n]*REFERENCES\s+StringIds", sql, re.MULTILINE)
    references = {column for column in names if schema.REFERENCE.fullmatch(column)} | (names & set(said))
    single = [kind for _, kind, _, place in columns if place]
    own_number = "WITHOUT ROWID" in sql.upper() or (len(single) == 1 and single[0].upper() == "INTEGER")
    rowid = next((alias for alias in ("rowid", "_rowid_", "oid") if alias not in {n.lower() for n in names}), "")
    return Table(name, columns, frozenset(references), "" if own_number else rowid)
