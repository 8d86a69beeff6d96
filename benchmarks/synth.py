"""Synthetic reports of any size: the true schema of nsys 2023.4.4, made-up content.

usage: python benchmarks/synth.py OUT.sqlite [--kernels N] [--seed N] [--shuffle]

::

    process 6544   thread 6544: requests > prefill > layers, decode > steps > layers   device 0, streams 7 and 13
                   thread 6571: prefetch ranges, copies, never waits                   device 0, stream 21
    process 6600   thread 6600: the same requests, every eighth step a CUDA graph      device 1, stream 7

Both processes count their correlationIds from the same number, so they collide. Launches are asynchronous, and a step
ends with a copy and a synchronization that waits for it. Also in it: registered and inline names, a named domain,
payloads, start/end ranges (some ended by another thread), marks, kernels outside of all ranges, kernels whose API call
is missing, a range that is never closed. Durations are multiples of 32 ns, as CUPTI's are on the H200 samples.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from trace_builder import (
    DOMAIN_CREATED,
    GRAPH_LAUNCH,
    KERNEL,
    LAUNCH,
    MARK,
    MEMCPY,
    MEMSET,
    NVTX,
    PUSH_POP,
    RUNTIME,
    START_END,
    Schema,
    TraceBuilder,
    global_pid,
    global_tid,
)

Ints = npt.NDArray[np.int64]
VERSION = "2023.4.4"
LAYERS, STEPS, PROMPT, PREFILL_KERNELS, STEP_KERNELS = 12, 40, 1020, 22, 13
#: Rows of a table that are written at once, in the order of their start.
FLUSH = 1_000_000

#: What a script is made of: ranges open and close, calls put something on the GPU, wait, or do neither.
PUSH, POP, LAUNCHES, COPIES, SETS, GRAPHS, WAITS, OTHER = range(8)
API = {
    LAUNCHES: LAUNCH, COPIES: "cudaMemcpyAsync_v3020", SETS: "cudaMemsetAsync_v3020", GRAPHS: GRAPH_LAUNCH,
    WAITS: "cudaStreamSynchronize_v3020", OTHER: "cudaEventRecord_v3020",
}  # fmt: skip


def kernel_names() -> list[str]:
    """Names like those of a transformer on PyTorch: long templates and short ones, some two hundred."""
    array = "at::detail::Array<char *, (int){n}>"
    elementwise = (
        "void at::native::vectorized_elementwise_kernel<(int){v}, at::native::{f}<{t}>, " + array + ">(int, T2, T3)"
    )
    functors = ("CUDAFunctor_add", "MulFunctor", "SiluFunctor", "FillFunctor", "CompareFunctor", "PowFunctor")
    kinds = ("float", "c10::BFloat16", "long")
    names = [elementwise.format(v=v, f=f, t=t, n=n) for f in functors for t in kinds for v, n in ((4, 2), (8, 3))]
    names += [
        f"sm90_xmma_gemm_bf16bf16_bf16f32_f32_{a}_n_tilesize{m}x{n}x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas"
        for a in ("tn", "nn") for m in (64, 128, 256) for n in (32, 64, 128, 192)
    ]  # fmt: skip
    names += [
        f"nvjet_sm90_tst_{m}x{n}_64x{k}_2x1_v_bz_TNN" for m in (16, 64, 192) for n in (8, 64, 192) for k in (4, 16)
    ]
    names += [
        f"void flash::flash_fwd_{kind}_kernel<Flash_fwd_kernel_traits<(int){head}, (int)64, (int)128>>"
        "(flash::Flash_fwd_params)"
        for kind in ("splitkv", "combine", "plain") for head in (64, 128)
    ]  # fmt: skip
    names += [
        "void at::native::reduce_kernel<(int)512, (int)1, "
        f"at::native::ReduceOp<float, at::native::{op}, float, (int)4>>(T3)"
        for op in ("MeanOps", "ArgMaxOps", "SumFunctor", "MaxNanFunctor")
    ]
    plain = (
        "CatArrayBatchedCopy",
        "index_elementwise_kernel",
        "gatherTopK",
        "radixSortKVInPlace",
        "cunn_SoftMaxForward",
    )
    return names + [f"void at::native::{name}<{t}, (int)4, (int)128>(T1 *)" for name in plain for t in kinds]


class Script(NamedTuple):
    """What one thread does over and over: an operation and its argument, range names, where ranges open and close."""

    op: Ints
    arg: Ints
    names: list[tuple[str, bool, int | None]]  # name, in the domain dsprof and registered, payload
    opens: Ints
    closes: Ints


def script(steps: list[tuple[int, int]], names: list[tuple[str, bool, int | None]]) -> Script:
    """A script of (operation, argument) pairs."""
    op, arg = (np.array(column, np.int64) for column in zip(*steps, strict=True))
    stack: list[int] = []
    pairs: list[tuple[int, int]] = []
    for place, kind in enumerate(op.tolist()):
        if kind == PUSH:
            stack.append(place)
        elif kind == POP:
            pairs.append((stack.pop(), place))
    opens, closes = (np.array(column, np.int64) for column in zip(*sorted(pairs), strict=True))
    return Script(op, arg, names, opens, closes)


def request_script(kernels: int, rng: np.random.Generator, graph_every: int) -> Script:
    """A request: prefill, then decode steps, each with ranges for its layers."""
    names: list[tuple[str, bool, int | None]] = []
    steps: list[tuple[int, int]] = []
    used = rng.integers(0, kernels, 60).tolist()

    def push(name: str, ours: bool, payload: int | None = None) -> None:
        names.append((name, ours, payload))
        steps.append((PUSH, len(names) - 1))

    push("request", True)
    push("prefill", True, PROMPT)
    steps += [(COPIES, 1), (SETS, 0), *((LAUNCHES, used[k]) for k in range(30))]
    for layer in range(LAYERS):
        push(f"layer {layer}", False)
        steps += [(LAUNCHES, used[(3 * k + (layer == 0)) % 60]) for k in range(PREFILL_KERNELS)]
        steps += [(OTHER, 0), (POP, 0)]
    steps += [(WAITS, 0), (POP, 0)]
    push("decode", True)
    for step in range(1, STEPS + 1):
        push("decode.step", True, step)
        steps.append((LAUNCHES, used[5]))
        if graph_every and step % graph_every == 0:
            steps.append((GRAPHS, LAYERS * STEP_KERNELS))
        else:
            for layer in range(LAYERS):
                push(f"layer {layer}", False)
                steps += [(LAUNCHES, used[(2 * k + (layer == 0)) % 60]) for k in range(STEP_KERNELS)]
                steps.append((POP, 0))
        steps += [(LAUNCHES, used[7]), (LAUNCHES, used[9]), (COPIES, 2), (WAITS, 0), (POP, 0)]
    steps += [(POP, 0), (POP, 0), *((LAUNCHES, used[50 + k]) for k in range(3))]
    return script(steps, names)


def prefetch_script() -> Script:
    """A worker that copies ahead and never waits."""
    copies = [(COPIES, 1), (LAUNCHES, 3), (OTHER, 0)] * 4
    return script([(PUSH, 0), *copies, (SETS, 0), (POP, 0)], [("prefetch", False, None)])


class Batch(NamedTuple):
    """Columns of one repetition: API calls, GPU operations, ranges."""

    calls: dict[str, Ints]
    ops: dict[str, Ints]
    ranges: dict[str, Ints]


class Thread:
    """A thread that repeats its script, and the streams that it feeds."""

    def __init__(self, pid: int, tid: int, device: int, streams: list[int], own: Script, begin: int) -> None:
        self.pid, self.tid, self.device, self.streams, self.script, self.now = pid, tid, device, streams, own, begin
        self._free = dict.fromkeys(streams, 0)
        waits = np.flatnonzero(own.op == WAITS) + 1
        self._bounds = [0, *waits.tolist(), len(own.op)]

    def repeat(self, correlation: int, names: int, length: Ints, rng: np.random.Generator) -> Batch:
        """Run the script once more; `length`: the usual duration of each kernel name."""
        op, arg = self.script.op, self.script.arg
        is_call = op >= LAUNCHES
        took = np.where(is_call, rng.integers(2500, 7000, len(op)), 0)
        gap = np.where(is_call, rng.integers(150, 2500, len(op)), rng.integers(80, 700, len(op)))
        number = correlation + np.cumsum(is_call) - 1
        source = np.repeat(np.arange(len(op)), np.where(op == GRAPHS, arg, np.isin(op, (LAUNCHES, COPIES, SETS))))
        ops = self._operations(source, names, length, rng)
        start, end = np.zeros(len(op), np.int64), np.zeros(len(op), np.int64)
        for low, high in zip(self._bounds[:-1], self._bounds[1:], strict=True):
            begin = self.now + np.cumsum(gap[low:high] + took[low:high]) - took[low:high]
            start[low:high], end[low:high] = begin, begin + took[low:high]
            mine = slice(*np.searchsorted(source, (low, high)))
            self._run(ops, mine, end[source[mine]] + rng.integers(500, 3000, mine.stop - mine.start))
            self.now = int(end[high - 1])
            if op[high - 1] == WAITS:
                self.now = end[high - 1] = max(self.now, *self._free.values()) + 700
        self.now += int(rng.integers(20_000, 400_000))
        calls = np.flatnonzero(is_call)
        return Batch(
            {"start": start[calls], "end": end[calls], "op": op[calls], "correlation": number[calls]},
            {**ops, "correlation": number[source]},
            {"start": start[self.script.opens], "end": start[self.script.closes], "name": arg[self.script.opens]},
        )

    def _operations(self, source: Ints, names: int, length: Ints, rng: np.random.Generator) -> dict[str, Ints]:
        kind, place = self.script.op[source], np.arange(len(source))
        graph = kind == GRAPHS
        name = np.where(graph, 7 * place, self.script.arg[source]) % names
        usual = np.where(np.isin(kind, (LAUNCHES, GRAPHS)), length[name], rng.integers(900, 30_000, len(source)))
        took = np.maximum(usual * np.exp(rng.normal(0, 0.15, len(source))), 800).astype(np.int64) // 32 * 32
        second = (place % 17 == 3) & (len(self.streams) > 1)
        stream = np.where(second, self.streams[-1], self.streams[0])
        empty = np.zeros(len(source), np.int64)
        return {"kind": kind, "name": name, "took": took, "stream": stream, "node": np.where(graph, place + 1, 0),
                "copy": self.script.arg[source], "bytes": rng.integers(4, 1 << 20, len(source)),
                "start": empty}  # fmt: skip

    def _run(self, ops: dict[str, Ints], mine: slice, ready: Ints) -> None:
        """Run a slice of the operations: each begins when it is ready and its stream is free."""
        for stream in self.streams:
            chosen = np.flatnonzero(ops["stream"][mine] == stream)
            if not len(chosen):
                continue
            took = ops["took"][mine][chosen] + 300
            before = np.cumsum(took) - took
            begin = np.maximum.accumulate(np.maximum(ready[chosen], self._free[stream]) - before) + before
            ops["start"][mine.start + chosen] = begin
            self._free[stream] = int(begin[-1] + took[-1])


class Writer:
    """The file under construction; rows are gathered and written in the order of their start."""

    def __init__(
        self, path: Path, kernels: list[str], scripts: list[Script], shuffle: np.random.Generator | None
    ) -> None:
        builder = TraceBuilder(VERSION, lazy=False)
        self.string = builder.string
        self.kernel = np.array([[builder.string(n), builder.string(n.split("<")[0].split("::")[-1])] for n in kernels])
        self.api = np.array([builder.string(API[kind]) if kind in API else 0 for kind in range(8)])
        for name in (name for one in scripts for name, ours, _ in one.names if ours):
            builder.string(name)
        for device in (0, 1):
            builder.gpu("NVIDIA H200", device=device)
        for pid in (6544, 6600):
            builder.range("", 0, None, domain="dsprof", kind=DOMAIN_CREATED + 1, pid=pid)
        path.unlink(missing_ok=True)
        builder.write(path)
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute("BEGIN")
        self._waiting: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._rows: dict[str, int] = defaultdict(int)
        self._shuffle = shuffle
        self.last = 0

    def add(self, table: str, **columns: Any) -> None:
        """Rows of a table: arrays, lists, or one value for all; NULL is None in a list of objects."""
        rows = len(columns["start"])
        self._waiting[table].append({name: _column(value, rows) for name, value in columns.items()})
        self._rows[table] += rows
        if self._rows[table] >= FLUSH:
            self._flush(table)

    def _flush(self, table: str) -> None:
        waiting = self._waiting.pop(table)
        names = list(waiting[0])
        columns = [np.concatenate([part[name] for part in waiting]) for name in names]
        start = columns[names.index("start")]
        order = self._shuffle.permutation(len(start)) if self._shuffle else np.argsort(start, kind="stable")
        if table != NVTX:
            self.last = max(self.last, int(columns[names.index("end")].max()))
        needed = [name for name, _, needed in Schema.load(VERSION).tables[table] if needed and name not in names]
        marks = ", ".join([*("?" for _ in names), *("0" for _ in needed)])
        query = f'INSERT INTO "{table}" ({", ".join([*names, *needed])}) VALUES ({marks})'  # noqa: S608
        self._database.executemany(query, zip(*(column[order].tolist() for column in columns), strict=True))
        self._rows[table] = 0

    def close(self) -> None:
        """Write what is left, and the length of the recording."""
        for table in [table for table, parts in self._waiting.items() if parts]:
            self._flush(table)
        self._database.execute("UPDATE ANALYSIS_DETAILS SET duration = ?, stopTime = ?", (self.last, self.last))
        self._database.execute("COMMIT")
        self._database.close()


def _column(value: Any, rows: int) -> npt.NDArray[Any]:
    if isinstance(value, np.ndarray):
        return value
    column = np.empty(rows, object)
    column[:] = value
    return column


def write(writer: Writer, thread: Thread, made: Batch, first: bool) -> None:
    """The rows of one repetition; of the `first` the calls of five launches are missing."""
    process, whole = global_pid(thread.pid), global_tid(thread.pid, thread.tid)
    kept = slice(5 if first else 0, None)
    calls, ops, ranges = made.calls, made.ops, made.ranges
    writer.add(RUNTIME, start=calls["start"][kept], end=calls["end"][kept], globalTid=whole,
               correlationId=calls["correlation"][kept], nameId=writer.api[calls["op"][kept]])  # fmt: skip
    is_kernel = np.isin(ops["kind"], (LAUNCHES, GRAPHS))
    for table, chosen in ((KERNEL, is_kernel), (MEMCPY, ops["kind"] == COPIES), (MEMSET, ops["kind"] == SETS)):
        of = {name: column[chosen] for name, column in ops.items()}
        place = {"start": of["start"], "end": of["start"] + of["took"], "deviceId": thread.device, "contextId": 1,
                 "streamId": of["stream"], "correlationId": of["correlation"], "globalPid": process}  # fmt: skip
        if table == KERNEL:
            node = np.where(of["node"] > 0, of["node"], None)  # type: ignore[call-overload]
            name = of["name"]
            writer.add(table, **place, demangledName=writer.kernel[name, 0], shortName=writer.kernel[name, 1],
                       registersPerThread=32 + 8 * (name % 24), gridX=1 + 13 * (name % 97), gridY=1, gridZ=1,
                       blockX=128, blockY=1, blockZ=1, dynamicSharedMemory=1024 * (name % 3),
                       graphNodeId=node)  # fmt: skip
        elif table == MEMCPY:
            writer.add(table, **place, bytes=of["bytes"], copyKind=of["copy"], srcKind=2 * (of["copy"] == 2),
                       dstKind=2 * (of["copy"] == 1))  # fmt: skip
        else:
            writer.add(table, **place, bytes=of["bytes"], memKind=2)
    names = [thread.script.names[one] for one in ranges["name"].tolist()]
    writer.add(
        NVTX, start=ranges["start"], end=ranges["end"].astype(object), eventType=PUSH_POP, globalTid=whole,
        domainId=[int(ours) for _, ours, _ in names], int64Value=[payload for _, _, payload in names],
        text=[None if ours else name for name, ours, _ in names], rangeId=None, endGlobalTid=None,
        textId=[writer.string(name) if ours else None for name, ours, _ in names],
    )  # fmt: skip


def write_event(
    writer: Writer, thread: Thread, kind: int, text: str, start: int, end: int | None, other: int | None
) -> None:
    """One event of NVTX by itself: a range that another thread may end, a mark, a range that nobody ends."""
    ended = global_tid(thread.pid, other) if other else None
    writer.add(NVTX, start=np.array([start]), end=end, eventType=kind, globalTid=global_tid(thread.pid, thread.tid),
               domainId=0, int64Value=None, text=text, rangeId=start if kind == START_END else None,
               endGlobalTid=ended, textId=None)  # fmt: skip


def repetitions(threads: list[Thread]) -> Iterator[Thread]:
    """The thread whose turn it is: the one that is behind the others."""
    while True:
        yield min(threads, key=lambda one: one.now)


def make(path: Path, kernels: int, seed: int = 1, shuffle: bool = False) -> int:
    """Write a report with at least `kernels` kernels to `path`, and return how many there are."""
    rng, names = np.random.default_rng(seed), kernel_names()
    length = np.exp(rng.normal(8.0, 0.8, len(names))).astype(np.int64)
    threads = [
        Thread(6544, 6544, 0, [7, 13], request_script(len(names), rng, 0), 300_000_000),
        Thread(6544, 6571, 0, [21], prefetch_script(), 301_000_000),
        Thread(6600, 6600, 1, [7], request_script(len(names), rng, 8), 302_000_000),
    ]
    writer = Writer(path, names, [thread.script for thread in threads], np.random.default_rng(2) if shuffle else None)
    with closing(writer):
        correlation, total, turn = dict.fromkeys((6544, 6600), 150), 0, 0
        for thread in repetitions(threads):
            begin = thread.now
            made = thread.repeat(correlation[thread.pid], len(names), length, rng)
            correlation[thread.pid] += len(made.calls["start"])
            write(writer, thread, made, first=turn == 0)
            if thread.tid == thread.pid:
                end = int(made.calls["end"][-1]) + 50
                write_event(writer, thread, START_END, "work item", begin + 30, end, 6547 if turn % 5 == 0 else None)
                write_event(writer, thread, MARK, "request begins", begin + 40, None, None)
            total, turn = total + int(np.isin(made.ops["kind"], (LAUNCHES, GRAPHS)).sum()), turn + 1
            if total >= kernels:
                break
        last = threads[0]
        write_event(writer, last, PUSH_POP, "never closed", last.now, None, None)
        made = last.repeat(correlation[last.pid], len(names), length, rng)
        write(writer, last, made, first=False)
        return total + int(np.isin(made.ops["kind"], (LAUNCHES, GRAPHS)).sum())


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a synthetic report with the true schema of nsys 2023.4.4.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--kernels", type=int, default=100_000, help="at least so many")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--shuffle", action="store_true", help="rows in no order")
    given = parser.parse_args()
    made = make(given.path, given.kernels, given.seed, given.shuffle)
    print(f"{given.path}: synthetic, {made} kernels, {given.path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
