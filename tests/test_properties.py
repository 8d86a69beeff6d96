"""Random whole traces: every table against the slow reference, and nothing ever lost or doubled.

Each trace has up to two processes with equal correlation ids, several threads, devices and streams, nested
push/pop ranges, overlapping start/end ranges (some ended by another thread), graph replays, repeated API
rows, launches without operations and operations without a launch; everything happens within a few hundred
nanoseconds, so that ties are the rule.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import slow_reference as slow
from dsprof.analysis.analyze import Analysis
from dsprof.arrays import NULL
from dsprof.rules.rules import Rules
from dsprof.trace import Calls, Kernels, MemOps, Ranges, Report, Trace
from slow_reference import COPY, COPY_KINDS, GRAPH, KERNEL, NO_STAGE, SET, Call, Op, Range, Recording

some = settings(
    max_examples=50,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
)
few = settings(some, max_examples=30)
MODES = ("thread", "process")
STAGES = ("prefill", "decode")
NAMES = ("prefill", "decode", "decode.step", "prefill.batch", "request", "layer")
DOMAINS = ("", "dsprof")
KERNEL_NAMES = ("gemm", "softmax")
HARDWARE = 1 << 56  # Nsight's globalTid begins with the machine
LANES = [HARDWARE | process << 24 | thread for process, thread in ((7, 70), (7, 71), (9, 70), (9, 71))]
SYNC, LAUNCH = "cudaStreamSynchronize_v3020", "cudaLaunchKernel_v7000"
#: What a program does once.
ONCE = ("cuLibraryLoadData", "cudaMalloc_v3020", "cudaGraphInstantiate_v12000", "cudaStreamCreate_v3020")


# -- random recordings ------------------------------------------------------------------------------------

small = st.integers(0, 3)
lane = st.sampled_from([0, 0, 0, 1, 1, 2, 3]).map(LANES.__getitem__)  # most of it in one process
stage_or_not = st.sampled_from([*NAMES, *STAGES])
payload = st.none() | st.integers(0, 5)
#: One operation behind a call: what, its name or kind, delay, duration, device, stream, bytes.
operation = st.tuples(
    st.sampled_from([KERNEL] * 4 + [GRAPH, COPY, SET]), st.integers(0, 1), st.integers(0, 30), st.integers(0, 9),
    st.integers(0, 1), st.integers(7, 8), st.integers(0, 99),
)  # fmt: skip
pushes = st.lists(st.tuples(st.none() | stage_or_not, small, payload), max_size=8)
start_ends = st.lists(
    st.tuples(lane, stage_or_not, st.sampled_from(DOMAINS), st.integers(0, 3), st.sampled_from([0, 2, 9, 20, 60]),
              st.sampled_from(["own", "unsaid", "other", "other"]), payload),
    max_size=4,
)  # fmt: skip
calls = st.lists(
    st.tuples(lane, small, st.integers(0, 9), st.lists(operation, max_size=5), st.sampled_from("nnnnnnrmsoo")),
    min_size=4,
    max_size=12,
)


def neighbour(thread: int) -> int:
    """The other thread of its process."""
    return LANES[LANES.index(thread) ^ 1]


def nested(thread: int, domain: str, actions: list, base: int) -> list[tuple]:
    """Push/pop ranges of one thread and domain; an action without a name pops, what stays open is truncated.

    They are their thread's, whatever stands in the column of the thread that ended them.
    """
    now, stack, ranges = base, [], []
    by = neighbour(thread) if domain else None
    for name, wait, value in actions:
        now += wait * 2
        if name is not None:
            stack.append((name, now, value))
        elif stack:
            opened, start, value = stack.pop()
            ranges.append((opened, domain, slow.PUSH_POP, thread, by, start, now, value, False))
    for opened, start, value in stack:
        ranges.append((opened, domain, slow.PUSH_POP, thread, by, start, now + 9, value, True))
    return ranges


def overlapping(drawn: list, base: int) -> list[tuple]:
    ranges = []
    for thread, name, domain, start, length, ended, value in drawn:
        by = {"own": thread, "unsaid": None, "other": neighbour(thread)}[ended]
        begin = base + 2 * start
        ranges.append((name, domain, slow.START_END, thread, by, begin, begin + length, value, False))
    return ranges


def launches(drawn: list, base: int) -> tuple[list[Call], list[tuple]]:
    """The calls of all threads, each thread's one after another, and what they put on the GPU.

    `how`: n for a normal call, s for one that waits, m for one whose own row is missing from the report, r
    for one that repeats the identity of the call before it in its process, o for what a program does once.
    """
    clock = dict.fromkeys(LANES, base)
    number: Counter[int] = Counter()
    rows, ops = [], []
    for thread, wait, length, behind, how in drawn:
        process = slow.process_of(thread)
        start = clock[thread] + wait
        clock[thread] = start + length // 2  # calls may nest, as the runtime's and the driver's do
        number[process] += how != "r"
        if how != "m":
            name = {"s": SYNC, "o": ONCE[length % len(ONCE)]}.get(how, LAUNCH)
            rows.append(Call(len(rows), name, thread, number[process], start, start + length))
        for what, which, delay, duration, device, stream, size in behind:
            begin = start + delay
            ops.append((what, which, process, number[process], begin, begin + duration, device, stream, size))
    return rows, ops


@st.composite
def recordings(draw) -> Recording:
    base = draw(st.sampled_from([0, 10**18]))
    lanes = draw(st.lists(st.tuples(lane, st.sampled_from(DOMAINS)), unique=True, min_size=1, max_size=5))
    raw = [one for thread, domain in lanes for one in nested(thread, domain, draw(pushes), base)]
    raw += overlapping(draw(start_ends), base)
    ranges = [Range(row, *fields) for row, fields in enumerate(draw(st.permutations(raw)))]
    rows, behind = launches(draw(calls), base)
    rows = [Call(row, c.name, c.thread, c.correlation, c.start, c.end)
            for row, c in enumerate(draw(st.permutations(rows)))]  # fmt: skip
    strangers = draw(st.lists(st.tuples(lane, st.none() | st.just(999), operation), max_size=2))
    for thread, correlation, (what, which, delay, duration, *place) in strangers:
        begin = base + delay
        behind.append((what, which, slow.process_of(thread), correlation, begin, begin + duration, *place))
    order = {KERNEL: 0, GRAPH: 1, COPY: 2, SET: 2}
    behind = sorted(draw(st.permutations(behind)), key=lambda fields: order[fields[0]])
    return Recording(ranges, rows, [op_of(row, fields) for row, fields in enumerate(behind)])


def op_of(row: int, fields: tuple) -> Op:
    what, which, process, correlation, start, end, device, stream, size = fields
    place = (process, correlation, start, end, device, stream)
    if what in (KERNEL, GRAPH):
        return Op(row, KERNEL, *place, name=GRAPH if what == GRAPH else KERNEL_NAMES[which])
    return Op(row, what, *place, kind=(1, 8)[which] if what == COPY else -1, bytes=size)


# -- the same as a trace ----------------------------------------------------------------------------------


def ints(values) -> np.ndarray:
    return np.array([NULL if value is None else value for value in values], np.int64)


def trace_of(rec: Recording) -> Trace:
    names = ["", SYNC, LAUNCH, *ONCE, *NAMES, "dsprof", *KERNEL_NAMES, GRAPH]
    code = {name: number for number, name in enumerate(names)}
    kernels, memops, nothing = rec.kernels, rec.memops, [None] * len(rec.kernels)

    def codes(values) -> np.ndarray:
        return np.array([code[value] for value in values], np.int32)

    def place(ops: list[Op]) -> dict[str, np.ndarray]:
        columns = ("start", "end", "process", "correlation", "device", "stream")
        return {**{column: ints(getattr(op, column) for op in ops) for column in columns},
                "context": ints(1 for _ in ops)}  # fmt: skip

    return Trace(
        report=Report(file="random.sqlite"),
        names=tuple(names),
        ranges=Ranges(
            range_id=ints(range_id(one.row) for one in rec.ranges),
            name=codes(one.name for one in rec.ranges),
            domain=codes(one.domain for one in rec.ranges),
            style=ints(one.style == slow.START_END for one in rec.ranges),
            thread=ints(one.thread for one in rec.ranges),
            end_thread=ints(one.ended_by for one in rec.ranges),
            start=ints(one.start for one in rec.ranges),
            end=ints(one.end for one in rec.ranges),
            payload=ints(one.payload for one in rec.ranges),
            truncated=np.array([one.truncated for one in rec.ranges], np.bool_),
        ),
        calls=Calls(
            start=ints(call.start for call in rec.calls),
            end=ints(call.end for call in rec.calls),
            thread=ints(call.thread for call in rec.calls),
            correlation=ints(call.correlation for call in rec.calls),
            name=codes(call.name for call in rec.calls),
            result=ints(0 for _ in rec.calls),
        ),
        kernels=Kernels(
            **place(kernels),
            name=codes(op.name for op in kernels),
            graph_node=ints(nothing),
            grid=ints(nothing),
            block=ints(nothing),
            registers=ints(nothing),
            shared_memory=ints(nothing),
            is_graph=np.array([op.name == GRAPH for op in kernels], np.bool_),
        ),
        memops=MemOps(
            **place(memops),
            kind=ints(op.kind for op in memops),
            bytes=ints(op.bytes for op in memops),
            source=ints(None for _ in memops),
            destination=ints(None for _ in memops),
            graph_node=ints(None for _ in memops),
        ),
    )


def range_id(row: int | None) -> int | None:
    return None if row is None else 3 * row + 11


def analysis_of(rec: Recording, threads: str = "thread") -> Analysis:
    return Analysis.of(trace_of(rec), Rules(threads=threads))


def staged_of(rec: Recording, threads: str) -> slow.Staged:
    return slow.Staged(rec, STAGES, threads)


def rows_of(analysis: Analysis, table: str) -> list[dict]:
    return analysis.arrow(table).to_pylist()


def whole_stages(analysis: Analysis) -> list[dict]:
    """The rows of `stage_sum`, a stage's steady instances and its warm-up together."""
    found: dict[str, dict] = {}
    for row in rows_of(analysis, "stage_sum"):
        whole = found.setdefault(row["stage"], row)
        if whole is not row:
            for column in (name for name in row if "total" in name or name in ("instances", "tokens")):
                values = [value for value in (whole[column], row[column]) if value is not None]
                whole[column] = sum(values) if values else None
    return list(found.values())


def keyed(rows: list[dict], *keys: str) -> dict[tuple, dict]:
    """Rows by some of their columns; two rows of one key are an error of the table."""
    found = {tuple(row[key] for key in keys): row for row in rows}
    assert len(found) == len(rows), f"{keys} are not unique: {rows}"
    return found


def assert_holds(row: dict, expected: dict) -> None:
    """Every expected figure is in the row: integers exactly, the others but for rounding."""
    got = {column: row[column] for column in expected}
    want = {
        column: pytest.approx(value, rel=1e-12, abs=1e-9) if isinstance(value, float) else value
        for column, value in expected.items()
    }
    assert got == want


def renamed(rows: list[dict], **ids: str) -> list[dict]:
    """The reference's rows, with rows of ranges turned into their range ids."""
    return [{ids.get(key, key): range_id(value) if key in ids else value for key, value in row.items()} for row in rows]


def assert_rows(rows: list[dict], expected: list[dict]) -> None:
    assert len(rows) == len(expected)
    for row, want in zip(rows, expected, strict=True):
        assert_holds(row, want)


modes = pytest.mark.parametrize("threads", MODES)


# -- against the slow reference ---------------------------------------------------------------------------


@some
@given(recordings())
def test_every_range_its_place_and_its_projection(rec):
    expected = renamed(slow.range_trace(rec), row="range_id", parent_row="parent_id")
    for want in expected:
        del want["straddling_calls"]
    assert_rows(rows_of(analysis_of(rec), "range_trace"), expected)


@some
@given(recordings())
def test_calls_that_straddle_the_end_of_a_range(rec):
    rows = keyed(rows_of(analysis_of(rec), "range_trace"), "range_id")
    for want in slow.range_trace(rec):
        assert rows[range_id(want["row"]),]["straddling_calls"] == want["straddling_calls"], want


@modes
@some
@given(recordings())
def test_every_kernel_its_launch_range_stage_and_step(threads, rec):
    staged = staged_of(rec, threads)
    rows = rows_of(analysis_of(rec, threads), "kern_trace")
    assert_rows(rows, renamed(staged.op_trace(rec.kernels), range_row="range_id"))
    assert [row["kernel"] for row in rows] == [op.name for op in slow.events_in_order(rec.kernels)]


@modes
@some
@given(recordings())
def test_every_memory_operation_its_launch_range_stage_and_step(threads, rec):
    staged = staged_of(rec, threads)
    rows = rows_of(analysis_of(rec, threads), "mem_trace")
    assert_rows(rows, renamed(staged.op_trace(rec.memops), range_row="range_id"))
    assert [(row["kind"], row["bytes"]) for row in rows] == [
        (memory_kind(op), op.bytes) for op in slow.events_in_order(rec.memops)
    ]


def memory_kind(op: Op) -> str:
    return "[CUDA memset]" if op.what == SET else f"[CUDA memcpy {COPY_KINDS[op.kind]}]"


@modes
@some
@given(recordings())
def test_every_stage(threads, rec):
    rows = rows_of(analysis_of(rec, threads), "stage_trace")
    assert_rows(rows, renamed(staged_of(rec, threads).stage_trace(), range_row="range_id"))
    for row in rows:
        assert 0 <= row["gpu_busy_ns"] <= row["wall_ns"]
        assert row["gpu_busy_ns"] + row["gpu_idle_ns"] == row["wall_ns"]
        assert 0 <= row["busy_pct"] <= 100
        assert row["busy_pct"] == pytest.approx(100 * row["gpu_busy_ns"] / max(row["wall_ns"], 1))


SPREAD = {"mean": slow.statistics.mean, "std": lambda values: slow.figures(values)["stddev_ns"]}
SPREAD |= {f"p{percent}": lambda values, p=percent: slow.percentile(values, p) for percent in (50, 90, 99)}


@modes
@some
@given(recordings())
def test_the_sum_of_each_stage(threads, rec):
    staged = staged_of(rec, threads)
    rows = keyed(rows_of(analysis_of(rec, threads), "stage_sum"), "stage", "warm_up")
    steady = {one.row: staged.is_steady(one) for one in staged.stages}
    stages = [(one, steady[one["range_row"]]) for one in staged.stage_trace()]
    warm = {one["stage"] for one, is_steady in stages if not is_steady}
    expected = [(stage, is_warm) for stage in STAGES for is_warm in (False, True) if not is_warm or stage in warm]
    assert list(rows) == [*expected, (NO_STAGE, False)]
    for stage, is_warm in expected:
        row = rows[stage, is_warm]
        instances = [one for one, is_steady in stages if one["stage"] == stage and is_steady != is_warm]
        assert row["instances"] == len(instances)
        for stem, unit in (("duration", "_ns"), ("wall", "_ns"), ("gpu_busy", "_ns"), ("gpu_idle", "_ns"),
                           ("launches", ""), ("gpu_ops", ""), ("kernels", ""), ("kernel_total", "_ns"),
                           ("memcpy", "_ns"), ("memcpy", "_bytes"), ("sync", "_ns")):  # fmt: skip
            values = [one[stem + unit] for one in instances]
            total = row[total_name(stem, unit)]
            assert total == (sum(values) if values else None), (stem, unit)
            for word, figure in SPREAD.items():
                got = row[f"{stem}_{word}{unit}"]
                assert got == (pytest.approx(float(figure(values)), abs=1e-6) if values else None), (stem, word)
        tokens = [one["tokens"] for one in instances if one["tokens"] is not None]
        assert row["tokens"] == (sum(tokens) if tokens else None)
        duration = sum(one["duration_ns"] for one in instances)
        rate = 1e9 * sum(tokens) / duration if tokens and duration else None
        assert row["tokens_per_s"] == pytest.approx(rate)
        assert row["busy_pct"] is None or 0 <= row["busy_pct"] <= 100
    outside = staged.sums(None)
    for stem, unit in (("launches", ""), ("gpu_ops", ""), ("kernels", ""), ("kernel_total", "_ns"),
                       ("gpu_busy", "_ns"), ("memcpy", "_ns"), ("memcpy", "_bytes"), ("sync", "_ns")):  # fmt: skip
        assert rows[NO_STAGE, False][total_name(stem, unit)] == outside[stem + unit], (stem, unit)


def total_name(stem: str, unit: str) -> str:
    return f"{stem.removesuffix('_total')}_total{unit}"


@some
@given(recordings())
def test_a_kernel_counts_once_for_each_range_name(rec):
    keys = ("name", "domain", "style", "pid", "tid", "kernel")
    rows = keyed(rows_of(analysis_of(rec), "range_kern_sum"), *keys)
    expected = slow.range_kern_sum(rec)
    assert set(rows) == set(expected)
    for key, want in expected.items():
        assert_holds(rows[key], want)


@some
@given(recordings())
def test_statistics_of_each_kernel(rec):
    rows = keyed(rows_of(analysis_of(rec), "kern_sum"), "kernel")
    expected = staged_of(rec, "thread").kern_sum()
    whole = sum(want["total_ns"] for want in expected.values())
    assert {name for (name,) in rows} == set(expected)
    for name, want in expected.items():
        assert_holds(rows[name,], {**want, "share_pct": 100.0 * want["total_ns"] / max(whole, 1)})
    totals = [row["total_ns"] for row in rows.values()]
    assert totals == sorted(totals, reverse=True)


@modes
@some
@given(recordings())
def test_statistics_of_each_kernel_in_each_stage(threads, rec):
    rows = keyed(rows_of(analysis_of(rec, threads), "stage_kern_sum"), "stage", "kernel")
    staged = staged_of(rec, threads)
    expected = {
        (stage, kernel): want for stage in (*STAGES, NO_STAGE) for kernel, want in staged.kern_sum(stage).items()
    }
    assert set(rows) == set(expected)
    for key, want in expected.items():
        of_stage = sum(other["total_ns"] for (stage, _), other in expected.items() if stage == key[0])
        assert_holds(rows[key], {**want, "share_pct": 100.0 * want["total_ns"] / max(of_stage, 1)})


@modes
@some
@given(recordings())
def test_every_stage_on_every_device_and_stream(threads, rec):
    rows = keyed(rows_of(analysis_of(rec, threads), "stage_stream_sum"), "stage", "pid", "device_id", "stream_id")
    expected = staged_of(rec, threads).stage_stream_sum()
    assert set(rows) == set(expected)
    for key, want in expected.items():
        assert_holds(rows[key], want)


@some
@given(recordings())
def test_statistics_of_each_kind_of_memory_operation(rec):
    rows = keyed(rows_of(analysis_of(rec), "mem_sum"), "kind")
    groups: dict[str, list[Op]] = {}
    for op in rec.memops:
        groups.setdefault(memory_kind(op), []).append(op)
    assert {kind for (kind,) in rows} == set(groups)
    for kind, ops in groups.items():
        sizes = slow.figures([op.bytes for op in ops])
        del sizes["instances"]
        assert_holds(rows[kind,], slow.figures([op.duration for op in ops]))
        assert_holds(rows[kind,], {key.replace("_ns", "_bytes"): value for key, value in sizes.items()})


# -- ties that random traces seldom hit -------------------------------------------------------------------

MAIN, OTHER = LANES[:2]


def kernel(row: int, correlation: int, start: int, end: int) -> Op:
    return Op(row, KERNEL, slow.process_of(MAIN), correlation, start, end, 0, 7, name="gemm")


def ranges_of(*fields: tuple) -> list[Range]:
    return [Range(row, *each) for row, each in enumerate(fields)]


@pytest.mark.parametrize("own_end", [20, 30])
@pytest.mark.parametrize("own_first", [True, False])
def test_of_two_ranges_that_begin_together_the_shorter_is_inside(own_end, own_first):
    """One belongs to its thread, the other to the process; of the same interval, the later row is inside.

    own     |-----x---|
    shared  |-----x-----------|        the launch x is own's, and so is its stage
    """
    own = ("prefill", "", slow.PUSH_POP, MAIN, None, 10, own_end)
    shared = ("decode", "", slow.START_END, OTHER, MAIN, 10, 30)
    ranges = ranges_of(own, shared) if own_first else ranges_of(shared, own)
    rec = Recording(ranges, [Call(0, LAUNCH, MAIN, 1, 15, 16)], [kernel(0, 1, 20, 25)])
    (row,) = rows_of(analysis_of(rec), "kern_trace")
    inside = "prefill" if own_end == 20 or not own_first else "decode"
    assert (row["stage"], row["via"]) == (inside, "thread" if inside == "prefill" else "process")
    assert row["range_id"] == range_id(next(one.row for one in ranges if one.name == inside))


def test_calls_of_two_threads_at_one_moment_are_two_calls():
    """Two threads launch two kernels each at the same nanosecond, in a range of their process."""
    shared = ranges_of(("layer", "", slow.START_END, MAIN, OTHER, 0, 50))
    calls = [Call(0, LAUNCH, MAIN, 1, 10, 11), Call(1, LAUNCH, OTHER, 2, 10, 11)]
    ops = [kernel(row, row % 2 + 1, 20 + row, 21 + row) for row in range(4)]
    (row,) = rows_of(analysis_of(Recording(shared, calls, ops)), "range_trace")
    assert (row["api_calls"], row["gpu_ops"]) == (2, 4)


def test_a_call_may_straddle_a_range_that_is_not_the_innermost():
    """A overlaps B without containing it; the call begins in both and ends after A only.

    A  |--------|
    B       |-------------|
    call      xxxxx
    """
    ranges = ranges_of(
        ("layer", "", slow.START_END, MAIN, None, 0, 10), ("layer", "", slow.START_END, MAIN, None, 5, 30)
    )
    rec = Recording(ranges, [Call(0, LAUNCH, MAIN, 1, 7, 12)], [kernel(0, 1, 20, 25)])
    assert [row["straddling_calls"] for row in rows_of(analysis_of(rec), "range_trace")] == [1, 0]


def test_a_call_may_straddle_a_range_of_its_process():
    ranges = ranges_of(
        ("layer", "", slow.START_END, OTHER, MAIN, 0, 10), ("layer", "", slow.PUSH_POP, MAIN, None, 5, 30)
    )
    rec = Recording(ranges, [Call(0, LAUNCH, MAIN, 1, 7, 12)], [kernel(0, 1, 20, 25)])
    assert [row["straddling_calls"] for row in rows_of(analysis_of(rec), "range_trace")] == [1, 0]


def test_a_call_may_straddle_although_a_later_one_of_another_thread_does_not():
    """Of two calls in a range of the process, the first to begin is the last to end."""
    ranges = ranges_of(("layer", "", slow.START_END, OTHER, MAIN, 0, 10))
    calls = [Call(0, LAUNCH, MAIN, 1, 2, 12), Call(1, LAUNCH, OTHER, 2, 4, 5)]
    rec = Recording(ranges, calls, [kernel(0, 1, 20, 25), kernel(1, 2, 26, 27)])
    assert [row["straddling_calls"] for row in rows_of(analysis_of(rec), "range_trace")] == [1]


def test_a_kernel_counts_once_where_the_name_s_ranges_reach_differently_far():
    """Two start/end ranges of one name and thread, one of them ended by another thread, around one launch."""
    ranges = ranges_of(
        ("layer", "", slow.START_END, MAIN, MAIN, 0, 50), ("layer", "", slow.START_END, MAIN, OTHER, 5, 30)
    )
    rec = Recording(ranges, [Call(0, LAUNCH, MAIN, 1, 7, 12)], [kernel(0, 1, 20, 25)])
    (row,) = rows_of(analysis_of(rec), "range_kern_sum")
    assert (row["range_instances"], row["instances"], row["total_ns"], row["exclusive_instances"]) == (2, 1, 5, 1)


# -- nothing lost, nothing doubled ------------------------------------------------------------------------


@modes
@few
@given(recordings())
def test_every_table_holds_the_whole_report(threads, rec):
    analysis = analysis_of(rec, threads)
    kernels, memops = rec.kernels, rec.memops
    whole = (len(kernels), slow.total(kernels))

    def sums(table: str, *columns: str) -> tuple[int, ...]:
        rows = rows_of(analysis, table)
        return tuple(sum(row[column] or 0 for row in rows) for column in columns)

    assert sums("kern_sum", "instances", "total_ns") == whole
    assert sums("stage_kern_sum", "instances", "total_ns") == whole
    assert sums("stage_family_sum", "instances", "total_ns") == whole
    assert sums("stage_sum", "kernels_total", "kernel_total_ns") == whole
    assert sums("range_kern_sum", "exclusive_instances", "exclusive_total_ns") == whole
    assert sums("stage_sum", "gpu_ops_total") == (len(rec.ops),)
    copies = [op for op in memops if op.what == COPY]
    assert sums("stage_sum", "memcpy_total_ns", "memcpy_total_bytes") == (
        slow.total(copies),
        sum(op.bytes for op in copies),
    )
    assert sums("mem_sum", "instances", "total_ns", "total_bytes") == (
        len(memops),
        slow.total(memops),
        sum(op.bytes for op in memops),
    )
    assert sums("kern_trace", "duration_ns") == whole[1:]
    assert len(rows_of(analysis, "kern_trace")) == len(kernels)
    assert len(rows_of(analysis, "mem_trace")) == len(memops)
    assert len(rows_of(analysis, "range_trace")) == len(rec.ranges)
    by_kernel = rows_of(analysis, "stage_kern_sum")
    for row in whole_stages(analysis):
        kernel_rows = [one for one in by_kernel if one["stage"] == row["stage"]]
        assert sum(one["instances"] for one in kernel_rows) == (row["kernels_total"] or 0)
        assert sum(one["total_ns"] for one in kernel_rows) == (row["kernel_total_ns"] or 0)
    assert not [found for found in analysis.findings if found.code == "unreconciled"]


@modes
@few
@given(recordings())
def test_streams_and_devices_part_each_stage(threads, rec):
    analysis = analysis_of(rec, threads)
    streams = rows_of(analysis, "stage_stream_sum")
    for stage in whole_stages(analysis):
        here = [row for row in streams if row["stage"] == stage["stage"]]
        by_device = [row for row in here if row["stream_id"] is None]
        by_stream = [row for row in here if row["stream_id"] is not None]
        for column, whole in (
            ("gpu_ops", "gpu_ops_total"), ("kernels", "kernels_total"), ("kernel_total_ns", "kernel_total_ns"),
        ):  # fmt: skip
            assert sum(row[column] for row in by_device) == (stage[whole] or 0)
            assert sum(row[column] for row in by_stream) == (stage[whole] or 0)
        for row in here:
            assert row["gpu_busy_ns"] <= row["gpu_total_ns"]


@modes
@few
@given(recordings())
def test_stages_are_the_sums_of_their_operations(threads, rec):
    """`stage_trace` from `kern_trace` and `mem_trace` alone, as a reader of the tables would add them up."""
    analysis = analysis_of(rec, threads)
    kernels, memops = rows_of(analysis, "kern_trace"), rows_of(analysis, "mem_trace")
    for row in rows_of(analysis, "stage_trace"):
        key = (row["stage"], row["instance"])
        of_kernels = [one for one in kernels if (one["stage"], one["stage_instance"]) == key]
        of_memops = [one for one in memops if (one["stage"], one["stage_instance"]) == key]
        copies = [one for one in of_memops if one["kind"] != "[CUDA memset]"]
        both = [*of_kernels, *of_memops]
        assert row["kernels"] == len(of_kernels)
        assert row["gpu_ops"] == len(both)
        assert row["kernel_total_ns"] == sum(one["duration_ns"] for one in of_kernels)
        assert row["memcpy_ns"] == sum(one["duration_ns"] for one in copies)
        assert row["memcpy_bytes"] == sum(one["bytes"] for one in copies)
        assert row["gpu_busy_ns"] == slow.covered_length((one["start_ns"], one["end_ns"]) for one in both)
        assert row["proj_start_ns"] == min((one["start_ns"] for one in both), default=None)
        assert row["proj_end_ns"] == max((one["end_ns"] for one in both), default=None)


@few
@given(recordings())
def test_the_process_mode_only_adds(rec):
    """What a thread's own ranges say stays; only what had no stage can gain one."""
    by_thread, by_process = (rows_of(analysis_of(rec, mode), "kern_trace") for mode in MODES)
    for one, other in zip(by_thread, by_process, strict=True):
        assert one["range_id"] == other["range_id"]
        if one["via"] != "none":
            assert (one["stage"], one["stage_instance"], one["via"]) == (
                other["stage"],
                other["stage_instance"],
                other["via"],
            )
        assert (one["stage"] == NO_STAGE) == (one["via"] == "none")
        assert (other["stage"] == NO_STAGE) == (other["via"] == "none")


@few
@given(recordings(), st.integers(-(10**9), 10**9))
def test_the_clock_s_zero_does_not_matter(rec, shift):
    moved = Recording(
        *(
            [type(one)(**{**vars(one), "start": one.start + shift, "end": one.end + shift}) for one in part]
            for part in (rec.ranges, rec.calls, rec.ops)
        )
    )
    for table in ("stage_sum", "stage_kern_sum", "range_kern_sum", "stage_stream_sum"):
        assert rows_with_nan_as_none(moved, table) == rows_with_nan_as_none(rec, table)


def rows_with_nan_as_none(rec: Recording, table: str) -> list[dict]:
    return [
        {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}
        for row in rows_of(analysis_of(rec), table)
    ]


@few
@given(recordings(), st.randoms(use_true_random=False))
def test_the_order_of_the_operations_rows_does_not_matter(rec, random):
    kernels, memops = list(rec.kernels), list(rec.memops)
    random.shuffle(kernels)
    random.shuffle(memops)
    shuffled = [Op(**{**vars(op), "row": row}) for row, op in enumerate([*kernels, *memops])]
    for table, keys in (("stage_trace", ("range_id",)), ("range_trace", ("range_id",))):
        one = keyed(rows_of(analysis_of(rec), table), *keys)
        other = keyed(rows_of(analysis_of(Recording(rec.ranges, rec.calls, shuffled)), table), *keys)
        assert one == other


@modes
@few
@given(recordings())
def test_range_sum_sums_up_range_trace(threads, rec):
    analysis = analysis_of(rec, threads)
    trace = rows_of(analysis, "range_trace")
    rows = keyed(rows_of(analysis, "range_sum"), "name", "domain", "style")
    assert {(row["name"], row["domain"], row["style"]) for row in trace} == set(rows)
    for key, row in rows.items():
        mine = [one for one in trace if (one["name"], one["domain"], one["style"]) == key]
        assert row["instances"] == len(mine)
        figures = slow.figures([one["duration_ns"] for one in mine])
        for column in ("total_ns", "avg_ns", "med_ns", "min_ns", "max_ns", "stddev_ns"):
            assert row[column] == pytest.approx(figures[column], abs=1e-6)
        projected = [one["proj_duration_ns"] for one in mine if one["proj_duration_ns"] is not None]
        assert row["proj_instances"] == len(projected)
        assert row["proj_total_ns"] == (sum(projected) if projected else None)
        assert row["proj_max_ns"] == (max(projected) if projected else None)
        for column in ("api_calls", "gpu_ops", "kernels", "kernel_total_ns", "gpu_busy_ns"):
            assert row[column] == sum(one[column] for one in mine)
    totals = [row["total_ns"] for row in rows_of(analysis, "range_sum")]
    assert totals == sorted(totals, reverse=True)


@modes
def test_an_empty_report_has_empty_tables(threads):
    analysis = analysis_of(Recording([], [], []), threads)
    lengths = {name: analysis.arrow(name).num_rows for name in analysis}
    assert lengths.pop("stage_sum") == len(STAGES) + 1
    assert set(lengths.values()) == {0}
