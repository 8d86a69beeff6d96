"""Facts are made from what their makers name; measures and tables can be sent away, and measures merge by name."""

from __future__ import annotations

import pickle
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dsprof.analysis.analyze import Analysis
from dsprof.analysis.work import WholeReport, Work
from dsprof.attribute.launches import Launches
from dsprof.facts import Facts, Measure, arguments_of, measures_behind
from dsprof.measures.by_name import CallsByStage, HostTimeOfStages, KernelsByStage
from dsprof.nsys.locate import locate
from dsprof.nsys.parts import ReportInParts
from dsprof.nsys.reader import read
from dsprof.rules.rules import Rules
from dsprof.tables import all_tables
from dsprof.tables._table import EventTable, Table
from dsprof.tables.stage_stream_sum import Streams
from dsprof.trace import Trace
from trace_builder import TraceBuilder

SAMPLES = Path(__file__).parents[1] / "traces" / "samples"
TABLES = [table for table in all_tables().values() if not isinstance(table, EventTable)]


def all_measures() -> list[type[Measure]]:
    return list(dict.fromkeys(kind for table in TABLES for kind in table.measures))


@pytest.fixture(scope="module")
def sample() -> Path:
    return locate(SAMPLES / "h200-graphs-node.sqlite.xz")[1].path


def work_on(path: Path, parts: int = 1, rules: Rules | None = None) -> Work:
    source = WholeReport(read(path)) if parts == 1 else ReportInParts(path, parts)
    work = Work(source, rules or Rules(), {})
    work.measure(all_measures())
    return work


def same(one: Any, other: Any) -> bool:
    """Are two values the same, arrays and all that holds them looked into?"""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if hasattr(one, "__attrs_attrs__"):
        return type(one) is type(other) and all(
            same(getattr(one, field.name), getattr(other, field.name)) for field in one.__attrs_attrs__
        )
    return bool(one == other)


# -- what is made from what ------------------------------------------------------------------------------------


class Sum:
    """A fact that is made from two others, and counts how often."""

    made = 0

    def __init__(self, value: float) -> None:
        self.value = value

    @classmethod
    def take(cls, one: int, other: float) -> Sum:
        cls.made += 1
        return cls(one + other)


def test_a_fact_is_made_once_from_what_it_names() -> None:
    facts = Facts(3, 2.5)
    assert facts[Sum] is facts[Sum]
    assert (facts[Sum].value, Sum.made) == (5.5, 1)


def test_what_is_not_known_is_refused_and_not_empty() -> None:
    with pytest.raises(LookupError, match="Trace is not known here: whatever needs it must be a measure"):
        Facts()[Launches]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_no_table_of_sums_sees_a_part(table: Table) -> None:
    """A report in parts has no launches of its own: a table would be empty there."""

    def reaches(make: Any) -> set[type]:
        found = set(arguments_of(make).values())
        deeper = [kind for kind in found if hasattr(kind, "take") and not issubclass(kind, Measure)]
        return found.union(*(reaches(kind.take) for kind in deeper))

    assert not reaches(table.build) & {Trace, Launches}


def test_a_table_that_sees_a_part_is_refused(sample: Path) -> None:
    def build(launches: Launches) -> dict[str, Any]:
        return {}

    build.__annotations__["launches"] = Launches
    with pytest.raises(LookupError, match="Trace is not known here"):
        Table("wrong", "a row", (), build).arrow(work_on(sample).facts)


def test_measures_are_found_through_answers() -> None:
    assert KernelsByStage in measures_behind(all_tables()["stage_kern_sum"].build)
    assert {kind.__name__ for kind in all_tables()["request_trace"].measures} == {
        "CallsByStage",
        "ColdCalls",
        "AfterRange",
        "FirstLaunches",
        "StageTotals",
        "Collectives",
        "HostInCalls",
        "RankProgress",
        "RankWork",
        "StageWork",
    }
    assert {kind.__name__ for kind in all_tables()["step_trace"].measures} >= {"StageTotals", "StepTotals", "Accounts"}


# -- sent away -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", all_tables())
def test_tables_can_be_pickled(name: str) -> None:
    table = all_tables()[name]
    assert pickle.loads(pickle.dumps(table)) == table


def test_measures_can_be_pickled_and_tables_are_made_of_them_elsewhere(sample: Path) -> None:
    work = work_on(sample)
    for kind in all_measures():
        sent = pickle.loads(pickle.dumps(work.facts[kind]))
        assert same(sent, work.facts[kind]), kind
        work.facts.add(sent)
    there = Analysis.of(read(sample))
    for table in TABLES:
        assert table.arrow(work.facts).equals(there.arrow(table.name)), table.name


@pytest.mark.parametrize("kind", all_measures(), ids=lambda kind: kind.__name__)
def test_each_measure_of_parts_adds_up(kind: type[Measure], sample: Path) -> None:
    """Also in another grouping, and from pickles, as other processes send them."""
    work, found = work_on(sample, 5), []
    for trace in work._source.parts():
        found.append(pickle.loads(pickle.dumps(Facts(trace, *work._shared)[kind])))
    assert len(found) > 2
    one = reduce(lambda mine, theirs: mine.merge(theirs), found)
    other = found[0].merge(reduce(lambda mine, theirs: mine.merge(theirs), found[1:]))
    assert same(one, other)
    assert same(one, work.facts[kind])


# -- of several reports ----------------------------------------------------------------------------------------


def made(path: Path, kernels: dict[str, int], stages: tuple[str, ...], strange: str) -> Path:
    """A report whose names have other codes than those of the other one."""
    report = TraceBuilder("2023.4.4")
    report.string(strange)
    for number, stage in enumerate(stages):
        low = 1000 * number
        report.range(stage, low, low + 500)
        for place, (name, times) in enumerate(kernels.items()):
            for again in range(times):
                at = low + 20 * (10 * place + again)
                report.kernel(name, at=(at + 3, at + 7 + again + place), call=(at, at + 2))
    report.kernel("alone", at=(9_003, 9_010), call=(9_000, 9_001))
    return report.write(path)


@pytest.mark.parametrize("kind", [KernelsByStage, CallsByStage, HostTimeOfStages, Streams])
def test_measures_of_two_reports_merge_by_name(kind: type[Measure], tmp_path: Path) -> None:
    one = made(tmp_path / "one.sqlite", {"gemm": 2, "copy": 1}, ("decode", "prefill"), "aaa")
    other = made(tmp_path / "other.sqlite", {"copy": 2, "other": 1, "gemm": 1}, ("prefill", "vision"), "zzz")
    rules = (Rules(), Rules({**Rules().stages, "vision": "^vision$"}))
    works = [work_on(path, rules=rule) for path, rule in zip((one, other), rules, strict=True)]
    both = [work.facts[kind] for work in works]
    for first, second in (both, both[::-1]):
        assert told(first.merge(second)) == told(first) + told(second)


def told(measure: Any) -> pd.Series:
    """What a measure says, by the words for it."""
    if isinstance(measure, Streams):
        columns = {**measure.columns, "stage": np.array(measure.stages)[measure.columns["stage"]]}
        keys, value = ("stage", "stream_id"), columns["gpu_ops"]
        rows = zip(*(columns[key].tolist() for key in keys), value.tolist(), strict=True)
    elif isinstance(measure, HostTimeOfStages):
        stage, name = np.divmod(measure.spent.group, len(measure.names))
        rows = zip(named(measure.stages, stage), named(measure.names, name), measure.spent.total.tolist(), strict=True)
    else:
        places = named(measure.stages, measure.stage), named(measure.names, measure.name)
        values = (f"{value}" for value in measure.durations.value.tolist())
        rows = zip(*places, values, measure.durations.times.tolist(), strict=True)
    return Told({tuple(row[:-1]): row[-1] for row in rows})


def named(words: tuple[str, ...], codes: np.ndarray) -> list[str]:
    return [words[code] for code in codes.tolist()]


class Told(dict):
    """Numbers by words, which can be added."""

    def __add__(self, other: Told) -> Told:
        return Told({key: self.get(key, 0) + other.get(key, 0) for key in {**self, **other}})
