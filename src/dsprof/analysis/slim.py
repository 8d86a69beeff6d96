"""Slim recordings: of an analyzed report what a comparison reads, small enough for a repository.

::

    baselines/main/                    a baseline: a name, and the recordings of its runs
        run-1-6f0c1d2e/                a recording, called after its report and that one's hash
            recording.json             what it says of itself, and the SHA-256 of each of its files
            stage_trace.parquet …      tables of steps, stages, families and kernels; none of events

What it says is the same as that of the folder that it was made of, so both are compared by the same code.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import asdict

from dsprof.analysis.parquet import parquet, read_parquet, write_table
from dsprof.analysis.stored import UNREADABLE, sealed, unsealed
from dsprof.compare.recordings import KEPT, NEEDED, OPERATIONS, SEQUENCE, About, Recording
from dsprof.errors import OutputRefused, TablesUnreadable
from dsprof.ground.documents import json_pieces, text_of
from dsprof.ground.swap import replacing

RECORD = "recording.json"
SCHEMA = "dsprof.recording/1"
#: The folder of all baselines, unless another one is named.
FOLDER = "baselines"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TABLES = (*KEPT, OPERATIONS.name, SEQUENCE.name)
#: So many digits of a report's hash tell it from others of its name.
_DIGITS = 8


def baseline_named(name: str, folder: Path) -> Path:
    """The folder of a baseline. Raises ValueError for what can be no name of one."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"'{name[:80]}' is no name of letters, digits, '.', '_' and '-'.")
    return folder / name


def baselines(folder: Path) -> dict[str, list[str]]:
    """The names of the baselines in a folder, each with those of its recordings; none where there is no such folder."""
    found = {}
    for inside in sorted(_folders(folder)):
        if recordings := sorted(one.name for one in _folders(inside) if is_slim(one)):
            found[inside.name] = recordings
    return found


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")]


def is_slim(folder: Path) -> bool:
    """Is a folder a slim recording?"""
    return os.path.isfile(folder / RECORD)  # noqa: PTH113  Path raises for a name that is too long


def write_slim(recording: Recording, baseline: Path) -> Path:
    """Put a recording into a baseline, in place of one of the same report; its folder.

    Raises `OutputRefused` where it cannot be written.
    """
    about = recording.about
    stem = re.sub(r"[^A-Za-z0-9._-]", "-", about.name)[:80].strip(".-") or "run"
    target = baseline / (f"{stem}-{about.sha256[:_DIGITS]}" if about.sha256 else stem)
    try:
        with replacing(target, _strangers, last=RECORD) as fresh:
            hashes = {}
            for name in _TABLES:
                if (table := recording.table(name)) is not None:
                    content = io.BytesIO()
                    write_table(_bare(table), content)
                    parquet(fresh, name).write_bytes(content.getbuffer())
                    hashes[name] = hashlib.sha256(content.getbuffer()).hexdigest()
            document = {"schema": SCHEMA, "about": asdict(about), "files": hashes}
            (fresh / RECORD).write_text("".join(sealed(json_pieces(document))) + "\n", encoding="ascii")
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputRefused(
            f"The baseline {target} cannot be written ({reason}).", "Name another folder with --out."
        ) from error
    return target


def _bare(table: pa.Table) -> pa.Table:
    """A table without what describes its columns, which takes more room than the columns."""
    return table.cast(pa.schema([pa.field(one.name, one.type, one.nullable) for one in table.schema]))


def _strangers(folder: Path) -> list[str]:
    ours = {RECORD, *(f"{name}.parquet" for name in _TABLES)}
    names = sorted(entry.name for entry in os.scandir(folder)) if folder.exists() else []
    return [name for name in names if name not in ours and not name.startswith((".writing-", ".nfs"))]


def read_slim(folder: Path) -> Recording:
    """The recording in a folder. Raises `TablesUnreadable` where it is not as it was written."""
    try:
        document = unsealed(text_of(folder / RECORD).rstrip("\n"))
        if document["schema"] != SCHEMA:
            raise ValueError(f"it is of the form {str(document['schema'])[:40]}, and this dsprof reads {SCHEMA}")
        about = _about(document["about"])
        hashes = {str(name): str(digest) for name, digest in document["files"].items() if name in _TABLES}
    except UNREADABLE as error:
        raise _damaged(folder, str(error)) from error
    if missing := [name for name in NEEDED if name not in hashes]:
        raise _damaged(folder, f"it lacks {', '.join(missing)}")
    try:
        return Recording(about, _Checked(folder, hashes)).check()
    except ValueError as error:
        raise _damaged(folder, str(error)) from error


def _about(document: Any) -> About:
    from cattrs import Converter

    try:
        return Converter().structure(document, About)
    except ExceptionGroup as error:
        raise ValueError("what it says of itself has another form") from error


class _Checked(Mapping[str, pa.Table]):
    """Tables that are read, and held against their hashes, when they are asked for."""

    def __init__(self, folder: Path, hashes: Mapping[str, str]) -> None:
        self._folder, self._hashes = folder, hashes
        self._tables: dict[str, pa.Table] = {}

    def __getitem__(self, name: str) -> pa.Table:
        if name not in self._tables:
            self._tables[name] = self._read(name, self._hashes[name])
        return self._tables[name]

    def _read(self, name: str, digest: str) -> pa.Table:
        try:
            content = parquet(self._folder, name).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise ValueError(f"{name} is not as it was written")
            return read_parquet(pa.BufferReader(content))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(self._folder, str(error)) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._hashes)

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, name: object) -> bool:
        return name in self._hashes


def _damaged(folder: Path, reason: str) -> TablesUnreadable:
    hint = "Put it there again with `dsprof baseline add`, or take it away."
    return TablesUnreadable(f"The recording {folder} of a baseline cannot be read: {reason.rstrip('.')}.", hint)
