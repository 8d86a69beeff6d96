"""Several runs for a comparison: whose turn it is, what is kept when one fails or is interrupted, what is compared."""

from __future__ import annotations

import glob
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import dsprof
from dsprof.analysis.which import natural
from dsprof.capture import session
from dsprof.capture.folder import UNFINISHED, new_folder
from dsprof.capture.profile import Ending, Profile
from dsprof.capture.record import Turn, read_session
from dsprof.capture.runs import Runs, Side, check_names, record_runs, turns_of
from dsprof.capture.session import Capture, Settings
from dsprof.cli import main
from dsprof.errors import (
    BaselineFailed,
    CaptureRefused,
    DsprofError,
    MemoryTooSmall,
    NoSpace,
    NsysMissing,
    ProfileFailed,
    RunsFailed,
)
from engines.recording import stand_ins
from fake_nsys import install
from nsys_stats import AGENT_LOST, PRIMARY, TRIES, Nsys, require
from test_captured_servers import CLIENT, client

#: Notes its name in a file, and serves as a model does; fails or sleeps at the turns that are named, like ``3:fail``.
#: With ``ps`` it prints the command lines of those that started it.
PROGRAM = """
import os, sys, time
from pathlib import Path
from dsprof.workloads.toy import serve
name, notes, *what = sys.argv[1:]
with open(notes, "a") as file:
    file.write(name + " ")
turn = len(Path(notes).read_text().split())
print("turn", turn, flush=True)
serve(0, 3)
pid = str(os.getpid())
while "ps" in what and pid != "0":
    print(*Path("/proc", pid, "cmdline").read_text().split("\\0"), flush=True)
    pid = Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1]
if f"{turn}:fail" in what:
    sys.exit("the reason")
if f"{turn}:sleep" in what:
    print("sleeping", flush=True)
    time.sleep(100)
"""


# -- whose turn it is -----------------------------------------------------------------------------------------


def test_two_sides_take_turns() -> None:
    turns = turns_of(["before", "after"], 2)
    assert [one.name for one in turns] == ["before-1", "after-1", "before-2", "after-2"]
    assert [(one.turn, one.turns, one.run, one.runs) for one in turns] == [
        (1, 4, 1, 2), (2, 4, 1, 2), (3, 4, 2, 2), (4, 4, 2, 2)
    ]  # fmt: skip
    assert [one.name for one in turns_of(["run"], 3)] == ["run-1", "run-2", "run-3"]


def test_names_of_runs_sort_as_people_and_shells_sort() -> None:
    names = [one.name for one in turns_of(["run"], 120)]
    assert sorted(names) == names == sorted(names, key=natural)


@pytest.mark.parametrize("names", [["a"], ["main", "branch"], ["8b", "8b.eager"], ["a-b", "ab"], ["v1+x", "v1"]])
def test_names_that_sides_may_have(names: list[str]) -> None:
    check_names(names)


@pytest.mark.parametrize(
    "names",
    [["a", "a"], ["a", "a-b"], ["a-1", "a"], *([name] for name in ("", "a/b", "*", "-a", ".a", "a b", "x" * 200)),
     ["unfinished"], ["a\x1b[2J"], ["ü"]],
)  # fmt: skip
def test_names_by_which_the_sides_could_not_be_told(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"side|stand for|called"):
        check_names(names)


# -- what is kept, without nsys -------------------------------------------------------------------------------


def made(
    folder: Path,
    turn: Turn | None,
    ending: Ending = "finished",
    trouble: DsprofError | None = None,
    recorded: bool = True,
) -> Capture:
    """A capture as a session leaves it."""
    begun = session.Session("made", "2026-11-27T00:00:00+00:00", "x", (), ending, 0, ("run.nsys-rep",), turn=turn)
    folder = new_folder(folder, begun)
    for name in ("run.nsys-rep", "run.sqlite", "workload.log"):
        (folder / name).write_text(name)
    exports = (folder / "run.sqlite",)
    done = Profile((folder / "run.nsys-rep",), exports, folder / "workload.log", 0, ending)
    return Capture(folder, begun, exports, done, recorded, trouble)


def runs_of(tmp_path: Path, *sides: str, runs: int = 2, how: dict[str, Any] | None = None, **more: Any) -> Runs:
    """Runs of stand-ins; `how`: what one does otherwise: arguments of `made`, or an exception."""

    def record(settings: Settings, live: object, progress: object) -> Capture:
        assert settings.turn is not None
        told = (how or {}).get(settings.turn.name, {})
        if isinstance(told, BaseException):
            made(settings.out, settings.turn)
            raise told
        return made(settings.out, settings.turn, **told)

    whom = [Side(name, "program", (), lambda settings: None, record) for name in sides]
    with (tmp_path / "live.txt").open("w") as live:
        return record_runs(whom, runs, Settings(tmp_path / "out", **more), live=live)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole_runs_have_their_names_and_the_command_that_compares_them(tmp_path: Path) -> None:
    done = runs_of(tmp_path, "old", "new", name="two words")
    assert names_in(done.folder) == ["new-1", "new-2", "old-1", "old-2"]
    assert done.comparison == f"dsprof diff '{done.folder}'/old-* -- '{done.folder}'/new-*"
    assert [one.folder.name for one in done.whole] == ["old-1", "new-1", "old-2", "new-2"]
    assert all(path.is_file() for one in done.whole for path in (*one.exports, *one.profile.reports, one.profile.log))
    assert [read_session(one.folder).turn for one in done.whole] == turns_of(["old", "new"], 2)


def test_one_side_alone_says_what_is_missing(tmp_path: Path) -> None:
    assert runs_of(tmp_path, "run").comparison.endswith("/run-* -- AFTER…")


@pytest.mark.parametrize(
    "bad",
    [
        {"ending": "failed"},
        {"ending": "signalled"},
        {"ending": "unknown"},
        {"trouble": CaptureRefused("No ranges.")},
        {"recorded": False},
        ProfileFailed("It failed."),
    ],
)
def test_a_run_that_fails_costs_the_others_nothing(bad: Any, tmp_path: Path) -> None:
    done = runs_of(tmp_path, "before", "after", how={"after-2": bad}, runs=3)
    assert names_in(done.folder) == ["after-1", "after-3", "before-1", "before-2", "before-3", "unfinished-after-2"]
    assert (len(done.whole), done.left_out, done.interrupted) == (5, 0, False)
    (one,) = done.unfinished
    assert (one.turn.name, one.folder) == ("after-2", done.folder / "unfinished-after-2")
    assert "after-*" in done.comparison


@pytest.mark.parametrize("ending", ["time-limit", "stopped", "ended"])
def test_a_run_that_ends_as_it_was_told_to_counts(ending: Ending, tmp_path: Path) -> None:
    assert len(runs_of(tmp_path, "run", how={"run-2": {"ending": ending}}).whole) == 2


def test_where_the_first_run_of_a_side_fails_the_others_would_too(tmp_path: Path) -> None:
    done = runs_of(tmp_path, "before", "after", how={"after-1": {"ending": "failed"}}, runs=5)
    assert (len(done.whole), len(done.unfinished), done.left_out, done.comparison) == (1, 1, 8, "")


def test_a_full_disk_ends_all(tmp_path: Path) -> None:
    done = runs_of(tmp_path, "run", how={"run-2": NoSpace("Full.")}, runs=5)
    assert (len(done.whole), len(done.unfinished), done.left_out) == (1, 1, 3)


def test_what_is_refused_before_the_first_run_leaves_no_folder(tmp_path: Path) -> None:
    def refuse(settings: Settings) -> None:
        raise NsysMissing("None.")

    ran: list[int] = []
    sides = [
        Side("before", "x", (), lambda settings: None, lambda *rest: ran.append(1)),  # type: ignore[arg-type, func-returns-value]
        Side("after", "x", (), refuse, lambda *rest: ran.append(1)),  # type: ignore[arg-type, func-returns-value]
    ]
    with pytest.raises(NsysMissing):
        record_runs(sides, 2, Settings(tmp_path / "out"))
    with pytest.raises(CaptureRefused):
        record_runs(sides, 2, Settings(tmp_path / "out", name="a/b"))
    assert not ran
    assert not (tmp_path / "out").exists()


def test_a_folder_in_which_nothing_is_left_goes(tmp_path: Path) -> None:
    def fail(settings: Settings, *rest: object) -> Capture:
        raise ProfileFailed("It failed.")

    done = record_runs([Side("run", "x", (), lambda settings: None, fail)], 2, Settings(tmp_path / "out"))
    assert not done.folder.exists()
    assert (done.unfinished[0].folder, done.left_out) == (None, 1)


def test_handlers_of_signals_are_as_before(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    runs_of(tmp_path, "run", how={"run-2": KeyboardInterrupt()})
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


# -- the command line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["--runs", "0", "--", "true"],
        ["--pause-s", "1", "--", "true"],
        ["--sides", "a", "--", "true"],
        ["--runs", "2", "--sides", "a,b", "--", "true"],
        ["--before", "true", "--sides", "a", "--", "true"],
        ["--before", "true", "--sides", "a,a-b", "--", "true"],
        ["--before", "", "--", "true"],
        ["--before", "'", "--", "true"],
        ["--before", "python b.py", "page.png"],
        ["--before", "--out elsewhere", "page.png"],
        ["--before", "--no-such-option", "page.png"],
        ["--before", "--max-new-tokens x", "page.png"],
        ["--before", "--serve 3", "page.png"],
        ["--before", "--modules [", "page.png"],
        ["--runs", "2"],
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_runs(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.png").write_bytes(b"pixels")
    monkeypatch.chdir(tmp_path)
    nsys = str(install(tmp_path / "fake"))
    monkeypatch.setattr("sys.argv", ["dsprof", "capture", "--nsys", nsys, *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2, capsys.readouterr().err
    assert not (tmp_path / "traces").exists()


def test_the_other_side_of_a_session_differs_in_the_options_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsprof.capture import runs

    (tmp_path / "page.png").write_bytes(b"pixels")
    jobs: list[Any] = []

    def record(job: Any, settings: Settings, *rest: object) -> Capture:
        jobs.append(job)
        return made(settings.out, settings.turn, "failed" if len(jobs) == 4 else "finished")

    monkeypatch.setattr(runs, "record_images", record)
    monkeypatch.setattr("dsprof.cli.capture.analyzed", lambda *rest: type("A", (), {"write": lambda *a, **b: None})())
    words = [str(tmp_path / "page.png"), "--repeat", "3", "--flash-attn", "--runs", "2", "--out", str(tmp_path / "out"),
             "--nsys", str(install(tmp_path / "fake")), "--before", "--no-flash-attn --max-new-tokens 7"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["dsprof", "capture", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == RunsFailed.exit_code
    assert [(job.use_flash_attn, job.max_new_tokens, job.repeat) for job in jobs] == [(False, 7, 3), (True, 64, 3)] * 2


def test_an_analysis_that_fails_costs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dsprof.capture import runs

    def fail(*rest: object) -> None:
        raise MemoryTooSmall("Too small.")

    monkeypatch.setattr(runs, "record_command", lambda words, settings, *rest: made(settings.out, settings.turn))
    monkeypatch.setattr("dsprof.cli.capture.analyzed", fail)
    fake = str(install(tmp_path / "fake"))
    words = ["--runs", "2", "--nsys", fake, "--out", str(tmp_path / "out"), "--", "true"]
    monkeypatch.setattr("sys.argv", ["dsprof", "capture", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == MemoryTooSmall.exit_code
    (folder,) = (tmp_path / "out").iterdir()
    assert f"Then: dsprof diff {folder}/run-* -- AFTER" in capsys.readouterr().out
    assert names_in(folder) == ["run-1", "run-2"]


# -- with the real nsys ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nsys() -> Nsys:
    return require(PRIMARY)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which programs run, with one for temporary files in which nothing may be left."""
    (tmp_path / "program.py").write_text(PROGRAM)
    with stand_ins(tmp_path, monkeypatch):
        yield tmp_path


class Told:
    """What a capture said, and what it left."""

    def __init__(self, code: int, text: str, out: Path) -> None:
        self.code, self.text = code, text
        self.folder = next(out.iterdir(), out) if out.exists() else out

    @property
    def names(self) -> list[str]:
        return names_in(self.folder)


def program(name: str, *what: str, notes: Path) -> list[str]:
    return [sys.executable, "program.py", name, str(notes), *what]


def drive(
    nsys: Nsys, words: Callable[[Path], list[str]], meet: Callable[[subprocess.Popen[str], str], None] | None = None
) -> Told:
    """`dsprof capture` in a process of its own, its notes in a new file; again where the real nsys lost its agent.

    `meet` is told each line that it says.
    """
    for tries in range(1, TRIES + 1):
        number = next(one for one in count() if not Path(f"out{one}").exists())
        out = Path(f"out{number}")
        command = [
            sys.executable,
            "-m",
            "dsprof",
            "capture",
            "--trace",
            "nvtx",
            "--nsys",
            str(nsys.path),
            "--out",
            str(out),
        ]
        with subprocess.Popen(
            [*command, *words(Path(f"notes{number}"))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as driver:
            assert driver.stdout is not None
            said = []
            for line in driver.stdout:
                said.append(line)
                if meet is not None:
                    meet(driver, line)
            code = driver.wait(60)
        if AGENT_LOST not in "".join(said) or tries == TRIES:
            return Told(code, "".join(said), out)
    raise AssertionError


def in_turn(notes: Path, *what: str, options: tuple[str, ...] = ()) -> list[str]:
    """Two programs, each twice."""
    before = " ".join(program("A", *what, notes=notes))
    return ["--runs", "2", *options, "--before", before, "--", *program("B", *what, notes=notes)]


@pytest.mark.nsys
def test_two_programs_in_turn(nsys: Nsys, place: Path) -> None:
    secret = "hf_" + "Q7" * 17

    def words(notes: Path) -> list[str]:
        before = " ".join(program("A", f"--token={secret}", notes=notes))
        return ["--runs", "2", "--sides", "main,branch", "--before", before, "--", *program("B", "ps", notes=notes)]

    done = drive(nsys, words)
    assert done.code == 0, done.text
    assert secret in done.text  # by the other program, as it came
    assert next(place.glob("notes*")).read_text().split() == ["A", "B", "A", "B"]
    assert done.names == ["branch-1", "branch-2", "main-1", "main-2"]
    assert f"Then: dsprof diff {done.folder}/main-* -- {done.folder}/branch-*" in done.text
    records = {name: read_session(done.folder / name) for name in done.names}
    assert {record.command[2] for name, record in records.items() if name.startswith("main")} == {"A"}
    assert [one.turn for one in sorted(records.values(), key=lambda one: one.turn.turn)] == turns_of(
        ["main", "branch"], 2
    )
    assert {record.ending for record in records.values()} == {"finished"}
    for name in done.names:
        assert dsprof.analyze(done.folder / name)["stage_trace"]["stage"].tolist() == ["prefill", "decode"]
        assert (done.folder / name / "run.dsprof").is_dir()
        kept = [path for path in (done.folder / name).rglob("*") if path.is_file() and path.suffix != ".nsys-rep"]
        assert [path for path in kept if secret.encode() in path.read_bytes()] == []


@pytest.mark.nsys
def test_a_program_that_fails_once(nsys: Nsys, place: Path) -> None:
    done = drive(nsys, lambda notes: in_turn(notes, "3:fail"))
    assert done.code == RunsFailed.exit_code, done.text
    assert done.names == ["after-1", "after-2", "before-1", "unfinished-before-2"]
    assert "before-2 does not count: the program ended with exit code 1." in done.text
    assert "  the reason" in done.text
    assert "Of 4 runs 3 are whole." in done.text
    assert "the reason" in (done.folder / "unfinished-before-2" / "workload.log").read_text()


@pytest.mark.nsys
def test_a_program_that_always_fails_runs_once(nsys: Nsys, place: Path) -> None:
    done = drive(nsys, lambda notes: ["--runs", "5", "--", "sh", "-c", "echo x >>ran; exit 7"])
    assert done.code == 7, done.text
    assert done.names == ["unfinished-run-1"]
    assert (place / "ran").read_text() in ("x\n", "x\n" * TRIES)


@pytest.mark.nsys
def test_ctrl_c_ends_the_run_and_all_after_it(nsys: Nsys, place: Path) -> None:
    def meet(driver: subprocess.Popen[str], line: str) -> None:
        if line == "sleeping\n":
            driver.send_signal(signal.SIGINT)

    done = drive(nsys, lambda notes: in_turn(notes, "2:sleep"), meet)
    assert done.code == 130, done.text
    assert done.names == ["before-1", "unfinished-after-1"]
    assert "dsprof: interrupted; 2 runs were not begun." in done.text
    assert read_session(done.folder / "unfinished-after-1").ending == "interrupted"
    assert read_session(done.folder / "before-1").ending == "finished"
    assert not (done.folder / "before-1" / "run.dsprof").exists()


@pytest.mark.nsys
def test_ctrl_c_between_two_runs(nsys: Nsys, place: Path) -> None:
    def meet(driver: subprocess.Popen[str], line: str) -> None:
        if line == "turn 1\n":
            while not glob.glob(f"{place}/out*/*/before-1") and driver.poll() is None:  # noqa: PTH207
                time.sleep(0.05)
            driver.send_signal(signal.SIGTERM)

    begun = time.monotonic()
    done = drive(nsys, lambda notes: in_turn(notes, options=("--pause-s", "100")), meet)
    assert done.code == 130, done.text
    assert time.monotonic() - begun < 90
    assert done.names == ["before-1"]
    assert "dsprof: interrupted; 3 runs were not begun." in done.text
    assert "before-1 does not count" not in done.text


@pytest.mark.nsys
def test_a_killed_dsprof_leaves_no_run_that_looks_whole(nsys: Nsys, place: Path) -> None:
    def meet(driver: subprocess.Popen[str], line: str) -> None:
        if line == "sleeping\n":
            driver.kill()

    done = drive(nsys, lambda notes: in_turn(notes, "2:sleep"), meet)
    assert done.names == ["before-1", "unfinished-after-1"]
    again = drive(
        nsys, lambda notes: ["--runs", "1", "--out", str(done.folder.parent), "--", *program("C", notes=notes)]
    )
    assert again.code == 0, again.text
    assert not list(done.folder.rglob(".partial-*"))
    assert not list((done.folder / "unfinished-after-1").glob("run.nsys-rep"))


@pytest.mark.nsys
def test_each_run_has_its_baseline_and_ctrl_c_in_one_ends_all(nsys: Nsys, place: Path) -> None:
    def words(notes: Path, *what: str) -> list[str]:
        return ["--runs", "2", "--baseline", "--", *program("A", *what, notes=notes)]

    done = drive(nsys, words)
    assert done.code == 0, done.text
    assert done.names == ["run-1", "run-2"]
    for name in done.names:
        plain = read_session(done.folder / name).baseline.plain
        assert plain is not None
        assert plain.problem == ""
        assert (done.folder / name / "baseline" / "workload.log").is_file()

    def meet(driver: subprocess.Popen[str], line: str) -> None:
        if line == "sleeping\n":
            driver.send_signal(signal.SIGINT)

    done = drive(nsys, lambda notes: words(notes, "2:sleep"), meet)
    assert done.code == 130, done.text
    assert done.names == ["run-1"]
    assert "1 run was not begun" in done.text


@pytest.mark.nsys
def test_a_baseline_that_fails_costs_no_run(nsys: Nsys, place: Path) -> None:
    done = drive(nsys, lambda notes: ["--runs", "2", "--baseline", "--", *program("A", "2:fail", notes=notes)])
    assert done.code == BaselineFailed.exit_code, done.text
    assert done.names == ["run-1", "run-2"]


@pytest.mark.nsys
def test_a_server_is_started_for_each_run(nsys: Nsys, place: Path) -> None:
    (place / "client.py").write_text(CLIENT)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    server = ["vllm", "serve", "model", "--port", str(port)]
    whom = " ".join(client(port))
    words = ["--server", "--while", whom, "--before", " ".join(server), "--", *server]
    done = drive(nsys, lambda notes: words)
    assert done.code == 0, done.text
    assert done.names == ["after-1", "before-1"]
    assert [read_session(done.folder / name).ending for name in done.names] == ["ended", "ended"]
    assert done.text.count("so it gets") == 2
    assert "after-1: the server was ended when its window was recorded" in done.text


@pytest.mark.nsys
def test_each_run_has_a_report_of_each_rank(nsys: Nsys, place: Path) -> None:
    def words(notes: Path, *more: str) -> list[str]:
        return ["--runs", "2", "--per-rank", "--", "mpirun", *more, "-n", "2", *program("A", notes=notes)]

    done = drive(nsys, words)
    assert done.code == 0, done.text
    assert done.names == ["run-1", "run-2"]
    for name in done.names:
        assert done.text.count("nsys behind the launcher") == 1
        assert {"run.r0.nsys-rep", "run.r1.nsys-rep"} <= set(names_in(done.folder / name))
    done = drive(nsys, lambda notes: words(notes, "--continuous"))
    assert done.names == [f"{UNFINISHED}run-1"]
    assert done.code == 51, done.text
