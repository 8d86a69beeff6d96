"""The wall time of stages and steps, instant by instant, against a reference that looks at every nanosecond."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import slow_reference as slow
from dsprof.analysis.analyze import Analysis
from dsprof.analysis.work import WholeReport, Work
from dsprof.arrays import united
from dsprof.measures.accounting import Accounts
from dsprof.measures.causes import CAUSES
from dsprof.nsys.reader import read
from dsprof.rules.rules import Rules
from test_properties import MODES, STAGES, analysis_of, few, recordings, trace_of
from test_properties import some as many
from trace_builder import TraceBuilder

IDLE = [f"idle_{cause}_ns" for cause in CAUSES]
interval = st.tuples(st.integers(0, 30), st.integers(0, 9))


@many
@given(st.lists(interval, max_size=20))
def test_a_union_covers_the_same_instants_in_disjoint_intervals(drawn):
    columns = np.array(drawn, np.int64).reshape(-1, 2).T
    start, end = united(columns[0], columns[0] + columns[1])
    covered = [instant for begin, finish in zip(start, end, strict=True) for instant in range(begin, finish)]
    assert covered == sorted({one for begin, length in drawn for one in range(begin, begin + length)})
    assert all(end[:-1] < start[1:])


def instant_by_instant(staged: slow.Staged, window: slow.Range, ops: list) -> Counter:
    """What each nanosecond of a window is for, in plain words; `ops` are those of the window."""
    begin = min([window.start, *(op.start for op in ops)])
    end = max([window.end, *(op.end for op in ops)])
    process = slow.process_of(window.thread)
    others = [op for op in staged.rec.ops if op.process == process and op not in ops]
    calls = [(op, staged.call[op.row]) for op in others if staged.call[op.row]]
    before = [op for op, call in calls if call.thread == window.thread and call.start < window.start]
    launched = [(staged.call[op.row].end, op.start) for op in [*ops, *others] if staged.call[op.row]]
    mine = [call for call in staged.rec.calls if call.thread == window.thread]
    found = Counter()
    for now in range(begin, end):
        during = [call.name for call in mine if call.start <= now < call.end]
        waiting = {
            "busy": runs(ops, now),
            "queued": runs(before, now),
            "other_work": runs(others, now),
            "latency": any(called <= now < begun for called, begun in launched),
            **{cause: any(word in name for name in during) for cause, word in SAID.items()},
            "api": bool(during),
            "host": True,
        }
        found[next(cause for cause, holds in waiting.items() if holds)] += 1
    return found


#: What the names of calls have in them, by the cause that they are, the preferred first.
SAID = {"load": "Library", "alloc": "Malloc", "sync": "Synchronize", "launch": "Launch"}


def runs(ops: list, now: int) -> bool:
    return any(op.start <= now < op.end for op in ops)


def accounts_of(trace, rules):
    work = Work(WholeReport(trace), rules, {})
    work.measure([Accounts])
    return work.facts[Accounts]


@pytest.mark.parametrize("threads", MODES)
def test_every_instant_of_a_stage_is_counted_once(threads):
    @few
    @given(recordings())
    def check(rec):
        parts = accounts_of(trace_of(rec), Rules(threads=threads)).stages
        staged = slow.Staged(rec, STAGES, threads)
        for row, stage in enumerate(staged.stages):
            ops = [op for op in rec.ops if staged.of_op(op)[0] == stage]
            expected = instant_by_instant(staged, stage, ops)
            assert {cause: int(parts[cause][row]) for cause in ("busy", *CAUSES) if parts[cause][row]} == dict(expected)

    check()


@pytest.mark.parametrize("threads", MODES)
def test_idle_parts_add_up_and_steps_part_their_stage(threads):
    @few
    @given(recordings())
    def check(rec):
        analysis = analysis_of(rec, threads)
        stages, steps = analysis["stage_trace"], analysis["step_trace"]
        assert (stages[IDLE].sum(axis=1) == stages["gpu_idle_ns"]).all()
        numbered = steps[steps["range_id"].notna()]
        assert (numbered[IDLE].sum(axis=1) == numbered["gpu_idle_ns"]).all()
        assert (numbered["gpu_idle_ns"] + numbered["gpu_busy_ns"] == numbered["wall_ns"]).all()
        inside = steps[steps["instance"].notna()].groupby(["stage", "instance"], observed=True)
        parted = stages.set_index(["stage", "instance"])
        for column in ("kernels", "gpu_ops", "kernel_total_ns"):
            for key, total in inside[column].sum().items():
                assert total == parted.loc[key, column]
        kernels = analysis["kern_trace"]["step"].value_counts()
        assert numbered.groupby("step")["kernels"].sum().sum() == kernels.sum()

    check()


def test_windows_of_steps_are_accounted_like_those_of_stages():
    """A step that is all of its stage has the stage's times."""
    rec = slow.Recording(
        [
            slow.Range(0, "decode", "", slow.PUSH_POP, 1 << 24 | 1, None, 0, 100),
            slow.Range(1, "decode.step", "", slow.PUSH_POP, 1 << 24 | 1, None, 0, 100),
        ],
        [slow.Call(0, "cudaLaunchKernel_v7000", 1 << 24 | 1, 1, 10, 20)],
        [slow.Op(0, slow.KERNEL, 1 << 24, 1, 30, 70, 0, 7, name="gemm")],
    )
    accounts = accounts_of(trace_of(rec), Rules())
    stage, step = accounts.stages, accounts.steps
    assert {cause: value.tolist() for cause, value in stage.items()} == {
        cause: value.tolist() for cause, value in step.items()
    }
    expected = {"busy": [40], "latency": [10], "launch": [10], "host": [40], "in_calls": [10]}
    assert {cause: value.tolist() for cause, value in step.items() if value.any()} == expected


def test_copies_of_pageable_memory_are_told_from_others(tmp_path):
    """
    ::

        thread   | copy of pageable |  python  | copy of pinned |  python  | set |
                 0                 10         20               30         40    50
    """
    report = TraceBuilder("2023.4.4").range("decode", 0, 60)
    report.copy("HtoD", at=(10, 11), call=(0, 10))
    report.copy("DtoH", at=(30, 31), call=(20, 30))
    report.set(at=(50, 51), call=(40, 50))
    report.sql("UPDATE CUPTI_ACTIVITY_KIND_MEMCPY SET dstKind = 1 WHERE copyKind = 2")
    stage = Analysis.of(read(report.write(tmp_path / "made.sqlite")))["stage_trace"].iloc[0]
    told = {cause: int(stage[f"idle_{cause}_ns"]) for cause in CAUSES if stage[f"idle_{cause}_ns"]}
    assert (told, stage["gpu_busy_ns"]) == ({"pageable": 10, "copy": 20, "host": 27}, 3)
