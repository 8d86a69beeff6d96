"""The report that a folder means: of a session, of several reports, of several sessions."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from dsprof.errors import NoReportInFolder
from dsprof.ground.documents import parse_json

REPORT_SUFFIXES = (".nsys-rep", ".qdrep")
#: In the order in which one is taken of those that have one name: a report before its exports.
SUFFIXES = (*REPORT_SUFFIXES, ".sqlite", ".sqlite.xz", ".sqlite.gz")
_RECORD = "Record one with `nsys profile --trace=cuda,nvtx`."
_SESSION = "session.json"
#: So many reports are named of a folder that holds several.
_NAMED = 10


def report_in(folder: Path, progress: Callable[[str], None] = lambda sentence: None) -> Path:
    """The one report in a folder; ``run`` where there is one; of a folder of sessions that of the newest.

    Raises `NoReportInFolder`.
    """
    found = reports_in(folder, progress)
    if len(found) == 1:
        return found[0]
    names = [path.name for path in found]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise NoReportInFolder(
        f"The folder {folder} holds {len(names)} reports: {', '.join(names[:_NAMED])}{more}.",
        "Name the one that is meant; `dsprof analyze` takes all of them as one analysis.",
    )


def reports_in(folder: Path, progress: Callable[[str], None] = lambda sentence: None) -> list[Path]:
    """The report that a folder means as in `report_in`, or all of them where it holds several and none called ``run``.

    Raises `NoReportInFolder` where it holds none.
    """
    if not _reports(folder):
        sessions = sessions_in(folder)
        if not sessions:
            kinds = ", ".join(SUFFIXES)
            raise NoReportInFolder(f"The folder {folder} holds no report ({kinds}) and no session.", _RECORD)
        newest = max(sessions, key=_created)
        if len(sessions) > 1:
            progress(f"taking the newest of {len(sessions)} sessions, {newest.name}")
        return own_reports(newest)
    return own_reports(folder)


def own_reports(folder: Path) -> list[Path]:
    """The report ``run`` that lies in a folder itself, or else all that do; none where there is none."""
    found = _reports(folder)
    return [found["run"]] if "run" in found else list(found.values())


def sessions_in(folder: Path) -> list[Path]:
    """The folders of sessions in a folder that hold a report. Raises `NoReportInFolder` where it cannot be read."""
    return [path for path in _entries(folder) if os.path.isfile(path / _SESSION) and _reports(path)]  # noqa: PTH113  Path raises where it may not look


def _reports(folder: Path) -> dict[str, Path]:
    """The reports of a folder by their names without suffix, sorted."""
    files = sorted(path for path in _entries(folder) if os.path.isfile(path))  # noqa: PTH113
    found: dict[str, Path] = {}
    for suffix in SUFFIXES:
        for path in files:
            if path.name.endswith(suffix):
                found.setdefault(path.name.removesuffix(suffix), path)
    return dict(sorted(found.items()))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise NoReportInFolder(f"The folder {folder} cannot be looked into ({error.strerror}).", _RECORD) from error


def _created(session: Path) -> tuple[str, str]:
    """When a session was recorded, as its record says, and its name."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(parse_json((session / _SESSION).read_bytes())["created"]), session.name
    return "", session.name
