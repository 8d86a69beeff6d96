"""The server for agents: a real client's session over a process, what it may read, what it says and how much."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import dsprof
from dsprof.cli import main
from dsprof.errors import ServingRefused
from dsprof.show import plain
from dsprof.show.safe import visible
from dsprof.tables import all_tables
from test_many import made as made_rank
from test_page import hostile
from test_schemas import wrong

pytest.importorskip("mcp.server.mcpserver", reason="the package mcp is not installed: pip install 'dsprof[mcp]'")
pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install 'dsprof[query]'")

from anyio.from_thread import start_blocking_portal
from mcp import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client

from dsprof.agents.answers import MOST
from dsprof.agents.roots import Roots

SAMPLES = Path(__file__).parent.parent / "traces/samples"
SAMPLE = "h200-graphs-node.sqlite.xz"


class Said(NamedTuple):
    """What a tool said: whether it refused, the text, and the structure."""

    refused: bool
    text: str
    found: Any


class Client:
    """A session with a server in a process of its own, from a thread of its own."""

    def __init__(self, portal: Any, session: ClientSession) -> None:
        self.portal, self.session = portal, session

    def call(self, tool: str, **arguments: Any) -> Said:
        result = self.portal.call(lambda: self.session.call_tool(tool, arguments))
        (content,) = result.content
        return Said(result.is_error, content.text, result.structured_content)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `root`, which a server may read, with links that lead out, and what it may not."""
    place = tmp_path_factory.mktemp("place")
    root, outside = place / "root", place / "outside"
    for folder in (root, outside, root / "ranks"):
        folder.mkdir()
    for name in (SAMPLE, "h100-llama-1-eager.sqlite.xz", "h100-llama-1-pageable-copy.sqlite.xz"):
        shutil.copy(SAMPLES / name, root / name)
    hostile(place)
    shutil.copy(next((place / "h").iterdir()), root / "hostile.sqlite")
    for rank in range(2):
        made_rank(root / "ranks" / f"tp-rank{rank}.sqlite", late=rank * 500_000)
    dsprof.analyze(root / "ranks/tp-rank0.sqlite").write(root / "tables.dsprof")
    _with_links_out(root, outside)
    return place


#: What a report of that name brings with it that lies elsewhere.
BROUGHT = {"session": "session.json", "rules": "dsprof.toml", "model": "run.model.json", "tables": "run.dsprof"}


def _with_links_out(root: Path, outside: Path) -> None:
    made_rank(outside / "secret.sqlite")
    (outside / "folder").mkdir()
    made_rank(outside / "folder/run.sqlite")
    (root / "link.sqlite").symlink_to(outside / "secret.sqlite")
    (root / "linked").symlink_to(outside / "folder")
    dsprof.analyze(outside / "secret.sqlite").write(outside / "run.dsprof")
    for name in ("session.json", "dsprof.toml", "run.model.json"):
        (outside / name).write_text("{}")
    for folder, name in BROUGHT.items():
        (root / folder).mkdir()
        made_rank(root / folder / "run.sqlite")
        (root / folder / name).symlink_to(outside / name)
    shutil.copytree(outside / "run.dsprof", root / "inner.dsprof")
    (root / "inner.dsprof/stage_sum.parquet").unlink()
    (root / "inner.dsprof/stage_sum.parquet").symlink_to(outside / "run.dsprof/stage_sum.parquet")


@pytest.fixture(scope="module")
def cache_of_server(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server") / "cache"


@contextmanager
def served(root: Path, cache: Path) -> Iterator[Client]:
    """A session with a server of its own."""
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "dsprof", "mcp", "--root", str(root)],
        env={**os.environ, "DSPROF_CACHE": str(cache)},
    )
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(stdio_client(server)) as streams,
        portal.wrap_async_context_manager(ClientSession(*streams)) as session,
    ):
        portal.call(session.initialize)
        yield Client(portal, session)


@pytest.fixture(scope="module")
def client(place: Path, cache_of_server: Path) -> Iterator[Client]:
    before = _tree(place)
    with served(place / "root", cache_of_server) as client:
        yield client
        assert _tree(place) == before, "it wrote beside the reports"
        assert {one.name.partition("-")[0] for one in cache_of_server.iterdir()} >= {".serving"}
    assert [one.name for one in cache_of_server.iterdir() if one.name.startswith(".")] == []


def _tree(folder: Path) -> dict[str, tuple[int, int]]:
    """All files below a folder, with what changes when they are written."""
    files = [one for one in sorted(folder.rglob("*")) if one.is_symlink() or not one.is_dir()]
    return {str(one): (one.lstat().st_size, one.lstat().st_mtime_ns) for one in files}


# -- what it says ------------------------------------------------------------------------------------------------------


def test_the_tools_say_what_they_are_for(client: Client) -> None:
    tools = {tool.name: tool for tool in client.portal.call(client.session.list_tools).tools}
    assert list(tools) == ["analyze", "table", "query", "diff", "whatif"]
    for tool in tools.values():
        assert len(tool.description or "") > 100
        assert set((tool.output_schema or {})["required"]) == {"document", "findings", "limits"}
        assert tool.annotations is not None and tool.annotations.read_only_hint
        assert all(one.get("description") for one in tool.input_schema["properties"].values())
    assert all(f"{name}: a row is" in (tools["table"].description or "") for name in all_tables())


def test_analyze_says_what_the_command_line_says(client: Client) -> None:
    said = client.call("analyze", reports=[SAMPLE], top=2)
    analysis = dsprof.analyze(SAMPLES / SAMPLE)
    assert said.found["document"] == json.loads("".join(plain.summary_json(analysis.summary(2))))
    assert wrong("summary", said.found["document"]) == [] and said.found["limits"] == []
    assert [one["code"] for one in said.found["findings"]] == [one.code for one in analysis.findings]
    assert json.loads(said.text) == said.found


def test_findings_come_with_every_answer(client: Client) -> None:
    expected = [one.code for one in dsprof.analyze(SAMPLES / "h100-llama-1-eager.sqlite.xz").findings]
    report = "h100-llama-1-eager.sqlite.xz"
    for tool, more in (("table", {"name": "kern_sum"}), ("query", {"sql": "SELECT 1 AS x"})):
        assert [one["code"] for one in client.call(tool, reports=[report], **more).found["findings"]] == expected
    assert [one["code"] for one in client.call("whatif", report=report).found["findings"]] == expected


def test_a_table_gives_rows_and_says_how_many_there_are(client: Client) -> None:
    said = client.call(
        "table", reports=[SAMPLE], name="kern_trace", columns=["stage", "duration_ns"], where="stage == 'decode'",
        sort=["-duration_ns"], limit=3,
    )  # fmt: skip
    document, (limit,) = said.found["document"], said.found["limits"]
    frame = dsprof.analyze(SAMPLES / SAMPLE)["kern_trace"].query("stage == 'decode'")
    assert [row["duration_ns"] for row in document["rows"]] == frame.duration_ns.nlargest(3).tolist()
    assert (limit["what"], limit["shown"], limit["of"]) == ("rows", 3, len(frame)) and limit["advice"]
    assert wrong("table", document) == []
    assert {one["name"]: one.get("unit") for one in document["columns"]} == {"stage": None, "duration_ns": "ns"}


def test_a_query_is_answered_and_says_where_it_was_cut(client: Client) -> None:
    said = client.call(
        "query", reports=[SAMPLE], sql="SELECT name, count(*) AS n FROM range_trace GROUP BY ALL", limit=2
    )
    assert len(said.found["document"]["rows"]) == 2 and said.found["document"]["cut"]
    assert [(one["what"], one["shown"], one["of"]) for one in said.found["limits"]] == [("rows", 2, None)]
    assert wrong("query", said.found["document"]) == []


def test_several_reports_are_one_analysis(client: Client) -> None:
    found = client.call("analyze", reports=["ranks/tp-rank*"]).found
    assert [one["rank"] for one in found["document"]["reports"]] == [0, 1]
    assert wrong("reports", found["document"]) == []
    sql = "SELECT rank, count(*) AS n FROM stage_trace GROUP BY rank ORDER BY rank"
    assert client.call("query", reports=["ranks"], sql=sql).found["document"]["rows"] == [
        {"rank": 0, "n": 4}, {"rank": 1, "n": 4},
    ]  # fmt: skip
    assert client.call("table", reports=["ranks"], name="reports").found["document"]["rows"][0]["rank"] == 0


def test_a_folder_of_tables_needs_no_report(client: Client) -> None:
    found = client.call("query", reports=["tables.dsprof"], sql="SELECT stage FROM stage_sum ORDER BY stage").found
    assert found["document"]["rows"][-1] == {"stage": "prefill"}
    assert "as they were made" in client.call("analyze", reports=["tables.dsprof"], window="1s..").text


def test_diff_and_whatif_answer(client: Client) -> None:
    sides = {"before": ["h100-llama-1-eager.sqlite.xz"], "after": ["h100-llama-1-pageable-copy.sqlite.xz"]}
    found = client.call("diff", **sides, gates=["decode.gpu_busy<1%"]).found
    assert wrong("diff", found["document"]) == [] and found["document"]["gates"]
    assert [one["message"] for one in found["findings"]] == [one["sentence"] for one in found["document"]["reasons"]]
    found = client.call("whatif", report=SAMPLE, stage="decode", host=0.5, families={"gemm": 0.5}).found
    assert wrong("whatif", found["document"]) == []
    assert found["document"]["changes"] == ["--host 0.5x", "--family gemm=0.5x"]


def test_stages_and_a_window_are_options(client: Client) -> None:
    found = client.call("analyze", reports=["hostile.sqlite"], stages={"mine": "^prefill$"}, window="..5ms").found
    assert {one["stage"] for one in found["document"]["stages"]} >= {"mine"}
    assert found["document"]["report"]["selection"]["end_ns"] == 5_000_000


def test_a_report_that_changed_is_read_again(client: Client, place: Path) -> None:
    report = place / "root/ranks/tp-rank1.sqlite"
    kept, status = report.read_bytes(), report.stat()
    sql = "SELECT count(*) AS n FROM stage_trace"
    try:
        assert client.call("query", reports=[str(report)], sql=sql).found["document"]["rows"] == [{"n": 4}]
        report.unlink()
        made_rank(report, requests=2)
        assert client.call("query", reports=[str(report)], sql=sql).found["document"]["rows"] == [{"n": 2}]
    finally:
        report.write_bytes(kept)
        os.utime(report, ns=(status.st_atime_ns, status.st_mtime_ns))


# -- how much ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("analyze", {"reports": ["hostile.sqlite"], "top": 50}),
        ("table", {"reports": [SAMPLE], "name": "kern_trace", "limit": 1000}),
        ("table", {"reports": ["hostile.sqlite"], "name": "kern_trace", "limit": 1000}),
        ("query", {"reports": [SAMPLE], "sql": "SELECT repeat('y', 100000) AS x FROM range(100)", "limit": 100}),
        ("query", {"reports": [SAMPLE], "sql": "FROM kern_trace", "limit": 1000}),
    ],
)
def test_an_answer_is_never_long_and_says_what_is_missing(tool: str, arguments: Any, client: Client) -> None:
    said = client.call(tool, **arguments)
    assert len(said.text) <= MOST and said.found["limits"]
    assert all(one["of"] is None or one["shown"] < one["of"] for one in said.found["limits"])
    assert all(one["advice"] for one in said.found["limits"])
    name = {"analyze": "summary"}.get(tool, tool)
    assert wrong(name, said.found["document"]) == []


def test_names_hide_nothing_from_an_agent(client: Client) -> None:
    for tool, more in (("analyze", {}), ("table", {"name": "range_sum"}), ("query", {"sql": "FROM range_sum"}),
                       ("query", {"sql": "SELECT 1 AS \"a\u202e\x1b[2J\""})):  # fmt: skip
        said = client.call(tool, reports=["hostile.sqlite"], **more)
        assert not said.refused and visible(said.text) == said.text
    said = client.call("table", reports=["hostile.sqlite"], name="kern_sum", columns=["kernel"])
    assert any("\\u202e" in row["kernel"] for row in said.found["document"]["rows"])


def test_the_session_goes_on_while_something_takes_long(client: Client) -> None:
    sql = "SELECT count(*) FROM range(1000000000000) a, range(9) b WHERE a.range = b.range"
    slow = client.portal.start_task_soon(
        lambda: client.session.call_tool("query", {"reports": [SAMPLE], "sql": sql, "seconds": 3})
    )
    time.sleep(0.5)
    begun = time.monotonic()
    client.portal.call(client.session.list_tools)
    assert time.monotonic() - begun < 1.5 and not slow.done()
    assert "more than 3 s" in slow.result(30).content[0].text


def test_progress_is_told(client: Client) -> None:
    told = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(message)

    client.portal.call(
        lambda: client.session.call_tool("analyze", {"reports": ["ranks"], "window": "..150ms"}, None, progress)
    )
    assert "2 of 2 reports" in told


# -- what it may not ---------------------------------------------------------------------------------------------------

OUTSIDE = [
    "/etc/passwd", "/etc/no-such-file", "../outside/secret.sqlite", "ranks/../../outside/secret.sqlite", "..",
    "{place}/outside/secret.sqlite", "{place}/outside", "{place}/root/../outside", "{place}/rootless", "link.sqlite",
    "linked", "linked/run.sqlite", "../outside/*", "{place}/outside/*", "/etc/*", "link*",
    "*/../../outside/secret.sqlite",
    "a\0b", "x/" * 5_000, "/proc/self/environ", "/proc/self/root/etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=lambda name: visible(name[:40]))
def test_nothing_outside_is_read(name: str, client: Client, place: Path) -> None:
    said = client.call("analyze", reports=[name.format(place=place)])
    assert said.refused
    assert "does not lie below the folders that may be read.\nThis server reads below: " in said.text
    assert said.text.endswith(f"{place}/root.")


@pytest.mark.parametrize("folder", [*BROUGHT, "inner.dsprof"])
def test_what_a_report_brings_with_it_does_not_lead_out(folder: str, client: Client) -> None:
    said = client.call("analyze", reports=[folder])
    assert said.refused and "does not lie below" in said.text


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("table", {"reports": ["{}"], "name": "kern_sum"}),
        ("query", {"reports": ["{}"], "sql": "SELECT 1"}),
        ("query", {"reports": [SAMPLE, "{}"], "sql": "SELECT 1"}),
        ("diff", {"before": ["{}"], "after": [SAMPLE]}),
        ("diff", {"before": [SAMPLE], "after": ["{}"]}),
        ("whatif", {"report": "{}"}),
    ],
)
@pytest.mark.parametrize("name", ["../outside/secret.sqlite", "link.sqlite", "tables"])
def test_no_tool_reads_it(tool: str, arguments: Any, name: str, client: Client) -> None:
    filled = json.loads(json.dumps(arguments).replace("{}", name))
    said = client.call(tool, **filled)
    assert said.refused and "does not lie below" in said.text


@pytest.mark.parametrize(
    "sql",
    ["SELECT * FROM read_csv('/etc/passwd')", "FROM '{place}/outside/secret.csv'",
     "COPY stage_sum TO '{place}/root/x.csv'",
     "ATTACH '{place}/outside/x' AS x", "SELECT * FROM glob('/*')"],
)  # fmt: skip
def test_sql_is_no_way_out(sql: str, client: Client, place: Path) -> None:
    said = client.call("query", reports=[SAMPLE], sql=sql.format(place=place))
    assert said.refused and not (place / "root/x.csv").exists()


@pytest.mark.parametrize(
    ("words", "tool", "arguments"),
    [
        (["table", SAMPLE, "kernsum"], "table", {"reports": [SAMPLE], "name": "kernsum"}),
        (["analyze", "nothing.sqlite"], "analyze", {"reports": ["nothing.sqlite"]}),
        (["query", SAMPLE, "SELECT x FROM mem_sum"], "query", {"reports": [SAMPLE], "sql": "SELECT x FROM mem_sum"}),
        (["table", SAMPLE, "kern_sum", "--columns", "x"], "table",
         {"reports": [SAMPLE], "name": "kern_sum", "columns": ["x"]}),
    ],
)  # fmt: skip
def test_errors_are_those_of_the_command_line(
    words: list[str], tool: str, arguments: Any, client: Client, place: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(place / "root")
    monkeypatch.setattr(sys, "argv", ["dsprof", *words])
    with pytest.raises(SystemExit):
        main()
    lines = [line.removeprefix("dsprof: ").strip() for line in capsys.readouterr().err.splitlines()]
    said = client.call(tool, **arguments)
    assert said.refused
    assert said.text.replace(f"{place}/root/", "").splitlines() == lines


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("whatif", {"report": SAMPLE, "host": -1}, "factor"),
        ("whatif", {"report": "ranks"}, "name one"),
        ("analyze", {"reports": [SAMPLE], "window": "yesterday"}, "yesterday"),
        ("analyze", {"reports": [SAMPLE], "stages": {"x": "("}}, "no regular expression"),
        ("diff", {"before": [SAMPLE], "after": [SAMPLE], "gates": ["faster"]}, "is no gate"),
        ("analyze", {"reports": []}, "No report is named"),
        ("table", {"reports": [SAMPLE], "name": "kern_sum", "limit": 0}, "limit"),
    ],
)
def test_wrong_arguments_are_sentences(tool: str, arguments: Any, words: str, client: Client) -> None:
    said = client.call(tool, **arguments)
    assert said.refused and words in said.text and "Traceback" not in said.text


@pytest.mark.nsys
def test_a_report_is_exported_to_the_cache_while_the_session_goes_on(
    recorded: Path, own_cache: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(recorded, root / "run.nsys-rep")
    with served(root, own_cache) as client:
        said = client.call("analyze", reports=["."])
        assert not said.refused and said.found["document"]["counts"]["ranges"] > 0
        assert not client.call("query", reports=["run.nsys-rep"], sql="SELECT 1 AS x").refused
    assert [one.name for one in root.iterdir()] == ["run.nsys-rep"]
    assert [one.suffix for one in own_cache.iterdir()] == [".sqlite"]


# -- its start ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def call(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["dsprof", "mcp", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return call


def test_it_wants_folders(run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, said = run()
    assert code == 2 and "--root" in said
    code, said = run("--root", tmp_path / "none")
    assert code == 58 and "is no folder" in said
    with pytest.raises(ServingRefused):
        Roots.of([])


def test_a_root_may_be_a_link_and_there_may_be_several(tmp_path: Path) -> None:
    for name in ("a", "b", "ab"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "b")
    roots = Roots.of([tmp_path / "a", tmp_path / "link"])
    assert roots.inside("x") == tmp_path / "a/x"
    assert roots.inside(str(tmp_path / "b/x")) == roots.inside(str(tmp_path / "link/x")) == tmp_path / "b/x"
    with pytest.raises(ServingRefused):
        roots.inside(str(tmp_path / "ab/x"))


def test_what_lies_beside_a_folder_of_tables_counts_as_its_own(tmp_path: Path) -> None:
    dsprof.analyze(made_rank(tmp_path / "run.sqlite")).write(tmp_path / "run.dsprof")
    roots = Roots.of([tmp_path / "run.dsprof"])
    assert roots.tables(["."]) == tmp_path / "run.dsprof"
    (tmp_path / "session.json").write_text("{}")
    with pytest.raises(ServingRefused, match=r"session\.json does not lie below"):
        roots.sides(["."])
    assert Roots.of([tmp_path]).sides(["run.dsprof"]) == [str(tmp_path / "run.dsprof")]


def test_without_its_library_it_is_said_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ImportError('not here')")
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    ended = subprocess.run(
        [sys.executable, "-m", "dsprof", "mcp", "--root", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert ended.returncode == 58 and "pip install 'dsprof[mcp]'" in ended.stderr and ended.stdout == ""
