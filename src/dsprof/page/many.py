"""The page of several reports: who holds the others up, a map of stages by ranks, a row for each report."""

from __future__ import annotations

from dsprof.page.document import document, head
from dsprof.page.html import Html, element, joined
from dsprof.page.parts import Section, plain_table, scrolling
from dsprof.page.sections.ranks import heat as heat_of_value
from dsprof.show.layout import Grid
from dsprof.show.reports import (
    Heat,
    ReportsSummary,
    failures,
    headline_of,
    heat_of,
    holders,
    nobody_compared,
    report_grid,
    shown_stages,
)

_HELD = (
    "The rank that waits least in collectives, and begins most of them last, is the one that the others wait for. "
    "Where collectives are not matched, a rank stands out that takes longer than the median rank by far."
)
_MAP = (
    "A cell is how far a rank is from the median rank of its run in a stage, in percent: red takes longer, blue less. "
    "Waiting for other ranks is left out where it is known, as it is the time of others."
)
_EACH = "A row is a report; a page of its own has all of it: `dsprof report` on the report, or on its folder of tables."


def reports_page(summary: ReportsSummary, version: str) -> str:
    """Several reports as one HTML file."""
    title = f"{len(summary.reports)} reports"
    sections = [one for one in (_held(summary), _map(summary), _reports(summary)) if one is not None]
    return document(f"{title} - dsprof", head(title, "", headline_of(summary)), sections, version)


def _held(summary: ReportsSummary) -> Section | None:
    grid, said = holders(summary), nobody_compared(summary)
    body = joined(element("p", said) if said else "", _grid(grid) if grid else "")
    return Section("held", "Who holds the others up", body, _HELD) if body else None


def _map(summary: ReportsSummary) -> Section | None:
    heat = heat_of(shown_stages(summary))
    return Section("map", "Stages by rank", _heat(heat), _MAP) if heat else None


def _heat(heat: Heat) -> Html:
    heads = [element("th", "stage", scope="col", class_="l"),
             *(element("th", word, scope="col") for word in heat.columns)]  # fmt: skip
    rows = [element("tr", element("td", name, class_="l"), *map(heat_of_value, row))
            for name, row in zip(heat.names, heat.rows, strict=True)]  # fmt: skip
    table = element("table", element("caption", _sentence(heat.title)), element("thead", element("tr", *heads)),
                    element("tbody", *rows), class_="heat")  # fmt: skip
    return joined(scrolling(table, heat.title), _notes(heat.notes))


def _reports(summary: ReportsSummary) -> Section:
    lost = [element("li", one) for one in failures(summary)]
    body = joined(element("ul", *lost, class_="notes") if lost else "", _grid(report_grid(summary)))
    return Section("reports", "Reports", body, _EACH)


def _grid(grid: Grid) -> Html:
    return joined(plain_table(grid.header, grid.rows, _sentence(grid.title), grid.names), _notes(grid.notes))


def _sentence(title: str) -> str:
    """A title with a capital at its head."""
    return title[:1].upper() + title[1:]


def _notes(notes: tuple[str, ...]) -> list[Html]:
    return [element("p", note, class_="dim") for note in notes]
