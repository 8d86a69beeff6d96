"""A page to read: drawn here, so that a capture needs no picture of anybody's."""

from __future__ import annotations

from pathlib import Path

#: A4 at 150 dots per inch.
WIDTH, HEIGHT = 1240, 1754
_MARGIN, _LINE = 90, 34
_WORDS = ("stage", "range", "kernel", "launch", "stream", "copy", "graph", "token", "prefill", "decode", "idle", "busy")


def draw(path: Path, lines: int = 40) -> Path:
    """Draw a page of text with a table to `path`, the same at every call; needs Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(page)
    font = ImageFont.load_default(size=24)
    for line in range(lines):
        words = " ".join(_WORDS[(line * 5 + i * (line % 3 + 1)) % len(_WORDS)] for i in range(9))
        pen.text((_MARGIN, _MARGIN + line * _LINE), f"{line + 1:>3}  {words}", fill="black", font=font)
    for row in range(5):
        top = HEIGHT - 280 + row * 40
        pen.line((_MARGIN, top, WIDTH - _MARGIN, top), fill="black", width=2)
    page.save(path)
    return path
