"""What a model is and what an image becomes for it, as a document that ``--model-config`` reads; no weight is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsprof.model.record import SCHEMA
from dsprof.workloads import tiny
from dsprof.workloads.deepseek_ocr import PROMPT, open_image, plain_config, views_of


def describe(size: str, dtype: str, images: Sequence[Path]) -> dict[str, Any]:
    """The document for a model of `tiny.SIZES` that reads `images` in each request. Raises `ImageUnusable`."""
    model, processor = tiny.build(size, dtype=dtype, device="meta")
    opened = [open_image(path) for path in images]
    views: list[list[int]] | None = []
    if opened:
        inputs = processor(images=opened, text=[PROMPT] * len(opened), return_tensors="pt", padding=True)
        seen = views_of(inputs, len(opened))
        views = None if None in seen else [view for one in seen for view in one or ()]
    return {"schema": SCHEMA, "dtype": dtype, "batch": max(len(opened), 1), "views": views,
            "config": plain_config(model)}  # fmt: skip
