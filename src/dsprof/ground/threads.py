"""Libraries that would start threads when they are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


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
