"""The API call behind each GPU operation, by process and correlationId."""

from __future__ import annotations

import numpy as np

from dsprof.arrays.rows import (
    FEW,
    NULL,
    SLOTS_FREE,
    SLOTS_PER_KEY,
    Ints,
    distinct,
    distinct_in_any_order,
    in_order,
)


def join_calls(
    op_process: Ints, op_correlation: Ints, call_process: Ints, call_correlation: Ints, call_start: Ints
) -> Ints:
    """The API call behind each GPU operation, by (process, correlationId); -1 where there is none.

    Of two calls with one identity the earliest counts, so that nothing is doubled.
    """
    joined, processes = np.full(len(op_process), -1, np.int64), distinct(op_process)
    if len(processes) > FEW:
        return _join_pairs(op_process, op_correlation, call_process, call_correlation, call_start)
    for process in processes.tolist():
        ops = np.flatnonzero((op_process == process) & (op_correlation != NULL))
        calls = np.flatnonzero((call_process == process) & (call_correlation != NULL))
        if len(ops) and len(calls):
            begun = call_start[calls]
            if (begun[1:] < begun[:-1]).any():
                calls = calls[np.argsort(begun, kind="stable")]
            found = _first_match(op_correlation[ops], call_correlation[calls])
            joined[ops] = np.where(found >= 0, calls[found], -1)
    return joined


def _join_pairs(
    op_process: Ints, op_correlation: Ints, call_process: Ints, call_correlation: Ints, call_start: Ints
) -> Ints:
    """The same for many processes at once: by the place of the process and of the number among those of the calls."""
    joined = np.full(len(op_process), -1, np.int64)
    calls = np.flatnonzero(call_correlation != NULL)
    if not len(calls):
        return joined
    calls = calls[in_order(call_start[calls])]
    columns = (call_process[calls], call_correlation[calls])
    known = [distinct_in_any_order(column) for column in columns]
    key, wanted = (
        np.searchsorted(known[0], process) * len(known[1]) + np.searchsorted(known[1], number)
        for process, number in (columns, (op_process, op_correlation))
    )
    order = np.argsort(key, kind="stable")
    call = calls[order[np.minimum(np.searchsorted(key[order], wanted), len(order) - 1)]]
    same = (call_process[call] == op_process) & (call_correlation[call] == op_correlation)
    return np.where(same, call, -1)


def _first_match(wanted: Ints, keys: Ints) -> Ints:
    """Position of the first of `keys` that equals each of `wanted`, -1 where none does."""
    low, high = int(keys.min()), int(keys.max())
    if high - low >= SLOTS_PER_KEY * len(keys) + SLOTS_FREE:
        order = np.argsort(keys, kind="stable")
        slot = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
        return np.where(keys[order[slot]] == wanted, order[slot], -1)
    table = np.full(high - low + 1, -1, np.int64)
    table[keys[::-1] - low] = np.arange(len(keys) - 1, -1, -1)
    inside = (wanted >= low) & (wanted <= high)
    return np.where(inside, table[np.where(inside, wanted - low, 0)], -1)
