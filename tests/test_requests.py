"""Requests, warm-up, outliers and the host's time by call, against the slow reference; and that nothing is lost."""

from __future__ import annotations

import dataclasses
import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import slow_reference as slow
from dsprof.answers.steps import outliers
from dsprof.answers.warm_up import times_the_usual
from dsprof.arrays.statistics import percentiles, slopes
from dsprof.rules.names import api_name
from dsprof.words import NO_STAGE, OUTSIDE_CUDA
from slow_reference import KERNEL, PUSH_POP, START_END, Call, Op, Range, Recording
from test_properties import (
    LANES,
    LAUNCH,
    MAIN,
    SYNC,
    analysis_of,
    assert_rows,
    few,
    keyed,
    modes,
    range_id,
    recordings,
    renamed,
    rows_of,
    some,
    staged_of,
    whole_stages,
)

METRICS = ("duration_ns", "gpu_busy_ns", "launches", "kernels")
duration = st.integers(0, 40) | st.sampled_from([10, 10, 10, 12, 13, 100, 10**12])


# -- the rules, on plain series ---------------------------------------------------------------------------


@some
@given(st.lists(st.tuples(st.integers(-1, 2), duration), max_size=12))
def test_how_many_times_the_usual(drawn):
    groups, costs = (np.array(column, np.int64) for column in (zip(*drawn, strict=True) if drawn else ((), ())))
    found = times_the_usual(groups, costs.astype(np.float64))
    for row, (group, cost) in enumerate(drawn):
        peers = [other for one, other in drawn if one == group]
        assert found[row] == (slow.times_the_usual(cost, peers) if group >= 0 else 0)


@some
@given(st.lists(st.tuples(st.integers(0, 2), duration, st.booleans()), max_size=25))
def test_outliers_are_told_among_the_steady_of_their_group(drawn):
    group, values, considered = (np.array(column, kind) for column, kind in zip(
        zip(*drawn, strict=True) if drawn else ([], [], []), (np.int64, np.int64, np.bool_), strict=True))  # fmt: skip
    far, ratio = outliers(group, values, considered)
    for row, (one, value, steady) in enumerate(drawn):
        peers = [peer for other, peer, kept in drawn if kept and other == one]
        assert far[row] == (steady and slow.is_outlier(value, peers))
        if peers and statistics.median(peers):
            assert ratio[row] == value / statistics.median(peers)
        else:
            assert math.isnan(ratio[row])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([100, 101, 99, 100, 102, 150], [5]),
        ([100, 101, 99, 100, 102, 110], []),  # far in deviations, and a trifle
        ([100, 140, 70, 120, 90, 150], []),  # as far as others
        ([100, 100, 100, 121], [3]),  # no deviation at all
        ([100, 100, 100, 120], []),
        ([100, 101, 99, 100, 102, 10], []),  # a fast one is none
        ([10, 1000], []), ([10], []),
        ([0, 0, 0, 5], []), ([0, 0, 5], []), ([0, 2, 900], [2]),  # no multiple of nothing
    ],
)  # fmt: skip
def test_what_an_outlier_is(values, expected):
    far, _ = outliers(np.zeros(len(values), np.int64), np.array(values), np.ones(len(values), np.bool_))
    assert np.flatnonzero(far).tolist() == expected


@some
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-50, 10**12)), max_size=30))
def test_percentiles_are_interpolated_by_rank(drawn):
    group, values = np.array(drawn, np.int64).reshape(-1, 2).T
    found = percentiles(group, values, 4, (0, 50, 90, 99, 100))
    for one in range(4):
        mine = [value for other, value in drawn if other == one]
        for percent, column in zip((0, 50, 90, 99, 100), found, strict=True):
            expected = np.percentile(mine, percent) if mine else math.nan
            assert column[one] == pytest.approx(expected, nan_ok=True)


@some
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 9), st.integers(0, 1000)), max_size=20))
def test_a_slope_is_that_of_least_squares_with_an_intercept_for_each_part(drawn):
    group, part, x, y = np.array(drawn, np.int64).reshape(-1, 4).T
    slope, error = slopes(group, part, x, y, 2)
    for one in range(2):
        mine = [row for row in drawn if row[0] == one]
        parts = sorted({row[1] for row in mine})
        varies = any(len({row[2] for row in mine if row[1] == other}) > 1 for other in parts)
        freedom = len(mine) - len(parts) - 1
        if not varies or freedom < 1:
            assert math.isnan(slope[one]) and math.isnan(error[one])
            continue
        design = np.array([[row[2], *(float(row[1] == other) for other in parts)] for row in mine])
        target = np.array([row[3] for row in mine], float)
        fitted = np.linalg.lstsq(design, target, rcond=None)[0]
        rest = ((target - design @ fitted) ** 2).sum()
        spread = np.sqrt(rest / freedom * np.linalg.inv(design.T @ design)[0, 0])
        assert slope[one] == pytest.approx(fitted[0], abs=1e-6)
        assert error[one] == pytest.approx(spread, abs=1e-6)


# -- tables against the slow reference --------------------------------------------------------------------


@modes
@some
@given(recordings())
def test_every_request_and_its_latencies(threads, rec):
    expected = renamed(staged_of(rec, threads).request_trace(), range_row="range_id")
    assert_rows(rows_of(analysis_of(rec, threads), "request_trace"), expected)


@modes
@few
@given(recordings())
def test_every_step_s_warm_up_context_and_outliers(threads, rec):
    staged = staged_of(rec, threads)
    rows = keyed([row for row in rows_of(analysis_of(rec, threads), "step_trace") if row["range_id"]], "range_id")
    for step in staged.steps:
        row = rows[(range_id(step.row),)]
        assert row["steady"] == staged.is_steady_step(step)
        assert row["outlier"] == staged.is_outlier(step)
        assert row["context_tokens"] == staged.context(step)
        assert row["excess_ns"] == (staged.excess(step) if row["outlier"] else None)
    for row, stage in zip(rows_of(analysis_of(rec, threads), "stage_trace"), staged.stages, strict=True):
        assert row["steady"] == staged.is_steady(stage)


@modes
@few
@given(recordings())
def test_the_host_s_time_by_call(threads, rec):
    """Nanosecond by nanosecond: every one of a stage counts once, for the innermost call of its thread or for none."""
    staged, analysis = staged_of(rec, threads), analysis_of(rec, threads)
    rows = keyed(rows_of(analysis, "stage_api_sum"), "stage", "api_name")
    expected: dict[tuple[str, str], dict] = {}
    for call in rec.calls:
        stage = staged.of_call(call)[0]
        key = (NO_STAGE if stage is None else stage.name, api_name(call.name))
        expected.setdefault(key, {"calls": [], "host_ns": None})["calls"].append(call.end - call.start)
    for stage in staged.stages:
        for called, spent in staged.host_time(stage).items():
            key = (stage.name, api_name(called) or OUTSIDE_CUDA)
            if spent or not called:
                row = expected.setdefault(key, {"calls": [], "host_ns": None})
                row["host_ns"] = (row["host_ns"] or 0) + spent
    assert set(rows) == set(expected)
    for key, want in expected.items():
        figures = slow.figures(want["calls"]) if want["calls"] else dict.fromkeys(
            ("instances", "total_ns", "avg_ns", "med_ns", "min_ns", "max_ns", "stddev_ns"))  # fmt: skip
        got = {column: rows[key][column] for column in figures}
        assert got == {name: pytest.approx(value) for name, value in figures.items()}, key
        assert rows[key]["host_ns"] == want["host_ns"], key


# -- nothing lost, nothing doubled ------------------------------------------------------------------------


@modes
@few
@given(recordings())
def test_requests_part_the_stages(threads, rec):
    """Every prefill and decode is in one request; stages in none and what is in no stage complete the report."""
    analysis = analysis_of(rec, threads)
    requests, stages = rows_of(analysis, "request_trace"), rows_of(analysis, "stage_trace")
    assert [row["stage"] for row in stages if row["request"] is None] == []  # of these two stages there is no other
    assert sum(row["stages"] for row in requests) == len(stages)
    outside = rows_of(analysis, "stage_sum")[-1]
    for column, rest in (("launches", "launches_total"), ("gpu_ops", "gpu_ops_total"), ("kernels", "kernels_total"),
                         ("kernel_total_ns", "kernel_total_ns"), ("memcpy_ns", "memcpy_total_ns"),
                         ("sync_ns", "sync_total_ns")):  # fmt: skip
        total = sum(row[column] for row in stages)
        assert sum(row[column] for row in requests) == total
        whole = sum(row[rest] or 0 for row in rows_of(analysis, "stage_sum"))
        assert total + outside[rest] == whole, column


@modes
@few
@given(recordings())
def test_steps_are_counted_once_for_their_instance_and_once_for_the_stage(threads, rec):
    analysis = analysis_of(rec, threads)
    steps = [row for row in rows_of(analysis, "step_trace") if row["range_id"] is not None]
    rows = rows_of(analysis, "step_sum")
    for row in rows:
        mine = [step for step in steps if step["stage"] == row["stage"]]
        if row["instance"] is None:
            below = [one for one in rows if one["stage"] == row["stage"] and one["instance"] is not None]
            assert row["steps"] + row["warm_up_steps"] == len(mine)
            if row["stage"] != NO_STAGE:
                assert sum(one["steps"] for one in below) == len(mine)
                assert sum(one["outliers"] for one in below) == row["outliers"]
            mine = [step for step in mine if step["steady"]]
        else:
            mine = [step for step in mine if step["instance"] == row["instance"]]
            assert row["warm_up_steps"] == 0
        assert row["steps"] == len(mine)
        assert mine or row["warm_up_steps"]
        assert row["outliers"] == sum(step["outlier"] for step in mine)
        for metric in METRICS:
            stem, unit = (metric.removesuffix("_ns"), "_ns") if metric.endswith("_ns") else (metric, "")
            values = [step[metric] for step in mine]
            if not values:  # the steady instances have no steps
                assert row[f"{stem}_max{unit}"] is row[f"{stem}_p50{unit}"] is row[f"{stem}_mean{unit}"] is None
                continue
            figures = slow.figures(values)
            assert row[f"{stem}_max{unit}"] == max(values)
            assert row[f"{stem}_mean{unit}"] == pytest.approx(figures["avg_ns"])
            assert row[f"{stem}_std{unit}"] == pytest.approx(figures["stddev_ns"], abs=1e-6)
            for percent in (50, 90, 99):
                assert row[f"{stem}_p{percent}{unit}"] == pytest.approx(slow.percentile(values, percent))
    assert {row["stage"] for row in rows} == {step["stage"] for step in steps}


@modes
@few
@given(recordings())
def test_the_calls_of_all_stages_are_the_report_s(threads, rec):
    analysis = analysis_of(rec, threads)
    rows = rows_of(analysis, "stage_api_sum")
    assert sum(row["instances"] or 0 for row in rows) == len(rec.calls)
    assert sum(row["total_ns"] or 0 for row in rows) == sum(call.end - call.start for call in rec.calls)
    for stage in whole_stages(analysis):
        mine = [row for row in rows if row["stage"] == stage["stage"]]
        if stage["stage"] == NO_STAGE:
            assert [row for row in mine if row["host_ns"] is not None or row["api_name"] == OUTSIDE_CUDA] == []
        else:
            assert sum(row["host_ns"] or 0 for row in mine) == (stage["duration_total_ns"] or 0)
            assert sum(row["api_name"] == OUTSIDE_CUDA for row in mine) == (stage["instances"] > 0)
        if any(row["total_ns"] for row in mine):
            assert sum(row["share_pct"] or 0 for row in mine) == pytest.approx(100)


# -- cases in words ---------------------------------------------------------------------------------------


def of(*ranges: tuple, calls: list[Call] | None = None, ops: list[Op] | None = None) -> Recording:
    """A recording of ranges ``(name, start, end)`` on the main thread, or with thread and payload after it."""
    made = [
        Range(row, name, "", PUSH_POP if not rest else START_END, rest[0] if rest else MAIN, None, start, end,
              rest[1] if len(rest) > 1 else None)
        for row, (name, start, end, *rest) in enumerate(ranges)
    ]  # fmt: skip
    return Recording(made, calls or [], ops or [])


def test_a_decode_goes_with_the_prefill_before_it_on_its_thread():
    """Two threads take turns; one prefill has no decode, one decode has no prefill that had ended."""
    other = LANES[1]
    rec = of(
        ("prefill", 0, 10), ("prefill", 2, 30, other), ("decode", 10, 20), ("decode", 40, 50, other),
        ("prefill", 60, 70), ("prefill", 80, 95), ("decode", 90, 99), ("decode", 100, 110, LANES[2]),
    )  # fmt: skip
    rec = dataclasses.replace(rec, ranges=[dataclasses.replace(one, payload=5) for one in rec.ranges])
    rows = rows_of(analysis_of(rec), "request_trace")
    assert [(row["request"], row["start_ns"], row["end_ns"], row["stages"]) for row in rows] == [
        (0, 0, 20, 2), (1, 2, 50, 2), (2, 60, 70, 1), (3, 80, 95, 1), (4, 90, 99, 1), (5, 100, 110, 1)]  # fmt: skip
    assert {row["found"] for row in rows} == {"paired"}
    assert [row["ttft_host_ns"] for row in rows] == [10, 28, 10, 15, None, None]
    assert [row["request"] for row in rows_of(analysis_of(rec), "stage_trace")] == [0, 1, 0, 1, 2, 3, 4, 5]


def test_pairs_count_on_from_the_requests_that_have_a_range():
    rec = of(
        ("request", 0, 30, MAIN, 7), ("prefill", 1, 10), ("decode", 10, 29), ("prefill", 40, 50), ("decode", 51, 60)
    )
    rows = rows_of(analysis_of(rec), "request_trace")
    assert [(row["request"], row["found"], row["range_id"] is None) for row in rows] == [
        (7, "range", False), (8, "paired", True)]  # fmt: skip


def test_the_latencies_of_a_request_in_numbers():
    """Host and GPU apart: the prefill's kernel outlasts it, and the decode's last outlasts the request.

    host  request 0 [ prefill 2..12 ][ step 14..20 ][ step 20..30 ] 32
    GPU                      10..15        18..22         25..35
    """
    rec = of(
        ("request", 0, 32), ("prefill", 2, 12, MAIN, 100), ("decode", 14, 30), ("decode.step", 14, 20),
        ("decode.step", 20, 30),
        calls=[Call(0, LAUNCH, MAIN, 1, 3, 4), Call(1, LAUNCH, MAIN, 2, 15, 16), Call(2, LAUNCH, MAIN, 3, 21, 22)],
        ops=[Op(row, KERNEL, slow.process_of(MAIN), row + 1, start, end, 0, 7, name="gemm")
             for row, (start, end) in enumerate([(10, 15), (18, 22), (25, 35)])],
    )  # fmt: skip
    (row,) = rows_of(analysis_of(rec), "request_trace")
    assert (row["prompt_tokens"], row["new_tokens"], row["e2e_ns"]) == (100, 3, 32)
    assert (row["ttft_host_ns"], row["ttft_gpu_ns"]) == (12, 15)
    assert (row["tpot_host_ns"], row["tpot_gpu_ns"], row["tpot_busy_ns"]) == ((30 - 12) / 2, (35 - 15) / 2, 14 / 2)
    assert (row["tokens_per_s"], row["limit_tokens_per_s"]) == (3e9 / 32, pytest.approx(3e9 / 19))
    assert [step["context_tokens"] for step in rows_of(analysis_of(rec), "step_trace")] == [101, 102]


def test_what_is_not_there_is_not_guessed():
    """No steps, no payload; a request without stages; one that prefills again while it decodes."""
    bare = of(("request", 0, 30), ("prefill", 1, 10), ("decode", 10, 29))
    (row,) = rows_of(analysis_of(bare), "request_trace")
    unknown = ("batch", "prompt_tokens", "new_tokens", "ttft_host_ns", "ttft_gpu_ns", "tpot_host_ns", "tpot_gpu_ns",
               "tpot_busy_ns", "tokens_per_s", "limit_tokens_per_s")  # fmt: skip
    assert [row[column] for column in unknown] == [None] * len(unknown)
    (row,) = rows_of(analysis_of(of(("request", 0, 30))), "request_trace")
    assert (row["ttft_host_ns"], row["stages"], row["e2e_ns"]) == (None, 0, 30)
    again = of(("request", 0, 60), ("prefill", 1, 10, MAIN, 5), ("decode", 10, 20, MAIN, 2),
               ("prefill", 20, 30, MAIN, 5), ("decode", 30, 40, MAIN, 2))  # fmt: skip
    (row,) = rows_of(analysis_of(again), "request_trace")
    assert (row["ttft_host_ns"], row["prompt_tokens"], row["new_tokens"], row["tpot_host_ns"]) == (10, 5, None, None)


LOAD, ALLOCATE = "cuLibraryLoadData", "cudaMalloc_v3020"


def requests_of(
    walls: list[int], once: dict[int, tuple[str, int]], thread: int = MAIN, base: int = 0
) -> tuple[list[tuple], list[Call]]:
    """Decodes one after another, and in some of them a call that takes so long; ranges and calls."""
    ranges, calls, now = [], [], base
    for number, wall in enumerate(walls):
        ranges.append(("decode", now, now + wall, thread))
        if number in once:
            name, spent = once[number]
            calls.append(Call(len(calls) + base, name, thread, len(calls) + 1, now + 1, now + 1 + spent))
        now += wall
    return ranges, calls


def steady_of(*planted: tuple[list, list]) -> list[bool]:
    ranges, calls = ([one for each in planted for one in each[place]] for place in (0, 1))
    calls = [evolve_call(call, row) for row, call in enumerate(calls)]
    return [row["steady"] for row in rows_of(analysis_of(of(*ranges, calls=calls)), "stage_trace")]


def evolve_call(call: Call, row: int) -> Call:
    return Call(row, call.name, call.thread, row + 1, call.start, call.end)


def test_what_is_slow_and_loads_kernels_was_a_warm_up() -> None:
    assert steady_of(requests_of([300, 100, 100], {0: (LOAD, 50)})) == [False, True, True]


def test_a_slow_host_in_the_first_half_is_no_warm_up() -> None:
    assert all(steady_of(requests_of([300, 280, 310, 100, 100, 105], {})))


def test_what_every_request_does_is_no_warm_up() -> None:
    """Each allocates as long; only the host was slower in the first."""
    assert all(steady_of(requests_of([300, 100, 100], dict.fromkeys(range(3), (ALLOCATE, 20)))))


def test_what_every_request_does_and_takes_longer_in_one_is_no_warm_up() -> None:
    """Without a caching allocator each request allocates as often; how long that takes is the machine's."""
    assert all(steady_of(requests_of([300, 100, 100], {0: (ALLOCATE, 200), 1: (ALLOCATE, 20), 2: (ALLOCATE, 20)})))


def test_a_late_first_use_of_a_kernel_is_one() -> None:
    assert steady_of(requests_of([100, 100, 190, 100], {2: (LOAD, 60)})) == [True, True, False, True]


def test_what_loads_and_takes_no_longer_is_none() -> None:
    assert all(steady_of(requests_of([110, 100, 100], {0: (LOAD, 9)})))


def test_a_moment_of_loading_does_not_explain_a_slow_host() -> None:
    assert all(steady_of(requests_of([300, 100, 100], {0: (LOAD, 3)})))
    assert not all(steady_of(requests_of([300, 100, 100], {0: (LOAD, 4)})))


def test_one_request_only_is_steady() -> None:
    assert steady_of(requests_of([300], {0: (LOAD, 200)})) == [True]


def test_of_two_requests_the_quicker_one_is_the_usual() -> None:
    assert steady_of(requests_of([300, 100], {0: (LOAD, 100)})) == [False, True]


def test_each_process_warms_up_for_itself():
    other = requests_of([300, 100, 100], {0: (LOAD, 100)}, LANES[2], 1000)
    assert steady_of(requests_of([300, 100, 100], {0: (LOAD, 100)}), other) == [False, True, True] * 2


def test_what_made_a_warm_up_is_told() -> None:
    ranges, calls = requests_of([300, 100, 100], {0: (LOAD, 50)})
    rows = rows_of(analysis_of(of(*ranges, calls=calls)), "stage_trace")
    assert [(row["warm_up_by"], row["warm_up_ns"]) for row in rows] == [
        ("loading kernels", 50),
        (None, None),
        (None, None),
    ]


def test_a_longer_prompt_is_no_warm_up():
    """Three times the time for three times the tokens; and a short one that took as long as the long ones."""

    def prefills(tokens: list[int]) -> list[bool]:
        walls = [(0, 300), (300, 400), (400, 500)]
        ranges = [("prefill", *wall, MAIN, count) for wall, count in zip(walls, tokens, strict=True)]
        calls = [Call(0, LOAD, MAIN, 1, 1, 100)]
        return [row["steady"] for row in rows_of(analysis_of(of(*ranges, calls=calls)), "stage_trace")]

    assert prefills([30, 10, 10]) == [True, True, True]
    assert prefills([10, 10, 10]) == [False, True, True]


def test_the_driver_s_call_in_the_runtime_s_is_counted_once():
    """
    cudaLaunchKernel   10 |----------------| 30       cuLaunchKernel (the sync stands for it) 15..25
    """
    rec = of(("decode", 0, 40), calls=[Call(0, LAUNCH, MAIN, 1, 10, 30), Call(1, SYNC, MAIN, 2, 15, 25)])
    rows = rows_of(analysis_of(rec), "stage_api_sum")
    assert [(row["api_name"], row["total_ns"], row["host_ns"]) for row in rows] == [
        ("cudaLaunchKernel", 20, 10), ("cudaStreamSynchronize", 10, 10), (OUTSIDE_CUDA, None, 20)]  # fmt: skip


def test_a_slow_step_says_what_it_was_in():
    """Six steps, the fourth takes 150 ns and not 100: 45 more than usual in the call, 5 more outside, where most is."""
    calls_ns, steps_ns = [10, 10, 20, 65, 20, 20], [100, 100, 100, 150, 100, 100]
    ends = np.cumsum(steps_ns).tolist()
    starts = [0, *ends[:-1]]
    calls = [Call(row, LAUNCH, MAIN, row + 1, start + 1, start + 1 + length)
             for row, (start, length) in enumerate(zip(starts, calls_ns, strict=True))]  # fmt: skip
    steps = [("decode.step", start, end) for start, end in zip(starts, ends, strict=True)]
    rows = rows_of(analysis_of(of(("decode", 0, ends[-1]), *steps, calls=calls)), "step_trace")
    assert [row["outlier"] for row in rows] == [False, False, False, True, False, False]
    assert [row["excess_in"] for row in rows] == [None, None, None, "cudaLaunchKernel", None, None]
    assert [row["excess_ns"] for row in rows] == [None, None, None, 45, None, None]
    assert rows[3]["duration_by_median"] == 1.5


def test_slow_steps_of_two_decodes_are_held_against_their_own():
    """Two decodes on two threads at once: one has a slow step outside of CUDA, the other within a call."""
    other = LANES[1]
    calls, steps = [], []
    for thread, slow_step, in_call in ((MAIN, 3, 0), (other, 2, 300)):
        now = 0
        steps.append(("decode", 0, 800, thread))
        for number in range(5):
            length = 400 if number == slow_step else 100
            steps.append(("decode.step", now, now + length, thread))
            busy = in_call if number == slow_step and in_call else 20 if thread == MAIN else 10
            calls.append(Call(len(calls), SYNC, thread, len(calls) + 1, now + 5, now + 5 + busy))
            now += length
    rec = of(*steps, calls=calls)
    rows = [row for row in rows_of(analysis_of(rec), "step_trace") if row["outlier"]]
    found = {row["tid"]: (row["step"], row["excess_in"], row["excess_ns"]) for row in rows}
    assert found == {70: (4, OUTSIDE_CUDA, 300), 71: (3, "cudaStreamSynchronize", 290)}
