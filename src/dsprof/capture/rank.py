"""Stands between a launcher of ranks and nsys: ``python rank.py OUTPUT RANK:SIZE[,…] [NAME=VALUE …] -- nsys …``.

It gives each rank a report of its own name, and keeps nsys out of the launcher's way: a launcher that ends its ranks
signals this process, which passes the signal on to the program, and waits until nsys has written its report. It knows
nothing but the standard library, as it runs wherever the launcher starts it. Beside the reports it leaves
``OUTPUT.r<rank>.rank`` with rank, size, exit code, and what the launcher told it of ranks.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

#: Where an installation of nsys keeps its own programs: what runs from there is nsys, all else is the program's.
_NSYS_FOLDERS = re.compile(r"/(target|host)-linux-|/linux-desktop-")

#: The variables by which launchers tell a process which rank it is; all else of an environment is withheld.
RANK_VARIABLES = frozenset(
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "NODE_RANK",
     "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE",
     "OMPI_COMM_WORLD_NODE_RANK", "PMIX_RANK", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS",
     "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE",
     "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES",
     "SLURM_NNODES")
)  # fmt: skip
_NUMBER = re.compile("[0-9]{1,9}")


def rank_variables(environment: Mapping[str, str]) -> dict[str, int]:
    """What an environment tells of ranks: those of `RANK_VARIABLES` that hold a whole number, and nothing else.

    >>> rank_variables({"RANK": "3", "PMIX_RANK": "none", "HF_TOKEN": "12"})
    {'RANK': 3}
    """
    found = {name: environment[name] for name in sorted(RANK_VARIABLES & environment.keys())}
    return {name: int(value) for name, value in found.items() if _NUMBER.fullmatch(value)}


def rank_of(variables: str) -> tuple[str, int | None]:
    """The rank of the process as it stands in names of files, and how many there are, by ``RANK:SIZE`` pairs.

    A process without a rank is known by its number.
    """
    for pair in variables.split(","):
        rank, _, size = pair.partition(":")
        if os.environ.get(rank, "").isdigit():
            number = os.environ.get(size, "")
            return f"r{int(os.environ[rank])}", int(number) if number.isdigit() else None
    return f"p{os.getpid()}", None


def _programs(root: int) -> list[int]:
    """The processes that descend from `root` and are not nsys."""
    parents = dict[int, int]()
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError, ValueError):
                parents[int(path.name)] = int((path / "stat").read_bytes().rpartition(b")")[2].split()[1])
    found, new = set[int](), {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new}
        found |= new
    return [pid for pid in found if not _is_nsys(pid)]


def _is_nsys(pid: int) -> bool:
    try:
        return bool(_NSYS_FOLDERS.search(str(Path(f"/proc/{pid}/exe").readlink())))
    except OSError:
        return True  # gone


def main(arguments: list[str]) -> int:
    """Run nsys for one rank; the exit code is its own, which is the program's."""
    place = arguments.index("--")
    (output, variables, *assigned), (nsys, *rest) = arguments[:place], arguments[place + 1 :]
    for text in assigned:  # a launcher does not hand all of its environment on to other nodes
        variable, _, value = text.partition("=")
        os.environ.setdefault(variable, value)
    name, size = rank_of(variables)
    with suppress(OSError):  # on another node
        Path(os.environ.get("TMPDIR") or "/").mkdir(parents=True, exist_ok=True)
    words = [nsys, rest[0], f"--output={output}.{name}", *rest[1:]]
    process = subprocess.Popen(words, start_new_session=True)

    def pass_on(number: int, frame: FrameType | None) -> None:
        for pid in _programs(process.pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    code = process.wait()
    code = 128 - code if code < 0 else code
    with suppress(OSError):
        said = json.dumps({"rank": name, "size": size, "code": code, "variables": rank_variables(os.environ)})
        Path(f"{output}.{name}.rank".replace("%%", "%")).write_text(said, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
