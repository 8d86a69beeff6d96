"""An SQLite export of Nsight Systems, read into a `Trace`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dsprof.arrays import distinct
from dsprof.arrays.backend import Workers
from dsprof.errors import NothingRecorded
from dsprof.nsys import schema
from dsprof.nsys.about import report_of
from dsprof.nsys.ahead import check
from dsprof.nsys.export import Export
from dsprof.nsys.graph_nodes import NODE, graph_nodes_of, knows_modules
from dsprof.nsys.inputs import Input
from dsprof.nsys.nccl import nccl_of
from dsprof.nsys.off_cpu import off_cpu_of
from dsprof.nsys.python_samples import python_samples_of
from dsprof.nsys.rows import calls_of, graph_launches_of, kernels_of, memops_of, only_caller, overheads_of, ranges_of
from dsprof.nsys.selection import ALL, Wanted, choose
from dsprof.nsys.strings import Names
from dsprof.trace import Part, Trace, no_nodes

Progress = Callable[[str], None]


def read(
    given: Input | Path,
    progress: Progress = lambda sentence: None,
    details: bool = True,
    wanted: Wanted = ALL,
) -> Trace:
    """Read an export, whatever its version; of it what is `wanted`.

    `details`: also what the tables of events alone need (grids, registers, graph nodes, kinds of memory), NULL
    otherwise. `progress` is told what is being read. Raises `ReportDamaged`, `NvprofDatabase`, `ReportChanging`,
    `NothingRecorded`, `SelectionEmpty`.
    """
    with Export(given) as export, Workers(2) as beside:
        export.sniff()
        checked, hashed = beside.submit(check, export.input), beside.submit(lambda: export.input.sha256)
        chosen = choose(export, wanted)
        progress("reading NVTX ranges")
        names = Names()
        ranges = ranges_of(export, names)
        nccl = nccl_of(export, ranges, names)
        born = knows_modules(names) or len(nccl) > 0
        nodes = graph_nodes_of(export) if born else no_nodes()
        progress("reading CUDA API calls")
        called = export.integers(schema.CALLS)
        names.learn(export, called["nameId"])
        calls = calls_of(called, names)
        caller = only_caller(distinct(calls.thread))
        progress("reading kernels")
        extra = (NODE,) if born and not details else ()
        kernels = export.integers(schema.KERNELS, details=details, extra=extra)
        graphs = export.integers(schema.GRAPHS, details=details)
        names.learn(export, kernels["demangledName"])
        kernels_and_graphs = kernels_of(kernels, graphs, names, caller)
        progress("reading copies")
        copies, sets = (export.integers(source, details=details) for source in (schema.COPIES, schema.SETS))
        memops = memops_of(copies, sets, caller)
        overheads, samples = overheads_of(export), python_samples_of(export, names)
        elsewhere = None
        if chosen is not None:
            ranges, overheads, samples = chosen.ranges(ranges), chosen.overheads(overheads), chosen.samples(samples)
            calls, kernels_and_graphs, memops, elsewhere = chosen.events(calls, kernels_and_graphs, memops)
        launched = graph_launches_of(calls, names)
        off_cpu = off_cpu_of(export, distinct(ranges.thread))
        hashed.result()
        report = report_of(export)
        checked.result()
    found = export.possible.found()
    part = Part() if chosen is None else Part(capturing=chosen.capturing)
    trace = Trace(
        report if chosen is None else chosen.report(report), names.all(), ranges, calls, kernels_and_graphs, memops,
        overheads, off_cpu, part, impossible=found, samples=samples, elsewhere=elsewhere, graph_launches=launched,
        nodes=nodes, nccl=nccl,
    )  # fmt: skip
    if not (len(ranges) or len(calls) or len(trace.operations)):
        raise nothing_recorded(report.file) if chosen is None else chosen.nothing(report)
    return trace


def nothing_recorded(name: str) -> NothingRecorded:
    """The error for a report without ranges and without CUDA events."""
    return NothingRecorded(
        f"{name} holds neither NVTX ranges nor CUDA events.",
        "Record with `nsys profile --trace=cuda,nvtx`, and see whether the program ran to its end.",
    )
