"""Rows and columns of a table as asked for, against plain loops."""

from __future__ import annotations

import io
import json
import operator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import dsprof
from dsprof.cli import app
from dsprof.errors import SelectionUnusable
from dsprof.show.select import select
from dsprof.tables import all_tables

SAMPLE = Path(__file__).resolve().parent.parent / "traces/samples/h200-graph-graph.sqlite.xz"

COMPARED = {"==": operator.eq, "!=": operator.ne, "<": operator.lt, ">=": operator.ge}
rows = st.lists(
    st.tuples(st.sampled_from(["a", "b", "é'\"", None]), st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)))
)


def table(drawn: list[tuple[str | None, int | None]]) -> pa.Table:
    texts = pa.array([text for text, _ in drawn], pa.string()).dictionary_encode()
    numbers = pa.array([number for _, number in drawn], pa.int64())
    fields = [pa.field("text", texts.type), pa.field("number", pa.int64(), metadata={"unit": "ns"})]
    return pa.table([texts, numbers], pa.schema(fields, metadata={"dsprof.table_schema": "2"}))


def pairs(found: pa.Table) -> list[tuple[Any, Any]]:
    return list(zip(*(column.to_pylist() for column in found.columns), strict=True))


@given(rows, st.sampled_from(sorted(COMPARED)), st.integers(-(2**62), 2**62))
def test_rows_for_which_a_condition_holds(drawn: Any, sign: str, bound: int) -> None:
    made = table(drawn)
    found = select(made, where=f"number {sign} {bound}")
    assert pairs(found) == [row for row in drawn if row[1] is not None and COMPARED[sign](row[1], bound)]
    assert found.schema.equals(made.schema, check_metadata=True)


@given(rows)
def test_texts_and_numbers_in_one_condition(drawn: Any) -> None:
    found = select(table(drawn), where="text == 'a' and number > 0 or text.str.contains('\"')")
    expected = [
        (text, number)
        for text, number in drawn
        if (text == "a" and number is not None and number > 0) or (text is not None and '"' in text)
    ]
    assert pairs(found) == expected


@given(rows)
def test_a_missing_text_is_unequal_to_each(drawn: Any) -> None:
    assert pairs(select(table(drawn), where="text != 'a'")) == [row for row in drawn if row[0] != "a"]


@given(rows, st.booleans(), st.booleans())
def test_rows_in_order_with_what_is_missing_last(drawn: Any, text_down: bool, number_down: bool) -> None:
    found = select(table(drawn), sort=["-text" if text_down else "text", "-number" if number_down else "number"])
    expected = list(drawn)
    for at, down in ((1, number_down), (0, text_down)):
        there = sorted((row for row in expected if row[at] is not None), key=operator.itemgetter(at), reverse=down)
        expected = there + [row for row in expected if row[at] is None]
    assert pairs(found) == expected


@given(rows, st.integers(1, 2**70))
def test_columns_and_a_number_of_rows(drawn: Any, limit: int) -> None:
    made = table(drawn)
    found = select(made, columns=["number"], limit=limit)
    assert pairs(found) == [(number,) for _, number in drawn[:limit]]
    assert found.schema.field("number").metadata == {b"unit": b"ns"}
    assert found.schema.metadata == made.schema.metadata


def test_order_and_condition_may_use_columns_that_are_not_shown() -> None:
    found = select(table([("a", 1), ("b", 3), ("b", 2)]), columns=["number"], where="text == 'b'", sort=["number"])
    assert pairs(found) == [(2,), (3,)]


@pytest.mark.parametrize(
    "where",
    [
        "", "nosuch > 1", "number", "number = 1", "number >", "number > 'a'", "text == b", "text == @table", "text > 1",
        "((((number", "(" * 3000 + "number", "number.nosuch()", "3 > 2", "x = number > 1", "number > 1\nnumber > 2",
        "number > 1; text", "number\0 > 1", "__import__('os').number", "[number > 1]", "number.sum() > 1",
    ],
)  # fmt: skip
def test_what_is_no_condition_is_told_with_the_columns_or_an_example(where: str) -> None:
    with pytest.raises(SelectionUnusable) as error:
        select(table([("a", 1)]), where=where)
    assert "text, number" in error.value.hint or "stage == 'decode'" in error.value.hint


@pytest.mark.parametrize("words", [{"columns": ["nosuch"]}, {"columns": [""]}, {"sort": ["-nosuch"]}, {"sort": ["-"]}])
def test_a_column_that_is_not_there_is_told(words: dict[str, list[str]]) -> None:
    with pytest.raises(SelectionUnusable, match="no column") as error:
        select(table([]), **words)  # type: ignore[arg-type]
    assert "text, number" in error.value.hint


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("sample") / SAMPLE.name
    copy.write_bytes(SAMPLE.read_bytes())
    return copy


@pytest.fixture(scope="module")
def analysis(report: Path) -> dsprof.Analysis:
    return dsprof.analyze(report)


def asked(report: Path, *words: str) -> bytes:
    ended = CliRunner().invoke(app, ["table", str(report), "stage_kern_sum", *words])
    assert ended.exit_code == 0, ended.output
    return ended.stdout_bytes


@pytest.mark.parametrize("limit", ["--limit", "--rows"])
def test_the_same_selection_in_every_format(report: Path, analysis: dsprof.Analysis, limit: str) -> None:
    frame = analysis["stage_kern_sum"]
    expected = frame[frame["stage"] == "decode"].sort_values("total_ns", ascending=False)["total_ns"].head(3).tolist()
    assert len(expected) == 3
    words = ["--where", "stage == 'decode'", "--sort", "-total_ns", limit, "3", "--columns", "total_ns, stage"]
    assert json.loads(asked(report, *words, "--format", "json"))["rows"] == [
        {"total_ns": total, "stage": "decode"} for total in expected
    ]
    csv = asked(report, *words, "--format", "csv").decode().splitlines()
    assert csv == ["total_ns,stage", *(f"{total},decode" for total in expected)]
    assert pq.read_table(io.BytesIO(asked(report, *words, "--format", "parquet")))["total_ns"].to_pylist() == expected
    lines = asked(report, *words, "--raw").decode().splitlines()
    assert [line.split()[1] for line in lines if line.endswith("decode")] == [str(total) for total in expected]


def test_a_screen_says_how_many_rows_it_leaves_out(report: Path, analysis: dsprof.Analysis) -> None:
    frame = analysis["stage_kern_sum"]
    of_decode = int((frame["stage"] == "decode").sum())
    shown = asked(report, "--where", "stage == 'decode'", "--limit", "2").decode()
    assert f"stage_kern_sum: {of_decode} rows" in shown
    assert f"… {of_decode - 2} more rows: --limit shows more" in shown


@pytest.mark.parametrize("name", all_tables())
def test_every_table_is_sorted_and_searched_by_each_of_its_columns(analysis: dsprof.Analysis, name: str) -> None:
    table = analysis.arrow(name).slice(0, 1000)
    for column in table.column_names:
        down = select(table, columns=[column], sort=[f"-{column}"]).column(0).to_pylist()
        values = [value for value in down if value is not None]
        assert values == sorted((one for one in table[column].to_pylist() if one is not None), reverse=True)
        assert down[len(values) :] == [None] * (len(down) - len(values))
        if values and not isinstance(values[0], str):
            above = select(table, columns=[column], where=f"{column} > {values[-1]!r}").column(0).to_pylist()
            assert sorted(above) == sorted(value for value in values if value > values[-1])
