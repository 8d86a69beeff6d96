"""Several nsys that export one report side by side give what one nsys gives, row for row."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import dsprof
import nsys_of_parts
from dsprof.capture.profile import LaterExport
from dsprof.cli import app
from dsprof.errors import ExportFailed, ReportDamaged, SelectionEmpty
from dsprof.nsys import cache, side_by_side
from dsprof.nsys.event_files import EXPORT, INDEX, TABLES
from dsprof.nsys.inputs import Input
from dsprof.nsys.locate import locate
from dsprof.nsys.side_by_side import all_but, export_side_by_side, jobs_for
from nsys_stats import Nsys
from trace_builder import VERSIONS, TraceBuilder

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
#: CUDA graphs by their nodes and as a whole, two ranks in one report, an engine that serves.
SOME = ("h200-graph-node", "h200-graph-graph", "h100x2-node", "h100-serve-graphs")


@pytest.fixture(autouse=True)
def _parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of any size are worth it, three cores are there, and the cache is empty."""
    monkeypatch.setattr(side_by_side, "_WORTH_BYTES", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)))
    monkeypatch.setenv("DSPROF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def nsys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in."""
    path = nsys_of_parts.install(tmp_path)
    monkeypatch.setenv("DSPROF_NSYS", str(path))
    return path


def report_of(sample: str, folder: Path) -> tuple[Path, Path]:
    """A sample as SQLite, and as a report of the same name."""
    exported = Path(shutil.copyfile(locate(SAMPLES / f"{sample}.sqlite.xz")[1].path, folder / "whole.sqlite"))
    return exported, nsys_of_parts.report(exported, folder / "run.nsys-rep")


def same(one: dsprof.Analysis, other: dsprof.Analysis) -> None:
    """Are all tables of two analyses equal, value by value?"""
    assert list(one) == list(other)
    for name in one:
        pd.testing.assert_frame_equal(one[name], other[name], check_exact=True, obj=name)
    assert one.findings == other.findings


@pytest.mark.parametrize("sample", SOME)
def test_all_tables_are_those_of_one_export(sample: str, nsys: Path, tmp_path: Path) -> None:
    exported, report = report_of(sample, tmp_path)
    said: list[str] = []
    apart = dsprof.analyze(report, progress=said.append)
    assert f"exporting {report.name} with 3 nsys side by side" in said
    (made,) = (tmp_path / "cache").glob("*.parts")
    assert {file.stem for file in made.rglob("*.arrow")} <= set(TABLES)
    stretches = {file.parent.name for file in made.rglob("*.arrow")}
    assert len(stretches) > 1 or sample.startswith("h200-graph")  # all of which happens in a part of a second
    same(apart, dsprof.analyze(exported))


@pytest.mark.parametrize("how", ["inclusive", "shuffled", "stream"])
def test_edges_order_and_format_are_no_matter(
    how: str, nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTS_NSYS", how)
    exported, report = report_of("h200-graph-node", tmp_path)
    same(dsprof.analyze(report), dsprof.analyze(exported))


@pytest.mark.parametrize("jobs", [2, 5])
def test_what_lasts_over_a_cut_is_there_once(jobs: int, nsys: Path, tmp_path: Path) -> None:
    """Calls and kernels that begin, end, or do both at the very cuts, or last over all of them."""
    made = TraceBuilder(VERSIONS[-1])
    made.range("request", 0, 10_000)
    for number in range(300):
        made.range("decode.step", 10 + number * 30, 10 + number * 30 + 25)
        made.kernel(f"gemm{number % 3}", at=(12 + number * 30, 12 + number * 30 + (0, 28, 9_000)[number % 3]),
                    call=(10 + number * 30, 10 + number * 30 + 5))  # fmt: skip
    made.kernel("long", at=(5, 9_990), call=(1, 9_995))
    exported = made.write(tmp_path / "made.sqlite")
    report = nsys_of_parts.report(exported, tmp_path / "run.nsys-rep")
    folder = tmp_path / "parts"
    folder.mkdir()
    export_side_by_side(Input(report), folder, nsys, jobs)
    with closing(sqlite3.connect(exported)) as database:
        ((rows,),) = database.execute("SELECT count(*) FROM CUPTI_ACTIVITY_KIND_KERNEL")
    apart = dsprof.analyze(folder / EXPORT, folder=tmp_path / "out", remembered=False)
    assert len(apart["kern_trace"]) == rows == 301
    whole = dsprof.analyze(exported)
    for name in whole:
        pd.testing.assert_frame_equal(apart[name], whole[name], check_exact=True, obj=name)


def test_a_limit_of_memory_holds(nsys: Path, tmp_path: Path) -> None:
    exported, report = report_of("h200-layers", tmp_path)
    same(dsprof.analyze(report, memory="260MB"), dsprof.analyze(exported))


@pytest.mark.parametrize("options", [{"window": "80%..92%"}, {"pid": "first", "device": 0}])
def test_selections_are_the_same(options: dict[str, object], nsys: Path, tmp_path: Path) -> None:
    exported, report = report_of("h200-two-processes", tmp_path)
    if "pid" in options:
        with closing(sqlite3.connect(exported)) as database:
            ((thread,),) = database.execute("SELECT min(globalTid) FROM CUPTI_ACTIVITY_KIND_RUNTIME")
        options = {**options, "pid": thread >> 24 & 0xFFFFFF}
    same(dsprof.analyze(report, **options), dsprof.analyze(exported, **options))  # type: ignore[arg-type]
    for wrong in ({"pid": 1}, {"device": 7}):
        said = []
        for path in (report, exported):
            with pytest.raises(SelectionEmpty) as refused:
                dsprof.analyze(path, **wrong)  # type: ignore[arg-type]
            said.append(str(refused.value).replace(path.name, "it"))
        assert said[0] == said[1]


def test_no_environment_is_exported(nsys: Path, tmp_path: Path) -> None:
    made = TraceBuilder(VERSIONS[-1])
    made.range("prefill", 0, 100)
    made.kernel("gemm", at=(20, 50), call=(10, 20))
    exported = made.write(tmp_path / "made.sqlite")
    with closing(sqlite3.connect(exported)) as database, database:
        database.execute("CREATE TABLE TARGET_INFO_SYSTEM_ENV (name TEXT, value TEXT)")
        database.execute("INSERT INTO TARGET_INFO_SYSTEM_ENV VALUES ('x', 'HF_TOKEN=hf_0123456789abcdef')")
        database.execute("INSERT INTO StringIds VALUES (900, 'HF_TOKEN=hf_0123456789abcdef')")
    dsprof.analyze(nsys_of_parts.report(exported, tmp_path / "run.nsys-rep"))
    (folder,) = (tmp_path / "cache").glob("*.parts")
    for file in folder.rglob("*"):
        assert file.is_dir() or b"hf_0123456789abcdef" not in file.read_bytes(), file


def test_a_kernel_named_like_a_variable_keeps_its_name(nsys: Path, tmp_path: Path) -> None:
    made = TraceBuilder(VERSIONS[-1])
    made.range("prefill", 0, 100)
    made.kernel("SIZE=4", at=(20, 50), call=(10, 20))
    exported = made.write(tmp_path / "made.sqlite")
    found = dsprof.analyze(nsys_of_parts.report(exported, tmp_path / "run.nsys-rep"))
    assert found["kern_sum"]["kernel"].tolist() == ["SIZE=4"]


def test_a_part_that_fails_is_told_and_nothing_is_kept(
    nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTS_NSYS", "fails 1")
    _, report = report_of("h200-graph-node", tmp_path)
    with pytest.raises(ExportFailed, match="No space left on device"):
        dsprof.analyze(report)
    assert not [file for file in (tmp_path / "cache").iterdir() if "unpacked" not in file.name]


def test_what_was_damaged_in_the_cache_is_made_anew(nsys: Path, tmp_path: Path) -> None:
    exported, report = report_of("h200-graph-node", tmp_path)
    before = dsprof.analyze(report)
    same(before, dsprof.analyze(exported))
    file = next((tmp_path / "cache").rglob("*KERNEL.arrow"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ReportDamaged, match="is cut or damaged"):
        dsprof.analyze(file.parents[1] / EXPORT, reuse=False)
    said: list[str] = []
    same(dsprof.analyze(report, reuse=False, progress=said.append), dsprof.analyze(exported))
    assert any("side by side" in sentence for sentence in said)
    dsprof.analyze(report, reuse=False, progress=said.append)
    assert sum("side by side" in sentence for sentence in said) == 1


def test_a_damaged_index_is_made_anew(nsys: Path, tmp_path: Path) -> None:
    exported, report = report_of("h200-graph-node", tmp_path)
    dsprof.analyze(report)
    for text in ("", "[]", '{"CUPTI_ACTIVITY_KIND_KERNEL": 1}', '{"CUPTI_ACTIVITY_KIND_KERNEL": [[1]]}'):
        (index,) = (tmp_path / "cache").rglob(INDEX)
        index.write_text(text)
        with pytest.raises(ReportDamaged, match="is cut or damaged"):
            dsprof.analyze(index.with_name(EXPORT), reuse=False)
        same(dsprof.analyze(report, reuse=False), dsprof.analyze(exported))


def test_ctrl_c_ends_all_exports(nsys: Path, tmp_path: Path) -> None:
    _, report = report_of("h100-serve-graphs", tmp_path)
    assert report.stat().st_size > 4 << 20  # so that several nsys export it
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core, so one nsys")
    command = [sys.executable, "-m", "dsprof", "analyze", str(report)]
    environment = {**os.environ, "PARTS_NSYS": "hangs"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 60
        while len(exporting(nsys)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(exporting(nsys)) >= 2
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=40) == 130, process.stdout and process.stdout.read()
    assert not exporting(nsys)
    assert not [file for file in (tmp_path / "cache").iterdir() if "unpacked" not in file.name]


def exporting(nsys: Path) -> list[str]:
    """The processes of an nsys that write Arrow files."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_text().split("\0")
            if str(nsys) in words and "--type=arrowdir" in words:
                found.append(process.name)
    return found


def test_the_oldest_exports_go(nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        _, report = report_of("h200-graph-node", tmp_path)
        report = report.rename(tmp_path / f"{name}.nsys-rep")
        report.write_bytes(report.read_bytes() + name.encode())
        monkeypatch.setattr(cache, "_MOST_BYTES", 0)
        found = locate(report)[1]
        assert found.path.name == EXPORT and found.path.with_name(INDEX).is_file()
        del found  # what is open stays
    assert len(list((tmp_path / "cache").glob("*.parts"))) == 1


@pytest.mark.parametrize(
    ("size", "cores", "free", "jobs"),
    [(1 << 20, 16, 64 << 30, 1), (32 << 20, 1, 64 << 30, 1), (32 << 20, 2, 64 << 30, 2), (32 << 20, 64, 64 << 30, 8),
     (1 << 30, 16, 13 << 30, 8), (1 << 30, 16, 12 << 30, 1), (32 << 20, 16, None, 8)],
)  # fmt: skip
def test_jobs_follow_cores_and_memory(
    size: int, cores: int, free: int | None, jobs: int, nsys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "_WORTH_BYTES", 4 << 20)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    monkeypatch.setattr(side_by_side, "allowed", lambda: free)
    report = tmp_path / "run.nsys-rep"
    with report.open("wb") as file:
        file.truncate(size)
    assert jobs_for(Input(report, sha256="0"), nsys) == jobs
    assert jobs_for(Input(report, sha256="0"), nsys, threads=1) == 1
    monkeypatch.setenv("PARTS_NSYS", "no parts")
    assert jobs_for(Input(report, sha256="0"), nsys) == 1


def test_patterns_fit_all_tables_but_those() -> None:
    names = (*TABLES, "TARGET_INFO_SYSTEM_ENV")
    patterns = [re.compile(one, re.IGNORECASE) for one in all_but(names).split(",")]

    def fits(table: str) -> bool:
        return any(one.fullmatch(table) for one in patterns)

    assert not any(map(fits, names))
    others = {name[:length] for name in names for length in range(1, len(name))} - set(names)
    others |= {changed for name in names for changed in (f"{name}S", f"X{name}", name.replace("I", "J"))}
    others |= {"NVTX_EVENTS", "StringIds", "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION", "CUDA_GRAPH_NODE_EVENTS", "a", "z"}
    assert all(map(fits, others))


def test_a_real_nsys_is_asked_for_what_it_knows(
    primary: Nsys, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded here, so ranges alone; of events `benchmarks/routes.py` tells, where there is a GPU."""
    monkeypatch.setenv("DSPROF_NSYS", str(primary.path))
    report = Path(shutil.copyfile(recorded, tmp_path / "run.nsys-rep"))
    apart = dsprof.analyze(report)
    assert list((tmp_path / "cache").glob("*.parts")) and len(apart["range_trace"])
    monkeypatch.setenv("DSPROF_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(side_by_side, "_WORTH_BYTES", 1 << 40)
    same(apart, dsprof.analyze(report))
    assert not list((tmp_path / "other").glob("*.parts"))


def test_a_capture_tells_what_it_found_before_it_writes_sqlite(
    primary: Nsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSPROF_NSYS", str(primary.path))
    seen: list[bool] = []
    write = LaterExport.write

    def looking(self: LaterExport) -> None:
        seen.append(any(self.report.parent.glob("run.dsprof/stage_sum.parquet")))
        write(self)

    monkeypatch.setattr(LaterExport, "write", looking)
    program = [sys.executable, "-m", "dsprof.workloads.toy", "1", "3"]
    done = CliRunner().invoke(app, ["capture", "--out", str(tmp_path / "out"), "--trace", "nvtx"], obj=program)
    assert done.exit_code == 0, done.output
    (folder,) = (tmp_path / "out").iterdir()
    assert seen == [True]
    same(dsprof.analyze(folder / "run.sqlite", folder=tmp_path / "whole"), dsprof.analyze(folder / "run.nsys-rep"))
