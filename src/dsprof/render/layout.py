"""The summary as titled grids of text, the same for terminal, Markdown and HTML."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from attrs import frozen

from dsprof.families import OTHER
from dsprof.render import units
from dsprof.requests import DRIFT_ERRORS
from dsprof.roofs import StageRoof
from dsprof.stages import NO_STAGE, OUTSIDE_CUDA
from dsprof.summary import (
    FamilyLine,
    InstanceLine,
    KernelLine,
    OutlierLine,
    RequestLine,
    StageLine,
    StepLine,
    Summary,
)

#: With more instances than this the summary shows the stages only; `stage_trace` holds them all.
MOST_INSTANCES = 12
#: With more requests than this the summary shows the median one and the slowest; `request_trace` holds them all.
MOST_REQUESTS = 12
#: How many kernel families the summary names; `stage_family_sum` holds them all.
MOST_FAMILIES = 6


@frozen
class Grid:
    """A titled table of text; the first `names` columns are text, the others numbers set to the right; notes below."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1
    notes: tuple[str, ...] = ()


def grids(summary: Summary) -> list[Grid]:
    """What the summary shows, in order."""
    on_gpu = bool(summary.counts.kernels)
    stages = _stages(summary.stages, on_gpu)
    shown = [stages] if stages.rows else []
    if summary.requests:
        shown.append(_requests(summary.requests, on_gpu))
    alone = [line for line in summary.instances if line.request is None]
    if 0 < len(alone) <= MOST_INSTANCES:
        shown.append(_instances(alone, on_gpu))
    if summary.steps:
        shown.append(_steps(summary.steps, summary.outliers, on_gpu))
    if summary.roofs:
        shown.append(_roofs(summary.roofs))
    if summary.families:
        shown.append(_families(summary.families))
    names = dict.fromkeys(line.stage for line in summary.top_kernels)
    return shown + [_kernels(name, [x for x in summary.top_kernels if x.stage == name]) for name in names]


def headline(summary: Summary) -> list[tuple[str, str]]:
    """The report in a few labelled lines."""
    report, counts = summary.report, summary.counts
    gpus = list(dict.fromkeys(gpu.name for gpu in report.gpus))
    many = f"{len(report.gpus)} x " if len(report.gpus) > 1 and len(gpus) == 1 else ""
    driver = f", driver {report.driver}" if report.driver else ""
    exporter = f"exported by nsys {report.exporter or 'unknown'} (schema {report.schema or 'unknown'})"
    processes = f"{len(counts.processes)} process{'es' * (len(counts.processes) != 1)}, {counts.threads} threads"
    if counts.threads == 1:
        processes = processes.removesuffix("s")
    held = ((counts.ranges, "ranges"), (counts.api_calls, "API calls"), (counts.kernels, "kernels"),
            (counts.memory_operations, "copies and sets"))  # fmt: skip
    events = ", ".join(f"{units.count(number)} {what}" for number, what in held)
    return [
        ("report", f"{report.file}, {units.time(report.duration_ns or None)}, {processes}"),
        ("GPU", f"{many}{', '.join(gpus) or 'none named in the report'}{driver}"),
        ("nsys", exporter),
        ("events", events),
    ]


def coverage(summary: Summary) -> str:
    """How much of the report the stages hold, and what would tell more of it."""
    return f"{_coverage(summary)} {summary.roofs_note}".strip()


def _coverage(summary: Summary) -> str:
    seen = summary.coverage
    if not seen.kernels:
        return "No kernels were recorded, so times are host times."
    found = seen.thread + seen.process
    by_process = f", {units.count(seen.process)} of them through another thread of the process" if seen.process else ""
    return (f"{units.count(found)} of {units.count(seen.kernels)} kernels ({seen.staged_pct:.1f} %) were launched in a "
            f"stage{by_process}.")  # fmt: skip


def _stages(lines: Sequence[StageLine], on_gpu: bool) -> Grid:
    header = [
        "stage",
        "n",
        "tokens",
        "tokens/s",
        "wall",
        "mean",
        "GPU busy",
        "busy",
        "kernels",
        "launches",
        "memcpy",
    ]
    rows = [[
        x.stage, units.count(x.instances), units.count(x.tokens), units.rate(x.tokens_per_s),
        units.time(x.wall_total_ns), units.time(x.wall_mean_ns), units.time(x.gpu_busy_total_ns),
        units.percent(x.busy_pct), units.count(x.kernels_total), units.count(x.launches_total),
        units.time(x.memcpy_total_ns),
    ] for x in lines if x.instances or x.stage == NO_STAGE]  # fmt: skip
    return _without_gpu("Stages", header, rows, on_gpu, first=6)


def _instances(lines: Sequence[InstanceLine], on_gpu: bool) -> Grid:
    header = [
        "stage",
        "#",
        "request",
        "tokens",
        "wall",
        "GPU busy",
        "busy",
        "GPU idle",
        "kernels",
        "launches",
        "sync",
    ]
    rows = [[
        x.stage, units.count(x.instance), units.count(x.request), units.count(x.tokens), units.time(x.wall_ns),
        units.time(x.gpu_busy_ns), units.percent(x.busy_pct), units.time(x.gpu_idle_ns), units.count(x.kernels),
        units.count(x.launches), units.time(x.sync_ns),
    ] for x in lines]  # fmt: skip
    return _without_gpu("Stages in no request", header, rows, on_gpu, first=5)


#: The words of a request's latencies, and the fields that hold them.
_LATENCIES = {"TTFT": "ttft_host_ns", "TTFT GPU": "ttft_gpu_ns", "TPOT": "tpot_host_ns", "TPOT GPU": "tpot_gpu_ns",
              "busy/token": "tpot_busy_ns"}  # fmt: skip


def _requests(lines: Sequence[RequestLine], on_gpu: bool) -> Grid:
    """Latencies of each request, or of the median and the slowest one; a star marks a warm-up."""
    latencies = [(word, field) for word, field in _LATENCIES.items() if on_gpu or field.endswith("host_ns")]
    notes: list[str] = []
    many, steady = len({line.pid for line in lines}) > 1, [line for line in lines if line.steady]
    header = ("request", "prompt", "new", *(word for word, _ in latencies), "tokens/s", "end to end")

    def cells(label: str, value: Callable[[str], Any]) -> tuple[str, ...]:
        times = (units.time(value(field)) for _, field in latencies)
        tokens = (units.count(None if value(field) is None else round(value(field)))
                  for field in ("prompt_tokens", "new_tokens"))  # fmt: skip
        return (label, *tokens, *times, units.rate(value("tokens_per_s")), units.time(value("e2e_ns")))

    def one(line: RequestLine) -> tuple[str, ...]:
        label = f"{line.request}{f' of {line.pid}' if many else ''}{'' if line.steady else ' *'}"
        return cells(label, lambda field: getattr(line, field))

    if len(lines) <= MOST_REQUESTS:
        rows = [one(line) for line in lines]
    else:
        steady = steady or list(lines)
        slowest = max(steady, key=lambda line: line.e2e_ns)
        rows = [cells("median", lambda field: _median(steady, field)), one(slowest)]
        notes.append(f"The median of each column over {len(steady)} steady requests, and the slowest of them.")
    if len(steady) < len(lines):
        left = len(lines) - len(steady)
        notes.append(f"* warm-up, left out of verdicts and of the steps below: {left} of {len(lines)} requests.")
    return Grid("Requests", header, tuple(rows), notes=tuple(notes))


def _median(lines: Sequence[RequestLine], field: str) -> float | None:
    """Over the lines that have a value."""
    values = [getattr(line, field) for line in lines if getattr(line, field) is not None]
    return statistics.median(values) if values else None


def _steps(lines: Sequence[StepLine], outliers: Sequence[OutlierLine], on_gpu: bool) -> Grid:
    """Percentiles of the steady steps on host and GPU, their drift, and the slowest of them by name."""
    header = ("stage", "time", "steps", "p50", "p90", "p99", "max", "mean", "drift/1 000 tokens")
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for line in lines:
        for word, stem in (("host", "duration"), ("GPU busy", "gpu_busy"))[: 1 + on_gpu]:
            values = [getattr(line, f"{stem}_{part}_ns") for part in ("p50", "p90", "p99", "max", "mean")]
            stage, count = (line.stage, units.count(line.steps)) if word == "host" else ("", "")
            rows.append((stage, word, count, *map(units.time, values), _drift(line, stem)))
        notes += [_outlier(one, line) for one in [x for x in outliers if x.stage == line.stage][:1]]
        if line.warm_up_steps:
            notes.append(f"Steps of {line.stage} left out as a warm-up: {units.count(line.warm_up_steps)}.")
    return Grid("Steps", header, tuple(rows), 2, tuple(notes))


def _drift(line: StepLine, stem: str) -> str:
    """How much longer a step takes with a thousand tokens more of context; in words where that cannot be told."""
    slope, error = (getattr(line, f"{stem}_drift{part}_ns_per_token") for part in ("", "_error"))
    if slope is None or error is None:
        return units.time(None)
    if not slope or abs(slope) < DRIFT_ERRORS * error:
        return "none"
    return f"{'+' if slope > 0 else '-'}{units.time(1000 * abs(slope))} ± {units.time(1000 * error)}"


def _outlier(one: OutlierLine, line: StepLine) -> str:
    """How many steps stand out, and the farthest of them: which, how far, and what it was in."""
    where = f"request {one.request} " if one.request is not None else ""
    inside = "outside of CUDA" if one.excess_in == OUTSIDE_CUDA else f"in {one.excess_in}"
    which = f"{where}step {one.step}, {units.time(one.duration_ns)}, {one.duration_by_median:.1f} x the median"
    return f"Outliers: {units.count(line.outliers)}; slowest: {which}: {units.time(one.excess_ns)} more {inside}."


def _without_gpu(title: str, header: list[str], rows: list[list[str]], on_gpu: bool, first: int) -> Grid:
    """A grid that ends before the GPU's columns where the report holds nothing of a GPU."""
    if not on_gpu:
        header, rows = header[:first], [row[:first] for row in rows if row[0] != NO_STAGE]
    return Grid(title, tuple(header), tuple(tuple(row) for row in rows))


def _roofs(lines: Sequence[StageRoof]) -> Grid:
    """How near each stage came to the roofs; all is of one instance, of one step for a decode."""
    header = ("stage", "FLOPs", "bytes", "MFU", "busy MFU", "bandwidth", "busy bw", "roof", "at roof", "took")
    first, rows = lines[0], []
    for x in lines:
        per, label = (x.tokens, f"{x.stage}/step") if x.token_roof_ns is not None else (x.instances, x.stage)
        rows.append((
            label, units.flops(x.model_flops / per), units.size(x.model_bytes / per), units.percent(x.mfu_pct),
            units.percent(x.busy_mfu_pct), units.percent(x.bandwidth_pct), units.percent(x.busy_bandwidth_pct), x.roof,
            units.time(x.roof_ns / per), units.time(x.wall_ns / per),
        ))  # fmt: skip
    peaks = f"{units.flops(first.peak_flops_per_s)}/s {first.unit} (dense), {units.size(first.peak_bytes_per_s)}/s"
    return Grid(f"Roofs of {first.gpu}: {peaks}", header, tuple(rows))


def _families(lines: Sequence[FamilyLine]) -> Grid:
    """Shares of kernel time: a row per family, a column per stage; the last row is what no rule fits."""
    stages = tuple(dict.fromkeys(x.stage for x in lines))
    share = {(x.family, x.stage): x.share_pct for x in lines}
    known = [family for family in dict.fromkeys(x.family for x in lines) if family != OTHER]
    known.sort(key=lambda family: -sum(share.get((family, stage), 0.0) for stage in stages))
    rest = known[MOST_FAMILIES:] if len(known) > MOST_FAMILIES + 1 else []
    named = [(family, [family]) for family in known[: len(known) - len(rest)]]
    if rest:
        named.append((f"{len(rest)} more families", rest))
    named.append((f"{OTHER} (no rule fits)", [OTHER]))
    rows = [(label, *(units.percent(sum(share.get((family, stage), 0.0) for family in of)) for stage in stages))
            for label, of in named]  # fmt: skip
    return Grid("Kernel families", ("share of kernel time", *stages), tuple(rows))


def _kernels(stage: str, lines: Sequence[KernelLine]) -> Grid:
    rows = [(x.short_name, units.percent(x.share_pct), units.time(x.total_ns), units.count(x.instances),
             units.time(x.avg_ns)) for x in lines]  # fmt: skip
    return Grid(f"Top kernels of {stage}", ("kernel", "share", "total", "instances", "avg"), tuple(rows))
