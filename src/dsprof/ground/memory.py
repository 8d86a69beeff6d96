"""How much memory an analysis may take: as the user says it, or as the machine has it."""

from __future__ import annotations

import re
from pathlib import Path

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?|)B?\s*", re.IGNORECASE)
#: No machine has that much of any unit.
_MOST = 1e18
#: Of the memory that is free, what an analysis takes unless it is told otherwise.
_SHARE = 0.75
#: Where a container is told its limit and what it has of it (cgroup version 2).
_CGROUP = Path("/sys/fs/cgroup")


def bytes_of(text: str) -> int:
    """A size in words, in bytes. Raises ValueError.

    >>> bytes_of("2GB"), bytes_of("1.5 GiB"), bytes_of("500m")
    (2000000000, 1610612736, 500000000)
    """
    found = _SIZE.fullmatch(text)
    if found is None or not 0 < float(found[1]) < _MOST:
        raise ValueError(f"'{text}' is no size like 2GB or 500MB.")
    return int(float(found[1]) * _UNITS[found[2].upper()])


def allowed() -> int | None:
    """Bytes that an analysis may take here: three quarters of what is free; None where that cannot be told."""
    free = [found for found in (_free_on_the_machine(), _free_in_the_container()) if found is not None]
    return int(min(free) * _SHARE) if free else None


def _free_on_the_machine() -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _free_in_the_container() -> int | None:
    try:
        limit, taken = ((_CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:
        return None
    return max(int(limit) - int(taken), 0) if limit.isdigit() and taken.isdigit() else None
