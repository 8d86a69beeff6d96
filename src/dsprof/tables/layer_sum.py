"""`layer_sum`: what each module of the model took in each stage, also through CUDA graphs; no kernel counts twice."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import Sums, count_by, sum_by
from dsprof.attribute.modules import ModuleRanges
from dsprof.attribute.stages import StageRanges
from dsprof.measures.module_kernels import ModuleKernels
from dsprof.rules.modules import folded
from dsprof.tables._table import CodedText, Table, integer, name, real, share_pct
from dsprof.words import NO_MODULE


def build(stages: StageRanges, modules: ModuleRanges, measured: ModuleKernels) -> dict[str, Any]:
    """A row per stage and module, the greatest time first; what is in no module is the last of its stage.

    ::

        layers.0        |-------------------|          inclusive: gemm, softmax, add; exclusive: add
          layers.0.attn    |----------|                both: gemm, softmax
        launches            x gemm  x softmax  x add
    """
    width = len(modules.names) + 1
    shape = (len(stages.names), width)
    itself, inside = (_by_module(modules, measured.kernels, shape, within) for within in (False, True))
    replayed = _by_module(modules, measured.replayed, shape, True)[0]
    calls = count_by(modules.stage * width + modules.code, shape[0] * width)
    key = np.flatnonzero(inside[0] + calls)
    code = key % width
    key = key[np.lexsort((code, -inside[1][key], code == width - 1, key // width))]
    stage, code, none = key // width, key % width, key % width == width - 1
    of_stage = sum_by(np.arange(len(itself[1])) // width, itself[1], shape[0])[stage]
    parent, depth = (np.append(column, -1)[code] for column in modules.usual)
    names = (*modules.names, NO_MODULE)
    return {
        "stage": CodedText(stage, stages.names),
        "module": CodedText(code, names),
        "folded": CodedText(code, tuple(folded(one) for one in names)),
        "parent": CodedText(parent, names),
        "depth": np.where(none, NULL, depth),
        "calls": np.where(none, NULL, calls[key]),
        "kernels": inside[0][key],
        "graph_kernels": replayed[key],
        "total_ns": inside[1][key],
        "share_pct": share_pct(inside[1][key], of_stage),
        "exclusive_kernels": itself[0][key],
        "exclusive_total_ns": itself[1][key],
        "exclusive_pct": share_pct(itself[1][key], of_stage),
    }


def _by_module(modules: ModuleRanges, found: Sums, shape: tuple[int, int], within: bool) -> tuple[Ints, Ints]:
    """Kernels and their time by ``stage * width + module``; `within`: with what is in the modules inside."""
    ranges, (stages, width) = len(modules.rows), shape
    stage, row = np.divmod(found.group, ranges + 1)
    code = np.append(modules.code, width - 1)
    columns = []
    for values in (found.instances, found.total):
        if not within:
            columns.append(sum_by(stage * width + code[row], values, stages * width))
            continue
        column = np.zeros(stages * width, np.int64)
        for one in at.distinct_in_any_order(stage).tolist():
            mine = stage == one
            of_row = np.zeros(ranges + 1, np.int64)
            of_row[row[mine]] = values[mine]
            reach, outer = np.append(0, np.cumsum(of_row)), np.append(modules.outermost, ranges)
            content = reach[np.append(modules.beyond, ranges + 1)[outer]] - reach[outer]
            column[one * width : (one + 1) * width] = sum_by(code[outer], content, width)
        columns.append(column)
    return columns[0], columns[1]


TABLE = Table(
    "layer_sum",
    "a stage x module of the model",
    (
        name("stage", "The stage of the launch, or (no stage); of a CUDA graph that of the replay."),
        name("module", "The module's qualified name, as its ranges give it, or (no module)."),
        name("folded", "The same with each index as *, which the layers of a model have in common."),
        name("parent", "The module around it, in most of its ranges; missing where none is.", True),
        integer("depth", "How many modules are around it, in most of its ranges.", True),
        integer("calls", "Its ranges that began in the stage; 0 where it ran through CUDA graphs alone.", True),
        integer("kernels", "Kernels launched in it or inside of it; of a graph, captured there where that is known."),
        integer("graph_kernels", "Those of them that came through a CUDA graph, by the capture of their nodes."),
        integer("total_ns", "Sum of the durations of kernels."),
        real("share_pct", "total_ns in percent of the stage's kernel time."),
        integer("exclusive_kernels", "Those of kernels that no module inside has."),
        integer(
            "exclusive_total_ns",
            "Sum of their durations. A stage's rows, (no module) among them, add up to all its kernel time.",
        ),
        real("exclusive_pct", "exclusive_total_ns in percent of the stage's kernel time."),
    ),
    build,
)
