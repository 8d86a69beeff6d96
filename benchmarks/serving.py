"""Do a recording's step ranges say what the scheduler counted? Serving loops under nsys, and their own record beside.

usage: python benchmarks/serving.py --nsys NSYS [--out FOLDER] [--only VARIANT ...] [CAPTURE OPTIONS ...]

Each variant is `dsprof capture --serve`, with the capture's options behind it (usual: --serve 48 --model llama). The
names of the ranges are read from the export with SQLite alone, in the order of their begin, and held against the steps
and sums of session.json, which the library's own objects said after each step. Ends with 1 where one token differs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import sqlite3
import subprocess
import sys
import tempfile
from bisect import bisect
from contextlib import closing
from pathlib import Path
from typing import Any

#: What is served how; CUDA graphs and async batching need a GPU.
VARIANTS: dict[str, list[str]] = {
    "plain": [],
    "arrivals": ["--arrival-rate", "50"],
    "preemption": ["--batching", "num_blocks=24", "--batching", "safety_margin=0"],
    "graphs": ["--batching", "use_cuda_graph=true"],
    "async": ["--batching", "use_cuda_graph=true", "--batching", "use_async_batching=true"],
}
USUAL = ["--serve", "48", "--model", "llama", "--max-new-tokens", "128"]
COUNTS = ("context_requests", "context_tokens", "generation_requests", "generation_tokens")
STEP = re.compile(r"execute_context_(\d+)\((\d+)\)_generation_(\d+)\((\d+)\)")
_RANGES = """
    SELECT e.start, e.end, coalesce(e.text, s.value) AS name, e.globalTid
    FROM NVTX_EVENTS AS e LEFT JOIN StringIds AS s ON s.id = e.textId
    WHERE e.eventType = 59 AND name LIKE 'execute_context_%' ORDER BY e.start
"""


_KERNELS = """
    SELECT r.globalTid, r.start FROM CUPTI_ACTIVITY_KIND_KERNEL AS k JOIN CUPTI_ACTIVITY_KIND_RUNTIME AS r
    ON r.correlationId = k.correlationId AND (r.globalTid & ~0xFFFFFF) = k.globalPid
"""


def ranges_of(export: Path) -> list[tuple[int, int | None, str, int]]:
    """Begin, end, name and thread of the steps' ranges, by begin."""
    with closing(sqlite3.connect(f"{export.resolve().as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(_RANGES).fetchall()


def numbers_of(name: str) -> dict[str, int]:
    """What a range's name says."""
    found = STEP.fullmatch(name)
    if found is None:
        raise ValueError(f"a range called {name!r}")
    return dict(zip(COUNTS, map(int, found.groups()), strict=True))


def differences(folder: Path) -> list[str]:
    """Where the recording in a session's folder and the library's own count differ: sentences, none if all is equal."""
    served = json.loads((folder / "session.json").read_text(encoding="utf-8"))["served"]
    ranges = ranges_of(folder / "run.sqlite")
    said, counted = [numbers_of(name) for _, _, name, _ in ranges], served["steps"]
    found = []
    if len(said) != len(counted):
        found.append(f"{len(said)} ranges, {len(counted)} steps")
    for number, (one, other) in enumerate(zip(said, counted, strict=False)):
        found += [f"step {number}: {key} is {one[key]}, and {other[key]} were counted" for key in COUNTS
                  if one[key] != other[key]]  # fmt: skip
    for key in COUNTS:
        total = sum(one[key] for one in said)
        if total != served["totals"][key]:
            found.append(f"{key}: {total} in names, {served['totals'][key]} counted")
    return found + _own_sums(served) + _order(ranges)


def _own_sums(served: dict[str, Any]) -> list[str]:
    """The library's steps and its requests say the same of new tokens, and every request got what it asked for."""
    found = []
    by_step, by_request = (sum(one["new_tokens"] for one in served[key]) for key in ("steps", "requests"))
    if by_step != by_request:
        found.append(f"{by_step} new tokens in steps, {by_request} in requests")
    return found + [
        f"request {one['request']}: {one['status']}, {one['new_tokens']} of {one['asked_tokens']} tokens"
        for one in served["requests"]
        if (one["status"], one["new_tokens"]) != ("FINISHED", one["asked_tokens"])
    ]


def _order(ranges: list[tuple[int, int | None, str, int]]) -> list[str]:
    """All steps are of one thread, ended, and one after the other."""
    found = ["steps of several threads"] if len({thread for *_, thread in ranges}) > 1 else []
    found += [f"{name} has no end" for _, end, name, _ in ranges if end is None]
    pairs = itertools.pairwise(ranges)
    return found + [f"{later[2]} begins within {one[2]}" for one, later in pairs if one[1] and later[0] < one[1]]


def told(folder: Path) -> str:
    """What a variant did, in a line."""
    served = json.loads((folder / "session.json").read_text(encoding="utf-8"))["served"]
    totals, steps = served["totals"], served["steps"]
    mixed = sum(bool(step["context_requests"] and step["generation_requests"]) for step in steps)
    again = sum(step["generation_tokens"] - step["generation_requests"] for step in steps)
    return (
        f"{totals['finished']} requests in {totals['steps']} steps ({mixed} mixed), {totals['prompt_tokens']} tokens of"
        f" prompts, {totals['context_tokens']} computed as context, {totals['generation_tokens']} as generation"
        f" ({again} of preempted requests), {totals['new_tokens']} new"
    )


def launched(export: Path) -> tuple[int, int]:
    """Kernels that the steps' thread launched within a step, and from the first step to the last, as the rows say."""
    ranges = ranges_of(export)
    with closing(sqlite3.connect(f"{export.resolve().as_uri()}?mode=ro", uri=True)) as database:
        try:
            calls = database.execute(_KERNELS).fetchall()
        except sqlite3.OperationalError:  # no GPU, no table
            calls = []
    if not ranges:
        return 0, 0
    thread, begins = ranges[0][3], [begin for begin, *_ in ranges]
    inside = [at for of, at in calls if of == thread and begins[0] <= at < (ranges[-1][1] or 0)]
    return sum(at < (ranges[bisect(begins, at) - 1][1] or 0) for at in inside), len(inside)


def capture(nsys: str | None, out: Path, name: str, options: list[str]) -> Path:
    """Record a variant; its session's folder. Raises `CalledProcessError`."""
    chosen = ["--nsys", nsys] if nsys else []
    command = [sys.executable, "-m", "dsprof", "capture", "--out", str(out), "--name", name, *chosen, *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return max(out.glob(f"*-{name}"))


def main() -> int:
    """Record the variants and compare; 0 where all is equal."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nsys")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    known, options = parser.parse_known_args()
    out, wrong = known.out or Path(tempfile.mkdtemp(prefix="serving-")), 0
    for name in known.only:
        try:
            folder = capture(known.nsys, out, name, [*USUAL, *options, *VARIANTS[name]])
        except subprocess.CalledProcessError as error:
            print(f"{name}: dsprof capture ended with {error.returncode}", flush=True)
            wrong += 1
            continue
        found, (within, kernels) = differences(folder), launched(folder / "run.sqlite")
        wrong += bool(found)
        said = [told(folder), f"{within} of {kernels} kernels that the steps' thread launched are in a step"]
        print(name, *said, *(found[:20] or ["equal, step by step and in sum"]), sep="\n  ", flush=True)
    print(f"in {out}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
