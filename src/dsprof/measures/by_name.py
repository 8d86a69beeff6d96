"""Times by stage and name: of kernels, of CUDA API calls, and of the host in those."""

from __future__ import annotations

from typing import Self

import numpy as np
from attrs import evolve

from dsprof.arrays import Ints
from dsprof.arrays.statistics import Distribution, Sums, add_distributions, distribution
from dsprof.attribute.launches import Launches
from dsprof.facts import Measure
from dsprof.measures.host_time import HostPieces, both, spent_in_all, windows_of
from dsprof.records import frozen

Words = tuple[str, ...]


def united(one: Words, other: Words, last: int = 0) -> tuple[Words, list[Ints]]:
    """The words of both, each once, and the places of each one's among them; so many at the end stay at the end."""
    number: dict[str, int] = {}
    for word in (*one[: len(one) - last], *other[: len(other) - last], *one[len(one) - last :]):
        number.setdefault(word, len(number))
    return tuple(number), [np.array([number[word] for word in words], np.int64) for words in (one, other)]


@frozen(eq=False)
class ByStageAndName(Measure):
    """Durations by stage and name; the group is ``stage * len(names) + name``.

    It has the words that its numbers stand for, so those of two reports can be merged as well as those of two parts.
    """

    stages: Words
    names: Words
    durations: Distribution

    @property
    def stage(self) -> Ints:
        """The stage of each row."""
        return self.durations.group // len(self.names)

    @property
    def name(self) -> Ints:
        """The name of each row."""
        return self.durations.group % len(self.names)

    def merge(self, other: Self) -> Self:
        """Both together."""
        if (self.stages, self.names) == (other.stages, other.names):
            return evolve(self, durations=add_distributions(self.durations, other.durations))
        (stages, stage), (names, name) = united(self.stages, other.stages, last=1), united(self.names, other.names)
        found = [each.regrouped(stage[place], name[place], len(names)) for place, each in enumerate((self, other))]
        return evolve(self, stages=stages, names=names, durations=add_distributions(*found))

    def regrouped(self, stage: Ints, name: Ints, names: int) -> Distribution:
        """The durations by ``stage * names + name`` with other numbers for stages and names."""
        group = stage[self.stage] * names + name[self.name]
        return distribution(group, self.durations.value, self.durations.times)


@frozen(eq=False)
class KernelsByStage(ByStageAndName):
    """Durations of the kernels by stage and name."""

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        kernels, own, stages = launches.trace.kernels, launches.trace.own_kernels, launches.stages
        stage = stages.code_of(launches.stage_range_of_op[: len(kernels)][own])
        group = stage * len(launches.trace.names) + kernels.name[own]
        return cls(stages.names, launches.trace.names, distribution(group, (kernels.end - kernels.start)[own]))


@frozen(eq=False)
class CallsByStage(ByStageAndName):
    """Durations of the API calls by stage and name."""

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        calls, own, stages = launches.trace.calls, launches.trace.own_calls, launches.stages
        stage = stages.code_of(launches.stage_range_of_call[own])
        group = stage * len(launches.trace.names) + calls.name[own]
        return cls(stages.names, launches.trace.names, distribution(group, (calls.end - calls.start)[own]))


@frozen(eq=False)
class HostTimeOfStages(Measure):
    """The host's time in each API call, in all ranges of a stage together; the group as in `ByStageAndName`."""

    stages: Words
    names: Words
    spent: Sums

    @classmethod
    def take(cls, launches: Launches, pieces: HostPieces) -> Self:
        """Of a part of a report."""
        stages, names = launches.stages, launches.trace.names
        windows = windows_of(launches, stages.rows, pieces)
        found = [spent_in_all(windows.of(stages.code == code), pieces) for code in range(len(stages.names) - 1)]
        groups = [code * len(names) + pieces.used[slot] for code, (slot, _, _) in enumerate(found)]
        columns = (np.concatenate([pieces.used[:0], *of]) for of in (groups, *list(zip(*found, strict=True))[1:]))
        return cls(stages.names, names, Sums(*columns))

    def merge(self, other: Self) -> Self:
        """Both together."""
        if (self.stages, self.names) == (other.stages, other.names):
            return evolve(self, spent=both(self.spent, other.spent))
        (stages, stage), (names, name) = united(self.stages, other.stages, last=1), united(self.names, other.names)
        found = []
        for place, each in enumerate((self, other)):
            old_stage, old_name = np.divmod(each.spent.group, len(each.names))
            found.append(each.spent._replace(group=stage[place][old_stage] * len(names) + name[place][old_name]))
        return evolve(self, stages=stages, names=names, spent=both(*found))
