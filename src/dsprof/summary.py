"""The first screen as data: what the terminal, Markdown, HTML and JSON all show.

`Summary` is the document of ``--format json``; its field ``schema`` names the version of this layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from attrs import fields, frozen

from dsprof.attributed import VIA, Attributed
from dsprof.findings import Finding
from dsprof.measures import stage_totals, tally
from dsprof.names import short_kernel_name
from dsprof.roofs import ASK, StageRoof, stage_roofs, sum_roofs
from dsprof.stages import NO_STAGE
from dsprof.trace import Report, pid_of
from dsprof.verdicts import Verdict, judge

SCHEMA = "dsprof.summary/1"
#: How many outliers of each stage's steps are named; `step_trace` marks them all.
MOST_OUTLIERS = 3
#: Rows of which there are Python objects for each value at a time.
_ROWS_AT_ONCE = 4096


@frozen
class StageLine:
    """A stage over all its instances; times of the host and the GPU in ns, None where there is no value."""

    stage: str
    instances: int | None
    tokens: int | None
    tokens_per_s: float | None
    wall_total_ns: int | None
    wall_mean_ns: float | None
    gpu_busy_total_ns: int
    busy_pct: float | None
    kernels_total: int
    kernel_total_ns: int
    launches_total: int
    memcpy_total_ns: int
    memcpy_total_bytes: int | None
    sync_total_ns: int


@frozen
class InstanceLine:
    """One prefill or decode: a row of `stage_trace`."""

    stage: str
    instance: int
    request: int | None
    tokens: int | None
    duration_ns: int
    wall_ns: int
    gpu_busy_ns: int
    gpu_idle_ns: int
    busy_pct: float
    kernels: int
    launches: int
    memcpy_bytes: int
    sync_ns: int


@frozen
class RequestLine:
    """One request: a row of `request_trace`."""

    request: int
    found: str
    pid: int
    steady: bool
    prompt_tokens: int | None
    new_tokens: int | None
    ttft_host_ns: int | None
    ttft_gpu_ns: int | None
    tpot_host_ns: float | None
    tpot_gpu_ns: float | None
    tpot_busy_ns: float | None
    e2e_ns: int
    tokens_per_s: float | None
    limit_tokens_per_s: float | None


@frozen
class StepLine:
    """The steady steps of a stage: a row of `step_sum`; drifts are slopes over the tokens of context."""

    stage: str
    steps: int
    warm_up_steps: int
    outliers: int
    duration_mean_ns: float | None
    duration_p50_ns: float | None
    duration_p90_ns: float | None
    duration_p99_ns: float | None
    duration_max_ns: int | None
    gpu_busy_mean_ns: float | None
    gpu_busy_p50_ns: float | None
    gpu_busy_p90_ns: float | None
    gpu_busy_p99_ns: float | None
    gpu_busy_max_ns: int | None
    launches_p50: float | None
    kernels_p50: float | None
    duration_drift_ns_per_token: float | None
    duration_drift_error_ns_per_token: float | None
    gpu_busy_drift_ns_per_token: float | None
    gpu_busy_drift_error_ns_per_token: float | None


@frozen
class OutlierLine:
    """One of the slowest outliers among the steps of a stage: a row of `step_trace`."""

    stage: str
    instance: int | None
    request: int | None
    step: int
    duration_ns: int
    duration_by_median: float
    excess_in: str
    excess_ns: float


@frozen
class KernelLine:
    """One of the kernels that took longest in a stage."""

    stage: str
    kernel: str
    short_name: str
    share_pct: float
    total_ns: int
    instances: int
    avg_ns: float


@frozen
class FamilyLine:
    """What a family of kernels took in a stage; `other` is what no rule fits."""

    stage: str
    family: str
    share_pct: float
    total_ns: int
    instances: int


@frozen
class Coverage:
    """How many kernels came by a stage, and how."""

    kernels: int
    thread: int
    process: int
    none: int

    @property
    def staged_pct(self) -> float:
        """Kernels in a stage in percent of all; 0 where there are none."""
        return 100.0 * (self.thread + self.process) / self.kernels if self.kernels else 0.0


@frozen
class Counts:
    """How much the report holds."""

    processes: tuple[int, ...]
    threads: int
    ranges: int
    api_calls: int
    kernels: int
    memory_operations: int


@frozen
class Summary:
    """What a report says, on one screen."""

    schema: str
    dsprof: str
    report: Report
    counts: Counts
    verdicts: tuple[Verdict, ...]
    stages: tuple[StageLine, ...]
    instances: tuple[InstanceLine, ...]
    roofs: tuple[StageRoof, ...]
    roofs_note: str
    requests: tuple[RequestLine, ...]
    steps: tuple[StepLine, ...]
    outliers: tuple[OutlierLine, ...]
    families: tuple[FamilyLine, ...]
    top_kernels: tuple[KernelLine, ...]
    coverage: Coverage
    findings: tuple[Finding, ...]


def summarize(
    attributed: Attributed,
    tables: Mapping[str, pa.Table],
    findings: tuple[Finding, ...],
    version: str,
    top: int,
) -> Summary:
    """The summary of an analysis, with the `top` kernels of each stage."""
    roofs = _roofs(attributed, tables["stage_trace"], tables["stage_roof_trace"])
    return Summary(
        schema=SCHEMA,
        dsprof=version,
        report=attributed.trace.report,
        counts=_counts(attributed),
        verdicts=tuple(_verdicts(tables["stage_trace"], roofs)),
        stages=tuple(_lines(StageLine, tables["stage_sum"])),
        instances=tuple(_lines(InstanceLine, tables["stage_trace"])),
        roofs=tuple(roofs.values()),
        roofs_note=_roofs_note(attributed),
        requests=tuple(_lines(RequestLine, tables["request_trace"])),
        steps=tuple(_whole_stages(tables["step_sum"])),
        outliers=tuple(_outliers(tables["step_trace"])),
        families=tuple(_families(tables["stage_family_sum"])),
        top_kernels=tuple(top_kernels(tables["stage_kern_sum"], top)),
        coverage=_coverage(attributed),
        findings=findings,
    )


def _by_stage(table: pa.Table) -> dict[str, pa.Table]:
    """The rows of a table by their stage, stages in the order in which they come."""
    import pyarrow.compute as pc

    stage = table.column("stage").cast(pa.string())
    return {one.as_py(): table.filter(pc.equal(stage, one)) for one in stage.unique()}  # a str would load pandas


def _verdicts(stage_trace: pa.Table, roofs: Mapping[str, StageRoof]) -> list[Verdict]:
    """A verdict on each stage whose time has one cause for the better part."""
    found = (judge(stage, rows, roofs.get(stage)) for stage, rows in _by_stage(stage_trace).items())
    return [verdict for verdict in found if verdict is not None]


def _roofs(a: Attributed, stage_trace: pa.Table, stage_roof_trace: pa.Table) -> dict[str, StageRoof]:
    """How near each stage came to the roofs, over the instances that its verdict is on."""
    peaks = stage_roofs(a).peaks
    if peaks is None:
        return {}
    steady = _by_stage(stage_trace.select(["stage", "instance", "steady"]).filter(stage_trace.column("steady")))
    found = {}
    for stage, rows in _by_stage(stage_roof_trace).items():
        kept = set(steady[stage].column("instance").to_pylist()) if stage in steady else set()
        found[stage] = sum_roofs(rows.to_pylist(), kept, peaks)
    return {stage: roof for stage, roof in found.items() if roof is not None}


def _roofs_note(a: Attributed) -> str:
    """What to give for roofs, where there is a stage on a GPU to hold against them and nothing names the model."""
    return ASK if a.rules.model is None and stage_totals(a).gpu_ops[:-1].any() else ""


def _lines(line: type[Any], table: pa.Table) -> list[Any]:
    wanted = table.select([field.name for field in fields(line)])
    return [line(**row) for rows in wanted.to_batches(max_chunksize=_ROWS_AT_ONCE) for row in rows.to_pylist()]


def _whole_stages(step_sum: pa.Table) -> list[StepLine]:
    """The rows over all instances of a stage, where there is a steady step."""
    instances = step_sum.column("instance").to_pylist()
    lines = zip(_lines(StepLine, step_sum), instances, strict=True)
    return [line for line, instance in lines if instance is None and line.steps > 0]


def _outliers(step_trace: pa.Table) -> list[OutlierLine]:
    """The slowest outliers of each stage by their distance from the median, stages in order."""
    lines = _lines(OutlierLine, step_trace.filter(step_trace.column("outlier")))
    lines.sort(key=lambda line: -line.duration_by_median)
    stages = dict.fromkeys(sorted(line.stage for line in lines))
    return [line for stage in stages for line in [one for one in lines if one.stage == stage][:MOST_OUTLIERS]]


def _counts(a: Attributed) -> Counts:
    seen = tally(a)
    return Counts(
        processes=tuple(pid_of(process) for process in sorted(seen.processes)),
        threads=len(seen.threads),
        ranges=len(a.trace.ranges),
        api_calls=seen.calls,
        kernels=seen.kernels,
        memory_operations=seen.memops,
    )


def _coverage(a: Attributed) -> Coverage:
    seen = tally(a)
    count = dict(zip(VIA, seen.via, strict=True))
    return Coverage(seen.kernels, count["thread"], count["process"], count["none"])


def _families(table: pa.Table) -> list[FamilyLine]:
    """Every family of each stage; of ``(no stage)`` too where it is all there is."""
    lines = _lines(FamilyLine, table)
    kept = _shown([line.stage for line in lines])
    return [line for line in lines if line.stage in kept]


def _shown(stages: list[str]) -> list[str]:
    """The stages whose kernels a summary names, in order."""
    return [stage for stage in dict.fromkeys(stages) if stage != NO_STAGE] or [NO_STAGE]


def top_kernels(table: pa.Table, top: int) -> list[KernelLine]:
    """The first `top` rows of each stage; of ``(no stage)`` too where it is all there is."""
    rows = table.select(["stage", "kernel", "share_pct", "total_ns", "instances", "avg_ns"])
    stages = rows.column("stage").to_pylist()
    lines = []
    for stage in _shown(stages):
        first = stages.index(stage) if stage in stages else len(stages)
        chosen = rows.slice(first, min(top, stages.count(stage))).to_pylist()
        lines += [KernelLine(short_name=short_kernel_name(row["kernel"]), **row) for row in chosen]
    return lines
