"""Temporary folders: never taken from one who lives, and cleared after one who was killed."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dsprof.ground import leftovers
from dsprof.ground.leftovers import clear_leftovers, own_folder

#: Makes a folder with a file in it, says its name, and waits to be killed.
OWNER = """
import sys, time
from pathlib import Path
from dsprof.ground.leftovers import own_folder
with own_folder(sys.argv[2], Path(sys.argv[1])) as folder:
    (folder / "inside").write_text("left")
    print(folder, flush=True)
    time.sleep(100)
"""


def owner(parent: Path, prefix: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", OWNER, parent, prefix], stdout=subprocess.PIPE, text=True)


def test_a_folder_is_there_for_its_block_and_for_us_alone(tmp_path: Path) -> None:
    with own_folder(".work-", tmp_path) as folder:
        assert folder.parent == tmp_path
        assert folder.name.startswith(".work-")
        assert folder.stat().st_mode & 0o777 == 0o700
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_be_moved_away(tmp_path: Path) -> None:
    with own_folder(".work-", tmp_path) as folder:
        (folder / "inside").write_text("kept")
        folder.rename(tmp_path / "done")
    assert [path.name for path in tmp_path.rglob("*")] == ["done", "inside"]


def test_what_an_error_leaves_is_removed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), own_folder(".work-", tmp_path) as folder:
        (folder / "inside").write_text("left")
        raise ValueError("wrong")
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    told: list[Path] = []
    with (
        owner(tmp_path, ".work-") as killed,
        owner(tmp_path, ".work-") as living,
        own_folder(".work-", tmp_path) as ours,
    ):
        try:
            assert killed.stdout is not None
            assert living.stdout is not None
            left, used = (Path(process.stdout.readline().strip()) for process in (killed, living))
            clear_leftovers(".work-", tmp_path, told.append)
            assert left.is_dir()
            killed.kill()
            killed.wait()
            clear_leftovers(".other-", tmp_path, told.append)
            assert left.is_dir()
            clear_leftovers(".work-", tmp_path, told.append)
            assert told == [left]
            assert not left.exists()
            assert (used / "inside").is_file()
            assert ours.is_dir()
        finally:
            killed.kill()
            living.kill()
    clear_leftovers(".work-", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_dsprof_did_not_make_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without a lock file, one of another machine, a link to another's folder, a FIFO."""
    (tmp_path / ".work-plain").mkdir()
    for name in (".work-plain", ".work-other", "elsewhere"):
        (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / ".work-other.lock").write_text("another machine")
    (tmp_path / "elsewhere.lock").write_bytes(leftovers._HOST)
    (tmp_path / ".work-link.lock").symlink_to(tmp_path / "elsewhere.lock")
    (tmp_path / ".work-link").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / ".work-fifo.lock")
    before = sorted(tmp_path.iterdir())
    clear_leftovers(".work-", tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    (tmp_path / ".work-mine.lock").write_bytes(leftovers._HOST)
    (tmp_path / ".work-mine").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    clear_leftovers(".work-", tmp_path)
    assert (tmp_path / ".work-mine.lock").exists()
    monkeypatch.undo()
    clear_leftovers(".work-", tmp_path)
    assert (tmp_path / "elsewhere").is_dir()


def test_a_parent_that_is_not_there_or_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for parent in (tmp_path / "nope", tmp_path / "file"):
        clear_leftovers(".work-", parent)
        with pytest.raises(OSError, match=r"nope|file"), own_folder(".work-", parent):
            pass


def test_a_filesystem_without_locks_is_written_to_and_never_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with own_folder(".work-", tmp_path) as folder:
        clear_leftovers(".work-", tmp_path)
        assert folder.is_dir()


def _make_many(parent: Path, times: int) -> None:
    for _ in range(times):
        with own_folder(".work-", parent) as folder:
            (folder / "inside").write_text("ours")
            assert (folder / "inside").read_text() == "ours"


def test_folders_made_while_others_are_cleared(tmp_path: Path) -> None:
    """The moment between the lock file and its lock: whoever loses it there makes another."""
    context = multiprocessing.get_context("spawn")
    makers = [context.Process(target=_make_many, args=(tmp_path, 500)) for _ in range(2)]
    for maker in makers:
        maker.start()
    while any(maker.is_alive() for maker in makers):
        clear_leftovers(".work-", tmp_path)
    assert [maker.exitcode for maker in makers] == [0, 0]
    assert list(tmp_path.iterdir()) == []


def test_a_lock_taken_before_it_is_held_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, taken = fcntl.flock, []

    def late(file: int, operation: int) -> None:
        if not taken:  # a clearing run was faster
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with own_folder(".work-", tmp_path) as folder:
        assert {path.name for path in tmp_path.iterdir()} == {folder.name, f"{folder.name}.lock"}
        assert folder.name != taken[0].stem
    assert list(tmp_path.iterdir()) == []


def test_an_owner_that_is_stopped_by_a_signal_clears_up_after_itself(tmp_path: Path) -> None:
    with owner(tmp_path, ".work-") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
    assert list(tmp_path.iterdir()) == []


# -- what cannot be removed at once -----------------------------------------------------------------------


def in_use(tree: Path, ignore_errors: bool = False) -> None:
    """A removal that meets a file which somebody made meanwhile."""
    assert ignore_errors
    (tree / "made meanwhile").write_text("")


def test_what_could_not_be_removed_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with own_folder(".work-", tmp_path) as folder:
        monkeypatch.setattr("shutil.rmtree", in_use)
    clear_leftovers(".work-", tmp_path)
    assert folder.is_dir()
    monkeypatch.undo()
    clear_leftovers(".work-", tmp_path)
    assert not list(tmp_path.iterdir())
