"""A page on this machine that hands a timeline to the Perfetto UI, which shows it in the browser and sends it nowhere.

The page holds the UI in a frame and gives it the bytes as a message, so neither the browser nor the UI asks for leave::

    browser ── GET /KEY/ ──> page ── frame ──> UI          "PING" until it says "PONG", then the timeline
                 GET /KEY/timeline ──> bytes ──┘

It answers on the loopback interface alone, under a key that no other user of the machine knows, and to no other name:
a foreign page whose name somebody lets point here is refused.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import BinaryIO
from urllib.parse import quote, urlencode, urlsplit

from dsprof.records import frozen

UI = "https://ui.perfetto.dev"
_LOOPBACK = "127.0.0.1"
_PIECE = 1 << 20

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style nonce="{nonce}">
html, body {{ margin: 0; height: 100%; }}
iframe {{ border: 0; width: 100%; height: 100%; display: block; }}
p {{ font: 1rem/1.5 sans-serif; margin: 2rem; position: absolute; }}
</style>
<p id="said" role="status">Waiting for {shown} …</p>
<iframe id="ui" title="Perfetto" src="{frame}" allow="clipboard-write"></iframe>
<script nonce="{nonce}">
const ui = document.getElementById("ui");
const said = document.getElementById("said");
const asking = setInterval(() => ui.contentWindow.postMessage("PING", {origin}), 100);
let handed = false;
window.addEventListener("message", async (event) => {{
  if (event.source !== ui.contentWindow || event.origin !== {origin} || event.data !== "PONG" || handed) return;
  handed = true;
  clearInterval(asking);
  said.remove();
  const buffer = await (await fetch("timeline")).arrayBuffer();
  ui.contentWindow.postMessage({{perfetto: {{buffer, title: {name}, fileName: {name}}}}}, {origin});
}});
</script>
</html>
"""


@frozen
class Shown:
    """What is shown: a timeline by its name, of which time in ns, None for all, in which UI."""

    name: str
    sight: tuple[int, int] | None = None
    ui: str = UI

    @property
    def origin(self) -> str:
        """Of which site the UI is."""
        parts = urlsplit(self.ui)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def frame(self) -> str:
        """The address of the UI, with what it is to do once it has the timeline."""
        opened = _OVERVIEW if self.sight is None else _ALL
        command = {"id": "dev.perfetto.ExpandTracksByRegex", "args": [opened]}
        asked = {"mode": "embedded", "startupCommands": json.dumps([command])}
        if self.sight is not None:
            asked |= {"visStart": str(max(self.sight[0], 0)), "visEnd": str(self.sight[1])}
        return f"{self.ui.rstrip('/')}/#!/?{urlencode(asked, quote_via=quote)}"


#: The tracks that are open at first: of all of a report stages, collectives and streams, of a step the host's as well.
_OVERVIEW, _ALL = "(^|· )(Analysis|Collectives|GPU)", "."


class Served(ThreadingHTTPServer):
    """The page and the timeline, until it is closed; `address` is what a browser opens."""

    daemon_threads = True

    def __init__(self, shown: Shown, size: int, opened: Callable[[], BinaryIO]) -> None:
        self.shown, self.size, self.opened = shown, size, opened
        self.key = secrets.token_urlsafe(16)
        super().__init__((_LOOPBACK, 0), _Answer)

    @property
    def host(self) -> str:
        """How a browser calls us."""
        return f"{_LOOPBACK}:{self.server_port}"

    @property
    def address(self) -> str:
        """What to open."""
        return f"http://{self.host}/{self.key}/"

    def page(self, nonce: str) -> bytes:
        """The page."""
        origin, name = (json.dumps(text).replace("<", "\\u003c") for text in (self.shown.origin, self.shown.name))
        filled = _PAGE.format(
            title=escape(self.shown.name), shown=escape(self.shown.origin), frame=escape(self.shown.frame), nonce=nonce,
            origin=origin, name=name,
        )  # fmt: skip
        return filled.encode("utf-8", "replace")


class _Answer(BaseHTTPRequestHandler):
    server: Served

    def do_GET(self) -> None:
        """Answer a request; what is not ours is not found."""
        path = self.path.partition("?")[0]
        if self.headers.get("Host") != self.server.host:
            self.send_error(403)
        elif path == f"/{self.server.key}/":
            nonce = secrets.token_urlsafe(16)
            self._begin("text/html; charset=utf-8", body := self.server.page(nonce), _policy(nonce, self.server.shown))
            self.wfile.write(body)
        elif path == f"/{self.server.key}/timeline":
            self._begin("application/octet-stream", None, "default-src 'none'")
            with self.server.opened() as file:
                while piece := file.read(_PIECE):
                    self.wfile.write(piece)
        else:
            self.send_error(404)

    def _begin(self, kind: str, body: bytes | None, policy: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(self.server.size if body is None else len(body)))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _policy(nonce: str, shown: Shown) -> str:
    return (
        f"default-src 'none'; frame-src {shown.origin}; connect-src 'self'; script-src 'nonce-{nonce}'; "
        f"style-src 'nonce-{nonce}'; base-uri 'none'; frame-ancestors 'none'"
    )


def ui_of(text: str) -> str:
    """The address of a Perfetto UI. Raises ValueError.

    >>> ui_of("http://127.0.0.1:8000/")
    'http://127.0.0.1:8000/'
    """
    parts = urlsplit(text)
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain or any(one in text for one in " ;,'\""):
        raise ValueError(f"'{text[:80]}' is no address like https://ui.perfetto.dev.")
    return text
