"""The summary as HTML, for a notebook's cell."""

from __future__ import annotations

from dsprof.show.layout import Grid, coverage, grids, headline, verdicts
from dsprof.show.safe import for_html
from dsprof.show.summary import Summary

_STYLE = "text-align:right;padding:2px 8px"
_LEFT = "text-align:left;padding:2px 8px"


def summary_html(summary: Summary) -> str:
    """A fragment that stands on its own: no script, no style sheet, no outside file."""
    head = "".join(
        f'<tr><td style="{_LEFT}"><b>{for_html(label)}</b></td><td style="{_LEFT}">{for_html(text)}</td></tr>'
        for label, text in headline(summary)
    )
    notes = "".join(f"<li>{for_html(str(found))}</li>" for found in summary.findings)
    judged = "".join(f"<p><b>{for_html(one.sentence)}</b> {for_html(one.remedy)}</p>" for one in verdicts(summary))
    body = "".join(_grid(grid) for grid in grids(summary))
    said = coverage(summary)
    covered = f"<p>{for_html(said)}</p>" if said else ""
    return f"<div><table>{head}</table>{judged}{body}{covered}<ul>{notes}</ul></div>"


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
