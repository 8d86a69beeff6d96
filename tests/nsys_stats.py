"""Raw runs of nsys for tests: recordings, and its own reports as DataFrames, printed now or once by NVIDIA's nsys.

::

    nsys = require("primary")                                   # skips, or fails under DSPROF_REQUIRE_NSYS=1
    printed = run(nsys, export, ["nvtx_gpu_proj_trace"], folder)
    printed["nvtx_gpu_proj_trace"].frame                        # ints as Int64, decimals as Decimal

All versions are brought to one form: the report names of today, `<NA>` for what has no value, the words of
today for copies. Nothing else is changed.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TextIO

import pandas as pd
import pytest

from dsprof.errors import NsysMissing
from dsprof.nsys.command import find_nsys, nsys_version, run_nsys

#: Which nsys a test asks for: the one that must be there, and old ones that may be.
PRIMARY, OLD, MIDDLE = "primary", "2022.4", "2024.2"
#: Folders of `make nsys` and the releases in them; the first that is there is the primary one.
_SUITES = {"trixie": "2023.4", "experimental": "2024.2", "bookworm": "2022.4"}
#: Names of the reports up to 2022.
_OLD_NAMES = {
    "nvtx_gpu_proj_trace": "nvtxgpuproj",
    "nvtx_kern_sum": "nvtxkernsum",
    "cuda_gpu_kern_sum": "gpukernsum",
    "cuda_gpu_mem_time_sum": "gpumemtimesum",
    "cuda_gpu_mem_size_sum": "gpumemsizesum",
    "cuda_kern_exec_trace": "kernexectrace",
    "cuda_api_sum": "cudaapisum",
    "nvtx_sum": "nvtxsum",
}
_INTEGERS = {
    "Projected Start (ns)", "Projected Duration (ns)", "Orig Start (ns)", "Orig Duration (ns)", "PID", "TID",
    "NumGPUOps", "Lvl", "NVTX Inst", "Kern Inst", "Total Time (ns)", "Min (ns)", "Max (ns)", "Instances", "Count",
    "API Start (ns)", "API Dur (ns)", "Queue Start (ns)", "Queue Dur (ns)", "Kernel Start (ns)", "Kernel Dur (ns)",
    "Total Dur (ns)", "DevId", "Num Calls", "Range Instances", "Total GPU Ops", "Total Proj Time (ns)",
    "Total Range Time (ns)", "Proj Min (ns)", "Proj Max (ns)",
}  # fmt: skip
_DECIMAL = re.compile(r"^(Time|(Proj )?(Avg|Med|StdDev)|Total|Min|Max) \((%|ns|MB)\)$")
#: How often a raw nsys is asked at most: now and then it fails by itself, and says nothing of what is tested.
TRIES = 4
#: How dsprof says that nsys itself failed, and advises to try again: its own threads crash now and then, as the
#: kernel's log says (`*1GlobalProcess`: segfault; twelve in eight hours of test runs).
AGENT_LOST = "nsys could not reach its agent"
_DIRECTION = {"H": "Host", "D": "Device", "A": "Array"}


@dataclass(frozen=True)
class Nsys:
    """An nsys for tests."""

    path: Path
    version: str  # as it prints it: 2023.4.4.54

    @property
    def year(self) -> int:
        return int(self.version.split(".")[0])


@dataclass(frozen=True)
class Printed:
    """What one report said: rows, or the words with which nsys left it out."""

    frame: pd.DataFrame
    skipped: str = ""


@cache
def _nsys(path: Path) -> Nsys:
    return Nsys(path, nsys_version(path))


def _unpacked() -> dict[str, Path]:
    """By release: the nsys of each of `make nsys`'s folders."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    found = {release: cache_home / "dsprof" / "nsys" / suite / "nsys" for suite, release in _SUITES.items()}
    return {release: path for release, path in found.items() if os.access(path, os.X_OK)}


def _primary() -> Path | None:
    named = os.environ.get("DSPROF_TEST_NSYS")
    if named:
        return Path(named).expanduser()
    unpacked = list(_unpacked().values())
    if unpacked:
        return unpacked[0]
    try:
        return find_nsys()
    except NsysMissing:
        return None


def require(which: str) -> Nsys:
    """The nsys `which`; where there is none the test is skipped, or fails if DSPROF_REQUIRE_NSYS is 1.

    That asks for the primary one only: of the others, a machine may have what it likes.
    """
    path = _primary() if which == PRIMARY else _unpacked().get(which)
    if path is None:
        said = f"no nsys {'' if which == PRIMARY else which + ' '}here: `make nsys` installs some, without root"
        if which == PRIMARY and os.environ.get("DSPROF_REQUIRE_NSYS") == "1":
            pytest.fail(said)
        pytest.skip(said)
    found = _nsys(path)
    assert found.version, f"{path} prints no version"
    if which != PRIMARY and found.path == _primary():
        pytest.skip(f"nsys {which} is the primary one here")
    return found


def run(nsys: Nsys, export: Path, reports: Sequence[str], folder: Path, limit_s: float = 240) -> dict[str, Printed]:
    """What `nsys` prints for an SQLite export; its CSV files go to `folder`.

    Its exit code says nothing, so each report is judged by its file: there must be one, and an empty one
    needs a reason that nsys gave.
    """
    names = {report: _OLD_NAMES[report] if nsys.year < 2023 else report for report in reports}
    chosen = [argument for name in names.values() for argument in ("--report", name)]
    before = (export.stat().st_size, export.stat().st_mtime_ns)
    outcome = run_nsys(nsys.path, ["stats", *chosen, "--format", "csv", "--output", f"{folder}/stats", str(export)],
                       limit_s)  # fmt: skip
    assert outcome.code == 0, f"nsys {nsys.version}: {outcome.said}"
    assert (export.stat().st_size, export.stat().st_mtime_ns) == before, "nsys wrote to the export"
    return {report: _printed(folder / f"stats_{name}.csv", name, outcome.said) for report, name in names.items()}


def record(nsys: Nsys, made: Path, program: Sequence[str], *options: str, trace: str = "nvtx", code: int = 0) -> Path:
    """Record `program`, which may run several times and ends with `code`; `made` is the file that must be there then.

    Tried again only where nsys itself failed, which is where it leaves no file: on a busy machine its agent cannot
    be reached, and an import fails or hangs (seen with 2022.4, 2023.4 and 2024.2).
    """
    flags = [f"--trace={trace}", "--sample=none", "--cpuctxsw=none", "--force-overwrite=true", *options]
    said = []
    for _ in range(TRIES):
        arguments = ["profile", *flags, f"--output={made.with_suffix('')}", *program]
        outcome = run_nsys(nsys.path, arguments, limit_s=60)
        said.append(f"{outcome.code}: {outcome.said}")
        if made.is_file() and outcome.code != 124:
            assert outcome.code == code, outcome.said
            return made
        made.unlink(missing_ok=True)
    pytest.fail(f"nsys {nsys.version} left no {made.name}, {TRIES} times. It said:\n" + "\n".join(said))


def _printed(path: Path, name: str, said: str) -> Printed:
    assert path.is_file(), f"nsys wrote no {path.name}: {said}"
    if path.stat().st_size:
        with path.open(newline="") as file:
            return Printed(parse(file))
    reason = re.search(rf"\[[^\]]*/{name}\.py\] to [^\n]*SKIPPED: (?:\S+ )?(.*)", said)
    assert reason, f"{path.name} is empty without a reason: {said}"
    return Printed(pd.DataFrame(), reason.group(1).strip())


def parse(file: TextIO) -> pd.DataFrame:
    """A CSV of `nsys stats`: exact integers, exact decimals, text; `<NA>` and None for what is missing."""
    rows = csv.reader(file)
    header = next(rows)
    columns = dict(zip(header, zip(*rows, strict=True), strict=False)) or dict.fromkeys(header, ())
    frame = pd.DataFrame({name: _column(name, columns.get(name, ())) for name in header})
    if "Operation" in frame:
        frame["Operation"] = [_copy_in_todays_words(text) for text in frame["Operation"]]
    return frame


def _column(name: str, texts: Sequence[str]) -> pd.Series:
    if name in _INTEGERS:
        return pd.Series([None if text in ("", "None") else int(text) for text in texts], dtype="Int64")
    if _DECIMAL.match(name):
        return pd.Series([Decimal(text) for text in texts], dtype=object)
    return pd.Series(list(texts), dtype=object)


def _copy_in_todays_words(text: str) -> str:
    """``[CUDA memcpy HtoD]`` of 2022 as ``[CUDA memcpy Host-to-Device]``."""
    return re.sub(r"\b([HDA])to([HDA])\b", lambda m: f"{_DIRECTION[m[1]]}-to-{_DIRECTION[m[2]]}", text)


def as_printed(printed: Decimal, value: float | Decimal) -> bool:
    """Is `value`, rounded to the digits that nsys printed, what it printed?

    Half a unit of the last digit, and of that a millionth more: a tie may be rounded either way.
    """
    unit = Decimal(1).scaleb(int(printed.as_tuple().exponent))
    return abs(Decimal(value) - printed) <= unit / 2 * (1 + Decimal("1e-6"))
