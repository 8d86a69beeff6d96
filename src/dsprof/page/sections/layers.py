"""The modules of the model, where their ranges are in the report."""

from __future__ import annotations

from dsprof.page.html import joined
from dsprof.page.parts import Section, cols, search, table_of
from dsprof.page.source import Source, largest
from dsprof.words import NO_MODULE

_HOW = (
    "A row is a module of the model in a stage: what it launched by itself, and with the modules within it. Layers "
    "that are alike take the same time; one that does not is worth a look."
)
_COLUMNS = cols({
    "stage": "stage", "module": "module", "calls": "calls", "exclusive_pct": "by itself",
    "exclusive_total_ns": "time", "share_pct": "with inner", "total_ns": "time with inner", "kernels": "kernels",
    "graph_kernels": "in graphs",
})  # fmt: skip
MOST = 200


def section(source: Source) -> Section | None:
    """The modules that take most by themselves."""
    table = source.table("layer_sum")
    rows = largest(table, "exclusive_total_ns", MOST).to_pylist()
    if all(row["module"] == NO_MODULE for row in rows):
        return None
    caption = f"The {MOST} modules that took longest of {len(table)}" if len(table) > MOST else "All modules"
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    table = table_of("layer_sum", _COLUMNS, rows, f"{caption}, by stage", sortable=True, name="layers")
    body = joined(search("layers", stage=stages), table)
    return Section("layers", "Layers", body, _HOW)
