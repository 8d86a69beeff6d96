"""`dsprof capture --serve`: what nsys recorded of a serving loop is what the loop itself counted, to the token."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import serving

from dsprof.capture.record import converter, read_session
from dsprof.errors import CaptureRefused, DsprofError, ModelUnusable, WorkloadFailed
from dsprof.workloads import serve
from dsprof.workloads.__main__ import main
from dsprof.workloads.job import JOB, OUTCOME, Job, Outcome, Served, read_outcome, write_json
from dsprof.workloads.segmenter import NoDomain
from models import transformers
from nsys_stats import AGENT_LOST, TRIES, Nsys
from trace_builder import TraceBuilder

pytest.importorskip("transformers.generation.continuous_batching.model_runner", reason="no such batching")
pytestmark = pytest.mark.timeout(300)

REQUESTS, NEW = 10, 24
LLAMA = Job((), "", model="llama-tiny", serve=4, max_new_tokens=6, device="cpu")


def run(*words: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dsprof", "capture", *map(str, words)],
        capture_output=True, text=True, timeout=240, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def captured(primary: Nsys, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A capture in which prompts are cut and some requests preempted: its folder, what it printed."""
    out = tmp_path_factory.mktemp("traces")
    for _ in range(TRIES):
        done = run("--serve", REQUESTS, "--max-new-tokens", NEW, "--seed", 3, "--out", out,
                   "--batching", "num_blocks=20", "--batching", "safety_margin=0", "--nsys", primary.path)  # fmt: skip
        if AGENT_LOST not in done.stderr:
            break
        shutil.rmtree(out)
    assert done.returncode == 0, done.stderr
    (folder,) = out.iterdir()
    return folder, done.stdout


# -- recorded -------------------------------------------------------------------------------------------


@pytest.mark.nsys
def test_ranges_say_what_was_counted_step_by_step_and_in_sum(captured: tuple[Path, str]) -> None:
    folder, _ = captured
    served = read_session(folder).served
    assert served is not None
    names = [name for _, _, name, _ in serving.ranges_of(folder / "run.sqlite")]
    said = [tuple(serving.numbers_of(name).values()) for name in names]
    counted = [
        (one.context_requests, one.context_tokens, one.generation_requests, one.generation_tokens)
        for one in served.steps
    ]
    assert said == counted
    assert [sum(column) for column in zip(*said, strict=True)] == [getattr(served.totals, x) for x in serving.COUNTS]
    assert serving.differences(folder) == []


@pytest.mark.nsys
def test_it_held_what_a_server_has(captured: tuple[Path, str]) -> None:
    """Mixed steps, later chunks, preempted requests; and the warm-up is in none of it."""
    served = read_session(captured[0]).served
    assert served is not None
    totals = served.totals
    assert (totals.requests, totals.finished, len(served.requests)) == (REQUESTS, REQUESTS, REQUESTS)
    assert [request.new_tokens for request in served.requests] == [one.asked_tokens for one in served.requests]
    assert any(step.context_requests and step.generation_requests for step in served.steps)
    assert totals.context_requests > REQUESTS
    assert totals.generation_tokens > totals.generation_requests
    assert totals.context_tokens >= totals.prompt_tokens == sum(one.prompt_tokens for one in served.requests)
    assert totals.new_tokens == sum(step.new_tokens for step in served.steps)
    assert max(step.context_tokens + step.generation_tokens for step in served.steps) == 64
    assert served.settings["num_blocks"] == 20


@pytest.mark.nsys
def test_the_loop_has_a_thread_of_its_own(captured: tuple[Path, str]) -> None:
    threads = {thread for *_, thread in serving.ranges_of(captured[0] / "run.sqlite")}
    assert len(threads) == 1
    (thread,) = threads
    assert thread & 0xFFFFFF != (thread >> 24) & 0xFFFFFF


@pytest.mark.nsys
def test_the_capture_says_what_was_served_and_records_it(captured: tuple[Path, str]) -> None:
    folder, printed = captured
    record = read_session(folder)
    assert record.served is not None
    totals = record.served.totals
    assert (
        f"Served {REQUESTS} of {REQUESTS} requests in {totals.steps} steps: {totals.prompt_tokens:,} tokens of prompts "
        f"and {totals.new_tokens} new ones" in printed
    )
    assert folder.name.endswith(f"-serve-{REQUESTS}")
    assert (record.model, record.device, record.images, record.requests) == ("tiny", "cpu", (), ())
    assert record.attention["text_config"] == "sdpa"
    document = json.loads(json.dumps(converter.unstructure(record)))
    assert converter.structure(document, type(record)) == record
    del document["served"]  # of a capture from before
    assert converter.structure(document, type(record)).served is None


def one_token_more(served: dict[str, Any]) -> None:
    served["steps"][3]["generation_tokens"] += 1


def a_step_less(served: dict[str, Any]) -> None:
    del served["steps"][-1]


def two_steps_changed_round(served: dict[str, Any]) -> None:
    served["steps"][0], served["steps"][-1] = served["steps"][-1], served["steps"][0]


def another_sum(served: dict[str, Any]) -> None:
    served["totals"]["context_requests"] += 1


def a_request_cut_short(served: dict[str, Any]) -> None:
    served["requests"][0]["new_tokens"] -= 1


@pytest.mark.nsys
@pytest.mark.parametrize(
    "change", [one_token_more, a_step_less, two_steps_changed_round, another_sum, a_request_cut_short]
)
def test_the_comparison_finds_what_differs(
    captured: tuple[Path, str], change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    shutil.copy(captured[0] / "run.sqlite", tmp_path)
    document = json.loads((captured[0] / "session.json").read_text())
    change(document["served"])
    (tmp_path / "session.json").write_text(json.dumps(document))
    assert serving.differences(tmp_path)


def test_kernels_are_told_by_their_launch(tmp_path: Path) -> None:
    """Two in steps, one between them, one of another thread, and one before; they run long after."""
    report, loop = TraceBuilder("2023.4.4"), 101
    for begin in (100, 300):
        report.range("execute_context_0(0)_generation_1(1)", begin, begin + 100, tid=loop)
    for call, thread in ((50, loop), (150, loop), (250, loop), (310, loop), (160, 100)):
        report.kernel("gemm", at=(1000 + call, 1010 + call), call=(call, call + 5), tid=thread)
    assert serving.launched(report.write(tmp_path / "made.sqlite")) == (2, 3)


# -- what is served -------------------------------------------------------------------------------------


def test_the_same_seed_asks_for_the_same() -> None:
    config = transformers.LlamaConfig(**serve.LLAMAS["llama-tiny"])
    asked = serve.asked_of(LLAMA, config)
    assert serve.asked_of(LLAMA, config) == asked
    assert serve.asked_of(evolve(LLAMA, seed=1), config) != asked
    later = serve.asked_of(evolve(LLAMA, arrival_rate=5.0), config)
    assert [(one.prompt, one.new_tokens) for one in later] == [(one.prompt, one.new_tokens) for one in asked]
    arrivals = [one.arrives_s for one in later]
    assert arrivals == sorted(set(arrivals))
    assert arrivals[0] == 0
    assert {one.arrives_s for one in asked} == {0.0}


def test_lengths_vary_within_what_is_asked_for() -> None:
    config = transformers.LlamaConfig(**serve.LLAMAS["llama-tiny"])
    asked = serve.asked_of(evolve(LLAMA, serve=200, prompt_tokens=40, max_new_tokens=8), config)
    assert len(asked[0].prompt) == 40
    assert {len(one.prompt) for one in asked} == set(range(5, 41))
    assert {one.new_tokens for one in asked} == set(range(2, 9))
    tokens = {token for one in asked for token in one.prompt}
    assert min(tokens) >= 9
    assert max(tokens) < 512


def test_special_tokens_are_in_no_prompt(tiny_model: tuple[Any, Any]) -> None:
    config = tiny_model[0].config
    config = evolve_config(config, image_token_id=100)
    tokens = {token for one in serve.asked_of(evolve(LLAMA, serve=50), config) for token in one.prompt}
    assert 100 not in tokens
    assert 101 in tokens


def evolve_config(config: Any, **changes: Any) -> Any:
    return type(config)(**{**config.to_dict(), **changes})


def served_by(job: Job, model: Any = None) -> Served:
    outcome = Outcome()
    serve.serve(job, model if model is not None else serve.load(job)[0], NoDomain(), outcome)
    assert outcome.served is not None
    return outcome.served


def test_without_ranges_the_same_is_counted(tmp_path: Path) -> None:
    write_json(tmp_path / JOB, evolve(LLAMA, ranges=False))
    assert main(tmp_path) == 0
    outcome = read_outcome(tmp_path / OUTCOME)
    assert outcome.served is not None
    assert outcome.model_config["model_type"] == "llama"
    here = served_by(LLAMA)
    assert outcome.served.totals == here.totals
    assert [one.new_tokens for one in outcome.served.steps] == [one.new_tokens for one in here.steps]
    for request in outcome.served.requests:
        times = [request.added_ns, request.scheduled_ns, request.first_token_ns, request.ended_ns]
        assert None not in times
        assert times == sorted(times)


def test_a_checkpoint_is_served(tiny_folder: Path, tmp_path: Path) -> None:
    """One of DeepSeek-OCR, and one that is a language model alone."""
    causal = tmp_path / "llama"
    serve.load(LLAMA)[0].save_pretrained(causal)
    for folder in (tiny_folder, causal):
        totals = served_by(evolve(LLAMA, model=str(folder), serve=2, prompt_tokens=20, warmup=0)).totals
        assert (totals.finished, totals.context_tokens) == (2, totals.prompt_tokens)


# -- what cannot be -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"batching": {"blocks": 5}}, CaptureRefused, "knows no setting blocks"),
        ({"prompt_tokens": 3000}, CaptureRefused, "more than the model's 2048"),
        ({"batching": {"num_blocks": 3}}, WorkloadFailed, "No requests can be scheduled"),
    ],
)
def test_what_cannot_be_served_is_told(changes: dict[str, Any], error: type[DsprofError], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        served_by(evolve(LLAMA, warmup=0, **changes))


def test_a_model_without_batching_is_told() -> None:
    with pytest.raises(ModelUnusable, match="no continuous batching"):
        served_by(LLAMA, object())


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(ModelUnusable, match="does not load"):
        serve.load(evolve(LLAMA, model=str(tmp_path)))


def failing(model: Any, after: int) -> None:
    """The model fails in its call number `after`."""
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == after:
            raise ValueError("on purpose.\nAnd more.")

    model.register_forward_pre_hook(fail)


def test_a_loop_that_fails_is_told_with_what_was_served() -> None:
    model, outcome = serve.load(LLAMA)[0], Outcome()
    failing(model, 5)
    with pytest.raises(WorkloadFailed, match=r"^The serving loop of transformers ended with ValueError: on purpose\.$"):
        serve.serve(evolve(LLAMA, warmup=0), model, NoDomain(), outcome)
    assert outcome.served is not None
    assert len(outcome.served.steps) == 4
    assert {request.status for request in outcome.served.requests} <= {"FINISHED", "FAILED", ""}
    assert outcome.served.totals.finished < 4


def test_a_request_that_fails_alone_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that the library cannot take into its queue."""
    from transformers.generation.continuous_batching import scheduler

    add = scheduler.Scheduler.add_waiting_request

    def refuses(self: Any, request: Any) -> None:
        if request.request_id == "2":
            raise ValueError("not this one")
        add(self, request)

    monkeypatch.setattr(scheduler.Scheduler, "add_waiting_request", refuses)
    outcome = Outcome()
    with pytest.raises(WorkloadFailed, match=r"^1 of 4 requests failed: not this one\.$"):
        serve.serve(evolve(LLAMA, warmup=0), serve.load(LLAMA)[0], NoDomain(), outcome)
    assert outcome.served is not None
    assert outcome.served.totals.finished == 3
    assert [one.error for one in outcome.served.requests] == ["", "", "not this one", ""]


def test_an_interrupt_does_not_wait_for_all_that_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.generation.continuous_batching import continuous_api

    job = evolve(LLAMA, warmup=0, max_new_tokens=1900, prompt_tokens=20)
    original, begin = continuous_api.ContinuousBatchingManager.get_result, time.monotonic()
    raised: list[bool] = []

    def interrupted(self: Any, *arguments: Any, **keywords: Any) -> Any:
        if time.monotonic() > begin + 0.5 and not raised:
            raised.append(True)
            raise KeyboardInterrupt
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(continuous_api.ContinuousBatchingManager, "get_result", interrupted)
    outcome = Outcome()
    with pytest.raises(KeyboardInterrupt):
        serve.serve(job, serve.load(job)[0], NoDomain(), outcome)
    assert outcome.served is not None
    assert outcome.served.totals.finished < 4
    assert outcome.served.totals.new_tokens == sum(step.new_tokens for step in outcome.served.steps) < 4 * 1900 // 4
    assert {one.status for one in outcome.served.requests} <= {"FINISHED", "FAILED"}


def test_steps_that_are_not_known_are_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    from dsprof.workloads import continuous

    monkeypatch.setattr(continuous, "_PROCESSOR", ("prepare_next_batches",))
    with pytest.warns(RuntimeWarning), pytest.raises(WorkloadFailed, match="has no prepare_next_batches"):
        served_by(evolve(LLAMA, warmup=0))


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--serve", "2", "page.png"),
        ("--serve", "2", "--", "true"),
        ("--serve", "-1"),
        ("--serve", "2", "--repeat", "2"),
        ("--serve", "2", "--batch", "2"),
        ("--serve", "2", "--batching", "num_blocks"),
        ("--serve", "2", "--batching", "=5"),
        ("--serve", "2", "--arrival-rate", "0"),
        ("--arrival-rate", "2", "--", "true"),
        ("--prompt-tokens", "2", "--", "true"),
        ("--batching", "num_blocks=2", "page.png"),
    ],
)
def test_options_that_mean_nothing_together(words: tuple[str, ...]) -> None:
    from typer.testing import CliRunner

    from dsprof.cli import app

    assert CliRunner().invoke(app, ["capture", *words], obj=None).exit_code == 2


@pytest.mark.parametrize("words", [("--serve", "2", "--model", "llama-3"), ("--model", "llama", __file__)])
def test_a_model_that_is_none_is_told_before_anything_runs(words: tuple[str, ...], tmp_path: Path) -> None:
    done = run(*words, "--out", tmp_path / "out")
    assert done.returncode == ModelUnusable.exit_code
    assert "There is no model folder" in done.stderr
    assert ("llama-tiny" in done.stderr) is ("--serve" in words)
    assert not (tmp_path / "out").exists()


def test_settings_are_json_or_words() -> None:
    from dsprof.cli.capture import _batching_settings

    words = ["num_blocks=64", "use_cuda_graph=true", "allow_block_sharing=False", "seed=None", "safety_margin=0.2",
             "scheduler_type=prefill_first", "q=[1, 2]", "empty="]  # fmt: skip
    assert _batching_settings(words) == {
        "num_blocks": 64, "use_cuda_graph": True, "allow_block_sharing": False, "seed": None, "safety_margin": 0.2,
        "scheduler_type": "prefill_first", "q": [1, 2], "empty": "",
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["steps", "totals", "settings"])
def test_an_outcome_that_was_changed_is_told(damage: str, tmp_path: Path) -> None:
    write_json(tmp_path / OUTCOME, Outcome(served=Served()))
    assert read_outcome(tmp_path / OUTCOME).served == Served()
    document = json.loads((tmp_path / OUTCOME).read_text())
    document["served"][damage] = [5]
    if damage == "settings":
        del document["served"][damage]
    (tmp_path / OUTCOME).write_text(json.dumps(document))
    with pytest.raises(WorkloadFailed, match=r"outcome\.json of the session cannot be read"):
        read_outcome(tmp_path / OUTCOME)
