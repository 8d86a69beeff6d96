"""A comparison as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dsprof.compare.outcome import Outcome
from dsprof.compare.statistics import percent_of
from dsprof.tables._table import CodedText, Column, Table, integer, name, real

_STAGE = name("stage", "The stage.")
_MEASURE = name("measure", "gpu_busy, without waiting for other ranks where that is known, or wall.")
#: A row: its values in the order of the columns.
_Row = Sequence[Any]


def _table(title: str, row: str, columns: tuple[Column, ...], rows: Callable[[Outcome], list[_Row]]) -> Table:
    """A table whose rows a function gives."""

    def build(outcome: Outcome) -> dict[str, Any]:
        columns_of = list(zip(*rows(outcome), strict=True)) or [() for _ in columns]
        return {one.name: _values(one, values) for one, values in zip(columns, columns_of, strict=True)}

    build.__annotations__ = {"outcome": Outcome, "return": dict[str, Any]}
    return Table(title, row, columns, build)


def _values(column: Column, values: Sequence[Any]) -> Any:
    """The values of a column, as tables are built of them."""
    if column.kind == "name":
        strings = tuple(dict.fromkeys(one for one in values if one is not None))
        codes = {text: code for code, text in enumerate(strings)}
        return CodedText(np.array([codes.get(one, -1) for one in values], np.int64), strings)
    if column.kind == "float":
        return np.array([np.nan if one is None else one for one in values], np.float64)
    return np.array(values, np.int64)


def _stages(outcome: Outcome) -> list[_Row]:
    rows = list[_Row]()
    for stage in outcome.stages:
        for one in stage.measures:
            found = one.change
            numbers = (None,) * 7 if found is None else (
                found.pct, percent_of(found.low), percent_of(found.high), percent_of(one.seen), found.over,
                found.before_n, found.after_n,
            )  # fmt: skip
            rows.append((stage.stage, stage.of, one.measure, one.before_ns, one.after_ns, *numbers[:4],
                         numbers[4], numbers[5] or 0, numbers[6] or 0, one.verdict))  # fmt: skip
    return rows


def _percentiles(outcome: Outcome) -> list[_Row]:
    return [
        (stage.stage, one.measure, one.pct, one.before_ns, one.after_ns)
        for stage in outcome.stages
        for one in stage.percentiles
    ]


def _waterfall(outcome: Outcome) -> list[_Row]:
    return [
        (stage.stage, part.kind, part.name, part.before_ns, part.after_ns, part.change_ns)
        for stage in outcome.stages
        for part in stage.waterfall
    ]


def _counts(outcome: Outcome) -> list[_Row]:
    return [(stage.stage, one.name, one.before, one.after) for stage in outcome.stages for one in stage.counts]


def _operations(outcome: Outcome) -> list[_Row]:
    rows = list[_Row]()
    for stage in outcome.stages:
        for one in stage.operations:
            each = one.each
            numbers = (None,) * 3 if each is None else (each.pct, percent_of(each.low), percent_of(each.high))
            names, times = (one.before or None, one.after or None), (one.before_ns, one.after_ns, one.change_ns)
            counts = (one.before_n, one.after_n)
            rows.append((stage.stage, one.match, *names, one.family, *counts, *times, *numbers, one.verdict or None))
    return rows


def _calls(outcome: Outcome) -> list[_Row]:
    return [(stage.stage, one.kind, one.call, one.before, one.after) for stage in outcome.stages for one in stage.calls]


def _modules(outcome: Outcome) -> list[_Row]:
    return [
        (stage.stage, one.module, one.before_ns, one.after_ns, one.after_ns - one.before_ns)
        for stage in outcome.stages
        for one in stage.modules
    ]


def _reasons(outcome: Outcome) -> list[_Row]:
    return [(one.level, one.what, one.stage or None, one.sentence) for one in outcome.reasons]


def _gates(outcome: Outcome) -> list[_Row]:
    return [
        (one.gate, one.stage, one.measure, one.limit_pct, one.result, one.change_pct, one.high_pct, one.sentence)
        for one in outcome.gates
    ]


#: The tables of a comparison by name.
TABLES = {
    table.name: table
    for table in (
        _table(
            "stages",
            "a stage x what is measured of it",
            (
                _STAGE,
                name("unit", "What is compared of it: a step, or an instance where it has no steps."),
                _MEASURE,
                real("before_ns", "Of a unit before, mean of the runs."),
                real("after_ns", "Of a unit after."),
                real("change_pct", "The change, by the means of logarithms.", True),
                real("low_pct", "The lower end of its 95 % interval.", True),
                real("high_pct", "The upper end.", True),
                real("seen_pct", "The change that would have been seen four times in five.", True),
                name("over", "What the interval is over: run or request.", True),
                integer("before_n", "How many of these there are before."),
                integer("after_n", "How many after."),
                name("verdict", "faster, slower, no change seen, or too noisy to say."),
            ),
            _stages,
        ),
        _table(
            "percentiles",
            "a stage x what is measured of it x percentile of its units",
            (
                _STAGE,
                _MEASURE,
                integer(
                    "percentile", "So many percent of the units of all runs of a side are no longer; 0: the shortest."
                ),
                integer("before_ns", "Than this, before."),
                integer("after_ns", "Than this, after."),
            ),
            _percentiles,
        ),
        _table(
            "waterfall",
            "a stage x part of a unit's time",
            (
                _STAGE,
                name("kind", "busy or idle, of the GPU."),
                name("part", "A kernel family, or a cause of idle time."),
                integer("before_ns", "Of a unit before; a stage's rows add up to its wall time."),
                integer("after_ns", "Of a unit after."),
                integer("change_ns", "after_ns - before_ns."),
            ),
            _waterfall,
        ),
        _table(
            "counts",
            "a stage x what is counted",
            (_STAGE, name("name", "What."), real("before", "In a unit before."), real("after", "In a unit after.")),
            _counts,
        ),
        _table(
            "operations",
            "a stage x kernel or kind of copy",
            (
                _STAGE,
                name("match", "same name, renamed or replaced in the same place, added, or removed."),
                name("before", "Its name before.", True),
                name("after", "Its name after.", True),
                name("family", "Its family."),
                real("before_n", "How many in a unit before."),
                real("after_n", "How many after."),
                real("before_ns", "Their time in a unit before."),
                real("after_ns", "After."),
                real("change_ns", "after_ns - before_ns."),
                real("each_pct", "The change of the time of one of them.", True),
                real("each_low_pct", "The lower end of its interval, which holds for all of the stage together.", True),
                real("each_high_pct", "The upper end.", True),
                name("verdict", "slower or faster, where that is seen.", True),
            ),
            _operations,
        ),
        _table(
            "calls",
            "a stage x CUDA API call of which there are more or fewer",
            (
                _STAGE,
                name("kind", "synchronization, copy or allocation."),
                name("call", "The call."),
                real("before", "In a unit before."),
                real("after", "After."),
            ),
            _calls,
        ),
        _table(
            "modules",
            "a stage x module of the model, indexes folded",
            (
                _STAGE,
                name("module", "The module."),
                real("before_ns", "Of its kernels, in a unit before."),
                real("after_ns", "After."),
                real("change_ns", "after_ns - before_ns."),
            ),
            _modules,
        ),
        _table(
            "reasons",
            "what differs beside the change itself",
            (
                name("level", "refuse, warn or note."),
                name("what", "What it is of."),
                name("stage", "The stage, missing for all.", True),
                name("sentence", "The reason."),
            ),
            _reasons,
        ),
        _table(
            "gates",
            "a gate in a stage",
            (
                name("gate", "The gate."),
                _STAGE,
                name("measure", "What it is on."),
                real("limit_pct", "By how much it may grow."),
                name("result", "passed, regression, too noisy, or not comparable."),
                real("change_pct", "By how much it grew.", True),
                real("high_pct", "By how much at most, with 97.5 % certainty.", True),
                name("sentence", "What that means."),
            ),
            _gates,
        ),
    )
}
