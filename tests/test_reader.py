"""Reading exports: what is refused, what is survived, and that the file is only looked at."""

from __future__ import annotations

import lzma
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

import dsprof
from dsprof.errors import DsprofError, NotAReport, NothingRecorded, NvprofDatabase, ReportDamaged
from dsprof.nsys.reader import read
from trace_builder import KERNEL, NVTX, RUNTIME, VERSIONS, TraceBuilder

SAMPLES = Path(__file__).parent.parent / "traces" / "samples"
AWKWARD = ["a b", "h#h", "q?q", "100%", "%20", "ü-日本", "a&b=c;d", "it's"]


def report(version: str = VERSIONS[-1]) -> TraceBuilder:
    """Two stages with kernels and copies."""
    made = TraceBuilder(version).gpu()
    for number in range(20):
        at = number * 100
        made.range("prefill" if number % 2 else "decode", at, at + 90, payload=5)
        made.kernel("void gemm<float>(int)", at=(at + 20, at + 50), call=(at + 10, at + 20))
        made.copy(at=(at + 60, at + 70), call=(at + 52, at + 55))
    return made


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real export of a GPU's report."""
    path = tmp_path_factory.mktemp("sample") / "node.sqlite"
    path.write_bytes(lzma.decompress((SAMPLES / "h200-graph-node.sqlite.xz").read_bytes()))
    return path


def everything(path: Path) -> dsprof.Analysis:
    """An analysis with all that it can be asked for."""
    analysis = dsprof.analyze(path)
    for name in analysis:
        analysis.arrow(name)
    analysis.summary()
    return analysis


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Nothing in the folder is new, changed or gone afterwards."""

    def seen() -> dict[str, tuple[int, bytes]]:
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}

    before = seen()
    yield
    assert seen() == before


# -- what is read ---------------------------------------------------------------------------------------


def test_what_a_real_report_says_of_itself(sample: Path) -> None:
    with untouched(sample.parent):
        trace = read(sample)
    about = trace.report
    assert (about.file, about.exporter, about.schema) == ("node.sqlite", "2025.3.2.0", "3.20.3")
    assert about.sha256 == sha256(sample.read_bytes()).hexdigest()
    assert [(gpu.name, gpu.compute_capability, gpu.sm_count) for gpu in about.gpus] == [("NVIDIA H200", "9.0", 132)]
    assert (len(trace.ranges), len(trace.kernels), len(trace.memops)) == (24, 284, 6)


@pytest.mark.parametrize("name", AWKWARD)
def test_paths_with_awkward_characters(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    path = report().write(folder / f"{name}.sqlite")
    with untouched(folder):
        assert len(read(path).kernels) == 20
    monkeypatch.chdir(folder)
    assert read(Path(path.name)).report.file == path.name


def test_path_that_is_no_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff.sqlite"))
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    report().write(tmp_path / "made.sqlite").replace(path)
    assert len(read(path).kernels) == 20


def test_file_that_nobody_may_write(tmp_path: Path) -> None:
    path = report().write(tmp_path / "made.sqlite")
    path.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        with untouched(tmp_path):
            assert len(read(path).kernels) == 20
    finally:
        tmp_path.chmod(0o755)


def test_file_that_another_program_has_locked(tmp_path: Path) -> None:
    path = report().write(tmp_path / "made.sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with untouched(tmp_path):
            assert len(read(path).kernels) == 20


def test_file_in_wal_mode_that_is_closed(tmp_path: Path) -> None:
    path = report().sql("CREATE TABLE mine (a)").write(tmp_path / "made.sqlite")
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA journal_mode = WAL").fetchone() == ("wal",)
    with untouched(tmp_path):
        assert len(read(path).kernels) == 20


def test_file_whose_last_changes_are_in_its_wal(tmp_path: Path) -> None:
    path = report().write(tmp_path / "made.sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("PRAGMA wal_autocheckpoint = 0")
        other.execute(f"DELETE FROM {KERNEL}")
        with untouched(tmp_path), pytest.raises(ReportDamaged, match=r"made\.sqlite") as raised:
            read(path)
        assert "-wal" in str(raised.value)


def test_file_that_is_being_written(tmp_path: Path) -> None:
    path = report().write(tmp_path / "made.sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA cache_size = 1")
        other.execute("BEGIN")
        other.execute(f"UPDATE {RUNTIME} SET start = start + 1")
        other.execute("CREATE TABLE much AS WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
                      "SELECT i, randomblob(100) AS b FROM n")  # fmt: skip
        assert (tmp_path / "made.sqlite-journal").stat().st_size
        with untouched(tmp_path), pytest.raises(ReportDamaged, match=r"made\.sqlite") as raised:
            read(path)
        assert "-journal" in str(raised.value)


# -- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_nothing_recorded(version: str, tmp_path: Path) -> None:
    path = TraceBuilder(version).write(tmp_path / "made.sqlite")
    with pytest.raises(NothingRecorded, match="neither NVTX ranges nor CUDA events") as raised:
        read(path)
    assert "--trace=cuda,nvtx" in raised.value.hint


def database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(";".join(statements))
    return path


def test_nvprof_database(tmp_path: Path) -> None:
    path = database(
        tmp_path / "nvprof.db",
        "CREATE TABLE StringTable (_id_ INTEGER PRIMARY KEY, value TEXT)",
        "CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (_id_ INTEGER PRIMARY KEY, start INT, end INT, name INT)",
        "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (1, 10, 20, 1)",
    )
    with untouched(tmp_path), pytest.raises(NvprofDatabase, match="is an nvprof database"):
        read(path)


def test_database_of_something_else(tmp_path: Path) -> None:
    path = database(
        tmp_path / "places.sqlite", "CREATE TABLE bookmarks (url, title)", "INSERT INTO bookmarks VALUES (1, 2)"
    )
    with untouched(tmp_path), pytest.raises(NotAReport, match=r"places\.sqlite"):
        read(path)


@pytest.mark.parametrize("part", [0.001, 0.1, 0.5, 0.9, 0.99999])
def test_truncated_export(part: float, sample: Path, tmp_path: Path) -> None:
    whole = sample.read_bytes()
    path = tmp_path / "cut.sqlite"
    path.write_bytes(whole[: int(part * len(whole))])
    with untouched(tmp_path), pytest.raises(ReportDamaged, match=r"cut\.sqlite is cut or damaged"):
        read(path)


def test_column_of_text_where_numbers_belong(tmp_path: Path) -> None:
    path = report().sql(f"UPDATE {RUNTIME} SET start = 'yesterday'").write(tmp_path / "made.sqlite")
    with pytest.raises(ReportDamaged):
        read(path)


def test_numbers_that_a_tool_wrote_as_text_are_numbers(tmp_path: Path) -> None:
    copied = "CAST(start AS TEXT) AS start, end, globalTid, correlationId, nameId"
    made = report().sql(f"CREATE TABLE copy AS SELECT {copied} FROM {RUNTIME}").sql(f"DROP TABLE {RUNTIME}")
    path = made.sql(f"ALTER TABLE copy RENAME TO {RUNTIME}").write(tmp_path / "made.sqlite")
    again = everything(path)["kern_trace"]
    assert again.equals(everything(report().write(tmp_path / "plain.sqlite"))["kern_trace"])


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ANALYSIS_DETAILS SET duration = 'x64'",
        "UPDATE TARGET_INFO_GPU SET smCount = 'many', clockRate = ''",
        f"UPDATE {NVTX} SET domainId = 'one', text = 'domain' WHERE rowid % 2",
    ],
)
def test_small_tables_of_the_wrong_kind(statement: str, tmp_path: Path) -> None:
    path = report().sql(statement).write(tmp_path / "made.sqlite")
    try:
        everything(path)
    except DsprofError as error:
        assert isinstance(error, ReportDamaged)


def test_schema_that_is_no_utf8(tmp_path: Path) -> None:
    path = report().write(tmp_path / "made.sqlite")
    whole = path.read_bytes()
    assert whole.count(b'CREATE TABLE "StringIds"') == 1
    path.write_bytes(whole.replace(b'CREATE TABLE "StringIds"', b'CREATE \xffABLE "StringIds"'))
    with pytest.raises(ReportDamaged):
        read(path)


def test_damaged_exports_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    """Bytes and pages that a broken disk or copy exchanged, 240 times the same way each time."""
    whole = report().write(tmp_path / "whole.sqlite").read_bytes()
    pages = len(whole) // 4096
    path, ends = tmp_path / "made.sqlite", Counter[str]()
    for seed in range(240):
        chance, content = random.Random(seed), bytearray(whole)
        if seed % 2:
            for _ in range(chance.choice((1, 10, 100))):
                content[chance.randrange(len(content))] = chance.randrange(256)
        else:
            for _ in range(chance.choice((1, 3))):
                to, source = chance.randrange(pages) * 4096, chance.randrange(pages) * 4096
                content[to : to + 4096] = whole[source : source + 4096]
        path.write_bytes(content)
        try:
            everything(path)
            ends["read"] += 1
        except (ReportDamaged, NotAReport, NothingRecorded) as error:
            ends[type(error).__name__] += 1
    assert ends["read"] > 20
    assert ends["ReportDamaged"] > 20
