"""``dsprof.toml``: found beside a report or in the working folder, under the names of the options, and without harm."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import dsprof
from dsprof.analysis.named_rules import NamedRules
from dsprof.analysis.options import AnalysisOptions
from dsprof.analysis.rules_file import _KEYS, _LARGEST, RulesFile, find_rules_file, read_rules_file
from dsprof.cli import main
from dsprof.compare.gates import gates_of
from dsprof.errors import ConfigUnreadable, PatternTooSlow, RulesUnreadable
from dsprof.ground import patterns
from dsprof.nsys.selection import Wanted, window_of
from dsprof.rules.families import Rule
from trace_builder import TraceBuilder

EVERYTHING = """
step = "^token"
threads = "process"
engine = "vLLM"
model_config = "models/config.json"
window = "10ns..50%"
device = [0, 1]
pid = 100
gates = ["decode.gpu_busy<1%", "default"]

[stages]
mine = "^look"
decode = "^decode"

[[families]]
name = "mine"
pattern = "^my_"
example = "my_kernel"
"""


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A report with ranges of two names, in a folder that is not the working folder."""
    folder, here = tmp_path / "reports", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    made = TraceBuilder("2025.3.2", duration=1000).range("look", 0, 100).range("decode", 200, 300)
    made.kernel("my_kernel", at=(20, 40), call=(10, 15)).kernel("other", at=(220, 240), call=(210, 215), pid=100)
    made.kernel("other", at=(420, 440), call=(410, 415), pid=200)
    return made.write(folder / "run.sqlite")


def stages(analysis: dsprof.Analysis) -> set[str]:
    return set(analysis["stage_trace"]["stage"])


def told(analysis: dsprof.Analysis) -> list[tuple[str, str, bool, str]]:
    return [(line.option, line.value, line.remembered, line.file) for line in analysis.summary().rules]


def test_every_key_is_read(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "config.json").write_text('{"model_type": "deepseek_ocr"}')
    (tmp_path / "dsprof.toml").write_text(EVERYTHING)
    found = read_rules_file(tmp_path / "dsprof.toml")
    named = found.named
    assert named.stages == {"mine": "^look", "decode": "^decode"}
    assert (named.step, named.threads, named.engine) == ("^token", "process", "vllm")
    assert named.families == (Rule("mine", "^my_", "my_kernel"),)
    assert named.model_config is not None
    assert named.model_config.source == "config.json"
    assert found.wanted == Wanted(window_of("10ns..50%"), (0, 1), (100,))
    assert found.label == "dsprof.toml"
    keys = {line.partition("=")[0].strip() for line in EVERYTHING.partition("[stages]")[0].strip().splitlines()}
    assert found.gates == gates_of(["decode.gpu_busy<1%", "default"])
    assert keys | {"stages", "families"} == set(_KEYS)


def test_every_rule_and_selection_of_an_analysis_has_a_key() -> None:
    """What is an option of the rules is a key of the file, under the same name."""
    names = set(AnalysisOptions.__annotations__) - {
        "rules", "tables", "memory", "compiled", "folder", "reuse", "remembered", "nsys"
    }  # fmt: skip
    assert names == set(_KEYS) - {"gates"}  # which are of comparisons alone
    assert set(NamedRules.__annotations__) <= set(_KEYS)


def test_the_file_beside_the_report_goes_before_the_one_here(report: Path) -> None:
    assert find_rules_file(report) == RulesFile()
    Path("dsprof.toml").write_text('[stages]\nhere = "^look"')
    assert stages(dsprof.analyze(report)) == {"here", "decode"}
    report.with_name("dsprof.toml").write_text('[stages]\nbeside = "^look"')
    found = dsprof.analyze(report)
    assert stages(found) == {"beside", "decode"}
    assert told(found) == [("--stage", "beside=^look", False, "dsprof.toml beside the report")]
    other = dsprof.analyze(report, rules="dsprof.toml")
    assert stages(other) == {"here", "decode"}
    assert told(other) == [("--stage", "here=^look", False, "dsprof.toml")]
    without = dsprof.analyze(report, rules="none")
    assert stages(without) == {"decode"}
    assert told(without) == []


def test_a_session_folder_has_its_own(report: Path) -> None:
    report.with_name("dsprof.toml").write_text('[stages]\nmine = "^look"')
    assert stages(dsprof.analyze(report.parent)) == {"mine", "decode"}


def test_options_go_before_the_file_and_the_file_before_what_is_remembered(report: Path) -> None:
    dsprof.analyze(report, stages={"kept": "^look"}, step="^kept_step", threads="process").write()
    file = report.with_name("dsprof.toml")
    file.write_text('step = "^file_step"\n[stages]\nfiled = "^look"')
    found = dsprof.analyze(report, step="^now")
    assert told(found) == [
        ("--stage", "filed=^look", False, "dsprof.toml beside the report"),
        ("--step", "^now", False, ""),
        ("--threads", "process", True, ""),
    ]
    assert stages(found) == {"filed", "decode"}


def test_what_a_file_says_is_not_remembered(report: Path) -> None:
    """A line that is taken out of it is gone; and tables that were made with it are not taken for others."""
    file = report.with_name("dsprof.toml")
    file.write_text('[stages]\nmine = "^look"')
    dsprof.analyze(report).write()
    again = dsprof.analyze(report)
    assert type(again.results).__name__ == "Stored"
    assert told(again) == [("--stage", "mine=^look", False, "dsprof.toml beside the report")]
    file.write_text("# nothing is said here\n")
    usual = dsprof.analyze(report)
    assert (type(usual.results).__name__, stages(usual), told(usual)) == ("Fresh", {"decode"}, [])


def test_a_file_selects(report: Path) -> None:
    report.with_name("dsprof.toml").write_text('window = "..35%"\npid = [100]\ndevice = 0')
    found = dsprof.analyze(report)
    assert str(found.selection) == "--window ..0.00000035s --device 0 --pid 100"
    assert found.summary().counts.kernels == 2
    label = "dsprof.toml beside the report"
    assert told(found) == [
        ("--window", "..35%", False, label), ("--device", "0", False, label), ("--pid", "100", False, label)
    ]  # fmt: skip
    other = dsprof.analyze(report, pid=200, window="0ns..")
    assert str(other.selection) == "--window 0s.. --device 0 --pid 200"
    assert told(other) == [("--device", "0", False, label)]


def test_families_of_another_file(report: Path) -> None:
    (report.parent / "own").mkdir()
    (report.parent / "own" / "families.toml").write_text('[[family]]\nname = "mine"\npattern = "^my_"\n')
    report.with_name("dsprof.toml").write_text('families = "own/families.toml"')
    assert "mine" in set(dsprof.analyze(report)["stage_family_sum"]["family"])


def test_the_commands_say_which_file_was_used(
    report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report.with_name("dsprof.toml").write_text('[stages]\nmine = "^look"\n')

    def run(*words: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["dsprof", words[0], str(report), *words[1:]])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit, match="0"):
            main()
        said = capsys.readouterr()
        return said.out, said.err

    sentence = "from dsprof.toml beside the report: --stage 'mine=^look' (or --rules none)"
    assert f"rules   {sentence}" in run("analyze")[0]
    assert sentence in run("analyze", "--format", "markdown")[0]
    (rule,) = json.loads(run("analyze", "--format", "json")[0])["rules"]
    assert rule == {
        "option": "--stage", "value": "mine=^look", "remembered": False, "file": "dsprof.toml beside the report"
    }  # fmt: skip
    assert f"dsprof: rules: {sentence}" in run("table", "stage_sum")[1]
    assert "rules" not in run("table", "stage_sum", "--rules", "none")[1]
    assert "rules" not in run("table", "stage_sum", "--stage", "x=^look")[1]


# -- files that are wrong ------------------------------------------------------------------------------------

WRONG = {
    'stage = "x"': "has the key 'stage', which is none, and should be 'stages'.",
    'model-config = "x"': "has the key 'model-config', which is none, and should be 'model_config'.",
    "windw = 3": "has the key 'windw', which is none, and should be 'window'.",
    "zzzz = 3": "has the key 'zzzz', which is none.",
    "gate = 3": "has the key 'gate', which is none",
    "stages = 3": "has 'stages' with no table of NAME = REGEX.",
    'stages = ["x"]': "has 'stages' with no table",
    "[stages]\nx = 3": "has 'stages' with no text.",
    '[stages]\n"" = "x"': "has 'stages' with a stage that is called ''.",
    '[stages]\n"(no stage)" = "x"': "a stage that is called '(no stage)'.",
    '[stages]\nx = "("': "has 'stages' with '(', which is no regular expression",
    'step = "a{99999999999999999999}"': "has 'step' with",
    "step = true": "has 'step' with no text.",
    'step = " "': "has 'step' with no text.",
    'threads = "all"': "has 'threads' with neither 'thread' nor 'process'.",
    "threads = []": "neither 'thread' nor 'process'",
    "families = 3": "neither [[families]] parts nor the name of a file",
    "families = []": "neither [[families]] parts",
    '[[families]]\nname = "x"': "its [[families]] number 1 must have name and pattern",
    '[[families]]\nname = "x"\npattern = "("': "its [[families]] number 1 has a pattern that is no regular expression",
    'families = ["x"]': "its [[families]] number 1 must have",
    "window = 3": "has 'window' with no text.",
    'window = "3..5"': "has 'window' with what is no window: '3..5' is no window like 3s..5s",
    'device = "a"': "has 'device' with what are no numbers: 'a' is no number",
    "device = [0, true]": "has 'device' with what are no numbers",
    "pid = 1.5": "has 'pid' with what are no numbers: '1.5'",
    "pid = []": "has 'pid' with what are no numbers: no number is named",
    "pid = -1": "'-1' is no number",
    "pid = 1979-05-27": "has 'pid' with what are no numbers",
    "pid = {a = 1}": "has 'pid' with what are no numbers",
    "[pid": "cannot be read: ",
    "a = 1\na = 2": "cannot be read: ",
    "x = " + "[" * 5000: "cannot be read: ",
    "pid = " + "9" * 5000: "cannot be read: ",
    "\xff": "cannot be read: ",
    "x = 1\0": "cannot be read: ",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_in_it_is_a_sentence(text: str, report: Path) -> None:
    report.with_name("dsprof.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(RulesUnreadable) as error:
        dsprof.analyze(report)
    assert WRONG[text] in error.value.message
    assert str(report.with_name("dsprof.toml")) in error.value.message
    assert len(error.value.message) < 600
    dsprof.analyze(report, rules="none")


def test_what_is_no_file_is_a_sentence(report: Path) -> None:
    place = report.with_name("dsprof.toml")

    def said() -> str:
        with pytest.raises(RulesUnreadable) as error:
            dsprof.analyze(report)
        assert "--rules none" in error.value.hint
        return error.value.message

    os.mkfifo(place)
    assert "cannot be read: it is no file" in said()
    place.unlink()
    place.mkdir()
    assert "cannot be read: Is a directory" in said()
    place.rmdir()
    place.symlink_to("nowhere.toml")
    assert "cannot be read: No such file or directory" in said()
    place.unlink()
    place.symlink_to("dsprof.toml")
    assert "cannot be read: Too many levels of symbolic links" in said()
    place.unlink()
    place.write_bytes(b"#" * (_LARGEST + 1))
    assert "cannot be read: it is larger than 1 MB" in said()
    place.write_text("# fine")
    place.chmod(0)
    if os.geteuid():
        assert "cannot be read: Permission denied" in said()


def test_a_file_that_is_named_must_be_there(
    report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RulesUnreadable, match=r"missing.toml cannot be read: No such file"):
        dsprof.analyze(report, rules="missing.toml")
    monkeypatch.setattr("sys.argv", ["dsprof", "analyze", str(report), "--rules", "x" * 300])
    with pytest.raises(SystemExit, match=str(RulesUnreadable.exit_code)):
        main()
    assert "cannot be read: File name too long" in capsys.readouterr().err


def test_a_capture_says_before_it_records_what_is_wrong_here(
    report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("dsprof.toml").write_text("stag = 1")
    monkeypatch.setattr("sys.argv", ["dsprof", "capture", "--", "true"])
    with pytest.raises(SystemExit, match=str(RulesUnreadable.exit_code)):
        main()
    assert "has the key 'stag'" in capsys.readouterr().err
    assert not Path("traces").exists()


# -- somebody else's report ----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["families", "model_config"])
def test_files_that_it_names_lie_in_its_folder(key: str, report: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.toml"
    outside.write_text('[[family]]\nname = "mine"\npattern = "^my_"\n')
    (report.parent / "link.toml").symlink_to(outside)
    (report.parent / "up").symlink_to(tmp_path)
    for named in ("../outside.toml", str(outside), "link.toml", "up/outside.toml", ".", "x/../../outside.toml"):
        report.with_name("dsprof.toml").write_text(f"{key} = {json.dumps(named)}")
        with pytest.raises(RulesUnreadable, match=f"has '{key}' with '.*', which does not lie in the folder of dsprof"):
            dsprof.analyze(report)
    report.with_name("dsprof.toml").write_text(f'{key} = "a\\u0000b"')
    with pytest.raises(RulesUnreadable, match="no name of a file"):
        dsprof.analyze(report)


@pytest.mark.parametrize(("key", "error"), [("families", RulesUnreadable), ("model_config", ConfigUnreadable)])
def test_a_pipe_that_it_names_is_not_waited_for(key: str, error: type[Exception], report: Path) -> None:
    os.mkfifo(report.parent / "pipe")
    report.with_name("dsprof.toml").write_text(f'{key} = "pipe"')
    with pytest.raises(error):
        dsprof.analyze(report)


@pytest.mark.parametrize(
    "text", ['step = "(d+)+$"', '[stages]\nx = "(d+)+$"', '[[families]]\nname="x"\npattern="(d+)+$"']
)
def test_its_patterns_have_the_time_of_any_pattern(text: str, report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "LIMIT_S", 0.5)
    long = "d" * 60 + "!"
    made = TraceBuilder("2025.3.2").range(long, 0, 10).kernel(long, at=(2, 4), call=(1, 2))
    made.write(report)
    report.with_name("dsprof.toml").write_text(text)
    with pytest.raises(PatternTooSlow, match=r"took more than 0\.5 s"):
        dsprof.analyze(report).summary()


def test_names_in_it_cannot_speak_to_the_terminal(
    report: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report.with_name("dsprof.toml").write_text('[stages]\n"\\u001b[31mred\\u0007" = "^look"')
    for words in (["analyze"], ["table", "stage_sum"]):
        monkeypatch.setattr("sys.argv", ["dsprof", words[0], str(report), *words[1:]])
        with pytest.raises(SystemExit, match="0"):
            main()
        said: Any = capsys.readouterr()
        assert "red" in said.out + said.err
        assert not {"\x1b[31m", "\x07"} & {mark for mark in ("\x1b[31m", "\x07") if mark in said.out + said.err}
    report.with_name("dsprof.toml").write_text('"\\u001b[31mred" = 1')
    with pytest.raises(SystemExit, match=str(RulesUnreadable.exit_code)):
        main()
    assert "\x1b[31m" not in capsys.readouterr().err
