"""How much of the host's time its thread was off the CPU: real recordings of known waits, and made ones."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from itertools import pairwise
from pathlib import Path

import pytest

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.nsys.off_cpu import WAITING
from dsprof.nsys.parts import ReportInParts
from dsprof.nsys.reader import read
from nsys_stats import AGENT_LOST, PRIMARY, TRIES, require
from trace_builder import PID, TraceBuilder, global_tid

MAIN = global_tid(PID)
#: A stage each: it sleeps, spins, waits for a lock (with a time limit), reads from a pipe that fills later.
PROGRAM = """
import os, threading, time
from dsprof.workloads.ranges import annotate
def stage(name, work, *given):
    with annotate(name):
        work(*given)
def spin():
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end: pass
lock = threading.Lock()
lock.acquire()
source, sink = os.pipe()
stage("sleep", time.sleep, 0.3)
stage("spin", spin)
stage("lock", lock.acquire, True, 0.3)
threading.Timer(0.3, os.write, (sink, b"x")).start()
stage("pipe", os.read, source, 1)
"""


@pytest.fixture(scope="module", params=["--cpuctxsw=process-tree", "--trace=osrt,nvtx"])
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """What was recorded, and the folder of the capture."""
    place = tmp_path_factory.mktemp("waits")
    (place / "waits.py").write_text(PROGRAM)
    trace = [] if "osrt" in request.param else ["--nsys-option=--trace=nvtx"]
    for number in range(TRIES):
        done = subprocess.run(
            [sys.executable, "-m", "dsprof", "capture", f"--nsys-option={request.param}", *trace,
             "--out", place / str(number), "--nsys", require(PRIMARY).path, "--", sys.executable, place / "waits.py"],
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        if AGENT_LOST not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return request.param, next((place / str(number)).iterdir())


@pytest.mark.nsys
def test_waits_are_told_from_work(recorded: tuple[str, Path]) -> None:
    option, folder = recorded
    stages = {name: f"^{name}$" for name in ("sleep", "spin", "lock", "pipe")}
    table = dsprof.analyze(folder, stages=stages)["stage_trace"].set_index("stage")
    share = (table["off_cpu_ns"] / table["idle_host_ns"]).astype(float)
    if "osrt" in option:
        assert share["sleep"] > 0.9
        assert share[["spin", "lock", "pipe"]].max() < 0.1  # nsys traces no sem_clockwait, and reading may be work
    else:
        with closing(sqlite3.connect(folder / "run.sqlite")) as database:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'SCHED_EVENTS'").fetchone():
                pytest.skip("this machine lets nsys see no switches of threads")
        assert share[["sleep", "lock", "pipe"]].min() > 0.9
        assert share["spin"] < 0.7  # of two processors that others use, too


def made(folder: Path, seed: int, *, switches: bool, calls: bool) -> tuple[Path, TraceBuilder]:
    """A made report: launches in stages of two threads, switches and OS calls by nsys's schema."""
    chosen, rec = random.Random(seed), TraceBuilder("2023.4.4")
    for tid in (PID, PID + 1):
        for begin in range(0, 3000, 1000):
            rec.range("prefill", begin, begin + 300, tid=tid).range("decode", begin + 300, begin + 900, tid=tid)
            for call in range(begin + 10, begin + 900, 60):
                rec.kernel("gemm", call=(call, call + chosen.randint(1, 40)), at=(call + 41, call + 49), tid=tid)
    for thread in (MAIN, global_tid(PID, PID + 1), global_tid(PID, 999)):
        for now in sorted(chosen.sample(range(-20, 3100), 60)) if switches and thread == MAIN else ():
            rec.row("SCHED_EVENTS", start=now, cpu=0, isSchedIn=chosen.randint(0, 1), globalTid=thread)
        for now in chosen.sample(range(-20, 3100), 40) if calls else ():
            name = rec.string(chosen.choice(["poll", "sem_wait", "write", "pthread_cond_timedwait", "mmap64"]))
            rec.row("OSRT_API", start=now, end=now + chosen.randint(0, 90), eventClass=27, globalTid=thread,
                    nameId=name, returnValue=0, callchainId=0)  # fmt: skip
    return rec.write(folder / f"{seed}.sqlite"), rec


def slowly(path: Path) -> list[int]:
    """Of each stage, by start: the nanoseconds in which nothing ran or waited to, in no call, and off the CPU."""
    with closing(sqlite3.connect(path)) as database:

        def rows(query: str) -> list[tuple]:
            with suppress(sqlite3.OperationalError):  # no such table
                return database.execute(query).fetchall()
            return []

        windows = rows("SELECT start, end, globalTid FROM NVTX_EVENTS WHERE eventType = 59 ORDER BY start, rowid")
        launched = rows(
            "SELECT k.start, k.end, r.start, r.end, r.globalTid FROM CUPTI_ACTIVITY_KIND_KERNEL k "
            "JOIN CUPTI_ACTIVITY_KIND_RUNTIME r USING (correlationId)"
        )
        switched = rows("SELECT start, isSchedIn, globalTid FROM SCHED_EVENTS ORDER BY start")
        waits = rows(
            "SELECT start, end, globalTid FROM OSRT_API JOIN StringIds ON id = nameId "
            "WHERE value IN ('poll', 'sem_wait', 'pthread_cond_timedwait')"
        )
    off, told = set(), {thread for _, _, thread in switched}
    for thread in told:
        mine = [(start, comes) for start, comes, of in switched if of == thread]
        for (start, comes), (end, back) in pairwise(mine):
            if back and not comes:
                off |= {(thread, now) for now in range(start, end)}
    for start, end, thread in waits:
        if thread not in told:
            off |= {(thread, now) for now in range(start, end)}
    busy = {now for start, end, _, called, _ in launched for now in (*range(start, end), *range(called, start))}
    found = []
    for start, end, thread in windows:
        mine = [one for one in launched if one[4] == thread]
        last = max([end, *(finish for _, finish, call, _, _ in mine if start <= call < end)])
        calls = {now for _, _, begin, finish, _ in mine for now in range(begin, finish)}
        found.append(sum((thread, now) in off and now not in busy | calls for now in range(start, last)))
    return found


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize(("switches", "calls"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("seed", range(2))
def test_every_instant_is_told_once(seed: int, switches: bool, calls: bool, parts: int, tmp_path: Path) -> None:
    path, _ = made(tmp_path, seed, switches=switches, calls=calls)
    table = Analysis.of(read(path) if parts == 1 else ReportInParts(path, parts))["stage_trace"]
    expected = slowly(path)
    assert table.sort_values(["start_ns", "range_id"])["off_cpu_ns"].tolist() == expected
    assert sum(expected) > 0
    assert (table["off_cpu_ns"] <= table["idle_host_ns"]).all()


def test_a_report_that_says_nothing_of_it_has_no_value_and_another_has_none_off(tmp_path: Path) -> None:
    path, rec = made(tmp_path, 1, switches=False, calls=False)
    analysis = Analysis.of(read(path))
    assert analysis["stage_trace"]["off_cpu_ns"].isna().all()
    assert all("off the CPU" not in one.sentence for one in analysis.summary().verdicts)
    rec.row("SCHED_EVENTS", start=5, cpu=0, isSchedIn=0, globalTid=global_tid(PID, 999))
    assert Analysis.of(read(rec.write(path)))["stage_trace"]["off_cpu_ns"].tolist() == [0] * 12


def test_a_verdict_says_it(tmp_path: Path) -> None:
    rec = TraceBuilder("2023.4.4")
    for begin in range(0, 3000, 1000):
        rec.range("decode", begin, begin + 1000)
        rec.kernel("gemm", call=(begin + 10, begin + 20), at=(begin + 20, begin + 50))
        rec.row("SCHED_EVENTS", start=begin + 0, cpu=0, isSchedIn=0, globalTid=MAIN)
        rec.row("SCHED_EVENTS", start=begin + 730, cpu=0, isSchedIn=1, globalTid=MAIN)
    (decode,) = Analysis.of(read(rec.write(tmp_path / "made.sqlite"))).summary().verdicts
    assert (decode.idle_ns["host"], decode.off_cpu_ns) == (3 * 960, 3 * 690)
    assert "Of the host's time outside of CUDA its thread was off the CPU for 72 %." in decode.sentence


@pytest.mark.parametrize("odd", ["x", 1.5, -1, 1 << 62, b"\0"])
@pytest.mark.parametrize(("table", "column"), [("SCHED_EVENTS", "start"), ("SCHED_EVENTS", "isSchedIn"),
                                               ("SCHED_EVENTS", "globalTid"), ("OSRT_API", "end"),
                                               ("OSRT_API", "nameId")])  # fmt: skip
def test_odd_values_give_no_time_that_is_not_the_hosts(odd: object, table: str, column: str, tmp_path: Path) -> None:
    path, _ = made(tmp_path, 1, switches=True, calls=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE {table} SET {column} = ? WHERE rowid % 3 = 0", (odd,))
    try:
        found = Analysis.of(read(path))["stage_trace"]
    except dsprof.DsprofError:
        assert not isinstance(odd, int)
    else:
        assert (found["off_cpu_ns"] <= found["idle_host_ns"]).all()


def test_calls_that_wait_are_told_by_name() -> None:
    waiting = [
        "poll", "ppoll", "select", "epoll_wait", "clock_nanosleep", "usleep", "pthread_cond_wait", "sem_wait",
        "pthread_cond_timedwait", "pthread_mutex_lock", "pthread_rwlock_rdlock", "pthread_join", "waitpid", "recvmsg",
    ]  # fmt: skip
    working = [
        "write", "read", "mmap64", "pthread_cond_signal", "pthread_mutex_trylock", "pthread_mutex_unlock", "sem_post",
        "pthread_create", "open64", "ioctl", "send", "polling",
    ]  # fmt: skip
    assert [name for name in (*waiting, *working) if WAITING.fullmatch(name)] == waiting
