"""Captures of ranks under the real nsys; mpirun and srun are stand-ins of `tests/engines`, torchrun is real."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from dsprof.capture.plan import Wishes
from dsprof.capture.watching import report_files
from dsprof.errors import ProfileFailed, RanksMissing
from engines.recording import capture, ranges, shown, stand_ins
from nsys_stats import OLD, PRIMARY, Nsys, require

pytestmark = pytest.mark.nsys

#: A rank: ranges, and then an end by its number: how it ends stands in the arguments, like ``1=fail``.
RANK = """
import os, sys, time
from dsprof.workloads import toy
rank = next(os.environ[name] for name in ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "RANK") if name in os.environ)
toy.main(["1", "2"])
how = dict(word.split("=") for word in sys.argv[1:]).get(rank, "")
print("rank", rank, how, flush=True)
if how == "sleep":
    time.sleep(60)
if how == "fail":
    sys.exit(5)
"""


@pytest.fixture(scope="module")
def nsys() -> Nsys:
    return require(PRIMARY)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "rank.py").write_text(RANK)
    with stand_ins(tmp_path, monkeypatch) as folder:
        yield folder


# -- ranks ------------------------------------------------------------------------------------------------


def ranked(*launcher: str, how: tuple[str, ...] = ()) -> list[str]:
    return [*launcher, sys.executable, "rank.py", *how]


@pytest.mark.parametrize(
    ("launcher", "version"),
    [(("mpirun", "-n", "2"), PRIMARY), (("mpirun", "-n", "2"), OLD), (("srun", "-n", "2", "--mpi=none"), PRIMARY)],
)
def test_each_rank_has_a_report(launcher: tuple[str, ...], version: str) -> None:
    made = capture(require(version), ranked(*launcher))
    assert (made.trouble, made.profile.ending, made.profile.short) == (None, "finished", "")
    assert [path.name for path in made.exports] == ["run.r0.sqlite", "run.r1.sqlite"]
    assert [ranges(path)["prefill"] for path in made.exports] == [1, 1]
    assert [(one.rank, one.size, one.code) for one in made.profile.ranks] == [("r0", 2, 0), ("r1", 2, 0)]
    assert not list(made.folder.glob("*.rank"))
    assert "one report for each rank" in shown()


def test_reports_of_ranks_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = [f"run.r{rank}{turn}.nsys-rep" for rank in range(12) for turn in ("", ".1", ".2", ".10")]
    for name in sorted(names):
        (tmp_path / name).touch()
    assert [path.name for path in report_files(tmp_path)] == names


def test_ranks_without_a_number_are_known_by_their_process(nsys: Nsys) -> None:
    made = capture(nsys, ["mpirun", "-q", "-n", "2", sys.executable, "-m", "dsprof.workloads.toy", "1", "2"])
    assert len(made.exports) == 2
    assert all(path.name.startswith("run.p") for path in made.exports)
    assert made.trouble is None


def test_a_rank_that_fails_takes_no_report_of_the_others_with_it(nsys: Nsys) -> None:
    """The launcher ends the other rank by SIGTERM to what it started, while its program sleeps."""
    made = capture(nsys, ranked("mpirun", "-n", "2", how=("0=sleep", "1=fail")))
    assert (made.profile.ending, made.profile.exit_code, made.trouble) == ("failed", 5, None)
    assert [ranges(path)["prefill"] for path in made.exports] == [1, 1]
    assert [one.code for one in made.profile.ranks] == [143, 5]


def test_the_time_limit_ends_the_programs_of_ranks_and_keeps_their_reports(nsys: Nsys) -> None:
    command = ranked("srun", "-n", "2", how=("0=sleep", "1=sleep"))
    made = capture(nsys, command, profile={"limit_s": 4.0, "patience_s": 10.0})
    assert made.profile.ending == "time-limit"
    assert [ranges(path)["prefill"] for path in made.exports] == [1, 1]


def test_capture_ranges_of_ranks_are_numbered_within_each(nsys: Nsys) -> None:
    told = {"capture_range": "nvtx", "nvtx_capture": "decode@dsprof", "capture_range_end": "repeat:2"}
    command = ["mpirun", "-n", "2", sys.executable, "-m", "dsprof.workloads.toy", "2", "2"]
    made = capture(nsys, command, profile=told)
    assert made.trouble is None
    assert [path.name for path in made.exports] == [f"run.r{rank}.{turn}.sqlite" for rank in (0, 1) for turn in (1, 2)]


def test_each_rank_has_the_variables_of_its_engine(nsys: Nsys) -> None:
    """Also where the launcher does not hand on what it has; what a rank has set is its own."""
    program = "import os; print('has', os.environ['SGLANG_ENABLE_NVTX_SCHEDULER'], flush=True)"
    Path("sglang").mkdir()
    for name in ("__init__", "launch_server"):
        Path("sglang", f"{name}.py").write_text(program if name == "launch_server" else "")
    command = ["srun", "-n", "1", "env", "-u", "X", sys.executable, "-m", "sglang.launch_server"]
    made = capture(nsys, command, wishes=Wishes(leave_out=("--capture-range",)))
    assert made.session.launchers == ("srun", "sglang")
    assert "has 1" in shown()


def test_a_launcher_that_is_not_installed(nsys: Nsys) -> None:
    Path("bin/srun").unlink()
    with pytest.raises(ProfileFailed, match=r"srun cannot be run .* whether it is installed"):
        capture(nsys, ranked("srun", "-n", "2"))


# -- torchrun, the real one -------------------------------------------------------------------------------

GLOO = """
import torch.distributed as dist
from dsprof.workloads import toy
dist.init_process_group("gloo")
toy.main(["1", "2"])
dist.barrier()
print("rank", dist.get_rank(), "of", dist.get_world_size(), flush=True)
dist.destroy_process_group()
"""


def test_torchrun_with_one_report_for_each_rank(nsys: Nsys) -> None:
    pytest.importorskip("torch")
    Path("train.py").write_text(GLOO)
    command = ["torchrun", "--standalone", "--nproc-per-node=2", "train.py"]
    made = capture(nsys, command, wishes=Wishes(per_rank=True))
    assert made.trouble is None
    assert sorted(re.findall(r"[01] of 2", shown())) == ["0 of 2", "1 of 2"]
    assert [path.name for path in made.exports] == ["run.r0.sqlite", "run.r1.sqlite"]
    assert [ranges(path)["prefill"] for path in made.exports] == [1, 1]


# -- the command line -------------------------------------------------------------------------------------


def test_every_report_is_analyzed_and_a_missing_one_is_an_error(nsys: Nsys) -> None:
    command = [sys.executable, "-m", "dsprof", "capture", "--trace", "nvtx", "--nsys", str(nsys.path)]
    done = subprocess.run(
        [*command, "--", *ranked("mpirun", "-n", "3", "--continuous")], capture_output=True, text=True, check=False
    )
    assert done.returncode == RanksMissing.exit_code, done.stderr
    assert "Of 3 ranks, 2 left a report. Without a report: 2." in done.stderr
    folder = next(Path("traces").iterdir())
    assert [path.name for path in folder.glob("*.dsprof")] == ["reports.dsprof"]
    reports = pd.read_parquet(folder / "reports.dsprof/tables/reports.parquet")
    assert reports[["report", "rank"]].values.tolist() == [["run.r0.sqlite", 0], ["run.r1.sqlite", 1]]
    assert done.stdout.index("reports ") < done.stdout.index("run.r0.sqlite") < done.stdout.index("Session: ")
    record = json.loads((folder / "session.json").read_text())
    assert record["reports"] == ["run.r0.nsys-rep", "run.r1.nsys-rep"]
