"""Tables as Parquet files: what is read is what was written, and every reader knows how it is encoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dsprof
from dsprof.analysis.parquet import FEW_VALUES, RowsInFile, write_parquet
from dsprof.tables import all_tables, kern_trace

SAMPLE = Path(__file__).parents[1] / "traces" / "samples" / "h200-graphs-node.sqlite.xz"
#: Encodings of the second version of the format: BYTE_STREAM_SPLIT of integers, say, is newer than many a reader.
KNOWN = {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY", "DELTA_BINARY_PACKED"}


@pytest.fixture(scope="module")
def analysis() -> dsprof.Analysis:
    return dsprof.analyze(SAMPLE)


def write_events(table: pa.Table, path: Path) -> None:
    """As `analyze` writes the tables of events."""
    with RowsInFile(path) as file:
        file.put(table)


@pytest.mark.parametrize("write", [write_parquet, write_events])
@pytest.mark.parametrize("table", all_tables())
def test_what_is_read_is_what_was_written(
    analysis: dsprof.Analysis, table: str, write: Callable[[pa.Table, Path], None], tmp_path: Path
) -> None:
    path, values = tmp_path / "x.parquet", analysis.arrow(table)
    write(values, path)
    found = pq.read_table(path)
    assert found.equals(values)
    assert found.schema.equals(values.schema, check_metadata=True)
    metadata = pq.ParquetFile(path).metadata
    chunks = [metadata.row_group(group).column(column) for group in range(metadata.num_row_groups)
              for column in range(metadata.num_columns)]  # fmt: skip
    assert {encoding for chunk in chunks for encoding in chunk.encodings} <= KNOWN
    assert {chunk.compression for chunk in chunks} <= {"SNAPPY" if write is write_events else "ZSTD"}


def test_numbers_are_kept_by_difference_or_in_a_dictionary_and_have_a_least_and_a_greatest(
    analysis: dsprof.Analysis, tmp_path: Path
) -> None:
    path = tmp_path / "x.parquet"
    values = analysis.arrow("kern_trace")
    write_events(values, path)
    group = pq.ParquetFile(path).metadata.row_group(0)
    for number, column in enumerate(kern_trace.TABLE.columns):
        chunk = group.column(number)
        in_dictionary = column.kind == "name" or column.name in FEW_VALUES
        assert in_dictionary == ("RLE_DICTIONARY" in chunk.encodings), column.name
        assert in_dictionary != ("DELTA_BINARY_PACKED" in chunk.encodings), column.name
        assert (column.kind != "name") == chunk.is_stats_set, column.name
    assert {column.name for column in kern_trace.TABLE.columns} >= FEW_VALUES


def test_extreme_numbers_come_back(tmp_path: Path) -> None:
    least, greatest = -(2**63), 2**63 - 1
    rows = pa.table(
        {name: pa.array([least, None, greatest, 0, -1, least] * 20000, pa.int64()) for name in ("pid", "x")}
    )
    write_parquet(rows, tmp_path / "x.parquet")
    assert pq.read_table(tmp_path / "x.parquet").equals(rows)
