"""How an analysis scales: wall and CPU time of `dsprof analyze` on 1, 2, 4, 8, 16 cores, and which part of it does not.

usage: python benchmarks/cores.py REPORT [--cores N ...] [--runs N] [--fast]

Whole processes that may use so many cores (`sched_setaffinity`), taking turns; of each number of cores the run of the
least wall time counts. The steps are those of one more process that does what the command does: `start` until the
modules are there, `look` until it is known where to cut, `parts` until all parts are measured, `tables` until they are
written. A report that is not cut has no parts: all is in `look` and `tables`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from measure import Run, run

STEPS = ("start", "look", "parts", "tables")


class Scaled(NamedTuple):
    """What the command takes on some cores, and in one process the wall seconds of each of `STEPS`."""

    cores: int
    best: Run
    steps: dict[str, float]


def steps_of(report: Path, loops: str, begun: float) -> dict[str, float]:
    """Wall seconds of each of `STEPS` in this process, which began at `begun` (`time.time()`)."""
    from dsprof.analysis.analyze import analyze
    from dsprof.ground.memory import keep_freed

    started, said = time.time(), list[tuple[str, float]]()

    def told(sentence: str) -> None:
        said.append((sentence, time.time()))

    keep_freed()
    with tempfile.TemporaryDirectory(prefix="dsprof-cores-") as folder:
        analysis = analyze(report, compiled=loops == "--fast", reuse=False, remembered=False, progress=told)
        looked = time.time()
        analysis.write(Path(folder, "tables"), told)
        analysis.summary()
    parts = [place for place, (sentence, _) in enumerate(said) if sentence.startswith("working on part")]
    measured = said[parts[-1] + 1][1] if parts else looked  # when the first table is written that has no events
    ends = [started, looked, measured, time.time()]
    return {name: end - begin for name, begin, end in zip(STEPS, [begun, *ends[:-1]], ends, strict=True)}


def on_cores(cores: int, report: Path, loops: str) -> tuple[Run, dict[str, float]]:
    """One run of the command on so many cores, and the steps of another."""
    every = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(every)[:cores])
    try:
        with tempfile.TemporaryDirectory(prefix="dsprof-cores-") as folder:
            command = [sys.executable, "-m", "dsprof", "analyze", str(report), loops, "--out", f"{folder}/tables"]
            took = run(command)
        inner = [sys.executable, __file__, str(report), loops, "--inner", str(time.time())]
        return took, json.loads(subprocess.run(inner, stdout=subprocess.PIPE, text=True, check=True).stdout)
    finally:
        os.sched_setaffinity(0, every)


def scaled(counts: list[int], runs: int, report: Path, loops: str) -> list[Scaled]:
    """The least wall time of each number of cores, and of each of its steps, the runs taking turns."""
    found = [(count, on_cores(count, report, loops)) for _ in range(runs) for count in counts]
    rows = []
    for count in counts:
        mine = [taken for cores, taken in found if cores == count]
        steps = {name: min(each[name] for _, each in mine) for name in STEPS}
        rows.append(Scaled(count, min((took for took, _ in mine), key=lambda took: took.wall_s), steps))
    return rows


def table_of(rows: list[Scaled]) -> str:
    """A line for each number of cores."""
    lines = [f"| cores | wall s | CPU s | times as fast | peak MB | {' | '.join(f'{name} s' for name in STEPS)} |"]
    lines.append("|" + "---:|" * (5 + len(STEPS)))
    for cores, best, steps in rows:
        shares = " | ".join(f"{steps[name]:.2f}" for name in STEPS)
        faster = rows[0].best.wall_s / best.wall_s
        lines.append(f"| {cores} | {best.wall_s:.2f} | {best.cpu_s:.2f} | {faster:.2f} | {best.peak_bytes / 1e6:,.0f} "
                     f"| {shares} |")  # fmt: skip
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Say how dsprof analyze scales with the number of cores.")
    parser.add_argument("report", type=Path, help="an export of nsys")
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="those there are, of these")
    parser.add_argument("--runs", type=int, default=3, help="of each number of cores")
    parser.add_argument("--fast", action=argparse.BooleanOptionalAction, default=False, help="with compiled loops")
    parser.add_argument("--inner", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    loops = "--fast" if options.fast else "--no-fast"
    if options.inner:
        print(json.dumps(steps_of(options.report, loops, options.inner)))
        return
    counts = [count for count in options.cores if count <= len(os.sched_getaffinity(0))]
    print(f"{options.report.name}, {options.report.stat().st_size / 1e6:,.0f} MB\n")
    print(table_of(scaled(counts, options.runs, options.report, loops)))


if __name__ == "__main__":
    main()
