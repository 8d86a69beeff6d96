"""What each kernel took under each range name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Self

import numpy as np

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import Distribution, Groups, Sums, add_distributions, distribution, sums
from dsprof.attribute.launches import Launches, Scope
from dsprof.attribute.ranges import RangeTree
from dsprof.facts import Measure
from dsprof.records import frozen

#: Where ranges nest deeper, kernels are looked for in a tree; more of one name that overlap are counted together.
_DEEP, _CROWD = 32, 32


@frozen(eq=False)
class RangeKernels(Measure):
    """Kernels by range name; the group of a sum is ``group of the range * names + kernel name``.

    `durations`: by ``path * names + kernel name``; a path is one of `paths`, the groups of the ranges around a kernel,
    each once and sorted, as the bytes of int64. `exclusive`: of the kernels whose innermost range is in the group.
    `launching`: how many ranges of a group launched a kernel of the name; `across`: the (range, kernel) pairs of
    ranges that reach over the edge of a part, which are counted once at the end. Where too many ranges of one name
    overlap, there are `moments` instead: the first and the last launch of each kernel name in each part, as rows of
    (is it by process, scope, time, name); and `cuts`, the beginnings of the parts. `outside`: kernels that no range
    encloses, by thread (process, where no launch is). Groups that are not `RangeTree.summed` are in none of them.
    """

    names: int
    paths: tuple[bytes, ...]
    durations: Distribution
    exclusive: Sums
    launching: Sums
    across: Ints
    moments: Ints
    cuts: Ints
    outside: dict[int, Distribution]

    @classmethod
    def take(cls, launches: Launches) -> Self:
        """Of a part of a report."""
        names, tree, trace = len(launches.trace.names), launches.tree, launches.trace
        kernels, own, group_of_range = trace.kernels, trace.own_kernels, tree.groups[1]
        duration, name = kernels.end - kernels.start, kernels.name.astype(np.int64)
        covers = [_cover(launches, *part) for part in launches.covered]
        paths, path_of_kernel = _paths([cover.spans(tree) for cover in covers], group_of_range, len(kernels))
        number: dict[bytes, int] = {}
        path = np.append(_numbered(paths.as_bytes(), number), -1)[path_of_kernel]
        inside = np.flatnonzero(path >= 0)
        inner = launches.of_op(launches.range_of_call)[: len(kernels)]
        alone = np.flatnonzero(inner[own] >= 0) + trace.part.kernels
        alone = alone[_summed(tree, inner[alone])]
        moments = [_moments(launches, kind, part[0], name) for kind, part in enumerate(launches.covered)]
        return cls(
            names=names,
            paths=tuple(number),
            durations=distribution(path[inside] * names + name[inside], duration[inside]),
            exclusive=sums(group_of_range[inner[alone]] * names + name[alone], np.ones_like(alone), duration[alone]),
            **_launches(launches, covers, name, names),
            moments=np.concatenate(moments),
            cuts=np.array([trace.part.low], np.int64),
            outside=_outside(launches, np.flatnonzero(inner[own] < 0) + trace.part.kernels),
        )

    def merge(self, other: Self) -> Self:
        """Both together; they are of one report."""

        def both(mine: Sums, theirs: Sums) -> Sums:
            return sums(*(np.concatenate(columns) for columns in zip(mine, theirs, strict=True)))

        outside = {
            thread: add_distributions(self.outside[thread], found) if thread in self.outside else found
            for thread, found in other.outside.items()
        }
        number = dict(zip(self.paths, range(len(self.paths)), strict=True))
        place = _numbered(other.paths, number)
        path, name = np.divmod(other.durations.group, other.names)
        theirs = other.durations._replace(group=place[path] * other.names + name)
        return type(self)(
            self.names,
            tuple(number),
            add_distributions(self.durations, theirs),
            both(self.exclusive, other.exclusive),
            both(self.launching, other.launching),
            at.distinct_in_any_order(self.across, other.across),
            np.unique(np.concatenate([self.moments, other.moments]), axis=0),
            at.distinct_in_any_order(self.cuts, other.cuts),
            {**self.outside, **outside},
        )


def _numbered(paths: Iterable[bytes], number: dict[bytes, int]) -> Ints:
    """The numbers of some paths; `number` has those that are known, and takes up the others."""
    return np.array([number.setdefault(path, len(number)) for path in paths], np.int64)


def _launches(launches: Launches, covers: list[_Cover], name: Ints, names: int) -> dict[str, Any]:
    """Which ranges launched which kernels: how many of each group, and which of those over the edge of a part."""
    pairs = np.concatenate(
        [_range_pairs(cover.of(~_crowds(launches.tree, cover.range)), name, names) for cover in covers]
    )
    edge = _reaches_over(launches, pairs // names)
    keys, counts = [launches.tree.groups[1][pairs[~edge] // names] * names + pairs[~edge] % names], []
    counts.append(np.ones(len(keys[0]), np.int64))
    for cover in covers:
        crowd = cover.of(_crowds(launches.tree, cover.range) & ~_reaches_over(launches, cover.range))
        key, count = _launching_of(launches.tree, crowd, name, names)
        keys.append(key)
        counts.append(count)
    key, count = np.concatenate(keys), np.concatenate(counts)
    return {"launching": sums(key, count, count), "across": at.distinct_in_any_order(pairs[edge])}


def _reaches_over(launches: Launches, rows: Ints) -> Bools:
    """True for those of the ranges that begin before this part or end after it."""
    ranges, part = launches.tree.ranges, launches.trace.part
    return (ranges.start[rows] < part.low) | (ranges.end[rows] > part.high)


def _summed(tree: RangeTree, rows: Ints) -> Bools:
    """True for those of the ranges that are of a group which is summed."""
    kept: Bools = tree.summed[tree.groups[1][rows]] if len(tree.summed) else np.zeros(len(rows), np.bool_)
    return kept


class _Cover(NamedTuple):
    """Which kernels some ranges, or spans of ranges, enclose: the kernels in launch order, and a slice for each range.

    None of the slices is empty. For a span stands a range of it.
    """

    kernel: Ints
    range: Ints
    low: Ints
    high: Ints

    def of(self, chosen: Bools) -> _Cover:
        """The same kernels, and some of the ranges."""
        return _Cover(self.kernel, self.range[chosen], self.low[chosen], self.high[chosen])

    def spans(self, tree: RangeTree) -> _Cover:
        """The same kernels, and the spans of the ranges: of one group no two overlap."""
        if not len(self.range):
            return self
        span = tree.spans.of_range[self.range]
        order = np.argsort(span, kind="stable")
        heads = np.flatnonzero(np.append(True, span[order[1:]] != span[order[:-1]]))
        edges = (one.reduceat(edge[order], heads) for one, edge in ((np.minimum, self.low), (np.maximum, self.high)))
        return _Cover(self.kernel, tree.spans.first[span[order[heads]]], *edges)

    def depth(self) -> int:
        """In how many ranges a kernel is at most."""
        places = len(self.kernel) + 1
        change = np.bincount(self.low, minlength=places) - np.bincount(self.high, minlength=places)
        return int(np.cumsum(change).max(initial=0))


def _cover(launches: Launches, order: Scope, which: Ints, low: Ints, high: Ints) -> _Cover:
    own = (order.op >= launches.trace.part.kernels) & (order.op < len(launches.trace.kernels))
    rank = np.append(0, np.cumsum(own))
    found = _Cover(order.op[own], launches.reached[which], rank[low], rank[high])
    return found.of((found.high > found.low) & _summed(launches.tree, found.range))


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
    """The sets of groups that enclose a kernel, and the path of each kernel, -1 for none; from covers of spans.

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
        at.distinct_in_any_order(*(paths.of(of_kernel[head]) for paths, of_kernel in found)) for head in heads.tolist()
    ]
    size = np.array([len(one) for one in sets], np.int64)
    path = np.where(size > 0, np.arange(len(sets)), -1)[number] if len(sets) else number
    return _Paths(np.append(0, np.cumsum(size)), np.concatenate([heads[:0], *sets])), path


def _paths_of(cover: _Cover, group: Ints) -> tuple[_Paths, Ints]:
    """The sets of groups of one cover, of which `group` has that of each range; and the path at each place of it."""
    bounds = at.distinct_in_any_order(np.concatenate([cover.low, cover.high]))  # a piece is from one to the next
    first, last = np.searchsorted(bounds, cover.low), np.searchsorted(bounds, cover.high)
    depth = np.cumsum(np.bincount(first, minlength=len(bounds)) - np.bincount(last, minlength=len(bounds)))
    found, of_piece, count = [], [np.zeros(0, np.int64)], 0
    for pieces in at.batches(np.arange(len(bounds)), depth):
        number, paths = _paths_between(int(pieces[0]), int(pieces[-1]) + 1, first, last, group)
        of_piece.append(np.where(number >= 0, number + count, -1))
        found.append(paths)
        count += len(paths.first) - 1
    piece_of_kernel = np.searchsorted(bounds, np.arange(len(cover.kernel)), side="right") - 1
    size = np.concatenate([first[:0], *(np.diff(paths.first) for paths in found)])
    groups = np.concatenate([first[:0], *(paths.group for paths in found)])
    return _Paths(np.append(0, np.cumsum(size)), groups), np.append(np.concatenate(of_piece), -1)[piece_of_kernel]


def _paths_between(low: int, high: int, first: Ints, last: Ints, group: Ints) -> tuple[Ints, _Paths]:
    """The path of each piece from `low` to before `high`, -1 for none; ranges are from one piece to before another."""
    some = np.flatnonzero((first < high) & (last > low))
    owner, piece = at.explode(np.maximum(first[some], low), np.minimum(last[some], high))
    groups = int(group.max(initial=0)) + 1
    key = at.distinct_in_any_order((piece - low) * groups + group[some][owner])
    return _distinct_sets(*np.divmod(key, groups), high - low)


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
    if cover.depth() > _DEEP:
        return _deep_pairs(cover, name, names)
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


def _deep_pairs(cover: _Cover, name: Ints, names: int) -> Ints:
    """The same, for ranges that nest deep: a kernel is the first of its name in those that begin after the one before.

    By a tree of the earliest of each two, four, eight … such kernels before: its nodes are gone down, from the root,
    where they lie in a range and hold the first of some name in it.
    """
    kernel = name[cover.kernel]
    levels: list[Ints] = [_before(kernel)]
    found = [np.zeros(0, np.int64)]
    while len(levels[-1]) > 1:
        levels[-1] = np.append(levels[-1], len(kernel)) if len(levels[-1]) % 2 else levels[-1]
        levels.append(np.minimum(levels[-1][::2], levels[-1][1::2]))
    for rows in at.batches(np.arange(len(cover.low)), np.minimum(cover.high - cover.low, len(at.distinct(kernel)))):
        node: Ints = np.zeros(len(rows), np.int64)
        for level in range(len(levels) - 2, -1, -1):
            rows, node = np.repeat(rows, 2), np.repeat(2 * node, 2) + np.tile([0, 1], len(node))
            low, high = cover.low[rows], cover.high[rows]
            inside = (levels[level][node] < low) & (node << level < high) & (node + 1 << level > low)
            rows, node = rows[inside], node[inside]
        found.append(cover.range[rows] * names + kernel[node])
    return np.concatenate(found)


def _before(values: Ints) -> Ints:
    """The place before each at which the same value is, -1 for none."""
    order, before = np.argsort(values, kind="stable"), np.full(len(values), -1)
    same = np.flatnonzero(values[order[1:]] == values[order[:-1]])
    before[order[same + 1]] = order[same]
    return before


# -- where many ranges of one name overlap -------------------------------------------------------------------


def _crowds(tree: RangeTree, rows: Ints) -> Bools:
    """True for those of the ranges that are in a span of many."""
    return tree.spans.ranges[tree.spans.of_range[rows]] > _CROWD


def _launching_of(tree: RangeTree, cover: _Cover, name: Ints, names: int) -> tuple[Ints, Ints]:
    """How many ranges of a group launched a kernel of a name, by ``group * names + name``; a key may come again.

    Nothing is done for each range and name: a kernel is the first of its name in those ranges of a span that begin
    after the one before it, and go on; these are counted, for all kernels at once.
    """
    spans, found, counts = cover.spans(tree), [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    of_range = np.searchsorted(spans_of := tree.spans.of_range[spans.range], tree.spans.of_range[cover.range])
    kernel, before, group = name[cover.kernel], _before(name[cover.kernel]), tree.groups[1][spans.range]
    for some in at.batches(np.arange(len(spans_of)), spans.high - spans.low):
        # Each span has places of its own, so that the ranges of others are none of its.
        size = spans.high[some] - spans.low[some]
        shift = np.cumsum(size) - size - spans.low[some]
        mine = np.flatnonzero((of_range >= some[0]) & (of_range <= some[-1]))
        low, high = (edge[mine] + shift[of_range[mine] - some[0]] for edge in (cover.low, cover.high))
        order = np.argsort(low, kind="stable")
        owner, place = at.explode(spans.low[some], spans.high[some])
        earlier = np.maximum(before[place], spans.low[some][owner] - 1) + shift[owner]
        since, until = (np.searchsorted(low[order], one, side="right") for one in (earlier, place + shift[owner]))
        count = at.slice_sum_above(high[order], np.ones(len(order), np.int64), since, until, place + shift[owner])
        some_of_them = np.flatnonzero(count)
        found.append(group[some][owner[some_of_them]] * names + kernel[place[some_of_them]])
        counts.append(count[some_of_them])
    return np.concatenate(found), np.concatenate(counts)


def _moments(launches: Launches, kind: int, order: Scope, name: Ints) -> Ints:
    """Of a part: the first and the last launch of each kernel name in each scope, as rows of `RangeKernels.moments`.

    They tell of a range that reaches over the part's edge whether it launched such a kernel.
    """
    if launches.trace.is_whole or not (launches.tree.spans.ranges > _CROWD).any():
        return np.zeros((0, 4), np.int64)
    own = np.flatnonzero((order.op >= launches.trace.part.kernels) & (order.op < len(launches.trace.kernels)))
    scope, time, kernel = order.number[own], order.launch[own], name[order.op[own]]
    first, last = (at.group_rows(scope[::step], kernel[::step])[0] for step in (1, -1))
    rows = np.append(first, len(own) - 1 - last)
    return np.unique(np.stack([np.full(len(rows), kind), scope[rows], time[rows], kernel[rows]], axis=1), axis=0)


def _launching_across(tree: RangeTree, measured: RangeKernels) -> tuple[Ints, Ints]:
    """What `_launching_of` counts, of the ranges in large spans that reach over the edge of a part."""
    ranges, names = tree.ranges, len(tree.names)
    over = np.searchsorted(measured.cuts, ranges.start, side="right") < np.searchsorted(measured.cuts, ranges.end)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64))]
    for kind in (0, 1):
        _, scope, time, kernel = measured.moments[measured.moments[:, 0] == kind].T
        rows = np.flatnonzero(over & (ranges.of_process == bool(kind)))
        rows = rows[_crowds(tree, rows) & _summed(tree, rows)]
        number = tree.place_of(ranges.thread[rows])[kind]
        keys = at.Keys(int(max(scope.max(initial=0), number.max(initial=0))) + 1, time, ranges.start, ranges.end)
        begin, finish = (keys.pack(number, times[rows]) for times in (ranges.start, ranges.end))
        cover = _Cover(np.arange(len(time)), rows, *at.slices(keys.pack(scope, time), begin, finish))
        found.append(_launching_of(tree, cover.of(cover.high > cover.low), kernel, names))
    keys_of, counts = zip(*found, strict=True)
    return np.concatenate(keys_of), np.concatenate(counts)


def _outside(launches: Launches, kernel: Ints) -> dict[int, Distribution]:
    """Kernels that no range encloses, by the thread that launched them (the process, where no launch is)."""
    kernels = launches.trace.kernels
    thread = launches.of_op(launches.trace.calls.thread, missing=NULL)[kernel]
    thread = np.where(thread == NULL, kernels.process[kernel], thread)
    duration, name = kernels.end - kernels.start, kernels.name.astype(np.int64)
    by = {one: kernel[rows] for one, rows in at.each(thread)}
    return {one: distribution(name[rows], duration[rows]) for one, rows in by.items()}


def by_group(measured: RangeKernels) -> Groups:
    """Statistics of the durations by ``group of the range * len(names) + kernel name``."""
    sets = [np.frombuffer(path, np.int64) for path in measured.paths]
    reach = np.searchsorted(measured.durations.group, np.arange(len(sets) + 1) * measured.names)
    lengths, group = [len(one) for one in sets], np.concatenate([reach[:0], *sets])
    order = np.argsort(group, kind="stable")
    path, group = np.repeat(np.arange(len(sets), dtype=np.int32), lengths)[order], group[order]
    heads = np.flatnonzero(np.append(True, group[1:] != group[:-1])[: len(group)])
    ends, size = np.append(heads[1:], len(group)), np.diff(reach)[path]
    found = [Distribution(*measured.durations).describe().take(reach[:0])]
    for some in at.batches(np.arange(len(heads)), np.add.reduceat(size, heads) if len(heads) else heads):
        mine = slice(heads[some[0]], ends[some[-1]])
        owner, row = at.explode(reach[path[mine]], reach[path[mine] + 1])
        key, value, times = (column[row] for column in measured.durations)
        key = group[mine][owner] * measured.names + key % measured.names
        found.append(distribution(key, value, times).describe())
    return Groups(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def launching(tree: RangeTree, measured: RangeKernels, group: Ints) -> Ints:
    """How many ranges of each group launched the kernel."""
    count, names = np.zeros(len(group), np.int64), measured.names
    count[np.searchsorted(group, measured.launching.group)] = measured.launching.instances
    of_range, kernel = np.divmod(measured.across, names)
    np.add.at(count, np.searchsorted(group, tree.groups[1][of_range] * names + kernel), 1)
    key, more = _launching_across(tree, measured)
    np.add.at(count, np.searchsorted(group, key), more)
    return count
