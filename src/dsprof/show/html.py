"""The summary as HTML, for a notebook's cell, and a comparison as one."""

from __future__ import annotations

from dsprof.compare.outcome import Outcome
from dsprof.show import diff
from dsprof.show.layout import Grid, coverage, grids, headline, verdicts
from dsprof.show.reports import (
    Heat,
    ReportsSummary,
    failures,
    headline_of,
    heat_cell,
    heat_of,
    holders,
    nobody_compared,
    report_grid,
    shown_stages,
)
from dsprof.show.safe import for_html
from dsprof.show.summary import Summary

_STYLE = "text-align:right;padding:2px 8px"
_LEFT = "text-align:left;padding:2px 8px"


def summary_html(summary: Summary) -> str:
    """A fragment that stands on its own: no script, no style sheet, no outside file."""
    head = "".join(_labelled(label, text) for label, text in headline(summary))
    notes = "".join(f"<li>{for_html(str(found))}</li>" for found in summary.findings)
    judged = "".join(f"<p><b>{for_html(one.sentence)}</b> {for_html(one.remedy)}</p>" for one in verdicts(summary))
    body = "".join(_grid(grid) for grid in grids(summary))
    said = coverage(summary)
    covered = f"<p>{for_html(said)}</p>" if said else ""
    return f"<div><table>{head}</table>{judged}{body}{covered}<ul>{notes}</ul></div>"


def diff_html(outcome: Outcome, top: int = diff.TOP_OPERATIONS) -> str:
    """A fragment that stands on its own, as that of a summary."""
    head = "".join(_labelled(label, text) for label, text in diff.headline(outcome))
    answer = diff.answer(outcome)
    told = _grid(answer) if answer.rows else ""
    notes = "".join(f"<li><b>{for_html(level)}</b>: {for_html(text)}</li>" for level, text in diff.said(outcome))
    notes += "".join(
        f"<li><b>{'passed' if passed else 'not passed'}</b> {for_html(text)}</li>"
        for passed, text in diff.gates(outcome)
    )
    body = "".join(_grid(grid) for grid in diff.grids(outcome, top))
    return f"<div><table>{head}</table>{told}<ul>{notes}</ul>{body}</div>"


def _labelled(label: str, text: str) -> str:
    return f'<tr><td style="{_LEFT}"><b>{for_html(label)}</b></td><td style="{_LEFT}">{for_html(text)}</td></tr>'


def reports_html(summary: ReportsSummary) -> str:
    """The same of several reports, the heat map in colours."""
    head = "".join(f"<p><b>{for_html(label)}</b> {for_html(text)}</p>" for label, text in headline_of(summary))
    said = "".join(f"<p>{for_html(one)}</p>" for one in filter(None, [nobody_compared(summary)]))
    held, heat = holders(summary), heat_of(shown_stages(summary))
    body = f"{_grid(held) if held else ''}{_heat(heat) if heat else ''}{_grid(report_grid(summary))}"
    lost = "".join(f"<li>{for_html(one)}</li>" for one in failures(summary))
    return f"<div>{head}{said}{body}<ul>{lost}</ul></div>"


#: Above and below the median rank: the colours of a heat map, as red, green, blue; at so many percent they are full.
_ABOVE, _BELOW, _FULL_PCT = (204, 70, 60), (60, 110, 190), 25.0


def _heat(heat: Heat) -> str:
    header = "".join(f'<th style="{_STYLE}">{for_html(word)}</th>' for word in heat.columns)
    rows = "".join(
        f'<tr><td style="{_LEFT}">{for_html(name)}</td>'
        + "".join(f'<td style="{_STYLE}{_colour(value)}">{for_html(heat_cell(value))}</td>' for value in row) + "</tr>"
        for name, row in zip(heat.names, heat.rows, strict=True)
    )  # fmt: skip
    notes = "".join(f"<p>{for_html(note)}</p>" for note in heat.notes)
    return (f"<h4>{for_html(heat.title)}</h4><table><thead><tr><th></th>{header}</tr></thead>"
            f"<tbody>{rows}</tbody></table>{notes}")  # fmt: skip


def _colour(value: float | None) -> str:
    if value is None:
        return ""
    red, green, blue = _ABOVE if value > 0 else _BELOW
    return f";background:rgba({red},{green},{blue},{min(abs(value) / _FULL_PCT, 1.0):.2f})"


def _grid(grid: Grid) -> str:
    header = "".join(f'<th style="{_align(i, grid)}">{for_html(word)}</th>' for i, word in enumerate(grid.header))
    rows = "".join(
        "<tr>" + "".join(f'<td style="{_align(i, grid)}">{for_html(cell)}</td>' for i, cell in enumerate(row)) + "</tr>"
        for row in grid.rows
    )
    notes = "".join(f"<p>{for_html(note)}</p>" for note in grid.notes)
    return f"<h4>{for_html(grid.title)}</h4><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>{notes}"


def _align(position: int, grid: Grid) -> str:
    return _LEFT if position < grid.names else _STYLE
