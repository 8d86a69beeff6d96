"""Arrow's arrays over numpy's own memory, and back: `pa.array` makes them too, but loads pandas to ask a question."""

from __future__ import annotations

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
