"""Which operation of one side is which of the other, and which of them got slower, faster, more or fewer.

Operations of one name are one. Of the others, two that stand in the same place, between the same neighbours, are one
where their blurred names are the same (no template arguments, no digits), or else their families; what is left was
added or removed. Places are those of one usual unit a side. Nothing depends on which side is the first.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from dsprof.arrays import Ints
from dsprof.arrays.statistics import Floats
from dsprof.compare.statistics import LEVEL, RUN_NOISE, Change, change, widened
from dsprof.compare.units import Sides, Units
from dsprof.records import frozen

SAME, RENAMED, REPLACED, ADDED, REMOVED = "same", "renamed", "replaced", "added", "removed"
SLOWER, FASTER = "slower", "faster"
_ARGUMENTS = re.compile(r"<[^<>]*>")
_DIGITS = re.compile(r"\d+")
#: A kernel's template arguments are nested no deeper than this, or are left as they are from there on.
_DEEPEST = 40


@frozen
class OperationChange:
    """An operation of a unit on both sides: times in a unit on average, and of one such operation on average.

    `match`: how the two names were found to be one; `each`: the change of the time of one operation, with an interval
    that holds for all operations of the stage together, and has in it what differs from run to run.
    """

    match: str
    before: str
    after: str
    family: str
    before_n: float
    after_n: float
    before_ns: float
    after_ns: float
    each: Change | None

    @property
    def change_ns(self) -> float:
        """After less before, in a unit."""
        return self.after_ns - self.before_ns

    @property
    def verdict(self) -> str:
        """Did one such operation get slower or faster; empty where that is not seen."""
        if self.each is None or self.each.low is None or self.each.high is None:
            return ""
        return SLOWER if self.each.low > 0 else FASTER if self.each.high < 0 else ""


def operations(sides: Sides) -> tuple[OperationChange, ...]:
    """The operations of a stage on both sides, by how much a unit's time in them changed."""
    if any(one.operations is None for one in sides.runs):
        return ()
    before, after = ([_Table.of(run) for run in side] for side in (sides.before, sides.after))
    families = {name: family for table in (*before, *after) for name, family in table.families.items()}
    names = [sorted({name for table in side for name in table.families}) for side in (before, after)]
    places = [_places(runs, set(names[0]) & set(names[1])) for runs in (sides.before, sides.after)]
    pairs = aligned(names[0], names[1], places[0], places[1], families)
    level = 1 - (1 - LEVEL) / max(sum(match not in (ADDED, REMOVED) for match, _, _ in pairs), 1)
    found = [_change(*pair, before, after, families, level) for pair in pairs]
    return tuple(
        sorted(found, key=lambda one: (-abs(one.change_ns), -max(one.before_ns, one.after_ns), one.before or one.after))
    )


@frozen(eq=False)
class _Table:
    """Operations of a run: by name its family; by name and request how many there are in a unit, and their time."""

    families: Mapping[str, str]
    counts: Mapping[str, Floats]
    times: Mapping[str, Floats]

    @classmethod
    def of(cls, run: Units) -> _Table:
        """Of a run whose operations are known."""
        found = run.operations
        assert found is not None  # noqa: S101 - asked before
        sizes = run.by_request(np.ones(len(run), np.int64))
        request = np.unique(run.group, return_inverse=True)[1].reshape(-1)
        units = np.bincount(request)
        shape = (len(found.names), len(sizes))

        def spread(values: Ints) -> Floats:
            slot = found.name * shape[1] + request[found.unit]
            table: Floats = np.bincount(slot, values, shape[0] * shape[1]).reshape(shape) / units
            return table

        counts, times = spread(found.instances), spread(found.total)
        there = [place for place, row in enumerate(counts) if row.any()]
        return cls(
            {found.names[one]: found.families[one] for one in there},
            {found.names[one]: counts[one] for one in there},
            {found.names[one]: times[one] for one in there},
        )

    def mean(self, of: Mapping[str, Floats], name: str) -> float:
        """The mean of all requests; 0 where the run has it not."""
        return float(of[name].mean()) if name in of else 0.0

    def each(self, name: str) -> Floats:
        """The time of one operation, by request, of those that have one."""
        if name not in self.counts:
            return np.zeros(0)
        there = self.counts[name] > 0
        found: Floats = self.times[name][there] / self.counts[name][there]
        return found


def _change(
    match: str, one: str, other: str, before: Sequence[_Table], after: Sequence[_Table], families: Mapping[str, str],
    level: float,
) -> OperationChange:  # fmt: skip
    def mean(side: Sequence[_Table], name: str, what: str) -> float:
        return sum(table.mean(getattr(table, what), name) for table in side) / len(side) if name else 0.0

    each = None
    if one and other:
        runs = [[table.each(name) for table in side] for side, name in ((before, one), (after, other))]
        known = [[run for run in side if len(run)] for side in runs]
        found = change(known[0], known[1], level)
        each = found if found is None or found.low is None else widened(found, RUN_NOISE["gpu_busy"])
    return OperationChange(
        match, one, other, families[one or other], mean(before, one, "counts"), mean(after, other, "counts"),
        mean(before, one, "times"), mean(after, other, "times"), each,
    )  # fmt: skip


# -- names that differ --------------------------------------------------------------------------------------------

#: A place: the shared names before and after it, and how far it is from the first.
_Place = tuple[str, str, int]


def aligned(
    before: Iterable[str],
    after: Iterable[str],
    places_before: Mapping[str, Counter[_Place]],
    places_after: Mapping[str, Counter[_Place]],
    families: Mapping[str, str],
) -> list[tuple[str, str, str]]:
    """How each name was matched, and both names, the other one empty for what was added or removed."""
    one, other = set(before), set(after)
    left, right = sorted(one - other), sorted(other - one)
    pairs = [(SAME, name, name) for name in sorted(one & other)]
    ways: tuple[tuple[str, Callable[[str], str]], ...] = ((RENAMED, blurred), (REPLACED, families.__getitem__))
    for match, same in ways:
        chosen = _matches(left, right, same, places_before, places_after)
        pairs += [(match, *pair) for pair in chosen]
        left = [name for name in left if name not in {pair[0] for pair in chosen}]
        right = [name for name in right if name not in {pair[1] for pair in chosen}]
    return [*pairs, *((REMOVED, name, "") for name in left), *((ADDED, "", name) for name in right)]


def _matches(
    left: Sequence[str], right: Sequence[str], same: Callable[[str], str], here: Mapping[str, Counter[_Place]],
    there: Mapping[str, Counter[_Place]],
) -> list[tuple[str, str]]:  # fmt: skip
    """Pairs that are the same in some way and stand in the same places, those with most of these first."""
    groups: dict[str, list[str]] = {}
    for name in right:
        groups.setdefault(same(name), []).append(name)
    found = list[tuple[int, str, str, str, str]]()
    for one in left:
        for other in groups.get(same(one), []):
            common = (here.get(one, Counter()) & there.get(other, Counter())).total()
            if common:
                found.append((-common, min(one, other), max(one, other), one, other))
    chosen, used = list[tuple[str, str]](), set[str]()
    for _, _, _, one, other in sorted(found):
        if one not in used and other not in used:
            used |= {one, other}
            chosen.append((one, other))
    return chosen


def blurred(name: str) -> str:
    """A kernel's name without what another version, tile or type changes: template arguments, arguments, digits."""
    for _ in range(_DEEPEST):
        shorter = _ARGUMENTS.sub("", name)
        if shorter == name:
            break
        name = shorter
    return _DIGITS.sub("#", name.partition("(")[0])


def _places(runs: Sequence[Units], shared: set[str]) -> dict[str, Counter[_Place]]:
    """Of the names that only one side has: where they stand in the sequence of its first run."""
    sequence = runs[0].sequence
    found: dict[str, Counter[_Place]] = {}
    before, gap, waiting = "", 0, list[tuple[str, str, int]]()
    for name in (*sequence, ""):
        if name and name not in shared:
            gap += 1
            waiting.append((name, before, gap))
            continue
        for one, first, distance in waiting:
            found.setdefault(one, Counter())[first, name, distance] += 1
        before, gap, waiting = name, 0, []
    return found
