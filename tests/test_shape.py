"""The shape of small packages whose figures are known."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "shape.py"


def package(folder: Path, files: dict[str, str]) -> Path:
    """Write a package `small`, whose every folder has an `__init__.py`."""
    root = folder / "small"
    for name, text in {"__init__.py": "", **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    return root


def shape(root: Path, *arguments: str) -> str:
    """What the script prints of a package."""
    command = [sys.executable, str(SCRIPT), "--root", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def figures(folder: Path, files: dict[str, str]) -> dict[str, Any]:
    """The figures of a package."""
    return json.loads(shape(package(folder, files), "--json"))


def test_rooms(tmp_path: Path) -> None:
    """Modules at the top, modules in packages, and the doors at the top: each module and each package."""
    known = figures(tmp_path, {"a.py": "x = 1\n", "b.py": "", "deep/c.py": "", "deep/er/d.py": "y = 1\nz = 2\n"})
    assert known["modules at the top"] == 3  # with __init__
    assert known["modules in packages"] == 4
    assert known["rooms at the top"] == 4
    assert known["lines"] == 3


def test_floors(tmp_path: Path) -> None:
    """The longest chain, in all forms that an import can have."""
    known = figures(tmp_path, {
        "a.py": "from small import b",
        "b.py": "import os, small.deep.c",
        "deep/c.py": "from .d import name",
        "deep/d.py": "from ..e import name",
        "e.py": "try:\n    from . import f\nexcept ImportError:\n    pass",
        "f.py": "name = 1",
        "short.py": "import small.f",
    })  # fmt: skip
    assert known["longest chain"] == ["small.a", "small.b", "small.deep.c", "small.deep.d", "small.e", "small.f"]
    assert known["import floors"] == 6 and known["cycles"] == known["late imports"] == 0


@pytest.mark.parametrize(
    ("code", "floors", "late"),
    [
        ("from small import b", 2, 0),
        ("if True:\n    from small import b", 2, 0),
        ("class A:\n    from small import b", 2, 0),
        ("def load():\n    from small import b", 1, 1),
        ("async def load():\n    import small.b\n    from small import b", 1, 1),
        ("if TYPE_CHECKING:\n    from small import b", 1, 0),
        ("if typing.TYPE_CHECKING:\n    from small import b", 1, 0),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from small import b", 2, 0),
        ("def load():\n    if TYPE_CHECKING:\n        from small import b", 1, 0),
        ("import os, small_other", 1, 0),
    ],
)
def test_when_an_import_runs(tmp_path: Path, code: str, floors: int, late: int) -> None:
    """As the module loads, later, or never."""
    known = figures(tmp_path, {"a.py": code, "b.py": ""})
    assert (known["import floors"], known["late imports"]) == (floors, late)


def test_cycles(tmp_path: Path) -> None:
    """A cycle is one floor and is named; one that a late import closes is none."""
    known = figures(tmp_path, {
        "top.py": "import small.a", "a.py": "import small.b", "b.py": "import small.c",
        "c.py": "import small.a\nimport small.low", "low.py": "def late():\n    import small.top",
    })  # fmt: skip
    assert (known["cycles"], known["import floors"]) == (1, 3)
    assert known["modules in cycles"] == ["small.a <-> small.b <-> small.c"]


def test_functions(tmp_path: Path) -> None:
    """Lengths without decorators; parameters without `self`, `*` and `**` as one each."""
    short = "".join(f"def f{number}():\n    return 1\n" for number in range(8))
    known = figures(tmp_path, {
        "a.py": short + "@cache\ndef long():\n    x = 1\n    y = 2\n    return x\n" + "class A:\n"
        "    def six(self, a, b, c, /, d, *, e, f=lambda x, y: 1): pass\n"
        "    def seven(self, a, b, *many, c, d, e, **more): pass\n",
        "b.py": "async def eight(a, b, c, d, e, f, g, h):\n" + "    a\n" * 9,
    })  # fmt: skip
    assert known["lines of a function, median"] == 2
    assert known["lines of a function, p90"] == 4  # of 1, 1, eight times 2, 4, 10
    assert known["functions of more than 6 parameters"] == 2
    assert known["most parameters"] == ["small.b.eight (8)", "small.a.seven (7)"]


def test_rests_on(tmp_path: Path) -> None:
    """All that a table imports, directly or not, and nothing that is for types or late."""
    root = package(tmp_path, {
        "tables/step_trace.py": "import small.a, numpy\nfrom small.b import name\ndef late():\n    import small.other",
        "a.py": "import small.c", "b.py": "from small import c", "c.py": "if TYPE_CHECKING:\n    import small.other",
        "other.py": "", "tables/kern_sum.py": "import small.tables.step_trace",
    })  # fmt: skip
    known = json.loads(shape(root, "--json"))
    assert known["step_trace rests on"] == 3
    assert known["stage_kern_sum rests on"] is None  # not there


def test_before_and_after(tmp_path: Path) -> None:
    """Two trees stand side by side, and what one of them lacks is a dash."""
    before = tmp_path / "before.json"
    before.write_text(
        shape(package(tmp_path / "old", {"a.py": "", "tables/step_trace.py": "import small.a"}), "--json")
    )
    lines = shape(
        package(tmp_path / "new", {"a.py": "", "b.py": "import small.a"}), "--against", str(before)
    ).splitlines()
    rows = {line[:-18].rstrip(): line[-18:].split() for line in lines[: lines.index("")]}
    assert rows[""] == ["before", "now"]
    assert rows["modules at the top"] == ["2", "3"]
    assert rows["step_trace rests on"] == ["1", "-"]


def test_this_package() -> None:
    """The package as it is can be measured, and no cycle is in it."""
    printed = shape(SCRIPT.parents[1] / "src" / "dsprof")
    assert {line.split()[-1] for line in printed.splitlines() if line.startswith("cycles")} == {"0"}
