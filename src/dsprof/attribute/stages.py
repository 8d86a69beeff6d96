"""Which ranges are stages, decode steps and requests, as the rules say by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import count_by
from dsprof.attribute.engines import EngineSteps, engine_steps
from dsprof.attribute.ranges import Places, RangeTree
from dsprof.ground.patterns import compiled, first_found, group_found
from dsprof.rules.rules import Rules
from dsprof.words import BATCH, NO_STAGE, REQUEST

#: The named group of a stage's pattern that says of how many sequences it is.
_BATCH_GROUP = "batch"
#: No number of sequences has more digits.
_MOST_DIGITS = 9


class StageRanges:
    """The ranges of `tree` that are stages under `rules`, and their steps; each index is made once, when asked for.

    Stages are counted in the rules' order; a stage that there is not has the code -1.
    """

    def __init__(self, tree: RangeTree, rules: Rules) -> None:
        self._tree, self._ranges, self._rules = tree, tree.ranges, rules

    # -- engines ----------------------------------------------------------------------------------------

    @cached_property
    def engine(self) -> EngineSteps:
        """The steps of serving engines: each is a stage, called by its mode, and the one step in it."""
        staged = self._by_rules >= 0
        return engine_steps(self._tree, staged & ~self._by_own_rules, staged & self._by_own_rules, self._rules.engine)

    @cached_property
    def lasting(self) -> RangeTree:
        """The ranges, those of an engine's steps until the next step begins."""
        if not len(self.engine):
            return self._tree
        end = self._ranges.end.copy()
        end[self.engine.rows] = self.engine.reach
        return self._tree.lasting(end)

    @property
    def range_end(self) -> Ints:
        """When each range itself ends; shape (ranges,)."""
        return self._ranges.end

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The stages of the rules, the modes of engines' steps that there are beside these, and none."""
        return (*dict.fromkeys((*self._rules.stages, *self.engine.modes)), NO_STAGE)

    @cached_property
    def engine_row(self) -> Ints:
        """Where in `engine` each of `rows` stands, -1 for one that is no step of an engine."""
        return self.engine_place[self.rows]

    def of_engine(self, column: Ints, missing: int = NULL) -> Ints:
        """Carry a column of `engine` over to `rows`."""
        return np.append(column, missing)[self.engine_row]

    @cached_property
    def engine_place(self) -> Ints:
        """Where in `engine` each range stands, -1 for one that is no step of an engine; and -1 more, for no range."""
        return self._place_in(self.engine.rows)

    @cached_property
    def _by_rules(self) -> Ints:
        """Code of the stage that the rules make of each range, -1 for none."""
        return self._first_matching(list(self._rules.stages.values()))

    @cached_property
    def _by_own_rules(self) -> Bools:
        """True for the ranges that are stages by a rule of the user's own."""
        usual = Rules().stages
        own = [usual.get(stage) != pattern for stage, pattern in self._rules.stages.items()]
        by_own: Bools = np.append(own, False).astype(np.bool_)[self._by_rules]
        return by_own

    @cached_property
    def _has_engine(self) -> Bools:
        """True for the ranges on threads with an engine's steps: there the usual names mean nothing."""
        has = np.zeros(len(self._tree.threads), np.bool_)
        has[self._tree.of_thread[self.engine.rows]] = True
        return has[self._tree.of_thread]

    def matching(self, pattern: str) -> Bools:
        """True for the ranges in whose name `pattern` is found; shape (ranges,). Raises `PatternTooSlow`."""
        found: Bools = self._first_matching([pattern]) == 0
        return found

    def _first_matching(self, patterns: Sequence[str]) -> Ints:
        """For each range which of the patterns is found first, in their order, in its name; -1 for none."""
        used = at.distinct(self._ranges.name.astype(np.int64))
        first = np.full(len(self._tree.names), -1, np.int64)
        first[used] = first_found(patterns, [self._tree.names[code] for code in used.tolist()])
        return first[self._ranges.name]

    def around(self, candidates: Ints, places: Places, time: Ints) -> tuple[Ints, Ints]:
        """As `RangeTree.enclosing`, as far as the rules let a stage reach."""
        return self.lasting.enclosing(candidates, places, time, self._rules.threads == "process")

    # -- stages -----------------------------------------------------------------------------------------

    @cached_property
    def of_range(self) -> Ints:
        """Code of the stage that a range itself is, -1 for a range that is none; shape (ranges,)."""
        if not len(self.engine):
            return self._by_rules
        code = np.where(self._has_engine & ~self._by_own_rules, -1, self._by_rules)
        of_mode = np.array([self.names.index(mode) for mode in self.engine.modes], np.int64)
        code[self.engine.rows] = of_mode[self.engine.mode]
        return code

    @cached_property
    def rows(self) -> Ints:
        """The ranges that are stages, by start: the rows of `stage_trace`."""
        return self._by_start(self.of_range >= 0)

    @cached_property
    def row(self) -> Ints:
        """Where in `rows` each range stands, -1 for one that is none; and -1 more, for no range."""
        return self._place_in(self.rows)

    @cached_property
    def code(self) -> Ints:
        """Code of each of `rows`."""
        return self.of_range[self.rows]

    def code_of(self, stage_range: Ints) -> Ints:
        """Stage code of a column of stage ranges; `len(names) - 1` for ``(no stage)``."""
        if not len(self._ranges):
            return np.full(len(stage_range), len(self.names) - 1, np.int64)
        return np.where(stage_range >= 0, self.of_range[stage_range], len(self.names) - 1)

    def are(self, stage: str) -> Bools:
        """True for those of `rows` that are of a stage; False throughout where the rules have none of that name."""
        names = self.names[:-1]
        chosen: Bools = self.code == (names.index(stage) if stage in names else -2)
        return chosen

    @cached_property
    def instance_of_range(self) -> Ints:
        """Ordinal of each stage range among those of its stage, from 0; -1 for the other ranges."""
        instance = np.full(len(self._ranges), -1, np.int64)
        for code in range(len(self.names) - 1):
            same = self.rows[self.code == code]
            instance[same] = np.arange(len(same))
        return instance

    @cached_property
    def tokens(self) -> Ints:
        """Tokens of each of `rows`: its decode steps where it has some, else its payload, unless it was cut; NULL.

        Of an engine's step, those that are scheduled in it, of all its requests.
        """
        said = np.where(self.cut, NULL, self._ranges.number[self.rows])
        counted = np.where(self.step_count > 0, self.step_count, said)
        return np.where(self.engine_row >= 0, self.of_engine(self.engine.tokens), counted)

    @property
    def cut(self) -> Bools:
        """True for those of `rows` that reach over the edge of the window that was selected."""
        return self._ranges.cut[self.rows]

    # -- batches ----------------------------------------------------------------------------------------

    @cached_property
    def batch_in_name(self) -> Ints:
        """The number that the group `batch` of its stage's pattern finds in the name of each of `rows`; NULL."""
        patterns = list(self._rules.stages.values())
        said = np.full(len(self._tree.names), NULL)
        if any(_BATCH_GROUP in compiled(pattern).groupindex for pattern in patterns):
            used = at.distinct(self._ranges.name[self.rows].astype(np.int64)).tolist()
            texts = group_found(patterns, [self._tree.names[code] for code in used], _BATCH_GROUP)
            said[used] = [_sequences(text) for text in texts]
        return said[self._ranges.name[self.rows]]

    @cached_property
    def batch_ranges(self) -> Ints:
        """The ranges named ``prefill.batch``, whose payload is how many sequences a request has, by start."""
        return self._by_start(self.matching(f"^{re.escape(BATCH)}$"))

    @cached_property
    def batch_in_payload(self) -> Ints:
        """The payload of the first ``prefill.batch`` in each of `rows`; NULL."""
        batches = self.batch_ranges[::-1]
        around = self.around(self.rows, self._tree.place_of(self._ranges.thread[batches]), self._ranges.start[batches])
        said = np.full(len(self.rows) + 1, NULL)
        said[self.row[around[0]]] = self._ranges.number[batches]
        return said[:-1]

    # -- steps ------------------------------------------------------------------------------------------

    @cached_property
    def steps(self) -> Ints:
        """The ranges that are steps of a decode, or of an engine, by start; a half one, which a window cut, is none."""
        chosen = self.matching(self._rules.step) & ~self._ranges.cut
        if len(self.engine):
            if self._rules.step == Rules().step:
                chosen &= ~self._has_engine
            chosen[self.engine.rows] = True
        return self._by_start(chosen)

    @cached_property
    def step_engine_row(self) -> Ints:
        """Where in `engine` each of `steps` stands, -1 for one that is no step of an engine."""
        return self.engine_place[self.steps]

    @cached_property
    def steps_are_stages(self) -> bool:
        """Is each of `steps` one of `rows`, and the other way round, as where all are an engine's?"""
        return np.array_equal(self.rows, self.steps) and np.array_equal(self.of_step, self.steps)

    @cached_property
    def step_row(self) -> Ints:
        """Where in `steps` each range stands, -1 for one that is none; and -1 more, for no range."""
        return self._place_in(self.steps)

    @cached_property
    def of_step(self) -> Ints:
        """The stage range around each of `steps`, -1 for none."""
        thread, start = self._ranges.thread[self.steps], self._ranges.start[self.steps]
        return self.around(self.rows, self._tree.place_of(thread), start)[0]

    @cached_property
    def step_count(self) -> Ints:
        """How many steps each of `rows` has."""
        return count_by(self.of_step[self.of_step >= 0], len(self._ranges))[self.rows]

    @cached_property
    def with_steps(self) -> Ints:
        """Those of `rows` that have steps."""
        return self.rows[self.step_count > 0]

    @cached_property
    def step_number(self) -> Ints:
        """Each step's payload, else its ordinal within its stage (from 1); shape of `steps`.

        Of an engine's step, the iteration in its name, else its ordinal on its thread.
        """
        owner = self.of_step
        order = np.argsort(owner, kind="stable")
        heads = np.flatnonzero(np.append(True, owner[order][1:] != owner[order][:-1])) if len(owner) else owner
        ordinal = np.empty(len(owner), np.int64)
        ordinal[order] = np.arange(len(owner)) - np.repeat(heads, np.diff(np.append(heads, len(owner)))) + 1
        payload = self._ranges.number[self.steps]
        number = np.where(payload != NULL, payload, ordinal)
        return np.where(self.step_engine_row >= 0, np.append(self.engine.number, 0)[self.step_engine_row], number)

    # -- requests ---------------------------------------------------------------------------------------

    @cached_property
    def requests(self) -> Ints:
        """The ranges named ``request``, by start, also those that were cut."""
        return self._by_start(self.matching(f"^{re.escape(REQUEST)}$"))

    def _by_start(self, chosen: Bools) -> Ints:
        rows = np.flatnonzero(chosen)
        return rows[np.argsort(self._ranges.start[rows], kind="stable")]

    def _place_in(self, rows: Ints) -> Ints:
        place = np.full(len(self._ranges) + 1, -1)
        place[rows] = np.arange(len(rows))
        return place


def _sequences(text: str | None) -> int:
    """The number that a group found, NULL where it is none."""
    return int(text) if text is not None and len(text) <= _MOST_DIGITS and text.isdecimal() else NULL
