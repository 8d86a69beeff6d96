"""Several runs of one program, or of two in turn, for a comparison: a session each, in one folder.

::

    traces/<stamp>-<name>/
      before-1/  after-1/  before-2/  …    sessions that are whole, as `capture.session` makes them
      unfinished-after-2/                  what there is of a run that failed, or was interrupted or killed
"""

from __future__ import annotations

import re
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, permutations
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from attrs import evolve, field

from dsprof.capture.folder import UNFINISHED, checked_name, finished, forget_empty, name_of, stamped_folder
from dsprof.capture.record import Turn
from dsprof.capture.session import (
    Capture,
    Settings,
    check_command,
    check_images,
    record_command,
    record_images,
    tell,
    usual_name,
)
from dsprof.errors import DsprofError, NoSpace
from dsprof.nsys.reader import Progress
from dsprof.records import frozen
from dsprof.workloads.job import Job

#: What sides are called that were given no names: two, and one alone.
BEFORE, AFTER, ALONE = "before", "after", "run"
_NAME = re.compile(r"\w[\w.+-]{0,99}", re.ASCII)
#: How a program ends of which all was recorded that was asked for.
_WELL = ("finished", "time-limit", "ended", "stopped")


@frozen
class Side:
    """A program that is recorded several times, under a name; `words`: of its command line."""

    name: str
    program: str
    words: tuple[str, ...] = field(repr=False)
    check: Callable[[Settings], object] = field(repr=False)
    record: Callable[[Settings, TextIO | None, Progress], Capture] = field(repr=False)


def command_side(name: str, command: Sequence[str]) -> Side:
    """A side that runs a command."""
    words = tuple(command)
    return Side(name, Path(words[0]).stem, words, partial(check_command, words), partial(record_command, words))


def images_side(name: str, job: Job) -> Side:
    """A side that reads images, or serves."""
    return Side(name, usual_name(job), (), partial(check_images, job), partial(record_images, job))


@frozen
class Unfinished:
    """A run that is not to be compared, and why, as a sentence; `error`: where it has an exit code of its own.

    `capture`: where the program ran to some end; `folder`: where something is left.
    """

    turn: Turn
    why: str
    error: DsprofError | None = None
    capture: Capture | None = None
    folder: Path | None = None


@frozen
class Runs:
    """What there is of several runs: those that are whole, in their order, and the others."""

    folder: Path
    sides: tuple[str, ...]
    whole: tuple[Capture, ...] = ()
    unfinished: tuple[Unfinished, ...] = ()
    interrupted: bool = False
    #: Runs for which there was no turn any more.
    left_out: int = 0

    def of(self, side: str) -> list[Capture]:
        """The whole runs of a side."""
        return [one for one in self.whole if one.session.turn and one.session.turn.side == side]

    @property
    def comparison(self) -> str:
        """What compares the sides, the other left open where there is one; empty where a side has no run."""
        patterns = [f"{shlex.quote(str(self.folder))}/{side}-*" for side in self.sides if self.of(side)]
        if not patterns or len(patterns) < len(self.sides):
            return ""
        return f"dsprof diff {patterns[0]} -- {patterns[1] if len(patterns) == 2 else 'AFTER…'}"


def turns_of(sides: Sequence[str], runs: int) -> list[Turn]:
    """The turns of so many runs of each side: A B A B."""
    pairs = [(side, run) for run in range(1, runs + 1) for side in sides]
    return [Turn(side, run, runs, turn, len(pairs)) for turn, (side, run) in enumerate(pairs, 1)]


def check_names(names: Sequence[str]) -> None:
    """Refuse names of sides that are no beginnings of folders, or whose runs a pattern would mix. Raises ValueError."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{ascii(name)[:80]} is no name of a side: letters, digits, and ._+- after the first.")
        if name.startswith(UNFINISHED.rstrip("-")):
            raise ValueError(f"{name} is how runs are called that are not whole.")
    for one, other in permutations(names, 2):
        if other == one or other.startswith(f"{one}-"):
            raise ValueError(f"{one}-* would stand for the runs of {other} as well.")


def record_runs(
    sides: Sequence[Side],
    runs: int,
    settings: Settings,
    pause_s: float = 0.0,
    live: TextIO | None = None,
    progress: Progress = lambda sentence: None,
) -> Runs:
    """Record each side so many times, in turn, `pause_s` seconds apart. Raises a `DsprofError` before the first alone.

    A run that fails costs the others nothing, but where it is the first of its side: what fails then fails always.
    A full disk and Ctrl-C, which also ends the run that it meets, end all.
    """
    check_names([side.name for side in sides])
    if settings.name is not None:
        checked_name(settings.name)
    beside = tuple(word for side in sides for word in side.words)
    settings = evolve(settings, profile=evolve(settings.profile, beside=beside))
    for side in sides:
        side.check(settings)
    name = name_of(sides[-1].program) if settings.name is None else settings.name
    folder = stamped_folder(settings.out, datetime.now(UTC).isoformat(timespec="seconds"), name)
    turns = turns_of([side.name for side in sides], runs)
    found = Runs(folder, tuple(side.name for side in sides), left_out=len(turns))
    try:
        with _watching() as was_interrupted:
            for turn, side in zip(turns, cycle(sides), strict=False):
                if turn.turn > 1 and not _paused(pause_s, progress):
                    break
                found = _with_run(found, turn, side, evolve(settings, out=folder, turn=turn), live, progress)
                if was_interrupted() or _is_hopeless(found, turn):
                    break
            found = evolve(found, interrupted=was_interrupted())
    finally:
        with suppress(OSError):  # where nothing is in it
            folder.rmdir()
    return found


def _with_run(found: Runs, turn: Turn, side: Side, settings: Settings, live: TextIO | None, progress: Progress) -> Runs:
    """What there is, with one more run."""
    folder, of_all = found.folder / f"{UNFINISHED}{turn.name}", f"{turn.name}, turn {turn.turn} of {turn.turns}"
    found = evolve(found, left_out=found.left_out - 1)
    tell([f"dsprof: {of_all}."], live)
    try:
        made = side.record(settings, live, lambda sentence: progress(f"{of_all}: {sentence}"))
        why = _why_not(made)
        if not why:
            return evolve(found, whole=(*found.whole, _named(made)))
        bad = Unfinished(turn, why, made.trouble, made)
    except KeyboardInterrupt:
        bad = Unfinished(turn, "it was interrupted")
        with suppress(OSError):
            forget_empty(folder)
    except DsprofError as error:
        bad = Unfinished(turn, error.message.rstrip("."), error)
    bad = evolve(bad, folder=folder if folder.is_dir() else None)
    return evolve(found, unfinished=(*found.unfinished, bad))


def _why_not(made: Capture) -> str:
    """Why a run is not to be compared, as a sentence without its full stop; empty where it is."""
    if made.profile.ending not in _WELL:
        return made.profile.explain()
    if made.trouble is not None:
        return made.trouble.message.rstrip(".")
    return "" if made.recorded else "neither NVTX ranges nor CUDA events were recorded"


def _is_hopeless(found: Runs, turn: Turn) -> bool:
    """Would it go on like this?"""
    last = found.unfinished[-1] if found.unfinished and found.unfinished[-1].turn == turn else None
    return last is not None and (not found.of(turn.side) or isinstance(last.error, NoSpace))


def _named(made: Capture) -> Capture:
    """A run that is whole, under its own name."""
    folder = finished(made.folder)
    exports, reports = (tuple(folder / one.name for one in paths) for paths in (made.exports, made.profile.reports))
    done = evolve(made.profile, reports=reports, exports=exports, log=folder / made.profile.log.name)
    return evolve(made, folder=folder, exports=exports, profile=done)


def _paused(seconds: float, progress: Progress) -> bool:
    """Wait between two runs; False where Ctrl-C ended that."""
    try:
        if seconds:
            progress(f"waiting for {seconds:g} s")
            time.sleep(seconds)
    except KeyboardInterrupt:
        return False
    return True


@contextmanager
def _watching() -> Iterator[Callable[[], bool]]:
    """Tells whether we were interrupted, also where the run that was met by it went on to a good end.

    SIGTERM and SIGHUP do what Ctrl-C does; what was ignored before is still.
    """
    met: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        met.append(number)
        raise KeyboardInterrupt

    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler}
    usual |= dict.fromkeys((signal.SIGTERM, signal.SIGHUP), signal.SIG_DFL)
    taken = {number: handler for number, handler in usual.items() if signal.getsignal(number) is handler}
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield lambda: bool(met)
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)
