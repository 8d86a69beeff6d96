"""Tables of one of several reports, whose busy time is told by matching the collectives of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa

from dsprof.arrays import NULL, Ints
from dsprof.words import NO_STAGE

#: The columns that matching over several reports tells otherwise than one report can.
TOLD = frozenset(
    {"wait_rank", "wait_rank_ns", "work_pct", *(f"{part}{end}" for part in ("transfer", "wait", "unmatched")
                                                for end in ("_ns", "_total_ns"))}
)  # fmt: skip
_SUMMED, _TRACE = "stage_sum", "stage_trace"


def as_matched(
    name: str, table: pa.Table, busy: Mapping[str, Mapping[str, Ints]], stage_trace: Callable[[], pa.Table | None]
) -> pa.Table:
    """A table of a report with what matching tells of it (`Ranks.busy`); as it is if that is nothing.

    `stage_trace` gives that table, of which `stage_sum` is made; without it that says what its own report knows.
    """
    if name == _SUMMED:
        trace = stage_trace()
        return table if trace is None else _summed(table, _with_columns(trace, busy[_TRACE]), busy[NO_STAGE])
    return _with_columns(table, busy[name]) if name in busy else table


def _with_columns(table: pa.Table, columns: Mapping[str, Ints]) -> pa.Table:
    """The table with other values in some of its columns of integers; NULL is a missing one."""
    for column, values in columns.items():
        where = table.column_names.index(column)
        kept = table.schema.field(where)
        table = table.set_column(where, kept, [pa.array(values, kept.type, mask=values == NULL)])
    return table


def _summed(stage_sum: pa.Table, stage_trace: pa.Table, outside: Mapping[str, Ints]) -> pa.Table:
    """`stage_sum` with the sums of what matching tells, of its instances in `stage_trace`, and of ``(no stage)``."""
    import pyarrow.compute as pc

    stages, warm = stage_sum.column("stage").to_pylist(), stage_sum.column("warm_up").to_pylist()
    busy, wall = (stage_sum.column(f"{one}_total_ns").to_pylist() for one in ("gpu_busy", "wall"))
    names, sums = stage_trace.column("stage").cast(pa.string()), dict[str, list[int | None]]()
    for part, alone in outside.items():
        found = list[int | None]()
        for stage, of_warm_up in zip(stages, warm, strict=True):
            mine = stage_trace.filter(pc.and_(pc.equal(names, stage), pc.xor(stage_trace.column("steady"), of_warm_up)))
            values = mine.column(part)
            known = stage != NO_STAGE and not values.null_count
            found.append(int(pc.sum(values).as_py() or 0) if known else None)
            if stage == NO_STAGE:
                found[-1] = None if alone[0] == NULL else int(alone[0])
        sums[f"{part.removesuffix('_ns')}_total_ns"] = found
    working = [
        100.0 * (one - waited) / all_of if waited is not None and all_of and stage != NO_STAGE else None
        for stage, one, waited, all_of in zip(stages, busy, sums["wait_total_ns"], wall, strict=True)
    ]
    for column, told in ({**sums, "work_pct": working}).items():
        where = stage_sum.column_names.index(column)
        kept = stage_sum.schema.field(where)
        stage_sum = stage_sum.set_column(where, kept, [pa.array(told, kept.type)])
    return stage_sum
