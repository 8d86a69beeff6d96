"""The strings of a report that its columns use, each once: names of ranges, API calls and kernels.

Others are never read: nsys keeps whatever the profiled program printed among the strings as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dsprof.arrays import NULL, Ints, distinct
from dsprof.nsys import schema
from dsprof.nsys.export import Export, text_of
from dsprof.trace import Codes

#: Of a text so many bytes are read; what is cut ends in an ellipsis.
LONGEST = 1 << 16
#: A table of codes by id may have this many slots for each id, and this many more.
_SLOTS_PER_ID, _SLOTS_FREE = 16, 1 << 20
#: Rows that are asked for in one query.
_AT_ONCE = 1_000


class Names:
    """The strings, and the codes under which the columns hold them; of a column, once `learn` was told its ids."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {"": 0}
        self._ids = self._of_id = np.zeros(0, np.int64)
        self._by_id = self._table()

    def learn(self, export: Export, ids: Ints) -> None:
        """Read the strings of a column of ids, as far as there are such and they are not known."""
        new = np.setdiff1d(distinct(ids), np.append(self._ids, NULL), assume_unique=True)
        if not len(new) or not export.has(schema.STRINGS, "id", "value"):
            return
        found = {number: self.code(text) for number, text in texts(export, schema.STRINGS, "id", "value", new)}
        known = np.concatenate([self._ids, np.array(list(found), np.int64)])
        order = np.argsort(known, kind="stable")
        self._ids = known[order]
        self._of_id = np.concatenate([self._of_id, np.array(list(found.values()), np.int64)])[order]
        self._by_id = self._table()

    def _table(self) -> Codes | None:
        """The codes by id, and one entry more for ids that are none; None where ids are spread too wide for that."""
        low, high = (int(self._ids[0]), int(self._ids[-1])) if len(self._ids) else (0, 0)
        if low < 0 or high > _SLOTS_PER_ID * len(self._ids) + _SLOTS_FREE:
            return None
        table = np.zeros(high + 2, np.int32)
        table[self._ids] = self._of_id
        return table

    def __contains__(self, text: str) -> bool:
        """Is the string known?"""
        return text in self._codes

    def code(self, text: str) -> int:
        """The code of a string, new or known."""
        return self._codes.setdefault(text, len(self._codes))

    def of_ids(self, ids: Ints) -> Codes:
        """The codes of a column of StringIds; the empty string's where there is no such id."""
        if self._by_id is not None:
            known = (ids >= 0) & (ids < len(self._by_id))
            code: Codes = self._by_id[np.where(known, ids, len(self._by_id) - 1)]
            return code
        used = distinct(ids)
        slot = np.minimum(np.searchsorted(self._ids, used), len(self._ids) - 1)
        code = np.where(self._ids[slot] == used, self._of_id[slot], 0)
        return code[np.searchsorted(used, ids)].astype(np.int32)

    def all(self) -> tuple[str, ...]:
        """The strings, in the order of their codes."""
        return tuple(self._codes)


def texts(export: Export, table: str, key: str, column: str, keys: Ints) -> Iterator[tuple[int, str]]:
    """The texts of some rows of a table, told by an integer column, in the order of that; the first row of each."""
    seen = set[int]()
    for first in range(0, len(keys), _AT_ONCE):
        some = ", ".join(map(str, np.sort(keys)[first : first + _AT_ONCE].tolist()))
        chosen = f"{key} IN ({some}) AND typeof({key}) = 'integer'"  # not a blob or text that looks like one
        rows = f'FROM "{table}" WHERE {chosen} ORDER BY {key}, rowid'
        for number, raw in export.rows(f"SELECT {key}, {shortened(column)} {rows}"):
            if number not in seen:
                seen.add(number)
                yield number, text(raw, export.encoding)


def shortened(column: str) -> str:
    """A column of text in SQL, as bytes, and one more than are kept of a long one."""
    return f"substr(CAST({column} AS BLOB), 1, {LONGEST + 1})"


def text(raw: object, encoding: str) -> str:
    """A text as `shortened` gives it, from a file of that encoding."""
    if isinstance(raw, bytes) and len(raw) > LONGEST:
        return text_of(raw[:LONGEST], encoding) + "…"
    return text_of(raw, encoding)
