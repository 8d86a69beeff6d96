"""With compiled loops, or with array code: for tests that hold one against the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dsprof.arrays import backend


@contextmanager
def way(compiled: bool) -> Iterator[None]:
    """Compiled loops within, or array code; array code after it."""
    if compiled:
        pytest.importorskip("numba", reason="numba is not installed")
    with backend.using(backend.compiled() if compiled else backend.NUMPY):
        yield
