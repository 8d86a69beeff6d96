"""HTML from Python: elements whose text is escaped, unless it is HTML already."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

from dsprof.show.safe import for_html, visible

#: Elements that have no end.
_VOID = frozenset(("meta", "input"))
#: Elements of a drawing, which end in themselves where nothing is in them.
_SHAPES = frozenset(("rect", "line", "path", "circle"))
#: A name is not written out beyond so many characters.
LONGEST = 1000


class Html(str):
    """Text that is HTML; any other is escaped where it becomes a part of it."""

    __slots__ = ()


def joined(*parts: str | Iterable[str]) -> Html:
    """Parts one after another: HTML as it is, text escaped.

    >>> joined("a < b", Html("<br>"))
    'a &lt; b<br>'
    """
    return Html("".join(_html(part) for part in parts))


def _html(part: str | Iterable[str]) -> str:
    if isinstance(part, Html):
        return str(part)
    return for_html(part) if isinstance(part, str) else joined(*part)


def element(tag: str, *parts: str | Iterable[str], **attributes: Any) -> Html:
    """An element; an attribute's name may end in ``_``, ``_`` within it is a hyphen, None and False leave it out.

    In a drawing a slash ends an element; in HTML none does.

    >>> element("p", "1 < 2", class_="dim", data_of=3, hidden=True)
    '<p class="dim" data-of="3" hidden>1 &lt; 2</p>'
    """
    inside = "".join(
        _attribute(name, value) for name, value in attributes.items() if not (value is None or value is False)
    )
    if tag in _VOID or (tag in _SHAPES and not parts):
        return Html(f"<{tag}{inside}{'/' if tag in _SHAPES else ''}>")
    return Html(f"<{tag}{inside}>{joined(*parts)}</{tag}>")


def _attribute(name: str, value: Any) -> str:
    name = name.rstrip("_").replace("_", "-") if name != "viewBox" else name
    return f" {name}" if value is True else f' {name}="{for_html(str(value))}"'


def short(text: str) -> str:
    """A name as it is seen, not longer than `LONGEST`, with its length where something is cut off."""
    return visible(text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)")


@cache
def resource(name: str) -> str:
    """A file of this package: the style or the script of a page."""
    return files("dsprof.page").joinpath(name).read_text(encoding="utf-8")
