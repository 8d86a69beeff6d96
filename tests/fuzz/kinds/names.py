"""Hostile names, of kernels, ranges, GPUs, files and more, through every output."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

from dsprof.tables import all_tables
from fuzz import bases, hostile
from fuzz.calls import Ended, call, judge
from fuzz.case import Case, Kind, Result

Text = str | bytes


def _update(report: Path, statement: str, text: Text) -> None:
    value = "CAST(? AS TEXT)" if isinstance(text, bytes) else "?"
    with closing(sqlite3.connect(report, isolation_level=None)) as sql:
        sql.execute(statement.format(value=value), [text])


def kernel(report: Path, text: Text) -> None:
    """The name of one kernel."""
    ids = "SELECT demangledName FROM CUPTI_ACTIVITY_KIND_KERNEL LIMIT 1"
    _update(report, f"UPDATE StringIds SET value = {{value}} WHERE id = ({ids})", text)


def kernels(report: Path, text: Text) -> None:
    """The names of all kernels: two of one text are one kernel."""
    _update(report, "UPDATE StringIds SET value = {value} "
            "WHERE id IN (SELECT demangledName FROM CUPTI_ACTIVITY_KIND_KERNEL)", text)  # fmt: skip


def call_name(report: Path, text: Text) -> None:
    """The name of a CUDA call."""
    ids = "SELECT nameId FROM CUPTI_ACTIVITY_KIND_RUNTIME LIMIT 1"
    _update(report, f"UPDATE StringIds SET value = {{value}} WHERE id = ({ids})", text)


def ranges(report: Path, text: Text) -> None:
    """The texts of ranges."""
    _update(report, "UPDATE NVTX_EVENTS SET text = {value} WHERE eventType IN (59, 60)", text)


def domain(report: Path, text: Text) -> None:
    """The name of a domain."""
    _update(report, "UPDATE NVTX_EVENTS SET text = {value}, textId = NULL WHERE eventType = 75", text)


def gpu(report: Path, text: Text) -> None:
    """The name of a GPU."""
    _update(report, "UPDATE TARGET_INFO_GPU SET name = {value}", text)


def diagnostic(report: Path, text: Text) -> None:
    """What nsys says of the capture."""
    said = b"could not " + text if isinstance(text, bytes) else f"could not {text}"
    _update(report, "UPDATE DIAGNOSTIC_EVENT SET severity = 3, text = {value}", said)


def versions(report: Path, text: Text) -> None:
    """What the report says of its nsys."""
    tables = "META_DATA_EXPORT", "EXPORT_META_DATA"
    with closing(sqlite3.connect(report)) as sql:
        there = {name for (name,) in sql.execute("SELECT name FROM sqlite_master")}
    for table in there.intersection(tables):
        _update(report, f"UPDATE {table} SET value = {{value}} WHERE name = 'EXPORT_PRODUCT_VERSION'", text)


def driver(report: Path, text: Text) -> None:
    """What the report says of the driver."""
    _update(report, "UPDATE TARGET_INFO_SYSTEM_ENV SET value = {value} WHERE name LIKE '%Version%'", text)


IN_REPORT: dict[str, Callable[[Path, Text], None]] = {
    one.__name__: one for one in (kernel, kernels, call_name, ranges, domain, gpu, diagnostic, versions, driver)
}
OUTSIDE = ("file", "folder", "missing", "no report", "table", "stage", "out", "model", "families", "family")


def choose(random: Random) -> dict[str, Any]:
    """What gets the name, and how it is shown."""
    return {
        "base": random.choice(("made", "h200-graph-node")),
        "text": hostile.any_text(random),
        "place": random.choice([*IN_REPORT, *OUTSIDE]),
        "output": random.choice(["rich", "json", "markdown", "html", *("table",) * 4]),
        "table": random.choice(sorted(all_tables())),
        "format": random.choice(["csv", "json", "markdown", "rich"]),
    }


def run(case: Case, folder: Path) -> Result:
    """Give the name and look at all that is shown."""
    text = hostile.stored(case.chosen["text"])
    result, report = (
        Result(did=f"{case.chosen['place']}: {text!a:.200}"),
        bases.copy(case.chosen["base"], folder / "run.sqlite"),
    )
    place = case.chosen["place"]
    if place in IN_REPORT:
        try:
            IN_REPORT[place](report, text)
        except sqlite3.OperationalError:  # this version has no such table
            return result
        show(case, report, (), result, expected=text if place in ("kernel", "kernels") else None)
    else:
        outside(case, folder, report, text, result)
    return result


def outside(case: Case, folder: Path, report: Path, text: Text, result: Result) -> None:
    """The name is a file's, or an option's."""
    name = os.fsdecode(text)
    shown = {
        "stage": ("--stage", f"{name}=prefill"), "out": ("--out", str(folder / "out" / name[:100])),
        "families": ("--families", str(folder / name)), "model": ("--model-config", str(folder / name)),
        "family": ("--families", _families(folder, name)),
    }.get(case.chosen["place"])  # fmt: skip
    if shown:
        shown = tuple(one.replace("\0", "") for one in shown)  # no argument of a program holds one
        show(case, report, shown, result)
        return
    for ended in _named(case.chosen["place"], folder, report, name.replace("\0", "")):
        judge(ended, result)
        look(ended, result)


def _families(folder: Path, name: str) -> str:
    path = folder / "families.toml"
    name = name.encode("utf-8", "replace").decode()
    path.write_text(f'[[family]]\nname = {json.dumps(name)}\npattern = "gemm|softmax"\n', encoding="utf-8")
    return str(path)


def _named(place: str, folder: Path, report: Path, name: str) -> Iterator[Ended]:
    if place == "table":
        yield call("table", report, name)
    elif place == "missing":
        yield call("analyze", folder / "none" / name)
        yield call("scrub", folder / "none" / name, "--output", folder / "x.sqlite")
    else:
        parent = folder / (name if place == "folder" and "/" not in name else "named")
        try:
            parent.mkdir(exist_ok=True)
            target = parent / (f"{name.replace('/', '')[:200]}.sqlite" if place == "file" else "run.sqlite")
            target.write_bytes(b"no report" if place == "no report" else report.read_bytes())
        except (OSError, ValueError):  # no file system has such a name
            return
        yield call("analyze", target)
        yield call("analyze", target, "--format", "json")
        yield call("table", target, "kern_sum", "--format", "markdown")
        yield call("scrub", target, "--output", parent / "clean.sqlite")


def show(case: Case, report: Path, options: tuple[str, ...], result: Result, expected: Text | None = None) -> None:
    """Through the output of this case."""
    output, table, form = case.chosen["output"], case.chosen["table"], case.chosen["format"]
    if output == "html":
        _html(report, result)
    elif output == "table":
        options = tuple(option for option in options if option != "--out") if "--out" not in options else ()
        ended = judge(call("table", report, table, "--format", form, *options), result)
        look(ended, result, form if ended.code == 0 else "")
        if expected is not None and form == "json" and table == "kern_sum" and ended.code == 0:
            _holds(ended, expected, result)
    else:
        ended = judge(call("analyze", report, "--format", output, *options), result)
        look(ended, result, output if ended.code == 0 else "")


def _holds(ended: Ended, expected: Text, result: Result) -> None:
    """A document for programs has the name as it is."""
    wanted = expected.decode("utf-8", "replace") if isinstance(expected, bytes) else expected
    names = {row["kernel"] for row in json.loads(ended.out)["rows"]}
    if wanted and "\0" not in wanted and wanted not in names:
        result.found("wrong", f"JSON has no kernel {wanted!a:.100}")


def look(ended: Ended, result: Result, form: str = "") -> None:
    """Nothing that is shown is obeyed by what shows it."""
    for stream, text in (("output", ended.text), ("error output", ended.err)):
        for said in hostile.obeyed(text):
            result.found("unsafe", f"{form} {stream}: {said}")
    if form == "csv":
        _note(hostile.csv_trouble(ended.text), form, result)
    elif form == "markdown":
        _note(hostile.markdown_trouble(ended.text), form, result)
    elif form == "json":
        json.loads(ended.out)


def _note(troubles: Iterator[str], form: str, result: Result) -> None:
    for said in troubles:
        result.found("unsafe", f"{form}: {said}")


def _html(report: Path, result: Result) -> None:
    """A notebook's page has the tags that it has for a harmless report."""
    from dsprof.analysis.analyze import analyze
    from dsprof.errors import DsprofError

    try:
        page = analyze(report, reuse=False)._repr_html_()
        usual = analyze(bases.path("made"), reuse=False)._repr_html_()
    except DsprofError as error:
        result.code = error.exit_code
        return
    known = {"div", "table", "thead", "tbody", "tr", "th", "td", "p", "strong", "em", "b", "span", "style", "ul", "li",
             "code", "br", "small", "caption", "details", "summary"}  # fmt: skip
    if more := hostile.tags_of(page) - hostile.tags_of(usual) - (known - {"b"}):
        result.found("unsafe", f"html: {sorted(more)}")


KIND = Kind("names", 1800, choose, run)
