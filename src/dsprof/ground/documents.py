"""JSON that somebody else may have written: what no number of ours can hold is refused where it stands."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

#: No count, size or time is greater.
_MOST = 1 << 63
#: A document of rules or of a model is no larger.
_LARGEST = 64 << 20
#: Members of a list that are made text at once.
_AT_ONCE = 256


def text_of(path: Path, largest: int = _LARGEST) -> str:
    """The text of a file that a user names. Raises OSError, and ValueError for what is no file, too large, no UTF-8.

    A pipe is not waited for, and a device, which may never end, not read.
    """
    if os.path.exists(path) and not (path.is_file() or path.is_dir()):  # noqa: PTH110  Path raises for long names
        raise ValueError("it is no file")
    with path.open("rb") as file:
        read = file.read(largest + 1)
    if len(read) > largest:
        raise ValueError(f"it is larger than {largest >> 20} MB")
    return read.decode("utf-8")


def parse_json(text: str | bytes) -> Any:
    """The document in a text. Raises ValueError, also for NaN, infinities, integers beyond int64, deep nesting."""
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def json_pieces(document: Any, lines: bool = False, ascii_alone: bool = True) -> Iterator[str]:
    """An object, which may hold attrs objects, as JSON in pieces: a list in it may have a hundred thousand members.

    `lines`: each member of the object, and of a list in it, has a line of its own.
    """
    encode = json.JSONEncoder(ensure_ascii=ascii_alone, default=_fields).encode
    members = document if isinstance(document, dict) else _fields(document)
    first, other = ("\n ", ",\n ") if lines else ("", ", ")
    for number, (name, value) in enumerate(members.items()):
        yield f"{other if number else '{' + first}{encode(name)}: "
        if isinstance(value, list | tuple) and value:
            yield from _list_pieces(value, encode, first, other)
        else:
            yield encode(value)
    yield "\n}" if lines else "}"


def _list_pieces(values: Sequence[Any], encode: Callable[[Any], str], first: str, other: str) -> Iterator[str]:
    separator, lead = f"{other} " if first else other, f"{first} " if first else first
    for begin in range(0, len(values), _AT_ONCE):
        yield (separator if begin else f"[{lead}") + separator.join(map(encode, values[begin : begin + _AT_ONCE]))
    yield f"{first}]"


def _fields(line: Any) -> dict[str, Any]:
    return {field.name: getattr(line, field.name) for field in attrs.fields(type(line))}


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refused(text[:40])


def _integer(text: str) -> int:
    if len(text) > len(str(_MOST)) or not -_MOST <= int(text) < _MOST:
        raise ValueError(f"{text[:40]} is too large a number")
    return int(text)
