"""Figures of steps, of decodes and of serving engines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dsprof.answers.steps import drift_is_told
from dsprof.page import colours
from dsprof.plots._figure import (
    GREY,
    figure_of,
    legend,
    mark_above,
    numbers,
    off_scale,
    stage_colours,
    titled,
    unit_of,
    whose,
)
from dsprof.plots.gpu import instead
from dsprof.show.safe import for_plot
from dsprof.show.scale import top_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Tables = Mapping[str, pd.DataFrame]

#: With more than this, `step_latency` draws all in one colour: a legend would say nothing.
MOST_LINES = 6
#: What tells the steps of one decode from those of another.
_DECODE = ("report", "pid", "stage", "instance")
_NO_STEPS = "no steps in this report, name them with step="


def step_latency(analysis: Tables) -> Figure:
    """Latency of each step on the host (solid) and its GPU busy time (dotted), over the step's number.

    A line for each decode of `step_trace`; the gap between its two lines is what the GPU did not work. Steps of serving
    engines, if there are no others, are dots coloured by mode. What dwarfs all else is marked at the upper edge.
    """
    steps = analysis["step_trace"]
    steps = _with_work(steps[steps["step"].notna()])
    decodes = steps[steps["engine"].isna()]
    if decodes.empty:
        engine = steps[steps["interval_ns"].notna() & ~steps["pause"]]
        return _engine_latency(analysis, engine) if len(engine) else instead(analysis, "Steps", _NO_STEPS)
    figure, (axes,) = figure_of()
    top = top_of(list(numbers(decodes["duration_ns"])), list(decodes["steady"])) or 1.0
    size, unit = unit_of(top)
    decodes = decodes.assign(whose=whose(decodes, analysis))
    lines = list(decodes.groupby(_keys(decodes), observed=True, dropna=False, sort=False))
    many = len(lines) > MOST_LINES
    above = []
    for position, (_, rows) in enumerate(lines):
        colour = colours.value(colours.STEPS[0 if many else position % len(colours.STEPS)])
        label = (f"{len(lines)} decodes" if position == 0 else "_") if many else _name(rows)
        style: dict[str, Any] = {"color": colour, "alpha": 0.4 if many else 1.0, "markersize": 3}
        step, took = numbers(rows["step"]), numbers(rows["duration_ns"])
        axes.plot(step, took / size, "-o", label=label, **style)
        axes.plot(step, numbers(rows["gpu_work_ns"]) / size, ":.", label="_", **style)
        above += [(*point, colour) for point in zip(step, took, strict=True) if point[1] > top]
    axes.plot([], [], ":.", markersize=3, color=GREY, label="GPU busy")
    _finish(axes, decodes, "duration_ns", top, "Latency of each step", above)
    axes.set(xlabel="step", ylabel=f"time ({unit})")
    legend(figure)
    return figure


def _engine_latency(analysis: Tables, steps: pd.DataFrame) -> Figure:
    """Steps of engines in their order, by mode."""
    figure, (axes,) = figure_of()
    top = top_of(list(numbers(steps["interval_ns"])), list(steps["steady"])) or 1.0
    size, unit = unit_of(top)
    above = []
    for mode, colour, rows in _by_mode(analysis, steps):
        step, took = numbers(rows["step"]), numbers(rows["interval_ns"])
        axes.plot(step, took / size, "o", markersize=3, color=colour, label=for_plot(mode))
        axes.plot(step, numbers(rows["gpu_work_ns"]) / size, ".", markersize=2, color=GREY, label="_")
        above += [(*point, colour) for point in zip(step, took, strict=True) if point[1] > top]
    axes.plot([], [], ".", markersize=3, color=GREY, label="GPU busy")
    _finish(axes, steps, "interval_ns", top, "Time of each step, until the next one", above)
    axes.set(xlabel="step of the engine", ylabel=f"time ({unit})")
    legend(figure)
    return figure


def _finish(axes: Axes, steps: pd.DataFrame, column: str, top: float, title: str, above: list[Any]) -> None:
    """Set the scale, mark what is off it and say so."""
    from matplotlib.ticker import MaxNLocator

    size, _ = unit_of(top)
    axes.set_ylim(0, 1.08 * top / size)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.autoscale_view(scaley=False)
    mark_above(axes, above)
    titled(axes, title, off_scale(numbers(steps[column]), steps["steady"], top))


def _with_work(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the time in which the GPU was busy and did not wait for other ranks."""
    return rows.assign(gpu_work_ns=rows["gpu_busy_ns"] - rows["wait_ns"].fillna(0))


def _keys(rows: pd.DataFrame) -> list[str]:
    return [column for column in _DECODE if column in rows]


def _name(rows: pd.DataFrame) -> str:
    """What a decode is called, by its first step."""
    first = rows.iloc[0]
    name = f"{for_plot(str(first['stage']))} {first['instance']}".removesuffix(" <NA>").removesuffix(" nan")
    return f"{name}, {for_plot(first['whose'])}" if first["whose"] else name


def step_drift(analysis: Tables) -> Figure:
    """Steady steps over the tokens of context: time on the host above, GPU busy time below, with their slopes.

    A colour for each decode of `step_trace`, crosses for outliers, which the slopes of `step_sum` leave out. A slope of
    less than two standard errors cannot be told from none, and is not drawn. Several ranks each have their own steps,
    and no common slope.
    """
    steps = analysis["step_trace"]
    steps = _with_work(steps[steps["step"].notna() & steps["context_tokens"].notna() & steps["steady"]])
    if steps.empty:
        return _without_context(analysis)
    steps = steps.assign(whose=whose(steps, analysis))
    decodes = [rows for _, rows in steps.groupby(_keys(steps), observed=True, sort=False)]
    many = len(decodes) > MOST_LINES
    figure, all_axes = figure_of(2)
    for axes, (stem, word) in zip(all_axes, (("duration", "host"), ("gpu_work", "GPU busy")), strict=True):
        times = numbers(steps[f"{stem}_ns"])
        top = top_of(list(times), [True] * len(times)) or 1.0
        size, unit = unit_of(top)
        slope, error = _slope(analysis, steps, stem)
        told = drift_is_told(slope, error, steps["context_tokens"].min(), steps["context_tokens"].max())
        said = _slope_in_words(slope, error) if told else "no drift that can be told"
        titled(
            axes,
            "Steps by their context" if stem == "duration" else "",
            "; ".join(filter(None, [said, off_scale(times, steps["steady"], top)])),
        )
        above = []
        for position, rows in enumerate(decodes):
            colour = colours.value(colours.STEPS[0 if many else position])
            label = _name(rows) if axes is all_axes[0] and not many else "_"
            context, took = numbers(rows["context_tokens"]), numbers(rows[f"{stem}_ns"])
            out = rows["outlier"].to_numpy(bool)
            seen = took <= top
            axes.plot(context[~out & seen], took[~out & seen] / size, "o", markersize=3, color=colour, label=label)
            axes.plot(context[out & seen], took[out & seen] / size, "x", color=colour)
            above += [(*point, colour) for point in zip(context[~seen], took[~seen], strict=True)]
            if told:
                line = took[~out].mean() + slope * (context - context[~out].mean())
                axes.plot(context, line / size, color=colour)
        mark_above(axes, above)
        axes.set_ylabel(f"{word} ({unit})")
    if steps["outlier"].any():
        all_axes[0].plot([], [], "x", color=GREY, label="outlier")
    legend(figure)
    all_axes[-1].set(xlabel="tokens of context")
    return figure


def _without_context(analysis: Tables) -> Figure:
    """What is shown of steps whose context is not known."""
    if analysis["step_trace"]["step"].notna().any():
        figure = step_latency(analysis)
        figure.suptitle("Steps by their context: not known in this report", fontsize="medium", x=0.01, ha="left")
        return figure
    return instead(analysis, "Steps by their context", _NO_STEPS)


def _slope(analysis: Tables, steps: pd.DataFrame, stem: str) -> tuple[float, float]:
    """The slope of the first stage, and its standard error, in ns per token; NaN where there is no common one."""
    whole = analysis["step_sum"]
    whole = whole[whole["instance"].isna() & (whole["stage"] == steps["stage"].iloc[0])]
    if len(whole) != 1:
        return float("nan"), float("nan")
    slope, error = (whole.iloc[0][f"{stem}_drift{part}_ns_per_token"] for part in ("", "_error"))
    return slope, error


def _slope_in_words(slope: float, error: float) -> str:
    """Microseconds per thousand tokens: the same digits as nanoseconds per token."""
    return f"{slope:+.0f} ± {error:.0f} us per 1000 tokens"


def engine_steps(analysis: Tables) -> Figure:
    """Time of each step of a serving engine, until the next one began, over the tokens scheduled in it, by mode.

    Pauses, in which the engine waited for requests, are left out; both axes are logarithmic. Warm-ups are hollow.
    """
    steps = _of_engine(analysis)
    steps = steps[steps["interval_ns"].notna() & ~steps["pause"]]
    steps = steps.assign(scheduled=_scheduled(steps))
    steps = steps[steps["scheduled"] > 0]
    if steps.empty:
        return instead(analysis, "Steps of the engine", "no step of an engine with tokens in its name in this report")
    figure, (axes,) = figure_of()
    size, unit = unit_of(float(steps["interval_ns"].median()))
    for mode, colour, rows in _by_mode(analysis, steps):
        tokens, took = numbers(rows["scheduled"]), numbers(rows["interval_ns"]) / size
        steady = rows["steady"].to_numpy(bool)
        style: dict[str, Any] = {"color": colour, "markersize": 4}
        axes.plot(tokens, took, "o", alpha=0.6, markevery=_places(steady), label=for_plot(mode), **style)
        if not steady.all():
            axes.plot(tokens, took, "o", fillstyle="none", markevery=_places(~steady), label="_", **style)
    if not steps["steady"].all():
        axes.plot([], [], "o", markersize=5, color=GREY, fillstyle="none", label="warm-up")
    axes.set(xlabel="tokens scheduled in the step", ylabel=f"time ({unit})", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    titled(axes, "Steps of the engine")
    legend(figure)
    return figure


def _places(chosen: Any) -> list[int]:
    return [place for place, one in enumerate(chosen) if one]


def engine_batch(analysis: Tables) -> Figure:
    """Requests in each step of a serving engine over time in s: those that generate, and above them those in prefill.

    Of the thread that has most steps of an engine.
    """
    steps = _of_engine(analysis)
    steps = steps[steps["generation_requests"].notna() & steps["context_requests"].notna()]
    if steps.empty:
        return instead(
            analysis, "Requests in each step", "no step of an engine with requests in its name in this report"
        )
    figure, (axes,) = figure_of()
    threads = list(steps.groupby([*(["report"] if "report" in steps else []), "pid", "tid"], observed=True, sort=False))
    steps = max((rows for _, rows in threads), key=len)
    begin = numbers(steps["start_ns"])
    kinds = [numbers(steps[f"{kind}_requests"]) for kind in ("generation", "context")]
    shades = stage_colours(analysis, ["decode", "prefill"])
    axes.stackplot(
        (begin - begin.min()) / 1e9, *kinds, step="post", labels=("generate", "prefill"), colors=shades.values()
    )
    axes.set(ylim=(0, None), xlabel="time since the first step (s)", ylabel="requests")
    titled(axes, "Requests in each step", f"of one of {len(threads)} threads" if len(threads) > 1 else "")
    legend(figure)
    return figure


def _by_mode(analysis: Tables, steps: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """The steps of each mode, with its name and colour."""
    modes = steps["mode"].astype(str)
    shades = stage_colours(analysis, list(dict.fromkeys(modes)))
    return [(mode, colour, steps[modes == mode]) for mode, colour in shades.items()]


def _of_engine(analysis: Tables) -> pd.DataFrame:
    """The steps of serving engines."""
    steps = analysis["step_trace"]
    return steps[steps["engine"].notna()]


def _scheduled(steps: pd.DataFrame) -> Any:
    """Tokens that are scheduled in each step, for generation at least one a request; NaN where they are not known."""
    columns = ("context_tokens_in_step", "generation_tokens", "generation_requests")
    context, generation, least = (numbers(steps[column]) for column in columns)
    return context + [more if more == more else one for more, one in zip(generation, least, strict=True)]
