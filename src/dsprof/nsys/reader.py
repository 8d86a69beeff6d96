"""An SQLite export of Nsight Systems, read into a `Trace`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dsprof.arrays import distinct
from dsprof.arrays.backend import Workers
from dsprof.errors import NothingRecorded
from dsprof.nsys import schema
from dsprof.nsys.about import report_of
from dsprof.nsys.export import Export
from dsprof.nsys.inputs import Input
from dsprof.nsys.rows import calls_of, kernels_of, memops_of, only_caller, overheads_of, ranges_of
from dsprof.nsys.sound import check
from dsprof.nsys.strings import Names
from dsprof.trace import Trace

Progress = Callable[[str], None]


def read(given: Input | Path, progress: Progress = lambda sentence: None, details: bool = True) -> Trace:
    """Read an export, whatever its version.

    `details`: also what the tables of events alone need (grids, registers, graph nodes, kinds of memory), NULL
    otherwise. `progress` is told what is being read. Raises `ReportDamaged`, `NvprofDatabase`, `ReportChanging`,
    `NothingRecorded`.
    """
    with Export(given) as export, Workers(2) as beside:
        export.sniff()
        checked, hashed = beside.submit(check, export.input), beside.submit(lambda: export.input.sha256)
        progress("reading NVTX ranges")
        names = Names()
        ranges = ranges_of(export, names)
        progress("reading CUDA API calls")
        called = export.integers(schema.CALLS)
        names.learn(export, called["nameId"])
        calls = calls_of(called, names)
        caller = only_caller(distinct(calls.thread))
        progress("reading kernels")
        kernels, graphs = (export.integers(source, details=details) for source in (schema.KERNELS, schema.GRAPHS))
        names.learn(export, kernels["demangledName"])
        kernels_and_graphs = kernels_of(kernels, graphs, names, caller)
        progress("reading copies")
        copies, sets = (export.integers(source, details=details) for source in (schema.COPIES, schema.SETS))
        memops = memops_of(copies, sets, caller)
        overheads = overheads_of(export)
        hashed.result()
        report = report_of(export)
        checked.result()
    found = export.possible.found()
    trace = Trace(report, names.all(), ranges, calls, kernels_and_graphs, memops, overheads, impossible=found)
    if not (len(ranges) or len(calls) or len(trace.operations)):
        raise nothing_recorded(report.file)
    return trace


def nothing_recorded(name: str) -> NothingRecorded:
    """The error for a report without ranges and without CUDA events."""
    return NothingRecorded(
        f"{name} holds neither NVTX ranges nor CUDA events.",
        "Record with `nsys profile --trace=cuda,nvtx`, and see whether the program ran to its end.",
    )


def domains_opened(path: Path) -> bool:
    """Does the export tell of NVTX domains, whatever was recorded in them? Raises `ReportDamaged`."""
    with Export(path) as export:
        query = f"SELECT 1 FROM {schema.NVTX} WHERE eventType IN (?, ?) LIMIT 1"  # noqa: S608
        types = (schema.DOMAIN_CREATED, schema.DOMAIN_DESTROYED)
        return export.has(schema.NVTX, "eventType") and bool(export.rows(query, types))
