"""What is shown: units, the summary on a terminal, in Markdown and in a notebook. Data is asserted elsewhere."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
from cattrs import unstructure
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import dsprof
from dsprof.render import units
from dsprof.render.layout import grids
from dsprof.render.plain import summary_markdown, to_csv, to_json, to_markdown
from dsprof.render.terminal import print_summary, print_table
from dsprof.tables import all_tables
from test_properties import analysis_of, recordings, some
from trace_builder import TraceBuilder

SAMPLES = Path(__file__).resolve().parent.parent / "traces/samples"


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    packed = SAMPLES / "h200-graph-graph.sqlite.xz"
    copy = tmp_path_factory.mktemp("sample") / packed.name
    copy.write_bytes(packed.read_bytes())
    return dsprof.analyze(copy)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.time(0), "0 ns"),
        (units.time(999), "999 ns"),
        (units.time(1000), "1.000 us"),
        (units.time(130_637_275), "130.6 ms"),
        (units.time(1_314_549_801), "1.315 s"),
        (units.time(12_345_678_901_234), "12346 s"),
        (units.time(None), "-"),
        (units.size(14_774_156), "14.77 MB"),
        (units.size(999), "999 B"),
        (units.size(None), "-"),
        (units.count(46872), "46 872"),
        (units.count(None), "-"),
        (units.percent(9.9378), "9.9 %"),
        (units.percent(None), "-"),
        (units.rate(27.226), "27.23"),
    ],
)
def test_numbers_are_shown_with_four_digits_and_a_unit(shown, expected):
    assert shown == expected


def shown(paint, width):
    text = io.StringIO()
    paint(Console(file=text, width=width))
    return text.getvalue()


def test_the_summary_fits_a_hundred_columns_without_cutting_a_number(analysis):
    text = shown(lambda out: print_summary(analysis.summary(), out), 100)
    assert max(map(len, text.splitlines())) <= 100
    for line in analysis.summary().stages:
        assert units.time(line.gpu_busy_total_ns) in text
        assert units.count(line.launches_total) in text
    assert "16 CUDA graph replays were traced as a whole" in text


@some
@given(recordings(), st.sampled_from([100, 250]))
def test_whatever_a_report_holds_is_shown(rec, width):
    analysis = analysis_of(rec)
    summary = analysis.summary()
    assert json.loads(json.dumps(unstructure(summary), allow_nan=False))["counts"]["kernels"] == len(rec.kernels)
    texts = [shown(lambda out: print_summary(summary, out), width), summary_markdown(summary), analysis._repr_html_()]
    assert all(line.stage in text for line in summary.stages if line.instances for text in texts)
    assert all(grid.rows for grid in grids(summary))
    assert not any(re.search(r"\b(nan|None)\b", text) for text in texts)
    for name in all_tables():
        table = analysis.arrow(name)
        assert len(list(csv.reader(io.StringIO(to_csv(table))))) == len(table) + 1
        assert len(json.loads(to_json(name, table))["rows"]) == len(table)
        assert len(to_markdown(table).splitlines()) == len(table) + 2
        text = shown(lambda out, name=name, table=table: print_table(name, table, out, rows=5), width)
        assert re.match(rf"{name}: {len(table)} rows?\n", text)
        assert all(column in text for column in table.column_names)


@pytest.mark.parametrize("width", [60, 100, 200])
def test_every_table_is_shown_with_all_its_columns_at_any_width(analysis, width):
    for name in analysis:
        table = analysis.arrow(name)
        text = shown(lambda out, name=name, table=table: print_table(name, table, out, rows=3), width)
        assert [column for column in table.column_names if column not in text.split()] == []
        body = [line for line in text.splitlines() if "more rows" not in line]
        assert "…" not in " ".join(body).split()


def made(folder, requests, gpu=True, first=10):
    """A report of requests of 30 ms and three steps each; the first takes `first` ms longer, one has a slow step."""
    ms, trace = 1_000_000, TraceBuilder(duration=10**12)
    now = 0
    for number in range(requests):
        late = first * ms if number == 0 else 0
        trace.range("request", now, now + 30 * ms + 4 * late, domain="dsprof", payload=number)
        trace.range("prefill", now, now + 9 * ms + late, domain="dsprof", payload=100)
        begin = now + 9 * ms + late
        trace.range("decode", begin, begin + 21 * ms + 3 * late, domain="dsprof")
        for step in range(1, 8):
            end = begin + (6 if (number, step) == (requests - 1, 5) else 2) * ms + late // 3
            trace.range("decode.step", begin, end, domain="dsprof", payload=step)
            if gpu:
                trace.kernel("gemm", at=(end - 1000, end - 500 + step), call=(begin + 10, begin + 20))
            begin = end
        now += 30 * ms + 4 * late
    return dsprof.analyze(trace.write(folder / "made.sqlite"))


def test_requests_are_shown_with_their_warm_up_and_the_slow_step(tmp_path):
    text = shown(lambda out: print_summary(made(tmp_path, 4).summary(), out), 100)
    lines = text[text.index("Requests") :].splitlines()
    assert " ".join(lines[1].split()) == (
        "request prompt new TTFT TTFT GPU TPOT TPOT GPU busy/token tokens/s end to end")  # fmt: skip
    assert [line.split()[0:4] for line in lines[2:6]] == [
        ["0", "*", "100", "8"], *([str(number), "100", "8", "9.000"] for number in (1, 2, 3))]  # fmt: skip
    assert lines[6] == "* warm-up, left out of verdicts and of the steps below: 1 of 4 requests."
    steps = text[text.index("Steps") :].splitlines()
    assert steps[2].split()[:5] == ["decode", "host", "21", "2.000", "ms"]
    assert "Outliers: 1; slowest: request 3 step 5, 6.000 ms, 3.0 x the median: 4.000 ms more outside of CUDA." in text
    assert "Steps of decode left out as a warm-up: 7." in text
    assert text.index("Stages") < text.index("Requests") < text.index("Steps") < text.index("Kernel families")
    assert "Stages in no request" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("slope", "error", "words"),
    [(1.5, 0.7, "+1.500 us ± 700 ns"), (-1.5, 0.7, "-1.500 us ± 700 ns"), (1.5, 0.8, "none"), (None, None, "-"),
     (0.0, 0.0, "none")],
)  # fmt: skip
def test_a_drift_is_told_where_it_is_two_errors_or_more(analysis, slope, error, words):
    line = attrs.evolve(analysis.summary().steps[0], duration_drift_ns_per_token=slope,
                        duration_drift_error_ns_per_token=error)  # fmt: skip
    (grid,) = [one for one in grids(attrs.evolve(analysis.summary(), steps=(line,))) if one.title == "Steps"]
    assert grid.rows[0][-1] == words


def test_many_requests_are_shown_as_their_median_and_the_slowest(tmp_path):
    text = shown(lambda out: print_summary(made(tmp_path, 30).summary(), out), 100)
    lines = text[text.index("Requests") :].splitlines()
    assert [line.split()[0] for line in lines[2:4]] == ["median", "1"]
    assert lines[4] == "The median of each column over 29 steady requests, and the slowest of them."


def test_without_a_gpu_requests_and_steps_have_host_times_only(tmp_path):
    text = shown(lambda out: print_summary(made(tmp_path, 3, gpu=False, first=0).summary(), out), 100)
    lines = text[text.index("Requests") :].splitlines()
    assert " ".join(lines[1].split()) == "request prompt new TTFT TPOT tokens/s end to end"
    assert "GPU busy" not in text and "warm-up" not in text


def test_stages_in_no_request_are_shown_for_themselves(tmp_path):
    trace = TraceBuilder().range("encode", 0, 50).kernel("gemm", at=(20, 30), call=(10, 15))
    analysis = dsprof.analyze(trace.write(tmp_path / "made.sqlite"), stages={"vision": "^encode$"})
    text = shown(lambda out: print_summary(analysis.summary(), out), 100)
    assert "Stages in no request" in text and "Requests" not in text and "Steps" not in text


class Cells(HTMLParser):
    """Collects the text of a fragment's cells, and what is left open."""

    def __init__(self):
        super().__init__()
        self.open, self.cells = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_a_notebook_shows_the_same_cells_as_the_terminal(analysis):
    parser = Cells()
    parser.feed(analysis._repr_html_())
    assert parser.open == []
    lines = analysis.summary().top_kernels
    assert {line.short_name for line in lines} <= set(parser.cells)
    assert {units.time(line.total_ns) for line in lines} <= set(parser.cells)


def test_what_stands_below_a_table_is_in_the_notebook_and_in_markdown_too(tmp_path):
    analysis = made(tmp_path, 4)
    for text in (analysis._repr_html_(), summary_markdown(analysis.summary())):
        assert "* warm-up, left out of verdicts" in text
        assert "Outliers: 1; slowest: request 3 step 5" in text


def test_markdown_tables_have_as_many_cells_in_every_row(analysis):
    blocks = [block for block in summary_markdown(analysis.summary()).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 6
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("sample", ["h200-stages", "h200-two-processes"])
def test_no_number_is_cut_however_narrow_the_terminal(sample: str, width: int) -> None:
    """Names give way; every number stands as it would on a wide screen, in its column."""
    summary = dsprof.analyze(SAMPLES / f"{sample}.sqlite.xz").summary()
    text = shown(lambda out: print_summary(summary, out), width)
    assert max(map(len, text.splitlines())) <= width
    for grid in grids(summary):
        for row in grid.rows:
            for number in row[grid.names :]:
                assert re.search(rf"(?<!\S){re.escape(number)}(?!\S)", text), (grid.title, number)
