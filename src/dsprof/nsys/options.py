"""What ``nsys profile`` is told: our options, the user's in their place, and the program's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from attrs import field, frozen

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
    #: Seconds that the program may run; None: as long as it likes.
    limit_s: float | None = None
    capture_range: str | None = None
    capture_range_end: str | None = None
    nvtx_capture: str | None = None
    #: Seconds after which nsys ends recording and program; a normal end.
    duration_s: float | None = None
    extra: tuple[str, ...] = ()
    env: Mapping[str, str] = field(factory=lambda: dict(os.environ), repr=False)
    force: bool = False
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
def known_options(nsys: Path) -> str:
    """The options that this nsys knows, as it prints them."""
    return run_nsys(nsys, ["profile", "--help"], limit_s=60).said


def arguments_of(options: ProfileOptions, known: str) -> list[str]:
    """``profile`` and its options, but for the output; nsys refuses an option that is named twice."""
    ours = {
        "--trace": options.trace,
        "--sample": "none",
        "--cpuctxsw": "none",
        "--cuda-graph-trace": options.cuda_graph_trace,
        "--wait": "primary",  # a daemon of the program may live for ever
        "--capture-range": options.capture_range,
        "--capture-range-end": options.capture_range_end,
        "--nvtx-capture": options.nvtx_capture,
        "--duration": None if options.duration_s is None else f"{options.duration_s:g}",
    }
    words = ["profile"]
    for name, value in ours.items():
        unknown = name in _OPTIONAL and "--output" in known and f"{name}=" not in known
        if value is not None and not unknown and asked(options, name, None) is None:
            words.append(f"{name}={value}")
    return [*words, *options.extra, "--force-overwrite=true"]


def escape(path: Path) -> str:
    """A path as ``--output`` takes it, which replaces %h, %p and %q{...}."""
    return str(path.absolute()).replace("%", "%%")


def environment_of(options: ProfileOptions, scratch: Path) -> dict[str, str]:
    """The program's environment with the run's TMPDIR; a capture range must match any string, too."""
    environment = {**options.env, "TMPDIR": str(scratch)}
    if asked(options, "--capture-range", options.capture_range) == "nvtx":
        environment.setdefault("NSYS_NVTX_PROFILER_REGISTER_ONLY", "0")
    return environment
