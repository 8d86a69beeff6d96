"""`range_kern_sum`: what each kernel took under each range name, as Nsight's ``nvtx_kern_sum`` says it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dsprof import attribution as at
from dsprof.attributed import Attributed
from dsprof.attribution import NULL, Ints
from dsprof.stages import NO_RANGE
from dsprof.stats import Groups, describe
from dsprof.table import STATISTICS, Coded, Table, integer, name, statistics
from dsprof.trace import pid_of, tid_of

STYLES = ("PushPop", "StartEnd")


class _Pairs(NamedTuple):
    """(range group, kernel) pairs: once per group for the times, and once per range for the instances."""

    group: Ints
    kernel: Ints
    range_group: Ints  # of each distinct (range, kernel name) pair
    range_kernel_name: Ints


def build(a: Attributed) -> dict[str, Any]:
    """A row per range name, domain, style, thread and kernel; a kernel counts once per range name."""
    kernels, ranges, names = a.trace.kernels, a.trace.ranges, a.trace.names
    heads, group_of_range = _groups(a)
    outside = _outside(a)
    threads = np.unique(outside.thread)
    pairs = _enclosed(a, group_of_range)
    group = np.concatenate([pairs.group, len(heads) + np.searchsorted(threads, outside.thread)])
    kernel = np.concatenate([pairs.kernel, outside.kernel])
    duration = (kernels.end - kernels.start)[kernel]
    found = describe(group * len(names) + kernels.name[kernel], duration)
    of_group = found.group // len(names)
    in_range = of_group < len(heads)
    head = heads[np.where(in_range, of_group, 0)] if len(heads) else of_group
    thread = np.where(in_range, ranges.thread[head], 0) if len(heads) else np.zeros(len(of_group), np.int64)
    if len(threads):
        thread = np.where(in_range, thread, threads[np.maximum(of_group - len(heads), 0) % len(threads)])
    strings = (*names, NO_RANGE)
    return {
        "name": Coded(_where(in_range, ranges.name, head, len(names)), strings),
        "domain": Coded(_where(in_range, ranges.domain, head, 0), names),
        "style": Coded(_where(in_range, ranges.style, head, -1), STYLES),
        "pid": pid_of(thread),
        "tid": np.where(tid_of(thread) == 0, NULL, tid_of(thread)),
        "kernel": Coded(found.group % len(names), names),
        "range_instances": _count(found, pairs.range_group * len(names) + pairs.range_kernel_name),
        **_exclusive(a, found, group_of_range, in_range),
        **statistics(found),
    }


def _where(in_range: Any, column: Any, head: Ints, otherwise: int) -> Ints:
    return np.where(in_range, column[head], otherwise) if len(column) else np.full(len(in_range), otherwise)


def _groups(a: Attributed) -> tuple[Ints, Ints]:
    """A first range of each (name, domain, style, thread), and the group of every range."""
    ranges = a.trace.ranges
    parts = (ranges.name, ranges.domain, ranges.style, a.range_thread)
    return at.group_rows(*(part.astype(np.int64) for part in parts))


def _enclosed(a: Attributed, group_of_range: Ints) -> _Pairs:
    kernels = a.trace.kernels
    found: list[_Pairs] = []
    for order, which, low, high in a.covered(np.arange(len(a.trace.ranges))):
        is_kernel = order.op < len(kernels)
        rank = np.append(0, np.cumsum(is_kernel))
        low, high, kernel = rank[low], rank[high], order.op[is_kernel]
        group, start, stop = at.merge_slices(group_of_range[which], low, high)
        owner, position = at.explode(start, stop)
        whole, place = at.explode(low, high)
        distinct = np.unique(which[whole] * len(a.trace.names) + kernels.name[kernel[place]])
        of_range, of_name = np.divmod(distinct, len(a.trace.names))
        found.append(_Pairs(group[owner], kernel[position], group_of_range[of_range], of_name))
    pairs = _Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
    if len(found) == 1:
        return pairs
    group, kernel = np.divmod(np.unique(pairs.group * len(kernels) + pairs.kernel), max(len(kernels), 1))
    return pairs._replace(group=group, kernel=kernel)


class _Outside(NamedTuple):
    """Kernels that no range encloses, and the thread that launched them (the process, where no launch is)."""

    kernel: Ints
    thread: Ints


def _outside(a: Attributed) -> _Outside:
    count = len(a.trace.kernels)
    kernel = np.flatnonzero(a.of_op(a.range_of_call)[:count] < 0)
    thread = a.of_op(a.trace.calls.thread, missing=NULL)[kernel]
    return _Outside(kernel, np.where(thread == NULL, a.trace.kernels.process[kernel], thread))


def _count(found: Groups, keys: Ints) -> Ints:
    """How many of `keys` each found group has."""
    return np.bincount(np.searchsorted(found.group, keys), minlength=len(found.group)).astype(np.int64)


def _exclusive(a: Attributed, found: Groups, group_of_range: Ints, in_range: Any) -> dict[str, Ints]:
    """Kernels whose innermost range is of the group; outside of all ranges, those are all."""
    kernels, names = a.trace.kernels, a.trace.names
    inner = a.of_op(a.range_of_call)[: len(kernels)]
    inside = np.flatnonzero(inner >= 0)
    key = group_of_range[inner[inside]] * len(names) + kernels.name[inside]
    slot = np.searchsorted(found.group, key)
    duration = (kernels.end - kernels.start)[inside]
    total = np.bincount(slot, weights=duration, minlength=len(found.group)).astype(np.int64)
    return {
        "exclusive_instances": np.where(in_range, _count(found, key), found.instances),
        "exclusive_total_ns": np.where(in_range, total, found.total),
    }


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
