"""``dsprof.toml``: the rules of an analysis and what it selects, under the names that they have as options.

::

    step = "^token"                 threads = "process"             device = [0, 1]
    window = "10%..90%"             model_config = "config.json"    pid = 4711
    gates = ["decode.gpu_busy<1%", "decode.wall<5%"]

    [stages]
    prefill = "^forward_prompt"

    [[families]]                    # or families = "families.toml"
    name = "attention"
    pattern = "my_attn"

The file may lie beside somebody else's report. So its patterns are searched for as those of any user are, within a time
limit, and the files that it names must lie in its folder, or in folders of that.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import field

from dsprof.analysis.named_rules import NamedRules
from dsprof.errors import ConfigUnreadable, RulesUnreadable, UnknownEngine
from dsprof.ground.documents import text_of
from dsprof.ground.patterns import compiled
from dsprof.model.record import ModelRecord, read_record
from dsprof.nsys.selection import ALL, Wanted, Window, numbers_of, window_of
from dsprof.records import frozen
from dsprof.rules.engines import engine_named
from dsprof.rules.families import Rule, read_rules, rules_in
from dsprof.show.summary import RuleLine
from dsprof.words import NO_STAGE

if TYPE_CHECKING:
    from dsprof.compare.gates import Gate

NAME = "dsprof.toml"
#: In the place of a file's name: none is looked for.
NO_FILE = "none"
#: No file of rules is larger.
_LARGEST = 1 << 20
_HINT = '`--rules none` leaves it aside (rules="none" in Python).'


@frozen
class RulesFile:
    """What a rules file says, and how it is called where that is told; nothing, where there is none."""

    label: str = ""
    named: NamedRules = field(factory=NamedRules)
    wanted: Wanted = ALL
    #: What it selects, as it is written, by option.
    selects: dict[str, str] = field(factory=dict)
    #: The gates of comparisons.
    gates: tuple[Gate, ...] = ()

    def selecting(self, asked: Wanted) -> tuple[RuleLine, ...]:
        """What the file selects and nobody else, as the first screen tells it; `asked`: what was asked for now."""
        named = {"--window": asked.window, "--device": asked.devices, "--pid": asked.pids}
        return tuple(
            RuleLine(option, value, False, self.label) for option, value in self.selects.items() if not named[option]
        )


def find_rules_file(report: Path) -> RulesFile:
    """The file beside a report, or else in the working folder; nothing where there is none. Raises as below."""
    for path, where in ((report.with_name(NAME), "beside the report"), (Path(NAME), "in the working folder")):
        if os.path.lexists(path):
            return read_rules_file(path, f"{NAME} {where}")
    return RulesFile()


def read_rules_file(path: Path, label: str = "") -> RulesFile:
    """What a file says, which is called `label`, or by its name. Raises `RulesUnreadable` and `ConfigUnreadable`."""
    try:
        document = tomllib.loads(text_of(path, _LARGEST))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    said = {}
    for key, value in document.items():
        if key not in _KEYS:
            raise _unknown(path, key)
        try:
            said[key] = _KEYS[key](path, value)
        except _Wrong as error:
            raise _unreadable(path, f"has '{key}' with {error}") from error
        except ConfigUnreadable as error:
            error.hint = _HINT
            raise
    wanted = Wanted(said.pop("window", None), said.pop("device", ()), said.pop("pid", ()))
    selects = {f"--{key}": _written(document[key]) for key in ("window", "device", "pid") if key in document}
    gates = said.pop("gates", ())
    return RulesFile(label or path.name, NamedRules(**said), wanted, selects, gates)


def gates_in_effect(rules: Path | None) -> tuple[Gate, ...]:
    """The gates of the rules file that is named, or else of that in the working folder. Raises as above."""
    if rules is not None:
        return () if str(rules) == NO_FILE else read_rules_file(rules).gates
    return read_rules_file(Path(NAME)).gates if os.path.lexists(NAME) else ()


def _written(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


class _Wrong(Exception):
    """What a key has in place of its value."""


# -- keys: what each makes of its value ----------------------------------------------------------------------


def _text(path: Path, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _Wrong("no text")
    return value


def _engine(path: Path, value: Any) -> str:
    try:
        return engine_named(_text(path, value))
    except UnknownEngine as error:
        raise _Wrong(f"an engine that is none. {error.hint}") from error


def _pattern(path: Path, value: Any) -> str:
    text = _text(path, value)
    try:
        compiled(text)
    except re.error as error:
        raise _Wrong(f"'{text[:80]}', which is no regular expression: {error}") from error
    return text


def _stages(path: Path, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _Wrong("no table of NAME = REGEX")
    for name in value:
        if not name.strip() or name == NO_STAGE:
            raise _Wrong(f"a stage that is called '{name}'")
    return {name: _pattern(path, pattern) for name, pattern in value.items()}


def _threads(path: Path, value: Any) -> str:
    if value not in ("thread", "process"):
        raise _Wrong("neither 'thread' nor 'process'")
    return str(value)


def _families(path: Path, value: Any) -> tuple[Rule, ...]:
    if isinstance(value, list) and value:
        return rules_in(path, value, "families")
    if not isinstance(value, str):
        raise _Wrong("neither [[families]] parts nor the name of a file")
    return read_rules(_inside(path, value))


def _model(path: Path, value: Any) -> ModelRecord:
    return read_record(_inside(path, _text(path, value)))


def _inside(path: Path, named: str) -> Path:
    """A file that is named from the folder of the rules file, and lies in it."""
    folder = path.absolute().parent
    try:
        found, around = (folder / named).resolve(), folder.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise _Wrong(f"'{named[:80]!r}', which is no name of a file") from error
    if not found.is_relative_to(around) or found == around:
        raise _Wrong(f"'{named[:80]}', which does not lie in the folder of {path.name}")
    return found


def _window(path: Path, value: Any) -> Window:
    try:
        return window_of(_text(path, value))
    except ValueError as error:
        raise _Wrong(f"what is no window: {error}") from error


def _numbers(path: Path, value: Any) -> tuple[int, ...]:
    try:
        if isinstance(value, float | dict):
            raise ValueError(f"'{str(value)[:40]}' is no number like 0 or 4711.")
        return numbers_of(value)
    except (TypeError, ValueError) as error:
        raise _Wrong(f"what are no numbers: {error}") from error


def _gates(path: Path, value: Any) -> tuple[Gate, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _Wrong("no list of gates")
    from dsprof.compare.gates import gates_of

    try:
        return gates_of(value)
    except ValueError as error:
        raise _Wrong(f"what is no gate: {error}") from error


#: By the key: what makes of a value in TOML what `NamedRules` or `Wanted` holds. A new rule is one line here.
_KEYS: dict[str, Callable[[Path, Any], Any]] = {
    "stages": _stages,
    "step": _pattern,
    "threads": _threads,
    "families": _families,
    "engine": _engine,
    "model_config": _model,
    "window": _window,
    "device": _numbers,
    "pid": _numbers,
    "gates": _gates,
}


def _unknown(path: Path, key: str) -> RulesUnreadable:
    near = difflib.get_close_matches(key.replace("-", "_"), _KEYS, n=1, cutoff=0.5)
    meant = f", and should be '{near[0]}'" if near else ""
    return _unreadable(path, f"has the key '{key[:80]}', which is none{meant}", f"Keys are {', '.join(_KEYS)}.")


def _unreadable(path: Path, what: str, advice: str = "") -> RulesUnreadable:
    return RulesUnreadable(f"The rules file {path} {what.rstrip('.')}.", f"{advice} {_HINT}".strip())
