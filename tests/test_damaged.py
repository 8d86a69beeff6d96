"""Damaged and odd reports: refused with a sentence or read right, never a wrong number, never a traceback."""

from __future__ import annotations

import lzma
import re
import shutil
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import mutations
from compiled import way
from dsprof.analysis.analyze import Analysis
from dsprof.errors import DsprofError, NotAReport, ReportDamaged
from dsprof.findings import STRICT_EXITS
from dsprof.nsys import sound
from dsprof.nsys.locate import locate
from dsprof.nsys.parts import ReportInParts, size_of
from dsprof.nsys.reader import read
from dsprof.nsys.scrub import scrub
from dsprof.tables import all_tables
from test_parts import assert_same
from trace_builder import GRAPH_TRACE, KERNEL, MEMCPY, MEMSET, NVTX, RUNTIME, START_END, TraceBuilder

SAMPLES = Path(__file__).parent.parent / "traces" / "samples"
OVERHEAD = "PROFILER_OVERHEAD"
HUGE = 2**63 - 1
EVENTS = (NVTX, RUNTIME, KERNEL, GRAPH_TRACE, MEMCPY, MEMSET)
#: Columns in which a negative number is none.
FREE = ("payload", "request", "step", "tokens", "thread", "process")


def made() -> TraceBuilder:
    """A report with something of everything, several pages of it."""
    report = TraceBuilder().gpu().diagnostic("lost events")
    report.range("prefill", 0, 50_000, payload=4).range("decode", 50_000, 900_000)
    report.range("worker", 10, 700_000, tid=101).range("both", 10, 700_000, kind=START_END, end_tid=101)
    for step in range(40):
        report.range("step", 50_000 + step * 20_000, 70_000 + step * 20_000, payload=step)
    for at in range(0, 750_000, 2500):
        report.kernel(f"gemm{at % 7}", at=(3000 + at, 5000 + at), call=(1000 + at, 1500 + at))
    for at in range(0, 540_000, 9000):
        report.copy(at=(4000 + at, 4400 + at), call=(2000 + at, 2100 + at))
    report.set(at=(10, 20), call=(1, 2)).set(at=(30, 40), call=(3, 4))
    return report.graph(("node", 30_000, 31_000), call=(100, 200)).graph(call=(300, 400), at=(500, 600))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made report; not to be changed."""
    return made().write(tmp_path_factory.mktemp("made") / "made.sqlite")


@pytest.fixture(scope="module", params=[False, True], ids=["arrays", "loops"])
def loops(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways."""
    with way(request.param):
        yield


def whole(path: Path) -> Analysis:
    """An analysis of a report at once."""
    return Analysis.of(read(path))


def in_parts(path: Path, parts: int = 3) -> Analysis:
    """An analysis of a report in parts, as large ones are."""
    size_of(path)
    partial = ReportInParts(path, parts)
    return Analysis.of(partial)


def tables_of(analysis: Analysis) -> dict[str, pa.Table]:
    """All tables, and the summary made; any number that wraps or is none fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        tables = {name: analysis.arrow(name).replace_schema_metadata(None) for name in all_tables()}
        assert analysis.summary().findings == analysis.findings
    return tables


def negative(tables: dict[str, pa.Table]) -> list[tuple[str, str, int]]:
    """Durations, counts and sizes below zero."""
    moments = ("start_ns", "end_ns")
    columns = [
        (table, column, pc.min(rows.column(column)).as_py())
        for table, rows in tables.items()
        for column in rows.column_names
        if pa.types.is_integer(rows.schema.field(column).type)
        and not column.endswith((*moments, "_id"))
        and (column.endswith(("_ns", "bytes")) or column in ("instances", "kernels", "launches", "gpu_ops"))
    ]
    return [(table, column, least) for table, column, least in columns if least is not None and least < 0]


def codes(analysis: Analysis) -> list[str]:
    return [found.code for found in analysis.findings]


def rows_of(analysis: Analysis) -> int:
    held = analysis.summary().counts
    return held.ranges + held.api_calls + held.kernels + held.memory_operations


def ends(analysis_of: object, path: Path) -> dict[str, pa.Table] | None:
    """The tables; None where the report is refused with a sentence."""
    try:
        return tables_of(analysis_of(path))  # type: ignore[operator]
    except DsprofError as error:
        assert error.message.endswith(".")
        return None


# -- damage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", mutations.BYTES)
@pytest.mark.parametrize("recorded", [False, True], ids=["made", "recorded"])
def test_what_sqlite_refuses_is_refused(name: str, recorded: bool, report: Path, loops: None, tmp_path: Path) -> None:
    path, source = tmp_path / "odd.sqlite", report
    if recorded:
        source = tmp_path / "sample.sqlite"
        source.write_bytes(lzma.decompress((SAMPLES / "h200-graph-node.sqlite.xz").read_bytes()))
    refused = 0
    for seed in range(4):
        said = mutations.mutated(name, seed, source, path)
        found = [ends(way_, path) for way_ in (whole, in_parts)]
        if mutations.refused(path):
            refused += 1
            assert found == [None, None], said
        assert (found[0] is None) == (found[1] is None), said
        assert not any(map(negative, filter(None, found))), said
    assert refused or name in ("appended", "bit-flips", "header-field", "page-header")


def test_damage_that_no_query_meets_is_found_by_the_check(tmp_path: Path) -> None:
    """A page of a table that is never read, over the root of another such."""
    path = made().write(tmp_path / "run.sqlite")
    with closing(sqlite3.connect(path)) as sql:
        roots = dict(sql.execute("SELECT name, rootpage FROM sqlite_master WHERE name IN ('PROCESSES', 'ThreadNames')"))
        ((size,),) = sql.execute("PRAGMA page_size")
    data = bytearray(path.read_bytes())
    one, other = (slice((root - 1) * size, root * size) for root in roots.values())
    data[one] = data[other]
    path.write_bytes(data)
    with pytest.raises(ReportDamaged, match="is cut or damaged"):
        read(path)
    with pytest.raises(ReportDamaged, match="is cut or damaged"):
        scrub(path, tmp_path / "clean.sqlite")
    assert not (tmp_path / "clean.sqlite").exists()


def test_a_row_that_differs_from_what_an_index_says_is_damage(tmp_path: Path) -> None:
    """One bit of a value: nothing in the table itself tells it."""
    path = made().sql(f'CREATE INDEX mine ON "{KERNEL}" ("start")').write(tmp_path / "run.sqlite")
    data = path.read_bytes()
    start = (3000 + 100 * 2500).to_bytes(3, "big")  # of a kernel that no other row has the time of
    places = [place.start() for place in re.finditer(re.escape(start), data)]
    (at,) = [place for place in places if data[place // 4096 * 4096] == 13]  # a leaf of a table, not of the index
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert "missing from index mine" in mutations.refused(path)
    with pytest.raises(ReportDamaged, match="missing from index mine"):
        read(path)


def test_the_check_says_what_is_wrong(report: Path, tmp_path: Path) -> None:
    sound.check_file(report, report.name)
    path = tmp_path / "odd.sqlite"
    mutations.mutated("page-copied", 13, report, path)
    assert mutations.refused(path)
    with pytest.raises(ReportDamaged, match=r"odd\.sqlite is cut or damaged \(.+\)"):
        sound.check_file(path, path.name)


def test_what_sqlite_cannot_check_is_no_damage(report: Path, tmp_path: Path) -> None:
    """A virtual table of a module that is not here."""
    path = tmp_path / "odd.sqlite"
    shutil.copyfile(report, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("PRAGMA writable_schema = ON")
        sql.execute(
            "INSERT INTO sqlite_master VALUES ('table', 'odd', 'odd', 0, 'CREATE VIRTUAL TABLE odd USING nowhere(x)')"
        )
    assert tables_of(whole(path)) == tables_of(whole(report))


# -- changes that are not in the file -------------------------------------------------------------------


@contextmanager
def in_change(path: Path, mode: str) -> Iterator[None]:
    """Another program is in the middle of a change: a WAL or a journal that is hot lies beside the file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute(f"PRAGMA journal_mode = {mode}")
        sql.execute("PRAGMA cache_size = 1")
        sql.execute("BEGIN IMMEDIATE")
        for table in (KERNEL, RUNTIME):  # more than SQLite keeps in memory
            sql.execute(f'UPDATE "{table}" SET "start" = "start" + 1, "end" = "end" + 1')
        if mode == "WAL":
            sql.execute("COMMIT")
        yield


@pytest.mark.parametrize("mode", ["WAL", "DELETE", "PERSIST"])
@pytest.mark.parametrize("by_link", [False, True])
def test_an_unfinished_change_is_refused_by_analyze_and_scrub_alike(mode: str, by_link: bool, tmp_path: Path) -> None:
    path = named = made().write(tmp_path / "run.sqlite")
    if by_link:
        (tmp_path / "elsewhere").mkdir()
        named = tmp_path / "elsewhere" / "link.sqlite"
        named.symlink_to(path)
    with in_change(path, mode):
        for refusing in (lambda: read(named), lambda: size_of(named), lambda: scrub(named, tmp_path / "clean.sqlite")):
            with pytest.raises(ReportDamaged, match=r"there is run\.sqlite-(wal|journal)"):
                refusing()
    assert not (tmp_path / "clean.sqlite").exists()


def test_a_change_that_is_done_is_none(tmp_path: Path) -> None:
    path = made().write(tmp_path / "run.sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("PRAGMA journal_mode = PERSIST")
        sql.execute(f'UPDATE "{KERNEL}" SET "start" = "start" + 1, "end" = "end" + 1')
    assert (tmp_path / "run.sqlite-journal").stat().st_size
    assert len(read(path).kernels)
    assert scrub(path, tmp_path / "clean.sqlite").kept[KERNEL]


# -- impossible times and sizes -------------------------------------------------------------------------

#: Changes of one row's times: how many rows are left out, and whether the row's own duration is known.
TIMES = {
    "end before start": ('"end" = "start" - 1', 0),
    "no end": ('"end" = -9223372036854775808', 0),
    "end at the limit": (f'"end" = {HUGE}', 0),
    "start at the limit": (f'"start" = {-HUGE}', 1),
    "start without limit": ('"start" = -9223372036854775808', 1),
    "both at the limits": (f'"start" = {-HUGE}, "end" = {HUGE}', 1),
    "years later": ('"start" = "start" + (1 << 61), "end" = "end" + (1 << 61)', 1),
    "very long": ('"end" = "start" + (1 << 60)', 0),
}


@pytest.mark.parametrize("table", EVENTS)
@pytest.mark.parametrize("change", TIMES)
def test_impossible_times_are_found_and_add_nothing(change: str, table: str, loops: None, tmp_path: Path) -> None:
    statement, left_out = TIMES[change]
    if table == NVTX and change == "no end":
        pytest.skip("a range that nobody closed")
    plain = made().write(tmp_path / "plain.sqlite")
    path = made().sql(f'UPDATE "{table}" SET {statement} WHERE rowid = 1').write(tmp_path / "run.sqlite")
    analysis, before = whole(path), whole(plain)
    assert codes(analysis).count("impossible-times") == 1
    found = next(found for found in analysis.findings if found.code == "impossible-times")
    assert found.strict_exit == STRICT_EXITS["impossible-times"] == 27
    assert re.match(r"Impossible times \([\w ]+: 1\)", found.message)
    assert not negative(tables_of(analysis))
    assert rows_of(analysis) == rows_of(before) - left_out
    assert_same(analysis, in_parts(path))


def test_impossible_times_everywhere(tmp_path: Path) -> None:
    report = made()
    for table in EVENTS:
        report.sql(f'UPDATE "{table}" SET "start" = "end", "end" = "start"')
    path = report.write(tmp_path / "run.sqlite")
    analysis = whole(path)
    assert codes(analysis).count("impossible-times") == 1
    tables = tables_of(analysis)
    assert not negative(tables)
    assert pc.sum(tables["kern_sum"].column("total_ns")).as_py() == 0
    assert_same(analysis, in_parts(path))


def test_a_table_without_ends(tmp_path: Path) -> None:
    path = made().without(MEMCPY, "end").write(tmp_path / "run.sqlite")
    analysis = whole(path)
    assert "impossible-times" in codes(analysis)
    assert not negative(tables_of(analysis))
    assert_same(analysis, in_parts(path))


@pytest.mark.parametrize("shift", [-(10**15), 10**12, 1_700_000_000 * 10**9])
def test_times_on_another_clock_are_possible(shift: int, tmp_path: Path) -> None:
    """Exports with absolute times, or shifted by hand."""
    report = made()
    for table in EVENTS:
        report.sql(f'UPDATE "{table}" SET "start" = "start" + {shift}, "end" = "end" + {shift}')
    plain, path = made().write(tmp_path / "plain.sqlite"), report.write(tmp_path / "run.sqlite")
    assert codes(whole(path)) == codes(whole(plain))
    assert whole(path).arrow("kern_sum").equals(whole(plain).arrow("kern_sum"))


def test_times_that_add_up_to_more_than_int64_holds(tmp_path: Path) -> None:
    """Each may be, and all together not."""
    report = made().sql(f'UPDATE "{KERNEL}" SET "end" = "start" + {2**52}')
    for row in range(11):
        report.sql(f'INSERT INTO "{KERNEL}" SELECT * FROM "{KERNEL}" WHERE {row} < 3')
    path = report.write(tmp_path / "run.sqlite")
    for analysis_of in (whole, in_parts):
        with pytest.raises(ReportDamaged, match="durations of its kernels add up"):
            analysis_of(path)


@pytest.mark.parametrize("size", [-1, -HUGE, HUGE, 2**60])
@pytest.mark.parametrize("table", [MEMCPY, MEMSET])
def test_impossible_sizes_are_found_and_add_nothing(table: str, size: int, tmp_path: Path) -> None:
    path = made().sql(f'UPDATE "{table}" SET bytes = {size} WHERE rowid <= 2').write(tmp_path / "run.sqlite")
    analysis = whole(path)
    found = next(found for found in analysis.findings if found.code == "impossible-sizes")
    assert found.strict_exit == STRICT_EXITS["impossible-sizes"] == 28
    assert re.match(r"Impossible sizes \(memory (copies|sets): 2\)", found.message)
    assert not negative(tables_of(analysis))
    assert_same(analysis, in_parts(path))


# -- odd values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", mutations.SQL)
def test_odd_reports_end_in_tables_or_a_sentence(name: str, report: Path, tmp_path: Path) -> None:
    """Whole and in parts the same tables, where there are any."""
    path, read_ones = tmp_path / "odd.sqlite", 0
    for seed in range(8):
        said = mutations.mutated(name, seed, report, path)
        tables = ends(whole, path)
        parted = ends(in_parts, path)
        if tables is not None:
            read_ones += 1
            assert not negative(tables), said
        by_rowid = "view" not in said and "rowid" not in said  # as parts are read
        if by_rowid and tables is not None and parted is not None:
            assert_same(whole(path), in_parts(path))
    assert read_ones


@pytest.mark.parametrize("value", mutations.ODD_VALUES, ids=lambda value: f"{value!r:.20}")
def test_a_string_id_that_is_none_names_nothing(value: object, tmp_path: Path) -> None:
    """The string that has it is not found; all others are."""
    report = made()
    report.sql("CREATE TABLE loose (id, value)").sql("INSERT INTO loose SELECT id, value FROM StringIds")
    report.sql("UPDATE loose SET id = ? WHERE value = 'gemm3'", value)
    report.sql("DROP TABLE StringIds").sql("ALTER TABLE loose RENAME TO StringIds")
    plain = whole(made().write(tmp_path / "plain.sqlite"))
    found = whole(report.write(tmp_path / "run.sqlite"))
    names, before = (set(one["kern_sum"]["kernel"]) for one in (found, plain))
    assert before - names == {"gemm3"}


def test_of_an_id_that_is_there_twice_the_first_counts(tmp_path: Path) -> None:
    for far in ("", "INSERT INTO StringIds VALUES (1 << 40, 'far')"):  # looked up in a table, and by search
        report = made()
        report.sql("CREATE TABLE loose (id, value)").sql("INSERT INTO loose SELECT id, value FROM StringIds")
        report.sql("INSERT INTO loose SELECT id, 'second' FROM StringIds")
        report.sql("DROP TABLE StringIds").sql("ALTER TABLE loose RENAME TO StringIds")
        if far:
            report.sql(far)
        assert "second" not in set(whole(report.write(tmp_path / "run.sqlite"))["kern_sum"]["kernel"])


def numbered() -> TraceBuilder:
    """Requests with their prefill, decode and steps, all of them with payloads."""
    report = TraceBuilder().gpu()
    for request in range(3):
        begin = request * 100_000
        report.range("request", begin, begin + 90_000, payload=request)
        report.range("prefill", begin, begin + 10_000, payload=100)
        report.range("decode", begin + 10_000, begin + 90_000, payload=4)
        for step in range(4):
            at = begin + 10_000 + step * 20_000
            report.range("step", at, at + 20_000, payload=step)
            report.kernel(at=(at + 100, at + 5000), call=(at + 10, at + 20))
    return report


@pytest.mark.parametrize("payload", [HUGE, HUGE - 1, -HUGE, 1 << 62, 1 << 53, -(1 << 41), 1 << 41])
@pytest.mark.parametrize("rows", ["TRUE", "rowid = 2", "rowid % 4 = 1"])
def test_a_payload_that_is_no_number_counts_as_none(payload: int, rows: str, tmp_path: Path) -> None:
    path = numbered().sql(f"UPDATE {NVTX} SET int64Value = {payload} WHERE {rows}").write(tmp_path / "run.sqlite")
    none = numbered().sql(f"UPDATE {NVTX} SET int64Value = NULL WHERE {rows}").write(tmp_path / "none.sqlite")
    tables, expected = tables_of(whole(path)), tables_of(whole(none))
    shown = tables.pop("range_trace").column("payload").to_pylist()
    assert expected.pop("range_trace").column("payload").to_pylist() == [p if p != payload else None for p in shown]
    assert tables == expected
    assert payload in shown


@pytest.mark.parametrize("value", [-1, -HUGE, HUGE, 1 << 31])
def test_sizes_that_no_kernel_has_are_not_known(value: int, tmp_path: Path) -> None:
    report = made()
    for column in ("gridX", "blockY", "staticSharedMemory"):
        report.sql(f'UPDATE "{KERNEL}" SET "{column}" = {value} WHERE rowid = 1')
    report.sql(f'UPDATE "{KERNEL}" SET dynamicSharedMemory = {value} WHERE rowid <= 2')
    tables = tables_of(whole(report.write(tmp_path / "run.sqlite")))
    first, second = tables["kern_trace"].sort_by("start_ns").to_pylist()[1:3]
    assert (first["grid"], first["block"], first["shared_memory_bytes"]) == (None, None, None)
    assert (second["grid"], second["block"], second["shared_memory_bytes"]) == ("4,2,1", "128,1,1", 0)


# -- odd files that are whole ---------------------------------------------------------------------------


def rewritten(source: Path, target: Path, pragma: str, reserved: int = 0) -> Path:
    """The same content in a file of another kind; `reserved`: bytes of each page that another program uses."""
    with closing(sqlite3.connect(source)) as sql:
        statements = list(sql.iterdump())
    with closing(sqlite3.connect(target, isolation_level=None)) as sql:
        sql.execute(f"PRAGMA {pragma}")
        sql.execute("PRAGMA user_version = 1")  # writes the file's one page
    data = bytearray(target.read_bytes())
    data[20] = reserved
    usable = int.from_bytes(data[16:18], "big") - reserved
    if reserved:
        data[105:107] = usable.to_bytes(2, "big")  # where the content of the page, which has none, begins
    target.write_bytes(data)
    with closing(sqlite3.connect(target, isolation_level=None)) as sql:
        sql.executescript("\n".join(statements))
    return target


@pytest.mark.parametrize(
    "pragma",
    [*(f"page_size = {size}" for size in (512, 1024, 65536)), "encoding = 'UTF-16le'", "encoding = 'UTF-16be'",
     "auto_vacuum = FULL", "auto_vacuum = INCREMENTAL", "journal_mode = WAL", "legacy_file_format = 1"],
)  # fmt: skip
def test_files_of_other_kinds_read_the_same(pragma: str, report: Path, loops: None, tmp_path: Path) -> None:
    path = rewritten(report, tmp_path / "odd.sqlite", pragma)
    assert tables_of(whole(path)) == tables_of(whole(report))
    assert_same(whole(path), in_parts(path))


def test_pages_with_reserved_bytes_read_the_same(report: Path, loops: None, tmp_path: Path) -> None:
    """As programs that encrypt or sum up pages leave them."""
    path = rewritten(report, tmp_path / "odd.sqlite", "page_size = 4096", reserved=32)
    assert path.read_bytes()[20] == 32
    assert not mutations.refused(path)
    assert tables_of(whole(path)) == tables_of(whole(report))
    assert_same(whole(path), in_parts(path))


def test_an_encrypted_file_is_no_report(report: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(bytes(byte ^ 0x5A for byte in report.read_bytes()))
    for refusing in (lambda: locate(path), lambda: scrub(path, tmp_path / "clean.sqlite")):
        with pytest.raises(NotAReport):
            refusing()


def test_a_default_of_a_column_that_was_added_counts(tmp_path: Path) -> None:
    """Rows that were written before have no value for it, and are read as the default and not as NULL."""
    columns = {RUNTIME: ("returnValue", 7), KERNEL: ("streamId", 9), MEMCPY: ("bytes", 4096), NVTX: ("domainId", 0)}
    added, set_ = made(), made()
    for table, (column, value) in columns.items():
        added.sql(f'ALTER TABLE "{table}" DROP COLUMN "{column}"')
        added.sql(f'ALTER TABLE "{table}" ADD COLUMN "{column}" INTEGER DEFAULT {value}')
        set_.sql(f'UPDATE "{table}" SET "{column}" = {value}')
    path, expected = added.write(tmp_path / "added.sqlite"), set_.write(tmp_path / "set.sqlite")
    assert tables_of(whole(path)) == tables_of(whole(expected))
    assert_same(whole(path), in_parts(path))


@pytest.mark.parametrize("kind", ["REAL", "TEXT", ""])
def test_columns_of_another_type_read_the_same(kind: str, report: Path, tmp_path: Path) -> None:
    """As a tool that knows no integers, or no types, writes them."""
    path = tmp_path / "odd.sqlite"
    shutil.copyfile(report, path)
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        for table in (KERNEL, RUNTIME, MEMCPY):
            names = [name for (name,) in sql.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            sql.execute(f'ALTER TABLE "{table}" RENAME TO old')
            sql.execute(f'CREATE TABLE "{table}" ({", ".join(f"{name} {kind}" for name in map(_quoted, names))})')
            sql.execute(f'INSERT INTO "{table}" SELECT * FROM old')
            sql.execute("DROP TABLE old")
    assert tables_of(whole(path)) == tables_of(whole(report))
    assert_same(whole(path), in_parts(path))


def _quoted(name: str) -> str:
    return f'"{name}"'


@pytest.mark.parametrize(
    "statement",
    [f'CREATE INDEX odd ON "{KERNEL}" ("start")', f'CREATE INDEX odd ON "{NVTX}" (eventType, "end" DESC)',
     f'CREATE TRIGGER odd AFTER INSERT ON "{KERNEL}" BEGIN DELETE FROM "{KERNEL}"; END',
     "CREATE VIRTUAL TABLE odd USING fts5(text)", "CREATE VIEW odd AS SELECT x FROM nowhere", "ANALYZE"],
)  # fmt: skip
def test_what_users_add_changes_nothing(statement: str, report: Path, tmp_path: Path) -> None:
    path = made().sql(statement).write(tmp_path / "odd.sqlite")
    assert tables_of(whole(path)) == tables_of(whole(report))
    assert_same(whole(path), in_parts(path))


def test_texts_that_are_no_utf8_or_hold_a_null_are_shown(tmp_path: Path) -> None:
    report = made().kernel(b"caf\xe9", at=(800_000, 800_010), call=(799_000, 799_010))
    report.kernel("one\x00two", at=(800_020, 800_030), call=(799_020, 799_030))
    names = set(whole(report.write(tmp_path / "run.sqlite"))["kern_sum"]["kernel"])
    assert {"caf\ufffd", "one\x00two"} <= names
