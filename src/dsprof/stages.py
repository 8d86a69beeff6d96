"""The words that the profiled process writes and the analysis reads: domain, range names, stages."""

from __future__ import annotations

#: The NVTX domain of all ranges that dsprof itself records.
DOMAIN = "dsprof"
#: Names of the ranges that are stages, in the order in which a request passes through them.
PREFILL = "prefill"
DECODE = "decode"
STAGES = (PREFILL, DECODE)
#: A range around one request; its payload is the request's number.
REQUEST = "request"
#: A range around one decode step; its payload is the step's number.
STEP = "decode.step"
#: The row for everything that no stage encloses.
NO_STAGE = "(no stage)"
#: The row for everything that no range encloses.
NO_RANGE = "(no range)"
#: The row for the host's time in no CUDA API call.
OUTSIDE_CUDA = "(outside CUDA)"
#: The name of a graph replay that was traced as a whole: its kernels are not in the report.
CUDA_GRAPH = "(CUDA graph)"
