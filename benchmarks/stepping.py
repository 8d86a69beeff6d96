"""What the steps of a serving engine cost an analysis: ratios on made reports of many steps, and on a recorded one.

usage: python benchmarks/stepping.py [--steps N:KERNELS ...] [--turns N]

A made report has N steps of vLLM on one thread, and KERNELS kernels in each; the more steps, the more names. It is
analyzed with its engine, without one (`--engine none`: no stage, and so no step to tell of), and with the same ranges
named by hand as stages and steps. The three take turns in processes of their own; times are medians of CPU time.
"""

from __future__ import annotations

import argparse
import itertools
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from measure import Run, run

from dsprof.rules.engines import all_engines
from engine_reports import LIFE, Scheduled, vllm
from engine_reports import run as engine_run
from trace_builder import KERNEL, NVTX, RUNTIME

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "traces" / "samples" / "h100-serve.sqlite.xz"
#: From the begin of a step to that of the next one, in ns.
STEP = 20_000
WAYS = {
    "with its engine": [],
    "--engine none": ["--engine", "none"],
    "named by hand": ["--engine", "none", "--stage", "any=^execute_", "--step", "^execute_"],
}


def names(steps: int) -> list[str]:
    """A name for each step, as an engine gives them that serves up to 256 requests."""
    random = np.random.default_rng(0)
    generating, context = random.integers(1, 257, steps), np.where(random.random(steps) < 0.1, 1, 0)
    prompt = context * random.integers(1, 2049, steps)
    rows = zip(context.tolist(), prompt.tolist(), generating.tolist(), strict=True)
    return [vllm(Scheduled(some, tokens, others, others)) for some, tokens, others in rows]


def make(path: Path, steps: int, kernels: int) -> None:
    """Write a report of so many steps, by multiplying the rows of a small one."""
    engine_run(LIFE[:1]).write(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute("BEGIN")
        database.row_factory = sqlite3.Row
        like = {table: dict(database.execute(f"SELECT * FROM {table} LIMIT 1").fetchone())  # noqa: S608  as above
                for table in (NVTX, RUNTIME, KERNEL)}  # fmt: skip
        said = names(steps)
        ids = {text: number for number, text in enumerate(dict.fromkeys(said), start=1 << 20)}
        database.executemany("INSERT INTO StringIds (id, value) VALUES (?, ?)", ((n, text) for text, n in ids.items()))
        begins, gap = range(1000, 1000 + steps * STEP, STEP), STEP // (kernels + 1)
        launched = itertools.product(begins, range(kernels))
        calls, ops = itertools.tee((begin + gap * one, number) for number, (begin, one) in enumerate(launched, start=1))
        ranges = ({"start": at, "end": at + STEP * 3 // 4, "textId": ids[text]}
                  for at, text in zip(begins, said, strict=True))  # fmt: skip
        _fill(database, NVTX, like[NVTX], ranges)
        called = ({"start": at + 10, "end": at + 40, "correlationId": number} for at, number in calls)
        ran = ({"start": at + 100, "end": at + 100 + gap // 2, "correlationId": number} for at, number in ops)
        _fill(database, RUNTIME, like[RUNTIME], called)
        _fill(database, KERNEL, like[KERNEL], ran)
        database.execute("UPDATE ANALYSIS_DETAILS SET duration = ?", (steps * STEP + 10_000,))
        database.execute("COMMIT")


def _fill(database: sqlite3.Connection, table: str, like: dict[str, Any], rows: Iterator[dict[str, Any]]) -> None:
    """Put rows into a table in the place of its own, as one of these but for what each row says."""
    database.execute(f"DELETE FROM {table}")  # noqa: S608  one of three constants
    insert = f"INSERT INTO {table} ({', '.join(like)}) VALUES ({', '.join('?' * len(like))})"  # noqa: S608
    database.executemany(insert, (tuple((like | row).values()) for row in rows))


def analyzed(report: Path, options: list[str], folder: Path) -> Run:
    """One analysis of a report, all of its summary and the table of its steps."""
    own = ["--again", "--default-rules", "--rules", "none", "--tables", "step_trace", "--out", str(folder)]
    return run([sys.executable, "-m", "dsprof", "analyze", str(report), *own, *options])


def reading(texts: list[str]) -> float:
    """Seconds that it takes to read each of the distinct names, once."""
    forms = [form for engine in all_engines().values() for form in engine.forms]
    begun = time.process_time()
    for text in dict.fromkeys(texts):
        any(form.read(text) for form in forms)
    return time.process_time() - begun


def main() -> int:
    """Print a row for each report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="+", default=["100000:10", "10000:300"], metavar="N:KERNELS")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print("| report | with its engine (CPU) | by --engine none | by naming by hand | reading its names | peak |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory(prefix="dsprof-steps-") as place:
        for given in ["recorded", *options.steps]:
            report, read = RECORDED, 0.0
            title = f"`{RECORDED.name.partition('.')[0]}`, recorded"
            if given != "recorded":
                steps, kernels = map(int, given.split(":"))
                report = Path(place) / "made.sqlite"
                report.unlink(missing_ok=True)
                make(report, steps, kernels)
                read, title = reading(names(steps)), f"{steps:,} steps of {kernels} kernels, made"
            runs: dict[str, list[Run]] = {way: [] for way in WAYS}
            for _, (way, words) in itertools.product(range(options.turns), WAYS.items()):
                runs[way].append(analyzed(report, words, Path(place) / "tables"))
            taken = {way: statistics.median(one.cpu_s for one in many) for way, many in runs.items()}
            own, none, hand = taken.values()
            peak = max(one.peak_bytes for one in runs["with its engine"])
            print(f"| {title} | {own:.2f} s | {own / none:.2f} | {own / hand:.2f} | {100 * read / own:.1f} % | "
                  f"{peak / 1e9:.2f} GB |", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
