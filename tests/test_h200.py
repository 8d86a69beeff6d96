"""What the H200 report of the true architecture says when it is read right (``traces/samples``)."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dsprof.analysis.analyze import Analysis, analyze

PACKED = Path(__file__).resolve().parents[1] / "traces" / "samples" / "h200-dsocr2-layers.sqlite.xz"
SECOND_REQUEST = 1  # the first one holds the warm-up of the libraries
MS = 1e6


@pytest.fixture(scope="module")
def analysis(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    if not PACKED.is_file():
        pytest.skip(f"{PACKED.name} is not in this copy of the repository")
    target = tmp_path_factory.mktemp("h200") / PACKED.stem
    with lzma.open(PACKED) as source, target.open("wb") as unpacked:
        shutil.copyfileobj(source, unpacked)
    return analyze(target)


def stage(analysis: Analysis, name: str) -> pd.Series:
    """The row of the second request's `name` in stage_trace."""
    table = analysis["stage_trace"]
    chosen = table[(table.stage == name) & (table.instance == SECOND_REQUEST)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def test_decode_leaves_the_gpu_idle(analysis: Analysis) -> None:
    decode = stage(analysis, "decode")
    assert round(decode.duration_ns / MS, 1) == 1314.5
    assert round(decode.gpu_busy_ns / MS, 1) == 130.6
    assert round(decode.busy_pct, 1) == 9.9
    assert (decode.kernels, decode.tokens) == (46872, 63)
    assert decode.gpu_busy_ns + decode.gpu_idle_ns == decode.wall_ns


def test_prefill_is_busy_for_less_than_half(analysis: Analysis) -> None:
    prefill = stage(analysis, "prefill")
    assert round(prefill.duration_ns / MS, 1) == 123.5
    assert round(prefill.gpu_busy_ns / MS, 1) == 50.9
    assert prefill.tokens == 1020


def test_every_step_of_the_decode_has_its_kernels(analysis: Analysis) -> None:
    """63 steps, numbered without a gap, that share out the kernels of the decode."""
    kernels = analysis["kern_trace"]
    chosen = kernels[(kernels.stage == "decode") & (kernels.stage_instance == SECOND_REQUEST)]
    per_step = chosen.groupby("step").size()
    first = int(per_step.index.min())
    assert per_step.index.tolist() == list(range(first, first + 63))
    assert per_step.sum() == 46872
    assert per_step.min() > 0


def test_the_summary_says_the_same(analysis: Analysis) -> None:
    lines = {(line.stage, line.instance): line for line in analysis.summary().instances}
    assert set(lines) == {("prefill", 0), ("decode", 0), ("prefill", 1), ("decode", 1)}
    decode, prefill = lines["decode", SECOND_REQUEST], lines["prefill", SECOND_REQUEST]
    assert (round(decode.duration_ns / MS, 1), round(decode.gpu_busy_ns / MS, 1)) == (1314.5, 130.6)
    assert (round(decode.busy_pct, 1), decode.kernels, decode.tokens) == (9.9, 46872, 63)
    assert (round(prefill.duration_ns / MS, 1), round(prefill.gpu_busy_ns / MS, 1)) == (123.5, 50.9)
    # Warmed up, the prefill of the second request is the faster one.
    assert lines["prefill", 0].duration_ns > prefill.duration_ns


def test_nothing_is_lost_and_everything_is_said_once(analysis: Analysis) -> None:
    summary = analysis.summary()
    counts = summary.counts
    assert (counts.kernels, counts.api_calls, counts.ranges) == (108757, 244382, 2156)
    assert sum(line.kernels_total for line in summary.stages) == 108757
    assert analysis["kern_sum"].instances.sum() == 108757
    assert summary.coverage.thread + summary.coverage.process + summary.coverage.none == 108757
