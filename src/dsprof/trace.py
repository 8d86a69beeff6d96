"""A report in columns: what was recorded, before anything is attributed.

Times are int64 nanoseconds on the report's own clock; text is a code into `Trace.names`; `thread` and
`process` are Nsight's ``globalTid`` and ``globalPid``, from which `pid_of` and `tid_of` give the numbers
that the operating system knows.
"""

from __future__ import annotations

from functools import cached_property
from typing import overload

import attrs
import numpy as np
import numpy.typing as npt
from attrs import field, frozen

from dsprof.arrays import NULL, Bools, Ints, group_rows

Codes = npt.NDArray[np.int32]

_TID_BITS = 0xFFFFFF
#: Payloads of more bits are handles or hashes: no numbers to count with, and sums of them would not fit into int64.
_NUMBER_BITS = 40
#: Calls that put a kernel or a graph of kernels on the GPU, as their names begin.
_LAUNCHING = ("cudaLaunchKernel", "cudaLaunchCooperativeKernel", "cuLaunchKernel", "cuLaunchCooperativeKernel",
              "cudaGraphLaunch", "cuGraphLaunch")  # fmt: skip
#: Calls that only wait, as their names begin.
SYNCHRONIZING = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaEventSynchronize", "cudaThreadSynchronize",
                  "cuCtxSynchronize", "cuStreamSynchronize", "cuEventSynchronize")  # fmt: skip
_CAPTURE_BEGIN = ("cudaStreamBeginCapture", "cuStreamBeginCapture")
_CAPTURE_END = ("cudaStreamEndCapture", "cuStreamEndCapture")


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
class Ranges:
    """NVTX ranges, a row each; `style` is 0 for push/pop, 1 for start/end; `payload` is NULL where none."""

    range_id: Ints
    name: Codes
    domain: Codes
    style: Ints
    thread: Ints
    end_thread: Ints
    start: Ints
    end: Ints
    payload: Ints
    truncated: Bools

    def __len__(self) -> int:
        return len(self.start)

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
class Calls:
    """CUDA API calls, runtime and driver, a row each."""

    start: Ints
    end: Ints
    thread: Ints
    correlation: Ints
    name: Codes
    result: Ints

    def __len__(self) -> int:
        return len(self.start)


@frozen(eq=False)
class Kernels:
    """Kernels, a row each; after them the graph replays that were traced as a whole (`is_graph`)."""

    start: Ints
    end: Ints
    process: Ints
    correlation: Ints
    device: Ints
    context: Ints
    stream: Ints
    name: Codes
    graph_node: Ints
    grid: Ints
    block: Ints
    registers: Ints
    shared_memory: Ints
    is_graph: Bools

    def __len__(self) -> int:
        return len(self.start)


@frozen(eq=False)
class MemOps:
    """Memory copies and sets, a row each; `kind` is the copy's kind, -1 for a set; memory kinds NULL if unknown."""

    start: Ints
    end: Ints
    process: Ints
    correlation: Ints
    device: Ints
    context: Ints
    stream: Ints
    kind: Ints
    bytes: Ints
    source: Ints
    destination: Ints
    graph_node: Ints

    def __len__(self) -> int:
        return len(self.start)


@frozen(eq=False)
class Overheads:
    """What the profiler itself took of a thread's time, a row each."""

    start: Ints
    end: Ints
    thread: Ints

    def __len__(self) -> int:
        return len(self.start)


def no_overheads() -> Overheads:
    """No overhead: for reports that say nothing of it."""
    nothing = np.zeros(0, np.int64)
    return Overheads(nothing, nothing, nothing)


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
class Operations:
    """All GPU operations: the kernels first (``[:kernels]``), then the memory operations."""

    kernels: int
    start: Ints
    end: Ints
    process: Ints
    correlation: Ints
    device: Ints
    stream: Ints

    def __len__(self) -> int:
        return len(self.start)


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
class Report:
    """What the report says of itself; no environment, no paths, no process list."""

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


@frozen(eq=False)
class Trace:
    """One report in columns.

    `call_of_op`: the API call behind each operation, if that is known. `impossible`: what the report says of times and
    sizes that cannot be.
    """

    report: Report
    names: tuple[str, ...]
    ranges: Ranges
    calls: Calls
    kernels: Kernels
    memops: MemOps
    overheads: Overheads = field(factory=no_overheads)
    part: Part = field(factory=Part)
    call_of_op: Ints | None = None
    impossible: Impossible = field(factory=Impossible)

    @cached_property
    def operations(self) -> Operations:
        """Kernels and memory operations in one set of columns."""
        both = (self.kernels, self.memops)
        columns = {
            one.name: np.concatenate([getattr(part, one.name) for part in both])
            for one in attrs.fields(Operations)
            if one.name != "kernels"
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
        """For each entry of `names`: does it begin with one of the prefixes?"""
        return np.fromiter((name.startswith(prefixes) for name in self.names), np.bool_, len(self.names))

    @cached_property
    def call_synchronizes(self) -> Bools:
        """True for the API calls that only wait: stream, event, device and context synchronization."""
        return self.named(*SYNCHRONIZING)[self.calls.name]

    @cached_property
    def call_launches(self) -> Bools:
        """True for the API calls that must have put a kernel on the GPU: succeeded, and not under capture."""
        candidate = self.named(*_LAUNCHING)[self.calls.name] & np.isin(self.calls.result, (0, NULL))
        return candidate & (self._capture_depth <= 0)

    @cached_property
    def _capture_depth(self) -> Ints:
        """How many stream captures the thread of each call is in, the call's own begin counted, its end not."""
        begins, ends = (self.named(*which)[self.calls.name] for which in (_CAPTURE_BEGIN, _CAPTURE_END))
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
