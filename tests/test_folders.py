"""Which report a folder means."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from dsprof.errors import NoReportInFolder
from dsprof.nsys.folders import report_in


def put(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("")


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["a.sqlite"], "a.sqlite"), (["a.sqlite.xz"], "a.sqlite.xz"), (["a.sqlite.gz", "notes.txt"], "a.sqlite.gz"),
        (["a.nsys-rep", "a.sqlite", "a.sqlite.xz"], "a.nsys-rep"), (["a.sqlite.xz", "a.sqlite"], "a.sqlite"),
        (["run.qdrep", "a.sqlite", "b.sqlite.xz"], "run.qdrep"),
    ],
)  # fmt: skip
def test_the_report_of_a_folder(names: list[str], taken: str, tmp_path: Path) -> None:
    put(tmp_path, *names)
    assert report_in(tmp_path) == tmp_path / taken


def test_several_reports_are_listed(tmp_path: Path) -> None:
    put(tmp_path, *(f"{number:02}.sqlite" for number in range(13)))
    with pytest.raises(NoReportInFolder, match=r"holds 13 reports: 00\.sqlite, 01\.sqlite.*09\.sqlite and 3 more\."):
        report_in(tmp_path)


def test_the_newest_of_several_sessions_is_taken_and_said(tmp_path: Path) -> None:
    for name, created in (("b-first", "2026-01-01T00:00:00+00:00"), ("a-last", "2026-03-01T00:00:00+00:00")):
        put(tmp_path / name, "run.sqlite")
        (tmp_path / name / "session.json").write_text(json.dumps({"created": created}))
    put(tmp_path / "broken", "run.sqlite", "session.json")
    put(tmp_path / "empty", "session.json")
    said: list[str] = []
    assert report_in(tmp_path, said.append) == tmp_path / "a-last" / "run.sqlite"
    assert said == ["taking the newest of 3 sessions, a-last"]
    shutil.rmtree(tmp_path / "broken")
    shutil.rmtree(tmp_path / "a-last")
    assert report_in(tmp_path, said.append) == tmp_path / "b-first" / "run.sqlite"
    assert len(said) == 1, "there is but one"


def test_a_folder_that_holds_none(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").mkdir()
    with pytest.raises(NoReportInFolder, match="holds no report"):
        report_in(tmp_path)
