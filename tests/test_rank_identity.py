"""Who is which rank: as launchers told processes, recorded by `dsprof capture`, and what reports say of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.analysis.ranks import Ranks
from dsprof.answers.identity import ENVIRONMENT, RANK_FROM, Place, Told, numbered
from dsprof.arrays import NULL
from dsprof.capture.plan import Wishes
from dsprof.capture.rank import RANK_VARIABLES, rank_variables
from dsprof.model.launched import LOCAL_SIZES, PAIRS, Launched, ProcessRank, launched_of
from dsprof.nsys.processes import environment_of_process
from engines.recording import capture, ranges, stand_ins
from nsys_stats import OLD, PRIMARY, require
from trace_builder import TraceBuilder, global_pid

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(…)"


def told(rank: int, size: int = 2, **more: int) -> dict[str, int]:
    return {"RANK": rank, "WORLD_SIZE": size, **more}


# -- which rank a place is ------------------------------------------------------------------------------


def names(places: list[Place], *reports: Told, files: tuple[int, ...] = ()) -> list[tuple[int | None, str]]:
    return [
        (None if number == NULL else number, RANK_FROM[source] if source >= 0 else "")
        for number, source in numbered(places, reports, files)
    ]


def process(pid: int, device: int = 0, group: int = -1, report: int = 0) -> Place:
    return Place(report, global_pid(pid), device, group)


def launched(*variables: dict[str, int], first: int = 1) -> Told:
    """One report, whose processes are numbered from `first`."""
    return Told(Launched(dict(enumerate(variables, first))))


def test_the_environment_goes_before_the_device() -> None:
    """As with CUDA_VISIBLE_DEVICES, or a launcher that deals devices out in another order."""
    places = [process(1, device=1), process(2, device=0)]
    assert names(places, launched(told(0), told(1))) == [(0, "environment"), (1, "environment")]
    assert names(places, Told()) == [(1, "device"), (0, "device")]


def test_ranks_that_make_no_collectives_have_their_numbers() -> None:
    eight = [process(pid, device=pid) for pid in range(1, 9)]
    assert names(eight, launched(*(told(rank + 8, 16) for rank in range(8)))) == [
        (rank + 8, "environment") for rank in range(8)
    ]


def test_rank10_does_not_come_before_rank2() -> None:
    places = [process(1, report=report) for report in range(12)]
    reports = [Told(Launched(usual=told(rank, 12))) for rank in sorted(range(12), key=str)]
    assert [number for number, _ in names(places, *reports)] == sorted(range(12), key=str)
    by_file = names(places, *[Told()] * 12, files=tuple(sorted(range(12), key=str)))
    assert by_file == [(rank, "file name") for rank in sorted(range(12), key=str)]


def test_what_is_the_same_for_all_tells_nobody_apart() -> None:
    """A pod with RANK=0 in it, in which mpirun starts two ranks."""
    both = [told(0, 1, OMPI_COMM_WORLD_RANK=rank, OMPI_COMM_WORLD_SIZE=2) for rank in range(2)]
    assert names([process(1), process(2)], launched(*both)) == [(0, "environment"), (1, "environment")]
    assert names([process(1), process(2)], launched(told(0), told(0))) == [(None, ""), (None, "")]
    assert names([process(1), process(2, device=1)], launched(told(0), told(0))) == [(0, "device"), (1, "device")]


def test_a_rank_beyond_their_number_is_none() -> None:
    assert names([process(1), process(2)], launched(told(2, 2), told(0, 2))) == [(None, ""), (0, "environment")]


def test_a_process_beside_the_ranks_is_none_of_them() -> None:
    places = [process(1), process(2, device=1), process(3, device=2)]
    assert names(places, Told()) == [(0, "device"), (1, "device"), (2, "device")]
    assert names(places, launched(told(0), told(1), {})) == [(0, "environment"), (1, "environment"), (None, "")]


def test_replicas_have_their_numbers_within_their_groups_where_no_source_tells_all_apart() -> None:
    places = [process(1, 0, group=0), process(2, 1, group=0), process(3, 0, group=1), process(4, 1, group=1)]
    assert names(places, Told()) == [(0, "device"), (1, "device")] * 2


def test_one_process_alone_is_a_rank_only_where_it_was_told_so() -> None:
    assert names([process(1, device=3)], Told()) == [(None, "")]
    assert names([process(1, device=3)], Told(Launched(usual=told(5, 8)))) == [(5, "environment")]


def test_a_device_that_contradicts_what_is_trusted_tells_nothing() -> None:
    places = [process(1, device=1), process(2, device=0)]
    assert names(places, launched(told(0), {})) == [(0, "environment"), (None, "")]
    assert names(places, launched(told(1), {})) == [(1, "environment"), (0, "device")]


def test_the_names_that_are_read_are_recorded() -> None:
    assert {name for pair in PAIRS for name in pair if name} | set(LOCAL_SIZES) <= RANK_VARIABLES
    assert len(RANK_FROM) > ENVIRONMENT


# -- what is recorded -----------------------------------------------------------------------------------


def test_of_an_environment_only_whole_numbers_of_ranks_are_kept() -> None:
    environment = {
        "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "hf_secret", "SLURM_PROCID": "-1", "PMI_RANK": "",
        "PMI_SIZE": "٣",
        "OMPI_COMM_WORLD_RANK": "12345678901234567890", "HF_TOKEN": "12", "MY_RANK": "4",
    }  # fmt: skip
    assert rank_variables(environment) == {"RANK": 3, "WORLD_SIZE": 8}


def test_the_environment_of_a_process() -> None:
    environment = {"RANK": "7", "EMPTY": "", "LINES": "a\nB=c", "PATH": os.environ["PATH"]}
    with subprocess.Popen([sys.executable, "-c", "input()"], env=environment, stdin=subprocess.PIPE) as child:
        while not environment_of_process(child.pid) or Path(f"/proc/{child.pid}/exe").readlink().name == "pytest":
            time.sleep(0.01)
        assert environment_of_process(child.pid) == environment
        child.communicate(b"\n")
    assert environment_of_process(child.pid) == {}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in RANK_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with stand_ins(tmp_path, monkeypatch) as folder:
        yield folder


def ranks_of(folder: Path) -> list[dict[str, Any]]:
    record: list[dict[str, Any]] = json.loads((folder / "session.json").read_text())["ranks"]
    return record


#: A launcher of two ranks on one node, which knows no option: they have other numbers than their devices.
FORKING = """
import os, subprocess, sys
ranks = [
    subprocess.Popen([sys.executable, "child.py"], env={**os.environ, "RANK": str(4 + n), "WORLD_SIZE": "8"})
    for n in range(2)
]
print("pids", *(rank.pid for rank in ranks), flush=True)
sys.exit(max(rank.wait() for rank in ranks))
"""
CHILD = "import time; from dsprof.workloads import toy; toy.main(['1', '2']); time.sleep(2)"


@pytest.mark.nsys
@pytest.mark.parametrize("version", [PRIMARY, OLD])
def test_a_report_of_a_node_records_each_process_and_its_rank(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setenv("SECRET_RANK_TOKEN", "swordfish-0815-swordfish")
    Path("launch.py").write_text(FORKING)
    Path("child.py").write_text(CHILD)
    made = capture(require(version), [sys.executable, "launch.py"])
    assert made.trouble is None
    pids = [int(text) for text in (made.folder / "workload.log").read_text().split("pids ")[1].split()[:2]]
    expected = [{"variables": told(4 + n, 8), "pid": pid, "report": ""} for n, pid in sorted(enumerate(pids))]
    assert ranks_of(made.folder) == sorted(expected, key=lambda one: one["pid"])
    assert "swordfish" not in (made.folder / "session.json").read_text()
    found = launched_of(json.loads((made.folder / "session.json").read_text()), made.exports[0].name)
    assert found is not None
    assert [found.of(pid).get("RANK") for pid in pids] == [4, 5]


@pytest.mark.nsys
@pytest.mark.parametrize(
    ("launcher", "variables"),
    [
        (("mpirun", "-n", "2"), ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")),
        (("srun", "-n", "2"), ("SLURM_PROCID", "SLURM_NTASKS")),
    ],
)
def test_each_rank_has_a_record_of_its_report(
    temporary: Path, launcher: tuple[str, ...], variables: tuple[str, str]
) -> None:
    made = capture(require(PRIMARY), [*launcher, sys.executable, "-m", "dsprof.workloads.toy", "1", "2"])
    assert [path.name for path in made.exports] == ["run.r0.sqlite", "run.r1.sqlite"]
    for rank, (one, export) in enumerate(zip(ranks_of(made.folder), made.exports, strict=True)):
        assert (one["report"], one["pid"]) == (f"r{rank}", None)
        assert [one["variables"][name] for name in variables] == [rank, 2]
        found = launched_of(json.loads((made.folder / "session.json").read_text()), export.name)
        assert found is not None
        assert found.of(4711)[variables[0]] == rank


@pytest.mark.nsys
def test_torchrun_per_rank_records_what_it_told(temporary: Path) -> None:
    pytest.importorskip("torch")
    Path("child.py").write_text(CHILD)
    command = ["torchrun", "--standalone", "--nproc-per-node=2", "child.py"]
    made = capture(require(PRIMARY), command, wishes=Wishes(per_rank=True))
    assert [path.name for path in made.exports] == ["run.r0.sqlite", "run.r1.sqlite"]
    assert [ranges(path)["prefill"] for path in made.exports] == [1, 1]
    for rank, one in enumerate(ranks_of(made.folder)):
        assert one["report"] == f"r{rank}"
        assert one["variables"].items() >= told(rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE=2).items()


@pytest.mark.nsys
def test_a_capture_that_a_launcher_started_records_its_own_rank(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``srun dsprof capture …``: also of a program that is over before anybody looks."""
    monkeypatch.setenv("SLURM_PROCID", "11")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "12")
    made = capture(require(PRIMARY), [sys.executable, "-m", "dsprof.workloads.toy", "1", "2"])
    assert ranks_of(made.folder)[0] == {
        "variables": {"SLURM_PROCID": 11, "SLURM_STEP_NUM_TASKS": 12}, "pid": None, "report": ""
    }  # fmt: skip
    found = launched_of(json.loads((made.folder / "session.json").read_text()), "run.sqlite")
    assert found is not None
    assert found.of(1)["SLURM_PROCID"] == 11


# -- what an analysis makes of it -----------------------------------------------------------------------


def data_parallel(pids: tuple[int, ...], kernel: str = "gemm") -> TraceBuilder:
    """Processes that talk to nobody, on one device each."""
    report = TraceBuilder()
    for device, pid in enumerate(pids):
        for number in range(3):
            at = 10_000 * number
            report.kernel(kernel, at=(at + 100, at + 900), call=(at, at + 50), pid=pid, device=device)
    return report


def session(folder: Path, *processes: ProcessRank, reports: tuple[str, ...] = ("run.nsys-rep",)) -> None:
    ranks = [{"pid": one.pid, "report": one.report, "variables": one.variables} for one in processes]
    record = {"schema": "dsprof.session/1", "reports": reports, "ranks": ranks}
    (folder / "session.json").write_text(json.dumps(record))


def seen(analysis: Analysis) -> list[tuple[int, int, str]]:
    table = analysis["rank_sum"]
    return [(row.pid, row.rank, row.rank_from) for row in table.itertuples()]


def test_processes_of_a_capture_have_the_ranks_that_they_were_told(tmp_path: Path) -> None:
    session(tmp_path, ProcessRank(told(1), 70), ProcessRank(told(0), 80), ProcessRank(told(7, 8)))
    path = data_parallel((70, 80)).write(tmp_path / "run.sqlite")
    assert seen(dsprof.analyze(path)) == [(70, 1, "environment"), (80, 0, "environment")]
    other = path.rename(tmp_path / "other.sqlite")  # which the record is not of
    assert seen(dsprof.analyze(other)) == [(70, 0, "device"), (80, 1, "device")]


def test_reports_of_ranks_have_the_ranks_that_they_were_told(tmp_path: Path) -> None:
    names = tuple(f"run.r{rank}.nsys-rep" for rank in range(12))
    records = [ProcessRank(told(11 - rank, 12), report=f"r{rank}") for rank in range(12)]
    session(tmp_path, *records, reports=names)
    paths = [data_parallel((7,)).write(tmp_path / f"run.r{rank}.sqlite") for rank in range(12)]
    table = Ranks.of(dsprof.analyze(path) for path in paths)["rank_sum"]
    assert table["rank"].tolist() == [11 - rank for rank in range(12)]
    assert set(table["rank_from"]) == {"environment"}
    assert seen(dsprof.analyze(paths[3])) == [(7, 8, "environment")]


def test_a_report_of_a_rank_has_nothing_of_other_processes() -> None:
    """Whose numbers may be those of another node."""
    one, other = {"RANK": 1, "WORLD_SIZE": 2}, {"RANK": 0}
    ranks = [{"variables": other}, {"variables": one, "report": "r1"}, {"variables": other, "pid": 7}]
    assert launched_of({"ranks": ranks}, "run.r1.nsys-rep") == Launched({}, one)
    assert launched_of({"ranks": ranks}, "run.r1.2.sqlite") == Launched({}, one)
    assert launched_of({"ranks": ranks}, "run.r11.nsys-rep") is None
    assert launched_of({"ranks": ranks}, "run.nsys-rep") == Launched({7: other}, other)


@pytest.mark.parametrize(
    "ranks",
    [
        None, 3, "x", [3], [{}], [{"variables": 3}], [{"variables": {"RANK": "3"}}], [{"variables": {"RANK": True}}],
        [{"variables": {"RANK": -1}}], [{"variables": {"RANK": 1 << 70}}], [{"variables": {"RANK": 1}, "pid": "x"}],
        [{"variables": {"RANK": 1}, "report": 3}],
    ],
)  # fmt: skip
def test_a_record_that_says_what_cannot_be_says_nothing(ranks: object) -> None:
    assert launched_of({"ranks": ranks}, "run.sqlite") is None


# -- which ranks there should be ------------------------------------------------------------------------


def said(analysis: Analysis | Ranks) -> list[str]:
    codes = ("missing-ranks", "ranks-twice", "no-kernels-of-rank", "lost-kernels")
    return [str(one) for one in analysis.findings if one.code in codes]


def test_a_rank_that_ran_and_has_no_kernels_is_missing(tmp_path: Path) -> None:
    told_all = [ProcessRank(told(rank, 16, LOCAL_WORLD_SIZE=4), 60 + rank) for rank in range(4)]
    session(tmp_path, *told_all, ProcessRank(told(1, 16), 99))  # which rank 1 started
    (found,) = said(dsprof.analyze(data_parallel((60, 61, 63)).write(tmp_path / "run.sqlite")))
    assert found.startswith("3 of 4 ranks of this node have kernels in the report. Missing: rank 2 (process 62).")
    assert said(dsprof.analyze(data_parallel((60, 61, 62, 63)).write(tmp_path / "run.sqlite"))) == []


def test_a_rank_that_nobody_saw_is_missing_by_the_number_of_the_node(tmp_path: Path) -> None:
    session(tmp_path, *(ProcessRank(told(rank, LOCAL_WORLD_SIZE=3), 60 + rank) for rank in range(2)))
    (found,) = said(dsprof.analyze(data_parallel((60, 61)).write(tmp_path / "run.sqlite")))
    assert found.startswith("2 of 3 ranks of this node have kernels in the report. Waiting")


def test_what_is_selected_is_no_missing_rank(tmp_path: Path) -> None:
    session(tmp_path, ProcessRank(told(0), 60), ProcessRank(told(1), 61))
    path = data_parallel((60, 61)).write(tmp_path / "run.sqlite")
    assert said(dsprof.analyze(path, pid=60)) == said(dsprof.analyze(path)) == []


def test_a_rank_that_is_there_twice(tmp_path: Path) -> None:
    session(tmp_path, *(ProcessRank(told(rank, 3), pid) for rank, pid in ((0, 60), (1, 61), (2, 62), (2, 63))))
    analysis = dsprof.analyze(data_parallel((60, 61, 62, 63)).write(tmp_path / "run.sqlite"))
    (found,) = said(analysis)
    assert "rank 2 by process 62 and process 63." in found
    assert {source for _, _, source in seen(analysis)} == {"device"}


def test_workers_of_a_task_are_not_its_rank_twice(tmp_path: Path) -> None:
    """``srun dsprof capture -- vllm serve``: what it starts has its task's number."""
    task = {"SLURM_PROCID": 0, "SLURM_STEP_NUM_TASKS": 1}
    session(tmp_path, ProcessRank(task), *(ProcessRank(task, pid) for pid in (60, 61)))
    analysis = dsprof.analyze(data_parallel((60, 61)).write(tmp_path / "run.sqlite"))
    assert said(analysis) == []
    assert seen(analysis) == [(60, 0, "device"), (61, 1, "device")]


def test_a_rank_all_of_whose_kernels_are_lost_is_no_fast_rank(tmp_path: Path) -> None:
    report = data_parallel((60, 61))
    for number in range(50):
        report.api(call=(1000 * number, 1000 * number + 50), pid=62)
    (found,) = said(dsprof.analyze(report.write(tmp_path / "run.sqlite")))
    assert found.startswith(
        "Process 62 launched 50 kernels, and none is in the report, where others have theirs: it is no"
    )
    alone = TraceBuilder()
    alone.range("prefill", 0, 100_000, pid=62)
    for number in range(50):
        alone.api(call=(1000 * number, 1000 * number + 50), pid=62)
    (found,) = said(dsprof.analyze(alone.write(tmp_path / "run.sqlite")))
    assert found.startswith("50 of 50 kernel launches of process 62 have no kernel")


def of_reports(folder: Path, ranks: tuple[int, ...], size: int, empty: tuple[int, ...] = ()) -> Ranks:
    files = tuple(f"run.r{place}.nsys-rep" for place in range(len(ranks)))
    session(folder, *(ProcessRank(told(rank, size), report=f"r{n}") for n, rank in enumerate(ranks)), reports=files)
    analyses = []
    for place in range(len(ranks)):
        report = data_parallel((7,))
        if place in empty:
            report = TraceBuilder().range("prefill", 0, 1000)
        analyses.append(dsprof.analyze(report.write(folder / f"run.r{place}.sqlite"), reuse=False))
    return Ranks.of(analyses)


def test_of_several_reports_the_missing_ranks_are_named_in_natural_order(tmp_path: Path) -> None:
    (found,) = said(of_reports(tmp_path, (0, 1, 3, 4, 5, 6, 7, 8, 9, 11), 12))
    assert found.startswith("10 of 12 ranks are in the reports. Missing: rank 2, rank 10.")
    (tmp_path / "all").mkdir()
    assert said(of_reports(tmp_path / "all", tuple(range(12)), 12)) == []


def test_a_report_of_a_rank_without_kernels_is_told(tmp_path: Path) -> None:
    lost, missing = said(of_reports(tmp_path, (0, 1, 2), 3, empty=(1,)))
    assert lost.startswith("run.r1.sqlite has no kernels: it is no fast rank")
    assert missing.startswith("2 of 3 ranks are in the reports. Missing: rank 1.")


def test_a_rank_in_two_reports_is_told(tmp_path: Path) -> None:
    missing, twice = said(of_reports(tmp_path, (0, 1, 1, 2), 5))
    assert missing.startswith("4 of 5 ranks are in the reports. Waiting")
    assert "rank 1 by run.r1.sqlite and run.r2.sqlite." in twice
