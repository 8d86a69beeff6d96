"""What recording costs: one model, the same requests, with and without ranges, with and without nsys.

usage: python benchmarks/overhead.py [--size tiny|full] [--requests N] [--tokens N] [--nsys PATH]

Prints a table in Markdown. Settings take turns within one process, so that a machine that grows slower meets all of
them alike; read the ratios, not the milliseconds. On a GPU every request is synchronized at its end, outside of its
ranges.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dsprof.nsys.command import find_nsys, nsys_version, run_nsys
from dsprof.workloads import tiny
from dsprof.workloads.ranges import open_domain
from dsprof.workloads.segmenter import NoDomain, Segmenter

#: What is compared: no segmenter at all, its host times alone, and NVTX ranges at each level of modules.
PARTS = ("request", "prefill", "decode")
SETTINGS = ("plain", "times only", "none", "stages", "layers", "all")


def prepare(size: str, tokens: int) -> tuple[Any, dict[str, Any]]:
    """A model and the arguments of its requests."""
    import torch
    from PIL import Image

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    model, processor = tiny.build(size, 0, "bfloat16" if device == "cuda" else "float32", device)
    image = Image.new("RGB", (640, 480), "white")
    inputs = processor(images=image, text="<image>\nFree OCR. ", return_tensors="pt").to(device, dtype=model.dtype)
    return model, {**inputs, "max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False}


def request(model: Any, arguments: dict[str, Any], setting: str) -> dict[str, float]:
    """Seconds of one request under a setting: whole, and of prefill and decode where a segmenter tells them."""
    import torch

    def run() -> None:
        with torch.inference_mode():
            model.generate(**arguments)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    begin, stages = time.perf_counter(), []
    if setting == "plain":
        run()
    else:
        level = "none" if setting == "times only" else setting
        with Segmenter(model, level, NoDomain() if setting == "times only" else open_domain()) as segmenter:
            run()
        stages = segmenter.timings[0].stages
    whole = time.perf_counter() - begin
    return {"request": whole, **{stage.stage: stage.duration_ns / 1e9 for stage in stages}}


def measure(size: str, requests: int, tokens: int) -> dict[str, dict[str, float]]:
    """Median seconds under each setting, after one round that is not counted."""
    model, arguments = prepare(size, tokens)
    taken: dict[str, list[dict[str, float]]] = {setting: [] for setting in SETTINGS}
    for turn in range(requests + 1):
        for setting in SETTINGS:
            took = request(model, arguments, setting)
            if turn:
                taken[setting].append(took)
    return {setting: _medians(runs) for setting, runs in taken.items()}


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {part: statistics.median(run[part] for run in runs) for part in runs[0]}


def in_a_process(nsys: Path | None, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The measurement in a process of its own, which nsys profiles where one is given."""
    with tempfile.TemporaryDirectory(prefix="dsprof-overhead-") as folder:
        out = Path(folder, "seconds.json")
        program = [__file__, "--inner", str(out), "--size", options.size, "--requests", str(options.requests),
                   "--tokens", str(options.tokens)]  # fmt: skip
        profile = ["profile", "--trace=cuda,nvtx", "--sample=none", "--cpuctxsw=none", f"--output={folder}/run"]
        command = [*profile, sys.executable, *program] if nsys else program
        outcome = run_nsys(nsys or Path(sys.executable), command, limit_s=1800)
        if not out.is_file():
            raise SystemExit(f"the run ended with {outcome.code}: {outcome.said[-500:]}")
        return dict(json.loads(out.read_text()))


def medians(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Median over the processes, setting by setting."""
    return {setting: _medians([run[setting] for run in runs]) for setting in SETTINGS}


def table(outside: dict[str, dict[str, float]], inside: dict[str, dict[str, float]]) -> str:
    """Milliseconds, and the ratio to the setting of the same column that has no ranges."""
    lines = [
        "| ranges | request | prefill | decode | request, nsys | prefill, nsys | decode, nsys |",
        "|---" + "|---:" * 6 + "|",
    ]
    for setting in SETTINGS:
        cells = [_cell(seconds, setting, part) for seconds in (outside, inside) for part in PARTS]
        lines.append(f"| {' | '.join([setting, *cells])} |")
    ratio = inside["plain"]["request"] / outside["plain"]["request"]
    return "\n".join([*lines, "", f"nsys itself, a plain request under it to one without: {ratio:.3f}"])


def _cell(seconds: dict[str, dict[str, float]], setting: str, part: str) -> str:
    if part not in seconds[setting]:
        return "-"
    base = seconds["plain" if part == "request" else "times only"][part]
    return f"{1e3 * seconds[setting][part]:.1f} ms ({seconds[setting][part] / base:.3f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="tiny", choices=tiny.SIZES)
    parser.add_argument("--requests", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--processes", type=int, default=3, help="with and without nsys, in turn")
    parser.add_argument("--nsys")
    parser.add_argument("--inner", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inner:
        options.inner.write_text(json.dumps(measure(options.size, options.requests, options.tokens)))
        return
    nsys = find_nsys(options.nsys)
    pairs = [(in_a_process(None, options), in_a_process(nsys, options)) for _ in range(options.processes)]
    machine = f"{platform.machine()}, Python {platform.python_version()}, nsys {nsys_version(nsys)}"
    print(f"{options.requests} requests of {options.tokens} tokens in each of {options.processes} processes, model "
          f"{options.size}, {machine}\n")  # fmt: skip
    print(table(medians([one for one, _ in pairs]), medians([other for _, other in pairs])))


if __name__ == "__main__":
    main()
