"""HTTP to a server of our own on this machine: never through a proxy, never to another machine by itself."""

from __future__ import annotations

import ipaddress
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from dsprof.capture.launchers import Server

#: Seconds for one answer, and for that to the start of a profiler, which loads it.
_ANSWER_S, _SWITCH_S = 2.0, 60.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        """Follow nothing: it could lead elsewhere."""


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def base_of(server: Server, arguments: Sequence[str]) -> str | None:
    """``http://host:port`` of a server by its command line; None where it is not reached so on this machine."""
    if re.search(server.beyond, " ".join(arguments)):
        return None
    host = _value(arguments, server.host_options) or "127.0.0.1"
    port = _value(arguments, server.port_options) or str(server.port)
    here = _here(host)
    return f"http://{here}:{port}" if here and port.isdigit() and 0 < int(port) < 1 << 16 else None


def _value(arguments: Sequence[str], names: Sequence[str]) -> str | None:
    """The last value that one of the options has."""
    found = None
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name in names:
            found = value if equals else "".join(arguments[place + 1 : place + 2])
    return found


def _here(host: str) -> str | None:
    """The loopback address at which a server on `host` answers; None if it does at none."""
    if host == "localhost":
        return host
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    if not address.is_loopback:
        return None
    return str(address) if address.version == 4 else f"[{address}]"


def is_taken(url: str) -> bool:
    """Does something accept connections where `url` leads?"""
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=_ANSWER_S):
            return True
    except (OSError, ValueError):
        return False


def answers(url: str) -> bool:
    """Does a GET of `url` succeed?"""
    return not _said(urllib.request.Request(url), _ANSWER_S)  # noqa: S310 - http and https only, see `is_url`


def post(url: str) -> str:
    """Why a POST to `url` failed, as the end of a sentence; empty if it did not."""
    request = urllib.request.Request(url, data=b"", method="POST")  # noqa: S310 - made by `base_of`
    return _said(request, _SWITCH_S)


def is_url(text: str) -> bool:
    """Is it a URL, and no text that a program prints?"""
    return bool(re.fullmatch(r"https?://[^\s/]+\S*", text))


def _said(request: urllib.request.Request, limit_s: float) -> str:
    try:
        with _OPENER.open(request, timeout=limit_s) as answer:
            return "" if 200 <= answer.status < 300 else f"answered {answer.status}"
    except urllib.error.HTTPError as error:
        return f"answered {error.code}"
    except TimeoutError:
        return f"had no answer within {limit_s:.0f} s"
    except (OSError, HTTPException, ValueError) as error:
        return f"failed ({type(error).__name__})"
