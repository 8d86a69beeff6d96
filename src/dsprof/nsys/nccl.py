"""What NCCL says of its calls: communicator, message size, rank. It stands in the payload of its NVTX ranges.

nsys exports the schemas of payloads, and the payloads themselves only when it is asked (``--include-blobs=true`` of
2025.3), so an export made by dsprof gets a table of dsprof's own, with numbers and nothing else::

    DSPROF_NCCL   start, globalTid (of the range), communicator, bytes, ranks, rank, device

Another's export that has the payloads, or with ``--include-json=true`` their text, is read as it is. Entries are known
by their labels, whichever NCCL wrote them; what is of another form says nothing.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dsprof.arrays import NULL, Ints, group_rows
from dsprof.nsys import schema
from dsprof.nsys.export import Export
from dsprof.nsys.strings import Names
from dsprof.trace import NcclCalls, Ranges, no_nccl

DOMAIN = "NCCL"
_ENTRIES = "NVTX_PAYLOAD_SCHEMA_ENTRIES"
_ENTRY = ("domainId", "schemaId", "idx", "flags", "type", "name", "offset")
#: Our columns by the labels of entries, in small letters.
_LABELS = {
    "nccl communicator id": "communicator",
    "message size [bytes]": "bytes",
    "bytes": "bytes",
    "no. of ranks": "ranks",
    "rank": "rank",
    "cuda device": "device",
}
_COLUMNS = ("communicator", "bytes", "ranks", "rank", "device")
#: The columns of our table.
TABLE = ("start", "globalTid", *_COLUMNS)
#: NVTX's numbers of integer types, as numpy has them on the machines that nsys records.
_TYPES = {
    5: "<i4", 6: "<u4", 7: "<i8", 8: "<u8", 9: "<i8", 10: "<u8", 15: "<i4", 16: "<u4", 17: "<i8", 18: "<u8", 22: "<u8"
}  # fmt: skip
#: Before a payload: how many there are, then of each the schema's number, its size, and where it begins.
_HEAD, _PLACE = struct.Struct("<Q"), struct.Struct("<QQQ")
_MOST_PAYLOADS, _MOST_RANKS, _MOST_BYTES = 8, 1 << 24, 1 << 53
_Ask = Callable[[str, tuple[object, ...]], Iterable[tuple[Any, ...]]]


class _Field(NamedTuple):
    """An entry of a schema that is one of our columns."""

    column: str
    kind: str
    offset: int


def may_hold_payloads(exported: Path) -> bool:
    """Does an export say that NCCL's ranges had a payload, with or without it?"""
    with closing(sqlite3.connect(exported)) as database, suppress(sqlite3.DatabaseError):
        return any(_schemas(database.execute).values()) and bool(_domains(database.execute))
    return False


def store_nccl(exported: Path, source: Path) -> None:
    """Put what NCCL says into a table of its own, from another export of the report that has the payloads."""
    with closing(sqlite3.connect(source)) as database, suppress(sqlite3.DatabaseError):
        found = _decoded(database.execute)
        if not len(found["start"]):
            return
        with closing(sqlite3.connect(exported)) as target, target:
            target.execute(f"CREATE TABLE {schema.NCCL} ({', '.join(f'{column} INTEGER' for column in TABLE)})")
            rows = zip(*(_without_null(found[column]) for column in TABLE), strict=True)
            target.executemany(f"INSERT INTO {schema.NCCL} VALUES ({', '.join('?' * len(TABLE))})", rows)


def _without_null(column: Ints) -> list[int | None]:
    return [None if value == NULL else value for value in column.tolist()]


def nccl_of(export: Export, ranges: Ranges, names: Names) -> NcclCalls:
    """What NCCL says in an export, by the ranges that it is of; `names` knows those of their domains."""
    if DOMAIN not in names:
        return no_nccl()
    told = (schema.NVTX, "globalTid", "domainId", "text", "textId")
    found = _checked({column: np.zeros(0, np.int64) for column in TABLE})
    if export.has(schema.NCCL, *TABLE):
        found = _stored(export)
    elif export.has(*told, "binaryData") and export.has(_ENTRIES, *_ENTRY):
        found = _decoded(export.rows)
    if not len(found["start"]) and export.has(*told, "jsonText"):
        found = _in_json(export.rows)
    return _of_ranges(found, ranges, names.code(DOMAIN))


def _stored(export: Export) -> dict[str, Ints]:
    whole = " AND ".join(f"typeof({column}) = 'integer'" for column in TABLE[:2])
    chosen = [f"CASE typeof({column}) WHEN 'integer' THEN {column} END" for column in TABLE]
    rows = export.rows(f"SELECT {', '.join(chosen)} FROM {schema.NCCL} WHERE {whole} ORDER BY rowid")
    values = [[NULL if value is None else value for value in row] for row in rows]
    return _checked(dict(zip(TABLE, np.array(values, np.int64).reshape(-1, len(TABLE)).T, strict=True)))


def _of_ranges(found: dict[str, Ints], ranges: Ranges, domain: int) -> NcclCalls:
    """The same with the ids of the ranges of a domain in place of thread and start; what is of none is left out."""
    rows = np.flatnonzero(ranges.domain == domain)
    heads, group = group_rows(
        np.concatenate([ranges.thread[rows], found["globalTid"]]), np.concatenate([ranges.start[rows], found["start"]])
    )
    row = np.full(len(heads), -1)
    row[group[: len(rows)][::-1]] = rows[::-1]
    of = row[group[len(rows) :]]
    kept = np.flatnonzero(of >= 0)
    return NcclCalls(ranges.range_id[of[kept]], *(found[column][kept] for column in ("globalTid", *_COLUMNS)))


def _schemas(ask: _Ask) -> dict[tuple[int, int], tuple[_Field, ...]]:
    """What of each schema, by domain and number, is one of our columns.

    The tables do not tell the processes apart: a schema of which two say something else is none.
    """
    said = defaultdict[tuple[int, int], dict[int, set[tuple[Any, ...]]]](lambda: defaultdict(set))
    for domain, number, place, *entry in ask(f"SELECT {', '.join(_ENTRY)} FROM {_ENTRIES}", ()):
        said[domain, number][place].add(tuple(entry))
    return {
        key: tuple(field for place, (entry,) in places.items() if (field := _field(place, *entry)))
        for key, places in said.items()
        if all(len(entries) == 1 for entries in places.values())
    }


def _field(place: int, flags: object, kind: object, name: object, offset: object) -> _Field | None:
    """What an entry is of our columns; None for another, and for one that is no number at a known place."""
    column, offset = _LABELS.get(str(name).strip().lower()), 0 if place == 0 else offset
    if column is None or flags or not isinstance(kind, int) or kind not in _TYPES or not isinstance(offset, int):
        return None
    return _Field(column, _TYPES[kind], offset)


def _domains(ask: _Ask) -> set[tuple[int, int]]:
    """The domains of NCCL: process and number."""
    name = f"coalesce(text, (SELECT value FROM {schema.STRINGS} WHERE id = textId))"
    query = f"SELECT globalTid >> 24, domainId FROM {schema.NVTX} WHERE eventType = ? AND {name} = ?"
    return set(ask(query, (schema.DOMAIN_CREATED, DOMAIN)))


def _decoded(ask: _Ask) -> dict[str, Ints]:
    """What the payloads of an export say that has them."""
    schemas, ours = _schemas(ask), _domains(ask)
    query = (
        f"SELECT start, globalTid, domainId, binaryData FROM {schema.NVTX} WHERE typeof(binaryData) = 'blob' "
        "AND typeof(start) = 'integer' AND typeof(globalTid) = 'integer' ORDER BY rowid"
    )
    alike = defaultdict[tuple[tuple[int, int], int], list[tuple[int, int, bytes]]](list)
    for start, thread, domain, data in ask(query, ()) if schemas and ours else ():
        if (thread >> 24, domain) in ours:
            for number, payload in _payloads(data):
                alike[(domain, number), len(payload)].append((start, thread, payload))
    pieces = [_columns(rows, schemas.get(key, ()), size) for (key, size), rows in alike.items()]
    pieces = [piece for piece in pieces if piece]
    nothing = np.zeros(0, np.int64)
    return _checked({column: np.concatenate([nothing, *(piece[column] for piece in pieces)]) for column in TABLE})


def _in_json(ask: _Ask) -> dict[str, Ints]:
    """What the payloads of an export say that has them as JSON, by the labels of their entries."""
    ours, rows = _domains(ask), []
    query = (
        f"SELECT start, globalTid, domainId, jsonText FROM {schema.NVTX} WHERE typeof(jsonText) = 'text' "
        "AND typeof(start) = 'integer' AND typeof(globalTid) = 'integer' ORDER BY rowid"
    )
    for start, thread, domain, said in ask(query, ()) if ours else ():
        if (thread >> 24, domain) in ours:
            values = dict.fromkeys(_COLUMNS, NULL) | _labelled(said)
            rows.append((start, thread, *values.values()))
    return _checked(dict(zip(TABLE, np.array(rows, np.int64).reshape(-1, len(TABLE)).T, strict=True)))


def _labelled(said: str) -> dict[str, int]:
    """Our columns in a JSON object; of a number without a sign its bits."""
    try:
        entries = json.loads(said)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(entries, dict):
        return {}
    known = {_LABELS.get(label.strip().lower()): value for label, value in entries.items()}
    return {
        column: (value + (1 << 63)) % (1 << 64) - (1 << 63)
        for column, value in known.items()
        if column and isinstance(value, int) and 0 <= value < 1 << 64
    }


def _payloads(data: bytes) -> list[tuple[int, bytes]]:
    """The payloads of one event, each with the number of its schema; none where the form is another."""
    count = _HEAD.unpack_from(data)[0] if len(data) >= _HEAD.size else 0
    if not 0 < count <= _MOST_PAYLOADS or len(data) < _HEAD.size + count * _PLACE.size:
        return []
    found = []
    for place in range(count):
        number, size, begin = _PLACE.unpack_from(data, _HEAD.size + place * _PLACE.size)
        if begin + size <= len(data):
            found.append((number, data[begin : begin + size]))
    return found


def _columns(rows: list[tuple[int, int, bytes]], fields: tuple[_Field, ...], size: int) -> dict[str, Ints]:
    """The columns of payloads of one schema and size; empty where they hold none of ours."""
    fitting = [one for one in fields if 0 <= one.offset <= size - int(one.kind[-1])]
    if not fitting:
        return {}
    raw = np.frombuffer(b"".join(payload for _, _, payload in rows), np.uint8).reshape(len(rows), size)
    found = {column: np.full(len(rows), NULL) for column in _COLUMNS}
    for column, kind, offset in fitting:
        cut = np.ascontiguousarray(raw[:, offset : offset + int(kind[-1])])
        found[column] = cut.view(kind)[:, 0].astype(np.int64)
    return {
        "start": np.array([start for start, _, _ in rows], np.int64),
        "globalTid": np.array([thread for _, thread, _ in rows], np.int64),
        **found,
    }


def _checked(found: dict[str, Ints]) -> dict[str, Ints]:
    """The columns with NULL for what cannot be: no communicator is 0, no rank as many as there are or more."""
    communicator, size, ranks = (found[name] for name in ("communicator", "bytes", "ranks"))
    ranks = np.where((ranks > 0) & (ranks <= _MOST_RANKS), ranks, NULL)
    rank = np.where((found["rank"] >= 0) & ((found["rank"] < ranks) | (ranks == NULL)), found["rank"], NULL)
    return {
        **found,
        "communicator": np.where(communicator == 0, NULL, communicator),
        "bytes": np.where((size >= 0) & (size < _MOST_BYTES), size, NULL),
        "ranks": ranks,
        "rank": rank,
        "device": np.where((found["device"] >= 0) & (found["device"] < _MOST_RANKS), found["device"], NULL),
    }
