"""Stages, steps and modules of any transformers model with `generate()`, as NVTX ranges, without touching its code.

::

    request                      from the entry of generate() to its end
      prefill                    … until all of the prompt was seen: vision tower, first forward, first token
        forward > module:…
      decode
        decode.step 1            the second token's forward, and its sampling
          forward > module:…
        decode.step 2 …

A forward begins where `generate()` prepares its inputs. Prefill ends when the tokens seen reach the prompt's
length, not after the first forward: a chunked prefill has several. Nothing is synchronized: attribution is by
launch, so a range may end before its kernels run.
"""

from __future__ import annotations

import itertools
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from attrs import define

from dsprof.words import BATCH, DECODE, MODULE, PREFILL, REQUEST, STEP
from dsprof.workloads.continuous import Batches
from dsprof.workloads.ranges import Domain, Stack, open_domain
from dsprof.workloads.timing import RequestTiming, StageTiming
from dsprof.workloads.wrapping import wrap

FORWARD = "forward"
#: Settings of `generate()` with which a step makes several tokens of a sequence.
_DRAFTS = ("assistant_model", "prompt_lookup_num_tokens", "assistant_early_exit")
#: More tokens than any prompt has.
_ALL = sys.maxsize
_VISION = r"(vision_tower|vision_model|visual|sam_model|sam_encoder|vision_encoder|multi_modal_projector|projector)$"
_HEAD = r"(^|\.)lm_head$"
_LAYER = r"(^|\.)(layers|blocks|h)\.\d+"
_PARTS = r"(\.(self_attn|attn|attention|mlp|mlp\.experts|mlp\.gate|mlp\.shared_experts))?$"
#: Which submodules get a range, by the name of a level; anything else is a regular expression on their names.
LEVELS = {
    "none": "",
    "stages": f"{_VISION}|{_HEAD}",
    "layers": f"{_VISION}|{_HEAD}|{_LAYER}$",
    "all": f"{_VISION}|{_HEAD}|{_LAYER}{_PARTS}",
}


class NoDomain:
    """Stands for an NVTX domain where none is wanted: the host's times are still taken."""

    def push(self, name: str, payload: int | None = None) -> None:
        """Do nothing."""

    def pop(self) -> None:
        """Do nothing."""


@define
class _Request:
    """What is known of the request that runs now."""

    prompt_tokens: int | None
    base: int
    timing: RequestTiming
    seen: int = 0
    forwards: int = 0
    nested: int = 0
    stage: str = PREFILL


class Segmenter:
    """Ranges around `model.generate()` while the context is open; the output stays what it is without.

    `modules`: a level of `LEVELS`, or a regular expression searched for in the qualified names of submodules.
    Modules that are compiled get no ranges: hooks would break their graph. `timings` holds the host's times
    of each request; they are numbered from `first_request`. `batches`: of `generate_batch()` and all of transformers'
    continuous batching, which has steps instead of requests (see `continuous`); leave the context when its loop has
    ended. Raises `TypeError` for a model without `generate`.
    """

    def __init__(self, model: Any, modules: str = "none", domain: Domain | None = None, first_request: int = 0) -> None:
        if not callable(getattr(model, "generate", None)):
            raise TypeError(f"{type(model).__name__} has no generate(): it cannot be split into prefill and decode.")
        self.timings: list[RequestTiming] = []
        self._model, self._compiled = getattr(model, "_orig_mod", model), _is_compiled(model)
        self._first_request = first_request
        self._pattern = re.compile(LEVELS.get(modules, modules)) if modules != "none" else None
        self._stack = Stack(domain if domain is not None else open_domain())
        self.batches = Batches(self._stack.domain)
        self._request: _Request | None = None
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Segmenter:
        self._wrap("generate", self._generate)
        if hasattr(self._model, "prepare_inputs_for_generation"):
            self._wrap("prepare_inputs_for_generation", self._prepare)
        self.batches.watch(self._model)
        if self._pattern is not None and not self._compiled:
            self._hook(self._model, FORWARD)
            for name, module in self._model.named_modules():
                if name and self._pattern.search(name):
                    self._hook(module, f"{MODULE}{name}")
        return self

    def __exit__(self, *error: object) -> None:
        self.batches.unwatch()
        while self._undo:
            self._undo.pop()()
        self._stack.pop_to(0)
        self._request = None

    # -- what is wrapped --------------------------------------------------------------------------------

    def _wrap(self, name: str, wrapper: Callable[..., Any]) -> None:
        self._undo.append(wrap(self._model, name, wrapper))

    def _hook(self, module: Any, label: str) -> None:
        from torch.compiler import is_compiling  # a constant to the compiler, to which the hooks are then empty

        def enter(*_: Any) -> None:
            if not is_compiling():
                self._enter_module(label)

        def leave(*_: Any) -> None:
            if not is_compiling():
                self._leave_module(label)

        before = module.register_forward_pre_hook(enter, prepend=True)
        after = module.register_forward_hook(leave, always_call=True)
        self._undo += [before.remove, after.remove]

    def _enter_module(self, label: str) -> None:
        if (stack := self._open_stack()) is not None:
            stack.push(label)

    def _leave_module(self, label: str) -> None:
        if (stack := self._open_stack()) is not None:
            stack.pop_through(label)

    def _open_stack(self) -> Stack | None:
        """The ranges of the batch that this thread computes, or else of the request that runs now."""
        return self.batches.stack_here() or (self._stack if self._request is not None else None)

    def _generate(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        if self._request is not None:  # the model drafts for itself, inside its own generate()
            self._request.nested += 1
            try:
                return original(*arguments, **keywords)
            finally:
                self._request.nested -= 1
        batch = _sequences(arguments, keywords, getattr(self._model, "generation_config", None))
        with self._one_request(_prompt_tokens(arguments, keywords), _cached_tokens(keywords), batch):
            return original(*arguments, **keywords)

    def _prepare(self, original: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        request = self._request
        if request is None or request.nested:
            return original(*arguments, **keywords)
        self._begin_forward(request)
        inputs = original(*arguments, **keywords)
        request.seen += _query_tokens(inputs)
        return inputs

    # -- stages -----------------------------------------------------------------------------------------

    @contextmanager
    def _one_request(self, prompt_tokens: int | None, cached_tokens: int, batch: int | None) -> Iterator[None]:
        number = self._first_request + len(self.timings)
        timing = RequestTiming(request=number, prompt_tokens=prompt_tokens, start_ns=time.perf_counter_ns())
        self._request = _Request(prompt_tokens, len(self._stack.names), timing, cached_tokens)
        self._stack.push(REQUEST, timing.request)
        self._begin_stage(self._request, PREFILL, prompt_tokens)
        if batch is not None:
            self._stack.push(BATCH, batch)
            self._stack.pop_through(BATCH)
        try:
            yield
        finally:
            self._end_stage(self._request)
            timing.duration_ns = time.perf_counter_ns() - timing.start_ns
            self.timings.append(timing)
            self._stack.pop_to(self._request.base)
            self._request = None

    def _begin_forward(self, request: _Request) -> None:
        whole_prompt_seen = request.prompt_tokens is None or request.seen >= request.prompt_tokens
        if request.forwards and whole_prompt_seen:
            if request.stage == PREFILL:
                self._end_stage(request)
                self._begin_stage(request, DECODE)
            self._stack.pop_to(request.base + 2)
            step = len(request.timing.steps_ns) + 1
            request.timing.steps_ns.append(time.perf_counter_ns())
            self._stack.push(STEP, step)
        request.forwards += 1

    def _begin_stage(self, request: _Request, stage: str, tokens: int | None = None) -> None:
        self._stack.pop_to(request.base + 1)
        self._stack.push(stage, tokens)
        request.stage = stage
        request.timing.stages.append(
            StageTiming(stage=stage, request=request.timing.request, start_ns=time.perf_counter_ns(), tokens=tokens)
        )

    def _end_stage(self, request: _Request) -> None:
        now, timing = time.perf_counter_ns(), request.timing
        stage = timing.stages[-1]
        stage.duration_ns = now - stage.start_ns
        if stage.stage == DECODE:
            begun = [*timing.steps_ns, now]
            timing.steps_ns = [after - before for before, after in itertools.pairwise(begun)]
            stage.tokens = len(timing.steps_ns)


def _is_compiled(model: Any) -> bool:
    """By torch in place or as a copy, or by an earlier `generate()`: hooks would have it compiled anew."""
    return getattr(model, "_compiled_call_impl", None) is not None or any(
        hasattr(model, name) for name in ("_orig_mod", "_compiled_call")
    )


def _prompt_tokens(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> int | None:
    """Length of the prompt that `generate` was given; None where it was given embeddings or nothing."""
    ids = _given(arguments, keywords)
    return int(ids.shape[-1]) if getattr(ids, "ndim", 0) == 2 else None


def _given(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    return keywords.get("input_ids", keywords.get("inputs", arguments[0] if arguments else None))


def _sequences(arguments: tuple[Any, ...], keywords: dict[str, Any], config: Any) -> int | None:
    """Sequences that `generate` makes a token of in each step; None where it drafts, so that a step may make more."""
    config = keywords.get("generation_config") or config

    def setting(name: str) -> Any:
        return keywords.get(name, getattr(config, name, None))

    given: Any = _given(arguments, keywords)
    if given is None:
        given = keywords.get("inputs_embeds")
    if getattr(given, "ndim", 0) < 2 or any(setting(name) is not None for name in _DRAFTS):
        return None
    return int(given.shape[0]) * int(setting("num_return_sequences") or 1)


def _cached_tokens(keywords: dict[str, Any]) -> int:
    """Tokens of the prompt that the caller's cache holds already: the earlier turns of a conversation."""
    cache: Any = keywords.get("cache", keywords.get("past_key_values"))  # as it is called from transformers 5.24 on
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0


def _query_tokens(inputs: Any) -> int:
    """Tokens that a forward was prepared for; those of a decoder beside an encoder are no part of the prompt."""
    tokens: Any = inputs.get("input_ids")
    if tokens is None:
        tokens = inputs.get("inputs_embeds")
    return int(tokens.shape[1]) if getattr(tokens, "ndim", 0) >= 2 else _ALL
