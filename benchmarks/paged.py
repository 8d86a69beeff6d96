"""What the HTML report of a large report takes: its size, the CPU time behind the analysis, how long chromium loads it.

``python benchmarks/paged.py --kernels 400000 [--report RUN.sqlite]`` prints a row for a report that is just analyzed,
and one for its folder of tables. Without chromium the last column is empty.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dsprof
from dsprof.page.source import TABLES

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "tests")]

from synth import make  # noqa: E402

import browser  # noqa: E402  it is the tests'

_RUNS = 5


def rendered(analyzed: Callable[[], dsprof.Analysis]) -> tuple[str, float]:
    """A page, and the CPU seconds of making it once the summary is there: the median of several."""
    took = []
    for _ in range(_RUNS):
        analysis = analyzed()
        analysis.summary()
        begin = time.process_time()
        text = analysis.page()
        took.append(time.process_time() - begin)
    return text, statistics.median(took)


def loaded(page: Path) -> float | None:
    """Seconds from navigation to the end of loading in chromium; None without one."""
    if browser.missing():
        return None
    took = []
    with browser.started() as one:
        for _ in range(_RUNS):
            one.show(page)
            took.append(one.run("const t = performance.getEntriesByType('navigation')[0]; return t.loadEventEnd") / 1e3)
    return statistics.median(took)


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", type=int, default=400_000)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = options.report or folder / "made.sqlite"
        if options.report is None:
            make(report, options.kernels)
        none = folder / "none"
        of_report = rendered(lambda: dsprof.analyze(report, tables=TABLES, folder=none))
        dsprof.analyze(report).write(folder / "tables")
        of_tables = rendered(lambda: dsprof.analyze(report, tables=TABLES, folder=folder / "tables"))
        print("| | kB | CPU s | loaded s |\n|---|--:|--:|--:|")
        for word, (text, cpu) in (("of the report", of_report), ("of its tables", of_tables)):
            page = folder / "page.html"
            page.write_text(text, encoding="utf-8")
            seconds = loaded(page)
            shown = "" if seconds is None else f"{seconds:.2f}"
            print(f"| {word} | {len(text.encode()) / 1e3:.0f} | {cpu:.2f} | {shown} |")


if __name__ == "__main__":
    main()
