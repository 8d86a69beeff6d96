"""The benchmark's table is well-formed, and results that are not equal fail it: nothing here looks at a time."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import breakdown
import cores
import equality
import measure
import reports
import speed
import start

from dsprof.analysis.analyze import analyze
from dsprof.analysis.parquet import write_parquet
from dsprof.arrays import backend
from dsprof.nsys import schema
from nsys_stats import PRIMARY, require

ROOT = Path(__file__).resolve().parents[1]
KERNELS = 5_000


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic reports, with a small one in it."""
    folder = tmp_path_factory.mktemp("kept")
    reports.synthetic(folder, KERNELS)
    return folder


@pytest.fixture(scope="module")
def results(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tables of the small report."""
    return analyze(reports.synthetic(kept, KERNELS)).write(tmp_path_factory.mktemp("results"))


def benchmark(kept: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """speed.py on the small report, each contender once."""
    command = [sys.executable, str(ROOT / "benchmarks" / "speed.py"), "--kernels", KERNELS, "--folder", kept,
               "--runs", 1, "--check", *options]  # fmt: skip
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


# -- the table ------------------------------------------------------------------------------------------------


def test_the_table_without_nsys(kept, tmp_path):
    out, raw = tmp_path / "RESULTS.md", tmp_path / "raw.json"
    done = benchmark(kept, "--nsys-runs", 0, "--memory", "2GB", "--first-run", "--out", out, "--json", raw)
    assert done.returncode == 0, done.stderr
    page, numbers = out.read_text(), json.loads(raw.read_text())

    head = next(line for line in page.splitlines() if line.startswith("|  | wall s"))
    rows = page.split(head)[1].split("\n\n")[0].strip().splitlines()[1:]
    table = {cells(row)[0]: cells(row)[1:] for row in rows}
    bounded = {"dsprof analyze --memory 2GB"} if speed.offers_memory() else set()
    plain = {"floor: sums in sqlite3", "cat", "dsprof analyze --no-fast", "dsprof analyze, again"}
    compiled = {"dsprof analyze --fast", "dsprof analyze --fast, first run"} if backend.is_installed() else set()
    assert set(table) == plain | bounded | compiled
    assert ("| kern_sum with --fast |" in page) == bool(compiled)
    assert ("has no `--memory`: 2GB left out" in page) == (not bounded)
    for name, row in table.items():
        assert len(row) == len(cells(head)) - 1
        assert all(float(figure.replace(",", "")) > 0 for figure in row[:3]), name
        assert row[3:6] == ([""] * 3 if name == "cat" else ["not run"] * 3)
        assert bool(re.fullmatch(r"[\d.]+", row[6])) == name.startswith("dsprof")
    assert "`nsys stats` was not run (as asked)" in page

    (file,) = numbers["files"]
    assert file["kernels"] >= KERNELS
    assert [len(row["runs"]) for row in file["rows"]] == [1] * len(table)
    analyzed = next(row["runs"][0] for row in file["rows"] if row["key"] == "analyze")
    assert table["dsprof analyze --no-fast"][0] == speed._figure(analyzed["wall_s"])
    assert analyzed["peak_bytes"] > 30e6, "a process that has numpy and pyarrow in it"


def test_other_sources_are_measured_beside(kept, tmp_path):
    """Those of another checkout, which here are made: they note how they were called, and do nothing."""
    package, calls = tmp_path / "older" / "src" / "dsprof", tmp_path / "calls"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        f"import sys\nwith open({str(calls)!r}, 'a') as file:\n    print(sys.argv[-1], file=file)\n"
    )
    done = benchmark(kept, "--nsys-runs", 0, "--before", tmp_path / "older")
    assert done.returncode == 0, done.stderr
    rows = [cells(line) for line in done.stdout.splitlines() if line.startswith("| dsprof analyze --")]
    ways = ["--no-fast", "--fast"] if backend.is_installed() else ["--no-fast"]
    own, earlier = [f"dsprof analyze {how}" for how in ways], [f"dsprof analyze {how}, before" for how in ways]
    assert [row[0] for row in rows] == [*own, *earlier, *own]
    for _, *ratios in rows[-len(ways) :]:
        assert len(ratios) == 3
        assert all(float(ratio) > 1 for ratio in ratios)
    assert calls.read_text().split()[-len(ways) :] == ways
    assert "--runs 1 --nsys-runs 0 --before older --check" in done.stdout


def test_no_commit_and_no_folder_is_told(tmp_path):
    with pytest.raises(SystemExit, match=r"^no-such is no commit of this checkout, and no folder of another one"):
        measure.sources_of("no-such", tmp_path)


def test_the_page_names_no_host_and_no_path(kept, tmp_path):
    out = tmp_path / "RESULTS.md"
    assert benchmark(kept, "--nsys-runs", 0, "--out", out).returncode == 0
    page = out.read_text()
    for secret in (os.uname().nodename, str(kept), str(tmp_path), str(Path.home()), str(ROOT)):
        assert secret == "vm" or secret not in page  # a word that many kernels' names hold
    command = f"python benchmarks/speed.py --kernels {KERNELS} --runs 1 --nsys-runs 0 --check"
    assert command in page.splitlines()
    assert re.search(r"\| date \| \d{4}-\d\d-\d\d \d\d:\d\d UTC \|", page)
    assert "Load of the machine before: " in page
    assert [path.name for path in tmp_path.iterdir()] == ["RESULTS.md"], "nothing else is left"


def measured(kernels: int, wall_s: float, peak: int) -> speed.Measured:
    rows = [speed.Row(key, key, [measure.Run(wall_s * factor, wall_s * factor, peak * factor)] * 3)
            for key, factor in ((speed.FLOOR, 1), (speed.COLD, 5), (speed.NSYS, 100))]  # fmt: skip
    return speed.Measured("made", kernels, 10**6, True, rows, [], "0", "0")


def test_ratios_and_growth():
    """Made figures: nsys takes 20 times what dsprof takes, which takes 5 times the floor; both grow linearly."""
    small, large = measured(1_000, 0.5, 10**6), measured(11_000, 2.5, 3 * 10**6)
    page = speed.markdown([large, small], {"command": "made", "date": "today", "machine": {}})
    assert "| analyze | 2.5 (2.5..2.5) | 2.5 (2.5..2.5) | 5 (5..5) | 20 | 20 | 0.05 | 5 | 3 |" in page
    slope_ns, slope_bytes = 5 * 2.0 / 10_000 * 1e9, 5 * 2 * 10**6 / 10_000
    assert f"| analyze | 1,000 | 11,000 | {slope_ns:,.0f} | {slope_ns:,.0f} | {slope_bytes:,.0f} |" in page


def test_a_median_is_of_the_runs():
    row = speed.Row("a", "a", [measure.Run(wall, 1.0, 1) for wall in (9.0, 1.0, 2.0)])
    assert row.median("wall_s") == 2.0
    assert speed._spread([9.0, 1.0, 2.0]) == "2 (1..9)"


# -- what is measured -----------------------------------------------------------------------------------------


def test_a_process_is_measured_with_its_children():
    """CPU and memory that a grandchild used are there; the memory of the one who measures is not."""
    work = "x = bytearray(120_000_000); import time\nwhile time.process_time() < 0.3: pass"
    ballast = bytearray(400_000_000)
    took = measure.run(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"]
    )
    idle = measure.run([sys.executable, "-I", "-S", "-c", ""])
    assert took.cpu_s >= 0.3
    assert 120e6 < took.peak_bytes < 250e6
    assert idle.peak_bytes < 60e6 < len(ballast)


def test_a_process_that_fails_is_told():
    with pytest.raises(measure.RunFailed, match=r"ended with 3: no luck"):
        measure.run([sys.executable, "-c", "import sys; print('no luck'); sys.exit(3)"])


def test_a_process_that_does_not_end_is_ended():
    with pytest.raises(measure.RunFailed, match="ended with -9"):
        measure.run([sys.executable, "-c", "import time; time.sleep(60)"], limit_s=1)


def test_a_failing_analysis_writes_nothing(tmp_path, capsys):
    report = tmp_path / "empty.sqlite"
    report.write_bytes(b"")
    out = tmp_path / "RESULTS.md"
    arguments = ["--report", report, "--nsys-runs", 0, "--runs", 1, "--out", out]
    assert speed.main([str(one) for one in arguments]) == 2
    assert "nothing was written: python" in capsys.readouterr().err
    assert not out.exists()


def test_the_floor_sums_every_column_that_dsprof_reads(kept):
    queries = " ".join(speed.sums(reports.synthetic(kept, KERNELS)))
    for source in (schema.KERNELS, schema.CALLS, schema.COPIES, schema.SETS, schema.RANGES):
        (query,) = [one for one in queries.split("SELECT ") if f'FROM "{source.table}"' in one]
        assert [name for name in source.columns if f'total("{name}")' not in query] == []
    assert 'total(length("value")) FROM "StringIds"' in queries
    assert 'total("int64Value")' in queries


def test_a_changed_generator_makes_the_reports_anew(tmp_path, monkeypatch):
    first = reports.synthetic(tmp_path, KERNELS)
    stamp = first.stat().st_mtime_ns
    assert reports.synthetic(tmp_path, KERNELS) == first
    assert first.stat().st_mtime_ns == stamp
    changed = tmp_path / "changed.py"
    changed.write_text("# another generator")
    monkeypatch.setattr(reports.trace_builder, "__file__", str(changed))
    second = reports.synthetic(tmp_path, KERNELS)
    assert second != first
    assert sorted(tmp_path.glob("*.sqlite")) == [second]


# -- results that are not equal -------------------------------------------------------------------------------


def faults(compared: list[equality.Compared]) -> list[str]:
    return [f"{one.what}: {fault}" for one in compared for fault in one.faults]


@pytest.fixture
def copied(results, tmp_path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "copied"))


def change(path: Path, column: str, row: int, value: object) -> None:
    """One value of a Parquet file, replaced."""
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    field = table.schema.field(place)
    plain = pa.DictionaryType if pa.types.is_dictionary(field.type) else None
    values = table.column(place).to_pylist()
    values[row] = value
    array = pa.array(values, field.type.value_type if plain else field.type)
    array = array.dictionary_encode().cast(field.type) if plain else array
    write_parquet(table.set_column(place, field, array), path)


def test_the_same_results_are_equal(results, copied):
    compared = equality.tables(results, copied)
    assert faults(compared) == []
    assert {one.what for one in compared} == {path.stem for path in results.glob("*.parquet")}
    empty = {"stage_roof_trace", "host_python_sum", "engine_sum", "collective_sum", "collective_trace"}
    assert {one.what for one in compared if not one.rows} == empty


def test_the_order_of_a_dictionary_is_no_difference(results, copied):
    """The bounded route may meet the names in another order."""
    path = copied / "kern_trace.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("kernel")
    column = table.column(place).combine_chunks()
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    names = column.dictionary[::-1]
    turned = pa.DictionaryArray.from_arrays(pc.subtract(len(names) - 1, column.indices), names)
    field = table.schema.field(place)
    write_parquet(table.set_column(place, field, turned.cast(field.type)), path)
    assert faults(equality.tables(results, copied)) == []


@pytest.mark.parametrize(("table", "column", "value"), [
    ("kern_trace", "start_ns", 1),
    ("kern_trace", "range_id", None),
    ("kern_trace", "kernel", "another kernel"),
    ("kern_sum", "avg_ns", 1.25),
    ("range_trace", "truncated", True),
])  # fmt: skip
def test_one_changed_value_is_found(results, copied, table, column, value):
    change(copied / f"{table}.parquet", column, 7, value)
    (fault,) = faults(equality.tables(results, copied))
    assert fault.startswith(f"{table}: {column} in row 7: ")
    assert str(value) in fault
    assert fault.endswith("and 0 more rows")


def test_bounded_results_are_compared_with_the_fast_ones(kept, results, copied):
    """What a benchmark with --memory does with the two folders."""
    export, key = reports.synthetic(kept, KERNELS), f"{speed.MEMORY}1GB"
    assert faults(speed.compare({speed.COLD: results, key: copied}, export)) == []
    change(copied / "step_trace.parquet", "start_ns", 3, 1)
    (fault,) = faults(speed.compare({speed.COLD: results, key: copied}, export))
    assert fault.startswith("step_trace with --memory 1GB: start_ns in row 3: ")


def test_a_missing_table_and_missing_rows_are_found(results, copied, tmp_path):
    (copied / "mem_sum.parquet").unlink()
    write_parquet(pq.read_table(copied / "kern_sum.parquet")[1:], copied / "kern_sum.parquet")
    found = faults(equality.tables(results, copied))
    assert "mem_sum: copied has no mem_sum.parquet" in found
    assert any(re.fullmatch(r"kern_sum: (\d+) rows and \d+", fault) for fault in found)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert faults(equality.tables(empty, empty))


@pytest.fixture(scope="module")
def printed(kept: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the real nsys prints of the small report."""
    folder = tmp_path_factory.mktemp("printed") / "csv"
    measure.run(speed.nsys_stats_command(require(PRIMARY).path, reports.synthetic(kept, KERNELS), folder))
    return folder


@pytest.mark.nsys
def test_nsys_says_the_same(kept, results, printed):
    compared = equality.with_nsys(results, printed, reports.synthetic(kept, KERNELS))
    assert faults(compared) == []
    assert len(compared) == 3
    assert all(one.rows > 30 for one in compared), compared
    left_out = re.match(r"\d+", compared[1].left_out)
    assert left_out
    assert int(left_out[0]) < compared[1].rows / 100, "what is left out is the exception"


@pytest.mark.nsys
@pytest.mark.parametrize(("table", "column", "row", "compared"), [
    ("kern_sum", "instances", 3, "kern_sum and cuda_gpu_kern_sum"),
    ("kern_sum", "total_ns", 3, "kern_sum and cuda_gpu_kern_sum"),
    ("kern_sum", "med_ns", 3, "kern_sum and cuda_gpu_kern_sum"),
    ("range_trace", "proj_start_ns", 40, "range_trace and nvtx_gpu_proj_trace"),
    ("range_trace", "proj_duration_ns", 40, "range_trace and nvtx_gpu_proj_trace"),
    ("range_trace", "api_calls", 40, "range_trace and nvtx_gpu_proj_trace"),
    ("range_kern_sum", "range_instances", 20, "range_kern_sum and nvtx_kern_sum"),
    ("range_kern_sum", "stddev_ns", 20, "range_kern_sum and nvtx_kern_sum"),
])  # fmt: skip
def test_one_changed_value_is_not_what_nsys_says(kept, copied, printed, table, column, row, compared):
    path = copied / f"{table}.parquet"
    value = pq.read_table(path, columns=[column]).column(0)[row].as_py()
    change(path, column, row, value + 1)
    found = faults(equality.with_nsys(copied, printed, reports.synthetic(kept, KERNELS)))
    assert found
    assert all(fault.startswith(f"{compared}: ") for fault in found)


TAMPERING = """\
#!{python}
import pathlib, subprocess, sys
done = subprocess.run(["{nsys}", *sys.argv[1:]])
if "stats" in sys.argv:
    path = pathlib.Path(sys.argv[sys.argv.index("--output") + 1] + "_nvtx_gpu_proj_trace.csv")
    path.write_text(path.read_text().replace("layer 7,", "layer 77,", 1))
sys.exit(done.returncode)
"""


@pytest.mark.nsys
def test_a_benchmark_with_unequal_results_fails(kept, tmp_path):
    """An nsys that says something else of one range: exit code 1, the place, and no page."""
    nsys = tmp_path / "nsys"
    nsys.write_text(TAMPERING.format(python=sys.executable, nsys=require(PRIMARY).path))
    nsys.chmod(nsys.stat().st_mode | stat.S_IXUSR)
    out = tmp_path / "RESULTS.md"
    done = benchmark(kept, "--nsys", nsys, "--out", out)
    assert done.returncode == 1, done.stderr
    assert not out.exists()
    assert re.search(r"Not equal: .*range_trace and nvtx_gpu_proj_trace: only in nsys: \('layer 77'", done.stderr)
    assert "| range_trace and nvtx_gpu_proj_trace | **not equal** |" in done.stdout


@pytest.mark.nsys
def test_a_benchmark_with_equal_results_has_ratios(kept, tmp_path):
    out = tmp_path / "RESULTS.md"
    done = benchmark(kept, "--nsys", require(PRIMARY).path, "--out", out)
    assert done.returncode == 0, done.stderr
    page = out.read_text()
    row = next(cells(line) for line in page.splitlines() if line.startswith("| dsprof analyze --no-fast |"))
    assert all(re.fullmatch(r"[\d.]+", ratio) for ratio in row[4:8])
    assert f"| nsys | {require(PRIMARY).version} |" in page
    assert re.search(r"\| range_kern_sum and nvtx_kern_sum \| [\d,]+ \|", page)


# -- where the time goes --------------------------------------------------------------------------------------


def test_the_breakdown_of_a_report_in_parts(kept, capsys):
    report = reports.synthetic(kept, 400_000)
    breakdown.main([str(report)])
    page = capsys.readouterr().out.split("| imports of the command")[0]
    took = {cells(line)[0]: float(cells(line)[1]) for line in page.splitlines() if re.match(r"\| [^|]+ \| \d", line)}
    named = {"reading pages", "looking where to cut", "writing events", "measure Accounts"}
    assert named <= set(took)
    whole, together = took.pop("`dsprof analyze`, the whole command"), took.pop("together")
    assert together == pytest.approx(sum(took.values()), abs=0.0005 * len(took))
    assert whole / 2 < together < whole * 2


def test_cores_tell_what_each_step_takes(kept, capsys):
    cores.main([str(reports.synthetic(kept, KERNELS)), "--cores", "1", "100000", "--runs", "1"])
    head, _, *rows = (cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("|"))
    assert head[-4:] == ["start s", "look s", "parts s", "tables s"]
    ((count, wall, _, faster, _, *steps),) = rows  # nobody has as many as the other number
    assert (count, faster) == ("1", "1.00")
    assert 0 < sum(map(float, steps)) < 3 * float(wall)


def test_a_start_is_measured_to_its_first_byte(monkeypatch, capsys):
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.setattr(start, "sources_of", lambda commit, folder: start._ROOT / "src")
    start.main([str(start._SAMPLE.with_name("h200-graphs-node.sqlite.xz")), "--turns", "1", "--before", "any"])
    rows = [cells(line) for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 2 + 2 * 5
    assert [row[0] for row in rows[-4:]] == [
        f"dsprof analyze{way}" for way in ("", ", before", ", again", ", again, before")
    ]
    for _, first, end, cpu, *ratios in rows:
        assert 0 < float(first) <= float(end)
        assert float(cpu) > 0
        assert all(0.1 < float(ratio) < 10 for ratio in ratios if ratio)
    assert sum(bool(row[-1]) for row in rows) == 5


def test_the_breakdown_has_every_table(kept, capsys):
    report = reports.synthetic(kept, KERNELS)
    breakdown.main([str(report), "--functions", "5"])
    said = capsys.readouterr().out
    lines = [cells(line)[0] for line in said.splitlines() if line.startswith("|")]
    for table in analyze(report):
        assert f"table {table}" in lines
        assert f"Parquet {table}" in lines
    assert {"imports of dsprof.analysis", "reading kernels", "findings", "summary", "pyarrow"} <= set(lines)
    assert "Ordered by: internal time" in said
    assert "Ordered by: cumulative time" in said


PEAKS = """
import breakdown
stages = breakdown.Stages()
with stages.within("much"):
    bytearray(200_000_000)
with stages.within("little"):
    pass
print(*(f"{stage.name} {stage.peak_bytes}" for stage in stages.done))
"""


def test_the_peak_of_a_stage_is_its_own():
    """In a process of its own: this one keeps the memory that a command run in it before had."""
    run = [sys.executable, "-c", PEAKS]
    done = subprocess.run(run, cwd=Path(breakdown.__file__).parent, stdout=subprocess.PIPE, text=True, check=True)
    much, much_bytes, little, little_bytes = done.stdout.split()
    assert [much, little] == ["much", "little"]
    assert int(much_bytes) - int(little_bytes) > 150e6
