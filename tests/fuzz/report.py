"""What was tried and found, counted: as a table, as Markdown for the documentation, as JSON."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fuzz.case import FAULTS, Case, Result
from fuzz.pool import Ran


@dataclass
class Count:
    """What came of the cases of one kind."""

    tried: int = 0
    ok: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    peak_bytes: int = 0
    disturbed: int | None = None

    def add(self, result: Result) -> None:
        """Count a case; one with two faults of a sort counts once for it."""
        self.tried += 1
        self.seconds += result.seconds
        if result.disturbed is not None:
            self.disturbed = (self.disturbed or 0) + result.disturbed
        self.peak_bytes = max(self.peak_bytes, result.peak_bytes)
        if result.faults:
            self.faults.update({fault.what for fault in result.faults})
        elif result.code:
            self.refused[result.code] += 1
        else:
            self.ok += 1


class Counts:
    """All kinds, and each failing case with its recipe in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kinds: dict[str, Count] = defaultdict(Count)
        self.failures: list[dict[str, Any]] = []

    def add(self, ran: Ran) -> None:
        """Count a case, and keep it where something was found."""
        self.kinds[ran.case.kind].add(ran.result)
        if ran.result.faults:
            self.failures.append(self._keep(ran.case, ran.result))

    def _keep(self, case: Case, result: Result) -> dict[str, Any]:
        faults = [list(fault) for fault in result.faults]
        path = case.write(self.folder / f"{case.name}.json", did=result.did, faults=faults)
        return {"case": case.name, "faults": faults, "replay": f"make fuzz ARGS='--replay {path}'"}

    @property
    def found(self) -> int:
        """Cases with a fault."""
        return len(self.failures)

    def document(self) -> dict[str, Any]:
        """All of it for JSON."""
        kinds = {
            name: {"tried": one.tried, "ok": one.ok, "refused": dict(sorted(one.refused.items())),
                   "faults": {what: one.faults[what] for what in FAULTS}, "seconds": round(one.seconds, 1),
                   "peak_mb": round(one.peak_bytes / 1e6), "disturbed": one.disturbed}
            for name, one in self.kinds.items()
        }  # fmt: skip
        return {"schema": "dsprof.fuzz/1", "kinds": kinds, "found": self.found, "failures": self.failures}

    def write(self) -> Path:
        """Keep the counts beside the failures."""
        path = self.folder / "counts.json"
        path.write_text(json.dumps(self.document(), indent=1), encoding="utf-8")
        return path

    # -- to look at

    def rows(self) -> list[list[str]]:
        """A header, a row for each kind, and their sum."""
        lines = [[name, *_cells(one)] for name, one in self.kinds.items()]
        total = Count()
        for one in self.kinds.values():
            total.tried, total.ok = total.tried + one.tried, total.ok + one.ok
            total.refused += one.refused
            total.faults += one.faults
        return [["kind", "tried", "ok", "refused", *FAULTS, "disturbed"], *lines, ["all", *_cells(total)]]

    def text(self) -> str:
        """As a table for a terminal, and by exit code."""
        rows = self.rows()
        widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
        lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
        codes = sum((one.refused for one in self.kinds.values()), Counter[int]())
        refused = ", ".join(f"{code}: {times}" for code, times in sorted(codes.items()))
        return "\n".join([*lines, f"refused with a sentence, by exit code: {refused or 'none'}", *self._told()])

    def _told(self, most: int = 40) -> list[str]:
        """The failures, those that are alike once, with how many and how to run one again."""
        alike: dict[str, list[str]] = defaultdict(list)
        for failure in self.failures:
            for what, said in failure["faults"][:3]:
                alike[f"{what}: {said.splitlines()[0][:150]}"].append(failure["replay"])
        common = sorted(alike.items(), key=lambda item: -len(item[1]))
        return [f"{len(commands)} x {said}\n      {commands[0]}" for said, commands in common[:most]]

    def markdown(self) -> str:
        """As a table for the documentation."""
        header, *rows = self.rows()
        rule = ["---", *["---:"] * (len(header) - 1)]
        return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _cells(one: Count) -> list[str]:
    numbers = (one.tried, one.ok, one.refused.total(), *(one.faults[what] for what in FAULTS))
    return [*(f"{number:,}" for number in numbers), "" if one.disturbed is None else f"{one.disturbed:,}"]
