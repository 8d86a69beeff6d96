"""Whatever is wrong with the input: one sentence, one advice, an own exit code, no traceback, nothing half-written.

Most of it runs the command line in this process, where anything but its own exit fails the test.
"""

from __future__ import annotations

import gzip
import lzma
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dsprof import cli, errors
from dsprof.errors import DsprofError
from dsprof.findings import STRICT_EXITS
from dsprof.nsys import command
from nsys_stats import OLD, Nsys, require
from test_command import alive
from trace_builder import KERNEL, RUNTIME, TraceBuilder

HEAD = b"NVIDIA Tegra Profiler Report\x00"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own folders for the input, for temporary files and to be in; and no nsys but the one that a test names."""
    for name in ("input", "temporary", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(command, "_USUAL_PLACES", ())
    monkeypatch.setenv("PATH", "/usr/bin:/bin" if not shutil.which("nsys", path="/usr/bin:/bin") else "/nowhere")
    for name in ("DSPROF_NSYS", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """The folder of the input."""
    return tmp_path / "input"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line, in this process."""

    def ended(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dsprof", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        code = raised.value.code
        assert isinstance(code, int)
        return Ended(code, *capfd.readouterr())

    return ended


def seen(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """Everything under a folder, with time and content."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes()) if path.is_file() else (0, None)
        for path in folder.rglob("*")
    }


#: A sentence, then an advice, each on its line.
TWO_LINES = re.compile(r"dsprof: (?P<sentence>[^\n]+\.)\n {8}(?P<advice>[^\n]+\.)\n")


def assert_refused(ended: Ended, kind: type[DsprofError], said: str) -> None:
    """Ended as `kind` does, with a sentence that matches `said`, and an advice."""
    assert "Traceback" not in ended.err
    assert (ended.code, ended.out) == (kind.exit_code, ""), ended.err
    lines = TWO_LINES.fullmatch(ended.err)
    assert lines, ended.err
    assert re.search(said, lines["sentence"]), lines["sentence"]
    assert len(lines["sentence"]) < 400


# -- files ----------------------------------------------------------------------------------------------


def report() -> TraceBuilder:
    """A stage with a kernel in it, and a kernel outside."""
    made = TraceBuilder().gpu().range("prefill", 0, 100)
    return made.kernel("inside", at=(50, 60), call=(10, 20)).kernel("outside", at=(150, 160), call=(110, 120))


def export(folder: Path, name: str = "run.sqlite") -> bytes:
    path = report().write(folder / "made")
    content = path.read_bytes()
    path.unlink()
    return content


def missing(folder: Path) -> Path:
    return folder / "absent.nsys-rep"


def missing_folder(folder: Path) -> Path:
    return folder / "absent" / ""


def empty(folder: Path) -> Path:
    (folder / "run.sqlite").touch()
    return folder / "run.sqlite"


def empty_report(folder: Path) -> Path:
    (folder / "run.nsys-rep").touch()
    return folder / "run.nsys-rep"


def written(name: str, content: Callable[[Path], bytes] | bytes) -> Callable[[Path], Path]:
    """A file of that name and content in the folder."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content(folder))
        return folder / name

    return write


def cut(folder: Path) -> bytes:
    whole = export(folder)
    return whole[: len(whole) // 2]


def database(*statements: str) -> Callable[[Path], bytes]:
    """The content of an SQLite file that the statements make."""

    def content(folder: Path) -> bytes:
        with closing(sqlite3.connect(folder / "made")) as made:
            made.executescript(";".join(statements))
        found = (folder / "made").read_bytes()
        (folder / "made").unlink()
        return found

    return content


def empty_folder(folder: Path) -> Path:
    (folder / "session").mkdir()
    return folder / "session"


def two_reports(folder: Path) -> Path:
    for name in ("a.sqlite", "b.sqlite"):
        report().write(folder / name)
    return folder


def nothing(folder: Path) -> Path:
    return TraceBuilder().write(folder / "run.sqlite")


NVPROF = database("CREATE TABLE StringTable (_id_, value)", "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (_id_, start)")
OTHER = database("CREATE TABLE bookmarks (url)", "INSERT INTO bookmarks VALUES ('https://example.org')")
TEXT = b"Time (%),Total Time (ns),Instances\n" * 500

BAD = {
    "missing file": (missing, errors.ReportMissing, "There is no file or folder .*absent"),
    "missing folder": (missing_folder, errors.ReportMissing, "There is no file or folder .*absent"),
    "empty export": (empty, errors.ReportEmpty, r"run\.sqlite is empty"),
    "empty report": (empty_report, errors.ReportEmpty, r"run\.nsys-rep is empty"),
    "text": (written("run.sqlite", TEXT), errors.NotAReport, "is a text file"),
    "text as report": (written("run.nsys-rep", TEXT), errors.NotAReport, "is a text file"),
    "binary": (written("run.bin", bytes(range(256)) * 9), errors.NotAReport, r"run\.bin is neither"),
    "raw capture": (written("run.qdstrm", bytes(99)), errors.NotAReport, "never imported"),
    "other database": (written("places.sqlite", OTHER), errors.NotAReport, r"places\.sqlite"),
    "packed text": (written("run.csv.xz", lzma.compress(TEXT)), errors.NotAReport, r"run\.csv\.xz"),
    "packed report": (written("run.nsys-rep.gz", gzip.compress(HEAD)), errors.NotAReport, r"run\.nsys-rep\.gz"),
    "nvprof database": (written("run.nvvp", NVPROF), errors.NvprofDatabase, "is an nvprof database"),
    "truncated export": (written("run.sqlite", cut), errors.ReportDamaged, "is cut or damaged"),
    "export without end": (written("run.sqlite", lambda f: export(f)[:-1]), errors.ReportDamaged, "is cut or damaged"),
    "cut packed export": (
        written("run.sqlite.xz", lambda f: lzma.compress(export(f))[:-99]), errors.ReportDamaged, "is cut or damaged"
    ),
    "folder without a report": (empty_folder, errors.NoReportInFolder, "holds no report"),
    "folder with two": (two_reports, errors.NoReportInFolder, "holds 2 reports"),
    "nothing recorded": (nothing, errors.NothingRecorded, "neither NVTX ranges nor CUDA events"),
    "no nsys": (written("run.nsys-rep", HEAD), errors.NsysMissing, "needs nsys"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("arguments", [["analyze"], ["table", "kern_sum"]], ids=lambda words: words[0])
def test_bad_input(case: str, arguments: list[str], run: Run, tmp_path: Path, inside: Path) -> None:
    if (case, arguments[0]) == ("folder with two", "analyze"):
        return  # they are analyzed as one (`test_many`)
    make, kind, said = BAD[case]
    path = make(inside)
    before = seen(tmp_path)
    ended = run(arguments[0], path, *arguments[1:])
    assert_refused(ended, kind, said)
    assert seen(tmp_path) == before


def test_all_errors_have_their_cases() -> None:
    elsewhere = {
        errors.NsysTooOld,
        errors.ExportFailed,
        errors.OutputRefused,
        errors.UnknownTable,
        errors.RulesUnreadable,
        errors.ConfigUnreadable,
        errors.MemoryTooSmall,
        errors.FastUnavailable,
        errors.ReportChanging,
    }
    of_reading = {kind for kind in DsprofError.__subclasses__() if kind.exit_code < min(STRICT_EXITS.values())}
    assert {kind for _, kind, _ in BAD.values()} | elsewhere == of_reading


@pytest.mark.parametrize("case", ["missing file", "truncated export", "no nsys"])
def test_bad_input_as_a_program(case: str, tmp_path: Path, inside: Path) -> None:
    """The same from outside: what the shell sees."""
    make, kind, said = BAD[case]
    path = make(inside)
    before = seen(tmp_path)
    environment = dict(os.environ)
    if case == "no nsys":  # for certain: the usual places of this machine may hold one
        environment["DSPROF_NSYS"] = "/nowhere/nsys"
        said = "DSPROF_NSYS names /nowhere/nsys"
    ended = subprocess.run(
        [sys.executable, "-m", "dsprof", "analyze", path],
        capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip
    assert_refused(Ended(ended.returncode, ended.stdout, ended.stderr), kind, said)
    assert seen(tmp_path) == before


# -- wrong words ----------------------------------------------------------------------------------------


def test_unknown_table(run: Run, inside: Path) -> None:
    path = report().write(inside / "run.sqlite")
    before = seen(inside)
    ended = run("table", path, "kernel_sum")
    assert_refused(ended, errors.UnknownTable, "no table kernel_sum")
    assert "kern_sum, kern_trace" in ended.err
    assert seen(inside) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--stage", "prefill"], "'prefill' is not NAME=REGEX"),
        (["--stage", "=x"], "'=x' is not NAME=REGEX"),
        (["--stage", "x="], "'x=' is not NAME=REGEX"),
        (["--stage", "x=("], "no regular expression"),
        (["--step", "[a"], "no regular expression"),
        (["--threads", "all"], "--threads"),
        (["--top", "-1"], "--top"),
        (["--top", "many"], "--top"),
        (["--format", "yaml"], "--format"),
        (["--nonsense"], "--nonsense"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options(options: list[str], said: str, run: Run, inside: Path) -> None:
    path = report().write(inside / "run.sqlite")
    before = seen(inside)
    ended = run("analyze", path, *options)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert seen(inside) == before


# -- nsys -----------------------------------------------------------------------------------------------


@pytest.mark.nsys
def test_report_of_the_real_nsys(primary: Nsys, recorded: Path, run: Run, tmp_path: Path, inside: Path) -> None:
    shutil.copy(recorded, inside)
    ended = run("analyze", inside, "--nsys", primary.path)
    assert (ended.code, ended.err) == (0, "")
    assert "The report holds no GPU operations" in ended.out
    assert sorted(path.name for path in inside.iterdir()) == ["run.dsprof", "run.nsys-rep"]
    assert list((tmp_path / "temporary").iterdir()) == list((tmp_path / "here").iterdir()) == []


@pytest.mark.nsys
@pytest.mark.parametrize("part", [0.01, 0.5, 0.97])
def test_report_cut_in_the_middle(
    part: float, primary: Nsys, recorded: Path, run: Run, tmp_path: Path, inside: Path
) -> None:
    whole = recorded.read_bytes()
    (inside / "run.nsys-rep").write_bytes(whole[: int(part * len(whole))])
    before = seen(tmp_path)
    ended = run("analyze", inside, "--nsys", primary.path)
    assert_refused(ended, errors.ExportFailed, rf"nsys {re.escape(primary.version)} could not export run\.nsys-rep")
    assert seen(tmp_path) == before


@pytest.mark.nsys
def test_report_newer_than_the_installed_nsys(
    primary: Nsys, recorded: Path, run: Run, tmp_path: Path, inside: Path, own_cache: Path
) -> None:
    old = require(OLD)
    if old.year >= primary.year:
        pytest.skip(f"nsys {primary.version} is not newer than {old.version}")
    shutil.copy(recorded, inside)
    before = seen(tmp_path)
    ended = run("analyze", inside, "--nsys", old.path)
    assert_refused(ended, errors.NsysTooOld, f"newer Nsight Systems than the installed nsys {re.escape(old.version)}")
    assert seen(tmp_path) == before


def program(path: Path, *lines: str) -> Path:
    """A stand-in for nsys that misbehaves as the real one cannot be made to."""
    path.write_text("\n".join(["#!/bin/sh", '[ "$1" = --version ] && echo version 2023.4.4 && exit', *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("exit 0", "it said nothing"),
        ("exit 1", "exit code 1"),
        (
            'for a; do case $a in --output=*) echo part > "${a#--output=}";; esac; done; echo Error: full; exit 1',
            "full",
        ),
        ("exec sleep 300", "no end after 2 s"),
    ],
    ids=["writes-nothing", "fails", "partial", "hangs"],
)
def test_nsys_that_does_not_export(
    does: str, said: str, run: Run, tmp_path: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "EXPORT_LIMIT_S", 2.0)
    (inside / "run.nsys-rep").write_bytes(HEAD)
    nsys = program(tmp_path / "nsys", does)
    before = seen(tmp_path)
    assert_refused(run("analyze", inside, "--nsys", nsys), errors.ExportFailed, said)
    assert seen(tmp_path) == before


@pytest.mark.parametrize("source", ["--nsys", "DSPROF_NSYS"])
@pytest.mark.parametrize("what", ["absent", "folder", "no program"])
def test_wrong_nsys(
    source: str, what: str, run: Run, tmp_path: Path, inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (inside / "run.nsys-rep").write_bytes(HEAD)
    choice = tmp_path / "nsys"
    if what == "folder":
        choice.mkdir()
    elif what == "no program":
        choice.write_text("neither script nor program")
        choice.chmod(0o755)
    if source == "DSPROF_NSYS":
        monkeypatch.setenv("DSPROF_NSYS", str(choice))
    before = seen(tmp_path)
    ended = run("analyze", inside, *(["--nsys", choice] if source == "--nsys" else []))
    assert_refused(ended, errors.NsysMissing, re.escape(str(choice)))
    assert seen(tmp_path) == before


def test_interrupted_export(tmp_path: Path, inside: Path) -> None:
    """Ctrl-C while nsys works: it is ended, and nothing stays."""
    (inside / "run.nsys-rep").write_bytes(HEAD)
    started = tmp_path / "started"
    nsys = program(tmp_path / "nsys", f"echo $$ > {started}", "exec sleep 300")
    dsprof = subprocess.Popen(
        [sys.executable, "-m", "dsprof", "analyze", inside, "--nsys", nsys],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        for _ in range(600):
            if started.is_file() and started.read_text().endswith("\n"):
                break
            time.sleep(0.05)
        dsprof.send_signal(signal.SIGINT)
        out, err = dsprof.communicate(timeout=60)
    finally:
        dsprof.kill()
    assert (dsprof.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert not alive(int(started.read_text()))
    assert [path.name for path in inside.iterdir()] == ["run.nsys-rep"]
    assert list((tmp_path / "temporary").iterdir()) == []


# -- output ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["file", "file/below", "/dev/null/tables", "/proc/tables"])
def test_out_where_nothing_can_be_written(out: str, run: Run, tmp_path: Path, inside: Path) -> None:
    path = report().write(inside / "run.sqlite")
    (inside / "file").write_text("mine")
    before = seen(tmp_path)
    ended = run("analyze", path, "--out", inside / out)
    assert ended.out.startswith("report  run.sqlite")  # the summary of a small report is there before its tables
    assert_refused(replace(ended, out=""), errors.OutputRefused, "cannot be written to")
    assert seen(tmp_path) == before


def limited(limit: int, *arguments: object) -> Ended:
    """The program where no file may grow beyond `limit` bytes, as on a disk that is full."""
    ended = subprocess.run(
        [sys.executable, "-m", "dsprof", *map(str, arguments)],
        capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_full_disk_while_tables_are_written(tmp_path: Path, inside: Path) -> None:
    path = report().write(inside / "run.sqlite")
    before = seen(tmp_path)
    assert_refused(replace(limited(3000, "analyze", path), out=""), errors.OutputRefused, "cannot be written to")
    assert seen(tmp_path) == before
    assert limited(1 << 30, "analyze", path).code == 0
    before = seen(tmp_path)
    ended = limited(3000, "analyze", path, "--again")
    assert_refused(replace(ended, out=""), errors.OutputRefused, "cannot be written to")
    assert seen(tmp_path) == before


def test_full_disk_while_an_export_is_unpacked(tmp_path: Path, inside: Path) -> None:
    path = written("run.sqlite.xz", lambda folder: lzma.compress(export(folder)))(inside)
    before = seen(tmp_path)
    assert_refused(limited(30_000, "analyze", path), errors.OutputRefused, "cannot be unpacked")
    assert seen(tmp_path) == before


@pytest.mark.nsys
def test_full_disk_while_nsys_exports(
    primary: Nsys, recorded: Path, tmp_path: Path, inside: Path, own_cache: Path
) -> None:
    shutil.copy(recorded, inside)
    before = seen(tmp_path)
    ended = limited(30_000, "analyze", inside, "--nsys", primary.path)
    assert_refused(ended, errors.ExportFailed, r"could not export run\.nsys-rep")
    assert "disk" in ended.err
    assert seen(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    "arguments",
    [["analyze"], ["analyze", "--format", "json"], ["table", "kern_sum", "--format", "parquet"]],
    ids=lambda words: " ".join(words),
)
def test_full_disk_under_standard_output(arguments: list[str], inside: Path) -> None:
    path = report().write(inside / "run.sqlite")
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "dsprof", arguments[0], path, *arguments[1:]],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert_refused(Ended(ended.returncode, "", ended.stderr), errors.OutputRefused, "No space left")


# -- data that is not there -----------------------------------------------------------------------------


def no_nvtx() -> TraceBuilder:
    return TraceBuilder().gpu().kernel("k", at=(50, 60), call=(10, 20))


def no_cuda() -> TraceBuilder:
    return TraceBuilder().range("prefill", 0, 100)


def no_api() -> TraceBuilder:
    return report().without(RUNTIME)


def lost() -> TraceBuilder:
    return report().api(call=(30, 40)).api(call=(41, 42))


def orphan() -> TraceBuilder:
    return report().kernel("orphan", at=(170, 180), correlation=999)


def impossible_times() -> TraceBuilder:
    return report().sql(f'UPDATE "{KERNEL}" SET "end" = "start" - 1 WHERE rowid = 1')


def impossible_sizes() -> TraceBuilder:
    return report().copy(size=-1, at=(170, 180), call=(30, 40))


POOR = {
    "no-nvtx": (no_nvtx, 20, "The report holds no NVTX ranges"),
    "no-cuda": (no_cuda, 21, "The report holds no GPU operations"),
    "no-api": (no_api, 22, "GPU operations but no CUDA API calls"),
    "lost-kernels": (lost, 23, "2 of 4 kernel launches"),
    "orphan-operations": (orphan, 24, "1 GPU operation"),
    "impossible-times": (impossible_times, 27, "Impossible times (kernels: 1)"),
    "impossible-sizes": (impossible_sizes, 28, "Impossible sizes (memory copies: 1)"),
}


@pytest.mark.parametrize("case", POOR)
def test_poor_data_is_told_and_with_strict_is_an_error(case: str, run: Run, inside: Path) -> None:
    make, code, said = POOR[case]
    path = make().write(inside / "run.sqlite")
    assert code == STRICT_EXITS[case]
    ended = run("analyze", path)
    assert (ended.code, ended.err) == (0, "")
    assert said in " ".join(ended.out.split())
    tables = seen(inside / "run.dsprof")
    assert len(tables) > 5
    strict = run("analyze", path, "--strict")
    assert (strict.code, strict.out, strict.err) == (code, ended.out, "")
    assert seen(inside / "run.dsprof").keys() == tables.keys()


def test_strict_takes_the_first_of_several(run: Run, inside: Path) -> None:
    path = TraceBuilder().kernel("k", at=(5, 6)).write(inside / "run.sqlite")
    assert run("analyze", path, "--strict").code == 20


def test_strict_has_nothing_against_whole_data(run: Run, inside: Path) -> None:
    assert run("analyze", report().write(inside / "run.sqlite"), "--strict").code == 0


def test_other_formats_tell_it_on_stderr(run: Run, inside: Path) -> None:
    path = no_cuda().write(inside / "run.sqlite")
    for name in ("json", "markdown"):
        ended = run("analyze", path, "--strict", "--format", name)
        assert ended.code == 21
        assert ended.out
        assert ended.err.startswith("dsprof: The report holds no GPU operations")


def test_kernels_without_an_api_row_are_all_outside_of_stages(run: Run, inside: Path) -> None:
    ended = run("table", no_api().write(inside / "run.sqlite"), "stage_kern_sum", "--format", "csv")
    assert [line.split(",")[0] for line in ended.out.splitlines()] == ["stage", "(no stage)", "(no stage)"]
    assert KERNEL not in ended.err
