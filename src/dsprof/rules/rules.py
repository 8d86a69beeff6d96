"""The rules of an analysis: which ranges are stages and steps, which kernels are of a family, which model ran."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from attrs import field

from dsprof.records import frozen
from dsprof.rules.families import RULES, Rule
from dsprof.words import STAGES, STEP

if TYPE_CHECKING:
    from dsprof.model.baseline import Baseline
    from dsprof.model.launched import Launched
    from dsprof.model.record import ModelRecord

Threads = Literal["thread", "process"]


@frozen
class Rules:
    """Which ranges are stages and steps, and whether a stage reaches the other threads of its process.

    `stages` maps a stage to the regular expression that is searched for in a range's name (the domain is
    not part of it); where several fit, the first stage counts. `threads="process"` gives a launch whose
    own thread has no stage open the one that was open anywhere in its process. `families` are the rules that
    tell a kernel's family by its name, in order. `engine`: the engine whose steps are looked for, ``none`` for none,
    and None for that which each thread has most ranges of. `model`: which model ran, `baseline`: what recording
    it cost, and `launched`: what launchers told its processes of ranks, where that is known.
    """

    stages: dict[str, str] = field(factory=lambda: {name: f"^{re.escape(name)}$" for name in STAGES})
    step: str = f"^{re.escape(STEP)}$"
    threads: Threads = "thread"
    families: tuple[Rule, ...] = RULES
    engine: str | None = None
    model: ModelRecord | None = None
    baseline: Baseline | None = None
    launched: Launched | None = None
