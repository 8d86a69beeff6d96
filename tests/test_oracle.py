"""Every number that Nsight prints too, against Nsight: real and made reports, several versions of nsys.

A table of ours must say what NVIDIA's report says, to the nanosecond and to the printed digit, row for row in
both directions. Where the two differ on purpose, the difference has a letter (of ``Case``) and is not waved
through: `Plain` follows both rules with plain loops over the same export, and both sides must say what their
rule says. A difference without a letter fails.

::

    range        |------------|
    call   x   |--|  |-|     |---|
    NVIDIA             1                  the call lies within the range
    dsprof             1      1           the call begins within the range  (case G)
"""

from __future__ import annotations

import csv
import lzma
import re
import shutil
import sqlite3
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from decimal import Decimal
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

import nsys_stats
from dsprof.analysis.analyze import Analysis, analyze
from dsprof.nsys.reader import read
from dsprof.rules.rules import Rules
from nsys_stats import MIDDLE, OLD, PRIMARY, Printed, as_printed
from trace_builder import START_END, TraceBuilder

ROOT = Path(__file__).resolve().parents[1]
SAMPLES, SHARED = ROOT / "traces" / "samples", ROOT.parent / "shared" / "traces"
#: What NVIDIA's nsys 2025.3.1 printed for the reports that it recorded.
KEPT, KEPT_FOLDERS = "2025.3.1 (kept)", (SAMPLES / "nsys-stats", SHARED / "nsys-stats")

LAYERS, NODE, GRAPH = "h200-dsocr2-layers", "h200-graph-node", "h200-graph-graph"
RANKS = "public-h100-2rank-nccl-3.25.0"
REAL = (LAYERS, NODE, GRAPH, RANKS, "public-h200-fuser-3.17.1", "public-a100-cloverleaf-3.13.2",
        "public-a100-saxpy-mpi-2.9.1")  # fmt: skip
#: Recorded by `traces/record`, with what the nsys that recorded them printed kept beside them.
RECORDED = tuple(f"h200-{name}" for name in (
    "stages", "layers", "batch", "graphs-node", "graphs-graph", "two-processes"))  # fmt: skip

PROJECTION, RANGE_KERNELS, KERNELS = "nvtx_gpu_proj_trace", "nvtx_kern_sum", "cuda_gpu_kern_sum"
MEMORY_TIME, MEMORY_SIZE, LAUNCHES = "cuda_gpu_mem_time_sum", "cuda_gpu_mem_size_sum", "cuda_kern_exec_trace"
API, RANGES, RANGES_ON_GPU = "cuda_api_sum", "nvtx_sum", "nvtx_gpu_proj_sum"
PRINTED = (PROJECTION, RANGE_KERNELS, KERNELS, MEMORY_TIME, MEMORY_SIZE, LAUNCHES, API, RANGES, RANGES_ON_GPU)

#: Why nsys may print nothing: the report has nothing of the kind (then we must have nothing), or nsys
#: reads names from a table that old exports lack (then there is nothing to compare).
NOTHING_THERE = ("does not contain NV Tools Extension (NVTX) data.", "does not contain CUDA kernel data.",
                 "does not contain GPU memory data.")  # fmt: skip
NSYS_CANNOT = ("does not contain ENUM_CUDA_MEMCPY_OPER table.",)

#: Too slow to run: 2022.4.2's projection takes a minute for two ranks and does not end on the layers.
TOO_SLOW = {(LAYERS, OLD): PRINTED, (RANKS, OLD): (PROJECTION,)}


#: What an nsys does not have.
NOT_THERE = {OLD: (RANGES_ON_GPU,)}


# -- made reports -------------------------------------------------------------------------------------------


def two_processes() -> TraceBuilder:
    """Equal correlation ids in two processes (D), several domains and threads, kernels outside (K)."""
    made = TraceBuilder("2023.4.4")
    for pid, shift in ((100, 0), (200, 5)):
        made.range("request", 100 + shift, 1000, domain="dsprof", pid=pid)
        made.range("prefill", 110 + shift, 400, domain="dsprof", pid=pid, payload=7)
        made.range("prefill", 115 + shift, 395, domain="torch", pid=pid)
        made.range("plain", 120 + shift, 390, pid=pid)
        made.range("plain", 120, 390, pid=pid, tid=pid + 1, registered=False)
        made.range("around", 90, 1100, pid=pid, kind=START_END, domain="torch")
        made.kernel("outside", at=(60, 75), call=(40, 50), pid=pid, correlation=1)
        for number in range(2, 8):
            begin = 100 + 40 * number + shift
            made.kernel(f"gemm<{number % 3}>(int)", at=(begin + 200, begin + 211 + number), pid=pid,
                        call=(begin, begin + 4), correlation=number, stream=7 + number % 2)  # fmt: skip
            made.kernel("other thread", at=(begin + 300, begin + 301 + shift), call=(begin, begin + 3), pid=pid,
                        tid=pid + 1, correlation=100 + number)  # fmt: skip
        made.copy("DtoH", 3_333_333, at=(700, 733), call=(500, 510), pid=pid, correlation=200)
        made.set(5_000, at=(740, 741 + shift), call=(520, 530), pid=pid, correlation=201)
    return made


def every_case() -> TraceBuilder:
    """The cases in which NVIDIA's rule and ours part (B2, F, G, I), and some in which they must not (A, B, E, L, N)."""
    made = TraceBuilder("2024.2.3", duration=2000)
    made.range("decode", 100, 1000, domain="dsprof")
    # G: a call across the end of the inner range, with another one whole inside
    made.range("across", 110, 200).kernel("late", at=(300, 350), call=(190, 215))
    made.kernel("early", at=(280, 290), call=(120, 130))
    made.range("only across", 220, 240).kernel("late", at=(360, 375), call=(230, 241))
    made.range("just within", 250, 260).kernel("late", at=(380, 385), call=(250, 260))
    # I: a range inside another of the same name; a kernel in each, and the outer one a second time
    made.range("twin", 300, 500).range("twin", 350, 400)
    made.kernel("gemm", at=(600, 617), call=(360, 370)).kernel("gemm", at=(620, 625), call=(420, 430))
    made.range("twin", 510, 520).kernel("gemm", at=(630, 642), call=(511, 515))
    # B: a graph of five nodes; B2: one that was traced as a whole
    made.range("replay", 600, 650)
    made.graph(*((f"node {node % 2}", 700 + 10 * node, 706 + 10 * node) for node in range(5)), call=(610, 640))
    made.range("whole", 660, 700).graph(at=(800, 860), call=(670, 680)).kernel("gemm", at=(870, 879), call=(685, 690))
    made.range("only whole", 700, 730).graph(at=(880, 890), call=(710, 715))
    # F: ended by another thread; E: inside one call; N: no launch in the report
    made.range("handed over", 740, 800, kind=START_END, end_tid=102)
    made.kernel("elsewhere", at=(900, 905), call=(750, 760), tid=101)
    made.range("inside a call", 823, 825).kernel("gemm", at=(910, 913), call=(820, 830))
    # A: parent and child begin and end together; L: open when the capture ends, and one whose end is missing
    made.range("parent", 832, 839).range("child", 832, 839).kernel("gemm", at=(932, 938), call=(833, 835))
    made.range("open", 842, 2000).kernel("gemm", at=(950, 951), call=(845, 846))
    made.range("without an end", 843, None).kernel("gemm", at=(1500, 1510), call=(1400, 1405))
    made.kernel("orphan", at=(920, 931)).copy("DtoD", 7, at=(940, 943), call=(840, 841))
    return made


MADE: dict[str, Callable[[], TraceBuilder]] = {"made-processes": two_processes, "made-cases": every_case}


# -- both rules, as plainly as they can be followed -----------------------------------------------------------


class Case(Enum):
    """Why both rules may differ in one range; the letters are those of the conformance cases.

    Two cases are not of one range: I (a kernel in two nested ranges of one name: twice in NVIDIA's total,
    once in ours; `Plain.nested_twins`) and K (outside of all ranges; `Plain.outside`).
    """

    B2 = "a CUDA graph traced as a whole is no operation for NVIDIA"
    F = "a range ended by another thread is none for NVIDIA, and its process's for dsprof"
    G = "a call across the end of the range is outside for NVIDIA"
    L = "a range without an end lasts to the last time of any range for NVIDIA, to the capture's end for dsprof"
    TWICE = "of two API rows of one identity the earliest counts for dsprof, for NVIDIA both do"


class Statistics(NamedTuple):
    """What both sides say of some durations."""

    instances: int
    total: int
    minimum: int
    maximum: int
    avg: Any
    med: Any
    stddev: Any

    @classmethod
    def of(cls, durations: list[int]) -> Statistics:
        spread = statistics.stdev(durations) if len(durations) > 1 else 0.0
        return cls(len(durations), sum(durations), min(durations), max(durations), statistics.fmean(durations),
                   statistics.median(durations), spread)  # fmt: skip


class Group(NamedTuple):
    """The ranges of one name on one thread, and a kernel."""

    name: str
    style: str
    pid: int
    tid: int
    kernel: str


class Row(NamedTuple):
    """A range with its projection, as both sides list it."""

    name: str
    style: str
    pid: int
    tid: int
    start: int
    duration: int
    proj_start: int
    proj_duration: int
    api_calls: int


_PROCESS = ~0xFFFFFF
_RANGES = """
    SELECT n.rowid AS id, coalesce(n.text, (SELECT value FROM StringIds WHERE id = n.textId), '') AS title,
           coalesce(d.text, '') AS domain,
           n.eventType IN (60, 71) AS start_end, n.globalTid AS thread, n.endGlobalTid AS ended_by,
           n.start, coalesce(n.end, (SELECT max(duration) FROM ANALYSIS_DETAILS)) AS end, n.end IS NULL AS endless
    FROM NVTX_EVENTS n
    LEFT JOIN (SELECT domainId, globalTid & ~16777215 AS process, min(text) AS text
               FROM NVTX_EVENTS WHERE eventType = 75 GROUP BY 1, 2) d
           ON d.domainId = n.domainId AND d.process = n.globalTid & ~16777215
    WHERE n.eventType IN (59, 60, 70, 71)"""
_CALLS = f"""
    SELECT rowid AS call, start AS call_start, end AS call_end, globalTid AS thread, correlationId,
           globalTid & {_PROCESS} AS process FROM CUPTI_ACTIVITY_KIND_RUNTIME"""
#: What names the kernel, by table of operations; copies and sets are none.
_KERNEL_NAME = {
    "CUPTI_ACTIVITY_KIND_KERNEL": "(SELECT value FROM StringIds WHERE id = o.demangledName)",
    "CUPTI_ACTIVITY_KIND_MEMCPY": "NULL",
    "CUPTI_ACTIVITY_KIND_MEMSET": "NULL",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": "'(CUDA graph)'",
}


class Plain:
    """An export followed by the letter of both rules, range by range; rule 0 is NVIDIA's, rule 1 is ours.

    `operations` has a row per operation and API call of its identity (`op` numbers the operations, `repeat`
    is true for all calls but the earliest); without a call, one row.
    """

    def __init__(self, export: Path) -> None:
        with closing(sqlite3.connect(f"file:{export}?mode=ro", uri=True)) as sql:
            tables = {name for (name,) in sql.execute("SELECT name FROM sqlite_master")}
            nvtx = pd.read_sql(_RANGES, sql) if "NVTX_EVENTS" in tables else pd.DataFrame()
            calls = pd.read_sql(_CALLS, sql)
            parts = [_operations(sql, table, kernel) for table, kernel in _KERNEL_NAME.items() if table in tables]
        operations = pd.concat([part for part in parts if len(part)], ignore_index=True)
        operations["op"] = np.arange(len(operations))
        joined = operations.merge(calls, how="left", on=["process", "correlationId"])
        joined = joined.sort_values(["op", "call_start"], ignore_index=True)
        joined["repeat"] = joined.op.duplicated()
        self.operations = joined
        self.ranges = {int(r.id): r for r in nvtx.itertuples(index=False)}
        self._last_time = max((r.start if r.endless else r.end for r in self.ranges.values()), default=0)
        self.has_graphs = bool(joined.whole_graph.any())
        self._kernel = joined.kernel.where(joined.kernel.notna(), None).tolist()
        self._call_start, self._call_end, self._thread = (
            joined[name].fillna(-1).to_numpy("int64") for name in ("call_start", "call_end", "thread")
        )
        self._graph, self._repeat = joined.whole_graph.to_numpy(bool), joined["repeat"].to_numpy(bool)
        self._by_thread = {
            thread: of[np.argsort(self._call_start[of], kind="stable")]
            for thread in np.unique(self._thread)
            for of in [np.flatnonzero(self._thread == thread)]
        }

    def end(self, r: Any, rule: int) -> int:
        """When the range `r` ends by a rule."""
        return self._last_time if r.endless and rule == 0 else r.end

    def begun_in(self, r: Any, thread: int, rule: int = 1) -> np.ndarray:
        """Rows of the operations whose call by `thread` begins in the range `r`."""
        rows = self._by_thread.get(thread, np.zeros(0, np.int64))
        low, high = np.searchsorted(self._call_start[rows], [r.start, self.end(r, rule)])
        return rows[low:high]

    def enclosed(self, r: Any) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the operations in the range `r`, by both rules."""
        if handed_over(r):
            threads = [thread for thread in self._by_thread if thread & _PROCESS == r.thread & _PROCESS]
            rows = np.concatenate([self.begun_in(r, thread) for thread in threads])
            return rows[:0], rows[~self._repeat[rows]]
        rows, theirs = self.begun_in(r, r.thread), self.begun_in(r, r.thread, 0)
        whole = (self._call_end[theirs] <= self.end(r, 0)) & ~self._graph[theirs]
        return theirs[whole], rows[~self._repeat[rows]]

    @cached_property
    def in_ranges(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """What each range encloses, by both rules."""
        return {number: self.enclosed(r) for number, r in self.ranges.items()}

    @cached_property
    def cases(self) -> dict[int, set[Case]]:
        """The ranges in which the rules part, with the reasons."""
        found = {}
        for number, (nvidia, ours) in self.in_ranges.items():
            r = self.ranges[number]
            reasons = {
                Case.F: handed_over(r),
                Case.G: (self._call_end[ours] > r.end).any(),
                Case.L: self.end(r, 0) != r.end,
                Case.B2: self._graph[ours].any(),
                Case.TWICE: self._repeat[nvidia].any(),
            }
            if any(reasons.values()):
                found[number] = {case for case, applies in reasons.items() if applies}
        return found

    @cached_property
    def nested_twins(self) -> set[int]:
        """Ranges that overlap another of the same name on the same thread (case I)."""
        found: set[int] = set()
        longest: dict[tuple[str, str, int, int], int] = {}
        for number in sorted(self.ranges, key=lambda number: self.ranges[number].start):
            name, r = whose(self.ranges[number]), self.ranges[number]
            before = longest.get(name)
            if before is not None and r.start < self.ranges[before].end:
                found |= {before, number}
            if before is None or r.end > self.ranges[before].end:
                longest[name] = number
        return found

    def row(self, number: int, rule: int) -> Row | None:
        """The range's row by one rule; None where it encloses nothing."""
        r, inside = self.ranges[number], self.operations.iloc[self.in_ranges[number][rule]]
        if not len(inside):
            return None
        first, calls = int(inside.start.min()), inside.correlationId.nunique()
        return Row(*whose(r), r.start, self.end(r, rule) - r.start, first, int(inside.end.max()) - first, calls)

    def groups(self, rule: int) -> dict[Group, tuple[int, Statistics]]:
        """Kernels by range name, of the exceptional names only: number of ranges, and statistics."""
        exceptional = {whose(self.ranges[number]) for number in {*self.cases, *self.nested_twins}}
        kernels: dict[Group, list[int]] = defaultdict(list)
        ranges: dict[Group, set[int]] = defaultdict(set)
        for number, r in self.ranges.items():
            if whose(r) in exceptional:
                for row in self.in_ranges[number][rule]:
                    if self._kernel[row] is not None:
                        group = Group(*whose(r), self._kernel[row])
                        kernels[group].append(row)
                        ranges[group].add(number)
        if rule == 1:
            kernels = {group: sorted(set(rows)) for group, rows in kernels.items()}
        return {group: (len(ranges[group]), self.describe(rows)) for group, rows in kernels.items()}

    def outside(self, rule: int) -> dict[str, Statistics]:
        """Kernels in no range at all, by name."""
        named: dict[str, list[int]] = defaultdict(list)
        for row in np.flatnonzero(~self._inside(rule) & ~(self._graph & (rule == 0))):
            if self._kernel[row] is not None:
                named[self._kernel[row]].append(row)
        return {kernel: self.describe(rows) for kernel, rows in named.items()}

    def _inside(self, rule: int) -> np.ndarray:
        inside = np.zeros(len(self.operations), bool)
        inside[np.concatenate([np.zeros(0, np.int64), *(both[rule] for both in self.in_ranges.values())])] = True
        return np.isin(self.operations.op, self.operations.op[inside])

    def launches_outside(self) -> tuple[int, int | None, int | None]:
        """Launches in no range by NVIDIA's rule: how many ids they have, their first start and last end on the GPU.

        Equal ids of two processes are one here: the row is not by process (cases K and D).
        """
        rest = self.operations[~self._inside(0) & ~self._graph & self.operations.call.notna()]
        return (rest.correlationId.nunique(), rest.start.min(), rest.end.max()) if len(rest) else (0, None, None)

    def describe(self, rows: Iterable[int]) -> Statistics:
        """Every row's duration counts, and every operation once as an instance (so does NVIDIA)."""
        chosen = self.operations.iloc[list(rows)]
        return Statistics.of((chosen.end - chosen.start).tolist())._replace(instances=chosen.op.nunique())


def _operations(sql: sqlite3.Connection, table: str, kernel: str) -> pd.DataFrame:
    graph = int(table.endswith("GRAPH_TRACE"))
    columns = f"start, end, globalPid AS process, correlationId, {kernel} AS kernel, {graph} AS whole_graph"
    return pd.read_sql(f"SELECT {columns} FROM {table} o", sql)


def handed_over(r: Any) -> bool:
    """Is `r` a start/end range that another thread ended?"""
    return bool(r.start_end) and not pd.isna(r.ended_by) and r.ended_by != r.thread


def whose(r: Any) -> tuple[str, str, int, int]:
    """Full name, style, process and thread of a range of `Plain`."""
    thread = int(r.thread)
    style = "StartEnd" if r.start_end else "PushPop"
    return full_name(r.domain, r.title), style, thread >> 24 & 0xFFFFFF, thread & 0xFFFFFF


def full_name(domain: str, name: str) -> str:
    """A range's name as nsys prints it: with its domain, where that is not the default one."""
    return f"{domain}:{name}" if domain else name


# -- one analysis and one run of nsys for all tests -----------------------------------------------------------


class Bench:
    """Unpacked reports, their analyses, and what nsys prints for them: each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: dict[tuple[str, ...], Any] = {}

    def _once(self, key: tuple[str, ...], make: Callable[[], Any]) -> Any:
        """What `make` makes, or raises: a run that failed fails every test that needs it, at once."""
        if key not in self._made:
            try:
                self._made[key] = make()
            except BaseException as error:
                self._made[key] = error
        if isinstance(self._made[key], BaseException):
            raise self._made[key]
        return self._made[key]

    def export(self, report: str) -> Path:
        return self._once(("export", report), lambda: self._export(report))

    def _export(self, report: str) -> Path:
        target = self.folder / f"{report}.sqlite"
        if report in MADE:
            return MADE[report]().write(target)
        packed = [folder / f"{report}.sqlite.xz" for folder in (SAMPLES, SHARED)]
        packed = [path for path in packed if path.is_file()]
        if not packed:
            pytest.skip(f"{report} is not here: neither in traces/samples nor in ../shared/traces")
        with lzma.open(packed[0]) as source, target.open("wb") as unpacked:
            shutil.copyfileobj(source, unpacked)
        return target

    def analysis(self, report: str) -> Analysis:
        return self._once(("analysis", report), lambda: analyze(self.export(report)))

    def plain(self, report: str) -> Plain:
        return self._once(("plain", report), lambda: Plain(self.export(report)))

    def printed(self, report: str, source: str, what: str) -> Printed:
        if source == KEPT:
            return self._once((KEPT, report, what), lambda: kept(report, what))
        nsys = nsys_stats.require(source)
        unwanted = (*TOO_SLOW.get((report, source), ()), *NOT_THERE.get(source, ()))
        wanted = [name for name in PRINTED if name not in unwanted]
        return self._once((source, report), lambda: self._run(nsys, report, source, wanted))[what]

    def _run(self, nsys: nsys_stats.Nsys, report: str, source: str, wanted: list[str]) -> dict[str, Printed]:
        folder = self.folder / source / report
        folder.mkdir(parents=True)
        return nsys_stats.run(nsys, self.export(report), wanted, folder)


def kept(report: str, what: str) -> Printed:
    """What NVIDIA's nsys once printed."""
    for path in (folder / f"{report}_{what}.csv{packed}" for folder in KEPT_FOLDERS for packed in ("", ".xz")):
        if path.is_file():
            with (lzma.open if path.suffix == ".xz" else open)(path, "rt", newline="") as file:
                return Printed(nsys_stats.parse(file))
    pytest.skip(f"no {what} of {report} was kept")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("oracle"))


def pairs(what: str, *, also_kept: bool = True) -> pytest.MarkDecorator:
    """Every report with every nsys whose report `what` is compared."""
    params = [
        pytest.param(report, source, id=f"{report}-{source}", marks=pytest.mark.nsys)
        for report in (*REAL, *MADE)
        for source in (PRIMARY, MIDDLE, OLD)
        if what not in (*TOO_SLOW.get((report, source), ()), *NOT_THERE.get(source, ()))
        and (source != MIDDLE or report != LAYERS)
    ]
    if also_kept:
        params += [pytest.param(report, KEPT, id=f"{report}-kept") for report in (LAYERS, *RECORDED)]
    return pytest.mark.parametrize(("report", "source"), params)


def theirs(bench: Bench, report: str, source: str, what: str, ours: pd.DataFrame) -> pd.DataFrame | None:
    """The rows that nsys prints; None where it prints none and is right, a skip where it cannot."""
    printed = bench.printed(report, source, what)
    if not printed.skipped:
        assert len(printed.frame), f"{what} has a head and no rows"
        return printed.frame
    if printed.skipped in NSYS_CANNOT:
        pytest.skip(f"nsys: {printed.skipped}")
    assert printed.skipped in NOTHING_THERE
    assert not len(ours), f"nsys says that the report {printed.skipped}"
    return None


def texts(frame: pd.DataFrame, *columns: str) -> Iterator[tuple[Any, ...]]:
    """The chosen columns row by row, as plain Python values."""
    return zip(*(frame[column].astype(object).tolist() for column in columns), strict=True)


def own_names(names: Iterable[str], known: set[str]) -> list[str]:
    """NVIDIA's range names, without the colon that newer versions print before those of the default domain."""
    return [name if name in known else name.removeprefix(":") for name in names]


def same(here: Counter[Any], there: Counter[Any]) -> None:
    """Fail with the rows that only one side has."""
    only_nsys, only_dsprof = list((there - here).items()), list((here - there).items())
    assert not only_nsys and not only_dsprof, (
        f"{len(only_nsys)} only in nsys: {only_nsys[:5]}\n{len(only_dsprof)} only in dsprof: {only_dsprof[:5]}"
    )


# -- the comparisons ------------------------------------------------------------------------------------------


def our_rows(trace: pd.DataFrame) -> dict[int, Row]:
    """Ranges with operations, by range_id."""
    chosen = trace[trace.api_calls > 0]
    columns = ("name", "style", "pid", "tid", "start_ns", "duration_ns", "proj_start_ns", "proj_duration_ns",
               "api_calls")  # fmt: skip
    return {
        number: Row(full_name(domain, row[0]), *row[1:])
        for (number, domain, *row) in texts(chosen, "range_id", "domain", *columns)
    }


@pairs(PROJECTION)
def test_range_trace_is_nvtx_gpu_proj_trace(bench: Bench, report: str, source: str) -> None:
    trace, plain = bench.analysis(report)["range_trace"], bench.plain(report)
    printed = theirs(bench, report, source, PROJECTION, trace)
    if printed is None:
        return
    rows = our_rows(trace)
    expected = Counter(row for number, row in rows.items() if number not in plain.cases)
    for number in plain.cases:
        assert rows.get(number) == plain.row(number, 1), plain.cases[number]
        if row := plain.row(number, 0):
            expected[row] += 1
    named = printed[~printed.Style.isin(["", "None"])]
    names = own_names(named.Name, {row.name for row in expected})
    columns = ("Style", "PID", "TID", "Orig Start (ns)", "Orig Duration (ns)", "Projected Start (ns)",
               "Projected Duration (ns)", "NumGPUOps")  # fmt: skip
    same(expected, Counter(Row(name, *row) for name, row in zip(names, texts(named, *columns), strict=True)))


def named_ranges(bench: Bench, report: str) -> tuple[pd.DataFrame, set[str]]:
    """`range_sum` with the names as nsys prints them, and those of which some range is an exception."""
    table, plain = bench.analysis(report)["range_sum"], bench.plain(report)
    table = table.assign(full=[full_name(*names) for names in texts(table, "domain", "name")])
    return table, {whose(plain.ranges[number])[0] for number in plain.cases}


@pairs(RANGES, also_kept=False)
def test_range_sum_is_nvtx_sum(bench: Bench, report: str, source: str) -> None:
    table, exceptional = named_ranges(bench, report)
    printed = theirs(bench, report, source, RANGES, table)
    if printed is None:
        return
    names = own_names(printed.Range, set(table.full))
    there = zip(names, printed.Style, their_statistics(printed, "Instances"), strict=True)
    here = zip(table.full, table["style"], our_statistics(table), strict=True)
    both = (
        {(name, style): (found,) for name, style, found in rows if name not in exceptional} for rows in (here, there)
    )
    same_statistics(*both)


@pairs(RANGES_ON_GPU, also_kept=False)
def test_range_sum_is_nvtx_gpu_proj_sum(bench: Bench, report: str, source: str) -> None:
    """Its ranges are those that launched something; so the host's time is of those alone, and not compared."""
    table, exceptional = named_ranges(bench, report)
    printed = theirs(bench, report, source, RANGES_ON_GPU, table)
    if printed is None:
        return
    names = own_names(printed.Range, set(table.full))
    columns = ("Style", "Range Instances", "Total GPU Ops", "Total Proj Time (ns)", "Proj Min (ns)", "Proj Max (ns)",
               "Proj Avg (ns)", "Proj Med (ns)", "Proj StdDev (ns)")  # fmt: skip
    ours = ("style", "proj_instances", "api_calls", "proj_total_ns", "proj_min_ns", "proj_max_ns", "proj_avg_ns",
            "proj_med_ns", "proj_stddev_ns")  # fmt: skip

    def rows(frame: pd.DataFrame, full: Iterable[str], chosen: tuple[str, ...]) -> dict[Any, Any]:
        found = zip(full, texts(frame, *chosen), strict=True)
        return {(name, style): (ops, Statistics(count, total, low, high, avg, med, deviation))
                for name, (style, count, ops, total, low, high, avg, med, deviation) in found
                if name not in exceptional}  # fmt: skip

    known = table[table.proj_instances > 0]
    same_statistics(rows(known, known.full, ours), rows(printed, names, columns))


@pairs(PROJECTION, also_kept=False)
def test_the_nameless_row_is_everything_outside_of_ranges(bench: Bench, report: str, source: str) -> None:
    """Case K: one row per process or for all, with an arbitrary thread; 2022, 2024 and 2025 print none."""
    analysis = bench.analysis(report)
    printed = theirs(bench, report, source, PROJECTION, analysis["range_trace"])
    if printed is None:
        return
    nameless = printed[printed.Style.isin(["", "None"])]
    count, first, last = bench.plain(report).launches_outside()
    if not len(nameless):
        assert nsys_stats.require(source).version[:6] != "2023.4" or count == 0
        return
    end = nameless["Projected Start (ns)"] + nameless["Projected Duration (ns)"]
    found = (nameless["NumGPUOps"].sum(), nameless["Projected Start (ns)"].min(), end.max())
    assert found == (count, first, last)


@pytest.mark.parametrize("report", [*REAL, *MADE])
def test_calls_across_an_end_are_counted(bench: Bench, report: str) -> None:
    """Case G: `straddling_calls` tells which ranges NVIDIA's reports show without some of their calls."""
    trace, plain = bench.analysis(report)["range_trace"], bench.plain(report)
    counted = {number for number, across in texts(trace, "range_id", "straddling_calls") if across}
    assert counted == {number for number, cases in plain.cases.items() if Case.G in cases}


def our_statistics(frame: pd.DataFrame, unit: str = "_ns") -> Iterator[Statistics]:
    columns = ("instances", *(f"{word}{unit}" for word in ("total", "min", "max", "avg", "med", "stddev")))
    return (Statistics(*row) for row in texts(frame, *columns))


def their_statistics(frame: pd.DataFrame, count: str) -> Iterator[Statistics]:
    columns = (count, "Total Time (ns)", "Min (ns)", "Max (ns)", "Avg (ns)", "Med (ns)", "StdDev (ns)")
    return (Statistics(*row) for row in texts(frame, *columns))


def same_statistics(here: dict[Any, Any], there: dict[Any, Any]) -> None:
    """Equal keys, equal integers, and decimals equal to the printed digit; the values end in Statistics."""
    same(integers(here), integers(there))
    for key, (*_, ours) in here.items():
        for word, value, printed in zip(Statistics._fields[4:], ours[4:], there[key][-1][4:], strict=True):
            assert as_printed(printed, value), f"{key} {word}: {value}, printed {printed}"


def same_plain(here: dict[Any, Any], plain: dict[Any, Any]) -> None:
    """Ours against the plain rule: integers alike, floats to their last bits."""
    same(integers(here), integers(plain))
    for key, (*_, ours) in here.items():
        assert ours[4:] == pytest.approx(plain[key][-1][4:], rel=1e-12), key


def integers(rows: dict[Any, Any]) -> Counter[Any]:
    """The rows without their averages, medians and deviations."""
    return Counter((key, *counts, found[:4]) for key, (*counts, found) in rows.items())


@pairs(RANGE_KERNELS)
def test_range_kern_sum_is_nvtx_kern_sum(bench: Bench, report: str, source: str) -> None:
    table, plain = bench.analysis(report)["range_kern_sum"], bench.plain(report)
    printed = theirs(bench, report, source, RANGE_KERNELS, bench.analysis(report)["range_trace"])
    if printed is None:
        return
    inside = table[table["style"].notna()]
    keys = [Group(full_name(domain, name), *rest) for domain, name, *rest in texts(inside, "domain", "name", "style",
            "pid", "tid", "kernel")]  # fmt: skip
    assert len(set(keys)) == len(keys), "a row twice"
    ours = dict(zip(keys, zip(inside.range_instances.tolist(), our_statistics(inside), strict=True), strict=True))
    by_our_rule, by_theirs = plain.groups(1), plain.groups(0)
    exceptional = set(by_our_rule) | set(by_theirs)
    same_plain({key: ours[key] for key in exceptional & set(ours)}, by_our_rule)

    named = printed[~printed.Style.isin(["", "None"])]
    names = own_names(named["NVTX Range"], {key.name for key in keys})
    groups = [Group(name, *rest) for name, rest in zip(names, texts(named, "Style", "PID", "TID", "Kernel Name"),
              strict=True)]  # fmt: skip
    assert len(set(groups)) == len(groups), "nsys prints a row twice"
    counts = zip(named["NVTX Inst"].tolist(), their_statistics(named, "Kern Inst"), strict=True)
    there = dict(zip(groups, counts, strict=True))
    expected = {**{key: value for key, value in ours.items() if key not in exceptional}, **by_theirs}
    same_statistics(expected, there)


@pairs(RANGE_KERNELS)
def test_kernels_outside_of_ranges_are_the_nameless_rows(bench: Bench, report: str, source: str) -> None:
    """Case K, and N: without name, with an arbitrary thread or none; per kernel the totals are the same."""
    table, plain = bench.analysis(report)["range_kern_sum"], bench.plain(report)
    printed = theirs(bench, report, source, RANGE_KERNELS, bench.analysis(report)["range_trace"])
    if printed is None:
        return
    outside = table[table["style"].isna()]
    ours, there = Counter(), Counter()
    for kernel, found in zip(outside.kernel, our_statistics(outside), strict=True):
        ours[kernel, "instances"] += found.instances
        ours[kernel, "total"] += found.total
    nameless = printed[printed.Style.isin(["", "None"])]
    assert (nameless["NVTX Inst"] == 0).all()
    for kernel, found in zip(nameless["Kernel Name"], their_statistics(nameless, "Kern Inst"), strict=True):
        there[kernel, "instances"] += found.instances
        there[kernel, "total"] += found.total
    same(ours, totals_of(plain.outside(1)))
    same(totals_of(plain.outside(0)), there)


def totals_of(described: dict[str, Statistics]) -> Counter[Any]:
    return Counter({(kernel, word): getattr(found, word) for kernel, found in described.items()
                    for word in ("instances", "total")})  # fmt: skip


@pairs(KERNELS)
def test_kern_sum_is_cuda_gpu_kern_sum(bench: Bench, report: str, source: str) -> None:
    table, plain = bench.analysis(report)["kern_sum"], bench.plain(report)
    printed = theirs(bench, report, source, KERNELS, table)
    assert printed is not None
    ours = {kernel: (found,) for kernel, found in zip(table.kernel, our_statistics(table), strict=True)}
    graphs = ours.pop("(CUDA graph)", None)
    assert (graphs is not None) == plain.has_graphs
    if graphs:  # case B2
        whole = np.flatnonzero(plain.operations.whole_graph)
        same_plain({"": graphs}, {"": (plain.describe(whole),)})
    if "GridXYZ" in printed:  # 2022 has a row per grid and block
        same(*(Counter({(kernel, word): value for kernel, word, value in rows}) for rows in (
            [(kernel, word, getattr(found, word)) for kernel, (found,) in ours.items() for word in
             ("instances", "total", "minimum", "maximum")], list(per_kernel(printed)))))  # fmt: skip
        return
    there = {kernel: (found,) for kernel, found in zip(printed.Name, their_statistics(printed, "Instances"),
             strict=True)}  # fmt: skip
    assert len(there) == len(printed)
    same_statistics(ours, there)
    if not graphs:
        shares = dict(texts(table, "kernel", "share_pct"))
        for kernel, share in texts(printed, "Name", "Time (%)"):
            assert as_printed(share, shares[kernel]), kernel


def per_kernel(printed: pd.DataFrame) -> Iterator[tuple[str, str, int]]:
    """The rows per grid and block of 2022, added up."""
    for kernel, rows in printed.groupby("Name"):
        yield kernel, "instances", int(rows["Instances"].sum())
        yield kernel, "total", int(rows["Total Time (ns)"].sum())
        yield kernel, "minimum", int(rows["Min (ns)"].min())
        yield kernel, "maximum", int(rows["Max (ns)"].max())


@pairs(MEMORY_TIME)
def test_mem_sum_is_cuda_gpu_mem_time_sum(bench: Bench, report: str, source: str) -> None:
    table = bench.analysis(report)["mem_sum"]
    printed = theirs(bench, report, source, MEMORY_TIME, table)
    if printed is None:
        return
    ours = {kind: (found,) for kind, found in zip(table.kind, our_statistics(table), strict=True)}
    there = {kind: (found,) for kind, found in zip(printed.Operation, their_statistics(printed, "Count"),
             strict=True)}  # fmt: skip
    same_statistics(ours, there)
    shares = dict(texts(table, "kind", "share_pct"))
    for kind, share in texts(printed, "Operation", "Time (%)"):
        assert as_printed(share, shares[kind]), kind


@pairs(MEMORY_SIZE, also_kept=False)
def test_mem_sum_is_cuda_gpu_mem_size_sum(bench: Bench, report: str, source: str) -> None:
    """Sizes are printed in MB (10^6 bytes) with three digits."""
    table = bench.analysis(report)["mem_sum"]
    printed = theirs(bench, report, source, MEMORY_SIZE, table)
    if printed is None:
        return
    ours = {row[0]: row[1:] for row in texts(table, "kind", "instances", "total_bytes", "avg_bytes", "med_bytes",
            "min_bytes", "max_bytes", "stddev_bytes")}  # fmt: skip
    assert sorted(printed.Operation) == sorted(ours)
    for kind, count, *sizes in texts(printed, "Operation", "Count", "Total (MB)", "Avg (MB)", "Med (MB)", "Min (MB)",
                                     "Max (MB)", "StdDev (MB)"):  # fmt: skip
        assert ours[kind][0] == count
        for size, found in zip(sizes, ours[kind][1:], strict=True):
            assert as_printed(size, Decimal(found) / 1_000_000), kind


@pairs(LAUNCHES, also_kept=False)
def test_kern_trace_is_cuda_kern_exec_trace(bench: Bench, report: str, source: str) -> None:
    """Every kernel with its launch; those without one are not there (N), nor are whole graphs (B2)."""
    table, plain = bench.analysis(report)["kern_trace"], bench.plain(report)
    printed = theirs(bench, report, source, LAUNCHES, table)
    assert printed is not None
    repeats = plain.operations[plain.operations["repeat"] & plain.operations.kernel.notna()]
    if len(repeats):  # case TWICE: a row per API row
        seen = printed.sort_values("API Start (ns)").duplicated(["PID", "DevId", "Kernel Start (ns)", "Kernel Name"])
        assert seen.sum() == len(repeats)
        printed = printed[~seen]
    launched = table[table.api_start_ns.notna() & (table.kernel != "(CUDA graph)")]
    columns = ("api_start_ns", "api_ns", "queue_ns", "start_ns", "duration_ns", "pid", "tid", "device_id", "grid",
               "block", "kernel", "api_name")  # fmt: skip
    ours = Counter(texts(launched.assign(api_name=[api_name(name) for name in launched.api_name]), *columns))
    waited = printed[printed["Queue Start (ns)"].notna()]
    assert (waited["Queue Start (ns)"] == waited["API Start (ns)"] + waited["API Dur (ns)"]).all()
    words = {
        "Queue Dur (ns)": printed["Queue Dur (ns)"].fillna(0),  # ours is 0 where the kernel began within the call
        "API Function": [api_name(name) for name in printed["API Function"]],
        **{column: [",".join(size.split()) for size in printed[column]] for column in ("GridXYZ", "BlockXYZ")},
    }
    columns = ("API Start (ns)", "API Dur (ns)", "Queue Dur (ns)", "Kernel Start (ns)", "Kernel Dur (ns)", "PID", "TID",
               "DevId", "GridXYZ", "BlockXYZ", "Kernel Name", "API Function")  # fmt: skip
    there = Counter(texts(printed.assign(**words), *columns))
    same(ours, there)


def plain_calls(export: Path, rule: int) -> dict[str, tuple[Statistics]]:
    """API calls by both rules: all rows by their name (0), the outer one of each identity without version (1)."""
    query = (
        f"SELECT s.value, r.globalTid & {_PROCESS}, r.correlationId, r.start, r.end "
        "FROM CUPTI_ACTIVITY_KIND_RUNTIME r LEFT JOIN StringIds s ON s.id = r.nameId ORDER BY r.start"
    )
    durations: dict[str, list[int]] = defaultdict(list)
    seen = set()
    with closing(sqlite3.connect(f"file:{export}?mode=ro", uri=True)) as sql:
        for name, process, correlation, start, end in sql.execute(query):
            if rule == 0 or correlation is None or (process, correlation) not in seen:
                durations[api_name(name) if rule else name].append(end - start)
            seen.add((process, correlation))
    return {name: (Statistics.of(values),) for name, values in durations.items()}


@pairs(API, also_kept=False)
def test_stage_api_sum_is_cuda_api_sum(bench: Bench, report: str, source: str) -> None:
    """Without stages, `(no stage)` is NVIDIA's table; with them, the stages share it out."""
    analysis = bench.analysis(report)
    whole = Analysis.of(read(bench.export(report)), Rules(stages={"none": "^$"}))["stage_api_sum"]
    printed = theirs(bench, report, source, API, whole)
    assert printed is not None
    assert set(whole.stage) == {"(no stage)"}
    rows = {name: (found,) for name, found in zip(whole.api_name, our_statistics(whole), strict=True)}
    same_plain(rows, plain_calls(bench.export(report), 1))
    there = [(api_name(name), found) for name, found in zip(printed.Name, their_statistics(printed, "Num Calls"),
             strict=True)]  # fmt: skip
    if Case.TWICE in set().union(*bench.plain(report).cases.values()):
        listed = [(api_name(name), found) for name, (found,) in plain_calls(bench.export(report), 0).items()]
        same(
            Counter((name, *found[:4]) for name, found in listed), Counter((name, *found[:4]) for name, found in there)
        )
    else:
        assert len(dict(there)) == len(there)
        same_statistics(rows, {name: (found,) for name, found in there})
        shares = dict(texts(whole, "api_name", "share_pct"))
        for name, share in texts(printed, "Name", "Time (%)"):
            assert as_printed(share, shares[api_name(name)]), name

    parted = analysis["stage_api_sum"].dropna(subset=["instances"]).groupby("api_name", observed=True)
    sums = parted.agg({"instances": "sum", "total_ns": "sum", "min_ns": "min", "max_ns": "max"})
    for name, (found,) in rows.items():
        assert tuple(sums.loc[name]) == (found.instances, found.total, found.minimum, found.maximum), name


def api_name(name: str) -> str:
    """The name of an API call without the version of its arguments, which nsys prints when it has five digits."""
    return re.sub(r"_v\d{4,}$", "", name)


# -- what the made reports must show ------------------------------------------------------------------------


def test_the_made_report_has_every_case(bench: Bench) -> None:
    """Otherwise the exceptions above would stand there untested."""
    plain = bench.plain("made-cases")
    assert set.union(*plain.cases.values()) == {Case.B2, Case.F, Case.G}
    twins = [group for group in plain.groups(1) if group.name == "twin"]
    inner, outer, again = 17, 5, 12
    assert [plain.groups(0)[group][1].total for group in twins] == [inner + inner + outer + again]
    assert [plain.groups(1)[group][1].total for group in twins] == [inner + outer + again]
    assert {group.name for group in plain.groups(1)} - {group.name for group in plain.groups(0)} == {
        "only across", "only whole", "handed over"}  # fmt: skip


@pytest.mark.parametrize("report", REAL)
def test_which_exceptions_a_real_report_needs(bench: Bench, report: str) -> None:
    """Five of the seven agree with NVIDIA's reports in every row, without any."""
    needed = {GRAPH: {Case.B2}, "public-a100-saxpy-mpi-2.9.1": {Case.TWICE}}
    assert set().union(*bench.plain(report).cases.values()) == needed.get(report, set())


# -- NVIDIA's tables of another recording -------------------------------------------------------------------


@pytest.mark.parametrize("report", [NODE, GRAPH])
def test_another_recording_of_the_same_program(bench: Bench, report: str) -> None:
    """The kept tables of the two graph reports come from another run of the program: counts must be equal.

    Its process has another number and all its times differ; how often what was launched in what does not.
    """
    projected, kernels = (kept(report, what).frame for what in (PROJECTION, KERNELS))
    analysis, plain = bench.analysis(report), bench.plain(report)
    trace = analysis["range_trace"]
    assert set(projected.PID).isdisjoint(trace.pid), "the same recording after all: compare it in full"

    summed = analysis["kern_sum"]
    ours = {kernel: count for kernel, count in texts(summed, "kernel", "instances") if kernel != "(CUDA graph)"}
    assert ours == dict(texts(kernels, "Name", "Instances"))

    rows = [plain.row(number, 0) for number in trace.range_id]
    listed = [(row.name, row.style, row.api_calls) for row in rows if row]
    names = own_names(projected.Name, {name for name, _, _ in listed})
    printed = list(zip(names, projected.Style, projected.NumGPUOps, strict=True))
    assert listed == printed

    copies = kept(report, MEMORY_TIME).frame
    assert dict(texts(analysis["mem_sum"], "kind", "instances")) == dict(texts(copies, "Operation", "Count"))


def test_a_csv_is_read_exactly(tmp_path: Path) -> None:
    """Integers beyond 2**53 and decimals come through digit for digit; missing values of both spellings."""
    path = tmp_path / "one.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([
            ["Orig Start (ns)", "Avg (ns)", "Name", "Operation"],
            [2**60 + 1, "24671.8", 'a "b", c', "[CUDA memcpy DtoH]"],
            ["None", "0.0", "", "[CUDA memset]"],
        ])  # fmt: skip
    with path.open(newline="") as file:
        frame = nsys_stats.parse(file)
    assert frame["Orig Start (ns)"].tolist() == [2**60 + 1, pd.NA]
    assert frame["Avg (ns)"].tolist() == [Decimal("24671.8"), Decimal("0.0")]
    assert frame["Name"].tolist() == ['a "b", c', ""]
    assert frame["Operation"].tolist() == ["[CUDA memcpy Device-to-Host]", "[CUDA memset]"]
    assert as_printed(Decimal("24671.8"), 24671.75)
    assert as_printed(Decimal("24671.8"), 24671.85)
    assert not as_printed(Decimal("24671.8"), 24671.86)
