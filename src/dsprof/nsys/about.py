"""What an export says of itself: versions, driver, GPUs, duration, warnings; no environment, paths, processes."""

from __future__ import annotations

from dsprof.nsys import schema
from dsprof.nsys.diagnostics import messages_of, tracing_of
from dsprof.nsys.export import Export
from dsprof.nsys.possible import LONGEST
from dsprof.trace import Gpu, Report

#: The row of META_DATA_CAPTURE that says whether Python was sampled (2023.4 and 2025.3).
SAMPLED = "PYTHON_BACKTRACE_SAMPLING_OPTIONS:COLLECT_SAMPLES"


def report_of(export: Export) -> Report:
    """What the report says of itself."""
    versions = _versions(export)
    system = _pairs(export, schema.SYSTEM, ("NvDriverVersion", "CudaDriverVersion"))
    messages = messages_of(export)
    capture = _pairs(export, "META_DATA_CAPTURE", ("PROCESS_0:CUDA_GRAPH_TRACE_OPTIONS:MODE",))
    return Report(
        file=export.name,
        sha256=export.input.sha256,
        exporter=versions.get("EXPORT_PRODUCT_VERSION", ""),
        schema=versions.get("EXPORT_SCHEMA_VERSION", ""),
        driver=_driver(system.get("NvDriverVersion", "")),
        cuda_driver=system.get("CudaDriverVersion", ""),
        duration_ns=duration_of(export),
        graph_mode=next(iter(capture.values()), "").lower(),
        gpus=gpus_of(export),
        missing=tuple(table for table in schema.EXPECTED if table not in export.columns),
        diagnostics=tuple(one.text for one in messages if one.text),
        messages=messages,
        tracing=tracing_of(messages),
        session_start_ns=session_start_of(export),
    )


def driver_of(export: Export) -> str:
    """The version of the GPU's driver; empty where the report does not say it."""
    return _driver(_pairs(export, schema.SYSTEM, ("NvDriverVersion",)).get("NvDriverVersion", ""))


def sampled_python(export: Export) -> bool:
    """Was nsys asked to sample Python?"""
    return _pairs(export, "META_DATA_CAPTURE", (SAMPLED,)).get(SAMPLED) == "true"


def _driver(version: str) -> str:
    """The driver's version with its dots, which older exporters leave out (52510517); empty for none (0)."""
    if version == "0":
        return ""
    return f"{version[:3]}.{version[3:6]}.{version[6:]}" if len(version) == 8 and version.isdigit() else version


def _versions(export: Export) -> dict[str, str]:
    for table in schema.VERSION_TABLES:
        if export.has(table, "name", "value"):
            return {str(name): str(value) for name, value in export.rows(f"SELECT name, value FROM {table}")}
    return {}


def _pairs(export: Export, table: str, wanted: tuple[str, ...]) -> dict[str, str]:
    """The values of a few named rows, and of no others: these tables hold the whole environment."""
    if not export.has(table, "name", "value"):
        return {}
    marks = ", ".join("?" for _ in wanted)
    rows = export.rows(f"SELECT name, value FROM {table} WHERE name IN ({marks})", wanted)
    return {str(name): str(value) for name, value in rows}


def duration_of(export: Export) -> int:
    """Length of the capture; Nsight gives ranges that were never closed this very time as their end."""
    if not export.has("ANALYSIS_DETAILS", "duration"):
        return 0
    rows = export.rows("SELECT max(CAST(duration AS INTEGER)) FROM ANALYSIS_DETAILS")
    duration = int(rows[0][0] or 0)
    return duration if 0 <= duration <= LONGEST else 0


def session_start_of(export: Export) -> int | None:
    """The host's clock, in ns of UTC, at the zero of the report's times; None where it is not told or cannot be."""
    if not export.has("TARGET_INFO_SESSION_START_TIME", "utcEpochNs"):
        return None
    rows = export.rows("SELECT CAST(utcEpochNs AS INTEGER) FROM TARGET_INFO_SESSION_START_TIME LIMIT 1")
    start = int(rows[0][0] or 0) if rows else 0
    return start if 0 < start < 1 << 62 else None


_GPU_COLUMNS = (
    "name", "cuDevice", "computeMajor", "computeMinor", "smCount", "clockRate", "memoryBandwidth", "totalMemory",
)  # fmt: skip


def gpus_of(export: Export) -> tuple[Gpu, ...]:
    """The CUDA devices; the table also lists adapters that are none, some of them as device 0."""
    if not export.has("TARGET_INFO_GPU", "cuDevice", "computeMajor"):
        return ()
    chosen = ", ".join(
        (name if name == "name" else f"CAST({name} AS INTEGER)") if export.has("TARGET_INFO_GPU", name) else "NULL"
        for name in _GPU_COLUMNS
    )
    rows = export.rows(f"SELECT {chosen} FROM TARGET_INFO_GPU WHERE computeMajor > 0 ORDER BY cuDevice")
    return tuple(
        Gpu(int(device or 0), str(name or ""), f"{major}.{minor or 0}", int(sms or 0), int(clock or 0),
            int(bandwidth or 0), int(memory or 0))
        for name, device, major, minor, sms, clock, bandwidth, memory in rows
    )  # fmt: skip
