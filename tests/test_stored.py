"""Results of an earlier run are used again, and only those of this very report, rules and code."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import dsprof
from dsprof.analysis import stored
from dsprof.analysis.results import Fresh
from dsprof.analysis.stored import Stored
from dsprof.cli import app
from dsprof.errors import OutputRefused, RulesUnreadable, UnknownTable
from dsprof.ground.documents import json_pieces
from dsprof.nsys.locate import locate
from dsprof.tables import all_tables
from dsprof.trace import Trace

ROOT = Path(__file__).parents[1]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A report of which all tables lie beside it."""
    source = locate(ROOT / "traces" / "samples" / "h200-graph-node.sqlite.xz")[1].path
    path = Path(shutil.copyfile(source, tmp_path / "run.sqlite"))
    assert type(dsprof.analyze(path).results) is Fresh
    dsprof.analyze(path).write()
    return path


def test_results_are_used_again_and_say_the_same(report: Path) -> None:
    again, fresh = dsprof.analyze(report), dsprof.analyze(report, reuse=False)
    assert type(again.results) is Stored
    assert type(fresh.results) is Fresh
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
    assert type(dsprof.analyze(report).results) is Fresh


def test_a_report_that_was_only_touched_is_the_same(report: Path, tmp_path: Path) -> None:
    os.utime(report, ns=(0, report.stat().st_mtime_ns + 1))
    assert type(dsprof.analyze(report).results) is Stored
    (tmp_path / "elsewhere").mkdir()
    for path in (report, report.with_suffix(".dsprof")):
        path.rename(tmp_path / "elsewhere" / path.name)
    assert type(dsprof.analyze(tmp_path / "elsewhere" / report.name).results) is Stored


FAMILIES = '[[family]]\nname = "mine"\npattern = "elementwise"\nexample = "elementwise_kernel"\n'
MODEL = ROOT / "traces" / "samples" / "h200-stages.model.json"
#: Each rule that can be named, and what the first screen says of it.
NAMED: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "stages": (
        {"prefill": "decode", "summary": "no\\("},
        [("--stage", "prefill=decode"), ("--stage", "summary=no\\(")],
    ),
    "step": ("^decode.step$", [("--step", "^decode.step$")]),
    "threads": ("process", [("--threads", "process")]),
    "families": ("mine.toml", [("--families", "mine")]),
    "model_config": ("model.json", [("--model-config", "model.json")]),
}


@pytest.fixture
def named(tmp_path: Path) -> dict[str, Any]:
    """Each rule, as `dsprof.analyze` takes it."""
    (tmp_path / "mine.toml").write_text(FAMILIES)
    shutil.copyfile(MODEL, tmp_path / "model.json")
    files = ("families", "model_config")
    return {rule: tmp_path / value if rule in files else value for rule, (value, _) in NAMED.items()}


def told(analysis: dsprof.Analysis) -> list[tuple[str, str]]:
    """The rules that the first screen calls remembered."""
    return [(line.option, line.value) for line in analysis.summary().rules if line.remembered]


@pytest.mark.parametrize("rule", NAMED)
def test_a_rule_is_remembered_beside_the_tables(rule: str, named: dict[str, Any], report: Path) -> None:
    first = dsprof.analyze(report, **{rule: named[rule]})
    assert type(first.results) is Fresh
    assert (told(first), len(first.summary().rules)) == ([], len(NAMED[rule][1]))
    first.write()
    for file in ("mine.toml", "model.json"):  # what they said is remembered, and not where they lay
        report.with_name(file).unlink()
    again = dsprof.analyze(report)
    assert type(again.results) is Stored
    assert told(again) == NAMED[rule][1]
    assert NAMED[rule][1][0][0] in again._repr_html_()
    anew, usual = dsprof.analyze(report, reuse=False), dsprof.analyze(report, remembered=False)
    assert type(anew.results) is type(usual.results) is Fresh
    for name in first:
        pd.testing.assert_frame_equal(anew[name], first[name], check_exact=True, obj=name)
    assert usual.summary().rules == ()
    usual.write()
    assert told(dsprof.analyze(report)) == [], "the way back"


def test_a_rule_that_is_named_takes_the_place_of_those_of_its_kind_alone(named: dict[str, Any], report: Path) -> None:
    dsprof.analyze(report, **named).write()
    other = dsprof.analyze(report, stages={"decode": "nothing"}, threads="thread")
    kept = [line for rule in ("step", "families", "model_config") for line in NAMED[rule][1]]
    assert told(other) == kept
    assert set(other["stage_trace"]["stage"]) == {"prefill"}, "by the usual rule"
    assert told(dsprof.analyze(report)) == [line for _, lines in NAMED.values() for line in lines], "it was not written"
    other.write()
    rest = [("--stage", "decode=nothing"), *NAMED["step"][1], ("--threads", "thread"), *kept[1:]]
    assert told(dsprof.analyze(report)) == rest


def test_rules_are_remembered_of_this_report_alone(named: dict[str, Any], report: Path) -> None:
    dsprof.analyze(report, step=named["step"]).write()
    other_content(report)
    assert dsprof.analyze(report).summary().rules == ()


def test_rules_of_any_length_are_remembered(report: Path, tmp_path: Path) -> None:
    (tmp_path / "many.toml").write_text(
        "".join(f'[[family]]\nname = "f{n}"\npattern = "{"x" * 100}"\n' for n in range(20_000))
    )
    dsprof.analyze(report, families=tmp_path / "many.toml").write()
    again = dsprof.analyze(report)
    assert type(again.results) is Stored
    assert len(again.summary().rules) == 1


def with_rules(text: str, rules: str | None) -> str:
    """A record with other rules in the place of its own, or with none as earlier versions wrote it."""
    document = json.loads(text)
    if rules is None:
        del document["rules"]
    else:
        document["rules"] = rules
    del document["sha256"]
    return "".join(stored.sealed(json_pieces(document)))


def sealed(document: dict[str, Any]) -> str:
    return "".join(stored.sealed(json_pieces(document)))


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ('{"step": "x"}', "somebody changed"),
        ("[", "somebody changed"),
        (sealed({"step": "("}), "'\\(' is no regular expression"),
        (sealed({"stages": {"(no stage)": "x"}}), "a name that none can have"),
        (sealed({"stages": ["x"]}), "of another form"),
        (sealed({"threads": "all"}), "of another form"),
        (sealed({"families": [{"family": "mine"}]}), "of another form"),
        (sealed({"model_config": {"source": "x", "requests": {"one": {}}}}), "of another form"),
        (sealed({"of_a_later_version": 1}), "of another form"),
    ],
)
def test_rules_that_somebody_changed_are_told(rules: str, reason: str, report: Path) -> None:
    path = report.with_suffix(".dsprof") / stored.RECORD
    path.write_text(with_rules(path.read_text(), rules))
    with pytest.raises(RulesUnreadable, match=f"cannot be used again: .*{reason}"):
        dsprof.analyze(report)
    dsprof.analyze(report, remembered=False).write()
    assert dsprof.analyze(report).summary().rules == ()


def test_a_record_of_a_version_that_remembered_no_rules_is_as_good(report: Path) -> None:
    path = report.with_suffix(".dsprof") / stored.RECORD
    path.write_text(with_rules(path.read_text(), None))
    assert type(dsprof.analyze(report).results) is Stored


def test_the_command_line_uses_remembered_rules_and_says_so(report: Path) -> None:
    def run(*words: str) -> Any:
        ended = CliRunner().invoke(app, [words[0], str(report), *words[1:]])
        assert ended.exit_code == 0, ended.output
        return ended

    run("analyze", "--stage", "mine=^decode$", "--threads", "process", "--tables", "stage_sum")
    said = "remembered beside the tables: --stage 'mine=^decode$' --threads process (or --default-rules)"
    told = run("table", "stage_sum", "--format", "csv")
    assert said in told.stderr
    assert "\nmine," in told.stdout
    assert said.split("(")[0].split() == run("analyze").stdout.partition("rules")[2].partition("(")[0].split()
    usual = run("table", "stage_sum", "--format", "csv", "--default-rules")
    assert (usual.stderr, "\nmine," in usual.stdout) == ("", False)
    assert "remembered" not in run("analyze", "--default-rules").stdout
    assert "remembered" not in run("analyze").stdout


def test_other_code_is_other_results(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_code", lambda: "of another version")
    assert type(dsprof.analyze(report).results) is Fresh


def test_results_in_a_folder_of_ones_own(report: Path, tmp_path: Path) -> None:
    assert type(dsprof.analyze(report, folder=tmp_path / "mine").results) is Fresh
    assert dsprof.analyze(report).write(tmp_path / "copied") == tmp_path / "copied"
    copied = {path.name: path.read_bytes() for path in (tmp_path / "copied").iterdir()}
    tables = {path.name: path.read_bytes() for path in report.with_suffix(".dsprof").glob("*.parquet")}
    assert copied.items() > tables.items()
    assert type(dsprof.analyze(report, folder=tmp_path / "copied").results) is Stored
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputRefused, match="cannot be written"):
        dsprof.analyze(report).write(tmp_path / "file")


def test_chosen_tables_alone_are_written_and_used_again(report: Path) -> None:
    folder = report.with_suffix(".dsprof")
    chosen = ("stage_sum", "kern_sum")
    assert list(dsprof.analyze(report, tables=chosen)) == list(chosen)
    assert type(dsprof.analyze(report, tables=chosen).results) is Stored, "all tables are there, so these are"
    other_content(report)
    dsprof.analyze(report, tables=chosen).write()
    assert {path.name for path in folder.iterdir()} == {"analysis.json", "stage_sum.parquet", "kern_sum.parquet"}
    assert type(dsprof.analyze(report, tables=["kern_sum"]).results) is Stored
    assert type(dsprof.analyze(report).results) is Fresh
    assert dsprof.analyze(report, tables=chosen).summary(20).stages


def test_a_table_of_events_that_was_left_out_is_refused(report: Path) -> None:
    """Its details were not read, so it would have holes."""
    analysis = dsprof.analyze(report, tables=["kern_sum"], reuse=False)
    assert analysis.results._work._only_part[Trace].kernels.grid.strides == (0,)
    with pytest.raises(UnknownTable, match="kern_trace was left out of this analysis"):
        analysis["kern_trace"]
    assert len(analysis["stage_kern_sum"])
    with pytest.raises(UnknownTable, match="There is no table nothing"):
        dsprof.analyze(report, tables=["nothing"])
