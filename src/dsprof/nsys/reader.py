"""An SQLite export of Nsight Systems, read into a `Trace`.

Rows come through ADBC's SQLite driver straight into Arrow columns; what is small (versions, GPUs) through
the standard library. The file is opened read-only and as immutable: nothing is ever written beside it.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dsprof.attribution import NULL, Ints, distinct, join_calls
from dsprof.errors import NotAReport, NothingRecorded, NvprofDatabase, ReportDamaged
from dsprof.nsys import schema
from dsprof.nsys.command import stated_size
from dsprof.stages import CUDA_GRAPH
from dsprof.trace import (
    Calls,
    Codes,
    Gpu,
    Kernels,
    MemOps,
    Overheads,
    Ranges,
    Report,
    Trace,
    pack_dimensions,
    process_of,
)

Progress = Callable[[str], None]
Columns = dict[str, Ints]

_NULL_SQL = "(-9223372036854775807 - 1)"
_BATCH_ROWS = "65536"


def read(path: Path, progress: Progress = lambda sentence: None) -> Trace:
    """Read the export at `path`, whatever its version.

    Raises `ReportDamaged`, `NvprofDatabase` and `NothingRecorded`. `progress` is told what is being read.
    """
    with _Export(path) as export:
        export.sniff()
        progress("reading names")
        names = _Names(export)
        progress("reading NVTX ranges")
        ranges = _ranges(export, names)
        progress("reading CUDA API calls")
        calls = _calls(export, names)
        progress("reading kernels")
        kernels = _kernels(export, names, calls)
        progress("reading copies")
        memops = _memops(export, calls)
        overheads = _overheads(export)
        report = _report(export)
    if not (len(ranges) or len(calls) or len(kernels) or len(memops)):
        raise NothingRecorded(
            f"{path.name} holds neither NVTX ranges nor CUDA events.",
            "Record with `nsys profile --trace=cuda,nvtx`, and see whether the program ran to its end.",
        )
    return Trace(report, names.all(), ranges, calls, kernels, memops, overheads)


class _Export:
    """The file under its two connections, with the columns that each table really has."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._uri = f"file:{quote(os.fsencode(path.resolve()))}?mode=ro&immutable=1"
        self.columns: dict[str, list[str]] = {}

    def __enter__(self) -> _Export:
        # The low-level interface: the DB-API one loads pandas, which costs more than reading a small report.
        import adbc_driver_manager as adbc
        import adbc_driver_sqlite

        self._refuse_unfinished()
        with self.guarded():
            self._sql = sqlite3.connect(self._uri, uri=True)
            self._sql.text_factory = lambda raw: raw.decode("utf-8", "replace")
            for (table,) in self._sql.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"):
                rows = self._sql.execute("SELECT name FROM pragma_table_info(?)", (table,))
                self.columns[table] = [name for (name,) in rows]
            self._database = adbc_driver_sqlite.connect(self._uri)
            self._arrow = adbc.AdbcConnection(self._database)
            self._new_statement = adbc.AdbcStatement
        return self

    def __exit__(self, *error: object) -> None:
        self._sql.close()
        self._arrow.close()
        self._database.close()

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn the two drivers' errors into the one that users see."""
        try:
            yield
        except (sqlite3.DatabaseError, pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
            raise self.damaged(error) from error
        except Exception as error:
            if type(error).__module__.startswith("adbc_driver_manager"):
                raise self.damaged(error) from error
            raise

    def damaged(self, error: object) -> ReportDamaged:
        """The error for a file that cannot be read to its end."""
        return ReportDamaged(
            f"{self.path.name} is cut or damaged ({error}).",
            "Export the report again with `nsys export --type=sqlite`, and see whether the disk is full.",
        )

    def _refuse_unfinished(self) -> None:
        """Refuse a file whose last changes are beside it: read as immutable, it would be an older or a torn one."""
        for suffix in ("-wal", "-journal"):
            beside = self.path.with_name(self.path.name + suffix)
            if not beside.is_file():
                continue
            with beside.open("rb") as file:
                begins = file.read(1)
            if begins not in (b"", b"\0"):  # SQLite empties the one, and clears the head of the other
                raise ReportDamaged(
                    f"{self.path.name} is being written, or a program that wrote it broke off: there is {beside.name}.",
                    "Let that program end, or open the file once with sqlite3, or export the report again.",
                )

    def sniff(self) -> None:
        """Refuse what is no whole export: a file shorter than it says, an nvprof database."""
        size, stated = self.path.stat().st_size, stated_size(self.path)
        if size < stated:
            raise self.damaged(f"{size} bytes of {stated}")
        if "StringTable" in self.columns and schema.STRINGS not in self.columns:
            raise NvprofDatabase(
                f"{self.path.name} is an nvprof database, not an Nsight Systems report.",
                "Record the program again with `nsys profile --trace=cuda,nvtx`.",
            )
        if not any(name in self.columns for name in (schema.STRINGS, *schema.VERSION_TABLES, *schema.EXPECTED)):
            raise NotAReport(
                f"{self.path.name} is an SQLite database, but no Nsight Systems export.",
                "Name a .nsys-rep, or what `nsys export --type=sqlite` made of it.",
            )

    def rows(self, query: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        """A small query, as Python tuples."""
        with self.guarded(), closing(self._sql.execute(query, parameters)) as cursor:
            return cursor.fetchall()

    def arrow(self, query: str) -> pa.Table:
        """A large query, as an Arrow table."""
        with self.guarded(), closing(self._new_statement(self._arrow)) as statement:
            statement.set_options(**{"adbc.sqlite.query.batch_rows": _BATCH_ROWS})
            statement.set_sql_query(query)
            stream, _ = statement.execute_query()
            return pa.RecordBatchReader.from_stream(stream).read_all()

    def has(self, table: str, *columns: str) -> bool:
        """Is there such a table, with all these columns?"""
        return table in self.columns and set(columns) <= set(self.columns[table])

    def integers(self, source: schema.Source, where: str = "", extra: tuple[str, ...] = ()) -> Columns:
        """The columns of `source` as int64, NULL where the file has none; empty where there is no table."""
        present = [name for name in source.columns if self.has(source.table, name)]
        if not self.has(source.table, "start"):
            return {name: np.zeros(0, np.int64) for name in (*source.columns, *extra)}
        chosen = [f'coalesce("{name}", {_NULL_SQL}) AS "{name}"' for name in present]
        expressions = [*chosen, *(f'{_EXTRA[name](self)} AS "{name}"' for name in extra)]
        query = f'SELECT {", ".join(expressions)} FROM "{source.table}" {where}'
        table = self.arrow(query)
        columns = {name: self._int64(table.column(name)) for name in table.column_names}
        missing = np.full(table.num_rows, NULL, np.int64)
        return {name: columns.get(name, missing) for name in (*source.columns, *extra)}

    def _int64(self, column: pa.ChunkedArray) -> Ints:
        """An Arrow column as int64; a column that a tool rewrote as text or floats is converted."""
        if not pa.types.is_int64(column.type):
            with self.guarded():
                column = pc.cast(column, pa.int64(), safe=False)
        return np.concatenate(
            [np.zeros(0, np.int64), *(np.from_dlpack(chunk) for chunk in column.chunks if len(chunk))]
        )


def _payload_sql(export: _Export) -> str:
    present = [f'"{name}"' for name in schema.PAYLOADS if export.has(schema.NVTX, name)]
    return f"coalesce({', '.join([*present, _NULL_SQL, _NULL_SQL])})"


_EXTRA: dict[str, Callable[[_Export], str]] = {"rowid": lambda _: "rowid", "payload": _payload_sql}


class _Names:
    """All strings of a report, each once, and the codes under which the columns hold them."""

    def __init__(self, export: _Export) -> None:
        self._codes: dict[str, int] = {"": 0}
        self._ids = self._of_id = np.zeros(0, np.int64)
        if export.has(schema.STRINGS, "id", "value"):
            rows = export.rows("SELECT id, CAST(value AS BLOB) FROM StringIds ORDER BY id")
            self._ids = np.array([row[0] for row in rows], np.int64)
            self._of_id = np.array([self.code(_text(row[1])) for row in rows], np.int64)

    def code(self, text: str) -> int:
        """The code of a string, new or known."""
        return self._codes.setdefault(text, len(self._codes))

    def of_ids(self, ids: Ints) -> Codes:
        """The codes of a column of StringIds; the empty string's where there is no such id."""
        used = distinct(ids)
        if not len(self._ids):
            return np.zeros(len(ids), np.int32)
        slot = np.minimum(np.searchsorted(self._ids, used), len(self._ids) - 1)
        code = np.where(self._ids[slot] == used, self._of_id[slot], 0)
        return code[np.searchsorted(used, ids)].astype(np.int32)

    def all(self) -> tuple[str, ...]:
        """The strings, in the order of their codes."""
        return tuple(self._codes)


def _text(raw: object) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw or "")


def _ranges(export: _Export, names: _Names) -> Ranges:
    where = f"WHERE eventType IN ({', '.join(map(str, schema.RANGE_TYPES))})"
    raw = export.integers(schema.RANGES, where, extra=("rowid", "payload"))
    duration = _duration(export)
    unclosed = (raw["end"] == NULL) | ((raw["end"] == duration) & (duration > 0))
    last = max(duration, _last_moment(export, raw)) if unclosed.any() else duration
    end = np.where(raw["end"] == NULL, last, raw["end"])
    domains = _domains(export, names)
    key = np.where(raw["domainId"] == NULL, 0, raw["domainId"])
    return Ranges(
        range_id=raw["rowid"],
        name=_range_names(export, names, raw["textId"], where),
        domain=_domain_codes(domains, process_of(raw["globalTid"]), key),
        style=np.isin(raw["eventType"], schema.START_END).astype(np.int64),
        thread=raw["globalTid"],
        end_thread=raw["endGlobalTid"],
        start=raw["start"],
        end=np.maximum(end, raw["start"]),
        payload=raw["payload"],
        truncated=unclosed,
    )


def _last_moment(export: _Export, ranges: Columns) -> int:
    """The last time that ranges and API calls tell, for a report that does not say how long it is."""
    times = (ranges["start"], ranges["end"], export.integers(schema.CALLS)["end"])
    return max((int(column.max()) for column in times if len(column)), default=0)


def _range_names(export: _Export, names: _Names, text_id: Ints, where: str) -> Codes:
    """Names of the ranges: their own text where they carry one, else the registered string."""
    code = names.of_ids(text_id)
    if not len(code) or not export.has(schema.NVTX, "text"):
        return code
    table = export.arrow(f"SELECT coalesce(CAST(text AS BLOB), x'') AS text FROM {schema.NVTX} {where}")
    text = table.column("text").combine_chunks().dictionary_encode()
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    values = text.dictionary.to_pylist()
    own = np.array([names.code(_text(value)) for value in values], np.int32)
    inline = own[np.from_dlpack(text.indices)]
    return np.where(inline != 0, inline, code).astype(np.int32)


def _domains(export: _Export, names: _Names) -> dict[tuple[int, int], int]:
    """Code of each domain's name by (process, domainId); the first row counts."""
    found: dict[tuple[int, int], int] = {}
    if not export.has(schema.NVTX, "eventType", "domainId", "globalTid"):
        return found
    text, text_id = (
        (f"CAST({name} AS BLOB)" if name == "text" else name) if export.has(schema.NVTX, name) else "NULL"
        for name in ("text", "textId")
    )
    rows = export.rows(
        f"SELECT globalTid, domainId, {text}, {text_id} FROM {schema.NVTX} WHERE eventType = ? ORDER BY rowid",
        (schema.DOMAIN_CREATED,),
    )
    for thread, domain, own, registered in rows:
        code = names.code(_text(own)) if own else int(names.of_ids(np.array([registered or NULL]))[0])
        found.setdefault((int(process_of(np.array([thread]))[0]), int(domain or 0)), code)
    return found


def _domain_codes(domains: dict[tuple[int, int], int], process: Ints, domain: Ints) -> Codes:
    code = np.zeros(len(domain), np.int32)  # the empty name, for a domain that has none
    for (of_process, number), name in domains.items():
        code[(process == of_process) & (domain == number)] = name
    return code


def _calls(export: _Export, names: _Names) -> Calls:
    raw = export.integers(schema.CALLS)
    raw = {name: column[_once(raw)] for name, column in raw.items()}
    return Calls(
        start=raw["start"],
        end=raw["end"],
        thread=raw["globalTid"],
        correlation=raw["correlationId"],
        name=names.of_ids(raw["nameId"]),
        result=raw["returnValue"],
    )


def _once(raw: Columns) -> Ints:
    """Rows of the API calls without the second row that some versions give one call (runtime in driver)."""
    process, correlation = process_of(raw["globalTid"]), raw["correlationId"]
    first = join_calls(process, correlation, process, correlation, raw["start"])
    return np.flatnonzero((first < 0) | (first == np.arange(len(first))))


def _kernels(export: _Export, names: _Names, calls: Calls) -> Kernels:
    raw, graphs = export.integers(schema.KERNELS), export.integers(schema.GRAPHS)
    count, replays = len(raw["start"]), len(graphs["start"])
    nothing = np.full(replays, NULL, np.int64)
    joined = {name: np.concatenate([raw[name], graphs.get(name, nothing)]) for name in raw}
    graph_name = np.full(replays, names.code(CUDA_GRAPH), np.int32)
    return Kernels(
        **_place(joined, calls),
        name=np.concatenate([names.of_ids(raw["demangledName"]), graph_name]),
        short_name=np.concatenate([names.of_ids(raw["shortName"]), graph_name]),
        graph_node=joined["graphNodeId"],
        grid=_packed(joined, "grid"),
        block=_packed(joined, "block"),
        registers=joined["registersPerThread"],
        shared_memory=_sum(joined["staticSharedMemory"], joined["dynamicSharedMemory"]),
        is_graph=np.arange(count + replays) >= count,
    )


def _packed(raw: Columns, what: str) -> Ints:
    return pack_dimensions(*(raw[f"{what}{axis}"] for axis in "XYZ"))


def _sum(one: Ints, other: Ints) -> Ints:
    """Sum of two columns; NULL where both are, a lone NULL counting as 0."""
    total = np.where(one == NULL, 0, one) + np.where(other == NULL, 0, other)
    return np.where((one == NULL) & (other == NULL), NULL, total)


def _memops(export: _Export, calls: Calls) -> MemOps:
    copies, sets = export.integers(schema.COPIES), export.integers(schema.SETS)
    count = len(sets["start"])
    sets = {
        **sets,
        "copyKind": np.full(count, -1),
        "srcKind": np.full(count, NULL),
        "dstKind": sets["memKind"],
    }
    raw = {name: np.concatenate([copies[name], sets[name]]) for name in copies}
    return MemOps(
        **_place(raw, calls),
        kind=raw["copyKind"],
        bytes=np.where(raw["bytes"] == NULL, 0, raw["bytes"]),
        source=raw["srcKind"],
        destination=raw["dstKind"],
        graph_node=raw["graphNodeId"],
    )


def _overheads(export: _Export) -> Overheads:
    raw = export.integers(schema.OVERHEADS)
    return Overheads(start=raw["start"], end=np.maximum(raw["end"], raw["start"]), thread=raw["globalTid"])


def _place(raw: Columns, calls: Calls) -> Columns:
    """When and where an operation ran; a process that the file does not name is the only one that called."""
    process = raw["globalPid"]
    callers = np.unique(process_of(distinct(calls.thread)))
    if len(callers) == 1:
        process = np.where(process == NULL, callers[0], process)
    return {
        "start": raw["start"],
        "end": raw["end"],
        "process": process,
        "correlation": raw["correlationId"],
        "device": raw["deviceId"],
        "context": raw["contextId"],
        "stream": raw["streamId"],
    }


def _report(export: _Export) -> Report:
    versions = _versions(export)
    system = _pairs(export, "TARGET_INFO_SYSTEM_ENV", ("NvDriverVersion", "CudaDriverVersion"))
    capture = _pairs(export, "META_DATA_CAPTURE", ("PROCESS_0:CUDA_GRAPH_TRACE_OPTIONS:MODE",))
    with export.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Report(
        file=export.path.name,
        sha256=digest,
        exporter=versions.get("EXPORT_PRODUCT_VERSION", ""),
        schema=versions.get("EXPORT_SCHEMA_VERSION", ""),
        driver=_driver(system.get("NvDriverVersion", "")),
        cuda_driver=system.get("CudaDriverVersion", ""),
        duration_ns=_duration(export),
        graph_mode=next(iter(capture.values()), "").lower(),
        gpus=_gpus(export),
        missing=tuple(table for table in schema.EXPECTED if table not in export.columns),
        diagnostics=_diagnostics(export),
    )


def _driver(version: str) -> str:
    """The driver's version with its dots, which older exporters leave out (52510517); empty for none (0)."""
    if version == "0":
        return ""
    return f"{version[:3]}.{version[3:6]}.{version[6:]}" if len(version) == 8 and version.isdigit() else version


def _versions(export: _Export) -> dict[str, str]:
    for table in schema.VERSION_TABLES:
        if export.has(table, "name", "value"):
            return {str(name): str(value) for name, value in export.rows(f"SELECT name, value FROM {table}")}
    return {}


def _pairs(export: _Export, table: str, wanted: tuple[str, ...]) -> dict[str, str]:
    """The values of a few named rows, and of no others: these tables hold the whole environment."""
    if not export.has(table, "name", "value"):
        return {}
    marks = ", ".join("?" for _ in wanted)
    rows = export.rows(f"SELECT name, value FROM {table} WHERE name IN ({marks})", wanted)
    return {str(name): str(value) for name, value in rows}


def _duration(export: _Export) -> int:
    """Length of the capture; Nsight gives ranges that were never closed this very time as their end."""
    if not export.has("ANALYSIS_DETAILS", "duration"):
        return 0
    rows = export.rows("SELECT max(CAST(duration AS INTEGER)) FROM ANALYSIS_DETAILS")
    return int(rows[0][0] or 0)


_GPU_COLUMNS = (
    "name", "cuDevice", "computeMajor", "computeMinor", "smCount", "clockRate", "memoryBandwidth", "totalMemory",
)  # fmt: skip


def _gpus(export: _Export) -> tuple[Gpu, ...]:
    """The CUDA devices; the table also lists adapters that are none, some of them as device 0."""
    if not export.has("TARGET_INFO_GPU", "cuDevice", "computeMajor"):
        return ()
    chosen = ", ".join(
        (name if name == "name" else f"CAST({name} AS INTEGER)") if export.has("TARGET_INFO_GPU", name) else "NULL"
        for name in _GPU_COLUMNS
    )
    rows = export.rows(f"SELECT {chosen} FROM TARGET_INFO_GPU WHERE computeMajor > 0 ORDER BY cuDevice")
    return tuple(
        Gpu(int(device or 0), str(name or ""), f"{major}.{minor or 0}", int(sms or 0), int(clock or 0),
            int(bandwidth or 0), int(memory or 0))
        for name, device, major, minor, sms, clock, bandwidth, memory in rows
    )  # fmt: skip


#: What Nsight says of a capture that explains missing data; the rest of its diagnostics is noise.
_TELLING = re.compile(r"not supported|could not|lost|dropped", re.IGNORECASE)
_PATH = re.compile(r"(?<!\w)/[\w.+-]+(?:/[\w.+-]*)+")


def _diagnostics(export: _Export) -> tuple[str, ...]:
    """Nsight's own warnings that explain missing data, without the paths in them."""
    if not export.has("DIAGNOSTIC_EVENT", "severity", "text"):
        return ()
    rows = export.rows("SELECT DISTINCT text FROM DIAGNOSTIC_EVENT WHERE severity IN (2, 3) AND text IS NOT NULL")
    lines = [_text(text).partition("\n")[0].strip() for (text,) in rows]
    return tuple(_PATH.sub("<path>", line) for line in lines if _TELLING.search(line))
