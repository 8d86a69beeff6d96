"""A stand-in for vLLM's command: its switches, its endpoints, and its step ranges in a worker process.

The endpoints of the profiler are there only where one is configured, and step ranges are written only between them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection

import emit


def work(orders: Connection) -> None:
    """The worker: a prefill of 16 tokens and 4 decode steps for each request, with ranges while the profiler runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    profiling = False
    while True:
        order = orders.recv()
        if order == "end":
            return
        if order in ("start", "stop"):
            profiling = order == "start"
        else:
            steps = ["execute_context_1(16)_generation_0(0)", *["execute_context_0(0)_generation_1(1)"] * 4]
            for name in steps:
                emit.step(name) if profiling else time.sleep(0.001)
        orders.send("done")


def main(arguments: list[str]) -> int:
    if arguments[:1] != ["serve"]:
        return 2
    if "--too-old" in arguments and any(word.startswith("--profiler-config") for word in arguments):
        print("vllm: error: unrecognized arguments: --profiler-config.profiler", file=sys.stderr)
        return 2
    time.sleep(float(emit.option(arguments, "--boot", "0.2")))
    ours, theirs = (
        context := multiprocessing.get_context(os.environ.get("VLLM_WORKER_MULTIPROC_METHOD", "fork"))
    ).Pipe()
    worker = context.Process(target=work, args=(theirs,))
    worker.start()

    def tell(order: str) -> int:
        ours.send(order)
        ours.recv()
        if order == "request" and "--dies-at-work" in arguments:
            os._exit(7)
        return 200

    routes = {"GET /health": lambda: 200, "POST /v1/completions": lambda: tell("request")}
    if emit.option(arguments, "--profiler-config.profiler", "") == "cuda":
        routes |= {"POST /start_profile": lambda: tell("start"), "POST /stop_profile": lambda: tell("stop")}
    emit.serve_http(int(emit.option(arguments, "--port", "8000")), routes)
    ours.send("end")
    worker.join()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
