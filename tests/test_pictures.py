"""The pictures of README are there, small, described, of the samples, and say what dsprof says now."""

from __future__ import annotations

import io
import re
import struct
from html import unescape
from pathlib import Path

import pytest

import pictures
import readme
from dsprof.page import colours
from dsprof.page.html import resource
from pictures import PICTURES, ROOT, SAMPLES

MOST_BYTES, MOST_BYTES_IN_ALL = 120_000, 400_000
ALL = sorted(path.name for path in PICTURES.iterdir())
#: A picture in Markdown, and in HTML where there is one for dark themes.
MARKDOWN = re.compile(r"!\[([^\]]+)\]\(([^)\s]+)\)")
THEMED = re.compile(
    r'<picture><source media="\(prefers-color-scheme: dark\)" srcset="([^"]+)">'
    r'<img src="([^"]+)" alt="([^"]+)"></picture>'
)


def shown(page: Path) -> dict[str, str]:
    """What stands for each picture of a page that is not seen, by the picture's path."""
    text = page.read_text(encoding="utf-8")
    found = {path: words for words, path in MARKDOWN.findall(text)}
    for dark, light, words in THEMED.findall(text):
        found |= {dark: words, light: words}
    return found


def test_every_picture_of_the_readme_is_there_and_described() -> None:
    text = readme.README.read_text(encoding="utf-8")
    found = shown(readme.README)
    assert {Path(path).name for path in found} == set(ALL)
    assert text.count("<img") == text.count("<picture>") == len(THEMED.findall(text)), "each <img> is read here"
    for path, words in found.items():
        assert (ROOT / path).parent == PICTURES and (ROOT / path).is_file()
        assert len(words.split()) >= 10, f"{path} needs words for those who do not see it"
        assert not re.search(r"\d", words), "a number in words is no number of now"


def test_pictures_are_small() -> None:
    sizes = {name: (PICTURES / name).stat().st_size for name in ALL}
    assert max(sizes.values()) <= MOST_BYTES, sizes
    assert sum(sizes.values()) <= MOST_BYTES_IN_ALL, sizes


def test_captions_say_of_which_samples_they_are() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert f"`dsprof {readme.SHOWN_FIRST}`" in text
    assert f"{pictures.REPORT}.sqlite.xz" in readme.SHOWN_FIRST
    named = re.findall(r"`(h100x2-gpu-rank\*)`", text)
    assert {path.name for path in SAMPLES.glob(f"{named[0]}.xz")} == {f"{name}.sqlite.xz" for name in pictures.RANKS}


# -- the terminal ----------------------------------------------------------------------------------------------


def written(svg: str) -> list[tuple[str, str]]:
    """The texts of a terminal in their order, each with its style."""
    styles = dict(re.findall(r"\.(terminal-r\d+) \{ ?([^}]*)\}", svg))
    texts = re.findall(r'<text class="(terminal-r\d+)"[^>]*>([^<]*)</text>', svg)
    return [(unescape(text), styles[of].strip()) for of, text in texts]


def test_the_terminal_says_what_the_command_prints_now() -> None:
    committed = (PICTURES / "terminal.svg").read_text(encoding="utf-8")
    assert written(committed) == written(pictures.terminal()), "run `make pictures`"


def test_the_terminal_has_every_word_of_the_command() -> None:
    committed = (PICTURES / "terminal.svg").read_text(encoding="utf-8")
    words = " ".join(text for text, _ in written(committed)).replace("\xa0", " ").split()
    assert words == f"$ dsprof {readme.SHOWN_FIRST}\n{readme.printed(readme.SHOWN_FIRST)}".split()
    assert {"bold", "normal"} >= {"bold" if "bold" in style else "normal" for _, style in written(committed)}
    assert len({style for _, style in written(committed)}) >= 3


def test_a_picture_loads_nothing() -> None:
    svg = (PICTURES / "terminal.svg").read_text(encoding="utf-8")
    assert re.findall(r"[a-z]+://[^\s\"]+", svg) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"@font-face|@import|<script|<image|<foreignObject|\bhref|\bon\w+=", svg)


# -- screens ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ALL if name.endswith(".png")])
def test_a_screen_is_a_picture_of_the_present_colours(name: str) -> None:
    data = (PICTURES / name).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"tEXt" not in data and b"tIME" not in data and b"eXIf" not in data, "nothing of the machine is in it"
    width, height = struct.unpack(">II", data[16:24])
    assert 1000 <= width <= 1600 and 300 <= height <= 1900
    if name == "timeline.png":
        return  # Perfetto's own
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(data)).convert("RGB")
    seen = {colour for count, colour in image.getcolors(1 << 24) if count > 500}
    blocks = [block for block in resource("style.css").split("}") if "--p0:" in block]
    palette = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", blocks["dark" in name]))
    drawn = ("gemm", "elementwise", "copy", "reduce") if "report" in name else ()
    for colour in [*map(colours.of_family, drawn), *(() if drawn else (colours.BUSY, colours.WAITING))]:
        wanted = tuple(int(palette[colour][at : at + 2], 16) for at in (1, 3, 5))
        assert min(max(abs(a - b) for a, b in zip(one, wanted, strict=True)) for one in seen) <= 4, (
            "run `make pictures`"
        )
