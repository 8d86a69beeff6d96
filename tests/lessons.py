"""Runs the lessons in `notebooks/`, and keeps what they show and nothing of the machine.

``python tests/lessons.py`` writes them; `test_notebooks` fails while one shows something else than it would now. They
run in a folder of their own, laid out as the repository, so that no table or export stays beside the samples.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pictures

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "traces" / "samples"
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: The samples that the lessons read.
NEEDED = (
    "h200-stages", "h200-layers", "h200-graphs-node", "h100-serve-graphs", "h100x2-gpu-rank0", "h100x2-gpu-rank1",
)  # fmt: skip
#: A lesson takes a few seconds; that is what the longest cell may take.
SECONDS = 60
#: The last cell of a report's row in the table of several: how long its analysis took, here.
_TOOK = re.compile(r"(<tr><td[^>]*>[^<]+\.sqlite(?:\.xz)?</td>(?:<td[^>]*>[^<]*</td>)*<td[^>]*>)[^<]*(</td></tr>)")
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def layout(folder: Path, names: tuple[str, ...] = NEEDED) -> Path:
    """The lessons and their packed samples, laid out below `folder` as in the repository; returns the samples."""
    samples = folder / "traces" / "samples"
    samples.mkdir(parents=True)
    for name in names:
        shutil.copy(SAMPLES / f"{name}.sqlite.xz", samples)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    return samples


def executed(lesson: Path, folder: Path) -> Any:
    """A lesson after it ran from top to bottom in a folder that is laid out. Raises as its cells do."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(lesson, as_version=4)
    place = {"metadata": {"path": str(folder / "notebooks")}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place)
    client.execute(env=os.environ | {"IPYTHONDIR": str(folder / "ipython")})
    return notebook


def kept(notebook: Any) -> Any:
    """The notebook as it is kept: its cells numbered, figures in few colours, no times and no versions of packages."""
    notebook.metadata = _METADATA
    for cell in notebook.cells:
        cell.metadata = {}
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if "data" in output:
                output.data = _seen(output.data)
    return notebook


def _seen(data: Any) -> dict[str, str]:
    """Of the forms of a cell's value the one that is seen."""
    if "image/png" in data:
        figure = base64.b64decode(data["image/png"])
        return {"image/png": base64.b64encode(pictures.small(figure)).decode()}
    if "text/html" in data:
        return {"text/html": _TOOK.sub(r"\1…\2", data["text/html"])}
    return {"text/plain": data["text/plain"]}


def main() -> None:
    """Run all, and write them where they are."""
    import nbformat

    for lesson in LESSONS:
        with tempfile.TemporaryDirectory() as folder:
            layout(Path(folder))
            nbformat.write(kept(executed(lesson, Path(folder))), lesson)
        print(f"{lesson.stat().st_size:7d} {lesson.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
