"""Ranges around the steps of transformers' continuous batching, from the scheduler's own batch, and its own counts.

::

    schedule: schedule_batch                   which requests, and how many tokens of each
    execute_context_1(32)_generation_7(7)      the batch's inputs, until its outputs are on their way to the host
      gpu_model_runner: preprocess
      gpu_model_runner: forward                forward, logits and the next tokens: one function, one CUDA graph
        gpu_model_runner: sample               only where that function is called as it is
      gpu_model_runner: get_output
    llm_engine step: process_outputs           of this batch, or of the one before it (async batching)

All of that is in the library's own thread. The names are vLLM's: requests, and the tokens of them that this step
computes. Context is a request of which no new token was sampled yet, also a later chunk of its prompt; all others are
generation, also one that was preempted and is computed again. What the name says is told before the step, by how far a
request has come; what is kept in `steps` is told after it, by the tokens that it has. Where both differ, or the library
is another than is known here, a warning says so, and neither ranges nor counts follow.
"""

from __future__ import annotations

import threading
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from attrs import define, field

from dsprof.ground.versions import installed
from dsprof.workloads.ranges import Domain, Stack
from dsprof.workloads.timing import BatchStep
from dsprof.workloads.wrapping import wrap

INIT = "init_continuous_batching"
#: What must be there: of the manager, of the processor that its loop runs with, and of the processor's parts.
_MANAGER = ("_generation_loop_body",)
_PROCESSOR = ("prepare_next_batch", "_generation_step", "update_batch")
_PARTS = {
    "scheduler": ("schedule_batch",),
    "inputs_and_outputs": ("prepare_batch_tensors", "prepare_batch_update", "retrieve_device_outputs"),
    "model_runner": ("compute_batch",),
}


def step_name(step: BatchStep) -> str:
    """The name of a step's range, as vLLM writes it."""
    return (
        f"execute_context_{step.context_requests}({step.context_tokens})"
        f"_generation_{step.generation_requests}({step.generation_tokens})"
    )


class Batches:
    """The batches of a model's continuous batching while it is watched, for every manager that it makes.

    `steps`: what the library itself counted of each, in the order in which it took their tokens. `problem`: why
    nothing more is counted; empty while all is well.
    """

    def __init__(self, domain: Domain) -> None:
        self.steps: list[BatchStep] = []
        self.problem = ""
        self._domain = domain
        self._undo: list[Callable[[], None]] = []
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._open: dict[int, Stack] = {}
        self._lock, self._watching = threading.Lock(), False

    def watch(self, model: Any) -> None:
        """Watch the managers that the model makes from now on, or has kept."""
        if callable(getattr(model, INIT, None)):
            self._watching = True
            self._undo.append(wrap(model, INIT, self._init))

    def unwatch(self) -> None:
        """Put everything back; a step that runs meanwhile closes its own ranges."""
        with self._lock:  # a loop may just begin
            self._watching = False
            while self._undo:
                self._undo.pop()()
            self._known.clear()

    def stack_here(self) -> Stack | None:
        """The ranges of the step that this thread is in."""
        return self._open.get(threading.get_ident())

    def give_up(self, reason: str) -> None:
        """Count nothing more, and say why."""
        if not self.problem:
            version = installed("transformers") or "this version"
            self.problem = f"Continuous batching of transformers {version} gets no ranges (any more): {reason}."
            with suppress(RuntimeWarning):  # where warnings are errors: the program's loop must not end by it
                warnings.warn(self.problem, RuntimeWarning, stacklevel=2)

    # -- what is wrapped --------------------------------------------------------------------------------

    def _init(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        manager = original(*arguments, **keywords)
        with self._lock:
            if self._watching and manager not in self._known and self._has(manager, _MANAGER):
                self._known.add(manager)
                self._undo.append(wrap(manager, "_generation_loop_body", _Loop(self, Stack(self._domain)).iteration))
        return manager

    def meet(self, loop: _Loop, processor: Any) -> None:
        """Watch the processor that a loop runs with."""
        with self._lock:
            if self._watching and processor not in self._known and not self.problem:
                self._wrap_processor(loop, processor)

    def _wrap_processor(self, loop: _Loop, processor: Any) -> None:
        if not self._has(processor, (*_PROCESSOR, *_PARTS)):
            return
        parts = {name: getattr(processor, name) for name in _PARTS}
        if not all(self._has(parts[name], methods) for name, methods in _PARTS.items()):
            return
        self._known.add(processor)
        scheduler, batch, runner = parts.values()
        self._undo += [
            wrap(processor, "prepare_next_batch", loop.prepare),
            wrap(processor, "_generation_step", loop.execute),
            wrap(processor, "update_batch", loop.update),
            wrap(scheduler, "schedule_batch", loop.within("schedule: schedule_batch", always=True)),
            wrap(batch, "prepare_batch_tensors", loop.inputs),
            wrap(batch, "prepare_batch_update", loop.outputs),
            wrap(batch, "retrieve_device_outputs", loop.within("gpu_model_runner: get_output")),
            wrap(runner, "compute_batch", loop.within("gpu_model_runner: forward")),
        ]
        compiled = any(getattr(runner, name, None) for name in ("_compiled_varlen", "_compiled_decode"))
        if hasattr(runner, "_sample") and not compiled:  # a range would break the compiler's graph
            self._undo.append(wrap(runner, "_sample", loop.within("gpu_model_runner: sample")))

    def _has(self, target: Any, names: Sequence[str]) -> bool:
        missing = [name for name in names if not hasattr(target, name)]
        if missing:
            self.give_up(f"its {type(target).__name__} has no {missing[0]}, and works in another way than is known")
        return not missing


@define
class _Begun:
    """A batch whose tokens were not taken yet."""

    requests: Sequence[Any]
    said: BatchStep


@define
class _Loop:
    """What is known of one manager's loop; all but its making happens in that thread."""

    batches: Batches
    stack: Stack
    thread: threading.Thread | None = None
    preparing: bool = False
    begun: deque[_Begun] = field(factory=deque)
    taken: tuple[BatchStep, list[tuple[Any, int]]] | None = None
    counted: int = 0

    def iteration(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """One turn of the loop; nothing stays open behind it."""
        self._guarded(self._meet, keywords.get("batch_processor", arguments[0] if arguments else None))
        try:
            return original(*arguments, **keywords)
        finally:
            self._end()

    def prepare(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Scheduling, and the inputs of what was scheduled: a warm-up of the library makes inputs outside of this."""
        self.preparing = True
        try:
            return original(*arguments, **keywords)
        finally:
            self.preparing = False

    def inputs(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """The step begins where its requests are known: its inputs are made, and copied, for it."""
        if not self.preparing or self.batches.problem:
            return original(*arguments, **keywords)
        self._guarded(self._begin, keywords.get("requests_in_batch", arguments[0] if arguments else ()))
        with self._scope("gpu_model_runner: preprocess"):
            found = original(*arguments, **keywords)
        if not self.batches.problem:
            self._guarded(self._check, getattr(original, "__self__", None))
        return found

    def execute(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """The step ends where its outputs are on their way to the host, or are there (without async batching)."""
        try:
            return original(*arguments, **keywords)
        finally:
            self._end()

    def update(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """The tokens of a batch go to its requests."""
        self.taken = None
        with self._scope("llm_engine step: process_outputs"):
            found = original(*arguments, **keywords)
        if not self.batches.problem:
            self._guarded(self._count)
        return found

    def outputs(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Which batch that is, before its tokens are taken."""
        found = original(*arguments, **keywords)
        if not self.batches.problem:
            self._guarded(self._take, found[0])
        return found

    def within(self, name: str, always: bool = False) -> Callable[..., Any]:
        """A wrapper that opens a range, in a step, or `always`."""

        def scoped(original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
            if not always and self.batches.stack_here() is not self.stack:
                return original(*arguments, **keywords)
            with self._scope(name):
                return original(*arguments, **keywords)

        return scoped

    # -- counting ---------------------------------------------------------------------------------------

    def _meet(self, processor: Any) -> None:
        if self.thread is not threading.current_thread():  # another run: the last one may have been cut short
            self.thread = threading.current_thread()
            self.begun.clear()
        self.batches.meet(self, processor)

    def _begin(self, requests: Sequence[Any]) -> None:
        said = _counts([(one.query_length, _goes_on(one.state)) for one in requests])
        said.start_ns = time.perf_counter_ns()
        self.begun.append(_Begun(requests, said))
        self.batches._open[threading.get_ident()] = self.stack
        self.stack.push(step_name(said))

    def _check(self, batch: Any) -> None:
        """The inputs have as many tokens as was said."""
        made = batch.io_pairs[batch.current_pair].host_io if hasattr(batch, "io_pairs") else batch
        said = self.begun[-1].said
        if made.total_seqlen_q != said.context_tokens + said.generation_tokens:
            self.batches.give_up(f"{_numbers(said)} was scheduled, and inputs made for {made.total_seqlen_q} tokens")

    def _end(self) -> None:
        """Close the step, if one is open."""
        self.stack.pop_to(0)
        if self.batches._open.pop(threading.get_ident(), None) is not None and self.begun:
            said = self.begun[-1].said
            said.duration_ns = time.perf_counter_ns() - said.start_ns

    def _take(self, requests: Sequence[Any]) -> None:
        """Count a batch by the tokens that its requests have before its own are taken."""
        if not requests:
            return
        found = _counts([(one.query_length, _has_tokens(one.state)) for one in requests])
        begun = self.begun[0] if self.begun else None
        if begun is None or begun.requests[0] is not requests[0]:
            if self.counted:
                self.batches.give_up("it took the tokens of another batch than the one that ran")
            return  # a batch from before it was watched
        said = self.begun.popleft().said
        if _numbers(said) != _numbers(found):
            self.batches.give_up(f"{_numbers(said)} was scheduled, and {_numbers(found)} computed")
            return
        found.start_ns, found.duration_ns = said.start_ns, said.duration_ns
        self.taken = found, [(one.state, len(one.state.generated_tokens)) for one in requests]

    def _count(self) -> None:
        if self.taken is None:
            return
        step, before = self.taken
        step.new_tokens = sum(len(state.generated_tokens) - tokens for state, tokens in before)
        self.counted += 1
        self.batches.steps.append(step)

    def _guarded(self, count: Callable[..., None], *arguments: Any) -> None:
        """What goes wrong in counting must not end the program's loop."""
        try:
            count(*arguments)
        except Exception as error:
            self.batches.give_up(f"its requests are other than is known ({type(error).__name__}: {error!s:.200})")

    @contextmanager
    def _scope(self, name: str) -> Iterator[None]:
        if self.batches.problem:
            yield
            return
        depth = len(self.stack.names)
        self.stack.push(name)
        try:
            yield
        finally:
            self.stack.pop_to(depth)


def _counts(batch: Sequence[tuple[int, bool]]) -> BatchStep:
    """By what each request computes, and whether it goes on with tokens that were sampled."""
    context, generation = ([tokens for tokens, goes_on in batch if goes_on is which] for which in (False, True))
    return BatchStep(len(context), sum(context), len(generation), sum(generation))


def _numbers(step: BatchStep) -> tuple[int, ...]:
    return step.context_requests, step.context_tokens, step.generation_requests, step.generation_tokens


def _goes_on(state: Any) -> bool:
    """Whether a request that is about to run has its first token, or will have before it runs, by how far it came."""
    return bool(state.position_offset >= len(state.initial_tokens)) or _has_tokens(state)


def _has_tokens(state: Any) -> bool:
    """Whether tokens were sampled and taken for a request; those from before a preemption count as its prompt's."""
    asked = state._true_initial_tokens or len(state.initial_tokens)
    return bool(state.generated_tokens) or len(state.initial_tokens) > asked
