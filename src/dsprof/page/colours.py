"""One colour for a thing, everywhere on the page and in figures: classes of the style sheet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from dsprof.measures.causes import CAUSES
from dsprof.page.html import resource
from dsprof.rules.collectives import COMMUNICATION

BUSY, WAITING, OUTLIER, QUIET = "busy", "waiting", "bad", "quiet"
#: Colours of causes of idle time.
_CAUSES = {
    "queued": "p10", "other_work": "p5", "latency": "p6", "profiler": "quiet", "load": "p11", "alloc": "p8",
    "pageable": "p9", "copy": "p3", "sync": "p4", "launch": "p2", "api": "p7", "host": "p1",
}  # fmt: skip
CAUSE = {name: _CAUSES.get(name, QUIET) for name in CAUSES}
_FAMILIES = {
    "gemm": "p1", "gemv": "p10", "attention": "p6", "elementwise": "p3", "copy": "p5", "gather": "p0", "reduce": "p4",
    "cat": "p9", "activation": "p8", "topk": "p2", "norm": "p7", "softmax": "p11", "rope": "p12", "moe": "p13",
    "sampling": "p14", COMMUNICATION: "waiting", "conv": "p15", "graph": "p11", "memory": "p16",
}  # fmt: skip
#: Of stages, and modes of an engine's steps, one after another.
STEPS = ("p1", "p0", "p3", "p5", "p2", "p6")


def of_family(family: str) -> str:
    """The colour of a kernel family; those of a rules file share one."""
    return _FAMILIES.get(family, QUIET)


def of_stage(stage: str, stages: Sequence[str]) -> str:
    """The colour of what belongs to a stage; `stages` are all that a report has, in their order."""
    return STEPS[stages.index(stage) % len(STEPS)] if stage in stages else QUIET


def of_call(name: str) -> str:
    """The colour of a CUDA API call: that of the cause of idle time that it is."""
    return CAUSE[next((cause.name for cause in CAUSES.values() if name.startswith(cause.calls)), "api")]


def value(colour: str) -> str:
    """A colour on light ground, as ``#rrggbb``."""
    return _values()[colour]


@cache
def _values() -> dict[str, str]:
    light = resource("style.css").partition("}")[0]
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light))
