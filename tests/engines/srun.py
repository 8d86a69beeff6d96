"""A stand-in for srun on one node: its tasks are no descendants of it, as those of slurmstepd are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def step_daemon(said: str, size: int, command: list[str]) -> None:
    """Leave the family, start the tasks, and write their exit codes when all have ended."""
    if os.fork():
        os._exit(0)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM):  # the real one is another user's, and no target
        signal.signal(number, lambda *_: None)
    tasks = [
        subprocess.Popen(
            command, env={**os.environ, "SLURM_PROCID": f"{rank}", "SLURM_NTASKS": f"{size}"}, process_group=0
        )
        for rank in range(size)
    ]
    codes = [task.wait() for task in tasks]
    Path(f"{said}.partial").write_text(" ".join(map(str, codes)))
    Path(f"{said}.partial").rename(said)
    os._exit(0)


def main(arguments: list[str]) -> int:
    size = 1
    while arguments and arguments[0].startswith("-"):
        word = arguments.pop(0)
        if word.startswith("--ntasks="):
            size = int(word.partition("=")[2])
        elif word == "-n":
            size = int(arguments.pop(0))
        elif word in ("-p", "-N"):
            arguments.pop(0)
    said = Path(os.environ["TMPDIR"], f"srun-{os.getpid()}")
    if not os.fork():
        step_daemon(str(said), size, arguments)
    os.wait()
    while not said.exists():
        time.sleep(0.05)
    return max(map(abs, map(int, said.read_text().split())))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
