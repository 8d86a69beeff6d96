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
from typing import Any, NamedTuple, Self

import numpy as np
from attrs import evolve

from dsprof import findings
from dsprof.answers.painting import StageBusy
from dsprof.answers.rank_requests import RankRequests, RequestRows
from dsprof.answers.stages import Stages
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import Floats, sum_by
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.findings import Finding
from dsprof.measures.tally import Tally
from dsprof.measures.totals import StageDevices
from dsprof.model.costs import Cost, Model, model_of
from dsprof.model.peaks import Peaks, UnknownPeak, peaks_of
from dsprof.model.record import ModelRecord
from dsprof.model.weights import UnknownModel
from dsprof.records import frozen
from dsprof.rules.rules import Rules
from dsprof.trace import Gpu
from dsprof.words import DECODE, PREFILL

#: A payload above this is no number of tokens.
MOST_TOKENS = 1 << 20
#: With more forwards than this, decodes whose tokens are payloads are not believed.
MOST_FORWARDS = 1 << 24
#: Said where a report has stages on a GPU, and nothing names the model.
ASK = "Roofs need the model: --model-config FILE."


class Known(NamedTuple):
    """Prefills and decodes whose costs are known, in the order of their start; all columns of shape ``(k,)``.

    `row`: position in `Stages`; `batch`: sequences, 1 where that is not known; `forwards` of the model; `context`:
    tokens of one sequence in the cache before; `devices`: GPUs that the stage ran on; `quantized`: those of the `flops`
    with quantized weights.
    """

    row: Ints
    batch: Ints
    forwards: Ints
    context: Ints
    devices: Ints
    flops: Ints
    quantized: Ints
    bytes: Ints


#: The columns of `StageRoofs` without a stage.
_NOTHING = (Known(*(np.zeros(0, np.int64),) * 8), *(np.zeros(0),) * 6)


@frozen(eq=False)
class StageRoofs:
    """How near the stages whose costs are `known` came to the peaks of their GPUs, which are added up.

    Shares are of 1, NaN where no time was taken; and all of a stage where one would be above 1.
    """

    known: Known
    compute_ns: Floats
    memory_ns: Floats
    mfu: Floats
    busy_mfu: Floats
    bandwidth: Floats
    busy_bandwidth: Floats
    peaks: Peaks | None = None
    trouble: tuple[Finding, ...] = ()

    @classmethod
    def take(
        cls,
        tree: RangeTree,
        staged: StageRanges,
        stages: Stages,
        rules: Rules,
        seen: Tally,
        devices: StageDevices,
        busy: StageBusy,
        rows_of: RequestRows,
        requests: RankRequests,
    ) -> Self:
        """Of a report; none, and why, where the model or the GPU is not known."""
        record = rules.model
        if record is None or not record.names_model or not len(stages.range) or not (seen.kernels or seen.memops):
            return cls(*_NOTHING)
        try:
            if record.problem:
                raise UnknownModel(record.problem)
            model = model_of(record.config, record.dtype)
            count, gpu = _gpus(tree.report.gpus, devices, len(stages.range))
            count = count * np.append(requests.ranks_of_row, 1)[rows_of.of_stage]  # the model is split among them
            peaks, (rows, left_out) = peaks_of(gpu, record.dtype, model.products), _rows(staged, stages)
            batch, forwards = np.maximum(stages.batch[rows], 1), np.where(staged.are(DECODE), stages.tokens, 1)[rows]
            costs, context, assumed = _costs(staged, stages, rows, model, record)
        except (UnknownModel, UnknownPeak) as error:
            return cls(*_NOTHING, None, (findings.no_roofs(record.source, str(error)),))
        moved = np.rint(costs.bytes).astype(np.int64)
        known = Known(rows, batch, forwards, context, count[rows], costs.flops, costs.quantized, moved)
        worked = (stages.busy - busy.collectives.wait[:-1])[rows]
        return cls(*_judged(staged, stages, known, worked, peaks, (*left_out, *assumed), record.source))


@frozen
class StageRoof:
    """How near a stage came to the GPU's roofs, over its steady instances; times are sums in ns.

    `roof` is the one that takes longer, ``compute`` or ``memory``, and `roof_ns` the time at it; `step_roof_ns` the
    same for a decode's step; `tokens` are of all sequences; `quantized_unit` multiplies quantized weights, where it is
    another. Shares are missing where the GPU did nothing, and where one
    would be above 100 %.
    """

    stage: str
    instances: int
    forwards: int
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
    step_roof_ns: float | None
    gpu: str
    unit: str
    peak_flops_per_s: float
    peak_bytes_per_s: float
    quantized_unit: str | None = None
    quantized_peak_flops_per_s: float | None = None


def _gpus(gpus: Sequence[Gpu], devices: StageDevices, stages: int) -> tuple[Ints, Gpu]:
    """How many GPUs each stage ran on, and the one kind they are of. Raises `UnknownPeak`."""
    if not gpus:
        raise UnknownPeak("The report names no GPU.")
    if len(gpus) == 1:
        return np.ones(stages, np.int64), gpus[0]
    used = set(devices.device.tolist())
    kinds = {evolve(gpu, device=0) for gpu in gpus}
    if len(kinds) > 1:
        kinds = {evolve(gpu, device=0) for gpu in gpus if gpu.device in used}
    if len(kinds) != 1:
        raise UnknownPeak(f"The stages ran on GPUs of several kinds: {', '.join(sorted(gpu.name for gpu in kinds))}.")
    return np.maximum(np.bincount(devices.stage, minlength=stages), 1), kinds.pop()


def _rows(staged: StageRanges, stages: Stages) -> tuple[Ints, list[Finding]]:
    """The stages whose tokens and context are known and that hold no other stage; and what is said of the others."""
    prefill, decode = staged.are(PREFILL), staged.are(DECODE)
    of_engine = staged.engine_row >= 0
    wanted, split = (prefill | decode) & ~of_engine, _holds_another(stages)
    known = _plausible(stages.tokens) & _plausible(stages.prompt)
    if stages.tokens[decode & known].sum() > MOST_FORWARDS:
        known &= prefill | (staged.step_count > 0)
    left_out = [
        findings.no_costs(int(which.sum()), reason)
        for which, reason in (
            (of_engine, "they are steps of an engine, each of many requests"),
            (wanted & split, "other stages within them took a part of their work"),
            (wanted & ~split & ~known, "their tokens, or those of their prompt, are not known"),
        )
        if which.any()
    ]
    return np.flatnonzero(wanted & ~split & known), left_out


def _plausible(tokens: Ints) -> Bools:
    """True for numbers that can be tokens; a payload may be anything."""
    believed: Bools = (tokens > 0) & (tokens <= MOST_TOKENS)
    return believed


def _holds_another(stages: Stages) -> Bools:
    """True for the stages within which another one begins on the same thread."""
    order = np.lexsort((-stages.end, stages.start, stages.thread))
    thread, start, end = (column[order] for column in (stages.thread, stages.start, stages.end))
    holds = np.zeros(len(order), np.bool_)
    holds[order[:-1]] = (thread[1:] == thread[:-1]) & (start[1:] < end[:-1])
    return holds


def _costs(
    staged: StageRanges, stages: Stages, rows: Ints, model: Model, record: ModelRecord
) -> tuple[Cost, Ints, list[Finding]]:
    """Costs and context of the stages `rows`, and what had to be assumed."""
    served = [record.served(int(number)) for number in stages.request[rows].tolist()]
    views, batch = [one.views if one else None for one in served], stages.batch[rows]
    is_prefill, prompt = staged.are(PREFILL)[rows], stages.prompt[rows]
    group, new, context = _forwards(stages.tokens[rows], is_prefill, prompt + _steps_before(staged)[rows])
    each = model.decoder.forward(new, context, np.maximum(batch, 1)[group])
    moved = np.bincount(group, weights=each.bytes, minlength=len(rows)).astype(np.float64)
    total = Cost(sum_by(group, each.flops, len(rows)), sum_by(group, each.quantized, len(rows)), moved)
    looked = _looks(model, views, is_prefill)
    return total + looked, np.where(is_prefill, 0, prompt), _assumed(model, batch, views, is_prefill)


def _forwards(tokens: Ints, is_prefill: Bools, before: Ints) -> tuple[Ints, Ints, Ints]:
    """Every forward of some stages: the place of its stage, its new tokens, and those in the cache before."""
    times = np.where(is_prefill, 1, tokens)
    group = np.repeat(np.arange(len(tokens)), times)
    ordinal = np.arange(len(group)) - np.repeat(np.cumsum(times) - times, times)
    new = np.where(is_prefill[group], tokens[group], 1)
    return group, new, np.where(is_prefill[group], 0, before[group] + ordinal)


def _steps_before(staged: StageRanges) -> Ints:
    """Steps of each stage that were made before the first one recorded; steps count from 1."""
    owner = staged.row[staged.of_step]
    first = np.full(len(staged.rows), np.iinfo(np.int64).max)
    np.minimum.at(first, owner[owner >= 0], staged.step_number[owner >= 0])
    return np.where(_plausible(first), first - 1, 0)


def _looks(model: Model, views: Sequence[Any], is_prefill: Bools) -> Cost:
    """Costs of the vision tower in each prefill; none where the views are not known."""
    looked = [
        model.vision.look(seen or ()) if model.vision and prefill else (0, 0)
        for seen, prefill in zip(views, is_prefill.tolist(), strict=True)
    ]
    columns = np.array(looked, np.int64).reshape(-1, 2)
    return Cost(columns[:, 0], np.zeros(len(columns), np.int64), columns[:, 1].astype(np.float64))


def _assumed(model: Model, batch: Ints, views: Sequence[Any], is_prefill: Bools) -> list[Finding]:
    said = []
    if (batch == NULL).any():
        said.append("the batch is not known, and 1 is assumed")
    if model.vision and any(prefill and seen is None for seen, prefill in zip(views, is_prefill.tolist(), strict=True)):
        said.append("what the vision tower was given is not known, and it is not counted")
    return [findings.roofs_assume("; ".join(said) + ".")] if said else []


def _judged(
    staged: StageRanges,
    stages: Stages,
    known: Known,
    busy: Ints,
    peaks: Peaks,
    trouble: tuple[Finding, ...],
    source: str,
) -> tuple[Any, ...]:
    """The fields of `StageRoofs`: the roofs of the stages in ns, and the shares of them that were reached."""
    wall = stages.wall[known.row]
    plain = known.flops - known.quantized
    compute = (plain / peaks.flops_per_s + known.quantized / peaks.quantized_flops_per_s) * 1e9 / known.devices
    memory = known.bytes * 1e9 / (peaks.bytes_per_s * known.devices)
    shares = [utilization(roof, taken) for roof in (compute, memory) for taken in (wall, busy)]
    too_high = np.flatnonzero(np.logical_or.reduce([share > 1 for share in shares]))
    if len(too_high):
        worst = too_high[np.argmax(np.maximum(compute, memory)[too_high] / np.maximum(busy[too_high], 1))]
        row = known.row[worst]
        name = f"{staged.names[stages.code[row]]} {stages.instance[row]}"
        needs = _needs(known, peaks, int(worst), compute, memory)
        example = f"{name} needs {needs}, and the GPU was busy {busy[worst] / 1e6:.4g} ms"
        trouble = (*trouble, findings.over_roof(len(too_high), example, source))
    believed = [share.copy() for share in shares]
    for share in believed:
        share[too_high] = np.nan
    return (known, compute, memory, *believed, peaks, trouble)


def utilization(roof_ns: Floats, taken_ns: Ints) -> Floats:
    """Share of a roof that was reached; NaN where no time was taken. Above 1 something is wrong, see `stats.mfu`."""
    missing = np.full(len(roof_ns), np.nan)
    share: Floats = np.divide(roof_ns, taken_ns, out=missing, where=taken_ns > 0)
    return share


def _needs(known: Known, peaks: Peaks, row: int, compute: Floats, memory: Floats) -> str:
    """What a stage needs, and the time that this takes at least."""
    many = int(known.devices[row])
    if compute[row] >= memory[row]:
        flops = float(known.flops[row])
        needs = f"{flops / 1e12:.4g} TFLOP at {flops / compute[row] / 1e3:.4g} TFLOP/s"
    else:
        needs = f"{known.bytes[row] / 1e9:.4g} GB at {many * peaks.bytes_per_s / 1e12:.4g} TB/s"
    return f"{needs}, which is {max(compute[row], memory[row]) / 1e6:.4g} ms"


def sum_roofs(rows: Sequence[Mapping[str, Any]], steady: set[int], peaks: Peaks) -> StageRoof | None:
    """The rows of `stage_roof_trace` of one stage together: those of its `steady` instances; None without any."""
    kept = [row for row in rows if row["instance"] in steady]
    if not kept:
        return None

    def total(column: str) -> Any:
        return sum(row[column] for row in kept)

    compute, memory = total("compute_roof_ns"), total("memory_roof_ns")
    wall, busy, forwards = total("wall_ns"), total("gpu_busy_ns"), total("forwards")
    roof = max(compute, memory)
    if roof > busy:  # one of the numbers is wrong, and a finding says so
        return None
    other = peaks.quantized_unit != peaks.unit
    return StageRoof(
        stage=kept[0]["stage"], instances=len(kept), forwards=forwards, tokens=total("tokens"),
        model_flops=total("model_flops"), model_bytes=total("model_bytes"),
        flops_per_byte=total("model_flops") / max(total("model_bytes"), 1),
        wall_ns=wall, gpu_busy_ns=busy, mfu_pct=_percent(compute, wall), busy_mfu_pct=_percent(compute, busy),
        bandwidth_pct=_percent(memory, wall), busy_bandwidth_pct=_percent(memory, busy),
        roof="compute" if compute >= memory else "memory", roof_ns=roof,
        step_roof_ns=roof / forwards if kept[0]["stage"] == DECODE and forwards else None,
        gpu=peaks.gpu, unit=peaks.unit, peak_flops_per_s=peaks.flops_per_s, peak_bytes_per_s=peaks.bytes_per_s,
        quantized_unit=peaks.quantized_unit if other else None,
        quantized_peak_flops_per_s=peaks.quantized_flops_per_s if other else None,
    )  # fmt: skip


def _percent(roof_ns: float, taken_ns: int) -> float | None:
    """Percent of a roof; None where no time was taken, and where it would be above 100."""
    return 100.0 * roof_ns / taken_ns if 0 < taken_ns >= roof_ns else None
