"""What launchers told processes of ranks (``RANK=3``), as the record of a capture says it.

``session.json`` holds a `ProcessRank` for each process that was told; the analysis of a report finds there which rank
a process of it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field

from dsprof.records import frozen

#: Variables of a rank, and of their number (of SLURM, that of the step: a batch script has the job's and is no rank of
#: it), the surest first: what is started within another launcher's rank has both, and torchrun's is the inner one.
PAIRS = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMIX_RANK", ""),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)
#: How many ranks there are on the node.
LOCAL_SIZES = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
#: The name of a rank in that of its report: ``run.r3.nsys-rep``, ``run.r3.2.sqlite``.
_OF_RANK = re.compile(r"^run\.([rp]\d+)\.")
_MOST, _LONGEST_NAME = 10**9, 64


@frozen
class ProcessRank:
    """What a process was told. `pid`: its number; `report`: of which report all processes were told so.

    Where neither is named, dsprof itself was told, and with it what it starts.
    """

    variables: dict[str, int]
    pid: int | None = None
    report: str = ""


@frozen
class Launched:
    """What the processes of one report were told, by their numbers; `usual`: what all others were."""

    by_pid: dict[int, dict[str, int]] = field(factory=dict)
    usual: dict[str, int] = field(factory=dict)

    def of(self, pid: int) -> dict[str, int]:
        """What a process was told."""
        return self.by_pid.get(pid, self.usual)


def rank_in(told: Mapping[str, int], pair: int) -> int | None:
    """The rank by one of `PAIRS`; None where it is not told, or is none of as many as there are."""
    rank, size = (told.get(name) for name in PAIRS[pair])
    return rank if rank is not None and (size is None or rank < size) else None


def size_in(told: Mapping[str, int], pair: int) -> int | None:
    """How many ranks there are by one of `PAIRS`."""
    return told.get(PAIRS[pair][1])


def launched_of(session: Mapping[str, Any], report: str) -> Launched | None:
    """What a session's record says that the processes of a report, by its file's name, were told; None for nothing."""
    of_rank = match[1] if (match := _OF_RANK.match(report)) else ""
    by_pid, usual = dict[int, dict[str, int]](), dict[str, int]()
    for one in _processes(session):
        if one.report and one.report == of_rank:
            usual = one.variables
        elif not one.report and not of_rank:
            if one.pid is None:
                usual = one.variables
            else:
                by_pid[one.pid] = one.variables
    return Launched(by_pid, usual) if by_pid or usual else None


def _processes(session: Mapping[str, Any]) -> Iterator[ProcessRank]:
    """The processes of a record, which anybody may have written: what cannot be is left out."""
    raw = session.get("ranks")
    for one in raw if isinstance(raw, list) else ():
        told = one.get("variables") if isinstance(one, dict) else None
        if isinstance(told, dict):
            variables = {str(name): value for name, value in told.items() if len(name) <= _LONGEST_NAME and _is(value)}
            pid, report = one.get("pid"), one.get("report", "")
            if variables and (pid is None or _is(pid)) and isinstance(report, str):
                yield ProcessRank(variables, pid, report)


def _is(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < _MOST
