"""Summaries and tables on a terminal, with rich."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table as RichTable
from rich.text import Text

from dsprof.names import short_kernel_name
from dsprof.render.layout import Grid, coverage, grids, headline
from dsprof.render.plain import cells
from dsprof.render.safe import for_terminal, visible
from dsprof.summary import Summary

if TYPE_CHECKING:
    from dsprof.doctor import Check

#: Width of what goes into a pipe or a file.
_PIPE_WIDTH = 120
#: Widest text in a column of a table, and the space between two columns.
_NAME_WIDTH, _GAP = 48, 2
#: Room that the names of a summary's table keep where the terminal is narrow.
_LEAST_NAMES = 24


def progress_bar() -> Progress:
    """A bar on stderr that vanishes when it is stopped."""
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
    labels = RichTable.grid(padding=(0, 2))
    for label, text in headline(summary):
        labels.add_row(_text(label, "dim"), _text(text))
    out.print(labels)
    for verdict in summary.verdicts:
        out.print()
        out.print(_text(verdict.sentence, "bold"))
        out.print(_text(verdict.remedy))
    for grid in grids(summary):
        out.print()
        for table in _tables(grid, out.width):
            out.print(table)
        for note in grid.notes:
            out.print(_text(note, "dim"))
    out.print()
    out.print(_text(coverage(summary)))
    for found in summary.findings:
        mark = ("! ", "bold yellow") if found.strict_exit else ("i ", "bold cyan")
        out.print(Text.assemble(mark, for_terminal(str(found))))


def _text(text: str, style: str = "") -> Text:
    """Text as it is: no markup, nothing that the terminal obeys."""
    return Text(for_terminal(text), style)


def _tables(grid: Grid, width: int) -> list[RichTable]:
    """A grid for a terminal of some width: names give way, and what does not fit then follows below, under the names.

    No number is cut: 333.4 would be read as a whole one where it is 333.4 ms.
    """
    columns = [
        _Shown(word, place >= grid.names, [for_terminal(row[place]) for row in grid.rows])
        for place, word in enumerate(grid.header)
    ]
    names, numbers = columns[: grid.names], columns[grid.names :]
    room = width - min(sum(one.width for one in names), _LEAST_NAMES)
    title = _text(grid.title, "bold")
    return [_table([*names, *block], None if number else title) for number, block in enumerate(_blocks(numbers, room))]


def _table(columns: Sequence[_Shown], title: Text | None) -> RichTable:
    table = RichTable(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1))
    for column in columns:
        table.add_column(_text(column.name), justify="right" if column.number else "left", header_style="dim",
                         no_wrap=column.number, overflow="fold" if column.number else "ellipsis")  # fmt: skip
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


def print_table(name: str, table: pa.Table, out: Console, rows: int) -> None:
    """The first `rows` rows of a table; columns that do not fit beside each other follow below, under row numbers.

    Kernel names are shortened here, and in full in every other format.
    """
    shown = table.slice(0, min(rows, table.num_rows))
    columns = [
        _Shown(field.name, _is_number(field.type), cells)
        for field, cells in zip(shown.schema, _texts(shown), strict=True)
    ]
    out.print(Text(f"{name}: {table.num_rows} row{'s' * (table.num_rows != 1)}", "bold"))
    for block in _blocks(columns, out.width - len(str(rows)) - _GAP):
        made = RichTable(box=None, pad_edge=False, padding=(0, 1))
        made.add_column("", justify="right", style="dim", no_wrap=True)
        for column in block:
            made.add_column(column.name, justify="right" if column.number else "left", header_style="dim", no_wrap=True)
        for number, row in enumerate(zip(*(column.cells for column in block), strict=True)):
            made.add_row(str(number), *map(_text, row))
        out.print(made)
    if table.num_rows > rows:
        out.print(Text(f"… {table.num_rows - rows} more rows: --rows shows more, --format csv gives all", "dim"))


class _Shown(NamedTuple):
    """A column as it is shown."""

    name: str
    number: bool
    cells: list[str]

    @property
    def width(self) -> int:
        return max(map(cell_len, [self.name, *self.cells])) + _GAP


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _texts(table: pa.Table) -> list[list[str]]:
    columns = [list(column) for column in zip(*cells(table), strict=True)] or [[] for _ in table.column_names]
    return [
        [short_kernel_name(visible(cell), _NAME_WIDTH) if name == "kernel" else _fit(visible(cell)) for cell in column]
        for name, column in zip(table.column_names, columns, strict=True)
    ]


def _fit(cell: str) -> str:
    return cell if len(cell) <= _NAME_WIDTH else cell[: _NAME_WIDTH - 1] + "…"


def _blocks(columns: list[_Shown], width: int) -> list[list[_Shown]]:
    """The columns in order, in as few blocks as fit the width."""
    blocks: list[list[_Shown]] = [[]]
    for column in columns:
        if blocks[-1] and sum(one.width for one in [*blocks[-1], column]) > width:
            blocks.append([])
        blocks[-1].append(column)
    return blocks
