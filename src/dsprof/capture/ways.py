"""How nsys and the program stand to each other: nsys around it, behind a launcher of ranks, or beside a server."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from attrs import field

from dsprof.capture.options import ProfileOptions, arguments_of, escape, known_options, server_arguments
from dsprof.capture.serving import ServerRun, Serving, check_free
from dsprof.capture.watching import RANK, Run
from dsprof.records import frozen

Progress = Callable[[str], None]
#: What the file of a rank ends with, that `rank.py` leaves beside the reports.
_SUFFIX = ".rank"


@frozen
class RankRecord:
    """What stood before the nsys of a rank said: its name in those of the reports, how many there are, exit code.

    `variables`: what its launcher told it of ranks.
    """

    rank: str
    size: int | None
    code: int
    variables: dict[str, int] = field(factory=dict)


@frozen
class Order:
    """What is to be recorded and with what: reports go into `partial`, what the program prints also to `live`."""

    command: Sequence[str]
    options: ProfileOptions
    partial: Path
    nsys: Path
    live: TextIO | None
    progress: Progress


@frozen
class Wrapped:
    """``nsys profile PROGRAM``: one report for all processes; the other ways do some of it otherwise."""

    def prepare(self, options: ProfileOptions, nsys: Path) -> None:
        """Refuse what cannot be, before anything is started: here nothing."""

    def start(self, order: Order) -> Run:
        """Start it."""
        words = [str(order.nsys), *arguments_of(order.options, known_options(order.nsys))]
        words += [f"--output={escape(order.partial / 'run')}", *order.command]
        return Run(words, order.options, order.partial, order.live)

    def ranks(self, partial: Path) -> tuple[RankRecord, ...]:
        """What the ranks said, whose files are removed: here there are none."""
        return ()

    def beside(self) -> tuple[str, ...]:
        """The words of what runs beside the program, whose secrets a report may hold: here nothing does."""
        return ()


@frozen
class Ranked(Wrapped):
    """``mpirun … nsys profile PROGRAM``: a report for each rank.

    `program`: the place in the command of what a rank runs. `variables`: of a rank and of their number, in pairs.
    """

    program: int
    variables: tuple[tuple[str, str], ...]

    def start(self, order: Order) -> Run:
        """Start the launcher."""
        pairs = ",".join(":".join(pair) for pair in self.variables)
        before = [sys.executable, "-I", "-S", str(RANK), escape(order.partial / "run"), pairs]
        before += [f"{name}={value}" for name, value in order.options.variables.items()]
        words = [*before, "--", str(order.nsys), *arguments_of(order.options, known_options(order.nsys))]
        whole = [*order.command[: self.program], *words, *order.command[self.program :]]
        return Run(whole, order.options, order.partial, order.live, nsys=order.nsys, ranked=True)

    def ranks(self, partial: Path) -> tuple[RankRecord, ...]:
        """What the ranks said, by number."""
        found = []
        for path in partial.glob(f"run.*{_SUFFIX}"):
            with suppress(OSError, ValueError, TypeError):
                found.append(RankRecord(**json.loads(path.read_text(encoding="utf-8"))))
            path.unlink(missing_ok=True)
        return tuple(sorted(found, key=lambda one: (one.rank[0], int(one.rank[1:]))))


@frozen
class Served(Wrapped):
    """``nsys launch SERVER``, and ``nsys start`` and ``nsys stop`` around what is to be recorded."""

    serving: Serving

    def prepare(self, options: ProfileOptions, nsys: Path) -> None:
        """Refuse options that neither command has, and a place where another server answers."""
        self._arguments(options, nsys)
        check_free(self.serving)

    def start(self, order: Order) -> Run:
        """Start the server."""
        session = f"dsprof-{secrets.token_hex(6)}"
        words = self._arguments(order.options, order.nsys)
        launch = [str(order.nsys), *words["launch"], f"--session-new={session}", *order.command]
        collect = [
            str(order.nsys),
            *words["start"],
            f"--session={session}",
            f"--output={escape(order.partial / 'run')}",
        ]
        stop = [str(order.nsys), "stop", f"--session={session}"]
        said = (order.options, order.partial, order.live, order.nsys)
        return ServerRun(launch, *said, self.serving, (collect, stop), order.progress)

    def beside(self) -> tuple[str, ...]:
        """The client."""
        return self.serving.client

    def _arguments(self, options: ProfileOptions, nsys: Path) -> dict[str, list[str]]:
        return server_arguments(options, {command: known_options(nsys, command) for command in ("launch", "start")})
