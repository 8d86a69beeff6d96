"""The kinds of cases: each module here has a ``KIND``."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from fuzz.case import Kind


@cache
def all_kinds() -> dict[str, Kind]:
    """Every kind by its name."""
    kinds = [import_module(f"{__name__}.{module.name}").KIND for module in iter_modules(__path__)]
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: (kind.programs, kind.name))}
