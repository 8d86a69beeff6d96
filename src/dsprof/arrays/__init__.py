"""Arrays of int64: the only place that knows whether numpy alone or compiled loops do the work (`backend`).

Times are nanoseconds. No function loops over ranges, launches or operations in Python. What has a compiled twin asks
`backend.loops()` for it, and gives the same without it, bit for bit.
"""

from __future__ import annotations

from dsprof.arrays.joins import join_calls
from dsprof.arrays.nesting import containers, content_ends, innermost, levels
from dsprof.arrays.rows import (
    AT_ONCE,
    KEY_LIMIT,
    NULL,
    Bools,
    Ints,
    Keys,
    batches,
    by_number,
    contiguous,
    distinct,
    distinct_in_any_order,
    each,
    explode,
    group_rows,
    in_order,
    sorted_by,
    used_codes,
)
from dsprof.arrays.slicing import busy_in_slices, slice_max, slice_min, slice_sum, slice_sum_above, slices
from dsprof.arrays.unions import beside, common, union_length, united
from dsprof.arrays.windows import spent_in_windows

__all__ = [
    "AT_ONCE", "KEY_LIMIT", "NULL", "Bools", "Ints", "Keys", "batches", "beside", "busy_in_slices", "by_number",
    "common", "containers", "content_ends", "contiguous", "distinct", "distinct_in_any_order", "each", "explode",
    "group_rows", "in_order", "innermost", "join_calls", "levels", "slice_max", "slice_min", "slice_sum",
    "slice_sum_above", "slices", "sorted_by", "spent_in_windows", "union_length", "united", "used_codes",
]  # fmt: skip
