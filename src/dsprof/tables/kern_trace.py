"""`kern_trace`: every kernel with its launch, its range, its stage and its step."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from dsprof.arrays import Ints, used_codes
from dsprof.attribute.launches import Launches
from dsprof.rules.families import FamilyCodes
from dsprof.rules.names import short_kernel_name
from dsprof.tables._launched import LAUNCH, PLACE, STAGE, by_start, launched
from dsprof.tables._table import CodedText, EventTable, integer, name
from dsprof.trace import dimensions


def ordered(launches: Launches) -> Ints:
    """A row per kernel, by start."""
    return by_start(launches.trace.kernels, launches.trace.part.kernels)


def build(launches: Launches, families: FamilyCodes, order: Ints) -> dict[str, Any]:
    """Values of the rows `order`."""
    kernels, all_names = launches.trace.kernels, launches.trace.names
    used, place = used_codes(kernels.name.take(order), len(all_names))
    names = tuple(all_names[code] for code in used.tolist())
    return {
        **launched(launches, kernels, 0, order),
        "kernel": CodedText(place, names),
        "short_name": CodedText(place, tuple(_short_name(text) for text in names)),
        "family": CodedText(families.of(used).take(place), families.names),
        "grid": CodedText(*dimensions(kernels.grid.take(order))),
        "block": CodedText(*dimensions(kernels.block.take(order))),
        "registers_per_thread": kernels.registers.take(order),
        "shared_memory_bytes": kernels.shared_memory.take(order),
    }


#: Every part of a report asks for the same.
_short_name = lru_cache(1 << 14)(short_kernel_name)


TABLE = EventTable(
    "kern_trace",
    "a kernel",
    (
        name("kernel", "The kernel's full, demangled name; (CUDA graph) for a replay traced as a whole."),
        name("short_name", "The same, short enough to read: its function and its functor."),
        name("family", "What it does, by its name: gemm, attention, copy, …; other where no rule fits."),
        *PLACE,
        *LAUNCH,
        name("grid", "Grid as x,y,z.", nullable=True),
        name("block", "Block as x,y,z.", nullable=True),
        integer("registers_per_thread", "Registers per thread.", True),
        integer("shared_memory_bytes", "Static and dynamic shared memory per block.", True),
        *STAGE,
    ),
    build,
    ordered,
)
