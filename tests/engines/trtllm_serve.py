"""A stand-in for trtllm-serve: its step ranges, in its own domain, always on."""

from __future__ import annotations

import itertools
import sys

import emit

if __name__ == "__main__":
    steps = itertools.count()

    def complete() -> int:
        for context in (1, 0, 0):
            counts = f"{context} ctx reqs, {16 * context} ctx tokens, {1 - context} gen reqs"
            emit.step(f"[Executor] _forward_step {next(steps)}: {counts}", "TensorRT-LLM")
        return 200

    port = int(emit.option(sys.argv, "--port", "8000"))
    emit.serve_http(port, {"GET /health": lambda: 200, "POST /v1/completions": complete})
