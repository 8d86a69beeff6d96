"""A report, spoiled by SQL or not, says one thing: whole, in parts, with compiled loops and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa

import mutations
from dsprof.analysis.analyze import Analysis, analyze
from dsprof.arrays import backend
from dsprof.errors import DsprofError
from dsprof.rules.rules import Rules
from dsprof.tables import all_tables
from fuzz import bases, oracles
from fuzz.calls import where
from fuzz.case import Case, Kind, Result
from test_parts import in_parts

PARTS = (2, 5, 13)
Tables = dict[str, pa.Table]


def choose(random: Random) -> dict[str, Any]:
    """A base, a mutation, or none now and then, and whose launches a stage has."""
    return {
        "base": random.choice(bases.SMALL),
        "mutation": random.choice([*sorted(mutations.SQL), "odd-time", "odd-value", "odd-time", ""]),
        "threads": random.choice(["thread", "process"]),
    }


def run(case: Case, folder: Path) -> Result:
    """Read it in each way; all must give the same tables, or the same refusal."""
    report, rules, result = folder / "run.sqlite", Rules(threads=case.chosen["threads"]), Result()
    if case.chosen["mutation"]:
        result.did = mutations.mutated(case.chosen["mutation"], case.seed, bases.path(case.chosen["base"]), report)
    else:
        bases.copy(case.chosen["base"], report)
    whole = _tables(lambda: _whole(report, rules, compiled=False), result)
    for way, other in _ways(report, rules):
        _hold(way, whole, _tables(other, result), result)
    result.code = whole if isinstance(whole, int) else 0
    return result


def _whole(report: Path, rules: Rules, compiled: bool) -> Analysis:
    return analyze(report, threads=rules.threads, compiled=compiled, reuse=False)


def _ways(report: Path, rules: Rules) -> Iterator[tuple[str, Callable[[], Analysis]]]:
    for parts in PARTS:
        yield f"in {parts} parts", lambda parts=parts: in_parts(report, parts, rules)
    if not backend.is_installed():
        return
    yield "compiled", lambda: _whole(report, rules, compiled=True)
    with backend.using(backend.compiled()):
        yield "compiled, in 5 parts", lambda: in_parts(report, 5, rules)


def _tables(make: Callable[[], Analysis], result: Result) -> Tables | int | None:
    """All tables; the exit code of a refusal; None where something was found already."""
    try:
        analysis = make()
        return {name: oracles.plain(analysis.arrow(name)) for name in all_tables()}
    except DsprofError as error:
        return error.exit_code
    except MemoryError as error:
        result.found("memory", repr(error))
    except Exception:
        import traceback

        result.found("traceback", where(traceback.format_exc()))
    return None


def _hold(way: str, whole: Tables | int | None, other: Tables | int | None, result: Result) -> None:
    if whole is None or other is None or whole == other:
        return
    if isinstance(whole, int) or isinstance(other, int):
        ends = (one if isinstance(one, int) else "tables" for one in (whole, other))
        result.found("wrong", f"{way}: whole and in this way it ends otherwise: {' and '.join(map(str, ends))}")
    elif different := list(oracles.differing(whole, other)):
        result.found("wrong", f"{way}: {'; '.join(different)}")


KIND = Kind("agree", 600, choose, run)
