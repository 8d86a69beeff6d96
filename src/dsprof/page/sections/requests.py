"""The requests, with their latencies."""

from __future__ import annotations

from dsprof.page.html import element, joined
from dsprof.page.parts import Section, cols, table_of
from dsprof.page.source import Source, largest

_HOW = (
    "TTFT is the time to the first token, TPOT the mean time from one token to the next, both as the host saw them "
    "and until the GPU was done. Busy is of a step's time what the GPU worked. The limit is how many tokens a "
    "second these kernels allow if the GPU never waits."
)
_COLUMNS = cols({
    "request": "request", "steady": "steady", "batch": "batch", "prompt_tokens": "prompt", "new_tokens": "new",
    "ttft_host_ns": "TTFT", "ttft_gpu_ns": "TTFT GPU", "tpot_host_ns": "TPOT", "tpot_gpu_ns": "TPOT GPU",
    "tpot_busy_ns": "busy/step", "tokens_per_s": "tokens/s", "limit_tokens_per_s": "limit", "e2e_ns": "end to end",
})  # fmt: skip
MOST = 100


def section(source: Source) -> Section | None:
    """A row for each, as far as there are not too many."""
    table = source.table("request_trace")
    if not len(table):
        return None
    rows = (table if len(table) <= MOST else largest(table, "e2e_ns", MOST)).to_pylist()
    note = f"The {MOST} that took longest of {len(table)}: request_trace has all." if len(table) > MOST else ""
    return Section("requests", "Requests", joined(table_of("request_trace", _COLUMNS, rows, "Requests", sortable=True),
                                                  element("p", note, class_="dim") if note else ""), _HOW)  # fmt: skip
