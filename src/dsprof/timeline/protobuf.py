"""Messages of Protocol Buffers as bytes: one by one, and with numpy many at once.

Many messages are a matrix with a row for each; a field is some of its columns, and a mask of the bytes that are used::

    row 0    58 | 07 .. .. | 50 | 2a ..        key, number of the track, key, number of the name
    row 1    58 | 81 02 .. | 50 | 07 ..        what is not used (..) is left out when the rows become bytes

so that a number of any length takes no branch.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from dsprof.arrays import Bools, Ints

_Bytes = npt.NDArray[np.uint8]
_VARINT, _FIXED64, _MESSAGE = 0, 1, 2
_MORE = 0x80


def varint(value: int) -> bytes:
    """A number, seven bits a byte; a negative one as its complement of two.

    >>> varint(300).hex(), len(varint(-1))
    ('ac02', 10)
    """
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= _MORE:
        out.append(value & (_MORE - 1) | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)


def _key(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def number(field: int, value: int) -> bytes:
    """A field that is a number."""
    return _key(field, _VARINT) + varint(value)


def message(field: int, *parts: bytes) -> bytes:
    """A field that is a message."""
    body = b"".join(parts)
    return _key(field, _MESSAGE) + varint(len(body)) + body


def text(field: int, value: str) -> bytes:
    """A field that is text; what UTF-8 does not have becomes a question mark."""
    return message(field, value.encode("utf-8", "replace"))


class Messages:
    """Many messages of one kind, a row each, made field by field; `where` says which of them have a field."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._columns: list[_Bytes] = []
        self._used: list[Bools] = []
        self.length = np.zeros(count, np.int64)

    def same(self, same: bytes, where: Bools | None = None) -> Self:
        """Some bytes that are the same in all."""
        columns = np.broadcast_to(np.frombuffer(same, np.uint8), (self._count, len(same)))
        return self._add(columns, None, len(same), where)

    def number(self, field: int, values: Ints, where: Bools | None = None) -> Self:
        """A field that is a number; a negative one takes ten bytes."""
        return self.same(_key(field, _VARINT), where)._varint(values, where)

    def fixed(self, field: int, values: npt.NDArray[np.int64 | np.float64], where: Bools | None = None) -> Self:
        """A field of eight bytes: ``fixed64`` of integers, ``double`` of floats."""
        columns = np.ascontiguousarray(values).view(np.uint8).reshape(self._count, 8)
        return self.same(_key(field, _FIXED64), where)._add(columns, None, 8, where)

    def message(self, field: int, inner: Messages, where: Bools | None = None) -> Self:
        """A field that is a message."""
        self.same(_key(field, _MESSAGE), where)._varint(inner.length, where)
        for columns, used in zip(inner._columns, inner._used, strict=True):
            self._add(columns, used, 0, where)
        self.length += inner.length if where is None else inner.length * where
        return self

    def joined(self) -> bytes:
        """All of them, one behind the other."""
        if not self._count:
            return b""
        columns, used = np.concatenate(self._columns, axis=1), np.concatenate(self._used, axis=1)
        return columns[used].tobytes()

    def _varint(self, values: Ints, where: Bools | None) -> Self:
        rest = values.astype(np.uint64)
        width = max(1, -(-int(rest.max(initial=1)).bit_length() // 7))
        columns = np.empty((self._count, width), np.uint8)
        used = np.ones((self._count, width), np.bool_)
        for place in range(width - 1):
            columns[:, place] = rest  # its lowest bits
            rest = rest >> np.uint64(7)
            np.not_equal(rest, 0, out=used[:, place + 1])
            columns[:, place] = columns[:, place] & (_MORE - 1) | used[:, place + 1] * np.uint8(_MORE)
            self.length += used[:, place + 1] if where is None else used[:, place + 1] & where
        columns[:, width - 1] = rest
        return self._add(columns, used, 1, where)

    def _add(self, columns: _Bytes, used: Bools | None, length: int, where: Bools | None) -> Self:
        """Some columns, of which each message has those that are used; `length` of them, or as was added already."""
        if used is None:
            used = np.broadcast_to(np.True_ if where is None else where[:, None], columns.shape)
        elif where is not None:
            used = used & where[:, None]
        self._columns.append(columns)
        self._used.append(used)
        self.length += length if where is None else length * where
        return self
