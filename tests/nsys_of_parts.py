"""A stand-in for ``nsys export`` on machines whose nsys cannot read reports of a GPU: it exports an SQLite file again.

Made reports, of recorded rows: ``report(export, path)`` wraps an SQLite export as a report, which this nsys exports to
SQLite or to Arrow files, of some tables (``--tables``) and of a stretch of time (``--times``), with the types that the
columns have in files of nsys 2025.3.1. ``PARTS_NSYS`` makes it behave otherwise: ``inclusive``: what begins or ends at
an edge is inside; ``shuffled``: rows in no order; ``fails N``: the N-th stretch; ``stream``: the format of 2023.4; ``no
parts``: an nsys that knows none of it. (`benchmarks/routes.py` compares the routes by a real nsys, where a GPU is.)
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

HEAD = b"NVIDIA Tegra Profiler Report 2030\n".ljust(4096, b"\0")
HELP = "sqlite arrowdir parquetdir --tables=<pattern> --times=<timerange> S/E  :S/E  S/E:  :S/E:"
#: Of the columns of integers, those that the real one writes as such; the others as int64.
TYPES = {
    "correlationId": "uint32", "deviceId": "uint32", "contextId": "uint64", "streamId": "uint64", "globalPid": "uint64",
    "globalTid": "uint64", "demangledName": "uint64", "shortName": "uint64", "mangledName": "uint64",
    "nameId": "uint64", "returnValue": "uint32", "registersPerThread": "uint32", "gridX": "int32", "gridY": "int32",
    "gridZ": "int32",
    "blockX": "int32", "blockY": "int32", "blockZ": "int32", "staticSharedMemory": "int32",
    "dynamicSharedMemory": "int32", "graphNodeId": "uint64", "bytes": "uint64", "copyKind": "uint64",
    "srcKind": "uint32", "dstKind": "uint32", "memKind": "uint32", "eventClass": "uint32",
}  # fmt: skip


def install(folder: Path) -> Path:
    """Install into `folder`; the path of its nsys."""
    path = folder / "nsys"
    path.write_text(f"#!{sys.executable}\n{Path(__file__).read_text()}")
    path.chmod(0o755)
    return path


def report(export: Path, path: Path) -> Path:
    """A report that holds what an SQLite export does."""
    path.write_bytes(HEAD + export.read_bytes())
    return path


def option(name: str) -> str:
    """The value of an option; empty where it is not given."""
    return next((word.partition("=")[2] for word in sys.argv if word.startswith(f"{name}=")), "")


def how() -> str:
    """How it is to behave."""
    return os.environ.get("PARTS_NSYS", "")


def main() -> int:
    """Do as nsys does."""
    if sys.argv[1:] == ["--version"]:
        print("NVIDIA Nsight Systems version 2025.3.1.90-253135822126v0")
        return 0
    if sys.argv[1:] == ["export", "--help"]:
        print("" if how() == "no parts" else HELP)
        return 0
    source, target = Path(os.environ["TMPDIR"], "source.sqlite"), Path(option("--output"))
    with source.open("wb") as copy:
        copy.write(Path(sys.argv[-1]).read_bytes()[len(HEAD) :])
    if option("--type") == "sqlite":
        shutil.copyfile(source, target)
        with closing(sqlite3.connect(target)) as database:
            for table in tables(database):
                if not wanted(table) or table == "DSPROF_EXPORT":
                    database.execute(f"DROP TABLE {table}")
            database.commit()
        return 0
    if option("--type") != "arrowdir":
        return 1
    return to_arrow(source, target)


def tables(database: sqlite3.Connection) -> list[str]:
    """The names of the tables."""
    return [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


def wanted(table: str) -> bool:
    """Is the table among those that are asked for?"""
    patterns = option("--tables")
    return not patterns or any(re.fullmatch(one, table, re.IGNORECASE) for one in patterns.split(","))


def to_arrow(source: Path, target: Path) -> int:
    """Write a file for each table, for those that have rows in the stretch."""
    import pyarrow as pa

    target.mkdir()
    if how() == f"fails {target.name}":
        (target / "CUPTI_ACTIVITY_KIND_KERNEL.arrow").write_bytes(b"ARROW1, cut")
        print("Error: No space left on device")
        return 1
    if how() == "hangs":
        time.sleep(300)
    with closing(sqlite3.connect(source)) as database:
        for table in filter(wanted, tables(database)):
            columns = [name for _, name, *_ in database.execute(f"PRAGMA table_info({table})")]
            order = "random()" if how() == "shuffled" else "rowid"
            rows = database.execute(f"SELECT * FROM {table} WHERE {stretch()} ORDER BY {order}").fetchall()
            if rows:
                arrays = [pa.array(values, TYPES.get(name, "int64"))
                          for name, values in zip(columns, zip(*rows, strict=True), strict=True)]  # fmt: skip
                found = pa.table(arrays, names=columns)
                new = pa.ipc.new_stream if how() == "stream" else pa.ipc.new_file
                with new(target / f"{table}.arrow", found.schema) as writer:
                    writer.write_table(found)
    return 0


def stretch() -> str:
    """The rows of the time that is asked for, in SQL; an edge is strict but for a colon, as the help of nsys says."""
    times = option("--times")
    if not times:
        return "1"
    low, _, high = times.partition("/")
    assert not low.startswith(":"), "dsprof asks for no such stretch"
    equal = "=" if how() == "inclusive" else ""
    begins = f"start >{equal} {low}" if low else "1"
    if not high:
        return begins
    return f"{begins} AND start <{equal} {high[:-1]}" if high.endswith(":") else f'{begins} AND "end" <{equal} {high}'


if __name__ == "__main__":
    sys.exit(main())
