"""Where in a file what is: which blocks of rows hold which times and correlationIds, and which ids have a call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dsprof.arrays import NULL, Bools, Ints, distinct, distinct_in_any_order, group_rows
from dsprof.arrays.backend import Workers
from dsprof.nsys import schema
from dsprof.nsys.export import Columns, Export, is_null, nulls
from dsprof.nsys.rows import only_caller
from dsprof.nsys.selection import Chosen
from dsprof.trace import process_of

#: Rows that are told apart, blocks that are looked at together, and every how many rows a sample of the times is.
_ROWS_PER_BLOCK, _BLOCKS_AT_ONCE, _SAMPLE = 1 << 14, 8, 64
#: So many times more parts than planned there may be, where operations run long after their launch.
_MORE_PARTS = 4
#: Threads that read what is looked at.
_READERS = 2
#: Blocks of which all columns are read at once.
_BLOCKS_READ = 16
#: Columns of operations that are looked at; some of them only to count what is impossible.
_SURVEYED = ("start", "end", "globalPid", "correlationId", "bytes")
#: A table of ids may have this many slots for each, and this many more, and so many processes have one.
_SLOTS_PER_ID, _SLOTS_FREE, _MOST_TABLES = 8, 1 << 16, 64
_FOREVER = int(np.iinfo(np.int64).max)


class Survey:
    """One look at the API calls and operations of a file, in as much memory as a few bytes for each call take.

    `call_names`, `kernel_names`: ids of all strings that name calls and kernels. `chosen`: what of the file counts, all
    unless given; `elsewhere`: ids of the calls that launched something on another device.
    """

    def __init__(self, export: Export, calls: Blocks, operations: list[Blocks], chosen: Chosen | None = None) -> None:
        self.seen, self.elsewhere, self._early, self._late = Ids(), Ids(), Ids(), Ids()
        self._chosen, self._rows = chosen, 0
        callers, called, launched = ([np.zeros(0, np.int64)] for _ in range(3))
        self.calls, self.operations = calls, operations
        for blocks, raw in self.calls.survey(export, ("start", "end", "globalTid", "correlationId", "nameId")):
            callers.append(distinct(raw["globalTid"]))
            called.append(distinct(raw["nameId"]))
            if chosen is not None:
                self._note_others(chosen, raw)
                blocks, raw = _chosen(blocks, raw, chosen.calls(raw))
            process = process_of(raw["globalTid"])
            self.seen.add(process, raw["correlationId"])
            self._rows += len(blocks)
            self.calls.note(blocks, raw["start"], process, raw["correlationId"])
        self.caller = only_caller(np.concatenate(callers))
        #: Does an id stand for two calls? The earlier one counts, though it be in another part.
        self.repeats = self.seen.repeats
        for table in self.operations:
            columns = (*_SURVEYED, *(() if chosen is None else ("deviceId",)), *_named(table.source))
            for blocks, raw in table.survey(export, columns):
                launched += [distinct(raw[name]) for name in _named(table.source)]
                if chosen is not None:
                    here = chosen.on_device(raw["deviceId"])
                    self.elsewhere.add(self.process(raw["globalPid"])[~here], raw["correlationId"][~here])
                    blocks, raw = _chosen(blocks, raw, self.holds(raw))
                process = self.process(raw["globalPid"])
                self._rows += len(blocks)
                table.note(blocks, raw["start"], process, raw["correlationId"])
                table.note_ids(blocks, process, raw["correlationId"], ~self.seen.has(process, raw["correlationId"]))
        self.call_names, self.kernel_names = (distinct_in_any_order(*found) for found in (called, launched))

    def process(self, process: Ints) -> Ints:
        """The process of each operation; one that the file does not name is the only one that called."""
        return process if self.caller is None else np.where(process == NULL, self.caller, process)

    def _note_others(self, chosen: Chosen, raw: Columns) -> None:
        """Note the ids of the calls of the processes that begin before the window, and after it."""
        mine, process = chosen.of_process(process_of(raw["globalTid"])), process_of(raw["globalTid"])
        for ids, outside in ((self._early, raw["start"] < chosen.low), (self._late, raw["start"] >= chosen.high)):
            ids.add(process[mine & outside], raw["correlationId"][mine & outside])

    def made(self, raw: Columns) -> Bools:
        """True for the API calls that are chosen: not those whose id stood for an earlier one, before the window."""
        if self._chosen is None:
            return np.ones(len(raw["start"]), np.bool_)
        again = self._early.has(process_of(raw["globalTid"]), raw["correlationId"])
        return self._chosen.calls(raw) & ~again

    def holds(self, raw: Columns) -> Bools:
        """True for the operations that are chosen, as `nsys.selection` says it."""
        if self._chosen is None:
            return np.ones(len(raw["start"]), np.bool_)
        process, ids = self.process(raw["globalPid"]), raw["correlationId"]
        early, seen, late = (known.has(process, ids) for known in (self._early, self.seen, self._late))
        called = ~early & (seen | (~late & self._chosen.begun(raw["start"])))
        return called & self._chosen.of_process(process) & self._chosen.on_device(raw["deviceId"])

    @property
    def is_empty(self) -> bool:
        """Is there neither a call nor an operation?"""
        return not self._rows

    def cuts(self, parts: int, bytes_per_call: int, bytes_per_op: int, spare: float = 1) -> list[int]:
        """Times that cut the file into parts of about the same size; fewer where many rows have one time.

        A part has the operations that run in its time, and those that its calls launched, which may run much later. So
        there are more parts where one would else be larger than `spare` allows: that share of its room is to be used.
        """
        calls, ops = self.calls.samples, _Samples.of([table.samples for table in self.operations])
        load = _Load(calls.start, ops.launched_by(calls), ops.start, bytes_per_call, bytes_per_op)
        room, most = load.room(parts, spare), _MORE_PARTS * parts
        while True:
            cuts = load.cuts(parts)
            largest = load.largest(cuts)
            if largest <= room or parts >= most:
                return [int(cut) for cut in cuts]
            parts = min(int(parts * largest / room) + 1, most)


class _Load(NamedTuple):
    """When calls are made, operations launched and run, all of them samples; and the bytes that each takes."""

    called: Ints
    launched: Ints
    run: Ints
    per_call: float
    per_op: float

    def cuts(self, parts: int) -> Ints:
        """Times that cut the load into equal parts."""
        times = (self.called, self.launched, self.run)
        time, sizes = np.concatenate(times), (self.per_call, self.per_op / 2, self.per_op / 2)
        if not len(time):
            return time
        order = np.argsort(time, kind="stable")
        reach = np.cumsum(np.repeat(sizes, [len(one) for one in times])[order])
        at = np.searchsorted(reach, reach[-1] * np.arange(1, parts) / parts)
        cuts = distinct_in_any_order(time[order][at])
        found: Ints = cuts[cuts > time.min()]
        return found

    def largest(self, cuts: Ints) -> float:
        """Bytes of the largest part: its calls, what they launched, and with its call what runs in it besides."""
        called, launched, run = (
            np.searchsorted(cuts, times, side="right") for times in (self.called, self.launched, self.run)
        )
        kinds = (called, self.per_call), (launched, self.per_op), (run[run != launched], self.per_op + self._its_call)
        sizes = [size * np.bincount(part, minlength=len(cuts) + 1) for part, size in kinds]
        return float(np.sum(sizes, axis=0).max())

    def room(self, parts: int, spare: float) -> float:
        """Bytes that a part may take, where calls are kept whose operations are yet to run."""
        change = np.repeat([1, -1], len(self.run))[np.argsort(np.append(self.launched, self.run), kind="stable")]
        kept = self._its_call * int(np.cumsum(change).max(initial=0))
        every = self.per_call * len(self.called) + self.per_op * len(self.run)
        return max(every / parts / spare - kept / 2, 1)

    @property
    def _its_call(self) -> float:
        """An operation's share of the bytes of its call."""
        return self.per_call * min(len(self.called) / max(len(self.run), 1), 1)


class _Samples(NamedTuple):
    """When every so many of a table's rows begin, and of which process and id they are."""

    start: Ints
    process: Ints
    ids: Ints

    @staticmethod
    def of(some: list[_Samples]) -> _Samples:
        """Those of all."""
        nothing = np.zeros(0, np.int64)
        return _Samples(*(np.concatenate([nothing, *columns]) for columns in zip(*some, strict=True)))

    def launched_by(self, calls: _Samples) -> Ints:
        """About when each was launched, as a process counts its ids up; when it begins, for one without a call."""
        found = self.start.copy()
        for one in distinct(calls.process).tolist():
            mine, its = np.flatnonzero((self.process == one) & (self.ids != NULL)), np.flatnonzero(calls.process == one)
            its = its[np.argsort(calls.ids[its], kind="stable")]
            found[mine] = np.interp(self.ids[mine], calls.ids[its], calls.start[its])
        return found


def _chosen(blocks: Ints, raw: Columns, which: Bools) -> tuple[Ints, Columns]:
    """Some rows, and the block of each."""
    rows = np.flatnonzero(which)
    return blocks[rows], {name: column[rows] for name, column in raw.items()}


def _named(source: schema.Source) -> tuple[str, ...]:
    return tuple(name for name in source.columns if name == "demangledName")


class Blocks:
    """The blocks of a table's rows: by rowid, with what is in each."""

    def __init__(self, source: schema.Source) -> None:
        self.source = source
        nothing = np.zeros(0, np.int64)
        self.first, self.last, self.low, self.high = nothing, nothing, nothing, nothing
        self.samples = _Samples(nothing, nothing, nothing)
        self.orphans = np.zeros(0, np.bool_)
        self._ids = [_IdRanges(nothing, nothing, nothing, nothing)]

    def survey(self, export: Export, columns: tuple[str, ...]) -> Iterator[tuple[Ints, Columns]]:
        """Some columns of all rows, many blocks at a time, and the block of each row; the caller notes them."""
        if not export.has(self.source.table, "start"):
            return
        asked = schema.Source(self.source.table, columns)
        self.first, self.last = _block_edges(export, self.source.table)
        self.low = np.full(len(self.first), _FOREVER)
        self.high = np.full(len(self.first), NULL)
        self.orphans = np.zeros(len(self.first), np.bool_)

        def read(rowids: tuple[int, int]) -> Columns:
            return export.integers(asked, extra=("rowid",), rowids=rowids)

        begins = range(0, len(self.first), _BLOCKS_AT_ONCE)
        spans = [(int(self.first[one]), int(self.last[one : one + _BLOCKS_AT_ONCE][-1])) for one in begins]
        with Workers(_READERS) as readers:
            for raw in readers.in_turn(read, spans, _READERS):
                yield np.searchsorted(self.first, raw["rowid"], side="right") - 1, raw

    def note(self, blocks: Ints, start: Ints, process: Ints, ids: Ints) -> None:
        """Note the first and last start of each block, and some of the times."""
        heads = _heads(blocks)
        self.low[blocks[heads]] = np.minimum.reduceat(start, heads) if len(heads) else start
        self.high[blocks[heads]] = np.maximum.reduceat(start, heads) if len(heads) else start
        step = min(_SAMPLE, 1 + len(start) // _SAMPLE)
        self.samples = _Samples.of([self.samples, _Samples(start[::step], process[::step], ids[::step])])

    def note_ids(self, blocks: Ints, process: Ints, ids: Ints, orphan: Bools) -> None:
        """Note the least and greatest id of each block by process, and which blocks hold what no call launched."""
        self.orphans[blocks[orphan]] = True
        known = np.flatnonzero(ids != NULL)
        blocks, process, ids = blocks[known], process[known], ids[known]
        if not len(ids):
            return
        heads, group = group_rows(blocks, process)
        low, high = np.full(len(heads), _FOREVER), np.full(len(heads), NULL)
        np.minimum.at(low, group, ids)
        np.maximum.at(high, group, ids)
        self._ids.append(_IdRanges(blocks[heads], process[heads], low, high))

    def between(self, low: int, high: int) -> Bools:
        """The blocks in which something starts in ``[low, high)``."""
        return (self.low < high) & (self.high >= low)

    def with_ids(self, ids: IdRanges) -> Bools:
        """The blocks that can hold one of some ids, of which the least and the greatest are given by process."""
        found = np.zeros(len(self.first), np.bool_)
        if len(ids.process):
            for blocks, process, low, high in self._ids:
                place = np.minimum(np.searchsorted(ids.process, process), len(ids.process) - 1)
                meets = (ids.process[place] == process) & (low <= ids.high[place]) & (high >= ids.low[place])
                found[blocks[meets]] = True
        return found

    def read_between(self, export: Export, low: int, high: int) -> Columns:
        """The rows that start in ``[low, high)``."""
        raw = self.read(export, self.between(low, high), True)
        inside = np.flatnonzero((raw["start"] >= low) & (raw["start"] < high))
        return {name: column[inside] for name, column in raw.items()}

    def read(self, export: Export, wanted: Bools, details: bool) -> Columns:
        """All rows of some blocks."""
        return together(list(self.pieces(export, wanted, details)), self.source)

    def pieces(self, export: Export, wanted: Bools, details: bool, extra: tuple[str, ...] = ()) -> Iterator[Columns]:
        """The same, some blocks at a time; `extra`: those of the details that are read in any case."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            for first in range(begin, end, _BLOCKS_READ):
                last = min(first + _BLOCKS_READ, end) - 1
                rowids = (int(self.first[first]), int(self.last[last]))
                yield export.integers(self.source, details=details, extra=extra, rowids=rowids)


def together(parts: list[Columns], source: schema.Source) -> Columns:
    """The columns of a table, of which some rows are in each part."""
    if len(parts) == 1:
        return parts[0]
    rows = sum(len(part["start"]) for part in parts)
    return {
        name: nulls(rows)
        if parts and all(is_null(part[name]) for part in parts)
        else np.concatenate([np.zeros(0, np.int64), *(part[name] for part in parts)])
        for name in (*source.columns, *source.details)
    }


class IdRanges(NamedTuple):
    """The least and the greatest id of some processes, which are sorted."""

    process: Ints
    low: Ints
    high: Ints


class _IdRanges(NamedTuple):
    """The same by block and process."""

    block: Ints
    process: Ints
    low: Ints
    high: Ints


def id_ranges(process: Ints, ids: Ints) -> IdRanges:
    """The least and the greatest id by process; NULL is none."""
    known = np.flatnonzero(ids != NULL)
    order = known[np.argsort(process[known], kind="stable")]
    heads = _heads(process[order])
    if not len(heads):
        return IdRanges(heads, heads, heads)
    found = ids[order]
    return IdRanges(process[order[heads]], np.minimum.reduceat(found, heads), np.maximum.reduceat(found, heads))


def _block_edges(export: Export, table: str) -> tuple[Ints, Ints]:
    """The first and the last rowid of each block of a table."""
    ends = export.ends_of(table)
    if ends is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    low, high = ends
    if export.is_dense(table):
        first = np.arange(low, high + 1, _ROWS_PER_BLOCK)
    else:
        first = np.array(_counted_out(export, table, low), np.int64)
    return first, np.append(first[1:] - 1, high)


def _counted_out(export: Export, table: str, low: int) -> list[int]:
    """Every so many rows the rowid of one, for a table whose rowids are far apart."""
    found = [low]
    following = f'SELECT rowid FROM "{table}" WHERE rowid >= ? ORDER BY rowid LIMIT 1 OFFSET {_ROWS_PER_BLOCK}'
    while rows := export.rows(following, (found[-1],)):
        found.append(rows[0][0])
    return found


def _heads(blocks: Ints) -> Ints:
    """Where each block begins among rows that are in the order of their blocks."""
    return np.flatnonzero(np.append(True, blocks[1:] != blocks[:-1])[: len(blocks)])


class Ids:
    """Ids of API calls, by process: a few bytes for each, whatever they are.

    CUPTI counts them from a number on, so a process has a table of those that it made: a byte for each number from its
    least one on, as far as a good part of them is there. All others are kept one by one, sorted.
    """

    def __init__(self) -> None:
        self._tables: dict[int, _IdTable] = {}
        self._runs: list[_Pairs] = []
        self._added = 0

    def add(self, process: Ints, ids: Ints) -> None:
        """Note ids of calls; NULL is none."""
        known = np.flatnonzero(ids != NULL)
        process, ids = process[known], ids[known]
        self._added += len(ids)
        rest = np.ones(len(ids), np.bool_)
        for one in self._with_tables(process):
            mine = np.flatnonzero(process == one)
            table = self._tables.setdefault(one, _IdTable(int(ids[mine].min())))
            rest[mine[table.add(ids[mine])]] = False
        if rest.any():
            self._keep(_Pairs.of(process[rest], ids[rest]))

    def _with_tables(self, process: Ints) -> list[int]:
        """The processes that have a table, or get one."""
        free = _MOST_TABLES - len(self._tables)
        found = distinct(process).tolist()
        new = [one for one in found if one not in self._tables]
        return [*(one for one in found if one in self._tables), *new[:free]]

    def _keep(self, run: _Pairs) -> None:
        """Keep sorted ids; runs of about one length become one, so that there are few."""
        while self._runs and len(self._runs[-1].keys) < 2 * len(run.keys):
            run = self._runs.pop().with_those_of(run)
        self._runs.append(run)

    @property
    def repeats(self) -> bool:
        """Was any id added twice?"""
        while len(self._runs) > 1:
            self._runs.append(self._runs.pop().with_those_of(self._runs.pop()))
        count = sum(table.count for table in self._tables.values())
        for run in self._runs:
            process, ids = run.columns()
            count += len(ids) - int(self._in_tables(process, ids).sum())
        return count < self._added

    def has(self, process: Ints, ids: Ints) -> Bools:
        """True for the operations whose process made a call of that id."""
        found = self._in_tables(process, ids)
        for run in self._runs:
            found |= run.has(process, ids)
        return found

    def _in_tables(self, process: Ints, ids: Ints) -> Bools:
        found = np.zeros(len(ids), np.bool_)
        for one, table in self._tables.items():
            mine = np.flatnonzero(process == one)
            found[mine] = table.has(ids[mine])
        return found


class _IdTable:
    """A byte for each id from `low` on: was it added?"""

    def __init__(self, low: int) -> None:
        self._low, self.count, self._table = low, 0, np.zeros(0, np.bool_)

    def add(self, ids: Ints) -> Ints:
        """Note ids, as far as the table may be made so long; the places of those that it took."""
        most = self._low + _SLOTS_PER_ID * (self.count + len(ids)) + _SLOTS_FREE
        taken = np.flatnonzero((ids >= self._low) & (ids < most))
        place = ids[taken] - self._low
        needed = int(place.max(initial=-1)) + 1
        if needed > len(self._table):
            self._table = np.append(self._table, np.zeros(needed - len(self._table) + needed // 8, np.bool_))
        self._table[place] = True
        self.count = int(np.count_nonzero(self._table))
        return taken

    def has(self, ids: Ints) -> Bools:
        """True for those that were added."""
        inside = (ids >= self._low) & (ids < self._low + len(self._table))
        found = np.zeros(len(ids), np.bool_)
        found[inside] = self._table[ids[inside] - self._low]
        return found


class _Pairs(NamedTuple):
    """Distinct pairs: the processes, the ids, sorted keys: ``place of the process * len(ids) + place of the id``."""

    process: Ints
    ids: Ints
    keys: Ints

    @staticmethod
    def of(process: Ints, ids: Ints) -> _Pairs:
        """Of two columns."""
        few, many = distinct(process), distinct_in_any_order(ids)
        keys = np.searchsorted(few, process) * len(many) + np.searchsorted(many, ids)
        return _Pairs(few, many, distinct_in_any_order(keys))

    def columns(self) -> tuple[Ints, Ints]:
        """The two columns."""
        one, other = np.divmod(self.keys, len(self.ids))
        return self.process[one], self.ids[other]

    def with_those_of(self, other: _Pairs) -> _Pairs:
        """Those of both."""
        return _Pairs.of(*map(np.concatenate, zip(self.columns(), other.columns(), strict=True)))

    def has(self, process: Ints, ids: Ints) -> Bools:
        """True for the rows of two columns that are among them."""
        one = np.minimum(np.searchsorted(self.process, process), len(self.process) - 1)
        two = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        key = one * len(self.ids) + two
        place = np.minimum(np.searchsorted(self.keys, key), len(self.keys) - 1)
        found: Bools = (self.process[one] == process) & (self.ids[two] == ids) & (self.keys[place] == key)
        return found
