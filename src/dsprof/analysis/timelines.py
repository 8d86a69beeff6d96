"""A timeline of one report or several as a file that Perfetto opens, written as the parts of the reports come by."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from dsprof.analysis.analyze import Analysis
from dsprof.analysis.ranks import RankReport, Ranks
from dsprof.answers.collectives import Clock, MatchedCollectives
from dsprof.arrays import NULL
from dsprof.attribute.ranges import RangeTree
from dsprof.errors import SelectionEmpty
from dsprof.facts import Facts
from dsprof.ground.whole import check_free, writing_whole
from dsprof.records import frozen
from dsprof.timeline.collectives import draw_collectives
from dsprof.timeline.drawn import Called, Drawn, Taken, View
from dsprof.timeline.events import Outline, PartEvents
from dsprof.timeline.packets import Packets
from dsprof.timeline.stages import TABLES, draw_stages, numbers

if TYPE_CHECKING:
    from dsprof.nsys.reader import Progress

#: Packing harder takes much longer, and saves little.
_LEVEL = 1
#: Of a step so much more is drawn before and after it as it lasts, and that much is in sight.
_AROUND, _IN_SIGHT = 1.0, 0.1


class StepWanted(NamedTuple):
    """A step that is asked for: its number, and the request it is of, None for the first that has it."""

    number: int
    request: int | None = None


@frozen
class Timeline:
    """A timeline that was written: where, and what of it is to be seen first, in ns; None for all."""

    path: Path
    sight: tuple[int, int] | None = None


class _Report(NamedTuple):
    """What is known of a report before its events are drawn."""

    called: Called
    clock: Clock
    tables: dict[str, pa.Table]
    outline: Outline


def write_timeline(
    analyses: Sequence[Callable[[], Analysis]],
    target: Path,
    step: StepWanted | None = None,
    force: bool = False,
    progress: Progress = lambda sentence: None,
) -> Timeline:
    """Write a timeline of reports, given by what analyzes each; it is there whole or not at all.

    A name that ends in ``.gz`` is packed, which Perfetto opens as it is. Of several reports one is in memory at a
    time. `step`: nothing but this and what is around it. Raises `OutputExists`, `OutputRefused` and `SelectionEmpty`.
    """
    check_free(target, force)
    kept = analyses[0]() if len(analyses) == 1 else None
    matched, reports = _looked_at([(lambda: kept) if kept is not None else one for one in analyses])
    sight = _sight(reports, step) if step is not None else None
    view = View() if sight is None else _around(sight)
    with writing_whole(target, force) as file, _packed(file, target) as packed:
        packets, taken = Packets(packed.write), Taken()
        for number, (analysis, report) in enumerate(zip(analyses, reports, strict=True)):
            one = kept if kept is not None else analysis()
            progress(f"drawing {one.path.name}")
            gpus, several = one.results.report.gpus, len(report.outline.processes) > 1
            drawn = Drawn(packets, taken, gpus, report.called, report.clock.shift, view, several)
            _draw(one, drawn, report.tables, matched, number)
            del one  # before the next is read
        packets.finish()
    return Timeline(target, None if sight is None else _seen(sight))


def _draw(
    analysis: Analysis, drawn: Drawn, tables: dict[str, pa.Table], matched: MatchedCollectives, number: int
) -> None:
    fresh = analysis.fresh
    tree = fresh.facts[RangeTree]
    draw_stages(drawn, tables)
    draw_collectives(drawn, matched, number)
    drawn.ranges(tree.ranges, tree.names)
    fresh.each(_events_of, drawn.part)
    drawn.finish()


def _events_of(part: Facts) -> PartEvents:
    return part[PartEvents]


# -- reports --------------------------------------------------------------------------------------------------


def _looked_at(analyses: Sequence[Callable[[], Analysis]]) -> tuple[MatchedCollectives, list[_Report]]:
    """The collectives of all reports, and what is known of each; no time on the timeline's clock is below 0."""
    if len(analyses) == 1:
        analysis = analyses[0]()
        outline = analysis.fresh.fact(Outline)  # first, for one pass through many parts tells all
        matched = analysis.fresh.fact(MatchedCollectives)
        return matched, [_Report(_called("", 0, matched), Clock(-outline.begin), _tables(analysis), outline)]
    ranks, tables, outlines = [], [], []
    for one in analyses:
        analysis = one()
        outlines.append(analysis.fresh.fact(Outline))
        ranks.append(RankReport.of(analysis))
        tables.append(_tables(analysis))
        del analysis  # before the next is read
    several = Ranks(ranks)
    matched, clocks = several.matched, several.report_clocks
    first = min(0, *(one.begin + _shift(clock, one.begin) for one, clock in zip(outlines, clocks, strict=True)))
    return matched, [
        _Report(_called(report.file, number, matched), clock._replace(shift_ns=clock.shift_ns - first), of, outline)
        for number, (report, clock, of, outline) in enumerate(zip(ranks, clocks, tables, outlines, strict=True))
    ]


def _shift(clock: Clock, time: int) -> int:
    return int(clock.shift(np.array([time], np.int64))[0])


def _tables(analysis: Analysis) -> dict[str, pa.Table]:
    return {name: analysis.fresh.arrow(name) for name in TABLES}


def _called(file: str, number: int, matched: MatchedCollectives) -> Called:
    width = max((len(str(rank.number)) for rank in matched.ranks if rank.number != NULL), default=1)
    if len(matched.ranks) == 1:
        return Called(file)
    ranks = {(one.process, one.device): one.number for one in matched.ranks if one.report == number}
    return Called(file.split(".")[0], ranks, width)


# -- a step ---------------------------------------------------------------------------------------------------


def _sight(reports: Sequence[_Report], step: StepWanted) -> tuple[int, int]:
    """When the step is, on the timeline's clock: on the host and on the GPU, in the first report that has it."""
    for report in reports:
        table = report.tables["step_trace"]
        found = (numbers(table, "step") == step.number) & (numbers(table, "start_ns") != NULL)
        if step.request is not None:
            found &= numbers(table, "request") == step.request
        if found.any():
            row = int(np.flatnonzero(found)[0])
            start, wall = (numbers(table, name)[row] for name in ("start_ns", "wall_ns"))
            times = np.array([start, max(start + wall, numbers(table, "end_ns")[row])], np.int64)
            low, high = (times + report.clock.shift(times)).tolist()
            return low, high
    of = f" of request {step.request}" if step.request is not None else ""
    raise SelectionEmpty(f"There is no step {step.number}{of}.", _which_steps(reports))


def _which_steps(reports: Sequence[_Report]) -> str:
    there = np.concatenate([numbers(report.tables["step_trace"], "step") for report in reports])
    there = there[there != NULL]
    if not len(there):
        return "The report has no steps: leave --step out, or name their pattern with it."
    return f"Steps are from {there.min()} to {there.max()}; `dsprof table REPORT step_trace` has them all."


def _around(sight: tuple[int, int]) -> View:
    more = int((sight[1] - sight[0]) * _AROUND)
    return View(sight[0] - more, sight[1] + more)


def _seen(sight: tuple[int, int]) -> tuple[int, int]:
    more = int((sight[1] - sight[0]) * _IN_SIGHT)
    return sight[0] - more, sight[1] + more


# -- the file -----------------------------------------------------------------------------------------------


def _packed(file: BinaryIO, target: Path) -> AbstractContextManager[Any]:
    if target.suffix != ".gz":
        return nullcontext(file)
    packed: AbstractContextManager[Any] = gzip.GzipFile("", "wb", _LEVEL, file, mtime=0)
    return packed
