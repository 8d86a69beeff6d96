"""A large report, exported by several nsys side by side, since one uses one core.

::

    first    all tables but those of CUDA events, to SQLite              a good part of a second
    then     stretch 0 |  stretch 1  |  stretch 2  |  stretch 3          each by an nsys of its own, to Arrow

What an export takes is what is written: an nsys that is asked for a stretch of time (``--times``) passes quickly over
the rest. An event belongs to the stretch in which it begins; nsys is asked for those that begin in a stretch, however
long they last (the colon behind its end), and for somewhat more before it, of which `event_files` keeps what counts. So
nothing depends on whether an nsys takes an edge as inside. The environment of the machine's processes is not exported
at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import wait
from contextlib import closing
from pathlib import Path

import numpy as np

from dsprof.arrays.backend import Workers
from dsprof.ground.memory import allowed
from dsprof.nsys import schema
from dsprof.nsys.command import Process, export_error, finish_export, is_whole, kill, run_export, run_nsys
from dsprof.nsys.event_files import EXPORT, TABLES, EventFiles, write_index
from dsprof.nsys.inputs import Input
from dsprof.nsys.sound import read_only

#: A smaller report is exported by one nsys as quickly.
_WORTH_BYTES = 4 << 20
#: More nsys at once gain little: each reads the whole report.
_MOST_JOBS = 8
#: What an nsys takes at its peak: by itself, and for each byte of the report, divided among those that share it.
_BYTES_ALONE, _BYTES_PER_BYTE = 48 << 20, 12
#: Nanoseconds by which a stretch begins earlier than it counts.
_BEFORE = 1_000
#: Of so many moments at least the cuts are taken; where there are fewer, the capture is cut into equal stretches.
_MOMENTS = 256
#: Rows that tell when something was going on, by their table: ranges, and waits for the GPU.
_TELLING = {
    schema.NVTX: f"WHERE eventType IN {schema.RANGE_TYPES}",
    "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION": "",
}


def jobs_for(report: Input, nsys: Path, threads: int | None = None) -> int:
    """How many nsys to run side by side; 1 for a small report, or where this nsys cannot be asked for a part.

    As many as there are cores, or `threads`, and as the free memory allows for.
    """
    size = report.path.stat().st_size
    cores = min(threads or len(os.sched_getaffinity(0)), _MOST_JOBS)
    if size < _WORTH_BYTES or cores < 2:
        return 1
    free = allowed()
    room = cores if free is None else int((free - _BYTES_PER_BYTE * size) // _BYTES_ALONE)
    jobs = min(cores, room)
    return jobs if jobs > 1 and _can_do_parts(nsys) else 1


def _can_do_parts(nsys: Path) -> bool:
    """Does this nsys write Arrow files of some tables and of a stretch of time? It says so itself (from 2023.4 on)."""
    said = run_nsys(nsys, ["export", "--help"], limit_s=60).said
    return all(word in said for word in ("arrowdir", "--tables=", "--times=", ":S/E:"))


def export_side_by_side(report: Input, folder: Path, nsys: Path, jobs: int, command: Sequence[str] = ()) -> None:
    """Export `report` into `folder`, which is empty: an export without its events, and `event_files`.

    Raises as `nsys.command.export` does, and what it says of environments and secrets holds here.
    """
    small, others = folder / EXPORT, f"--tables={all_but((*TABLES, schema.SYSTEM))}"
    sha256 = report.sha256
    said = run_export(report, nsys, ["--type=sqlite", others], small)
    if not is_whole(small):
        raise export_error(report.path, nsys, said)
    cuts = _cuts(small, jobs)
    edges = zip(["", *(str(cut - _BEFORE) for cut in cuts)], [*(f"{cut}:" for cut in cuts), ""], strict=True)
    times = [f"{begin}/{end}" if cuts else "" for begin, end in edges]
    _export_stretches(report, nsys, times, folder, jobs)
    write_index(folder, cuts)
    finish_export(report, nsys, small, command, sha256, [others], EventFiles(folder).strings())


def _export_stretches(report: Input, nsys: Path, times: Sequence[str], folder: Path, jobs: int) -> None:
    """Export the events of each stretch of time, at once; if one fails, or we are interrupted, the others are ended."""
    running: list[Process] = []

    def stretch(number: int, asked: str) -> None:
        words = ["--type=arrowdir", f"--tables={','.join(TABLES)}", *([f"--times={asked}"] if asked else [])]
        run_export(report, nsys, words, folder / str(number), running.append)

    with Workers(jobs) as workers:
        begun = [workers.submit(stretch, *one) for one in enumerate(times)]
        try:
            for one in begun:
                one.result()
        except BaseException:
            for one in begun:
                one.cancel()
            while not all(one.done() for one in begun):
                for process in running:
                    kill(process)
                wait(begun, timeout=0.05)
            raise


def _cuts(exported: Path, stretches: int) -> list[int]:
    """Times that cut a report into stretches in which about as much happens: of ranges and waits, or of the clock."""
    with closing(read_only(exported)) as database:
        there = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        queries = [f'SELECT CAST("start" AS INTEGER) FROM {table} {rows}'  # noqa: S608
                   for table, rows in _TELLING.items() if table in there]  # fmt: skip
        moments = np.array([row[0] or 0 for query in queries for row in database.execute(query)], np.int64)
        if len(moments) < _MOMENTS and "ANALYSIS_DETAILS" in there:
            ((lasts,),) = database.execute("SELECT max(CAST(duration AS INTEGER)) FROM ANALYSIS_DETAILS")
            moments = np.linspace(0, max(int(lasts or 0), 0), _MOMENTS).astype(np.int64)
    if not len(moments):
        return []
    found = np.unique(np.sort(moments)[len(moments) * np.arange(1, stretches) // stretches])
    return [int(cut) for cut in found if cut > _BEFORE]


def all_but(names: Iterable[str]) -> str:
    """Patterns, as ``--tables`` takes them, that fit all names of tables but some; these are words of letters and _.

    nsys compares whole names, and knows no pattern for "not": so each differs in its first letter, or in the second
    where the first is that of one of the names, and so on, or is a beginning of one.
    """
    names = list(names)
    begun = {name[:length] for name in names for length in range(len(name) + 1)}
    following = {head: "".join(sorted({name[len(head)] for name in begun if name[:-1] == head and name}))
                 for head in sorted(begun)}  # fmt: skip
    patterns = [f"{head}[^{letters}].*" if letters else f"{head}..*" for head, letters in following.items()]
    return ",".join([*patterns, *(head for head in sorted(begun - set(names)) if head)])
