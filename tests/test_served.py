"""Serving loops recorded on a GPU say what the scheduler itself counted, to the token; see traces/README.md."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path

import pytest
from rich.console import Console

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.nsys.parts import ReportInParts
from dsprof.show.terminal import print_summary
from dsprof.tables import all_tables
from test_parts import assert_same
from test_render import fits

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
SERVED = json.loads((SAMPLES / "served.json").read_text())
COUNTS = ("context_requests", "context_tokens", "generation_requests", "generation_tokens")


@pytest.fixture(scope="module", params=SERVED)
def served(request, tmp_path_factory):
    """A recorded loop, and the scheduler's own counts of it."""
    export = tmp_path_factory.mktemp("served") / f"{request.param}.sqlite"
    export.write_bytes(lzma.decompress((SAMPLES / f"{export.name}.xz").read_bytes()))
    return dsprof.analyze(export), SERVED[request.param]


def test_it_is_a_mixed_run_that_is_known_without_an_option(served):
    analysis, counted = served
    assert [(one.engine, one.alike) for one in analysis.summary().workers] == [("transformers", 1)]
    modes = analysis["step_trace"].dropna(subset=["engine"])["mode"].value_counts()
    assert set(modes.index) == {"prefill", "decode", "mixed"}
    assert modes["mixed"] > 20
    assert counted["totals"]["requests"] == counted["totals"]["finished"] == 24


def test_sums_of_steps_requests_and_tokens_are_the_schedulers(served):
    analysis, counted = served
    (whole,) = analysis["engine_sum"].query("mode.isna()").to_dict("records")
    assert {count: whole[count] for count in ("steps", *COUNTS)} == {
        count: counted["totals"][count] for count in ("steps", *COUNTS)
    }
    by_mode = analysis["engine_sum"].query("mode.notna()")
    for count in ("steps", *COUNTS, "kernels", "kernel_total_ns", "gpu_busy_ns"):
        assert by_mode[count].sum() == whole[count]
    assert whole["max_requests"] == max(
        step["context_requests"] + step["generation_requests"] for step in counted["steps"]
    )


def test_each_step_is_the_schedulers(served):
    analysis, counted = served
    steps = analysis["step_trace"].dropna(subset=["engine"])
    columns = [column.replace("context_tokens", "context_tokens_in_step") for column in COUNTS]
    assert steps[columns].to_numpy(int).tolist() == [[step[count] for count in COUNTS] for step in counted["steps"]]
    assert steps["step"].tolist() == list(range(1, len(counted["steps"]) + 1))


def test_output_tokens_are_those_of_the_requests_but_for_the_first_of_each(served):
    analysis, counted = served
    whole = analysis["engine_sum"].query("mode.isna()").iloc[0]
    new = sum(request["new_tokens"] for request in counted["requests"])
    assert whole["generation_requests"] + len(counted["requests"]) == new == counted["totals"]["new_tokens"]
    assert whole["output_tokens_per_s"] == pytest.approx(whole["generation_requests"] * 1e9 / whole["active_ns"])


def test_times_are_those_that_the_loop_took_itself(served):
    """The loop's own clock, around the same part of its code, within what pushing a range takes."""
    analysis, counted = served
    steps = analysis["step_trace"].dropna(subset=["engine"])
    own = [step["duration_ns"] for step in counted["steps"]]
    assert steps["in_range_ns"].to_numpy(float) == pytest.approx(own, rel=0.02, abs=500_000)


def test_every_table_holds_all_kernels_and_every_window_adds_up(served):
    analysis, _ = served
    assert not [found for found in analysis.findings if found.strict_exit]
    whole = (len(analysis["kern_trace"]), analysis["kern_trace"]["duration_ns"].sum())
    for table in ("kern_sum", "stage_kern_sum", "stage_family_sum"):
        assert (analysis[table]["instances"].sum(), analysis[table]["total_ns"].sum()) == whole
    for table in ("stage_trace", "step_trace"):
        rows = analysis[table]
        rows = rows[rows["wall_ns"].notna()]
        parts = rows[[column for column in rows if column.startswith("idle_")]].sum(axis=1) + rows["gpu_busy_ns"]
        assert (parts == rows["wall_ns"]).all()
    steps = analysis["step_trace"].dropna(subset=["interval_ns"])
    spent = steps["in_range_ns"] + steps["after_range_ns"]
    assert (spent == steps["duration_ns"]).all()
    assert (spent + steps["between_ns"] <= steps["interval_ns"]).all()


def test_in_parts_it_says_the_same(served):
    analysis, _ = served
    export = analysis.path
    whole, parted = (Analysis.of(ReportInParts(export, parts), None, export) for parts in (1, 4))
    assert_same(whole, parted)
    assert len(all_tables()) == len(list(parted))


def test_its_first_screen_is_short_and_whole(served):
    analysis, _ = served
    text = io.StringIO()
    print_summary(analysis.summary(), Console(file=text, width=100))
    assert len(text.getvalue().splitlines()) + 1 <= 45
    for width in (60, 80, 120):
        fits(analysis.summary(), width)
