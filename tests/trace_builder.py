"""Small reports with known truth: SQLite files such as ``nsys export`` writes, made without nsys and without a GPU.

::

    report = TraceBuilder("2023.4.4")
    report.range("prefill", 0, 100, payload=5)
    report.kernel("gemm", at=(120, 150), call=(10, 20))       # the API row, the kernel row, their correlationId
    path = report.write(tmp_path / "made.sqlite")

The tables and columns are those of a real version, from ``schemas/<version>.json``; NOT NULL columns that
nobody sets hold 0 or an empty text. Times are nanoseconds, an interval is ``(start, end)``.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

_SCHEMAS = Path(__file__).parent / "schemas"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


#: The nsys versions whose schema is known, oldest first.
VERSIONS = tuple(sorted((path.stem for path in _SCHEMAS.glob("*.json")), key=_number))

#: NVTX_EVENTS.eventType
CATEGORY, MARK, THREAD_NAME, PUSH_POP, START_END, DOMAIN_CREATED, DOMAIN_DESTROYED = 33, 34, 39, 59, 60, 75, 76
#: The same ranges from a text log.
TEXT_PUSH_POP, TEXT_START_END = 70, 71

NVTX = "NVTX_EVENTS"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"
MEMCPY = "CUPTI_ACTIVITY_KIND_MEMCPY"
MEMSET = "CUPTI_ACTIVITY_KIND_MEMSET"
GRAPH_TRACE = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
GRAPH_NODES, GRAPH_EVENTS = "CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS"
LAUNCH, GRAPH_LAUNCH = "cudaLaunchKernel_v7000", "cudaGraphLaunch_v10000"
#: Process, and thread, of whatever does not say its own.
PID = 100

#: Copy kinds by their short names, with the memory kinds of source and destination (0 pageable, 2 device).
_COPIES = {"HtoD": (1, 0, 2), "DtoH": (2, 2, 0), "DtoD": (8, 2, 2)}

Interval = tuple[int, int]
Text = str | bytes  # bytes are stored as they are, UTF-8 or not
Row = dict[str, Any]


def global_pid(pid: int) -> int:
    """Nsight's ``globalPid``."""
    return 1 << 48 | pid << 24


def global_tid(pid: int, tid: int | None = None) -> int:
    """Nsight's ``globalTid``; the main thread unless `tid` says otherwise."""
    return global_pid(pid) | (pid if tid is None else tid)


@dataclass(frozen=True)
class Schema:
    """What an export of one nsys version looks like."""

    version: str
    lazy: bool
    tables: dict[str, list[tuple[str, str, bool]]]  # by table: name, SQLite type and NOT NULL of each column
    enums: dict[str, dict[str, tuple[str, str]]]
    meta: dict[str, dict[str, str]]

    @staticmethod
    @cache
    def load(version: str) -> Schema:
        """The schema of `version`, one of `VERSIONS`."""
        written = json.loads((_SCHEMAS / f"{version}.json").read_text(encoding="utf-8"))
        return Schema(**{field.name: written[field.name] for field in fields(Schema)})

    def columns(self, table: str) -> list[str]:
        """The columns of `table`, in order; none where the version has no such table."""
        return [name for name, _, _ in self.tables.get(table, [])]


class Where(TypedDict, total=False):
    """Who launched a GPU operation and where it ran; see `TraceBuilder.kernel` for what is assumed."""

    pid: int
    tid: int | None
    device: int
    context: int
    stream: int
    correlation: int | None
    node: int | None
    api: str


class TraceBuilder:
    """A report under construction; every method but `write` returns the builder itself.

    `version`: one of `VERSIONS`. `lazy`: leave out tables without rows, as that nsys does unless told.
    `duration`: of the capture; a microsecond longer than what is in it unless given.
    """

    def __init__(self, version: str = VERSIONS[-1], *, lazy: bool | None = None, duration: int | None = None) -> None:
        self.schema = Schema.load(version)
        self.lazy = self.schema.lazy if lazy is None else lazy
        self.duration = duration
        self._rows: dict[str, list[Row]] = defaultdict(list)
        self._strings: dict[Text, int] = {}
        self._domains: dict[tuple[int, str], int] = {}
        self._correlations: dict[int, int] = {}
        self._left_out: dict[str, tuple[str, ...]] = {}
        self._statements: list[tuple[str, tuple[object, ...]]] = []

    # -- NVTX -------------------------------------------------------------------------------------------

    def range(
        self, name: Text, start: int, end: int | None, *, payload: int | None = None, domain: str | int = "",
        pid: int = PID, tid: int | None = None, end_tid: int | None = None, kind: int = PUSH_POP,
        registered: bool = True,
    ) -> Self:  # fmt: skip
        """A range, or with `kind` another NVTX event; `end` may be None.

        `domain`: by name, created when it is first used in the process, or by a number that nothing names.
        `end_tid`: the thread that ended a `START_END` range, where it is another. `registered`: the name is
        a registered string, as Python's package makes them, or stands in the row itself, as C's are.
        """
        text = {"textId": self.string(name)} if registered else {"text": name}
        return self.row(
            NVTX, start=start, end=end, eventType=kind, globalTid=global_tid(pid, tid), int64Value=payload,
            domainId=self._domain_id(domain, start, pid, tid),
            endGlobalTid=None if end_tid is None else global_tid(pid, end_tid),
            rangeId=len(self._rows[NVTX]) + 1 if kind == START_END else None, **text,
        )  # fmt: skip

    def domain(self, name: str, *, at: int = 0, pid: int = PID, tid: int | None = None) -> Self:
        """The row that names a domain of a process; a second one names it again."""
        number = self._domains.setdefault((pid, name), 1 + sum(of == pid for of, _ in self._domains))
        thread = global_tid(pid, tid)
        return self.row(NVTX, start=at, eventType=DOMAIN_CREATED, globalTid=thread, text=name, domainId=number)

    def _domain_id(self, domain: str | int, at: int, pid: int, tid: int | None) -> int:
        if not isinstance(domain, str):
            return domain
        if domain and (pid, domain) not in self._domains:
            self.domain(domain, at=at, pid=pid, tid=tid)
        return self._domains.get((pid, domain), 0)

    # -- CUDA -------------------------------------------------------------------------------------------

    def api(
        self, name: str = LAUNCH, *, call: Interval, pid: int = PID, tid: int | None = None,
        correlation: int | None = None, result: int = 0,
    ) -> Self:  # fmt: skip
        """A CUDA API call and nothing on the GPU; `correlation` is the process's next unless given."""
        return self.row(
            RUNTIME, start=call[0], end=call[1], globalTid=global_tid(pid, tid), nameId=self.string(name),
            correlationId=self._correlation(pid, correlation), returnValue=result,
            eventClass=int(name.startswith("cu") and not name.startswith("cuda")),
        )  # fmt: skip

    def kernel(
        self, name: Text = "kernel", *, at: Interval, call: Interval | None = None, **where: Unpack[Where]
    ) -> Self:
        """A kernel that ran `at`, and the API call that launched it; no `call`: none is in the report.

        Unless `where` says otherwise: process 100, its main thread, device 0, context 1, stream 7, the
        process's next correlationId, no graph node, launched by ``cudaLaunchKernel``.
        """
        short = name if isinstance(name, bytes) else name.split("(")[0].split("<")[0].split("::")[-1]
        return self._operation(
            KERNEL, at, call, where,
            demangledName=self.string(name), shortName=self.string(short), mangledName=self.string(name),
            launchType=1, cacheConfig=1, registersPerThread=32, gridX=4, gridY=2, gridZ=1, blockX=128, blockY=1,
            blockZ=1, staticSharedMemory=0, dynamicSharedMemory=1024, gridId=len(self._rows[KERNEL]) + 1,
        )  # fmt: skip

    def copy(
        self, kind: str = "HtoD", size: int = 1024, *, at: Interval, call: Interval | None = None,
        **where: Unpack[Where],
    ) -> Self:  # fmt: skip
        """A memory copy of `size` bytes; `kind` is HtoD, DtoH or DtoD, the rest as in `kernel`."""
        number, source, destination = _COPIES[kind]
        where.setdefault("api", "cudaMemcpyAsync_v3020")
        return self._operation(
            MEMCPY, at, call, where, bytes=size, copyKind=number, srcKind=source, dstKind=destination
        )

    def set(self, size: int = 1024, *, at: Interval, call: Interval | None = None, **where: Unpack[Where]) -> Self:
        """A memory set of `size` bytes of the device; the rest as in `kernel`."""
        where.setdefault("api", "cudaMemsetAsync_v3020")
        return self._operation(MEMSET, at, call, where, bytes=size, value=0, memKind=2)

    def graph(
        self, *nodes: tuple[str, int, int], call: Interval, at: Interval | None = None, **where: Unpack[Where]
    ) -> Self:
        """A CUDA graph launch: of the kernels `nodes` (name, start, end), or traced as a whole, `at`."""
        pid, tid, number = where.get("pid", PID), where.get("tid"), where.get("correlation")
        number = where["correlation"] = self._correlation(pid, number)
        self.api(where.get("api", GRAPH_LAUNCH), call=call, pid=pid, tid=tid, correlation=number)
        if at is not None:
            self._operation(GRAPH_TRACE, at, None, where, graphId=1, graphExecId=2)
        for node, (name, start, end) in enumerate(nodes, start=1):
            where["node"] = node
            self.kernel(name, at=(start, end), **where)
        return self

    def node(
        self, number: int | None, *, at: int | None, original: int | None = None, pid: int = PID, tid: int | None = None
    ) -> Self:
        """A node of a CUDA graph as it is made; `original`: of which node it is a copy, as instantiated graphs have.

        In the table of nodes, which older versions call that of graphs.
        """
        table = GRAPH_NODES if GRAPH_NODES in self.schema.tables else GRAPH_EVENTS
        name = self.string("Graph Node Creation")
        return self.row(table, start=at, end=at, eventClass=77, globalTid=global_tid(pid, tid), nameId=name,
                        graphNodeId=number, originalGraphNodeId=original)  # fmt: skip

    def _operation(self, table: str, at: Interval, call: Interval | None, where: Where, **columns: Any) -> Self:
        pid, node = where.get("pid", PID), where.get("node")
        number = self._correlation(pid, where.get("correlation"))
        if call is not None:
            api = where.get("api", LAUNCH)
            self.api(api, call=call, pid=pid, tid=where.get("tid"), correlation=number)
        return self.row(
            table, start=at[0], end=at[1], globalPid=global_pid(pid), correlationId=number,
            deviceId=where.get("device", 0), contextId=where.get("context", 1), streamId=where.get("stream", 7),
            **({} if node is None else {"graphNodeId": node}), **columns,
        )  # fmt: skip

    def _correlation(self, pid: int, number: int | None) -> int:
        last = self._correlations.get(pid, 0)
        number = last + 1 if number is None else number
        self._correlations[pid] = max(last, number)
        return number

    # -- the machine ------------------------------------------------------------------------------------

    def gpu(
        self, name: str = "NVIDIA H200", *, device: int | None = 0, compute: tuple[int, int] | None = (9, 0)
    ) -> Self:
        """A graphics adapter of the machine; `compute` is None for one that is no CUDA device."""
        rates = {"smCount": 132, "clockRate": 1_980_000_000, "memoryBandwidth": 4_917_120_000_000}
        known = {**rates, "computeMajor": compute[0], "computeMinor": compute[1]} if compute else {}
        return self.row("TARGET_INFO_GPU", id=len(self._rows["TARGET_INFO_GPU"]), name=name, cuDevice=device,
                        totalMemory=150_754_820_096, **known)  # fmt: skip

    def diagnostic(self, text: Text, *, severity: int = 3) -> Self:
        """A message of nsys itself; severity 3 is an error, 2 a warning, 1 information."""
        return self.row("DIAGNOSTIC_EVENT", timestamp=0, timestampType=1, source=2, severity=severity, text=text)

    # -- anything else ----------------------------------------------------------------------------------

    def string(self, text: Text) -> int:
        """The id of a text in StringIds, where each stands once."""
        return self._strings.setdefault(text, len(self._strings) + 1)

    def row(self, table: str, **values: Any) -> Self:
        """A row of any table. Raises `ValueError` for a table or a column that this version does not have."""
        known = self.schema.columns(table)
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ValueError(f"nsys {self.schema.version} writes no {table}.{unknown[0]}")
        self._rows[table].append(values)
        return self

    def without(self, table: str, *columns: str) -> Self:
        """Leave out columns of a table, with what was put in them; the whole table where none is named."""
        self._left_out[table] = columns
        return self

    def sql(self, statement: str, *parameters: object) -> Self:
        """A statement that is run when the file is otherwise complete."""
        self._statements.append((statement, parameters))
        return self

    # -- the file ---------------------------------------------------------------------------------------

    def write(self, path: Path) -> Path:
        """Write the report to `path`, over what may be there, and return `path`."""
        path.unlink(missing_ok=True)
        rows = self._session()
        for table, own in self._rows.items():
            rows[table] = [*rows.get(table, []), *own]
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute("BEGIN")
            for table, columns in self._tables():
                if rows.get(table) or not self.lazy:
                    _create(database, table, columns)
                    _insert(database, table, columns, rows.get(table, []))
            for statement, parameters in self._statements:
                database.execute(statement, parameters)
            database.execute("COMMIT")
        return path

    def _tables(self) -> Iterator[tuple[str, list[tuple[str, str, bool]]]]:
        for table, columns in self.schema.tables.items():
            left_out = self._left_out.get(table)
            if left_out is None or left_out:
                yield table, [column for column in columns if column[0] not in (left_out or ())]

    def _session(self) -> dict[str, list[Row]]:
        """What every report says of itself: versions, enumerations, processes, threads, duration."""
        threads = sorted({row["globalTid"] for table in (NVTX, RUNTIME) for row in self._rows[table]})
        pids = sorted({thread >> 24 & 0xFFFFFF for thread in threads})
        main = self.string("python")
        duration = self.duration
        if duration is None:
            duration = 1000 + max(
                (time for own in self._rows.values() for row in own for time in _times(row)), default=0
            )
        rows: dict[str, list[Row]] = {
            "PROCESSES": [{"globalPid": global_pid(pid), "pid": pid, "name": "python"} for pid in pids],
            "ThreadNames": [{"nameId": main, "priority": 20, "globalTid": thread} for thread in threads],
            "ANALYSIS_DETAILS": [
                {"globalVid": 1 << 48, "duration": duration, "startTime": 1000, "stopTime": 1000 + duration}
            ],
            "TARGET_INFO_SESSION_START_TIME": [{"utcEpochNs": 0, "utcTime": "1970-01-01", "localTime": "1970-01-01"}],
            "StringIds": [{"id": number, "value": text} for text, number in self._strings.items()],
        }
        for table, pairs in self.schema.meta.items():
            rows[table] = [{"name": name, "value": value} for name, value in pairs.items()]
        for table, entries in self.schema.enums.items():
            rows[table] = [
                {"id": int(number), "name": name, "label": label} for number, (name, label) in entries.items()
            ]
        return rows


def _times(row: Row) -> list[int]:
    return [row[name] for name in ("start", "end") if row.get(name) is not None]


def _create(database: sqlite3.Connection, table: str, columns: list[tuple[str, str, bool]]) -> None:
    keyed = table == "StringIds" or table.startswith("ENUM_")
    declared = ", ".join(
        f'"{name}" {kind}{" NOT NULL" if needed else ""}{" PRIMARY KEY" if keyed and name == "id" else ""}'
        for name, kind, needed in columns
    )
    database.execute(f'CREATE TABLE "{table}" ({declared})')


def _insert(database: sqlite3.Connection, table: str, columns: list[tuple[str, str, bool]], rows: list[Row]) -> None:
    for row in rows:
        values = [_value(row.get(name), kind, needed) for name, kind, needed in columns]
        marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, bytes) else "?" for value in values)
        database.execute(f'INSERT INTO "{table}" VALUES ({marks})', values)


def _value(value: Any, kind: str, needed: bool) -> Any:
    if value is None and needed:
        return "" if kind == "TEXT" else 0
    return value
