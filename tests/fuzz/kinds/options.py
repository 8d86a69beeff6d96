"""Options with values that nobody meant, of every command that reads a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from dsprof.tables import all_tables
from fuzz import bases, hostile
from fuzz.calls import call, judge
from fuzz.case import Case, Kind, Result

PATTERNS = (
    "prefill", "^decode$", "", ".*", "(", "[", "[[a]]", "(?P<x>a)(?P<x>b)", "(a+)+$", "(a|a)*b", "\\",
    "a{99999999999}", "\\1", "(?i",
    "(?i)PREFILL", "^", "$", "\\b", "x" * 20_000, "(" * 3_000 + ")" * 3_000, "a|" * 10_000, "[" * 500, "(?s:.)*" * 50,
    "\u0661",
    "(?=.*a)(?=.*b)", "prefill=decode", "=", "nosuch", "[[:alpha:]]", "a**", "*", "+", "?", "\\d+(?#", "(.*)*x",
    "(\\w+\\s?)*$",
)  # fmt: skip
SIZES = (
    "2GB", "1", "0", "-1", "1e3", "1e999", "400MB", "200MB", "100KB", "9" * 400, "9" * 20 + "TB", "0.0000001K", "GB",
    "", " 1 GB ",
    "1 EB", "nan", "inf", "\u0661GB", "1_000MB", "0x10", "500M", "1.5 GiB", "50%", "2GBGB",
)  # fmt: skip
NUMBERS = (
    "0",
    "1",
    "5",
    "-1",
    "1000000",
    "9" * 30,
    "9" * 5_000,
    "1.5",
    "x",
    "",
    "\u0661",
    "1e3",
    "0x1",
    " 3",
    "+3",
    "1_0",
)
WORDS = ("", "json", "JSON", "jsn", "csv", "thread", "process", "x", "\x1b[2J", "[/x]", "parquet", "rich", "-", "None")
CONDITIONS = (
    "stage == 'decode'", "instances > 1", "kernel.str.contains('a')", "kernel", "stage = 3", "", "@x == 1",
    "nosuch > 1",
    "total_ns / 0 > 1", "(" * 3_000 + "stage", "stage == '\x1b[2J'", "stage ==\n'decode'", "~stage", "stage & stage",
    "total_ns > '1'", "`stage` == 'x'", "\udcff stage",
)  # fmt: skip


def _paths(random: Random) -> str:
    return random.choice(["out", "a/b/c", ".", "..", "/proc/self", "/dev/null", "/dev/stdin", "run.sqlite",
    "run.sqlite/x",
                          "", " ", "~", "x" * 300, "x/" * 2_000, "\udcff", "-", "--", "/proc/nowhere/x", "new\nline",
                          "fifo", "/dev/zero", "loop", "noread", "*"])  # fmt: skip


def _tables(random: Random) -> str:
    names = [*all_tables(), "", "x", "kern_sum ", "KERN_SUM", "../kern_sum", "[/x]"]
    return ",".join(random.choice(names) for _ in range(random.choice([1, 1, 2, 5])))


def _of(values: tuple[str, ...]) -> Callable[[Random], str]:
    return lambda random: random.choice(values)


def _stage(random: Random) -> str:
    named = (
        hostile.any_text(random) if random.random() < 0.3 else random.choice(["x", "prefill", "(no stage)", "", "a b"])
    )
    return f"{named}{random.choice(['=', '=', '=', ''])}{random.choice(PATTERNS)}".replace("\0", "")


SHARED: dict[str, Callable[[Random], str]] = {
    "--stage": _stage, "--step": _of(PATTERNS), "--threads": _of(WORDS), "--families": _paths, "--model-config": _paths,
    "--memory": _of(SIZES), "--format": _of(WORDS), "--nsys": _paths,
}  # fmt: skip
#: By command: its options with a value, and those without.
COMMANDS: dict[str, tuple[dict[str, Callable[[Random], str]], tuple[str, ...]]] = {
    "analyze": ({**SHARED, "--top": _of(NUMBERS), "--out": _paths, "--tables": _tables},
                ("--strict", "--again", "--fast", "--no-fast", "--nosuch", "-h")),
    "table": ({**SHARED, "--limit": _of(NUMBERS), "--sort": _of(WORDS), "--columns": _tables,
               "--where": _of(CONDITIONS)}, ("--fast", "--no-fast", "--strict", "--help")),
    "scrub": ({"--output": _paths}, ("--force", "-o")),
}  # fmt: skip


def choose(random: Random) -> dict[str, Any]:
    """A command, some of its options, and a report."""
    command = random.choice(["analyze"] * 5 + ["table"] * 4 + ["scrub"])
    report = "run.sqlite" if random.random() < 0.9 else _paths(random)
    arguments = [command, *_options(random, command), "--", report]
    if command == "table":
        arguments.append(random.choice([*all_tables(), "", "x"]))
    return {"arguments": arguments}


def _options(random: Random, command: str) -> Iterator[str]:
    valued, bare = COMMANDS[command]
    for _ in range(random.choice([1, 1, 2, 3])):
        option = random.choice([*sorted(valued) * 3, *bare])
        yield option
        if option in valued:
            yield valued[option](random)


def run(case: Case, folder: Path) -> Result:
    """Call it in a folder with a report."""
    result = Result(did=f"{case.chosen['arguments']!a:.500}")
    bases.copy("made", folder / "run.sqlite")
    _surround(folder)
    ended = judge(call(*case.chosen["arguments"]), result)
    if ended.code == 0 and not ended.out:
        result.found("wrong", "exit code 0, and nothing is said")
    return result


def _surround(folder: Path) -> None:
    """Things that a path may meet: a FIFO, a link to itself, a file that nobody may read."""
    os.mkfifo(folder / "fifo")
    (folder / "loop").symlink_to("loop")
    (folder / "noread").write_text("x")
    (folder / "noread").chmod(0)


KIND = Kind("options", 1500, choose, run)
