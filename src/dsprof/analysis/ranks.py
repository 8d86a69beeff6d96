"""Several reports of one run, as one each for a rank: their collectives matched, on a common clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa

from dsprof.analysis.analyze import Analysis, frame_of
from dsprof.analysis.which import RANK
from dsprof.answers.collectives import Clock, MatchedCollectives, ReportCollectives, clocks, unmatched
from dsprof.answers.identity import ENVIRONMENT, NCCL, Place
from dsprof.answers.rank_checks import check_several
from dsprof.answers.report_work import ReportWork, busy_of, requests_of, verdicts_of
from dsprof.answers.verdicts import Verdict
from dsprof.answers.waits import HeldUp, StageWaits, Waits
from dsprof.arrays import NULL, Ints
from dsprof.errors import UnknownTable
from dsprof.facts import Facts
from dsprof.findings import Finding
from dsprof.ground.versions import our_version
from dsprof.model.peaks import link_of
from dsprof.records import frozen
from dsprof.tables import known_table
from dsprof.tables._ranks import of_several

if TYPE_CHECKING:
    import pandas as pd

#: The tables that there are over several reports.
TABLES = ("collective_sum", "collective_trace", "rank_sum", "request_trace")


def rank_in(file: str) -> int | None:
    """The rank that a file is named after; None where it is named after none."""
    found = RANK.search(file)
    return int(found[1]) if found else None


@frozen(eq=False)
class RankReport:
    """What several reports need of each: its file's name, its clock (None: not known), its collectives; pickles.

    `work`: what its stages and requests did beside these; `gpus`: the names of its GPUs.
    """

    file: str
    began_ns: int | None
    collectives: ReportCollectives
    work: ReportWork
    gpus: tuple[str, ...] = ()

    @classmethod
    def of(cls, analysis: Analysis) -> RankReport:
        """Of an analysis."""
        report = analysis.results.report
        gpus = tuple(gpu.name for gpu in report.gpus)
        return cls(analysis.path.name, report.session_start_ns, analysis.collectives, analysis.rank_work, gpus)

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
    def report_clocks(self) -> tuple[Clock, ...]:
        """How the times of each report are put on the common clock: as those of its ranks are."""
        first = min((one for one in self._began if one != NULL), default=0)
        usual = [Clock(0 if one == NULL else one - first) for one in self._began]
        for rank in reversed(self.matched.ranks):
            usual[rank.report] = rank.clock
        return tuple(usual)

    @property
    def unmatched(self) -> tuple[str, ...]:
        """A sentence for each rank some of whose collectives have no match."""
        return tuple(unmatched(self.matched))

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Ranks that are missing or there twice, and reports without a kernel."""
        ranks, told = self.matched.ranks, [one.collectives.told for one in self.reports]
        places = [Place(rank.report, rank.process, rank.device, rank.group) for rank in ranks]
        numbers = [rank.number if rank.number_from in (NCCL, ENVIRONMENT) else NULL for rank in ranks]
        return tuple(check_several(places, numbers, told, self.matched.reports))

    @property
    def waits(self) -> dict[str, tuple[HeldUp, ...]]:
        """By stage, how the ranks of each group waited for each other: who held the others up, and why."""
        return self._facts[StageWaits].of_stage

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """What limits each stage over all reports; `sentence` and `remedy` say it."""
        link = link_of(name for one in self.reports for name in one.gpus)
        return verdicts_of(self.matched, [one.work for one in self.reports], self._facts[StageWaits], link)

    @cached_property
    def busy(self) -> list[dict[str, dict[str, Ints]]]:
        """Of each report, what matching tells of the busy time in its tables: columns by table."""
        return busy_of(self.matched, [one.work for one in self.reports], self._facts[Waits])

    @cached_property
    def _facts(self) -> Facts:
        return Facts(self.matched, requests_of(self.matched, [one.work for one in self.reports]))

    def arrow(self, name: str) -> pa.Table:
        """A table over all reports as Arrow. Raises `UnknownTable`."""
        table = known_table(name)
        if name not in TABLES:
            raise UnknownTable(f"{name} is a table of one report.", f"Over several there are: {', '.join(TABLES)}.")
        return of_several(table).arrow(self._facts, {"dsprof.version": our_version()})

    def __getitem__(self, name: str) -> pd.DataFrame:
        return frame_of(self.arrow(name))

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)
