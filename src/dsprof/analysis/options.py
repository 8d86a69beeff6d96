"""The options of an analysis, in one place: `dsprof.analyze` takes them as keywords, the command line as options."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import field, fields, frozen
from attrs.converters import optional

from dsprof.analysis.named_rules import NamedRules
from dsprof.analysis.rules_file import NO_FILE, RulesFile, read_rules_file
from dsprof.ground.memory import bytes_of
from dsprof.model.record import ModelRecord, read_record
from dsprof.nsys.selection import Wanted, Window, numbers_of, window_of
from dsprof.rules.engines import engine_named
from dsprof.rules.families import Rule, read_rules
from dsprof.rules.rules import Threads
from dsprof.tables import all_tables, known_table

_File = str | os.PathLike[str] | None


def _stages(stages: Mapping[str, str] | None) -> dict[str, str]:
    return dict(stages or {})


def _table_names(tables: Iterable[str] | None) -> tuple[str, ...]:
    return tuple(known_table(name).name for name in (all_tables() if tables is None else tables))


def _bytes(memory: int | str | None) -> int | None:
    return bytes_of(memory) if isinstance(memory, str) else memory


def _rules(families: _File) -> tuple[Rule, ...]:
    return read_rules(Path(families)) if families is not None else ()


def _record(model_config: _File) -> ModelRecord | None:
    return read_record(Path(model_config)) if model_config is not None else None


def _rules_file(rules: _File) -> RulesFile | None:
    """What a rules file says; None: it is to be looked for."""
    if rules is None:
        return None
    return RulesFile() if str(rules) == NO_FILE else read_rules_file(Path(rules))


def _window(window: str | None) -> Window | None:
    return window_of(window) if window is not None else None


@frozen
class AnalysisOptions:
    """How a report is analyzed, as `dsprof.analyze` says it; files that are named are read at once.

    Raises `UnknownTable`, `UnknownEngine`, `RulesUnreadable`, `ConfigUnreadable`, and ValueError for what is no size,
    window or number.
    """

    stages: dict[str, str] = field(default=None, converter=_stages)
    step: str | None = None
    threads: Threads | None = None
    families: tuple[Rule, ...] = field(default=None, converter=_rules)
    engine: str | None = field(default=None, converter=optional(engine_named))
    model_config: ModelRecord | None = field(default=None, converter=_record)
    rules: RulesFile | None = field(default=None, converter=_rules_file)
    window: Window | None = field(default=None, converter=_window)
    device: tuple[int, ...] = field(default=None, converter=numbers_of)
    pid: tuple[int, ...] = field(default=None, converter=numbers_of)
    tables: tuple[str, ...] = field(default=None, converter=_table_names)
    memory: int | None = field(default=None, converter=_bytes)
    compiled: bool | None = None
    folder: _File = None
    reuse: bool = True
    remembered: bool = True
    nsys: str | None = None

    @property
    def named(self) -> NamedRules:
        """The rules among these options."""
        return NamedRules(**{one.name: getattr(self, one.name) for one in fields(NamedRules)})

    def of_one(self, folder: Path, memory: int | None) -> AnalysisOptions:
        """These for one report of several: its tables go into a folder, and it may take so many bytes."""
        made = copy.copy(self)  # and not made anew, which would read files again that were read here
        object.__setattr__(made, "folder", folder)
        object.__setattr__(made, "memory", memory)
        return made

    @property
    def wanted(self) -> Wanted:
        """What of the report is selected."""
        return Wanted(self.window, self.device, self.pid)
