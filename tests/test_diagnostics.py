"""What nsys says of a capture becomes a finding with a remedy, said once; what is not known stays as it is.

The texts are those that nsys writes, in reports of 2022 to 2026 and in the strings of its programs; reports are made.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dsprof
from dsprof.cli import app
from dsprof.findings import Finding
from trace_builder import VERSIONS, TraceBuilder, global_pid

#: Versions that write messages into their exports.
SAYING = [version for version in VERSIONS if "DIAGNOSTIC_EVENT" in TraceBuilder(version).schema.tables]
INFO, WARNING, ERROR = 1, 2, 3
INCOMPLETE = (
    "Number of incomplete CUPTI events dropped: {}. Incomplete events appear when GPU timestamp information have not "
    "been retrieved at the time the profiling session was stopped."
)
LEGACY = (
    "CUDA hardware tracing is not supported on this system. A legacy (software instrumented) trace was collected "
    "instead."
)
DRIVER = (
    "Installed CUDA driver version (13.2) is not supported by this build of Nsight Systems. CUDA trace will be "
    "collected using libraries for driver version 12.8"
)


def plain() -> TraceBuilder:
    return TraceBuilder(SAYING[-1]).gpu().range("prefill", 0, 100).kernel("gemm", at=(20, 40), call=(10, 15))


def analysed(report: TraceBuilder, folder: Path) -> dsprof.Analysis:
    return dsprof.analyze(report.write(folder / "made.sqlite"), reuse=False)


def found_in(report: TraceBuilder, folder: Path) -> list[Finding]:
    """The findings but for those that every report of `plain` has."""
    usual = {one.code for one in analysed(plain(), folder).findings}
    return [one for one in analysed(report, folder).findings if one.code not in usual]


@pytest.mark.parametrize(
    ("text", "severity", "code", "says"),
    [
        ("Hardware tracing used for CUDA tracing", INFO, "hardware-tracing", "cuda-sw"),
        (INCOMPLETE.format(102_320), WARNING, "dropped-events", "dropped 102320 CUDA events"),
        ("17 CUPTI events were detected incomplete while processing a buffer", WARNING, "dropped-events", "ped 17 "),
        ("CUPTI dropped 5 records. Some CUPTI events might be missing.", WARNING, "dropped-events", "dropped 5 CUDA"),
        ("Couldn't allocate CUPTI buffers 3 times.Some CUPTI events might be missing.", ERROR, "buffers-full", "flush"),
        ("CUPTI buffer allocation limit of 1000 bytes is exceeded.", ERROR, "buffers-full", "shorter window"),
        (
            "Number of CUPTI events produced: \t9, CUPTI buffers: 50 of 60. Some CUPTI events might be missing. To "
            "make sure all the events are collected, let the application run until it quits",
            WARNING, "incomplete-events", "synchronize",
        ),
        ("Not all CUDA events might have been collected.", WARNING, "incomplete-events", "shorter window"),
        ("Not all NVTX events might have been collected.", WARNING, "incomplete-ranges", "shorter window"),
        (DRIVER, WARNING, "unsupported-driver", "newer nsys"),
        (
            "Could not parse 4 CUPTI activity records. Please try updating the CUDA driver or use more recent profiler "
            "version.",
            ERROR, "unsupported-driver", "newer nsys",
        ),
        ("CUDA trace collection disabled due to Confidential Compute mode.", ERROR, "cuda-refused", "confidential"),
        (
            "A client is already subscribed to CUPTI. CUPTI does not support multiple concurrent subscriber.",
            ERROR, "cupti-taken", "torch.profiler",
        ),
        ("CUDA injection initialization failed.", ERROR, "cuda-failed", "knows the driver"),
        (
            "The CUDA driver is configured to inject all processes using the library specified by /etc/x/y. If this is "
            "not intended, please remove the file. Otherwise, it will lead to missing CUDA trace data.",
            WARNING, "missing-cuda", "Remove the file",
        ),
        ("Some events (\t81) were lost. Certain charts may display incorrect data.", WARNING, "lost-samples", "81"),
        (
            "Sampling events were lost in the interval 1 - 2 (1) ns. Thread states and CPU utilization on the timeline "
            "might be incorrect. Try reducing the sampling rate.",
            WARNING, "lost-samples", "lost some samples",
        ),
        (
            "Unable to collect CPU kernel IP samples and backtraces. perf event paranoid level is 2. \nChange the "
            "paranoid level to 1 to enable kernel sample collection.",
            WARNING, "no-samples", "perf_event_paranoid",
        ),
    ],
)  # fmt: skip
def test_known_messages_have_a_remedy(text: str, severity: int, code: str, says: str, tmp_path: Path) -> None:
    (found,) = found_in(plain().diagnostic(text, severity=severity), tmp_path)
    assert found.code == code
    assert says in str(found)
    assert found.hint.endswith(".")
    assert found.strict_exit == 0


@pytest.mark.parametrize(
    ("text", "severity"),
    [
        ("Profiling has started.", INFO),
        ("Number of CUPTI events produced: \t103843, CUPTI buffers: 50.", INFO),
        ("Buffers holding CUDA trace data will be flushed on CudaProfilerStop() call.", INFO),
        ("Enabling trace for device graph launch", INFO),
        ("Something that was lost, as information", INFO),
        (LEGACY, INFO),
        ("No OpenGL events collected. Does the process use OpenGL?", WARNING),
        ("No CUDA events collected. Does the process use CUDA?", WARNING),
        ("CUDA profiling might have not been started correctly.", WARNING),
        ("NVTX function nvtxDomainDestroy was called with wrong domain ID argument.", WARNING),
        ("Not all OpenGL events might have been collected.", WARNING),
        ("", WARNING),
        ("\n\t ", ERROR),
        ("\x00", ERROR),
    ],
)
def test_what_does_not_matter_is_not_said(text: str, severity: int, tmp_path: Path) -> None:
    assert found_in(plain().diagnostic(text, severity=severity), tmp_path) == []


@pytest.mark.parametrize(
    ("texts", "tracing"),
    [
        (["Hardware tracing used for CUDA tracing"], "hardware"),
        ([LEGACY], "software"),
        ([LEGACY, "Hardware tracing used for CUDA tracing", LEGACY], "software and hardware"),
        (["Profiling has started."], ""),
    ],
)
def test_how_cuda_was_traced_is_in_the_summary(texts: list[str], tracing: str, tmp_path: Path) -> None:
    report = plain()
    for text in texts:
        report.diagnostic(text, severity=INFO)
    path = report.write(tmp_path / "made.sqlite")
    said = json.loads(CliRunner().invoke(app, ["analyze", str(path), "--format", "json"]).stdout)["report"]
    assert said["tracing"] == tracing
    assert [one["kind"] for one in said["messages"]] == [f"{word}-tracing" for word in tracing.split(" and ") if word]


def test_warnings_that_nobody_knows_stay_as_they_are(tmp_path: Path) -> None:
    """Once each with how often, without paths; in any language."""
    report = plain()
    for text in ("The moon is in the way of /home/alice/x.log!\nDetails follow.", "パケットが失われました", "Ünïcödé"):
        for _ in range(3):
            report.diagnostic(text, severity=WARNING)
    found = found_in(report.diagnostic("Once is enough", severity=ERROR), tmp_path)
    assert [one.code for one in found] == ["nsys-says"] * 4
    assert [str(one).partition(": ")[2] for one in found] == [
        "The moon is in the way of <path>! (3 times)", "パケットが失われました (3 times)", "Ünïcödé (3 times)",
        "Once is enough",
    ]  # fmt: skip


def test_messages_of_one_kind_are_said_once_with_their_sum(tmp_path: Path) -> None:
    """Of all processes, and of both wordings; the first text stands for them."""
    report = plain()
    for number in (10, 20, 20):
        report.diagnostic(INCOMPLETE.format(number), severity=WARNING)
    report.diagnostic("CUPTI dropped 5 records. Some CUPTI events might be missing.", severity=WARNING)
    analysis = analysed(report, tmp_path)
    (found,) = [one for one in analysis.findings if one.code == "dropped-events"]
    assert "dropped 55 CUDA events" in found.message
    (said,) = analysis.summary().report.messages
    assert (said.times, said.number, said.text) == (4, 55, INCOMPLETE.format(10)[:299] + "…"[: len(INCOMPLETE) > 300])
    assert analysis.summary().report.diagnostics == (said.text,)


def test_a_number_beyond_all_numbers_is_none(tmp_path: Path) -> None:
    (found,) = found_in(plain().diagnostic(INCOMPLETE.format("9" * 3000), severity=WARNING), tmp_path)
    assert "dropped some CUDA events" in found.message


def test_helpers_that_recorded_nothing_lost_nothing(tmp_path: Path) -> None:
    """A launcher's helper says both that it has no events and that not all were collected; a worker only the latter."""

    def saying(*processes: int) -> TraceBuilder:
        report = plain()
        for pid in processes:
            texts = ["Not all CUDA events might have been collected.", "Not all NVTX events might have been collected."]
            if pid != 100:
                texts += [f"No {what} events collected. Does the process use {what}?" for what in ("CUDA", "NVTX")]
            for text in texts:
                report.row("DIAGNOSTIC_EVENT", timestamp=0, timestampType=1, source=3, severity=WARNING, text=text,
                           globalPid=global_pid(pid))  # fmt: skip
        return report

    assert found_in(saying(7, 8), tmp_path) == []
    assert [one.code for one in found_in(saying(7, 100, 8), tmp_path)] == ["incomplete-events", "incomplete-ranges"]


@pytest.mark.parametrize(
    "text",
    [
        "x" * (1 << 20), "/a" * (1 << 19), "/" * (1 << 20), "7" * (1 << 20), "Some events (" + " " * (1 << 20),
        "No " * (1 << 19), "\x1b[31mred\x00\x07 [bold]", b"\xff\xfe\xff", "層" * 5000, "\r\rback",
        "<script>alert(1)</script>",
        "{n} {times} {0} %s", "Not all " + "x" * (1 << 20) + " events might have been collected.",
    ],
    ids=range(13),
)  # fmt: skip
def test_odd_texts_are_said_short_and_harmless(text: str | bytes, tmp_path: Path) -> None:
    """A megabyte, control characters, no UTF-8, markup, what a format string would take for its own."""
    path = plain().diagnostic(text, severity=WARNING).write(tmp_path / "made.sqlite")
    (found,) = [one for one in dsprof.analyze(path).findings if one.code == "nsys-says"]
    assert len(found.message) < 400
    for form in ("rich", "json", "markdown"):
        ended = CliRunner().invoke(app, ["analyze", str(path), "--format", form])
        assert ended.exit_code == 0, ended.output
        assert not set("\x00\x07\x1b") & set(ended.output)
        assert len(ended.output) < 20_000


def test_texts_without_end_are_not_all_said(tmp_path: Path) -> None:
    report = plain()
    for number in range(10_000):
        report.diagnostic(f"Strange thing {number}", severity=WARNING)
    found = found_in(report.diagnostic(DRIVER, severity=WARNING), tmp_path)
    assert [one.code for one in found].count("nsys-says") == 8
    assert "more kinds of warnings" in found[-1].message


@pytest.mark.parametrize("gone", [("severity",), ("text",), ("globalPid",), ("severity", "globalPid"), ()])
def test_columns_and_tables_may_be_missing(gone: tuple[str, ...], tmp_path: Path) -> None:
    """Without a severity nobody knows what is a warning: what is known is said."""
    report = plain().diagnostic("Strange thing", severity=WARNING).diagnostic(DRIVER, severity=WARNING)
    codes = [one.code for one in found_in(report.without("DIAGNOSTIC_EVENT", *gone), tmp_path)]
    assert codes == ([] if "text" in gone or not gone else
                     [*(["nsys-says"] if "severity" not in gone else []), "unsupported-driver"])  # fmt: skip


def test_rows_that_are_no_messages_are_passed_over(tmp_path: Path) -> None:
    report = plain().diagnostic(DRIVER, severity=WARNING)
    report.sql("CREATE TABLE loose AS SELECT * FROM DIAGNOSTIC_EVENT")  # in which anything may be missing
    report.sql("DROP TABLE DIAGNOSTIC_EVENT").sql("ALTER TABLE loose RENAME TO DIAGNOSTIC_EVENT")
    for values in ("NULL, 2, NULL", "7, 'two', 7", "x'00ff', 2.5, 'x'", "NULL, NULL, NULL"):
        report.sql(f"INSERT INTO DIAGNOSTIC_EVENT (text, severity, globalPid) VALUES ({values})")
    assert next(one.code for one in found_in(report, tmp_path)) == "unsupported-driver"
