"""The lessons run from top to bottom and show something; figures draw what the tables hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = ROOT / "traces" / "samples"
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDED = (
    "h200-stages", "h200-layers", "h200-graphs-node", "h100-serve-graphs", "h100x2-gpu-rank0", "h100x2-gpu-rank1",
)  # fmt: skip
SECONDS = 60  # a lesson takes a few; that is what the longest may take
MS = 1e6


def layout(folder: Path, names: tuple[str, ...] = NEEDED) -> Path:
    """The lessons and their packed samples, laid out below `folder` as in the repository; returns the samples."""
    samples = folder / "traces" / "samples"
    samples.mkdir(parents=True)
    for name in names:
        packed = SAMPLES / f"{name}.sqlite.xz"
        if not packed.is_file():
            pytest.skip(f"{packed.name} is not in this copy of the repository")
        shutil.copy(packed, samples)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return samples


# -- the lessons ------------------------------------------------------------------------------------------


def test_the_lessons_are_numbered_from_one() -> None:
    assert [lesson.name[:3] for lesson in LESSONS] == [f"{number:02d}-" for number in range(1, len(LESSONS) + 1)]
    assert len(LESSONS) >= 4


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_nothing_that_ran_is_committed(lesson: Path) -> None:
    notebook = json.loads(lesson.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = notebook["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    assert [cell["id"] for cell in cells if cell["metadata"]] == []
    assert len({cell["id"] for cell in cells}) == len(cells)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_says_first_what_one_will_know(lesson: Path) -> None:
    title, _, text = "".join(json.loads(lesson.read_text(encoding="utf-8"))["cells"][0]["source"]).partition("\n\n")
    assert title.startswith("# ")
    assert text.startswith("At the end of this lesson you ")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_lesson_runs(lesson: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for needed in ("matplotlib", "ipykernel"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install '.[notebook]'")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    samples = layout(tmp_path)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(tmp_path / "notebooks" / lesson.name, as_version=4)
    nbformat.validate(notebook)
    place = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place).execute()

    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    shown = [output.data for output in outputs if "data" in output]
    assert any("text/html" in data for data in shown)
    plots = sum("plots." in cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.outputs)
    assert sum("image/png" in data for data in shown) == plots
    assert {path.suffix for path in samples.iterdir()} <= {".xz", ".sqlite"}


def test_most_lessons_draw() -> None:
    assert sum("plots." in lesson.read_text(encoding="utf-8") for lesson in LESSONS) >= 3
