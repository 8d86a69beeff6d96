"""How far a plot of times reaches, so that what dwarfs all else does not make all else small."""

from __future__ import annotations

from collections.abc import Sequence

#: What takes more than so many times what nearly all of the usual take at most is off the scale.
FAR = 4.0
#: The part of the usual that is meant by nearly all.
NEARLY_ALL = 0.95


def top_of(times: Sequence[float], steady: Sequence[bool]) -> float:
    """The longest of some times that a scale has room for; what is longer is to be marked as off it. 0 for none.

    `steady`: which of them are usual, as warm-ups are not; where none is, all are.

    >>> top_of([900.0, 10.0, 11.0, 12.0], [False, True, True, True])
    12.0
    >>> top_of([20.0, 10.0, 11.0, 12.0], [False, True, True, True])
    20.0
    """
    usual = sorted(time for time, one in zip(times, steady, strict=True) if one) or sorted(times)
    if not usual:
        return 0.0
    last = len(usual) - 1
    limit = FAR * usual[max(int(NEARLY_ALL * last), min(last, 1))]
    return max(time for time in times if time <= limit)
