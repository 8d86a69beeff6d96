"""Running nsys: every way in which its exit code lies, on the real nsys where it can be brought to it."""

from __future__ import annotations

import glob
import io
import json
import mmap
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import nsys_stats
from dsprof import errors
from dsprof.capture import options as told
from dsprof.capture import profile as module
from dsprof.capture import watching
from dsprof.capture.options import ProfileOptions
from dsprof.capture.profile import Profile, profile
from dsprof.capture.watching import LOG
from dsprof.errors import (
    DsprofError,
    ExportFailed,
    ImportHung,
    NoSpace,
    OutputExists,
    OutputRefused,
    ProfileFailed,
)
from dsprof.nsys import command
from fake_nsys import install
from nsys_stats import MIDDLE, OLD, PRIMARY, Nsys, require

pytestmark = pytest.mark.timeout(300)

#: Requests, seconds of each prefill and pause, exit code.
SERVE = """
import sys, time
from dsprof.workloads.ranges import annotate
for request in range(int(sys.argv[1])):
    with annotate("request", request), annotate("prefill"):
        time.sleep(float(sys.argv[2]))
    time.sleep(float(sys.argv[2]))
sys.exit(int(sys.argv[3]))
"""
#: Opens a range, says so, and then waits, through the signals that are named.
WAIT = """
import signal, sys, time
from dsprof.workloads.ranges import annotate
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), lambda number, frame: print("ignored", flush=True))
with annotate("prefill"):
    time.sleep(0.05)
print("ready", flush=True)
time.sleep(100)
"""
DRIVER = """
import json, os, signal, sys
from pathlib import Path
from dsprof.errors import DsprofError
from dsprof.capture.options import ProfileOptions
from dsprof.capture.profile import profile
limit_s = float(os.environ.get("IMPORT_LIMIT_S", "300"))
free = int(os.environ.get("MINIMUM_FREE", "0"))
options = ProfileOptions(trace="nvtx", minimum_free_bytes=free, import_limit_s=limit_s)
try:
    done = profile(options, sys.argv[3:], Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"code": done.exit_code, "ending": done.ending}))
except DsprofError as error:
    print(type(error).__name__, error)
    sys.exit(error.exit_code)
"""


def serve(requests: int, pause_s: float, code: int = 0) -> list[str]:
    return [sys.executable, "-c", SERVE, str(requests), str(pause_s), str(code)]


def python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def runs(pid: int) -> bool:
    """Is there such a process, and not only what nobody has taken note of (a zombie)?"""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def carriers(folder: Path) -> dict[int, str]:
    """By number: the command lines of the processes whose TMPDIR is a folder in `folder`."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"\0TMPDIR={folder}/".encode() in b"\0" + (process / "environ").read_bytes():
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
    return found


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own folder for temporary files; after each test no file is left in it, and no process that came from it."""
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    told.known_options.cache_clear()
    yield folder
    left = carriers(folder)
    for pid in left:  # that one failure is not the reason for the next
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == {}
    assert list(folder.iterdir()) == []
    assert list(tmp_path.rglob(".partial-*")) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "session"


@pytest.fixture(scope="session")
def primary() -> Nsys:
    return require(PRIMARY)


@pytest.fixture(params=[PRIMARY, OLD, MIDDLE])
def any_nsys(request: pytest.FixtureRequest) -> Nsys:
    """Each version that behaves in a way of its own."""
    return require(request.param)


def record(nsys: Nsys | Path, folder: Path, command: list[str], **options: Any) -> tuple[Profile, str]:
    """The profile, and what was shown live; tried again where the real nsys lost its agent."""
    path, tries = (nsys, 1) if isinstance(nsys, Path) else (nsys.path, nsys_stats.TRIES)
    while True:
        tries, live = tries - 1, io.StringIO()
        try:
            return profile(ProfileOptions(**{"trace": "nvtx", **options}), command, folder, path, live), live.getvalue()
        except ProfileFailed as error:
            if not tries or nsys_stats.AGENT_LOST not in str(error):
                raise


@pytest.mark.nsys
def test_tests_that_record_are_one_group(request: pytest.FixtureRequest) -> None:
    """xdist knows a group by the end of a test's name; without it several would record at once."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("not run by several workers with --dist loadgroup")
    assert request.node.nodeid.endswith("@nsys")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ranges(done: Profile, name: str = "prefill") -> list[int]:
    """How many ranges of a name each export holds."""
    counts = []
    for export in done.exports:
        with closing(sqlite3.connect(export)) as database:
            query = "SELECT count(*) FROM NVTX_EVENTS LEFT JOIN StringIds ON id = textId WHERE ? IN (text, value)"
            counts.append(database.execute(query, [name]).fetchone()[0])
    return counts


# -- how the program ends -------------------------------------------------------------------------------


@pytest.mark.nsys
def test_program_that_ends_well(any_nsys: Nsys, folder: Path) -> None:
    done, _ = record(any_nsys, folder, python("from dsprof.workloads import toy; toy.main(['2', '4'])"))
    assert (done.ending, done.exit_code, done.explain()) == ("finished", 0, "the program ended normally")
    assert done.reports == (folder / "run.nsys-rep",)
    assert done.exports == (folder / "run.sqlite",)
    assert ranges(done) == [2]
    assert names(folder) == {"run.nsys-rep", "run.sqlite", LOG}


@pytest.mark.nsys
@pytest.mark.parametrize(
    ("program", "ending", "code", "said"),
    [
        ("raise SystemExit(3)", "failed", 3, "exit code 3"),
        ("raise SystemExit(255)", "failed", 255, "exit code 255"),
        ("raise SystemExit(137)", "signalled", 137, "signal 9 (SIGKILL)"),
        ("import os; os.kill(os.getpid(), 11)", "signalled", 139, "signal 11 (SIGSEGV)"),
        ("import os; os.kill(os.getpid(), 15)", "signalled", 143, "signal 15 (SIGTERM)"),
    ],
)
def test_program_that_fails_is_still_recorded(
    program: str, ending: str, code: int, said: str, primary: Nsys, folder: Path
) -> None:
    done, _ = record(
        primary, folder, python(f"from dsprof.workloads.ranges import *\nwith prefill_range(): pass\n{program}")
    )
    assert (done.ending, done.exit_code) == (ending, code)
    assert said in done.explain()
    if code not in (139, 143):  # a signal may take the ranges with it that were not yet handed over
        assert ranges(done) == [1]


@pytest.mark.nsys
def test_program_that_is_killed(any_nsys: Nsys, folder: Path) -> None:
    """2024.2 fails to import two of three such recordings; the second import succeeds."""
    done, _ = record(any_nsys, folder, python("import os, time; time.sleep(0.5); os.kill(os.getpid(), 9)"))
    assert (done.ending, done.exit_code) == ("signalled", 137)
    assert names(folder) == {"run.nsys-rep", "run.sqlite", LOG}


@pytest.mark.nsys
def test_duration_is_a_normal_end(primary: Nsys, folder: Path) -> None:
    done, _ = record(primary, folder, serve(1000, 0.1), duration_s=4)
    assert (done.ending, done.exit_code) == ("stopped", 143)
    assert 1 <= ranges(done)[0] < 1000


@pytest.mark.nsys
def test_sigterm_before_the_duration_is_over_is_none(primary: Nsys, folder: Path) -> None:
    done, _ = record(primary, folder, python("import os; os.kill(os.getpid(), 15)"), extra=("-d", "30"))
    assert (done.ending, done.exit_code) == ("signalled", 143)


@pytest.mark.nsys
@pytest.mark.parametrize("ignored", [[], ["SIGINT"], ["SIGINT", "SIGTERM"]], ids=["none", "int", "int-term"])
def test_time_limit(ignored: list[str], any_nsys: Nsys, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nsys that is sent SIGINT leaves a program running that ignores it (2023.4), or waits for it (2024.2)."""
    monkeypatch.setattr(watching, "_LAST_PATIENCE_S", 0.5)
    patience_s = 60 if not ignored else 0.5
    for limit_s in (1.5, 6, 24):  # a busy machine takes long until the program has begun
        with suppress(ProfileFailed):
            done, live = record(
                any_nsys, folder, python(WAIT, *ignored), limit_s=limit_s, patience_s=patience_s, force=True
            )
            if "ready" in live:
                break
    assert done.ending == "time-limit"
    assert done.exit_code == {0: 130, 1: 143, 2: 137}[len(ignored)]
    if not ignored:
        assert ranges(done) == [1]


def test_time_limit_before_the_program_starts(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NSYS", "never-starts")
    with pytest.raises(ProfileFailed, match="time limit before there was a report"):
        record(install(tmp_path / "fake"), folder, ["true"], limit_s=0.5, patience_s=5)


@contextmanager
def drive(
    nsys: Nsys, folder: Path, command: list[str], ignored: bool = False, prefix: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A program that profiles, as the command line does; `ignored`: started with SIGINT ignored."""
    driver = subprocess.Popen(
        [*prefix, *python(DRIVER), str(folder), str(nsys.path), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: _signals(ignored),
    )
    with driver:
        try:
            yield driver
        finally:
            driver.kill()


def _signals(ignored: bool) -> None:
    """Of a new process: SIGINT ignored or not, and SIGHUP not, also where the tests run under nohup."""
    signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def ended(driver: subprocess.Popen[str]) -> str:
    """What it says on stdout until it ends."""
    return driver.communicate(timeout=120)[0]


def found(folder: Path, pattern: str) -> list[str]:
    """What fits, while folders come and go: `Path.glob` raises where one vanishes under it."""
    return glob.glob(str(folder / pattern))  # noqa: PTH207


def wait_until(condition: Callable[[], object], limit_s: float = 60.0) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.nsys
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_while_the_program_runs(number: signal.Signals, primary: Nsys, folder: Path) -> None:
    """What was recorded is kept, also where a shell had its background job ignore SIGINT."""
    with drive(primary, folder, python(WAIT), ignored=number != signal.SIGINT) as driver:
        assert driver.stderr is not None
        assert driver.stderr.readline() == "ready\n"  # live: the program runs on
        driver.send_signal(number)
        said = ended(driver)
    assert json.loads(said) == {"code": 130, "ending": "interrupted"}
    assert names(folder) == {"run.nsys-rep", "run.sqlite", LOG}
    assert "KeyboardInterrupt" in (folder / LOG).read_text()


@pytest.mark.nsys
def test_interrupted_twice_ends_a_program_that_ignores_the_first(primary: Nsys, folder: Path) -> None:
    with drive(primary, folder, python(WAIT, "SIGINT")) as driver:
        assert driver.stderr is not None
        assert driver.stderr.readline() == "ready\n"
        driver.send_signal(signal.SIGINT)
        assert driver.stderr.readline() == "ignored\n"  # or the two could be one
        driver.send_signal(signal.SIGINT)
        said = ended(driver)
    assert json.loads(said) == {"code": 143, "ending": "interrupted"}


@pytest.mark.parametrize("times", [1, 2])
def test_interrupted_while_the_import_hangs(
    times: int, folder: Path, tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first Ctrl-C lets the import go on; the second ends it, and the raw capture stays."""
    monkeypatch.setenv("FAKE_NSYS", "hangs")
    monkeypatch.setenv("IMPORT_LIMIT_S", "6" if times == 1 else "100")
    with drive(Nsys(install(tmp_path / "fake"), "2030.1"), folder, ["true"]) as driver:
        wait_until(lambda: found(temporary, "*/*.qdstrm"))
        for _ in range(times):
            time.sleep(1)
            assert driver.poll() is None
            driver.send_signal(signal.SIGINT)
        said = ended(driver)
    if times == 1:
        assert json.loads(said)["ending"] == "interrupted"
        assert names(folder) == {"run.nsys-rep", "run.sqlite", LOG}
    else:
        assert "interrupted before there was a report" in said
        assert names(folder) == {"run.qdstrm", LOG}


@pytest.mark.nsys
def test_nsys_itself_is_killed(primary: Nsys, folder: Path, temporary: Path) -> None:
    """It leaves an agent, a launcher and the program; none of them is there afterwards."""

    def semaphores() -> set[str]:
        """Those of processes that are gone; another recording on this machine may have some for a moment."""
        names = [path.name for path in Path("/dev/shm").glob("sem.NSys*")]
        return {name for name in names if not Path("/proc", name.split("-")[2]).exists()}

    before = semaphores()

    def kill() -> None:
        wait_until(
            lambda: any(WAIT.split()[0] in line and "-c" in line.split()[1:2] for line in carriers(temporary).values())
        )
        time.sleep(0.5)
        for pid, line in carriers(temporary).items():
            if line.split()[1:2] == ["profile"]:
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ProfileFailed, match=r"nsys itself was killed by signal 9"):
        record(primary, folder, python(WAIT))
    killer.join()
    wait_until(lambda: semaphores() <= before)


@pytest.mark.nsys
def test_recording_ends_with_its_program_and_not_with_a_daemon(any_nsys: Nsys, folder: Path) -> None:
    """What has our TMPDIR loses it, and the agent, so it is ended; nsys would wait for it (--wait=all)."""
    program = f"import subprocess\nsubprocess.Popen(['sleep', '200'], start_new_session=True)\n{SERVE}"
    done, _ = record(any_nsys, folder, python(program, "1", "0.05", "0"))
    assert (done.ending, done.left) == ("finished", ("sleep",))
    assert done.explain() == "the program ended normally; what it left running was ended: sleep"
    assert ranges(done) == [1]


@pytest.mark.nsys
def test_daemon_with_an_environment_of_its_own_lives_on(any_nsys: Nsys, folder: Path, tmp_path: Path) -> None:
    daemon = f"env -i PATH=$PATH setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 200' >/dev/null 2>&1 & sleep 1"
    done, _ = record(any_nsys, folder, ["sh", "-c", daemon])
    assert (done.ending, done.left) == ("finished", ())
    pid = int((tmp_path / "pid").read_text())
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    os.kill(pid, signal.SIGKILL)


@pytest.mark.nsys
@pytest.mark.parametrize("how", ["TMPDIR=/tmp exec", "exec env -i", "(setsid env -i sleep 9 &);"])
def test_silent_program_with_another_environment_is_no_hung_import(how: str, any_nsys: Nsys, folder: Path) -> None:
    wait = ("--wait=all",) if "setsid" in how else ()
    done, _ = record(any_nsys, folder, ["sh", "-c", f"{how} sleep 9"], import_limit_s=5, extra=wait)
    assert (done.ending, done.exit_code) == ("finished", 0)


@pytest.mark.nsys
def test_time_limit_for_a_program_with_another_environment(primary: Nsys, folder: Path) -> None:
    done, _ = record(primary, folder, ["sh", "-c", "exec env -i sleep 100"], limit_s=4)
    assert (done.ending, done.exit_code) == ("time-limit", 130)


@pytest.mark.nsys
def test_killed_dsprof_takes_nsys_and_the_program_with_it(
    any_nsys: Nsys, folder: Path, temporary: Path, tmp_path: Path
) -> None:
    """Also children with an environment of their own, and daemons; what is left of files, the next run clears."""
    program = (
        f"env -i sh -c 'echo $$ > {tmp_path}/pid; exec sleep 200' & setsid -f sleep 200; sleep 1; echo ready; wait"
    )
    with drive(any_nsys, folder, ["sh", "-c", program]) as driver:
        assert driver.stderr is not None
        assert driver.stderr.readline() == "ready\n"
        pid = int((tmp_path / "pid").read_text())
        assert runs(pid)
        driver.kill()
        driver.wait()
        wait_until(lambda: not carriers(temporary) and not runs(pid), 20)
    assert [path.name[:9] for path in folder.iterdir() if path.is_dir()] == [".partial-"]
    assert any(path.is_dir() for path in temporary.iterdir())
    assert record(install(tmp_path / "fake"), folder, ["true"])[0].ending == "finished"  # the fixture looks for more


def test_what_a_killed_dsprof_had_recorded_is_kept(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    left = "import sys; from dsprof.ground.leftovers import own_folder; from pathlib import Path\n"
    left += "with own_folder('.partial-', Path(sys.argv[1])) as folder:\n"
    left += f"  (folder / 'run.nsys-rep').write_bytes({module._MAGIC!r})\n  (folder / {LOG!r}).write_text('said')\n"
    left += "  import os; os.kill(os.getpid(), 9)"
    subprocess.run(python(left, str(folder)), check=False)
    assert module.rescue(folder)
    assert names(folder) == {"run.unchecked.nsys-rep", LOG}
    assert not module.rescue(folder)


# -- capture ranges -------------------------------------------------------------------------------------


@pytest.mark.nsys
@pytest.mark.parametrize(
    ("end", "reports", "ending", "code"),
    [
        (None, ["run.nsys-rep"], "stopped", 143),
        ("stop", ["run.nsys-rep"], "finished", 0),
        ("repeat:2", ["run.1.nsys-rep", "run.2.nsys-rep"], "finished", 0),
        ("repeat-shutdown:2", ["run.1.nsys-rep", "run.2.nsys-rep"], "stopped", 143),
    ],
)
def test_capture_ranges(
    end: str | None, reports: list[str], ending: str, code: int, primary: Nsys, folder: Path
) -> None:
    options = {"capture_range": "nvtx", "nvtx_capture": "request@dsprof", "capture_range_end": end}
    done, live = record(primary, folder, serve(8, 0.3), **options)
    assert [report.name for report in done.reports] == reports
    assert (done.ending, done.exit_code) == (ending, code)
    assert ranges(done) == [1] * len(reports)
    assert names(folder) == {*reports, *(name.replace("nsys-rep", "sqlite") for name in reports), LOG}
    assert not any(word in live for word in ("Generat", "Capture range", "%"))  # but of a failed import it may tell


@pytest.mark.nsys
def test_fewer_capture_ranges_than_asked_for(primary: Nsys, folder: Path) -> None:
    options = {"capture_range": "nvtx", "nvtx_capture": "request@dsprof", "capture_range_end": "repeat:2"}
    done, _ = record(primary, folder, serve(1, 0.2), **options)
    assert [report.name for report in done.reports] == ["run.nsys-rep"]
    assert done.explain() == "the program ended normally; 1 of 2 capture ranges were recorded"


@pytest.mark.parametrize("options", [{"capture_range": "nvtx"}, {"extra": ("-c", "nvtx")}, {"extra": ("-cnvtx",)}])
def test_capture_range_is_any_string_and_not_only_a_registered_one(options: dict[str, Any], tmp_path: Path) -> None:
    name = "NSYS_NVTX_PROFILER_REGISTER_ONLY"
    assert told.environment_of(ProfileOptions(env={}, **options), tmp_path)[name] == "0"
    assert told.environment_of(ProfileOptions(env={name: "1"}, **options), tmp_path)[name] == "1"
    assert name not in told.environment_of(ProfileOptions(env={}), tmp_path)


@pytest.mark.nsys
def test_capture_range_that_never_begins(any_nsys: Nsys, folder: Path) -> None:
    with pytest.raises(ProfileFailed, match="capture range absent@dsprof never began") as raised:
        record(any_nsys, folder, serve(1, 0.05), capture_range="nvtx", nvtx_capture="absent@dsprof")
    assert "range@domain" in raised.value.hint
    assert names(folder) == {LOG}


# -- no report, or not a good one -----------------------------------------------------------------------


@pytest.mark.nsys
@pytest.mark.parametrize("program", ["no-such-program", "/no/such/program", "./text"])
def test_program_that_cannot_be_started(
    program: str, any_nsys: Nsys, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text").write_text("no program")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProfileFailed, match="could not start the program"):
        record(any_nsys, folder, [program])
    assert names(folder) == {LOG}


@pytest.mark.nsys
def test_options_that_nsys_refuses(primary: Nsys, folder: Path) -> None:
    with pytest.raises(ProfileFailed, match=r"exit code 1\): unrecognised option '--no-such=1'"):
        record(primary, folder, ["true"], extra=("--no-such=1",))
    with pytest.raises(ProfileFailed, match="Illegal --trace argument 'nonsense'"):
        record(primary, folder, ["true"], trace="nonsense")


@pytest.mark.nsys
def test_users_options_take_the_place_of_ours(primary: Nsys, folder: Path) -> None:
    """nsys refuses an option that is named twice."""
    extra = ("-s", "none", "--cpuctxsw=none", "--cuda-graph-trace", "graph", "--trace=cuda,nvtx")
    assert record(primary, folder, serve(1, 0.05), extra=extra)[0].ending == "finished"


@pytest.mark.parametrize("extra", [("-o", "elsewhere"), ("--output=elsewhere",), ("-ftrue",)])
def test_users_options_may_not_name_the_output(extra: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ProfileFailed, match="dsprof itself sets nsys's -"):
        record(install(tmp_path / "fake"), folder, ["true"], extra=extra)


@pytest.mark.nsys
def test_importer_is_missing(any_nsys: Nsys, folder: Path, tmp_path: Path) -> None:
    """An installation without its host part: nsys ends with 0 and leaves a raw capture."""
    source, target = any_nsys.path.resolve().parent, tmp_path / "alone" / "target-linux-x64"
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.name != "nsys":
            (target / path.name).symlink_to(path)
    try:
        (target / "nsys").hardlink_to(source / "nsys")
    except OSError:
        shutil.copy(source / "nsys", target)
    with pytest.raises(ProfileFailed, match="importer is missing") as raised:
        record(target / "nsys", folder, serve(1, 0.05))
    assert "QdstrmImporter" in raised.value.hint
    assert "kept as run.qdstrm" in raised.value.hint
    assert names(folder) == {"run.qdstrm", LOG}


@pytest.mark.nsys
def test_disk_becomes_full(any_nsys: Nsys, folder: Path) -> None:
    """In a mount namespace of its own, where the folder is a small disk."""
    isolate = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")
    small = f"mount -t tmpfs -o size=96k none {folder}"
    folder.mkdir()
    if shutil.which("unshare") is None or subprocess.run([*isolate, "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    prefix = (*isolate, "sh", "-c", f'{small} && exec "$@"', "sh")
    with drive(any_nsys, folder, serve(1, 0.05), prefix=prefix) as driver:
        said = ended(driver)
    assert said.startswith(f"NoSpace The disk with {folder} became full during the recording.")


@contextmanager
def drive_in_small_tmpdir(nsys: Nsys, folder: Path, small: Path, before: str, program: str) -> Iterator[Any]:
    """As `drive`, with a TMPDIR of 8 MB in a mount namespace; `before` is done there first (shell)."""
    isolate = ("unshare", "-m") if os.geteuid() == 0 else ("unshare", "-rm")
    small.mkdir()
    mount = f"mount -t tmpfs -o size=8m none {small}"
    if shutil.which("unshare") is None or subprocess.run([*isolate, "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("no mount namespace can be made here")
    script = f'{mount} && export TMPDIR={small} && {before} && exec "$@"'
    with drive(nsys, folder, python(program), prefix=(*isolate, "sh", "-c", script, "sh")) as driver:
        yield driver


def test_temporary_folder_is_full_before(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python passes over a TMPDIR that cannot be written to, and says nothing."""
    monkeypatch.setenv("MINIMUM_FREE", "1000000")
    nsys, small = Nsys(install(tmp_path / "fake"), "2030.1"), tmp_path / "small"
    fill = f"(head -c 9M /dev/zero > {small}/fill || true) 2> /dev/null"
    with drive_in_small_tmpdir(nsys, folder, small, fill, f"open({str(tmp_path / 'ran')!r}, 'w')") as driver:
        said = ended(driver)
    assert said.startswith(f"NoSpace {small} has 0 MB free, and 1 MB are asked for.")
    assert not (tmp_path / "ran").exists()


@pytest.mark.nsys
def test_temporary_folder_becomes_full(
    any_nsys: Nsys, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nsys 2023.4 cannot write how the program ended, and waits for ever."""
    monkeypatch.setenv("IMPORT_LIMIT_S", "250")
    small = tmp_path / "small"
    fill = f"{SERVE.partition('for')[0]}\nwith annotate('prefill'): pass\n"
    fill += f"try: open('{small}/fill', 'wb').write(bytes(9 << 20))\n"
    fill += "except OSError: print('full', flush=True)\ntime.sleep(2)"
    begin = time.monotonic()
    with drive_in_small_tmpdir(any_nsys, folder, small, "true", fill) as driver:
        said, shown = driver.communicate(timeout=200)
    assert said.startswith(f"NoSpace The disk with {small} became full during the recording.")
    assert f"dsprof: The disk with {small} is full, so the recording may be lost.\n" in shown
    assert time.monotonic() - begin < 200


@pytest.mark.nsys
def test_folder_that_the_program_removes(primary: Nsys, folder: Path) -> None:
    done, said = record(
        primary, folder, python(f"import shutil; shutil.rmtree({str(folder)!r})\n{SERVE}", "1", "0.5", "0")
    )
    assert done.ending == "finished", said  # its log went with the folder
    assert ranges(done) == [1]
    assert names(folder) == {"run.nsys-rep", "run.sqlite"}


def test_too_little_room(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NoSpace, match=r"MB free, and 1000000000000 MB are asked for"):
        record(install(tmp_path / "fake"), folder, ["touch", str(tmp_path / "ran")], minimum_free_bytes=10**18)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ("nothing", ProfileFailed, r"nsys left no report \(exit code 0\)"),
        ("empty", ProfileFailed, r"nsys left no report"),
        ("other", ProfileFailed, r"nsys left no report"),
        ("full", NoSpace, r"became full"),
        ("killed", ProfileFailed, r"nsys itself was killed by signal 9 \(SIGKILL\)"),
        ("never-starts", ImportHung, r"left nothing to import"),
    ],
)
def test_exit_code_0_and_no_report(
    how: str, kind: type[DsprofError], said: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NSYS", how)
    program = ["sleep", "30"] if how == "killed" else ["true"]
    with pytest.raises(kind, match=said):
        record(install(tmp_path / "fake"), folder, program, import_limit_s=1.0 if how == "never-starts" else 60.0)
    assert names(folder) == {LOG}


def test_nsys_that_loses_its_agent_while_the_program_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NSYS", "breaks off")
    with pytest.raises(ProfileFailed) as raised:
        record(install(tmp_path / "fake"), folder, ["sleep", "1"])
    assert "try again" in raised.value.hint
    told = re.search("^NSYS_FAULT := (.+)$", Path(__file__).parents[1].joinpath("Makefile").read_text(), re.MULTILINE)
    assert re.search(told[1], str(raised.value)), "`make test` runs such a test again"


@pytest.mark.parametrize(("fails", "tries"), [(0, 1), (1, 2), (2, 3)])
def test_nsys_that_does_not_reach_its_agent_is_started_again(
    fails: int, tries: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NSYS", f"no agent {fails}")
    said: list[str] = []
    program = ["sh", "-c", f"echo ran >> {tmp_path / 'count'}"]
    options = ProfileOptions(trace="nvtx")
    done = profile(options, program, folder, install(tmp_path / "fake"), io.StringIO(), said.append)
    assert done.ending == "finished"
    assert (tmp_path / "count").read_text() == "ran\n"
    assert [sentence.partition(":")[2] for sentence in said[:-1]] == [f" try {n} of 3" for n in range(2, tries + 1)]
    assert done.log.read_text().count("GetLocalEndpoint") == fails


def test_nsys_that_never_reaches_its_agent(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_NSYS", "no agent 99")
    with pytest.raises(ProfileFailed, match=f"{nsys_stats.AGENT_LOST}: .*GetLocalEndpoint") as raised:
        record(install(tmp_path / "fake"), folder, ["touch", str(tmp_path / "ran")])
    assert "less busy" in raised.value.hint
    assert not (tmp_path / "ran").exists()
    assert (folder / LOG).read_text().count("GetLocalEndpoint") == module._TRIES
    assert names(folder) == {LOG}


@pytest.mark.parametrize(
    ("how", "rest"),
    [("agent lost", "sleep 1"), ("agent lost, with traces", "true"), ("agent lost", "seq 9")],
    ids=["seen", "traces", "output"],
)
def test_program_that_was_started_never_runs_twice(
    how: str, rest: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nsys says the same as where it did not start the program: seen, short with what nsys left, or with output."""
    monkeypatch.setenv("FAKE_NSYS", how)
    with pytest.raises(ProfileFailed, match="GetLocalEndpoint"):
        record(install(tmp_path / "fake"), folder, ["sh", "-c", f"echo ran >> {tmp_path / 'count'}; {rest}"])
    assert (tmp_path / "count").read_text() == "ran\n"


@pytest.mark.parametrize(
    ("said", "certain"),
    [
        ("Agent launcher failed.", True),
        ("/build/QuadD/ClientProxy.cpp(389): Throw in function boost::asio GetLocalEndpoint() const", True),
        ("Throw location unknown\nDynamic exception type: x\nstd::exception::what: local_endpoint: Bad [9]", True),
        ("/b/ProcessWaiterImpl.cpp(166): Throw in function QuadDCommon::ProcessWaiter::ProcessWaiterImpl::"
         "ProcessWaiterImpl(QuadDCommon::ProcessId, bool)", True),
        ("Connection reset by peer", True),
        ("End of file", True),
        ("EOFError: End of file", False),
        ("requests: Connection reset by peer by the program's server", False),
        ("Connection to Agent lost. This is most likely a bug. Internal reason: 'End of file'.", False),
        ("unrecognised option '--no-such=1'", False),
    ],
)  # fmt: skip
def test_words_of_nsys_before_the_program_starts(said: str, certain: bool) -> None:
    """All seen on the real ones; the last of them also where the agent went away while the program ran."""
    assert any(command.NO_AGENT.search(line) for line in said.splitlines()) == certain


def test_raw_recordings_of_tests_are_done_again_only_where_nsys_left_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nsys, made = Nsys(install(tmp_path / "fake"), "2030.1"), tmp_path / "run.nsys-rep"
    monkeypatch.setenv("FAKE_NSYS", "no agent 2")
    assert nsys_stats.record(nsys, made, ["sh", "-c", "exit 3"], code=3) == made
    monkeypatch.setenv("FAKE_NSYS", "whole")
    with pytest.raises(AssertionError):
        nsys_stats.record(nsys, made, ["sh", "-c", f"echo ran >> {tmp_path / 'count'}; exit 4"])
    assert (tmp_path / "count").read_text() == "ran\n"
    made.unlink()
    monkeypatch.setenv("FAKE_NSYS", "no agent 99")
    with pytest.raises(pytest.fail.Exception, match=r"4 times(?s:.*)GetLocalEndpoint"):
        nsys_stats.record(nsys, made, ["true"])


def test_hung_import_is_done_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program has run once, and the report that was begun is thrown away."""
    monkeypatch.setenv("FAKE_NSYS", "hangs")
    program = ["sh", "-c", f"echo ran >> {tmp_path / 'count'}; sleep 5"]  # longer than an import may be silent
    done, live = record(install(tmp_path / "fake"), folder, program, import_limit_s=4.0)
    assert (done.ending, done.exit_code) == ("unknown", -1)
    assert "hung" in done.explain()
    assert names(folder) == {"run.nsys-rep", "run.sqlite", LOG}
    assert b"cut" not in done.reports[0].read_bytes()
    assert (tmp_path / "count").read_text() == "ran\n"
    assert live == ""


@pytest.mark.parametrize(
    ("importer", "kind", "said"),
    [("hangs", ImportHung, "so did a second import"), ("fails", ImportHung, "hung"), (None, ProfileFailed, "missing")],
)
def test_hung_import_cannot_be_done_again(
    importer: str | None,
    kind: type[DsprofError],
    said: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_NSYS", "hangs")
    monkeypatch.setenv("FAKE_IMPORTER", importer or "")
    with pytest.raises(kind, match=said) as raised:
        record(install(tmp_path / "fake", importer is not None), folder, ["true"], import_limit_s=4.0)
    assert "kept as run.qdstrm" in raised.value.hint
    assert names(folder) == {"run.qdstrm", LOG}


def test_partial_export(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_EXPORT", "partial")
    with pytest.raises(ExportFailed, match="could not export") as raised:
        record(install(tmp_path / "fake"), folder, ["true"])
    assert "kept as run.unchecked.nsys-rep" in raised.value.hint
    assert names(folder) == {"run.unchecked.nsys-rep", LOG}


def test_nsys_that_cannot_be_run(folder: Path, tmp_path: Path) -> None:
    nsys = tmp_path / "nsys"
    nsys.write_text("#!/no/such/interpreter\n")
    nsys.chmod(0o755)
    with pytest.raises(DsprofError, match="nsys"):
        record(nsys, folder, ["true"])


def test_options_that_an_old_nsys_does_not_know_are_left_out(folder: Path) -> None:
    options = ProfileOptions(capture_range="nvtx")
    arguments = told.arguments_of(options, "--output= --trace= --sample=")
    assert arguments == [
        "profile", "--trace=cuda,nvtx", "--sample=none", "--capture-range=nvtx", "--force-overwrite=true",
    ]  # fmt: skip
    assert "--cuda-graph-trace=node" in told.arguments_of(options, "nothing that one can read")


# -- the output -----------------------------------------------------------------------------------------


@pytest.mark.nsys
def test_output_that_is_there_is_refused_or_replaced(primary: Nsys, folder: Path) -> None:
    """nsys itself would end with 0, write elsewhere, and leave the old report to be read."""
    folder.mkdir()
    for name in ("run.nsys-rep", "run.1.nsys-rep", "run.1.sqlite", "run.qdstrm"):
        (folder / name).write_text("old")
    (folder / "job.json").write_text("the caller's")
    with pytest.raises(OutputExists, match=r"holds run\.1\.nsys-rep already") as raised:
        record(primary, folder, serve(1, 0.05))
    assert raised.value.hint == "Name another folder."
    with pytest.raises(ProfileFailed):
        record(primary, folder, ["no-such-program"], force=True)
    assert (folder / "run.nsys-rep").read_text() == "old"
    done, _ = record(primary, folder, serve(1, 0.05), force=True)
    assert ranges(done) == [1]
    assert names(folder) == {"run.nsys-rep", "run.sqlite", LOG, "job.json"}


def test_output_that_appears_meanwhile(folder: Path, tmp_path: Path) -> None:
    program = ["sh", "-c", f"echo other > {folder}/run.nsys-rep"]
    with pytest.raises(OutputExists, match="already") as raised:
        record(install(tmp_path / "fake"), folder, program)
    assert (folder / "run.nsys-rep").read_text() == "other\n"
    assert "kept as run.unchecked.nsys-rep" in raised.value.hint


@pytest.mark.nsys
@pytest.mark.parametrize("name", ["a/b/c", "100% %h %p", "ü-日本", "it's; $HOME"])
def test_folder_is_made_whatever_it_is_called(name: str, primary: Nsys, tmp_path: Path) -> None:
    done, _ = record(primary, tmp_path / name, serve(1, 0.05))
    assert done.reports == (tmp_path / name / "run.nsys-rep",)
    assert ranges(done) == [1]


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused, match="cannot be made"):
        record(install(tmp_path / "fake"), tmp_path / "file" / "session", ["true"])


@pytest.mark.nsys
def test_relative_folder(primary: Nsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done, _ = record(primary, Path("here"), serve(1, 0.05))
    assert done.reports == (Path("here/run.nsys-rep"),)


@pytest.mark.nsys
def test_two_at_once_do_not_disturb_each_other(any_nsys: Nsys, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda name: record(any_nsys, tmp_path / name, serve(2, 0.2))[0], ["first", "second"])
    assert (first.ending, second.ending) == ("finished", "finished")
    assert ranges(first) == ranges(second) == [2]


@pytest.mark.parametrize(("version", "linked"), [("2022.4.2.1", True), ("2023.4.4.54", False), ("", False)])
def test_lock_of_nsys_2022_is_shared(
    version: str, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two at once with locks of their own, 16 of 120 left no report or hung; with one lock, none of 100."""
    monkeypatch.setattr(command, "_USUAL_TMPDIR", tmp_path / "usual")
    (tmp_path / "usual").mkdir()
    (tmp_path / "own").mkdir()
    monkeypatch.setattr(command, "nsys_version", lambda nsys: version)
    command.share_session_lock(tmp_path / "own", tmp_path / "nsys")
    lock = Path("nvidia", "nsight_systems", f"SessionManager-{version}.lock")
    assert (tmp_path / "own" / lock).is_symlink() == linked
    assert (tmp_path / "usual" / lock).is_file() == linked


def test_run_of_nsys_leaves_no_agent(tmp_path: Path, temporary: Path) -> None:
    nsys = tmp_path / "nsys"
    nsys.write_text("#!/bin/sh\nsetsid sleep 60 > /dev/null 2>&1 &\nexit 1\n")
    nsys.chmod(0o755)
    assert command.run_nsys(nsys, ["export"], limit_s=10).code == 1  # `temporary` sees what is left


def test_stale_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session-manager file that nsys 2022 left keeps every later run from starting; TMPDIR does not move it."""
    memory = tmp_path / "shm"
    memory.mkdir()
    monkeypatch.setattr(command, "_SHARED_MEMORY", memory)
    for name in ("NSys-2022.4.2.1", "NSys-used", "NSys-young", "other"):
        (memory / name).write_text("x")
        if name != "NSys-young":
            os.utime(memory / name, (1e9, 1e9))
    with (memory / "NSys-used").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        command.remove_stale_shared_memory()
    assert names(memory) == {"NSys-young", "NSys-used", "other"}
    used = str(memory / "NSys-used")
    mapping = f"import mmap, time; kept = mmap.mmap(open({used!r}).fileno(), 0, access=1); print(flush=True)"
    left = {**os.environ, "TMPDIR": "/no/such/folder"}  # an agent of a run that has ended
    with subprocess.Popen(python(f"{mapping}; time.sleep(60)"), env=left, stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        agent.stdout.readline()
        command.remove_stale_shared_memory()
        agent.kill()
    assert names(memory) == {"NSys-young", "other"}
    (memory / "NSys-used").write_text("x")
    for name in (
        "sem.NSys-process_waiter-77-4026531836-2024.2.3",
        "sem.nsys_sem_77",
        "quadd-agent-instance-77",
        "x-77",
    ):
        (memory / name).write_text("")
    command.remove_shared_memory({7})
    assert len(names(memory)) == 7
    command.remove_shared_memory({77})
    assert names(memory) == {"NSys-young", "NSys-used", "other", "x-77"}


# -- what is shown --------------------------------------------------------------------------------------


@pytest.mark.nsys
def test_output_is_shown_live_and_kept(any_nsys: Nsys, folder: Path) -> None:
    program = "import sys; print('err', file=sys.stderr); print('Generated:'); print('out ü'); print('no end', end='')"
    done, live = record(any_nsys, folder, python(program))
    assert all(word in live for word in ("Generated:", "out ü", "err", "no end"))
    assert not any(word in live for word in ("Generating", "[1/1]", ".partial", "nsys-rep"))
    log = done.log.read_text()
    assert all(line in log for line in ("Generated:", "out ü", "err", "no end", "Generating '", "[1/1] ["))


BAR = "\r[1/1] [0%                          ] run.nsys-rep\r[1/1] [========================100%] run.nsys-rep\n"


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a\nb\n", "a\nb\n"),
        ("a\n\nb", "a\n\nb"),
        ("Generating '/t/nsys-report-1.qdstrm'\n" + BAR + "Generated:\n    /x/.partial-1/run.nsys-rep\n", ""),
        ("Capture range started in the application.\na\nCapture range ended in the application.\n", "a\n"),
        ("a\n" + BAR + BAR, "a\n"),
        ("\r 10%|#   |\r 20%|##  |\n", "\r 10%|#   |\r 20%|##  |\n"),
        ("Generated:\ntext of a model\n", "Generated:\ntext of a model\n"),
        ("Generated: 5 tokens\n", "Generated: 5 tokens\n"),
        ("[1] one\n[2/3] two\n", "[1] one\n[2/3] two\n"),
        ("no endGenerating '/t/nsys-report-1.qdstrm'\n" + BAR, "no end\n"),
        ("\rno endGenerating '/t/nsys-report-1.qdstrm'\n" + BAR, "\rno end\n"),
        ("Processing [===12%  ]\rProcessing [===100%]\n", ""),
        ("ü日本\r\n", "ü日本\r\n"),
        ("Capture range", "Capture range"),
    ],
)
def test_chatter_of_nsys_is_not_shown(said: str, shown: str, size: int, tmp_path: Path) -> None:
    read, write = os.pipe()
    live = io.StringIO()
    output = watching.Output(os.fdopen(read, "rb"), (tmp_path / "log").open("wb"), live, (".partial-1",))
    data = said.encode()
    for begin in range(0, len(data), size):
        os.write(write, data[begin : begin + size])
        time.sleep(0.0005)
    os.close(write)
    output.close()
    assert live.getvalue() == shown
    if "no end" not in said:
        whole = [line.strip() for line in shown.replace("\r", "\n").splitlines()]
        assert list(output.lines) == [line for line in whole if line not in ("", "Generated:")]
    assert (tmp_path / "log").read_bytes() == data


def test_what_is_begun_is_shown_before_its_line_ends(tmp_path: Path) -> None:
    read, write = os.pipe()
    live = io.StringIO()
    output = watching.Output(os.fdopen(read, "rb"), (tmp_path / "log").open("wb"), live, ())
    os.write(write, b"A token")
    wait_until(lambda: live.getvalue() == "A token")
    os.write(write, b" and another")
    wait_until(lambda: live.getvalue() == "A token and another")
    os.close(write)
    output.close()


class Sink(io.TextIOBase):
    """Counts what is shown, and keeps nothing."""

    shown = 0

    def write(self, text: str) -> int:
        """Count."""
        self.shown += len(text)
        return len(text)


@pytest.mark.parametrize(
    "said",
    [b"x" * (1 << 16), b"\r" * 999, b"words\n\n", b"Generated:\n\n", b"Gener\r\n", b"\xff\xc3", b"\r[1/1] [==50%  ] ]"],
)
def test_work_and_memory_for_the_output_do_not_grow_with_what_was_said(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted: characters in which ends of lines are sought (20 MB without an end of line took 139 s)."""
    looked, split = [0], watching.re.split

    def count(pattern: str, text: str) -> list[Any]:
        looked[0] += len(text)
        return split(pattern, text)

    monkeypatch.setattr(watching.re, "split", count)
    read, write = os.pipe()
    output = watching.Output(os.fdopen(read, "rb"), (tmp_path / "log").open("wb"), Sink(), (".partial-1",))
    data = said * ((2 << 20) // len(said))
    with os.fdopen(write, "wb") as pipe:
        pipe.write(data)
    output._thread.join()
    assert looked[0] <= len(data)
    assert (tmp_path / "log").stat().st_size == len(data)
    held = [output._rest, output._held, *output.lines, *output.chatter]
    assert sum(map(len, held)) < 1_000_000


@pytest.mark.parametrize("line", ["x" * 20_000, "Gx" * 10_000, "\rab" + "G" * 30_000, "[1/" + "=" * 20_000])
@pytest.mark.parametrize("end", ["\n", "", "Generating '/t/nsys-report-1.qdstrm'\n"])
def test_long_line_is_shown_whole_and_once(line: str, end: str, tmp_path: Path) -> None:
    read, write = os.pipe()
    live = io.StringIO()
    output = watching.Output(os.fdopen(read, "rb"), (tmp_path / "log").open("wb"), live, ())
    with os.fdopen(write, "wb", buffering=0) as pipe:
        for begin in range(0, len(line), 999):
            pipe.write(line[begin : begin + 999].encode())
        pipe.write(end.encode())
    output.close()
    assert live.getvalue() == line + (end if end in ("", "\n") else "\n")


def test_live_stream_that_cannot_be_written_does_not_end_the_recording(folder: Path, tmp_path: Path) -> None:
    live = io.StringIO()
    live.close()
    options = ProfileOptions(trace="nvtx")
    done = profile(options, ["sh", "-c", "seq 9999"], folder, install(tmp_path / "fake"), live)
    assert "9999" in done.log.read_text()


def test_errors_have_their_own_exit_codes() -> None:
    codes = [
        kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DsprofError)
    ]
    assert len(codes) == len(set(codes))
    assert [kind.exit_code for kind in (OutputExists, NoSpace, ProfileFailed, ImportHung)] == [30, 31, 32, 33]
