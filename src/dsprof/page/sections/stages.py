"""The stages: sums over their instances, and each instance."""

from __future__ import annotations

from dsprof.page.html import joined
from dsprof.page.parts import Section, cols, folded, table_of
from dsprof.page.source import Source, largest

_HOW = (
    "A row is a stage over its steady instances, or over its warm-up. Busy is the share of the wall time in which "
    "the GPU ran at least one operation of the stage, so it never exceeds 100 %; without waiting it is what it "
    "worked. Launches are API calls that put something on the GPU: a CUDA graph is one launch of many kernels."
)
_SUM = cols({
    "stage": "stage", "warm_up": "warm-up", "instances": "n", "tokens": "tokens", "tokens_per_s": "tokens/s",
    "wall_total_ns": "wall", "wall_mean_ns": "mean", "wall_p50_ns": "median", "gpu_busy_total_ns": "GPU busy",
    "busy_pct": "busy", "work_pct": "without waiting", "kernels_total": "kernels", "launches_total": "launches",
    "memcpy_total_ns": "copies", "sync_total_ns": "sync",
})  # fmt: skip
_TRACE = cols({
    "stage": "stage", "instance": "#", "request": "request", "steady": "steady", "tokens": "tokens",
    "start_ns": "start", "wall_ns": "wall", "gpu_busy_ns": "GPU busy", "busy_pct": "busy", "wait_ns": "waiting",
    "kernels": "kernels", "launches": "launches",
})  # fmt: skip
#: So many instances are written out, those that took longest.
MOST = 100


def section(source: Source) -> Section | None:
    """Sums, and instances folded away."""
    rows = [row for row in source.table("stage_sum").to_pylist() if row["instances"] != 0]
    if not rows:
        return None
    trace = source.table("stage_trace")
    shown = (trace if len(trace) <= MOST else largest(trace, "wall_ns", MOST)).to_pylist()
    of = f"the {MOST} that took longest of {len(trace)}" if len(trace) > MOST else f"{len(trace)}"
    waited = any(row["wait_total_ns"] for row in rows)
    columns = [one for one in _SUM if waited or one.name != "work_pct"]
    each = folded(f"Instances ({of})", table_of("stage_trace", _TRACE, shown, "Each prefill, decode or step",
                                                sortable=True))  # fmt: skip
    return Section(
        "stages", "Stages", joined(table_of("stage_sum", columns, rows, "All instances"), each if shown else ""), _HOW
    )
