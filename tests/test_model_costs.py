"""Analytic costs against the real classes of transformers: weights, and operations as torch's own counter sees them.

The counter must see every product, so attention and experts run "eager" here: what sdpa and grouped products do on a
CPU, torch's counter does not know. It counts masked attention as if nothing were masked; that difference, and no
other, is added to our counts before they are compared, and then they are equal to the operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprof.arrays import Ints
from dsprof.model_costs import Decoder, Layer, Model, UnknownModel, View, causal_pairs, distinct_experts, model_of
from models import torch, transformers

DEEPSEEK = transformers.DeepseekOcr2ForConditionalGeneration
DENSE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
ROUTED = {**DENSE, "num_experts_per_tok": 2}
#: Every language model that is known, with what makes it different from the others.
DECODERS = {
    "llama": ("Llama", DENSE),
    "llama-biases-tied": ("Llama", {**DENSE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama-wide-heads": ("Llama", {**DENSE, "head_dim": 24}),
    "mistral": ("Mistral", {**DENSE, "sliding_window": None}),
    "mistral-window": ("Mistral", {**DENSE, "sliding_window": 8}),
    "qwen2": ("Qwen2", DENSE),
    "qwen2-window": ("Qwen2", {**DENSE, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {**DENSE, "head_dim": 16}),
    "mixtral": ("Mixtral", {**ROUTED, "num_local_experts": 4, "sliding_window": None}),
    "qwen3_moe": ("Qwen3Moe", {**ROUTED, "num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8,
                               "decoder_sparse_step": 2, "mlp_only_layers": []}),
}  # fmt: skip


def eager(cls: Any, config: Any) -> Any:
    """A model whose every product torch's counter sees."""
    torch.manual_seed(0)
    model = cls._from_config(config, attn_implementation="eager").eval()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model


def counted(run: Any) -> tuple[int, Any]:
    """Operations that torch's counter saw, and what was returned."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        result = run()
    return counter.get_total_flops(), result


def masked(layers: tuple[Layer, ...], new: int, context: int, batch: int) -> int:
    """Operations of attention that a mask makes void: the counter sees all pairs of new tokens and all tokens."""
    pairs = [new * (context + new) - causal_pairs(_one(new), _one(context), layer.window) for layer in layers]
    return sum(batch * int(layer.attention(left)[0]) for layer, left in zip(layers, pairs, strict=True))


def _one(number: int) -> Ints:
    return np.asarray([number], np.int64)


def check_forwards(model: Any, costs: Model, prompt: int = 20, batch: int = 1) -> None:
    """A prefill, single steps at several lengths, and a chunk after them: equal to the operation."""
    cache, context = None, 0
    for new in (prompt, 1, 1, 5, 1):
        ids = torch.full((batch, new), 40)
        seen, output = counted(lambda ids=ids, cache=cache: model(
            input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1))  # fmt: skip
        cache = output.past_key_values
        ours = int(costs.decoder.forward(_one(new), _one(context), _one(batch)).flops[0])
        assert seen == ours + masked(costs.decoder.layers, new, context, batch)
        context += new


def config_of(**changes: Any) -> Any:
    """The tiny DeepSeek-OCR-2's configuration with other sizes; ``text_``, ``sam_``, ``encoder_`` name the part."""
    from dsprof.workloads import tiny

    vision = {part: {**tiny._TINY_VISION[part]} for part in ("sam_config", "encoder_config")}
    text = {**tiny._TINY_TEXT, "vocab_size": 300}
    for name, value in changes.items():
        part, _, field = name.partition("_")
        (text if part == "text" else vision[f"{part}_config"])[field] = value
    return transformers.DeepseekOcr2Config(vision_config=vision, text_config=text, image_token_id=3)


def spilled(costs: Model, height: int, width: int) -> int:
    """Operations that the encoder's mask makes void: queries ahead of a query, and queries for the patches."""
    assert costs.vision is not None
    patches = costs.vision.sam.patches(height, width)
    queries = 144 if patches <= 144 else 256
    void = patches * queries + queries * (queries - 1) // 2
    return sum(int(layer.attention(_one(void))[0]) for layer in costs.vision.encoder)


# -- the tiny DeepSeek-OCR-2 -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_eager() -> tuple[Any, Model]:
    config = config_of()
    return eager(DEEPSEEK, config), model_of(config.to_dict())


@pytest.mark.parametrize("batch", [1, 2])
def test_the_tiny_models_forwards_cost_what_the_counter_sees(tiny_eager: tuple[Any, Model], batch: int) -> None:
    check_forwards(*tiny_eager, prompt=40, batch=batch)


@pytest.mark.parametrize("views", [[(1, 768, 768)], [(1, 1024, 1024), (2, 768, 768)], [(1, 640, 896)]])
def test_the_vision_tower_costs_what_the_counter_sees(tiny_eager: tuple[Any, Model], views: list[Any]) -> None:
    model, costs = tiny_eager
    assert costs.vision is not None
    total = 0
    for count, height, width in views:
        pixels = torch.zeros(count, 3, height, width)
        seen, _ = counted(lambda pixels=pixels: model.model.get_image_features(pixels))
        assert seen == count * (costs.vision.flops(height, width) + spilled(costs, height, width))
        total += seen - count * spilled(costs, height, width)
    flops, elements = costs.vision.look([View(*view) for view in views])
    assert (flops, elements) == (total, costs.vision.parameters)
    assert costs.vision.look([]) == (0, 0)


def test_a_prefill_with_a_picture_is_the_tower_and_the_language_model(tiny_model: tuple[Any, Any]) -> None:
    """The whole first forward of `generate()`, as the processor feeds it."""
    from models import noise

    _, processor = tiny_model
    config = tiny_model[0].config
    model, costs = eager(DEEPSEEK, config), model_of(config.to_dict())
    inputs = processor(images=noise(900, 1200).convert("RGB"), text="<image>\nFree OCR. ", return_tensors="pt")
    seen, _ = counted(lambda: model(**inputs, use_cache=True, logits_to_keep=1))
    views = [View(part.shape[0], *part.shape[-2:])
             for name in ("pixel_values", "pixel_values_local") if (part := inputs.get(name)) is not None]  # fmt: skip
    assert costs.vision is not None
    prompt = inputs["input_ids"].shape[1]
    ours = costs.vision.look(views)[0] + int(costs.decoder.forward(_one(prompt), _one(0), _one(1)).flops[0])
    void = sum(view.count * spilled(costs, view.height, view.width) for view in views)
    assert len(views) == 2
    assert seen == ours + void + masked(costs.decoder.layers, prompt, 0, 1)


def test_generate_runs_the_head_for_one_position_of_each_sequence(tiny_model: tuple[Any, Any]) -> None:
    from models import answer, text

    model, shapes = tiny_model[0], []
    hook = model.lm_head.register_forward_pre_hook(lambda _, given: shapes.append(tuple(given[0].shape[:2])))
    try:
        answer(model, input_ids=text(2), max_new_tokens=4, min_new_tokens=4)
    finally:
        hook.remove()
    assert shapes == [(2, 1)] * 4


@pytest.mark.parametrize(
    "changes",
    [
        {"text_hidden_size": 96, "text_num_attention_heads": 6, "text_num_key_value_heads": 3},
        {"text_n_routed_experts": 5, "text_num_experts_per_tok": 3, "text_n_shared_experts": 1},
        {"text_num_hidden_layers": 2, "text_mlp_layer_types": ["sparse", "dense"], "text_attention_bias": True},
        {"text_moe_intermediate_size": 40, "text_mlp_bias": True},
        {"sam_num_hidden_layers": 3, "sam_global_attn_indexes": [0, 2], "sam_window_size": 5, "sam_patch_size": 32},
        {"sam_hidden_size": 48, "sam_num_attention_heads": 4, "sam_mlp_ratio": 3.0, "sam_output_channels": 8},
        {"sam_use_rel_pos": False, "sam_use_abs_pos": False, "sam_qkv_bias": False},
        {"sam_downsample_channels": [20, 64], "encoder_hidden_size": 64, "encoder_num_attention_heads": 4,
         "encoder_num_key_value_heads": 1, "encoder_num_hidden_layers": 3},
    ],
)  # fmt: skip
def test_other_sizes_cost_what_the_counter_sees(changes: dict[str, Any]) -> None:
    config = config_of(**changes)
    model, costs = eager(DEEPSEEK, config), model_of(config.to_dict())
    assert costs.parameters == sum(part.numel() for part in model.parameters())
    check_forwards(model, costs, prompt=7)
    seen, _ = counted(lambda: model.model.get_image_features(torch.zeros(1, 3, 768, 768)))
    assert costs.vision is not None
    assert seen == costs.vision.flops(768, 768) + spilled(costs, 768, 768)


# -- other language models -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_decoder_costs_what_the_counter_sees(name: str, batch: int) -> None:
    family, sizes = DECODERS[name]
    config = getattr(transformers, f"{family}Config")(**sizes)
    model = eager(getattr(transformers, f"{family}ForCausalLM"), config)
    costs = model_of(config.to_dict())
    assert costs.parameters == sum(part.numel() for part in model.parameters())
    if any(layer.window for layer in costs.decoder.layers):
        check_windows(costs)
    else:
        check_forwards(model, costs, batch=batch)


def check_windows(costs: Model) -> None:
    """A cache drops what lies outside of a window, and the counter sees what is left: the pairs are counted apart."""
    windows = {layer.window for layer in costs.decoder.layers}
    assert windows <= {0, 8}
    free = [layer for layer in costs.decoder.layers if not layer.window]
    layer = next(layer for layer in costs.decoder.layers if layer.window)
    far = (
        costs.decoder.forward(_one(1), _one(100), _one(1)).flops
        - costs.decoder.forward(_one(1), _one(50), _one(1)).flops
    )
    assert far == sum(int(one.attention(_one(50))[0]) for one in free)
    assert layer.cache(_one(1), _one(100)) == layer.cache(_one(1), _one(8))


# -- the full model, of which no weight is made ----------------------------------------------------------


@pytest.fixture(scope="module")
def full() -> tuple[Any, Model]:
    """The published sizes on a device without memory, with implementations that the counter sees there."""
    from dsprof.workloads import tiny

    model = tiny.build("full", device="meta")[0]
    costs = model_of(model.config.to_dict())
    model.set_attn_implementation("eager")
    model.set_experts_implementation("batched_mm")  # no shape in it depends on what is routed where
    return model, costs


def test_the_full_model_has_the_real_models_weights(full: tuple[Any, Model]) -> None:
    assert full[1].parameters == sum(part.numel() for part in full[0].parameters())
    assert full[1].parameters == pytest.approx(3.39e9, rel=0.001)


@pytest.mark.parametrize(("new", "context", "batch"), [(1020, 0, 1), (1, 1020, 1), (1, 3000, 2)])
def test_the_full_models_forwards_cost_what_the_counter_sees(
    full: tuple[Any, Model], new: int, context: int, batch: int
) -> None:
    model, costs = full
    cache, ids = None, torch.zeros((batch, context), dtype=torch.int64, device="meta")
    with torch.inference_mode():
        if context:
            cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
        ids = torch.zeros((batch, new), dtype=torch.int64, device="meta")
        seen, _ = counted(lambda: model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1))
    ours = int(costs.decoder.forward(_one(new), _one(context), _one(batch)).flops[0])
    assert seen == ours + masked(costs.decoder.layers, new, context, batch)


def test_the_full_vision_tower_costs_what_the_counter_sees(full: tuple[Any, Model]) -> None:
    model, costs = full
    pixels = torch.empty(2, 3, 768, 768, device="meta")
    seen, _ = counted(lambda: model.model.get_image_features(pixels))
    assert costs.vision is not None
    assert seen == 2 * (costs.vision.flops(768, 768) + spilled(costs, 768, 768))


# -- counts on their own ---------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 20))
def test_pairs_are_those_of_a_mask(new: int, context: int, window: int) -> None:
    query, key = np.arange(context, context + new)[:, None], np.arange(context + new)[None, :]
    seen = (key <= query) & ((query - key < window) if window else True)
    assert int(causal_pairs(_one(new), _one(context), window)[0]) == int(seen.sum())


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 40))
def test_the_expected_experts_are_those_of_a_simulation(experts: int, chosen: int, tokens: int) -> None:
    chosen = min(chosen, experts)
    routed = np.random.default_rng(0).random((400, tokens, experts)).argsort(axis=2)[:, :, :chosen]
    mean = np.mean([len(np.unique(run)) for run in routed])
    assert float(distinct_experts(_one(tokens), experts, chosen)[0]) == pytest.approx(mean, abs=0.35)


def test_a_step_moves_each_weight_it_needs_once_and_its_context() -> None:
    """By hand: one layer of 2 of 4 experts, one token after 10, in a batch of 3."""
    layer = Layer(heads=2, kv_heads=1, head_dim=4, linear=100, extra=10, experts=4, chosen=2, expert=50)
    cost = Decoder((layer,), width=8, vocabulary=20, tied=False, extra=8).forward(_one(1), _one(10), _one(3))
    experts = 4 * (1 - 0.5**3)
    cache = 3 * 2 * 4 * (10 + 1)
    assert float(cost.elements[0]) == pytest.approx(20 * 8 + 8 + 3 * 8 + 110 + 50 * experts + cache)
    assert int(cost.flops[0]) == 2 * 3 * 160 + 2 * 3 * (100 + 2 * 50) + 3 * 4 * 11 * 8


def test_costs_are_told_for_many_forwards_at_once() -> None:
    decoder = Decoder((Layer(2, 1, 4, 100, 10),), 8, 20, tied=True, extra=8)
    many = decoder.forward(_one(1), np.arange(5), _one(2))
    each = [decoder.forward(_one(1), _one(context), _one(2)) for context in range(5)]
    assert many.flops.tolist() == [int(one.flops[0]) for one in each]
    assert many.elements.tolist() == [float(one.elements[0]) for one in each]


def test_the_examples_hold() -> None:
    import doctest

    from dsprof import model_costs

    assert doctest.testmod(model_costs).failed == 0


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"model_type": "gpt2"}, "architecture gpt2 are not known"),
        ({}, r"architecture \(none named\) are not known"),
        ({**DENSE, "model_type": "llama", "quantization_config": {"bits": 4}}, "quantized"),
        ({key: DENSE[key] for key in DENSE if key != "hidden_size"} | {"model_type": "llama"}, "lacks hidden_size"),
        ({**DENSE, "model_type": "llama", "hidden_size": "32"}, "holds a value that cannot be"),
        ({**DENSE, "model_type": "llama", "num_hidden_layers": 10**9}, "1000000000 layers"),
        ({**DENSE, "model_type": "llama", "vocab_size": 10**12}, r"3.2e\+13 parameters|6.4e\+13 parameters"),
        ({**ROUTED, "model_type": "deepseek_ocr2_text", "mlp_layer_types": ["dense"]}, "holds a value that cannot be"),
        ({**DENSE, "model_type": "llama", "num_attention_heads": 0}, "holds a value that cannot be"),
        ({"model_type": "deepseek_ocr2", "text_config": None, "vision_config": None}, "holds a value that cannot be"),
    ],
)
def test_what_is_not_known_is_said_and_not_guessed(config: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UnknownModel, match=sentence):
        model_of(config)
