"""Whether two sides can be compared: what differs beside the change itself, as refusals, warnings and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve

from dsprof.arrays import NULL
from dsprof.compare.recordings import About
from dsprof.compare.units import INSTANCE, STEP, Run, Sides, Units
from dsprof.ground.columns import integers
from dsprof.records import frozen
from dsprof.words import DECODE, PREFILL

REFUSE, WARN, NOTE = "refuse", "warn", "note"
#: So many more NVTX ranges in a unit make it another measurement; fewer are told.
RANGES, SOME_RANGES = 5.0, 0.5
#: Prompts that differ by more than this share are other prompts.
PROMPTS = 0.02
#: What a model's file says that changes nothing of what its forward does.
_COSMETIC = frozenset(
    ("id2label", "label2id", "architectures", "transformers_version", "_name_or_path", "bos_token_id", "eos_token_id",
     "pad_token_id", "problem_type", "output_attentions", "output_hidden_states", "return_dict", "dtype", "torch_dtype",
     "auto_map", "quantization_config")
)  # fmt: skip
#: So many differences of two models, and of many names, are told.
_TOLD = 4


@frozen
class Reason:
    """Why the sides cannot be compared (``refuse``), or what to know of it (``warn``, ``note``).

    `stage`: empty where it is of all stages.
    """

    level: str
    what: str
    sentence: str
    stage: str = ""


def reasons(before: Sequence[Run], after: Sequence[Run]) -> list[Reason]:
    """What differs between the sides as a whole."""
    sides = [[one.about for run in side for one in run.recordings] for side in (before, after)]
    found = [
        *_differ(sides, REFUSE, "GPU", lambda one: ", ".join(one.gpus)),
        *_ranks(before, after),
        *_models(sides),
        *_graph_modes(before, after),
        *_differ(sides, REFUSE, "what of the report is selected", lambda one: one.selection, empty="all of it"),
        *_differ(sides, WARN, "driver", lambda one: one.driver),
        *_differ(sides, WARN, "nsys", lambda one: one.nsys),
        *_differ(sides, WARN, "the rules of the analysis", lambda one: one.rules, empty="the usual ones"),
        *_differ(sides, NOTE, "the type of the weights", lambda one: one.dtype),
        *_differ(sides, NOTE, "dsprof", lambda one: one.dsprof),
        *_lost(sides),
    ]
    if common := {one.sha256 for one in sides[0] if one.sha256} & {one.sha256 for one in sides[1]}:
        names = sorted({one.name for side in sides for one in side if one.sha256 in common})
        found.append(Reason(NOTE, "report", f"The same report is on both sides: {_listed(names)}."))
    return found


def _differ(
    sides: Sequence[Sequence[About]], level: str, what: str, get: Callable[[About], str], empty: str = ""
) -> Iterable[Reason]:
    """A reason where the sides have other values; one that is not known differs from none, unless `empty` names it."""
    values = [sorted({get(one) or empty for one in side} - {""}) for side in sides]
    if values[0] and values[1] and values[0] != values[1]:
        yield Reason(level, what, f"{_upper(what)} differs: {_listed(values[0])} before, {_listed(values[1])} after.")
    elif level == REFUSE and (mixed := next((one for one in values if len(one) > 1), None)):
        yield Reason(level, what, f"{_upper(what)} differs within a side: {_listed(mixed)}.")


def _ranks(before: Sequence[Run], after: Sequence[Run]) -> Iterable[Reason]:
    """Numbers of processes with stages, over all reports of a run."""
    counts = [sorted({ranks_of(run) for run in side}) for side in (before, after)]
    if counts[0] != counts[1] or len(counts[0]) > 1:
        said = [" or ".join(map(str, one)) for one in counts]
        yield Reason(
            REFUSE, "ranks", f"The number of ranks (processes with stages) differs: {said[0]} before, {said[1]} after."
        )


def ranks_of(run: Run) -> int:
    """How many processes of a run have a stage."""
    return sum(len(np.unique(integers(one.tables["stage_trace"], "pid"))) for one in run.recordings)


def _models(sides: Sequence[Sequence[About]]) -> Iterable[Reason]:
    """What the records of the models differ in, where both sides have one."""
    configs = [[one.config for one in side if one.config] for side in sides]
    if not configs[0] or not configs[1]:
        if configs[0] or configs[1]:
            yield Reason(NOTE, "model", f"Which model ran is known of one side alone, {_sides(not configs[0])}.")
        return
    quantized = [{bool(one.get("quantization_config")) for one in side} for side in configs]
    if quantized[0] != quantized[1]:
        yield Reason(NOTE, "quantization", "The weights of one side are quantized, of the other not.")
    first = _flat(configs[0][0])
    for one in (*configs[0], *configs[1]):
        other = _flat(one)
        keys = sorted(key for key in {*first, *other} if first.get(key) != other.get(key))
        if keys:
            told = [f"{key} ({_short(first.get(key))} and {_short(other.get(key))})" for key in keys]
            yield Reason(REFUSE, "model", f"The models differ in {_listed(told)}.")
            return


def _sides(after: bool) -> str:
    return "that after" if after else "that before"


def _flat(config: Mapping[str, Any], lead: str = "") -> dict[str, Any]:
    """A configuration with one level, without what is cosmetic."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in _COSMETIC:
            continue
        if isinstance(value, Mapping):
            found |= _flat(value, f"{lead}{key}.")
        else:
            found[lead + key] = value
    return found


def _graph_modes(before: Sequence[Run], after: Sequence[Run]) -> Iterable[Reason]:
    """How CUDA graphs were traced, where both sides ran some."""
    sides = [[one for run in side for one in run.recordings] for side in (before, after)]
    ran = [[one for one in side if _graphs(one.tables)] for side in sides]
    modes = [sorted({one.about.graph_mode for one in side if one.about.graph_mode}) for side in ran]
    if ran[0] and ran[1]:
        yield from (
            Reason(REFUSE, what="graph mode", sentence=one.sentence)
            for one in _differ([[a.about for a in side] for side in ran], REFUSE, "how CUDA graphs were traced",
                               lambda one: one.graph_mode)
        )  # fmt: skip
    elif ran[0] or ran[1]:
        mode = next(iter(modes[0] or modes[1]), "")
        hidden = " Traced as a whole, each is one operation, and its kernels are not seen." if mode == "graph" else ""
        hidden = " Tracing node by node makes each replay longer." if mode == "node" else hidden
        yield Reason(NOTE, "graphs", f"CUDA graphs run on one side alone, {_sides(bool(ran[1]))}.{hidden}")


def _graphs(tables: Mapping[str, Any]) -> bool:
    launched = (integers(tables[name], "graph_launches") for name in ("stage_trace", "step_trace"))
    return any(bool((one[one != NULL] > 0).any()) for one in launched)


def _lost(sides: Sequence[Sequence[About]]) -> Iterable[Reason]:
    """Data that a side lacks by the findings on it."""
    for side, when in zip(sides, ("before", "after"), strict=True):
        if found := sorted({name for one in side for name in one.findings}):
            yield Reason(WARN, "findings", f"A recording {when} has data missing or lost: {_listed(found)}.")


# -- of a stage -------------------------------------------------------------------------------------------------


def stage_reasons(sides: Sides, before: Sequence[Run], after: Sequence[Run]) -> list[Reason]:
    """What differs between the units of a stage."""
    stage = sides.stage
    if len({one.of for one in sides.runs}) > 1:
        sentence = f"{stage}: some recordings have ranges of its steps, and others have none."
        return [Reason(REFUSE, "steps of one side", sentence, stage)]
    for side, when in ((sides.before, "before"), (sides.after, "after")):
        if any(not len(one) for one in side):
            sentence = f"{stage}: a run {when} has no steady {sides.of} that the others have, too."
            return [Reason(REFUSE, "units", sentence, stage)]
    found = [Reason(NOTE, "steps", sentence) for sentence in sides.left_out]
    found += [*_prompts(sides), *_tokens(sides), *_ranges(sides, before, after)]
    return [evolve(one, stage=stage) for one in found]


def _means(sides: Sides, column: str) -> tuple[float, float] | None:
    """The mean of a column on both sides; None where a run does not know it."""
    if not all(one.known(column) for one in sides.runs):
        return None
    before, after = (float(np.mean([one.mean(column) for one in side])) for side in (sides.before, sides.after))
    return before, after


def _prompts(sides: Sides) -> Iterable[Reason]:
    """The context in which steps run, or the tokens of a prefill."""
    of_steps = sides.of == STEP
    if sides.before[0].stretches or (not of_steps and sides.stage != PREFILL):
        return
    column = "context_tokens" if of_steps else "tokens"
    if all(one.known(column) for one in sides.runs):
        before, after = (_prompt(side, column) for side in (sides.before, sides.after))
        if before != after:
            level = REFUSE if abs(after - before) > PROMPTS * min(before, after) else WARN
            what = "context before its first step" if of_steps else "number of tokens of an instance"
            sentence = f"{sides.stage}: the {what} differs: {before:,.1f} tokens before, {after:,.1f} after."
            yield Reason(level, "prompt", sentence)


def _prompt(side: Sequence[Units], column: str) -> float:
    """Tokens before the first step, mean of the runs: those of the context, without one for each step until then."""
    found = []
    for one in side:
        steps = np.where(one.number == NULL, 0, one.number)
        found.append(one.by_request(one.column(column) - steps).mean())
    return float(np.mean(found))


def _tokens(sides: Sides) -> Iterable[Reason]:
    """Batches: tokens of a step, sequences of an instance; of an engine's steps, how many requests are in one."""
    column, what = ("tokens", "tokens of a step") if sides.of == STEP else ("batch", "sequences of an instance")
    if sides.of != STEP and sides.stage == DECODE and (tokens := _means(sides, "tokens")):
        yield from _unequal(sides.stage, "tokens", "tokens of an instance", tokens, sides)
    if (means := _means(sides, column)) is not None:
        yield from _unequal(sides.stage, "batch", what, means, sides)


def _unequal(stage: str, kind: str, what: str, means: tuple[float, float], sides: Sides) -> Iterable[Reason]:
    before, after = means
    if before != after:
        # Steps of an engine hold whatever was there to do: a trifle is told, more is another load.
        trifle = sides.before[0].stretches and abs(after - before) <= PROMPTS * min(before, after)
        level = WARN if trifle else REFUSE
        yield Reason(level, kind, f"{stage}: the {what} differ: {before:,.2f} before, {after:,.2f} after.")


def _ranges(sides: Sides, before: Sequence[Run], after: Sequence[Run]) -> Iterable[Reason]:
    """NVTX ranges in a unit: each costs the host time, and under nsys more than alone."""
    found = []
    for side in (before, after):
        known = [one.about.ranges.get(sides.stage) for run in side for one in run.recordings]
        if not known or any(one is None for one in known):
            return
        found.append(float(np.mean([one for one in known if one is not None])))
    more = abs(found[1] - found[0])
    kind = "an instance" if sides.of == INSTANCE else "a step"
    if more > SOME_RANGES:
        level = REFUSE if more >= RANGES else WARN
        yield Reason(
            level, "ranges", f"{sides.stage}: NVTX ranges within {kind} differ, and each takes time: {found[0]:.1f} "
            f"before, {found[1]:.1f} after."
        )  # fmt: skip


# -- words ------------------------------------------------------------------------------------------------------


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more


def _upper(text: str) -> str:
    return text if text[:1].isupper() or text in ("nsys", "dsprof") else f"{text[:1].upper()}{text[1:]}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
