"""Why a GPU was idle: all that is told of each cause, in one place."""

from __future__ import annotations

from attrs import frozen

from dsprof.trace import SYNCHRONIZING

#: What the first screen calls a stage whose GPU waited for such causes.
LAUNCH, HOST, COLD, ALLOCATION = "launch-bound", "host-bound", "cold start", "allocation-bound"
SYNC, COPY, LATENCY, PROFILER = "sync-bound", "copy-bound", "latency-bound", "profiler-bound"
QUEUED, SHARED = "queue-bound", "shared GPU"


@frozen
class Cause:
    """A cause of idle time.

    `meaning` ends the sentence of its column, `words` are those of a verdict, `short` those of a plot; a stage with
    most of its idle time in causes of one `kind` is called that. `calls`: how the names begin of the CUDA API calls
    that are this cause.
    """

    name: str
    meaning: str
    words: str
    short: str
    kind: str
    calls: tuple[str, ...] = ()


#: By name, in the order in which a cause is preferred where several hold at once.
CAUSES = {
    cause.name: cause
    for cause in (
        Cause("queued", "the GPU ran what its thread had launched before it",
              "what was launched before it", "launched before", QUEUED),
        Cause("other_work", "the GPU ran operations of the process that were launched elsewhere",
              "other work on the GPU", "other work on the GPU", SHARED),
        Cause("latency", "an operation was launched, and had not begun",
              "launch latency", "launch latency", LATENCY),
        Cause("profiler", "the profiler's own overhead on the thread",
              "the profiler", "profiler", PROFILER),
        Cause("load", "the thread loaded kernels or set them up",
              "loading kernels", "loading kernels", COLD,
              ("cuModuleLoad", "cuLibraryLoad", "cuLibraryGet", "cuModuleGet", "cuKernelGetFunction",
               "cuKernelSetAttribute", "cuFuncSetAttribute", "cudaFuncSetAttribute")),
        Cause("alloc", "the thread allocated or freed memory",
              "memory allocation", "allocation", ALLOCATION,
              ("cudaMalloc", "cudaFree", "cudaHostAlloc", "cudaHostRegister", "cuMemAlloc", "cuMemFree", "cuMemCreate",
               "cuMemMap")),
        Cause("pageable", "the thread was in a call that copies from or to pageable memory of the host",
              "copies of pageable memory", "pageable copies", COPY),
        Cause("copy", "the thread was in another call that copies or sets memory",
              "copy calls", "other copies", COPY, ("cudaMemcpy", "cudaMemset", "cuMemcpy", "cuMemset")),
        Cause("sync", "the thread waited for the GPU in a synchronizing call",
              "waiting for the GPU", "waiting for the GPU", SYNC, SYNCHRONIZING),
        Cause("launch", "the thread was in a call that launches a kernel or a graph",
              "launch calls", "launch calls", LAUNCH,
              ("cudaLaunch", "cuLaunch", "cudaGraphLaunch", "cuGraphLaunch")),
        Cause("api", "the thread was in another CUDA call",
              "other CUDA calls", "other CUDA calls", LAUNCH),
        Cause("host", "the thread was outside of all CUDA calls",
              "the host outside of CUDA", "host outside of CUDA", HOST),
    )
}  # fmt: skip
