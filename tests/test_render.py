"""What is shown: units, the summary on a terminal, in Markdown and in a notebook. Data is asserted elsewhere."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import attrs
import pytest
from cattrs import unstructure
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

import dsprof
from dsprof.cli import app
from dsprof.show import terminal, units
from dsprof.show.layout import grids
from dsprof.show.plain import cells, kind_of, summary_markdown, to_csv, to_json, to_markdown
from dsprof.show.safe import visible
from dsprof.show.terminal import print_summary, print_table
from dsprof.tables import all_tables
from dsprof.words import NO_STAGE
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


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """The analysis of every recorded report, with what names its model beside it."""
    folder = tmp_path_factory.mktemp("samples")
    for path in SAMPLES.glob("h200-*"):
        (folder / path.name).symlink_to(path)
    return {path.name.removesuffix(".sqlite.xz"): dsprof.analyze(path) for path in folder.glob("*.xz")}


#: The widths of terminals that people have.
WIDTHS = [60, 80, 100, 160]
_UNITS = ("%", "ns", "us", "ms", "s", "B", "kB", "MB", "GB", "TB", "FLOP", "MFLOP", "GFLOP", "TFLOP", "TB/s", "TFLOP/s")


def whole(word, text):
    return re.search(rf"(?<!\S){re.escape(word)}(?!\S)", text) is not None


def held(text, width):
    """No line is longer than the terminal, and none ends between a number and its unit or within its thousands."""
    lines = text.splitlines()
    assert max(map(cell_len, lines)) <= width
    for line, following in itertools.pairwise(lines):
        first = following.strip().rstrip(".,;:)").split(" ")[0]
        cut = line.rstrip()[-1:].isdigit() and first in _UNITS
        assert not cut, (line, following)


def fits(summary, width):
    """All that the first screen shows at a width is whole, and what it leaves out is of the least value."""
    text = shown(lambda out: print_summary(summary, out), width)
    held(text, width)
    names = {line.short_name for line in summary.top_kernels} | {line.name for line in summary.ranges}
    for grid in grids(summary):
        dropped = terminal._tables(grid, width)[1]
        valued = [word for at, word in enumerate(grid.header) if any(row[at] != "-" for row in grid.rows)]
        assert dropped == [word for word in grid.low if word in valued][: len(dropped)]
        for place, word in enumerate((grid.title, *grid.header[1:])):
            if place >= grid.names and word not in valued:
                continue
            if word in dropped:
                assert word in " ".join(text.split()).partition("Left out at this width:")[2]
                continue
            assert place < grid.names or whole(word, text), (grid.title, word)
            for row in grid.rows:
                cell = visible(row[place])
                assert row[place] in names or whole(cell, text) or not cell or len(cell) > 24
    assert "…" not in text or any("…" in name or cell_len(name) > 100 for name in names)
    return text


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_of_a_first_screen_is_cut(samples, width):
    for name, found in samples.items():
        text = fits(found.summary(), width)
        assert width < 160 or "Left out at" not in text, name
        top = [row[1] for grid in grids(found.summary()) if grid.table == "stage_kern_sum" for row in grid.rows]
        assert top, name
        assert width < 100 or all(one in text for one in top), name


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_of_a_table_is_cut(samples, width):
    for sample in ("h200-two-processes", "h200-batch"):
        found = samples[sample]
        for name in found:
            table = found.arrow(name).slice(0, 3)
            text = shown(lambda out, name=name, table=table: print_table(name, table, out, rows=3), width)
            held(text, width)
            rows = cells(table)
            for place, column in enumerate(table.column_names):
                assert whole(column, text)
                if column not in ("kernel", "name"):
                    assert all(whole(row[place], text) or len(row[place]) > 40 or not row[place] for row in rows), (
                        column
                    )


def test_the_first_screen_of_one_model_and_two_stages_is_short(samples):
    """45 lines at 100 columns with the line that names the folder; what else there is has its table named."""
    assert len(samples) >= 9
    for name, found in samples.items():
        assert {line.stage for line in found.summary().stages} == {"prefill", "decode", NO_STAGE}
        text = shown(lambda out, found=found: print_summary(found.summary(), out), 100)
        assert len(text.splitlines()) + 1 <= 45, name
        more = " ".join(text.split()).partition("More with `dsprof table`:")[2]
        assert all(whole(f"{grid.table},", more) or whole(f"{grid.table}.", more) for grid in grids(found.summary()))


HOSTILE = ["x" * 3000, "漢字カナ" * 30, "a b " * 100, "[bold]", "-", "1 234 ms", "\x1b[2J\n\t", "é" * 61]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_names_of_any_kind_cut_nothing_else(tmp_path, name, width):
    """Made: a foreign report, whose names are those of ranges, kernels and at last of a stage."""
    day = 86_400 * 10**9
    trace = TraceBuilder(duration=3 * day).gpu().range(name, 0, 2 * day).range(name[:7], 5, 10**12)
    trace.kernel(name, at=(100, day), call=(20, 30)).kernel("gemm", at=(day, day + 3), call=(31, 32))
    path = trace.write(tmp_path / "made.sqlite")
    for found in (dsprof.analyze(path), dsprof.analyze(path, stages={name: "."}, folder=tmp_path / "staged")):
        text = fits(found.summary(), width)
        assert "86400 s" in text
        for one in found:
            table = found.arrow(one)
            text = shown(lambda out, one=one, table=table: print_table(one, table, out, rows=3), width)
            held(text, width)
            assert all(whole(column, text) for column in table.column_names)


@pytest.mark.parametrize("width", WIDTHS)
def test_numbers_of_any_size_and_none_are_whole(samples, width):
    """Made: the lines of a recorded report with the largest numbers there can be, the least, and none."""

    def filled(line, number):
        kinds = {field.name: str(field.type) for field in attrs.fields(type(line))}
        numeric = {name: kind for name, kind in kinds.items() if kind.startswith(("int", "float"))}
        if number is None:
            return attrs.evolve(line, **{name: None for name, kind in numeric.items() if "None" in kind})
        return attrs.evolve(line, **{name: int(number) if kind.startswith("int") else float(number)
                                     for name, kind in numeric.items()})  # fmt: skip

    summary = samples["h200-stages"].summary()
    for number in (None, 0, -1, 0.04, 2**63 - 1, 1e18):
        kept = {name: tuple(filled(line, number) for line in getattr(summary, name))
                for name in ("stages", "instances", "requests", "steps", "families", "top_kernels")}  # fmt: skip
        fits(attrs.evolve(summary, **kept), width)


@some
@given(recordings(), st.sampled_from([*WIDTHS, 250]))
def test_whatever_a_report_holds_is_shown(rec, width):
    analysis = analysis_of(rec)
    summary = analysis.summary()
    assert json.loads(json.dumps(unstructure(summary), allow_nan=False))["counts"]["kernels"] == len(rec.kernels)
    texts = [fits(summary, width), summary_markdown(summary), analysis._repr_html_()]
    assert all(line.stage in text for line in summary.stages if line.instances for text in texts)
    assert all(grid.rows for grid in grids(summary))
    assert not any(re.search(r"\b(nan|None)\b", text) for text in texts)
    for name in all_tables():
        table = analysis.arrow(name)
        assert len(list(csv.reader(io.StringIO(to_csv(table))))) == len(table) + 1
        assert len(json.loads(to_json(name, table))["rows"]) == len(table)
        assert len(to_markdown(table).splitlines()) == len(table) + 2
        text = shown(lambda out, name=name, table=table: print_table(name, table, out, rows=5), width)
        held(text, width)
        assert re.match(rf"{name}: {len(table)} rows?\n", text)
        assert all(column in text for column in table.column_names)


#: What a word behind a number stands for, in the unit of the raw value.
WORTH = {"s": 1e9, "ms": 1e6, "us": 1e3, "ns": 1, "TB": 1e12, "GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1, "TB/s": 1e12,
         "GB/s": 1e9, "TFLOP": 1e12, "GFLOP": 1e9, "MFLOP": 1e6, "FLOP": 1, "TFLOP/s": 1e12, "%": 1}  # fmt: skip


def test_a_table_shows_every_number_with_a_unit_and_four_digits(tmp_path):
    """Read again, what is shown is the raw number, but for what four digits leave out; percents have one decimal."""
    for name in ("h200-batch.sqlite.xz", "h200-batch.model.json"):
        (tmp_path / name).write_bytes((SAMPLES / name).read_bytes())
    found = dsprof.analyze(tmp_path / "h200-batch.sqlite.xz")
    seen = set()
    for name in found:
        table = found.arrow(name).slice(0, 50)
        for row, raw in zip(cells(table), cells(table, raw=True), strict=True):
            for field, shown, value in zip(table.schema, row, raw, strict=True):
                unit = (field.metadata or {}).get(b"unit", b"").decode()
                if kind_of(field.type) == "other" or value == "":
                    assert shown == (value or "-")
                    continue
                number, _, word = shown.replace("\u00a0", "").rpartition(" ")
                if word in WORTH:
                    seen.add(word)
                else:
                    number, word = shown, "ns"
                    assert unit in ("", "1/s", "ns per token"), (field.name, shown)
                near = float(number.replace(" ", "")) * WORTH[word]
                exact = 1e-12 if field.name.endswith(("start_ns", "end_ns", "_id", "pid")) else 6e-4
                assert near == pytest.approx(float(value), rel=exact, abs=0.051 * (unit == "%") or 0.51), field.name
    assert seen >= {"s", "ms", "us", "ns", "GB", "MB", "kB", "B", "TFLOP", "GFLOP", "TFLOP/s", "TB/s", "%"}


def test_raw_numbers_are_for_whoever_asks_and_for_programs(tmp_path):
    path = TraceBuilder().range("prefill", 0, 5_000_000).write(tmp_path / "made.sqlite")

    def run(*words):
        ended = CliRunner().invoke(app, ["table", str(path), "stage_trace", "--columns", "wall_ns", *words])
        assert ended.exit_code == 0
        return ended.stdout.replace("\\", "")

    for form in ("rich", "markdown"):
        assert "5.000 ms" in run("--format", form, "--where", "wall_ns == 5000000")
        assert "5000000" in run("--format", form, "--raw") and "5.000 ms" not in run("--format", form, "--raw")
    for form in ("csv", "json"):
        assert "5000000" in run("--format", form)


@pytest.mark.parametrize(
    ("column", "unit", "kind", "value", "shown"),
    [
        ("start_ns", "ns", "int", 12_345_678_901, "12.345678901 s"), ("start_ns", "ns", "int", -5, "-0.000000005 s"),
        ("total_ns", "ns", "int", None, "-"), ("avg_ns", "ns", "float", float("nan"), "nan ns"),
        ("pid", "", "int", 12345, "12345"), ("kernels", "", "int", 12345, "12 345"), ("kernel", "", "other", None, "-"),
        ("kernels_mean", "", "float", float("inf"), "inf"), ("tokens_per_s", "1/s", "float", 9145.2, "9145"),
        ("total_ns", "ns", "int", 2**63 - 1, "9223372037 s"), ("bytes", "bytes", "int", 2**63 - 1, "9223372 TB"),
        ("duration_drift_ns_per_token", "ns per token", "float", -0.7, "-0.700"),
        ("peak_bytes_per_s", "1/s", "float", None, "-"),
    ],
)  # fmt: skip
def test_a_value_is_shown_by_what_its_column_is(column, unit, kind, value, shown):
    assert units.of_column(column, unit, kind)(value) == shown


@pytest.mark.parametrize("width", [60, 100, 200])
def test_every_table_is_shown_with_all_its_columns_at_any_width(analysis, width):
    for name in analysis:
        table = analysis.arrow(name)
        text = shown(lambda out, name=name, table=table: print_table(name, table, out, rows=3), width)
        assert [column for column in table.column_names if column not in text.split()] == []
        body = [line for line in text.splitlines() if "more rows" not in line]
        assert "…" not in " ".join(body).split()


def made(folder, requests, gpu=True, first=10):
    """A report of requests of 30 ms and three steps each; the first loads kernels, one has a slow step.

    The first request's prefill and steps take up to `first` ms longer for that.
    """
    ms, trace = 1_000_000, TraceBuilder(duration=10**12)
    now = 0
    for number in range(requests):
        late = first * ms if number == 0 else 0
        trace.range("request", now, now + 30 * ms + 4 * late, domain="dsprof", payload=number)
        trace.range("prefill", now, now + 9 * ms + late, domain="dsprof", payload=100)
        begin = now + 9 * ms + late
        for start in (now, begin) if late else ():
            trace.api("cuLibraryLoadData", call=(start + 100, start + 100 + late // 4))
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
    assert " ".join(lines[0].split()) == (
        "Requests prompt new TTFT TPOT busy/step tokens/s end to end"), "no kernel ends a prefill"  # fmt: skip
    assert [line.split()[0:4] for line in lines[1:5]] == [
        ["0,", "warm-up", "100", "8"], *([str(number), "100", "8", "9.000"] for number in (1, 2, 3))]  # fmt: skip
    steps = text[text.index("Steps") :].splitlines()
    assert steps[1].split()[:5] == ["decode", "host", "21", "2.000", "ms"]
    assert "Outliers: 1; slowest: request 3 step 5, 6.000 ms, 3.0 x the median: 4.000 ms more outside of CUDA." in (
        " ".join(text.split())
    )
    assert text.index("Stages") < text.index("Requests") < text.index("Steps") < text.index("Kernel time")
    assert "Stages in no request" not in text
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("slope", "error", "words"),
    [(1.5, 0.7, "+1.500 us ± 700 ns"), (-1.5, 0.7, "-1.500 us ± 700 ns"), (1.5, 0.8, "none"), (None, None, "-"),
     (0.0, 0.0, "none")],
)  # fmt: skip
def test_a_drift_is_told_where_it_is_two_errors_or_more(analysis, slope, error, words):
    line = attrs.evolve(analysis.summary().steps[0], duration_drift_ns_per_token=slope,
                        duration_drift_error_ns_per_token=error,
                        context_min_tokens=1000, context_max_tokens=2000)  # fmt: skip
    (grid,) = [one for one in grids(attrs.evolve(analysis.summary(), steps=(line,))) if one.title == "Steps"]
    assert grid.rows[0][-1] == words


def test_a_drift_over_a_short_span_of_context_is_none(analysis):
    line = attrs.evolve(analysis.summary().steps[0], duration_drift_ns_per_token=1500.0,
                        duration_drift_error_ns_per_token=1.0, context_min_tokens=1000,
                        context_max_tokens=1110)  # fmt: skip
    (grid,) = [one for one in grids(attrs.evolve(analysis.summary(), steps=(line,))) if one.title == "Steps"]
    assert grid.rows[0][-1] == "none"
    line = attrs.evolve(line, context_max_tokens=1112)
    (grid,) = [one for one in grids(attrs.evolve(analysis.summary(), steps=(line,))) if one.title == "Steps"]
    assert grid.rows[0][-1] == "+168.0 us ± 112 ns"
    assert f"Drift of {line.stage}: from the shortest to the longest context, 1 000 to 1 112 tokens." in grid.notes


def test_many_requests_are_shown_as_their_median_and_the_slowest(tmp_path):
    text = shown(lambda out: print_summary(made(tmp_path, 30).summary(), out), 100)
    lines = text[text.index("Requests") :].splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["median", "100"], ["1", "100"], ["1", "warm-up"]]
    assert "The median of each column over 29 steady requests, and the slowest of them." in " ".join(text.split())


@pytest.mark.parametrize(("slowest", "shown"), [(1000, True), (151, True), (150, False), (100, False)])
@pytest.mark.parametrize("gpu", [True, False])
def test_a_median_stands_beside_a_mean_with_a_long_tail(tmp_path, slowest, shown, gpu):
    """Of five prefills: with 100, 100, 100, 100 and 151 ns the mean is more than 1.1 times the median."""
    made, at = TraceBuilder(), 0
    for length in (100, 100, slowest, 100, 100):
        made.range("prefill", at, at + length, payload=4)
        if gpu:
            made.kernel(at=(at + 20, at + 30), call=(at + 10, at + 15))
        at += length
    summary = dsprof.analyze(made.write(tmp_path / "run.sqlite"), reuse=False).summary()
    grid = grids(summary)[0]
    row = dict(zip(grid.header, grid.rows[0], strict=True))
    assert ("median" in row) == shown
    assert row.get("median", "100 ns") == "100 ns"
    assert summary.stages[0].wall_p50_ns == 100


def test_without_a_gpu_requests_and_steps_have_host_times_only(tmp_path):
    text = shown(lambda out: print_summary(made(tmp_path, 3, gpu=False, first=0).summary(), out), 100)
    lines = text[text.index("Requests") :].splitlines()
    assert " ".join(lines[0].split()) == "Requests prompt new TTFT TPOT tokens/s end to end"
    assert "GPU busy" not in text and "warm-up" not in text


def test_a_report_without_stages_shows_what_keeps_the_gpu_busy(tmp_path):
    trace = TraceBuilder(duration=1000).range("idle (all)", 0, 900).range("my step (1)", 10, 400, tid=7)
    trace.kernel("gemm", at=(200, 450), call=(20, 30), tid=7)
    path = trace.write(tmp_path / "made.sqlite")
    analysis = dsprof.analyze(path)
    text = shown(lambda out: print_summary(analysis.summary(), out), 100)
    lines = text[text.index("Busiest ranges") :].splitlines()
    assert [line.split("  ")[0] for line in lines[1:3]] == ["my step (1)", "idle (all)"]
    assert "The GPU was busy for 25.0 % of the capture's 1.000 us." in text
    (told,) = re.findall(r"To make one a stage: --stage '(.*)'", text)
    name, _, pattern = told.partition("=")
    staged = dsprof.analyze(path, stages={name: pattern}, folder=tmp_path / "staged")
    assert staged["stage_trace"]["stage"].tolist() == [name]
    assert "Busiest ranges" not in shown(lambda out: print_summary(staged.summary(), out), 100)


@pytest.mark.parametrize("gpus", [1, 4])
def test_a_report_without_ranges_says_first_how_long_a_gpu_was_busy(tmp_path, gpus):
    trace = TraceBuilder(duration=1000).kernel("gemm", at=(200, 450), call=(20, 30))
    for device in range(gpus):
        trace.gpu(device=device)
    text = shown(lambda out: print_summary(dsprof.analyze(trace.write(tmp_path / "made.sqlite")).summary(), out), 60)
    head, said, rest = text.partition(
        f"\n{'The' if gpus == 1 else 'A'} GPU was busy for 25.0 % of the capture's 1.000 us."
    )
    assert said and len(head.splitlines()) <= 6 and "was busy for" not in rest
    assert "Stages" in rest and "Top kernels" in rest


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


def test_a_notebook_completes_the_names_of_tables(analysis, tmp_path):
    """As its own completer does it, in a session with an analysis, several reports, and a comparison."""
    pytest.importorskip("IPython", reason="it is in the extra `notebook`")
    from IPython.core.completer import IPCompleter, provisionalcompleter

    folder = tmp_path / "run"
    folder.mkdir()
    made = TraceBuilder().range("decode", 0, 90).range("decode.step", 0, 80).kernel("k", at=(10, 20), call=(5, 6))
    path = made.write(folder / "one.sqlite")
    session = {
        "analysis": analysis, "many": dsprof.analyze_many([path], on="loop"),
        "some": dsprof.analyze(path, tables=["kern_sum", "mem_sum"]), "changed": dsprof.diff(path, path, force=True),
    }  # fmt: skip
    completer = IPCompleter(namespace=session)
    completer.use_jedi = False
    for name, value in session.items():
        for begun in ("", "k", "no_such"):
            text = f'{name}["{begun}'
            with provisionalcompleter():
                found = [text[: one.start] + one.text for one in completer.completions(text, len(text))]
            keys = {one.removeprefix(f'{name}["').removesuffix("]").removesuffix('"') for one in found}
            assert keys == {key for key in value if key.startswith(begun)}, text


def test_a_notebook_shows_the_same_cells_as_the_terminal(analysis):
    parser = Cells()
    parser.feed(analysis._repr_html_())
    assert parser.open == []
    lines = analysis.summary().top_kernels
    assert {line.short_name for line in lines} <= set(parser.cells)
    assert {units.time(line.avg_ns) for line in lines} <= set(parser.cells)


def test_what_stands_below_a_table_is_in_the_notebook_and_in_markdown_too(tmp_path):
    analysis = made(tmp_path, 4)
    for text in (analysis._repr_html_(), summary_markdown(analysis.summary())):
        assert "Outliers: 1; slowest: request 3 step 5" in text


def test_markdown_tables_have_as_many_cells_in_every_row(analysis):
    blocks = [block for block in summary_markdown(analysis.summary()).split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for block in blocks:
        assert len({line.replace("\\|", "").count("|") for line in block.splitlines()}) == 1


def test_what_thousands_of_requests_say_is_told_without_comparing_each_with_each(
    analysis: dsprof.Analysis, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = analysis.summary()
    line = summary.requests[-1]
    many = [attrs.evolve(line, request=number, steady=number > 2, e2e_ns=10**6 + number) for number in range(5_000)]
    compared = [0]

    def count(one: object, other: object) -> bool:
        compared[0] += 1
        return one is other

    monkeypatch.setattr(type(line), "__eq__", count)
    (grid,) = [one for one in grids(attrs.evolve(summary, requests=tuple(many))) if one.title == "Requests"]
    assert [row[0] for row in grid.rows] == ["median", "4999", "3 warm-up"]
    assert compared[0] <= len(many)
