"""Fills the generated parts of README and docs: screens, options, thresholds, tables, JSON fields, exit codes, figures.

``python tests/readme.py`` rewrites the pages; `test_docs` fails while one differs from what this would write.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cache
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_args, get_type_hints

import attrs
import typer
from typer.models import ArgumentInfo

from dsprof import errors, findings, plots
from dsprof.agents.schemas import schemas
from dsprof.analysis.gather import REPORT_COLUMNS
from dsprof.answers import overhead, roofs, steps, verdicts, waits, warm_up
from dsprof.capture.launchers import all_launchers
from dsprof.cli import app
from dsprof.compare import comparable, gates, units
from dsprof.compare import statistics as change
from dsprof.compare.tables import TABLES as COMPARISON
from dsprof.measures.causes import CAUSES
from dsprof.model.costs import KNOWN
from dsprof.model.peaks import RATES
from dsprof.model.weights import METHODS
from dsprof.rules.engines import all_engines
from dsprof.rules.families import FAMILIES
from dsprof.show import layout, summary
from dsprof.tables import all_tables
from dsprof.trace import Gpu, Message, Report, Selection

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PLANTED, PREDICTED, MANY, TIMELINES = (
    ROOT / "benchmarks" / f"{name}.md" for name in ("RESULTS", "PLANTED", "PREDICTED", "MANY", "TIMELINES")
)
README = ROOT / "README.md"
DOCS = ROOT / "docs"
LESSONS = ROOT / "notebooks"
#: The terminal of the screens that are shown, in columns.
WIDTH = 104
#: What the value of an option is called in the list of commands, where the option does not say it.
_VALUES = {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH", list[str]: "TEXT", list[Path]: "PATH"}
# Where the code has what the pages are made of, all of it here, so that a move there is one here.

#: Each kind of verdict on idle time with its causes; what a verdict calls a cause, and what a cause means.
KINDS: dict[str, list[str]] = {
    kind: [cause.name for cause in CAUSES.values() if cause.kind == kind] for kind in verdicts.KINDS
}
WORDS: dict[str, str] = {cause.name: cause.words for cause in CAUSES.values()}
MEANINGS: dict[str, str] = {cause.name: cause.meaning for cause in CAUSES.values()}
#: When something is a warm-up, an outlier, a drift.
NOTABLE, DRIFT_ERRORS, Z, Z_LIMIT = warm_up.NOTABLE, steps.DRIFT_ERRORS, steps._Z, steps._Z_LIMIT
#: The call whose screen README shows as a picture (`pictures.py`).
SHOWN_FIRST = "analyze traces/samples/h200-stages.sqlite.xz --top 0"
#: The screens that are shown, each with the call that prints it.
SHOWN = {
    "screen": "analyze traces/samples/h200-stages.sqlite.xz",
    "whatif": "whatif traces/samples/h200-stages.sqlite.xz --stage decode --cuda-graphs",
    "diff": "diff traces/samples/h100-llama-1-eager.sqlite.xz -- traces/samples/h100-llama-1-pageable-copy.sqlite.xz",
    "ranks": "analyze traces/samples/h100x2-tp-rank0.sqlite.xz traces/samples/h100x2-tp-rank1.sqlite.xz",
}


def pages() -> list[Path]:
    """README and every page of docs."""
    return [README, *sorted(DOCS.glob("*.md"))]


@cache
def coloured(call: str) -> str:
    """What a call of dsprof prints on a terminal, in a folder that holds the samples, colours included."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder, "traces", "samples")
        samples.mkdir(parents=True)
        chosen = [*(ROOT / "traces/samples").glob("h?00*-[st][tp]*"), *(ROOT / "traces/samples").glob("h100-llama-1-*")]
        for sample in chosen:  # stages, ranks of tensor parallelism, both sides of a comparison
            (samples / sample.name).symlink_to(sample)
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        done = subprocess.run(
            [sys.executable, "-m", "dsprof", *shlex.split(call)],
            cwd=folder, capture_output=True, text=True, check=True,
            env=environment | {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "TERM": "xterm-256color",
                               "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )  # fmt: skip
    return done.stdout


def printed(call: str) -> str:
    """The same without colours."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", coloured(call))
    return "\n".join(line.rstrip() for line in plain.splitlines())


def screen(name: str) -> str:
    """A command, and what it prints."""
    return f"```console\n$ dsprof {SHOWN[name]}\n{printed(SHOWN[name])}\n```"


def ranks() -> str:
    """What is printed of two reports before it comes to the reports, which say how long the work took."""
    shown = printed(SHOWN["ranks"])
    begin, end = shown.index("who holds"), shown.index("reports  ", len("reports  "))
    return f"```console\n$ dsprof {SHOWN['ranks']}\n…\n{shown[begin:end].rstrip()}\n```"


def reports_columns() -> str:
    """The columns of the table with a row for each of several reports."""
    rows = [f"| `{column.name}` | {column.text} |" for column in REPORT_COLUMNS]
    return "\n".join(["| column | |", "|---|---|", *rows])


def section(page: Path, title: str) -> str:
    """What stands under a title of a page of results."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found is not None, f"{page.name} has no part {title}"
    return found[1].strip()


def verdict_kinds() -> str:
    """Each kind of verdict: when it is said, and what it advises."""
    rows = [
        _kind(
            verdicts.GPU, f"the GPU is busy for {verdicts._GPU_BOUND_PCT:g} % of the wall time or more, copies left out"
        )
    ]
    few, more = (f"{words} than {verdicts._PER_LAUNCH_US:g} us for each launch" for words in ("no more", "more"))
    besides = {
        verdicts.LAUNCH: f"; the host outside of CUDA counts here where that is {few}",
        verdicts.COPY: "; what the GPU itself copies counts here, too",
        verdicts.HOST: f", and that is {more}",
        verdicts.LATENCY: ", and nothing was launched by CUDA graphs",
    }
    for kind, causes in KINDS.items():
        words = _or([f"{WORDS[cause]} (`{cause}`)" for cause in causes])
        rows.append(_kind(kind, f"most of the idle time goes to {words}{besides.get(kind, '')}"))
    rows.append(_kind(verdicts.COMMUNICATION, "collectives transfer, or run without a match, for most of the time that "
                      "is no other work, or for the better part of the work of a busy GPU"))  # fmt: skip
    rows.append(_kind(verdicts.STRAGGLER, "most goes to waiting for one rank: it causes "
                      f"{waits._TIMES_ITS_SHARE:g} times its share of the waiting, by odds, throughout"))  # fmt: skip
    rows.append(_kind(verdicts.IMBALANCE, "most goes to waiting for ranks whose kernels or copies take longer in turn; "
                      "where it is their hosts, the waiting counts as the host's"))  # fmt: skip
    rows.append(_kind(verdicts.GRAPH, "most of the idle time goes to launch latency (`latency`), and CUDA graphs run"))
    rows.append(_kind(verdicts.MIXED, "no kind has the better part of the idle time, or the GPU is busy for "
                      f"{verdicts._NOT_GPU_BOUND_PCT:g} to {verdicts._GPU_BOUND_PCT:g} %"))  # fmt: skip
    return "\n".join(["| verdict | said when | advice |", "|---|---|---|", *rows])


def _kind(kind: str, when: str) -> str:
    return f"| {kind} | {when} | {verdicts._REMEDIES[kind]} |"


def _or(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def verdict_limits() -> str:
    """The thresholds that verdicts go by."""
    return _limits({
        "Busy share of the wall time, copies left out, that makes a stage GPU-bound": f"{verdicts._GPU_BOUND_PCT:g} %",
        "The same share up to which an idle cause can be the verdict": f"{verdicts._NOT_GPU_BOUND_PCT:g} %",
        "Share of the idle time that the causes of one kind must have": f"{100 * verdicts._MOST:g} %",
        "Host time outside of CUDA for a launch up to which launching takes it": f"{verdicts._PER_LAUNCH_US:g} us",
        "Launches per step from which on a launch-bound verdict tells a step's times": f"{verdicts._ONE_BY_ONE:g}",
        "Share of the wall time that waiting for ranks must have to be told": f"{waits.NOTABLE_PCT:g} %",
        "Steps, or instances without steps, from which on a straggler is named": f"{waits._LEAST:g}",
        "Utilization while busy from which on a roof is named as the limit": f"{verdicts._AT_ROOF_PCT:g} %",
    })  # fmt: skip


def step_limits() -> str:
    """The thresholds of warm-ups, outliers and drifts."""
    return _limits({
        "A stage or step can be a warm-up above so many times the usual of its kind": f"{NOTABLE:g}",
        "Of its time beyond the usual it then spent so much in what is done once": f"{warm_up.EXPLAINED:.0%}",
        "A step is an outlier above so many times the median of its decode, if also": f"{NOTABLE:g}",
        f"its modified z-score ({Z:g} x its distance from the median / the median of all distances) is above":
            f"{Z_LIMIT:g}",
        "Outliers of a stage in the JSON summary, of which the screen names the first": f"{summary.MOST_OUTLIERS}",
        "A drift is told from so many of its standard errors on": f"{DRIFT_ERRORS:g}",
        "and over a span of context of at least so much of the longest": f"{steps.DRIFT_SPAN:.0%}",
        "The median of a stage stands beside a mean of more than so many times it": f"{layout.LONG_TAIL:g}",
        "The screen shows each request up to so many": f"{layout.MOST_REQUESTS}",
    })  # fmt: skip


def _limits(limits: dict[str, str]) -> str:
    rows = [f"| {what} | {value} |" for what, value in limits.items()]
    return "\n".join(["| threshold | value |", "|---|---:|", *rows])


def figures() -> str:
    """Every figure with what it is of."""
    rows = [
        _row(f"`plots.{name}`", _text((getattr(plots, name).__doc__ or "").split("\n\n")[0])) for name in plots.__all__
    ]
    return "\n".join(["| figure | what it draws |", "|---|---|", *rows])


def lessons() -> str:
    """Every lesson with what one will know."""
    rows = []
    for path in sorted(LESSONS.glob("*.ipynb")):
        title, _, text = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]).partition("\n\n")
        known = text.split("\n\n")[0].removeprefix("At the end of this lesson you ")
        rows.append(f"| [{title.removeprefix('# ')}](../notebooks/{path.name}) | you {known} |")
    return "\n".join(["| lesson | at its end |", "|---|---|", *rows])


def gate_limits() -> str:
    """The thresholds of comparisons."""
    noise = ", ".join(f"{measure} {100 * value:g} %" for measure, value in change.RUN_NOISE.items())
    return _limits({
        **{f"Gate `default`, {measure}, of each stage": f"{pct:g} %" for measure, pct in gates.DEFAULTS.items()},
        "From so many runs in all on, runs are compared, and not requests": f"{change.LEAST_RUNS}",
        "With fewer, the noise from run to run (standard deviation) is taken to be": noise,
        "Prompts differ, and are refused, by more than": f"{comparable.PROMPTS:.0%}",
        "NVTX ranges within a unit differ, and are refused, by": f"{comparable.RANGES:g}",
        "They are told from a difference of": f"{comparable.SOME_RANGES:g}",
        "Steps of an engine are cut into so many stretches, which stand for requests": f"{units.STRETCHES}",
    })  # fmt: skip


def comparison_tables() -> str:
    """The tables of a comparison with their columns."""
    rows = [
        _row(f"`{table.name}`", table.row, ", ".join(f"`{column.name}`" for column in table.columns))
        for table in COMPARISON.values()
    ]
    return "\n".join(["| table | a row is | columns |", "|---|---|---|", *rows])


def causes() -> str:
    """Why the GPU was idle."""
    rows = [f"| `{name}` | {text} |" for name, text in MEANINGS.items()]
    return "\n".join(["| cause | meaning |", "|---|---|", *rows])


def models() -> str:
    """The architectures whose costs are known, as a configuration names them."""
    return ", ".join(f"`{name}`" for name in KNOWN)


def quantized() -> str:
    """The methods of quantization whose bytes are known, by what their functions say."""
    rows = [f"| `{name}` | {(method.__doc__ or '').partition('.')[0]} |" for name, method in METHODS.items()]
    return "\n".join(["| `quant_method` | how weights lie and are multiplied |", "|---|---|", *rows])


def rates() -> str:
    """What a multiprocessor of each kind of GPU does in a cycle."""
    units = list(dict.fromkeys(unit for rates in RATES.values() for unit in rates))
    rows = [f"| {kind} | {' | '.join(str(rates.get(unit, '')) for unit in units)} |" for kind, rates in RATES.items()]
    return "\n".join([f"| compute capability | {' | '.join(units)} |", "|---|" + "---:|" * len(units), *rows])


def engines() -> str:
    """Every serving engine: forms of its steps' names, what comes after their ranges, what it needs to write them."""
    rows = [
        _row(
            f"{engine.title} (`{engine.name}`)",
            ", ".join(form.name for form in engine.forms),
            engine.after,
            engine.switch,
        )
        for engine in all_engines().values()
        if engine.forms
    ]
    return "\n".join(["| engine | forms | after the range of a step | what it needs |", "|---|---|---|---|", *rows])


def families() -> str:
    """Every family of kernels with what is in it."""
    return "\n".join(
        ["| family | what is in it |", "|---|---|", *(f"| {name} | {text} |" for name, text in FAMILIES.items())]
    )


def commands(group: typer.Typer = app, words: str = "dsprof") -> Iterator[tuple[str, Callable[..., None]]]:
    """Every command of the command line with its function, groups taken apart."""
    for one in group.registered_commands:
        if one.callback:
            yield f"{words} {one.name or one.callback.__name__}", one.callback
    for inner in group.registered_groups:
        if inner.typer_instance:
            yield from commands(inner.typer_instance, f"{words} {inner.name}")


def options() -> str:
    """Every command with its arguments and options, from what its help is made of."""
    parts = []
    for words, function in commands():
        hints = get_type_hints(function, include_extras=True)
        rows = [
            _option(one.name, hints[one.name], one.default)
            for one in signature(function).parameters.values()
            if hasattr(hints[one.name], "__metadata__")
        ]
        table = "\n".join(["", "", "| | | usual |", "|---|---|---|", *rows]) if rows else ""
        text = _text(function.__doc__)
        parts.append(f"### {words}\n\n{text}{table}")
    return "\n\n".join(parts)


def _option(name: str, hint: Any, usual: Any) -> str:
    """A row for an argument or an option: how it is written, what it is for, what holds without it."""
    kind, about = hint.__origin__, hint.__metadata__[0]
    kind = next((one for one in get_args(kind) if isinstance(one, type) and issubclass(one, StrEnum)), kind)
    flag = bool in (kind, *get_args(kind))
    first = [about.default] if isinstance(about.default, str) else []  # where Annotated has the first name
    named = sorted([*first, *(about.param_decls or ())], key=len) or ["--" + name.replace("_", "-")]
    if isinstance(about, ArgumentInfo):
        named = [about.metavar or name]
    elif flag and not first:
        named = [f"{named[0]}/--no{named[0][1:]}"]
    elif not flag:
        values = "|".join(kind) if isinstance(kind, type) and issubclass(kind, StrEnum) else about.metavar
        named[-1] += f" {values or _VALUES[next(iter(get_args(kind)), kind)]}"
    none = usual is None or usual is False or usual is Parameter.empty
    shown = "" if none else "`" + str(usual).strip().replace("\n", "\\n") + "`"
    return _row(f"`{', '.join(named)}`", _text(about.help), shown)


def _text(text: str | None) -> str:
    """Words of the code as a line of Markdown, in which nothing is a tag."""
    return " ".join((text or "").split()).replace("<", "&lt;")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table_list() -> str:
    """Every table and what its rows are."""
    rows = [f"| [`{table.name}`](#{table.name}) | {table.row} |" for table in all_tables().values()]
    return "\n".join(["| table | a row is |", "|---|---|", *rows])


def tables() -> str:
    """Every table with its columns."""
    details = []
    for table in all_tables().values():
        rows = [f"| `{c.name}` | {'may be missing' if c.nullable else ''} | {c.text} |" for c in table.columns]
        details.append(f"### {table.name}\n\n| column | | |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(details)


def json_fields() -> str:
    """The summary document, part by part."""
    parts = {
        "(top)": summary.Summary, "report": Report, "report.gpus[]": Gpu, "report.messages[]": Message,
        "report.selection": Selection,
        "counts": summary.Counts,
        "verdicts[]": verdicts.Verdict,
        "roofs[]": roofs.StageRoof,
        "stages[]": summary.StageLine, "instances[]": summary.InstanceLine, "requests[]": summary.RequestLine,
        "steps[]": summary.StepLine, "outliers[]": summary.OutlierLine, "families[]": summary.FamilyLine,
        "top_kernels[]": summary.KernelLine, "layers[]": summary.LayerLine, "costs[]": overhead.Cost,
        "coverage": summary.Coverage, "findings[]": findings.Finding,
    }  # fmt: skip
    rows = [f"| `{name}` | {_sentence(part)} | {_names(part)} |" for name, part in parts.items()]
    return "\n".join(["| part | what it is | fields |", "|---|---|---|", *rows])


def _sentence(part: type) -> str:
    return " ".join((part.__doc__ or "").split("\n\n")[0].split())


def _names(part: type) -> str:
    return ", ".join(f"`{field.name}`" for field in attrs.fields(part))


def exits() -> str:
    """The exit codes, from the classes that carry them."""
    rows = ["| code | when |", "|---|---|", "| 0 | the tables were written |", "| 1 | an error of dsprof itself |",
            "| 2 | the command line is wrong |"]  # fmt: skip
    raised = sorted(errors.DsprofError.__subclasses__(), key=lambda error: error.exit_code)
    rows += [f"| {error.exit_code} | {_sentence(error)} |" for error in raised]
    rows += [f"| {code} | with `--strict`: the finding `{name}` |" for name, code in findings.STRICT_EXITS.items()]
    rows += ["| 130 | interrupted |", "| 141 | nobody reads the output any more |"]
    return "\n".join(rows)


def launchers() -> str:
    """What captures of launchers and engines get, from the files that say it."""
    rows = ["| the command calls | it gets | why |", "|---|---|---|"]
    for form in (form for one in all_launchers().values() for form in one.forms):
        calls = ", ".join(f"`{'python ' if call.startswith('-m') else ''}{call}`" for call in form.calls)
        adds = [(f"`{add.text}`", add.why) for add in form.adds]
        if form.steps:
            adds.append((f"`{form.steps}=A-B`", "with `--steps A-B`, and the window below"))
        if window := form.window or form.steps_window:
            adds.append((f"`--capture-range={window.range} --capture-range-end={window.end}`", window.why))
        if form.ranks and form.ranks.outside != "if asked":
            adds.append(("nsys behind the launcher", "one report for each rank"))
        elif form.role == "ranks":
            adds.append(("nsys before the launcher", "one report for all ranks of the node"))
        for number, (text, why) in enumerate(adds or [("", form.hints[0].says.rstrip("."))]):
            rows.append(f"| {'' if number else calls} | {text} | {why} |")
    return "\n".join(rows)


def bench() -> str:
    """What benchmarks/RESULTS.md measured of dsprof and nsys, without the ranges of the runs."""
    rows, size = [], ""
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            size = line.removeprefix("## ").replace(" (", ", ").removesuffix(")") if "kernels" in line else ""
        cells = [re.sub(r" \(.*\)", "", cell.strip()) for cell in line.strip("|").split("|")]
        if size and cells[0].startswith(("dsprof", "nsys stats")):
            rows.append(f"| {' | '.join([size, *cells[:6]])} |")
    head = (
        "| report | | wall s | CPU s | peak MB | nsys / it: wall | nsys / it: CPU |\n|---|---|---:|---:|---:|---:|---:|"
    )
    return "\n".join([head, *rows])


#: The generated parts by name: each stands once, between `<!-- name -->` and `<!-- /name -->`, in README or docs.
PARTS: dict[str, Callable[[], str]] = {
    "screen": lambda: screen("screen"),
    "whatif": lambda: screen("whatif"),
    "diff": lambda: screen("diff"),
    "gates": gate_limits,
    "difftables": comparison_tables,
    "ranks": ranks,
    "figures": figures,
    "lessons": lessons,
    "reports": reports_columns,
    "many": lambda: section(MANY, "Measured"),
    "timelines": lambda: section(TIMELINES, "Measured"),
    "paper": lambda: section(MANY, "On paper"),
    "options": options,
    "verdicts": verdict_kinds,
    "thresholds": verdict_limits,
    "steps": step_limits,
    "causes": causes,
    "planted": lambda: PLANTED.read_text(encoding="utf-8").strip(),
    "predicted": lambda: PREDICTED.read_text(encoding="utf-8").strip(),
    "models": models,
    "quantized": quantized,
    "rates": rates,
    "engines": engines,
    "families": families,
    "list": table_list,
    "tables": tables,
    "json": json_fields,
    "bench": bench,
    "launchers": launchers,
    "exits": exits,
}
_MARK = re.compile(r"^<!-- (/?)([a-z]+) -->$", re.MULTILINE)


def parts_in(text: str) -> list[str]:
    """The names of a page's generated parts; an unknown one, or one that does not end, is an error."""
    marks = [(mark[1], mark[2]) for mark in _MARK.finditer(text)]
    names = [name for _, name in marks[::2]]
    if marks != [mark for name in names for mark in (("", name), ("/", name))]:
        raise ValueError(f"a generated part begins or ends alone: {marks}")
    if unknown := set(names) - set(PARTS):
        raise ValueError(f"nothing makes the parts {sorted(unknown)}")
    return names


def filled(text: str) -> str:
    """A page with its generated parts made anew."""
    for name in parts_in(text):
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        made = PARTS[name]()
        text = pattern.sub(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text)
    return text


def schema_files() -> dict[Path, str]:
    """The published schemas by their files."""
    return {
        DOCS / "schemas" / f"{name}.json": f"{json.dumps(one, indent=1, ensure_ascii=False)}\n"
        for name, one in schemas().items()
    }


if __name__ == "__main__":
    for file, text in schema_files().items():
        file.write_text(text, encoding="utf-8")
    for page in pages():
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
