"""vLLM: its step ranges exist only between /start_profile and /stop_profile, with the CUDA profiler configured."""

from __future__ import annotations

from dsprof.capture.launchers._engines import FORKS, profiler_window
from dsprof.capture.launchers._launcher import Add, Form, Hint, Launcher, Server

_SPAWN = Add(
    "variable",
    "VLLM_WORKER_MULTIPROC_METHOD",
    "spawn",
    "forked workers of a process that nsys has entered are missing from the report",
)
_PROFILER = Add(
    "argument",
    "--profiler-config.profiler",
    "cuda",
    "vLLM writes its step ranges (execute_context_…) only with it; one too old to know it ends at once",
    unless=r"(^| )--profiler[-_]config\b",
)
_PROFILE = Add(
    "argument", "--profile", "", "the benchmark starts and stops the profiler only with it", r"(^| )--profile( |$)"
)
_OTHER = Hint(
    "The profiler of --profiler-config is not cuda: vLLM then writes no step ranges, and its torch profiler and nsys "
    "cannot both have the GPU's events.",
    when=r"(^| )--profiler[-_]config\b(?!.*\bcuda\b)",
)
_DETAILED = Hint(
    "--profiler-config.detailed_trace_annotation=true makes the step ranges say the lengths of KV caches as well.",
    unless=r"detailed_trace_annotation",
)
_PARALLEL = Hint(
    "Every worker starts and stops the profiler, and the first stop closes the recording: with several GPUs, --server "
    "is the surer way.",
    when=r"(^| )(--(tensor|pipeline|data)[-_]parallel[-_]size|-tp|-pp|-dp)[ =]?(?!1( |$))\d",
)
_RAY = Hint(
    "Ray starts the workers apart, and this nsys does not see them: vLLM's own --ray-workers-use-nsight records them.",
    when=r"--distributed[-_]executor[-_]backend[ =]ray",
)
_NEVER = "vLLM starts the CUDA profiler at POST /start_profile (or with --profile): send it, or let --server do it."

LAUNCHER = Launcher(
    "vllm",
    (
        Form(
            calls=("vllm bench serve", "-m vllm.entrypoints.cli.main bench serve"),
            role="client",
            says="a client of vLLM",
            hints=(
                Hint("It only sends requests: a recording of it holds nothing of the server. Record `vllm serve`."),
            ),
        ),
        Form(
            calls=("vllm bench", "-m vllm.entrypoints.cli.main bench"),
            role="program",
            says="a benchmark of vLLM",
            adds=(FORKS, _SPAWN, _PROFILER, _PROFILE),
            window=profiler_window("repeat", _NEVER),
            hints=(_OTHER, _DETAILED, _RAY),
        ),
        Form(
            calls=(
                "vllm serve",
                "-m vllm.entrypoints.cli.main serve",
                "-m vllm.entrypoints.openai.api_server",
                "-m vllm.entrypoints.api_server",
            ),
            role="server",
            says="vLLM's server",
            adds=(FORKS, _SPAWN, _PROFILER),
            window=profiler_window("repeat", _NEVER),
            server=Server(port=8000, ready="/health", start="/start_profile", stop="/stop_profile"),
            hints=(_OTHER, _DETAILED, _PARALLEL, _RAY),
        ),
        Form(
            calls=("vllm run-batch", "-m vllm.entrypoints.openai.run_batch", "-m vllm.entrypoints.cli.main run-batch"),
            role="program",
            says="a batch run of vLLM",
            adds=(FORKS, _SPAWN),
            hints=(
                Hint(
                    "It never starts the profiler, so there are no step ranges; the variable "
                    "VLLM_NVTX_SCOPES_FOR_PROFILING=1 gives ranges of the scheduler and the model runner."
                ),
                _RAY,
            ),
        ),
    ),
)
