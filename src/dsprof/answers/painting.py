"""What the GPUs were busy with: computing, transferring, waiting for other ranks, copying; each instant counts once.

An instant counts for the first of these that holds then: a kernel that does not communicate, a copy or a set, the
transfer of a collective, its waiting, a collective of which nothing is known. So the parts add up to the busy time.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np

from dsprof import arrays as at
from dsprof.answers.collectives import MatchedCollectives
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import count_by
from dsprof.attribute.stages import StageRanges
from dsprof.measures.rank_work import Hidden, StageWork, StepWork
from dsprof.measures.totals import StepTotals
from dsprof.records import frozen


class Exposed(NamedTuple):
    """The time of some groups in which collectives ran and nothing else: transferring, waiting, and without a match.

    `collectives`, `matched`: how many each group has, and how many of them have their match.
    """

    transfer: Ints
    wait: Ints
    unmatched: Ints
    collectives: Ints
    matched: Ints

    @property
    def columns(self) -> dict[str, Ints]:
        """As tables have them; transfer and wait are NULL for groups whose collectives all lack their match."""
        known = (self.matched > 0) | (self.collectives == 0)
        return {
            "transfer_ns": np.where(known, self.transfer, NULL),
            "wait_ns": np.where(known, self.wait, NULL),
            "unmatched_ns": self.unmatched,
        }


def exposed(columns: dict[str, Ints], group: Ints, hidden: Hidden, groups: int) -> Exposed:
    """Of the collectives of some groups, and what else ran in each while they did.

    ::

        collective     |~~~~~~~~ wait ~~~~~~~|= transfer =|
        another            |~ wait ~|= transfer =|
        hidden           |---|
        counted        |~|   |~~~~~~|====|~~~|============|
    """
    start, end, transfer = columns["own_start"], columns["own_end"], columns["transfer"]
    known = transfer != NULL
    cut = np.where(known, end - transfer, start)
    layers = ((known, cut, end), (known, start, cut), (~known, start, end))
    reach, painted = hidden, [at.union_length(hidden.group, hidden.start, hidden.end, groups)]
    for which, begin, finish in layers:
        reach = reach.and_(Hidden(group[which], begin[which], finish[which]))
        painted.append(at.union_length(reach.group, reach.start, reach.end, groups))
    transfer, wait, unmatched = np.diff(painted, axis=0)
    return Exposed(transfer, wait, unmatched, count_by(group, groups), count_by(group[known], groups))


def of_ranks(matched: MatchedCollectives, group: Ints, groups: int, hidden_group: Ints) -> Exposed:
    """Of groups of the collectives of some ranks, and the group of each piece of `MatchedCollectives.hidden`."""
    hidden = Hidden(hidden_group, matched.hidden["start"], matched.hidden["end"])
    return exposed(matched.columns, group, hidden, groups)


@frozen(eq=False)
class StageBusy:
    """Of each of `StageRanges.rows`, and of what is in none: the parts of its busy time, in ns.

    `compute`: kernels that do not communicate, `copies`: copies and sets beside them; `collectives`: the rest.
    """

    compute: Ints
    copies: Ints
    collectives: Exposed

    @classmethod
    def take(cls, staged: StageRanges, matched: MatchedCollectives, work: StageWork) -> Self:
        """Of a report."""
        last = len(staged.rows)
        row = matched.columns["stage_row"]
        group = np.where(row >= 0, row, last)
        return cls(work.compute_ns, work.other_ns, exposed(matched.columns, group, work.hidden, last + 1))

    @property
    def columns(self) -> dict[str, Ints]:
        """As tables have them; they add up to the busy time."""
        return {"compute_ns": self.compute, **self.collectives.columns, "other_ns": self.copies}


@frozen(eq=False)
class StepPlaces:
    """Where collectives are among steps: what several reports need to paint them; it can be pickled.

    Groups are the rows of `StepTotals`. `hidden`: as in `StepWork`; `between`: of each of `StageRanges.rows`, and of
    what is in none, the group of what lies between its steps; `rows`: the groups that are rows of `step_trace`.
    """

    hidden: Hidden
    between: Ints
    rows: Ints
    groups: int

    @classmethod
    def take(cls, staged: StageRanges, totals: StepTotals, work: StepWork) -> Self:
        """Of a report."""
        groups, count = len(totals.launches), len(staged.steps)
        between = np.full(len(staged.rows) + 1, groups - 1)
        between[staged.row[staged.with_steps]] = np.arange(count, groups - 1)
        rows = np.append(np.arange(count), count + np.flatnonzero(totals.gpu_ops[count:-1] > 0))
        return cls(work.hidden, between, rows, groups)

    def paint(self, columns: dict[str, Ints]) -> Exposed:
        """What collectives of the report took beside all else in each group."""
        row = columns["step_row"]
        return exposed(columns, np.where(row >= 0, row, self.between[columns["stage_row"]]), self.hidden, self.groups)


@frozen(eq=False)
class StepBusy:
    """How long the GPU waited for other ranks, and transferred, in each row of `StepTotals`."""

    collectives: Exposed

    @classmethod
    def take(cls, matched: MatchedCollectives, places: StepPlaces) -> Self:
        """Of a report."""
        return cls(places.paint(matched.columns))
