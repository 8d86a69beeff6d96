"""Verdicts follow from the numbers, and are not given where the numbers do not say."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

import dsprof
from dsprof.answers import verdicts
from dsprof.answers.verdicts import Culprit, judge
from dsprof.measures.causes import CAUSES
from dsprof.show.layout import grids
from dsprof.show.layout import verdicts as shown_verdicts
from dsprof.show.terminal import print_summary
from test_samples import sample  # noqa: F401  a fixture

MS = 1_000_000
SAMPLES = Path(__file__).parents[1] / "traces" / "samples"


def instance(wall, busy, steps=10, kernels=500, launches=500, steady=True, graph_launches=0, copies=0, batch=1,
             wait=0, transfer=0, unmatched=0, **idle):  # fmt: skip
    """A row of stage_trace whose parts add up: what is not named is the host's."""
    named = {cause: idle.get(cause, 0) for cause in CAUSES}
    named["host"] = wall - busy - sum(named.values()) + named["host"]
    columns = {f"idle_{cause}_ns": value * MS for cause, value in named.items()}
    return {"wall_ns": wall * MS, "gpu_busy_ns": busy * MS, "kernels": kernels, "launches": launches,
            "kernel_total_ns": busy * MS, "steps": steps, "tokens": steps * (batch or 1), "batch": batch,
            "steady": steady, "graph_launches": graph_launches, "memcpy_ns": copies * MS,
            "off_cpu_ns": None, "wait_ns": wait * MS, "transfer_ns": transfer * MS,
            "unmatched_ns": unmatched * MS, **columns}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (instance(100, 80), "GPU-bound"),
        (instance(100, 75, sync=25), "GPU-bound"),
        (instance(100, 10, launch=60), "launch-bound"),
        (instance(100, 10, launch=20, launches=1800), "launch-bound"),  # 70 ms of the host, 39 us for each launch
        (instance(100, 10, launch=20, launches=1000), "host-bound"),  # 70 us for each launch
        (instance(100, 10, load=60), "cold start"),
        (instance(100, 10, alloc=60), "allocation-bound"),
        (instance(100, 10, sync=60), "sync-bound"),
        (instance(100, 10, copy=30, pageable=30), "copy-bound"),
        (instance(100, 80, copies=70), "copy-bound"),  # the GPU is busy, and not with kernels
        (instance(100, 30, copies=25, launch=40, pageable=20), "mixed"),
        (instance(100, 10, latency=60), "latency-bound"),
        (instance(100, 10, latency=60, graph_launches=8), "graph-bound"),
        (instance(100, 10, queued=60), "queue-bound"),
        (instance(100, 10, other_work=60), "shared GPU"),
        (instance(100, 10, profiler=60), "profiler-bound"),
        (instance(100, 10, sync=45), "mixed"),  # half and half
        (instance(100, 70), "mixed"),  # neither busy nor idle
        (instance(100, 80, transfer=50), "communication-bound"),
        (instance(100, 80, transfer=40), "GPU-bound"),  # half of it is computed
        (instance(100, 70, unmatched=60), "communication-bound"),
        (instance(100, 90, wait=30), "mixed"),  # for whom is not known
    ],
)
def test_a_verdict_is_what_has_the_better_part_of_the_time(row, kind):
    verdict = judge("decode", pa.Table.from_pylist([row]))
    assert verdict.kind == kind
    assert verdict.sentence.startswith(f"decode is {kind}: the GPU is busy {_worked(row)} % of the time; ")
    assert verdict.remedy


def _worked(row):
    return (row["gpu_busy_ns"] - row["wait_ns"]) // MS


def test_each_kind_is_given_for_some_numbers():
    """Those that say which rank is late are given in `test_ranks_busy`."""
    kinds = {kind for _, kind in test_a_verdict_is_what_has_the_better_part_of_the_time.pytestmark[0].args[1]}
    kinds |= {verdicts.STRAGGLER, verdicts.IMBALANCE}
    every = {*verdicts.KINDS, *verdicts.OF_RANKS, verdicts.GPU, verdicts.GRAPH, verdicts.MIXED}
    assert kinds == every == set(verdicts._REMEDIES)


def test_no_advice_on_graphs_where_kernels_are_loaded():
    assert "graph" not in judge("decode", pa.Table.from_pylist([instance(100, 10, load=60)])).remedy


def test_a_stage_without_kernels_has_no_verdict():
    assert judge("decode", pa.Table.from_pylist([instance(100, 0, kernels=0, launches=0)])) is None


def test_no_advice_on_graphs_where_graphs_are_launched():
    few = instance(100, 10, steps=10, launches=20, launch=70, graph_launches=10)
    assert judge("decode", pa.Table.from_pylist([few])).remedy == verdicts._IN_GRAPHS
    many = instance(100, 10, steps=10, launches=2000, launch=70, graph_launches=10)
    assert judge("decode", pa.Table.from_pylist([many])).remedy == verdicts._REMEDIES[verdicts.LAUNCH]


def test_what_a_gpu_copies_is_told():
    verdict = judge("decode", pa.Table.from_pylist([instance(100, 80, copies=70)]))
    assert verdict.sentence.endswith(" The GPU copies for 70 %.")


def test_what_takes_most_of_a_busy_gpu_is_named():
    verdict = judge("decode", pa.Table.from_pylist([instance(100, 80)]), None, Culprit("gemm", 61.2, "nvjet", 23.4))
    assert verdict.sentence.endswith(" gemm kernels take 61 % of that, nvjet 23 %.")


@pytest.mark.parametrize("name", sorted(path.name.partition(".")[0] for path in SAMPLES.glob("*.sqlite.xz")))
def test_a_sentence_and_a_row_say_the_same_of_a_stage(name):
    """Both are over the steady instances."""
    summary = dsprof.analyze(SAMPLES / f"{name}.sqlite.xz", reuse=False).summary()
    shown = io.StringIO()
    print_summary(summary, Console(file=shown, width=200))
    title = f"{summary.workers[0].engine} steps" if summary.workers else "Stages"
    (stages,) = [grid for grid in grids(summary) if grid.title == title]
    rows = {row[0]: dict(zip(stages.header, row, strict=True)) for row in stages.rows}
    count = "steps" if summary.workers else "n"
    judged = {stage for stage, row in rows.items() if row[count] not in "-0" and "warm-up" not in stage}
    assert {verdict.stage for verdict in summary.verdicts} == judged
    for verdict in shown_verdicts(summary):
        said = re.search(r"the GPU is busy (\d+) % of the time", verdict.sentence)
        busy = float(rows[verdict.stage]["busy"].removesuffix(" %"))
        assert abs(int(said[1]) - busy) <= 0.5
        assert verdict.sentence in " ".join(shown.getvalue().split())
        steady = [line for line in summary.stages if line.stage == verdict.stage and not line.warm_up]
        working = [line.busy_pct if line.work_pct is None else line.work_pct for line in steady]
        assert working == [pytest.approx(verdict.busy_pct)]
        warm = [line.instances for line in summary.stages if line.stage == verdict.stage and line.warm_up]
        assert sum(warm) == verdict.warm_up


def test_a_warm_up_is_left_out_and_told():
    slow, good = instance(300, 30, sync=260, steady=False), instance(100, 80)
    verdict = judge("decode", pa.Table.from_pylist([slow, good, good]))
    assert (verdict.kind, verdict.instances, verdict.warm_up) == ("GPU-bound", 2, 1)
    assert (verdict.wall_ns, verdict.gpu_busy_ns) == (200 * MS, 160 * MS)


def test_the_numbers_of_a_launch_bound_decode():
    verdict = judge("decode", pa.Table.from_pylist([instance(100, 10, launch=70)]))
    assert verdict.launches_per_step == 50
    assert (verdict.step_us, verdict.limit_us, verdict.kernel_mean_us) == (10_000, 1_000, 20)
    assert verdict.sentence == (
        "decode is launch-bound: the GPU is busy 10 % of the time; 70 % goes to launch calls, 20 % to the host "
        "outside of CUDA. A token takes 50 launches of kernels of 20.0 us, and 10.0 ms, of which the GPU works 1.0 ms."
    )
    assert sum(verdict.idle_ns.values()) == verdict.wall_ns - verdict.gpu_busy_ns


def test_a_prefill_is_not_told_by_the_token():
    prefill = {**instance(100, 10, launch=70), "steps": None, "tokens": 1020}
    verdict = judge("prefill", pa.Table.from_pylist([prefill], pa.schema([
        (name, pa.bool_() if name == "steady" else pa.int64()) for name in prefill])))  # fmt: skip
    assert "A token" not in verdict.sentence and "A step" not in verdict.sentence
    assert (verdict.step_us, verdict.tokens_per_step) == (None, None)


def test_the_h200_decode_is_launch_bound_and_graphs_mend_that(sample):  # noqa: F811
    def verdict(name):
        rows = sample(name).arrow("stage_trace").to_pylist()
        return judge("decode", pa.Table.from_pylist([row for row in rows if row["stage"] == "decode"]))

    eager, graphs = verdict("stages"), verdict("graphs-node")
    assert (eager.kind, graphs.kind) == ("launch-bound", "GPU-bound")
    assert eager.launches_per_step == 738
    assert graphs.launches_per_step == 1.5  # a replay, and every second step a kernel of its own
    assert (graphs.instances, graphs.warm_up) == (1, 1)
