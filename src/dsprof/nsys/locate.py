"""From what a user names (export, report, session folder) to an SQLite export that can be read."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from dsprof.errors import NotAReport, NsysMissing, ReportEmpty, ReportMissing
from dsprof.nsys.cache import keep, keep_parts, kept
from dsprof.nsys.command import clear_scratch, export, find_nsys, is_whole, made_from, nsys_version
from dsprof.nsys.folders import REPORT_SUFFIXES, report_in
from dsprof.nsys.inputs import Input
from dsprof.nsys.reader import Progress
from dsprof.nsys.schema import VERSION_TABLES
from dsprof.nsys.side_by_side import export_side_by_side, jobs_for
from dsprof.nsys.sound import SQLITE, check_file, read_only
from dsprof.nsys.unpack import Chunks, unpack, unpacker

#: How a .nsys-rep or .qdrep begins, in every version seen.
_REPORT = b"NVIDIA Tegra Profiler Report"
_RECORD = "Record one with `nsys profile --trace=cuda,nvtx`."
#: Bytes of a report among which stands the identity of its recording: after the environment of the program.
_FRONT_BYTES = 4 << 20


def locate(
    path: Path,
    nsys: str | None = None,
    progress: Progress = lambda sentence: None,
    anew: bool = False,
    threads: int | None = None,
) -> tuple[Path, Input]:
    """The report that `path` means, and the SQLite export to read.

    An export is read as it is. A report is exported, and a packed export unpacked, into the cache (`cache_folder`),
    under the hash of its content, and never beside it; the export that nsys or a capture made beside a report is used
    where it holds the same recording. `anew`: export with the nsys that is found, if another one made what is kept.
    `threads`: how many nsys may export a large report side by side, as many as there are cores unless given.
    Raises `ReportMissing`, `NoReportInFolder`, `ReportEmpty`, `NotAReport`, `ReportChanging`, and what `export` and
    `unpack` raise.
    """
    if not os.path.exists(path):  # noqa: PTH110  Path raises for a name that is too long
        raise ReportMissing(f"There is no file or folder {path}.", "See whether its name is spelled right.")
    report = report_in(path, progress) if path.is_dir() else path
    head = _head(report)
    if head.startswith(SQLITE):
        return report, Input(report)
    chunks = unpacker(head)
    if chunks is None:
        _refuse_others(report, head)
    before = Input(report)
    found = _unpacked(before, chunks, progress) if chunks else _exported(before, nsys, progress, anew, threads)
    before.check()
    return _stem(report), found


def _unpacked(packed: Input, chunks: Chunks, progress: Progress) -> Input:
    name = _stem(packed.path).name
    if there := kept(packed.sha256, name, "unpacked"):
        return there
    progress(f"unpacking {packed.name}")

    def make(target: Path) -> None:
        unpack(packed.path, chunks, target)
        check_file(target, name)

    return keep(packed.sha256, name, "unpacked", make)


def _exported(report: Input, nsys: str | None, progress: Progress, anew: bool, threads: int | None) -> Input:
    clear_scratch()  # also where no nsys is run any more, since the killed one's export was done
    beside = report.path.with_suffix(".sqlite")
    if not anew:
        if _is_export_of(beside, report):
            return Input(beside, report.name, report.sha256)
        if there := kept(report.sha256, report.name):
            return there
    try:
        chosen = find_nsys(nsys)
    except NsysMissing as error:
        if beside.exists():
            error.hint = f"{error.hint} If {beside.name} is an export of this report, name that."
        raise
    if there := kept(report.sha256, report.name, _maker(chosen)):
        return there
    return export_into_cache(report, chosen, jobs_for(report, chosen, threads), progress)


def export_into_cache(report: Input, nsys: Path, jobs: int, progress: Progress, command: Sequence[str] = ()) -> Input:
    """The export of a report in the cache, made by so many nsys side by side; `command` as for `command.export`.

    Raises what that does.
    """
    progress(f"exporting {report.name} with {'nsys' if jobs == 1 else f'{jobs} nsys side by side'}")
    if jobs == 1:
        return keep(report.sha256, report.name, _maker(nsys), lambda target: export(report, target, nsys, command))

    def make(folder: Path) -> None:
        export_side_by_side(report, folder, nsys, jobs, command)

    return keep_parts(report.sha256, report.name, _maker(nsys), make)


def _maker(nsys: Path) -> str:
    return f"nsys-{nsys_version(nsys) or 'unknown'}"


def _is_export_of(exported: Path, report: Input) -> bool:
    """Is the file beside a report a whole export of this very recording?

    dsprof's own say it by the hash of the report; nsys's by the identity of the recording, which stands in the report.
    """
    if not is_whole(exported):
        return False
    marked = made_from(exported)
    return marked == report.sha256 if marked else _recording_of(exported) in _front(report.path)


def _front(report: Path) -> bytes:
    with report.open("rb") as file:
        return file.read(_FRONT_BYTES)


def _recording_of(exported: Path) -> bytes:
    """The identity of the recording that an export of nsys is of, whole; a text that no report holds for any other."""
    nothing = b"no recording\n\0"
    try:
        with closing(read_only(exported)) as database:
            about = dict(database.execute(f"SELECT name, value FROM {VERSION_TABLES[-1]}"))  # noqa: S608
            capture = "SELECT value FROM META_DATA_CAPTURE WHERE name = 'PROFILING_SESSION_UUID'"
            identity = next(iter(database.execute(capture)), ("",))[0]
    except (sqlite3.Error, UnicodeDecodeError):
        return nothing
    parts = any(about.get(f"EXPORT_PARAM_{part}_TO_EXPORT") for part in ("TABLES", "TIMES"))
    return nothing if parts or len(str(identity)) < len("473080e1-7572-4226") else str(identity).encode()


def _stem(report: Path) -> Path:
    """The report's name without the suffix that says how it is packed."""
    return report.with_suffix("") if report.suffix in (".xz", ".gz") else report


def _head(path: Path) -> bytes:
    """How the file begins. Raises `NotAReport` for what is no file: a FIFO or a device may never answer."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise NotAReport(f"{path} is no file: a pipe, a device or a socket.", "Copy the report to a file first.")
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise ReportMissing(f"{path} cannot be read ({error.strerror}).", "See who may read it.") from error
    if not head:
        raise ReportEmpty(f"{path.name} is empty.", "The recording or the copy broke off: record or copy it again.")
    return head


def _refuse_others(path: Path, head: bytes) -> None:
    """Refuse what is no report; whether a binary file with a report's suffix is one, nsys must say."""
    if path.suffix == ".qdstrm":
        raise NotAReport(
            f"{path.name} is a raw capture that was never imported.",
            "Import it with the QdstrmImporter of the nsys that recorded it.",
        )
    if head.startswith(_REPORT):
        return
    if b"\x00" not in head:
        raise NotAReport(f"{path.name} is a text file, not an Nsight Systems report.", _RECORD)
    if path.suffix not in REPORT_SUFFIXES:
        raise NotAReport(f"{path.name} is neither an SQLite export nor a .nsys-rep report.", _RECORD)
