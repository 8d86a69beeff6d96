"""The results of an earlier run: used again while neither the report, nor the rules, nor dsprof has changed.

Beside its tables, a folder holds ``analysis.json``: what they were made from, and the summary. The folder is replaced
whole (`dsprof.swap`), so all that is in it is of one report and one set of rules.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from attrs import frozen

import dsprof
from dsprof.documents import json_pieces
from dsprof.ranged import Rules
from dsprof.summary import Summary
from dsprof.swap import locked
from dsprof.table import SCHEMA_VERSION

if TYPE_CHECKING:
    from dsprof.nsys.inputs import Input

RECORD = "analysis.json"
SCHEMA = "dsprof.analysis/2"
#: How the records of all versions begin.
_ANY_SCHEMA = "dsprof.analysis/"
_SUFFIX = ".parquet"
#: How often a folder is opened again that was replaced in between.
_TRIES = 5
#: What ends a record, before the hash of all that stands before it.
_SEAL = ', "sha256": "'
#: What is written before the summary in a record, how much of one is read at once, and how much comes before at most.
_BEFORE_SUMMARY, _AT_ONCE, _LONGEST_HEAD = ', "summary": ', 1 << 14, 1 << 20
#: Opens what should be a file, and does not wait where somebody put a pipe in its place.
_OPEN = os.O_RDONLY | os.O_NONBLOCK
#: What reading a record that somebody changed may end with.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ExceptionGroup)


def identity(name: str, rules: Rules) -> dict[str, Any]:
    """What results depend on beside the report's content: how it is called, the rules, and the code."""
    return {
        "schema": SCHEMA,
        "name": name,
        "rules": hashlib.sha256(repr(rules).encode()).hexdigest(),
        "code": _code(),
        "tables_schema": SCHEMA_VERSION,
    }


def _code() -> str:
    """A fingerprint of the package's files, so that no other version's results are taken for this one's."""
    package = Path(dsprof.__file__).parent
    files = sorted((str(path.relative_to(package)), path.stat()) for path in package.rglob("*.py"))
    seen = [(name, status.st_size, status.st_mtime_ns) for name, status in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def store(
    folder: Path, made_from: Mapping[str, Any], report: Mapping[str, Any], tables: Iterable[str], summary: Summary
) -> None:
    """Say in a folder whose tables are written what they were made from; `report`: the record of an `Input`."""
    files = {table: _signature((folder / f"{table}{_SUFFIX}").stat()) for table in sorted(tables)}
    document = {"made_from": made_from, "report": report, "tables": files, "summary": summary}
    with (folder / RECORD).open("w", encoding="ascii") as file:  # a file's name may be no UTF-8
        file.writelines(_sealed(json_pieces(document)))


def _sealed(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of a JSON object with a last member: the hash of all that stands before it."""
    digest, last = hashlib.sha256(), ""
    for piece in pieces:
        digest.update(last.encode())
        yield last
        last = piece
    yield f'{_SEAL}{digest.hexdigest()}"{last}'


def _unsealed(text: str) -> Any:
    """The object that `_sealed` wrote. Raises ValueError where it is another now."""
    before, _, seal = text.rpartition(_SEAL)
    if seal != hashlib.sha256(before.encode()).hexdigest() + '"}':
        raise ValueError("it is not as it was written")
    return json.loads(text)


def _signature(status: os.stat_result) -> list[int]:
    """Size and time of a table's file, by which one that somebody changed is told."""
    return [status.st_size, status.st_mtime_ns]


def strangers(folder: Path) -> list[str]:
    """The names in a folder of results that dsprof did not write, sorted; a folder that is not there has none."""
    recorded = _recorded(folder / RECORD)
    with contextlib.suppress(FileNotFoundError):
        return sorted(entry.name for entry in os.scandir(folder) if not _is_ours(entry, recorded))
    return []


def _is_ours(entry: os.DirEntry[str], recorded: set[str]) -> bool:
    """Is it of a record, a table by its own word, or what a running or ended dsprof or NFS left?"""
    if entry.name.startswith((".writing-", ".nfs")):
        return True
    if not entry.is_file(follow_symlinks=False):
        return False
    return entry.name in recorded or (entry.name.endswith(_SUFFIX) and _is_table(Path(entry.path)))


def _head(record: TextIO) -> dict[str, Any]:
    """What a record says before its summary, which may be long. Raises ValueError where it is no record."""
    text = ""
    while _BEFORE_SUMMARY not in text and (more := record.read(_AT_ONCE)) and len(text) < _LONGEST_HEAD:
        text += more
    found: dict[str, Any] = json.loads(text.partition(_BEFORE_SUMMARY)[0] + "}")
    return found


def _recorded(path: Path) -> set[str]:
    """The files of the results that a record names, with itself; none where it is no record of dsprof."""
    with contextlib.suppress(*_UNREADABLE):
        if stat.S_ISREG(path.lstat().st_mode):
            with path.open(encoding="ascii") as file:
                document = _head(file)
            if str(document["made_from"]["schema"]).startswith(_ANY_SCHEMA):
                return {RECORD, *(f"{name}{_SUFFIX}" for name in document["tables"])}
    return set()


def _is_table(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with contextlib.suppress(OSError, pa.ArrowException), path.open("rb") as file:
        return b"dsprof.table_schema" in (pq.read_schema(file).metadata or {})
    return False


@frozen(eq=False)
class Results:
    """The results in a folder as they were when it was opened; they stay readable when it is replaced."""

    summary: Summary
    #: Of the tables' files, by table: descriptors that are closed with this object.
    handles: dict[str, int]

    def __attrs_post_init__(self) -> None:
        weakref.finalize(self, _close, list(self.handles.values()))

    def table(self, name: str) -> Path:
        """The file of a table, also if it has no name any more."""
        return Path(f"/proc/self/fd/{self.handles[name]}")

    def copy(self, name: str, target: Path) -> None:
        """Copy the file of a table. Raises OSError."""
        shutil.copyfile(self.table(name), target)


def _close(handles: Iterable[int]) -> None:
    for handle in handles:
        os.close(handle)


def find(folder: Path, made_from: Mapping[str, Any], report: Input, tables: Iterable[str]) -> Results | None:
    """The results in a folder, if they are of this very report, rules and code, and hold the tables."""
    for _ in range(_TRIES):
        try:
            return _find(folder, made_from, report, set(tables)) if (folder / RECORD).exists() else None
        except FileNotFoundError:  # a folder that is replaced while it is opened
            continue
        except _UNREADABLE:
            break
    return None


def _find(folder: Path, made_from: Mapping[str, Any], report: Input, tables: set[str]) -> Results | None:
    with locked(folder, exclusive=False) as place, contextlib.ExitStack() as opened:
        with open(os.open(RECORD, _OPEN, dir_fd=place), encoding="ascii") as file:  # noqa: PTH123
            document = _head(file)
            file.seek(0)
            summary = file.read()
        if document["made_from"] != made_from or not tables <= set(document["tables"]):
            return None
        handles = {}
        for name, signature in document["tables"].items():
            handles[name] = os.open(f"{name}{_SUFFIX}", _OPEN, dir_fd=place)
            opened.callback(os.close, handles[name])
            if _signature(os.fstat(handles[name])) != signature:
                return None
        if not report.is_of(document["report"]):
            return None
        found = Results(_summary(_unsealed(summary)["summary"]), handles)
        opened.pop_all()
        return found


def _summary(document: Any) -> Summary:
    from cattrs import Converter

    converter = Converter()
    for kind in (int, float):  # a number that has no value is None, whatever its kind
        converter.register_structure_hook(kind, lambda value, _: value)
    return converter.structure(document, Summary)
