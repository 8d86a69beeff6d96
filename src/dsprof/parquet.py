"""Tables as Parquet files, whole or as the parts of a report come by."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

#: Columns of integers that take few values, so that a dictionary holds them in less than their differences do.
FEW_VALUES = frozenset(
    ("device_id", "context_id", "stream_id", "pid", "tid", "registers_per_thread", "shared_memory_bytes")
)
#: Values that Arrow encodes at once: its own thousand cost a tenth more time.
_VALUES_AT_ONCE = 1 << 14


def parquet(folder: str | os.PathLike[str], table: str) -> Path:
    """The file of a table."""
    return Path(folder, f"{table}.parquet")


def write_parquet(table: pa.Table, path: Path) -> None:
    """One table as Parquet: zstd, names and integers of few values as dictionaries, other integers by difference."""
    with path.open("wb") as file:
        write_table(table, file)


def write_table(table: pa.Table, file: BinaryIO) -> None:
    """The same to a file that is open."""
    with contextlib.closing(_writer(table.schema, file)) as writer:
        writer.write_table(table)


def _writer(schema: pa.Schema, file: BinaryIO, events: bool = False) -> Any:
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


class InOrder:
    """Rows of a table of events, that come part by part and leave in the order of their start.

    What a part launched may start after the part ends; such rows wait for those of the next part.
    """

    def __init__(self) -> None:
        self._held: pa.Table | None = None

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
        if self._held is not None and len(self._held):
            last = self._held.column("start_ns")[-1].as_py()
            among = _before(table, last + 1)
            mixed = pa.concat_tables([self._held, table.slice(0, among)]).unify_dictionaries()
            self._put_ready(mixed.take(_order(mixed)), high)
            table = table.slice(among)
            if self._held is not None and len(self._held):
                self._held = pa.concat_tables([self._held, table]).unify_dictionaries()
                return
        self._put_ready(table, high)

    def _put_ready(self, table: pa.Table, high: int) -> None:
        """Put the rows that start before `high`, and hold the others."""
        rows = _before(table, high)
        self._held = table.slice(rows)
        if rows:
            self.put(table.slice(0, rows))

    def finish(self) -> None:
        """There are no more parts."""
        if self._held is not None:  # without rows, too: a file has its columns
            self.put(self._held)
            self._held = None

    def begin_again(self) -> None:
        """Forget all rows so far."""
        self._held = None

    def put(self, table: pa.Table) -> None:
        """Take rows that are in their order for good."""
        raise NotImplementedError


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


class Gathered(InOrder):
    """Rows that are kept in memory."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[pa.Table] = []

    def put(self, table: pa.Table) -> None:
        """Keep them."""
        self._parts.append(table)

    def begin_again(self) -> None:
        """Forget all rows so far."""
        super().begin_again()
        self._parts = []

    def table(self) -> pa.Table:
        """All rows."""
        return pa.concat_tables(self._parts).unify_dictionaries().combine_chunks()


class Written(InOrder, contextlib.AbstractContextManager["Written"]):
    """Rows that go to a Parquet file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._open: tuple[BinaryIO, Any] | None = None

    def put(self, table: pa.Table) -> None:
        """Write them."""
        if self._open is None:
            file = self._path.open("wb")
            self._open = file, _writer(table.schema, file, events=True)
        self._open[1].write_table(table)

    def begin_again(self) -> None:
        """Forget all rows so far."""
        super().begin_again()
        self.__exit__()

    def __exit__(self, *error: object) -> None:
        if self._open is not None:
            file, writer = self._open
            self._open = None
            with file, contextlib.closing(writer):
                pass
