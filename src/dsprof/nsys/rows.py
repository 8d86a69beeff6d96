"""Rows of an export as the columns of a `Trace`: ranges, API calls, kernels, memory operations."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from dsprof.arrays import NULL, Bools, Ints, group_rows, join_calls
from dsprof.nsys import schema
from dsprof.nsys.about import duration_of
from dsprof.nsys.export import Columns, Export, condition, is_null, nulls
from dsprof.nsys.strings import Names, shortened, text, texts
from dsprof.trace import (
    GRAPH_LAUNCHES,
    Calls,
    Codes,
    GraphLaunches,
    Kernels,
    MemOps,
    Overheads,
    Ranges,
    no_launches,
    pack_dimensions,
    process_of,
)
from dsprof.words import CUDA_GRAPH

#: The rows of the NVTX events that are ranges.
_RANGES = ("eventType", schema.RANGE_TYPES)
#: A kernel's shared memory is less than so many bits can count.
_SIZE_BITS = 31


def ranges_of(export: Export, names: Names) -> Ranges:
    """All NVTX ranges."""
    where = ("eventType", (*schema.RANGE_TYPES, schema.DOMAIN_CREATED))
    both = export.integers(schema.RANGES, where, extra=("rowid", *schema.PAYLOADS))
    names.learn(export, both["textId"])
    is_domain = both["eventType"] == schema.DOMAIN_CREATED
    domains = _domains(export, names, _rows(both, is_domain))
    raw = _rows(both, ~is_domain)
    begun = export.possible.begun(schema.NVTX, raw["start"])
    name, raw = _range_names(export, names, raw["textId"])[begun], {of: column[begun] for of, column in raw.items()}
    duration = duration_of(export)
    unclosed = (raw["end"] == NULL) | ((raw["end"] == duration) & (duration > 0))
    last = duration or (_last_moment(export, raw) if unclosed.any() else 0)
    end = np.where(raw["end"] == NULL, np.maximum(last, raw["start"]), raw["end"])
    key = np.where(raw["domainId"] == NULL, 0, raw["domainId"])
    return Ranges(
        range_id=raw["rowid"],
        name=name,
        domain=domains.of(process_of(raw["globalTid"]), key),
        style=np.isin(raw["eventType"], schema.START_END).astype(np.int64),
        thread=raw["globalTid"],
        end_thread=raw["endGlobalTid"],
        start=raw["start"],
        end=export.possible.ended(schema.NVTX, raw["start"], end),
        payload=_payload(raw),
        truncated=unclosed,
    )


def _rows(raw: Columns, chosen: Bools) -> Columns:
    rows = np.flatnonzero(chosen)
    return {name: column[rows] for name, column in raw.items()}


def _payload(raw: Columns) -> Ints:
    """The first of the payload's forms that is not NULL."""
    payload = raw[schema.PAYLOADS[0]]
    for name in schema.PAYLOADS[1:]:
        payload = np.where(payload == NULL, raw[name], payload)
    return payload


def _last_moment(export: Export, ranges: Columns) -> int:
    """The last time that ranges and API calls tell, for a report that does not say how long it is."""
    high = export.possible.high
    columns = [ranges["start"], ranges["end"][ranges["end"] <= high]]
    times = [int(column.max()) for column in columns if len(column)]
    if export.has(schema.RUNTIME, "end"):
        times.append(export.last_end(schema.RUNTIME))
    return max(times, default=0)


def _range_names(export: Export, names: Names, text_id: Ints) -> Codes:
    """Names of the ranges: their own text where they carry one, else the registered string."""
    code = names.of_ids(text_id)
    if not len(code) or not export.has(schema.NVTX, "text"):
        return code
    ranges = f"FROM {schema.NVTX} NOT INDEXED WHERE {condition(_RANGES)}"
    if not export.rows(f"SELECT 1 {ranges} AND length(text) > 0 LIMIT 1"):
        return code
    own = f"CASE WHEN length(text) > 0 THEN {shortened('text')} ELSE x'' END"
    column = export.arrow(f"SELECT {own} AS text {ranges}").column("text").combine_chunks().dictionary_encode()
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    known = [names.code(text(value, export.encoding)) if value else -1 for value in column.dictionary.to_pylist()]
    found = np.array(known, np.int32)[np.from_dlpack(column.indices)]
    return np.where(found < 0, code, found)


class _Domains(NamedTuple):
    """Domains that processes created, and the codes of their names; of two with one number the first counts."""

    process: Ints
    number: Ints
    name: Codes

    def of(self, process: Ints, number: Ints) -> Codes:
        """The codes of some domains' names; the empty name's for a domain that has none."""
        heads, group = group_rows(np.concatenate([self.process, process]), np.concatenate([self.number, number]))
        code = np.zeros(len(heads), np.int32)
        code[group[: len(self.name)][::-1]] = self.name[::-1]
        return code[group[len(self.name) :]]


def _domains(export: Export, names: Names, created: Columns) -> _Domains:
    """The domains of the report, from the rows that created them."""
    if not export.has(schema.NVTX, "domainId", "globalTid"):
        nothing = np.zeros(0, np.int64)
        return _Domains(nothing, nothing, nothing.astype(np.int32))
    code = names.of_ids(np.where(created["textId"] == 0, NULL, created["textId"]))
    if export.has(schema.NVTX, "text"):
        own = dict(texts(export, schema.NVTX, "rowid", "text", created["rowid"]))
        found = [names.code(own[row]) if own.get(row) else -1 for row in created["rowid"].tolist()]
        code = np.where(np.array(found, np.int32) < 0, code, np.array(found, np.int32))
    number = np.where(created["domainId"] == NULL, 0, created["domainId"])
    return _Domains(process_of(created["globalTid"]), number, code)


def calls_of(raw: Columns, names: Names, repeats: bool = True) -> Calls:
    """API calls from their columns, each once; `repeats`: can one be there twice?"""
    if repeats:
        kept = _once(raw)
        raw = {name: column[kept] for name, column in raw.items()}
    return Calls(
        start=raw["start"],
        end=raw["end"],
        thread=raw["globalTid"],
        correlation=raw["correlationId"],
        name=names.of_ids(raw["nameId"]),
        result=raw["returnValue"],
    )


def _once(raw: Columns) -> Ints:
    """Rows of the API calls without the second row that some versions give one call (runtime in driver)."""
    process, correlation = process_of(raw["globalTid"]), raw["correlationId"]
    first = join_calls(process, correlation, process, correlation, raw["start"])
    return np.flatnonzero((first < 0) | (first == np.arange(len(first))))


def kernels_of(raw: Columns, graphs: Columns, names: Names, caller: int | None) -> Kernels:
    """Kernels from their columns, then graph replays from theirs; `caller`: process of those that name none."""
    count, replays = len(raw["start"]), len(graphs["start"])
    joined = {name: _joined(raw[name], graphs.get(name, nulls(replays))) for name in raw}
    graph_name = np.full(replays, names.code(CUDA_GRAPH), np.int32)
    return Kernels(
        **_place(joined, caller),
        name=np.concatenate([names.of_ids(raw["demangledName"]), graph_name]),
        graph_node=joined["graphNodeId"],
        grid=_packed(joined, "grid"),
        block=_packed(joined, "block"),
        registers=joined["registersPerThread"],
        shared_memory=_sum(joined["staticSharedMemory"], joined["dynamicSharedMemory"]),
        is_graph=np.arange(count + replays) >= count,
    )


def _joined(one: Ints, other: Ints) -> Ints:
    return np.concatenate([one, other]) if len(other) else one


def _packed(raw: Columns, what: str) -> Ints:
    axes = [raw[f"{what}{axis}"] for axis in "XYZ"]
    return axes[0] if is_null(axes[0]) else pack_dimensions(*axes)


def _sum(one: Ints, other: Ints) -> Ints:
    """Sum of two columns of sizes below 2 GiB; NULL where neither is one, a lone other value counting as 0."""
    if is_null(one):
        return one
    known, also = one >> _SIZE_BITS == 0, other >> _SIZE_BITS == 0
    return np.where(known | also, np.where(known, one, 0) + np.where(also, other, 0), NULL)


def memops_of(copies: Columns, sets: Columns, caller: int | None) -> MemOps:
    """Memory copies from their columns, then sets from theirs."""
    count = len(sets["start"])
    sets = {**sets, "copyKind": np.full(count, -1), "srcKind": nulls(count), "dstKind": sets["memKind"]}
    raw = {name: _joined(copies[name], sets[name]) for name in copies}
    return MemOps(
        **_place(raw, caller),
        kind=raw["copyKind"],
        bytes=np.where(raw["bytes"] == NULL, 0, raw["bytes"]),
        source=raw["srcKind"],
        destination=raw["dstKind"],
        graph_node=raw["graphNodeId"],
    )


def graph_launches_of(calls: Calls, names: Names) -> GraphLaunches:
    """Those of all calls of a report that launch a CUDA graph."""
    launches = np.array([name.startswith(GRAPH_LAUNCHES) for name in names.all()], np.bool_)
    rows = np.flatnonzero(launches[calls.name]) if launches.any() else np.zeros(0, np.int64)
    return GraphLaunches(calls.start[rows], calls.thread[rows])


def graph_launches_in(export: Export, names: Names, name_ids: Ints) -> GraphLaunches:
    """The same from an export whose calls are not read; `name_ids`: the ids of their names."""
    texts = names.all()
    wanted = [number for number, code in zip(name_ids.tolist(), names.of_ids(name_ids).tolist(), strict=True)
              if texts[code].startswith(GRAPH_LAUNCHES)]  # fmt: skip
    if not wanted:
        return no_launches()
    rows = export.integers(schema.CALLS, ("nameId", tuple(wanted)))
    return GraphLaunches(rows["start"], rows["globalTid"])


def overheads_of(export: Export) -> Overheads:
    """What the profiler itself took of the threads' time."""
    raw = export.integers(schema.OVERHEADS)
    return Overheads(start=raw["start"], end=raw["end"], thread=raw["globalTid"])


def only_caller(threads: Ints) -> int | None:
    """The process of all API calls, where there is but one; `threads`: globalTid of calls, each at least once."""
    callers = np.unique(process_of(threads))
    return int(callers[0]) if len(callers) == 1 else None


def _place(raw: Columns, caller: int | None) -> Columns:
    """When and where an operation ran; a process that the file does not name is the only one that called."""
    process = raw["globalPid"]
    if caller is not None:
        process = np.where(process == NULL, caller, process)
    return {
        "start": raw["start"],
        "end": raw["end"],
        "process": process,
        "correlation": raw["correlationId"],
        "device": raw["deviceId"],
        "context": raw["contextId"],
        "stream": raw["streamId"],
    }
