"""The tables of an analysis: one file each, found by being here."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache

from dsprof.errors import UnknownTable
from dsprof.tables._table import Table


@cache
def all_tables() -> dict[str, Table]:
    """Every table by its name, in alphabetical order; each module here without a leading underscore defines one."""
    names = (module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    modules = (importlib.import_module(f"{__name__}.{name}") for name in names)
    return {module.TABLE.name: module.TABLE for module in modules}


def known_table(name: str) -> Table:
    """The table of that name. Raises `UnknownTable`."""
    if name not in all_tables():
        near = difflib.get_close_matches(name, all_tables(), 1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise UnknownTable(f"There is no table {name}.", f"{meant}There are: {', '.join(all_tables())}.")
    return all_tables()[name]
