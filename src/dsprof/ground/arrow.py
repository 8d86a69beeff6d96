"""Arrow's arrays over numpy's own memory, and back: `pa.array` makes them too, but loads pandas to ask a question.

And what is asked of them, by Arrow's own functions. `pyarrow.compute`, which Arrow's methods load as well, makes three
hundred functions of Python of these, with signatures and docstrings, and that takes as long as to load numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def bits(values: npt.NDArray[np.bool_]) -> pa.Array:
    """An Arrow array of truths."""
    packed = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(packed)])


def integers(column: pa.ChunkedArray, missing: int) -> npt.NDArray[np.int64]:
    """A column of int64 or of truths as numpy's, `missing` for what it lacks."""
    pieces = [np.zeros(0, np.int64)]
    for chunk in column.chunks:
        valid, data = chunk.buffers()
        rows = slice(chunk.offset, chunk.offset + len(chunk))
        is_bit = pa.types.is_boolean(chunk.type)
        values = (_unpacked(data, rows) if is_bit else np.frombuffer(data, np.int64)[rows]) if len(chunk) else pieces[0]
        known = np.ones(len(chunk), np.bool_) if valid is None else _unpacked(valid, rows)
        pieces.append(np.where(known, values.astype(np.int64), missing))
    return np.concatenate(pieces)


def _unpacked(buffer: pa.Buffer, rows: slice) -> npt.NDArray[np.bool_]:
    return np.unpackbits(np.frombuffer(buffer, np.uint8), count=rows.stop, bitorder="little")[rows].astype(np.bool_)


def rows_kept(table: pa.Table, rows: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The rows of a table for which an array or a column of truths holds."""
    return _call("filter", table, rows)


def total(column: pa.ChunkedArray) -> int | None:
    """The sum of a column of integers, in which a missing value counts nothing; None where it has no value."""
    found: int | None = _call("sum", column).as_py()
    return found


def rows_by(table: pa.Table, column: str) -> dict[str, pa.Table]:
    """The rows of a table by what a column of texts says, in the order in which its values come."""
    from pyarrow._compute import CastOptions

    texts = _call("cast", table.column(column), options=CastOptions(pa.string()))
    return {one.as_py(): rows_kept(table, _call("equal", texts, one)) for one in _call("unique", texts)}


def fitting(texts: pa.Array, pattern: str) -> npt.NDArray[np.bool_]:
    """Which texts, none of which may be missing, hold a pattern of RE2; takes time in proportion to the texts."""
    from pyarrow._compute import MatchSubstringOptions

    found = _call("match_substring_regex", texts, options=MatchSubstringOptions(pattern))
    return _unpacked(found.buffers()[1], slice(found.offset, found.offset + len(found)))


def _call(function: str, *arguments: Any, options: Any = None) -> Any:
    from pyarrow._compute import call_function

    return call_function(function, list(arguments), options)
