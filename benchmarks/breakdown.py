"""Where the time of `dsprof analyze` goes: imports, reading, each table, each Parquet file; CPU and peak memory.

usage: python benchmarks/breakdown.py [FILE | --kernels N] [--functions [N]] [--imports N]

Each line is what a stage took in a fresh process that goes through the same stages as the command does. What tables
share (attribution) is made when the first of them asks for it, and stands with that one: `--functions` tells it apart.
Named breakdown and not profile, because Python's own `cProfile` would find a `profile.py` beside the script first.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

_IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class Stage(NamedTuple):
    """What one stage took."""

    name: str
    cpu_s: float
    peak_bytes: int  # of the process during the stage


class Stages:
    """A list of stages; each begins where the one before it ended."""

    def __init__(self) -> None:
        self.done: list[Stage] = []
        self._begin = 0.0
        self._name = ""

    def begin(self, name: str) -> None:
        """End the stage that is open, if any, and begin the next."""
        now = time.process_time()
        if self._name:
            self.done.append(Stage(self._name, now - self._begin, _peak()))
        _forget_peak()
        self._name, self._begin = name, time.process_time()

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        """One stage around a block."""
        self.begin(name)
        yield
        self.end()

    def end(self) -> None:
        """End the stage that is open."""
        self.begin("")


def _peak() -> int:
    """Bytes: the highest resident memory since `_forget_peak`."""
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    return int(found.group(1)) * 1024 if found else 0


def _forget_peak() -> None:
    """Let the peak begin anew at what is resident now (proc(5), clear_refs)."""
    _CLEAR.write_text("5")


def stages_of(report: Path) -> list[Stage]:
    """Go through an analysis of `report` in this process."""
    stages = Stages()
    stages.done.append(Stage("start of Python", time.process_time(), _peak()))
    with stages.within("imports of dsprof.analysis"):
        from dsprof.analysis import analyze, write_parquet
    stages.begin("opening")
    analysis = analyze(report, progress=stages.begin)
    stages.end()
    with tempfile.TemporaryDirectory(prefix="dsprof-breakdown-") as folder:
        for name in analysis:
            with stages.within(f"table {name}"):
                table = analysis.arrow(name)
            with stages.within(f"Parquet {name}"):
                write_parquet(table, Path(folder, f"{name}.parquet"))
    with stages.within("findings"):
        _ = analysis.findings
    with stages.within("summary"):
        analysis.summary()
    return stages.done


def functions_of(report: Path, count: int) -> str:
    """By cProfile: what takes the most CPU time by itself, and the steps of attribution with all that they call."""
    import cProfile
    import io
    import pstats

    from dsprof.analysis import analyze

    def work(folder: Path) -> None:
        analysis = analyze(report)
        analysis.write(folder)
        analysis.summary()

    profile, text = cProfile.Profile(time.process_time), io.StringIO()
    with tempfile.TemporaryDirectory(prefix="dsprof-breakdown-") as folder:
        profile.runcall(work, Path(folder))
    found = pstats.Stats(profile, stream=text).strip_dirs()
    found.sort_stats("tottime").print_stats(count)
    found.sort_stats("cumtime").print_stats("attribut|accounting", count)
    return re.sub(r"\n{3,}", "\n\n", text.getvalue())


# -- imports ------------------------------------------------------------------------------------------------


def imports(report: Path) -> dict[str, float]:
    """Milliseconds that the whole command spends in the imports of each package, by itself, the slowest first."""
    with tempfile.TemporaryDirectory(prefix="dsprof-breakdown-") as folder:
        command = [sys.executable, "-X", "importtime", "-m", "dsprof", "analyze", str(report), "--out", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    spent: dict[str, float] = defaultdict(float)
    for own_us, module in _IMPORTED.findall(done.stderr):
        spent[module.partition(".")[0]] += int(own_us) / 1000
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


# -- what it says -------------------------------------------------------------------------------------------


def stages_table(stages: list[Stage], whole_cpu_s: float, whole_peak: int) -> str:
    """A line per stage, with its share of what the stages take together, and the whole command for comparison."""
    together = sum(stage.cpu_s for stage in stages)
    lines = ["| stage | CPU s | share | peak MB |", "|---|---:|---:|---:|"]
    for name, cpu, peak in stages:
        lines.append(f"| {name} | {cpu:.3f} | {100 * cpu / together:.1f} % | {peak / 1e6:,.0f} |")
    lines.append(f"| together | {together:.3f} | 100.0 % | {max(stage.peak_bytes for stage in stages) / 1e6:,.0f} |")
    lines.append(f"| `dsprof analyze`, the whole command | {whole_cpu_s:.3f} | | {whole_peak / 1e6:,.0f} |")
    return "\n".join(lines)


def imports_table(spent: dict[str, float], count: int) -> str:
    """The slowest packages, and all others as one line."""
    lines = ["| imports of the command | wall ms |", "|---|---:|"]
    ordered = list(spent.items())
    lines += [f"| {package} | {took:.1f} |" for package, took in ordered[:count]]
    lines.append(f"| {max(len(ordered) - count, 0)} others | {sum(took for _, took in ordered[count:]):.1f} |")
    lines.append(f"| together | {sum(spent.values()):.1f} |")
    return "\n".join(lines)


def inner(action: str, report: Path) -> str:
    """What this script says when a process of its own is to do `action`."""
    command = [sys.executable, __file__, "--inner", action, str(report)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def whole_command(report: Path) -> tuple[float, int]:
    """CPU seconds and peak memory of ``dsprof analyze``."""
    from measure import run

    with tempfile.TemporaryDirectory(prefix="dsprof-breakdown-") as folder:
        took = run([sys.executable, "-m", "dsprof", "analyze", str(report), "--out", folder])
    return took.cpu_s, took.peak_bytes


def chosen_report(options: argparse.Namespace) -> Path:
    """The report that is given, or a synthetic one."""
    if options.report:
        return Path(options.report)
    from reports import synthetic, usual_folder

    return synthetic(options.folder or usual_folder(), options.kernels)


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Say where the time of dsprof analyze goes.")
    parser.add_argument("report", type=Path, nargs="?", help="a report; a synthetic one otherwise")
    parser.add_argument("--kernels", type=int, default=1_000_000, help="kernels of the synthetic report")
    parser.add_argument("--folder", type=Path, help="where synthetic reports are kept")
    parser.add_argument("--imports", type=int, default=12, help="packages to name")
    parser.add_argument("--functions", type=int, nargs="?", const=30, default=0, help="functions to name, none unless "
                        "given")  # fmt: skip
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inner == "stages":
        print(json.dumps(stages_of(options.report)))
        return
    if options.inner:
        print(functions_of(options.report, int(options.inner)))
        return
    report = chosen_report(options)
    steps: list[Callable[[], str]] = [
        lambda: stages_table([Stage(*one) for one in json.loads(inner("stages", report))], *whole_command(report)),
        lambda: imports_table(imports(report), options.imports),
    ]
    if options.functions:
        steps.append(lambda: inner(str(options.functions), report))
    print(f"{report.name}, {report.stat().st_size / 1e6:,.0f} MB")
    for step in steps:
        print(f"\n{step()}", flush=True)


if __name__ == "__main__":
    main()
