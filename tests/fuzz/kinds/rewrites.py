"""A report is rewritten while it is read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from random import Random
from typing import Any

from fuzz import bases
from fuzz.calls import Ended, Program, judge
from fuzz.case import Case, Kind, Result
from fuzz.kinds.pairs import analysis_of, arguments, check_again
from fuzz.moments import disturbed, until_disturbed, usual
from fuzz.shown import check_rest, check_shown, check_tables
from fuzz.started import REWRITES

#: Reports whose file is read for some time, and what they become.
PAIRS = (("h200-batch", "h200-layers"), ("h200-layers", "h200-batch"), ("h200-two-processes", "h200-graph-node"))


def choose(random: Random) -> dict[str, Any]:
    """Which report becomes which, how, and when."""
    one, other = random.choice(PAIRS)
    return {
        "base": one,
        "other": other,
        "manner": random.choice(sorted(REWRITES)),
        "at": random.randrange(40) if random.random() < 0.5 else None,
        "after": round(random.uniform(0.3, 1.0), 3),
    }


def run(case: Case, folder: Path) -> Result:
    """What is shown is of the one or of the other; then it is refused, or the next run shows the new one."""
    return until_disturbed(case, folder, lambda place, at, result: _attempt(case, place, at, result))


def _attempt(case: Case, folder: Path, at: int | None, result: Result) -> None:
    report, other = bases.copy(case.chosen["base"], folder / "run.sqlite"), bases.path(case.chosen["other"])
    candidates = {name: bases.expected(case.chosen[name]) for name in ("base", "other")}
    ended = judge(_read(case, report, at, result), result)
    found = check_shown(ended, candidates, result, "while it was rewritten")
    if (folder / "out").exists():
        said, whole = "while it was rewritten", ended.code == 0
        tables = check_tables(folder / "out", candidates, result, said, whole=whole)
        if found and tables and found != tables:
            result.found("mixed", f"the summary is of {found}, the tables of {tables}")
        check_rest(folder / "out", result, "after it was rewritten")
    time.sleep(0.1)  # until a slow writer is done
    report.write_bytes(other.read_bytes()) if not _is(report, other) else None
    check_again(report, "usual", {"usual": candidates["other"]}, result)


def _is(report: Path, other: Path) -> bool:
    return report.read_bytes() == other.read_bytes()


def _read(case: Case, report: Path, at: int | None, result: Result) -> Ended:
    base, folder, other = case.chosen["base"], report.parent, bases.path(case.chosen["other"])
    undisturbed = usual(f"{base}.analyze", folder, lambda own: analysis_of(base, own))
    if at is not None:
        told = {"manner": case.chosen["manner"], "report": str(report), "other": str(other)}
        given = arguments(report, "usual")
        ended = disturbed(folder, given, at=at % undisturbed.events, what="rewrite", **told).wait()
        result.disturbed = bool(json.loads((folder / "note").read_text())["reached"])
        return ended
    begun = Program(folder, arguments(report, "usual"))
    time.sleep(case.chosen["after"] * undisturbed.seconds)
    result.disturbed = begun.runs
    REWRITES[case.chosen["manner"]](report, other)
    return begun.wait()


KIND = Kind("rewrites", 200, choose, run, programs=True)
