"""A page to read: drawn here, so that a capture needs no picture of anybody's."""

from __future__ import annotations

import io
from pathlib import Path

from dsprof.errors import OutputRefused

#: A4 at 150 dots per inch.
WIDTH, HEIGHT = 1240, 1754
_MARGIN, _LINE = 90, 34
_WORDS = ("stage", "range", "kernel", "launch", "stream", "copy", "graph", "token", "prefill", "decode", "idle", "busy")


def draw(path: Path, lines: int = 40, force: bool = False) -> Path:
    """Draw a page of text with a table to `path`, the same at every call; needs Pillow.

    Raises `OutputRefused` where another file is there and `force` is not set, where no file can be, and where the name
    says no kind of picture.
    """
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
    drawn = io.BytesIO()
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise OutputRefused(f"{path.name} does not say which kind of picture it is.", "Name one that ends in .png.")
    page.save(drawn, kind)
    try:
        _write(path, drawn.getvalue(), force)
    except OSError as error:
        raise OutputRefused(f"{path} cannot be written ({error.strerror}).", "Name another file.") from error
    return path


def _write(path: Path, picture: bytes, force: bool) -> None:
    """Write a picture, but not over what is no file, nor over another file unless `force` is set."""
    if path.exists() and not path.is_file():
        raise OutputRefused(f"{path} is no file, and is not replaced.", "Name another file.")
    if path.exists() and not force and path.read_bytes() != picture:
        raise OutputRefused(f"{path} is there already, and is not replaced.", "Name another file, or add --force.")
    path.write_bytes(picture)
