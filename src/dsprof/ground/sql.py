"""SQL over tables that lie in Parquet files, read-only and bounded: by DuckDB, in a process of its own.

A process, because DuckDB's limits hold for its buffers and not for one value, and because a statement that is to be
stopped may not listen: this one is killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from dsprof.errors import QueryFailed, UnknownTable
from dsprof.records import frozen

#: The rows of a statement take no more bytes.
LARGEST = 256 * 10**6
#: A statement is no longer, in characters.
_LONGEST = 100_000
_THREADS = 4
_WORKER = Path(__file__).with_name("sql_worker.py")


class SqlTable(NamedTuple):
    """A table to be asked: what a row is, its columns (name, kind, sentence), and where its rows are.

    `path`: a Parquet file, or a `folder` of them; None where nobody asks for its rows.
    """

    row: str
    columns: Sequence[tuple[str, str, str]]
    path: str | None = None
    folder: bool = False


@frozen
class Limits:
    """What a statement may take: seconds, bytes of memory, rows (None: all)."""

    seconds: float = 60.0
    memory: int = 2 * 10**9
    rows: int | None = None


class Rows(NamedTuple):
    """What a statement gave: its rows, each column int64, float64, bool or text, and whether there were more."""

    table: pa.Table
    cut: bool


def ask(sql: str, tables: Mapping[str, SqlTable], limits: Limits, handles: Sequence[int] = ()) -> Rows:
    """The rows of one statement that reads. `handles`: open files that paths of tables lead to.

    Raises `QueryFailed` and `UnknownTable`.
    """
    if len(sql) > _LONGEST:
        raise QueryFailed(f"The statement has more than {_LONGEST:,} characters.", "Ask for less at once.")
    result = os.memfd_create("rows")
    with os.fdopen(result, "rb") as file:
        asked = {
            "sql": sql.encode("utf-8", "replace").decode(), "limit": limits.rows, "memory": limits.memory,
            "tables": {name: table._asdict() for name, table in tables.items()}, "most_bytes": LARGEST,
            "threads": min(_THREADS, len(os.sched_getaffinity(0))), "result": result,
        }  # fmt: skip
        told = _told(asked, limits, (*handles, result))
        if "refused" in told:
            raise _error(told["refused"], told["words"], tables, limits)
        file.seek(0)
        table = pa.ipc.open_stream(file).read_all()
    cut = limits.rows is not None and table.num_rows > limits.rows
    return Rows(table.slice(0, limits.rows) if cut else table, cut)


def _told(asked: Mapping[str, Any], limits: Limits, handles: Sequence[int]) -> dict[str, Any]:
    command = [sys.executable, "-P", str(_WORKER)]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked).encode(), capture_output=True, pass_fds=handles, timeout=limits.seconds,
            check=False,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"refused": "time", "words": ""}
    except ValueError:  # it said nothing
        return {"refused": "ended", "words": ""}
    return found


def _error(kind: str, words: str, tables: Mapping[str, SqlTable], limits: Limits) -> QueryFailed | UnknownTable:
    """What is wrong with a statement, as an error with advice."""
    less = "Ask for less: fewer rows, an aggregate, a condition."
    if kind == "table":
        near = get_close_matches(words, tables, 1)
        meant = f"Did you mean {near[0]}? " if near else ""
        return UnknownTable(f"There is no table {words}.", f"{meant}There are: {', '.join(tables)}.")
    said = {
        "missing": ("SQL needs DuckDB, which is not installed here.", "Install it: pip install 'dsprof[query]'."),
        "time": (f"The statement took more than {limits.seconds:g} s and was stopped.", less),
        "memory": (f"The statement takes more than {limits.memory / 1e9:.2g} GB of memory.", less),
        "pivot": ("A PIVOT needs its values.", "Name them: PIVOT stage_sum ON stage IN ('prefill', 'decode') …"),
        "ended": ("DuckDB ended without an answer: as a rule, there was no memory left.", less),
        "large": (f"The rows are larger than {LARGEST / 1e6:g} MB.", less),
        "number": (
            "There is no statement." if words == "0" else f"These are {words} statements.",
            "One statement is run: SELECT …",
        ),
        "kind": (f"A statement {words} is not run.", "Those that read are: SELECT, WITH, FROM, DESCRIBE, SHOW."),
        "function": (
            f"The function {words} is not to be had here.", "A statement reads the tables of the analysis alone.",
        ),
        "syntax": (f"This is no SQL that DuckDB understands: {words}", "It is DuckDB's dialect of SQL."),
    }  # fmt: skip
    columns = "Columns: `DESCRIBE stage_sum`, and `dsprof tables` says what they mean."
    return QueryFailed(*said.get(kind, (f"The statement fails: {words}", columns)))
