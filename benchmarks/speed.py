"""How fast `dsprof analyze` is and what it needs, side by side with `nsys stats` and the least that reading takes.

usage: python benchmarks/speed.py [--kernels N ...] [--report FILE ...] [--runs N] [--check] [--out RESULTS.md]

Whole processes on one file, taking turns: the first run of every contender, then the second of every one, so that a
machine that grows slower meets all of them alike. See README.md beside this file for the columns. Ends with 1 where
`--check` finds results that are not equal; the table is then printed, and not written to `--out`.
"""

from __future__ import annotations

import argparse
import compileall
import datetime
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import machine
import reports
from measure import Run, RunFailed, run, sources_of
from reports import say

import dsprof
from dsprof.arrays import backend
from dsprof.errors import NsysMissing
from dsprof.nsys import schema
from dsprof.nsys.command import find_nsys, nsys_version

#: The four reports that say together what dsprof's tables say.
NSYS_REPORTS = ("nvtx_kern_sum", "nvtx_gpu_proj_sum", "nvtx_gpu_proj_trace", "cuda_gpu_kern_sum")
#: Above so many kernels `nsys stats` runs once: ten million take it more than ten minutes and eleven gigabytes.
MANY_KERNELS = 2_000_000
_FLOOR = """\
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], uri=True)
for query in sys.argv[2:]:
    database.execute(query).fetchone()
"""
FLOOR, CAT, COLD, FAST, FIRST, WARM, MEMORY, NSYS = (
    "floor", "cat", "analyze", "fast", "first", "again", "memory", "nsys",
)  # fmt: skip
#: Ends the key of a contender that another commit's sources are.
_BEFORE = "-before"


class Contender(NamedTuple):
    """One row of the table: a command that writes to an own folder each time, and how often it runs."""

    key: str
    name: str
    command: Callable[[Path], Sequence[str]]
    runs: int
    writes_to: str = ""  # the contender whose folder it uses; its own where empty


@dataclass
class Row:
    """What one contender took."""

    key: str
    name: str
    runs: list[Run] = field(default_factory=list)

    def median(self, what: str) -> float:
        """The median of ``wall_s``, ``cpu_s`` or ``peak_bytes``."""
        return statistics.median(getattr(one, what) for one in self.runs)


@dataclass
class Measured:
    """One file: its rows, and what is to be known of them."""

    name: str
    kernels: int
    size: int
    synthetic: bool
    rows: list[Row]
    notes: list[str]
    load_before: str
    load_after: str = ""
    compared: list[Any] = field(default_factory=list)  # of equality.Compared

    def row(self, key: str) -> Row | None:
        """The contender's row, where it ran."""
        return next((row for row in self.rows if row.key == key and row.runs), None)

    @property
    def faults(self) -> list[str]:
        """Where the results are not equal."""
        return [f"{one.what}: {fault}" for one in self.compared for fault in one.faults]


# -- contenders ---------------------------------------------------------------------------------------------


def contenders(export: Path, options: argparse.Namespace, nsys: Path | None, kernels: int) -> list[Contender]:
    """Who runs on a file, in the order of their turns."""
    analyze = [sys.executable, "-m", "dsprof", "analyze", str(export), "--out"]
    floor = [sys.executable, "-I", "-S", "-c", _FLOOR, f"file:{export}?mode=ro&immutable=1", *sums(export)]
    cat = ["/bin/sh", "-c", 'exec cat "$1" > /dev/null', "sh", str(export)]
    found = [
        Contender(FLOOR, "floor: sums in sqlite3", lambda folder: floor, options.runs),
        Contender(CAT, "cat", lambda folder: cat, options.runs),
        Contender(COLD, "dsprof analyze --no-fast", lambda folder: [*analyze, str(folder), "--no-fast"], options.runs),
        Contender(WARM, "dsprof analyze, again", lambda folder: [*analyze, str(folder)], options.runs, COLD),
    ]
    found += _compiled(analyze, options) if backend.is_installed() else []
    found += _earlier(analyze, options) if options.before else []
    found += [_bounded(analyze, limit, options.runs) for limit in (options.memory if offers_memory() else ())]
    nsys_runs = options.nsys_runs if options.nsys_runs is not None else (1 if kernels > MANY_KERNELS else options.runs)
    if nsys:
        found.append(Contender(NSYS, "nsys stats", lambda folder: nsys_stats_command(nsys, export, folder), nsys_runs))
    return [one for one in found if one.runs]


def _compiled(analyze: list[str], options: argparse.Namespace) -> list[Contender]:
    name = "dsprof analyze --fast"
    found = [Contender(FAST, name, lambda folder: [*analyze, str(folder), "--fast"], options.runs)]
    if options.first_run:
        found.append(Contender(FIRST, f"{name}, first run", lambda folder: first_run(analyze, folder), 1))
    return found


def _earlier(analyze: list[str], options: argparse.Namespace) -> list[Contender]:
    """The same by the sources of an earlier commit."""
    earlier = [*with_sources(options.earlier), *analyze]
    kinds = [(COLD, "--no-fast"), *([(FAST, "--fast")] if backend.is_installed() else [])]
    return [
        Contender(key + _BEFORE, f"dsprof analyze {how}, before", lambda folder, how=how: [*earlier, str(folder), how],
                  options.runs) for key, how in kinds
    ]  # fmt: skip


def with_sources(sources: Path) -> list[str]:
    """The head of a command that runs Python with other sources of dsprof."""
    path = os.pathsep.join(filter(None, [str(sources), os.environ.get("PYTHONPATH", "")]))
    return ["/usr/bin/env", f"PYTHONPATH={path}"]


def _bounded(analyze: list[str], limit: str, runs: int) -> Contender:
    name = f"dsprof analyze --memory {limit}"
    return Contender(MEMORY + limit, name, lambda folder: [*analyze, str(folder), "--memory", limit], runs)


def first_run(analyze: list[str], folder: Path) -> list[str]:
    """An analysis that finds no loop compiled."""
    return ["/usr/bin/env", f"NUMBA_CACHE_DIR={folder}.cache", *analyze, str(folder), "--fast"]


def nsys_stats_command(nsys: Path, export: Path, folder: Path) -> list[str]:
    """`nsys stats` with its four reports, as CSV files in `folder`."""
    folder.mkdir()
    chosen = [argument for name in NSYS_REPORTS for argument in ("--report", name)]
    return [str(nsys), "stats", *chosen, "--format", "csv", "--output", str(folder / "stats"), str(export)]


def offers_memory() -> bool:
    """Does this dsprof know ``analyze --memory``?"""
    asked = [sys.executable, "-m", "dsprof", "analyze", "--help"]
    return "--memory" in subprocess.run(asked, capture_output=True, text=True, check=True).stdout


def sums(export: Path) -> list[str]:
    """A query for each table that dsprof reads, which sums all columns that it reads from it."""
    wanted = {
        one.table: [*one.columns, *one.details] for one in vars(schema).values() if isinstance(one, schema.Source)
    }
    wanted[schema.NVTX] += schema.PAYLOADS
    texts = {schema.NVTX: ["text"], schema.STRINGS: ["value"]}
    queries = []
    with closing(sqlite3.connect(f"file:{export}?mode=ro&immutable=1", uri=True)) as database:
        for table in {**wanted, **texts}:
            present = {row[1] for row in database.execute(f'PRAGMA table_info("{table}")')}
            summed = [f'total("{name}")' for name in wanted.get(table, []) if name in present]
            summed += [f'total(length("{name}"))' for name in texts.get(table, []) if name in present]
            if summed:
                queries.append(f'SELECT {", ".join(summed)} FROM "{table}"')  # noqa: S608
    return queries


# -- measuring ----------------------------------------------------------------------------------------------


def measure(report: Path, synthetic: bool, options: argparse.Namespace, nsys: Path | None) -> Measured:
    """Run all contenders on one file, and compare what they wrote if that is asked."""
    with tempfile.TemporaryDirectory(prefix="dsprof-bench-") as temporary:
        work = Path(temporary)
        export = reports.unpacked(report.resolve(), work)
        kernels = reports.kernels_in(export)
        chosen = contenders(export, options, nsys, kernels)
        found = Measured(report.name, kernels, export.stat().st_size, synthetic,
                         [Row(one.key, one.name) for one in chosen], _notes(options, nsys), machine.load())  # fmt: skip
        run(["/bin/sh", "-c", 'exec cat "$1" > /dev/null', "sh", str(export)])  # into the page cache
        folders = take_turns(chosen, found, work)
        found.load_after = machine.load()
        if options.check:
            say(f"{found.name}: comparing")
            found.compared = compare(folders, export)
    return found


def _notes(options: argparse.Namespace, nsys: Path | None) -> list[str]:
    notes = []
    if options.memory and not offers_memory():
        notes.append(f"This dsprof has no `--memory`: {', '.join(options.memory)} left out.")
    if nsys is None or options.nsys_runs == 0:
        why = "as asked" if options.nsys_runs == 0 else "none is installed"
        notes.append(f"`nsys stats` was not run ({why}), so there are no ratios to it.")
    return notes


def take_turns(chosen: list[Contender], found: Measured, work: Path) -> dict[str, Path]:
    """Run everyone once, then once more, …; returns the folder that each wrote to last."""
    folders: dict[str, Path] = {}
    for turn in range(max(one.runs for one in chosen)):
        for row, one in zip(found.rows, chosen, strict=True):
            if turn >= one.runs:
                continue
            say(f"{found.name}: {one.name}, run {turn + 1} of {one.runs}")
            folder = folders[one.writes_to] if one.writes_to else work / f"{one.key}-{turn}"
            row.runs.append(run(one.command(folder)))
            before = folders.get(one.key)
            folders[one.key] = folder
            if before and not one.writes_to:
                shutil.rmtree(before, ignore_errors=True)
    return folders


def compare(folders: dict[str, Path], export: Path) -> list[Any]:
    """What the contenders wrote: with compiled loops, or bounded, against without; and that against nsys."""
    import equality

    found = []
    for key, folder in folders.items():
        if key == FAST or key.startswith(MEMORY):
            option = "--fast" if key == FAST else f"--memory {key.removeprefix(MEMORY)}"
            found += [one._replace(what=f"{one.what} with {option}")
                      for one in equality.tables(folders[COLD], folder)]  # fmt: skip
    if NSYS in folders:
        missing = [name for name in NSYS_REPORTS if not (folders[NSYS] / f"stats_{name}.csv").is_file()]
        if missing:
            return [*found, equality.Compared("nsys stats", 0, "", [f"nsys wrote no {name}" for name in missing])]
        found += equality.with_nsys(folders[COLD], folders[NSYS], export)
    return found


# -- what it says -------------------------------------------------------------------------------------------


def markdown(measured: list[Measured], about: dict[str, Any]) -> str:
    """The whole page."""
    lines = ["# What dsprof takes", "", "Made by a command; [README.md](README.md) says what the columns mean.", ""]
    lines += ["```", about["command"], "```", ""]
    lines += ["| | |", "|---|---|", f"| date | {about['date']} |"]
    lines += [f"| {word} | {value} |" for word, value in about["machine"].items()]
    for one in measured:
        lines += ["", *section(one)]
    return "\n".join([*lines, *growth(measured)]) + "\n"


def section(one: Measured) -> list[str]:
    """One file: its table, notes, and what was compared."""
    kind = "synthetic" if one.synthetic else one.name
    head = ["", "wall s", "CPU s", "peak MB", "nsys / it: wall", "nsys / it: CPU", "it / nsys: peak", "CPU / floor",
            "runs"]  # fmt: skip
    lines = [f"## {one.kernels:,} kernels ({kind}, {one.size / 1e6:,.0f} MB)", "", _line(head)]
    lines += ["|---" + "|---:" * (len(head) - 1) + "|", *(_line(_cells(row, one)) for row in one.rows)]
    lines += _beside_before(one)
    lines += ["", f"Load of the machine before: {one.load_before}; after: {one.load_after}.", *one.notes]
    if one.compared:
        lines += ["", "| compared | equal rows | left out |", "|---|---:|---|"]
        lines += [_line([c.what, "**not equal**" if c.faults else f"{c.rows:,}", c.left_out]) for c in one.compared]
    return lines


def _beside_before(one: Measured) -> list[str]:
    """What it takes in parts of what the earlier commit takes, by their medians."""
    pairs = [(row, one.row(row.key + _BEFORE)) for row in one.rows if one.row(row.key + _BEFORE)]
    if not pairs:
        return []
    lines = ["", _line(["in parts of before", "wall", "CPU", "peak"]), "|---|---:|---:|---:|"]
    return lines + [
        _line([row.name, *(_ratio(row, before, what) for what in ("wall_s", "cpu_s", "peak_bytes"))])
        for row, before in pairs
    ]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(row: Row, one: Measured) -> list[str]:
    nsys, floor = one.row(NSYS), one.row(FLOOR)
    peer = nsys if row.key != NSYS and row.key != CAT else None
    ratios = [_ratio(peer, row, "wall_s"), _ratio(peer, row, "cpu_s"), _ratio(row, peer, "peak_bytes"),
              _ratio(row if row.key not in (FLOOR, CAT) else None, floor, "cpu_s")]  # fmt: skip
    if nsys is None and row.key != CAT:
        ratios[:3] = ["not run"] * 3
    figures = [_spread([one.wall_s for one in row.runs]), _spread([one.cpu_s for one in row.runs]),
               _spread([one.peak_bytes / 1e6 for one in row.runs])]  # fmt: skip
    return [row.name, *figures, *ratios, str(len(row.runs))]


def _ratio(upper: Row | None, lower: Row | None, what: str) -> str:
    if upper is None or lower is None or not lower.median(what):
        return ""
    return _figure(upper.median(what) / lower.median(what))


def _spread(values: list[float]) -> str:
    """The median, and the least and the greatest of several runs."""
    middle = _figure(statistics.median(values))
    return f"{middle} ({_figure(min(values))}..{_figure(max(values))})" if len(values) > 1 else middle


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def growth(measured: list[Measured]) -> list[str]:
    """What each kernel more takes, from one synthetic size to the next: level where growth is linear."""
    sized = sorted((one for one in measured if one.synthetic), key=lambda one: one.kernels)
    steps = list(pairwise(sized)) + ([(sized[0], sized[-1])] if len(sized) > 2 else [])
    if not steps:
        return []
    lines = ["", "## What one kernel more takes", ""]
    lines += [_line(["", "from", "to", "wall ns", "CPU ns", "bytes of the peak"]), "|---|---:|---:|---:|---:|---:|"]
    for row in sized[0].rows:
        for small, large in steps:
            one, other = small.row(row.key), large.row(row.key)
            if one and other and row.key not in (CAT, WARM, FIRST):
                slopes = [(other.median(what) - one.median(what)) * factor / (large.kernels - small.kernels)
                          for what, factor in (("wall_s", 1e9), ("cpu_s", 1e9), ("peak_bytes", 1))]  # fmt: skip
                lines.append(_line([row.name, f"{small.kernels:,}", f"{large.kernels:,}", *map(_figure, slopes)]))
    return lines


def raw(measured: list[Measured], about: dict[str, Any]) -> str:
    """All numbers as JSON."""
    files = [
        {
            "name": one.name, "kernels": one.kernels, "bytes": one.size, "synthetic": one.synthetic, "notes": one.notes,
            "load_before": one.load_before, "load_after": one.load_after,
            "rows": [{"key": row.key, "name": row.name, "runs": [each._asdict() for each in row.runs]}
                     for row in one.rows],
            "compared": [each._asdict() for each in one.compared],
        }
        for one in measured
    ]  # fmt: skip
    return json.dumps({**about, "files": files}, indent=1)


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        partial.write_text(text)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


# -- the command line ---------------------------------------------------------------------------------------


def command_of(options: argparse.Namespace) -> str:
    """The command that makes the same table again, without paths."""
    parts = ["python benchmarks/speed.py"]
    parts += ["--kernels", *map(str, options.kernels)] if options.kernels else []
    parts += ["--report", *(path.name for path in options.report)] if options.report else []
    parts += ["--runs", str(options.runs)]
    parts += ["--nsys-runs", str(options.nsys_runs)] if options.nsys_runs is not None else []
    parts += ["--memory", *options.memory] if options.memory else []
    parts += ["--first-run"] if options.first_run else []
    if options.before:
        parts += ["--before", Path(options.before).name if Path(options.before).is_dir() else options.before]
    return " ".join([*parts, *(["--check"] if options.check else [])])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description="Measure dsprof analyze beside nsys stats and the floor.")
    parser.add_argument("--kernels", type=int, nargs="*", help="sizes of synthetic reports (100000 1000000 10000000)")
    parser.add_argument("--report", type=Path, nargs="*", default=[], help="SQLite exports, also packed (.xz, .gz)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each contender")
    parser.add_argument("--nsys", help="the nsys to measure; found as dsprof finds it otherwise")
    parser.add_argument("--nsys-runs", type=int, help="runs of nsys stats: 0 leaves it out; as --runs, but 1 for "
                        f"more than {MANY_KERNELS} kernels")  # fmt: skip
    parser.add_argument("--folder", type=Path, default=reports.usual_folder(), help="where synthetic reports are kept")
    parser.add_argument("--memory", nargs="*", default=[], help="limits for dsprof analyze --memory")
    parser.add_argument("--first-run", action="store_true", help="measure a run that finds no loop compiled, too")
    parser.add_argument("--before", metavar="COMMIT", help="measure a commit of this checkout, too, or another one's "
                        "folder")  # fmt: skip
    parser.add_argument("--check", action="store_true", help="compare the results too")
    parser.add_argument("--out", type=Path, help="the Markdown page; printed otherwise")
    parser.add_argument("--json", type=Path, help="the raw numbers")
    options = parser.parse_args(arguments)
    if options.kernels is None:
        options.kernels = [] if options.report else [100_000, 1_000_000, 10_000_000]
    if options.runs < 1:
        parser.error("--runs must be 1 at least.")
    return options


def chosen_nsys(options: argparse.Namespace) -> Path | None:
    """The nsys to measure, None where it is left out or missing."""
    if options.nsys_runs == 0:
        return None
    try:
        nsys = find_nsys(options.nsys)
    except NsysMissing as error:
        if options.nsys:
            raise SystemExit(str(error)) from error
        return None
    if int((nsys_version(nsys) or "0").split(".")[0]) < 2023:
        raise SystemExit("The reports have these names from nsys 2023 on: name a newer one with --nsys.")
    return nsys


def warm_up(report: Path, sources: Path, head: Sequence[str] = ()) -> None:
    """Let modules and loops be compiled, which no first run pays for."""
    compileall.compile_dir(str(sources), quiet=1)
    if backend.is_installed():
        with tempfile.TemporaryDirectory(prefix="dsprof-bench-") as work:
            analyze = [sys.executable, "-m", "dsprof", "analyze", str(report), "--fast", "--out", f"{work}/out"]
            run([*head, *analyze])


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="dsprof-bench-") as folder:
        options.earlier = sources_of(options.before, Path(folder)) if options.before else None
        return _main(options)


def _main(options: argparse.Namespace) -> int:
    """The same, once the earlier sources lie there."""
    nsys = chosen_nsys(options)
    files = [(path, False) for path in options.report]  # what was recorded comes first
    files += [(reports.synthetic(options.folder, kernels), True) for kernels in options.kernels]
    about = {"command": command_of(options), "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
             "machine": machine.describe(nsys)}  # fmt: skip
    try:
        for path, _ in files[:1]:
            warm_up(path, Path(str(dsprof.__file__)).parents[1])
            if options.earlier:
                warm_up(path, options.earlier, with_sources(options.earlier))
        measured = [measure(path, synthetic, options, nsys) for path, synthetic in files]
    except RunFailed as error:
        say(f"A run failed, so nothing was written: {error}")
        return 2
    page, faults = markdown(measured, about), [f"{one.name}: {fault}" for one in measured for fault in one.faults]
    if options.json:
        write_whole(options.json, raw(measured, about))
    if options.out and not faults:
        write_whole(options.out, page)
    else:
        print(page, end="")
    for fault in faults:
        say(f"Not equal: {fault}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
