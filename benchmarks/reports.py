"""The reports that are measured: synthetic ones, made once and kept; real ones, unpacked where they are packed."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import synth

import trace_builder
from dsprof.nsys.schema import KERNEL

_PACKED = {".xz": lzma.open, ".gz": gzip.open}


def usual_folder() -> Path:
    """Where synthetic reports are kept: ``dsprof/bench`` in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dsprof" / "bench"


def synthetic(folder: Path, kernels: int) -> Path:
    """The synthetic report of at least `kernels` kernels in `folder`, made where it is missing.

    Its name holds a hash of what makes it, so that a changed generator makes it anew; the old one is removed.
    """
    sources = [Path(str(module.__file__)).read_bytes() for module in (synth, trace_builder)]
    path = folder / f"synthetic-{kernels}-{hashlib.sha256(b''.join(sources)).hexdigest()[:8]}.sqlite"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"synthetic-{kernels}-*.sqlite"):
        old.unlink()
    say(f"making a synthetic report of {kernels} kernels")
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        synth.make(partial, kernels)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def unpacked(report: Path, folder: Path) -> Path:
    """An SQLite export as it can be opened: the file itself, or what is packed in it, written to `folder`."""
    opening = _PACKED.get(report.suffix)
    if opening is None:
        return report
    target = folder / report.stem
    with opening(report, "rb") as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
    return target


def kernels_in(export: Path) -> int:
    """Rows of the kernels' table; 0 where there is none."""
    with closing(sqlite3.connect(f"file:{export}?mode=ro", uri=True)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (KERNEL,)).fetchone():
            return 0
        return int(database.execute(f"SELECT count(*) FROM {KERNEL}").fetchone()[0])  # noqa: S608


def say(sentence: str) -> None:
    """Tell on stderr what is being done."""
    print(sentence, file=sys.stderr, flush=True)
