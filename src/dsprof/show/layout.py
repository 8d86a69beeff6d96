"""The summary as titled grids of text, the same for terminal, Markdown and HTML."""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from attrs import evolve

from dsprof.answers.overhead import Cost
from dsprof.answers.roofs import StageRoof
from dsprof.answers.steps import drift_is_told
from dsprof.answers.verdicts import Verdict
from dsprof.records import frozen
from dsprof.rules.families import OTHER
from dsprof.show import units
from dsprof.show.summary import (
    TOP_KERNELS,
    EngineLine,
    FamilyLine,
    InstanceLine,
    KernelLine,
    LayerLine,
    OutlierLine,
    RangeLine,
    RankLine,
    RequestLine,
    RuleLine,
    StageLine,
    StepLine,
    Summary,
    WorkerLine,
)
from dsprof.words import NO_MODULE, NO_STAGE, OUTSIDE_CUDA

#: With more instances than this the summary shows the stages only; `stage_trace` holds them all.
MOST_INSTANCES = 12
#: With more requests than this the summary shows the median one and the slowest; `request_trace` holds them all.
MOST_REQUESTS = 4
#: With more ranks in a stage than this the summary shows those that began last most and least often.
MOST_RANKS = 4
#: So many threads of engines, and modes of their steps, are shown; `engine_sum` holds them all.
MOST_WORKERS, MOST_MODES = 2, 4
#: So many kernels of all modes together are named, one of each at least.
MOST_OF_MODES = 4
#: A mode that takes a smaller part of the time of an engine's steps has its verdict in `stage_trace` alone.
NOTABLE_PCT = 5.0
#: A mean of more than so many times the median has a long tail, and the median is shown beside it.
LONG_TAIL = 1.1
#: How many kernel families the summary names; `stage_family_sum` holds them all.
MOST_FAMILIES = 6
#: How many rows of modules there are in all, and of how much of a stage at least; `layer_sum` holds them all.
MOST_LAYERS, LEAST_LAYER_PCT = 4, 1.0
#: With more rows and findings before them the modules have half as many, so that the screen stays short.
MOST_ROWS = 12
#: A range of a longer name is not written out in the option that makes it a stage.
_LONGEST_PATTERN = 80


@frozen
class Grid:
    """A titled table of text; the first `names` columns are text, the others numbers set to the right; notes below.

    `table`: that has all of it, if one does. `low`: columns that a narrow screen may leave out, the first of them
    first. `apart`: it begins another subject.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    table: str = ""
    names: int = 1
    notes: tuple[str, ...] = ()
    low: tuple[str, ...] = ()
    apart: bool = False


def grids(summary: Summary) -> list[Grid]:
    """What the summary shows, in order."""
    on_gpu = bool(summary.counts.kernels)
    modes = {line.mode for line in summary.engines}
    others = [line for line in summary.stages if line.stage not in modes or line.stage == NO_STAGE]
    aside = "warm-up or cut" if summary.report.selection.has_window else "warm-up"
    stages = evolve(_stages(others, on_gpu, aside), notes=_of_one(summary.instances))
    shown = [stages] if any(row[0] != NO_STAGE for row in stages.rows) or (stages.rows and not modes) else []
    if summary.ranks:
        shown.append(_ranks(summary.ranks))
    if workers := [line for line in summary.workers if line.alike][:MOST_WORKERS]:
        shown += [_engine(summary, worker, on_gpu) for worker in workers] + [_throughput(summary, workers)]
    if summary.requests:
        shown.append(_requests(summary.requests, on_gpu))
    if summary.ranges:
        shown.append(_ranges(summary.ranges, on_gpu))
    alone = [line for line in summary.instances if line.request is None]
    if 0 < len(alone) <= MOST_INSTANCES:
        shown.append(_instances(alone, on_gpu))
    if steps := [line for line in summary.steps if line.stage not in modes]:
        shown.append(_steps(steps, summary.outliers, on_gpu))
    if summary.costs:
        shown.append(_costs(summary.costs))
    if summary.roofs:
        shown.append(_roofs(summary.roofs))
    return _set_apart([*shown, *_work(summary, modes, sum(len(grid.rows) for grid in shown))])


def _work(summary: Summary, modes: set[str | None], rows: int) -> list[Grid]:
    """What the GPU's work was: families, modules, kernels; of an engine's `modes` where there is a verdict.

    `rows`: how many are shown before it.
    """
    told, shown = {verdict.stage for verdict in verdicts(summary)}, list[Grid]()
    if families := [line for line in summary.families if line.stage in told or line.stage not in modes]:
        shown.append(_families(families))
    crowded = rows + sum(len(grid.rows) for grid in shown) + len(summary.findings) > MOST_ROWS
    modules = [line for line in summary.layers if line.stage in told or line.stage not in modes]
    if (layers := _layers(modules, MOST_LAYERS // 2 if crowded else MOST_LAYERS)).rows:
        shown.append(layers)
    if kernels := [line for line in summary.top_kernels if line.stage in told or line.stage not in modes]:
        most = max(1, MOST_OF_MODES // len(told)) if modes and told else TOP_KERNELS - bool(layers.rows)
        shown.append(_kernels(_fewer(kernels, most)))
    return shown


def verdicts(summary: Summary) -> list[Verdict]:
    """The verdicts that are shown: of the modes of an engine's steps, those that take a notable part of the time."""
    modes = {line.mode for line in summary.engines}
    of_engine = sorted((one for one in summary.verdicts if one.stage in modes), key=lambda one: -one.wall_ns)
    whole = sum(one.wall_ns for one in of_engine)
    shown = [one for one in of_engine[:MOST_MODES] if one.wall_ns >= NOTABLE_PCT / 100 * whole]
    return [one for one in summary.verdicts if one.stage not in modes or one in shown]


def _engine(summary: Summary, worker: WorkerLine, on_gpu: bool) -> Grid:
    """The steps of a thread with an engine by mode, and how long each took until the next one began."""
    whole, *modes = _of_worker(summary, worker)
    steps = {line.stage: line for line in summary.steps}
    busy = {line.stage: line.busy_pct for line in summary.stages if not line.warm_up}
    time = sum(map(_took, modes))
    rows = []
    for line in modes:
        step = steps.get(line.mode or "")
        numbers = [None if step is None else getattr(step, f"{stem}_p50") for stem in ("requests", "tokens")]
        times = [None if step is None else getattr(step, f"interval_p{part}_ns") for part in (50, 90, 99)]
        rows.append((
            line.mode or "", units.count(line.steps), units.percent(100 * line.steps / whole.steps),
            units.percent(100 * _took(line) / time if time else None),
            *(units.plain(_short(number)) for number in numbers), *map(units.time, times),
            units.percent(100 * line.after_range_ns / _took(line) if _took(line) else None),
            units.percent(busy.get(line.mode or "")),
        ))  # fmt: skip
    header = ("mode", "steps", "of steps", "of time", "requests", "tokens", "p50", "p90", "p99", "after range", "busy")
    low = ("after range", "of steps", "p90", "tokens")
    note = "Steps last until the next one begins; requests and tokens are medians."
    shown = len(header) if on_gpu else -1
    return Grid(
        f"{worker.engine} steps",
        header[:shown],
        tuple(row[:shown] for row in rows),
        "engine_sum",
        notes=(note,),
        low=low,
    )


def _of_worker(summary: Summary, worker: WorkerLine) -> list[EngineLine]:
    """What a thread ran all in all, and in each mode."""
    return [line for line in summary.engines if (line.pid, line.tid) == (worker.pid, worker.tid)]


def _took(line: EngineLine) -> int:
    """How long the steps of a mode took, with what lay between them and no pauses."""
    return line.in_range_ns + line.after_range_ns + line.between_ns


def _throughput(summary: Summary, shown: Sequence[WorkerLine]) -> Grid:
    """Tokens a second and times per output token of threads with an engine, and what lay between their steps."""
    header = ("throughput", "output/s", "TPOT p50", "p90", "p99", "prompt/s", "between", "pauses", "paused")
    rows, notes = [], ["Output is one token for each request that generates, at least. No range says when a request "
                       "came, so there is no TTFT."]  # fmt: skip
    for worker in shown:
        whole = _of_worker(summary, worker)[0]
        alike = f" and {worker.alike - 1} alike" if worker.alike > 1 else ""
        rows.append((
            f"pid {worker.pid}{alike}", units.rate(whole.output_tokens_per_s),
            *(units.time(getattr(whole, f"token_interval_p{part}_ns")) for part in (50, 90, 99)),
            units.rate(whole.context_tokens_per_s),
            units.percent(100 * whole.between_ns / whole.active_ns if whole.active_ns else None),
            units.count(whole.pauses), units.time(whole.pause_ns),
        ))  # fmt: skip
    if between := shown[0].between:
        each = ", ".join(f"{one.name} {units.percent(one.share_pct)}" for one in between)
        notes.append(f"Between the ranges of its steps the thread was in: {each}.")
    if curve := sparkline(shown[0].requests):
        most = _of_worker(summary, shown[0])[0].max_requests
        notes.append(f"Requests in a step over time, up to {units.count(most)}: {curve}")
    low = ("paused", "pauses", "p90", "prompt/s")
    return Grid("Throughput", header, tuple(rows), "engine_sum", notes=tuple(notes), low=low)


#: Bars of eight heights.
_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None]) -> str:
    """Values as bars from none to the greatest; empty where one is not known, or there is none above 0.

    >>> sparkline([0, 4, 8]), sparkline([4, None])
    ('▁▅█', '')
    """
    most = max((value for value in values if value is not None), default=0)
    if not most or None in values:
        return ""
    return "".join(_BARS[min(int(len(_BARS) * (x or 0) / most), len(_BARS) - 1)] for x in values)


def _short(number: float | None) -> str | None:
    """A median of whole numbers, with its half where it has one."""
    return None if number is None else f"{number:.1f}".removesuffix(".0")


def _set_apart(shown: list[Grid]) -> list[Grid]:
    """Times first; then, apart, what the GPU's work was and how near it came to the roofs."""
    work = ("stage_roof_trace", "stage_family_sum", "layer_sum", "stage_kern_sum")
    first = next((grid for grid in shown if grid.table in work), None)
    return [evolve(grid, apart=grid is first or at == 0) for at, grid in enumerate(shown)]


def headline(summary: Summary) -> list[tuple[str, str]]:
    """The report in a few labelled lines."""
    report, counts = summary.report, summary.counts
    processes = f"{len(counts.processes)} process{'es' * (len(counts.processes) != 1)}, {counts.threads} threads"
    if counts.threads == 1:
        processes = processes.removesuffix("s")
    staged = f" ({summary.coverage.staged_pct:.1f} % in a stage)" if counts.kernels and summary.has_stages else ""
    held = ((counts.ranges, "ranges"), (counts.api_calls, "API calls"), (counts.kernels, f"kernels{staged}"),
            (counts.memory_operations, "copies and sets"))  # fmt: skip
    events = ", ".join(f"{units.count(number)} {what}" for number, what in held)
    selected = [("selected", f"{report.selection}, from the capture's begin")] if str(report.selection) else []
    rules = [("rules", rules_told(summary.rules))] if summary.rules else []
    engines = [("engine", _engines(summary))] if summary.workers else []
    return [
        ("report", f"{report.file}, {units.time(report.duration_ns or None)}, {processes}"),
        ("GPU", f"{_gpus(summary)}; nsys {report.exporter or 'unknown'}"),
        *selected,
        ("events", events),
        *engines,
        *rules,
    ]


def _engines(summary: Summary) -> str:
    """The engines whose steps were found, by which names, and on how many threads."""
    found: dict[tuple[str, str], int] = {}
    for line in summary.engines:
        if line.mode is None:
            found[line.engine, line.form] = found.get((line.engine, line.form), 0) + 1
    each = (f"{engine} ({form}) on {count} thread{'s' * (count != 1)}" for (engine, form), count in found.items())
    return f"{'; '.join(each)}; --engine none leaves it aside"


def _gpus(summary: Summary) -> str:
    """The GPUs with the peaks that roofs are made of, and their driver."""
    report, roofs = summary.report, summary.roofs
    names = list(dict.fromkeys(gpu.name for gpu in report.gpus))
    many = f"{len(report.gpus)} x " if len(report.gpus) > 1 and len(names) == 1 else ""
    driver = f", driver {report.driver}" if report.driver else ""
    peaks = f" ({_peaks(roofs[0])})" if roofs else ""
    return f"{many}{', '.join(names) or 'none named in the report'}{peaks}{driver}"


def _peaks(roof: StageRoof) -> str:
    """The peaks that its roofs are made of; those of dense products."""
    rates = f"{units.flops(roof.peak_flops_per_s)}/s {roof.unit}"
    if roof.quantized_peak_flops_per_s is not None:
        rates += f", {units.flops(roof.quantized_peak_flops_per_s)}/s {roof.quantized_unit} for quantized weights"
    return f"{rates} dense, {units.size(roof.peak_bytes_per_s)}/s"


def rules_told(rules: Sequence[RuleLine]) -> str:
    """The rules other than the usual as options: those that were named now, those of a rules file, the remembered."""
    now, before = (
        " ".join(f"{x.option} {_value(x)}" for x in rules if not x.file and x.remembered is kind)
        for kind in (False, True)
    )
    told = [now] if now else []
    for file in dict.fromkeys(x.file for x in rules if x.file):
        said = " ".join(f"{x.option} {_value(x)}" for x in rules if x.file == file)
        told.append(f"from {file}: {said} (or --rules none)")
    return "; ".join([*told, *([f"remembered beside the tables: {before} (or --default-rules)"] if before else [])])


def _value(rule: RuleLine) -> str:
    """Its value, quoted for a shell where that can be pasted; what a file said is told without the file."""
    return f"({rule.value})" if rule.option in ("--families", "--model-config") else shlex.quote(rule.value)


def coverage(summary: Summary) -> str:
    """How much of the report the stages hold, where that is not all to be said of it, and what would tell more."""
    return f"{_coverage(summary)} {summary.roofs_note}".strip()


def _coverage(summary: Summary) -> str:
    seen = summary.coverage
    if not seen.kernels:
        verb = "selected" if str(summary.report.selection) else "recorded"
        return f"No kernels were {verb}, so times are host times."
    if not summary.has_stages and (lasts := summary.report.analyzed_ns):
        busy = sum(line.gpu_busy_total_ns for line in summary.stages if line.stage == NO_STAGE)
        share = units.percent(100 * busy / lasts)
        whole = "window" if summary.report.selection.has_window else "capture"
        gpu = "The GPU" if len(summary.report.gpus) < 2 else "A GPU"
        return f"{gpu} was busy for {share} of the {whole}'s {units.time(lasts)}."
    if seen.process:
        return f"{units.count(seen.process)} kernels are in a stage through another thread of its process."
    return ""


def _stages(lines: Sequence[StageLine], on_gpu: bool, aside: str) -> Grid:
    tailed = any(x.wall_mean_ns and x.wall_p50_ns and x.wall_mean_ns > LONG_TAIL * x.wall_p50_ns for x in lines)
    header = [
        "stage",
        "n",
        "tokens",
        "tokens/s",
        "wall",
        "mean",
        *(["median"] if tailed else []),
        "GPU busy",
        "busy",
        "kernels",
        "launches",
        "memcpy",
    ]
    rows = [[
        f"{x.stage}, {aside}" if x.warm_up else x.stage,
        units.count(x.instances), units.count(x.tokens), units.rate(x.tokens_per_s),
        units.time(x.wall_total_ns), units.time(x.wall_mean_ns), *([units.time(x.wall_p50_ns)] if tailed else []),
        units.time(x.gpu_busy_total_ns - (x.wait_total_ns or 0)),
        units.percent(x.busy_pct if x.work_pct is None else x.work_pct), units.count(x.kernels_total),
        units.count(x.launches_total), units.time(x.memcpy_total_ns),
    ] for x in lines if x.instances or x.stage == NO_STAGE]  # fmt: skip
    low = ("memcpy", "launches", "kernels", "tokens", "wall", "GPU busy", "median", "n")
    grid = Grid("Stages", tuple(header), tuple(map(tuple, rows)), "stage_sum", low=low)
    return _without_gpu(grid, on_gpu, first=6 + tailed)


def _ranks(lines: Sequence[RankLine]) -> Grid:
    """What each rank did in each stage, in percent of its wall time, and of how many collectives it began last."""
    header = ("stage", "rank", "compute", "transfer", "waiting", "unmatched", "other", "idle", "last", "hidden", "wall")
    rows, more = [], 0
    for stage, of_stage in groupby(lines, lambda line: line.stage):
        every = list(of_stage)
        shown = _most_and_least(every)
        more = max(more, len(every) - len(shown))
        rows += [(stage if not at else "", *_rank(line)) for at, line in enumerate(shown)]
    notes = [
        "Percent of the wall time; waiting for other ranks is no work. Last: of the collectives those that it began "
        "last; hidden: of transfers those beside other work. Stages are summed over ranks."
    ]
    if more:
        notes.append(f"{more} more ranks lie between these.")
    unknown = [] if any(line.unmatched_exposed_ns for line in lines) else ["unmatched"]
    kept = [at for at, word in enumerate(header) if word not in unknown]
    low = ("wall", "hidden", "other", "unmatched", "idle")
    return Grid(
        "Ranks", tuple(header[at] for at in kept), tuple(tuple(row[at] for at in kept) for row in rows), "rank_sum", 2,
        tuple(notes), low,
    )  # fmt: skip


def _most_and_least(lines: Sequence[RankLine]) -> list[RankLine]:
    """The ranks of a stage, or those of them that began last most often, and least."""
    if len(lines) <= MOST_RANKS:
        return list(lines)
    ordered = sorted(lines, key=lambda line: -(line.last_pct or 0.0))
    half = MOST_RANKS // 2
    return [*ordered[:half], *ordered[-half:]]


def _rank(line: RankLine) -> tuple[str, ...]:
    """The cells of a rank; without a stage on its host there is no wall time, and its busy time is the whole."""
    whole, busy = line.wall_ns or line.busy_ns, line.busy_ns
    parts = (line.compute_busy_ns, line.transfer_exposed_ns, line.wait_exposed_ns, line.unmatched_exposed_ns,
             line.other_busy_ns, max(whole - busy, 0))  # fmt: skip
    transfer, hidden = line.transfer_exposed_ns, line.transfer_hidden_ns
    sent = None if transfer is None or hidden is None else transfer + hidden
    return (
        f"{line.pid} on {line.device_id}" if line.rank is None else str(line.rank),
        *(units.percent(None if part is None else 100 * part / whole if whole else 0.0) for part in parts),
        units.percent(line.last_pct),
        units.percent(100 * hidden / sent if sent and hidden is not None else None),
        units.time(line.wall_ns),
    )


def _of_one(instances: Sequence[InstanceLine]) -> tuple[str, ...]:
    """What is said where the tokens of a stage may be those of one sequence among several."""
    unknown = any(line.tokens is not None and line.batch is None for line in instances)
    return ("Tokens are those of one sequence where the size of the batch is not known.",) if unknown else ()


def _ranges(lines: Sequence[RangeLine], on_gpu: bool) -> Grid:
    """The ranges that keep the GPU busiest, and how to make one of them a stage."""
    header = ["range", "n", "host", "GPU busy", "kernels"]
    rows = [[x.name, units.count(x.instances), units.time(x.total_ns), units.time(x.gpu_busy_ns),
             units.count(x.kernels)] for x in lines]  # fmt: skip
    name = lines[0].name
    end = "$" if len(name) <= _LONGEST_PATTERN else ""
    stage = shlex.quote(f"mine=^{re.escape(name[:_LONGEST_PATTERN])}{end}")
    notes = (f"To make one a stage: --stage {stage}",)
    grid = Grid("Busiest ranges", tuple(header), tuple(map(tuple, rows)), "range_sum", notes=notes, low=("host",))
    return _without_gpu(grid, on_gpu, first=3)


def _worked(line: InstanceLine) -> int:
    """How long the GPU worked, without waiting for other ranks."""
    return line.gpu_busy_ns - (line.wait_ns or 0)


def _instances(lines: Sequence[InstanceLine], on_gpu: bool) -> Grid:
    header = [
        "stage",
        "#",
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
        x.stage, units.count(x.instance), units.count(x.tokens), units.time(x.wall_ns),
        units.time(_worked(x)), units.percent(100 * _worked(x) / x.wall_ns if x.wall_ns else 0.0),
        units.time(x.gpu_idle_ns), units.count(x.kernels), units.count(x.launches), units.time(x.sync_ns),
    ] for x in lines]  # fmt: skip
    low = ("sync", "launches", "GPU idle", "tokens", "kernels", "GPU busy")
    grid = Grid("Stages in no request", tuple(header), tuple(map(tuple, rows)), "stage_trace", low=low)
    return _without_gpu(grid, on_gpu, first=4)


#: The words of a request's latencies, and the fields that hold them.
_LATENCIES = {"TTFT": "ttft_host_ns", "TTFT GPU": "ttft_gpu_ns", "TPOT": "tpot_host_ns", "TPOT GPU": "tpot_gpu_ns",
              "busy/step": "tpot_busy_ns"}  # fmt: skip


def _requests(lines: Sequence[RequestLine], on_gpu: bool) -> Grid:
    """Latencies of each request, or of the median and the slowest one; a warm-up is called one."""
    latencies = [(word, field) for word, field in _LATENCIES.items() if on_gpu or field.endswith("host_ns")]
    notes: list[str] = []
    if (ranks := max(line.ranks for line in lines)) > 1:
        notes.append(f"Requests of a group of {ranks} ranks are one.")
    many, steady = len({line.pid for line in lines}) > 1, [line for line in lines if line.steady]
    batched = any(line.batch not in (None, 1) for line in lines)
    counts = (*(("batch",) if batched else ()), "prompt_tokens", "new_tokens")
    header = (
        "request",
        *(name.removesuffix("_tokens") for name in counts),
        *(word for word, _ in latencies),
        "tokens/s",
        "end to end",
    )

    def cells(label: str, value: Callable[[str], Any]) -> tuple[str, ...]:
        times = (units.time(value(field)) for _, field in latencies)
        tokens = (units.count(None if value(field) is None else round(value(field))) for field in counts)
        return (label, *tokens, *times, units.rate(value("tokens_per_s")), units.time(value("e2e_ns")))

    def one(line: RequestLine) -> tuple[str, ...]:
        label = f"{line.request}{f' of {line.pid}' if many else ''}{'' if line.steady else ', warm-up'}"
        return cells(label, lambda field: getattr(line, field))

    if len(lines) <= MOST_REQUESTS:
        rows = [one(line) for line in lines]
    else:
        warm = [line for line in lines if not line.steady] if steady else []
        steady = steady or list(lines)
        slowest = max(steady, key=lambda line: line.e2e_ns)
        rows = [cells("median", lambda field: _median(steady, field)), one(slowest)]
        if warm:
            rows.append(cells(f"{len(warm)} warm-up", lambda field: _median(warm, field)))
        notes.append(f"The median of each column over {len(steady)} steady requests, and the slowest of them.")
    low = ("busy/step", "TTFT GPU", "TPOT GPU", "prompt", "new")
    return Grid("Requests", header, tuple(rows), "request_trace", notes=tuple(notes), low=low)


def _median(lines: Sequence[RequestLine], field: str) -> float | None:
    """Over the lines that have a value."""
    values = [getattr(line, field) for line in lines if getattr(line, field) is not None]
    return statistics.median(values) if values else None


def _steps(lines: Sequence[StepLine], outliers: Sequence[OutlierLine], on_gpu: bool) -> Grid:
    """Percentiles of the steady steps on host and GPU, their drift, and the slowest of them by name."""
    header = ("stage", "time", "steps", "p50", "p90", "p99", "max", "mean", "drift")
    rows: list[tuple[str, ...]] = []
    notes: list[str] = []
    for line in lines:
        told = False
        for word, stem in (("host", "duration"), ("GPU busy", "gpu_work"))[: 1 + on_gpu]:
            values = [getattr(line, f"{stem}_{part}_ns") for part in ("p50", "p90", "p99", "max", "mean")]
            stage, count = (line.stage, units.count(line.steps)) if word == "host" else ("", "")
            drift = _drift(line, stem)
            rows.append((stage, word, count, *map(units.time, values), drift))
            told |= "±" in drift
        if told:
            contexts = f"{units.count(line.context_min_tokens)} to {units.count(line.context_max_tokens)}"
            notes.append(f"Drift of {line.stage}: from the shortest to the longest context, {contexts} tokens.")
        notes += [_outlier(one, line) for one in [x for x in outliers if x.stage == line.stage][:1]]
    return Grid("Steps", header, tuple(rows), "step_sum", 2, tuple(notes), low=("mean", "p90", "p99", "steps"))


def _costs(lines: Sequence[Cost]) -> Grid:
    """What recording cost, on the host; a line for each stage, and one for its steps."""
    header = ("stage", "n", "recorded", "plain", "ratio", "of requests")
    rows = [(f"{x.stage} step" if x.of_steps else x.stage, units.count(x.compared), units.time(x.recorded_ns),
             units.time(x.plain_ns), f"{x.ratio:.2f}",
             "-" if x.ratio_min is None else f"{x.ratio_min:.2f} to {x.ratio_max:.2f}") for x in lines]  # fmt: skip
    note = ("Plain: the same program without nsys. One run of each: where the ratios of requests are far apart, the "
            "machine's noise is in them.")  # fmt: skip
    return Grid("What recording cost (medians on the host)", header, tuple(rows), notes=(note,), low=("of requests",))


def _drift(line: StepLine, stem: str) -> str:
    """How much longer a step takes at the end of the contexts than at their begin; in words where that is not told."""
    slope, error = (getattr(line, f"{stem}_drift{part}_ns_per_token") for part in ("", "_error"))
    shortest, longest = line.context_min_tokens, line.context_max_tokens
    if slope is None or error is None or shortest is None or longest is None:
        return units.time(None)
    if not drift_is_told(slope, error, shortest, longest):
        return "none"
    span = longest - shortest
    return f"{'+' if slope > 0 else '-'}{units.time(span * abs(slope))} ± {units.time(span * error)}"


def _outlier(one: OutlierLine, line: StepLine) -> str:
    """How many steps stand out, and the farthest of them: which, how far, and what it was in."""
    where = f"request {one.request} " if one.request is not None else ""
    inside = "outside of CUDA" if one.excess_in == OUTSIDE_CUDA else f"in {one.excess_in}"
    which = f"{where}step {one.step}, {units.time(one.duration_ns)}, {one.duration_by_median:.1f} x the median"
    return f"Outliers: {units.count(line.outliers)}; slowest: {which}: {units.time(one.excess_ns)} more {inside}."


def _without_gpu(grid: Grid, on_gpu: bool, first: int) -> Grid:
    """A grid that ends before the GPU's columns where the report holds nothing of a GPU."""
    if on_gpu:
        return grid
    rows = tuple(row[:first] for row in grid.rows if row[0] != NO_STAGE)
    return evolve(grid, header=grid.header[:first], rows=rows)


def _roofs(lines: Sequence[StageRoof]) -> Grid:
    """How near each stage came to the roofs; all is of one instance, of one step for a decode."""
    header = ("stage", "FLOPs", "bytes", "MFU", "busy MFU", "bandwidth", "busy bw", "roof", "at roof", "took")
    rows = []
    for x in lines:
        per, label = (x.forwards, f"{x.stage}/step") if x.step_roof_ns is not None else (x.instances, x.stage)
        rows.append((
            label, units.flops(x.model_flops / per), units.size(x.model_bytes / per), units.percent(x.mfu_pct),
            units.percent(x.busy_mfu_pct), units.percent(x.bandwidth_pct), units.percent(x.busy_bandwidth_pct), x.roof,
            units.time(x.roof_ns / per), units.time(x.wall_ns / per),
        ))  # fmt: skip
    low = ("took", "FLOPs", "bytes", "busy bw", "busy MFU")
    return Grid("Roofs", header, tuple(rows), "stage_roof_trace", low=low)


def _families(lines: Sequence[FamilyLine]) -> Grid:
    """Shares of kernel time: a row per stage, a column per family; the last column is what no rule fits."""
    stages = tuple(dict.fromkeys(x.stage for x in lines))
    share = {(x.family, x.stage): x.share_pct for x in lines}
    known = [family for family in dict.fromkeys(x.family for x in lines) if family != OTHER]
    known.sort(key=lambda family: -sum(share.get((family, stage), 0.0) for stage in stages))
    rest = known[MOST_FAMILIES:] if len(known) > MOST_FAMILIES + 1 else []
    named = [(family, [family]) for family in known[: len(known) - len(rest)]]
    if rest:
        named.append((f"{len(rest)} more", rest))
    named.append((OTHER, [OTHER]))
    rows = [(stage, *(units.percent(sum(share.get((family, stage), 0.0) for family in of)) for _, of in named))
            for stage in stages]  # fmt: skip
    unknown = [OTHER] if not any(round(share.get((OTHER, stage), 0.0), 1) for stage in stages) else []
    low = (*unknown, *(label for label, _ in reversed(named[2:-1])))
    return Grid("Kernel time", ("stage", *(label for label, _ in named)), tuple(rows), "stage_family_sum", low=low)


def _layers(lines: Sequence[LayerLine], most: int) -> Grid:
    """The modules that take most of each stage by themselves, indexes folded."""
    named = [x for x in lines if x.module != NO_MODULE and x.exclusive_pct >= LEAST_LAYER_PCT]
    stages = tuple(dict.fromkeys(x.stage for x in named))
    each = max(most // max(len(stages), 1), 1)
    shown = [x for stage in stages[:MOST_LAYERS] for x in [one for one in named if one.stage == stage][:each]]
    rows = tuple(
        (x.stage if not at or shown[at - 1].stage != x.stage else "", x.module, units.percent(x.exclusive_pct),
         units.percent(x.share_pct), units.time(x.exclusive_total_ns), units.count(x.kernels))
        for at, x in enumerate(shown)
    )  # fmt: skip
    header = ("stage", "module", "by itself", "with inner", "time", "kernels")
    return Grid("Layers", header, rows, "layer_sum", 2, low=("kernels", "time", "with inner"))


def _fewer(lines: Sequence[KernelLine], most: int) -> list[KernelLine]:
    """At most so many kernels of each stage where as many as usual are asked for: others stand in their place."""
    ranked = [(rank, x) for _, of in groupby(lines, lambda x: x.stage) for rank, x in enumerate(of)]
    asked = max(rank for rank, _ in ranked) + 1
    return [x for rank, x in ranked if asked != TOP_KERNELS or rank < most]


def _kernels(lines: Sequence[KernelLine]) -> Grid:
    """The kernels that take most of each stage, which is named once."""
    named = [x.stage if not at or lines[at - 1].stage != x.stage else "" for at, x in enumerate(lines)]
    rows = [(stage, x.short_name, units.percent(x.share_pct), units.time(x.avg_ns), units.count(x.instances))
            for stage, x in zip(named, lines, strict=True)]  # fmt: skip
    header = ("stage", "kernel", "share", "avg", "instances")
    return Grid("Top kernels", header, tuple(rows), "stage_kern_sum", 2, low=("instances",))
