"""What an error advises is there: each option that it names is one of every command that can raise it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.main import get_command

import dsprof
from dsprof import errors
from dsprof.cli import app

PACKAGE = Path(dsprof.__file__).parent
#: The commands that raise the errors of a file or folder, the first that fits; what reads reports is below all three.
RAISED_BY = {
    "agents/": ["mcp"],
    "analysis/stored.py": ["analyze", "table"],  # a capture's report has no tables yet
    "capture/doctor.py": ["doctor"],
    "capture/": ["capture"],
    "nsys/scrub.py": ["scrub"],
    "workloads/page.py": ["workloads page"],
    "workloads/tiny.py": ["workloads tiny"],
    "workloads/": ["capture"],
    "nsys/selection.py": ["analyze", "table", "whatif", "timeline"],  # a capture is analyzed as a whole
    "ground/whole.py": ["report", "timeline", "query"],
    "ground/swap.py": ["analyze", "capture"],  # tables are written
    "analysis/analyze.py": ["analyze", "capture"],
    "analysis/slim.py": ["baseline add"],
    "analysis/timelines.py": ["timeline"],
    "analysis/gather.py": ["analyze"],  # several reports
    "analysis/many.py": ["analyze"],
    "analysis/workers.py": ["analyze"],
    "": ["analyze", "table", "capture"],
}
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
#: A command of another program, which has its own options.
_OTHERS = re.compile(r"`(?!dsprof )[^`]*`")


def options_of(command: str) -> set[str]:
    """The options of a command of the command line."""
    found = get_command(app)
    for word in command.split():
        found = found.commands[word]
    return {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}


def sentences(code: str) -> Iterator[str]:
    """The words of all errors that code makes; a constant of the file is looked up, another value is left out."""
    tree = ast.parse(code)
    known = {name.id: one.value for one in tree.body if isinstance(one, ast.Assign)
             for name in one.targets if isinstance(name, ast.Name)}  # fmt: skip
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and hasattr(errors, call.func.id):
            yield from (words(argument, known) for argument in call.args)


def words(node: ast.AST, known: dict[str, ast.expr]) -> str:
    """The text of a string, whatever it is put together from."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.Name):
        return words(known[node.id], {}) if node.id in known else ""
    return "".join(words(part, known) for part in ast.iter_child_nodes(node))


def missing(code: str, commands: list[str]) -> set[str]:
    """Options that errors name and one of the commands lacks."""
    named = {option for text in sentences(code) for option in _OPTION.findall(_OTHERS.sub("", text))}
    return {option for option in named for command in commands if option not in options_of(command)}


def test_advice_that_cannot_be_followed_would_be_found() -> None:
    code = """
_LATER = "Name it with --nsys."
raise NoSpace(f"{place} is full.", f"Take --model tiny in {place}, or `nsys export --type=sqlite`. {_LATER}")
"""
    assert missing(code, ["capture"]) == set()
    assert missing(code, ["capture", "doctor"]) == {"--model"}
    assert missing(code, ["scrub"]) == {"--model", "--nsys"}


@pytest.mark.parametrize(
    "file", [path for path in sorted(PACKAGE.rglob("*.py")) if any(map(_OPTION.search, sentences(path.read_text())))],
    ids=lambda path: path.relative_to(PACKAGE).as_posix(),
)  # fmt: skip
def test_an_option_that_an_error_names_is_there(file: Path) -> None:
    place = file.relative_to(PACKAGE).as_posix()
    commands = next(commands for start, commands in RAISED_BY.items() if place.startswith(start))
    assert missing(file.read_text(), commands) == set()
