"""Where a unit's time went on both sides, and so what the difference is made of; parts add up to the nanosecond."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dsprof.compare import units
from dsprof.compare.recordings import COPIES, SETS
from dsprof.compare.units import Sides, Units
from dsprof.measures.causes import CAUSES
from dsprof.records import frozen
from dsprof.rules.collectives import COMMUNICATION

BUSY, IDLE = "busy", "idle"
#: What the GPU was busy with beside kernels that compute, by the column that says it where a table has it.
_SPLIT = {"transfer_ns": "transfer between ranks",
          "unmatched_ns": "collectives, not matched", "other_ns": "copies and sets alone"}  # fmt: skip
_WAITING = "waiting for another rank"
#: The families that are not told where such a part is.
_INSTEAD = {"transfer_ns": {COMMUNICATION}, "unmatched_ns": {COMMUNICATION}, "other_ns": {COPIES, SETS}}
#: What several operations at once take less than one after another.
AT_ONCE, WHOLE, REST = "several at once", "GPU busy", "not told"


@frozen
class Part:
    """A part of a unit's time, in whole ns of one unit on average: `kind` is ``busy`` or ``idle``."""

    kind: str
    name: str
    before_ns: int
    after_ns: int

    @property
    def change_ns(self) -> int:
        """After less before."""
        return self.after_ns - self.before_ns


def waterfall(sides: Sides) -> tuple[Part, ...]:
    """The parts that one side has at least; they add up to the wall time of both, and so do their changes."""
    before, after = (_side(runs, sides) for runs in (sides.before, sides.after))
    names = sorted({*before, *after})
    columns = [_whole([side.get(name, 0.0) for name in names]) for side in (before, after)]
    parts = [Part(kind, name, *times) for (kind, name), times in zip(names, zip(*columns, strict=True), strict=True)]
    there = (part for part in parts if part.before_ns or part.after_ns)
    return tuple(sorted(there, key=lambda part: (part.kind, -max(part.before_ns, part.after_ns), part.name)))


def _side(runs: Sequence[Units], sides: Sides) -> dict[tuple[str, str], float]:
    """The mean of the runs of a side, part by part."""
    found: dict[tuple[str, str], float] = {}
    for run in runs:
        for part, time in _run(run, sides).items():
            found[part] = found.get(part, 0.0) + time / len(runs)
    return found


def _run(run: Units, sides: Sides) -> dict[tuple[str, str], float]:
    busy, wall = run.mean(units.BUSY), run.mean("wall_ns")
    found = _busy(run, busy, sides)
    if all(one.known(units.WAITED) for one in sides.runs):
        found[IDLE, _WAITING] = run.mean(units.WAITED)
    for cause in CAUSES.values():
        if run.known(column := f"idle_{cause.name}_ns"):
            found[IDLE, cause.short] = run.mean(column)
    rest = wall - sum(found.values())
    if abs(rest) >= _TRIFLE_NS:
        found[IDLE, REST] = rest
    return found


#: Less than this is what sums of floats are off by.
_TRIFLE_NS = 1e-3


def _busy(run: Units, busy: float, sides: Sides) -> dict[tuple[str, str], float]:
    """The busy time of a run: by family, and transfers and waits where both sides tell them; missing ones are none."""
    if any(one.operations is None for one in sides.runs):
        return {(BUSY, WHOLE): busy}
    split = {column: name for column, name in _SPLIT.items() if all(one.known(column) for one in sides.runs)}
    apart = set[str]().union(*(_INSTEAD.get(column, set()) for column in split))
    found = {(BUSY, name): run.mean_of(np.maximum(run.column(column), 0)) for column, name in split.items()}
    families = {name: time for name, time in _families(run).items() if name not in apart}
    found |= {(BUSY, name): time for name, time in families.items()}
    found[BUSY, AT_ONCE] = busy - sum(found.values())
    return found


def _families(run: Units) -> dict[str, float]:
    """The time of each family's operations in a unit of the run."""
    found: dict[str, float] = {}
    operations = run.operations
    assert operations is not None  # noqa: S101 - asked before
    times = np.bincount(
        operations.name, operations.total * run.weight[operations.unit], minlength=len(operations.names)
    )
    for family, time in zip(operations.families, times.tolist(), strict=True):
        found[family] = found.get(family, 0.0) + time
    return found


def _whole(values: Sequence[float]) -> list[int]:
    """Whole numbers that add up to the sum of some values, rounded; each is next to its value."""
    exact = np.array(values)
    whole = np.floor(exact).astype(np.int64)
    left = round(float(exact.sum())) - int(whole.sum())
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: max(left, 0)]] += 1
    return [int(one) for one in whole]
