"""Numbers in units that people read: 1.31 s, 130.6 ms, 8.4 MB, 46 872."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

#: Units, the greatest first; the last is whole.
_TIME = ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1.0, "ns"))
_SIZE = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"), (1.0, "FLOP"))
#: Stands for a value that is missing.
NONE = "-"
#: Numbers that are names of something: no thousands are set apart in them.
_IDENTITY = re.compile(r"(^|_)(id|pid|tid|request|instance|step|payload|level)$")
#: Points in time: all digits, for what differs between two of them comes last.
_MOMENT = re.compile(r"(^|_)(start|end)_ns$")


def time(ns: float | None) -> str:
    """A duration in the unit that fits it, four digits: ``130.6 ms``; ``-`` for None."""
    return NONE if ns is None else _in_units(ns, _TIME)


def size(count: float | None) -> str:
    """Bytes in decimal units: ``14.77 MB``; ``-`` for None."""
    return NONE if count is None else _in_units(count, _SIZE)


def flops(number: float | None) -> str:
    """Floating-point operations in decimal units: ``5.943 TFLOP``; ``-`` for None."""
    return NONE if number is None else _in_units(number, _FLOPS)


def count(number: int | None) -> str:
    """A number of things with a space between thousands: ``46 872``; ``-`` for None."""
    return NONE if number is None else f"{number:,}".replace(",", " ")


def percent(value: float | None) -> str:
    """A share with one digit: ``9.9 %``; ``-`` for None."""
    return NONE if value is None else f"{value:.1f} %"


def signed(value: float | None, shown: Callable[[Any], str]) -> str:
    """A change, written as `shown` writes a number, with its sign: ``+2.914 ms``."""
    return f"{'+' if value is not None and value > 0 else ''}{shown(value)}"


def rate(value: float | None) -> str:
    """A rate per second, four digits; ``-`` for None."""
    return NONE if value is None else _digits(value)


def moment(ns: int | None) -> str:
    """A point in time to the nanosecond: ``12.345678901 s``; ``-`` for None."""
    return NONE if ns is None else f"{'-' if ns < 0 else ''}{abs(ns) // 10**9}.{abs(ns) % 10**9:09d} s"


def plain(value: Any) -> str:
    """A number that has no unit and is no count, or another value; ``-`` for None."""
    return NONE if value is None else str(value)


def of_column(name: str, unit: str, kind: str) -> Callable[[Any], str]:
    """How a value of a table's column is shown.

    `name`: the column, which tells a point in time, a count and an identity apart; `unit`: of its raw values, as
    `Column.unit` has it; `kind`: ``"int"``, ``"float"``, or another for what is no number.
    """
    if kind not in ("int", "float"):
        return plain
    if unit == "ns":
        return moment if kind == "int" and _MOMENT.search(name) else time
    if unit == "bytes":
        return size
    if unit == "%":
        return percent
    if name.endswith("_bytes_per_s"):
        return lambda value: f"{size(value)}/s" if value is not None else NONE
    if name.endswith("_flops_per_s"):
        return lambda value: f"{flops(value)}/s" if value is not None else NONE
    if name.endswith("_flops"):
        return flops
    if kind == "float":
        return rate
    return plain if _IDENTITY.search(name) else count


def _in_units(value: float, units: tuple[tuple[float, str], ...]) -> str:
    for size, word in units[:-1]:
        if abs(value) >= size:
            return f"{_digits(value / size)} {word}"
    return f"{value:.0f} {units[-1][1]}"


def _digits(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    places = 3 - len(str(int(abs(value))))
    return f"{value:.{max(places + 1, 1)}f}" if places >= 0 else f"{value:.0f}"
