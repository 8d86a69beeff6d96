"""Numbers in units that people read: 1.31 s, 130.6 ms, 8.4 MB, 46 872."""

from __future__ import annotations

_TIME = ((1e9, "s"), (1e6, "ms"), (1e3, "us"))
_SIZE = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_FLOPS = ((1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP"))
_NONE = "-"


def time(ns: float | None) -> str:
    """A duration in the unit that fits it, four digits: ``130.6 ms``; ``-`` for None."""
    if ns is None:
        return _NONE
    for size, unit in _TIME:
        if abs(ns) >= size:
            return f"{_digits(ns / size)} {unit}"
    return f"{ns:.0f} ns"


def size(count: float | None) -> str:
    """Bytes in decimal units: ``14.77 MB``; ``-`` for None."""
    if count is None:
        return _NONE
    for unit, word in _SIZE:
        if abs(count) >= unit:
            return f"{_digits(count / unit)} {word}"
    return f"{count:.0f} B"


def flops(number: float) -> str:
    """Floating-point operations in decimal units: ``5.943 TFLOP``."""
    for unit, word in _FLOPS:
        if number >= unit:
            return f"{_digits(number / unit)} {word}"
    return f"{number:.0f} FLOP"


def count(number: int | None) -> str:
    """A number of things with a space between thousands: ``46 872``; ``-`` for None."""
    return _NONE if number is None else f"{number:,}".replace(",", " ")


def percent(value: float | None) -> str:
    """A share with one digit: ``9.9 %``; ``-`` for None."""
    return _NONE if value is None else f"{value:.1f} %"


def rate(value: float | None) -> str:
    """A rate per second, four digits; ``-`` for None."""
    return _NONE if value is None else _digits(value)


def _digits(value: float) -> str:
    places = 3 - len(str(int(abs(value))))
    return f"{value:.{max(places + 1, 1)}f}" if places >= 0 else f"{value:.0f}"
