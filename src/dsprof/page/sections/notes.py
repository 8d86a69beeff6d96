"""What is to know of the data: findings, and how much the stages hold."""

from __future__ import annotations

from dsprof.page.html import element, joined
from dsprof.page.parts import Section
from dsprof.page.source import Source
from dsprof.show.layout import coverage

_HOW = (
    "A finding is what the report lacks or hides, or a number that two sources tell otherwise. Its code is the name "
    "by which the documents and programs know it."
)


def section(source: Source) -> Section | None:
    """Findings, each with its code."""
    said, found = coverage(source.summary), source.summary.findings
    items = [element("li", element("code", one.code), " ", str(one)) for one in found]
    body = joined(element("p", said) if said else "", element("ul", *items, class_="notes") if items else
                  element("p", "Nothing is missing, and the tables' sums are those of the report."))  # fmt: skip
    return Section("notes", "Findings", body, _HOW)
