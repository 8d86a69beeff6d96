"""Many reports on the command line, on a terminal, in a notebook, on a Dask cluster; and what others read of them."""

from __future__ import annotations

import glob
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
from attrs import evolve
from rich.console import Console

from dsprof.analysis import workers
from dsprof.analysis.many import ManyAnalysis, analyze_many
from dsprof.analysis.one_report import Row, Task, failed
from dsprof.cli import main
from dsprof.errors import ReportMissing, ReportsFailed, WorkersUnavailable
from dsprof.show import plain, terminal
from dsprof.show.by_rank import StageOfRun, from_median, standing_out
from dsprof.show.html import reports_html
from dsprof.show.reports import MOST_RANKS, MOST_REPORTS, ReportsSummary, heat_of, holders, reports_grids, shown_stages
from test_many import made


@pytest.fixture
def plots():
    """The module under test, once it is known that it can draw."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install '.[notebook]'").use("agg")
    from dsprof import plots

    return plots


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve ranks without collectives, the tenth slow; one of four, the third late; and a damaged report."""
    folder = tmp_path_factory.mktemp("reports")
    for rank in range(12):
        made(folder / f"dp-rank{rank}.sqlite", slow=1.3 if rank == 10 else 1 + 0.001 * (rank % 3), collectives=0)
    for rank in range(4):
        made(folder / f"tp-rank{rank}.sqlite", late=1_000_000 if rank == 2 else rank * 1_000)
    (folder / "bad\x1b[2J.sqlite").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def many(reports: Path, tmp_path_factory: pytest.TempPathFactory) -> ManyAnalysis:
    return analyze_many([reports], on="loop", out=tmp_path_factory.mktemp("out") / "all.dsprof")


@pytest.fixture(scope="module")
def summary(many: ManyAnalysis) -> ReportsSummary:
    return many.summary()


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dsprof", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(int(ended.value.code or 0), *capsys.readouterr())

    return call


def printed(summary: ReportsSummary, width: int, colours: bool = False) -> str:
    out = Console(width=width, force_terminal=colours, color_system="standard" if colours else None, record=True,
                  file=io.StringIO())  # fmt: skip
    terminal.print_reports(summary, out)
    return out.export_text(styles=colours)


# -- the command line ----------------------------------------------------------------------------------------


def test_several_reports_on_the_command_line(reports: Path, run: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run("analyze", reports / "tp-*", "--out", tmp_path / "out", "--on", "loop")
    assert ended.code == 0, ended.err
    assert re.search(r"^prefill +rank 2 ", ended.out, re.MULTILINE)
    assert f"Tables: {tmp_path / 'out' / 'tables'}" in ended.out
    again = run("analyze", *sorted(reports.glob("tp-*.sqlite")), "--out", tmp_path / "out", "--format", "json")
    document = json.loads(again.out)
    assert document["schema"] == "dsprof.reports-summary/1"
    assert [one["status"] for one in document["reports"]] == ["before"] * 4
    (stage,) = document["stages"]
    assert (stage["holds"], stage["by"]) == (2, "last")
    anew = run("analyze", reports / "tp-*", "--out", tmp_path / "out", "--again", "--format", "markdown")
    assert "| tp-rank0.sqlite | tp | 0 | analyzed |" in anew.out


def test_failed_reports_have_an_exit_code_of_their_own(
    reports: Path, run: Callable[..., Ended], tmp_path: Path
) -> None:
    ended = run("analyze", reports, "--out", tmp_path / "out", "--tables", "stage_trace,kern_sum")
    assert ended.code == ReportsFailed.exit_code == 52
    assert "1 of 17 reports failed (exit codes 4); the others are there." in ended.err
    assert "\x1b" not in ended.out + ended.err
    assert r"! bad\x1b[2J.sqlite: ReportEmpty: " in ended.out
    assert len(ManyAnalysis(tmp_path / "out")["kern_sum"]) == 12 + 8


def test_a_table_over_all_reports(many: ManyAnalysis, run: Callable[..., Ended]) -> None:
    words = ("--where", "run == 'tp' and last_pct > 50", "--columns", "report,rank", "--format", "csv")
    assert run("table", many.folder, "rank_sum", *words).out == "report,rank\ntp-rank2.sqlite,2\n"
    assert run("table", many.folder, "reports", "--columns", "error", "--where", "status == 'failed'", "--format",
               "csv").out == "error\nReportEmpty\n"  # fmt: skip
    assert run("table", many.folder, "nothing").code == 14
    assert run("table", many.folder, "kern_trace", "--limit", "1").out.startswith("kern_trace: 304 rows")
    assert run("table", many.folder, "rank_sum", "--step", "x").code == 2


def test_one_report_is_as_before(reports: Path, run: Callable[..., Ended], tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    shutil.copy(reports / "tp-rank0.sqlite", path)
    for named in ([path], [tmp_path], [path, path], [tmp_path / "ru*"]):
        ended = run("analyze", *named)
        assert ended.code == 0
        assert f"Tables: {tmp_path / 'run.dsprof'}" in ended.out
    assert not (tmp_path / "reports.dsprof").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--on", "moon"], "'moon' is none of auto, loop"),
        (["--name-pattern", "("], "no regular expression"),
        (["--name-pattern", "x"], "must have groups"),
        (["--threads-per-report", "0"], "--threads-per-report"),
    ],
)
def test_wrong_words(words: list[str], said: str, reports: Path, run: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run("analyze", reports, "--out", tmp_path / "out", *words)
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "out").exists()


def test_strict_takes_the_least_code_of_all(run: Callable[..., Ended], tmp_path: Path) -> None:
    from trace_builder import TraceBuilder

    for name in ("a", "b"):
        report = TraceBuilder("2025.3.2").range("prefill", 0, 100)
        (report.kernel(at=(1, 2), call=(0, 1)) if name == "a" else report).write(tmp_path / f"{name}.sqlite")
    assert run("analyze", tmp_path).code == 0
    codes = ManyAnalysis(tmp_path / "reports.dsprof")["reports"].set_index("report").strict_exit
    alone = run("analyze", tmp_path / "b.sqlite", "--strict").code
    assert run("analyze", tmp_path, "--strict").code == codes.min() == alone >= 20


# -- the screen ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_screen_fits_and_begins_with_who_holds_the_others_up(summary: ReportsSummary, width: int) -> None:
    text = printed(summary, width)
    assert max(len(line) for line in text.splitlines()) <= width
    places = [
        text.index(word)
        for word in (
            "who holds the others up",
            "percent from the median rank",
            "! bad",
            "reports  ",
        )
    ]
    assert places[:3] == sorted(places[:3])
    assert re.search(r"^dp +prefill +rank 10 ", text, re.MULTILINE)
    assert re.search(r"^tp +prefill +rank 2 ", text, re.MULTILINE)
    assert "+30" in text
    assert "\x1b[2J" not in text


def test_the_heat_map_is_colour_and_number(summary: ReportsSummary) -> None:
    plainly, coloured = printed(summary, 100), printed(summary, 100, colours=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plainly
    assert re.search(r"\x1b\[[0-9;]*41m *\+30", coloured), "red"


def test_ranks_are_in_natural_order_and_wrapped(summary: ReportsSummary) -> None:
    heat = heat_of(summary.stages)
    assert heat is not None
    assert heat.columns == tuple(map(str, range(12)))
    narrow = [line.split() for line in printed(summary, 60).splitlines() if line.startswith("stage  ")]
    assert [word for line in narrow for word in line if word.isdecimal()] == list(heat.columns)


def test_many_ranks_and_reports_are_cut_and_told(summary: ReportsSummary) -> None:
    (dp,) = (one for one in summary.stages if one.run == "dp")
    lines = tuple(evolve(dp.lines[10 if rank == 37 else 0], rank=rank) for rank in range(100))
    large = StageOfRun("large", "prefill", lines, tuple(map(str, range(100))), 37, "wall_ns", 1.0)
    heat = heat_of([large])
    assert heat is not None
    assert len(heat.columns) == MOST_RANKS
    assert "37" in heat.columns
    assert heat.notes == (f"{100 - MOST_RANKS} more ranks, nearer to the median.",)
    some = ReportsSummary(tuple(summary.reports) * 3, (large,) * 30)
    grids = {grid.title: grid for grid in reports_grids(some)}
    assert len(grids["reports"].rows) == MOST_REPORTS
    assert f"{51 - MOST_REPORTS} more reports" in grids["reports"].notes[0]
    held = holders(some)
    assert held is not None
    assert "18 more stages of runs" in held.notes[-1]


def test_even_runs_are_a_sentence(summary: ReportsSummary) -> None:
    (tp,) = (one for one in summary.stages if one.run == "tp")
    even = [evolve(tp, run=f"run{number}", holds=None) for number in range(30)]
    text = printed(ReportsSummary(summary.reports, tuple(even)), 80)
    assert "Nobody holds the others up, in 30 stages of 30 runs." in text
    assert "percent from the median rank" not in text
    some = holders(ReportsSummary(summary.reports, (*even, tp)))
    assert some is not None
    assert [row[0] for row in some.rows] == ["tp"]
    assert some.notes[-1] == "Nobody in 30 others."
    alone = holders(ReportsSummary(summary.reports, (even[0],)))
    assert alone is not None
    assert alone.rows[0][:2] == ("prefill", "nobody")


def test_ctrl_c_ends_the_workers(reports: Path, tmp_path: Path) -> None:
    for number in range(40):
        shutil.copytree(reports, tmp_path / f"job-{number}")
    command = [sys.executable, "-m", "dsprof", "analyze", *tmp_path.glob("job-*"), "--on", "processes:2", "--out",
               tmp_path / "out"]  # fmt: skip
    running = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not glob.glob(f"{tmp_path}/out/reports/*/analysis.json"):  # noqa: PTH207  Path raises where one goes
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert len(children) >= 2
    deadline = time.monotonic() + 10  # Python's own tracker of resources ends when it sees that its parent has
    while any(_lives(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not (tmp_path / "out" / "tables").exists()


def _lives(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_in_text_and_html(summary: ReportsSummary, many: ManyAnalysis) -> None:
    markdown, html = plain.reports_markdown(summary), many._repr_html_()
    assert html == reports_html(summary)
    for text in (markdown, html):
        assert "\x1b" not in text
        assert text.index("who holds") < text.index("from the median rank") < text.index("bad")
    assert "background:rgba(204,70,60,1.00)" in html
    assert "<script" not in html


def test_as_a_page(many: ManyAnalysis, run: Callable[..., Ended], tmp_path: Path) -> None:
    """The numbers of the map, the names of reports, and what failed."""
    assert run("report", many.folder, "-o", tmp_path / "all.html").code == 0
    text = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert text == many.page()
    found = heat_of(shown_stages(many.summary()))
    assert found is not None
    cells = [float(value) for value in re.findall(r'data-v="([^"]+)"', text)]
    assert cells == [value for row in found.rows for value in row if value is not None]
    assert "bad\\x1b[2J" in text and "\x1b" not in text and "dp-rank10" in text
    assert run("report", many.folder, "-o", tmp_path / "b.html", "--stage", "a=b").code == 2


def test_a_run_without_ranks_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made(tmp_path / f"{name}.sqlite", requests=1)
    found = analyze_many([tmp_path], on="loop")
    assert "nobody is compared" in printed(found.summary(), 80)
    assert "nobody is compared" in plain.reports_markdown(found.summary())
    assert holders(found.summary()) is None


def test_a_heat_map_of_a_run_without_ranks_says_so(tmp_path: Path, plots) -> None:
    for name in ("a", "b"):
        made(tmp_path / f"{name}.sqlite", requests=1)
    figure = plots.rank_heatmap(analyze_many([tmp_path], on="loop"))
    assert "no run has several ranks" in figure.axes[0].texts[0].get_text()


def test_a_heat_map_for_a_notebook(many: ManyAnalysis, plots) -> None:
    figure = plots.rank_heatmap(many)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(map(str, range(12)))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dp prefill", "tp prefill"]
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers[(10, 0)] == "+30"
    only = plots.rank_heatmap(many, value="compute_ns", run="tp")
    assert [label.get_text() for label in only.axes[0].get_yticklabels()] == ["prefill"]
    with pytest.raises(ValueError, match="own_ns, wall_ns"):
        plots.rank_heatmap(many, value="speed")


def test_what_stands_out() -> None:
    assert standing_out([100.0, 112.0]) is None, "two ranks say nothing of each other's spread"
    assert standing_out([100.0, 100.0, 104.9]) is None
    assert standing_out([100.0, 100.0, 105.1]) == 2
    assert standing_out([80.0, 100.0, 120.0, 90.0, 110.0, 130.0]) is None, "all differ by as much"
    assert standing_out([100.0, None, 200.0, 100.0]) is None
    assert from_median([0, 0, 5]) == [None, None, None]


# -- Dask ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a scheduler with two workers of 800 MB, each a process of its own."""
    pytest.importorskip("distributed", reason="Dask is not installed")
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                                "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}  # fmt: skip
    common = {
        "cwd": folder,
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": environment,
        "start_new_session": True,
    }
    address = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    started = [subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", *address], **common)]
    deadline = time.monotonic() + 30
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    worker = ["--scheduler-file", str(file), "--nthreads", "1", "--memory-limit", "800MB", "--no-dashboard"]
    started += [
        subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_worker", *worker], **common) for _ in "ab"
    ]
    yield file
    for process in reversed(started):  # with the processes that a nanny has begun; one may not end when it is asked to
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def test_on_a_cluster_it_is_the_same(
    cluster: Path, reports: Path, many: ManyAnalysis, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = analyze_many([reports], on=str(cluster), out=tmp_path / "out")
    mine, theirs = found["reports"], many["reports"]
    assert list(mine.status) == list(theirs.status)
    assert list(mine.error.dropna()) == ["ReportEmpty"]
    workers = set(mine.worker.dropna())
    assert workers
    assert not any(worker.endswith(f":{os.getpid()}") for worker in workers)
    pd.testing.assert_frame_equal(found["stage_trace"], many["stage_trace"])
    pd.testing.assert_frame_equal(found["rank_sum"], many["rank_sum"])
    again = analyze_many([reports / "tp-*"], on=json.loads(cluster.read_text())["address"], out=tmp_path / "out")
    assert set(again["reports"].status) == {"before"}
    assert capfd.readouterr().err == ""


def test_a_report_that_kills_its_worker_on_a_cluster_is_a_row(
    cluster: Path, reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_one = workers.one_report

    def one(task: Task) -> Row:
        if "rank2" in task.named.name:
            os.kill(os.getpid(), signal.SIGKILL)
        return of_one(task)

    monkeypatch.setattr(workers, "one_report", one)
    found = analyze_many([reports / "tp-*"], on=str(cluster), out=tmp_path / "out")["reports"].set_index("rank")
    # Of the others, one whose row was lost with its worker is found as it was analyzed.
    assert list(found.status == "failed") == [False, False, True, False]
    assert "Dask gave this report up: KilledWorker" in found.sentence[2]
    assert found.exit_code[2] == 53


def test_a_cluster_that_sees_other_folders_is_told(
    cluster: Path, reports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one(task: Task) -> Row:
        return failed(task.named, ReportMissing("There is no file.", ""), 3)

    monkeypatch.setattr(workers, "one_report", one)
    found = analyze_many([reports / "tp-*"], on=str(cluster), out=tmp_path / "out")["reports"]
    assert found.sentence.str.contains("It is here: the worker .* must see the same folders", regex=True).all()


def test_no_cluster_is_said(tmp_path: Path, reports: Path, run: Callable[..., Ended]) -> None:
    pytest.importorskip("distributed", reason="Dask is not installed")
    ended = run("analyze", reports, "--on", tmp_path / "missing.json", "--out", tmp_path / "out")
    assert ended.code == WorkersUnavailable.exit_code == 53
    assert "There is no file" in ended.err
    assert "Traceback" not in ended.err


# -- what others read ----------------------------------------------------------------------------------------


def test_pandas_reads_it(many: ManyAnalysis) -> None:
    found = pd.read_parquet(many.folder / "tables" / "stage_trace.parquet")
    assert list(found.columns[:4]) == ["report", "run", "node", "rank"]
    assert found[found.run == "dp"].groupby("rank").wall_ns.sum().idxmax() == 10
    events = pd.read_parquet(many.folder / "tables" / "kern_trace")
    assert len(events) == 12 * 4 + 4 * 64
    assert set(events["rank"].astype(int)) == set(range(12))
    assert len(events[events.report == "tp-rank2.sqlite"]) == 64


def test_duckdb_reads_it(many: ManyAnalysis) -> None:
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    tables = many.folder / "tables"
    slowest = duckdb.sql(f"SELECT rank FROM '{tables}/stage_trace.parquet' WHERE run = 'dp' GROUP BY rank "
                         "ORDER BY sum(wall_ns) DESC LIMIT 1").fetchall()  # fmt: skip
    assert slowest == [(10,)]
    counted = duckdb.sql(f"SELECT report, count(*) FROM read_parquet('{tables}/kern_trace/**/*.parquet', "
                         "hive_partitioning = true) WHERE run = 'tp' GROUP BY ALL ORDER BY 1").fetchall()  # fmt: skip
    assert counted == [(f"tp-rank{rank}.sqlite", 64) for rank in range(4)]


def test_polars_reads_it(many: ManyAnalysis) -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    tables = many.folder / "tables"
    found = polars.read_parquet(tables / "stage_trace.parquet").filter(polars.col("run") == "dp")
    assert found.group_by("rank").agg(polars.col("wall_ns").sum()).sort("wall_ns")["rank"][-1] == 10
    events = polars.scan_parquet(tables / "kern_trace" / "**" / "*.parquet", hive_partitioning=True).collect()
    assert len(events.filter(polars.col("report") == "tp-rank2.sqlite")) == 64


def test_dask_reads_it(many: ManyAnalysis) -> None:
    dataframe = pytest.importorskip("dask.dataframe", reason="Dask's data frames are not installed")
    found = dataframe.read_parquet(many.folder / "tables" / "stage_trace.parquet")
    assert found[found.run == "dp"].groupby("rank").wall_ns.sum().compute().idxmax() == 10
    events = dataframe.read_parquet(many.folder / "tables" / "kern_trace")
    assert len(events) == 12 * 4 + 4 * 64
