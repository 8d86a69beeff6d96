"""A report is rewritten while it is read."""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fuzz import bases
from fuzz.calls import Program, judge
from fuzz.case import Case, Kind, Result
from fuzz.kinds.pairs import arguments, check_again, disturbed
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
    report, result = bases.copy(case.chosen["base"], folder / "run.sqlite"), Result()
    other = bases.path(case.chosen["other"])
    candidates = {name: bases.expected(case.chosen[name]) for name in ("base", "other")}
    ended = judge(_read(case, report, other), result)
    found = check_shown(ended, candidates, result, "while it was rewritten")
    if (folder / "out").exists():
        tables = check_tables(folder / "out", candidates, result, "while it was rewritten")
        if found and tables and found != tables:
            result.found("mixed", f"the summary is of {found}, the tables of {tables}")
        check_rest(folder / "out", result, "after it was rewritten")
    time.sleep(0.1)  # until a slow writer is done
    report.write_bytes(other.read_bytes()) if not _is(report, other) else None
    check_again(report, "usual", {"usual": candidates["other"]}, result)
    return result


def _is(report: Path, other: Path) -> bool:
    return report.read_bytes() == other.read_bytes()


def _read(case: Case, report: Path, other: Path) -> Any:
    told = {"manner": case.chosen["manner"], "report": str(report), "other": str(other)}
    if case.chosen["at"] is not None:
        return disturbed(report.parent, arguments(report, "usual"), at=case.chosen["at"], what="rewrite", **told).wait()
    begun = Program(report.parent, arguments(report, "usual"))
    time.sleep(case.chosen["after"] * usual_s(case.chosen["base"]))
    REWRITES[case.chosen["manner"]](report, other)
    return begun.wait()


@cache
def usual_s(base: str) -> float:
    """How long an undisturbed analysis of a report takes here."""
    folder = bases.path(base).parent / f"{base}.{id(base)}.timed"
    folder.mkdir(exist_ok=True)
    begin = time.monotonic()
    ended = Program(
        folder, ["analyze", str(bases.path(base)), "--again", "--out", str(folder / "out"), "--format", "json"]
    ).wait()
    assert ended.code == 0, ended
    assert json.loads(ended.out)
    return time.monotonic() - begin


KIND = Kind("rewrites", 200, choose, run, programs=True)
