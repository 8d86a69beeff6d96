"""When a program is disturbed: at one of the events or moments that it has when nothing disturbs it.

An event beyond the last one, or a moment after the end, would be no disturbance and yet count as one that was
survived. So a case's `at` is taken modulo the events of its task, the time is measured before the program starts, and
a case in which nothing happened is run once more, at an event.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fuzz import bases, started
from fuzz.calls import Program, inside
from fuzz.case import Case, Result

STARTED = Path(started.__file__)
_NEVER = 1 << 40


class Usual(NamedTuple):
    """How many events an undisturbed run has, and how many seconds it takes here."""

    events: int
    seconds: float


def disturbed(folder: Path, given: Sequence[str], **told: Any) -> Program:
    """dsprof, with something happening at one of its events; see `started`."""
    document = json.dumps({"folder": str(folder), "note": str(folder / "note"), **told})
    return Program(folder, given, (str(STARTED),), {"FUZZ_STARTED": document})


def usual(task: str, folder: Path, prepare: Callable[[Path], Sequence[str]]) -> Usual:
    """What a task is when it is undisturbed; `prepare` makes all that it needs in a folder, and gives its command.

    It is measured once and kept beside the reports, for all processes.
    """
    kept = bases.path(task).with_suffix(".usual.json")
    if not kept.exists():
        own = folder / "usual"
        own.mkdir()
        with inside(own):
            measured = _measure(own, prepare(own))
        shutil.rmtree(own)
        partial = kept.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(measured))
        partial.replace(kept)
    return Usual(*json.loads(kept.read_text()))


def _measure(folder: Path, given: Sequence[str]) -> Usual:
    begin = time.monotonic()
    ended = disturbed(folder, given, at=_NEVER, what="kill").wait()
    assert ended.code == 0, ended
    return Usual(json.loads((folder / "note").read_text())["events"], time.monotonic() - begin)


def until_disturbed(case: Case, folder: Path, attempt: Callable[[Path, int | None, Result], None]) -> Result:
    """Run a case: `attempt` disturbs dsprof at an event, or by time where there is none, and notes whether it did.

    Where dsprof had ended before, it is done once more in a folder of its own, at an event.
    """
    result = Result(disturbed=False)
    attempt(folder, case.chosen["at"], result)
    if not result.disturbed and not result.faults:
        more = folder / "more"
        more.mkdir()
        with inside(more):
            attempt(more, case.random("more").randrange(1000), result)
    return result
