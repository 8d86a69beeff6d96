"""What is shown: units, the summary on a terminal, in Markdown and in a notebook. Data is asserted elsewhere."""

from __future__ import annotations

import io
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

import dsprof
from dsprof.render import units
from dsprof.render.plain import summary_markdown
from dsprof.render.terminal import print_summary, print_table

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


@pytest.mark.parametrize("width", [60, 100, 200])
def test_every_table_is_shown_with_all_its_columns_at_any_width(analysis, width):
    for name in analysis:
        table = analysis.arrow(name)
        text = shown(lambda out, name=name, table=table: print_table(name, table, out, rows=3), width)
        assert [column for column in table.column_names if column not in text.split()] == []
        body = [line for line in text.splitlines() if "more rows" not in line]
        assert "…" not in " ".join(body).split()


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


def test_markdown_tables_have_as_many_cells_in_every_row(analysis):
    blocks = [block for block in summary_markdown(analysis.summary()).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1
