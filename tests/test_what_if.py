"""Predictions: a recording that is run again gives its own times, and with a change those of a slow simulator."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise, repeat
from pathlib import Path

import pytest
from attrs import define, evolve, field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.answers.replay import Replay, SampleReplay
from dsprof.answers.what_if import GRAPH_LATENCY_NS, GRAPH_LAUNCH_NS, Changes, WhatIf, as_graphs
from dsprof.errors import NotPredictable
from dsprof.facts import measures_behind
from dsprof.model.baseline import node_tracing
from dsprof.nsys.parts import ReportInParts
from trace_builder import TraceBuilder

GRAPH_GAP_NS = round(node_tracing(None).gap_ns)
SAMPLES = Path(__file__).parents[1] / "traces" / "samples"

# -- a slow simulator ----------------------------------------------------------------------------------------

#: Of the simulated machine, in ns: a kernel begins so long after its call, and after what ran before it; a call that
#: waits takes so long by itself, and returns so long after what it waited for.
LATENCY, GAP, OWN, BACK = 50, 9, 6, 21


@frozen
class Idle:
    """The host does something else."""

    took: int


@frozen
class Launch:
    """A kernel, by a call that takes `own`."""

    name: str
    stream: int
    own: int
    length: int


@frozen
class Wait:
    """The host waits for all that it has launched."""


@frozen
class Step:
    """A step begins."""


Action = Idle | Launch | Wait | Step


@define
class Kernel:
    """A kernel in a queue; `start` and `end` once it runs."""

    ready: int
    length: int
    start: int | None = None
    end: int | None = None


@define
class Stream:
    """What waits on a stream, and when what ran last on it ends."""

    queue: list[Kernel] = field(factory=list)
    end: int | None = None

    def tick(self, now: int) -> None:
        while self.queue and now >= self.queue[0].ready and (self.end is None or now >= self.end + GAP):
            kernel = self.queue.pop(0)
            kernel.start, kernel.end = now, now + kernel.length
            self.end = kernel.end


@define
class Machine:
    """A host and a GPU that go on nanosecond by nanosecond; `calls`: each call's action, times and kernel."""

    own: int = OWN
    streams: dict[int, Stream] = field(factory=lambda: defaultdict(Stream))
    calls: list[tuple[Action, int, int, Kernel | None]] = field(factory=list)
    steps: list[int] = field(factory=list)
    launched: list[Kernel] = field(factory=list)
    now: int = 0
    host_end: int = 0

    def run(self, program: list[Action]) -> list[int]:
        """How long each step took: to the next, the last until host and GPU are done."""
        for _ in self._host(program):
            self._tick()
        self.host_end = self.now
        while any(one.end is None for one in self.launched):
            self._tick()
        done = max([self.now, *(one.end for one in self.launched)])
        return [after - before for before, after in pairwise([*self.steps, done])]

    def _tick(self) -> None:
        self.now += 1
        for stream in self.streams.values():
            stream.tick(self.now)

    def _host(self, program: list[Action]) -> Iterator[None]:
        """The host, which hands over whenever it takes another nanosecond."""
        for action in program:
            begun, kernel, took = self.now, None, 0
            match action:
                case Step():
                    self.steps.append(self.now)
                case Idle(took):
                    pass
                case Launch(_, stream, took, length):
                    kernel = Kernel(self.now + LATENCY, length)
                    self.streams[stream].queue.append(kernel)
                    self.launched.append(kernel)
                case Wait():
                    took = self.own
            yield from repeat(None, took)
            while isinstance(action, Wait) and any(
                one.end is None or self.now < one.end + BACK for one in self.launched
            ):
                yield
            if isinstance(action, Launch | Wait):
                self.calls.append((action, begun, self.now, kernel))


#: What makes usual what is usual: kernels one by one and in a queue, calls that wait and that have nothing to wait for.
USUAL: list[Action] = [
    Step(),
    *[Launch("usual", 1, 5, 40), Idle(200)] * 12,
    *[Launch("usual", 1, 2, 90)] * 15,
    *[Launch("usual", 1, 5, 40), Wait(), Idle(80), Wait()] * 12,
]  # fmt: skip
FIRST = 10_000
idles = st.builds(Idle, st.integers(1, 120))
launches = st.builds(
    Launch, st.sampled_from(["gemm", "other_kernel"]), st.integers(1, 3), st.integers(1, 30), st.integers(1, 150)
)
steps = st.lists(st.one_of(launches, launches, launches, idles, st.just(Wait())), min_size=1, max_size=25)
programs = st.lists(steps, min_size=1, max_size=4).map(lambda found: [one for step in found for one in (Step(), *step)])


def recorded(program: list[Action], path: Path) -> None:
    """A report of a program that the simulator ran: a decode with steps."""
    machine = Machine()
    machine.run(program)
    report = TraceBuilder().gpu().range("decode", FIRST, FIRST + machine.now + 2)
    for begin, finish in pairwise([*machine.steps, max(machine.host_end, machine.steps[-1] + 1)]):
        report.range("decode.step", FIRST + begin, FIRST + finish)
    for action, begin, finish, kernel in machine.calls:
        call = (FIRST + begin, FIRST + finish)
        if kernel is not None:
            at = (FIRST + kernel.start, FIRST + kernel.end)
            report.kernel(action.name, at=at, call=call, stream=action.stream)
        else:
            report.api("cudaDeviceSynchronize_v3020", call=call)
    report.write(path)


def analysis_of(program: list[Action], folder: Path) -> Analysis:
    """A report of a program, what makes usual what is usual before it."""
    path = folder / "made.sqlite"
    path.unlink(missing_ok=True)
    recorded([*USUAL, *program], path)
    return dsprof.analyze(path, reuse=False)


def replay_of(analysis: Analysis) -> Replay:
    """The replay of an analysis."""
    fresh = analysis._from_report()
    fresh._measure(measures_behind(Replay.take))
    return fresh.facts[Replay]


def changed(program: list[Action], host: int = 1, gemm: float = 1.0, waits: bool = True) -> list[Action]:
    """The program with the host's own time, the kernels of a name, or its waits changed."""
    found: list[Action] = []
    for one in program:
        match one:
            case Idle(took):
                found.append(Idle(took * host))
            case Launch(name, _, own, length):
                found.append(evolve(one, own=own * host, length=round(length * (gemm if name == "gemm" else 1))))
            case Step() | Wait() if waits or isinstance(one, Step):
                found.append(one)
    return found


def has_gemm(program: list[Action]) -> bool:
    return any(isinstance(one, Launch) and one.name == "gemm" for one in program)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whatif")


@settings(max_examples=60, deadline=None)
@given(program=programs)
def test_run_again_without_a_change_gives_the_times_of_the_recording(folder: Path, program: list[Action]) -> None:
    found = replay_of(analysis_of(program, folder))
    truth = Machine().run([*USUAL, *program])
    assert found.replayed.tolist() == found.recorded.tolist()
    assert found.recorded.tolist() == [*truth[:-1], max(truth[-1], 1)]


@settings(max_examples=60, deadline=None)
@given(
    program=programs, gemm=st.sampled_from([0.0, 0.5, 1.0, 3.0]), host=st.sampled_from([0, 1, 2]), waits=st.booleans()
)
def test_a_change_gives_the_times_that_the_simulator_gives(
    folder: Path, program: list[Action], gemm: float, host: int, waits: bool
) -> None:
    analysis = analysis_of(program, folder)
    predicted = analysis.what_if(kernels={"gemm": gemm} if has_gemm(program) else None, host=host, no_sync=not waits)
    truth = Machine(own=OWN * host).run(changed([*USUAL, *program], host, gemm, waits))
    steady = [took for took, kept in zip(truth, replay_of(analysis).steady.tolist(), strict=True) if kept]
    assert predicted.stages[0].step_predicted_ns == pytest.approx(sum(steady) / len(steady), abs=2)


@settings(max_examples=40, deadline=None)
@given(program=programs, lower=st.sampled_from([0.0, 0.3, 0.9]), upper=st.sampled_from([0.95, 1.0]))
def test_to_remove_cost_never_lengthens_a_step(folder: Path, program: list[Action], lower: float, upper: float) -> None:
    analysis = analysis_of(program, folder)

    def steps(**changes: object) -> int:
        return analysis.what_if(**changes).stages[0].step_predicted_ns

    for change in ("host", "kernels"):
        less, more = (steps(**{change: {"usual": by} if change == "kernels" else by}) for by in (lower, upper))
        assert less <= more <= steps()
    assert steps(no_sync=True) <= steps()
    assert steps(no_sync=True, host=lower) <= steps(host=lower)
    assert steps(no_pageable=True) <= steps()


@settings(max_examples=20, deadline=None)
@given(program=programs, parts=st.integers(2, 5))
def test_in_parts_it_is_the_same(folder: Path, program: list[Action], parts: int) -> None:
    whole = analysis_of(program, folder)
    cut = Analysis.of(ReportInParts(folder / "made.sqlite", parts))
    for changes in ({}, {"no_sync": True, "host": 0.5}, {"cuda_graphs": True}):
        assert cut.what_if(**changes) == whole.what_if(**changes)


# -- changes that the simulator does not know -----------------------------------------------------------------


def steps_of(tmp_path: Path, make, count: int = 4) -> dsprof.Analysis:
    """A decode of equal steps of 1 ms, each made by a function that is told when it begins."""
    report = TraceBuilder().gpu("NVIDIA H100 80GB HBM3").range("decode", 0, count * 1_000_000)
    for number in range(count):
        report.range("decode.step", number * 1_000_000, (number + 1) * 1_000_000)
        make(report, number * 1_000_000)
    return dsprof.analyze(report.write(tmp_path / "made.sqlite"), reuse=False)


def launched(report: TraceBuilder, at: int, kernels: int = 10) -> int:
    """Kernels of 2 us, launched one by one in 50 us each; when the last ended."""
    for number in range(kernels):
        call = at + 20_000 + number * 50_000
        report.kernel(f"kernel_{number}", at=(call + 8_000, call + 10_000), call=(call, call + 5_000))
    return call + 10_000


def only(found: WhatIf):
    assert len(found.stages) == 1
    return found.stages[0]


def test_a_step_as_a_graph_takes_its_kernels_and_the_gaps_between_them(tmp_path: Path) -> None:
    def step(report: TraceBuilder, at: int) -> None:
        end = launched(report, at)
        report.copy("DtoH", 8, at=(end + 10_000, end + 11_000), call=(end, end + 15_000))

    found = only(steps_of(tmp_path, step).what_if(cuda_graphs=True))
    kernels = 10 * 2_000 + 9 * GRAPH_GAP_NS
    end = 20_000 + 9 * 50_000 + 10_000 + 15_000
    rest = 1_000_000 - end  # from the copy's return to the next step: the host's own
    assert found.step_recorded_ns == 1_000_000
    # The copy is called when the graph is launched, and begins when the graph's kernels are done.
    copy = GRAPH_LATENCY_NS + kernels + 1_000 + 4_000
    assert found.step_predicted_ns == pytest.approx(copy + rest, abs=2_000)
    assert any("1.0 of them each time" in text for text in found.assumptions)
    assert any(f"{GRAPH_GAP_NS / 1e3:.2f} us pass, as measured on an H100." in text for text in found.assumptions)
    assert any(f"{GRAPH_LAUNCH_NS / 1e3:.1f} us" in text for text in found.assumptions)


def test_each_wait_ends_a_graph(tmp_path: Path) -> None:
    def step(report: TraceBuilder, at: int) -> None:
        end = launched(report, at, 5)
        report.api("cudaStreamSynchronize_v3020", call=(end - 1_000, end + 5_000))
        launched(report, end + 5_000, 5)

    analysis = steps_of(tmp_path, step)
    two, one = only(analysis.what_if(cuda_graphs=True)), only(analysis.what_if(cuda_graphs=True, no_sync=True))
    assert any("2.0 of them each time" in text for text in two.assumptions)
    assert any("4 synchronizing calls are left out; 0 that" in text for text in one.assumptions)
    assert one.step_predicted_ns < two.step_predicted_ns < two.step_recorded_ns


def test_a_wait_for_data_stays(tmp_path: Path) -> None:
    def step(report: TraceBuilder, at: int) -> None:
        end = launched(report, at, 5)
        report.copy("DtoH", 8, at=(end + 10_000, end + 60_000), call=(end, end + 5_000))
        report.api("cudaStreamSynchronize_v3020", call=(end + 6_000, end + 65_000))

    analysis = steps_of(tmp_path, step)
    # What is copied to pinned memory is waited for by the call behind it.
    report = analysis.path
    with sqlite3.connect(report) as file:
        file.execute("UPDATE CUPTI_ACTIVITY_KIND_MEMCPY SET dstKind = 1")
    found = only(dsprof.analyze(report, reuse=False).what_if(no_sync=True))
    assert any("0 synchronizing calls are left out; 4 that follow" in text for text in found.assumptions)
    assert found.step_predicted_ns == found.step_recorded_ns


def test_a_copy_of_pinned_memory_does_not_hold_up_the_host(tmp_path: Path) -> None:
    size = 50_000_000  # a millisecond at 50 GB/s

    def step(report: TraceBuilder, at: int) -> None:
        report.copy("HtoD", size, at=(at + 300_000, at + 800_000), call=(at + 10_000, at + 810_000))
        report.kernel("kernel", at=(at + 820_000, at + 821_000), call=(at + 812_000, at + 815_000))

    found = only(steps_of(tmp_path, step).what_if(no_pageable=True))
    assert any("4 copies from pageable memory do not hold up the host" in text for text in found.assumptions)
    assert any("at 50 GB/s" in text for text in found.assumptions)
    assert found.step_predicted_ns < found.step_recorded_ns


def test_nothing_is_predicted_where_the_recording_is_not_understood(tmp_path: Path) -> None:
    def step(report: TraceBuilder, at: int) -> None:
        launched(report, at, 5)
        # It begins long after its launch, on an idle stream: something else held it up.
        report.kernel("late", at=(at + 700_000, at + 900_000), call=(at + 400_000, at + 405_000))
        report.api("cudaDeviceSynchronize_v3020", call=(at + 410_000, at + 905_000))

    found = only(steps_of(tmp_path, step).what_if(cuda_graphs=True))
    assert found.residual_pct > 5
    assert found.step_predicted_ns is None
    assert found.refused.startswith("Run again without a change, decode differs by ")
    assert found.assumptions == ()


@pytest.mark.parametrize("mixed", [False, True])
def test_the_first_screen_runs_steps_again_and_nothing_else(tmp_path: Path, mixed: bool) -> None:
    """A prefill may have as many launches as all its steps; a decode without steps has no time of a step to compare."""
    report = TraceBuilder().range("prefill", 0, 1_000_000)
    launched(report, 0)
    for number in range(1, 5):
        report.range("decode.step", number * 1_000_000, (number + 1) * 1_000_000)
        launched(report, number * 1_000_000)
    report.range("decode", 1_000_000, 5_000_000)
    if mixed:
        report.range("decode", 5_000_000, 6_000_000)
        launched(report, 5_000_000)
    analysis = dsprof.analyze(report.write(tmp_path / "made.sqlite"), reuse=False)
    sample = analysis.results.fact(SampleReplay).replay
    assert sample.has_steps.all()
    assert len(sample.recorded) == 4
    told = analysis.results.facts.call(as_graphs)
    if mixed:
        assert told == {}
    else:
        assert (
            told["decode"].step_predicted_ns
            == only(analysis.what_if(stage="decode", cuda_graphs=True)).step_predicted_ns
        )
        assert set(told) == {"decode"}


SAMPLES_OF_ONE_PROCESS = ["h200-stages", "h200-layers", "h200-batch", "h200-dsocr2-layers", "h200-graph-graph"]


@pytest.mark.parametrize("name", SAMPLES_OF_ONE_PROCESS)
def test_a_real_report_gives_its_own_times(name: str) -> None:
    analysis = dsprof.analyze(SAMPLES / f"{name}.sqlite.xz", reuse=False)
    for one in analysis.what_if().stages:
        assert one.residual_pct < 0.5
        assert one.step_predicted_ns == one.step_replayed_ns == pytest.approx(one.step_recorded_ns, rel=0.005)
        less = only(analysis.what_if(stage=one.stage, cuda_graphs=True, host=0.5, families={"gemm": 0.5})
                    if name != "h200-graph-graph" else analysis.what_if(stage=one.stage, host=0.5))  # fmt: skip
        assert 0 < less.step_predicted_ns < one.step_recorded_ns


def test_what_a_graph_costs_the_host_is_what_a_report_of_graphs_says() -> None:
    usual = replay_of(dsprof.analyze(SAMPLES / "h200-graphs-graph.sqlite.xz", reuse=False)).usual
    assert pytest.approx(usual.graph_launch, rel=0.05) == GRAPH_LAUNCH_NS
    assert pytest.approx(usual.graph_latency, rel=0.05) == GRAPH_LATENCY_NS


def test_a_shared_gpu_is_not_predicted() -> None:
    analysis = dsprof.analyze(SAMPLES / "h200-two-processes.sqlite.xz", reuse=False)
    assert only(analysis.what_if(stage="decode")).step_predicted_ns is None


# -- what is refused, and the command line --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 4}, "a batch of 4 would take cannot be told"),
        ({"families": {"nonsense": 0.5}}, "of the family 'nonsense'"),
        ({"kernels": {"nonsense": 0.5}}, "a name with 'nonsense' in it"),
        ({"stage": "nonsense"}, "no steady 'nonsense'"),
    ],
)
def test_what_cannot_be_predicted_is_refused(tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(NotPredictable, match=said):
        steps_of(tmp_path, launched).what_if(**changes)


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_what_is_no_factor_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match=r"is no factor like 0\.5"):
        Changes(host=factor)


def test_results_that_are_stored_are_read_again_for_it(tmp_path: Path) -> None:
    fresh = steps_of(tmp_path, launched)
    fresh.write()
    stored = dsprof.analyze(fresh.path)
    assert type(stored.results).__name__ == "Stored"
    assert stored.what_if(host=0.5) == fresh.what_if(host=0.5)


def test_a_report_without_stages_is_told_how_to_name_them(tmp_path: Path) -> None:
    report = TraceBuilder().range("mine", 0, 1_000_000)
    launched(report, 0)
    with pytest.raises(NotPredictable, match="no stage to run again") as refused:
        dsprof.analyze(report.write(tmp_path / "made.sqlite"), reuse=False).what_if()
    assert "--stage" in refused.value.hint


def dsprof_whatif(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsprof", "whatif", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_it_as_terminal_json_and_markdown(tmp_path: Path) -> None:
    path = steps_of(tmp_path, launched).path
    done = dsprof_whatif(path, "--stage", "decode", "--cuda-graphs", "--host", "0.5x")
    assert done.returncode == 0
    assert "--cuda-graphs, --host 0.5x" in done.stdout
    assert "Between two nodes of a graph" in done.stdout
    document = json.loads(dsprof_whatif(path, "--format", "json", "--family", "other=0.5x").stdout)
    assert document["schema"] == "dsprof.whatif/1"
    assert document["changes"] == ["--family other=0.5x"]
    stage = document["stages"][0]
    assert {"step_recorded_ns", "step_predicted_ns", "residual_pct", "assumptions"} <= set(stage)
    assert "| decode | step |" in dsprof_whatif(path, "--format", "markdown").stdout
    mine = dsprof_whatif(
        path, "--stage", "decode=^nothing$", "--stage", "mine=^dec", "--stage", "mine", "--format=json"
    )
    assert [one["stage"] for one in json.loads(mine.stdout)["stages"]] == ["mine"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--batch", "8"], 45, "Record that batch"),
        (["--host", "half"], 2, "is no factor like 0.5x"),
        (["--family", "gemm"], 2, "is not NAME=0.5x"),
        (["--kernel", "(=0.5x"], 2, "no regular expression"),
        (["--kernel", "nothing=0.5x"], 45, "kern_sum"),
        (["--stage", "prefill"], 45, "There is decode"),
    ],
)
def test_the_command_ends_with_a_sentence(tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    done = dsprof_whatif(steps_of(tmp_path, launched).path, *arguments)
    assert done.returncode == code
    assert said in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


# -- against programs on a GPU --------------------------------------------------------------------------------


def test_predictions_are_what_the_changed_programs_took_on_a_gpu() -> None:
    sys.path.insert(0, str(SAMPLES.parents[1] / "benchmarks"))
    import predicted

    found = dict(predicted.predictions(SAMPLES))
    assert {(row["model"], row["batch"]) for row in found.values() if row["kind"] == "eager"} == {
        (model, batch) for model in predicted.MODELS for batch in predicted.BATCHES
    }
    assert {row["kind"] for row in found.values()} == {"eager", *predicted.PLANTED}
    for report, row in found.items():
        assert row["residual"] < 1, report
        if row["kind"] == "eager":
            assert abs(row["error"]) < 10, report
        else:  # the host's times differ from request to request, with what is planted and without
            noise = max(row["decode_ms"]) / min(row["decode_ms"]) * max(row["without_ms"]) / min(row["without_ms"])
            assert row["true"] / noise / 1.05 < row["predicted"] < row["true"] * noise * 1.05, report
            assert row["predicted"] < row["recorded"], report
