"""A report in columns: what was recorded, before anything is attributed.

Times are int64 nanoseconds on the report's own clock; text is a code into `Trace.names`; `thread` and
`process` are Nsight's ``globalTid`` and ``globalPid``, from which `pid_of` and `tid_of` give the numbers
that the operating system knows.
"""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar, overload

import attrs
import numpy as np
import numpy.typing as npt
from attrs import Factory, field

from dsprof.arrays import NULL, Bools, Ints, distinct, group_rows
from dsprof.records import frozen

Codes = npt.NDArray[np.int32]
_Events = TypeVar("_Events", bound="Events")

_TID_BITS = 0xFFFFFF
#: Payloads of more bits are handles or hashes: no numbers to count with, and sums of them would not fit into int64.
_NUMBER_BITS = 40
#: Calls that put a graph of kernels on the GPU, and those that put a kernel or a graph there, as their names begin.
GRAPH_LAUNCHES = ("cudaGraphLaunch", "cuGraphLaunch")
_LAUNCHING = ("cudaLaunchKernel", "cudaLaunchCooperativeKernel", "cuLaunchKernel", "cuLaunchCooperativeKernel",
              *GRAPH_LAUNCHES)  # fmt: skip
#: Calls that only wait, as their names begin.
SYNCHRONIZING = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaThreadSynchronize",
                  "cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize")  # fmt: skip
#: Calls that begin and end the capture of a stream into a graph, as their names begin.
CAPTURE_BEGIN = ("cudaStreamBeginCapture", "cuStreamBeginCapture")
CAPTURE_END = ("cudaStreamEndCapture", "cuStreamEndCapture")


def process_of(thread: Ints) -> Ints:
    """``globalPid`` of a ``globalTid``: the thread's bits cleared."""
    return thread & ~np.int64(_TID_BITS)


@overload
def pid_of(thread: int) -> int: ...
@overload
def pid_of(thread: Ints) -> Ints: ...
def pid_of(thread: Ints | int) -> Ints | int:
    """The operating system's process number in a ``globalTid`` or ``globalPid``."""
    return (thread >> 24) & _TID_BITS


def tid_of(thread: Ints) -> Ints:
    """The operating system's thread number in a ``globalTid``."""
    return thread & _TID_BITS


@frozen(eq=False)
class Events:
    """Columns of what began and ended, a row each."""

    start: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.start)


#: How ranges were made, by `Ranges.style`.
STYLES = ("PushPop", "StartEnd")


@frozen(eq=False)
class Ranges(Events):
    """NVTX ranges, a row each; `style` is a place in `STYLES`; `payload` is NULL where none.

    `truncated`: their end is not known; `cut`: they reach over the edge of the window that was selected, and have what
    of their time is inside.
    """

    range_id: Ints
    name: Codes
    domain: Codes
    style: Ints
    thread: Ints
    end_thread: Ints
    payload: Ints
    truncated: Bools
    cut: Bools = field(default=Factory(lambda self: np.zeros(len(self.start), np.bool_), takes_self=True))

    @cached_property
    def of_process(self) -> Bools:
        """True where a range belongs to its process: it was ended by another thread than began it."""
        shared: Bools = (self.style == 1) & (self.end_thread != NULL) & (self.end_thread != self.thread)
        return shared

    @cached_property
    def number(self) -> Ints:
        """The payload where it can be a number, of a request, a step or tokens; NULL where it is none, or too large."""
        return np.where((self.payload >> _NUMBER_BITS == 0) | (self.payload >> _NUMBER_BITS == -1), self.payload, NULL)


@frozen(eq=False)
class Calls(Events):
    """CUDA API calls, runtime and driver, a row each."""

    thread: Ints
    correlation: Ints
    name: Codes
    result: Ints


@frozen(eq=False)
class GpuEvents(Events):
    """What ran on a GPU, where, and the number of its launch."""

    process: Ints
    correlation: Ints
    device: Ints
    stream: Ints


@frozen(eq=False)
class Kernels(GpuEvents):
    """Kernels, a row each; after them the graph replays that were traced as a whole (`is_graph`)."""

    context: Ints
    name: Codes
    graph_node: Ints
    grid: Ints
    block: Ints
    registers: Ints
    shared_memory: Ints
    is_graph: Bools


@frozen(eq=False)
class MemOps(GpuEvents):
    """Memory copies and sets, a row each; `kind` is the copy's kind, -1 for a set; memory kinds NULL if unknown."""

    context: Ints
    kind: Ints
    bytes: Ints
    source: Ints
    destination: Ints
    graph_node: Ints

    @cached_property
    def pageable(self) -> Bools:
        """True for the copies from or to pageable memory of the host, where the report says of what kind it is."""
        pageable = MEMORY_KINDS.index("Pageable")
        of_host: Bools = (self.kind >= 0) & ((self.source == pageable) | (self.destination == pageable))
        return of_host


@frozen(eq=False)
class Overheads(Events):
    """What the profiler itself took of a thread's time, a row each."""

    thread: Ints


@frozen(eq=False)
class OffCpu(Events):
    """When threads that have ranges were off the CPU, a row each; two of a thread may overlap."""

    thread: Ints


@frozen(eq=False)
class GraphLaunches:
    """The host's calls that launch a CUDA graph, a row each."""

    start: Ints
    thread: Ints


def no_launches() -> GraphLaunches:
    """No graph was launched."""
    nothing = np.zeros(0, np.int64)
    return GraphLaunches(nothing, nothing)


def no_overheads() -> Overheads:
    """No overhead: for reports that say nothing of it."""
    nothing = np.zeros(0, np.int64)
    return Overheads(nothing, nothing, nothing)


def rows_of(events: _Events, rows: Ints | Bools) -> _Events:
    """Some rows of columns of events."""
    return type(events)(**{one.name: getattr(events, one.name)[rows] for one in attrs.fields(type(events))})


@frozen(eq=False)
class PythonSamples:
    """What Python was in at some moments: a row each, of a process and a Python thread of it, 1 being the main one.

    `stack` is a number; the frames of each are `frame_stack` and `frame_name`, by stack, the innermost first. `unread`:
    how many samples there are of which none can be read, where Python was to be sampled; else None.
    """

    start: Ints
    process: Ints
    thread: Ints
    stack: Ints
    frame_stack: Ints
    frame_name: Codes
    unread: int | None = None

    def __len__(self) -> int:
        return len(self.start)


@frozen(eq=False)
class GraphNodes:
    """Nodes of CUDA graphs by process, a row each: when, and on which thread, each was born in a capture.

    A node of a graph that was made of another graph was born where that one's was. Nodes whose birth the report does
    not hold are not there.
    """

    process: Ints
    node: Ints
    start: Ints
    thread: Ints

    def __len__(self) -> int:
        return len(self.node)


def no_nodes() -> GraphNodes:
    """No node: for reports without CUDA graphs, and where nobody asks for them."""
    nothing = np.zeros(0, np.int64)
    return GraphNodes(nothing, nothing, nothing, nothing)


def no_samples() -> PythonSamples:
    """No sample: for reports that were recorded without."""
    nothing = np.zeros(0, np.int64)
    return PythonSamples(nothing, nothing, nothing, nothing, nothing, nothing.astype(np.int32))


@frozen(eq=False)
class NcclCalls:
    """What NCCL says of its own calls, in the payload of their NVTX ranges: a row each; NULL for what one does not say.

    `range_id`: the range, as in `Ranges`; `communicator`: a number that is the same on all its ranks; `bytes`: what a
    rank sends; of calls that make or end a communicator `ranks`, how many it has, `rank`, which this one is in it, and
    `device`, the CUDA device.
    """

    range_id: Ints
    thread: Ints
    communicator: Ints
    bytes: Ints
    ranks: Ints
    rank: Ints
    device: Ints

    def __len__(self) -> int:
        return len(self.range_id)


def no_nccl() -> NcclCalls:
    """Nothing: for reports that say nothing of it."""
    return NcclCalls(*([np.zeros(0, np.int64)] * len(attrs.fields(NcclCalls))))


@frozen
class Part:
    """Which part of a report a trace holds: what was launched in ``[low, high)``, and what reaches into that time.

    The first `calls`, `kernels` and `memops` of the trace's columns were launched before `low` and are counted by an
    earlier part: here they only take time. `capturing`: threads that were in a stream capture at `low`.
    """

    low: int = NULL
    high: int = int(np.iinfo(np.int64).max)
    calls: int = 0
    kernels: int = 0
    memops: int = 0
    capturing: frozenset[int] = frozenset()


@frozen(eq=False)
class Operations(GpuEvents):
    """All GPU operations: the kernels first (``[:kernels]``), then the memory operations."""

    kernels: int


@frozen
class Impossible:
    """How many rows have an impossible time or size, by the words for what they are."""

    times: dict[str, int] = field(factory=dict)
    sizes: dict[str, int] = field(factory=dict)


@frozen
class Gpu:
    """A CUDA device of the machine that was profiled; rates are what the report says, 0 where it does not."""

    device: int
    name: str
    compute_capability: str = ""
    sm_count: int = 0
    clock_hz: int = 0
    memory_bandwidth_bytes_per_s: int = 0
    memory_bytes: int = 0


@frozen
class Selection:
    """What of a report was analyzed; what is None or empty selects nothing, and all is there.

    `begin_ns`, `end_ns`: a window ``[begin, end)`` on the report's clock, whose zero is the begin of the capture.
    """

    begin_ns: int | None = None
    end_ns: int | None = None
    devices: tuple[int, ...] = ()
    pids: tuple[int, ...] = ()

    @property
    def has_window(self) -> bool:
        """Is there a window of time?"""
        return self.begin_ns is not None or self.end_ns is not None

    def __str__(self) -> str:
        """As options of the command line; empty where all is there.

        >>> str(Selection(1_500_000_000, None, (0, 1), (123,)))
        '--window 1.5s.. --device 0,1 --pid 123'
        """
        begin, end = ("" if edge is None else _seconds(edge) for edge in (self.begin_ns, self.end_ns))
        window = [f"--window {begin}..{end}"] if self.has_window else []
        numbers = [("--device", self.devices), ("--pid", self.pids)]
        return " ".join([*window, *(f"{option} {','.join(map(str, some))}" for option, some in numbers if some)])


def _seconds(ns: int) -> str:
    """A time in seconds with as many digits as it has."""
    whole, rest = divmod(abs(ns), 10**9)
    return f"{'-' * (ns < 0)}{whole}{f'.{rest:09}'.rstrip('0') if rest else ''}s"


@frozen
class Message:
    """What Nsight Systems says of a capture: its kind, empty for one that is not known, its words without paths.

    `times`: how often it says so; `number`: the sum of what it counts, where it counts.
    """

    kind: str
    text: str
    times: int = 1
    number: int | None = None


@frozen
class Report:
    """What the report says of itself; no environment, no paths, no process list.

    `session_start_ns`: what the clock of its host, UTC, said at the zero of its times; None where it does not say.
    `tracing`: how CUDA was traced, hardware or software, where nsys says it; `messages`: what it says that matters,
    `diagnostics` the same in its own words.
    """

    file: str
    sha256: str = ""
    exporter: str = ""
    schema: str = ""
    driver: str = ""
    cuda_driver: str = ""
    duration_ns: int = 0
    graph_mode: str = ""
    gpus: tuple[Gpu, ...] = ()
    missing: tuple[str, ...] = ()
    diagnostics: tuple[str, ...] = ()
    selection: Selection = field(factory=Selection)
    messages: tuple[Message, ...] = ()
    tracing: str = ""
    session_start_ns: int | None = None

    @property
    def analyzed_ns(self) -> int:
        """How long the capture is, or the window of it that was selected; 0 where that is not known."""
        begin, end = self.selection.begin_ns or 0, self.selection.end_ns
        return max(min(self.duration_ns, self.duration_ns if end is None else end) - begin, 0)


@frozen(eq=False)
class Trace:
    """One report in columns.

    `call_of_op`: the API call behind each operation, if that is known. `impossible`: what the report says of times and
    sizes that cannot be. `elsewhere`: True for the API calls that launched something which was not selected, on another
    device; None where there is none. `samples`, `graph_launches`, `nodes`, `nccl` and `off_cpu`, which is None where
    the report does not tell it, are those of the whole report, as the ranges are.
    """

    report: Report
    names: tuple[str, ...]
    ranges: Ranges
    calls: Calls
    kernels: Kernels
    memops: MemOps
    overheads: Overheads = field(factory=no_overheads)
    off_cpu: OffCpu | None = None
    part: Part = field(factory=Part)
    call_of_op: Ints | None = None
    impossible: Impossible = field(factory=Impossible)
    samples: PythonSamples = field(factory=no_samples)
    graph_launches: GraphLaunches = field(factory=no_launches)
    elsewhere: Bools | None = None
    nodes: GraphNodes = field(factory=no_nodes)
    nccl: NcclCalls = field(factory=no_nccl)

    @cached_property
    def operations(self) -> Operations:
        """Kernels and memory operations in one set of columns."""
        both = (self.kernels, self.memops)
        columns = {
            one.name: np.concatenate([getattr(part, one.name) for part in both]) for one in attrs.fields(GpuEvents)
        }
        return Operations(kernels=len(self.kernels), **columns)

    @cached_property
    def own_ops(self) -> Bools | slice:
        """The operations that this part counts: all, but for those carried over."""
        part = self.part
        if not part.kernels and not part.memops:
            return slice(None)
        own = np.ones(len(self.operations), np.bool_)
        own[: part.kernels] = False
        own[len(self.kernels) : len(self.kernels) + part.memops] = False
        return own

    @property
    def own_calls(self) -> slice:
        """The API calls that this part counts."""
        return slice(self.part.calls, None)

    @property
    def own_kernels(self) -> slice:
        """The kernels that this part counts."""
        return slice(self.part.kernels, None)

    @property
    def own_memops(self) -> slice:
        """The memory operations that this part counts."""
        return slice(self.part.memops, None)

    @property
    def is_whole(self) -> bool:
        """Is it all of its report?"""
        return self.part.low == NULL and self.part.high == np.iinfo(np.int64).max

    def clip(self, times: Ints) -> Ints:
        """Times moved into this part's own time."""
        return times if self.is_whole else np.clip(times, self.part.low, self.part.high)

    def named(self, *prefixes: str) -> Bools:
        """For each entry of `names`: is it an API call's of this part, and does it begin with one of the prefixes?"""
        begins = np.zeros(len(self.names), np.bool_)
        begins[self._call_names] = [self.names[code].startswith(prefixes) for code in self._call_names.tolist()]
        return begins

    @cached_property
    def _call_names(self) -> Ints:
        """Codes of the API calls' names, of which there are few, however many ranges and kernels have names."""
        return distinct(self.calls.name.astype(np.int64))

    @cached_property
    def call_synchronizes(self) -> Bools:
        """True for the API calls that only wait: stream, event, device and context synchronization."""
        return self.named(*SYNCHRONIZING)[self.calls.name]

    @cached_property
    def call_launches(self) -> Bools:
        """True for the API calls that must have put a kernel on the GPU: succeeded, and not under capture."""
        candidate = self.named(*_LAUNCHING)[self.calls.name] & np.isin(self.calls.result, (0, NULL))
        if self.elsewhere is not None:
            candidate &= ~self.elsewhere
        return candidate & (self._capture_depth <= 0)

    @cached_property
    def _capture_depth(self) -> Ints:
        """How many stream captures the thread of each call is in, the call's own begin counted, its end not."""
        begins, ends = (self.named(*which)[self.calls.name] for which in (CAPTURE_BEGIN, CAPTURE_END))
        change = begins.astype(np.int64) - ends
        change[: self.part.calls] = 0
        if not len(change) or not (change.any() or self.part.capturing):
            return change
        order = np.lexsort((self.calls.start, self.calls.thread))
        depth, thread = np.cumsum(change[order]), self.calls.thread[order]
        heads = np.flatnonzero(np.append(True, thread[1:] != thread[:-1]))
        already = np.isin(thread[heads], list(self.part.capturing)).astype(np.int64)
        before = np.append(0, depth[heads[1:] - 1]) - already
        within = np.empty(len(order), np.int64)
        within[order] = depth - np.repeat(before, np.diff(np.append(heads, len(order))))
        return within

    def capturing_at_end(self) -> frozenset[int]:
        """Threads that are in a stream capture when this part ends."""
        if not len(self.calls) or not (self.part.capturing or self._capture_depth.any()):
            return self.part.capturing
        order = np.lexsort((self.calls.start, self.calls.thread))
        thread = self.calls.thread[order]
        last = order[np.append(thread[1:] != thread[:-1], True)]
        silent = self.part.capturing - set(thread.tolist())
        return silent | set(self.calls.thread[last[self._capture_depth[last] > 0]].tolist())


#: CUPTI's copy kinds as Nsight's reports word them, by number.
_COPY_KINDS = (
    "Unknown", "Host-to-Device", "Device-to-Host", "Host-to-Array", "Array-to-Host", "Array-to-Array",
    "Array-to-Device", "Device-to-Array", "Device-to-Device", "Host-to-Host", "Peer-to-Peer",
    "Unified Host-to-Device", "Unified Device-to-Host", "Unified Device-to-Device",
)  # fmt: skip
_OPERATIONS = (*(f"[CUDA memcpy {kind}]" for kind in _COPY_KINDS), "[CUDA memset]")
#: CUPTI's memory kinds as Nsight words them, by number.
MEMORY_KINDS = (
    "Pageable",
    "Pinned",
    "Device",
    "Array",
    "Managed",
    "Device Static",
    "Managed Static",
    "Unknown",
)

#: Bits of the y and z dimension of a grid or block in one packed number; CUDA allows 16 in either.
_AXIS_BITS = 16


def operation_names(kind: Ints) -> tuple[Ints, tuple[str, ...]]:
    """Memory operations in Nsight's words: codes and strings; `kind` as in `MemOps`."""
    known = (kind >= 0) & (kind < len(_COPY_KINDS))
    return np.where(kind == -1, len(_COPY_KINDS), np.where(known, kind, 0)), _OPERATIONS


def pack_dimensions(x: Ints, y: Ints, z: Ints) -> Ints:
    """A grid or block in one number; NULL where a dimension is, or is none that CUDA allows."""
    known = (x >> 31 == 0) & (y >> _AXIS_BITS == 0) & (z >> _AXIS_BITS == 0)
    x, y, z = (np.where(known, axis, 0) for axis in (x, y, z))
    return np.where(known, (((x << _AXIS_BITS) | y) << _AXIS_BITS) | z, NULL)


def dimensions(packed: Ints) -> tuple[Ints, tuple[str, ...]]:
    """Packed grids or blocks as text ``x,y,z``: codes (-1 for unknown) and strings."""
    heads, codes = group_rows(packed)
    sizes = packed[heads]
    if len(sizes) and sizes[0] == NULL:
        codes, sizes = codes - 1, sizes[1:]
    mask = (1 << _AXIS_BITS) - 1
    strings = tuple(f"{size >> 2 * _AXIS_BITS},{size >> _AXIS_BITS & mask},{size & mask}" for size in sizes.tolist())
    return codes, strings
