"""The page of a comparison: what changed and by how much, what the difference is made of, steps, operations, calls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import pyarrow as pa

from dsprof.compare.kernels import ADDED, REMOVED, SAME
from dsprof.compare.outcome import FASTER, SLOWER, Outcome, StageDiff
from dsprof.page.document import document, head
from dsprof.page.html import Html, element, joined, short
from dsprof.page.parts import (
    Col,
    Row,
    Section,
    cols,
    figure,
    folded,
    kernel_cell,
    legend,
    plain_table,
    scrolling,
    search,
    table_of,
)
from dsprof.page.source import plain
from dsprof.page.svg import BOTTOM, LEFT, TOP, WIDTH, Scale, drawing, line, path, round_numbers, tick, time_axis, words
from dsprof.rules.names import short_kernel_name
from dsprof.show import diff, units

_VERDICTS = (
    "The mean of a step, or of an instance of a stage without steps, is compared, and the interval says how sure its "
    "change is. Faster or slower is what the interval leaves no doubt of; where a change that matters may hide in the "
    "noise that is said. GPU busy is the GPU's own work, without waiting for other ranks where that is known; wall "
    "is all the time that passed."
)
_WATERFALL = (
    "From above to below: the wall time of a step before, what each part of it took more (to the right) or less (to "
    "the left), and the wall time after. The parts of a time are what the GPU was busy with, by kernel family, and "
    "why it was idle; they add up to the wall time, so their changes add up to the difference without rest."
)
_SPREAD = (
    "Steps in order of their duration, of all runs of a side: a point says how many percent of the steps are no longer "
    "than that. Where both lines are apart all along, every step changed; where only their right ends are, a few did. "
    "Verdicts are on means by request and run, as steps of one request are no separate measurements."
)
_OPERATIONS = (
    "A row is a kernel or a kind of copy in a step on average, those first whose time changed most. What has the same "
    "name on both sides is the same; between the same neighbours it may be renamed (another version, tile or type) or "
    "replaced (of the same family); the rest was added or removed. The last column is of one such operation by "
    "itself, and says slower or faster where that is seen."
)
_COUNTS = "What is counted is exact. Calls are those that wait, copy or allocate, and came or went."
#: So many stages have plots, those that take most; so many operations are written out, those that changed most.
MOST_STAGES, MOST_OPERATIONS = 12, 300
_BEFORE, _AFTER, _LONGER, _SHORTER, _WHOLE = "p1", "p2", "bad", "busy", "quiet"
_PARTS = cols({"stage": "stage", "kind": "the GPU is", "part": "with, or why", "before_ns": "before",
               "after_ns": "after"})  # fmt: skip
_CHANGE = Col("change_ns", "change", change=True)
_PERCENTILES = cols({"stage": "stage", "measure": "of", "percentile": "percentile", "before_ns": "before",
                     "after_ns": "after"})  # fmt: skip
_MODULES = cols({"stage": "stage", "module": "module", "before_ns": "before", "after_ns": "after"})


class Tables(Protocol):
    """Where tables of a comparison come from."""

    def arrow(self, name: str) -> pa.Table:
        """The table `name`."""


def comparison_page(outcome: Outcome, tables: Tables, version: str) -> str:
    """A comparison as one HTML file. `tables` are those of `dsprof.compare.tables`."""
    shown = sorted(outcome.stages, key=lambda stage: -max(diff.wall_of(stage)))[:MOST_STAGES]
    stages = [stage for stage in outcome.stages if stage in shown]
    found = (_verdicts(outcome), _waterfalls(stages, tables), _spreads(stages, tables), _operations(outcome, tables),
             _counts(tables))  # fmt: skip
    sides = [short(one.runs[0]) for one in (outcome.before, outcome.after)]
    title = f"{outcome.verdict}: {sides[0]} and {sides[1]} - dsprof"
    return document(title, head("Before and after", "", diff.headline(outcome)), [*filter(None, found)], version)


def _rows(tables: Tables, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = plain(tables.arrow(name)).to_pylist()
    return rows


# -- verdicts ---------------------------------------------------------------------------------------------------


def _verdicts(outcome: Outcome) -> Section:
    """The cards, gates, reasons, and the numbers of all stages."""
    cards = element("div", *map(_card, outcome.stages), class_="cards") if outcome.stages else ""
    gates = [element("li", element("b", "passed" if passed else "not passed"), " ", text)
             for passed, text in diff.gates(outcome)]  # fmt: skip
    said = [element("li", element("b", level), ": ", text) for level, text in diff.said(outcome)]
    answer = diff.answer(outcome)
    told = plain_table(answer.header, answer.rows, answer.title, answer.names) if answer.rows else ""
    notes = [element("p", note, class_="dim") for note in answer.notes]
    lists = [element("ul", *items, class_="notes") for items in ((said, gates) if outcome.refused else (gates, said))
             if items]  # fmt: skip
    return Section("verdicts", "In short", joined(cards, *lists, told, *notes), _VERDICTS)


def _card(stage: StageDiff) -> Html:
    facts = [part for row in diff.measured(stage) for part in _fact(*row)]
    return element("article", element("h3", diff.unit_of(stage)), element("dl", *facts, class_="facts"), class_="card")


def _fact(measure: str, verdict: str, text: str) -> tuple[Html, Html]:
    colour = {SLOWER: "kind", FASTER: "kind ok"}.get(verdict, "kind dim")
    return element("dt", measure), element("dd", element("span", verdict, class_=colour), " ", text)


# -- what the difference is made of -----------------------------------------------------------------------------


def _waterfalls(stages: Sequence[StageDiff], tables: Tables) -> Section | None:
    """A plot for each stage, and the parts as a table."""
    drawn = [_waterfall(stage) for stage in stages if any(diff.wall_of(stage))]
    if not drawn:
        return None
    seen = legend((("wall time", _WHOLE), ("takes longer", _LONGER), ("takes less", _SHORTER)))
    table = table_of("waterfall", (*_PARTS, _CHANGE), _rows(tables, "waterfall"), "Parts of the wall time by stage",
                     sortable=True)  # fmt: skip
    body = joined(*drawn, seen, folded("As a table", table))
    return Section("difference", "Where the difference is", body, _WATERFALL)


#: A row of the plot, the room of its words, of its numbers, and of the scale above.
_ROW, _WORDS, _NUMBERS, _SCALE = 26, 262, 96, 26
#: A longer name of a part is cut.
_LONGEST = 36
#: Less than this share of a time that changed is made visible by a scale that does not begin at 0.
_SMALL = 0.25


def _waterfall(stage: StageDiff) -> Html:
    parts = [(name, after - before) for name, before, after in diff.parts_of(stage) if before != after]
    whole = diff.wall_of(stage)
    steps = [whole[0]]
    for _, change in parts:
        steps.append(steps[-1] + change)
    x = _across(steps)
    height = _SCALE + _ROW * (len(parts) + 2)
    drawn = [*_scale(x, height), *_bar(x, 0, "wall before", x.low, steps[0], _WHOLE, units.time(whole[0]))]
    for row, ((name, change), at, then) in enumerate(zip(parts, steps, steps[1:], strict=False), 1):
        colour = _LONGER if change > 0 else _SHORTER
        drawn += _bar(x, row, name, at, then, colour, units.signed(change, units.time))
    drawn += _bar(x, len(parts) + 1, "wall after", x.low, whole[1], _WHOLE, units.time(whole[1]))
    said = ", ".join(f"{name} {units.signed(change, units.time)}" for name, change in parts)
    label = f"{diff.unit_of(stage)}: from {units.time(whole[0])} to {units.time(whole[1])}; {said or 'no change'}"
    cut = f" The scale begins at {tick(units.time(x.low))}, and not at 0." if x.low else ""
    plot = element("div", scrolling(drawing(label, height, *drawn), "Where the difference is"), class_="plot")
    return figure(f"{diff.unit_of(stage)}: its wall time before and after, and what makes the difference.{cut}", plot)


def _across(steps: Sequence[int]) -> Scale:
    """The scale of times: from 0, or from a round number where changes would not be seen."""
    low, high = min(steps), max(steps)
    if not 0 < high - low < _SMALL * high:
        return Scale(0, 1.02 * high or 1, _WORDS, WIDTH - _NUMBERS)
    pitch = _pitch(1.6 * (high - low))
    first = max(math.floor((low - 0.3 * (high - low)) / pitch), 0) * pitch
    return Scale(first, high + 0.06 * (high - first), _WORDS, WIDTH - _NUMBERS)


def _pitch(span: float) -> float:
    """The distance of round numbers in a stretch."""
    return (*round_numbers(span), 1)[1] or 1


def _scale(x: Scale, height: int) -> Iterable[Html]:
    pitch = _pitch(x.high - x.low)
    for number in range(math.ceil(x.low / pitch), int(x.high / pitch) + 1):
        at = x(number * pitch)
        yield line(at, _SCALE - 4, at, height)
        yield words(at, _SCALE - 10, tick(units.time(number * pitch)), "middle")


def _bar(x: Scale, row: int, name: str, low: float, high: float, colour: str, text: str) -> Iterable[Html]:
    """A row of the plot: its words, from where to where, and its number beside that."""
    top = _SCALE + _ROW * row
    first, last = sorted((x(low), x(high)))
    shown = short(name) if len(name) <= _LONGEST else f"{short(name[: _LONGEST - 1])}…"
    yield words(_WORDS - 10, top + 17, shown, "end", "label")
    title = element("title", f"{short(name)}: {text}")
    yield element("rect", title, x=f"{first:.1f}", y=top + 3, width=f"{max(last - first, 1.5):.1f}", height=_ROW - 6,
                  class_=colour)  # fmt: skip
    yield words(last + 7, top + 17, text, "start", "label")


# -- steps ------------------------------------------------------------------------------------------------------


def _spreads(stages: Sequence[StageDiff], tables: Tables) -> Section | None:
    """How the durations of units are spread, a plot for each stage that has several."""
    drawn = [_spread(stage) for stage in stages if stage.percentiles and min(stage.units) > 1]
    if not drawn:
        return None
    seen = legend((("before", _BEFORE), ("after", _AFTER)))
    table = table_of("percentiles", _PERCENTILES, _rows(tables, "percentiles"), "Percentiles of the compared steps and "
                     "instances", sortable=True)  # fmt: skip
    return Section("steps", "Steps before and after", joined(*drawn, seen, folded("As a table", table)), _SPREAD)


_HEIGHT = 260
#: Beyond this percentile nothing is drawn, for one slow step would make all others small.
_LAST_PCT = 99


def _spread(stage: StageDiff) -> Html:
    shown = [one for one in stage.percentiles if one.pct <= _LAST_PCT]
    y = Scale(0, 1.08 * max(max(one.before_ns, one.after_ns) for one in shown) or 1, _HEIGHT - BOTTOM, TOP)
    x = Scale(0, 100, LEFT, WIDTH - 22)
    parts = [*time_axis(y), *(words(x(pct), _HEIGHT - 9, f"{pct} %", "middle") for pct in range(0, 101, 10))]
    said = []
    for measure, style in (("wall", "line"), ("gpu_busy", "line dashed")):
        points = [one for one in shown if one.measure == measure]
        for side, colour in (("before", _BEFORE), ("after", _AFTER)):
            times = [getattr(one, f"{side}_ns") for one in points]
            commands = [f"{'L' if at else 'M'}{x(one.pct):.1f} {y(time):.1f}" for at, (one, time) in
                        enumerate(zip(points, times, strict=True))]  # fmt: skip
            parts.append(path(commands, f"{style} s-{colour}"))
            middle = next((time for one, time in zip(points, times, strict=True) if one.pct == 50), None)
            said.append(f"median {diff.MEASURES[measure]} {side} {units.time(middle)}")
    unit = f"{stage.of}s"
    picture = drawing(f"{unit} of {stage.stage} by duration: {', '.join(said)}", _HEIGHT, *parts)
    before, after = (units.count(number) for number in stage.units)
    caption = (
        f"{stage.stage}: so many percent of its {unit} are no longer, of {before} before and {after} after. "
        f"Wall time (whole lines) and GPU busy (dashed), to the {_LAST_PCT}th percentile."
    )
    return figure(caption, element("div", scrolling(picture, f"{unit} by duration"), class_="plot"))


# -- operations -------------------------------------------------------------------------------------------------


def _operations(outcome: Outcome, tables: Tables) -> Section | None:
    """All that changed, came or went, to be searched and sorted."""
    rows = _rows(tables, "operations")
    if not rows:
        return None
    shown = sorted(rows, key=lambda row: -abs(row["change_ns"]))[:MOST_OPERATIONS]
    caption = f"The {MOST_OPERATIONS} of {len(rows)} that changed most" if len(rows) > MOST_OPERATIONS else "All"
    said = element("ul", *(element("li", diff.judged(stage)) for stage in outcome.stages if stage.operations),
                   class_="notes")  # fmt: skip
    found = {column: list(dict.fromkeys(row[column] for row in shown)) for column in ("stage", "match")}
    columns = (
        *cols({"stage": "stage", "match": "match"}), Col("before", "operation", own=_operation),
        Col("family", "family"), _number("before_n", "n before"), _number("after_n", "n after"),
        *cols({"before_ns": "before", "after_ns": "after"}), _CHANGE, Col("each_pct", "one of them", own=_each),
    )  # fmt: skip
    table = table_of("operations", columns, shown, f"{caption}, in a step or instance of each stage", sortable=True,
                     name="operations")  # fmt: skip
    return Section("operations", "Kernels and copies", joined(said, search("operations", **found), table), _OPERATIONS)


def _number(column: str, words: str) -> Col:
    """A column of what is counted, on average."""
    return Col(column, words, own=lambda row: element("td", diff.number(row[column]), data_v=row[column]))


def _each(row: Row) -> Html:
    """By how much one such operation changed, and whether that is seen."""
    changed = row["each_pct"]
    return element("td", f"{diff.percent(changed)} {row['verdict'] or ''}".rstrip(), data_v=changed)


def _operation(row: Row) -> Html:
    """Its name, or both where they are two."""
    before, after = row["before"], row["after"]
    if row["match"] in (SAME, ADDED, REMOVED):
        name = before or after or ""
        return kernel_cell(short_kernel_name(name), name)
    return kernel_cell(f"{short_kernel_name(before)} -> {short_kernel_name(after)}", f"{before} -> {after}")


# -- counts -----------------------------------------------------------------------------------------------------


def _counts(tables: Tables) -> Section | None:
    """What is counted, calls that came or went, modules."""
    sides = [_number(side, side) for side in ("before", "after")]
    calls = (*cols({"stage": "stage", "kind": "kind", "call": "call"}), *sides)
    parts = [
        _table(tables, "counts", (*cols({"stage": "stage", "name": "what"}), *sides), "Counts of a step or instance"),
        _table(tables, "calls", calls, "CUDA calls that came or went, in a step or instance"),
        _table(tables, "modules", (*_MODULES, _CHANGE), "Kernels of modules, in a step or instance"),
    ]
    shown = [part for part in parts if part]
    return Section("counts", "Launches, calls, modules", joined(shown), _COUNTS) if shown else None


def _table(tables: Tables, name: str, columns: Sequence[Col], caption: str) -> Html:
    rows = _rows(tables, name)
    if not rows:
        return Html("")
    most = f"the first {MOST_OPERATIONS} of {len(rows)}" if len(rows) > MOST_OPERATIONS else str(len(rows))
    return folded(f"{caption} ({most})", table_of(name, columns, rows[:MOST_OPERATIONS], caption, sortable=True))
