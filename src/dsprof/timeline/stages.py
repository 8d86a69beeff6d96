"""Requests, stages and steps as slices: rows of their tables, on the host, and as the GPU worked on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dsprof import arrays as at
from dsprof.arrays import NULL, Ints
from dsprof.ground.arrow import integers
from dsprof.timeline.drawn import Drawn
from dsprof.timeline.packets import Numbers, Slices, Texts


class Kind(NamedTuple):
    """Slices made of a table: those of one title, from a column of begins to one of ends."""

    table: str
    title: str
    start: str = "start_ns"
    end: str = "end_ns"


#: In the order of their tracks.
KINDS = (
    Kind("request_trace", "requests"),
    Kind("stage_trace", "stages"),
    Kind("step_trace", "steps"),
    Kind("stage_trace", "stages on the GPU", "proj_start_ns", "proj_end_ns"),
)
#: The tables that these are made of.
TABLES = tuple(dict.fromkeys(kind.table for kind in KINDS))
#: What is shown of a selected one, as far as its table has the column.
_SHOWN = (
    "request", "instance", "step", "range_id", "batch", "tokens", "prompt_tokens", "new_tokens", "context_tokens",
    "steady", "outlier", "pause", "wall_ns", "ttft_gpu_ns", "gpu_busy_ns", "gpu_idle_ns", "compute_ns", "transfer_ns",
    "wait_ns", "kernels", "launches", "memcpy_ns", "sync_ns", "excess_in",
)  # fmt: skip
_IDLE = "idle_"


def draw_stages(drawn: Drawn, tables: dict[str, pa.Table]) -> None:
    """Draw requests, stages and steps, each process's below a track of its own."""
    for rank, kind in enumerate(KINDS, 1):
        _draw(drawn, kind, tables[kind.table], rank)


def _draw(drawn: Drawn, kind: Kind, table: pa.Table, rank: int) -> None:
    start, end = numbers(table, kind.start), numbers(table, kind.end)
    known = np.flatnonzero((start != NULL) & (end != NULL))
    rows = known[np.lexsort((-end[known], start[known]))]
    start, end, kept = drawn.in_view(start[rows], end[rows])
    rows = rows[kept]
    if not len(rows):
        return
    track = np.zeros(len(rows), np.int64)
    for pid, mine in at.each(numbers(table, "pid")[rows]):
        parent = drawn.stages_of(pid)
        track[mine] = drawn.placed((kind.title, pid), kind.title, parent, start[mine], end[mine], rank)
    more = {name: _shown(table, name, rows) for name in table.column_names if name in _SHOWN or name.startswith(_IDLE)}
    drawn.slices(Slices(start, end, track, drawn.named(_names(kind, table, rows)), more=more))


def _names(kind: Kind, table: pa.Table, rows: Ints) -> Sequence[str]:
    """What slices are called: ``request 3``, ``decode 1``, ``step 12``, and of engines ``prefill step 12``."""
    if kind.table == "request_trace":
        return [f"request {number}" for number in numbers(table, "request")[rows].tolist()]
    if kind.table == "stage_trace":
        stages, instances = _texts(table, "stage", rows), numbers(table, "instance")[rows].tolist()
        return [f"{stage} {number}" for stage, number in zip(stages, instances, strict=True)]
    modes, steps = _texts(table, "mode", rows), numbers(table, "step")[rows].tolist()
    return [f"{mode} step {step}" if mode else f"step {step}" for mode, step in zip(modes, steps, strict=True)]


def _shown(table: pa.Table, name: str, rows: Ints) -> Numbers | Texts:
    if not pa.types.is_dictionary(table.column(name).type):
        return Numbers(numbers(table, name)[rows])
    texts = _texts(table, name, rows)
    code = {text: place for place, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
    return Texts(np.array([-1 if text is None else code[text] for text in texts], np.int64), list(code))


def _texts(table: pa.Table, name: str, rows: Ints) -> list[str | None]:
    texts = table.column(name).to_pylist()
    return [texts[row] for row in rows.tolist()]


def numbers(table: pa.Table, name: str) -> Ints:
    """A column of integers or truths, NULL for what it misses."""
    return integers(table.column(name), NULL)
