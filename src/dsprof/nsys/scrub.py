"""`scrub`: a copy of an export that can be passed on. Who, where and with which secrets goes; every event stays.

A report holds the whole environment of the profiled process and often that of its neighbours, the processes
of the machine, user, host, folders, command lines. The copy is a fresh database, so no freed page keeps old
bytes, and every table is in one of four classes:

- event tables, and what explains them (enumerations, call chains, metrics): all rows, all numbers as they were;
- tables that describe machine and capture: only rows that stand on a list of harmless names;
- processes and threads: those that have events, by the base name of the program;
- output of the program, network devices, descriptions that nobody here knows: emptied.

Texts that stay are cleaned by what they are. Names of kernels and API calls lose only secrets, so they stay
exact but for a freak; NVTX texts lose secrets, user and host names; modules keep their base name; in all other
texts paths become ``<path>``. The GPUs' UUIDs go, since each is one card in the world; their bus addresses stay:
they tell equal cards apart and are the same on every machine of a kind.
"""

from __future__ import annotations

import mmap
import os
import platform
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from enum import IntEnum
from pathlib import Path
from urllib.parse import quote

from dsprof.errors import (
    NotAReport,
    NvprofDatabase,
    ReportEmpty,
    ReportMissing,
    ScrubFailed,
    ScrubRefused,
)
from dsprof.ground.command_lines import without
from dsprof.ground.environment import certain_places_in
from dsprof.ground.leftovers import clear_leftovers, own_folder
from dsprof.nsys import schema
from dsprof.nsys.clean import (
    CAPTURE,
    STREAMS,
    Table,
    commands_in,
    decoded,
    quoted,
    tables_of,
)  # fmt: skip
from dsprof.nsys.export import Export
from dsprof.nsys.sought import DISTINCTIVE, HOSTS, PATH, USERS, Sought, is_environment, variables_in
from dsprof.nsys.sound import SQLITE, check_file, damaged, refuse_cut, refuse_unfinished, uri_of
from dsprof.records import frozen


@frozen
class ScrubReport:
    """What `scrub` did.

    `kept`: rows by table, of the tables that are whole. `removed`: rows that went, by table. `found`: in how
    many places of texts that stay something was taken out, by what it was ("the value of API_TOKEN", "a user
    name"); each different text counts once, and paths that were shortened do not count. `sought`: how many
    secrets and names were looked for.
    """

    source: Path
    target: Path
    kept: dict[str, int]
    removed: dict[str, int]
    found: dict[str, int]
    sought: int


def scrub(source: Path, target: Path, *, force: bool = False) -> ScrubReport:
    """Write to `target` a copy of the SQLite export `source` that can be passed on; it is there whole or not at all.

    Raises `ScrubRefused` (no SQLite export, or `target` exists and `force` is not set), `ScrubFailed` (disk
    full, or the check found something), and `ReportMissing`, `ReportEmpty`, `NotAReport`, `NvprofDatabase`,
    `ReportDamaged` for what cannot be read.
    """
    _refuse_source(source)
    _refuse_target(source, target, force)
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(_folder_beside(target))
        except OSError as error:
            raise _unwritable(target, error) from error
        partial = folder / "scrubbed.sqlite"
        with _guarded(source), closing(_open(source, partial)) as database:
            work = _Scrub(database, source, target)
            report = work.run()
        _check_bytes(source, partial, work.sought.anywhere)
        _put(partial, target)
    return report


def _put(partial: Path, target: Path) -> None:
    try:
        partial.replace(target)
    except OSError as error:  # a name that is too long for a file, not for the folder with its beginning
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError) -> ScrubRefused:
    return ScrubRefused(f"{target} cannot be written ({error.strerror}).", "Name another file with -o.")


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A folder beside the target, without those that killed runs left. Raises OSError."""
    prefix = f".{target.name[:80]}.scrubbing-"
    clear_leftovers(prefix, target.parent)
    with own_folder(prefix, target.parent) as folder:
        yield folder


# -- what is refused --------------------------------------------------------------------------------------

_PACKED = {b"\xfd7zXZ": "xz -dk", b"\x1f\x8b": "gzip -dk"}


def _refuse_source(source: Path) -> None:
    if not os.path.isfile(source):  # noqa: PTH113  Path raises for a name that is too long
        raise ReportMissing(f"There is no file {source}.", "Name the .sqlite export of a report.")
    try:
        with source.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ReportMissing(f"{source} cannot be read ({error.strerror}).", "See who may read it.") from error
    if not head:
        raise ReportEmpty(f"{source.name} is empty.", "Export the report again.")
    unpack = next((command for magic, command in _PACKED.items() if head.startswith(magic)), "")
    if unpack:
        raise ScrubRefused(f"{source.name} is packed.", f"Unpack it first: `{unpack} {source.name}`.")
    if not head.startswith(SQLITE):
        if source.suffix in (".nsys-rep", ".qdrep") or b"NVIDIA Tegra" in head:
            raise ScrubRefused(
                f"{source.name} is a report, which only NVIDIA's tools can write: it cannot be cleaned.",
                f"Export it (`nsys export --type=sqlite {source.name}`), scrub the .sqlite, and pass on only that.",
            )
        raise NotAReport(f"{source.name} is no SQLite export of Nsight Systems.", "Name the .sqlite file.")
    refuse_cut(source, source.name)
    refuse_unfinished(source, source.name)
    check_file(source, source.name)
    with Export(source) as export:  # what analyze does not read is not to be passed on for read
        export.sniff()


def _refuse_target(source: Path, target: Path, force: bool) -> None:
    there = os.path.lexists(target)  # Path raises for a name that is too long
    if there and target.is_dir():
        raise ScrubRefused(f"{target} is a folder.", "Name a file with -o.")
    if there and target.exists() and not target.is_file():
        raise ScrubRefused(f"{target} is a pipe or a device, which is not replaced.", "Name a file with -o.")
    if there and target.exists() and target.samefile(source):
        raise ScrubRefused("The copy would overwrite the report it is made from.", "Name another file with -o.")
    if there and not force:
        raise ScrubRefused(f"{target} exists.", "Name another file, or overwrite it with --force.")


@contextmanager
def _guarded(source: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ScrubFailed(
            f"The cleaned copy of {source.name} could not be written ({error}).", "See whether the disk has room."
        ) from error
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise damaged(source.name, error) from error


def _open(source: Path, partial: Path) -> sqlite3.Connection:
    """The new database, with the old one attached as ``old``, read-only; texts are bytes, UTF-8 or not."""
    database = sqlite3.connect(f"file:{quote(os.fsencode(partial))}", uri=True, isolation_level=None)
    database.text_factory = bytes
    database.execute("PRAGMA journal_mode = OFF")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA temp_store = MEMORY")
    database.create_function("allowed", 3, _allowed, deterministic=True)
    database.create_function("program", 1, _program, deterministic=True)
    database.execute("ATTACH ? AS old", (uri_of(source),))
    return database


# -- tables and columns -----------------------------------------------------------------------------------


class Role(IntEnum):
    """What a text is, and so what may stay of it; where a string has several roles, the first counts."""

    CODE = 0  # names of kernels and API calls
    TEXT = 1  # what the program said through NVTX
    MODULE = 2  # files of which the base name is enough
    OTHER = 3  # anything else


def _create(table: Table) -> str:
    """The table's declaration, without comments, defaults and constraints but NOT NULL and the key."""
    keys = [name for name, _, _, place in sorted(table.columns, key=lambda column: column[3]) if place]
    parts = [
        f"{quoted(name)} {kind}{' NOT NULL' if needed else ''}{' PRIMARY KEY' if place and len(keys) == 1 else ''}"
        for name, kind, needed, place in table.columns
    ]
    if len(keys) > 1:
        parts.append(f"PRIMARY KEY ({', '.join(map(quoted, keys))})")
    return f"CREATE TABLE main.{quoted(table.name)} ({', '.join(parts)})"


def _role_of(table: Table, column: str) -> Role:
    """What the texts of a column are, or the strings whose ids it holds."""
    if column in _KERNEL_NAMES or table.name.startswith(("ENUM_", "TARGET_INFO_GPU")):
        return Role.CODE
    if column == "nameId" and table.name.startswith(_API_TABLES):
        return Role.CODE
    if column in _NVTX_TEXTS and table.name.startswith((schema.NVTX, "TARGET_INFO_NVTX")):
        return Role.TEXT
    return Role.MODULE if column in ("module", "srcFile") else Role.OTHER


_KERNEL_NAMES = ("demangledName", "shortName", "mangledName", "kernelName")
_NVTX_TEXTS = ("text", "textId", "jsonText", "jsonTextId", "binaryData", "name")
_API_TABLES = ("CUPTI_", "CUDA_", "CUBLAS_", "CUDNN_", "MPI_", "NCCL_", "OPENMP_")
#: Rows that describe the machine and say nothing of whose it is.
_SYSTEM_ROWS = frozenset(
    ("NvDriverVersion", "CudaDriverVersion", "CpuArchitecture", "HardwarePlatform", "SoftwarePlatform", "OsDescription",
     "CpuCores", "CpuDescription", "CpuSpeedMhz")
)  # fmt: skip
#: Rows that say how the capture was made; their values are plain words (`_PLAIN`).
_CAPTURE_ROWS = re.compile(
    r"CAPTURE_EVENT_TYPE|RATE_HZ|(?:START|STOP)_TRIGGER|START_DELAY_MS|RUN_DURATION_\w+|INCLUDE_CHILDREN|DEVICE_TYPE"
    r"|(?:POWER_RATE|THREAD_STATE)_SCAN_FREQ|SAMPLE_ALL_TASKS|TRACE_\w+|USE_\w+|SHOW_BACKTRACE|COLLECT_\w+"
    r"|OS_RUNTIME_OPTIONS:[A-Z_]+|PYTHON_BACKTRACE_SAMPLING_OPTIONS:[A-Z_]+|SYMBOL_RESOLUTION_OPTIONS:RESOLVE_SYMBOLS"
    r"|PROCESS_\d+:(?:COLLECT_\w+|CUDA_\w+(?::\w+)?|HOW_TO_ATTACH|LAUNCH_AS_ROOT)"
)
_PLAIN = re.compile(r"[A-Za-z0-9 ,.-]{0,64}")
#: Rows that say what made the export.
_EXPORT_ROWS = re.compile(
    r"EXPORT_(?:PRODUCT|SCHEMA)_\w+|EXPORT_(?:PLATFORM|ARCH|TIME|TIME_UTC|LAZY|OVERWRITE|CONFIG_TIME_SHIFT)"
    r"|EXPORT_PARAM_(?:OVERWRITE|APPEND|LAZY|TIME_NORMALIZE|TIME_SHIFT)"
)
_PROCESSES, _THREADS = "PROCESSES", "ThreadNames"
#: Emptied: output and files of the program, network devices and their addresses.
_EMPTIED = frozenset(
    (STREAMS, "ANALYSIS_FILE", "TARGET_INFO_NIC_INFO", "NIC_ID_MAP", "NET_IB_DEVICE_INFO", "NET_IB_DEVICE_PORT_INFO",
     "NET_IB_DEVICE_TYPE_MAP")
)  # fmt: skip
#: Kept although no column tells a time: they explain events.
_EXPLAINING = re.compile(
    r"ENUM_\w+|\w+_CALLCHAINS|StringIds|UnwindMethodType|ANALYSIS_DETAILS|TARGET_INFO_(?:SESSION_START_TIME|GPU|CUDA_\w+"
    r"|NVTX_\w+|GPU_METRICS|NETWORK_METRICS|PERF_METRIC|XMC_SPEC|PROCESS|WDDM_CONTEXTS)|PMU_\w+|UNCORE_PMU_\w+|MPI_\w+|UCP_\w+"
    r"|ETW_\w+|GENERIC_EVENT_\w+|VULKAN_\w+|DX12_\w+|CUPTI_\w+"
)
_MOMENTS = frozenset(("start", "timestamp", "rawTimestamp"))
#: Columns that are NULL or empty in the copy.
_BLANK = {
    "TARGET_INFO_GPU": ("uuid", "ctxswDevPath", "ctrlDevPath"),
    "TARGET_INFO_SESSION_START_TIME": ("localTime",),
    schema.SYSTEM: ("devStateName",),
}
#: Having rows here does not make a process one of the capture: they list what ran on the machine.
_NO_EVENTS = frozenset((_PROCESSES, _THREADS, STREAMS, "ANALYSIS_FILE", "DIAGNOSTIC_EVENT", "SCHED_EVENTS"))


# -- cleaning ---------------------------------------------------------------------------------------------

#: So many cleaned texts are remembered; a report can hold millions of different ones.
_KNOWN_TEXTS = 100_000


def _cleaner(sought: Sought) -> Callable[[int, bytes], bytes]:
    """A function that cleans a text by its role, and counts what it found."""
    secrets, everything = sought.remover(words=False), sought.remover(words=True)
    known: dict[tuple[int, bytes], bytes] = {}

    def clean(role: int, text: bytes) -> bytes:
        if len(known) > _KNOWN_TEXTS:
            known.clear()
        if (role, text) not in known:
            removed = secrets if role == Role.CODE else everything
            known[role, text] = _without_paths(role, _without_tokens(role, removed(text)))
        return known[role, text]

    return clean


def _without_tokens(role: int, text: bytes) -> bytes:
    """A text without known kinds of token and passwords in URLs; names of code hold none, and stay exact."""
    if role == Role.CODE:
        return text
    known = text.decode("utf-8", "surrogateescape")
    return without(known, certain_places_in(known)).encode("utf-8", "surrogateescape")


_FOLDERS = re.compile(rb"(?<!\w)(?:~|\.\.?)?/[\w.+@~-]+(?:/[\w.+@~-]*)+|\b[A-Za-z]:\\[^\s\"'<>|]+")


def _without_paths(role: int, text: bytes) -> bytes:
    if role in (Role.CODE, Role.TEXT):
        return text
    if role == Role.MODULE:
        return re.split(rb"[/\\]", text)[-1]
    return _FOLDERS.sub(PATH, text)


# -- the work ---------------------------------------------------------------------------------------------


class _Scrub:
    """One run, on a connection whose main database is the copy and whose ``old`` one is the report."""

    def __init__(self, database: sqlite3.Connection, source: Path, target: Path) -> None:
        self.db, self.source, self.target = database, source, target
        self.tables = tables_of(database, "old")
        self.sought = Sought()
        self.kept: dict[str, int] = {}
        self.removed: dict[str, int] = {}

    def run(self) -> ScrubReport:
        """Clean into the main database, and check what came out."""
        self._refuse_strangers()
        self.db.execute("BEGIN")
        self._find_participants()
        self._find_roles()
        self._collect()
        self.db.create_function("cleaned", 2, _cleaner(self.sought), deterministic=True)
        for table in self.tables:
            self._copy(table)
        for table in self.tables:
            self._check(table)
        self.db.execute("COMMIT")
        return ScrubReport(self.source, self.target, self.kept, self.removed, dict(self.sought.found), len(self.sought))

    def _refuse_strangers(self) -> None:
        names = {table.name for table in self.tables}
        if "StringTable" in names and schema.STRINGS not in names:
            raise NvprofDatabase(f"{self.source.name} is an nvprof database.", "Nothing here can clean those.")
        if names.isdisjoint((schema.STRINGS, schema.NVTX, schema.RUNTIME, schema.KERNEL, *schema.VERSION_TABLES)):
            raise NotAReport(f"{self.source.name} is no export of Nsight Systems.", "Name the .sqlite export.")

    def _rows(self, query: str, *parameters: object) -> list[tuple[object, ...]]:
        return self.db.execute(query, parameters).fetchall()

    def _count(self, query: str) -> int:
        return int(self.db.execute(query).fetchone()[0])

    # -- what stays

    def _find_participants(self) -> None:
        """Threads and processes that have events, into two temporary tables."""
        self.db.execute("CREATE TEMP TABLE tids (id INTEGER PRIMARY KEY)")
        self.db.execute("CREATE TEMP TABLE pids (id INTEGER PRIMARY KEY)")
        for table in self.tables:
            if table.name in _NO_EVENTS or table.name.startswith("TARGET_INFO_"):
                continue
            for column, into in (("globalTid", "tids"), ("endGlobalTid", "tids"), ("globalPid", "pids")):
                if column in table.names:
                    self.db.execute(
                        f"INSERT OR IGNORE INTO {into} SELECT DISTINCT CAST({column} AS INTEGER) "
                        f"FROM old.{quoted(table.name)} WHERE {column} IS NOT NULL"
                    )
        self.db.execute("INSERT OR IGNORE INTO pids SELECT id & ~0xFFFFFF FROM tids")

    def _find_roles(self) -> None:
        """For each string that a row which stays refers to, its role; the others have none and go blank."""
        self.db.execute("CREATE TEMP TABLE roles (id INTEGER PRIMARY KEY, role INTEGER NOT NULL)")
        for table in self.tables:
            if table.name == schema.STRINGS or self._is_emptied(table):
                continue
            for column in sorted(table.references):
                name, role = quoted(column), int(_role_of(table, column))
                self.db.execute(
                    f"INSERT INTO roles SELECT DISTINCT CAST({name} AS INTEGER), {role} "
                    f"FROM old.{quoted(table.name)} WHERE {name} IS NOT NULL AND {_where(table)} "
                    "ON CONFLICT (id) DO UPDATE SET role = min(role, excluded.role)"
                )

    def _is_emptied(self, table: Table) -> bool:
        """Is the table one whose rows all go? So are those that nobody here knows, tell no time and hold text."""
        if table.name in _EMPTIED:
            return True
        listed = table.name in (schema.SYSTEM, CAPTURE, _PROCESSES, _THREADS, *schema.VERSION_TABLES)
        if listed or _EXPLAINING.fullmatch(table.name) or _MOMENTS & set(table.names):
            return False
        text = " OR ".join(f"typeof({quoted(name)}) IN ('text', 'blob')" for name in table.names)
        return bool(self._rows(f"SELECT 1 FROM old.{quoted(table.name)} WHERE {text} LIMIT 1"))

    # -- what is looked for

    def _collect(self) -> None:
        """Learn from everything that goes, and from our own environment, what must not stand in anything that stays."""
        self._collect_own()
        for table in self.tables:
            if {"name", "value"} <= set(table.names) and table.name in (schema.SYSTEM, CAPTURE, *schema.VERSION_TABLES):
                rows = self._rows(f"SELECT name, value FROM old.{quoted(table.name)}")
                for name, value in rows:
                    self._collect_row(decoded(name), decoded(value))
                for command in commands_in(rows):
                    self.sought.command([word for _, word in command])
            elif table.name in (_PROCESSES, "ANALYSIS_FILE"):
                self._collect_texts(table)
        self._collect_strings()
        self._collect_cards()

    def _collect_own(self) -> None:
        """What an export of dsprof's own no longer tells: secrets, user and host, as they are where it is scrubbed."""
        self.sought.secrets_of_environment(os.environ)
        for name in ("HOME", *USERS, *HOSTS) if os.environ.get("HOME") else ():
            self.sought.variable(name, os.environ.get(name, ""))
        self.sought.word(platform.node(), "a host name")

    def _collect_row(self, name: str, value: str) -> None:
        own = name.rpartition(":")[2]
        if "environment" in own.lower() or is_environment(value):
            for variable, text in variables_in(value):
                self.sought.variable(variable, text)
        elif own in HOSTS | USERS:
            self.sought.variable(own, value)
        elif own.startswith("ARGUMENT_") and len(value) >= 2 * DISTINCTIVE and " " in value:
            self.sought.secret(value, "an argument of the command")  # long enough to be somebody's own words
        elif own in ("PROFILING_SESSION_UUID", "WORKING_DIR") and len(value) >= DISTINCTIVE:
            self.sought.secret(value, "where or when it was recorded")
        self.sought.place(value)

    def _collect_strings(self) -> None:
        """Strings that no event refers to: environments of other processes, paths."""
        if not any(table.name == schema.STRINGS and {"id", "value"} <= set(table.names) for table in self.tables):
            return
        for (raw,) in self._rows("SELECT value FROM old.StringIds WHERE id NOT IN (SELECT id FROM roles)"):
            text = decoded(raw)
            if is_environment(text):
                for name, value in variables_in(text):
                    self.sought.variable(name, value)
            self.sought.place(text)

    def _collect_texts(self, table: Table) -> None:
        for name, kind, _, _ in table.columns:
            if kind.upper() == "TEXT":
                for (raw,) in self._rows(f"SELECT {quoted(name)} FROM old.{quoted(table.name)}"):
                    self.sought.place(decoded(raw))

    def _collect_cards(self) -> None:
        if any(table.name == "TARGET_INFO_GPU" and "uuid" in table.names for table in self.tables):
            for (raw,) in self._rows("SELECT uuid FROM old.TARGET_INFO_GPU WHERE length(uuid) > 8"):
                self.sought.secret(decoded(raw), "the UUID of a GPU")

    # -- copying

    def _copy(self, table: Table) -> None:
        """Create the table and fill it with what stays, under the same row numbers."""
        self.db.execute(_create(table))
        name, rowid = quoted(table.name), [table.rowid] if table.rowid else []
        before = self._count(f"SELECT count(*) FROM old.{name}")
        if not self._is_emptied(table):
            columns = ", ".join([*rowid, *map(quoted, table.names)])
            chosen = ", ".join([*rowid, *(_kept_value(table, column) for column in table.names)])
            self.db.execute(
                f"INSERT INTO main.{name} ({columns}) SELECT {chosen} FROM old.{name} WHERE {_where(table)}"
            )
        after = self._count(f"SELECT count(*) FROM main.{name}")
        if after == before:
            self.kept[table.name] = after
        else:
            self.removed[table.name] = before - after

    # -- the check

    def _check(self, table: Table) -> None:
        """Every number as it was and every text clean, by looking at all cells. Raises `ScrubFailed`."""
        name = quoted(table.name)
        if table.name in self.kept and table.rowid:
            same = " AND ".join(_same(column) for column in table.names if column not in _BLANK.get(table.name, ()))
            equal = self._count(
                f"SELECT count(*) FROM old.{name} AS o JOIN main.{name} AS n ON n.{table.rowid} = o.{table.rowid} "
                f"WHERE {same}"
            )
            if equal != self.kept[table.name]:
                raise _failed(
                    self.source, f"{self.kept[table.name] - equal} rows of {table.name} would not be the same"
                )
        unclean = " OR ".join(
            f"typeof({cell}) IN ('text', 'blob') AND cleaned({_role(table, column)}, {raw}) IS NOT {raw}"
            for column, cell, raw in ((own, quoted(own), f"CAST({quoted(own)} AS BLOB)") for own in table.names)
        )
        if self._rows(f"SELECT 1 FROM main.{name} WHERE {unclean} LIMIT 1"):
            raise _failed(self.source, f"a text of {table.name} would hold what was to go")


def _failed(source: Path, what: str) -> ScrubFailed:
    return ScrubFailed(
        f"The copy of {source.name} did not stand its check and was removed: {what}.",
        "Do not pass this report on, and report the case to dsprof (without the file).",
    )


def _where(table: Table) -> str:
    """Which rows of a table stay, as an SQL condition."""
    names = set(table.names)
    if table.name in (schema.SYSTEM, CAPTURE, *schema.VERSION_TABLES):
        return (
            f"allowed('{table.name}', CAST(name AS BLOB), CAST(value AS BLOB))" if {"name", "value"} <= names else "0"
        )
    if table.name == _PROCESSES:
        return "globalPid IN (SELECT id FROM pids)" if "globalPid" in names else "0"
    if table.name == _THREADS:
        return "globalTid IN (SELECT id FROM tids)" if "globalTid" in names else "0"
    return "1"


def _allowed(table: bytes, name: bytes | None, value: bytes | None) -> bool:
    own = decoded(name)
    if decoded(table) == schema.SYSTEM:
        return own in _SYSTEM_ROWS
    rows = _CAPTURE_ROWS if decoded(table) == CAPTURE else _EXPORT_ROWS
    return bool(rows.fullmatch(own)) and (rows is _EXPORT_ROWS or bool(_PLAIN.fullmatch(decoded(value))))


def _kept_value(table: Table, column: str) -> str:
    """What stays of a column, as an SQL expression: numbers as they are, texts cleaned."""
    name = quoted(column)
    if column in _BLANK.get(table.name, ()):
        needed = next(needed for other, _, needed, _ in table.columns if other == column)
        return "''" if needed else "NULL"
    raw = f"CAST({name} AS BLOB)"
    text = f"cleaned({_role(table, column)}, {f'program({raw})' if table.name == _PROCESSES else raw})"
    if table.name == schema.STRINGS and column == "value":
        text = f"CASE WHEN id IN (SELECT id FROM roles) THEN {text} ELSE x'' END"
    return f"CASE typeof({name}) WHEN 'text' THEN CAST({text} AS TEXT) WHEN 'blob' THEN {text} ELSE {name} END"


def _role(table: Table, column: str) -> str:
    """The role of a cell's text, as an SQL expression."""
    if table.name == schema.STRINGS and column == "value":
        own = f"{quoted(schema.STRINGS)}.id"
        return f"coalesce((SELECT role FROM roles WHERE roles.id = {own}), {int(Role.OTHER)})"
    return str(int(_role_of(table, column)))


def _same(column: str) -> str:
    name = quoted(column)
    return f"(typeof(o.{name}) IN ('text', 'blob') OR o.{name} IS n.{name}) AND typeof(o.{name}) = typeof(n.{name})"


def _program(raw: bytes | None) -> bytes:
    """The base name of the program in a process's name, which may be a path with arguments."""
    return ((raw or b"").split(b"\0")[0].split() or [b""])[0].split(b"/")[-1].split(b"\\")[-1]


def _check_bytes(source: Path, partial: Path, secrets: list[bytes]) -> None:
    """None of the long secrets stands in the raw bytes of the copy. Raises `ScrubFailed`."""
    with partial.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for secret in secrets:
            if content.find(secret) >= 0:
                raise _failed(source, "its bytes hold a secret")
