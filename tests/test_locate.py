"""From a named file or folder to an export that can be read: what is redone, what is kept, what is left."""

from __future__ import annotations

import fcntl
import gc
import gzip
import lzma
import os
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

import nsys_stats
from dsprof.errors import (
    ExportFailed,
    NoReportInFolder,
    NoSpace,
    NotAReport,
    NsysMissing,
    OutputRefused,
    ReportDamaged,
    ReportEmpty,
    ReportMissing,
)
from dsprof.nsys import cache as cache_module
from dsprof.nsys import command, unpack
from dsprof.nsys.command import made_from, run_nsys
from dsprof.nsys.inputs import sha256_of
from dsprof.nsys.locate import locate
from nsys_stats import OLD, Nsys, require
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
def test_report_is_exported_once_and_not_beside_itself(
    suffix: str, recorded: Path, counted: Counted, folder: Path, own_cache: Path
) -> None:
    report = Path(shutil.copy(recorded, folder / f"my.run{suffix}"))
    said: list[str] = []
    located, found = locate(report, str(counted), said.append)
    assert (located, found.name, found.path.parent) == (report, report.name, own_cache)
    assert found.sha256 == sha256_of(report) == made_from(found.path)
    assert names(folder) == [report.name]
    assert said == [f"exporting {report.name} with nsys"]
    assert locate(report, str(counted))[1].path == found.path
    moved = Path(shutil.copy(report, folder / f"other{suffix}"))
    assert locate(moved, str(counted))[1].path == found.path, "it is known by its content"
    assert counted.exports == 1


@pytest.mark.nsys
def test_an_export_of_another_recording_beside_a_report_is_neither_taken_nor_touched(
    recorded: Path, counted: Counted, made: Path, folder: Path, own_cache: Path
) -> None:
    report, other = Path(shutil.copy(recorded, folder)), Path(shutil.copy(made, folder / "run.sqlite"))
    age(report, 60)
    assert locate(report, str(counted))[1].path != other
    assert counted.exports == 1
    assert other.read_bytes() == made.read_bytes()


def exported_beside(nsys: Nsys, report: Path) -> Path:
    """What the user's own `nsys export` makes, older than the report."""
    target = report.with_suffix(".sqlite")
    ended = run_nsys(nsys.path, ["export", "--type=sqlite", f"--output={target}", str(report)], 300)
    assert ended.code == 0
    age(target, 60)
    return target


@pytest.mark.nsys
def test_what_nsys_itself_exported_beside_a_report_is_taken(
    recorded: Path, counted: Counted, primary: Nsys, folder: Path
) -> None:
    """Known by the identity of the recording, which stands in both, whatever their times."""
    report = Path(shutil.copy(recorded, folder / "run.nsys-rep"))
    beside = exported_beside(primary, report)
    assert locate(report, str(counted))[1].path == beside
    assert counted.exports == 0
    assert locate(report, str(counted), anew=True)[1].path != beside


@pytest.mark.nsys
def test_an_export_that_does_not_say_of_which_recording_it_is_is_not_taken(
    counted: Counted, folder: Path, own_cache: Path
) -> None:
    nsys = require(OLD)
    toy = [sys.executable, "-m", "dsprof.workloads.toy", "1", "4"]
    report = nsys_stats.record(nsys, folder / "run.nsys-rep", toy)
    beside = exported_beside(nsys, report)
    assert locate(report, str(counted))[1].path != beside
    assert counted.exports == 1


@pytest.mark.nsys
def test_part_of_a_recording_beside_a_report_is_not_taken(
    recorded: Path, primary: Nsys, counted: Counted, folder: Path
) -> None:
    report, part = Path(shutil.copy(recorded, folder)), folder / "run.sqlite"
    run_nsys(primary.path, ["export", "--type=sqlite", "--tables=NVTX.*", f"--output={part}", str(report)], 300)
    if not part.exists():
        pytest.skip(f"nsys {primary.version} exports no part")
    assert locate(report, str(counted))[1].path != part


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
    harm: Callable[[Path], None], recorded: Path, counted: Counted, folder: Path, own_cache: Path
) -> None:
    report = Path(shutil.copy(recorded, folder))
    harm(locate(report, str(counted))[1].path)
    found = locate(report, str(counted))[1].path
    assert counted.exports == 2
    assert "META_DATA_EXPORT" in tables(found)
    assert names(own_cache) == [found.name]


@pytest.mark.parametrize("harm", [stump, cut, empty, zeros, lambda export: None])
def test_an_export_that_is_not_of_the_report_is_not_taken(
    harm: Callable[[Path], None], made: Path, folder: Path
) -> None:
    (folder / "run.nsys-rep").write_bytes(b"NVIDIA Tegra Profiler Report\x00")
    harm(Path(shutil.copy(made, folder / "run.sqlite")))
    before = (folder / "run.sqlite").read_bytes()
    with pytest.raises(NsysMissing) as raised:
        locate(folder)
    assert "If run.sqlite is an export of this report, name that." in raised.value.hint
    assert (folder / "run.sqlite").read_bytes() == before


def test_export_of_a_capture_needs_no_nsys(made: Path, folder: Path) -> None:
    report = folder / "run.nsys-rep"
    report.write_bytes(b"NVIDIA Tegra Profiler Report\x00")
    export = Path(shutil.copy(made, folder / "run.sqlite"))
    command._mark(export, sha256_of(report))
    located, found = locate(report)
    assert (located, found.path, found.sha256) == (report, export, sha256_of(report))
    report.write_bytes(b"NVIDIA Tegra Profiler Report\x00 of another recording")
    with pytest.raises(NsysMissing):
        locate(report)


@pytest.mark.nsys
def test_nsys_of_the_environment(
    recorded: Path, counted: Counted, folder: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setenv("DSPROF_NSYS", str(counted))
    locate(Path(shutil.copy(recorded, folder)))
    assert counted.exports == 1


@pytest.mark.nsys
def test_another_nsys_exports_again_where_all_is_to_be_done_anew(
    recorded: Path, counted: Counted, folder: Path, own_cache: Path
) -> None:
    report, old = Path(shutil.copy(recorded, folder)), folder / "older"
    first = locate(report, str(counted))[1].path
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo version 2099.1.1 && exit\nexit 1\n')
    old.chmod(0o755)
    assert locate(report, str(old))[1].path == first
    with pytest.raises(ExportFailed, match=r"2099\.1\.1"):
        locate(report, str(old), anew=True)
    assert locate(report, str(counted), anew=True)[1].path == first
    assert counted.exports == 1


def test_export_itself_is_taken_as_it_is(made: Path, folder: Path) -> None:
    for name in ("run.sqlite", "run.db", "no-suffix", "wrong.nsys-rep", "wrong.xz"):
        path = Path(shutil.copy(made, folder / name))
        assert locate(path)[1].path == path


# -- folders --------------------------------------------------------------------------------------------


def test_folder_with_one_report(made: Path, folder: Path) -> None:
    export = Path(shutil.copy(made, folder / "any.sqlite"))
    (folder / "notes.txt").write_text("")
    assert locate(folder)[1].path == export


def test_folder_with_a_report_and_the_export_of_it(made: Path, folder: Path) -> None:
    report, export = folder / "run.nsys-rep", Path(shutil.copy(made, folder / "run.sqlite"))
    report.write_bytes(b"NVIDIA Tegra Profiler Report\x00")
    command._mark(export, sha256_of(report))
    assert locate(folder)[0] == report


def test_folder_with_run_among_others(made: Path, folder: Path) -> None:
    for name in ("a.sqlite", "run.sqlite", "z.sqlite"):
        shutil.copy(made, folder / name)
    assert locate(folder)[1].path == folder / "run.sqlite"


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
def test_packed_export_is_unpacked_once(suffix: str, made: Path, folder: Path, own_cache: Path) -> None:
    packed = folder / f"my.run.sqlite{suffix}"
    packed.write_bytes(PACK[suffix](made.read_bytes()))
    said: list[str] = []
    report, found = locate(packed, progress=said.append)
    assert (report, found.name, found.path.parent) == (folder / "my.run.sqlite", "my.run.sqlite", own_cache)
    assert found.path.read_bytes() == made.read_bytes()
    assert names(folder) == [packed.name]
    locate(packed, progress=said.append)
    assert said == [f"unpacking {packed.name}"]


def test_what_is_packed_under_the_name_of_what_is_in_it_stays(made: Path, folder: Path) -> None:
    packed = folder / "recording.sqlite"
    packed.write_bytes(lzma.compress(made.read_bytes()))
    before = packed.read_bytes()
    assert locate(packed)[1].path.read_bytes() == made.read_bytes()
    assert packed.read_bytes() == before
    assert names(folder) == [packed.name]


def test_streams_one_after_another_are_unpacked(made: Path, folder: Path) -> None:
    packed, content = folder / "run.sqlite.xz", made.read_bytes()
    packed.write_bytes(lzma.compress(content[:9000]) + bytes(8) + lzma.compress(content[9000:]))
    assert locate(packed)[1].path.read_bytes() == content


# -- bombs ----------------------------------------------------------------------------------------------


def head_of(pages: int) -> bytes:
    """The first page of a database that says that it has so many pages."""
    head = bytearray(b"SQLite format 3\0" + bytes(4080))
    head[16:18], head[28:32] = (4096).to_bytes(2, "big"), pages.to_bytes(4, "big")
    return bytes(head)


@pytest.mark.parametrize("suffix", PACK)
def test_a_bomb_is_told_by_its_first_bytes(suffix: str, folder: Path, own_cache: Path) -> None:
    packed = folder / f"bomb.sqlite{suffix}"
    packed.write_bytes(PACK[suffix](bytes(64 << 20)))
    with pytest.raises(NotAReport, match="holds no SQLite export"):
        locate(packed)
    packed.write_bytes(PACK[suffix](head_of(1 << 20) + bytes(1 << 20)))
    with pytest.raises(NotAReport, match="out of all proportion"):
        locate(packed)
    assert names(own_cache) == []


@pytest.mark.parametrize("suffix", PACK)
def test_what_is_unpacked_is_no_more_than_it_says(
    suffix: str, folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, written = folder / f"bomb.sqlite{suffix}", []
    packed.write_bytes(PACK[suffix](head_of(10) + bytes(256 << 20)))
    monkeypatch.setattr(unpack, "_CHUNK", 1 << 16)
    monkeypatch.setattr(unpack, "_SPARE_BYTES", 1 << 20)
    original = unpack._PACKED[packed.read_bytes()[:6] if suffix == ".xz" else packed.read_bytes()[:2]]

    def counted(file: BinaryIO) -> Iterator[bytes]:
        for chunk in original(file):
            written.append(len(chunk))
            yield chunk

    monkeypatch.setattr(unpack, "_PACKED", {b"": counted})
    with pytest.raises(ReportDamaged, match="more is in it than"):
        locate(packed)
    assert sum(written) < 4 << 20
    assert names(own_cache) == []


def test_no_room_for_what_is_unpacked(folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = folder / "run.sqlite.xz"
    packed.write_bytes(lzma.compress(head_of(1000) + bytes(999 * 4096)))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(NoSpace, match="unpacks to 4 MB"):
        locate(packed)
    assert names(own_cache) == []


# -- the cache ------------------------------------------------------------------------------------------


def pack(folder: Path, name: str, content: bytes) -> Path:
    path = folder / f"{name}.sqlite.xz"
    path.write_bytes(lzma.compress(content))
    return path


def test_what_was_not_used_for_longest_makes_room(
    folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [TraceBuilder().range(name, 0, 9).write(folder / name).read_bytes() for name in "abc"]
    monkeypatch.setattr(cache_module, "_MOST_BYTES", int(2.5 * len(whole[0])))
    first, second = (locate(pack(folder, name, content))[1].path for name, content in zip("ab", whole, strict=False))
    age(first, 50)
    age(second, 100)
    third = locate(pack(folder, "c", whole[2]))[1].path
    assert names(own_cache) == sorted([first.name, third.name])
    used = locate(folder / "a.sqlite.xz")[1]
    age(first, 100)
    locate(pack(folder, "b", whole[1]))
    assert used.path.exists(), "it is in use"
    assert not third.exists()


@pytest.mark.filterwarnings("error")
def test_an_export_that_nobody_holds_any_more_may_go(made: Path, folder: Path, own_cache: Path) -> None:
    """Also one that was part of a cycle, which is taken apart in any order and while anything else runs."""
    used = locate(pack(folder, "run", made.read_bytes()))[1]
    there, used.itself = used.path, used  # type: ignore[attr-defined]
    del used
    gc.collect()
    with there.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_nobody_else_may_read_the_cache(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPROF_CACHE", str(folder / "new" / "cache"))
    locate(pack(folder, "run", made.read_bytes()))
    assert (folder / "new" / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("named", [{"XDG_CACHE_HOME": "xdg"}, {"HOME": "home"}], ids=str)
def test_where_the_cache_is(named: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("DSPROF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, name in named.items():
        monkeypatch.setenv(variable, str(folder / name))
    inside = "xdg/dsprof/exports" if "XDG_CACHE_HOME" in named else "home/.cache/dsprof/exports"
    assert cache_module.cache_folder() == folder / inside


# -- packed exports that are none -----------------------------------------------------------------------


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


def test_another_content_of_the_same_time_and_size_is_unpacked_again(folder: Path) -> None:
    """`cp -p` brings another recording with the time that it has."""
    contents = [TraceBuilder().range(name, 0, 10).write(folder / name).read_bytes() for name in ("one", "two")]
    packed = pack(folder, "run", contents[0])
    before = packed.stat()
    assert locate(packed)[1].path.read_bytes() == contents[0]
    packed.write_bytes(lzma.compress(contents[1]).ljust(before.st_size, b"\0"))
    os.utime(packed, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert locate(packed)[1].path.read_bytes() == contents[1]


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


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(str(path))


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, unix_socket, device])
@pytest.mark.parametrize("name", ["run.sqlite", "run.nsys-rep"])
def test_a_pipe_a_socket_and_a_device_are_refused(make: Callable[[Path], None], name: str, folder: Path) -> None:
    make(folder / name)
    with pytest.raises(NotAReport, match=f"{name} is no file"):
        locate(folder / name)


def test_a_cache_in_which_nothing_can_be_written(made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("DSPROF_CACHE", str(folder / "file" / "cache"))
    with pytest.raises(OutputRefused, match=r"cannot be unpacked or exported.*DSPROF_CACHE"):
        locate(pack(folder, "run", made.read_bytes()))
