"""Tables as Parquet files, whole or as the parts of a report come by."""

from __future__ import annotations

import contextlib
import operator
import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa

from dsprof.arrays import Bools
from dsprof.ground.arrow import bits

#: Columns of integers that take few values, so that a dictionary holds them in less than their differences do.
FEW_VALUES = frozenset(
    ("device_id", "context_id", "stream_id", "pid", "tid", "registers_per_thread", "shared_memory_bytes")
)
#: Values that Arrow encodes at once: its own thousand cost a tenth more time.
_VALUES_AT_ONCE = 1 << 14
#: Rows that wait in memory for those of later parts.
_MOST_WAITING = 1 << 14
#: A column, how it is compared, and with which number.
Condition = tuple[str, Literal["<", "<=", "=", ">=", ">"], int]
#: What is asked of a table: its name, columns, and conditions that all hold.
Asked = tuple[str, Sequence[str], Sequence[Condition]]
_COMPARE = {"<": operator.lt, "<=": operator.le, "=": operator.eq, ">=": operator.ge, ">": operator.gt}
_FOREVER = int(np.iinfo(np.int64).max)


def parquet(folder: str | os.PathLike[str], table: str) -> Path:
    """The file of a table."""
    return Path(folder, f"{table}.parquet")


def read_parquet(source: BinaryIO | pa.NativeFile, columns: Sequence[str] | None = None) -> pa.Table:
    """A table, or some of its columns, from what is open. Arrow's `read_table` would do, but loads pandas."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(source).read(columns=columns)


def read_file(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """The same from a file, which may be called by bytes that are no UTF-8. Raises OSError."""
    with path.open("rb") as file:
        return read_parquet(file, columns)


def rows_that(table: pa.Table, *alternatives: Sequence[Condition]) -> pa.Table:
    """The rows for which all conditions of an alternative hold; Arrow's own expressions would load pandas.

    Conditions are on columns of integers.
    """
    kept = np.zeros(len(table), np.bool_)
    for conditions in alternatives:
        kept |= _held(table, conditions)
    return table.filter(bits(kept))


def _held(table: pa.Table, conditions: Sequence[Condition]) -> Bools:
    held = np.ones(len(table), np.bool_)
    for column, sign, value in conditions:
        chunks = [np.from_dlpack(chunk) for chunk in table.column(column).chunks]
        held &= _COMPARE[sign](np.concatenate(chunks) if chunks else np.zeros(0, np.int64), value)
    return held


def read_rows_that(file: BinaryIO, columns: Sequence[str], conditions: Sequence[Condition]) -> pa.Table:
    """Columns of such rows of a Parquet file, of which groups of rows that hold none are not read."""
    import pyarrow.parquet as pq

    opened = pq.ParquetFile(file)
    wanted = list(dict.fromkeys((*columns, *(column for column, _, _ in conditions))))
    groups = [at for at in range(opened.num_row_groups) if _may_hold(opened.metadata.row_group(at), conditions)]
    table = rows_that(opened.read_row_groups(groups, columns=wanted), conditions)
    return table.select(list(columns))


def _may_hold(group: Any, conditions: Sequence[Condition]) -> bool:
    """Can some of its rows fulfil the conditions, by the least and the greatest value of their columns?"""
    known = {group.column(at).path_in_schema: group.column(at).statistics for at in range(group.num_columns)}
    for column, sign, value in conditions:
        found = known.get(column)
        if found is not None and found.has_min_max:
            far = found.max if sign in (">", ">=") else found.min
            if not (found.min <= value <= found.max if sign == "=" else _COMPARE[sign](far, value)):
                return False
    return True


def write_parquet(table: pa.Table, path: Path) -> None:
    """One table as Parquet: zstd, names and integers of few values as dictionaries, other integers by difference."""
    with path.open("wb") as file:
        write_table(table, file)


def write_table(table: pa.Table, file: BinaryIO) -> None:
    """The same to a file that is open."""
    with contextlib.closing(writer(table.schema, file)) as opened:
        opened.write_table(table)


def writer(schema: pa.Schema, file: BinaryIO, events: bool = False) -> Any:
    """A writer to a file that is open: Arrow takes no path that is not UTF-8.

    Tables of events, which are large, have what is quickly written and read: snappy, and no statistics of names.
    """
    import pyarrow.parquet as pq

    names = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    integers = [field.name for field in schema if pa.types.is_int64(field.type)]
    differences = {name: "DELTA_BINARY_PACKED" for name in integers if name not in FEW_VALUES}
    return pq.ParquetWriter(
        file,
        schema,
        compression="snappy" if events else "zstd",
        use_dictionary=[*names, *(name for name in integers if name in FEW_VALUES)],
        column_encoding=differences,
        write_statistics=[field.name for field in schema if field.name not in names] if events else True,
        write_batch_size=_VALUES_AT_ONCE,
    )


class OrderedRows:
    """Rows of a table of events, that come part by part and leave in the order of their start.

    What a part launched may start after the part ends; such rows wait for those of later parts: in memory, or, where a
    `folder` is given and they are many, in a file there that has no name.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._waiting = _Waiting(folder)
        self._schema: pa.Schema | None = None

    def add(self, pieces: Iterable[pa.Table], high: int) -> None:
        """Take the rows of a part, in pieces by start; those of later parts start at `high` or after it."""
        before = None
        for piece in pieces:
            if before is not None:
                self._add(before, min(high, piece.column("start_ns")[0].as_py()))
            before = piece
        if before is not None:
            self._add(before, high)

    def _add(self, table: pa.Table, high: int) -> None:
        """Put the rows that start before `high`, and hold the others."""
        self._schema = table.schema
        rows = _before(table, high)
        among = self._put_early(table, rows, high)
        if rows > among:
            self.put(table.slice(among, rows - among))
        self._waiting.hold(table.slice(rows))

    def _put_early(self, table: pa.Table, rows: int, high: int) -> int:
        """Put what waits for a time before `high`, and the rows of the table that go among it; says how many."""
        early = self._waiting.until(high)
        if not early:
            return 0
        last = max(piece.column("start_ns")[-1].as_py() for piece in early)
        among = min(_before(table, last + 1), rows)
        mixed = pa.concat_tables([*early, table.slice(0, among)]).unify_dictionaries()
        self.put(mixed.take(_order(mixed)))
        return among

    def finish(self) -> None:
        """There are no more parts."""
        if self._schema is not None:  # without rows, too: a file has its columns
            nothing = pa.Table.from_batches([], self._schema)
            self._add(nothing, _FOREVER)
            self.put(nothing)
            self._waiting.close()

    def begin_again(self) -> None:
        """Forget all rows so far."""
        self._waiting.close()
        self._schema = None

    def put(self, table: pa.Table) -> None:
        """Take rows that are in their order for good."""
        raise NotImplementedError


class _Waiting:
    """Rows in pieces, each in order of start, of which those before a time can be had."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: BinaryIO | None = None
        self.close()

    def close(self) -> None:
        """Forget all rows."""
        if self._file is not None:
            self._file.close()
        self._tables: list[pa.Table] = []
        self._away: list[tuple[int, int, int]] = []  # first start, place in the file, bytes
        self._file = None

    def hold(self, table: pa.Table) -> None:
        """Take a piece."""
        if not len(table):
            return
        if self._folder is None or sum(map(len, self._tables)) + len(table) <= _MOST_WAITING:
            self._tables.append(table)
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - until `close`
        place = self._file.seek(0, os.SEEK_END)
        own = _with_own_names(table)
        with pa.ipc.new_stream(self._file, own.schema) as stream:
            stream.write_table(own)
        self._away.append((table.column("start_ns")[0].as_py(), place, self._file.tell() - place))

    def until(self, time: int) -> list[pa.Table]:
        """The rows that start before `time`, which wait no more."""
        found, tables, away = [], self._tables, self._away
        self._tables, self._away = [], []
        for table in (*tables, *(self._back(*one[1:]) for one in away if one[0] < time)):
            rows = _before(table, time)
            found += [table.slice(0, rows)] if rows else []
            self._tables += [table.slice(rows)] if rows < len(table) else []
        self._away = [one for one in away if one[0] >= time]
        return found

    def _back(self, place: int, size: int) -> pa.Table:
        assert self._file is not None  # noqa: S101 - there are rows in it
        self._file.seek(place)
        return pa.ipc.open_stream(self._file.read(size)).read_all()


def _with_own_names(table: pa.Table) -> pa.Table:
    """The table with dictionaries of the values alone that are in it."""
    import pyarrow.compute as pc

    columns = []
    for column in table.combine_chunks().columns:
        if pa.types.is_dictionary(column.type):
            array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
            used = pc.unique(array.indices).drop_null()
            column = pa.DictionaryArray.from_arrays(pc.index_in(array.indices, used), array.dictionary.take(used))
        columns.append(column)
    return pa.table(columns, table.schema)


def _order(table: pa.Table) -> pa.Array:
    """The order of the rows by start; of one moment by process and correlationId, a missing one first."""
    import pyarrow.compute as pc

    known = pc.is_valid(table.column("correlation_id"))
    keys = [(name, "ascending") for name in ("start_ns", "pid", "known", "correlation_id")]
    return pc.sort_indices(table.append_column("known", known), keys)


def _before(table: pa.Table, time: int) -> int:
    """How many rows of a table in order of start begin before a time."""
    chunks = (np.from_dlpack(chunk) for chunk in table.column("start_ns").chunks if len(chunk))
    return sum(int(np.searchsorted(chunk, time)) for chunk in chunks)


class RowsInMemory(OrderedRows):
    """Rows that are kept in memory, as they are or what `kept` makes of them."""

    def __init__(self, kept: Callable[[pa.Table], pa.Table] = lambda table: table) -> None:
        super().__init__()
        self._kept = kept
        self._parts: list[pa.Table] = []

    def put(self, table: pa.Table) -> None:
        """Keep them."""
        self._parts.append(self._kept(table))

    def begin_again(self) -> None:
        """Forget all rows so far."""
        super().begin_again()
        self._parts = []

    def table(self) -> pa.Table:
        """All rows."""
        return pa.concat_tables(self._parts).unify_dictionaries().combine_chunks()


class RowsInFile(OrderedRows, contextlib.AbstractContextManager["RowsInFile"]):
    """Rows that go to a Parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self._path = path
        self._open: tuple[BinaryIO, Any] | None = None

    def put(self, table: pa.Table) -> None:
        """Write them."""
        if self._open is None:
            file = self._path.open("wb")
            self._open = file, writer(table.schema, file, events=True)
        self._open[1].write_table(table)

    def begin_again(self) -> None:
        """Forget all rows so far."""
        super().begin_again()
        self.__exit__()

    def __exit__(self, *error: object) -> None:
        if self._open is not None:
            file, opened = self._open
            self._open = None
            with file, contextlib.closing(opened):
                pass
