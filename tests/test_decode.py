"""What the H200 reports say of requests and steps, against plain SQL and loops over the export: none of our modules.

`Plain` reads the ranges by their names, finds what each launched by correlation id, and adds up by hand; the numbers of
the tables and of the first screen must be the same.
"""

from __future__ import annotations

import lzma
import shutil
import sqlite3
import statistics
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

import dsprof

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "traces" / "samples", ROOT.parent / "shared" / "traces")
LAYERS, EAGER, NODE, GRAPH = "h200-dsocr2-layers", "h200-stages", "h200-graphs-node", "h200-graphs-graph"
GPU_TABLES = ("KERNEL", "MEMCPY", "MEMSET", "GRAPH_TRACE")


class Span(NamedTuple):
    """A range of the report: its thread, times and payload."""

    thread: int
    start: int
    end: int
    payload: int | None


def covered(intervals: list[tuple[int, int]]) -> int:
    """Length of the union."""
    total, reached = 0, -(2**63)
    for start, end in sorted(intervals):
        total += max(end - max(start, reached), 0)
        reached = max(reached, end)
    return total


class Plain:
    """One export, read by hand."""

    def __init__(self, export: Path) -> None:
        with closing(sqlite3.connect(f"file:{export}?mode=ro", uri=True)) as sql:
            tables = {name for (name,) in sql.execute("SELECT name FROM sqlite_master")}
            self.ranges: dict[str, list[Span]] = {}
            named = (
                "SELECT coalesce(n.text, s.value), n.globalTid, n.start, n.end, n.int64Value, n.int32Value, "
                "n.uint64Value, n.uint32Value FROM NVTX_EVENTS n LEFT JOIN StringIds s ON s.id = n.textId "
                "WHERE n.eventType IN (59, 60) AND n.end IS NOT NULL ORDER BY n.start"
            )
            for name, thread, start, end, *payloads in sql.execute(named):
                payload = next((value for value in payloads if value is not None), None)
                self.ranges.setdefault(name, []).append(Span(thread, start, end, payload))
            self.calls = sql.execute(
                "SELECT r.start, r.end, r.globalTid, r.correlationId, s.value FROM CUPTI_ACTIVITY_KIND_RUNTIME r "
                "JOIN StringIds s ON s.id = r.nameId ORDER BY r.start"
            ).fetchall()
            self.behind: dict[int, list[tuple[int, int, str]]] = {}
            for what in GPU_TABLES:
                if (table := f"CUPTI_ACTIVITY_KIND_{what}") in tables:
                    for correlation, start, end in sql.execute(f"SELECT correlationId, start, end FROM {table}"):
                        self.behind.setdefault(correlation, []).append((start, end, what))

    def launched(self, span: Span) -> list[tuple[int, int, str]]:
        """Operations whose call began in the range, on its thread."""
        found = []
        for start, _, thread, correlation, _ in self.calls:
            if thread == span.thread and span.start <= start < span.end:
                found += self.behind.get(correlation, [])
        return found

    def launches(self, span: Span) -> int:
        return sum(
            thread == span.thread and span.start <= start < span.end and correlation in self.behind
            for start, _, thread, correlation, _ in self.calls
        )

    def busy(self, span: Span) -> int:
        return covered([(start, end) for start, end, _ in self.launched(span)])

    def kernels(self, span: Span) -> int:
        return sum(what in ("KERNEL", "GRAPH_TRACE") for _, _, what in self.launched(span))

    def inside(self, name: str, outer: Span) -> list[Span]:
        return [one for one in self.ranges[name] if outer.start <= one.start < outer.end and one.thread == outer.thread]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory):
    """By name: the plain reading and the analysis of a report."""
    folder, made = tmp_path_factory.mktemp("decode"), {}

    def of(name: str) -> tuple[Plain, dsprof.analysis.analyze.Analysis]:
        if name not in made:
            packed = [path for path in (one / f"{name}.sqlite.xz" for one in FOLDERS) if path.is_file()]
            if not packed:
                pytest.skip(f"{name} is neither in traces/samples nor in ../shared/traces")
            target = folder / f"{name}.sqlite"
            with lzma.open(packed[0]) as source, target.open("wb") as unpacked:
                shutil.copyfileobj(source, unpacked)
            made[name] = (Plain(target), dsprof.analyze(target))
        return made[name]

    return of


@pytest.mark.parametrize("name", [LAYERS, NODE, GRAPH])
def test_latencies_of_every_request(reports, name) -> None:
    plain, analysis = reports(name)
    rows = analysis.arrow("request_trace").to_pylist()
    requests = plain.ranges["request"]
    assert len(rows) == len(requests) > 0
    for row, request in zip(rows, requests, strict=True):
        (prefill,), (decode,) = plain.inside("prefill", request), plain.inside("decode", request)
        steps = len(plain.inside("decode.step", decode))
        first_gpu = max(end for _, end, _ in plain.launched(prefill))
        last_gpu = max(end for _, end, _ in plain.launched(decode))
        assert (row["request"], row["prompt_tokens"], row["new_tokens"]) == (
            request.payload,
            prefill.payload,
            1 + steps,
        )
        assert row["ttft_host_ns"] == prefill.end - request.start
        assert row["ttft_gpu_ns"] == first_gpu - request.start
        assert row["tpot_host_ns"] == (decode.end - prefill.end) / steps
        assert row["tpot_gpu_ns"] == (last_gpu - first_gpu) / steps
        assert row["tpot_busy_ns"] == plain.busy(decode) / steps
        assert row["e2e_ns"] == request.end - request.start
        assert row["tokens_per_s"] == pytest.approx((1 + steps) / (request.end - request.start) * 1e9)
        assert row["gpu_busy_ns"] == plain.busy(prefill) + plain.busy(decode)
        assert row["launches"] == plain.launches(prefill) + plain.launches(decode)
        assert row["kernels"] == plain.kernels(prefill) + plain.kernels(decode)


def test_steps_of_the_layers_report(reports) -> None:
    """63 steps in either request: each one's times, and the percentiles of the steady ones."""
    plain, analysis = reports(LAYERS)
    table = analysis["step_trace"].dropna(subset=["range_id"])
    steps = [step for decode in plain.ranges["decode"] for step in plain.inside("decode.step", decode)]
    assert len(table) == len(steps) == 126
    assert table["duration_ns"].tolist() == [step.end - step.start for step in steps]
    chosen = [0, 62, 63, 100, 125]
    assert table["gpu_busy_ns"].iloc[chosen].tolist() == [plain.busy(steps[row]) for row in chosen]
    assert table["kernels"].iloc[chosen].tolist() == [plain.kernels(steps[row]) for row in chosen]
    assert table["launches"].iloc[chosen].tolist() == [plain.launches(steps[row]) for row in chosen]
    assert table["context_tokens"].tolist() == [1020 + number for number in [*range(1, 64), *range(1, 64)]]
    (line,) = analysis.summary().steps
    steady = [step.end - step.start for step in steps[63:]]
    cut = statistics.quantiles(steady, n=100, method="inclusive")
    assert (line.steps, line.warm_up_steps, line.duration_max_ns) == (63, 63, max(steady))
    assert [line.duration_p50_ns, line.duration_p90_ns, line.duration_p99_ns] == pytest.approx(
        [statistics.median(steady), cut[89], cut[98]])  # fmt: skip
    kept = ~table["outlier"].iloc[63:].to_numpy(bool)
    slope, _ = statistics.linear_regression(
        [1021 + row for row in range(63) if kept[row]], table["gpu_busy_ns"].iloc[63:][kept].tolist())  # fmt: skip
    assert line.gpu_busy_drift_ns_per_token == pytest.approx(slope)


def test_outliers_of_the_layers_report(reports) -> None:
    plain, analysis = reports(LAYERS)
    steps = [step.end - step.start for step in plain.inside("decode.step", plain.ranges["decode"][1])]
    middle = statistics.median(steps)
    deviation = statistics.median(abs(step - middle) for step in steps)
    expected = {number for number, step in enumerate(steps, 1)
                if step > 1.2 * middle and 0.6745 * (step - middle) / deviation > 3.5}  # fmt: skip
    table = analysis["step_trace"]
    found = table[table["outlier"]]
    assert set(found["step"]) == expected and set(found["instance"]) == {1}
    slowest = analysis.summary().outliers[0]
    assert (slowest.request, slowest.step, slowest.duration_ns) == (1, steps.index(max(steps)) + 1, max(steps))
    assert slowest.duration_by_median == pytest.approx(max(steps) / middle)


def test_where_the_time_of_the_layers_decode_went(reports) -> None:
    """Busy and idle add up to the wall time, and the host's side of it is told by looking at each call."""
    plain, analysis = reports(LAYERS)
    decode = plain.ranges["decode"][1]
    row = next(
        row for row in analysis.arrow("stage_trace").to_pylist() if (row["stage"], row["instance"]) == ("decode", 1)
    )
    idle = {name.removeprefix("idle_").removesuffix("_ns"): row[name] for name in row if name.startswith("idle_")}
    assert row["gpu_busy_ns"] == plain.busy(decode)
    assert row["gpu_busy_ns"] + sum(idle.values()) == row["wall_ns"] == decode.end - decode.start
    assert row["gpu_busy_ns"] / row["wall_ns"] == pytest.approx(0.099, abs=0.001)
    calls = [(max(start, decode.start), min(end, decode.end)) for start, end, thread, _, _ in plain.calls
             if thread == decode.thread and start < decode.end and end > decode.start]  # fmt: skip
    busy = [(start, end) for start, end, _ in plain.launched(decode)]
    # Outside of CUDA, and the GPU idle: what neither a call, nor an operation, nor a wait for one covers.
    waits = []
    by_id = {correlation: end for _, end, thread, correlation, _ in plain.calls if thread == decode.thread}
    for correlation, operations in plain.behind.items():
        waits += [(by_id[correlation], start) for start, _, _ in operations if by_id.get(correlation, start) < start]
    inside = [(max(start, decode.start), min(end, decode.end)) for start, end in waits
              if start < decode.end and end > decode.start]  # fmt: skip
    assert idle["host"] + idle["profiler"] == decode.end - decode.start - covered(calls + busy + inside)


def test_the_host_s_time_in_the_layers_decode_by_call(reports) -> None:
    plain, analysis = reports(LAYERS)
    expected: dict[str, list[int]] = {}
    covered_ns = 0
    for decode in plain.ranges["decode"]:
        mine = [(start, end, name) for start, end, thread, _, name in plain.calls
                if thread == decode.thread and decode.start <= start < decode.end]  # fmt: skip
        covered_ns += covered([(start, end) for start, end, _ in mine])
        for start, end, name in mine:
            expected.setdefault(name.split("_v")[0], []).append(end - start)
    table = analysis["stage_api_sum"]
    rows = {row["api_name"]: row for row in table[table["stage"] == "decode"].to_dict("records")}
    outside = rows.pop("(outside CUDA)")
    assert {name: (row["instances"], row["total_ns"], row["med_ns"]) for name, row in rows.items()} == {
        name: (len(values), sum(values), statistics.median(values)) for name, values in expected.items()}  # fmt: skip
    assert outside["host_ns"] == sum(decode.end - decode.start for decode in plain.ranges["decode"]) - covered_ns


def test_the_layers_decode_is_launch_bound(reports) -> None:
    plain, analysis = reports(LAYERS)
    verdict = next(one for one in analysis.summary().verdicts if one.stage == "decode")
    decode = plain.ranges["decode"][1]
    wall = decode.end - decode.start
    assert (verdict.kind, verdict.instances, verdict.warm_up) == ("launch-bound", 1, 1)
    assert verdict.launches_per_step == plain.launches(decode) / 63
    assert verdict.kernels_per_step == plain.kernels(decode) / 63
    assert verdict.launches_per_s == pytest.approx(plain.launches(decode) / wall * 1e9)
    assert (verdict.step_us, verdict.limit_us) == (wall / 63 / 1e3, plain.busy(decode) / 63 / 1e3)


def test_graphs_launch_less_for_a_step_and_the_verdict_follows(reports) -> None:
    """Per step, counted by hand: the eager decode launches each kernel, the replays launch many at once."""
    verdicts, launches, kernels = {}, {}, {}
    for name in (EAGER, NODE, GRAPH):
        plain, analysis = reports(name)
        decode = plain.ranges["decode"][-1]
        steps = len(plain.inside("decode.step", decode))
        launches[name], kernels[name] = plain.launches(decode) / steps, plain.kernels(decode) / steps
        verdicts[name] = next((one.kind for one in analysis.summary().verdicts if one.stage == "decode"), None)
        assert analysis.summary().steps[0].launches_p50 == pytest.approx(launches[name], abs=0.5)
    assert launches[EAGER] > kernels[EAGER] > 700
    assert launches[NODE] == launches[GRAPH] == 1.5
    assert kernels[NODE] > 10 * launches[NODE]
    assert kernels[GRAPH] == launches[GRAPH]
    assert (verdicts[EAGER], verdicts[NODE]) == ("launch-bound", "GPU-bound")
    assert verdicts[GRAPH] != "launch-bound"


def test_graph_mode_says_what_is_hidden(reports) -> None:
    plain, analysis = reports(GRAPH)
    replays = sum(what == "GRAPH_TRACE" for operations in plain.behind.values() for _, _, what in operations)
    (found,) = [found for found in analysis.summary().findings if found.code == "graphs-hidden"]
    assert found.message.startswith(f"{replays} CUDA graph replays")
    assert "--cuda-graph-trace=node" in found.hint


@pytest.mark.parametrize("name", [EAGER, LAYERS, NODE, GRAPH])
def test_tables_share_out_what_the_report_holds(reports, name) -> None:
    _, analysis = reports(name)
    stages, requests, api = (analysis[table] for table in ("stage_sum", "request_trace", "stage_api_sum"))
    for column, whole in (
        ("launches", "launches_total"),
        ("kernels", "kernels_total"),
        ("gpu_busy_ns", "gpu_busy_total_ns"),
    ):
        assert requests[column].sum() == stages.iloc[:-1][whole].sum()
    host = api.groupby("stage", observed=True)["host_ns"].sum().to_dict()
    for stage, duration in stages.iloc[:-1].groupby("stage", observed=True)["duration_total_ns"].sum().items():
        assert host[stage] == duration
    assert api["instances"].sum() == analysis.summary().counts.api_calls
