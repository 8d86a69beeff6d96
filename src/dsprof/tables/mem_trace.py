"""`mem_trace`: every memory copy and memory set with its launch, its range, its stage and its step."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays import Ints
from dsprof.attribute.launches import Launches
from dsprof.tables._launched import LAUNCH, PLACE, STAGE, by_start, launched
from dsprof.tables._table import CodedText, EventTable, integer, name
from dsprof.trace import MEMORY_KINDS, operation_names


def ordered(launches: Launches) -> Ints:
    """A row per copy or set, by start."""
    return by_start(launches.trace.memops, launches.trace.part.memops)


def build(launches: Launches, order: Ints) -> dict[str, Any]:
    """Values of the rows `order`."""
    memops = launches.trace.memops
    return {
        **launched(launches, memops, len(launches.trace.kernels), order),
        "kind": CodedText(*operation_names(memops.kind[order])),
        "bytes": memops.bytes[order],
        "source": _memory(memops.source[order]),
        "destination": _memory(memops.destination[order]),
    }


def _memory(kind: Ints) -> CodedText:
    return CodedText(np.where((kind >= 0) & (kind < len(MEMORY_KINDS)), kind, -1), MEMORY_KINDS)


TABLE = EventTable(
    "mem_trace",
    "a memory copy or memory set",
    (
        name("kind", "[CUDA memcpy …] with its direction, or [CUDA memset], as Nsight's reports word it."),
        integer("bytes", "Bytes moved or set."),
        name("source", "Kind of the memory read: Pageable, Pinned, Device, …", nullable=True),
        name("destination", "Kind of the memory written.", nullable=True),
        *PLACE,
        *LAUNCH,
        *STAGE,
    ),
    build,
    ordered,
)
