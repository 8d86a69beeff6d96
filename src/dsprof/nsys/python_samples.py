"""Samples of what Python was in (``--python-sampling``): nsys keeps them as NVTX marks with a payload of its own.

nsys exports the marks without the payload unless it is asked, and 2023.4 into JSON alone; so an export made by dsprof
gets two tables of dsprof's, in the form of nsys's own call chains::

    DSPROF_PYTHON_SAMPLES      start, globalTid (of the mark), thread (Python's, the main one is 1), stackId
    DSPROF_PYTHON_CALLCHAINS   id, stackDepth (0: innermost), nameId, srcFile

Another's export that has the payloads is read as it is.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from attrs import evolve

from dsprof.arrays import Ints
from dsprof.nsys import schema
from dsprof.nsys.about import sampled_python
from dsprof.nsys.export import Export
from dsprof.nsys.strings import Names, texts
from dsprof.trace import PythonSamples, no_samples, process_of

#: The domains of the marks, of 2023.4 and of 2025.3, and their type.
_DOMAINS, _MARK = ("Python Backtrace", "Python Periodic Sampling"), 34
#: What 2025.3 has before a payload: how many there are, the schema's number, the payload's size, where it begins.
_ENVELOPE = struct.Struct("<QQQQ")
#: A payload's head: in 2025.3 the thread, its state, and how many frames; in 2023.4 the state, a 1, how many frames,
#: and four bytes of anything. The state tells no idle time: a thread in `time.sleep` is running.
_HEAD = struct.Struct("<qII")
#: A frame, the innermost first: string ids of function and file, the line, four bytes of anything.
_FRAME = struct.Struct("<qqI4x")
_MOST_FRAMES = 1 << 12
_TABLES = {
    schema.PYTHON: ("start", "globalTid", "thread", "stackId"),
    schema.PYTHON_STACKS: ("id", "stackDepth", "nameId", "srcFile"),
}
_CREATED = ("eventType", "globalTid", "domainId", "text", "textId")
_MARKS = ("eventType", "start", "globalTid", "domainId", "category", "binaryData")
_Ask = Callable[[str, tuple[object, ...]], Iterable[tuple[Any, ...]]]
_Domains = set[tuple[int, int]]
_Rows = list[tuple[int, ...]]


class Stack(NamedTuple):
    """The (function, file) of a sample's frames, as string ids; Python's number of its thread, None where not said."""

    frames: tuple[tuple[int, int], ...]
    thread: int | None


class _Mark(NamedTuple):
    """One sample: when, the thread that the mark is of, Python's number of the one that was sampled, and its frames."""

    start: int
    marked: int
    thread: int
    frames: tuple[tuple[int, int], ...]


def holds_marks(exported: Path) -> bool:
    """Does an export hold marks of samples, with or without what was sampled?"""
    with closing(sqlite3.connect(exported)) as database, suppress(sqlite3.OperationalError):  # no such table or column
        return bool(_domains(database.execute))
    return False


def store_samples(exported: Path, source: Path) -> bool:
    """Put samples into tables of their own, from another export of the report, SQLite or JSON; False: it has none."""
    with closing(sqlite3.connect(exported)) as database, database:
        marks_in = _in_json if source.suffix == ".json" else _in_sqlite
        samples, frames = _rows_of(marks_in(source, _domains(database.execute)))
        if samples:
            for (table, columns), rows in zip(_TABLES.items(), (samples, frames), strict=True):
                database.execute(f"CREATE TABLE {table} ({', '.join(f'{column} INTEGER' for column in columns)})")
                database.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)
        return bool(samples)


def _domains(ask: _Ask) -> _Domains:
    """The domains of samples: process and number."""
    name = f"coalesce(text, (SELECT value FROM {schema.STRINGS} WHERE id = textId))"
    query = f"SELECT globalTid >> 24, domainId FROM {schema.NVTX} WHERE eventType = ? AND {name} IN (?, ?)"
    return set(ask(query, (schema.DOMAIN_CREATED, *_DOMAINS)))


def _rows_of(marks: Iterable[_Mark]) -> tuple[_Rows, _Rows]:
    """The rows of both tables."""
    stacks: dict[tuple[tuple[int, int], ...], int] = {}
    samples: _Rows = [
        (one.start, one.marked, one.thread, stacks.setdefault(one.frames, len(stacks) + 1)) for one in marks
    ]
    return samples, [(number, depth, *frame) for stack, number in stacks.items() for depth, frame in enumerate(stack)]


def _in_sqlite(source: Path, ours: _Domains) -> Iterator[_Mark]:
    with closing(sqlite3.connect(source)) as database, suppress(sqlite3.OperationalError):  # no such column
        yield from _with_payload(database.execute, ours)


def _with_payload(ask: _Ask, ours: _Domains) -> Iterator[_Mark]:
    """The samples of an SQLite export whose marks have their payload, as nsys writes it with ``--include-blobs``."""
    query = (
        f"SELECT start, globalTid, domainId, category, binaryData FROM {schema.NVTX} WHERE eventType = ? "
        "AND typeof(start) = 'integer' AND typeof(globalTid) = 'integer' AND typeof(binaryData) = 'blob'"
    )
    for start, marked, domain, category, payload in ask(query, (_MARK,)):
        if (marked >> 24, domain) in ours and (stack := stack_of(payload)) is not None:
            yield _Mark(start, marked, _thread(category, stack), stack.frames)


def _in_json(source: Path, ours: _Domains) -> Iterator[_Mark]:
    """The samples in an export to JSON, an event in each line."""
    with source.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(f'{{"Type":{_MARK},') and '"BinaryData"' in line:
                with suppress(ValueError, KeyError, TypeError, IndexError):
                    event = json.loads(line)["NvtxEvent"]
                    marked, category = int(event["GlobalTid"]), event.get("Category")
                    stack = stack_of(base64.b64decode(event["Payload"]["BinaryData"][0]["Data"], validate=True))
                    if stack is not None and (marked >> 24, int(event["DomainId"])) in ours:
                        thread = _thread(None if category is None else int(category), stack)
                        yield _Mark(int(event["Timestamp"]), marked, thread, stack.frames)


def _thread(category: object, stack: Stack) -> int:
    """Python's number of the thread, which is the mark's category in 2023.4; 0 where neither says it."""
    return category if isinstance(category, int) else stack.thread or 0


def stack_of(payload: bytes) -> Stack | None:
    """What a mark's payload says; None for one that is no sample, which is told by its length."""
    data = payload
    if len(data) >= _ENVELOPE.size:
        count, _, size, begin = _ENVELOPE.unpack_from(data)
        if count == 1 and begin == _ENVELOPE.size and len(data) == begin + size:
            data = data[begin:]
    frames, odd = divmod(len(data) - _HEAD.size, _FRAME.size)
    if odd or not 0 <= frames <= _MOST_FRAMES:
        return None
    thread, before, last = _HEAD.unpack_from(data)
    if frames not in (before, last):
        return None
    known = tuple((name, file) for name, file, _ in _FRAME.iter_unpack(data[_HEAD.size :]))
    return Stack(known, thread if frames == last else None)


def python_samples_of(export: Export, names: Names) -> PythonSamples:
    """The samples of an export, functions by name and the base name of their file; `names` knows those of domains."""
    taken, chains = (_integers(export, table) for table in _TABLES)
    ours = _domains(export.rows) if not taken.size and _may_hold(export, names) else set()
    if ours and export.has(schema.NVTX, *_MARKS):
        rows = _rows_of(_with_payload(export.rows, ours))
        taken, chains = (np.array(some, np.int64).reshape(-1, 4).T for some in rows)
    taken = taken[:, export.possible.begun(schema.PYTHON, taken[0])]
    if not taken.size or not chains.size:
        return evolve(no_samples(), unread=_marks(export, ours) if ours or sampled_python(export) else None)
    known = dict(texts(export, schema.STRINGS, "id", "value", np.unique(chains[2:])))
    functions, which = np.unique(chains[2:], axis=1, return_inverse=True)
    codes = [names.code(_named(known.get(name, ""), known.get(file, ""))) for name, file in functions.T.tolist()]
    order = np.lexsort((chains[1], chains[0]))
    return PythonSamples(
        start=taken[0],
        process=process_of(taken[1]),
        thread=taken[2],
        stack=taken[3],
        frame_stack=chains[0][order],
        frame_name=np.array(codes, np.int32)[which.reshape(-1)][order],
    )


def _may_hold(export: Export, names: Names) -> bool:
    """Can there be marks of samples? To ask the file takes a walk over all events."""
    told = export.has(schema.NVTX, *_CREATED) and export.has(schema.STRINGS, "id", "value")
    return told and any(domain in names for domain in _DOMAINS)


def _marks(export: Export, ours: _Domains) -> int:
    """How many marks of samples there are."""
    if not ours:
        return 0
    query = f"SELECT globalTid >> 24, domainId, count(*) FROM {schema.NVTX} WHERE eventType = ? GROUP BY 1, 2"
    return sum(count for process, domain, count in export.rows(query, (_MARK,)) if (process, domain) in ours)


def _integers(export: Export, table: str) -> Ints:
    """The columns of one of our tables, of the rows that hold integers throughout; shape (columns, rows)."""
    columns = _TABLES[table]
    if not export.has(table, *columns):
        return np.zeros((len(columns), 0), np.int64)
    whole = " AND ".join(f"typeof({column}) = 'integer'" for column in columns)
    rows = export.rows(f"SELECT {', '.join(columns)} FROM {table} WHERE {whole} ORDER BY rowid")
    return np.array(rows, np.int64).reshape(-1, len(columns)).T


def _named(function: str, file: str) -> str:
    """A function as tables name it, with the base name of its file, as folders are the machine's.

    nsys 2023.4 writes ``&lt;module&gt;`` for ``<module>``.
    """
    from html import unescape  # which loads all names of characters

    base = unescape(file).replace("\\", "/").rstrip("/").rpartition("/")[2]
    return f"{unescape(function) or '?'} ({base or '?'})"
