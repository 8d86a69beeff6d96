"""A report in parts says what it says whole, to the nanosecond, wherever it is cut, and in as little memory as told."""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

import slow_reference as slow
from dsprof.analysis import parquet
from dsprof.analysis.analyze import Analysis, _plan
from dsprof.analysis.parquet import RowsInFile, RowsInMemory
from dsprof.arrays import backend
from dsprof.errors import MemoryTooSmall
from dsprof.ground.memory import allowed, bytes_of
from dsprof.nsys.locate import locate
from dsprof.nsys.pages import Pages
from dsprof.nsys.parts import CutTooLate, ReportInParts, Size, size_of
from dsprof.nsys.reader import read
from dsprof.rules.rules import Rules
from dsprof.tables import all_tables
from test_properties import MODES, few, recordings
from trace_builder import GRAPH_TRACE, KERNEL, MEMCPY, MEMSET, TraceBuilder

ROOT = Path(__file__).parents[1]
SAMPLES = ("h200-stages", "h200-two-processes", "h200-graphs-node", "h200-graphs-graph", "h200-graph-node")


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    """Categories as text: parts meet the names in another order."""
    texts = [name for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)]
    return frame.astype(dict.fromkeys(texts, object))


def assert_same(whole: Analysis, parted: Analysis) -> None:
    assert list(whole) == list(parted)
    for name in all_tables():
        one, other = as_text(whole[name]), as_text(parted[name])
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=name)
    assert whole.findings == parted.findings
    assert whole.summary() == parted.summary()


def in_parts(path: Path, parts: int, rules: Rules | None = None) -> Analysis:
    return Analysis.of(ReportInParts(path, parts), rules, path)


def test_what_sql_must_be_asked_for_is_the_same_in_parts(tmp_path: Path) -> None:
    """Two threads read rows, and no page is as they know it: the file says that it may have a WAL."""
    path = tmp_path / "wal.sqlite"
    raw = bytearray(locate(ROOT / "traces" / "samples" / "h100-flash.sqlite.xz")[1].path.read_bytes())
    raw[18:20] = b"\2\2"
    path.write_bytes(raw)
    with Pages(path) as pages:
        assert pages.table(KERNEL) is None
    assert_same(Analysis.of(read(path)), in_parts(path, 3))


@pytest.mark.parametrize("threads", MODES)
@pytest.mark.parametrize("parts", [2, 11])
@pytest.mark.parametrize("sample", SAMPLES)
def test_recorded_reports_are_the_same_in_parts(sample: str, parts: int, threads: str) -> None:
    path = locate(ROOT / "traces" / "samples" / f"{sample}.sqlite.xz")[1].path
    rules = Rules(threads=threads)
    parted = in_parts(path, parts, rules)
    assert len(parted.results._work._source.cuts) >= parts - 1
    assert_same(Analysis.of(read(path), rules, path), parted)


def written(rec: slow.Recording, path: Path) -> Path:
    """A random recording as a report."""
    builder = TraceBuilder("2025.3.2")
    for one in rec.ranges:
        pid, tid = slow.pid(one.thread), slow.tid(one.thread)
        builder.range(
            one.name, one.start, None if one.truncated else one.end, payload=one.payload, domain=one.domain, pid=pid,
            tid=tid, kind=60 if one.style == slow.START_END else 59,
            end_tid=None if one.ended_by is None else slow.tid(one.ended_by),
        )  # fmt: skip
    for call in rec.calls:
        builder.api(call.name, call=(call.start, call.end), pid=slow.pid(call.thread), tid=slow.tid(call.thread),
                    correlation=call.correlation)  # fmt: skip
    for op in rec.ops:
        place = {"start": op.start, "end": op.end, "globalPid": 1 << 48 | slow.pid(op.process) << 24,
                 "correlationId": op.correlation, "deviceId": op.device, "contextId": 1,
                 "streamId": op.stream}  # fmt: skip
        if op.what == slow.KERNEL and op.name == slow.GRAPH:
            builder.row(GRAPH_TRACE, **place)
        elif op.what == slow.KERNEL:
            name = builder.string(op.name)
            builder.row(KERNEL, **place, demangledName=name, shortName=name)
        elif op.what == slow.COPY:
            builder.row(MEMCPY, **place, bytes=op.bytes, copyKind=op.kind)
        else:
            builder.row(MEMSET, **place, bytes=op.bytes)
    return builder.write(path)


@pytest.mark.parametrize("threads", MODES)
def test_random_reports_are_the_same_in_parts(threads: str, tmp_path: Path) -> None:
    @few
    @given(recordings(), st.integers(2, 9))
    def check(rec: slow.Recording, parts: int) -> None:
        path = written(rec, tmp_path / "random.sqlite")
        rules = Rules(threads=threads)
        assert_same(Analysis.of(read(path), rules, path), in_parts(path, parts, rules))

    check()


def test_an_operation_over_a_cut_counts_once_and_takes_time_on_both_sides(tmp_path: Path) -> None:
    """
    ::

        decode     |------------------------------|
        launch      x            x
        kernels       [----------|--------]             cut at 50: 30 ns before it, 20 after
                                 |    [-------]         launched after it, and over the other's end
    """
    report = TraceBuilder("2023.4.4").range("decode", 0, 100, payload=2)
    report.kernel("a", at=(20, 70), call=(1, 5)).kernel("b", at=(60, 90), call=(51, 55))
    path = report.write(tmp_path / "made.sqlite")
    partial = ReportInParts(path, 2)
    partial.cuts = [50]
    first, second = list(partial.parts())
    assert (len(first.kernels), len(second.kernels), second.part.kernels, second.part.calls) == (1, 2, 1, 1)
    stage = Analysis.of(partial, None, path)["stage_trace"].iloc[0]
    assert (stage["kernels"], stage["gpu_busy_ns"], stage["kernel_total_ns"]) == (2, 70, 80)
    assert_same(Analysis.of(read(path), None, path), Analysis.of(partial, None, path))


launches = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 9), st.integers(0, 200), st.integers(0, 30), st.integers(0, 5)),
    min_size=1, max_size=12,
)  # fmt: skip
stretches = st.lists(
    st.tuples(st.sampled_from(["prefill", "decode", "decode.step"]), st.integers(0, 90), st.integers(1, 90))
)


@pytest.mark.parametrize("threads", MODES)
def test_what_the_gpu_is_long_behind_with_is_the_same_in_parts(threads: str, tmp_path: Path) -> None:
    """Operations begin many parts after their launch, and wait all the while; copies are called until they are done."""

    @few
    @given(launches, stretches, st.lists(st.integers(1, 250), min_size=1, max_size=9, unique=True))
    def check(drawn: list, ranges: list, cuts: list[int]) -> None:
        report = TraceBuilder("2025.3.2").range("decode", 0, 100)
        for number, (name, start, length) in enumerate(ranges):
            report.range(name, start, start + length, domain=f"d{number}", tid=1 + number % 2)
        for begin, length, wait, lasts, kind in drawn:
            at, call = (begin + wait, begin + wait + lasts), (begin, begin + length)
            place = {"pid": 100 + kind % 2, "tid": 1 + kind % 3}
            if kind == 5:
                report.copy(at=at, call=(begin, at[1] + 5 * length), **place)
            else:
                report.kernel("ab"[kind % 2], at=at, call=call, **place)
        path = report.write(tmp_path / "behind.sqlite")
        partial = ReportInParts(path, 2)
        partial.cuts = sorted(cuts)
        rules = Rules(threads=threads)
        assert_same(Analysis.of(read(path), rules, path), Analysis.of(partial, rules, path))

    check()


def test_a_cut_that_an_operation_began_before_is_moved(tmp_path: Path) -> None:
    """The GPU's clock is behind: the kernel began at 30, its launch at 52."""
    report = TraceBuilder("2023.4.4").range("decode", 0, 100)
    report.kernel("a", at=(10, 15), call=(1, 5)).kernel("b", at=(30, 60), call=(52, 55))
    path = report.write(tmp_path / "made.sqlite")
    partial = ReportInParts(path, 2)
    partial.cuts = [50]
    with pytest.raises(CutTooLate, match="launched after 50 began at 30"):
        list(partial.parts())
    assert_same(Analysis.of(read(path), None, path), Analysis.of(partial, None, path))
    assert partial.cuts == [30]


def test_a_stream_capture_over_a_cut_is_remembered(tmp_path: Path) -> None:
    """Launches under capture launch nothing, and so none is lost, though the capture began in the part before."""
    report = TraceBuilder("2023.4.4").range("decode", 0, 100)
    report.api("cudaStreamBeginCapture_v10000", call=(10, 12)).kernel("a", at=(2, 4), call=(1, 2))
    for start in (20, 60, 70):
        report.api(call=(start, start + 2))
    path = report.api("cudaStreamEndCapture_v10000", call=(80, 82)).write(tmp_path / "made.sqlite")
    partial = ReportInParts(path, 2)
    partial.cuts = [50]
    parted = Analysis.of(partial, None, path)
    assert not [found for found in parted.findings if found.code == "lost-kernels"]
    assert_same(Analysis.of(read(path), None, path), parted)


def test_a_part_without_calls_within_a_stream_capture(tmp_path: Path) -> None:
    """
    ::

        calls      x  begin capture  |               |  end
        kernels         [--]         |               |      in the part between the cuts there is nothing
    """
    report = TraceBuilder("2023.4.4").range("decode", 0, 100).kernel("a", at=(15, 20), call=(1, 2))
    report.api("cudaStreamBeginCapture_v10000", call=(10, 12))
    path = report.api("cudaStreamEndCapture_v10000", call=(80, 82)).write(tmp_path / "made.sqlite")
    partial = ReportInParts(path, 2)
    partial.cuts = [30, 70]
    assert_same(Analysis.of(read(path), None, path), Analysis.of(partial, None, path))


starts = st.lists(st.integers(0, 20), max_size=12)


def event_rows(times: list[int]) -> pa.Table:
    """Rows of a table of events that start then; every other one has no launch."""
    numbers = [None if one % 2 else one for one in range(len(times))]
    columns = {"start_ns": times, "pid": [7] * len(times), "correlation_id": numbers}
    table = pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})
    return table.append_column("name", pa.array(["x" * one for one in times], pa.string()).dictionary_encode())


@pytest.mark.parametrize("most", [None, 0, 3])
def test_rows_leave_in_their_order_whatever_parts_they_come_in(
    most: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part has rows from its own begin on; they come in pieces. Those that wait do so in memory, or in a file."""
    if most is not None:
        monkeypatch.setattr(parquet, "_MOST_WAITING", most)

    @few
    @given(st.lists(st.tuples(st.integers(0, 10), starts), max_size=5), st.integers(1, 4))
    def check(drawn: list, at_once: int) -> None:
        low, expected = 0, []
        parts = drawn or [(0, [])]
        with contextlib.ExitStack() as stack:
            file = tmp_path / "rows.parquet"
            rows = RowsInMemory() if most is None else stack.enter_context(RowsInFile(file))
            for number, (length, late) in enumerate(parts):
                high = low + length if number + 1 < len(parts) else 1 << 40
                values = sorted(low + start for start in late)
                expected += values
                pieces = [values[first : first + at_once] for first in range(0, len(values), at_once)] or [[]]
                rows.add(map(event_rows, pieces), high)
                low = min(high, low + length)
            rows.finish()
        found = rows.table() if isinstance(rows, RowsInMemory) else pq.read_table(file)
        assert found.column("start_ns").to_pylist() == sorted(expected)
        assert [len(name) for name in found.column("name").to_pylist()] == sorted(expected)

    check()
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] in ([], ["rows.parquet"])


# -- memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("500m", 5 * 10**8), ("1024", 1024), ("3tb", 3 * 10**12)],
)
def test_sizes_in_words(text: str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "0", "GB", "2 GB please", "-1GB", "2XB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is no size like 2GB"):
        bytes_of(text)


def test_memory_that_is_free_here_is_more_than_nothing_and_less_than_all() -> None:
    found = allowed()
    assert found is not None
    assert 1 << 20 < found < 1 << 50


def test_a_limit_makes_parts_and_too_small_a_one_says_what_is_needed() -> None:
    size = Size(ranges=100_000, calls=1_000_000, ops=500_000)
    assert Size(ranges=10, calls=1000, ops=500).plan(None).parts == 1
    quick = size.plan(None, workers=2)
    assert (quick.parts, quick.at_once) == (6, 2)
    assert size.plan(quick.peak_bytes, workers=2).parts >= quick.parts
    tight = size.plan(400 * 10**6, workers=2)
    assert tight.parts > quick.parts
    assert tight.peak_bytes <= 400 * 10**6
    with pytest.raises(MemoryTooSmall, match=r"Give it 0\.\d\d GB or more with --memory") as refused:
        size.plan(size.fixed_bytes)
    needed = int(float(refused.value.hint.split()[2]) * 1e9)
    assert size.plan(needed).peak_bytes <= needed


def test_where_memory_is_short_fewer_parts_are_worked_on_at_once() -> None:
    size = Size(ranges=100_000, calls=10_000_000, ops=10_000_000)
    assert size.plan(None, workers=64).at_once == 3
    shrinking = [size.plan(limit * 10**6, workers=4).at_once for limit in (2000, 390, 360)]
    assert shrinking == [3, 2, 1]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic report that takes more memory than the limits below."""
    path = tmp_path_factory.mktemp("large") / "synthetic.sqlite"
    command = [sys.executable, ROOT / "benchmarks" / "synth.py", path, "--kernels", "350000"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


_RUN = r"""
import json, re, sys
from dsprof.cli import main
sys.argv = ["dsprof", *sys.argv[1:]]
try:
    main()
finally:
    assert "pandas" not in sys.modules  # which would take its time and its memory
    # Not ru_maxrss: the kernel lets it begin with what the starting process had.
    high_water = re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())
    print(json.dumps({"kib": int(high_water[1])}), file=sys.stderr)
"""


def run(*arguments: str | Path | int) -> tuple[int, int, str]:
    """Exit code, greatest memory in bytes and standard error of a run of its own."""
    command = [sys.executable, "-c", _RUN, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    *said, last = done.stderr.splitlines()
    return done.returncode, json.loads(last)["kib"] * 1024, "\n".join(said)


@pytest.mark.parametrize(("loops", "limit"), [("--no-fast", 300 * 10**6), ("--fast", 530 * 10**6)])
def test_the_peak_stays_below_the_limit_and_the_results_are_the_same(
    large: Path, tmp_path: Path, loops: str, limit: int
) -> None:
    if loops == "--fast":
        pytest.importorskip("numba", reason="numba is not installed")
    size = evolve(size_of(large), compiled=loops == "--fast")
    code, unlimited, _ = run("analyze", large, "--out", tmp_path / "whole", "--format", "json", loops)
    assert code == 0
    quick, tight = size.plan(None), size.plan(limit)
    assert tight.parts > quick.parts
    code, peak, _ = run("analyze", large, "--out", tmp_path / "parts", "--format", "json", "--memory", limit, loops)
    assert code == 0
    assert peak < min(limit, unlimited)
    assert unlimited < quick.peak_bytes
    if loops == "--no-fast":  # with loops, room is kept that only the first run takes, which compiles
        assert limit < unlimited
    for name in all_tables():
        one, other = (as_text(pd.read_parquet(tmp_path / folder / f"{name}.parquet")) for folder in ("whole", "parts"))
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=name)


def test_too_little_memory_is_told_before_anything_is_read(large: Path, tmp_path: Path) -> None:
    code, _, said = run("analyze", large, "--out", tmp_path / "tables", "--memory", "100MB")
    assert code == MemoryTooSmall.exit_code == 17
    assert "cannot be analyzed in 0.10 GB of memory." in said
    assert "or more with --memory." in said
    assert not (tmp_path / "tables").exists()


def test_compiled_loops_are_left_out_where_they_do_not_fit(large: Path, tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="numba is not installed")
    size, limit = evolve(size_of(large), ops=10**7), 450 * 10**6
    assert size.rows > backend.WORTH_ROWS
    with pytest.raises(MemoryTooSmall):
        evolve(size, compiled=True).plan(limit)
    assert _plan(size, limit, None) == (backend.NUMPY, size.plan(limit))
    with pytest.raises(MemoryTooSmall):
        _plan(size, limit, True)
    chosen, plan = _plan(size, 10**9, None)
    assert plan.peak_bytes <= 10**9
    assert chosen.loops is not None


def test_a_wrong_size_is_an_error_of_the_command_line(large: Path) -> None:
    code, _, said = run("analyze", large, "--memory", "much")
    assert code == 2
    assert "'much' is no size like 2GB" in said
