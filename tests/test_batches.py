"""How many sequences there are, from everything that may say it, and what that makes of tokens and words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.answers.verdicts import judge
from dsprof.show.layout import grids
from test_roofs import CONFIG, roof_of
from test_verdicts import instance
from trace_builder import TraceBuilder

NOTE = "Tokens are those of one sequence where the size of the batch is not known."
#: A capture of dsprof whose requests 0 and 1 have one image and three.
SESSION = {"schema": "dsprof.session/1", "reports": ["run.nsys-rep"],
           "requests": [{"timing": {"request": number}} for number in (0, 1, 1, 1)]}  # fmt: skip


def served(*, requests: int = 2, batch: int | None = None, stage: str = "decode", length: int = 10) -> TraceBuilder:
    """Requests of a prefill of `length` tokens and a decode of four steps; what says the `batch`, where it is given."""
    made = TraceBuilder().gpu()
    for number in range(requests):
        at = 1000 * number
        made.range("request", at, at + 600, payload=number).range("prefill", at + 1, at + 101, payload=length)
        if batch is not None:
            made.range("prefill.batch", at + 2, at + 2, payload=batch)
        made.kernel(at=(at + 20, at + 30), call=(at + 10, at + 15)).range(stage, at + 101, at + 501)
        for step in range(4):
            begin = at + 101 + 100 * step
            made.range("decode.step", begin, begin + 100, payload=step + 1)
            made.kernel(at=(begin + 20, begin + 30), call=(begin + 10, begin + 15))
    return made


def analyzed(made: TraceBuilder, folder: Path, **options: Any) -> Analysis:
    return dsprof.analyze(made.write(folder / "run.sqlite"), reuse=False, **options)


def rows(analysis: Analysis, table: str, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row[column] for column in columns) for row in analysis.arrow(table).to_pylist()]


def written(path: Path, document: Any) -> Path:
    path.write_text(json.dumps(document))
    return path


def stages(analysis: Analysis) -> list[tuple[Any, ...]]:
    return rows(analysis, "stage_trace", "stage", "batch", "steps", "tokens")


def test_every_sequence_counts_where_a_payload_says_how_many(tmp_path: Path) -> None:
    analysis = analyzed(served(batch=3, requests=1), tmp_path)
    assert stages(analysis) == [("prefill", 3, None, 30), ("decode", 3, 4, 12)]
    assert rows(analysis, "stage_sum", "tokens", "tokens_per_s")[:2] == [(30, 30e9 / 100), (12, 12e9 / 400)]
    (request,) = analysis.arrow("request_trace").to_pylist()
    assert [request[name] for name in ("batch", "prompt_tokens", "new_tokens")] == [3, 30, 15]
    assert request["tokens_per_s"] == 15e9 / 600
    assert request["limit_tokens_per_s"] == 15e9 / 50
    assert (request["ttft_host_ns"], request["tpot_host_ns"], request["tpot_busy_ns"]) == (
        101,
        100,
        10,
    )  # of a sequence
    assert rows(analysis, "step_trace", "tokens", "context_tokens") == [(3, 11), (3, 12), (3, 13), (3, 14)]
    assert all(NOTE not in grid.notes for grid in grids(analysis.summary()))


def test_where_nothing_says_it_the_screen_does(tmp_path: Path) -> None:
    analysis = analyzed(served(), tmp_path)
    assert stages(analysis) == [("prefill", None, None, 10), ("decode", None, 4, 4)] * 2
    assert rows(analysis, "request_trace", "batch", "prompt_tokens", "new_tokens") == [(None, 10, 5)] * 2
    assert {tokens for (tokens,) in rows(analysis, "step_trace", "tokens")} == {1}
    (shown,) = [grid for grid in grids(analysis.summary()) if grid.title == "Stages"]
    assert NOTE in shown.notes


@pytest.mark.parametrize(
    ("payload", "believed"), [(0, None), (-2, None), (1 << 40, None), (None, None), (65536, 65536)]
)
def test_a_payload_that_can_be_no_batch_is_none(tmp_path: Path, payload: int | None, believed: int | None) -> None:
    made = served(requests=1).range("prefill.batch", 3, 3, payload=payload)
    assert {batch for _, batch, _, _ in stages(analyzed(made, tmp_path))} == {believed}


def test_a_prompt_that_is_too_long_to_be_multiplied_is_missing(tmp_path: Path) -> None:
    made = served(requests=1, batch=16, length=1 << 60)
    assert [tokens for *_, tokens in stages(analyzed(made, tmp_path))] == [None, 64]


def test_a_capture_says_how_many_each_request_had(tmp_path: Path) -> None:
    """By request, as the last one of a capture has fewer; also where the capture did not know its model."""
    written(tmp_path / "session.json", SESSION)
    analysis = analyzed(served(requests=3), tmp_path)
    assert rows(analysis, "request_trace", "batch", "new_tokens") == [(1, 5), (3, 15), (None, 5)]
    assert "--model-config" in analysis.summary().roofs_note
    written(tmp_path / "session.json", {**SESSION, "model_config": {**CONFIG, "model_type": "bert"}})
    analysis = analyzed(served(requests=2), tmp_path)
    assert [batch for _, batch, _, _ in stages(analysis)] == [1, 1, 3, 3]


def test_a_checkpoints_file_leaves_the_captures_requests_known(tmp_path: Path) -> None:
    written(tmp_path / "session.json", {**SESSION, "model_config": {**CONFIG, "hidden_size": 16}, "dtype": "float16"})
    config = written(tmp_path / "config.json", {**CONFIG, "dtype": "bfloat16"})
    analysis = analyzed(served(), tmp_path, model_config=config)
    assert rows(analysis, "stage_roof_trace", "batch", "forwards", "tokens") == [
        (1, 1, 10), (1, 4, 4), (3, 1, 30), (3, 4, 12)]  # fmt: skip
    assert "roofs-assume" not in {found.code for found in analysis.findings}


@pytest.mark.parametrize(("batch", "said"), [({"batch": 2}, 2), ({}, None), ({"batch": None}, None)])
def test_a_model_record_says_it_of_all_requests(tmp_path: Path, batch: dict[str, Any], said: int | None) -> None:
    document = {"schema": "dsprof.model/1", "config": CONFIG, "dtype": "bfloat16", "views": None, **batch}
    analysis = analyzed(served(), tmp_path, model_config=written(tmp_path / "x.json", document))
    assert {row[1] for row in stages(analysis)} == {said}
    assert ("roofs-assume" in {found.code for found in analysis.findings}) == (said is None)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        (r"^generate_(?P<batch>\d+)_of", 4),  # searched for in a process of its own, as it repeats something
        (r"^generate_(?P<batch>\d)_of", 4),
        (r"^generate_(?P<batch>.)", 4),
        (r"^(?P<batch>generate)", None),  # no number
        (r"^generate_4_of_8(?P<batch>\d)?", None),  # a group that took no part
        (r"^generate_", None),
    ],
)
def test_a_group_of_a_stages_pattern_says_it_by_the_ranges_name(tmp_path: Path, pattern: str, said: int | None) -> None:
    analysis = analyzed(served(stage="generate_4_of_8"), tmp_path, stages={"decode": pattern})
    assert stages(analysis) == [("prefill", said, None, 10 * (said or 1)), ("decode", said, 4, 4 * (said or 1))] * 2


def test_the_name_comes_before_the_payload_and_that_before_the_record(tmp_path: Path) -> None:
    """Where a request's stages say different numbers each has its own, and the request none."""
    written(tmp_path / "session.json", SESSION)
    named = served(stage="generate_4", batch=2)
    analysis = analyzed(named, tmp_path, stages={"decode": r"^generate_(?P<batch>\d)$"})
    assert [(stage, batch) for stage, batch, _, _ in stages(analysis)] == [("prefill", 2), ("decode", 4)] * 2
    assert rows(analysis, "request_trace", "batch") == [(None,)] * 2
    assert {batch for _, batch, _, _ in stages(analyzed(served(batch=2), tmp_path))} == {2}


def test_a_longer_prefill_of_more_sequences_is_no_warm_up(tmp_path: Path) -> None:
    """By the token it took as long as the others, if those of all sequences count."""
    made = TraceBuilder().gpu()
    for number, (length, batch) in enumerate([(400, 4), (100, 1), (100, 1), (100, 1)]):
        at = 1000 * number
        made.range("prefill", at, at + length, payload=10).range("prefill.batch", at + 1, at + 1, payload=batch)
        made.kernel(at=(at + 50, at + 60), call=(at + 40, at + 45))
    made.api("cuLibraryLoadData", call=(100, 300))
    assert rows(analyzed(made, tmp_path), "stage_trace", "steady") == [(True,)] * 4


@pytest.mark.parametrize(
    ("batches", "said", "roof"),
    [
        ((1, 1), " A token takes 50 launches", " a token would take"),
        ((2, 2), " A step of 2 tokens takes 50 launches", " a step would take"),
        ((2, 1), " A step of 1.5 tokens takes 50 launches", " a step would take"),
        ((None, None), " A step takes 50 launches", " a step would take"),
        ((1, None), " A step takes 50 launches", " a step would take"),  # one that is not known is enough
    ],
)
def test_a_step_is_called_a_token_only_where_it_is_known_to_be_one(batches, said, roof):
    rows = [instance(100, 10, launch=70, batch=batch) for batch in batches]
    schema = pa.schema([(name, pa.bool_() if name == "steady" else pa.int64()) for name in rows[0]])
    verdict = judge("decode", pa.Table.from_pylist(rows, schema), roof_of(1.0, 9.0))
    assert said in verdict.sentence
    assert f"At the memory roof{roof} 0.9 ms." in verdict.sentence
    assert ("token" in verdict.sentence) == (None not in batches)
    assert (verdict.step_us, verdict.limit_us) == (10_000, 1_000)
