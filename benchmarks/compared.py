"""What `dsprof diff` makes of equal runs, of planted changes, and of how many runs: from recorded runs of one program.

    python benchmarks/compared.py h100-runs.tar.xz > benchmarks/COMPARED.md
    python benchmarks/compared.py --time 400000

The archive holds folders of tables, a1 to a4 and b1 to b3, of one program on one machine. All ways to put one run or
more of a1 to a4 on two sides are compared at the default gates, as they are, with a change planted into the busy time
of each unit of one side, and with one planted into its wall time. `--time` says what a comparison of two synthetic
reports of so many kernels takes, which were analyzed before.
"""

from __future__ import annotations

import itertools
import math
import shutil
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import measure
import numpy as np
import pyarrow as pa
import reports

from dsprof.analysis.analyze import analyze
from dsprof.analysis.sides import runs_of
from dsprof.compare.gates import DEFAULTS, MEASURED, REGRESSION, TOO_NOISY, Gate, gates_of, judge_measured
from dsprof.compare.outcome import SLOWER, Outcome, compare
from dsprof.compare.recordings import Recording
from dsprof.compare.statistics import RUN_NOISE, SEEN, change, runs_to_see
from dsprof.compare.units import Run, units_of

#: What is planted, as a factor.
BUSY, WALL = 1.005, 1.10
STAGE = "decode"


class Row(NamedTuple):
    """What came of one split."""

    before: str
    after: str
    alarms: int  # regressions by the default gates, of equal runs
    busy_pct: float  # upper end of the change in busy time, equal runs
    busy_seen: bool  # the planted change of busy time was called slower, in each stage
    wall_told: str  # what the gate on wall said of the planted change
    runs: int | None  # so many runs a side would tell


def read(archive: Path, folder: Path) -> dict[str, Run]:
    """The runs of an archive by name."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    found = sorted(one for one in folder.rglob("*") if (one / "step_trace.parquet").exists())
    return {path.name: runs_of([path])[0] for path in found}


def planted(run: Run, column: str, factor: float) -> Run:
    """The same run, in which each unit took so much longer in a column of its tables."""

    def more(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(column)
        values = [None if one is None else round(one * factor) for one in table.column(column).to_pylist()]
        return table.set_column(place, table.field(place), pa.array(values, pa.int64()))

    made = []
    for one in run.recordings:
        tables = {name: one.tables[name] for name in one.tables}
        tables |= {name: more(tables[name]) for name in ("stage_trace", "step_trace")}
        made.append(Recording(one.about, tables))
    return Run(tuple(made))


def splits(count: int) -> Iterator[tuple[list[int], list[int]]]:
    """All ways to have one of so many runs or more on each of two sides."""
    for places in itertools.product((0, 1, 2), repeat=count):
        before, after = ([one for one, place in enumerate(places) if place == side] for side in (1, 2))
        if before and after:
            yield before, after


def rows(runs: Sequence[Run]) -> Iterator[Row]:
    """Every split, the smallest first."""
    gates = gates_of(["default"])
    slower = [planted(run, "gpu_busy_ns", BUSY) for run in runs]
    longer = [planted(run, "wall_ns", WALL) for run in runs]

    def outcome(before: Sequence[int], after: Sequence[int], changed: Sequence[Run]) -> Outcome:
        return compare([runs[one] for one in before], [changed[one] for one in after], gates)

    for before, after in sorted(splits(len(runs)), key=lambda split: (len(split[0]) + len(split[1]), split)):
        equal = outcome(before, after, runs)
        busy = [stage.measure("gpu_busy").verdict == SLOWER for stage in outcome(before, after, slower).stages]
        wall = next(one for one in outcome(before, after, longer).gates if (one.stage, one.measure) == (STAGE, "wall"))
        high = max(one.high_pct or 0.0 for one in equal.gates if one.measure == "gpu_busy")
        names = [", ".join(runs[one].name for one in side) for side in (before, after)]
        alarms = sum(one.result == REGRESSION for one in equal.gates)
        yield Row(*names, alarms, high, all(busy), wall.result, wall.runs)


def deviations(runs: Sequence[Run]) -> dict[tuple[str, str], tuple[float, float]]:
    """By stage and measure: how much runs differ, and how much requests of one run, deviations of logarithms."""
    found = {}
    for stage in ("prefill", STAGE):
        units = [units_of(run)[stage] for run in runs]
        for what, column in MEASURED.items():
            requests = [np.log(one.by_request(one.column(column))) for one in units]
            between = float(np.std([one.mean() for one in requests], ddof=1))
            within = math.sqrt(float(np.mean([one.var(ddof=1) for one in requests])))
            found[stage, what] = (between, within)
    return found


def power(deviation: float, runs: int, planted_pct: float, limit_pct: float, times: int = 4_000) -> Counter[str]:
    """What the gate says of made runs with a planted change, so many a side, how often."""
    random, gate, found = np.random.default_rng(5), Gate(STAGE, "wall", limit_pct), Counter[str]()
    for _ in range(times):
        sides = [
            [np.exp(random.normal(shift, deviation, 1)) for _ in range(runs)]
            for shift in (0.0, math.log1p(planted_pct / 100))
        ]
        found[judge_measured(gate, change(*sides)).result] += 1
    return found


def took(folder: Path, kernels: int) -> measure.Run:
    """What `dsprof diff` takes for two synthetic reports of so many kernels, analyzed before."""
    made, sides = reports.synthetic(folder, kernels), [folder / side / "run.sqlite" for side in ("before", "after")]
    for side in sides:
        side.parent.mkdir(exist_ok=True)
        shutil.copy(made, side)
        analyze(side).write()
    return measure.run([sys.executable, "-m", "dsprof", "diff", *map(str, sides)])


# -- the page -------------------------------------------------------------------------------------------------


def table(header: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    """A table of Markdown, numbers to the right."""
    lines = [header, ["---:" if place else "---" for place in range(len(header))], *body]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def noise_table(name: str, runs: Sequence[Run]) -> list[list[str]]:
    """How much runs and requests differ, a row for each stage and measure."""
    return [
        [name, stage, measure, f"{100 * between:.3g} %", f"{100 * within:.3g} %"]
        for (stage, measure), (between, within) in deviations(runs).items()
    ]


def summed(found: Sequence[Row], of: Callable[[Row], bool]) -> str:
    """How many splits something holds of."""
    return f"{sum(map(of, found))} of {len(found)}"


def named(runs: dict[str, Run], letter: str) -> list[Run]:
    """The runs whose names begin with a letter."""
    return [run for name, run in sorted(runs.items()) if name.startswith(letter)]


def page(runs: dict[str, Run], found: Sequence[Row]) -> str:
    """The whole page; `found`: what came of all splits of the first runs."""
    sides = {letter: named(runs, letter) for letter in "ab"}
    noise = deviations(sides["a"])[STAGE, "wall"][0]
    cells = [
        [row.before, row.after, row.alarms, f"{row.busy_pct:.2g} %", "yes" if row.busy_seen else "no", row.wall_told,
         "-" if row.runs is None else row.runs] for row in found
    ]  # fmt: skip
    limits = ", ".join(f"{measure}<{pct:g}%" for measure, pct in DEFAULTS.items())
    powers = []
    for deviation in (0.01, 0.03, noise):
        for count in (2, 3, 5, 10, 20):
            told = [power(deviation, count, pct, DEFAULTS["wall"]) for pct in (0, 2, 5, 10, 20)]
            shown = [
                f"{100 * one[REGRESSION] / one.total():.0f} / {100 * one[TOO_NOISY] / one.total():.0f}" for one in told
            ]
            powers.append([f"{100 * deviation:.3g} %", count, *shown])
    needed = [
        [
            f"{100 * deviation:.3g} %",
            *(runs_to_see(math.log1p(pct / 100), deviation) or "-" for pct in (0.5, 1, 2, 5, 10)),
        ]
        for deviation in (RUN_NOISE["gpu_busy"], 0.01, 0.03, RUN_NOISE["wall"])
    ]
    return "\n\n".join([
        "# Comparisons of equal runs, and of planted changes",
        "Made by `python benchmarks/compared.py ARCHIVE > benchmarks/COMPARED.md` from recorded runs of one program on "
        "one H100: a1 to a4 with the ranges of stages, b1 to b3 with those of layers as well. `tests/test_diff.py` "
        "makes the page again where the archive lies beside the repository.",
        "## How much equal runs differ",
        "Standard deviations of the logarithms of means: between runs, and between the requests of a run.",
        table(["runs", "stage", "measure", "between runs", "between requests"],
              [*noise_table("a1 to a4", sides["a"]), *noise_table("b1 to b3", sides["b"])]),
        "## All splits of four equal runs",
        f"At the default gates ({limits}). False alarms: {sum(row.alarms for row in found)} in {len(found)} splits. "
        f"{100 * (BUSY - 1):.3g} % planted into the busy time is called slower in "
        f"{summed(found, lambda row: row.busy_seen)}, in both stages. {100 * (WALL - 1):.3g} % planted into the wall "
        f"time is called too noisy in {summed(found, lambda row: row.wall_told == TOO_NOISY)}; the last column says "
        "how many runs a side would tell it from the gate.",
        table(["before", "after", "false alarms", "busy, at most", "busy +0.5 % seen", "wall +10 %", "runs"], cells),
        "## How many runs",
        f"Runs a side that see a change {round(100 * SEEN)} times in 100, by the noise from run to run.",
        table(["noise", "0.5 %", "1 %", "2 %", "5 %", "10 %"], needed),
        f"What the gate wall<{DEFAULTS['wall']:g}% says of made runs, in percent: regression / too noisy, by the "
        "planted change; the rest passes.",
        table(["noise", "runs a side", "0 %", "+2 %", "+5 %", "+10 %", "+20 %"], powers),
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        if sys.argv[1] == "--time":
            print(took(Path(place), int(sys.argv[2])))
            raise SystemExit
        read_runs = read(Path(sys.argv[1]), Path(place))
        print(page(read_runs, list(rows(named(read_runs, "a")))), end="")
