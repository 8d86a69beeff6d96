"""What a start takes: from the start of Python to the first byte that a command prints, and to its end.

usage: python benchmarks/start.py [REPORT] [--turns N] [--before COMMIT]

Whole processes of this checkout, with compiled modules as an installation has them, on a small report in the page
cache; `--before`: also those of an earlier commit, with the same packages. All take turns, and of each figure the least
counts: a start is short, and whatever else the machine does makes it longer and never shorter.
"""

from __future__ import annotations

import argparse
import lzma
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from measure import as_installed, sources_of

_ROOT = Path(__file__).resolve().parents[1]
_SAMPLE = _ROOT / "traces" / "samples" / "h100-flash.sqlite.xz"


class Took(NamedTuple):
    """Seconds that a process took."""

    first_byte: float
    wall: float
    cpu: float


def run(command: Sequence[str], environment: Mapping[str, str]) -> Took:
    """One process, which must end well."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        process.stdout.read(1)
        first = time.perf_counter() - begin
        process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Took(first, wall, usage.ru_utime + usage.ru_stime)


def commands(report: Path, folder: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """What is started, each with its variables; those of dsprof begin with its name."""
    python, dsprof, analyze = [sys.executable, "-c"], [sys.executable, "-m", "dsprof"], ["analyze", str(report)]
    script = "import sys; sys.argv[0] = 'dsprof'; import runpy; runpy.run_module('dsprof', run_name='__main__')"
    asked = {"_DSPROF_COMPLETE": "complete_bash", "COMP_WORDS": "dsprof\ntable\nrun.sqlite\nkern_t", "COMP_CWORD": "3"}
    return {
        "python": ([*python, "print()"], {}),
        "python, numpy and Arrow": ([*python, "import numpy, pyarrow; print()"], {"OPENBLAS_NUM_THREADS": "1"}),
        "dsprof --version": ([*dsprof, "--version"], {}),
        "dsprof --help": ([*dsprof, "--help"], {}),
        "dsprof at a tab": ([*python, script], asked),
        "dsprof analyze": ([*dsprof, *analyze, "--again", "--out", str(folder)], {}),
        "dsprof analyze, again": ([*dsprof, *analyze, "--out", str(folder)], {}),
    }


def measured(report: Path, sources: Mapping[str, Path], turns: int) -> dict[tuple[str, str], Took]:
    """The least that each command took, by its name and that of the sources; the first turn compiles."""
    found: dict[tuple[str, str], Took] = {}
    with tempfile.TemporaryDirectory(prefix="dsprof-start-") as folder:
        for turn in range(turns + 1):
            for name, source in sources.items():
                for what, (command, more) in commands(report, Path(folder, name)).items():
                    path = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH", "")]))
                    took = run(command, {**as_installed(), **more, "PYTHONPATH": path})
                    if turn:
                        least = found.get((what, name), took)
                        found[what, name] = Took(*map(min, took, least))
    return found


def table(found: Mapping[tuple[str, str], Took]) -> str:
    """A line per command and sources, with what it takes in parts of what it took before."""
    head = ["", "first byte s", "end s", "CPU s", "/ before: first byte", "/ before: CPU"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for (what, name), took in sorted(found.items(), key=lambda item: list(found).index((item[0][0], "now"))):
        before = found.get((what, "before"), took)
        ratios = [took.first_byte / before.first_byte, took.cpu / before.cpu] if before is not took else []
        ours = what.startswith("dsprof")
        cells = [f"{what}{', before' * (name != 'now')}", *(f"{seconds:.3f}" for seconds in took)]
        cells += [f"{ratio:.2f}" for ratio in ratios] if ours and ratios else ["", ""]
        if ours or name == "now":
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Say what a start of dsprof takes.")
    parser.add_argument("report", type=Path, nargs="?", default=_SAMPLE, help="a small report; a sample otherwise")
    parser.add_argument("--turns", type=int, default=10, help="how often each is started")
    parser.add_argument("--before", metavar="COMMIT", help="a commit of this checkout, or another one's folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="dsprof-start-") as folder:
        sources, report = {"now": _ROOT / "src"}, options.report
        if report.suffix == ".xz":  # to unpack it is another matter
            report = Path(folder, report.stem)
            report.write_bytes(lzma.decompress(options.report.read_bytes()))
        if options.before:
            sources["before"] = sources_of(options.before, Path(folder, "before"))
        print(f"{report.name}, {report.stat().st_size / 1e6:,.1f} MB; the least of {options.turns} turns\n")
        print(table(measured(report, sources, options.turns)))


if __name__ == "__main__":
    main()
