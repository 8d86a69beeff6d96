"""A packed SQLite export, unpacked: known by its first bytes before anything is written, and bounded in its size."""

from __future__ import annotations

import gzip
import itertools
import lzma
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from dsprof.errors import NoSpace, NotAReport, ReportDamaged, ReportEmpty
from dsprof.nsys.sound import SQLITE, stated_bytes

#: How many times its size a packed export may take: real ones take four to ten times, a bomb thousands.
_MOST_TIMES, _ALWAYS_BYTES = 200, 256 << 20
#: Memory that a packed file may ask for to be unpacked: xz's own greatest presets ask for 65 MB.
_MEMORY_BYTES = 256 << 20
_CHUNK = 1 << 20
#: What is left free of a disk.
_SPARE_BYTES = 64 << 20

Chunks = Callable[[BinaryIO], Iterator[bytes]]


def _xz(file: BinaryIO) -> Iterator[bytes]:
    """What is in an xz file, of one stream or several."""
    rest = b""
    while rest or (rest := file.read(_CHUNK)):
        stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY_BYTES)
        while not stream.eof:
            if stream.needs_input and not rest and not (rest := file.read(_CHUNK)):
                raise EOFError("it ends before its content does")
            yield stream.decompress(rest, _CHUNK)
            rest = b""
        rest = stream.unused_data.lstrip(b"\0")  # streams may be padded


def _gzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.GzipFile(fileobj=file) as packed:
        while chunk := packed.read(_CHUNK):
            yield chunk


_PACKED: dict[bytes, Chunks] = {b"\xfd7zXZ\x00": _xz, b"\x1f\x8b": _gzip}


def unpacker(head: bytes) -> Chunks | None:
    """What unpacks a file that begins like this; None for one that is not packed."""
    return next((chunks for magic, chunks in _PACKED.items() if head.startswith(magic)), None)


def unpack(packed: Path, chunks: Chunks, target: Path) -> None:
    """Unpack the export `packed` to `target`.

    Raises `NotAReport` (no export, or far too large a one), `ReportEmpty`, `ReportDamaged`, `NoSpace`, OSError.
    """
    try:
        with packed.open("rb") as file:
            content = chunks(file)
            first = next((chunk for chunk in content if chunk), b"")
            size = _refuse_others(packed, first)
            _refuse_large(packed, size, target.parent)
            _write(packed, itertools.chain([first], content), size, target)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise ReportDamaged(f"{packed.name} is cut or damaged ({error}).", "Copy it again.") from error


def _refuse_others(packed: Path, first: bytes) -> int:
    """The size that the export says it has. Raises where it is none."""
    if not first:
        raise ReportEmpty(f"{packed.name} holds no bytes.", "The recording or the copy broke off: pack it again.")
    if not first.startswith(SQLITE):
        raise NotAReport(f"{packed.name} holds no SQLite export.", "Unpack it, and name the report that is in it.")
    return stated_bytes(first)


def _refuse_large(packed: Path, size: int, folder: Path) -> None:
    """Refuse what is out of proportion, and what has no room."""
    if size > max(_MOST_TIMES * packed.stat().st_size, _ALWAYS_BYTES):
        raise NotAReport(
            f"{packed.name} says that it unpacks to {size / 1e9:.1f} GB, out of all proportion to its size.",
            "Unpack it yourself if you trust it, and name the .sqlite file.",
        )
    free = shutil.disk_usage(folder).free
    if size + _SPARE_BYTES > free:
        raise NoSpace(
            f"{packed.name} unpacks to {size / 1e6:.0f} MB, and {folder} has {free / 1e6:.0f} MB free.",
            "Make room, or name another folder for unpacked files with the variable DSPROF_CACHE.",
        )


def _write(packed: Path, content: Iterator[bytes], size: int, target: Path) -> None:
    """Write about what the export says it has, and no more."""
    written = 0
    with target.open("wb") as file:
        for chunk in content:
            written += len(chunk)
            if written > size + _SPARE_BYTES:
                raise ReportDamaged(
                    f"{packed.name} is damaged: more is in it than the {size} bytes that it says.", "Copy it again."
                )
            file.write(chunk)
