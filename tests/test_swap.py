"""A folder of results is all of one analysis: whoever looks, whoever else writes, and whenever a writer is killed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from dsprof.errors import OutputRefused
from dsprof.ground import swap
from dsprof.ground.swap import locked, replacing

FILES = [f"table-{number}" for number in range(8)]


def strangers(folder: Path) -> Sequence[str]:
    return sorted(path.name for path in folder.iterdir() if path.name == "mine.txt")


def put(target: Path, word: str) -> None:
    with replacing(target, strangers, last=FILES[-1]) as fresh:
        for name in FILES:
            (fresh / name).write_text(word)


def put_often(target: Path, word: str, times: int, failed: list[Exception]) -> None:
    """As one of several writers; what went wrong is added to `failed`."""
    try:
        for number in range(times):
            put(target, f"{word} {number}")
    except Exception as error:
        failed.append(error)


def words(folder: Path) -> list[str]:
    """What is in the files of the folder that has this name now."""
    with locked(folder, exclusive=False) as place:
        found = []
        for name in FILES:
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=place)) as file:
                found.append(file.read())
        return found


def refuse_to_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a file system that cannot (NFS)."""

    class Libc:
        @staticmethod
        def renameat2(*arguments: object) -> int:
            return -1

    monkeypatch.setattr(swap.ctypes, "CDLL", lambda *arguments, **keywords: Libc)
    monkeypatch.setattr(swap.ctypes, "get_errno", lambda: errno.EINVAL)


def let_nothing_be_written_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder of another user, or at a mount point."""
    monkeypatch.setattr(swap.os.path, "ismount", lambda path: True)


WAYS = [lambda patch: None, refuse_to_exchange, let_nothing_be_written_around]


@pytest.fixture(params=WAYS, ids=["exchanged", "in-steps", "file-by-file"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    request.param(monkeypatch)


@pytest.mark.usefixtures("way")
def test_a_folder_is_made_and_replaced(tmp_path: Path) -> None:
    target = tmp_path / "some" / "where"
    for word in ("one", "other"):
        put(target, word)
        assert words(target) == [word] * len(FILES)
        assert sorted(path.name for path in target.iterdir()) == FILES
        assert list(target.parent.iterdir()) == [target]
    (target / "older").write_text("of a table that is gone")
    put(target, "third")
    assert sorted(path.name for path in target.iterdir()) == FILES


@pytest.mark.usefixtures("way")
def test_nothing_is_changed_by_a_failure(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for there in (False, True):
        if there:
            put(target, "before")
        with pytest.raises(ZeroDivisionError), replacing(target, strangers, last="last") as fresh:
            (fresh / FILES[0]).write_text("half")
            1 / 0  # noqa: B018
        assert target.exists() == there
        assert list(tmp_path.iterdir()) == [target] * there
    assert words(target) == ["before"] * len(FILES)


@pytest.mark.usefixtures("way")
def test_what_somebody_else_wrote_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    put(target, "before")
    (target / "mine.txt").write_text("mine")
    with pytest.raises(OutputRefused, match=r"holds mine\.txt, which dsprof did not write"):
        put(target, "after")
    assert (target / "mine.txt").read_text() == "mine"
    assert words(target) == ["before"] * len(FILES)


@pytest.mark.usefixtures("way")
def test_what_somebody_else_wrote_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    put(target, "before")
    with pytest.raises(OutputRefused), replacing(target, strangers, last="last") as fresh:
        (fresh / FILES[0]).write_text("after")
        (target / "mine.txt").write_text("mine")
    assert (target / "mine.txt").read_text() == "mine"
    assert words(target) == ["before"] * len(FILES)


def test_the_folder_keeps_its_mode_and_a_link_to_it_stays_one(tmp_path: Path) -> None:
    target, link = tmp_path / "folder", tmp_path / "link"
    put(target, "one")
    (tmp_path / "usual").mkdir()
    assert target.stat().st_mode == (tmp_path / "usual").stat().st_mode
    target.chmod(0o750)
    link.symlink_to(target)
    put(link, "other")
    assert link.is_symlink()
    assert (target.stat().st_mode & 0o777, words(target)) == (0o750, ["other"] * len(FILES))


def test_readers_see_one_writers_files_alone(tmp_path: Path, way: None) -> None:
    target, over, mixed, failed = tmp_path / "folder", threading.Event(), [], []
    put(target, "first")

    def read() -> None:
        while not over.is_set():
            try:
                found = set(words(target))
            except FileNotFoundError:  # replaced while it was opened, or between two steps: no results, not mixed ones
                continue
            if len(found) != 1:
                mixed.append(found)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writers = [threading.Thread(target=put_often, args=[target, word, 40, failed]) for word in "ab"]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    over.set()
    for thread in readers:
        thread.join()
    assert (mixed, failed) == ([], [])
    assert len(set(words(target))) == 1
    assert list(tmp_path.iterdir()) == [target]


def test_no_writer_comes_between_the_steps_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_exchange(monkeypatch)
    target, failed, rename = tmp_path / "folder", [], Path.rename
    put(target, "first")
    monkeypatch.setattr(Path, "rename", lambda path, other: (rename(path, other), time.sleep(0.02))[0])

    writers = [threading.Thread(target=put_often, args=[target, word, 10, failed]) for word in "abc"]
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join()
    assert failed == []
    assert list(tmp_path.iterdir()) == [target]


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_swap
number = 0
while True:
    number += 1
    test_swap.put(Path(sys.argv[1]), f"{number}")
"""


def test_a_killed_writer_leaves_one_or_the_other_and_the_next_clears_up(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    put(target, "first")
    command = [sys.executable, "-c", WRITER, str(target), str(Path(__file__).parent)]
    for wait in range(12):
        before = words(target)
        writer = subprocess.Popen(command)
        while words(target) == before:  # until it has written once
            time.sleep(0.01)
        time.sleep(wait * 0.0007)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(set(words(target))) == 1
    put(target, "last")
    assert words(target) == ["last"] * len(FILES)
    assert list(tmp_path.iterdir()) == [target]
