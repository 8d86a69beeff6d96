"""What a shell is told that completes commands, options, names of tables and reports.

A shell asks ``dsprof`` itself, at each tab: so nothing here, and nothing that is imported for it, may be slow.
"""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

#: By this variable a shell asks what a word may be.
VARIABLE = "_DSPROF_COMPLETE"
#: How the reports end that can be read, also packed; session folders are folders.
_REPORTS = tuple(f"{kind}{packed}" for kind in (".nsys-rep", ".qdrep", ".sqlite") for packed in ("", ".xz", ".gz"))
#: For bash: names of files are completed as bash does it, and where nothing is known, what it would do without us.
_BASH = r"""_dsprof_completion() {
    local IFS=$'\n' word words=()
    for word in "${COMP_WORDS[@]:0:COMP_CWORD}"; do
        [[ $word == "=" ]] || words+=("$word")
    done
    word="${COMP_WORDS[COMP_CWORD]}"
    [[ $word == "=" ]] && word=""
    mapfile -t COMPREPLY < <(COMP_WORDS="${words[*]}"$'\n'"$word" COMP_CWORD=${#words[@]} \
        _DSPROF_COMPLETE=complete_bash "$1" 2>/dev/null)
    [[ -n ${COMPREPLY[0]-} ]] || COMPREPLY=()
    [[ -e ${COMPREPLY[0]-} ]] && compopt -o filenames
    [[ ${COMPREPLY[0]-} == *, ]] && compopt -o nospace
    return 0
}

complete -o default -F _dsprof_completion dsprof"""


class Shell(StrEnum):
    """A shell that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def script(shell: Shell) -> str:
    """What a shell is to read at its start."""
    if shell is Shell.BASH:
        return _BASH
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # not said to be exported

    return get_completion_script(prog_name="dsprof", complete_var=VARIABLE, shell=shell.value)


def prepare() -> None:
    """Let the application answer a shell that asks."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]  # not said to be exported

        completion_init()


def words() -> list[str]:
    """The words that a shell has before the one that it asks for; none where no shell asks."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    found = line.split()[1:] if VARIABLE in os.environ else []
    return found[:-1] if line[-1:].strip() else found


# -- what words may be ---------------------------------------------------------------------------------------


def files(incomplete: str) -> list[str]:
    """Any file: the shell knows them better."""
    return []


def reports(incomplete: str) -> list[str]:
    """The reports and folders whose path begins so; none where a shell does better: zsh and fish, ``~`` and quotes."""
    if "bash" not in os.environ.get(VARIABLE, "") or incomplete.startswith("~"):
        return []
    folder, begun = os.path.split(incomplete)
    try:
        entries = sorted(os.scandir(folder or "."), key=lambda entry: entry.name)
        found = [entry for entry in entries if entry.name.startswith(begun) and _may_be_report(entry)]
    except (OSError, ValueError):
        return []
    shown = [entry for entry in found if begun.startswith(".") or not entry.name.startswith(".")]
    return [os.path.join(folder, entry.name) for entry in shown if "\n" not in entry.name]  # noqa: PTH118


def _may_be_report(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.name.endswith(_REPORTS) or entry.is_dir()
    except OSError:  # a link to itself
        return False


def tables(incomplete: str) -> list[str]:
    """Names of tables, the last of several with commas between; told by their files, as to load them takes long."""
    before, comma, begun = incomplete.rpartition(",")
    folder = Path(__file__).parent.parent / "tables"
    names = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
    return [f"{before}{comma}{name}" for name in names if name.startswith(begun)]
