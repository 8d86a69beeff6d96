"""The HTML report, read as a file: its numbers are the tables', its names are text, and it stays small."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import lzma
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import pytest

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.errors import NoReportInFolder, OutputExists, OutputRefused
from dsprof.ground.whole import write_whole
from dsprof.nsys.parts import ReportInParts
from dsprof.page import document
from dsprof.page.html import LONGEST, Html, element, joined, short
from dsprof.page.parts import table_of
from dsprof.page.sections import one_step, roofs, steps, where
from dsprof.page.source import TABLES
from dsprof.page.svg import Part, Scale, bar, round_numbers
from dsprof.show.safe import visible
from dsprof.tables import all_tables
from trace_builder import TraceBuilder

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
SHOWN = ("h200-stages", "h100-serve", "h100x2-node", "h200-layers", "h200-graphs-graph")
#: What a page must show as text.
BAD = [
    "</script><script>window.pwned=1</script>",
    '"><img src=x onerror="window.pwned=2">',
    "<svg onload=window.pwned=3>",
    "a\u202egnp.exe\u202c\u0000b\u2028c\u2029d",
    "'-alert(1)-'",
    "]]><!--",
    "</td></table><style>body{display:none}</style>",
    "\x1b[2J",
    "x" * 20_000,
]


def hostile(folder: Path, names: Sequence[str] = BAD) -> Analysis:
    """A made report whose every name is hostile, the file's as well."""
    made = TraceBuilder()
    for request in range(2):
        at = 10_000_000 * request
        made.range("request", at, at + 9_000_000, payload=request, domain="dsprof")
        made.range("prefill", at + 1, at + 1_000_000, payload=9, domain="dsprof")
        made.range("decode", at + 1_000_001, at + 9_000_000, payload=4, domain="dsprof")
        for step in range(4):
            begin = at + 1_100_000 + 1_900_000 * step
            made.range("decode.step", begin, begin + 1_800_000, payload=step + 1, domain="dsprof")
            made.range(names[step - 4 * request], begin + 10, begin + 1_000_000)
            for number, name in enumerate(names):
                call = begin + 1_000 + 60_000 * number
                made.kernel(name, at=(call + 5_000, call + 45_000), call=(call, call + 4_000))
    (folder / "h").mkdir(exist_ok=True)
    path = folder / "h" / "<b onclick=1>&amp;.sqlite"
    return dsprof.analyze(made.write(path))


def many_steps(folder: Path, count: int = 6_000) -> Analysis:
    """A made report of a decode of very many steps."""
    made = TraceBuilder()
    made.range("decode", 0, 100_000 * count + 1_000, payload=count, domain="dsprof")
    for step in range(count):
        begin, slow = 100_000 * step, 30_000 * (step % 997 == 5)
        made.range("decode.step", begin, begin + 60_000 + slow, payload=step + 1, domain="dsprof")
        made.kernel("k", at=(begin + 20_000, begin + 40_000), call=(begin + 1_000, begin + 9_000))
    return dsprof.analyze(made.write(folder / "many.sqlite"))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Analysis, str]]:
    """The analysis of a sample, and its page, each made once."""
    folder, made = tmp_path_factory.mktemp("pages"), dict[str, tuple[Analysis, str]]()

    def of(name: str) -> tuple[Analysis, str]:
        if name not in made:
            export = folder / f"{name}.sqlite"
            export.write_bytes(lzma.decompress((SAMPLES / f"{export.name}.xz").read_bytes()))
            if (model := SAMPLES / f"{name}.model.json").exists():
                (folder / model.name).write_bytes(model.read_bytes())
            analysis = dsprof.analyze(export)
            made[name] = analysis, analysis.page()
        return made[name]

    return of


class Page(html.parser.HTMLParser):
    """A page, taken apart: its tables by the table that they are of, its elements, its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[tuple[str, list[str], list[list[tuple[str, str | None]]]]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._row: list[list[Any]] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.elements.append((tag, about))
        if tag == "table":
            self.tables.append((about.get("data-table") or "", [], []))
        elif tag == "th" and about.get("data-column"):
            self.tables[-1][1].append(str(about["data-column"]))
        elif tag == "tr":
            self._row = []
        elif tag == "td" and self._row is not None:
            self._row.append(["", about.get("data-v")])

    def handle_data(self, data: str) -> None:
        if self._row:
            self._row[-1][0] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr" and self._row:
            self.tables[-1][2].append([(text, raw) for text, raw in self._row])
            self._row = None

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [about for name, about in self.elements if name == tag]


def data_of(page: str) -> dict[str, Any]:
    """What the script is told."""
    return json.loads(page.split('id="data">')[1].split("</script>")[0])


def ids_twice(page: str) -> list[str]:
    """Names that several elements of a page have, which must be none."""
    ids = [str(about["id"]) for _, about in Page(page).elements if about.get("id")]
    return [one for one in dict.fromkeys(ids) if ids.count(one) > 1]


@pytest.mark.parametrize("name", SHOWN)
def test_every_name_of_an_element_is_given_once(sample: Callable[[str], tuple[Analysis, str]], name: str) -> None:
    assert ids_twice(sample(name)[1]) == []


# -- numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHOWN)
def test_every_row_is_a_row_of_its_table(sample: Callable[[str], tuple[Analysis, str]], name: str) -> None:
    """Raw numbers and texts of each row, in their columns, stand so in a row of the analysis's table."""
    analysis, text = sample(name)
    seen = [(table, columns, rows) for table, columns, rows in Page(text).tables if table]
    assert {"stage_sum", "stage_kern_sum", "stage_family_sum", "stage_api_sum"} <= {table for table, _, _ in seen}
    for table, columns, rows in seen:
        assert rows, table
        kinds = {column.name: column.kind for column in all_tables()[table].columns}
        known = {tuple(_told(row[column], kinds[column], column) for column in columns)
                 for row in analysis.arrow(table).to_pylist()}  # fmt: skip
        for row in rows:
            found = tuple(raw if kinds[column] in ("int", "float") else "" if column == "kernel" else said
                          for column, (said, raw) in zip(columns, row, strict=True))  # fmt: skip
            assert found in known, (table, found)


def _told(value: Any, kind: str, column: str) -> str | None:
    """A value as a page tells it: a number raw, a text as it is seen; of a kernel there are two names."""
    if kind in ("int", "float"):
        return None if value is None else str(value)
    if kind == "bool":
        return "yes" if value else "no"
    return "" if column == "kernel" else "-" if value is None else visible(value)


@pytest.mark.parametrize("name", SHOWN)
def test_kernels_have_their_full_names(sample: Callable[[str], tuple[Analysis, str]], name: str) -> None:
    analysis, text = sample(name)
    known = set(analysis.arrow("stage_kern_sum").column("kernel").cast("string").to_pylist())
    rows = next(rows for table, _, rows in Page(text).tables if table == "stage_kern_sum")
    assert all(any(row[1][0].endswith(short(full)) for full in known) for row in rows)


@pytest.mark.parametrize("name", SHOWN)
def test_where_the_time_went_adds_up(sample: Callable[[str], tuple[Analysis, str]], name: str) -> None:
    analysis, text = sample(name)
    frame = analysis["stage_trace"]
    for stage, row in where.sums(analysis.arrow("stage_trace")).items():
        mine = frame[(frame.stage == stage) & (frame.steady if frame.steady.any() else True)]
        assert row["wall_ns"] == mine.wall_ns.sum() and row["idle_host_ns"] == mine.idle_host_ns.sum()
        assert sum(part.pct for part in where.parts_of(row)) == pytest.approx(100)
        share = 100 * (row["gpu_busy_ns"] - row["wait_ns"]) / row["wall_ns"]
        said = [
            about["aria-label"]
            for about in Page(text).of("svg")
            if str(about.get("aria-label")).startswith(f"{stage}: ")
        ]
        assert any(f"GPU works {share:.1f} %" in str(one) for one in said), said


@pytest.mark.parametrize("name", [name for name in SHOWN if name != "h200-graphs-graph"])
def test_steps_are_those_of_the_table(sample: Callable[[str], tuple[Analysis, str]], name: str) -> None:
    analysis, text = sample(name)
    frame = analysis["step_trace"]
    frame = frame[frame.step.notna() & frame.wall_ns.notna() & ~frame.pause]
    order = frame.groupby(["pid", "tid"], sort=False).ngroup()  # thread by thread
    frame = frame.iloc[order.argsort(kind="stable")]
    told = data_of(text)["steps"]
    assert told["n"] == len(frame) == len(told["rows"]) > 0
    assert [row[4] for row in told["rows"]] == frame.wall_ns.tolist()
    assert [row[5] for row in told["rows"]] == (frame.gpu_busy_ns - frame.wait_ns.fillna(0)).tolist()
    states = [steps.OUT if out else steps.STEADY if steady else steps.WARM
              for out, steady in zip(frame.outlier, frame.steady, strict=True)]  # fmt: skip
    assert [row[3] for row in told["rows"]] == states
    for row, (_, one) in zip(told["rows"], frame.iterrows(), strict=True):
        causes = dict(zip(row[6::2], row[7::2], strict=True))
        names = list(where.CAUSES)
        assert causes and all(one[f"idle_{names[at]}_ns"] == time for at, time in causes.items())


@pytest.mark.parametrize("name", SHOWN)
def test_a_timeline_has_all_operations(sample: Callable[[str], tuple[Analysis, str]], name: str) -> None:
    analysis, text = sample(name)
    moments = one_step.moments_of(document.Source(analysis.summary(), analysis))
    lines = data_of(text)["lines"]
    assert len(lines) == len(moments) >= 1
    kernels, copies = analysis["kern_trace"], analysis["mem_trace"]
    for moment, line in zip(moments, lines, strict=True):
        assert line["span"] == moment.row["wall_ns"]
        gpu = [event for title, _, events in line["lanes"] if re.match("stream|GPU", title) for event in events]
        expected = []
        for table in (kernels, copies):
            mine = table[
                (table.pid == moment.row["pid"]) & (table.start_ns >= moment.low) & (table.start_ns < moment.high)
            ]
            expected += [
                (start - moment.low, took) for start, took in zip(mine.start_ns, mine.duration_ns, strict=True)
            ]
        assert sorted((event[0], event[1]) for event in gpu) == sorted(expected)


def test_the_median_step_is_one(sample: Callable[[str], tuple[Analysis, str]]) -> None:
    analysis, _ = sample("h200-stages")
    first, out = one_step.moments_of(document.Source(analysis.summary(), analysis))
    frame = analysis["step_trace"]
    frame = frame[(frame.stage == "decode") & frame.step.notna() & frame.steady]
    usual = frame[~frame.outlier].wall_ns
    assert abs(first.row["wall_ns"] - usual.median()) == abs(usual - usual.median()).min()
    assert out.row["wall_ns"] == frame[frame.outlier].wall_ns.max()


def test_tiles_are_medians_of_steady_requests(sample: Callable[[str], tuple[Analysis, str]]) -> None:
    from dsprof.show import units

    analysis, text = sample("h100x2-node")
    frame = analysis["request_trace"]
    for column, said in re.findall(r'<b data-median="(\w+)">([^<]+)</b>', text):
        assert said == units.time(median(frame[frame.steady][column].dropna().tolist()))
    assert text.count("data-median") == 4


def test_the_roofline_shows_what_was_reached(sample: Callable[[str], tuple[Analysis, str]]) -> None:
    analysis, text = sample("h200-stages")
    for one in analysis.summary().roofs:
        wall, busy = roofs.achieved(one)
        assert wall / one.peak_flops_per_s * 100 == pytest.approx(one.mfu_pct, rel=0.02)
        assert busy is not None and wall < busy < one.peak_flops_per_s
    assert text.count('class="open s-') == len(analysis.summary().roofs)


def test_ranks_are_shown_where_there_are_any(sample: Callable[[str], tuple[Analysis, str]]) -> None:
    assert 'id="ranks"' in sample("h100x2-node")[1]
    assert 'id="ranks"' not in sample("h200-stages")[1]
    assert 'id="engine"' in sample("h100-serve")[1]


# -- names ---------------------------------------------------------------------------------------------------


def test_names_are_text(tmp_path: Path) -> None:
    text = hostile(tmp_path).page()
    page = Page(text)
    assert (
        len(page.of("script")) == 2 and len(page.of("style")) == 1 and not page.of("img") and not page.of("b onclick")
    )
    assert not [name for name, about in page.elements for key in about if key.startswith("on")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2028\u2029\ud800-\udfff]", text)
    assert text.count("x" * (LONGEST + 1)) == 0 and f"({len(BAD[-1])} characters)" in text
    assert "window.pwned=1" in text
    names = data_of(text)["names"]
    assert any("window.pwned=1" in name for name in names)


def test_a_page_may_run_its_own_script_alone(sample: Callable[[str], tuple[Analysis, str]]) -> None:
    text = sample("h200-stages")[1]
    policy = re.search(r'content="(default-src[^"]+)"', text)
    assert policy is not None
    said = html.unescape(policy[1])
    for kind in ("style", "script"):
        inner = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner[0].encode()).digest()).decode()
        assert len(inner) == 1 and f"{kind}-src 'sha256-{digest}'" in said
    assert said.startswith("default-src 'none';") and "unsafe" not in said
    assert not re.search(r'(?:src|href)="(?!#)|url\(|@import|innerHTML|outerHTML|insertAdjacent|eval\(', text)


def test_json_ends_no_script() -> None:
    told = document.script_json({"a": "</script><!--\u2028\u2029&\ud800"})
    assert not set("<>&\u2028\u2029\ud800") & set(told)
    assert json.loads(told)["a"].startswith("</script><!--\u2028\u2029&")


def test_html_is_escaped_unless_it_is_html() -> None:
    assert joined("<b>", Html("<i>"), ["&"]) == "&lt;b&gt;<i>&amp;"
    assert element("p", 'a"', title='"', hidden=False, data_n=0) == '<p title="&quot;" data-n="0">a&quot;</p>'
    assert element("rect", x=1) == '<rect x="1"/>' and element("meta", name="x") == '<meta name="x">'


# -- sizes ---------------------------------------------------------------------------------------------------


def test_a_page_stays_small(sample: Callable[[str], tuple[Analysis, str]], tmp_path: Path) -> None:
    for name in SHOWN:
        assert len(sample(name)[1].encode()) < 500_000, name
    many = many_steps(tmp_path).page()
    assert len(many.encode()) < 200_000
    told = data_of(many)["steps"]
    assert told["n"] == 6_000 and "rows" not in told
    assert sum(last - first + 1 for first, last, *_ in told["pieces"]) == told["n"]


def test_a_step_of_very_many_operations_is_cut_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_step, "MOST_EVENTS", 5)
    text = hostile(tmp_path).page()
    gpu = [
        event
        for title, _, events in data_of(text)["lines"][0]["lanes"]
        if title.startswith("stream")
        for event in events
    ]
    assert len(gpu) == 5 and "shorter operations are left out" in text


# -- of less -------------------------------------------------------------------------------------------------


def test_reports_of_little_have_a_page(tmp_path: Path) -> None:
    """Ranges alone; kernels alone; a stage without steps; each says what it has."""
    ranges = dsprof.analyze(TraceBuilder().range("mine", 0, 1000).write(tmp_path / "ranges.sqlite")).page()
    assert "No kernels were recorded" in ranges and 'id="steps"' not in ranges and 'id="kernels"' not in ranges
    kernels = dsprof.analyze(TraceBuilder().kernel("k", at=(5, 9), call=(1, 3)).write(tmp_path / "k.sqlite")).page()
    assert 'id="kernels"' in kernels and 'id="one-step"' not in kernels
    stage = TraceBuilder().range("prefill", 0, 1000, domain="dsprof").kernel("k", at=(50, 90), call=(10, 30))
    text = dsprof.analyze(stage.write(tmp_path / "s.sqlite")).page()
    assert "One stage" in text and 'id="steps"' not in text


def test_it_is_the_same_in_parts_stored_and_fresh(tmp_path: Path) -> None:
    export = hostile(tmp_path).path
    page = dsprof.analyze(export, tables=TABLES).page()
    for parts in (1, 5):
        assert Analysis.of(ReportInParts(export, parts), path=export).page() == page
    dsprof.analyze(export).write()
    assert dsprof.analyze(export, tables=TABLES).page() == page


def test_rows_that_are_asked_for(sample: Callable[[str], tuple[Analysis, str]], tmp_path: Path) -> None:
    """By any condition, from a report or its files, they are the rows of the whole table."""
    analysis, _ = sample("h200-layers")
    stored = dsprof.analyze(analysis.path, folder=analysis.write(tmp_path / "t"))
    fresh = dsprof.analyze(analysis.path, folder=tmp_path / "none")
    frame = analysis["kern_trace"]
    low, high = (int(frame.start_ns.quantile(part)) for part in (0.4, 0.5))
    kept = frame[
        (frame.start_ns >= low) & (frame.start_ns < high) & (frame.device_id == 0) & (frame.duration_ns > 2000)
    ]
    conditions = [("start_ns", ">=", low), ("start_ns", "<", high), ("device_id", "=", 0), ("duration_ns", ">", 2000)]
    for one in (stored, fresh):
        found, none, early = one.rows_where(
            ("kern_trace", ["correlation_id", "kernel"], conditions),
            ("range_trace", ["name"], [("pid", "=", -5)]),
            ("kern_trace", ["kernel"], [("start_ns", "<", -1)]),
        )
        assert found.column_names == ["correlation_id", "kernel"]
        assert found.column("correlation_id").to_pylist() == kept.correlation_id.tolist()
        assert none.num_rows == early.num_rows == 0
        assert early.column_names == ["kernel"]


# -- drawing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top", [1, 7, 23, 999, 1e9, 3.2e7, 0.4])
def test_round_numbers(top: float) -> None:
    found = round_numbers(top)
    assert found[0] == 0 and found[-1] <= top and 3 <= len(found) <= 8
    assert round_numbers(0) == [0]


def test_scales() -> None:
    assert Scale(0, 10, 100, 0)(5) == 50
    assert Scale(1, 100, 0, 10, log=True)(10) == 5
    assert Scale(3, 3, 7, 9)(3) == 7


def test_a_bar_is_as_long_as_its_parts() -> None:
    text = bar("x", [Part(60, "<a>", "p1"), Part(0, "b", "p2"), Part(40, "c", "p3")])
    assert 'x="60.00%" width="40.00%"' in text and "&lt;a&gt;: 60.0 %" in text and "p2" not in text


def test_columns_without_a_value_are_left_out() -> None:
    from dsprof.page.parts import cols

    columns = cols({"mode": "mode", "steps": "n", "span_ns": "span"})
    text = table_of("engine_sum", columns, [{"mode": "decode", "steps": 3, "span_ns": None}], "x")
    assert "span" not in text and 'data-v="3"' in text


# -- files ---------------------------------------------------------------------------------------------------


def run(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dsprof", "report", *map(str, words)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_command(tmp_path: Path) -> None:
    export = hostile(tmp_path).path
    report = tmp_path / "run.sqlite"
    report.write_bytes(export.read_bytes())
    done = run(report, folder=tmp_path)
    assert done.returncode == 0 and done.stdout == "Report: run.html\n"
    assert (tmp_path / "run.html").read_text(encoding="utf-8") == dsprof.analyze(report, tables=TABLES).page()
    assert not (tmp_path / "run.dsprof").exists()
    before = (tmp_path / "run.html").stat()
    again = run(report, folder=tmp_path)
    assert again.returncode == OutputExists.exit_code and "--force" in again.stderr
    assert (tmp_path / "run.html").stat().st_ino == before.st_ino
    assert run(report, "--force", folder=tmp_path).returncode == 0
    assert run(report, "-o", tmp_path / "no" / "x.html", folder=tmp_path).returncode == OutputRefused.exit_code
    assert run(report, "-o", tmp_path, "--force", folder=tmp_path).returncode == OutputRefused.exit_code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["h", "run.html", "run.sqlite"]


def test_a_report_is_never_replaced_by_its_page(tmp_path: Path) -> None:
    made = TraceBuilder().range("prefill", 0, 1000).write(tmp_path / "run.sqlite")
    before, link = made.read_bytes(), tmp_path / "link.html"
    link.symlink_to(made)
    for target in (made, link):
        assert run(made, "-o", target, "--force", folder=tmp_path).returncode == OutputRefused.exit_code
        with pytest.raises(OutputRefused, match="made from"):
            dsprof.analyze(made).report(target, force=True)
    assert made.read_bytes() == before
    target = tmp_path / "run.html"
    assert dsprof.analyze(made).report(target) == target
    assert target.read_text(encoding="utf-8") == dsprof.analyze(made).page()
    with pytest.raises(OutputExists):
        dsprof.analyze(made).report(target)


def test_a_folder_of_tables_has_a_page(tmp_path: Path) -> None:
    """As their report has, which need not be there; with other rules or of another dsprof they are refused."""
    analysis = dsprof.analyze(hostile(tmp_path).path, stages={"vision": "^look"})
    folder = analysis.write(tmp_path / "tables")
    (tmp_path / "h").rename(tmp_path / "away")
    assert run(folder, "-o", "x.html", folder=tmp_path).returncode == 0
    assert (tmp_path / "x.html").read_text(encoding="utf-8").replace("remembered beside the tables: ", "").replace(
        " (or --default-rules)", "") == analysis.page()  # fmt: skip
    wrong = run(folder, "-o", "y.html", "--stage", "a=b", folder=tmp_path)
    assert wrong.returncode == 2 and "name their report" in wrong.stderr
    (folder / "stage_sum.parquet").unlink()
    assert run(folder, "-o", "y.html", folder=tmp_path).returncode == NoReportInFolder.exit_code
    assert not (tmp_path / "y.html").exists()


def test_pandas_is_not_loaded(tmp_path: Path) -> None:
    """It would take half of the time."""
    export = hostile(tmp_path).path
    script = "import sys, dsprof; dsprof.analyze(sys.argv[1]).page(); print('pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, export], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.html"
    write_whole(path, "a", replace=False)
    with pytest.raises(OutputExists):
        write_whole(path, "b", replace=False)
    path.chmod(0o640)
    write_whole(path, "c", replace=True)
    assert path.read_text() == "c" and path.stat().st_mode & 0o777 == 0o640
    link = tmp_path / "link.html"
    link.symlink_to(path)
    write_whole(link, "d", replace=True)
    assert link.is_symlink() and path.read_text() == "d"

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dsprof.ground.whole._move", full)
    with pytest.raises(OutputRefused, match="No space left"):
        write_whole(path, "e", replace=True)
    assert path.read_text() == "d"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["link.html", "x.html"]
