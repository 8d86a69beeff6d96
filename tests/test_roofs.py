"""Roofs of prefills and decodes: made reports whose numbers are worked out by hand, and the H200's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.answers import roofs
from dsprof.answers.roofs import ASK
from dsprof.answers.verdicts import judge
from dsprof.findings import STRICT_EXITS
from dsprof.model.costs import View, model_of
from dsprof.model.peaks import peaks_of
from test_verdicts import instance
from trace_builder import TraceBuilder

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
#: One layer of 8 wide, one head: what it costs can be worked out on paper.
CONFIG = {"model_type": "llama", "vocab_size": 100, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
          "num_attention_heads": 1, "num_key_value_heads": 1, "tie_word_embeddings": True}  # fmt: skip
#: Its attention (4 x 64), gated part (3 x 128) and head (800): weights that a token is multiplied with.
LINEAR, HEAD = 640, 800
MS = 1_000_000


def report(steps: int = 2, payload: int | None = 10, busy: int = MS, **where: Any) -> TraceBuilder:
    """A request whose prefill and steps each keep the GPU busy for `busy` ns of 10 ms."""
    made = TraceBuilder().range("request", 0, 100 * MS, payload=0, **where)
    made.range("prefill", MS, 11 * MS, payload=payload, **where)
    made.kernel(at=(2 * MS, 2 * MS + busy), call=(MS + 1, MS + 2), **where)
    made.range("decode", 20 * MS, 20 * MS + 10 * MS * max(steps, 1), payload=None if steps else 3, **where)
    for step in range(steps):
        start = 20 * MS + 10 * MS * step
        made.range("decode.step", start, start + 10 * MS, payload=step + 1, **where)
        made.kernel(at=(start + MS, start + MS + busy), call=(start + 1, start + 2), **where)
    if not steps:
        made.kernel(at=(21 * MS, 21 * MS + busy), call=(20 * MS + 1, 20 * MS + 2), **where)
    return made


def analyzed(made: TraceBuilder, folder: Path, config: dict[str, Any] | None = None, **options: Any) -> Analysis:
    """The report analyzed with a model beside it; `config` is a checkpoint's, in bfloat16."""
    path = made.write(folder / "run.sqlite")
    if config is not None:
        (folder / "run.model.json").write_text(json.dumps({"dtype": "bfloat16", **config}))
    return dsprof.analyze(path, **options)


def rows_of(analysis: Analysis) -> list[dict[str, Any]]:
    return analysis.arrow("stage_roof_trace").to_pylist()


def codes(analysis: Analysis) -> list[str]:
    return [found.code for found in analysis.findings]


# -- by hand -------------------------------------------------------------------------------------------


def test_the_costs_of_a_prefill_and_a_decode_by_hand(tmp_path: Path) -> None:
    prefill, decode = rows_of(analyzed(report().gpu(), tmp_path, CONFIG))
    attention = 4 * 8  # operations of one pair of tokens
    assert prefill["model_flops"] == 2 * (10 * LINEAR + HEAD) + attention * 55
    assert decode["model_flops"] == 2 * 2 * (LINEAR + HEAD) + attention * (11 + 12)
    weights, token, norms = LINEAR + HEAD, 8, 3 * 8
    assert prefill["model_bytes"] == 2 * (weights + norms + 10 * token + 2 * 8 * 10)
    assert decode["model_bytes"] == 2 * (2 * (weights + norms + token) + 2 * 8 * (11 + 12))
    assert (prefill["tokens"], prefill["context_tokens"], decode["tokens"], decode["context_tokens"]) == (10, 0, 2, 10)


def test_the_shares_are_the_roofs_by_the_time(tmp_path: Path) -> None:
    prefill, decode = rows_of(analyzed(report().gpu(), tmp_path, CONFIG))
    flops, moved = 132 * 4096 * 1.98e9, 4.91712e12  # the made GPU's
    assert (prefill["wall_ns"], prefill["gpu_busy_ns"], decode["gpu_busy_ns"]) == (10 * MS, MS, 2 * MS)
    for row in (prefill, decode):
        assert (row["peak_flops_per_s"], row["peak_bytes_per_s"]) == pytest.approx((flops, moved))
        assert row["compute_roof_ns"] == pytest.approx(row["model_flops"] / flops * 1e9)
        assert row["memory_roof_ns"] == pytest.approx(row["model_bytes"] / moved * 1e9)
        for share, roof, taken in (
            ("mfu", "compute", "wall"), ("busy_mfu", "compute", "gpu_busy"), ("bandwidth", "memory", "wall"),
            ("busy_bandwidth", "memory", "gpu_busy"),
        ):  # fmt: skip
            assert row[f"{share}_pct"] == pytest.approx(100 * row[f"{roof}_roof_ns"] / row[f"{taken}_ns"])
        assert row["flops_per_byte"] == pytest.approx(row["model_flops"] / row["model_bytes"])
        assert row["roof"] == "memory"


def test_a_decode_without_steps_has_its_payloads(tmp_path: Path) -> None:
    with_steps = rows_of(analyzed(report(steps=3).gpu(), tmp_path, CONFIG))[1]
    without = rows_of(analyzed(report(steps=0).gpu(), tmp_path, CONFIG))[1]
    assert (without["tokens"], without["model_flops"]) == (3, with_steps["model_flops"])


def test_a_decode_that_was_cut_counts_the_steps_before(tmp_path: Path) -> None:
    made = TraceBuilder().gpu().range("request", 0, 90).range("prefill", 1, 9, payload=10)
    made.range("decode", 10, 50).range("decode.step", 11, 20, payload=5).kernel(at=(12, 15), call=(11, 12))
    decode = rows_of(analyzed(made, tmp_path, CONFIG))[1]
    assert decode["model_flops"] == 2 * (LINEAR + HEAD) + 4 * 8 * 15


def test_the_prompt_is_that_of_the_request_else_of_the_thread(tmp_path: Path) -> None:
    """Two requests in turn on one thread; then the same without requests, where the last prefill counts."""
    made, plain = TraceBuilder().gpu(), TraceBuilder().gpu()
    for number, prompt in enumerate((10, 20)):
        at = 100 * number
        for one in (made, plain):
            one.range("prefill", at + 1, at + 10, payload=prompt).kernel(at=(at + 2, at + 4), call=(at + 1, at + 2))
            one.range("decode", at + 20, at + 40).range("decode.step", at + 21, at + 30, payload=1)
        made.range("request", at, at + 50, payload=number)
    for one in (made, plain):
        analysis = analyzed(one, tmp_path, CONFIG)
        assert [row["context_tokens"] for row in rows_of(analysis)] == [0, 10, 0, 20]
        assert analysis["step_trace"]["context_tokens"].tolist() == [11, 21]


def test_prompts_of_other_threads_and_processes_are_not_mixed_up(tmp_path: Path) -> None:
    """Two threads without requests, and two processes that number theirs alike; each prefill before either decode."""
    made = TraceBuilder().gpu()
    for lane, (where, prompt) in enumerate(
        (({"tid": 1}, 10), ({"tid": 2}, 20), ({"pid": 300}, 30), ({"pid": 400}, 40))
    ):
        if "pid" in where:
            made.range("request", 0, 100, payload=7, **where)
        made.range("prefill", 1 + lane, 10 + lane, payload=prompt, **where)
        made.kernel(at=(40 + lane, 41 + lane), call=(2 + lane, 3 + lane), **where)
        made.range("decode", 50 + lane, 60 + lane, **where).range("decode.step", 51 + lane, 52 + lane, **where)
    analysis = analyzed(made, tmp_path, CONFIG)
    assert [row["context_tokens"] for row in rows_of(analysis) if row["stage"] == "decode"] == [10, 20, 30, 40]


def test_batch_and_views_come_from_the_record(tmp_path: Path) -> None:
    alone = rows_of(analyzed(report().gpu(), tmp_path, CONFIG))
    document = {"schema": "dsprof.model/1", "config": CONFIG, "dtype": "bfloat16", "batch": 3, "views": []}
    (tmp_path / "other.json").write_text(json.dumps(document))
    analysis = analyzed(report().gpu(), tmp_path, model_config=tmp_path / "other.json")
    assert [row["batch"] for row in rows_of(analysis)] == [3, 3]
    for one, three in zip(alone, rows_of(analysis), strict=True):
        assert three["model_flops"] == 3 * one["model_flops"]
        assert one["model_bytes"] < three["model_bytes"] < 3 * one["model_bytes"]
    assert codes(analysis) == []


def test_what_is_assumed_is_said(tmp_path: Path) -> None:
    analysis = analyzed(report().gpu(), tmp_path, CONFIG)
    assert codes(analysis) == ["roofs-assume"]
    assert "the batch is not known, and 1 is assumed." in analysis.findings[0].message


# -- where there is no roof ----------------------------------------------------------------------------


def test_without_a_model_the_summary_says_what_to_give(tmp_path: Path) -> None:
    analysis = analyzed(report().gpu(), tmp_path)
    assert (len(analysis["stage_roof_trace"]), analysis.summary().roofs, codes(analysis)) == (0, (), [])
    assert analysis.summary().roofs_note == ASK
    assert "--model-config" in analysis._repr_html_()


def test_a_report_without_a_gpu_is_not_asked_for_a_model(tmp_path: Path) -> None:
    analysis = analyzed(TraceBuilder().range("prefill", 0, 10, payload=3), tmp_path)
    assert analysis.summary().roofs_note == ""


@pytest.mark.parametrize(
    ("config", "gpu", "sentence"),
    [
        ({**CONFIG, "model_type": "bert"}, {}, "architecture bert are not known"),
        ({**CONFIG, "dtype": None}, {}, "the file names no dtype"),
        ({**CONFIG, "dtype": "int4"}, {}, "their type is int4"),
        (CONFIG, {"compute": (6, 1)}, "compute capability 6.1"),
    ],
)
def test_a_model_or_gpu_that_is_not_known_is_told(
    tmp_path: Path, config: dict[str, Any], gpu: dict[str, Any], sentence: str
) -> None:
    analysis = analyzed(report().gpu(**gpu), tmp_path, config)
    assert codes(analysis) == ["no-roofs"]
    assert sentence in analysis.findings[0].message
    assert (rows_of(analysis), analysis.summary().roofs, analysis.summary().roofs_note) == ([], (), "")


def test_a_report_that_names_no_gpu_has_no_roofs(tmp_path: Path) -> None:
    analysis = analyzed(report(), tmp_path, CONFIG)
    assert "names no GPU" in analysis.findings[0].message


def test_a_damaged_file_beside_the_report_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "run.model.json").write_text("{")
    analysis = analyzed(report().gpu(), tmp_path)
    assert codes(analysis) == ["no-roofs"]
    assert "does not say which model ran" in analysis.findings[0].message


@pytest.mark.parametrize("payload", [None, -5, 0, 1 << 60])
def test_a_payload_that_is_no_prompt_leaves_its_stages_out(tmp_path: Path, payload: int | None) -> None:
    analysis = analyzed(report(payload=payload).gpu(), tmp_path, CONFIG)
    assert rows_of(analysis) == []
    assert [found.message for found in analysis.findings] == [
        "2 prefills or decodes are left out of the roofs: their tokens, or those of their prompt, are not known."
    ]


def test_payloads_that_would_be_too_many_forwards_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decode without steps has its payload for tokens; one with steps is as long as they are many."""
    monkeypatch.setattr(roofs, "MOST_FORWARDS", 4)
    made = report(steps=2).gpu().range("decode", 60 * MS, 70 * MS, payload=3)
    analysis = analyzed(made, tmp_path, CONFIG)
    assert [(row["stage"], row["tokens"]) for row in rows_of(analysis)] == [("prefill", 10), ("decode", 2)]
    monkeypatch.setattr(roofs, "MOST_FORWARDS", 5)
    assert len(rows_of(analyzed(made, tmp_path, CONFIG))) == 3


def test_pictures_that_cannot_be_are_told(tmp_path: Path) -> None:
    document = json.loads((SAMPLES / "h200-stages.model.json").read_text())
    document["views"] = [[1 << 16, 1 << 16, 1 << 16]]
    (tmp_path / "run.model.json").write_text(json.dumps(document))
    analysis = analyzed(report().gpu(), tmp_path)
    assert codes(analysis) == ["no-roofs"]
    assert "operations, which cannot be" in analysis.findings[0].message


def test_a_stage_that_another_took_work_from_has_no_roof(tmp_path: Path) -> None:
    made = report().gpu().range("encode_image", 3 * MS, 4 * MS)
    analysis = analyzed(made, tmp_path, CONFIG, stages={"vision": "encode_image"})
    assert [row["stage"] for row in rows_of(analysis)] == ["decode"]
    assert "other stages within them" in analysis.findings[0].message


# -- several GPUs --------------------------------------------------------------------------------------


def test_the_peaks_of_the_gpus_that_a_stage_ran_on_add_up(tmp_path: Path) -> None:
    made = report().gpu().gpu(device=1)
    made.kernel(at=(3 * MS, 4 * MS), call=(MS + 5, MS + 6), device=1)
    prefill, decode = rows_of(analyzed(made, tmp_path, CONFIG))
    assert (prefill["devices"], decode["devices"]) == (2, 1)
    assert prefill["peak_flops_per_s"] == pytest.approx(2 * decode["peak_flops_per_s"])
    assert prefill["compute_roof_ns"] == pytest.approx(prefill["model_flops"] / prefill["peak_flops_per_s"] * 1e9)


def test_gpus_of_several_kinds_are_told_apart_by_what_was_used(tmp_path: Path) -> None:
    made = report().gpu().gpu("NVIDIA A2", device=1, compute=(8, 6))
    assert {row["devices"] for row in rows_of(analyzed(made, tmp_path, CONFIG))} == {1}
    made.kernel(at=(3 * MS, 4 * MS), call=(MS + 5, MS + 6), device=1)
    analysis = analyzed(made, tmp_path, CONFIG)
    assert "GPUs of several kinds: NVIDIA A2, NVIDIA H200" in analysis.findings[0].message


# -- above a roof --------------------------------------------------------------------------------------


def test_above_a_roof_is_an_error_and_no_number(tmp_path: Path) -> None:
    """A model that is far too large for the time: where one share is impossible, none of them is shown."""
    large = {**CONFIG, "vocab_size": 4_000_000}
    analysis = analyzed(report(steps=1, busy=10).gpu(), tmp_path, large)
    prefill, decode = rows_of(analysis)
    for row in (prefill, decode):
        assert [row[f"{share}_pct"] for share in ("mfu", "busy_mfu", "bandwidth", "busy_bandwidth")] == [None] * 4
        assert row["wall_ns"] > row["memory_roof_ns"] > row["gpu_busy_ns"]
    found = next(found for found in analysis.findings if found.code == "over-roof")
    assert found.strict_exit == STRICT_EXITS["over-roof"] == 26
    assert found.message.startswith("2 prefills or decodes would be above a roof")
    assert "GB at 4.917 TB/s" in found.message
    assert "run.model.json" in found.hint
    assert analysis.summary().roofs == ()
    assert all(verdict.bound_by is None and "roof" not in verdict.sentence for verdict in analysis.summary().verdicts)


def test_strict_fails_above_a_roof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from dsprof.cli import main

    analyzed(report(busy=10).gpu(), tmp_path, {**CONFIG, "vocab_size": 4_000_000})
    monkeypatch.setattr("sys.argv", ["dsprof", "analyze", str(tmp_path / "run.sqlite"), "--strict"])
    with pytest.raises(SystemExit, match=r"^26$"):
        main()
    assert "above a roof" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["analyze"], ["table", "stage_roof_trace"]], ids=" ".join)
def test_the_command_line_takes_a_file_and_refuses_a_wrong_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, command: list[str]
) -> None:
    from dsprof.cli import main

    analyzed(report().gpu(), tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**CONFIG, "torch_dtype": "bfloat16"}))
    line = [command[0], str(tmp_path / "run.sqlite"), *command[1:], "--model-config", str(config)]
    monkeypatch.setattr("sys.argv", ["dsprof", *line])
    with pytest.raises(SystemExit, match=r"^0$"):
        main()
    assert "memory" in capsys.readouterr().out
    config.write_text("[]")
    with pytest.raises(SystemExit, match=r"^16$"):
        main()
    assert "does not say which model ran" in capsys.readouterr().err


# -- the summary and the verdicts ----------------------------------------------------------------------


def test_the_summary_leaves_the_warm_up_out(tmp_path: Path) -> None:
    made = TraceBuilder().gpu()
    for number, length in enumerate((50, 10, 10)):
        at = 100 * number
        made.range("request", at, at + 90, payload=number).range("prefill", at, at + length, payload=4)
        made.kernel(at=(at + 1, at + 3), call=(at, at + 1))
    made.api("cuLibraryLoadData", call=(5, 35))  # so the first was a warm-up
    (roof,) = analyzed(made, tmp_path, CONFIG).summary().roofs
    assert (roof.instances, roof.tokens, roof.wall_ns, roof.gpu_busy_ns, roof.step_roof_ns) == (2, 8, 20, 4, None)


def roof_of(mfu: float, bandwidth: float) -> Any:
    """A decode's roofs with these shares while the GPU is busy."""
    from dsprof.answers.roofs import StageRoof

    return StageRoof(
        "decode", 1, 10, 10, 1, 1, 1.0, 1, 1, mfu, mfu, bandwidth, bandwidth, "memory", 9e6, 9e5, "", "", 1, 1
    )


@pytest.mark.parametrize(
    ("mfu", "bandwidth", "bound", "sentence"),
    [
        (80.0, 30.0, "compute", "Its roof is compute: while busy, the GPU makes 80 % of the FLOPs and 30 % of"),
        (30.0, 55.0, "memory bandwidth", "Its roof is memory bandwidth"),
        (5.0, 8.0, "neither", "It is far from both roofs: while busy"),
    ],
)
def test_a_gpu_bound_stage_says_by_what(mfu: float, bandwidth: float, bound: str, sentence: str) -> None:
    verdict = judge("decode", pa.Table.from_pylist([instance(100, 80)]), roof_of(mfu, bandwidth))
    assert verdict is not None
    assert (verdict.kind, verdict.bound_by, verdict.roof_us) == ("GPU-bound", bound, 900.0)
    assert sentence in verdict.sentence


def test_a_launch_bound_decode_says_what_the_roof_would_give() -> None:
    verdict = judge("decode", pa.Table.from_pylist([instance(100, 10, launch=70)]), roof_of(1.0, 9.0))
    assert verdict is not None
    assert verdict.sentence.endswith("At the memory roof a token would take 0.9 ms.")
    assert "roof" not in judge("decode", pa.Table.from_pylist([instance(100, 10, launch=70)])).sentence  # type: ignore[union-attr]


# -- the H200 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    """The sample with its model beside it, as a checkout has it."""
    import lzma
    import shutil

    folder = tmp_path_factory.mktemp("sample")
    export = folder / "h200-stages.sqlite"
    export.write_bytes(lzma.decompress((SAMPLES / "h200-stages.sqlite.xz").read_bytes()))
    shutil.copy(SAMPLES / "h200-stages.model.json", folder)
    return dsprof.analyze(export)


def test_the_h200s_decode_is_a_sixtieth_of_the_memory_roof(stages: Analysis) -> None:
    """One token reads some 0.6 billion weights of two bytes, a quarter of a millisecond of 4.8 TB/s."""
    prefill, decode = stages.summary().roofs
    assert (prefill.roof, decode.roof) == ("compute", "memory")
    assert decode.step_roof_ns is not None
    assert 0.24e6 < decode.step_roof_ns < 0.30e6
    assert decode.bandwidth_pct is not None
    assert 1.0 < decode.bandwidth_pct < 2.5
    assert decode.busy_mfu_pct is not None
    assert decode.busy_mfu_pct < 0.2
    assert codes(stages) == []


def test_the_h200s_table_is_a_sum_step_by_step(stages: Analysis) -> None:
    """The same by plain loops over the ranges of the report."""
    document = json.loads((SAMPLES / "h200-stages.model.json").read_text())
    model, views = model_of(document["config"], document["dtype"]), [View(*view) for view in document["views"]]
    peaks = peaks_of(stages.results.report.gpus[0], "bfloat16")
    assert model.vision is not None
    for row in rows_of(stages):
        forwards = [(1020, 0)] if row["stage"] == "prefill" else [(1, 1020 + step) for step in range(23)]
        costs = [model.decoder.forward(*(np.array([x]) for x in (new, context, 1))) for new, context in forwards]
        looked = model.vision.look(views) if row["stage"] == "prefill" else (0, 0)
        flops = looked[0] + sum(int(cost.flops[0]) for cost in costs)
        moved = looked[1] + sum(float(cost.bytes[0]) for cost in costs)
        assert (row["model_flops"], row["model_bytes"]) == (flops, round(moved))
        assert row["busy_mfu_pct"] == pytest.approx(100 * flops / peaks.flops_per_s / (row["gpu_busy_ns"] / 1e9))


@pytest.mark.parametrize(("name", "batch"), [("stages", 1), ("layers", 1), ("batch", 2), ("dsocr2-layers", 1)])
def test_the_samples_models_are_the_full_one(name: str, batch: int) -> None:
    document = json.loads((SAMPLES / f"h200-{name}.model.json").read_text())
    assert model_of(document["config"], document["dtype"]).parameters == pytest.approx(3.39e9, rel=0.001)
    assert (document["batch"], document["dtype"]) == (batch, "bfloat16")
    assert document["views"] == [[1, 768, 768], [6, 768, 768]] * batch
