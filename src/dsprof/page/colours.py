"""One colour for a thing, everywhere on the page: classes of the style sheet."""

from __future__ import annotations

from dsprof.measures.causes import CAUSES
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
    "sampling": "p14", COMMUNICATION: "waiting", "conv": "p15", "graph": "p17", "memory": "p16",
}  # fmt: skip
#: Of stages, and modes of an engine's steps, one after another.
STEPS = ("p1", "p2", "p0", "p3", "p5", "p6")


def of_family(family: str) -> str:
    """The colour of a kernel family; those of a rules file share one."""
    return _FAMILIES.get(family, QUIET)
