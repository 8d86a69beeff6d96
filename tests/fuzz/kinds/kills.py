"""dsprof is killed: at one of its dealings with files, or at any moment."""

from __future__ import annotations

import lzma
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import mutations
from fuzz import bases, oracles
from fuzz.calls import Ended, Program, call, judge
from fuzz.case import Case, Kind, Result
from fuzz.kinds.pairs import arguments, check_again
from fuzz.moments import Usual, disturbed, until_disturbed, usual
from fuzz.shown import check_rest, check_tables

#: What is done when it is killed.
TASKS = ("analyze", "over", "over", "again", "packed", "exported", "table", "scrub", "chosen")
_NSYS = """#!{python}
import shutil, sys, time
if sys.argv[1] == "export":
    target = next(word.partition("=")[2] for word in sys.argv if word.startswith("--output="))
    with open({export!r}, "rb") as source, open(target, "wb") as file:
        while block := source.read(1 << 16):
            file.write(block)
            time.sleep(0.003)
else:
    print("NVIDIA Nsight Systems version 2030.1.1.1-0")
"""


def choose(random: Random) -> dict[str, Any]:
    """What it does, under which rules, and when it is killed."""
    one, other = random.sample(sorted(bases.RULES), 2)
    return {
        "base": random.choice(("h200-two-processes", "h200-graph-node")),
        "task": random.choice(TASKS),
        "rules": [one, other],
        "at": random.randrange(75) if random.random() < 0.6 else None,
        "after": round(random.uniform(0.2, 0.98), 3),
        "times": random.choice([1, 1, 2, 3]),
    }


def run(case: Case, folder: Path) -> Result:
    """Kill it, once or more often, and look at what is there; then the next run must do."""
    return until_disturbed(case, folder, lambda place, at, result: _attempt(case, place, at, result))


def _attempt(case: Case, folder: Path, at: int | None, result: Result) -> None:
    random, task, base = case.random("again"), case.chosen["task"], case.chosen["base"]
    undisturbed = usual(f"{base}.{task}", folder, lambda own: prepare(case, own)[0])
    given, before = prepare(case, folder)
    for number in range(case.chosen["times"]):
        ended = _killed(case, folder, given, random.randrange(75) if number else at, undisturbed)
        if ended.code != -9 or ended.late:
            judge(ended, result)
        else:
            result.disturbed = True
    result.code = 0
    if task == "scrub":
        check_target(folder, result)
    else:
        check_results(case, folder, before, result)


def prepare(case: Case, folder: Path) -> tuple[list[str], list[str]]:
    """The command, and under which rules there are results already."""
    one, other = case.chosen["rules"]
    base, task, report = case.chosen["base"], case.chosen["task"], folder / "run.sqlite"
    if task == "packed":
        report = folder / "run.sqlite.xz"
        report.write_bytes(lzma.compress(bases.path(base).read_bytes(), preset=0))
    elif task == "exported":
        report = nsys_report(base, folder)
        return [*arguments(report, one), "--nsys", str(folder / "nsys")], []
    else:
        bases.copy(base, report)
    if task in ("over", "again", "chosen"):
        before = other if task == "over" else one
        assert call(*arguments(report, before)).code == 0
        more = {"over": [], "again": ["--again"], "chosen": ["--tables", "kern_sum,stage_sum"]}[task]
        return arguments(report, one, *more), [before]
    if task == "table":
        return ["table", str(report), "kern_trace", "--format", "parquet"], []
    if task == "scrub":
        return ["scrub", str(report), "--output", str(folder / "clean.sqlite")], []
    return arguments(report, one), []


def nsys_report(base: str, folder: Path) -> Path:
    """A report that only an nsys can read, and one that writes the base for it, in no hurry."""
    (folder / "nsys").write_text(_NSYS.format(python=sys.executable, export=str(bases.path(base))))
    (folder / "nsys").chmod(0o755)
    report = folder / "run.nsys-rep"
    report.write_bytes(b"NVIDIA Tegra Profiler Report 2030\n" + base.encode())
    return report


def _killed(case: Case, folder: Path, given: list[str], at: int | None, undisturbed: Usual) -> Ended:
    if at is not None:
        return disturbed(folder, given, at=at % undisturbed.events, what="kill").wait()
    begun = Program(folder, given)
    time.sleep(case.chosen["after"] * undisturbed.seconds)
    begun.kill()
    return begun.wait()


def check_results(case: Case, folder: Path, before: list[str], result: Result) -> None:
    """The tables that are there are of one analysis; the next one is as if nothing had been."""
    one, other = case.chosen["rules"]
    base, task = case.chosen["base"], case.chosen["task"]
    candidates = {rules: bases.expected(base, rules) for rules in bases.RULES}
    check_tables(folder / "out", {rules: candidates[rules] for rules in {one, *before}}, result, "after the kill",
                 whole=False)  # fmt: skip
    report = next(path for path in sorted(folder.glob("run.*")) if path.is_file())
    report = {"packed": folder / "run.sqlite.xz", "exported": folder / "run.nsys-rep"}.get(task, report)
    next_rules = case.random("next").choice([one, other])
    if task == "exported":
        (folder / "home" / "nsys").unlink(missing_ok=True)
        import os

        os.environ["DSPROF_NSYS"] = str(folder / "nsys")
    check_again(report, next_rules, candidates, result)
    check_rest(folder, result, "after the next run")


def check_target(folder: Path, result: Result) -> None:
    """The clean copy is whole or not there; it can be made again."""
    target, report = folder / "clean.sqlite", folder / "run.sqlite"
    if target.exists() and (mutations.refused(target) or oracles.recount(target) != oracles.recount(report)):
        result.found("left", f"{target.name} is not whole")
    ended = judge(call("scrub", report, "--output", target, "--force"), result)
    if ended.code or oracles.recount(target) != oracles.recount(report):
        result.found("left", f"scrub ended with {ended.code}: {ended.err[-200:]}")
    check_rest(folder, result, "after the next run")


KIND = Kind("kills", 200, choose, run, programs=True)
