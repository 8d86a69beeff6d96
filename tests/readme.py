"""Fills the generated parts of README and docs: output, tables, JSON fields, exit codes, verdicts.

``python tests/readme.py`` rewrites the pages; `test_docs` fails while one differs from what this would write.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import attrs
from rich.console import Console

import dsprof
from dsprof import errors, findings, roofs, summary, verdicts
from dsprof.accounting import CAUSES
from dsprof.render.terminal import print_summary
from dsprof.tables import all_tables
from dsprof.trace import Gpu, Report

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).parents[1] / "benchmarks" / "RESULTS.md"
README = ROOT / "README.md"
SAMPLE = ROOT / "traces/samples/h200-stages.sqlite.xz"
WIDTH = 100


def output() -> str:
    """What `dsprof analyze` prints for the sample, at the width of a page."""
    text = io.StringIO()
    print_summary(dsprof.analyze(SAMPLE).summary(), Console(file=text, width=WIDTH))
    lines = "\n".join(line.rstrip() for line in text.getvalue().splitlines())
    return f"```text\n{lines}\n```"


def tables() -> str:
    """Every table with its columns."""
    overview = ["| table | a row is |", "|---|---|"]
    overview += [f"| `{table.name}` | {table.row} |" for table in all_tables().values()]
    details = []
    for table in all_tables().values():
        rows = [f"| `{c.name}` | {'may be missing' if c.nullable else ''} | {c.text} |" for c in table.columns]
        head = f"<details><summary>columns of <code>{table.name}</code></summary>\n\n| column | | |\n|---|---|---|\n"
        details.append(head + "\n".join(rows) + "\n\n</details>")
    return "\n".join(overview) + "\n\n" + "\n".join(details)


def json_fields() -> str:
    """The summary document, part by part."""
    parts = {
        "(top)": summary.Summary, "report": Report, "report.gpus[]": Gpu, "counts": summary.Counts,
        "verdicts[]": verdicts.Verdict,
        "roofs[]": roofs.StageRoof,
        "stages[]": summary.StageLine, "instances[]": summary.InstanceLine, "requests[]": summary.RequestLine,
        "steps[]": summary.StepLine, "outliers[]": summary.OutlierLine, "families[]": summary.FamilyLine,
        "top_kernels[]": summary.KernelLine,
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
    rows += ["| 130 | interrupted |"]
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


def kinds() -> str:
    """The kinds of verdicts, with the shares from which on they are given."""
    low, high, most = verdicts._NOT_GPU_BOUND_PCT, verdicts._GPU_BOUND_PCT, verdicts._MOST
    rows = ["| verdict | when | what to do |", "|---|---|---|"]
    rows.append(f"| GPU-bound | the GPU is busy {high:.0f} % of the time or more | {verdicts._REMEDIES['GPU-bound']} |")
    for kind, causes in verdicts._SIDES.items():
        named = ", ".join(f"`{cause}`" for cause in causes)
        when = (
            f"it is busy {low:.0f} % or less, and {named} {'have' if len(causes) > 1 else 'has'} {most:.0%} of the rest"
        )
        rows.append(f"| {kind} | {when} | {verdicts._REMEDIES[kind]} |")
    return "\n".join(rows)


def causes() -> str:
    """Why the GPU was idle."""
    return "\n".join(["| cause | meaning |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in CAUSES.items())])


#: The generated parts of each page.
PAGES = {
    README: {"output": output},
    ROOT / "docs/tables.md": {"tables": tables},
    ROOT / "docs/json.md": {"json": json_fields},
    ROOT / "docs/performance.md": {"bench": bench},
    ROOT / "docs/exit-codes.md": {"exits": exits},
    ROOT / "docs/verdicts.md": {"verdicts": kinds, "causes": causes},
}


def filled(page: Path) -> str:
    """A page with its generated parts made anew."""
    text = page.read_text(encoding="utf-8")
    for name, make in PAGES[page].items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        made = make()
        text, count = pattern.subn(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text)
        if count != 1:
            raise SystemExit(f"{page.name} must hold the part {name} once, and holds it {count} times")
    return text


if __name__ == "__main__":
    for one in PAGES:
        one.write_text(filled(one), encoding="utf-8")
