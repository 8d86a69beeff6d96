"""From a .nsys-rep to the screen: by several nsys side by side, and by one export to SQLite; and are the tables equal?

usage: python benchmarks/routes.py REPORT.nsys-rep ... [--nsys PATH] [--cores 2 16] [--runs 3] [--out ROUTES.md]

For reports with CUDA events, so with the nsys that recorded them, where a GPU is. Whole processes, taking turns, each
on so many cores and with a cache of its own. Memory is that of all processes together (proportional set size), looked
at every 50 ms. Ends with 1 where a table of one route is not that of the other, value by value.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import equality
import machine
from measure import run
from reports import kernels_in, say

from dsprof.nsys.command import find_nsys


class Taken(NamedTuple):
    """What a route took: seconds from its begin to its end, of all cores, and bytes of all its processes at once."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


class Routes:
    """The commands for a report, each in a folder of its own."""

    def __init__(self, report: Path, nsys: Path) -> None:
        self.report, self.nsys = report, nsys

    def export(self, folder: Path) -> list[list[str]]:
        """The export to SQLite alone, as nsys does it."""
        return [[str(self.nsys), "export", "--type=sqlite", "--quiet=true", f"--output={folder / 'run.sqlite'}",
                 str(self.report)]]  # fmt: skip

    def one(self, folder: Path) -> list[list[str]]:
        """The same, and an analysis of it."""
        return [*self.export(folder), self._analyze(folder / "run.sqlite", folder)]

    def several(self, folder: Path) -> list[list[str]]:
        """An analysis of the report."""
        return [self._analyze(self.report, folder)]

    def _analyze(self, path: Path, folder: Path) -> list[str]:
        words = ["analyze", str(path), "--nsys", str(self.nsys), "--out", str(folder / "tables")]
        return [sys.executable, "-m", "dsprof", *words]


#: The routes in the order of the table.
ROUTES: dict[str, Callable[[Routes, Path], list[list[str]]]] = {
    "`nsys export` to SQLite alone": Routes.export,
    "that, then `dsprof analyze` of it": Routes.one,
    "`dsprof analyze` of the report": Routes.several,
}


def take(commands: list[list[str]], cores: int, folder: Path) -> Taken:
    """Run commands after one another on so many cores."""
    affinity = os.sched_getaffinity(0)
    os.environ["DSPROF_CACHE"] = str(folder / "cache")
    peaks, ended = [0], threading.Event()
    watching = threading.Thread(target=_watch, args=(peaks, ended))
    watching.start()
    try:
        os.sched_setaffinity(0, sorted(affinity)[:cores])
        done = [run(command) for command in commands]
    finally:
        os.sched_setaffinity(0, affinity)
        ended.set()
        watching.join()
    return Taken(sum(one.wall_s for one in done), sum(one.cpu_s for one in done), max(peaks))


def _watch(peaks: list[int], ended: threading.Event) -> None:
    while not ended.wait(0.05):
        peaks.append(sum(map(_memory, _descendants(os.getpid()))))


def _descendants(parent: int) -> list[int]:
    try:
        tasks = Path(f"/proc/{parent}/task").glob("*/children")
        children = [int(number) for task in tasks for number in task.read_text().split()]
    except OSError:
        return []
    return [*children, *(one for child in children for one in _descendants(child))]


def _memory(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def measure(report: Path, nsys: Path, cores: list[int], runs: int, work: Path) -> tuple[list[str], bool]:
    """The rows of the table of a report, and whether its tables are equal."""
    rows, equal = [], True
    alone = Path(shutil.copyfile(report, work / report.name))  # nothing beside it, which only one route would find
    routes = Routes(alone, nsys)
    for count in cores:
        taken: dict[str, list[Taken]] = {name: [] for name in ROUTES}
        for turn in range(runs):
            folders = {}
            for name, route in ROUTES.items():
                folders[name] = folder = work / f"{count}-{turn}-{len(folders)}"
                folder.mkdir()
                say(f"{report.name}, {count} cores, run {turn + 1}: {name}")
                taken[name].append(take(route(routes, folder), count, folder))
            _, one, several = folders.values()
            kernels = kernels_in(one / "run.sqlite")
            compared = equality.tables(one / "tables", several / "tables")
            different = [f"{table.what}: {fault}" for table in compared for fault in table.faults]
            equal = equal and not different
            for words in different:
                say(f"NOT EQUAL: {words}")
            for folder in folders.values():
                shutil.rmtree(folder)
        least = statistics.median(one.wall_s for one in taken[next(iter(ROUTES))])
        for name, some in taken.items():
            wall, cpu, peak = (statistics.median(column) for column in zip(*some, strict=True))
            cells = [f"{kernels:,} kernels, {report.stat().st_size / 1e6:.0f} MB", str(count), name, f"{wall:.2f}",
                     f"{cpu:.2f}", f"{peak / 1e6:.0f}", f"{wall / least:.2f}"]  # fmt: skip
            rows.append(f"| {' | '.join(cells)} |")
    return rows, equal


def main() -> int:
    """Measure, and print or write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--nsys", help="the nsys to use")
    parser.add_argument("--cores", nargs="+", type=int, default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where the table goes as well")
    options = parser.parse_args()
    nsys = find_nsys(options.nsys)
    about: dict[str, Any] = machine.describe(nsys)
    with tempfile.TemporaryDirectory(prefix="dsprof-routes-") as folder:
        found = [measure(report, nsys, options.cores, options.runs, Path(folder)) for report in options.reports]
    lines = [
        "# From the report to the screen", "",
        "Made by `benchmarks/routes.py`; [README.md](README.md) says what is measured.", "",
        "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in about.items()), "",
        "| report | cores | route | wall s | CPU s | peak MB | in parts of the export alone |",
        "|---|---:|---|---:|---:|---:|---:|",
        *(row for rows, _ in found for row in rows), "",
    ]  # fmt: skip
    equal = all(same for _, same in found)
    lines += [f"All tables of both routes are {'equal' if equal else 'NOT equal'}, value by value.", ""]
    print("\n".join(lines))
    if options.out and equal:
        options.out.write_text("\n".join(lines))
    return not equal


if __name__ == "__main__":
    raise SystemExit(main())
