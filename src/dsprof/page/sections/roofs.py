"""How near each stage came to what the GPU can do: a roofline."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dsprof.answers.roofs import StageRoof
from dsprof.page.html import Html, element, joined
from dsprof.page.parts import Section, cols, figure, folded, legend, scrolling, table_of
from dsprof.page.source import Source, largest
from dsprof.page.svg import BOTTOM, LEFT, TOP, WIDTH, Scale, drawing, line, path, tick, words
from dsprof.show import units

_HOW = (
    "To the right is more work for each byte that has to be moved, upwards more work in a second; both axes go by "
    "powers of ten. The line is the most that this GPU can do: to the left what its memory gives, to the right its "
    "units for dense products. A full dot is a stage over its wall time, an open one over the time in which the GPU "
    "was busy: from one to the other goes who removes all waiting, from there to the line who makes the kernels "
    "perfect."
)
_COLUMNS = cols({
    "stage": "stage", "instance": "#", "request": "request", "batch": "batch", "tokens": "tokens",
    "model_flops": "FLOPs", "model_bytes": "bytes", "flops_per_byte": "FLOPs/byte", "mfu_pct": "MFU",
    "busy_mfu_pct": "busy MFU", "bandwidth_pct": "bandwidth", "busy_bandwidth_pct": "busy bandwidth",
    "roof": "roof", "wall_ns": "wall", "gpu_busy_ns": "GPU busy",
})  # fmt: skip
MOST = 60
_HEIGHT = 340


def section(source: Source) -> Section | None:
    """The plot of stages, and a table of instances."""
    roofs = source.summary.roofs
    table = source.table("stage_roof_trace")
    if not roofs or not len(table):
        return None
    shown = (table if len(table) <= MOST else largest(table, "wall_ns", MOST)).to_pylist()
    said = "; ".join(
        f"{one.stage} {units.percent(one.mfu_pct)} of compute, {units.percent(one.bandwidth_pct)} of bandwidth"
        for one in roofs
    )
    seen = [(one.stage, source.stage_colour(one.stage)) for one in roofs]
    picture = drawing(f"Roofline: {said}", _HEIGHT, *_roofline(roofs, [colour for _, colour in seen]))
    peak = f"{units.flops(roofs[0].peak_flops_per_s)}/s {roofs[0].unit}, {units.size(roofs[0].peak_bytes_per_s)}/s"
    plot = figure(f"FLOP/s of each stage over its FLOPs for each byte; {roofs[0].gpu}: {peak}",
                  element("div", scrolling(picture, "Roofline"), class_="plot"), legend(seen))  # fmt: skip
    each = folded("As a table", table_of("stage_roof_trace", _COLUMNS, shown, "Each instance", sortable=True))
    return Section("roofs", "Roofs", joined(plot, each), _HOW)


def achieved(one: StageRoof) -> tuple[float, float | None]:
    """FLOP/s over the wall time of a stage, and while the GPU was busy."""
    busy = 1e9 * one.model_flops / one.gpu_busy_ns if one.gpu_busy_ns else None
    return 1e9 * one.model_flops / one.wall_ns, busy


def _scales(roofs: Sequence[StageRoof]) -> tuple[Scale, Scale]:
    """Both by powers of ten, with all stages and the corner of the roof in them."""
    corner = roofs[0].peak_flops_per_s / roofs[0].peak_bytes_per_s
    across = [one.flops_per_byte for one in roofs if one.flops_per_byte > 0] + [corner]
    up = [achieved(one)[0] for one in roofs if one.model_flops > 0] + [roofs[0].peak_flops_per_s]
    x = Scale(_power(min(across), math.floor), _power(3 * max(across), math.ceil), LEFT + 40, WIDTH - 26, log=True)
    return x, Scale(_power(min(up) / 2, math.floor), _power(max(up), math.ceil), _HEIGHT - BOTTOM - 16, TOP, log=True)


def _power(value: float, rounded: object) -> float:
    return float(10.0 ** rounded(math.log10(value)))  # type: ignore[operator]


def _roofline(roofs: Sequence[StageRoof], colours: Sequence[str]) -> list[Html]:
    x, y = _scales(roofs)
    first = roofs[0]
    corner = first.peak_flops_per_s / first.peak_bytes_per_s
    floor = max(y.low, x.low * first.peak_bytes_per_s)
    roof = [
        f"M{x(floor / first.peak_bytes_per_s):.1f} {y(floor):.1f}",
        f"L{x(corner):.1f} {y(first.peak_flops_per_s):.1f}",
        f"L{x.last} {y(first.peak_flops_per_s):.1f}",
    ]
    parts = [*_grid(x, y), path(roof, "line roof")]
    for one, colour in zip(roofs, colours, strict=True):
        parts += _points(one, x, y, colour)
    return parts


def _grid(x: Scale, y: Scale) -> list[Html]:
    parts = []
    for exponent in range(round(math.log10(y.low)), round(math.log10(y.high)) + 1):
        at = y(10.0**exponent)
        parts += [
            line(x.first, at, x.last, at),
            words(x.first - 8, at + 4, f"{tick(units.flops(10.0**exponent))}/s", "end"),
        ]
    for exponent in range(round(math.log10(x.low)), round(math.log10(x.high)) + 1):
        at = x(10.0**exponent)
        parts += [line(at, y.first, at, y.last), words(at, y.first + 18, f"{10.0**exponent:g}", "middle")]
    return [*parts, words((x.first + x.last) / 2, _HEIGHT - 6, "FLOPs for each byte", "middle")]


def _points(one: StageRoof, x: Scale, y: Scale, colour: str) -> list[Html]:
    """A stage over its wall time, and over its busy time."""
    if not (one.flops_per_byte > 0 and one.model_flops):
        return []
    wall, busy = achieved(one)
    across = f"{x(one.flops_per_byte):.1f}"
    full = element("circle", cx=across, cy=f"{y(wall):.1f}", r=6, class_=colour)
    label = words(x(one.flops_per_byte) + 12, y(wall) + 4, f"{one.stage}: {units.flops(wall)}/s", class_="label")
    if busy is None:
        return [full, label]
    rise = line(x(one.flops_per_byte), y(wall), x(one.flops_per_byte), y(busy), f"line s-{colour}")
    return [rise, full, element("circle", cx=across, cy=f"{y(busy):.1f}", r=6, class_=f"open s-{colour}"), label]
