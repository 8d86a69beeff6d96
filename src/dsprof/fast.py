"""Whether loops over arrays are compiled: by numba, where it is installed (``pip install 'dsprof[fast]'``).

What is compiled gives the same as the array code beside it, bit for bit, in a part of its time; but to load it takes
half a second, and to compile it, the first time after an installation, some ten. So it is for large reports.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dsprof.errors import FastUnavailable

#: Rows of a report, API calls and operations together, from which on compiled loops are worth it.
WORTH_ROWS = 1 << 22
_loops: Any = None
_loading = threading.Lock()


def is_installed() -> bool:
    """Is numba there?"""
    return find_spec("numba") is not None


def choose(wanted: bool | None, rows: int) -> bool:
    """Compile for a report of so many rows, or do not: as it is wanted, or for large ones where numba is there.

    Returns whether loops are compiled from now on. Raises `FastUnavailable` where they are wanted and cannot be had.
    """
    if wanted or (wanted is None and rows >= WORTH_ROWS and is_installed()):
        try:
            return use(True)
        except FastUnavailable:
            if wanted:
                raise
    return use(False)


def use(compiled: bool) -> bool:
    """Use compiled loops from now on, or do not. Raises `FastUnavailable`."""
    global _loops
    with _loading:
        _loops = _load() if compiled else None
    return compiled


@contextmanager
def without_threads() -> Iterator[None]:
    """Load libraries within, and no linear algebra among them starts threads.

    OpenBLAS starts one for each processor when it is loaded: two seconds of CPU time on 16 of them, for nothing, as
    no matrix is multiplied here. The variable is taken back, so that no profiled program inherits it.
    """
    name = "OPENBLAS_NUM_THREADS"
    ours = name not in os.environ
    if ours:
        os.environ[name] = "1"
    try:
        yield
    finally:
        if ours:
            del os.environ[name]


def _load() -> Any:
    try:
        with without_threads():  # numba loads scipy where that is installed
            import_module("dsprof.nsys.page_loops")
            return import_module("dsprof.loops")
    except (ImportError, RuntimeError) as error:  # numba says RuntimeError where it can write to no cache
        raise FastUnavailable(
            f"Loops cannot be compiled: {error}.",
            "Install numba with `pip install 'dsprof[fast]'`, or leave --fast out; where no folder can be written for "
            "its cache, name one in NUMBA_CACHE_DIR.",
        ) from error


def loops() -> Any:
    """The module of the compiled loops, `dsprof.loops`; None where the array code is to be used."""
    return _loops
