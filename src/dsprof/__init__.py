"""dsprof: from an Nsight Systems report to what prefill and decode did on the GPU, and why they took that long.

>>> import dsprof
>>> analysis = dsprof.analyze("run.nsys-rep")     # doctest: +SKIP
>>> analysis["stage_kern_sum"]                    # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dsprof.analysis.analyze import Analysis, analyze
    from dsprof.analysis.diff import Comparison, diff
    from dsprof.analysis.many import ManyAnalysis, analyze_many
    from dsprof.arrays.statistics import mean_std, mfu
    from dsprof.capture.record import Session, converter
    from dsprof.capture.session import capture_command, capture_images
    from dsprof.errors import DsprofError
    from dsprof.show.summary import Summary
    from dsprof.workloads.deepseek_ocr import DeepSeekOCRSession, run_once
    from dsprof.workloads.ranges import decode_range, prefill_range
    from dsprof.workloads.segmenter import Segmenter
    from dsprof.workloads.timing import StageTiming

__all__ = [
    "Analysis", "Comparison", "DeepSeekOCRSession", "DsprofError", "ManyAnalysis", "Segmenter", "Session",
    "StageTiming", "Summary", "analyze", "analyze_many", "capture_command", "capture_images", "converter",
    "decode_range", "diff", "mean_std", "mfu", "prefill_range", "run_once",
]  # fmt: skip

_MODULES = {
    "analysis.analyze": ("Analysis", "analyze"),
    "analysis.diff": ("Comparison", "diff"),
    "analysis.many": ("ManyAnalysis", "analyze_many"),
    "errors": ("DsprofError",),
    "capture.record": ("Session", "converter"),
    "capture.session": ("capture_command", "capture_images"),
    "arrays.statistics": ("mean_std", "mfu"),
    "show.summary": ("Summary",),
    "workloads.deepseek_ocr": ("DeepSeekOCRSession", "run_once"),
    "workloads.ranges": ("decode_range", "prefill_range"),
    "workloads.segmenter": ("Segmenter",),
    "workloads.timing": ("StageTiming",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used (PEP 562), so that ``import dsprof`` costs nothing."""
    if name == "__version__":
        from dsprof.ground.versions import our_version

        return our_version()
    if name in _HOME:
        return getattr(import_module(f"dsprof.{_HOME[name]}"), name)
    raise AttributeError(f"module 'dsprof' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
