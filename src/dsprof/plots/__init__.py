"""Figures of what people would rather look at than read; needs matplotlib (``pip install 'dsprof[notebook]'``).

Each function takes an `Analysis`, a `ManyAnalysis`, or any mapping of the tables' names to DataFrames, and returns a
matplotlib figure: the last line of a notebook's cell shows it, ``figure.savefig("steps.png")`` or ``.svg`` writes it.
Colours are those of the HTML report. What dwarfs all else, as a warm-up may, is off the scale: it is marked, with its
number. Where a report has nothing of what a figure is of, it says so and shows what the GPU did instead.
"""

from __future__ import annotations

from dsprof.plots.gpu import gpu_over_time, top_kernels
from dsprof.plots.ranks import rank_heatmap
from dsprof.plots.stages import family_bars, host_time, idle_causes
from dsprof.plots.steps import engine_batch, engine_steps, step_drift, step_latency

__all__ = [
    "engine_batch", "engine_steps", "family_bars", "gpu_over_time", "host_time", "idle_causes", "rank_heatmap",
    "step_drift", "step_latency", "top_kernels",
]  # fmt: skip
