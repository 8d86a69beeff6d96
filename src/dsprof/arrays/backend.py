"""Whether loops over arrays are compiled: by numba, where it is installed (``pip install 'dsprof[fast]'``).

What is compiled gives the same as the array code beside it, bit for bit, in a part of its time; but to load it takes
half a second, and to compile it, the first time after an installation, some ten. So it is for large reports.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple, TypeVar

from dsprof.errors import FastUnavailable
from dsprof.ground.threads import without_threads

#: Rows of a report, API calls and operations together, from which on compiled loops are worth it.
WORTH_ROWS = 1 << 22
_loading = threading.Lock()
_S = TypeVar("_S")
_T = TypeVar("_T")


class Backend(NamedTuple):
    """What array functions work with: numpy alone, or numba's loops beside it, of which these are the modules."""

    loops: Any = None
    page_loops: Any = None


NUMPY = Backend()
#: Of the analysis that is at work in this thread; another one, in another thread, may have another.
_current: ContextVar[Backend] = ContextVar("backend", default=NUMPY)


def current() -> Backend:
    """The backend in use here."""
    return _current.get()


@contextmanager
def using(backend: Backend) -> Iterator[None]:
    """Use a backend within, in this thread and in those of `Workers` that are given work there."""
    token = _current.set(backend)
    try:
        yield
    finally:
        _current.reset(token)


class Workers(ThreadPoolExecutor):
    """Threads that use the backend of whoever gives them work."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]:
        """As that of `ThreadPoolExecutor`."""
        return super().submit(copy_context().run, fn, *args, **kwargs)

    def in_turn(self, work: Callable[[_S], _T], items: Iterable[_S], ahead: int) -> Iterator[_T]:
        """`work` on each item, some at once and no more of them ready than `ahead`; results in the items' order."""
        waiting: deque[Future[_T]] = deque()
        for item in items:
            waiting.append(self.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def is_installed() -> bool:
    """Is numba there?"""
    return find_spec("numba") is not None


def choose(wanted: bool | None, rows: int) -> Backend:
    """The backend for a report of so many rows: as it is wanted, or compiled for large ones where numba is there.

    Raises `FastUnavailable` where compiled loops are wanted and cannot be had.
    """
    if wanted or (wanted is None and rows >= WORTH_ROWS and is_installed()):
        try:
            return compiled()
        except FastUnavailable:
            if wanted:
                raise
    return NUMPY


def compiled() -> Backend:
    """The backend with compiled loops. Raises `FastUnavailable`."""
    try:
        with _loading, without_threads():  # numba loads scipy where that is installed
            return Backend(import_module("dsprof.arrays.loops"), import_module("dsprof.arrays.page_loops"))
    except (ImportError, RuntimeError) as error:  # numba says RuntimeError where it can write to no cache
        raise FastUnavailable(
            f"Loops cannot be compiled: {error}.",
            "Install numba with `pip install 'dsprof[fast]'`, or leave --fast out; where no folder can be written for "
            "its cache, name one in NUMBA_CACHE_DIR.",
        ) from error


def loops() -> Any:
    """The module of the compiled loops, `dsprof.arrays.loops`; None where the array code is to be used."""
    return current().loops


def page_loops() -> Any:
    """The module of the loops over a file's pages; None where the array code is to be used."""
    return current().page_loops
