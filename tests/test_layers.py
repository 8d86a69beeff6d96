"""Kernel time by module: eager by the launch, of CUDA graphs by the capture of their nodes, and nothing ever lost.

Reports are made, but for one, which is recorded: there the ranges of modules are planted around the times of its nodes.
"""

from __future__ import annotations

import lzma
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.analysis.results import Fresh
from dsprof.arrays import containers, content_ends
from dsprof.cli import app
from dsprof.nsys import reader
from dsprof.nsys.parts import ReportInParts, size_of
from dsprof.nsys.reader import read
from dsprof.rules.modules import folded, module_of
from dsprof.rules.rules import Rules
from dsprof.show.layout import grids
from dsprof.show.terminal import print_summary
from test_parts import assert_same
from test_properties import few, some
from trace_builder import GRAPH_NODES, VERSIONS, TraceBuilder

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
#: A node of the graph that is captured, and the same of the graph that is made of it; CUPTI numbers them so.
CAPTURED, MADE = 1 << 32, 2 << 32
#: What the hooks of vLLM, SGLang and TensorRT-LLM write.
HOOK = "{'Module': '%s', 'TrainableParams': {'weight': [8, 8]}, 'Inputs': [[1, 17, 8]], 'StaticParams': {'eps': 1e-06}}"
COLUMNS = ("calls", "kernels", "graph_kernels", "total_ns", "exclusive_kernels", "exclusive_total_ns")


def layers(analysis: Analysis) -> dict[tuple[str, str], tuple[int, ...]]:
    """The numbers of `layer_sum` by stage and module."""
    rows = analysis.arrow("layer_sum").to_pylist()
    return {(row["stage"], row["module"]): tuple(row[name] or 0 for name in COLUMNS) for row in rows}


def conserved(analysis: Analysis) -> bool:
    """Do the exclusive times of each stage add up to its kernel time, and its kernels?"""
    sums: list[Counter] = []
    for table, columns in (("layer_sum", ("exclusive_kernels", "exclusive_total_ns")),
                           ("stage_kern_sum", ("instances", "total_ns"))):  # fmt: skip
        sums.append(Counter())
        for row in analysis.arrow(table).to_pylist():
            sums[-1].update({(row["stage"], place): row[column] for place, column in enumerate(columns)})
    return +sums[0] == +sums[1]


# -- names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("module:model.layers.0", "model.layers.0"),
        ("module:", "(root)"),
        ("forward", None),
        ("my module:x", None),
        (HOOK % "top.layers.0.mlp", "top.layers.0.mlp"),
        ("{'Module': 'lm_head'}", "lm_head"),
        ("{'Module': \"it's\", 'Inputs': []}", "it's"),
        (repr({"Module": 'it\'s "odd" \\ \n', "Inputs": []}), 'it\'s "odd" \\ \n'),
        ('{"Module": "json", "Inputs": []}', "json"),
        ("{'Module': ''}", "(root)"),
        ("{'Module': 'never ends", None),
        ("{'Module': 'never ends\\'", None),
        ("{'Module': 7}", None),
        ("{'Module':", None),
        ("{'Inputs': [], 'Module': 'second'}", None),
        ("{'Module': '\\N{no such name}'}", "\\N{no such name}"),
        ("{'Module': '\\ud800'}", "?"),
    ],
)
def test_which_module_a_range_is_of(name: str, module: str | None) -> None:
    assert module_of(name) == module


@pytest.mark.parametrize("inside", ["x", "\\'", "\\", "'", '"', "{'Module': '", "0.", ", 'Inputs': [["])
def test_a_name_of_a_megabyte_takes_no_time(inside: str) -> None:
    """What goes over a part of the name again for each other part would take hours."""
    long = inside * ((1 << 20) // len(inside))
    for name in (f"module:{long}", f"{{'Module': '{long}", f"{{'Module': '{long}'}}", f'{{"Module": "{long}"}}'):
        found = module_of(name)
        assert found is None or len(folded(found)) <= len(name)


@pytest.mark.parametrize(
    ("module", "common"),
    [
        ("model.layers.12.mlp", "model.layers.*.mlp"),
        ("0.1.23", "*.*.*"),
        ("experts[7].w1", "experts[*].w1"),
        ("conv2d.bn1", "conv2d.bn1"),
        ("layers.0_proj.1x", "layers.0_proj.1x"),
        ("lm_head", "lm_head"),
    ],
)
def test_indexes_are_folded(module: str, common: str) -> None:
    assert folded(module) == common


# -- ranges in ranges --------------------------------------------------------------------------------------------

spans = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12), st.integers(0, 12)), max_size=14)


@few
@given(spans)
def test_what_a_range_holds_stands_behind_it(drawn: list[tuple[int, int, int]]) -> None:
    """Up to where `content_ends` says, and nowhere else, stand those that are inside, by the containers of each."""
    ordered = sorted((scope, start, -(start + length)) for scope, start, length in drawn)
    scope, start, negative = (np.array(column, np.int64) for column in zip(*ordered, strict=True)) if drawn else (
        np.zeros(0, np.int64) for _ in range(3)
    )  # fmt: skip
    parent = containers(scope, start, -negative).tolist()
    inside = [{row} for row in range(len(parent))]
    for row, above in enumerate(parent):
        while above >= 0:
            inside[above].add(row)
            above = parent[above]
    assert [set(range(row, end)) for row, end in enumerate(content_ends(scope, -negative).tolist())] == inside


# -- eager -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["module:%s", HOOK], ids=["dsprof", "hooks"])
@pytest.mark.parametrize("version", VERSIONS)
def test_modules_have_what_was_launched_in_them(text: str, version: str, tmp_path: Path) -> None:
    """
    ::

        decode       |----------------------------------------|
        layers.0       |------------------|
          attn           |----|                                  layers.1 has no kernel of its own
        layers.1                             |-----------|
          attn                                 |----|
        launches   x   x   x   x        x         x         x
    """
    report = TraceBuilder(version).range("decode", 10, 200)
    for name, start, end in (
        ("layers.0", 20, 80), ("layers.0.attn", 30, 50), ("layers.1", 100, 150), ("layers.1.attn", 110, 130)
    ):  # fmt: skip
        report.range(text % name, start, end, registered=False)
    for at, lasts in ((5, 1), (22, 2), (30, 4), (45, 8), (60, 16), (112, 32), (160, 64)):
        report.kernel("gemm", at=(1000 * at, 1000 * at + lasts), call=(at, at + 3))
    analysis = dsprof.analyze(report.write(tmp_path / "made.sqlite"))
    assert layers(analysis) == {
        ("decode", "layers.1"): (1, 1, 0, 32, 0, 0),
        ("decode", "layers.1.attn"): (1, 1, 0, 32, 1, 32),
        ("decode", "layers.0"): (1, 4, 0, 30, 2, 18),
        ("decode", "layers.0.attn"): (1, 2, 0, 12, 2, 12),
        ("decode", "(no module)"): (0, 1, 0, 64, 1, 64),
        ("(no stage)", "(no module)"): (0, 1, 0, 1, 1, 1),
    }
    table = analysis["layer_sum"].set_index("module")
    assert table.loc["layers.0.attn", ["folded", "parent", "depth"]].tolist() == ["layers.*.attn", "layers.0", 1]
    assert table["parent"].isna().sum() == 4
    assert table.loc["layers.0", "share_pct"] == pytest.approx(100 * 30 / 126)
    assert table.loc["layers.0", "exclusive_pct"] == pytest.approx(100 * 18 / 126)
    assert list(layers(analysis)) == sorted(
        layers(analysis), key=lambda key: (key[0] != "decode", key[1] == "(no module)", -layers(analysis)[key][3], key)
    )


def test_a_module_in_itself_counts_once(tmp_path: Path) -> None:
    """As a shared one that calls itself; and a module of another name in between."""
    report = TraceBuilder().range("module:a", 0, 100).range("module:b", 10, 90).range("module:a", 20, 80)
    report.kernel(at=(1000, 1001), call=(5, 6)).kernel(at=(2000, 2010), call=(15, 16))
    report.kernel(at=(3000, 3100), call=(25, 26))
    assert layers(dsprof.analyze(report.write(tmp_path / "made.sqlite"))) == {
        ("(no stage)", "a"): (2, 3, 0, 111, 2, 101),
        ("(no stage)", "b"): (1, 2, 0, 110, 1, 10),
    }


def test_other_threads_launch_in_no_module_unless_it_is_asked_for(tmp_path: Path) -> None:
    report = TraceBuilder().range("prefill", 0, 100).range("module:a", 0, 100)
    path = report.kernel(at=(1000, 1001), call=(5, 6), tid=7).write(tmp_path / "made.sqlite")
    by_thread, by_process = (dsprof.analyze(path, threads=threads, reuse=False) for threads in ("thread", "process"))
    assert layers(by_thread)["(no stage)", "(no module)"][1] == 1
    assert layers(by_process)["prefill", "a"][1] == 1


def test_a_range_that_another_thread_ended_is_of_the_process(tmp_path: Path) -> None:
    report = TraceBuilder().range("module:a", 0, 100, kind=60, end_tid=7)
    report.kernel(at=(1000, 1001), call=(5, 6), tid=8).range("module:a.0", 10, 50, kind=60, end_tid=7)
    path = report.kernel(at=(2000, 2010), call=(15, 16), tid=9).write(tmp_path / "made.sqlite")
    assert layers(dsprof.analyze(path)) == {
        ("(no stage)", "a"): (1, 2, 0, 11, 1, 1), ("(no stage)", "a.0"): (1, 1, 0, 10, 1, 10),
    }  # fmt: skip


# -- through CUDA graphs ---------------------------------------------------------------------------------------


def graph(report: TraceBuilder, *, copies: bool = True, pid: int = 100) -> TraceBuilder:
    """A capture of three nodes, the first two of which are of modules, and two replays of it in a decode.

    ::

        capture   |layers.0 x     |   |layers.0.mlp x |   x     instantiate   decode |replay   replay|
    """
    nodes = [(0, 20), (1, 40), (2, 60)]
    report.range("module:layers.0", 10, 50, pid=pid).range("module:layers.0.mlp", 30, 50, pid=pid)
    for number, at in nodes:
        report.node(CAPTURED + number, at=at, pid=pid)
    if copies:
        for number, _ in nodes:
            report.node(MADE + number, at=80 + number, pid=pid)
            report.node(MADE + number, at=80 + number, original=CAPTURED + number, pid=pid)
    report.range("decode", 100, 200, pid=pid)
    for replay, start in ((1, 110), (2, 150)):
        report.api("cudaGraphLaunch_v10000", call=(start, start + 5), correlation=replay, pid=pid)
        for number, _ in nodes:
            at = start * 100 + 10 * number
            node = (MADE if copies else CAPTURED) + number
            report.kernel(f"k{number}", at=(at, at + 1 + number), correlation=replay, node=node, pid=pid)
    return report


#: What such a report says: the time of each module in both replays, in the stage in which they were.
REPLAYED = {
    ("decode", "layers.0"): (0, 4, 4, 6, 2, 2),
    ("decode", "layers.0.mlp"): (0, 2, 2, 4, 2, 4),
    ("decode", "(no module)"): (0, 2, 0, 6, 2, 6),
    ("(no stage)", "layers.0"): (1, 0, 0, 0, 0, 0),
    ("(no stage)", "layers.0.mlp"): (1, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("version", VERSIONS)
def test_kernels_of_a_graph_are_of_the_module_in_which_they_were_captured(
    version: str, copies: bool, tmp_path: Path
) -> None:
    """In each version's tables; the stage is that of the replay."""
    analysis = dsprof.analyze(graph(TraceBuilder(version), copies=copies).write(tmp_path / "made.sqlite"))
    assert layers(analysis) == REPLAYED
    assert [one.code for one in analysis.findings if one.code == "unborn-nodes"] == []


def test_nodes_are_told_by_process(tmp_path: Path) -> None:
    """Another process has the same ids, and no module around them."""
    report = graph(TraceBuilder())
    report.range("module:other", 0, 5, pid=200).range("decode", 6, 300, pid=200)
    for number in (0, 1, 2):
        report.node(CAPTURED + number, at=50, pid=200).node(MADE + number, at=60, original=CAPTURED + number, pid=200)
    report.api("cudaGraphLaunch_v10000", call=(70, 75), correlation=1, pid=200)
    report.kernel(at=(9000, 9100), correlation=1, node=MADE, pid=200)
    found = layers(dsprof.analyze(report.write(tmp_path / "made.sqlite")))
    assert found["decode", "layers.0"] == REPLAYED["decode", "layers.0"]
    assert found["decode", "(no module)"] == (0, 3, 0, 106, 3, 106)


def test_a_graph_launched_in_a_module_is_of_that_one_where_no_capture_says_more(tmp_path: Path) -> None:
    """As pieces of a graph are in vLLM: what is around the launch is true of all its kernels."""
    report = graph(TraceBuilder()).range("module:model", 105, 190)
    assert layers(dsprof.analyze(report.write(tmp_path / "made.sqlite")))["decode", "model"] == (1, 2, 0, 6, 2, 6)


def test_a_capture_before_the_recording_is_told_with_its_remedy(tmp_path: Path) -> None:
    """The rows of the capture are not there, though those of the instantiation may be."""
    for number, statement in enumerate((f"DELETE FROM {GRAPH_NODES} WHERE start < 70", f"DELETE FROM {GRAPH_NODES}",
                                        f"DROP TABLE {GRAPH_NODES}")):  # fmt: skip
        report = graph(TraceBuilder()).sql(statement)
        path = report.write(tmp_path / f"made{number}.sqlite")
        for tables in (None, ["layer_sum"]):  # also where the details of kernels are not asked for
            analysis = dsprof.analyze(path, reuse=False, **({} if tables is None else {"tables": tables}))
            assert layers(analysis)["decode", "(no module)"] == (0, 6, 0, 12, 6, 12)
            (found,) = [one for one in analysis.findings if one.code == "unborn-nodes"]
            assert found.message.startswith("6 kernels of CUDA graphs are in no module of their own")
            assert "--cuda-graph-trace=node:nvtx-precapture" in found.hint
            assert found.strict_exit == 0
    assert "unborn-nodes" in CliRunner().invoke(app, ["analyze", str(path), "--format", "json"]).output


def test_a_graph_traced_as_a_whole_is_in_the_module_of_its_launch(tmp_path: Path) -> None:
    report = TraceBuilder().range("module:model", 0, 50).graph(call=(10, 20), at=(1000, 1500))
    analysis = dsprof.analyze(report.write(tmp_path / "made.sqlite"))
    assert layers(analysis) == {("(no stage)", "model"): (1, 1, 0, 500, 1, 500)}
    assert "unborn-nodes" not in {one.code for one in analysis.findings}


def _circle(report: TraceBuilder) -> None:
    for number in (0, 1, 2):
        report.node(CAPTURED + number, at=5, original=CAPTURED + (number + 1) % 3)


def _itself(report: TraceBuilder) -> None:
    for number in (0, 1, 2):
        report.node(MADE + number, at=4, original=MADE + number).node(CAPTURED + number, at=999, original=0)


def _again(report: TraceBuilder) -> None:
    for number in (0, 1, 2):
        report.node(CAPTURED + number, at=900 + number).node(MADE + number, at=950, original=CAPTURED + 2)


def _nothing(report: TraceBuilder) -> None:
    report.sql(f"CREATE TABLE loose AS SELECT * FROM {GRAPH_NODES}").sql(f"DROP TABLE {GRAPH_NODES}")
    report.sql(f"ALTER TABLE loose RENAME TO {GRAPH_NODES}")
    for column, value in (("start", 5), ("graphNodeId", MADE), ("globalTid", 1 << 48), ("originalGraphNodeId", MADE)):
        report.sql(f"INSERT INTO {GRAPH_NODES} ({column}) VALUES ({value})")
    report.sql(f"INSERT INTO {GRAPH_NODES} (start, globalTid, originalGraphNodeId) VALUES (1, 2, 3)")


def _column(name: str) -> Callable[[TraceBuilder], None]:
    def left_out(report: TraceBuilder) -> None:
        report.sql(f"ALTER TABLE {GRAPH_NODES} RENAME COLUMN {name} TO gone")

    return left_out


#: What is done to the report of `graph`, and how many of its six kernels then have no birth.
HOSTILE = {
    "a circle of originals": (_circle, 6),
    "originals of themselves": (_itself, 0),
    "nodes told again": (_again, 0),
    "rows of nothing": (_nothing, 0),
    "no column of originals": (_column("originalGraphNodeId"), 0),
    "no column of nodes": (_column("graphNodeId"), 6),
    "no column of threads": (_column("globalTid"), 6),
    "no column of times": (_column("start"), 6),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_odd_tables_of_nodes_lose_no_kernel(what: str, tmp_path: Path) -> None:
    change, unborn = HOSTILE[what]
    report = graph(TraceBuilder())
    change(report)
    path = report.write(tmp_path / "made.sqlite")
    analysis = dsprof.analyze(path)
    assert conserved(analysis)
    found = [one for one in analysis.findings if one.code == "unborn-nodes"]
    assert [one.message.split()[0] for one in found] == ([str(unborn)] if unborn else [])
    if not unborn and what != "no column of originals":
        assert layers(analysis) == REPLAYED
    assert_same(Analysis.of(read(path), None, path), Analysis.of(ReportInParts(path, 3), None, path))


def test_a_long_chain_of_graphs_is_followed(tmp_path: Path) -> None:
    """Graphs of graphs, a thousand deep: the birth is at the far end."""
    report = TraceBuilder().range("module:far", 0, 10).node(1, at=5)
    for number in range(2, 1002):
        report.node(number, at=20).node(number, at=20, original=number - 1)
    report.api("cudaGraphLaunch_v10000", call=(30, 31), correlation=1).kernel(at=(50, 57), correlation=1, node=1001)
    assert layers(dsprof.analyze(report.write(tmp_path / "made.sqlite")))["(no stage)", "far"] == (1, 1, 1, 7, 1, 7)


def test_modules_nested_without_end_are_no_trouble(tmp_path: Path) -> None:
    """Ranges that are pushed and never popped, each of a name of its own."""
    report = TraceBuilder(duration=100_000)
    for depth in range(5000):
        report.range(f"module:m.{depth}", depth, None)
    report.kernel(at=(90_000, 90_007), call=(6000, 6001))
    table = dsprof.analyze(report.write(tmp_path / "made.sqlite"))["layer_sum"]
    assert table["kernels"].tolist() == [1] * 5000
    assert (table["exclusive_kernels"].sum(), table["depth"].max()) == (1, 4999)


def test_without_modules_or_graphs_nothing_is_read_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    original = reader.graph_nodes_of
    monkeypatch.setattr(reader, "graph_nodes_of", lambda export: asked.append("nodes") or original(export))
    plain = graph(TraceBuilder()).sql("UPDATE StringIds SET value = 'mine' WHERE value LIKE 'module:%'")
    analysis = dsprof.analyze(plain.write(tmp_path / "plain.sqlite"))
    assert asked == []
    assert layers(analysis) == {("decode", "(no module)"): (0, 6, 0, 12, 6, 12)}
    assert analysis.summary().layers == ()
    assert size_of(tmp_path / "plain.sqlite").nodes == 9
    analysis = dsprof.analyze(graph(TraceBuilder()).write(tmp_path / "modules.sqlite"))
    assert (asked, layers(analysis)) == (["nodes"], REPLAYED)


# -- a recorded table of nodes -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replays of `dsprof.workloads.graphs` on an H200, with ranges of modules planted around its captured nodes.

    A block of four layers was captured: of each layer a product, an attention, a sum and a GELU.
    """
    path = tmp_path_factory.mktemp("planted") / "planted.sqlite"
    path.write_bytes(lzma.decompress((SAMPLES / "h200-graphs-node.sqlite.xz").read_bytes()))
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        born = database.execute(f"SELECT start, globalTid FROM {GRAPH_NODES} WHERE graphNodeId < ? ORDER BY start",
                                (MADE,)).fetchall()  # fmt: skip
        nodes = [at for at, _ in born][:16]
        for layer in range(4):
            mine = nodes[4 * layer : 4 * layer + 4]
            for name, start, end in ((f"module:layers.{layer}", mine[0] - 2, mine[-1] + 2),
                                     (f"module:layers.{layer}.attn", mine[1] - 1, mine[1] + 1)):  # fmt: skip
                database.execute("INSERT INTO NVTX_EVENTS (start, end, eventType, text, globalTid) VALUES (?,?,59,?,?)",
                                 (start, end, name, born[0][1]))  # fmt: skip
    return path


def test_a_recorded_graph_gives_its_time_to_the_layers(planted: Path) -> None:
    analysis = dsprof.analyze(planted)
    found = {key: numbers for key, numbers in layers(analysis).items() if key[0] == "decode"}
    assert conserved(analysis)
    for layer in range(4):
        _, kernels, replayed, total, itself, alone = found["decode", f"layers.{layer}"]
        assert (kernels, replayed, itself) == (128, 128, 96)
        assert found["decode", f"layers.{layer}.attn"] == (0, 32, 32, total - alone, 32, total - alone)
    kernels = analysis["kern_trace"]
    of_graph = kernels[(kernels["stage"] == "decode") & kernels["graph_node_id"].notna()]
    assert found["decode", "(no module)"][1] == 528 - 512
    assert sum(found["decode", f"layers.{layer}"][3] for layer in range(4)) == of_graph["duration_ns"].sum()
    attention = of_graph[of_graph["graph_node_id"].isin([MADE + 1, MADE + 5, MADE + 9, MADE + 13])]
    assert sum(found["decode", f"layers.{n}.attn"][3] for n in range(4)) == attention["duration_ns"].sum()


@pytest.mark.parametrize("parts", [2, 7])
def test_a_recorded_graph_is_the_same_in_parts(planted: Path, parts: int) -> None:
    whole = Analysis.of(read(planted), None, planted)
    assert_same(whole, Analysis.of(ReportInParts(planted, parts), None, planted))
    lean = [Analysis.of(source, None, planted).arrow("layer_sum") for source in
            (read(planted, details=False), ReportInParts(planted, parts, details=False))]  # fmt: skip
    assert all(one.to_pylist() == whole.arrow("layer_sum").to_pylist() for one in lean)


# -- on the screen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_the_screen_names_the_modules_that_take_most(planted: Path, width: int) -> None:
    summary = dsprof.analyze(planted).summary()
    (grid,) = [one for one in grids(summary) if one.title == "Layers"]
    assert [row[:2] for row in grid.rows] == [("decode", "layers.*"), ("", "layers.*.attn")]
    assert [(line.module, line.modules, line.kernels) for line in summary.layers if line.stage == "decode"] == [
        ("layers.*", 4, 512), ("layers.*.attn", 4, 128), ("(no module)", 1, 16),
    ]  # fmt: skip
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    print_summary(summary, console)
    text = console.export_text()
    assert "layers.*.attn" in text
    assert max(map(len, text.splitlines())) <= width
    assert width < 100 or len(text.splitlines()) <= 45


def test_modules_of_any_name_are_shown(tmp_path: Path) -> None:
    """Made: control characters, markup, another script, ten thousand letters; more stages than there is room for."""
    report = TraceBuilder()
    names = ["\x1b[31mred\x00", "[bold]x[/bold]", "層.0.注意", "m" * 10_000, "a\nb", "=1+1", "<b>", "  "]
    for number, name in enumerate(names):
        low = 100 * number
        report.range(f"stage{number}", low, low + 90).range(f"module:{name}", low + 1, low + 50)
        report.kernel(at=(low + 10_000, low + 10_050), call=(low + 5, low + 6))
    path = report.write(tmp_path / "made.sqlite")
    stages = {f"s{number}": f"^stage{number}$" for number in range(len(names))}
    analysis = dsprof.analyze(path, stages=stages)
    assert conserved(analysis)
    (grid,) = [one for one in grids(analysis.summary()) if one.title == "Layers"]
    assert len(grid.rows) <= 4
    options = [one for stage, pattern in stages.items() for one in ("--stage", f"{stage}={pattern}")]
    for form in ("rich", "json", "markdown"):
        ended = CliRunner().invoke(app, ["analyze", str(path), *options, "--format", form])
        assert ended.exit_code == 0, ended.output
        assert "\x1b[31m" not in ended.output
    ended = CliRunner().invoke(app, ["table", str(path), "layer_sum", "--format", "csv"])
    assert ended.exit_code == 0


# -- random reports against a slow reference -----------------------------------------------------------------------

NAMES = ("prefill", "decode", "module:a", "module:a.0", "module:a.0.b", HOOK % "a.1", "other")
THREADS = [(100, 1), (100, 1), (100, 2), (200, 1)]
thread = st.sampled_from(THREADS)
ranges = st.lists(
    st.tuples(thread, st.sampled_from(NAMES), st.sampled_from(["", "dsprof"]), st.integers(0, 40), st.integers(0, 40)),
    max_size=12,
)
ids = st.integers(1, 6)
events = st.lists(st.tuples(thread, ids, st.none() | st.integers(0, 7), st.integers(0, 60)), max_size=14)
launched = st.lists(st.tuples(thread, st.integers(0, 80), st.integers(1, 9), st.none() | ids, st.booleans()),
                    max_size=10)  # fmt: skip


def innermost(rows: list[tuple], at: int, of: tuple[int, int]) -> tuple | None:
    """The latest-starting of some ranges around a moment, of two the shorter, then the later row."""
    around = [one for one in rows if one[1] == of and one[2] <= at < one[3]]
    return max(around, key=lambda one: (one[2], -one[3], one[0]), default=None)


def chain(rows: list[tuple], one: tuple | None) -> Iterator[tuple]:
    """A range, and those around it in turn: the nearest before it that ends no earlier."""
    while one is not None:
        yield one
        order = sorted((x for x in rows if x[1] == one[1]), key=lambda x: (x[2], -x[3], x[0]))
        before = order[: order.index(one)]
        one = next((x for x in reversed(before) if x[3] >= one[3]), None)


def birth(nodes: list[tuple], pid: int, node: int) -> tuple | None:
    """The row in which a node was born, followed one by one."""
    seen: set[int] = set()
    while node not in seen:
        seen.add(node)
        mine = sorted((x for x in nodes if x[0][0] == pid and x[1] == node), key=lambda x: x[3])
        copies = [x for x in mine if x[2] not in (None, 0, node)]
        if not copies:
            return mine[0] if mine else None
        node = copies[0][2]
    return None


def slowly(given_ranges: list, nodes: list, kernels: list) -> dict[tuple[str, str], tuple[int, ...]]:
    rows = [(row, of, start, start + lasts, name) for row, (of, name, _, start, lasts) in enumerate(given_ranges)]
    stages = [one for one in rows if one[4] in ("prefill", "decode")]
    modules = [(*one[:4], module_of(one[4])) for one in rows if module_of(one[4])]
    found: dict[tuple[str, str], Counter] = defaultdict(Counter)

    def stage_at(at: int, of: tuple[int, int]) -> str:
        stage = innermost(stages, at, of)
        return stage[4] if stage else "(no stage)"

    for one in modules:
        found[stage_at(one[2], one[1]), one[4]]["calls"] += 1
    for of, call, lasts, node, has_call in kernels:
        stage = stage_at(call, of) if has_call else "(no stage)"
        launch = innermost(modules, call, of) if has_call else None
        born = birth(nodes, of[0], node) if node is not None else None
        captured = innermost(modules, born[3], born[0]) if born and modules else None
        path = list(chain(modules, captured or launch))
        for module in {one[4] for one in path} or {"(no module)"}:
            found[stage, module].update(kernels=1, total_ns=lasts, graph_kernels=int(captured is not None))
        own = path[0][4] if path else "(no module)"
        found[stage, own].update(exclusive_kernels=1, exclusive_total_ns=lasts)
    return {key: tuple(counts[name] for name in COLUMNS) for key, counts in found.items()}


def test_random_reports_are_what_the_reference_says_however_they_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "random.sqlite"
    cutting = st.lists(st.integers(1, 90), min_size=1, max_size=5, unique=True)

    @some
    @given(ranges, events, launched, cutting, st.sampled_from([VERSIONS[0], VERSIONS[-1]]))
    def check(drawn: list, nodes: list, kernels: list, cuts: list[int], version: str) -> None:
        report = TraceBuilder(version, duration=1_000_000).range("other", 0, 1, pid=300)
        for (pid, tid), name, domain, start, lasts in drawn:
            report.range(name, start, start + lasts, domain=domain, pid=pid, tid=tid)
        for (pid, tid), node, original, at in nodes:
            report.node(node, at=at, original=original, pid=pid, tid=tid)
        for number, ((pid, tid), call, lasts, node, has_call) in enumerate(kernels, start=1):
            report.kernel(at=(call + 100, call + 100 + lasts), call=(call, call + 1) if has_call else None, pid=pid,
                          tid=tid, node=node, correlation=number)  # fmt: skip
        whole = Analysis.of(read(report.write(path)), None, path)
        assert layers(whole) == slowly(drawn, nodes, kernels)
        assert conserved(whole)
        partial = ReportInParts(path, 2)
        partial.cuts = sorted(cuts)
        parted = Fresh(partial, Rules(), ["layer_sum"])
        assert parted.arrow("layer_sum").to_pylist() == whole.arrow("layer_sum").to_pylist()
        assert parted.findings == whole.findings

    check()


def test_a_recorded_graph_has_the_modules_of_the_step_that_it_was_captured_from(tmp_path: Path) -> None:
    """Recorded on a GPU: of 32 steps one was launched kernel by kernel; all others replay what a second captured."""
    samples = Path(__file__).resolve().parents[1] / "traces" / "samples"
    analysis = dsprof.analyze(samples / "h100-graph-layers.sqlite.xz", folder=tmp_path / "tables")
    assert "unborn-nodes" not in {found.code for found in analysis.findings}
    assert conserved(analysis)
    rows = analysis["layer_sum"]
    decode = rows[(rows["stage"] == "decode") & rows["depth"].notna()]
    assert {*decode["folded"]} == {"model.layers.*", "model.layers.*.self_attn", "model.layers.*.mlp", "lm_head"}
    assert len(decode) == 4 * 3 + 1
    eager = decode["kernels"] - decode["graph_kernels"]
    assert (eager > 0).all()
    assert (decode["graph_kernels"] == 31 * eager).all()
    assert (decode["calls"] == 2).all()  # the eager step, and the one that was captured
    left = rows[(rows["stage"] == "decode") & (rows["module"] == "(no module)")].iloc[0]
    assert left["exclusive_total_ns"] < 0.35 * rows[rows["stage"] == "decode"]["exclusive_total_ns"].sum()
