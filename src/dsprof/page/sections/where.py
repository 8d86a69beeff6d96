"""Where the wall time of each stage went: the GPU's work, waiting for ranks, idle time by its cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyarrow as pa

from dsprof.measures.causes import CAUSES
from dsprof.page import colours
from dsprof.page.html import Html, element, joined
from dsprof.page.parts import Section, figure, folded, legend, plain_table
from dsprof.page.source import Source, plain
from dsprof.page.svg import Part, bar
from dsprof.show import units

_HOW = (
    "The wall time of a stage is from its begin on the host until host and GPU are both done with it. It is split "
    "without rest: each instant counts for the first of these that covers it. The GPU works; it waits for other "
    "ranks within a collective; it is idle, and then the cause is what the stage's thread was in. The host outside "
    "of CUDA is Python, sampling, tokenization: all that is no CUDA call."
)
#: What is smaller in all stages is not in the legend.
_SEEN_PCT = 0.05
_SUMMED = ("wall_ns", "gpu_busy_ns", "wait_ns", *(f"idle_{name}_ns" for name in CAUSES))


def section(source: Source) -> Section | None:
    """A bar for each stage."""
    stages = {stage: row for stage, row in sums(source.tables.arrow("stage_trace")).items() if row["wall_ns"]}
    if not stages:
        return None
    shown = {stage: parts_of(row) for stage, row in stages.items()}
    bars = [bar(stage, parts) for stage, parts in shown.items()]
    seen = dict.fromkeys((one.text, one.colour) for parts in shown.values() for one in parts if one.pct >= _SEEN_PCT)
    body = figure("Wall time of the steady instances of each stage, in percent", joined(bars), legend(seen))
    return Section("where", "Where the time went", joined(body, folded("As a table", _table(stages))), _HOW)


def sums(stage_trace: pa.Table) -> dict[str, dict[str, int]]:
    """Sums over the steady instances of each stage; of all, where none is steady."""
    kept = stage_trace.filter(stage_trace.column("steady"))
    rows = plain((kept if len(kept) else stage_trace).select(["stage", *_SUMMED]))
    stages, *columns = (rows.column(name).to_pylist() for name in rows.column_names)
    found: dict[str, dict[str, int]] = {}
    for at, stage in enumerate(stages):
        of = found.setdefault(stage, dict.fromkeys(_SUMMED, 0))
        for name, values in zip(_SUMMED, columns, strict=True):
            of[name] += values[at] or 0
    return found


def parts_of(row: Mapping[str, int]) -> list[Part]:
    """The parts of a bar."""
    named = [(row["gpu_busy_ns"] - row["wait_ns"], "GPU works", colours.BUSY),
             (row["wait_ns"], "waiting for ranks", colours.WAITING)]  # fmt: skip
    named += [(row[f"idle_{name}_ns"], cause.short, colours.CAUSE[name]) for name, cause in CAUSES.items()]
    return [Part(100 * time / row["wall_ns"], text, colour) for time, text, colour in named]


def _table(stages: Mapping[str, Mapping[str, int]]) -> Html:
    header = ("of the wall time", *(word for stage in stages for word in (stage, "share")))
    named = [list(_named(row)) for row in stages.values()]
    rows = [(of[0][0], *(text for _, time, pct in of for text in (units.time(time), units.percent(pct))))
            for of in zip(*named, strict=True)]  # fmt: skip
    return element("div", plain_table(header, rows, "Wall time by stage and cause"))


def _named(row: Mapping[str, int]) -> Iterator[tuple[str, int, float]]:
    """The parts of a wall time in words, with ns and percent."""
    times = {"wall time": row["wall_ns"], "GPU works": row["gpu_busy_ns"] - row["wait_ns"],
             "waiting for ranks": row["wait_ns"]}  # fmt: skip
    times |= {f"idle: {cause.words}": row[f"idle_{name}_ns"] for name, cause in CAUSES.items()}
    return ((words, time, 100 * time / row["wall_ns"]) for words, time in times.items())
