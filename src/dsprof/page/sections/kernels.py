"""The kernels that take most, to be searched and sorted."""

from __future__ import annotations

from dsprof.page.html import joined
from dsprof.page.parts import Section, cols, search, table_of
from dsprof.page.source import Source, largest

_HOW = (
    "A row is a kernel's name in a stage; a share is of the kernel time of that stage. A name opens to the full, "
    "demangled one. Headers sort: the largest first, and by a second press the smallest. Words are searched for in "
    "stage, family and name."
)
_COLUMNS = cols({
    "stage": "stage", "kernel": "kernel", "family": "family", "share_pct": "share", "total_ns": "total",
    "instances": "n", "avg_ns": "mean", "med_ns": "median", "min_ns": "shortest", "max_ns": "longest",
})  # fmt: skip
#: So many are written out.
MOST = 200


def section(source: Source) -> Section | None:
    """The names that took longest."""
    table = source.table("stage_kern_sum")
    if not len(table):
        return None
    rows = largest(table, "total_ns", MOST).to_pylist()
    caption = f"The {MOST} that took longest of {len(table)}" if len(table) > MOST else "All kernels"
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    body = joined(search("kernels", stage=stages), table_of("stage_kern_sum", _COLUMNS, rows, f"{caption}, by stage",
                                                      sortable=True, name="kernels"))  # fmt: skip
    return Section("kernels", "Kernels", body, _HOW)
