"""The random checkpoints: the same for the same seed, of the true sizes, and a model that sees its image."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from dsprof.workloads import page, tiny
from models import answer, noise, torch, transformers, types_of


def digest(model: Any) -> str:
    """One number for all weights and buffers of a model."""
    said = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        said.update(name.encode())
        said.update(value.contiguous().view(torch.uint8).numpy().tobytes())
    return said.hexdigest()


@pytest.fixture(scope="module")
def weights(tiny_model: tuple[Any, Any]) -> str:
    return digest(tiny_model[0])


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page.draw(tmp_path_factory.mktemp("page") / "page.png")


# -- the tiny model -------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_weights_again(weights: str) -> None:
    torch.rand(3)  # whatever was drawn before
    assert digest(tiny.build(seed=0)[0]) == weights
    assert digest(tiny.build(seed=1)[0]) != weights


def test_a_saved_checkpoint_loads_as_it_was_built(tiny_folder: Path, weights: str) -> None:
    model = transformers.AutoModelForImageTextToText.from_pretrained(tiny_folder, local_files_only=True)
    processor = transformers.AutoProcessor.from_pretrained(tiny_folder, local_files_only=True)
    assert type(model).__name__ == "DeepseekOcr2ForConditionalGeneration"
    assert type(processor).__name__ == "DeepseekOcr2Processor"
    assert digest(model) == weights
    assert sum(file.stat().st_size for file in tiny_folder.iterdir()) < 4e6


def test_it_is_tiny_and_has_every_part(tiny_model: tuple[Any, Any]) -> None:
    model, _ = tiny_model
    assert sum(part.numel() for part in model.parameters()) < 1e6
    text = model.model.language_model.layers
    assert [type(layer.mlp).__name__ for layer in text] == ["DeepseekOcr2TextMLP"] + ["DeepseekOcr2TextMoe"] * 2
    assert len(model.model.vision_tower.sam_encoder.layers) == len(model.model.vision_tower.vision_encoder.layers) == 2
    assert not model.training


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_type_of_the_weights_is_the_one_asked_for(dtype: str) -> None:
    before = torch.get_default_dtype()
    model, _ = tiny.build(dtype=dtype)
    assert types_of(model) == {getattr(torch, dtype)}
    assert torch.get_default_dtype() == before


def test_no_special_token_is_ever_predicted(tiny_model: tuple[Any, Any], drawn: Path) -> None:
    """An end would make runs of different lengths; each asks for 64 tokens and gets them."""
    from PIL import Image

    model, processor = tiny_model
    images = [Image.open(drawn).convert("RGB"), noise(300, 300).convert("RGB")]
    for image in images:
        inputs = processor(images=image, text="<image>\nFree OCR. ", return_tensors="pt")
        output = answer(model, **inputs, max_new_tokens=64)
        new = output[0, inputs["input_ids"].shape[1] :]
        assert len(new) == 64
        assert new.min() >= len(tiny.SPECIAL_TOKENS)
    assert tiny.SPECIAL_TOKENS[model.generation_config.eos_token_id] == "<eos>"


def test_any_text_is_taken_and_given_back(tiny_model: tuple[Any, Any]) -> None:
    _, processor = tiny_model
    text = "Grüße, 你好, \x00 \U0001f600 \n end"
    ids = processor.tokenizer(text)["input_ids"]
    assert len(ids) == len(text.encode())
    assert processor.tokenizer.decode(ids) == text


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(ValueError, match="size must be one of tiny, full, not huge"):
        tiny.build("huge")


# -- the full model, of which no weight is made ---------------------------------------------------------


@pytest.fixture(scope="module")
def full() -> Any:
    """The published sizes, on a device without memory."""
    return tiny.build("full", device="meta")[0]


def test_the_full_model_has_the_published_sizes(full: Any) -> None:
    text, vision = full.config.text_config, full.config.vision_config
    sam, encoder = vision.sam_config, vision.encoder_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads) == (1280, 12, 10)
    assert (text.n_routed_experts, text.n_shared_experts, text.num_experts_per_tok) == (64, 2, 6)
    assert (text.intermediate_size, text.moe_intermediate_size, text.vocab_size) == (6848, 896, 129280)
    assert list(text.mlp_layer_types) == ["dense", *["sparse"] * 11]
    assert (sam.hidden_size, sam.num_hidden_layers, sam.num_attention_heads, sam.patch_size) == (768, 12, 12, 16)
    assert (encoder.hidden_size, encoder.num_hidden_layers, encoder.intermediate_size) == (896, 24, 4864)
    assert (encoder.num_attention_heads, encoder.num_key_value_heads) == (14, 2)


def test_the_full_model_has_3_4_billion_parameters(full: Any) -> None:
    assert sum(part.numel() for part in full.parameters()) == pytest.approx(3.39e9, rel=0.01)
    assert {part.device.type for part in full.parameters()} == {"meta"}


def test_the_parts_of_the_full_model_fit_together(full: Any) -> None:
    """An image becomes 144 embeddings of the language model's width."""
    with torch.inference_mode():
        seen = full.model.vision_tower(pixel_values=torch.empty(1, 3, 768, 768, device="meta")).last_hidden_state
        assert full.model.multi_modal_projector(seen).shape == (1, 144, 1280)


# -- the page -------------------------------------------------------------------------------------------


def test_the_page_is_a_png_of_an_a4_sheet_with_something_on_it(drawn: Path) -> None:
    from PIL import Image

    assert drawn.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(drawn) as image:
        image.load()
        assert (image.format, image.size, image.mode) == ("PNG", (1240, 1754), "RGB")
        shades = image.convert("L").histogram()
    assert shades[0] > 10_000
    assert shades[255] > 1_000_000


def test_the_page_is_drawn_the_same_again_and_with_as_many_lines_as_asked(drawn: Path, tmp_path: Path) -> None:
    assert page.draw(tmp_path / "again.png").read_bytes() == drawn.read_bytes()
    assert page.draw(tmp_path / "short.png", lines=3).read_bytes() != drawn.read_bytes()
