"""Requests through transformers' continuous batching: prompts of random tokens, of varying length.

Prefill and decode mix as they do there: prompts longer than a step's tokens are computed in chunks, and beside them the
requests that have come further decode. End tokens are not looked at, so each request gets what it asked for.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any

from attrs import define, evolve, field

from dsprof.errors import CaptureRefused, ModelUnusable, WorkloadFailed
from dsprof.ground.versions import installed
from dsprof.records import frozen
from dsprof.workloads import tiny
from dsprof.workloads.continuous import INIT
from dsprof.workloads.deepseek_ocr import (
    DeepSeekOCRSession,
    attention_for,
    device_named,
    dtype_keyword,
    dtype_named,
    not_loaded,
    read_config,
)
from dsprof.workloads.job import Job, Outcome, Served, ServedRequest, Totals
from dsprof.workloads.ranges import Domain
from dsprof.workloads.segmenter import Segmenter
from dsprof.workloads.timing import BatchStep

#: A Llama of the true classes with random weights: one for any machine, one with the shape of Llama-3.2-1B.
LLAMAS: dict[str, dict[str, Any]] = {
    "llama-tiny": {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                   "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.2},
    "llama": {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
              "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True,
              "max_position_embeddings": 8192},
}  # fmt: skip
#: Models that can be served without a checkpoint.
MODELS = (*tiny.SIZES, *LLAMAS)
_TINY = ("tiny", "llama-tiny")
#: Seconds after which the main thread looks whether the loop still runs.
_LOOK_S = 0.5


@frozen
class _Size:
    """The usual workload of a model: the longest prompt, and how the cache and the steps are cut."""

    prompt_tokens: int
    step_tokens: int
    step_requests: int
    page_tokens: int


_SMALL, _BIG = _Size(96, 64, 8, 16), _Size(1024, 512, 32, 256)


@frozen
class Asked:
    """A request before it is served: its prompt's tokens, how many new ones, seconds from the begin to its arrival."""

    name: str
    prompt: tuple[int, ...]
    new_tokens: int
    arrives_s: float = 0.0


@define
class _Run:
    """What is known of requests that are being served: when each was added, what came back, and the settings."""

    added_ns: dict[str, int] = field(factory=dict)
    outputs: dict[str, Any] = field(factory=dict)
    settings: dict[str, Any] = field(factory=dict)


def serve(job: Job, model: Any, domain: Domain, outcome: Outcome) -> None:
    """Serve the job's requests, after some without ranges; what was served goes to `outcome`, however it ends.

    Raises `ModelUnusable` for a transformers that cannot serve, `CaptureRefused` for what cannot be asked of this
    model, `WorkloadFailed` where the loop or a request fails, or where its steps are not known.
    """
    if not hasattr(model, INIT):
        raise ModelUnusable(
            f"{type(model).__name__} has no continuous batching in transformers {installed('transformers')}.",
            "It needs transformers 5.23 or newer.",
        )
    requests = asked_of(job, model.config)
    warm_up = asked_of(evolve(job, serve=job.warmup, seed=job.seed + 1, arrival_rate=None), model.config, "warm-up-")
    config = _batching(job, requests)
    with _kept_manager(model):
        if warm_up:
            _serve(model, config, warm_up, _Run())
        run = _Run()
        with Segmenter(model, job.modules, domain) as segmenter:
            try:
                _serve(model, config, requests, run)
            finally:
                outcome.served = _served(requests, run, segmenter.batches.steps)
    if segmenter.batches.problem:
        raise WorkloadFailed(segmenter.batches.problem, "transformers 5.23 and 5.24 are known.")


def asked_of(job: Job, config: Any, prefix: str = "") -> list[Asked]:
    """The job's requests, the same for the same seed; the first has the longest prompt.

    Raises `CaptureRefused` where they are longer than the model's positions.
    """
    text = config.get_text_config()
    longest = job.prompt_tokens or _size(job).prompt_tokens
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and longest + job.max_new_tokens > positions:
        raise CaptureRefused(
            f"A prompt of {longest} tokens and {job.max_new_tokens} new ones are more than the model's {positions}.",
            "Ask for less with --prompt-tokens or --max-new-tokens.",
        )
    drawn, arrivals = random.Random(job.seed), random.Random(job.seed)  # noqa: S311  not for secrets
    reserved = {one for key, one in config.to_dict().items() if key.endswith("token_id") and isinstance(one, int)}
    tokens = [one for one in range(len(tiny.SPECIAL_TOKENS), text.vocab_size) if one not in reserved]
    requests, arrives_s = [], 0.0
    for number in range(job.serve):
        prompt = drawn.choices(tokens, k=drawn.randint(max(1, longest // 8), longest) if number else longest)
        new_tokens = drawn.randint(max(1, job.max_new_tokens // 4), job.max_new_tokens)
        requests.append(Asked(f"{prefix}{number}", tuple(prompt), new_tokens, arrives_s))
        arrives_s += arrivals.expovariate(job.arrival_rate) if job.arrival_rate else 0.0
    return requests


def load(job: Job) -> tuple[Any, str]:
    """The model to serve and its device. Raises `ModelUnusable`, `AttentionUnavailable`, `DeviceUnavailable`.

    flash-attention is taken only where it is asked for: with it, transformers serves in another way, with CUDA graphs.
    """
    flash = bool(job.use_flash_attn)
    if job.model in tiny.SIZES:
        session = DeepSeekOCRSession.from_random(job.model, job.seed, job.device, job.dtype, flash)
        return session.model, session.device
    device = device_named(job.device)
    dtype = dtype_named(job.dtype, device)
    if job.model in LLAMAS:
        attention = attention_for(flash, device, dtype, remote=True) if flash else "sdpa"
        return _llama(LLAMAS[job.model], job.seed, dtype, device, attention), device
    architectures = read_config(Path(job.model)).get("architectures") or [""]
    if str(architectures[0]).endswith("ForConditionalGeneration"):
        session = DeepSeekOCRSession.from_local(job.model, job.device, flash, job.dtype)
        return session.model, session.device
    return _causal(Path(job.model), dtype, device, "flash_attention_2" if flash else "sdpa"), device


def _llama(sizes: dict[str, Any], seed: int, dtype: str, device: str, attention: str) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    finally:
        torch.set_default_dtype(before)
    model.set_attn_implementation(attention)
    return model


def _causal(path: Path, dtype: str, device: str, attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        keywords = {"local_files_only": True, "attn_implementation": attention, **dtype_keyword(dtype)}
        return AutoModelForCausalLM.from_pretrained(path, **keywords).to(device).eval()
    except Exception as error:  # whatever a broken file makes of the libraries that read it
        raise not_loaded(path, error) from error


# -- the loop ---------------------------------------------------------------------------------------------


def _size(job: Job) -> _Size:
    return _SMALL if job.model in _TINY else _BIG


def _batching(job: Job, requests: Sequence[Asked]) -> Any:
    """The library's settings: a cache for as many requests as a step may have, and what the job says.

    Raises `CaptureRefused` for a setting that it does not know.
    """
    from transformers import ContinuousBatchingConfig

    known = [one.name for one in dataclasses.fields(ContinuousBatchingConfig)]
    for name in job.batching:
        if name not in known:
            raise CaptureRefused(
                f"transformers {installed('transformers')} knows no setting {name} of continuous batching.",
                f"It knows {', '.join(known)}.",
            )
    size = _size(job)
    settings = {
        "max_batch_tokens": size.step_tokens, "max_requests_per_batch": size.step_requests,
        "page_size": size.page_tokens, "auto_switch_to_flash": False, **job.batching,
    }  # fmt: skip
    if "num_blocks" not in settings:
        longest = max(len(request.prompt) + request.new_tokens for request in requests)
        settings["num_blocks"] = settings["max_requests_per_batch"] * (ceil(longest / settings["page_size"]) + 1)
    return ContinuousBatchingConfig(**settings)


@contextmanager
def _kept_manager(model: Any) -> Iterator[None]:
    """What was allocated and captured for one run is there for the next, and gone afterwards."""
    try:
        yield
    finally:
        model.destroy_cached_continuous_batching_manager()


def _serve(model: Any, config: Any, requests: Sequence[Asked], run: _Run) -> None:
    """Add the requests as they arrive, and wait for all of them. Raises `WorkloadFailed`."""
    from transformers import GenerationConfig

    manager_of = model.continuous_batching_context_manager(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0),
        continuous_batching_config=config,
        persistent_manager=True,
    )
    with manager_of as manager:
        try:
            _collect(manager, requests, run)
            _check(manager, len(requests), run)
        except BaseException:  # else the library computes all that was asked of it before it ends
            manager.stop(hard_stop=True)
            while (output := manager.get_result(timeout=0)) is not None:  # how far each of them came
                run.outputs[output.request_id] = output
            raise
        finally:
            run.settings = _plain(manager.continuous_batching_config)


def _collect(manager: Any, requests: Sequence[Asked], run: _Run) -> None:
    due = deque(requests)
    with manager.pause():  # what comes at once is there before the first step, which is then the same each time
        while due and not due[0].arrives_s:
            _add(manager, due.popleft(), run)
    begin = time.perf_counter()
    while len(run.outputs) < len(requests):
        while due and time.perf_counter() >= begin + due[0].arrives_s:
            _add(manager, due.popleft(), run)
        wait_s = begin + due[0].arrives_s - time.perf_counter() if due else _LOOK_S
        output = manager.get_result(timeout=min(max(wait_s, 0.001), _LOOK_S))
        if output is not None and output.is_finished():
            run.outputs[output.request_id] = output
        elif output is None and not manager.is_running():
            _check(manager, len(requests), run)
            raise WorkloadFailed("The serving loop of transformers ended before its requests did.")


def _add(manager: Any, request: Asked, run: _Run) -> None:
    run.added_ns[request.name] = time.perf_counter_ns()
    manager.add_request(list(request.prompt), request.name, request.new_tokens, record_timestamps=True, eos_token_id=-1)


def _check(manager: Any, asked: int, run: _Run) -> None:
    """Raises `WorkloadFailed` where the loop, or a request of it, came to an error."""
    error = manager.background_thread_status.fatal_error
    if error is not None:
        reason = _sentence(f"{type(error).__name__}: {error}")
        raise WorkloadFailed(f"The serving loop of transformers ended with {reason}") from error
    failed = [output for output in run.outputs.values() if output.error is not None]
    if failed:
        raise WorkloadFailed(f"{len(failed)} of {asked} requests failed: {_sentence(failed[0].error)}")


def _sentence(words: str) -> str:
    return f"{words.strip().partition(chr(10))[0][:300].rstrip('.')}."


def _plain(config: Any) -> dict[str, Any]:
    """The settings that the library came to, as far as they are plain."""
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(config).items()}
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str | list | None)}


# -- what it did ------------------------------------------------------------------------------------------


def _served(requests: Sequence[Asked], run: _Run, steps: Sequence[BatchStep]) -> Served:
    records = [_record(request, run) for request in requests if request.name in run.added_ns]
    return Served(run.settings, records, list(steps), _totals(records, steps))


def _record(request: Asked, run: _Run) -> ServedRequest:
    added, output = run.added_ns[request.name], run.outputs.get(request.name)
    if output is None:
        return ServedRequest(request.name, request.new_tokens, len(request.prompt), 0, "", added_ns=added)
    record = ServedRequest(
        request.name, request.new_tokens, len(output.prompt_ids), len(output.generated_tokens), output.status.name,
        output.error or "", added, ended_ns=_nanoseconds(output.lifespan[1]),
    )  # fmt: skip
    if output.timestamps and len(output.timestamps) == record.new_tokens:  # a preemption forgets when it began
        record.scheduled_ns = _nanoseconds(output.lifespan[0])
        record.first_token_ns = _nanoseconds(output.timestamps[0])
    return record


def _nanoseconds(seconds: float) -> int | None:
    return round(seconds * 1e9) if seconds > 0 else None


def _totals(records: Sequence[ServedRequest], steps: Sequence[BatchStep]) -> Totals:
    totals = Totals(
        requests=len(records), finished=sum(record.status == "FINISHED" for record in records),
        prompt_tokens=sum(record.prompt_tokens for record in records),
        new_tokens=sum(record.new_tokens for record in records), steps=len(steps),
    )  # fmt: skip
    for name in ("context_requests", "context_tokens", "generation_requests", "generation_tokens"):
        setattr(totals, name, sum(getattr(step, name) for step in steps))
    return totals
