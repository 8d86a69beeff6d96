"""The program that captures its decode step within the recording, on the CPU: there each step runs as it is."""

from __future__ import annotations

from dsprof.workloads import graph_layers
from models import Written, outline  # first: it skips where there is no torch

LAYERS = [
    line for layer in (0, 1) for line in (
        f"  module:model.layers.{layer}", f"    module:model.layers.{layer}.self_attn",
        f"    module:model.layers.{layer}.mlp",
    )
]  # fmt: skip


def test_every_forward_has_the_ranges_of_its_layers() -> None:
    """Two requests of one prompt have the same tokens: nothing is left of the first in the cache."""
    domain, model = Written(), graph_layers.build(2, "cpu")
    tokens = graph_layers.serve(model, requests=2, steps=3, domain=domain)
    assert tokens[0] == tokens[1]
    assert (len(tokens[0]), len(set(tokens[0])) > 1) == (4, True)
    forward = ["forward", *LAYERS, "  module:lm_head"]
    truth: list[str] = []
    for request in (0, 1):
        for line in outline(128, 3, request):
            truth.append(line)
            if "prefill" in line or "step" in line:
                truth += [" " * (len(line) - len(line.lstrip()) + 2) + one for one in forward]
    assert domain.ranges == truth
    assert domain.open == []


def test_tokens_are_those_of_the_model_itself() -> None:
    import torch

    model = graph_layers.build(2, "cpu")
    prompt = torch.arange(20, 20 + 128)[None]
    (served,) = graph_layers.serve(model, requests=1, steps=4, domain=Written())
    del model.generate, model.prepare_inputs_for_generation
    plain = model.generate(prompt, max_new_tokens=5, do_sample=False, eos_token_id=None)
    assert plain[0, 128:].tolist() == served
