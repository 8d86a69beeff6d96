"""A comparison as sentences and titled grids of text, the same for terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import asdict

from dsprof.compare.comparable import NOTE, REFUSE, WARN
from dsprof.compare.gates import PASSED
from dsprof.compare.kernels import ADDED, FASTER, REMOVED, RENAMED, REPLACED, SLOWER, OperationChange
from dsprof.compare.outcome import Measured, Outcome, SideNames, StageDiff
from dsprof.compare.statistics import RUN_NOISE, Change, percent_of
from dsprof.compare.waterfall import Part
from dsprof.rules.names import short_kernel_name
from dsprof.show import units
from dsprof.show.layout import Grid

#: How many operations of each stage are named unless it is told otherwise; the tables hold them all.
TOP_OPERATIONS = 5
#: Parts of the time, calls and modules that are shown; smaller ones are put together, or left to the tables.
_MOST_PARTS, _MOST_CALLS, _MOST_MODULES = 12, 4, 4
#: So many runs of a side are named.
_MOST_RUNS = 4
#: What is measured, in words.
MEASURES = {"gpu_busy": "GPU busy", "wall": "wall"}
_LEVELS = {REFUSE: "not comparable", WARN: "mind", NOTE: "note"}
_OTHERS = "other parts"
#: From so many percent on, they have no digits behind the point.
_LARGE_PCT = 100


def headline(outcome: Outcome) -> list[tuple[str, str]]:
    """What was compared, and the verdict: labels and texts."""
    told = [("before", _side(outcome.before)), ("after", _side(outcome.after)), ("verdict", outcome.verdict)]
    if outcome.forced:
        told.append(("forced", "compared although that is refused: what differs besides is in every number"))
    return told


def _side(side: SideNames) -> str:
    names = side.runs[:_MOST_RUNS]
    more = f" and {len(side.runs) - len(names)} more" if len(side.runs) > len(names) else ""
    runs = f"{len(side.runs)} runs: " if len(side.runs) > 1 else ""
    gpus = f" ({', '.join(dict.fromkeys(side.gpus))})" if side.gpus else ""
    ranks = f", {side.ranks} ranks" if side.ranks > 1 else ""
    return f"{runs}{', '.join(names)}{more}{ranks}{gpus}"


def answer(outcome: Outcome) -> Grid:
    """For each stage, GPU busy and wall apart: by how much it changed, and what would have been seen."""
    rows = [_answer(stage, one) for stage in outcome.stages for one in stage.measures]
    over = dict[str, list[str]]()
    for stage in outcome.stages:
        for one in stage.measures:
            over.setdefault(one.sentence, []).append(f"{stage.stage} {MEASURES[one.measure]}")
    header = ("stage", "of", "what", "verdict", "before", "after", "change", "95 % interval", "seen")
    notes = (
        *(f"Intervals of {', '.join(names)} are {sentence}." for sentence, names in over.items()),
        *_taken(outcome),
        "Seen: the change that would have been seen four times in five.",
    )
    return Grid("What changed, and by how much", header, tuple(rows), names=4, notes=notes if rows else (), apart=True)


def measured(stage: StageDiff) -> list[tuple[str, str, str]]:
    """What was measured of a stage: a word, its verdict, and a sentence of numbers."""
    found = []
    for one in stage.measures:
        change = one.change
        text = f"{units.time(one.before_ns)} -> {units.time(one.after_ns)}"
        if change is not None:
            sure = "" if change.low is None else f" (95 %: {_interval(change)})"
            text = f"{text}, {percent(change.pct)}{sure}"
        found.append((MEASURES[one.measure], one.verdict, text))
    return found


def _taken(outcome: Outcome) -> list[str]:
    """What is said where an interval is over requests."""
    if not any(
        one.change is not None and one.change.over != "run" for stage in outcome.stages for one in stage.measures
    ):
        return []
    noise = " and ".join(f"{100 * value:g} % of {MEASURES[measure]}" for measure, value in RUN_NOISE.items())
    return [f"What differs from run to run is in none over requests; verdicts take it to be {noise}."]


def _answer(stage: StageDiff, one: Measured) -> tuple[str, ...]:
    change = one.change
    return (
        stage.stage,
        stage.of,
        MEASURES[one.measure],
        one.verdict,
        units.time(one.before_ns),
        units.time(one.after_ns),
        units.NONE if change is None else percent(change.pct),
        units.NONE if change is None else _interval(change),
        percent(percent_of(one.seen), sign=False),
    )


def _interval(change: Change) -> str:
    if change.low is None:
        return units.NONE
    return f"{percent(percent_of(change.low), unit=False)} to {percent(percent_of(change.high))}"


def percent(value: float | None, sign: bool = True, unit: bool = True) -> str:
    """A change in percent, three digits: ``+0.0155 %``; ``-`` for None."""
    if value is None:
        return units.NONE
    digits = ".0f" if abs(value) >= _LARGE_PCT else ".3g"
    text = f"{value:{'+' if sign and value else ''}{digits}}"
    return f"{text} %" if unit else text


def said(outcome: Outcome) -> list[tuple[str, str]]:
    """Reasons, the gravest first: a level in words and a sentence."""
    order = list(_LEVELS)
    found = sorted(outcome.reasons, key=lambda one: order.index(one.level))
    return [(_LEVELS[one.level], one.sentence) for one in found]


def gates(outcome: Outcome) -> list[tuple[bool, str]]:
    """Gates: whether each was passed, and a sentence."""
    return [(one.result == PASSED, f"{one.gate}: {one.result}. {one.sentence}") for one in outcome.gates]


# -- grids ------------------------------------------------------------------------------------------------------


def grids(outcome: Outcome, top: int = TOP_OPERATIONS) -> list[Grid]:
    """What a comparison shows, stage by stage."""
    shown = list[Grid]()
    for stage in outcome.stages:
        unit = unit_of(stage)
        parts = [
            _waterfall(stage, unit), _counted(stage, unit), _operations(stage, unit, top), _calls(stage, unit),
            _modules(stage, unit),
        ]  # fmt: skip
        shown += [grid for grid in parts if grid.rows]
    return shown


def unit_of(stage: StageDiff) -> str:
    """What is compared of a stage."""
    return f"{stage.stage}, {'a step' if stage.of == 'step' else 'an instance'}"


def parts_of(stage: StageDiff) -> list[tuple[str, int, int]]:
    """Parts of a unit's time, those that changed most; the others together: what it is, ns before and after."""
    by_change = sorted(stage.waterfall, key=lambda part: (-abs(part.change_ns), -part.before_ns))
    kept, left = by_change[:_MOST_PARTS], by_change[_MOST_PARTS:]
    found = [(f"{part.kind}: {part.name}", part.before_ns, part.after_ns) for part in stage.waterfall if part in kept]
    return [*found, (_OTHERS, *_sums(left))] if left else found


def wall_of(stage: StageDiff) -> tuple[int, int]:
    """The wall time of a unit in ns, before and after: the sum of its parts."""
    return _sums(stage.waterfall)


def _sums(parts: Sequence[Part]) -> tuple[int, int]:
    return sum(part.before_ns for part in parts), sum(part.after_ns for part in parts)


def _waterfall(stage: StageDiff, unit: str) -> Grid:
    rows = [_times(*part) for part in parts_of(stage)]
    rows.append(_times("wall", *wall_of(stage)))
    return Grid(f"Where the time of {unit} went", ("part", "before", "after", "change"), tuple(rows), apart=True)


def _times(name: str, before: float, after: float) -> tuple[str, ...]:
    return (name, units.time(before), units.time(after), _changed(after - before))


def _changed(ns: float) -> str:
    return units.signed(ns, units.time)


def _counted(stage: StageDiff, unit: str) -> Grid:
    """What is counted, where it changed or tells how a step is launched."""
    rows = [
        (one.name.replace("_", " "), number(one.before), number(one.after), number(one.after - one.before, "+"))
        for one in stage.counts
        if one.before or one.after
    ]
    return Grid(f"Counts of {unit}", ("what", "before", "after", "change"), tuple(rows))


def number(value: float, sign: str = "") -> str:
    """What is counted, on average: a whole number, or two digits behind the point."""
    whole = abs(value - round(value)) < 1e-9
    return (f"{value:{sign}.0f}" if whole else f"{value:{sign}.2f}") if value else "0"


def _operations(stage: StageDiff, unit: str, top: int) -> Grid:
    """The operations whose time in a unit changed most, or that got slower or faster one by one."""
    changed = [one for one in stage.operations if one.change_ns or one.match in (ADDED, REMOVED)]
    rows = [
        (
            name_of(one), one.match, number(one.before_n), number(one.after_n), units.time(one.before_ns),
            units.time(one.after_ns), _changed(one.change_ns), _each(one),
        )
        for one in changed[:top]
    ]  # fmt: skip
    header = ("operation", "match", "n before", "n after", "before", "after", "change", "one of them")
    title = f"Operations of {unit} that changed most"
    notes = (judged(stage),) if rows else ()
    return Grid(title, header, tuple(rows), names=2, notes=notes, low=("n before", "n after"))


def judged(stage: StageDiff) -> str:
    """How many operations of a stage got slower, faster, came or went."""
    verdicts = [one.verdict for one in stage.operations]
    return (
        f"{stage.stage}: of {len(stage.operations)} operations {verdicts.count(SLOWER)} got slower and "
        f"{verdicts.count(FASTER)} faster by themselves, {_how(stage.operations)}."
    )


def _how(found: Sequence[OperationChange]) -> str:
    kinds = [one.match for one in found]
    told = [f"{kinds.count(kind)} {kind}" for kind in (RENAMED, REPLACED, ADDED, REMOVED) if kind in kinds]
    return ", ".join(told) if told else "none was added or removed"


def name_of(one: OperationChange) -> str:
    """Its short name, or both of them."""
    if one.match in (RENAMED, REPLACED):
        return f"{short_kernel_name(one.before)} -> {short_kernel_name(one.after)}"
    return short_kernel_name(one.before or one.after)


def _each(one: OperationChange) -> str:
    if one.each is None or not one.verdict:
        return units.NONE
    return f"{percent(one.each.pct)} {one.verdict}"


def _calls(stage: StageDiff, unit: str) -> Grid:
    rows = [
        (one.call, one.kind, number(one.before), number(one.after), number(one.after - one.before, "+"))
        for one in stage.calls[:_MOST_CALLS]
    ]
    header = ("call", "kind", "before", "after", "change")
    return Grid(f"CUDA calls of {unit} that came or went", header, tuple(rows), names=2)


def _modules(stage: StageDiff, unit: str) -> Grid:
    rows = [_times(one.module, one.before_ns, one.after_ns) for one in stage.modules[:_MOST_MODULES]]
    return Grid(f"Modules of {unit}, kernels", ("module", "before", "after", "change"), tuple(rows))


# -- as a document ----------------------------------------------------------------------------------------------


def document(outcome: Outcome) -> dict[str, Any]:
    """A comparison as JSON holds it: as it is, changes in percent, no logarithms."""
    found: dict[str, Any] = asdict(outcome)
    for stage, shown in zip(outcome.stages, found["stages"], strict=True):
        for one, line in zip(stage.measures, shown["measures"], strict=True):
            line |= {"change": _change(one.change), "seen_pct": _finite(percent_of(one.seen))}
            del line["seen"]
        for part, line in zip(stage.waterfall, shown["waterfall"], strict=True):
            line["change_ns"] = part.change_ns
        for operation, line in zip(stage.operations, shown["operations"], strict=True):
            line |= {"each": _change(operation.each), "change_ns": operation.change_ns, "verdict": operation.verdict}
    return found


def _change(change: Change | None) -> dict[str, Any] | None:
    if change is None:
        return None
    numbers = {"pct": change.log, "low_pct": change.low, "high_pct": change.high}
    return {
        **{name: _finite(percent_of(value)) for name, value in numbers.items()},
        "over": change.over, "before_n": change.before_n, "after_n": change.after_n,
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None
