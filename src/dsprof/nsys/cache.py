"""Exports that dsprof makes for itself: in a folder of its own, by the content of the report, never beside it.

``$DSPROF_CACHE``, else ``$XDG_CACHE_HOME/dsprof/exports``, else ``~/.cache/dsprof/exports``, which only its user may
read. A file is called by the hash of the report that it was made from, and by what made it. Those that were not used
for longest go when all of them take more than `_MOST_BYTES` together. The folder may be removed at any time when no
dsprof runs.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dsprof.errors import OutputRefused, ReportMissing
from dsprof.ground.leftovers import clear_leftovers, own_folder
from dsprof.nsys.command import is_whole
from dsprof.nsys.inputs import Input

#: What all exports may take before the oldest go.
_MOST_BYTES = 20 * 10**9
#: Ends the name of an export; another one when what dsprof does to exports changes.
_SUFFIX = ".1.sqlite"


def cache_folder() -> Path:
    """Where exports are kept."""
    if named := os.environ.get("DSPROF_CACHE"):
        return Path(named)
    usual = os.path.expanduser("~/.cache")  # noqa: PTH111  Path raises where there is no home
    return Path(os.environ.get("XDG_CACHE_HOME") or usual, "dsprof", "exports")


class KeptExport(Input):
    """An export in the cache; it does not go while this is there."""

    def __init__(self, path: Path, name: str, sha256: str) -> None:
        super().__init__(path, name, sha256, kept=True)
        self._handle = path.open("rb")
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._handle, fcntl.LOCK_SH)
            os.utime(path)


def kept(sha256: str, name: str, maker: str = "*") -> KeptExport | None:
    """The export of the report called `name` that is there, made by `maker` or by any; None where there is none."""
    clear_leftovers(".making-", cache_folder())
    for path in sorted(cache_folder().glob(f"{sha256}.{maker}{_SUFFIX}"), key=os.path.getmtime, reverse=True):
        with suppress(OSError, ReportMissing):  # another dsprof made room just now
            if is_whole(path):
                return KeptExport(path, name, sha256)
    return None


def keep(sha256: str, name: str, maker: str, make: Callable[[Path], None]) -> KeptExport:
    """The export that `make` writes to the path that it is given; it is there whole afterwards, or not at all.

    Raises `OutputRefused`, and what `make` raises.
    """
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with own_folder(".making-", folder) as temporary:
            partial, path = temporary / "export.sqlite", folder / f"{sha256}.{maker}{_SUFFIX}"
            make(partial)
            _put(partial, path)
            found = KeptExport(path, name, sha256)
    except OSError as error:
        raise OutputRefused(
            f"{name} cannot be unpacked or exported in {folder} ({error.strerror}).",
            "Name another folder for such files with the variable DSPROF_CACHE.",
        ) from error
    _make_room(folder)
    return found


def _put(partial: Path, path: Path) -> None:
    """Give the file its name; one that another dsprof made meanwhile stays, as it may be read there already."""
    try:
        os.link(partial, path)
    except OSError:  # it is there; or a file system without links
        if not is_whole(path):
            partial.replace(path)


def _make_room(folder: Path) -> None:
    """Remove what was not used for longest, and is not used now, until the rest is small enough."""
    with suppress(OSError):
        files = sorted(folder.glob("*.sqlite"), key=lambda path: path.stat().st_mtime_ns)
        excess = sum(path.stat().st_size for path in files) - _MOST_BYTES
        for path in files:
            if excess > 0 and _is_unused(path):
                excess -= path.stat().st_size
                path.unlink()


def _is_unused(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
