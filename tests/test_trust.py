"""No file of a user is replaced, and what is shown is of one report and one set of rules: tried as a user would."""

from __future__ import annotations

import itertools
import json
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dsprof import errors
from nsys_stats import Nsys
from trace_builder import TraceBuilder

SAMPLE = Path(__file__).parent.parent / "traces" / "samples" / "h200-graph-node.sqlite.xz"
#: Rules by which nothing is a decode.
OTHER_RULES = ("--stage", "decode=^nothing$")


def dsprof(*arguments: object) -> subprocess.Popen[str]:
    """The command line, as a process of its own."""
    command = [sys.executable, "-m", "dsprof", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(started: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code, and what was printed."""
    out, err = started.communicate(timeout=120)
    assert "Traceback" not in err, err
    return started.returncode, out + err


def contents(folder: Path) -> dict[str, bytes]:
    """The tables of a folder of results, and the summary beside them."""
    found = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    record = folder / "analysis.json"
    summary = json.loads(record.read_text())["summary"] if record.exists() else None
    return {**found, "summary": json.dumps(summary).encode()}


def made(folder: Path, word: str, kernels: int = 3) -> Path:
    """A report whose kernels have that name."""
    report = TraceBuilder("2025.3.2").gpu().range("prefill", 0, 1000 * kernels, payload=2)
    for number in range(kernels):
        at = 1000 * number
        report.kernel(word, at=(at + 50, at + 60), call=(at + 10, at + 20))
    return report.write(folder / f"{word}.sqlite")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "run.sqlite"
    path.write_bytes(lzma.decompress(SAMPLE.read_bytes()))
    return path


# -- a user's files -------------------------------------------------------------------------------------


def test_a_packed_export_under_the_name_of_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "recording.sqlite"
    path.write_bytes(lzma.compress(made(tmp_path, "gemm").read_bytes()))
    before = path.read_bytes()
    code, out = ended(dsprof("analyze", path))
    assert (code, "gemm" in out) == (0, True)
    assert path.read_bytes() == before


@pytest.mark.nsys
def test_a_report_under_the_name_of_its_export(recorded: Path, primary: Nsys, tmp_path: Path) -> None:
    path = Path(shutil.copy(recorded, tmp_path / "recording.sqlite"))
    code, out = ended(dsprof("analyze", path, "--nsys", primary.path))
    assert code == 0, out
    assert path.read_bytes() == recorded.read_bytes()


@pytest.mark.nsys
def test_an_export_of_something_else_beside_a_report(recorded: Path, primary: Nsys, tmp_path: Path) -> None:
    report, other = Path(shutil.copy(recorded, tmp_path / "run.qdrep")), made(tmp_path, "stranger")
    other = other.rename(tmp_path / "run.sqlite")
    before = other.read_bytes()
    code, out = ended(dsprof("analyze", report, "--nsys", primary.path))
    assert code == 0, out
    assert "stranger" not in out
    assert other.read_bytes() == before


@pytest.mark.parametrize("name", ["kern_sum.parquet", "notes.txt", "analysis.json"])
def test_a_folder_that_holds_what_dsprof_did_not_write(name: str, sample: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine" / name
    mine.parent.mkdir()
    mine.write_text("{}")
    code, out = ended(dsprof("analyze", sample, "--out", mine.parent))
    assert (code, name in out, "--out" in out) == (errors.OutputRefused.exit_code, True, True)
    assert [path.read_text() for path in mine.parent.iterdir()] == ["{}"]


# -- this report, these rules ---------------------------------------------------------------------------


@pytest.mark.parametrize("again", [(), ("--again",)], ids=["", "again"])
@pytest.mark.parametrize("pack", [bytes, lzma.compress], ids=["export", "packed"])
def test_another_recording_of_the_same_name_time_and_size(
    pack: Callable[[bytes], bytes], again: tuple[str, ...], tmp_path: Path
) -> None:
    """What `cp -p older newer` leaves, where sizes are the same."""
    both = [pack(made(tmp_path, word).read_bytes()) for word in ("alpha", "gamma")]
    size, report = max(map(len, both)), tmp_path / ("run.sqlite" + (".xz" if pack is lzma.compress else ""))
    shown = []
    for content in both:
        report.write_bytes(content.ljust(-(-size // 4) * 4, b"\0"))
        os.utime(report, ns=(10**18, 10**18))
        shown.append(ended(dsprof("analyze", report, *again)))
    assert [(code, "alpha" in out, "gamma" in out) for code, out in shown] == [(0, True, False), (0, False, True)]


def test_two_analyses_with_other_rules_at_once(sample: Path, tmp_path: Path) -> None:
    alone = []
    for number, rules in enumerate([(), OTHER_RULES]):
        assert ended(dsprof("analyze", sample, "--out", tmp_path / str(number), *rules))[0] == 0
        alone.append(contents(tmp_path / str(number)))
    for _ in range(8):
        both = [dsprof("analyze", sample, "--again", *rules) for rules in (("--default-rules",), OTHER_RULES)]
        assert [ended(one)[0] for one in both] == [0, 0]
        assert contents(sample.with_suffix(".dsprof")) in alone
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "run.dsprof", "run.sqlite"]


def in_place(report: Path, content: bytes) -> None:
    report.write_bytes(content)


def by_another(report: Path, content: bytes) -> None:
    report.with_name("new").write_bytes(content)
    report.with_name("new").replace(report)


@pytest.mark.parametrize("write", [in_place, by_another])
def test_a_report_that_is_rewritten_while_it_is_read(write: Callable[[Path, bytes], None], tmp_path: Path) -> None:
    both = [made(tmp_path, word, 2000).read_bytes() for word in ("alpha", "gamma")]
    alone = []
    report, over = tmp_path / "run.sqlite", threading.Event()
    for content in both:
        report.write_bytes(content)
        assert ended(dsprof("analyze", report))[0] == 0
        alone.append(contents(report.with_suffix(".dsprof")))

    def rewrite() -> None:
        for content in itertools.cycle(both):
            if over.is_set():
                return
            write(report, content)
            time.sleep(random.uniform(0, 0.3))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(10):
            code, out = ended(dsprof("analyze", report, "--again"))
            assert code in (0, errors.ReportChanging.exit_code, errors.ReportDamaged.exit_code, 4), out
            assert ("alpha" in out) + ("gamma" in out) == (code == 0)
            assert contents(report.with_suffix(".dsprof")) in alone
    finally:
        over.set()
        writer.join()


def test_a_killed_analysis(sample: Path, tmp_path: Path) -> None:
    assert ended(dsprof("analyze", sample))[0] == 0
    folder = sample.with_suffix(".dsprof")
    results = [contents(folder)]
    assert ended(dsprof("analyze", sample, *OTHER_RULES))[0] == 0
    results.append(contents(folder))
    begin = time.monotonic()
    assert ended(dsprof("analyze", sample, "--again"))[0] == 0
    took = time.monotonic() - begin
    for number in range(10):
        started = dsprof("analyze", sample, "--again", *(OTHER_RULES if number % 2 else ("--default-rules",)))
        time.sleep(took * (0.5 + 0.05 * number))
        started.send_signal(signal.SIGKILL)
        started.communicate()
        assert contents(folder) in results
    assert ended(dsprof("analyze", sample, "--default-rules"))[0] == 0
    assert contents(folder) == results[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.dsprof", "run.sqlite"]
