"""What a page is made of: the first screen as data, and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import pyarrow as pa

from dsprof.page import colours
from dsprof.records import frozen
from dsprof.show.summary import Summary

#: A column, how it is compared, and with which number.
Condition = tuple[str, Literal["<", "<=", "=", ">=", ">"], int]
#: What is asked of a table: its name, columns, and conditions that all hold.
Asked = tuple[str, Sequence[str], Sequence[Condition]]
#: The tables that a page is made of.
TABLES = (
    "stage_sum", "stage_trace", "request_trace", "step_trace", "step_sum", "engine_sum", "rank_sum", "stage_family_sum",
    "stage_kern_sum", "layer_sum", "stage_roof_trace", "range_sum", "mem_sum", "stage_api_sum", "host_python_sum",
    "collective_sum", "kern_trace", "mem_trace", "range_trace",
)  # fmt: skip


class Tables(Protocol):
    """Where tables come from."""

    def arrow(self, name: str) -> pa.Table:
        """The table `name`."""

    def rows_where(self, *asked: Asked) -> list[pa.Table]:
        """Those rows of each table, which may be large, for which all its conditions hold."""


@frozen
class Source:
    """An analysis, as a page sees it."""

    summary: Summary
    tables: Tables

    def table(self, name: str) -> pa.Table:
        """The table `name`, texts as texts and not as codes."""
        return plain(self.tables.arrow(name))

    def events(self, *asked: Asked) -> list[list[dict[str, Any]]]:
        """Rows of tables with a row per event that fulfil conditions like ``("start_ns", "<", 7)``."""
        return [plain(found).to_pylist() for found in self.tables.rows_where(*asked)]

    def stage_colour(self, stage: str) -> str:
        """The colour of what belongs to a stage, wherever it is drawn."""
        return colours.of_stage(stage, list(dict.fromkeys(line.stage for line in self.summary.stages)))


def plain(table: pa.Table) -> pa.Table:
    """The table with texts in place of codes."""
    columns = [column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column for column in table.columns]
    return pa.table(columns, names=table.column_names)


def largest(table: pa.Table, column: str, most: int) -> pa.Table:
    """The `most` rows with the largest values in a column, the largest first."""
    import pyarrow.compute as pc

    order = pc.sort_indices(table, sort_keys=[(column, "descending")])  # `sort_by` would load pandas
    return table.take(order.slice(0, most))
