"""What is drawn of one report in a timeline of one or several, and on which tracks it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from attrs import field

from dsprof import arrays as at
from dsprof.arrays import NULL, Bools, Ints, group_rows, used_codes
from dsprof.records import frozen
from dsprof.rules.names import short_kernel_name
from dsprof.timeline.busy import BusyBins
from dsprof.timeline.events import PartEvents, Times
from dsprof.timeline.lanes import FlatLanes, NestedLanes
from dsprof.timeline.packets import Numbers, Packets, Slices, Texts
from dsprof.trace import STYLES, Calls, Gpu, Ranges, pid_of, rows_of

#: NVTX ranges of no domain.
_DEFAULT_DOMAIN = "NVTX"
#: Ranges that are drawn at once.
_RANGES_AT_ONCE = 1 << 14
#: How busy a GPU is: with its own work, and where it waits for other ranks with that as well.
BUSY, WITH_WAITING = "GPU busy", "GPU busy or waiting"
#: Places of tracks below their parent, beside those that count.
_LAST, _HOST = 1 << 20, 10
#: Numbers of processes and threads that the timeline gives itself, where those of the system are taken.
_OWN_NUMBERS = 1 << 30

Shift = Callable[[Ints], Ints]


def unshifted(times: Ints) -> Ints:
    """What is added to times of the only report."""
    return np.zeros(len(times), np.int64)


class Taken:
    """Numbers of processes and threads that no other has: containers and hosts have the same ones."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def number(self, wanted: int) -> int:
        """The number itself where it is free, else another."""
        while wanted in self._taken or wanted <= 0:
            wanted = _OWN_NUMBERS + len(self._taken)
            if wanted in self._taken:
                wanted += 1
        self._taken.add(wanted)
        return wanted


@frozen
class View:
    """Which time is drawn: what overlaps ``[low, high]`` on the timeline's clock."""

    low: int = NULL
    high: int = int(np.iinfo(np.int64).max)

    def has(self, start: Ints, end: Ints) -> Bools:
        """True for what overlaps it."""
        overlaps: Bools = (end >= self.low) & (start <= self.high)
        return overlaps

    @property
    def is_all(self) -> bool:
        """Is nothing left out?"""
        return self == View()


@frozen
class Called:
    """What a report's tracks are called after: `report` where there are several, ranks by process and device."""

    report: str = ""
    ranks: Mapping[tuple[int, int], int] = field(factory=dict)
    width: int = 1

    def of(self, process: int | None = None, device: int | None = None, pid: int | None = None) -> str:
        """The rank of a process or a device, where it has one alone, else the report; empty where neither is told."""
        found = {
            number
            for (one, there), number in self.ranks.items()
            if process in (None, one) and device in (None, there) and pid in (None, pid_of(one)) and number != NULL
        }
        if len(found) == 1:
            return f"rank {found.pop():0{self.width}}"
        return self.report

    def title(self, text: str, process: int | None = None, device: int | None = None, pid: int | None = None) -> str:
        """A title that says which rank it is of."""
        rank = self.of(process, device, pid)
        return f"{rank} · {text}" if rank else text


class Drawn:
    """The tracks of one report in a timeline.

    `shift`: what is added to its times to be on the timeline's clock; `several`: several processes have operations.
    """

    def __init__(
        self,
        packets: Packets,
        taken: Taken,
        gpus: Sequence[Gpu],
        called: Called | None = None,
        shift: Shift = unshifted,
        view: View | None = None,
        several: bool = False,
    ) -> None:
        self._packets, self._taken, self._shift = packets, taken, shift
        self.called, self._view, self._several = called or Called(), view or View(), several
        self._gpu_names = {gpu.device: gpu.name for gpu in gpus}
        self._groups: dict[tuple[Any, ...], int] = {}
        self._processes: dict[int, tuple[int, int]] = {}
        self._threads: dict[int, int] = {}
        self._lanes: dict[tuple[Any, ...], tuple[FlatLanes | NestedLanes, list[int]]] = {}
        self._busy: dict[tuple[int, str], BusyBins] = {}
        self._waits: dict[int, Times] = {}

    # -- tracks -----------------------------------------------------------------------------------------

    def gpu(self, device: int) -> int:
        """The track that holds those of a device."""
        name = f"GPU {device} {self._gpu_names.get(device, '')}".strip() if device != NULL else "GPU"
        return self._group(("gpu", device), self.called.title(name, device=device), 2 + max(device, -1))

    def _process(self, process: int) -> tuple[int, int]:
        """The number and the track of a process."""
        if process not in self._processes:
            pid = self._taken.number(pid_of(process))
            name = self.called.title("process" + _unless(pid, pid_of(process)), process)
            self._processes[process] = pid, self._packets.process(pid, name, _LAST)
        return self._processes[process]

    def _thread(self, thread: int) -> int:
        if thread not in self._threads:
            process = thread & ~0xFFFFFF
            pid, parent = self._process(process)
            tid = thread & 0xFFFFFF
            main = tid == pid_of(process)
            own = pid if main else self._taken.number(tid)
            name = ("main thread" if main else "thread") + _unless(own, tid)
            self._threads[thread] = self._packets.thread(pid, own, name, parent)
        return self._threads[thread]

    def stages_of(self, pid: int) -> int:
        """The track that holds requests, stages and steps of a process."""
        return self._group(("dsprof", pid), self.called.title("Analysis", pid=pid), 0)

    def collectives(self) -> int:
        """The track that holds those of collectives, one of all reports."""
        return self._packets.shared("Collectives", 1)

    def _group(self, key: tuple[Any, ...], title: str, rank: int) -> int:
        if key not in self._groups:
            self._groups[key] = self._packets.track(title, 0, rank)
        return self._groups[key]

    def placed(
        self, key: tuple[Any, ...], title: str, parent: int, start: Ints, end: Ints, rank: int = 0, flat: bool = False
    ) -> Ints:
        """The track of each of some slices of one title; rows come by start, of one moment the longest first.

        Those that overlap without one in the other are on several tracks of that title.
        """
        lanes, tracks = self._lanes.setdefault(key, (FlatLanes() if flat else NestedLanes(), []))
        lane = lanes.place(start, end)
        while len(tracks) < lanes.count:
            tracks.append(self._packets.track(title, parent, rank))
        return np.array(tracks, np.int64)[lane] if len(lane) else lane

    # -- what comes by in parts -------------------------------------------------------------------------

    def part(self, part: PartEvents) -> None:
        """The calls and operations of a part."""
        arrow = self._draw_calls(part)
        self._draw_operations(part, arrow)
        for device, busy in part.busy.items():
            waits = self._waits.get(device)
            if waits is not None:
                self._cover(device, WITH_WAITING, busy)
                busy = at.beside(busy, at.common(waits, part.talking[device])) if device in part.talking else busy
            self._cover(device, BUSY, busy)

    def waits(self, device: int, waits: Times) -> None:
        """When a device does no more than wait for another rank, unless it does something that is no collective."""
        self._waits[device] = waits

    def _cover(self, device: int, title: str, times: Times) -> None:
        self._busy.setdefault((device, title), BusyBins()).add(*self._on_the_clock(*times))

    def in_view(self, start: Ints, end: Ints) -> tuple[Ints, Ints, Ints]:
        """Times of the report on the timeline's clock, as far as they are drawn, and which of them these are."""
        start, end = self._on_the_clock(start, end)
        kept = np.flatnonzero(self._view.has(start, end))
        return start[kept], end[kept], kept

    def slices(self, slices: Slices) -> None:
        """Write some slices."""
        self._packets.slices(slices)

    def named(self, names: Sequence[str]) -> Ints:
        """The numbers of some names of slices."""
        return self._packets.names(names)

    def _on_the_clock(self, start: Ints, end: Ints) -> tuple[Ints, Ints]:
        return start + self._shift(start), end + self._shift(end)

    def _draw_calls(self, part: PartEvents) -> Ints:
        """The calls; what joins each with its operation, 0 for none."""
        calls, first = part.calls, part.operations["first"] == 1
        launching = np.zeros(len(calls), np.bool_)
        launching[part.operations["call"][first]] = True
        arrow = np.where(launching, self._packets.arrows(int(launching.sum())) + np.cumsum(launching) - 1, 0)
        start, end, kept = self.in_view(calls.start, calls.end)
        thread = calls.thread[kept]
        track = np.zeros(len(kept), np.int64)
        for number, rows in at.each(thread):
            parent = self._thread(number)
            track[rows] = self.placed(("calls", number), "CUDA API", parent, start[rows], end[rows], _LAST)
        more = {
            "correlation": Numbers(np.where(arrow[kept] > 0, calls.correlation[kept], NULL)),
            "result": Numbers(_failed(calls, kept)),
        }
        named = self._named(calls.name[kept].astype(np.int64), part.names)
        self._packets.slices(Slices(start, end, track, named, flow=arrow[kept], more=more))
        return arrow

    def _draw_operations(self, part: PartEvents, arrow: Ints) -> None:
        ops = part.operations
        start, end, kept = self.in_view(ops["start"], ops["end"])
        ops = {name: values[kept] for name, values in ops.items()}
        names = part.all_names
        more: dict[str, Numbers | Texts] = {
            "name": Texts(np.where(ops["bytes"] == NULL, ops["name"], -1), names),
            "stage": Texts(ops["stage"], part.stages),
            "step": Numbers(ops["step"]),
            "bytes": Numbers(ops["bytes"]),
            "correlation": Numbers(ops["correlation"]),
        }
        slices = Slices(
            start,
            end,
            self._streams(ops, start, end),
            self._named(ops["name"], names, _short),
            self._packets.categories(part.families)[ops["family"]],
            np.where(ops["first"] == 1, np.append(arrow, 0)[ops["call"]], 0),
            more,
        )
        self._packets.slices(slices)

    def _streams(self, ops: Mapping[str, Ints], start: Ints, end: Ints) -> Ints:
        """The track of each operation: of its stream, and of its process."""
        track = np.zeros(len(start), np.int64)
        heads, group = group_rows(ops["device"], ops["process"], ops["stream"])
        for number, rows in at.each(group):
            where = tuple(int(ops[name][heads[number]]) for name in ("device", "process", "stream"))
            title, rank = self._stream_title(*where[1:]), _HOST + max(where[-1], 0)
            key, gpu = ("stream", *where), self.gpu(where[0])
            track[rows] = self.placed(key, title, gpu, start[rows], end[rows], rank, flat=True)
        return track

    def _stream_title(self, process: int, stream: int) -> str:
        title = f"stream {stream}" if stream != NULL else "stream unknown"
        return f"{title} of process {pid_of(process)}" if self._several and process != NULL else title

    def _named(self, codes: Ints, names: Sequence[str], word: Callable[[str], str] = str) -> Ints:
        used, place = used_codes(codes, len(names))
        return self._packets.names(word(names[code]) or "(no name)" for code in used.tolist())[place]

    # -- what is there at once --------------------------------------------------------------------------

    def ranges(self, ranges: Ranges, names: Sequence[str]) -> None:
        """The NVTX ranges, by thread and domain; those that are opened and closed by hand apart from pushed ones."""
        order = np.lexsort((-ranges.end, ranges.start))
        for first in range(0, len(order), _RANGES_AT_ONCE):
            self._draw_ranges(rows_of(ranges, order[first : first + _RANGES_AT_ONCE]), names)

    def _draw_ranges(self, ranges: Ranges, names: Sequence[str]) -> None:
        start, end, kept = self.in_view(ranges.start, ranges.end)
        ranges = rows_of(ranges, kept)
        if not len(kept):
            return
        track = np.zeros(len(kept), np.int64)
        heads, group = group_rows(ranges.thread, ranges.domain.astype(np.int64), ranges.style)
        for place, rows in at.each(group):
            thread, domain, style = (
                int(column[heads[place]]) for column in (ranges.thread, ranges.domain, ranges.style)
            )
            title = (names[domain] if domain >= 0 else "") or _DEFAULT_DOMAIN
            title += "" if style == 0 else f" ({STYLES[1]})"
            parent = self._thread(thread)
            track[rows] = self.placed(("ranges", thread, domain, style), title, parent, start[rows], end[rows], 1)
        more = {
            "payload": Numbers(ranges.number),
            "range_id": Numbers(ranges.range_id),
            "end unknown": Numbers(np.where(ranges.truncated, 1, NULL)),
            "cut": Numbers(np.where(ranges.cut, 1, NULL)),
        }
        self._packets.slices(Slices(start, end, track, self._named(ranges.name.astype(np.int64), names), more=more))

    def finish(self) -> None:
        """What is known at the end: how busy the GPUs were."""
        for (device, title), bins in sorted(self._busy.items()):
            times, percent = bins.shown()
            kept = slice(None)
            if not self._view.is_all:
                first = max(int(np.searchsorted(times, self._view.low, side="right")) - 1, 0)
                kept = slice(first, int(np.searchsorted(times, self._view.high, side="right")) + 1)
            if len(times[kept]):
                track = self._packets.counter(title, "%", self.gpu(device), 1)
                self._packets.count(track, times[kept], percent[kept])


def _unless(shown: int, number: int) -> str:
    """What is put behind a name: the number, unless Perfetto shows it there."""
    return "" if shown == number else f" {number}"


def _failed(calls: Calls, kept: Ints) -> Ints:
    """What failed calls returned; NULL for those that succeeded."""
    result = calls.result[kept]
    return np.where(result == 0, NULL, result)


_short = lru_cache(1 << 14)(short_kernel_name)
