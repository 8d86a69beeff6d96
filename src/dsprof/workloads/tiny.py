"""Checkpoints of the true DeepSeek-OCR-2 classes with random weights: tiny for any machine, full for a GPU.

What such a model reads in an image is nonsense; what it does on the host and the GPU is not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dsprof.errors import OutputRefused

#: Tokens that carry no text. Their rows of the language model's head are zero, so that no end is predicted.
SPECIAL_TOKENS = ("<bos>", "<eos>", "<pad>", "<image>", "<|grounding|>", "<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>")
#: SAM's configuration says 1e-10, with which nothing of an image comes through.
_SEEING = {"initializer_range": 0.1}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_TINY_VISION: dict[str, Any] = {
    "sam_config": {
        "hidden_size": 32, "output_channels": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 1024,
        "patch_size": 64, "window_size": 14, "global_attn_indexes": [1], "mlp_ratio": 2.0,
        "downsample_channels": [24, 32], **_SEEING,
    },
    "encoder_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": 8, "max_position_embeddings": 1024, "rope_parameters": _ROPE, **_SEEING,
    },
}  # fmt: skip
_TINY_TEXT: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 4, "max_position_embeddings": 2048, "n_routed_experts": 8, "n_shared_experts": 2,
    "num_experts_per_tok": 2, "moe_intermediate_size": 32, "mlp_layer_types": ["dense", "sparse", "sparse"],
    "initializer_range": 0.2, "rope_parameters": _ROPE,
}  # fmt: skip
#: DeepSeek-OCR-2 as published: SAM is the configuration's default, the encoder is not (32 layers of 4096 there).
_FULL_VISION: dict[str, Any] = {
    "sam_config": _SEEING,
    "encoder_config": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
}  # fmt: skip
_FULL_TEXT: dict[str, Any] = {
    "vocab_size": 129280, "hidden_size": 1280, "intermediate_size": 6848, "num_hidden_layers": 12,
    "num_attention_heads": 10, "num_key_value_heads": 10, "n_routed_experts": 64, "n_shared_experts": 2,
    "num_experts_per_tok": 6, "moe_intermediate_size": 896, "mlp_layer_types": ["dense"] + ["sparse"] * 11,
}  # fmt: skip
SIZES = ("tiny", "full")


def build(size: str = "tiny", seed: int = 0, dtype: str = "float32", device: str = "cpu") -> tuple[Any, Any]:
    """A model and its processor, the same for the same arguments.

    `size`: one of `SIZES`; ``full`` has the 3.4 billion parameters of DeepSeek-OCR-2. Its vocabulary has text
    for the first few hundred tokens only, which does not change what it computes.
    """
    import torch
    from transformers import DeepseekOcr2ForConditionalGeneration, GenerationConfig

    tokenizer = _tokenizer()
    config = _config(size, tokenizer)
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            model = DeepseekOcr2ForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        model.lm_head.weight[: len(SPECIAL_TOKENS)] = 0.0
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("bos", "eos", "pad")}
    model.generation_config = GenerationConfig(**ids, max_new_tokens=32, do_sample=False)
    return model, _processor(tokenizer)


def save(folder: Path, size: str = "tiny", seed: int = 0, dtype: str = "float32", force: bool = False) -> Path:
    """Write the checkpoint of `build` to `folder`, as `from_pretrained` and `from_local` read it.

    Raises `OutputRefused` where something is in the folder and `force` is not set: a checkpoint there may be somebody's
    own; and where there can be no folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"{folder} cannot be made ({error.strerror}).", "Name a new or an empty folder.") from error
    if any(folder.iterdir()) and not force:
        hint = "Name a new or an empty folder, or add --force."
        raise OutputRefused(f"{folder} holds something already, and is not replaced.", hint)
    model, processor = build(size, seed, dtype)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    """A byte-level tokenizer without merges: every byte of a text is one token, so it takes any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<bos>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        extra_special_tokens={"image_token": "<image>"},
        additional_special_tokens=list(SPECIAL_TOKENS[4:]),
    )


def _config(size: str, tokenizer: Any) -> Any:
    from transformers import DeepseekOcr2Config

    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<{name}>") for name in ("bos", "eos", "pad")}
    image = {"image_token_id": tokenizer.convert_tokens_to_ids("<image>")}
    if size == "full":
        return DeepseekOcr2Config(**image, **ids, vision_config=_FULL_VISION, text_config={**_FULL_TEXT, **ids})
    if size == "tiny":
        text = {**_TINY_TEXT, "vocab_size": len(tokenizer), **ids}
        return DeepseekOcr2Config(**image, **ids, vision_config=_TINY_VISION, text_config=text)
    raise ValueError(f"size must be one of {', '.join(SIZES)}, not {size}")


def _processor(tokenizer: Any) -> Any:
    """The true processor, with the image processor that needs Pillow alone."""
    from transformers import DeepseekOcr2Processor
    from transformers.models.deepseek_ocr2.image_processing_pil_deepseek_ocr2 import DeepseekOcr2ImageProcessorPil

    images = DeepseekOcr2ImageProcessorPil(size={"height": 768, "width": 768}, tile_size=768, crop_to_patches=False)
    return DeepseekOcr2Processor(image_processor=images, tokenizer=tokenizer)
