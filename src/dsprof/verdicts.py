"""Why a stage took that long: one word, the numbers behind it, and what to do. None where the data do not say.

A stage is judged by its steady instances, over the wall time that `accounting` splits without rest. Which are steady
says `requests.steady_stages`.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa
from attrs import frozen

from dsprof.roofs import StageRoof

#: From this busy share on the GPU is the limit, and up to that one it is not; between the two nothing is said.
_GPU_BOUND_PCT, _NOT_GPU_BOUND_PCT = 75.0, 60.0
#: Launches per token from which on tokens are made one by one.
_ONE_BY_ONE = 10
#: Share of the idle time that one side must have to be called its cause.
_MOST = 0.6
#: Percent of a roof from which on, while the GPU is busy, the roof is the limit.
_AT_ROOF_PCT = 50.0
_SIDES = {
    "launch-bound": ("host", "launch", "api", "alloc", "profiler"),
    "sync-bound": ("sync",),
    "copy-bound": ("pageable", "copy"),
    "latency-bound": ("latency",),
    "shared GPU": ("other_work",),
}
_REMEDIES = {
    "GPU-bound": "Look at the families that take most (stage_family_sum): faster or fewer kernels shorten it.",
    "launch-bound": "Launch less: CUDA graphs (a static cache and torch.compile), fused kernels, a larger batch.",
    "sync-bound": "Find what waits for the GPU: .item(), .cpu(), synchronize(); keep decisions on the GPU.",
    "copy-bound": "Pin host memory, copy on a stream of its own, or keep the data on the GPU.",
    "latency-bound": "Work was queued and began late: look at dependencies between streams, and at graph launches.",
    "shared GPU": "The GPU ran other work of the process: look at stage_stream_sum for who shares it.",
}


@frozen
class Verdict:
    """What limits a stage: `kind`, a sentence with the numbers, a remedy, and the numbers themselves.

    `instances` were judged, `warm_up` left out; times are sums over them in ns, per token in us; `limit_us` is
    what a token would take if the host cost nothing, `roof_us` what its decode would at the roof; `launches_per_s` is
    over the wall time. Values per token are None where tokens are not known, `bound_by` (compute, memory bandwidth, or
    neither) where roofs are not.
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
    launches_per_token: float | None
    kernels_per_token: float | None
    kernel_mean_us: float
    token_us: float | None
    limit_us: float | None
    roof_us: float | None = None
    bound_by: str | None = None


def judge(stage: str, instances: pa.Table, roof: StageRoof | None = None) -> Verdict | None:
    """The verdict on a stage from its rows of `stage_trace`; None where no cause has the better part of the time.

    `roof`: how near the stage came to the GPU's roofs, where that is known.
    """
    kept = instances.filter(instances.column("steady"))
    wall, busy, kernels = (_total(kept, column) for column in ("wall_ns", "gpu_busy_ns", "kernels"))
    if not kernels or not wall:
        return None
    idle = {
        column.removeprefix("idle_").removesuffix("_ns"): _total(kept, column)
        for column in kept.column_names
        if column.startswith("idle_")
    }
    kind = _kind(100.0 * busy / wall, idle)
    if kind is None:
        return None
    tokens, launches = _total(kept, "tokens"), _total(kept, "launches")
    kernel_us = _total(kept, "kernel_total_ns") / kernels / 1e3
    per_token = launches / tokens if tokens else None
    token_us, limit_us = (wall / tokens / 1e3, busy / tokens / 1e3) if tokens else (None, None)
    return Verdict(
        stage=stage,
        kind=kind,
        sentence=_sentence(stage, kind, 100.0 * busy / wall, idle, wall, per_token, kernel_us, token_us, limit_us)
        + (_at_the_roof(kind, roof) if roof else ""),
        remedy=_REMEDIES[kind],
        instances=len(kept),
        warm_up=len(instances) - len(kept),
        wall_ns=wall,
        gpu_busy_ns=busy,
        idle_ns=idle,
        busy_pct=100.0 * busy / wall,
        launches_per_s=1e9 * launches / wall,
        launches_per_token=per_token,
        kernels_per_token=kernels / tokens if tokens else None,
        kernel_mean_us=kernel_us,
        token_us=token_us,
        limit_us=limit_us,
        roof_us=roof.token_roof_ns / 1e3 if roof and roof.token_roof_ns is not None else None,
        bound_by=_bound_by(roof),
    )


def _total(rows: pa.Table, column: str) -> int:
    """The sum of a column of integers; a missing value counts nothing."""
    import pyarrow.compute as pc

    return int(pc.sum(rows.column(column)).as_py() or 0)


def _kind(busy_pct: float, idle: Mapping[str, int]) -> str | None:
    if busy_pct >= _GPU_BOUND_PCT:
        return "GPU-bound"
    whole = sum(idle.values())
    if busy_pct > _NOT_GPU_BOUND_PCT:
        return None
    sides = {kind: sum(idle[cause] for cause in causes) for kind, causes in _SIDES.items()}
    kind = max(sides, key=lambda one: sides[one])
    return kind if sides[kind] >= _MOST * whole else None


def _sentence(
    stage: str,
    kind: str,
    busy_pct: float,
    idle: Mapping[str, int],
    wall: int,
    per_token: float | None,
    kernel_us: float,
    token_us: float | None,
    limit_us: float | None,
) -> str:
    """The numbers in words: what the GPU did, where the rest went, and what a free host would give."""
    first, second = sorted(idle, key=lambda cause: -idle[cause])[:2]
    most, more = 100 * idle[first] / wall, 100 * idle[second] / wall
    text = (
        f"{stage} is {kind}: the GPU is busy {busy_pct:.0f} % of the time; {most:.0f} % goes to {_WORDS[first]}, "
        f"{more:.0f} % to {_WORDS[second]}."
    )
    # A prefill's tokens share their launches: what one of them takes says nothing.
    if kind == "launch-bound" and per_token is not None and per_token >= _ONE_BY_ONE and limit_us and token_us:
        text += (
            f" A token takes {per_token:.0f} launches of kernels of {kernel_us:.1f} us, and {token_us / 1e3:.1f} ms; "
            f"it would take {limit_us / 1e3:.1f} ms if the host cost nothing."
        )
    return text


def _bound_by(roof: StageRoof | None) -> str | None:
    """The roof that a stage runs at while the GPU is busy; ``neither`` where it is far from both, None for unknown."""
    if roof is None or roof.busy_mfu_pct is None or roof.busy_bandwidth_pct is None:
        return None
    share, word = max((roof.busy_mfu_pct, "compute"), (roof.busy_bandwidth_pct, "memory bandwidth"))
    return word if share >= _AT_ROOF_PCT else "neither"


def _at_the_roof(kind: str, roof: StageRoof) -> str:
    """What the roofs say about a stage that the GPU limits, or that launches do."""
    bound = _bound_by(roof)
    if kind == "GPU-bound" and bound is not None:
        shares = f"{roof.busy_mfu_pct:.0f} % of the FLOPs and {roof.busy_bandwidth_pct:.0f} % of the memory bandwidth"
        where = "It is far from both roofs" if bound == "neither" else f"Its roof is {bound}"
        return f" {where}: while busy, the GPU makes {shares} that it could."
    if kind == "launch-bound" and roof.token_roof_ns is not None:
        return f" At the {roof.roof} roof a token would take {roof.token_roof_ns / 1e6:.2g} ms."
    return ""


_WORDS = {
    "other_work": "other work on the GPU",
    "latency": "launch latency",
    "profiler": "the profiler",
    "alloc": "memory allocation",
    "pageable": "copies of pageable memory",
    "copy": "copy calls",
    "sync": "waiting for the GPU",
    "launch": "launch calls",
    "api": "other CUDA calls",
    "host": "the host outside of CUDA",
}
