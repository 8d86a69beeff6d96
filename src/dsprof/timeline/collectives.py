"""Collectives as slices, a track for each rank: in each the time that it waited for other ranks, and the transfer.

::

    rank 0   |------- all-reduce -------|
             |--- waits ---|- transfers -|
    rank 1                 |- all-reduce -|
"""

from __future__ import annotations

import numpy as np

from dsprof.answers.collectives import MatchedCollectives
from dsprof.arrays import NULL, Ints, beside, each, united
from dsprof.rules.collectives import OPERATIONS
from dsprof.timeline.drawn import Drawn
from dsprof.timeline.packets import Numbers, Slices, Texts
from dsprof.trace import pid_of

WAITS, TRANSFERS = "waits", "transfers"


def draw_collectives(drawn: Drawn, matched: MatchedCollectives, report: int) -> None:
    """Draw the collectives of the ranks of one of the reports, and tell when its GPUs wait."""
    columns, of_report = matched.columns, np.array([rank.report == report for rank in matched.ranks], np.bool_)
    known = np.flatnonzero(of_report[columns["rank"]] & (columns["transfer"] != NULL))
    for device, rows in each(columns["device"][known]):
        drawn.waits(device, _waits(columns, known[rows]))
    for place, rank in enumerate(matched.ranks):
        rows = np.flatnonzero(matched.columns["rank"] == place)
        if rank.report == report and len(rows):
            _draw(drawn, matched, rows[np.argsort(matched.columns["own_start"][rows], kind="stable")], place)


def _waits(columns: dict[str, Ints], rows: Ints) -> tuple[Ints, Ints]:
    """When some collectives wait and none of them transfers, on their report's clock."""
    start, end, transfer = (columns[name][rows] for name in ("own_start", "own_end", "transfer"))
    waiting = end - transfer > start
    return beside(united(start[waiting], (end - transfer)[waiting]), united(end - transfer, end))


def _draw(drawn: Drawn, matched: MatchedCollectives, rows: Ints, place: int) -> None:
    rank, columns = matched.ranks[place], matched.columns
    start, end, kept = drawn.in_view(columns["own_start"][rows], columns["own_end"][rows])
    rows = rows[kept]
    if not len(rows):
        return
    title = drawn.called.of(rank.process, rank.device) or f"process {pid_of(rank.process)}, GPU {rank.device}"
    track = drawn.placed(("collectives", place), title, drawn.collectives(), start, end, place, flat=True)
    names = drawn.named((*OPERATIONS, WAITS, TRANSFERS))
    slices = Slices(start, end, track, names[columns["operation"][rows]], more=_more(matched, rows))
    drawn.slices(_with_parts(slices, columns["transfer"][rows], columns["wait"][rows], names[-2:]))


def _more(matched: MatchedCollectives, rows: Ints) -> dict[str, Numbers | Texts]:
    columns = {name: matched.columns[name][rows] for name in matched.columns}
    numbers = {"collective": "collective", "ranks": "of", "bytes": "bytes", "transfer_ns": "transfer",
               "wait_ns": "wait", "after_first_ns": "after", "step": "step"}  # fmt: skip
    shown: dict[str, Numbers | Texts] = {name: Numbers(columns[column]) for name, column in numbers.items()}
    return shown | {"kernel": Texts(columns["name"], matched.names), "stage": Texts(columns["stage"], matched.stages)}


def _with_parts(slices: Slices, transfer: Ints, wait: Ints, names: Ints) -> Slices:
    """The slices and, in those that have their match, the waiting and the transfer; what lasts no time is left out."""
    known = transfer != NULL
    waits, transfers = np.flatnonzero(known & (wait > 0)), np.flatnonzero(known & (transfer > 0))
    between = slices.start + np.where(known, wait, 0)
    of = np.concatenate([np.arange(len(slices.start)), waits, transfers])
    none = np.full(len(waits) + len(transfers), NULL)
    more: dict[str, Numbers | Texts] = {}
    for name, shown in slices.more.items():
        if isinstance(shown, Numbers):
            more[name] = Numbers(np.concatenate([shown.values, none]))
        else:
            more[name] = Texts(np.concatenate([shown.codes, np.full(len(none), -1)]), shown.texts)
    return Slices(
        np.concatenate([slices.start, slices.start[waits], between[transfers]]),
        np.concatenate([slices.end, between[waits], slices.end[transfers]]),
        slices.track[of],
        np.concatenate([slices.name, np.full(len(waits), names[0]), np.full(len(transfers), names[1])]),
        more=more,
    )
