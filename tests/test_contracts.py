"""The import contracts wake up: each is broken on purpose in a copy of the package, and says so by itself."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("importlinter", reason="import-linter is not installed")

ROOT = Path(__file__).resolve().parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
CONTRACTS = [contract["name"] for contract in CONFIG["contracts"]]
LINT = "from importlinter.cli import lint_imports_command as lint; lint()"
VERDICT = re.compile(r"^(.+) (KEPT|BROKEN)\b", re.MULTILINE)
LINK = re.compile(r"\b(dsprof[\w.]*) -> ([\w.]+) \(l")

LAYERS, PURE, MODEL = "Layers point one way", "Arrays are pure array code", "Only workloads know a model"
RICH, TYPER, TABLES = "Rich stays at the edge", "Typer stays in the command line", "Tables do not know each other"
NSYS, EXPORT = "Few know Nsight Systems", "Only nsys opens an export"
PROCESS, FILE, LIGHT = "Few start a process", "Few touch a file", "The profiled process stays light"

#: Which contract alone breaks when a file of the package gets one more line.
PLANTS = [
    (LAYERS, "nsys/schema.py", "import dsprof.answers.roofs"),  # what reads an export knows no answer
    (LAYERS, "nsys/rows.py", "import dsprof.rules.families"),
    (LAYERS, "answers/requests.py", "import dsprof.show.summary"),
    (LAYERS, "plots/stages.py", "import dsprof.capture.session"),  # a neighbour
    (LAYERS, "trace.py", "def late():\n    import dsprof.rules.rules"),
    (LAYERS, "attribute/launches.py", "import dsprof.measures.tally"),
    (LAYERS, "measures/totals.py", "from dsprof.answers import stages"),
    (LAYERS, "answers/steps.py", "import dsprof.show.units"),
    (LAYERS, "show/layout.py", "def late():\n    import dsprof.analysis.analyze"),
    (LAYERS, "compare/outcome.py", "import dsprof.show.layout"),
    (LAYERS, "answers/steps.py", "import dsprof.compare.gates"),
    (LAYERS, "timeline/packets.py", "import dsprof.analysis.timelines"),
    (LAYERS, "show/safe.py", "import dsprof.timeline.packets"),
    (LAYERS, "facts.py", "import dsprof.trace"),
    (LAYERS, "words.py", "import dsprof.ground.versions"),
    (LAYERS, "newcomer.py", ""),  # a module that has no layer
    (PURE, "arrays/rows.py", "import attrs"),
    (PURE, "arrays/statistics.py", "import attrs"),
    (PURE, "arrays/backend.py", "import attrs"),  # through what it imports, too
    (MODEL, "answers/requests.py", "import torch"),
    (MODEL, "measures/totals.py", "from transformers import AutoModel"),
    (MODEL, "nsys/schema.py", "def late():\n    import flash_attn"),
    (MODEL, "__init__.py", "import torch"),
    (RICH, "answers/requests.py", "import rich"),
    (RICH, "show/plain.py", "from rich.text import Text"),
    (RICH, "analysis/stored.py", "import rich.console"),
    (TYPER, "rules/families.py", "import typer"),
    (TYPER, "show/terminal.py", "import typer"),
    (TABLES, "tables/step_trace.py", "from dsprof.tables import step_sum"),
    (NSYS, "tables/kern_sum.py", "from dsprof.nsys import schema"),
    (NSYS, "plots/stages.py", "import dsprof.nsys.reader"),
    (EXPORT, "tables/kern_sum.py", "import sqlite3"),
    (EXPORT, "analysis/analyze.py", "import adbc_driver_sqlite"),
    (LAYERS, "timeline/packets.py", "import dsprof.analysis.timelines"),
    (PROCESS, "show/html.py", "import subprocess"),
    (FILE, "tables/kern_sum.py", "import os"),
    (FILE, "compare/recordings.py", "import os"),
    (FILE, "answers/requests.py", "from pathlib import Path"),
    (LIGHT, "__init__.py", "import pandas"),  # whoever imports a part imports this
    (LIGHT, "workloads/job.py", "import pandas"),
    (LIGHT, "words.py", "import pyarrow"),
    (LIGHT, "ground/documents.py", "import cattrs"),  # through what it imports
]

#: Loads by names in strings, which no contract sees, and what they would break as imports. Cure one, take it from here.
KNOWN = {
    ("dsprof.arrays.backend", "dsprof.arrays.page_loops"): {LIGHT},
    ("dsprof.arrays.backend", "dsprof.arrays.loops"): {
        LIGHT
    },  # numba, which the profiled process must not load: it never turns it on
}
#: Load modules by names made at run time: the package its public names; tables, engines and launchers their files.
LOADERS = {"dsprof", "dsprof.capture.launchers", "dsprof.rules.engines", "dsprof.tables"}


class Said(NamedTuple):
    """What lint-imports said."""

    broken: set[str]  # contracts
    kept: set[str]
    links: set[tuple[str, str]]  # imports that it found fault with


class Copy:
    """A copy of the package under its contracts."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.package = folder, folder / "dsprof"
        shutil.copytree(ROOT / "src" / "dsprof", self.package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def modules(self) -> dict[str, Path]:
        """The files by the names of their modules."""
        found = {}
        for file in sorted(self.package.rglob("*.py")):
            parts = file.relative_to(self.folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
        return found

    @contextmanager
    def planted(self, plants: dict[Path, str]) -> Iterator[None]:
        """Add text to the ends of files, which may be new, for as long as this lasts."""
        before = {file: file.read_bytes() if file.exists() else None for file in plants}
        try:
            for file, text in plants.items():
                file.write_bytes((before[file] or b"") + f"\n{text}\n".encode())
            yield
        finally:
            for file, content in before.items():
                file.unlink() if content is None else file.write_bytes(content)

    def lint(self) -> Said:
        """Run lint-imports on the copy; what did not change comes from its cache."""
        done = subprocess.run(
            [sys.executable, "-c", LINT, "--no-logo"], cwd=self.folder, capture_output=True, text=True, timeout=120,
            env={**os.environ, "PYTHONPATH": str(self.folder), "COLUMNS": "1000", "NO_COLOR": "1"},
        )  # fmt: skip
        verdicts = VERDICT.findall(done.stdout)
        broken = {name for name, verdict in verdicts if verdict == "BROKEN"}
        assert len(verdicts) == len(CONTRACTS) and bool(broken) == bool(done.returncode), done.stdout + done.stderr
        return Said(broken, {name for name, _ in verdicts} - broken, set(LINK.findall(done.stdout)))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """One copy for all tests of a worker: each puts back what it planted."""
    return Copy(tmp_path_factory.mktemp("contracts"))


def test_contracts_hold(copy: Copy) -> None:
    """They hold for the package as it is, so what breaks below was planted."""
    assert copy.lint() == Said(set(), set(CONTRACTS), set())


def test_each_contract_is_tried() -> None:
    """A contract that is new or renamed needs a plant."""
    assert {contract for contract, _, _ in PLANTS} == set(CONTRACTS)


@pytest.mark.parametrize(("contract", "file", "line"), PLANTS, ids=[f"{file}: {line}" for _, file, line in PLANTS])
def test_plant_breaks_one_contract(copy: Copy, contract: str, file: str, line: str) -> None:
    """The contract that a line offends breaks, and it alone."""
    path = copy.package / file
    assert path.exists() == bool(line), "only the module without a layer is new"
    with copy.planted({path: line}):
        assert copy.lint().broken == {contract}


def test_no_module_is_forgotten(copy: Copy) -> None:
    """Which modules may import what is kept at an edge, when all of them try to."""
    edges = {
        "rich": {"dsprof.cli", "dsprof.show"}, "typer": {"dsprof.cli"}, "torch": {"dsprof.workloads"},
        "sqlite3": {"dsprof.nsys"},
    }  # fmt: skip
    modules = copy.modules()
    with copy.planted({file: "\n".join(f"import {edge}" for edge in edges) for file in modules.values()}):
        links = copy.lint().links
    for edge, allowed in edges.items():
        quiet = {".".join(name.split(".")[:2]) for name in modules if (name, edge) not in links}
        assert quiet == allowed, edge


def loads(tree: ast.Module) -> Iterator[str | None]:
    """The modules that code loads by their names in strings; None: a name made at run time."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not call.args:
            continue
        called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if called in {"import_module", "__import__", "run_module"}:
            name = call.args[0]
            yield name.value if isinstance(name, ast.Constant) else None


def test_loads_are_found() -> None:
    """Each way to load a module by a string is seen."""
    code = "import_module('a'); importlib.import_module('b.c'); __import__('d'); import_module(f'e.{x}'); print('f')"
    assert list(loads(ast.parse(code))) == ["a", "b.c", "d", None]


def test_no_string_goes_around_the_contracts(copy: Copy) -> None:
    """A module loaded by a string is one that could be imported: written as an import, the contracts judge it."""
    modules = copy.modules()
    loaded = {name: list(loads(ast.parse(file.read_text()))) for name, file in modules.items()}
    assert {name for name, names in loaded.items() if None in names} <= LOADERS
    around = {}
    for name, target in ((name, target) for name, targets in loaded.items() for target in targets if target):
        with copy.planted({modules[name]: f"import {target}"}):  # by itself: a chain that offends has innocent links
            around[name, target] = copy.lint().broken
    assert {load: broken for load, broken in around.items() if broken} == KNOWN
