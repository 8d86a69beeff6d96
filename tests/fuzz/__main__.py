"""The command line: ``PYTHONPATH=tests python -m fuzz``, or ``make fuzz``."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fuzz import bases
from fuzz.case import Case, read_case
from fuzz.kinds import all_kinds
from fuzz.pool import Ran, run_all
from fuzz.report import Counts

#: Cases of a short run: one for so many of a long one.
_SHORT = 20
CORPUS = Path(__file__).parent / "corpus"


def corpus() -> list[Path]:
    """The recipes of what once failed."""
    return sorted(CORPUS.glob("*.json"))


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What is to be run."""
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--long", action="store_true", help="20,000 cases, and not a twentieth of them")
    parser.add_argument("--seed", type=int, default=1, help="other cases")
    parser.add_argument("--only", metavar="KIND", action="append", choices=list(all_kinds()), help="repeatable")
    parser.add_argument("--cases", type=int, metavar="N", help="of each kind")
    parser.add_argument("--minutes", type=float, metavar="M", help="begin no case later")
    parser.add_argument("--replay", type=Path, metavar="FILE", action="append", help="run the case of a recipe again")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="at once")
    parser.add_argument("--folder", type=Path, default=Path("build", "fuzz"), help="for failures and counts")
    parser.add_argument("--markdown", action="store_true", help="print the counts as Markdown")
    return parser.parse_args(arguments)


def cases_of(given: argparse.Namespace) -> Iterator[Case]:
    """The cases of a run: all recipes of the corpus, then the kinds in turn, so that a short time has some of each."""
    if given.replay:
        yield from map(read_case, given.replay)
        return
    chosen = [all_kinds()[name] for name in given.only or all_kinds()]
    yield from (case for case in map(read_case, corpus()) if case.kind in {kind.name for kind in chosen})
    counts = {kind.name: given.cases or (kind.cases if given.long else max(kind.cases // _SHORT, 5)) for kind in chosen}
    most = max(counts.values())
    for number in range(most):
        for kind in chosen:  # spread evenly: a kind with half as many cases has one in every second turn
            if (number + 1) * counts[kind.name] // most > number * counts[kind.name] // most:
                yield kind.case(given.seed * 1_000_000 + number)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 where something was found."""
    given = options(arguments)
    begin = time.monotonic()
    cases = cases_of(given)
    if given.minutes is not None:
        cases = itertools.takewhile(lambda case: time.monotonic() - begin < 60 * given.minutes, cases)
    counts = Counts(given.folder)
    with tempfile.TemporaryDirectory(prefix="dsprof-fuzz-") as work:
        reports = Path(work, "reports")
        bases.prepare(reports)
        for ran in _until_interrupted(run_all(cases, reports, Path(work), given.workers)):
            counts.add(ran)
            _say(counts, ran.case, [list(fault) for fault in ran.result.faults], bool(given.replay))
    counts.folder.mkdir(parents=True, exist_ok=True)
    print(counts.markdown() if given.markdown else counts.text())
    print(f"{time.monotonic() - begin:.0f} s; counts and failing cases: {counts.write().parent}", file=sys.stderr)
    return int(counts.found > 0)


def _until_interrupted(running: Iterator[Ran]) -> Iterator[Ran]:
    with contextlib.suppress(KeyboardInterrupt):  # what was counted until then is told
        yield from running


def _say(counts: Counts, case: Case, faults: list[list[str]], aloud: bool) -> None:
    """Say each failure as it comes, and now and then how far it is."""
    if faults:
        print(f"{case.name} {json.dumps(case.chosen, ensure_ascii=True)}", file=sys.stderr)
        for what, said in faults:
            print(f"  {what}: {said.encode('unicode_escape').decode()[: 4000 if aloud else 300]}", file=sys.stderr)
    tried = sum(one.tried for one in counts.kinds.values())
    if tried % 500 == 0:
        print(f"{tried} cases, {counts.found} with faults", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
