"""A folder of files that is replaced whole: who opens it finds all of the old or all of the new, also after a kill.

::

    run.dsprof/                    what is there, or nothing
    .run.dsprof.writing-x1/        filled by one writer, then exchanged with run.dsprof in one step, and removed
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from dsprof.errors import OutputRefused
from dsprof.ground.leftovers import clear_leftovers, own_folder

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
#: What the file system may answer that cannot exchange two folders (NFS and some others).
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

#: The names in a folder that were not written by us, by the folder.
Strangers = Callable[[Path], Sequence[str]]


@contextmanager
def replacing(target: Path, strangers: Strangers, last: str) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `target` when the block ends, or vanishes when it raises.

    `strangers`: with one of them in it, a folder is refused and stays as it is. Where the folder cannot be exchanged
    (another user's folder around it, a mount point), its files are replaced one by one while it is locked: that called
    `last` goes first and comes last. Raises `OutputRefused` and OSError.
    """
    target = Path(os.path.realpath(target))
    made = not target.exists()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except RecursionError as error:  # a folder in a folder in a folder, a thousand times
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(target)) from error
    with _alone_in(target.parent):
        target.mkdir(exist_ok=True)
    try:
        with _alone_in(target.parent), locked(target):  # so that nobody replaces it between two looks at it
            _refuse(target, strangers)
        inside, place, prefix = _beside(target)
        clear_leftovers(prefix, place)
        with own_folder(prefix, place) as fresh:
            yield fresh
            with _alone_in(target.parent), locked(target):
                _refuse(target, strangers)
                fresh.chmod(target.stat().st_mode)
                if inside:
                    _move_in(fresh, target, last)
                else:
                    _exchange(fresh, target)
    except BaseException:
        if made:
            with suppress(OSError):  # somebody else's results are there by now
                target.rmdir()
        raise


def clear_unfinished(target: Path) -> None:
    """Remove what killed writers of a folder left of theirs."""
    _, place, prefix = _beside(Path(os.path.realpath(target)))
    clear_leftovers(prefix, place)


def _beside(target: Path) -> tuple[bool, Path, str]:
    """Where a folder that takes the place of this one is filled: in it or not, in which folder, called how."""
    if os.path.ismount(target) or not os.access(target.parent, os.W_OK | os.X_OK):
        return True, target, ".writing-"
    return False, target.parent, f".{target.name[:80]}.writing-"


@contextmanager
def locked(folder: Path, exclusive: bool = True) -> Iterator[int]:
    """The folder that has this name now, locked; its file descriptor. Raises OSError where there is none."""
    while True:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(OSError):  # a file system without locks: the exchange is one step all the same
                fcntl.flock(handle, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            if os.path.samestat(os.fstat(handle), os.stat(folder)):  # noqa: PTH116  it may have been exchanged
                yield handle
                return
        finally:
            os.close(handle)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """The only writer that makes or exchanges folders in this one, for as long as this lasts.

    The lock of what is replaced does not do: where that takes steps, it is missing for a moment, and another writer
    would make it anew, with another lock.
    """
    handle = None
    try:
        with suppress(OSError):  # a folder that may not be read, a file system without locks
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _refuse(target: Path, strangers: Strangers) -> None:
    found = strangers(target)
    if found:
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise OutputRefused(
            f"{target} holds {found[0]}{more}, which dsprof did not write, so it is not replaced.",
            "Name a new or an empty folder with --out, or move away what is there.",
        )


def _exchange(fresh: Path, target: Path) -> None:
    """Let two folders change their names, in one step where the file system can."""
    libc = ctypes.CDLL(None, use_errno=True)
    one, other = os.fsencode(fresh), os.fsencode(target)
    if hasattr(libc, "renameat2") and not libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, other, _RENAME_EXCHANGE):
        return
    code = ctypes.get_errno() if hasattr(libc, "renameat2") else errno.ENOSYS
    if code not in _CANNOT:
        raise OSError(code, os.strerror(code), str(target))
    # For a moment the target is missing then, as it is before the first results.
    aside = fresh.with_name(f"{fresh.name}.before")
    target.rename(aside)
    try:
        fresh.rename(target)
    except OSError:
        aside.rename(target)
        raise
    aside.rename(fresh)


def _move_in(fresh: Path, target: Path, last: str) -> None:
    """Replace the files of a folder one by one; without `last`, what is in it counts for nothing."""
    (target / last).unlink(missing_ok=True)
    for path in target.iterdir():
        if path != fresh and path.is_file():
            path.unlink()
    for path in sorted(fresh.iterdir(), key=lambda path: path.name == last):
        path.replace(target / path.name)
