"""Exports that dsprof makes for itself: in a folder of its own, by the content of the report, never beside it.

``$DSPROF_CACHE``, else ``$XDG_CACHE_HOME/dsprof/exports``, else ``~/.cache/dsprof/exports``, which only its user may
read. An export is called by the hash of the report that it was made from, and by what made it; one that several nsys
made side by side is a folder. Those that were not used for longest go when all of them take more than `_MOST_BYTES`
together. The folder may be removed at any time when no dsprof runs.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from dsprof.errors import OutputRefused, ReportMissing
from dsprof.ground.leftovers import clear_leftovers, own_folder
from dsprof.nsys.command import is_whole
from dsprof.nsys.event_files import EXPORT, event_files_of
from dsprof.nsys.inputs import Input

#: What all exports may take before the oldest go.
_MOST_BYTES = 20 * 10**9
#: Ends the name of an export, and that of the folder of one; others when what dsprof does to exports changes.
_SUFFIX, _FOLDER_SUFFIX = ".1.sqlite", ".1.parts"


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
        held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, held)  # an open file would warn whoever has the last of it
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_SH)
            os.utime(path)


def kept(sha256: str, name: str, maker: str = "*") -> KeptExport | None:
    """The export of the report called `name` that is there, made by `maker` or by any; None where there is none."""
    clear_leftovers(".making-", cache_folder())
    there = [path for path in _exports() if fnmatch(_called(path), f"{sha256}.{maker}")]
    for path in sorted(there, key=os.path.getmtime, reverse=True):
        with suppress(OSError, ReportMissing):  # another dsprof made room just now
            if _is_whole(path):
                return KeptExport(path, name, sha256)
    return None


def _exports() -> list[Path]:
    """The SQLite files of all exports."""
    folder = cache_folder()
    return [*folder.glob(f"*{_SUFFIX}"), *folder.glob(f"*{_FOLDER_SUFFIX}/{EXPORT}")]


def _called(export: Path) -> str:
    """The hash and the maker of an export."""
    if export.name == EXPORT:
        return export.parent.name.removesuffix(_FOLDER_SUFFIX)
    return export.name.removesuffix(_SUFFIX)


def _is_whole(export: Path) -> bool:
    try:
        events = event_files_of(export)
    except OSError:  # its index is damaged
        return False
    return is_whole(export) and (events is None or events.are_whole())


def keep(sha256: str, name: str, maker: str, make: Callable[[Path], None]) -> KeptExport:
    """The export that `make` writes to the path that it is given; it is there whole afterwards, or not at all.

    Raises `OutputRefused`, and what `make` raises.
    """
    return _keep(name, f"{sha256}.{maker}{_SUFFIX}", sha256, make)


def keep_parts(sha256: str, name: str, maker: str, make: Callable[[Path], None]) -> KeptExport:
    """The same of an export that `make` writes into the folder that it is given."""

    def make_in(folder: Path) -> None:
        folder.mkdir()
        make(folder)

    return _keep(name, f"{sha256}.{maker}{_FOLDER_SUFFIX}", sha256, make_in)


def _keep(name: str, called: str, sha256: str, make: Callable[[Path], None]) -> KeptExport:
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with own_folder(".making-", folder) as temporary:
            partial, path = temporary / "export.sqlite", folder / called
            make(partial)
            _put(partial, path)
            found = KeptExport(path / EXPORT if path.is_dir() else path, name, sha256)
    except OSError as error:
        raise OutputRefused(
            f"{name} cannot be unpacked or exported in {folder} ({error.strerror}).",
            "Name another folder for such files with the variable DSPROF_CACHE.",
        ) from error
    _make_room()
    return found


def _put(partial: Path, path: Path) -> None:
    """Give it its name; what another dsprof made meanwhile stays, as it may be read there already."""
    try:
        if partial.is_dir():
            partial.rename(path)
        else:
            os.link(partial, path)
    except OSError:  # it is there; or a file system without links
        if not _is_whole(path / EXPORT if partial.is_dir() else path):
            _remove(path)
            partial.replace(path)


def _remove(path: Path) -> None:
    """Remove an export, a folder in one step: nobody finds half of it."""
    if path.is_dir():
        with own_folder(".making-", path.parent) as going:
            path.rename(going / "going")
    else:
        path.unlink(missing_ok=True)


def _make_room() -> None:
    """Remove what was not used for longest, and is not used now, until the rest is small enough."""
    with suppress(OSError):
        exports = sorted(_exports(), key=lambda path: path.stat().st_mtime_ns)
        excess = sum(map(_bytes_of, exports)) - _MOST_BYTES
        for path in exports:
            if excess > 0 and _is_unused(path):
                excess -= _bytes_of(path)
                _remove(path.parent if path.name == EXPORT else path)


def _bytes_of(export: Path) -> int:
    files = export.parent.rglob("*") if export.name == EXPORT else [export]
    return sum(file.stat().st_size for file in files)


def _is_unused(path: Path) -> bool:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
