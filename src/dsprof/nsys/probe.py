"""What a fresh export holds, told without reading its calls and kernels: a capture asks before it is analyzed."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from dsprof.nsys import schema
from dsprof.nsys.about import driver_of, gpus_of
from dsprof.nsys.export import Export
from dsprof.nsys.inputs import Input
from dsprof.nsys.rows import ranges_of
from dsprof.nsys.strings import Names
from dsprof.trace import Gpu


@frozen
class Probe:
    """What there is: the driver and the GPUs, NVTX ranges and their domains, kernels (or whole graphs), CUDA events.

    `opened`: the program used NVTX, whatever was recorded of it.
    """

    driver: str
    gpus: tuple[Gpu, ...]
    ranges: int
    domains: frozenset[str]
    opened: bool
    kernels: bool
    events: bool

    @property
    def is_empty(self) -> bool:
        """Was nothing recorded?"""
        return not (self.ranges or self.events)


def probe(given: Input | Path) -> Probe:
    """Look at an export. Raises `ReportDamaged` and `NvprofDatabase`."""
    with Export(given) as export:
        export.sniff()
        names = Names()
        ranges = ranges_of(export, names)
        texts = names.all()
        kernels = any(_has_rows(export, table) for table in (schema.KERNEL, schema.GRAPH))
        return Probe(
            driver=driver_of(export),
            gpus=gpus_of(export),
            ranges=len(ranges),
            domains=frozenset(texts[code] for code in set(ranges.domain.tolist())),
            opened=_opened(export),
            kernels=kernels,
            events=kernels or any(_has_rows(export, table) for table in (schema.RUNTIME, schema.MEMCPY, schema.MEMSET)),
        )


def _has_rows(export: Export, table: str) -> bool:
    return export.has(table, "start") and export.ends_of(table) is not None


def _opened(export: Export) -> bool:
    query = f"SELECT 1 FROM {schema.NVTX} WHERE eventType IN (?, ?) LIMIT 1"
    types = (schema.DOMAIN_CREATED, schema.DOMAIN_DESTROYED)
    return export.has(schema.NVTX, "eventType") and bool(export.rows(query, types))
