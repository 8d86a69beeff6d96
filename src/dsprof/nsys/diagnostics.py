"""What nsys itself says of a capture, in the rows of ``DIAGNOSTIC_EVENT``: what it is about, and how often it says so.

Kinds are told by the words that nsys writes (seen in reports of 2022 to 2026, and in the strings of its programs).
Warnings of no known kind are kept as they are; information matters only where its kind is known.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from dsprof.nsys.export import Export, text_of
from dsprof.trace import Message

TABLE = "DIAGNOSTIC_EVENT"
#: Kinds that say how CUDA was traced, and what that is called.
TRACING = {"hardware-tracing": "hardware", "software-tracing": "software"}
#: By kind the words by which it is told; the first that fits counts, and a group of digits is what it counts. Quiet is
#: what the report's own rows tell better, and what says nothing of them.
_KINDS: tuple[tuple[str, str], ...] = (
    ("hardware-tracing", r"Hardware tracing used for CUDA"),
    ("software-tracing", r"CUDA hardware tracing is not supported|legacy \(software instrumented\) trace was"),
    ("dropped-events", r"incomplete CUPTI events dropped: *(\d+)"),
    ("dropped-events", r"(?<!\d)(\d{1,18}) CUPTI events were detected incomplete"),
    ("dropped-events", r"CUPTI dropped (\d+) records"),
    ("buffers-full", r"Couldn't allocate CUPTI buffers (\d+) times"),
    ("buffers-full", r"CUPTI buffer allocation|Cannot allocate CUPTI buffer"),
    ("incomplete-events", r"Some CUPTI events might be missing"),
    ("incomplete-events", r"Not all CUDA events might have been collected"),
    ("incomplete-ranges", r"Not all NVTX events might have been collected"),
    ("quiet", r"^Not all .{1,60} events might have been collected"),
    ("unsupported-driver", r"Installed CUDA driver version .{1,40} is not supported by this build"),
    ("unsupported-driver", r"Could not parse (\d+) CUPTI activity records"),
    ("cuda-refused", r"CUDA trace collection disabled|CUDA tracing is not supported on"),
    ("cupti-taken", r"client is already subscribed to CUPTI"),
    ("cuda-failed", r"CUDA injection initialization failed|Could not load the CUPTI library"),
    ("missing-cuda", r"will lead to missing CUDA trace data"),
    ("lost-samples", r"Sampling events were lost|^Some events \(\s*(\d+)\) were lost"),
    ("no-samples", r"perf event paranoid level|^Unable to collect CPU|IP/backtrace samples, context switch data"),
    ("quiet", r"CUDA profiling might have not been started correctly"),
    ("quiet", r"^No .{1,60} events collected\. Does the process use"),
    ("quiet", r"^NVTX function \w{1,60} was called with wrong domain ID"),
)  # fmt: skip
_PATTERNS = tuple((kind, re.compile(words)) for kind, words in _KINDS)
#: Of a text so many characters are looked at, and so many said; of texts that differ so many are looked at.
_LOOKED_AT, _SAID, _MOST_TEXTS = 1 << 12, 300, 1 << 12
#: So many messages of no known kind are said.
_MOST_UNKNOWN = 8
_WARNINGS = (2, 3)
_PATH = re.compile(r"(?<!\w)/[\w.+-]+(?:/[\w.+-]*)+")
#: What a process says that has recorded nothing: the helpers of a launcher, which use no CUDA, are no loss.
_NONE = re.compile(r"^No (\w{1,20}) events collected\.")
_INCOMPLETE = {"incomplete-events": "CUDA", "incomplete-ranges": "NVTX"}


class _Said(NamedTuple):
    """A text that a process wrote, how often, and whether it is a warning."""

    process: int
    text: str
    times: int
    warns: bool


def messages_of(export: Export) -> tuple[Message, ...]:
    """What matters of what nsys says, those of one known kind together, in the order in which they first come."""
    said = _said(export)
    idle = {(one.process, match[1]) for one in said if (match := _NONE.match(one.text))}
    found: dict[tuple[str, str], Message] = {}
    for one in said:
        kind, number = _kind(one.text)
        noise = kind == "quiet" or (one.process, _INCOMPLETE.get(kind, "")) in idle
        if noise or not (kind or one.warns):
            continue
        key = (kind, "" if kind else one.text)
        before = found.get(key, Message(kind, _short(one.text), 0))
        counted = None if number is None else number * one.times + (before.number or 0)
        found[key] = Message(kind, before.text, before.times + one.times, before.number if counted is None else counted)
    return tuple(_not_too_many(found.values()))


def tracing_of(messages: Iterable[Message]) -> str:
    """How CUDA was traced, ``hardware`` or ``software``; both where processes differ, empty where nsys does not say."""
    return " and ".join(dict.fromkeys(TRACING[one.kind] for one in messages if one.kind in TRACING))


def _said(export: Export) -> list[_Said]:
    """Each text once by process, its first line, without paths."""
    if not export.has(TABLE, "text"):
        return []
    process, severity = (
        f"CAST({name} AS INTEGER)" if export.has(TABLE, name) else "NULL" for name in ("globalPid", "severity")
    )
    said = f"SELECT {process}, {severity}, substr(CAST(text AS BLOB), 1, {_LOOKED_AT}) AS said, count(*) FROM {TABLE}"
    rows = export.rows(f"{said} WHERE text IS NOT NULL GROUP BY 1, 2, 3 ORDER BY min(rowid) LIMIT {_MOST_TEXTS}")
    found = []
    for process, severity, text, times in rows:
        line = text_of(text, export.encoding).replace("\x00", " ").strip().partition("\n")[0]
        if line := _PATH.sub("<path>", line).strip():
            found.append(_Said(process or 0, line, times, severity in _WARNINGS))
    return found


def _kind(text: str) -> tuple[str, int | None]:
    """The kind of a message, empty where it is not known, and what it counts, if it does."""
    for kind, pattern in _PATTERNS:
        if found := pattern.search(text):
            digits = next(filter(None, found.groups()), "")
            return kind, int(digits) if 0 < len(digits) < 19 else None
    return "", None


def _short(text: str) -> str:
    """A text in so few characters that it can be said."""
    return text if len(text) <= _SAID else text[: _SAID - 1] + "…"


def _not_too_many(messages: Iterable[Message]) -> list[Message]:
    """All of known kinds, and so many of the others."""
    kept, unknown = [], 0
    for one in messages:
        unknown += not one.kind
        if one.kind or unknown <= _MOST_UNKNOWN:
            kept.append(one)
    if unknown > _MOST_UNKNOWN:
        kept.append(Message("more-said", "", unknown - _MOST_UNKNOWN))
    return kept
