"""The whole page: its sections one after another, its style, its script, and what the script needs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from dsprof.page.html import Html, element, resource
from dsprof.page.parts import Section, folded
from dsprof.page.sections import (
    engines,
    families,
    host,
    kernels,
    layers,
    notes,
    one_step,
    ranks,
    requests,
    roofs,
    stages,
    steps,
    verdicts,
    where,
)
from dsprof.page.source import Source, Tables
from dsprof.show.layout import headline
from dsprof.show.summary import Summary

#: In the order in which they stand on the page.
SECTIONS = (verdicts, where, ranks, engines, stages, requests, steps, one_step, families, kernels, layers, roofs, host,
            notes)  # fmt: skip


def page(summary: Summary, tables: Tables) -> str:
    """An analysis as one HTML file. `tables` are those of `dsprof.page.source.TABLES`."""
    source = Source(summary, tables)
    shown = [found for one in SECTIONS if (found := one.section(source)) is not None]
    return document(f"{summary.report.file} - dsprof", _head(summary), shown, summary.dsprof)


def document(title: str, head: Html, sections: Sequence[Section], version: str) -> str:
    """A whole file of some sections. It may load nothing and run nothing but its own script, by that script's hash."""
    style, script = resource("style.css"), resource("script.js")
    data = {name: value for one in sections for name, value in one.data.items()}
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    meta = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Html(policy)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
    ]
    top = element("head", *meta, element("title", title), Html(f"<style>{style}</style>"))
    made = f"Made by dsprof {version}. Numbers are those of its tables. This file asks for nothing from any network."
    foot = element("footer", made)
    main = element("main", *map(_section, sections), id="main", tabindex=-1)
    scripts = Html(f'<script type="application/json" id="data">{script_json(data)}</script><script>{script}</script>')
    skip = element("a", "to the content", class_="skip", href="#main")
    body = element("body", skip, head, _contents(sections), main, foot, scripts)
    return f"<!doctype html>\n{element('html', top, body, lang='en')}\n"


def script_json(data: Mapping[str, Any]) -> str:
    """JSON within a script element: nothing in it ends that, or a line of JavaScript."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode(errors="replace").decode()  # halves of surrogates are no UTF-8


def head(title: str, about: str, facts: Sequence[tuple[str, str]]) -> Html:
    """What stands above: what it is of, facts in words, and two buttons."""
    told = [part for word, text in facts for part in (element("dt", word), element("dd", text))]
    buttons = element("div", element("button", "Light or dark", id="theme", type="button"),
                      element("button", "Print", id="print", type="button"), class_="controls scripted")  # fmt: skip
    said = element("p", about, class_="dim") if about else ""
    return element("header", element("div", element("h1", title), said, element("dl", *told, class_="facts"),
                                     class_="grow"), buttons)  # fmt: skip


def _head(summary: Summary) -> Html:
    (_, report), *facts = headline(summary)
    return head(summary.report.file, report.removeprefix(summary.report.file).removeprefix(", "), facts)


def _contents(sections: Sequence[Section]) -> Html:
    links = [element("a", one.title, href=f"#{one.name}") for one in sections]
    return element("nav", *links, aria_label="Contents")


def _section(one: Section) -> Html:
    how = folded("How to read this", element("p", one.how), class_="how")
    return element("section", element("h2", one.title, id=f"{one.name}-title"), how, one.body, id=one.name,
                   aria_labelledby=f"{one.name}-title")  # fmt: skip


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
