"""Figures of stages: where their wall time went, what the host did, which families of kernels ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsprof.measures.causes import CAUSES
from dsprof.page import colours
from dsprof.plots._figure import (
    figure_of,
    legend,
    lighter,
    nothing,
    numbers,
    off_scale,
    stacked,
    titled,
    unit_of,
    whose,
    write_percent,
)
from dsprof.plots.gpu import instead
from dsprof.show import units
from dsprof.show.safe import for_plot
from dsprof.show.scale import top_of
from dsprof.words import NO_STAGE, OUTSIDE_CUDA

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Tables = Mapping[str, pd.DataFrame]

#: With more prefills and decodes than this, `idle_causes` draws a mean for each stage.
MOST_BARS = 12
#: What is shorter than this part of the longest bar cannot be seen in it.
_VISIBLE = 0.002
_NO_STAGE = "no stage in this report: name its ranges with stages="
#: What the whole report is called where it has no stages.
_WHOLE = "whole report"


def idle_causes(analysis: Tables) -> Figure:
    """Wall time of each prefill and decode of `stage_trace`: GPU works, waits for ranks, is idle by cause, stacked.

    With more than `MOST_BARS` bars each stage has one, of each rank or process: the mean of its steady instances. A bar
    that would make all others small is cut, and its number stands at the cut. The legend leaves out what is too small
    to be seen.
    """
    trace = analysis["stage_trace"]
    if trace.empty:
        return instead(analysis, "Where the wall time went", _NO_STAGE)
    bars = _bars(trace, analysis)
    parts = [("gpu_work_ns", "GPU works", colours.BUSY), ("wait_ns", "waiting for ranks", colours.WAITING)]
    parts += [(f"idle_{name}_ns", cause.short, colours.CAUSE[name]) for name, cause in CAUSES.items()]
    walls = numbers(bars["wall_ns"])
    top = max(
        top_of(list(numbers(of["wall_ns"])), list(of["steady"])) for _, of in bars.groupby("stage", observed=True)
    )
    top = top or 1.0  # where nothing takes any time
    size, unit = unit_of(top)
    figure, (axes,) = figure_of(size=(8.0, max(4.0, 1.2 + 0.4 * len(bars))))
    widths = {column: numbers(bars[column]) / size for column, _, _ in parts}
    stacked(axes, list(bars["label"]), (
        (short if widths[column].max() > _VISIBLE * top / size else "", widths[column], colours.value(colour))
        for column, short, colour in parts
    ))  # fmt: skip
    axes.set_xlim(0, 1.05 * top / size)
    axes.set_xlabel(f"time ({unit})")
    write_percent(axes, walls / size)
    _write_cuts(axes, [(place, wall) for place, wall in enumerate(walls) if wall > top])
    titled(axes, "Where the wall time went", off_scale(walls, bars["steady"], top))
    legend(figure)
    return figure


def _bars(trace: pd.DataFrame, analysis: Tables) -> pd.DataFrame:
    """A row for each bar: the times, `label`, `steady`; of many instances the means of the steady ones."""
    import pandas as pd

    wait = trace["wait_ns"].fillna(0)
    trace = trace.assign(wait_ns=wait, gpu_work_ns=trace["gpu_busy_ns"] - wait, whose=whose(trace, analysis))
    trace = trace[trace["wall_ns"].notna()].sort_values(["start_ns"], kind="stable")
    if len(trace) <= MOST_BARS:
        number = trace["instance"].astype(str)
        warm = trace["steady"].map({True: "", False: " (warm-up)"}).astype(str)
        stage = trace["stage"].astype(str).map(for_plot)
        trace["label"] = (stage + " " + number + warm + "\n" + trace["whose"].map(for_plot)).str.strip()
        return trace
    times = ["wall_ns", "gpu_work_ns", "wait_ns", *(f"idle_{name}_ns" for name in CAUSES)]
    rows = []
    for name, owner in dict.fromkeys(zip(trace["stage"].astype(str), trace["whose"], strict=True)):
        members = trace[(trace["stage"] == name) & (trace["whose"] == owner)]
        kept = members[members["steady"]] if members["steady"].any() else members
        left = f", {len(members) - len(kept)} warm-up" if len(kept) < len(members) else ""
        said = f"{for_plot(name)}{f', {for_plot(owner)}' if owner else ''}\nmean of {len(kept)}{left}"
        rows.append(
            {"stage": name, **kept[times].astype(float).mean(), "label": said, "steady": bool(kept["steady"].any())}
        )
    return pd.DataFrame(rows)


def _write_cuts(axes: Axes, cuts: list[tuple[int, float]]) -> None:
    """At the right edge, how long a bar is that is cut there."""
    for place, wall in cuts:
        frame = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "#555555"}
        axes.text(0.995, place, f"{units.time(wall)} ▶", transform=axes.get_yaxis_transform(), ha="right", va="center",
                  fontsize="small", bbox=frame)  # fmt: skip


def host_time(analysis: Tables, most: int = 6) -> Figure:
    """What the host thread did in each stage, in percent of its time there, from `stage_api_sum`: stacked by CUDA call.

    The `most` calls with the greatest share in any stage are apart, coloured by the cause of idle time that they are.
    Without stages: the time in the calls of the whole report, in percent of the time in all.
    """
    calls = analysis["stage_api_sum"]
    staged = calls[calls["host_ns"].notna()]
    figure, (axes,) = figure_of()
    if staged.empty and calls.empty:
        titled(axes, "The host's time by CUDA call")
        return nothing(figure, axes, "no CUDA call in this report")
    column, said = ("host_ns", "the stage's time on the host") if len(staged) else ("total_ns", "the time in all calls")
    shares = _shares(analysis, staged if len(staged) else calls.assign(stage=_WHOLE), "api_name", column)
    outside = shares.loc[[OUTSIDE_CUDA]].sum() if OUTSIDE_CUDA in shares.index else 0.0 * shares.sum()
    shares = shares.drop(index=OUTSIDE_CUDA, errors="ignore")
    shares = shares.loc[shares.max(axis=1).sort_values(ascending=False, kind="stable").index]
    parts = _coloured(shares.iloc[:most])
    if len(shares) > most:
        parts.append(
            (f"{len(shares) - most} more calls", shares.iloc[most:].sum().to_numpy(), colours.value(colours.QUIET))
        )
    if outside.any():
        parts.append((OUTSIDE_CUDA, outside.to_numpy(), colours.value(colours.CAUSE["host"])))
    stacked(axes, list(map(for_plot, shares.columns)), parts)
    axes.set(xlim=(0, 100), xlabel=f"share of {said} (%)")
    write_percent(axes, [100.0] * len(shares.columns))
    titled(axes, "The host's time by CUDA call", "" if len(staged) else _NO_STAGE)
    legend(figure)
    return figure


def _coloured(shares: pd.DataFrame) -> list[tuple[str, Any, str]]:
    """CUDA calls in their order, those of one cause together, in lighter and lighter shades of its colour."""
    causes = list(map(colours.of_call, shares.index))
    parts = []
    for cause in dict.fromkeys(causes):
        names = [name for name, one in zip(shares.index, causes, strict=True) if one == cause]
        parts += [
            (name, shares.loc[name].to_numpy(), lighter(colours.value(cause), at)) for at, name in enumerate(names)
        ]
    return parts


def family_bars(analysis: Tables, most: int = 8) -> Figure:
    """Share of each stage's kernel time in percent by kernel family, from `stage_family_sum`, stacked.

    The `most` families with the greatest share in any stage have parts of their own; the last part sums up the others.
    Without stages: of the whole report.
    """
    sums = analysis["stage_family_sum"]
    staged = sums[sums["stage"].astype(str) != NO_STAGE]
    figure, (axes,) = figure_of()
    if sums.empty:
        titled(axes, "Kernel time by family")
        return nothing(figure, axes, "no kernels in this report")
    shares = _shares(analysis, staged if len(staged) else sums.assign(stage=_WHOLE), "family", "total_ns")
    shares = shares[shares.max(axis=1) > 0]
    shares = shares.loc[shares.max(axis=1).sort_values(ascending=False, kind="stable").index]
    parts = [(family, shares.loc[family].to_numpy(), colours.value(colours.of_family(family)))
             for family in shares.index[:most]]  # fmt: skip
    if len(shares) > most:
        parts.append((f"{len(shares) - most} more", shares.iloc[most:].sum().to_numpy(), colours.value(colours.QUIET)))
    stacked(axes, list(map(for_plot, shares.columns)), parts)
    axes.set(
        xlim=(0, 100), xlabel="share of the stage's kernel time (%)" if len(staged) else "share of the kernel time (%)"
    )
    write_percent(axes, [100.0] * len(shares.columns))
    titled(axes, "Kernel time by family", "" if len(staged) else _NO_STAGE)
    legend(figure)
    return figure


def _shares(analysis: Tables, rows: pd.DataFrame, index: str, column: str) -> pd.DataFrame:
    """Percent of a column's sum in each stage, of each rank where there are several; a row for each `index`."""
    named = rows["stage"].astype(str)
    if "report" in rows:
        named = (named + ", " + whose(rows, analysis)).str.removesuffix(", ")
    table = rows.assign(**{column: numbers(rows[column])}).pivot_table(
        index=rows[index].astype(str), columns=named, values=column, aggfunc="sum", fill_value=0.0, sort=False
    )
    table.columns = list(map(str, table.columns))
    return table.div(table.sum(axis=0), axis=1).fillna(0.0).mul(100.0)
