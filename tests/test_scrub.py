"""A scrubbed report: nothing of who, where and with which secrets is left, and every event is."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest

import dsprof
from dsprof.errors import (
    NotAReport,
    NvprofDatabase,
    ReportDamaged,
    ReportEmpty,
    ReportMissing,
    ScrubFailed,
    ScrubRefused,
)
from dsprof.nsys import scrub as scrubbing
from dsprof.nsys.scrub import scrub
from nsys_stats import MIDDLE, OLD, PRIMARY, record, require
from trace_builder import KERNEL, NVTX, RUNTIME, TraceBuilder, global_pid

SAMPLES = Path(__file__).parent.parent / "traces" / "samples"
#: Made, and put together here, so that no scanner takes this file for a leak.
TOKEN = "hf" + "_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA"
PLANTED = {
    "API_TOKEN": TOKEN,
    "DB_PASSWORD": "sw0rdfish9",
    "DB_URL": "postgres://bob:tr0ub4dor@db.example/x",
    "USER": "alice",
    "HOSTNAME": "buildbox7",
    "HOME": "/home/alice",
    "PROJECT": "operation-nightfall-42",
    "PATH": "/home/alice/bin:/usr/bin:/bin",
}
#: What of it must not be in the copy, in no form.
FORBIDDEN = (TOKEN, "sw0rdfish9", "tr0ub4dor", "alice", "buildbox7", "nightfall", "bob@", "API_TOKEN", "/srv/")
UUID = "2ddd7029-28ef-5e9b-5f88-52e573915294"


def environment(separator: str) -> str:
    return separator.join(f"{name}={value}" for name, value in PLANTED.items())


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(query).fetchall()


def texts(path: Path) -> list[str]:
    return [str(value) for (value,) in rows(path, "SELECT value FROM StringIds WHERE value != ''")]


def planted(version: str) -> TraceBuilder:
    """A report that tells of its owner wherever this version of nsys can."""
    report = TraceBuilder(version)
    report.range("prefill", 0, 100, payload=7, domain="dsprof")
    report.range(f"load {PLANTED['HOME']}/model as {TOKEN}", 0, 10)
    report.range("call alice on buildbox7", 10, 20, registered=False)
    report.kernel("void gemm<alice, float>(int)", at=(120, 150), call=(10, 20))
    report.copy(at=(160, 170), call=(30, 40))
    report.gpu()
    report.sql("UPDATE TARGET_INFO_GPU SET uuid = ?, busLocation = '0000:00:06.0'", UUID)
    report.string(environment("\0"))
    report.string("/srv/share/secret.py")
    system = {
        "DeviceEnvironment": environment("\0" if version < "2023" else ";"),
        "Hostname": "buildbox7",
        "NvDriverVersion": "580.159.04",
        "OsDescription": "Ubuntu 24.04.3 LTS",
        "TargetInstallDir": "/home/alice/nsys",
    }
    for number, (name, value) in enumerate(system.items()):
        report.row(
            "TARGET_INFO_SYSTEM_ENV",
            globalVid=1,
            devStateName="alice@buildbox7",
            name=name,
            nameEnum=number,
            value=value,
        )
    report.row("PROCESSES", globalPid=global_pid(77), pid=77, name="/home/alice/other --token x")
    report.row("ThreadNames", nameId=report.string("alice's shell"), priority=20, globalTid=global_pid(77) | 77)
    report.sql("UPDATE PROCESSES SET name = '/home/alice/venv/bin/python -m secret' WHERE pid = 100")
    report.row("ProcessStreams", globalPid=global_pid(100), filenameId=1, contentId=report.string("hello from alice"))
    if "META_DATA_CAPTURE" in report.schema.tables:
        for name, value in PLANTED.items():
            report.row("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value=f'{name}="{value}"')
        report.row("META_DATA_CAPTURE", name="PROCESS_0:ARGUMENT_0", value=f"--token={TOKEN}")
        report.row("META_DATA_CAPTURE", name="PROCESS_0:COLLECT_NVTX_TRACE", value="true")
        report.row("META_DATA_CAPTURE", name="PROCESS_0:COLLECT_X", value="/home/alice/x")
        report.row("META_DATA_CAPTURE", name="PROCESS_0:CUDA_GRAPH_TRACE_OPTIONS:MODE", value="Node")
        report.row("META_DATA_EXPORT", name="EXPORT_USER", value="alice")
    else:
        report.row("EXPORT_META_DATA", name="EXPORT_HOST", value="buildbox7")
    if "DIAGNOSTIC_EVENT" in report.schema.tables:
        report.diagnostic("Could not parse /home/alice/x/log.txt for alice", severity=2)
    if "TARGET_INFO_NIC_INFO" in report.schema.tables:
        report.row("TARGET_INFO_NIC_INFO", GUID=5, name="mlx-buildbox7")
    if "OSRT_CALLCHAINS" in report.schema.tables:
        module, symbol = report.string("/srv/alice/lib/libwork.so.2"), report.string("main")
        report.row("OSRT_CALLCHAINS", id=1, symbol=symbol, module=module, stackDepth=1)
    return report


@pytest.fixture
def made(schema: str, tmp_path: Path) -> Path:
    return planted(schema).write(tmp_path / "made.sqlite")


def tables_of(path: Path) -> dict[str, object]:
    analysis = dsprof.analyze(path)
    return {name: analysis.arrow(name).replace_schema_metadata(None) for name in analysis}


def same_tables(before: Path, after: Path) -> None:
    old, new = tables_of(before), tables_of(after)
    assert old.keys() == new.keys()
    for name, table in old.items():
        assert table.equals(new[name]), name


def test_nothing_planted_is_left(made: Path, tmp_path: Path) -> None:
    assert TOKEN.encode() in made.read_bytes()
    report = scrub(made, tmp_path / "safe.sqlite")
    content = report.target.read_bytes()
    kernel = b"void gemm<alice, float>(int)"  # a name in the program's own code, which stays as it is
    for word in (*FORBIDDEN, UUID):
        assert word.encode() not in content.replace(kernel, b""), word
    assert report.sought > 5
    assert report.found["the value of API_TOKEN"] == 1
    assert report.found["a user name"] >= 1


def test_names_stay_exact_but_for_what_was_to_go(made: Path, tmp_path: Path) -> None:
    safe = scrub(made, tmp_path / "safe.sqlite").target
    assert {"void gemm<alice, float>(int)", "prefill", "load <removed>/model as <removed>"} <= set(texts(safe))
    assert ("call <removed> on <removed>",) in rows(safe, f"SELECT text FROM {NVTX}")
    assert rows(safe, "SELECT pid, name FROM PROCESSES") == [(100, "python")]
    assert len(rows(safe, "SELECT * FROM ThreadNames")) == 1
    assert not rows(safe, "SELECT * FROM ProcessStreams")


def test_every_event_row_stays(made: Path, tmp_path: Path) -> None:
    report = scrub(made, tmp_path / "safe.sqlite")
    for table in (NVTX, KERNEL, RUNTIME, "CUPTI_ACTIVITY_KIND_MEMCPY"):
        assert report.kept[table] == rows(made, f"SELECT count(*) FROM {table}")[0][0] > 0
    columns = "rowid, start, end, eventType, globalTid, domainId, textId, int64Value"
    query = f"SELECT {columns} FROM {NVTX}"
    assert rows(made, query) == rows(report.target, query)
    assert rows(made, f"SELECT rowid, * FROM {KERNEL}") == rows(report.target, f"SELECT rowid, * FROM {KERNEL}")
    names = "SELECT name FROM sqlite_master WHERE type = 'table'"
    assert rows(made, names) == rows(report.target, names)


def test_machine_and_capture_stay_as_far_as_they_are_harmless(made: Path, tmp_path: Path) -> None:
    safe = scrub(made, tmp_path / "safe.sqlite").target
    assert rows(safe, "SELECT name, value, devStateName FROM TARGET_INFO_SYSTEM_ENV") == [
        ("NvDriverVersion", "580.159.04", ""),
        ("OsDescription", "Ubuntu 24.04.3 LTS", ""),
    ]
    assert rows(safe, "SELECT name, busLocation, coalesce(uuid, '') FROM TARGET_INFO_GPU") == [
        ("NVIDIA H200", "0000:00:06.0", "")
    ]
    before, after = (dsprof.analyze(path).results.report for path in (made, safe))
    assert (before.exporter, before.schema, before.driver, before.graph_mode, before.gpus) == (
        after.exporter, after.schema, after.driver, after.graph_mode, after.gpus
    )  # fmt: skip


def test_the_tables_of_a_made_report_stay(schema: str, tmp_path: Path) -> None:
    report = TraceBuilder(schema).range("prefill", 0, 100, payload=7).range("decode", 100, 300)
    for number in range(20):
        at = 12 * number
        report.kernel(f"kernel_{number % 3}<int>(float*)", at=(at + 9, at + 20), call=(at, at + 8))
    report.copy(at=(400, 500), call=(290, 299)).set(at=(500, 510), call=(299, 310))
    made = report.gpu().write(tmp_path / "made.sqlite")
    same_tables(made, scrub(made, tmp_path / "safe.sqlite").target)


@pytest.mark.parametrize("name", ["h200-dsocr2-layers", "h200-graph-node", "h200-graph-graph"])
def test_the_tables_of_a_real_report_stay(name: str, tmp_path: Path) -> None:
    source = tmp_path / f"{name}.sqlite"
    with lzma.open(SAMPLES / f"{name}.sqlite.xz") as packed, source.open("wb") as file:
        shutil.copyfileobj(packed, file)
    safe = scrub(source, tmp_path / "safe.sqlite").target
    same_tables(source, safe)
    before, after = dsprof.analyze(source), dsprof.analyze(safe)
    assert before.findings == after.findings
    kernels = f"SELECT value FROM StringIds WHERE id IN (SELECT demangledName FROM {KERNEL}) ORDER BY id"
    assert rows(source, kernels) == rows(safe, kernels)
    assert UUID.encode() not in safe.read_bytes()


@pytest.mark.nsys
@pytest.mark.parametrize("which", [PRIMARY, OLD, MIDDLE])
def test_a_real_capture_is_clean(which: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nsys = require(which)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    program = [sys.executable, "-m", "dsprof.workloads.toy", "1", "3"]
    with patch.dict(os.environ, {**PLANTED, "LANG": "C.UTF-8"}, clear=True):
        source = record(nsys, tmp_path / "run.sqlite", program, "--export=sqlite", trace="nvtx,osrt")
    assert TOKEN.encode() in source.read_bytes()
    report = scrub(source, tmp_path / "safe.sqlite")
    content = report.target.read_bytes()
    for word in (*FORBIDDEN, str(tmp_path), sys.executable, os.environ.get("HOME", "/root") + "/"):
        assert word.encode() not in content, word
    assert report.kept["OSRT_API"] > 50
    assert [name for (name,) in rows(report.target, "SELECT name FROM PROCESSES")] == [Path(sys.executable).name]
    same_tables(source, report.target)


# -- what a file can hold ---------------------------------------------------------------------------------


def test_what_users_added_is_cleaned_or_emptied(tmp_path: Path) -> None:
    made = (
        TraceBuilder()
        .range("prefill", 0, 100)
        .sql(f"ALTER TABLE {NVTX} ADD COLUMN note TEXT")
        .sql(f"UPDATE {NVTX} SET note = 'see /srv/data/notes.txt now'")
        .sql("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        .sql("INSERT INTO notes VALUES (1, 'by alice')")
        .sql("CREATE TABLE ranks (rank INT, weight REAL, PRIMARY KEY (rank, weight)) WITHOUT ROWID")
        .sql("INSERT INTO ranks VALUES (3, 0.5)")
        .sql('CREATE TABLE odd ("rowid" TEXT, "a ""b" INTEGER -- alice\n, start INTEGER)')
        .sql("INSERT INTO odd VALUES ('x', 5, -3)")
        .sql("CREATE VIEW alice AS SELECT 1")
        .sql("CREATE INDEX alices ON odd (start)")
        .write(tmp_path / "made.sqlite")
    )
    report = scrub(made, tmp_path / "safe.sqlite")
    assert rows(report.target, f"SELECT note FROM {NVTX}") == [("see <path> now",)]
    assert rows(report.target, "SELECT * FROM notes") == []
    assert report.removed["notes"] == 1
    assert rows(report.target, "SELECT * FROM ranks") == [(3, 0.5)]
    assert rows(report.target, "SELECT * FROM odd") == [("x", 5, -3)]
    assert b"alice" not in report.target.read_bytes()


def test_bytes_that_are_no_text_stay_as_they_are(tmp_path: Path) -> None:
    made = (
        TraceBuilder()
        .range(b"\xcf\xf0\xe8 decode", 0, 100)
        .range(b"\xff inline", 0, 50, registered=False)
        .sql("UPDATE TARGET_INFO_SESSION_START_TIME SET localTime = CAST(x'CFF0' AS TEXT)")
        .write(tmp_path / "made.sqlite")
    )
    safe = scrub(made, tmp_path / "safe.sqlite").target
    assert (b"\xcf\xf0\xe8 decode",) in rows(safe, "SELECT CAST(value AS BLOB) FROM StringIds")
    assert (b"\xff inline", "text") in rows(safe, f"SELECT CAST(text AS BLOB), typeof(text) FROM {NVTX}")


def test_short_and_common_words_do_not_eat_names(tmp_path: Path) -> None:
    report = TraceBuilder()
    for name, value in {
        "USER": "root",
        "HOSTNAME": "vm",
        "PASSWORD": "max",
        "A_TOKEN": "gemm",
        "DTYPE": "bfloat16",
    }.items():
        report.row("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value=f'{name}="{value}"')
    report.range("root max vm bfloat16", 0, 9).range("with gemm", 0, 9).kernel(
        "void gemm<max, __nv_bfloat16>()", at=(1, 2)
    )
    safe = scrub(report.write(tmp_path / "made.sqlite"), tmp_path / "safe.sqlite").target
    assert {"root max vm bfloat16", "with <removed>", "void gemm<max, __nv_bfloat16>()"} <= set(texts(safe))


def test_a_secret_in_a_kernel_name_goes(tmp_path: Path) -> None:
    report = TraceBuilder().kernel(f"void f<{TOKEN}>()", at=(1, 2), call=(0, 1))
    report.row("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT_VARIABLE", value=f'HF_TOKEN="{TOKEN}"')
    done = scrub(report.write(tmp_path / "made.sqlite"), tmp_path / "safe.sqlite")
    assert "void f<<removed>>()" in texts(done.target)
    assert done.found == {"the value of HF_TOKEN": 1}


def test_columns_and_tables_may_be_missing(tmp_path: Path) -> None:
    made = (
        TraceBuilder(lazy=True).range("prefill", 0, 9)
        .without("PROCESSES", "globalPid").without("META_DATA_EXPORT", "value")
        .without("TARGET_INFO_SESSION_START_TIME")
        .write(tmp_path / "made.sqlite")
    )  # fmt: skip
    report = scrub(made, tmp_path / "safe.sqlite")
    assert rows(report.target, "SELECT count(*) FROM PROCESSES") == [(0,)]
    assert report.kept[NVTX] == 1


# -- refusals ---------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return TraceBuilder().range("prefill", 0, 9).write(tmp_path / "small.sqlite")


def test_an_existing_target_is_kept_unless_forced(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "safe.sqlite"
    target.write_text("mine")
    with pytest.raises(ScrubRefused, match="exists"):
        scrub(small, target)
    assert target.read_text() == "mine"
    scrub(small, target, force=True)
    assert target.read_bytes().startswith(b"SQLite")


def test_the_report_itself_is_never_the_target(small: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.sqlite"
    link.symlink_to(small)
    before = small.read_bytes()
    for target in (small, link, tmp_path / "." / "small.sqlite"):
        with pytest.raises(ScrubRefused, match="made from"):
            scrub(small, target, force=True)
    assert small.read_bytes() == before


def test_targets_that_cannot_be_written(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ScrubRefused, match="folder"):
        scrub(small, tmp_path)
    with pytest.raises(ScrubRefused, match="cannot be written"):
        scrub(small, tmp_path / "none" / "safe.sqlite")


def test_a_report_is_sent_to_export_first(tmp_path: Path) -> None:
    for name, content in (("a.nsys-rep", b"\x00\x01"), ("b.bin", b"NVIDIA Tegra Profiler Report\x00")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScrubRefused, match="nsys export"):
            scrub(tmp_path / name, tmp_path / "safe.sqlite")


def test_other_sources_are_refused(small: Path, tmp_path: Path) -> None:
    def refuses(error: type[Exception], content: bytes, name: str = "x.sqlite") -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(error):
            scrub(tmp_path / name, tmp_path / "safe.sqlite")

    refuses(ReportEmpty, b"")
    refuses(NotAReport, b"some text")
    refuses(ReportDamaged, small.read_bytes()[:-5000])
    refuses(ScrubRefused, lzma.compress(small.read_bytes()), "x.sqlite.xz")
    with pytest.raises(ReportMissing):
        scrub(tmp_path / "none.sqlite", tmp_path / "safe.sqlite")
    for error, table in ((NvprofDatabase, "StringTable"), (NotAReport, "cookies")):
        strange = tmp_path / f"{table}.sqlite"
        with closing(sqlite3.connect(strange)) as database:
            database.execute(f"CREATE TABLE {table} (id)")
        with pytest.raises(error):
            scrub(strange, tmp_path / "safe.sqlite")
    assert not (tmp_path / "safe.sqlite").exists()


@pytest.mark.parametrize("table", ["NVTX_EVENTS", "CUPTI_ACTIVITY_KIND_KERNEL", "StringIds"])
@pytest.mark.parametrize("made", ["CREATE VIEW \"{table}\" AS SELECT * FROM old",
                                  "CREATE VIRTUAL TABLE \"{table}\" USING fts5(name)"])  # fmt: skip
def test_events_that_no_table_holds_are_not_lost_unsaid(tmp_path: Path, table: str, made: str) -> None:
    report = TraceBuilder().range("x", 0, 9).kernel("gemm", at=(3, 4), call=(1, 2))
    small = report.write(tmp_path / "odd.sqlite")
    with closing(sqlite3.connect(small)) as database:
        database.execute(f"ALTER TABLE {table} RENAME TO old")
        database.execute(made.format(table=table))
    with pytest.raises(NotAReport, match=table):
        scrub(small, tmp_path / "safe.sqlite")
    assert not (tmp_path / "safe.sqlite").exists()


def test_a_copy_may_have_a_name_that_is_no_utf_8(small: Path, tmp_path: Path) -> None:
    target = tmp_path / os.fsdecode(b"safe\xff?.sqlite")
    scrub(small, target)
    same_tables(small, target)
    assert sorted(tmp_path.iterdir()) == sorted([small, target])


def test_a_damaged_page_is_told(tmp_path: Path) -> None:
    report = TraceBuilder().range("prefill", 0, 9)
    for number in range(500):
        report.kernel(f"kernel_{number}", at=(number, number + 1))
    content = bytearray(report.write(tmp_path / "made.sqlite").read_bytes())
    content[8192:] = bytes(len(content) - 8192)
    (tmp_path / "bad.sqlite").write_bytes(content)
    with pytest.raises(ReportDamaged):
        scrub(tmp_path / "bad.sqlite", tmp_path / "safe.sqlite")


# -- the check itself --------------------------------------------------------------------------------------


def leaves_nothing(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "safe.sqlite"
    target.write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ScrubFailed):
        scrub(source, target, force=True)
    assert target.read_text() == "mine"
    assert sorted(tmp_path.iterdir()) == before


def test_a_copy_that_kept_a_text_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planted("2025.3.2").write(tmp_path / "made.sqlite")
    monkeypatch.setattr(scrubbing, "_kept_value", lambda table, column: f'"{column}"')
    leaves_nothing(made, tmp_path)


def test_a_copy_that_lost_a_number_is_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planted("2025.3.2").write(tmp_path / "made.sqlite")
    honest = scrubbing._kept_value

    def shifted(table: scrubbing._Table, column: str) -> str:
        kept = honest(table, column)
        return f"{kept} + (rowid = 1)" if (table.name, column) == (KERNEL, "end") else kept

    monkeypatch.setattr(scrubbing, "_kept_value", shifted)
    leaves_nothing(made, tmp_path)


def test_a_copy_whose_bytes_hold_a_secret_is_thrown_away(tmp_path: Path) -> None:
    made = planted("2025.3.2").sql(f"ALTER TABLE {NVTX} ADD COLUMN {TOKEN} INTEGER").write(tmp_path / "made.sqlite")
    leaves_nothing(made, tmp_path)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planted("2025.3.2").write(tmp_path / "made.sqlite")
    honest = scrubbing._open

    def cramped(source: Path, partial: Path) -> sqlite3.Connection:
        database = honest(source, partial)
        database.execute("PRAGMA max_page_count = 5")
        return database

    monkeypatch.setattr(scrubbing, "_open", cramped)
    leaves_nothing(made, tmp_path)


def test_declarations_carry_no_comments(tmp_path: Path) -> None:
    made = (
        planted("2025.3.2")
        .sql("CREATE TABLE more (start INTEGER NOT NULL -- alice's\n)")
        .write(tmp_path / "made.sqlite")
    )
    safe = scrub(made, tmp_path / "safe.sqlite").target
    declared = [str(sql) for (sql,) in rows(safe, "SELECT sql FROM sqlite_master")]
    assert not [sql for sql in declared if re.search("--|/\\*", sql)]
    assert 'CREATE TABLE "more" ("start" INTEGER NOT NULL)' in declared
