"""dsprof: from an Nsight Systems report to what prefill and decode did on the GPU, and why they took that long.

>>> import dsprof
>>> analysis = dsprof.analyze("run.nsys-rep")     # doctest: +SKIP
>>> analysis["stage_kern_sum"]                    # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsprof.analysis import Analysis, analyze
    from dsprof.errors import DsprofError
    from dsprof.summary import Summary

__all__ = ["Analysis", "DsprofError", "Summary", "analyze"]

_HOME = {"Analysis": "analysis", "analyze": "analysis", "DsprofError": "errors", "Summary": "summary"}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562), so that ``import dsprof`` costs nothing."""
    if name == "__version__":
        from importlib.metadata import version

        return version("dsprof")
    if name in _HOME:
        return getattr(import_module(f"dsprof.{_HOME[name]}"), name)
    raise AttributeError(f"module 'dsprof' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
