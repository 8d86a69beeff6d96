"""Texts that do something to a terminal, a spreadsheet or a page, and whether an output still holds one that would."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from random import Random

#: By what each attacks; bytes are stored as they are, UTF-8 or not.
TEXTS: tuple[str | bytes, ...] = (
    "\x1b]0;window title\x07", "\x1b[2J\x1b[H", "\x9b2J", "\x90q\x9c", "\x07\x07", "abc\b\b\bxyz", "one\rtwo",
    "one\ntwo",
    "dsprof: a line\n        of an error", "a\tb", "\v\f", "\x7f", "\u202egnp.exe", "\u2066x\u2069",
    "one\u2028two\x85three",
    "[/x]", "[bold]", "[link=file:///etc/passwd]x[/link]", "[", "]", "[[", "\\[x]", "[/]", "[red", ":smile:",
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "</td></tr></table>", "&lt;b&gt;", "<!-- ", "<b",
    "a<b>c",
    "=1+1", "+1", "-2+3", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1", "\r=1", "\n=1", " =1", '"=1', "'=1", "=", "-",
    "|", "a|b|c", "\\|", "`", "``", "a`b", "![x](http://example.invalid/x.png)", "[x](javascript:alert(1))", "# x",
    "---",
    "*x*", "_x_", "~~x~~", "$x$", "http://example.invalid", "1. x", "- x", "\\", "\\\\", "%s %d {} {0}", "$(id)",
    "`id`",
    "a,b", '"', '""', "a\"b", "'", "\n", "\r\n", " ", "  ", "", "\u00a0", "\u200b", "\ufeff", "e\u0301", "\u4e2d\u6587",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "\u0627\u0644", "\ufffe", "\x00", "a\x00b", b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\xc3", b"\xf4\x90\x80\x80", "x" * 300, "x" * 5_000, "(" * 2_000, "<" * 2_000, "a::" * 2_000, "x<int>(" * 300,
    "void f<", ">", "::", "operator<", "operator()", "()", "(no stage)", "(no range)", "(CUDA graph)", "None", "nan",
    "../../x", "/etc/passwd", "~", "-rf", "--help", "CON", ".", "..",
)  # fmt: skip
_BIDI = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
_FORMULA = re.compile(r"[=+\-@\t\r]")
_TAG = re.compile(r"(?<!\\)<[A-Za-z/!?]")
_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
_PIPE = re.compile(r"(?<!\\)(?:\\\\)*\|")


def any_text(random: Random) -> str:
    """One of the texts, or two of them in one, as a kernel's name now and then; see `stored` for those of bytes."""
    one, other = random.choice(TEXTS), random.choice(TEXTS)
    if isinstance(one, bytes):
        return one.decode("utf-8", "surrogateescape")
    if random.random() < 0.7 or isinstance(other, bytes):
        return one
    return f"{one}{other}" if random.random() < 0.5 else f"void k<{one}>({other})"


def stored(text: str) -> str | bytes:
    """A text as it stands in a report: bytes where it is no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def obeyed(text: str) -> Iterator[str]:
    """Characters that a terminal obeys, or that turn a line round; a line's end is none."""
    for char in sorted(set(text)):
        if (unicodedata.category(char) == "Cc" and char not in "\n\t") or char in _BIDI:
            yield f"U+{ord(char):04X}: {around(text, char)}"


def around(text: str, found: str) -> str:
    """What is beside something, to be read."""
    at = text.index(found)
    return ascii(text[max(at - 40, 0) : at + 40])


def csv_trouble(text: str) -> Iterator[str]:
    """What a spreadsheet would make of it: formulas, rows of another length."""
    header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    for row in rows:
        if len(row) != len(header):
            yield f"a row of {len(row)} cells under {len(header)}: {row!a:.200}"
        for cell in row:
            if _FORMULA.match(cell) and not _is_number(cell):
                yield f"a formula: {cell!a:.80}"


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return cell == cell.strip()


def markdown_trouble(text: str) -> Iterator[str]:
    """What a page would make of it: tags, rows of another length."""
    bare = _CODE.sub("", text).replace("<!-- -->", "")  # what keeps an @ from calling somebody
    if found := _TAG.search(bare):
        yield f"a tag: {around(bare, found[0])}"
    width = 0
    for line in bare.split("\n"):
        pipes = len(_PIPE.findall(line)) if line.startswith("|") else 0
        if pipes and width and pipes != width:
            yield f"a row with {pipes} bars under {width}: {line!a:.200}"
        width = pipes


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.found += [f"{tag} {name}" for name, _ in attrs if name.startswith("on")]


def tags_of(page: str) -> set[str]:
    """The tags of a page, and attributes that run something."""
    parser = _Tags()
    parser.feed(page)
    return set(parser.found)
