"""`range_kern_sum`: what each kernel took under each range name, as Nsight's ``nvtx_kern_sum`` says it."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.arrays import NULL, Ints
from dsprof.arrays.statistics import Groups, Sums
from dsprof.attribute.ranges import RangeTree
from dsprof.measures.range_kernels import RangeKernels, by_group, launching
from dsprof.tables._table import STATISTICS, CodedText, Table, integer, name, statistics
from dsprof.trace import STYLES, pid_of, tid_of
from dsprof.words import NO_RANGE


def build(tree: RangeTree, measured: RangeKernels) -> dict[str, Any]:
    """A row per range name, domain, style, thread and kernel; a kernel counts once per range name."""
    ranges, names, heads = tree.ranges, tree.names, tree.groups[0]
    inside = by_group(measured)
    of_group, kernel = np.divmod(inside.group, len(names))
    head = heads[of_group] if len(heads) else of_group
    threads = sorted(measured.outside)
    without = [measured.outside[thread].describe() for thread in threads]
    found = Groups(*(np.concatenate(columns) for columns in zip(inside, *without, strict=True)))
    rest, rows = len(found.group) - len(head), [len(one.group) for one in without]
    thread = np.concatenate([ranges.thread[head], np.repeat(np.array(threads, np.int64), rows)])
    return {
        "name": CodedText(np.append(ranges.name[head], np.full(rest, len(names))), (*names, NO_RANGE)),
        "domain": CodedText(np.append(ranges.domain[head], np.zeros(rest, np.int64)), names),
        "style": CodedText(np.append(ranges.style[head], np.full(rest, -1)), STYLES),
        "pid": pid_of(thread),
        "tid": np.where(tid_of(thread) == 0, NULL, tid_of(thread)),
        "kernel": CodedText(np.append(kernel, found.group[len(head) :]), names),
        "range_instances": np.append(launching(tree, measured, inside.group), np.zeros(rest, np.int64)),
        **_exclusive(measured.exclusive, inside, found),
        **statistics(found),
    }


def _exclusive(measured: Sums, inside: Groups, found: Groups) -> dict[str, Ints]:
    """Kernels whose innermost range is of the group; outside of all ranges, those are all."""
    place, rows = np.searchsorted(inside.group, measured.group), len(inside.group)
    columns = {
        "exclusive_instances": (measured.instances, found.instances),
        "exclusive_total_ns": (measured.total, found.total),
    }
    result = {}
    for column, (values, all_of_them) in columns.items():
        result[column] = np.concatenate([np.zeros(rows, np.int64), all_of_them[rows:]])
        result[column][place] = values
    return result


TABLE = Table(
    "range_kern_sum",
    "a range name x kernel name, per thread",
    (
        name("name", "The ranges' name, or (no range) for kernels that no range encloses."),
        name("domain", "Name of their NVTX domain; empty for the default domain."),
        name("style", "PushPop or StartEnd; missing for (no range).", nullable=True),
        integer("pid", "Process of the ranges."),
        integer("tid", "Thread of the ranges; of the launches for (no range), missing where they are.", True),
        name("kernel", "The kernel's full, demangled name."),
        integer("range_instances", "Ranges of that name in which the kernel was launched."),
        *STATISTICS,
        integer("exclusive_instances", "Kernels for which no inner range is between the launch and this one."),
        integer("exclusive_total_ns", "Sum of the durations of those."),
    ),
    build,
)
