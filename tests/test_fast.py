"""Compiled loops: bit for bit what the array code beside them says, for the asking, and never in the way."""

from __future__ import annotations

import contextvars
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nst

import slow_reference as slow
from compiled import way
from dsprof import arrays as at
from dsprof.analysis import Analysis, analyze
from dsprof.arrays import Ints, backend, statistics
from dsprof.attributed import Rules
from dsprof.errors import FastUnavailable
from dsprof.nsys.locate import locate
from dsprof.nsys.reader import read
from test_parts import SAMPLES, assert_same, in_parts, written
from test_properties import MODES, few, recordings
from trace_builder import TraceBuilder

ROOT = Path(__file__).parents[1]


def same(function: Any, *arguments: Any) -> Any:
    """What a function says with compiled loops; that it says the same without them is asserted."""
    plain = function(*(value.copy() if isinstance(value, np.ndarray) else value for value in arguments))
    with way(True):
        loops = function(*arguments)
    for one, other in zip(*(each if isinstance(each, tuple) else (each,) for each in (plain, loops)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    return loops


# -- one loop at a time -------------------------------------------------------------------------------------


def numbers(low: int, high: int, size: int) -> st.SearchStrategy[Ints]:
    return nst.arrays(np.int64, size, elements=st.integers(low, high))


@st.composite
def intervals(draw: st.DrawFn, groups: int = 4) -> tuple[Ints, Ints, Ints]:
    """Groups, starts and ends; times small, or as wide as they may be."""
    size = draw(st.integers(0, 30))
    span = draw(st.sampled_from([20, 10**6, 10**17]))
    start = draw(numbers(0, span, size))
    return draw(numbers(0, groups - 1, size)), start, start + draw(numbers(0, span // 2, size))


@few
@given(intervals())
def test_unions(rows: tuple[Ints, Ints, Ints]) -> None:
    group, start, end = rows
    found = same(at.union_length, group, start, end, 4)
    for number in range(4):
        mine = [(a, b) for g, a, b in zip(*map(np.ndarray.tolist, rows), strict=True) if g == number]
        assert found[number] == slow.covered_length(mine)


@few
@given(intervals(), st.data())
def test_unions_of_slices(rows: tuple[Ints, Ints, Ints], data: st.DataObject) -> None:
    _, start, end = rows
    size = data.draw(st.integers(0, 12))
    low = data.draw(numbers(0, len(start), size))
    high = np.maximum(low, data.draw(numbers(0, len(start), size)))
    found = same(at.busy_in_slices, np.zeros(len(start), np.int64), start, end, low, high)
    for row in range(size):
        inside = slice(int(low[row]), int(high[row]))
        assert found[row] == slow.covered_length(list(zip(start[inside].tolist(), end[inside].tolist(), strict=True)))


@few
@given(intervals(), st.data())
def test_the_innermost_range(rows: tuple[Ints, Ints, Ints], data: st.DataObject) -> None:
    scope, start, end = rows
    size = data.draw(st.integers(0, 30))
    times = st.sampled_from([*start.tolist(), *end.tolist(), 0, 7])
    at_scope, time = data.draw(numbers(0, 5, size)), data.draw(nst.arrays(np.int64, size, elements=times))
    same(at.innermost, scope, start, end, at_scope, time)


@few
@given(st.integers(0, 40), st.integers(0, 40), st.data())
def test_joins(ops: int, calls: int, data: st.DataObject) -> None:
    ids = st.sampled_from([at.NULL, 0, 1, 2, 3, 5, 8, 13, 10**12])
    columns = [
        (data.draw(numbers(0, 2, size)), data.draw(nst.arrays(np.int64, size, elements=ids))) for size in (ops, calls)
    ]
    same(at.join_calls, *columns[0], *columns[1], data.draw(numbers(0, 9, calls)))


@few
@given(st.integers(0, 60), st.integers(1, 4), st.data())
def test_groups_of_rows(size: int, columns: int, data: st.DataObject) -> None:
    values = st.sampled_from([at.NULL, -1, 0, 1, 2, 3, 2**40, 2**62])
    rows = [data.draw(nst.arrays(np.int64, size, elements=values)) for _ in range(columns)]
    heads, _ = same(at.group_rows, *rows)
    assert len(heads) == len(set(zip(*(row.tolist() for row in rows), strict=True)))


def test_more_groups_than_the_small_table_holds() -> None:
    values = np.random.default_rng(1).integers(0, 9000, 40000)
    heads, _ = same(at.group_rows, values, values % 7)
    assert len(heads) > 8000


@few
@given(st.integers(0, 60), st.booleans(), st.data())
def test_distributions(size: int, weighted: bool, data: st.DataObject) -> None:
    group, values = data.draw(numbers(0, 3, size)), data.draw(numbers(0, 5, size))
    same(statistics.distribution, group, values, data.draw(numbers(1, 9, size)) if weighted else None)


@pytest.mark.parametrize("kinds", [100, 3000, 50_000, 400_000])
def test_distributions_of_few_and_of_very_many_values(kinds: int) -> None:
    """The table grows with the values; where there are more than it may hold, they are sorted."""
    random = np.random.default_rng(2)
    found = same(statistics.distribution, random.integers(0, 3, 500_000), random.integers(0, kinds, 500_000))
    assert found.times.sum() == 500_000


@few
@given(st.integers(0, 60), st.integers(1, 9), st.data())
def test_order_by_number(size: int, most: int, data: st.DataObject) -> None:
    values = data.draw(numbers(-1, most - 1, size))
    found = same(at.by_number, values, most)
    assert found.tolist() == sorted((row for row in range(size) if values[row] >= 0), key=lambda row: values[row])


def test_values_that_are_far_from_their_order_are_left_to_the_sort() -> None:
    with way(True):
        near, far = np.arange(1000) ^ 1, np.arange(1000)[::-1].copy()
        assert backend.loops().settle(near) and (near == np.arange(1000)).all()
        assert not backend.loops().settle(far)
        assert sorted(far.tolist()) == list(range(1000))


# -- whole reports ------------------------------------------------------------------------------------------


def compute(analysis: Analysis) -> None:
    """Everything now, and not when it is asked for."""
    for name in analysis:
        analysis.arrow(name)
    analysis.summary()


@pytest.mark.parametrize("threads", MODES)
def test_random_reports_are_the_same(threads: str, tmp_path: Path) -> None:
    @few
    @given(recordings(), st.integers(1, 9))
    def check(rec: slow.Recording, parts: int) -> None:
        path, rules = written(rec, tmp_path / "random.sqlite"), Rules(threads=threads)
        plain = Analysis(read(path), rules, path)
        compute(plain)
        with way(True):
            assert_same(plain, in_parts(path, parts, rules) if parts > 1 else Analysis(read(path), rules, path))

    check()


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("sample", SAMPLES)
def test_recorded_reports_are_the_same(sample: str, parts: int) -> None:
    path, rules = locate(ROOT / "traces" / "samples" / f"{sample}.sqlite.xz")[1].path, Rules()
    plain = Analysis(read(path), rules, path)
    compute(plain)
    with way(True):
        assert_same(plain, in_parts(path, parts, rules) if parts > 1 else Analysis(read(path), rules, path))


# -- when they are used -------------------------------------------------------------------------------------


@pytest.fixture
def report(tmp_path: Path) -> Path:
    made = TraceBuilder("2025.3.2").range("decode", 0, 100, payload=2).kernel("a", at=(20, 70), call=(1, 5))
    return made.write(tmp_path / "made.sqlite")


def test_large_reports_have_them_unless_told_otherwise(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    for wanted, rows, used in [(None, backend.WORTH_ROWS - 1, False), (None, backend.WORTH_ROWS, True),
                               (False, backend.WORTH_ROWS, False), (True, 0, True)]:  # fmt: skip
        assert (backend.choose(wanted, rows).loops is not None) is used
    plain = analyze(report, reuse=False)
    loops = analyze(report, reuse=False, compiled=True)
    assert [one._backend.page_loops is not None for one in (plain, loops)] == [False, True]
    assert backend.current() is backend.NUMPY


@pytest.mark.parametrize("sample", SAMPLES[:2])
def test_analyses_at_once_keep_each_its_own_backend(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads, two with loops and two without, in one part and in many; all tables are the same, always."""
    pytest.importorskip("numba", reason="numba is not installed")
    path = locate(ROOT / "traces" / "samples" / f"{sample}.sqlite.xz")[1].path
    plain = Analysis(read(path), Rules(), path)
    compute(plain)
    used: dict[str, set[bool]] = {"with": set(), "without": set()}
    union_length = at.union_length

    def watched(*columns: Any) -> Any:
        used[kind.get()].add(backend.loops() is not None)
        return union_length(*columns)

    kind: contextvars.ContextVar[str] = contextvars.ContextVar("kind", default="nobody")
    monkeypatch.setattr(at, "union_length", watched)

    def work(number: int) -> Analysis:
        kind.set("with" if number % 2 else "without")
        with way(bool(number % 2)):
            made = in_parts(path, 5) if number > 1 else Analysis(read(path), Rules(), path)
        compute(made)
        return made

    with ThreadPoolExecutor(4) as threads:
        for made in threads.map(work, [*range(4)] * 2):
            assert_same(plain, made)
    assert used == {"with": {True}, "without": {False}}


def test_a_small_report_loads_no_numba(report: Path) -> None:
    code = f"import sys, dsprof; dsprof.analyze({str(report)!r}).summary(); sys.exit('numba' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("error", [ImportError("No module named 'numba'"), RuntimeError("no locator available")])
def test_without_a_numba_that_works_nothing_is_lost_but_time(
    report: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(name: str) -> None:
        raise error

    monkeypatch.setattr(backend, "import_module", fails)
    monkeypatch.setattr(backend, "WORTH_ROWS", 0)
    assert len(analyze(report, reuse=False)["kern_trace"]) == 1
    with pytest.raises(FastUnavailable, match=str(error)) as raised:
        analyze(report, reuse=False, compiled=True)
    assert "pip install 'dsprof[fast]'" in raised.value.hint
    assert raised.value.exit_code == 18
