"""Which reports are meant where several are named, and by their names which run, node and rank each is of."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dsprof.errors import NoReportInFolder, ReportMissing
from dsprof.ground.patterns import compiled, group_found
from dsprof.nsys.folders import SUFFIXES, reports_in
from dsprof.records import frozen

#: What a name pattern may tell of a report.
PLACES = ("run", "node", "rank")
#: How a file is named after a rank, as ``run.r3``, ``tp-rank0``, ``x_rank_12``; with what parts that from the rest.
RANK = re.compile(r"(?:^|[._-])(?:r|rank[._-]?)(\d{1,9})(?=[._-]|$)", re.IGNORECASE)
_DIGITS = re.compile(r"(\d+)")
#: What tells the rank of a report, in order of trust; the report itself comes between.
BY_PATTERN, BY_NAME = "name pattern", "file name"
#: So much of a report's name stands in that of the folder of its tables.
_NAME = 60


@frozen
class Named:
    """A report among several: its file, what it is called, where its tables go, and what its name says it is of.

    `name`: its path from the folder that holds them all. `key`: the name of the folder of its tables.
    """

    path: Path
    name: str
    key: str
    run: str
    node: str | None = None
    rank: int | None = None
    rank_from: str | None = None


def natural(text: str) -> tuple[tuple[str, int], ...]:
    """What sorts names as people do: rank10 after rank2.

    >>> sorted(["rank10", "rank2", "a"], key=natural)
    ['a', 'rank2', 'rank10']
    """
    words = _DIGITS.split(text)
    numbers = (int(word) for word in words[1::2])
    return tuple(zip(words[::2], [*numbers, -1], strict=True))


def files_of(paths: Iterable[Path], progress: Callable[[str], None] = lambda sentence: None) -> list[Path]:
    """The files that are meant: each once, a report before its exports, in natural order.

    A folder means its report, all of them where it holds several and none called ``run``, or those of the newest of
    its sessions, or itself where it has none. A name with ``*``, ``?`` or ``[`` that is no file is a pattern. Raises
    `ReportMissing` where nothing fits.
    """
    found = list[Path]()
    for path in paths:
        for one in _matching(path):
            found += _in_folder(one, progress) if os.path.isdir(one) else [one]  # noqa: PTH112  Path raises
    once = {os.path.realpath(path): path for path in reversed(found)}
    return sorted(_without_exports(once.values()), key=lambda path: natural(str(path)))


def _in_folder(folder: Path, progress: Callable[[str], None]) -> list[Path]:
    """Its reports; the folder itself where it has none, to be told of when its turn comes."""
    try:
        return reports_in(folder, progress)
    except NoReportInFolder:
        return [folder]


def _matching(path: Path) -> list[Path]:
    """The path, or what its pattern matches: folders, and files that can be reports by their suffix."""
    if os.path.lexists(path) or not glob.has_magic(str(path)):
        return [path]
    found = [Path(one) for one in glob.glob(str(path), recursive=True)]  # noqa: PTH207  the pattern may be absolute
    found = [one for one in found if one.is_dir() or one.name.endswith(SUFFIXES)]
    found = [one for one in found if one.suffix != ".dsprof"]
    if not found:
        raise ReportMissing(f"No report and no folder fits {path}.", "See what it should fit, with `ls`.")
    return found


def _without_exports(paths: Iterable[Path]) -> list[Path]:
    """The files without the exports that lie beside a report of the same name."""
    files = list(paths)
    best: dict[Path, int] = {}
    places = {path: next((n for n, one in enumerate(SUFFIXES) if path.name.endswith(one)), None) for path in files}
    for path, place in places.items():
        if place is not None:
            stem = path.with_name(path.name.removesuffix(SUFFIXES[place]))
            best[stem] = min(place, best.get(stem, place))
    return [
        path for path, place in places.items()
        if place is None or best[path.with_name(path.name.removesuffix(SUFFIXES[place]))] == place
    ]  # fmt: skip


def folder_of(files: Sequence[Path]) -> Path:
    """The folder that holds all files; the working folder where that is the root."""
    common = Path(os.path.commonpath([os.path.realpath(path.parent) for path in files]))
    return Path.cwd() if common == Path(common.anchor) else common


def named(files: Sequence[Path], out: Path, pattern: str | None = None) -> list[Named]:
    """What files are called, and by their names which run, node and rank they are of; in that order.

    `out`: where results go, by the way from which to a report its folder there is known, so that both can be moved
    together. `pattern`: a regular expression with groups among `PLACES`. Unless it tells the run, that is the path
    without the rank in the file's name: reports of one folder that differ in nothing else are of one run. Raises
    ValueError for a pattern that is none, or has other groups.
    """
    base = folder_of(files)
    said = _told(files, pattern)
    found = []
    for number, path in enumerate(files):
        name = _from(path, base)
        told = {place: values[number] for place, values in said.items()}
        rank, rank_from = _rank(told.get("rank"), path.name)
        key = hashlib.sha256(os.fsencode(_from(path, out))).hexdigest()[:12]
        stem = re.sub(r"[^A-Za-z0-9._-]", "_", _stem(path.name))[:_NAME]
        run = told.get("run") or _run(name)
        found.append(Named(path, name, f"{stem}-{key}", run, told.get("node"), rank, rank_from))
    return sorted(found, key=_order)


def _told(files: Sequence[Path], pattern: str | None) -> dict[str, list[str | None]]:
    """What a pattern finds in the paths, by its groups. Raises `PatternTooSlow`, and ValueError for what is none."""
    if pattern is None:
        return {}
    paths = [str(path) for path in files]
    return {group: group_found([pattern], paths, group) for group in name_pattern(pattern).groupindex}


def name_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern for names of reports. Raises ValueError for what is none."""
    try:
        found = compiled(pattern)
    except re.error as error:
        raise ValueError(f"'{pattern}' is no regular expression: {error}.") from error
    if not found.groupindex or not set(found.groupindex) <= set(PLACES):
        raise ValueError(f"'{pattern}' must have groups among {', '.join(f'(?P<{one}>…)' for one in PLACES)}.")
    return found


def _order(one: Named) -> tuple[object, ...]:
    rank = -1 if one.rank is None else one.rank
    return natural(one.run), one.run, rank, natural(one.node or ""), natural(one.name)


def _from(path: Path, base: Path) -> str:
    return os.path.relpath(os.path.realpath(path), os.path.realpath(base))


def _rank(told: str | None, name: str) -> tuple[int | None, str | None]:
    """The rank that the pattern says, or the file's name, and which of both said it."""
    if told is not None and told.isdecimal():
        return int(told), BY_PATTERN
    found = RANK.search(_stem(name))
    return (int(found[1]), BY_NAME) if found else (None, None)


def _run(name: str) -> str:
    folder, file = os.path.split(name)
    stem = _stem(file)
    return os.path.join(folder, RANK.sub("", stem, count=1).strip("._-") or ("" if folder else stem)).rstrip("/")  # noqa: PTH118


def _stem(name: str) -> str:
    return next((name.removesuffix(one) for one in SUFFIXES if name.endswith(one)), name)
