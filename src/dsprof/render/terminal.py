"""Summaries and tables on a terminal, with rich."""

from __future__ import annotations

import pyarrow as pa
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from dsprof.render.layout import Grid, coverage, grids, headline
from dsprof.render.plain import cells
from dsprof.summary import Summary

#: Width of what goes into a pipe or a file.
_PIPE_WIDTH = 120
#: Rows of a table that are shown on a terminal; the other formats give all.
_MOST_ROWS = 60


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
        labels.add_row(Text(label, "dim"), Text(text))
    out.print(labels)
    for grid in grids(summary):
        out.print()
        out.print(_table(grid))
    out.print()
    out.print(Text(coverage(summary)))
    for found in summary.findings:
        mark = Text("! ", "bold yellow") if found.strict_exit else Text("i ", "bold cyan")
        out.print(mark + Text(str(found)))


def _table(grid: Grid) -> RichTable:
    table = RichTable(
        title=grid.title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 1)
    )
    for position, word in enumerate(grid.header):
        text = position < grid.names
        table.add_column(word, justify="left" if text else "right", header_style="dim", no_wrap=not text,
                         overflow="ellipsis" if text else "fold")  # fmt: skip
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def print_table(name: str, table: pa.Table, out: Console) -> None:
    """The first rows of a table; where columns do not fit, rich folds them."""
    shown = cells(table.slice(0, _MOST_ROWS))
    numeric = [pa.types.is_integer(field.type) or pa.types.is_floating(field.type) for field in table.schema]
    made = RichTable(title=f"{name}: {table.num_rows} rows", title_justify="left", title_style="bold", box=None,
                     pad_edge=False, padding=(0, 1))  # fmt: skip
    for field, right in zip(table.schema, numeric, strict=True):
        made.add_column(field.name, justify="right" if right else "left", header_style="dim", overflow="ellipsis",
                        no_wrap=True)  # fmt: skip
    for row in shown:
        made.add_row(*(Text(cell) for cell in row))
    out.print(made)
    if table.num_rows > _MOST_ROWS:
        out.print(Text(f"… {table.num_rows - _MOST_ROWS} more rows: --format csv gives all", "dim"))
