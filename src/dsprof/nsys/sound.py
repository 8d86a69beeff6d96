"""Is an SQLite file whole: not cut, not in the middle of a change, and as SQLite itself says that it must be?

`name` is what users call the file.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from dsprof.errors import ReportDamaged

SQLITE = b"SQLite format 3\x00"

#: What SQLite says of a file rather than of a statement or of itself: it cannot be read, is corrupt, is no database.
_OF_THE_FILE = (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def stated_size(database: Path) -> int:
    """Bytes that an SQLite file says it has."""
    with database.open("rb") as file:
        return stated_bytes(file.read(32))


def stated_bytes(head: bytes) -> int:
    """The same from the file's first bytes: its page size times its pages."""
    page = int.from_bytes(head[16:18], "big")
    return (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")


def uri_of(path: Path) -> str:
    """The URI under which SQLite reads a file, and writes nothing beside it."""
    return f"file:{quote(os.fsencode(path.resolve()))}?mode=ro&immutable=1"


def read_only(path: Path) -> sqlite3.Connection:
    """A connection that writes nothing, neither into the file nor beside it."""
    return sqlite3.connect(uri_of(path), uri=True)


def damaged(name: str, reason: object) -> ReportDamaged:
    """The error for a file that cannot be read to its end, or contradicts itself."""
    return ReportDamaged(
        f"{name} is cut or damaged ({reason}).",
        "Export the report again with `nsys export --type=sqlite`, and see whether the disk is full.",
    )


def refuse_cut(path: Path, name: str) -> None:
    """Refuse a file shorter than it says."""
    size, stated = path.stat().st_size, stated_size(path)
    if size < stated:
        raise damaged(name, f"{size} bytes of {stated}")


def refuse_unfinished(path: Path, name: str) -> None:
    """Refuse a file whose last changes are beside it: read as immutable, it would be an older or a torn one.

    SQLite looks for them beside the file itself; some of its versions, where a link names it, beside the link.
    """
    for file in {path.absolute(), path.resolve()}:
        for suffix in ("-wal", "-journal"):
            beside = file.with_name(file.name + suffix)
            if beside.is_file() and _holds_changes(beside):
                raise ReportDamaged(
                    f"{name} is being written, or a program that wrote it broke off: there is {beside.name}.",
                    "Let that program end, or open the file once with sqlite3, or export the report again.",
                )


def _holds_changes(beside: Path) -> bool:
    """SQLite empties the one when it is done, and clears the head of the other; what cannot be read may hold some."""
    try:
        with beside.open("rb") as file:
            return file.read(1) not in (b"", b"\0")
    except OSError:
        return True


def check_file(path: Path, name: str) -> None:
    """Have SQLite look at every page and every row of a file. Raises `ReportDamaged` with what it found.

    It alone knows all that must hold, and it looks where no query of ours does: two tables that share a page, a row
    that two pages hold, one that differs from what an index says. About 4 ms for each MB, and more where users added
    indexes, without Python's lock: meant to be done beside other work, and once of an export that dsprof keeps.
    """
    try:
        with closing(read_only(path)) as database:
            database.text_factory = bytes
            ((found,),) = database.execute("PRAGMA integrity_check(1)")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in _OF_THE_FILE:
            raise damaged(name, error) from error
        return  # it could not look: a module or a collation that only another program has
    except UnicodeDecodeError as error:  # a sentence that quotes what is damaged
        raise damaged(name, "its schema is no text") from error
    if found != b"ok":
        raise damaged(name, found.decode("utf-8", "replace").splitlines()[-1])
