"""What a table is: named columns with a unit and a sentence each, and the Arrow table made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dsprof.arrays import NULL, Bools, Ints
from dsprof.arrays.statistics import Floats, Groups
from dsprof.facts import Facts, Measure, measures_behind
from dsprof.ground.arrow import bits
from dsprof.records import frozen

#: Version of the tables' columns and meanings; it grows when one of them changes.
SCHEMA_VERSION = 2

Kind = Literal["int", "float", "name", "bool"]


class CodedText(NamedTuple):
    """A column of text as codes into `strings`; a negative code is a missing value."""

    codes: npt.NDArray[np.integer[Any]]
    strings: tuple[str, ...]


@frozen
class Column:
    """One column: its name ends in its unit; `text` is the sentence that Parquet and docs/tables.md show."""

    name: str
    text: str
    kind: Kind = "int"
    nullable: bool = False

    @property
    def unit(self) -> str:
        """The unit that the name's suffix stands for; empty for names, numbers of things and identities."""
        suffixes = {"_ns_per_token": "ns per token", "_ns": "ns", "_pct": "%", "_bytes": "bytes", "_per_s": "1/s"}
        return next((unit for suffix, unit in suffixes.items() if self.name.endswith(suffix)), "bytes" if
                    self.name == "bytes" else "")  # fmt: skip


def name(column: str, text: str, nullable: bool = False) -> Column:
    """A column of text, dictionary-encoded."""
    return Column(column, text, "name", nullable)


def integer(column: str, text: str, nullable: bool = False) -> Column:
    """A column of int64."""
    return Column(column, text, "int", nullable)


def real(column: str, text: str, nullable: bool = False) -> Column:
    """A column of float64."""
    return Column(column, text, "float", nullable)


#: Nsight's statistics of durations, in the order and with the meaning of its reports.
STATISTICS = (
    integer("instances", "Number of kernels."),
    integer("total_ns", "Sum of their durations."),
    real("avg_ns", "Mean duration."),
    real("med_ns", "Median duration."),
    integer("min_ns", "Shortest duration."),
    integer("max_ns", "Longest duration."),
    real("stddev_ns", "Sample standard deviation of the durations; 0 for a single one."),
)


def statistics(groups: Groups) -> dict[str, Any]:
    """The columns of `STATISTICS` from what `arrays.statistics.describe` found."""
    values = (groups.instances, groups.total, groups.avg, groups.med, groups.min, groups.max, groups.stddev)
    return dict(zip((column.name for column in STATISTICS), values, strict=True))


def share_pct(part: Ints, whole: Ints | int) -> Floats:
    """`part` in percent of `whole`; 0 where the whole is 0."""
    of = np.broadcast_to(np.asarray(whole, np.float64), part.shape)
    share: Floats = np.divide(100.0 * part, of, out=np.zeros(part.shape), where=of > 0)
    return share


@frozen
class Table:
    """A table of the analysis: what a row is, its columns, and a function that gives their values.

    The arguments of `build` say by their types which facts it is built from (`dsprof.facts`).
    """

    name: str
    row: str
    columns: tuple[Column, ...]
    build: Callable[..., Mapping[str, Any]]

    @property
    def measures(self) -> tuple[type[Measure], ...]:
        """What must be measured for it."""
        return measures_behind(self.build)

    def arrow(self, facts: Facts, metadata: Mapping[str, str] | None = None) -> pa.Table:
        """The table as Arrow, each field with its unit and sentence; `metadata` goes to the whole table."""
        return self._arrow(facts.call(self.build), metadata)

    def _arrow(self, values: Mapping[str, Any], metadata: Mapping[str, str] | None) -> pa.Table:
        fields, arrays = [], []
        for column in self.columns:
            array = _array(column, values[column.name])
            about = {"description": column.text, **({"unit": column.unit} if column.unit else {})}
            fields.append(pa.field(column.name, array.type, column.nullable, about))
            arrays.append(array)
        about = {"dsprof.table": self.name, "dsprof.table_schema": str(SCHEMA_VERSION), **(metadata or {})}
        return pa.Table.from_arrays(arrays, schema=pa.schema(fields, metadata=about))


#: Rows of a table of events that are made at once.
_ROWS_AT_ONCE = 1 << 20


@frozen
class EventTable(Table):
    """A table with a row per event, in the order of their start; each part of a report gives its own rows.

    `ordered` gives the events in that order, `build` the values of some of them, which it is given as `order`.
    """

    ordered: Callable[..., Ints]

    def pieces(self, facts: Facts, metadata: Mapping[str, str] | None = None) -> Iterator[pa.Table]:
        """The rows of a part in pieces, so that they are never there as a whole; at least one."""
        order = facts.call(self.ordered)
        for first in range(0, max(len(order), 1), _ROWS_AT_ONCE):
            values = facts.call(self.build, order=order[first : first + _ROWS_AT_ONCE])
            yield self._arrow(values, metadata)


def _array(column: Column, values: Any) -> pa.Array:
    if column.kind == "name":
        return _dictionary(values)
    if column.kind == "bool":
        return bits(np.asarray(values, np.bool_))
    if column.kind == "float":
        values = np.asarray(values, np.float64)
        return _numbers(pa.float64(), values, np.isnan(values) if column.nullable else None)
    values = np.asarray(values, np.int64)
    return _numbers(pa.int64(), values, values == NULL if column.nullable else None)


def _numbers(kind: pa.DataType, values: npt.NDArray[Any], missing: Bools | None) -> pa.Array:
    """An Arrow array over numpy's own memory. `pa.array` would do, but it loads pandas to ask a question."""
    valid = None if missing is None or not missing.any() else np.packbits(~missing, bitorder="little")
    buffers = [None if valid is None else pa.py_buffer(valid), pa.py_buffer(np.ascontiguousarray(values))]
    return pa.Array.from_buffers(kind, len(values), buffers)


def _strings(texts: list[str]) -> pa.Array:
    encoded = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    data = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(texts), data)


def _dictionary(values: CodedText) -> pa.DictionaryArray:
    """Codes and strings as an Arrow dictionary that holds no string which no row uses."""
    codes, none = values.codes, len(values.strings)
    missing = codes < 0
    if missing.any():
        codes = np.where(missing, none, codes)
    used = np.flatnonzero(np.bincount(codes, minlength=none)[:none])
    slots: dict[str, int] = {}  # two codes may stand for one text, and a dictionary holds a text once
    slot = np.zeros(none + 1, np.int32)
    slot[used] = [slots.setdefault(values.strings[code], len(slots)) for code in used.tolist()]
    indices = _numbers(pa.int32(), slot.take(codes), missing)
    return pa.DictionaryArray.from_arrays(indices, _strings(list(slots)), safe=False)  # none is out of bounds
