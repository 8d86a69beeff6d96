"""vLLM, V1 engine: the range of a worker's step says how many requests and tokens of which kind were scheduled.

Source: vllm/v1/worker/gpu_worker.py, `annotate_profile`, and vllm/v1/utils.py, of vLLM 0.33.0 and before.
"""

from __future__ import annotations

from dsprof.arrays import NULL
from dsprof.rules.engines._engine import COUNT, Engine, Form, Step, by_word, guess
from dsprof.words import DECODE, DOMAIN, EMPTY, MIXED, PREFILL

_CONTEXT = rf"context_(?P<context_requests>{COUNT})"
_GENERATION = rf"generation_(?P<generation_requests>{COUNT})"


def _sums(phase: str) -> str:
    """What a detailed name says of a phase: tokens, lengths, and sums of their products."""
    return rf"\(sq(?P<{phase}_tokens>{COUNT})sk(?P<{phase}_kv_tokens>{COUNT})sqsq\d{{1,24}}sqsk\d{{1,24}}\)"


def _new_and_others(step: Step, word: str) -> Step:
    """A step of which only new and other requests are told: others may decode, or be chunks of a prefill."""
    new, others = step.context_requests, step.generation_requests
    if not others:
        return step._replace(mode=PREFILL if new else EMPTY)
    told = step._replace(context_requests=NULL, generation_requests=NULL)
    return told._replace(mode=guess(MIXED) if new else guess(DECODE))


ENGINE = Engine(
    "vllm",
    "vLLM",
    (
        Form(
            "detailed",
            ("execute_",),
            rf"execute_{COUNT}_{_CONTEXT}{_sums('context')}_{_GENERATION}{_sums('generation')}",
        ),
        Form(
            "counts",
            ("execute_context_",),
            rf"execute_{_CONTEXT}\((?P<context_tokens>{COUNT})\)_{_GENERATION}\((?P<generation_tokens>{COUNT})\)",
        ),
        Form(
            "new and cached",
            ("execute_new_",),
            rf"execute_new_(?P<context_requests>{COUNT})_cached_(?P<generation_requests>{COUNT})",
            _new_and_others,
            because="its names tell new requests from others, which may be chunks of a prefill",
        ),
        Form(
            "batches",
            ("prefill_batch", "decode_batch", "mixed_batch", "empty_batch"),
            r"(?P<mode>prefill|decode|mixed|empty)_batch",
            by_word({PREFILL: PREFILL, DECODE: DECODE, MIXED: MIXED, EMPTY: EMPTY}),
            beside=r"scheduler_step|gpu_model_runner: \w+",
        ),
        Form(
            "scopes",
            ("gpu_model_runner: ",),
            r"gpu_model_runner: preprocess",
            because="its scopes do not say what was scheduled",
        ),
    ),
    after="sampling, drafting, bookkeeping, with model runner V2 also the logits; then the scheduler",
    switch="vLLM writes its step ranges only with --profiler-config.profiler cuda, between /start_profile and "
    "/stop_profile; its scopes with VLLM_NVTX_SCOPES_FOR_PROFILING=1.",
    others={DOMAIN: "transformers"},
)
