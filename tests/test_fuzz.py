"""The fuzzer's corpus, and a short fixed part of its run, of which `make fuzz` is the rest; and that it does find."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from dsprof.nsys.cache import cache_folder
from fuzz import bases, hostile, oracles, pool, shown
from fuzz.__main__ import cases_of, corpus, options
from fuzz.calls import Ended, inside, judge
from fuzz.case import FAULTS, Case, Result, read_case
from fuzz.kinds import all_kinds
from fuzz.pool import Ran, run_all
from fuzz.report import Counts

#: Cases of each kind that are run here: about a minute in all.
CASES = {"bytes": 60, "sql": 60, "names": 60, "documents": 60, "options": 40, "agree": 6, "views": 12}
PROGRAMS = {"pairs": 2, "rewrites": 2, "kills": 3, "exports": 1, "programs": 2, "memory": 1}
#: Recipes of the corpus, and kinds, that are known to fail, until what they found is mended.
KNOWN: frozenset[str] = frozenset()


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the reports that cases begin with."""
    folder = tmp_path_factory.mktemp("fuzz")
    bases.prepare(folder / "reports")
    return folder


def found(cases: list[Case], work: Path) -> str:
    """What is found in some cases, a line for each; also that what a case is about did not happen."""
    return "\n".join(
        f"{case.name} {json.dumps(case.chosen)}: {said[:300]!r}"
        for case, result in run_all(cases, work / "reports", work, workers=1)
        for said in [
            *(f"{fault.what}: {fault.said}" for fault in result.faults),
            *(["dsprof was not disturbed"] if result.disturbed is False else []),
        ]
    )


def assert_nothing(cases: list[Case], work: Path) -> None:
    """A fault is there each time; what a busy machine's slowness does to a kill or a race is not."""
    if found(cases, work) and (said := found(cases, work)):
        pytest.fail(said, pytrace=False)


def skip_known(name: str) -> None:
    if name in KNOWN:
        pytest.skip("known to fail")


@pytest.mark.parametrize("kind", [*CASES, *PROGRAMS])
def test_nothing_is_found_in_fixed_cases(kind: str, work: Path) -> None:
    skip_known(kind)
    given = options(["--only", kind, "--cases", str({**CASES, **PROGRAMS}[kind]), "--seed", "7"])
    cases = [case for case in cases_of(given) if case.seed // 1_000_000 == 7]
    assert len(cases) == {**CASES, **PROGRAMS}[kind]
    assert_nothing(cases, work)


def test_nothing_is_found_again_that_once_was(work: Path) -> None:
    recipes = [path for path in corpus() if path.stem not in KNOWN]
    assert recipes
    assert_nothing([read_case(path) for path in recipes], work)


def test_every_kind_is_run_here() -> None:
    assert {*CASES, *PROGRAMS} == set(all_kinds())
    assert {kind.name for kind in all_kinds().values() if kind.programs} == set(PROGRAMS)
    assert sum(kind.cases for kind in all_kinds().values()) >= 20_000


# -- the fuzzer finds what there is to find -----------------------------------------------------------------


@pytest.mark.parametrize("kind", all_kinds())
def test_a_case_is_the_same_each_time(kind: str, tmp_path: Path) -> None:
    one, other = (all_kinds()[kind].case(3_000_001) for _ in range(2))
    assert one == other == read_case(one.write(tmp_path / "case.json"))
    assert one.random("x").random() == other.random("x").random() != one.random("y").random()
    assert any(all_kinds()[kind].case(seed).chosen != one.chosen for seed in range(20))


def test_an_error_of_the_fuzzer_is_found_too_and_the_run_goes_on(work: Path) -> None:
    unlikely = [Case("bytes", 1, {"base": "made", "mutation": "no such mutation", "action": "analyze"})] * 2
    said = found(unlikely, work).splitlines()
    assert len(said) == 2
    assert all("in the fuzzer" in one for one in said)


@pytest.fixture
def worker(work: Path) -> Iterator[pool._Worker]:
    """A process with a case to run."""
    begun = pool._Worker(work / "reports", work)
    begun.give(all_kinds()["bytes"].case(1))
    yield begun
    begun.end()


def test_a_case_that_ends_its_process_is_found(worker: pool._Worker) -> None:
    os.kill(worker.process.pid or 0, signal.SIGKILL)
    (fault,) = worker.take().faults
    assert fault.what == "traceback"
    assert "ended with -9" in fault.said
    assert worker.is_worn


def test_a_case_without_an_end_is_ended(worker: pool._Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.overdue() is None
    monkeypatch.setattr(pool, "WALL_LIMIT_S", 0)
    result = worker.overdue()
    assert result is not None
    assert [fault.what for fault in result.faults] == ["slow"]
    assert worker.is_worn
    assert not worker.process.is_alive()


@pytest.mark.parametrize(
    ("ended", "what"),
    [
        (Ended(1, b"", "Traceback (most recent call last)\n  File \"x\"\nValueError: x"), "traceback"),
        (Ended(1, b"", "", "Traceback\n  File \"/x/dsprof/stats.py\", line 3, in f\nMemoryError"), "memory"),
        (Ended(99, b"", "dsprof: a sentence.\n"), "traceback"),
        (Ended(7, b"", ""), "traceback"),
        (Ended(-11, b"", ""), "traceback"),
        (Ended(0, b"", "", cpu_s=21), "slow"),
        (Ended(-9, b"", "", late=True), "slow"),
        (Ended(0, b"", "x.py:1: RuntimeWarning: overflow"), "wrong"),
        (Ended(7, b"", "dsprof: It is damaged.\n        Copy it again.\n"), None),
        (Ended(0, b"", ""), None),
    ],
)  # fmt: skip
def test_what_no_call_may_do(ended: Ended, what: str | None) -> None:
    result = Result()
    judge(ended, result)
    assert [fault.what for fault in result.faults] == ([what] if what else [])


def test_a_case_sees_nothing_of_the_user_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPROF_CACHE", str(tmp_path / "user"))
    with inside(tmp_path):
        assert cache_folder().is_relative_to(tmp_path / "home")
    assert cache_folder() == tmp_path / "user"


def test_a_wrong_total_is_found(work: Path) -> None:
    tables = dict(bases.expected("made").tables)
    counted = oracles.recount(bases.path("made"))
    assert None not in counted.values()
    assert not list(oracles.unlike(tables, counted))
    for name in ("kern_sum", "stage_kern_sum", "kern_trace", "range_trace", "mem_sum"):
        assert list(oracles.unlike({**tables, name: tables[name].slice(1)}, counted)), name


def test_sql_counts_nothing_where_a_time_is_odd(work: Path, tmp_path: Path) -> None:
    report = bases.copy("made", tmp_path / "odd.sqlite")
    with closing(sqlite3.connect(report, isolation_level=None)) as sql:
        sql.execute('UPDATE CUPTI_ACTIVITY_KIND_KERNEL SET "end" = start - 1 WHERE rowid = 1')
    counted = oracles.recount(report)
    assert counted["kernels"] is None
    assert counted["ranges"] is not None


def test_a_negative_duration_is_found_and_a_moment_is_none() -> None:
    table = pa.table({"total_ns": [1, -1], "start_ns": [-5, 0], "instances": [1, 2]})
    assert list(oracles.negative({"kern_sum": table})) == ["kern_sum.total_ns is -1"]


def test_values_of_two_tables_are_compared_with_what_is_missing() -> None:
    nan = float("nan")
    one = pa.table({"a": [1.0, nan, None]})
    assert oracles.same(one, pa.table({"a": [1.0, nan, None]}))
    for other in ([1.0, nan, 2.0], [1.0, 2.0, None], [1.5, nan, None], [1.0, None, None], [1.0, nan]):
        assert not oracles.same(one, pa.table({"a": other}))


def test_tables_of_two_rules_are_nobody_s(work: Path) -> None:
    candidates = {rules: bases.expected("h200-two-processes", rules) for rules in bases.RULES}
    for rules, one in candidates.items():
        assert shown.whose(candidates, one.tables, one.summary) == [rules]
        other = next(candidates[name] for name in candidates if name != rules)
        assert not shown.whose(candidates, one.tables, other.summary)
        assert not shown.whose(candidates, {**one.tables, "stage_sum": other.tables["stage_sum"]})


def test_results_that_are_not_all_there_are_found(work: Path, tmp_path: Path) -> None:
    candidates = {"usual": bases.expected("made")}
    for whole, what in ((True, ["left"]), (False, [])):
        result = Result()
        shown.check_tables(tmp_path, candidates, result, "after both", whole=whole)
        assert [fault.what for fault in result.faults] == what


@pytest.mark.parametrize(("task", "at"), [("chosen", 999), ("scrub", 999), ("table", 999), ("analyze", None)])
def test_a_kill_takes_place_whenever_it_was_drawn(task: str, at: int | None, work: Path) -> None:
    chosen = {"base": "h200-graph-node", "task": task, "rules": ["usual", "steps"], "at": at, "after": 5, "times": 1}
    ((_, result),) = run_all([Case("kills", 1, chosen)], work / "reports", work, workers=1)
    assert result.disturbed
    assert not result.faults


@pytest.mark.parametrize(
    ("look", "harmless", "harmful"),
    [
        (hostile.obeyed, "one\ntwo\tthree é 中 e\u0301", ["\x1b[2J", "\x9b2J", "a\rb", "\x7f", "\u202e", "a\x00"]),
        (hostile.csv_trouble, "a,b\n'=1,-2\n\"x\ny\",+3\n", ["a\n=1\n", "a\n\"\t=1\"\n", "a,b\n1\n", "a\n-x\n"]),
        (hostile.markdown_trouble, "| a | b |\n| - | - |\n| `<x>` \\| \\<b> | 1 < 2 |", ["<b>", "| a |\n| a | b |"]),
    ],
)  # fmt: skip
def test_what_is_harmful_in_an_output(look, harmless: str, harmful: list[str]) -> None:
    assert not list(look(harmless))
    for one in harmful:
        assert list(look(one)), one


def test_counts_and_recipes_of_failures(tmp_path: Path) -> None:
    counts = Counts(tmp_path)
    good, refused, bad = (all_kinds()["bytes"].case(seed) for seed in range(3))
    counts.add(Ran(good, Result()))
    counts.add(Ran(refused, Result(7)))
    failed = Result()
    failed.found("wrong", "x")
    failed.found("wrong", "y")
    counts.add(Ran(bad, failed))
    for happened in (True, True, False):
        counts.add(Ran(all_kinds()["kills"].case(1), Result(disturbed=happened)))
    document = json.loads(counts.write().read_text())
    assert document["found"] == 1
    assert document["kinds"]["bytes"]["refused"] == {"7": 1}
    assert document["kinds"]["bytes"]["faults"] == {**dict.fromkeys(FAULTS, 0), "wrong": 1}
    assert document["kinds"]["bytes"]["disturbed"] is None
    assert document["kinds"]["kills"]["disturbed"] == 2
    assert [line.split()[1:4] for line in counts.text().splitlines()[1:4]] == [
        ["3", "1", "1"],
        ["3", "3", "0"],
        ["6", "4", "1"],
    ]
    assert counts.markdown().splitlines()[3].endswith("| 2 |")
    assert counts.markdown().splitlines()[2].startswith("| bytes | 3 | 1 | 1 | 0 |")
    (recipe,) = tmp_path.glob("bytes-*.json")
    assert read_case(recipe) == bad
    assert str(recipe) in document["failures"][0]["replay"]
    assert list(cases_of(options(["--replay", str(recipe)]))) == [bad]
