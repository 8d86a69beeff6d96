"""What dsprof knows of a launcher or an engine: how its command lines look, what they need, and why."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from dsprof.capture.launchers._words import Call, Options
from dsprof.records import frozen

#: What an addition is for: an option of nsys, a variable of the program's environment, arguments of the program.
Kind = Literal["option", "variable", "argument"]
Role = Literal["server", "program", "client", "ranks", "elsewhere"]


@frozen
class Add:
    """Something that a recording of this program needs, and why, as a sentence without its full stop.

    `unless`: a regular expression; where it is found in the arguments, joined by blanks, the user has chosen.
    """

    kind: Kind
    name: str
    value: str
    why: str
    unless: str = ""

    @property
    def text(self) -> str:
        """As it is printed, and as it would be typed."""
        return f"{self.name} {self.value}".strip() if self.kind == "argument" else f"{self.name}={self.value}"


@frozen
class Hint:
    """A sentence for whoever records; `when` and `unless` are searched for in the arguments, joined by blanks."""

    says: str
    when: str = ""
    unless: str = r"(?!)"


@frozen(kw_only=True)
class Window:
    """Which part of the run is recorded, why, and what to do if it never begins."""

    range: str
    end: str
    why: str
    never: str


@frozen(kw_only=True)
class Server:
    """Where a server is reached by HTTP, how it says that it is ready, and its own switches of a recording.

    `start` and `stop` are paths for POST; empty where the ranges are there anyway. `beyond`: arguments with which it
    is reached in a way that dsprof does not go.
    """

    port: int
    ready: str
    start: str = ""
    stop: str = ""
    host_options: tuple[str, ...] = ("--host",)
    port_options: tuple[str, ...] = ("--port",)
    beyond: str = r"(^| )--(uds|ssl[-_]\w+)"


@frozen(kw_only=True)
class Ranks:
    """A launcher that starts the same program several times.

    `variables`: its names of a rank and of their number, the surest first. `outside`: whether the launcher stands
    before nsys: it must (one nsys cannot see all ranks), it does unless told otherwise, or only where that is asked.
    """

    options: Options
    variables: tuple[tuple[str, str], ...]
    outside: Literal["must", "usually", "if asked"]
    #: Whether the operand is a script or module of Python, and the switch that makes it a program.
    python: bool = False
    no_python: str = ""
    #: Arguments with which the place of the program cannot be told, or the launcher's ranks cannot.
    refused: str = r"(?!)"


@frozen(kw_only=True)
class Form:
    """A way to call a program, and what a recording of it needs.

    `calls`: like ``vllm serve`` (a program and the subcommand) or ``-m sglang.launch_server`` (a module).
    """

    calls: tuple[str, ...]
    role: Role
    says: str
    adds: tuple[Add, ...] = ()
    hints: tuple[Hint, ...] = ()
    window: Window | None = None
    #: The variable that takes the steps of ``--steps A-B``, with the window that these then are.
    steps: str = ""
    steps_window: Window | None = None
    server: Server | None = None
    ranks: Ranks | None = None
    #: A package without which it writes no ranges, and says so at most in a warning.
    package: str = ""

    def fits(self, call: Call) -> bool:
        """Is this how `call` calls it?"""
        return any(_fits(text, call) for text in self.calls)


@frozen
class Launcher:
    """A launcher or engine by its name, and the ways to call it; the first that fits is taken."""

    name: str
    forms: tuple[Form, ...]

    def form_of(self, call: Call) -> Form | None:
        """The way in which `call` calls it; None if that is another program."""
        return next((form for form in self.forms if form.fits(call)), None)


def _fits(text: str, call: Call) -> bool:
    words = text.split()
    head = 2 if words[0] == "-m" else 1
    if call.name != " ".join(words[:head]):
        return False
    arguments: Sequence[str] = call.arguments
    for subcommand in words[head:]:
        place = _place_of(subcommand, arguments)
        if place is None:
            return False
        arguments = arguments[place + 1 :]
    return True


def _place_of(subcommand: str, arguments: Sequence[str]) -> int | None:
    """Where the subcommand stands: the first word that is neither an option nor may be the value of one."""
    for place, word in enumerate(arguments):
        if word == subcommand:
            return place
        follows = place > 0 and re.fullmatch(r"--?[A-Za-z][\w.-]*", arguments[place - 1])
        if not word.startswith("-") and not follows:
            return None
    return None
