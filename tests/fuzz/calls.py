"""dsprof is called: in this process, which is quick, or as a program; either way it is judged by what it leaves."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dsprof import cli, errors
from dsprof.errors import DsprofError
from dsprof.findings import STRICT_EXITS
from fuzz.case import Result

SOURCES = Path(cli.__file__).parents[2]
#: Seconds of processor time that a call may take, and seconds in all, on a machine that does other things too.
CPU_LIMIT_S, WALL_LIMIT_S = 20, 120
_SENTENCE = re.compile(r"^dsprof: \S", re.MULTILINE)


def _codes() -> set[int]:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DsprofError)]
    return {0, 2, *(kind.exit_code for kind in kinds if kind is not DsprofError), *STRICT_EXITS.values()}


#: Every exit code that is documented.
CODES = _codes()


@dataclass(frozen=True)
class Ended:
    """How a call ended: its exit code (negative: the signal), output, the traceback if there was one, and its cost.

    `late`: it was killed, since it had not ended in time.
    """

    code: int
    out: bytes
    err: str
    trace: str = ""
    cpu_s: float = 0.0
    peak_bytes: int = 0
    late: bool = False

    @property
    def text(self) -> str:
        """What it printed, as text."""
        return self.out.decode("utf-8", "replace")


def judge(ended: Ended, result: Result) -> Ended:
    """Note in a result what no call may do."""
    result.code = ended.code
    trace = ended.trace or (ended.err if "Traceback (most recent call last)" in ended.err else "")
    if ended.late:
        result.found("slow", "no end in time")
    elif "MemoryError" in trace.rpartition("\n  File ")[2]:
        result.found("memory", where(trace))
    elif trace:
        result.found("traceback", where(trace))
    elif ended.code not in CODES:
        result.found("traceback", f"exit code {ended.code}: {ended.err[-300:]}")
    elif ended.code not in (0, 2) and not _SENTENCE.search(ended.err) and ended.code not in STRICT_EXITS.values():
        result.found("traceback", f"exit code {ended.code} without a sentence: {ended.err[-300:]}")
    if "RuntimeWarning" in ended.err:
        result.found("wrong", f"numpy warns: {ended.err[-300:]}")
    if ended.cpu_s > CPU_LIMIT_S:
        result.found("slow", f"{ended.cpu_s:.0f} s of processor time")
    return ended


def where(trace: str) -> str:
    """The last place of ours in a traceback and the error, in one line: by this, failures are told apart."""
    places = re.findall(r'File "[^"]*/(dsprof/[^"]+)", line (\d+), in (\S+)', trace)
    last = next(line for line in reversed(trace.splitlines()) if line.strip(" +-|"))[:200].strip(" |")
    return f"{' '.join(places[-1]) if places else '?'}: {last}"


def call(*arguments: object) -> Ended:
    """Call the command line in this process."""
    streams = sys.stdout, sys.stderr, sys.argv
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    sys.stdout, sys.stderr, sys.argv = out, err, ["dsprof", *map(_text, arguments)]
    code, trace = 0, ""
    try:
        cli.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        code, trace = 1, traceback.format_exc()
    finally:
        sys.stdout, sys.stderr, sys.argv = streams
    return Ended(code, _bytes(out), _bytes(err).decode("utf-8", "replace"), trace)


def _text(argument: object) -> str:
    return os.fsdecode(argument) if isinstance(argument, bytes | os.PathLike) else str(argument)


def _bytes(stream: io.TextIOWrapper) -> bytes:
    if stream.closed:
        return b""
    stream.flush()
    buffer = stream.buffer
    return buffer.getvalue() if isinstance(buffer, io.BytesIO) else b""


def environment(folder: Path) -> dict[str, str]:
    """Variables under which nothing of the user's is touched: home, caches and temporary files are in `folder`."""
    home, temporary = folder / "home", folder / "tmp"
    for place in (home, temporary):
        place.mkdir(exist_ok=True)
    return {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "TMPDIR": str(temporary),
            "NO_COLOR": "1", "COLUMNS": "200"}  # fmt: skip


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a case's folder, under its `environment`."""
    before, kept, usual = Path.cwd(), dict(os.environ), tempfile.tempdir
    for name in [name for name in os.environ if name.startswith("DSPROF_")]:
        del os.environ[name]  # as for a `Program`
    os.environ.update(environment(folder))
    tempfile.tempdir = None
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        os.environ.clear()
        os.environ.update(kept)
        tempfile.tempdir = usual


class Program:
    """dsprof as a program of its own, that has been started; `entry`: what Python runs, in place of ``-m dsprof``."""

    def __init__(
        self, folder: Path, arguments: Sequence[object], entry: Sequence[str] = ("-m", "dsprof"),
        variables: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        path = os.pathsep.join([str(SOURCES), str(Path(__file__).parents[1])])
        own = {**environment(folder), **(variables or {})}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DSPROF_")}
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  read when it has ended
        self.process = subprocess.Popen(
            [sys.executable, *entry, *map(_text, arguments)], cwd=folder, env={**inherited, "PYTHONPATH": path, **own},
            stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._err, start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        """End it at once, as the kernel does when memory is short."""
        os.kill(self.process.pid, signal.SIGKILL)  # Popen would wait for it, and what it cost would be lost

    @property
    def runs(self) -> bool:
        """Has it not ended yet?"""
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, limit_s: float = WALL_LIMIT_S) -> Ended:
        """How it ended; after the limit it is killed."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(limit_s, end)
        timer.start()
        try:
            _, status, usage = os.wait4(self.process.pid, 0)
        finally:
            timer.cancel()
        code = self.process.returncode = os.waitstatus_to_exitcode(status)
        return Ended(code, _all_of(self._out), _all_of(self._err).decode("utf-8", "replace"), "",
                     usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, late.is_set())  # fmt: skip


def _all_of(file: IO[bytes]) -> bytes:
    with file:
        file.seek(0)
        return file.read()


def program(folder: Path, *arguments: object) -> Ended:
    """Run dsprof as a program to its end."""
    return Program(folder, arguments).wait()
