"""Where the time of `dsprof analyze` goes: imports, reading, each table, each Parquet file; CPU and peak memory.

usage: python benchmarks/breakdown.py [FILE | --kernels N] [--fast] [--functions [N]] [--imports N]

Each line is what a stage took in a fresh process that goes through the same stages as the command does. What tables
share (attribution) is made when the first of them asks for it, and stands with that one: `--functions` tells it apart.
The tables of a report in parts are made together, so there a line is what a measure, an index or the like took by
itself, without those that it asks for, in one thread; and the peak is that of all of them.
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
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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


def stages_of(report: Path, compiled: bool) -> list[Stage]:
    """Go through an analysis of `report` in this process."""
    from dsprof.nsys.parts import size_of

    if size_of(report).plan(None).parts > 1:
        return own_time(report, compiled)
    stages = Stages()
    stages.done.append(Stage("start of Python", time.process_time(), _peak()))
    with stages.within("imports of dsprof.analysis"):
        from dsprof.analysis.analyze import analyze
        from dsprof.analysis.parquet import write_parquet
    stages.begin("opening")
    analysis = analyze(report, compiled=compiled, reuse=False, progress=stages.begin)
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


class OwnTime:
    """CPU seconds of functions by themselves, without those among them that they call."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._open: list[tuple[str, float]] = []

    def watch(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose time counts for `name`."""

        def watched(*arguments: Any, **named: Any) -> Any:
            self._pause()
            self._open.append((name, time.process_time()))
            try:
                return function(*arguments, **named)
            finally:
                self._pause()
                self._open.pop()
                if self._open:
                    self._open[-1] = (self._open[-1][0], time.process_time())

        return watched

    def _pause(self) -> None:
        if self._open:
            name, begin = self._open[-1]
            self.spent[name] += time.process_time() - begin

    def watch_member(self, owner: Any, name: str, stage: str) -> None:
        """Watch a function where the others find it."""
        setattr(owner, name, self.watch(stage, getattr(owner, name)))


def _at_once(self: Any, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """In place of what gives work to threads, so that the time of each stage is its own."""
    done: Future[Any] = Future()
    done.set_result(work(*arguments))
    return done


def own_time(report: Path, compiled: bool) -> list[Stage]:
    """The same for a report in parts, whose tables are made together: what takes time by itself, the most first."""
    from functools import cached_property

    from dsprof.analysis import analyze, parquet, results
    from dsprof.arrays import backend
    from dsprof.attribute import launches, ranges, stages
    from dsprof.facts import Facts, Measure, MergeTree
    from dsprof.nsys import inputs, pages, parts, sound
    from dsprof.tables import _table as table

    start, own = time.process_time(), OwnTime()
    backend.Workers.submit = _at_once  # type: ignore[method-assign]
    for kind in (launches.Launches, ranges.RangeTree, stages.StageRanges):
        for name, member in vars(kind).items():
            if isinstance(member, cached_property):
                member.func = own.watch(f"index {name}", member.func)
    call = Facts.call

    def watched(self: Facts, make: Any, **given: Any) -> Any:
        of = getattr(make, "__self__", None)
        if not (isinstance(of, type) and issubclass(of, Measure)):
            return call(self, make, **given)
        return own.watch(f"measure {of.__name__}", call)(self, make, **given)

    Facts.call = watched  # type: ignore[method-assign]
    pieces = table.EventTable.pieces
    table.EventTable.pieces = own.watch("rows of events", lambda *arguments: list(pieces(*arguments)))
    for owner, name, stage in [
        (pages.PageTable, "read", "reading pages"), (inputs, "sha256_of", "hashing"),
        (sound, "check_file", "checking the file"), (parts, "ranges_of", "ranges"),
        (parts, "Survey", "looking where to cut"), (parts.ReportInParts, "_part", "columns of parts"),
        (MergeTree, "add", "merging"), (MergeTree, "whole", "merging"),
        (parquet.RowsInFile, "put", "writing events"), (results, "write_parquet", "writing tables"),
    ]:  # fmt: skip
        own.watch_member(owner, name, stage)
    with tempfile.TemporaryDirectory(prefix="dsprof-breakdown-") as folder:
        own.watch("all else", lambda: analyze.analyze(report, compiled=compiled, reuse=False).write(folder))()
    found = sorted(own.spent.items(), key=lambda item: -item[1])
    few = [(name, cpu) for name, cpu in found if cpu * 1000 >= sum(own.spent.values())]
    few.append((f"{len(found) - len(few)} others", sum(cpu for _, cpu in found[len(few) :])))
    return [Stage(name, cpu, _peak()) for name, cpu in [("start of Python and imports", start), *few]]


def functions_of(report: Path, compiled: bool, count: int) -> str:
    """By cProfile: what takes the most CPU time by itself, and the steps of attribution with all that they call."""
    import cProfile
    import io
    import pstats

    from dsprof.analysis.analyze import analyze

    def work(folder: Path) -> None:
        analysis = analyze(report, compiled=compiled, reuse=False)
        analysis.write(folder)
        analysis.summary()

    profile, text = cProfile.Profile(time.process_time), io.StringIO()
    with tempfile.TemporaryDirectory(prefix="dsprof-breakdown-") as folder:
        profile.runcall(work, Path(folder))
    found = pstats.Stats(profile, stream=text).strip_dirs()
    found.sort_stats("tottime").print_stats(count)
    found.sort_stats("cumtime").print_stats(r"(launches|ranges|stages|accounting)\.py", count)
    return re.sub(r"\n{3,}", "\n\n", text.getvalue())


# -- imports ------------------------------------------------------------------------------------------------


def imports(report: Path, loops: str) -> dict[str, float]:
    """Milliseconds that the whole command spends in the imports of each package, by itself, the slowest first."""
    from measure import as_installed

    with tempfile.TemporaryDirectory(prefix="dsprof-breakdown-") as folder:
        command = [sys.executable, "-X", "importtime", "-m", "dsprof", "analyze", str(report), loops, "--out", folder]
        for _ in range(2):  # the first time compiles
            done = subprocess.run([*command, "--again"], capture_output=True, text=True, check=True, env=as_installed())
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


def inner(action: str, report: Path, loops: str) -> str:
    """What this script says when a process of its own is to do `action`."""
    command = [sys.executable, __file__, "--inner", action, loops, str(report)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def stages_in_process(report: Path, loops: str) -> list[Stage]:
    """The stages of an analysis in a process of its own."""
    return [Stage(*one) for one in json.loads(inner("stages", report, loops))]


def whole_command(report: Path, loops: str) -> tuple[float, int]:
    """CPU seconds and peak memory of ``dsprof analyze``."""
    from measure import run

    with tempfile.TemporaryDirectory(prefix="dsprof-breakdown-") as folder:
        took = run([sys.executable, "-m", "dsprof", "analyze", str(report), loops, "--out", folder])
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
    parser.add_argument("--fast", action=argparse.BooleanOptionalAction, default=False, help="with compiled loops")
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inner == "stages":
        print(json.dumps(stages_of(options.report, options.fast)))
        return
    if options.inner:
        print(functions_of(options.report, options.fast, int(options.inner)))
        return
    report, loops = chosen_report(options), "--fast" if options.fast else "--no-fast"
    steps: list[Callable[[], str]] = [
        lambda: stages_table(stages_in_process(report, loops), *whole_command(report, loops)),
        lambda: imports_table(imports(report, loops), options.imports),
    ]
    if options.functions:
        steps.append(lambda: inner(str(options.functions), report, loops))
    print(f"{report.name}, {report.stat().st_size / 1e6:,.0f} MB")
    for step in steps:
        print(f"\n{step()}", flush=True)


if __name__ == "__main__":
    main()
