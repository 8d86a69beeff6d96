"""The engines whose steps are known by their names: one file each, found by being here."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache

from dsprof.errors import UnknownEngine
from dsprof.rules.engines._engine import Engine

#: The engine that leaves all others aside: stages are the ranges that the rules name.
PLAIN, NONE = "plain", "none"


@cache
def all_engines() -> dict[str, Engine]:
    """Every engine by its name, in alphabetical order; each module here without a leading underscore defines one."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return {module.ENGINE.name: module.ENGINE for module in modules}


def engine_named(name: str) -> str:
    """A name that ``--engine`` takes, as it is called here. Raises `UnknownEngine`.

    >>> engine_named("vLLM"), engine_named("none")
    ('vllm', 'none')
    """
    known = (*all_engines(), NONE)
    called = name.strip().casefold().replace("_", "-")
    if called in known:
        return called
    near = difflib.get_close_matches(called, known, 1)
    meant = f"Did you mean {near[0]}? " if near else ""
    raise UnknownEngine(f"There is no engine {name}.", f"{meant}There are: {', '.join(known)}.")
