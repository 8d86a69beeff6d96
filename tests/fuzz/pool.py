"""Cases run in processes that are watched: a hang, a crash or a greedy case ends its process, and not the run."""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from fuzz import bases
from fuzz.calls import CPU_LIMIT_S, WALL_LIMIT_S, call, inside, where
from fuzz.case import Case, Result
from fuzz.kinds import all_kinds

#: Bytes that a case may take in a process that has everything loaded already, and what such a process may have at all.
PEAK_BYTES, _MOST_BYTES = 1_000_000_000, 8_000_000_000
#: A process is replaced after so many cases, so that what one leaves in it does not reach far.
_CASES = 400
#: A case of programs may wait for several of them.
_PROGRAMS_WALL_S = 3 * WALL_LIMIT_S


def run_case(case: Case, work: Path) -> Result:
    """Run a case in this process, in a folder of its own that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"{case.kind}-", dir=work))
    kind, begin, cpu = all_kinds()[case.kind], time.monotonic(), time.process_time()
    _forget_peak()
    try:
        with inside(folder):
            result = kind.run(case, folder)
    except Exception:  # the fuzzer's own: as loud as dsprof's
        result = Result(None)
        result.found("traceback", f"in the fuzzer: {where(traceback.format_exc())} {traceback.format_exc()[-600:]}")
    finally:
        _remove(folder)
    result.seconds = time.monotonic() - begin
    if not kind.programs:
        result.peak_bytes = _peak()
        if result.peak_bytes > PEAK_BYTES:
            result.found("memory", f"{result.peak_bytes / 1e6:.0f} MB")
        if time.process_time() - cpu > CPU_LIMIT_S:
            result.found("slow", f"{time.process_time() - cpu:.0f} s of processor time")
    return result


def _remove(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        with suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _forget_peak() -> None:
    gc.collect()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)


# -- a worker -------------------------------------------------------------------------------------------


def _work(pipe: Connection, reports: Path, work: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (work / f"worker-{os.getpid()}.log").open("wb") as log:  # what C code says
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    bases.prepare(reports)
    call("analyze", bases.path("made"), "--fast", "--out", work / f"{os.getpid()}.warm")  # loads and compiles all
    gc.freeze()  # what is loaded stays: a third of a case's time would go into looking through it
    with suppress(EOFError):
        while True:
            pipe.send(run_case(pipe.recv(), work))


class _Worker:
    """A process that runs cases, one at a time."""

    def __init__(self, reports: Path, work: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, reports, work), daemon=True)
        self.process.start()
        other.close()
        self.case: Case | None = None
        self._left = _CASES

    def give(self, case: Case) -> None:
        self.case, self._begin, self._cpu = case, time.monotonic(), self._cpu_s()
        self._left -= 1
        self.pipe.send(case)

    @property
    def is_worn(self) -> bool:
        return self._left <= 0

    def take(self) -> Result:
        """The result of its case, or what its end says of the case."""
        self.case = None
        try:
            result = self.pipe.recv()
            assert isinstance(result, Result)
        except (EOFError, ConnectionError):
            self.process.join()
            result = Result(None, seconds=time.monotonic() - self._begin)
            result.found("traceback", f"the process ended with {self.process.exitcode}")
            self._left = 0
        return result

    def overdue(self) -> Result | None:
        """The result of a case that takes too long; its process is ended."""
        case = self.case
        assert case is not None
        programs = all_kinds()[case.kind].programs
        taken, cpu = time.monotonic() - self._begin, self._cpu_s() - self._cpu
        if taken < (_PROGRAMS_WALL_S if programs else WALL_LIMIT_S) and (programs or cpu < 1.5 * CPU_LIMIT_S):
            return None
        self.end()
        self.case, self._left = None, 0
        result = Result(None, seconds=taken)
        result.found("slow", f"no end after {taken:.0f} s, {cpu:.0f} s of them of processor time")
        return result

    def _cpu_s(self) -> float:
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Ran(NamedTuple):
    """A case, and what came of it."""

    case: Case
    result: Result


def run_all(cases: Iterable[Case], reports: Path, work: Path, workers: int) -> Iterator[Ran]:
    """Run cases at once in so many processes; each result as it comes."""
    waiting = iter(cases)
    pool = [_Worker(reports, work) for _ in range(workers)]
    try:
        busy = [worker for worker in pool if _give_next(worker, waiting)]
        while busy:
            ready = wait([worker.pipe for worker in busy], timeout=1.0)
            for worker in list(busy):
                case = worker.case
                assert case is not None
                result = worker.take() if worker.pipe in ready else worker.overdue()
                if result is None:
                    continue
                yield Ran(case, result)
                busy.remove(worker)
                if worker.is_worn:
                    worker.end()
                    pool.remove(worker)
                    worker = _Worker(reports, work)
                    pool.append(worker)
                if _give_next(worker, waiting):
                    busy.append(worker)
    finally:
        for worker in pool:
            with suppress(OSError, ValueError):
                worker.end()


def _give_next(worker: _Worker, waiting: Iterator[Case]) -> bool:
    case = next(waiting, None)
    if case is not None:
        worker.give(case)
    return case is not None
