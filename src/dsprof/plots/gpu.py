"""What the GPU did, whatever the ranges of a report say: how busy it was over time, and with what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from dsprof.arrays import Ints, united
from dsprof.page import colours
from dsprof.plots._figure import figure_of, legend, nothing, titled, unit_of, whose
from dsprof.rules.names import short_kernel_name
from dsprof.show import units
from dsprof.show.safe import for_plot

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from matplotlib.figure import Figure

    Tables = Mapping[str, pd.DataFrame]

#: The figure of `gpu_over_time` has so many bins, and so many GPUs, those that ran longest.
BINS, MOST_GPUS = 200, 8
#: The family of copies and sets, which are no kernels.
_MEMORY = "memory"
_COLUMNS = ("start_ns", "end_ns", "device_id", "run", "rank", "report")
#: So many families have colours of their own.
_MOST = 7


@runtime_checkable
class Analysed(Protocol):
    """What can read some columns of a table."""

    def rows_where(self, *asked: tuple[str, Sequence[str], Sequence[Any]]) -> list[pa.Table]:
        """Those columns, of the rows for which all conditions hold."""


def gpu_over_time(analysis: Tables, most: int = _MOST) -> Figure:
    """How busy each GPU was, in percent of each of 200 bins, over the time of the capture in s, by kernel family.

    The height is the time in which any operation ran (`kern_trace`, `mem_trace`), each instant counted once; the
    families share it as they share the sum of the durations in the bin. The `most` families that take longest have
    colours of their own.
    """
    return _over_time(_operations(analysis), most)


def _over_time(ran: pd.DataFrame, most: int) -> Figure:
    if ran.empty:
        figure, (axes,) = figure_of()
        titled(axes, "GPU busy over time")
        return nothing(figure, axes, "no kernel and no copy in this report")
    gpus = _gpus(ran)
    totals = ran.groupby("family", sort=False)["duration_ns"].sum().sort_values(ascending=False, kind="stable")
    named = list(totals.index[:most])
    figure, all_axes = figure_of(len(gpus), (8.0, 4.0 if len(gpus) == 1 else min(1.2 + 1.6 * len(gpus), 12.0)))
    begin = int(ran["start_ns"].min())
    edges = np.linspace(begin, max(int(ran["end_ns"].max()), begin + BINS), BINS + 1).astype(np.int64)
    size, unit = unit_of(float(edges[-1] - edges[0]))
    left_over = [f"{len(totals) - most} more"] if len(totals) > most else []
    labels, shades = [*map(for_plot, named), *left_over], [*map(_of_family, named), colours.value(colours.QUIET)]
    for axes, (gpu, rows) in zip(all_axes, gpus.items(), strict=True):
        heights = [np.append(one, one[-1:]) for one in _heights(rows, edges, named)[: len(labels)]]
        told = labels if axes is all_axes[0] else ()  # once for all of them
        axes.stackplot(edges / size, *heights, step="post", linewidth=0, labels=told, colors=shades)
        axes.set(ylim=(0, 100), xlim=(edges[0] / size, edges[-1] / size), ylabel=f"{for_plot(gpu)}\nbusy (%)")
    all_axes[-1].set_xlabel(f"time of the capture ({unit})")
    left_out = f"{ran['gpu'].nunique() - len(gpus)} more GPUs" if ran["gpu"].nunique() > len(gpus) else ""
    titled(all_axes[0], "GPU busy over time, by kernel family", left_out)
    legend(figure)
    return figure


def top_kernels(analysis: Tables, most: int = 10) -> Figure:
    """The kernels that take longest in the whole report, from `stage_kern_sum`: their time, coloured by family.

    Behind each bar stand its share of the time of all kernels, how many ran, and their mean duration.
    """
    kernels = analysis["stage_kern_sum"]
    figure, (axes,) = figure_of()
    if kernels.empty:
        titled(axes, "Kernels that take longest")
        return nothing(figure, axes, "no kernels in this report")
    sums = kernels.groupby(["kernel", "family"], observed=True, sort=False)[["total_ns", "instances"]].sum()
    whole, top = float(sums["total_ns"].sum()) or 1.0, sums.nlargest(most, "total_ns").reset_index()
    size, unit = unit_of(float(top["total_ns"].max()))
    longest = float(top["total_ns"].max() or 1) / size
    families = list(map(str, top["family"]))
    for place, (family, total, many) in enumerate(zip(families, top["total_ns"], top["instances"], strict=True)):
        label = for_plot(family) if family not in families[:place] else "_"
        axes.barh(place, total / size, color=_of_family(family), label=label)
        said = f" {100 * total / whole:.1f} %, {units.count(int(many))} x {units.time(total / many)}"
        axes.text(total / size, place, said, va="center", fontsize="small")
    names = [for_plot(short_kernel_name(str(name), 40)) for name in top["kernel"]]
    axes.set_yticks(range(len(top)), names, fontsize="small")
    axes.set_ylim(len(top) - 0.5, -0.5)
    axes.set_xlim(0, 1.8 * longest)
    axes.set_xlabel(f"time of all its launches ({unit})")
    axes.grid(visible=False, axis="y")
    titled(axes, "Kernels that take longest", f"of {units.count(len(sums))} in this report")
    legend(figure)
    return figure


def instead(analysis: Tables, title: str, sentence: str) -> Figure:
    """What the GPU did over time, under a sentence that says why; the sentence alone where it did nothing."""
    ran = _operations(analysis)
    if ran.empty:
        figure, (axes,) = figure_of()
        titled(axes, title)
        return nothing(figure, axes, sentence)
    figure = _over_time(ran, _MOST)
    figure.suptitle(f"{title}: {sentence}", fontsize="medium", x=0.01, ha="left")
    return figure


def _operations(analysis: Tables) -> pd.DataFrame:
    """Every kernel, copy and set: `start_ns`, `end_ns`, `duration_ns`, `family`, and `gpu`, which it ran on."""
    import pandas as pd

    found = [_taken(analysis, name) for name in ("kern_trace", "mem_trace") if name in analysis]
    ran = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["start_ns", "end_ns", "device_id"])
    if ran.empty:
        return ran
    ran["duration_ns"] = ran["end_ns"] - ran["start_ns"]
    named = whose(ran, analysis) if "report" in ran else pd.Series("", index=ran.index)
    several = ran.groupby(named)["device_id"].nunique().max() > 1
    device = "GPU " + ran["device_id"].astype(str)
    ran["gpu"] = device if not named.any() else (named + ", " + device if several else named)
    return ran


def _taken(analysis: Tables, name: str) -> pd.DataFrame:
    """What is drawn of a table of events; of an analysis, which may have many, no more than that is read."""
    if isinstance(analysis, Analysed):
        kernels = ["family"] if name == "kern_trace" else []
        (found,) = analysis.rows_where((name, ["start_ns", "end_ns", "device_id", *kernels], ()))
        rows: pd.DataFrame = found.to_pandas()
    else:
        rows = analysis[name]
    taken = rows[[column for column in _COLUMNS if column in rows]].copy()
    taken["family"] = rows["family"].astype(str) if "family" in rows else _MEMORY
    return taken


def _gpus(ran: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The operations by GPU, in the order of their names; of many those that ran longest."""
    longest = ran.groupby("gpu")["duration_ns"].sum().nlargest(MOST_GPUS).index
    return {gpu: ran[ran["gpu"] == gpu] for gpu in sorted(longest, key=_by_number)}


def _by_number(name: str) -> list[tuple[int, str]]:
    """Names with numbers in the order of these."""
    return [(int(word.strip(",")), "") if word.strip(",").isdecimal() else (-1, word) for word in name.split()]


def _heights(rows: pd.DataFrame, edges: Ints, named: Sequence[str]) -> list[Any]:
    """Of each family, and of all others at last: percent of each bin that it has of the time in which anything ran."""
    start, end, family = (rows[column].to_numpy() for column in ("start_ns", "end_ns", "family"))
    busy = _covered(*united(start, end))(edges)
    chosen = [family == one for one in named]
    chosen.append(~np.logical_or.reduce(chosen))
    times = [_covered(start[one], end[one])(edges) for one in chosen]
    whole = np.maximum(np.sum(times, axis=0), 1)
    return [100.0 * busy / np.maximum(np.diff(edges), 1) * one / whole for one in times]


def _covered(start: Ints, end: Ints) -> Callable[[Ints], Ints]:
    """How long intervals last within bins: the difference of how long all did until each of the bins' edges."""
    start, end = np.sort(start), np.sort(end)

    def since(moments: Ints, edges: Ints) -> Ints:
        """The sum of the time since each of the moments that an edge lies behind."""
        zero = edges[0]
        before = np.searchsorted(moments, edges)
        passed: Ints = before * (edges - zero) - np.append(0, np.cumsum(moments - zero))[before]
        return passed

    return lambda edges: np.diff(since(start, edges) - since(end, edges))


def _of_family(family: str) -> str:
    return colours.value(colours.of_family(family))
