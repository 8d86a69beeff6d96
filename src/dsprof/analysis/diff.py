"""`diff`: two sides compared; `Comparison`: what came of it, with tables."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dsprof.analysis.analyze import Analysis, frame_of
from dsprof.analysis.options import AnalysisOptions
from dsprof.analysis.paged import Paged
from dsprof.analysis.sides import WANTED, Named, runs_of
from dsprof.compare.gates import Gate, gates_of
from dsprof.compare.outcome import Outcome, compare
from dsprof.compare.tables import TABLES
from dsprof.errors import UnknownTable
from dsprof.facts import Facts
from dsprof.ground.versions import our_version
from dsprof.nsys.reader import Progress

if TYPE_CHECKING:
    import pandas as pd

_Side = Named | Iterable[Named]


class Comparison(Paged, Mapping[str, "pd.DataFrame"]):
    """A comparison: its `outcome` as data, and as tables by name, ``comparison["stages"]``."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    @property
    def verdict(self) -> str:
        """The comparison in a few words."""
        return self.outcome.verdict

    @property
    def exit_code(self) -> int:
        """What `dsprof diff` ends with: 0, 1 for a regression by a gate, 3 where that cannot be told."""
        return self.outcome.exit_code

    def arrow(self, name: str) -> pa.Table:
        """The table `name` as Arrow, units and sentences in its fields' metadata. Raises `UnknownTable`."""
        if name not in TABLES:
            raise UnknownTable(f"A comparison has no table '{name}'.", f"There is {', '.join(TABLES)}.")
        return TABLES[name].arrow(Facts(self.outcome), {"dsprof.version": our_version()})

    def __getitem__(self, name: str) -> pd.DataFrame:
        return frame_of(self.arrow(name))

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)

    def __contains__(self, name: object) -> bool:
        return name in TABLES

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def page(self) -> str:
        """All of it as one HTML file, which needs nothing else to be read."""
        from dsprof.page.comparison import comparison_page

        return comparison_page(self.outcome, self, our_version())

    def _repr_html_(self) -> str:
        from dsprof.show.html import diff_html

        return diff_html(self.outcome)

    def __repr__(self) -> str:
        stages = ", ".join(one.stage for one in self.outcome.stages) or "nothing"
        return f"<dsprof.Comparison of {stages}: {self.verdict}>"


def diff(
    before: _Side,
    after: _Side,
    *,
    gates: Iterable[str] = (),
    force: bool = False,
    progress: Progress = lambda sentence: None,
    **options: Any,
) -> Comparison:
    """Compare the runs of two sides: what got slower or faster, by how much, and why.

    `before`, `after`: reports, session folders, folders of tables, baselines, folders and patterns of these, and
    analyses, one or several. `gates`: how much slower something may be, ``"decode.gpu_busy<1%"``, or ``"default"``.
    `force`: compare also what is not comparable. `options`: those of `analyze`, for the reports among them. Raises a
    `DsprofError` that says what to do, and ValueError for a gate that is none.

    >>> comparison = diff("before.dsprof", ["after-1.dsprof", "after-2.dsprof"])      # doctest: +SKIP
    >>> comparison["stages"]                                                          # doctest: +SKIP
    """
    chosen = AnalysisOptions(**{"tables": WANTED, **options})
    return diff_as(_listed(before), _listed(after), gates_of(gates), force, chosen, progress)


def diff_as(
    before: Iterable[Named], after: Iterable[Named], gates: Iterable[Gate], force: bool, options: AnalysisOptions,
    progress: Progress,
) -> Comparison:  # fmt: skip
    """As `diff`, with gates and options that are read already."""
    sides = [runs_of(paths, options, progress) for paths in (before, after)]
    return Comparison(compare(sides[0], sides[1], tuple(gates), force))


def _listed(side: _Side) -> list[Named]:
    return [side] if isinstance(side, str | os.PathLike | Analysis) else list(side)
