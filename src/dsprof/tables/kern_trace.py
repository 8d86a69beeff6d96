"""`kern_trace`: every kernel with its launch, its range, its stage and its step."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from dsprof.arrays import Ints, used_codes
from dsprof.attributed import Attributed
from dsprof.launched import LAUNCH, PLACE, STAGE, by_start, launched
from dsprof.names import short_kernel_name
from dsprof.table import Coded, event_table, integer, name
from dsprof.trace import dimensions


def order(a: Attributed) -> Ints:
    """A row per kernel, by start."""
    return by_start(a.trace.kernels, a.trace.part.kernels)


def build(a: Attributed, order: Ints) -> dict[str, Any]:
    """Values of the rows `order`."""
    kernels = a.trace.kernels
    used, place = used_codes(kernels.name.take(order), len(a.trace.names))
    names = tuple(a.trace.names[code] for code in used.tolist())
    return {
        **launched(a, kernels, 0, order),
        "kernel": Coded(place, names),
        "short_name": Coded(place, tuple(_short_name(text) for text in names)),
        "family": Coded(a.families_of(used).take(place), a.family_names),
        "grid": Coded(*dimensions(kernels.grid.take(order))),
        "block": Coded(*dimensions(kernels.block.take(order))),
        "registers_per_thread": kernels.registers.take(order),
        "shared_memory_bytes": kernels.shared_memory.take(order),
    }


#: Every part of a report asks for the same.
_short_name = lru_cache(1 << 14)(short_kernel_name)


TABLE = event_table(
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
    order,
    build,
)
