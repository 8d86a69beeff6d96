"""``session.json``: what a capture ran, with what, and how it ended."""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import cattrs
from attrs import field

from dsprof.errors import ImageUnusable, OutputRefused, ReportMissing
from dsprof.ground.documents import parse_json
from dsprof.model.baseline import Baseline
from dsprof.model.launched import ProcessRank
from dsprof.nsys.inputs import sha256_of
from dsprof.records import frozen
from dsprof.trace import Gpu
from dsprof.workloads.job import RequestRecord, Served

SCHEMA = "dsprof.session/1"
RECORD = "session.json"
#: Seconds that git may take to say which commit this is.
_GIT_LIMIT_S = 5.0

#: Between attrs models and plain JSON: sessions, timings, and what a program has of its own.
converter = cattrs.Converter()


@frozen
class ImageRecord:
    """An image that was read: its file name and content, not where it lies."""

    name: str
    sha256: str


@frozen
class Turn:
    """Which of several runs a session is: number `run` of the `runs` of its side, in turn `turn` of all `turns`."""

    side: str
    run: int
    runs: int
    turn: int
    turns: int

    @property
    def name(self) -> str:
        """What its folder is called; numbers have as many digits as the last, so that any order of names is theirs."""
        return f"{self.side}-{self.run:0{len(str(self.runs))}}"


@frozen
class Session:
    """What ran, with what, and how it ended; the document ``session.json``.

    It holds no environment values but the whole numbers by which launchers tell ranks (`ranks`).

    `command`: as it was given, but with ``<removed>`` for what looks like a secret.
    """

    schema: str
    created: str
    name: str
    command: tuple[str, ...]
    ending: str
    exit_code: int
    reports: tuple[str, ...]
    versions: dict[str, str] = field(factory=dict)
    driver: str = ""
    gpus: tuple[Gpu, ...] = ()
    device: str = ""
    attention: dict[str, str] = field(factory=dict)
    parameters: int = 0
    dtype: str = ""
    model_config: dict[str, Any] = field(factory=dict)
    model: str = ""
    prompt: str = ""
    max_new_tokens: int = 0
    modules: str = ""
    images: tuple[ImageRecord, ...] = ()
    requests: tuple[RequestRecord, ...] = ()
    withheld_variables: tuple[str, ...] = ()
    git_commit: str = ""
    baseline: Baseline = field(factory=Baseline)
    served: Served | None = None
    #: The launchers and engines that the command goes through, and what was added for them.
    launchers: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    #: What launchers told the program's processes of ranks, those that were seen.
    ranks: tuple[ProcessRank, ...] = ()
    #: Which of several runs it is; None where there was one.
    turn: Turn | None = None


def read_session(path: Path) -> Session:
    """The record in a session folder, or in a ``session.json``."""
    file = path / RECORD if path.is_dir() else path
    return converter.structure(parse_json(file.read_text(encoding="utf-8")), Session)


def write_record(folder: Path, record: Session) -> None:
    """Write the record, whole or not at all. Raises `OutputRefused`."""
    partial = folder / f".{RECORD}.partial"
    text = json.dumps(converter.unstructure(record), indent=1, ensure_ascii=False)
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")  # words of a command may be any bytes
        partial.replace(folder / RECORD)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        kept = f" What was recorded is in {folder}: {', '.join(record.reports)}." if record.reports else ""
        raise OutputRefused(
            f"The session's record cannot be written to {folder} ({error.strerror}).", f"Make room there.{kept}"
        ) from error


def image_record(path: Path) -> ImageRecord:
    """The record of an image. Raises `ImageUnusable`."""
    try:
        return ImageRecord(path.name, sha256_of(path))
    except ReportMissing as error:
        raise ImageUnusable(f"The image {error.message}", error.hint) from error


def git_commit() -> str:
    """The commit of the folder that the capture was started in; empty outside of a checkout, or where git hangs."""
    git = shutil.which("git")
    if git is None:
        return ""
    try:
        said = subprocess.run(
            [git, "rev-parse", "HEAD"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_GIT_LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
