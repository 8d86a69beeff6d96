"""Run a command to its end and write down what it took.

usage: python -I -S launcher.py RESULT LIMIT_S PROGRAM ARGUMENT...

A small process of its own, because the peak memory that Linux tells of a process begins at that of the process which
started it: a child of something large looks large. RESULT gets four numbers: wall seconds, seconds of CPU (user and
system, of the command and of all its children that were waited for), peak memory in KiB, exit code. The peak is the
``ru_maxrss`` of wait4: that of the largest single process, never a sum.
"""

from __future__ import annotations

import os
import signal
import sys
import time


def main() -> None:
    """The command line."""
    result, limit_s, *command = sys.argv[1:]
    begin = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, setpgroup=0)

    def end(*_: object) -> None:
        os.killpg(pid, signal.SIGKILL)

    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    signal.alarm(int(limit_s))
    _, status, used = os.wait4(pid, 0)
    wall = time.perf_counter() - begin
    numbers = (wall, used.ru_utime + used.ru_stime, used.ru_maxrss, os.waitstatus_to_exitcode(status))
    with open(result, "w") as file:  # noqa: PTH123 - pathlib would make this process larger
        file.write(" ".join(map(repr, numbers)))


if __name__ == "__main__":
    main()
