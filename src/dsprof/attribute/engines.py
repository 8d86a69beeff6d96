"""The steps of serving engines: which of a report's ranges they are, on which threads, and how far each one reaches.

::

    ranges   |== step 1 ==|           |== step 2 ==|     |= step 3 =|
    host     | launches   | sampling  |            |     |          |
    reach    |------- step 1 --------|-----step 2 ------|- step 3 --|        until the next one's begin

An engine samples, and some compute the logits, after the range of a step: what is launched until the next one begins
belongs to it. Of the last step of a thread no more than its range is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints
from dsprof.attribute.ranges import RangeTree
from dsprof.records import frozen
from dsprof.rules.engines import NONE, PLAIN, all_engines
from dsprof.rules.engines._engine import Engine, Form, Step, guess, in_order
from dsprof.words import DECODE, PREFILL

#: What a step may be taken for by the CUDA graphs that it launches, and how many of these a decode launches at most.
_GUESSED, _FEW_GRAPHS = (guess(PREFILL), guess(DECODE)), 3
#: The numbers that a step's name may hold.
COUNTS = Step._fields[1:]


class Worker(NamedTuple):
    """A thread that runs an engine's steps, which have names of one form; `title`: whose steps they are."""

    thread: int
    engine: Engine
    form: Form
    title: str


@frozen(eq=False)
class EngineSteps:
    """The steps of engines in a report, by range: empty where no thread has any.

    `rows`: their ranges, by thread and start; `worker`: place of each one's in `workers`; `mode`: place of its mode in
    `modes`; `reach`: until when what its thread launches is its own; `next`: when the next one of its thread begins,
    NULL after the last; `counts`: what their names say, by `COUNTS`, NULL where one does not.
    """

    workers: tuple[Worker, ...]
    modes: tuple[str, ...]
    rows: Ints
    worker: Ints
    mode: Ints
    reach: Ints
    next: Ints
    counts: dict[str, Ints]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def tokens(self) -> Ints:
        """Tokens scheduled in each step, for generation at least one a request; NULL where they are not known."""
        generated = self.counts["generation_tokens"]
        least = np.where(generated != NULL, generated, self.counts["generation_requests"])
        return _both(self.counts["context_tokens"], least)

    @property
    def requests(self) -> Ints:
        """Requests in each step, which is the size of its batch; NULL where they are not known."""
        return _both(self.counts["context_requests"], self.counts["generation_requests"])

    @property
    def number(self) -> Ints:
        """Iteration of each step as its name says it, else its ordinal on its thread, from 1."""
        ordinal = np.arange(len(self)) - np.searchsorted(self.worker, self.worker) + 1
        return np.where(self.counts["iteration"] != NULL, self.counts["iteration"], ordinal)


def engine_steps(tree: RangeTree, plain: Bools, named: Bools, wanted: str | None) -> EngineSteps:
    """The steps of the engine that each thread has most ranges of.

    `plain`: the ranges that the usual rules make a stage, which count as those of the engine ``plain``; `named`: those
    that the user's own rules do, which are no engine's; `wanted`: the engine that is asked for, or ``none``.
    """
    engines = [engine for name, engine in all_engines().items() if engine.forms and wanted in (None, name)]
    used = [tree.names[code] for code in at.distinct(tree.ranges.name.astype(np.int64)).tolist()]
    forms = [(engine, form) for engine in engines for form in engine.forms if wanted or form.may_be(used)]
    if wanted in (PLAIN, NONE) or not len(tree.ranges):
        return _steps(tree, np.zeros(0, np.int64), [], np.zeros(0, np.int64), [], np.zeros(0, np.int64))
    form_of_name, said = _read(tree, [form for _, form in forms])
    form_of_range = form_of_name[tree.ranges.name]
    rows = np.flatnonzero((form_of_range >= 0) & ~named & ~tree.ranges.of_process)
    usual = np.bincount(tree.of_thread[plain], minlength=len(tree.threads)) if wanted is None else None
    workers: list[Worker] = []
    of_thread = np.full((len(tree.threads), 2), -1)
    for thread, form in _chosen(tree.of_thread[rows], form_of_range[rows], [engine.name for engine, _ in forms], usual):
        of_thread[thread] = len(workers), form
        workers.append(_worker(tree, rows, thread, *forms[form]))
    mine = rows[of_thread[tree.of_thread[rows], 1] == form_of_range[rows]]
    worker = of_thread[tree.of_thread[mine], 0]
    kept = _side_by_side(tree, mine, np.array([one.form.innermost for one in workers], np.bool_)[worker])
    mine, worker = mine[kept], worker[kept]
    order = np.lexsort((tree.ranges.start[mine], worker))
    return _steps(tree, mine[order], workers, worker[order], said, form_of_name)


def _both(one: Ints, other: Ints) -> Ints:
    """Two counts together, NULL where one is not known."""
    return np.where((one == NULL) | (other == NULL), NULL, one + other)


def _worker(tree: RangeTree, rows: Ints, thread: int, engine: Engine, form: Form) -> Worker:
    """A thread with an engine, or with another that names its steps as it does."""
    first = rows[np.argmax(tree.of_thread[rows] == thread)]
    title = engine.others.get(tree.names[tree.ranges.domain[first]], engine.title)
    return Worker(int(tree.threads[thread]), engine, form, title)


def _read(tree: RangeTree, forms: Sequence[Form]) -> tuple[Ints, list[Step]]:
    """Of each name the form that it has, -1 for none; and what each name that is used says, an empty step for none."""
    form, said = np.full(len(tree.names), -1), [Step()] * len(tree.names)
    first = tuple({begin for one in forms for begin in one.begins})
    for code in at.distinct(tree.ranges.name.astype(np.int64)).tolist():
        text = tree.names[code]
        if not text.startswith(first):
            continue
        for place, one in enumerate(forms):
            if (step := one.read(text)) is not None:
                form[code], said[code] = place, step
                break
    return form, said


def _chosen(thread: Ints, form: Ints, engine: Sequence[str], usual: Ints | None) -> Iterator[tuple[int, int]]:
    """The form of each thread's steps: the first that it has of the engine that it has most of, unless it is plain."""
    for number, rows in at.each(thread):
        hits: dict[str, int] = {}
        counted = np.bincount(form[rows], minlength=len(engine)).tolist()
        for name, count in zip(engine, counted, strict=True):
            hits[name] = hits.get(name, 0) + count
        best = max(hits, key=lambda name: hits[name])
        if usual is None or usual[number] < hits[best]:
            yield number, next(place for place, count in enumerate(counted) if count and engine[place] == best)


def _side_by_side(tree: RangeTree, rows: Ints, inner: Bools) -> Bools:
    """Of steps inside each other only the outermost; of those with `inner` only the innermost."""
    ranges = tree.ranges
    outer = at.containers(tree.of_thread[rows], ranges.start[rows], ranges.end[rows])
    holds = np.zeros(len(rows), np.bool_)
    holds[outer[outer >= 0]] = True
    return np.where(inner, ~holds, outer < 0)


def _steps(
    tree: RangeTree, rows: Ints, workers: Sequence[Worker], worker: Ints, said: Sequence[Step], form_of_name: Ints
) -> EngineSteps:
    """The steps in these rows, which are by worker and start."""
    ranges, name = tree.ranges, tree.ranges.name[rows].astype(np.int64)
    used = at.distinct(name)
    told = _by_graphs(tree, rows, workers, worker)
    guesses = {_GUESSED[code] for code in at.distinct(told[told >= 0]).tolist()}
    modes = in_order({said[code].mode for code in at.distinct(name[told < 0]).tolist()} | guesses)
    mode, column = np.zeros(len(tree.names), np.int64), np.full((len(COUNTS), len(tree.names)), NULL)
    mode[used] = [modes.index(said[code].mode) if said[code].mode in modes else 0 for code in used.tolist()]
    of_guess = np.array([modes.index(guess) if guess in modes else 0 for guess in _GUESSED])
    mode_of = np.where(told >= 0, of_guess[told], mode[name])
    column[:, used] = np.array([said[code][1:] for code in used.tolist()], np.int64).reshape(-1, len(COUNTS)).T
    start = ranges.start[rows]
    same = worker[1:] == worker[:-1]
    following = np.append(np.where(same, start[1:], NULL), np.full(min(len(rows), 1), NULL))
    reach = np.where(following != NULL, following, ranges.end[rows])
    whole = ~ranges.cut[rows]  # by the window that was selected
    return EngineSteps(
        workers=tuple(workers),
        modes=modes,
        rows=rows[whole],
        worker=worker[whole],
        mode=mode_of[whole],
        reach=reach[whole],
        next=following[whole],
        counts={count: column[place][name[whole]] for place, count in enumerate(COUNTS)},
    )


def _by_graphs(tree: RangeTree, rows: Ints, workers: Sequence[Worker], worker: Ints) -> Ints:
    """What each step is taken for, as a place in `_GUESSED`, by the CUDA graphs that it launches; -1 for nothing.

    So it is where its engine says what it is, and where its thread launches no graph in any step.
    """
    ranges, launches = tree.ranges, tree.graph_launches
    told = np.full(len(rows), -1)
    asked = np.flatnonzero(np.array([one.form.by_graphs for one in workers], np.bool_)[worker])
    if not len(asked) or not len(launches.start):
        return told
    scope, of_launch = tree.of_thread[rows[asked]], tree.place_of(launches.thread).thread
    start, end = ranges.start[rows[asked]], ranges.end[rows[asked]]
    keys = at.Keys(len(tree.threads) + 1, launches.start, start, end)
    ordered = np.sort(keys.pack(of_launch, launches.start))
    count = np.searchsorted(ordered, keys.pack(scope, end)) - np.searchsorted(ordered, keys.pack(scope, start))
    some = np.zeros(len(workers), np.bool_)
    some[worker[asked[count > 0]]] = True
    found = np.where((count > 0) & (count <= _FEW_GRAPHS), 1, 0)
    told[asked] = np.where(some[worker[asked]], found, -1)
    return told
