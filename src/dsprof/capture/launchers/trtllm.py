"""TensorRT-LLM: its step ranges are always there; which steps are recorded is told by a variable."""

from __future__ import annotations

from dsprof.capture.launchers._engines import FORKS, profiler_window
from dsprof.capture.launchers._launcher import Form, Hint, Launcher, Server

_STEPS = "TLLM_PROFILE_START_STOP"
_NEVER = "TensorRT-LLM starts the CUDA profiler at the first step of --steps: name steps that the run reaches."
_WHOLE = Hint("Without --steps A-B the whole run is recorded, and a long recording may lose kernels.")
_MORE = Hint("The variable TLLM_LLMAPI_ENABLE_NVTX=1 gives more ranges, TLLM_PROFILE_RECORD_GC=1 garbage collections.")

LAUNCHER = Launcher(
    "trtllm",
    (
        Form(
            calls=("trtllm-serve disaggregated", "trtllm-serve disaggregated_mpi_worker"),
            role="client",
            says="a router of TensorRT-LLM",
            hints=(Hint("It only passes requests on: record the servers of prefill and decode, each on its own."),),
        ),
        Form(
            calls=("trtllm-serve",),
            role="server",
            says="TensorRT-LLM's server",
            adds=(FORKS,),
            steps=_STEPS,
            steps_window=profiler_window("repeat", _NEVER),
            server=Server(port=8000, ready="/health"),
            hints=(_MORE,),
        ),
        Form(
            calls=("trtllm-bench", "trtllm-eval"),
            role="program",
            says="a benchmark of TensorRT-LLM",
            adds=(FORKS,),
            steps=_STEPS,
            steps_window=profiler_window("repeat", _NEVER),
            hints=(_WHOLE, _MORE),
        ),
    ),
)
