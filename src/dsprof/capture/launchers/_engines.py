"""What several engines need alike."""

from __future__ import annotations

from dsprof.capture.launchers._launcher import Add, Window

FORKS = Add(
    "option",
    "--trace-fork-before-exec",
    "true",
    "workers may be forked, and without it only the first process is in the report",
)


def profiler_window(end: str, never: str) -> Window:
    """The part of a run between cudaProfilerStart and cudaProfilerStop, which the engine calls."""
    why = "the recording begins and ends where the engine starts and stops the CUDA profiler, so start-up is left out"
    return Window(range="cudaProfilerApi", end=end, why=why, never=never)
