"""Decode steps as CUDA graph replays: a small attention block, captured once, with a model's ranges around it.

``python -m dsprof.workloads.graphs [--processes N] [--requests N] [--steps N]``; needs torch and an NVIDIA GPU. Every
second step also launches a kernel of its own, and each process copies its result on a second stream.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from dsprof.words import REQUEST, STEP
from dsprof.workloads.ranges import annotate, decode_range, prefill_range

_WIDTH, _HEADS, _PROMPT_TOKENS, _LAYERS = 1024, 8, 512, 4


def block(x: Any, weights: Any) -> Any:
    """One attention block on plain operations."""
    import torch

    for weight in weights:
        heads = (x @ weight).unflatten(-1, (_HEADS, -1)).transpose(-2, -3)
        x = x + torch.nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(-2, -3).flatten(-2)
        x = torch.nn.functional.gelu(x)
    return x


def captured(token: Any, weights: Any) -> Callable[[], Any]:
    """The block on `token` as a graph; each call of the result replays it."""
    import torch

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            block(token, weights)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        block(token, weights)
    replay: Callable[[], Any] = graph.replay
    return replay


def serve(requests: int, steps: int) -> None:
    """Requests of one prefill and `steps` decode steps each."""
    import torch

    torch.manual_seed(0)
    options = {"device": "cuda", "dtype": torch.bfloat16}
    weights = [torch.randn(_WIDTH, _WIDTH, **options) / _WIDTH**0.5 for _ in range(_LAYERS)]
    prompt, token = torch.randn(1, _PROMPT_TOKENS, _WIDTH, **options), torch.randn(1, 1, _WIDTH, **options)
    block(prompt, weights)
    replay, side = captured(token, weights), torch.cuda.Stream()
    for request in range(requests):
        with annotate(REQUEST, request):
            with prefill_range(_PROMPT_TOKENS):
                block(prompt, weights)
            with decode_range():
                for step in range(1, steps + 1):
                    with annotate(STEP, step):
                        replay()
                        if step % 2 == 0:
                            token.mul_(0.5)
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                token.to("cpu", non_blocking=True)
            side.synchronize()


def main() -> int:
    """Serve in this process, or in several at once."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16)
    options = parser.parse_args()
    if options.processes == 1:
        serve(options.requests, options.steps)
        return 0
    command = [sys.executable, "-m", __spec__.name, "--requests", str(options.requests), "--steps", str(options.steps)]
    running = [subprocess.Popen(command) for _ in range(options.processes)]
    return max(process.wait() for process in running)


if __name__ == "__main__":
    sys.exit(main())
