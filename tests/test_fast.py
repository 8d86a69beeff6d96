"""Compiled loops: bit for bit what the array code beside them says, for the asking, and never in the way."""

from __future__ import annotations

import ast
import contextvars
import os
import re
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

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import kept

import slow_reference as slow
from compiled import way
from dsprof import arrays as at
from dsprof.analysis.analyze import Analysis, analyze
from dsprof.arrays import Ints, backend, statistics
from dsprof.arrays.timelines import Layers, Source, Windows, time_by_layer
from dsprof.errors import FastUnavailable
from dsprof.nsys.locate import locate
from dsprof.nsys.reader import read
from dsprof.rules.rules import Rules
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
    start = data.draw(numbers(0, 9, calls))
    found = at.join_calls(*columns[0], *columns[1], start)
    made = list(zip(*(column.tolist() for column in columns[1]), strict=True))
    for op, wanted in enumerate(zip(*(column.tolist() for column in columns[0]), strict=True)):
        its = [call for call, one in enumerate(made) if one == wanted and wanted[1] != at.NULL]
        assert found[op] == min(its, key=lambda call: (start[call], call), default=-1)


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


@few
@given(st.integers(0, 60), st.data())
def test_distinct_values(size: int, data: st.DataObject) -> None:
    values = data.draw(nst.arrays(np.int64, size, elements=st.sampled_from([at.NULL, -1, 0, 1, 7, 2**40, 2**62])))
    assert same(at.distinct, values).tolist() == sorted(set(values.tolist()))


@few
@given(intervals(1), st.data())
def test_pieces_in_windows(rows: tuple[Ints, Ints, Ints], data: st.DataObject) -> None:
    """Pieces one after another; each window has those that it touches, and is cut at both ends."""
    lengths = rows[2] - rows[1]
    end = np.cumsum(lengths)
    start, name = end - lengths, data.draw(numbers(0, 3, len(lengths)))
    last, size = int(end[-1]) if len(end) else 0, data.draw(st.integers(0, 12))
    begin = data.draw(numbers(0, last, size))
    finish = np.minimum(begin + data.draw(numbers(0, last + 1, size)), last)
    low, high = np.searchsorted(end, begin, side="right"), np.searchsorted(start, finish, side="left")
    columns = (low, np.maximum(high, low), begin, finish, start, end, name)
    found = same(lambda *given: by_rows(at.spent_in_windows(*given, 4)), *columns)
    for window, which, count, spent in zip(*map(np.ndarray.tolist, found), strict=True):
        pieces = [
            min(stop, finish[window]) - max(first, begin[window])
            for first, stop, its in zip(start.tolist(), end.tolist(), name.tolist(), strict=True)
            if its == which and min(stop, finish[window]) > max(first, begin[window])
        ]
        assert (count, spent) == (len(pieces), sum(pieces))


def by_rows(columns: tuple[Ints, ...]) -> tuple[Ints, ...]:
    """The columns in the order of their rows."""
    order = np.lexsort(columns[::-1])
    return tuple(column[order] for column in columns)


@few
@given(st.data())
def test_time_by_layer(data: st.DataObject) -> None:
    """What runs and waits of two processes, what holds their threads up and is called; windows that nest."""
    layers = Layers(("runs", "waits", "held", "alloc", "api", "off"), 2, 3, 5)
    kinds = [((1, 2), (0, 0)), ((1, 2), (1, 1)), ((11, 21, 22), (2, 2)), ((11, 21, 22), (3, 4)), ((11, 21, 22), (5, 5))]
    kinds = kinds[: data.draw(st.integers(4, 5))]
    sources = []
    for owners, (least, most) in kinds:
        _, start, end = data.draw(intervals())
        owner = data.draw(nst.arrays(np.int64, len(start), elements=st.sampled_from(owners)))
        layer = data.draw(numbers(least, most, len(start))) if least < most else np.array([least])
        order = np.argsort(start, kind="stable")
        layer = layer[order] if len(layer) == len(start) and least < most else layer
        sources.append(Source(owner[order], layer, start[order], end[order]))
    _, start, end = data.draw(intervals())
    kept = end > start
    thread = data.draw(nst.arrays(np.int64, len(start), elements=st.sampled_from((11, 21, 22))))[kept]
    windows = Windows(thread // 10, thread, start[kept], end[kept])
    found = same(lambda: np.array([spent for _, spent in sorted(time_by_layer(sources, windows, layers).items())]))
    if not len(thread):
        return
    *layered, calls = (found[sorted([*layers.names, "rest", "in_calls"]).index(name)] for name in
                       (*layers.names, "rest", "in_calls"))  # fmt: skip
    assert (np.sum(layered, axis=0) == windows.end - windows.start).all()
    assert (calls >= layered[3] + layered[4]).all()


def test_each_pair_has_a_test() -> None:
    """Of a function that asks for compiled loops, and of a test that calls it with them and without."""
    folder = Path(at.__file__).parent
    asking = {
        function.name
        for file in folder.glob("*.py")
        if file.stem != "backend"
        for function in ast.walk(ast.parse(file.read_text()))
        if isinstance(function, ast.FunctionDef) and "backend.loops()" in ast.unparse(function)
    }
    tests = Path(__file__).read_text()
    assert asking
    assert [name for name in asking if not re.search(rf"same\(.*\b{name}\b", tests)] == []


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
        plain = Analysis.of(read(path), rules, path)
        compute(plain)
        with way(True):
            assert_same(plain, in_parts(path, parts, rules) if parts > 1 else Analysis.of(read(path), rules, path))

    check()


@pytest.mark.parametrize("parts", [1, 7])
@pytest.mark.parametrize("sample", SAMPLES)
def test_recorded_reports_are_the_same(sample: str, parts: int) -> None:
    path, rules = locate(ROOT / "traces" / "samples" / f"{sample}.sqlite.xz")[1].path, Rules()
    plain = Analysis.of(read(path), rules, path)
    compute(plain)
    with way(True):
        assert_same(plain, in_parts(path, parts, rules) if parts > 1 else Analysis.of(read(path), rules, path))


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
    assert [one.results._backend.page_loops is not None for one in (plain, loops)] == [False, True]
    assert backend.current() is backend.NUMPY


@pytest.mark.parametrize("sample", SAMPLES[:2])
def test_analyses_at_once_keep_each_its_own_backend(sample: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads, two with loops and two without, in one part and in many; all tables are the same, always."""
    pytest.importorskip("numba", reason="numba is not installed")
    path = locate(ROOT / "traces" / "samples" / f"{sample}.sqlite.xz")[1].path
    plain = Analysis.of(read(path), Rules(), path)
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
            made = in_parts(path, 5) if number > 1 else Analysis.of(read(path), Rules(), path)
        compute(made)
        return made

    with ThreadPoolExecutor(4) as threads:
        for made in threads.map(work, [*range(4)] * 2):
            assert_same(plain, made)
    assert used == {"with": {True}, "without": {False}}


AT_ONCE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kept
from dsprof.arrays import backend

paths, ways = sys.argv[1:], [backend.NUMPY, backend.compiled()]


def work(number):
    with backend.using(ways[number % 2]):
        return kept.fingerprints(Path(paths[number // 2 % len(paths)]), (1, 5)[number // 4 % 2])


with ThreadPoolExecutor(4) as threads:
    found = list(threads.map(work, range(16)))
for number, tables in enumerate(found):
    print(paths[number // 2 % len(paths)], sorted(tables.items()))
"""


def test_two_processes_of_four_threads_keep_each_its_own_report_and_backend() -> None:
    """Different reports with and without loops at once, whole and in parts: always what each says by itself."""
    pytest.importorskip("numba", reason="numba is not installed")
    paths = [str(locate(ROOT / "traces" / "samples" / f"{sample}.sqlite.xz")[1].path) for sample in SAMPLES[1:3]]
    expected = {path: str(sorted(kept.fingerprints(Path(path), 1).items())) for path in paths}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "benchmarks"), *sys.path])}
    command = [sys.executable, "-c", AT_ONCE, *paths]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    for process in both:
        said = process.communicate(timeout=200)[0].splitlines()
        assert process.returncode == 0
        assert len(said) == 16
        for line in said:
            path, _, tables = line.partition(" ")
            assert tables == expected[path]


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
