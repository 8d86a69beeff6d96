"""What figures have in common: axes, scales and what is off them, stacked bars, colours, whose something is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dsprof.page import colours
from dsprof.show import units
from dsprof.show.safe import for_plot

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Tables = Mapping[str, pd.DataFrame]

#: Width and height in inches.
SIZE = (8.0, 4.0)
GREY = "#777777"
#: So many numbers are written beside marks of what is off a scale, the greatest.
_MOST_NUMBERS = 4
#: A part of a bar has its percent written in it from so much of the axis on.
_WRITTEN = 0.06


def figure_of(rows: int = 1, size: tuple[float, float] = SIZE) -> tuple[Figure, list[Axes]]:
    """Axes above each other that share what is below them, in a figure that pyplot does not keep.

    So it is shown once, where it is the value of a cell.
    """
    from matplotlib import pyplot as plt

    figure, found = plt.subplots(rows, figsize=size, layout="constrained", sharex=True, squeeze=False)
    plt.close(figure)
    for axes in found[:, 0]:
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(found[:, 0])


def titled(axes: Axes, title: str, note: str = "") -> None:
    """A title, and below it in smaller letters what must be known of the figure."""
    axes.set_title(title, loc="left", pad=20 if title and note else None)
    if note:
        axes.annotate(note, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", fontsize="small",
                      color="#444444")  # fmt: skip


def legend(figure: Figure) -> None:
    """The legend, to the right of all axes."""
    if any(axes.get_legend_handles_labels()[0] for axes in figure.axes):
        figure.legend(loc="outside right upper", frameon=False)


def nothing(figure: Figure, axes: Axes, sentence: str) -> Figure:
    """A figure with a sentence alone."""
    axes.grid(visible=False)
    axes.set(xticks=[], yticks=[])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.text(0.5, 0.5, sentence, ha="center", va="center", transform=axes.transAxes)
    return figure


# -- units and scales ------------------------------------------------------------------------------------------


def unit_of(top_ns: float) -> tuple[float, str]:
    """The unit in which times up to `top_ns` are told: its nanoseconds, and its name."""
    return next((size, name) for size, name in ((1e9, "s"), (1e6, "ms"), (1e3, "us")) if top_ns >= size or size == 1e3)


def numbers(column: pd.Series[Any]) -> Any:
    """A column as floats, NaN where it has no value; shape ``(rows,)``."""
    return column.astype("Float64").to_numpy(float, na_value=float("nan"))


def off_scale(times: Any, steady: pd.Series[bool], top: float) -> str:
    """What takes longer than `top`, in words; empty if nothing does."""
    above = times > top
    if not above.any():
        return ""
    warm = ~steady.to_numpy(bool)[above]
    kind = " (warm-up)" if warm.all() else "" if warm.any() else " (outlier)"
    return f"{above.sum()} off the scale{kind}, up to {units.time(times[above].max())}"


def mark_above(axes: Axes, points: Iterable[tuple[float, float, str]]) -> None:
    """Marks at the upper edge for points above it, given as place, time in ns and colour; the greatest with numbers."""
    edge = axes.get_xaxis_transform()
    ordered = sorted(points, key=lambda point: -point[1])
    for place, _, colour in ordered:
        axes.plot([place], [1.0], "^", markersize=6, color=colour, transform=edge, clip_on=False, label="_")
    shown, ends = 0, list[float]()
    left, right = axes.get_xlim()
    for place, time, colour in ordered:
        if shown < _MOST_NUMBERS and all(abs(place - other) > 0.14 * (right - left) for other in ends):
            axes.annotate(units.time(time), (place, 1.0), (6, -3), xycoords=edge, textcoords="offset points",
                          fontsize="small", color=colour, va="top")  # fmt: skip
            shown, ends = shown + 1, [*ends, place]


# -- bars ------------------------------------------------------------------------------------------------------


def stacked(axes: Axes, labels: Sequence[str], parts: Iterable[tuple[str, Any, str]]) -> None:
    """Horizontal bars from above to below, of parts that each have a name, a width in every bar, and a colour.

    A part without a name is in no legend.
    """
    left: Any = 0.0
    drawn = []
    for name, widths, colour in parts:
        bars = axes.barh(
            range(len(labels)), widths, left=left, label=for_plot(name) if name else "_", color=colour,
            edgecolor="white", linewidth=0.5,
        )  # fmt: skip
        left = left + widths
        drawn.append((bars, colour))
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def write_percent(axes: Axes, whole: Sequence[float]) -> None:
    """Into each part of a bar that has room for it, how many percent of its bar it is; after the scale is set."""
    _, right = axes.get_xlim()
    for bars in axes.containers:
        for bar, all_of in zip(bars, whole, strict=True):
            begin, end = bar.get_x(), min(bar.get_x() + bar.get_width(), right)
            if end - begin >= _WRITTEN * right and bar.get_x() + bar.get_width() <= right * 1.0001:
                axes.text((begin + end) / 2, bar.get_y() + bar.get_height() / 2,
                          f"{100 * bar.get_width() / all_of:.0f} %", ha="center", va="center", fontsize="small",
                          color=_on(bar.get_facecolor()))  # fmt: skip


def _on(colour: tuple[float, ...]) -> str:
    """White or black: what can be read on a colour."""
    red, green, blue = (one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in colour[:3])
    return "white" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.2 else "black"


# -- colours ---------------------------------------------------------------------------------------------------


def stage_colours(analysis: Tables, stages: Iterable[str]) -> dict[str, str]:
    """The colour of each stage, as the HTML report has it."""
    ordered = list(
        dict.fromkeys([*(map(str, analysis["stage_sum"]["stage"]) if "stage_sum" in analysis else ()), *stages])
    )
    return {stage: colours.value(colours.of_stage(stage, ordered)) for stage in stages}


def lighter(colour: str, times: int) -> str:
    """The colour mixed with white, more so the more often."""
    share = 0.72**times
    channels = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(255 - share * (255 - one)):02x}" for one in channels)


# -- whose something is ----------------------------------------------------------------------------------------


def whose(rows: pd.DataFrame, analysis: Tables) -> pd.Series[str]:
    """Of which rank, report or process each row is, in words; empty where all are of one."""
    if "report" in rows:
        run, report = _told(rows["run"]), _told(rows["report"])
        rank = rows["rank"].map(lambda number: f"rank {number}", na_action="ignore").astype(object)
        return (run + " " + rank.where(rows["rank"].notna(), report).astype(str)).str.strip()
    ranks = _ranks(analysis)
    return _told(rows["pid"].map(lambda pid: f"rank {ranks[pid]}" if pid in ranks else f"process {pid}"))


def _ranks(analysis: Tables) -> dict[int, int]:
    """By process, which rank it is; empty where no ranks are told apart."""
    if "rank_sum" not in analysis:
        return {}
    table = analysis["rank_sum"]
    return dict(zip(table["pid"], table["rank"], strict=True))


def _told(column: pd.Series[Any]) -> pd.Series[str]:
    """A column as text, empty where it says the same everywhere."""
    text = column.astype(str)
    return text if len(text.unique()) > 1 else text.str.slice(0, 0)
