"""What ``--window``, ``--device`` and ``--pid`` select is what a report says that holds nothing else."""

from __future__ import annotations

import json
import lzma
import shutil
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

import dsprof
import slow_reference as slow
from dsprof.analysis.analyze import Analysis
from dsprof.cli import main
from dsprof.errors import SelectionEmpty
from dsprof.nsys.parts import ReportInParts
from dsprof.nsys.reader import read
from dsprof.nsys.selection import ALL, Wanted, numbers_of, window_of
from dsprof.rules.rules import Rules
from dsprof.tables import all_tables
from dsprof.trace import Selection
from test_parts import as_text, assert_same, written
from test_properties import MODES, few, recordings
from trace_builder import PID, START_END, TraceBuilder, global_tid

SAMPLES = Path(__file__).parent.parent / "traces" / "samples"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
OPERATIONS = tuple(f"CUPTI_ACTIVITY_KIND_{kind}" for kind in ("KERNEL", "MEMCPY", "MEMSET", "GRAPH_TRACE"))
#: Tables in which nothing is left out because the window cuts it.
WHATEVER_IS_CUT = ("kern_sum", "kern_trace", "mem_sum", "mem_trace", "range_sum", "range_kern_sum", "stage_kern_sum",
                   "stage_family_sum", "stage_api_sum", "stage_stream_sum")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("selection")


def copy_of(sample: str, path: Path, statements: Iterable[str] = ()) -> Path:
    """A sample whose rows some statements change."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(lzma.decompress((SAMPLES / f"{sample}.sqlite.xz").read_bytes()))
    return changed(path, statements)


def changed(path: Path, statements: Iterable[str]) -> Path:
    """A report whose rows some statements change; those for tables that it does not have are left out."""
    with closing(sqlite3.connect(path)) as database, database:
        there = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
        for statement in statements:
            if statement.split()[2 if statement.startswith("DELETE") else 1] in there:
                database.execute(statement)
    return path


def of_process(pid: int) -> list[str]:
    """Statements that leave one process."""
    threads = ("NVTX_EVENTS", RUNTIME, "PROFILER_OVERHEAD")
    return [f"DELETE FROM {table} WHERE globalTid >> 24 & 0xFFFFFF != {pid}" for table in threads] + [
        f"DELETE FROM {table} WHERE globalPid >> 24 & 0xFFFFFF != {pid}" for table in OPERATIONS
    ]


def of_window(low: int, high: int) -> list[str]:
    """Statements that leave what the calls of a window launched, and the ranges over it, cut."""
    launch = (
        f"(SELECT min(c.start) FROM {RUNTIME} c WHERE c.correlationId = o.correlationId "
        "AND c.globalTid >> 24 = o.globalPid >> 24)"
    )
    again = f"EXISTS (SELECT 1 FROM {RUNTIME} c WHERE c.correlationId = o.correlationId "
    again += f"AND c.globalTid >> 24 = o.globalTid >> 24 AND c.start < {low})"
    ranges = "eventType IN (59, 60, 70, 71)"
    return [
        "UPDATE NVTX_EVENTS SET end = max(start, (SELECT duration FROM ANALYSIS_DETAILS)) "
        f"WHERE end IS NULL AND {ranges}",
        *(f"DELETE FROM {table} AS o WHERE coalesce({launch}, start) NOT BETWEEN {low} AND {high - 1}"
          for table in OPERATIONS),
        f"DELETE FROM {RUNTIME} AS o WHERE start NOT BETWEEN {low} AND {high - 1} OR {again}",
        f"DELETE FROM NVTX_EVENTS WHERE {ranges} AND (start >= {high} OR end <= {low} AND start < {low})",
        f"UPDATE NVTX_EVENTS SET start = max(start, {low}), end = min(end, {high}) WHERE {ranges}",
    ]  # fmt: skip


def assert_says(selected: Analysis, alone: Analysis, tables: Iterable[str], texts: bool = True) -> None:
    """Both say the same, but for what they are of."""
    for name in tables:
        left = ["step"] if not texts and name in ("kern_trace", "mem_trace") else []  # half a step is none
        one, other = (as_text(found[name]).drop(columns=left) for found in (selected, alone))
        pd.testing.assert_frame_equal(one, other, check_exact=True, obj=name)
    if texts:
        assert selected.findings == alone.findings
        same = {"file": "", "sha256": "", "selection": Selection()}
        said = [evolve(found.summary(), report=evolve(found.summary().report, **same)) for found in (selected, alone)]
        assert said[0] == said[1]


# -- the oracle: reports that hold nothing else --------------------------------------------------------------


@pytest.mark.parametrize("pid", [1472, 1473])
def test_a_process_is_as_a_report_of_it_alone(pid: int, folder: Path) -> None:
    both = copy_of("h200-two-processes", folder / "both" / "run.sqlite")
    alone = copy_of("h200-two-processes", folder / str(pid) / "run.sqlite", of_process(pid))
    selected = dsprof.analyze(both, pid=pid)
    assert str(selected.selection) == f"--pid {pid}"
    assert selected.summary().counts.processes == (pid,)
    assert_says(selected, dsprof.analyze(alone), all_tables())
    assert_same(selected, Analysis.of(ReportInParts(both, 3, wanted=Wanted(pids=(pid,))), None, both))


def test_both_processes_are_the_whole_report(folder: Path) -> None:
    path = copy_of("h200-two-processes", folder / "both" / "run.sqlite")
    assert_says(dsprof.analyze(path, pid=[1473, 1472]), dsprof.analyze(path), all_tables())


def test_a_device_is_as_a_report_of_it_alone(folder: Path) -> None:
    """The sample is of one GPU: here one of its streams is said to be on another, and a process is."""
    moved = [f"UPDATE {table} SET deviceId = 1 WHERE streamId IN (29, 33)" for table in OPERATIONS]
    path = copy_of("h200-graphs-node", folder / "two" / "run.sqlite", moved)
    removed = [f"DELETE FROM {table} WHERE streamId IN (29, 33)" for table in OPERATIONS]
    alone = copy_of("h200-graphs-node", folder / "one" / "run.sqlite", removed)
    selected = dsprof.analyze(path, device=0)
    assert_says(selected, dsprof.analyze(alone), all_tables(), texts=False)
    assert "lost-kernels" in [found.code for found in dsprof.analyze(alone).findings]
    assert not {"lost-kernels", "orphan-operations", "unreconciled"} & {found.code for found in selected.findings}
    other = dsprof.analyze(path, device=1)
    assert not {"lost-kernels", "orphan-operations", "unreconciled"} & {found.code for found in other.findings}
    counts = [found.summary().counts for found in (selected, other, dsprof.analyze(path))]
    assert counts[0].kernels + counts[1].kernels == counts[2].kernels
    assert_same(selected, Analysis.of(ReportInParts(path, 5, wanted=Wanted(devices=(0,))), None, path))


def test_a_process_that_worked_on_other_devices_alone_is_left_out(folder: Path) -> None:
    moved = [f"UPDATE {table} SET deviceId = 1 WHERE globalPid >> 24 & 0xFFFFFF = 1473" for table in OPERATIONS]
    path = copy_of("h200-two-processes", folder / "ranks" / "run.sqlite", moved)
    for device, pid in ((0, 1472), (1, 1473)):
        assert_says(dsprof.analyze(path, device=device), dsprof.analyze(path, pid=pid), all_tables())


@pytest.mark.parametrize(
    ("sample", "low", "high", "whole"),
    [
        ("h200-two-processes", 3_300_000_000, 3_400_000_000, True),
        ("h200-two-processes", 3_376_920_000, 3_385_000_000, False),
        ("h200-graphs-node", 3_995_000_000, 4_004_800_000, False),
        ("h200-graphs-graph", 0, 4_100_000_000, False),
        ("h200-graph-node", 4_550_000_000, 4_613_000_000, False),
    ],
)
def test_a_window_is_as_a_report_of_it_alone(sample: str, low: int, high: int, whole: bool, folder: Path) -> None:
    path = copy_of(sample, folder / sample / "run.sqlite")
    alone = copy_of(sample, folder / f"{sample}-{low}" / "run.sqlite", of_window(low, high))
    selected = dsprof.analyze(path, window=f"{low}ns..{high}ns")
    cut = [found for found in selected.findings if found.code == "cut-ranges"]
    tables = all_tables() if not cut else WHATEVER_IS_CUT
    assert not (whole and cut)
    assert_says(selected, dsprof.analyze(alone), tables, texts=not cut)
    assert not {"lost-kernels", "orphan-operations", "unreconciled"} & {found.code for found in selected.findings}
    wanted = Wanted(window_of(f"{low}ns..{high}ns"))
    assert_same(selected, Analysis.of(ReportInParts(path, 4, wanted=wanted), None, path))


def test_two_windows_are_the_whole(folder: Path) -> None:
    path = copy_of("h200-graphs-node", folder / "cut" / "run.sqlite")
    whole = dsprof.analyze(path).summary().counts
    parts = [dsprof.analyze(path, window=text).summary().counts for text in ("..4s", "4s..")]
    for name in ("api_calls", "kernels", "memory_operations"):
        assert sum(getattr(part, name) for part in parts) == getattr(whole, name), name


numbers = st.integers(0, 60)


def test_a_selection_of_a_random_report(tmp_path: Path) -> None:
    """It is the same in parts, and as a report of it alone, as far as SQL can take the rest away."""
    (tmp_path / "alone").mkdir()

    @settings(few, max_examples=12)
    @given(recordings(), st.integers(2, 7), numbers, numbers, st.sampled_from(MODES), st.data())
    def check(rec: slow.Recording, parts: int, one: int, other: int, threads: str, data: st.DataObject) -> None:
        path, rules = written(rec, tmp_path / "random.sqlite"), Rules(threads=threads)
        pids = sorted({slow.pid(call.thread) for call in rec.calls} | {slow.pid(of.thread) for of in rec.ranges})
        devices = sorted({op.device for op in rec.ops})
        low, high = (edge + rec_begin(rec) for edge in (min(one, other), max(one, other) + 1))
        windowed = low >= 0 and high < 1 << 53 and data.draw(st.booleans())
        wanted = Wanted(
            window_of(f"{low}ns..{high}ns") if windowed else None,
            (data.draw(st.sampled_from(devices)),) if devices and data.draw(st.booleans()) else (),
            (data.draw(st.sampled_from(pids)),) if pids and data.draw(st.booleans()) else (),
        )
        try:
            whole = Analysis.of(read(path, wanted=wanted), rules, path)
        except SelectionEmpty as error:
            with pytest.raises(SelectionEmpty, match="holds nothing of what is selected"):
                ReportInParts(path, parts, wanted=wanted)
            assert "holds nothing" in error.message
            return
        assert "unreconciled" not in {found.code for found in whole.findings}
        assert_same(whole, Analysis.of(ReportInParts(path, parts, wanted=wanted), rules, path))
        if not wanted.devices:
            alone = Path(shutil.copy(path, tmp_path / "alone" / path.name))
            changed(alone, [*(line for pid in wanted.pids for line in of_process(pid)),
                            *(of_window(low, high) if windowed else [])])  # fmt: skip
            tables = ("kern_sum", "kern_trace", "mem_sum", "mem_trace", "range_sum") if windowed else all_tables()
            assert_says(whole, Analysis.of(read(alone), rules, alone), tables, texts=False)

    check()


def rec_begin(rec: slow.Recording) -> int:
    """When something of a recording begins first."""
    return min((one.start for one in (*rec.ranges, *rec.calls, *rec.ops)), default=0)


# -- ranges that the window cuts -----------------------------------------------------------------------------


def generated(path: Path) -> Path:
    """Requests of two steps each, 100 ns a step, from 0, 1000 and 2000 on; a kernel in each.

    ::

        request   |-----------------------------------------|
        prefill   |-- 200 --|                                    kernel at 20
        decode              |------- 300 -------|                steps at 210 and 310, 90 each
    """
    report = TraceBuilder("2025.3.2", duration=4000)
    for number, at in enumerate((0, 1000, 2000)):
        report.range("request", at, at + 600, payload=number).range("prefill", at, at + 200, payload=64)
        report.range("decode", at + 200, at + 500)
        report.kernel("p", at=(at + 20, at + 120), call=(at + 10, at + 15))
        for step, start in enumerate((at + 210, at + 310), 1):
            report.range("decode.step", start, start + 90, payload=step)
            report.kernel("d", at=(start + 20, start + 60), call=(start + 10, start + 15))
    return report.write(path)


def test_what_is_not_whole_is_left_out(tmp_path: Path) -> None:
    """The window ends within the second step of the second request: its first step is whole."""
    found = dsprof.analyze(generated(tmp_path / "made.sqlite"), window="..1350ns")
    stages, steps, requests = found["stage_trace"], found["step_trace"], found["request_trace"]
    decodes = stages[stages["stage"] == "decode"]
    assert decodes["duration_ns"].tolist() == [300, 150]
    assert decodes["steady"].tolist() == [True, False]
    assert stages[stages["stage"] == "prefill"]["steady"].tolist() == [True, True]
    whole = steps[steps["step"].notna()]
    assert whole["duration_ns"].tolist() == [90, 90, 90]
    assert whole["steady"].tolist() == [True, True, True]
    assert requests["request"].tolist() == [0]
    sums = found["stage_sum"].set_index(["stage", "warm_up"])["wall_mean_ns"]
    assert (sums["decode", False], sums["decode", True]) == (300.0, 170.0)
    assert found["range_trace"]["truncated"].sum() == 3
    (cut,) = [one for one in found.findings if one.code == "cut-ranges"]
    assert cut.message.startswith("3 NVTX ranges reach over an edge of --window (1 stage, 1 decode step, 1 request): ")
    assert not [one for one in found.findings if one.code in ("warm-up", "truncated-ranges")]


def test_a_window_within_one_stage_is_of_what_is_inside(tmp_path: Path) -> None:
    """A part of a decode and of nothing else: that part is the decode, without the tokens that it made in all."""
    report = TraceBuilder("2025.3.2", duration=2000).range("decode", 100, 1100, payload=50)
    for start in range(100, 1100, 100):
        report.kernel("d", at=(start + 20, start + 60), call=(start + 10, start + 15))
    found = dsprof.analyze(report.write(tmp_path / "made.sqlite"), window="300ns..700ns")
    (stage,) = found["stage_trace"].to_dict("records")
    assert (stage["start_ns"], stage["end_ns"], stage["kernels"], stage["gpu_busy_ns"]) == (300, 700, 4, 160)
    assert stage["steady"]
    assert pd.isna(stage["tokens"])
    assert not len(found["request_trace"])
    assert [one.stage for one in found.summary().verdicts] == ["decode"]


def test_ranges_with_one_edge_after_the_cut_nest_as_before(tmp_path: Path) -> None:
    """The inner range has the earlier row, and both begin before the window: the outer one stays outside."""
    report = TraceBuilder("2025.3.2").range("inner", 20, 500).range("outer", 10, 500)
    report.kernel("k", at=(110, 120), call=(105, 106))
    found = dsprof.analyze(report.write(tmp_path / "made.sqlite"), window="100ns..")
    assert found["range_trace"].set_index("name")["level"].to_dict() == {"inner": 1, "outer": 0}


def test_a_prefill_at_the_end_is_no_request_without_its_decode(tmp_path: Path) -> None:
    report = TraceBuilder("2025.3.2")
    for at in (0, 1000, 2000):
        report.range("prefill", at, at + 200, payload=8).range("decode", at + 300, at + 500, payload=2)
        report.kernel("p", at=(at + 20, at + 120), call=(at + 10, at + 15))
    path = report.write(tmp_path / "made.sqlite")
    assert dsprof.analyze(path, window="..1250ns")["request_trace"]["e2e_ns"].tolist() == [500]
    assert dsprof.analyze(path, window="..1400ns")["request_trace"]["e2e_ns"].tolist() == [500]
    assert dsprof.analyze(path, window="..1500ns")["request_trace"]["e2e_ns"].tolist() == [500, 500]


def test_a_stream_capture_that_began_before_the_window_loses_no_kernel(tmp_path: Path) -> None:
    report = TraceBuilder("2025.3.2").range("decode", 0, 100).kernel("k", at=(95, 97), call=(92, 94))
    report.api("cudaStreamBeginCapture_v10000", call=(10, 12))
    for start in (30, 60, 70):
        report.api(call=(start, start + 2))
    path = report.api("cudaStreamEndCapture_v10000", call=(80, 82)).write(tmp_path / "made.sqlite")
    selected = dsprof.analyze(path, window="50ns..")
    assert "lost-kernels" not in [found.code for found in selected.findings]
    parted = Analysis.of(ReportInParts(path, 2, wanted=Wanted(window_of("50ns.."))), None, path)
    assert_same(selected, parted)


def test_an_impossible_call_before_the_window_is_counted_once(tmp_path: Path) -> None:
    report = TraceBuilder("2025.3.2").range("decode", 0, 100).kernel("k", at=(95, 97), call=(92, 94))
    path = report.api("cudaStreamEndCapture_v10000", call=(30, 20)).write(tmp_path / "made.sqlite")
    for wanted in (ALL, Wanted(window_of("50ns.."))):
        assert read(path, wanted=wanted).impossible.times == {"CUDA API calls": 1}


def test_two_rows_of_one_call_are_in_the_window_of_the_first(tmp_path: Path) -> None:
    """Old exporters write the runtime's and the driver's view of a launch: the window begins between them."""
    report = TraceBuilder("2022.4.2").api("cuLaunchKernel", call=(52, 54), correlation=1)
    report.kernel("k", at=(70, 80), call=(48, 56), correlation=1).kernel("l", at=(90, 95), call=(60, 62))
    path = report.write(tmp_path / "made.sqlite")
    selected = dsprof.analyze(path, window="50ns..")
    assert selected["kern_sum"]["kernel"].tolist() == ["l"]
    assert selected.summary().counts.api_calls == 1
    assert_same(selected, Analysis.of(ReportInParts(path, 2, wanted=Wanted(window_of("50ns.."))), None, path))


def test_operations_without_a_process_belong_to_the_only_caller(tmp_path: Path) -> None:
    report = TraceBuilder("2025.3.2").range("a", 0, 10, pid=200).kernel("k", at=(2, 4), call=(1, 2), pid=100)
    path = report.sql("UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET globalPid = NULL").write(tmp_path / "made.sqlite")
    assert dsprof.analyze(path, pid=100).summary().counts.kernels == 1
    assert dsprof.analyze(path, device=0).summary().counts.kernels == 1
    assert dsprof.analyze(path, pid=200).summary().counts.kernels == 0


def test_a_range_of_a_process_that_another_thread_ended(tmp_path: Path) -> None:
    report = TraceBuilder("2025.3.2").range("decode", 0, 90, kind=START_END, end_tid=7)
    report.kernel("k", at=(60, 70), call=(55, 56), tid=9)
    found = dsprof.analyze(report.write(tmp_path / "made.sqlite"), window="50ns..80ns")
    assert found["stage_trace"]["kernels"].tolist() == [1]


# -- what is asked for ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("3s..5s", 3 * 10**9, 5 * 10**9),
        (" 1.5ms .. 2.25 ms ", 1_500_000, 2_250_000),
        ("..7us", None, 7000),
        ("0s..", 0, None),
        ("1.0000000019s..2s", 1_000_000_001, 2 * 10**9),
        ("250µs..1s", 250_000, 10**9),
        ("10%..90%", 100, 900),
        ("5ns..50%", 5, 500),
    ],
)
def test_windows_in_words(text: str, low: int | None, high: int | None) -> None:
    window = window_of(text)
    assert [edge and edge.at(1000) for edge in (window.begin, window.end)] == [low, high] or low == 0


@pytest.mark.parametrize(
    "text",
    ["", "..", "3..5", "3s", "3s-5s", "5s..3s", "3s..3s", "-1s..3s", "nan..1s", "1e3s..2s", "..101%", "90%..10%",
     "1s..2m", "..99999999999999999999s", "1" * 5000 + "s..", "٣s..5s", "1s..2s..3s", "\0..1s"],
)  # fmt: skip
def test_what_is_no_window_is_said(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"is no window|ends before|is beyond"):
        window_of(text)
    monkeypatch.setattr("sys.argv", ["dsprof", "analyze", "made.sqlite", f"--window={text}"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "--window '" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", ",", "a", "1,,2", "-1", "1.5", "0x10", "99999999999", "٣", "1 2"])
def test_what_is_no_number_is_said(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="is no number like 0 or 4711"):
        numbers_of(text)
    for option in ("--pid", "--device"):
        monkeypatch.setattr("sys.argv", ["dsprof", "table", "made.sqlite", "kern_sum", f"{option}={text}"])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert f"{option} '" in capsys.readouterr().err


@pytest.mark.parametrize("given", [True, [], [1.5], [None], ["x"]])
def test_what_is_no_number_in_python(given: object) -> None:
    with pytest.raises(ValueError, match="number"):
        numbers_of(given)  # type: ignore[arg-type]


def test_a_selection_that_holds_nothing_says_what_there_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy_of("h200-two-processes", folder / "nothing" / "run.sqlite")
    for words, sentences in (
        (["--pid", "77"], ["run.sqlite has no process 77.", "--pid may name 1472, 1473."]),
        (["--pid", "1472,9"], ["has no process 9."]),
        (["--device", "3"], ["run.sqlite has no device 3.", "--device may name 0."]),
        (["--window", "100s..200s"], ["(--window 100s..200s)", "It lasts 3.806915437s.", "begin of the capture"]),
        (["--window", "90%..1s"], ["ends before it begins"]),
        (["--window", "1ns..2ns", "--pid", "1472"], ["(--window 0.000000001s..0.000000002s --pid 1472)"]),
    ):
        for command in (["analyze"], ["table", "stage_sum"], ["whatif"]):
            monkeypatch.setattr("sys.argv", ["dsprof", command[0], str(path), *command[1:], *words])
            with pytest.raises(SystemExit) as ended:
                main()
            assert ended.value.code == SelectionEmpty.exit_code == 48
            said = capsys.readouterr()
            assert [one for one in sentences if one not in said.err] == []
            assert said.out == ""
    assert not (path.parent / "run.dsprof").exists()


def test_a_report_without_a_length_takes_percent_until_its_last_event(tmp_path: Path) -> None:
    report = TraceBuilder("2025.3.2").kernel("a", at=(10, 20), call=(5, 8)).kernel("b", at=(990, 1000), call=(900, 910))
    path = report.without("ANALYSIS_DETAILS").write(tmp_path / "made.sqlite")
    assert dsprof.analyze(path, window="..50%")["kern_sum"]["kernel"].tolist() == ["a"]


# -- where it is said ----------------------------------------------------------------------------------------


def test_every_output_says_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy_of("h200-two-processes", folder / "said" / "run.sqlite")
    words = ["--pid", "1472", "--window", "3.3s..3.4s", "--device", "0"]
    told = "--window 3.3s..3.4s --device 0 --pid 1472"

    def run(*arguments: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["dsprof", *arguments, *words])
        with pytest.raises(SystemExit, match="0"):
            main()
        said = capsys.readouterr()
        return said.out, said.err

    for columns in ("60", "120"):
        monkeypatch.setenv("COLUMNS", columns)
        assert f"selected  {told}" in " ".join(run("analyze", str(path))[0].split()).replace("selected", "selected ", 1)
    assert told in run("analyze", str(path), "--format", "markdown")[0]
    document = json.loads(run("analyze", str(path), "--format", "json")[0])
    assert document["report"]["selection"] == {
        "begin_ns": 3_300_000_000, "end_ns": 3_400_000_000, "devices": [0], "pids": [1472]
    }  # fmt: skip
    assert (
        pq.read_schema(path.parent / "run.dsprof" / "kern_sum.parquet").metadata[b"dsprof.selection"] == told.encode()
    )
    for form in ("rich", "csv", "json", "markdown"):
        out, err = run("table", str(path), "stage_sum", "--format", form)
        assert f"dsprof: selected: {told}" in err
        assert form != "json" or json.loads(out)["selection"] == told
    out, err = run("whatif", str(path), "--format", "json", "--cuda-graphs")
    assert json.loads(out)["selection"]["pids"] == [1472]
    assert f"dsprof: selected: {told}" in err
    assert told in " ".join(run("whatif", str(path), "--format", "markdown", "--cuda-graphs")[0].split())
    assert told in dsprof.analyze(path, pid=1472, window="3.3s..3.4s", device="0")._repr_html_()


def test_the_time_without_stages_is_that_of_the_window(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy_of("h200-two-processes", folder / "short" / "run.sqlite")
    monkeypatch.setattr("sys.argv", ["dsprof", "analyze", str(path), "--window", "..3.3s"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert "of the window's 3.300 s" in capsys.readouterr().out


def test_another_selection_does_not_use_the_tables_of_the_first(folder: Path) -> None:
    path = copy_of("h200-two-processes", folder / "stored" / "run.sqlite")
    first = dsprof.analyze(path, pid=1472)
    first.write()
    same, other, whole = (dsprof.analyze(path, pid=pid) for pid in (1472, 1473, None))
    kinds = [type(found.results).__name__ for found in (same, other, whole)]
    assert kinds == ["Stored", "Fresh", "Fresh"]
    assert str(same.selection) == "--pid 1472"
    assert same.summary() == first.summary()
    assert whole.summary().counts.processes == (1472, 1473)
    whole.write()
    assert type(dsprof.analyze(path, pid=1472).results).__name__ == "Fresh"


def test_what_the_selection_lacks_is_not_said_of_the_report(tmp_path: Path) -> None:
    """Nothing is lost where a window holds no range or no operation: ``--strict`` has nothing to fail on."""
    report = TraceBuilder("2025.3.2").range("decode", 10, 90).kernel("a", at=(20, 40), call=(12, 15))
    path = report.kernel("b", at=(220, 240), call=(210, 215)).write(tmp_path / "made.sqlite")
    for window, what in (("50ns..90ns", "GPU operations"), ("200ns..", "NVTX ranges")):
        found = dsprof.analyze(path, window=window).findings
        assert f"What is selected holds no {what}." in [one.message for one in found]
        assert not [one for one in found if one.strict_exit]
    assert not [one for one in dsprof.analyze(path).findings if one.strict_exit]


def test_a_call_over_the_edge_of_the_window_does_not_straddle_a_range(tmp_path: Path) -> None:
    report = TraceBuilder("2025.3.2").range("decode", 10, 90).kernel("a", at=(60, 80), call=(45, 55))
    found = dsprof.analyze(report.write(tmp_path / "made.sqlite"), window="..50ns")
    assert "straddling" not in [one.code for one in found.findings]
    assert found["stage_trace"]["kernels"].tolist() == [1]


def test_samples_of_python_are_selected(tmp_path: Path) -> None:
    """Our own tables of an export, with a sample in each of two processes, and one before the window."""
    report = TraceBuilder("2025.3.2").range("decode", 0, 900).range("decode", 0, 900, pid=200)
    for name in ("early", "mine", "theirs", "file.py"):
        report.string(name)
    samples = [(100, PID, 1), (500, PID, 2), (500, 200, 3)]
    report.sql("CREATE TABLE DSPROF_PYTHON_SAMPLES (start, globalTid, thread, stackId)")
    report.sql("CREATE TABLE DSPROF_PYTHON_CALLCHAINS (id, stackDepth, nameId, srcFile)")
    for start, pid, stack in samples:
        name = ("early", "mine", "theirs")[stack - 1]
        thread = global_tid(pid)
        report.sql("INSERT INTO DSPROF_PYTHON_SAMPLES VALUES (?, ?, 1, ?)", start, thread, stack)
        report.sql("INSERT INTO DSPROF_PYTHON_CALLCHAINS VALUES (?, 0, ?, ?)", stack, report.string(name), 0)
    path = report.write(tmp_path / "made.sqlite")
    assert len(dsprof.analyze(path)["host_python_sum"]) == 3
    selected = dsprof.analyze(path, pid=PID, window="200ns..")
    assert [name.split(" ")[0] for name in selected["host_python_sum"]["function"]] == ["mine"]
    wanted = Wanted(window_of("200ns.."), (), (PID,))
    assert_same(selected, Analysis.of(ReportInParts(path, 2, wanted=wanted), None, path))
