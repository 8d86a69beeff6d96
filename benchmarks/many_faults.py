"""What `many.py` plants in workers: one that is killed by a report, and a disk that takes no more of another."""

from __future__ import annotations

import os
import resource
import signal
from typing import Any

from dsprof.analysis import workers
from dsprof.analysis.one_report import Row, Task

#: Reports that do so, by what their names hold.
KILLS, FULL = "kills-its-worker", "full-disk"
_one_report, _work = workers.one_report, workers._work


def one_report(task: Task) -> Row:
    """As that of dsprof, with what a report's name says done to the process that has it."""
    if KILLS in task.named.name:
        os.kill(os.getpid(), signal.SIGKILL)
    if FULL not in task.named.name:
        return _one_report(task)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # no file may be larger: the system says EFBIG
    try:
        return _one_report(task)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def work(*given: Any) -> None:
    """What a worker runs in place of dsprof's own."""
    workers.one_report = one_report
    _work(*given)


def plant() -> None:
    """Let workers that are started from now on do so, and this process where it has such a report itself."""
    workers._work = work
    workers.one_report = one_report
