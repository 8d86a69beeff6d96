"""From what a user names (export, report, session folder) to an SQLite export that can be read."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

from dsprof.errors import NoReportInFolder, NotAReport, OutputRefused, ReportDamaged, ReportEmpty, ReportMissing
from dsprof.nsys.command import export, find_nsys, is_whole
from dsprof.nsys.reader import Progress

_SQLITE = b"SQLite format 3\x00"
_PACKED: dict[bytes, Callable[[Path], lzma.LZMAFile | gzip.GzipFile]] = {
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x1f\x8b": gzip.GzipFile,
}
#: How a .nsys-rep or .qdrep begins, in every version seen.
_REPORT = b"NVIDIA Tegra Profiler Report"
_REPORT_SUFFIXES = (".nsys-rep", ".qdrep")
_RECORD = "Record one with `nsys profile --trace=cuda,nvtx`."


def locate(path: Path, nsys: str | None = None, progress: Progress = lambda sentence: None) -> tuple[Path, Path]:
    """The report that `path` means, and the SQLite export of it, made where there is none.

    A report is exported, and an export packed with xz or gzip unpacked, into the folder where it lies; what
    is there already is used only while it is newer and whole. Raises `ReportMissing`, `NoReportInFolder`,
    `ReportEmpty`, `NotAReport`, and what `export` raises.
    """
    if not os.path.exists(path):  # noqa: PTH110  Path raises for a name that is too long
        raise ReportMissing(f"There is no file or folder {path}.", "See whether its name is spelled right.")
    report = _in_folder(path) if path.is_dir() else path
    head = _head(report)
    if head.startswith(_SQLITE):
        return report, report
    unpack = next((opener for magic, opener in _PACKED.items() if head.startswith(magic)), None)
    target = _stem(report).with_suffix(".sqlite")
    if not _is_current(target, report):
        if unpack is not None:
            progress(f"unpacking {report.name}")
            _unpack(unpack, report, target)
        else:
            _refuse_others(report, head)
            chosen = find_nsys(nsys)
            progress(f"exporting {report.name} with nsys")
            export(report, target, chosen)
    return _stem(report), target


def _stem(report: Path) -> Path:
    """The report's name without the suffix that says how it is packed."""
    return report.with_suffix("") if report.suffix in (".xz", ".gz") else report


def _in_folder(folder: Path) -> Path:
    """The one report of a folder: ``run`` where there is one, a report before the export of it."""
    files = [path for suffix in (*_REPORT_SUFFIXES, ".sqlite") for path in sorted(folder.glob(f"*{suffix}"))]
    stems = sorted({path.stem for path in files})
    if not stems:
        raise NoReportInFolder(f"The folder {folder} holds no report (.nsys-rep, .qdrep or .sqlite).", _RECORD)
    if len(stems) > 1 and "run" not in stems:
        raise NoReportInFolder(f"The folder {folder} holds {len(stems)} reports.", "Name the one that is meant.")
    stem = "run" if "run" in stems else stems[0]
    return next(path for path in files if path.stem == stem)


def _head(path: Path) -> bytes:
    try:
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
    if path.suffix not in _REPORT_SUFFIXES:
        raise NotAReport(f"{path.name} is neither an SQLite export nor a .nsys-rep report.", _RECORD)


def _is_current(target: Path, report: Path) -> bool:
    """Is there a whole export that is newer than the report?"""
    return target.is_file() and target.stat().st_mtime_ns >= report.stat().st_mtime_ns and is_whole(target)


def _unpack(opener: Callable[[Path], lzma.LZMAFile | gzip.GzipFile], packed: Path, target: Path) -> None:
    """Unpack into a temporary name beside the target, then rename."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            partial = Path(folder, target.name)
            with opener(packed) as source, partial.open("wb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
            if not _head(partial).startswith(_SQLITE):
                raise NotAReport(
                    f"{packed.name} holds no SQLite export.", "Unpack it, and name the report that is in it."
                )
            partial.replace(target)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, zlib.error) as error:
        raise ReportDamaged(f"{packed.name} is cut or damaged ({error}).", "Copy it again.") from error
    except OSError as error:
        raise OutputRefused(
            f"{packed.name} cannot be unpacked in {target.parent} ({error.strerror}).",
            "Unpack it elsewhere, and name the .sqlite file.",
        ) from error
