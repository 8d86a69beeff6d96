"""dsprof as a program that is disturbed at a chosen moment, and says how much memory it took.

``FUZZ_STARTED`` holds, as JSON: `folder`, whose files are counted when they are opened, renamed or removed; `at`, the
number of the event at which something happens; `what` happens then, one of `HAPPENS`; more for that. `note`: a file
for the peak of its memory in bytes, how many events there were, and whether the moment came.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

#: What Python tells of its dealings with files.
_EVENTS = frozenset(
    {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.utime", "os.chmod",
    "os.truncate",
     "os.listdir", "os.scandir", "sqlite3.connect", "fcntl.flock", "shutil.rmtree", "shutil.copyfile"}
)  # fmt: skip


class Disturbance:
    """An audit hook: something happens at a certain event."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told, self.reached, self.seen = told, False, 0
        self._left, self._folder = int(told["at"]), os.fsencode(told["folder"])
        self._lock = threading.Lock()

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in _EVENTS or self.reached or not self._is_ours(event, arguments):
            return
        with self._lock:
            self._left, self.seen = self._left - 1, self.seen + 1
            if self._left >= 0 or self.reached:
                return
            self.reached = True
        HAPPENS[self.told["what"]](self.told)

    def _is_ours(self, event: str, arguments: tuple[object, ...]) -> bool:
        if event == "fcntl.flock":
            return True
        paths = (one for one in arguments if isinstance(one, str | bytes | os.PathLike))
        return any(self._folder in os.fsencode(path) for path in paths)


def kill(told: dict[str, Any]) -> None:
    """The program is ended, as by the kernel."""
    os.kill(os.getpid(), signal.SIGKILL)


def run(told: dict[str, Any]) -> None:
    """Another program runs meanwhile, to its end unless it waits for this one."""
    with Path(told["output"]).open("wb") as output:
        other = subprocess.Popen([sys.executable, *told["command"]], stdout=output, stderr=subprocess.STDOUT)
    with suppress(subprocess.TimeoutExpired):
        other.wait(told.get("patience_s", 2.5))


def rewrite(told: dict[str, Any]) -> None:
    """The report becomes another one."""
    REWRITES[told["manner"]](Path(told["report"]), Path(told["other"]))


HAPPENS = {"kill": kill, "run": run, "rewrite": rewrite}


# -- ways to rewrite a file -----------------------------------------------------------------------------


def replaced(report: Path, other: Path) -> None:
    """Another file gets its name."""
    copy = report.with_name("other.copy")
    shutil.copyfile(other, copy)
    copy.replace(report)


def overwritten(report: Path, other: Path) -> None:
    """Its content is replaced in its place."""
    content = other.read_bytes()
    with report.open("r+b") as file:
        file.write(content)
        file.truncate()


def kept_time(report: Path, other: Path) -> None:
    """The same, and its times are set back to what they were."""
    status = report.stat()
    overwritten(report, other)
    os.utime(report, ns=(status.st_atime_ns, status.st_mtime_ns))


def slowly(report: Path, other: Path) -> None:
    """Half of its content is written now, the rest a little later."""
    content = other.read_bytes()
    half = len(content) // 2
    with report.open("r+b") as file:
        file.write(content[:half])

    def rest() -> None:
        with report.open("r+b") as file:
            file.seek(half)
            file.write(content[half:])
            file.truncate()

    later = threading.Timer(0.08, rest)
    later.start()


def emptied(report: Path, other: Path) -> None:
    """It is cut to nothing, then written."""
    content = other.read_bytes()
    with report.open("wb") as file:
        file.write(content)


REWRITES = {one.__name__: one for one in (replaced, overwritten, kept_time, slowly, emptied)}


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Run dsprof's command line."""
    told = json.loads(os.environ.pop("FUZZ_STARTED"))
    disturbance = Disturbance(told) if "at" in told else None
    from dsprof import cli

    if disturbance:
        sys.addaudithook(disturbance)
    try:
        cli.main()
    finally:
        if disturbance:
            disturbance.reached, reached = True, disturbance.reached  # what follows is no event
        Path(told["note"]).write_text(json.dumps({"peak_bytes": _peak(), "reached": bool(disturbance and reached),
                                                 "events": disturbance.seen if disturbance else 0}))  # fmt: skip


if __name__ == "__main__":
    main()
