"""Summaries and tables on a terminal, with rich."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby, zip_longest
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dsprof.rules.names import short_kernel_name
from dsprof.show import units
from dsprof.show.layout import Grid, coverage, grids, headline, verdicts
from dsprof.show.safe import for_terminal, visible
from dsprof.show.summary import Summary

if TYPE_CHECKING:
    from rich.progress import Progress

    from dsprof.answers.what_if import WhatIf
    from dsprof.capture.doctor import Check
    from dsprof.compare.outcome import Outcome
    from dsprof.show.reports import Heat, ReportsSummary

#: Width of what goes into a pipe or a file.
_PIPE_WIDTH = 120
#: Least width that a table's names are cut to, and the space between two columns.
_NAME_WIDTH, _GAP = 48, 2
#: A title of so many characters stands in the place of its first column's name.
_SHORT_TITLE = 20
#: Of the names in a summary's table: the room that they keep on a narrow terminal, that for which columns of low value
#: go, and the longest that is shown.
_LEAST_NAMES, _ROOM_OF_NAMES, _LONGEST_NAME = 24, 62, 120


def progress_bar() -> Progress:
    """A bar on stderr that vanishes when it is stopped."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console(stderr=True), transient=True)


def console(stderr: bool = False) -> Console:
    """A console that keeps its width in a pipe and honours NO_COLOR."""
    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not made.is_terminal and made.width < _PIPE_WIDTH:
        made.width = _PIPE_WIDTH
    return made


def print_summary(summary: Summary, out: Console) -> None:
    """The first screen: the report, its stages, their kernels, what to know of the data."""
    labels = headline(summary)
    room = max(len(label) for label, _ in labels) + _GAP
    for label, text in labels:
        _paragraph(out, [(label.ljust(room), "dim"), (text, "")], " " * room)
    covered = coverage(summary)
    if first := "" if summary.has_stages else covered:  # without a stage there is nothing else to say at once
        out.print()
        _paragraph(out, [(first, "bold")])
    _print_verdicts(summary, out)
    shown = grids(summary)
    left_out = _print_grids(shown, out)
    out.print()
    for found in summary.findings:
        mark = ("! ", "bold yellow") if found.strict_exit else ("i ", "bold cyan")
        _paragraph(out, [mark, (str(found), "")], "  ")
    tables = ", ".join(dict.fromkeys(grid.table for grid in shown if grid.table)) or "`dsprof tables` lists them"
    words = ", ".join(word.replace(" ", _GLUE) for word in dict.fromkeys(left_out))
    narrow = f" Left out at this width: {words}." if words else ""
    more = f"More with `dsprof{_GLUE}table`: {tables}.{narrow}"
    _paragraph(out, [("" if first or not covered else f"{covered} ", ""), (more, "dim")])


def print_reports(summary: ReportsSummary, out: Console) -> None:
    """The first screen of several reports: who holds the others up, a heat map, what failed, each of them."""
    from dsprof.show import reports

    labels = reports.headline_of(summary)
    room = max(len(label) for label, _ in labels) + _GAP
    for label, text in labels:
        _paragraph(out, [(label.ljust(room), "dim"), (text, "")], " " * room)
    if said := reports.nobody_compared(summary):
        out.print()
        _paragraph(out, [(said, "")])
    left_out = list[str]()
    if held := reports.holders(summary):
        out.print()
        left_out += _print_grid(held, out)
        _paragraph(out, [(" ".join(held.notes), "dim")])
    if heat := reports.heat_of(reports.shown_stages(summary)):
        out.print()
        _print_heat(heat, out)
    if lost := reports.failures(summary):
        out.print()
        for sentence in lost:
            _paragraph(out, [("! ", "bold yellow"), (sentence, "")], "  ")
    out.print()
    each = reports.report_grid(summary)
    left_out += _print_grid(each, out)
    narrow = [f"Left out at this width: {', '.join(dict.fromkeys(left_out))}."] if left_out else []
    if notes := " ".join([*each.notes, *narrow]):
        _paragraph(out, [(notes, "dim")])


#: How a number of a heat map looks that is so far from the median, in percent; those below it, and nearer ones not.
_HEAT = ((20.0, "bold white on red"), (10.0, "black on bright_red"), (5.0, "black on yellow"))
_COLD = ((20.0, "bold white on blue"), (10.0, "black on bright_blue"), (5.0, "black on cyan"))


def _print_heat(heat: Heat, out: Console) -> None:
    """A heat map; what does not fit the width follows below."""
    from dsprof.show.reports import heat_cell

    _paragraph(out, [(heat.title, "bold")])
    names = _Shown("stage", False, [_fit(visible(name), _LEAST_NAMES) for name in heat.names])
    columns = [
        _Shown(_fit(visible(label), _LEAST_NAMES), True, [heat_cell(row[place]) for row in heat.rows])
        for place, label in enumerate(heat.columns)
    ]
    values, done = [list(column) for column in zip(*heat.rows, strict=True)], 0
    for block in _blocks(columns, out.width + _GAP - names.width):
        table = RichTable(box=None, pad_edge=False, padding=(0, 1))
        table.add_column(names.name, header_style="bold", no_wrap=True)
        for column in block:
            table.add_column(_text(column.name), justify="right", header_style="dim", no_wrap=True)
        for place, name in enumerate(names.cells):
            cells = [
                Text(column.cells[place], _heat_style(values[done + number][place]))
                for number, column in enumerate(block)
            ]
            table.add_row(_text(name), *cells)
        out.print(table)
        done += len(block)
    if heat.notes:
        _paragraph(out, [(" ".join(heat.notes), "dim")])


def _heat_style(value: float | None) -> str:
    if value is None:
        return "dim"
    return next((style for least, style in (_HEAT if value > 0 else _COLD) if abs(value) >= least), "")


def _print_verdicts(summary: Summary, out: Console) -> None:
    """A sentence for each stage; a remedy that several in a row have stands behind the last of them."""
    shown = verdicts(summary)
    if shown:
        out.print()
    for remedy, together in groupby(shown, lambda verdict: verdict.remedy):
        *before, last = together
        for verdict in before:
            _paragraph(out, [(verdict.sentence, "bold")])
        _paragraph(out, [(last.sentence, "bold"), (f" {remedy}", "")])


def _print_grids(shown: Sequence[Grid], out: Console) -> list[str]:
    """The tables, the notes of those of one subject below them, and which columns there was no room for."""
    left_out, notes = list[str](), list[str]()
    for grid, after in zip_longest(shown, shown[1:]):
        if grid.apart:
            out.print()
        left_out += _print_grid(grid, out)
        notes += grid.notes
        if notes and (after is None or after.apart):
            _paragraph(out, [(" ".join(notes), "dim")])
            notes = []
    return left_out


def print_what_if(found: WhatIf, out: Console) -> None:
    """What steps took and would take, and what was taken for granted."""
    from dsprof.show.what_if import grid

    shown = grid(found)
    _print_grid(shown, out)
    for note in shown.notes:
        _paragraph(out, [(note, "dim")])


def print_diff(outcome: Outcome, out: Console, top: int) -> None:
    """A comparison: the sides, the answer, whether they are comparable, gates, and then why."""
    from dsprof.show import diff

    labels = diff.headline(outcome)
    room = max(len(label) for label, _ in labels) + _GAP
    for label, text in labels:
        _paragraph(out, [(label.ljust(room), "dim"), (text, "")], " " * room)
    if (answer := diff.answer(outcome)).rows:
        _print_grids([answer], out)
    if outcome.reasons or outcome.gates:
        out.print()
    for level, sentence in diff.said(outcome):
        _paragraph(out, [(f"{level}: ", "bold yellow" if level != "note" else "bold cyan"), (sentence, "")])
    for passed, sentence in diff.gates(outcome):
        _paragraph(out, [("gate ", "bold green" if passed else "bold red"), (sentence, "")])
    _print_grids(diff.grids(outcome, top), out)


def _print_grid(grid: Grid, out: Console) -> list[str]:
    """A table, under its title where that is no word for its first column; the columns that there was no room for."""
    if len(grid.title) > _SHORT_TITLE:
        _paragraph(out, [(grid.title, "bold")])
    tables, dropped = _tables(grid, out.width)
    for table in tables:
        out.print(table)
    return dropped


def _text(text: str, style: str = "") -> Text:
    """Text as it is: no markup, nothing that the terminal obeys."""
    return Text(for_terminal(text), style)


#: Where a line must not end: between a number and its unit, within one that has spaces, around what its error is.
_WITHIN = re.compile(
    r"(?<=\d) (?=(?:%|[num]?s|[kMGT]?B|[MGT]?FLOP|x)(?!\w))|(?<=\d) (?=\d{3}(?!\d))|(?<=[ns]) (?=± )|(?<=±) (?=\d)"
)
#: Stands for a space there while lines are made: as wide, and no space.
_GLUE = "\ue000"


def _paragraph(out: Console, parts: Sequence[tuple[str, str]], indent: str = "") -> None:
    """Texts with their styles as one, in lines that end between words, and never within a number with its unit.

    `indent`: what stands before each line but the first, which has something as wide of its own.
    """
    text = Text.assemble(*((_WITHIN.sub(_GLUE, for_terminal(part)), style) for part, style in parts))
    head, text = text[: len(indent)], text[len(indent) :]
    for number, line in enumerate(text.wrap(out, max(out.width - len(indent), 1))):
        line.rstrip()
        line.plain = line.plain.replace(_GLUE, " ")
        out.print(Text.assemble(head if number == 0 else indent, line), no_wrap=True, crop=False)


def _tables(grid: Grid, width: int) -> tuple[list[RichTable], list[str]]:
    """A grid for a terminal of some width, and the columns that it has no room for.

    Columns without a value are not there; of the others, those of low value go first; then names are folded; what does
    not fit yet follows below, under the names. No number is cut: 333.4 would be read as a whole one where it is
    333.4 ms.
    """
    columns = [
        _Shown(word, place >= grid.names, [_fit(visible(row[place]), _LONGEST_NAME) for row in grid.rows])
        for place, word in enumerate(_header(grid))
        if place < grid.names or any(row[place] != units.NONE for row in grid.rows)
    ]
    dropped: list[str] = []
    for word in grid.low:
        if sum(min(one.width, _ROOM_OF_NAMES) for one in columns) <= width + _GAP:
            break
        if word in (one.name for one in columns):
            columns = [one for one in columns if one.name != word]
            dropped.append(word)
    names, numbers = columns[: grid.names], columns[grid.names :]
    room = width + _GAP - sum(min(one.width, _LEAST_NAMES) for one in names)
    return [_table([*names, *block]) for block in _blocks(numbers, room)], dropped


def _header(grid: Grid) -> tuple[str, ...]:
    """The names of its columns, the first of which is that of the table where that is short."""
    return grid.header if len(grid.title) > _SHORT_TITLE else (grid.title, *grid.header[1:])


def _table(columns: Sequence[_Shown]) -> RichTable:
    """Columns under their names, the first of which is that of the table; names are folded where there is no room."""
    table = RichTable(box=None, pad_edge=False, padding=(0, 1))
    for place, column in enumerate(columns):
        least = max(map(cell_len, column.name.split()), default=0)
        table.add_column(_text(column.name), justify="right" if column.number else "left", overflow="fold",
                         header_style="dim" if place else "bold", no_wrap=column.number, min_width=least)  # fmt: skip
    for row in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*map(_text, row))
    return table


#: How a check's state is marked, and in which colour.
_MARKS = {"ok": ("ok", "green"), "warning": ("!", "yellow"), "failed": ("FAILED", "bold red"), "absent": ("-", "dim")}


def print_checks(checks: Sequence[Check], out: Console) -> None:
    """A line for each check of the doctor, and the remedy below where there is one."""
    table = RichTable.grid(padding=(0, 2))
    for check in checks:
        word, style = _MARKS[check.state]
        table.add_row(Text(word, style), _text(check.name, "bold"), _text(check.found))
        if check.remedy and check.state != "ok":
            table.add_row("", "", _text(check.remedy, "italic"))
    out.print(table)


def print_table(name: str, table: pa.Table, out: Console, rows: int, raw: bool = False) -> None:
    """The first `rows` rows of a table, in units unless they are to be `raw`.

    Columns that do not fit beside each other follow below, under row numbers, and under the names that the rows begin
    with where these are short. Kernel names are shortened here, and in full in every other format.
    """
    from dsprof.show.plain import kind_of

    shown = table.slice(0, min(rows, table.num_rows))
    columns = [
        _Shown(field.name, kind_of(field.type) != "other", cells)
        for field, cells in zip(shown.schema, _texts(shown, raw, max(_NAME_WIDTH, out.width // 2)), strict=True)
    ]
    out.print(Text(f"{name}: {table.num_rows} row{'s' * (table.num_rows != 1)}", "bold"))
    numbers = _Shown("", True, [str(number) for number in range(shown.num_rows)])
    keys = [numbers, *_keys(columns, out.width // 3)]
    room = out.width + _GAP - sum(key.width for key in keys)
    for block in _blocks(columns[len(keys) - 1 :], room):
        out.print(_table([*keys, *block]))
    if not raw:
        _paragraph(out, [("A column's name ends in the unit of its numbers; --raw prints these.", "dim")])
    if table.num_rows > rows:
        more = f"… {table.num_rows - rows} more rows: --limit shows more, --format csv gives all"
        _paragraph(out, [(more, "dim")])


def _keys(columns: list[_Shown], room: int) -> list[_Shown]:
    """The columns of text at the head of a table, as far as they leave room for others in every block."""
    keys: list[_Shown] = []
    for column in columns[:-1]:
        if column.number or sum(key.width for key in [*keys, column]) > room:
            break
        keys.append(column)
    return keys


class _Shown(NamedTuple):
    """A column as it is shown."""

    name: str
    number: bool
    cells: list[str]

    @property
    def width(self) -> int:
        return max(map(cell_len, [self.name, *self.cells])) + _GAP


def _texts(table: pa.Table, raw: bool, width: int) -> list[list[str]]:
    """The cells of each column; names of kernels and ranges, which may be of any length, are cut to a width."""
    from dsprof.show.plain import cells

    columns = [list(column) for column in zip(*cells(table, raw), strict=True)] or [[] for _ in table.column_names]
    return [
        [_fit(short_kernel_name(visible(cell), width), width) for cell in column] if name == "kernel"
        else [_fit(visible(cell), width) for cell in column] if name == "name"
        else [visible(cell) for cell in column]
        for name, column in zip(table.column_names, columns, strict=True)
    ]  # fmt: skip


def _fit(name: str, width: int) -> str:
    """A name in so many cells of a terminal: what it begins and what it ends with."""
    if cell_len(name) <= width:
        return name
    end = name[-(width // 3) :]
    while cell_len(end) > width // 3:
        end = end[1:]
    return f"{set_cell_size(name, width - 1 - cell_len(end)).rstrip()}…{end}"


def _blocks(columns: list[_Shown], width: int) -> list[list[_Shown]]:
    """The columns in order, in as few blocks as fit the width."""
    blocks: list[list[_Shown]] = [[]]
    for column in columns:
        if blocks[-1] and sum(one.width for one in [*blocks[-1], column]) > width:
            blocks.append([])
        blocks[-1].append(column)
    return blocks
