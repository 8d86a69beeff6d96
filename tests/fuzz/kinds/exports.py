"""The same report, exported by nsys or packed, is opened by several programs at once."""

from __future__ import annotations

import lzma
import time
from pathlib import Path
from random import Random
from typing import Any

from fuzz import bases
from fuzz.calls import Program, judge
from fuzz.case import Case, Kind, Result
from fuzz.kinds.kills import nsys_report
from fuzz.shown import check_rest, check_shown, check_tables


def choose(random: Random) -> dict[str, Any]:
    """How it is packed, by how many it is opened, and when they begin."""
    return {
        "base": random.choice(("h200-two-processes", "h200-graph-node", "made")),
        "packed": random.choice([True, False, False]),
        "later_s": [round(random.uniform(0, 0.4), 3) for _ in range(random.choice([1, 1, 2]))],
        "one folder": random.random() < 0.5,
    }


def run(case: Case, folder: Path) -> Result:
    """Each shows the report, and writes it to its folder."""
    base, result = case.chosen["base"], Result()
    if case.chosen["packed"]:
        report = folder / "run.sqlite.xz"
        report.write_bytes(lzma.compress(bases.path(base).read_bytes(), preset=0))
    else:
        report = nsys_report(base, folder)
    places = [folder / ("out" if case.chosen["one folder"] else f"out{number}") for number in range(3)]
    begun = []
    for wait, place in zip([0, *case.chosen["later_s"]], places, strict=False):
        time.sleep(wait)
        given = ["analyze", str(report), "--out", str(place), "--format", "json", "--nsys", str(folder / "nsys")]
        begun.append((place, Program(folder, given)))
    usual = {"usual": bases.expected(base)}
    for place, one in begun:
        ended = judge(one.wait(), result)
        if ended.code:
            result.found("left", f"one of several ended with {ended.code}: {ended.err[-200:]}")
        check_shown(ended, usual, result, "one of several")
        check_tables(place, usual, result, "one of several")
    check_rest(folder, result, "after all")
    return result


KIND = Kind("exports", 80, choose, run, programs=True)
