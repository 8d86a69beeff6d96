"""Replays of CUDA graphs in an export, without reading the rest of it: how long each took, and its nodes."""

from __future__ import annotations

from pathlib import Path

from dsprof.nsys import schema
from dsprof.nsys.export import Export
from dsprof.records import frozen

#: Tables of operations that may be nodes of a graph.
_NODES = (schema.KERNEL, schema.MEMCPY, schema.MEMSET)
_COLUMNS = ("start", "end", "globalPid", "correlationId")


@frozen
class GraphReplay:
    """One replay: its process, its nodes (0: traced as a whole), from begin to end, and how long a node ran, in ns."""

    process: int
    nodes: int
    start: int
    span_ns: int
    busy_ns: int


def replays_of(path: Path) -> list[GraphReplay]:
    """The replays in an export by start, those traced by their nodes before those traced as a whole.

    Raises `ReportDamaged` and `NvprofDatabase`.
    """
    with Export(path) as export:
        export.sniff()
        return [*_by_nodes(export), *_whole(export)]


def _by_nodes(export: Export) -> list[GraphReplay]:
    """Replays whose nodes were traced: these have the number of the one call that launched them."""
    nodes = [
        f"SELECT globalPid, correlationId, start, end FROM {table} WHERE graphNodeId IS NOT NULL AND end >= start"
        for table in _NODES
        if export.has(table, *_COLUMNS, "graphNodeId")
    ]
    if not nodes:
        return []
    query = f"""
        SELECT globalPid, count(*), min(start), max(end) - min(start), sum(max(0, end - max(start, done)))
        FROM (SELECT *, coalesce(max(end) OVER earlier, start) AS done FROM ({" UNION ALL ".join(nodes)})
              WINDOW earlier AS (PARTITION BY globalPid, correlationId ORDER BY start
                                 ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING))
        GROUP BY globalPid, correlationId ORDER BY min(start)"""
    return [GraphReplay(*row) for row in export.rows(query)]


def _whole(export: Export) -> list[GraphReplay]:
    if not export.has(schema.GRAPH, *_COLUMNS):
        return []
    query = (
        f"SELECT globalPid, 0, start, end - start, end - start FROM {schema.GRAPH} WHERE end >= start ORDER BY start"
    )
    return [GraphReplay(*row) for row in export.rows(query)]
