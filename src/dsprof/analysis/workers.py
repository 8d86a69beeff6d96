"""Who analyzes several reports: this process, processes beside it, or the workers of a Dask cluster.

All three give the same rows, in the order in which they are done. A worker that dies takes nothing with it but the
report that it had, which is tried once more: what killed it may have been a neighbour.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import re
import signal
import sys
import types
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from attrs import evolve, frozen

from dsprof.analysis.one_report import Row, Task, failed, one_report
from dsprof.errors import ReportMissing, WorkersUnavailable
from dsprof.ground.environment import without_threads
from dsprof.ground.memory import allowed

#: The kinds of workers by name; all else is the address of a scheduler, or its file.
AUTO, LOOP, PROCESSES = "auto", "loop", "processes"
_PROCESSES = re.compile(rf"{PROCESSES}(?::([1-9]\d{{0,3}}))?")
_ADDRESS = re.compile(r"[a-z]{2,10}://.+")
#: What an analysis of a small report takes, and what a megabyte of a report takes beside that, in seconds; packed ones
#: more. They need not be exact: below `_WORTH_S` of work in all, workers are not worth their start.
_REPORT_S, _MEGABYTE_S, _PACKED = 0.08, 0.012, 8
_WORTH_S = 5.0
#: So many times a report is tried whose worker was lost, and so many times Dask does.
_TRIES, _RETRIES = 2, 2
#: Of a worker's limit of memory, what its analyses may take: the tables and Python itself need some.
_SHARE = 0.6
#: Seconds that a scheduler has to answer.
_PATIENCE_S = 20
#: prctl: the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


@frozen
class On:
    """Where reports are analyzed: `kind` is ``loop``, ``processes`` or ``dask``; `address` that of its scheduler."""

    kind: str
    workers: int = 1
    address: str = ""

    @classmethod
    def of(cls, text: str, sizes: Sequence[int] = ()) -> On:
        """What ``--on`` says, for reports of these sizes in bytes; packed ones negative. Raises ValueError."""
        processors = len(os.sched_getaffinity(0))
        if found := _PROCESSES.fullmatch(text):
            return cls(PROCESSES, int(found[1] or min(processors, max(len(sizes), 1))))
        if text == LOOP:
            return cls(LOOP)
        if text == AUTO:
            seconds = sum(_REPORT_S + _MEGABYTE_S * (size if size > 0 else -_PACKED * size) / 1e6 for size in sizes)
            workers = min(processors, len(sizes))
            return cls(PROCESSES, workers) if workers > 1 and seconds > _WORTH_S else cls(LOOP)
        if _ADDRESS.fullmatch(text) or text.endswith(".json"):
            return cls("dask", address=text)
        raise ValueError(
            f"'{text}' is none of {AUTO}, {LOOP}, {PROCESSES}, {PROCESSES}:4, the address of a Dask scheduler like "
            "tcp://host:8786, or its file like scheduler.json."
        )


def rows_of(tasks: Sequence[Task], on: On) -> Iterator[tuple[int, Row]]:
    """The place of each task and what came of it, as they are done. Raises `WorkersUnavailable`."""
    if on.kind == LOOP:
        return ((place, one_report(task)) for place, task in enumerate(tasks))
    return _in_processes(tasks, on.workers) if on.kind == PROCESSES else _on_dask(tasks, on.address)


# -- processes -----------------------------------------------------------------------------------------------


class _Worker(NamedTuple):
    """A process that waits for tasks at the other end of a pipe."""

    process: Any
    pipe: Connection


def _in_processes(tasks: Sequence[Task], workers: int) -> Iterator[tuple[int, Row]]:
    """Each with a share of the memory and the processors."""
    free = allowed()
    memory = None if free is None else free // workers
    threads = max(len(os.sched_getaffinity(0)) // workers, 1)
    left, tried = deque(range(len(tasks))), [0] * len(tasks)
    busy: dict[Connection, tuple[_Worker, int]] = {}
    idle: list[_Worker] = []
    with ExitStack() as ending:
        started: list[_Worker] = []
        ending.callback(_end, started)
        while left or busy:
            while left and len(busy) < workers:
                worker = idle.pop() if idle else _started(started)
                place = left.popleft()
                tried[place] += 1
                with suppress(OSError):  # it died meanwhile, which is seen below
                    worker.pipe.send(tasks[place].within(memory, threads))
                busy[worker.pipe] = worker, place
            ready = wait(list(busy))
            for pipe in [one for one in busy if one in ready]:
                worker, place = busy.pop(pipe)
                try:
                    row = worker.pipe.recv()
                except (EOFError, OSError):
                    worker.process.join()
                    if tried[place] < _TRIES:
                        left.append(place)
                        continue
                    row = _lost(tasks[place], worker.process.exitcode)
                else:
                    idle.append(worker)
                yield place, row


def _started(started: list[_Worker]) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
    with _without_main(), without_threads():
        process.start()
    theirs.close()
    started.append(_Worker(process, ours))
    return started[-1]


@contextmanager
def _without_main() -> Iterator[None]:
    """Let workers not run the program of whoever calls us once more, as Python otherwise does."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _work(pipe: Connection, parent: int) -> None:
    """What a worker does: tasks, until nobody asks any more; it ends with its parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    with suppress(EOFError, OSError):
        while True:
            pipe.send(one_report(pipe.recv()))


def _end(started: Sequence[_Worker]) -> None:
    """End all workers; one that has work yet, because the parent was interrupted, at once."""
    for worker in started:
        worker.pipe.close()
        worker.process.kill()
    for worker in started:
        worker.process.join()
        worker.process.close()


def _lost(task: Task, code: int | None) -> Row:
    how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    why = " It may have taken too much memory: see --memory and fewer workers." if code == -signal.SIGKILL else ""
    error = WorkersUnavailable(f"The worker ended while it had this report, {_TRIES} times ({how}).{why}")
    return failed(task.named, error, error.exit_code)


# -- Dask ----------------------------------------------------------------------------------------------------


def _on_dask(tasks: Sequence[Task], address: str) -> Iterator[tuple[int, Row]]:
    """On the workers of a cluster, as many as it has and gets."""
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise WorkersUnavailable(
            f"A Dask scheduler was named, and Dask cannot be loaded ({error}).",
            "Install it with `pip install 'dsprof[dask]'`, here and on the workers.",
        ) from error
    for name in ("distributed", "tornado"):  # they tell of heartbeats that come too late for a closed client
        logging.getLogger(name).setLevel(logging.CRITICAL)
    where: dict[str, Any] = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    if "scheduler_file" in where and not Path(address).exists():
        raise WorkersUnavailable(f"There is no file {address}.", "`dask scheduler --scheduler-file` writes it.")
    try:
        client = Client(**where, timeout=_PATIENCE_S, set_as_default=False)
    except (OSError, ValueError, TimeoutError, TypeError) as error:
        raise WorkersUnavailable(
            f"No Dask scheduler answers at {address} ({type(error).__name__}).", "See whether `dask scheduler` runs."
        ) from error
    with client:
        memory, threads = _of_workers(client)
        sent = [one.within(memory, threads) for one in tasks]
        futures = client.map(one_report, sent, pure=False, retries=_RETRIES)
        places, lost = {future.key: place for place, future in enumerate(futures)}, list[int]()
        for future in as_completed(futures, loop=client.loop):
            if future.status == "finished":
                yield places[future.key], _seen_there(sent[places[future.key]], future.result())
            else:
                lost.append(places[future.key])
            future.release()
        for place in lost:  # each alone: Dask blames all that a killed worker had
            future = next(as_completed([client.submit(one_report, sent[place], pure=False)], loop=client.loop))
            done = future.status == "finished"
            yield place, _seen_there(sent[place], future.result()) if done else _lost_on_dask(sent[place], future)


def _of_workers(client: Any) -> tuple[int | None, int]:
    """What a task may have of the least worker: memory and threads. Raises `WorkersUnavailable`."""
    try:
        client.wait_for_workers(1, timeout=_PATIENCE_S)
    except (OSError, TimeoutError) as error:
        raise WorkersUnavailable(
            "The Dask cluster has no worker.", "Start some with `dask worker`, or with the cluster's own launcher."
        ) from error
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    shares = [one["memory_limit"] * _SHARE / one["nthreads"] for one in workers if one["memory_limit"]]
    return (int(min(shares)) if shares else None), 1


def _seen_there(task: Task, row: Row) -> Row:
    """Say of a report that is here, and that a worker does not find, where it must be."""
    if row.error != ReportMissing.__name__ or not task.named.path.exists():
        return row
    return evolve(row, sentence=f"{row.sentence} It is here: the worker {row.worker} must see the same folders.")


def _lost_on_dask(task: Task, future: Any) -> Row:
    reason = future.exception()
    error = WorkersUnavailable(f"Dask gave this report up: {type(reason).__name__}: {reason}")
    return failed(task.named, error, error.exit_code)
