"""TensorRT-LLM, PyTorch backend: the executor's ``_forward_step``, always written, in the domain ``TensorRT-LLM``.

Source: tensorrt_llm/_torch/pyexecutor/py_executor.py; tokens of the contexts since pull request 14206.
"""

from __future__ import annotations

from dsprof.rules.engines._engine import COUNT, Engine, Form

ENGINE = Engine(
    "tensorrt-llm",
    "TensorRT-LLM",
    (
        Form(
            "forward step",
            ("[Executor] _forward_step ",),
            rf"\[Executor\] _forward_step (?P<iteration>{COUNT}): (?P<context_requests>{COUNT}) ctx reqs, "
            rf"(?:(?P<context_tokens>{COUNT}) ctx tokens, )?(?P<generation_requests>{COUNT}) gen reqs",
        ),
    ),
    after="sampling, and the executor's handling of requests",
    switch="TensorRT-LLM's PyTorch backend writes its step ranges by itself.",
)
