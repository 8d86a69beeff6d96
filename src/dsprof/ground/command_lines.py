"""Which parts of a command line are secret: values of options, headers, passwords in URLs, known kinds of token.

A command line is judged word by word, by the name of the option that a word belongs to and by the form of what
stands in it; a word that holds words of its own (``bash -c "..."``, JSON, ``a=b,c=d``) is looked into. What looks
like a number, a switch, a path or a name is left alone, and so is a prompt, which is the user's own text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

from dsprof.ground.environment import REFERENCE, is_secret_by_name, looks_random, places_in, words_of

#: What stands where a secret was taken out.
REMOVED = "<removed>"

#: From where to where in a text a secret reaches.
Place = tuple[int, int]


def masked(words: Sequence[str]) -> tuple[str, ...]:
    """A command line with its secrets taken out.

    >>> masked(["serve.py", "--api-key", "swordfish", "--max-tokens=512", "https://me:swordfish@example.org"])
    ('serve.py', '--api-key', '<removed>', '--max-tokens=512', 'https://me:<removed>@example.org')
    """
    return tuple(map(without, words, places(words)))


def secrets_among(words: Sequence[str]) -> tuple[str, ...]:
    """The secrets of a command line, each once."""
    found = (word[start:end] for word, inside in zip(words, places(words), strict=True) for start, end in inside)
    return tuple(dict.fromkeys(found))


def without(text: str, found: Iterable[Place]) -> str:
    """A text without what stands in some places, which may overlap."""
    for start, end in reversed(_joined(found)):
        text = f"{text[:start]}{REMOVED}{text[end:]}"
    return text


def places(words: Sequence[str]) -> list[list[Place]]:
    """Where the secrets of a command line are, for each word; of a secret in a secret, as in a DSN, both."""
    return _places_of_all(words, 0)


class _Look(NamedTuple):
    """How words are judged: is -p likely a password here, and how many words hold the one that is looked at?"""

    asks_for_password: bool
    depth: int

    def deeper(self) -> _Look:
        return _Look(self.asks_for_password, self.depth + 1)


def _places_of_all(words: Sequence[str], depth: int) -> list[list[Place]]:
    look = _Look(_asks_for_password(words), depth)
    return [list(_places(word, before, look)) for before, word in zip(["", *words][:-1], words, strict=True)]


def _joined(found: Iterable[Place]) -> list[Place]:
    joined: list[Place] = []
    for start, end in sorted(found):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        elif start < end:
            joined.append((start, end))
    return joined


def _moved(found: Iterable[Place], by: int) -> Iterator[Place]:
    return ((start + by, end + by) for start, end in found)


# -- one word -------------------------------------------------------------------------------------------

_OPTION = re.compile(r"--[A-Za-z][\w.-]*|-[A-Za-z]|-[a-z][a-z_-]+")
_ASSIGNED = re.compile(r"(-{0,2}[A-Za-z_/][\w.:/-]*)=(.+)", re.DOTALL)
_ATTACHED = re.compile(r"-([puUHb])(.+)", re.DOTALL)
#: So many words inside of words are looked into, and so many characters of each.
_DEEPEST, _LONGEST = 6, 16_384
_FLAG = re.compile(r"-[A-Za-z]|--[A-Za-z][\w-]*(=.*)?", re.DOTALL)


def _places(word: str, before: str, look: _Look) -> Iterator[Place]:
    """The secrets in a word that stands behind the word `before`."""
    option = bool(_OPTION.fullmatch(before))
    if option and "PROMPT" in words_of(before):
        return
    if option and not _FLAG.fullmatch(word):
        yield from _of_value(before, word, look)
    elif _announces(before) and word.lower() not in _SCHEMES and not REFERENCE.fullmatch(word):
        yield (0, len(word))
    assigned = _ASSIGNED.fullmatch(word) if look.depth <= _DEEPEST else None
    if assigned:
        yield from _of_assigned(assigned[1], assigned[2], assigned.start(2), look.deeper())
    if assigned and ("PROMPT" in words_of(assigned[1]) or not re.search(r"\s", word)):
        return
    if attached := _ATTACHED.fullmatch(word):
        yield from _moved(_of_letter(attached[1], attached[2], look, attached=True), 2)
    yield from _of_text(word, look)


def _of_assigned(name: str, value: str, start: int, look: _Look) -> Iterator[Place]:
    if "PROMPT" not in words_of(name):
        yield from _moved(_of_value(name, value, look), start)
        yield from _moved(_places(value, "", look), start)


def _of_value(name: str, value: str, look: _Look) -> Iterator[Place]:
    """The secrets in the value of an option or variable, by its name."""
    if re.fullmatch(r"-[a-zA-Z]", name):
        yield from _of_letter(name[1], value, look)
    elif _TELLS_USER.search(name) and (password := list(_of_user(value))):
        yield from password
    elif _is_secret(name, value):
        yield from _whole(value)


def _of_text(text: str, look: _Look) -> Iterator[Place]:
    """The secrets in a text of several parts: a URL, a header, JSON, pairs, a command for a shell."""
    yield from places_in(text)
    if look.depth > _DEEPEST or len(text) > _LONGEST:
        return
    if header := _HEADER.fullmatch(text):
        yield from _of_header(header)
    for pair in chain(_QUOTED_PAIR.finditer(text), _PAIR.finditer(text)):
        if not _is_code(pair["value"], text[pair.end() : pair.end() + 1]):
            yield from _of_assigned(pair["name"], pair["value"], pair.start("value"), look.deeper())
    pieces = [(piece.start(), piece.group()) for piece in _PIECE.finditer(text)]
    if len(pieces) > 1:
        for (start, _), inside in zip(
            pieces, _places_of_all([piece for _, piece in pieces], look.depth + 1), strict=True
        ):
            yield from _moved(inside, start)


#: ``name=value``, ``"name": "value"``, and the pieces of a command for a shell, without the quotes around them.
_PAIR = re.compile(r"(?<![\w.-])-{0,2}(?P<name>[A-Za-z_][\w.-]*)\s*=\s*[\"']?(?P<value>[^\s,;&\"'()\[\]{}]+)")
_QUOTED_PAIR = re.compile(
    r"""["'](?P<name>[A-Za-z_][\w.-]*)\\?["']\s*[:=]\s*\\?["'](?P<value>(?:\\.|[^"'\\])+)\\?["']""", re.DOTALL
)
_PIECE = re.compile(r"""(?<=")[^"]+(?=")|(?<=')[^']+(?=')|[^\s"'|;&()]+""")


def _is_code(value: str, after: str) -> bool:
    """Is it no literal but what a program computes, as in ``token = os.environ["TOKEN"]``?"""
    return bool(after) and after in "([" and bool(re.fullmatch(r"[A-Za-z_][\w.]*", value))


# -- by name --------------------------------------------------------------------------------------------

#: Last words of names that tell something of a secret and not the secret.
_DESCRIBING = frozenset(
    ("NAME", "NAMES", "TYPE", "LEN", "LENGTH", "COUNT", "PREFIX", "SUFFIX", "FORMAT", "MODE", "PROVIDER", "POLICY",
     "ENV", "URL", "URI", "ENDPOINT", "TTL", "TIMEOUT", "EXPIRY", "SIZE", "LIMIT", "PARSER", "BUDGET", "RATIO", "RATE",
     "INDEX", "STRATEGY", "ALGO", "ALGORITHM", "DROPOUT", "MANAGER", "BACKEND", "CLASS", "PLUGIN")
)  # fmt: skip
#: First words of options that are switches, so that the next word is not their value.
_SWITCHES = frozenset(
    ("NO", "USE", "WITH", "WITHOUT", "DISABLE", "ENABLE", "SKIP", "REQUIRE", "HAS", "IS", "ALLOW", "PRINT", "SHOW",
     "LIST", "STREAM", "RETURN", "INCLUDE", "ADD", "ASK")
)  # fmt: skip
#: Words that mean something else unless they are the last of a name: ``--multi-pass-encoding``.
_SHORT = frozenset(("PASS", "PWD", "PAT", "SAS"))
_TELLS_USER = re.compile(r"(?:^|[-_.])(?:user|username|userpwd|login|creds?|credentials?|auth)$", re.IGNORECASE)
_FILE = re.compile(r"[\w.~@+-]*(?:/[\w.~@+-]*)+|[\w.~+-]+\.[A-Za-z]{1,5}|[A-Za-z]:\\\S*|@\S+")
#: Texts between brackets and the like are tokens of a model: ``<|im_end|>``, ``[PAD]``.
_MODEL_TOKEN = re.compile(r"<[^<>]*>|\[[A-Za-z_]*\]")


def _is_secret(name: str, value: str) -> bool:
    """Is the value of an option or variable secret, as far as its name tells?"""
    words = words_of(name)
    if not words or words[-1] in _DESCRIBING or words[0] in _SWITCHES:
        return False
    if REFERENCE.fullmatch(value) or _MODEL_TOKEN.fullmatch(value):
        return False
    if words[-1] in ("PAT", "SAS"):
        return looks_random(value)
    if words[-1] in ("FILE", "FILES", "PATH", "DIR", "PWD") and _FILE.fullmatch(value):
        return False
    if words[-1] == "PASS" and re.fullmatch(r"\d{1,3}", value):
        return False
    telling = "_".join(word for word in words if word not in _SHORT or word is words[-1])
    return is_secret_by_name(telling, value)


# -- headers, users, options of one letter ----------------------------------------------------------------

_HEADER = re.compile(r"\s*(?P<name>[A-Za-z][\w-]*):(?P<space>\s*)(?P<value>.+)", re.DOTALL)
#: How a header may say which kind of secret follows.
_SCHEMES = frozenset(("bearer", "basic", "token", "apikey", "digest", "negotiate"))
_COOKIE = re.compile(r"[\w.-]+=([^;]+)")
_SCHEME = re.compile(rf"(?:{'|'.join(sorted(_SCHEMES))})\s+", re.IGNORECASE)


def _announces(word: str) -> bool:
    """Does a secret follow as a word of its own: behind ``Bearer``, or a header that says who is let in?"""
    header = re.fullmatch(r"[A-Za-z][\w-]*:", word)
    return word.lower() in ("bearer", "basic") or bool(header and _is_secret(word[:-1], "any text"))


def _of_header(header: re.Match[str], *, told: bool = False) -> Iterator[Place]:
    """The secret of ``Name: value``; without a space it may be ``host:port``, unless `told` that it is a header."""
    if (told or header["space"]) and _is_secret(header["name"], header["value"]):
        each = _COOKIE.finditer(header["value"]) if header["name"].lower().endswith("cookie") else ()
        found = [cookie.span(1) for cookie in each] or _whole(header["value"])
        yield from _moved(found, header.start("value"))


def _whole(value: str) -> Iterator[Place]:
    """All of a secret value but the word that says which kind of secret follows."""
    scheme = _SCHEME.match(value)
    yield (scheme.end() if scheme else 0, len(value))


def _of_user(value: str) -> Iterator[Place]:
    """The password of ``user:password``; a number there is a group or a port, and the same again a group."""
    found = re.fullmatch(r"([^:/\s]*):([^/\s].*)", value, re.DOTALL)
    if found and not found[2].isdigit() and found[2] != found[1]:
        yield found.span(2)


#: Programs whose -p is a password, for certain; the others' may be a port, a path, a project.
_PASSWORD_PROGRAMS = re.compile(r"(?:mysql|mariadb|mongo|sshpass|docker-login|htpasswd|clickhouse)[\w.-]*")
_NO_PASSWORD = re.compile(r"[\d.:,/-]*(?:/(?:tcp|udp))?|no:\w+|(?:~|\.{0,2})/.*|\S*\s.*|\w+@\w+", re.DOTALL)


def _asks_for_password(words: Sequence[str]) -> bool:
    """Is -p likely a password here: by the program, or because a user is named?"""
    programs = any(_PASSWORD_PROGRAMS.fullmatch(word.rpartition("/")[2]) for word in words)
    login = any(pair[0].endswith(("docker", "podman")) and pair[1] == "login" for pair in pairwise(words))
    user = any(re.fullmatch(r"--?(?:u|user|username|login)(?:=.*)?|-u\w+", word, re.DOTALL) for word in words)
    python = any(re.fullmatch(r"(?:.*/)?python[\d.]*", word) for word in words)
    return programs or login or (user and not python)


def _of_letter(letter: str, value: str, look: _Look, *, attached: bool = False) -> Iterator[Place]:
    """The secret in the value of an option of one letter: -p password, -u user:password, -H header, -b cookies."""
    if letter == "p" and not _NO_PASSWORD.fullmatch(value):
        if look.asks_for_password or (_looks_chosen(value) and not (attached and value[0].islower())):
            yield (0, len(value))
    elif letter in "uU":
        yield from _of_user(value)
    elif letter == "H" and (header := _HEADER.fullmatch(value)):
        yield from _of_header(header, told=True)
    elif letter == "b":
        yield from (cookie.span(1) for cookie in _COOKIE.finditer(value))


def _looks_chosen(value: str) -> bool:
    """Is it a password rather than a name: of letters and digits with nothing to part them, or in capitals?"""
    mixed = re.fullmatch(r"(?=.*\d)(?=.*[A-Za-z])[^\s:/@._-]{8,}", value)
    return bool(mixed) or (value.isupper() and len(value) >= 4)
