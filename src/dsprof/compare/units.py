"""The units of a stage that are compared: its steady steps, or its steady instances where it has no steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from attrs import evolve, field

from dsprof import arrays as at
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import Floats
from dsprof.compare.recordings import OPERATIONS, SEQUENCE, About, Recording
from dsprof.ground.columns import integers, texts, truths
from dsprof.records import frozen
from dsprof.words import NO_STAGE

#: Steps of an engine belong to no request of their own: so many equal stretches of a run stand for these, at most, each
#: of so many steps, at least.
STRETCHES, LEAST_STEPS = 8, 4
STEP, INSTANCE = "step", "instance"
#: What the GPU is busy with, and how long of that it waits for another rank, which is no work.
BUSY, WAITED = "gpu_busy_ns", "wait_ns"


@frozen(eq=False)
class Run:
    """A run of a program: its recording, or those of its ranks."""

    recordings: tuple[Recording, ...]

    @property
    def about(self) -> About:
        """Of its first recording."""
        return self.recordings[0].about

    @property
    def name(self) -> str:
        """As it is called."""
        more = len(self.recordings) - 1
        return f"{self.about.name} and {more} more ranks" if more > 1 else self.about.name + " and another rank" * more


@frozen(eq=False)
class Operations:
    """Operations of a stage's units by name, a row each; `unit` is the row of its unit."""

    names: tuple[str, ...]
    families: tuple[str, ...]
    unit: Ints
    name: Ints
    instances: Ints
    total: Ints


@frozen(eq=False)
class Units:
    """The units of a stage in one run, a row each.

    `of`: ``step`` or ``instance``; `columns`: those of their table, NULL for what is missing; `group`: the request that
    each is of, over all ranks, or the stretch of an engine's steps; `key`: instance and step; `operations`
    is None where the recording does not tell them by unit, `sequence` the names of one unit's operations in order.
    """

    stage: str
    of: str
    stretches: bool
    number: Ints
    group: Ints
    steady: at.Bools
    key: tuple[Ints, Ints]
    columns: Mapping[str, Ints]
    operations: Operations | None = None
    sequence: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.number)

    def column(self, name: str) -> Ints:
        """A column; NULL throughout where there is none."""
        return self.columns.get(name, np.full(len(self), NULL))

    def known(self, name: str) -> bool:
        """Has every unit a value of it?"""
        return name in self.columns and not (self.columns[name] == NULL).any()

    @property
    def weight(self) -> Floats:
        """How much each unit counts in a mean of the run: requests count alike, and the units of a request."""
        _, request = at.group_rows(self.group)
        size = np.bincount(request)
        weight: Floats = 1 / (size[request] * len(size))
        return weight

    def mean(self, name: str) -> float:
        """The mean of a column: of its requests, each the mean of its units."""
        return self.mean_of(self.column(name))

    def mean_of(self, values: Ints) -> float:
        """The same of some values, one for each unit."""
        return float(self.by_request(values).mean())

    def by_request(self, values: Ints) -> Floats:
        """The mean of some values, one for each unit, by request."""
        _, request = at.group_rows(self.group)
        found: Floats = np.bincount(request, values) / np.bincount(request)
        return found

    def keep(self, rows: at.Bools) -> Units:
        """Some of them."""
        place = np.cumsum(rows) - 1
        operations = self.operations
        if operations is not None:
            there = rows[operations.unit]
            operations = evolve(
                operations, unit=place[operations.unit[there]], name=operations.name[there],
                instances=operations.instances[there], total=operations.total[there],
            )  # fmt: skip
        return evolve(
            self, number=self.number[rows], group=self.group[rows], steady=self.steady[rows],
            key=(self.key[0][rows], self.key[1][rows]),
            columns={name: values[rows] for name, values in self.columns.items()}, operations=operations,
        )  # fmt: skip


def units_of(run: Run) -> dict[str, Units]:
    """All units of a run by stage, those of its ranks together."""
    found: dict[str, list[Units]] = {}
    for recording in run.recordings:
        for units in _of_recording(recording):
            found.setdefault(units.stage, []).append(units)
    return {stage: _together(ranks) for stage, ranks in found.items() if len({one.of for one in ranks}) == 1}


def _of_recording(recording: Recording) -> Iterable[Units]:
    instances, steps = recording.table("stage_trace"), recording.table("step_trace")
    assert instances is not None and steps is not None  # noqa: S101 - no recording is without them
    ordinal = _ordinals(instances)
    with_steps = _units(steps, STEP, ordinal)
    stages = {one.stage for one in with_steps}
    alone = [one for one in _units(instances, INSTANCE, ordinal) if one.stage not in stages]
    operations, sequence = recording.table(OPERATIONS.name), recording.table(SEQUENCE.name)
    for units in (*alone, *with_steps):
        yield evolve(units, operations=_operations(units, operations), sequence=_sequence(units.stage, sequence))


def _ordinals(stage_trace: pa.Table) -> dict[tuple[str, int], int]:
    """By stage and instance: which it is of its stage in its process."""
    code, stages = texts(stage_trace, "stage")
    instance, pid = integers(stage_trace, "instance"), integers(stage_trace, "pid")
    found: dict[tuple[str, int], int] = {}
    for _, rows in at.each(at.group_rows(code, pid)[1]):
        for place, row in enumerate(rows[np.argsort(instance[rows], kind="stable")].tolist()):
            found[stages[code[row]], int(instance[row])] = place
    return found


def _units(table: pa.Table, of: str, ordinal: Mapping[tuple[str, int], int]) -> list[Units]:
    """Those of a table of steps or instances, by stage."""
    code, stages = texts(table, "stage")
    instance, number = integers(table, "instance"), integers(table, of)
    engine = texts(table, "engine")[0] if of == STEP else np.full(len(table), -1)
    columns = {name: integers(table, name) for name in table.column_names if pa.types.is_int64(table.field(name).type)}
    steady, pid, found = truths(table, "steady", absent=True), integers(table, "pid"), list[Units]()
    for place, stage in enumerate(stages):
        rows = np.flatnonzero((code == place) & (number != NULL) & (instance != NULL))
        if stage == NO_STAGE or not len(rows):
            continue
        of_engine = bool((engine[rows] >= 0).any())
        group = (
            _stretches(pid[rows], columns["start_ns"][rows]) if of_engine
            else np.array([ordinal.get((stage, one), one) for one in instance[rows].tolist()], np.int64)
        )  # fmt: skip
        step = number[rows] if of == STEP else np.full(len(rows), NULL)
        found.append(
            Units(stage, of, of_engine, step, group, steady[rows], (instance[rows], step),
                  {name: values[rows] for name, values in columns.items()})
        )  # fmt: skip
    return found


def _stretches(pid: Ints, start: Ints) -> Ints:
    """In which stretch of its process's steps each is."""
    found = np.zeros(len(pid), np.int64)
    for _, rows in at.each(pid):
        stretches = min(STRETCHES, max(len(rows) // LEAST_STEPS, 1))
        found[rows[np.argsort(start[rows], kind="stable")]] = np.arange(len(rows)) * stretches // len(rows)
    return found


def _operations(units: Units, table: pa.Table | None) -> Operations | None:
    """The operations of a stage's units, of the table of all stages."""
    if table is None:
        return None
    code, stages = texts(table, "stage")
    name, names = texts(table, "name")
    if units.stage not in stages:
        return None
    rows = np.flatnonzero(code == stages.index(units.stage))
    step = integers(table, "step")[rows] if units.of == STEP else np.full(len(rows), NULL)
    instance, count = integers(table, "instance")[rows], len(units)
    _, number = at.group_rows(np.append(units.key[0], instance), np.append(units.key[1], step))
    unit_of = np.full(int(number.max()) + 1 if len(number) else 0, -1)
    unit_of[number[:count]] = np.arange(count)
    unit = unit_of[number[count:]]
    rows, unit = rows[unit >= 0], unit[unit >= 0]
    family, families = texts(table, "family")
    of_name = np.full(len(names), -1)
    of_name[name] = family
    known = tuple(families[one] if one >= 0 else "" for one in of_name.tolist())
    return Operations(
        names, known, unit, name[rows], integers(table, "instances")[rows], integers(table, "total_ns")[rows]
    )


def _sequence(stage: str, table: pa.Table | None) -> tuple[str, ...]:
    if table is None:
        return ()
    code, stages = texts(table, "stage")
    name, names = texts(table, "name")
    if stage not in stages:
        return ()
    return tuple(names[one] for one in name[code == stages.index(stage)].tolist())


def _together(ranks: Sequence[Units]) -> Units:
    """The units of all ranks as those of one run."""
    first = ranks[0]
    if len(ranks) == 1:
        return first
    names = [name for name in first.columns if all(name in one.columns for one in ranks)]
    return evolve(
        first,
        number=np.concatenate([one.number for one in ranks]),
        group=np.concatenate([one.group for one in ranks]),
        steady=np.concatenate([one.steady for one in ranks]),
        key=(np.concatenate([one.key[0] for one in ranks]), np.concatenate([one.key[1] for one in ranks])),
        columns={name: np.concatenate([one.columns[name] for one in ranks]) for name in names},
        operations=_operations_together(ranks),
    )


def _operations_together(ranks: Sequence[Units]) -> Operations | None:
    parts = [one.operations for one in ranks]
    if any(part is None for part in parts):
        return None
    known = [part for part in parts if part is not None]
    slots: dict[str, int] = {}
    families: list[str] = []
    codes, units, offset = list[Ints](), list[Ints](), 0
    for one, part in zip(ranks, known, strict=True):
        slot = []
        for name, family in zip(part.names, part.families, strict=True):
            if name not in slots:
                slots[name] = len(slots)
                families.append(family)
            slot.append(slots[name])
        codes.append(np.array(slot, np.int64)[part.name])
        units.append(part.unit + offset)
        offset += len(one)
    return Operations(
        tuple(slots), tuple(families), np.concatenate(units), np.concatenate(codes),
        np.concatenate([part.instances for part in known]), np.concatenate([part.total for part in known]),
    )  # fmt: skip


@frozen(eq=False)
class Sides:
    """A stage on both sides: the units that are compared, by run; `left_out`: why others are not."""

    stage: str
    before: tuple[Units, ...]
    after: tuple[Units, ...]
    left_out: tuple[str, ...] = field(default=())

    @property
    def of(self) -> str:
        """What the units are."""
        return self.before[0].of

    @property
    def runs(self) -> tuple[Units, ...]:
        """Of both sides."""
        return (*self.before, *self.after)


def _working(units: Units) -> Units:
    """The units, whose GPU is busy only while it does not wait for another rank."""
    return evolve(units, columns={**units.columns, BUSY: units.column(BUSY) - units.column(WAITED)})


def matched(before: Sequence[Units], after: Sequence[Units]) -> Sides:
    """The steady units of both sides; of steps with numbers those that every run has, as context grows with them."""
    stage, said = before[0].stage, list[str]()
    sides = [[one.keep(one.steady) for one in side] for side in (before, after)]
    runs = [one for side in sides for one in side]
    if all(one.of == STEP and not one.stretches and len(one) for one in runs):
        common = set(runs[0].number.tolist()).intersection(*(one.number.tolist() for one in runs[1:]))
        most = max(len(np.unique(one.number)) for one in runs)
        if len(common) < most:
            said.append(
                f"{stage}: the {len(common)} step numbers that all runs have are compared, of {most} that one has."
            )
        wanted = np.array(sorted(common), np.int64)
        sides = [[one.keep(np.isin(one.number, wanted)) for one in side] for side in sides]
    if all(one.known(WAITED) for side in sides for one in side):
        sides = [[_working(one) for one in side] for side in sides]
    return Sides(stage, tuple(sides[0]), tuple(sides[1]), tuple(said))
