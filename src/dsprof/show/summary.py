"""The first screen as data: what the terminal, Markdown, HTML and JSON all show.

`Summary` is the document of ``--format json``; its field ``schema`` names the version of this layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from attrs import fields

from dsprof.answers.engine_between import BetweenSteps
from dsprof.answers.engine_workers import EngineWorkers
from dsprof.answers.host_python import HostFunction, HostPython
from dsprof.answers.overhead import Cost, Overhead
from dsprof.answers.roofs import ASK, StageRoof, StageRoofs, sum_roofs
from dsprof.answers.verdicts import Culprit, Verdict, judge
from dsprof.answers.waits import StageWaits
from dsprof.answers.what_if import Prediction, as_graphs
from dsprof.attribute.ranges import VIA, RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.facts import Facts
from dsprof.findings import Finding
from dsprof.ground.arrow import bits, rows_by, rows_kept
from dsprof.measures.tally import Tally
from dsprof.measures.totals import StageTotals
from dsprof.model.peaks import link_of
from dsprof.records import frozen
from dsprof.rules.names import short_kernel_name
from dsprof.rules.rules import Rules
from dsprof.trace import Report, pid_of
from dsprof.words import NO_MODULE, NO_STAGE

SCHEMA = "dsprof.summary/2"
#: How many kernels of each stage a summary names unless it is told otherwise.
TOP_KERNELS = 3
#: How many outliers of each stage's steps are named; `step_trace` marks them all.
MOST_OUTLIERS = 3
#: How many ranges between the steps of an engine are named.
MOST_BETWEEN = 3
#: How many modules of each stage are named, indexes folded; `layer_sum` holds them all.
MOST_LAYERS = 6
#: How many range names of a report without stages are named; `range_sum` holds them all.
MOST_RANGES = 8
#: Rows of which there are Python objects for each value at a time.
_ROWS_AT_ONCE = 4096


@frozen
class StageLine:
    """A stage over its steady instances, or over its warm-up; times in ns, None where there is no value."""

    stage: str
    warm_up: bool
    instances: int | None
    tokens: int | None
    tokens_per_s: float | None
    wall_total_ns: int | None
    wall_mean_ns: float | None
    wall_p50_ns: float | None
    gpu_busy_total_ns: int
    busy_pct: float | None
    work_pct: float | None
    compute_total_ns: int
    transfer_total_ns: int | None
    wait_total_ns: int | None
    unmatched_total_ns: int
    other_total_ns: int
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
    batch: int | None
    tokens: int | None
    duration_ns: int
    wall_ns: int
    gpu_busy_ns: int
    gpu_idle_ns: int
    busy_pct: float
    wait_ns: int | None
    kernels: int
    launches: int
    memcpy_bytes: int
    sync_ns: int


@frozen
class RankLine:
    """A stage on one of several ranks: a row of `rank_sum`."""

    stage: str
    rank: int | None
    pid: int
    device_id: int
    group: int | None
    collectives: int
    matched: int
    last_pct: float | None
    busy_ns: int
    compute_busy_ns: int
    transfer_exposed_ns: int | None
    transfer_hidden_ns: int | None
    wait_exposed_ns: int | None
    wait_hidden_ns: int | None
    unmatched_exposed_ns: int
    other_busy_ns: int
    launches: int
    wall_ns: int | None
    host_ns: int | None
    host_in_calls_ns: int | None
    compute_vs_median_pct: float | None
    host_vs_median_pct: float | None


@frozen
class RequestLine:
    """One request: a row of `request_trace`."""

    request: int
    found: str
    pid: int
    ranks: int
    steady: bool
    batch: int | None
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
    """The steady steps of a stage: a row of `step_sum`; drifts are slopes over the tokens of context.

    Of an engine's mode: `cut_steps` are left out, `requests` and `tokens` are those of a step, `interval` is from its
    begin to that of the next one.
    """

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
    gpu_work_mean_ns: float | None
    gpu_work_p50_ns: float | None
    gpu_work_p90_ns: float | None
    gpu_work_p99_ns: float | None
    gpu_work_max_ns: int | None
    launches_p50: float | None
    kernels_p50: float | None
    cut_steps: int
    requests_p50: float | None
    tokens_p50: float | None
    interval_p50_ns: float | None
    interval_p90_ns: float | None
    interval_p99_ns: float | None
    context_min_tokens: int | None
    context_max_tokens: int | None
    duration_drift_ns_per_token: float | None
    duration_drift_error_ns_per_token: float | None
    gpu_busy_drift_ns_per_token: float | None
    gpu_busy_drift_error_ns_per_token: float | None
    gpu_work_drift_ns_per_token: float | None
    gpu_work_drift_error_ns_per_token: float | None


@frozen
class EngineLine:
    """What a serving engine ran on a thread, all in all (`mode` is None) or in one mode: a row of `engine_sum`."""

    engine: str
    form: str
    pid: int
    tid: int
    mode: str | None
    steps: int
    pauses: int
    context_requests: int | None
    context_tokens: int | None
    generation_requests: int | None
    generation_tokens: int | None
    max_requests: int | None
    span_ns: int | None
    pause_ns: int
    active_ns: int | None
    in_range_ns: int
    after_range_ns: int
    between_ns: int
    gpu_busy_ns: int
    kernels: int
    context_tokens_per_s: float | None
    output_tokens_per_s: float | None
    token_interval_p50_ns: float | None
    token_interval_p90_ns: float | None
    token_interval_p99_ns: float | None


@frozen
class BetweenLine:
    """A range between the steps of an engine, with its share of the time between the ranges of these."""

    name: str
    instances: int
    total_ns: int
    share_pct: float


@frozen
class WorkerLine:
    """A thread that runs an engine's steps; `alike` do the same ones, itself among them, 0: another stands for it.

    `requests`: the mean size of its batch in equal stretches of its time, None where its steps do not say it;
    `between`: the ranges of the thread that took most of the time between its steps.
    """

    engine: str
    pid: int
    tid: int
    alike: int
    requests: tuple[float | None, ...]
    between: tuple[BetweenLine, ...]


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
class LayerLine:
    """Modules of a stage that differ in indexes alone: sums of rows of `layer_sum`; `module` is the folded name."""

    stage: str
    module: str
    modules: int
    calls: int
    kernels: int
    graph_kernels: int
    total_ns: int
    share_pct: float
    exclusive_total_ns: int
    exclusive_pct: float


@frozen
class RangeLine:
    """One of the range names that kept the GPU busiest: a row of `range_sum`; only of a report without stages."""

    name: str
    domain: str
    style: str
    instances: int
    total_ns: int
    gpu_busy_ns: int
    kernels: int


@frozen
class RuleLine:
    """A rule other than the usual, as its option; `remembered`: an earlier analysis named it, and nobody this time.

    `file`: the rules file that says it, in words; empty where none does.
    """

    option: str
    value: str
    remembered: bool
    file: str = ""


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
    ranks: tuple[RankLine, ...]
    roofs: tuple[StageRoof, ...]
    roofs_note: str
    requests: tuple[RequestLine, ...]
    steps: tuple[StepLine, ...]
    outliers: tuple[OutlierLine, ...]
    engines: tuple[EngineLine, ...]
    workers: tuple[WorkerLine, ...]
    families: tuple[FamilyLine, ...]
    top_kernels: tuple[KernelLine, ...]
    layers: tuple[LayerLine, ...]
    ranges: tuple[RangeLine, ...]
    costs: tuple[Cost, ...]
    coverage: Coverage
    findings: tuple[Finding, ...]
    rules: tuple[RuleLine, ...] = ()

    @property
    def has_stages(self) -> bool:
        """Is there a prefill or a decode, or a step of an engine?"""
        return bool(self.instances or self.engines)


def summarize(
    facts: Facts,
    tables: Mapping[str, pa.Table],
    findings: tuple[Finding, ...],
    version: str,
    top: int,
) -> Summary:
    """The summary of an analysis, with the `top` kernels of each stage."""
    roofs = _roofs(facts[StageRoofs], tables["stage_trace"], tables["stage_roof_trace"])
    return Summary(
        schema=SCHEMA,
        dsprof=version,
        report=facts[RangeTree].report,
        counts=_counts(facts[Tally], len(facts[RangeTree].ranges)),
        verdicts=tuple(
            _verdicts(
                tables,
                roofs,
                facts[Overhead],
                facts.call(_python),
                facts.call(as_graphs),
                facts[StageRanges],
                facts[StageWaits],
                link_of(gpu.name for gpu in facts[RangeTree].report.gpus),
            )
        ),
        stages=tuple(_lines(StageLine, tables["stage_sum"])),
        instances=tuple(_lines(InstanceLine, facts.call(_of_no_engine, stage_trace=tables["stage_trace"]))),
        ranks=tuple(_of_several(_lines(RankLine, tables["rank_sum"]))),
        roofs=tuple(roofs.values()),
        roofs_note=facts.call(_roofs_note),
        requests=tuple(_lines(RequestLine, tables["request_trace"])),
        steps=tuple(_whole_stages(tables["step_sum"])),
        outliers=tuple(_outliers(tables["step_trace"])),
        engines=tuple(_lines(EngineLine, tables["engine_sum"])),
        workers=facts.call(_workers),
        families=tuple(_families(tables["stage_family_sum"])),
        top_kernels=tuple(top_kernels(tables["stage_kern_sum"], top)),
        layers=tuple(_layers(tables["layer_sum"])),
        ranges=() if len(tables["stage_trace"]) else tuple(_busiest(tables["range_sum"])),
        costs=facts[Overhead].costs,
        coverage=_coverage(facts[Tally]),
        findings=findings,
    )


def _verdicts(
    tables: Mapping[str, pa.Table],
    roofs: Mapping[str, StageRoof],
    overhead: Overhead,
    python: Mapping[str, tuple[HostFunction, ...]],
    graphs: Mapping[str, Prediction],
    staged: StageRanges,
    waits: StageWaits,
    link: float | None,
) -> list[Verdict]:
    """A verdict on each stage that ran kernels."""
    costs = {cost.stage: cost for cost in overhead.costs if not cost.of_steps}
    families, kernels = (rows_by(tables[name], "stage") for name in ("stage_family_sum", "stage_kern_sum"))
    found = []
    for stage, rows in rows_by(tables["stage_trace"], "stage").items():
        first = [one[stage].slice(0, 1).to_pylist()[0] for one in (families, kernels) if stage in one]
        culprit = _culprit(*first) if len(first) == 2 else None
        about = (roofs.get(stage), culprit, costs.get(stage), python.get(stage, ()), graphs.get(stage))
        ranks = waits.of_stage.get(stage, ())
        found.append(judge(stage, rows, *about, of_engine=stage in staged.engine.modes, ranks=ranks, link=link))
    return [verdict for verdict in found if verdict is not None]


def _culprit(family: Mapping[str, Any], kernel: Mapping[str, Any]) -> Culprit:
    """What takes most of a stage, from the first of its rows."""
    return Culprit(family["family"], family["share_pct"], short_kernel_name(kernel["kernel"]), kernel["share_pct"])


def _python(tree: RangeTree, staged: StageRanges, found: HostPython) -> dict[str, tuple[HostFunction, ...]]:
    """By stage: what most of the samples of Python outside of CUDA are in."""
    return {staged.names[code]: most for code, most in found.evidence(tree.names).items()}


def _roofs(known: StageRoofs, stage_trace: pa.Table, stage_roof_trace: pa.Table) -> dict[str, StageRoof]:
    """How near each stage came to the roofs, over the instances that its verdict is on."""
    if known.peaks is None:
        return {}
    numbers = stage_trace.select(["stage", "instance"])
    steady = rows_by(rows_kept(numbers, stage_trace.column("steady")), "stage")
    found = {}
    for stage, rows in rows_by(stage_roof_trace, "stage").items():
        kept = set(steady[stage].column("instance").to_pylist()) if stage in steady else set()
        found[stage] = sum_roofs(rows.to_pylist(), kept, known.peaks)
    return {stage: roof for stage, roof in found.items() if roof is not None}


def _roofs_note(rules: Rules, staged: StageRanges, totals: StageTotals) -> str:
    """What to give for roofs, where there is a stage on a GPU to hold against them and nothing names the model."""
    named = rules.model is not None and rules.model.names_model
    return ASK if not named and totals.gpu_ops[:-1][staged.engine_row < 0].any() else ""


def _of_no_engine(staged: StageRanges, stage_trace: pa.Table) -> pa.Table:
    """The rows of `stage_trace` that are no steps of an engine, of which there may be very many."""
    return rows_kept(stage_trace, bits(staged.engine_row < 0))


def _of_several(lines: list[RankLine]) -> list[RankLine]:
    """Those of ranks that make their collectives together; of ``(no stage)`` too where it is all there is."""
    some = [line for line in lines if line.group is not None and line.collectives]
    kept = _shown([line.stage for line in some])
    return [line for line in some if line.stage in kept]


def _workers(
    tree: RangeTree, staged: StageRanges, workers: EngineWorkers, between: BetweenSteps
) -> tuple[WorkerLine, ...]:
    """Each thread with an engine's steps, and how many do what it does."""
    found = []
    for place, worker in enumerate(staged.engine.workers):
        alike = int((workers.alike == place).sum())
        requests = tuple(None if mean != mean else round(mean, 2) for mean in workers.requests[place].tolist())
        most = _between(tree.names, between, place)
        pid, tid = pid_of(worker.thread), worker.thread & 0xFFFFFF
        found.append(WorkerLine(worker.title, pid, tid, alike, requests, most))
    return tuple(found)


def _between(names: tuple[str, ...], found: BetweenSteps, worker: int) -> tuple[BetweenLine, ...]:
    """The ranges that took most of the time between the steps of a worker."""
    whole = int(found.whole_ns[worker])
    rows = [row for row in range(len(found.worker)) if found.worker[row] == worker and whole]
    rows.sort(key=lambda row: (-int(found.total_ns[row]), names[found.name[row]]))
    return tuple(
        BetweenLine(names[found.name[row]], int(found.instances[row]), int(found.total_ns[row]),
                    100 * int(found.total_ns[row]) / whole)
        for row in rows[:MOST_BETWEEN]
    )  # fmt: skip


def _lines(line: type[Any], table: pa.Table) -> list[Any]:
    wanted = table.select([field.name for field in fields(line)])
    return [line(**row) for rows in wanted.to_batches(max_chunksize=_ROWS_AT_ONCE) for row in rows.to_pylist()]


def _whole_stages(step_sum: pa.Table) -> list[StepLine]:
    """The rows over all instances of a stage, where there is a steady step."""
    parts = (step_sum.column("instance").to_pylist(), step_sum.column("batch_max").to_pylist())
    lines = zip(_lines(StepLine, step_sum), *parts, strict=True)
    return [line for line, *part in lines if part == [None, None] and line.steps > 0]


def _outliers(step_trace: pa.Table) -> list[OutlierLine]:
    """The slowest outliers of each stage by their distance from the median, stages in order."""
    lines = _lines(OutlierLine, rows_kept(step_trace, step_trace.column("outlier")))
    lines.sort(key=lambda line: -line.duration_by_median)
    stages = dict.fromkeys(sorted(line.stage for line in lines))
    return [line for stage in stages for line in [one for one in lines if one.stage == stage][:MOST_OUTLIERS]]


def _counts(seen: Tally, ranges: int) -> Counts:
    return Counts(
        processes=tuple(pid_of(process) for process in sorted(seen.processes)),
        threads=len(seen.threads),
        ranges=ranges,
        api_calls=seen.calls,
        kernels=seen.kernels,
        memory_operations=seen.memops,
    )


def _coverage(seen: Tally) -> Coverage:
    count = dict(zip(VIA, seen.via, strict=True))
    return Coverage(seen.kernels, count["thread"], count["process"], count["none"])


def _busiest(range_sum: pa.Table) -> list[RangeLine]:
    """The range names in which the GPU was busy longest; where it did nothing, those that took longest on the host."""
    order = [("gpu_busy_ns", "descending"), ("total_ns", "descending")]
    return _lines(RangeLine, range_sum.sort_by(order).slice(0, MOST_RANGES))


def _layers(table: pa.Table) -> list[LayerLine]:
    """The modules that take most of each stage by themselves, and then what is in none; of stages with modules."""
    sums: dict[str, dict[str, LayerLine]] = {}
    for rows in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in rows.to_pylist():
            of_stage = sums.setdefault(row["stage"], {})
            of_stage[row["folded"]] = _with(of_stage.get(row["folded"]), row)
    kept = []
    for stage in _shown(list(sums)):
        outside, named = sums.get(stage, {}).pop(NO_MODULE, None), sums.get(stage, {}).values()
        most = sorted(named, key=lambda line: -line.exclusive_total_ns)[:MOST_LAYERS]
        kept += [line for line in (*most, outside) if line is not None and line.kernels] if most else []
    return kept


#: What is added up over modules of one folded name.
_ADDED = ("calls", "kernels", "graph_kernels", "total_ns", "share_pct", "exclusive_total_ns", "exclusive_pct")


def _with(line: LayerLine | None, row: Mapping[str, Any]) -> LayerLine:
    """A line, or none, with one more row of `layer_sum`."""
    modules = 0 if line is None else line.modules
    added = {name: (row[name] or 0) + (0 if line is None else getattr(line, name)) for name in _ADDED}
    return LayerLine(stage=row["stage"], module=row["folded"], modules=modules + 1, **added)


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
