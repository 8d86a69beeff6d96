"""What a step would take if something were otherwise: the recording is run again with that changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
from attrs import evolve, field

from dsprof import arrays as at
from dsprof.answers.replay import NEVER, Program, Replay, SampleReplay
from dsprof.arrays import Bools, Ints
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.errors import NotPredictable
from dsprof.ground.patterns import first_found, near
from dsprof.measures.recorded import COPIES, FREES, PAGEABLE, TO_DEVICE, TO_HOST, WAITS
from dsprof.model.baseline import NodeTracing, node_tracing
from dsprof.records import frozen
from dsprof.rules.families import FamilyCodes
from dsprof.rules.rules import Rules
from dsprof.trace import Report, Selection, operation_names

#: The version of the document.
SCHEMA = "dsprof.whatif/1"
#: Where a run without a change differs by more percent from the recording, nothing is predicted.
MOST_RESIDUAL_PCT = 5.0
#: A graph's launch on the host, and until its first node begins, in ns, where the report does not tell: on an H200,
#: traced as a whole (the sample h200-graphs-graph).
GRAPH_LAUNCH_NS, GRAPH_LATENCY_NS = 5_000, 23_000
_MEASURED_ON = "9.0"
#: Bytes a second between pinned memory of the host and a GPU, by its compute capability, where the report has no such
#: copy of `_LARGE` bytes: four fifths of PCIe's raw rate, at sixteen lanes of generation 3, 4 and 5.
_PINNED = {"7.0": 12e9, "7.5": 12e9, "8.0": 25e9, "8.6": 25e9, "8.9": 25e9, "9.0": 50e9, "10.0": 50e9, "12.0": 50e9}
_LARGE = 1 << 20


def _factors(given: Mapping[str, float] | None) -> dict[str, float]:
    return {name: factor(value) for name, value in (given or {}).items()}


def factor(value: float) -> float:
    """A factor of times. Raises ValueError for what is none."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{value} is no factor like 0.5.")
    return float(value)


@frozen
class Changes:
    """What is changed; factors are of times: 0.5 is half of it. Raises ValueError for what is no factor.

    `cuda_graphs`: what a step launches between two waits of the host is one CUDA graph. `no_sync`: the host does not
    wait for the GPU, but for what it copies to itself. `no_pageable`: the memory of the host is pinned. `host`: the
    host's own time. `families`, `kernels`: GPU time of kernel families, and of operations whose name holds a regular
    expression. `batch`: sequences of a batch, which cannot be predicted.
    """

    cuda_graphs: bool = False
    no_sync: bool = False
    no_pageable: bool = False
    host: float = field(default=1.0, converter=factor)
    families: dict[str, float] = field(default=None, converter=_factors)
    kernels: dict[str, float] = field(default=None, converter=_factors)
    batch: int | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Each of them as the command line says it."""
        flags = {"--cuda-graphs": self.cuda_graphs, "--no-sync": self.no_sync, "--no-pageable": self.no_pageable}
        return (
            *(flag for flag, given in flags.items() if given),
            *((f"--host {self.host:g}x",) if self.host != 1 else ()),
            *(f"--family {name}={factor:g}x" for name, factor in self.families.items()),
            *(f"--kernel {name}={factor:g}x" for name, factor in self.kernels.items()),
        )


@frozen
class Prediction:
    """What the steps of a stage took, and would take; its instances where it has no steps.

    `unit`: ``step`` or ``instance``; `units`: how many steady ones were run again; times are of one of them, on
    average, until host and GPU are done. `step_replayed_ns` is without a change, and `residual_pct` by how much the
    units differ then. `step_predicted_ns` is None where `refused` says why. `assumptions`: what was taken for granted.
    """

    stage: str
    unit: str
    units: int
    step_recorded_ns: int
    step_replayed_ns: int
    step_predicted_ns: int | None
    residual_pct: float
    refused: str = ""
    assumptions: tuple[str, ...] = ()


@frozen
class WhatIf:
    """Predictions by stage, of a report and some changes to it (in the words of the command line)."""

    report: str
    changes: tuple[str, ...]
    stages: tuple[Prediction, ...]
    selection: Selection = field(factory=Selection)

    def of(self, *stages: str) -> WhatIf:
        """Those of some stages, of all where none is named. Raises `NotPredictable` where there is none of one."""
        there = [one.stage for one in self.stages]
        for missing in [stage for stage in stages if stage not in there]:
            raise NotPredictable(f"The report has no steady '{missing}' to run again.", f"There is {', '.join(there)}.")
        return evolve(self, stages=tuple(one for one in self.stages if one.stage in (stages or there)))

    def document(self) -> dict[str, Any]:
        """As `dsprof whatif --format json` prints it."""
        from attrs import asdict

        return {"schema": SCHEMA, **asdict(self)}


def what_if(
    replay: Replay, tree: RangeTree, staged: StageRanges, families: FamilyCodes, rules: Rules, changes: Changes
) -> WhatIf:
    """What is predicted for the steady units of each stage that the report has.

    Raises `NotPredictable` for another batch, a family or a kernel that there is not, and where no stage can be run
    again.
    """
    if changes.batch is not None:
        raise NotPredictable(
            f"What a batch of {changes.batch} would take cannot be told from this report: its kernels would be others.",
            "Record that batch, and compare the reports.",
        )
    known = _Known(tree.report, tree.names, families, node_tracing(rules.baseline))
    changed, said = _changed(replay, changes, known)
    after = changed.run() if changes.words else replay.replayed
    found = [
        _prediction(staged.names[code], replay, after, code, said)
        for code in at.distinct_in_any_order(replay.stage[replay.steady]).tolist()
    ]
    if not found:
        raise NotPredictable(
            "There is no stage to run again.", "Name ranges with --stage: `dsprof table REPORT range_sum` lists them."
        )
    return WhatIf(tree.report.file, changes.words, tuple(found), tree.report.selection)


def as_graphs(
    sample: SampleReplay, tree: RangeTree, staged: StageRanges, families: FamilyCodes, rules: Rules
) -> dict[str, Prediction]:
    """By stage, what its steps would take as CUDA graphs, told by a few of them.

    None of a report without kernels, nor of a stage that has no steps at times.
    """
    replay = sample.replay
    if not len(replay.ops.start) or not replay.steady.any():
        return {}
    found = what_if(replay, tree, staged, families, rules, Changes(cuda_graphs=True))
    without = {staged.names[code] for code in at.distinct(staged.code[staged.step_count == 0]).tolist()}
    return {one.stage: one for one in found.stages if one.stage not in without}


@frozen(eq=False)
class _Known:
    """What a report says beside its replay."""

    report: Report
    names: tuple[str, ...]
    families: FamilyCodes
    tracing: NodeTracing

    @property
    def capability(self) -> str:
        return self.report.gpus[0].compute_capability if self.report.gpus else ""

    def operation(self, code: int) -> str:
        """The name of a code of `RecordedOps.name`."""
        if code >= 0:
            return self.names[code]
        place, words = operation_names(np.array([-2 - code]))
        return words[int(place[0])]


def _prediction(stage: str, replay: Replay, after: Ints, code: int, said: list[Said]) -> Prediction:
    mine, events = replay.steady & (replay.stage == code), replay.event_stage == code
    before, without = replay.recorded[mine], replay.replayed[mine]
    total = max(int(before.sum()), 1)
    residual = 100.0 * float(np.abs(without - before).sum()) / total
    refused = ""
    if residual > MOST_RESIDUAL_PCT:
        refused = (
            f"Run again without a change, {stage} differs by {residual:.1f} % from the recording, so something of it "
            "is not understood, and nothing is predicted."
        )
    return Prediction(
        stage=stage,
        unit="step" if replay.has_steps[mine].all() else "instance",
        units=int(mine.sum()),
        step_recorded_ns=round(before.mean()),
        step_replayed_ns=round(without.mean()),
        step_predicted_ns=None if refused else round(after[mine].mean()),
        residual_pct=residual,
        refused=refused,
        assumptions=() if refused else tuple(one(events) for one in said),
    )


# -- changes -------------------------------------------------------------------------------------------------


#: A sentence on the events that are chosen.
Said = Callable[[Bools], str]


def _changed(replay: Replay, changes: Changes, known: _Known) -> tuple[Program, list[Said]]:
    """The program with the changes, one after another, and what each takes for granted."""
    program, said = replay.program, list[Said]()
    if changes.families or changes.kernels:
        program = evolve(program, length=_scaled(program.length, _of_operations(replay, changes, known)))
        said.append(lambda _: "A kernel of another length leaves all others as long as they were.")
    if (changes.host != 1 or changes.cuda_graphs) and replay.wait.any():
        left = min(changes.host, 0.0 if changes.cuda_graphs else changes.host)
        program = evolve(program, length=program.length - _scaled(replay.wait, 1 - left))
        said.append(
            lambda _: (
                "Ranks wait for each other because of their hosts, and less as these take less: what is left of "
                f"their waiting is {left:.0%}."
            )
        )
    if changes.host != 1:
        program = evolve(program, gap=_scaled(program.gap, changes.host), own=_scaled(program.own, changes.host))
        said.append(
            lambda _: "The host's time is that between CUDA calls and that of the calls, without what they wait."
        )
    for wanted, change in (
        (changes.no_sync, _without_waiting),
        (changes.no_pageable, _pinned),
        (changes.cuda_graphs, _as_graphs),
    ):
        if wanted:
            program, sentences = change(program, replay, known)
            said += sentences
    said.append(lambda _: "What other threads and processes do stays when it was; clocks and contention as well.")
    return program, said


def _scaled(times: Ints, factor: float | np.ndarray[Any, Any]) -> Ints:
    return np.rint(times * factor).astype(np.int64)


def _of_operations(replay: Replay, changes: Changes, known: _Known) -> np.ndarray[Any, Any]:
    """The factor of each operation; that of a kernel's own pattern counts beside that of its family."""
    name = replay.ops.name
    factor = np.ones(len(name))
    kernels = np.flatnonzero(name >= 0)
    family = np.full(len(name), -1)
    family[kernels] = known.families.of(name[kernels])
    there = {known.families.names[code]: code for code in at.distinct_in_any_order(family[kernels]).tolist()}
    for one, value in changes.families.items():
        if one not in there:
            raise NotPredictable(
                f"No kernel of these stages is of the family '{one}'.", f"There are {', '.join(sorted(there))}."
            )
        factor[family == there[one]] *= value
    used, place = np.unique(name, return_inverse=True)
    words = [known.operation(code) for code in used.tolist()]
    for pattern, value in changes.kernels.items():
        fits = np.array(first_found([pattern], words), np.int64) == 0
        if not fits.any():
            alike = near(pattern, words)
            raise NotPredictable(
                f"No operation of these stages has a name with '{pattern}' in it.",
                f"Like it are {', '.join(alike)}." if alike else "`dsprof table REPORT kern_sum` lists them.",
            )
        factor[fits[place.reshape(-1)]] *= value
    return factor


def _without_waiting(program: Program, replay: Replay, known: _Known) -> tuple[Program, list[Said]]:
    """The calls that only wait are left out, but for those behind a copy to the host, whose data is wanted."""
    waits = np.flatnonzero(program.kind & WAITS > 0)
    copied = np.append(0, np.cumsum(replay.ops.kind & TO_HOST > 0))[program.first[waits + 1]]
    wanted = copied > np.append(0, copied[:-1])[: len(copied)]
    plain = program.kind[waits] & (COPIES | FREES) == 0
    gone, kept = np.zeros((2, len(program.gap)), np.bool_)
    gone[waits[plain & ~wanted]], kept[waits[plain & wanted]] = True, True
    return _not_waiting(evolve(program, own=np.where(gone, 0, program.own)), gone), [
        lambda mine: (
            f"{int(gone[mine].sum())} synchronizing calls are left out; {int(kept[mine].sum())} that follow a "
            "copy to the host stay, as its data is wanted."
        )
    ]


def _not_waiting(program: Program, which: Bools) -> Program:
    """The program where some events wait for nothing."""
    event = np.repeat(np.arange(len(program.gap)), np.diff(program.wait_first))
    kept = ~which[event]
    first = np.searchsorted(event[kept], np.arange(len(program.gap) + 1))
    return evolve(program, waits=program.waits[kept], wait_first=first, back=np.where(which, 0, program.back))


def _pinned(program: Program, replay: Replay, known: _Known) -> tuple[Program, list[Said]]:
    """Copies from pageable memory return at once and go at the rate of pinned memory; those to it go at that rate."""
    kind, size = replay.ops.kind, replay.ops.bytes
    pageable = kind & PAGEABLE > 0
    to_device = np.flatnonzero(pageable & (kind & TO_DEVICE > 0))
    copies = np.zeros(len(program.gap), np.bool_)
    copies[np.searchsorted(program.first, to_device, side="right") - 1] = True
    rate, source = _pinned_rate(replay, known)
    usual = replay.usual
    launch = program.own if usual.launch is None else np.minimum(program.own, usual.launch)
    faster = evolve(
        _not_waiting(program, copies),
        own=np.where(copies, launch, program.own),
        latency=np.where(pageable, np.minimum(program.latency, usual.latency), program.latency),
    )
    said: list[Said] = [
        lambda mine: f"{int(copies[mine].sum())} copies from pageable memory do not hold up the host; those to it do."
    ]
    if rate:
        least = np.rint(size * (1e9 / rate)).astype(np.int64)
        faster = evolve(faster, length=np.where(pageable, np.minimum(program.length, least), program.length))
        said.append(lambda _: f"A copy of pinned memory goes at {rate / 1e9:.0f} GB/s, {source}.")
    else:
        said.append(lambda _: "How fast copies of pinned memory are is not known, so they take as long as they did.")
    return faster, said


def _pinned_rate(replay: Replay, known: _Known) -> tuple[float, str]:
    ops = replay.ops
    pinned = (ops.kind & (TO_DEVICE | TO_HOST) > 0) & (ops.kind & PAGEABLE == 0) & (ops.bytes >= _LARGE)
    if pinned.any():
        return float(np.max(ops.bytes[pinned] / np.maximum(ops.end - ops.start, 1)[pinned]) * 1e9), "as in this report"
    return _PINNED.get(known.capability, 0.0), "four fifths of what PCIe gives this GPU at most"


def _as_graphs(program: Program, replay: Replay, known: _Known) -> tuple[Program, list[Said]]:
    """What is launched between two waits of the host, in a unit, is one graph; nothing is where it was one launch.

    ::

        before   | gap L gap L gap L gap W gap L gap L gap |       L launches, W waits
        after    | G                     W gap G           |       G launches a graph

    What the host does from the begin of a unit to its last launch before it waits is what is captured, so it is gone,
    but for what it does between a wait and the next launch, which may go by what it waited for.
    """
    launch, latency, seen = _of_a_graph(replay, known)
    gap = round(known.tracing.gap_ns)
    ops = np.diff(program.first)
    graphs = _Graphs.of(program, ops)
    event = np.repeat(np.arange(len(ops)), ops)
    node = graphs.member[event]
    follows = node & (program.before >= 0) & (graphs.number[event[program.before]] == graphs.number[event])
    changed = evolve(
        _not_waiting(program, graphs.member),
        gap=np.where(graphs.no_gap, 0, program.gap),
        own=np.where(graphs.last, launch, np.where(graphs.no_call, 0, program.own)),
        latency=np.where(node, latency, program.latency),
        queue=np.where(follows, gap, program.queue),
    )
    units = program.unit >= 0
    return changed, [
        lambda mine: (
            "What is launched between two waits of the host is one CUDA graph, "
            f"{graphs.last[mine].sum() / max(units[mine].sum(), 1):.1f} of them each time; shapes do not change, and "
            "what the host does to launch is not needed."
        ),
        lambda _: f"Between two nodes of a graph {gap / 1e3:.2f} us pass, {_whence(known)}.",
        lambda _: f"Launching a graph takes the host {launch / 1e3:.1f} us, as {seen}.",
    ]


@frozen(eq=False)
class _Graphs:
    """Which events make graphs: `number` of the graph of each `member`, a launch, of which `last` launches it.

    `no_gap`: the events before which the host does nothing any more, `no_call`: those that are no calls any more.
    """

    number: Ints
    member: Bools
    last: Bools
    no_gap: Bools
    no_call: Bools

    @classmethod
    def of(cls, program: Program, ops: Ints) -> Self:
        """Of the events, of which each has so many operations."""
        waits = program.kind & WAITS > 0
        edge = (program.unit != NEVER) | waits
        launches = (ops > 0) & ~edge
        number = np.where(edge, -1, np.cumsum(edge))
        enough = np.append(np.bincount(number[launches], minlength=int(number.max(initial=-1)) + 1), 0) >= 2
        member = launches & enough[number]
        rows = np.flatnonzero(member)
        other = number[rows[1:]] != number[rows[:-1]]
        first, last = np.zeros((2, len(number)), np.bool_)
        first[rows[np.append(True, other)[: len(rows)]]] = True
        last[rows[np.append(other, True)[: len(rows)]]] = True
        opens = np.append(-1, np.flatnonzero(edge))[np.cumsum(edge)]  # the edge before each event that is none
        whole = ~edge & enough[number] & (opens >= 0) & (program.unit[opens] >= 0)
        inside = ~edge & (np.maximum.accumulate(np.where(first, number, -1)) == number)
        left = waits & np.append(False, inside[:-1])[: len(waits)]
        return cls(number, member, last, whole | (inside & ~first) | left, (whole | inside) & ~last)


def _of_a_graph(replay: Replay, known: _Known) -> tuple[int, int, str]:
    """The host's time to launch a graph, when its first node begins, and where that was seen; in ns.

    A report's own are taken where its graphs are traced as a whole: tracing their nodes makes launching them longer.
    """
    usual = replay.usual
    if known.report.graph_mode == "graph" and usual.graph_launch is not None:
        return usual.graph_launch, usual.graph_latency or GRAPH_LATENCY_NS, "in this report"
    return GRAPH_LAUNCH_NS, GRAPH_LATENCY_NS, "measured on an H200"


def _whence(known: _Known) -> str:
    """Where the time between two nodes is from."""
    if known.tracing.measured_here:
        return f"as measured in {known.tracing.source}"
    return "as measured on an H100" + ("" if known.capability == _MEASURED_ON else ", which this GPU is not")
