"""Finding nsys, running it, exporting with it; scripts stand in for nsys only where the real one cannot do it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from dsprof.errors import DsprofError, ExportFailed, NsysMissing, NsysTooOld, OutputRefused
from dsprof.findings import STRICT_EXITS
from dsprof.nsys import command
from dsprof.nsys.clean import clean
from dsprof.nsys.command import export, find_nsys, is_whole, nsys_version, run_nsys
from dsprof.nsys.inputs import Input
from nsys_stats import OLD, Nsys, require

AWKWARD = ["a b", "h#h", "q?q", "100%", "p%p", "%20", "ü-日本", "it's", "semi;$HOME"]


def script(path: Path, *lines: str) -> Path:
    """A program of a few lines of shell."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def of_version(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return script(path, f"echo NVIDIA Nsight Systems version {version}-012345v0")


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder for temporary files, so that a test sees what is left in it."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def report(tmp_path: Path) -> Input:
    """A file that a stand-in for nsys takes for a report."""
    path = tmp_path / "run.nsys-rep"
    path.write_text("a report")
    return Input(path)


@pytest.fixture
def no_nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without nsys."""
    monkeypatch.setattr(command, "_USUAL_PLACES", ())
    monkeypatch.delenv("DSPROF_NSYS", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


# -- which nsys -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_nsys")
def test_no_nsys_at_all() -> None:
    with pytest.raises(NsysMissing, match="none was found") as raised:
        find_nsys()
    assert "--nsys" in raised.value.hint
    assert "DSPROF_NSYS" in raised.value.hint


@pytest.mark.usefixtures("no_nsys")
def test_named_comes_before_environment_before_path_before_usual_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, environment, on_path, usual = (
        of_version(tmp_path / where / "nsys", "2024.1.1") for where in ("named", "environment", "path", "usual")
    )
    monkeypatch.setattr(command, "_USUAL_PLACES", (str(usual),))
    assert find_nsys() == usual
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_nsys() == on_path
    monkeypatch.setenv("DSPROF_NSYS", str(environment))
    assert find_nsys() == environment
    assert find_nsys(str(named)) == named


@pytest.mark.usefixtures("no_nsys")
def test_newest_of_the_usual_places_whatever_its_folder_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_version(tmp_path / "z9" / "nsys", "2023.9.4")
    newest = of_version(tmp_path / "a1" / "nsys", "2023.10.1")
    of_version(tmp_path / "none" / "nsys", "of nothing")
    (tmp_path / "not-executable").mkdir()
    (tmp_path / "not-executable" / "nsys").write_text("")
    monkeypatch.setattr(command, "_USUAL_PLACES", (f"{tmp_path}/*/nsys", f"{tmp_path}/absent/*/nsys"))
    assert find_nsys() == newest


@pytest.mark.usefixtures("no_nsys")
def test_broken_nsys_in_a_usual_place_does_not_hide_the_good_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = of_version(tmp_path / "good" / "nsys", "2023.4.4")
    broken = of_version(tmp_path / "broken" / "nsys", "2030.1.1")
    broken.write_text("#!/no/such/interpreter\n")
    monkeypatch.setattr(command, "_USUAL_PLACES", (f"{tmp_path}/*/nsys",))
    assert find_nsys() == good


@pytest.mark.usefixtures("no_nsys")
def test_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_USUAL_PLACES", ("~/.cache/dsprof/nsys/*/nsys",))
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)  # as in a container that gives every user a number
    with pytest.raises(NsysMissing):
        find_nsys()


def test_relative_and_home_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nsys = of_version(tmp_path / "here" / "my-nsys", "2024.1.1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_nsys("~/here/my-nsys") == nsys
    monkeypatch.chdir(tmp_path)
    assert find_nsys("here/my-nsys").resolve() == nsys
    monkeypatch.chdir(nsys.parent)
    assert find_nsys("./my-nsys").resolve() == nsys


@pytest.mark.parametrize("what", ["absent", "folder", "not-executable"])
@pytest.mark.parametrize("source", ["--nsys", "DSPROF_NSYS"])
def test_wrong_choice_is_no_reason_to_take_another(
    what: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(of_version(tmp_path / "path" / "nsys", "2024.1.1").parent))
    choice = tmp_path / what
    if what == "folder":
        choice.mkdir()
    elif what == "not-executable":
        choice.write_text("#!/bin/sh\n")
    if source == "DSPROF_NSYS":
        monkeypatch.setenv("DSPROF_NSYS", str(choice))
    with pytest.raises(NsysMissing) as raised:
        find_nsys(str(choice) if source == "--nsys" else None)
    assert raised.value.message.startswith(f"{source} names {choice}")


@pytest.mark.nsys
def test_version_of_the_real_nsys(primary: Nsys) -> None:
    assert int(nsys_version(primary.path).split(".")[0]) >= 2022


def test_program_that_prints_no_version(tmp_path: Path) -> None:
    assert nsys_version(script(tmp_path / "nsys", "echo hello")) == ""


# -- running it -----------------------------------------------------------------------------------------


def test_run_gives_both_streams_and_the_code_and_removes_its_temporary_folder(tmp_path: Path, temporary: Path) -> None:
    nsys = script(
        tmp_path / "nsys", 'echo "$@"', "echo complaint >&2", 'echo "$TMPDIR"', 'echo left > "$TMPDIR/left"', "exit 3"
    )
    outcome = run_nsys(nsys, ["a b", "*"], limit_s=30)
    first, second, folder = outcome.said.splitlines()
    assert (outcome.code, first, second) == (3, "a b *", "complaint")
    assert Path(folder).parent == temporary
    assert list(temporary.iterdir()) == []


def test_run_survives_output_that_is_no_utf8(tmp_path: Path) -> None:
    assert "\ufffd" in run_nsys(script(tmp_path / "nsys", r"printf '\377\n'"), [], limit_s=30).said


def alive(pid: int) -> bool:
    """Is there such a process, and not merely its last trace?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_hanging_nsys_is_ended_with_its_helpers(tmp_path: Path, temporary: Path) -> None:
    helper = tmp_path / "helper"
    nsys = tmp_path / "nsys"
    nsys.write_text(
        f"#!{sys.executable}\nimport subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        f"print('busy', flush=True)\nopen({str(helper)!r}, 'w').write(str(child.pid))\ntime.sleep(300)\n"
    )
    nsys.chmod(0o755)
    outcome = run_nsys(nsys, [], limit_s=3)
    assert outcome.code == 124
    assert "3 s" in outcome.said
    pid = int(helper.read_text())
    for _ in range(100):
        if not alive(pid):
            break
        time.sleep(0.05)
    assert not alive(pid)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("content", ["neither script nor program", "#!/no/such/interpreter\n"])
def test_file_that_cannot_be_run(content: str, tmp_path: Path) -> None:
    nsys = script(tmp_path / "nsys")
    nsys.write_text(content)
    with pytest.raises(NsysMissing, match="nsys"):
        run_nsys(nsys, ["--version"], limit_s=30)


# -- exporting ------------------------------------------------------------------------------------------


def ranges(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("SELECT count(*) FROM NVTX_EVENTS WHERE eventType = 59").fetchone()[0]


@pytest.mark.nsys
@pytest.mark.parametrize("name", AWKWARD)
def test_export_in_folders_with_awkward_names(
    name: str, primary: Nsys, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    folder, elsewhere = tmp_path / name, tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    report = Path(shutil.copy(recorded, folder / f"{name}.nsys-rep"))
    target = folder / f"{name}.sqlite"
    export(Input(report), target, primary.path)
    assert is_whole(target)
    assert ranges(target) == 1 + 1 + 1 + 3
    assert sorted(folder.iterdir()) == sorted([report, target])
    assert list(elsewhere.iterdir()) == list(temporary.iterdir()) == []


@pytest.mark.nsys
@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_export_of_a_cut_report(part: float, primary: Nsys, recorded: Path, tmp_path: Path, temporary: Path) -> None:
    report = tmp_path / "cut" / "cut.nsys-rep"
    report.parent.mkdir()
    whole = recorded.read_bytes()
    report.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(ExportFailed, match=r"cut\.nsys-rep .*exit code 1") as raised:
        export(Input(report), report.with_suffix(".sqlite"), primary.path)
    assert primary.version in raised.value.message
    assert list(report.parent.iterdir()) == [report]
    assert list(temporary.iterdir()) == []


@pytest.mark.nsys
def test_report_that_is_newer_than_nsys(primary: Nsys, recorded: Path, tmp_path: Path) -> None:
    old = require(OLD)
    if old.year >= primary.year:
        pytest.skip(f"nsys {primary.version} is not newer than {old.version}")
    report = Path(shutil.copy(recorded, tmp_path))
    with pytest.raises(NsysTooOld, match=old.version):
        export(Input(report), tmp_path / "run.sqlite", old.path)
    assert not (tmp_path / "run.sqlite").exists()


@pytest.mark.parametrize(
    "said",
    [
        "Version number is invalid: 11",
        "The report file is newer than your current version of Nsight Systems, please update.",
    ],
)
def test_words_of_an_nsys_for_a_newer_report(said: str, tmp_path: Path, report: Input) -> None:
    nsys = script(
        tmp_path / "nsys", '[ "$1" = --version ] && echo version 2022.1.2 && exit', f"echo '{said}'", "exit 1"
    )
    with pytest.raises(NsysTooOld, match=r"2022\.1\.2"):
        export(report, tmp_path / "run.sqlite", nsys)


STUMP = "for last; do :; done; for a; do case $a in --output=*) out=${a#--output=};; esac; done; "


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("exit 0", "said nothing"),
        ("echo; echo 'Failed to load the importer'; exit 0", "Failed to load the importer"),
        (STUMP + ': > "$out"', "said nothing"),
        (STUMP + 'head -c 5000 /dev/zero > "$out"', "said nothing"),
        (STUMP + 'echo ok; cp "$STUMP" "$out"', "ok"),
        (STUMP + 'cp "$WHOLE" "$out"; echo Disk error; exit 7', "Disk error"),
        ("kill -SEGV $$", "exit code -11"),
    ],
    ids=["nothing", "words", "empty", "zeros", "first-tables", "whole-but-failed", "signal"],
)  # fmt: skip
def test_nsys_that_leaves_no_whole_export(
    does: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: Path
) -> None:
    for name, table in (("STUMP", "StringIds"), ("WHOLE", "META_DATA_EXPORT")):
        monkeypatch.setenv(name, str(tmp_path / name))
        with closing(sqlite3.connect(tmp_path / name)) as database:
            database.execute(f"CREATE TABLE {table} (name, value)")
    assert [is_whole(tmp_path / name) for name in ("STUMP", "WHOLE")] == [False, True]
    folder = tmp_path / "reports"
    folder.mkdir()
    (folder / "run.nsys-rep").write_text("a report")
    nsys = script(tmp_path / "nsys", '[ "$1" = --version ] && exit', does)
    with pytest.raises(ExportFailed, match=said):
        export(Input(folder / "run.nsys-rep"), folder / "run.sqlite", nsys)
    assert [path.name for path in folder.iterdir()] == ["run.nsys-rep"]
    assert list(temporary.iterdir()) == []


def test_progress_of_nsys_is_no_reason(tmp_path: Path, report: Input) -> None:
    bar = r"printf 'Processing 10 events: [==50%%   ]\rProcessing 10 events: [====100%%]\n'"
    nsys = script(tmp_path / "nsys", '[ "$1" = --version ] && echo version 2023.4.4 && exit', bar, "exit 1")
    with pytest.raises(ExportFailed) as raised:
        export(report, tmp_path / "run.sqlite", nsys)
    assert "==" not in raised.value.message


def test_export_to_where_nothing_can_be_written(tmp_path: Path, report: Input) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused, match="cannot be written"):
        export(report, tmp_path / "file" / "run.sqlite", script(tmp_path / "nsys"))


@pytest.mark.parametrize("there", [Path.mkdir, Path.touch])
def test_export_over_what_is_there(there: Callable[[Path], None], tmp_path: Path, report: Input) -> None:
    there(tmp_path / "run.sqlite")
    with pytest.raises(OutputRefused, match=r"run\.sqlite is there already"):
        export(report, tmp_path / "run.sqlite", script(tmp_path / "nsys", "exit 1"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nsys", "run.nsys-rep", "run.sqlite", "temporary"]


def test_every_error_has_its_own_exit_code() -> None:
    codes = [kind.exit_code for kind in DsprofError.__subclasses__()]
    assert len(codes) == len(set(codes))
    assert set(codes) & {0, 1, 2, 130, 141, *STRICT_EXITS.values()} == set()


def test_nothing_is_left_of_an_environment_where_rows_have_moved(tmp_path: Path) -> None:
    """A page that becomes full gives half of its rows to another, and keeps their bytes as unused space."""
    path, secret = tmp_path / "export.sqlite", "hf_" + "S3cret" * 6
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA secure_delete = OFF")
        database.execute("CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT NOT NULL)")
        rows = [(number, f"PATH=/bin\0TOKEN={secret}{number}\0") for number in range(400)]
        database.executemany("INSERT INTO StringIds VALUES (?, ?)", [*rows[::2], *rows[1::2]])
        database.executemany("INSERT INTO StringIds VALUES (?, ?)", [(1000 + n, f"kernel_{n}") for n in range(50)])
    clean(path)
    assert secret.encode() not in path.read_bytes()
    with closing(sqlite3.connect(path)) as database:
        kept = [value for (value,) in database.execute("SELECT value FROM StringIds WHERE value != '' ORDER BY id")]
        assert database.execute("SELECT count(*) FROM StringIds").fetchone() == (450,)
    assert kept == [f"kernel_{n}" for n in range(50)]
