"""A window in the life of a server: launched under nsys, recorded when it is ready, and ended by us.

The server is the child of ``nsys launch``, which records nothing by itself. When the server is ready, ``nsys start``
begins the recording, a client works or time passes, and ``nsys stop`` writes the report. Then the server is ended, by
signals to it and never to nsys, which ends with it. A server that ends by itself in the window is recorded until then.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from dsprof.capture.loopback import answers, is_taken, is_url, post
from dsprof.capture.options import ProfileOptions, environment_of
from dsprof.capture.watching import LOG, Asked, Run
from dsprof.errors import CaptureRefused, ServerFailed
from dsprof.nsys.processes import is_alive
from dsprof.records import frozen

_TICK_S = 0.1
#: Seconds between two questions whether it is ready, for the server to end by itself, and for nsys to begin.
_ASK_S, _SOFT_S, _BEGIN_S = 0.5, 15.0, 120.0
#: Seconds in which a server may be seen to be gone after its client noticed.
_FOLLOWS_S = 1.0


@frozen(kw_only=True)
class Serving:
    """How a server is known to be ready, and what happens in its window.

    `ready`: a URL that answers, or a text that it prints. `start`, `stop`: URLs for POST, its own switches of a
    recording. `client`: a command that runs in the window; without one it lasts `window_s` seconds.
    """

    ready: str
    start: str = ""
    stop: str = ""
    window_s: float = 5.0
    client: tuple[str, ...] = ()
    ready_limit_s: float = 600.0

    def said(self) -> list[str]:
        """What will be done, in lines to be printed before. The client's words are not told: they may be secret."""
        ready = f"{self.ready} answers" if is_url(self.ready) else f"it prints {self.ready!r}"
        span = "while the client runs" if self.client else f"for {self.window_s:g} s"
        switches = f", between POST {self.start} and {self.stop}" if self.start else ""
        return [f"  nsys launch, and once {ready}, nsys start: recorded {span}{switches}. Then the server is ended."]


def check_free(serving: Serving) -> None:
    """Refuse to start a server where one answers already: it would be taken for ours. Raises `CaptureRefused`."""
    for url in (serving.ready, serving.start):
        if is_url(url) and is_taken(url):
            raise CaptureRefused(
                f"Something answers at {url} before the server is started.", "End it, or give the server another port."
            )


class _Over(Exception):
    """The server is gone, or is being ended."""


class ServerRun(Run):
    """``nsys launch`` with a server, and what is done with it."""

    def __init__(
        self,
        launch: list[str],
        options: ProfileOptions,
        partial: Path,
        live: TextIO | None,
        nsys: Path,
        serving: Serving,
        collect: tuple[list[str], list[str]],
        progress: Callable[[str], None],
    ) -> None:
        """Start the server; `collect`: the commands that begin and end a recording."""
        self._serving, self._collect, self._progress = serving, collect, progress
        self._collecting = False
        self._first: tuple[int, int] | None = None  # the server's first process, by number and start
        self._soft = False  # the next signal is for the server's first process alone
        super().__init__(launch, options, partial, live, nsys=nsys)
        self.output.listen("" if is_url(serving.ready) else serving.ready)

    def watch(self) -> None:
        """Go through the server's life, and wait until nsys ends."""
        try:
            self._live()
        except _Over:
            pass
        except ServerFailed as error:
            self.failure = error
            self._end("ended")
        except KeyboardInterrupt:
            self._interrupt()
        super().watch()

    def _live(self) -> None:
        self._wait_until_ready()
        if self._targets_alive():
            self._first = min(self._targets.items(), key=lambda one: (one[1], one[0]))
        self._progress("recording the server")
        self._begin_recording()
        if self._serving.start and (trouble := post(self._serving.start)):
            self.problems.append(
                f"POST {self._serving.start} {trouble}, so the server's own ranges may be missing: it has that only "
                "where its profiler is configured."
            )
        self._let_work()
        if self._is_gone():
            raise _Over
        if self._serving.stop and not self.problems:
            post(self._serving.stop)  # it is ended anyway
        self._end("ended")

    def _wait_until_ready(self) -> None:
        ready, next_ask = self._serving.ready, 0.0
        self._progress("waiting until the server is ready")

        def is_ready() -> bool:
            nonlocal next_ask
            if not is_url(ready):
                return self.output.heard
            if time.monotonic() < next_ask:
                return False
            is_there = answers(ready)
            next_ask = time.monotonic() + _ASK_S
            return is_there

        try:
            in_time = self._until(is_ready, self._serving.ready_limit_s)
        except _Over:
            if self.asked is None and self._process.poll() is not None:
                self.failure = ServerFailed(
                    f"The server ended (exit code {self.code}) before it was ready.",
                    "The log has what it said; see whether it runs without nsys.",
                )
            raise
        if not in_time:
            what = f"{ready} did not answer" if is_url(ready) else f"it did not print {ready!r}"
            raise ServerFailed(
                f"The server was not ready after {self._serving.ready_limit_s:g} s: {what}.",
                "Give it more time with --ready-limit, or say with --ready which URL answers or what it prints then.",
            )

    def _begin_recording(self) -> None:
        self._collecting = True
        code, said = self._nsys(self._collect[0], _BEGIN_S)
        if code:
            self._collecting = False
            raise ServerFailed(f"nsys could not begin to record the server: {said}.", "The log has all that it said.")

    def _let_work(self) -> None:
        if not self._serving.client:
            self._until(lambda: False, self._serving.window_s)
            return
        log = (self.partial / LOG).open("ab", buffering=0)
        try:
            client = subprocess.Popen(
                self._serving.client,
                env=environment_of(self._options, self.scratch),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self.problems.append(f"The client {self._serving.client[0]} cannot be run ({error.strerror}).")
            return
        finally:
            log.close()
        self._until(lambda: client.poll() is not None, None)
        if client.returncode and not self._until(self._is_gone, _FOLLOWS_S):
            self.problems.append(f"The client ended with exit code {client.returncode}.")

    def _is_gone(self) -> bool:
        """Did the server end by itself?"""
        return self._first is not None and not is_alive(*self._first)

    def _until(self, done: Callable[[], bool], limit_s: float | None) -> bool:
        """Wait until `done`; False after `limit_s` seconds. Raises `_Over` when the server is gone or told to end."""
        end = None if limit_s is None else time.monotonic() + limit_s
        while not done():
            if self._process.poll() is not None or self.hung or self.asked is not None:
                raise _Over
            if end is not None and time.monotonic() > end:
                return False
            time.sleep(_TICK_S)
            self._look()
        return True

    def _end(self, why: Asked) -> None:
        """End the recording first, which writes the report, and then the server."""
        if self._collecting:
            self._collecting = False
            self._progress("ending the recording")
            code, said = self._nsys(self._collect[1], self._options.import_limit_s)
            if code and self._process.poll() is None:
                self.problems.append(f"nsys could not end the recording: {said}.")
        self._soft = True
        super()._end(why)
        self._steps.insert(0, (signal.SIGINT, self._options.patience_s))

    def _step(self) -> None:
        """The first signal is for the first process of the server, which ends the others as it likes."""
        if not self._soft:
            super()._step()
            return
        self._soft = False
        self._steps.pop(0)
        self._next_step = time.monotonic() + _SOFT_S
        if self._targets_alive():
            first = self._first or (0, 0)
            aim = first[0] if first in self._targets.items() else min(self._targets)
        elif self.seen or self.output.chatter:
            return  # it is gone, and nsys is about to be
        else:
            aim = self._process.pid
        with suppress(ProcessLookupError):
            os.kill(aim, signal.SIGINT)

    def _nsys(self, words: list[str], limit_s: float) -> tuple[int, str]:
        """Ask nsys something about the session; its exit code, and why it failed."""
        said = self.scratch / "said"
        with said.open("wb") as file:
            process = subprocess.Popen(
                words,
                env=environment_of(self._options, self.scratch),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(limit_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return 124, f"no end after {limit_s:.0f} s"
            except BaseException:
                process.kill()
                process.wait()
                raise
        text = said.read_bytes().decode("utf-8", "replace")
        lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip() and "%" not in line]
        with suppress(OSError), (self.partial / LOG).open("a", encoding="utf-8") as log:
            log.write("".join(f"{line}\n" for line in lines))
        return code, (lines[-1] if lines else "it said nothing")[:300].rstrip(".")
