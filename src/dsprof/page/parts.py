"""What sections are made of: tables whose cells know their column, legends, explanations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from attrs import field

from dsprof.compare.tables import TABLES as COMPARED
from dsprof.page.html import Html, element, joined, short
from dsprof.records import frozen
from dsprof.rules.names import short_kernel_name
from dsprof.show import units
from dsprof.tables import all_tables

#: A text of more characters may be broken into lines.
_LONG = 28
#: A row of a table, by the names of its columns.
Row = Mapping[str, Any]


@frozen
class Section:
    """A part of the page: what it is called in an address, its title, what is in it, how to read that.

    `data`: what the script needs of it, by name.
    """

    name: str
    title: str
    body: Html
    how: str
    data: Mapping[str, Any] = field(factory=dict)


@frozen
class Col:
    """A column of a page's table: of which column of the table its values are, and the words above it.

    `change`: its numbers have a sign. `own`: makes its cell of a row, where that is no value alone.
    """

    name: str
    head: str
    change: bool = False
    own: Callable[[Row], Html] | None = None

    def is_text(self, table: str) -> bool:
        """Does it stand to the left?"""
        return _column(table, self.name).kind in ("name", "bool")

    def shown(self, table: str) -> Callable[[Any], str]:
        """How its values are written."""
        column = _column(table, self.name)
        shown = _yes_no if column.kind == "bool" else units.of_column(self.name, column.unit, column.kind)
        return (lambda value: units.signed(value, shown)) if self.change else shown

    def meaning(self, table: str) -> str:
        """What a value says."""
        return str(_column(table, self.name).text)


def cols(heads: Mapping[str, str]) -> tuple[Col, ...]:
    """Columns by their names, with the words above them."""
    return tuple(Col(name, head) for name, head in heads.items())


@cache
def _column(table: str, name: str) -> Any:
    """A column of an analysis's table or of a comparison's."""
    known = COMPARED[table] if table in COMPARED else all_tables()[table]
    return next(column for column in known.columns if column.name == name)


def _yes_no(value: bool | None) -> str:
    return units.NONE if value is None else "yes" if value else "no"


def table_of(
    table: str, columns: Sequence[Col], rows: Iterable[Row], caption: str, *, sortable: bool = False, name: str = ""
) -> Html:
    """Rows of the table `table`: each cell with its raw value and its column, so that a number can be traced.

    A column without any value is left out. `sortable`: its headers are buttons that sort; `name`: what filters it is
    called the same.
    """
    rows = list(rows)
    columns = [one for one in columns if one.own or any(row[one.name] is not None for row in rows)]
    formats = [(column, column.shown(table), column.is_text(table)) for column in columns]
    heads = [_head(table, column, sortable) for column in columns]
    body = joined(_row(row, formats) for row in rows)
    inner = element(
        "table", element("caption", caption), element("thead", element("tr", *heads)), element("tbody", body),
        id=f"{name}-table" if name else None, data_table=table, data_sortable=sortable,
    )  # fmt: skip
    return scrolling(inner, caption)


def scrolling(inner: Html, label: str, class_: str = "scroll") -> Html:
    """What may be wider than the screen; by the keyboard it can be scrolled, too."""
    return element("div", inner, class_=class_, tabindex=0, role="group", aria_label=label)


def _head(table: str, column: Col, sortable: bool) -> Html:
    words: str = element("button", column.head, type="button") if sortable else column.head
    left = "l" if column.is_text(table) else None
    sort = "none" if sortable else None
    return element("th", words, scope="col", class_=left, data_column=column.name, title=column.meaning(table),
                   aria_sort=sort)  # fmt: skip


def _row(row: Row, formats: Sequence[tuple[Col, Callable[[Any], str], bool]]) -> Html:
    return element("tr", *(column.own(row) if column.own else _cell(row[column.name], column, shown, text)
                           for column, shown, text in formats))  # fmt: skip


def _cell(value: Any, column: Col, shown: Callable[[Any], str], is_text: bool) -> Html:
    if column.name == "kernel":
        return kernel_cell(short_kernel_name(value), value)
    if is_text:
        text = shown(value)
        return element("td", short(text), class_="l long" if len(text) > _LONG else "l")
    return element("td", shown(value), data_v=value)


def kernel_cell(brief: str, name: str) -> Html:
    """A kernel's short name, which opens to the full one."""
    opened = joined(short(name)) if brief == name else element("details", element("summary", short(brief)), short(name))
    return element("td", opened, class_="l long name")


def plain_table(header: Sequence[str], rows: Iterable[Sequence[str]], caption: str, names: int = 1) -> Html:
    """A table of text; the first `names` columns stand to the left, and the first of all names its row."""
    left = ["l" if at < names else None for at in range(len(header))]
    heads = [element("th", word, scope="col", class_=side) for word, side in zip(header, left, strict=True)]
    body = [element("tr", *(element("td", cell, class_=side) for cell, side in zip(row, left, strict=True)))
            for row in rows]  # fmt: skip
    inner = element("table", element("caption", caption), element("thead", element("tr", *heads)),
                    element("tbody", *body))  # fmt: skip
    return scrolling(inner, caption)


def legend(items: Iterable[tuple[str, str]]) -> Html:
    """Words and their colours, which are classes of the style."""
    return element("ul", *(element("li", swatch(colour), word) for word, colour in items), class_="legend")


def swatch(colour: str) -> Html:
    """A square of a colour."""
    square = element("rect", width=11, height=11, rx=2, class_=colour)
    return element("svg", square, width=11, height=11, aria_hidden="true")


def figure(caption: str, *parts: Html) -> Html:
    """A plot with what it shows."""
    return element("figure", element("figcaption", caption), *parts)


def folded(summary: str, *parts: Html, class_: str | None = None) -> Html:
    """What is shown when it is asked for."""
    return element("details", element("summary", summary), *parts, class_=class_)


def search(name: str, **choices: Sequence[str]) -> Html:
    """What filters the table `name`: words, and one of several values of a column; nothing without a script."""
    box = element("label", "Search ", element("input", type="search", id=f"{name}-search", spellcheck="false",
                                              placeholder="words of a name"))  # fmt: skip
    which = [_choice(name, column, values) for column, values in choices.items() if len(values) > 1]
    count = element("span", id=f"{name}-count", class_="dim", role="status")
    return element("div", box, *which, count, class_="controls scripted", id=f"{name}-controls")


def _choice(name: str, column: str, values: Sequence[str]) -> Html:
    options = [element("option", "all", value=""), *(element("option", one) for one in values)]
    return element("label", f"{column.capitalize()} ", element("select", *options, id=f"{name}-{column}",
                                                               data_column=column))  # fmt: skip
