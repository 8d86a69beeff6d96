"""Several reports of one run, as one each for a rank: their collectives matched, on a common clock."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
from attrs import frozen

from dsprof.analysis.analyze import Analysis, frame_of
from dsprof.answers.collectives import MatchedCollectives, ReportCollectives, clocks, unmatched
from dsprof.arrays import NULL
from dsprof.errors import UnknownTable
from dsprof.facts import Facts
from dsprof.ground.versions import our_version
from dsprof.tables import known_table
from dsprof.tables._ranks import of_several

if TYPE_CHECKING:
    import pandas as pd

#: The tables that there are over several reports.
TABLES = ("collective_sum", "collective_trace", "rank_sum")
#: How a file is named after a rank: ``run.r3.nsys-rep``, ``tp-rank0.sqlite``, ``x_rank_12``.
_NAMED = re.compile(r"(?:^|[._-])(?:r|rank[._-]?)(\d{1,9})(?=[._-]|$)", re.IGNORECASE)


def rank_in(file: str) -> int | None:
    """The rank that a file is named after; None where it is named after none."""
    found = _NAMED.search(file)
    return int(found[1]) if found else None


@frozen(eq=False)
class RankReport:
    """What several reports need of each: its file's name, its clock (None: not known), its collectives; pickles."""

    file: str
    began_ns: int | None
    collectives: ReportCollectives

    @classmethod
    def of(cls, analysis: Analysis) -> RankReport:
        """Of an analysis."""
        report = analysis.results.report
        return cls(analysis.path.name, report.session_start_ns, analysis.collectives)

    @property
    def number(self) -> int:
        """The rank that the file is named after, NULL where it is named after none."""
        return NULL if (found := rank_in(self.file)) is None else found


class Ranks(Mapping[str, "pd.DataFrame"]):
    """The tables of ranks over several reports, in the order given: ``Ranks.of([one, other])["rank_sum"]``.

    Reports of one host are put on one clock by when the capture of each began; where that does not hold, as between
    hosts, by the ends of their collectives, if these tell it. What has no match is counted, and `unmatched` says why.
    """

    def __init__(self, reports: Iterable[RankReport]) -> None:
        self.reports = tuple(reports)
        if not self.reports:
            raise ValueError("no reports")

    @classmethod
    def of(cls, analyses: Iterable[Analysis]) -> Ranks:
        """Of analyses; each report is read again unless it is in memory."""
        return cls(RankReport.of(one) for one in analyses)

    @property
    def _began(self) -> list[int]:
        return [NULL if one.began_ns is None else one.began_ns for one in self.reports]

    @cached_property
    def matched(self) -> MatchedCollectives:
        """The collectives of all ranks."""
        return MatchedCollectives.of(
            [one.collectives for one in self.reports],
            self._began,
            [one.number for one in self.reports],
            tuple(one.file for one in self.reports),
        )

    @property
    def residual_ns(self) -> tuple[int | None, ...]:
        """Of each group of ranks, how far apart the ends of one collective lie (95 %); None where nothing tells it."""
        return tuple(None if one == NULL else one for one in self.matched.residual_ns)

    @property
    def clocks(self) -> tuple[str, ...]:
        """A sentence for each report after the first: what tells its clock, and how well."""
        return tuple(clocks(self.matched, self._began))

    @property
    def unmatched(self) -> tuple[str, ...]:
        """A sentence for each rank some of whose collectives have no match."""
        return tuple(unmatched(self.matched))

    def arrow(self, name: str) -> pa.Table:
        """A table over all reports as Arrow. Raises `UnknownTable`."""
        table = known_table(name)
        if name not in TABLES:
            raise UnknownTable(f"{name} is a table of one report.", f"Over several there are: {', '.join(TABLES)}.")
        return of_several(table).arrow(Facts(self.matched), {"dsprof.version": our_version()})

    def __getitem__(self, name: str) -> pd.DataFrame:
        return frame_of(self.arrow(name))

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)
