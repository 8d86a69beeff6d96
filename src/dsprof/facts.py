"""Facts of a report, or of a part of it: each is made once, when it is asked for, from those that its maker names.

A fact is a class with a method `take`, whose arguments say by their types what it is made from. A measure is a fact
that is taken from each part of a report and added up; whatever is made of measures knows nothing of parts::

    parts   Trace -> Launches -> measures ---+        a small report is one part, a large one many
                                             | merge
    report  RangeTree, StageRanges, measures-+-> answers (Stages, Requests, Steps …) -> tables
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cache, reduce
from typing import Any, Generic, Self, TypeVar, get_type_hints

T = TypeVar("T")


class Measure(ABC):
    """A quantity that a method `take` finds in a part of a report; those of all parts together are that of the report.

    Subclasses hold arrays and names and nothing else, so they can be pickled.
    """

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """Both together: that of one part, and that of a later one."""

    def absorb(self, later: Self) -> bool:
        """Add that of a later part to this one, where that costs what the later part has and no more; else False.

        So it is with columns of a row for each stage or step, of which a part knows few.
        """
        return False


M = TypeVar("M", bound=Measure)


class Facts:
    """Facts by their types: ``facts[StageTotals]``. `given` are those that are known from the start.

    Raises LookupError for what is not given and cannot be made.
    """

    def __init__(self, *given: object) -> None:
        self._known: dict[type, Any] = {type(one): one for one in given}

    def __contains__(self, kind: type) -> bool:
        return kind in self._known

    def __getitem__(self, kind: type[T]) -> T:
        if kind not in self._known:
            take: Callable[..., T] | None = getattr(kind, "take", None)
            if take is None:
                raise LookupError(f"{kind.__name__} is not known here: whatever needs it must be a measure")
            self._known[kind] = self.call(take)
        found: T = self._known[kind]
        return found

    def add(self, *facts: object) -> None:
        """Some more that are known."""
        self._known.update({type(one): one for one in facts})

    def call(self, make: Callable[..., T], **given: object) -> T:
        """What a function gives for the facts that are its arguments, but for those that are given."""
        wanted = {name: kind for name, kind in arguments_of(make).items() if name not in given}
        return make(**{name: self[kind] for name, kind in wanted.items()}, **given)


def arguments_of(make: Callable[..., Any]) -> Mapping[str, type]:
    """The arguments of a function by their types."""
    return _arguments_of(getattr(make, "__func__", make))


@cache
def _arguments_of(function: Callable[..., Any]) -> dict[str, type]:
    return {name: kind for name, kind in get_type_hints(function).items() if name != "return"}


def measures_behind(make: Callable[..., Any]) -> tuple[type[Measure], ...]:
    """The measures that a function needs, itself or through other facts, each once."""
    return _behind(getattr(make, "__func__", make))


@cache
def _behind(function: Callable[..., Any]) -> tuple[type[Measure], ...]:
    found: list[type[Measure]] = []
    for kind in _arguments_of(function).values():
        if isinstance(kind, type) and issubclass(kind, Measure):
            found.append(kind)
        elif hasattr(kind, "take"):
            found += measures_behind(kind.take)
    return tuple(dict.fromkeys(found))


class MergeTree(Generic[M]):
    r"""A measure part by part: as in a merge sort only what is of as many parts is merged.

    So each part takes part in few merges, and a report of ten times as many parts takes ten times as long, not a
    hundred times. ::

        parts    1   2   3   4   5          after the fifth: [1234] [5]
                 \_12_/   \_34_/
                   \__1234_/
    """

    def __init__(self) -> None:
        self._runs: list[tuple[int, M]] = []

    def add(self, found: M) -> None:
        """Add that of the next part."""
        if self._runs and self._runs[-1][1].absorb(found):
            return
        parts = 1
        while self._runs and self._runs[-1][0] == parts:
            found = self._runs.pop()[1].merge(found)
            parts *= 2
        self._runs.append((parts, found))

    def whole(self) -> M:
        """That of all parts; there must be one."""
        return reduce(lambda later, earlier: earlier.merge(later), (found for _, found in reversed(self._runs)))
