"""Captures with the stand-ins on PATH under the real nsys, for the tests of servers and of ranks."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import engines
import nsys_stats
from dsprof.capture.options import ProfileOptions
from dsprof.capture.serving import Serving
from dsprof.capture.session import Capture, Settings, record_command
from dsprof.errors import ProfileFailed
from nsys_stats import Nsys
from test_profile import carriers

SOURCE = engines.HERE.parents[1] / "src"


@contextmanager
def stand_ins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand-ins on PATH, `folder` as working folder, and one for temporary files in which nothing may be left."""
    found = engines.install(folder / "bin")
    monkeypatch.setenv("PATH", f"{found}:{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{engines.HERE}:{SOURCE}")
    (temporary := folder / "t").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(folder)
    yield temporary
    left = carriers(temporary)
    for pid in left:  # that one failure is not the reason for the next
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == {}
    assert [path for path in temporary.iterdir() if path.name.startswith("dsprof-")] == []
    assert list(folder.rglob(".partial-*")) == []


def capture(nsys: Nsys, command: list[str], serving: Serving | None = None, **settings: Any) -> Capture:
    """A capture of NVTX ranges; tried again where the real nsys lost its agent."""
    told = ProfileOptions(**{"trace": "nvtx", **settings.pop("profile", {})})
    whole = Settings(Path("traces"), nsys=str(nsys.path), profile=told, serving=serving, **settings)
    for tries in range(nsys_stats.TRIES, 0, -1):
        try:
            with Path("live.txt").open("w+") as live:
                return record_command(command, whole, live, lambda sentence: None)
        except ProfileFailed as error:
            if tries == 1 or nsys_stats.AGENT_LOST not in str(error):
                raise
    raise AssertionError


def shown() -> str:
    """What the last capture showed while it ran."""
    return Path("live.txt").read_text()


def ranges(export: Path) -> Counter[str]:
    """How many ranges of each name an export holds."""
    with closing(sqlite3.connect(export)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'NVTX_EVENTS'").fetchone():
            return Counter()
        query = "SELECT coalesce(text, value) FROM NVTX_EVENTS LEFT JOIN StringIds ON id = textId WHERE eventType = 59"
        return Counter(name for (name,) in database.execute(query))
