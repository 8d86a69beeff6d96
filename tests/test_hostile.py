"""One report whose every name is hostile, through all outputs of all commands that read a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fuzz import hostile
from fuzz.calls import CODES, Ended, call
from fuzz.case import Result
from fuzz.kinds.views import BEGIN, END, check_page, events
from perfetto_reader import read
from test_page import BAD
from test_page import hostile as made

#: What a test of the outputs looks for.
NAMES = (*BAD, "=cmd|' /C calc'!A0", "a|b`c`", "@somebody", "\x9b31m", "")
#: A stage by one of them, and the GPU that another is the name of.
STAGE = f"{BAD[1]}=^decode$"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report, whose file's name is hostile as well."""
    return made(tmp_path_factory.mktemp("hostile"), (*BAD, *NAMES[len(BAD) :])).path


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory, report: Path) -> list[Path]:
    """Two of them, as ranks of one run."""
    folder = tmp_path_factory.mktemp("ranks")
    paths = [folder / f"<img src=x onerror=1>\x1b[2J-rank{number}.sqlite" for number in range(2)]
    for path in paths:
        path.write_bytes(report.read_bytes())
    return paths


TABLES = ("kern_sum", "kern_trace", "range_trace", "stage_kern_sum", "stage_sum", "step_trace")
#: A command's words after the report, and the form of what it prints.
PRINTED = [
    *((("analyze", "--format", form), form) for form in ("rich", "markdown", "json")),
    *((("whatif", "--no-sync", "--format", form), form) for form in ("rich", "markdown", "json")),
    *((("table", name, "--format", form), form) for name in TABLES for form in ("rich", "csv", "markdown", "json")),
]


def printed(words: tuple[str, ...], paths: list[Path]) -> Ended:
    """A command of some reports."""
    command, *rest = words
    name = [rest.pop(0)] if command == "table" else []
    return call(command, *paths, *name, *rest, "--stage", STAGE)


def look(ended: Ended, form: str) -> list[str]:
    """What is wrong with an output."""
    assert ended.code in CODES and not ended.trace, ended
    found = [*hostile.obeyed(ended.text), *hostile.obeyed(ended.err)]
    if form == "csv":
        found += hostile.csv_trouble(ended.text)
    elif form == "markdown":
        found += hostile.markdown_trouble(ended.text)
    elif form == "json":
        json.loads(ended.out)
    elif form == "html":
        result = Result()
        check_page(ended.out, result)
        found += [fault.said for fault in result.faults]
    return found


def named(value: object) -> str | None:
    """What a test is called."""
    return " ".join(value) if isinstance(value, tuple) else None


@pytest.mark.parametrize(("words", "form"), PRINTED, ids=named)
def test_what_is_printed_of_a_report(report: Path, words: tuple[str, ...], form: str) -> None:
    ended = printed(words, [report])
    assert ended.code == 0, ended.err
    assert look(ended, form) == []


@pytest.mark.parametrize("form", ["rich", "markdown", "json", "html"])
def test_what_is_printed_of_a_comparison(ranks: list[Path], form: str) -> None:
    ended = call("diff", *ranks, "--format", form, "--stage", STAGE)
    assert ended.code in (0, 3), ended.err
    assert look(ended, form) == []
    assert len(ended.out) > 1000


@pytest.mark.parametrize("form", ["rich", "markdown", "json"])
def test_what_is_printed_of_many_reports(ranks: list[Path], form: str, tmp_path: Path) -> None:
    ended = call("analyze", *ranks, "--on", "loop", "--out", tmp_path / "all", "--format", form, "--stage", STAGE)
    assert ended.code == 0, ended.err
    assert look(ended, form) == []


def test_pages(report: Path, ranks: list[Path], tmp_path: Path) -> None:
    """Of a report, and of an analysis of several."""
    assert call("analyze", *ranks, "--on", "loop", "--out", tmp_path / "all").code == 0
    for number, (source, *words) in enumerate(((report, "--stage", STAGE), (tmp_path / "all",))):
        target = tmp_path / f"{number}.html"
        assert look(call("report", source, "-o", target, *words), "") == []
        result = Result()
        check_page(target.read_bytes(), result)
        assert result.faults == []


def test_timelines(report: Path, ranks: list[Path], tmp_path: Path) -> None:
    """Every operation is a slice; Perfetto's own importer reads names whose signs are all to be seen."""
    for number, reports in enumerate(([report], ranks)):
        target = tmp_path / f"{number}.pftrace"
        assert look(call("timeline", *reports, "-o", target, "--stage", STAGE), "") == []
        kinds = list(events(target.read_bytes()))
        assert kinds.count(BEGIN) == kinds.count(END) > 2 * 8 * len(NAMES)
        with read(target) as timeline:
            assert timeline.problems == []
            texts = {str(row["text"]) for row in timeline.rows(TEXTS)}
        assert [text for text in texts for _ in hostile.obeyed(text)] == []
        assert {BAD[0], "(no name)"} <= texts


TEXTS = "SELECT name AS text FROM slice UNION SELECT name FROM track UNION SELECT name FROM process"
