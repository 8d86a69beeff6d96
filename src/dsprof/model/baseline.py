"""What recording a program cost, as the record of its capture says it: the program was run once more to compare.

``session.json`` holds a `Baseline`; the analysis of a report finds it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import fields

from dsprof.records import frozen

#: No time (ns: 104 days) and no count is as large, and no sentence of a record longer.
_MOST, _LONGEST_SENTENCE = 1 << 53, 300


@frozen
class HostTimes:
    """One request on the host without the profiler: ns of its stages by name, and of its decode steps in order."""

    request: int
    stages_ns: dict[str, int]
    steps_ns: tuple[int, ...] = ()


@frozen
class PlainRun:
    """The program without nsys. `problem`: why nothing can be told from it, a sentence; empty where it can.

    `program_ns` and `recorded_program_ns`: from start to end of the whole program, to some 0.2 s, without nsys and
    with it; None: not known. `requests`: what it told of its requests.
    """

    problem: str = ""
    program_ns: int | None = None
    recorded_program_ns: int | None = None
    requests: tuple[HostTimes, ...] = ()


@frozen
class GraphReplays:
    """Replays of CUDA graphs, recorded twice: with their nodes traced, and as a whole. `problem` as in `PlainRun`.

    `replays`: how many in each recording, of `nodes` in all. Medians over them, ns: `nodes_ns` from the begin of the
    first node to the end of the last where nodes are traced, `busy_ns` the part of it in which one runs, `whole_ns` a
    replay traced as a whole; and by the node: `stretch_ns_per_node` what tracing nodes adds (nodes - whole),
    `gap_ns_per_node` what passes between two nodes without that (whole - busy, which cannot be less than 0).
    """

    problem: str = ""
    replays: int = 0
    nodes: int = 0
    nodes_ns: float = 0.0
    busy_ns: float = 0.0
    whole_ns: float = 0.0
    stretch_ns_per_node: float = 0.0
    gap_ns_per_node: float = 0.0


@frozen
class Baseline:
    """A program recorded once, and run once more to compare with; None: not asked for."""

    plain: PlainRun | None = None
    graphs: GraphReplays | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """Why a run that was asked for says nothing."""
        return tuple(run.problem for run in (self.plain, self.graphs) if run is not None and run.problem)


@frozen
class NodeTracing:
    """What tracing the nodes of CUDA graphs does to a replay, ns by the node; `source`: where that was measured.

    `gap_ns`: what passes between two nodes when they are not traced; `stretch_ns`: what tracing them adds.
    """

    gap_ns: float
    stretch_ns: float
    source: str
    measured_here: bool


#: On an H100 under nsys 2025.3.1. The gap: in the middle of what five decodes took without nsys, 210 to 460 ns
#: (docs/what-if.md). The stretch: a decode step of 740 nodes took 3.08 ms traced as a whole, and 3.75 by its nodes.
_ESTIMATE = NodeTracing(
    gap_ns=350.0,
    stretch_ns=(3.75e6 - 3.08e6) / 740,
    source="a test on an H100 with nsys 2025.3.1",
    measured_here=False,
)


def node_tracing(baseline: Baseline | None) -> NodeTracing:
    """What tracing nodes does: as ``capture --baseline graph`` measured it for this program, else an estimate."""
    graphs = baseline.graphs if baseline is not None else None
    if graphs is None or graphs.problem or not graphs.nodes:
        return _ESTIMATE
    source = f"{graphs.replays} replays of it recorded in both ways"
    return NodeTracing(graphs.gap_ns_per_node, graphs.stretch_ns_per_node, source, measured_here=True)


def baseline_of(session: Mapping[str, Any]) -> Baseline | None:
    """What a session's record says of what recording cost; None where it says nothing."""
    try:
        return _baseline(session["baseline"]) if session.get("baseline") else None
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return Baseline(PlainRun("The record of the capture says of it what cannot be."))


def _baseline(raw: Mapping[str, Any]) -> Baseline:
    plain, graphs = raw["plain"], raw["graphs"]
    return Baseline(None if plain is None else _plain(plain), None if graphs is None else _graphs(graphs))


def _plain(raw: Mapping[str, Any]) -> PlainRun:
    program, recorded = (
        None if raw[name] is None else _time(raw[name]) for name in ("program_ns", "recorded_program_ns")
    )
    return PlainRun(_sentence(raw["problem"]), program, recorded, tuple(map(_request, raw["requests"])))


def _request(raw: Mapping[str, Any]) -> HostTimes:
    stages = {str(stage): _time(time) for stage, time in raw["stages_ns"].items()}
    return HostTimes(_whole(raw["request"]), stages, tuple(map(_time, raw["steps_ns"])))


def _graphs(raw: Mapping[str, Any]) -> GraphReplays:
    found = {one.name: raw[one.name] for one in fields(GraphReplays)}
    problem, replays, nodes = _sentence(found.pop("problem")), _whole(found.pop("replays")), _whole(found.pop("nodes"))
    return GraphReplays(problem, replays, nodes, **{name: _amount(value) for name, value in found.items()})


def _sentence(value: Any) -> str:
    return str(value)[:_LONGEST_SENTENCE]


def _whole(value: Any) -> int:
    """A whole number that can be a time or a count. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < _MOST:
        raise ValueError("no number that can be")
    return value


def _time(value: Any) -> int:
    """A time that something can have taken. Raises ValueError."""
    if not _whole(value):
        raise ValueError("no time at all")
    return int(value)


def _amount(value: Any) -> float:
    """A number that can be a time, or a difference of two. Raises ValueError."""
    number = float(value)
    if not abs(number) < _MOST:
        raise ValueError("no time that can be")
    return number
