"""The folder of a session: how it is called, where it is made, and what stays there of a capture that failed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path

from attrs import evolve

from dsprof.capture.profile import rescue
from dsprof.capture.record import RECORD, Session, write_record
from dsprof.capture.watching import LOG
from dsprof.errors import CaptureRefused, DsprofError, OutputRefused
from dsprof.workloads.job import JOB

#: Bytes that a name may have, so that the folder's, with a stamp and a number, is one that a filesystem takes.
_LONGEST_NAME = 200
#: How the folder of one of several runs begins until it is whole.
UNFINISHED = "unfinished-"


def name_of(program: str) -> str:
    """The name of a session that was given none: that of what runs, as far as a folder can have it."""
    return re.sub(r"[^ -~\w]|[/\x7f]", "_", program)[:50]


def checked_name(name: str) -> str:
    """The name, if it can be a part of a folder's. Raises `CaptureRefused`."""
    if not name.strip() or not name.isprintable() or "/" in name:
        raise CaptureRefused(
            f"The session cannot be named {ascii(name)[:80]}.",
            "A --name is no path, not empty, and has no control characters; --out names the place.",
        )
    size = len(os.fsencode(name))
    if size > _LONGEST_NAME:
        raise CaptureRefused(f"The session's --name has {size} bytes.", f"It may have {_LONGEST_NAME}.")
    return name


def new_folder(out: Path, begun: Session) -> Path:
    """A new folder for a session, with what is known of it; that of one of several runs is called unfinished."""
    if begun.turn is None:
        folder = stamped_folder(out, begun.created, begun.name)
    else:
        folder = out / f"{UNFINISHED}{begun.turn.name}"
        with _making(out):
            folder.mkdir()
    write_record(folder, begun)
    return folder


def stamped_folder(out: Path, created: str, name: str) -> Path:
    """A new folder in `out`; what killed captures left there is looked after. Raises `OutputRefused`."""
    stamp = datetime.fromisoformat(created).strftime("%Y%m%d-%H%M%S")
    with _making(out):
        out.mkdir(parents=True, exist_ok=True)
        for old in (*out.iterdir(), *out.glob(f"*/{UNFINISHED}*")):
            if old.is_dir() and rescue(old):
                forget_empty(old)
        for number in count(1):
            folder = out / f"{stamp}-{name}{f'-{number}' if number > 1 else ''}"
            with suppress(FileExistsError):
                folder.mkdir()
                break
    return folder


@contextmanager
def _making(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "it is no folder" if out.exists() and not out.is_dir() else error.strerror
        raise OutputRefused(
            f"A folder for the session cannot be made in {out} ({reason}).", "Name another place with --out."
        ) from error


def finished(folder: Path) -> Path:
    """Give the folder of a run that is whole its name. Raises `OutputRefused`."""
    whole = folder.with_name(folder.name.removeprefix(UNFINISHED))
    try:
        folder.rename(whole)
    except OSError as error:
        raise OutputRefused(
            f"{folder} cannot be renamed to {whole.name} ({error.strerror}).", "What was recorded is in it."
        ) from error
    return whole


def forget_empty(folder: Path) -> None:
    """Remove the folder of a capture that left nothing to read but what was asked; that of several with its last."""
    if {path.name for path in folder.iterdir()} <= {JOB, RECORD}:
        shutil.rmtree(folder)
        if folder.name.startswith(UNFINISHED):
            with suppress(OSError):  # others are in it
                folder.parent.rmdir()


def leave_record(folder: Path, begun: Session, error: DsprofError) -> None:
    """Leave the record of a capture that failed beside what was saved of it, and name its log in the error."""
    with suppress(OSError):
        kept = sorted(path.name for path in folder.iterdir() if path.suffix in (".nsys-rep", ".qdrep", ".qdstrm"))
        write_record(folder, evolve(begun, reports=tuple(kept)))
        forget_empty(folder)
        error.log = folder / LOG if (folder / LOG).is_file() else None
