"""Collectives of several ranks: which are one, who waited for whom and how long, in one report or in several."""

from __future__ import annotations

import bisect
import lzma
import pickle
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from attrs import evolve

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.analysis.ranks import RankReport, Ranks
from dsprof.answers.collectives import LEAST_FOR_A_CLOCK, MatchedCollectives, unmatched
from dsprof.arrays import NULL
from dsprof.errors import UnknownTable
from dsprof.measures.collectives import Collectives
from dsprof.measures.rank_work import RankWork
from dsprof.nsys.parts import ReportInParts
from dsprof.nsys.reader import read
from dsprof.rules.collectives import COMMUNICATION, ENDS_TOGETHER, OPERATIONS, OTHER, RULES, operations_of
from dsprof.rules.families import RULES as FAMILY_RULES
from dsprof.rules.families import family_of
from trace_builder import TraceBuilder

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
SHARED = Path(__file__).resolve().parents[2] / "shared" / "traces"
ALL_REDUCE, GATHER = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(…)", "ncclDevKernel_AllGather_RING_LL(…)"
SEND = "ncclDevKernel_SendRecv(…)"


# -- the recorded reports of two ranks ------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The samples of two ranks, unpacked."""
    folder = tmp_path_factory.mktemp("ranks")
    for rank in (0, 1):
        packed = (SAMPLES / f"h100x2-tp-rank{rank}.sqlite.xz").read_bytes()
        (folder / f"h100x2-tp-rank{rank}.sqlite").write_bytes(lzma.decompress(packed))
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def ranks(exports: list[Path]) -> Ranks:
    return Ranks.of(dsprof.analyze(path) for path in exports)


@pytest.fixture(scope="module")
def together(exports: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two ranks in one report, on the clock of the first: made of both exports, row by row."""
    path = tmp_path_factory.mktemp("together") / "both.sqlite"
    path.write_bytes(exports[0].read_bytes())
    with sqlite3.connect(path) as both:
        both.execute("ATTACH ? AS other", (str(exports[1]),))
        zero, other_zero = (
            both.execute(f"SELECT utcEpochNs FROM {of}.TARGET_INFO_SESSION_START_TIME").fetchone()[0]
            for of in ("main", "other")
        )
        both.execute(f"INSERT INTO StringIds SELECT id + {1 << 24}, value FROM other.StringIds")
        for table in ("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_MEMCPY",
                      "CUPTI_ACTIVITY_KIND_MEMSET", "NVTX_EVENTS", "PROCESSES"):  # fmt: skip
            columns = [row[1] for row in both.execute(f"PRAGMA table_info({table})")]
            chosen = [
                f"{column} + {other_zero - zero}" if column in ("start", "end")
                else f"{column} + {1 << 24}" if column in ("nameId", "textId", "demangledName", "shortName")
                else column
                for column in columns
            ]  # fmt: skip
            both.execute(f"INSERT INTO {table} SELECT {', '.join(chosen)} FROM other.{table}")
    return path


def plainly(path: Path) -> tuple[list[dict[str, Any]], Counter[str], int]:
    """One rank's collectives in order and its compute by stage, from the export alone; and its clock's zero."""
    export = sqlite3.connect(path)
    zero = export.execute("SELECT utcEpochNs FROM TARGET_INFO_SESSION_START_TIME").fetchone()[0]
    stages = export.execute(
        """SELECT e.start, e.end, e.globalTid, s.value FROM NVTX_EVENTS e JOIN StringIds s ON s.id = e.textId
           WHERE s.value IN ('prefill', 'decode') AND e.eventType = 59 ORDER BY e.start"""
    ).fetchall()
    kernels = export.execute(
        """SELECT r.start, r.globalTid, k.start, k.end, s.value FROM CUPTI_ACTIVITY_KIND_KERNEL k
           JOIN StringIds s ON s.id = k.demangledName JOIN CUPTI_ACTIVITY_KIND_RUNTIME r USING (correlationId)
           ORDER BY r.start"""
    ).fetchall()
    assert len(kernels) == export.execute("SELECT count(*) FROM CUPTI_ACTIVITY_KIND_KERNEL").fetchone()[0]
    begins = [start for start, *_ in stages]

    def stage_of(call: int, thread: int) -> str:
        place = bisect.bisect_right(begins, call) - 1
        if place >= 0 and stages[place][0] <= call < stages[place][1] and stages[place][2] == thread:
            return stages[place][3]
        return "(no stage)"

    collectives, compute = [], defaultdict(list)
    for call, thread, start, end, name in kernels:
        stage = stage_of(call, thread)
        if name.startswith("nccl"):
            collectives.append({"stage": stage, "name": name, "start": start + zero, "end": end + zero})
        else:
            compute[stage].append((start, end))
    busy: Counter[str] = Counter()
    for stage, intervals in compute.items():
        reach = 0
        for start, end in sorted(intervals):
            busy[stage] += max(end - max(start, reach), 0)
            reach = max(reach, end)
    return collectives, busy, zero


def test_two_ranks_are_as_a_plain_computation_says(exports: list[Path], ranks: Ranks) -> None:
    (one, one_busy, zero), (other, other_busy, other_zero) = map(plainly, exports)
    assert zero != other_zero
    expected: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for pair in zip(one, other, strict=True):
        assert pair[0]["name"] == pair[1]["name"]
        assert pair[0]["stage"] == pair[1]["stage"]
        took = [rank["end"] - rank["start"] for rank in pair]
        for rank, collective in enumerate(pair):
            expected[collective["stage"], rank] += Counter(
                collectives=1, total_ns=took[rank], transfer_ns=min(took), wait_ns=took[rank] - min(took),
                last=int(collective["start"] > pair[1 - rank]["start"]),
            )  # fmt: skip
    table = ranks["rank_sum"].set_index(["stage", "rank"])
    assert len(table) == len(expected) == 6
    for (stage, rank), wanted in expected.items():
        row = table.loc[(stage, rank)]
        for column in ("collectives", "total_ns", "transfer_ns", "wait_ns"):
            assert row[column] == wanted[column], (stage, rank, column)
        assert row["matched"] == row["collectives"]
        assert row["unmatched_ns"] == row["inconclusive_pct"] == 0
        assert row["last_pct"] == pytest.approx(100 * wanted["last"] / wanted["collectives"], rel=1e-12)
        assert row["compute_busy_ns"] == (one_busy, other_busy)[rank][stage]
    spread = sorted(abs(a["end"] - b["end"]) for a, b in zip(one, other, strict=True))
    assert ranks.residual_ns == (spread[int(len(spread) * 0.95)],)
    assert ranks.unmatched == ()


def test_two_ranks_are_as_was_measured_when_they_were_recorded(ranks: Ranks) -> None:
    """The figures that came with the recording: ms of collectives, transfer, waiting, compute; who was last, in %."""
    table = ranks["rank_sum"].set_index(["stage", "rank"])
    said = {
        ("prefill", 0): (108, 74.0, 5.17, 68.9, 33, 28.3), ("prefill", 1): (108, 41.3, 5.17, 36.1, 67, 28.5),
        ("decode", 0): (1620, 856, 10.07, 846, 55, 131.4), ("decode", 1): (1620, 909, 10.07, 899, 45, 131.5),
    }  # fmt: skip
    for key, (count, total, transfer, wait, last, compute) in said.items():
        row = table.loc[key]
        found = [row["total_ns"] / 1e6, row["transfer_ns"] / 1e6, row["wait_ns"] / 1e6, row["last_pct"]]
        found.append(row["compute_busy_ns"] / 1e6)
        assert row["collectives"] == count
        assert found == pytest.approx([total, transfer, wait, last, compute], rel=0.012)
    assert ranks.residual_ns[0] == pytest.approx(800, rel=0.05)


def test_the_tables_agree_with_each_other(ranks: Ranks) -> None:
    sums, by_rank, trace = ranks["collective_sum"], ranks["rank_sum"], ranks["collective_trace"]
    columns = ["collectives", "matched", "total_ns", "transfer_ns", "wait_ns", "unmatched_ns"]
    keys = ["stage", "rank"]
    added = sums.groupby(keys, observed=True)[columns].sum().sort_index()
    pd.testing.assert_frame_equal(added, by_rank.set_index(keys)[columns].sort_index(), check_index_type=False)
    assert trace["duration_ns"].sum() == by_rank["total_ns"].sum()
    assert (trace["transfer_ns"] + trace["wait_ns"] == trace["duration_ns"]).all()
    assert (trace.groupby("collective")["wait_ns"].min() == 0).all()
    assert trace["start_ns"].is_monotonic_increasing
    assert trace.groupby("collective")["operation"].nunique().eq(1).all()


def test_both_ranks_in_one_report_say_the_same(ranks: Ranks, together: Path) -> None:
    one = dsprof.analyze(together)
    for name in ranks:
        several = ranks[name].drop(columns=["report"])
        same = [column for column in several if column != "stage_instance"]  # counted over both processes
        pd.testing.assert_frame_equal(as_text(one[name][same]), as_text(several[same]), obj=name)


@pytest.mark.parametrize("parts", [2, 7])
def test_both_ranks_are_the_same_in_parts(together: Path, parts: int) -> None:
    whole, parted = (
        Analysis.of(read(together), path=together),
        Analysis.of(ReportInParts(together, parts), path=together),
    )
    for name in ("collective_trace", "collective_sum", "rank_sum"):
        pd.testing.assert_frame_equal(as_text(whole[name]), as_text(parted[name]), check_exact=True, obj=name)


def as_text(frame: pd.DataFrame) -> pd.DataFrame:
    texts = [name for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)]
    return frame.astype(dict.fromkeys(texts, object))


def test_what_reports_need_of_each_other_can_be_pickled(exports: list[Path], ranks: Ranks) -> None:
    sent = [pickle.loads(pickle.dumps(one)) for one in ranks.reports]
    assert Ranks(sent).arrow("rank_sum").equals(ranks.arrow("rank_sum"))
    measured = dsprof.analyze(exports[0])
    for kind in (Collectives, RankWork):
        measure = measured.results.fact(kind)
        pd.testing.assert_frame_equal(
            pd.DataFrame(pickle.loads(pickle.dumps(measure)).columns), pd.DataFrame(measure.columns)
        )


def test_a_public_report_with_two_ranks_that_send_and_receive() -> None:
    path = SHARED / "public-h100-2rank-nccl-3.25.0.sqlite.xz"
    if not path.exists():
        pytest.skip("the public reports lie outside of the project")
    analysis = dsprof.analyze(path)
    table = analysis["collective_sum"]
    assert table["operation"].tolist() == ["send-receive"] * 2
    assert table["rank"].tolist() == [0, 1]
    assert table["matched"].tolist() == table["collectives"].tolist() == [33, 33]
    assert table["total_ns"].tolist() == [17172652, 8229100]
    assert table["transfer_ns"].tolist() == [5777111] * 2
    assert table["inconclusive_pct"].tolist() == [100, 100]  # nothing tells how good the clock is


# -- names ----------------------------------------------------------------------------------------------

NAMES = {
    "ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm *, unsigned long, ncclWork *)": "all-reduce",
    "ncclKernel_AllReduce_TREE_LL128_Sum_bf16(ncclDevComm *, unsigned long, ncclWork *)": "all-reduce",
    "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)": "all-reduce",
    "ncclAllReduceRingLLKernel_sum_f32(ncclColl)": "all-reduce",
    "ncclSymkDevKernel_AllReduce_AGxLL_R_sum_bf16(ncclSymkDevWorkArgs4K)": "all-reduce",
    "ncclSymDevKernel_ReduceScatter_LL_sum_f32(ncclSymDevArgs)": "reduce-scatter",
    "ncclDevKernel_ReduceScatter_Sum_f32_RING_SIMPLE(ncclDevKernelArgsStorage<(unsigned long)4096>)": "reduce-scatter",
    "ncclReduceScatterRingLLKernel_sum_f32(ncclColl)": "reduce-scatter",
    "ncclKernel_AllGather_RING_LL_Sum_int8_t(ncclDevComm *, unsigned long, ncclWork *)": "all-gather",
    "ncclDevKernel_Broadcast_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)": "broadcast",
    "ncclKernel_Broadcast_RING_LL_Sum_int8_t(ncclDevComm *, unsigned long, ncclWork *)": "broadcast",
    "ncclBroadcastRingLLKernel_copy_i8(ncclColl)": "broadcast",
    "ncclDevKernel_Reduce_Sum_f32_RING_LL(ncclDevKernelArgsStorage<(unsigned long)4096>)": "reduce",
    "ncclKernel_Reduce_RING_LL_Sum_float(ncclDevComm *, unsigned long, ncclWork *)": "reduce",
    "ncclReduceRingLLKernel_sum_f32(ncclColl)": "reduce",
    "ncclKernel_SendRecv_RING_SIMPLE_Sum_int8_t(ncclDevComm *, unsigned long, ncclWork *)": "send-receive",
    "ncclSendRecvKernel_copy_i8(ncclColl)": "send-receive",
    "ncclDevKernel_Generic(ncclDevComm *, unsigned long, ncclWork *)": "other",
    "void vllm::cross_device_reduce_1stage<__nv_bfloat16, (int)2>(vllm::RankData *, …)": "all-reduce",
    "void sglang::cross_device_reduce_2stage<half, 8>(…)": "all-reduce",
    "void quickreduce::allreduce_prototype_twoshot<…>(…)": "all-reduce",
    "void tensorrt_llm::kernels::oneShotAllReduceKernel<__nv_bfloat16, 8, true>(…)": "all-reduce",
    "void tensorrt_llm::kernels::ar_fusion::allreduce_fusion_kernel_oneshot_lamport<…>(…)": "all-reduce",
    "void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_twoshot_sync<…>(…)": "all-reduce",
    "void flashinfer::trtllm_mnnvl_allreduce::twoshotAllreduceKernel<…>(…)": "all-reduce",
    "void c10d::symmetric_memory::multimem_one_shot_all_reduce_kernel<c10::BFloat16, 16>(…)": "all-reduce",
    "void deep_ep::internode_ll::dispatch<false, false, 7168>(void*, …)": "all-to-all",
    "void deep_ep::intranode::combine<__nv_bfloat16, 8, 768, 4096>(…)": "all-to-all",
    "void deep_ep::intranode::barrier<8>(int**, int)": "barrier",
    "void tensorrt_llm::kernels::moeAllToAllKernel<…>(…)": "all-to-all",
    "void nvshmemi_transfer_rma<…>(…)": "other",
}


@pytest.mark.parametrize(("kernel", "operation"), NAMES.items())
def test_a_kernel_that_communicates_does_an_operation(kernel: str, operation: str) -> None:
    assert family_of(kernel) == COMMUNICATION
    assert operations_of([kernel]) == [operation]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.pattern)
def test_a_rule_fits_its_example_and_repeats_nothing(rule: Any) -> None:
    assert operations_of([rule.example]) == [rule.operation]
    assert family_of(rule.example) == COMMUNICATION
    assert rule.operation in OPERATIONS
    assert not set("*+?{") & set(rule.pattern)


def test_every_kernel_of_the_family_has_an_operation_or_none() -> None:
    examples = [rule.example for rule in FAMILY_RULES if rule.family == COMMUNICATION]
    assert set(operations_of(examples)) <= set(OPERATIONS)
    assert set(OPERATIONS) - {OTHER} >= ENDS_TOGETHER
    assert operations_of([]) == []


# -- made reports ---------------------------------------------------------------------------------------

#: Between two collectives of a made rank, longer than the ends of one may lie apart.
EVERY = 1_000_000


def rank(
    report: TraceBuilder, pid: int, names: list[str], late: dict[int, int] | None = None, device: int = 0, at: int = 0,
    early: int = 50_000, stream: int = 7,
) -> TraceBuilder:  # fmt: skip
    """A rank whose collectives end every `EVERY` ns after `at` and last 50 us, less where it starts `late`."""
    for number, name in enumerate(names):
        end = at + (number + 1) * EVERY
        start = end - early + (late or {}).get(number, 0)
        where = {"pid": pid, "device": device, "stream": stream}
        report.kernel(name, at=(start, end), call=(start - 9_000, start - 8_000), **where)
    return report


def analyzed(report: TraceBuilder, path: Path, began: int | None = None) -> Analysis:
    if began is not None:
        report.sql("UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = ?", began)
    return dsprof.analyze(report.write(path), reuse=False)


def matched(report: TraceBuilder, path: Path) -> MatchedCollectives:
    return analyzed(report, path).results.fact(MatchedCollectives)


def test_transfer_is_the_shortest_and_the_rest_is_waiting(tmp_path: Path) -> None:
    """
    ::

        rank 0   |-------- 50 us --------|      waits 30 us
        rank 1               |-- 20 us --|      started last
    """
    report = rank(TraceBuilder(), 1, [ALL_REDUCE] * 3)
    rank(report, 2, [ALL_REDUCE] * 3, {1: 30_000}, device=1)
    rows = analyzed(report, tmp_path / "two.sqlite")["collective_trace"].query("collective == 1").set_index("rank")
    assert rows["transfer_ns"].tolist() == [20_000, 20_000]
    assert (rows.loc[0, "wait_ns"], rows.loc[1, "wait_ns"]) == (30_000, 0)
    assert (rows.loc[0, "last"], rows.loc[1, "last"]) == ("no", "yes")
    assert rows.loc[1, "after_first_ns"] == 30_000


def test_nobody_is_named_where_all_start_at_once(tmp_path: Path) -> None:
    report = TraceBuilder()
    for pid in range(1, 5):
        rank(report, pid, [ALL_REDUCE, GATHER], device=pid)
    table = analyzed(report, tmp_path / "even.sqlite")["collective_sum"]
    assert table["inconclusive_pct"].tolist() == [100] * 8
    assert table["last_pct"].tolist() == table["wait_ns"].tolist() == [0] * 8


def test_of_two_that_come_late_together_neither_was_last_for_certain(tmp_path: Path) -> None:
    report = TraceBuilder()
    for pid, late in enumerate((0, 20_000, 20_400), 1):  # the clocks agree to within 500 ns
        rank(report, pid, [ALL_REDUCE] * 2, {0: late, 1: late}, device=pid, at=500 * (pid == 2))
    found = (
        analyzed(report, tmp_path / "late.sqlite")["collective_trace"].query("collective == 0").set_index("device_id")
    )
    assert found["last"].to_dict() == {1: "no", 2: "inconclusive", 3: "inconclusive"}


def test_sequences_that_part_are_matched_until_then_and_it_is_said(tmp_path: Path) -> None:
    common = [ALL_REDUCE, GATHER] * 10
    report = rank(TraceBuilder(), 1, [*common, ALL_REDUCE, ALL_REDUCE])
    rank(report, 2, [*common, GATHER, ALL_REDUCE], device=1)
    found = matched(report, tmp_path / "parted.sqlite")
    assert [one.matched for one in found.ranks] == [20, 20]
    assert unmatched(found) == [
        "2 of 22 collectives of process 1 on device 0 have no match: 2 after the first 20, where their sequence parts "
        "from that of process 2 on device 1: all-reduce, there all-gather.",
        "2 of 22 collectives of process 2 on device 1 have no match: 2 after the first 20, where their sequence parts "
        "from that of process 1 on device 0: all-gather, there all-reduce.",
    ]
    assert found.columns["wait"].tolist().count(NULL) == 4
    table = analyzed(report, tmp_path / "parted.sqlite")["rank_sum"]
    assert (table["transfer_ns"] + table["wait_ns"] + table["unmatched_ns"] == table["total_ns"]).all()
    assert table["unmatched_ns"].tolist() == [100_000] * 2


def test_sequences_that_part_soon_are_no_group(tmp_path: Path) -> None:
    """A few that end together by chance tell nothing."""
    report = rank(TraceBuilder(), 1, [ALL_REDUCE, GATHER, ALL_REDUCE, ALL_REDUCE])
    rank(report, 2, [ALL_REDUCE, GATHER, GATHER, ALL_REDUCE], device=1)
    found = matched(report, tmp_path / "soon.sqlite")
    assert [one.group for one in found.ranks] == [-1, -1]
    assert unmatched(found)[1] == (
        "4 of 4 collectives of process 2 on device 1 have no match: their sequence parts from that of process 1 on "
        "device 0 after 2: all-gather, there all-reduce."
    )


def test_a_rank_that_is_recorded_later_and_shorter_is_not_matched_one_off(tmp_path: Path) -> None:
    report = rank(TraceBuilder(), 1, [ALL_REDUCE] * 6)
    rank(report, 2, [ALL_REDUCE] * 4, device=1, at=EVERY)
    found = matched(report, tmp_path / "lost.sqlite")
    assert [one.matched for one in found.ranks] == [4, 4]
    assert unmatched(found) == [
        "2 of 6 collectives of process 1 on device 0 have no match: 1 before those of the others begin; 1 after the "
        "first 5, where their sequence parts from that of process 2 on device 1: all-reduce, there no more.",
    ]
    assert found.columns["collective"].tolist() == [NULL, 0, 1, 2, 3, NULL, 0, 1, 2, 3]
    assert not found.columns["wait"][found.columns["collective"] != NULL].any()


@pytest.mark.parametrize("lost", [0, 1, 25, 57, 59])
def test_one_that_was_lost_shifts_none_behind_it(lost: int, tmp_path: Path) -> None:
    """All are of one operation, so only their ends tell that the sequences part."""
    whole = rank(TraceBuilder(), 1, [ALL_REDUCE] * 60)
    for number in set(range(60)) - {lost}:
        rank(whole, 2, [ALL_REDUCE], device=1, at=number * EVERY)
    found = matched(whole, tmp_path / "one.sqlite")
    start, collective = found.columns["start"], found.columns["collective"]
    has = {place: {} for place in range(2)}
    for row in np.flatnonzero(collective != NULL).tolist():
        has[int(found.columns["rank"][row])][int(collective[row])] = int(start[row])
    assert has[0] == has[1]
    assert len(has[0]) == (58 if lost == 1 else 59)  # a single one before the gap tells nothing
    assert [one.matched for one in found.ranks] == [len(has[0])] * 2
    assert unmatched(found)[0].startswith(
        f"{60 - len(has[0])} of 60 collectives of process 1 on device 0 have no match: "
    )


def test_what_tells_no_clock_is_right_where_those_around_it_are(tmp_path: Path) -> None:
    report = rank(TraceBuilder(), 1, [ALL_REDUCE, SEND, ALL_REDUCE, SEND])
    rank(report, 2, [ALL_REDUCE], device=1)
    rank(report, 2, [SEND], device=1, at=EVERY - 300_000)
    rank(report, 2, [ALL_REDUCE], device=1, at=2 * EVERY)
    rank(report, 2, [SEND], device=1, at=3 * EVERY - 300_000)
    found = matched(report, tmp_path / "mixed.sqlite")
    assert [one.matched for one in found.ranks] == [4, 4]
    assert found.residual_ns == (0,)


def test_replicas_that_do_the_same_are_no_group(tmp_path: Path) -> None:
    """Two pairs, each tensor-parallel, that serve on their own: equal sequences, ends at other times."""
    report = TraceBuilder()
    for pid in range(1, 5):
        rank(report, pid, [ALL_REDUCE] * 30, device=pid - 1, at=400_000 * (pid % 2))
    found = matched(report, tmp_path / "replicas.sqlite")
    assert [one.group for one in found.ranks] == [0, 1, 0, 1]
    assert [one.number for one in found.ranks] == [0, 1, 2, 3]
    assert set(found.columns["of"].tolist()) == {2}


def test_a_rank_alone_and_a_report_without_collectives(tmp_path: Path) -> None:
    alone = analyzed(rank(TraceBuilder(), 1, [ALL_REDUCE] * 2), tmp_path / "alone.sqlite")
    assert alone["collective_trace"]["last"].isna().all()
    assert alone["collective_sum"]["unmatched_ns"].tolist() == [100_000]
    assert alone["rank_sum"][["rank", "transfer_ns", "wait_ns", "last_pct", "inconclusive_pct"]].isna().all().all()
    none = analyzed(TraceBuilder().kernel("gemm", at=(10, 50), call=(1, 5)), tmp_path / "none.sqlite")
    assert len(none["collective_trace"]) == len(none["collective_sum"]) == 0
    assert none["rank_sum"][["collectives", "compute_busy_ns"]].to_numpy().tolist() == [[0, 40]]
    several = Ranks.of([alone, none])
    assert several.unmatched == (
        "2 of 2 collectives of process 1 on device 0 of alone.sqlite have no match: no other rank has any.",
    )
    empty = analyzed(TraceBuilder().range("decode", 0, 10), tmp_path / "empty.sqlite")
    assert Ranks.of([empty, empty])["rank_sum"].empty


def test_order_is_that_of_launches_across_streams_and_that_of_a_stream_within(tmp_path: Path) -> None:
    """Two streams whose kernels begin in another order on each rank, and a kernel without a launch in the report."""
    report = TraceBuilder()
    for pid, (reduce, gather) in enumerate((((100, 9_000), (300, 9_100)), ((400, 9_000), (200, 9_100))), 1):
        where = {"pid": pid, "device": pid}
        report.kernel(ALL_REDUCE, at=(50, 90), call=None, stream=7, correlation=999, **where)
        report.kernel(ALL_REDUCE, at=reduce, call=(10, 12), stream=7, **where)
        report.kernel(GATHER, at=gather, call=(14, 16), stream=8, **where)
    found = matched(report, tmp_path / "streams.sqlite")
    assert [one.matched for one in found.ranks] == [3, 3]
    operations = found.columns["operation"].tolist()
    assert operations[:3] == operations[3:]


def test_send_and_receive_tell_no_clock(tmp_path: Path) -> None:
    report = rank(TraceBuilder(), 1, [SEND] * 3)
    rank(report, 2, [SEND] * 3, {1: 20_000}, device=1)
    found = matched(report, tmp_path / "send.sqlite")
    assert found.residual_ns == (NULL,)
    assert analyzed(report, tmp_path / "send.sqlite")["collective_sum"]["last_pct"].tolist() == [0, 0]


def test_stages_and_steps_of_collectives(tmp_path: Path) -> None:
    report = TraceBuilder()
    for pid in (1, 2):
        rank(report, pid, [ALL_REDUCE] * 2, device=pid)
        report.range("decode", 900_000, 3_000_000, domain="dsprof", pid=pid)
        report.range("decode.step", 900_000, 1_500_000, payload=7, domain="dsprof", pid=pid)
    trace = analyzed(report, tmp_path / "staged.sqlite")["collective_trace"]
    assert trace["stage"].tolist() == ["decode"] * 4
    assert trace["step"].tolist()[:2] == [7, 7]
    assert trace["step"].isna().tolist()[2:] == [True, True]
    assert sorted(trace["stage_instance"].tolist()) == [0, 0, 1, 1]


# -- several reports ------------------------------------------------------------------------------------


def two(folder: Path, names: list[str], shift: int, began: tuple[int | None, int | None], **more: Any) -> Ranks:
    """Two reports of one run; the second's times are earlier by `shift`, `began` is what each says of its clock."""
    one = analyzed(rank(TraceBuilder(), 1, names, at=EVERY), folder / "run_rank_10.sqlite", began[0])
    late = dict.fromkeys(range(len(names)), 10_000)
    made = rank(TraceBuilder(), 1, names, late, at=EVERY - shift, **more)
    return Ranks.of([one, analyzed(made, folder / "run_rank_2.sqlite", began[1])])


def test_two_reports_of_one_host_are_on_one_clock(tmp_path: Path) -> None:
    ranks = two(tmp_path, [ALL_REDUCE] * 3, 700_000, (10**18, 10**18 + 700_000))
    assert ranks.residual_ns == (0,)
    table = ranks["rank_sum"].set_index("rank")
    assert table["last_pct"].to_dict() == {10: 0, 2: 100}  # by their numbers, not by the alphabet
    assert table["rank_from"].astype(str).unique().tolist() == ["file name"]  # both have one device, number 0
    assert table.loc[10, "wait_ns"] == 30_000
    assert table["report"].astype(str).tolist() == ["run_rank_10.sqlite", "run_rank_2.sqlite"]
    assert not any(one.clock.by_ends for one in ranks.matched.ranks)


@pytest.mark.parametrize("began", [(10**18, 10**18 + 50_000_000), (None, 0), (10**18, 0), (1 << 62, -5)])
def test_clocks_that_do_not_agree_are_put_together_by_ends(tmp_path: Path, began: tuple[int, int]) -> None:
    ranks = two(tmp_path, [ALL_REDUCE] * LEAST_FOR_A_CLOCK, 300_000, began)
    assert [one.clock.by_ends for one in ranks.matched.ranks] == [False, True]
    assert ranks["rank_sum"]["last_pct"].tolist() == [0, 100]


def moved(report: RankReport, shift: int, drift: float = 0.0, rows: slice = slice(None), **more: Any) -> RankReport:
    """A rank's report as on another host's clock: `shift` ns later, and `drift` ns for each; or some of its rows."""
    columns = {name: values[rows] for name, values in report.collectives.columns.items()}
    for name in ("start", "end", "launched"):
        columns[name] = columns[name] + shift + np.rint(columns[name] * drift).astype(np.int64)
    return evolve(report, collectives=evolve(report.collectives, columns=columns), **more)


def lasts(ranks: Ranks) -> tuple[np.ndarray, np.ndarray]:
    """Of each collective with a match: who began last, and what each waited."""
    columns = ranks.matched.columns
    found = columns["collective"] != NULL
    return columns["last"][found], columns["wait"][found]


@pytest.mark.parametrize("began", [0, None])
@pytest.mark.parametrize(
    ("shift", "drift"), [(50_000_000, 2e-5), (-50_000_000, -2e-5), (7_200 * 10**9, 0.0), (0, 2e-4)]
)
def test_clocks_of_two_hosts_are_put_together_to_within_the_spread_of_ends(
    ranks: Ranks, shift: int, drift: float, began: int | None
) -> None:
    """Two recorded ranks, the second as on a host whose clock is off and drifts (made): nothing else changes."""
    one, other = ranks.reports
    far = Ranks([one, moved(other, shift, drift, began_ns=began)])
    assert far.matched.ranks[1].clock.by_ends
    assert "by the ends of collectives (it drifts by" in far.clocks[0]
    assert far.matched.ranks[1].clock.drift == pytest.approx(-drift, rel=0.01)
    assert [rank.matched for rank in far.matched.ranks] == [rank.matched for rank in ranks.matched.ranks]
    assert 0 < far.residual_ns[0] <= ranks.residual_ns[0] + 100  # type: ignore[operator]
    (last, waits), (known, known_waits) = lasts(far), lasts(ranks)
    np.testing.assert_allclose(waits, known_waits, atol=max(2, int(abs(drift) * 3e9)))  # what the clock itself changes
    assert (last == known).mean() > 0.999


@pytest.mark.parametrize("rows", [slice(300, None), slice(None, -300), slice(300, -300)])
def test_a_host_that_recorded_less_is_found_by_the_times_between_ends(ranks: Ranks, rows: slice) -> None:
    one, other = ranks.reports
    far = Ranks([one, moved(other, 50_000_000, 2e-5, rows, began_ns=None)])
    assert far.matched.ranks[1].matched == len(other.collectives.columns["end"][rows])
    assert far.residual_ns[0] <= ranks.residual_ns[0] + 100  # type: ignore[operator]
    pd.testing.assert_series_equal(
        pd.Series(far.matched.columns["collective"][far.matched.columns["rank"] == 1]),
        pd.Series(np.arange(len(other.collectives.columns["end"][rows]))), check_names=False,
    )  # fmt: skip


def test_a_host_that_recorded_less_of_what_repeats_exactly_is_not_guessed(tmp_path: Path) -> None:
    """All ends are equally far apart, so any place would do."""
    ranks = two(tmp_path, [ALL_REDUCE] * 100, 0, (None, None))
    one, other = ranks.reports
    found = Ranks([one, moved(other, 50_000_000, rows=slice(30, 80))]).matched
    assert [rank.matched for rank in found.ranks] == [0, 0]


def test_clocks_of_one_host_are_left_alone(ranks: Ranks) -> None:
    assert "told by when its capture began; ends of one collective lie 0.8 us apart" in ranks.clocks[0]
    assert [rank.clock.by_ends for rank in ranks.matched.ranks] == [False, False]


def test_few_collectives_put_no_clocks_together(tmp_path: Path) -> None:
    ranks = two(tmp_path, [ALL_REDUCE] * (LEAST_FOR_A_CLOCK - 1), 300_000, (10**18, 10**18 + 50_000_000))
    assert ranks.residual_ns == ()
    assert "they do not end together" in ranks.unmatched[0]
    assert "run_rank_10.sqlite" in ranks.unmatched[0]
    assert "compared with no other host's" in ranks.clocks[0]
    assert ranks["collective_sum"]["matched"].tolist() == [0, 0]


def test_a_table_of_one_report_is_none_of_several(tmp_path: Path) -> None:
    ranks = two(tmp_path, [ALL_REDUCE], 0, (10**18, 10**18))
    with pytest.raises(UnknownTable, match="a table of one report"):
        ranks.arrow("kern_sum")
    with pytest.raises(UnknownTable, match="There is no table"):
        ranks.arrow("kern")
    with pytest.raises(ValueError, match="no reports"):
        Ranks([])


@pytest.mark.parametrize(
    ("file", "number"),
    [
        ("run.r3.nsys-rep", 3), ("h100x2-tp-rank0.sqlite.xz", 0), ("x_rank_12.sqlite", 12), ("RANK-7.sqlite", 7),
        ("r2d2.sqlite", NULL), ("run.sqlite", NULL), ("frank1.sqlite", NULL), ("r" + "9" * 30 + ".sqlite", NULL),
    ],
)  # fmt: skip
def test_a_file_may_be_named_after_its_rank(ranks: Ranks, file: str, number: int) -> None:
    assert evolve(ranks.reports[0], file=file).number == number


def parts_of(path: Path) -> Iterator[Collectives]:
    for parts in (1, 3):
        source = ReportInParts(path, parts)
        yield Analysis.of(source, path=path).results.fact(Collectives)


def test_a_measure_is_the_same_however_cut_and_merges_by_name(tmp_path: Path) -> None:
    report = rank(TraceBuilder(), 1, [ALL_REDUCE, GATHER, SEND, GATHER])
    path = rank(report, 2, [SEND, ALL_REDUCE, ALL_REDUCE], device=1).write(tmp_path / "made.sqlite")
    whole, parted = (named(one) for one in parts_of(path))
    pd.testing.assert_frame_equal(whole, parted)
    assert len(whole) == 7
    first, second = (next(parts_of(path)) for _ in range(2))
    merged = first.merge(evolve(second, names=second.names[::-1]))
    assert merged.names == first.names
    assert np.array_equal(merged.columns["name"][7:], len(first.names) - 1 - second.columns["name"])


def named(measure: Collectives) -> pd.DataFrame:
    frame = pd.DataFrame(measure.columns).assign(
        name=[measure.names[code] for code in measure.columns["name"].tolist()]
    )
    return frame.sort_values(["process", "start"], ignore_index=True)


def test_a_report_of_ranks_needs_no_more_than_its_name_clock_and_collectives(exports: list[Path]) -> None:
    made = RankReport.of(dsprof.analyze(exports[1]))
    assert (made.file, made.number) == ("h100x2-tp-rank1.sqlite", 1)
    assert made.began_ns == 1795694129944760877


# -- odd reports ----------------------------------------------------------------------------------------


def test_every_version_of_nsys_is_read(schema: str, tmp_path: Path) -> None:
    report = TraceBuilder(schema)
    rank(report, 1, [ALL_REDUCE] * 3)
    rank(report, 2, [ALL_REDUCE] * 3, {1: 30_000}, device=1)
    table = analyzed(report, tmp_path / "two.sqlite")["rank_sum"]
    assert table["wait_ns"].tolist() == [30_000, 0]
    assert table["rank"].tolist() == [0, 1]


@pytest.mark.parametrize("missing", ["deviceId", "streamId", "correlationId"])
def test_what_a_report_lacks_is_no_error(missing: str, tmp_path: Path) -> None:
    report = rank(TraceBuilder(), 1, [ALL_REDUCE] * 3)
    rank(report, 2, [ALL_REDUCE] * 3, {1: 30_000}, device=1)
    report.without("CUPTI_ACTIVITY_KIND_KERNEL", missing)
    analysis = analyzed(report, tmp_path / "lacks.sqlite")
    assert analysis["rank_sum"]["wait_ns"].tolist() == [30_000, 0]
    assert analysis["rank_sum"]["rank"].isna().all() == (missing == "deviceId")
    assert len(analysis["collective_trace"]) == 6
    assert Ranks.of([analysis]).unmatched == ()


def test_a_user_may_have_no_rule_that_tells_what_communicates(tmp_path: Path) -> None:
    rules = tmp_path / "mine.toml"
    rules.write_text('[[family]]\nname = "mine"\npattern = "AllReduce"\n')
    path = rank(TraceBuilder(), 1, [ALL_REDUCE, GATHER]).write(tmp_path / "mine.sqlite")
    table = dsprof.analyze(path, families=rules)["collective_sum"]
    assert table["operation"].tolist() == ["all-gather"]


def test_one_process_may_drive_several_devices(tmp_path: Path) -> None:
    report = rank(TraceBuilder(), 1, [ALL_REDUCE] * 3)
    rank(report, 1, [ALL_REDUCE] * 3, {2: 10_000}, device=1)
    table = analyzed(report, tmp_path / "devices.sqlite")["collective_sum"]
    assert table["pid"].tolist() == [1, 1]
    assert table["rank"].tolist() == [0, 1]
    assert table["last_pct"].tolist() == [0, pytest.approx(100 / 3)]


def test_collectives_at_one_moment_are_matched_or_not_but_never_lost(tmp_path: Path) -> None:
    """Kernels of no duration at one time, and one that ends before it begins."""
    report = TraceBuilder()
    for pid in (1, 2):
        for _ in range(30):
            report.kernel(ALL_REDUCE, at=(500, 500), call=(10, 20), pid=pid, device=pid)
    table = analyzed(report, tmp_path / "moment.sqlite")["rank_sum"]
    assert table["collectives"].tolist() == [30, 30]
    assert table["total_ns"].tolist() == [0, 0]


def test_long_sequences_are_matched_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch, ranks: Ranks) -> None:
    """Blocks shorter than the sequences, also where one begins more than a block later."""
    from dsprof.answers import collectives as module

    def matched_from(later: int) -> dict[str, list[int]]:
        second = ranks.reports[1].collectives
        cut = evolve(second, columns={name: values[later:] for name, values in second.columns.items()})
        began = [one.began_ns or 0 for one in ranks.reports]
        found = MatchedCollectives.of([ranks.reports[0].collectives, cut], began)
        assert [one.matched for one in found.ranks] == [2018 - later] * 2
        return {name: values.tolist() for name, values in found.columns.items()}

    expected = {later: matched_from(later) for later in (0, 500)}
    monkeypatch.setattr(module, "_AT_ONCE", 64)
    assert {later: matched_from(later) for later in expected} == expected
