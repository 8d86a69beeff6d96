"""The loops of `pages` over rows, compiled by numba: each gives what the array code beside its call gives.

To import this module is to compile it, or to load it from numba's cache. Compiled code checks no index; so a function
looks first whether a place is within the buffer, and returns `UNKNOWN` where it is not, whatever the bytes say.
Places are unsigned: those are not taken for places counted from the end, and eight bytes load as one word.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

UNKNOWN = -1
#: So many columns does `gather` fill.
AT_ONCE = 4
_LEAST = np.iinfo(np.int64).min
_ONE, _TWO, _SEVEN, _EIGHT, _LOW = np.uint64(1), np.uint64(2), np.uint64(7), np.uint64(8), np.uint64(127)
#: A cell's size and rowid end within so many bytes, a header within so many.
_SIZES, _HEADER = 11, 127
#: A header is looked for in so many of the slots, from the one that its bytes choose (by 2**64 over the golden ratio).
_PROBES, _SLOT_BITS, _SPREAD = 8, 12, np.uint64(0x9E3779B97F4A7C15)


@njit(nogil=True)
def _word(flat: Bytes, at: np.uint64) -> np.uint64:
    """Eight bytes, the first on top."""
    word = np.uint64(0)
    for byte in range(8):
        word = word << _EIGHT | np.uint64(flat[at + np.uint64(byte)])
    return word


@njit(nogil=True)
def _part(flat: Bytes, at: np.uint64, done: np.uint64, width: np.uint64) -> np.uint64:
    """Up to eight bytes of the first `width` from a place on, those behind the first `done`; zero behind their end."""
    word, left = _word(flat, at + done), width - done
    return word if left >= _EIGHT else word >> (_EIGHT * (_EIGHT - left))


@njit(nogil=True)
def _same(flat: Bytes, one: np.uint64, two: np.uint64, width: np.uint64) -> bool:
    """Are the first `width` bytes from two places on the same?"""
    done = np.uint64(0)
    while done < width:
        if _part(flat, one, done, width) != _part(flat, two, done, width):
            return False
        done += _EIGHT
    return True


@njit(nogil=True)
def _slot(flat: Bytes, at: np.uint64, width: np.uint64) -> np.int64:
    """The slot of the first `width` bytes from a place on."""
    mixed, done = np.uint64(0), np.uint64(0)
    while done < width:
        mixed = (mixed ^ _part(flat, at, done, width)) * _SPREAD
        done += _EIGHT
    return np.int64(mixed >> np.uint64(64 - _SLOT_BITS))


@njit(nogil=True)
def _payload(flat: Bytes, at: np.uint64) -> tuple[np.int64, np.uint64]:
    """A size of one or two bytes, and where it ends; a longer one is `UNKNOWN`."""
    size, second = np.int64(flat[at]), np.int64(flat[at + _ONE])
    if size < 128:
        return size, at + _ONE
    return (size & 127) << 7 | second if second < 128 else np.int64(UNKNOWN), at + _TWO


@njit(nogil=True)
def _rowid(flat: Bytes, at: np.uint64) -> tuple[np.int64, np.uint64]:
    """A number of one to nine bytes, and where it ends."""
    value = np.uint64(0)
    for _ in range(8):
        byte = np.uint64(flat[at])
        at += _ONE
        value = value << _SEVEN | byte & _LOW
        if byte <= _LOW:
            return np.int64(value), at
    return np.int64(value << _EIGHT | np.uint64(flat[at])), at + _ONE


@njit("i8(u1[::1], i8[::1], i8[::1], i8[::1], i8, i8[::1], i8[::1], i8[::1])", nogil=True, cache=True)
def cells(
    flat: Bytes, starts: Ints, counts: Ints, edges: Ints, usable: int, rowid: Ints, head: Ints, payload: Ints
) -> int:
    """Fills in the rowid of each cell of some pages, where its header begins, and the size of header and values.

    Rowids must ascend between the edges of their pages.
    """
    row = 0
    for page in range(len(starts)):
        start, count, above = starts[page], counts[page], edges[page]
        lowest = 8 + 2 * count
        if start < 0 or start > len(flat) - usable - _SIZES or lowest > usable or row + count > len(rowid):
            return UNKNOWN
        for number in range(count):
            pair = np.uint64(start + 8 + 2 * number)
            pointer = np.int64(flat[pair]) << 8 | np.int64(flat[pair + _ONE])
            if pointer < lowest or pointer > usable - 4:
                return UNKNOWN
            size, at = _payload(flat, np.uint64(start + pointer))
            key, at = _rowid(flat, at)
            begin = np.int64(at)
            if size < 0 or size > usable - 35 or begin - start + size > usable:
                return UNKNOWN
            if (row and key <= rowid[row - 1]) or (number == 0 and _LEAST < key <= above):
                return UNKNOWN
            rowid[row], head[row], payload[row] = key, begin, size
            row += 1
        if count > 0 and rowid[row - 1] > edges[page + 1]:
            return UNKNOWN
    return row


@njit("i8(u1[::1], i8[::1], i8, i8[::1], i8[::1])", nogil=True, cache=True)
def groups(flat: Bytes, head: Ints, width: int, group: Ints, first: Ints) -> int:
    """Numbers rows by the first `width` bytes of their header: fills in each row's group, and a row of each group."""
    slots = np.full(1 << _SLOT_BITS, -1, np.int64)
    found, last = 0, -1
    for row in range(len(head)):
        if head[row] < 0 or head[row] > len(flat) - _HEADER - 8:
            return UNKNOWN
        at = np.uint64(head[row])
        length = np.int64(flat[at])
        if length < 1 or length > _HEADER:
            return UNKNOWN
        known = np.uint64(length if length < width else width)
        if last < 0 or not _same(flat, at, np.uint64(head[first[last]]), known):
            slot = _slot(flat, at, known)
            for _ in range(_PROBES):
                last = slots[slot]
                if last < 0 or _same(flat, at, np.uint64(head[first[last]]), known):
                    break
                slot = (slot + 1) & ((1 << _SLOT_BITS) - 1)
            else:
                last = -1
            if last < 0:
                last = slots[slot] = found
                first[last] = row
                found += 1
        group[row] = last
    return found


@njit("b1(u1[::1], i8[::1], i8[::1], i8[::1], i8[::1], b1[::1])", nogil=True, cache=True)
def fits(flat: Bytes, head: Ints, payload: Ints, group: Ints, end: Ints, ended: npt.NDArray[np.bool_]) -> bool:
    """Are all rows within the buffer, and end where their group's columns do, or behind if it has more columns?"""
    for row in range(len(head)):
        spare = payload[row] - end[group[row]]
        if spare < 0 or (spare and ended[group[row]]) or not 0 <= head[row] <= len(flat) - 8 - payload[row]:
            return False
    return True


@njit(nogil=True)
def _value(flat: Bytes, head: int, place: int, shift: int) -> np.int64:
    """The bytes at a place behind a header's beginning, or with ~ at one of the buffer, shifted to their width."""
    return np.int64(_word(flat, np.uint64(head + place if place >= 0 else ~place))) >> shift


@njit(
    "void(u1[::1], i8[::1], i8[::1], i8[:,::1], i8[:,::1], i8, i8[::1], i8[::1], i8[::1], i8[::1])",
    nogil=True,
    cache=True,
)
def gather(
    flat: Bytes, head: Ints, group: Ints, place: Ints, shift: Ints, first: int, a: Ints, b: Ints, c: Ints, d: Ints
) -> None:
    """Fills in the values of four columns from the first on, of rows that `fits` has judged; tables are by group."""
    for row in range(len(head)):
        at, places, shifts = head[row], place[group[row]], shift[group[row]]
        a[row] = _value(flat, at, places[first], shifts[first])
        b[row] = _value(flat, at, places[first + 1], shifts[first + 1])
        c[row] = _value(flat, at, places[first + 2], shifts[first + 2])
        d[row] = _value(flat, at, places[first + 3], shifts[first + 3])
