"""Time and memory on hostile reports: what goes other ways where ranges nest deep says the same, and counts little."""

from __future__ import annotations

import re
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import slow_reference as slow
from dsprof import arrays as at
from dsprof.analysis.analyze import Analysis
from dsprof.arrays import Ints, joins, nesting, rows, slicing, timelines, windows
from dsprof.attribute import ranges as ranged
from dsprof.cli import main
from dsprof.errors import NotAReport, PatternTooSlow
from dsprof.ground import patterns
from dsprof.measures import range_kernels, range_sums
from dsprof.nsys import strings, survey
from dsprof.nsys.parts import size_of
from dsprof.nsys.reader import read
from dsprof.nsys.survey import Ids
from dsprof.rules.families import OTHER, RULES, family_of
from dsprof.rules.names import short_kernel_name
from dsprof.words import CUDA_GRAPH
from test_parts import as_text, assert_same, in_parts, written
from test_properties import (
    MODES,
    analysis_of,
    assert_holds,
    assert_rows,
    few,
    keyed,
    recordings,
    renamed,
    rows_of,
    some,
)
from trace_builder import KERNEL, LAUNCH, NVTX, RUNTIME, TraceBuilder

INTERVALS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 12)), max_size=25)


@contextmanager
def deep() -> Iterator[None]:
    """Within, every report takes the ways that only deep nesting takes otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nesting, "_STEPS", 0)
        for name in ("_TIMES_EACH", "_TIMES_MIXED"):
            patch.setattr(slicing, name, 0)
        patch.setattr(rows, "FEW", 0)
        patch.setattr(joins, "FEW", 0)
        patch.setattr(range_sums, "_CALLS_BACK", 0)
        patch.setattr(windows, "_TIMES_EACH", 0)
        patch.setattr(timelines, "_LONGEST", 10)
        for name in ("_DEEP", "_CROWD"):
            patch.setattr(range_kernels, name, 0)
        yield


def made(report: TraceBuilder) -> Analysis:
    """The analysis of a made report."""
    with TemporaryDirectory() as folder:
        path = report.write(Path(folder, "made.sqlite"))
        return Analysis.of(read(path), None, path)


def columns(rows: list[tuple]) -> list[np.ndarray]:
    return list(np.array(rows, np.int64).reshape(-1, 3).T)


@given(INTERVALS)
def test_a_tree_finds_the_container_that_steps_find(drawn):
    scope, start, length = columns(drawn)
    usual = at.containers(scope, start, start + length)
    with deep():
        assert at.containers(scope, start, start + length).tolist() == usual.tolist()


@given(INTERVALS, INTERVALS)
def test_a_tree_finds_the_innermost_range_that_steps_find(drawn, points):
    (scope, start, length), (at_scope, time, _) = columns(drawn), columns(points)
    usual = at.innermost(scope, start, start + length, at_scope, time)
    with deep():
        assert at.innermost(scope, start, start + length, at_scope, time).tolist() == usual.tolist()


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=20), st.data())
def test_sums_above_a_bound_are_those_of_a_loop(values, data):
    places = st.integers(0, len(values))
    slices = data.draw(st.lists(st.tuples(places, places, st.integers(-6, 6)).map(lambda s: (*sorted(s[:2]), s[2]))))
    low, high, bound = columns(slices)
    weights = np.arange(len(values)) ** 2 + 1
    found = at.slice_sum_above(np.array(values), weights, low, high, bound)
    assert found.tolist() == [
        sum(int(weights[place]) for place in range(one, other) if values[place] > least) for one, other, least in slices
    ]


@some
@given(recordings())
def test_ranges_are_told_the_same_however_deep(rec):
    expected = renamed(slow.range_trace(rec), row="range_id", parent_row="parent_id")
    with deep():
        assert_rows(rows_of(analysis_of(rec), "range_trace"), expected)


@few
@given(recordings(), st.sampled_from(MODES))
def test_all_tables_are_the_same_however_deep(rec, threads):
    usual = analysis_of(rec, threads)
    with deep():
        found = analysis_of(rec, threads)
        for table in usual:
            pd.testing.assert_frame_equal(as_text(found[table]), as_text(usual[table]), obj=table)


@some
@given(recordings())
def test_kernels_count_once_for_each_range_name_however_deep(rec):
    keys = ("name", "domain", "style", "pid", "tid", "kernel")
    with deep():
        rows = keyed(rows_of(analysis_of(rec), "range_kern_sum"), *keys)
    expected = slow.range_kern_sum(rec)
    assert set(rows) == set(expected)
    for key, want in expected.items():
        assert_holds(rows[key], want)


def test_names_that_are_left_out_are_told_and_the_others_are_whole(monkeypatch):
    report = TraceBuilder()
    for number in range(40):
        report.range(f"level {number}", number, 1000)
    for number in range(40):
        report.range("leaf", 100 + 10 * number, 108 + 10 * number)
        report.kernel(f"kernel {number % 3}", at=(2000 + number, 2001 + number), call=(101 + 10 * number, 102))
    whole = as_text(made(report)["range_kern_sum"]).set_index(["name", "kernel"])
    monkeypatch.setattr(ranged, "_MOST_INSIDE", 3000)
    monkeypatch.setattr(ranged, "_INSIDE_PER_RANGE", 0)
    analysis = made(report)
    kept = as_text(analysis["range_kern_sum"]).set_index(["name", "kernel"])
    names = {name for name, _ in kept.index}
    assert "leaf" in names
    assert 1 < len(names) < 41
    pd.testing.assert_frame_equal(kept, whole.loc[kept.index])
    (finding,) = [one for one in analysis.findings if one.code == "left-out"]
    left = 41 - len(names)
    assert f"leaves out {left} of the ranges' names ({left} ranges)" in finding.message


def test_ranges_that_reach_over_parts_count_once_however_many_overlap(tmp_path):
    @few
    @given(recordings(), st.integers(2, 9))
    def check(rec, parts):
        path = written(rec, tmp_path / "random.sqlite")
        with deep():
            assert_same(Analysis.of(read(path), None, path), in_parts(path, parts))

    check()


# -- numbers that a file says ---------------------------------------------------------------------------------

WIDE = st.one_of(st.integers(1, 20), st.integers(3_000_000_000, 3_000_000_020), st.integers(-(2**62), 2**62))


@given(st.lists(st.lists(st.tuples(st.integers(-2, 3), WIDE), max_size=12), max_size=6), st.integers(0, 2))
def test_ids_are_those_that_were_added_whatever_they_are(chunks, tables):
    ids, added = Ids(), [pair for chunk in chunks for pair in chunk]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(survey, "_MOST_TABLES", tables)
        patch.setattr(survey, "_SLOTS_FREE", 8)
        for chunk in chunks:
            ids.add(*np.array(chunk, np.int64).reshape(-1, 2).T)
    asked = [*added, *((process, number + 1) for process, number in added), (9, 1)]
    assert ids.has(*np.array(asked, np.int64).T).tolist() == [pair in set(added) for pair in asked]
    assert ids.repeats == (len(set(added)) < len(added))
    assert ids.has(*np.array(asked, np.int64).T).tolist() == [pair in set(added) for pair in asked]


def memory_of(function: Callable[[], object]) -> int:
    """Bytes that a function holds at its peak, as Python and numpy ask for them."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shift", [0, 3_000_000_000, -(2**62), 2**62])
@pytest.mark.parametrize("step", [1, 10_007])
def test_a_table_of_ids_is_no_larger_than_the_ids_are_many(shift, step):
    def add() -> None:
        ids = Ids()
        for process in range(50):
            numbers = shift + step * np.arange(2000)
            ids.add(np.full(len(numbers), process << 24), numbers)

    assert memory_of(add) < 200 * 50 * 2000


def test_a_report_of_wide_numbers_is_the_same_in_parts_and_takes_no_more(tmp_path):
    def write(name: str, id_of: Callable[[int], int]) -> Path:
        report = TraceBuilder()
        for number in range(300):
            report.range(f"range {number % 7}", 100 * number, 100 * number + 150, pid=1 + number % 90)
            report.kernel(f"kernel {number % 5}", at=(100 * number + 50, 100 * number + 90), pid=1 + number % 90,
                          call=(100 * number + 10, 100 * number + 20), correlation=id_of(number))  # fmt: skip
        return report.write(tmp_path / name)

    usual, wide = write("usual.sqlite", lambda number: number), write("wide.sqlite", lambda number: 7**17 * number)
    whole = Analysis.of(read(wide), None, wide)
    assert_same(whole, in_parts(wide, 5))
    expected = Analysis.of(read(usual), None, usual)
    for table in ("stage_sum", "range_trace", "range_kern_sum", "kern_sum"):
        pd.testing.assert_frame_equal(as_text(whole[table]), as_text(expected[table]))
    assert memory_of(lambda: in_parts(wide, 5)["stage_sum"]) < 1.5 * memory_of(lambda: in_parts(usual, 5)["stage_sum"])


@pytest.mark.parametrize("rowid", [2**63 - 1, 2**40])
def test_the_greatest_rowid_says_nothing_of_how_many_rows_there_are(tmp_path, rowid):
    report = TraceBuilder().range("prefill", 0, 100_000)
    for number in range(100):
        report.kernel(at=(100 * number + 50, 100 * number + 90), call=(100 * number + 10, 100 * number + 20))
    for table in (NVTX, RUNTIME, KERNEL):
        report.sql(f"UPDATE {table} SET rowid = {rowid} WHERE rowid = (SELECT max(rowid) FROM {table})")
    path = report.write(tmp_path / "far.sqlite")
    assert (size_of(path).calls, size_of(path).ops) == (100, 100)
    assert_same(Analysis.of(read(path), None, path), in_parts(path, 3))


# -- texts ----------------------------------------------------------------------------------------------------


def test_names_are_those_that_columns_use_and_nothing_else_is_read(tmp_path):
    def write(name: str, output: int) -> Path:
        report = TraceBuilder().range("prefill", 0, 1000).kernel("k" * 100_000, at=(20, 30), call=(10, 15))
        for number in range(output):
            report.string(f"{number} printed by the program " + "x" * 1_000_000)
        return report.write(tmp_path / name)

    quiet, loud = write("quiet.sqlite", 0), write("loud.sqlite", 30)
    for path in (quiet, loud):
        assert set(read(path).names) == {"", "prefill", LAUNCH, CUDA_GRAPH, "k" * strings.LONGEST + "…"}
        assert_same(Analysis.of(read(path), None, path), in_parts(path, 2))
    assert memory_of(lambda: read(loud)) < 2_000_000 + memory_of(lambda: read(quiet))


def test_strings_are_found_by_ids_of_any_width_and_missing_ones_are_empty(tmp_path):
    report = TraceBuilder()
    for name, start in (("one", 0), ("two", 100), ("three", 200)):
        report.range(name, start, start + 50)
    for name, number in (("one", 2**62), ("two", -5)):
        report.sql("UPDATE NVTX_EVENTS SET textId = ? WHERE textId = ?", number, report.string(name))
        report.sql("UPDATE StringIds SET id = ? WHERE value = ?", number, name)
    report.sql("DELETE FROM StringIds WHERE value = 'three'")
    trace = read(report.write(tmp_path / "wide.sqlite"))
    assert [trace.names[code] for code in trace.ranges.name] == ["one", "two", ""]


def test_a_rule_takes_time_in_proportion_to_the_name():
    """What repeats without a limit, at any place of a name, takes as many steps as there are pairs of places."""
    for rule in RULES:
        assert rule.pattern.startswith("^") or not re.search(r"(?<!\\)[*+]", rule.pattern), rule
    assert family_of("DeviceRadix" * 100_000) == family_of("DeviceRadix" * 100) == OTHER


def test_names_are_shortened_by_their_head_alone():
    name = "void outer<inner::" + "a::" * 1_000_000 + "b>(int)"
    assert short_kernel_name(name) == short_kernel_name(name[: 1 << 13])


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$"])
def test_a_pattern_that_takes_for_ever_ends_in_a_sentence(monkeypatch, pattern):
    monkeypatch.setattr(patterns, "LIMIT_S", 1.0)
    with pytest.raises(PatternTooSlow, match=re.escape(pattern)):
        patterns.first_found(["b", pattern], ["a" * 60 + "!"])


@pytest.mark.parametrize("option", ["--stage=x=(a+)+$", "--step=(a+)+$", "--families"])
def test_the_command_line_ends_with_the_sentence_on_a_slow_pattern(tmp_path, capsys, monkeypatch, option):
    monkeypatch.setattr(patterns, "LIMIT_S", 1.0)
    report = TraceBuilder().range("a" * 60 + "!", 0, 1000).kernel("a" * 60 + "!", at=(20, 30), call=(10, 15))
    path, rules = report.write(tmp_path / "made.sqlite"), tmp_path / "rules.toml"
    rules.write_text('[[family]]\nname = "slow"\npattern = "(a+)+$"\n', encoding="utf-8")
    options = [option, str(rules)] if option == "--families" else [option]
    monkeypatch.setattr("sys.argv", ["dsprof", "analyze", str(path), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == PatternTooSlow.exit_code == 42
    assert "(a+)+$" in capsys.readouterr().err


@few
@given(st.lists(st.sampled_from(["a", "b+", "^a.*b$", "x?"])), st.lists(st.text("abx\n\u2026", max_size=5), max_size=6))
def test_patterns_are_found_the_same_here_and_elsewhere(asked, texts):
    expected = [next((n for n, one in enumerate(asked) if re.search(one, text)), -1) for text in texts]
    assert patterns.first_found(asked, texts) == expected


# -- many of a kind -------------------------------------------------------------------------------------------


def lines_run(function: Callable[[], object]) -> int:
    """How many lines of Python a function runs: what loops over rows counts them."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def threads_of(count: int, kind: str) -> TraceBuilder:
    """A launch in a decode of its own on each of many threads, or of many processes, devices, streams, domains."""
    report = TraceBuilder().range("prefill", 0, 1)
    for number in range(1, count + 1):
        where = {
            "threads": {"tid": number}, "processes": {"pid": number}, "domains": {},
            "devices": {"device": number}, "streams": {"stream": number},
        }[kind]  # fmt: skip
        own = {name: value for name, value in where.items() if name in ("pid", "tid")}
        domain = {"domain": f"domain {number}"} if kind == "domains" else {}
        report.range("decode", 100 * number, 100 * number + 80, **own, **domain)
        report.range("step", 100 * number + 5, 100 * number + 60, **own, **domain)
        report.kernel(at=(100 * number + 30, 100 * number + 40), call=(100 * number + 10, 100 * number + 20), **where)
    return report


@pytest.mark.parametrize("kind", ["threads", "processes", "devices", "streams", "domains"])
def test_many_of_a_kind_take_steps_in_proportion(tmp_path, kind):
    def steps(count: int) -> int:
        path = threads_of(count, kind).write(tmp_path / f"{count}.sqlite")

        def work() -> None:
            analysis = Analysis.of(read(path), None, path)
            assert [len(analysis.arrow(table)) for table in analysis]
            assert analysis.summary()

        work()
        return lines_run(work)

    few, more = steps(150), steps(600)
    assert more < 4.4 * few


def test_no_array_grows_with_threads_times_rows(tmp_path):
    """What is done for each thread looks at its own rows alone."""
    seen = []

    def counted(values: Ints) -> Ints:
        seen.append(len(values))
        return usual(values)

    usual, path = np.flatnonzero, threads_of(300, "threads").write(tmp_path / "made.sqlite")
    analysis = Analysis.of(read(path), None, path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "flatnonzero", counted)
        assert all(len(analysis[table]) >= 0 for table in analysis)
    assert sum(seen) < 300 * 300 * 2


# -- tables that are none -------------------------------------------------------------------------------------


def rewritten(table: str, columns: str, rest: str = "") -> list[str]:
    """Statements that put a table in the place of another, with other columns."""
    return [
        f"ALTER TABLE {table} RENAME TO old",
        f"CREATE TABLE {table} ({columns}) {rest}",
        f"INSERT INTO {table} (start, end, globalTid, correlationId, nameId, returnValue) "
        "SELECT start, end, globalTid, correlationId, nameId, returnValue FROM old",
        "DROP TABLE old",
    ]


CALL = "start INTEGER, end INTEGER, globalTid INTEGER, correlationId INTEGER, nameId INTEGER, returnValue INTEGER"


@pytest.mark.parametrize(
    ("statements", "what"),
    [
        ([f"ALTER TABLE {RUNTIME} RENAME TO old", f"CREATE VIEW {RUNTIME} AS SELECT * FROM old"], "is a view"),
        (rewritten(RUNTIME, f"rowid INTEGER, {CALL}"), "has a column named rowid"),
        (rewritten(RUNTIME, f"RowID TEXT, {CALL}"), "has a column named rowid"),
        (rewritten(RUNTIME, f"{CALL}, PRIMARY KEY (correlationId)", "WITHOUT rowid"), "is a table without rowids"),
        (rewritten(RUNTIME, f"{CALL}, twice INTEGER AS (start * 2)"), "has a generated column"),
        (rewritten(RUNTIME, f"{CALL}, twice INTEGER AS (start * 2) STORED"), "has a generated column"),
        (["DROP TABLE StringIds", "CREATE VIEW StringIds AS SELECT 1 AS id, 'name' AS value"], "is a view"),
        ([f"DROP TABLE {RUNTIME}", f"CREATE VIRTUAL TABLE {RUNTIME} USING fts5(start, end)"], "is a virtual table"),
    ],
)
def test_what_is_no_plain_table_is_refused(tmp_path, statements, what):
    report = TraceBuilder().range("prefill", 0, 1000).kernel(at=(20, 30), call=(10, 15))
    for statement in statements:
        report.sql(statement)
    path = report.write(tmp_path / "odd.sqlite")
    for reads in (read, size_of, lambda path: in_parts(path, 2)):
        with pytest.raises(NotAReport, match=f"{what}\\."):
            reads(path)


@pytest.mark.parametrize("columns", [f"oid INTEGER, _rowid_ TEXT, {CALL}", f"key INTEGER PRIMARY KEY, {CALL}"])
def test_other_names_of_rowids_are_read_right(tmp_path, columns):
    def analysis(name: str, *statements: str) -> Analysis:
        report = TraceBuilder().range("prefill", 0, 1000)
        for number in range(20):
            report.kernel(at=(100 + number, 101 + number), call=(10 * number, 10 * number + 5))
        for statement in statements:
            report.sql(statement)
        path = report.write(tmp_path / name)
        whole = Analysis.of(read(path), None, path)
        assert_same(whole, in_parts(path, 3))
        return whole

    odd, usual = analysis("odd.sqlite", *rewritten(RUNTIME, columns)), analysis("usual.sqlite")
    for table in usual:
        pd.testing.assert_frame_equal(as_text(odd[table]), as_text(usual[table]))
