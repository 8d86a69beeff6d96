"""Why a stage took that long: one word, the numbers behind it, and what to do.

A stage is judged by its steady instances, which `answers.stages` tells, over the wall time that `measures.accounting`
splits without rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
from attrs import evolve

from dsprof.answers.host_python import HostFunction
from dsprof.answers.waits import NOTABLE_PCT, REASONS, HeldUp
from dsprof.ground.arrow import rows_kept, total
from dsprof.measures.causes import (
    ALLOCATION,
    CAUSES,
    COLD,
    COPY,
    HOST,
    LATENCY,
    LAUNCH,
    PROFILER,
    QUEUED,
    SHARED,
    SYNC,
)  # fmt: skip
from dsprof.records import frozen

if TYPE_CHECKING:
    from dsprof.answers.overhead import Cost
    from dsprof.answers.roofs import StageRoof
    from dsprof.answers.what_if import Prediction

#: From this busy share on the GPU is the limit, and up to that one it is not; between the two nothing is.
_GPU_BOUND_PCT, _NOT_GPU_BOUND_PCT = 75.0, 60.0
#: Launches per step from which on a step is made of single launches.
_ONE_BY_ONE = 10
#: Share of the idle time that the causes of one kind must have to be called its cause.
_MOST = 0.6
#: Percent of a roof from which on, while the GPU is busy, the roof is the limit.
_AT_ROOF_PCT = 50.0
#: Host time outside of CUDA of no more than this for each launch is what it takes to launch; more is something else.
_PER_LAUNCH_US = 50.0
GPU, GRAPH, MIXED = "GPU-bound", "graph-bound", "mixed"
#: What a stage of several ranks is called by what their collectives take: transferring, waiting for one rank, waiting
#: in turn for ranks whose kernels or copies take longer.
COMMUNICATION, STRAGGLER, IMBALANCE = "communication-bound", "straggler-bound", "imbalanced"
#: Where the others wait for one rank for this share of their time, it is what limits the stage, whatever its own time
#: goes to: over all ranks together, what it does meanwhile has as large a part as their waiting.
_HELD_PCT = 50.0
#: From this share of the wall time on, collectives without a match are said to be of unknown kind.
_UNKNOWN_PCT = 5.0
#: So many ranks that wait in turn are named, and so many groups of ranks.
_MOST_NAMED, _MOST_GROUPS = 4, 2
#: A rank that begins so many collectives last and is no straggler is late by much at times, and by little at others.
_MOSTLY_PCT = 75.0
#: What a stage with most of its idle time in the causes of one kind is called; of two with as much, the first.
KINDS = (LAUNCH, HOST, COLD, ALLOCATION, SYNC, COPY, LATENCY, QUEUED, SHARED, PROFILER)
OF_RANKS = (COMMUNICATION, STRAGGLER, IMBALANCE)
_REMEDIES = {
    GPU: "Look at the families that take most (stage_family_sum): faster or fewer kernels shorten it.",
    LAUNCH: "Launch less: CUDA graphs (a static cache and torch.compile), fused kernels, a larger batch.",
    HOST: "Launch calls are few: find what the host does between them, as sampling, tokenization, scheduling, input.",
    COLD: "That is done once: warm up before what is measured, or load kernels at the start "
          "(CUDA_MODULE_LOADING=EAGER).",
    ALLOCATION: "Allocate once: a caching allocator, a static cache, buffers that are used again.",
    SYNC: "Find what waits for the GPU: .item(), .cpu(), synchronize(); keep decisions on the GPU.",
    COPY: "Pin host memory, copy on a stream of its own, or keep the data on the GPU.",
    LATENCY: "Work was queued and began late: look at dependencies between streams.",
    GRAPH: "Between a graph's kernels the GPU waits: fewer and fused kernels, or branches beside each other.",
    QUEUED: "It waits for what its own thread launched before, as a prefill that still runs: shorten that.",
    SHARED: "The GPU ran other work of the process: look at stage_stream_sum for who shares it.",
    PROFILER: "Record less at a time: what the profiler takes is not there without it.",
    COMMUNICATION: "Send less or hide it: fewer and larger collectives, a custom all-reduce, less tensor parallelism; "
                   "collective_sum has them.",
    STRAGGLER: "Look at the rank that is named: rank_sum and collective_trace have its times beside the others'.",
    IMBALANCE: "What ranks compute differs from one collective to the next: balance experts, batches or lengths.",
    MIXED: "No single cause is worth most: stage_trace has the time of each (idle_*).",
}  # fmt: skip
#: Instead of the remedy for launches, where graphs make them.
_IN_GRAPHS = (
    "Its kernels are in CUDA graphs: launch one for a step, and record with --cuda-graph-trace=graph, as tracing their "
    "nodes makes launching them take longer."
)


@frozen
class Culprit:
    """What takes most of a stage's kernel time, in percent of it: a family of kernels, and a kernel."""

    family: str
    family_pct: float
    kernel: str
    kernel_pct: float


@frozen
class Verdict:
    """What limits a stage: `kind`, a sentence with the numbers, a remedy, and the numbers themselves.

    `instances` were judged, `warm_up` left out; times are sums over them in ns, of a step in us. `gpu_busy_ns` and
    `busy_pct` are without waiting for other ranks, which is `wait_ns`; `transfer_ns`, `unmatched_ns`: of the busy time,
    collectives that transfer, and those without a match, which may wait. `limit_us` is how long the GPU works for a
    step, which can take no less with these kernels, `roof_us` what it would take at the roof, `plain_step_us` what it
    takes without the profiler, by the host's times of another run (None: there was none), `graphs_step_us` what it
    would take as CUDA graphs where launches are what takes long, and `replay_residual_pct` how far the replay that says
    so is off (see `answers.what_if`); `launches_per_s` is over the wall time. Values of a step are None where there is
    none, `tokens_per_step` where the batch is not known, `bound_by` (compute, memory bandwidth, or neither) where roofs
    are not. `python`: what most of its samples outside of CUDA are in; `off_cpu_ns`: how long its thread was off the
    CPU in the time that is the host's, None where the report does not tell. `ranks`: how the ranks of each group waited
    for each other.
    """

    stage: str
    kind: str
    sentence: str
    remedy: str
    instances: int
    warm_up: int
    wall_ns: int
    gpu_busy_ns: int
    idle_ns: dict[str, int]
    busy_pct: float
    launches_per_s: float
    launches_per_step: float | None
    kernels_per_step: float | None
    tokens_per_step: float | None
    kernel_mean_us: float
    step_us: float | None
    limit_us: float | None
    roof_us: float | None = None
    bound_by: str | None = None
    culprit: Culprit | None = None
    plain_step_us: float | None = None
    graphs_step_us: float | None = None
    replay_residual_pct: float | None = None
    python: tuple[HostFunction, ...] = ()
    off_cpu_ns: int | None = None
    wait_ns: int = 0
    transfer_ns: int = 0
    unmatched_ns: int = 0
    ranks: tuple[HeldUp, ...] = ()


def judge(
    stage: str,
    instances: pa.Table,
    roof: StageRoof | None = None,
    culprit: Culprit | None = None,
    cost: Cost | None = None,
    python: tuple[HostFunction, ...] = (),
    predicted: Prediction | None = None,
    of_engine: bool = False,
    ranks: tuple[HeldUp, ...] = (),
    link: float | None = None,
) -> Verdict | None:
    """The verdict on a stage from its rows of `stage_trace`, or sums of such; None where it ran no kernel.

    `roof`: how near the stage came to the GPU's roofs, `culprit`: what takes most, `cost`: what recording it cost,
    `python`: what Python was in, `predicted`: what a step would take as CUDA graphs, where that is known. `of_engine`:
    the stage is a mode of a serving engine's steps. `ranks`: how its ranks waited for each other, `link`: bytes a
    second that the link between them could move, if there is NVLink.
    """
    kept = rows_kept(instances, instances.column("steady"))
    wall, busy, kernels = (_total(kept, column) for column in ("wall_ns", "gpu_busy_ns", "kernels"))
    if not kernels or not wall:
        return None
    idle = {name: _total(kept, f"idle_{name}_ns") for name in CAUSES}
    steps, launches, graphs = (_total(kept, column) for column in ("steps", "launches", "graph_launches"))
    wait, transfer, unmatched = (_total(kept, f"{part}_ns") for part in ("wait", "transfer", "unmatched"))
    busy -= wait
    copies = min(_total(kept, "memcpy_ns"), busy)  # those beside each other, or beside kernels, count once at most
    talk = _Talk(wait, transfer, unmatched, ranks)
    verdict = Verdict(
        stage=stage,
        kind=_kind(wall, busy, copies, idle, launches, graphs, talk),
        sentence="",
        remedy="",
        instances=_count(kept),
        warm_up=_count(instances) - _count(kept),
        wall_ns=wall,
        gpu_busy_ns=busy,
        idle_ns=idle,
        busy_pct=100.0 * busy / wall,
        launches_per_s=1e9 * launches / wall,
        launches_per_step=launches / steps if steps else None,
        kernels_per_step=kernels / steps if steps else None,
        tokens_per_step=_total(kept, "tokens") / steps if steps and not kept.column("batch").null_count else None,
        kernel_mean_us=max(_total(kept, "kernel_total_ns") - wait, 0) / kernels / 1e3,
        step_us=wall / steps / 1e3 if steps else None,
        limit_us=busy / steps / 1e3 if steps else None,
        roof_us=roof.step_roof_ns / 1e3 if roof and roof.step_roof_ns is not None else None,
        bound_by=_bound_by(roof),
        culprit=culprit,
        plain_step_us=wall / steps / 1e3 / cost.total_ratio if steps and cost else None,
        python=python,
        off_cpu_ns=None if kept.column("off_cpu_ns").null_count else _total(kept, "off_cpu_ns"),
        wait_ns=wait,
        transfer_ns=transfer,
        unmatched_ns=unmatched,
        ranks=ranks,
    )
    verdict = _as_graphs(verdict, predicted)
    said = _sentence(verdict, 100 * copies / wall, _subject(verdict, of_engine))
    said += (_at_the_roof(verdict, roof) if roof else "") + of_ranks(verdict, link)
    in_graphs = verdict.kind == LAUNCH and graphs and not _one_by_one(verdict)
    return evolve(verdict, sentence=said, remedy=_IN_GRAPHS if in_graphs else _REMEDIES[verdict.kind])


def _as_graphs(verdict: Verdict, predicted: Prediction | None) -> Verdict:
    """The verdict with what a step would take as CUDA graphs, where its launches one by one are what takes long."""
    if predicted is None or not predicted.step_predicted_ns or verdict.kind != LAUNCH or not _one_by_one(verdict):
        return verdict
    as_graph, off = predicted.step_predicted_ns / 1e3, predicted.residual_pct
    return evolve(verdict, graphs_step_us=as_graph, replay_residual_pct=off)


def _count(rows: pa.Table) -> int:
    """How many instances some rows are: each is one, or says of how many it is."""
    return _total(rows, "instances") if "instances" in rows.column_names else len(rows)


def _total(rows: pa.Table, column: str) -> int:
    """The sum of a column of integers; a missing value counts nothing."""
    return total(rows.column(column)) or 0


class _Talk(NamedTuple):
    """What collectives of a stage took beside all else, in ns, and how their ranks waited for each other."""

    wait: int = 0
    transfer: int = 0
    unmatched: int = 0
    ranks: tuple[HeldUp, ...] = ()

    def kinds(self) -> dict[str, int]:
        """By kind; of waiting what the host of another rank, or its GPU, was late with. The rest is of none."""
        found = dict.fromkeys((COMMUNICATION, STRAGGLER, IMBALANCE, HOST), 0)
        found[COMMUNICATION] = self.transfer + self.unmatched
        whole = sum(one.waited_ns for group in self.ranks for one in group.ranks)
        for group in self.ranks:
            late = group.by_reason(self.wait * sum(one.waited_ns for one in group.ranks) // max(whole, 1))
            if group.straggler >= 0:
                found[STRAGGLER] += sum(late.values())
            else:
                found[HOST] += late["host"]
                found[IMBALANCE] += late["kernels"] + late["copies"]
        return found


def _kind(
    wall: int,
    busy: int,
    copies: int,
    idle: Mapping[str, int],
    launches: int,
    graph_launches: int,
    talk: _Talk,
) -> str:
    """The kind of a stage; what the GPU is busy with `copies` of memory, or to `talk`, is no work of its kernels."""
    working = busy - copies - talk.unmatched
    busy_pct = 100.0 * (working - talk.transfer) / wall
    if 100.0 * working / wall >= _GPU_BOUND_PCT:
        return GPU if 2 * talk.transfer <= working else COMMUNICATION
    if any(group.straggler >= 0 and group.pct >= _HELD_PCT for group in talk.ranks):
        return STRAGGLER
    kinds = dict.fromkeys(KINDS, 0) | talk.kinds()
    kinds[COPY] += copies
    for name, time in idle.items():
        kinds[CAUSES[name].kind] += time
    if kinds[HOST] <= 1e3 * _PER_LAUNCH_US * launches:
        kinds[LAUNCH] += kinds.pop(HOST)
    kind = max(kinds, key=lambda one: kinds[one])
    rest = copies + talk.wait + talk.transfer + talk.unmatched + sum(idle.values())
    if busy_pct > _NOT_GPU_BOUND_PCT or kinds[kind] < _MOST * rest:
        return MIXED
    return GRAPH if kind == LATENCY and graph_launches else kind


def _one_by_one(verdict: Verdict) -> bool:
    """Does each step take many launches?"""
    return verdict.launches_per_step is not None and verdict.launches_per_step >= _ONE_BY_ONE


def _step(verdict: Verdict) -> str:
    """What a step is called: a token where it is known to make one, else a step, and of how many where that is."""
    made = verdict.tokens_per_step
    if made == 1:
        return "A token"
    return "A step" if made is None else f"A step of {made:.3g} tokens"


def _subject(verdict: Verdict, of_engine: bool) -> str:
    """What the sentence is about, and what kind it is of."""
    if not of_engine:
        return f"{verdict.stage} is {verdict.kind}"
    return f"{verdict.stage} steps {'have no single limit' if verdict.kind == MIXED else f'are {verdict.kind}'}"


def _sentence(verdict: Verdict, copies_pct: float, subject: str) -> str:
    """The numbers in words: what the GPU did, where the rest went, and what that is for a step."""
    idle, wall = verdict.idle_ns, verdict.wall_ns
    went = {CAUSES[cause].words: time for cause, time in idle.items()}
    went[f"waiting for {_awaited(verdict)}"] = verdict.wait_ns
    first, second = sorted(went, key=lambda words: -went[words])[:2]
    text = (
        f"{subject}: the GPU is busy {verdict.busy_pct:.0f} % of the time; {100 * went[first] / wall:.0f} % goes "
        f"to {first}, {100 * went[second] / wall:.0f} % to {second}."
    )
    if verdict.kind == MIXED:
        return f"{text} No cause has the better part of it."
    if verdict.kind == GPU and verdict.culprit is not None:
        one = verdict.culprit
        text += f" {one.family} kernels take {one.family_pct:.0f} % of that, {one.kernel} {one.kernel_pct:.0f} %."
    if verdict.kind == COPY and copies_pct >= 1:
        text += f" The GPU copies for {copies_pct:.0f} %."
    if verdict.kind == LAUNCH and _one_by_one(verdict) and verdict.limit_us and verdict.step_us:
        plain = f" ({verdict.plain_step_us / 1e3:.1f} without the profiler)" if verdict.plain_step_us else ""
        text += (
            f" {_step(verdict)} takes {verdict.launches_per_step:.0f} launches of kernels of "
            f"{verdict.kernel_mean_us:.1f} us, and {verdict.step_us / 1e3:.1f} ms{plain}, of which the GPU works "
            f"{verdict.limit_us / 1e3:.1f} ms."
        )
    if verdict.graphs_step_us is not None:
        text += (
            f" As a CUDA graph it would take some {verdict.graphs_step_us / 1e3:.1f} ms (the replay that says so is "
            f"{verdict.replay_residual_pct:.1f} % off)."
        )
    if verdict.kind in (LAUNCH, HOST) and verdict.off_cpu_ns is not None and idle["host"]:
        share = 100 * verdict.off_cpu_ns / idle["host"]
        text += f" Of the host's time outside of CUDA its thread was off the CPU for {share:.0f} %."
    if verdict.kind in (LAUNCH, HOST) and verdict.python:
        inside = ", ".join(f"{one.share_pct:.0f} % in {one.function}" for one in verdict.python)
        text += f" Of the samples of Python outside of CUDA there are {inside}."
    return text


def _awaited(verdict: Verdict) -> str:
    """Whom the ranks of a stage wait for: the straggler, where there is one, and one alone."""
    notable = [group for group in verdict.ranks if group.pct >= NOTABLE_PCT]
    named = {group.ranks[group.straggler].name if group.straggler >= 0 else "" for group in notable}
    return next(iter(named)) or "other ranks" if len(named) == 1 else "other ranks"


#: What a rank did more of than those that wait for it, where that made it late, and what it was late by.
_LATE = {
    "host": ("its host", "the hosts", "its GPU had nothing to do"),
    "kernels": ("its kernels", "the kernels", "it computed"),
    "copies": ("its copies", "the copies", "it copied"),
    "latency": ("what lies between a launch and its begin", "what lies between launches and their begin", "that took"),
}


def of_ranks(verdict: Verdict, link: float | None = None) -> str:
    """What the ranks of a stage did to each other, in sentences, each with a blank before it; empty for nothing."""
    wall, said = verdict.wall_ns, ""
    if verdict.kind == COMMUNICATION and verdict.transfer_ns:
        said += f" Collectives transfer for {100 * verdict.transfer_ns / wall:.0f} %; {_bandwidth(verdict, link)}."
    if 100 * verdict.unmatched_ns >= _UNKNOWN_PCT * wall:
        said += (
            f" For {100 * verdict.unmatched_ns / wall:.0f} % nothing but collectives without a match ran: how much of "
            "that is waiting, the reports of all ranks together tell."
        )
    groups: dict[tuple[str, str], HeldUp] = {}  # a rank that holds up several groups for one reason is named once
    for group in sorted(verdict.ranks, key=lambda one: -one.pct):
        if group.pct >= NOTABLE_PCT:
            name = group.ranks[group.straggler].name if group.straggler >= 0 else ""
            groups.setdefault((name, group.reason), group)
    for group in list(groups.values())[:_MOST_GROUPS]:
        said += _straggler(group) if group.straggler >= 0 else _in_turn(group)
    return said


def _bandwidth(verdict: Verdict, link: float | None) -> str:
    """How fast collectives are, where their sizes are known, beside what NVLink could do, where such GPUs have it."""
    took = sum(group.bus_ns for group in verdict.ranks)
    if not took:
        return "how many bytes is not known, so neither is the bandwidth"
    rate = sum(group.bus_bytes for group in verdict.ranks) / took
    could = f"of the {link / 1e9:.0f} that NVLink has on such GPUs" if link else "to be held against what it can do"
    return f"those of known size move {rate:.1f} GB/s over each rank's link, {could}"


def _straggler(group: HeldUp) -> str:
    one = group.ranks[group.straggler]
    others = " and ".join(other.name for other in group.ranks if other is not one)
    waits = f"{others} waits" if len(group.ranks) == 2 else "the others wait"
    late = dict(zip(REASONS, one.late_ns, strict=True))
    more = ", ".join(
        f"{words} {abs(late[reason]) / 1e6:.1f} ms {'less' if late[reason] < 0 else 'more'}"
        for reason, (_, _, words) in _LATE.items()
        if reason in _TOLD
    )
    same = all((turn.straggler, turn.reason) == (group.straggler, group.reason) for turn in group.in_turn)
    return (
        f" {one.name.capitalize()} holds the others up: it begins {one.last_pct:.0f} % of the collectives last, and "
        f"{waits} {group.pct:.0f} % of the time for it. It is late by {_LATE[group.reason][0]}: while it was waited "
        f"for, {more}.{'' if same else _one_after_another(group)}"
    )


#: The reasons that are told with their numbers.
_TOLD = ("host", "kernels", "copies")


def _in_turn(group: HeldUp) -> str:
    ordered = sorted(group.ranks, key=lambda one: -one.last_pct)
    if not ordered[0].last_pct:
        return f" The ranks wait for each other for {group.pct:.0f} % of the time; who is late is not certain."
    shares = [f"{one.name} {one.last_pct:.0f} %" for one in ordered[:_MOST_NAMED]]
    rest = [f"the other {len(ordered) - _MOST_NAMED} less"] if len(ordered) > _MOST_NAMED else []
    late, mostly = group.by_reason(100), ordered[0].last_pct >= _MOSTLY_PCT
    turns = "unevenly" if mostly else "in turn"
    return (
        f" The ranks wait for each other {turns}, {group.pct:.0f} % of the time; so many collectives each begins last: "
        f"{', '.join([*shares, *rest])}. They are late by {_LATE[group.reason][1]} ({late[group.reason]:.0f} % of it)."
        f"{_one_after_another(group)}"
    )


def _one_after_another(group: HeldUp) -> str:
    """The requests in which one rank holds the others up, of ranks that do so in turn."""
    told = []
    for one in group.in_turn[:_MOST_NAMED]:
        which = f"{one.of}s {one.first} to {one.last}" if one.last > one.first else f"{one.of} {one.last}"
        told.append(f"{group.ranks[one.straggler].name} in {which} ({_LATE[one.reason][0]})")
    return f" One holds the others up: {', '.join(told)}." if told else ""


def _bound_by(roof: StageRoof | None) -> str | None:
    """The roof that a stage runs at while the GPU is busy; ``neither`` where it is far from both, None for unknown."""
    if roof is None or roof.busy_mfu_pct is None or roof.busy_bandwidth_pct is None:
        return None
    share, word = max((roof.busy_mfu_pct, "compute"), (roof.busy_bandwidth_pct, "memory bandwidth"))
    return word if share >= _AT_ROOF_PCT else "neither"


def _at_the_roof(verdict: Verdict, roof: StageRoof) -> str:
    """What the roofs say about a stage that the GPU limits, or that launches do."""
    bound = verdict.bound_by
    if verdict.kind == GPU and bound is not None:
        shares = f"{roof.busy_mfu_pct:.0f} % of the FLOPs and {roof.busy_bandwidth_pct:.0f} % of the memory bandwidth"
        where = "It is far from both roofs" if bound == "neither" else f"Its roof is {bound}"
        return f" {where}: while busy, the GPU makes {shares} that it could."
    if verdict.kind == LAUNCH and roof.step_roof_ns is not None:
        one = "a token" if verdict.tokens_per_step == 1 else "a step"
        return f" At the {roof.roof} roof {one} would take {roof.step_roof_ns / 1e6:.2g} ms."
    return ""
