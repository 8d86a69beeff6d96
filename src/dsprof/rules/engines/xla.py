"""JAX and XLA: a range for each run of a compiled module, in the domain ``TSL``; what it does only its name may tell.

Source: the names as NVIDIA's JAX-Toolbox reads them. Modules lie in each other; the innermost is the one that runs.
"""

from __future__ import annotations

from dsprof.rules.engines._engine import Engine, Form, Step, guess
from dsprof.words import DECODE, PREFILL, UNKNOWN

_WORDS = {"prefill": PREFILL, "decode": DECODE, "generate": DECODE}


def _by_name(step: Step, word: str) -> Step:
    """The mode that the first word in a module's name is for, as a guess."""
    return step._replace(mode=next((guess(mode) for part, mode in _WORDS.items() if part in word.casefold()), UNKNOWN))


ENGINE = Engine(
    "xla",
    "XLA",
    (
        Form(
            "modules",
            ("XlaModule:#",),
            r"XlaModule:#(?:prefix=[^,#]*,)?hlo_module=(?P<mode>[A-Za-z0-9._-]+)(?:,program_id=\d+)?#",
            _by_name,
            because="XLA's modules say nothing but their name",
            innermost=True,
        ),
    ),
    after="what the host does between two modules",
    switch="XLA writes its modules' ranges where an NVTX tool is attached.",
)
