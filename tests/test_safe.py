"""Whatever a report's names hold, no output obeys them, calls anybody, computes them, or falls apart."""

from __future__ import annotations

import csv
import html.parser
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from dsprof import analyze
from dsprof.cli.progress import Progress
from dsprof.findings import nsys_says
from dsprof.show import plain, terminal
from dsprof.show.html import summary_html
from dsprof.show.safe import for_csv, for_html, for_json, for_markdown, for_terminal, visible
from trace_builder import TraceBuilder

#: What a terminal obeys or does not show, all that Unicode calls control, format, surrogate or separator of lines.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
HOSTILE = [
    "\x1b]0;title\x07",
    "\x1b[2J\x1b[H",
    "\x9b31m",
    "a\rb",
    "a\x08b",
    "nul\x00",
    "\u202egnp.exe",
    "zero\u200bwidth",
    "[/x]",
    "[bold]",
    "[link=file:///etc]x[/link]",
    "<script>alert(1)</script>",
    "<unnamed>::f<T>(int)",
    "a|b",
    "`code`",
    "line\nbreak",
    "tab\tstop",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1+1",
    "@SUM(1)",
    "@somebody",
    "fixes #12",
    "GH-3",
    "[text](http://example.org)",
    "http://example.org",
    "www.example.org",
    "*bold* _it_ ~~gone~~",
    "$x^2$",
    "1. item",
    "- item",
    "# head",
    "\\",
    "&lt;",
    "日本語",
    "e\u0301",
    "\U0001f600",
    "$\\frac{1}{0}$",
    "x" * 3000,
]
names = st.one_of(
    st.sampled_from(HOSTILE), st.text(min_size=1, max_size=40), st.lists(st.sampled_from(HOSTILE)).map("".join)
)


def report(folder: Path, name: str) -> Path:
    """A report in which everything that has a name has this one."""
    kernel = name.encode("utf-8", "surrogatepass")
    made = TraceBuilder("2025.3.2").gpu(name=kernel).range(kernel or b"x", 0, 900)
    made.range("prefill", 10, 400, payload=2).kernel(kernel or b"k", at=(50, 60), call=(20, 30))
    made.range("decode", 500, 800, payload=1).kernel(kernel or b"k", at=(550, 560), call=(520, 530))
    return made.write(folder / "run.sqlite")


def on_terminal(show: object, width: int) -> str:
    out = io.StringIO()
    show(Console(file=out, width=width, force_terminal=True, color_system=None, highlight=False))  # type: ignore[operator]
    return re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())  # rich's own bold


class Tags(html.parser.HTMLParser):
    """The tags of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.found.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def cells_of(line: str) -> int:
    """The cells of a line of a Markdown table."""
    return len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) - 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names, st.sampled_from([60, 120]))
@example("[/x]", 60)
@example("\x1b]0;title\x07", 120)
@example("a|b\\|c", 120)
def test_no_output_obeys_a_name(tmp_path_factory: pytest.TempPathFactory, name: str, width: int) -> None:
    folder = tmp_path_factory.mktemp("names")
    analysis = analyze(report(folder, name), stages={name: ".*"} if name.isprintable() else None)
    summary = analysis.summary()
    summary = type(summary)(**{**{f.name: getattr(summary, f.name) for f in summary.__attrs_attrs__},
                               "findings": (*summary.findings, nsys_says(name))})  # fmt: skip
    tables = {table: analysis.arrow(table) for table in ("kern_trace", "range_trace", "stage_kern_sum", "kern_sum")}
    outputs = [on_terminal(lambda out: terminal.print_summary(summary, out), width), plain.summary_markdown(summary)]
    outputs += [
        on_terminal(lambda out, n=n, t=t: terminal.print_table(n, t, out, 20), width) for n, t in tables.items()
    ]
    for table in tables.values():
        text, markdown = plain.to_csv(table), plain.to_markdown(table)
        rows = list(csv.reader(io.StringIO(text)))
        assert [len(row) for row in rows] == [len(table.column_names)] * (table.num_rows + 1)
        assert {cells_of(line) for line in markdown.split("\n")} == {len(table.column_names)}
        outputs += [text, markdown]
    for block in plain.summary_markdown(summary).split("\n\n"):
        if block.startswith("|"):
            assert len({cells_of(line) for line in block.split("\n")}) == 1
    page = summary_html(summary)
    assert Tags(page).found <= {"div", "table", "thead", "tbody", "tr", "td", "th", "p", "b", "h4", "ul", "li"}
    outputs += [page, plain.to_json("kern_sum", tables["kern_sum"])]
    for output in outputs:
        assert not UNSEEN.search(output), output


@pytest.mark.parametrize("name", HOSTILE)
def test_what_means_the_same_to_a_machine(name: str) -> None:
    assert json.loads(for_json(json.dumps({"name": name}, ensure_ascii=False))) == {"name": name}
    assert for_csv("12") == "12"
    assert not re.match(r"[=+\-@\t\r]", for_csv(name))
    assert visible("plain_name<(int)4>(T1 *)") == "plain_name<(int)4>(T1 *)"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<unnamed>", r"\<unnamed\>"),
        ("@somebody", "@<!-- -->somebody"),
        ("fixes #12", "fixes #<!-- -->12"),
        ("a_b", "a_b"),
        ("_a_", r"\_a\_"),
        ("a|b", r"a\|b"),
        ("1. x", r"1\. x"),
        ("- x", r"\- x"),
        ("# x", r"\# x"),
        ("http://x.org", r"http:\/\/x.org"),
        ("[a](b)", r"\[a\](b)"),
        ("GH-3", "GH-<!-- -->3"),
    ],
)
def test_markdown_shows_a_name_as_it_is(text: str, shown: str) -> None:
    assert for_markdown(text) == shown


def test_lines_stay_lines() -> None:
    assert for_terminal("one\ntwo\x1b[2J") == "one\ntwo\\x1b[2J"
    assert for_html("<a\x00>") == "&lt;a\\x00&gt;"


@pytest.mark.parametrize("name", [r"$\frac{1}{$", "$x^2$", "_hidden", "\\$a$", "a\x1bb", "x" * 3000], ids=ascii)
@pytest.mark.filterwarnings("error")
def test_a_figure_shows_a_name_as_it_is(name: str, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from dsprof import plots

    settings = dict(matplotlib.rcParams)
    analysis = analyze(report(tmp_path, "kernel"), stages={name: "^(prefill|decode)$", "prefill": "^$"}, step="kernel")
    for draw in (getattr(plots, one) for one in plots.__all__ if one != "rank_heatmap"):
        figure = draw(analysis)
        figure.savefig(io.BytesIO())
        texts = [one for one in figure.findobj(matplotlib.text.Text) if one.get_text()]
        assert [one.get_text() for one in texts if UNSEEN.search(one.get_text())] == []
        assert [one.get_text() for one in texts if one._preprocess_math(one.get_text())[1]] == []
        if draw in (plots.family_bars, plots.idle_causes):
            shown = " ".join(one.get_text() for one in texts).replace(r"\$", "$")
            assert visible(name)[:59] in shown
    assert dict(matplotlib.rcParams) == settings, "a notebook's own figures keep their mathematics"


def needs_models(arguments: Iterable[object]) -> None:
    """Skip where what the workloads need is not installed: it is an extra."""
    if "workloads" in arguments:
        for module in ("PIL", "torch", "transformers"):
            pytest.importorskip(module, reason="the model's libraries are an extra")


# -- the command line -----------------------------------------------------------------------------------


def dsprof(*arguments: object, **keywords: object) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "dsprof", *(os.fsencode(str(word)) for word in arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, **keywords)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ["\x1b]0;pwned\x07.sqlite", "a\udcff\udcfe.sqlite", "\x9b2J.sqlite", "[bold].sqlite"])
@pytest.mark.parametrize("there", [True, False], ids=["report", "missing"])
def test_a_file_of_any_name(name: str, there: bool, tmp_path: Path) -> None:
    path = tmp_path / name
    if there:
        report(tmp_path, "kernel").rename(path)
    for arguments in (["analyze", path], ["table", path, "kern_sum"], ["analyze", path, "--format", "markdown"]):
        ended = dsprof(*arguments)
        assert ended.returncode == (0 if there else 3), ended.stderr
        assert not re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", ended.stdout + ended.stderr)
        assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["\x1b[2Jx"],
        ["analyze", "x", "--format", "\x1b[2J"],
        ["analyze", "x", "--\x1b[2J"],
        ["analyze", "x", "--stage", "\x1b="],
    ],
    ids=ascii,
)
def test_a_wrong_argument_is_quoted_safely(arguments: list[str]) -> None:
    ended = dsprof(*arguments)
    assert ended.returncode == 2
    assert b"\x1b" not in ended.stderr + ended.stdout
    assert b"\\x1b" in ended.stderr


def test_a_wrong_choice_names_the_choices(tmp_path: Path) -> None:
    path = report(tmp_path, "kernel")
    for arguments, choices in (
        (["analyze", path, "--format", "jsn"], [b"json", b"markdown", b"rich"]),
        (["table", path, "kern_sum", "--format", "jsn"], [b"csv", b"parquet"]),
        (["analyze", path, "--threads", "x"], [b"thread", b"process"]),
    ):
        ended = dsprof(*arguments)
        assert ended.returncode == 2
        assert all(choice in ended.stderr for choice in choices), ended.stderr


def test_a_table_that_is_near_is_named(tmp_path: Path) -> None:
    ended = dsprof("table", report(tmp_path, "kernel"), "kernsum")
    assert ended.returncode == 14
    assert b"Did you mean kern_sum?" in ended.stderr


@pytest.mark.parametrize("rest", ["| head -c 1", "| true", ">&-", "2>&-", ">&- 2>&-", "<&- >&-"])
@pytest.mark.parametrize(
    "words", ["analyze {}", "table {} kern_trace --format csv", "--help", "tables", "analyze {}.nowhere"]
)
def test_nobody_reads(words: str, rest: str, tmp_path: Path) -> None:
    path = report(tmp_path, "kernel")
    command = f"{sys.executable} -m dsprof {words.format(path)} {rest}; echo ${{PIPESTATUS[0]}} >&9"
    read, write = os.pipe()
    shell = ["bash", "-c", f"exec 9>&{write}; {command}"]
    done = subprocess.run(shell, capture_output=True, timeout=60, pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as said:
        code = int(said.read())
    assert code in ((3, 141) if "nowhere" in words else (0, 141))
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


def test_a_parquet_file_is_not_written_to_a_terminal(tmp_path: Path) -> None:
    path = report(tmp_path, "kernel")
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "dsprof", "table", path, "kern_sum", "--format", "parquet"]
    done = subprocess.run(command, stdout=inner, stderr=subprocess.PIPE, timeout=60)
    os.close(inner)
    os.close(outer)
    assert done.returncode == 2
    assert b"> table.parquet" in done.stderr
    done = subprocess.run(command, capture_output=True, timeout=60)
    assert pq.read_table(io.BytesIO(done.stdout)).num_rows == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--rows", 10**30],
        ["--rows", 0],
        ["--limit", 0],
        ["--columns", ""],
        ["--columns", "kernel,,"],
        ["--columns", "nosuch"],
        ["--sort", "-"],
        ["--sort", "--kernel"],
        ["--where", ""],
        ["--where", "kernel"],
        ["--where", "kernel = 3"],
        ["--where", "kernel =="],
        ["--where", "kernel > 3"],
        ["--where", "kernel == @app"],
        ["--where", "kernel.nosuch()"],
        ["--where", "calls // 0 == 'a"],
        ["--where", "(" * 5000 + "kernel" + ")" * 5000],
        ["--where", "kernel == nosuch"],
        ["--memory", "nan"],
        ["--memory", "1e999"],
        ["--memory", ""],
        ["--step", "a{99999999999}"],
        ["--step", "(" * 5000 + ")" * 5000],
        ["--stage", "x=" + "[" * 3000],
        ["--stage", ""],
        ["--stage", "="],
        ["--families", ""],
        ["--families", "/dev/null"],
        ["--model-config", "."],
    ],
    ids=lambda words: f"{words[0]} {str(words[1])[:20]}",
)
def test_an_odd_value_of_an_option_is_a_sentence(options: list[object], tmp_path: Path) -> None:
    ended = dsprof("table", report(tmp_path, "kernel"), "kern_sum", *options)
    assert ended.returncode in (0, 2, 15, 16, 17, 44)
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [["page", "{}/mine.png"], ["tiny", "{}"]], ids=str)
def test_what_a_workload_makes_replaces_nothing(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    needs_models(["workloads"])
    ended = dsprof("workloads", *(word.format(tmp_path) for word in command))
    assert ended.returncode == 13, ended.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"mine.png": b"mine"}


@pytest.mark.parametrize("force", [[], ["--force"]], ids=str)
def test_scrub_replaces_nothing_but_a_file(force: list[str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    ended = dsprof("scrub", report(tmp_path, "kernel"), "-o", tmp_path / "pipe", *force)
    assert ended.returncode == 34, ended.stderr
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (34, ["scrub", "{0}/run.sqlite", "-o", "{0}/" + "n" * 300]),
        (34, ["scrub", "{0}/run.sqlite", "-o", "{0}/no/such/file"]),
        (13, ["workloads", "page", "{0}/no/such.png"]),
        (13, ["workloads", "page", "{0}/pipe.png"]),
        (13, ["workloads", "page", "{0}/pipe.png", "--force"]),
        (13, ["workloads", "page", "{0}/" + "n" * 300 + ".png"]),
        (13, ["workloads", "tiny", "{0}/run.sqlite"]),
        (13, ["workloads", "tiny", "{0}/pipe.png", "--force"]),
        (15, ["analyze", "{0}/run.sqlite", "--families", "{0}/pipe.png"]),
        (15, ["analyze", "{0}/run.sqlite", "--families", "{0}"]),
        (16, ["analyze", "{0}/run.sqlite", "--model-config", "{0}/pipe.png"]),
        (16, ["analyze", "{0}/run.sqlite", "--model-config", "{0}/" + "n" * 300]),
        (36, ["workloads", "config", "tiny", "--image", "{0}/pipe.png"]),
        (36, ["capture", "{0}/pipe.png"]),
        (2, ["workloads", "tiny", "{0}/new", "--size", "x"]),
        (2, ["workloads", "tiny", "{0}/new", "--dtype", "x"]),
        (2, ["workloads", "tiny", "{0}/new", "--seed", "1" + "0" * 30]),
        (2, ["capture", "{0}/run.sqlite", "--repeat", "1" + "0" * 30]),
        (2, ["capture", "{0}/run.sqlite", "--seed", "1" + "0" * 30]),
    ],
    ids=lambda words: " ".join(words)[:60] if isinstance(words, list) else None,
)
def test_an_odd_value_is_a_sentence_and_writes_nothing(code: int, words: list[str], tmp_path: Path) -> None:
    needs_models(words)
    report(tmp_path, "kernel")
    os.mkfifo(tmp_path / "pipe.png")
    before = sorted(tmp_path.iterdir())
    ended = dsprof(*(word.format(tmp_path) for word in words))
    assert (ended.returncode, b"Traceback" in ended.stderr) == (code, False), ended.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_a_page_replaces_a_file_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(b"mine")
    needs_models(["workloads"])
    assert dsprof("workloads", "page", tmp_path / "mine.png", "--force").returncode == 0
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")


def test_a_stage_whose_name_is_no_utf8_is_a_usage_error(tmp_path: Path) -> None:
    ended = dsprof("analyze", report(tmp_path, "kernel"), "--stage", "\udcff=kernel")
    assert (ended.returncode, b"Traceback" in ended.stderr) == (2, False), ended.stderr


def unfitting(folder: Path, **rules: object) -> list[str]:
    analysis = analyze(report(folder, "my_prefill"), **rules)  # type: ignore[arg-type]
    return [one.message for one in analysis.findings if one.code == "unfitting"]


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"stages": {"x": "my_prefil$"}}, "none of 3 range names; near: my_prefill, prefill."),
        ({"stages": {"x": "0123"}}, "none of 3 range names."),
        ({"step": "^DECOD$"}, "none of 3 range names; near: decode."),
        ({"stages": {"x": "^decode"}}, "1 of 3 range names, which stages before it have."),
    ],
)
def test_a_pattern_that_fits_no_range_is_told(
    rules: dict[str, dict[str, str] | str], said: str, tmp_path: Path
) -> None:
    own = rules.get("step") or rules["stages"]["x"]  # type: ignore[index]
    what = "--step" if "step" in rules else "Stage x"
    assert unfitting(tmp_path, **rules) == [f"{what} has no range: its pattern {own} fits {said}"]


@pytest.mark.parametrize("rules", [{}, {"stages": {"x": "^my"}}, {"step": "decode"}], ids=str)
def test_nothing_is_said_of_patterns_that_fit_or_are_the_usual(rules: dict[str, object], tmp_path: Path) -> None:
    assert unfitting(tmp_path, **rules) == []


@pytest.mark.parametrize("command", [["analyze"], ["table", "--format", "csv"]], ids=str)
def test_which_session_of_several_was_taken_is_said(command: list[str], tmp_path: Path) -> None:
    for name, year in (("old", 2024), ("new\x1b[2J", 2026)):
        folder = tmp_path / name
        folder.mkdir()
        report(folder, "kernel")
        (folder / "session.json").write_text(json.dumps({"created": f"{year}-01-01T00:00:00+00:00"}))
    words = [command[0], tmp_path, *(["kern_sum"] if command[0] == "table" else []), *command[1:]]
    ended = dsprof(*words)
    assert ended.returncode == 0, ended.stderr
    assert b"dsprof: taking the newest of 2 sessions, new\\x1b[2J." in ended.stderr
    assert dsprof(words[0], tmp_path / "old", *words[2:]).stderr == b""


# -- files beside a report ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run.model.json", "session.json"])
@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"schema": "dsprof.model/1", "batch": 1e999, "config": {}, "views": []}',
        '{"batch": NaN}',
        "",
        "null",
        '{"schema": "dsprof.session/1", "reports": ["run.sqlite"], "model_config": {"hidden_size": 1'
        + "0" * 400
        + "}}",
    ],
    ids=["nested", "infinite", "nan", "empty", "null", "huge"],
)
def test_what_lies_beside_a_report_may_be_anything(name: str, content: str, tmp_path: Path) -> None:
    path = report(tmp_path, "kernel")
    (tmp_path / name).write_text(content)
    ended = dsprof("analyze", path)
    assert (ended.returncode, b"Traceback" in ended.stderr) == (0, False), ended.stderr


@pytest.mark.parametrize(
    "make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")], ids=["folder", "pipe", "link"]
)
@pytest.mark.parametrize("name", ["run.model.json", "session.json"])
def test_what_lies_beside_a_report_may_be_no_file(name: str, make: object, tmp_path: Path) -> None:
    path = report(tmp_path, "kernel")
    make(tmp_path / name)  # type: ignore[operator]
    assert dsprof("analyze", path).returncode == 0


# -- bars, full and broken streams, spreadsheets -----------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE[:8], ids=ascii)
def test_a_bar_obeys_no_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(terminal, "console", lambda stderr: Console(file=out, width=200, force_terminal=True))
    bar = Progress()
    bar(f"exporting {name} with nsys")
    bar._start()
    bar(f"unpacking {name}")
    bar.__exit__()
    said = re.sub(r"\x1b\[[0-9;?]*[mhlKA]|\r", "", out.getvalue())  # rich's own colours and moves
    assert "exporting" in said
    assert not UNSEEN.search(said), ascii(said)


@pytest.mark.parametrize("name", ["\udcff\udcfe.sqlite", "\x9b2J.sqlite", "a?b#c%20.sqlite"], ids=ascii)
def test_scrub_writes_a_file_of_any_name(name: str, tmp_path: Path) -> None:
    ended = dsprof("scrub", report(tmp_path, "kernel"), "-o", tmp_path / name)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert (tmp_path / name).read_bytes().startswith(b"SQLite format 3")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["run.sqlite", name])


@pytest.mark.parametrize("stderr", ["full", "broken"])
@pytest.mark.parametrize(
    ("code", "words"), [(3, ["analyze", "{}/nowhere"]), (2, ["analyze", "x", "--format", "jsn"]), (2, ["nosuch"])]
)
def test_an_exit_code_holds_where_the_reason_cannot_be_said(
    code: int, words: list[str], stderr: str, tmp_path: Path
) -> None:
    words = [word.format(tmp_path) for word in words]
    if stderr == "full":
        end = os.open("/dev/full", os.O_WRONLY)
    else:
        read, end = os.pipe()
        os.close(read)
    done = subprocess.run([sys.executable, "-m", "dsprof", *words], stdout=subprocess.DEVNULL, stderr=end, timeout=60)
    os.close(end)
    assert done.returncode == code


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1"], ids=ascii)
def test_a_spreadsheet_computes_no_name(text: str) -> None:
    assert for_csv(text).startswith("'")
