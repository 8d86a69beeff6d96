"""A what-if as a titled grid of text and sentences, the same for terminal and Markdown."""

from __future__ import annotations

from dsprof.answers.what_if import Prediction, WhatIf
from dsprof.show import units
from dsprof.show.layout import Grid

_HEADER = ("stage", "of", "n", "recorded", "again", "residual", "predicted", "change")


def grid(found: WhatIf) -> Grid:
    """A row for each stage; what was taken for granted, and why nothing is predicted, below."""
    selected = f" ({found.selection})" if str(found.selection) else ""
    title = f"{found.report}{selected}: {', '.join(found.changes) or 'run again without a change'}"
    refused = [one.refused for one in found.stages if one.refused]
    rows = tuple(map(_row, found.stages))
    return Grid(title, _HEADER, rows, names=2, notes=(*refused, *_assumptions(found)))


def _assumptions(found: WhatIf) -> list[str]:
    """What was taken for granted, once where it is the same for all stages that something is predicted for."""
    told = [one for one in found.stages if not one.refused]
    own, shared = [], []
    for sentence in dict.fromkeys(text for one in told for text in one.assumptions):
        of = [one.stage for one in told if sentence in one.assumptions]
        if len(of) == len(told):
            shared.append(sentence)
        else:
            own.append(f"{', '.join(of)}: {sentence}")
    return own + shared


def _row(one: Prediction) -> tuple[str, ...]:
    change = "-"
    if one.step_predicted_ns is not None and one.step_recorded_ns:
        change = f"{100 * (one.step_predicted_ns / one.step_recorded_ns - 1):+.1f} %"
    return (
        one.stage,
        one.unit,
        units.count(one.units),
        units.time(one.step_recorded_ns),
        units.time(one.step_replayed_ns),
        f"{one.residual_pct:.2f} %",
        units.time(one.step_predicted_ns),
        change,
    )
