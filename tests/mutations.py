"""Damage and oddities for reports: named mutations, each deterministic by its seed.

A mutation is a function ``(random, path) -> str`` that changes the file at `path`, a copy that it may spoil, and says
what it did. `BYTES` change the file as a disk or a transfer would, `SQL` as a tool or a version of nsys would: such a
file stays one that SQLite reads, unless ``writable_schema`` is in play. `ALL` has both.

::

    said = mutated("page-copied", seed=7, source=report, target=tmp_path / "odd.sqlite")
    for seed in range(4000):                                   # or one of all, chosen by the seed
        name, said = any_mutated(seed, report, target)

Use `refused` for whether SQLite's own check refuses the file. To add a mutation, write its function below and put it
into `BYTES` or `SQL`; seeds of a named mutation keep their meaning, those of `any_mutated` do not.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

Mutation = Callable[[Random, Path], str]

_INT64 = 1 << 63
#: Values that stand where others were expected.
ODD_VALUES: tuple[Any, ...] = (
    None, "", "text", "12", "3.5", "1e999", b"", b"\xff\xfe\x00", 0.5, -2.5e300, float("inf"), 1e19, 0, 1, -1, 127, 128,
    1 << 16, 1 << 24, 1 << 31, (1 << 32) - 1, 3_000_000_000, 1 << 47, 1 << 48, 1 << 53, 1 << 62, _INT64 - 1, 1 - _INT64,
    -_INT64, -(1 << 62), "\ud800".encode("utf-8", "surrogatepass"), "embedded\x00null", "2024-01-01 12:00:00",
    "x" * 5000,
)  # fmt: skip
#: Tables that dsprof reads, and so those that are changed more often than others.
READ = (
    "StringIds", "NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME",
    "CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET", "CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "PROFILER_OVERHEAD",
    "TARGET_INFO_GPU", "TARGET_INFO_SYSTEM_ENV", "ANALYSIS_DETAILS", "META_DATA_EXPORT", "EXPORT_META_DATA",
    "META_DATA_CAPTURE", "DIAGNOSTIC_EVENT",
)  # fmt: skip


def mutated(name: str, seed: int, source: Path, target: Path) -> str:
    """Copy `source` to `target`, apply the mutation of that name, and return what it did."""
    shutil.copyfile(source, target)
    return ALL[name](Random(f"{name}:{seed}"), target)


def any_mutated(seed: int, source: Path, target: Path) -> tuple[str, str]:
    """A mutation that the seed chooses: its name, and what it did."""
    name = Random(seed).choice(sorted(ALL))
    return name, mutated(name, seed, source, target)


def refused(path: Path) -> str:
    """What SQLite's own check finds wrong with a file, in short; empty for nothing."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as sql:
            sql.text_factory = bytes
            ((found,),) = sql.execute("PRAGMA integrity_check(1)")
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the latter from a sentence that quotes the file
        return str(error)
    return "" if found == b"ok" else str(found[:200], "utf-8", "replace")


# -- by bytes -------------------------------------------------------------------------------------------


def _page_size(data: bytes) -> int:
    size = int.from_bytes(data[16:18], "big")
    return 65536 if size == 1 else size


def _pages(path: Path) -> tuple[bytearray, int, int]:
    """The file's bytes, the size of a page and the number of pages."""
    data = bytearray(path.read_bytes())
    size = _page_size(data)
    return data, size, len(data) // size


def bit_flips(random: Random, path: Path) -> str:
    """Some bits anywhere are the other way round."""
    data = bytearray(path.read_bytes())
    places = [random.randrange(len(data)) for _ in range(random.choice([1, 1, 4, 64]))]
    for at in places:
        data[at] ^= 1 << random.randrange(8)
    path.write_bytes(data)
    return f"bits flipped at {places[:4]} of {len(data)}"


def header_field(random: Random, path: Path) -> str:
    """A byte of the file's header is another."""
    data = bytearray(path.read_bytes())
    at, value = random.randrange(16, 100), random.choice([0, 1, 2, 4, 16, 127, 128, 255, random.randrange(256)])
    data[at] = value
    path.write_bytes(data)
    return f"header byte {at} is {value}"


def page_header(random: Random, path: Path) -> str:
    """A byte of a page's header, or of its pointers to cells, is another."""
    data, size, pages = _pages(path)
    page, at = random.randrange(pages), random.randrange(64)
    data[page * size + at + 100 * (page == 0)] = value = random.randrange(256)
    path.write_bytes(data)
    return f"byte {at} of page {page + 1} is {value}"


def zeroed(random: Random, path: Path) -> str:
    """A range of bytes is zero, as a hole in a file is."""
    data = bytearray(path.read_bytes())
    length = random.choice([16, 512, 4096, 65536])
    at = random.randrange(0, max(len(data) - length, 1), 1 if length == 16 else 512)
    data[at : at + length] = bytes(len(data[at : at + length]))
    path.write_bytes(data)
    return f"{length} bytes at {at} are zero"


def noise(random: Random, path: Path) -> str:
    """A range of bytes is random."""
    data = bytearray(path.read_bytes())
    length, at = random.choice([8, 512, 4096]), random.randrange(len(data))
    data[at : at + length] = random.randbytes(len(data[at : at + length]))
    path.write_bytes(data)
    return f"{length} random bytes at {at}"


def page_copied(random: Random, path: Path) -> str:
    """A page stands a second time, over another."""
    data, size, pages = _pages(path)
    source, target = random.randrange(1, pages), random.randrange(1, pages)
    data[target * size : (target + 1) * size] = data[source * size : (source + 1) * size]
    path.write_bytes(data)
    return f"page {source + 1} over page {target + 1} of {pages}"


def pages_swapped(random: Random, path: Path) -> str:
    """Two pages have changed places."""
    data, size, pages = _pages(path)
    one, two = random.randrange(1, pages), random.randrange(1, pages)
    first, second = data[one * size : (one + 1) * size], data[two * size : (two + 1) * size]
    data[one * size : (one + 1) * size], data[two * size : (two + 1) * size] = second, first
    path.write_bytes(data)
    return f"pages {one + 1} and {two + 1} of {pages} swapped"


def shifted(random: Random, path: Path) -> str:
    """Bytes were lost or doubled in the middle, and what follows has moved."""
    data = bytearray(path.read_bytes())
    at, length = random.randrange(100, len(data)), random.choice([1, 2, 100, 4096])
    if random.random() < 0.5:
        del data[at : at + length]
        said = "lost"
    else:
        data[at:at] = data[at : at + length]
        said = "doubled"
    path.write_bytes(data)
    return f"{length} bytes at {at} {said}"


def truncated(random: Random, path: Path) -> str:
    """The file ends early; in half of the cases its header says that this is right."""
    data, size, pages = _pages(path)
    if random.random() < 0.5:
        kept = random.randrange(1, pages)
        data[28:32] = kept.to_bytes(4, "big")
        length = kept * size
    else:
        length = random.randrange(len(data))
    path.write_bytes(data[:length])
    return f"{length} bytes of {len(data)}"


def appended(random: Random, path: Path) -> str:
    """Something follows behind the last page."""
    more = random.choice([1, 100, 4096, 100_000])
    with path.open("ab") as file:
        file.write(random.randbytes(more))
    return f"{more} bytes more"


# -- by SQL ---------------------------------------------------------------------------------------------


class _Opened:
    """The database, writable, with its tables and columns; what a statement refuses is told, not raised."""

    def __init__(self, path: Path) -> None:
        self._sql = sqlite3.connect(path, isolation_level=None)
        self._sql.text_factory = bytes
        self._sql.execute("PRAGMA synchronous = OFF")
        self._sql.execute("PRAGMA foreign_keys = OFF")
        names = self._sql.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
        self.tables = sorted(name.decode() for (name,) in names)

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self._sql.close()

    def run(self, statement: str, *values: object) -> str:
        """Run a statement; the error's sentence where it is refused, else nothing."""
        try:
            self._sql.execute(statement, values)
        except (sqlite3.Error, OverflowError) as error:
            return f" (refused: {error})"
        return ""

    def columns(self, table: str) -> list[str]:
        """The columns of a table."""
        return [name.decode() for (name,) in self._sql.execute("SELECT name FROM pragma_table_info(?)", (table,))]

    def declared(self, table: str) -> list[tuple[str, str]]:
        """The columns of a table, and the type of each."""
        rows = self._sql.execute("SELECT name, type FROM pragma_table_info(?)", (table,))
        return [(name.decode(), kind.decode()) for name, kind in rows]

    def any_table(self, random: Random) -> str:
        """A table, as a rule one that is read."""
        read = [name for name in self.tables if name in READ]
        return random.choice(read if read and random.random() < 0.9 else self.tables)

    def any_rows(self, random: Random, table: str) -> str:
        """A condition that chooses one row, some, or all."""
        ((rows,),) = self._sql.execute(f'SELECT count(*) FROM "{table}"')
        if not rows or random.random() < 0.2:
            return "TRUE"
        if random.random() < 0.3:
            return f"rowid % {random.choice([2, 3, 7, 100])} = {random.randrange(2)}"
        chosen = f'SELECT rowid FROM "{table}" LIMIT 1 OFFSET {random.randrange(rows)}'
        return f"rowid = ({chosen})"

    def loosen(self, table: str) -> str:
        """Take types, NOT NULL, keys and CHECKs from a table, so that it takes any value as it is."""
        columns = ", ".join(f'"{name}"' for name in self.columns(table))
        for statement in (
            f'CREATE TABLE "loose" ({columns})',
            f'INSERT INTO "loose" SELECT {columns} FROM "{table}"',
            f'DROP TABLE "{table}"',
            f'ALTER TABLE "loose" RENAME TO "{table}"',
        ):
            if said := self.run(statement):
                return said
        return ""


def odd_value(random: Random, path: Path) -> str:
    """A value of another kind in a column, in one row or in many; the column loses its type in half of the cases."""
    with _Opened(path) as sql:
        table = sql.any_table(random)
        column, value = random.choice(sql.columns(table)), random.choice(ODD_VALUES)
        said = sql.loosen(table) if random.random() < 0.5 else ""
        rows = sql.any_rows(random, table)
        said += sql.run(f'UPDATE "{table}" SET "{column}" = ? WHERE {rows}', value)
        return f"{table}.{column} = {value!r:.40} where {rows}{said}"


def odd_string_id(random: Random, path: Path) -> str:
    """A string's id is NULL, a text, negative or huge, or there twice."""
    with _Opened(path) as sql:
        said = sql.loosen("StringIds")
        value = random.choice([*ODD_VALUES, 1, 2, 3])
        rows = sql.any_rows(random, "StringIds")
        said += sql.run(f"UPDATE StringIds SET id = ? WHERE {rows}", value)
        return f"StringIds.id = {value!r:.40} where {rows}{said}"


def odd_time(random: Random, path: Path) -> str:
    """Times that no capture has: the end before the start, negative ones, ones at int64's limits."""
    with _Opened(path) as sql:
        table = random.choice([name for name in sql.tables if {"start", "end"} <= set(sql.columns(name))])
        change = random.choice(
            ['"start" = "end", "end" = "start"', '"end" = "start" - 1', '"end" = -"end"', '"start" = -"start"',
             f'"end" = {_INT64 - 1}', f'"start" = {1 - _INT64}', f'"start" = {1 - _INT64}, "end" = {_INT64 - 1}',
             f'"start" = "start" + {1 << 62}, "end" = "end" + {1 << 62}', '"end" = "start" + (1 << 61)',
             f'"start" = {_INT64 - 2}, "end" = {_INT64 - 1}', '"start" = "start" * 1000003, "end" = "end" * 1000003',
             '"end" = NULL', '"start" = NULL', '"start" = 0, "end" = 0']
        )  # fmt: skip
        said = sql.loosen(table) if "NULL" in change else ""
        rows = sql.any_rows(random, table)
        said += sql.run(f'UPDATE "{table}" SET {change} WHERE {rows}')
        return f"{table}: {change} where {rows}{said}"


def table_missing(random: Random, path: Path) -> str:
    """A table is not there."""
    with _Opened(path) as sql:
        table = sql.any_table(random)
        return f"no {table}" + sql.run(f'DROP TABLE "{table}"')


def table_empty(random: Random, path: Path) -> str:
    """A table holds no rows, or only some."""
    with _Opened(path) as sql:
        table = sql.any_table(random)
        rows = random.choice(["TRUE", "rowid % 2", "rowid > 1"])
        return f"{table} without {rows}" + sql.run(f'DELETE FROM "{table}" WHERE {rows}')


def column_missing(random: Random, path: Path) -> str:
    """A column is not there, or has another name."""
    with _Opened(path) as sql:
        table = sql.any_table(random)
        column = random.choice(sql.columns(table))
        change = random.choice([f'DROP COLUMN "{column}"', f'RENAME COLUMN "{column}" TO "{column.upper()}_"'])
        return f"{table}: {change}" + sql.run(f'ALTER TABLE "{table}" {change}')


def column_added(random: Random, path: Path) -> str:
    """A column is read as its default in all rows: they were written before it was there."""
    with _Opened(path) as sql:
        table = sql.any_table(random)
        column = random.choice(sql.columns(table))
        default = random.choice(["NULL", "0", "7", "-1", "'text'", "2.5", "x'00'"])
        said = sql.run(f'ALTER TABLE "{table}" DROP COLUMN "{column}"')
        said += sql.run(f'ALTER TABLE "{table}" ADD COLUMN "{column}" DEFAULT {default}')
        return f"{table}.{column} DEFAULT {default}{said}"


def rows_doubled(random: Random, path: Path) -> str:
    """Rows stand there twice."""
    with _Opened(path) as sql:
        table = sql.any_table(random)
        said = sql.loosen(table)
        rows = sql.any_rows(random, table)

        said += sql.run(f'INSERT INTO "{table}" SELECT * FROM "{table}" WHERE {rows}')
        return f"{table} again where {rows}{said}"


def odd_declaration(random: Random, path: Path) -> str:
    """A table is declared in another way: WITHOUT ROWID, as a view, with columns of other types, order or number."""
    with _Opened(path) as sql:
        table = sql.any_table(random)
        names = [f'"{name}"' for name in sql.columns(table)]
        typed = [f'"{name}" {kind}' for name, kind in sql.declared(table)]
        numbered = [*typed, "number INTEGER PRIMARY KEY"]
        made = {
            "without rowid": f"({', '.join(numbered)}) WITHOUT ROWID",
            "real": f"({', '.join(f'{name} REAL' for name in names)})",
            "text": f"({', '.join(f'{name} TEXT' for name in names)})",
            "blob": f"({', '.join(f'{name} BLOB' for name in names)})",
            "generated": f"({', '.join(typed)}, more GENERATED ALWAYS AS (1 + 1) VIRTUAL)",
            "more columns": f"({', '.join([*typed, *(f'more{number}' for number in range(150))])})",
            "reversed": f"({', '.join(reversed(typed))})",
            "with a column rowid": f"({', '.join(typed)}, rowid)",
            "view": "",
        }
        way = random.choice(sorted(made))
        said = sql.run(f'ALTER TABLE "{table}" RENAME TO "old {table}"')
        if way == "view":
            return f"{table} is a view{said}" + sql.run(f'CREATE VIEW "{table}" AS SELECT * FROM "old {table}"')
        said += sql.run(f'CREATE TABLE "{table}" {made[way]}')
        into = ", ".join([*names, "number"] if way == "without rowid" else names)
        values = ", ".join([*names, "rowid"] if way == "without rowid" else names)
        said += sql.run(f'INSERT INTO "{table}" ({into}) SELECT {values} FROM "old {table}"')
        return f"{table} is {way}{said}"


def odd_extras(random: Random, path: Path) -> str:
    """Things that users add: an index, a trigger, a virtual table, and holes that deleted rows left."""
    with _Opened(path) as sql:
        table = sql.any_table(random)
        column = random.choice(sql.columns(table))
        statement = random.choice(
            [f'CREATE INDEX odd ON "{table}" ("{column}")',
             f'CREATE TRIGGER odd AFTER INSERT ON "{table}" BEGIN DELETE FROM "{table}"; END',
             "CREATE VIRTUAL TABLE odd USING fts5(text)", f'CREATE TABLE "CUPTI_ODD" AS SELECT * FROM "{table}"',
             'DELETE FROM "StringIds" WHERE id % 2', f'CREATE VIEW odd AS SELECT nothing FROM "{table}"', "ANALYZE"]
        )  # fmt: skip
        return statement + sql.run(statement)


def odd_file(random: Random, path: Path) -> str:
    """The same content under another page size, text encoding or vacuum mode."""
    sizes = [f"page_size = {512 << power}" for power in range(8)]
    texts = ["encoding = 'UTF-16le'", "encoding = 'UTF-16be'"]
    setting = random.choice([*sizes, *texts, "auto_vacuum = FULL", "auto_vacuum = INCREMENTAL"])
    with closing(sqlite3.connect(path)) as sql:
        sql.text_factory = lambda raw: raw.decode("utf-8", "replace")
        statements = list(sql.iterdump())
    path.unlink()
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute(f"PRAGMA {setting}")
        sql.executescript("\n".join(statements))
    return setting


def odd_schema(random: Random, path: Path) -> str:
    """The schema table itself tells something wrong: a root page, a type, a name, a statement."""
    with _Opened(path) as sql:
        sql.run("PRAGMA writable_schema = ON")
        table = sql.any_table(random)
        change = random.choice(
            ["rootpage = 0", "rootpage = 1", "rootpage = 2", "rootpage = rootpage + 1", "rootpage = 1 << 40",
             "rootpage = NULL", "rootpage = 'text'", "sql = NULL", "sql = substr(sql, 1, 40)", "type = 'view'",
             "sql = replace(sql, 'INTEGER', 'REAL')", "sql = replace(sql, 'TEXT', 'INTEGER')",
             "sql = replace(sql, 'start', 'begin')", "name = name || 'x'", "name = CAST(x'ff' AS TEXT)"]
        )  # fmt: skip
        return f"{table}: {change}" + sql.run(f"UPDATE sqlite_master SET {change} WHERE name = ?", table)


BYTES: dict[str, Mutation] = {
    "bit-flips": bit_flips,
    "header-field": header_field,
    "page-header": page_header,
    "zeroed": zeroed,
    "noise": noise,
    "page-copied": page_copied,
    "pages-swapped": pages_swapped,
    "shifted": shifted,
    "truncated": truncated,
    "appended": appended,
}
SQL: dict[str, Mutation] = {
    "odd-value": odd_value,
    "odd-string-id": odd_string_id,
    "odd-time": odd_time,
    "table-missing": table_missing,
    "table-empty": table_empty,
    "column-missing": column_missing,
    "column-added": column_added,
    "rows-doubled": rows_doubled,
    "odd-declaration": odd_declaration,
    "odd-extras": odd_extras,
    "odd-file": odd_file,
    "odd-schema": odd_schema,
}
ALL: dict[str, Mutation] = {**BYTES, **SQL}
