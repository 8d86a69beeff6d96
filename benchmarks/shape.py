"""The shape of the package: rooms, import floors, long functions, and what a table rests on. The code is only read.

usage: python benchmarks/shape.py [--root OTHER/src/dsprof] [--json] [--against BEFORE.json]

An import floor is a step of the longest chain of modules that import each other when they load, where a cycle is one
step; of rooms, the files and folders at the top, likewise. What a table rests on is its own route but for what all
modules stand on: the array library, the ground, words, rules. Imports within functions are late: they count by
themselves, and neither floors nor cycles nor what a module rests on knows them. Of a package that is imported for a
module in it, only that module counts.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections.abc import Iterable, Iterator
from math import ceil
from pathlib import Path
from statistics import median_low
from typing import Any

ROOT = Path(__file__).resolve().parents[1] / "src" / "dsprof"
TABLES = ("step_trace", "stage_kern_sum")
MOST = 6  # parameters
STOOD_ON = ("arrays", "errors", "facts", "findings", "ground", "model", "rules", "words")
Function = ast.FunctionDef | ast.AsyncFunctionDef
Graph = dict[str, set[str]]  # what each module imports


def modules_of(root: Path) -> dict[str, Path]:
    """The package's files by the names of their modules."""
    files = sorted(root.rglob("*.py"))
    names = (".".join([root.name, *file.relative_to(root).with_suffix("").parts]) for file in files)
    return {name.removesuffix(".__init__"): file for name, file in zip(names, files, strict=True)}


def imports_of(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The import statements below a node, without those for types, each with whether it stands in a function."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node, late
    late = late or isinstance(node, Function)
    below: Iterable[ast.AST] = ast.iter_child_nodes(node)
    if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
        below = node.orelse
    for child in below:
        yield from imports_of(child, late)


def names_in(statement: ast.Import | ast.ImportFrom, package: str) -> Iterator[tuple[str, ...]]:
    """What a statement may mean, the narrowest first: `from a import b` is the module a.b, or a name in a."""
    if isinstance(statement, ast.Import):
        yield from ((alias.name,) for alias in statement.names)
        return
    above = package.rsplit(".", statement.level - 1)[0] if statement.level else ""
    source = ".".join(filter(None, [above, statement.module]))
    yield from ((f"{source}.{alias.name}", source) for alias in statement.names)


def graphs(modules: dict[str, Path], trees: dict[str, ast.Module]) -> tuple[Graph, Graph]:
    """Which modules of the package each module imports as it loads, and which later, in functions."""
    loading: Graph = {name: set() for name in modules}
    late: Graph = {name: set() for name in modules}
    for name, tree in trees.items():
        package = name if modules[name].name == "__init__.py" else name.rpartition(".")[0]
        for statement, is_late in imports_of(tree):
            for meant in names_in(statement, package):
                target = next((known for known in meant if known in modules), name)
                if target != name:
                    (late if is_late else loading)[name].add(target)
    return loading, late


def reached(graph: Graph, start: str) -> set[str]:
    """All that a module imports, through any number of others; itself only where it is in a cycle."""
    seen: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += graph[name]
    return seen


def rests_on(graph: Graph, name: str) -> int | None:
    """How many others a module imports, through any number of others; None where it is not there."""
    return len(reached(graph, name) - {name}) if name in graph else None


def own_route(graph: Graph, name: str, root: str) -> int | None:
    """How many of those are of its own route."""
    if name not in graph:
        return None
    return len([one for one in reached(graph, name) - {name} if not one.removeprefix(f"{root}.").startswith(STOOD_ON)])


def rooms_of(graph: Graph) -> Graph:
    """The same of the rooms at the top, which import each other where one of their modules does."""

    def room(module: str) -> str:
        return ".".join(module.split(".")[:2])

    rooms: Graph = {room(name): set() for name in graph}
    for name, targets in graph.items():
        rooms[room(name)] |= {room(target) for target in targets} - {room(name)}
    return rooms


def cycles_of(graph: Graph) -> list[list[str]]:
    """The groups of modules in which each imports each other, through any number of them."""
    below = {name: reached(graph, name) for name in graph}
    groups = {tuple(sorted(other for other in below[name] if name in below[other])) for name in graph}
    return sorted(list(group) for group in groups if group)


def longest_chain(graph: Graph) -> list[str]:
    """The longest chain of modules that import each other, from the top; one module stands for each cycle."""
    leader = {name: name for name in graph} | {name: group[0] for group in cycles_of(graph) for name in group}
    condensed: Graph = {name: set() for name in leader.values()}
    for name, targets in graph.items():
        condensed[leader[name]] |= {leader[target] for target in targets} - {leader[name]}
    chains: dict[str, list[str]] = {}

    def chain(name: str) -> list[str]:
        if name not in chains:
            chains[name] = [name, *max(map(chain, sorted(condensed[name])), key=len, default=[])]
        return chains[name]

    return max(map(chain, sorted(condensed)), key=len, default=[])


def functions_of(module: str, tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """The name of each function, its lines without decorators, and its parameters without `self` and `cls`."""
    for node in ast.walk(tree):
        if isinstance(node, Function):
            takes = [each.arg for each in ast.iter_child_nodes(node.args) if isinstance(each, ast.arg)]
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{module}.{node.name}", lines, len([name for name in takes if name not in {"self", "cls"}])


def figures_of_functions(trees: dict[str, ast.Module]) -> dict[str, Any]:
    """How long functions are, and how much they ask for."""
    functions = [each for name, tree in trees.items() for each in functions_of(name, tree)]
    lengths = sorted(lines for _, lines, _ in functions) or [0]
    many = sorted((-count, name) for name, _, count in functions if count > MOST)
    return {
        "lines of a function, median": median_low(lengths),
        "lines of a function, p90": lengths[ceil(0.9 * len(lengths)) - 1],
        f"functions of more than {MOST} parameters": len(many),
        "most parameters": [f"{name} ({-count})" for count, name in many[:3]],
    }


def measure(root: Path) -> dict[str, Any]:
    """All figures of the package in a folder, by what they say."""
    modules = modules_of(root)
    texts = {name: file.read_text(encoding="utf-8") for name, file in modules.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    loading, late = graphs(modules, trees)
    chain, cycles = longest_chain(loading), cycles_of(loading)
    at_top = sum(file.parent == root for file in modules.values())
    return {
        "modules at the top": at_top,
        "modules in packages": len(modules) - at_top,
        "rooms at the top": len({file.relative_to(root).parts[0] for file in modules.values()}),
        "import floors": len(chain),
        "import floors of rooms": len(longest_chain(rooms_of(loading))),
        "late imports": sum(map(len, late.values())),
        "cycles": len(cycles),
        **{f"{table} rests on": rests_on(loading, f"{root.name}.tables.{table}") for table in TABLES},
        **{f"{table}, own route": own_route(loading, f"{root.name}.tables.{table}", root.name) for table in TABLES},
        **figures_of_functions(trees),
        "lines": sum(len(text.splitlines()) for text in texts.values()),
        "longest chain": chain,
        "modules in cycles": [" <-> ".join(cycle) for cycle in cycles],
    }


def lines_of(now: dict[str, Any], before: dict[str, Any] | None) -> Iterator[str]:
    """The figures as a table, beside those of before, then what stands behind them now."""
    columns = {"now": now} if before is None else {"before": before, "now": now}
    names = [name for name in {**(before or {}), **now} if not isinstance(now.get(name, 0), list)]
    width = max(map(len, names))
    yield " " * width + "".join(f"{title:>9}" for title in columns)
    for name in names:
        yield f"{name:{width}}" + "".join(
            f"{column.get(name) if column.get(name) is not None else '-':>9}" for column in columns.values()
        )
    for name, value in now.items():
        if isinstance(value, list) and value:
            yield f"\n{name}:\n  " + "\n  ".join(value)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="folder of the package")
    parser.add_argument("--json", action="store_true", help="print JSON, which --against reads")
    parser.add_argument("--against", type=Path, help="JSON of before, to stand beside")
    options = parser.parse_args()
    figures = measure(options.root.resolve())
    before = json.loads(options.against.read_text(encoding="utf-8")) if options.against else None
    print(json.dumps(figures, indent=2) if options.json else "\n".join(lines_of(figures, before)))


if __name__ == "__main__":
    main()
