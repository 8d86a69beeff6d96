"""Steps of transformers' continuous batching as ranges: what the names say is what the model was given, step by step.

What ran is seen where the model is called: lengths and positions of the sequences in its own inputs. Nothing of the
Segmenter is asked for that.
"""

from __future__ import annotations

import gc
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from attrs import define, field

from dsprof.workloads import continuous
from dsprof.workloads.segmenter import Segmenter
from dsprof.workloads.timing import BatchStep
from models import state, torch, transformers

try:
    from transformers.generation.continuous_batching import (
        continuous_api,
        input_outputs,
        model_runner,
        offloading_manager,
        requests,
        scheduler,
    )
except ImportError:
    pytest.skip(f"transformers {transformers.__version__} has no such batching", allow_module_level=True)

pytestmark = pytest.mark.timeout(120)
NEW = 6
PROMPTS = (40, 5, 23, 9, 61)
#: Settings with which prompts are computed in chunks, beside requests that decode.
SMALL = {"page_size": 8, "num_blocks": 96, "max_batch_tokens": 16, "max_requests_per_batch": 4,
         "allow_block_sharing": False}  # fmt: skip


@define
class Threads:
    """A domain that writes down the ranges of each thread: closed ones by their begin, and what is open."""

    closed: list[tuple[int, str, tuple[str, ...]]] = field(factory=list)
    open: dict[int, list[str]] = field(factory=dict)

    def push(self, name: str, payload: int | None = None) -> None:
        stack = self.open.setdefault(threading.get_ident(), [])
        self.closed.append((threading.get_ident(), name, tuple(stack)))
        stack.append(name)

    def pop(self) -> None:
        self.open[threading.get_ident()].pop()  # an IndexError if nothing is open

    @property
    def all_closed(self) -> bool:
        return not any(self.open.values())

    @property
    def steps(self) -> list[str]:
        return [name for _, name, _ in self.closed if name.startswith("execute_context")]


@define
class Ran:
    """What one call of the model was given: for each sequence its request, its first position, how many tokens."""

    sequences: list[tuple[str, int, int]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library collects garbage whenever a loop ends, which takes longer than the loops here."""
    monkeypatch.setattr(continuous_api, "gc", type("Idle", (), {"collect": staticmethod(lambda: 0)}))


@pytest.fixture
def model(tiny_model: tuple[Any, Any]) -> Iterator[Any]:
    """The tiny model, of which nothing may be left changed."""
    model, _ = tiny_model
    before = state(model)
    yield model
    model.destroy_cached_continuous_batching_manager()
    assert state(model) == before


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Ran]:
    """Every batch that the library computes, by the tensors that it gives the model."""
    found: list[Ran] = []
    original = model_runner.ModelRunner.compute_batch

    def compute(self: Any, model: Any, batch: dict[str, Any]) -> None:
        io = self.inputs_and_outputs
        io = io.io_pairs[io.current_pair].host_io if hasattr(io, "io_pairs") else io
        ends, positions = batch["cu_seq_lens_q"].tolist(), batch["position_ids"][0].tolist()
        names = [one.state.request_id for one in io.requests_in_batch]
        found.append(Ran([(name, positions[a], b - a) for name, a, b in zip(names, ends, ends[1:], strict=False)]))
        original(self, model, batch)

    monkeypatch.setattr(model_runner.ModelRunner, "compute_batch", compute)
    return found


def prompts(lengths: tuple[int, ...] = PROMPTS, shared: int = 0) -> list[list[int]]:
    drawn = random.Random(0)
    first = drawn.choices(range(20, 60), k=shared)
    return [first + drawn.choices(range(20, 60), k=length) for length in lengths]


def batched(model: Any, inputs: list[list[int]], settings: dict[str, Any], **generation: Any) -> dict[str, list[int]]:
    """The new tokens of `generate_batch`, greedy, by request; every one of them must have ended well."""
    outputs = model.generate_batch(
        inputs,
        generation_config=transformers.GenerationConfig(**{**GREEDY, **generation}),
        continuous_batching_config=transformers.ContinuousBatchingConfig(**{**SMALL, **settings}),
    )
    assert {output.status.name for output in outputs.values()} <= {"FINISHED"}
    return {name: output.generated_tokens for name, output in outputs.items()}


GREEDY = {"do_sample": False, "eos_token_id": -1, "pad_token_id": 0, "max_new_tokens": NEW}


def numbers(step: BatchStep) -> tuple[int, int, int, int]:
    return step.context_requests, step.context_tokens, step.generation_requests, step.generation_tokens


def expected(batches: list[Ran], asked: dict[str, int]) -> list[tuple[int, int, int, int]]:
    """By positions: what begins within the prompt is context, what begins behind it is generation."""
    found = []
    for batch in batches:
        context = [tokens for name, begin, tokens in batch.sequences if begin < asked[name]]
        rest = [tokens for name, begin, tokens in batch.sequences if begin >= asked[name]]
        found.append((len(context), sum(context), len(rest), sum(rest)))
    return found


def check(domain: Threads, steps: list[BatchStep]) -> None:
    """Ranges and counts say the same, in one thread that is not this one, and nothing is open."""
    assert domain.steps == [continuous.step_name(step) for step in steps]
    assert domain.all_closed
    threads = {thread for thread, *_ in domain.closed}
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert all(step.start_ns > 0 and step.duration_ns > 0 for step in steps)
    ends = [at for step in steps for at in (step.start_ns, step.start_ns + step.duration_ns)]
    assert ends == sorted(ends)


# -- ways to batch --------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "chunked prefill": {},
    "prompts before decodes": {"scheduler_type": "prefill_first"},
    "all prompts in one step": {"max_batch_tokens": 256, "max_requests_per_batch": 8},
    "one request at a time": {"max_requests_per_batch": 1},
    "log probabilities": {"return_logprobs": True},
}


@pytest.mark.parametrize("way", WAYS)
def test_names_say_what_the_model_was_given(model: Any, ran: list[Ran], way: str) -> None:
    inputs = prompts()
    plain = batched(model, inputs, WAYS[way])
    ran.clear()
    domain = Threads()
    with Segmenter(model, domain=domain) as segmenter:
        assert batched(model, inputs, WAYS[way]) == plain
    steps = segmenter.batches.steps
    assert segmenter.batches.problem == ""
    assert [numbers(step) for step in steps] == expected(ran, {f"req_{i}": len(one) for i, one in enumerate(inputs)})
    check(domain, steps)
    assert sum(step.context_tokens for step in steps) == sum(PROMPTS)
    assert sum(step.generation_tokens for step in steps) == len(PROMPTS) * (NEW - 1)
    assert sum(step.new_tokens for step in steps) == len(PROMPTS) * NEW
    assert segmenter.timings == []


def test_small_steps_hold_later_chunks_beside_decodes(model: Any, ran: list[Ran]) -> None:
    """Or the test above would see no mixed step, and no second chunk."""
    with Segmenter(model, domain=Threads()) as segmenter:
        batched(model, prompts(), {})
    mixed = [step for step in segmenter.batches.steps if step.context_requests and step.generation_requests]
    later = [one for batch in ran for one in batch.sequences if 0 < one[1] < PROMPTS[int(one[0][4:])]]
    assert len(mixed) > 3
    assert len(later) > 3


def test_the_phases_of_the_host_lie_around_and_in_the_steps(model: Any) -> None:
    domain = Threads()
    with Segmenter(model, domain=domain) as segmenter:
        batched(model, prompts((3,)), {}, max_new_tokens=2)
    names = [(name, inside) for _, name, inside in domain.closed]
    turn = [[("schedule: schedule_batch", ()), (step, ()), ("gpu_model_runner: preprocess", (step,)),
             ("gpu_model_runner: forward", (step,)),
             ("gpu_model_runner: sample", (step, "gpu_model_runner: forward")),
             ("gpu_model_runner: get_output", (step,)), ("llm_engine step: process_outputs", ())]
            for step in ("execute_context_1(3)_generation_0(0)", "execute_context_0(0)_generation_1(1)")]  # fmt: skip
    assert names == [*turn[0], *turn[1]]
    assert [step.new_tokens for step in segmenter.batches.steps] == [1, 1]


def test_modules_have_ranges_within_their_step(model: Any) -> None:
    domain = Threads()
    with Segmenter(model, "layers", domain):
        batched(model, prompts((20,)), {})
    layers = [inside for _, name, inside in domain.closed if name == "module:model.language_model.layers.0"]
    assert [inside[0] for inside in layers] == domain.steps
    assert {inside[1:] for inside in layers} == {("gpu_model_runner: forward", "forward")}
    assert domain.all_closed


def test_a_shared_prefix_is_not_computed_and_not_counted(model: Any, ran: list[Ran]) -> None:
    inputs = prompts((9, 7), shared=32)
    domain = Threads()
    with Segmenter(model, domain=domain) as segmenter:
        batched(model, inputs, {"max_requests_per_batch": 1, "allow_block_sharing": True})
    steps = segmenter.batches.steps
    assert [numbers(step) for step in steps] == expected(ran, {f"req_{i}": len(one) for i, one in enumerate(inputs)})
    assert sum(step.context_tokens for step in steps) == sum(map(len, inputs)) - 32
    check(domain, steps)


def test_several_sequences_of_one_prompt(model: Any, ran: list[Ran]) -> None:
    """They share the prompt but for its last token, which each computes as context."""
    inputs = prompts((20, 11))
    domain = Threads()
    with Segmenter(model, domain=domain) as segmenter:
        outputs = batched(model, inputs, {}, num_return_sequences=2, do_sample=True)
    asked = {name: len(inputs[int(name[4])]) for name in outputs}
    steps = segmenter.batches.steps
    assert len(outputs) == 4
    assert [numbers(step) for step in steps] == expected(ran, asked)
    assert sum(step.context_tokens for step in steps) == sum(map(len, inputs)) + 2
    assert sum(step.new_tokens for step in steps) == 4 * NEW
    check(domain, steps)


@pytest.mark.parametrize("space", [0.0, 0.1], ids=["computed again", "kept on the host"])
def test_what_was_preempted_goes_on_as_generation(
    model: Any, ran: list[Ran], monkeypatch: pytest.MonkeyPatch, space: float
) -> None:
    """By the tokens that each request was given so far: a request that has some is no context any more."""
    monkeypatch.setattr(offloading_manager.torch, "empty", unpinned(torch.empty))
    inputs, settings = prompts((20, 20, 20)), {"num_blocks": 10, "safety_margin": 0.0, "cpu_offload_space": space}
    generation = {"max_new_tokens": 12}
    plain = batched(model, inputs, {**settings, "num_blocks": 96}, **generation)
    preempted = seen_preempted(monkeypatch, space)
    given: dict[str, int] = {}
    said: list[dict[str, int]] = []
    follow(monkeypatch, given, said)
    ran.clear()
    domain = Threads()
    with Segmenter(model, domain=domain) as segmenter:
        assert batched(model, inputs, settings, **generation) == plain
    steps = segmenter.batches.steps
    assert segmenter.batches.problem == ""
    assert len(said) == len(ran) == len(steps)
    for step, batch, had in zip(steps, ran, said, strict=True):
        context = [tokens for name, _, tokens in batch.sequences if not had.get(name)]
        rest = [tokens for name, _, tokens in batch.sequences if had.get(name)]
        assert numbers(step) == (len(context), sum(context), len(rest), sum(rest))
    check(domain, steps)
    assert sum(step.new_tokens for step in steps) == sum(map(len, plain.values()))
    again = sum(step.context_tokens + step.generation_tokens for step in steps) - (60 + 3 * 11)
    assert preempted
    assert (again > 0, max(step.generation_tokens - step.generation_requests for step in steps) > 0) == (not space,) * 2


def unpinned(empty: Callable[..., Any]) -> Callable[..., Any]:
    """Memory as it is: there is no GPU here for which to pin it."""
    return lambda *sizes, **keywords: empty(*sizes, **{**keywords, "pin_memory": False})


def seen_preempted(monkeypatch: pytest.MonkeyPatch, space: float) -> list[Any]:
    """What is preempted from now on: requests whose cache goes to the host, or that are made anew."""
    found: list[Any] = []
    target, name = (
        (offloading_manager.OffloadingManager, "_offload_to_cpu")
        if space
        else (requests.RequestState, "create_equivalent_initial_request")
    )
    original = getattr(target, name)

    def seen(*arguments: Any) -> Any:
        result = original(*arguments)
        found.extend([result] if result else [])
        return result

    monkeypatch.setattr(target, name, seen)
    return found


def follow(monkeypatch: pytest.MonkeyPatch, given: dict[str, int], said: list[dict[str, int]]) -> None:
    """Count the tokens that requests are given, and keep the count as it is at the begin of each step."""
    update = requests.RequestState.update_and_check_completion
    step = continuous_api.ContinuousBatchProcessor._generation_step

    def counting(self: Any, token: int, logprob: float | None) -> bool:
        given[self.request_id] = given.get(self.request_id, 0) + 1
        return update(self, token, logprob)

    def begin(self: Any, model: Any) -> None:
        said.append(dict(given))
        step(self, model)

    monkeypatch.setattr(requests.RequestState, "update_and_check_completion", counting)
    monkeypatch.setattr(continuous_api.ContinuousBatchProcessor, "_generation_step", begin)


# -- async batching -------------------------------------------------------------------------------------


class Stream:
    """Stands for a CUDA stream and its events, which no CPU has: all that is asked for is done at once."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def wait_event(self, event: Any) -> None:
        pass

    record_event = wait_event

    def synchronize(self) -> None:
        pass


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the library's own async batching run on the CPU; the order of its steps and updates is as on a GPU."""
    monkeypatch.setattr(input_outputs.ContinuousBatchingAsyncIOs, "_supported_device_types", ("cpu",))
    monkeypatch.setattr(input_outputs, "create_device_stream", Stream)
    monkeypatch.setattr(input_outputs.torch, "Event", Stream)
    for module in (input_outputs, model_runner, continuous_api, offloading_manager):
        monkeypatch.setattr(module, "stream_context", lambda stream: nullcontext())


@pytest.mark.usefixtures("streams")
def test_async_batches_are_named_before_their_tokens_are_known(model: Any, ran: list[Ran]) -> None:
    """A step may hold a request whose first token is on its way, and one that had ended: neither is context."""
    inputs = prompts()
    plain = batched(model, inputs, {})
    ran.clear()
    domain = Threads()
    with Segmenter(model, domain=domain) as segmenter:
        assert batched(model, inputs, {"use_async_batching": True}) == plain
    steps = segmenter.batches.steps
    assert segmenter.batches.problem == ""
    assert [numbers(step) for step in steps] == expected(ran, {f"req_{i}": len(one) for i, one in enumerate(inputs)})
    check(domain, steps)
    assert sum(step.new_tokens for step in steps) == len(PROMPTS) * NEW
    useless = sum(step.generation_tokens for step in steps) - len(PROMPTS) * (NEW - 1)
    assert 0 < useless <= len(PROMPTS)
    outputs = [name for _, name, _ in domain.closed if name.startswith(("execute", "llm_engine"))]
    assert outputs[0].startswith("execute")
    assert outputs[1].startswith("execute")  # the second step, before the first one's tokens are taken
    assert outputs[-1].startswith("llm_engine")


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize("space", [0.0, 0.1], ids=["computed again", "kept on the host"])
def test_async_requests_that_are_preempted_on_their_way(
    model: Any, monkeypatch: pytest.MonkeyPatch, space: float
) -> None:
    monkeypatch.setattr(offloading_manager.torch, "empty", unpinned(torch.empty))
    settings = {"num_blocks": 10, "safety_margin": 0.0, "cpu_offload_space": space, "use_async_batching": True}
    inputs, domain = prompts((20, 20, 20)), Threads()
    plain = batched(model, inputs, {"num_blocks": 96}, max_new_tokens=12)
    preempted = seen_preempted(monkeypatch, space)
    with Segmenter(model, domain=domain) as segmenter:
        assert batched(model, inputs, settings, max_new_tokens=12) == plain
    assert preempted
    assert segmenter.batches.problem == ""
    check(domain, segmenter.batches.steps)
    assert sum(step.new_tokens for step in segmenter.batches.steps) == 3 * 12


# -- managers -------------------------------------------------------------------------------------------


@contextmanager
def managed(model: Any, lengths: tuple[int, ...] = (), keep: bool = False, **keywords: Any) -> Iterator[Any]:
    """A manager whose loop runs, with prompts that all are there before its first step."""
    manager = model.init_continuous_batching(
        transformers.GenerationConfig(**GREEDY), transformers.ContinuousBatchingConfig(**SMALL)
    )
    manager.start()
    try:
        if lengths:
            with manager.pause():
                manager.add_requests(prompts(lengths), **keywords)
        yield manager
    finally:
        manager.stop(keep_for_next_session=keep)
        if not keep:
            manager.destroy()


def results(manager: Any, count: int) -> list[Any]:
    """The next requests that end."""
    found: list[Any] = []
    limit = time.monotonic() + 60
    while len(found) < count and time.monotonic() < limit:
        output = manager.get_result(timeout=0.2)
        if output is not None and output.is_finished():
            found.append(output)
    assert len(found) == count
    return found


def test_a_manager_that_was_kept_is_watched_once_by_each(model: Any) -> None:
    """What ran before has no ranges, nor has what runs after; and no step has two."""
    seen = []
    for watched in (False, True, True, False):
        domain = Threads()
        watching = Segmenter(model, domain=domain) if watched else nullcontext()
        with watching as segmenter, managed(model, (20, 5), keep=True) as manager:
            results(manager, 2)
        if segmenter is not None:
            check(domain, segmenter.batches.steps)
            seen.append([numbers(step) for step in segmenter.batches.steps])
        else:
            assert not domain.closed
    assert seen[0] == seen[1]
    assert sum(step[1] for step in seen[0]) == 25


def test_a_segmenter_that_is_entered_again_goes_on(model: Any) -> None:
    domain = Threads()
    segmenter = Segmenter(model, domain=domain)
    for times in (1, 2):
        with segmenter, managed(model, (20,), keep=True) as manager:
            results(manager, 1)
        assert len(segmenter.batches.steps) == times * (2 + NEW - 1)
    assert domain.steps == [continuous.step_name(step) for step in segmenter.batches.steps]


def test_a_request_that_is_cancelled_is_in_no_further_step(model: Any) -> None:
    domain = Threads()
    with Segmenter(model, domain=domain) as segmenter, managed(model) as manager:
        manager.add_request(prompts((5,))[0], "long", max_new_tokens=100_000)
        manager.add_request(prompts((30,))[0], "short", max_new_tokens=4)
        results(manager, 1)
        manager.cancel_request("long")
        manager.add_request(prompts((8,))[0], "last", max_new_tokens=3)
        results(manager, 1)
    steps = segmenter.batches.steps
    assert segmenter.batches.problem == ""
    check(domain, steps)
    assert numbers(steps[-1]) == (0, 0, 1, 1)
    assert sum(step.context_tokens for step in steps) == 5 + 30 + 8


def test_a_context_that_is_left_while_the_loop_runs_changes_nothing(model: Any) -> None:
    domain = Threads()
    with managed(model) as unwatched:
        unwatched.add_request(prompts((20,))[0], "0", max_new_tokens=120)
        plain = results(unwatched, 1)[0].generated_tokens
    segmenter = Segmenter(model, domain=domain)
    with segmenter:
        manager = model.init_continuous_batching(
            transformers.GenerationConfig(**GREEDY), transformers.ContinuousBatchingConfig(**SMALL)
        )
        manager.start()
        manager.add_request(prompts((20,))[0], "0", max_new_tokens=120)
        while len(domain.steps) < 3:
            time.sleep(0.001)
    try:
        assert results(manager, 1)[0].generated_tokens == plain
        assert domain.all_closed
        assert 3 <= len(domain.steps) < 120
    finally:
        manager.stop()


def test_a_loop_that_runs_already_is_watched_from_its_next_step(model: Any) -> None:
    """A kept manager that is asked for again is the one that runs."""
    domain = Threads()
    with managed(model, keep=True) as manager:
        model._cached_continuous_batching_manager = manager
        manager.add_request(prompts((20,))[0], "0", max_new_tokens=60)
        with Segmenter(model, domain=domain) as segmenter:
            assert model.init_continuous_batching() is manager
            results(manager, 1)
            manager.stop(keep_for_next_session=True)
    assert segmenter.batches.problem == ""
    assert 0 < len(segmenter.batches.steps) <= 61
    assert domain.steps == [continuous.step_name(step) for step in segmenter.batches.steps]


def test_the_cache_is_freed_with_its_manager_and_not_with_the_segmenter(model: Any) -> None:
    """Else a second batch would find the GPU's memory full."""
    with Segmenter(model, domain=Threads()) as segmenter:
        with managed(model, (5,)) as manager:
            results(manager, 1)
            cache = weakref.ref(manager.batch_processor.cache)
        del manager
        gc.collect()
        assert cache() is None
        assert segmenter.batches.steps


# -- what goes wrong ------------------------------------------------------------------------------------


class Stop(Exception):
    """Raised on purpose in the middle of a step."""


@pytest.mark.parametrize("where", ["forward", "inputs", "schedule", "outputs"])
def test_an_error_in_the_loop_ends_its_requests_and_leaves_nothing_open(
    model: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    target, name = {
        "forward": (model_runner.ModelRunner, "_forward_process_and_sample"),
        "inputs": (input_outputs.ContinuousBatchingIOs, "prepare_batch_tensors"),
        "schedule": (scheduler.FIFOScheduler, "schedule_batch"),
        "outputs": (requests.RequestState, "update_and_check_completion"),
    }[where]
    original, calls = getattr(target, name), []

    def fails(*arguments: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise Stop("on purpose")
        return original(*arguments, **keywords)

    monkeypatch.setattr(target, name, fails)
    domain = Threads()
    with Segmenter(model, domain=domain) as segmenter, managed(model, (20, 5)) as manager:
        outputs = results(manager, 2)
        assert type(manager.background_thread_status.fatal_error) is Stop
    assert [output.error for output in outputs] == ["on purpose"] * 2
    assert segmenter.batches.problem == ""
    assert domain.all_closed
    begun, counted = len(domain.steps), len(segmenter.batches.steps)
    assert counted == begun - (where != "schedule")  # what failed has a range, and no tokens were taken


def test_another_loop_after_one_that_failed_is_counted_anew(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    domain = Threads()
    with Segmenter(model, domain=domain) as segmenter:
        with monkeypatch.context() as patch, managed(model, keep=True) as manager:
            patch.setattr(model_runner.ModelRunner, "_forward_process_and_sample", raising)
            manager.add_requests(prompts((5,)))
            assert results(manager, 1)[0].error == "on purpose"
        with managed(model, (20,), keep=True) as manager:
            assert results(manager, 1)[0].error is None
    assert segmenter.batches.problem == ""
    assert [numbers(step) for step in segmenter.batches.steps][:2] == [(1, 16, 0, 0), (1, 4, 0, 0)]
    assert domain.all_closed


def raising(*_: Any) -> None:
    raise Stop("on purpose")


def no_loop_body(patch: pytest.MonkeyPatch) -> str:
    manager = continuous_api.ContinuousBatchingManager
    body = manager._generation_loop_body
    patch.setattr(manager, "_another_body", body, raising=False)
    patch.delattr(manager, "_generation_loop_body")
    loop = manager._run_generation_loop

    def run(self: Any, **keywords: Any) -> None:
        self.__dict__.pop("_generation_loop_body", None)
        self.__class__ = type("Renamed", (manager,), {"_generation_loop_body": body})
        loop(self, **keywords)

    patch.setattr(manager, "_run_generation_loop", run)
    return "_generation_loop_body"


def no_scheduler_call(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(continuous, "_PARTS", {**continuous._PARTS, "model_runner": ("compute_all",)})
    return "compute_all"


def other_requests(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(continuous, "_goes_on", lambda one: one.stage_of_today)
    return "stage_of_today"


def other_tokens(patch: pytest.MonkeyPatch) -> str:
    original = input_outputs.ContinuousBatchingIOs.prepare_batch_tensors

    def prepare(self: Any, *arguments: Any, **keywords: Any) -> None:
        original(self, *arguments, **keywords)
        self.total_seqlen_q += 1

    patch.setattr(input_outputs.ContinuousBatchingIOs, "prepare_batch_tensors", prepare)
    return "tokens"


def other_meaning(patch: pytest.MonkeyPatch) -> str:
    patch.setattr(continuous, "_goes_on", lambda state: state.position_offset > 10)
    return "was scheduled"


def other_order(patch: pytest.MonkeyPatch) -> str:
    original = input_outputs.ContinuousBatchingIOs.prepare_batch_update
    kept: list[Any] = []

    def update(self: Any) -> Any:
        requests, tokens, logprobs = original(self)
        kept.append(requests)
        return (list(requests) if len(kept) < 3 else [requests[0].__class__(one.state, one.has_new_token,
                one.complete_blocks, one.query_length) for one in requests]), tokens, logprobs  # fmt: skip

    patch.setattr(input_outputs.ContinuousBatchingIOs, "prepare_batch_update", update)
    return "another batch"


#: A library that works in another way than is known: made from the one that is here.
OTHERS = [no_loop_body, no_scheduler_call, other_requests, other_tokens, other_meaning, other_order]


@pytest.mark.parametrize("other", OTHERS)
def test_another_library_is_told_and_never_miscounted(
    model: Any, monkeypatch: pytest.MonkeyPatch, other: Callable[[pytest.MonkeyPatch], str]
) -> None:
    inputs = prompts((20, 5))
    plain = batched(model, inputs, {})
    domain = Threads()
    with monkeypatch.context() as patch:
        reason = other(patch)
        with Segmenter(model, domain=domain) as segmenter, pytest.warns(RuntimeWarning, match=reason):
            assert batched(model, inputs, {}) == plain
    assert reason in segmenter.batches.problem
    assert f"transformers {transformers.__version__}" in segmenter.batches.problem
    assert domain.all_closed
    assert len(segmenter.batches.steps) <= 2
    assert len(domain.steps) <= 3


def test_a_model_without_continuous_batching_is_no_trouble() -> None:
    class Plain:
        def generate(self) -> str:
            return "said"

    with Segmenter(Plain(), domain=Threads()) as segmenter:
        assert segmenter.batches.steps == []


def test_two_loops_at_once_have_their_own_ranges(model: Any) -> None:
    from models import llama

    domain, other = Threads(), llama()
    with (
        Segmenter(model, domain=domain) as first,
        Segmenter(other, domain=domain) as second,
        managed(model, (20, 30), max_new_tokens=30) as one,
        managed(other, (20, 30), max_new_tokens=30) as two,
    ):
        for manager in (one, two):
            results(manager, 2)
    assert domain.all_closed
    by_thread: dict[int, list[str]] = {}
    for thread, name, _ in domain.closed:
        if name.startswith("execute"):
            by_thread.setdefault(thread, []).append(name)
    said = sorted([continuous.step_name(step) for step in each.batches.steps] for each in (first, second))
    assert sorted(by_thread.values()) == said
