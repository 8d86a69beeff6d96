"""What a shell completes at a tab: asked of the real bash; the scripts of zsh and fish where those are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dsprof.cli import main
from dsprof.cli.completing import Shell, reports, script, tables
from dsprof.tables import all_tables

BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="there is no bash here")
COMMANDS = {"analyze", "table", "whatif", "diff", "tables", "capture", "doctor", "scrub", "completion", "workloads",
            "baseline", "report", "timeline", "query", "schema", "mcp"}  # fmt: skip
#: Says what bash would offer; `compopt`, which only a completion at a real tab may call, is told.
ASK = r"""
source completion.bash
compopt() { local IFS=" "; echo "compopt $*"; }
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_dsprof_completion dsprof "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with reports, and a `dsprof` on the path."""
    for name in ("bin", "traces", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "bin" / "dsprof").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c \'import sys; sys.argv[0] = "dsprof"; '
        'from dsprof.cli import main; main()\' "$@"\n'
    )
    (tmp_path / "bin" / "dsprof").chmod(0o755)
    work = tmp_path / "work"
    (work / "completion.bash").write_text(script(Shell.BASH))
    for name in ("run.nsys-rep", "run.sqlite", "run.txt", "two words.sqlite.xz", ".hidden.sqlite"):
        (work / name).touch()
    (work / "runs").mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return work


def offered(*words: str) -> list[str]:
    """What bash offers for the last of some words of a command line."""
    asked = subprocess.run([str(BASH), "--norc", "-c", ASK, "bash", *words], capture_output=True, text=True, check=True)
    assert asked.stderr == ""
    return asked.stdout.splitlines()


@needs_bash
def test_bash_completes_commands_options_choices_tables_and_reports(here: Path) -> None:
    assert set(offered("dsprof", "")) == COMMANDS
    assert offered("dsprof", "ana") == ["analyze"]
    assert {"--window", "--device", "--pid", "--rules", "--stage"} <= set(offered("dsprof", "analyze", "--"))
    assert sorted(offered("dsprof", "analyze", "run.sqlite", "--thr")) == ["--threads", "--threads-per-report"]
    assert offered("dsprof", "analyze", "--threads", "") == ["thread", "process"]
    assert offered("dsprof", "analyze", "--format", "m") == ["markdown"]
    assert offered("dsprof", "analyze", "--format", "=", "m") == ["markdown"]  # as bash splits --format=m
    assert offered("dsprof", "analyze", "--format", "=") == ["rich", "json", "markdown"]
    assert offered("dsprof", "table", "run.sqlite", "") == sorted(all_tables())
    assert offered("dsprof", "table", "run.sqlite", "stage_k") == ["stage_kern_sum"]
    assert offered("dsprof", "table", "run.sqlite", "--sort", "x", "kern_t") == ["kern_trace"]
    assert offered("dsprof", "table", "two\\ words.sqlite.xz", "kern_t") == ["kern_trace"]
    assert offered("dsprof", "analyze", "run.sqlite", "--tables", "kern_sum,step") == [
        "kern_sum,step_sum", "kern_sum,step_trace"
    ]  # fmt: skip
    assert offered("dsprof", "table", "r") == ["compopt -o filenames", "run.nsys-rep", "run.sqlite", "runs"]
    assert offered("dsprof", "whatif", "") == [
        "compopt -o filenames", "run.nsys-rep", "run.sqlite", "runs", "two words.sqlite.xz"
    ]  # fmt: skip
    assert offered("dsprof", "whatif", "./.h") == ["compopt -o filenames", "./.hidden.sqlite"]
    assert offered("dsprof", "completion", "z") == ["zsh"]


@needs_bash
@pytest.mark.parametrize(
    "words", [("diff", "r"), ("diff", "run.sqlite", "--", "r"), ("baseline", "add", "main", "r")]
)  # fmt: skip
def test_bash_completes_reports_on_both_sides_of_a_comparison(words: tuple[str, ...], here: Path) -> None:
    assert {"run.nsys-rep", "run.sqlite"} <= set(offered("dsprof", *words))


@needs_bash
@pytest.mark.parametrize(
    "words",
    [
        ("analyze", "--model-config", "r"), ("analyze", "--families", "r"), ("analyze", "--rules", "r"),
        ("analyze", "--nsys", "r"), ("analyze", "--out", "r"), ("analyze", "~/r"), ("analyze", "nowhere/r"),
        ("scrub", "r"), ("capture", "r"), ("capture", "--", "python", "r"), ("analyze", "--window", "3"),
        ("nonsense", "j"), ("analyze", "--nonsense", "--threads", "x"),
    ],
)  # fmt: skip
def test_bash_completes_what_it_knows_better(words: tuple[str, ...], here: Path) -> None:
    """Nothing, or nothing but the word itself, is offered: ``complete -o default`` then takes bash's own way."""
    assert offered("dsprof", *words) in ([""], [words[-1]])


def typed(keys: bytes, until: bytes) -> Iterator[bytes]:
    """What an interactive bash shows after some keys, until a text is there or five seconds have passed."""
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - another process
        os.execvpe(str(BASH), [str(BASH), "--norc", "--noprofile", "-i"], {**os.environ, "PS1": "$ ", "TERM": "dumb"})
    try:
        os.write(terminal, b"source completion.bash\n" + keys)
        seen, end = b"", time.monotonic() + 20
        while until not in seen and time.monotonic() < end:
            if select.select([terminal], [], [], 0.2)[0]:
                seen += os.read(terminal, 4096)
        yield seen
    finally:
        with suppress(OSError):
            os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


@needs_bash
@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        (b"dsprof cap\t", b"dsprof capture "),
        (b"dsprof table 'two\t", b"dsprof table 'two words.sqlite.xz' "),
        (b"dsprof table two\t", b"dsprof table two\\ words.sqlite.xz "),
        (b"dsprof table run.sqlite stage_k\t", b"dsprof table run.sqlite stage_kern_sum "),
        (b"dsprof analyze --format=mark\t", b"dsprof analyze --format=markdown "),
        (b"dsprof analyze runs\t", b"dsprof analyze runs/"),
        (b"dsprof analyze --rules run.t\t", b"dsprof analyze --rules run.txt "),
    ],
)
def test_a_tab_in_an_interactive_bash(keys: bytes, shown: bytes, here: Path) -> None:
    (seen,) = typed(keys, shown)
    assert shown in seen
    assert b"Traceback" not in seen


@pytest.mark.parametrize("shell", Shell)
def test_the_script_of_each_shell_is_printed_and_sound(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["dsprof", "completion", shell.value])
    with pytest.raises(SystemExit, match="0"):
        main()
    printed = capsys.readouterr().out
    assert printed.strip() == script(shell).strip()
    assert f"complete_{shell.value}" in printed
    assert "_DSPROF_COMPLETE" in printed
    if program := shutil.which(shell.value):
        path = tmp_path / "script"
        path.write_text(printed)
        checked = subprocess.run([program, "-n", str(path)], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_answered_too(shell: str, here: Path) -> None:
    """In the form that their scripts ask for; names of files they complete by themselves."""

    def asked(line: str) -> str:
        environment = {**os.environ, "_DSPROF_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line,
                       "_TYPER_COMPLETE_FISH_ACTION": "get-args"}  # fmt: skip
        return subprocess.run(["dsprof"], env=environment, capture_output=True, text=True, check=True).stdout

    assert "stage_kern_sum" in asked("dsprof table run.sqlite stage_k")
    assert "analyze" in asked("dsprof a")
    assert "run" not in asked("dsprof table r")


def test_tables_are_known_by_their_files() -> None:
    assert tables("") == sorted(all_tables())
    assert tables("kern_sum,nonsense") == []


def test_reports_in_folders_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("_DSPROF_COMPLETE", "complete_bash")
    (tmp_path / "a\nb.sqlite").touch()
    (tmp_path / "c.sqlite").touch()
    (tmp_path / "loop").symlink_to("loop")
    assert reports(f"{tmp_path}/") == [f"{tmp_path}/c.sqlite"]
    assert (
        reports(f"{tmp_path}/c.sqlite/x") == reports("nowhere/x") == reports("x" * 5000 + "/y") == reports("\0/") == []
    )


def test_to_complete_loads_nothing_heavy(here: Path) -> None:
    program = (
        "import sys, os; sys.argv[0] = 'dsprof'\n"
        "from dsprof.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'pandas', 'pyarrow', 'rich', 'attrs_strict', 'sqlite3'} & set(sys.modules)))"
    )
    environment = {**os.environ, "_DSPROF_COMPLETE": "complete_bash", "COMP_WORDS": "dsprof\ntable\nx\nkern_t",
                   "COMP_CWORD": "3"}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["kern_trace", "[]"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (["tab"], ["table", "tables"]),
        (["table"], ["table", "tables"]),  # which is no command yet: it may become another
        ([""], sorted(COMMANDS)),
        (["baseline", ""], ["add", "list"]),
        (["tables", "-"], ["--help", "-h"]),
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_commands_are_completed_whichever_is_loaded(shell: str, line: list[str], found: list[str]) -> None:
    words = ["dsprof", *line]
    asked = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(line))} if shell == "bash" else {
        "_TYPER_COMPLETE_ARGS": " ".join(words)}  # fmt: skip
    environment = {**os.environ, "_DSPROF_COMPLETE": f"complete_{shell}", **asked}
    code = "import sys; sys.argv[0] = 'dsprof'; from dsprof.cli import main; main()"
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout
    assert set(found) <= set(said.split() if shell == "bash" else said.replace('"', " ").split())


def test_the_help_stays_as_it_was(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["dsprof", "--help"])
    with pytest.raises(SystemExit, match="0"):
        main()
    said = capsys.readouterr().out
    assert "--install-completion" not in said
    assert "completion " in said
