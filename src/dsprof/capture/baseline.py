"""What recording cost: the program runs once more, without nsys, or with its CUDA graphs traced as a whole.

::

    traces/<stamp>-<name>/
      baseline/         workload.log, of a session job.json and outcome.json: without nsys
      baseline-graph/   a second recording, with --cuda-graph-trace=graph
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TextIO

from attrs import evolve, field

from dsprof.capture.options import ProfileOptions, asked, known_options, knows
from dsprof.capture.profile import PARTIAL, Ending, Profile, ending_of, profile, signal_name, signals_interrupt
from dsprof.capture.secrets import clean_log, secrets_of
from dsprof.capture.watching import LOG, ProgramRun
from dsprof.errors import CaptureRefused, DsprofError
from dsprof.ground.leftovers import own_folder
from dsprof.model.baseline import Baseline, GraphReplays, HostTimes, PlainRun
from dsprof.nsys.reader import Progress
from dsprof.nsys.replays import GraphReplay, replays_of
from dsprof.records import frozen
from dsprof.workloads.job import OUTCOME, RequestRecord, read_outcome

Kind = Literal["plain", "graph"]
#: The folders of the second runs in that of the session.
FOLDERS: dict[Kind, str] = {"plain": "baseline", "graph": "baseline-graph"}
#: Makes the command of a run in its folder; False: without ranges.
CommandIn = Callable[[Path, bool], Sequence[str]]


@frozen
class Again:
    """How a program that was recorded is run again: its command, its options, where, and who is told."""

    command: CommandIn
    options: ProfileOptions = field(repr=False)
    folder: Path
    nsys: Path
    live: TextIO | None
    progress: Progress


def check_baselines(kinds: Sequence[Kind], options: ProfileOptions, nsys: Path) -> None:
    """Refuse a comparison of replays that would compare nothing. Raises `CaptureRefused`."""
    if "graph" not in kinds:
        return
    if asked(options, "--cuda-graph-trace", options.cuda_graph_trace) != "node":
        raise CaptureRefused(
            "--baseline graph compares replays whose nodes are traced with such that are not.",
            "Leave out --cuda-graph-trace: the first recording traces nodes.",
        )
    if not knows(known_options(nsys), "--cuda-graph-trace"):
        raise CaptureRefused(f"{nsys} does not know --cuda-graph-trace.", "Take a newer one with --nsys.")


def compare(kinds: Sequence[Kind], first: Profile, again: Again) -> Baseline:
    """The program once more for each kind that is asked for; what goes wrong is the `problem` of that kind.

    Ctrl-C ends the run that it meets, and no other.
    """
    if first.ending != "finished":
        reason = f"was left out, as {first.explain()}"
        return Baseline(
            PlainRun(_unknown(reason)) if "plain" in kinds else None,
            GraphReplays(_not_compared(reason)) if "graph" in kinds else None,
        )
    plain = _plain(first, again) if "plain" in kinds else None
    return Baseline(plain, _graphs(first, again) if "graph" in kinds else None)


# -- without nsys -----------------------------------------------------------------------------------------


def _plain(first: Profile, again: Again) -> PlainRun:
    try:
        (folder := again.folder / FOLDERS["plain"]).mkdir()
        again.progress("running once more, without nsys")
        took_s, ending, code = _run(again, folder)
    except KeyboardInterrupt:
        return PlainRun(_unknown("was interrupted"))
    except (DsprofError, OSError) as error:
        return PlainRun(_unknown(_reason(error)))
    if ending != "finished":
        return PlainRun(_unknown(_explained(ending, code)))
    return PlainRun("", _nanoseconds(took_s), _nanoseconds(first.took_s), _host_times(folder))


def _run(again: Again, folder: Path) -> tuple[float | None, Ending, int]:
    """Seconds that the program took, how it ended, and its exit code."""
    command = again.command(folder, False)
    try:
        with signals_interrupt(), own_folder(PARTIAL, folder) as partial:
            try:
                with ProgramRun(list(command), again.options, partial, again.live) as run:
                    run.watch()
            finally:
                with suppress(OSError):
                    (partial / LOG).replace(folder / LOG)
    finally:
        clean_log(folder / LOG, secrets_of(command))
    return run.took_s, ending_of(run, again.options), run.code


def _nanoseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(seconds * 1e9))


def _host_times(folder: Path) -> tuple[HostTimes, ...]:
    """What a session told of its requests; nothing of another program."""
    if not (folder / OUTCOME).is_file():
        return ()
    found = {record.timing.request: _of_request(record) for record in read_outcome(folder / OUTCOME).requests}
    return tuple(found.values())


def _of_request(record: RequestRecord) -> HostTimes:
    stages: defaultdict[str, int] = defaultdict(int)
    for stage in record.timing.stages:
        stages[stage.stage] += stage.duration_ns
    return HostTimes(record.timing.request, dict(stages), tuple(record.timing.steps_ns))


def _explained(ending: Ending, code: int) -> str:
    return {
        "failed": f"ended with exit code {code}",
        "signalled": f"was killed by {signal_name(code)}",
        "interrupted": "was interrupted",
        "time-limit": "was ended at the time limit",
    }.get(ending, "ended in a way that is not known")


def _unknown(reason: str) -> str:
    return f"What recording costs is not known: the run without nsys {reason}."


# -- with whole graphs ------------------------------------------------------------------------------------


def _graphs(first: Profile, again: Again) -> GraphReplays:
    try:
        (folder := again.folder / FOLDERS["graph"]).mkdir()
        again.progress("recording once more, CUDA graphs as a whole")
        command = again.command(folder, True)
        try:
            second = profile(
                evolve(again.options, cuda_graph_trace="graph"), command, folder, again.nsys, again.live, again.progress
            )
        finally:
            clean_log(folder / LOG, secrets_of(command))
        if second.ending != "finished":
            return GraphReplays(_not_compared(_explained(second.ending, second.exit_code)))
        nodes, whole = (
            [replay for export in done.exports for replay in replays_of(export)] for done in (first, second)
        )
        return stretch(nodes, whole)
    except KeyboardInterrupt:
        return GraphReplays(_not_compared("was interrupted"))
    except (DsprofError, OSError) as error:
        return GraphReplays(_not_compared(_reason(error)))


def stretch(nodes: Sequence[GraphReplay], whole: Sequence[GraphReplay]) -> GraphReplays:
    """What tracing nodes adds to a replay: those of one recording beside those of another, in their order."""
    traced, hidden = _by_process([one for one in nodes if one.nodes]), _by_process([x for x in whole if not x.nodes])
    if list(map(len, traced)) != list(map(len, hidden)):
        counts = " and ".join(str(sum(map(len, replays))) for replays in (traced, hidden))
        return GraphReplays(_not_compared(f"has other replays than the first ({counts})"))
    pairs = [pair for both in zip(traced, hidden, strict=True) for pair in zip(*both, strict=True)]
    if not pairs:
        return GraphReplays(_not_compared("holds no replay, nor does the first"))
    median = statistics.median
    return GraphReplays(
        replays=len(pairs),
        nodes=sum(one.nodes for one, _ in pairs),
        nodes_ns=median(one.span_ns for one, _ in pairs),
        busy_ns=median(one.busy_ns for one, _ in pairs),
        whole_ns=median(other.span_ns for _, other in pairs),
        stretch_ns_per_node=median((one.span_ns - other.span_ns) / one.nodes for one, other in pairs),
        gap_ns_per_node=max(0.0, median((other.span_ns - one.busy_ns) / one.nodes for one, other in pairs)),
    )


def _by_process(replays: Sequence[GraphReplay]) -> list[list[GraphReplay]]:
    """The replays of each process, by start; processes in the order of their first."""
    found: defaultdict[int, list[GraphReplay]] = defaultdict(list)
    for replay in sorted(replays, key=lambda one: one.start):
        found[replay.process].append(replay)
    return list(found.values())


def _not_compared(reason: str) -> str:
    return f"How tracing nodes stretches CUDA graphs is not known: the second recording {reason}."


def _reason(error: DsprofError | OSError) -> str:
    """Why a run was none, as the end of a sentence."""
    said = error.message if isinstance(error, DsprofError) else (error.strerror or str(error))
    return f"failed ({said.rstrip('.')})"
