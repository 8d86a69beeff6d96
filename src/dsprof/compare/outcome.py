"""A comparison as data: what the terminal, Markdown, HTML and JSON all show."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa

from dsprof.arrays import NULL
from dsprof.compare.comparable import NOTE, REFUSE, Reason, reasons, stage_reasons
from dsprof.compare.gates import (
    COUNTED,
    DEFAULTS,
    MEASURED,
    NOT_COMPARABLE,
    Gate,
    GateResult,
    exit_code,
    judge_counted,
    judge_measured,
)
from dsprof.compare.kernels import OperationChange, operations
from dsprof.compare.statistics import RUN_NOISE, Change, change, widened
from dsprof.compare.units import Run, Sides, Units, matched, units_of
from dsprof.compare.waterfall import Part, waterfall
from dsprof.ground.columns import integers, texts
from dsprof.measures.causes import CAUSES
from dsprof.records import frozen
from dsprof.words import NO_MODULE

SCHEMA = "dsprof.diff/1"
FASTER, SLOWER, NO_CHANGE, NOISY = "faster", "slower", "no change seen", "too noisy to say"
#: The kinds of CUDA API calls whose coming and going is told, by the causes of idle time that they are.
_CALLS = {"sync": "synchronization", "copy": "copy", "alloc": "allocation"}
#: Of the units of a side; 0 is the shortest, 100 the longest.
PERCENTILES = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 100)
#: What ends with 3 where it cannot be compared.
NOT_COMPARABLE_EXIT = 3


@frozen
class Measured:
    """What was measured of a stage on both sides, in a unit: mean of runs in ns, the change, the verdict on it.

    `seen`: the change, as a logarithm, that the verdict would have been on four times in five.
    """

    measure: str
    before_ns: float
    after_ns: float
    change: Change | None
    seen: float | None
    verdict: str
    sentence: str


@frozen
class Percentile:
    """How long units are, of all runs of a side: `pct` percent of them are no longer than so many ns."""

    measure: str
    pct: int
    before_ns: int
    after_ns: int


@frozen
class Count:
    """What is counted exactly, in a unit on average."""

    name: str
    before: float
    after: float


@frozen
class CallChange:
    """A CUDA API call that waits, copies or allocates, of which there are more or fewer in a unit of the stage."""

    kind: str
    call: str
    before: float
    after: float


@frozen
class ModuleChange:
    """A module's kernels, in a unit of the stage on average."""

    module: str
    before_ns: float
    after_ns: float


@frozen
class StageDiff:
    """A stage on both sides, by its units: `of` is ``step`` or ``instance``; `units` and `requests` are of all runs."""

    stage: str
    of: str
    over: str
    units: tuple[int, int]
    measures: tuple[Measured, ...]
    percentiles: tuple[Percentile, ...]
    waterfall: tuple[Part, ...]
    counts: tuple[Count, ...]
    operations: tuple[OperationChange, ...]
    calls: tuple[CallChange, ...]
    modules: tuple[ModuleChange, ...]

    def measure(self, name: str) -> Measured:
        """What was measured under a name."""
        return next(one for one in self.measures if one.measure == name)


@frozen
class SideNames:
    """What a side is: its runs by name, the first of which stands for their kind."""

    runs: tuple[str, ...]
    gpus: tuple[str, ...]
    ranks: int


@frozen
class Outcome:
    """A comparison: `verdict` in a word, `exit_code` of the command line; `stages` is empty where it was refused."""

    schema: str
    verdict: str
    exit_code: int
    before: SideNames
    after: SideNames
    forced: bool
    reasons: tuple[Reason, ...]
    gates: tuple[GateResult, ...]
    stages: tuple[StageDiff, ...]

    @property
    def refused(self) -> bool:
        """Was nothing compared?"""
        return not self.stages


def compare(before: Sequence[Run], after: Sequence[Run], gates: Sequence[Gate] = (), force: bool = False) -> Outcome:
    """What differs between two sides, each of one run at least; `force`: also where they are not comparable."""
    units = [[units_of(run) for run in side] for side in (before, after)]
    common, said = _common(units)
    said = [*reasons(before, after), *said]
    stages = list[StageDiff]()
    for stage in common:
        there = [[one[stage] for one in side] for side in units]
        sides = matched(*there)
        of_stage = stage_reasons(sides, before, after)
        said += of_stage
        impossible = any(one.what in _IMPOSSIBLE for one in of_stage)
        if not impossible and (force or not _refusals([*said[: len(said) - len(of_stage)], *of_stage], stage)):
            stages.append(_stage(sides, before, after, there))
    judged = tuple(result for gate in gates for result in _judge(gate, stages, common))
    refused = any(one.level == REFUSE for one in said)
    stands = refused and not force
    code = exit_code(judged) if stages and judged else NOT_COMPARABLE_EXIT if stands or not stages else 0
    return Outcome(
        SCHEMA, _verdict(stages, judged, code), code, _names(before), _names(after), force and refused,
        tuple(said), judged, tuple(stages),
    )  # fmt: skip


#: Reasons that `force` cannot do anything about: there is nothing to compare.
_IMPOSSIBLE = ("units", "steps of one side")


def _common(units: Sequence[Sequence[Mapping[str, Units]]]) -> tuple[list[str], list[Reason]]:
    """The stages that all runs have, and reasons for those that they have not."""
    everywhere = [one for side in units for one in side]
    names = list(dict.fromkeys(stage for one in everywhere for stage in one))
    common = [stage for stage in names if all(stage in one for one in everywhere)]
    if not common:
        sides = [sorted({stage for one in side for stage in one}) for side in units]
        told = [", ".join(one) or "none" for one in sides]
        sentence = f"The sides have no stage in common: {told[0]} before, {told[1]} after."
        return [], [Reason(REFUSE, "stages", sentence)]
    missing = [stage for stage in names if stage not in common]
    sentences = [f"{stage} is not in every run, and is not compared." for stage in missing]
    return common, [Reason(NOTE, "stages", sentence) for sentence in sentences]


def _refusals(said: Iterable[Reason], stage: str) -> list[Reason]:
    return [one for one in said if one.level == REFUSE and one.stage in ("", stage)]


def _names(side: Sequence[Run]) -> SideNames:
    ranks = max(len(run.recordings) for run in side)
    return SideNames(tuple(run.name for run in side), side[0].about.gpus, ranks)


def _stage(sides: Sides, before: Sequence[Run], after: Sequence[Run], units: _All) -> StageDiff:
    parts = waterfall(sides)
    measured = tuple(_measured(sides, name, column) for name, column in MEASURED.items())
    over = measured[-1].change.over if measured[-1].change is not None else "request"
    size = tuple(sum(map(len, side)) for side in (sides.before, sides.after))
    return StageDiff(
        sides.stage, sides.of, over, (size[0], size[1]), measured, tuple(_percentiles(sides)), parts,
        tuple(_counts(sides)), operations(sides), tuple(_calls(sides.stage, before, after, units)),
        tuple(_modules(sides.stage, before, after, units)),
    )  # fmt: skip


def _measured(sides: Sides, name: str, column: str) -> Measured:
    if not all(one.known(column) for one in sides.runs):
        return Measured(name, 0.0, 0.0, None, None, NO_CHANGE, "of nothing: not every run knows it")
    means = [float(np.mean([one.mean(column) for one in side])) for side in (sides.before, sides.after)]
    requests = [[one.by_request(one.column(column)) for one in side] for side in (sides.before, sides.after)]
    found = change(requests[0], requests[1])
    verdict, sentence = _judged(found, name, sides.before[0].stretches)
    seen = None if found is None else widened(found, RUN_NOISE[name]).seen
    return Measured(name, means[0], means[1], found, seen, verdict, sentence)


def _judged(found: Change | None, measure: str, stretches: bool) -> tuple[str, str]:
    """A verdict in a word, and what it is over; too noisy where a change that matters may hide in it.

    Over requests, what differs from run to run is taken for granted, so that no two runs are called different for it.
    """
    if found is None:
        return NO_CHANGE, "of nothing: it is not there on both sides"
    units = "runs" if found.over == "run" else "stretches of the runs" if stretches else "requests"
    over = f"over {found.before_n} and {found.after_n} {units}"
    told = widened(found, RUN_NOISE[measure])
    notable = math.log1p(DEFAULTS[measure] / 100)
    if told.low is None or told.high is None:
        return NOISY, f"{over}, of which no noise is known"
    if told.low > 0:
        return SLOWER, over
    if told.high < 0:
        return FASTER, over
    return (NOISY if max(told.high, -told.low) > notable else NO_CHANGE), over


def _percentiles(sides: Sides) -> Iterable[Percentile]:
    """What is compared is the mean; this tells whether all units changed, or some."""
    for name, column in MEASURED.items():
        if all(one.known(column) for one in sides.runs):
            pooled = [np.concatenate([one.column(column) for one in side]) for side in (sides.before, sides.after)]
            before, after = (np.percentile(side, PERCENTILES, method="inverted_cdf").tolist() for side in pooled)
            for pct, *times in zip(PERCENTILES, before, after, strict=True):
                yield Percentile(name, pct, *map(int, times))


def _counts(sides: Sides) -> Iterable[Count]:
    for name, column in COUNTED.items():
        if all(one.known(column) for one in sides.runs):
            before, after = (float(np.mean([one.mean(column) for one in side])) for side in (sides.before, sides.after))
            yield Count(name, before, after)


def _calls(stage: str, before: Sequence[Run], after: Sequence[Run], units: _All) -> Iterable[CallChange]:
    """Calls whose number in a unit differs, the greatest difference first."""
    sides = _per_unit(stage, before, after, units, "stage_api_sum", "api_name", "instances")
    found = []
    for call, (one, other) in sides.items():
        kind = next((word for cause, word in _CALLS.items() if call.startswith(CAUSES[cause].calls)), None)
        if kind and one != other:
            found.append(CallChange(kind, call, one, other))
    return sorted(found, key=lambda one: (-abs(one.after - one.before), one.call))


def _modules(stage: str, before: Sequence[Run], after: Sequence[Run], units: _All) -> Iterable[ModuleChange]:
    """Modules by their folded names that have ranges on both sides."""
    sides = _per_unit(stage, before, after, units, "layer_sum", "folded", "total_ns")
    found = [ModuleChange(name, *times) for name, times in sides.items() if all(times) and name != NO_MODULE]
    return sorted(found, key=lambda one: (-abs(one.after_ns - one.before_ns), one.module))


#: All units of a stage, steady or not, by side and run.
_All = Sequence[Sequence[Units]]


def _per_unit(
    stage: str, before: Sequence[Run], after: Sequence[Run], units: _All, table: str, name: str, value: str
) -> dict[str, tuple[float, float]]:
    """By name, a sum over a stage for one of all its units, on both sides; empty where a run lacks the table."""
    found = [dict[str, float](), dict[str, float]()]
    for side, runs, counts in zip(found, (before, after), units, strict=True):
        for run, all_units in zip(runs, counts, strict=True):
            for one in run.recordings:
                if (rows := one.table(table)) is None:
                    return {}
                for key, total in _sums(rows, stage, name, value):
                    side[key] = side.get(key, 0.0) + total / len(all_units) / len(runs)
    return {key: (found[0].get(key, 0.0), found[1].get(key, 0.0)) for key in sorted({*found[0], *found[1]})}


def _sums(rows: pa.Table, stage: str, name: str, value: str) -> Iterable[tuple[str, int]]:
    """The rows of a stage: a name and a value, where it has one."""
    of, stages = texts(rows, "stage")
    if stage in stages:
        code, names = texts(rows, name)
        values = integers(rows, value)
        there = np.flatnonzero((of == stages.index(stage)) & (values != NULL))
        yield from ((names[code[row]], int(values[row])) for row in there)


# -- gates and the verdict in a word ------------------------------------------------------------------------------


def _judge(gate: Gate, stages: Sequence[StageDiff], common: Sequence[str]) -> Iterable[GateResult]:
    """A gate in its stage, or in each."""
    wanted = [gate.stage] if gate.stage else list(common)
    for stage in wanted:
        found = next((one for one in stages if one.stage == stage), None)
        of = gate.of(stage)
        if found is None:
            sentence = f"{stage} was not compared."
            yield GateResult(of.text, stage, of.measure, of.limit_pct, NOT_COMPARABLE, sentence)
        elif of.measure in MEASURED:
            yield judge_measured(of, found.measure(of.measure).change)
        else:
            count = next((one for one in found.counts if one.name == of.measure), None)
            if count is None:
                sentence = f"{of.measure} of {stage} is not known of every run."
                yield GateResult(of.text, stage, of.measure, of.limit_pct, NOT_COMPARABLE, sentence)
            else:
                yield judge_counted(of, count.before, count.after)


def _verdict(stages: Sequence[StageDiff], judged: Sequence[GateResult], code: int) -> str:
    """The comparison in a few words."""
    if not stages:
        return NOT_COMPARABLE
    if judged:
        return {0: "passed", 1: "regression"}.get(code, _worst(judged))
    return "compared" if code == 0 else "compared in part"


def _worst(judged: Sequence[GateResult]) -> str:
    """Why gates could not be judged."""
    unknown = any(one.result == NOT_COMPARABLE for one in judged)
    return "not comparable for a gate" if unknown else "too noisy for the gates"


def changes(outcome: Outcome) -> Iterable[tuple[StageDiff, Measured]]:
    """What was measured, stage by stage."""
    return ((stage, one) for stage in outcome.stages for one in stage.measures)
