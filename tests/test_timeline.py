"""The timeline says what the tables say, to the nanosecond, by Perfetto's own importer, and loses nothing."""

from __future__ import annotations

import gzip
import http.client
import os
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprof.analysis.analyze import Analysis, analyze
from dsprof.analysis.ranks import Ranks
from dsprof.analysis.timelines import StepWanted, Timeline, write_timeline
from dsprof.arrays import beside, common, united
from dsprof.errors import OutputExists, OutputRefused, SelectionEmpty
from dsprof.nsys.locate import locate
from dsprof.nsys.parts import ReportInParts
from dsprof.nsys.reader import read as read_report
from dsprof.timeline.busy import BusyBins
from dsprof.timeline.drawn import BUSY, WITH_WAITING, Taken
from dsprof.timeline.lanes import FlatLanes, NestedLanes, begins_and_ends, nests
from dsprof.timeline.protobuf import Messages, message, number
from dsprof.timeline.serve import Served, Shown, ui_of
from dsprof.trace import Trace, pid_of, tid_of
from perfetto_reader import Read, browser, read, serving, ui, wait
from trace_builder import TraceBuilder

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
SEVERAL = ("h200-stages", "h200-graph-node", "h200-graphs-graph", "h200-two-processes", "h100-serve", "h100x2-node")
MS = 1_000_000
#: A slice with where it is: its track, the parent of that, and the process and thread above.
PLACED = """
    SELECT s.id, s.ts, s.dur, s.depth, s.name, s.category, s.arg_set_id AS args, t.id AS track_id, t.name AS track,
           p.name AS parent, th.tid AS tid, pr.pid AS pid
    FROM slice s JOIN track t ON s.track_id = t.id
    LEFT JOIN track p ON t.parent_id = p.id
    LEFT JOIN thread_track tt ON tt.id = t.id
    LEFT JOIN thread th USING (utid) LEFT JOIN process pr USING (upid)
"""


def report(name: str) -> Path:
    return locate(SAMPLES / f"{name}.sqlite.xz")[1].path


def whole(path: Path) -> Analysis:
    return Analysis.of(read_report(path), path=path)


def written(target: Path, *paths: Path, make: Callable[[Path], Analysis] = whole, **options: Any) -> Timeline:
    return write_timeline([partial(make, path) for path in paths], target, **options)


def placed(timeline: Read, where: str = "1") -> pd.DataFrame:
    return pd.DataFrame(timeline.rows(f"{PLACED} WHERE {where}"), columns=[
        "id", "ts", "dur", "depth", "name", "category", "args", "track_id", "track", "parent", "tid", "pid"
    ])  # fmt: skip


def shown(timeline: Read, key: str, ids: pd.Series) -> list[Any]:
    """An argument of each slice, None where it has none."""
    rows = timeline.rows(f"SELECT id, extract_arg(arg_set_id, 'debug.{key}') AS shown FROM slice")
    of = {row["id"]: row["shown"] for row in rows}
    return [of[one] for one in ids]


def known(values: pd.Series) -> list[Any]:
    return [None if pd.isna(value) else value for value in values]


def assert_same(found: Counter[Any], expected: Counter[Any]) -> None:
    """The same, without a comparison of all where they are not."""
    missing, foreign = expected - found, found - expected
    assert (list(missing)[:3], list(foreign)[:3]) == ([], [])


# -- slices, flows, names, depths ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SEVERAL)
def drawn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Analysis, Trace, Read]]:
    """A sample with its tables, and its timeline as Perfetto reads it."""
    path = report(request.param)
    target = tmp_path_factory.mktemp("timeline") / "run.pftrace.gz"
    written(target, path)
    with read(target) as timeline:
        yield whole(path), read_report(path), timeline


def test_perfetto_reads_it_without_an_error_and_loses_nothing(drawn: Any) -> None:
    _, trace, timeline = drawn
    assert timeline.problems == []
    slices = timeline.rows("SELECT count(*) AS n FROM slice")[0]["n"]
    assert slices >= len(trace.calls) + len(trace.operations) + len(trace.ranges) > 0
    assert timeline.rows("SELECT count(*) AS n FROM slice WHERE dur < 0")[0]["n"] == 0


def test_each_operation_is_on_its_stream_under_its_name(drawn: Any) -> None:
    analysis, _, timeline = drawn
    slices = placed(timeline, "t.name LIKE 'stream %'")
    columns = ["start_ns", "duration_ns", "device_id", "stream_id", "correlation_id", "stage", "step"]
    kernels, memory = analysis["kern_trace"], analysis["mem_trace"]
    expected = Counter(
        (*map(int, row[:5]), row[5], None if pd.isna(row[6]) else row[6], *row[7:])
        for frame, names in (
            (kernels, (kernels["short_name"], kernels["kernel"], kernels["family"])),
            (
                memory,
                (
                    [f"[CUDA {kind}]" if kind.startswith("mem") else kind for kind in memory["kind"]],
                    [None] * len(memory),
                    ["memory"] * len(memory),
                ),
            ),
        )
        for row in zip(*(frame[column] for column in columns), *names, strict=True)
    )
    where = [track.split(",")[0].split(" of ")[0].removeprefix("stream ") for track in slices["track"]]
    found = Counter(
        zip(slices["ts"], slices["dur"], [int(parent.split("GPU ")[1].split(" ")[0]) for parent in slices["parent"]],
            map(int, where), *(shown(timeline, key, slices["id"]) for key in ("correlation", "stage", "step")),
            slices["name"], shown(timeline, "name", slices["id"]), slices["category"], strict=True)
    )  # fmt: skip
    assert_same(found, expected)
    assert set(slices["depth"]) == {0}


def test_calls_and_ranges_lie_on_their_threads_as_deep_as_they_are_nested(drawn: Any) -> None:
    analysis, trace, timeline = drawn
    calls, slices = trace.calls, placed(timeline, "t.name = 'CUDA API'")
    expected = Counter(
        zip(pid_of(calls.thread).tolist(), tid_of(calls.thread).tolist(), calls.start.tolist(),
            (calls.end - calls.start).tolist(), [trace.names[code] for code in calls.name], strict=True)
    )  # fmt: skip
    found = Counter(zip(*(slices[name] for name in ("pid", "tid", "ts", "dur", "name")), strict=True))
    assert_same(found, expected)
    assert_as_deep_as_it_lies(slices)
    ranges = analysis["range_trace"]
    own = placed(timeline, "extract_arg(s.arg_set_id, 'debug.range_id') IS NOT NULL AND th.tid IS NOT NULL")
    names = [name or "(no name)" for name in ranges["name"]]
    assert_same(
        Counter(zip(own["pid"], own["tid"], own["ts"], own["dur"], own["name"], shown(timeline, "range_id", own["id"]),
                    shown(timeline, "payload", own["id"]), strict=True)),
        Counter(zip(ranges["pid"], ranges["tid"], ranges["start_ns"], ranges["duration_ns"], names, ranges["range_id"],
                    known(ranges["payload"]), strict=True)),
    )  # fmt: skip
    assert_as_deep_as_it_lies(own)
    level = dict(zip(ranges["range_id"], ranges["level"], strict=True))
    style = dict(zip(ranges["range_id"], ranges["style"], strict=True))
    pushed = [
        (depth, level[one])
        for one, depth in zip(shown(timeline, "range_id", own["id"]), own["depth"], strict=True)
        if style[one] == "PushPop"
    ]
    assert all(depth == of for depth, of in pushed)


def assert_as_deep_as_it_lies(slices: pd.DataFrame) -> None:
    """On each track a slice is as deep as the number of those that were open when it began, all of which hold it."""
    for _, track in slices.sort_values(["ts", "dur", "id"], ascending=[True, False, True]).groupby("track_id"):
        around: list[int] = []
        for start, dur, depth in zip(track["ts"], track["dur"], track["depth"], strict=True):
            while around and around[-1] <= start:
                around.pop()
            assert depth == len(around)
            assert not around or start + dur <= around[-1]
            around.append(start + dur)


def test_an_arrow_leads_from_each_launch_to_the_first_operation_of_it_alone(drawn: Any) -> None:
    _, trace, timeline = drawn
    ops, calls = trace.operations, trace.calls
    call_of = {
        (pid_of(int(t)), int(c)): row for row, (t, c) in enumerate(zip(calls.thread, calls.correlation, strict=True))
    }
    first: dict[int, int] = {}
    for row in np.lexsort((-ops.end, ops.start)).tolist():
        call = call_of.get((pid_of(int(ops.process[row])), int(ops.correlation[row])))
        if call is not None:
            first.setdefault(call, row)
    expected = Counter(
        (int(calls.start[call]), tid_of(int(calls.thread[call])), int(ops.start[op]), int(ops.end[op] - ops.start[op]))  # type: ignore[call-overload]
        for call, op in first.items()
    )
    arrows = timeline.rows(
        "SELECT a.ts AS called, th.tid AS tid, b.ts AS ran, b.dur AS dur FROM flow f "
        "JOIN slice a ON a.id = f.slice_out JOIN slice b ON b.id = f.slice_in "
        "JOIN track t ON t.id = a.track_id JOIN thread_track tt ON tt.id = t.id "
        "JOIN thread th USING (utid)"
    )
    assert_same(Counter((row["called"], row["tid"], row["ran"], row["dur"]) for row in arrows), expected)
    assert expected


def test_requests_stages_and_steps_are_rows_of_their_tables(drawn: Any) -> None:
    analysis, _, timeline = drawn
    slices = placed(timeline, "p.name LIKE '%Analysis'")
    found = Counter(zip(slices["track"], slices["name"], slices["ts"], slices["ts"] + slices["dur"], strict=True))
    expected: Counter[Any] = Counter()
    requests, stages, steps = (analysis[name] for name in ("request_trace", "stage_trace", "step_trace"))
    expected += Counter(
        ("requests", f"request {row.request}", row.start_ns, row.end_ns) for row in requests.itertuples()
    )
    for row in stages.itertuples():
        expected["stages", f"{row.stage} {row.instance}", row.start_ns, row.end_ns] += 1
        if not pd.isna(row.proj_start_ns):
            expected["stages on the GPU", f"{row.stage} {row.instance}", row.proj_start_ns, row.proj_end_ns] += 1
    for row in steps[steps["start_ns"].notna()].itertuples():
        mode = "" if pd.isna(row.mode) else f"{row.mode} "
        expected["steps", f"{mode}step {row.step}", row.start_ns, row.end_ns] += 1
    assert_same(found, expected)
    of_steps = slices[slices["track"] == "steps"]
    busy = Counter(zip(of_steps["ts"], shown(timeline, "gpu_busy_ns", of_steps["id"]), strict=True))
    own = steps[steps["start_ns"].notna()]
    assert_same(busy, Counter(zip(own["start_ns"], own["gpu_busy_ns"], strict=True)))


COUNTERS = (
    "SELECT p.name AS gpu, t.name AS title, c.ts, c.value FROM counter c JOIN track t ON t.id = c.track_id "
    "JOIN track p ON p.id = t.parent_id ORDER BY c.track_id, c.ts"
)


def test_gpu_busy_is_as_much_as_the_operations_without_waiting(drawn: Any) -> None:
    analysis, trace, timeline = drawn
    rows = timeline.rows(COUNTERS)
    found, ranks = pd.DataFrame(rows), analysis["rank_sum"]
    ops = trace.operations
    for device in np.unique(ops.device).tolist():
        start, end = united(ops.start[ops.device == device], ops.end[ops.device == device])
        own = found[[f"GPU {device} " in gpu for gpu in found["gpu"]]]
        assert own["value"].between(0, 100 + 1e-9).all()
        covered = {title: (of["value"].to_numpy()[:-1] / 100 * np.diff(of["ts"])).sum()
                   for title, of in own.groupby("title")}  # fmt: skip
        busy, wait = (end - start).sum(), ranks[ranks["device_id"] == device]["wait_exposed_ns"].sum()
        assert covered.pop(BUSY) == pytest.approx(busy - wait, rel=1e-9)
        assert [*covered] == ([WITH_WAITING] if wait else [])
        assert all(one == pytest.approx(busy, rel=1e-9) for one in covered.values())


def test_gpu_busy_of_ranks_is_without_waiting_as_their_tables_have_it(tmp_path: Path) -> None:
    """Of several reports, whole and in parts; one computes beside its collectives."""
    for name, make in (("host", whole), ("overlap", lambda path: Analysis.of(ReportInParts(path, 3), path=path))):
        paths = [report(f"h100x2-{name}-rank{rank}") for rank in (0, 1)]
        table = Ranks.of(map(whole, paths))["rank_sum"]
        with read(written(tmp_path / f"{name}.pftrace.gz", *paths, make=make).path) as timeline:
            rows = pd.DataFrame(timeline.rows(COUNTERS))
        for rank, own in rows.groupby("gpu"):
            covered = {title: (of["value"].to_numpy()[:-1] / 100 * np.diff(of["ts"])).sum()
                           for title, of in own.groupby("title")}  # fmt: skip
            of_rank = table[table["rank"] == int(str(rank).split(" ")[1])]
            waits = of_rank["wait_exposed_ns"].sum()
            assert waits > 0
            assert covered[WITH_WAITING] - covered[BUSY] == pytest.approx(waits, rel=1e-6)


# -- collectives, ranks ----------------------------------------------------------------------------------------


def test_ranks_of_several_reports_are_on_one_clock_with_waiting_and_transfer_apart(tmp_path: Path) -> None:
    paths = [report(f"h100x2-host-rank{rank}") for rank in (0, 1)]
    ranks = Ranks.of(map(whole, paths))
    table = ranks["collective_trace"]
    timeline_file = written(tmp_path / "ranks.pftrace.gz", *paths).path
    with read(timeline_file) as timeline:
        assert timeline.problems == []
        slices = placed(timeline, "p.name = 'Collectives'")
        for rank, own in slices.groupby("track"):
            rows = table[table["rank"] == int(str(rank).removeprefix("rank "))]
            outer = own[own["depth"] == 0]
            assert Counter(zip(outer["ts"], outer["dur"], outer["name"], strict=True)) == Counter(
                zip(rows["start_ns"], rows["duration_ns"], rows["operation"], strict=True)
            )
            inner = own[own["depth"] == 1].groupby("name")["dur"].sum().to_dict()
            assert inner == {"waits": rows["wait_ns"].sum(), "transfers": rows["transfer_ns"].sum()}
        assert set(slices["track"]) == {"rank 0", "rank 1"}
        # Kernels of both lie on that clock as well.
        kernels = placed(timeline, "t.name LIKE 'stream %' AND s.category = 'communication'")
        assert set(zip(table["start_ns"], table["duration_ns"], strict=True)) == set(
            zip(kernels["ts"], kernels["dur"], strict=True)
        )
        names = {row["name"] for row in timeline.rows("SELECT name FROM process WHERE pid > 0")}
        assert names == {"rank 0 · process", "rank 1 · process"}
        assert {row["n"] for row in timeline.rows("SELECT count(*) AS n FROM flow")} == {
            sum(len(np.unique(one.correlation)) for one in (read_report(path).operations for path in paths))
        }


def test_reports_with_the_same_processes_stay_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made = TraceBuilder().range("prefill", 0, 10 * MS).kernel("gemm", at=(MS, 2 * MS), call=(10, 20))
        made.write(tmp_path / f"{name}.sqlite")
    paths = [tmp_path / "a.sqlite", tmp_path / "b.sqlite"]
    with read(written(tmp_path / "both.pftrace", *paths).path) as timeline:
        assert timeline.problems == []
        processes = timeline.rows("SELECT pid, name FROM process WHERE pid > 0 ORDER BY upid")
        assert len({row["pid"] for row in processes}) == 2
        assert {row["name"].split(" · ")[0] for row in processes} == {"a", "b"}
        assert timeline.rows("SELECT count(*) AS n FROM flow") == [{"n": 2}]


# -- parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ["h100x2-node", "h200-two-processes", "h200-graphs-node"])
@pytest.mark.parametrize("parts", [2, 7])
def test_a_report_in_parts_gives_the_same_timeline(sample: str, parts: int, tmp_path: Path) -> None:
    path = report(sample)
    seen = []
    for name, make in (("whole", whole), ("parts", lambda path: Analysis.of(ReportInParts(path, parts), path=path))):
        with read(written(tmp_path / f"{name}.pftrace", path, make=make).path) as timeline:
            assert timeline.problems == []
            slices = placed(timeline).drop(columns=["id", "args", "track_id"]).astype(str)
            counter = timeline.rows("SELECT ts, round(value, 9) AS value FROM counter ORDER BY ts, value")
            flows = timeline.rows(
                "SELECT a.ts AS a, b.ts AS b FROM flow f "
                "JOIN slice a ON a.id = f.slice_out JOIN slice b ON b.id = f.slice_in"
            )
            arrows = Counter((row["a"], row["b"]) for row in flows)
            seen.append(
                (Counter(map(tuple, slices.to_numpy())), Counter(tuple(row.values()) for row in counter), arrows)
            )
    for one, other in zip(*seen, strict=True):
        assert_same(other, one)


def test_ranges_in_pieces_give_the_same_timeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for at_once in (1 << 14, 7):
        monkeypatch.setattr("dsprof.timeline.drawn._RANGES_AT_ONCE", at_once)
        with read(written(tmp_path / f"{at_once}.pftrace", report("h200-two-processes")).path) as timeline:
            assert timeline.problems == []
            slices = placed(timeline).drop(columns=["id", "args", "track_id"]).astype(str)
            seen.append(Counter(map(tuple, slices.to_numpy())))
    assert_same(seen[1], seen[0])
    assert seen[0]


# -- a step ----------------------------------------------------------------------------------------------------


def test_a_step_is_drawn_with_what_is_around_it(tmp_path: Path) -> None:
    path = report("h200-stages")
    steps = whole(path)["step_trace"]
    row = steps[(steps["request"] == 1) & (steps["step"] == 5)].iloc[0]
    made = written(tmp_path / "step.pftrace", path, step=StepWanted(5, 1))
    end = max(row["end_ns"], row["start_ns"] + row["wall_ns"])
    assert made.sight is not None
    assert made.sight[0] < row["start_ns"] < end < made.sight[1]
    low, high = row["start_ns"] - (end - row["start_ns"]), end + (end - row["start_ns"])
    with read(made.path) as timeline:
        assert timeline.problems == []
        kernels = placed(timeline, "t.name LIKE 'stream %'")
        ops = read_report(path).operations
        assert len(kernels) == np.count_nonzero((ops.end >= low) & (ops.start <= high)) > row["gpu_ops"]
        assert f"step {row['step']}" in set(placed(timeline, "t.name = 'steps'")["name"])


def test_a_step_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    path = report("h200-stages")
    with pytest.raises(SelectionEmpty, match=r"no step 999\. Steps are from 1 to"):
        written(tmp_path / "step.pftrace", path, step=StepWanted(999))
    with pytest.raises(SelectionEmpty, match="no step 5 of request 77"):
        written(tmp_path / "step.pftrace", path, step=StepWanted(5, 77))
    TraceBuilder().kernel("k", at=(1, 2), call=(0, 1)).write(tmp_path / "bare.sqlite")
    with pytest.raises(SelectionEmpty, match="has no steps"):
        written(tmp_path / "step.pftrace", tmp_path / "bare.sqlite", step=StepWanted(1))
    assert not list(tmp_path.glob("*.pftrace"))


# -- names and times of all kinds ------------------------------------------------------------------------------

HOSTILE = (
    "</script><img src=x onerror=alert(1)>", "a\0b", "\x1b[2J\x1b]0;owned\a", "\u202egnp.exe", "x" * 20_000,
    "'; DROP--", "\ud83d\ude00 \U0001f600".encode("utf-16", "surrogatepass").decode("utf-16"), "line\nbreak\ttab", "",
    "%s%n{0}",
)  # fmt: skip


def test_hostile_names_break_nothing(tmp_path: Path) -> None:
    made = TraceBuilder()
    for place, name in enumerate(HOSTILE):
        at = place * 10 * MS
        made.range(name, at, at + MS).kernel(name or "k", at=(at + 100, at + 200), call=(at + 10, at + 20))
    made.write(tmp_path / "bad.sqlite")
    with read(written(tmp_path / "bad.pftrace", tmp_path / "bad.sqlite").path) as timeline:
        assert timeline.problems == []
        names = [row["name"] for row in timeline.rows("SELECT name FROM slice ORDER BY ts")]
        assert len(names) == 3 * len(HOSTILE)
        assert not any(set(name) & set("\0\x1b\u202e\n") for name in names)
        assert r"a\x00b" in names
        assert "x" * 20_000 in names
        assert "(no name)" in names


def test_times_before_zero_and_far_away_are_read(tmp_path: Path) -> None:
    made = TraceBuilder().range("prefill", -5 * MS, 10 * MS).kernel("k", at=(-MS, MS), call=(-2 * MS, -2 * MS + 5))
    made.kernel("far", at=(1 << 45, (1 << 45) + 5), call=((1 << 45) - 9, (1 << 45) - 4))
    made.write(tmp_path / "odd.sqlite")
    with read(written(tmp_path / "odd.pftrace", tmp_path / "odd.sqlite").path) as timeline:
        assert timeline.problems == []
        lasting = {(row["name"], row["dur"]) for row in timeline.rows("SELECT name, dur FROM slice")}
        assert {("prefill", 15 * MS), ("k", 2 * MS), ("far", 5)} <= lasting


def test_overlapping_operations_are_all_there(tmp_path: Path) -> None:
    made = TraceBuilder()
    for place in range(50):
        made.kernel(f"k{place}", at=(1000 + place, 2000 + 3 * place), call=(place * 2, place * 2 + 1))
    made.kernel("empty", at=(1500, 1500), call=(900, 901))
    made.write(tmp_path / "over.sqlite")
    with read(written(tmp_path / "over.pftrace", tmp_path / "over.sqlite").path) as timeline:
        assert timeline.problems == []
        slices = placed(timeline, "t.name LIKE 'stream %'")
        assert len(slices) == 51
        assert dict(zip(slices["name"], slices["dur"], strict=True))["k49"] == 1000 + 3 * 49 - 49
        assert set(slices["depth"]) == {0}


# -- pieces ----------------------------------------------------------------------------------------------------

intervals = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 25)), max_size=40)


def columns(some: list[tuple[int, int]]) -> tuple[Any, Any]:
    start = np.array([one for one, _ in some], np.int64)
    end = start + np.array([lasts for _, lasts in some], np.int64)
    order = np.lexsort((-end, start))
    return start[order], end[order]


@given(st.lists(intervals, max_size=4))
def test_nothing_overlaps_on_a_flat_lane(pieces: list[list[tuple[int, int]]]) -> None:
    lanes, on = FlatLanes(), {}
    for piece in pieces:
        start, end = columns(piece)
        for lane, one, until in zip(lanes.place(start, end).tolist(), start.tolist(), end.tolist(), strict=True):
            assert lane < lanes.count
            assert all(until <= other or last <= one for other, last in on.get(lane, []))
            on.setdefault(lane, []).append((one, until))


@given(intervals, st.integers(0, 60))
def test_all_nests_on_a_nested_lane_also_in_two_pieces(some: list[tuple[int, int]], cut: int) -> None:
    start, end = columns(some)
    lanes, on = NestedLanes(), {}
    for rows in (start < cut, start >= cut):
        for lane, one, until in zip(
            lanes.place(start[rows], end[rows]).tolist(), start[rows].tolist(), end[rows].tolist(), strict=True
        ):
            assert lane < lanes.count
            assert all(last <= one or until <= last for other, last in on.get(lane, []))
            on.setdefault(lane, []).append((one, until))
    crossing = any(
        one < other < until < last
        for one, until in zip(start, end, strict=True)
        for other, last in zip(start, end, strict=True)
    )
    assert nests(start, end) == (not crossing)
    assert lanes.count == 1 or crossing or not some


def test_many_crossing_slices_take_no_longer_each() -> None:
    start = np.arange(50_000, dtype=np.int64)
    lanes = NestedLanes()
    lane = lanes.place(start, start + 100_000)
    assert len(np.unique(lane)) == lanes.count == len(start)


@given(st.lists(st.tuples(st.integers(0, 1 << 62), st.booleans()), max_size=30))
def test_many_messages_are_as_one_by_one(rows: list[tuple[int, bool]]) -> None:
    values, there = (np.array([row[place] for row in rows], kind) for place, kind in ((0, np.int64), (1, np.bool_)))
    inner = Messages(len(rows)).number(3, values, there).same(b"\x08\x01")
    found = Messages(len(rows)).fixed(5, values).message(2, inner, there).joined()
    expected = b"".join(
        number(5, 0)[:-1].replace(b"\x28", b"\x29") + value.to_bytes(8, "little")
        + (message(2, number(3, value), b"\x08\x01") if has else b"")
        for value, has in rows
    )  # fmt: skip
    assert found == expected


@given(
    st.lists(st.tuples(st.integers(-5, 20_000), st.integers(1, 900)), min_size=1, max_size=30), st.integers(0, 20_000)
)
def test_bins_cover_what_operations_cover_however_they_are_cut(some: list[tuple[int, int]], cut: int) -> None:
    start, end = (column * MS for column in columns(some))
    bins = BusyBins()
    for low, high in ((-(1 << 60), cut * MS), (cut * MS, 1 << 60)):
        inside = np.clip(start, low, high), np.clip(end, low, high)
        bins.add(*(column[inside[1] > inside[0]] for column in inside))
    times, percent = bins.shown()
    union = united(start, end)
    assert len(times) <= 8_194
    assert (percent[:-1] / 100 * np.diff(times)).sum() == pytest.approx((union[1] - union[0]).sum())
    assert (percent <= 100).all()


@given(intervals, intervals)
def test_what_is_common_to_two_sets_of_times_and_what_is_beside_it(some: Any, others: Any) -> None:
    one, other = (united(*(side[start < end] for side in (start, end))) for start, end in map(columns, (some, others)))
    moments = [{at for low, high in zip(*times, strict=True) for at in range(low, high)} for times in (one, other)]
    for found, expected in (
        (common(one, other), moments[0] & moments[1]),
        (beside(one, other), moments[0] - moments[1]),
    ):
        pieces = [at for low, high in zip(*found, strict=True) for at in range(low, high)]
        assert (found[0] < found[1]).all()
        assert pieces == sorted(expected)


def test_begins_and_ends_come_as_a_reader_wants_them() -> None:
    start, end = np.array([0, 0, 5, 5, 5]), np.array([5, 10, 5, 7, 10])
    row, is_end = begins_and_ends(start, end)
    said = [("end" if last else "begin", int(one)) for one, last in zip(row, is_end, strict=True)]
    assert said == [
        ("begin", 1), ("begin", 0), ("end", 0), ("begin", 4), ("begin", 3), ("begin", 2), ("end", 2), ("end", 3),
        ("end", 4), ("end", 1),
    ]  # fmt: skip


def test_a_number_is_given_once() -> None:
    taken = Taken()
    numbers = [taken.number(wanted) for wanted in (7, 7, 0, 7, 1 << 30, 8)]
    assert len(set(numbers)) == len(numbers)
    assert numbers[0] == 7
    assert numbers[-1] == 8
    assert all(0 < one < 1 << 31 for one in numbers)


# -- the file --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made report with a step."""
    made = TraceBuilder().range("decode", 0, 10 * MS).range("decode.step", MS, 3 * MS)
    made.kernel("gemm", at=(2 * MS, 4 * MS), call=(MS + 10, MS + 20))
    return made.write(tmp_path_factory.mktemp("small") / "run.sqlite")


def dsprof(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsprof", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100, **more)


def test_the_command_writes_a_file_of_usual_rights_and_replaces_none(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "run.pftrace.gz"
    done = dsprof("timeline", small, "-o", target, umask=0o027)
    assert (done.returncode, done.stdout) == (0, f"Timeline: {target}\n")
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    with gzip.open(target) as file:
        assert file.read(1) == b"\x0a"
    target.write_text("mine")
    done = dsprof("timeline", small, "-o", target)
    assert done.returncode == OutputExists.exit_code
    assert "--force" in done.stderr
    assert target.read_text() == "mine"
    assert dsprof("timeline", small, "-o", target, "--force").returncode == 0
    assert target.read_bytes()[:2] == b"\x1f\x8b"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.pftrace.gz"]


def test_a_report_is_never_replaced_by_its_timeline(small: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.sqlite"
    link.symlink_to(small)
    before = small.read_bytes()
    for target in (small, link):
        done = dsprof("timeline", small, "-o", target, "--force")
        assert (done.returncode, small.read_bytes()) == (OutputRefused.exit_code, before)
        with pytest.raises(OutputRefused, match="made from"):
            analyze(small, reuse=False).timeline(target, force=True)
        assert small.read_bytes() == before


def test_an_analysis_writes_its_timeline(small: Path, tmp_path: Path) -> None:
    """As the command does; of a step by its number, or by request and number; also where its tables were there."""
    analysis, target = analyze(small, folder=tmp_path / "tables"), tmp_path / "run.pftrace.gz"
    assert analysis.timeline(target) == target
    assert target.read_bytes() == written(tmp_path / "other.pftrace.gz", small).path.read_bytes()
    with pytest.raises(OutputExists):
        analysis.timeline(target)
    analysis.write()
    stored = analyze(small, folder=tmp_path / "tables")
    of_step = stored.timeline(tmp_path / "step.pftrace", step=1).read_bytes()
    assert of_step == written(tmp_path / "same.pftrace", small, step=StepWanted(1)).path.read_bytes()
    with pytest.raises(SelectionEmpty):
        stored.timeline(tmp_path / "none.pftrace", step=(7, 1))
    assert not (tmp_path / "none.pftrace").exists()


def test_the_same_report_gives_the_same_bytes(small: Path, tmp_path: Path) -> None:
    one, other = (written(tmp_path / f"{name}.pftrace.gz", small).path for name in "ab")
    assert one.read_bytes() == other.read_bytes()
    plain = written(tmp_path / "plain.pftrace", small).path
    assert gzip.decompress(one.read_bytes()) == plain.read_bytes()


def test_where_nothing_can_be_written_nothing_is_left(small: Path, tmp_path: Path) -> None:
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    for target in (folder, pipe, tmp_path / "none" / "run.pftrace", Path("/proc/run.pftrace"), tmp_path / ("x" * 300)):
        with pytest.raises(OutputRefused):
            written(target, small, force=True)
    assert sorted(tmp_path.iterdir()) == [folder, pipe]


def test_what_fails_midway_leaves_what_was_there(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "run.pftrace"
    target.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dsprof.timeline.drawn.Drawn.finish", fail)
    with pytest.raises(OutputRefused, match="No space left"):
        written(target, small, force=True)
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "-o"),
        (("--ui", "http://127.0.0.1:1", "-o", "x"), "--open"),
        (("--open", "--ui", "javascript:alert(1)"), "no address"),
        (("-o", "x.pftrace", "--step", "("), "no regular"),
        (("-o", "x.pftrace", "--window", "5"), "no window"),
    ],
)
def test_wrong_words_are_usage_errors(words: tuple[str, ...], said: str, small: Path, tmp_path: Path) -> None:
    done = dsprof("timeline", small, *words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.replace("\u2502", " ").split())
    assert not list(tmp_path.iterdir())


def test_a_window_and_a_step_are_chosen_by_options(small: Path, tmp_path: Path) -> None:
    one, other = tmp_path / "window.pftrace", tmp_path / "step.pftrace"
    assert dsprof("timeline", small, "-o", one, "--window", "0ms..1ms").returncode == 0
    assert dsprof("timeline", small, "-o", other, "--step", "1").returncode == 0
    with read(one) as timeline:
        assert {row["name"] for row in timeline.rows("SELECT name FROM slice")} >= {"decode"}
        assert not len(placed(timeline, "t.name LIKE 'stream %'"))
    with read(other) as timeline:
        assert {"gemm", "step 1", "decode 0"} <= {row["name"] for row in timeline.rows("SELECT name FROM slice")}
    assert dsprof("timeline", small, "-o", tmp_path / "no", "--step", "7").returncode == SelectionEmpty.exit_code


def test_reports_without_kernels_or_ranges_have_a_timeline(tmp_path: Path) -> None:
    ranges = TraceBuilder().range("prefill", 0, MS).write(tmp_path / "ranges.sqlite")
    kernels = TraceBuilder().kernel("k", at=(5, 9)).write(tmp_path / "kernels.sqlite")
    for path, count in ((ranges, 3), (kernels, 1)):
        with read(written(path.with_suffix(".pftrace"), path).path) as timeline:
            assert timeline.problems == []
            assert timeline.rows("SELECT count(*) AS n FROM slice") == [{"n": count}]


def test_it_opens_in_a_browser_at_the_step_that_was_asked_for(small: Path, tmp_path: Path) -> None:
    made = written(tmp_path / "run.pftrace.gz", small, step=StepWanted(1))
    with browser() as driver, ui() as address, serving(made, address) as served:
        driver.get(served.address)
        driver.switch_to.frame("ui")
        wait(driver, "return !!(window.app && window.app.trace && window.app.trace.timeline)")
        wait(driver, "return document.body.innerText.includes('stream')")
        start, duration = driver.execute_script(
            "const seen = window.app.trace.timeline.visibleWindow;"
            "return [String(seen.start.integral), Number(seen.duration)];"
        )
        assert made.sight is not None
        assert int(start) == made.sight[0]
        assert duration == pytest.approx(made.sight[1] - made.sight[0], abs=2)
        text = driver.execute_script("return document.body.innerText")
        assert [word for word in ("Analysis", "steps", "CUDA API", "GPU busy") if word not in text] == []
        driver.switch_to.default_content()
        assert not driver.find_elements("id", "said")


# -- the page --------------------------------------------------------------------------------------------------


@pytest.fixture
def served(small: Path, tmp_path: Path) -> Iterator[Served]:
    made = written(tmp_path / "a<b>'\".pftrace", small, step=StepWanted(1))
    shown_first = Shown(made.path.name, made.sight, "http://127.0.0.1:1/ui/")
    with Served(shown_first, made.path.stat().st_size, lambda: made.path.open("rb")) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


def ask(served: Served, path: str, host: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=10)
    connection.request("GET", path, headers={"Host": host or served.host})
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_the_page_hands_the_timeline_to_the_ui_alone(served: Served, tmp_path: Path) -> None:
    status, body, head = ask(served, f"/{served.key}/")
    page = body.decode()
    assert status == 200
    assert "frame-src http://127.0.0.1:1;" in head["Content-Security-Policy"]
    assert "default-src 'none'" in head["Content-Security-Policy"]
    assert "a<b>" not in page
    assert "visStart" in page
    assert '"http://127.0.0.1:1")' in page
    status, body, _ = ask(served, f"/{served.key}/timeline")
    assert (status, body) == (200, next(tmp_path.glob("*.pftrace")).read_bytes())


@pytest.mark.parametrize("path", ["/", "/timeline", "/../etc/passwd", "//timeline"])
def test_who_has_no_key_gets_nothing(served: Served, path: str) -> None:
    assert ask(served, path)[0] == 404


def test_a_foreign_name_of_this_machine_is_refused(served: Served) -> None:
    assert ask(served, f"/{served.key}/timeline", "evil.example:80")[0] == 403
    assert served.server_address[0] == "127.0.0.1"


def test_addresses_of_a_ui_are_plain() -> None:
    assert ui_of("https://ui.perfetto.dev") == "https://ui.perfetto.dev"
    for wrong in (
        "file:///x",
        "javascript:1",
        "http://",
        "http://a b/",
        "http://u:p@h/",
        "http://h/?q",
        "x; script-src *",
    ):
        with pytest.raises(ValueError, match="no address"):
            ui_of(wrong)
