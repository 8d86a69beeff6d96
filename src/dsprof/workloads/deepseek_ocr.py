"""A DeepSeek-OCR session: load once, read images, know what each request took on the host.

The second DeepSeek-OCR is a class of transformers; the first is code that comes with its checkpoint and runs
only where it is trusted.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import define, field

from dsprof.errors import AttentionUnavailable, DeviceUnavailable, ImageUnusable, ModelUnusable
from dsprof.workloads import tiny
from dsprof.workloads.ranges import Domain
from dsprof.workloads.segmenter import NoDomain, Segmenter
from dsprof.workloads.timing import RequestTiming, StageTiming

PROMPT = "<image>\nFree OCR. "
#: The second DeepSeek-OCR refuses flash-attention as a whole: only its language model has it.
_FLASH_TEXT = {"text_config": "flash_attention_2"}


@define
class InferenceResult:
    """What one request gave: text, the new tokens' ids, and the host's times.

    `views`: how many pictures of which height and width the vision tower was given; None where that is not known.
    """

    text: str
    token_ids: list[int]
    prompt_tokens: int
    timing: RequestTiming
    views: list[list[int]] | None = None


@define
class DeepSeekOCRSession:
    """A loaded model and how it reads; make it with `from_local` or `from_random`.

    `attention`: the implementation that each part of the model resolved to. `modules` and `domain`: which
    ranges `run_inference` opens (see `Segmenter`), none by default. `served` counts the requests.
    """

    model: Any
    processor: Any
    device: str
    attention: dict[str, str]
    modules: str = "none"
    domain: Domain = field(factory=NoDomain)
    served: int = 0

    @classmethod
    def from_local(
        cls,
        model_path: str | os.PathLike[str],
        device: str = "auto",
        use_flash_attn: bool | None = None,
        dtype: str = "auto",
        trust_remote_code: bool = False,
    ) -> DeepSeekOCRSession:
        """Load a checkpoint folder; nothing is fetched.

        `device`: ``auto`` is the GPU where there is one. `dtype`: ``auto`` is bfloat16 there, float32 on a CPU.
        `use_flash_attn`: None takes it where it can be had, True insists, False refuses. Raises `ModelUnusable`,
        `AttentionUnavailable`.
        """
        path = Path(model_path)
        config = read_config(path)
        place, number = device_named(device), dtype_named(dtype, device_named(device))
        attention = attention_for(use_flash_attn, place, number, remote="auto_map" in config)
        if "auto_map" in config:
            if not trust_remote_code:
                raise ModelUnusable(
                    f"The model in {path} is code of its own, which is not run unasked.",
                    "Read that code, then allow it with --trust-remote-code.",
                )
            return _load_remote(path, place, number, attention)
        return _load_native(path, place, number, attention)

    @classmethod
    def from_random(
        cls,
        size: str = "tiny",
        seed: int = 0,
        device: str = "auto",
        dtype: str = "auto",
        use_flash_attn: bool | None = None,
    ) -> DeepSeekOCRSession:
        """The true architecture with random weights, built in place; `size` is one of `tiny.SIZES`.

        The rest is as in `from_local`. Raises `AttentionUnavailable`, `DeviceUnavailable`.
        """
        place, number = device_named(device), dtype_named(dtype, device_named(device))
        attention = attention_for(use_flash_attn, place, number, remote=False)
        model, processor = tiny.build(size, seed, number, place)
        if attention != "sdpa":
            model.set_attn_implementation(attention)
        return cls(model, processor, place, resolved_attention(model))

    def run_inference(
        self, image_path: str | os.PathLike[str], prompt: str = PROMPT, max_new_tokens: int = 64
    ) -> InferenceResult:
        """Read one image, greedily. Raises `ImageUnusable`."""
        if not hasattr(self.model, "infer"):
            return self.run_batch([image_path], prompt, max_new_tokens)[0]
        open_image(image_path)
        with Segmenter(self.model, self.modules, self.domain, self.served) as segmenter:
            text, prompt_tokens, ids = self._infer(image_path, prompt, max_new_tokens)
        self.served += 1
        return InferenceResult(text, ids, prompt_tokens, segmenter.timings[0])

    def run_batch(
        self, image_paths: Sequence[str | os.PathLike[str]], prompt: str = PROMPT, max_new_tokens: int = 64
    ) -> list[InferenceResult]:
        """Read several images in one request, greedily; the results share its times. Raises `ImageUnusable`.

        The first DeepSeek-OCR reads one image at a time: `TypeError`.
        """
        import torch

        if hasattr(self.model, "infer"):
            raise TypeError(f"{type(self.model).__name__} reads one image at a time.")
        images = [open_image(path) for path in image_paths]
        inputs = self.processor(images=images, text=[prompt] * len(images), return_tensors="pt", padding=True)
        inputs = inputs.to(self.device, dtype=self.model.dtype)
        with Segmenter(self.model, self.modules, self.domain, self.served) as segmenter, torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        self.served += 1
        length, timing = inputs["input_ids"].shape[1], segmenter.timings[0]
        tokens = [row[length:].tolist() for row in output]
        decode, views = self.processor.tokenizer.decode, views_of(inputs, len(images))
        return [
            InferenceResult(decode(ids, skip_special_tokens=True), ids, length, timing, seen)
            for ids, seen in zip(tokens, views, strict=True)
        ]

    def _infer(
        self, image_path: str | os.PathLike[str], prompt: str, max_new_tokens: int
    ) -> tuple[str, int, list[int]]:
        """The first DeepSeek-OCR's own way in, which takes a file and gives text."""
        with tempfile.TemporaryDirectory() as folder, _limited(self.model, max_new_tokens) as seen:
            text = self.model.infer(
                self.processor, prompt=prompt, image_file=str(image_path), output_path=folder, base_size=1024,
                image_size=640, crop_mode=True, save_results=False, eval_mode=True,
            )  # fmt: skip
        return str(text or ""), seen["prompt_tokens"], seen["token_ids"]


def run_once(
    session: DeepSeekOCRSession,
    image_path: str | os.PathLike[str],
    prompt: str = PROMPT,
    max_new_tokens: int = 64,
) -> list[StageTiming]:
    """One request's stages as the host saw them."""
    return session.run_inference(image_path, prompt, max_new_tokens).timing.stages


def views_of(inputs: Mapping[str, Any], images: int) -> list[list[list[int]] | None]:
    """For each image of a processor's inputs: ``[how many, height, width]`` of the whole, and of its crops.

    None where the processor gives its pictures in another form than DeepSeek-OCR-2's.
    """
    whole, crops, counts = (inputs.get(name) for name in ("pixel_values", "pixel_values_local", "num_local_patches"))
    if whole is None or whole.ndim != 4 or len(whole) != images:
        return [None] * images
    views: list[list[list[int]] | None] = []
    for image in range(images):
        count = int(counts[image]) if counts is not None and crops is not None else 0
        views.append([[1, *whole.shape[-2:]], *([[count, *crops.shape[-2:]]] if count and crops is not None else [])])
    return views


def plain_config(model: Any) -> dict[str, Any]:
    """A model's configuration as plain JSON, without private entries: those name paths. Empty where it has none."""
    try:
        config = json.loads(model.config.to_json_string(use_diff=False))
    except (AttributeError, TypeError, ValueError):
        return {}
    cleaned = _without_private(config)
    return cleaned if isinstance(cleaned, dict) else {}


def _without_private(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_private(one) for key, one in value.items() if not str(key).startswith("_")}
    return [_without_private(one) for one in value] if isinstance(value, list) else value


def open_image(path: str | os.PathLike[str]) -> Any:
    """The image as RGB. Raises `ImageUnusable` for a missing file and for one that is no image."""
    from PIL import Image

    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113  a pipe is not waited for
        raise ImageUnusable(f"{path} is no file.", "Name a picture.")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise ImageUnusable(f"There is no image {path}.", "See whether its name is spelled right.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageUnusable(f"{path} cannot be read as an image ({error}).", "PNG and JPEG always work.") from error


def read_config(path: Path) -> dict[str, Any]:
    """The ``config.json`` of a checkpoint's folder. Raises `ModelUnusable`."""
    file = path / "config.json"
    if not file.is_file():
        raise ModelUnusable(
            f"{path} is no model folder: it has no config.json.",
            "Name the folder of a downloaded checkpoint, or take --model tiny.",
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelUnusable(f"{file} is no JSON ({error}).", "Download the checkpoint again.") from error
    return config if isinstance(config, dict) else {}


def device_named(device: str) -> str:
    """The device's name for torch. Raises `DeviceUnavailable`."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA, or no driver, or no such name
        said = str(error).partition("\n")[0].rstrip(".")
        raise DeviceUnavailable(f"The device {device} cannot be used: {said}.", "See `dsprof doctor`.") from error
    return device


def dtype_named(dtype: str, device: str) -> str:
    """The type of weights for torch."""
    if dtype != "auto":
        return dtype
    return "bfloat16" if device.startswith("cuda") else "float32"


def attention_for(use_flash_attn: bool | None, device: str, dtype: str, remote: bool) -> Any:
    """What to ask transformers for: flash-attention where it can be had and is not refused, else sdpa or eager."""
    from transformers.utils import is_flash_attn_2_available

    can = device.startswith("cuda") and dtype in ("bfloat16", "float16") and is_flash_attn_2_available()
    if use_flash_attn and not can:
        raise AttentionUnavailable(
            f"flash-attention cannot be had here (device {device}, {dtype}).",
            "It needs the package flash-attn, an NVIDIA GPU and bfloat16 or float16; --no-flash-attn does without.",
        )
    if can and use_flash_attn is not False:
        return "flash_attention_2" if remote else _FLASH_TEXT
    return "eager" if remote else "sdpa"


def _load_native(path: Path, device: str, dtype: str, attention: Any) -> DeepSeekOCRSession:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path, local_files_only=True, attn_implementation=attention, **dtype_keyword(dtype)
        )
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    except Exception as error:  # whatever a broken file makes of the libraries that read it
        raise not_loaded(path, error) from error
    if not hasattr(model, "generate"):
        raise ModelUnusable(f"{type(model).__name__} in {path} has no generate().", "Name an image-to-text model.")
    return DeepSeekOCRSession(model.to(device).eval(), processor, device, resolved_attention(model))


def _load_remote(path: Path, device: str, dtype: str, attention: str) -> DeepSeekOCRSession:
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=True)
        model = AutoModel.from_pretrained(
            path, local_files_only=True, trust_remote_code=True, attn_implementation=attention, **dtype_keyword(dtype)
        )
    except Exception as error:  # the checkpoint's own code may raise anything
        raise not_loaded(path, error) from error
    if not hasattr(model, "infer") or not hasattr(model, "generate"):
        raise ModelUnusable(
            f"{type(model).__name__} in {path} has no infer() and generate().", "Name a DeepSeek-OCR checkpoint."
        )
    return DeepSeekOCRSession(model.to(device).eval(), tokenizer, device, resolved_attention(model))


def not_loaded(path: Path, error: Exception) -> ModelUnusable:
    """What a checkpoint that does not load is told as."""
    import transformers

    reason = textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")
    return ModelUnusable(
        f"The model in {path} does not load with transformers {transformers.__version__}: {reason}",
        "DeepSeek-OCR-2 needs transformers 5.23 or newer; the first DeepSeek-OCR wants 4.46.3.",
    )


def dtype_keyword(dtype: str) -> dict[str, Any]:
    """The keyword for the weights' type, which transformers renamed in 4.56."""
    import torch
    import transformers

    major, minor = (int(part) for part in transformers.__version__.split(".")[:2])
    return {"dtype" if (major, minor) >= (4, 56) else "torch_dtype": getattr(torch, dtype)}


def resolved_attention(model: Any) -> dict[str, str]:
    """The attention that the model and the parts of its configuration really use."""
    parts = {"model": model.config}
    parts |= {name: part for name in ("text_config", "vision_config") if (part := getattr(model.config, name, None))}
    return {name: str(getattr(part, "_attn_implementation", None) or "eager") for name, part in parts.items()}


@contextmanager
def _limited(model: Any, max_new_tokens: int) -> Iterator[dict[str, Any]]:
    """`model.generate` with a limit that the caller in the checkpoint's code does not know; what it gave is kept."""
    seen: dict[str, Any] = {"prompt_tokens": 0, "token_ids": []}
    original = model.generate
    had = "generate" in vars(model)

    @functools.wraps(original)
    def generate(*arguments: Any, **keywords: Any) -> Any:
        output = original(*arguments, **{**keywords, "max_new_tokens": max_new_tokens})
        ids = keywords.get("input_ids", keywords.get("inputs", arguments[0] if arguments else None))
        length = 0 if ids is None else int(ids.shape[-1])
        seen.update(prompt_tokens=length, token_ids=output[0, length:].tolist())
        return output

    object.__setattr__(model, "generate", generate)
    try:
        yield seen
    finally:
        if had:
            object.__setattr__(model, "generate", original)
        else:
            vars(model).pop("generate", None)
