"""Temporary folders that outlive a killed dsprof no longer than until the next run.

A folder has a lock file beside it, which its owner holds (flock) as long as it lives, however it ends. The next
run removes the folders whose lock nobody holds, and no other: a folder without a lock file is not ours.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_LOCK = ".lock"
#: Where locks do not reach other machines (some cluster filesystems), a folder is judged by its own machine alone.
_HOST = os.uname().nodename.encode()


@contextmanager
def own_folder(prefix: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder in `parent` (the usual one if None) that only we may enter; removed at the end of the block.

    It may be moved away before. Raises OSError where it cannot be made.
    """
    with _held_lock(prefix, Path(tempfile.gettempdir()) if parent is None else parent) as lock:
        folder = lock.with_suffix("")
        try:
            folder.mkdir(0o700)
            yield folder
        finally:
            with suppress(OSError):
                _remove(lock)


def clear_leftovers(prefix: str, parent: Path, before: Callable[[Path], object] = lambda folder: None) -> None:
    """Remove the folders in `parent` that `own_folder` made with this prefix, and whose owners are dead.

    `before` is called with each of them first. What cannot be looked at or removed stays, without an error.
    """
    for lock in parent.glob(f"{glob.escape(prefix)}*{_LOCK}"):
        with suppress(OSError), _opened(lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if file.read() in (_HOST, b""):  # empty: killed right after it was made
                before(lock.with_suffix(""))
                _remove(lock)


def _remove(lock: Path) -> None:
    """Remove a folder, and its lock when it is gone: what still writes there would keep it. Raises OSError."""
    folder = lock.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        lock.unlink()


@contextmanager
def _held_lock(prefix: str, parent: Path) -> Iterator[Path]:
    """A new lock file, held. One that a clearing run took before we held it is given up for another."""
    while True:
        number, name = tempfile.mkstemp(_LOCK, prefix, parent)
        with open(number, "wb", buffering=0) as file:  # noqa: PTH123  it is open already
            with suppress(OSError):  # a filesystem without locks: nobody else gets one either
                fcntl.flock(file, fcntl.LOCK_EX)
            if not os.fstat(number).st_nlink:
                continue
            try:
                file.write(_HOST)
            except OSError:  # a full disk
                Path(name).unlink()
                raise
            yield Path(name)
            return


def _opened(lock: Path) -> BinaryIO:
    """The lock file, if it is a file, ours, and no link. Raises OSError."""
    file = open(os.open(lock, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK), "r+b")  # noqa: PTH123, SIM115
    status = os.fstat(file.fileno())
    if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
        return file
    file.close()
    raise PermissionError
