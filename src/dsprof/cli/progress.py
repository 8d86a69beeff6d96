"""Says on stderr what takes long."""

from __future__ import annotations

import sys
import threading
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from dsprof.show.safe import visible

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Progress(AbstractContextManager["Progress"]):
    """A bar on a terminal's stderr that says what is being done, once it has taken longer than a second.

    `more`: sentences beside those of one report.
    """

    _PATIENCE_S = 1.0
    #: Sentences that an analysis says: what it reads, and the tables that it writes.
    _SENTENCES = 16

    def __init__(self, more: int = 0) -> None:
        self._sentences = self._SENTENCES + more
        self._sentence, self._said = "reading", 0
        self._lock = threading.Lock()
        self._over = False
        self._bar: RichProgress | None = None
        self._timer = threading.Timer(self._PATIENCE_S, self._start)
        self._timer.daemon = True

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        with self._lock:
            self._over = True
            if self._bar is not None:
                self._bar.stop()

    def __call__(self, sentence: str) -> None:
        """Tell what is being done now."""
        with self._lock:
            self._sentence, self._said = visible(sentence), self._said + 1
            if self._bar is not None:
                self._bar.update(self._bar.task_ids[0], description=self._sentence, completed=self._said)

    def _start(self) -> None:
        from dsprof.show.terminal import progress_bar

        with self._lock:
            if self._over:
                return
            self._bar = progress_bar()
            self._bar.add_task(self._sentence, total=self._sentences, completed=self._said)
            self._bar.start()
