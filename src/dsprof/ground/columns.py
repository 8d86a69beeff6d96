"""Columns of an Arrow table as numpy's arrays, without pandas, which Arrow's own way would load."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: Stands for a missing whole number: dsprof.arrays.NULL, which is above this room.
_NULL = np.iinfo(np.int64).min


def _array(table: pa.Table, column: str) -> pa.Array:
    """A column in one piece, dictionaries as one."""
    chunks = table.column(column).unify_dictionaries().combine_chunks()
    return chunks if isinstance(chunks, pa.Array) else pa.concat_arrays(chunks.chunks)


def _values(array: pa.Array, kind: npt.DTypeLike, missing: Any) -> npt.NDArray[Any]:
    """The numbers of an array, with `missing` where there is none."""
    _, data = array.buffers()[0], array.buffers()[-1]
    if not len(array):
        return np.empty(0, kind)
    found = np.frombuffer(data, kind, len(array), array.offset * np.dtype(kind).itemsize)
    return np.where(_truths(array.is_valid()), found, missing) if array.null_count else found


def _truths(array: pa.Array) -> npt.NDArray[np.bool_]:
    """The truths of an array; a missing one is False."""
    if not len(array):
        return np.empty(0, np.bool_)
    valid, data = array.buffers()
    found = _bits(data, array)
    return found & _bits(valid, array) if array.null_count else found


def _bits(data: Any, array: pa.Array) -> npt.NDArray[np.bool_]:
    unpacked = np.unpackbits(np.frombuffer(data, np.uint8), bitorder="little")
    return unpacked[array.offset : array.offset + len(array)].astype(np.bool_)


def integers(table: pa.Table, column: str) -> npt.NDArray[np.int64]:
    """A column of int64, NULL for a missing value; all NULL where the table has no such column."""
    if column not in table.column_names:
        return np.full(len(table), _NULL)
    array = _array(table, column)
    return _values(array.cast(pa.int64()) if array.type != pa.int64() else array, np.int64, _NULL)


def truths(table: pa.Table, column: str, absent: bool = False) -> npt.NDArray[np.bool_]:
    """A column of truths, `absent` throughout where the table has no such column."""
    if column not in table.column_names:
        return np.full(len(table), absent)
    return _truths(_array(table, column))


def texts(table: pa.Table, column: str) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """A column of text as codes, -1 for a missing value, and what they stand for."""
    if column not in table.column_names:
        return np.full(len(table), -1), ()
    array = _array(table, column)
    if not pa.types.is_dictionary(array.type):
        array = array.cast(pa.string()).dictionary_encode()
    strings = tuple(array.dictionary.to_pylist())
    return _values(array.indices.cast(pa.int64()), np.int64, -1), strings
