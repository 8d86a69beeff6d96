"""Every step in a plot: how long it took, what the GPU worked of it, which stand out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import median
from typing import Any, NamedTuple

from dsprof.measures.causes import CAUSES
from dsprof.page import colours
from dsprof.page.html import Html, element, joined, short
from dsprof.page.parts import Section, cols, figure, folded, legend, scrolling, table_of
from dsprof.page.source import Source
from dsprof.page.svg import BOTTOM, LEFT, TOP, WIDTH, Pen, Scale, drawing, line, path, time_axis, words
from dsprof.show import units
from dsprof.show.scale import top_of

_HOW = (
    "A dot is a step, from its begin to that of the next one, one request after another; the line below is the time "
    "in which the GPU worked. The gap between them is what the GPU waited. A grey dot is of a warm-up, a red one an "
    "outlier: out of its decode's steps by far and by a fifth at least. What lies above the scale has a mark at its "
    "upper edge."
)
_SUM = cols({
    "stage": "stage", "request": "request", "instance": "#", "batch_min": "batch from", "batch_max": "to",
    "steps": "steps", "warm_up_steps": "warm-up", "outliers": "outliers", "duration_p50_ns": "p50",
    "duration_p90_ns": "p90", "duration_p99_ns": "p99", "duration_max_ns": "max", "gpu_work_p50_ns": "GPU p50",
    "gpu_work_p99_ns": "GPU p99", "launches_p50": "launches", "kernels_p50": "kernels",
})  # fmt: skip
_OUTLIERS = cols({
    "stage": "stage", "request": "request", "instance": "#", "step": "step", "duration_ns": "took",
    "duration_by_median": "by the median", "excess_in": "more in", "excess_ns": "more", "wall_ns": "wall",
    "gpu_busy_ns": "GPU busy",
})  # fmt: skip
_IDLE = tuple(f"idle_{name}_ns" for name in CAUSES)
_TAKEN = ("stage", "instance", "request", "step", "pid", "tid", "steady", "outlier", "engine", "pause", "wall_ns",
          "gpu_busy_ns", "wait_ns")  # fmt: skip
_HEIGHT = 300
#: With more steps than this an envelope is drawn, of so many pieces; outliers keep their dots.
MOST_DOTS, PIECES = 5000, 400
#: With more steps than this the script is not told the causes of each.
_MOST_WITH_CAUSES = 1500
#: So many rows of sums, and of outliers, are written out.
_MOST_ROWS = 60
#: So many dots stand for outliers beside an envelope.
_MOST_OUTLIERS = 300
#: So many requests are told apart in the plot.
_MOST_GROUPS = 40
STEADY, WARM, OUT = 0, 1, 2


class Step(NamedTuple):
    """A step as it is drawn: `state` is steady, warm-up or outlier; `causes` are idle times, ordered as CAUSES is."""

    stage: str
    label: str
    step: int
    state: int
    wall: int
    work: int
    causes: tuple[int, ...]
    thread: tuple[int, int]
    group: Any


def section(source: Source) -> Section | None:
    """The plot, the sums, the outliers."""
    taken = steps_of(source)
    if not taken:
        return None
    top = _top(taken)
    drawn, data = (_dots(source, taken, top), _each(taken)) if len(taken) <= MOST_DOTS else _envelope(taken, top)
    middle = median(one.wall for one in taken)
    label = f"Wall time of {len(taken)} steps, median {units.time(middle)}; arrow keys walk through them"
    mark = element("circle", class_="mark", r=6, hidden=True)
    picture = drawing(label, _HEIGHT, *_axes(taken, top), *drawn, mark, tabindex=0)
    plot = element("div", scrolling(picture, "Steps"), class_="plot", data_plot="steps")
    seen = _legend(source, taken)
    body = joined(
        figure("Wall time of each step, and the time in which the GPU worked", plot, legend(seen)),
        folded("As a table", element("div", data_rows="steps"), class_="scripted"),
        *_tables(source),
    )
    return Section("steps", "Steps", body, _HOW, {"steps": {"top": top, "n": len(taken), **data}})


def steps_of(source: Source) -> list[Step]:
    """The steps that are drawn, thread by thread: those whose wall time is known, without pauses."""
    table = source.table("step_trace").select([*_TAKEN, *_IDLE])
    columns = [table.column(name).to_pylist() for name in table.column_names]
    found = [_step(row) for row in zip(*columns, strict=True) if _drawn(row)]
    threads = {thread: place for place, thread in enumerate(dict.fromkeys(one.thread for one in found))}
    if len({pid for pid, _ in threads}) > 1:
        found = [one._replace(label=_of_process(one)) for one in found]
    return sorted(found, key=lambda one: threads[one.thread])


def _of_process(one: Step) -> str:
    """Its label where there are several processes; that of an engine names its own already."""
    return one.label if one.group == one.thread else f"{one.label} of {one.thread[0]}"


def _drawn(row: Sequence[Any]) -> bool:
    return row[3] is not None and row[9] is False and row[10] is not None


def _step(row: Sequence[Any]) -> Step:
    stage, instance, request, step, pid, tid, steady, outlier, engine, _, wall, busy, wait = row[: len(_TAKEN)]
    state = OUT if outlier else STEADY if steady else WARM
    number = instance if request is None else request
    label = f"{engine} {pid}" if engine else f"{'#' if request is None else 'request '}{number}"
    group = (pid, tid) if engine else (pid, tid, number)
    idle = tuple(value or 0 for value in row[len(_TAKEN) :])
    return Step(stage, label, step, state, wall, busy - (wait or 0), idle, (pid, tid), group)


def _top(taken: Sequence[Step]) -> int:
    """The upper end of the scale: what lies above it would make all others small."""
    return int(1.12 * top_of([one.wall for one in taken], [one.state != WARM for one in taken])) or 1


def _x(place: float, count: int) -> float:
    return LEFT + (place + 0.5) / count * (WIDTH - LEFT - 6)


def _y(top: float) -> Scale:
    return Scale(0, top, _HEIGHT - BOTTOM, TOP)


def _axes(taken: Sequence[Step], top: int) -> list[Html]:
    """Times on the left, requests below."""
    groups, begin = [], 0
    for _, of in groupby(taken, lambda one: one.group):
        members = list(of)
        groups.append((begin, begin + len(members), members[0].label))
        begin += len(members)
    parts = time_axis(_y(top))
    every = max(1, len(groups) * 90 // WIDTH + 1) if len(groups) > 1 else 1
    for number, (first, after, label) in enumerate(groups if len(groups) <= _MOST_GROUPS else []):
        edge = _x(first - 0.5, len(taken))
        parts.append(line(edge, TOP, edge, _HEIGHT - BOTTOM))
        if not number % every:
            parts.append(words(_x((first + after - 1) / 2, len(taken)), _HEIGHT - 9, label, "middle"))
    return parts


def _colour(source: Source, one: Step) -> str:
    if one.state == WARM:
        return colours.QUIET
    return colours.OUTLIER if one.state == OUT else source.stage_colour(one.stage)


def _stages(taken: Sequence[Step]) -> list[str]:
    return list(dict.fromkeys(one.stage for one in taken))


def _dots(source: Source, taken: Sequence[Step], top: int) -> list[Html]:
    """A dot for each step, and the line of the GPU."""
    y, count = _y(top), len(taken)
    dots: dict[str, list[str]] = {}
    pens: dict[str, Pen] = {}
    for place, one in enumerate(taken):
        if one.wall <= top:
            colour = _colour(source, one)
            begin = pens.setdefault(colour, Pen()).to("m", _x(place, count), y(one.wall))
            dots.setdefault(colour, []).append(f"{begin}h0")
    worked = [(_x(place, count), y(min(one.work, top)), one.group) for place, one in enumerate(taken)]
    ordered = sorted(dots.items(), key=lambda item: item[0] == colours.OUTLIER)
    return [_polyline(worked), *(path(commands, f"dots s-{colour}") for colour, commands in ordered),
            *_above(taken, top)]  # fmt: skip


def _polyline(points: Sequence[tuple[float, float, Any]], class_: str = f"line s-{colours.BUSY}") -> Html:
    """A line through points, which begins anew with each group."""
    commands, pen, before = list[str](), Pen(), object()
    for x, y, group in points:
        commands.append(pen.to("l" if group == before else "m", x, y))
        before = group
    return path(commands, class_)


def _above(taken: Sequence[Step], top: int) -> list[Html]:
    """Marks at the upper edge for what lies above it."""
    marks = [f"M{_x(place, len(taken)) - 4:.1f} {TOP + 7}l4 -8l4 8z" for place, one in enumerate(taken)
             if one.wall > top]  # fmt: skip
    return [path(marks[:_MOST_OUTLIERS], colours.QUIET)] if marks else []


def _each(taken: Sequence[Step]) -> dict[str, Any]:
    """What the script is told of each step."""
    stages, labels = _stages(taken), list(dict.fromkeys(one.label for one in taken))
    told = len(taken) <= _MOST_WITH_CAUSES
    rows = [(stages.index(one.stage), labels.index(one.label), one.step, one.state, one.wall, one.work,
             *(_most(one.causes) if told else ())) for one in taken]  # fmt: skip
    shown = {"stages": [*map(short, stages)], "labels": [*map(short, labels)]}
    return {**shown, "causes": [cause.short for cause in CAUSES.values()], "rows": rows}


def _most(causes: Sequence[int]) -> list[int]:
    """The three greatest causes: their places and times, one after another."""
    order = sorted(range(len(causes)), key=lambda place: -causes[place])[:3]
    return [number for place in order if causes[place] for number in (place, causes[place])]


def _envelope(taken: Sequence[Step], top: int) -> tuple[list[Html], dict[str, Any]]:
    """From the shortest to the longest step of each piece, their median, and dots for outliers."""
    y, count, size = _y(top), len(taken), -(-len(taken) // PIECES)
    pieces = []
    for first in range(0, count, size):
        of = taken[first : first + size]
        walls = sorted(one.wall for one in of)
        pieces.append((first, first + len(of) - 1, walls[0], int(median(walls)), walls[-1],
                       int(median(one.work for one in of))))  # fmt: skip
    middles = [_x((first + last) / 2, count) for first, last, *_ in pieces]
    upper = [f"{'L' if at else 'M'}{x:.1f} {y(min(one[4], top)):.1f}" for at, (x, one) in
             enumerate(zip(middles, pieces, strict=True))]  # fmt: skip
    lower = [f"L{x:.1f} {y(min(one[2], top)):.1f}" for x, one in reversed(list(zip(middles, pieces, strict=True)))]
    lines = [_polyline([(x, y(min(one[place], top)), None) for x, one in zip(middles, pieces, strict=True)], class_)
             for place, class_ in ((3, f"line s-{colours.STEPS[0]}"), (5, f"line s-{colours.BUSY}"))]  # fmt: skip
    out = sorted((place for place, one in enumerate(taken) if one.state == OUT), key=lambda place: -taken[place].wall)
    dots = [f"M{_x(place, count):.1f} {y(min(taken[place].wall, top)):.1f}h0" for place in out[:_MOST_OUTLIERS]]
    drawn = [path([*upper, *lower, "Z"], "band"), *lines, path(dots, f"dots s-{colours.OUTLIER}")]
    return drawn, {"pieces": pieces}


def _legend(source: Source, taken: Sequence[Step]) -> list[tuple[str, str]]:
    states = {one.state for one in taken}
    if len(taken) > MOST_DOTS:
        found = [(f"median of {-(-len(taken) // PIECES)} steps, from shortest to longest", colours.STEPS[0])]
    else:
        found = [(stage, source.stage_colour(stage)) for stage in _stages(taken)]
    found.append(("GPU works", colours.BUSY))
    found += [("outlier", colours.OUTLIER)] if OUT in states else []
    return found + ([("warm-up, or above the scale", colours.QUIET)] if WARM in states else [])


def _tables(source: Source) -> list[Html]:
    """Percentiles by stage and request, and the outliers."""
    sums = source.table("step_sum").to_pylist()
    shown = sums if len(sums) <= _MOST_ROWS else [row for row in sums if row["instance"] is None][:_MOST_ROWS]
    found = [table_of("step_sum", _SUM, shown, "Percentiles of the steady steps; a row without a number is of all")]
    trace = source.tables.arrow("step_trace")
    out = sorted(trace.filter(trace.column("outlier")).select([one.name for one in _OUTLIERS]).to_pylist(),
                 key=lambda row: -(row["excess_ns"] or 0))  # fmt: skip
    if out:
        most = f"the {_MOST_ROWS} that took most of {len(out)}" if len(out) > _MOST_ROWS else str(len(out))
        found.append(folded(f"Outliers ({most})", table_of("step_trace", _OUTLIERS, out[:_MOST_ROWS], "Outliers",
                                                           sortable=True)))  # fmt: skip
    return found
