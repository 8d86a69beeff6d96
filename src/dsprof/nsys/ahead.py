"""SQLite's check of a file that will be read: begun while the modules are loaded that read it, waited for at the end.

So it takes a second processor what it takes, and the user next to nothing. Only the file that is there when the report
is read counts: of one that has changed since, the check is done anew.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from dsprof.errors import DsprofError
from dsprof.nsys.inputs import Input, Seen
from dsprof.nsys.sound import SQLITE, check_file

_begun: dict[tuple[Path, Seen], Future[None]] = {}


def begin(path: Path, results: Path | None = None, anew: bool = False) -> None:
    """Begin with what `check` will do of a file, if it is an SQLite file; says nothing of one that cannot be read.

    Where there is a folder of `results`, beside the file unless it is named, the file may not be read at all: then
    nothing begins, unless it is to be read `anew`; nor of a file that changed a moment ago, as another change to it
    might not show.
    """
    with suppress(OSError, DsprofError):
        if not path.is_file():  # a pipe may never answer
            return
        if not anew and (results or path.with_suffix(".dsprof")).exists():
            return
        with path.open("rb") as file:
            if file.read(len(SQLITE)) != SQLITE:
                return
        seen = Seen.of(path)
        if seen.is_recent(time.time_ns()):
            return
        done = _begun[path, seen] = Future[None]()
        # No thread of a pool: those are waited for, also where the command ends with an error.
        threading.Thread(target=_into, args=(done, path), daemon=True).start()


def _into(done: Future[None], path: Path) -> None:
    try:
        check_file(path, path.name)
    except BaseException as error:
        done.set_exception(error)
    else:
        done.set_result(None)


def check(given: Input) -> None:
    """Have SQLite look at every page and row of what is read, unless it is our own copy. Raises `ReportDamaged`."""
    if given.kept:
        return
    begun = _begun.pop((given.path, given.seen), None)
    if begun is None:
        check_file(given.path, given.name)
    else:
        begun.result()
