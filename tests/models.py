"""What the tests of models share; a module that imports this is skipped where the model's libraries are missing."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from dsprof.words import BATCH, PREFILL

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch", reason="the extra `workload` is not installed: no torch")
transformers = pytest.importorskip("transformers", reason="the extra `workload` is not installed: no transformers")
pytest.importorskip("PIL", reason="the extra `workload` is not installed: no Pillow")
pytest.importorskip("nvtx", reason="the extra `workload` is not installed: no nvtx")
if not hasattr(transformers, "DeepseekOcr2ForConditionalGeneration"):
    pytest.skip(f"transformers {transformers.__version__} has no DeepSeek-OCR-2", allow_module_level=True)

torch.set_num_threads(1)

#: A prompt of text for the tiny model: letters, none of them special.
TEXT = (40, 41, 42, 43, 44)


def types_of(model: Any) -> set[Any]:
    """The types of a model's weights, but for those that transformers keeps in float32: from 5.24 on the routers'."""
    kept = tuple(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    weights = {name: weight.dtype for name, weight in model.named_parameters()}
    routers = {name for name in weights if any(part in name for part in kept)}
    assert all(name.endswith(".mlp.gate.weight") and weights[name] == torch.float32 for name in routers)
    return {weights[name] for name in weights.keys() - routers}


class Written:
    """A domain that writes its ranges down: `ranges` as an outline, `open` as they are now.

    What says how many sequences there are goes to `batches`: it must be in a prefill, and closed at once.
    """

    def __init__(self) -> None:
        self.open: list[str] = []
        self.ranges: list[str] = []
        self.batches: list[int | None] = []

    def push(self, name: str, payload: int | None = None) -> None:
        assert BATCH not in self.open
        label = name if payload is None else f"{name} {payload}"
        if name == BATCH:
            assert self.open[-1].startswith(PREFILL)
            self.batches.append(payload)
            self.open.append(BATCH)
            return
        self.ranges.append("  " * len(self.open) + label)
        self.open.append(label)

    def pop(self) -> None:
        self.open.pop()  # an IndexError if nothing is open


def outline(prompt: int | None, steps: int, request: int = 0) -> list[str]:
    """The ranges of one request without modules."""
    prefill = "  prefill" if prompt is None else f"  prefill {prompt}"
    decode = ["  decode", *(f"    decode.step {step}" for step in range(1, steps + 1))] if steps else []
    return [f"request {request}", prefill, *decode]


def inside(prompt: int | None, steps: int, prefills: int = 1, request: int = 0) -> list[list[str]]:
    """The ranges that are open at each forward of a request: `prefills` times the prefill, then each step."""
    stage = "prefill" if prompt is None else f"prefill {prompt}"
    return [[f"request {request}", stage]] * prefills + [
        [f"request {request}", "decode", f"decode.step {step}"] for step in range(1, steps + 1)
    ]


@contextmanager
def watched(module: Any, domain: Written) -> Iterator[list[list[str]]]:
    """The ranges open at each call of a module; it sees what runs, and asks the Segmenter nothing."""
    seen: list[list[str]] = []
    hook = module.register_forward_pre_hook(lambda *_: seen.append(list(domain.open)))
    try:
        yield seen
    finally:
        hook.remove()


def state(model: Any) -> tuple[Any, ...]:
    """What the Segmenter must leave as it was: the attributes of the instance, and the hooks of all modules."""
    hooks = [
        (name, list(module._forward_pre_hooks), list(module._forward_hooks), list(module._forward_hooks_always_called))
        for name, module in model.named_modules()
    ]
    attributes = {
        name: id(value) for name, value in vars(model).items() if "cache" not in name
    }  # those are transformers'
    return attributes, hooks


def text(rows: int = 1, tokens: Sequence[int] = TEXT) -> Any:
    """Ids of a prompt without an image, `rows` times."""
    return torch.tensor([list(tokens)] * rows)


def noise(width: int, height: int) -> Any:
    """A gray picture of noise, the same each time."""
    from PIL import Image

    return Image.frombytes("L", (width, height), random.Random(0).randbytes(width * height))


def answer(model: Any, **keywords: Any) -> Any:
    """The output of `generate()`, greedy unless told otherwise."""
    with torch.inference_mode():
        return model.generate(**{"do_sample": False, **keywords})


def llama() -> Any:
    """A language model of one layer, of a class that dsprof has never heard of; it is compiled in a second."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=None, pad_token_id=0, initializer_range=0.5,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def opaque(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that the compiler cannot look into, as nvtx is to it."""
    return torch.compiler.disable(function)
