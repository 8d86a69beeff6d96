"""Which ranks there should be against those that are seen: in one report, and in several."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from dsprof import findings
from dsprof.answers.identity import Place, Told, ranks_of
from dsprof.arrays import NULL
from dsprof.findings import Finding
from dsprof.measures.tally import Tally
from dsprof.model.launched import LOCAL_SIZES, PAIRS, rank_in
from dsprof.rules.rules import Rules
from dsprof.trace import Selection, pid_of

T = TypeVar("T")


def check_ranks(rules: Rules, selected: Selection, seen: Tally) -> list[Finding]:
    """Of one report: ranks that ran while it was recorded and have no kernels in it, and those that are there twice."""
    told = {} if rules.launched is None or selected != Selection() else rules.launched.by_pid
    by_rank = _by_rank(told.items())
    working = {pid_of(process) for process, count in seen.expected.items() if seen.lost.get(process, 0) < count}
    if not by_rank or not working & told.keys():
        return []
    found = []
    expected = max(len(by_rank), *(variables.get(name, 0) for variables in told.values() for name in LOCAL_SIZES))
    idle = {rank: pids for rank, pids in by_rank.items() if not working & set(pids)}
    if len(by_rank) - len(idle) < expected:
        named = [f"rank {rank} (process {', '.join(map(str, pids))})" for rank, pids in sorted(idle.items())]
        where = "of this node have kernels in the report"
        found.append(findings.missing_ranks(len(by_rank) - len(idle), expected, where, named))
    at_work = {rank: [pid for pid in pids if pid in working] for rank, pids in by_rank.items()}
    twice = {rank: [f"process {pid}" for pid in pids] for rank, pids in at_work.items() if len(pids) > 1}
    if twice and 2 * len(twice) <= len(by_rank):  # else each rank of a launcher starts workers of its own
        found.append(findings.ranks_twice(twice))
    return found


def check_several(
    places: Sequence[Place], numbers: Sequence[int], told: Sequence[Told], files: Sequence[str]
) -> list[Finding]:
    """Of several reports: ranks that are in none of them or in two, and reports without a kernel.

    `numbers`: the rank of each place, NULL where neither NCCL nor a launcher tells it; `files`: of reports.
    """
    empty = sorted(set(range(len(files))) - {place.report for place in places})
    found = [findings.no_kernels_of_rank(files[report]) for report in empty]
    expected, known = ranks_of(places, told) or 0, set(numbers) - {NULL}
    missing = sorted(set(range(expected)) - known) if len(known) == len(places) else []
    there = expected - len(missing) if missing else len(places)
    if there < expected:
        found.append(
            findings.missing_ranks(there, expected, "are in the reports", [f"rank {rank}" for rank in missing])
        )
    processes = sorted({(place.report, place.process) for place in places})
    by_rank = _by_rank((report, told[report].launched.of(pid_of(process))) for report, process in processes)
    reports = {rank: [files[report] for report in sorted(set(of))] for rank, of in by_rank.items()}
    if twice := {rank: names for rank, names in reports.items() if len(names) > 1}:
        found.append(findings.ranks_twice(twice))
    return found


def _by_rank(told: Iterable[tuple[T, Mapping[str, int]]]) -> dict[int, list[T]]:
    """Those that were told so, by their ranks; by the variables that tell the most ranks, the surest of them."""
    best, several = dict[int, list[T]](), list(told)
    for pair in range(len(PAIRS)):
        found = defaultdict[int, list[T]](list)
        for one, variables in several:
            if (rank := rank_in(variables, pair)) is not None:
                found[rank].append(one)
        best = dict(found) if len(found) > len(best) else best
    return best
