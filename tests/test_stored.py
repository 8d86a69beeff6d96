"""Results of an earlier run are used again, and only those of this very report, rules and code."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import dsprof
from dsprof import stored
from dsprof.analysis import Analysis, Stored
from dsprof.errors import OutputRefused, UnknownTable
from dsprof.nsys.locate import locate
from dsprof.tables import all_tables

ROOT = Path(__file__).parents[1]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report of which all tables lie beside it."""
    source = locate(ROOT / "traces" / "samples" / "h200-graph-node.sqlite.xz")[1].path
    path = Path(shutil.copyfile(source, tmp_path / "run.sqlite"))
    assert type(dsprof.analyze(path)) is Analysis
    dsprof.analyze(path).write()
    return path


def test_results_are_used_again_and_say_the_same(report: Path) -> None:
    again, fresh = dsprof.analyze(report), dsprof.analyze(report, reuse=False)
    assert type(again) is Stored
    assert type(fresh) is Analysis
    for name in fresh:
        pd.testing.assert_frame_equal(again[name], fresh[name], check_exact=True, obj=name)
        assert again.arrow(name).schema.equals(fresh.arrow(name).schema, check_metadata=True)
    assert list(again) == list(fresh) == list(all_tables())
    for top in (0, 2, 5, 50):
        assert again.summary(top) == fresh.summary(top)
    assert again.findings == fresh.findings
    assert again._repr_html_() == fresh._repr_html_()
    assert repr(again) == repr(fresh)


def other_content(report: Path) -> None:
    """One name of a kernel for another: as long, and under the same time, as after `cp -p`."""
    before, content = report.stat(), report.read_bytes()
    assert b"vectorized" in content
    report.write_bytes(content.replace(b"vectorized", b"vectorised"))
    os.utime(report, ns=(before.st_atime_ns, before.st_mtime_ns))


def longer(report: Path) -> None:
    before = report.stat().st_mtime_ns
    with report.open("ab") as file:
        file.write(b"\0" * 4096)
    os.utime(report, ns=(before, before))


def table_changed(report: Path) -> None:
    path = report.with_suffix(".dsprof") / "kern_sum.parquet"
    path.write_bytes(path.read_bytes())


def table_gone(report: Path) -> None:
    (report.with_suffix(".dsprof") / "step_trace.parquet").unlink()


def record_gone(report: Path) -> None:
    (report.with_suffix(".dsprof") / stored.RECORD).unlink()


def record_cut(report: Path) -> None:
    path = report.with_suffix(".dsprof") / stored.RECORD
    path.write_bytes(path.read_bytes()[:-20])


def record_changed(report: Path) -> None:
    path = report.with_suffix(".dsprof") / stored.RECORD
    text = path.read_text()
    at = text.rindex("kernel_total_ns")
    digit = next(place for place in range(at, len(text)) if text[place].isdigit())
    path.write_text(f"{text[:digit]}{(int(text[digit]) + 1) % 10}{text[digit + 1 :]}")


def model_named(report: Path) -> None:
    shutil.copyfile(ROOT / "traces" / "samples" / "h200-stages.model.json", report.with_suffix(".model.json"))


@pytest.mark.parametrize(
    "change",
    [other_content, longer, table_changed, table_gone, record_gone, record_cut, record_changed, model_named],
    ids=lambda f: f.__name__,
)
def test_what_changed_is_analyzed_again(report: Path, change: Callable[[Path], None]) -> None:
    change(report)
    assert type(dsprof.analyze(report)) is Analysis


def test_a_report_that_was_only_touched_is_the_same(report: Path, tmp_path: Path) -> None:
    os.utime(report, ns=(0, report.stat().st_mtime_ns + 1))
    assert type(dsprof.analyze(report)) is Stored
    (tmp_path / "elsewhere").mkdir()
    for path in (report, report.with_suffix(".dsprof")):
        path.rename(tmp_path / "elsewhere" / path.name)
    assert type(dsprof.analyze(tmp_path / "elsewhere" / report.name)) is Stored


@pytest.mark.parametrize(
    "rules", [{"stages": {"prefill": "nothing"}}, {"step": "nothing"}, {"threads": "process"}], ids=str
)
def test_other_rules_are_other_results(report: Path, rules: dict) -> None:
    assert type(dsprof.analyze(report, **rules)) is Analysis
    dsprof.analyze(report, **rules).write()
    assert type(dsprof.analyze(report, **rules)) is Stored
    assert type(dsprof.analyze(report)) is Analysis


def test_other_code_is_other_results(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_code", lambda: "of another version")
    assert type(dsprof.analyze(report)) is Analysis


def test_results_in_a_folder_of_ones_own(report: Path, tmp_path: Path) -> None:
    assert type(dsprof.analyze(report, folder=tmp_path / "mine")) is Analysis
    assert dsprof.analyze(report).write(tmp_path / "copied") == tmp_path / "copied"
    copied = {path.name: path.read_bytes() for path in (tmp_path / "copied").iterdir()}
    tables = {path.name: path.read_bytes() for path in report.with_suffix(".dsprof").glob("*.parquet")}
    assert copied.items() > tables.items()
    assert type(dsprof.analyze(report, folder=tmp_path / "copied")) is Stored
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused, match="cannot be written"):
        dsprof.analyze(report).write(tmp_path / "file")


def test_chosen_tables_alone_are_written_and_used_again(report: Path) -> None:
    folder = report.with_suffix(".dsprof")
    chosen = ("stage_sum", "kern_sum")
    assert list(dsprof.analyze(report, tables=chosen)) == list(chosen)
    assert type(dsprof.analyze(report, tables=chosen)) is Stored, "all tables are there, so these are"
    other_content(report)
    dsprof.analyze(report, tables=chosen).write()
    assert {path.name for path in folder.iterdir()} == {"analysis.json", "stage_sum.parquet", "kern_sum.parquet"}
    assert type(dsprof.analyze(report, tables=["kern_sum"])) is Stored
    assert type(dsprof.analyze(report)) is Analysis
    assert dsprof.analyze(report, tables=chosen).summary(20).stages


def test_a_table_of_events_that_was_left_out_is_refused(report: Path) -> None:
    """Its details were not read, so it would have holes."""
    analysis = dsprof.analyze(report, tables=["kern_sum"], reuse=False)
    assert analysis.attributed.trace.kernels.grid.strides == (0,)
    with pytest.raises(UnknownTable, match="kern_trace was left out of this analysis"):
        analysis["kern_trace"]
    assert len(analysis["stage_kern_sum"])
    with pytest.raises(UnknownTable, match="There is no table nothing"):
        dsprof.analyze(report, tables=["nothing"])
