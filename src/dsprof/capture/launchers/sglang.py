"""SGLang: its scheduler's ranges exist with a variable of the environment, at any time."""

from __future__ import annotations

from dsprof.capture.launchers._engines import FORKS, profiler_window
from dsprof.capture.launchers._launcher import Add, Form, Hint, Launcher, Server

_SCHEDULER = Add(
    "variable",
    "SGLANG_ENABLE_NVTX_SCHEDULER",
    "1",
    "SGLang writes its scheduler's ranges (scheduler.run_batch …) only with it, and if the nvtx package is there",
)
_ACTIVITIES = Add(
    "argument",
    "--profile-activities",
    "CUDA_PROFILER",
    "SGLang then starts the CUDA profiler, and not torch's, which cannot share the GPU's events with nsys",
    unless=r"(^| )--profile[-_]activities\b",
)
_PROFILE = Add(
    "argument", "--profile", "", "the benchmark starts and stops the profiler only with it", r"(^| )--profile( |$)"
)
_NO_MODE = Hint("Its ranges say neither prefill nor decode, nor how many tokens: stages are told by heuristics alone.")
_NEVER = (
    'SGLang starts the CUDA profiler at POST /start_profile with {"activities": ["CUDA_PROFILER"]}: send it, or let '
    "--server record without it."
)

LAUNCHER = Launcher(
    "sglang",
    (
        Form(
            calls=("-m sglang.launch_server", "-m sglang serve", "sglang serve", "-m sglang.cli.main serve"),
            role="server",
            says="SGLang's server",
            adds=(FORKS, _SCHEDULER),
            package="nvtx",
            window=profiler_window("stop", _NEVER),
            server=Server(port=30000, ready="/health"),
            hints=(_NO_MODE,),
        ),
        Form(
            calls=("-m sglang.bench_one_batch", "-m sglang.benchmark.one_batch"),
            role="program",
            says="a benchmark of SGLang",
            adds=(FORKS, _SCHEDULER, _ACTIVITIES, _PROFILE),
            package="nvtx",
            window=profiler_window("repeat", "SGLang starts the CUDA profiler only with --profile."),
            hints=(_NO_MODE,),
        ),
        Form(
            calls=("-m sglang.bench_offline_throughput", "-m sglang.benchmark.offline_throughput"),
            role="program",
            says="a benchmark of SGLang",
            adds=(FORKS, _SCHEDULER),
            package="nvtx",
            hints=(_NO_MODE,),
        ),
        Form(
            calls=(
                "-m sglang.bench_serving",
                "-m sglang.bench_one_batch_server",
                "-m sglang.benchmark.serving",
                "-m sglang.benchmark.one_batch_server",
            ),
            role="client",
            says="a client of SGLang",
            hints=(
                Hint(
                    "It only sends requests: a recording of it holds nothing of the server. "
                    "Record `python -m sglang.launch_server`."
                ),
            ),
        ),
    ),
)
