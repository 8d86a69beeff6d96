"""Two sides compared: by how much, why, whether they are comparable, gates, baselines, and what is wrong input."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import compared

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.analysis.ranks import Ranks
from dsprof.analysis.sides import WANTED, recording_in, recording_of, runs_of
from dsprof.analysis.slim import read_slim, write_slim
from dsprof.cli import _split, app
from dsprof.compare.comparable import NOTE, REFUSE, WARN, reasons
from dsprof.compare.gates import (
    DEFAULTS,
    NOT_COMPARABLE,
    PASSED,
    REGRESSION,
    TOO_NOISY,
    Gate,
    gate_of,
    gates_of,
    judge_measured,
)
from dsprof.compare.kernels import ADDED, REMOVED, RENAMED, REPLACED, SAME, aligned, blurred
from dsprof.compare.outcome import FASTER, NO_CHANGE, NOISY, SLOWER, Outcome, StageDiff, compare
from dsprof.compare.recordings import Recording
from dsprof.compare.statistics import Change, change, runs_to_see, widened
from dsprof.compare.units import Run, units_of
from dsprof.compare.waterfall import waterfall
from dsprof.errors import NothingToCompare, RulesUnreadable, TablesUnreadable, UnknownTable
from dsprof.ground.student import quantile
from dsprof.nsys.inputs import Input
from dsprof.nsys.parts import ReportInParts
from dsprof.show import plain, terminal
from dsprof.show.diff import answer, document, grids
from test_properties import recordings, trace_of
from trace_builder import TraceBuilder

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "traces" / "samples"
DATA = ROOT.parent / "shared" / "data" / "h100-runs.tar.xz"
NAMES = sorted(path.name.removesuffix(".sqlite.xz") for path in SAMPLES.glob("*.sqlite.xz"))
_READ: dict[str, Run] = {}


def sample(name: str) -> Run:
    """A sample as a run, read once."""
    if name not in _READ:
        _READ[name] = Run((recording_of(dsprof.analyze(SAMPLES / f"{name}.sqlite.xz", tables=WANTED, reuse=False)),))
    return _READ[name]


# -- a made program --------------------------------------------------------------------------------------------

Step = dict[str, Any]


def made(
    path: Path,
    *,
    requests: int = 4,
    steps: int = 6,
    names: tuple[str, ...] = ("gemm_a<1>", "norm", "gemm_a<1>", "softmax"),
    each: int = 4_000,
    host: int = 9_000,
    slow: tuple[int, ...] = (),
    prompt: int = 100,
    gpu: str = "NVIDIA H200",
    ranges: int = 0,
    sync: bool = False,
    began: int = 0,
    stage: str = "decode",
    version: str = "2025.3.2",
) -> Path:
    """A made report of requests that prefill and decode; `slow`: kernels by which each request takes longer, in ns."""
    report, at = TraceBuilder(version).gpu(gpu), 1_000 + began
    for request in range(requests):
        more = slow[request % len(slow)] if slow else 0
        start = at
        for kernel in names:
            report.kernel(kernel, at=(at + 3_000, at + 3_000 + each), call=(at + 100, at + 900))
            at += host
        report.range("prefill", start, at, payload=prompt)
        at += 500
        begin = at
        for step in range(1, steps + 1):
            first = at
            for number in range(ranges):
                report.range(f"layer {number}", at + 10 + number * 4, at + 12 + number * 4)
            for kernel in names:
                report.kernel(kernel, at=(at + 3_000, at + 3_000 + each + more), call=(at + 100, at + 900))
                at += host
            if sync:
                report.api("cudaDeviceSynchronize_v3020", call=(at, at + 200))
                at += 300
            report.range(f"{stage}.step" if stage == "decode" else "x", first, at, payload=step)
            at += 50
        report.range(stage, begin, at, payload=steps)
        at += 700
    return report.write(path)


def sides(tmp_path: Path, before: dict[str, Any], after: dict[str, Any], **options: Any) -> Outcome:
    """Two made reports compared."""
    paths = [made(tmp_path / f"{name}.sqlite", **given) for name, given in (("one", before), ("two", after))]
    return dsprof.diff(paths[0], paths[1], **options).outcome


def stage_of(outcome: Outcome, stage: str = "decode") -> StageDiff:
    return next(one for one in outcome.stages if one.stage == stage)


def refusals(outcome: Outcome) -> list[str]:
    return [one.what for one in outcome.reasons if one.level == REFUSE]


def run(*words: str) -> Any:
    """A call of the command line."""
    arguments, command = _split(list(words))
    return CliRunner().invoke(app, arguments, obj=command)


# -- statistics ------------------------------------------------------------------------------------------------

#: From a table of Student's t: degrees of freedom, and t below which 97.5 % and 80 % lie.
STUDENT = {1: (12.706, 1.376), 2: (4.303, 1.061), 3: (3.182, 0.978), 7: (2.365, 0.896), 10: (2.228, 0.879),
           30: (2.042, 0.854), 120: (1.980, 0.845)}  # fmt: skip


@pytest.mark.parametrize("freedom", STUDENT)
def test_quantiles_are_those_of_a_table(freedom: int) -> None:
    assert (round(quantile(0.975, freedom), 3), round(quantile(0.8, freedom), 3)) == STUDENT[freedom]


def test_quantiles_of_many_degrees_of_freedom_go_on_where_the_series_ends() -> None:
    for share in (0.8, 0.975, 0.9999):
        before, after = quantile(share, 299), quantile(share, 300)
        assert 0 < before - after < 1e-3 * before
    assert quantile(0.975, 10**9) == pytest.approx(statistics.NormalDist().inv_cdf(0.975))


values = st.lists(st.floats(1.0, 1e9), min_size=1, max_size=5).map(np.array)
runs = st.lists(values, min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(runs, runs)
def test_swapped_sides_change_by_the_same_with_the_other_sign(before, after):
    there, back = change(before, after), change(after, before)
    assert there is not None
    assert back is not None
    assert there.log == -back.log
    assert (there.low is None) == (back.low is None)
    if there.low is not None:
        assert (there.low, there.high, there.seen) == (-back.high, -back.low, back.seen)
    assert (there.deviation, there.over) == (back.deviation, back.over)


def test_four_runs_are_compared_as_runs_and_three_by_their_requests() -> None:
    one = np.array([1.0, 2.0, 3.0])
    assert change([one], [one, one]) == change([one], [np.concatenate([one, one])])
    four = change([one, one * 1.01], [one, one * 1.01])
    assert four is not None
    assert (four.over, four.before_n, four.after_n) == ("run", 2, 2)
    single = change([one[:1]], [one[1:2]])
    assert single is not None
    assert (single.low, single.high, single.seen) == (None, None, None)
    assert change([one], [one * 0]) is None
    assert change([one], []) is None


def test_an_interval_holds_the_change_as_often_as_it_says() -> None:
    """Made runs of one program, 5 a side, 19 times in 20; a change that is said to be seen is, four times in five."""
    random = np.random.default_rng(11)
    inside = seen = 0
    for _ in range(2_000):
        before, after = ([np.exp(random.normal(shift, 0.02, 1)) for _ in range(5)] for shift in (0.0, 0.0))
        found = change(before, after)
        assert found is not None
        assert found.low is not None
        inside += found.low <= 0 <= (found.high or 0)
    true = (quantile(0.975, 8) + quantile(0.8, 8)) * 0.02 * math.sqrt(2 / 5)
    for _ in range(2_000):
        before, after = ([np.exp(random.normal(shift, 0.02, 1)) for _ in range(5)] for shift in (0.0, true))
        found = change(before, after)
        assert found is not None
        assert found.low is not None
        seen += found.low > 0
    assert 0.935 < inside / 2_000 < 0.965
    assert 0.76 < seen / 2_000 < 0.84


def test_more_runs_see_less_and_no_number_sees_everything() -> None:
    assert [runs_to_see(math.log1p(limit), 0.11) for limit in (0.5, 0.1, 0.05)] == [3, 22, 81]
    assert runs_to_see(math.log1p(0.05), 0.0) == 2
    assert runs_to_see(math.log1p(0.001), 0.11) is None
    assert runs_to_see(0.0, 0.1) is None


def test_what_differs_from_run_to_run_makes_an_interval_over_requests_wider_and_no_other() -> None:
    random = np.random.default_rng(3)
    one, other = (np.exp(random.normal(0, 0.01, 8)) for _ in range(2))
    found = change([one], [other])
    assert found is not None
    wide = widened(found, 0.11)
    assert wide.low is not None and found.low is not None and wide.low < found.low - 0.2
    over = change([one, one], [other, other])
    assert over is not None
    assert widened(over, 0.11) == over


# -- equal, mirrored, adding up --------------------------------------------------------------------------------


def adds_up(outcome: Outcome) -> None:
    """The waterfall's parts are the wall time on both sides, so their changes are that of the wall time."""
    for stage in outcome.stages:
        wall = stage.measure("wall")
        for side, mean in (("before_ns", wall.before_ns), ("after_ns", wall.after_ns)):
            assert sum(getattr(part, side) for part in stage.waterfall) == pytest.approx(mean, abs=0.51)
        busy = [part for part in stage.waterfall if part.kind == "busy"]
        assert sum(part.after_ns for part in busy) == pytest.approx(stage.measure("gpu_busy").after_ns, abs=len(busy))
        assert not [part for part in stage.waterfall if part.name == "not told"]


def is_zero(outcome: Outcome) -> None:
    """No number differs."""
    for stage in outcome.stages:
        assert {part.change_ns for part in stage.waterfall} <= {0}
        assert all(one.before == one.after for one in stage.counts)
        for one in stage.measures:
            assert one.before_ns == one.after_ns
            assert one.verdict in (NO_CHANGE, NOISY)
            assert one.change is None or one.change.log == 0
        for operation in stage.operations:
            assert (operation.match, operation.change_ns, operation.verdict) == (SAME, 0, "")
            assert operation.each is None or operation.each.log == 0
        assert stage.calls == ()
        assert all(module.before_ns == module.after_ns for module in stage.modules)


def is_mirrored(there: Outcome, back: Outcome) -> None:
    """Each number of one is that of the other from the other side."""
    assert [one.stage for one in there.stages] == [one.stage for one in back.stages]
    turned = {SLOWER: FASTER, FASTER: SLOWER, ADDED: REMOVED, REMOVED: ADDED}
    for one, other in zip(there.stages, back.stages, strict=True):
        assert Counter((part.name, part.before_ns, part.after_ns) for part in one.waterfall) == Counter(
            (part.name, part.after_ns, part.before_ns) for part in other.waterfall
        )
        assert {(count.name, count.before, count.after) for count in one.counts} == {
            (count.name, count.after, count.before) for count in other.counts
        }
        for mine, its in zip(one.measures, other.measures, strict=True):
            assert (mine.before_ns, mine.after_ns, mine.seen) == (its.after_ns, its.before_ns, its.seen)
            assert mine.verdict == turned.get(its.verdict, its.verdict)
            assert (mine.change is None) == (its.change is None)
            if mine.change is not None and its.change is not None:
                assert mine.change.log == -its.change.log
                assert mine.change.low == (None if its.change.high is None else -its.change.high)
        assert {(two.match, two.before, two.after, two.change_ns, two.verdict) for two in one.operations} == {
            (turned.get(two.match, two.match), two.after, two.before, -two.change_ns,
             turned.get(two.verdict, two.verdict)) for two in other.operations
        }  # fmt: skip
        assert {(call.call, call.before, call.after) for call in one.calls} == {
            (call.call, call.after, call.before) for call in other.calls
        }


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_against_itself_is_exactly_zero_and_adds_up(name: str) -> None:
    outcome = compare([sample(name)], [sample(name)])
    assert outcome.stages
    assert outcome.exit_code == 0
    is_zero(outcome)
    adds_up(outcome)


@pytest.mark.parametrize("one, other", list(itertools.pairwise([*NAMES, NAMES[0]])))
def test_each_sample_against_the_next_adds_up_and_is_mirrored(one: str, other: str) -> None:
    there = compare([sample(one)], [sample(other)], force=True)
    adds_up(there)
    is_mirrored(there, compare([sample(other)], [sample(one)], force=True))


few = settings(max_examples=25, deadline=None)


@few
@given(st.lists(recordings(), min_size=2, max_size=4), st.integers(1, 3))
def test_random_reports_add_up_are_mirrored_and_equal_themselves(found, cut):
    """Whatever is in them, ranges that overlap and graphs and all; sides of several runs, too."""
    made_runs = [Run((recording_of(Analysis.of(trace_of(one))),)) for one in found]
    before, after = made_runs[:cut] or made_runs[:1], made_runs[cut:] or made_runs[:1]
    there = compare(before, after, force=True)
    adds_up(there)
    is_mirrored(there, compare(after, before, force=True))
    is_zero(compare(before, before))


# -- what changed, and why -------------------------------------------------------------------------------------


def test_a_slower_kernel_is_found_with_its_interval(tmp_path):
    outcome = sides(tmp_path, {"slow": (0, 3, 1, 2)}, {"slow": (400, 403, 401, 402)})
    busy = stage_of(outcome).measure("gpu_busy")
    assert busy.verdict == SLOWER
    assert busy.before_ns == 4 * 4_000 + 6
    assert busy.after_ns == busy.before_ns + 1_600
    found = {one.after: one for one in stage_of(outcome).operations}
    assert {name: one.verdict for name, one in found.items()} == dict.fromkeys(("gemm_a<1>", "norm", "softmax"), SLOWER)
    assert found["gemm_a<1>"].before_n == found["gemm_a<1>"].after_n == 2
    assert found["gemm_a<1>"].change_ns == 800
    assert found["norm"].each is not None
    assert found["norm"].each.pct == pytest.approx(10, abs=0.1)


def test_another_template_is_a_renamed_kernel_and_a_new_one_is_added(tmp_path):
    before = ("gemm_a<1>", "norm", "gemm_a<1>", "softmax")
    after = ("gemm_b<2, 64>", "norm", "gemm_b<2, 64>", "softmax", "extra_copy")
    outcome = sides(tmp_path, {"names": before}, {"names": ("gemm_a<2>", *after[1:2], "gemm_a<2>", *after[3:])})
    found = {(one.before, one.after): one.match for one in stage_of(outcome).operations}
    assert found == {
        ("norm", "norm"): SAME, ("softmax", "softmax"): SAME, ("gemm_a<1>", "gemm_a<2>"): RENAMED,
        ("", "extra_copy"): ADDED,
    }  # fmt: skip
    counts = {one.name: (one.before, one.after) for one in stage_of(outcome).counts}
    assert counts["launches"] == counts["kernels"] == (4, 5)


def places(**of: tuple[str, str, int]) -> dict[str, Counter[tuple[str, str, int]]]:
    return {name: Counter([place]) for name, place in of.items()}


def test_names_are_aligned_by_blur_then_family_and_never_without_their_place():
    families = {"a1": "gemm", "a2": "gemm", "b": "gemm", "c": "norm"}
    here, there = ("x", "y", 1), ("y", "z", 1)
    assert aligned(["a1"], ["a2"], places(a1=here), places(a2=here), families) == [(RENAMED, "a1", "a2")]
    assert aligned(["a1"], ["b"], places(a1=here), places(b=here), families) == [(REPLACED, "a1", "b")]
    assert aligned(["a1"], ["c"], places(a1=here), places(c=here), families) == [
        (REMOVED, "a1", ""), (ADDED, "", "c")
    ]  # fmt: skip
    assert aligned(["a1"], ["a2"], places(a1=here), places(a2=there), families) == [
        (REMOVED, "a1", ""), (ADDED, "", "a2")
    ]  # fmt: skip
    assert aligned(["a1"], ["a2", "b"], places(a1=here), places(a2=here, b=here), families) == [
        (RENAMED, "a1", "a2"), (ADDED, "", "b")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "one, other, same",
    [("void k<int, 3>(float*)", "void k<f<g<1>>, 4>(half*)", True), ("gemm_64x8_v2", "gemm_128x16_v3", True),
     ("gemm_a", "gemm_b", False), ("k<", "k", False), ("<" * 500, "<" * 500, True)],
)  # fmt: skip
def test_blurred_names(one: str, other: str, same: bool) -> None:
    assert (blurred(one) == blurred(other)) == same


def test_a_synchronization_that_came_is_named(tmp_path):
    stage = stage_of(sides(tmp_path, {}, {"sync": True}))
    assert [(one.kind, one.call, one.before, one.after) for one in stage.calls] == [
        ("synchronization", "cudaDeviceSynchronize", 0, 1)
    ]
    more = {part.name: part.change_ns for part in stage.waterfall}
    assert more["waiting for the GPU"] == 200


def test_experiments_on_a_gpu_are_told_by_what_was_planted():
    """A synchronize, or a pageable copy, after each of 8 layers of a llama in another recording of the same program."""
    eager = [sample("h100-llama-1-eager")]
    synced = stage_of(compare(eager, [sample("h100-llama-1-synchronize")]))
    more = {one.call: one.after - one.before for one in synced.calls}
    assert more["cudaDeviceSynchronize"] >= 8
    copied = stage_of(compare(eager, [sample("h100-llama-1-pageable-copy")]))
    more = {one.call: one.after - one.before for one in copied.calls}
    assert more["cudaMemcpyAsync"] >= 8
    assert copied.measure("gpu_busy").verdict == SLOWER
    grown = max(copied.waterfall, key=lambda part: part.change_ns)
    assert (grown.kind, grown.name) == ("busy", "memory copies")


def test_eager_against_graphs_is_compared_and_says_what_a_graph_did():
    outcome = compare([sample("h100-serve")], [sample("h100-serve-graphs")])
    assert not refusals(outcome)
    assert [one.what for one in outcome.reasons if one.level == NOTE and not one.stage] == ["graphs"]
    stage = stage_of(outcome)
    assert stage.measure("wall").verdict == FASTER
    counts = {one.name: (one.before, one.after) for one in stage.counts}
    assert counts["graph_launches"][0] == 0
    assert counts["graph_launches"][1] == pytest.approx(1, abs=0.1)
    assert counts["launches"][1] < counts["launches"][0] / 10
    fell = min(stage.waterfall, key=lambda part: part.change_ns)
    assert (fell.kind, fell.name) == ("idle", "host outside of CUDA")


def test_graphs_traced_in_two_ways_are_refused():
    outcome = compare([sample("h200-graphs-node")], [sample("h200-graphs-graph")])
    assert (refusals(outcome), outcome.exit_code, outcome.stages) == (["graph mode"], 3, ())
    assert outcome.reasons[0].sentence == "How CUDA graphs were traced differs: node before, graph after."
    forced = compare([sample("h200-graphs-node")], [sample("h200-graphs-graph")], force=True)
    assert forced.forced
    assert {one.stage for one in forced.stages} == {"prefill", "decode"}


def test_stages_against_layers_is_refused_for_its_ranges_and_forced_finds_the_same_kernels():
    pair = [sample("h200-stages")], [sample("h200-layers")]
    outcome = compare(*pair)
    assert (refusals(outcome), outcome.exit_code, outcome.verdict) == (["ranges", "ranges"], 3, "not comparable")
    assert "2.0 before, 14.0 after" in outcome.reasons[-1].sentence
    forced = stage_of(compare(*pair, force=True))
    assert {one.match for one in forced.operations} == {SAME}
    assert forced.measure("gpu_busy").verdict == NO_CHANGE
    assert [one.module for one in forced.modules] == ["lm_head"]  # the ranges that both have


# -- comparable? -----------------------------------------------------------------------------------------------

REFUSED = {
    "GPU": {"gpu": "NVIDIA H100"},
    "prompt": {"prompt": 120},
    "ranges": {"ranges": 8},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_makes_another_measurement_is_refused_unless_forced(what: str, tmp_path: Path) -> None:
    outcome = sides(tmp_path, {}, REFUSED[what])
    assert what in refusals(outcome)
    assert outcome.exit_code == 3
    assert "decode" not in {one.stage for one in outcome.stages}
    forced = sides(tmp_path, {}, REFUSED[what], force=True)
    assert (forced.forced, forced.exit_code) == (True, 0)
    assert {one.stage for one in forced.stages} == {"prefill", "decode"}


def test_some_more_ranges_and_another_driver_are_told(tmp_path):
    outcome = sides(tmp_path, {}, {"ranges": 2})
    assert [one.what for one in outcome.reasons if one.level == WARN] == ["ranges"]
    one = runs_of([tmp_path / "one.sqlite"])[0]
    assert not reasons([one], [with_(one, name="other", sha256="x")])
    for name, what in (("driver", "driver"), ("nsys", "nsys"), ("rules", "the rules of the analysis")):
        found = reasons([with_(one, **{name: "1"})], [with_(one, **{name: "2", "sha256": "x"})])
        assert [(reason.level, reason.what) for reason in found] == [(WARN, what)]
    lost = reasons([with_(one, findings=("lost-kernels",))], [with_(one, sha256="x")])
    assert [(reason.level, reason.sentence) for reason in lost] == [
        (WARN, "A recording before has data missing or lost: lost-kernels.")
    ]
    window = reasons([with_(one, selection="--window 0..1s")], [with_(one, sha256="x")])
    assert [(reason.level, reason.what) for reason in window] == [(REFUSE, "what of the report is selected")]
    mixed = reasons(
        [one, with_(one, gpus=("NVIDIA A100",))], [with_(one, sha256="x"), with_(one, gpus=("NVIDIA A100",))]
    )
    assert "The same" in mixed[-1].sentence and mixed[0].sentence.startswith("GPU differs within a side")
    assert reasons([with_(one, driver="1")], [with_(one, driver="", sha256="x")]) == []


def with_(run: Run, **about: Any) -> Run:
    """The same run that says something else of itself."""
    return Run(tuple(Recording(evolve(one.about, **about), one.tables) for one in run.recordings))


def test_another_model_is_refused_and_what_is_cosmetic_is_not(tmp_path):
    one = runs_of([made(tmp_path / "one.sqlite")])[0]
    config = {"model_type": "x", "text_config": {"hidden_size": 8, "pad_token_id": 1}, "torch_dtype": "float16"}
    other = {"model_type": "x", "text_config": {"hidden_size": 9, "pad_token_id": 2}, "dtype": "bfloat16"}
    same = {**config, "text_config": {"hidden_size": 8, "pad_token_id": 3}}
    pair = [with_(one, config=config)], [with_(one, config=other, sha256="x")]
    found = reasons(*pair)
    assert [(reason.level, reason.what) for reason in found] == [(REFUSE, "model")]
    assert found[0].sentence == "The models differ in text_config.hidden_size (8 and 9)."
    assert not reasons(pair[0], [with_(one, config=same, sha256="x")])
    assert [(reason.level, reason.what) for reason in reasons(pair[0], [with_(one, sha256="x")])] == [(NOTE, "model")]


def test_one_rank_against_two_is_refused_and_ranks_of_one_time_are_one_run():
    paths = [SAMPLES / f"h100x2-tp-rank{rank}.sqlite.xz" for rank in (0, 1)]
    both = runs_of(map(str, paths))
    assert [len(run.recordings) for run in both] == [2]
    outcome = compare([sample("h100x2-tp-rank0")], both)
    assert refusals(outcome) == ["ranks"]
    assert "1 before, 2 after" in outcome.reasons[0].sentence
    same = compare(both, both)
    is_zero(same)
    adds_up(same)
    units = units_of(both[0])["decode"]
    assert sorted(Counter(units.group.tolist()).values()) == [30] * 6  # a request of both ranks is one


def test_different_stages_are_not_comparable_and_a_stage_of_one_run_is_told(tmp_path):
    one, two = made(tmp_path / "one.sqlite"), tmp_path / "two.sqlite"
    TraceBuilder().gpu().range("vision", 0, 100).kernel("k", at=(10, 20), call=(1, 2)).write(two)
    outcome = dsprof.diff(one, two, stages={"vision": "^vision"}).outcome
    assert (refusals(outcome), outcome.exit_code, outcome.stages) == (["stages"], 3, ())
    assert outcome.reasons[0].sentence == ("The sides have no stage in common: decode, prefill before, vision after.")
    report = TraceBuilder().gpu().range("prefill", 0, 100, payload=100).kernel("k", at=(10, 20), call=(1, 2))
    alone = dsprof.diff(one, report.write(tmp_path / "three.sqlite")).outcome
    assert [reason.sentence for reason in alone.reasons] == ["decode is not in every run, and is not compared."]
    assert [stage.stage for stage in alone.stages] == ["prefill"]


# -- gates -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, gate",
    [
        ("decode.gpu_busy<1%", Gate("decode", "gpu_busy", 1)),
        (" wall < 0.5 % ", Gate("", "wall", 0.5)),
        ("my.stage.launches<0%", Gate("my.stage", "launches", 0)),
    ],
)
def test_gates_are_read(text: str, gate: Gate) -> None:
    assert gate_of(text) == gate
    assert gates_of([text, text]) == (gate,)


WRONG = ["", "decode", "decode.gpu_busy", "decode.gpu_busy<1", "decode.gpu_busy>1%", "decode.speed<1%", "gpu_busy<-1%",
         "wall<1e3%", "wall<99999999%", "wall<nan%", ".wall<1%"]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
def test_a_gate_that_does_not_parse_is_a_usage_error(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="gate"):
        gate_of(text)
    monkeypatch.chdir(tmp_path)
    done = run("diff", "a", "b", "--gate", text)
    assert done.exit_code == 2
    assert "gate" in done.output
    Path("dsprof.toml").write_text(f"gates = [{json.dumps(text)}]")
    done = run("diff", "a", "b")
    assert isinstance(done.exception, RulesUnreadable)


def measured(log: float, error: float, over: str = "run") -> Change:
    """A change over five runs a side whose interval reaches `error` on both sides."""
    deviation = error / quantile(0.975, 8) / math.sqrt(2 / 5)
    return Change(log, log - error, log + error, 2 * error, over, 5, 5, deviation)


@pytest.mark.parametrize(
    "log, error, result",
    [(0.0, 0.001, PASSED), (0.005, 0.001, PASSED), (0.02, 0.001, REGRESSION), (0.02, 0.03, TOO_NOISY),
     (0.0, 0.02, TOO_NOISY), (-0.05, 0.01, PASSED), (0.009, 0.002, TOO_NOISY)],
)  # fmt: skip
def test_a_gate_by_where_the_interval_lies(log: float, error: float, result: str) -> None:
    found = judge_measured(gate_of("decode.gpu_busy<1%"), measured(log, error))
    assert found.result == result
    assert (found.runs is not None) == (result == TOO_NOISY)


def test_gates_of_one_run_a_side_take_the_noise_between_runs_for_granted(tmp_path):
    outcome = sides(tmp_path, {}, {}, gates=["default", "launches<0%"])
    assert {(one.measure, one.result) for one in outcome.gates} == {
        ("gpu_busy", PASSED), ("wall", TOO_NOISY), ("launches", PASSED)
    }  # fmt: skip
    noisy = next(one for one in outcome.gates if one.result == TOO_NOISY)
    assert "About 81 runs a side would tell." in noisy.sentence
    assert outcome.exit_code == 3


def test_a_regression_of_busy_or_launches_ends_with_1_and_a_stage_that_is_not_there_with_3(tmp_path):
    slower = sides(tmp_path, {}, {"slow": (400,)}, gates=["decode.gpu_busy<1%"])
    assert (slower.verdict, slower.exit_code) == ("regression", 1)
    more = sides(tmp_path, {}, {"names": ("gemm_a<1>", "norm", "gemm_a<1>", "softmax", "k")}, gates=["launches<1%"])
    assert more.exit_code == 1
    assert {one.result for one in more.gates} == {REGRESSION}
    missing = sides(tmp_path, {}, {}, gates=["encode.wall<1%"])
    assert (missing.exit_code, [one.result for one in missing.gates]) == (3, [NOT_COMPARABLE])


# -- the runs of a GPU -----------------------------------------------------------------------------------------

needs_data = pytest.mark.skipif(not DATA.exists(), reason="the recorded runs lie outside of the repository")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The runs a1 to a4 and b1 to b3 of one program, whose tables an earlier dsprof wrote."""
    return compared.read(DATA, tmp_path_factory.mktemp("runs"))


@needs_data
def test_no_split_of_equal_runs_is_called_a_regression_and_a_planted_change_of_busy_is_seen_in_each(recorded):
    rows = list(compared.rows(compared.named(recorded, "a")))
    assert len(rows) == 3**4 - 2 * 2**4 + 1
    for row in rows:
        assert row.alarms == 0
        assert row.busy_seen
        assert row.wall_told in (TOO_NOISY, REGRESSION)  # where it is told, it is told right
    assert sum(row.wall_told == TOO_NOISY for row in rows) > len(rows) / 2
    page = (ROOT / "benchmarks" / "COMPARED.md").read_text(encoding="utf-8")
    assert compared.page(recorded, rows) == page, "run `python benchmarks/compared.py`"


# -- folders, baselines, wrong input ---------------------------------------------------------------------------


def same_outcome(one: Outcome, other: Outcome) -> bool:
    """Do two comparisons say the same, whatever their sides are called?"""
    strip = {"before": one.before, "after": one.after, "reasons": ()}
    return evolve(one, **strip) == evolve(other, **strip)


def test_a_folder_of_tables_and_a_baseline_say_the_same_as_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, two = made(tmp_path / "one.sqlite"), made(tmp_path / "two.sqlite", slow=(400, 410))
    fresh = dsprof.diff(one, two, gates=["default"]).outcome
    for path in (one, two):
        dsprof.analyze(path).write()
    folders = dsprof.diff("one.dsprof", "two.dsprof", gates=["default"]).outcome
    assert same_outcome(fresh, folders)
    assert same_outcome(fresh, dsprof.diff(one, two, gates=["default"]).outcome)  # stored
    done = run("baseline", "add", "main", "one.dsprof")
    assert (done.exit_code, done.exception) == (0, None)
    shutil.rmtree("one.dsprof")
    for named in ("main", "baselines/main", "baselines/*"):
        assert same_outcome(fresh, dsprof.diff(named, two, gates=["default"]).outcome)
    listed = run("baseline", "list")
    assert listed.output.startswith("main: one-")
    assert not list(Path("baselines").rglob("kern_trace*"))


def test_a_baseline_takes_a_report_once_and_is_small(tmp_path):
    recording = recording_of(dsprof.analyze(SAMPLES / "h200-stages.sqlite.xz", tables=WANTED, reuse=False))
    first = write_slim(recording, tmp_path)
    assert write_slim(recording, tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [first.name]
    size = sum(path.stat().st_size for path in first.iterdir())
    assert size < 200_000
    read = read_slim(first)
    assert read.about == recording.about
    for name in read.tables:
        assert read.tables[name].to_pylist() == recording.tables[name].to_pylist()


@pytest.mark.parametrize("damage", ["cut", "changed", "record", "missing", "schema"])
def test_a_damaged_baseline_is_told(damage: str, tmp_path: Path) -> None:
    folder = write_slim(recording_of(dsprof.analyze(made(tmp_path / "one.sqlite"), tables=WANTED)), tmp_path / "main")
    steps, record = folder / "step_trace.parquet", folder / "recording.json"
    if damage == "cut":
        steps.write_bytes(steps.read_bytes()[:-9])
    elif damage == "changed":
        pq.write_table(pq.read_table(steps).slice(1), steps)
    elif damage == "missing":
        steps.unlink()
    elif damage == "schema":
        record.write_text(record.read_text().replace("recording/1", "recording/9"))
    else:
        record.write_text(record.read_text().replace("NVIDIA H200", "NVIDIA H100"))
    with pytest.raises(TablesUnreadable, match=r"The recording .* of a baseline cannot be read"):
        dsprof.diff(tmp_path / "main", tmp_path / "one.sqlite")


@pytest.mark.parametrize("damage", ["cut", "empty", "record"])
def test_damaged_tables_are_told(damage: str, tmp_path: Path) -> None:
    folder = dsprof.analyze(made(tmp_path / "one.sqlite")).write()
    if damage == "record":
        (folder / "analysis.json").write_text("{}")
    else:
        (folder / "stage_trace.parquet").write_bytes(b"" if damage == "empty" else b"PAR1 and no more")
    with pytest.raises(TablesUnreadable, match=r"The tables in .* cannot be read"):
        recording_in(folder)


def test_nothing_on_a_side_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "one.sqlite")
    (tmp_path / "empty").mkdir()
    for nothing in ("nix", "nix*.sqlite", "empty", "a" * 5_000, "[", "\0", ""):
        with pytest.raises(NothingToCompare):
            dsprof.diff(nothing, "one.sqlite")
    with pytest.raises(NothingToCompare, match="empty"):
        dsprof.diff([], "one.sqlite")
    assert NothingToCompare.exit_code == 54
    for words in (("one.sqlite",), ("one.sqlite", "--"), ("--", "one.sqlite"), ("one.sqlite",) * 3):
        done = run("diff", *words)
        assert isinstance(done.exception, NothingToCompare) if "--" in words else done.exit_code == 2, words


def test_patterns_sessions_and_folders_are_several_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        session = tmp_path / "sessions" / f"s{number}"
        session.mkdir(parents=True)
        made(session / "run.sqlite", slow=(number,))
        (session / "session.json").write_text('{"schema": "dsprof.session/1", "reports": ["run.nsys-rep"]}')
    named = [one.name for one in runs_of(["sessions"])]
    assert named == ["s0", "s1", "s2"]
    assert [one.name for one in runs_of(["sessions/s[01]"])] == ["s0", "s1"]
    assert [one.name for one in runs_of(["sessions/*/run.sqlite"])] == named
    outcome = dsprof.diff("sessions/s[01]", ["sessions/s2", "sessions/s1"]).outcome
    assert outcome.stages[0].over == "run"


# -- the command and its forms ---------------------------------------------------------------------------------


def test_options_may_stand_on_both_sides_and_the_exit_code_is_that_of_the_gates(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "one.sqlite")
    made(tmp_path / "two.sqlite", slow=(400,))
    for words, code in (
        (("one.sqlite", "--", "two.sqlite"), 0),
        (("one.sqlite", "--", "two.sqlite", "--gate", "decode.gpu_busy<1%"), 1),
        (("--gate", "decode.gpu_busy<50%", "one.sqlite", "two.sqlite"), 0),
        (("--gate=decode.wall<5%", "one.sqlite", "--", "two.sqlite"), 3),
    ):
        assert run("diff", *words).exit_code == code, words
    Path("dsprof.toml").write_text('gates = ["decode.gpu_busy<1%"]')
    assert run("diff", "one.sqlite", "two.sqlite").exit_code == 1
    assert run("diff", "one.sqlite", "two.sqlite", "--rules", "none").exit_code == 0


HOSTILE = "<img src=x onerror=alert(1)>|`@someone`\x1b[2J\u202e"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("hostile")
    return sides(folder, {}, {"names": ("gemm_a<1>", HOSTILE, "softmax"), "sync": True}, gates=["default"])


def test_markdown_shows_names_and_obeys_none(hostile):
    markdown = plain.diff_markdown(hostile)
    assert "\\<img src=x" in markdown
    assert "\x1b" not in markdown
    assert "@someone" not in markdown
    assert markdown.startswith("### dsprof diff: ")


@pytest.mark.parametrize("width", [60, 80, 160])
def test_a_terminal_of_any_width_shows_every_number_and_no_line_is_longer(width, hostile):
    out = Console(width=width, file=io.StringIO(), force_terminal=False, highlight=False)
    terminal.print_diff(hostile, out, 5)
    assert isinstance(out.file, io.StringIO)
    text = out.file.getvalue()
    assert max(map(cell_len, text.splitlines())) <= width
    assert "\x1b" not in text
    words = " ".join(text.split())
    for grid in [answer(hostile), *grids(hostile)]:
        for cell in (cell for row in grid.rows for cell in row[grid.names :]):
            assert cell in words


def test_json_holds_all_and_no_number_that_is_none(hostile):
    found = json.loads(plain.diff_json(hostile), parse_constant=lambda word: pytest.fail(word))
    assert found["schema"] == "dsprof.diff/1"
    assert found == json.loads(json.dumps(document(hostile)))
    stage = next(one for one in found["stages"] if one["stage"] == "decode")
    assert sum(part["change_ns"] for part in stage["waterfall"]) == pytest.approx(
        stage["measures"][1]["after_ns"] - stage["measures"][1]["before_ns"], abs=1.1
    )


def test_tables_of_a_comparison_say_the_same(tmp_path):
    one, two = made(tmp_path / "one.sqlite"), made(tmp_path / "two.sqlite", slow=(400, 404))
    found = dsprof.diff(one, two, gates=["default"])
    assert repr(found) == "<dsprof.Comparison of prefill, decode: regression>"
    assert set(found) == {
        "stages", "percentiles", "waterfall", "counts", "operations", "calls", "modules", "reasons", "gates"
    }  # fmt: skip
    stages = found["stages"].set_index(["stage", "measure"])
    assert stages.loc[("decode", "gpu_busy"), "verdict"] == SLOWER
    assert stages.loc[("decode", "gpu_busy"), "before_ns"] == 16_000
    fall = found["waterfall"].query("stage == 'decode'")
    assert fall["change_ns"].sum() == fall["after_ns"].sum() - fall["before_ns"].sum()
    assert dict(zip(found["gates"]["gate"], found["gates"]["result"], strict=True)) == {
        "prefill.gpu_busy<1%": PASSED, "decode.gpu_busy<1%": REGRESSION, "prefill.wall<5%": TOO_NOISY,
        "decode.wall<5%": TOO_NOISY,
    }  # fmt: skip
    assert found["operations"].query("stage == 'decode'")["verdict"].eq(SLOWER).all()
    assert "one" in found._repr_html_()
    with pytest.raises(UnknownTable):
        found.arrow("kern_sum")
    same = dsprof.diff(one, one)
    assert list(same["waterfall"]["change_ns"].unique()) == [0]
    assert len(same["calls"]) == 0


def test_of_one_request_a_side_no_noise_is_known(tmp_path):
    outcome = sides(tmp_path, {"requests": 1}, {"requests": 1, "slow": (4_000,)}, gates=["decode.gpu_busy<1%"])
    busy = stage_of(outcome).measure("gpu_busy")
    assert (busy.verdict, busy.seen) == (NOISY, None)
    assert busy.change is not None
    assert busy.change.pct == pytest.approx(100)
    assert outcome.gates[0].result == TOO_NOISY
    assert "no noise is known" in outcome.gates[0].sentence
    assert "no noise is known" in plain.diff_markdown(outcome)


def test_a_report_in_parts_and_an_analysis_in_memory_say_the_same(tmp_path):
    one, two = made(tmp_path / "one.sqlite"), made(tmp_path / "two.sqlite", slow=(400, 404), sync=True)
    whole = dsprof.diff(one, two).outcome
    parts = [
        Analysis.of(ReportInParts(Input(path), 5, details=True, progress=lambda said: None, at_once=1), path=path)
        for path in (one, two)
    ]
    assert same_outcome(whole, dsprof.diff(*parts).outcome)
    assert same_outcome(whole, dsprof.diff([dsprof.analyze(one)], dsprof.analyze(two)).outcome)


def test_one_stage_refused_leaves_the_others_and_says_so(tmp_path):
    outcome = compare([sample("h100-llama-1-eager")], [sample("h100-graph-layers")])
    assert refusals(outcome) == ["ranges"]
    assert [one.stage for one in outcome.stages] == ["decode"]
    assert (outcome.verdict, outcome.exit_code) == ("compared in part", 3)
    gated = compare([sample("h100-llama-1-eager")], [sample("h100-graph-layers")], gates_of(["decode.wall<5%"]))
    assert gated.exit_code == 3  # 16 steps of one request: no noise is known


@pytest.mark.parametrize("first", [None, 100])
def test_steps_on_one_side_alone_or_of_other_numbers_cannot_be_forced(first: int | None, tmp_path: Path) -> None:
    report = TraceBuilder().gpu().range("decode", 0, 1_000, payload=2)
    for number in range(2):
        report.kernel("k", at=(10 + 400 * number, 20 + 400 * number), call=(1 + 400 * number, 2 + 400 * number))
        if first is not None:
            report.range("decode.step", 400 * number, 400 * number + 390, payload=first + number)
    one, two = made(tmp_path / "one.sqlite"), report.write(tmp_path / "two.sqlite")
    for force in (False, True):
        outcome = dsprof.diff(one, two, force=force).outcome
        said = [reason.sentence for reason in outcome.reasons if reason.stage == "decode" and reason.level == REFUSE]
        assert "decode" not in {stage.stage for stage in outcome.stages}
        assert said == [
            "decode: some recordings have ranges of its steps, and others have none." if first is None
            else "decode: a run before has no steady step that the others have, too."
        ]  # fmt: skip


def test_reports_without_a_stage_have_nothing_in_common(tmp_path):
    for name in ("one", "two"):
        TraceBuilder().gpu().kernel("k", at=(10, 20), call=(1, 2)).write(tmp_path / f"{name}.sqlite")
    outcome = dsprof.diff(tmp_path / "one.sqlite", tmp_path / "two.sqlite").outcome
    assert outcome.exit_code == 3
    assert outcome.reasons[-1].sentence == "The sides have no stage in common: none before, none after."
    assert plain.diff_markdown(outcome)
    assert dsprof.Comparison(outcome).page()


@pytest.mark.parametrize("column", ["stage", "instance", "wall_ns"])
def test_tables_of_somebody_else_are_no_side(column: str, tmp_path: Path) -> None:
    folder = dsprof.analyze(made(tmp_path / "one.sqlite")).write()
    table = pq.read_table(folder / "step_trace.parquet")
    for other in (table.drop_columns([column]), table.set_column(
        table.schema.get_field_index(column), column, pa.array([1.5] * len(table)))):  # fmt: skip
        pq.write_table(other, folder / "step_trace.parquet")
        with pytest.raises(TablesUnreadable, match="step_trace has no"):
            recording_in(folder)


def test_a_comparison_of_stored_tables_is_quick_and_loads_no_pandas(tmp_path):
    """Two reports of 16 210 and 83 814 kernels, analyzed before, in another process."""
    for name in ("h200-stages", "h200-layers"):
        dsprof.analyze(SAMPLES / f"{name}.sqlite.xz").write(tmp_path / f"{name}.dsprof")
    code = (
        "import sys, time\nfrom dsprof.cli import main\n"
        "try: main()\nexcept SystemExit as ended: assert ended.code == 0, ended\n"
        "assert 'pandas' not in sys.modules\nprint(time.process_time())"
    )
    words = [sys.executable, "-c", code, "diff", "h200-stages.dsprof", "h200-layers.dsprof", "--force"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 2


def test_what_a_comparison_takes_is_measured(tmp_path):
    found = compared.took(tmp_path, 2_000)
    assert 0 < found.cpu_s < 2


def test_default_gates_are_those_that_are_documented():
    assert gates_of(["default"]) == tuple(Gate("", measure, pct) for measure, pct in DEFAULTS.items())
    assert DEFAULTS == {"gpu_busy": 1.0, "wall": 5.0}


def test_columns_that_split_the_busy_time_are_taken_where_both_sides_have_them(tmp_path):
    """Tables of several ranks will say what is compute, transfer and waiting; the parts add up with them as without."""
    from dsprof.compare.units import matched

    run_ = runs_of([made(tmp_path / "one.sqlite")])[0]
    units = units_of(run_)["decode"]
    busy = units.column("gpu_busy_ns")
    wait = busy // 4
    columns = {**units.columns, "compute_ns": busy - wait, "transfer_ns": wait - wait, "wait_ns": wait,
               "unmatched_ns": wait - wait, "other_ns": wait - wait}  # fmt: skip
    told = evolve(units, columns=columns)
    parts = {part.name: part.before_ns for part in waterfall(matched([told], [told]))}
    assert parts["waiting for another rank"] == 4_000
    assert sum(parts.values()) == sum(part.before_ns for part in waterfall(matched([units], [units])))
    assert matched([told], [told]).before[0].mean("gpu_busy_ns") == units.mean("gpu_busy_ns") - 4_000
    older = evolve(units, columns={name: values for name, values in units.columns.items() if name != "wait_ns"})
    mixed = {part.name for part in waterfall(matched([told], [older]))}
    assert "waiting for another rank" not in mixed


def test_reports_of_two_recorded_ranks_are_matched_as_one_run():
    """Compute, transfer and waiting are told of both, as in the tables of both together."""
    samples = {kind: [SAMPLES / f"h100x2-{kind}-rank{rank}.sqlite.xz" for rank in range(2)] for kind in ("even", "gpu")}
    found = dsprof.diff(samples["even"], samples["gpu"], force=True)
    (decode,) = (one for one in found.outcome.stages if one.stage == "decode")
    parts = {part.name: part.after_ns for part in decode.waterfall}
    ranks = Ranks.of(dsprof.analyze(path) for path in samples["gpu"])
    steps = sum(len(one["step_trace"]["transfer_ns"]) for one in ranks.busy)
    assert steps > 0
    assert parts["transfer between ranks"] > 0
    assert parts["waiting for another rank"] > 1_000_000
    assert "communication" not in parts
    assert parts["gemm"] > 10 * {part.name: part.before_ns for part in decode.waterfall}["gemm"]
