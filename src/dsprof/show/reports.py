"""The first screen of several reports, as data and as tables: who holds the others up, what failed, each report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import pyarrow as pa
from attrs import fields

from dsprof.records import frozen
from dsprof.show import units
from dsprof.show.by_rank import QUANTITIES, Held, RankLine, StageOfRun, from_median, stages_of
from dsprof.show.layout import Grid

SCHEMA = "dsprof.reports-summary/1"
#: So many stages of runs, ranks, failed reports and reports are shown; the tables hold them all.
MOST_STAGES, MOST_RANKS, MOST_FAILED, MOST_REPORTS = 12, 16, 8, 20


@frozen
class ReportLine:
    """A report of several, as its row in `reports.parquet` has it."""

    report: str
    run: str
    node: str | None
    rank: int | None
    status: str
    error: str | None
    sentence: str | None
    exit_code: int | None
    seconds: float
    duration_ns: int | None
    kernels: int | None
    findings: int | None
    strict_exit: int | None
    clock_from: str | None
    residual_ns: int | None


@frozen
class ReportsSummary:
    """What is shown of several reports; `stages` are those of runs with several ranks."""

    reports: tuple[ReportLine, ...]
    stages: tuple[StageOfRun, ...]
    schema: str = SCHEMA

    @property
    def failed(self) -> tuple[ReportLine, ...]:
        """The reports that could not be analyzed."""
        return tuple(line for line in self.reports if line.error is not None)


@frozen
class Heat:
    """A table of numbers to be coloured: percent from the median rank, a row each for a stage, a column for a rank."""

    title: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]
    notes: tuple[str, ...] = ()


def summarize_reports(
    reports: pa.Table,
    stage_trace: Iterable[pa.Table] = (),
    collectives: Iterable[pa.Table] = (),
    held: Iterable[Held] = (),
) -> ReportsSummary:
    """What tables over several reports say: a row for each, and of others pieces, run by run, where they are there."""
    names = [one.name for one in fields(ReportLine)]
    lines = [ReportLine(**row) for row in reports.select(names).to_pylist()]
    return ReportsSummary(tuple(lines), tuple(stages_of(stage_trace, collectives, held)))


def headline_of(summary: ReportsSummary) -> list[tuple[str, str]]:
    """The reports in a few labelled lines."""
    status = Counter(line.status for line in summary.reports)
    told = ", ".join(f"{count} {_STATUS[word]}" for word, count in status.items())
    runs = len({line.run for line in summary.reports})
    lines = [("reports", f"{len(summary.reports)}, of {runs} run{'s' * (runs != 1)}: {told}")]
    lengths = [line.duration_ns for line in summary.reports if line.duration_ns is not None]
    kernels = sum(line.kernels or 0 for line in summary.reports)
    if lengths:
        lines.append(("recorded", f"{units.time(sum(lengths))} in all, {units.count(kernels)} kernels"))
    if clocks := _clocks(summary.reports):
        lines.append(("clocks", clocks))
    return lines


_STATUS = {"new": "analyzed", "before": "as before", "failed": "failed"}


def _clocks(lines: Sequence[ReportLine]) -> str:
    """How the clocks of reports were put together, and how good that is at worst."""
    known = [line for line in lines if line.clock_from is not None]
    if not known:
        return ""
    residuals = [line.residual_ns for line in known if line.residual_ns is not None]
    by = " and ".join(sorted({str(line.clock_from) for line in known}))
    worst = f"; ends of collectives {units.time(max(residuals))} apart at most (95 %)" if residuals else ""
    return f"{len(known)} reports together by {by}{worst}"


def shown_stages(summary: ReportsSummary) -> list[StageOfRun]:
    """The stages that are shown: all of one run; of several those in which somebody is held up, or most is."""
    if len(summary.stages) <= MOST_STAGES and len({one.run for one in summary.stages}) == 1:
        return list(summary.stages)
    held = _held(summary)
    if len(held) <= MOST_STAGES:
        return held
    return sorted(held, key=lambda one: -(one.held_ns or 0.0))[:MOST_STAGES]


def _held(summary: ReportsSummary) -> list[StageOfRun]:
    """The stages in which somebody holds the others up, all in all or by turns."""
    return [one for one in summary.stages if one.holds is not None or one.in_turn]


def holders(summary: ReportsSummary) -> Grid | None:
    """Who holds the others up, stage by stage; None where no run has several ranks."""
    shown = shown_stages(summary)
    if not shown:
        return None
    several = len({one.run for one in summary.stages}) > 1
    rows = [_holder(one, several) for one in shown]
    header = (*(["run"] if several else []), "stage", "held up by", "by", "ranks", "last", "own", "host", "compute")
    notes = [_HOLDER]
    held = _held(summary)
    if len(held) > len(shown):
        notes.append(f"{len(held) - len(shown)} more stages of runs, in which less is held up.")
    if several and len(summary.stages) > len(held):
        notes.append(f"Nobody in {len(summary.stages) - len(held)} others.")
    return Grid("who holds the others up", header, tuple(rows), "rank_sum", names=3 if several else 2,
                notes=tuple(notes), low=("compute", "host", "ranks"))  # fmt: skip


_HOLDER = (
    "by: what the others wait for that rank, or what it takes longer, in each instance. last: of its collectives those "
    "that it began last. own (wall time less waiting), host (less waiting for the GPU), compute (GPU without "
    "collectives): from the median rank."
)


def _holder(one: StageOfRun, several: bool) -> tuple[str, ...]:
    head = (*([one.run] if several else []), one.stage)
    if one.holds is None:
        return (*head, ", ".join(one.in_turn) or "nobody", units.NONE, units.count(len(one.lines)), *[units.NONE] * 4)
    line = one.lines[one.holds]
    far = [_far(one.lines, quantity)[one.holds] for quantity in ("own_ns", "host_ns", "compute_ns")]
    last = units.percent(line.last_pct)
    late = f" (its {one.reason})" if one.reason else ""
    return (*head, f"{one.called(one.holds)}{late}", units.time(one.held_ns), units.count(len(one.lines)), last,
            *(units.NONE if value is None else f"{value:+.0f} %" for value in far))  # fmt: skip


def _far(lines: Sequence[RankLine], quantity: str) -> list[float | None]:
    return from_median([getattr(line, quantity) for line in lines])


def heat_of(stages: Sequence[StageOfRun], quantity: str | None = None, most: int = MOST_RANKS) -> Heat | None:
    """How far each rank is from the median rank in each stage; None where no run has several ranks.

    `quantity`: of `QUANTITIES`; unless given, wall time without waiting, or all of it where waiting is not known.
    """
    if not stages:
        return None
    known = all(line.own_ns is not None for one in stages for line in one.lines)
    chosen = quantity or ("own_ns" if known else "wall_ns")
    several = len({one.run for one in stages}) > 1
    labels = list(dict.fromkeys(label for one in stages for label in one.labels))
    if all(label.isdecimal() for label in labels):
        labels.sort(key=int)
    cells = [dict(zip(one.labels, _far(one.lines, chosen), strict=True)) for one in stages]
    notes = []
    if len(labels) > most:
        farthest = sorted(labels, key=lambda label: -max(abs(row.get(label) or 0.0) for row in cells))[:most]
        notes.append(f"{len(labels) - most} more ranks, nearer to the median.")
        labels = [label for label in labels if label in farthest]
    names = tuple(f"{one.run} {one.stage}" if several else one.stage for one in stages)
    rows = tuple(tuple(row.get(label) for label in labels) for row in cells)
    return Heat(f"{QUANTITIES[chosen]}, percent from the median rank", names, tuple(labels), rows, tuple(notes))


def heat_cell(value: float | None) -> str:
    """A number of a heat map.

    >>> heat_cell(11.7), heat_cell(-0.2), heat_cell(None)
    ('+12', '0', '-')
    """
    return units.NONE if value is None else f"{round(value):+d}" if round(value) else "0"


def heat_grid(heat: Heat) -> Grid:
    """The heat map as a table of text."""
    rows = tuple((name, *map(heat_cell, row)) for name, row in zip(heat.names, heat.rows, strict=True))
    return Grid(heat.title, ("stage", *heat.columns), rows, "stage_trace", notes=heat.notes)


def failures(summary: ReportsSummary) -> list[str]:
    """A sentence for each report that failed."""
    shown = [f"{line.report}: {line.error}: {line.sentence}" for line in summary.failed[:MOST_FAILED]]
    more = len(summary.failed) - len(shown)
    return [*shown, *([f"{more} more failed: see tables/reports.parquet."] if more else [])]


def report_grid(summary: ReportsSummary) -> Grid:
    """A row for each report."""
    header = ("report", "run", "rank", "status", "kernels", "length", "findings", "took")
    rows = tuple(
        (line.report, line.run, units.plain(line.rank), _STATUS[line.status], units.count(line.kernels),
         units.time(line.duration_ns), units.count(line.findings), units.time(line.seconds * 1e9))
        for line in summary.reports[:MOST_REPORTS]
    )  # fmt: skip
    more = len(summary.reports) - len(rows)
    notes = (f"{more} more reports in tables/reports.parquet.",) if more else ()
    return Grid("reports", header, rows, names=2, notes=notes, low=("took", "findings", "length", "run"), apart=True)


def reports_grids(summary: ReportsSummary) -> list[Grid]:
    """All of it as tables of text."""
    heat = heat_of(shown_stages(summary))
    found = [holders(summary), heat_grid(heat) if heat else None, report_grid(summary)]
    return [grid for grid in found if grid is not None]


def nobody_compared(summary: ReportsSummary) -> str:
    """Why no rank is named that holds the others up; empty where stages are shown."""
    if summary.stages and not shown_stages(summary):
        runs = len({one.run for one in summary.stages})
        return f"Nobody holds the others up, in {len(summary.stages)} stages of {runs} runs."
    if summary.stages or not any(line.error is None for line in summary.reports):
        return ""
    return ("No run has several ranks with stages, so nobody is compared. --name-pattern says by their names which "
            "reports are of one run.")  # fmt: skip
