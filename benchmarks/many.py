"""Many small reports as one analysis: in a loop, on workers, again; with what fails among them.

usage: python benchmarks/many.py [--reports 1000] [--workers 1 2] [--folder FOLDER] [--out benchmarks/MANY.md]

Reports are made: runs of some ranks, a few requests each with kernels and matched collectives. Among them are damaged
ones, and beside them one that kills the worker that has it and one whose disk is full. That all others have
the right tables is checked, each against an analysis of it alone.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import machine  # noqa: E402
import many_faults  # noqa: E402
import pyarrow.compute as pc  # noqa: E402

import dsprof  # noqa: E402
from dsprof.analysis.kept_ranks import kept_ranks  # noqa: E402
from dsprof.analysis.many import ManyAnalysis, analyze_many  # noqa: E402
from dsprof.analysis.matched_tables import TOLD  # noqa: E402
from dsprof.analysis.ranks import Ranks  # noqa: E402
from dsprof.errors import NsysMissing  # noqa: E402
from dsprof.nsys.command import find_nsys  # noqa: E402
from trace_builder import TraceBuilder  # noqa: E402

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(…)"
_US, _MS = 1_000, 1_000_000
#: Collectives and other kernels of a request, and requests of a report.
_COLLECTIVES, _KERNELS, _REQUESTS = 8, 10, 4
#: Of so many reports, evenly chosen, the rows are compared with those of an analysis of it alone.
_COMPARED = 25


class Measured(NamedTuple):
    """What an analysis of all took, in seconds and bytes, and how its reports ended."""

    name: str
    wall_s: float
    cpu_s: float
    peak_bytes: int
    status: dict[str, int]


def made(path: Path, late_ns: int) -> None:
    """A report of a rank that begins each collective so much later than the first does; all end at one moment."""
    report = TraceBuilder("2025.3.2")
    for request in range(_REQUESTS):
        begin = request * 40 * _MS
        for number in range(_COLLECTIVES):
            at = begin + number * 4 * _MS
            for kernel in range(_KERNELS):
                start = at + kernel * 100 * _US
                report.kernel(f"gemm_{kernel}", at=(start, start + 80 * _US), call=(start - 5 * _US, start - 2 * _US))
            start = at + 1_200 * _US + late_ns
            report.kernel(ALL_REDUCE, at=(start, at + 3 * _MS), call=(at + 1_000 * _US, at + 1_003 * _US))
        report.range("prefill", begin - 6 * _US, begin + _COLLECTIVES * 4 * _MS)
    report.sql("UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = 1000000000").write(path)


def make(folder: Path, reports: int, ranks: int, damaged: int) -> None:
    """The reports, in a folder that is made once."""
    if (folder / "made").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(reports):
        run, rank = divmod(number, ranks)
        path = folder / f"run{run}-rank{rank}.sqlite"
        made(path, 500 * _US if rank == 3 else rank * 2 * _US)
        if number % damaged == damaged // 2:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name in (many_faults.KILLS, many_faults.FULL):
        made(folder / f"{name}.sqlite", 0)
    (folder / "made").touch()


def measured(name: str, folder: Path, out: Path, on: str) -> Measured:
    """Analyze all in a process of its own, and say what that took."""
    report, sent = os.pipe()
    before = time.perf_counter()
    if (child := os.fork()) == 0:
        many_faults.plant()
        left = [path for path in folder.glob("*.sqlite") if on != "loop" or many_faults.KILLS not in path.name]
        found = analyze_many(left, on=on, out=out)
        counted = found["reports"].status.value_counts().to_dict()
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        cpu = sum(one.ru_utime + one.ru_stime for one in used)
        os.write(sent, repr((cpu, max(one.ru_maxrss for one in used) * 1024, counted)).encode())
        os._exit(0)
    os.close(sent)
    with os.fdopen(report) as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    if status or not text:
        raise SystemExit(f"{name} failed")
    cpu, peak, counted = eval(text, {"__builtins__": {}})  # noqa: S307 - our own child's
    return Measured(name, time.perf_counter() - before, cpu, peak, counted)


def wrong(folder: Path, out: Path, ranks: int, damaged: int) -> Iterator[str]:
    """What is not as it should be in the results of all."""
    many = ManyAnalysis(out)
    rows = many.arrow("reports").to_pylist()
    for number, row in enumerate(rows):
        expected = _expected(folder / row["report"], ranks, damaged)
        if (row["error"] or "") not in expected:
            yield f"{row['report']}: {row['error']} and not {' or '.join(expected) or 'none'}"
        if row["error"] is None and number % max(len(rows) // _COMPARED, 1) == 0:
            alone = dsprof.analyze(folder / row["report"], folder=out / "nowhere", tables=["stage_trace", "kern_sum"])
            for table in alone:
                mine = many.arrow(table).filter(pc.equal(many.arrow(table).column("report"), row["report"]))
                columns = [one for one in alone.arrow(table).column_names if one not in TOLD]
                if mine.select(columns).to_pylist() != alone.arrow(table).select(columns).to_pylist():
                    yield f"{row['report']}: other rows in {table}"
    late = {stage.labels[stage.holds] for stage in many.summary().stages if stage.holds is not None}
    if late != {"3"}:
        yield f"held up by {late} and not by rank 3"


def _expected(path: Path, ranks: int, damaged: int) -> tuple[str, ...]:
    """The errors that a report should end with; an empty one for none."""
    if many_faults.KILLS in path.name:
        return ("WorkersUnavailable",)
    if many_faults.FULL in path.name:
        return ("OSError", "OutputRefused")
    run, rank = path.stem.removeprefix("run").split("-rank")
    number = int(run) * ranks + int(rank)
    return ("ReportDamaged",) if number % damaged == damaged // 2 else ("",)


class PerRow(NamedTuple):
    """What rows of recorded reports of two ranks take: bytes of files, seconds; and how many there are for a kernel.

    `rest`: bytes of all tables that have neither a row for each step nor for each collective.
    """

    kernel: float
    kept: float
    collective: float
    step: float
    rest: float
    match_s: float
    collectives: float
    steps: float


#: Tables with a row for each step and collective; all others have as many rows as there are names and stages.
_LONG = ("collective_trace", "step_trace")


def recorded() -> PerRow:
    """Of the recorded sample of two ranks."""
    with tempfile.TemporaryDirectory() as folder:
        reports = sorted((ROOT / "traces" / "samples").glob("h100x2-tp-rank*.sqlite.xz"))
        many = analyze_many(reports, on="loop", out=folder)
        tables, kept = Path(folder, "tables"), list(Path(folder, "reports").glob("*.npz"))
        events = list(Path(folder, "reports").glob("*/kern_trace.parquet"))
        rest = [path.stat().st_size for path in tables.glob("*.parquet") if path.stem not in _LONG]
        kernels, collectives, steps = (len(many.arrow(name)) for name in ("kern_trace", *_LONG))
        times = []
        for _ in range(3):
            begun = time.perf_counter()
            Ranks(found for path in kept if (found := kept_ranks(path))).arrow("collective_trace")
            times.append(time.perf_counter() - begun)
        traces = [_bytes([tables / f"{name}.parquet"]) for name in _LONG]
        return PerRow(
            _bytes(events) / kernels, _bytes(kept) / collectives, traces[0] / collectives, traces[1] / steps,
            sum(rest) / len(reports), min(times) / collectives, collectives / kernels, steps / kernels,
        )  # fmt: skip


def _bytes(files: Iterable[Path]) -> int:
    return sum(path.stat().st_size for path in files)


#: What is told on paper: reports, kernels of each, on so many nodes, so many ranks of a run.
_REPORTS, _EACH, _NODES, _OF_RUN = 10_000, 10_000_000, 100, 8
#: Of reports of ten million kernels, in RESULTS.md: seconds of `dsprof analyze --no-fast`, and MB of memory.
_LARGE = re.compile(
    r"^## 10,009,830 kernels.*?^\| dsprof analyze --no-fast \| ([\d.,]+)[^|]*\|[^|]*\| ([\d.,]+)",
    re.MULTILINE | re.DOTALL,
)
#: Bytes of a collective in memory: its columns, as matched, in int64.
_COLUMN_BYTES = 8 * 20


def on_paper(gather_s: float) -> list[str]:
    """What 10,000 reports of ten million kernels on 100 nodes take, and what of it goes where, as Markdown.

    `gather_s`: what the files of a small report take to be gathered.
    """
    row = recorded()
    large = _LARGE.search((ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8"))
    if large is None:
        raise SystemExit("RESULTS.md has no report of ten million kernels")
    seconds, peak = (float(text.replace(",", "")) for text in large.groups())
    collectives, steps = _EACH * row.collectives, _EACH * row.steps
    rows = [
        ("`kern_trace`", "stays where the worker wrote it, on the shared disk", _EACH * row.kernel),
        (
            "collectives kept for matching",
            "read by who gathers, the reports of a run at a time",
            collectives * row.kept,
        ),
        ("`collective_trace`", "written by who gathers", collectives * row.collective),
        ("`step_trace`", "read and written by who gathers", steps * row.step),
        ("all other tables together", "read and written by who gathers", row.rest),
    ]
    gather_min = (gather_s + collectives * row.match_s) * _REPORTS / 60
    analyze_min = seconds * _REPORTS / _NODES / 60
    told = (
        f"{_REPORTS:,} reports of {_EACH:,} kernels on {_NODES} nodes, computed: a row takes as much as in the "
        f"recorded sample of two ranks, where {row.collectives:.1%} of the kernels are collectives and there is a step "
        f"for each {1 / row.steps:.0f} kernels. An analysis takes {seconds:.0f} s and {peak / 1000:.1f} GB, as "
        f"RESULTS.md has it: one at a time on each node, all take {analyze_min:.0f} minutes. To gather takes "
        f"{gather_s:.3f} s of CPU time for the files of a report, as measured above, and {row.match_s * 1e6:.1f} us "
        f"for each collective to be matched, in one process: {gather_min:.0f} minutes, with "
        f"{_size(collectives * _COLUMN_BYTES * _OF_RUN)} for the columns of a run of {_OF_RUN} ranks."
    )
    return [
        *textwrap.wrap(told, 120), "", "| what | where | a report | all |", "|---|---|---:|---:|",
        *(f"| {name} | {where} | {_size(each)} | {_size(each * _REPORTS)} |" for name, where, each in rows),
    ]  # fmt: skip


def _size(count: float) -> str:
    units = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (0, "B"))
    size, word = next(one for one in units if count >= one[0])
    return f"{count / (size or 1):.3g} {word}"


def page(options: argparse.Namespace, said: str, results: list[Measured], paper: list[str]) -> str:
    """The results as Markdown."""
    about = machine.describe(None) | {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    command = f"python benchmarks/many.py --reports {options.reports} --workers {' '.join(map(str, options.workers))}"
    lines = ["# Many small reports", "", f"`{command}`; what is in them is made. {said}", "", "## Measured", "",
             "|  | wall s | CPU s | largest process MB | analyzed | as before | failed |",
             "|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    lines += [
        f"| {one.name} | {one.wall_s:.1f} | {one.cpu_s:.1f} | {one.peak_bytes / 1e6:.0f} | "
        + " | ".join(str(one.status.get(word, 0)) for word in ("new", "before", "failed")) + " |"
        for one in results
    ]  # fmt: skip
    lines += ["", f"Load of the machine before: {options.load}.", "", "## On paper", "", *paper, "", "## Machine", ""]
    lines += ["|  |  |", "|---|---|", *(f"| {word} | {value} |" for word, value in about.items())]
    return "\n".join(lines) + "\n"


def recipe(report: Path) -> str:
    """Whether `nsys recipe` runs here on the reports, in a sentence."""
    try:
        nsys = find_nsys(None)
    except NsysMissing:
        return "`nsys recipe` was not run: there is no nsys."
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [nsys, "recipe", "cuda_gpu_kern_sum", "--input", report, "--output", f"{folder}/out"],
            capture_output=True, text=True, env=os.environ | {"TMPDIR": folder},
        )  # fmt: skip
    said = "no word" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no word"])[-1]
    missing = (
        "its folder `third_party` is not in this nsys" if "third_party" in said else said.rpartition(":")[2].strip()
    )
    return "`nsys recipe` runs here." if done.returncode == 0 else f"`nsys recipe` does not run here: {missing}."


def main() -> None:
    """Make, measure, check, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=int, default=1000)
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--damaged", type=int, default=100, metavar="N", help="one in N is damaged")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "dsprof-many"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.load = machine.load()
    folder = options.folder / f"reports-{options.reports}-{options.ranks}-{options.damaged}"
    make(folder, options.reports, options.ranks, options.damaged)
    results, out = list[Measured](), options.folder / "out"
    kinds = [("a loop", "loop"), *((f"{n} worker{'s' * (n != 1)}", f"processes:{n}") for n in options.workers)]
    troubles = list[str]()
    for name, on in kinds:
        shutil.rmtree(out, ignore_errors=True)
        results.append(measured(name, folder, out, on))
        print(results[-1], file=sys.stderr)
        troubles += wrong(folder, out, options.ranks, options.damaged)
    results.append(measured("again, nothing changed", folder, out, kinds[-1][1]))
    shutil.rmtree(out / "tables")
    results.append(measured("again, to gather alone", folder, out, kinds[-1][1]))
    gather_s = max(results[-1].cpu_s - results[-2].cpu_s, 0.0) / options.reports
    text = page(options, recipe(next(folder.glob("run0-*"))), results, on_paper(gather_s))
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)
    for trouble in troubles:
        print(f"WRONG: {trouble}", file=sys.stderr)
    raise SystemExit(1 if troubles else 0)


if __name__ == "__main__":
    main()
