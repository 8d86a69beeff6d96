"""Columns read from a file's pages: equal to SQL's, or left to SQL; never something else."""

from __future__ import annotations

import lzma
import sqlite3
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from attrs import field, frozen
from hypothesis import HealthCheck, given, settings

from compiled import way
from dsprof.arrays import NULL
from dsprof.nsys import pages, schema
from dsprof.nsys.pages import Pages

FOLDERS = (
    Path(__file__).parent.parent / "traces" / "samples",
    Path(__file__).parent.parent.parent / "shared" / "traces",
)
SAMPLES = sorted({path.name: path for folder in FOLDERS for path in folder.glob("*.sqlite.xz")}.values())
PAGE_SIZES = [512, 1024, 4096, 65536]
LEAST, GREATEST = -(2**63), 2**63 - 1
EDGES = [
    0,
    1,
    -1,
    2,
    127,
    128,
    -128,
    -129,
    2**15 - 1,
    2**15,
    2**23 - 1,
    -(2**23) - 1,
    2**31,
    2**47 - 1,
    2**47,
    GREATEST,
]

Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module", params=[False, True], ids=["arrays", "loops"], autouse=True)
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """All tests here run both ways."""
    with way(request.param):
        yield


@pytest.fixture(scope="module", params=SAMPLES, ids=lambda path: path.name.partition(".")[0])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each real export, unpacked."""
    path = tmp_path_factory.mktemp("sample") / "sample.sqlite"
    path.write_bytes(lzma.decompress(request.param.read_bytes()))
    return path


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as sql:
        sql.text_factory = bytes
        yield sql


@contextmanager
def written(path: Path, page_size: int = 4096) -> Iterator[sqlite3.Connection]:
    """A new file; all is committed at the end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute(f"PRAGMA page_size = {page_size}")
        sql.execute("PRAGMA synchronous = OFF")
        sql.execute("BEGIN")
        yield sql
        if sql.in_transaction:
            sql.execute("COMMIT")


def by_sql(path: Path, table: str, columns: Sequence[str], where: str = "") -> Rows:
    """The same columns by SQL, in the order of rowids."""
    chosen = ", ".join(f'"{name}"' for name in columns)
    with opened(path) as sql:
        return sql.execute(f'SELECT {chosen} FROM "{table}" {where} ORDER BY rowid').fetchall()


def by_pages(path: Path, table: str, columns: Sequence[str], **how: Any) -> Rows | None:
    """Columns from the pages, as SQL would give them."""
    with Pages(path) as file:
        found = file.table(table)
        got = found.read(columns, **how) if found else None
    if got is None:
        return None
    assert list(got) == list(columns)
    assert all(column.dtype == np.int64 for column in got.values())
    return [
        tuple(None if value == NULL else value for value in row)
        for row in zip(*(got[c].tolist() for c in columns), strict=True)
    ]


def whole(rows: Rows) -> bool:
    """Are all values integers or NULL? The least integer reads as NULL."""
    return all(value is None or isinstance(value, int) for row in rows for value in row)


def nulled(rows: Rows) -> Rows:
    return [tuple(None if value == NULL else value for value in row) for row in rows]


def agrees(path: Path, table: str, columns: Sequence[str], clause: str = "", **how: Any) -> bool:
    """Are the pages' columns SQL's? False where the pages leave it to SQL; anything else fails."""
    got = by_pages(path, table, columns, **how)
    if got is None:
        return False
    expected = by_sql(path, table, columns, clause)
    assert whole(expected)
    assert got == nulled(expected)
    return True


# -- real exports ---------------------------------------------------------------------------------------


def test_every_column_of_every_table_of_real_exports(sample: Path) -> None:
    with opened(sample) as sql:
        tables = [name.decode() for (name,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    assert tables
    for table in tables:
        with opened(sample) as sql:
            columns = {row[1].decode(): row[2] for row in sql.execute(f'PRAGMA table_info("{table}")')}
        columns = {"rowid": b"INTEGER", **columns}
        expected = by_sql(sample, table, list(columns))
        with Pages(sample) as file:
            found = file.table(table)
            assert found is not None
            for number, (column, declared) in enumerate(columns.items()):
                got, values = found.read([column]), [row[number] for row in expected]
                assert (got is not None) == (declared != b"REAL" and whole([tuple(values)])), (table, column)
                assert got is None or got[column].tolist() == [NULL if value is None else value for value in values]


def test_what_the_reader_needs_of_real_exports(sample: Path) -> None:
    sources = (schema.CALLS, schema.KERNELS, schema.GRAPHS, schema.COPIES, schema.SETS, schema.OVERHEADS, schema.RANGES)
    seen = 0
    for source in sources:
        with opened(sample) as sql:
            columns = [row[1].decode() for row in sql.execute(f"PRAGMA table_info({source.table})")]
        if columns:
            chosen = [name for name in ("rowid", *source.columns, *schema.PAYLOADS) if name in ("rowid", *columns)]
            assert agrees(sample, source.table, chosen), source.table
            seen += 1
    assert seen > 1


def test_ranges_of_real_exports_by_type(sample: Path) -> None:
    with opened(sample) as sql:
        if not sql.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (schema.NVTX,)).fetchall():
            pytest.skip("a report without NVTX")
    columns = ["start", "end", "globalTid", "textId", "rowid"]
    marks = ", ".join(map(str, schema.RANGE_TYPES))
    where = ("eventType", schema.RANGE_TYPES)
    assert agrees(sample, schema.NVTX, columns, f"WHERE eventType IN ({marks})", where=where)


# -- made tables ----------------------------------------------------------------------------------------

INTEGERS = st.one_of(
    st.sampled_from([*EDGES, LEAST + 1]), st.integers(-(2**15), 2**15), st.integers(LEAST + 1, GREATEST), st.none()
)
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "any": INTEGERS,
    "small": st.integers(-200, 200),
    "one": st.sampled_from([0, 1]),
    "null": st.none(),
    "text": st.one_of(st.none(), st.text(max_size=70)),
    "long": st.sampled_from(["x" * 57, "x" * 58, "x" * 70]),
    "blob": st.binary(max_size=70),
    "real": st.sampled_from([0.5, -1e300, 3.0]),
    "mixed": st.one_of(INTEGERS, st.text(max_size=5), st.floats(allow_nan=False)),
}
#: At most so many columns, so that no row overflows even a page of 512 bytes.
COLUMNS = st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=4)
ROWIDS = st.one_of(
    st.lists(st.integers(LEAST, GREATEST), max_size=60, unique=True),
    st.lists(st.integers(0, 500), max_size=250, unique=True),
    st.integers(0, 250).map(lambda count: list(range(1, count + 1))),
    st.integers(1, 60).map(lambda count: list(range(2**14 - 20, 2**14 - 20 + count))),
)


@st.composite
def made(draw: st.DrawFn) -> dict[str, Any]:
    """A table: its columns, rows, what is deleted and added afterwards."""
    kinds = draw(COLUMNS)
    rowids = draw(ROWIDS)
    few = [draw(st.tuples(*(KINDS[kind] for kind in kinds))) for _ in range(draw(st.integers(1, 12)))]
    return {
        "page_size": draw(st.sampled_from(PAGE_SIZES)),
        "kinds": kinds,
        "rows": [(rowid, *few[(rowid * 7919) % len(few)]) for rowid in rowids],
        "deleted": draw(st.sampled_from([0, 2, 3])),
        "vacuum": draw(st.booleans()),
        "added": draw(st.sampled_from(["", "INTEGER", "INTEGER DEFAULT 7"])),
        "batch": draw(st.sampled_from([1, 2048, pages._BATCH])),
        "slots": draw(st.sampled_from([0, 2, 16])),
        "gap": draw(st.sampled_from([0, 3])),
    }


def write(path: Path, table: dict[str, Any]) -> list[str]:
    """The table `t` in a file, and the names of its columns."""
    names = [f"c{number}" for number in range(len(table["kinds"]))]
    with written(path, table["page_size"]) as sql:
        sql.execute(f"CREATE TABLE t ({', '.join(names)})")
        sql.execute("CREATE TABLE other (c0 INTEGER)")
        marks = ", ".join("?" for _ in range(len(names) + 1))
        for row in table["rows"]:
            sql.execute(f"INSERT INTO t (rowid, {', '.join(names)}) VALUES ({marks})", row)
            sql.execute("INSERT INTO other VALUES (5)")
        if table["deleted"]:
            sql.execute(f"DELETE FROM t WHERE rowid % {table['deleted']} = 0")
        if table["added"]:
            sql.execute(f"ALTER TABLE t ADD COLUMN added {table['added']}")
            sql.execute(
                "INSERT INTO t (added) SELECT 9 WHERE (SELECT coalesce(max(rowid), 0) FROM t) < 9223372036854775807"
            )
            names.append("added")
        if table["vacuum"]:
            sql.execute("COMMIT")
            sql.execute("VACUUM")
    return names


@contextmanager
def tuned(table: dict[str, Any]) -> Iterator[None]:
    """Small batches, and slots in which headers meet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "_BATCH", table["batch"])
        patch.setattr(pages, "_SLOT_BITS", max(table["slots"], 1))
        patch.setattr(pages, "_ROUNDS", 3 if table["slots"] else 0)
        patch.setattr(pages, "_GAP", table["gap"])
        yield


def lacks_default(table: dict[str, Any]) -> bool:
    """Are there rows from before a column whose default is not NULL? Their value is not in the row."""
    return "DEFAULT" in table["added"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    made(),
    st.tuples(st.integers(LEAST, GREATEST), st.integers(LEAST, GREATEST)),
    st.tuples(st.integers(-5, 300), st.integers(-5, 600)),
)
def test_made_tables_are_read_as_by_sql(table: dict[str, Any], far: tuple[int, int], near: tuple[int, int]) -> None:
    with tempfile.TemporaryDirectory() as folder, tuned(table):
        path = Path(folder) / "t.sqlite"
        names = write(path, table)
        readable = [name for name in names if whole(by_sql(path, "t", [name]))]
        for name in names:
            known = agrees(path, "t", [name])
            if name != "added" or not lacks_default(table):
                assert known == (name in readable), name
        if not lacks_default(table):
            chosen = ["rowid", *readable]
            assert agrees(path, "t", chosen)
            for low, high in (far, near):
                assert agrees(path, "t", chosen, f"WHERE rowid BETWEEN {low} AND {high}", rowids=(low, high))
            if readable:
                where = f"WHERE {readable[0]} IN (1, -1, 127)"
                assert agrees(path, "t", chosen, where, where=(readable[0], (1, -1, 127)))


def numbers(path: Path, rows: int, page_size: int = 4096, declared: str = "a, b, c", step: int = 1) -> Path:
    """A plain table of three columns."""
    with written(path, page_size) as sql:
        sql.execute(f"CREATE TABLE t ({declared})")
        values = ((row * step, row * row, row % 3, -row if row % 5 else None) for row in range(rows))
        sql.executemany("INSERT INTO t (rowid, a, b, c) VALUES (?, ?, ?, ?)", values)
    return path


@pytest.mark.parametrize("page_size", [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536])
@pytest.mark.parametrize("rows", [0, 1, 2, 40_000])
def test_every_page_size(rows: int, page_size: int, tmp_path: Path) -> None:
    path = numbers(tmp_path / "t.sqlite", rows, page_size)
    assert agrees(path, "t", ["c", "rowid", "a"])
    with Pages(path) as file:
        table = file.table("t")
        assert table is not None
        assert (table.edges[1:] > table.edges[:-1]).all()


# -- what is left to SQL, and what is not ---------------------------------------------------------------

DECLARATIONS = {
    "CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER)": ["a", "b"],
    "CREATE TABLE t (b INTEGER, a integer, PRIMARY KEY (a))": ["a", "b"],
    "CREATE TABLE t (a INTEGER PRIMARY KEY DESC, b INTEGER)": ["a", "b"],
    "CREATE TABLE t (a INT PRIMARY KEY, b INTEGER)": ["a", "b"],
    "CREATE TABLE t (a INTEGER, b INTEGER, PRIMARY KEY (a, b))": ["a", "b"],
    "CREATE TABLE t (a BIGINT NOT NULL, b)": ["a", "b"],
    "CREATE TABLE t (a INTEGER, b REAL)": ["a"],
    "CREATE TABLE t (a INTEGER, b DOUBLE PRECISION)": ["a"],
    "CREATE TABLE t (a INTEGER, b FLOATING POINT)": ["a", "b"],  # INT decides
    "CREATE TABLE t (a INTEGER, b TEXT)": ["a"],
    "CREATE TABLE t (a INTEGER PRIMARY KEY, b INTEGER) WITHOUT ROWID": [],
    "CREATE TABLE t (a INTEGER, b INTEGER, d AS (a + 1))": [],
    "CREATE TABLE t (a INTEGER, b INTEGER, d AS (a + 1) STORED)": [],
    "CREATE VIEW t AS SELECT 1 AS a, 2 AS b": [],
}


@pytest.mark.parametrize("declaration", DECLARATIONS)
def test_declarations(declaration: str, tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with written(path) as sql:
        sql.execute(declaration)
        if "VIEW" not in declaration:
            sql.executemany("INSERT INTO t (a, b) VALUES (?, ?)", [(row * 3, row) for row in range(1, 2000)])
    assert [name for name in ("a", "b") if agrees_without_rowid(path, name)] == DECLARATIONS[declaration]


def agrees_without_rowid(path: Path, column: str) -> bool:
    got = by_pages(path, "t", [column])
    with opened(path) as sql:
        assert got in (None, sql.execute(f"SELECT {column} FROM t NOT INDEXED").fetchall() if got else None)
    return got is not None


def test_a_column_that_takes_the_name_of_the_rowid(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with written(path) as sql:
        sql.execute("CREATE TABLE t (rowid INTEGER, a INTEGER)")
        sql.execute("CREATE TABLE u (RowID INTEGER, a INTEGER)")
        for table in "tu":
            sql.executemany(f"INSERT INTO {table} VALUES (?, ?)", [(5 - row, row) for row in range(5)])
    assert by_pages(path, "t", ["rowid"]) == [(5,), (4,), (3,), (2,), (1,)]
    assert by_pages(path, "u", ["rowid"]) is None
    assert by_pages(path, "u", ["RowID"]) == [(5,), (4,), (3,), (2,), (1,)]


def test_names_that_are_not_there(tmp_path: Path) -> None:
    path = numbers(tmp_path / "t.sqlite", 10)
    assert by_pages(path, "t", ["d"]) is None
    assert by_pages(path, "t", ["a"], where=("d", (1,))) is None
    assert by_pages(path, "t", ["a"], where=("c", (NULL,))) is None  # NULL is no number, and nothing equals it
    assert by_pages(path, "u", ["a"]) is None
    assert by_pages(tmp_path / "missing.sqlite", "t", ["a"]) is None


@pytest.mark.parametrize("length", [3000, 5000, 20_000])
@pytest.mark.parametrize("page_size", [4096, 65536])
def test_long_texts(length: int, page_size: int, tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with written(path, page_size) as sql:
        sql.execute("CREATE TABLE t (a INTEGER, text TEXT, b INTEGER)")
        rows = [(row, "x" * (length if row == 500 else row % 90), -row) for row in range(1000)]
        sql.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    fits = length < 16_000 and length + 100 < page_size
    assert agrees(path, "t", ["a", "b"]) == fits
    assert agrees(path, "t", ["a", "b"], "WHERE rowid < 300", rowids=(0, 299)) == fits or not fits


def test_a_log_beside_the_file_and_other_formats(tmp_path: Path) -> None:
    path = numbers(tmp_path / "t.sqlite", 100)
    raw = bytearray(path.read_bytes())
    assert agrees(path, "t", ["a"])
    for at, value in ((18, 2), (19, 2), (21, 63), (0, 1), (16, 3), (20, 255), (28, 255), (29, 1)):
        changed = raw.copy()
        changed[at] = value
        if at in (20,):
            changed[16:18] = (512).to_bytes(2, "big")  # 512 bytes less 255 are less than a page may have
        path.write_bytes(changed)
        assert by_pages(path, "t", ["a"]) is None, at
    for size in (0, 50, 100, 4096, len(raw) - 1):
        path.write_bytes(raw[:size])
        assert by_pages(path, "t", ["a"]) is None, size


def test_a_file_with_a_write_ahead_log_is_left_to_sql(tmp_path: Path) -> None:
    path = numbers(tmp_path / "t.sqlite", 100)
    with closing(sqlite3.connect(path)) as sql:
        sql.execute("PRAGMA journal_mode = WAL")
        sql.execute("INSERT INTO t VALUES (1, 2, 3)")
        sql.commit()
    assert by_pages(path, "t", ["a"]) is None


# -- damage ---------------------------------------------------------------------------------------------


@frozen
class Victim:
    """A file to damage."""

    raw: bytes = field(repr=False)
    page_size: int


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> list[Victim]:
    """Files to damage: deep and flat ones, with texts and without."""
    folder, made = tmp_path_factory.mktemp("victims"), []
    for number, page_size in enumerate((512, 512, 1024, 4096)):
        path = folder / f"{number}.sqlite"
        with written(path, page_size) as sql:
            sql.execute("CREATE TABLE t (a INTEGER, text TEXT, b INTEGER, c INTEGER, d REAL, e INTEGER)")
            for row in range(1500 if number else 40):
                text = "x" * (row % 70) if number % 2 else None
                values = (row * row, text, row % 2, -row if row % 3 else None, None, row << row % 50)
                sql.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", values)
        made.append(Victim(path.read_bytes(), page_size))
    return made


def survives(path: Path, columns: Collection[str], **how: Any) -> bool:
    """Do the pages give what SQL gives, if they give anything and SQL does not fail? True where both gave the same."""
    where = "WHERE rowid BETWEEN {} AND {}".format(*how["rowids"]) if how else ""
    got = by_pages(path, "t", list(columns), **how)
    if got is None:
        return False
    try:
        expected = by_sql(path, "t", list(columns), where)
    except (sqlite3.Error, UnicodeDecodeError):
        return False
    assert got == nulled(expected)
    return True


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_left_to_sql_or_read_as_sql_reads_it(
    data: st.DataObject, victims: list[Victim], tmp_path: Path
) -> None:
    victim = data.draw(st.sampled_from(victims))
    raw, page_size = victim.raw, victim.page_size
    changed = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 5))):
        page = data.draw(st.integers(0, len(raw) // page_size - 1))
        within = data.draw(
            st.one_of(st.integers(0, 40), st.integers(0, page_size - 1), st.integers(page_size - 80, page_size - 1))
        )
        changed[page * page_size + within] = data.draw(
            st.one_of(st.sampled_from([0, 1, 5, 13, 127, 128, 255]), st.integers(0, 255))
        )
    if data.draw(st.integers(0, 9)) == 0:
        del changed[data.draw(st.integers(0, len(changed))) :]
    path = tmp_path / "t.sqlite"
    path.write_bytes(changed)
    for columns in (["a"], ["rowid", "a", "b", "c", "e"], ["rowid"]):
        survives(path, columns)
    survives(path, ["rowid", "c"], rowids=(17, 600))


def test_damage_that_matters_is_found(victims: list[Victim], tmp_path: Path) -> None:
    raw, page_size = victims[3].raw, victims[3].page_size
    path = tmp_path / "t.sqlite"
    path.write_bytes(raw)
    assert survives(path, ["rowid", "a", "b", "c", "e"])
    leaf = max(at for at in range(page_size, len(raw), page_size) if raw[at] == 13)  # not the first: all are judged
    cell = int.from_bytes(raw[leaf + 8 : leaf + 10], "big")
    second = int.from_bytes(raw[leaf + 10 : leaf + 12], "big")
    damages: dict[str, dict[int, int]] = {
        "a page of another kind": {0: 2},
        "more cells than fit": {3: 255},
        "one cell more than there are": {4: raw[leaf + 4] + 1},
        "a cell before the cells": {8: 0, 9: 8},
        "a cell at the page's end": {8: page_size - 2 >> 8, 9: page_size - 2 & 255},
        "the same cell twice": {10: raw[leaf + 8], 11: raw[leaf + 9]},
        "the next row's rowid": {cell + at: raw[leaf + second + at] for at in (1, 2)},
        "a payload shorter than its header": {cell: 3},
        "a payload shorter than its values": {cell: raw[leaf + cell] - 1},
        "a longer payload": {cell: 127},
    }
    for what, change in damages.items():
        changed = bytearray(raw)
        for at, value in change.items():
            changed[leaf + at] = value
        path.write_bytes(changed)
        assert by_pages(path, "t", ["rowid", "a", "b", "c", "e"]) is None, what


@pytest.mark.parametrize("more", [1, 2, 50])
def test_an_edge_behind_its_page_is_found_also_where_rows_end_there(
    victims: list[Victim], tmp_path: Path, more: int
) -> None:
    """SQL goes on to the next page until a row lies behind the bound; so the edge must not end the search alone."""
    raw, root = bytearray(victims[3].raw), victims[3].page_size
    path, edges = tmp_path / "t.sqlite", {}
    assert raw[root] == 5
    for pointer in range(root + 12, root + 12 + 2 * int.from_bytes(raw[root + 3 : root + 5], "big"), 2):
        at = root + int.from_bytes(raw[pointer : pointer + 2], "big") + 4
        edges[at] = (raw[at] & 127) << 7 | raw[at + 1]
    path.write_bytes(raw)
    assert all(survives(path, ["rowid", "c"], rowids=(17, edge + more)) for edge in edges.values())
    for at, edge in edges.items():
        changed = bytearray(raw)
        changed[at : at + 2] = (edge + more >> 7 | 128, edge + more & 127)
        path.write_bytes(changed)
        assert by_pages(path, "t", ["rowid", "c"], rowids=(17, edge + more)) is None, edge


def test_pages_that_lead_to_themselves(victims: list[Victim], tmp_path: Path) -> None:
    raw, page_size = victims[1].raw, victims[1].page_size
    path = tmp_path / "t.sqlite"
    inner = [at for at in range(page_size, len(raw), page_size) if raw[at] == 5]
    assert len(inner) > 3
    for at in inner:
        pointer = at + int.from_bytes(raw[at + 12 : at + 14], "big")
        own = int.from_bytes(raw[pointer : pointer + 4], "big")
        for target in (0, 1, own, at // page_size + 1, inner[0] // page_size + 1, len(raw) // page_size + 1, 2**32 - 1):
            changed = bytearray(raw)
            changed[at + 8 : at + 12] = target.to_bytes(4, "big")
            path.write_bytes(changed)
            with Pages(path) as file:
                assert file.table("t") is None, (at, target)


# Pages made by hand, each wrong in one way that no other check sees.

SMALL = 512


def row(rowid: int, types: Sequence[int], values: bytes = b"", more: int = 0) -> bytes:
    """A cell; its stated payload is `more` bytes longer than it is."""
    payload = len(types) + 1 + len(values) + more
    size = bytes([payload]) if payload < 128 else bytes([payload >> 7 | 128, payload & 127])
    return size + bytes([rowid, len(types) + 1, *types]) + values


def page(kind: int, pointers: Sequence[int], cells: Sequence[tuple[int, bytes]], right: int = 0) -> bytes:
    """A page with these pointers, and cells at these places."""
    made = bytearray(SMALL)
    head = bytes([kind, 0, 0, 0, len(pointers), 0, 0, 0]) + (right.to_bytes(4, "big") if kind == 5 else b"")
    head += b"".join(pointer.to_bytes(2, "big") for pointer in pointers)
    made[: len(head)] = head
    for at, cell in cells:
        made[at : at + len(cell)] = cell[: SMALL - at]
    return bytes(made)


def leaf(*cells: bytes, end: int = SMALL) -> bytes:
    """A leaf page, filled from `end` down."""
    placed: list[tuple[int, bytes]] = []
    for cell in cells:
        end -= len(cell)
        placed.append((end, cell))
    return page(13, [at for at, _ in placed], placed)


def by_hand(path: Path, *made: bytes) -> Path:
    """A file whose table `t` has the columns a and b, and its root in the first of the pages."""
    with written(path, SMALL) as sql:
        sql.execute("CREATE TABLE t (a INTEGER, b INTEGER)")
    raw = bytearray(path.read_bytes()[:SMALL] + b"".join(made))
    raw[28:32] = (len(made) + 1).to_bytes(4, "big")
    path.write_bytes(raw)
    return path


WHOLE = row(1, [4, 1], b"\0\0\1\0\5")
HALF = row(1, [4, 1], b"\0\0\1\0\5", more=-2)
LONGER = row(1, [4, 1], b"\0\0\1\0\5", more=1)
OVER = row(1, [4, 0, 120], b"\0\0\1\0" + bytes(480))
#: A size of three bytes; who reads two finds rowid 5, and a header of an integer and 120 other bytes.
WIDE = b"\x80\x80\5" + bytes([4, 4, 0x81, 0x7C]) + bytes(124)
#: A row that begins within the pointers: 1 byte of payload, rowid 80, a header of 1 byte.
WITHIN = page(13, [0x0150, 0x0170, 8], [(0x0150, row(1, [8, 9])), (0x0170, row(2, [8, 9]))])


def test_pages_made_by_hand_are_read(tmp_path: Path) -> None:
    assert agrees(by_hand(tmp_path / "1.sqlite", leaf(WHOLE, row(2, [8, 9]), end=500)), "t", ["rowid", "a", "b"])
    inner = page(5, [500], [(500, b"\0\0\0\3\1")], right=4)
    path = by_hand(tmp_path / "2.sqlite", inner, leaf(WHOLE), leaf(row(2, [8, 9])))
    assert agrees(path, "t", ["rowid", "a", "b"])


@pytest.mark.parametrize(
    ("columns", "made"),
    [
        pytest.param(["a"], [leaf(HALF, end=400)], id="the values go on behind the payload"),
        pytest.param(["a", "b"], [leaf(LONGER, end=400)], id="the payload goes on behind the values"),
        pytest.param(["a"], [leaf(LONGER)], id="the payload goes on behind the page"),
        pytest.param(["a"], [leaf(OVER)], id="the row goes on elsewhere"),
        pytest.param(["a", "b"], [WITHIN], id="a row within the pointers"),
        pytest.param(["a"], [leaf(row(1, []))], id="a cell of fewer bytes than there are"),
        pytest.param(["a"], [leaf(WIDE, end=400)], id="a size of three bytes"),
        pytest.param(
            ["a"],
            [page(5, [SMALL - 4], [(SMALL - 4, b"\0\0\0\3")], right=4), leaf(row(0, [8, 9])), leaf(WHOLE)],
            id="a key behind the page",
        ),
        pytest.param(
            ["a"],
            [page(5, [500], [(500, b"\0\0\0\3\1")], right=4), leaf(row(2, [8, 9])), leaf(row(3, [8, 9]))],
            id="a greater rowid than its page may hold",
        ),
        pytest.param(
            ["a"],
            [page(5, [500], [(500, b"\0\0\0\3\2")], right=4), leaf(WHOLE), leaf(row(2, [8, 9]))],
            id="a smaller rowid than its page may hold",
        ),
    ],
)
def test_pages_made_by_hand_that_are_wrong(columns: list[str], made: list[bytes], tmp_path: Path) -> None:
    assert by_pages(by_hand(tmp_path / "t.sqlite", *made), "t", columns) is None


def test_the_page_that_holds_no_data(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with written(path, 65536) as sql:
        sql.execute("CREATE TABLE t (a INTEGER)")
        sql.execute("INSERT INTO t VALUES (5)")
    raw = path.read_bytes()
    schema_page, only = raw[:65536], raw[65536:]
    for number, known in (
        (2**30 // 65536, True),
        (2**30 // 65536 + 1, False),
    ):  # the page of the lock, and the one before
        moved = schema_page.replace(b"t\x02CREATE", b"t\x03CREATE")
        assert moved != schema_page
        inner = bytearray(65536)
        inner[:14] = bytes([5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2]) + (60_000).to_bytes(2, "big")
        inner[60_000:60_005] = number.to_bytes(4, "big") + b"\1"
        last = bytearray(only)
        cell = int.from_bytes(last[8:10], "big")
        last[cell + 1] = 2
        with path.open("wb") as file:
            file.write(moved[:28] + (2**30 // 65536 + 2).to_bytes(4, "big") + moved[32:] + last + inner)
            file.seek((number - 1) * 65536)
            file.write(only)
            file.truncate(2**30 + 2 * 65536)  # a file with a hole: it takes no room
        assert (by_pages(path, "t", ["a"]) == [(5,), (5,)]) == known
        assert (by_pages(path, "t", ["a"]) is None) != known


def test_more_columns_than_a_header_of_one_byte_tells(tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with written(path, SMALL) as sql:
        sql.execute("CREATE TABLE t (c0 INTEGER)")
        sql.execute("INSERT INTO t VALUES (5)")
        for number in range(1, 300):
            sql.execute(f"ALTER TABLE t ADD COLUMN c{number} INTEGER")
    assert [agrees(path, "t", [f"c{number}"]) for number in (0, 1, 125, 126, 299)] == [True, True, True, False, False]


@pytest.mark.parametrize("columns", [126, 127, 130])
def test_headers_whose_length_has_two_bytes(columns: int, tmp_path: Path) -> None:
    path = tmp_path / "t.sqlite"
    with written(path, SMALL) as sql:
        sql.execute(f"CREATE TABLE t ({', '.join(f'c{number}' for number in range(columns))})")
        # Of 130 columns the second byte is 4: who takes it for a type finds an integer.
        sql.execute("INSERT INTO t (c0, c1) VALUES (70000, 70000)")
    assert agrees(path, "t", ["c0"]) == (columns == 126)
