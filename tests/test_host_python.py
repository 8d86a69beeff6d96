"""What Python was in: real samples of a program whose times are known, their tables, and what of them is passed on."""

from __future__ import annotations

import base64
import lzma
import random
import sqlite3
import struct
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.capture.options import ProfileOptions, arguments_of
from dsprof.capture.session import Settings, record_command
from dsprof.errors import CaptureRefused
from dsprof.nsys.command import export
from dsprof.nsys.inputs import Input
from dsprof.nsys.parts import ReportInParts
from dsprof.nsys.python_samples import Stack, holds_marks, stack_of, store_samples
from dsprof.nsys.reader import read
from dsprof.nsys.scrub import scrub
from fake_nsys import REPORT, install
from nsys_stats import AGENT_LOST, PRIMARY, TRIES, require
from trace_builder import PID, TraceBuilder, global_tid

#: Sleeps, spins, and waits for a lock, each as long; what calls the third is in the stack, too.
PROGRAM = """
import threading, time
from dsprof.workloads.ranges import decode_range
def sleeper(): time.sleep(0.5)
def spinner():
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end: pass
def waiter(lock): lock.acquire(timeout=0.5)
def caller(lock): waiter(lock)
lock = threading.Lock()
lock.acquire()
with decode_range():
    sleeper()
    spinner()
    caller(lock)
sleeper()
"""


# -- real samples ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a capture with samples, and the program, in a folder with a telling name."""
    nsys, place = require(PRIMARY).path, tmp_path_factory.mktemp("whose-folder")
    program = place / "known_times.py"
    program.write_text(PROGRAM)
    for number in range(TRIES):
        out = place / str(number)
        done = subprocess.run(
            [sys.executable, "-m", "dsprof", "capture", "--python-sampling", "--python-sampling-rate", "500",
             "--out", out, "--nsys", nsys, "--", sys.executable, program],
            capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        if AGENT_LOST not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return next(out.iterdir()), program


@pytest.mark.nsys
def test_functions_have_the_samples_of_their_time(sampled: tuple[Path, Path]) -> None:
    table = dsprof.analyze(sampled[0])["host_python_sum"]
    decode = table[table["stage"] == "decode"].set_index("function")
    assert set(decode["python_thread"]) == {1}
    for name in ("sleeper", "spinner", "waiter"):
        row = decode.loc[f"{name} (known_times.py)"]
        assert 20 <= row["self_pct"] <= 47, name  # a third, on a machine that does other things as well
        assert 50 <= row["self_samples"] <= 500  # 500 a second for half of one, of which a busy machine loses some
    whole = decode["self_samples"].sum()
    assert decode.loc["<module> (known_times.py)", "samples"] == whole
    called, waited = decode.loc["caller (known_times.py)"], decode.loc["waiter (known_times.py)"]
    assert (called["self_samples"], called["samples"]) == (0, waited["samples"])
    after = table[(table["stage"] == "(no stage)") & (table["function"] == "sleeper (known_times.py)")]
    assert 50 <= after["self_samples"].sum() <= 500


@pytest.mark.nsys
def test_no_folder_is_in_the_table_and_none_in_what_is_passed_on(sampled: tuple[Path, Path], tmp_path: Path) -> None:
    folder, program = sampled
    for function in dsprof.analyze(folder)["host_python_sum"]["function"]:
        assert "/" not in function
        assert "&lt;" not in function
    scrub(folder / "run.sqlite", tmp_path / "safe.sqlite")
    assert str(program.parent).encode() not in (tmp_path / "safe.sqlite").read_bytes()
    assert b"whose-folder" not in (tmp_path / "safe.sqlite").read_bytes()
    before, after = (dsprof.analyze(path)["host_python_sum"] for path in (folder, tmp_path / "safe.sqlite"))
    numbers = [name for name in before if name != "function"]
    assert after[numbers].to_dict("list") == before[numbers].to_dict("list")
    assert "sleeper (known_times.py)" in set(after["function"])


@pytest.mark.nsys
def test_a_recording_without_samples_has_an_empty_table(tmp_path: Path) -> None:
    nsys, command = require(PRIMARY).path, [sys.executable, "-m", "dsprof.workloads.toy", "1", "2"]
    made = record_command(command, Settings(out=tmp_path, nsys=str(nsys)), None, lambda sentence: None)
    assert len(dsprof.analyze(made.folder)["host_python_sum"]) == 0


def test_an_nsys_that_cannot_sample_is_told_before_anything_runs(tmp_path: Path) -> None:
    fake = install(tmp_path / "fake")
    settings = Settings(out=tmp_path / "out", nsys=str(fake), profile=ProfileOptions(python_sampling_hz=100))
    with pytest.raises(CaptureRefused, match="cannot sample Python"):
        record_command(["true"], settings, None, lambda sentence: None)
    assert not (tmp_path / "out").exists()


def test_nsys_is_told_to_sample_and_how_often() -> None:
    told = arguments_of(ProfileOptions(python_sampling_hz=250), "--output= --python-sampling= ")
    assert {"--python-sampling=true", "--python-sampling-frequency=250"} <= set(told)
    assert not any("python" in word for word in arguments_of(ProfileOptions(), "--output= --python-sampling="))


# -- payloads --------------------------------------------------------------------------------------------

#: Cut from a recording of nsys 2025.3.1 (exporter 2025.3.2): a program that spins in `inner` for two seconds; of its
#: samples every tenth, with base names for paths.
SAMPLE = Path(__file__).parent / "data" / "nsys-2025.3-python-sampling.sqlite.xz"
#: One that nsys 2023.4 wrote: ``<module>`` (38) in a file (56), line 4.
RECORDED = base64.b64decode("AwAAAAEAAAABAAAAAAAAACYAAAAAAAAAOAAAAAAAAAAEAAAAAAAAAA==")
frames = st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 31)), max_size=40)


def sample(folder: Path, payloads: bool = True) -> Path:
    """The sample, in a made range ``decode``; without `payloads` as nsys exports it unless it is asked."""
    path = folder / "sample.sqlite"
    path.write_bytes(lzma.decompress(SAMPLE.read_bytes()))
    with closing(sqlite3.connect(path)) as database, database:
        whole = "min(start) - 1, max(start) + 1, 59, 'decode', globalTid, 0 FROM NVTX_EVENTS WHERE eventType = 34"
        columns = "start, end, eventType, text, globalTid, domainId"
        database.execute(f"INSERT INTO NVTX_EVENTS ({columns}) SELECT {whole}")
        if not payloads:
            database.execute("UPDATE NVTX_EVENTS SET binaryData = NULL")
    return path


def findings(path: Path) -> list[str]:
    return [str(one) for one in dsprof.analyze(path).findings if one.code == "no-python"]


def test_what_nsys_2025_wrote_is_read_from_an_export_that_has_it(tmp_path: Path) -> None:
    table = dsprof.analyze(sample(tmp_path))["host_python_sum"]
    assert set(table["stage"]) == {"decode"}
    assert set(table["python_thread"]) == {1}
    assert table["self_samples"].sum() == 103
    inner = table.set_index("function").loc["inner (spin.py)"]
    assert (inner["self_samples"], inner["samples"]) == (99, 99)
    assert table.set_index("function").loc["<module> (spin.py)", "samples"] == 99
    assert findings(tmp_path / "sample.sqlite") == []


def test_an_export_of_dsprof_asks_for_what_was_sampled_and_keeps_no_payload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an nsys 2025.3, which is not at hand: the stand-in exports what that one did, with what it was asked for."""
    nsys = install(tmp_path / "fake")
    monkeypatch.setenv("FAKE_EXPORT", str(sample(tmp_path)))
    (tmp_path / "run.nsys-rep").write_bytes(REPORT)
    export(Input(tmp_path / "run.nsys-rep"), tmp_path / "run.sqlite", nsys)
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as database:
        assert database.execute("SELECT count(binaryData) FROM NVTX_EVENTS").fetchone() == (0,)
    given, made = (dsprof.analyze(tmp_path / name)["host_python_sum"] for name in ("sample.sqlite", "run.sqlite"))
    assert made.to_dict("list") == given.to_dict("list")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fake", "run.nsys-rep", "run.sqlite", "sample.sqlite"]


def test_samples_without_what_was_sampled_are_told(tmp_path: Path) -> None:
    path = sample(tmp_path, payloads=False)
    assert len(dsprof.analyze(path)["host_python_sum"]) == 0
    (said,) = findings(path)
    assert said.startswith("Of 103 samples of Python none can be read here")
    assert "--include-blobs=true" in said


def test_payloads_that_nobody_knows_are_told(tmp_path: Path) -> None:
    path = sample(tmp_path)
    with closing(sqlite3.connect(path)) as database, database:
        database.create_function("more", 1, lambda payload: payload + b"x")
        database.execute("UPDATE NVTX_EVENTS SET binaryData = more(binaryData) WHERE eventType = 34")
    assert findings(path)[0].startswith("Of 103 samples of Python none can be read here")
    with closing(sqlite3.connect(path)) as database, database:  # one that can be read is enough
        database.execute("UPDATE NVTX_EVENTS SET binaryData = ? WHERE rowid = 2", (RECORDED,))
    assert findings(path) == []
    assert dsprof.analyze(path)["host_python_sum"]["self_samples"].sum() == 1


def test_a_recording_in_which_nothing_was_sampled_is_told_and_stays_so_when_scrubbed(tmp_path: Path) -> None:
    path = sample(tmp_path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM NVTX_EVENTS WHERE eventType IN (34, 75)")
    scrub(path, tmp_path / "safe.sqlite")
    for one in (path, tmp_path / "safe.sqlite"):
        assert findings(one)[0].startswith("Python was to be sampled, and the report holds no sample")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE META_DATA_CAPTURE SET value = 'false'")
    assert findings(path) == []


def test_payloads_as_nsys_wrote_them() -> None:
    assert stack_of(RECORDED) == Stack(((38, 56),), None)
    with closing(sqlite3.connect(":memory:")) as database:
        database.deserialize(lzma.decompress(SAMPLE.read_bytes()))
        (payload,) = database.execute("SELECT binaryData FROM NVTX_EVENTS WHERE eventType = 34").fetchone()
    found = stack_of(payload)
    assert found is not None
    assert found.thread == 1
    assert len(found.frames) == 18
    assert found.frames[0] == (25, 26)


@given(frames, st.integers(0, (1 << 32) - 1), st.integers(1, 1 << 40))
def test_a_payload_is_read_in_each_form_whatever_its_padding_holds(stack: Any, padding: int, thread: int) -> None:
    body = b"".join(struct.pack("<QQII", name, file, line, padding) for name, file, line in stack)
    wanted = tuple((name, file) for name, file, _ in stack)
    old = struct.pack("<IIII", 1, 1, len(stack), padding) + body
    new = struct.pack("<QII", thread, 3, len(stack)) + body
    found = stack_of(old)
    assert found is not None
    assert found.frames == wanted
    assert stack_of(new) == Stack(wanted, thread)
    assert stack_of(struct.pack("<QQQQ", 1, 1 << 32, len(new), 32) + new) == Stack(wanted, thread)
    assert stack_of(new + b"x") is None


@given(st.binary(max_size=120))
def test_what_is_no_payload_has_no_frames(payload: bytes) -> None:
    found = stack_of(payload)
    assert found is None or len(payload) in {16 + 24 * len(found.frames), 48 + 24 * len(found.frames)}


def test_marks_of_other_domains_are_no_samples(tmp_path: Path) -> None:
    """Made: beside samples, marks of a program's own domain, and such without a payload or with another."""
    rec = TraceBuilder("2025.3.2").domain("Python Backtrace").domain("mine").range("decode", 0, 90)
    for start, domain, payload in ((5, 1, RECORDED), (7, 2, RECORDED), (9, 1, None), (11, 1, b"no payload")):
        rec.row("NVTX_EVENTS", start=start, eventType=34, globalTid=global_tid(PID, 999), domainId=domain, category=1,
                binaryData=payload)  # fmt: skip
    path = rec.write(tmp_path / "made.sqlite")
    with closing(sqlite3.connect(path)) as database, database:  # the builder writes bytes as text
        database.execute("UPDATE NVTX_EVENTS SET binaryData = CAST(binaryData AS BLOB) WHERE binaryData IS NOT NULL")
    assert holds_marks(path)
    assert dsprof.analyze(path)["host_python_sum"]["self_samples"].tolist() == [1]
    assert store_samples(path, path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT start, thread FROM DSPROF_PYTHON_SAMPLES").fetchall() == [(5, 1)]
        assert database.execute("SELECT * FROM DSPROF_PYTHON_CALLCHAINS").fetchall() == [(1, 0, 38, 56)]


@pytest.mark.parametrize("odd", ["x", 1.5, -1, 1 << 62, b"\0"])
@pytest.mark.parametrize("column", ["start", "globalTid", "domainId", "category", "binaryData", "eventType"])
def test_marks_that_no_sample_has_are_not_counted_or_refused(odd: object, column: str, tmp_path: Path) -> None:
    path = sample(tmp_path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE NVTX_EVENTS SET {column} = ? WHERE eventType = 34 AND rowid % 2 = 0", (odd,))
    counted = dsprof.analyze(path)["host_python_sum"]["self_samples"].sum()
    assert counted == (103 if column == "category" or (column, odd) == ("start", -1) else 51)


# -- made samples ----------------------------------------------------------------------------------------


def made(folder: Path, seed: int, shortest: int = 1) -> tuple[Path, list[tuple[int, int, list[str]]]]:
    """A made report of launches in stages, with made samples of two Python threads: time, thread, functions."""
    chosen, rec, taken = random.Random(seed), TraceBuilder(), []
    for request in range(4):
        begin = request * 1000
        rec.range("prefill", begin, begin + 300).range("decode", begin + 300, begin + 900)
        for call in range(begin + 10, begin + 900, 40):
            rec.kernel("gemm", call=(call, call + chosen.randint(shortest, 30)), at=(call + 31, call + 39))
    path = rec.write(folder / f"{seed}.sqlite")
    names = [f"f{number}" for number in range(6)]
    for _ in range(400):
        stack = [chosen.choice(names) for _ in range(chosen.randint(1, 5))]
        taken.append((chosen.randint(-50, 4100), chosen.choice((1, 1, 2)), stack))
    with closing(sqlite3.connect(path)) as database, database:
        strings = {name: 10_000 + place for place, name in enumerate([*names, "/home/me/m.py"])}
        database.executemany("INSERT INTO StringIds (id, value) VALUES (?, ?)", [(n, s) for s, n in strings.items()])
        database.execute("CREATE TABLE DSPROF_PYTHON_SAMPLES (start, globalTid, thread, stackId)")
        database.execute("CREATE TABLE DSPROF_PYTHON_CALLCHAINS (id, stackDepth, nameId, srcFile)")
        for number, (time, thread, stack) in enumerate(taken):
            row = (time, global_tid(PID, 999), thread, number)
            database.execute("INSERT INTO DSPROF_PYTHON_SAMPLES VALUES (?, ?, ?, ?)", row)
            for depth, name in enumerate(stack):
                row = (number, depth, strings[name], strings["/home/me/m.py"])
                database.execute("INSERT INTO DSPROF_PYTHON_CALLCHAINS VALUES (?, ?, ?, ?)", row)
    return path, taken


def slowly(path: Path, taken: list[tuple[int, int, list[str]]]) -> dict[tuple[str, int, str], list[int]]:
    """By stage, thread and function: samples of its own, those outside of CUDA, and all."""
    with closing(sqlite3.connect(path)) as database:
        calls = database.execute("SELECT start, end FROM CUPTI_ACTIVITY_KIND_RUNTIME").fetchall()
    found: dict[tuple[str, int, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for time, thread, stack in taken:
        place = time % 1000
        stage = "(no stage)" if not 0 <= time < 4000 or place >= 900 else "prefill" if place < 300 else "decode"
        inside = thread == 1 and any(start <= time < end for start, end in calls)
        for name in set(stack):
            found[stage, thread, name][2] += 1
        found[stage, thread, stack[0]][0] += 1
        found[stage, thread, stack[0]][1] += not inside
    return dict(found)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_table_is_what_a_slow_count_gives_in_one_part_and_in_several(seed: int, parts: int, tmp_path: Path) -> None:
    path, taken = made(tmp_path, seed)
    analysis = Analysis.of(read(path) if parts == 1 else ReportInParts(path, parts))
    rows = analysis["host_python_sum"]
    found = {
        (row["stage"], row["python_thread"], row["function"].removesuffix(" (m.py)")): [
            row["self_samples"], row["self_outside_cuda_samples"], row["samples"],
        ]
        for row in rows.to_dict("records")
    }  # fmt: skip
    assert found == slowly(path, taken)
    totals = Counter()
    for row in rows.to_dict("records"):
        totals[row["stage"], row["python_thread"]] += row["self_pct"]
    assert all(total == pytest.approx(100) for total in totals.values())


def test_a_verdict_names_what_python_is_in(tmp_path: Path) -> None:
    """Of a stage that launches bound, the three functions with most samples outside of CUDA."""
    path, taken = made(tmp_path, 7, shortest=26)
    analysis = Analysis.of(read(path))
    (decode,) = [one for one in analysis.summary().verdicts if one.stage == "decode"]
    assert decode.instances == 4
    found = slowly(path, taken).items()
    counts = Counter({name: n[1] for (stage, thread, name), n in found if (stage, thread) == ("decode", 1)})
    whole = sum(counts.values())
    assert [round(one.share_pct, 6) for one in decode.python] == [
        round(100 * count / whole, 6) for _, count in counts.most_common(3)
    ]
    assert decode.kind == "launch-bound"
    first = decode.python[0]
    share = f"{first.share_pct:.0f} % in {first.function}"
    assert f"Of the samples of Python outside of CUDA there are {share}, " in decode.sentence
    dsprof.analyze(path).write()
    assert dsprof.analyze(path).summary().verdicts == analysis.summary().verdicts


@pytest.mark.parametrize("odd", [None, "x", 1.5, -1, 1 << 62, b"\0"])
@pytest.mark.parametrize("column", ["start", "globalTid", "thread", "stackId"])
def test_rows_that_no_sample_has_are_not_counted_or_refused(odd: object, column: str, tmp_path: Path) -> None:
    path, taken = made(tmp_path, 3)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE DSPROF_PYTHON_SAMPLES SET {column} = ? WHERE stackId % 2 = 0", (odd,))
    table = dsprof.analyze(path)["host_python_sum"]
    assert 150 < table["self_samples"].sum() <= len(taken)
