"""The file that is read: what it is called, what is in it, and whether it stayed as it was.

A report is known by its content, not by its name and time: ``cp -p`` keeps both and brings another recording. What the
file system says of a file (`Seen`) is a shortcut for large ones alone, and never for one that changed a moment ago.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import astuple

from dsprof.errors import ReportChanging, ReportMissing
from dsprof.records import frozen

#: Files up to this size are always hashed whole: it takes less than 50 ms.
_WHOLE_BYTES = 64 << 20
#: Of larger ones that look the same, so many blocks of so many bytes are.
_BLOCKS, _BLOCK_BYTES = 64, 64 << 10
#: A file that changed so shortly before it was looked at may change again within one tick of the file system's clock.
_RECENT_NS = 2 * 10**9


@frozen
class Seen:
    """What the file system says of a file; no user can set `changed_ns`."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int

    @classmethod
    def of(cls, path: Path) -> Seen:
        """As it is now. Raises `ReportMissing`."""
        try:
            status = path.stat()
        except OSError as error:
            raise ReportMissing(f"{path} cannot be read ({error.strerror}).", "See whether it is there.") from error
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)

    def is_recent(self, looked_ns: int) -> bool:
        """Had the file, when it was looked at, changed so shortly before that another change might not show?"""
        return self.changed_ns > looked_ns - _RECENT_NS


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits. Raises `ReportMissing`."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ReportMissing(f"{path} cannot be read ({error.strerror}).", "See who may read it.") from error


class Input:
    """A file to read, for the report called `name`; `sha256` is that of the report, where it is known already.

    `kept`: the file is our own copy, which nobody writes to; `seen`: the file as it is first looked at. Raises
    `ReportMissing`.
    """

    def __init__(self, path: Path, name: str = "", sha256: str = "", kept: bool = False) -> None:
        self.path, self.name, self.kept = path, name or path.name, kept
        self._looked_ns, self.seen = time.time_ns(), Seen.of(path)
        self._recent = not kept and self.seen.is_recent(self._looked_ns)
        self._before = sha256_of(path) if self._recent else ""
        self._sha256 = sha256 or self._before

    @property
    def sha256(self) -> str:
        """The hash of the report, by which results are known."""
        if not self._sha256:
            self._sha256 = sha256_of(self.path)
        return self._sha256

    def check(self) -> None:
        """See that nobody wrote the file since it was first looked at. Raises `ReportChanging`."""
        if self.kept:
            return
        same = _is_as(self.path, self.seen)
        if same and self._recent:  # once: what comes later has another time
            self._recent = False
            same = sha256_of(self.path) == self._before
        if not same:
            raise changing(self.name)

    # -- results that are used again

    def record(self) -> dict[str, Any]:
        """What tells later whether a file is this one."""
        return {
            "sha256": self.sha256,
            "seen": astuple(self.seen),
            "looked_ns": self._looked_ns,
            "sample": _sample(self.path) if self.seen.size > _WHOLE_BYTES else "",
        }

    def is_of(self, record: Mapping[str, Any]) -> bool:
        """Is the content that of the report of which `record` is? Known without reading all of a large file."""
        if not self._sha256 and self.seen.size > _WHOLE_BYTES and record["seen"] == list(astuple(self.seen)):
            settled = not self.seen.is_recent(int(record["looked_ns"]))
            if settled and record["sample"] == _sample(self.path):
                self._sha256 = str(record["sha256"])
        return self.sha256 == str(record["sha256"])


def _is_as(path: Path, before: Seen) -> bool:
    try:
        return Seen.of(path) == before
    except ReportMissing:
        return False


def changing(name: str) -> ReportChanging:
    """The error for a file that somebody writes to."""
    return ReportChanging(
        f"{name} changed while it was read.", "Wait until the program that writes it has ended, then try again."
    )


def _sample(path: Path) -> str:
    """The hash of blocks of a large file, evenly spread, its first and last among them."""
    digest, size = hashlib.sha256(), path.stat().st_size
    with path.open("rb") as file:
        for number in range(_BLOCKS):
            file.seek((size - _BLOCK_BYTES) * number // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()
