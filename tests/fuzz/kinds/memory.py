"""Reports that ask for much time or memory, under ``--memory 400MB``."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from fuzz import bases
from fuzz.calls import judge
from fuzz.case import Case, Kind, Result
from fuzz.moments import disturbed

LIMIT_BYTES = 400_000_000
_NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) "


def _columns(sql: sqlite3.Connection, table: str) -> list[str]:
    return [name for (name,) in sql.execute("SELECT name FROM pragma_table_info(?)", (table,))]


def _again(sql: sqlite3.Connection, table: str, rows: int, **changed: str) -> None:
    """Rows like the first one of a table, but for some columns, in terms of ``i``."""
    columns = _columns(sql, table)
    values = ", ".join(changed.get(name, f'one."{name}"') for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    where = "WHERE eventType = 59" if table == "NVTX_EVENTS" else ""
    sql.execute(f'{_NUMBERS.format(rows=rows)} INSERT INTO "{table}" ({names}) SELECT {values} '
                f'FROM n, (SELECT * FROM "{table}" {where} LIMIT 1) one')  # fmt: skip


RUNTIME, KERNEL, NVTX = "CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_KERNEL", "NVTX_EVENTS"


def ids_shifted(random: Random, sql: sqlite3.Connection) -> str:
    """Correlation ids are far from 0."""
    by = random.choice([3_000_000_000, 1 << 31, 1 << 40, 1 << 62, -5_000_000_000])
    for table in (RUNTIME, KERNEL, "CUPTI_ACTIVITY_KIND_MEMCPY", "CUPTI_ACTIVITY_KIND_MEMSET"):
        sql.execute(f'UPDATE "{table}" SET correlationId = correlationId + ?', (by,))
    return f"by {by}"


def ids_far_apart(random: Random, sql: sqlite3.Connection) -> str:
    """Correlation ids from one end of int32, or int64, to the other."""
    factor = random.choice([1_000_003, 1 << 20, 1 << 40, -70_001])
    for table in (RUNTIME, KERNEL):
        sql.execute(f'UPDATE "{table}" SET correlationId = correlationId * ?', (factor,))
    return f"times {factor}"


def never_popped(random: Random, sql: sqlite3.Connection) -> str:
    """Ranges that were pushed and never popped."""
    rows = random.choice([1_000, 10_000, 50_000])
    end = random.choice(["NULL", '(SELECT max("end") FROM NVTX_EVENTS)'])
    _again(sql, NVTX, rows, start="one.start + i", end=end)
    return f"{rows} ranges until {end}"


def nested(random: Random, sql: sqlite3.Connection) -> str:
    """Ranges within ranges."""
    rows = random.choice([1_000, 10_000, 100_000])
    name = random.choice(["one.textId", "i % 50", "NULL"])
    _again(sql, NVTX, rows, start="one.start + i", end=f"one.start + {3 * rows} - i", textId=name)
    return f"{rows} ranges, named by {name}"


def siblings(random: Random, sql: sqlite3.Connection) -> str:
    """Ranges one after another, all of them stages."""
    rows = random.choice([10_000, 100_000])
    _again(sql, NVTX, rows, start="one.start + 10 * i", end="one.start + 10 * i + 9")
    return f"{rows} ranges"


def threads(random: Random, sql: sqlite3.Connection) -> str:
    """As many threads as ranges, or calls."""
    rows = random.choice([2_000, 20_000])
    table = random.choice([NVTX, RUNTIME])
    _again(sql, table, rows, globalTid="one.globalTid + i", start="one.start + i", end='one."end" + i')
    return f"{rows} of {table}"


def processes(random: Random, sql: sqlite3.Connection) -> str:
    """As many processes as kernels or calls."""
    rows, table = random.choice([500, 5_000]), random.choice([KERNEL, RUNTIME, NVTX])
    column = "globalPid" if table == KERNEL else "globalTid"
    _again(sql, table, rows, **{column: f"one.{column} + (i << 24)"})
    return f"{rows} of {table}"


def streams(random: Random, sql: sqlite3.Connection) -> str:
    """As many streams, or devices, as kernels."""
    rows, column = random.choice([5_000, 50_000]), random.choice(["streamId", "deviceId", "contextId", "graphNodeId"])
    _again(sql, KERNEL, rows, **{column: random.choice(["i", "i * 1000003", "-i"])}, start="one.start + i")
    return f"{rows} by {column}"


def kernel_names(random: Random, sql: sqlite3.Connection) -> str:
    """As many names as kernels."""
    rows, length = random.choice([(50_000, 20), (5_000, 2_000), (200, 100_000)])
    sql.execute(f"{_NUMBERS.format(rows=rows)} INSERT INTO StringIds SELECT 1000000 + i, 'k' || i || "
                f"replace(hex(zeroblob({length // 2})), '0', 'x<') FROM n")  # fmt: skip
    _again(sql, KERNEL, rows, demangledName="1000000 + i", shortName="1000000 + i", start="one.start + i")
    return f"{rows} names of {length}"


def long_name(random: Random, sql: sqlite3.Connection) -> str:
    """A name of some 400 kB, of which patterns may think long."""
    piece = random.choice(
        ["a", "<", "x<int>", "::", "(", "gemm_", "triton_", "_to_copy", " ", "flash", "void at::native::", "Sort1"]
    )
    text = piece * (400_000 // len(piece))
    sql.execute(f"UPDATE StringIds SET value = ? WHERE id = (SELECT demangledName FROM {KERNEL} LIMIT 1)", (text,))
    return f"{len(text)} of {piece}"


def output(random: Random, sql: sqlite3.Connection) -> str:
    """Much that the program printed stands among the strings."""
    rows, length = random.choice([(100, 1_000_000), (20_000, 5_000), (300_000, 100)])
    names = f"SELECT 1000000 + i, hex(zeroblob({length // 2})) || i FROM n"
    sql.execute(f"{_NUMBERS.format(rows=rows)} INSERT INTO StringIds {names}")
    return f"{rows} strings of {length}"


def domains(random: Random, sql: sqlite3.Connection) -> str:
    """As many domains as ranges."""
    rows = random.choice([2_000, 20_000])
    _again(sql, NVTX, rows, domainId="i", eventType="75", text="'d' || i", start="i")
    _again(sql, NVTX, rows, domainId="i", start="one.start + i")
    return f"{rows} domains"


def events(random: Random, sql: sqlite3.Connection) -> str:
    """So many calls and kernels that it has to work in parts."""
    rows = random.choice([200_000, 400_000])
    for table in (RUNTIME, KERNEL):
        _again(
            sql, table, rows, correlationId="1000000 + i", start="one.start + 100 * i", end="one.start + 100 * i + 50"
        )
    return f"{rows} launches"


GROWTHS: dict[str, Callable[[Random, sqlite3.Connection], str]] = {
    one.__name__: one
    for one in (ids_shifted, ids_far_apart, never_popped, nested, siblings, threads, processes, streams, kernel_names,
    long_name,
                output, domains, events)
}  # fmt: skip


def choose(random: Random) -> dict[str, Any]:
    """What grows."""
    return {"base": random.choice(("made", "h200-graph-node")), "growth": random.choice(sorted(GROWTHS)),
            "fast": random.choice(["--no-fast", "--no-fast", "--fast"])}  # fmt: skip


def run(case: Case, folder: Path) -> Result:
    """It ends soon, in as much memory as was said, or is refused."""
    report, result = bases.copy(case.chosen["base"], folder / "run.sqlite"), Result()
    with closing(sqlite3.connect(report, isolation_level=None)) as sql:
        sql.execute("PRAGMA synchronous = OFF")
        sql.execute("BEGIN")
        result.did = GROWTHS[case.chosen["growth"]](case.random("growth"), sql)
        sql.execute("COMMIT")
    given = ["analyze", str(report), "--memory", "400MB", "--format", "json", case.chosen["fast"]]
    judge(disturbed(folder, given).wait(), result)
    note = folder / "note"
    result.peak_bytes = json.loads(note.read_text())["peak_bytes"] if note.exists() else 0
    if result.code == -9:
        result.faults.clear()
        result.found("slow", f"{case.chosen['growth']}: no end")
    if result.peak_bytes > LIMIT_BYTES:
        result.found("memory", f"{case.chosen['growth']}: {result.peak_bytes / 1e6:.0f} MB under --memory 400MB")
    return result


KIND = Kind("memory", 120, choose, run, programs=True)
