"""Reports that a disk, a transfer, a tool or another nsys changed: mutations by bytes and by SQL, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import mutations
from dsprof.tables import all_tables
from fuzz import bases, oracles
from fuzz.calls import Ended, call, judge
from fuzz.case import Case, Kind, Result

FORMATS = ("json", "rich", "markdown")
TABLE_FORMATS = ("csv", "json", "markdown", "rich", "parquet")
ACTIONS = ("analyze",) * 7 + ("table", "scrub")


def choose(named: dict[str, mutations.Mutation]) -> Any:
    """A choice of base, mutation and what is done with the report."""

    def chosen(random: Random) -> dict[str, Any]:
        return {
            "base": random.choice(bases.SMALL),
            "mutation": random.choice(sorted(named)),
            "action": random.choice(ACTIONS),
        }

    return chosen


def run(case: Case, folder: Path) -> Result:
    """Spoil a copy of the base and do something with it."""
    report = folder / "run.sqlite"
    result = Result()
    result.did = mutations.mutated(case.chosen["mutation"], case.seed, bases.path(case.chosen["base"]), report)
    {"analyze": analyze, "table": table, "scrub": scrub}[case.chosen["action"]](case, report, result)
    return result


def analyze(case: Case, report: Path, result: Result) -> None:
    """Analyze it; what the tables say must be what SQL says, or the undamaged file."""
    form = case.random("format").choice(FORMATS)
    ended = judge(call("analyze", report, "--out", report.parent / "out", "--format", form), result)
    if ended.code == 0:
        compare(case, report, oracles.tables_in(report.parent / "out"), result)
        if form == "json":
            unreconciled(ended, result)


def unreconciled(ended: Ended, result: Result) -> None:
    """dsprof itself says that its tables are wrong."""
    for one in json.loads(ended.out)["findings"]:
        if one["code"] == "unreconciled":
            result.found("wrong", one["message"])


def compare(case: Case, report: Path, tables: oracles.Tables, result: Result) -> None:
    """Hold tables against the recount, and against those of the undamaged file where SQLite refuses this one."""
    if set(tables) != set(all_tables()):
        result.found("wrong", f"there are the tables {sorted(tables)}")
        return
    for said in oracles.negative(tables):
        result.found("wrong", said)
    if refused := mutations.refused(report):
        if different := list(oracles.differing(tables, bases.expected(case.chosen["base"]).tables)):
            result.found("wrong", f"not refused, and other tables: {'; '.join(different)}: SQLite: {refused}")
    else:
        for said in oracles.unlike(tables, oracles.recount(report)):
            result.found("wrong", said)


def table(case: Case, report: Path, result: Result) -> None:
    """Print one of its tables."""
    random = case.random("table")
    name, form = random.choice(sorted(all_tables())), random.choice(TABLE_FORMATS)
    ended = judge(call("table", report, name, "--format", form), result)
    if ended.code == 0 and not ended.out:
        result.found("wrong", f"table {name} as {form} is empty")


def scrub(case: Case, report: Path, result: Result) -> None:
    """Clean it: every event is still there."""
    target = report.parent / "clean.sqlite"
    ended = judge(call("scrub", report, "--output", target), result)
    if ended.code == 0:
        if not mutations.refused(report):
            before, after = oracles.recount(report), oracles.recount(target)
            if before != after:
                result.found("wrong", f"{before} before scrub, {after} after")
    elif target.exists():
        result.found("left", f"exit code {ended.code}, and {target.name} is there")


KIND = Kind("bytes", 7200, choose(mutations.BYTES), run)
