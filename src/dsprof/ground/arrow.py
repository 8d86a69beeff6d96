"""Arrow's arrays over numpy's own memory: `pa.array` makes them too, but loads pandas to ask a question."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def bits(values: npt.NDArray[np.bool_]) -> pa.Array:
    """An Arrow array of truths."""
    packed = np.packbits(values, bitorder="little")
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, pa.py_buffer(packed)])
