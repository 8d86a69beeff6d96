"""What can be shown as one HTML file, and written as such."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from dsprof.ground.whole import spare, write_whole


class Paged(ABC):
    """Something that has a page."""

    @abstractmethod
    def page(self) -> str:
        """All of it as one HTML file, which needs nothing else to be read."""

    @property
    def path(self) -> Path | None:
        """What it is made from, which its page must not replace; None where that is no one file."""
        return None

    def report(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the page to a file, whole or not at all, and return its path.

        `force`: replace a file that is there. Raises `OutputExists` where there is one that is not to be replaced,
        `OutputRefused` where it cannot be written, or is what the page is made from.
        """
        target = Path(path)
        spare([self.path] if self.path is not None else [], target)
        write_whole(target, self.page(), force)
        return target
