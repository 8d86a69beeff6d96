"""What a tool answers: a document of dsprof, what to know of its data, and what of it was left out; never too long.

Characters that are not seen stand as their escapes, as on a terminal: nobody hides words for an agent in a name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from typing_extensions import TypedDict  # of which pydantic makes schemas in every Python

from dsprof.findings import Finding
from dsprof.show.safe import for_terminal

#: An answer has no more characters; the longest lists and texts in it are cut until it fits.
MOST = 40_000
_STEPS = ((400, 1_000), (200, 400), (100, 400), (50, 400), (25, 200), (12, 200), (6, 100), (3, 60))


class Known(TypedDict):
    """What to know of the data."""

    code: str
    message: str
    hint: str


class Limit(TypedDict):
    """What is not all there: so many of so many (null: of more), and how to get at the rest."""

    what: str
    shown: int
    of: int | None
    advice: str


class Answer(TypedDict):
    """`document`: as the command line prints it with --format json, its schema by `dsprof schema`."""

    document: dict[str, Any]
    findings: list[Known]
    limits: list[Limit]


def answer(text: str, findings: Iterable[Finding], limits: Iterable[Limit] = (), advice: str = "") -> Answer:
    """An answer with a document in JSON, as much of it as fits; `advice`: how to get at the rest."""
    whole = json.loads(text)
    known = [Known(code=one.code, message=one.message, hint=one.hint) for one in findings]
    for most, longest in _STEPS:
        cut = dict[str, Limit]()
        document, told = _shorter(whole, most, longest, "", cut), _shorter(known, most, longest, "findings", cut)
        left = _told(limits, cut, advice)
        found = Answer(document=document, findings=told, limits=left)
        if len(as_text(found)) <= MOST:
            break
    return found


def as_text(found: Answer) -> str:
    """An answer as one line of JSON."""
    return json.dumps(found, ensure_ascii=False)


def _shorter(value: Any, most: int, longest: int, where: str, cut: dict[str, Limit]) -> Any:
    """A value whose lists and texts are no longer; what was cut, by its place."""
    if isinstance(value, Mapping):
        inner = {for_terminal(name): one for name, one in value.items()}
        return {name: _shorter(one, most, longest, f"{where}.{name}".lstrip("."), cut) for name, one in inner.items()}
    if isinstance(value, list):
        if len(value) > most:
            _note(cut, where, most, len(value))
        return [_shorter(one, most, longest, f"{where}[]", cut) for one in value[:most]]
    if isinstance(value, str):
        plain = for_terminal(value)
        if len(plain) > longest:
            _note(cut, f"{where} (characters)", longest, len(plain))
            return f"{plain[: longest - 1]}…"
        return plain
    return value


def _note(cut: dict[str, Limit], where: str, shown: int, of: int) -> None:
    """Of several lists or texts in one place the longest is told."""
    if where not in cut or (cut[where]["of"] or 0) < of:
        cut[where] = Limit(what=where, shown=shown, of=of, advice="")


def _told(limits: Iterable[Limit], cut: Mapping[str, Limit], advice: str) -> list[Limit]:
    """What was left out before, and what of the rest was cut; each place once."""
    left = {one["what"]: one for one in limits}
    for place, one in cut.items():
        of = left[place]["of"] if place in left else one["of"]
        left[place] = Limit(what=place, shown=one["shown"], of=of, advice=advice)
    return list(left.values())
