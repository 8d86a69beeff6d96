"""Which range and which stage a kernel belongs to: cases with known truth, from A to N, and odd files.

Each case is a small report of every nsys version whose tables we know, and asserts whole rows of exact
numbers. Whatever the case, `analyze` also asserts that nothing is lost or doubled. In the drawings, time
runs to the right: `|===|` a range, `[..]` an API call, `#k#` a kernel on the GPU.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import dsprof
from trace_builder import (
    CATEGORY,
    DOMAIN_CREATED,
    DOMAIN_DESTROYED,
    GRAPH_TRACE,
    KERNEL,
    MARK,
    MEMCPY,
    MEMSET,
    NVTX,
    PUSH_POP,
    RUNTIME,
    START_END,
    TEXT_PUSH_POP,
    TEXT_START_END,
    THREAD_NAME,
    VERSIONS,
    Schema,
    TraceBuilder,
    global_tid,
)

Analyze = Callable[..., dsprof.Analysis]
NO_STAGE = "(no stage)"


def versions_with(table: str) -> list[str]:
    """The nsys versions that write `table`."""
    return [version for version in VERSIONS if Schema.load(version).columns(table)]


@pytest.fixture
def report(schema: str) -> TraceBuilder:
    """An empty report of each version."""
    return TraceBuilder(schema)


@pytest.fixture
def analyze(tmp_path: Path) -> Analyze:
    """Writes a report, analyzes it, and asserts that its tables hold each operation exactly once."""

    def written(report: TraceBuilder, **options: Any) -> dsprof.Analysis:
        path = report.write(tmp_path / "made.sqlite")
        analysis = dsprof.analyze(path, **options)
        assert_conserved(analysis, path)
        return analysis

    return written


# -- reading the tables ---------------------------------------------------------------------------------


def rows(analysis: dsprof.Analysis, table: str, *columns: str, **where: Any) -> list[tuple[Any, ...]]:
    """Columns of all rows of a table, or of those with the values `where`; a missing value is None."""
    found = analysis.arrow(table).select([*columns, *where]).to_pylist()
    return [tuple(row[column] for column in columns) for row in found if where.items() <= row.items()]


def ids(analysis: dsprof.Analysis) -> dict[str, int]:
    """The range_id of each range name that stands for one range."""
    return dict(rows(analysis, "range_trace", "name", "range_id"))


def codes(analysis: dsprof.Analysis) -> set[str]:
    """What the analysis found to say, but for what files without stages are told."""
    return {finding.code for finding in analysis.findings} - {"no-stages"}


def message(analysis: dsprof.Analysis, code: str) -> str:
    """The one finding of that code, with its advice."""
    (found,) = (str(finding) for finding in analysis.findings if finding.code == code)
    return found


# -- conservation ---------------------------------------------------------------------------------------


def assert_conserved(analysis: dsprof.Analysis, path: Path) -> None:
    """Every operation of the file is in the tables once, and the stages part them without rest."""
    kernels, memops, calls = _recorded(path)
    of_kernels, of_memops = ((len(part), sum(end - start for start, end in part)) for part in (kernels, memops))
    assert sorted(rows(analysis, "kern_trace", "start_ns", "end_ns")) == sorted(kernels)
    assert sorted(rows(analysis, "mem_trace", "start_ns", "end_ns")) == sorted(memops)
    assert totals(analysis, "kern_sum", "instances", "total_ns") == of_kernels
    assert totals(analysis, "stage_kern_sum", "instances", "total_ns") == of_kernels
    assert totals(analysis, "stage_family_sum", "instances", "total_ns") == of_kernels
    assert totals(analysis, "range_kern_sum", "exclusive_instances", "exclusive_total_ns") == of_kernels
    assert totals(analysis, "stage_sum", "kernels_total", "kernel_total_ns") == of_kernels
    assert totals(analysis, "mem_sum", "instances", "total_ns") == of_memops
    operations = of_kernels[0] + of_memops[0]
    assert totals(analysis, "stage_sum", "gpu_ops_total", "launches_total") == (operations, calls)
    assert 2 * operations == totals(analysis, "stage_stream_sum", "gpu_ops")[0]  # by stream, and by device
    assert_stages_part_the_kernels(analysis)
    assert_instances_sum_up(analysis)
    assert "unreconciled" not in codes(analysis)


def assert_stages_part_the_kernels(analysis: dsprof.Analysis) -> None:
    """A kernel has one stage of those there are; `stage_kern_sum` sums them up, and `kern_sum` sums up that."""
    staged, summed = Counter[tuple[str, str]](), Counter[str]()
    stages = {stage for (stage,) in rows(analysis, "stage_sum", "stage")}
    for stage, instance, via, kernel, duration in rows(
        analysis, "kern_trace", "stage", "stage_instance", "via", "kernel", "duration_ns"
    ):
        assert stage in stages
        assert (stage == NO_STAGE) == (instance is None) == (via == "none")
        staged[stage, kernel] += duration
        summed[kernel] += duration
    families = Counter[tuple[str, str]]()
    for stage, family, total in rows(analysis, "stage_kern_sum", "stage", "family", "total_ns"):
        families[stage, family] += total
    by_family = rows(analysis, "stage_family_sum", "stage", "family", "total_ns")
    assert sorted(by_family) == sorted((*key, total) for key, total in families.items())
    by_stage = rows(analysis, "stage_kern_sum", "stage", "kernel", "total_ns")
    assert sorted(by_stage) == sorted((*key, total) for key, total in staged.items())
    assert sorted(rows(analysis, "kern_sum", "kernel", "total_ns")) == sorted(summed.items())


def assert_instances_sum_up(analysis: dsprof.Analysis) -> None:
    """A stage in `stage_sum` is the sum of its rows in `stage_trace`."""
    columns = ("launches", "gpu_ops", "kernels", "kernel_total_ns", "gpu_busy_ns", "memcpy_ns", "memcpy_bytes")
    sums = ("launches_total", "gpu_ops_total", "kernels_total", "kernel_total_ns", "gpu_busy_total_ns",
            "memcpy_total_ns", "memcpy_total_bytes")  # fmt: skip
    for stage, warm_up, *whole in rows(analysis, "stage_sum", "stage", "warm_up", *sums):
        if stage != NO_STAGE:
            found = totals(analysis, "stage_trace", *columns, stage=stage, steady=not warm_up)
            assert found == tuple(total or 0 for total in whole)


def totals(analysis: dsprof.Analysis, table: str, *columns: str, **where: Any) -> tuple[int, ...]:
    """Sums of columns, a missing value counting as 0."""
    found = rows(analysis, table, *columns, **where)
    return tuple(sum(row[place] or 0 for row in found) for place in range(len(columns)))


def _recorded(path: Path) -> tuple[list[tuple[int, int]], list[tuple[int, int]], int]:
    """Intervals of the kernels and of the copies and sets in a file, and how many calls have an operation."""
    with closing(sqlite3.connect(path)) as database:
        written = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        tables = written & {KERNEL, GRAPH_TRACE, MEMCPY, MEMSET}
        found = {table: database.execute(f'SELECT start, "end" FROM "{table}"').fetchall() for table in tables}
        calls = _calls_with_operations(database, tables)
    kernels = [*found.get(KERNEL, []), *found.get(GRAPH_TRACE, [])]
    return kernels, [*found.get(MEMCPY, []), *found.get(MEMSET, [])], calls


def _calls_with_operations(database: sqlite3.Connection, tables: set[str]) -> int:
    """Distinct (process, correlationId) that a call and an operation share; a lone caller owns what has no process."""
    calls = set(database.execute(f"SELECT globalTid & ~0xFFFFFF, correlationId FROM {RUNTIME}"))
    operations = set()
    for table in tables:
        columns = {name for (name,) in database.execute("SELECT name FROM pragma_table_info(?)", (table,))}
        process = "globalPid" if "globalPid" in columns else "NULL"
        operations |= set(database.execute(f"SELECT {process}, correlationId FROM {table}"))
    if len({process for process, _ in calls}) == 1:
        calls |= {(None, number) for _, number in calls}
    return len(calls & {(process, number) for process, number in operations if number is not None})


# -- the cases ------------------------------------------------------------------------------------------


def test_case_A_parent_and_child_with_same_start_and_end(report: TraceBuilder, analyze: Analyze) -> None:
    """Ranges of one extent are nested by row order, and each of them encloses the launch.

    ::

        request       |==================|
        decode        |==================|
        decode.step   |==================|      payload 3
        launch              [..]
        GPU                       ##k##
    """
    report.range("request", 0, 100, payload=4).range("decode", 0, 100).range("decode.step", 0, 100, payload=3)
    report.kernel("k", at=(60, 90), call=(20, 30))
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "name", "parent_id", "level", "gpu_ops", "kernel_total_ns") == [
        ("request", None, 0, 1, 30),
        ("decode", 1, 1, 1, 30),
        ("decode.step", 2, 2, 1, 30),
    ]
    assert rows(analysis, "kern_trace", "range_id", "stage", "stage_instance", "step", "via") == [
        (3, "decode", 0, 3, "thread")
    ]
    assert rows(analysis, "stage_trace", "stage", "request", "range_id", "tokens", "kernels") == [
        ("decode", 4, 2, 1, 1)
    ]
    assert not codes(analysis)


def test_case_A_of_two_stages_with_same_start_and_end_the_inner_counts(report: TraceBuilder, analyze: Analyze) -> None:
    """A stage is the nearest range that is one.

    ::

        prefill   |==================|
        decode    |==================|
        launch          [..]
    """
    report.range("prefill", 0, 100).range("decode", 0, 100).kernel("k", at=(60, 90), call=(20, 30))
    analysis = analyze(report)
    assert rows(analysis, "stage_trace", "stage", "kernels", "kernel_total_ns") == [
        ("prefill", 0, 0),
        ("decode", 1, 30),
    ]
    assert rows(analysis, "range_trace", "name", "kernels") == [("prefill", 1), ("decode", 1)]


@pytest.mark.parametrize("outer_first", [True, False])
def test_case_A_parent_and_child_with_same_start_or_end(
    report: TraceBuilder, analyze: Analyze, outer_first: bool
) -> None:
    """The longer range is outside, whichever row stands first in the file.

    ::

        decode        |=========================|
        decode.step   |=========|    |==========|
        launch        [a]       [b]          [c]       [d] at the end of both
    """
    spans = [("decode", 0, 100), ("decode.step", 0, 40), ("decode.step", 60, 100)]
    for name, start, end in spans if outer_first else reversed(spans):
        report.range(name, start, end)
    for kernel, at in (("a", 0), ("b", 40), ("c", 90), ("d", 100)):
        report.kernel(kernel, at=(at + 200, at + 210), call=(at, at + 5))
    analysis = analyze(report)
    assert sorted(rows(analysis, "range_trace", "name", "start_ns", "level", "gpu_ops")) == [
        ("decode", 0, 0, 3),
        ("decode.step", 0, 1, 1),
        ("decode.step", 60, 1, 1),
    ]
    assert rows(analysis, "kern_trace", "kernel", "stage", "step") == [
        ("a", "decode", 1), ("b", "decode", None), ("c", "decode", 2), ("d", NO_STAGE, None)
    ]  # fmt: skip


def test_case_B_graph_launch_owns_five_node_kernels(report: TraceBuilder, analyze: Analyze) -> None:
    """One API call, five operations; span, busy and total are three numbers.

    ::

        decode    |=======|
        launch      [..]
        stream 7              ##a##b##      ###c###             span  70   30..100
        stream 8                  ###d###        ###e###        busy  65   30..65, 70..100
                              30 40  60 65  70   85 90 100      total 90   20+10+20+25+15
    """
    report.range("decode", 0, 40)
    report.graph(("a", 30, 50), ("b", 50, 60), ("c", 70, 90), call=(10, 20), correlation=7)
    report.kernel("d", at=(40, 65), correlation=7, stream=8, node=4)
    report.kernel("e", at=(85, 100), correlation=7, stream=8, node=5)
    analysis = analyze(report)
    assert rows(
        analysis, "range_trace", "api_calls", "gpu_ops", "kernels", "proj_start_ns", "proj_end_ns",
        "proj_duration_ns", "gpu_busy_ns", "kernel_total_ns",
    ) == [(1, 5, 5, 30, 100, 70, 65, 90)]  # fmt: skip
    assert rows(
        analysis, "stage_trace", "launches", "gpu_ops", "duration_ns", "wall_ns", "gpu_busy_ns", "gpu_idle_ns"
    ) == [(1, 5, 40, 100, 65, 35)]
    assert rows(analysis, "kern_trace", "kernel", "graph_node_id", "api_name", "stage") == [
        (kernel, node, "cudaGraphLaunch_v10000", "decode")
        for kernel, node in (("a", 1), ("d", 4), ("b", 2), ("c", 3), ("e", 5))
    ]  # fmt: skip
    assert codes(analysis) == {"nodes-traced"}


@pytest.mark.parametrize("schema", versions_with(GRAPH_TRACE))
def test_case_B2_graph_traced_as_a_whole(report: TraceBuilder, analyze: Analyze) -> None:
    """The replay is one operation, and the analysis says what is hidden; older nsys have no such table.

    ::

        decode    |==========================|
        launch      [..]          [..]
        GPU              |#graph#|     |#graph#|
    """
    report.range("decode", 0, 100).graph(call=(10, 20), at=(30, 60)).graph(call=(62, 70), at=(80, 120))
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "api_calls", "gpu_ops", "gpu_busy_ns", "proj_duration_ns") == [(2, 2, 70, 90)]
    assert rows(analysis, "stage_kern_sum", "stage", "kernel", "instances", "total_ns") == [
        ("decode", "(CUDA graph)", 2, 70)
    ]
    assert rows(analysis, "stage_trace", "launches", "gpu_ops", "gpu_busy_ns", "wall_ns") == [(2, 2, 70, 120)]
    assert codes(analysis) == {"graphs-hidden"}
    assert "--cuda-graph-trace=node" in message(analysis, "graphs-hidden")


@pytest.mark.parametrize("schema", versions_with(GRAPH_TRACE))
def test_case_B2_whole_graphs_beside_kernels(report: TraceBuilder, analyze: Analyze) -> None:
    """A replay shares its stage with plain kernels and copies, each counted once.

    ::

        decode    |===============================|
        launch      [k] [copy] [graph]
        GPU              #k#  ~copy~  |##graph##|
    """
    report.range("decode", 0, 100).kernel("k", at=(20, 30), call=(10, 12))
    report.copy("HtoD", 64, at=(30, 35), call=(13, 15)).graph(call=(16, 20), at=(40, 60))
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "api_calls", "gpu_ops", "gpu_busy_ns") == [(3, 3, 35)]
    assert rows(analysis, "kern_trace", "kernel", "stage") == [("k", "decode"), ("(CUDA graph)", "decode")]
    assert rows(analysis, "mem_trace", "kind", "bytes", "stage") == [("[CUDA memcpy Host-to-Device]", 64, "decode")]


def test_case_C_last_kernel_of_prefill_runs_while_decode_is_open(report: TraceBuilder, analyze: Analyze) -> None:
    """Launches count, not the time on the GPU.

    ::

        host   |== prefill ==||======= decode =======|
        launch     [p1] [p2]      [d1]
        GPU           ##p1##         ####p2#### ##d1##
    """
    report.range("prefill", 0, 100).range("decode", 100, 300)
    report.kernel("p1", at=(30, 60), call=(10, 20)).kernel("p2", at=(150, 200), call=(40, 50))
    report.kernel("d1", at=(200, 230), call=(120, 130))
    analysis = analyze(report)
    assert rows(analysis, "kern_trace", "kernel", "stage", "queue_ns", "api_ns") == [
        ("p1", "prefill", 10, 10),
        ("p2", "prefill", 100, 10),
        ("d1", "decode", 70, 10),
    ]
    assert rows(
        analysis, "stage_trace", "stage", "duration_ns", "proj_start_ns", "proj_end_ns", "wall_ns", "gpu_busy_ns"
    ) == [("prefill", 100, 30, 200, 200, 80), ("decode", 200, 200, 230, 200, 30)]
    assert not codes(analysis)


def test_case_D_two_processes_share_a_correlation_id(report: TraceBuilder, analyze: Analyze) -> None:
    """correlationId is a process's own; of equal thread numbers, too, each belongs to its process.

    ::

        process 100   |= prefill =|           [1] -> ##k## 30 ns
        process 200   |=== decode ===|        [1] -> ##k## 40 ns
    """
    for pid, stage, duration in ((100, "prefill", 30), (200, "decode", 40)):
        report.range(stage, 0, 100, pid=pid, tid=9)
        report.kernel("k", at=(50, 50 + duration), call=(10, 20), pid=pid, tid=9, correlation=1)
    analysis = analyze(report, threads="process")
    assert rows(analysis, "kern_trace", "pid", "tid", "correlation_id", "stage", "duration_ns", "via") == [
        (100, 9, 1, "prefill", 30, "thread"),
        (200, 9, 1, "decode", 40, "thread"),
    ]
    assert rows(analysis, "range_trace", "name", "pid", "api_calls", "gpu_ops", "kernel_total_ns") == [
        ("prefill", 100, 1, 1, 30),
        ("decode", 200, 1, 1, 40),
    ]
    assert rows(analysis, "kern_sum", "instances", "total_ns") == [(2, 70)]
    assert rows(analysis, "range_kern_sum", "name", "pid", "instances", "total_ns") == [
        ("prefill", 100, 1, 30),
        ("decode", 200, 1, 40),
    ]
    assert not codes(analysis)


def test_case_E_range_within_one_api_call(report: TraceBuilder, analyze: Analyze) -> None:
    """It encloses the start of no call, so it changes nothing.

    ::

        prefill   |======================|
        launch       [................]
        inner            |======|
        GPU                              ##k##
    """
    report.range("prefill", 0, 100).range("inner", 20, 60)
    report.kernel("k", at=(110, 140), call=(10, 80))
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "name", "level", "api_calls", "gpu_ops", "proj_start_ns", "gpu_busy_ns") == [
        ("prefill", 0, 1, 1, 110, 30),
        ("inner", 1, 0, 0, None, 0),
    ]
    assert rows(analysis, "kern_trace", "range_id", "stage") == [(ids(analysis)["prefill"], "prefill")]
    assert rows(analysis, "range_kern_sum", "name", "instances", "exclusive_instances") == [("prefill", 1, 1)]
    assert not codes(analysis)


def test_case_F_start_end_range_ended_by_another_thread(report: TraceBuilder, analyze: Analyze) -> None:
    """It belongs to the process: launches of every thread of it, and of no other process.

    ::

        100/1   decode |=====.....................
        100/2                ....................=====| decode
        100/1              [a]
        100/2                      [b]
        100/3                             [c]
        200/1                      [x]
    """
    report.range("decode", 0, 100, tid=1, end_tid=2, kind=START_END)
    report.kernel("a", at=(20, 30), call=(10, 12), tid=1).kernel("b", at=(50, 70), call=(40, 42), tid=2)
    report.kernel("c", at=(80, 120), call=(70, 72), tid=3)
    report.kernel("x", at=(50, 90), call=(40, 42), pid=200, tid=1)
    analysis = analyze(report)
    assert rows(
        analysis, "range_trace", "style", "pid", "tid", "api_calls", "gpu_ops", "kernel_total_ns", "gpu_busy_ns"
    ) == [("StartEnd", 100, 1, 3, 3, 70, 70)]
    assert rows(analysis, "kern_trace", "kernel", "stage", "via", pid=100) == [
        ("a", "decode", "process"),
        ("b", "decode", "process"),
        ("c", "decode", "process"),
    ]
    assert rows(analysis, "kern_trace", "kernel", "stage", "via", pid=200) == [("x", NO_STAGE, "none")]
    assert rows(analysis, "range_kern_sum", "name", "pid", "kernel", "instances") == [
        ("decode", 100, "a", 1),
        ("decode", 100, "b", 1),
        ("decode", 100, "c", 1),
        ("(no range)", 200, "x", 1),
    ]


def test_case_F_range_ended_by_its_own_thread_stays_with_it(report: TraceBuilder, analyze: Analyze) -> None:
    """A start/end range encloses launches of its thread alone, whether or not its end names the thread.

    ::

        1   decode |==========|    prefill |==========|     (the second's end says: thread 1)
        1             [a]                      [b]
        2             [x]                      [y]
    """
    report.range("decode", 0, 100, tid=1, kind=START_END).range("prefill", 200, 300, tid=1, end_tid=1, kind=START_END)
    for kernel, tid, at in (("a", 1, 10), ("x", 2, 20), ("b", 1, 210), ("y", 2, 220)):
        report.kernel(kernel, at=(at + 5, at + 10), call=(at, at + 2), tid=tid)
    analysis = analyze(report)
    assert rows(analysis, "kern_trace", "kernel", "stage") == [
        ("a", "decode"), ("x", NO_STAGE), ("b", "prefill"), ("y", NO_STAGE)
    ]  # fmt: skip
    assert rows(analysis, "range_trace", "name", "gpu_ops") == [("decode", 1), ("prefill", 1)]


def test_case_G_api_call_straddles_the_end_of_the_range(report: TraceBuilder, analyze: Analyze) -> None:
    """A range covers [start, end): the call's start decides, and straddling is counted.

    ::

        prefill          |=================|
                      [before]          [over]        counts: at, over; straddling: over
                         [at]              [next]     not: before (began earlier), next (begins at the end)
    """
    report.range("prefill", 100, 200)
    report.kernel("before", at=(300, 301), call=(90, 99 + 20)).kernel("at", at=(310, 312), call=(100, 110))
    report.kernel("over", at=(320, 324), call=(199, 220)).kernel("next", at=(330, 338), call=(200, 210))
    analysis = analyze(report)
    assert rows(analysis, "kern_trace", "kernel", "stage", "via") == [
        ("before", NO_STAGE, "none"),
        ("at", "prefill", "thread"),
        ("over", "prefill", "thread"),
        ("next", NO_STAGE, "none"),
    ]
    assert rows(
        analysis, "range_trace", "api_calls", "straddling_calls", "gpu_ops", "kernel_total_ns", "proj_end_ns"
    ) == [(2, 1, 2, 6, 324)]
    assert codes(analysis) == {"straddling"}


def test_case_G_straddling_is_counted_in_every_range_that_it_leaves(report: TraceBuilder, analyze: Analyze) -> None:
    """A call may outlast the inner range and not the outer; one that ends with the range does not straddle.

    ::

        decode        |==========================|
        decode.step     |=======|   |=======|
                             [.....]     [..]
    """
    report.range("decode", 0, 100).range("decode.step", 10, 40, payload=0).range("decode.step", 50, 80, payload=1)
    report.kernel("k", at=(60, 70), call=(30, 45)).kernel("k", at=(90, 95), call=(70, 80))
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "name", "payload", "straddling_calls", "api_calls") == [
        ("decode", None, 0, 2),
        ("decode.step", 0, 1, 1),
        ("decode.step", 1, 0, 1),
    ]
    assert rows(analysis, "kern_trace", "step") == [(0,), (1,)]


@pytest.mark.parametrize(("threads", "stage", "via"), [("thread", NO_STAGE, "none"), ("process", "decode", "process")])
def test_case_H_launched_by_another_thread(
    report: TraceBuilder, analyze: Analyze, threads: str, stage: str, via: str
) -> None:
    """By its own thread it has no stage; with ``threads="process"`` the one that is open in its process.

    ::

        100/1   decode |==============|
        100/1              [own]
        100/2                  [other]           [late]
        200/2                  [foreign]
    """
    report.range("decode", 0, 100, tid=1).range("decode.step", 0, 90, tid=1, payload=8)
    report.kernel("own", at=(200, 201), call=(10, 12), tid=1).kernel("other", at=(210, 212), call=(50, 52), tid=2)
    report.kernel("late", at=(220, 224), call=(150, 152), tid=2)
    report.kernel("foreign", at=(230, 238), call=(50, 52), pid=200, tid=2)
    analysis = analyze(report, threads=threads)
    assert rows(analysis, "kern_trace", "kernel", "stage", "via", "step") == [
        ("own", "decode", "thread", 8),
        ("other", stage, via, 8 if via == "process" else None),
        ("late", NO_STAGE, "none", None),
        ("foreign", NO_STAGE, "none", None),
    ]
    staged = 3 if threads == "process" else 1
    assert rows(analysis, "stage_kern_sum", "stage", "total_ns", stage="decode", kernel="own") == [("decode", 1)]
    assert rows(analysis, "stage_trace", "kernel_total_ns") == [(staged,)]
    assert rows(analysis, "range_trace", "name", "gpu_ops") == [("decode", 1), ("decode.step", 1)]
    coverage = analysis.summary().coverage
    assert (coverage.thread, coverage.process, coverage.none) == ((1, 1, 2) if threads == "process" else (1, 0, 3))


def test_case_H_a_stage_of_the_own_thread_comes_first(report: TraceBuilder, analyze: Analyze) -> None:
    """A later stage of another thread does not take a launch away from its own thread's.

    ::

        1   prefill |====================|
        1                    [k]
        2              decode |======|
        3                     [w]              the latest-starting one of the process: decode
    """
    report.range("prefill", 0, 100, tid=1).range("decode", 40, 80, tid=2)
    report.kernel("k", at=(200, 210), call=(50, 52), tid=1).kernel("w", at=(220, 230), call=(60, 62), tid=3)
    analysis = analyze(report, threads="process")
    assert rows(analysis, "kern_trace", "kernel", "stage", "via") == [
        ("k", "prefill", "thread"),
        ("w", "decode", "process"),
    ]


def test_case_I_range_inside_another_of_the_same_name(report: TraceBuilder, analyze: Analyze) -> None:
    """A kernel counts once per range name: 1000 ns stay 1000 ns; exclusive numbers part it among the names.

    ::

        decode   |=============================|
        decode       |================|
        layer           |=====|
                         [a]     [b]      [c]
    """
    report.range("decode", 0, 100).range("decode", 10, 80).range("layer", 20, 40)
    report.kernel("k", at=(1000, 2000), call=(25, 30)).kernel("k", at=(2000, 2300), call=(50, 55))
    report.kernel("k", at=(3000, 3020), call=(90, 95))
    analysis = analyze(report)
    assert rows(
        analysis, "range_kern_sum", "name", "range_instances", "instances", "total_ns", "med_ns", "max_ns",
        "exclusive_instances", "exclusive_total_ns",
    ) == [("decode", 2, 3, 1320, 300.0, 1000, 2, 320), ("layer", 1, 1, 1000, 1000.0, 1000, 1, 1000)]  # fmt: skip
    assert rows(analysis, "range_trace", "name", "level", "kernel_total_ns") == [
        ("decode", 0, 1320), ("decode", 1, 1300), ("layer", 2, 1000)
    ]  # fmt: skip
    assert rows(analysis, "stage_trace", "instance", "kernels", "kernel_total_ns") == [(0, 1, 20), (1, 2, 1300)]
    assert rows(analysis, "stage_kern_sum", "stage", "instances", "total_ns") == [("decode", 3, 1320)]


def test_case_J_start_end_range_of_another_domain_around_a_push_pop_range(
    report: TraceBuilder, analyze: Analyze
) -> None:
    """Parents stay within thread, domain and style; what encloses a launch is found across them, by time.

    ::

        other:epoch  start/end  |====================================|
        other:batch  push/pop     |================================|
        dsprof:decode               |============================|
        dsprof:decode.step            |======|
        dsprof:span  start/end                   |======|
                                       [a]        [b]      [c]   [d]
    """
    report.range("epoch", 0, 100, domain="other", kind=START_END).range("batch", 5, 95, domain="other")
    report.range("decode", 10, 90, domain="dsprof").range("decode.step", 20, 40, domain="dsprof", payload=1)
    report.range("span", 50, 70, domain="dsprof", kind=START_END)
    for kernel, at in (("a", 25), ("b", 55), ("c", 75), ("d", 92)):
        report.kernel(kernel, at=(at + 100, at + 110), call=(at, at + 2))
    analysis = analyze(report)
    found = ids(analysis)
    assert rows(analysis, "range_trace", "name", "domain", "style", "parent_id", "level", "gpu_ops") == [
        ("epoch", "other", "StartEnd", None, 0, 4),
        ("batch", "other", "PushPop", None, 0, 4),
        ("decode", "dsprof", "PushPop", None, 0, 3),
        ("decode.step", "dsprof", "PushPop", found["decode"], 1, 1),
        ("span", "dsprof", "StartEnd", None, 0, 1),
    ]
    assert rows(analysis, "kern_trace", "kernel", "range_id", "stage", "step") == [
        ("a", found["decode.step"], "decode", 1),
        ("b", found["span"], "decode", None),
        ("c", found["decode"], "decode", None),
        ("d", found["batch"], NO_STAGE, None),
    ]
    assert not codes(analysis)


def test_case_K_kernels_outside_every_range(report: TraceBuilder, analyze: Analyze) -> None:
    """They are a row ``(no stage)``, and rows ``(no range)`` with the threads that launched them.

    ::

        1   [a]   |= decode =|   [a]
        1            [a]
        2            [b]
    """
    report.range("decode", 50, 100, tid=1)
    report.kernel("a", at=(10, 12), call=(0, 5), tid=1).kernel("a", at=(70, 74), call=(60, 65), tid=1)
    report.kernel("b", at=(80, 88), call=(60, 65), tid=2).kernel("a", at=(120, 136), call=(110, 115), tid=1)
    report.copy("DtoH", 8, at=(140, 172), call=(120, 125), tid=1).set(16, at=(180, 244), call=(130, 131), tid=1)
    analysis = analyze(report)
    assert rows(analysis, "stage_kern_sum", "stage", "kernel", "instances", "total_ns") == [
        ("decode", "a", 1, 4),
        (NO_STAGE, "a", 2, 18),
        (NO_STAGE, "b", 1, 8),
    ]
    assert rows(
        analysis, "stage_sum", "stage", "instances", "launches_total", "gpu_ops_total", "kernels_total",
        "kernel_total_ns", "memcpy_total_ns", "memcpy_total_bytes",
    ) == [
        ("prefill", 0, None, None, None, None, None, None),
        ("decode", 1, 1, 1, 1, 4, 0, 0),
        (NO_STAGE, None, 5, 5, 3, 26, 32, 8),
    ]  # fmt: skip
    assert rows(analysis, "range_kern_sum", "name", "style", "tid", "kernel", "instances", "total_ns") == [
        ("decode", "PushPop", 1, "a", 1, 4),
        ("(no range)", None, 1, "a", 2, 18),
        ("(no range)", None, 2, "b", 1, 8),
    ]
    assert rows(analysis, "mem_trace", "kind", "stage", "range_id", "via") == [
        ("[CUDA memcpy Device-to-Host]", NO_STAGE, None, "none"),
        ("[CUDA memset]", NO_STAGE, None, "none"),
    ]
    assert not codes(analysis)


@pytest.mark.parametrize("kind", [PUSH_POP, START_END])
@pytest.mark.parametrize("end", [None, 500])
def test_case_L_range_still_open_at_the_end_of_the_capture(
    report: TraceBuilder, analyze: Analyze, kind: int, end: int | None
) -> None:
    """It is kept and `truncated`, whether nsys gives it no end or, as it does, the end of the capture.

    ::

        prefill   |=====|
        decode             |==========================|   500, the end of the capture
                    [p]        [d1]          [d2]
        GPU           #p#          ##d1##        ##d2##
    """
    report.duration = 500
    open_until_the_end(report, end, kind)
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "name", "start_ns", "end_ns", "truncated", "gpu_ops", "kernel_total_ns") == [
        ("prefill", 0, 40, False, 1, 10),
        ("decode", 50, 500, True, 2, 30),
    ]
    assert rows(analysis, "kern_trace", "kernel", "stage") == [("p", "prefill"), ("d1", "decode"), ("d2", "decode")]
    assert codes(analysis) == {"truncated-ranges"}


def test_case_L_open_range_in_a_report_that_does_not_say_how_long_it_is(report: TraceBuilder, analyze: Analyze) -> None:
    """The capture lasted at least until the last API call, so what is open encloses that one too."""
    open_until_the_end(report.without("ANALYSIS_DETAILS"), None, PUSH_POP)
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "name", "truncated", "gpu_ops") == [("prefill", False, 1), ("decode", True, 2)]
    assert rows(analysis, "kern_trace", "kernel", "stage") == [("p", "prefill"), ("d1", "decode"), ("d2", "decode")]


def open_until_the_end(report: TraceBuilder, end: int | None, kind: int) -> None:
    """The ranges, launches and kernels of case L."""
    report.range("prefill", 0, 40).range("decode", 50, end, kind=kind)
    report.kernel("p", at=(20, 30), call=(10, 15)).kernel("d1", at=(70, 80), call=(60, 65))
    report.kernel("d2", at=(220, 240), call=(200, 210))


def test_case_L_ranges_open_inside_each_other(report: TraceBuilder, analyze: Analyze) -> None:
    """All that is open ends together and stays nested; other threads and closed ranges are as they were.

    ::

        1   request |==========================...
        1   decode     |=======================...
        1   decode.step   |====|   |===========...
        1                  [a]        [b]
        2   prefill             |===|
    """
    report.range("request", 0, None, tid=1).range("decode", 10, None, tid=1)
    report.range("decode.step", 20, 40, tid=1, payload=0).range("decode.step", 50, None, tid=1, payload=1)
    report.range("prefill", 45, 70, tid=2)
    report.kernel("a", at=(100, 110), call=(25, 30), tid=1).kernel("b", at=(200, 230), call=(90, 95), tid=1)
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "name", "tid", "level", "truncated", "gpu_ops") == [
        ("request", 1, 0, True, 2),
        ("decode", 1, 1, True, 2),
        ("decode.step", 1, 2, False, 1),
        ("prefill", 2, 0, False, 0),
        ("decode.step", 1, 2, True, 1),
    ]
    assert rows(analysis, "kern_trace", "kernel", "stage", "step") == [("a", "decode", 0), ("b", "decode", 1)]
    assert "3 NVTX ranges" in message(analysis, "truncated-ranges")


def test_case_M_several_devices_and_streams(report: TraceBuilder, analyze: Analyze) -> None:
    """Busy is a union within what is asked for: the stage, a device, a stream.

    ::

        decode            |=====|
        device 0 str 7         ##a##                 10..30
        device 0 str 8           ###b###             20..50     device 0: 40
        device 1 str 7           ###c###   ##d##     20..50, 60..70     device 1: 40
        stage                  |==========|   |==|   10..50, 60..70: 50
    """
    report.range("decode", 0, 9)
    for kernel, at, device, stream in (
        ("a", (10, 30), 0, 7), ("b", (20, 50), 0, 8), ("c", (20, 50), 1, 7), ("d", (60, 70), 1, 7)
    ):  # fmt: skip
        report.kernel(kernel, at=at, call=(1, 2), device=device, stream=stream, context=1 + device)
    analysis = analyze(report)
    assert rows(
        analysis, "stage_stream_sum", "stage", "device_id", "stream_id", "gpu_ops", "kernel_total_ns", "gpu_busy_ns"
    ) == [
        ("decode", 0, None, 2, 50, 40),
        ("decode", 0, 7, 1, 20, 20),
        ("decode", 0, 8, 1, 30, 30),
        ("decode", 1, None, 2, 40, 40),
        ("decode", 1, 7, 2, 40, 40),
    ]
    assert rows(analysis, "range_trace", "proj_start_ns", "proj_end_ns", "gpu_busy_ns", "kernel_total_ns") == [
        (10, 70, 50, 90)
    ]
    assert rows(analysis, "stage_trace", "gpu_busy_ns", "wall_ns", "gpu_idle_ns") == [(50, 70, 20)]
    assert rows(analysis, "kern_trace", "kernel", "device_id", "context_id", "stream_id") == [
        ("a", 0, 1, 7), ("b", 0, 1, 8), ("c", 1, 2, 7), ("d", 1, 2, 7)
    ]  # fmt: skip


def test_case_N_kernel_without_a_call_and_launch_without_a_kernel(report: TraceBuilder, analyze: Analyze) -> None:
    """Both are counted, process by process; an orphan is in ``(no stage)`` and keeps its time.

    ::

        process 100   |=== decode ===|   [a] -> ##a##          ##orphan##  ##orphan##  ~~copy~~
        process 200   |=== decode ===|   [b] -> ##b##   [lost] -> nothing   [failed] -> nothing
    """
    for pid in (100, 200):
        report.range("decode", 0, 100, pid=pid)
    report.kernel("a", at=(20, 30), call=(10, 12)).kernel("orphan", at=(40, 60)).copy("DtoD", 32, at=(60, 65))
    report.kernel("orphan", at=(70, 71)).sql(f"UPDATE {KERNEL} SET correlationId = NULL WHERE start = 70")
    report.kernel("b", at=(20, 24), call=(10, 12), pid=200).api(call=(30, 32), pid=200)
    report.api(call=(40, 42), pid=200, result=2).api("cudaDeviceSynchronize_v3020", call=(50, 60), pid=200)
    analysis = analyze(report, threads="process")
    assert rows(analysis, "kern_trace", "pid", "kernel", "stage", "tid", "api_name", "queue_ns", "range_id") == [
        (100, "a", "decode", 100, "cudaLaunchKernel_v7000", 8, 1),
        (200, "b", "decode", 200, "cudaLaunchKernel_v7000", 8, 2),
        (100, "orphan", NO_STAGE, None, None, None, None),
        (100, "orphan", NO_STAGE, None, None, None, None),
    ]
    assert rows(analysis, "stage_kern_sum", "stage", "kernel", "total_ns", stage=NO_STAGE) == [(NO_STAGE, "orphan", 21)]
    assert codes(analysis) == {"orphan-operations", "lost-kernels"}
    assert message(analysis, "orphan-operations").startswith("3 GPU operations of process 100 ")
    assert message(analysis, "lost-kernels").startswith("1 of 2 kernel launches of process 200 ")


# -- nothing doubled ------------------------------------------------------------------------------------


def test_two_api_rows_of_one_correlation_id_double_nothing(report: TraceBuilder, analyze: Analyze) -> None:
    """A runtime call and the driver call in it may both have a row; the earlier one is the launch.

    ::

        prefill   |==========================|
        runtime     [..........]    [copy...]
        driver          [....]        [copy]          same process and correlationId
        GPU                    ##k##         ~~copy~~
    """
    report.range("prefill", 0, 100)
    report.kernel("k", at=(40, 60), call=(10, 30), correlation=5).api("cuLaunchKernel", call=(15, 25), correlation=5)
    report.copy("HtoD", 256, at=(90, 95), call=(60, 80), correlation=6)
    report.api("cuMemcpyHtoDAsync_v2", call=(65, 75), correlation=6)
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "api_calls", "gpu_ops", "kernels", "kernel_total_ns") == [(2, 2, 1, 20)]
    assert rows(analysis, "stage_trace", "launches", "gpu_ops", "memcpy_ns", "memcpy_bytes") == [(2, 2, 5, 256)]
    assert rows(analysis, "kern_trace", "api_name", "api_start_ns", "api_ns") == [("cudaLaunchKernel_v7000", 10, 20)]
    assert not codes(analysis)


def test_two_api_rows_in_any_order(report: TraceBuilder, analyze: Analyze) -> None:
    """The driver's row may stand first in the file, and the two may lie in two ranges.

    ::

        runtime         [................]
        driver              [......]
        prefill       |===========================|
        inner             |=============|
    """
    report.range("prefill", 0, 100).range("inner", 12, 28).api("cuLaunchKernel", call=(15, 25), correlation=5)
    report.kernel("k", at=(40, 60), call=(10, 30), correlation=5)
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "name", "api_calls", "gpu_ops") == [("prefill", 1, 1), ("inner", 0, 0)]
    assert rows(analysis, "kern_trace", "api_name") == [("cudaLaunchKernel_v7000",)]


def test_two_rows_of_one_domain_on_two_threads_double_nothing(report: TraceBuilder, analyze: Analyze) -> None:
    """A library that creates its domain on each thread names it twice; another process has its own numbers.

    ::

        100/1   create dsprof (1)   |= prefill =|  [k]
        100/2   create dsprof (1)
        200/1   create other (1)    |= prefill =|  [k]
    """
    report.domain("dsprof", tid=1).domain("dsprof", tid=2, at=3).domain("other", pid=200, tid=1)
    report.range("prefill", 10, 50, domain="dsprof", tid=1).kernel("k", at=(60, 70), call=(20, 25), tid=1)
    report.range("prefill", 10, 50, domain="other", pid=200, tid=1)
    report.kernel("k", at=(60, 75), call=(20, 25), pid=200, tid=1)
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "domain", "pid", "gpu_ops", "kernel_total_ns") == [
        ("dsprof", 100, 1, 10),
        ("other", 200, 1, 15),
    ]
    assert rows(analysis, "range_kern_sum", "domain", "range_instances", "instances") == [
        ("dsprof", 1, 1), ("other", 1, 1)
    ]  # fmt: skip
    assert not codes(analysis)


# -- what is a range, and what it is called -------------------------------------------------------------


def test_names_are_registered_or_inline_and_domains_may_have_none(report: TraceBuilder, analyze: Analyze) -> None:
    """Both ways to name a range are one name; a domain that nothing names is as the default one."""
    report.range("prefill", 0, 10, domain="dsprof").range("prefill", 20, 30, registered=False)
    report.range("prefill", 40, 50, domain=9)
    for at in (5, 25, 45):
        report.kernel("k", at=(at + 100, at + 110), call=(at, at + 1))
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "name", "domain", "gpu_ops") == [
        ("prefill", "dsprof", 1),
        ("prefill", "", 1),
        ("prefill", "", 1),
    ]
    assert rows(analysis, "stage_trace", "instance", "kernels") == [(0, 1), (1, 1), (2, 1)]


def test_other_nvtx_events_are_no_ranges(report: TraceBuilder, analyze: Analyze) -> None:
    """Marks, categories, thread names, created and destroyed domains are none; ranges of text logs are."""
    for kind in (CATEGORY, MARK, THREAD_NAME, DOMAIN_CREATED, DOMAIN_DESTROYED):
        report.range("decode", 0, 100, kind=kind)
    report.range("prefill", 0, 50, kind=TEXT_PUSH_POP).range("decode", 60, 90, kind=TEXT_START_END)
    report.kernel("p", at=(100, 101), call=(10, 11)).kernel("d", at=(102, 103), call=(70, 71))
    analysis = analyze(report)
    assert rows(analysis, "range_trace", "name", "style", "gpu_ops") == [
        ("prefill", "PushPop", 1),
        ("decode", "StartEnd", 1),
    ]
    assert rows(analysis, "kern_trace", "stage") == [("prefill",), ("decode",)]


def test_stages_of_the_users_own(report: TraceBuilder, analyze: Analyze) -> None:
    """`stages` adds to the usual ones, by patterns on the range's name."""
    report.range("vision/encode", 0, 10).range("prefill", 20, 30)
    for at in (5, 25, 35):
        report.kernel("k", at=(at + 100, at + 101), call=(at, at + 1))
    analysis = analyze(report, stages={"vision": r"^vision/"})
    assert rows(analysis, "kern_trace", "stage") == [("vision",), ("prefill",), (NO_STAGE,)]


# -- odd files ------------------------------------------------------------------------------------------


def plain(report: TraceBuilder) -> TraceBuilder:
    """A prefill with a kernel and a copy, and a decode with a kernel.

    ::

        dsprof:prefill  |=======|   dsprof:decode |=======|
                          [k] [copy]                 [k]
    """
    report.range("prefill", 0, 50, domain="dsprof", payload=7).range("decode", 60, 90, domain="dsprof")
    report.kernel("k", at=(20, 40), call=(10, 15)).copy("HtoD", 512, at=(40, 48), call=(16, 20))
    return report.kernel("k", at=(80, 110), call=(70, 75))


def assert_plain(analysis: dsprof.Analysis, shift: int = 0) -> None:
    """What `plain` is, `shift` ns later."""
    assert rows(analysis, "stage_trace", "stage", "start_ns", "launches", "kernel_total_ns", "memcpy_bytes") == [
        ("prefill", shift, 2, 20, 512),
        ("decode", 60 + shift, 1, 30, 0),
    ]
    assert rows(analysis, "kern_trace", "start_ns", "stage") == [(20 + shift, "prefill"), (80 + shift, "decode")]


@pytest.mark.parametrize(
    ("table", "column"),
    [
        (NVTX, "endGlobalTid"),
        (NVTX, "domainId"),
        (NVTX, "int64Value"),
        (NVTX, "text"),
        (KERNEL, "globalPid"),
        (MEMCPY, "globalPid"),
        (KERNEL, "graphNodeId"),
        (KERNEL, "dynamicSharedMemory"),
        (KERNEL, "shortName"),
        (RUNTIME, "returnValue"),
    ],
)
def test_column_that_the_export_does_not_have(report: TraceBuilder, analyze: Analyze, table: str, column: str) -> None:
    """Each version lacks some; what does not depend on it stays as it was."""
    analysis = analyze(plain(report).without(table, column))
    assert_plain(analysis)
    domains = {domain for (domain,) in rows(analysis, "range_trace", "domain")}
    assert domains == ({""} if column in ("domainId", "text") else {"dsprof"})
    assert not codes(analysis)


def test_no_process_column_and_two_processes(report: TraceBuilder, analyze: Analyze) -> None:
    """Whose kernel it is cannot be known then: it is nobody's, rather than anybody's."""
    report.range("prefill", 0, 50).range("decode", 0, 50, pid=200)
    report.kernel("k", at=(20, 40), call=(10, 15)).api("cudaFree_v3020", call=(10, 15), pid=200, correlation=1)
    analysis = analyze(report.without(KERNEL, "globalPid"))
    assert rows(analysis, "kern_trace", "stage", "via") == [(NO_STAGE, "none")]
    assert "orphan-operations" in codes(analysis)


def test_end_thread_column_missing_leaves_a_range_to_its_own_thread(report: TraceBuilder, analyze: Analyze) -> None:
    """Without endGlobalTid, case F cannot be seen; the range is then as any other."""
    report.range("decode", 0, 50, tid=1, end_tid=2, kind=START_END).without(NVTX, "endGlobalTid")
    report.kernel("a", at=(60, 70), call=(10, 15), tid=1).kernel("b", at=(70, 80), call=(20, 25), tid=2)
    assert rows(analyze(report), "kern_trace", "kernel", "stage") == [("a", "decode"), ("b", NO_STAGE)]


@pytest.mark.parametrize("registered", [True, False])
def test_text_that_is_no_utf8(report: TraceBuilder, analyze: Analyze, registered: bool) -> None:
    """Names, and strings that nothing uses, may be in any encoding; what is readable of them stays."""
    plain(report).string("Московское время".encode("cp1251"))
    report.range("слой".encode("cp1251") + b" 1", 5, 45, registered=registered)
    report.kernel(b"gemm\xff\xfe", at=(200, 207), call=(30, 32))
    analysis = analyze(report)
    assert rows(analysis, "kern_trace", "kernel", "stage", start_ns=200) == [("gemm\ufffd\ufffd", "prefill")]
    assert [name for (name,) in rows(analysis, "range_trace", "name", start_ns=5)] == ["\ufffd\ufffd\ufffd\ufffd 1"]


def test_negative_times(report: TraceBuilder, analyze: Analyze) -> None:
    """A report's clock starts at the session, and what was traced may lie before."""
    plain(report)
    for table in (NVTX, RUNTIME, KERNEL, MEMCPY):
        report.sql(f'UPDATE {table} SET start = start - 70, "end" = "end" - 70')
    assert_plain(analyze(report), shift=-70)


def test_columns_and_indexes_of_users(report: TraceBuilder, analyze: Analyze) -> None:
    """A user's own columns, indexes, views and tables change nothing, whatever their place."""
    plain(report)
    report.sql(f"ALTER TABLE {NVTX} ADD COLUMN note TEXT").sql(f"UPDATE {NVTX} SET note = 'mine'")
    report.sql(f"ALTER TABLE {KERNEL} ADD COLUMN stage TEXT DEFAULT 'decode'")
    report.sql(f"CREATE INDEX kernel_start ON {KERNEL} (start DESC)")
    report.sql(f"CREATE INDEX nvtx_type ON {NVTX} (eventType, globalTid)")
    report.sql(f"CREATE TABLE mine AS SELECT * FROM {KERNEL}").sql(f"CREATE VIEW seen AS SELECT * FROM {NVTX}")
    analysis = analyze(report)
    assert_plain(analysis)
    assert not codes(analysis)


@pytest.mark.parametrize("schema", versions_with("CUDA_GRAPH_EVENTS"))
def test_graph_creation_events_are_no_operations(report: TraceBuilder, analyze: Analyze) -> None:
    """CUDA_GRAPH_EVENTS says that graphs or nodes were made, in columns that changed; it runs nothing."""
    plain(report)
    columns = report.schema.columns("CUDA_GRAPH_EVENTS")
    number = "graphNodeId" if "graphNodeId" in columns else "graphId"
    name = report.string("cudaGraphAddKernelNode_v10000")
    for at in (11, 12):
        thread = global_tid(100)
        report.row("CUDA_GRAPH_EVENTS", start=at, end=at, globalTid=thread, nameId=name, **{number: at})
    assert_plain(analyze(report))


def test_adapter_that_is_no_cuda_device(report: TraceBuilder, analyze: Analyze) -> None:
    """A display adapter may also claim to be CUDA device 0, and stand first."""
    plain(report).gpu("ASPEED Graphics Family", device=0, compute=None).gpu("Matrox G200", device=0, compute=(0, 0))
    report.gpu("NVIDIA H200", device=1).gpu("NVIDIA A100", device=0, compute=(8, 0))
    analysis = analyze(report)
    gpus = analysis.summary().report.gpus
    assert [(gpu.device, gpu.name, gpu.compute_capability) for gpu in gpus] == [
        (0, "NVIDIA A100", "8.0"),
        (1, "NVIDIA H200", "9.0"),
    ]


@pytest.mark.parametrize("schema", versions_with("DIAGNOSTIC_EVENT"))
def test_messages_of_nsys(report: TraceBuilder, analyze: Analyze) -> None:
    """Its errors may explain what is missing; the first line of each is kept, once."""
    plain(report).diagnostic("Profiling has started.", severity=1)
    for _ in range(2):
        report.diagnostic("Could not parse CUPTI records.\nDetails follow.")
    report.diagnostic(b"Driver \xe9 not supported").diagnostic("\n").diagnostic("")
    analysis = analyze(report)
    said = [text for text in analysis.summary().report.diagnostics if text]
    assert said == ["Could not parse CUPTI records.", "Driver \ufffd not supported"]
    assert_plain(analysis)


def test_lazy_and_full_exports_are_one(report: TraceBuilder, analyze: Analyze) -> None:
    """Empty tables, or none: the same."""
    plain(report)
    for lazy in (True, False):
        report.lazy = lazy
        assert_plain(analyze(report))


def test_statistics_are_those_of_nsys(report: TraceBuilder, analyze: Analyze) -> None:
    """Median of an even number: the mean of the middle two; standard deviation: by n - 1, 0 for one."""
    report.range("prefill", 0, 100)
    for at, duration in ((10, 5), (20, 1), (30, 2), (40, 10)):
        report.kernel("k", at=(1000 + at, 1000 + at + duration), call=(at, at + 1))
    report.kernel("one", at=(2000, 2003), call=(50, 51))
    statistics = ("kernel", "share_pct", "instances", "total_ns", "avg_ns", "med_ns", "min_ns", "max_ns", "stddev_ns")
    deviation = math.sqrt((0.5**2 + 3.5**2 + 2.5**2 + 5.5**2) / 3)
    truth = [("k", 100 * 18 / 21, 4, 18, 4.5, 3.5, 1, 10), ("one", 100 * 3 / 21, 1, 3, 3.0, 3.0, 3, 3)]
    analysis = analyze(report)
    for table in ("kern_sum", "stage_kern_sum"):
        found = rows(analysis, table, *statistics)
        assert [row[:-1] for row in found] == truth
        assert [row[-1] for row in found] == pytest.approx([deviation, 0.0])


# -- many processes ----------------------------------------------------------------------------------------


def test_processes_that_lost_records_are_not_named_without_end(tmp_path: Path) -> None:
    made = TraceBuilder().kernel("k", at=(5, 9), call=(1, 2), pid=1)
    for pid in range(2, 40):
        made.api(call=(1, 2), pid=pid)
        made.kernel("k", at=(5, 9), call=(3, 4), pid=pid)
    found = dsprof.analyze(made.write(tmp_path / "made.sqlite")).findings
    assert len(found) < 12
    assert any("More of the 39 processes" in str(finding) for finding in found)
