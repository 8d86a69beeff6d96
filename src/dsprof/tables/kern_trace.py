"""`kern_trace`: every kernel with its launch, its range, its stage and its step."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.attributed import Attributed
from dsprof.attribution import Ints
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
    grid, block = dimensions(kernels.grid[order]), dimensions(kernels.block[order])
    return {
        **launched(a, kernels, 0, order),
        "kernel": Coded(kernels.name[order], a.trace.names),
        "short_name": Coded(kernels.name[order], _short_names(a)),
        "family": Coded(a.families_of(kernels.name[order]), a.family_names),
        "grid": Coded(*grid),
        "block": Coded(*block),
        "registers_per_thread": kernels.registers[order],
        "shared_memory_bytes": kernels.shared_memory[order],
    }


def _short_names(a: Attributed) -> tuple[str, ...]:
    """Short names by code, of the kernels' names alone."""
    used = set(np.flatnonzero(np.bincount(a.trace.kernels.name)).tolist())
    return tuple(short_kernel_name(text) if code in used else "" for code, text in enumerate(a.trace.names))


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
