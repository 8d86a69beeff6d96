"""Integer columns of a large SQLite table, read straight from the pages of its file.

A second way to what SQL gives, several times faster, for files that are exactly what this module knows: whatever
is unusual (WAL, overflowing rows, text or floats in a column that is asked for, damage of any kind) makes it say
`None`, and then the caller takes SQL. It never guesses. The file format is that of
https://www.sqlite.org/fileformat2.html.

::

    page (leaf)   | kind count .. | pointers to cells ->      <- cells |
    cell          | payload size | rowid | header: its length, a type for each column | values |

Most rows of a table share a few headers. So the rows of some hundred pages are numbered by their header, the places
and widths of the values are worked out once for each header, and a column is one gather of eight bytes for each row,
shifted to its width.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from dsprof.arrays import NULL, Bools, Ints, backend
from dsprof.nsys.sound import SQLITE, uri_of
from dsprof.records import frozen

Words = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]

_GREATEST, _LEAST = np.iinfo(np.int64).max, np.iinfo(np.int64).min
_INTERIOR, _LEAF = 5, 13
_DEEPEST = 20  # levels: SQLite's own limit (BTCURSOR_MAX_DEPTH)
_LOCK_BYTE = 1 << 30  # the page at this place of the file holds no data

#: So many bytes of pages are worked on at once: few enough for a cache, many enough that numpy's calls cost little.
_BATCH = 2 << 20
#: Pages with no more than so many others between them are read at once, and the others with them.
_GAP = 3
#: A buffer begins with the values that need no bytes in a row, and ends so far after the last page that no load from
#: within a page (11 bytes of sizes and a header of at most 127) leaves it.
_FRONT, _BEHIND = 32, 256
_AT_NULL, _AT_ZERO, _AT_ONE = 0, 8, 16

#: Bytes of a value by its type in the header; the types from 12 on are blobs and texts of (type - 12) // 2 bytes.
_SIZE = np.array([0, 1, 2, 3, 4, 6, 8, 8, 0, 0, 0, 0], np.int64)
_IS_INTEGER = np.array([1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 0], np.bool_)
_FLOAT_NAMES = ("REAL", "FLOA", "DOUB")
#: An odd number that spreads the bits of a header (2**64 over the golden ratio) over so many slots, and how often
#: rows are tried again whose header met another one in its slot.
_SPREAD, _SLOT_BITS, _ROUNDS = np.uint64(0x9E3779B97F4A7C15), 16, 3
#: The longest header whose length has one byte.
_LONGEST = 127


class _NotKnown(Exception):
    """The file, table or row is not what this module knows; never leaves it."""


class Pages:
    """A file, opened for reading; every table is `None` where the file is not of the kind that is known here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: _File | None = None

    def __enter__(self) -> Pages:
        try:
            self._file = _File(self._path)
        except (_NotKnown, OSError, sqlite3.Error):
            self._file = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def table(self, name: str) -> PageTable | None:
        """The table of that name, or `None` where SQL has to be asked."""
        if not self._file:
            return None
        try:
            with self._file.asking:
                root, columns = _declared(self._file.sql, name)
            return PageTable(self._file, columns, *_walk(self._file, root))
        except (_NotKnown, OSError, sqlite3.Error, UnicodeDecodeError):  # the last from a message that quotes a schema
            return None


@frozen(eq=False)
class PageTable:
    """A table as its leaf pages: their numbers in the order of rowids, and the greatest rowid each may hold."""

    _file: _File
    _columns: dict[str, _Column]
    leaves: Ints
    edges: Ints

    def read(
        self,
        columns: Sequence[str],
        rowids: tuple[int, int] | None = None,
        null: int = NULL,
        where: tuple[str, Collection[int]] | None = None,
    ) -> dict[str, Ints] | None:
        """Integer columns of the table in the order of rowids, or `None` where SQL has to be asked.

        `columns` may name ``rowid``. `rowids` bounds the rows (both ends included), `where` keeps those whose value
        in a column is one of some integers. `null` stands for NULL.
        """
        try:
            return self._read(columns, rowids or (_LEAST, _GREATEST), null, where)
        except (_NotKnown, OSError):
            return None

    def _read(
        self,
        columns: Sequence[str],
        rowids: tuple[int, int],
        null: int,
        where: tuple[str, Collection[int]] | None,
    ) -> dict[str, Ints]:
        if where and null in where[1]:
            raise _NotKnown
        chosen = [self._column(name) for name in columns]
        filtered = self._column(where[0]) if where else None
        deepest = max((one.index + 1 for one in (*chosen, *([filtered] if filtered else []))), default=0)
        if deepest > 126:
            raise _NotKnown
        low, high = (min(max(bound, _LEAST), _GREATEST) for bound in rowids)
        first, last = np.searchsorted(self.edges, [low, high])
        last += 2  # one page more than may hold them, whose rows must lie behind: so a wrong edge is found
        leaves = self.leaves[first:last]
        edges = np.concatenate([self.edges[first - 1 : first] if first else [_LEAST], self.edges[first:last]])
        sink = _Sink(dict(zip(columns, chosen, strict=True)), len(leaves))
        done = 0
        for block in self._file.blocks(leaves, null):
            after = done + len(block.starts)
            rows = _rows(block, edges[done : after + 1], len(self.leaves) == 1, deepest, (low, high))
            if rows and filtered and where:
                rows = rows.kept(filtered, where[1])
            if rows:
                sink.take(rows, after)
            done = after
        return sink.columns()

    def _column(self, name: str) -> _Column:
        found = self._columns.get(name)
        if found is None or found.is_float:
            raise _NotKnown
        return found


@frozen
class _Column:
    """A column as the schema declares it; one that is the rowid itself has the index -1."""

    index: int
    is_float: bool = False
    has_default: bool = False


def _declared(sql: sqlite3.Connection, table: str) -> tuple[int, dict[str, _Column]]:
    """Root page and columns of a table, from the schema."""
    query = "SELECT rootpage FROM sqlite_master WHERE type = 'table' AND name = ? AND sql LIKE 'CREATE TABLE%'"
    found = sql.execute(query, (table,)).fetchall()
    declared = sql.execute("SELECT name, type, dflt_value, pk, hidden FROM pragma_table_xinfo(?)", (table,)).fetchall()
    if len(found) != 1 or not isinstance(found[0][0], int) or any(hidden for *_, hidden in declared):
        raise _NotKnown
    keys = [name for name, _, _, pk, _ in declared if pk]
    # An INTEGER PRIMARY KEY is the rowid by another name, and has no index of its own.
    indexed = sql.execute("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'", (table,)).fetchall()
    alias = keys[0] if len(keys) == 1 and not indexed else None
    # A column may take the rowid's name away.
    columns = {} if "rowid" in (name.lower() for name, *_ in declared) else {"rowid": _Column(-1)}
    for index, (name, declaration, default, _, _) in enumerate(declared):
        is_float = "INT" not in declaration.upper() and any(word in declaration.upper() for word in _FLOAT_NAMES)
        columns[name] = _Column(-1 if name == alias else index, is_float, default is not None)
    return found[0][0], columns


# -- pages ----------------------------------------------------------------------------------------------


class _File:
    """The file's pages, some at a time in one buffer."""

    def __init__(self, path: Path) -> None:
        self._number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.page_size, self.usable, self.pages = _header(
                os.pread(self._number, 100, 0), os.fstat(self._number).st_size
            )
            # One connection for all threads: to read a schema of 50 tables takes SQLite longer than to tell of one.
            self.sql, self.asking = sqlite3.connect(uri_of(path), uri=True, check_same_thread=False), Lock()
            self.sql.text_factory = lambda raw: raw.decode("utf-8", "replace")
        except BaseException:
            os.close(self._number)
            raise

    def close(self) -> None:
        self.sql.close()
        os.close(self._number)

    def blocks(self, pages: Ints, null: int) -> Iterator[_Block]:
        """The pages in their order, in blocks; one buffer serves them all, so a block lasts until the next."""
        buffer = np.zeros(0, np.uint8)
        at_once = max(_BATCH // self.page_size, 1)
        for first in range(0, len(pages), at_once):
            some = pages[first : first + at_once]
            runs = np.flatnonzero((np.diff(some) <= 0) | (np.diff(some) > _GAP + 1)) + 1
            begins, ends = some[np.append(0, runs)], some[np.append(runs, len(some)) - 1] + 1
            size = int((ends - begins).sum()) * self.page_size + _FRONT + _BEHIND
            if len(buffer) < size:
                buffer = np.zeros(size, np.uint8)
                buffer[:24].view(">i8")[:] = (null, 0, 1)
            places = _FRONT + (np.cumsum(ends - begins) - (ends - begins)) * self.page_size
            for begin, end, place in zip(begins.tolist(), ends.tolist(), places.tolist(), strict=True):
                self._fill(buffer.data[place : place + (end - begin) * self.page_size], begin)
            run = np.repeat(np.arange(len(begins)), np.diff(np.append(np.append(0, runs), len(some))))
            yield _Block(buffer, places[run] + (some - begins[run]) * self.page_size, self.usable)

    def _fill(self, room: memoryview, page: int) -> None:
        if os.preadv(self._number, [room], (page - 1) * self.page_size) != len(room):
            raise _NotKnown


def _header(raw: bytes, size: int) -> tuple[int, int, int]:
    """Page size, usable bytes of a page and number of pages, from the first 100 bytes of a file of `size` bytes."""
    if len(raw) < 100 or sys.byteorder != "little":
        raise _NotKnown

    def number(at: int, width: int) -> int:
        return int.from_bytes(raw[at : at + width], "big")

    page_size = 65536 if number(16, 2) == 1 else number(16, 2)
    usable = page_size - raw[20]
    # Versions of the format (1: no WAL), and the three fractions that are the same in every file.
    if raw[:16] != SQLITE or raw[18:20] != b"\1\1" or raw[21:24] != b"\x40\x20\x20":
        raise _NotKnown
    if page_size < 512 or page_size & (page_size - 1) or usable < 480:
        raise _NotKnown
    # The stated number of pages counts only if the last program that wrote the file knew of it.
    stated = number(28, 4) if number(24, 4) == number(92, 4) else 0
    pages = stated or size // page_size
    if pages * page_size > size:
        raise _NotKnown
    return page_size, usable, pages


@frozen(eq=False)
class _Block:
    """Some pages in a buffer, and where each begins in it."""

    flat: Bytes
    starts: Ints
    usable: int

    def kinds(self, kind: int = _LEAF, empty: bool = True) -> Ints:
        """Number of cells of each page; all must be of one kind, and no more than fit."""
        counts = self.flat[self.starts + 3].astype(np.int64) << 8 | self.flat[self.starts + 4]
        begin = 8 if kind == _LEAF else 12
        if (self.flat[self.starts] != kind).any() or (begin + 6 * counts > self.usable).any():
            raise _NotKnown
        if not empty and not counts.all():
            raise _NotKnown
        return counts

    def cells(self, counts: Ints, begin: int) -> tuple[Ints, Ints]:
        """Where each cell begins in the buffer, and its page; `begin` is the size of a page's header."""
        before = np.cumsum(counts) - counts
        at = np.repeat((self.starts + begin) // 2 - before, counts)
        at += np.arange(len(at))
        pointer = self.flat[: len(self.flat) // 2 * 2].view(np.uint16).take(at).byteswap(inplace=True)
        lowest, highest = np.minimum.reduceat(pointer, before), np.maximum.reduceat(pointer, before)
        if (lowest < begin + 2 * counts).any() or int(highest.max()) > self.usable - 4:
            raise _NotKnown
        page = np.repeat(self.starts, counts)
        return page + pointer, page

    @property
    def anywhere(self) -> npt.NDArray[Any]:
        """The eight bytes from any place of the buffer on, by that place."""
        return np.ndarray((len(self.flat) - 7,), np.int64, self.flat.data, 0, (1,))

    def words(self, at: Ints) -> Words:
        """Eight bytes from each place, the first on top."""
        return self.anywhere[at].byteswap(inplace=True).view(np.uint64)

    def varints(self, at: Ints) -> tuple[Ints, Ints | int]:
        """Numbers of one to nine bytes, and how many bytes each has (one number where all have as many)."""
        word = self.words(at)
        length = _lengths(word)
        if np.max(length) < 9:
            return _unpacked(word, length), length
        value = _unpacked(word, np.minimum(length, 8)).view(np.uint64)
        ninth = value << np.uint64(8) | self.flat[np.add(at, 8)]
        return np.where(np.equal(length, 9), ninth, value).view(np.int64), length


def _lengths(word: Words) -> Ints | int:
    """How many bytes the number at the top of each word has, 9 where it does not end; one number where all agree."""
    length = 1
    while length < 9 and int(word[0]) >> (64 - 8 * length) & 128:
        length += 1
    flags = 0x8080808080808080
    judged = flags << 8 * max(8 - length, 0) & flags
    going = flags << 8 * (9 - length) & flags
    if ((word & np.uint64(judged)) == np.uint64(going)).all():
        return length
    lengths = np.ones(len(word), np.int64)
    goes = np.ones(len(word), np.bool_)
    for byte in range(8):
        goes &= (word >> np.uint64(63 - 8 * byte) & np.uint64(1)).astype(np.bool_)
        lengths += goes
    return lengths


#: Joins seven-bit pieces to pieces twice as wide: those that stay, the shift of the others, and where they arrive.
_JOINS = (
    (0x007F007F007F007F, 1, 0x3F803F803F803F80),
    (0x00003FFF00003FFF, 2, 0x0FFFC0000FFFC000),
    (0x000000000FFFFFFF, 4, 0x00FFFFFFF0000000),
)


def _unpacked(word: Words, length: Ints | int) -> Ints:
    """The numbers of up to eight bytes at the top of words."""
    value = word >> np.subtract(64, np.multiply(length, 8)).astype(np.uint64)
    value &= np.uint64(0x7F7F7F7F7F7F7F7F)
    width = 1
    for stay, shift, arrive in _JOINS:
        if width < np.max(length):
            value = (value & np.uint64(stay)) | (value >> np.uint64(shift) & np.uint64(arrive))
        width *= 2
    return value.view(np.int64)


def _walk(file: _File, root: int) -> tuple[Ints, Ints]:
    """The leaf pages below a root, in order, and the greatest rowid that each may hold."""
    pages, edges = np.array([root], np.int64), np.array([_GREATEST], np.int64)
    seen = np.zeros(file.pages + 1, np.bool_)
    seen[[0, 1]] = True  # no page, and the schema's
    if _LOCK_BYTE // file.page_size < file.pages:
        seen[_LOCK_BYTE // file.page_size + 1] = True
    for _ in range(_DEEPEST):
        if int(pages.min()) < 1 or int(pages.max()) > file.pages:
            raise _NotKnown
        before = np.count_nonzero(seen)
        seen[pages] = True
        if np.count_nonzero(seen) - before != len(pages) or (edges[1:] <= edges[:-1]).any():
            raise _NotKnown
        first = next(file.blocks(pages[:1], NULL))
        if first.flat[first.starts[0]] == _LEAF:
            return pages, edges
        pages, edges = _children(file, pages, edges)
    raise _NotKnown


def _children(file: _File, pages: Ints, edges: Ints) -> tuple[Ints, Ints]:
    """The pages below interior pages, in order, and the greatest rowid that each may hold."""
    below, bounds, done = [], [], 0
    for block in file.blocks(pages, NULL):
        counts = block.kinds(_INTERIOR, empty=False)
        cell, page = block.cells(counts, 12)
        key, length = block.varints(cell + 4)
        if (cell + 4 + length - page > file.usable).any():
            raise _NotKnown
        rank = np.repeat(np.arange(len(counts)), counts)
        place, last = np.arange(len(cell)) + rank, np.cumsum(counts) + np.arange(len(counts))
        children, bound = np.empty((2, len(cell) + len(counts)), np.int64)
        children[place] = (block.words(cell) >> np.uint64(32)).view(np.int64)
        children[last] = (block.words(block.starts + 8) >> np.uint64(32)).view(np.int64)
        bound[place], bound[last] = key, edges[done : done + len(counts)]
        below.append(children)
        bounds.append(bound)
        done += len(counts)
    return np.concatenate(below), np.concatenate(bounds)


# -- rows -----------------------------------------------------------------------------------------------


@frozen(eq=False)
class _Rows:
    """Rows of a block: where their headers begin, the group of each, and the groups' columns.

    `types` and `places` are (groups, columns): the type of a value, and where it begins after the header's beginning.
    `absent` tells the columns that a row ends before: it was written before they were added to the table.
    """

    block: _Block
    rowid: Ints
    head: Ints
    group: Ints
    types: Ints
    places: Ints
    absent: Bools

    def kept(self, column: _Column, allowed: Collection[int]) -> _Rows | None:
        """The rows whose value in `column` is one of `allowed`; `None` for none."""
        value = self.values(column)
        keep = np.zeros(len(value), np.bool_)
        for one in allowed:
            if _LEAST <= one <= _GREATEST:
                keep |= value == one
        if keep.all():
            return self
        chosen = np.flatnonzero(keep)
        if not len(chosen):
            return None
        group = self.group[chosen]
        used = np.bincount(group, minlength=len(self.types)) > 0
        number = np.cumsum(used) - 1
        return _Rows(
            self.block, self.rowid[chosen], self.head[chosen], number[group],
            self.types[used], self.places[used], self.absent[used],
        )  # fmt: skip

    def values(self, column: _Column) -> Ints:
        """The values of a column, NULL as the block's null."""
        values = np.empty(len(self.rowid), np.int64)
        self.fill([column], [values])
        return values

    def fill(self, columns: Sequence[_Column], arrays: Sequence[Ints]) -> None:
        """Write the values of columns into arrays of int64."""
        for column, array in zip(columns, arrays, strict=True):
            if column.index < 0:
                array[:] = self.rowid
        arrays = [array for column, array in zip(columns, arrays, strict=True) if column.index >= 0]
        columns = [column for column in columns if column.index >= 0]
        if not columns:
            return
        loops = backend.page_loops()
        if loops is not None:
            self._gather(loops, columns, arrays)
            return
        for array, stored, place, shift in zip(arrays, *(table.T for table in self._located(columns)), strict=True):
            if not stored.any():
                array[:] = _spread(self.block.words(place).view(np.int64), self.group)
                continue
            at = self.head if stored.all() else self.head * _spread(stored.astype(np.int64), self.group)
            loaded = self.block.anywhere[at + _spread(place, self.group)]
            np.right_shift(loaded.byteswap(inplace=True), _spread(shift, self.group), out=array)

    def _gather(self, loops: Any, columns: Sequence[_Column], arrays: Sequence[Ints]) -> None:
        """As `fill`, by the compiled loop, which takes so many columns at once; the last stands in for missing ones."""
        more = -len(columns) % loops.AT_ONCE
        columns, arrays = [*columns, *columns[-1:] * more], [*arrays, *arrays[-1:] * more]
        stored, place, shift = self._located(columns)
        place, shift = np.ascontiguousarray(np.where(stored, place, ~place)), np.ascontiguousarray(shift)
        for first in range(0, len(columns), loops.AT_ONCE):
            some = arrays[first : first + loops.AT_ONCE]
            loops.gather(self.block.flat, self.head, self.group, place, shift, first, *some)

    def _located(self, columns: Sequence[_Column]) -> tuple[Bools, Ints, Ints]:
        """Of values by group and column: are they stored, behind the header's beginning; the place; the shift."""
        indexes = [column.index for column in columns]
        types = self.types[:, indexes]
        if int(types.max()) > 9 or not _IS_INTEGER[types].all():
            raise _NotKnown
        if self.absent[:, [column.index for column in columns if column.has_default]].any():
            raise _NotKnown
        size = _SIZE[types]
        stored = size > 0
        place = np.where(stored, self.places[:, indexes], _constant_at(types))
        return stored, place, np.where(stored, 64 - 8 * size, 0)


def _constant_at(types: Ints) -> Ints:
    """Where the buffer holds the value of a type that needs no bytes."""
    return np.where(types == 0, _AT_NULL, np.where(types == 9, _AT_ONE, _AT_ZERO))


def _spread(of_group: Ints, group: Ints) -> Ints | np.int64:
    """The value of each row's group; one number where all groups have the same."""
    return of_group[0] if (of_group == of_group[0]).all() else of_group.take(group)


def _rows(block: _Block, edges: Ints, alone: bool, columns: int, rowids: tuple[int, int]) -> _Rows | None:
    """The rows of a block of leaf pages whose rowid is in a range; `None` for none.

    `edges` are the greatest rowids before the block and on each of its pages, `columns` how many columns of a row
    matter. A page may be empty only if it is the table's only one.
    """
    counts = block.kinds(empty=alone)
    if not counts.any():
        return None
    rowid, head, payload = _ordered(block, counts, edges)
    low, high = np.searchsorted(rowid, rowids[0]), np.searchsorted(rowid, rowids[1], "right")
    if low >= high:
        return None
    rowid, head, payload = rowid[low:high], head[low:high], payload[low:high]
    return _grouped(block, rowid, head, payload, columns)


def _ordered(block: _Block, counts: Ints, edges: Ints) -> tuple[Ints, Ints, Ints]:
    """What `_cells` tells of all cells of a block, whose rowids must ascend between the edges of their pages."""
    loops = backend.page_loops()
    if loops is not None:
        rowid, head, payload = np.empty((3, int(counts.sum())), np.int64)
        if loops.cells(block.flat, block.starts, counts, edges, block.usable, rowid, head, payload) == loops.UNKNOWN:
            raise _NotKnown
        return rowid, head, payload
    rowid, head, payload = _cells(block, *block.cells(counts, 8))
    last = np.cumsum(counts) - 1
    first = rowid[last - counts + 1]
    outside = ((first <= edges[:-1]) & (first > _LEAST)) | (rowid[last] > edges[1:])
    if outside.any() or (rowid[1:] <= rowid[:-1]).any():
        raise _NotKnown
    return rowid, head, payload


def _cells(block: _Block, cell: Ints, page: Ints) -> tuple[Ints, Ints, Ints]:
    """Rowid of each cell, where its header begins, and the size of header and values."""
    word = block.words(cell)
    payload = (word >> np.uint64(56)).view(np.int64)
    size: Ints | int = 1
    if (payload > 127).any():
        second = (word >> np.uint64(48)).view(np.int64) & 255
        if (second[payload > 127] > 127).any():
            raise _NotKnown  # 16 kB and more
        size = 1 + (payload > 127)
        payload = np.where(payload > 127, (payload & 127) << 7 | second, payload)
    word <<= np.multiply(8, size).astype(np.uint64)
    length = _lengths(word)
    if np.max(np.add(length, size)) <= 8:
        rowid = _unpacked(word, length)
    else:
        rowid, length = block.varints(cell + size)
    head = cell + np.add(size, length)
    if int(payload.max()) > block.usable - 35:
        raise _NotKnown  # the row goes on in overflow pages
    if int((head - page + payload).max()) > block.usable:
        raise _NotKnown
    return rowid, head, payload


def _grouped(block: _Block, rowid: Ints, head: Ints, payload: Ints, columns: int) -> _Rows:
    """Rows by their header, as far as it tells of the first `columns` columns."""
    group, first = _numbered(block, head, 1 + columns)
    raw = block.flat[head[first][:, None] + np.arange(1 + columns)]
    if (raw > 127).any():  # some types have two bytes
        group, first = _numbered(block, head, _LONGEST)
    types, absent, ended = _types(block, head[first], columns)
    sizes = np.where(types < 12, _SIZE[np.minimum(types, 11)], (types - 12) // 2)
    if ((types == 10) | (types == 11)).any():
        raise _NotKnown
    begin = block.flat[head[first]][:, None].astype(np.int64)
    end = begin + np.cumsum(sizes, axis=1) if columns else begin
    if not _fits(block, head, payload, group, np.ascontiguousarray(end[:, -1]), ended):
        raise _NotKnown
    return _Rows(block, rowid, head, group, types, end[:, : types.shape[1]] - sizes, absent)


def _fits(block: _Block, head: Ints, payload: Ints, group: Ints, end: Ints, ended: Bools) -> bool:
    """Do the rows end where their group's values do, or, where there are more columns, behind?"""
    loops = backend.page_loops()
    if loops is not None:
        return bool(loops.fits(block.flat, head, payload, group, end, ended))
    spare = payload - _spread(end, group)
    return int(spare.min()) >= 0 and not (ended.any() and spare[ended[group]].any())


def _numbered(block: _Block, head: Ints, width: int) -> tuple[Ints, Ints]:
    """Numbers rows by the first `width` bytes of their header: the group of each row, and a row of each group."""
    loops = backend.page_loops()
    if loops is not None:
        group, first = np.empty((2, len(head)), np.int64)
        groups = loops.groups(block.flat, head, width, group, first)
        if groups == loops.UNKNOWN:
            raise _NotKnown
        return group, first[:groups]
    length = block.flat[head]
    longest = int(length.max())
    if longest > _LONGEST or not length.all():
        raise _NotKnown
    return _groups(_keys(block, head, length, min(width, longest)))


def _keys(block: _Block, head: Ints, length: Bytes, width: int) -> Words:
    """The first `width` bytes of each header as words, (words, rows); what is behind a header's end is zero."""
    words = -(-width // 8)
    view = np.ndarray((len(block.flat) - 8 * words + 1,), f"V{8 * words}", block.flat.data, 0, (1,))
    key = view[head].view(np.uint64).reshape(len(head), words)
    within = np.arange(8 * words) < np.minimum(np.arange(129)[:, None], width)
    full = (within * np.uint8(255)).view(np.uint64)
    if int(length.min()) < width:
        key &= full[length]
    elif width % 8:
        key[:, -1] &= full[width, -1]
    return np.ascontiguousarray(key.T)


def _groups(keys: Words) -> tuple[Ints, Ints]:
    """Numbers rows by their key: the group of each row, and a row of each group.

    Rows of one group have the same key; where several keys met in one slot, rows of one key may be in several groups.
    """
    rows = np.arange(keys.shape[1])
    first, todo = _met(keys)
    for _ in range(_ROUNDS):
        if not len(todo):
            break
        found, others = _met(keys[:, todo])
        first[todo], todo = todo[found], todo[others]
    first[todo] = todo
    heads = np.flatnonzero(first == rows)
    number = np.empty(len(rows), np.int64)
    number[heads] = np.arange(len(heads))
    return number.take(first), heads


def _met(keys: Words) -> tuple[Ints, Ints]:
    """For each key one of those that fall into its slot, the same for all of a slot; and those that it differs from."""
    mixed = np.zeros(keys.shape[1], np.uint64)
    for words in keys:
        mixed ^= words
        mixed *= _SPREAD
        mixed ^= mixed >> np.uint64(32)
    slot = (mixed >> np.uint64(64 - _SLOT_BITS)).view(np.int64)
    table = np.empty(1 << _SLOT_BITS, np.int64)
    table[slot] = np.arange(len(slot))
    found = table.take(slot)
    differs = np.zeros(len(slot), np.bool_)
    for words in keys:
        differs |= words.take(found) != words
    return found, np.flatnonzero(differs)


def _types(block: _Block, head: Ints, columns: int) -> tuple[Ints, Bools, Bools]:
    """Types of the first columns, (headers, columns); which of them a header lacks; and whether it ends there."""
    length, raw = block.flat[head].astype(np.int64), block.flat[head[:, None] + np.arange(1, 1 + columns)]
    if int(length.min()) > columns and int(raw.max(initial=0)) < 128:  # a byte for each column
        return raw.astype(np.int64), np.zeros(raw.shape, np.bool_), length == 1 + columns
    types, absent = np.zeros((len(head), columns), np.int64), np.zeros((len(head), columns), np.bool_)
    at = np.ones(len(head), np.int64)
    for column in range(columns):
        absent[:, column] = at >= length
        one, two = block.flat[head + at].astype(np.int64), block.flat[head + at + 1].astype(np.int64)
        wide = (one > 127) & ~absent[:, column]
        if (wide & ((two > 127) | (at + 1 >= length))).any():
            raise _NotKnown
        types[:, column] = np.where(absent[:, column], 0, np.where(wide, (one & 127) << 7 | two, one))
        at += np.where(absent[:, column], 0, 1 + wide)
    return types, absent, at >= length


class _Sink:
    """The columns that are being filled: arrays that grow as the pages tell how many rows there are."""

    def __init__(self, columns: dict[str, _Column], leaves: int) -> None:
        self._columns, self._leaves = columns, leaves
        self._arrays = {name: np.empty(0, np.int64) for name in columns}
        self._rows = self._room = 0

    def take(self, rows: _Rows, leaves: int) -> None:
        """Add rows; `leaves` is how many of the pages have been read with them."""
        until = self._rows + len(rows.rowid)
        if until > self._room:
            self._grow(until, leaves)
        rows.fill(list(self._columns.values()), [array[self._rows : until] for array in self._arrays.values()])
        self._rows = until

    def _grow(self, rows: int, leaves: int) -> None:
        # As if the pages to come held as many; and always a good piece more, so that copies are few.
        expected = max(rows * self._leaves // leaves * 101 // 100, self._room * 5 // 4)
        self._room = rows if leaves == self._leaves else expected
        for name, array in self._arrays.items():
            # Not resize(), which would write to all the room, and so take its memory, before it is needed.
            self._arrays[name] = longer = np.empty(self._room, np.int64)
            longer[: self._rows] = array[: self._rows]

    def columns(self) -> dict[str, Ints]:
        """The columns, as long as there are rows."""
        for array in self._arrays.values():
            array.resize(self._rows, refcheck=False)  # gives the rest back, and copies nothing
        return self._arrays
