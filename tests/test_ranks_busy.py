"""What the GPUs of several ranks were busy with: compute, transfer, waiting, the rest; and who held the others up."""

from __future__ import annotations

import itertools
import pickle
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from attrs import evolve

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.analysis.ranks import Ranks
from dsprof.answers.collectives import MatchedCollectives
from dsprof.answers.verdicts import COMMUNICATION, GPU, IMBALANCE, LAUNCH, STRAGGLER, Verdict, of_ranks
from dsprof.answers.waits import REASONS, Waits
from dsprof.nsys.parts import ReportInParts
from dsprof.nsys.reader import read
from test_collectives import SAMPLES, as_text, exports, plainly, together  # noqa: F401  fixtures
from trace_builder import TraceBuilder

ALL_REDUCE, GATHER = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(…)", "ncclDevKernel_AllGather_RING_LL(…)"
SEND = "ncclDevKernel_SendRecv(…)"
PARTS = ("compute", "other", "transfer", "wait", "unmatched")
EVERY, US, MS = 1_000_000, 1_000, 1_000_000


# -- a plain painting -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """One operation of a made report, of a rank (process and device) in a stage; the layers that it paints."""

    pid: int
    device: int
    stage: str
    layers: tuple[tuple[int, int, str], ...]


def painted(done: Iterable[Done]) -> Counter[str]:
    """Each instant counts once, for the first of `PARTS` that covers it: segment by segment, with nothing clever."""
    layers = [layer for one in done for layer in one.layers]
    edges = sorted({edge for start, end, _ in layers for edge in (start, end)})
    found: Counter[str] = Counter(dict.fromkeys(PARTS, 0))
    for low, high in itertools.pairwise(edges):
        covering = {what for start, end, what in layers if start <= low and end >= high}
        for what in PARTS:
            if what in covering:
                found[what] += high - low
                break
    return found


@dataclass
class Made:
    """A made report of several ranks, and what ran in it; `split` is the same with a report for each rank."""

    builder: TraceBuilder
    split: dict[int, TraceBuilder]
    done: list[Done]

    def of(self, **which: Any) -> list[Done]:
        return [one for one in self.done if all(getattr(one, key) == value for key, value in which.items())]


#: When each stage of a made rank is on its host; the last calls are in none.
STAGES = (("prefill", 0, 14 * EVERY), ("decode", 14 * EVERY, 36 * EVERY))
COLLECTIVES = 40


def stage_at(time: int) -> str:
    return next((name for name, start, end in STAGES if start <= time < end), "(no stage)")


def made(seed: int) -> Made:
    """Two to four ranks, of which two may be one process, with collectives on two streams that lie over each other.

    Kernels, copies and sets on other streams run beside them; one rank has a collective that the others lack.
    """
    random_ = random.Random(seed)
    count = random_.choice((2, 2, 3, 4))
    places = [(number + 1, number) for number in range(count)]
    if seed % 3 == 2:
        places[1] = (1, 1)
    found = Made(TraceBuilder(), {pid: TraceBuilder() for pid, _ in places}, [])
    spans = [[_span(random_, number) for number in range(COLLECTIVES)] for _ in places]
    for pid in found.split:
        for builder in (found.builder, found.split[pid]):
            for name, start, end in STAGES:
                builder.range(name, start, end, pid=pid, domain="dsprof")
            for step in range(1, 5):
                begin = (14 + 5 * step) * EVERY
                builder.range("decode.step", begin, begin + 4 * EVERY, payload=step, pid=pid, domain="dsprof")
    for (pid, device), own in zip(places, spans, strict=True):
        for number, (start, end) in enumerate(own):
            transfer = min(other[number][1] - other[number][0] for other in spans)
            layers = ((start, end - transfer, "wait"), (end - transfer, end, "transfer"))
            name = GATHER if number % 5 == 3 else ALL_REDUCE
            _kernel(found, name, (start, end), int((number + 0.05) * EVERY), layers, pid, device, 20 + number % 2)
        for _ in range(random_.randrange(30, 90)):
            start = random_.randrange(EVERY, (COLLECTIVES + 1) * EVERY)
            at = (start, start + random_.randrange(1, EVERY // 2))
            what = random_.choice(("compute", "compute", "compute", "copy", "set"))
            _operation(found, what, at, pid, device, random_.choice((7, 9)))
    for builder in found.split.values():
        builder.sql("UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = ?", 10**18)
    pid, device = places[-1]
    at = ((COLLECTIVES + 2) * EVERY, (COLLECTIVES + 3) * EVERY)
    _kernel(found, SEND, at, at[0] - 5 * US, ((*at, "unmatched"),), pid, device, 20)
    return found


def _span(random_: random.Random, number: int) -> tuple[int, int]:
    """A collective that ends with its match, and begins when its rank is there: on a stream one after another."""
    end = (number + 2) * EVERY
    return end - random_.randrange(20 * US, int(1.9 * EVERY)), end + random_.randrange(400)


def _kernel(
    found: Made, name: str, at: tuple[int, int], call: int, layers: tuple[tuple[int, int, str], ...], pid: int,
    device: int, stream: int,
) -> None:  # fmt: skip
    for builder in (found.builder, found.split[pid]):
        builder.kernel(name, at=at, call=(call, call + US), pid=pid, device=device, stream=stream)
    found.done.append(Done(pid, device, stage_at(call), layers))


def _operation(found: Made, what: str, at: tuple[int, int], pid: int, device: int, stream: int) -> None:
    call = at[0] - 5 * US
    where = {"pid": pid, "device": device, "stream": stream}
    for builder in (found.builder, found.split[pid]):
        if what == "compute":
            builder.kernel("gemm", at=at, call=(call, call + US), **where)
        elif what == "copy":
            builder.copy("HtoD", at=at, call=(call, call + US), **where)
        else:
            builder.set(at=at, call=(call, call + US), **where)
    layer = "compute" if what == "compute" else "other"
    found.done.append(Done(pid, device, stage_at(call), ((*at, layer),)))


SEEDS = range(12)
_OF_RANK = {"compute": "compute_busy_ns", "other": "other_busy_ns", "transfer": "transfer_exposed_ns",
            "wait": "wait_exposed_ns", "unmatched": "unmatched_exposed_ns"}  # fmt: skip


def filled(row: pd.Series, column: str) -> int:
    return 0 if pd.isna(row[column]) else int(row[column])


@pytest.mark.parametrize("seed", SEEDS)
def test_the_parts_of_each_rank_are_those_of_a_plain_painting(seed: int, tmp_path: Path) -> None:
    report = made(seed)
    table = dsprof.analyze(report.builder.write(tmp_path / "made.sqlite"), reuse=False)["rank_sum"]
    keys = {(one.stage, one.pid, one.device) for one in report.done}
    assert {(row["stage"], row["pid"], row["device_id"]) for _, row in table.iterrows()} == keys
    for _, row in table.iterrows():
        expected = painted(report.of(stage=row["stage"], pid=row["pid"], device=row["device_id"]))
        found = {part: filled(row, column) for part, column in _OF_RANK.items()}
        assert found == dict(expected)
        assert row["busy_ns"] == sum(expected.values())
        if row["matched"]:
            assert row["transfer_exposed_ns"] + row["transfer_hidden_ns"] == row["transfer_ns"]
            assert row["wait_exposed_ns"] + row["wait_hidden_ns"] == row["wait_ns"]
            assert min(row["transfer_hidden_ns"], row["wait_hidden_ns"]) >= 0
    assert table["matched"].sum() == table["collectives"].sum() - 1
    assert table["launches"].sum() == len(report.done)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_parts_of_each_stage_are_those_of_a_plain_painting(seed: int, tmp_path: Path) -> None:
    """Of all devices of its process together; and so are their sums, and each step has no more than its busy time."""
    report = made(seed)
    analysis = dsprof.analyze(report.builder.write(tmp_path / "made.sqlite"), reuse=False)
    sums = defaultdict(Counter)
    for _, row in analysis["stage_trace"].iterrows():
        expected = painted(report.of(stage=row["stage"], pid=row["pid"]))
        found = {part: filled(row, f"{part}_ns") for part in PARTS}
        assert found == dict(expected)
        assert row["gpu_busy_ns"] == sum(expected.values())
        assert row["gpu_busy_ns"] + row["gpu_idle_ns"] == row["wall_ns"]
        sums[row["stage"]].update(found)
    total = analysis["stage_sum"].groupby("stage", observed=True).sum(numeric_only=True)
    for stage, parts in sums.items():
        assert {part: total.loc[stage, f"{part}_total_ns"] for part in PARTS} == dict(parts)
    steps = analysis["step_trace"]
    assert len(steps.dropna(subset=["step"])) == 4 * len({one.pid for one in report.done})
    told = steps[["transfer_ns", "wait_ns", "unmatched_ns"]].fillna(0).sum(axis=1)
    assert (told <= steps["gpu_busy_ns"]).all()
    assert told.sum() > 0


@pytest.mark.parametrize("parts", [2, 5, 11])
@pytest.mark.parametrize("seed", [0, 2, 5, 8])
def test_the_parts_are_the_same_however_the_report_is_cut(seed: int, parts: int, tmp_path: Path) -> None:
    path = made(seed).builder.write(tmp_path / "made.sqlite")
    whole = Analysis.of(read(path), path=path)
    parted = Analysis.of(ReportInParts(path, parts), path=path)
    for name in ("rank_sum", "stage_trace", "stage_sum", "step_trace", "step_sum", "request_trace"):
        pd.testing.assert_frame_equal(as_text(whole[name]), as_text(parted[name]), check_exact=True, obj=name)
    one, other = (Waits.take(each.results.fact(MatchedCollectives)) for each in (whole, parted))
    assert [part.tolist() for part in one.late] == [part.tolist() for part in other.late]
    assert whole.summary().verdicts == parted.summary().verdicts


@pytest.mark.parametrize("seed", SEEDS)
def test_a_report_for_each_rank_says_what_one_report_says(seed: int, tmp_path: Path) -> None:
    report = made(seed)
    one = dsprof.analyze(report.builder.write(tmp_path / "made.sqlite"), reuse=False)
    several = Ranks.of(
        dsprof.analyze(builder.write(tmp_path / f"made_rank{pid}.sqlite"), reuse=False)
        for pid, builder in report.split.items()
    )
    sent = Ranks([pickle.loads(pickle.dumps(each)) for each in several.reports])
    for each in (several, sent):
        for name in ("rank_sum", "request_trace"):
            table = each[name].drop(columns=["report"])
            same = [column for column in table if not (name == "request_trace" and column in ("request", "range_id"))]
            pd.testing.assert_frame_equal(as_text(one[name])[same], as_text(table)[same], obj=name, check_exact=True)
        for verdict, other in zip(one.summary().verdicts, each.verdicts, strict=True):
            assert plain(verdict) == plain(other)


def plain(verdict: Verdict) -> dict[str, Any]:
    """The numbers of a verdict that do not need more than sums."""
    names = ("stage", "kind", "instances", "wall_ns", "gpu_busy_ns", "wait_ns", "transfer_ns", "unmatched_ns",
             "idle_ns", "busy_pct", "ranks")  # fmt: skip
    return {name: getattr(verdict, name) for name in names}


# -- the recorded reports -------------------------------------------------------------------------------


def test_the_two_recorded_ranks_are_busy_as_a_plain_computation_says(
    exports: list[Path],  # noqa: F811
) -> None:
    """Their collectives run alone, so what is exposed is all of it; the busy time is that of each report by itself."""
    table = Ranks.of(dsprof.analyze(path) for path in exports)["rank_sum"].set_index(["stage", "rank"])
    computed = [plainly(path)[1] for path in exports]
    for (stage, rank), row in table.iterrows():
        assert row["compute_busy_ns"] == computed[rank][stage]
        assert row["transfer_exposed_ns"] == row["transfer_ns"]
        assert row["wait_exposed_ns"] == row["wait_ns"]
        assert row["transfer_hidden_ns"] == row["wait_hidden_ns"] == row["unmatched_exposed_ns"] == 0
        parts = sum(filled(row, column) for column in _OF_RANK.values())
        assert parts == row["busy_ns"]
    for number, path in enumerate(exports):
        alone = dsprof.analyze(path)["stage_trace"]
        for stage in ("prefill", "decode"):
            own = alone[alone["stage"] == stage]
            row = table.loc[(stage, number)]
            assert own["gpu_busy_ns"].sum() == row["busy_ns"]
            assert own["wall_ns"].sum() == row["wall_ns"]
            assert own["launches"].sum() == row["launches"]
            assert row["host_in_calls_ns"] + row["host_outside_ns"] == row["host_ns"] == own["duration_ns"].sum()
            assert own[["transfer_ns", "wait_ns"]].isna().all().all()  # one rank alone does not tell it


def test_the_recorded_ranks_wait_in_turn_and_each_is_named_where_it_is_last(together: Path) -> None:  # noqa: F811
    """Over all requests neither holds the other up; in each the rank that began last most often is waited for."""
    analysis = dsprof.analyze(together)
    decode = next(one for one in analysis.summary().verdicts if one.stage == "decode")
    assert decode.kind == LAUNCH
    assert [group.straggler for group in decode.ranks] == [-1]
    assert decode.ranks[0].reason == "host"
    assert "The ranks wait for each other in turn" in decode.sentence
    turns = [(one.straggler, one.reason, one.first, one.last) for one in decode.ranks[0].in_turn]
    assert turns == [(1, "host", 0, 1), (0, "host", 2, 3)]  # the plant, rank 1 in 3 to 5, is not what made ranks wait
    work = (131_391_964 + 131_514_215 + 2 * 10_074_372 + 1_298_703 + 1_303_909) / 180
    assert decode.limit_us == pytest.approx(work / 1e3, rel=1e-9)
    stages, trace = analysis["stage_trace"], analysis["collective_trace"]
    for _, row in stages[stages["stage"] == "decode"].iterrows():
        rank = {1161: 0, 1164: 1}[row["pid"]]
        mine = trace[
            (trace["stage"] == "decode") & (trace["stage_instance"] == row["instance"]) & (trace["rank"] == rank)
        ]
        assert row["wait_rank"] == 1 - rank
        assert row["wait_rank_ns"] == mine.loc[mine["last"] == "no", "wait_ns"].sum()


def test_what_if_the_host_cost_nothing_counts_no_waiting(together: Path) -> None:  # noqa: F811
    analysis = dsprof.analyze(together)
    (decode,) = analysis.what_if(stage="decode", host=0.0).stages
    least = next(one for one in analysis.summary().verdicts if one.stage == "decode").limit_us
    assert least * 1e3 <= decode.step_predicted_ns < 1.5 * least * 1e3
    assert any("wait for each other" in said for said in decode.assumptions)
    (same,) = analysis.what_if(stage="decode", kernels={"nvjet": 1.0}).stages
    assert same.step_predicted_ns == same.step_replayed_ns


PLANTED = {"even": None, "host": "host", "gpu": "kernels", "copy": "copies", "overlap": None}


@pytest.mark.parametrize("plant", PLANTED)
def test_recorded_plants_are_named_in_the_requests_in_which_they_are(plant: str) -> None:
    """From the second request on one rank does more; before, and where nothing is planted, hosts alone differ."""
    ranks = Ranks.of(dsprof.analyze(SAMPLES / f"h100x2-{plant}-rank{rank}.sqlite.xz") for rank in range(2))
    table = ranks["rank_sum"]
    parts = sum(table[column].fillna(0) for column in _OF_RANK.values())
    assert (parts == table["busy_ns"]).all()
    assert (table["matched"] == table["collectives"]).all()
    hidden = table["transfer_hidden_ns"].sum() + table["wait_hidden_ns"].sum()
    assert (hidden > 0) == (plant == "overlap")
    assert ranks["request_trace"]["ranks"].tolist() == [2] * 4
    trace = ranks["collective_trace"].query("stage == 'decode' and stage_instance > 0").dropna(subset=["bytes"])
    rates = trace.groupby("group")[["bytes", "transfer_ns"]].sum()
    fastest = max(group.bus_bytes / group.bus_ns for group in ranks.waits["decode"])
    assert fastest == pytest.approx(
        (rates["bytes"] / rates["transfer_ns"]).max()
    )  # of two ranks the bytes once; the first warms up
    turns = [turn for group in ranks.waits["decode"] for turn in group.in_turn]
    expected = PLANTED[plant]
    late = {"host": 1, "gpu": 0, "copy": 1}
    (decode,) = (one for one in ranks.verdicts if one.stage == "decode")
    named = {(group.ranks[group.straggler].name, group.reason) for group in decode.ranks if group.straggler >= 0}
    if expected:
        assert (decode.kind, named) == ("straggler-bound", {(f"rank {late[plant]}", expected)})
    if plant == "even":
        assert (decode.kind, named) == ("host-bound", set())
    if expected:
        assert any((turn.straggler, turn.reason, turn.last) == (late[plant], expected, 3) for turn in turns)
    assert {turn.reason for turn in turns} <= {"host", expected}


def test_recorded_replicas_wait_for_nobody() -> None:
    ranks = Ranks.of(dsprof.analyze(SAMPLES / f"h100x2-data-rank{rank}.sqlite.xz") for rank in range(2))
    assert [verdict.ranks for verdict in ranks.verdicts] == [(), ()]
    assert [verdict.wait_ns for verdict in ranks.verdicts] == [0, 0]
    assert ranks["request_trace"]["ranks"].tolist() == [1] * 8


def test_a_request_of_two_recorded_ranks_is_one(together: Path) -> None:  # noqa: F811
    analysis = dsprof.analyze(together)
    table = analysis["request_trace"]
    assert table["ranks"].tolist() == [2] * 6
    assert table["prompt_tokens"].sum() == 6144
    assert table["tpot_busy_ns"].between(1.5e6, 1.7e6).all()
    stages = analysis["stage_trace"].dropna(subset=["request"])
    assert table["wait_ns"].sum() == stages["wait_ns"].sum()
    assert table["gpu_busy_ns"].sum() == stages["gpu_busy_ns"].sum()
    assert not [one for one in analysis.findings if one.code == "requests-apart"]


def test_reports_of_two_hosts_add_up_on_a_common_clock(tmp_path: Path) -> None:
    """Clocks that differ, as the ends of collectives tell: each rank is busy as in its own report."""
    reports = []
    for pid, began in ((1, 10**18), (2, 10**18 + 50 * MS)):
        one = made(0).split[pid]
        one.sql("UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = ?", began)
        one.sql("DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE streamId = 20 AND start > ?", (COLLECTIVES + 1.5) * EVERY)
        reports.append(dsprof.analyze(one.write(tmp_path / f"host_rank{pid}.sqlite"), reuse=False))
    found = Ranks.of(reports)
    assert any(one.clock.by_ends for one in found.matched.ranks)
    table = found["rank_sum"]
    assert (table["matched"] == table["collectives"]).all()
    for _, row in table.iterrows():
        own = reports[row["rank"]]["rank_sum"].set_index("stage").loc[row["stage"]]
        assert sum(filled(row, column) for column in _OF_RANK.values()) == row["busy_ns"] == own["busy_ns"]
        assert row["compute_busy_ns"] == own["compute_busy_ns"]
    for verdict in found.verdicts:
        assert verdict.wait_ns == table.loc[table["stage"] == verdict.stage, "wait_exposed_ns"].sum()
    assert len(found.verdicts) == 2


def test_reports_without_stages_or_collectives_have_no_verdicts(tmp_path: Path) -> None:
    empty = dsprof.analyze(TraceBuilder().range("decode", 0, 10).write(tmp_path / "empty.sqlite"), reuse=False)
    bare = TraceBuilder().kernel("gemm", at=(10, 50), call=(1, 5)).write(tmp_path / "bare.sqlite")
    several = Ranks.of([empty, dsprof.analyze(bare, reuse=False)])
    assert several.verdicts == ()
    assert several.waits == {}
    assert len(several["rank_sum"]) == 1


# -- who holds the others up ----------------------------------------------------------------------------


@dataclass
class Rank:
    """What a rank takes for each layer, in us: its host for a launch, its kernel, and its copy; and what varies."""

    host: float = 8.0
    kernel: float = 40.0
    copy: float = 0.0
    host_varies: float = 0.0
    kernel_varies: float = 0.0


class Run:
    """Ranks that work in step: what is on a GPU waits for what was launched there before it."""

    def __init__(self, ranks: list[Rank], seed: int) -> None:
        self.ranks, self.report, self._random = ranks, TraceBuilder(), random.Random(seed)
        self.now = [1_000.0 + number for number in range(len(ranks))]
        self.free = list(self.now)
        for number in range(len(ranks)):
            self.report.gpu(device=number)

    def varied(self, most: float) -> float:
        return self._random.random() * most

    def launch(self, number: int) -> tuple[tuple[int, int], float]:
        """The call, and when what it launches can begin."""
        one = self.ranks[number]
        self.now[number] += one.host + self.varied(one.host_varies)
        call = (ns(self.now[number]), ns(self.now[number] + 3.0))
        self.now[number] += 3.0
        return call, max(self.free[number], self.now[number] + 1.0)

    def work(self, number: int, took: float, what: str = "gemm") -> None:
        call, begin = self.launch(number)
        self.free[number] = begin + took
        at, where = (ns(begin), ns(begin + took)), {"pid": number + 1, "device": number, "stream": 7}
        if what == "copy":
            self.report.copy(at=at, call=call, **where)
        else:
            self.report.kernel(what, at=at, call=call, **where)

    def all_reduce(self, transfer: float) -> None:
        """It ends on all ranks a little after the last has begun."""
        begun = [self.launch(number) for number in range(len(self.ranks))]
        done = max(begin for _, begin in begun) + transfer
        for number, (call, begin) in enumerate(begun):
            where = {"pid": number + 1, "device": number, "stream": 7}
            self.report.kernel(ALL_REDUCE, at=(ns(begin), ns(done)), call=call, **where)
            self.free[number] = done

    def layer(self, transfer: float) -> None:
        for number, one in enumerate(self.ranks):
            self.work(number, one.kernel + self.varied(one.kernel_varies))
            if one.copy:
                self.work(number, one.copy, "copy")
        self.all_reduce(transfer)

    def wait(self) -> None:
        """Each host waits until its GPU is done."""
        self.now = [max(now, free) + 5.0 for now, free in zip(self.now, self.free, strict=True)]


def run(ranks: list[Rank], seed: int = 0, transfer: float = 10.0, steps: int = 20, layers: int = 6) -> TraceBuilder:
    """A made tensor-parallel decode: each layer is a kernel and an all-reduce, and each step ends with a wait."""
    ran = Run(ranks, seed)
    _decode(ran, transfer, steps, layers)
    return ran.report


def run_requests(requests: list[list[Rank]], steps: int = 12) -> TraceBuilder:
    """Made requests one after another, in each of which the ranks are others."""
    ran = Run(requests[0], 0)
    for number, ranks in enumerate(requests):
        ran.ranks = ranks
        begun = list(ran.now)
        _decode(ran, 10.0, steps, 6)
        for rank, (start, end) in enumerate(zip(begun, ran.now, strict=True)):
            where = {"pid": rank + 1, "domain": "dsprof", "payload": number}
            ran.report.range("request", ns(start) - 20, ns(end) + 20, **where)
        ran.now = [time + 100.0 for time in ran.now]
    return ran.report


def _decode(ran: Run, transfer: float, steps: int, layers: int) -> None:
    marks = [list(ran.now)]
    for _ in range(steps):
        for _ in range(layers):
            ran.layer(transfer)
        ran.wait()
        marks.append(list(ran.now))
    for number in range(len(ran.ranks)):
        own = [ns(mark[number]) for mark in marks]
        ran.report.range("decode", own[0] - 10, own[-1] + 10, pid=number + 1, domain="dsprof")
        for step, (start, end) in enumerate(itertools.pairwise(own), 1):
            ran.report.range("decode.step", start, end - 1, payload=step, pid=number + 1, domain="dsprof")


def ns(us: float) -> int:
    return round(us * US)


def judged(report: TraceBuilder, folder: Path) -> Verdict:
    analysis = dsprof.analyze(report.write(folder / "run.sqlite"), reuse=False)
    (verdict,) = analysis.summary().verdicts
    ranks = analysis["rank_sum"]
    assert ranks["unmatched_ns"].sum() == 0
    assert verdict.wall_ns == verdict.gpu_busy_ns + verdict.wait_ns + sum(verdict.idle_ns.values())
    return verdict


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize(
    ("late", "reason", "said"),
    [
        (Rank(host=60.0), "host", "It is late by its host: while it was waited for, its GPU had nothing to do"),
        (Rank(kernel=110.0), "kernels", "It is late by its kernels: "),
        (Rank(copy=70.0), "copies", "It is late by its copies: "),
    ],
)
def test_a_straggler_is_named_with_what_makes_it_late(
    late: Rank, reason: str, said: str, count: int, tmp_path: Path
) -> None:
    others = [Rank(host_varies=3.0, kernel_varies=2.0) for _ in range(count - 1)]
    verdict = judged(run([others[0], late, *others[1:]]), tmp_path)
    (group,) = verdict.ranks
    blamed = group.ranks[group.straggler]
    assert (group.straggler, blamed.name, blamed.reason) == (1, "rank 1", reason)
    assert blamed.last_pct > 95
    assert "Rank 1 holds the others up: it begins " in verdict.sentence
    assert said in verdict.sentence
    assert ("rank 0 waits" if count == 2 else "the others wait") in verdict.sentence
    late_ns = dict(zip(REASONS, blamed.late_ns, strict=True))
    assert sum(late_ns.values()) == blamed.caused_ns
    assert late_ns[reason] > 0.8 * blamed.caused_ns
    if verdict.kind == STRAGGLER:
        assert "waiting for rank 1" in verdict.sentence


def test_a_rank_that_is_late_in_some_requests_is_named_in_these(tmp_path: Path) -> None:
    """In the fourth to sixth request one rank's host is slow, in the eighth another's kernels."""
    even = [Rank(host_varies=3.0, kernel_varies=2.0) for _ in range(4)]
    slow, busy = Rank(host=60.0, host_varies=3.0), Rank(kernel=110.0)
    requests = [even] * 3 + [[even[0], slow, *even[2:]]] * 3 + [even] + [[*even[:3], busy]] + [even]
    analysis = dsprof.analyze(run_requests(requests).write(tmp_path / "some.sqlite"), reuse=False)
    (verdict,) = analysis.summary().verdicts
    ((one, other),) = [group.in_turn for group in verdict.ranks]
    assert (one.straggler, one.reason, one.of, one.first, one.last) == (1, "host", "request", 3, 5)
    assert (other.straggler, other.reason, other.of, other.first, other.last) == (3, "kernels", "request", 7, 7)
    assert "One holds the others up: rank 1 in requests 3 to 5 (its host), rank 3 in request 7 (its kernels)." in (
        verdict.sentence
    )
    assert analysis["request_trace"]["ranks"].tolist() == [4] * 9
    waits = analysis["stage_trace"].query("request == 4")
    assert waits["wait_rank"].dropna().unique().tolist() == [1]


def test_a_stage_that_waits_for_one_rank_most_is_called_by_it(tmp_path: Path) -> None:
    verdict = judged(run([Rank(), Rank(kernel=200.0), Rank(), Rank()]), tmp_path)
    assert verdict.kind == STRAGGLER
    assert verdict.sentence.startswith("decode is straggler-bound: the GPU is busy ")
    assert " % goes to waiting for rank 1, " in verdict.sentence


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [2, 3, 8])
def test_nobody_is_named_in_an_even_run(count: int, seed: int, tmp_path: Path) -> None:
    """All ranks are as quick, and vary as much: a little, or a lot."""
    for host, kernel in ((2.0, 2.0), (80.0, 0.0), (0.0, 120.0)):
        even = [Rank(host_varies=host, kernel_varies=kernel) for _ in range(count)]
        verdict = judged(run(even, seed, steps=8), tmp_path)
        assert [group.straggler for group in verdict.ranks] == [-1]
        assert "holds the others up" not in verdict.sentence
        assert not any(group.in_turn for group in verdict.ranks)
        assert verdict.kind != STRAGGLER


def test_hosts_that_are_late_in_turn_are_said_so(tmp_path: Path) -> None:
    verdict = judged(run([Rank(host=10, kernel=8, host_varies=60.0) for _ in range(2)], steps=40), tmp_path)
    assert verdict.kind == LAUNCH
    assert "The ranks wait for each other " in verdict.sentence
    assert "They are late by the hosts" in verdict.sentence


def test_kernels_that_are_uneven_in_turn_are_an_imbalance(tmp_path: Path) -> None:
    verdict = judged(run([Rank(host=2.0, kernel=10.0, kernel_varies=250.0) for _ in range(8)], steps=20), tmp_path)
    assert verdict.kind in (IMBALANCE, "mixed")
    assert "They are late by the kernels" in verdict.sentence
    assert ", the other 4 less. They are late" in verdict.sentence


def test_transfers_that_take_most_are_communication(tmp_path: Path) -> None:
    verdict = judged(run([Rank(), Rank()], transfer=400.0), tmp_path)
    assert verdict.kind == COMMUNICATION
    assert "how many bytes is not known" in verdict.sentence
    known = evolve(verdict, ranks=(evolve(verdict.ranks[0], bus_bytes=4_000_000, bus_ns=400_000),))
    assert "move 10.0 GB/s over each rank's link, of the 450 that NVLink has on such GPUs." in of_ranks(known, 450e9)
    assert "move 10.0 GB/s over each rank's link, to be held against what it can do." in of_ranks(known)
    assert judged(run([Rank(kernel=300.0), Rank(kernel=300.0)], transfer=50.0), tmp_path).kind == GPU


def test_of_one_rank_alone_it_is_said_that_waiting_is_not_known(tmp_path: Path) -> None:
    report = TraceBuilder()
    for number in range(20):
        start = number * 200_000 + 10_000
        report.kernel(ALL_REDUCE, at=(start, start + 150_000), call=(start - 5_000, start - 4_000))
    report.range("decode", 0, 20 * 200_000, domain="dsprof")
    analysis = dsprof.analyze(report.write(tmp_path / "alone.sqlite"), reuse=False)
    (verdict,) = analysis.summary().verdicts
    assert verdict.kind == COMMUNICATION
    assert "the reports of all ranks together tell" in verdict.sentence
    assert verdict.transfer_ns == verdict.wait_ns == 0
    assert analysis["stage_trace"][["transfer_ns", "wait_ns"]].isna().all().all()
    assert analysis["stage_sum"]["wait_total_ns"].isna().tolist() == [True, True, False][: len(analysis["stage_sum"])]


def test_without_collectives_nothing_waits_and_all_is_as_before(tmp_path: Path) -> None:
    report = TraceBuilder().range("decode", 0, 100, domain="dsprof").kernel("gemm", at=(10, 50), call=(1, 5))
    analysis = dsprof.analyze(report.copy(at=(40, 60), call=(6, 8)).write(tmp_path / "none.sqlite"), reuse=False)
    (row,) = analysis["stage_trace"].to_dict("records")
    assert [row[f"{part}_ns"] for part in PARTS] == [40, 10, 0, 0, 0]
    assert row["gpu_busy_ns"] == 50
    assert pd.isna(row["wait_rank"])
    summary = analysis.summary()
    assert summary.ranks == ()
    assert [one.ranks for one in summary.verdicts] == [()]


# -- requests of a group --------------------------------------------------------------------------------


def requests(operations: list[str], tokens: tuple[int, int] = (64, 64), at: tuple[int, int] = (0, 0)) -> TraceBuilder:
    """Two ranks with two requests each, of 20 collectives each."""
    report = TraceBuilder()
    for rank in range(2):
        where = {"pid": rank + 1, "device": rank}
        for request in range(2):
            begin = request * 40 * EVERY
            report.range("request", begin, begin + 30 * EVERY, payload=request, pid=rank + 1, domain="dsprof")
            report.range("prefill", begin, begin + 9 * EVERY, payload=tokens[rank], pid=rank + 1, domain="dsprof")
            report.range("decode", begin + 9 * EVERY, begin + 29 * EVERY, payload=8, pid=rank + 1, domain="dsprof")
            for number in range(20):
                end = begin + (number + 1) * EVERY + at[rank]
                start = end - 60 * US - rank * 20 * US
                name = operations[number % len(operations)]
                report.kernel(name, at=(start, end), call=(start - 5 * US, start - 4 * US), **where)
    return report


def test_requests_of_a_tensor_parallel_group_are_one(tmp_path: Path) -> None:
    analysis = dsprof.analyze(requests([ALL_REDUCE]).write(tmp_path / "tp.sqlite"), reuse=False)
    table = analysis["request_trace"]
    assert table[["request", "ranks", "pid", "stages", "prompt_tokens"]].to_numpy().tolist() == [
        [0, 2, 1, 4, 64], [1, 2, 1, 4, 64],
    ]  # fmt: skip
    assert table["wait_ns"].tolist() == [20 * 20 * US] * 2
    assert table["gpu_busy_ns"].tolist() == [20 * 140 * US] * 2
    assert analysis.summary().requests[0].ranks == 2


@pytest.mark.parametrize(
    ("report", "apart"),
    [
        (requests([ALL_REDUCE], tokens=(64, 65)), False),  # other requests
        (requests([ALL_REDUCE], at=(0, 400 * US)), False),  # replicas, whose collectives are not each other's
        (requests([GATHER, GATHER, ALL_REDUCE]), True),  # ranks that share experts
    ],
)
def test_requests_that_nothing_says_are_one_stay_apart(report: TraceBuilder, apart: bool, tmp_path: Path) -> None:
    analysis = dsprof.analyze(report.write(tmp_path / "dp.sqlite"), reuse=False)
    assert analysis["request_trace"]["ranks"].tolist() == [1] * 4
    assert sorted(analysis["request_trace"]["pid"].tolist()) == [1, 1, 2, 2]
    said = [one for one in analysis.findings if one.code == "requests-apart"]
    assert bool(said) == apart
    if apart:
        assert said[0].message.startswith("4 requests share their collectives with those of other ranks")
