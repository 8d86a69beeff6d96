"""Which tables and columns of an Nsight Systems export are needed, from exporter 2020.3 to 2026.x.

Any table and any column may be missing: Nsight creates tables only when there is something to put in
them, and its schema grew from version to version. A missing column is NULL throughout. What was seen to
change is noted beside the column.
"""

from __future__ import annotations

import re

from dsprof.records import frozen

KERNEL = "CUPTI_ACTIVITY_KIND_KERNEL"
RUNTIME = "CUPTI_ACTIVITY_KIND_RUNTIME"
MEMCPY = "CUPTI_ACTIVITY_KIND_MEMCPY"
MEMSET = "CUPTI_ACTIVITY_KIND_MEMSET"
GRAPH = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"  # from schema 3.11.1
#: The nodes of graphs; in nsys 2022 and 2023 the second table, which later is of whole graphs.
NODES, GRAPH_EVENTS = "CUDA_GRAPH_NODE_EVENTS", "CUDA_GRAPH_EVENTS"
NVTX = "NVTX_EVENTS"
OVERHEAD = "PROFILER_OVERHEAD"
SWITCH, OS_CALL = "SCHED_EVENTS", "OSRT_API"
STRINGS = "StringIds"
#: Tables of dsprof's own exports: see `nsys.python_samples`.
PYTHON, PYTHON_STACKS = "DSPROF_PYTHON_SAMPLES", "DSPROF_PYTHON_CALLCHAINS"
#: And of what NCCL says: see `nsys.nccl`.
NCCL = "DSPROF_NCCL"
#: The version table: none in 2020 and 2021, the first name up to 2023.1.2, the second from 2023.4.4.
VERSION_TABLES = ("EXPORT_META_DATA", "META_DATA_EXPORT")
#: Names and values that describe the machine.
SYSTEM = "TARGET_INFO_SYSTEM_ENV"
#: Columns that hold ids of strings, as far as their names tell; exports also say it in their declarations.
REFERENCE = re.compile(
    r"\w*[nN]ameId|\w*[tT]extId|demangledName|shortName|mangledName|kernelName|funcName|varName|srcFile|symbol|module"
    r"|providerName|taskName|description|CpuInstruction|filenameId|contentId"
)
#: Tables whose absence is worth telling, with what is lost.
EXPECTED = {NVTX: "NVTX ranges", KERNEL: "kernels", RUNTIME: "CUDA API calls"}


@frozen
class Source:
    """A table, and the integer columns that are read from it; `start`, and `end` if it is named, must be there.

    `details` are needed by the tables of events alone (`kern_trace`, `mem_trace`).
    """

    table: str
    columns: tuple[str, ...]
    details: tuple[str, ...] = ()


_PLACE = ("start", "end", "globalPid", "correlationId", "deviceId", "streamId")

CALLS = Source(RUNTIME, ("start", "end", "globalTid", "correlationId", "nameId", "returnValue"))
KERNELS = Source(
    KERNEL,
    (*_PLACE, "demangledName"),
    (
        "contextId", "gridX", "gridY", "gridZ", "blockX", "blockY", "blockZ", "registersPerThread",
        "staticSharedMemory", "dynamicSharedMemory", "graphNodeId",
    ),
)  # fmt: skip
GRAPHS = Source(GRAPH, _PLACE, ("contextId",))
COPIES = Source(MEMCPY, (*_PLACE, "bytes", "copyKind", "srcKind", "dstKind"), ("contextId", "graphNodeId"))
SETS = Source(MEMSET, (*_PLACE, "bytes"), ("contextId", "memKind", "graphNodeId"))
#: The tables of GPU operations.
OPERATIONS = (KERNELS, GRAPHS, COPIES, SETS)
OVERHEADS = Source(OVERHEAD, ("start", "end", "globalTid"))
#: The scheduler's: when a thread came onto a CPU (`isSchedIn`) or went off it.
SWITCHES = Source(SWITCH, ("start", "isSchedIn", "globalTid"))
OS_CALLS = Source(OS_CALL, ("start", "end", "globalTid", "nameId"))
RANGES = Source(NVTX, ("start", "end", "eventType", "globalTid", "endGlobalTid", "textId", "domainId"))
#: The columns of the tables that tell how graphs were made; which of the tables, `nsys.graph_nodes` says.
NODE_COLUMNS = ("start", "globalTid", "graphNodeId", "originalGraphNodeId")
#: The tables whose rows have a time.
EVENTS = (RANGES, CALLS, *OPERATIONS, OVERHEADS)
#: The integer forms in which a range's payload may arrive; the first that is not NULL counts.
PAYLOADS = ("int64Value", "uint64Value", "int32Value", "uint32Value")

#: NVTX_EVENTS.eventType: push/pop and start/end, live (59, 60) and from text logs (70, 71).
PUSH_POP, START_END = (59, 70), (60, 71)
RANGE_TYPES = PUSH_POP + START_END
DOMAIN_CREATED, DOMAIN_DESTROYED = 75, 76
#: All tables of which rows are told by their number in the file, or of which many are read.
READ = (STRINGS, *(source.table for source in EVENTS), SWITCH, OS_CALL, NODES, GRAPH_EVENTS, PYTHON,
        PYTHON_STACKS, NCCL)  # fmt: skip
