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
from dsprof.model.costs import Decoder, Layer, Model, View, causal_pairs, distinct_experts, model_of
from dsprof.model.weights import UnknownModel, Weights
from models import torch, transformers

DEEPSEEK = transformers.DeepseekOcr2ForConditionalGeneration
DENSE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
ROUTED = {**DENSE, "num_experts_per_tok": 2}
#: Heads of 12 + 4 wide for scores and of 10 for values; the first layer is dense.
LATENT = {**ROUTED, "num_key_value_heads": 4, "q_lora_rank": 20, "kv_lora_rank": 14, "qk_nope_head_dim": 12,
          "qk_rope_head_dim": 4, "v_head_dim": 10, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 2,
          "topk_group": 1, "first_k_dense_replace": 1, "moe_intermediate_size": 16, "pad_token_id": None}  # fmt: skip
GPT_OSS = {**ROUTED, "num_local_experts": 4, "head_dim": 8, "sliding_window": 8, "attention_bias": True,
           "pad_token_id": None}  # fmt: skip
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
    "deepseek_v3": ("DeepseekV3", LATENT),
    "deepseek_v3-biases": ("DeepseekV3", {**LATENT, "attention_bias": True, "n_shared_experts": 2,
                                          "qk_rope_head_dim": 6}),
    "deepseek_v3-dense-queries": ("DeepseekV3", {**LATENT, "q_lora_rank": None, "first_k_dense_replace": 3}),
    "deepseek_v2": ("DeepseekV2", {**LATENT, "first_k_dense_replace": 0}),
    "deepseek_v2-lite": ("DeepseekV2", {**LATENT, "q_lora_rank": None, "attention_bias": True, "mlp_bias": True}),
    "gpt_oss": ("GptOss", GPT_OSS),
    "gpt_oss-no-window": ("GptOss", {**GPT_OSS, "layer_types": ["full_attention"] * 3, "tie_word_embeddings": True}),
    "gpt_oss-no-biases": ("GptOss", {**GPT_OSS, "attention_bias": False, "num_experts_per_tok": 1}),
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
    """Operations of attention that a mask makes void: the counter sees all pairs of new tokens and cached ones.

    A cache keeps of a layer with a window what the next token reaches beside itself.
    """
    void = 0
    for layer in layers:
        cached = min(context, layer.window - 1) if layer.window else context
        pairs = new * (cached + new) - causal_pairs(_one(new), _one(context), layer.window)
        void += batch * int(layer.attention(pairs)[0])
    return void


def expanded(config: Any, context: int, batch: int) -> int:
    """Operations in which latent attention makes keys and values of the context anew, as transformers' class does."""
    if not getattr(config, "kv_lora_rank", None):
        return 0
    outputs = config.num_attention_heads * (config.qk_nope_head_dim + config.v_head_dim)
    return config.num_hidden_layers * 2 * batch * context * config.kv_lora_rank * outputs


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
        void = masked(costs.decoder.layers, new, context, batch)
        assert seen == ours + void + expanded(model.config.get_text_config(), context, batch)
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
    return eager(DEEPSEEK, config), model_of(config.to_dict(), "bfloat16")


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
    flops, moved = costs.vision.look([View(*view) for view in views])
    assert (flops, moved) == (total, 2 * costs.vision.parameters)
    assert costs.vision.look([]) == (0, 0)


def test_a_prefill_with_a_picture_is_the_tower_and_the_language_model(tiny_model: tuple[Any, Any]) -> None:
    """The whole first forward of `generate()`, as the processor feeds it."""
    from models import noise

    _, processor = tiny_model
    config = tiny_model[0].config
    model, costs = eager(DEEPSEEK, config), model_of(config.to_dict(), "bfloat16")
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
    model, costs = eager(DEEPSEEK, config), model_of(config.to_dict(), "bfloat16")
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
    costs = model_of(config.to_dict(), "bfloat16")
    assert costs.parameters == sum(part.numel() for part in model.parameters())
    check_forwards(model, costs, batch=batch)


@pytest.mark.parametrize("name", ["mistral-window", "qwen2-window", "gpt_oss"])
def test_beyond_a_window_a_step_costs_no_more(name: str) -> None:
    family, sizes = DECODERS[name]
    costs = model_of(getattr(transformers, f"{family}Config")(**sizes).to_dict(), "bfloat16")
    free = [layer for layer in costs.decoder.layers if not layer.window]
    (layer,) = {layer for layer in costs.decoder.layers if layer.window}
    assert 0 < len(free) < 3 or name == "mistral-window"
    near, far = (costs.decoder.forward(_one(1), _one(context), _one(1)) for context in (50, 100))
    assert far.flops - near.flops == sum(int(one.attention(_one(50))[0]) for one in free)
    assert far.bytes - near.bytes == 2 * sum(int(one.cache(_one(1), _one(50))[0]) - one.kept for one in free)
    assert layer.cache(_one(1), _one(100)) == layer.cache(_one(1), _one(8))


# -- the full model, of which no weight is made ----------------------------------------------------------


@pytest.fixture(scope="module")
def full() -> tuple[Any, Model]:
    """The published sizes on a device without memory, with implementations that the counter sees there."""
    from dsprof.workloads import tiny

    model = tiny.build("full", device="meta")[0]
    costs = model_of(model.config.to_dict(), "bfloat16")
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


def plain(count: int) -> Weights:
    """Weights in two bytes."""
    return Weights(count, 0, 2.0 * count)


def test_a_step_moves_each_weight_it_needs_once_and_its_context() -> None:
    """By hand: one layer of 2 of 4 experts, one token after 10, in a batch of 3; experts are quantized in part."""
    expert = Weights(50, 40, 30.0)
    layer = Layer(16, 8, plain(100), plain(10), experts=4, chosen=2, expert=expert, expert_extra=plain(3))
    decoder = Decoder((layer,), width=8, head=plain(160), tied=False, extra=plain(8), item=2)
    cost = decoder.forward(_one(1), _one(10), _one(3))
    experts = 4 * (1 - 0.5**3)
    assert float(cost.bytes[0]) == pytest.approx(
        2 * (160 + 8 + 3 * 8 + 110 + 3 * 8 * (10 + 1)) + (30 + 2 * 3) * experts
    )
    assert int(cost.flops[0]) == 2 * 3 * 160 + 2 * 3 * (100 + 2 * 50) + 3 * 2 * 11 * 16
    assert int(cost.quantized[0]) == 2 * 3 * 2 * 40
    assert decoder.parameters == 2 * 160 + 8 + 110 + 4 * 53


def test_costs_are_told_for_many_forwards_at_once() -> None:
    decoder = Decoder((Layer(8, 8, plain(100), plain(10)),), 8, plain(160), tied=True, extra=plain(8), item=2)
    many = decoder.forward(_one(1), np.arange(5), _one(2))
    each = [decoder.forward(_one(1), _one(context), _one(2)) for context in range(5)]
    assert many.flops.tolist() == [int(one.flops[0]) for one in each]
    assert many.bytes.tolist() == [float(one.bytes[0]) for one in each]


def test_the_examples_hold() -> None:
    import doctest

    from dsprof.model import costs as model_costs

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
        model_of(config, "bfloat16")
