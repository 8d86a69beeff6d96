"""Whether loops over arrays are compiled: by numba, where it is installed (``pip install dsprof[fast]``).

What is compiled gives the same as the array code beside it, bit for bit, and takes a fraction of its time; but to
load it takes a third of a second, and to compile it the first time half a minute. So it is used for large reports.
"""

from __future__ import annotations

import threading
from importlib import import_module
from importlib.util import find_spec
from typing import Any

_loops: Any = None
_loading = threading.Lock()


def is_installed() -> bool:
    """Is numba there?"""
    return find_spec("numba") is not None


def use(wanted: bool) -> None:
    """Use compiled loops from now on, or do not. Raises ImportError where they are wanted and numba is not there."""
    global _loops
    with _loading:
        _loops = import_module("dsprof.loops") if wanted else None


def loops() -> Any:
    """The module of the compiled loops, `dsprof.loops`; None where the array code is to be used."""
    return _loops
