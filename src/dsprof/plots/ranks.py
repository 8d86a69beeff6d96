"""Figures of several ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dsprof.plots._figure import figure_of, nothing, titled
from dsprof.show.by_rank import QUANTITIES
from dsprof.show.reports import ReportsSummary, heat_cell, heat_of
from dsprof.show.safe import for_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Percent from the median rank at which the colours of `rank_heatmap` are full.
_FULL_PCT = 25.0


class Ranked(Protocol):
    """What knows its ranks: an analysis of several reports."""

    def summary(self) -> ReportsSummary:
        """What is shown of it."""


def rank_heatmap(analysis: Ranked, value: str | None = None, run: str | None = None) -> Figure:
    """How far each rank is from the median rank in each stage, in percent: as a colour and a number.

    `analysis`: of several reports (`dsprof.analyze_many`). `value`: ``"own_ns"`` (wall time without waiting for other
    ranks), ``"wall_ns"``, ``"host_ns"``, ``"compute_ns"`` or ``"collective_ns"``; unless given, the first where waiting
    is known, else the second. `run`: of this run alone.
    """
    if value is not None and value not in QUANTITIES:
        raise ValueError(f"'{value}' is none of {', '.join(QUANTITIES)}")
    stages = [one for one in analysis.summary().stages if run in (None, one.run)]
    heat = heat_of(stages, value, most=max((len(one.lines) for one in stages), default=0))
    if heat is None:
        figure, (axes,) = figure_of()
        titled(axes, "Stages by rank")
        return nothing(figure, axes, "no run has several ranks with stages")
    figure, (axes,) = figure_of(size=(8.0, min(1.4 + 0.5 * len(heat.rows), 12.0)))
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)
    absent = float("nan")
    rows = [[absent if cell is None else cell for cell in row] for row in heat.rows]
    image = axes.imshow(rows, cmap="RdBu_r", vmin=-_FULL_PCT, vmax=_FULL_PCT, aspect="auto")
    for y, row in enumerate(heat.rows):
        for x, cell in enumerate(row):
            strong = cell is not None and abs(cell) > _FULL_PCT * 0.6
            axes.text(x, y, heat_cell(cell), ha="center", va="center", color="white" if strong else "black")
    axes.set_xticks(range(len(heat.columns)), list(map(for_plot, heat.columns)))
    axes.set_yticks(range(len(heat.names)), list(map(for_plot, heat.names)))
    axes.set(xlabel="rank")
    titled(axes, f"{heat.title[:1].upper()}{heat.title[1:]}")
    figure.colorbar(image, ax=axes, label="percent", pad=0.02)
    return figure
