"""ARCHITECTURE.md is true: its walk is the way that a kernel takes, and what it names is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import FrameType

import dsprof
from trace_builder import TraceBuilder

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "dsprof"
PAGE = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
WALK = re.findall(r"^\d+\. `([\w/]+\.py)` `(\w+)`", PAGE, re.MULTILINE)


def test_the_walk_is_short_and_meets_no_file_twice() -> None:
    files = [file for file, _ in WALK]
    assert 5 <= len(files) <= 8
    assert len(set(files)) == len(files)


def test_a_kernel_takes_the_walk_in_its_order(tmp_path: Path) -> None:
    """The functions are entered for the first time in this order, from reading an export to the table."""
    report = TraceBuilder("2025.3.2").range("prefill", 0, 100).kernel("gemm", at=(20, 40), call=(10, 15))
    path, met = report.write(tmp_path / "made.sqlite"), []
    wanted = {(str(SOURCE / file), function): file for file, function in WALK}

    def watch(frame: FrameType, event: str, _: object) -> None:
        place = (frame.f_code.co_filename, frame.f_code.co_name)
        if event == "call" and place in wanted and wanted[place] not in met:
            met.append(wanted[place])

    sys.setprofile(watch)
    try:
        rows = dsprof.analyze(path)["stage_kern_sum"]
    finally:
        sys.setprofile(None)
    assert rows["stage"].tolist() == ["prefill"]
    assert met == [file for file, _ in WALK]


def test_every_package_and_file_that_it_names_is_there() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", PAGE))
    there = {name for name in named if any((base / name).exists() for base in (SOURCE, ROOT, SOURCE / "nsys"))}
    inside = {name for name in named - there if list(SOURCE.rglob(name))}
    assert named - there - inside == set()


def test_every_room_is_on_the_first_page() -> None:
    rooms = {path.name for path in SOURCE.iterdir() if not path.name.startswith("_") and path.name != "py.typed"}
    first = PAGE[: PAGE.index("## How facts are made")]
    assert {room for room in rooms if f"`{room}`" not in first and f"`{room}/`" not in first} == set()
