"""What compiled loops read of a file's pages: the array code's columns, and nothing where that says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from compiled import way
from dsprof.arrays import Ints, backend
from dsprof.nsys.pages import Pages
from test_pages import Victim, opened, sample, victims, written  # noqa: F401  two are fixtures

pytest.importorskip("numba", reason="numba is not installed")

from dsprof.arrays import page_loops

LEAST, GREATEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


def read(path: Path, table: str, columns: Sequence[str], compiled: bool, **how: Any) -> dict[str, Ints] | None:
    with way(compiled), Pages(path) as file:
        found = file.table(table)
        return found.read(columns, **how) if found else None


def known(path: Path, table: str, columns: Sequence[str], **how: Any) -> bool:
    """Do the pages tell the columns? Both ways must say the same."""
    arrays, loops = (read(path, table, columns, compiled, **how) for compiled in (False, True))
    assert (arrays is None) == (loops is None)
    for name in columns if arrays and loops else ():
        assert loops[name].dtype == np.int64
        assert np.array_equal(arrays[name], loops[name]), name
    return arrays is not None


def test_every_table_of_real_exports(sample: Path) -> None:  # noqa: F811
    with opened(sample) as sql:
        declared = {
            table.decode(): [row[1].decode() for row in sql.execute(f'PRAGMA table_info("{table.decode()}")')]
            for (table,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        }
    assert declared
    for table, columns in declared.items():
        readable = [name for name in columns if known(sample, table, [name])]
        assert known(sample, table, ["rowid", *readable])
        assert known(sample, table, ["rowid", *readable[:2]], rowids=(100, 5000))
        for name in readable[:3]:
            assert known(sample, table, ["rowid", *readable], where=(name, (0, 1, 59, 60, 2**70)))


def test_more_headers_than_the_loop_has_slots_for(tmp_path: Path) -> None:
    path, values = tmp_path / "t.sqlite", (0, 2, 200, 2**20, 2**30, 2**40, None)
    with written(path) as sql:
        sql.execute("CREATE TABLE t (a, b, c, d, e, f)")
        rows = ([values[row * step // 7**5 % 7] for step in (1, 7, 49, 343, 7**4, 7**5)] for row in range(40_000))
        sql.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", rows)
    for columns in (["a"], list("abcdef"), list("fedcba")):
        assert known(path, "t", columns)


COLUMNS = (["a"], ["rowid", "a", "b", "c", "e"], ["c", "d"])


def known_if_damaged(path: Path) -> int:
    return (
        sum(known(path, "t", columns) for columns in COLUMNS)
        + known(path, "t", ["rowid", "c"], rowids=(17, 600))
        + known(path, "t", ["e"], where=("b", (1, 7)))
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage(data: st.DataObject, victims: list[Victim], tmp_path: Path) -> None:  # noqa: F811
    victim = data.draw(st.sampled_from(victims))
    changed = bytearray(victim.raw)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.one_of(st.sampled_from([0, 1, 13, 127, 128, 255]), st.integers(0, 255)))
    path = tmp_path / "t.sqlite"
    path.write_bytes(changed)
    known_if_damaged(path)


def test_flipped_bits(victims: list[Victim], tmp_path: Path) -> None:  # noqa: F811
    random, path, told = np.random.default_rng(7), tmp_path / "t.sqlite", []
    for _ in range(400):
        changed = np.frombuffer(victims[0].raw, np.uint8).copy()
        at = random.integers(512, len(changed), random.integers(1, 4))  # not the schema's page
        changed[at] ^= np.uint8(1) << random.integers(0, 8, len(at)).astype(np.uint8)
        path.write_bytes(changed.tobytes())
        told.append(known_if_damaged(path))
    assert min(told) == 0 < max(told)


def test_pages_of_noise(victims: list[Victim], tmp_path: Path) -> None:  # noqa: F811
    """All but a page's kind and its number of cells is random."""
    random, path = np.random.default_rng(8), tmp_path / "t.sqlite"
    victim = victims[3]
    for _ in range(100):
        pages = np.frombuffer(victim.raw, np.uint8).copy().reshape(-1, victim.page_size)
        leaf = random.choice(np.flatnonzero(pages[:, 0] == 13))
        pages[leaf, 8 + random.integers(0, 600) :] = random.integers(0, 256)
        pages[leaf, random.integers(8, victim.page_size, 50)] = random.integers(0, 256, 50)
        path.write_bytes(pages.tobytes())
        known_if_damaged(path)


# -- the loops alone, asked for what no page makes them look for ----------------------------------------


def ints(*values: int) -> Ints:
    return np.array(values, np.int64)


def cells(flat: np.ndarray, start: int, count: int, usable: int, room: int = 200) -> int:
    rows = np.empty((3, room), np.int64)
    return page_loops.cells(flat, ints(start), ints(count), ints(LEAST, GREATEST), usable, *rows)


def test_no_cell_is_looked_for_outside_the_buffer() -> None:
    flat = np.full(1000, 255, np.uint8)
    outside = ((-1, 1, 512), (LEAST, 1, 512), (600, 1, 512), (GREATEST, 1, 512), (0, 1, 5000), (0, 400, 512))
    for start, count, usable in outside:
        assert cells(flat, start, count, usable) == page_loops.UNKNOWN
    page = np.zeros(1000, np.uint8)
    page[8:12] = (1, 100, 1, 50)  # two cells, at 356 and at 306
    page[[356, 357, 306, 307]] = (2, 1, 2, 2)
    assert cells(page, 0, 2, 512) == 2
    assert cells(page, 0, 2, 512, room=1) == page_loops.UNKNOWN


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 100), st.sampled_from([0, 8, 64, 255]))
def test_random_bytes_make_no_rows_that_leave_their_page(seed: int, count: int, most: int) -> None:
    random = np.random.default_rng(seed)
    flat = random.integers(0, most + 1, 512 + 16).astype(np.uint8)
    flat[8 : 8 + 2 * count] = random.integers(200, 512, count).astype(">u2").view(np.uint8)
    rowid, head, payload = np.empty((3, count), np.int64)
    found = page_loops.cells(flat, ints(0), ints(count), ints(LEAST, GREATEST), 512, rowid, head, payload)
    assert found in (count, page_loops.UNKNOWN)
    if found == count:
        assert (head + payload <= 512).all()
        assert (np.diff(rowid) > 0).all()


def test_no_header_is_looked_for_outside_the_buffer() -> None:
    flat = np.ones(500, np.uint8)
    for head in (-1, 366, 500, GREATEST, LEAST):
        assert page_loops.groups(flat, ints(head), 9, ints(0), ints(0)) == page_loops.UNKNOWN
    assert page_loops.groups(flat, ints(365), 9, ints(0), ints(0)) == 1


def test_rows_outside_the_buffer_do_not_fit() -> None:
    flat, ended = np.zeros(100, np.uint8), np.array([False])
    for head, payload, fits in ((0, 92, True), (0, 93, False), (-1, 5, False), (GREATEST, 5, False), (50, 3, False)):
        assert page_loops.fits(flat, ints(head), ints(payload), ints(0), ints(4), ended) == fits


def test_loops_are_used_only_where_they_are_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.sqlite"
    with written(path) as sql:
        sql.execute("CREATE TABLE t (a INTEGER)")
        sql.execute("INSERT INTO t VALUES (500)")
    for name in ("cells", "groups", "fits", "gather"):
        monkeypatch.setattr(page_loops, name, None)
    assert backend.loops() is None
    assert read(path, "t", ["a"], compiled=False) == {"a": [500]}
    with pytest.raises(TypeError):
        read(path, "t", ["a"], compiled=True)
