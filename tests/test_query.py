"""SQL over tables: what is there, what it gives, and what it may not do or take."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dsprof
from dsprof.analysis.analyze import Analysis, analysis_in
from dsprof.analysis.many import ManyAnalysis, analyze_many
from dsprof.analysis.query import sql_table, tables_in
from dsprof.cli import main
from dsprof.errors import QueryFailed, UnknownTable
from dsprof.ground import sql_worker
from dsprof.ground.sql import LARGEST
from dsprof.tables import all_tables
from test_many import made as made_rank
from test_page import hostile

duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'dsprof[query]'")

SAMPLE = Path(__file__).parent.parent / "traces/samples/h200-graphs-node.sqlite.xz"


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return dsprof.analyze(SAMPLE)


@pytest.fixture(scope="module")
def folder(analysis: Analysis, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return analysis.write(tmp_path_factory.mktemp("stored") / "run.dsprof")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> ManyAnalysis:
    place = tmp_path_factory.mktemp("many")
    for rank in range(3):
        made_rank(place / f"tp-rank{rank}.sqlite", late=rank * 1_000)
    return analyze_many([place], on="loop")


class Here:
    """The database of a worker in this process, so that many statements are tried in one."""

    def __init__(self, analysis: Analysis) -> None:
        self._files = {name: analysis.results.file(name) for name in all_tables()}
        tables = {
            name: sql_table(table.row, table.columns, f"/proc/self/fd/{self._files[name].fileno()}")._asdict()
            for name, table in all_tables().items()
        }
        asked = {"memory": 10**9, "threads": 2, "tables": tables, "sql": "FROM duckdb_columns()"}
        self.database = sql_worker._database(duckdb, asked)

    def check(self, sql: str) -> None:
        sql_worker._check(duckdb, self.database, sql, set(all_tables()))

    def rows(self, sql: str) -> pa.Table:
        self.check(sql)
        result = os.memfd_create("rows")
        with os.fdopen(os.dup(result), "rb") as file:
            sql_worker._run(self.database, sql, None, result)
            file.seek(0)
            return pa.ipc.open_stream(file).read_all()


@pytest.fixture(scope="module")
def here(analysis: Analysis) -> Here:
    return Here(analysis)


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> Callable[..., Ended]:
    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dsprof", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfdbinary.readouterr()
        return Ended(int(ended.value.code or 0), out.decode(), err.decode())

    return call


# -- what is there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", all_tables())
def test_each_table_has_its_rows(name: str, analysis: Analysis, here: Here) -> None:
    assert here.rows(f"SELECT * FROM {name}").to_pydict() == analysis.arrow(name).to_pydict()


def test_each_column_says_what_it_means(here: Here) -> None:
    found = here.rows("SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal").to_pylist()
    said = {(one["table_name"], one["column_name"]): one["comment"] for one in found}
    assert said == {(table.name, one.name): one.text for table in all_tables().values() for one in table.columns}
    rows = here.rows("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").to_pylist()
    assert {one["view_name"]: one["comment"] for one in rows} == {one.name: one.row for one in all_tables().values()}


def test_those_that_are_not_named_are_described_all_the_same(analysis: Analysis) -> None:
    found = analysis.query("SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal")
    said = set(map(tuple, found.itertuples(index=False)))
    assert said == {(table.name, one.name, one.text) for table in all_tables().values() for one in table.columns}


def test_only_tables_that_are_named_are_made(analysis: Analysis, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, file = [], analysis.results.file
    monkeypatch.setattr(analysis.results, "file", lambda name: (asked.append(name), file(name))[1])
    found = analysis.query('SELECT DISTINCT s.stage FROM "STAGE_SUM" s JOIN main.step_sum USING (stage)')
    assert asked == ["stage_sum", "step_sum"]
    assert found["stage"].tolist() == ["decode"]
    assert tables_in("select 'kern_sums', x_mem_sum from rank_sum") == ["rank_sum"]


def test_whole_numbers_stay_whole_and_sums_are_exact(analysis: Analysis) -> None:
    found = analysis.query("SELECT sum(total_ns) AS total_ns, max(kernel) AS kernel, avg(total_ns) AS a FROM kern_sum")
    frame = analysis["kern_sum"]
    assert str(found.dtypes["total_ns"]) == "Int64"
    assert found.iloc[0].tolist() == [frame.total_ns.sum(), frame.kernel.astype(str).max(), frame.total_ns.mean()]


def test_stored_tables_are_asked_without_their_report(folder: Path, analysis: Analysis) -> None:
    found = analysis_in(folder, ["kern_trace"])
    assert found is not None
    sql = "SELECT count(*) AS n, sum(duration_ns) AS ns FROM kern_trace"
    frame = analysis["kern_trace"]
    assert found.query(sql).to_numpy().tolist() == [[len(frame), frame.duration_ns.sum()]]


def test_what_is_no_plain_value_is_text_and_names_are_distinct(here: Here) -> None:
    sql = "SELECT 1 AS a, 2 AS a, 3 AS a_2, [1, 2] AS l, {'x': 1} AS s, 'q'::BLOB AS b, 1.5 AS d, true AS t, NULL AS n"
    found = here.rows(sql)
    assert found.to_pylist() == [
        {"a": 1, "a_2": 2, "a_2_2": 3, "l": "[1, 2]", "s": "{'x': 1}", "b": "q", "d": 1.5, "t": True, "n": None}
    ]
    assert {str(one.type) for one in found.schema} == {"int64", "double", "bool", "string"}


def test_a_number_that_no_column_holds_is_an_error_and_no_other_number(here: Here) -> None:
    with pytest.raises(duckdb.Error, match="out of range"):
        here.rows("SELECT 9223372036854775807::HUGEINT + 1")


# -- many reports ------------------------------------------------------------------------------------------------------


def test_several_reports_are_asked_as_one(many: ManyAnalysis) -> None:
    found = many.query("SELECT rank, count(*) AS n FROM kern_trace JOIN reports USING (rank) GROUP BY ALL ORDER BY ALL")
    assert found["rank"].tolist() == [0, 1, 2]
    assert found["n"].sum() == len(many["kern_trace"])
    sums = many.query("SELECT report, wall_total_ns FROM stage_sum WHERE stage = 'prefill' ORDER BY report")
    frame = many["stage_sum"]
    assert sums["wall_total_ns"].tolist() == frame[frame.stage == "prefill"].wall_total_ns.tolist()


def test_columns_of_several_reports_say_what_they_mean(many: ManyAnalysis) -> None:
    found = many.query("SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal")
    said = {(one.table_name, one.column_name): one.comment for one in found.itertuples()}
    assert said["kern_trace", "rank"] == said["reports", "rank"]
    assert said["kern_trace", "stream_id"] == next(
        one.text for one in all_tables()["kern_trace"].columns if one.name == "stream_id"
    )
    assert all(said.values())


def test_the_command_line_takes_several_reports_and_their_folder(run: Callable[..., Ended], tmp_path: Path) -> None:
    files = [made_rank(tmp_path / f"tp-rank{rank}.sqlite") for rank in range(2)]
    sql = "SELECT count(DISTINCT report) AS n FROM stage_sum"
    first = run("query", *files, sql, "--format", "csv")
    assert (first.code, first.out) == (0, "n\n2\n")
    again = run("query", tmp_path / "reports.dsprof", sql, "--format", "csv")
    assert (again.code, again.out) == (0, "n\n2\n")
    assert run("query", tmp_path / "reports.dsprof", sql, "--pid", "3").code == 2
    (tmp_path / "bad.sqlite").write_bytes(b"")
    ended = run("query", tmp_path, "SELECT report FROM reports WHERE error IS NOT NULL", "--format", "csv")
    assert (ended.code, ended.out) == (0, "report\nbad.sqlite\n")
    assert "1 of 3 reports failed" in ended.err


# -- what may not be ---------------------------------------------------------------------------------------------------

ELSEWHERE = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM main.\"read_csv\" ('/etc/passwd')",
    "SELECT (SELECT count(*) FROM read_text('/etc/passwd'))",
    "SELECT 1 ORDER BY (SELECT content FROM read_text('/etc/passwd'))",
    "WITH x AS (SELECT * FROM read_blob('/etc/passwd')) SELECT * FROM x",
    "DESCRIBE SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/x.parquet')",
    "SELECT * FROM read_csv('https://example.org/a.csv')",
    "SELECT * FROM query_table('stage_' || 'sum')",
    "SELECT * FROM query('SELECT 1')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT * FROM arrow_scan(1, 1, 1)",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM enable_logging(storage = 'file')",
    "SELECT current_setting('secret_directory')",
    "SELECT write_log('x')",
]
NO_TABLES = [
    "FROM '/etc/passwd'",
    "SELECT * FROM 's3://bucket/x.parquet'",
    "SELECT * FROM sys",
    "SELECT * FROM here",
    "SELECT * FROM pg_catalog.pg_settings",
    "SELECT * FROM other.stage_sum",
    "WITH stage_x AS (SELECT 1) SELECT * FROM x.stage_x",
    "SELECT * FROM (SELECT * FROM (SELECT * FROM stage_sums))",
]
NO_READING = [
    "COPY stage_sum TO '/tmp/x'", "ATTACH '/tmp/x' AS x", "INSTALL httpfs", "LOAD httpfs", "PRAGMA version",
    "CREATE TABLE x AS SELECT 1", "DROP VIEW stage_sum", "INSERT INTO stage_sum VALUES (1)", "SET threads = 1",
    "SET enable_external_access = true", "CALL checkpoint()", "EXPORT DATABASE '/tmp/x'", "EXPLAIN ANALYZE SELECT 1",
    "PREPARE x AS SELECT 1", "USE x", "VACUUM", "DELETE FROM stage_sum", "UPDATE stage_sum SET stage = 'x'",
    "WITH x AS (SELECT 1) INSERT INTO stage_sum SELECT * FROM x",
]  # fmt: skip


@pytest.mark.parametrize("sql", ELSEWHERE)
def test_nothing_elsewhere_is_read(sql: str, here: Here) -> None:
    with pytest.raises(sql_worker.Refused) as refused:
        here.check(sql)
    assert refused.value.kind == "function"


@pytest.mark.parametrize("sql", NO_TABLES)
def test_no_other_table_is_read(sql: str, here: Here) -> None:
    with pytest.raises(sql_worker.Refused) as refused:
        here.check(sql)
    assert refused.value.kind == "table"


@pytest.mark.parametrize("sql", NO_READING)
def test_nothing_but_reading_is_run(sql: str, here: Here) -> None:
    with pytest.raises(sql_worker.Refused) as refused:
        here.check(sql)
    assert refused.value.kind in ("kind", "syntax")  # not every DuckDB knows every word


@pytest.mark.parametrize("sql", ["", " -- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP VIEW stage_sum"])
def test_one_statement_is_run(sql: str, here: Here) -> None:
    with pytest.raises(sql_worker.Refused) as refused:
        here.check(sql)
    assert refused.value.kind == "number"


@pytest.mark.parametrize(
    "sql",
    [one for one in ELSEWHERE if "/etc/" in one or "http" in one or "glob" in one]
    + [
        "FROM '/etc/passwd'", "COPY stage_sum TO '{folder}/x.csv'", "ATTACH '{folder}/x.db' AS x", "INSTALL httpfs",
        "LOAD httpfs", "SET threads = 1", "SET enable_external_access = true", "EXPORT DATABASE '{folder}/x'",
        "SELECT * FROM here",
    ],
)  # fmt: skip
def test_the_database_itself_refuses_it_as_well(sql: str, here: Here, tmp_path: Path) -> None:
    with pytest.raises(duckdb.Error):
        here.database.execute(sql.replace("{folder}", str(tmp_path))).fetchall()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM stage_sum", "stage_sum", "WITH x AS (FROM stage_sum), y AS (FROM x) FROM y", "SHOW TABLES",
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT * FROM r",
        "DESCRIBE stage_sum", "SUMMARIZE step_sum", "FROM range(3)", "SELECT unnest([1, 2])", "VALUES (1)",
        "SELECT 'read_csv(''x'')' AS read_csv", "SELECT * FROM information_schema.columns", "TABLE main.stage_sum;",
        "SELECT * FROM (PIVOT stage_sum ON stage IN ('decode') USING sum(instances))", "UNPIVOT step_sum ON steps",
        "SELECT * FROM stage_trace s WHERE EXISTS (SELECT 1 FROM step_trace t WHERE t.stage = s.stage)",
        "SELECT s.stage FROM stage_sum s, LATERAL (SELECT s.instances) AS x(n)",
    ],
)  # fmt: skip
def test_all_that_reads_the_tables_is_run(sql: str, here: Here) -> None:
    assert here.rows(f"FROM {sql}" if sql == "stage_sum" else sql).num_rows > 0


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT " + "(" * 50_000 + "1" + ")" * 50_000, "SELECT " + "[" * 20_000 + "]" * 20_000,
        "SELECT " + "NOT " * 20_000 + "true", "SELECT 1" + " UNION ALL SELECT 1" * 5_000, "SELECT \0 1",
        "SELECT '\udcff'",
    ],
    ids=lambda sql: sql[:20].encode("ascii", "backslashreplace").decode(),
)  # fmt: skip
def test_deep_and_odd_statements_end_in_an_answer_or_a_sentence(sql: str, analysis: Analysis) -> None:
    try:
        assert len(analysis.query(sql)) > 0
    except QueryFailed as error:
        assert error.message.endswith((".", "\ufffd", '"')) or "ERROR" not in error.message


# -- what it may take --------------------------------------------------------------------------------------------------


def test_time_is_bounded(analysis: Analysis) -> None:
    begun = time.monotonic()
    with pytest.raises(QueryFailed, match=r"more than 1 s and was stopped"):
        analysis.query(
            "SELECT count(*) FROM range(1000000000000) a, range(1000000) b WHERE a.range = b.range", seconds=1
        )
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("sql", ["SELECT range(1000000000)", "SELECT list(range) FROM range(1000000000)"])
def test_memory_is_bounded_also_for_one_value(sql: str, analysis: Analysis) -> None:
    with pytest.raises(QueryFailed, match=r"takes more than .* GB of memory|there was no memory left"):
        analysis.query(sql, seconds=30)


def test_rows_are_bounded_in_bytes(analysis: Analysis) -> None:
    with pytest.raises(QueryFailed, match=f"larger than {LARGEST / 1e6:g} MB"):
        analysis.query("SELECT repeat('x', 1000000) FROM range(300)")


def test_a_limit_says_that_it_cut(run: Callable[..., Ended]) -> None:
    cut = run("query", SAMPLE, "FROM range(5)", "--limit", "2", "--format", "json")
    assert json.loads(cut.out)["cut"] and "--limit gives more" in cut.err
    whole = run("query", SAMPLE, "FROM range(5)", "--limit", "5", "--format", "json")
    assert not json.loads(whole.out)["cut"] and whole.err == ""
    assert json.loads(whole.out)["rows"] == [{"range": number} for number in range(5)]


def test_a_user_can_stop_it(folder: Path) -> None:
    sql = "SELECT count(*) FROM range(1000000000000)"
    asked = subprocess.Popen(
        [sys.executable, "-m", "dsprof", "query", str(folder), sql],
        start_new_session=True,
    )  # fmt: skip
    children = Path(f"/proc/{asked.pid}/task/{asked.pid}/children")
    while not (worker := children.read_text().split()):
        time.sleep(0.02)
    time.sleep(0.2)
    asked.send_signal(signal.SIGINT)  # to it alone, so that it must end the worker itself
    assert asked.wait(20) == 130
    status = Path(f"/proc/{worker[0]}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] in "ZX"  # killed, if not yet reaped


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "code", "words"),
    [
        ("SELECT * FROM stage_sums", 14, "There is no table stage_sums.|Did you mean stage_sum? There are: "),
        ("SELECT wall_mean FROM stage_sum", 57, "wall_mean_ns"),
        ("SELEC 1", 57, 'syntax error at or near "SELEC"'),
        ("SELECT 1; SELECT 2", 57, "These are 2 statements."),
        ("COPY stage_sum TO 'x'", 57, "A statement COPY is not run."),
        ("SELECT * FROM read_csv('x')", 57, "The function read_csv is not to be had here."),
        ("SELECT '\x1b[2J'::INTEGER", 57, r"\x1b[2J"),
    ],
)
def test_errors_are_sentences_with_advice(
    sql: str, code: int, words: str, run: Callable[..., Ended], folder: Path
) -> None:
    ended = run("query", folder, sql)
    assert ended.code == code and ended.out == ""
    assert all(one in ended.err for one in words.split("|"))
    assert len(ended.err.splitlines()) == 2 and "\x1b" not in ended.err


def test_without_duckdb_it_is_said_how_to_get_it(
    analysis: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "duckdb.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(QueryFailed, match=r"pip install 'dsprof\[query\]'"):
        analysis.query("SELECT 1")


def test_a_pivot_without_its_values_is_told_how(analysis: Analysis) -> None:
    with pytest.raises(QueryFailed, match="ON stage IN"):
        analysis.query("PIVOT stage_sum ON stage USING sum(instances)")


def test_an_unknown_table_is_one_error_in_python_as_well(analysis: Analysis) -> None:
    with pytest.raises(UnknownTable, match="Did you mean kern_sum"):
        analysis.query("SELECT * FROM kernsum")


# -- formats -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield hostile(tmp_path_factory.mktemp("hostile")).write(tmp_path_factory.mktemp("out") / "bad.dsprof")


NAMES = "SELECT DISTINCT kernel, '=1+1' AS formula, '|' || kernel AS \"a|b\x1b[2J\" FROM kern_sum ORDER BY ALL"


@pytest.mark.parametrize("form", ["rich", "csv", "json", "markdown"])
def test_hostile_names_are_shown_and_obeyed_nowhere(form: str, bad: Path, run: Callable[..., Ended]) -> None:
    ended = run("query", bad, NAMES, "--format", form)
    assert ended.code == 0
    assert not set("\x1b\u202e\u2028\0") & set(ended.out)
    if form == "json":
        found = {row["kernel"] for row in json.loads(ended.out)["rows"]}
        assert found == set(analysis_in(bad, ["kern_sum"])["kern_sum"].kernel)
    if form == "csv":
        assert all(row[1] == "'=1+1" for row in list(csv.reader(io.StringIO(ended.out)))[1:])
    if form == "markdown":
        assert not re.search(r"(?<!\\)<[a-z]", ended.out)
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in ended.out.splitlines()}) == 1


@pytest.mark.parametrize("suffix", [".csv", ".json", ".md", ".parquet"])
def test_a_file_is_of_the_format_of_its_suffix(
    suffix: str, folder: Path, run: Callable[..., Ended], tmp_path: Path
) -> None:
    target = tmp_path / f"rows{suffix}"
    sql = "SELECT stage, sum(instances) AS instances FROM stage_sum WHERE stage = 'decode' GROUP BY stage"
    ended = run("query", folder, sql, "-o", target)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    read = {
        ".csv": lambda text: list(csv.reader(io.StringIO(text.decode()))),
        ".json": lambda text: [["stage", "instances"], *map(list, map(dict.values, json.loads(text)["rows"]))],
        ".md": lambda text: [row.strip("| ").split(" | ") for row in text.decode().splitlines()[::2]],
        ".parquet": lambda text: [["stage", "instances"], *map(list, map(dict.values, _rows(text)))],
    }[suffix](target.read_bytes())
    assert [[str(cell) for cell in row] for row in read] == [["stage", "instances"], ["decode", "2"]]


def test_a_file_is_replaced_only_if_that_is_asked_for(folder: Path, run: Callable[..., Ended], tmp_path: Path) -> None:
    target = tmp_path / "rows.csv"
    target.write_text("mine")
    assert run("query", folder, "SELECT 1 AS x", "-o", target).code == 30
    assert target.read_text() == "mine"
    assert run("query", folder, "SELECT 1 AS x", "-o", target, "--force").code == 0
    assert target.read_text() == "x\n1\n"


def _rows(content: bytes) -> list[dict[str, Any]]:
    table = pq.read_table(io.BytesIO(content))
    assert [one.type for one in table.schema] == [pa.string(), pa.int64()]
    return table.to_pylist()


def test_a_statement_is_read_from_standard_input(
    folder: Path, run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT 'it''s' AS x"))
    assert run("query", folder, "-", "--format", "csv").out == "x\nit's\n"


def test_numbers_that_are_none_are_null_in_json(folder: Path, run: Callable[..., Ended]) -> None:
    sql = "SELECT 'nan'::DOUBLE AS n, 'inf'::DOUBLE AS i, NULL::INTEGER AS x, 9007199254740993 AS wall_ns"
    document = json.loads(run("query", folder, sql, "--format", "json").out)
    assert document["rows"] == [{"n": None, "i": None, "x": None, "wall_ns": 9007199254740993}]
    assert [one["kind"] for one in document["columns"]] == ["float", "float", "int", "int"]
    assert document["columns"][3]["unit"] == "ns"
