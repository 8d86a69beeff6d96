"""What kinds of kernels take the GPU's time in each stage."""

from __future__ import annotations

from dsprof.page.colours import of_family
from dsprof.page.html import joined
from dsprof.page.parts import Section, cols, figure, folded, legend, table_of
from dsprof.page.source import Source
from dsprof.page.svg import Part, bar
from dsprof.words import NO_STAGE

_HOW = (
    "A family is what a kernel does as far as its name says: gemm are products of matrices, elementwise what goes "
    "over a tensor once. A share is of the sum of the durations of a stage's kernels. Many small families beside "
    "gemm and attention are what fusing kernels would save."
)
_COLUMNS = cols({
    "stage": "stage", "family": "family", "share_pct": "share", "total_ns": "total", "instances": "kernels",
    "avg_ns": "mean", "med_ns": "median", "min_ns": "shortest", "max_ns": "longest",
})  # fmt: skip


def section(source: Source) -> Section | None:
    """A bar for each stage, families in one order."""
    rows = source.table("stage_family_sum").to_pylist()
    if not rows:
        return None
    totals: dict[str, int] = {}
    for row in rows:
        totals[row["family"]] = totals.get(row["family"], 0) + row["total_ns"]
    order = sorted(totals, key=lambda family: -totals[family])
    stages = [one for one in dict.fromkeys(row["stage"] for row in rows) if one != NO_STAGE] or [NO_STAGE]
    bars = []
    for stage in stages:
        share = {row["family"]: row["share_pct"] for row in rows if row["stage"] == stage}
        bars.append(bar(stage, [Part(share.get(one, 0.0), one, of_family(one)) for one in order]))
    plot = figure(
        "Share of the kernel time of each stage", joined(bars), legend((one, of_family(one)) for one in order)
    )
    table = folded("As a table", table_of("stage_family_sum", _COLUMNS, rows, "Kernel families by stage",
                                          sortable=True))  # fmt: skip
    return Section("families", "Kernel families", joined(plot, table), _HOW)
