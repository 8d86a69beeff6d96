"""Secrets and names that are looked for in texts: learnt from environments and command lines, in every form they take.

A secret of eight bytes or more is sought anywhere, also where it was put into a URL, into JSON or HTML, or into
base64 at any place; a shorter one only as a word of its own. Not sought: a secret that is cut, reversed,
compressed, hashed, or written in other letters.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO
from urllib.parse import quote, quote_plus

from dsprof.ground.command_lines import REMOVED, secrets_among
from dsprof.ground.environment import secrets_in, secrets_of

#: What stands where something was taken out.
GONE, PATH = REMOVED.encode(), b"<path>"
#: Names and passwords of nobody in particular, and too common to take out of every text.
_ANYBODY = frozenset(
    b"root user users username admin administrator ubuntu debian docker nobody daemon runner build app test host local "
    b"localhost localdomain home python python3 nvidia cuda gpu jupyter default none null unknown vagrant ec2-user "
    b"azureuser dsprof prefill decode request step password passwd secret changeme postgres minioadmin".split()
)
USERS = frozenset(("USER", "LOGNAME", "USERNAME", "SUDO_USER", "EXPORT_USER", "USER_NAME", "JUPYTERHUB_USER"))
HOSTS = frozenset(("HOSTNAME", "HOST", "COMPUTERNAME", "EXPORT_HOST", "Hostname", "DEVICE_DISPLAY_NAME", "NODE_NAME"))
_HOME = re.compile(r"/(?:home|Users)/([^/\s:;,\"'\x00<>|]+)")
#: Shorter secrets, and names, are sought as words of their own; longer ones anywhere.
_LONG = 8
#: Values of the environment that are no secret by themselves are sought, as words, from this length on.
DISTINCTIVE = 12
_ORDINARY = re.compile(
    r"[A-Za-z_ .]*|[\d.,:;x_ -]*|true|false|(?:/(?:usr|bin|opt|lib|tmp|etc|dev|proc|sbin)\b[^:\s]*:?)+"
)
_PAIR = re.compile(r"([A-Za-z_][\w.%()-]*)=(.*)", re.DOTALL)
#: Bytes of a file that are looked at together.
_BLOCK = 1 << 20


class Sought:
    """The secrets and names to look for, each with the reason, and what is found of them."""

    def __init__(self) -> None:
        self._anywhere: dict[bytes, str] = {}
        self._words: dict[bytes, str] = {}
        self.found: Counter[str] = Counter()

    # -- learning

    def secret(self, value: str, why: str) -> None:
        """A secret: sought anywhere if it is long, else as a word; less than 4 characters are no use."""
        raw = value.strip("\"' \n").encode("utf-8", "surrogateescape")
        if raw in GONE or raw in PATH or len(raw) < 4 or raw.lower() in _ANYBODY:
            return
        if len(raw) < _LONG:
            self._words.setdefault(raw, why)
            return
        for form in forms_of(raw):
            self._anywhere.setdefault(form, why)

    def word(self, value: str, why: str) -> None:
        """The name of somebody or of a machine, sought as a word."""
        raw = value.strip("\"' \n").encode("utf-8", "surrogateescape")
        if len(raw) >= 3 and raw.lower() not in _ANYBODY and not raw.isdigit() and raw not in GONE + PATH:
            self._words.setdefault(raw, why)

    def variable(self, name: str, value: str) -> None:
        """A variable of an environment."""
        value = value.strip('"')
        self.secrets_of_variable(name, value)
        self.place(value)
        if name in USERS or name in HOSTS:
            self.word(value, "a user name" if name in USERS else "a host name")
        elif name == "HOME" and value.count("/") > 1:
            self.secret(value, "a home folder")
        elif len(value) >= DISTINCTIVE and not _ORDINARY.fullmatch(value):
            self.word(value, f"the value of {name}")

    def secrets_of_variable(self, name: str, value: str) -> None:
        """What is secret of a variable, and nothing else of it."""
        for part in secrets_of(name, value):
            self.secret(part, f"the value of {name}")

    def secrets_of_environment(self, variables: Mapping[str, str]) -> None:
        """What is secret of an environment."""
        for name, value in variables.items():
            self.secrets_of_variable(name, value)

    def command(self, words: Sequence[str]) -> None:
        """What is secret of a command line."""
        for part in secrets_among(words):
            self.secret(part, "an argument of the command")

    def place(self, text: str) -> None:
        """A text that goes: the home folders and the known forms of secrets in it."""
        for match in _HOME.finditer(text):
            self.secret(match.group(), "a home folder")
            self.word(match.group(1), "a user name")
        for part in secrets_in(text):
            self.secret(part, "a token or password")

    # -- looking

    def __len__(self) -> int:
        return len(self._anywhere) + len(self._words)

    @property
    def anywhere(self) -> list[bytes]:
        """What must not stand anywhere in the file, without those that contain another one."""
        chosen: list[bytes] = []
        for raw in sorted(self._anywhere, key=len):
            if not any(shorter in raw for shorter in chosen):
                chosen.append(raw)
        return chosen

    def remover(self, *, words: bool) -> Callable[[bytes], bytes]:
        """A function that takes what is sought anywhere, and the `words` or not, out of a text, and counts it."""
        sought = {**self._anywhere, **(self._words if words else {})}
        pattern = _alternatives(self._anywhere, self._words if words else ())

        def remove(match: re.Match[bytes]) -> bytes:
            self.found[sought[match.group()]] += 1
            return GONE

        def removed(text: bytes) -> bytes:
            return pattern.sub(remove, text) if pattern and any(raw in text for raw in sought) else text

        return removed

    def copy_without(self, source: BinaryIO, target: BinaryIO) -> None:
        """Copy a file of any size without what is sought anywhere, also where it reaches from block to block."""
        removed, longest = self.remover(words=False), max(map(len, self._anywhere), default=0)
        rest = b""
        while block := source.read(_BLOCK):
            rest = removed(rest + block)
            whole = max(len(rest) - longest, 0)
            target.write(rest[:whole])
            rest = rest[whole:]
        target.write(rest)

    def is_in(self, source: BinaryIO) -> bool:
        """Is anything that is sought anywhere in a file of any size?"""
        chosen = self.anywhere
        rest, longest = b"", max(map(len, chosen), default=0)
        while block := source.read(_BLOCK):
            rest = rest[len(rest) - longest :] + block if longest < len(rest) else rest + block
            if any(raw in rest for raw in chosen):
                return True
        return False


def is_environment(text: str) -> bool:
    """Is a text an environment, its variables parted by NUL, or a single variable?"""
    parts = [part for part in text.split("\0") if part]
    return bool(parts) and all(_PAIR.fullmatch(part) for part in parts)


def variables_in(text: str) -> Iterator[tuple[str, str]]:
    """An environment in one text, its variables parted by NUL, or by semicolons before the next name."""
    for part in text.split("\0") if "\0" in text else re.split(r";(?=[A-Za-z_]\w*=)", text):
        if pair := _PAIR.fullmatch(part):
            yield pair[1], pair[2]


def forms_of(raw: bytes) -> set[bytes]:
    """A secret as it stands in texts: as it is, in URLs, JSON, HTML and base64; hexadecimal digits in both cases."""
    text = raw.decode("utf-8", "surrogateescape")
    quoted = {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    forms = {raw, *(form.encode() for form in quoted)}
    forms |= {re.sub(rb"%[0-9A-F]{2}", lambda match: match.group().lower(), form.encode()) for form in quoted}
    for escaped in (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1], html.escape(text)):
        forms.add(escaped.encode("utf-8", "surrogateescape"))
    if re.fullmatch(r"[0-9a-fA-F-]+", text):
        forms |= {raw.lower(), raw.upper()}
    return forms | set(_within_base64(raw))


def _within_base64(raw: bytes) -> Iterator[bytes]:
    """The part of base64 that is the same whatever stands before and behind, for the three places that it may have."""
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + raw).rstrip(b"=")
        whole = encoded[-(-before * 4 // 3) : len(encoded) - ((before + len(raw)) % 3 > 0)]
        yield whole
        yield whole.translate(bytes.maketrans(b"+/", b"-_"))


def _alternatives(anywhere: Iterable[bytes], words: Iterable[bytes] = ()) -> re.Pattern[bytes] | None:
    """One pattern for all, the longest first; a word has no letter or digit beside it."""
    whole = [
        rb"(?<![A-Za-z0-9])" + re.escape(raw) + rb"(?![A-Za-z0-9])" for raw in sorted(words, key=len, reverse=True)
    ]
    parts = [*map(re.escape, sorted(anywhere, key=len, reverse=True)), *whole]
    return re.compile(b"|".join(parts)) if parts else None
