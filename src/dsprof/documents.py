"""JSON that somebody else may have written: what no number of ours can hold is refused where it stands."""

from __future__ import annotations

import json
import math
from typing import Any

#: No count, size or time is greater.
_MOST = 1 << 63


def parse_json(text: str | bytes) -> Any:
    """The document in a text. Raises ValueError, also for NaN, infinities, integers beyond int64, deep nesting."""
    try:
        return json.loads(text, parse_constant=_refused, parse_float=_finite, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refused(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refused(text[:40])


def _integer(text: str) -> int:
    if len(text) > len(str(_MOST)) or not -_MOST <= int(text) < _MOST:
        raise ValueError(f"{text[:40]} is too large a number")
    return int(text)
