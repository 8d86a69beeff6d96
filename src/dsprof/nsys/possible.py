"""Which numbers an export's rows can hold: times of one capture, sizes of one memory.

Times are of one clock and one capture, so none lies far from the others, and nothing ends before it begins. What a
broken driver, a damaged file or a tool wrote instead is counted and told, and never added to anything: durations and
sizes that are left are not negative, and their sums fit into int64.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from statistics import median_low

import numpy as np

from dsprof.arrays import NULL, Ints
from dsprof.errors import ReportDamaged
from dsprof.nsys import schema
from dsprof.trace import Impossible

#: A capture ends within so many nanoseconds (104 days), and holds no more bytes in one operation; below it sums of
#: float64 are exact.
LONGEST = 1 << 53
#: Times and totals stay below this, far from where int64 would wrap.
_LIMIT = 1 << 62
#: What the rows of the tables are.
_WORDS = {
    schema.NVTX: "NVTX ranges",
    schema.RUNTIME: "CUDA API calls",
    schema.KERNEL: "kernels",
    schema.GRAPH: "graph replays",
    schema.MEMCPY: "memory copies",
    schema.MEMSET: "memory sets",
    schema.NODES: "nodes of CUDA graphs",
    schema.GRAPH_EVENTS: "nodes of CUDA graphs",
    schema.OVERHEAD: "profiler overheads",
    schema.SWITCH: "switches of threads",
    schema.OS_CALL: "OS calls",
    schema.PYTHON: "samples of Python",
}


class Possible:
    """What was found of a file's rows.

    `times`, `sizes`: how many rows of each table had an impossible one. `low`, `high`: between them all times are.
    """

    def __init__(self, moments: Iterable[int] = ()) -> None:
        usual = median_low(sorted(moments) or [0])
        self.low, self.high = max(usual - LONGEST, -_LIMIT), min(usual + LONGEST, _LIMIT)
        self.times: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()
        self._counting = threading.Lock()  # rows of a table may be read in several threads

    def found(self) -> Impossible:
        """What was impossible. Raises `ReportDamaged` where durations or sizes add up to more than int64 holds."""
        for what, total in self._totals.items():
            if total >= _LIMIT:
                raise ReportDamaged(
                    f"The {what} add up to {total:.1e}, more than a capture holds.", "Export the report again."
                )
        times, sizes = (
            {word: rows[word] for word in _WORDS.values() if rows[word]} for rows in (self.times, self.sizes)
        )
        return Impossible(times, sizes)

    def rows(self, table: str, columns: dict[str, Ints]) -> dict[str, Ints]:
        """The rows of a table that begin at a possible time; those with an impossible end last 0 ns."""
        begun = self.begun(table, columns["start"])
        columns = {name: column[begun] for name, column in columns.items()}
        if "end" in columns:
            columns = {**columns, "end": self.ended(table, columns["start"], columns["end"])}
        if "bytes" in columns:
            columns = {**columns, "bytes": self._sized(table, columns["bytes"])}
        return columns

    def begun(self, table: str, start: Ints) -> Ints | slice:
        """The rows of a table that begin at a possible time; all of them without a copy."""
        if not len(start) or (self.low <= int(start.min()) and int(start.max()) <= self.high):
            return slice(None)
        kept = np.flatnonzero((start >= self.low) & (start <= self.high))
        self._count(self.times, table, len(start) - len(kept))
        return kept

    def ended(self, table: str, start: Ints, end: Ints) -> Ints:
        """When rows that begin at `start` end: at `end`, or at once where that cannot be."""
        strange = (end < start) | (end > self.high)
        if strange.any():
            self._count(self.times, table, int(np.count_nonzero(strange)))
            end = np.where(strange, start, end)
        self._add(f"durations of its {_WORDS[table]}", end - start)
        return end

    def _sized(self, table: str, size: Ints) -> Ints:
        known = np.where(size == NULL, 0, size)
        strange = (known < 0) | (known > LONGEST)
        if strange.any():
            self._count(self.sizes, table, int(np.count_nonzero(strange)))
            known = np.where(strange, 0, known)
        self._add(f"bytes of its {_WORDS[table]}", known)
        return known

    def _add(self, what: str, values: Ints) -> None:
        """Add to a total; where int64 could wrap, with rounding."""
        exact = int(values.max(initial=0)) * len(values) < _LIMIT
        total = int(values.sum() if exact else values.sum(dtype=np.float64))
        with self._counting:
            self._totals[what] += total

    def _count(self, counter: Counter[str], table: str, rows: int) -> None:
        with self._counting:
            counter[_WORDS[table]] += rows
