"""Many reports as one analysis: what fails is a row, what is there is not made again, what is gathered is whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import dsprof
from dsprof.analysis import gather as gathering
from dsprof.analysis import one_report as one
from dsprof.analysis.kept_ranks import keep_ranks, kept_ranks
from dsprof.analysis.many import ManyAnalysis, analyze_many
from dsprof.analysis.matched_tables import TOLD
from dsprof.analysis.options import AnalysisOptions
from dsprof.analysis.ranks import RankReport, Ranks
from dsprof.analysis.which import Named, files_of, named
from dsprof.analysis.workers import On
from dsprof.errors import OutputRefused, ReportMissing, UnknownTable, WorkersUnavailable
from dsprof.tables import all_tables
from dsprof.tables._table import EventTable
from trace_builder import TraceBuilder

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(…)"
MS = 1_000_000


def made(
    path: Path, late: int = 0, slow: float = 1.0, collectives: int = 8, requests: int = 4, device: int = 0
) -> Path:
    """A made report of a rank: requests of one stage, in which each collective begins so much later on this rank.

    All ranks end a collective at one moment, 2 ms after the first could begin it, whatever it is late.
    """
    report = TraceBuilder("2025.3.2")
    clock = 0
    for _ in range(requests):
        begin = clock
        for number in range(collectives):
            at = clock + number * 3 * MS
            report.kernel("gemm", at=(at, at + 100_000), call=(at, at + 1_000), device=device)
            report.kernel(ALL_REDUCE, at=(at + 200_000 + late, at + 2 * MS), call=(at + 2_000, at + 3_000),
                          device=device)  # fmt: skip
        if not collectives:
            report.kernel("gemm", at=(begin, begin + int(10 * MS * slow)), call=(begin, begin + 1_000), device=device)
        length = max(collectives * 3 * MS, int(12 * MS * slow))
        report.range("prefill", begin, begin + length)
        clock += length + 50 * MS
    return report.sql("UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = 1000000000").write(path)


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: a run of twelve ranks without collectives, the tenth slow; one of four, the third late; an even one."""
    folder = tmp_path_factory.mktemp("reports")
    for rank in range(12):
        made(folder / f"dp-rank{rank}.sqlite", slow=1.3 if rank == 10 else 1 + 0.001 * (rank % 3), collectives=0)
    for rank in range(4):
        made(folder / f"tp-rank{rank}.sqlite", late=1_000_000 if rank == 2 else rank * 1_000)
        made(folder / f"even-rank{rank}.sqlite", late=rank * 1_000)
    return folder


@pytest.fixture(scope="module")
def many(reports: Path, tmp_path_factory: pytest.TempPathFactory) -> ManyAnalysis:
    return analyze_many([reports], on="loop", out=tmp_path_factory.mktemp("out") / "all.dsprof")


def rows(many: ManyAnalysis) -> dict[str, dict[str, Any]]:
    return {row["report"]: row for row in many.arrow("reports").to_pylist()}


# -- what is named -------------------------------------------------------------------------------------------


def test_files_are_found_once_and_in_natural_order(tmp_path: Path) -> None:
    for name in ("b-rank10.sqlite", "b-rank2.sqlite", "b-rank2.nsys-rep", "a.sqlite"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("no report")
    (tmp_path / "job-1").mkdir()
    (tmp_path / "job-1" / "run.sqlite").write_bytes(b"x")
    (tmp_path / "job-1" / "other.sqlite").write_bytes(b"x")
    (tmp_path / "job-2").mkdir()
    paths = [tmp_path, tmp_path / "job-*/", tmp_path / "b-rank2.sqlite", tmp_path / "*"]
    found = [str(path.relative_to(tmp_path)) for path in files_of(paths)]
    assert found == ["a.sqlite", "b-rank2.nsys-rep", "b-rank10.sqlite", "job-1/run.sqlite", "job-2"]
    with pytest.raises(ReportMissing, match="No report and no folder fits"):
        files_of([tmp_path / "nothing-*"])
    with pytest.raises(ReportMissing):
        analyze_many([])


@pytest.mark.parametrize(
    ("name", "run", "rank"),
    [
        ("x/tp-rank0.sqlite", "tp", 0),
        ("x/run.r12.nsys-rep", "run", 12),
        ("x/rank_3.sqlite.xz", "rank_3", 3),  # of no run but the folder, which is the one of all
        ("x/plain.sqlite", "plain", None),
        ("x/error3.sqlite", "error3", None),
    ],
)
def test_runs_and_ranks_by_name(name: str, run: str, rank: int | None, tmp_path: Path) -> None:
    (found,) = named([tmp_path / name], tmp_path / "out")
    assert (found.run, found.rank, found.rank_from) == (run, rank, None if rank is None else "file name")


def test_runs_of_folders_are_apart_unless_a_pattern_says_otherwise(tmp_path: Path) -> None:
    files = [tmp_path / f"node{node}" / f"run.r{node}.sqlite" for node in (10, 2)]
    assert [one.run for one in named(files, tmp_path)] == ["node2/run", "node10/run"]
    found = named(files, tmp_path, r"(?P<node>node\d+)/(?P<run>\w+)\.r(?P<rank>\d+)")
    assert [(one.run, one.node, one.rank, one.rank_from) for one in found] == [
        ("run", "node2", 2, "name pattern"), ("run", "node10", 10, "name pattern")]  # fmt: skip
    assert len({one.key for one in found}) == 2
    with pytest.raises(ValueError, match="must have groups among"):
        named(files, tmp_path, r"node(\d+)")
    with pytest.raises(ValueError, match="no regular expression"):
        named(files, tmp_path, "(")


def test_results_are_known_by_the_way_from_their_folder(reports: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(reports, moved / "reports")
    first = analyze_many([moved / "reports" / "tp-rank*.sqlite"], on="loop", tables=["kern_sum"])
    assert first.folder == moved / "reports" / "reports.dsprof"
    assert set(first["reports"].status) == {"new"}
    (moved / "reports").rename(moved / "elsewhere")
    again = analyze_many([moved / "elsewhere" / "tp-rank*.sqlite"], on="loop", tables=["kern_sum"])
    assert set(again["reports"].status) == {"before"}


# -- the tables ----------------------------------------------------------------------------------------------


def test_every_table_holds_the_rows_of_each_report(reports: Path, many: ManyAnalysis) -> None:
    assert list(many) == sorted([*all_tables(), "reports"])
    path = reports / "tp-rank2.sqlite"
    alone = dsprof.analyze(path, folder=many.folder / "nowhere")
    of_ranks = {"collective_sum", "collective_trace", "rank_sum"}
    for name, table in all_tables().items():
        whole = many.arrow(name)
        if not isinstance(table, EventTable):
            assert whole.column_names[:4] == ["report", "run", "node", "rank"], name
        mine = whole.filter(ds.field("report") == path.name)
        if name == "request_trace":  # one that several ranks make together is one
            each = [pq.read_table(one) for one in (many.folder / "reports").glob("*/request_trace.parquet")]
            assert sum(whole.column("ranks").to_pylist()) == sum(map(len, each)) > len(whole)
            continue
        assert len(mine) == len(alone.arrow(name)), name
        columns = [one for one in alone.arrow(name).column_names if one not in ("rank", "rank_from", *TOLD)]
        if name in of_ranks:  # matched with others: see below
            continue
        assert mine.select(columns).to_pylist() == alone.arrow(name).select(columns).to_pylist(), name
    assert whole.schema.field("stage").metadata[b"description"]


def test_collectives_are_matched_over_the_reports_of_a_run(reports: Path, many: ManyAnalysis) -> None:
    ranks = Ranks.of(dsprof.analyze(reports / f"tp-rank{rank}.sqlite") for rank in range(4))
    for name in ("collective_trace", "collective_sum", "rank_sum"):
        mine = many[name][many[name].run == "tp"].drop(columns=["report", "run", "node", "rank", "rank_from"])
        direct = ranks[name].drop(columns=["report", "rank", "rank_from"])
        pd.testing.assert_frame_equal(mine.reset_index(drop=True), direct, check_categorical=False)
    trace = many["collective_trace"]
    assert trace[trace.run == "tp"].ranks.eq(4).all()
    late = trace[(trace.run == "tp") & (trace["last"] == "yes")]
    assert set(late["rank"]) == {2}
    assert set(trace[trace.run == "tp"].report) == {f"tp-rank{rank}.sqlite" for rank in range(4)}


def test_clocks_and_residuals_are_told_of_each_report(many: ManyAnalysis) -> None:
    found = many["reports"].set_index("report")
    matched = found[found.residual_ns.notna()]
    assert set(matched.run) == {"tp", "even"}
    assert set(matched.clock_from) == {"capture begin"}
    assert set(matched.residual_ns) == {0}
    assert set(matched.clock_shift_ns) == {0}


@pytest.mark.parametrize("kind", ["gpu", "overlap", "data"])
def test_busy_time_of_recorded_ranks_is_told_by_matching_in_every_table(kind: str, tmp_path: Path) -> None:
    samples = Path(__file__).resolve().parents[1] / "traces/samples"
    names = [samples / f"h100x2-{kind}-rank{rank}.sqlite.xz" for rank in range(2)]
    found = analyze_many(names, on="loop", out=tmp_path / "out")
    parts, talk = ["compute", "transfer", "wait", "unmatched", "other"], ["transfer", "wait", "unmatched"]
    stages, sums, steps = (found[name] for name in ("stage_trace", "stage_sum", "step_trace"))
    assert (stages[[f"{part}_ns" for part in parts]].sum(axis=1) == stages["gpu_busy_ns"]).all()
    assert (sums[[f"{part}_total_ns" for part in parts]].sum(axis=1) == sums["gpu_busy_total_ns"]).all()
    assert sums["unmatched_total_ns"].sum() == steps["unmatched_ns"].sum() == 0

    def by_rank(table: pd.DataFrame, column: str) -> dict[Any, int]:
        told = table.groupby(["stage", "rank"], observed=True)[column].sum()
        return {key: int(value) for key, value in told.items() if value}

    for part in talk[:2]:
        whole, of_stages = by_rank(sums, f"{part}_total_ns"), by_rank(stages, f"{part}_ns")
        assert whole == by_rank(found["rank_sum"], f"{part}_exposed_ns"), part
        assert of_stages == {key: value for key, value in whole.items() if key[0] != "(no stage)"}, part
        assert all(value <= of_stages[key] for key, value in by_rank(steps, f"{part}_ns").items()), part
    working = sums[sums["wait_total_ns"].notna() & (sums["wall_total_ns"] > 0)]
    expected = 100 * (working["gpu_busy_total_ns"] - working["wait_total_ns"]) / working["wall_total_ns"]
    np.testing.assert_allclose(working["work_pct"].astype(float), expected.astype(float))
    if kind == "gpu":
        planted = stages[(stages["stage"] == "decode") & stages["steady"] & (stages["rank"] == 1)]
        assert set(planted["wait_rank"]) == {0}


def test_ranks_come_in_natural_order(many: ManyAnalysis) -> None:
    found = many["reports"]
    assert list(found[found.run == "dp"]["rank"]) == list(range(12))
    assert set(found.rank_from) == {"file name"}
    assert list(dict.fromkeys(many["stage_sum"].query("run == 'dp'")["rank"])) == list(range(12))


def test_a_pattern_tells_ranks_of_names_that_say_none(reports: Path, tmp_path: Path) -> None:
    for rank in range(4):
        shutil.copy(reports / f"tp-rank{rank}.sqlite", tmp_path / f"gpu{3 - rank}_x.sqlite")
    found = analyze_many([tmp_path], on="loop", name_pattern=r"gpu(?P<rank>\d)_(?P<run>x)")
    assert list(found["reports"].run) == ["x"] * 4
    assert list(found["reports"].report) == [f"gpu{rank}_x.sqlite" for rank in range(4)]
    trace = found["collective_trace"]
    assert set(trace[trace["last"] == "yes"]["rank"]) == {1}, "the one that was rank 2"
    assert set(found["rank_sum"].rank_from) == {"name pattern"}
    (stage,) = found.summary().stages
    assert stage.labels[stage.holds] == "1"


def test_the_rank_of_a_report_is_told_by_its_device_before_its_name(tmp_path: Path) -> None:
    for rank in range(3):
        made(tmp_path / f"x-rank{rank}.sqlite", late=1_000_000 * (rank == 1), device=3)
        made(tmp_path / f"y-rank{rank}.sqlite", late=1_000_000 * (rank == 0), device=2 - rank)
        made(tmp_path / f"gpu-{'abc'[rank]}.sqlite", late=1_000_000 * (rank == 2), device=2 - rank)
    found = analyze_many([tmp_path], on="loop", name_pattern=r"(?P<run>gpu)")["collective_trace"]
    late = found[found["last"] == "yes"].groupby("run", observed=True)
    assert late["rank"].unique().to_dict() == {"x": [1], "gpu": [0], "y": [2]}
    assert late["rank_from"].unique().map(list).to_dict() == {
        "x": ["file name"], "gpu": ["device"], "y": ["device"]}  # fmt: skip


# -- what fails ----------------------------------------------------------------------------------------------


@pytest.fixture
def some(reports: Path, tmp_path: Path) -> Path:
    """A folder with three good reports and three that are none."""
    folder = tmp_path / "some"
    folder.mkdir()
    for rank in range(3):
        shutil.copy(reports / f"tp-rank{rank}.sqlite", folder / f"a-rank{rank}.sqlite")
    whole = (reports / "tp-rank3.sqlite").read_bytes()
    (folder / "a-rank3.sqlite").write_bytes(whole[: len(whole) // 2])
    (folder / "b.sqlite").write_bytes(b"")
    (folder / "c.sqlite").write_text("a text")
    return folder


@pytest.mark.parametrize("on", ["loop", "processes:2"])
def test_damaged_reports_are_rows_and_the_others_are_there(some: Path, on: str) -> None:
    found = analyze_many([some, some / "missing.sqlite"], on=on)
    status = {name: (row["status"], row["error"], row["exit_code"]) for name, row in rows(found).items()}
    assert status == {
        **{f"a-rank{rank}.sqlite": ("new", None, None) for rank in range(3)},
        "a-rank3.sqlite": ("failed", "ReportDamaged", 7),
        "b.sqlite": ("failed", "ReportEmpty", 4),
        "c.sqlite": ("failed", "NotAReport", 5),
        "missing.sqlite": ("failed", "ReportMissing", 3),
    }
    assert "is empty" in rows(found)["b.sqlite"]["sentence"]
    assert set(found["stage_trace"].report) == {f"a-rank{rank}.sqlite" for rank in range(3)}
    assert found["collective_trace"].ranks.eq(3).all()
    assert found.summary().failed == tuple(line for line in found.summary().reports if line.status == "failed")


def test_a_fault_of_ours_is_a_row(some: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(path: Path, *rest: Any) -> Any:
        if path.name == "a-rank1.sqlite":
            raise RuntimeError("planted")
        return of_one(path, *rest)

    of_one = one.analyze_as
    monkeypatch.setattr(one, "analyze_as", faulty)
    found = rows(analyze_many([some], on="loop"))
    assert found["a-rank1.sqlite"]["error"] == "RuntimeError"
    assert "planted (test_many.py, line" in found["a-rank1.sqlite"]["sentence"]
    assert found["a-rank1.sqlite"]["exit_code"] == 1
    assert found["a-rank0.sqlite"]["status"] == "new"


def test_a_full_disk_of_one_report_is_a_row(some: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(ranks: RankReport, path: Path, made_from: Any) -> None:
        if "rank1" in path.name:
            raise OSError(28, os.strerror(28))
        keep(ranks, path, made_from)

    keep = one.keep_ranks
    monkeypatch.setattr(one, "keep_ranks", full)
    found = rows(analyze_many([some], on="loop"))
    assert found["a-rank1.sqlite"]["status"] == "failed"
    assert "The disk is full" in found["a-rank1.sqlite"]["sentence"]
    assert found["a-rank1.sqlite"]["exit_code"] == 13
    monkeypatch.setattr(one, "keep_ranks", keep)
    assert rows(analyze_many([some], on="loop"))["a-rank1.sqlite"]["status"] == "before"


def test_all_failed(some: Path, tmp_path: Path) -> None:
    found = analyze_many([some / "b.sqlite", some / "c.sqlite"], on="loop", out=tmp_path / "out")
    assert set(found["reports"].status) == {"failed"}
    assert len(found["stage_sum"]) == len(found["kern_trace"]) == len(found["rank_sum"]) == 0
    assert "stage" in found["stage_sum"].columns


# -- workers -------------------------------------------------------------------------------------------------


def test_a_killed_worker_costs_its_report_alone(tmp_path: Path, some: Path) -> None:
    """Where one report kills whoever has it, all others are analyzed: in a program of its own, whose worker is ours."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal, sys\n"
        "from dsprof.analysis import workers\n"
        "from dsprof.analysis.many import analyze_many\n"
        "import killing\n"
        "workers._work = killing.work\n"
        f"found = analyze_many([{str(some)!r}], on='processes:2')\n"  # no `if __name__ == '__main__'`, as notebooks
        "print(found['reports'][['report', 'status', 'error', 'sentence']].to_json(orient='records'))\n"
    )
    (tmp_path / "killing.py").write_text(
        "import os, signal\n"
        "from dsprof.analysis import workers\n"
        "of_one, work_on = workers.one_report, workers._work\n"
        "def one(task):\n"
        "    if 'rank1' in task.named.name:\n"
        f"        open({str(tmp_path / 'tried')!r}, 'a').write('x')\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return of_one(task)\n"
        "def work(*given):\n"
        "    workers.one_report = one\n"
        "    work_on(*given)\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = {row["report"]: row for row in json.loads(done.stdout)}
    assert found["a-rank1.sqlite"]["error"] == "WorkersUnavailable"
    assert (tmp_path / "tried").read_text() == "xx"
    assert "2 times (killed by SIGKILL)" in found["a-rank1.sqlite"]["sentence"]
    assert [found[f"a-rank{rank}.sqlite"]["status"] for rank in (0, 2)] == ["new", "new"]
    assert found["b.sqlite"]["error"] == "ReportEmpty"


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time, waiting\n"
        "from dsprof.analysis import workers\n"
        "from dsprof.analysis.one_report import Task\n"
        "workers._work = waiting.work\n"
        "from dsprof.analysis.options import AnalysisOptions\n"
        "from dsprof.analysis.which import Named\n"
        "from pathlib import Path\n"
        "named = Named(Path('x'), 'x', 'x', 'x')\n"
        "task = Task(named, Path('x'), AnalysisOptions())\n"
        "for _ in workers.rows_of([task, task], workers.On('processes', 2)): pass\n"
    )
    (tmp_path / "waiting.py").write_text(
        "import os, time\n"
        "from dsprof.analysis import workers\n"
        "work_on = workers._work\n"
        "def one(task):\n"
        f"    open({str(tmp_path)!r} + f'/worker-{{os.getpid()}}', 'w').close()\n"
        "    time.sleep(60)\n"
        "def work(*given):\n"
        "    workers.one_report = one\n"
        "    work_on(*given)\n"
    )
    running = subprocess.Popen([sys.executable, str(program)])
    deadline = time.monotonic() + 30
    while len(pids := [int(path.name.split("-")[1]) for path in tmp_path.glob("worker-*")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.kill()
    running.wait()
    while any(Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
              for pid in pids):  # fmt: skip
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loop", On("loop")),
        ("processes:3", On("processes", 3)),
        ("tcp://host:8786", On("dask", address="tcp://host:8786")),
        ("tls://host:8786", On("dask", address="tls://host:8786")),
        ("where/scheduler.json", On("dask", address="where/scheduler.json")),
    ],
)
def test_what_on_says(text: str, expected: On) -> None:
    assert On.of(text, [1, 2]) == expected


def test_auto_takes_processes_where_they_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    assert On.of("auto", [10**6] * 10) == On("loop")
    assert On.of("auto", [10**6] * 1000) == On("processes", 4)
    assert On.of("auto", [10**9] * 2) == On("processes", 2)
    assert On.of("auto", [-(10**8)] * 2) == On("processes", 2), "packed"
    assert On.of("processes", [1] * 9) == On("processes", 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(1))
    assert On.of("auto", [10**6] * 1000) == On("loop")
    for wrong in ("", "processes:0", "dask", "processes:x"):
        with pytest.raises(ValueError, match="is none of auto, loop"):
            On.of(wrong, [])


def test_a_worker_has_its_share(some: Path) -> None:
    task = one.Task(Named(some, "x", "x", "run"), Path("/nowhere"), AnalysisOptions()).within(5, 3)
    assert (task.options.memory, task.threads, task.options.folder) == (5, 3, Path("/nowhere"))
    asked = one.Task(task.named, task.folder, AnalysisOptions(memory="2GB"), threads=1).within(5, 3)
    assert (asked.options.memory, asked.threads) == (2_000_000_000, 1)


def test_no_scheduler_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, some: Path) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(WorkersUnavailable, match=r"Dask cannot be loaded.*dsprof\[dask\]"):
        analyze_many([some], on="tcp://127.0.0.1:1", out=tmp_path / "out")


# -- again ---------------------------------------------------------------------------------------------------


def test_what_is_there_is_not_made_again(some: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = analyze_many([some], on="loop")
    before = {path: path.stat().st_ino for path in first.folder.rglob("*.parquet") if path.name != "reports.parquet"}
    monkeypatch.setattr(gathering, "_Gathering", None)
    again = analyze_many([some], on="loop")
    assert {path: path.stat().st_ino for path in before} == before
    status = {name: row["status"] for name, row in rows(again).items()}
    assert status["a-rank0.sqlite"] == "before"
    assert status["a-rank3.sqlite"] == "failed"
    assert again["reports"].residual_ns.notna().sum() == 3


def test_a_mended_report_and_a_new_one_join_the_others(some: Path, reports: Path) -> None:
    analyze_many([some], on="loop")
    shutil.copy(reports / "tp-rank3.sqlite", some / "a-rank3.sqlite")
    again = analyze_many([some], on="loop")
    status = {name: row["status"] for name, row in rows(again).items()}
    assert [status[f"a-rank{rank}.sqlite"] for rank in range(4)] == ["before", "before", "before", "new"]
    assert again["collective_trace"].ranks.eq(4).all()


def test_a_changed_report_is_analyzed_again(some: Path) -> None:
    analyze_many([some], on="loop")
    made(some / "a-rank1.sqlite", requests=2)
    again = analyze_many([some], on="loop")
    assert rows(again)["a-rank1.sqlite"]["status"] == "new"
    assert (again["stage_trace"].report == "a-rank1.sqlite").sum() == 2


def test_other_tables_and_rules_are_gathered_anew(some: Path) -> None:
    analyze_many([some], on="loop", tables=["kern_sum"])
    with pytest.raises(UnknownTable, match="left out"):
        ManyAnalysis(some / "reports.dsprof")["stage_sum"]
    found = analyze_many([some], on="loop", stages={"mine": "^prefill$"}, tables=["stage_sum", "mem_trace"])
    assert "mine" in set(found["stage_sum"].stage)
    with pytest.raises(UnknownTable):
        found["kern_trace"]
    with pytest.raises(UnknownTable):
        found["kern_sum"]


def test_a_gathering_that_breaks_off_leaves_what_was_there(some: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = analyze_many([some], on="loop")
    before = sorted(path.name for path in (first.folder / "tables").iterdir())
    kern_sum = first["kern_sum"]
    made(some / "a-rank1.sqlite", requests=2)

    def full(*given: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(gathering, "reports_table", full)
    with pytest.raises(OutputRefused, match="No space left"):
        analyze_many([some], on="loop")
    assert sorted(path.name for path in (first.folder / "tables").iterdir()) == before
    pd.testing.assert_frame_equal(ManyAnalysis(first.folder)["kern_sum"], kern_sum)
    assert sorted(path.name for path in first.folder.iterdir()) == ["reports", "tables"]


def test_a_folder_of_somebody_else_is_refused(some: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputRefused, match=r"holds thesis\.txt"):
        analyze_many([some], on="loop", out=tmp_path / "mine")
    found = analyze_many([some / "a-rank0.sqlite", some / "a-rank1.sqlite"], on="loop", out=tmp_path / "out")
    (found.folder / "tables" / "notes.txt").write_text("mine")
    with pytest.raises(OutputRefused, match=r"holds notes\.txt"):
        analyze_many([some / "a-rank0.sqlite", some / "a-rank1.sqlite"], on="loop", out=tmp_path / "out")
    assert [path.read_text() for path in tmp_path.glob("mine/*")] == ["mine"]
    with pytest.raises(ReportMissing, match="no analysis of several"):
        ManyAnalysis(tmp_path / "mine")


def test_what_is_kept_of_ranks_is_the_same(reports: Path, tmp_path: Path) -> None:
    ranks = RankReport.of(dsprof.analyze(reports / "tp-rank2.sqlite"))
    path = tmp_path / "ranks.npz"
    keep_ranks(ranks, path, {"code": "x"})
    found = kept_ranks(path, {"code": "x"})
    assert found is not None
    assert (found.file, found.began_ns) == (ranks.file, ranks.began_ns)
    assert found.collectives.names == ranks.collectives.names
    assert found.collectives.stages == ranks.collectives.stages
    for mine, theirs in ((found.collectives.columns, ranks.collectives.columns),
                         (found.collectives.compute, ranks.collectives.compute)):  # fmt: skip
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[key], theirs[key]) and mine[key].dtype == theirs[key].dtype for key in mine)
    assert kept_ranks(path, {"code": "y"}) is None
    path.write_bytes(path.read_bytes()[:-200])
    assert kept_ranks(path) is None
    assert [one.name for one in tmp_path.iterdir()] == ["ranks.npz"]


def test_lost_ranks_are_read_again(some: Path) -> None:
    first = analyze_many([some], on="loop")
    (kept,) = first.folder.glob("reports/a-rank1*.npz")
    kept.write_bytes(b"nothing")
    (some / "b.sqlite").unlink()
    again = analyze_many([some], on="loop")
    assert again["collective_trace"].ranks.eq(3).all()
    assert rows(again)["a-rank1.sqlite"]["status"] == "before"


# -- who holds the others up ---------------------------------------------------------------------------------


def test_stragglers_are_named_and_nobody_falsely(many: ManyAnalysis) -> None:
    found = {one.run: one for one in many.summary().stages}
    assert set(found) == {"dp", "tp", "even"}
    tp = found["tp"]
    assert (tp.labels[tp.holds], tp.by) == ("2", "last")
    assert tp.lines[2].last_pct == 100
    assert tp.held_ns == pytest.approx(8 * 999_000), "eight collectives, the median of three that wait a millisecond"
    assert tp.reason == "latency", "it was launched as early as on the others"
    dp = found["dp"]
    assert (dp.labels[dp.holds], dp.by) == ("10", "wall_ns")
    assert dp.held_ns == pytest.approx(0.3 * 12 * MS, rel=0.02)
    assert dp.lines[10].wait_ns is None
    assert found["even"].holds is None
    assert found["even"].in_turn == ()


def test_recorded_ranks_are_judged_as_by_their_collectives(tmp_path: Path) -> None:
    samples = Path(__file__).parents[1] / "traces" / "samples"
    names = {kind: [samples / f"h100x2-{kind}-rank{rank}.sqlite.xz" for rank in range(2)] for kind in ("even", "gpu")}
    found = analyze_many([path for paths in names.values() for path in paths], on="loop", out=tmp_path / "out")
    shown = {(one.run, one.stage): one for one in found.summary().stages}
    for kind, paths in names.items():
        waits = Ranks.of(dsprof.analyze(path, folder=tmp_path / path.name) for path in paths).waits
        for stage, (held,) in waits.items():
            if (f"h100x2-{kind}", stage) in shown:
                one = shown[f"h100x2-{kind}", stage]
                named = None if one.holds is None else one.called(one.holds)
                assert named == (None if held.straggler < 0 else held.ranks[held.straggler].name), (kind, stage)
                assert len(one.in_turn) == len(held.in_turn)
    assert shown["h100x2-gpu", "decode"].labels[shown["h100x2-gpu", "decode"].holds] == "0"
    assert shown["h100x2-even", "decode"].holds is None


# -- the benchmark -------------------------------------------------------------------------------------------


def test_the_benchmark_checks_what_it_measures(tmp_path: Path) -> None:
    command = [sys.executable, Path(__file__).parents[1] / "benchmarks" / "many.py", "--reports", "8", "--damaged", "8",
               "--workers", "--folder", tmp_path, "--out", tmp_path / "MANY.md"]  # fmt: skip
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "MANY.md").read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[-4:-1] for line in page.splitlines() if line.startswith("| a")}
    counted = {name: [cell.strip() for cell in cells] for name, cells in rows.items()}
    assert counted["a loop"] == ["7", "0", "2"], "one is damaged, the disk is full for one"
    assert counted["again, nothing changed"] == ["0", "7", "2"]
    assert "| `collective_trace` | written by who gathers |" in page
    assert str(tmp_path) not in page
