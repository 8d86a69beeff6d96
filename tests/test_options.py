"""Every option of an analysis reaches it, from `dsprof.analyze` and from each command that analyzes."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from typer.testing import CliRunner

import dsprof
from dsprof.analysis import analyze as analyzing
from dsprof.analysis.options import AnalysisOptions
from dsprof.cli import app, main
from dsprof.cli.options import AnalysisFlags, SelectionFlags, with_flags
from dsprof.errors import ConfigUnreadable, RulesUnreadable, UnknownTable
from trace_builder import TraceBuilder

FAMILIES = '[[family]]\nname = "mine"\npattern = "^my_"\n'
#: Of each option: what is given, and what the analysis has of it; paths are made by `given`.
GIVEN: dict[str, tuple[Any, Any]] = {
    "stages": ({"vision": "^look"}, {"vision": "^look"}),
    "step": ("^token", "^token"),
    "threads": ("process", "process"),
    "families": ("families.toml", "mine"),
    "engine": ("vLLM", "vllm"),
    "model_config": ("config.json", "deepseek_ocr"),
    "rules": ("rules.toml", "^their_step"),
    "window": ("3s..5s", (3_000_000_000, 5_000_000_000)),
    "device": ([1, 0], (0, 1)),
    "pid": (4711, (4711,)),
    "tables": (["kern_sum"], ("kern_sum",)),
    "memory": ("2GB", 2_000_000_000),
    "compiled": (False, False),
    "folder": ("somewhere", "somewhere"),
    "reuse": (False, False),
    "remembered": (False, False),
    "nsys": ("/opt/nsys", "/opt/nsys"),
}
#: How they are written on a command line, beside those of one command alone.
WRITTEN = {
    "stage": ("stages", ["--stage", "vision=^look"]),
    "step": ("step", ["--step", "^token"]),
    "threads": ("threads", ["--threads", "process"]),
    "families": ("families", ["--families", "families.toml"]),
    "engine": ("engine", ["--engine", "vLLM"]),
    "model_config": ("model_config", ["--model-config", "config.json"]),
    "rules": ("rules", ["--rules", "rules.toml"]),
    "memory": ("memory", ["--memory", "2GB"]),
    "fast": ("compiled", ["--no-fast"]),
    "nsys": ("nsys", ["--nsys", "/opt/nsys"]),
}
#: The same of what selects, which a capture does not have.
SELECTED = {
    "window": ("window", ["--window", "3s..5s"]),
    "device": ("device", ["--device", "1,0"]),
    "pid": ("pid", ["--pid", "4711"]),
}


class Reached(Exception):
    """The analysis was reached, with these options."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "families.toml").write_text(FAMILIES)
    (tmp_path / "rules.toml").write_text('step = "^their_step"')
    (tmp_path / "config.json").write_text('{"model_type": "deepseek_ocr"}')
    TraceBuilder("2025.3.2").kernel("a", at=(2, 4), call=(1, 2)).write(tmp_path / "made.sqlite")

    def reach(path: Path, options: AnalysisOptions, progress: Any) -> None:
        raise Reached(options)

    monkeypatch.setattr(analyzing, "analyze_as", reach)
    return tmp_path


def told(options: AnalysisOptions, name: str) -> Any:
    """What the options say, so that it can be compared."""
    value = getattr(options, name)
    if name == "families":
        return value[0].family if value else None
    if name == "model_config":
        return value.config["model_type"] if value else None
    if name == "rules":
        return value.named.step if value else None
    if name == "window":
        return (value.begin.at(0), value.end.at(0)) if value else None
    return str(value) if name == "folder" and value is not None else value


def test_analyze_and_its_options_are_the_same() -> None:
    keywords = [name for name in signature(dsprof.analyze).parameters if name not in ("path", "progress")]
    assert sorted(keywords) == sorted(one.name for one in attrs.fields(AnalysisOptions)) == sorted(GIVEN)
    usual = AnalysisOptions()
    for name in keywords:
        default = signature(dsprof.analyze).parameters[name].default
        assert getattr(AnalysisOptions(**{name: default}), name) == getattr(usual, name), name


@pytest.mark.parametrize("name", GIVEN)
def test_each_keyword_reaches_the_analysis(name: str, folder: Path) -> None:
    given, expected = GIVEN[name]
    with pytest.raises(Reached) as reached:
        dsprof.analyze("made.sqlite", **{name: given})
    assert told(reached.value.args[0], name) == expected
    others = [other for other in GIVEN if other != name]
    assert [told(reached.value.args[0], other) for other in others] == [told(AnalysisOptions(), one) for one in others]


def test_each_flag_is_written_in_a_test() -> None:
    assert {one.name for one in attrs.fields(AnalysisFlags)} == set(WRITTEN)
    assert {one.name for one in attrs.fields(SelectionFlags)} == set(SELECTED)


@pytest.mark.parametrize(
    "command", [["analyze", "made.sqlite"], ["table", "made.sqlite", "kern_sum"], ["report", "made.sqlite"]]
)
@pytest.mark.parametrize("flag", [*WRITTEN, *SELECTED])
def test_each_flag_reaches_the_analysis(
    flag: str, command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, words = {**WRITTEN, **SELECTED}[flag]
    monkeypatch.setattr("sys.argv", ["dsprof", *command, *words])
    with pytest.raises(Reached) as reached:
        main()
    assert told(reached.value.args[0], name) == GIVEN[name][1]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--tables", "kern_sum"], "tables"),
        (["--out", "somewhere"], "folder"),
        (["--again"], "reuse"),
        (["--default-rules"], "remembered"),
    ],
)
def test_what_analyze_alone_has_reaches_the_analysis(
    words: list[str], name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["dsprof", "analyze", "made.sqlite", *words])
    with pytest.raises(Reached) as reached:
        main()
    assert told(reached.value.args[0], name) == GIVEN[name][1]


@pytest.mark.parametrize("flag", WRITTEN)
def test_each_flag_of_a_capture_reaches_the_analysis_of_its_report(
    flag: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dsprof.capture import session

    def record(command: Any, settings: Any, *rest: Any) -> Any:
        assert (settings.nsys or "") == ("/opt/nsys" if flag == "nsys" else "")
        told = SimpleNamespace(served=None)
        return SimpleNamespace(
            recorded=True,
            exports=(folder / "made.sqlite",),
            folder=folder,
            session=told,
            profile=SimpleNamespace(later=()),
        )

    name, words = WRITTEN[flag]
    monkeypatch.setattr(session, "record_command", record)
    monkeypatch.setattr("sys.argv", ["dsprof", "capture", *words, "--", "true"])
    with pytest.raises(Reached) as reached:
        main()
    assert told(reached.value.args[0], name) == GIVEN[name][1]


def shown(command: str) -> dict[str, str]:
    """The help of a command: each option as it is written, and what is said of it.

    Values to choose from stand in angles or in brackets, by the version of Typer.
    """
    ended = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
    assert ended.exit_code == 0
    told = re.split(r"^  (?=-)", ended.output.partition("Options:\n")[2].partition("\n\n")[0], flags=re.M)
    parts = [re.split(r"\s{2,}", " ".join(one.split("\n")), maxsplit=1) for one in told if one]
    return {
        re.sub(r"\[([\w|]+)\]$", r"<\1>", written): " ".join(about.split()).replace(
            "your-own- program", "your-own-program"
        )
        for written, about in parts
    }


SHOWN = {
    "--stage NAME=REGEX": "Ranges whose name holds REGEX are stage NAME. Can be repeated.",
    "--step REGEX": "Ranges whose name holds REGEX are decode steps.",
    "--threads <thread|process>": "process: a stage also takes the launches of its process's other threads; "
    "usually not.",
    "--families FILE": "Rules for kernel families, put before the usual ones: TOML, see docs/your-own-program.md.",
    "--engine NAME|none": "The serving engine whose steps are looked for; by default, whichever it is.",
    "--model-config FILE": "Which model ran, for roofs: a config.json or session.json.",
    "--rules FILE": "A TOML file of such options; by default dsprof.toml beside the report or here; none: no file.",
    "--memory SIZE": "Memory to take at most, like 2GB; three quarters of what is free by default.",
    "--fast / --no-fast": "Let numba compile loops, or not; where it is installed, large reports do.",
    "--nsys PATH": "The nsys that exports a .nsys-rep.",
}


@pytest.mark.parametrize("command", ["analyze", "table", "capture"])
def test_each_command_that_analyzes_tells_of_the_same_options(command: str) -> None:
    told = shown(command)
    assert {written: told.get(written) for written in SHOWN} == SHOWN
    assert [written for written in told if written in SHOWN] == list(SHOWN)


def test_the_other_options_of_a_capture_are_told() -> None:
    told = shown("capture")
    written = [one for one in told if one not in (*SHOWN, "-h, --help")]
    assert [re.match(r"--[a-z-]+", one)[0] for one in written] == [  # type: ignore[index]
        "--top", "--model", "--prompt", "--max-new-tokens", "--repeat", "--batch", "--warmup", "--modules", "--device",
        "--dtype", "--flash-attn", "--trust-remote-code", "--seed", "--serve", "--prompt-tokens", "--arrival-rate",
        "--batching", "--out", "--name", "--limit", "--trace",
        "--cuda-graph-trace", "--capture-range", "--capture-range-end", "--nvtx-capture", "--env", "--nsys-option",
        "--python-sampling", "--python-sampling-rate", "--baseline", "--launcher", "--leave-out", "--per-rank",
        "--steps", "--server", "--ready", "--ready-limit", "--window-s", "--while", "--runs", "--before",
        "--sides", "--pause-s",
    ]  # fmt: skip
    assert all(told[one] for one in written)


@pytest.mark.parametrize(
    ("given", "error"),
    [({"tables": ["kern_som"]}, UnknownTable), ({"families": "none.toml"}, RulesUnreadable),
     ({"model_config": "none.json"}, ConfigUnreadable), ({"memory": "much"}, ValueError)],
)  # fmt: skip
def test_what_is_wrong_is_told_before_anything_is_read(given: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        AnalysisOptions(**given)


def test_a_command_has_the_options_of_its_classes_in_their_place() -> None:
    def command(report: str, top: int = 5, *, flags: AnalysisFlags) -> None:
        """Say something."""
        seen.append((report, top, flags))

    seen: list[Any] = []
    command.__annotations__ = {"report": str, "top": int, "flags": AnalysisFlags}
    made = with_flags(command)
    assert list(signature(made).parameters) == ["report", "top", *(one.name for one in attrs.fields(AnalysisFlags))]
    made(report="r", top=3, **{**attrs.asdict(AnalysisFlags()), "step": "x"})
    assert seen == [("r", 3, AnalysisFlags(step="x"))]
