"""The ranges of serving engines, written as the engines write them; a stand-in, which serves nothing.

Names and counts are those of vLLM, SGLang and TensorRT-LLM. vLLM and SGLang write in the default domain; here it is one
of our own (`STAND_IN`), because the nvtx package loses ranges of the default domain under Debian's nsys.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from dsprof.workloads.ranges import open_domain

STAND_IN = "stand-in"


def step(name: str, domain: str = STAND_IN) -> None:
    """One range of that name."""
    ranges = open_domain(domain)
    ranges.push(name)
    time.sleep(0.001)
    ranges.pop()


def serve_http(port: int, routes: dict[str, Callable[[], int]]) -> None:
    """Answer with the status that a route gives, by ``METHOD /path``, until SIGINT or SIGTERM; then end well."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length)
            route = routes.get(f"{self.command} {self.path}")
            self.send_response(404 if route is None else route())
            self.end_headers()
            self.wfile.write(json.dumps({"stand-in": True}).encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            print(self.command, self.path, file=sys.stderr, flush=True)

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    print("Application startup complete.", os.getpid(), flush=True)
    server.serve_forever()
    print("server ended well", flush=True)


def option(arguments: list[str], name: str, default: str) -> str:
    for place, word in enumerate(arguments):
        if word == name:
            return arguments[place + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return default
