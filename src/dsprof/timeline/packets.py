"""A trace of Perfetto: tracks, slices and counters as packets of its TrackEvent format, written as they come by.

Texts are interned: a packet says once what a number stands for, before the first event that uses it. So names may come
as the parts of a report do. Field numbers are those of Perfetto's ``.proto`` files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
from attrs import field

from dsprof.arrays import NULL, Bools, Ints
from dsprof.records import frozen
from dsprof.show.safe import visible
from dsprof.timeline.lanes import begins_and_ends
from dsprof.timeline.protobuf import Messages, message, number
from dsprof.timeline.protobuf import text as plain

#: Takes bytes of a trace.
Sink = Callable[[bytes], object]

#: Slices that are made into bytes at once.
_AT_ONCE = 1 << 14

# Of `Trace` and `TracePacket`.
_PACKET, _TIMESTAMP, _SEQUENCE, _EVENT, _INTERNED, _FLAGS, _DESCRIPTOR = 1, 8, 10, 11, 12, 13, 60
_CLEARED, _NEEDED = 1, 2
# Of `TrackEvent`.
_ANNOTATION, _CATEGORY, _TYPE, _NAME, _TRACK, _DOUBLE, _FLOW = 4, 3, 9, 10, 11, 44, 47
_BEGIN, _END, _COUNTER = 1, 2, 4
# Of `InternedData`, and of what it holds.
_CATEGORIES, _NAMES, _KEYS, _VALUES, _IID, _TEXT = 1, 2, 3, 29, 1, 2
# Of `DebugAnnotation`.
_KEY, _INT, _VALUE = 1, 4, 17
# Of `TrackDescriptor` and what it holds.
_UUID, _TITLE, _PROCESS, _THREAD, _PARENT, _OF_COUNTER, _CHILD_ORDER, _RANK = 1, 2, 3, 4, 5, 8, 11, 12
_PID, _PROCESS_NAME, _TID, _THREAD_NAME, _UNIT = 1, 6, 2, 5, 6
_BY_RANK = 3
#: All packets are of one sequence, for numbers of texts hold within one.
_OURS = number(_SEQUENCE, 1)


def text(field: int, value: str) -> bytes:
    """A field that is text, every character of it to be seen: the interface ends a text where a NUL is."""
    return plain(field, visible(value))


@frozen(eq=False)
class Numbers:
    """What is shown of each selected slice under one name: integers, NULL for none."""

    values: Ints


@frozen(eq=False)
class Texts:
    """The same of texts: codes into them, negative for none."""

    codes: npt.NDArray[np.integer]
    texts: Sequence[str]


@frozen(eq=False)
class Slices:
    """Slices in columns, a row each; those of one track nest or follow each other (`lanes`).

    `name`, `category`: a number as `Packets` gave it, 0 for no category; `flow`: slices with the same are joined by an
    arrow, 0 for none; `more`: what is shown of a selected one.
    """

    start: Ints
    end: Ints
    track: Ints
    name: Ints
    category: Ints | None = None
    flow: Ints | None = None
    more: Mapping[str, Numbers | Texts] = field(factory=dict)


class _Interned:
    """Texts of one kind and their numbers, from 1."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self._numbers: dict[str, int] = {}
        self._told = 0

    def number(self, one: str) -> int:
        return self._numbers.setdefault(one, len(self._numbers) + 1)

    def untold(self) -> list[bytes]:
        """The messages that tell of those which nobody was told of."""
        new = list(self._numbers)[self._told :] if self._told < len(self._numbers) else []
        first, self._told = self._told + 1, len(self._numbers)
        return [message(self._kind, number(_IID, at), text(_TEXT, one)) for at, one in enumerate(new, first)]


class Packets:
    """A trace that is being written to `sink`."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._tracks, self._arrows = 0, 0
        self._new_tracks: list[bytes] = []
        self._shared: dict[str, int] = {}
        self._names, self._keys, self._values, self._categories = map(_Interned, (_NAMES, _KEYS, _VALUES, _CATEGORIES))
        sink(message(_PACKET, _OURS, number(_FLAGS, _CLEARED)))
        root = message(_DESCRIPTOR, number(_UUID, 0), number(_CHILD_ORDER, _BY_RANK))
        sink(message(_PACKET, root, _OURS))

    # -- tracks -----------------------------------------------------------------------------------------

    def track(self, name: str, parent: int = 0, rank: int = 0) -> int:
        """A new track, below another; those of one parent stand in the order of their ranks."""
        return self._track(text(_TITLE, name), parent, rank)

    def shared(self, name: str, rank: int) -> int:
        """The track of this name that holds those of whoever asks for it."""
        if name not in self._shared:
            self._shared[name] = self.track(name, 0, rank)
        return self._shared[name]

    def process(self, pid: int, name: str, rank: int = 0) -> int:
        """The track of a process, whose number no other has."""
        return self._track(message(_PROCESS, number(_PID, pid), text(_PROCESS_NAME, name)), 0, rank)

    def thread(self, pid: int, tid: int, name: str, parent: int) -> int:
        """The track of a thread."""
        about = message(_THREAD, number(_PID, pid), number(_TID, tid), text(_THREAD_NAME, name))
        return self._track(about, parent, 0)

    def counter(self, name: str, unit: str, parent: int, rank: int = 0) -> int:
        """The track of a counter."""
        return self._track(text(_TITLE, name) + message(_OF_COUNTER, text(_UNIT, unit)), parent, rank)

    def _track(self, about: bytes, parent: int, rank: int) -> int:
        self._tracks += 1
        body = [number(_UUID, self._tracks), number(_PARENT, parent) if parent else b"", about]
        body += [number(_CHILD_ORDER, _BY_RANK), number(_RANK, rank) if rank else b""]
        self._new_tracks.append(message(_PACKET, message(_DESCRIPTOR, *body), _OURS))
        return self._tracks

    # -- events -----------------------------------------------------------------------------------------

    def names(self, texts: Iterable[str]) -> Ints:
        """The numbers of names of slices."""
        return np.array([self._names.number(one) for one in texts], np.int64)

    def categories(self, texts: Iterable[str]) -> Ints:
        """The numbers of categories."""
        return np.array([self._categories.number(one) for one in texts], np.int64)

    def arrows(self, count: int) -> int:
        """The first of so many numbers in a row, each of which may join two slices."""
        first = self._arrows + 1
        self._arrows += int(count)
        return first

    def slices(self, slices: Slices) -> None:
        """Write some slices."""
        more = {self._keys.number(key): self._shown(shown) for key, shown in slices.more.items()}
        self._tell()
        row, is_end = begins_and_ends(slices.start, slices.end, slices.track)
        for first in range(0, len(row), _AT_ONCE):
            some = slice(first, first + _AT_ONCE)
            self._sink(_events(slices, more, row[some], is_end[some]))

    def count(self, track: int, times: Ints, values: npt.NDArray[np.float64]) -> None:
        """Write what a counter shows from some times on."""
        self._tell()
        event = Messages(len(times)).same(number(_TYPE, _COUNTER) + number(_TRACK, track)).fixed(_DOUBLE, values)
        packet = Messages(len(times)).number(_TIMESTAMP, times).same(_OURS).message(_EVENT, event)
        self._sink(Messages(len(times)).message(_PACKET, packet).joined())

    def finish(self) -> None:
        """Write the tracks that have no event."""
        self._tell()

    def _shown(self, shown: Numbers | Texts) -> tuple[int, Ints, Bools]:
        """What stands in the messages: which field it is, its values, and where it has one."""
        if isinstance(shown, Numbers):
            return _INT, shown.values, shown.values != NULL
        used = np.zeros(len(shown.texts) + 1, np.int64)
        codes = np.unique(shown.codes)
        for code in codes[codes >= 0].tolist():
            used[code] = self._values.number(shown.texts[code])
        values = used[np.maximum(shown.codes, -1)]
        return _VALUE, values, values > 0

    def _tell(self) -> None:
        """Say what tracks and numbers of texts mean that the next events use."""
        for track in self._new_tracks:
            self._sink(track)
        self._new_tracks.clear()
        interned = (self._categories, self._names, self._keys, self._values)
        new = [told for kind in interned for told in kind.untold()]
        if new:
            self._sink(message(_PACKET, _OURS, number(_FLAGS, _NEEDED), message(_INTERNED, *new)))


def _events(slices: Slices, more: Mapping[int, tuple[int, Ints, Bools]], row: Ints, is_end: Bools) -> bytes:
    """The packets of some begins and ends, in this order."""
    begins = ~is_end
    event = Messages(len(row)).number(_TYPE, np.where(is_end, _END, _BEGIN)).number(_TRACK, slices.track[row])
    event.number(_NAME, slices.name[row], begins)
    if slices.category is not None:
        category = slices.category[row]
        event.number(_CATEGORY, category, begins & (category > 0))
    if slices.flow is not None:
        flow = slices.flow[row]
        event.fixed(_FLOW, flow, begins & (flow != 0))
    for key, (kind, values, known) in more.items():
        there = begins & known[row]
        if not there.any():
            continue
        shown = Messages(len(row)).same(number(_KEY, key)).number(kind, np.where(there, values[row], 0))
        event.message(_ANNOTATION, shown, there)
    times = np.where(is_end, slices.end[row], slices.start[row])
    packet = Messages(len(row)).number(_TIMESTAMP, times).same(_OURS + number(_FLAGS, _NEEDED)).message(_EVENT, event)
    return Messages(len(row)).message(_PACKET, packet).joined()
