"""Ranges arrive in a report, whichever nvtx package opened them and whichever nsys recorded them."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

import dsprof
import nsys_stats
from dsprof.arrays import NULL
from dsprof.attribute.stages import StageRanges
from dsprof.nsys.command import export
from dsprof.nsys.inputs import Input
from dsprof.nsys.reader import read
from dsprof.trace import Trace
from dsprof.words import DOMAIN
from dsprof.workloads import ranges
from dsprof.workloads.toy import PROMPT_TOKENS
from nsys_stats import MIDDLE, OLD, PRIMARY, require

pytest.importorskip("nvtx", reason="nvtx is not installed")

#: The package that is installed here, and one of each kind there ever was. The first knows no payload.
INSTALLED = "installed"
WITHOUT_PAYLOAD = "0.2.8"
VERSIONS = (INSTALLED, WITHOUT_PAYLOAD, "0.2.10", "0.2.11", "0.2.12")
#: The toy's arguments: requests, and tokens of each.
REQUESTS, TOKENS = 2, 4
#: A range as (name, payload, depth), and whether it was closed.
Row = tuple[str, int | None, int]

Record = Callable[..., Trace]


# -- nvtx packages --------------------------------------------------------------------------------------


def give_up(said: str) -> None:
    """Skip the test, or fail it where nothing may be missing."""
    if os.environ.get("DSPROF_REQUIRE_NSYS") == "1":
        pytest.fail(said)
    pytest.skip(said)


@pytest.fixture(scope="session")
def nvtx_folder() -> Callable[[str], Path]:
    """The folder of an nvtx version for this Python, fetched once and kept."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dsprof"

    def fetched(wanted: str) -> Path:
        folder = home / f"nvtx-{wanted}-{sys.implementation.cache_tag}"
        if folder.is_dir():
            return folder
        if importlib.util.find_spec("pip") is None:
            give_up(f"nvtx {wanted} is not in {folder}, and there is no pip to fetch it")
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=f".nvtx-{wanted}-") as partial:
            done = subprocess.run(
                [sys.executable, "-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--retries=1",
                 "--timeout=20", f"--target={partial}/nvtx", f"nvtx=={wanted}"],
                capture_output=True, text=True, timeout=120, check=False,
            )  # fmt: skip
            if done.returncode != 0 and re.search(r"from versions: \d", done.stderr):
                pytest.skip(f"there is no wheel of nvtx {wanted} for this Python")
            if done.returncode != 0:
                give_up(f"nvtx {wanted} could not be fetched: {done.stderr.strip()[-300:]}")
            if not folder.is_dir():  # another test process may have been faster
                Path(partial, "nvtx").rename(folder)
        return folder

    return fetched


def use(nvtx: str, nvtx_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let programs that are started from here import this nvtx."""
    if nvtx != INSTALLED:
        monkeypatch.setenv("PYTHONPATH", str(nvtx_folder(nvtx)), prepend=os.pathsep)
    program = "from importlib.metadata import version; import nvtx; print(version('nvtx'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == (version("nvtx") if nvtx == INSTALLED else nvtx)  # or all cases would be one


# -- recording ------------------------------------------------------------------------------------------


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """Runs Python with some arguments under an nsys, and reads its report."""

    def recorded(which: str, *arguments: str, code: int = 0) -> Trace:
        nsys = require(which)
        report = nsys_stats.record(nsys, tmp_path / "run.nsys-rep", [sys.executable, *arguments], code=code)
        export(Input(report), tmp_path / "run.sqlite", nsys.path)
        return read(tmp_path / "run.sqlite")

    return recorded


def rows(trace: Trace) -> list[Row]:
    """The ranges of dsprof's domain in the order in which they were opened."""
    own = [row for row in range(len(trace.ranges)) if trace.names[trace.ranges.domain[row]] == DOMAIN]
    start, end = trace.ranges.start.tolist(), trace.ranges.end.tolist()
    own.sort(key=lambda row: start[row])
    found = []
    for row in own:
        payload = int(trace.ranges.payload[row])
        depth = sum(start[other] < start[row] and end[row] < end[other] for other in own)
        found.append((trace.names[trace.ranges.name[row]], None if payload == NULL else payload, depth))
    return found


def toy(payloads: bool) -> list[Row]:
    """What the toy program opens."""
    expected: list[Row] = []
    for request in range(REQUESTS):
        expected += [("request", request, 0), ("prefill", PROMPT_TOKENS, 1), ("decode", None, 1)]
        expected += [("decode.step", step, 2) for step in range(1, TOKENS)]
    return [(name, payload if payloads else None, depth) for name, payload, depth in expected]


@pytest.mark.nsys
@pytest.mark.parametrize("nvtx", VERSIONS)
@pytest.mark.parametrize("nsys", [PRIMARY, OLD, MIDDLE])
def test_the_toys_ranges_arrive(
    nsys: str,
    nvtx: str,
    record: Record,
    nvtx_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    require(nsys)
    use(nvtx, nvtx_folder, monkeypatch)
    trace = record(nsys, "-m", "dsprof.workloads.toy", str(REQUESTS), str(TOKENS))
    assert rows(trace) == toy(payloads=nvtx != WITHOUT_PAYLOAD)
    assert not trace.ranges.truncated.any()
    assert set(trace.ranges.style.tolist()) == {0}
    assert len(set(trace.ranges.thread.tolist())) == 1
    # With or without payloads, the analysis numbers the requests and the steps of each.
    analysis = dsprof.analyze(tmp_path / "run.sqlite")
    assert analysis.results.facts[StageRanges].step_number.tolist() == [*range(1, TOKENS)] * REQUESTS
    stages = analysis.arrow("stage_trace").select(["stage", "request", "tokens"]).to_pylist()
    prompt = None if nvtx == WITHOUT_PAYLOAD else PROMPT_TOKENS
    assert [tuple(row.values()) for row in stages] == [
        row for request in range(REQUESTS) for row in (("prefill", request, prompt), ("decode", request, TOKENS - 1))
    ]


#: Errors in every kind of range; what comes after is not inside them.
RAISES = """
from dsprof.workloads.ranges import annotate, decode_range, prefill_range
from dsprof.workloads.toy import work

for error in (ValueError, KeyboardInterrupt):
    try:
        with annotate("request", 5), prefill_range(7), annotate("inner"):
            work(2)
            raise error
    except error:
        work(2)
with decode_range():
    work(2)
with annotate("last", 9):
    raise SystemExit(3)
"""


@pytest.mark.nsys
@pytest.mark.parametrize(
    ("nsys", "nvtx"), [(PRIMARY, INSTALLED), (OLD, INSTALLED), (MIDDLE, INSTALLED), (PRIMARY, WITHOUT_PAYLOAD)]
)
def test_an_error_closes_the_ranges_it_leaves(
    nsys: str, nvtx: str, record: Record, nvtx_folder: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    require(nsys)
    use(nvtx, nvtx_folder, monkeypatch)
    trace = record(nsys, "-c", RAISES, code=3)
    expected: list[Row] = [("request", 5, 0), ("prefill", 7, 1), ("inner", None, 2)] * 2
    expected += [("decode", None, 0), ("last", 9, 0)]
    payloads = nvtx != WITHOUT_PAYLOAD
    assert rows(trace) == [(name, payload if payloads else None, depth) for name, payload, depth in expected]
    assert not trace.ranges.truncated.any()


# -- without nsys ---------------------------------------------------------------------------------------


class Calls:
    """Stands for an nvtx module without domain objects; it notes what is called."""

    def __init__(self) -> None:
        self.noted: list[tuple[Any, ...]] = []


class Old(Calls):
    def push_range(self, message: str, color: str = "blue", domain: str | None = None) -> None:
        self.noted.append((message, domain))

    def pop_range(self, domain: str | None = None) -> None:
        self.noted.append(("pop", domain))


class Payload(Old):
    def push_range(self, message: str, domain: str | None = None, payload: int | None = None) -> None:
        self.noted.append((message, domain, payload))


@pytest.mark.parametrize(("module", "payload"), [(Old(), ()), (Payload(), (3,))])
def test_a_payload_is_given_where_it_is_known(module: Old, payload: tuple[int, ...], monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "nvtx", module)
    ranges.open_domain.cache_clear()
    try:
        with ranges.prefill_range(3):
            pass
    finally:
        ranges.open_domain.cache_clear()
    assert module.noted == [("prefill", "dsprof", *payload), ("pop", "dsprof")]


def test_without_a_profiler_ranges_do_nothing_and_cost_little() -> None:
    """As in every run that is not recorded: no error, and no range takes as long as a decode step."""
    done = subprocess.run(
        [sys.executable, "-c",
         "import time\nfrom dsprof.workloads.ranges import annotate\nwith annotate('first', 1): pass\n"
         "start = time.perf_counter()\n"
         "for i in range(1000):\n with annotate('range', i): pass\n"
         "print(time.perf_counter() - start)"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert float(done.stdout) < 0.5


def test_the_toy_loads_nothing_heavy() -> None:
    program = "import sys, dsprof.workloads.toy; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(done.stdout.split())
    assert "dsprof.workloads.ranges" in loaded
    assert not loaded & {"torch", "transformers", "numpy", "pandas", "pyarrow", "rich", "typer"}
