"""`range_kern_sum`: what each kernel took under each range name, as Nsight's ``nvtx_kern_sum`` says it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from attrs import frozen

from dsprof import attribution as at
from dsprof import fast
from dsprof.attributed import Attributed, Scope
from dsprof.attribution import NULL, Bools, Ints
from dsprof.measure import measure
from dsprof.stages import NO_RANGE
from dsprof.stats import Distribution, Groups, Sums, add_distributions, distribution, sums
from dsprof.table import STATISTICS, Coded, Table, integer, name, statistics
from dsprof.trace import pid_of, tid_of

STYLES = ("PushPop", "StartEnd")


@frozen(eq=False)
class RangeKernels:
    """Kernels by range name; the group of a sum is ``group of the range * names + kernel name``.

    `durations`: by ``path * names + kernel name``; a path is one of `paths`, the groups of the ranges around a kernel,
    each once and sorted, as the bytes of int64. `exclusive`: of the kernels whose innermost range is in the group.
    `launching`: how many ranges of a group launched a kernel of the name; `across`: the (range, kernel) pairs of
    ranges that reach over the edge of a part, which are counted once at the end. `outside`: kernels that no range
    encloses, by thread (process, where no launch is).
    """

    names: int
    paths: tuple[bytes, ...]
    durations: Distribution
    exclusive: Sums
    launching: Sums
    across: Ints
    outside: dict[int, Distribution]


def _add(one: RangeKernels, other: RangeKernels) -> RangeKernels:
    def both(mine: Sums, theirs: Sums) -> Sums:
        return sums(*(np.concatenate(columns) for columns in zip(mine, theirs, strict=True)))

    outside = {
        thread: add_distributions(one.outside[thread], found) if thread in one.outside else found
        for thread, found in other.outside.items()
    }
    number = dict(zip(one.paths, range(len(one.paths)), strict=True))
    place = _numbered(other.paths, number)
    path, name = np.divmod(other.durations.group, other.names)
    theirs = other.durations._replace(group=place[path] * other.names + name)
    return RangeKernels(
        one.names,
        tuple(number),
        add_distributions(one.durations, theirs),
        both(one.exclusive, other.exclusive),
        both(one.launching, other.launching),
        np.union1d(one.across, other.across),
        {**one.outside, **outside},
    )


def _numbered(paths: Iterable[bytes], number: dict[bytes, int]) -> Ints:
    """The numbers of some paths; `number` has those that are known, and takes up the others."""
    return np.array([number.setdefault(path, len(number)) for path in paths], np.int64)


@measure(merge=_add)
def range_kernels(a: Attributed) -> RangeKernels:
    """Durations of the kernels by range name, style, domain and thread, and what belongs to them."""
    names, group_of_range = len(a.trace.names), a.groups[1]
    kernels, own = a.trace.kernels, a.trace.own_kernels
    duration, name = kernels.end - kernels.start, kernels.name.astype(np.int64)
    covers = [_cover(a, *part) for part in a.covered]
    paths, path_of_kernel = _paths(covers, group_of_range, len(kernels))
    number: dict[bytes, int] = {}
    path = np.append(_numbered(paths.as_bytes(), number), -1)[path_of_kernel]
    inside = np.flatnonzero(path >= 0)
    inner = a.of_op(a.range_of_call)[: len(kernels)]
    exclusive = np.flatnonzero(inner[own] >= 0) + a.trace.part.kernels
    pairs = np.concatenate([_range_pairs(cover, name, names) for cover in covers])
    edge = _reaches_over(a, pairs // names)
    counted = group_of_range[pairs[~edge] // names] * names + pairs[~edge] % names
    ones = np.ones(len(counted), np.int64)
    return RangeKernels(
        names=names,
        paths=tuple(number),
        durations=distribution(path[inside] * names + name[inside], duration[inside]),
        exclusive=sums(group_of_range[inner[exclusive]] * names + name[exclusive], np.ones(len(exclusive), np.int64),
                       duration[exclusive]),
        launching=sums(counted, ones, ones),
        across=np.unique(pairs[edge]),
        outside=_outside(a, np.flatnonzero(path[own] < 0) + a.trace.part.kernels),
    )  # fmt: skip


def _reaches_over(a: Attributed, rows: Ints) -> Bools:
    """True for those of the ranges that begin before this part or end after it."""
    ranges, part = a.trace.ranges, a.trace.part
    return (ranges.start[rows] < part.low) | (ranges.end[rows] > part.high)


class _Cover(NamedTuple):
    """Which kernels some ranges enclose: the kernels in launch order, and a slice of that order for each range.

    `bounds` are all ends of slices: between two of them lies a piece of the order that is in the same ranges.
    """

    kernel: Ints
    range: Ints
    low: Ints
    high: Ints
    bounds: Ints

    def pieces(self) -> tuple[Ints, Ints]:
        """First piece of each range, and the one after its last."""
        return np.searchsorted(self.bounds, self.low), np.searchsorted(self.bounds, self.high)

    def piece_of_kernel(self) -> Ints:
        """The piece of each kernel; -1 before the first bound. Behind the last one no range is."""
        return np.searchsorted(self.bounds, np.arange(len(self.kernel)), side="right") - 1


def _cover(a: Attributed, order: Scope, which: Ints, low: Ints, high: Ints) -> _Cover:
    own = (order.op >= a.trace.part.kernels) & (order.op < len(a.trace.kernels))
    rank = np.append(0, np.cumsum(own))
    low, high = rank[low], rank[high]
    filled = np.flatnonzero(high > low)
    low, high = low[filled], high[filled]
    return _Cover(
        order.op[own], a.reached[which[filled]], low, high, at.distinct_in_any_order(np.concatenate([low, high]))
    )


class _Paths(NamedTuple):
    """Sets of range groups: those of path p are ``group[first[p]:first[p + 1]]``."""

    first: Ints
    group: Ints

    def of(self, path: int) -> Ints:
        """The groups of a path; none for -1."""
        return self.group[self.first[path] : self.first[path + 1]] if path >= 0 else self.group[:0]

    def as_bytes(self) -> Iterator[bytes]:
        """Each path, sorted, as the bytes of its groups."""
        return (np.sort(self.of(path)).tobytes() for path in range(len(self.first) - 1))


def _paths(covers: list[_Cover], group_of_range: Ints, kernels: int) -> tuple[_Paths, Ints]:
    """The sets of groups that enclose a kernel, and the path of each kernel, -1 for none.

    A report has few of them: every decode step, and every layer in it, has the same.
    """
    found = []
    for cover in covers:
        paths, of_place = _paths_of(cover, group_of_range[cover.range])
        of_kernel = np.full(kernels, -1)
        of_kernel[cover.kernel] = of_place
        found.append((paths, of_kernel))
    return found[0] if len(found) == 1 else _together(found)


def _together(found: list[tuple[_Paths, Ints]]) -> tuple[_Paths, Ints]:
    """The paths of kernels that are in ranges of their thread, and in others of their process."""
    heads, number = at.group_rows(*(of_kernel for _, of_kernel in found))
    sets = [
        np.unique(np.concatenate([paths.of(of_kernel[head]) for paths, of_kernel in found])) for head in heads.tolist()
    ]
    size = np.array([len(one) for one in sets], np.int64)
    path = np.where(size > 0, np.arange(len(sets)), -1)[number] if len(sets) else number
    return _Paths(np.append(0, np.cumsum(size)), np.concatenate([heads[:0], *sets])), path


def _paths_of(cover: _Cover, group: Ints) -> tuple[_Paths, Ints]:
    """The sets of groups of one cover, of which `group` has that of each range; and the path at each place of it."""
    if loops := fast.loops():
        orders = (at.in_order(cover.low), at.in_order(cover.high))
        scrambled = _scrambled(group, 1).view(np.int64)
        first, groups, path = loops.slice_paths(cover.low, cover.high, group, scrambled, *orders, len(cover.kernel))
        return _Paths(first, groups), path
    first, last = cover.pieces()
    owner, piece = at.explode(first, last)
    key = at.distinct_in_any_order(piece * (int(group.max(initial=0)) + 1) + group[owner])
    of_piece, paths = _distinct_sets(*np.divmod(key, int(group.max(initial=0)) + 1), len(cover.bounds))
    return paths, np.append(of_piece, -1)[cover.piece_of_kernel()]


def _distinct_sets(spot: Ints, group: Ints, spots: int) -> tuple[Ints, _Paths]:
    """Number the distinct sets among those of each spot, -1 for an empty one; both columns sorted by spot, group."""
    number = np.full(spots, -1)
    heads = np.flatnonzero(np.append(True, spot[1:] != spot[:-1])) if len(spot) else spot
    ends = np.append(heads[1:], len(spot))
    # A set is told by two sums of scrambled numbers; where one sum is equal and the other is not, none is shared.
    one, two = (np.add.reduceat(_scrambled(group, salt), heads) if len(heads) else heads for salt in (1, 2))
    _, first, inverse = np.unique(one, return_index=True, return_inverse=True)
    if len(first) and (two != two[first[inverse]]).any():
        first, inverse = np.arange(len(heads)), np.arange(len(heads))
    number[spot[heads]] = inverse.reshape(-1)
    position = at.explode(heads[first], ends[first])[1]
    return number, _Paths(np.append(0, np.cumsum(ends[first] - heads[first])), group[position])


def _scrambled(values: Ints, salt: int) -> Any:
    """Numbers that have nothing to do with each other, from small ones (splitmix64)."""
    mixed = (values.astype(np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _range_pairs(cover: _Cover, name: Ints, names: int) -> Ints:
    """Every distinct ``range * names + kernel name`` of a cover.

    From the innermost ranges outward: those within one piece have the names of that piece; without them the pieces
    around melt into larger ones, of fewer names together.
    """
    low, high, ranges = cover.low, cover.high, cover.range
    if loops := fast.loops():
        by_low, by_high = at.in_order(low), at.in_order(high)
        row, value = loops.slice_values(name[cover.kernel], names, low, high, by_low, by_high)
        compiled: Ints = ranges[row] * names + value
        return compiled
    place, kernel = np.arange(len(cover.kernel)), name[cover.kernel]
    found = [np.zeros(0, np.int64)]
    while len(ranges):
        bounds = at.distinct_in_any_order(np.concatenate([low, high]))
        piece = np.searchsorted(bounds, place, side="right") - 1
        kept = at.distinct_in_any_order(piece * names + kernel)
        piece, kernel = np.divmod(kept, names)
        place = np.where(piece >= 0, bounds[np.maximum(piece, 0)], -1)
        first, last = np.searchsorted(bounds, low), np.searchsorted(bounds, high)
        chosen = last == first + 1
        if not chosen.any():
            chosen[:] = True
        start, stop = (np.searchsorted(piece, edge[chosen]) for edge in (first, last))
        owner, position = at.explode(start, stop)
        found.append(at.distinct_in_any_order(ranges[chosen][owner] * names + kernel[position]))
        low, high, ranges = low[~chosen], high[~chosen], ranges[~chosen]
    return np.concatenate(found)


def _outside(a: Attributed, kernel: Ints) -> dict[int, Distribution]:
    """Kernels that no range encloses, by the thread that launched them (the process, where no launch is)."""
    kernels = a.trace.kernels
    thread = a.of_op(a.trace.calls.thread, missing=NULL)[kernel]
    thread = np.where(thread == NULL, kernels.process[kernel], thread)
    duration, name = kernels.end - kernels.start, kernels.name.astype(np.int64)
    by = {int(one): kernel[thread == one] for one in np.unique(thread)}
    return {one: distribution(name[rows], duration[rows]) for one, rows in by.items()}


def build(a: Attributed) -> dict[str, Any]:
    """A row per range name, domain, style, thread and kernel; a kernel counts once per range name."""
    measured, ranges, names = range_kernels(a), a.trace.ranges, a.trace.names
    heads, group_of_range = a.groups
    inside = _by_group(measured).describe()
    of_group, kernel = np.divmod(inside.group, len(names))
    head = heads[of_group] if len(heads) else of_group
    threads = sorted(measured.outside)
    without = [measured.outside[thread].describe() for thread in threads]
    found = Groups(*(np.concatenate(columns) for columns in zip(inside, *without, strict=True)))
    rest, rows = len(found.group) - len(head), [len(one.group) for one in without]
    thread = np.concatenate([ranges.thread[head], np.repeat(np.array(threads, np.int64), rows)])
    return {
        "name": Coded(np.append(ranges.name[head], np.full(rest, len(names))), (*names, NO_RANGE)),
        "domain": Coded(np.append(ranges.domain[head], np.zeros(rest, np.int64)), names),
        "style": Coded(np.append(ranges.style[head], np.full(rest, -1)), STYLES),
        "pid": pid_of(thread),
        "tid": np.where(tid_of(thread) == 0, NULL, tid_of(thread)),
        "kernel": Coded(np.append(kernel, found.group[len(head) :]), names),
        "range_instances": np.append(
            _launching(measured, inside.group, group_of_range, len(names)), np.zeros(rest, np.int64)
        ),
        **_exclusive(measured.exclusive, inside, found),
        **statistics(found),
    }


def _by_group(measured: RangeKernels) -> Distribution:
    """The durations by ``group of the range * len(names) + kernel name``."""
    sets = [np.frombuffer(path, np.int64) for path in measured.paths]
    reach = np.append(0, np.cumsum([len(one) for one in sets], dtype=np.int64))
    of_path, value, times = measured.durations
    path, name = np.divmod(of_path, measured.names)
    row, position = at.explode(reach[path], reach[path + 1])
    group = np.concatenate([path[:0], *sets])[position]
    return distribution(group * measured.names + name[row], value[row], times[row])


def _launching(measured: RangeKernels, group: Ints, group_of_range: Ints, names: int) -> Ints:
    """How many ranges of each group launched the kernel."""
    count = np.zeros(len(group), np.int64)
    count[np.searchsorted(group, measured.launching.group)] = measured.launching.instances
    if len(measured.across):
        of_range, kernel = np.divmod(measured.across, names)
        np.add.at(count, np.searchsorted(group, group_of_range[of_range] * names + kernel), 1)
    return count


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
    (range_kernels,),
)
