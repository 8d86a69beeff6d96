"""`host_python_sum`: what Python was in, by stage, thread and function; empty for a report without samples."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.answers.host_python import HostPython
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.tables._table import CodedText, Table, integer, name, real


def build(tree: RangeTree, staged: StageRanges, found: HostPython) -> dict[str, Any]:
    """A row per stage, thread and function: stages in order, the most samples of its own first."""
    order = np.lexsort((found.name, -found.held, -found.own, found.thread, found.stage))
    own, held, total = (column[order] for column in (found.own, found.held, found.total))
    return {
        "stage": CodedText(found.stage[order], staged.names),
        "python_thread": found.thread[order],
        "function": CodedText(found.name[order], tree.names),
        "self_samples": own,
        "self_pct": 100 * own / total,
        "self_outside_cuda_samples": found.outside[order],
        "samples": held,
        "samples_pct": 100 * held / total,
    }


TABLE = Table(
    "host_python_sum",
    "a stage x Python thread x function that was sampled in it",
    (
        name("stage", "The stage around the sample: on the main thread, else anywhere in the process; or (no stage)."),
        integer("python_thread", "Number of the Python thread in its process, as nsys counts them; 1 is the main one."),
        name("function", "The function, and the base name of its file; functions of one name in one file are one."),
        integer("self_samples", "Samples in which it was the innermost Python function."),
        real("self_pct", "These in percent of the samples of the stage and thread."),
        integer(
            "self_outside_cuda_samples",
            "Those of them that were not taken in a CUDA call; of threads but the main one that is not known, and "
            "all count.",
        ),
        integer("samples", "Samples in which it was on the stack, innermost or not."),
        real("samples_pct", "These in percent of the samples of the stage and thread."),
    ),
    build,
)
