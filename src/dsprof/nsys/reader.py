"""An SQLite export of Nsight Systems, read into a `Trace`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dsprof.attribution import distinct
from dsprof.errors import NothingRecorded
from dsprof.nsys import schema
from dsprof.nsys.about import digest_of, report_of
from dsprof.nsys.export import Export, Names
from dsprof.nsys.rows import calls_of, kernels_of, memops_of, only_caller, overheads_of, ranges_of
from dsprof.trace import Trace

Progress = Callable[[str], None]


def read(path: Path, progress: Progress = lambda sentence: None, details: bool = True) -> Trace:
    """Read the export at `path`, whatever its version.

    `details`: also what the tables of events alone need (grids, registers, graph nodes, kinds of memory), NULL
    otherwise. `progress` is told what is being read. Raises `ReportDamaged`, `NvprofDatabase`, `NothingRecorded`.
    """
    with Export(path) as export, ThreadPoolExecutor(1) as beside:
        export.sniff()
        digest = beside.submit(digest_of, path)
        progress("reading names")
        names = Names(export)
        progress("reading NVTX ranges")
        ranges = ranges_of(export, names)
        progress("reading CUDA API calls")
        calls = calls_of(export.integers(schema.CALLS), names)
        caller = only_caller(distinct(calls.thread))
        progress("reading kernels")
        kernels, graphs = (export.integers(source, details=details) for source in (schema.KERNELS, schema.GRAPHS))
        kernels_and_graphs = kernels_of(kernels, graphs, names, caller)
        progress("reading copies")
        copies, sets = (export.integers(source, details=details) for source in (schema.COPIES, schema.SETS))
        memops = memops_of(copies, sets, caller)
        overheads, report = overheads_of(export), report_of(export, digest.result())
    trace = Trace(report, names.all(), ranges, calls, kernels_and_graphs, memops, overheads)
    if not (len(ranges) or len(calls) or len(trace.operations)):
        raise nothing_recorded(path)
    return trace


def nothing_recorded(path: Path) -> NothingRecorded:
    """The error for a report without ranges and without CUDA events."""
    return NothingRecorded(
        f"{path.name} holds neither NVTX ranges nor CUDA events.",
        "Record with `nsys profile --trace=cuda,nvtx`, and see whether the program ran to its end.",
    )


def domains_opened(path: Path) -> bool:
    """Does the export tell of NVTX domains, whatever was recorded in them? Raises `ReportDamaged`."""
    with Export(path) as export:
        query = f"SELECT 1 FROM {schema.NVTX} WHERE eventType IN (?, ?) LIMIT 1"  # noqa: S608
        types = (schema.DOMAIN_CREATED, schema.DOMAIN_DESTROYED)
        return export.has(schema.NVTX, "eventType") and bool(export.rows(query, types))
