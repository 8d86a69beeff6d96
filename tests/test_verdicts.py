"""Verdicts follow from the numbers, and are not given where the numbers do not say."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dsprof.accounting import CAUSES
from dsprof.verdicts import judge
from test_samples import sample  # noqa: F401  a fixture

MS = 1_000_000


def instance(wall, busy, tokens=10, kernels=500, launches=500, steady=True, **idle):
    """A row of stage_trace whose parts add up: what is not named is the host's."""
    named = {cause: idle.get(cause, 0) for cause in CAUSES}
    named["host"] = wall - busy - sum(named.values()) + named["host"]
    columns = {f"idle_{cause}_ns": value * MS for cause, value in named.items()}
    return {"wall_ns": wall * MS, "gpu_busy_ns": busy * MS, "kernels": kernels, "launches": launches,
            "kernel_total_ns": busy * MS, "tokens": tokens, "steady": steady, **columns}  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        ([instance(100, 80)], "GPU-bound"),
        ([instance(100, 75, sync=25)], "GPU-bound"),
        ([instance(100, 10, launch=40)], "launch-bound"),
        ([instance(100, 10, alloc=60)], "launch-bound"),
        ([instance(100, 10, sync=60)], "sync-bound"),
        ([instance(100, 10, copy=60)], "copy-bound"),
        ([instance(100, 10, latency=60)], "latency-bound"),
        ([instance(100, 10, other_work=60)], "shared GPU"),
        ([instance(100, 10, sync=45)], None),  # half and half
        ([instance(100, 70)], None),  # neither busy nor idle
        ([instance(100, 0, kernels=0, launches=0)], None),  # no GPU
    ],
)
def test_a_verdict_needs_the_better_part_of_the_time(rows, kind):
    verdict = judge("decode", pa.Table.from_pylist(rows))
    assert (verdict.kind if verdict else None) == kind


def test_a_warm_up_is_left_out_and_told():
    slow, good = instance(300, 30, sync=260, steady=False), instance(100, 80)
    verdict = judge("decode", pa.Table.from_pylist([slow, good, good]))
    assert (verdict.kind, verdict.instances, verdict.warm_up) == ("GPU-bound", 2, 1)
    assert (verdict.wall_ns, verdict.gpu_busy_ns) == (200 * MS, 160 * MS)


def test_the_numbers_of_a_launch_bound_decode():
    verdict = judge("decode", pa.Table.from_pylist([instance(100, 10, launch=30)]))
    assert verdict.launches_per_token == 50
    assert (verdict.token_us, verdict.limit_us, verdict.kernel_mean_us) == (10_000, 1_000, 20)
    assert verdict.sentence == (
        "decode is launch-bound: the GPU is busy 10 % of the time; 60 % goes to the host outside of CUDA, 30 % to "
        "launch calls. A token takes 50 launches of kernels of 20.0 us, and 10.0 ms; it would take 1.0 ms if the host "
        "cost nothing."
    )
    assert sum(verdict.idle_ns.values()) == verdict.wall_ns - verdict.gpu_busy_ns


def test_a_prefill_is_not_told_by_the_token():
    assert "A token" not in judge("prefill", pa.Table.from_pylist([instance(100, 10, tokens=1020)])).sentence


def test_the_h200_decode_is_launch_bound_and_graphs_mend_that(sample):  # noqa: F811
    def verdict(name):
        rows = sample(name).arrow("stage_trace").to_pylist()
        return judge("decode", pa.Table.from_pylist([row for row in rows if row["stage"] == "decode"]))

    eager, graphs = verdict("stages"), verdict("graphs-node")
    assert (eager.kind, graphs.kind) == ("launch-bound", "GPU-bound")
    assert eager.launches_per_token == 738
    assert graphs.launches_per_token == 1.5  # a replay, and every second step a kernel of its own
    assert (graphs.instances, graphs.warm_up) == (1, 1)
