"""Figures of what people would rather look at than read; needs matplotlib (``pip install 'dsprof[notebook]'``).

Each function takes an `Analysis`, or any mapping of the tables' names to DataFrames, and returns a matplotlib figure:
the last line of a notebook's cell shows it, ``figure.savefig("steps.png")`` or ``.svg`` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from dsprof.answers.steps import drift_is_told
from dsprof.measures.causes import CAUSES
from dsprof.show.by_rank import QUANTITIES
from dsprof.show.reports import ReportsSummary, heat_cell, heat_of
from dsprof.show.safe import for_plot
from dsprof.words import NO_STAGE, OUTSIDE_CUDA

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Tables = Mapping[str, pd.DataFrame]


class Ranked(Protocol):
    """What knows its ranks: an analysis of several reports."""

    def summary(self) -> ReportsSummary:
        """What is shown of it."""


#: Width and height in inches.
_SIZE = (8.0, 4.0)
#: With more prefills and decodes than this, `idle_causes` draws a mean for each stage.
MOST_BARS = 12
#: With more than this, `step_latency` draws all in one colour: a legend would say nothing.
MOST_LINES = 6
#: What is shorter than this part of the longest bar cannot be seen in it.
_VISIBLE = 0.002
_NS_PER_MS = 1e6
# Paul Tol's schemes "bright" and "muted", which stay apart for colour-blind readers.
_COLOURS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
_GREY = "#777777"
_BUSY, _WAITING = "#332288", "#AA7744"
_STACKED = ("#332288", "#88CCEE", "#44AA99", "#DDCC77", "#CC6677", "#882255", "#117733", "#999933", "#AA4499")


def step_latency(analysis: Tables) -> Figure:
    """Latency of each step on the host (solid) and its GPU busy time (dotted), in ms, over the step's number.

    A line for each decode of `step_trace`; the gap between its two lines is what the GPU did not work.
    """
    from matplotlib.ticker import MaxNLocator

    steps = analysis["step_trace"]
    steps = _with_work(steps[steps["step"].notna() & steps["engine"].isna()])
    figure, axes = _figure()
    axes.set(title="Latency of each step", xlabel="step", ylabel="time (ms)")
    if steps.empty:
        return _nothing(figure, axes, "no steps in this report: name them with step=")
    lines = list(steps.groupby(["stage", "instance"], observed=True, dropna=False, sort=False))
    many = len(lines) > MOST_LINES
    for position, ((stage, instance), rows) in enumerate(lines):
        number = rows["step"].to_numpy(float)
        name = f"{for_plot(str(stage))} {instance}".removesuffix(" <NA>").removesuffix(" nan")
        label = (f"{len(lines)} decodes" if position == 0 else "_") if many else name
        style: dict[str, Any] = {"color": _COLOURS[0 if many else position], "alpha": 0.4 if many else 1.0}
        axes.plot(number, _ms(rows["duration_ns"]), "-o", markersize=3, label=label, **style)
        axes.plot(number, _ms(rows["gpu_work_ns"]), ":.", markersize=3, label="_", **style)
    axes.plot([], [], ":.", markersize=3, color=_GREY, label="GPU busy")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _with_work(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the time in which the GPU was busy and did not wait for other ranks."""
    return rows.assign(gpu_work_ns=rows["gpu_busy_ns"] - rows["wait_ns"].fillna(0))


def step_drift(analysis: Tables) -> Figure:
    """Steady steps over the tokens of context: time on the host above, GPU busy time below, in ms, with their slopes.

    A colour for each decode of `step_trace`, crosses for outliers, which the slopes of `step_sum` leave out. A slope of
    less than two standard errors cannot be told from none, and is not drawn.
    """
    steps = analysis["step_trace"]
    steps = _with_work(steps[steps["step"].notna() & steps["context_tokens"].notna() & steps["steady"]])
    figure, all_axes = _figures(2)
    if steps.empty:
        for axes in all_axes[1:]:
            axes.remove()
        all_axes[0].set(title="Steps by their context")
        return _nothing(figure, all_axes[0], "no steps of known context in this report")
    for axes, (stem, word) in zip(all_axes, (("duration", "host"), ("gpu_work", "GPU busy")), strict=True):
        whole = analysis["step_sum"]
        whole = whole[whole["instance"].isna() & (whole["stage"] == steps["stage"].iloc[0])].iloc[0]
        slope, error = (whole[f"{stem}_drift{part}_ns_per_token"] for part in ("", "_error"))
        contexts = steps["context_tokens"]
        told = drift_is_told(slope, error, contexts.min(), contexts.max())
        axes.set(ylabel=f"{word} (ms)")
        axes.set_title(
            _slope_in_words(slope, error) if told else "no drift that can be told", fontsize="medium", loc="right"
        )
        for position, (_, rows) in enumerate(steps.groupby(["stage", "instance"], observed=True, sort=False)):
            colour = _COLOURS[position % len(_COLOURS)]
            context, times = rows["context_tokens"].to_numpy(float), _ms(rows[f"{stem}_ns"]).to_numpy()
            out = rows["outlier"].to_numpy(bool)
            axes.plot(context[~out], times[~out], "o", markersize=3, color=colour)
            axes.plot(context[out], times[out], "x", color=colour)
            if told:
                middle = context[~out].mean()
                axes.plot(context, times[~out].mean() + slope / _NS_PER_MS * (context - middle), color=colour)
    if steps["outlier"].any():
        all_axes[0].plot([], [], "x", color=_GREY, label="outlier")
        figure.legend(loc="outside right upper", frameon=False)
    all_axes[0].set_title("Steps by their context", loc="left")
    all_axes[-1].set(xlabel="tokens of context")
    return figure


def engine_steps(analysis: Tables) -> Figure:
    """Time of each step of a serving engine in ms, until the next one began, over the tokens scheduled in it, by mode.

    Pauses, in which the engine waited for requests, are left out; both axes are logarithmic.
    """
    steps = _of_engine(analysis)
    steps = steps[steps["interval_ns"].notna() & ~steps["pause"]]
    tokens = _scheduled(steps)
    figure, axes = _figure()
    axes.set(title="Steps of the engine", xlabel="tokens scheduled in the step", ylabel="time (ms)")
    if not (tokens > 0).any():
        return _nothing(figure, axes, "no step of an engine with tokens in its name in this report")
    for position, mode in enumerate(dict.fromkeys(map(str, steps["mode"].cat.categories))):
        rows = (steps["mode"] == mode) & (tokens > 0)
        if rows.any():
            style: dict[str, Any] = {"color": _COLOURS[position % len(_COLOURS)], "alpha": 0.5, "markersize": 3}
            axes.plot(tokens[rows], _ms(steps["interval_ns"])[rows], "o", label=for_plot(mode), **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def engine_batch(analysis: Tables) -> Figure:
    """Requests in each step of a serving engine over time in s: those that generate, and above them those in prefill.

    Of the thread that has most steps of an engine.
    """
    steps = _of_engine(analysis)
    figure, axes = _figure()
    axes.set(title="Requests in each step", xlabel="time since the first step (s)", ylabel="requests")
    steps = steps[steps["generation_requests"].notna() & steps["context_requests"].notna()]
    if steps.empty:
        return _nothing(figure, axes, "no step of an engine with requests in its name in this report")
    threads = steps.groupby(["pid", "tid"], sort=False)
    steps = max((rows for _, rows in threads), key=len)
    begin = steps["start_ns"].to_numpy(float)
    since = (begin - begin.min()) / 1e9
    kinds = [steps[f"{kind}_requests"].to_numpy(float) for kind in ("generation", "context")]
    axes.stackplot(since, *kinds, step="post", labels=("generate", "prefill"), colors=_COLOURS[:2], alpha=0.8)
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _of_engine(analysis: Tables) -> pd.DataFrame:
    """The steps of serving engines."""
    steps = analysis["step_trace"]
    return steps[steps["engine"].notna()]


def _scheduled(steps: pd.DataFrame) -> Any:
    """Tokens that are scheduled in each step, for generation at least one a request; NaN where they are not known."""
    columns = ("context_tokens_in_step", "generation_tokens", "generation_requests")
    context, generation, least = (steps[column].astype("Float64").to_numpy(float, na_value=float("nan"))
                                  for column in columns)  # fmt: skip
    return context + [more if more == more else one for more, one in zip(generation, least, strict=True)]


def _slope_in_words(slope: float, error: float) -> str:
    """Microseconds per thousand tokens: the same digits as nanoseconds per token."""
    return f"{slope:+.0f} ± {error:.0f} us per 1000 tokens"


def host_time(analysis: Tables, most: int = 6) -> Figure:
    """What the host thread did in each stage, in percent of its time there, from `stage_api_sum`: stacked by CUDA call.

    The `most` calls with the greatest share in any stage have colours of their own; time outside of CUDA is grey.
    """
    calls = analysis["stage_api_sum"]
    shares = calls[calls["host_ns"].notna()].pivot_table(
        index="api_name", columns="stage", values="host_pct", aggfunc="sum", observed=True, fill_value=0.0, sort=False
    )
    shares.index, shares.columns = shares.index.astype(str), shares.columns.astype(str)
    figure, axes = _figure()
    axes.set(title="The host's time by CUDA call", xlabel="share of the stage's time on the host (%)")
    if shares.empty:
        return _nothing(figure, axes, "no stage in this report: name its ranges with stages=")
    outside = shares.loc[[OUTSIDE_CUDA]]
    shares = shares.drop(index=OUTSIDE_CUDA)
    shares = shares.loc[shares.max(axis=1).sort_values(ascending=False, kind="stable").index]
    named = enumerate(shares.index[:most])
    parts = [(name, shares.loc[name], _STACKED[position % len(_STACKED)]) for position, name in named]
    if len(shares) > most:
        parts.append((f"{len(shares) - most} more calls", shares.iloc[most:].sum(), "#BBBBBB"))
    left = 0.0 * outside.loc[OUTSIDE_CUDA]
    for name, widths, colour in [*parts, (OUTSIDE_CUDA, outside.loc[OUTSIDE_CUDA], "#EEEEEE")]:
        axes.barh(
            range(len(widths)), widths, left=left, label=for_plot(name), color=colour, edgecolor="white", linewidth=0.3
        )
        left = left + widths
    axes.set_yticks(range(len(shares.columns)), list(map(for_plot, shares.columns)))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def idle_causes(analysis: Tables) -> Figure:
    """Wall time in ms of each prefill and decode of `stage_trace`: GPU busy, waiting, and idle by cause, stacked.

    The legend leaves out what is too small to be seen. With more than `MOST_BARS` bars, each stage has one: its mean.
    """
    parts = [("gpu_work_ns", "GPU busy", _BUSY), ("wait_ns", "waiting for ranks", _WAITING)]
    parts += [(f"idle_{cause.name}_ns", cause.short, cause.colour) for cause in CAUSES.values()]
    columns = [column for column, _, _ in parts]
    trace = analysis["stage_trace"]
    trace = _with_work(trace.assign(wait_ns=trace["wait_ns"].fillna(0)))
    figure, axes = _figure()
    axes.set(title="Where the wall time went", xlabel="time (ms)")
    if trace.empty:
        return _nothing(figure, axes, "no stage in this report: name its ranges with stages=")
    if len(trace) > MOST_BARS:
        groups = trace.groupby("stage", observed=True, sort=False)
        labels = [f"{for_plot(str(stage))}\nmean of {len(rows)}" for stage, rows in groups]
        bars = groups[columns].mean()
    else:
        trace = trace.sort_values("start_ns")
        labels = [
            f"{for_plot(stage)} {instance}" for stage, instance in zip(trace["stage"], trace["instance"], strict=True)
        ]
        bars = trace[columns]
    left = 0.0 * _ms(bars["gpu_work_ns"])
    visible = _VISIBLE * _ms(bars.sum(axis=1)).max()
    for column, short, colour in parts:
        widths = _ms(bars[column])
        style: dict[str, Any] = {"color": colour, "edgecolor": "white", "linewidth": 0.3}
        axes.barh(range(len(bars)), widths, left=left, label=short if widths.max() > visible else "_", **style)
        left = left + widths
    axes.set_yticks(range(len(bars)), labels)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def family_bars(analysis: Tables, most: int = 8) -> Figure:
    """Share of each stage's kernel time in percent by kernel family, from `stage_family_sum`.

    The `most` families with the greatest share in any stage have bars; the last bars sum up the others.
    """
    shares = analysis["stage_family_sum"].pivot_table(
        index="family", columns="stage", values="share_pct", aggfunc="sum", observed=True, fill_value=0.0, sort=False
    )
    shares = shares.drop(columns=NO_STAGE, errors="ignore")
    shares.index, shares.columns = shares.index.astype(str), shares.columns.astype(str)
    shares = shares[shares.max(axis=1) > 0]
    figure, axes = _figure()
    axes.set(title="Kernel time by family", xlabel="share of the stage's kernel time (%)")
    if shares.empty:
        return _nothing(figure, axes, "no kernels in a stage of this report")
    shares = shares.loc[shares.max(axis=1).sort_values(ascending=False, kind="stable").index]
    if len(shares) > most:
        rest = shares.iloc[most:]
        shares = shares.iloc[:most].copy()
        shares.loc[f"{len(rest)} more"] = rest.sum()
    height = 0.8 / len(shares.columns)
    for position, stage in enumerate(shares.columns):
        middle = [row + (position - (len(shares.columns) - 1) / 2) * height for row in range(len(shares))]
        axes.barh(middle, shares[stage], height, color=_COLOURS[position % len(_COLOURS)], label=for_plot(stage))
    axes.set_yticks(range(len(shares)), list(map(for_plot, shares.index)))
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


#: Percent from the median rank at which the colours of `rank_heatmap` are full.
_FULL_PCT = 25.0


def rank_heatmap(analysis: Ranked, value: str | None = None, run: str | None = None) -> Figure:
    """How far each rank is from the median rank in each stage, in percent: as a colour and a number.

    `analysis`: of several reports (`dsprof.analyze_many`). `value`: ``"own_ns"`` (wall time without waiting for other
    ranks), ``"wall_ns"``, ``"host_ns"``, ``"compute_ns"`` or ``"collective_ns"``; unless given, the first where waiting
    is known, else the second. `run`: of this run alone.
    """
    if value is not None and value not in QUANTITIES:
        raise ValueError(f"'{value}' is none of {', '.join(QUANTITIES)}")
    stages = [one for one in analysis.summary().stages if run in (None, one.run)]
    figure, axes = _figure()
    axes.grid(visible=False)
    heat = heat_of(stages, value, most=max((len(one.lines) for one in stages), default=0))
    if heat is None:
        axes.set(title="Stages by rank")
        return _nothing(figure, axes, "no run has several ranks with stages")
    nothing = float("nan")
    rows = [[nothing if cell is None else cell for cell in row] for row in heat.rows]
    image = axes.imshow(rows, cmap="RdBu_r", vmin=-_FULL_PCT, vmax=_FULL_PCT, aspect="auto")
    for y, row in enumerate(heat.rows):
        for x, cell in enumerate(row):
            strong = cell is not None and abs(cell) > _FULL_PCT * 0.6
            axes.text(x, y, heat_cell(cell), ha="center", va="center", color="white" if strong else "black")
    axes.set_xticks(range(len(heat.columns)), list(map(for_plot, heat.columns)))
    axes.set_yticks(range(len(heat.names)), list(map(for_plot, heat.names)))
    axes.set(title=f"{heat.title[:1].upper()}{heat.title[1:]}", xlabel="rank")
    figure.colorbar(image, ax=axes, label="% from the median rank")
    return figure


def _ms(column: pd.Series[int]) -> pd.Series[float]:
    """Nanoseconds as milliseconds, without pandas' missing values."""
    return column.astype("Float64").astype(float) / _NS_PER_MS


def _figure() -> tuple[Figure, Axes]:
    """An empty figure that pyplot does not keep: it is shown once, where it is the value of a cell."""
    figure, (axes,) = _figures(1)
    return figure, axes


def _figures(rows: int) -> tuple[Figure, list[Axes]]:
    """The same with several axes above each other that share what is below them."""
    from matplotlib import pyplot as plt

    figure, found = plt.subplots(rows, figsize=_SIZE, layout="constrained", sharex=True, squeeze=False)
    plt.close(figure)
    for axes in found[:, 0]:
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(found[:, 0])


def _nothing(figure: Figure, axes: Axes, sentence: str) -> Figure:
    axes.text(0.5, 0.5, sentence, ha="center", va="center", transform=axes.transAxes)
    return figure
