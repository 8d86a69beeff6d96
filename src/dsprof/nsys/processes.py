"""The processes of a run of nsys, and a guard that ends them when dsprof is killed.

Run as a program, ``python processes.py FOLDER`` is the guard: it waits for the end of its stdin, which comes when
dsprof is gone, however that ended, and then ends what is left of the run with that TMPDIR. It knows nothing but the
standard library, so that it is there at once and stays small.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

#: What the guard needs of our environment; the rest, secrets among it, could come into a report.
_NEEDED = ("PATH", "LD_LIBRARY_PATH")
_PATIENCE_S = 10.0


def carriers(folder: Path) -> list[int]:
    """The processes that have `folder` as TMPDIR in their environment, dead ones not counted."""
    return [pid for pid in _all() if tmpdir_of(pid) == os.fsencode(folder)]


def tmpdir_of(pid: int) -> bytes | None:
    """The TMPDIR in the environment of a process; empty if there is none, None if it cannot be read."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone, or another user's
        return None
    return next((entry[7:] for entry in environment.split(b"\0") if entry.startswith(b"TMPDIR=")), b"")


def environment_of_process(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty where it cannot be read."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in text.split(b"\0"))
    return {name: value for name, equals, value in pairs if equals}


def family(folder: Path) -> dict[int, int]:
    """The carriers of `folder` and all that descend from them, as a program may change its TMPDIR.

    By number: when it was started, which tells it from a later process of that number; dead ones not counted.
    """
    alive = {pid: known for pid in _all() if (known := _parent_and_start(pid))}
    found, new = set[int](), set(carriers(folder)) & set(alive)
    while new:
        found |= new
        new = {pid for pid, (parent, _) in alive.items() if parent in found} - found
    return {pid: alive[pid][1] for pid in sorted(found)}


def is_alive(pid: int, start: int) -> bool:
    """Is the process of this number, started then, still there?"""
    known = _parent_and_start(pid)
    return known is not None and known[1] == start


def age_s(start: int) -> float:
    """Seconds since a process was started; `start` as in `family`."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start / os.sysconf("SC_CLK_TCK")


def end_all(folder: Path, limit_s: float = _PATIENCE_S) -> None:
    """End what carries `folder` as TMPDIR, and what descends from it, until there is nothing left."""
    end = time.monotonic() + limit_s
    while (pids := family(folder)) and time.monotonic() < end:
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


@contextmanager
def guarded(folder: Path) -> Iterator[None]:
    """Have a process of its own see to it that no process of `folder` outlives us, nor this block."""
    command = [sys.executable, "-I", "-S", str(Path(__file__).absolute()), str(folder)]
    guard = subprocess.Popen(
        command,
        env={name: os.environ[name] for name in _NEEDED if name in os.environ},
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        with suppress(subprocess.TimeoutExpired):
            guard.communicate(timeout=_PATIENCE_S + 1)


def _all() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _parent_and_start(pid: int) -> tuple[int, int] | None:
    """The number of the parent, and the start in clock ticks since boot; None for a process that is dead."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    words = text.rpartition(b")")[2].split()  # the name before may hold anything
    return None if words[0] in b"ZX" else (int(words[1]), int(words[19]))


if __name__ == "__main__":
    sys.stdin.read()
    end_all(Path(sys.argv[1]))
