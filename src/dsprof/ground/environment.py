"""Which environment variables a profiled process may have: a report keeps every one of them, for good.

Nsight Systems writes the whole environment into the report. What looks like a token, a key, a password, a
cookie or a connection string with a password is therefore left out before the process starts, unless the
user names it. Judged are the words of the name and the form of the value; a variable is not left out for its
prefix alone, nor kept for it: ``NVIDIA_VISIBLE_DEVICES`` stays, ``NVIDIA_API_KEY`` goes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from functools import cache
from itertools import pairwise
from typing import NamedTuple


class CleanEnvironment(NamedTuple):
    """The variables to start a process with, and the names, sorted, of those that were left out."""

    variables: dict[str, str]
    dropped: tuple[str, ...]


def clean_environment(source: Mapping[str, str], keep: Collection[str] = ()) -> CleanEnvironment:
    """The environment `source` without what looks secret; the names in `keep` stay whatever they hold.

    >>> clean_environment({"HOME": "/home/me", "DB_PASSWORD": "swordfish"})
    CleanEnvironment(variables={'HOME': '/home/me'}, dropped=('DB_PASSWORD',))
    """
    dropped = {name for name, value in source.items() if name not in keep and secrets_of(name, value)}
    return CleanEnvironment(
        {name: value for name, value in source.items() if name not in dropped}, tuple(sorted(dropped))
    )


def secrets_of(name: str, value: str) -> tuple[str, ...]:
    """What is secret of a variable: all of the value where the name says so, else the parts that look it."""
    if not value or name in _NEVER:
        return ()
    parts = secrets_in(value)
    return (value, *parts) if is_secret_by_name(name, value) else parts


def secrets_in(text: str) -> tuple[str, ...]:
    """The parts of a text that look secret wherever they stand: known kinds of token, passwords in URLs."""
    return tuple(dict.fromkeys(text[start:end] for start, end in places_in(text)))


def places_in(text: str) -> list[tuple[int, int]]:
    """From where to where in a text the parts reach that look secret wherever they stand; they may overlap."""
    return [*certain_places_in(text), *_spans(_NAMED_FORM, text)]


def certain_places_in(text: str) -> list[tuple[int, int]]:
    """Those of `places_in` that are known by their own form or the URL around them, and not by a name before them."""
    if not _MAY_BE.search(text):
        return []
    return [span for pattern in _secret_forms() for span in _spans(pattern, text)]


def _spans(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    found = (match.span(match.lastindex or 0) for match in pattern.finditer(text))
    return [(start, end) for start, end in found if start < end and not REFERENCE.fullmatch(text[start:end])]


def words_of(name: str) -> list[str]:
    """The words that the name of a variable or option is made of, in capitals."""
    return [word.upper() for word in _WORD.findall(name)]


#: Names that need no look at what they hold: programs cannot do without them, and `PWD` is a folder.
_NEVER = frozenset(("PATH", "HOME", "PWD", "OLDPWD", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "SHELL", "TERM"))

# -- names ----------------------------------------------------------------------------------------------

#: Words of a name that make its value secret, be it a word or a number.
_PASSWORDS = frozenset(
    ("PASSWORD", "PASSWORDS", "PASSWD", "PASSPHRASE", "PASSCODE", "SECRET", "SECRETS", "PWD", "PASS", "SSHPASS",
     "CREDENTIAL", "CREDENTIALS", "CREDS", "COOKIE", "COOKIES", "JWT", "BEARER", "AUTHORIZATION")
)  # fmt: skip
#: Words that do so unless the value is a switch or a short number, as in ``MAX_NEW_TOKENS=512``.
_TOKENS = frozenset(("TOKEN", "TOKENS", "APIKEY", "APIKEYS", "DSN", "PAT", "SAS"))
#: Words by which a name counts tokens or says which of a vocabulary: ``EOS_TOKEN_ID=151645``.
_COUNTING = frozenset(
    ("TOKENS", "ID", "IDS", "INDEX", "MAX", "MIN", "NUM", "N", "COUNT", "LIMIT", "BUDGET", "SIZE", "PER", "RATE")
)
_NUMBERS = re.compile(r"[\[(]?[+-]?\d[\d.,;:+eE \t-]*[kKmMgG]?i?[\])]?")
#: Ends of words run together: PGPASSWORD, GHTOKEN, authtoken.
_ENDS = ("PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "TOKEN", "APIKEY", "ACCESSKEY", "SECRETKEY", "PRIVATEKEY")
#: Before KEY or KEYS: a key that opens something. Other keys sort, cache or bind.
_OPENING = frozenset(
    ("API", "ACCESS", "SECRET", "PRIVATE", "ENCRYPTION", "ENCRYPT", "SIGNING", "MASTER", "ACCOUNT", "STORAGE",
     "SHARED", "DEPLOY", "SSH", "GPG", "AUTH", "SERVICE", "LICENSE", "APP", "ADMIN", "CLIENT", "FERNET")
)  # fmt: skip
#: Words that make a value secret when it looks drawn at random.
_DOUBTFUL = frozenset(("KEY", "KEYS", "AUTH", "SESSION", "SIGNATURE", "SIG", "SALT", "NONCE", "WEBHOOK", "LICENSE"))
#: Last words of names whose value says where something lies: a file that holds a token, a socket of an agent.
_PLACES = frozenset(
    ("FILE", "FILES", "PATH", "DIR", "HOME", "ROOT", "SOCK", "SOCKET", "ASKPASS", "HELPER", "CREDENTIALS")
)

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SWITCH = re.compile(
    r"true|false|yes|no|on|off|none|null|auto|default|empty|enabled?|disabled?|basic|\d{1,5}|\d*\.\d+", re.IGNORECASE
)
_RANDOM = re.compile(r"(?=.*\d)[A-Za-z0-9+/=]{16,}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_PLACE = re.compile(r"(?:~|\.{0,2})/[^\s:@]+|[A-Za-z]:\\[^\s@]+")


def is_secret_by_name(name: str, value: str) -> bool:
    """Is the value of a variable secret, as far as its name tells, and unless it is a switch, a count or a place?"""
    words = words_of(name)
    if not words or (words[-1] in _PLACES and _PLACE.fullmatch(value)):
        return False
    if _PASSWORDS & set(words):
        return not re.fullmatch(r"true|false|yes|no|on|off|[01]", value, re.IGNORECASE)
    if _SWITCH.fullmatch(value) or (_COUNTING & set(words) and _NUMBERS.fullmatch(value)):
        return False
    if _TOKENS & set(words) or any(word.endswith(_ENDS) for word in words) or _opens(words):
        return True
    return bool(_DOUBTFUL & set(words)) and looks_random(value)


def _opens(words: list[str]) -> bool:
    """Is it the name of a key that opens something, or of what is shown to be let in, or of a connection?"""
    pairs = set(pairwise(words))
    key = any(first in _OPENING and second in ("KEY", "KEYS") for first, second in pairs)
    return key or words[-1] == "AUTH" or bool(pairs & {("CONNECTION", "STRING"), ("CONN", "STR")})


def looks_random(value: str) -> bool:
    """Is it a UUID, or one long run of letters and digits such as no one writes by hand (over 3 bits each)?"""
    if _PLACE.fullmatch(value) or not _RANDOM.fullmatch(value):
        return False
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts) > 3.0


# -- values ---------------------------------------------------------------------------------------------

#: ``$TOKEN`` and ``<token>`` stand for a secret and are none.
REFERENCE = re.compile(r"\$\w+|\$\{\w+\}|<\w+>|\*+|x+", re.IGNORECASE)
#: A secret behind its name, in a connection string, a query, JSON; but no number, and nothing that a program computes.
_NAMED_FORM = re.compile(
    r"(?i:\b(?:password|passwd|pwd|accountkey|sharedaccesskey|api[_-]?key|(?:client[_-]?)?secret|(?:access[_-]?)?token))"
    r"""["']?\s*[=:]\s*["']?(?!\d{1,9}(?![\w.+/-])|[A-Za-z_][\w.]*[(\[])([^\s"';&,]{4,})"""
)
#: Each of the forms below has one of these in it, and most texts have none.
_MAY_BE = re.compile(r"://|[?&]|-----|[\w+/=.~-]{14}|(?i:basic|bearer) ")
#: Forms of a value that are secret under any name; the last group is the secret itself.
_SECRET_FORMS = (
    r"\b[A-Za-z][A-Za-z0-9+.-]{0,31}://[^\s/@:?#]*:([^\s/]+)@",  # a password in a URL
    r"\b[A-Za-z][A-Za-z0-9+.-]{0,31}://([^\s/@:?#]{16,})@",  # a key in its place
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]+",
    r"\beyJ[\w-]{8,1024}\.[\w-]{8,}\.[\w-]*",  # JSON web tokens
    r"(?i:\b(?:basic|bearer)) +([\w+/=.~-]{8,})",
    r"[?&](?:sig|X-Amz-Signature|X-Goog-Signature)=([\w%+/=-]{16,})",
    r"[?&](?:key|auth|code|signature)=([\w%+/=.~-]{8,})",
    r"\bhooks\.slack\.com/services/([\w/]{16,})",
    r"\bhf_[A-Za-z0-9]{16,}",
    r"\bgh[opsur]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}",
    r"\bsk-[\w-]{16,}|\b[rs]k_(?:live|test)_\w{10,}|\bwhsec_\w{16,}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}\b",
    r"\bAIza[\w-]{30,}|\bya29\.[\w-]{16,}|\bGOCSPX-[\w-]{16,}",
    r"\bxox[abeoprs]-[\w-]{10,}|\bxapp-[\w-]{10,}",
    r"\bnvapi-[\w-]{16,}|\bgsk_[A-Za-z0-9]{16,}|\br8_[A-Za-z0-9]{16,}|\bpplx-[A-Za-z0-9]{16,}|\bxai-[A-Za-z0-9]{16,}",
    r"\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w-]{30,}|\bdckr_pat_[\w-]{16,}|\btskey-[\w-]{16,}|\bdop_v1_[a-f0-9]{32,}",
    r"\bSG\.[\w-]{16,}\.[\w-]{16,}",
)


@cache
def _secret_forms() -> tuple[re.Pattern[str], ...]:
    return tuple(map(re.compile, _SECRET_FORMS))
