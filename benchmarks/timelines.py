"""What a timeline takes: whole processes of `dsprof timeline` on synthetic reports and on the reports that are named.

usage: python benchmarks/timelines.py [--kernels 100000 400000] [--report run.sqlite] [--times 4] [--memory 400MB]
                                      [--runs 3] [--folder FOLDER] [--out benchmarks/TIMELINES.md]

`--times`: a report that is named is also measured with its events so many times, one after another.
Of each the run with the least CPU time is told, and the memory of the largest. What came of it is not looked at here:
tests/test_timeline.py has Perfetto's own importer read timelines.
"""

from __future__ import annotations

import argparse
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import machine  # noqa: E402
import measure  # noqa: E402
import reports  # noqa: E402

from dsprof.nsys.schema import KERNEL, MEMCPY, MEMSET, NVTX, RUNTIME  # noqa: E402

DETAILS = "ANALYSIS_DETAILS"
#: No report has more correlationIds.
_CORRELATIONS = 10**7
_COLUMNS = ("report", "kernels", "API calls", "ranges", "wall s", "CPU s", "peak MB", "file MB")
_HEAD = f"| {' | '.join(_COLUMNS)} |\n|---{'|---:' * (len(_COLUMNS) - 1)}|"


class Timed(NamedTuple):
    """A report, what is in it, and what its timeline took."""

    name: str
    rows: tuple[int, int, int]
    run: measure.Run
    peak_bytes: int
    size: int

    def __str__(self) -> str:
        rows = " | ".join(f"{count:,}" for count in self.rows)
        run = f"{self.run.wall_s:.1f} | {self.run.cpu_s:.1f} | {self.peak_bytes / 1e6:.0f} | {self.size / 1e6:.1f}"
        return f"| {self.name} | {rows} | {run} |"


def timed(name: str, report: Path, runs: int, memory: str | None = None) -> Timed:
    """Write the timeline of a report some times."""
    reports.say(f"writing the timeline of {name}")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "run.pftrace.gz")
        command = [sys.executable, "-m", "dsprof", "timeline", str(report), "-o", str(target), "--force"]
        taken = [measure.run([*command, *(["--memory", memory] if memory else [])]) for _ in range(runs)]
        size = target.stat().st_size
    least = min(taken, key=lambda run: run.cpu_s)
    shown = f"{name}, --memory {memory}" if memory else name
    return Timed(shown, _rows(report), least, max(run.peak_bytes for run in taken), size)


def repeated(report: Path, times: int, target: Path) -> Path:
    """A report with its events so many times."""
    shutil.copyfile(report, target)
    with closing(sqlite3.connect(target)) as database, database:
        last = database.execute(f'SELECT max("end") FROM {RUNTIME}').fetchone()[0]  # noqa: S608
        for table in (KERNEL, MEMCPY, MEMSET, RUNTIME, NVTX):
            columns = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            rows = database.execute(f"SELECT max(rowid) FROM {table}").fetchone()[0] if columns else 0  # noqa: S608
            for number in range(1, times if rows else 1):
                later = {"start": last * number, "end": last * number, "correlationId": _CORRELATIONS * number}
                values = ", ".join(
                    f'"{name}" + {later.get(name, 0)}' if name in later else f'"{name}"' for name in columns
                )
                database.execute(f"INSERT INTO {table} SELECT {values} FROM {table} WHERE rowid <= {rows}")  # noqa: S608
        database.execute(f"UPDATE {DETAILS} SET duration = duration * {times}")  # noqa: S608
    return target


def _rows(report: Path) -> tuple[int, int, int]:
    with closing(sqlite3.connect(f"file:{report}?mode=ro", uri=True)) as database:
        kernels, calls, ranges = (
            int(database.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
            for table in (KERNEL, RUNTIME, NVTX)
        )
    return kernels, calls, ranges


def page(rows: Sequence[Timed], call: str, load: str) -> str:
    """The page, whole."""
    about = "\n".join(f"| {word} | {value} |" for word, value in machine.describe(None).items() if word != "nsys")
    return (
        f"# Timelines\n\n`python benchmarks/timelines.py {call}`; synthetic reports are made. CPU time is that of the "
        "whole process, from its start, with reading, analysis, packing.\n\n## Measured\n\n"
        + "\n".join([_HEAD, *map(str, rows)])
        + f"\n\nLoad of the machine before: {load}.\n\n## Machine\n\n|  |  |\n|---|---|\n{about}\n"
    )


def main() -> None:
    """Measure, and write the page or print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernels", type=int, nargs="*", default=[100_000, 400_000])
    parser.add_argument("--report", type=Path, nargs="*", default=[])
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--memory", help="once more on the largest synthetic report, under this limit")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=reports.usual_folder())
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    load = machine.load()
    rows = [timed("synthetic", reports.synthetic(given.folder, size), given.runs) for size in given.kernels]
    if given.memory and given.kernels:
        largest = reports.synthetic(given.folder, max(given.kernels))
        rows.append(timed("synthetic", largest, given.runs, given.memory))
    with tempfile.TemporaryDirectory() as folder:
        for report in given.report:
            name = report.name.split(".")[0]
            unpacked = reports.unpacked(report, Path(folder))
            rows.append(timed(name, unpacked, given.runs))
            if given.times > 1:
                more = repeated(unpacked, given.times, Path(folder, "repeated.sqlite"))
                rows.append(timed(f"{name}, {given.times} times", more, given.runs))
    made = page(rows, " ".join(word for word in sys.argv[1:] if word != "--out" and not word.endswith(".md")), load)
    if given.out:
        given.out.write_text(made, encoding="utf-8")
    else:
        sys.stdout.write(made)


if __name__ == "__main__":
    main()
