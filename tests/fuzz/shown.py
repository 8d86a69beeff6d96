"""Whose results are shown: of which report, under which rules; and what lies about afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dsprof.tables import all_tables
from fuzz import oracles
from fuzz.bases import Expected
from fuzz.calls import Ended
from fuzz.case import Result

#: What a program may leave when it is killed, and the next one takes away.
_LEFT = re.compile(r"partial|writing|making|scrubbing|\.tmp|^tmp|^dsprof-|^\.")
#: Files that are nobody's waste: a lock may stay, as it says nothing.
_MAY_STAY = re.compile(r"lock|^\.cache$|^\.gitignore$|^tmp$|^home$")


def whose(candidates: Mapping[str, Expected], tables: oracles.Tables, summary: Any = None) -> list[str]:
    """The candidates whose tables all these are, and whose summary this is, where one is given."""
    return [
        name
        for name, one in candidates.items()
        if set(tables) <= set(one.tables)
        and not any(oracles.differing(tables, one.tables, tables))
        and (summary is None or alike(summary) == alike(one.summary))
    ]


def alike(summary: Any) -> Any:
    """A summary without what its report is called, and without its hash, which a packed or exported one has its own."""
    return {
        **summary,
        "report": {name: one for name, one in summary["report"].items() if name not in ("file", "sha256")},
    }


def check_shown(ended: Ended, candidates: Mapping[str, Expected], result: Result, said: str) -> list[str]:
    """The summary that was printed is that of a candidate."""
    if ended.code != 0:
        return []
    try:
        found = whose(candidates, {}, json.loads(ended.out))
    except ValueError:
        result.found("mixed", f"{said}: it printed no JSON: {ended.text[:200]}")
        return []
    if not found:
        result.found(
            "mixed", f"{said}: the summary is of none of {sorted(candidates)}: {_different(ended, candidates)}"
        )
    return found


def _different(ended: Ended, candidates: Mapping[str, Expected]) -> str:
    shown = alike(json.loads(ended.out))
    return "; ".join(
        f"{name}: {[key for key, value in alike(one.summary).items() if shown.get(key) != value]}"
        for name, one in candidates.items()
    )


def check_tables(
    folder: Path, candidates: Mapping[str, Expected], result: Result, said: str, *, whole: bool = True
) -> list[str]:
    """All tables in a folder are of one candidate; every table is there, unless it need not be `whole`."""
    try:
        tables = oracles.tables_in(folder)
    except (OSError, ValueError) as error:  # Arrow's errors are ValueErrors
        result.found("mixed", f"{said}: a table that is not whole: {error}")
        return []
    if whole and (missing := set(all_tables()) - set(tables)):
        result.found("left", f"{said}: there is no {', no '.join(sorted(missing))}")
    found = whose(candidates, tables)
    if not found:
        parts = {name: sorted(whose(candidates, {name: table})) for name, table in tables.items()}
        result.found("mixed", f"{said}: tables of several: {parts}")
    return found


def check_rest(folder: Path, result: Result, said: str) -> None:
    """Nothing unfinished lies in a folder or below it."""
    if rest := sorted(f"{path.relative_to(folder)}{_lock_of(path)}" for path in waste(folder)):
        result.found("left", f"{said}: {', '.join(rest)}")


def _lock_of(path: Path) -> str:
    return " with its lock" if path.with_name(f"{path.name}.lock").exists() else ""


def waste(folder: Path) -> Iterator[Path]:
    """What looks unfinished."""
    for path in folder.rglob("*"):
        if _LEFT.search(path.name) and not _MAY_STAY.search(path.name) and not _inside(path, folder):
            yield path


def _inside(path: Path, folder: Path) -> bool:
    """Is it in something that is waste as a whole?"""
    parents: Iterable[Path] = path.relative_to(folder).parents
    return any(_LEFT.search(one.name) and not _MAY_STAY.search(one.name) for one in parents if one.name)
