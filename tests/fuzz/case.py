"""What is tried, and what came of it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

#: What counts as found, by its column in the report.
FAULTS = {
    "traceback": "an exception that is no DsprofError, or an exit without a sentence",
    "slow": "more than 20 s of processor time, or 120 s in all",
    "memory": "more memory than stated",
    "wrong": "a number that a recount, the undamaged file or another way of reading does not give, or a negative one",
    "mixed": "results of two reports or of two sets of rules, or of none that was asked for",
    "left": "something left behind, or a next run that does not work",
    "unsafe": "text that a terminal, a spreadsheet or a page would obey",
}


@dataclass(frozen=True)
class Case:
    """One thing to try: `chosen` was drawn from the seed, and stands here so that later choices do not change it."""

    kind: str
    seed: int
    chosen: dict[str, Any]

    def random(self, purpose: str = "") -> Random:
        """Random numbers for a purpose: the same ones each time."""
        return Random(f"{self.kind}:{self.seed}:{purpose}")

    @property
    def name(self) -> str:
        """What a failure's file is called: recipes may have one seed."""
        chosen = zlib.crc32(json.dumps(self.chosen, sort_keys=True).encode())
        return f"{self.kind}-{self.seed}-{chosen:08x}"

    def write(self, path: Path, **more: Any) -> Path:
        """Keep it as a recipe, with more to know of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**asdict(self), **more}, indent=1, ensure_ascii=True) + "\n", encoding="ascii")
        return path


def read_case(path: Path) -> Case:
    """The case in a recipe."""
    document = json.loads(path.read_text(encoding="ascii"))
    return Case(document["kind"], document["seed"], document["chosen"])


class Fault(NamedTuple):
    """Something that was found: one of `FAULTS`, and what exactly."""

    what: str
    said: str


@dataclass
class Result:
    """What came of a case: how dsprof ended (``ok``, ``refused``), with which exit code, and what was found.

    `disturbed`: did what the case is about (a kill, a rewrite, another run) happen while dsprof ran? None: no such one.
    """

    code: int | None = 0
    faults: list[Fault] = field(default_factory=list)
    seconds: float = 0.0
    peak_bytes: int = 0
    did: str = ""
    disturbed: bool | None = None

    def found(self, what: str, said: object) -> None:
        """Note a fault."""
        assert what in FAULTS
        self.faults.append(Fault(what, str(said)))


class Kind(NamedTuple):
    """A kind of cases: what may be chosen, and how one is run in a folder of its own.

    `cases`: of a long run; a short one has a twentieth. `programs`: dsprof runs as programs, and not in this process.
    """

    name: str
    cases: int
    choose: Callable[[Random], dict[str, Any]]
    run: Callable[[Case, Path], Result]
    programs: bool = False

    def case(self, seed: int) -> Case:
        """The case of a seed."""
        return Case(self.name, seed, self.choose(Random(f"{self.name}:{seed}")))
