"""`dsprof.records`: what it makes is what attrs makes, but for how long that takes."""

from __future__ import annotations

import pickle
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
import pytest

from dsprof.records import frozen

SOURCE = Path(__file__).parents[1] / "src" / "dsprof"


@frozen
class Plain:
    name: str
    numbers: tuple[int, ...] = ()
    hidden: int = attrs.field(default=0, repr=False)


@attrs.frozen(repr=True)
class Theirs:
    name: str
    numbers: tuple[int, ...] = ()
    hidden: int = attrs.field(default=0, repr=False)


@frozen
class Longer(Plain):
    more: dict[str, int] = attrs.field(factory=dict)


@frozen(eq=False)
class Itself:
    name: str


@frozen(kw_only=True)
class Keeping:
    name: str

    @cached_property
    def length(self) -> int:
        return len(self.name)

    def __repr__(self) -> str:
        return "mine"


MADE = [("a",), ("a", (1, 2)), ("a", (1, 2), 3), ("b", (), 3)]


@pytest.mark.parametrize("one", MADE)
@pytest.mark.parametrize("other", MADE)
def test_they_are_equal_as_those_of_attrs(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    assert (Plain(*one) == Plain(*other)) == (Theirs(*one) == Theirs(*other))
    assert (Plain(*one) != Plain(*other)) == (Theirs(*one) != Theirs(*other))
    assert len({Plain(*one), Plain(*other)}) == len({Theirs(*one), Theirs(*other)})


@pytest.mark.parametrize("one", MADE)
def test_they_look_as_those_of_attrs(one: tuple[Any, ...]) -> None:
    assert repr(Plain(*one)) == repr(Theirs(*one)).replace("Theirs", "Plain")


def test_one_of_another_class_is_never_equal() -> None:
    assert Plain("a") != Theirs("a")
    assert Plain("a") != Longer("a")
    assert Longer("a", more={"x": 1}) == Longer("a", more={"x": 1}) != Longer("a")
    assert repr(Longer("a")) == "Longer(name='a', numbers=(), more={})"


def test_an_instance_may_be_equal_to_itself_alone() -> None:
    one = Itself("a")
    assert one == one != Itself("a")
    assert len({one, Itself("a"), one}) == 2


def test_they_cannot_be_changed_and_can_be_pickled() -> None:
    for one in (Plain("a", (1,)), Longer("b"), Keeping(name="c")):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            one.name = "other"  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(one)) == one == attrs.evolve(one)


def test_properties_are_kept_and_own_methods_stay() -> None:
    one = Keeping(name="four")
    assert (one.length, one.length, repr(one)) == (4, 4, "mine")
    assert not hasattr(one, "__dict__")  # where Python 3.11 would keep them under one lock for all instances


def test_every_class_of_values_is_made_so() -> None:
    """By `attrs.frozen` it would cost twice as much at each start."""
    files = {file.relative_to(SOURCE).as_posix(): file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py")}
    theirs = re.compile(r"^(?:from attrs import .*\bfrozen\b|@attrs\.frozen)", re.MULTILINE)
    assert [name for name, text in files.items() if theirs.search(text)] == []
