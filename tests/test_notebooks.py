"""The lessons run from top to bottom, and what is kept of them is what they show now."""

from __future__ import annotations

import base64
import json
import re
import struct
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import lessons
from lessons import LESSONS, layout

MOST_BYTES = 150_000
MACHINE = re.compile(r"/(?:tmp|root|home|work|usr|var|opt|mnt|Users)/|\b0x[0-9a-f]{6,}|\x1b")


def read(lesson: Path) -> dict[str, Any]:
    return json.loads(lesson.read_text(encoding="utf-8"))


def outputs(cells: list[Any]) -> list[tuple[str, Any]]:
    """The outputs of a lesson's cells, each with its cell."""
    return [(cell["id"], output) for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def said(output: Any) -> str:
    """The text of an output: of a table its cells, of a figure that it is one."""
    data = output.get("data", {"text/plain": output.get("text")})
    if "image/png" in data:
        return "a figure"
    text = "".join(data.get("text/html", data.get("text/plain")))
    if "text/html" in data:
        text = unescape(re.sub(r"<[^>]*>", " ", re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)))
    return " ".join(text.split())


def size(figure: str) -> tuple[int, int]:
    """Width and height of a PNG."""
    return struct.unpack(">II", base64.b64decode("".join(figure))[16:24])


def test_the_lessons_are_numbered_from_one() -> None:
    assert [lesson.name[:3] for lesson in LESSONS] == [f"{number:02d}-" for number in range(1, len(LESSONS) + 1)]
    assert len(LESSONS) >= 4


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_what_is_kept_is_small_and_of_no_machine(lesson: Path) -> None:
    notebook = read(lesson)
    assert lesson.stat().st_size <= MOST_BYTES
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == lessons._METADATA
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert [cell["id"] for cell in cells if cell["metadata"]] == []
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run `make notebooks`"
    for name, output in outputs(cells):
        assert output["output_type"] in ("execute_result", "stream"), name
        assert output.get("name", "stdout") == "stdout" and not output.get("metadata"), name
        assert len(output.get("data", [1])) == 1, f"{name}: one form of each value"
        assert not MACHINE.search("".join(output.get("text", output.get("data", {}).get("text/html", "")))), name
        assert not MACHINE.search("".join(output.get("data", {}).get("text/plain", ""))), name
    assert sum(bool(cell["outputs"]) for cell in code) >= len(code) - 2


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_says_first_what_one_will_know(lesson: Path) -> None:
    title, _, text = "".join(read(lesson)["cells"][0]["source"]).partition("\n\n")
    assert title.startswith("# ")
    assert text.startswith("At the end of this lesson you ")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_runs_and_shows_what_is_kept(lesson: Path, tmp_path: Path) -> None:
    for needed in ("matplotlib", "ipykernel", "PIL"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install '.[notebook]'")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    samples = layout(tmp_path)
    notebook = lessons.executed(tmp_path / "notebooks" / lesson.name, tmp_path)
    nbformat.validate(notebook)
    assert {path.suffix for path in samples.iterdir()} <= {".xz", ".sqlite"}

    now, before = outputs(lessons.kept(notebook)["cells"]), outputs(read(lesson)["cells"])
    assert [(name, said(one)) for name, one in now] == [(name, said(one)) for name, one in before], (
        "run `make notebooks`"
    )
    for (name, new), (_, old) in zip(now, before, strict=True):
        if "image/png" in new.get("data", {}):
            for length, kept in zip(size(new["data"]["image/png"]), size(old["data"]["image/png"]), strict=True):
                assert abs(length - kept) <= 0.05 * kept, f"{name}: run `make notebooks`"
    drawn = [cell["id"] for cell in notebook.cells if cell["cell_type"] == "code" and "plots." in cell["source"]]
    assert {name for name, one in now if "image/png" in one.get("data", {})} == set(drawn)


def test_most_lessons_draw() -> None:
    assert sum("plots." in lesson.read_text(encoding="utf-8") for lesson in LESSONS) >= 3


def test_how_long_an_analysis_took_is_not_kept() -> None:
    row = '<tr><td style="x">a.sqlite.xz</td><td>run</td><td>1</td><td>{}</td></tr>'
    for took in ("879.5 ms", "2.100 s"):
        assert lessons._seen({"text/html": row.format(took)}) == {"text/html": row.format("…")}
    other = "<tr><td>decode</td><td>1.5 ms</td></tr>"
    assert lessons._seen({"text/html": other, "text/plain": "x"}) == {"text/html": other}
