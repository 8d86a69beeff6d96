"""Makes the long description that a package index shows: README without the links that lead into its folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A link or picture with no address of its own: its words, and the file that it leads to.
_WITHIN = re.compile(r"!?\[([^\]]+)\]\((?!\w+:)([^)\s#]*)[^)\s]*\)")
_WHERE = "Files that are named here are in the source distribution."


def long_description(readme: str) -> str:
    """README as it can be read where its folder is not: a link within it is its words, and names its file."""
    return f"{_WITHIN.sub(_words, readme).rstrip()}\n\n{_WHERE}\n"


def _words(link: re.Match[str]) -> str:
    words, file = link.groups()
    return words if file.rstrip("/") in ("", words.rstrip("/")) else f"{words} ({file})"


class LongDescription(MetadataHookInterface):
    """Puts it into the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": long_description(text)}
