"""What must be true of results, found without dsprof: by plain SQL, by SQLite's own check, by the undamaged file."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Tables = Mapping[str, pa.Table]
_KERNELS = ("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_GRAPH_TRACE")
_MEMOPS = ("CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET")
_RANGES = (59, 60, 70, 71)
#: No capture of our bases has such times: what dsprof makes of them, it tells as a finding.
_ODD_TIMES = '("end" < start OR start < 0 OR start > 1 << 52 OR "end" > 1 << 52)'
#: Columns that may be negative: moments, slopes, how much later (two clocks), and what a report says itself.
_MAY_BE_NEGATIVE = re.compile(
    r"(^|_)(start|end|drift|delay|payload|id|pid|tid|request|step|context_tokens|tokens)(_|$)"
)
_MEASURED = re.compile(r"_(ns|bytes|pct)$|^(instances|kernels|launches|gpu_ops|steps|stages)|_total$")


def tables_in(folder: Path) -> dict[str, pa.Table]:
    """The tables that lie in a folder, their names as plain text, for comparison."""
    return {path.stem: plain(_read(path)) for path in sorted(folder.glob("*.parquet"))}


def _read(path: Path) -> pa.Table:
    with path.open("rb") as file:
        return pq.read_table(file)


def plain(table: pa.Table) -> pa.Table:
    """A table by its values alone: no dictionaries, chunks, metadata."""
    columns = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns]
    return pa.table([column.combine_chunks() for column in columns], names=table.column_names)


def differing(one: Tables, other: Tables, only: Iterable[str] | None = None) -> Iterator[str]:
    """Where tables differ: names, and the columns that do."""
    for name in only if only is not None else sorted({*one, *other}):
        if name not in one or name not in other:
            yield f"{name} is missing"
        elif not same(one[name], other[name]):
            yield f"{name}: {_columns(one[name], other[name])}"


def same(one: pa.Table, other: pa.Table) -> bool:
    """Are the values equal, NaN and NaN too?"""
    return one.num_rows == other.num_rows and one.column_names == other.column_names and all(
        _same(*columns) for columns in zip(one.columns, other.columns, strict=True)
    )  # fmt: skip


def _same(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    if one.equals(other):
        return True
    if not pa.types.is_floating(one.type):
        return False
    return all(pc.equal(pc.fill_null(getattr(pc, what)(one), False), pc.fill_null(getattr(pc, what)(other), False))
               .to_pylist().count(False) == 0 for what in ("is_nan", "is_null")) and pc.all(
        pc.or_kleene(pc.equal(one, other), pc.is_nan(one))).as_py() is not False  # fmt: skip


def _columns(one: pa.Table, other: pa.Table) -> str:
    if one.num_rows != other.num_rows:
        return f"{one.num_rows} rows, {other.num_rows} rows"
    for name in one.column_names:
        if name in other.column_names and not _same(one[name], other[name]):
            row = next((at for at, (left, right) in enumerate(zip(one[name], other[name], strict=True))
                        if left.as_py() != right.as_py()), 0)  # fmt: skip
            return f"{name} in row {row}: {one[name][row]} and {other[name][row]}"
    return "columns"


def negative(tables: Tables) -> Iterator[str]:
    """Durations, sums, counts and shares below zero."""
    for name, table in tables.items():
        for column in table.column_names:
            if _MEASURED.search(column) and not _MAY_BE_NEGATIVE.search(column):
                least = pc.min(table[column]).as_py() if pa.types.is_primitive(table[column].type) else None
                if least is not None and least < 0:
                    yield f"{name}.{column} is {least}"


# -- plain SQL ------------------------------------------------------------------------------------------


def recount(path: Path) -> dict[str, tuple[int, int] | None]:
    """Rows and their total time in an export, by SQL: kernels, memory operations, ranges (these without a time).

    None where SQL has no plain answer: a value of a time is no integer, or an end is before its start.
    """
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as sql:
        return {
            "kernels": _total(sql, _KERNELS),
            "memops": _total(sql, _MEMOPS),
            "ranges": _ranges(sql),
        }


def _total(sql: sqlite3.Connection, tables: Iterable[str]) -> tuple[int, int] | None:
    rows = time = 0
    for table in tables:
        try:
            if not sql.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                continue
            odd = f"typeof(start) <> 'integer' OR typeof(\"end\") <> 'integer' OR {_ODD_TIMES}"
            ((count, total, odd_rows),) = sql.execute(f'SELECT count(*), sum("end" - start), sum({odd}) FROM "{table}"')
        except sqlite3.Error:
            return None
        if odd_rows or isinstance(total, float):
            return None
        rows, time = rows + count, time + (total or 0)
    return rows, time


def _ranges(sql: sqlite3.Connection) -> tuple[int, int] | None:
    odd = f"typeof(start) <> 'integer' OR typeof(\"end\") NOT IN ('integer', 'null') OR {_ODD_TIMES}"
    try:
        ((count, odd_rows),) = sql.execute(f"SELECT count(*), sum({odd}) FROM NVTX_EVENTS WHERE eventType IN {_RANGES}")
        ((strange,),) = sql.execute("SELECT count(*) FROM NVTX_EVENTS WHERE typeof(eventType) <> 'integer'")
    except sqlite3.Error:
        return None
    return None if odd_rows or strange else (count, 0)


def totals(tables: Tables) -> dict[str, dict[str, tuple[int, int]]]:
    """The same by each table that tells it."""
    return {
        "kernels": {
            "kern_sum": _sums(tables["kern_sum"], "instances", "total_ns"),
            "kern_trace": (tables["kern_trace"].num_rows, _sum(tables["kern_trace"], "duration_ns")),
            "stage_kern_sum": _sums(tables["stage_kern_sum"], "instances", "total_ns"),
            "stage_family_sum": _sums(tables["stage_family_sum"], "instances", "total_ns"),
            "stage_sum": _sums(tables["stage_sum"], "kernels_total", "kernel_total_ns"),
        },
        "memops": {
            "mem_sum": _sums(tables["mem_sum"], "instances", "total_ns"),
            "mem_trace": (tables["mem_trace"].num_rows, _sum(tables["mem_trace"], "duration_ns")),
        },
        "ranges": {"range_trace": (tables["range_trace"].num_rows, 0)},
    }


def _sums(table: pa.Table, count: str, total: str) -> tuple[int, int]:
    return _sum(table, count), _sum(table, total)


def _sum(table: pa.Table, column: str) -> int:
    return sum(value or 0 for value in table[column].to_pylist())


def unlike(tables: Tables, counted: Mapping[str, tuple[int, int] | None]) -> Iterator[str]:
    """Where tables and a recount disagree."""
    for what, by_table in totals(tables).items():
        for table, found in by_table.items():
            if counted[what] is not None and found != counted[what]:
                yield f"{table} has {what} {found}, SQL counts {counted[what]}"


def as_any(value: Any) -> Any:
    """JSON's view of a value, so that a printed document and a made one compare."""
    if isinstance(value, Mapping):
        return {str(key): as_any(one) for key, one in value.items()}
    return [as_any(one) for one in value] if isinstance(value, list | tuple) else value
