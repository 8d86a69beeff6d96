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
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO

import cattrs
from attrs import evolve, field, frozen

from dsprof import errors
from dsprof.arguments import masked
from dsprof.environment import clean_environment
from dsprof.errors import DsprofError, ImageUnusable, ModelUnusable, NothingCaptured, NothingRecorded, WorkloadFailed
from dsprof.nsys.command import find_nsys, nsys_version
from dsprof.nsys.options import ProfileOptions
from dsprof.nsys.profile import Profile, profile
from dsprof.nsys.reader import read
from dsprof.nsys.sought import Sought
from dsprof.nsys.watching import LOG
from dsprof.stages import DOMAIN
from dsprof.trace import Gpu, Trace
from dsprof.workloads.job import JOB, OUTCOME, Job, Outcome, RequestRecord, read_outcome, write_json
from dsprof.workloads.tiny import SIZES

SCHEMA = "dsprof.session/1"
RECORD = "session.json"
#: Suffixes by which a folder of images is searched.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

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


@frozen
class Settings:
    """How to capture, whatever runs: folder, name, environment, and what nsys is told."""

    out: Path = Path("traces")
    name: str = ""
    nsys: str | None = None
    keep_variables: tuple[str, ...] = ()
    profile: ProfileOptions = field(factory=ProfileOptions)


def capture_images(
    job: Job, settings: Settings, live: TextIO | None = None, progress: Callable[[str], None] = lambda sentence: None
) -> Capture:
    """Read images in a DeepSeek-OCR session under nsys. Raises a `DsprofError` for everything that goes wrong.

    A missing image or model is told before anything is started; a capture without our ranges, or without
    kernels of a GPU that worked, is an error and not an empty table.
    """
    _check_job(job)
    nsys = find_nsys(settings.nsys)
    name = settings.name or Path(job.images[0]).stem
    folder = _folder(settings, name)
    write_json(folder / JOB, job)
    command = [sys.executable, "-u", "-m", "dsprof.workloads", str(folder)]
    try:
        done, withheld = _profile(settings, command, folder, nsys, live, progress)
        outcome = _outcome(folder, done)
    except DsprofError:
        _forget_empty(folder)
        raise
    trace = read(done.exports[0])
    _check_capture(trace, outcome, nsys)
    record = _record(settings, name, tuple(sys.argv[1:]), done, trace, nsys, withheld)
    record = evolve(
        record,
        versions={**record.versions, **outcome.versions},
        device=outcome.device,
        attention=outcome.attention,
        parameters=outcome.parameters,
        dtype=outcome.dtype,
        model_config=outcome.model_config,
        model=job.model if job.model in SIZES else Path(job.model).name,
        prompt=job.prompt,
        max_new_tokens=job.max_new_tokens,
        modules=job.modules,
        images=tuple(ImageRecord(Path(image).name, _sha256(Path(image))) for image in job.images),
        requests=tuple(outcome.requests),
    )
    return _finish(folder, record, done)


def capture_command(
    command: Sequence[str],
    settings: Settings,
    live: TextIO | None = None,
    progress: Callable[[str], None] = lambda sentence: None,
) -> Capture:
    """Run any command under nsys. A command that fails still gives a capture; its exit code is in the record."""
    nsys = find_nsys(settings.nsys)
    name = settings.name or Path(command[0]).stem
    folder = _folder(settings, name)
    try:
        done, withheld = _profile(settings, command, folder, nsys, live, progress)
    except DsprofError:
        _forget_empty(folder)
        raise
    trace = _read_if_any(done)
    made = _finish(folder, _record(settings, name, tuple(command), done, trace, nsys, withheld), done)
    return evolve(made, recorded=trace is not None)


def _read_if_any(done: Profile) -> Trace | None:
    """What was recorded; None where a program that failed recorded nothing."""
    try:
        return read(done.exports[0])
    except NothingRecorded:
        if done.ending == "finished":
            raise
        return None


def read_session(path: Path) -> Session:
    """The record in a session folder, or in a ``session.json``."""
    import json

    file = path / RECORD if path.is_dir() else path
    return converter.structure(json.loads(file.read_text(encoding="utf-8")), Session)


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
    for image in job.images:
        if not Path(image).is_file():
            raise ImageUnusable(f"There is no image {image}.", "See whether its name is spelled right.")
    if job.model not in SIZES and not Path(job.model).is_dir():
        raise ModelUnusable(
            f"There is no model folder {job.model}.", f"Name a checkpoint's folder, or one of {', '.join(SIZES)}."
        )


def _folder(settings: Settings, name: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    folder = settings.out / f"{stamp}-{name}"
    number = 1
    while folder.exists():
        number += 1
        folder = settings.out / f"{stamp}-{name}-{number}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise errors.OutputRefused(
            f"The folder {folder} cannot be made ({error.strerror}).", "Name another place with --out."
        ) from error
    return folder


def _forget_empty(folder: Path) -> None:
    """Remove the folder of a capture that left nothing to read but the job."""
    if {path.name for path in folder.iterdir()} <= {JOB}:
        shutil.rmtree(folder)


def _profile(
    settings: Settings,
    command: Sequence[str],
    folder: Path,
    nsys: Path,
    live: TextIO | None,
    progress: Callable[[str], None],
) -> tuple[Profile, tuple[str, ...]]:
    environment = clean_environment(os.environ, settings.keep_variables)
    options = evolve(settings.profile, env=environment.variables)
    progress("recording under nsys")
    try:
        return profile(options, command, folder, nsys, live, progress), tuple(environment.dropped)
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
    """What the session said; its error, if it ended with one, is raised here as what it was there."""
    file = folder / OUTCOME
    if not file.is_file():
        raise WorkloadFailed(f"The session left no outcome: {done.explain()}.", f"See {done.log}.")
    outcome = read_outcome(file)
    if outcome.error:
        kind, message, hint = outcome.error
        raise getattr(errors, kind, WorkloadFailed)(message, hint)
    if done.ending != "finished":
        raise WorkloadFailed(f"The session did not end well: {done.explain()}.", f"See {done.log}.")
    return outcome


def _check_capture(trace: Trace, outcome: Outcome, nsys: Path) -> None:
    names = {trace.names[code] for code in set(trace.ranges.domain.tolist())}
    if outcome.requests and DOMAIN not in names:
        pair = f"nvtx {outcome.versions.get('nvtx', 'missing')} under nsys {nsys_version(nsys)}"
        raise NothingCaptured(f"No NVTX ranges were recorded: {pair}.", "See `dsprof doctor`.")
    if outcome.device.startswith("cuda") and not len(trace.kernels):
        raise NothingCaptured(
            f"The session ran on {outcome.device_name}, and no kernel was recorded by nsys {nsys_version(nsys)}.",
            "An nsys older than the driver records no CUDA events: take a newer one. See `dsprof doctor`.",
        )


def _record(
    settings: Settings,
    name: str,
    command: tuple[str, ...],
    done: Profile,
    trace: Trace | None,
    nsys: Path,
    withheld: tuple[str, ...],
) -> Session:
    return Session(
        schema=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=name,
        command=_cleaned_command(command),
        ending=done.ending,
        exit_code=done.exit_code,
        reports=tuple(report.name for report in done.reports),
        versions={"dsprof": version("dsprof"), "nsys": nsys_version(nsys), "python": sys.version.split()[0]},
        driver=trace.report.driver if trace else "",
        gpus=trace.report.gpus if trace else (),
        withheld_variables=withheld,
        git_commit=_git_commit(),
    )


def _finish(folder: Path, record: Session, done: Profile) -> Capture:
    import json

    partial = folder / f".{RECORD}.partial"
    partial.write_text(json.dumps(converter.unstructure(record), indent=1, ensure_ascii=False), encoding="utf-8")
    partial.replace(folder / RECORD)
    return Capture(folder, record, done.exports, done)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git_commit() -> str:
    """The commit of the folder that the capture was started in; empty outside of a checkout."""
    git = shutil.which("git")
    if git is None:
        return ""
    said = subprocess.run([git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return said.stdout.strip() if said.returncode == 0 else ""
