"""Many small reports as one analysis: in a loop, on workers, again; with what fails among them.

usage: python benchmarks/many.py [--reports 1000] [--workers 1 2] [--folder FOLDER] [--out benchmarks/MANY.md]

Reports are made: runs of some ranks, a few requests each with kernels and matched collectives. Among them are damaged
ones (1 in 100), and beside them one that kills the worker that has it and one whose disk is full. That all others have
the right tables is checked, each against an analysis of it alone.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import machine  # noqa: E402
import many_faults  # noqa: E402
import pyarrow.compute as pc  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

import dsprof  # noqa: E402
from dsprof.analysis.many import ManyAnalysis, analyze_many  # noqa: E402
from dsprof.errors import NsysMissing  # noqa: E402
from dsprof.nsys.command import find_nsys  # noqa: E402
from trace_builder import TraceBuilder  # noqa: E402

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(…)"
_US, _MS = 1_000, 1_000_000
#: Collectives and other kernels of a request, and requests of a report.
_COLLECTIVES, _KERNELS, _REQUESTS = 8, 10, 4
#: One report in so many is damaged.
_DAMAGED = 100
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


def make(folder: Path, reports: int, ranks: int) -> None:
    """The reports, in a folder that is made once."""
    if (folder / "made").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(reports):
        run, rank = divmod(number, ranks)
        path = folder / f"run{run}-rank{rank}.sqlite"
        made(path, 500 * _US if rank == 3 else rank * 2 * _US)
        if number % _DAMAGED == _DAMAGED // 2:
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


def wrong(folder: Path, out: Path, ranks: int) -> Iterator[str]:
    """What is not as it should be in the results of all."""
    many = ManyAnalysis(out)
    rows = many.arrow("reports").to_pylist()
    for number, row in enumerate(rows):
        expected = _expected(folder / row["report"], ranks)
        if (row["error"] or "") not in expected:
            yield f"{row['report']}: {row['error']} and not {' or '.join(expected) or 'none'}"
        if row["error"] is None and number % max(len(rows) // _COMPARED, 1) == 0:
            alone = dsprof.analyze(folder / row["report"], folder=out / "nowhere", tables=["stage_trace", "kern_sum"])
            for table in alone:
                mine = many.arrow(table).filter(pc.equal(many.arrow(table).column("report"), row["report"]))
                if mine.drop_columns(["report", "run", "node", "rank"]).to_pylist() != alone.arrow(table).to_pylist():
                    yield f"{row['report']}: other rows in {table}"
    late = {stage.labels[stage.holds] for stage in many.summary().stages if stage.holds is not None}
    if late != {"3"}:
        yield f"held up by {late} and not by rank 3"


def _expected(path: Path, ranks: int) -> tuple[str, ...]:
    """The errors that a report should end with; an empty one for none."""
    if many_faults.KILLS in path.name:
        return ("WorkersUnavailable",)
    if many_faults.FULL in path.name:
        return ("OSError", "OutputRefused")
    run, rank = path.stem.removeprefix("run").split("-rank")
    number = int(run) * ranks + int(rank)
    return ("ReportDamaged",) if number % _DAMAGED == _DAMAGED // 2 else ("",)


def sizes(folder: Path, out: Path) -> list[tuple[str, float]]:
    """Bytes of what is gathered, for each report."""
    reports = max(sum(1 for _ in (out / "reports").glob("*/analysis.json")), 1)
    gathered = [path for path in (out / "tables").iterdir() if path.is_file()]
    kept = list((out / "reports").glob("*.npz"))
    collectives = pq.read_metadata(out / "tables" / "collective_trace.parquet").num_rows
    stages = pq.read_metadata(out / "tables" / "stage_trace.parquet").num_rows
    events = sum(path.stat().st_size for path in (out / "reports").glob("*/*_trace.parquet"))
    return [
        ("tables over all reports, a report", sum(path.stat().st_size for path in gathered) / reports),
        ("collective_trace, a collective", (out / "tables/collective_trace.parquet").stat().st_size / collectives),
        ("stage_trace, a stage", (out / "tables/stage_trace.parquet").stat().st_size / max(stages, 1)),
        ("collectives kept for matching, a report", sum(path.stat().st_size for path in kept) / reports),
        ("tables of events in its folder, a report", events / reports),
        ("the report itself", sum(path.stat().st_size for path in folder.glob("*.sqlite")) / reports),
    ]


def page(options: argparse.Namespace, said: str, results: list[Measured], told: list[tuple[str, float]]) -> str:
    """The results as Markdown."""
    about = machine.describe(None) | {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    command = f"python benchmarks/many.py --reports {options.reports} --workers {' '.join(map(str, options.workers))}"
    lines = ["# Many small reports", "", f"`{command}`; what is in them is made. {said}", "",
             "|  | wall s | CPU s | largest process MB | analyzed | as before | failed |",
             "|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    lines += [
        f"| {one.name} | {one.wall_s:.1f} | {one.cpu_s:.1f} | {one.peak_bytes / 1e6:.0f} | "
        + " | ".join(str(one.status.get(word, 0)) for word in ("new", "before", "failed")) + " |"
        for one in results
    ]  # fmt: skip
    lines += ["", "| size | bytes |", "|---|---:|", *(f"| {name} | {value:,.0f} |" for name, value in told), ""]
    lines += ["| machine |  |", "|---|---|", *(f"| {word} | {value} |" for word, value in about.items())]
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
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "dsprof-many"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = options.folder / f"reports-{options.reports}-{options.ranks}"
    make(folder, options.reports, options.ranks)
    results, out = list[Measured](), options.folder / "out"
    kinds = [("a loop", "loop"), *((f"{n} worker{'s' * (n != 1)}", f"processes:{n}") for n in options.workers)]
    troubles = list[str]()
    for name, on in kinds:
        shutil.rmtree(out, ignore_errors=True)
        results.append(measured(name, folder, out, on))
        print(results[-1], file=sys.stderr)
        troubles += wrong(folder, out, options.ranks)
    results.append(measured("again, nothing changed", folder, out, kinds[-1][1]))
    text = page(options, recipe(next(folder.glob("run0-*"))), results, sizes(folder, out))
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)
    for trouble in troubles:
        print(f"WRONG: {trouble}", file=sys.stderr)
    raise SystemExit(1 if troubles else 0)


if __name__ == "__main__":
    main()
