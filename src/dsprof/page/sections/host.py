"""What the host did: CUDA calls, Python, copies; and the busiest ranges of a report without stages."""

from __future__ import annotations

from collections.abc import Sequence

from dsprof.page.html import Html, joined
from dsprof.page.parts import Col, Section, cols, folded, table_of
from dsprof.page.source import Source, largest

_HOW = (
    "Host time is a thread's own: each instant counts for the innermost call, so the rows of a stage add up to its "
    "time on the host; total counts each call from begin to end. Samples of Python are there where they were "
    "recorded."
)
_CALLS = cols({
    "stage": "stage", "api_name": "call", "host_pct": "of the host's time", "host_ns": "host time",
    "instances": "n", "total_ns": "total", "avg_ns": "mean", "max_ns": "longest",
})  # fmt: skip
_PYTHON = cols({
    "stage": "stage", "function": "function", "self_samples": "samples in it", "self_pct": "share",
    "self_outside_cuda_samples": "outside of CUDA", "samples_pct": "with callees",
})  # fmt: skip
_COPIES = cols({
    "kind": "kind", "share_pct": "share", "total_ns": "total", "instances": "n", "avg_ns": "mean",
    "max_ns": "longest", "total_bytes": "bytes", "avg_bytes": "mean size",
})  # fmt: skip
_RANGES = cols({
    "name": "range", "domain": "domain", "instances": "n", "total_ns": "total", "avg_ns": "mean",
    "gpu_busy_ns": "GPU busy", "kernels": "kernels", "api_calls": "calls",
})  # fmt: skip
MOST = 80


def section(source: Source) -> Section | None:
    """Tables, those folded that fewer look at."""
    parts = [
        _table(source, "stage_api_sum", _CALLS, "host_ns", "CUDA calls by stage"),
        _table(source, "host_python_sum", _PYTHON, "self_samples", "Python by stage"),
        _table(source, "mem_sum", _COPIES, "total_ns", "Copies and sets of memory"),
        _table(source, "range_sum", _RANGES, "gpu_busy_ns", "Ranges"),
    ]
    shown = [part for part in parts if part]
    return Section("host", "Host, copies, ranges", joined(shown), _HOW) if shown else None


def _table(source: Source, name: str, columns: Sequence[Col], by: str, caption: str) -> Html:
    table = source.table(name)
    if not len(table):
        return Html("")
    rows = largest(table, by, MOST).to_pylist()
    most = f"the first {MOST} of {len(table)}" if len(table) > MOST else str(len(table))
    return folded(f"{caption} ({most})", table_of(name, columns, rows, caption, sortable=True))
