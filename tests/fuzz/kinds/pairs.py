"""Two analyses of a report into one folder, at once and under other rules."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from fuzz import bases
from fuzz.calls import Ended, Program, call, judge
from fuzz.case import Case, Kind, Result
from fuzz.moments import disturbed, until_disturbed, usual
from fuzz.shown import check_rest, check_shown, check_tables


def choose(random: Random) -> dict[str, Any]:
    """Two rules, and when the second begins: at an event of the first, or by time."""
    one, other = random.sample(sorted(bases.RULES), 2)
    return {
        "base": random.choice(("h200-two-processes", "h200-graphs-node", "made")),
        "rules": [one, other],
        "at": random.randrange(70) if random.random() < 0.5 else None,
        "later_s": round(random.uniform(0, 0.3), 3),
        "again": random.choice(sorted(bases.RULES)),
    }


def arguments(report: Path, rules: str, *more: str) -> list[str]:
    """Of an analysis under some rules, into the folder ``out`` beside the report."""
    return ["analyze", str(report), "--out", str(report.parent / "out"), "--format", "json", *bases.RULES[rules], *more]


def run(case: Case, folder: Path) -> Result:
    """Both end, each says what is its own, and the folder holds the results of one."""
    return until_disturbed(case, folder, lambda place, at, result: _attempt(case, place, at, result))


def _attempt(case: Case, folder: Path, at: int | None, result: Result) -> None:
    one, other = case.chosen["rules"]
    candidates = {rules: bases.expected(case.chosen["base"], rules) for rules in {one, other, case.chosen["again"]}}
    report = bases.copy(case.chosen["base"], folder / "run.sqlite")
    ends = _by_time(case, report, result) if at is None else _at_an_event(case, report, at, result)
    for rules, ended in zip((one, other), ends, strict=True):
        judge(ended, result)
        if ended.code:
            result.found("left", f"the analysis with the rules '{rules}' ended with {ended.code}: {ended.err[-200:]}")
        check_shown(ended, {rules: candidates[rules]}, result, f"the analysis with '{rules}'")
    pair = {rules: candidates[rules] for rules in (one, other)}
    check_tables(folder / "out", pair, result, "after both")
    check_rest(folder / "out", result, "after both")
    check_again(report, case.chosen["again"], candidates, result)


def check_again(report: Path, rules: str, candidates: Mapping[str, Any], result: Result) -> None:
    """A later run shows its own, and leaves the tables of it."""
    ended = judge(call(*arguments(report, rules)), result)
    if ended.code:
        result.found("left", f"the next run ended with {ended.code}: {ended.err[-200:]}")
    check_shown(ended, {rules: candidates[rules]}, result, "the next run")
    check_tables(report.parent / "out", {rules: candidates[rules]}, result, "after the next run")


def analysis_of(base: str, folder: Path) -> list[str]:
    """An analysis of a report, ready in a folder."""
    return arguments(bases.copy(base, folder / "run.sqlite"), "usual")


def _by_time(case: Case, report: Path, result: Result) -> list[Ended]:
    one, other = case.chosen["rules"]
    first = Program(report.parent, arguments(report, one))
    time.sleep(case.chosen["later_s"])
    result.disturbed = first.runs
    second = Program(report.parent, arguments(report, other))
    return [first.wait(), second.wait()]


def _at_an_event(case: Case, report: Path, at: int, result: Result) -> list[Ended]:
    """The second runs while the first waits at one of its events."""
    one, other = case.chosen["rules"]
    base, folder = case.chosen["base"], report.parent
    events = usual(f"{base}.analyze", folder, lambda own: analysis_of(base, own)).events
    output, code = folder / "other.out", folder / "other.code"
    program = ("import json, subprocess, sys; done = subprocess.run([sys.executable, '-m', 'dsprof', *sys.argv[2:]], "
               "capture_output=True, text=True); "
               "open(sys.argv[1], 'w').write(json.dumps([done.returncode, done.stdout, done.stderr]))")  # fmt: skip
    command = ["-c", program, str(code), *arguments(report, other)]
    first = disturbed(folder, arguments(report, one), at=at % events, what="run", command=command,
                      output=str(output)).wait()  # fmt: skip
    result.disturbed = bool(json.loads((folder / "note").read_text())["reached"])
    if not result.disturbed:
        return [first, Program(folder, arguments(report, other)).wait()]
    deadline = time.monotonic() + 30
    while not (code.exists() and code.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.02)
    number, out, err = json.loads(code.read_text())
    return [first, Ended(number, out.encode(), err)]


KIND = Kind("pairs", 200, choose, run, programs=True)
