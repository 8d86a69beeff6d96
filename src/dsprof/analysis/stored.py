"""The results of an earlier run: used again while neither the report, nor the rules, nor dsprof has changed.

Beside its tables, a folder holds ``analysis.json``: what they were made from, the rules that were named for it, and
the summary. The folder is replaced whole (`dsprof.ground.swap`), so all that is in it is of one report and one set of
rules.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import pyarrow as pa
from attrs import evolve

import dsprof
from dsprof.analysis.named_rules import NamedRules, rules_of
from dsprof.analysis.parquet import Asked, Condition, parquet, read_parquet, read_rows_that
from dsprof.errors import NoReportInFolder, RulesUnreadable
from dsprof.findings import Finding
from dsprof.ground.documents import json_pieces
from dsprof.ground.swap import locked
from dsprof.nsys.reader import Progress
from dsprof.nsys.selection import ALL, Wanted
from dsprof.rules.rules import Rules
from dsprof.show.summary import TOP_KERNELS, Summary, top_kernels
from dsprof.tables import known_table
from dsprof.tables._table import SCHEMA_VERSION
from dsprof.trace import Report

if TYPE_CHECKING:
    from cattrs import Converter

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
_BEFORE_SUMMARY, _AT_ONCE, _LONGEST_HEAD = ', "summary": ', 1 << 14, 1 << 28
#: Opens what should be a file, and does not wait where somebody put a pipe in its place.
_OPEN = os.O_RDONLY | os.O_NONBLOCK
#: What reading a record that somebody changed may end with.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ExceptionGroup)


def identity(name: str, rules: Rules, wanted: Wanted = ALL) -> dict[str, Any]:
    """What results depend on beside the report's content: how it is called, what is selected, the rules, the code."""
    return {
        "schema": SCHEMA,
        "name": name,
        "selection": repr(wanted) if wanted != ALL else "",
        "rules": hashlib.sha256(repr(rules).encode()).hexdigest(),
        "code": _code(),
        "tables_schema": SCHEMA_VERSION,
    }


@cache
def _code() -> str:
    """A fingerprint of the package's files, so that no other version's results are taken for this one's."""
    package = Path(dsprof.__file__).parent
    files = sorted((str(path.relative_to(package)), path.stat()) for path in package.rglob("*.py"))
    seen = [(name, status.st_size, status.st_mtime_ns) for name, status in files]
    return hashlib.sha256(repr(seen).encode()).hexdigest()


def store(
    folder: Path, made_from: Mapping[str, Any], report: Mapping[str, Any], tables: Iterable[str], named: NamedRules,
    summary: Summary,
) -> None:  # fmt: skip
    """Say in a folder whose tables are written what they were made from; `report`: the record of an `Input`.

    The rules that were `named` are a text in the document: a key in them may be called as one of it.
    """
    files = {table: _signature((folder / f"{table}{_SUFFIX}").stat()) for table in sorted(tables)}
    document = {
        "made_from": made_from, "report": report, "tables": files, "rules": _text(named), "summary": summary,
    }  # fmt: skip
    with (folder / RECORD).open("w", encoding="ascii") as file:  # a file's name may be no UTF-8
        file.writelines(sealed(json_pieces(document)))


def _text(named: NamedRules) -> str:
    return "".join(sealed(json_pieces(named))) if named != NamedRules() else ""


def sealed(pieces: Iterable[str]) -> Iterator[str]:
    """The pieces of a JSON object with a last member: the hash of all that stands before it."""
    digest, last = hashlib.sha256(), ""
    for piece in pieces:
        digest.update(last.encode())
        yield last
        last = piece
    yield f'{_SEAL}{digest.hexdigest()}"{last}'


def unsealed(text: str) -> Any:
    """The object whose pieces `sealed` was given. Raises ValueError where it is another now."""
    before, _, seal = text.rpartition(_SEAL)
    if seal != hashlib.sha256(before.encode()).hexdigest() + '"}':
        raise ValueError("somebody changed what dsprof wrote")
    return json.loads(before + "}")


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
    text, end = "", -1
    while end < 0 and (more := record.read(_AT_ONCE)) and len(text) < _LONGEST_HEAD:
        seen = max(len(text) - len(_BEFORE_SUMMARY), 0)
        text += more
        end = text.find(_BEFORE_SUMMARY, seen)
    found: dict[str, Any] = json.loads(text[: end if end >= 0 else None] + "}")
    return found


def _recorded(path: Path) -> set[str]:
    """The files of the results that a record names, with itself; none where it is no record of dsprof."""
    with contextlib.suppress(*UNREADABLE):
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


class Stored:
    """Results in a folder as they were when it was opened; they stay readable when it is replaced.

    `handles`: descriptors of the tables' files by table, which are closed with this object.
    """

    def __init__(self, summary: Summary, handles: dict[str, int]) -> None:
        self._summary, self._handles = summary, handles
        weakref.finalize(self, _close, list(handles.values()))

    @property
    def report(self) -> Report:
        """What the report says of itself."""
        return self._summary.report

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the report lacks or hides."""
        return self._summary.findings

    @property
    def in_memory(self) -> bool:
        """They are written already."""
        return True

    def arrow(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The table `name` as Arrow, from its file, also if that has no name any more. Raises `UnknownTable`.

        `columns`: some of its columns alone.
        """
        with self.file(name) as file:
            return read_parquet(file, columns)

    def rows_where(self, *asked: Asked) -> list[pa.Table]:
        """Columns of those rows of each table for which all its conditions hold. Raises `UnknownTable`."""
        return [self._rows(*one) for one in asked]

    def _rows(self, name: str, columns: Sequence[str], conditions: Sequence[Condition]) -> pa.Table:
        with self.file(name) as file:
            return read_rows_that(file, columns, conditions)

    def file(self, name: str) -> BinaryIO:
        """The Parquet file of a table, opened. Raises `UnknownTable`."""
        known_table(name)
        return self._file(name).open("rb")

    def _file(self, name: str) -> Path:
        return Path(f"/proc/self/fd/{self._handles[name]}")

    def summary(self, top: int = TOP_KERNELS) -> Summary:
        """The first screen as data, with the `top` kernels of each stage."""
        if top == TOP_KERNELS or "stage_kern_sum" not in self._handles:
            return self._summary
        return evolve(self._summary, top_kernels=tuple(top_kernels(self.arrow("stage_kern_sum"), top)))

    def write(self, names: Iterable[str], folder: Path, progress: Progress) -> None:
        """Copy the files of some tables. Raises OSError."""
        for name in names:
            progress(f"writing {name}")
            shutil.copyfile(self._file(name), parquet(folder, name))


def _close(handles: Iterable[int]) -> None:
    for handle in handles:
        os.close(handle)


def remembered(folder: Path, report: Input) -> NamedRules:
    """The rules that were named for the tables in a folder, if those are of this report; else none.

    Raises `RulesUnreadable` where somebody changed them, or another dsprof wrote them otherwise.
    """
    text = ""
    with contextlib.suppress(*UNREADABLE), locked(folder, exclusive=False) as place, _opened(place) as file:
        document = _head(file)
        if document.get("rules") and report.is_of(document["report"]):
            text = str(document["rules"])
    try:
        return rules_of(unsealed(text)) if text else NamedRules()
    except ValueError as error:
        raise RulesUnreadable(
            f"The rules that the tables in {folder} were made with cannot be used again: {error}.",
            "With --default-rules they are left aside (remembered=False in Python); name those that you want.",
        ) from error


def _opened(folder: int) -> TextIO:
    """The record in a folder. Raises OSError."""
    return open(os.open(RECORD, _OPEN, dir_fd=folder), encoding="ascii")  # noqa: PTH123


def find(
    folder: Path, made_from: Mapping[str, Any], report: Input, tables: Iterable[str], named: NamedRules
) -> Stored | None:
    """The results in a folder, if they are of this very report, rules and code, and hold the tables."""
    for _ in range(_TRIES):
        try:
            return _find(folder, made_from, report, set(tables), named) if (folder / RECORD).exists() else None
        except FileNotFoundError:  # a folder that is replaced while it is opened
            continue
        except UNREADABLE:
            break
    return None


def _find(
    folder: Path, made_from: Mapping[str, Any], report: Input, tables: set[str], named: NamedRules
) -> Stored | None:
    with locked(folder, exclusive=False) as place, contextlib.ExitStack() as opened:
        with _opened(place) as file:
            document = _head(file)
            file.seek(0)
            summary = file.read()
        if document["made_from"] != made_from or not tables <= set(document["tables"]):
            return None
        if document.get("rules", "") != _text(named):  # who opens them next would have other ones
            return None
        handles = {}
        for name, signature in document["tables"].items():
            handles[name] = os.open(f"{name}{_SUFFIX}", _OPEN, dir_fd=place)
            opened.callback(os.close, handles[name])
            if _signature(os.fstat(handles[name])) != signature:
                return None
        if not report.is_of(document["report"]):
            return None
        found = Stored(_summary(unsealed(summary)["summary"]), handles)
        opened.pop_all()
        return found


def open_folder(folder: Path, tables: Iterable[str]) -> tuple[Stored, NamedRules] | None:
    """The results in a folder whose report nobody asks for, and the rules that were named for them; None without any.

    Raises `NoReportInFolder` where another dsprof made them, or a table is missing.
    """
    try:
        with locked(folder, exclusive=False) as place, contextlib.ExitStack() as opened:
            with _opened(place) as file:
                document = unsealed(file.read())
            if document["made_from"]["code"] != _code() or not set(tables) <= set(document["tables"]):
                raise NoReportInFolder(
                    f"The tables in {folder} are of another dsprof, or not all are there.", "Name their report instead."
                )
            handles = {}
            for name in document["tables"]:
                handles[name] = os.open(f"{name}{_SUFFIX}", _OPEN, dir_fd=place)
                opened.callback(os.close, handles[name])
            text = document.get("rules", "")
            rules = rules_of(unsealed(text)) if text else NamedRules()
            found = Stored(_summary(document["summary"]), handles)
            opened.pop_all()
            return found, rules
    except UNREADABLE:
        return None


def _summary(document: Any) -> Summary:
    return _converter().structure(document, Summary)


@cache
def _converter() -> Converter:
    """What makes summaries: kept, as it takes longer to make than to use."""
    from cattrs import Converter

    converter = Converter()
    for kind in (int, float):  # a number that has no value is None, whatever its kind
        converter.register_structure_hook(kind, lambda value, _: value)
    return converter
