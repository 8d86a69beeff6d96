"""What recording cost: the host's times in the report beside those of the same requests without the profiler.

Both are of the steady instances that verdicts are on; the requests of the two runs are told by their numbers.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.answers.stages import Stages
from dsprof.answers.steps import Steps
from dsprof.arrays import NULL
from dsprof.attribute.stages import StageRanges
from dsprof.model.baseline import HostTimes, PlainRun
from dsprof.records import frozen
from dsprof.rules.rules import Rules

#: What a line of a whole program has in the place of a stage.
PROGRAM = "(program)"
#: A request's times on the host in ns, recorded and plain: of one stage, or of the steps of one.
Pair = tuple[list[int], list[int]]


@frozen
class Cost:
    """What recording cost a stage (or each of its steps, or the program): medians on the host with it and without, ns.

    `compared`: so many stages or steps of either run; `ratio` is of the medians, `ratio_min` and `ratio_max` are of
    single requests; `total_ratio` is of the sums. One run of each: they are also what differs from run to run.
    """

    stage: str
    of_steps: bool
    compared: int
    recorded_ns: float
    plain_ns: float
    ratio: float
    ratio_min: float | None
    ratio_max: float | None
    total_ratio: float


@frozen
class Overhead:
    """What recording cost each stage and its steps, in the order of the stages; empty where no plain run says it."""

    costs: tuple[Cost, ...]

    @classmethod
    def take(cls, staged: StageRanges, stages: Stages, steps: Steps, rules: Rules) -> Self:
        """Of a report, with what its capture's record says of the plain run."""
        plain = rules.baseline.plain if rules.baseline is not None else None
        if plain is None or plain.problem:
            return cls(())
        requests = {one.request: one for one in plain.requests}
        by_stage, by_step = _stage_pairs(staged, stages, requests), _step_pairs(staged, stages, steps, requests)
        found = [
            _cost(stage, of_steps, list(pairs[stage].values()))
            for stage in staged.names
            for of_steps, pairs in ((False, by_stage), (True, by_step))
            if stage in pairs
        ]
        return cls(tuple(found) or _of_program(plain))


def _stage_pairs(staged: StageRanges, stages: Stages, requests: Mapping[int, HostTimes]) -> dict[str, dict[int, Pair]]:
    """By stage and request: what the steady one took in both runs, where they made as many steps."""
    found: defaultdict[str, dict[int, Pair]] = defaultdict(dict)
    steps = staged.step_count
    for row in np.flatnonzero(stages.steady & np.isin(stages.request, list(requests))).tolist():
        stage, number = staged.names[stages.code[row]], int(stages.request[row])
        plain = requests[number]
        if stage in plain.stages_ns and steps[row] in (0, len(plain.steps_ns)):
            recorded = found[stage].setdefault(number, ([0], [plain.stages_ns[stage]]))[0]
            recorded[0] += int(stages.end[row] - stages.start[row])
    return found


def _step_pairs(
    staged: StageRanges, stages: Stages, steps: Steps, requests: Mapping[int, HostTimes]
) -> dict[str, dict[int, Pair]]:
    """By stage and request: what its steady steps took in both runs, each step beside the one of its number."""
    found: defaultdict[str, dict[int, Pair]] = defaultdict(dict)
    row = staged.row[steps.stage]
    number, code = np.append(stages.request, NULL)[row], np.append(stages.code, NULL)[row]
    chosen = np.flatnonzero(steps.steady & np.isin(number, list(requests)) & (steps.number > 0))
    for _, same in at.each(at.group_rows(number[chosen], code[chosen])[1]):
        own = chosen[same]
        request = int(number[own[0]])
        times = np.array(requests[request].steps_ns, np.int64)
        own = own[steps.number[own] <= len(times)]
        if len(own):
            pair = steps.duration[own].tolist(), times[steps.number[own] - 1].tolist()
            found[staged.names[code[own[0]]]][request] = pair
    return found


def _cost(stage: str, of_steps: bool, requests: Sequence[Pair]) -> Cost:
    recorded, plain = ([time for pair in requests for time in pair[side]] for side in (0, 1))
    medians = statistics.median(recorded), statistics.median(plain)
    ratios = [statistics.median(mine) / statistics.median(theirs) for mine, theirs in requests]
    return Cost(
        stage, of_steps, len(recorded), *medians, medians[0] / medians[1], min(ratios), max(ratios),
        sum(recorded) / sum(plain),
    )  # fmt: skip


def _of_program(plain: PlainRun) -> tuple[Cost, ...]:
    """Of a program that told nothing of its stages: the time from its start to its end."""
    recorded, without = plain.recorded_program_ns, plain.program_ns
    if recorded is None or without is None:
        return ()
    ratio = recorded / without
    return (Cost(PROGRAM, False, 1, float(recorded), float(without), ratio, None, None, ratio),)
