"""What a capture leaves whatever happens: its record, a sentence, and nothing of what was killed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dsprof
from dsprof.capture import record as records
from dsprof.capture import session
from dsprof.capture.folder import new_folder
from dsprof.capture.profile import Profile
from dsprof.capture.record import RECORD, read_session
from dsprof.capture.session import Settings, record_command, record_images
from dsprof.errors import CaptureRefused, MemoryTooSmall, OutputRefused, ProfileFailed
from dsprof.ground.versions import VERSION, installed
from dsprof.workloads.job import Job
from fake_nsys import install
from nsys_stats import AGENT_LOST, PRIMARY, TRIES, Nsys, require

SOURCES = Path(dsprof.__file__).parents[1]
TOY = "from dsprof.workloads.toy import serve; serve(0, 2)"


def run(
    *words: Any, env: dict[str, str] | None = None, python: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own; tried again where the real nsys lost its agent."""
    for _ in range(TRIES):
        done = subprocess.run(
            [sys.executable, *python, "-m", "dsprof", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **(env or {})},
            check=False,
        )
        if AGENT_LOST not in done.stderr:
            break
    return done


@pytest.mark.parametrize(
    "name", ["../../x", "/abs", "a/b", "", "  ", "a\nb", "a\x1b[2Jb", "x" * 300, "ü" * 101, "a\u202eb"]
)
def test_a_name_that_is_none_is_refused_before_anything_runs(name: str, tmp_path: Path) -> None:
    done = run("capture", "--out", tmp_path / "out", "--nsys", install(tmp_path / "fake"), "--name", name,
               "--", "touch", tmp_path / "ran")  # fmt: skip
    assert done.returncode == CaptureRefused.exit_code
    assert "--name" in done.stderr
    assert "\x1b" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"fake"}


@pytest.mark.parametrize("options", [("--stage", "x=["), ("--step", "["), ("--modules", "["), ("--families", "nope")])
def test_a_wrong_pattern_is_told_before_the_program_runs(options: tuple[str, str], tmp_path: Path) -> None:
    done = run("capture", "--out", tmp_path / "out", "--nsys", install(tmp_path / "fake"), *options,
               "--", "touch", tmp_path / "ran")  # fmt: skip
    assert done.returncode in (2, 15)
    assert {path.name for path in tmp_path.iterdir()} == {"fake"}


def test_modules_that_are_no_pattern_are_refused_in_the_library_too(tmp_path: Path) -> None:
    with pytest.raises(CaptureRefused, match="no regular expression"):
        record_images(Job(("page.png",), "", modules="["), Settings(out=tmp_path), None, lambda sentence: None)


def test_out_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    done = run("capture", "--out", tmp_path / "out", "--nsys", install(tmp_path / "fake"), "--", "true")
    assert done.returncode == OutputRefused.exit_code
    assert "(it is no folder)" in done.stderr


def begun(tmp_path: Path, command: tuple[str, ...] = ("true",)) -> records.Session:
    return session._begin(Settings(), "name", command, install(tmp_path / "fake"))


def test_captures_of_one_second_have_folders_of_their_own(tmp_path: Path) -> None:
    record = begun(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_folder(tmp_path / "out", record), range(40)))
    assert len(set(folders)) == 40


@pytest.mark.parametrize("usual", ["x" * 300, "a\nb", "\udcff", ".."])
def test_what_runs_may_have_any_name(usual: str, tmp_path: Path) -> None:
    record = session._begin(Settings(), usual, ("true",), install(tmp_path / "fake"))
    assert new_folder(tmp_path / "out", record).parent == tmp_path / "out"


def test_a_record_of_words_that_are_no_text(tmp_path: Path) -> None:
    record = begun(tmp_path, ("sh", "-c", "exit 3", "\udcff"))
    records.write_record(tmp_path, record)
    assert read_session(tmp_path) == record


def test_what_the_record_needs_is_taken_before_the_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An image that vanishes meanwhile, and a recording that fails: the record stays, with the log."""
    page = tmp_path / "page.png"
    page.write_bytes(b"pixels")

    def fail(settings: Settings, command: object, folder: Path, *rest: object) -> Profile:
        page.unlink()
        (folder / "workload.log").write_text("the reason\n")
        (folder / "run.unchecked.nsys-rep").write_text("kept")
        raise ProfileFailed("It failed.")

    monkeypatch.setattr(session, "_profile", fail)
    settings = Settings(out=tmp_path / "out", nsys=str(install(tmp_path / "fake")))
    with pytest.raises(ProfileFailed) as raised:
        record_images(Job((str(page),), ""), settings, None, lambda sentence: None)
    (folder,) = (tmp_path / "out").iterdir()
    record = read_session(folder)
    assert [image.name for image in record.images] == ["page.png"]
    assert (record.ending, record.reports) == ("unknown", ("run.unchecked.nsys-rep",))
    assert raised.value.log == folder / "workload.log"


def test_a_record_that_cannot_be_written_is_told_with_what_was_recorded(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = f"cd {out}/*/ && rm {RECORD} && mkdir -p {RECORD}/inside"
    settings = Settings(out=out, nsys=str(install(tmp_path / "fake")))
    with pytest.raises(OutputRefused, match="record cannot be written") as raised:
        record_command(["sh", "-c", program], settings, None, lambda sentence: None)
    assert "run.nsys-rep" in raised.value.hint


def test_a_git_that_hangs_costs_no_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git = tmp_path / "git"
    git.write_text("#!/bin/sh\nexec sleep 60\n")
    git.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(records, "_GIT_LIMIT_S", 0.2)
    assert records.git_commit() == ""


def test_folders_of_killed_captures_are_looked_after(tmp_path: Path) -> None:
    record, left = (
        begun(tmp_path),
        "from dsprof.ground.leftovers import own_folder; import os, sys; from pathlib import Path\n",
    )
    for name in ("first", "second"):
        (tmp_path / "out" / name).mkdir(parents=True)
        (tmp_path / "out" / name / RECORD).write_text("{}")
        (tmp_path / "out" / name / "workload.log").write_text("said") if name == "second" else None
        kill = f"{left}with own_folder('.partial-', Path({str(tmp_path / 'out' / name)!r})): os.kill(os.getpid(), 9)"
        subprocess.run([sys.executable, "-c", kill], check=False)
    made = new_folder(tmp_path / "out", record)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {made.name, "second"}
    assert {path.name for path in (tmp_path / "out" / "second").iterdir()} == {RECORD, "workload.log"}


# -- with the real nsys -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nsys() -> Nsys:
    return require(PRIMARY)


@pytest.fixture
def uninstalled(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python that finds dsprof's sources and every package, but no metadata of dsprof."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not path.name.startswith("dsprof"):
            (packages / path.name).symlink_to(path)
    shutil.copytree(SOURCES / "dsprof", tmp_path / "copy" / "dsprof")
    return {"PYTHONPATH": f"{tmp_path / 'copy'}{os.pathsep}{packages}"}


@pytest.mark.nsys
def test_a_source_tree_that_is_not_installed(nsys: Nsys, uninstalled: dict[str, str], tmp_path: Path) -> None:
    said = run("--version", env=uninstalled, python=("-S",))
    assert said.stdout == f"dsprof {VERSION}\n"
    done = run("capture", "--out", tmp_path / "out", "--nsys", nsys.path, "--", sys.executable, "-c", TOY,
               env=uninstalled, python=("-S",))  # fmt: skip
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    assert read_session(folder).versions["dsprof"] == VERSION
    assert run("analyze", folder, env=uninstalled, python=("-S",)).returncode == 0


@pytest.mark.nsys
def test_ranges_lost_to_the_pair_of_nvtx_and_nsys(nsys: Nsys, tmp_path: Path) -> None:
    nvtx = installed("nvtx")
    if nsys.year >= 2025 or tuple(map(int, nvtx.split(".")[:3])) < (0, 2, 12):
        pytest.skip("this pair records")
    program = "import nvtx\nwith nvtx.annotate('mine'): print('ran')"
    done = run("capture", "--out", tmp_path / "out", "--nsys", nsys.path, "--", sys.executable, "-c", program)
    assert done.returncode == 40
    assert f"nvtx {nvtx} under nsys {nsys.version}." in done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    assert read_session(folder).ending == "finished"


@pytest.mark.nsys
def test_a_program_that_records_nothing_leaves_its_record(nsys: Nsys, tmp_path: Path) -> None:
    done = run("capture", "--out", tmp_path / "out", "--nsys", nsys.path, "--", "true")
    assert done.returncode == 9
    (folder,) = (tmp_path / "out").iterdir()
    assert (read_session(folder).ending, read_session(folder).reports) == ("finished", ("run.nsys-rep",))


@pytest.mark.nsys
def test_the_log_that_holds_the_reason_is_named_and_shown(nsys: Nsys, tmp_path: Path) -> None:
    done = run("capture", "--out", tmp_path / "out", "--nsys", nsys.path, "--", "sh", "-c", "echo the reason; exit 3")
    assert done.returncode == 3
    (folder,) = (tmp_path / "out").iterdir()
    assert f"The last lines of {folder / 'workload.log'}:\n" in done.stderr
    shown = done.stderr.partition("workload.log:\n")[2].splitlines()
    assert "  the reason" in shown  # this nsys may say something of its own after it
    assert any(line.startswith("dsprof: ") for line in shown)
    done = run("capture", "--out", tmp_path / "no", "--nsys", nsys.path, "--nsys-option=--no-such=1", "--", "true")
    (folder,) = (tmp_path / "no").iterdir()
    assert f"The last lines of {folder / 'workload.log'}:\n  unrecognised option" in done.stderr
    assert read_session(folder).ending == "unknown"


@pytest.mark.nsys
def test_too_little_memory_for_the_analysis_costs_no_recording(nsys: Nsys, tmp_path: Path) -> None:
    done = run("capture", "--out", tmp_path, "--nsys", nsys.path, "--memory", "1MB", "--", sys.executable, "-c", TOY)
    assert done.returncode == MemoryTooSmall.exit_code
    (folder,) = tmp_path.iterdir()
    assert done.stdout.startswith(f"Session: {folder} (")
    assert {path.name for path in folder.iterdir()} == {"run.nsys-rep", "run.sqlite", RECORD, "workload.log"}
    assert read_session(folder).ending == "finished"
    assert run("analyze", folder, "--memory", "1GB").returncode == 0


@pytest.mark.nsys
def test_a_session_at_its_limit_leaves_record_and_summary(nsys: Nsys, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="the model's libraries are an extra")
    from dsprof.workloads.page import draw

    draw(tmp_path / "page.png")
    for limit in (20, 60):  # a busy machine takes long until the model is there
        done = run("capture", "--out", tmp_path / f"out{limit}", "--nsys", nsys.path, tmp_path / "page.png",
                   "--limit", limit, "--repeat", 100_000, "--max-new-tokens", 4)  # fmt: skip
        (folder,) = (tmp_path / f"out{limit}").iterdir()
        if "decode" in done.stdout:
            break
    assert done.returncode == 0, done.stderr
    assert "The program was ended at the time limit" in done.stderr
    assert "decode" in done.stdout
    assert read_session(folder).ending == "time-limit"


@pytest.mark.nsys
def test_a_device_that_is_not_here(nsys: Nsys, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the model's libraries are an extra")
    if torch.cuda.is_available():
        pytest.skip("it is here")
    from dsprof.workloads.page import draw

    draw(tmp_path / "page.png")
    done = run("capture", "--out", tmp_path / "out", "--nsys", nsys.path, tmp_path / "page.png", "--device", "cuda")
    assert done.returncode == 41
    assert "dsprof: The device cuda cannot be used: " in done.stderr
    assert "Traceback" not in done.stderr
    (folder,) = (tmp_path / "out").iterdir()
    assert (read_session(folder).ending, read_session(folder).exit_code) == ("failed", 41)


@pytest.mark.nsys
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_cost_no_capture(closed: str, nsys: Nsys, tmp_path: Path) -> None:
    script = f'exec "$@" {closed}'
    program = [sys.executable, "-c", TOY]
    for _ in range(TRIES):
        words = [sys.executable, "-m", "dsprof", "capture", "--out", tmp_path, "--nsys", nsys.path, "--", *program]
        done = subprocess.run(["sh", "-c", script, "sh", *map(str, words)], timeout=120, check=False)
        if done.returncode != ProfileFailed.exit_code:
            break
        shutil.rmtree(tmp_path)
    assert done.returncode == 0
    (folder,) = tmp_path.iterdir()
    assert (folder / "run.dsprof").is_dir()
    assert read_session(folder).ending == "finished"
