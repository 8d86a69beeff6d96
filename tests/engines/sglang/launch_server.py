"""A stand-in for ``python -m sglang.launch_server``: the scheduler's ranges, with the variable that turns them on."""

from __future__ import annotations

import os
import sys
import time

import emit


def complete() -> int:
    for name in ("scheduler.recv_requests", "scheduler.get_next_batch_to_run", "scheduler.run_batch"):
        emit.step(name) if os.environ.get("SGLANG_ENABLE_NVTX_SCHEDULER") == "1" else time.sleep(0.001)
    return 200


if __name__ == "__main__":
    port = int(emit.option(sys.argv, "--port", "30000"))
    emit.serve_http(port, {"GET /health": lambda: 200, "POST /generate": complete})
