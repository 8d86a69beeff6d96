"""Makes the long description that a package index shows: README without the links that lead into its folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: A link or picture with no address of its own: its words, and the file that it leads to.
_WITHIN = re.compile(r"!?\[([^\]]+)\]\((?!\w+:)([^)\s#]*)[^)\s]*\)")
#: A picture in HTML, which has one for dark themes: its words, and the file of the other.
_THEMED = re.compile(r'<picture>.*?<img src="([^"]+)" alt="([^"]+)"></picture>')
#: The picture of the first screen, and that screen as text in a page of docs.
_SCREEN = re.compile(r"!\[[^\]]*\]\(docs/pictures/terminal\.svg\)")
_AS_TEXT = (
    "docs/reading-a-decode.md",
    re.compile(r"^<!-- screen -->\n(.*?)^<!-- /screen -->$", re.DOTALL | re.MULTILINE),
)
_WHERE = "Files that are named here are in the source distribution."


def long_description(readme: str, screen: str) -> str:
    """README as it can be read where its folder is not.

    A link or picture within it is its words, and names its file; in place of the first picture stands `screen`.
    """
    plain = _THEMED.sub(r"![\2](\1)", _SCREEN.sub(lambda _: screen, readme))
    return f"{_WITHIN.sub(_words, plain).rstrip()}\n\n{_WHERE}\n"


def _words(link: re.Match[str]) -> str:
    words, file = link.groups()
    return words if file.rstrip("/") in ("", words.rstrip("/")) else f"{words} ({file})"


class LongDescription(MetadataHookInterface):
    """Puts it into the metadata."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Called by hatchling."""
        name, part = _AS_TEXT
        readme, page = (Path(self.root, one).read_text(encoding="utf-8") for one in ("README.md", name))
        screen = part.search(page)
        if screen is None:
            raise ValueError(f"{name} has no screen")
        metadata["readme"] = {"content-type": "text/markdown", "text": long_description(readme, screen[1].rstrip())}
