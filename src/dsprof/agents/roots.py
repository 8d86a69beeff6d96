"""Which files a server may read: those that lie, links followed, below the folders that it was given.

A report brings others with it: its export, its tables, the record of its session, rules. A link among these that leads
out is refused as well, before anything is read.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from dsprof.analysis.rules_file import NAME as RULES
from dsprof.analysis.sides import within
from dsprof.analysis.which import files_of
from dsprof.errors import ReportMissing, ServingRefused
from dsprof.model.record import BESIDE as MODEL
from dsprof.model.record import RECORD as SESSION
from dsprof.records import frozen


@frozen
class Roots:
    """The folders, as they really are called."""

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, folders: Iterable[Path]) -> Roots:
        """The folders of those names. Raises `ServingRefused` where one is none."""
        found = tuple(Path(os.path.realpath(folder)) for folder in folders)
        for folder in found:
            if not folder.is_dir():
                raise ServingRefused(f"{folder} is no folder.", "Name folders that hold reports: --root DIR.")
        if not found:
            raise ServingRefused("No folder is named.", "Name those that may be read, each by --root DIR.")
        return cls(found)

    @property
    def told(self) -> str:
        """The folders in words."""
        return ", ".join(map(str, self.folders))

    def inside(self, named: str) -> Path:
        """What a name means, links followed: from the first folder, unless it is absolute. Raises `ServingRefused`."""
        try:
            found = Path(os.path.realpath(self.folders[0] / named))
            found.exists()
        except (OSError, ValueError):  # a NUL in it, or too long a name
            raise self._outside(named) from None
        if not any(found == folder or folder in found.parents for folder in self.folders):
            raise self._outside(named)
        return found

    def reports(self, named: Sequence[str]) -> list[Path]:
        """The reports that names mean, as `dsprof analyze` takes them: files, folders, patterns.

        Raises `ServingRefused`, `ReportMissing`, `NoReportInFolder`.
        """
        found = files_of([path for one in named for path in self._matching(one)])
        for path in found:
            self._check(path)
        return found

    def sides(self, named: Sequence[str]) -> list[str]:
        """What names mean as a side of a comparison. Raises as above, and `NothingToCompare`."""
        matching = [path for name in named for path in self._matching(name)]
        found = [one for path in matching for one in (within(path) if path.exists() else [path])]
        for path in found:
            self._check(path)
        return [os.fspath(path) for path in found]

    def tables(self, named: Sequence[str]) -> Path | None:
        """The folder of tables that a single name means, if it does. Raises `ServingRefused`."""
        if len(named) != 1:
            return None
        folder = self.inside(named[0])
        if not any((folder / name).is_file() for name in ("analysis.json", "tables/reports.json")):
            return None
        self._check(folder)
        return folder

    def _matching(self, named: str) -> list[Path]:
        path = self.inside(named)
        if path.exists() or not glob.has_magic(named):
            return [path]
        found = sorted(glob.glob(named, root_dir=self.folders[0], recursive=True))  # noqa: PTH207  it may be absolute
        if not found:
            raise ReportMissing(f"No report and no folder fits {named}.", f"This server reads below: {self.told}.")
        return [self.inside(one) for one in found]

    def _check(self, path: Path) -> None:
        """Raises `ServingRefused` where a file, or one that is read with it, leads out."""
        for one in (path, *_brought(path)):
            if one == path or os.path.lexists(one):
                self.inside(os.fspath(one))

    def _outside(self, named: str) -> ServingRefused:
        return ServingRefused(f"{named[:200]} does not lie below the folders that may be read.",
                              f"This server reads below: {self.told}.")  # fmt: skip


def _brought(path: Path) -> Iterator[Path]:
    """What may be read with a report, which all that is called like it may be, or with a folder of tables."""
    yield path.with_name(SESSION)
    folders = [path]
    if path.is_dir():
        yield path.with_suffix(MODEL)
    elif path.parent.is_dir():
        stem = path.name.partition(".")[0]
        beside = [one for one in path.parent.iterdir() if one.name.partition(".")[0] == stem]
        yield from (path.with_name(RULES), Path(RULES), *beside)
        folders = [one for one in beside if one.is_dir()]
    for folder in folders:
        for place, inner, files in os.walk(folder):
            yield from (Path(place, name) for name in (*inner, *files))
