"""One step as a timeline: its ranges and launches on the host, what ran on each stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from attrs import field

from dsprof.page.colours import of_family
from dsprof.page.html import Html, element, joined, short
from dsprof.page.parts import Section, figure, folded, legend, scrolling
from dsprof.page.source import Asked, Condition, Source, plain
from dsprof.page.svg import LEFT, WIDTH, Pen, drawing, path, tenths, words
from dsprof.records import frozen
from dsprof.rules.names import short_kernel_name
from dsprof.show import units
from dsprof.words import NO_STAGE

_HOW = (
    "Above are the ranges that the step's thread was in, then its launches, then what ran on each stream of the "
    "GPU. Where the lane of the GPU is empty it waited. Choose the plot, then + and - or the wheel zoom, arrows or "
    "dragging move, 0 shows all. With the keys n and p, or the pointer, one operation after another is told."
)
#: So many operations of a step are drawn: the longest.
MOST_EVENTS = 3000
_MOST_LEVELS, _MOST_STREAMS = 6, 6
_HEAD, _GAP = 28, 8
#: In a plot without a script, what is nearer than this to the one before it is left out.
_APART = 1.0
_KERNEL = (
    "kernel",
    "family",
    "start_ns",
    "duration_ns",
    "device_id",
    "stream_id",
    "api_name",
    "api_start_ns",
    "api_ns",
    "tid",
)
_COPY = ("kind", "bytes", "start_ns", "duration_ns", "device_id", "stream_id", "api_name", "api_start_ns", "api_ns",
         "tid")  # fmt: skip
_RANGE = ("name", "level", "start_ns", "end_ns", "tid")


@frozen
class Moment:
    """What is drawn: a step or a stage, by its row of a table."""

    title: str
    row: Mapping[str, Any]

    @property
    def low(self) -> int:
        """When it began."""
        return int(self.row["start_ns"])

    @property
    def high(self) -> int:
        """When host and GPU were done with it."""
        return self.low + int(self.row["wall_ns"])


@frozen
class Lane:
    """A lane: events of begin, duration in ns from the step's begin, place of a name, colour, and more for GPU work."""

    title: str
    height: int
    events: list[tuple[Any, ...]]


@frozen
class Names:
    """Names, each once, by their places."""

    places: dict[str, int] = field(factory=dict)

    def __call__(self, name: str) -> int:
        """The place of a name."""
        return self.places.setdefault(short(name), len(self.places))


def section(source: Source) -> Section | None:
    """The median step, and the slowest outlier."""
    moments = moments_of(source)
    if not moments:
        return None
    names, events = Names(), _events(source, moments)
    drawn = [_drawn(moment, of, names, number) for number, (moment, of) in enumerate(zip(moments, events, strict=True))]
    (first, data), *others = drawn
    more = [folded(moment.title, body) for moment, (body, _) in zip(moments[1:], others, strict=True)]
    lines = [data, *(data for _, data in others)]
    return Section("one-step", "One step" if moments[0].row["step"] is not None else "One stage", joined(first, *more),
                   _HOW, {"lines": lines, "names": list(names.places)})  # fmt: skip


def moments_of(source: Source) -> list[Moment]:
    """The median of the steady steps of the stage that takes most, and its slowest outlier; else a stage."""
    taken = ["stage", "instance", "request", "step", "pid", "tid", "start_ns", "wall_ns", "steady"]
    table = plain(source.tables.arrow("step_trace").select([*taken, "outlier", "pause", "kernels"]))
    steps = [row for row in table.to_pylist() if row["step"] is not None and row["wall_ns"] and not row["pause"]]
    if not steps:
        stages = plain(source.tables.arrow("stage_trace").select([one for one in taken if one != "step"])).to_pylist()
        steps = [{**row, "step": None, "outlier": False} for row in stages if row["stage"] != NO_STAGE]
    if not steps:
        return []
    stage = max(dict.fromkeys(row["stage"] for row in steps), key=_total(steps))
    steps = [row for row in steps if row["stage"] == stage]
    usual = [row for row in steps if row["steady"] and not row["outlier"]] or steps
    middle = median(row["wall_ns"] for row in usual)
    found = [_moment("the median", min(usual, key=lambda row: abs(row["wall_ns"] - middle)))]
    out = [row for row in steps if row["outlier"]]
    return [*found, *(_moment("the slowest outlier", max(out, key=lambda row: row["wall_ns"])) for _ in out[:1])]


def _total(steps: Sequence[Mapping[str, Any]]) -> Callable[[str], int]:
    return lambda stage: sum(row["wall_ns"] for row in steps if row["stage"] == stage)


def _moment(which: str, row: Mapping[str, Any]) -> Moment:
    of = f" {row['instance']}" if row["step"] is None else f" step {row['step']}"
    request = f" of request {row['request']}" if row["request"] is not None else ""
    return Moment(f"{row['stage']}{of}{request}: {units.time(row['wall_ns'])}, {which}", row)


@frozen
class Events:
    """What is drawn of a moment: rows of `kern_trace`, `mem_trace` and `range_trace`."""

    kernels: list[dict[str, Any]]
    copies: list[dict[str, Any]]
    ranges: list[dict[str, Any]]


def _events(source: Source, moments: Sequence[Moment]) -> list[Events]:
    """What the process of each ran on the GPU then, and in which ranges its thread was; all are asked for at once."""
    asked = list[Asked]()
    for moment in moments:
        pid: Condition = ("pid", "=", moment.row["pid"])
        then: tuple[Condition, ...] = (("start_ns", ">=", moment.low), ("start_ns", "<", moment.high), pid)
        around: tuple[Condition, ...] = (pid, ("tid", "=", moment.row["tid"]), ("start_ns", "<", moment.high),
                                         ("end_ns", ">", moment.low))  # fmt: skip
        asked += [("kern_trace", _KERNEL, then), ("mem_trace", _COPY, then), ("range_trace", _RANGE, around)]
    found = source.events(*asked)
    return [Events(*found[first : first + 3]) for first in range(0, len(found), 3)]


def _drawn(moment: Moment, events: Events, names: Names, number: int) -> tuple[Html, dict[str, Any]]:
    gpu, left_out = _most(_operations(events))
    lanes = [*_ranges(events.ranges, moment, names), _launches(gpu, moment, names), *_streams(gpu, moment, names)]
    data = {"span": moment.high - moment.low, "lanes": [(one.title, one.height, one.events) for one in lanes]}
    keys = "Plus and minus zoom, arrows move, 0 shows all, n and p go through the operations."
    label = f"Timeline of {moment.title}; {len(gpu)} operations. {keys}"
    picture = drawing(label, _height(lanes), *_static(lanes, moment.high - moment.low), tabindex=0, class_="zooms")
    plot = element("div", scrolling(picture, "Timeline"), class_="plot", data_plot="line", data_number=number)
    families = dict.fromkeys(row["family"] for row in gpu)
    seen = [("launch call", "p7"), ("range", "range"), *((one, of_family(one)) for one in families)]
    note = f" {left_out} shorter operations are left out." if left_out else ""
    table = folded("As a table", element("div", data_rows="line", data_number=number), class_="scripted")
    return joined(figure(f"{moment.title}.{note}", plot, legend(seen)), table), data


def _operations(events: Events) -> list[dict[str, Any]]:
    """Kernels by their short names, copies as the family of that name."""
    found = [{**row, "name": short_kernel_name(row["kernel"])} for row in events.kernels]
    found += [{**row, "family": "copy", "name": f"{row['kind']}, {units.size(row['bytes'])}"} for row in events.copies]
    return sorted(found, key=lambda row: row["start_ns"])


def _most(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """The longest of too many, and how many are left out."""
    if len(rows) <= MOST_EVENTS:
        return rows, 0
    least = sorted(row["duration_ns"] for row in rows)[-MOST_EVENTS]
    kept = [row for row in rows if row["duration_ns"] >= least][:MOST_EVENTS]
    return kept, len(rows) - len(kept)


def _ranges(ranges: Iterable[Mapping[str, Any]], moment: Moment, names: Names) -> list[Lane]:
    """A lane for each level of the thread's ranges, clipped to the step."""
    levels: dict[int, list[tuple[Any, ...]]] = {}
    for row in ranges:
        begin, end = max(row["start_ns"], moment.low), min(row["end_ns"], moment.high)
        event = (begin - moment.low, end - begin, names(row["name"]), "range")
        levels.setdefault(row["level"], []).append(event)
    shown = sorted(levels)[:_MOST_LEVELS]
    return [Lane("ranges" if not at else "", 16, _longest(levels[level])) for at, level in enumerate(shown)]


def _longest(events: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The longest of too many, in their order."""
    kept = sorted(events, key=lambda event: -event[1])[:MOST_EVENTS]
    return sorted(kept)


def _launches(gpu: Iterable[Mapping[str, Any]], moment: Moment, names: Names) -> Lane:
    """The calls that launched them, each once."""
    calls = dict.fromkeys((row["api_start_ns"], row["api_ns"], row["api_name"]) for row in gpu
                          if row["api_start_ns"] is not None and row["api_start_ns"] >= moment.low
                          and row["tid"] == moment.row["tid"])  # fmt: skip
    events = [(start - moment.low, took, names(name), "p7") for start, took, name in sorted(calls)]
    return Lane("launches", 22, events)


def _streams(gpu: Sequence[Mapping[str, Any]], moment: Moment, names: Names) -> list[Lane]:
    """A lane for each stream; an operation also has how long before it its call began, if that is known."""
    streams: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
    for row in gpu:
        api = row["api_start_ns"]
        ahead = () if api is None else (row["start_ns"] - api,)
        event = (row["start_ns"] - moment.low, row["duration_ns"], names(row["name"]), of_family(row["family"]), *ahead)
        streams.setdefault((row["device_id"], row["stream_id"]), []).append(event)
    most = sorted(streams, key=lambda key: -sum(event[1] for event in streams[key]))[:_MOST_STREAMS]
    devices = {device for device, _ in streams}
    return [Lane(f"GPU {device}, {stream}" if len(devices) > 1 else f"stream {stream}", 32 if len(most) < 4 else 22,
                 streams[device, stream]) for device, stream in sorted(most)]  # fmt: skip


def _height(lanes: Sequence[Lane]) -> int:
    return _HEAD + sum(lane.height + _GAP for lane in lanes)


def _static(lanes: Sequence[Lane], span: int) -> list[Html]:
    """The timeline as it is before anybody zooms: times above, titles, events."""
    ticks = [words(_place(at * span / 6, span), 16, units.time(at * span / 6), _anchor(at), "tick") for at in range(7)]
    titles, drawn, y = [], [], _HEAD
    for lane in lanes:
        titles.append(words(0, y + lane.height / 2 + 4, lane.title, class_="label"))
        drawn += _paths(lane, y, span)
        y += lane.height + _GAP
    return [*ticks, *titles, element("g", *drawn, class_="events")]


def _anchor(tick: int) -> str:
    return "start" if tick == 0 else "end" if tick == 6 else "middle"


def _place(time: float, span: int) -> float:
    return LEFT + 16 + time / max(span, 1) * (WIDTH - LEFT - 16)


def _paths(lane: Lane, y: int, span: int) -> list[Html]:
    """The events of a lane, a path for each colour; what covers no more room than the one before it is left out."""
    paths: dict[str, list[str]] = {}
    pens, ends = dict[str, Pen](), dict[str, float]()
    for start, took, _, colour, *_more in lane.events:
        first, last = _place(start, span), min(max(_place(start + took, span), _place(start, span) + 0.5), WIDTH)
        if last - ends.get(colour, -1.0) >= _APART:
            begin, width = pens.setdefault(colour, Pen()).to("m", first, y), round(10 * (last - first))
            paths.setdefault(colour, []).append(f"{begin}h{tenths(width)}v{lane.height}h{tenths(-width)}z")
            ends[colour] = last
    return [path(commands, colour) for colour, commands in paths.items()]
