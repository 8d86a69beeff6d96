"""Columns of tables from numbers and codes, against plain loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprof.arrays import NULL
from dsprof.facts import Facts
from dsprof.tables._table import CodedText, Table, integer, name
from dsprof.trace import dimensions, pack_dimensions


def column(of: Any, values: Any) -> Any:
    return Table("t", "a row", (of,), lambda: {of.name: values}).arrow(Facts()).column(of.name)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@given(codes=st.lists(st.integers(-3, 4)))
def test_codes_are_a_dictionary_of_the_texts_in_use(kind: npt.DTypeLike, codes: list[int]) -> None:
    strings = ("a", "é", "a", "", "z")
    found = column(name("x", "", True), CodedText(np.array(codes, kind), strings))
    assert found.to_pylist() == [strings[code] if code >= 0 else None for code in codes]
    (chunk,) = found.chunks
    chunk.validate(full=True)
    assert chunk.dictionary.to_pylist() == list(dict.fromkeys(strings[code] for code in sorted(codes) if code >= 0))


def test_codes_of_no_texts_are_missing() -> None:
    assert column(name("x", "", True), CodedText(np.array([-1, -1]), ())).to_pylist() == [None, None]


@given(st.lists(st.one_of(st.just(NULL), st.integers(-(2**63), 2**63 - 1))))
def test_null_is_missing_where_it_may_be(values: list[int]) -> None:
    array = np.array(values, np.int64)
    assert column(integer("x", "", True), array).to_pylist() == [None if one == NULL else one for one in values]
    assert column(integer("x", ""), array).to_pylist() == values


axes = st.one_of(st.just(NULL), st.integers(1, 65535))


@given(st.lists(st.tuples(st.one_of(axes, st.integers(1, 2**31 - 1)), axes, axes)), st.integers(1, 3))
def test_dimensions_in_words(drawn: list[tuple[int, int, int]], times: int) -> None:
    assert_in_words(drawn * times)


def test_many_dimensions_in_words() -> None:
    assert_in_words([(x % 40_000 + 1, y, 1) for x, y in enumerate([1, 2, 3, 4] * 15_000)])


def assert_in_words(drawn: list[tuple[int, int, int]]) -> None:
    codes, strings = dimensions(pack_dimensions(*np.array(drawn, np.int64).reshape(-1, 3).T))
    expected = [None if NULL in one else "{},{},{}".format(*one) for one in drawn]
    assert [strings[code] if code >= 0 else None for code in codes.tolist()] == expected
    assert len(set(strings)) == len(strings)
    assert set(strings) == {one for one in expected if one is not None}
