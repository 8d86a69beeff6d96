"""Spoiled reports, options and names once more, with dsprof as a program: what a user's shell sees."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import mutations
from fuzz import bases, oracles
from fuzz.calls import judge, program
from fuzz.case import Case, Kind, Result


def choose(random: Random) -> dict[str, Any]:
    """A base, a mutation, and a command."""
    return {
        "base": random.choice(bases.SMALL),
        "mutation": random.choice(sorted(mutations.ALL)),
        "command": random.choice(["analyze", "analyze", "table", "scrub"]),
    }


def run(case: Case, folder: Path) -> Result:
    """Run it to its end."""
    result, report = Result(), folder / "run.sqlite"
    result.did = mutations.mutated(case.chosen["mutation"], case.seed, bases.path(case.chosen["base"]), report)
    more = {"analyze": ["--out", folder / "out"], "table": ["stage_sum"], "scrub": ["-o", folder / "clean.sqlite"]}
    ended = judge(program(folder, case.chosen["command"], report, *more[case.chosen["command"]]), result)
    result.peak_bytes = ended.peak_bytes
    if ended.code == 0 and case.chosen["command"] == "analyze":
        for said in oracles.negative(oracles.tables_in(folder / "out")):
            result.found("wrong", said)
    return result


KIND = Kind("programs", 200, choose, run, programs=True)
