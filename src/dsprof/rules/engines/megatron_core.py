"""Megatron-Core's dynamic inference engine: a word for each step, without counts.

Source: megatron/core/inference/engines/dynamic_engine.py: Decode where no request of the batch prefills, else Prefill.
"""

from __future__ import annotations

from dsprof.rules.engines._engine import Engine, Form, by_word, guess
from dsprof.words import DECODE, PREFILL

ENGINE = Engine(
    "megatron-core",
    "Megatron-Core",
    (
        Form(
            "schedule",
            ("Prefill", "Decode", "Async"),
            r"(?P<mode>Prefill|Decode|AsyncOverlap|AsyncNoOverlap)",
            by_word({"prefill": guess(PREFILL), "decode": DECODE}),
            beside=r"bookkeeping|EP-dummy-forward|coordinator_\w+|mtp-spec-decoding/\w+|\w+-inference-context",
            because="its steps called Prefill may hold requests that decode",
        ),
    ),
    after="bookkeeping and the coordinator",
    switch="Megatron-Core writes its step ranges after configure_nvtx_profiling(True).",
)
