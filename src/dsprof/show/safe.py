r"""Text of a report made safe for where it goes: a terminal, Markdown, CSV, JSON, HTML.

Names in a report are the words of whoever made it. A terminal obeys the control characters in them, Markdown and HTML
take their punctuation for markup, a spreadsheet computes what begins with an equals sign. Whatever is printed goes
through here; a character that is not shown stands as its escape (``\x1b``), so nothing is hidden either.
"""

from __future__ import annotations

import re

#: Controls of C0 and C1, what turns the direction of text, what has no width or breaks lines, halves of surrogates.
_UNSEEN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\uffff\\ud800-\\udfff"
    "\\U000e0000-\\U000e0fff]"
)
#: Markdown's punctuation wherever it may be markup; an underscore within a word never is.
_MARKUP = re.compile(r"[\\`*\[\]<>&|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=:)//|(?<=www)\.", re.IGNORECASE)
_AT_THE_HEAD = re.compile(r"^(\s*)([-+#=]|\d+(?=[.)]))")
#: What becomes a link to a person or an issue, and so tells them, where it is pasted into a pull request.
_CALLING = re.compile(r"@(?=\w)|#(?=\d)|(?<=[Gg][Hh])-(?=\d)")
#: What a spreadsheet computes.
_FORMULA = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # and their full-width forms

#: Characters of a label in a figure.
_LABEL = 60


def visible(text: str) -> str:
    r"""The text with an escape in place of each character that is not seen, line ends and tabs included.

    >>> visible("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    return _UNSEEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    short = {9: r"\t", 10: r"\n", 13: r"\r"}.get(code)
    return short or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")


def for_terminal(text: str) -> str:
    """One or several lines of text, for a terminal."""
    return "\n".join(map(visible, text.split("\n")))


def for_markdown(text: str) -> str:
    """Text that Markdown, as GitHub understands it, shows as it is, and that calls nobody."""
    quiet = _CALLING.sub(lambda found: f"{found[0]}\0", visible(text))
    marked = _MARKUP.sub(lambda found: "".join(f"\\{one}" for one in found[0]), quiet)
    return _AT_THE_HEAD.sub(_not_at_the_head, marked).replace("\0", "<!-- -->")


def _not_at_the_head(found: re.Match[str]) -> str:
    """A number keeps its digits: what follows it makes the list."""
    return f"{found[1]}{found[2]}\\" if found[2].isdigit() else f"{found[1]}\\{found[2]}"


def for_csv(text: str) -> str:
    """A cell of text that a spreadsheet does not compute: before what it takes for a formula stands an apostrophe.

    The end of a line stays, as a cell may have several.
    """
    return f"'{for_terminal(text)}" if _FORMULA.match(text) else for_terminal(text)


def for_json(document: str) -> str:
    """A JSON document whose texts have an escape for what is not seen; it means the same."""
    return "\n".join(_UNSEEN.sub(_json_escape, line) for line in document.split("\n"))


def _json_escape(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


def for_html(text: str) -> str:
    """Text within an element or an attribute."""
    from html import escape  # which loads all names of characters

    return escape(visible(text))


def for_plot(text: str) -> str:
    """A label of a figure: no mathematics, no underscore at its head, which would hide it from a legend; not longer."""
    seen = visible(text)
    short = seen if len(seen) <= _LABEL else seen[: _LABEL - 1] + "…"
    return (f" {short}" if short.startswith("_") else short).replace("$", r"\$")
