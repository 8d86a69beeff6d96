"""A process of its own that runs one statement of SQL, read-only and bounded; started by `dsprof.ground.sql`.

It knows nothing of dsprof, so that it starts quickly. From standard input it reads what is asked, it writes the rows to
a file that is open already, as an Arrow stream, and to standard output a JSON object: what went wrong, or the types of
the columns as DuckDB calls them.

Whoever writes the statement may be a program that was talked into it, so each of these stands by itself: one statement
that only reads; no table but ours, no function that reads elsewhere; DuckDB without files, network and extensions,
its configuration locked; a limit of the operating system for memory and for what is written; and, by the one who
started it, for time.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
from collections.abc import Iterator
from typing import Any

#: Functions that make rows: those that read nothing but the catalog.
_TABLE_FUNCTIONS = frozenset(("range", "generate_series", "unnest", "duckdb_columns", "duckdb_tables", "duckdb_views"))
#: Tables beside ours: what there is.
_CATALOG = frozenset(("duckdb_columns", "duckdb_tables", "duckdb_views"))
#: Functions of values that tell of this machine, or write to its log.
_FORBIDDEN = frozenset(("current_setting", "getenv", "getvariable", "write_log"))
#: What DuckDB's types become; whole numbers beyond int64 are an error, and all else is text.
_WHOLE = frozenset(
    ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")
)
_KINDS = {"int": "BIGINT", "float": "DOUBLE", "name": "VARCHAR", "bool": "BOOLEAN"}
_ROWS_AT_ONCE = 10_000


class Refused(Exception):
    """What is wrong with a statement: of which kind, and in words."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind


def main() -> None:
    """Answer one question."""
    asked = json.load(sys.stdin)
    try:
        told: dict[str, Any] = {"types": _answer(asked)}
    except Refused as refused:
        told = {"refused": refused.kind, "words": str(refused)}
    except MemoryError:
        told = {"refused": "memory", "words": ""}
    except Exception as error:  # whatever it is, the one who asked is to know
        told = {"refused": "failed", "words": _words(error)}
    json.dump(told, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # what is left of a query that was stopped need not end by itself


def _answer(asked: dict[str, Any]) -> list[str]:
    try:
        import duckdb
    except ImportError as error:
        raise Refused("missing", str(error)) from error
    database = _database(duckdb, asked)
    _bound(asked["memory"], asked["most_bytes"])
    try:
        _check(duckdb, database, asked["sql"], {name.lower() for name in asked["tables"]})
        return _run(database, asked["sql"], asked["limit"], asked["result"])
    except duckdb.OutOfMemoryException as error:
        raise Refused("memory", "") from error
    except duckdb.ParserException as error:
        raise Refused("syntax", _words(error)) from error
    except duckdb.Error as error:
        raise Refused("failed", _words(error)) from error


# -- what is there ------------------------------------------------------------------------------------------------


def _database(duckdb: Any, asked: dict[str, Any]) -> Any:
    """A database in memory with our tables, that reads nothing else any more."""
    database = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": f"{asked['memory']}B",
            "threads": asked["threads"],
            "temp_directory": "",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "allow_community_extensions": "false",
            "allow_persistent_secrets": "false",
            "python_enable_replacements": "false",
        },
    )
    paths = []
    for name, table in asked["tables"].items():
        what, path = "VIEW", table["path"]
        if path is None:
            what = "TABLE"
            kinds = ", ".join(f"{_quoted(one)} {_KINDS[kind]}" for one, kind, _ in table["columns"])
            database.execute(f"CREATE TABLE {_quoted(name)} ({kinds})")
        elif table["folder"]:
            database.register(name, _folder(path))
        else:
            paths.append(path)
            database.execute(f"CREATE VIEW {_quoted(name)} AS FROM read_parquet({_text(path)})")
        if "duckdb_" in asked["sql"].lower():  # whoever asks for no catalog sees none, and comments take long to make
            _describe(database, what, name, table)
    database.execute(f"SET allowed_paths = [{', '.join(map(_text, paths))}]")
    database.execute("SET enable_external_access = false")
    database.execute("SET lock_configuration = true")
    return database


def _describe(database: Any, what: str, name: str, table: dict[str, Any]) -> None:
    """Say in the catalog what a table and its columns mean."""
    database.execute(f"COMMENT ON {what} {_quoted(name)} IS {_text(table['row'])}")
    there = {row[0] for row in database.execute(f"DESCRIBE {_quoted(name)}").fetchall()}
    for column, _, text in table["columns"]:
        if column in there:
            database.execute(f"COMMENT ON COLUMN {_quoted(name)}.{_quoted(column)} IS {_text(text)}")


def _folder(path: str) -> Any:
    """Parquet files by report, run, node and rank."""
    import pyarrow.dataset as ds  # loads pandas, and so takes longer than all else

    return ds.dataset(path, format="parquet", partitioning="hive")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(words: str) -> str:
    return "'" + words.replace("'", "''") + "'"


def _bound(memory: int, most_bytes: int) -> None:
    """Take no more memory than that beside what there is now, also for one value, and write no larger file."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  the process starts quickly without pathlib
        taken = int(file.read().split()[5]) * resource.getpagesize()
    for kind, value in ((resource.RLIMIT_DATA, taken + 2 * memory), (resource.RLIMIT_FSIZE, most_bytes)):
        with contextlib.suppress(ValueError, OSError):  # somebody set it lower
            resource.setrlimit(kind, (value, value))


# -- may it run -------------------------------------------------------------------------------------------------------


def _check(duckdb: Any, database: Any, sql: str, ours: set[str]) -> None:
    """Raises `Refused` where it is not one statement that reads our tables alone."""
    nodes = _parsed(duckdb, database, sql)
    named = {str(one["key"]).lower() for node in nodes for one in (node.get("cte_map") or {}).get("map", ())}
    named |= {str(node["cte_name"]).lower() for node in nodes if "cte_name" in node}
    for node in nodes:
        function = str(node.get("function_name", "")).lower()
        if node.get("type") == "TABLE_FUNCTION":
            function = str(node["function"]["function_name"]).lower()
            if function not in _TABLE_FUNCTIONS:
                raise Refused("function", function)
        elif function in _FORBIDDEN:
            raise Refused("function", function)
        elif node.get("type") == "BASE_TABLE":
            _check_table(node, ours, named)


def _parsed(duckdb: Any, database: Any, sql: str) -> list[dict[str, Any]]:
    """What one statement that reads is made of. Raises `Refused` where it is another."""
    statements = database.extract_statements(sql)
    if statements and sql.lstrip().lower().startswith("pivot") and statements[0].type != duckdb.StatementType.SELECT:
        raise Refused("pivot", "")  # it would make a type first, of the values that it finds
    if len(statements) != 1:
        raise Refused("number", str(len(statements)))
    if statements[0].type != duckdb.StatementType.SELECT:
        raise Refused("kind", str(statements[0].type).rpartition(".")[2])
    try:
        tree = json.loads(database.execute("SELECT json_serialize_sql(?::VARCHAR)", [sql]).fetchall()[0][0])
    except RecursionError as error:
        raise Refused("failed", "It is nested too deeply.") from error
    if tree.get("error"):
        raise Refused("syntax", str(tree.get("error_message")))
    return list(_nodes(tree))


def _check_table(node: dict[str, Any], ours: set[str], named: set[str]) -> None:
    table, schema = str(node["table_name"]).lower(), str(node.get("schema_name", "")).lower()
    known = ours | _CATALOG | (named if not schema else set())
    if schema != "information_schema" and (table not in known or schema not in ("", "main", "temp")):
        raise Refused("table", node["table_name"])


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects in a document."""
    left = [tree]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
            left += one.values()
        elif isinstance(one, list):
            left += one


# -- and run it -------------------------------------------------------------------------------------------------------


def _run(database: Any, sql: str, limit: int | None, result: int) -> list[str]:
    """Write the rows, `limit` and one more at most; says the types of their columns."""
    import pyarrow as pa

    rows = database.sql(sql)
    types = [str(kind) for kind in rows.types]
    names = _distinct(rows.columns)
    columns = [_as_ours(number, kind) for number, kind in enumerate(types, start=1)]
    rows = rows.project(", ".join(f"{value} AS {_quoted(name)}" for value, name in zip(columns, names, strict=True)))
    if limit is not None:
        rows = rows.limit(limit + 1)
    reader = (getattr(rows, "to_arrow_reader", None) or rows.fetch_arrow_reader)(_ROWS_AT_ONCE)  # its older name
    try:
        with os.fdopen(result, "wb") as file, pa.ipc.new_stream(file, reader.schema) as written:
            for batch in reader:
                written.write_batch(batch)
    except OSError as error:
        raise Refused("large", "") from error
    return types


def _as_ours(number: int, kind: str) -> str:
    """A column as one of the kinds that tables have."""
    if kind in _WHOLE:
        return f"CAST(#{number} AS BIGINT)"
    if kind in ("FLOAT", "DOUBLE") or kind.startswith("DECIMAL"):
        return f"CAST(#{number} AS DOUBLE)"
    return f"#{number}" if kind == "BOOLEAN" else f"CAST(#{number} AS VARCHAR)"


def _distinct(names: list[str]) -> list[str]:
    """Names of which none is there twice, as a row is an object in JSON."""
    found: dict[str, None] = {}
    for name in names:
        number, other = 1, name
        while other in found:
            number += 1
            other = f"{name}_{number}"
        found[other] = None
    return list(found)


def _words(error: Exception) -> str:
    """What DuckDB says, in one line, without its name for the kind and without the place."""
    said = str(error).partition("\n\nLINE ")[0].partition("\nLINE ")[0]
    before, colon, after = said.partition("Error: ")
    return " ".join((after if colon and len(before) < 40 else said).split())


if __name__ == "__main__":
    main()
