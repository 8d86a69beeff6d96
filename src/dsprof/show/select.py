"""Which rows and columns of a table are shown: a condition, an order, columns, a number of rows."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from dsprof.errors import SelectionUnusable

if TYPE_CHECKING:
    import pandas as pd

#: What pandas raises for an expression that is none, or that does not fit the columns.
_UNUSABLE = (
    SyntaxError, NameError, TypeError, AttributeError, NotImplementedError, ValueError, LookupError, ArithmeticError,
    RecursionError, tokenize.TokenError,
)  # fmt: skip


def select(
    table: pa.Table,
    columns: Sequence[str] = (),
    where: str | None = None,
    sort: Sequence[str] = (),
    limit: int | None = None,
) -> pa.Table:
    """The rows of `table` for which `where` holds, ordered by `sort`, the first `limit`; of them `columns`.

    Args:
        table: any table of an analysis.
        columns: names, in the order to show them; all where empty.
        where: a condition in pandas' query language, like ``stage == 'decode' and total_ns > 1000``; no comparison
            of a missing number holds, and a missing text is unequal to each.
        sort: names to order by, the first foremost, ``-name`` for the largest first; missing values come last.
        limit: rows to keep at most.

    Returns:
        A table with the metadata of `table`.

    Raises:
        SelectionUnusable: there is no such column, or `where` is no condition on the columns.

    """
    if where is not None:
        table = table.filter(_holds(table, where))
    if sort:
        table = _ordered(table, sort)
    if limit is not None:
        table = table.slice(0, min(limit, table.num_rows))
    return table.select(_known(table, columns)) if columns else table


def _known(table: pa.Table, names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in table.column_names:
            raise SelectionUnusable(f"The table has no column {name!r}.", _columns(table))
    return list(names)


def _columns(table: pa.Table) -> str:
    return f"It has: {', '.join(table.column_names)}."


def _holds(table: pa.Table, where: str) -> pa.Array:
    """For each row whether the condition holds; only the columns that it names become pandas'."""
    used = [name for name in table.column_names if re.search(rf"\b{re.escape(name)}\b", where)]
    if not used:
        raise SelectionUnusable(f"The condition {where!r} names no column of the table.", _columns(table))
    frame = _frame(table.select(used))
    try:
        found: Any = frame.eval(where, engine="python", local_dict={}, global_dict={})
    except _UNUSABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise SelectionUnusable(
            f"The condition {where!r} does not fit the table: {reason}.",
            f"Texts stand in quotes, and == compares. {_columns(table)}",
        ) from error
    if getattr(found, "dtype", None) not in ("bool", "bool[pyarrow]"):
        raise SelectionUnusable(
            f"{where!r} is no condition.", 'A condition compares, like "stage == \'decode\'" or "calls > 10".'
        )
    return pa.array(found.fillna(False).to_numpy(dtype=bool))


def _frame(table: pa.Table) -> pd.DataFrame:
    """Its columns as Arrow's own types, in which a comparison of a missing number is missing too."""
    import pandas as pd

    plain = pa.table([_plain(column) for column in table.columns], table.column_names)
    frame: pd.DataFrame = plain.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def _ordered(table: pa.Table, sort: Sequence[str]) -> pa.Table:
    names = _known(table, [one.removeprefix("-") for one in sort])
    keys = pa.table([_plain(table.column(name)) for name in names], [str(position) for position in range(len(names))])
    order = [(str(at), "descending" if one.startswith("-") else "ascending") for at, one in enumerate(sort)]
    return table.take(pc.sort_indices(keys, sort_keys=order))


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that Arrow can sort and compare: texts for codes."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
