"""Drawings: elements of SVG, axes with round numbers, bars that are as wide as the page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from dsprof.page.html import Html, element
from dsprof.records import frozen
from dsprof.show import units

#: The room of a plot in its own units, and what its axes take of it.
WIDTH, LEFT, BOTTOM, TOP = 1140, 74, 30, 10
#: A part of a bar has its number written in it from so many percent on.
_WRITTEN_PCT = 5.0
#: A narrow screen has room for it from so many percent on.
_WIDE_PCT = 14.0
_BAR = 28


def drawing(label: str, height: int, *parts: Any, **attributes: Any) -> Html:
    """A picture that keeps its proportions, with words for those who do not see it."""
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=label, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, class_: str = "grid") -> Html:
    """A line, of the grid unless told otherwise."""
    return element("line", x1=_digits(x1), y1=_digits(y1), x2=_digits(x2), y2=_digits(y2), class_=class_)


def words(x: float, y: float, text: str, anchor: str = "start", class_: str | None = None) -> Html:
    """A text at a place; `anchor`: start, middle or end."""
    return element("text", text, x=_digits(x), y=_digits(y), text_anchor=anchor, class_=class_)


def path(commands: Iterable[str], class_: str) -> Html:
    """A path, of commands as SVG has them."""
    return element("path", d="".join(commands), class_=class_)


def _digits(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def tenths(number: int) -> str:
    """So many tenths, as short as SVG reads them.

    >>> [tenths(number) for number in (6, -6, 123, -20, 0)]
    ['.6', '-.6', '12.3', '-2', '0']
    """
    whole, rest = divmod(abs(number), 10)
    text = f"{whole or ''}{f'.{rest}' if rest else ''}" or "0"
    return f"-{text}" if number < 0 else text


class Pen:
    """Places of a path, each told by how far it is from the one before: half as long as to say where it is."""

    def __init__(self) -> None:
        self._at = (0, 0)

    def to(self, command: str, x: float, y: float) -> str:
        """A command like ``m`` or ``l`` that goes to a place, to a tenth."""
        before, self._at = self._at, (round(10 * x), round(10 * y))
        across, down = (tenths(one - other) for one, other in zip(self._at, before, strict=True))
        return f"{command}{across}{'' if down.startswith('-') else ' '}{down}"


def round_numbers(top: float, most: int = 6) -> list[float]:
    """Round numbers from 0 to `top`, no more than `most` steps apart.

    >>> round_numbers(23)
    [0, 5, 10, 15, 20]
    """
    if not top > 0 or not math.isfinite(top):
        return [0]
    scale = 10.0 ** math.floor(math.log10(top))
    step = next(scale * one for one in (0.2, 0.5, 1, 2, 5) if top / (scale * one) <= most)
    return [_whole(step * number) for number in range(int(top / step + 1e-9) + 1)]


def _whole(value: float) -> float:
    return int(value) if value == int(value) else value


def tick(text: str) -> str:
    """A round number of an axis without the zeros behind its point.

    >>> tick("5.000 ms"), tick("0.500 s")
    ('5 ms', '0.5 s')
    """
    return re.sub(r"(\.\d*?)0+(?= |$)", r"\1", text).replace(". ", " ").removesuffix(".")


@frozen
class Scale:
    """From values to places: `low` and `high` are drawn at `first` and `last`; `log`: by powers of ten."""

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Where a value is drawn."""
        low, high, value = (math.log10(one) if self.log else one for one in (self.low, self.high, value))
        return self.first + (value - low) / ((high - low) or 1.0) * (self.last - self.first)


def time_axis(y: Scale) -> list[Html]:
    """Lines of a vertical axis of times in ns, with their words."""
    return [
        part
        for value in round_numbers(y.high)
        for part in (
            line(LEFT, y(value), WIDTH, y(value)),
            words(LEFT - 8, y(value) + 4, tick(units.time(value)), "end"),
        )
    ]


@frozen
class Part:
    """A part of a bar: percent of the whole, what it is, and its colour."""

    pct: float
    text: str
    colour: str


def bar(label: str, parts: Sequence[Part]) -> Html:
    """A bar in percent, as wide as the page is."""
    shown, at = [], 0.0
    for one in parts:
        if one.pct > 0:
            shown.append(_rect(at, one))
        if one.pct >= _WRITTEN_PCT:
            shown.append(element("text", f"{one.pct:.0f} %", x=f"{at + one.pct / 2:.2f}%", y=19, text_anchor="middle",
                                 class_="inside" if one.pct >= _WIDE_PCT else "inside wide"))  # fmt: skip
        at += max(one.pct, 0.0)
    said = ", ".join(f"{one.text} {units.percent(one.pct)}" for one in parts if one.pct >= 0.05)
    picture = element("svg", *shown, width="100%", height=_BAR, role="img", aria_label=f"{label}: {said}")
    return element("div", element("span", label, class_="label"), picture, class_="bar")


def _rect(at: float, one: Part) -> Html:
    """Its title is what a pointer shows."""
    title = element("title", f"{one.text}: {units.percent(one.pct)}")
    return element("rect", title, x=f"{at:.2f}%", width=f"{one.pct:.2f}%", height=_BAR, class_=one.colour)
