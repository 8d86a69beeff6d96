"""Fills the README's generated parts: the output, the tables, the JSON fields, the exit codes.

``python tests/readme.py`` rewrites the file; `test_docs` fails while it differs from what this would write.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import attrs
from rich.console import Console

import dsprof
from dsprof import errors, findings, roofs, summary, verdicts
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


def filled(text: str) -> str:
    """The README with its generated parts made anew."""
    for name, make in (("output", output), ("tables", tables), ("json", json_fields), ("bench", bench),
                       ("exits", exits)):  # fmt: skip
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        made = make()
        text, count = pattern.subn(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text)
        if count != 1:
            raise SystemExit(f"README.md must hold the part {name} once, and holds it {count} times")
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
