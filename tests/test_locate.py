"""From a named file or folder to an export that can be read: what is redone, what is kept, what is left."""

from __future__ import annotations

import gzip
import lzma
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dsprof.errors import (
    NoReportInFolder,
    NotAReport,
    NsysMissing,
    OutputRefused,
    ReportDamaged,
    ReportEmpty,
    ReportMissing,
)
from dsprof.nsys import command
from dsprof.nsys.locate import locate
from nsys_stats import Nsys
from trace_builder import TraceBuilder


@pytest.fixture(autouse=True)
def no_nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without nsys, for everything that names none."""
    monkeypatch.setattr(command, "_USUAL_PLACES", ())
    monkeypatch.delenv("DSPROF_NSYS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "reports"
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small whole export."""
    return TraceBuilder().range("prefill", 0, 10).write(tmp_path_factory.mktemp("made") / "made.sqlite")


class Counted:
    """The real nsys behind a script that writes down when it was asked to export."""

    def __init__(self, nsys: Nsys, folder: Path) -> None:
        self.path, self._log = folder / "counting-nsys", folder / "exports"
        self.path.write_text(f'#!/bin/sh\n[ "$1" = export ] && echo >> {self._log}\nexec {nsys.path} "$@"\n')
        self.path.chmod(0o755)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def exports(self) -> int:
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0


@pytest.fixture
def counted(primary: Nsys, tmp_path: Path) -> Counted:
    return Counted(primary, tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def age(path: Path, seconds: int) -> None:
    """Make a file so many seconds older than it is."""
    moment = path.stat().st_mtime_ns - seconds * 10**9
    os.utime(path, ns=(moment, moment))


def tables(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}


# -- a report and the export of it ----------------------------------------------------------------------


@pytest.mark.nsys
@pytest.mark.parametrize("suffix", [".nsys-rep", ".qdrep"])
def test_report_is_exported_once_beside_itself(suffix: str, recorded: Path, counted: Counted, folder: Path) -> None:
    report = Path(shutil.copy(recorded, folder / f"my.run{suffix}"))
    said: list[str] = []
    assert locate(report, str(counted), said.append) == (report, folder / "my.run.sqlite")
    assert names(folder) == sorted([report.name, "my.run.sqlite"])
    assert said == [f"exporting {report.name} with nsys"]
    before = (folder / "my.run.sqlite").stat()
    assert locate(report, str(counted)) == (report, folder / "my.run.sqlite")
    assert counted.exports == 1
    assert (folder / "my.run.sqlite").stat() == before


@pytest.mark.nsys
def test_export_older_than_the_report_is_redone(recorded: Path, counted: Counted, made: Path, folder: Path) -> None:
    report = Path(shutil.copy(recorded, folder))
    age(Path(shutil.copy(made, folder / "run.sqlite")), 60)
    locate(report, str(counted))
    assert counted.exports == 1
    assert (folder / "run.sqlite").read_bytes() != made.read_bytes()


def stump(export: Path) -> None:
    """What a disk that filled up leaves: the first tables, in a file that is consistent in itself."""
    with closing(sqlite3.connect(export)) as database:
        database.execute("DROP TABLE META_DATA_EXPORT")
        database.commit()


def cut(export: Path) -> None:
    os.truncate(export, export.stat().st_size - 4096)


def empty(export: Path) -> None:
    export.write_bytes(b"")


def zeros(export: Path) -> None:
    export.write_bytes(bytes(50_000))


@pytest.mark.nsys
@pytest.mark.parametrize("harm", [stump, cut, empty, zeros])
def test_partial_export_is_redone(
    harm: Callable[[Path], None], recorded: Path, counted: Counted, made: Path, folder: Path
) -> None:
    report = Path(shutil.copy(recorded, folder))
    harm(Path(shutil.copy(made, folder / "run.sqlite")))
    age(report, 60)
    locate(report, str(counted))
    assert counted.exports == 1
    assert "META_DATA_EXPORT" in tables(folder / "run.sqlite")


@pytest.mark.parametrize("harm", [stump, cut, empty, zeros])
def test_partial_export_without_any_nsys_is_not_taken(harm: Callable[[Path], None], made: Path, folder: Path) -> None:
    (folder / "run.nsys-rep").write_bytes(b"NVIDIA Tegra Profiler Report\x00")
    harm(Path(shutil.copy(made, folder / "run.sqlite")))
    before = (folder / "run.sqlite").read_bytes()
    with pytest.raises(NsysMissing):
        locate(folder)
    assert (folder / "run.sqlite").read_bytes() == before


def test_whole_newer_export_needs_no_nsys(made: Path, folder: Path) -> None:
    report = folder / "run.nsys-rep"
    report.write_bytes(b"NVIDIA Tegra Profiler Report\x00")
    export = Path(shutil.copy(made, folder / "run.sqlite"))
    before = export.stat()
    assert locate(report) == (report, export)
    assert export.stat().st_mtime_ns == before.st_mtime_ns
    age(export, 60)
    with pytest.raises(NsysMissing):
        locate(report)


@pytest.mark.nsys
def test_nsys_of_the_environment(
    recorded: Path, counted: Counted, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPROF_NSYS", str(counted))
    locate(Path(shutil.copy(recorded, folder)))
    assert counted.exports == 1


def test_export_itself_is_taken_as_it_is(made: Path, folder: Path) -> None:
    for name in ("run.sqlite", "run.db", "no-suffix", "wrong.nsys-rep"):
        path = Path(shutil.copy(made, folder / name))
        assert locate(path) == (path, path)


# -- folders --------------------------------------------------------------------------------------------


def test_folder_with_one_report(made: Path, folder: Path) -> None:
    export = Path(shutil.copy(made, folder / "any.sqlite"))
    (folder / "notes.txt").write_text("")
    assert locate(folder) == (export, export)


def test_folder_with_a_report_and_the_export_of_it(made: Path, folder: Path) -> None:
    report, export = folder / "run.nsys-rep", Path(shutil.copy(made, folder / "run.sqlite"))
    report.write_bytes(b"NVIDIA Tegra Profiler Report\x00")
    age(report, 60)
    assert locate(folder) == (report, export)


def test_folder_with_run_among_others(made: Path, folder: Path) -> None:
    for name in ("a.sqlite", "run.sqlite", "z.sqlite"):
        shutil.copy(made, folder / name)
    assert locate(folder)[1] == folder / "run.sqlite"


def test_folder_with_two_reports(made: Path, folder: Path) -> None:
    for name in ("a.sqlite", "b.sqlite"):
        shutil.copy(made, folder / name)
    with pytest.raises(NoReportInFolder, match="holds 2 reports"):
        locate(folder)


def test_folder_with_none(folder: Path) -> None:
    (folder / "notes.txt").write_text("")
    with pytest.raises(NoReportInFolder, match="holds no report"):
        locate(folder)


# -- packed exports -------------------------------------------------------------------------------------

PACK = {".xz": lzma.compress, ".gz": gzip.compress}


@pytest.mark.parametrize("suffix", PACK)
def test_packed_export_is_unpacked_once(suffix: str, made: Path, folder: Path) -> None:
    packed = folder / f"my.run.sqlite{suffix}"
    packed.write_bytes(PACK[suffix](made.read_bytes()))
    said: list[str] = []
    assert locate(packed, progress=said.append) == (folder / "my.run.sqlite", folder / "my.run.sqlite")
    assert (folder / "my.run.sqlite").read_bytes() == made.read_bytes()
    assert names(folder) == ["my.run.sqlite", packed.name]
    locate(packed, progress=said.append)
    assert said == [f"unpacking {packed.name}"]


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("harm", ["cut", "middle", "end"])
def test_damaged_packed_export(suffix: str, harm: str, made: Path, folder: Path) -> None:
    packed = folder / f"run.sqlite{suffix}"
    content = bytearray(PACK[suffix](made.read_bytes()))
    if harm == "cut":
        del content[len(content) // 2 :]
    else:
        at = len(content) // 2 if harm == "middle" else len(content) - 16
        content[at : at + 8] = bytes(255 - byte for byte in content[at : at + 8])
    packed.write_bytes(content)
    with pytest.raises(ReportDamaged, match=r"run\.sqlite\.\w+ is cut or damaged"):
        locate(packed)
    assert names(folder) == [packed.name]


def test_every_damage_of_a_packed_export_is_told(made: Path, folder: Path) -> None:
    packed = folder / "run.sqlite.gz"
    whole = gzip.compress(made.read_bytes())
    for at in range(10, len(whole), max(len(whole) // 60, 1)):
        packed.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        with pytest.raises(ReportDamaged):
            locate(packed)
    assert names(folder) == [packed.name]


@pytest.mark.parametrize("content", [b"some text\n", b"NVIDIA Tegra Profiler Report\x00\x01\x02", b""])
@pytest.mark.parametrize("suffix", PACK)
def test_packed_file_that_is_no_export(suffix: str, content: bytes, made: Path, folder: Path) -> None:
    packed = folder / f"run.nsys-rep{suffix}"
    packed.write_bytes(PACK[suffix](content))
    with pytest.raises((NotAReport, ReportEmpty)):
        locate(packed)
    assert names(folder) == [packed.name]


def test_packed_export_newer_than_what_is_unpacked(made: Path, folder: Path) -> None:
    packed, target = folder / "run.sqlite.xz", Path(shutil.copy(made, folder / "run.sqlite"))
    newer = TraceBuilder().range("decode", 0, 20).write(folder / "newer.sqlite").read_bytes()
    packed.write_bytes(lzma.compress(newer))
    age(target, 60)
    locate(packed)
    assert target.read_bytes() == newer


# -- what is no report ----------------------------------------------------------------------------------


def test_nothing_of_that_name(folder: Path) -> None:
    for name in ("absent.nsys-rep", "absent/absent.sqlite", "x" * 300):
        with pytest.raises(ReportMissing):
            locate(folder / name)


@pytest.mark.parametrize("name", ["run.sqlite", "run.nsys-rep", "run.qdrep"])
def test_empty_file(name: str, folder: Path) -> None:
    (folder / name).touch()
    with pytest.raises(ReportEmpty, match=name):
        locate(folder / name)


@pytest.mark.parametrize("name", ["run.sqlite", "run.nsys-rep", "run.qdrep", "run.csv"])
def test_text_file(name: str, folder: Path) -> None:
    (folder / name).write_text("Time (%),Total Time (ns)\n" * 1000)
    with pytest.raises(NotAReport, match="is a text file"):
        locate(folder / name)


def test_other_binary_file(folder: Path) -> None:
    (folder / "run.bin").write_bytes(bytes(range(256)) * 100)
    with pytest.raises(NotAReport, match="neither"):
        locate(folder / "run.bin")


def test_raw_capture(folder: Path) -> None:
    (folder / "run.qdstrm").write_bytes(bytes(100))
    with pytest.raises(NotAReport, match="never imported"):
        locate(folder / "run.qdstrm")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no folder here in which nobody can write")
def test_report_in_a_folder_where_nothing_can_be_written(made: Path, folder: Path, counted: Counted) -> None:
    packed = folder / "run.sqlite.xz"
    packed.write_bytes(lzma.compress(made.read_bytes()))
    with packed.open("rb") as file, pytest.raises(OutputRefused, match="cannot be unpacked"):
        locate(Path(f"/proc/self/fd/{file.fileno()}"))
    report = folder / "run.nsys-rep"
    report.write_bytes(b"NVIDIA Tegra Profiler Report\x00")
    with report.open("rb") as file, pytest.raises(OutputRefused, match="cannot be written"):
        locate(Path(f"/proc/self/fd/{file.fileno()}"), str(counted))
    assert counted.exports == 0
