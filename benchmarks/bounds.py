"""What an analysis of hostile reports takes: made data, each of a kind that once took quadratic time or much memory.

usage: python benchmarks/bounds.py [CASE ...] [--size N] [--memory 500MB] [--limit-s 60] [--limit-gb 6]

Each case is made at its usual size and at twice that, and analyzed in a process of its own, so that what is linear can
be seen: its time doubles at most. All files are made, in a temporary folder, and removed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from measure import RunFailed, run

from trace_builder import DOMAIN_CREATED, KERNEL, LAUNCH, NVTX, PUSH_POP, RUNTIME, START_END, TraceBuilder, global_pid

#: What is between two things that a thread does, in ns, and how long a capture lasts.
_STEP, _LAST = 1000, 10**12
Fill = Callable[["Made", int], None]


class Made:
    """A report under construction: whole columns at a time, as a loop over rows would take longer than the analysis."""

    def __init__(self, database: sqlite3.Connection, builder: TraceBuilder) -> None:
        self._database, self._builder = database, builder
        self._strings = 1_000_000

    def rows(self, table: str, count: int, **columns: Any) -> None:
        """`count` rows of a table; a column is an array, or a value for all."""
        declared = [column for column in self._builder.schema.tables[table] if column[0] in columns or column[2]]
        usual = {name: "" if kind == "TEXT" else 0 for name, kind, _ in declared}
        values = [np.broadcast_to(columns.get(name, value), count).tolist() for name, value in usual.items()]
        names, marks = ", ".join(f'"{name}"' for name in usual), ", ".join("?" for _ in usual)
        self.sql(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', zip(*values, strict=True))  # noqa: S608

    def sql(self, statement: str, rows: Iterable[tuple[Any, ...]] = ((),)) -> None:
        """Run a statement for some rows, once unless given."""
        self._database.executemany(statement, rows)

    def strings(self, texts: list[str]) -> Any:
        """The ids of some texts."""
        first = self._strings
        self._strings += len(texts)
        self._database.executemany(
            "INSERT INTO StringIds VALUES (?, ?)", zip(range(first, self._strings), texts, strict=True)
        )
        return np.arange(first, self._strings)

    def launches(self, count: int, *, kernels: int = 20, begin: int = 500, **columns: Any) -> None:
        """Kernels one after another, one every microsecond, by their calls; `columns`: what is not usual."""
        start = begin + _STEP * np.arange(count)
        thread = columns.get("thread", global_pid(100) | 100)
        number = columns.get("correlation", 1 + np.arange(count))
        named = columns.get("names")
        name = self.strings([f"kernel_{one}" for one in range(kernels)]) if named is None else named
        self.rows(RUNTIME, count, start=start, end=start + 100, globalTid=thread, correlationId=number,
                  nameId=int(self.strings([LAUNCH])[0]))  # fmt: skip
        end = start + 500 + columns.get("longer", 0) + 32 * (np.arange(count) % 7)
        self.rows(KERNEL, count, start=start + 200, end=end, globalPid=thread & ~0xFFFFFF, correlationId=number,
                  demangledName=name[np.arange(count) % len(name)], shortName=name[0],
                  deviceId=columns.get("device", 0), streamId=columns.get("stream", 7))  # fmt: skip

    def ranges(self, start: Any, end: Any, names: list[str], kind: int = PUSH_POP, **columns: Any) -> None:
        """Ranges, the names of which are used in turn."""
        text = self.strings(names)[np.arange(len(start)) % len(names)]
        thread = columns.pop("thread", global_pid(100) | 100)
        self.rows(NVTX, len(start), start=start, end=end, eventType=kind, globalTid=thread, textId=text,
                  domainId=0, **columns)  # fmt: skip


def make(path: Path, fill: Fill, size: int) -> Path:
    """Make a report at `path`."""
    builder = TraceBuilder("2023.4.4", lazy=False, duration=_LAST)
    builder.write(path)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA synchronous = OFF")
        fill(Made(database, builder), size)
        database.commit()
    return path


# -- ranges -------------------------------------------------------------------------------------------------


def _pushes(made: Made, size: int, names: list[str], end: Any = _LAST, longer: int = 0) -> None:
    made.launches(size, longer=longer)
    made.ranges(_STEP * np.arange(size), np.broadcast_to(end, size), names)


def never_popped(made: Made, size: int) -> None:
    """A range is pushed before each launch and none is popped; one name."""
    _pushes(made, size, ["step"])


def never_popped_stage(made: Made, size: int) -> None:
    """The same of a stage: every decode is inside all before it."""
    _pushes(made, size, ["decode"])


def never_popped_names(made: Made, size: int) -> None:
    """The same, and each has another name."""
    _pushes(made, size, [f"step {one}" for one in range(size)])


def never_popped_overlap(made: Made, size: int) -> None:
    """The same, and the kernels overlap."""
    _pushes(made, size, ["step"], longer=5000)


def nested(made: Made, size: int) -> None:
    """Ranges each inside the one before, closed in turn; all launches in the innermost; few names."""
    made.launches(size, begin=size * _STEP)
    place = np.arange(size)
    made.ranges(place, 3 * size * _STEP - place, ["outer", "middle", "inner"])


def nested_names(made: Made, size: int) -> None:
    """The same, and each has another name."""
    made.launches(size, begin=size * _STEP)
    place = np.arange(size)
    made.ranges(place, 3 * size * _STEP - place, [f"level {one}" for one in range(size)])


def deep_launches(made: Made, size: int) -> None:
    """Many launches in the innermost of a thousand ranges of many names."""
    made.launches(5 * size, begin=size * _STEP)
    place = np.arange(1000)
    made.ranges(place, 30 * size * _STEP - place, [f"level {one}" for one in range(1000)])


def crossing(made: Made, size: int) -> None:
    """Start/end ranges of which each reaches over half of the others; few names."""
    made.launches(size)
    made.ranges(_STEP * np.arange(size), _STEP * (size // 2 + np.arange(size)), ["a", "b", "c"], START_END)


def crossing_names(made: Made, size: int) -> None:
    """The same, and each has another name."""
    made.launches(size)
    names = [f"request {one}" for one in range(size)]
    made.ranges(_STEP * np.arange(size), _STEP * (size // 2 + np.arange(size)), names, START_END)


def staircase(made: Made, size: int) -> None:
    """Nested ranges, and then as many that cross all of them."""
    made.launches(size)
    place, half = np.arange(size // 2), size // 2
    start = np.concatenate([place, half + place])
    made.ranges(start * _STEP, np.concatenate([2 * size - place, 2 * size + place]) * _STEP, ["a", "b"], START_END)


def long_call(made: Made, size: int) -> None:
    """Ranges beside each other and never popped, and one call that outlasts them all."""
    made.rows(RUNTIME, 1, start=1, end=_LAST, globalTid=global_pid(100) | 100, correlationId=10**7, nameId=1)
    made.rows(KERNEL, 1, start=2, end=3, globalPid=global_pid(100), correlationId=10**7, demangledName=1)
    _pushes(made, size, ["step"], end=size * _STEP + np.arange(size))


def steps_in_stages(made: Made, size: int) -> None:
    """Decodes that are never popped, each with a step."""
    made.launches(size)
    start = np.repeat(_STEP * np.arange(size // 2) * 2, 2) + np.tile([0, 10], size // 2)
    end = np.where(np.arange(len(start)) % 2, start + _STEP, _LAST)
    made.ranges(start, end, ["decode", "step"])


# -- numbers ------------------------------------------------------------------------------------------------


def shifted_ids(made: Made, size: int) -> None:
    """CorrelationIds from three billion on."""
    made.launches(size, correlation=3_000_000_000 + np.arange(size))


def spread_ids(made: Made, size: int) -> None:
    """CorrelationIds spread over 32 bits, of a hundred processes."""
    thread = global_pid(100) + (np.arange(size) % 100 << 24)
    made.launches(size, correlation=np.arange(size) * 2_654_435_761 % (1 << 32), thread=thread)


def wide_strings(made: Made, size: int) -> None:
    """Ids of strings spread over 40 bits."""
    names = np.arange(size) * 999_983
    made.sql("INSERT INTO StringIds VALUES (?, ?)", ((one, f"name {one}") for one in names[1:].tolist()))
    made.launches(size, names=names[1:])


def many_threads(made: Made, size: int) -> None:
    """Each launch on a thread of its own, in a decode of its own."""
    thread = global_pid(100) | 1 + np.arange(size)
    made.launches(size, thread=thread)
    made.ranges(_STEP * np.arange(size), _STEP * (1 + np.arange(size)), ["decode"], thread=thread)


def many_processes(made: Made, size: int) -> None:
    """Each launch in a process of its own, in a decode of its own."""
    thread = global_pid(1) + (np.arange(size) << 24)
    made.launches(size, thread=thread)
    made.ranges(_STEP * np.arange(size), _STEP * (1 + np.arange(size)), ["decode"], thread=thread)


def many_streams(made: Made, size: int) -> None:
    """Each launch on a stream and a device of its own."""
    made.launches(size, stream=np.arange(size), device=np.arange(size))
    made.ranges(np.array([0]), np.array([_LAST]), ["prefill"])


def many_domains(made: Made, size: int) -> None:
    """Each range in a domain of its own."""
    made.launches(1000)
    number, place = 1 + np.arange(size), {"globalTid": global_pid(100) | 100}
    names = np.array([f"domain {one}" for one in range(size)], object)
    made.rows(NVTX, size, start=0, eventType=DOMAIN_CREATED, domainId=number, text=names, **place)
    made.rows(NVTX, size, start=_STEP * number, end=_STEP * (1 + number), eventType=PUSH_POP, domainId=number,
              textId=int(made.strings(["range"])[0]), **place)  # fmt: skip


def far_rowids(made: Made, size: int) -> None:
    """The last row of each table has the greatest rowid there is."""
    made.launches(size)
    made.ranges(_STEP * np.arange(10), _STEP * np.arange(10) + 5, ["prefill"])
    for table in (RUNTIME, KERNEL, NVTX):
        last = f"(SELECT max(rowid) FROM {table})"  # noqa: S608
        made.sql(f"UPDATE {table} SET rowid = 9223372036854775807 WHERE rowid = {last}")  # noqa: S608


# -- texts --------------------------------------------------------------------------------------------------

_LONG = (
    "void " + "native::" * 50_000,
    "<" * 400_000,
    "triton_poi_fused_" + "_to_copy_" * 44_000 + "x",
    "triton_red_fused" + "layer_" * 66_000,
    "a" * 400_000,
    "k<" + "int, " * 80_000 + ">",
    "Device" + "Radix" * 80_000,
    "nvfuser_" * 50_000,
    "void k<" + "a::" * 130_000 + ">(int)",
)


def long_names(made: Made, size: int) -> None:
    """Kernels' names of 400 kB."""
    made.launches(size, names=made.strings([f"{_LONG[one % len(_LONG)]}{one}" for one in range(size)]))


def program_output(made: Made, size: int) -> None:
    """Program output, in megabytes, among the strings, as nsys keeps it."""
    made.launches(1000)
    text = made.strings([f"{one:07d}" + "x" * 999_993 for one in range(size)])
    made.sql("CREATE TABLE IF NOT EXISTS ProcessStreams (globalPid INTEGER, filenameId INTEGER, contentId INTEGER)")
    made.sql("INSERT INTO ProcessStreams (globalPid, filenameId, contentId) VALUES (?, ?, ?)",
             ((global_pid(100), 1, one) for one in text.tolist()))  # fmt: skip


@frozen
class Case:
    """A kind of hostile report, its usual size, and with what memory and options it is analyzed."""

    fill: Fill
    size: int
    options: tuple[str, ...] = ()


CASES = {
    "never-popped": Case(never_popped, 50_000),
    "never-popped-stage": Case(never_popped_stage, 50_000),
    "never-popped-names": Case(never_popped_names, 50_000),
    "never-popped-overlap": Case(never_popped_overlap, 50_000),
    "nested": Case(nested, 50_000),
    "nested-names": Case(nested_names, 50_000),
    "deep-launches": Case(deep_launches, 50_000),
    "crossing": Case(crossing, 50_000),
    "crossing-names": Case(crossing_names, 50_000),
    "staircase": Case(staircase, 50_000),
    "long-call": Case(long_call, 50_000),
    "steps-in-stages": Case(steps_in_stages, 50_000),
    "shifted-ids": Case(shifted_ids, 400_000, ("--memory", "400MB")),
    "spread-ids": Case(spread_ids, 400_000, ("--memory", "400MB")),
    "wide-strings": Case(wide_strings, 200_000),
    "many-threads": Case(many_threads, 10_000),
    "many-processes": Case(many_processes, 10_000),
    "many-streams": Case(many_streams, 10_000),
    "many-domains": Case(many_domains, 50_000),
    "far-rowids": Case(far_rowids, 400_000, ("--memory", "400MB")),
    "long-names": Case(long_names, 9),
    "program-output": Case(program_output, 150, ("--memory", "400MB")),
}


def measured(case: Case, size: int, options: list[str], limit_s: int) -> str:
    """Seconds, CPU seconds and peak memory of the analysis of a case, or what became of it."""
    with tempfile.TemporaryDirectory(prefix="dsprof-bounds-") as folder:
        path = make(Path(folder, "made.sqlite"), case.fill, size)
        program = shutil.which("dsprof") or str(Path(sys.executable).with_name("dsprof"))
        try:
            done = run(
                [program, "analyze", str(path), *case.options, *options, "--out", str(Path(folder, "out"))], limit_s
            )
        except RunFailed as failed:
            return f"failed: {str(failed).splitlines()[-1][-100:]}"
    return f"{done.wall_s:6.1f} s {done.cpu_s:6.1f} s {done.peak_bytes / 1e6:6.0f} MB"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of: {', '.join(CASES)}")
    parser.add_argument("--size", type=int, help="another size than the usual")
    parser.add_argument("--limit-s", type=int, default=60)
    parser.add_argument("--limit-gb", type=float, default=6.0)
    parser.add_argument("--option", action="append", default=[], help="one more word for dsprof analyze")
    asked = parser.parse_args()
    limit = int(asked.limit_gb * 1e9)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    print(f"{'case':20} {'n':>8}  {'n: wall, CPU, memory':>30}  {'2n':>30}")
    for name in asked.cases or CASES:
        case = CASES[name]
        size = asked.size or case.size
        one, two = (measured(case, times * size, asked.option, asked.limit_s) for times in (1, 2))
        print(f"{name:20} {size:8}  {one:>30}  {two:>30}", flush=True)


if __name__ == "__main__":
    main()
