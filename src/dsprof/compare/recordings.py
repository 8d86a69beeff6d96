"""What is compared of one report: what it says of itself, and its tables; those of events are made small first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from attrs import field

from dsprof import arrays as at
from dsprof.arrays import NULL, Ints
from dsprof.facts import Facts
from dsprof.ground.columns import integers, texts
from dsprof.records import frozen
from dsprof.tables._table import CodedText, Table, integer, name
from dsprof.words import NO_STAGE

#: The tables that a comparison reads as they are, those of them that it cannot do without, and those of events.
KEPT = ("stage_trace", "step_trace", "stage_api_sum", "layer_sum")
NEEDED = ("stage_trace", "step_trace")
EVENTS = ("kern_trace", "mem_trace", "range_trace")
#: How operations on memory are called in place of a kernel family.
COPIES, SETS = "memory copies", "memory sets"


@frozen
class About:
    """What a recording says of itself, as far as it tells whether two can be compared; empty where it is not known.

    `rank`: the number in its file's name; `config`: of the model that ran; `ranges`: by stage, NVTX ranges that begin
    within a step, or within an instance of a stage without steps.
    """

    name: str
    sha256: str = ""
    gpus: tuple[str, ...] = ()
    driver: str = ""
    nsys: str = ""
    dsprof: str = ""
    graph_mode: str = ""
    selection: str = ""
    rules: str = ""
    began_ns: int | None = None
    duration_ns: int = 0
    rank: int | None = None
    config: dict[str, Any] = field(factory=dict)
    dtype: str = ""
    ranges: dict[str, float] = field(factory=dict)
    findings: tuple[str, ...] = ()


#: The columns without which a table of steps or stages says nothing.
_LEAST = ("instance", "pid", "start_ns", "end_ns", "wall_ns", "gpu_busy_ns")


@frozen(eq=False)
class Recording:
    """One report: `about` it, and its tables by name, which may be read when they are asked for."""

    about: About
    tables: Mapping[str, pa.Table]

    def table(self, name: str) -> pa.Table | None:
        """A table; None where the recording has it not."""
        return self.tables.get(name)

    def check(self) -> Recording:
        """Itself. Raises ValueError where its tables are not such as dsprof writes."""
        for table in NEEDED:
            types = {one.name: one.type for one in self.tables[table].schema}
            stage = types.get("stage", pa.null())
            if not (pa.types.is_string(stage) or pa.types.is_dictionary(stage)):
                raise ValueError(f"{table} has no column of stages")
            if wrong := [column for column in _LEAST if types.get(column) != pa.int64()]:
                raise ValueError(f"{table} has no numbers in {', '.join(wrong)}")
        return self


# -- tables of events made small ----------------------------------------------------------------------------------


@frozen(eq=False)
class UnitOperations:
    """Operations of one name in one unit of a stage, a row each; `names` and `families` are those of the codes."""

    stages: tuple[str, ...]
    names: tuple[str, ...]
    families: tuple[str, ...]
    stage: Ints
    instance: Ints
    step: Ints
    name: Ints
    instances: Ints
    total: Ints


@frozen(eq=False)
class UnitSequence:
    """The operations of one usual unit of each stage, a row each in the order of their start."""

    stages: tuple[str, ...]
    names: tuple[str, ...]
    stage: Ints
    name: Ints


def _sums(found: UnitOperations) -> dict[str, Any]:
    return {
        "stage": CodedText(found.stage, found.stages),
        "instance": found.instance,
        "step": found.step,
        "name": CodedText(found.name, found.names),
        "family": CodedText(found.name, found.families),
        "instances": found.instances,
        "total_ns": found.total,
    }


def _order(found: UnitSequence) -> dict[str, Any]:
    return {"stage": CodedText(found.stage, found.stages), "name": CodedText(found.name, found.names)}


OPERATIONS = Table(
    "unit_op_sum",
    "a step, or an instance of a stage, x the name of an operation",
    (
        name("stage", "The stage."),
        integer("instance", "Which of its stage."),
        integer("step", "The step's number; missing between the steps, and where there are none.", True),
        name("name", "The kernel, or the kind of copy."),
        name("family", "Its family."),
        integer("instances", "Number of operations."),
        integer("total_ns", "Sum of their durations."),
    ),
    _sums,
)
SEQUENCE = Table(
    "unit_op_trace",
    "an operation of one usual step, or instance, of a stage, in order",
    (name("stage", "The stage."), name("name", "The kernel, or the kind of copy.")),
    _order,
)


def operation_tables(kern_trace: pa.Table, mem_trace: pa.Table | None) -> dict[str, pa.Table]:
    """Both, of all operations that are in a stage."""
    found = _All.of(kern_trace, mem_trace)
    head, unit = at.group_rows(found.stage, found.instance, found.step)
    first, row = at.group_rows(unit, found.name)
    duration = np.bincount(row, found.duration, len(first)).astype(np.int64)
    sums = UnitOperations(
        found.stages, found.names, found.families, found.stage[first], found.instance[first], found.step[first],
        found.name[first], np.bincount(row, minlength=len(first)), duration,
    )  # fmt: skip
    busy = np.bincount(unit, found.duration, len(head)).astype(np.int64)
    usual = _usual(found.stage[head], np.bincount(unit, minlength=len(head)), busy)
    rows = np.flatnonzero(np.isin(unit, usual))
    rows = rows[np.lexsort((found.name[rows], found.start[rows], found.stage[rows]))]
    order = UnitSequence(found.stages, found.names, found.stage[rows], found.name[rows])
    return {OPERATIONS.name: OPERATIONS.arrow(Facts(sums)), SEQUENCE.name: SEQUENCE.arrow(Facts(order))}


def _usual(stage: Ints, count: Ints, busy: Ints) -> Ints:
    """Of each stage the unit that has the usual number of operations and then took most nearly the usual time."""
    found = []
    for _, rows in at.each(stage):
        off = np.abs(count[rows] - int(np.median(count[rows])))
        alike = rows[off == off.min()]
        found.append(int(alike[np.argmin(np.abs(busy[alike] - int(np.median(busy[alike]))))]))
    return np.array(found, np.int64)


@frozen(eq=False)
class _All:
    """Kernels, then copies and sets, of all stages: a row each."""

    stages: tuple[str, ...]
    names: tuple[str, ...]
    families: tuple[str, ...]
    stage: Ints
    instance: Ints
    step: Ints
    name: Ints
    start: Ints
    duration: Ints

    @classmethod
    def of(cls, kern_trace: pa.Table, mem_trace: pa.Table | None) -> _All:
        """Of both tables; the names of copies and sets come after those of kernels."""
        stages: dict[str, int] = {}
        tables = [(kern_trace, "kernel")] + ([(mem_trace, "kind")] if mem_trace is not None else [])
        names, families, columns = list[str](), list[str](), list[list[Ints]]()
        for table, named in tables:
            code, texts_ = texts(table, named)
            family = _families(table, code, texts_) if named == "kernel" else [_kind(text) for text in texts_]
            stage_code, of_stage = texts(table, "stage")
            slot = np.array([stages.setdefault(one, len(stages)) for one in of_stage], np.int64)
            instance = integers(table, "stage_instance")
            rows = np.flatnonzero((instance != NULL) & (stage_code >= 0) & (code >= 0))
            columns.append(
                [
                    slot[stage_code[rows]],
                    instance[rows],
                    integers(table, "step")[rows],
                    code[rows] + len(names),
                    integers(table, "start_ns")[rows],
                    integers(table, "duration_ns")[rows],
                ]
            )
            names += texts_
            families += family
        return cls(tuple(stages), tuple(names), tuple(families), *map(np.concatenate, zip(*columns, strict=True)))


def _families(kern_trace: pa.Table, code: Ints, kernels: tuple[str, ...]) -> list[str]:
    """The family of each kernel's name."""
    family, families = texts(kern_trace, "family")
    of = np.full(len(kernels), -1)
    of[code] = family
    return [families[one] if one >= 0 else "" for one in of.tolist()]


def _kind(kind: str) -> str:
    return SETS if "set" in kind.lower() else COPIES


def ranges_by_stage(range_trace: pa.Table, stage_trace: pa.Table, step_trace: pa.Table) -> dict[str, float]:
    """By stage, how many NVTX ranges begin within a step, itself left out; within an instance where it has no steps."""
    begun, found = np.sort(integers(range_trace, "start_ns")), dict[str, float]()
    for table, of in ((stage_trace, "instance"), (step_trace, "step")):  # steps take the place of instances
        code, stages = texts(table, "stage")
        start, end = integers(table, "start_ns"), integers(table, "end_ns")
        there = (integers(table, of) != NULL) & (start != NULL) & (end != NULL)
        inside = np.searchsorted(begun, end) - np.searchsorted(begun, start, "right")
        for place, rows in at.each(np.where(there, code, -1)):
            if place >= 0 and stages[place] != NO_STAGE:
                found[stages[place]] = float(inside[rows].mean())
    return found
