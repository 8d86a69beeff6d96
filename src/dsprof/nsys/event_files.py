"""The tables of CUDA events of an export that several nsys made: Arrow files, mapped into memory and read by column.

::

    export.sqlite            all other tables
    dsprof-events.json       of each table: its files, and which rows of each count
    0/, 1/, …                a folder of files for each stretch of time (`nsys.side_by_side`)

Nothing is decoded and nothing copied but what is not stored as 64 bits, so a part of a table costs what its rows cost.
Rows are told by their number, from 1 on, over all files of a table.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dsprof.arrays import NULL, Ints
from dsprof.nsys import schema

#: The tables that are kept so: columns of numbers, and nearly all rows of a large report.
TABLES = tuple(source.table for source in (schema.CALLS, *schema.OPERATIONS))
EXPORT, INDEX = "export.sqlite", "dsprof-events.json"
_FILE_FORMAT = b"ARROW1"


class _Piece(NamedTuple):
    """Rows of a table that lie in one file: the first, and how many; and how many bytes the file has."""

    file: str
    first: int
    rows: int
    bytes: int


class EventFiles:
    """The files of one export, opened when they are asked for. Raises OSError for a damaged index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            index = json.loads((folder / INDEX).read_text())
            self._pieces = {table: [_Piece(*piece) for piece in pieces] for table, pieces in index.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise OSError(f"{INDEX} is damaged") from error
        self._open: dict[str, list[pa.Table]] = {}

    def are_whole(self) -> bool:
        """Are all files there, to their ends?"""
        pieces = [(self._folder / piece.file, piece.bytes) for some in self._pieces.values() for piece in some]
        return all(file.is_file() and file.stat().st_size == size for file, size in pieces)

    def __contains__(self, table: str) -> bool:
        """Is there such a table?"""
        return table in self._pieces

    def columns(self) -> dict[str, list[str]]:
        """The columns of each table that there is."""
        return {table: self._tables(table)[0].column_names for table in self._pieces}

    def rows(self, table: str) -> int:
        """How many rows a table has."""
        return sum(piece.rows for piece in self._pieces[table])

    def read(self, table: str, columns: Sequence[str], rowids: tuple[int, int] | None) -> dict[str, Ints]:
        """Columns as int64, NULL where a row has no value; ``rowid`` may be among them. `rowids`: first and last row.

        Raises pyarrow's `ArrowInvalid` for what is no integer of 64 bits, and OSError for a file that is cut.
        """
        first, last = rowids or (1, self.rows(table))
        some = list(self._slices(table, max(first, 1), min(last, self.rows(table))))
        stored = {name: _int64([piece.column(name) for piece in some]) for name in columns if name != "rowid"}
        count = sum(piece.num_rows for piece in some)
        return {name: stored[name] if name in stored else max(first, 1) + np.arange(count) for name in columns}

    def strings(self) -> set[int]:
        """The ids of all strings that a column names."""
        found: set[int] = set()
        for table in self._pieces:
            for piece in self._tables(table):
                for name in filter(schema.REFERENCE.fullmatch, piece.column_names):
                    found.update(piece.column(name).unique().drop_null().to_pylist())
        return found

    def _slices(self, table: str, first: int, last: int) -> Iterator[pa.Table]:
        """The rows from `first` to `last`, of each file that has any."""
        begin = 1
        for piece in self._tables(table):
            low, high = max(first - begin, 0), min(last - begin + 1, piece.num_rows)
            if low < high:
                yield piece.slice(low, high - low)
            begin += piece.num_rows

    def _tables(self, table: str) -> list[pa.Table]:
        if table not in self._open:
            pieces = self._pieces[table]
            self._open[table] = [mapped(self._folder / one.file).slice(one.first, one.rows) for one in pieces]
        return self._open[table]


def event_files_of(export: Path) -> EventFiles | None:
    """The files that belong to an export; None for one that holds its events itself."""
    belongs = export.name == EXPORT and export.with_name(INDEX).is_file()
    return EventFiles(export.parent) if belongs else None


def mapped(file: Path) -> pa.Table:
    """An Arrow file of either format that nsys writes, as it lies on disk."""
    source = pa.memory_map(str(file))
    is_file = source.read(len(_FILE_FORMAT)) == _FILE_FORMAT
    source.seek(0)
    return (pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)).read_all()


def write_index(folder: Path, cuts: Sequence[int]) -> None:
    """Say of each table which rows count, of files by stretch: those that begin in it, in the order of their begin.

    The files of a stretch may hold more: what begins shortly before it or with the next one. Those whose rows have
    another order are written anew. `cuts`: the times between the stretches.
    """
    edges = [None, *cuts, None]
    index: dict[str, list[_Piece]] = {}
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        for table in TABLES:
            file = folder / str(number) / f"{table}.arrow"
            if file.is_file() and (piece := _piece(folder, file, low, high)).rows:
                index.setdefault(table, []).append(piece)
    (folder / INDEX).write_text(json.dumps(index))


def _piece(folder: Path, file: Path, low: int | None, high: int | None) -> _Piece:
    table = mapped(file)
    start = _int64([table.column("start")])
    if (start[1:] < start[:-1]).any():
        table = table.take(np.argsort(start, kind="stable"))
        start = _int64([table.column("start")])
        file = file.with_suffix(".sorted.arrow")
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    first, last = (edge if edge is None else int(np.searchsorted(start, edge)) for edge in (low, high))
    first, last = first or 0, len(start) if last is None else last
    return _Piece(str(file.relative_to(folder)), first, last - first, file.stat().st_size)


def _int64(pieces: Sequence[pa.ChunkedArray]) -> Ints:
    """Columns behind one another as int64, without a copy where they are one and stored so."""
    chunks = [chunk for piece in pieces for chunk in piece.chunks if len(chunk)]
    if chunks and all(chunk.null_count == len(chunk) for chunk in chunks):
        return np.broadcast_to(np.int64(NULL), sum(map(len, chunks)))
    found = [_numbers(chunk) for chunk in chunks]
    return found[0] if len(found) == 1 else np.concatenate([np.zeros(0, np.int64), *found])


def _numbers(chunk: pa.Array) -> Ints:
    whole = chunk if pa.types.is_int64(chunk.type) else chunk.cast(pa.int64())
    numbers: Ints = (whole.fill_null(NULL) if whole.null_count else whole).to_numpy(zero_copy_only=True)
    return numbers
