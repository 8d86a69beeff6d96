"""The words that the profiled process writes and the analysis reads: domain, range names, stages."""

from __future__ import annotations

#: The NVTX domain of all ranges that dsprof itself records.
DOMAIN = "dsprof"
#: Names of the ranges that are stages, in the order in which a request passes through them.
PREFILL = "prefill"
DECODE = "decode"
STAGES = (PREFILL, DECODE)
#: What a step of an engine that batches requests does: of none, of both, and where its name does not say it.
MIXED, EMPTY, UNKNOWN = "mixed", "empty", "unknown"
MODES = (PREFILL, DECODE, MIXED, EMPTY, UNKNOWN)
#: Behind a mode that is a guess.
GUESS = "?"
#: A range around one request; its payload is the request's number.
REQUEST = "request"
#: A range around one decode step; its payload is the step's number.
STEP = "decode.step"
#: A range within a prefill, with nothing in it; its payload says how many sequences the request serves at once.
BATCH = "prefill.batch"
#: How the name of a module's range begins: as dsprof writes it, and as the hooks of vLLM, SGLang and TensorRT-LLM do.
MODULE = "module:"
MODULES = (MODULE, "{'Module':", '{"Module":')
#: The row for everything that no stage encloses.
NO_STAGE = "(no stage)"
#: The row for everything that no range encloses.
NO_RANGE = "(no range)"
#: The row for everything that no module's range encloses.
NO_MODULE = "(no module)"
#: The row for the host's time in no CUDA API call.
OUTSIDE_CUDA = "(outside CUDA)"
#: The name of a graph replay that was traced as a whole: its kernels are not in the report.
CUDA_GRAPH = "(CUDA graph)"
