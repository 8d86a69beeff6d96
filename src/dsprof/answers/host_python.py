"""What Python was in, by stage and thread: samples in which a function was the innermost, or anywhere in the stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np

from dsprof import arrays as at
from dsprof.answers.stages import Stages
from dsprof.arrays import Ints
from dsprof.arrays.statistics import count_by, sum_by
from dsprof.attribute.ranges import RangeTree, numbered
from dsprof.attribute.stages import StageRanges
from dsprof.measures.python_in_cuda import MAIN, PythonInCuda
from dsprof.records import frozen
from dsprof.trace import PythonSamples, pid_of

#: How many functions a verdict names.
_NAMED = 3


@frozen
class HostFunction:
    """A function that Python was in, in percent of a stage's samples outside of CUDA."""

    function: str
    share_pct: float


@frozen(eq=False)
class HostPython:
    """Samples by stage, Python thread and function, a row each: the stage's code, the thread, the function's name.

    `own`: in which it was the innermost; `outside`: those of them outside of CUDA; `held`: in which it was at all, once
    however often it calls itself; `total`: samples of the stage and thread. `steady`, by stage's code: the functions of
    the main thread's samples outside of CUDA in the steady instances, with their numbers, the most first.
    """

    stage: Ints
    thread: Ints
    name: Ints
    own: Ints
    outside: Ints
    held: Ints
    total: Ints
    steady: dict[int, tuple[tuple[int, int], ...]]

    @classmethod
    def take(
        cls, tree: RangeTree, staged: StageRanges, stages: Stages, samples: PythonSamples, in_cuda: PythonInCuda
    ) -> Self:
        """Of a report; a sample is in the stage around it on its thread, or else on any of its process."""
        main = np.where(samples.thread == MAIN, samples.process | pid_of(samples.process), samples.process)
        around = staged.lasting.enclosing(staged.rows, tree.place_of(main), samples.start, widen=True)[0]
        code, leaf = staged.code_of(around), _innermost(samples)
        known = np.flatnonzero(leaf >= 0)
        heads, group = at.group_rows(code[known], samples.thread[known])
        width = int(samples.frame_name.max(initial=0)) + 1
        key, held = _held(samples, group, known, width)
        own, outside = np.searchsorted(key, group * width + leaf[known]), ~in_cuda.inside
        of = key // width
        judged = np.append(stages.steady, False)[staged.row[around]] & outside & (samples.thread == MAIN) & (leaf >= 0)
        return cls(
            stage=code[known][heads][of],
            thread=samples.thread[known][heads][of],
            name=key % width,
            own=count_by(own, len(key)),
            outside=count_by(own[outside[known]], len(key)),
            held=held,
            total=count_by(group, len(heads))[of],
            steady={one: _most(leaf[rows[judged[rows]]]) for one, rows in at.each(code)},
        )

    def evidence(self, names: Sequence[str]) -> dict[int, tuple[HostFunction, ...]]:
        """By stage's code: what most of the samples outside of CUDA are in, in the steady instances."""
        found = {}
        for code, functions in self.steady.items():
            if samples := sum(count for _, count in functions):
                most = functions[:_NAMED]
                found[code] = tuple(HostFunction(names[name], 100 * count / samples) for name, count in most)
        return found


def _most(leaf: Ints) -> tuple[tuple[int, int], ...]:
    """The distinct values with their numbers, the most frequent first, of equals the smallest."""
    value, count = np.unique(leaf, return_counts=True)
    order = np.lexsort((value, -count))
    return tuple(zip(value[order].tolist(), count[order].tolist(), strict=True))


def _innermost(samples: PythonSamples) -> Ints:
    """The innermost function of each sample's stack; -1 for a stack without frames."""
    stack, first = np.unique(samples.frame_stack, return_index=True)
    names = np.append(samples.frame_name[first].astype(np.int64), -1)
    return names[numbered(stack, samples.stack)]


def _held(samples: PythonSamples, group: Ints, rows: Ints, width: int) -> tuple[Ints, Ints]:
    """By group and function, as ``group * width + function``: the samples `rows` that have it in their stack."""
    heads, taken = at.group_rows(group, samples.stack[rows])
    pairs = np.stack([samples.frame_stack, samples.frame_name.astype(np.int64)])
    pairs = pairs[:, at.group_rows(*pairs)[0]]
    stack = samples.stack[rows][heads]
    low, high = (np.searchsorted(pairs[0], stack, side=side) for side in ("left", "right"))
    which, place = at.explode(low, high)
    key, slot = np.unique(group[heads][which] * width + pairs[1][place], return_inverse=True)
    return key, sum_by(slot.reshape(-1), count_by(taken, len(heads))[which], len(key))
