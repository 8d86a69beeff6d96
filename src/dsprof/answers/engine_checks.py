"""What a reader must know of an engine's steps: what is a guess, and what their tokens stand for."""

from __future__ import annotations

import numpy as np

from dsprof import findings
from dsprof.answers.engine_workers import are_drafts, several_tokens
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.findings import Finding
from dsprof.rules.engines import NONE, PLAIN, all_engines
from dsprof.rules.rules import Rules
from dsprof.words import GUESS, UNKNOWN


def check_engines(tree: RangeTree, staged: StageRanges, rules: Rules) -> list[Finding]:
    """Modes that are guesses or not known, drafts and recomputation, and an engine that is not there."""
    found, steps = [], staged.engine
    if rules.engine not in (None, PLAIN, NONE) and not len(steps) and len(tree.ranges):
        engine = all_engines()[rules.engine or ""]
        found.append(findings.no_engine(engine.title, engine.switch))
    not_told = np.array([mode == UNKNOWN or mode.endswith(GUESS) for mode in steps.modes], np.bool_)[steps.mode]
    for place, worker in enumerate(steps.workers):
        number = int((not_told & (steps.worker == place)).sum())
        said = findings.modes_not_told(number, worker.title, worker.form.because)
        if number and said not in found:
            found.append(said)
    requests, tokens = steps.counts["generation_requests"], steps.counts["generation_tokens"]
    generating, more, ratio = several_tokens(requests, tokens)
    if more:
        tell = findings.drafts if are_drafts(generating, more) else findings.computed_again
        found.append(tell(more, generating, ratio))
    return found
