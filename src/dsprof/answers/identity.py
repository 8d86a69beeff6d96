"""Which rank a process is, by what is trusted most: never by the order of names, in which rank10 comes before rank2.

A source tells ranks apart where it names each of them, and no two alike; one that does so for all of them goes before
one that does so within a group alone, as NCCL's ranks of a tensor-parallel group that has replicas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from attrs import field

from dsprof.arrays import NULL, Ints, group_rows
from dsprof.attribute.nccl import NcclRanges
from dsprof.model.launched import PAIRS, Launched, rank_in, size_in
from dsprof.records import frozen
from dsprof.rules.rules import Rules
from dsprof.trace import NcclCalls, pid_of, process_of

#: What tells that a process is this rank, in order of trust. NCCL's threads are named after devices, and tell none.
RANK_FROM = ("NCCL", "environment", "device", "file name")
NCCL, ENVIRONMENT, DEVICE, FILE = range(4)


@frozen(eq=False)
class Told:
    """What a report, and the record of its capture, say of which rank its processes are; it can be pickled.

    `nccl`: a row for each communicator that a process said to be a rank of: `process`, `device`, `communicator`,
    `ranks`, `rank`, in the order in which they were made, NULL for what it does not say.
    """

    launched: Launched = field(factory=Launched)
    nccl: dict[str, Ints] = field(factory=dict)

    @classmethod
    def take(cls, rules: Rules, nccl: NcclRanges) -> Self:
        """Of a report."""
        return cls(rules.launched or Launched(), _communicators(nccl.calls))

    def size(self, process: int) -> int | None:
        """How many ranks there are, as the launcher of a process says that told it a rank."""
        told = self.launched.of(pid_of(process))
        return next((size_in(told, pair) for pair in range(len(PAIRS)) if rank_in(told, pair) is not None), None)

    def in_nccl(self, process: int, device: int) -> tuple[int, int] | None:
        """The rank in the largest communicator, and how many it has; None where it has fewer than were launched."""
        rows = [row for row in self._rows(process) if self.nccl["rank"][row] != NULL]
        if len({int(self.nccl["device"][row]) for row in rows}) > 1:
            rows = [row for row in rows if self.nccl["device"][row] == device]
        if not rows:
            return None
        largest = max(rows, key=lambda row: (int(self.nccl["ranks"][row]), -row))
        rank, ranks = (int(self.nccl[name][largest]) for name in ("rank", "ranks"))
        return (rank, ranks) if ranks >= (self.size(process) or 0) else None

    def _rows(self, process: int) -> list[int]:
        found: list[int] = np.flatnonzero(self.nccl["process"] == process).tolist() if self.nccl else []
        return found


def _communicators(calls: NcclCalls) -> dict[str, Ints]:
    """`Told.nccl`: a row for each that is said, however often it is."""
    kept = np.flatnonzero((calls.rank != NULL) & (calls.ranks != NULL))
    columns = {
        "process": process_of(calls.thread),
        "device": calls.device,
        "communicator": calls.communicator,
        "ranks": calls.ranks,
        "rank": calls.rank,
    }
    heads = np.sort(group_rows(*(column[kept] for column in columns.values()))[0])
    return {name: column[kept[heads]] for name, column in columns.items()}


class Place(NamedTuple):
    """A process and a device of a report, and the group that it makes its collectives with, -1 for none."""

    report: int
    process: int
    device: int
    group: int


def numbered(places: Sequence[Place], told: Sequence[Told], files: Sequence[int]) -> list[tuple[int, int]]:
    """The rank of each place, NULL where nothing tells it, and what does: a place in `RANK_FROM`, -1 for nothing.

    `told`: by report; `files`: the rank that each report's file is named after, NULL for none, empty for no names.
    """
    found = _Found([NULL] * len(places), [-1] * len(places))
    groups = [[row for row, place in enumerate(places) if place.group == group] for group in _groups(places)]
    trusted = list(_trusted(places, told))
    found.tell(trusted, groups)
    for one in trusted:
        rows = [row for row, number in enumerate(one.numbers) if number != NULL]
        if len({one.numbers[row] for row in rows}) == len(rows):
            found.put(one, rows)
    most = ranks_of(places, told) if max(found.sources, default=-1) >= 0 else None
    found.tell(list(_seen(places, files, most)), groups)
    return list(zip(found.numbers, found.sources, strict=True))


def _groups(places: Sequence[Place]) -> list[int]:
    return sorted({place.group for place in places} - {-1})


class _Said(NamedTuple):
    """What a source says of each place, NULL for nothing."""

    source: int
    numbers: list[int]


class _Found(NamedTuple):
    """What is told of each place so far."""

    numbers: list[int]
    sources: list[int]

    def may_be(self, one: _Said, rows: Sequence[int]) -> bool:
        """Does a source tell some places apart, and say nothing else of those that are told? A device alone is none."""
        some = {one.numbers[row] for row in rows}
        apart = len(some) == len(rows) > (one.source == DEVICE) and min(some) >= 0
        return apart and all(self.numbers[row] in (NULL, one.numbers[row]) for row in rows)

    def tell(self, said: Sequence[_Said], groups: Sequence[Sequence[int]]) -> None:
        """Take the first source that tells all places apart, or else those of a group."""
        for rows in (range(len(self.numbers)), *groups):
            if telling := next((one for one in said if self.may_be(one, rows)), None):
                self.put(telling, rows)

    def put(self, one: _Said, rows: Sequence[int]) -> None:
        """Take it where nothing is told."""
        for row in rows:
            if self.sources[row] < 0:
                self.numbers[row], self.sources[row] = one.numbers[row], one.source


def _trusted(places: Sequence[Place], told: Sequence[Told]) -> Iterator[_Said]:
    """What may be believed of some places also where it says nothing of others."""
    in_nccl = [told[place.report].in_nccl(place.process, place.device) for place in places]
    yield _Said(NCCL, [NULL if one is None else one[0] for one in in_nccl])
    for pair in range(len(PAIRS)):
        found = [rank_in(told[place.report].launched.of(pid_of(place.process)), pair) for place in places]
        yield _Said(ENVIRONMENT, [NULL if number is None else number for number in found])


def _seen(places: Sequence[Place], files: Sequence[int], ranks: int | None) -> Iterator[_Said]:
    """What tells ranks only where nothing better does; none beyond as many as there are, where that is known."""
    for source, numbers in (
        (DEVICE, [place.device for place in places]),
        (FILE, [files[place.report] if files else NULL for place in places]),
    ):
        yield _Said(source, [NULL if ranks is not None and number >= ranks else number for number in numbers])


def ranks_of(places: Sequence[Place], told: Sequence[Told]) -> int | None:
    """How many ranks there are, as launchers say, or NCCL of its largest communicator; None where neither does."""
    said = [told[place.report].size(place.process) for place in places]
    said += [one[1] for place in places if (one := told[place.report].in_nccl(place.process, place.device))]
    return max((size for size in said if size is not None), default=None)
