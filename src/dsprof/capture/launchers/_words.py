"""Which program a command line calls, behind wrappers, interpreters and shells.

Nothing is guessed: behind an option that is not known here, it cannot be told which word is the program's, and the
answer is None.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import field

from dsprof.records import frozen

_PYTHON = re.compile(r"python(\d+(\.\d+)*)?t?")
_SHELL = re.compile(r"(ba|da|z|k)?sh")
#: A text for a shell that means what its words say: no expansion, no operator, no second command.
_PLAIN = re.compile(r"[\w\s@%+:,./=\-'\"]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


@frozen(kw_only=True)
class Options:
    """The options of a program before its first operand, each a text of names with their dashes.

    `values` take one word, `pairs` two; `any_dashes`: one dash and two mean the same; `underscores`: so do _ and -.
    """

    values: frozenset[str] = field(default="", converter=_names)
    flags: frozenset[str] = field(default="", converter=_names)
    pairs: frozenset[str] = field(default="", converter=_names)
    any_dashes: bool = False
    underscores: bool = False
    #: Operands of the program's own before the command that it runs.
    operands: int = 0

    def skip(self, words: Sequence[str], at: int) -> int | None:
        """The place of the first operand from `at` on; None where an option is not known."""
        while at < len(words) and words[at].startswith("-") and words[at] != "-":
            if words[at] == "--":
                return at + 1 + self.operands
            width = self._width(words[at])
            if width is None:
                return None
            at += width
        return at + self.operands

    def unknown(self, words: Sequence[str], at: int) -> str:
        """The first option that is not known; empty if there is none."""
        while at < len(words) and words[at].startswith("-") and words[at] not in ("-", "--"):
            width = self._width(words[at])
            if width is None:
                return words[at]
            at += width
        return ""

    def given(self, words: Sequence[str], at: int, end: int, names: str) -> str | None:
        """The value that one of `names` has among the options from `at` to `end`; None if none of them is there."""
        while at < end:
            name, equals, value = words[at].partition("=")
            width = self._width(words[at]) or 1
            if self.usual(name) in _names(names):
                return value if equals else " ".join(words[at + 1 : at + width])
            at += width
        return None

    def usual(self, name: str) -> str:
        """A name as it stands in the lists."""
        name = f"-{name.lstrip('-')}" if self.any_dashes else name
        return name.replace("_", "-") if self.underscores else name

    def _width(self, word: str) -> int | None:
        name, equals, _ = word.partition("=")
        name = self.usual(name)
        for width, names in ((1, self.flags), (2, self.values), (3, self.pairs)):
            if name in names:
                return 1 if equals else width
        if equals and word.startswith("--"):
            return 1
        return None if word.startswith("--") or self.any_dashes else self._cluster_width(word)

    def _cluster_width(self, word: str) -> int | None:
        """Of letters behind one dash: the last may take the rest, or the next word."""
        for place, letter in enumerate(word[1:], 1):
            if f"-{letter}" in self.values:
                return 1 if place + 1 < len(word) else 2
            if f"-{letter}" not in self.flags:
                return None
        return 1


#: Programs that run another and become it, or wait for it, by name or name and subcommand.
_WRAPPERS: Mapping[str, Options] = {
    "env": Options(values="-u --unset -C --chdir", flags="-i -v --ignore-environment --debug -0 --null"),
    "nice": Options(values="-n --adjustment"),
    "nohup": Options(),
    "setsid": Options(flags="-c -f -w --ctty --fork --wait"),
    "stdbuf": Options(values="-i -o -e --input --output --error"),
    "time": Options(values="-f -o --format --output", flags="-p -v -a --portability --verbose --append"),
    "timeout": Options(
        values="-s -k --signal --kill-after", flags="-v --foreground --preserve-status --verbose", operands=1
    ),
    "taskset": Options(flags="-a -c --all-tasks --cpu-list", operands=1),
    "numactl": Options(
        values="-N -m -C -i -p -w --cpunodebind --membind --physcpubind --interleave --preferred --localalloc",
        flags="-l -a --all -b --balancing",
    ),
    "ionice": Options(values="-c -n --class --classdata", flags="-t --ignore"),
    "uv run": Options(
        values="--with --extra --group --python -p --project --directory --env-file --index-url --package",
        flags="--no-sync --frozen --locked --isolated --active --no-project --all-extras --offline -q -v",
    ),
    "conda run": Options(values="-n -p --name --prefix --cwd", flags="-v --no-capture-output --live-stream"),
    "poetry run": Options(flags="-q -v --quiet --no-interaction"),
    "pipenv run": Options(),
    "pixi run": Options(values="-e --environment --manifest-path", flags="--frozen --locked -q -v"),
    "trtllm-llmapi-launch": Options(),
}
#: Of Python: options that take a word; -m and -c end them.
_PYTHON_VALUES = ("--check-hash-based-pycs",)


@frozen
class Call:
    """A program that a command line calls: its place in `words`, its name, and where its arguments begin.

    `name`: the last part of the program's path, or ``-m module``. `assigned`: variables that a wrapper sets.
    """

    words: tuple[str, ...]
    at: int
    name: str
    first: int
    assigned: frozenset[str] = frozenset()

    @property
    def arguments(self) -> tuple[str, ...]:
        """The words behind its name."""
        return self.words[self.first :]


def call_in(words: Sequence[str], start: int = 0) -> Call | None:
    """The program that `words` call from `start` on; None where it cannot be told."""
    at, assigned = start, set[str]()
    while at < len(words):
        name = Path(words[at]).name
        wrapper, width = _wrapper(words, at, name)
        if wrapper is None:
            break
        found = wrapper.skip(words, at + width)
        if found is None:
            return None
        at = found
        while name == "env" and at < len(words) and _ASSIGNMENT.fullmatch(words[at]):
            assigned.add(words[at].partition("=")[0])
            at += 1
    if at >= len(words):
        return None
    if _PYTHON.fullmatch(name):
        return python_call(words, at, at + 1, assigned)
    return Call(tuple(words), at, name, at + 1, frozenset(assigned))


def _wrapper(words: Sequence[str], at: int, name: str) -> tuple[Options | None, int]:
    """The options of the wrapper at this place, and how many words name it."""
    if name in _WRAPPERS:
        return _WRAPPERS[name], 1
    both = " ".join([name, *words[at + 1 : at + 2]])
    return _WRAPPERS.get(both), 2


def python_call(
    words: Sequence[str], at: int, first: int, assigned: set[str] | frozenset[str] = frozenset()
) -> Call | None:
    """The module or script that a Python's words from `first` on name; None for ``-c`` and for what is typed in."""
    place = first
    while place < len(words) and words[place].startswith("-") and words[place] != "-":
        module, width = _python_option(words, place)
        if module == "-c":
            return None
        if module:
            return Call(tuple(words), at, f"-m {module}", place + width, frozenset(assigned))
        place += width
    if place >= len(words):
        return None
    script = Path(words[place])
    name = "" if script.is_dir() else script.name  # a folder with a __main__.py is no installed program
    return Call(tuple(words), at, name, place + 1, frozenset(assigned))


def _python_option(words: Sequence[str], place: int) -> tuple[str, int]:
    """What an option of Python runs (a module, or ``-c``; empty: nothing), and how many words it has."""
    word = words[place]
    if word.startswith("--"):
        return "", 2 if word in _PYTHON_VALUES else 1
    for number, letter in enumerate(word[1:], 1):
        rest = word[number + 1 :]
        if letter == "c":
            return "-c", 1
        if letter == "m":
            return (rest, 1) if rest else ("".join(words[place + 1 : place + 2]), 2)
        if letter in "WX":
            return "", 1 if rest else 2
    return "", 1


def without_shell(words: Sequence[str]) -> tuple[str, ...]:
    """A command line whose program is a shell with one plain command, without that shell; any other as it is.

    >>> without_shell(["bash", "-c", "A=1 exec vllm serve 'my model'"])
    ('env', 'A=1', 'vllm', 'serve', 'my model')
    """
    call = call_in(words)
    if call is None or not _SHELL.fullmatch(call.name) or call.arguments[:1] != ("-c",) or len(call.arguments) != 2:
        return tuple(words)
    text = call.arguments[1].strip()
    if not _PLAIN.fullmatch(text) or "\n" in text:
        return tuple(words)
    try:
        inside = shlex.split(text)
    except ValueError:
        return tuple(words)
    if inside and _ASSIGNMENT.fullmatch(inside[0]):
        inside = ["env", *inside]
    inside = [word for place, word in enumerate(inside) if word != "exec" or not _leads(inside[:place])]
    return (*words[: call.at], *inside)


def _leads(before: Sequence[str]) -> bool:
    """Are these words only assignments, so that what follows is the command?"""
    return all(word == "env" or _ASSIGNMENT.fullmatch(word) for word in before)


def text_for_shell(words: Sequence[str]) -> str:
    """The text that a shell is given to run; empty where the first word is no shell."""
    if not words or not _SHELL.fullmatch(Path(words[0]).name):
        return ""
    return next((word for word in words[1:] if not word.startswith("-")), "")
