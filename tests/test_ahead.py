"""SQLite's check of a report, begun while modules are loaded: once, and of the file that is read."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from dsprof.cli import app
from dsprof.errors import DsprofError, ReportDamaged
from dsprof.nsys import ahead, inputs
from dsprof.nsys.inputs import Input
from dsprof.nsys.sound import check_file
from trace_builder import KERNEL, TraceBuilder


@pytest.fixture
def report(tmp_path: Path) -> Path:
    made = TraceBuilder().gpu().range("prefill", 0, 50_000).range("decode", 50_000, 900_000)
    for at in range(0, 750_000, 2500):
        made.kernel(f"gemm{at % 7}", at=(3000 + at, 5000 + at), call=(1000 + at, 1500 + at))
    return made.write(tmp_path / "run.sqlite")


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The files that were checked, and whether in a thread that nobody waits for at the end."""
    found: list[tuple[str, bool]] = []

    def noted(path: Path, name: str) -> None:
        found.append((path.name, threading.current_thread().daemon))
        check_file(path, name)

    monkeypatch.setattr(ahead, "check_file", noted)
    monkeypatch.setattr(inputs, "_RECENT_NS", 0)  # what a test writes changed a moment ago
    return found


def analyze(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["analyze", *map(str, arguments)])


def test_a_report_is_checked_once_and_ahead(report: Path, checked: list[tuple[str, bool]]) -> None:
    assert analyze(report).exit_code == 0
    assert checked == [(report.name, True)]


def test_a_report_that_changed_a_moment_ago_is_checked_when_it_is_read(
    report: Path, checked: list[tuple[str, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "_RECENT_NS", 3600 * 10**9)
    assert analyze(report).exit_code == 0
    assert checked == [(report.name, False)]


def test_results_that_are_there_need_no_check_but_to_read_again_does(
    report: Path, checked: list[tuple[str, bool]]
) -> None:
    assert analyze(report).exit_code == 0
    assert analyze(report).exit_code == 0
    assert len(checked) == 1
    assert analyze(report, "--again").exit_code == 0
    assert len(checked) == 2


def test_of_changed_results_the_report_is_checked_as_well(report: Path, checked: list[tuple[str, bool]]) -> None:
    assert analyze(report).exit_code == 0
    assert analyze(report, "--stage", "decode=prefill").exit_code == 0
    assert checked == [(report.name, True), (report.name, False)]


def spoil(path: Path) -> None:
    """Have an index say what the table does not: SQLite's check alone sees it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute(f'CREATE INDEX mine ON "{KERNEL}" ("start")')
    data = path.read_bytes()
    places = [place.start() for place in re.finditer(re.escape((253_000).to_bytes(3, "big")), data)]
    (at,) = [place for place in places if data[place // 4096 * 4096] == 13]  # a leaf of a table, not of the index
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def test_what_it_finds_is_told_as_ever(report: Path, checked: list[tuple[str, bool]]) -> None:
    spoil(report)
    said = analyze(report).exception
    assert checked == [(report.name, True)]
    with pytest.raises(ReportDamaged, match="missing from index mine") as alone:
        check_file(report, report.name)
    assert isinstance(said, ReportDamaged)
    assert str(said) == str(alone.value)


def test_of_a_file_that_changed_meanwhile_the_check_is_done_anew(
    report: Path, tmp_path: Path, checked: list[tuple[str, bool]]
) -> None:
    other = tmp_path / "other.sqlite"
    shutil.copyfile(report, other)
    spoil(other)
    ahead.begin(report)
    other.replace(report)  # sound when the check began, and not the file that is read
    with pytest.raises(ReportDamaged):
        ahead.check(Input(report))
    assert checked == [(report.name, True), (report.name, False)]


def test_what_is_no_sqlite_file_is_left_alone(report: Path, tmp_path: Path, checked: list[tuple[str, bool]]) -> None:
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to
    shutil.copyfile(__file__, tmp_path / "run.nsys-rep")
    (tmp_path / "empty.sqlite").touch()
    for name in ("pipe", "run.nsys-rep", "empty.sqlite", "missing.sqlite", ".", "n" * 5000):
        ahead.begin(tmp_path / name)
    assert not checked
    for name in ("missing.sqlite", "pipe", "n" * 5000):
        assert isinstance(analyze(tmp_path / name).exception, DsprofError)


def test_our_own_copy_is_not_checked(report: Path, checked: list[tuple[str, bool]]) -> None:
    ahead.check(Input(report, kept=True))
    assert not checked
