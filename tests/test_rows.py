"""The ranges of an export: read from its pages, by SQL, and in plain Python, all the same."""

from __future__ import annotations

import lzma
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprof.arrays import NULL
from dsprof.nsys import schema
from dsprof.nsys.export import Export
from dsprof.nsys.pages import Pages
from dsprof.nsys.rows import ranges_of
from dsprof.nsys.strings import Names
from test_pages import SAMPLES
from test_properties import few
from trace_builder import DOMAIN_CREATED, MARK, NVTX, VERSIONS, TraceBuilder, global_tid

Range = dict[str, Any]


@contextmanager
def without_pages() -> Iterator[None]:
    """SQL is asked for everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pages, "table", lambda self, name: None)
        yield


def found(path: Path) -> list[Range]:
    """The ranges as they are read, in words."""
    with Export(path) as export:
        names = Names()
        ranges, texts = ranges_of(export, names), names.all()
    columns = {
        name: getattr(ranges, name).tolist()
        for name in ("range_id", "name", "domain", "style", "thread", "start", "end", "payload", "truncated")
    }
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [{**row, "name": texts[row["name"]], "domain": texts[row["domain"]]} for row in rows]


def text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")


def expected(path: Path) -> list[Range]:
    """The same by loops, but for the ends."""
    with closing(sqlite3.connect(path)) as sql:
        sql.text_factory = bytes
        strings = {
            number: text(value) for number, value in sql.execute("SELECT id, CAST(value AS BLOB) FROM StringIds")
        }
        has = {name.decode() for (name,) in sql.execute(f"SELECT name FROM pragma_table_info('{NVTX}')")}
        if not has:
            return []
        names = ["rowid", "start", "eventType", "globalTid", "textId", "domainId", *schema.PAYLOADS]
        chosen = ", ".join(name if name in has or name == "rowid" else "NULL" for name in names)
        query = f"SELECT {chosen}, CAST(text AS BLOB), length(text) FROM {NVTX} ORDER BY rowid"
        events = [dict(zip([*names, "text", "length"], row, strict=True)) for row in sql.execute(query)]
    domains: dict[tuple[int, int], str] = {}
    for event in events:
        if event["eventType"] == DOMAIN_CREATED:
            key = event["globalTid"] >> 24, event["domainId"] or 0
            domains.setdefault(key, text(event["text"]) or strings.get(event["textId"], ""))
    return [
        {
            "range_id": event["rowid"],
            "name": text(event["text"]) if event["length"] else strings.get(event["textId"], ""),
            "domain": domains.get((event["globalTid"] >> 24, event["domainId"] or 0), ""),
            "style": int(event["eventType"] in schema.START_END),
            "thread": event["globalTid"],
            "start": event["start"],
            "payload": next((event[name] for name in schema.PAYLOADS if event[name] is not None), NULL),
        }
        for event in events
        if event["eventType"] in schema.RANGE_TYPES
    ]


def assert_same(path: Path) -> None:
    by_pages = found(path)
    with without_pages():
        assert found(path) == by_pages
    plain = expected(path)
    assert [{name: row[name] for name in plain[0]} for row in by_pages] == plain if plain else by_pages == []


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.partition(".")[0])
def test_ranges_of_real_reports(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "sample.sqlite"
    path.write_bytes(lzma.decompress(sample.read_bytes()))
    assert_same(path)


TEXTS = st.sampled_from([None, "", "a", "b", "decode", "é", b"\xff", "a\0b", "\0a"])
EVENTS = st.fixed_dictionaries(
    {
        "start": st.integers(0, 50),
        "end": st.one_of(st.none(), st.integers(50, 99)),
        "eventType": st.sampled_from([*schema.RANGE_TYPES, MARK, DOMAIN_CREATED]),
        "globalTid": st.sampled_from([global_tid(7), global_tid(7, 8), global_tid(9)]),
        "textId": st.sampled_from([None, 0, 1, 2, 999]),
        "text": TEXTS,
        "domainId": st.sampled_from([None, 0, 1, 2]),
        **{name: st.one_of(st.none(), st.integers(0, 3)) for name in schema.PAYLOADS},
    }
)


@few
@given(st.sampled_from(VERSIONS), st.lists(EVENTS, max_size=12))
def test_ranges_of_any_version(version: str, events: list[dict[str, Any]]) -> None:
    builder = TraceBuilder(version, lazy=False, duration=1000)
    builder.string("first")
    builder.string("second")
    known = builder.schema.columns(NVTX)
    for event in events:
        builder.row(NVTX, **{name: value for name, value in event.items() if name in known})
    with tempfile.TemporaryDirectory() as folder:
        assert_same(builder.write(Path(folder, "made.sqlite")))
