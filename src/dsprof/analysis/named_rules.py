"""The rules that a user names for an analysis, as data: they are remembered beside its tables.

What a file says (`families`, `model_config`) is remembered, and not where the file lay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from attrs import evolve, field, fields

from dsprof.ground.patterns import compiled
from dsprof.model.baseline import Baseline
from dsprof.model.launched import Launched
from dsprof.model.record import ModelRecord
from dsprof.records import frozen
from dsprof.rules.families import Rule
from dsprof.rules.rules import Rules, Threads
from dsprof.show.summary import RuleLine
from dsprof.words import NO_STAGE


@frozen
class NamedRules:
    """Each rule that `dsprof.analyze` takes; what is empty was not named, and the usual rule holds."""

    stages: dict[str, str] = field(factory=dict)
    step: str | None = None
    threads: Threads | None = None
    families: tuple[Rule, ...] = ()
    engine: str | None = None
    model_config: ModelRecord | None = None

    def over(self, remembered: NamedRules) -> NamedRules:
        """These, and of each kind that is not named here the remembered ones."""
        return evolve(remembered, **{name: value for name, value in self._members() if value})

    def rules(
        self, found: ModelRecord | None, baseline: Baseline | None = None, launched: Launched | None = None
    ) -> Rules:
        """The usual rules with these; `found`: what is known of model and requests, unless these name it.

        `baseline`: what recording cost; `launched`: what launchers told the processes.
        """
        usual, named = Rules(), self.model_config
        if named is not None and found is not None and not named.requests and named.each is None:
            named = evolve(named, requests=found.requests, each=found.each)  # a checkpoint's file knows no requests
        stages, families = {**usual.stages, **self.stages}, (*self.families, *usual.families)
        threads = self.threads or usual.threads
        step, model = self.step or usual.step, named or found
        return Rules(stages, step, threads, families, self.engine, model, baseline, launched)

    def lines(self, named: NamedRules, of_file: NamedRules, file: str) -> tuple[RuleLine, ...]:
        """Each rule as the first screen tells it; `named`: those that were named now and are not remembered.

        `of_file`: those that a rules file says, which is called `file`.
        """
        now, there = ({name for name, value in some._members() if value} for some in (named, of_file))
        told = [("stages", "--stage", f"{stage}={pattern}") for stage, pattern in self.stages.items()]
        if self.step:
            told.append(("step", "--step", self.step))
        if self.threads:
            told.append(("threads", "--threads", self.threads))
        if self.engine:
            told.append(("engine", "--engine", self.engine))
        if self.families:
            told.append(("families", "--families", ", ".join(dict.fromkeys(rule.family for rule in self.families))))
        if self.model_config:
            told.append(("model_config", "--model-config", self.model_config.source))
        told_by = dict.fromkeys(there - now, file)
        return tuple(
            RuleLine(option, value, name not in now | there, told_by.get(name, "")) for name, option, value in told
        )

    def _members(self) -> Iterator[tuple[str, Any]]:
        return ((one.name, getattr(self, one.name)) for one in fields(NamedRules))


def rules_of(document: Any) -> NamedRules:
    """The rules of a JSON document that holds a `NamedRules`. Raises ValueError for what is none."""
    import cattrs

    try:
        found = cattrs.Converter(forbid_extra_keys=True).structure(document, NamedRules)
    except (ExceptionGroup, TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
        raise ValueError("they are of another form than dsprof gives them") from error
    if NO_STAGE in found.stages or "" in found.stages:
        raise ValueError("a stage has a name that none can have")
    for pattern in (*found.stages.values(), found.step or "", *(rule.pattern for rule in found.families)):
        try:
            compiled(pattern)
        except re.error as error:
            raise ValueError(f"'{pattern}' is no regular expression: {error}") from error
    return found
