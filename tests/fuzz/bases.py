"""Reports that cases begin with: small recorded ones, made ones, and what dsprof says of them undamaged."""

from __future__ import annotations

import json
import lzma
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from fuzz import oracles
from fuzz.calls import call
from trace_builder import VERSIONS, TraceBuilder

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "traces" / "samples"
#: Reports of a true GPU, the smallest first; the last are for races, which need some time.
RECORDED = ("h200-graph-node", "h200-graph-graph", "h200-graphs-node", "h200-two-processes")
LARGER = ("h200-batch", "h200-layers")
MADE = ("made", "made-oldest", "synthetic")
SMALL = (*RECORDED, *MADE)
#: Options that lead to other results, by name; each leaves aside what another run of the same report was told.
RULES: Mapping[str, tuple[str, ...]] = {
    "usual": ("--default-rules",),
    "renamed": ("--default-rules", "--stage", "prefill=^no such range$", "--stage", "first=prefill"),
    "process": ("--default-rules", "--threads", "process", "--stage", "decode=step"),
    "steps": ("--default-rules", "--step", "^request$", "--stage", "whole=^request$"),
}
_folder: Path | None = None


def prepare(folder: Path) -> None:
    """Put all reports into a folder, where they are not yet, and use them from now on."""
    global _folder
    _folder = folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*SMALL, *LARGER):
        target = folder / f"{name}.sqlite"
        if not target.exists():
            partial = target.with_suffix(".partial")
            _make(name, partial)
            partial.replace(target)


def _make(name: str, target: Path) -> None:
    if name == "made":
        made(TraceBuilder(VERSIONS[-1])).write(target)
    elif name == "made-oldest":
        made(TraceBuilder(VERSIONS[0])).write(target)
    elif name == "synthetic":
        _synthetic(target)
    else:
        with lzma.open(SAMPLES / f"{name}.sqlite.xz") as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)


def _synthetic(target: Path) -> None:
    sys.path.append(str(ROOT / "benchmarks"))
    import synth

    synth.make(target, 1500, seed=1, shuffle=True)


def path(name: str) -> Path:
    """The report of that name; it is read only."""
    assert _folder is not None, "prepare() comes first"
    return _folder / f"{name}.sqlite"


def copy(name: str, target: Path) -> Path:
    """A copy of a report, to be spoiled."""
    shutil.copyfile(path(name), target)
    return target


def made(report: TraceBuilder) -> TraceBuilder:
    """Two requests with a prefill and a decode of three steps each, copies, a graph, a helper thread."""
    new = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE" in report.schema.tables
    report.gpu()
    for request in range(2):
        begin = request * 10_000
        report.range("request", begin, begin + 8_000, payload=request)
        report.copy(at=(begin + 30, begin + 60), call=(begin + 10, begin + 20))
        _stage(report, "prefill", begin + 100, 5)
        report.range("decode", begin + 3_000, begin + 7_000)
        for step in range(3):
            at = begin + 3_100 + 1_000 * step
            report.range("decode.step", at, at + 900, payload=step + 1)
            report.kernel(f"void decode<{step}>(int)", at=(at + 300, at + 500), call=(at + 10, at + 40))
            if new:
                report.graph(at=(at + 510, at + 600), call=(at + 50, at + 70))
            report.api("cudaStreamSynchronize_v3020", call=(at + 80, at + 700))
        report.range("load", begin + 50, begin + 9_000, tid=101, domain="data", kind=60, end_tid=100)
        report.set(at=(begin + 7_500, begin + 7_600), call=(begin + 7_100, begin + 7_200), tid=101, stream=13)
    report.kernel("outside", at=(30_000, 30_100), call=(29_000, 29_050))
    if "timestamp" in report.schema.columns("DIAGNOSTIC_EVENT"):
        report.diagnostic("Some events were lost.", severity=2)
    return report.range("never closed", 28_000, None)


def _stage(report: TraceBuilder, name: str, begin: int, kernels: int) -> None:
    report.range(name, begin, begin + 2_000, payload=7)
    for number in range(kernels):
        at = begin + 300 * number
        report.kernel("ampere_sgemm_32x32_tn" if number % 2 else "void softmax<float>(float *)",
                      at=(at + 150, at + 350), call=(at + 20, at + 60))  # fmt: skip


@dataclass(frozen=True)
class Expected:
    """What dsprof says of an undamaged report under some rules: its tables, and its summary."""

    tables: Mapping[str, pa.Table]
    summary: Any


@cache
def expected(name: str, rules: str = "usual") -> Expected:
    """What is to be said of a report; the `Expected` of one that is undamaged."""
    folder = path(name).parent / f"{name}.{rules}.expected"
    report = path(name)
    ended = call("analyze", report, "--out", folder, "--format", "json", *RULES[rules])
    assert ended.code == 0, ended
    return Expected(oracles.tables_in(folder), json.loads(ended.out))
