"""Regular expressions that users write, searched for in names that a report holds: both may be anything.

Some patterns take exponential time on some texts (``(a+)+$`` on many a's and a b), and Python's `re` knows no limit.
So what could repeat is searched for in a process of its own, which is ended when it takes too long. It starts within a
fiftieth of a second; patterns that repeat nothing, as the usual ones, are searched for here.
"""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence

from dsprof.errors import PatternTooSlow

#: Seconds that the search for some patterns may take.
LIMIT_S = 20.0
#: What a pattern needs to take more time than its own length and that of the text.
_REPEATS = re.compile(r"[*+?{]")
#: What a pattern says beside the letters of a name.
_SIGNS = re.compile(r"[\\^$()|?*+]")
#: So many names are compared with a pattern, and so many characters of each.
_COMPARED, _CHARACTERS = 1000, 64
#: The search, for a Python without what is installed beside it, which starts at once.
_WORKER = """
import json, re, sys
asked = json.load(sys.stdin)
searches = [re.compile(pattern).search for pattern in asked["patterns"]]
none, found = (-1, None), []
for text in asked["texts"]:
    all = ((n, search(text)) for n, search in enumerate(searches))
    found.append(next(((n, match.groupdict().get(asked["group"])) for n, match in all if match), none))
json.dump(found, sys.stdout)
"""


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern as Python searches for it. Raises `re.error`, also where it is nested too deep or repeats too often."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what Python may once take for something else
            return re.compile(pattern)
    except (OverflowError, RecursionError) as error:
        raise re.error(f"Python cannot take it ({error})") from error


def first_found(patterns: Sequence[str], texts: Sequence[str]) -> list[int]:
    """For each text, which of the patterns is found in it first in their order; -1 for none.

    Raises `PatternTooSlow`, and `re.error` for what is no pattern.
    """
    return [number for number, _ in _found(patterns, texts, "")]


def group_found(patterns: Sequence[str], texts: Sequence[str], group: str) -> list[str | None]:
    r"""For each text, what a named group of the first pattern that is found in it holds; None without. Raises as above.

    >>> group_found([r"^decode_(?P<batch>\d)", "^decode"], ["decode_4_sequences", "decode"], "batch")
    ['4', None]
    """
    return [said for _, said in _found(patterns, texts, group)]


def _found(patterns: Sequence[str], texts: Sequence[str], group: str) -> list[tuple[int, str | None]]:
    """Which of the patterns is found first in each text, and what its group of that name holds."""
    searches = [compiled(pattern).search for pattern in patterns]
    if any(map(_REPEATS.search, patterns)) and texts:
        return _elsewhere(patterns, texts, group)
    found: list[tuple[int, str | None]] = []
    for text in texts:
        each = ((number, search(text)) for number, search in enumerate(searches))
        found.append(next(((number, match.groupdict().get(group)) for number, match in each if match), (-1, None)))
    return found


def near(pattern: str, texts: Sequence[str]) -> list[str]:
    """At most three of the texts, or of their heads, that are most like a pattern which fits none.

    >>> near("^prefil$", ["prefill", "decode", "Prefill_1"])
    ['prefill', 'Prefill_1']
    """
    heads = {text[:_CHARACTERS].casefold(): text[:_CHARACTERS] for text in reversed(texts[:_COMPARED])}
    said = _SIGNS.sub("", pattern)[:_CHARACTERS].casefold()
    return [heads[found] for found in difflib.get_close_matches(said, heads, n=3, cutoff=0.6)]


def _elsewhere(patterns: Sequence[str], texts: Sequence[str], group: str) -> list[tuple[int, str | None]]:
    """The same in a process of its own."""
    asked = json.dumps({"patterns": list(patterns), "texts": list(texts), "group": group})
    command = [sys.executable, "-I", "-S", "-c", _WORKER]
    try:
        done = subprocess.run(command, input=asked.encode(), capture_output=True, timeout=LIMIT_S, check=True)
    except subprocess.TimeoutExpired as error:
        raise _too_slow(patterns, f"took more than {LIMIT_S:g} s") from error
    except subprocess.CalledProcessError as error:  # no memory left, as a rule
        raise _too_slow(patterns, "could not be searched for to the end") from error
    return [(number, said) for number, said in json.loads(done.stdout)]


def _too_slow(patterns: Sequence[str], what: str) -> PatternTooSlow:
    named = ", ".join(f"'{pattern}'" for pattern in patterns)
    return PatternTooSlow(
        f"The pattern{'s' if len(patterns) > 1 else ''} {named} {what} in the names of this report.",
        "Repeat nothing that is repeated inside, as (a+)+ does: write a+.",
    )
