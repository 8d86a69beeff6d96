"""`capture`: run a session under nsys and keep everything that it said, in one folder.

::

    traces/<stamp>-<name>/
      run.nsys-rep  run.sqlite      the report and its export (run.1… where a capture range is repeated)
      run.dsprof/*.parquet          the tables
      session.json                  what ran, with what, and how it ended; no secrets of the command line
      workload.log                  what the program and nsys printed, without secrets that we know
      job.json  outcome.json        what the profiled session was asked, and what it answered
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any, TextIO

import cattrs
from attrs import evolve, field, frozen

from dsprof import errors
from dsprof.arguments import masked
from dsprof.doctor import PLAIN_REMEDY, pair
from dsprof.documents import parse_json
from dsprof.environment import clean_environment
from dsprof.errors import (
    CaptureRefused,
    DsprofError,
    ImageUnusable,
    ModelUnusable,
    NothingCaptured,
    NothingRecorded,
    OutputRefused,
    WorkloadFailed,
)
from dsprof.nsys.command import find_nsys, nsys_version
from dsprof.nsys.options import ProfileOptions
from dsprof.nsys.profile import Profile, profile, rescue
from dsprof.nsys.reader import domains_opened, nothing_recorded, read
from dsprof.nsys.sought import Sought
from dsprof.nsys.watching import LOG
from dsprof.stages import DOMAIN
from dsprof.trace import Gpu, Trace
from dsprof.versions import installed, our_version
from dsprof.workloads.job import JOB, OUTCOME, Job, Outcome, RequestRecord, read_outcome, write_json
from dsprof.workloads.tiny import SIZES

SCHEMA = "dsprof.session/1"
RECORD = "session.json"
#: Suffixes by which a folder of images is searched.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
#: Bytes that a name may have, so that the folder's, with a stamp and a number, is one that a filesystem takes.
_LONGEST_NAME = 200
#: Seconds that git may take to say which commit this is.
_GIT_LIMIT_S = 5.0

#: The one converter between attrs models and plain JSON: sessions, summaries, timings.
converter = cattrs.Converter()


@frozen
class ImageRecord:
    """An image that was read: its file name and content, not where it lies."""

    name: str
    sha256: str


@frozen
class Session:
    """What ran, with what, and how it ended; the document ``session.json``. It holds no environment values.

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


@frozen
class Capture:
    """A capture: its folder, its record, and the exports, which hold something where it is `recorded`."""

    folder: Path
    session: Session
    exports: tuple[Path, ...]
    profile: Profile
    recorded: bool = True
    #: Why it is not what was asked for, though its record is there.
    trouble: DsprofError | None = None


@frozen
class Settings:
    """How to capture, whatever runs: folder, name (None: of what runs), environment, and what nsys is told."""

    out: Path = Path("traces")
    name: str | None = None
    nsys: str | None = None
    keep_variables: tuple[str, ...] = ()
    profile: ProfileOptions = field(factory=ProfileOptions)


Progress = Callable[[str], None]


def capture_images(
    job: Job, settings: Settings, live: TextIO | None = None, progress: Progress = lambda sentence: None
) -> Capture:
    """Read images in a DeepSeek-OCR session under nsys. Raises a `DsprofError` for everything that goes wrong.

    A missing image or model is told before anything is started; a capture without our ranges, or without
    kernels of a GPU that worked, is an error and not an empty table.
    """
    made = _raised(record_images(job, settings, live, progress))
    if made.profile.ending != "finished":
        raise WorkloadFailed(f"The session did not end well: {made.profile.explain()}.", f"See {made.profile.log}.")
    return made


def capture_command(
    command: Sequence[str],
    settings: Settings,
    live: TextIO | None = None,
    progress: Progress = lambda sentence: None,
) -> Capture:
    """Run any command under nsys. A command that fails still gives a capture; its exit code is in the record."""
    return _raised(record_command(command, settings, live, progress))


def _raised(made: Capture) -> Capture:
    if made.trouble is not None:
        raise made.trouble
    return made


def record_images(job: Job, settings: Settings, live: TextIO | None, progress: Progress) -> Capture:
    """As `capture_images`, but what goes wrong in a session that has run is the capture's `trouble`."""
    _check_job(job)
    nsys = find_nsys(settings.nsys)
    begun = _begin(settings, Path(job.images[0]).stem, tuple(sys.argv[1:]), nsys)
    begun = evolve(
        begun,
        model=job.model if job.model in SIZES else Path(job.model).name,
        prompt=job.prompt,
        max_new_tokens=job.max_new_tokens,
        modules=job.modules,
        images=tuple(ImageRecord(Path(image).name, _sha256(Path(image))) for image in job.images),
    )
    folder = _folder(settings.out, begun)
    write_json(folder / JOB, job)
    command = [sys.executable, "-u", "-m", "dsprof.workloads", str(folder)]
    made, trace = _record(begun, settings, command, folder, nsys, live, progress)
    outcome = _outcome(folder, made.profile)
    trouble = _trouble_of_session(outcome, made.profile) or _check_capture(trace, outcome, made)
    record = evolve(
        made.session,
        versions={**begun.versions, **outcome.versions},
        device=outcome.device,
        attention=outcome.attention,
        parameters=outcome.parameters,
        dtype=outcome.dtype,
        model_config=outcome.model_config,
        requests=tuple(outcome.requests),
    )
    _write(folder, record)
    return evolve(made, session=record, trouble=trouble)


def record_command(command: Sequence[str], settings: Settings, live: TextIO | None, progress: Progress) -> Capture:
    """As `capture_command`, but a recording with nothing in it, or without the program's ranges, is `trouble`."""
    nsys = find_nsys(settings.nsys)
    begun = _begin(settings, Path(command[0]).stem, tuple(command), nsys)
    if shutil.which(command[0]) == sys.executable:
        begun = evolve(begun, versions={**begun.versions, "nvtx": installed("nvtx")})
    folder = _folder(settings.out, begun)
    made, trace = _record(begun, settings, command, folder, nsys, live, progress)
    return evolve(made, trouble=_check_command(trace, made))


def _check_command(trace: Trace | None, made: Capture) -> DsprofError | None:
    """Nothing was recorded of a program that ended well, or the ranges of one that uses NVTX are missing."""
    if (trace is None or not len(trace.ranges)) and any(map(domains_opened, made.exports)):
        nvtx = made.session.versions.get("nvtx", "of the program")
        message = (
            f"The program uses NVTX, and none of its ranges was recorded: {pair(nvtx, made.session.versions['nsys'])}."
        )
        return NothingCaptured(message, PLAIN_REMEDY)
    return nothing_recorded(made.exports[0].name) if trace is None and made.profile.ending == "finished" else None


def read_session(path: Path) -> Session:
    """The record in a session folder, or in a ``session.json``."""
    file = path / RECORD if path.is_dir() else path
    return converter.structure(parse_json(file.read_text(encoding="utf-8")), Session)


def images_of(paths: Sequence[Path]) -> list[Path]:
    """The images that some paths mean: files as they are, folders by the images in them. Raises `ImageUnusable`."""
    found: list[Path] = []
    for path in paths:
        inside = (
            sorted(one for one in path.iterdir() if one.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
        )
        if not inside:
            raise ImageUnusable(
                f"The folder {path} holds no image.", f"It is searched for {', '.join(IMAGE_SUFFIXES)}."
            )
        found += inside
    return found


def _check_job(job: Job) -> None:
    try:
        re.compile(job.modules)
    except re.error as error:
        raise CaptureRefused(
            f"--modules '{job.modules}' is no regular expression: {error}.",
            "Or name a level: stages, layers, all, none.",
        ) from error
    for image in job.images:
        if not Path(image).is_file():
            raise ImageUnusable(f"There is no image {image}.", "See whether its name is spelled right.")
    if job.model not in SIZES and not Path(job.model).is_dir():
        raise ModelUnusable(
            f"There is no model folder {job.model}.", f"Name a checkpoint's folder, or one of {', '.join(SIZES)}."
        )


def _begin(settings: Settings, usual_name: str, command: tuple[str, ...], nsys: Path) -> Session:
    """All of the record that can be known before the program runs, so that no recording is lost for want of it."""
    return Session(
        schema=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=re.sub(r"[^ -~\w]|[/\x7f]", "_", usual_name)[:50] if settings.name is None else _checked(settings.name),
        command=_cleaned_command(command),
        ending="unknown",
        exit_code=-1,
        reports=(),
        versions={"dsprof": our_version(), "nsys": nsys_version(nsys), "python": sys.version.split()[0]},
        withheld_variables=clean_environment(os.environ, settings.keep_variables).dropped,
        git_commit=_git_commit(),
    )


def _checked(name: str) -> str:
    """The name, if it can be a part of a folder's. Raises `CaptureRefused`."""
    if not name.strip() or not name.isprintable() or "/" in name:
        raise CaptureRefused(
            f"The session cannot be named {ascii(name)[:80]}.",
            "A --name is no path, not empty, and has no control characters; --out names the place.",
        )
    size = len(os.fsencode(name))
    if size > _LONGEST_NAME:
        raise CaptureRefused(f"The session's --name has {size} bytes.", f"It may have {_LONGEST_NAME}.")
    return name


def _folder(out: Path, begun: Session) -> Path:
    """A new folder for a session, with what is known of it; what killed captures left in `out` is looked after."""
    stamp = datetime.fromisoformat(begun.created).strftime("%Y%m%d-%H%M%S")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for old in out.iterdir():
            if old.is_dir() and rescue(old):
                _forget_empty(old)
        for number in count(1):
            folder = out / f"{stamp}-{begun.name}{f'-{number}' if number > 1 else ''}"
            with suppress(FileExistsError):
                folder.mkdir()
                break
    except OSError as error:
        reason = "it is no folder" if out.exists() and not out.is_dir() else error.strerror
        raise OutputRefused(
            f"A folder for the session cannot be made in {out} ({reason}).", "Name another place with --out."
        ) from error
    _write(folder, begun)
    return folder


def _forget_empty(folder: Path) -> None:
    """Remove the folder of a capture that left nothing to read but what was asked."""
    if {path.name for path in folder.iterdir()} <= {JOB, RECORD}:
        shutil.rmtree(folder)


def _record(
    begun: Session,
    settings: Settings,
    command: Sequence[str],
    folder: Path,
    nsys: Path,
    live: TextIO | None,
    progress: Progress,
) -> tuple[Capture, Trace | None]:
    """Record, and write how it ended; the trace is None where nothing was recorded."""
    try:
        done = _profile(settings, command, folder, nsys, live, progress)
    except DsprofError as error:
        _leave(folder, begun, error)
        raise
    record = evolve(
        begun, ending=done.ending, exit_code=done.exit_code, reports=tuple(report.name for report in done.reports)
    )
    _write(folder, record)
    trace = _read_if_any(done)
    if trace:
        record = evolve(record, driver=trace.report.driver, gpus=trace.report.gpus)
        _write(folder, record)
    return Capture(folder, record, done.exports, done, recorded=trace is not None), trace


def _read_if_any(done: Profile) -> Trace | None:
    """What was recorded; None where nothing was."""
    try:
        return read(done.exports[0])
    except NothingRecorded:
        return None


def _leave(folder: Path, begun: Session, error: DsprofError) -> None:
    """Leave the record of a capture that failed beside what was saved of it, and name its log in the error."""
    with suppress(OSError):
        kept = sorted(path.name for path in folder.iterdir() if path.suffix in (".nsys-rep", ".qdrep", ".qdstrm"))
        _write(folder, evolve(begun, reports=tuple(kept)))
        _forget_empty(folder)
        error.log = folder / LOG if (folder / LOG).is_file() else None


def _profile(
    settings: Settings, command: Sequence[str], folder: Path, nsys: Path, live: TextIO | None, progress: Progress
) -> Profile:
    environment = clean_environment(os.environ, settings.keep_variables)
    progress("recording under nsys")
    options = evolve(settings.profile, env=environment.variables)
    try:
        return profile(options, command, folder, nsys, live, progress)
    finally:
        _clean_log(folder / LOG, _secrets(command))


def _secrets(command: Sequence[str]) -> Sought:
    """What is secret of our environment, whether the program had it or not, and of a command line."""
    sought = Sought()
    sought.secrets_of_environment(os.environ)
    sought.command(command)
    return sought


def _clean_log(log: Path, sought: Sought) -> None:
    """Take out of the log what is secret: servers print their arguments. A log without secrets is not touched."""
    if not log.is_file():
        return
    with log.open("rb") as file:
        found = sought.is_in(file)
    if not found:
        return
    partial = log.with_name(f".{log.name}.partial")
    try:
        with log.open("rb") as source, partial.open("wb") as target:
            sought.copy_without(source, target)
        partial.replace(log)
    except OSError:  # a full disk, which the log may explain: it stays as it is
        partial.unlink(missing_ok=True)


def _cleaned_command(command: Sequence[str]) -> tuple[str, ...]:
    """A command line as it may be kept: without its secrets, and without those of the environment in other places."""
    removed = _secrets(command).remover(words=False)
    return tuple(os.fsdecode(removed(os.fsencode(word))) for word in masked(command))


def _outcome(folder: Path, done: Profile) -> Outcome:
    """What the session said; one that left nothing, or nothing whole, has an error that says so."""
    try:
        return read_outcome(folder / OUTCOME)
    except (OSError, ValueError, TypeError, KeyError):
        return Outcome(error=["WorkloadFailed", f"The session left no outcome: {done.explain()}.", ""])


def _trouble_of_session(outcome: Outcome, done: Profile) -> DsprofError | None:
    """The error that a session ended with, as what it was there; none where we ended it ourselves."""
    if done.ending in ("interrupted", "time-limit"):
        return None
    if outcome.error:
        kind, message, hint = outcome.error
        found: DsprofError = getattr(errors, kind, WorkloadFailed)(message, hint)
        return found
    if done.ending != "finished":
        return WorkloadFailed(f"The session did not end well: {done.explain()}.")
    return None


def _check_capture(trace: Trace | None, outcome: Outcome, made: Capture) -> DsprofError | None:
    """A session that served requests has ranges, and one on a GPU has kernels."""
    version = made.session.versions["nsys"]
    names = {trace.names[code] for code in set(trace.ranges.domain.tolist())} if trace else set()
    if outcome.requests and DOMAIN not in names:
        nvtx = outcome.versions.get("nvtx", "missing")
        return NothingCaptured(f"No NVTX ranges were recorded: {pair(nvtx, version)}.", "See `dsprof doctor`.")
    if outcome.device.startswith("cuda") and outcome.requests and not (trace and len(trace.kernels)):
        return NothingCaptured(
            f"The session ran on {outcome.device_name}, and no kernel was recorded by nsys {version}.",
            "An nsys older than the driver records no CUDA events: take a newer one. See `dsprof doctor`.",
        )
    return None


def _write(folder: Path, record: Session) -> None:
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


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageUnusable(f"The image {path} cannot be read ({error.strerror}).", "See who may read it.") from error


def _git_commit() -> str:
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
