"""Rows of an export as the columns of a `Trace`: ranges, API calls, kernels, memory operations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dsprof.attribution import NULL, Ints, join_calls
from dsprof.nsys import schema
from dsprof.nsys.about import duration_of
from dsprof.nsys.export import Columns, Export, Names, is_null, nulls, text_of
from dsprof.stages import CUDA_GRAPH
from dsprof.trace import Calls, Codes, Kernels, MemOps, Overheads, Ranges, pack_dimensions, process_of


def ranges_of(export: Export, names: Names) -> Ranges:
    """All NVTX ranges."""
    where = f"WHERE eventType IN ({', '.join(map(str, schema.RANGE_TYPES))})"
    raw = export.integers(schema.RANGES, where, extra=("rowid", "payload"))
    duration = duration_of(export)
    unclosed = (raw["end"] == NULL) | ((raw["end"] == duration) & (duration > 0))
    last = duration or (_last_moment(export, raw) if unclosed.any() else 0)
    end = np.where(raw["end"] == NULL, last, raw["end"])
    domains = _domains(export, names)
    key = np.where(raw["domainId"] == NULL, 0, raw["domainId"])
    return Ranges(
        range_id=raw["rowid"],
        name=_range_names(export, names, raw["textId"], raw["rowid"], where),
        domain=_domain_codes(domains, process_of(raw["globalTid"]), key),
        style=np.isin(raw["eventType"], schema.START_END).astype(np.int64),
        thread=raw["globalTid"],
        end_thread=raw["endGlobalTid"],
        start=raw["start"],
        end=np.maximum(end, raw["start"]),
        payload=raw["payload"],
        truncated=unclosed,
    )


def _last_moment(export: Export, ranges: Columns) -> int:
    """The last time that ranges and API calls tell, for a report that does not say how long it is."""
    times = [int(column.max()) for column in (ranges["start"], ranges["end"]) if len(column)]
    if export.has(schema.RUNTIME, "end"):
        ((last,),) = export.rows(f'SELECT max("end") FROM "{schema.RUNTIME}"')
        times.append(int(last or 0))
    return max(times, default=0)


def _range_names(export: Export, names: Names, text_id: Ints, rowid: Ints, where: str) -> Codes:
    """Names of the ranges: their own text where they carry one, else the registered string."""
    code = names.of_ids(text_id)
    if not len(code) or not export.has(schema.NVTX, "text"):
        return code
    texts = f"{schema.NVTX} NOT INDEXED {where} AND length(text) > 0"
    table = export.arrow(f"SELECT rowid AS row, CAST(text AS BLOB) AS text FROM {texts}")
    if not table.num_rows:
        return code
    text = table.column("text").combine_chunks().dictionary_encode()
    if isinstance(text, pa.ChunkedArray):
        text = text.combine_chunks()
    own = np.array([names.code(text_of(value)) for value in text.dictionary.to_pylist()], np.int32)
    rows = np.from_dlpack(table.column("row").combine_chunks())
    code[np.searchsorted(rowid, rows)] = own[np.from_dlpack(text.indices)]
    return code


def _domains(export: Export, names: Names) -> dict[tuple[int, int], int]:
    """Code of each domain's name by (process, domainId); the first row counts."""
    found: dict[tuple[int, int], int] = {}
    if not export.has(schema.NVTX, "eventType", "domainId", "globalTid"):
        return found
    text, text_id = (
        (f"CAST({name} AS BLOB)" if name == "text" else name) if export.has(schema.NVTX, name) else "NULL"
        for name in ("text", "textId")
    )
    rows = export.rows(
        f"SELECT globalTid, domainId, {text}, {text_id} FROM {schema.NVTX} WHERE eventType = ? ORDER BY rowid",
        (schema.DOMAIN_CREATED,),
    )
    for thread, domain, own, registered in rows:
        code = names.code(text_of(own)) if own else int(names.of_ids(np.array([registered or NULL]))[0])
        found.setdefault((int(process_of(np.array([thread]))[0]), int(domain or 0)), code)
    return found


def _domain_codes(domains: dict[tuple[int, int], int], process: Ints, domain: Ints) -> Codes:
    code = np.zeros(len(domain), np.int32)  # the empty name, for a domain that has none
    for (of_process, number), name in domains.items():
        code[(process == of_process) & (domain == number)] = name
    return code


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
    """Sum of two columns; NULL where both are, a lone NULL counting as 0."""
    if is_null(one):
        return one
    total = np.where(one == NULL, 0, one) + np.where(other == NULL, 0, other)
    return np.where((one == NULL) & (other == NULL), NULL, total)


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


def overheads_of(export: Export) -> Overheads:
    """What the profiler itself took of the threads' time."""
    raw = export.integers(schema.OVERHEADS)
    return Overheads(start=raw["start"], end=np.maximum(raw["end"], raw["start"]), thread=raw["globalTid"])


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
