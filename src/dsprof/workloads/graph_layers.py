"""Layers through a CUDA graph: a Llama of a few layers whose decode step is captured within the recording.

``python -m dsprof.workloads.graph_layers [--layers N] [--steps N] [--requests N]``; needs torch and transformers, and
an NVIDIA GPU for the graph: without one each step runs as it is. Weights are random. The first step of all is eager,
the second is captured and replayed, all others are replays. Each layer, its attention and its MLP have ranges, which
are written where their Python runs: at the capture, and not in a replay.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from typing import Any

from dsprof.workloads.ranges import Domain
from dsprof.workloads.segmenter import Segmenter

_PROMPT_TOKENS, _MOST_STEPS = 128, 512
_SIZES = {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16,
          "num_key_value_heads": 4}  # fmt: skip
_SMALL = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
          "num_key_value_heads": 2}  # fmt: skip


def build(layers: int, device: str) -> Any:
    """A `LlamaForCausalLM`, small where there is no GPU, which generates as `Replayed` does."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {**(_SMALL if device == "cpu" else _SIZES), "num_hidden_layers": layers}
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    model.to(device, torch.float32 if device == "cpu" else torch.bfloat16)
    replayed = Replayed(model, device)
    model.generate, model.prepare_inputs_for_generation = replayed.generate, replayed.inputs
    return model


class Replayed:
    """Greedy decoding into a static cache, by one graph as soon as a step is captured.

    What a step reads and writes stays where it is.
    """

    def __init__(self, model: Any, device: str) -> None:
        import torch
        from transformers import StaticCache

        self._model, self._captures = model, device != "cpu"
        self._cache = StaticCache(config=model.config, max_cache_len=_PROMPT_TOKENS + _MOST_STEPS)
        self._token = torch.zeros((1, 1), dtype=torch.long, device=device)
        self._place = torch.zeros(1, dtype=torch.long, device=device)
        self._run: Callable[[], None] | None = None
        known = inspect.signature(type(model).forward).parameters
        self._room = "cache" if "cache" in known else "past_key_values"  # as it was called up to transformers 5.23

    def inputs(self, input_ids: Any, place: Any) -> dict[str, Any]:
        """What a forward of some tokens takes; the model calls it as its own, so that a step begins here."""
        places = {"position_ids": place[None], "cache_position": place}
        return {"input_ids": input_ids, self._room: self._cache, "use_cache": True, "logits_to_keep": 1, **places}

    def generate(self, input_ids: Any, max_new_tokens: int) -> list[int]:
        """The tokens that follow a prompt."""
        import torch

        with torch.no_grad():
            self._cache.reset()
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            self._forward(self._model.prepare_inputs_for_generation(input_ids, places))
            self._place.fill_(input_ids.shape[1])
            tokens = [int(self._token)]
            for _ in range(max_new_tokens - 1):
                self._step(self._model.prepare_inputs_for_generation(self._token, self._place))
                tokens.append(int(self._token))
        return tokens

    def _forward(self, inputs: dict[str, Any]) -> None:
        self._token.copy_(self._model(**inputs).logits[:, -1].argmax(-1, keepdim=True))

    def _eager(self, inputs: dict[str, Any]) -> None:
        self._forward(inputs)
        self._place.add_(1)

    def _step(self, inputs: dict[str, Any]) -> None:
        """A step, which is captured once another has loaded what it needs."""
        if self._run is not None:
            self._run()
            return
        self._eager(inputs)
        if self._captures:
            self._run = self._captured

    def _captured(self) -> None:
        """Capture a step, which runs nothing, and run it."""
        import torch

        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._eager(self.inputs(self._token, self._place))
        self._run = graph.replay
        graph.replay()


def serve(model: Any, requests: int, steps: int, domain: Domain | None = None) -> list[list[int]]:
    """The tokens of some requests of one prompt, of so many decode steps each, with ranges for all that they run."""
    import torch

    prompt = torch.arange(20, 20 + _PROMPT_TOKENS, device=model.device)[None]
    with Segmenter(model, modules="all", domain=domain):
        return [model.generate(prompt, max_new_tokens=steps + 1) for _ in range(requests)]


def main() -> int:
    """Serve on the GPU, or without one on the CPU."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--steps", type=int, default=16)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    served = serve(build(options.layers, device), options.requests, min(options.steps, _MOST_STEPS))
    print(f"{len(served)} requests on {device}, their tokens alike: {len(set(map(tuple, served))) == 1}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
