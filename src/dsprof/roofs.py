"""What a prefill or decode would take at the GPU's roofs, and how near it came to them.

::

    compute roof   model FLOPs / peak FLOPs a second       the longer of the two is
    memory roof    model bytes / peak bytes a second       the least time the GPU needs
    utilization    a roof by the time that was taken: the wall time, or the time the GPU was busy

The model's FLOPs and bytes are those of `model_costs`, so the least that the tokens need; the peaks are those of
`peaks`. A decode's costs are the sum over its steps, each with the context it had. Source of the terms: Williams et
al., Roofline, 2009; Chowdhery et al., PaLM, 2022, appendix B, for model FLOPs utilization.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from attrs import evolve, frozen

from dsprof import findings
from dsprof.arrays import Bools, Ints
from dsprof.arrays.statistics import Floats, sum_by
from dsprof.attributed import Attributed, wall_time
from dsprof.findings import Finding
from dsprof.measures import stage_devices, stage_totals, tally
from dsprof.model_costs import ITEM_BYTES, Cost, Model, UnknownModel, model_of
from dsprof.model_record import ModelRecord
from dsprof.peaks import Peaks, UnknownPeak, peaks_of
from dsprof.stages import DECODE, PREFILL
from dsprof.trace import Gpu

#: A payload above this is no number of tokens.
MOST_TOKENS = 1 << 20
#: With more forwards than this, decodes whose tokens are payloads are not believed.
MOST_FORWARDS = 1 << 24
#: Said where a report has stages on a GPU, and nothing names the model.
ASK = "Roofs (MFU, memory bandwidth) need the model: --model-config FILE, a checkpoint's config.json or a session.json."


@frozen(eq=False)
class StageRoofs:
    """Prefills and decodes whose costs are known, in the order of their start; all columns of shape ``(k,)``.

    `row`: position in `Attributed.stage_ranges`; `context`: tokens in the cache before; `devices`: GPUs that the stage
    ran on, whose peaks are added up. Shares are of 1, NaN where no time was taken, or where one would be above 1.
    """

    row: Ints
    batch: Ints
    context: Ints
    devices: Ints
    flops: Ints
    bytes: Ints
    compute_ns: Floats
    memory_ns: Floats
    mfu: Floats
    busy_mfu: Floats
    bandwidth: Floats
    busy_bandwidth: Floats
    peaks: Peaks | None = None
    trouble: tuple[Finding, ...] = ()


@frozen
class StageRoof:
    """How near a stage came to the GPU's roofs, over its steady instances; times are sums in ns.

    `roof` is the one that takes longer, ``compute`` or ``memory``, and `roof_ns` the time at it; `token_roof_ns` the
    same for a decode's token. Shares are missing where the GPU did nothing, and where one would be above 100 %.
    """

    stage: str
    instances: int
    tokens: int
    model_flops: int
    model_bytes: int
    flops_per_byte: float
    wall_ns: int
    gpu_busy_ns: int
    mfu_pct: float | None
    busy_mfu_pct: float | None
    bandwidth_pct: float | None
    busy_bandwidth_pct: float | None
    roof: str
    roof_ns: float
    token_roof_ns: float | None
    gpu: str
    unit: str
    peak_flops_per_s: float
    peak_bytes_per_s: float


def stage_roofs(a: Attributed) -> StageRoofs:
    """The roofs of every prefill and decode of a report; none, and why, where the model or the GPU is not known."""
    record = a.rules.model
    if record is None or not len(a.stage_ranges) or not (tally(a).kernels or tally(a).memops):
        return _none()
    try:
        if record.problem:
            raise UnknownModel(record.problem)
        model, item = model_of(record.config), _item_bytes(record)
        devices, gpu = _gpus(a)
        peaks, (rows, left_out) = peaks_of(gpu, record.dtype), _rows(a)
        costs, batch, context, assumed = _costs(a, rows, model, record)
    except (UnknownModel, UnknownPeak) as error:
        return _none(findings.no_roofs(record.source, str(error)))
    moved = np.rint(costs.elements * item).astype(np.int64)
    stages = _Stages(rows, batch, context, devices[rows], costs.flops, moved)
    return _judged(a, stages, peaks, (*left_out, *assumed))


def _none(*trouble: Finding) -> StageRoofs:
    i, f = np.zeros(0, np.int64), np.zeros(0)
    return StageRoofs(i, i, i, i, i, i, f, f, f, f, f, f, None, trouble)


def _item_bytes(record: ModelRecord) -> int:
    if record.dtype not in ITEM_BYTES:
        named = f"their type is {record.dtype}" if record.dtype else "the file names no dtype"
        raise UnknownModel(f"How many bytes its weights take is not known; {named}.")
    return ITEM_BYTES[record.dtype]


def _gpus(a: Attributed) -> tuple[Ints, Gpu]:
    """How many GPUs each stage ran on, and the one kind they are of. Raises `UnknownPeak`."""
    gpus = a.trace.report.gpus
    if not gpus:
        raise UnknownPeak("The report names no GPU.")
    if len(gpus) == 1:
        return np.ones(len(a.stage_ranges), np.int64), gpus[0]
    stage, device = stage_devices(a) >> 16, stage_devices(a) & 0xFFFF
    used = set(device.tolist())
    kinds = {evolve(gpu, device=0) for gpu in gpus}
    if len(kinds) > 1:
        kinds = {evolve(gpu, device=0) for gpu in gpus if gpu.device in used}
    if len(kinds) != 1:
        raise UnknownPeak(f"The stages ran on GPUs of several kinds: {', '.join(sorted(gpu.name for gpu in kinds))}.")
    return np.maximum(np.bincount(stage, minlength=len(a.stage_ranges)), 1), kinds.pop()


def _rows(a: Attributed) -> tuple[Ints, list[Finding]]:
    """The stages whose tokens and context are known and that hold no other stage; and what is said of the others."""
    prefill, decode = _is(a, PREFILL), _is(a, DECODE)
    wanted, split, known = prefill | decode, _holds_another(a), _plausible(a.tokens) & _plausible(a.prompt_of_stage)
    if a.tokens[decode & known].sum() > MOST_FORWARDS:
        known &= prefill | np.isin(a.stage_ranges, a.stage_of_step)
    left_out = [
        findings.no_costs(int(which.sum()), reason)
        for which, reason in (
            (wanted & split, "other stages within them took a part of their work"),
            (wanted & ~split & ~known, "their tokens, or those of their prompt, are not known"),
        )
        if which.any()
    ]
    return np.flatnonzero(wanted & ~split & known), left_out


def _is(a: Attributed, stage: str) -> Bools:
    """True for those of `stage_ranges` that are of this stage."""
    names = a.stage_names[:-1]
    found: Bools = a.stage_of_range[a.stage_ranges] == (names.index(stage) if stage in names else -2)
    return found


def _plausible(tokens: Ints) -> Bools:
    """True for numbers that can be tokens; a payload may be anything."""
    believed: Bools = (tokens > 0) & (tokens <= MOST_TOKENS)
    return believed


def _holds_another(a: Attributed) -> Bools:
    """True for the stages within which another one begins on the same thread."""
    ranges, rows = a.trace.ranges, a.stage_ranges
    order = np.lexsort((-ranges.end[rows], ranges.start[rows], ranges.thread[rows]))
    thread, start, end = (column[rows[order]] for column in (ranges.thread, ranges.start, ranges.end))
    holds = np.zeros(len(rows), np.bool_)
    holds[order[:-1]] = (thread[1:] == thread[:-1]) & (start[1:] < end[:-1])
    return holds


def _costs(a: Attributed, rows: Ints, model: Model, record: ModelRecord) -> tuple[Cost, Ints, Ints, list[Finding]]:
    """Costs, batch and context of the stages `rows`, and what had to be assumed."""
    request = a.request_of_stage[rows]
    served = [record.served(int(number)) for number in request.tolist()]
    batch = np.array([one.batch if one else 1 for one in served], np.int64)
    is_prefill, prompt = _is(a, PREFILL)[rows], a.prompt_of_stage[rows]
    group, new, context = _forwards(a, rows, is_prefill, prompt)
    each = model.decoder.forward(new, context, batch[group])
    elements = np.bincount(group, weights=each.elements, minlength=len(rows)).astype(np.float64)
    total = Cost(sum_by(group, each.flops, len(rows)), elements)
    looked = _looks(model, [one.views if one else None for one in served], is_prefill)
    return total + looked, batch, np.where(is_prefill, 0, prompt), _assumed(model, served, is_prefill)


def _forwards(a: Attributed, rows: Ints, is_prefill: Bools, prompt: Ints) -> tuple[Ints, Ints, Ints]:
    """Every forward of the stages: its stage's place in `rows`, its new tokens, and those in the cache before."""
    times = np.where(is_prefill, 1, a.tokens[rows])
    group = np.repeat(np.arange(len(rows)), times)
    ordinal = np.arange(len(group)) - np.repeat(np.cumsum(times) - times, times)
    new = np.where(is_prefill[group], a.tokens[rows][group], 1)
    return group, new, np.where(is_prefill[group], 0, (prompt + _steps_before(a)[rows])[group] + ordinal)


def _steps_before(a: Attributed) -> Ints:
    """Steps of each stage that were made before the first one recorded; steps count from 1."""
    owner = a.stage_row[a.stage_of_step]
    first = np.full(len(a.stage_ranges), np.iinfo(np.int64).max)
    np.minimum.at(first, owner[owner >= 0], a.step_number[owner >= 0])
    return np.where(_plausible(first), first - 1, 0)


def _looks(model: Model, views: Sequence[Any], is_prefill: Bools) -> Cost:
    """Costs of the vision tower in each prefill; none where the views are not known."""
    looked = [
        model.vision.look(seen or ()) if model.vision and prefill else (0, 0)
        for seen, prefill in zip(views, is_prefill.tolist(), strict=True)
    ]
    columns = np.array(looked, np.int64).reshape(-1, 2)
    return Cost(columns[:, 0], columns[:, 1].astype(np.float64))


def _assumed(model: Model, served: Sequence[Any], is_prefill: Bools) -> list[Finding]:
    said = []
    if not all(served):
        said.append("the batch is not known, and 1 is assumed")
    if model.vision and any(
        prefill and (one is None or one.views is None) for one, prefill in zip(served, is_prefill.tolist(), strict=True)
    ):
        said.append("what the vision tower was given is not known, and it is not counted")
    return [findings.roofs_assume("; ".join(said) + ".")] if said else []


class _Stages(NamedTuple):
    """The stages whose costs are known, as in `StageRoofs`."""

    row: Ints
    batch: Ints
    context: Ints
    devices: Ints
    flops: Ints
    bytes: Ints


def _judged(a: Attributed, stages: _Stages, peaks: Peaks, trouble: tuple[Finding, ...]) -> StageRoofs:
    """The roofs of the stages in ns, and the shares of them that were reached."""
    rows, totals, ranges = stages.row, stage_totals(a), a.trace.ranges
    at = a.stage_ranges[rows]
    wall = wall_time(ranges.start[at], ranges.end[at], totals.proj_start_ns[rows], totals.proj_end_ns[rows])
    busy = totals.gpu_busy_ns[rows]
    compute = stages.flops * 1e9 / (peaks.flops_per_s * stages.devices)
    memory = stages.bytes * 1e9 / (peaks.bytes_per_s * stages.devices)
    shares = [utilization(roof, taken) for roof in (compute, memory) for taken in (wall, busy)]
    too_high = np.flatnonzero(np.logical_or.reduce([share > 1 for share in shares]))
    if len(too_high):
        trouble = (*trouble, _over(a, stages, peaks, busy, too_high, compute, memory))
    mfu, busy_mfu, bandwidth, busy_bandwidth = (np.where(share > 1, np.nan, share) for share in shares)
    return StageRoofs(*stages, compute, memory, mfu, busy_mfu, bandwidth, busy_bandwidth, peaks, trouble)


def utilization(roof_ns: Floats, taken_ns: Ints) -> Floats:
    """Share of a roof that was reached; NaN where no time was taken. Above 1 something is wrong, see `stats.mfu`."""
    missing = np.full(len(roof_ns), np.nan)
    share: Floats = np.divide(roof_ns, taken_ns, out=missing, where=taken_ns > 0)
    return share


def _over(
    a: Attributed, stages: _Stages, peaks: Peaks, busy: Ints, rows: Ints, compute: Floats, memory: Floats
) -> Finding:
    """The worst of the stages that took less time than they could have."""
    least = np.maximum(compute, memory)[rows]
    worst = int(rows[np.argmax(least / np.maximum(busy[rows], 1))])
    at, many = a.stage_ranges[stages.row[worst]], int(stages.devices[worst])
    name = f"{a.stage_names[a.stage_of_range[at]]} {a.instance_of_range[at]}"
    if compute[worst] >= memory[worst]:
        needs = f"{stages.flops[worst] / 1e12:.4g} TFLOP at {many * peaks.flops_per_s / 1e12:.4g} TFLOP/s"
    else:
        needs = f"{stages.bytes[worst] / 1e9:.4g} GB at {many * peaks.bytes_per_s / 1e12:.4g} TB/s"
    took = f"{max(compute[worst], memory[worst]) / 1e6:.4g} ms, and the GPU was busy {busy[worst] / 1e6:.4g} ms"
    record = a.rules.model
    return findings.over_roof(
        len(rows), f"{name} needs {needs}, which is {took}", record.source if record else "the file"
    )


def sum_roofs(rows: Sequence[Mapping[str, Any]], steady: set[int], peaks: Peaks) -> StageRoof | None:
    """The rows of `stage_roof_trace` of one stage together: those of its `steady` instances; None without any."""
    kept = [row for row in rows if row["instance"] in steady]
    if not kept:
        return None

    def total(column: str) -> Any:
        return sum(row[column] for row in kept)

    compute, memory = total("compute_roof_ns"), total("memory_roof_ns")
    wall, busy, tokens = total("wall_ns"), total("gpu_busy_ns"), total("tokens")
    roof = max(compute, memory)
    return StageRoof(
        stage=kept[0]["stage"], instances=len(kept), tokens=tokens, model_flops=total("model_flops"),
        model_bytes=total("model_bytes"), flops_per_byte=total("model_flops") / max(total("model_bytes"), 1),
        wall_ns=wall, gpu_busy_ns=busy, mfu_pct=_percent(compute, wall), busy_mfu_pct=_percent(compute, busy),
        bandwidth_pct=_percent(memory, wall), busy_bandwidth_pct=_percent(memory, busy),
        roof="compute" if compute >= memory else "memory", roof_ns=roof,
        token_roof_ns=roof / tokens if kept[0]["stage"] == DECODE and tokens else None,
        gpu=peaks.gpu, unit=peaks.unit, peak_flops_per_s=peaks.flops_per_s, peak_bytes_per_s=peaks.bytes_per_s,
    )  # fmt: skip


def _percent(roof_ns: float, taken_ns: int) -> float | None:
    """Percent of a roof; None where no time was taken, and where it would be above 100."""
    return 100.0 * roof_ns / taken_ns if 0 < taken_ns >= roof_ns else None
