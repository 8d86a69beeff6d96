"""Where the nodes of CUDA graphs were born: in which moment of which thread, followed from graph to graph.

::

    capture        node 1.0, no original        <- the birth of both: what was open on its thread then is its module
    instantiate    node 2.0, no original           every node is told as created …
                   node 2.0, original 1.0          … and then, where it is a copy, of which node
    replay         kernel of node 2.0
"""

from __future__ import annotations

import numpy as np

from dsprof.arrays import NULL, Ints, group_rows, join_calls
from dsprof.nsys import schema
from dsprof.nsys.export import Columns, Export
from dsprof.nsys.strings import Names
from dsprof.trace import GraphNodes, no_nodes, process_of
from dsprof.words import MODULES

#: A kernel's node, which is read also where no table of events is wanted.
NODE = "graphNodeId"


def knows_modules(names: Names) -> bool:
    """Is one of the names that of a module's range? Else nobody asks where a node was born."""
    return any(text.startswith(MODULES) for text in names.all())


def table_of(export: Export) -> str:
    """The table of nodes; empty where the export has none."""
    tables = (schema.NODES, schema.GRAPH_EVENTS)
    return next((table for table in tables if export.has(table, "start", "globalTid", NODE)), "")


def graph_nodes_of(export: Export) -> GraphNodes:
    """The births of all nodes whose birth the export holds."""
    table = table_of(export)
    if not table:
        return no_nodes()
    raw = export.integers(schema.Source(table, schema.NODE_COLUMNS))
    known = np.flatnonzero((raw["globalTid"] != NULL) & (raw[NODE] != NULL))
    return _births({name: column[known] for name, column in raw.items()}) if len(known) else no_nodes()


def _births(raw: Columns) -> GraphNodes:
    """Follow each node to its origin; of several rows that say the same of a node the earliest counts."""
    process, node, start = process_of(raw["globalTid"]), raw[NODE], raw["start"]
    original = raw["originalGraphNodeId"]
    is_copy = (original != NULL) & (original != 0) & (original != node)
    heads = group_rows(process, node)[0]
    process_of_node, number = process[heads], node[heads]

    def row_of(chosen: Ints, wanted: Ints) -> Ints:
        """The earliest of the chosen rows that is of each node."""
        found = join_calls(process_of_node, wanted, process[chosen], node[chosen], start[chosen])
        return np.where(found >= 0, chosen[found], -1) if len(chosen) else found

    copy, birth = row_of(np.flatnonzero(is_copy), number), row_of(np.flatnonzero(~is_copy), number)
    nodes = np.arange(len(heads))
    of = np.where(copy >= 0, original[copy], NULL)
    target = join_calls(process_of_node, of, process_of_node, number, nodes)
    origin = np.where(target >= 0, target, nodes)
    for _ in range(len(nodes).bit_length()):  # each turn doubles how far is seen; in a circle there is no end
        origin = origin[origin]
    row = np.where(copy[origin] < 0, birth[origin], -1)
    born = np.flatnonzero(row >= 0)
    row = row[born]
    return GraphNodes(process_of_node[born], number[born], start[row], raw["globalTid"][row])
