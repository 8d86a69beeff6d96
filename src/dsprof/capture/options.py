"""What ``nsys profile`` is told: our options, the user's in their place, and the program's environment."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from attrs import field, frozen

from dsprof.errors import CaptureRefused
from dsprof.nsys.command import run_nsys

#: Options that an nsys too old to know them can do without.
_OPTIONAL = ("--sample", "--cpuctxsw", "--cuda-graph-trace", "--wait")
_SHORT = {"--trace": "-t", "--sample": "-s", "--capture-range": "-c", "--nvtx-capture": "-p", "--duration": "-d"}


@frozen(kw_only=True)
class ProfileOptions:
    """What ``nsys profile`` is told, and how long and with which environment the program may run.

    `env` is the program's environment as it will stand in the report: give one without secrets. `extra` are
    further options of nsys; one that is named there takes the place of ours. Sizes are in bytes.
    """

    trace: str = "cuda,nvtx"
    cuda_graph_trace: str = "node"
    #: How often in a second what Python is in is sampled; None: not at all.
    python_sampling_hz: int | None = None
    #: Seconds that the program may run; None: as long as it likes.
    limit_s: float | None = None
    capture_range: str | None = None
    capture_range_end: str | None = None
    nvtx_capture: str | None = None
    #: Seconds after which nsys ends recording and program; a normal end.
    duration_s: float | None = None
    extra: tuple[str, ...] = ()
    #: Further options that the launcher or engine needs, where nsys knows them.
    added: Mapping[str, str] = field(factory=dict)
    #: Variables that it needs, for the program's environment.
    variables: Mapping[str, str] = field(factory=dict)
    #: What to do where the capture range never began, of the engine.
    range_hint: str = ""
    env: Mapping[str, str] = field(factory=lambda: dict(os.environ), repr=False)
    #: Words of other programs on our command line, whose secrets a report may hold.
    beside: tuple[str, ...] = field(default=(), repr=False)
    force: bool = False
    #: Are the SQLite exports of large reports written by `Profile.write_exports`, which may be when all has been told?
    export_later: bool = False
    minimum_free_bytes: int = 200 * 10**6
    #: Seconds that an import may go on without a word; after them it hangs.
    import_limit_s: float = 300.0
    #: Seconds that the program has to end after SIGINT, before SIGTERM and SIGKILL.
    patience_s: float = 60.0


def asked(options: ProfileOptions, name: str, ours: str | None) -> str | None:
    """The value that an option of nsys has in the end: the user's own, else ours."""
    for spelled in (name, _SHORT.get(name)):
        value = given(options.extra, spelled) if spelled else None
        if value is not None:
            return value
    return ours


def given(extra: Sequence[str], name: str) -> str | None:
    """The value that the user's own options give to the option `name`; None if it is not among them."""
    for position, word in enumerate(extra):
        if word == name:
            return extra[position + 1] if position + 1 < len(extra) else ""
        if name.startswith("--") and word.startswith(f"{name}="):
            return word.partition("=")[2]
        if not name.startswith("--") and word.startswith(name) and not word.startswith("--"):
            return word[2:]
    return None


@cache
def known_options(nsys: Path, command: str = "profile") -> str:
    """The options that a command of this nsys knows, as it prints them."""
    return run_nsys(nsys, [command, "--help"], limit_s=60).said


def knows(known: str, name: str) -> bool:
    """Is the option `name` among those that nsys printed? If it printed none, it may be."""
    return f"{name}=" in known or "--output" not in known


def arguments_of(options: ProfileOptions, known: str) -> list[str]:
    """``profile`` and its options, but for the output; nsys refuses an option that is named twice."""
    words = ["profile"]
    for name, value in _ours(options).items():
        left_out = (name in _OPTIONAL or name in options.added) and not knows(known, name)
        if not left_out and asked(options, name, None) is None:
            words.append(f"{name}={value}")
    return [*words, *options.extra, "--force-overwrite=true"]


def server_arguments(options: ProfileOptions, known: Mapping[str, str]) -> dict[str, list[str]]:
    """The same options for ``launch`` and for ``start``, each where it belongs; `known`: what nsys prints of both.

    Raises `CaptureRefused` for an option of the user's that neither knows.
    """
    words: dict[str, list[str]] = {"start": ["start"], "launch": ["launch"]}

    def home(name: str) -> str | None:
        return next((command for command in words if f"{name}=" in _current(known[command])), None)

    for name, value in _ours(options).items():
        command = home(name)
        if command is not None and asked(options, name, None) is None:
            words[command].append(f"{name}={value}")
    for name, given_words in _grouped(options.extra):
        command = home(name)
        if command is None:
            raise CaptureRefused(
                f"With --server, nsys has no option {name}.", "See `nsys launch --help` and `nsys start --help`."
            )
        words[command] += given_words
    words["start"].append("--force-overwrite=true")
    return words


def _current(known: str) -> str:
    """The options that nsys prints, without those that it only names to refuse them."""
    return re.sub(r"\(Deprecated\)[^\n]*", "", known)


def _grouped(extra: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """The user's options with their values, by their long names."""
    long = {short: name for name, short in _SHORT.items()}
    group: list[str] = []
    for word in extra:
        if word.startswith("-") and group:
            yield long.get(group[0][:2], group[0].partition("=")[0]), group
            group = []
        group.append(word)
    if group:
        yield long.get(group[0][:2], group[0].partition("=")[0]), group


def _ours(options: ProfileOptions) -> dict[str, str]:
    """Our options, those of the launcher among them."""
    ours = {
        "--trace": options.trace,
        "--sample": "none",
        "--cpuctxsw": "none",
        "--cuda-graph-trace": options.cuda_graph_trace,
        "--python-sampling": None if options.python_sampling_hz is None else "true",
        "--python-sampling-frequency": None if options.python_sampling_hz is None else f"{options.python_sampling_hz}",
        "--wait": "primary",  # a daemon of the program may live for ever
        "--capture-range": options.capture_range,
        "--capture-range-end": options.capture_range_end,
        "--nvtx-capture": options.nvtx_capture,
        "--duration": None if options.duration_s is None else f"{options.duration_s:g}",
    }
    return {**{name: value for name, value in ours.items() if value is not None}, **options.added}


def escape(path: Path) -> str:
    """A path as ``--output`` takes it, which replaces %h, %p and %q{...}."""
    return str(path.absolute()).replace("%", "%%")


def environment_of(options: ProfileOptions, scratch: Path) -> dict[str, str]:
    """The program's environment with the run's TMPDIR; a capture range must match any string, too."""
    environment = {**options.env, "TMPDIR": str(scratch)}
    if asked(options, "--capture-range", options.capture_range) == "nvtx":
        environment.setdefault("NSYS_NVTX_PROFILER_REGISTER_ONLY", "0")
    return environment
