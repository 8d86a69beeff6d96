"""What several reports need of each to judge their stages together: sums of its stages, and its requests.

How much of its busy time a rank waited is known only when its collectives are matched with those of the other reports,
so what was summed up over its stages in one report says nothing of that, and it is painted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pyarrow as pa

from dsprof.answers.collectives import MatchedCollectives
from dsprof.answers.painting import Exposed, StepPlaces, exposed
from dsprof.answers.rank_requests import RankRequests, RequestRows
from dsprof.answers.verdicts import Verdict, judge
from dsprof.answers.waits import StageWaits, WaitedFor, Waits
from dsprof.arrays import Bools, Ints
from dsprof.ground.arrow import bits, integers, rows_by, rows_kept, total
from dsprof.measures.causes import CAUSES
from dsprof.measures.rank_work import Hidden
from dsprof.records import frozen
from dsprof.words import NO_STAGE

#: What a verdict adds up over the instances of a stage, beside what collectives take.
_ADDED = ("wall_ns", "gpu_busy_ns", "kernels", "launches", "kernel_total_ns", "steps", "tokens", "graph_launches",
          "memcpy_ns", *(f"idle_{cause}_ns" for cause in CAUSES))  # fmt: skip
#: What must be known of all of them.
_OF_ALL = ("batch", "off_cpu_ns")


@frozen(eq=False)
class ReportWork:
    """What a report says of its stages and requests.

    `stages`: sums of `stage_trace` over the steady instances of each stage, and over the others, by name: a row has
    `stage`, `steady`, `instances`, and what a verdict is on. `hidden`: as in `StageWork`. `requests`: its requests;
    `steps`: where its collectives are among its steps.
    """

    stages: tuple[dict[str, Any], ...]
    hidden: Hidden
    requests: RequestRows
    steps: StepPlaces

    @classmethod
    def of(cls, stage_trace: pa.Table, hidden: Hidden, requests: RequestRows, steps: StepPlaces) -> Self:
        """Of the facts and the table of a report."""
        rows = list[dict[str, Any]]()
        for name, of_stage in rows_by(stage_trace, "stage").items():
            steady_rows = integers(of_stage.column("steady"), 0) > 0
            for steady in (True, False):
                some = rows_kept(of_stage, bits(steady_rows == steady))
                if len(some):
                    rows.append({"stage": name, "steady": steady, "instances": len(some), **_summed(some)})
        return cls(tuple(rows), hidden, requests, steps)


def _summed(rows: pa.Table) -> dict[str, int | None]:
    sums = {column: total(rows.column(column)) for column in (*_ADDED, *_OF_ALL)}
    return {
        column: None if column in _OF_ALL and rows.column(column).null_count else value
        for column, value in sums.items()
    }


def waits_of_stages(matched: MatchedCollectives, works: Sequence[ReportWork]) -> list[Exposed]:
    """What the collectives of each report took beside all else, in each of its `StageRanges.rows`, and in none."""
    columns, found = matched.columns, list[Exposed]()
    for number, work in enumerate(works):
        mine = _of_report(matched, number)
        count = int((matched.hosts["report"] == number).sum())
        row = columns["stage_row"][mine]
        some = {name: columns[name][mine] for name in ("own_start", "own_end", "transfer")}
        found.append(exposed(some, np.where(row >= 0, row, count), work.hidden, count + 1))
    return found


def _of_report(matched: MatchedCollectives, report: int) -> Bools:
    mine: Bools = np.array([one.report == report for one in matched.ranks], np.bool_)[matched.columns["rank"]]
    return mine


def busy_of(matched: MatchedCollectives, works: Sequence[ReportWork], waits: Waits) -> list[dict[str, dict[str, Ints]]]:
    """What matching over all reports tells of the busy time in tables of each: columns by table, rows as these have.

    ``(no stage)`` has what is launched in none.
    """
    found = []
    for number, (work, took) in enumerate(zip(works, waits_of_stages(matched, works), strict=True)):
        mine = _of_report(matched, number)
        stages = {name: values[:-1] for name, values in took.columns.items()}
        waited = WaitedFor.of(len(took.wait) - 1, matched, waits, mine)
        steps = work.steps.paint({name: values[mine] for name, values in matched.columns.items()})
        found.append({
            "stage_trace": {**stages, "wait_rank": waited.rank, "wait_rank_ns": waited.wait},
            "step_trace": {name: values[work.steps.rows] for name, values in steps.columns.items()},
            NO_STAGE: {name: values[-1:] for name, values in took.columns.items()},
        })  # fmt: skip
    return found


def requests_of(matched: MatchedCollectives, works: Sequence[ReportWork]) -> RankRequests:
    """The requests of all reports, each once."""
    waits = [one.wait[:-1] for one in waits_of_stages(matched, works)]
    return RankRequests.of(matched, [one.requests for one in works], waits)


def verdicts_of(
    matched: MatchedCollectives, works: Sequence[ReportWork], waits: StageWaits, link: float | None = None
) -> tuple[Verdict, ...]:
    """A verdict on each stage over all reports, in the order of the stages; without roofs and what-if.

    `link`: bytes a second that the link between ranks could move, if that is known.
    """
    talk, rows = waits_of_stages(matched, works), dict[str, list[dict[str, Any]]]()
    for number, work in enumerate(works):
        for one in work.stages:
            rows.setdefault(one["stage"], []).append({**one, **_talk(matched, number, talk[number], one)})
    found = (
        judge(stage, pa.Table.from_pylist(rows[stage], _SCHEMA), ranks=waits.of_stage.get(stage, ()), link=link)
        for stage in matched.stages
        if stage in rows
    )
    return tuple(verdict for verdict in found if verdict is not None)


_PARTS = ("transfer", "wait", "unmatched")
_SCHEMA = pa.schema([
    ("stage", pa.string()), ("steady", pa.bool_()),
    *((name, pa.int64()) for name in ("instances", *_ADDED, *_OF_ALL, *(f"{part}_ns" for part in _PARTS))),
])  # fmt: skip


def _talk(matched: MatchedCollectives, report: int, took: Exposed, of: dict[str, Any]) -> dict[str, int]:
    """What collectives took in the steady instances of a stage of a report, or in the others."""
    hosts = matched.hosts
    mine = hosts["report"] == report
    stage = np.array([matched.stages[code] == of["stage"] for code in hosts["stage"][mine].tolist()], np.bool_)
    chosen = stage & ((hosts["steady"][mine] > 0) == of["steady"])
    return {f"{part}_ns": int(getattr(took, part)[:-1][chosen].sum()) for part in _PARTS}
