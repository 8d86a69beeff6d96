"""What an engine is: the forms of the names that it gives the ranges of its steps, and what the numbers in them mean.

The groups of a form's pattern are the fields of `Step`; a group `mode` holds the engine's own word for it. All patterns
fit whole names, begin with words and repeat nothing inside of what is repeated, so they take linear time at most; what
is longer than any name of a step is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from attrs import field

from dsprof.arrays import NULL
from dsprof.records import frozen
from dsprof.words import DECODE, EMPTY, GUESS, MIXED, MODES, PREFILL, UNKNOWN

#: No name of a step is longer, and no number in one has more digits.
_LONGEST, _MOST_DIGITS = 512, 12
#: How a count stands in a name.
COUNT = rf"\d{{1,{_MOST_DIGITS}}}"


class Step(NamedTuple):
    """What a name says of a step; NULL where it does not.

    `mode` is one of `words.MODES`, with `words.GUESS` behind it where it is a guess. Tokens are those scheduled in this
    step; `context_kv_tokens` and `generation_kv_tokens` sum the lengths of the sequences after it.
    """

    mode: str = UNKNOWN
    context_requests: int = NULL
    context_tokens: int = NULL
    generation_requests: int = NULL
    generation_tokens: int = NULL
    context_kv_tokens: int = NULL
    generation_kv_tokens: int = NULL
    iteration: int = NULL


def by_counts(step: Step, word: str = "") -> Step:
    """A step with the mode that its numbers of requests say.

    >>> by_counts(Step(context_requests=1, generation_requests=7)).mode, by_counts(Step(generation_requests=7)).mode
    ('mixed', 'unknown')
    """
    context, generation = step.context_requests, step.generation_requests
    if NULL in (context, generation):
        return step
    mode = MIXED if context and generation else PREFILL if context else DECODE if generation else EMPTY
    tokens = {"context_tokens": step.context_tokens if context else 0,
              "generation_tokens": step.generation_tokens if generation else 0}  # fmt: skip
    return step._replace(mode=mode, **tokens)


def by_word(modes: Mapping[str, str]) -> Callable[[Step, str], Step]:
    """What gives a step the mode that its engine's word for it means, ``unknown`` for another word."""
    return lambda step, word: step._replace(mode=modes.get(word.casefold(), UNKNOWN))


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.ASCII)


@frozen
class Form:
    """One form of the names of an engine's steps, as `pattern` fits them whole; they begin with one of `begins`.

    `meaning` makes of what the groups say, and of the engine's word for the mode, what is so; a mode that ends in
    `words.GUESS` is a guess, and `because` says why. `innermost`: of a step inside another the inner one counts.
    `by_graphs`: where a thread launches CUDA graphs, a step that launches one, or few, is taken for a decode, and the
    others for prefills. `beside`: where the names are words that any program may use, the names of which a report must
    have one as well, unless the engine is asked for.
    """

    name: str
    begins: tuple[str, ...]
    pattern: re.Pattern[str] = field(converter=_pattern)
    meaning: Callable[[Step, str], Step] = by_counts
    because: str = ""
    innermost: bool = False
    by_graphs: bool = False
    beside: re.Pattern[str] = field(default="", converter=_pattern)

    def may_be(self, texts: Iterable[str]) -> bool:
        """Can a report whose ranges have these names have some of this form?"""
        fits = self.beside.fullmatch
        return not self.beside.pattern or any(len(text) <= _LONGEST and fits(text) for text in texts)

    def read(self, text: str) -> Step | None:
        """What a name says; None where it is not of this form."""
        if len(text) > _LONGEST or not text.startswith(self.begins):
            return None
        found = self.pattern.fullmatch(text)
        if found is None:
            return None
        groups: dict[str, str | None] = found.groupdict()
        word = groups.pop("mode", None) or ""
        said: dict[str, Any] = {name: int(value) for name, value in groups.items() if value is not None}
        return self.meaning(Step()._replace(**said), word)


@frozen
class Engine:
    """An engine of LLM inference: `name` is what ``--engine`` takes, `title` what people call it.

    `forms`: of which the first counts that a thread has. `after`: what it does after the range of a step, in words;
    `switch`: what must be on for it to write its steps, which a reader is told where there are none; `others`: who
    else gives steps such names, by the NVTX domain of the ranges.
    """

    name: str
    title: str
    forms: tuple[Form, ...] = ()
    after: str = ""
    switch: str = ""
    others: Mapping[str, str] = field(factory=dict)


def guess(mode: str) -> str:
    """A mode, marked as a guess."""
    return mode + GUESS


def in_order(modes: Iterable[str]) -> tuple[str, ...]:
    """Some modes in the order of `words.MODES`, each once, a guess behind what it guesses."""
    there = set(modes)
    return tuple(mode for word in MODES for mode in (word, guess(word)) if mode in there)
