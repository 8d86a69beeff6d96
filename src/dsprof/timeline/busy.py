"""How busy a GPU was, as a counter: the share of each bin of time that its operations cover."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dsprof.arrays import Ints, united

#: A bin lasts so long at least, and there are no more of them than that.
_SHORTEST_NS, _MOST = 1_000_000, 8_192


class BusyBins:
    """Time covered in bins of one width, which doubles where there would be too many; parts of a report add up."""

    def __init__(self) -> None:
        self._width, self._first = _SHORTEST_NS, 0
        self._covered = np.zeros(0, np.int64)

    def add(self, start: Ints, end: Ints) -> None:
        """Cover what some operations cover together; what is added later overlaps none of it."""
        start, end = united(start, end)
        if not len(start):
            return
        self._reach(int(start[0]), int(end[-1]))
        edges = (self._first + np.arange(len(self._covered) + 1)) * self._width
        done = np.append(0, np.cumsum(end - start))
        at = np.searchsorted(start, edges, side="right")
        over = np.where(at > 0, np.append(0, end)[at] - edges, 0)
        self._covered += np.diff(done[at] - np.maximum(over, 0))

    def _reach(self, low: int, high: int) -> None:
        """Have bins from `low` to `high`."""
        bins = len(self._covered)
        if bins:
            low, high = min(low, self._first * self._width), max(high, (self._first + bins) * self._width)
        while -(-high // self._width) - low // self._width > _MOST:
            self._widen()
        bins, first = len(self._covered), low // self._width
        wider = np.zeros(-(-high // self._width) - first, np.int64)
        if bins:
            wider[self._first - first :][:bins] = self._covered
        self._first, self._covered = first, wider

    def _widen(self) -> None:
        odd = self._first % 2
        padded = np.append(np.zeros(odd, np.int64), self._covered)
        padded = np.append(padded, np.zeros(len(padded) % 2, np.int64))
        self._covered = padded.reshape(-1, 2).sum(axis=1)
        self._first, self._width = self._first // 2, 2 * self._width

    def shown(self) -> tuple[Ints, npt.NDArray[np.float64]]:
        """From when on how many percent are shown, 0 behind the last."""
        edges = (self._first + np.arange(len(self._covered) + 1)) * self._width
        return edges, np.append(100.0 * self._covered / self._width, 0.0)
