"""Captures of a window in a server's life under the real nsys; the servers are stand-ins of `tests/engines`.

They have the switches, endpoints and names of ranges of the engines, and serve nothing.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dsprof.capture.plan import Wishes
from dsprof.capture.profile import rescue
from dsprof.capture.record import read_session
from dsprof.capture.serving import Serving
from dsprof.errors import CaptureRefused, DsprofError, ProfileFailed, RanksMissing, ServerFailed
from dsprof.nsys.command import clear_scratch
from engines.recording import capture, ranges, shown, stand_ins
from nsys_stats import OLD, PRIMARY, Nsys, require
from test_profile import carriers, runs

pytestmark = pytest.mark.nsys

#: Sends so many requests to a URL.
CLIENT = """
import sys, urllib.request
for _ in range(int(sys.argv[2])):
    urllib.request.urlopen(urllib.request.Request(sys.argv[1], data=b"{}", method="POST"), timeout=30).read()
"""
STEPS = {"execute_context_1(16)_generation_0(0)": 3, "execute_context_0(0)_generation_1(1)": 12}


@pytest.fixture(scope="module")
def nsys() -> Nsys:
    return require(PRIMARY)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "client.py").write_text(CLIENT)
    with stand_ins(tmp_path, monkeypatch) as folder:
        yield folder


@pytest.fixture
def port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def client(port: int, path: str = "/v1/completions", requests: int = 3) -> tuple[str, ...]:
    return (sys.executable, "client.py", f"http://127.0.0.1:{port}{path}", str(requests))


def vllm(port: int, *more: str) -> list[str]:
    return ["vllm", "serve", "model", "--port", str(port), *more]


# -- servers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [PRIMARY, OLD])
def test_vllm_is_recorded_in_its_window_and_ended(version: str, port: int) -> None:
    made = capture(require(version), vllm(port), Serving(ready="", client=client(port)))
    assert (made.profile.ending, made.profile.problems, made.trouble) == ("ended", (), None)
    assert ranges(made.exports[0]) == STEPS
    assert [path.name for path in made.exports] == ["run.sqlite"]
    log = made.profile.log.read_text()
    assert log.index("POST /start_profile") < log.index("POST /v1/completions") < log.index("POST /stop_profile")
    assert "server ended well" in log
    record = read_session(made.folder)
    assert record.launchers == ("vllm",)
    assert "VLLM_WORKER_MULTIPROC_METHOD=spawn" in record.added
    assert record.command == tuple(vllm(port))
    assert f"http://127.0.0.1:{port}/health answers" in shown()
    assert shown().index("so it gets") < shown().index("Application startup")


def test_sglang_is_ready_when_it_prints_that_it_is(nsys: Nsys, port: int) -> None:
    """SGLang's ranges need no switch but the variable; its module is told by what Python runs."""
    command = [sys.executable, "-m", "sglang.launch_server", "--port", str(port)]
    serving = Serving(ready="Application startup complete", client=client(port, "/generate"))
    made = capture(nsys, command, serving)
    assert made.trouble is None
    assert ranges(made.exports[0])["scheduler.run_batch"] == 3
    assert "it prints 'Application startup complete'" in shown()


def test_tensorrt_llm_has_its_own_domain(nsys: Nsys, port: int) -> None:
    made = capture(nsys, ["trtllm-serve", "m", f"--port={port}"], Serving(ready="", client=client(port)))
    names = ranges(made.exports[0])
    assert sum(names.values()) == 9
    assert "[Executor] _forward_step 0: 1 ctx reqs, 16 ctx tokens, 0 gen reqs" in names


def test_without_its_profiler_vllm_is_recorded_and_the_reason_is_told(nsys: Nsys, port: int) -> None:
    wishes = Wishes(leave_out=("--profiler-config.profiler",))
    made = capture(nsys, vllm(port), Serving(ready="", client=client(port)), wishes=wishes)
    assert isinstance(made.trouble, ServerFailed)
    assert "/start_profile answered 404" in made.trouble.message
    assert made.profile.ending == "ended"
    assert ranges(made.exports[0]) == {}


@pytest.mark.parametrize(
    ("more", "serving", "said"),
    [
        (["--too-old"], {}, "ended (exit code 2) before it was ready"),
        (["--boot", "60"], {"ready_limit_s": 1.0}, "was not ready after 1 s"),
        ([], {"ready": "never printed", "ready_limit_s": 1.0}, "did not print 'never printed'"),
    ],
)
def test_a_server_that_is_never_ready(
    more: list[str], serving: dict[str, Any], said: str, nsys: Nsys, port: int
) -> None:
    with pytest.raises(ServerFailed) as failed:
        capture(nsys, vllm(port, *more), Serving(**{"ready": "", **serving}), profile={"patience_s": 2.0})
    assert said in failed.value.message
    assert failed.value.log is not None


def test_a_server_that_dies_in_its_window_is_recorded_until_then(nsys: Nsys, port: int) -> None:
    made = capture(nsys, vllm(port, "--dies-at-work"), Serving(ready="", client=client(port)))
    assert (made.profile.ending, made.profile.exit_code) == ("failed", 7)
    assert ranges(made.exports[0]) == {name: number // 3 for name, number in STEPS.items()}


def test_a_client_that_fails_costs_no_recording(nsys: Nsys, port: int) -> None:
    made = capture(nsys, vllm(port), Serving(ready="", client=(sys.executable, "-c", "raise SystemExit(4)")))
    assert "ended with exit code 4" in str(made.trouble)
    assert made.profile.ending == "ended"


def test_the_time_limit_ends_the_recording_and_the_server(nsys: Nsys, port: int) -> None:
    """The client is ended with it; one that cannot be run is told."""
    words = (sys.executable, "-c", "import time; time.sleep(60)")
    made = capture(nsys, vllm(port), Serving(ready="", client=words), profile={"limit_s": 4.0, "patience_s": 10.0})
    assert (made.profile.ending, made.trouble) == ("time-limit", None)
    assert "server ended well" in shown()
    made = capture(nsys, vllm(port), Serving(ready="", client=("no-such-client",)))
    assert "no-such-client cannot be run" in str(made.trouble)


def test_a_port_at_which_another_server_answers(nsys: Nsys) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        with pytest.raises(CaptureRefused, match="answers at"):
            capture(nsys, vllm(one.getsockname()[1]), Serving(ready=""))
    assert not list(Path("traces").rglob("run*"))


def test_what_a_server_cannot_have(nsys: Nsys, port: int) -> None:
    for command, settings, said in (
        (["python", "serve.py"], {}, "is ready is not known"),
        (vllm(port, "--uds", "s"), {}, "is ready is not known"),
        (vllm(port), {"baselines": ("plain",)}, "--baseline"),
        (vllm(port), {"profile": {"extra": ("--delay=5",)}}, "no option --delay"),
        (vllm(port), {"profile": {"extra": ("-y", "5")}}, "no option -y"),
    ):
        with pytest.raises(CaptureRefused, match=said):
            capture(nsys, command, Serving(ready=""), **settings)


def test_a_window_without_work_and_options_for_launch_and_for_start(nsys: Nsys, port: int) -> None:
    """nsys would refuse each of them at the other command."""
    extra = ("--trace-fork-before-exec=false", "--sample", "none", "--osrt-threshold=2000")
    made = capture(nsys, vllm(port), Serving(ready="", window_s=0.2), profile={"extra": extra})
    assert (made.profile.ending, made.recorded) == ("ended", False)
    assert "recorded for 0.2 s" in shown()


@pytest.mark.parametrize("when", ["boot", "window"])
def test_ctrl_c_ends_the_server_and_keeps_the_report(when: str, nsys: Nsys, port: int) -> None:
    command = [sys.executable, "-m", "dsprof", "capture", "--trace", "nvtx", "--nsys", str(nsys.path), "--server"]
    more = ["--boot", "60"] if when == "boot" else []
    words = [*command, "--window-s", "60", "--", *vllm(port, *more)]
    with Path("said.txt").open("w") as said:
        ours = subprocess.Popen(words, stdout=said, stderr=said, start_new_session=True)
        awaited = "so it gets" if when == "boot" else "POST /start_profile"
        while awaited not in Path("said.txt").read_text() and ours.poll() is None:
            time.sleep(0.05)
        time.sleep(1.0)
        ours.send_signal(signal.SIGINT)
        code = ours.wait(60)
    text = Path("said.txt").read_text()
    folder = next(Path("traces").iterdir())
    if when == "boot":
        assert code == 32, text
        assert "interrupted before there was a report" in text
    else:
        assert read_session(folder).ending == "interrupted"
        assert (folder / "run.sqlite").is_file()
        assert "server ended well" in text


def test_a_killed_dsprof_takes_the_server_and_the_client_with_it(nsys: Nsys, port: int, temporary: Path) -> None:
    command = [sys.executable, "-m", "dsprof", "capture", "--trace", "nvtx", "--nsys", str(nsys.path), "--server"]
    words = [*command, "--while", f"{sys.executable} -c 'import time; time.sleep(60)'", "--", *vllm(port)]
    with Path("said.txt").open("w") as said:
        ours = subprocess.Popen(words, stdout=said, stderr=said, start_new_session=True)
        while "POST /start_profile" not in Path("said.txt").read_text() and ours.poll() is None:
            time.sleep(0.05)
        time.sleep(0.5)
        theirs = [*carriers(temporary)]
        assert len(theirs) >= 4
        ours.kill()
        ours.wait(10)
    begin = time.monotonic()
    while any(map(runs, theirs)) and time.monotonic() < begin + 20:
        time.sleep(0.05)
    assert not any(map(runs, theirs))
    clear_scratch()  # as the next run of dsprof does
    assert all(rescue(folder) for folder in Path("traces").iterdir())


def test_secrets_of_server_and_client_are_in_no_file(nsys: Nsys, port: int) -> None:
    secret = "hunter2-swordfish"
    words = (sys.executable, "-c", "import sys; print(sys.argv)", "--api-key", secret)
    made = capture(nsys, vllm(port, "--api-key", f"x{secret}"), Serving(ready="", client=words))
    kept = [path for path in made.folder.rglob("*") if path.is_file() and path.suffix != ".nsys-rep"]
    assert len(kept) >= 3
    assert [path.name for path in kept if secret.encode() in path.read_bytes()] == []
    assert secret not in shown()


# -- windows of a program ---------------------------------------------------------------------------------


def test_a_profiler_that_never_starts_is_told_with_the_engine_s_own_way(nsys: Nsys, port: int) -> None:
    """cudaProfilerStart cannot be had without a GPU, so the window of the plan never begins here."""
    with pytest.raises(ProfileFailed) as failed:
        capture(nsys, vllm(port), profile={"trace": "cuda,nvtx", "limit_s": 4.0, "patience_s": 5.0})
    assert "ended at the time limit before there was a report" in failed.value.message
    assert "POST /start_profile" in failed.value.hint


@pytest.mark.parametrize("words", [["--while", "x"], ["--server", "--while", "it's"], ["--launcher", "nosuch"]])
def test_options_that_make_no_sense(words: list[str], nsys: Nsys) -> None:
    command = [sys.executable, "-m", "dsprof", "capture", "--nsys", str(nsys.path), *words, "--", "true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "60"})
    assert done.returncode in (2, CaptureRefused.exit_code)
    assert "Traceback" not in done.stderr
    assert not Path("traces").exists()


def test_errors_have_their_own_exit_codes() -> None:
    codes = [one.exit_code for one in (ServerFailed, RanksMissing, CaptureRefused, ProfileFailed, DsprofError)]
    assert len(set(codes)) == len(codes)
