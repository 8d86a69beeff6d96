"""The command line: what it prints, where, in which form, and what it loads for that."""

from __future__ import annotations

import csv
import io
import json
import lzma
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from hashlib import sha256
from pathlib import Path
from typing import Any

import attrs
import pandas as pd
import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len

import dsprof
from dsprof import cli, errors
from dsprof.show import summary
from dsprof.show.safe import for_csv
from dsprof.tables import all_tables
from dsprof.tables._table import SCHEMA_VERSION
from dsprof.words import NO_STAGE
from trace_builder import VERSIONS, TraceBuilder

SAMPLES = Path(__file__).parent.parent / "traces" / "samples"
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")
SECRET = "SECRET-TOKEN-123"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    raw: bytes
    err: str

    @property
    def out(self) -> str:
        return self.raw.decode()


Run = Callable[..., Ended]


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real export of a GPU's report; nobody writes beside it."""
    path = tmp_path_factory.mktemp("sample") / "node.sqlite"
    path.write_bytes(lzma.decompress((SAMPLES / "h200-graph-node.sqlite.xz").read_bytes()))
    return path


@pytest.fixture(scope="session")
def analysis(sample: Path) -> dsprof.Analysis:
    return dsprof.analyze(sample)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    # Unbuffered, Python takes half a write to a pipe that was closed for a whole one.
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS", "LINES", "TTY_COMPATIBLE", "PYTHONUNBUFFERED"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """The command line, in this process."""

    def ended(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dsprof", *map(str, arguments)])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Ended(raised.value.code, out, err.decode())  # type: ignore[arg-type]

    return ended


def strictly(text: str) -> Any:
    """JSON as its standard says: no NaN, no Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def program(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """The command line as a program of its own."""
    command = [sys.executable, "-m", "dsprof", *map(str, arguments)]
    return subprocess.run(command, text=True, timeout=60, **{"stderr": subprocess.PIPE, **options})


def on_terminal(columns: int, *arguments: object, **environment: str) -> str:
    """What the program prints on a terminal of so many columns."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment}
    command = [sys.executable, "-m", "dsprof", *map(str, arguments)]
    with subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=env) as process:
        os.close(follower)
        parts = []
        with suppress(OSError):  # the end of a terminal is an error
            while part := os.read(leader, 1 << 16):
                parts.append(part)
        assert process.wait(timeout=60) == 0
    os.close(leader)
    return b"".join(parts).decode().replace("\r\n", "\n")


# -- what it loads --------------------------------------------------------------------------------------

LOADED = """
import sys
sys.argv = ["dsprof", *sys.argv[1:]]
from dsprof.cli import main
try:
    main()
finally:
    print(*sys.modules, sep="\\n", file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [["--help"], ["analyze", "--help"], ["table", "-h"], ["--version"]], ids=" ".join)
def test_help_and_version_load_nothing_heavy(arguments: list[str]) -> None:
    ended = subprocess.run([sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    assert "dsprof" in ended.stdout
    loaded = set(ended.stderr.splitlines())
    assert "dsprof.cli" in loaded
    assert loaded & {"pandas", "pyarrow", "numpy", "torch", "rich", "sqlite3", "adbc_driver_sqlite"} == set()


#: What a summary on a terminal is made without. Some take longer to load than a small report to analyze: pandas,
#: `pyarrow.compute`; some belong to other commands. (What numpy and Typer load by themselves is not looked at.)
NEEDLESS = (
    "pandas", "torch", "transformers", "matplotlib", "numba", "cattrs", "pyarrow.compute", "pyarrow.dataset",
    "numpy.ma", "importlib.metadata", "email", "http", "pydantic", "rich.progress", "rich.markdown", "rich.syntax",
    "dsprof.capture", "dsprof.compare", "dsprof.page", "dsprof.timeline", "dsprof.workloads", "dsprof.plots",
    "dsprof.show.plain", "dsprof.show.html", "dsprof.show.reports", "dsprof.show.diff", "dsprof.analysis.many",
    "dsprof.cli.capture", "dsprof.cli.diff", "dsprof.cli.table",
)  # fmt: skip


def loaded_by(*arguments: object) -> set[str]:
    """The modules that a command loads."""
    command = [sys.executable, "-c", LOADED, *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0
    return set(ended.stderr.splitlines())


@pytest.fixture(scope="module")
def floor() -> set[str]:
    """What other packages load by themselves: numpy loads `numpy.ma` before 2.3, Typer pydantic from 0.29 on."""
    code = "import sys, numpy, pyarrow, pyarrow.parquet, adbc_driver_sqlite, rich.console, typer\n"
    code += "from typer.testing import CliRunner\napp = typer.Typer()\n"
    code += "@app.command()\ndef main(number: int = 1): print(*sys.modules)\nmain and app()"
    return set(subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).split())


@pytest.mark.parametrize("way", ["whole", "again"])
def test_analyze_loads_nothing_needless(sample: Path, tmp_path: Path, floor: set[str], way: str) -> None:
    if way == "again":
        dsprof.analyze(sample, folder=tmp_path).write()
    loaded = loaded_by("analyze", sample, "--out", tmp_path)
    assert loaded >= {"dsprof.cli.analyze", "dsprof.show.summary", "rich.console"}
    needless = set(NEEDLESS) - floor - ({"cattrs"} if way == "again" else set())  # which reads what was written
    assert loaded & needless == set()
    assert ("adbc_driver_sqlite" in loaded) == (way == "whole")


@pytest.mark.parametrize(
    "name", ["h100-serve-graphs", "h100x2-overlap-rank0", "h200-graphs-node", "h200-two-processes"]
)
def test_no_report_makes_it_load_more(name: str, tmp_path: Path, floor: set[str]) -> None:
    """Whatever is in a report: an engine's steps, outliers, ranks, CUDA graphs."""
    loaded = loaded_by("analyze", SAMPLES / f"{name}.sqlite.xz", "--out", tmp_path)
    assert loaded & {"pandas", "pyarrow.compute", "numpy.ma"} - floor == set()


@pytest.mark.parametrize(
    ("words", "commands"),
    [
        (["analyze", "--help"], {"analyze"}),
        (["workloads", "-h"], {"workloads", "capture", "analyze"}),  # which it shares options with
        (["baseline", "list"], {"diff"}),
        (["--version"], set()),
        (["--help"], set(cli.COMMANDS.values())),
    ],
    ids=lambda value: " ".join(sorted(value)),
)
def test_only_the_command_that_is_asked_for_is_loaded(words: list[str], commands: set[str]) -> None:
    loaded = {module.removeprefix("dsprof.cli.") for module in loaded_by(*words)}
    assert loaded & set(cli.COMMANDS.values()) == commands


def test_every_command_is_added_by_the_module_that_the_list_says() -> None:
    whole = cli.application([])
    made = {one.name or one.callback.__name__: one.callback for one in whole.registered_commands if one.callback}
    for group in whole.registered_groups:
        inner = group.typer_instance.registered_commands if group.typer_instance else []
        made |= {str(group.name): one.callback for one in inner if one.callback}
    assert {name: function.__module__ for name, function in made.items()} == {
        name: f"dsprof.cli.{module}" for name, module in cli.COMMANDS.items()
    }


def test_python_looks_for_cycles_seldom_and_not_at_the_end() -> None:
    code = "import atexit, gc, sys; sys.argv = ['dsprof', '--version']\n"
    code += "atexit.register(lambda: print(gc.get_freeze_count() > 1000, gc.get_threshold()[0] > 100_000))\n"
    code += "from dsprof.__main__ import main; main()"
    said = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60)
    assert said.splitlines()[1:] == ["True True"]


def test_the_summary_is_there_before_the_tables(sample: Path, tmp_path: Path) -> None:
    """It is printed where the tables cannot be written, and they are written where nobody reads it to its end."""
    (tmp_path / "of-another" / "notes.txt").parent.mkdir()
    (tmp_path / "of-another" / "notes.txt").touch()
    ended = program("analyze", sample, "--out", tmp_path / "of-another", stdout=subprocess.PIPE)
    assert ended.returncode == errors.OutputRefused.exit_code
    assert ended.stdout.startswith("report ")
    assert "Tables:" not in ended.stdout
    reader, writer = os.pipe()
    os.close(reader)
    assert program("analyze", sample, "--out", tmp_path / "out", stdout=writer).returncode == 141
    os.close(writer)
    assert len(list((tmp_path / "out").glob("*.parquet"))) == len(all_tables())


def test_numpy_starts_no_threads_and_no_program_inherits_why() -> None:
    code = "from dsprof.cli.options import load_numpy; load_numpy(); import os; "
    code += "print(len(os.listdir('/proc/self/task')), 'OPENBLAS_NUM_THREADS' in os.environ)"
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment) == "1 False\n"
    environment["OPENBLAS_NUM_THREADS"] = "2"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment).endswith(" True\n")


def test_tables_are_chosen_and_results_used_again(run: Run, sample: Path, tmp_path: Path) -> None:
    first = run("analyze", sample, "--out", tmp_path, "--tables", "stage_sum, kern_sum")
    assert first.code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "analysis.json",
        "kern_sum.parquet",
        "stage_sum.parquet",
    ]
    written = (tmp_path / "kern_sum.parquet").stat().st_mtime_ns
    assert run("analyze", sample, "--out", tmp_path, "--tables", "kern_sum") == first
    assert (tmp_path / "kern_sum.parquet").stat().st_mtime_ns == written
    assert run("analyze", sample, "--out", tmp_path, "--tables", "stage_sum,kern_sum", "--again") == first
    assert (tmp_path / "kern_sum.parquet").stat().st_mtime_ns > written
    assert run("analyze", sample, "--out", tmp_path, "--tables", "nothing").code == errors.UnknownTable.exit_code


def test_analysis_needs_no_torch(sample: Path, tmp_path: Path) -> None:
    for name in ("torch", "transformers", "flash_attn", "nvtx"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    blocked = subprocess.run(
        [sys.executable, "-c", "import torch"], env={**os.environ, "PYTHONPATH": path}, stderr=subprocess.DEVNULL
    )
    assert blocked.returncode == 1
    ended = program("analyze", sample, "--out", tmp_path / "out", stdout=subprocess.PIPE,
                    env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")


def test_import_of_the_package_loads_nothing() -> None:
    code = "import sys; import dsprof; print(*sys.modules, sep='\\n')"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], text=True, timeout=60).split())
    assert "dsprof" in loaded
    assert loaded & {"pandas", "pyarrow", "numpy", "typer", "rich", "attrs"} == set()


# -- analyze --------------------------------------------------------------------------------------------


def test_analyze_says_the_report_and_writes_beside_it(run: Run, sample: Path, tmp_path: Path) -> None:
    report = Path(shutil.copy(sample, tmp_path / "my.run.sqlite"))
    ended = run("analyze", report)
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^report +my\.run\.sqlite", ended.out)
    for word in (
        "NVIDIA H200",
        "2025.3.2.0",
        "284 kernels",
        "prefill",
        "decode",
        NO_STAGE,
        "284 kernels (82.4 % in a stage)",
    ):
        assert word in ended.out
    assert ended.out.splitlines()[-1] == f"Tables: {tmp_path / 'my.run.dsprof'}"
    written = {"analysis.json", *(f"{name}.parquet" for name in all_tables())}
    assert {path.name for path in (tmp_path / "my.run.dsprof").iterdir()} == written
    assert {path.name for path in tmp_path.iterdir()} == {"my.run.sqlite", "my.run.dsprof"}


def test_out_makes_folders_and_replaces_tables(run: Run, sample: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "tables"
    assert run("analyze", sample, "--out", out).code == 0
    whole = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    (out / "kern_sum.parquet").write_text("old")
    assert run("analyze", sample, "--out", out).code == 0
    (out / "analysis.json").unlink()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole
    assert not sample.with_suffix(".dsprof").exists()


def test_top_0_shows_no_kernels(run: Run, sample: Path, tmp_path: Path) -> None:
    shown = [run("analyze", sample, "--out", tmp_path, "--top", top) for top in (0, 1)]
    assert [ended.code for ended in shown] == [0, 0]
    assert ["Top kernels" in ended.out for ended in shown] == [False, True]
    document = strictly(run("analyze", sample, "--out", tmp_path, "--top", 0, "--format", "json").out)
    assert document["top_kernels"] == []


def test_top_counts_kernels_of_each_stage(run: Run, sample: Path, tmp_path: Path) -> None:
    document = strictly(run("analyze", sample, "--out", tmp_path, "--top", 2, "--format", "json").out)
    assert [line["stage"] for line in document["top_kernels"]] == ["prefill", "prefill", "decode", "decode"]


def test_stage_and_step_options(run: Run, sample: Path, tmp_path: Path) -> None:
    options = ["--stage", "steps=^decode[.]step$", "--stage", "prefill=^nothing$", "--format", "json"]
    document = strictly(run("analyze", sample, "--out", tmp_path, *options).out)
    count: Counter[str] = Counter()
    for line in document["stages"]:
        count[line["stage"]] += line["instances"] or 0
    assert count["steps"] > 2
    assert not count["prefill"]
    assert count["decode"] == 2


def launched_by_a_helper() -> TraceBuilder:
    """A prefill on the main thread, whose kernel another thread launched."""
    return TraceBuilder().gpu().range("prefill", 0, 100).kernel("helper", at=(50, 60), call=(10, 20), tid=7)


def test_threads_process_takes_the_launches_of_other_threads(run: Run, tmp_path: Path) -> None:
    path = launched_by_a_helper().write(tmp_path / "made.sqlite")
    found = {}
    for threads in ("thread", "process"):
        ended = run("analyze", path, "--threads", threads, "--format", "json")
        found[threads] = strictly(ended.out)["coverage"]
        rows = list(
            csv.DictReader(
                io.StringIO(run("table", path, "stage_kern_sum", "--format", "csv", "--threads", threads).out)
            )
        )
        assert [row["stage"] for row in rows] == [NO_STAGE if threads == "thread" else "prefill"]
    assert found["thread"] == {"kernels": 1, "thread": 0, "process": 0, "none": 1}
    assert found["process"] == {"kernels": 1, "thread": 0, "process": 1, "none": 0}


def test_json_is_the_summary_with_its_documented_keys(
    run: Run, sample: Path, analysis: dsprof.Analysis, tmp_path: Path
) -> None:
    ended = run("analyze", sample, "--out", tmp_path, "--format", "json")
    document = strictly(ended.out)
    assert document["schema"] == summary.SCHEMA
    assert list(document) == [field.name for field in attrs.fields(summary.Summary)]
    kinds = {"stages": summary.StageLine, "instances": summary.InstanceLine, "top_kernels": summary.KernelLine,
             "families": summary.FamilyLine, "requests": summary.RequestLine, "steps": summary.StepLine}  # fmt: skip
    for key, kind in kinds.items():
        assert document[key]
        for line in document[key]:
            assert list(line) == [field.name for field in attrs.fields(kind)]
    assert document["report"]["sha256"] == sha256(sample.read_bytes()).hexdigest()
    assert document["counts"]["kernels"] == 284
    assert document["counts"]["kernels"] == sum(line["kernels_total"] for line in document["stages"])
    expected = attrs.asdict(analysis.summary())
    assert document == json.loads(json.dumps(expected))


def test_json_without_a_gpu_is_json_too(run: Run, tmp_path: Path) -> None:
    path = TraceBuilder().range("prefill", 0, 0).write(tmp_path / "made.sqlite")
    ended = run("analyze", path, "--format", "json")
    assert [found["code"] for found in strictly(ended.out)["findings"]] == ["no-cuda"]
    assert strictly(ended.out)["findings"][0]["strict_exit"] == 21
    for name in all_tables():
        strictly(run("table", path, name, "--format", "json").out)


def markdown_grids(text: str) -> list[list[list[str]]]:
    """The tables in a Markdown text, as cells."""
    grids: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")
            grids[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif grids[-1]:
            grids.append([])
    return [grid for grid in grids if grid]


def test_markdown_summary(run: Run, sample: Path, tmp_path: Path) -> None:
    grids = markdown_grids(run("analyze", sample, "--out", tmp_path, "--format", "markdown").out)
    assert len(grids) == 5
    for grid in grids:
        assert {len(line) for line in grid} == {len(grid[0])}
        assert set(grid[1]) <= {"---", "---:"}
    assert [line[0] for line in grids[0][2:]] == [
        "prefill", "prefill, warm-up", "decode", "decode, warm-up", NO_STAGE,
    ]  # fmt: skip


# -- table ----------------------------------------------------------------------------------------------


def awkward() -> TraceBuilder:
    """Names with everything that CSV and Markdown set apart."""
    made = TraceBuilder().gpu().range('pre,"fill"|', 0, 100).range("prefill", 0, 100)
    made.kernel('void a<(int)1, "b">(int, float)', at=(50, 60), call=(10, 20))
    made.kernel("line\nbreak", at=(61, 70), call=(21, 25))
    return made.kernel("ü | 日本", at=(71, 80), call=(26, 30)).copy(at=(81, 90), call=(31, 35))


@pytest.fixture(params=["sample", "awkward", "empty"])
def some(request: pytest.FixtureRequest, sample: Path, tmp_path: Path) -> Path:
    """A real report, one with awkward names, one with hardly anything in it."""
    if request.param == "sample":
        return sample
    made = awkward() if request.param == "awkward" else TraceBuilder().range("other", 5, 5)
    return made.write(tmp_path / "made.sqlite")


@pytest.mark.parametrize("name", all_tables())
def test_csv_read_again_is_the_data_frame(name: str, run: Run, some: Path) -> None:
    expected = dsprof.analyze(some)[name]
    ended = run("table", some, name, "--format", "csv")
    assert (ended.code, ended.err) == (0, "")
    rows = list(csv.reader(io.StringIO(ended.out, newline="")))
    assert rows[0] == list(expected.columns)
    assert len(rows) == 1 + len(expected)
    text = pd.DataFrame(rows[1:], columns=rows[0], dtype=object)
    for column in expected:
        wanted = expected[column]
        if isinstance(wanted.dtype, pd.CategoricalDtype):
            assert text[column].tolist() == ["" if pd.isna(value) else for_csv(value) for value in wanted]
        elif wanted.dtype == bool:
            assert text[column].tolist() == [str(value) for value in wanted]
        else:
            number = float if wanted.dtype == "float64" else int
            found = [None if value == "" else number(value) for value in text[column]]
            assert found == [None if pd.isna(value) else number(value) for value in wanted]


@pytest.mark.parametrize("name", all_tables())
def test_json_table(name: str, run: Run, some: Path) -> None:
    table = all_tables()[name]
    document = strictly(run("table", some, name, "--format", "json").out)
    assert list(document) == ["table", "schema", "selection", "columns", "rows"]
    assert document["selection"] == ""
    assert (document["table"], document["schema"]) == (name, SCHEMA_VERSION)
    assert [column["name"] for column in document["columns"]] == [column.name for column in table.columns]
    assert [column["description"] for column in document["columns"]] == [column.text for column in table.columns]
    assert {column["name"]: column.get("unit", "") for column in document["columns"]} == {
        column.name: column.unit for column in table.columns
    }
    assert document["rows"] == dsprof.analyze(some).arrow(name).to_pylist()


@pytest.mark.parametrize("name", all_tables())
def test_markdown_table(name: str, run: Run, some: Path) -> None:
    table = dsprof.analyze(some).arrow(name)
    (grid,) = markdown_grids(run("table", some, name, "--format", "markdown").out)
    assert grid[0] == table.column_names
    assert len(grid) == 2 + table.num_rows
    assert {len(line) for line in grid} == {table.num_columns}


def test_parquet_on_standard_output(run: Run, sample: Path, analysis: dsprof.Analysis, tmp_path: Path) -> None:
    ended = run("table", sample, "stage_kern_sum", "--format", "parquet")
    assert (ended.code, ended.err) == (0, "")
    found = pq.read_table(io.BytesIO(ended.raw))
    assert found.to_pylist() == analysis.arrow("stage_kern_sum").to_pylist()
    (tmp_path / "x.parquet").write_bytes(ended.raw)
    assert_documented(tmp_path / "x.parquet", "stage_kern_sum", sample)


def test_tables_are_listed_with_their_columns(run: Run) -> None:
    ended = run("tables")
    assert (ended.code, ended.err) == (0, "")
    assert re.findall(r"^(\w+): a row is", ended.out, re.M) == list(all_tables())
    for table in all_tables().values():
        for column in table.columns:
            assert re.search(rf"^  {column.name} +{re.escape(column.text)}$", ended.out, re.M)


# -- Parquet --------------------------------------------------------------------------------------------


def assert_documented(path: Path, name: str, report: Path) -> None:
    """A Parquet file that says what it is, whence it comes and what its columns mean."""
    file = pq.ParquetFile(path)
    about = {key.decode(): value.decode() for key, value in file.schema_arrow.metadata.items()}
    assert about["dsprof.table"] == name
    assert about["dsprof.table_schema"] == str(SCHEMA_VERSION)
    assert about["dsprof.version"] == dsprof.__version__
    assert about["dsprof.report_sha256"] == sha256(report.read_bytes()).hexdigest()
    assert about["dsprof.nsys_export"] == "2025.3.2.0"
    assert about["dsprof.gpu"] == "NVIDIA H200"
    for column, field in zip(all_tables()[name].columns, file.schema_arrow, strict=True):
        metadata = {key.decode(): value.decode() for key, value in field.metadata.items() if key != b"PARQUET:field_id"}
        assert metadata == {"description": column.text, **({"unit": column.unit} if column.unit else {})}
        assert (field.name, field.nullable) == (column.name, column.nullable)
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    used = {group.column(number).compression for group in groups for number in range(group.num_columns)}
    assert used == {"SNAPPY" if name in ("kern_trace", "mem_trace") else "ZSTD"}


def test_parquet_files(run: Run, sample: Path, analysis: dsprof.Analysis, tmp_path: Path) -> None:
    assert run("analyze", sample, "--out", tmp_path).code == 0
    listed = re.findall(r"^(\w+): a row is", run("tables").out, re.M)
    assert {path.name for path in tmp_path.glob("*.parquet")} == {f"{name}.parquet" for name in listed}
    for name in listed:
        path = tmp_path / f"{name}.parquet"
        assert_documented(path, name, sample)
        assert pq.read_table(path).to_pylist() == analysis.arrow(name).to_pylist()


# -- terminals and pipes --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["analyze", *all_tables()])
def test_pipe_gets_no_escape_codes_and_lines_of_120(name: str, sample: Path, tmp_path: Path, run: Run) -> None:
    ended = run("analyze", sample, "--out", tmp_path) if name == "analyze" else run("table", sample, name)
    lines = [line for line in ended.out.splitlines() if not line.startswith("Tables: ")]
    assert "\x1b" not in ended.out
    assert len(lines) >= 3
    assert max(map(cell_len, lines)) <= 120


@pytest.mark.parametrize(("name", "columns"), [("analyze", 80), ("analyze", 100), ("kern_trace", 100)])
def test_terminal_gets_lines_that_fit(name: str, columns: int, sample: Path, tmp_path: Path) -> None:
    arguments = ["analyze", sample, "--out", tmp_path] if name == "analyze" else ["table", sample, name]
    lines = ESCAPE.sub("", on_terminal(columns, *arguments)).splitlines()
    assert len(lines) > 3
    assert [line for line in lines if cell_len(line) > columns and not line.startswith("Tables: ")] == []
    if name == "analyze" and columns >= 100:
        text = "\n".join(lines)
        for word in ("prefill", "decode, warm-up", "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT", "tokens/s"):
            assert word in text
        assert "…" not in text


def test_colours_on_a_terminal_unless_they_are_unwanted(tmp_path: Path) -> None:
    path = TraceBuilder().range("prefill", 0, 100).write(tmp_path / "made.sqlite")
    assert COLOUR.search(on_terminal(100, "analyze", path))
    assert not COLOUR.search(on_terminal(100, "analyze", path, NO_COLOR="1"))
    assert not ESCAPE.search(on_terminal(100, "analyze", path, TERM="dumb"))


@pytest.mark.parametrize(
    "arguments", [["analyze", "{}"], ["table", "{}", "kern_trace", "--format", "parquet"], ["tables"]], ids=" ".join
)
def test_reader_of_the_pipe_that_went_away(arguments: list[str], sample: Path, tmp_path: Path) -> None:
    """As under ``| head -1``, only that nobody ever reads."""
    reader, writer = os.pipe()
    os.close(reader)
    copy = shutil.copy(sample, tmp_path / "node.sqlite")
    ended = program(*(word.format(copy) for word in arguments), stdout=writer)
    os.close(writer)
    assert ended.stderr == ""
    assert ended.returncode in (1, 141)


def test_head_gets_its_line(sample: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dsprof", "table", sample, "kern_trace", "--format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"{\n"  # far more follows than a pipe holds
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(timeout=60) in (1, 141)


@pytest.mark.parametrize(
    "arguments", [["analyze"], ["analyze", "--format", "json"], ["table", "kern_trace"]], ids=" ".join
)
def test_terminal_that_knows_ascii_only(arguments: list[str], tmp_path: Path) -> None:
    path = awkward().write(tmp_path / "ü.sqlite")
    command, *rest = arguments
    ended = program(command, path, *rest, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "line" in ended.stdout


def test_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff.sqlite"))
    try:
        path.touch()
    except OSError:
        pytest.skip("this file system takes no such name")
    awkward().write(tmp_path / "made.sqlite").replace(path)
    for name in ("rich", "json"):
        ended = program("analyze", path, "--format", name, stdout=subprocess.PIPE)
        assert (ended.returncode, ended.stderr) == (0, "")
    assert path.with_suffix(".dsprof").is_dir()


# -- secrets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_environment_held_is_nowhere_in_the_output(version: str, run: Run, tmp_path: Path) -> None:
    made = TraceBuilder(version).gpu().range("prefill", 0, 100).kernel("k", at=(50, 60), call=(10, 20))
    known = made.schema.columns
    made.row("TARGET_INFO_SYSTEM_ENV", name="EnvironmentVariables", value=f"HF_TOKEN={SECRET}")
    made.row("TARGET_INFO_SYSTEM_ENV", name="NvDriverVersion", value="580.159.04")
    number = made.string(f"stdout: {SECRET}")
    made.row("ProcessStreams", globalPid=1 << 48, filenameId=number, contentId=made.string(f"{SECRET}\n"))
    if known("META_DATA_CAPTURE"):
        made.row("META_DATA_CAPTURE", name="PROCESS_0:ENVIRONMENT", value=f"HF_TOKEN={SECRET}")
        made.row("META_DATA_CAPTURE", name=f"PROCESS_0:ARGS:{SECRET}", value="python")
    path = made.write(tmp_path / "made.sqlite")
    assert path.read_bytes().count(SECRET.encode()) >= 3

    shown = [run("analyze", path, "--format", name) for name in ("rich", "json", "markdown")]
    shown += [
        run("table", path, table, "--format", form) for table in all_tables() for form in ("csv", "json", "markdown")
    ]
    assert {ended.code for ended in shown} == {0}
    assert "580.159.04" in shown[0].out  # the one row of the environment that is wanted
    assert [ended for ended in shown if SECRET in ended.out + ended.err] == []
    analysis = dsprof.analyze(path)
    assert SECRET not in analysis._repr_html_() + repr(analysis)
    files = list((tmp_path / "made.dsprof").glob("*.parquet"))
    assert len(files) == len(all_tables())
    assert SECRET not in (tmp_path / "made.dsprof" / "analysis.json").read_text()
    for file in files:
        table = pq.read_table(file)
        assert SECRET not in str(table.schema.metadata) + str(table.to_pydict())
        held = [column.chunk(0).dictionary.to_pylist() for column in table.columns if "dictionary" in str(column.type)]
        assert SECRET not in str(held)
