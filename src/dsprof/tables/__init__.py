"""The tables of an analysis: one file each, found by being here."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from dsprof.table import Table


@cache
def all_tables() -> dict[str, Table]:
    """Every table by its name, in alphabetical order; each module here defines one as ``TABLE``."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return {module.TABLE.name: module.TABLE for module in modules}
