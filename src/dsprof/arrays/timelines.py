"""Timelines: what holds at each instant of a thread's time, in layers of which the first that holds counts.

What holds is the same for all windows of a thread. So time is cut once into a timeline of all processes, one behind the
other, and, of the time that is left, into one of all threads, and a window's sums are differences of running sums.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from dsprof.arrays import backend
from dsprof.arrays.rows import Bools, Ints, contiguous, distinct, distinct_in_any_order
from dsprof.arrays.statistics import sum_by
from dsprof.arrays.unions import united

_LAYER_BITS = 4
#: Nanoseconds that all threads may have together on one axis, so that a time and a layer fit into an int64; and threads
#: that are gone through one by one where loops are compiled.
_LONGEST, _FEW_THREADS = 1 << 58, 64


class Layers(NamedTuple):
    """Names of the layers, the preferred first, 16 at most.

    The first that is a thread's, its first of calls, and the first behind those.
    """

    names: tuple[str, ...]
    first_own: int
    first_call: int
    after_calls: int


class Windows(NamedTuple):
    """Stretches of time, and the process and thread that each is of."""

    process: Ints
    thread: Ints
    start: Ints
    end: Ints

    def of(self, rows: Ints) -> Windows:
        """Some of the windows."""
        return Windows(*(column[rows] for column in self))


class _Timeline(NamedTuple):
    """Time, cut where something begins or ends.

    `time`: the cuts, sorted; `open`: from each cut on, a bit for each layer that holds, the lowest first.
    """

    time: Ints
    open: npt.NDArray[np.uint16]

    def sums(self, start: Ints, end: Ints, layers: Layers) -> dict[str, Ints]:
        """Nanoseconds of each window by layer; the windows may nest."""
        names = layers.names
        if not len(self.time):
            return {name: np.zeros(len(start), np.int64) for name in names}
        holds, length = _lowest(len(names))[self.open], np.diff(self.time, append=self.time[-1:])
        moments = distinct_in_any_order(np.append(start, end))
        piece = np.maximum(np.searchsorted(self.time, moments, side="right") - 1, 0)
        # Of each layer what lies between two of the pieces that a moment is in, and of these what is before it.
        between = np.repeat(np.arange(len(moments) + 1), np.diff(piece, prepend=0, append=len(length)))
        kinds = len(names) + 1
        spent = sum_by(between * kinds + holds, length, kinds * (len(moments) + 1)).reshape(-1, kinds)
        reach = np.cumsum(spent[:-1], axis=0)
        reach[np.arange(len(moments)), holds[piece]] += np.clip(moments - self.time[piece], 0, length[piece])
        every = reach[np.searchsorted(moments, end)] - reach[np.searchsorted(moments, start)]
        return dict(zip(names, every.T, strict=False))

    def until(self, chosen: Bools) -> Callable[[Ints], Ints]:
        """Tells how many nanoseconds up to some moments the chosen pieces cover."""
        if not len(self.time):
            return np.zeros_like
        length = np.diff(self.time, append=self.time[-1:])
        length[~chosen] = 0
        covered = np.append(0, np.cumsum(length))

        def at_moments(moment: Ints) -> Ints:
            piece = np.maximum(np.searchsorted(self.time, moment, side="right") - 1, 0)
            found: Ints = covered[piece] + np.clip(moment - self.time[piece], 0, length[piece])
            return found

        return at_moments


class _Axis(NamedTuple):
    """The time of several threads, or processes, one behind the other: of each from its first window to its last."""

    scope: Ints
    low: Ints
    high: Ints

    @staticmethod
    def of(scope: Ints, start: Ints, end: Ints) -> _Axis:
        """The axis for some windows."""
        scopes, group = np.unique(scope, return_inverse=True)
        low, high = np.full(len(scopes), np.iinfo(np.int64).max), np.full(len(scopes), np.iinfo(np.int64).min)
        np.minimum.at(low, group.reshape(-1), start)
        np.maximum.at(high, group.reshape(-1), end)
        return _Axis(scopes, low, high)

    @property
    def offset(self) -> Ints:
        """Where each begins; and where the last ends."""
        return np.append(0, np.cumsum(self.high - self.low))

    def number(self, scope: Ints) -> Ints:
        """The place of each scope among those of the axis, -1 for none of them."""
        if len(self.scope) == 1:
            return np.where(scope == self.scope, 0, -1)
        place = np.minimum(np.searchsorted(self.scope, scope), len(self.scope) - 1)
        return np.where(self.scope[place] == scope, place, -1)

    def place(self, number: Ints, time: Ints) -> Ints:
        """Where on the axis a time of each scope is; the nearest, for one outside of its windows."""
        low, high, offset = self.low, self.high, self.offset[:-1]  # of one scope as they are, which goes for all
        if len(self.scope) > 1:
            low, high, offset = low[number], high[number], offset[number]
        found: Ints = np.clip(time, low, high)
        found += offset - low
        return found


@lru_cache(4)
def _lowest(layers: int) -> npt.NDArray[np.uint8]:
    """The lowest bit of each combination of open layers; the number of layers for none."""
    masks = range(1 << layers)
    return np.array([(mask & -mask).bit_length() - 1 if mask else layers for mask in masks], np.uint8)


_Intervals = tuple[Ints, Ints]


class Source(NamedTuple):
    """Intervals of which a timeline is made: the process or thread of each, and its layer, or one layer for all."""

    owner: Ints
    layer: Ints
    start: Ints
    end: Ints

    def on(self, axis: _Axis, placed: Callable[[Ints, Ints], Ints]) -> dict[int, _Intervals]:
        """The intervals by layer, `placed` on an axis; none that is empty, or not the right way round."""
        number = axis.number(self.owner)
        mine = np.flatnonzero((number >= 0) & (self.start < self.end))
        start, end = (placed(number[mine], time[mine]) for time in (self.start, self.end))
        kept = start < end
        if len(self.layer) == 1:
            return {int(self.layer[0]): _chosen(kept, start, end)}
        layer = self.layer[mine]
        return {one: _chosen(kept & (layer == one), start, end) for one in distinct(layer).tolist()}


def time_by_layer(sources: list[Source], windows: Windows, layers: Layers) -> dict[str, Ints]:
    """Nanoseconds of each window by layer, of none of them as ``rest``, and in any call as ``in_calls``.

    `sources`: intervals of processes, the first two, and of threads, the fourth of which are calls. Each instant counts
    for the first layer that holds then.
    """
    threads = _Axis.of(windows.thread, windows.start, windows.end)
    if not len(threads.scope):
        return {}
    if (loops := backend.loops()) and len(threads.scope) <= _FEW_THREADS:
        return _of_each(threads.scope, windows, lambda mine: _swept(loops, sources, mine, layers), layers)
    if np.sum(threads.high - threads.low, dtype=np.float64) >= _LONGEST and len(threads.scope) > 1:
        return _of_each(threads.scope, windows, lambda mine: _painted(sources, mine, layers), layers)
    return _painted(sources, windows, layers)


def _of_each(
    threads: Ints, windows: Windows, sums: Callable[[Windows], dict[str, Ints]], layers: Layers
) -> dict[str, Ints]:
    """The sums thread by thread."""
    found = {name: np.zeros(len(windows.start), np.int64) for name in (*layers.names, "rest", "in_calls")}
    for thread in threads.tolist():
        mine = np.flatnonzero(windows.thread == thread)
        for name, value in sums(windows.of(mine)).items():
            found[name][mine] = value
    return found


def _painted(sources: list[Source], windows: Windows, layers: Layers) -> dict[str, Ints]:
    """The sums by timelines: of the processes, and of what they leave free, of the threads."""
    running, waiting, *owned = sources
    process = windows.process
    times = (windows.start, windows.end)
    processes = _Axis.of(process, *times)
    of_process = processes.number(process)
    shared = _timeline({**running.on(processes, processes.place), **waiting.on(processes, processes.place)})
    begin, finish = (processes.place(of_process, time) for time in times)
    found = shared.sums(begin, finish, layers)
    busy = shared.until(shared.open != 0)
    threads = _Axis.of(windows.thread, *times)
    of_thread, its_process = threads.number(windows.thread), processes.number(_process_of_each(threads, windows))

    def not_busy(number: Ints, time: Ints) -> Ints:
        moment = processes.place(its_process[number], time)
        return moment - busy(moment)

    every = np.arange(len(threads.scope))
    left = _Axis(threads.scope, *(not_busy(every, edge) for edge in (threads.low, threads.high)))

    def free(number: Ints, time: Ints) -> Ints:
        return left.place(number, not_busy(number, time))  # which is clipped to the thread's windows there

    own = _timeline({layer: found for source in owned for layer, found in source.on(threads, free).items()})
    begin, finish = (free(of_thread, time) for time in times)
    of_own = own.sums(begin, finish, layers)
    found |= {name: of_own[name] for name in layers.names[layers.first_own :]}
    found["rest"] = finish - begin - np.sum([found[name] for name in layers.names[layers.first_own :]], axis=0)
    calls = _timeline(owned[1]._replace(layer=np.array([len(layers.names) - 1])).on(threads, threads.place))
    inside = calls.until(calls.open != 0)
    begin, finish = (inside(threads.place(of_thread, time)) for time in times)
    return {**found, "in_calls": finish - begin}


def _swept(loops: Any, sources: list[Source], windows: Windows, layers: Layers) -> dict[str, Ints]:
    """The sums of the windows of one thread, by going through all that begins and ends once, without a timeline."""
    thread, start, end = int(windows.thread[0]), windows.start, windows.end
    process = int(windows.process[0])
    owned = zip(sources, (process, process, *[thread] * (len(sources) - 2)), strict=True)
    moments = distinct_in_any_order(np.concatenate([start, end]))
    streams = []
    for source, owner in owned:
        columns = map(contiguous, source)
        for edges in loops.edges(*columns, owner, int(moments[0]), _LAYER_BITS + 1):
            if not loops.settle(edges):
                edges.sort()
            streams.append(edges)
    first = np.append(0, np.cumsum([len(stream) for stream in streams]))
    since = moments - moments[0]
    of_calls = (layers.first_call, layers.after_calls)
    reach = loops.sweep(np.concatenate(streams), first, _LAYER_BITS + 1, since, len(layers.names), *of_calls)
    spent = reach[np.searchsorted(moments, end)] - reach[np.searchsorted(moments, start)]
    return dict(zip((*layers.names, "rest", "in_calls"), spent.T, strict=True))


def _timeline(layers: dict[int, _Intervals]) -> _Timeline:
    """The timeline that says when each layer is open; times are not negative."""
    if len(layers) == 1:
        ((layer, intervals),) = layers.items()
        time = np.stack(united(*intervals), axis=1).reshape(-1)
        return _Timeline(time, np.tile(np.array([1 << layer, 0], np.uint16), len(time) // 2))
    keys = [np.zeros(0, np.int64)]
    for layer, intervals in layers.items():
        keys += [edge << _LAYER_BITS | layer for edge in united(*intervals)]
    edges = np.concatenate(keys)
    del keys
    edges.sort(kind="stable")  # runs that are sorted already
    changed = (edges & (1 << _LAYER_BITS) - 1).astype(np.uint8)
    edges >>= _LAYER_BITS
    return _Timeline(edges, np.bitwise_xor.accumulate(np.left_shift(1, changed, dtype=np.uint16)))


def _chosen(which: Bools, start: Ints, end: Ints) -> _Intervals:
    return (start, end) if which.all() else (start[which], end[which])


def _process_of_each(threads: _Axis, windows: Windows) -> Ints:
    """The process of each thread of an axis."""
    number, process = threads.number(windows.thread), np.empty(len(threads.scope), np.int64)
    process[number] = windows.process
    return process
