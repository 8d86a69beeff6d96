"""Quantiles of Student's t, which tell chance from a difference where there are few observations."""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

#: From so many degrees of freedom on, it is taken from its expansion.
_MANY = 300


@cache
def quantile(share: float, freedom: int) -> float:
    """Student's t below which so large a `share` lies, which is at least one half."""
    if freedom >= _MANY:
        return _expanded(share, freedom)
    low, high = 0.0, 1.0
    while _below(high, freedom) < share:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if _below(middle, freedom) >= share else (middle, high)
    return high


def _below(t: float, freedom: int) -> float:
    """How much of Student's distribution lies below `t` >= 0, by its finite series for whole degrees of freedom."""
    angle = math.atan2(t, math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    first = 1 if freedom % 2 else 0
    term, total = (cosine, cosine) if first else (1.0, 1.0)
    for place in range(2 + first, freedom - 1, 2):
        term *= cosine * cosine * (place - 1) / place
        total += term
    if not first:
        return (1 + sine * total) / 2
    inside = angle + (sine * total if freedom > 1 else 0.0)
    return 0.5 + inside / math.pi


def _expanded(share: float, freedom: int) -> float:
    """The same for many degrees of freedom, by Cornish's and Fisher's expansion around the normal distribution."""
    z = NormalDist().inv_cdf(share)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
