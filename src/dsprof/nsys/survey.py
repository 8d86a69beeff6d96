"""Where in a file what is: which blocks of rows hold which times and correlationIds, and which ids have a call."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dsprof.attribution import NULL, Bools, Ints, distinct, distinct_in_any_order
from dsprof.nsys import schema
from dsprof.nsys.export import Columns, Export
from dsprof.nsys.rows import only_caller
from dsprof.trace import process_of

#: Rows that are told apart, blocks that are looked at together, and every how many rows a sample of the times is.
_ROWS_PER_BLOCK, _BLOCKS_AT_ONCE, _SAMPLE = 1 << 14, 64, 64
#: Columns of operations that are looked at; some of them only to count what is impossible.
_SURVEYED = ("start", "end", "globalPid", "correlationId", "bytes")
#: CUPTI's ids are of 32 bits; what else stands there is kept one by one.
_MOST_IDS = 1 << 32


class Survey:
    """One look at the API calls and operations of a file, in as much memory as a byte for each call takes."""

    def __init__(self, export: Export) -> None:
        self.seen = Ids()
        callers = [np.zeros(0, np.int64)]
        self.calls = Blocks(schema.CALLS)
        for blocks, raw in self.calls.survey(export, ("start", "end", "globalTid", "correlationId")):
            process = process_of(raw["globalTid"])
            self.seen.add(process, raw["correlationId"])
            callers.append(distinct(raw["globalTid"]))
            self.calls.note(blocks, raw["start"])
        self.caller = only_caller(np.concatenate(callers))
        #: Does an id stand for two calls? The earlier one counts, though it be in another part.
        self.repeats = self.seen.repeats
        self.operations = [Blocks(source) for source in schema.OPERATIONS]
        for table in self.operations:
            for blocks, raw in table.survey(export, _SURVEYED):
                process = self.process(raw["globalPid"])
                table.note(blocks, raw["start"])
                table.note_ids(blocks, process, raw["correlationId"], ~self.seen.has(process, raw["correlationId"]))

    def process(self, process: Ints) -> Ints:
        """The process of each operation; one that the file does not name is the only one that called."""
        return process if self.caller is None else np.where(process == NULL, self.caller, process)

    @property
    def is_empty(self) -> bool:
        """Is there neither a call nor an operation?"""
        return not any(len(table.first) for table in (self.calls, *self.operations))

    def cuts(self, parts: int, bytes_per_call: int, bytes_per_op: int) -> list[int]:
        """Times that cut the file into parts of about the same size; fewer where many rows have one time."""
        samples = [self.calls.samples, *(table.samples for table in self.operations)]
        weights = [bytes_per_call, *(bytes_per_op for _ in self.operations)]
        time = np.concatenate(samples)
        if not len(time):
            return []
        weight = np.repeat(weights, [len(one) for one in samples])
        order = np.argsort(time, kind="stable")
        reach = np.cumsum(weight[order])
        at = np.searchsorted(reach, reach[-1] * np.arange(1, parts) / parts)
        found = np.unique(time[order][at])
        return [int(cut) for cut in found if cut > time.min()]


class Blocks:
    """The blocks of a table's rows: by rowid, with what is in each."""

    def __init__(self, source: schema.Source) -> None:
        self._source = source
        nothing = np.zeros(0, np.int64)
        self.first, self.low, self.high, self.samples = nothing, nothing, nothing, nothing
        self.orphans = np.zeros(0, np.bool_)
        self._ids: dict[int, tuple[Ints, Ints]] = {}

    def survey(self, export: Export, columns: tuple[str, ...]) -> Iterator[tuple[Ints, Columns]]:
        """Some columns of all rows, many blocks at a time, and the block of each row; the caller notes them."""
        if not export.has(self._source.table, "start"):
            return
        asked = schema.Source(self._source.table, columns)
        # Each by itself is a look at one end of the table; both in one query would be a look at every row.
        ((low,),) = export.rows(f'SELECT min(rowid) FROM "{self._source.table}"')
        ((high,),) = export.rows(f'SELECT max(rowid) FROM "{self._source.table}"')
        if low is None:
            return
        self.first = np.arange(low, high + 1, _ROWS_PER_BLOCK)
        self.low = np.full(len(self.first), np.iinfo(np.int64).max)
        self.high = np.full(len(self.first), NULL)
        self.orphans = np.zeros(len(self.first), np.bool_)
        for begin in range(low, high + 1, _ROWS_PER_BLOCK * _BLOCKS_AT_ONCE):
            end = begin + _ROWS_PER_BLOCK * _BLOCKS_AT_ONCE - 1
            raw = export.integers(asked, extra=("rowid",), rowids=(begin, end))
            yield (raw["rowid"] - low) // _ROWS_PER_BLOCK, raw

    def note(self, blocks: Ints, start: Ints) -> None:
        """Note the first and last start of each block, and some of the times."""
        heads = _heads(blocks)
        self.low[blocks[heads]] = np.minimum.reduceat(start, heads) if len(heads) else start
        self.high[blocks[heads]] = np.maximum.reduceat(start, heads) if len(heads) else start
        self.samples = np.concatenate([self.samples, start[:: min(_SAMPLE, 1 + len(start) // _SAMPLE)]])

    def note_ids(self, blocks: Ints, process: Ints, ids: Ints, orphan: Bools) -> None:
        """Note the least and greatest id of each block by process, and which blocks hold what no call launched."""
        self.orphans[blocks[orphan]] = True
        for one in distinct(process).tolist():
            mine = (process == one) & (ids != NULL)
            if one not in self._ids:
                self._ids[one] = np.full(len(self.first), np.iinfo(np.int64).max), np.full(len(self.first), NULL)
            low, high = self._ids[one]
            of, number = (blocks, ids) if mine.all() else (blocks[mine], ids[mine])
            heads = _heads(of)
            if len(heads):
                low[of[heads]] = np.minimum.reduceat(number, heads)
                high[of[heads]] = np.maximum.reduceat(number, heads)

    def between(self, low: int, high: int) -> Bools:
        """The blocks in which something starts in ``[low, high)``."""
        return (self.low < high) & (self.high >= low)

    def with_ids(self, ids: dict[int, tuple[int, int]]) -> Bools:
        """The blocks that can hold one of some ids, of which the least and the greatest are given by process."""
        found = np.zeros(len(self.first), np.bool_)
        for process, (least, greatest) in ids.items():
            if process in self._ids:
                low, high = self._ids[process]
                found |= (low <= greatest) & (high >= least)
        return found

    def read_between(self, export: Export, low: int, high: int) -> Columns:
        """The rows that start in ``[low, high)``."""
        raw = self.read(export, self.between(low, high), True)
        inside = np.flatnonzero((raw["start"] >= low) & (raw["start"] < high))
        return {name: column[inside] for name, column in raw.items()}

    def read(self, export: Export, wanted: Bools, details: bool) -> Columns:
        """All rows of some blocks."""
        edges = np.flatnonzero(np.diff(np.concatenate([[False], wanted, [False]]).astype(np.int8)))
        spans = [
            (int(self.first[begin]), int(self.first[end - 1]) + _ROWS_PER_BLOCK - 1)
            for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
        ]
        parts = [export.integers(self._source, details=details, rowids=span) for span in spans]
        if len(parts) == 1:
            return parts[0]
        names = (*self._source.columns, *self._source.details)
        return {name: np.concatenate([np.zeros(0, np.int64), *(part[name] for part in parts)]) for name in names}


def id_ranges(process: Ints, ids: Ints) -> dict[int, tuple[int, int]]:
    """The least and the greatest id by process; NULL is none."""
    found = {}
    for one in distinct(process).tolist():
        mine = ids[(process == one) & (ids != NULL)]
        if len(mine):
            found[one] = int(mine.min()), int(mine.max())
    return found


def _heads(blocks: Ints) -> Ints:
    """Where each block begins among rows that are in the order of their blocks."""
    return np.flatnonzero(np.append(True, blocks[1:] != blocks[:-1])[: len(blocks)])


class Ids:
    """Ids of API calls, by process: a byte for each."""

    def __init__(self) -> None:
        self._table: dict[int, Bools] = {}
        self._odd: dict[int, Ints] = {}
        self._added = 0

    def add(self, process: Ints, ids: Ints) -> None:
        """Note ids of calls; NULL is none."""
        for one in distinct(process).tolist():
            mine = ids[(process == one) & (ids != NULL)]
            self._added += len(mine)
            odd = (mine < 0) | (mine >= _MOST_IDS)
            if odd.any():
                known = self._odd.get(one, mine[:0])
                self._odd[one] = distinct_in_any_order(np.concatenate([known, mine[odd]]))
                mine = mine[~odd]
            table, needed = self._table.get(one, np.zeros(0, np.bool_)), int(mine.max(initial=-1)) + 1
            if needed > len(table):
                table = np.concatenate([table, np.zeros(needed - len(table) + needed // 8, np.bool_)])
            table[mine] = True
            self._table[one] = table

    @property
    def repeats(self) -> bool:
        """Was any id added twice?"""
        tables, odd = self._table.values(), self._odd.values()
        return sum(map(np.count_nonzero, tables)) + sum(map(len, odd)) < self._added

    def has(self, process: Ints, ids: Ints) -> Bools:
        """True for the operations whose process made a call of that id."""
        found = np.zeros(len(ids), np.bool_)
        for one in distinct(process).tolist():
            mine = np.flatnonzero(process == one)
            table, number = self._table.get(one, np.zeros(0, np.bool_)), ids[mine]
            inside = (number >= 0) & (number < len(table))
            found[mine[inside]] = table[number[inside]]
            found[mine[~inside]] = np.isin(number[~inside], self._odd.get(one, number[:0]))
        return found
