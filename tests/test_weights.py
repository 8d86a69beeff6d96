"""Bytes of quantized weights: against the classes that hold them, against published sizes, and what is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dsprof
from dsprof.model.costs import Model, model_of
from dsprof.model.weights import METHODS, Matrix, Storage, UnknownModel
from dsprof.show.layout import headline
from test_roofs import CONFIG, report

UP = Matrix("model.layers.0.mlp.up_proj", 384, 512)
#: What the published checkpoints of gpt-oss and DeepSeek-V3 say.
GPT_OSS = {"quant_method": "mxfp4", "modules_to_not_convert": [
    "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]}  # fmt: skip
DEEPSEEK = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}


def compressed(bits: int, kind: str, strategy: str, activations: dict[str, Any] | None = None, **more: Any) -> Any:
    """A configuration of compressed-tensors with one scheme."""
    packed = "pack-quantized" if bits == 4 else f"{kind}-quantized"
    weights = {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True, **more}
    group = {"targets": ["Linear"], "weights": weights, "input_activations": activations}
    return {"quant_method": "compressed-tensors", "format": packed, "config_groups": {"group_0": group}}


def stored(said: Any, *, dtype: str = "bfloat16", matrix: Matrix = UP, tied: bool = False) -> Any:
    return Storage.of({"quantization_config": said}, dtype, (matrix,), tied).matrix(matrix)


def whole(model: Model) -> float:
    """Bytes of all weights of a language model."""
    decoder = model.decoder
    layers = sum(
        one.linear.bytes + one.extra.bytes + one.experts * (one.expert.bytes + one.expert_extra.bytes)
        for one in decoder.layers
    )
    embedding = 0 if decoder.tied else decoder.item * decoder.head.count
    return layers + embedding + decoder.head.bytes + decoder.extra.bytes


# -- against the classes -------------------------------------------------------------------------------------

#: Bytes that were counted in what the libraries made of a matrix of 384 x 512 in bfloat16: bitsandbytes 0.50.2 on a
#: CPU, and compressed-tensors 0.20.0, there without the 16 bytes in which it keeps the shape.
MADE = [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 110592),
    ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 101424),
    ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 198144),
    (compressed(4, "int", "group", group_size=128), 101376),
    (compressed(4, "int", "group", group_size=32, symmetric=False), 113664),
    (compressed(8, "float", "channel"), 197376),
    (compressed(8, "float", "tensor"), 196610),
    (compressed(8, "int", "channel"), 197376),
    (compressed(8, "float", "block", block_structure=[128, 128]), 196632),
]  # fmt: skip


@pytest.mark.parametrize(("said", "expected"), MADE, ids=lambda value: str(value)[:60])
def test_a_matrix_takes_the_bytes_that_the_library_gives_it(said: Any, expected: int) -> None:
    made = stored(said)
    assert (made.count, made.quantized, made.bytes) == (384 * 512, 384 * 512, expected)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        # qweight, scales in float16 of each group and output
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 384 * 512 / 2 + 4 * 384 * 2),
        ({"quant_method": "gptq", "bits": 3, "group_size": 64}, 384 * 512 * 3 / 8 + 8 * 384 * 2),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 384 * 512 + 384 * 2),
        # and the group of each input, and qzeros
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": False},
         384 * 512 / 2 + 4 * 384 * 2 + 4 * 384 / 2 + 512 * 4),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True},
         384 * 512 / 2 + 4 * 384 * 2 + 4 * 384 / 2),
        ({"quant_method": "awq", "bits": 4, "group_size": 100, "zero_point": False}, 384 * 512 / 2 + 6 * 384 * 2),
    ],
    ids=str,
)  # fmt: skip
def test_groups_have_scales_zero_points_and_orders(said: Any, expected: float) -> None:
    assert stored(said, dtype="float16").bytes == expected


FP8 = [
    ("DeepseekV3", {"first_k_dense_replace": 1, "n_routed_experts": 16, "n_group": 4, "topk_group": 2}, DEEPSEEK),
    ("DeepseekV3", {"first_k_dense_replace": 2, "q_lora_rank": None}, {**DEEPSEEK, "weight_block_size": [64, 32]}),
    ("Llama", {"hidden_size": 200, "intermediate_size": 300, "num_attention_heads": 4}, DEEPSEEK),
    ("Llama", {"attention_bias": True, "tie_word_embeddings": True}, {**DEEPSEEK, "weight_block_size": None}),
    ("Qwen3Moe", {"num_experts": 8}, {**DEEPSEEK, "modules_to_not_convert": [
        "lm_head", "model.layers.0.mlp.gate", "model.layers.1.input_layernorm", "model.layers.1.self_attn.q_proj"]}),
    ("Llama", {}, {**DEEPSEEK, "modules_to_not_convert": ["up_proj", r"model.layers.[01].self_attn.(q|k)_proj"]}),
]  # fmt: skip


@pytest.mark.parametrize(("family", "sizes", "said"), FP8, ids=lambda value: str(value)[:40])
def test_a_model_in_float8_takes_the_bytes_of_the_real_one(family: str, sizes: dict[str, Any], said: Any) -> None:
    """The classes of transformers, on a device without memory."""
    pytest.importorskip("transformers", reason="the model's libraries are an extra")
    from transformers.integrations.finegrained_fp8 import replace_with_fp8_linear
    from transformers.quantizers.base import HfQuantizer

    from models import torch, transformers

    config = getattr(transformers, f"{family}Config")(num_hidden_layers=2, vocab_size=1000, **sizes)
    quantized = transformers.FineGrainedFP8Config(**{key: said[key] for key in said if key != "fmt"})
    with torch.device("meta"):
        model = getattr(transformers, f"{family}ForCausalLM")(config).to(torch.bfloat16)
        model.tie_weights()
        kept = HfQuantizer.get_modules_to_not_convert(model, said.get("modules_to_not_convert"))
        real = replace_with_fp8_linear(model, kept, quantized, pre_quantized=True)
    ours = model_of({**config.to_dict(), "quantization_config": said}, "bfloat16")
    taken = {name: one.numel() * (2 if name.endswith(".bias") else one.element_size())  # a bias is loaded as it lies
             for name, one in real.named_parameters()}  # fmt: skip
    assert whole(ours) == sum(taken.values())
    assert ours.products == "float8_e4m3fn"


def test_experts_in_mxfp4_take_the_bytes_of_the_real_ones() -> None:
    """The class holds the blocks; beside them is a byte for each 32 weights."""
    pytest.importorskip("transformers", reason="the model's libraries are an extra")
    from transformers.integrations.mxfp4 import Mxfp4GptOssExperts

    from models import torch, transformers

    config = transformers.GptOssConfig(num_hidden_layers=1, hidden_size=96, intermediate_size=64, num_local_experts=4)
    with torch.device("meta"):
        real = dict(Mxfp4GptOssExperts(config).named_parameters())
    (layer,) = model_of({**config.to_dict(), "quantization_config": GPT_OSS}, "bfloat16").decoder.layers
    blocks = sum(real[name].numel() for name in ("gate_up_proj", "down_proj"))
    assert 4 * layer.expert.bytes == blocks + blocks / 16
    assert 4 * layer.expert_extra.count == sum(real[f"{name}_bias"].numel() for name in ("gate_up_proj", "down_proj"))


@pytest.mark.parametrize(
    ("family", "sizes", "said", "billions", "active", "gib"),
    [
        # gpt-oss model card, 2025, table 1: parameters, active ones, and size of the checkpoint
        ("GptOss", {}, GPT_OSS, 116.83, 5.13, 60.8),
        ("GptOss", {"num_hidden_layers": 24, "num_local_experts": 32}, GPT_OSS, 20.91, 3.61, 12.8),
        ("DeepseekV3", {}, DEEPSEEK, 671, 37, None),  # DeepSeek-V3 Technical Report, 2024
    ],
)
def test_the_published_models_have_their_published_sizes(
    family: str, sizes: dict[str, Any], said: Any, billions: float, active: float, gib: float | None
) -> None:
    from models import transformers

    config = getattr(transformers, f"{family}Config")(**sizes).to_dict()
    model = model_of({**config, "quantization_config": said}, "bfloat16")
    decoder = model.decoder
    used = sum(one.linear.count + one.chosen * one.expert.count for one in decoder.layers) + decoder.head.count
    assert model.parameters / 1e9 == pytest.approx(billions, abs=0.5 if billions == 671 else 0.005)
    assert used / 1e9 == pytest.approx(active, abs=0.5 if billions == 671 else 0.005)
    assert gib is None or whole(model) / 2**30 == pytest.approx(gib, abs=0.05)


# -- what stays as it is -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("skipped", "kept"),
    [
        ({"modules_to_not_convert": ["up_proj"]}, True),  # the end of a name
        ({"modules_to_not_convert": ["model.layers.0.mlp"]}, True),  # its begin
        ({"modules_to_not_convert": ["model.layers.0"]}, True),
        ({"modules_to_not_convert": ["model.layers.*.mlp"]}, True),
        ({"modules_to_not_convert": ["model.norm"]}, False),  # has no matrix
        ({"modules_to_not_convert": []}, False),
        ({}, False),
    ],
)
def test_a_module_that_is_left_out_stays_as_it_is(skipped: dict[str, Any], kept: bool) -> None:
    made = stored({**DEEPSEEK, **skipped})
    assert (made.quantized == 0) == kept
    assert (made.bytes == 2 * made.count) == kept


@pytest.mark.parametrize(
    ("ignored", "kept"), [(["re:.*up_proj$"], True), ([UP.module], True), (["re:.*mlp.up$", "up_proj"], None)]
)
def test_compressed_tensors_name_modules_exactly(ignored: list[str], kept: bool | None) -> None:
    said = {**compressed(8, "float", "channel"), "ignore": ignored}
    if kept is None:
        with pytest.raises(UnknownModel, match="which module that is"):
            stored(said)
    else:
        assert stored(said).quantized == 0


def test_the_head_stays_unless_a_list_leaves_it_out_and_routers_always_do() -> None:
    head, router = Matrix("lm_head", 8, 8), Matrix("model.layers.0.mlp.gate", 8, 8, "router")
    listed = {**DEEPSEEK, "modules_to_not_convert": ["model.norm"]}
    assert stored(DEEPSEEK, matrix=head).quantized == 0
    assert stored(listed, matrix=head).quantized == 64
    assert stored(listed, matrix=head, tied=True).quantized == 0
    assert stored(listed, matrix=router).quantized == 0


# -- what is not known ---------------------------------------------------------------------------------------

UNKNOWN: list[tuple[Any, str]] = [
    ({"quant_method": "aqlm"}, "the method is aqlm; known are fp8, mxfp4"),
    ({}, ""),
    ({"bits": 4}, r"the method is \(none named\)"),
    ("int4", "is no object"),
    ({"quant_method": "bitsandbytes"}, "neither of 4 bits nor of 8"),
    ({**GPT_OSS, "modules_to_not_convert": None}, "it has none"),
    ({**DEEPSEEK, "weight_block_size": [128]}, r"weight_block_size is \[128\]"),
    ({**DEEPSEEK, "weight_block_size": [0, 128]}, "weight_block_size"),
    ({**DEEPSEEK, "expert_dtype": "fp4"}, "a type of their own"),
    ({**DEEPSEEK, "modules_to_not_convert": ["visual"]}, "it leaves out visual, and which module that is"),
    ({**DEEPSEEK, "modules_to_not_convert": [7]}, "it leaves out 7"),
    ({**DEEPSEEK, "modules_to_not_convert": ["(model"]}, "cannot be searched for"),
    ({**DEEPSEEK, "modules_to_not_convert": ["x"] * 10_001}, "leaves out 10001 modules"),
    ({"quant_method": "gptq", "bits": 5, "group_size": 128}, "its bits is 5"),
    ({"quant_method": "gptq", "bits": True, "group_size": 128}, "its bits is True"),
    ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "its group_size is 0"),
    ({"quant_method": "gptq", "bits": 4, "dynamic": {"-:x": {}}}, "rules of their own"),
    ({"quant_method": "awq", "bits": 3, "group_size": 128}, "its bits is 3"),
    (compressed(4, "float", "group", group_size=16), "its num_bits is 4"),
    (compressed(4, "int", "group", {"type": "float", "num_bits": 8}, group_size=128), "multiplied with 8-bit inputs"),
    (compressed(8, "int", "token"), "strategy of its scales is 'token'"),
    (compressed(8, "float", "block"), "its block_structure is None"),
    ({**compressed(8, "int", "channel"), "format": "dense"}, "the format of its compressed-tensors is 'dense'"),
    ({**compressed(8, "int", "channel"), "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity"),
    ({**compressed(8, "int", "channel"), "kv_cache_scheme": {"num_bits": 8}}, "a KV cache"),
    ({**compressed(8, "int", "channel"), "config_groups": {}}, "more than one scheme"),
]


@pytest.mark.parametrize(("said", "sentence"), UNKNOWN, ids=lambda value: str(value)[:60])
def test_what_is_not_known_is_said_and_not_guessed(said: Any, sentence: str) -> None:
    if not said:  # nothing is quantized
        assert stored(said).bytes == 2 * UP.rows * UP.columns
        return
    with pytest.raises(UnknownModel, match=sentence):
        stored(said)


def test_experts_under_bitsandbytes_are_not_known() -> None:
    with pytest.raises(UnknownModel, match="whether bitsandbytes converts experts"):
        stored({"load_in_4bit": True}, matrix=Matrix("model.layers.0.mlp.experts", 4, 4, "experts"))


def test_weights_that_are_dequantized_at_loading_are_not_quantized() -> None:
    assert stored({**DEEPSEEK, "dequantize": True}).quantized == 0


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "compressed-tensors", "config_groups": [1]},
        {"quant_method": "fp8", "modules_to_not_convert": 3},
        {"quant_method": "gptq", "bits": [], "group_size": {}},
        {"quant_method": {}},
        {"quant_method": "awq"},
        [1],
    ],
    ids=str,
)
def test_nonsense_in_a_configuration_is_a_sentence(said: Any) -> None:
    with pytest.raises(UnknownModel):
        model_of({**CONFIG, "quantization_config": said}, "bfloat16")


# -- roofs ---------------------------------------------------------------------------------------------------


def analyzed(folder: Path, said: Any, **gpu: Any) -> Any:
    path = report().gpu(**gpu).write(folder / "run.sqlite")
    document = {**CONFIG, "dtype": "bfloat16", "quantization_config": said}
    (folder / "run.model.json").write_text(json.dumps(document))
    return dsprof.analyze(path, reuse=False)


INT8 = {"type": "int", "num_bits": 8}


@pytest.mark.parametrize(
    ("said", "unit", "faster"),
    [
        (DEEPSEEK, "fp8", 2),
        (compressed(8, "float", "channel", {"type": "float", "num_bits": 8}), "fp8", 2),
        (compressed(8, "int", "channel", INT8), "int8", 2),
        ({"load_in_8bit": True}, "int8", 2),
        ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}, "tf32", 0.5),
        ({"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"}, None, 1),
        ({"quant_method": "gptq", "bits": 4, "group_size": 8}, None, 1),
        (compressed(8, "float", "channel"), None, 1),  # weights alone
    ],
    ids=lambda value: str(value)[:50],
)
def test_products_with_quantized_weights_go_by_the_peak_of_their_type(
    tmp_path: Path, said: Any, unit: str | None, faster: float
) -> None:
    """The head stays in bfloat16, and attention is computed in it."""
    analysis = analyzed(tmp_path, said)
    peak = 132 * 4096 * 1.98e9
    for row in analysis.arrow("stage_roof_trace").to_pylist():
        quantized = 2 * row["tokens"] * 640  # of the one layer
        expected = (row["model_flops"] - quantized) / peak + quantized / (faster * peak)
        assert row["compute_roof_ns"] == pytest.approx(1e9 * expected)
        assert row["peak_flops_per_s"] == pytest.approx(row["model_flops"] / expected)
    (shown,) = [text for label, text in headline(analysis.summary()) if label == "GPU"]
    assert (f"/s {unit} for quantized weights" in shown) == (unit is not None)
    assert {roof.quantized_unit for roof in analysis.summary().roofs} == {unit}


@pytest.mark.parametrize(
    ("said", "gpu", "sentence"),
    [
        ({"quant_method": "hqq"}, {}, "how many bytes they take is not known: the method is hqq"),
        (DEEPSEEK, {"compute": (8, 0)}, "no known peak for weights of type float8_e4m3fn"),
    ],
)
def test_no_roof_is_told_where_bytes_or_peaks_are_not_known(
    tmp_path: Path, said: Any, gpu: dict[str, Any], sentence: str
) -> None:
    analysis = analyzed(tmp_path, said, **gpu)
    assert len(analysis["stage_roof_trace"]) == 0
    assert analysis.summary().roofs == ()
    (found,) = analysis.findings
    assert (found.code, sentence in found.message) == ("no-roofs", True)


def test_each_method_is_tried() -> None:
    tried = {json.dumps(one) for one, *_ in [*MADE, *UNKNOWN]} | {json.dumps(one) for *_, one in FP8}
    assert all(any(method in one for one in tried) for method in METHODS)
