"""What recording cost: the program runs again without nsys, or with whole graphs; no failure there costs a capture."""

from __future__ import annotations

import json
import lzma
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import asdict, evolve

import dsprof
from dsprof import cli
from dsprof.analysis.analyze import Analysis
from dsprof.capture.baseline import check_baselines, stretch
from dsprof.capture.options import ProfileOptions
from dsprof.capture.record import read_session
from dsprof.errors import BaselineFailed, CaptureRefused
from dsprof.findings import Finding
from dsprof.model.baseline import Baseline, GraphReplays, HostTimes, PlainRun, baseline_of, node_tracing
from dsprof.nsys.reader import read
from dsprof.nsys.replays import GraphReplay, replays_of
from dsprof.rules.rules import Rules
from dsprof.show.layout import grids
from fake_nsys import install
from nsys_stats import AGENT_LOST, PRIMARY, TRIES, require
from trace_builder import TraceBuilder

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
SECRET = "hf_" + "Zq8Kd0Wv" * 4
MS = 1_000_000
#: Says which of its runs it is, by a file that it leaves; then what each is to do.
AGAIN = """
import os, signal, sys, time
from pathlib import Path
from dsprof.workloads.toy import serve
mark = Path(sys.argv[1])
again, number = mark.exists(), int(mark.read_text()) + 1 if mark.exists() else 0
mark.write_text(str(number))
serve(0, 3)
time.sleep(0.6)
print("again" if again else "first", sys.argv[2:], flush=True)
if again:
    {then}
"""


def program(mark: Path, then: str = "pass", *words: str) -> list[str]:
    return [sys.executable, "-c", AGAIN.format(then=then), str(mark), *words]


def words_of(out: Path, nsys: Any, *words: object) -> list[str]:
    return [sys.executable, "-m", "dsprof", "capture", "--out", str(out), "--nsys", str(nsys), *map(str, words)]


@pytest.fixture(scope="module")
def nsys() -> Path:
    return require(PRIMARY).path


def capture(out: Path, nsys: Path, mark: Path, *words: object, **options: Any) -> tuple[Any, Path]:
    """A capture in a process of its own, and its folder; tried again where the real nsys lost its agent."""
    for number in range(TRIES):
        mark.unlink(missing_ok=True)
        place = out / str(number)
        told = {"capture_output": True, "text": True, "timeout": 240, "check": False, **options}
        done = subprocess.run(words_of(place, nsys, *words), **told)
        if AGENT_LOST not in done.stderr:
            break
    (folder,) = place.iterdir()
    return done, folder


# -- the program once more -------------------------------------------------------------------------------


@pytest.mark.nsys
def test_a_program_runs_twice_and_both_times_are_told(nsys: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done, folder = capture(tmp_path / "out", nsys, mark, "--baseline", "--", *program(mark, "time.sleep(2)"))
    assert done.returncode == 0, done.stderr
    plain = read_session(folder).baseline.plain
    assert (plain.problem, plain.requests) == ("", ())
    assert plain.program_ns - plain.recorded_program_ns > 1_000 * MS  # it sleeps for 2 s more, and starts sooner
    assert "What recording cost" in done.stdout
    assert "(program)" in done.stdout
    assert "again []" in (folder / "baseline" / "workload.log").read_text()
    assert {path.name for path in (folder / "baseline").iterdir()} == {"workload.log"}
    assert mark.read_text() == "1"


@pytest.mark.nsys
@pytest.mark.parametrize(
    ("then", "options", "reason"),
    [
        ("sys.exit(3)", (), "ended with exit code 3"),
        ("os.kill(os.getpid(), signal.SIGKILL)", (), "was killed by signal 9 (SIGKILL)"),
        ("time.sleep(100)", ("--limit", "7"), "was ended at the time limit"),
    ],
)
def test_a_second_run_that_fails_costs_no_capture(
    then: str, options: tuple[str, ...], reason: str, nsys: Path, tmp_path: Path
) -> None:
    """The recording, its tables and its summary are there; a sentence and an exit code say what is not."""
    mark = tmp_path / "mark"
    done, folder = capture(tmp_path / "out", nsys, mark, "--baseline", *options, "--", *program(mark, then))
    assert done.returncode == BaselineFailed.exit_code, done.stderr
    sentence = f"What recording costs is not known: the run without nsys {reason}."
    assert f"dsprof: {sentence}" in done.stderr
    assert sentence in " ".join(done.stdout.split())
    record = read_session(folder)
    assert (record.ending, record.exit_code, record.baseline.problems) == ("finished", 0, (sentence,))
    assert dsprof.analyze(folder)["stage_trace"]["tokens"].tolist() == [64, 2]
    assert [found.message for found in dsprof.analyze(folder).findings if found.code == "no-baseline"] == [sentence]


@pytest.mark.nsys
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_second_run_costs_no_capture(number: signal.Signals, nsys: Path, tmp_path: Path) -> None:
    for turn in range(TRIES):
        mark, out = tmp_path / f"mark{turn}", tmp_path / f"out{turn}"
        words = words_of(out, nsys, "--baseline", "--", *program(mark, "time.sleep(100)"))
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as driver:
            for line in driver.stderr:
                if line.startswith("again"):
                    driver.send_signal(number)
                    break
            said, told = driver.communicate(timeout=120)
        if AGENT_LOST not in told:
            break
    assert driver.returncode == BaselineFailed.exit_code, told
    assert "Tables: " in said
    (folder,) = out.iterdir()
    assert read_session(folder).baseline.plain.problem.endswith("the run without nsys was interrupted.")


@pytest.mark.nsys
def test_a_killed_dsprof_takes_the_second_run_with_it(nsys: Path, tmp_path: Path) -> None:
    mark, pid = tmp_path / "mark", tmp_path / "pid"
    then = f"Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(100)"
    with subprocess.Popen(words_of(tmp_path / "out", nsys, "--baseline", "--", *program(mark, then))) as driver:
        end = time.monotonic() + 60
        while not (pid.exists() and pid.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        driver.kill()
    while Path(f"/proc/{pid.read_text()}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid.read_text()}").exists()
    (folder,) = (tmp_path / "out").iterdir()
    assert len(dsprof.analyze(folder)["stage_trace"]) == 2


@pytest.mark.nsys
def test_a_program_that_failed_is_not_run_again(nsys: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = [*program(mark)[:2], program(mark)[2] + "\nsys.exit(4)", str(mark)]
    done, folder = capture(tmp_path / "out", nsys, mark, "--baseline", "--baseline", "graph", "--", *command)
    assert done.returncode == 4
    assert mark.read_text() == "0"
    problems = read_session(folder).baseline.problems
    assert len(problems) == 2
    assert all("was left out, as the program ended with exit code 4" in problem for problem in problems)


@pytest.mark.nsys
def test_no_secret_of_the_second_runs_is_kept(nsys: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    show = "print(os.environ.get('HF_TOKEN'), 'PATH' in os.environ)"
    done, folder = capture(
        tmp_path / "out", nsys, mark, "--baseline", "--baseline", "graph", "--",
        *program(mark, show, f"--api-key={SECRET}"), env={**os.environ, "HF_TOKEN": SECRET[::-1]},
    )  # fmt: skip
    assert done.returncode == BaselineFailed.exit_code  # there is no graph on this machine
    for place in ("baseline", "baseline-graph"):
        assert "None True" in (folder / place / "workload.log").read_text()
    assert (folder / "baseline-graph" / "run.sqlite").is_file()
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".nsys-rep":
            assert SECRET.encode() not in path.read_bytes(), path
            assert SECRET[::-1].encode() not in path.read_bytes(), path


def test_whole_graphs_are_no_baseline_of_whole_graphs(tmp_path: Path) -> None:
    fake = install(tmp_path)
    with pytest.raises(CaptureRefused, match="does not know --cuda-graph-trace"):
        check_baselines(("graph",), ProfileOptions(), fake)
    check_baselines(("plain",), ProfileOptions(cuda_graph_trace="graph"), fake)
    for options in (ProfileOptions(cuda_graph_trace="graph"), ProfileOptions(extra=("--cuda-graph-trace", "graph"))):
        with pytest.raises(CaptureRefused, match="whose nodes are traced"):
            check_baselines(("graph",), options, fake)


@pytest.mark.parametrize(
    ("given", "ours", "command"),
    [
        (["--baseline", "page.png"], ["--baseline=plain", "page.png"], []),
        (["page.png", "--baseline"], ["page.png", "--baseline=plain"], []),
        (["--baseline", "graph", "p"], ["--baseline", "graph", "p"], []),
        (["--baseline", "plain", "--baseline", "graph"], ["--baseline", "plain", "--baseline", "graph"], []),
        (["--baseline", "--", "a", "--baseline"], ["--baseline=plain"], ["a", "--baseline"]),
        (["--baseline=graph", "--baseline", "./graph"], ["--baseline=graph", "--baseline=plain", "./graph"], []),
    ],
)
def test_the_kind_of_a_baseline_may_be_left_out(given: list[str], ours: list[str], command: list[str]) -> None:
    assert cli._split(["capture", *given]) == (["capture", *ours], command)
    assert cli._split(["analyze", *given]) == (["analyze", *given], [])


# -- what it cost ----------------------------------------------------------------------------------------


def made(tmp_path: Path, steps: int = 4, requests: int = 3) -> Path:
    """A made report of some requests, each slower than the one before it; kernels are few and short."""
    rec, at = TraceBuilder(), 0
    for request in range(requests):
        slow = 1 + request / 10
        prefill, step = int(50 * MS * slow), int(10 * MS * slow)
        end = at + prefill + steps * step
        rec.range("request", at, end, payload=request).range("prefill", at, at + prefill, payload=100)
        rec.range("decode", at + prefill, end)
        for number in range(steps):
            begin = at + prefill + number * step
            rec.range("decode.step", begin, begin + step, payload=number + 1)
            for launch in range(20):
                call = begin + launch * 400_000
                rec.kernel("gemm", call=(call, call + 350_000), at=(call + 355_000, call + 390_000))
        at = end + MS
    return rec.write(tmp_path / "run.sqlite")


def plain_of(analysis: Analysis, factor: float) -> PlainRun:
    """The same requests, so many times quicker; every step another time."""
    stages, ranges = analysis["stage_trace"], analysis["step_trace"]
    found = []
    for request, rows in stages.groupby("request"):
        steps = ranges[ranges["request"] == request].sort_values("step")["duration_ns"]
        found.append(
            HostTimes(
                int(request),
                {stage: int(time / factor) for stage, time in rows[["stage", "duration_ns"]].to_numpy()},
                tuple(int(time / factor) + place for place, time in enumerate(steps)),
            )
        )  # fmt: skip
    return PlainRun("", 1, 2, tuple(found))


def test_medians_and_ratios_are_those_of_the_steady_requests(tmp_path: Path) -> None:
    """Beside a slow way: pairs of the two runs by request and step, from the tables."""
    path = made(tmp_path)
    trace = read(path)
    plain = plain_of(Analysis.of(trace), 1.25)
    analysis = Analysis.of(trace, evolve(Rules(), baseline=Baseline(plain)))
    stages, steps = analysis["stage_trace"], analysis["step_trace"]
    times = {one.request: one for one in plain.requests}
    costs = {(cost.stage, cost.of_steps): cost for cost in analysis.summary().costs}
    assert set(costs) == {("prefill", False), ("decode", False), ("decode", True)}
    for stage in ("prefill", "decode"):
        rows = stages[(stages["stage"] == stage) & stages["steady"]]
        theirs = [times[request].stages_ns[stage] for request in rows["request"]]
        cost = costs[stage, False]
        assert (cost.compared, cost.recorded_ns, cost.plain_ns) == (
            len(rows), statistics.median(rows["duration_ns"]), statistics.median(theirs),
        )  # fmt: skip
        assert cost.ratio == pytest.approx(1.25)
        assert cost.total_ratio == pytest.approx(sum(rows["duration_ns"]) / sum(theirs))
    rows = steps[steps["steady"]]
    theirs = [times[one].steps_ns[step - 1] for one, step in zip(rows["request"], rows["step"], strict=True)]
    cost = costs["decode", True]
    assert (cost.compared, cost.recorded_ns, cost.plain_ns) == (
        len(rows), statistics.median(rows["duration_ns"]), statistics.median(theirs),
    )  # fmt: skip
    by_request = [
        statistics.median(same["duration_ns"]) / statistics.median(times[one].steps_ns[n - 1] for n in same["step"])
        for one, same in rows.groupby("request")
    ]
    assert (cost.ratio_min, cost.ratio_max) == (min(by_request), max(by_request))


def test_a_request_that_made_other_steps_is_not_compared(tmp_path: Path) -> None:
    trace = read(made(tmp_path))
    plain = plain_of(Analysis.of(trace), 2.0)
    first, *others = plain.requests
    short = evolve(plain, requests=(evolve(first, steps_ns=first.steps_ns[:-1]), *others[1:]))  # one is missing, too
    costs = Analysis.of(trace, evolve(Rules(), baseline=Baseline(short))).summary().costs
    assert [(cost.stage, cost.of_steps, cost.compared) for cost in costs] == [
        ("prefill", False, 2), ("decode", False, 1), ("decode", True, 3 + 4),
    ]  # fmt: skip


def test_the_verdict_says_what_a_token_takes_without_the_profiler(tmp_path: Path) -> None:
    trace = read(made(tmp_path))
    rules = evolve(Rules(), baseline=Baseline(plain_of(Analysis.of(trace), 1.25)))
    (with_it,) = [one for one in Analysis.of(trace, rules).summary().verdicts if one.stage == "decode"]
    (without,) = [one for one in Analysis.of(trace).summary().verdicts if one.stage == "decode"]
    assert with_it.plain_step_us == pytest.approx(with_it.step_us / 1.25, rel=1e-4)
    times = f"{with_it.step_us / 1e3:.1f} ms ({with_it.plain_step_us / 1e3:.1f} without the profiler)"
    assert f" and {times}, of which the GPU works" in with_it.sentence
    assert without.plain_step_us is None
    assert "without the profiler" not in without.sentence


def test_an_analysis_of_the_folder_shows_it_again(tmp_path: Path) -> None:
    """From the record beside the report, from the tables of an earlier analysis, and anew when the record changes."""
    path = made(tmp_path)
    assert dsprof.analyze(path).summary().costs == ()
    dsprof.analyze(path).write()
    baseline = Baseline(plain_of(dsprof.analyze(path), 1.25))
    document = {"schema": "dsprof.session/1", "reports": ["run.nsys-rep"], "baseline": asdict(baseline)}
    (tmp_path / "session.json").write_text(json.dumps(document))
    analysis = dsprof.analyze(tmp_path)
    analysis.write()
    stored = dsprof.analyze(tmp_path)
    assert type(stored.results).__name__ == "Stored"
    assert stored.summary() == analysis.summary()
    assert len(stored.summary().costs) == 3
    (grid,) = [grid for grid in grids(stored.summary()) if grid.title.startswith("What recording cost")]
    assert [row[0] for row in grid.rows] == ["prefill", "decode", "decode step"]
    assert {row[4] for row in grid.rows} == {"1.25"}


ODD = (None, True, -1, 0, 1 << 60, 1.5, float("inf"), "x", "", [], {}, [None], {"a": 1}, "x" * 1000)


def test_a_record_that_cannot_be_is_told_and_not_believed() -> None:
    """Any value anywhere in it is another."""
    baseline = Baseline(
        PlainRun("", 5, 7, (HostTimes(0, {"prefill": 3}, (1, 2)),)), GraphReplays("", 2, 8, 5.0, 3.0, 4.0, 0.25, 0.25)
    )
    session = {"baseline": json.loads(json.dumps(asdict(baseline)))}
    assert baseline_of(session) == baseline
    seen = 0

    def each(node: Any) -> None:
        nonlocal seen
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            kept = node[key]
            for odd in ODD:
                node[key] = odd
                found = baseline_of(session)
                assert found is None or isinstance(found, Baseline)
                if found and found.plain and not found.plain.problem:
                    times = [time for one in found.plain.requests for time in (*one.stages_ns.values(), *one.steps_ns)]
                    assert all(isinstance(time, int) and 0 < time < 1 << 53 for time in times)
                seen += 1
            node[key] = kept
            if isinstance(kept, dict | list):
                each(kept)

    each(session)
    assert seen > 200


# -- CUDA graphs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One program on an H200 by name, recorded by nodes and as a whole."""
    folder, found = tmp_path_factory.mktemp("graphs"), {}
    for name in ("graph-node", "graph-graph", "graphs-node", "graphs-graph"):
        found[name] = folder / f"{name}.sqlite"
        found[name].write_bytes(lzma.decompress((SAMPLES / f"h200-{name}.sqlite.xz").read_bytes()))
    return found


@pytest.mark.parametrize("program", ["graph", "graphs"])
def test_what_nodes_add_is_what_the_tables_of_two_recordings_say(program: str, exports: dict[str, Path]) -> None:
    found = stretch(*(replays_of(exports[f"{program}-{mode}"]) for mode in ("node", "graph")))
    by_nodes, whole = (dsprof.analyze(exports[f"{program}-{mode}"])["kern_trace"] for mode in ("node", "graph"))
    nodes = by_nodes[by_nodes["graph_node_id"].notna()]
    whole = whole[whole["kernel"] == "(CUDA graph)"].sort_values("start_ns")["duration_ns"].to_numpy()
    spans, busy, counts = [], [], []
    for _, rows in nodes.groupby("correlation_id"):  # of one process, whose numbers rise
        ordered = rows.sort_values("start_ns")
        ends = (ordered["start_ns"] + ordered["duration_ns"]).to_numpy()
        spans.append(int(ends.max() - ordered["start_ns"].iloc[0]))
        starts = np.maximum(ordered["start_ns"].to_numpy(), np.append(0, np.maximum.accumulate(ends)[:-1]))
        busy.append(int(np.maximum(0, ends - starts).sum()))
        counts.append(len(rows))
    assert (found.problem, found.replays, found.nodes) == ("", len(whole), sum(counts))
    assert found.nodes_ns == statistics.median(spans)
    assert found.busy_ns == statistics.median(busy)
    assert found.whole_ns == statistics.median(whole)
    assert found.stretch_ns_per_node == statistics.median((np.array(spans) - whole) / counts)
    assert found.gap_ns_per_node == max(0, statistics.median((whole - np.array(busy)) / counts))


def test_the_h200_says_that_tracing_nodes_stretches_gaps(exports: dict[str, Path]) -> None:
    found = stretch(*(replays_of(exports[f"graphs-{mode}"]) for mode in ("node", "graph")))
    assert 0 < found.gap_ns_per_node < 1000
    assert 0 < found.stretch_ns_per_node < 1000
    assert found.busy_ns < found.whole_ns < found.nodes_ns


def replay(start: int, nodes: int = 2, process: int = 1, span: int = 10) -> GraphReplay:
    return GraphReplay(process, nodes, start, span, span // 2)


@pytest.mark.parametrize(
    ("nodes", "whole", "reason"),
    [
        ([], [], "holds no replay"),
        ([replay(1)], [], "has other replays than the first (1 and 0)"),
        ([replay(1), replay(2)], [replay(1, 0), replay(2, 0), replay(3, 0)], "has other replays"),
        ([replay(1), replay(2, process=2)], [replay(1, 0), replay(2, 0)], "has other replays"),
        ([replay(1)], [replay(1)], "has other replays"),  # both by nodes
    ],
)
def test_replays_that_are_not_the_same_are_not_compared(nodes: Any, whole: Any, reason: str) -> None:
    found = stretch(nodes, whole)
    assert reason in found.problem
    assert found.replays == 0
    assert not node_tracing(Baseline(None, found)).measured_here


def test_replays_of_several_processes_are_compared_within_each() -> None:
    nodes = [replay(1, process=7, span=100), replay(2, process=9, span=40), replay(3, process=7, span=100)]
    whole = [replay(1, 0, process=3, span=80), replay(3, 0, process=3, span=80), replay(2, 0, process=4, span=30)]
    found = stretch(nodes, whole)
    assert (found.replays, found.stretch_ns_per_node, found.gap_ns_per_node) == (3, 10, 15)


def finding_of(analysis: Analysis) -> list[Finding]:
    return [found for found in analysis.findings if found.code == "nodes-traced"]


def test_a_finding_says_by_how_much_tracing_stretches_and_whether_that_was_measured(exports: dict[str, Path]) -> None:
    trace = read(exports["graphs-node"])
    (estimate,) = finding_of(Analysis.of(trace))
    assert "32 CUDA graph replays were traced by their nodes (16 each)" in estimate.message
    assert "by 0.91 us a node in a test on an H100 with nsys 2025.3.1" in estimate.message
    assert "estimate" in estimate.hint
    measured = stretch(*(replays_of(exports[f"graphs-{mode}"]) for mode in ("node", "graph")))
    (told,) = finding_of(Analysis.of(trace, evolve(Rules(), baseline=Baseline(None, measured))))
    added = f"by {measured.stretch_ns_per_node / 1e3:.2f} us a node"
    assert f"{added} in 32 replays of it recorded in both ways" in told.message
    assert told.hint == ""
    assert finding_of(Analysis.of(read(exports["graphs-graph"]))) == []


def test_the_estimate_is_what_the_figures_of_the_test_give() -> None:
    tracing = node_tracing(None)
    assert (round(tracing.gap_ns), round(tracing.stretch_ns), tracing.measured_here) == (350, 905, False)
