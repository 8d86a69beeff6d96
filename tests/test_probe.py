"""What a capture asks of a fresh export is what reading it whole would say, in little memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given

import slow_reference as slow
from dsprof.errors import NothingRecorded
from dsprof.nsys.locate import locate
from dsprof.nsys.probe import probe
from dsprof.nsys.reader import read
from test_parts import written
from test_properties import few, recordings
from trace_builder import TraceBuilder

ROOT = Path(__file__).parents[1]
SAMPLES = sorted((ROOT / "traces" / "samples").glob("*.sqlite.xz"))


def assert_as_read(path: Path) -> None:
    found = probe(path)
    try:
        trace = read(path)
    except NothingRecorded:
        assert found.is_empty
        return
    assert not found.is_empty
    assert (found.driver, found.gpus) == (trace.report.driver, trace.report.gpus)
    assert found.ranges == len(trace.ranges)
    assert found.domains == {trace.names[code] for code in trace.ranges.domain.tolist()}
    assert found.kernels == (len(trace.kernels) > 0)
    assert found.events == (len(trace.calls) + len(trace.operations) > 0)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.partition(".")[0])
def test_a_sample_holds_what_it_is_said_to(sample: Path) -> None:
    assert_as_read(locate(sample)[1].path)


def test_a_random_report_holds_what_it_is_said_to(tmp_path: Path) -> None:
    @few
    @given(recordings())
    def check(recording: slow.Recording) -> None:
        assert_as_read(written(recording, tmp_path / "random.sqlite"))

    check()


def test_nothing_recorded_is_told(tmp_path: Path) -> None:
    assert probe(TraceBuilder("2025.3.2").write(tmp_path / "empty.sqlite")).is_empty


MEMORY = r"""
import re, sys
from pathlib import Path
from dsprof.nsys.probe import probe
from dsprof.nsys.reader import read
{work}(Path(sys.argv[1]))
print(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
"""


def test_it_takes_little_memory_whatever_the_kernels(tmp_path: Path) -> None:
    """Above a small report, less than a third of what reading takes; that is for its ranges, of which it has many."""
    large = tmp_path / "large.sqlite"
    make = [sys.executable, ROOT / "benchmarks" / "synth.py", large, "--kernels", "400000"]
    subprocess.run(make, check=True, capture_output=True)
    small = TraceBuilder("2025.3.2").kernel("a", at=(2, 4), call=(1, 2)).write(tmp_path / "small.sqlite")

    def peak(work: str, path: Path) -> int:
        command = [sys.executable, "-c", MEMORY.format(work=work), str(path)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    alone = peak("probe", small)
    probed, whole = peak("probe", large) - alone, peak("read", large) - alone
    print(f"reading took {whole >> 10} MiB more than a small report, probing {probed >> 10}")
    assert 3 * probed < whole
