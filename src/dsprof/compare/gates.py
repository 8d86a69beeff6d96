"""Gates: how much slower something may be, ``decode.gpu_busy<1%``, and whether the runs at hand tell that it is not."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from dsprof.compare.statistics import RUN_NOISE, Change, percent_of, runs_to_see, widened
from dsprof.records import frozen

#: What a gate can be on: by statistics, or exactly, as counts are.
MEASURED = {"gpu_busy": "gpu_busy_ns", "wall": "wall_ns"}
COUNTED = {"launches": "launches", "kernels": "kernels", "graph_launches": "graph_launches", "operations": "gpu_ops"}
#: The gates that stand for the word ``default``, in percent.
DEFAULTS = {"gpu_busy": 1.0, "wall": 5.0}
DEFAULT = "default"
#: A gate is no looser.
_MOST_PCT = 1e6
_GATE = re.compile(r"(?:(?P<stage>.+)\.)?(?P<measure>[a-z_]+)\s*<\s*(?P<pct>\d+(?:\.\d+)?)\s*%")

PASSED, REGRESSION, TOO_NOISY, NOT_COMPARABLE = "passed", "regression", "too noisy", "not comparable"


@frozen
class Gate:
    """A gate: by how much `measure` may grow in `stage`, in every stage where that is empty."""

    stage: str
    measure: str
    limit_pct: float

    @property
    def text(self) -> str:
        """As it is written."""
        return f"{self.stage + '.' if self.stage else ''}{self.measure}<{self.limit_pct:g}%"

    @property
    def limit(self) -> float:
        """The limit as a logarithm."""
        return math.log1p(self.limit_pct / 100)

    def of(self, stage: str) -> Gate:
        """The same of one stage."""
        return Gate(self.stage or stage, self.measure, self.limit_pct)


@frozen
class GateResult:
    """What became of a gate in a stage; `runs`: so many a side would tell, None where none that is advised does."""

    gate: str
    stage: str
    measure: str
    limit_pct: float
    result: str
    sentence: str
    change_pct: float | None = None
    high_pct: float | None = None
    runs: int | None = None


def gates_of(texts: Iterable[str]) -> tuple[Gate, ...]:
    """The gates that texts say, ``default`` among them. Raises ValueError for what is none."""
    found = list[Gate]()
    for text in texts:
        usual = [Gate("", measure, pct) for measure, pct in DEFAULTS.items()]
        found += usual if text.strip() == DEFAULT else [gate_of(text)]
    return tuple(dict.fromkeys(found))


def gate_of(text: str) -> Gate:
    """The gate that a text says. Raises ValueError for what is none."""
    said = _GATE.fullmatch(text.strip())
    known = (*MEASURED, *COUNTED)
    if said is None:
        raise ValueError(f"'{text[:80]}' is no gate like decode.gpu_busy<1%.")
    if said["measure"] not in known:
        raise ValueError(f"'{text[:80]}' is a gate on what is not measured: there is {', '.join(known)}.")
    pct = float(said["pct"])
    if pct > _MOST_PCT:
        raise ValueError(f"'{text[:80]}' is a gate of more percent than there can be.")
    return Gate(said["stage"] or "", said["measure"], pct)


def judge_measured(gate: Gate, found: Change | None) -> GateResult:
    """A gate on what has noise.

    A regression: the interval is above 0, and the change at the gate or beyond it. Passed: the interval's upper end is
    within the gate. Else the runs are too noisy, or too few, to tell.
    """
    about = (gate.text, gate.stage, gate.measure, gate.limit_pct)
    what = f"{gate.measure} of {gate.stage}"
    if found is None:
        return GateResult(*about, NOT_COMPARABLE, f"{what} is not there on both sides.")
    noise = RUN_NOISE[gate.measure]
    told = widened(found, noise)
    pct, low, high = (percent_of(one) for one in (found.log, told.low, told.high))
    if pct is None or low is None or high is None:
        runs = runs_to_see(gate.limit, noise)
        sentence = f"{what}: of one request a side no noise is known.{_advice(runs)}"
        return GateResult(*about, TOO_NOISY, sentence, pct, None, runs)
    if low > 0 and found.log >= gate.limit:
        sentence = f"{what} grew by {_pct(pct)} %, {_pct(low)} % at least."
        return GateResult(*about, REGRESSION, sentence, pct, high)
    if told.high is not None and told.high <= gate.limit:
        sentence = f"{what} did not grow by more than {_pct(high)} %."
        sentence = sentence if high >= 0 else f"{what} shrank by {_pct(-high)} % at least."
        return GateResult(*about, PASSED, sentence, pct, high)
    runs = runs_to_see(gate.limit, told.deviation or 0.0)
    why = "" if found.over == "run" else f" ({noise_taken(gate.measure)})"
    sentence = f"{what} may have grown by {_pct(high)} %, more than the gate allows{why}.{_advice(runs)}"
    return GateResult(*about, TOO_NOISY, sentence, pct, high, runs)


def noise_taken(measure: str) -> str:
    """What is taken for granted where too few runs tell it."""
    return f"the noise from run to run is taken to be {100 * RUN_NOISE[measure]:g} %"


def _pct(value: float) -> str:
    """Percent with three digits, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 1e3 else f"{value:.3g}"


def _advice(runs: int | None) -> str:
    if runs is None:
        return " No number of runs that can be advised would tell: a quieter machine might."
    return f" About {runs} runs a side would tell."


def judge_counted(gate: Gate, before: float, after: float) -> GateResult:
    """A gate on what is counted exactly."""
    pct = 100 * (after / before - 1) if before else None if after else 0.0
    over = after > before and (pct is None or pct >= gate.limit_pct)
    sentence = f"{gate.measure} of {gate.stage}: {before:g} before, {after:g} after."
    return GateResult(
        gate.text, gate.stage, gate.measure, gate.limit_pct, REGRESSION if over else PASSED, sentence, pct, pct
    )


def exit_code(results: Sequence[GateResult]) -> int:
    """What a comparison ends with by its gates: 1 for a regression, else 3 where one could not be judged, else 0."""
    kinds = {one.result for one in results}
    return 1 if REGRESSION in kinds else 3 if kinds & {TOO_NOISY, NOT_COMPARABLE} else 0
