"""`capture`: run a session under nsys and keep everything that it said, in one folder.

::

    traces/<stamp>-<name>/
      run.nsys-rep  run.sqlite      the report and its export (run.1… where a capture range is repeated)
      run.dsprof/*.parquet          the tables
      session.json                  what ran, with what, and how it ended; no secrets of the command line
      workload.log                  what the program and nsys printed, without secrets that we know
      job.json  outcome.json        what the profiled session was asked, and what it answered
      baseline/  baseline-graph/    of further runs that were asked for (see `capture.baseline`)

Of several runs for a comparison, `capture.runs` makes a folder of such folders.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TextIO

from attrs import evolve, field, frozen

from dsprof import errors
from dsprof.capture.baseline import Again, CommandIn, Kind, check_baselines, compare
from dsprof.capture.doctor import PLAIN_REMEDY, pair
from dsprof.capture.folder import checked_name, leave_record, name_of, new_folder
from dsprof.capture.loopback import base_of
from dsprof.capture.options import ProfileOptions, known_options, knows
from dsprof.capture.plan import Plan, Wishes, plan_of
from dsprof.capture.profile import Profile, profile
from dsprof.capture.rank import rank_variables
from dsprof.capture.record import SCHEMA, Session, Turn, git_commit, image_record, write_record
from dsprof.capture.secrets import clean_log, cleaned_command, secrets_of
from dsprof.capture.serving import Serving
from dsprof.capture.watching import LOG
from dsprof.capture.ways import Ranked, Served, Wrapped
from dsprof.errors import (
    CaptureRefused,
    DsprofError,
    ImageUnusable,
    ModelUnusable,
    NothingCaptured,
    RanksMissing,
    ServerFailed,
    WorkloadFailed,
)
from dsprof.ground.environment import clean_environment
from dsprof.ground.versions import installed, our_version
from dsprof.model.launched import ProcessRank
from dsprof.nsys.command import find_nsys, nsys_version
from dsprof.nsys.locate import locate
from dsprof.nsys.probe import Probe, probe
from dsprof.nsys.reader import Progress, nothing_recorded
from dsprof.show.safe import for_terminal
from dsprof.words import DOMAIN
from dsprof.workloads.job import JOB, OUTCOME, Job, Outcome, read_outcome, write_json
from dsprof.workloads.serve import MODELS
from dsprof.workloads.tiny import SIZES

#: Suffixes by which a folder of images is searched.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


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
    """How to capture, whatever runs: folder, name (None: of what runs), environment, and what nsys is told.

    `baselines`: how the program runs again afterwards, to tell what recording cost: ``plain``, without nsys; ``graph``,
    with its CUDA graphs traced as a whole. What goes wrong there is in the record, and costs no capture.
    """

    out: Path = Path("traces")
    name: str | None = None
    nsys: str | None = None
    keep_variables: tuple[str, ...] = ()
    profile: ProfileOptions = field(factory=ProfileOptions)
    baselines: tuple[Kind, ...] = ()
    #: What is known of launchers and engines, and what of it is wished for.
    wishes: Wishes = field(factory=Wishes)
    #: Of a server: when it is ready, and its window; `ready` is empty where the engine's own is meant.
    serving: Serving | None = None
    #: Which of several runs it is, whose folder is then made in `out` without a stamp; None: the only one.
    turn: Turn | None = None


def capture_images(
    job: Job, settings: Settings, live: TextIO | None = None, progress: Progress = lambda sentence: None
) -> Capture:
    """Read images in a DeepSeek-OCR session under nsys, or serve. Raises a `DsprofError` for all that goes wrong.

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
    nsys = check_images(job, settings)
    begun = _begin(settings, usual_name(job), tuple(sys.argv[1:]), nsys)
    begun = evolve(
        begun,
        model=job.model if job.model in _random_models(job) else Path(job.model).name,
        prompt=job.prompt,
        max_new_tokens=job.max_new_tokens,
        modules=job.modules,
        images=tuple(image_record(Path(image)) for image in job.images),
    )
    folder = new_folder(settings.out, begun)

    def command_in(place: Path, ranges: bool) -> list[str]:
        write_json(place / JOB, evolve(job, ranges=ranges))
        return [sys.executable, "-u", "-m", "dsprof.workloads", str(place)]

    command = command_in(folder, True)
    made, held = _record(begun, folder, partial(_profile, settings, command, folder, nsys, live, progress))
    outcome = _outcome(folder, made.profile)
    trouble = _trouble_of_session(outcome, made.profile) or _check_capture(held, outcome, made)
    record = evolve(
        made.session,
        versions={**begun.versions, **outcome.versions},
        device=outcome.device,
        attention=outcome.attention,
        parameters=outcome.parameters,
        dtype=outcome.dtype,
        model_config=outcome.model_config,
        requests=tuple(outcome.requests),
        served=outcome.served,
    )
    write_record(folder, record)
    made = evolve(made, session=record, trouble=trouble)
    return made if trouble else _compared(made, settings, command_in, nsys, live, progress)


def record_command(command: Sequence[str], settings: Settings, live: TextIO | None, progress: Progress) -> Capture:
    """As `capture_command`, but a recording with nothing in it, or without the program's ranges, is `trouble`."""
    nsys, plan, way, settings = _prepared(command, settings)
    begun = _begin(settings, Path(command[0]).stem, tuple(command), nsys)
    if shutil.which(command[0]) == sys.executable:
        begun = evolve(begun, versions={**begun.versions, "nvtx": installed("nvtx")})
    begun = evolve(begun, launchers=plan.names, added=tuple(add.text for add in plan.added))
    folder = new_folder(settings.out, begun)
    if settings.turn is None or settings.turn.run == 1:
        tell([*plan.said(), *(way.serving.said() if isinstance(way, Served) else [])], live)
    made, held = _record(begun, folder, partial(_profile, settings, plan.command, folder, nsys, live, progress, way))
    made = evolve(made, trouble=_check_ranks(made) or _check_server(made) or _check_command(held, made))
    return _compared(made, settings, lambda place, ranges: list(plan.command), nsys, live, progress)


def check_images(job: Job, settings: Settings) -> Path:
    """Refuse a session that cannot be recorded so; the nsys that would. Raises what `capture_images` raises before."""
    _check_job(job)
    return _nsys(settings)


def check_command(command: Sequence[str], settings: Settings) -> None:
    """Refuse a command that cannot be recorded so. Raises what `capture_command` raises before it runs anything."""
    _prepared(command, settings)


def usual_name(job: Job) -> str:
    """What a session is called that was given no name."""
    return Path(job.images[0]).stem if job.images else f"serve-{job.serve}"


def _prepared(command: Sequence[str], settings: Settings) -> tuple[Path, Plan, Wrapped, Settings]:
    """All that a recording of a command needs, and the settings with it."""
    nsys = _nsys(settings)
    plan, settings = _planned(command, settings)
    return nsys, plan, _way(plan, settings), settings


def _planned(command: Sequence[str], settings: Settings) -> tuple[Plan, Settings]:
    """What a recording of the command needs, and the settings with it; what the user says comes first."""
    told = settings.profile
    plan = plan_of(command, evolve(settings.wishes, server=settings.serving is not None), told, os.environ)
    if settings.baselines and (settings.serving is not None or (plan.ranks and "graph" in settings.baselines)):
        raise CaptureRefused(
            "--baseline cannot be had of a server, nor --baseline graph with one report for each rank.",
            "Leave it out, and compare two captures.",
        )
    added = plan.options
    told = evolve(
        told,
        capture_range=told.capture_range or added.pop("--capture-range", None),
        capture_range_end=told.capture_range_end or added.pop("--capture-range-end", None),
        range_hint=plan.window.never if plan.window else "",
    )
    variables = {**told.variables, **plan.variables}
    return plan, evolve(settings, profile=evolve(told, added=added, variables=variables))


def _way(plan: Plan, settings: Settings) -> Wrapped:
    """How nsys and the program stand to each other. Raises `CaptureRefused`."""
    if plan.ranks is not None:
        return Ranked(plan.program, plan.ranks.variables)
    if settings.serving is None:
        return Wrapped()
    base = base_of(plan.server, plan.arguments) if plan.server else None
    serving = settings.serving
    if plan.server and base:
        serving = evolve(
            serving,
            ready=serving.ready or base + plan.server.ready,
            start=base + plan.server.start if plan.server.start else "",
            stop=base + plan.server.stop if plan.server.stop else "",
        )
    if not serving.ready:
        raise CaptureRefused(
            "How this server says that it is ready is not known.",
            "Say it with --ready: a URL that answers then (http://127.0.0.1:8000/health), or a text that it prints.",
        )
    return Served(serving)


def tell(lines: Sequence[str], live: TextIO | None) -> None:
    """Say on `live` what a run is, or is given, and why."""
    width = max(40, shutil.get_terminal_size().columns)
    wrap = textwrap.TextWrapper(width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    with suppress(OSError, ValueError):  # nobody looks
        for line in lines:
            print("\n".join(wrap.wrap(for_terminal(line))), file=live or sys.stderr)


def _check_ranks(made: Capture) -> RanksMissing | None:
    """Ranks without a report, by number."""
    done = made.profile
    if not done.ranks or not done.short:
        return None
    silent = [rank for rank in map(str, range(done.wanted)) if f"r{rank}" not in done.recorded_ranks]
    known = len(silent) + len(done.recorded_ranks) == done.wanted  # else they are not numbered from 0, or not at all
    named = f" Without a report: {', '.join(silent[:20])}{' …' if len(silent) > 20 else ''}." if known else ""
    return RanksMissing(
        f"Of {done.wanted} ranks, {len(done.recorded_ranks)} left a report.{named}",
        "The others are whole. A rank that was killed leaves none, as does one whose nsys failed: see the log.",
    )


def _check_server(made: Capture) -> ServerFailed | None:
    """What went wrong in a server's window that was recorded all the same."""
    problems = made.profile.problems
    return ServerFailed(" ".join(problems), "The recording is whole. See its log.") if problems else None


def _nsys(settings: Settings) -> Path:
    """The nsys to use, which can do what is asked. Raises `NsysMissing` and `CaptureRefused`."""
    nsys = find_nsys(settings.nsys)
    check_baselines(settings.baselines, settings.profile, nsys)
    if settings.profile.python_sampling_hz is not None and not knows(known_options(nsys), "--python-sampling"):
        raise CaptureRefused(
            f"nsys {nsys_version(nsys)} cannot sample Python.",
            "Name a newer one with --nsys, or record without that.",
        )
    return nsys


def _compared(
    made: Capture, settings: Settings, command: CommandIn, nsys: Path, live: TextIO | None, progress: Progress
) -> Capture:
    """A capture with what the program's further runs said, where some are asked for."""
    if not settings.baselines:
        return made
    again = Again(command, _told(settings), made.folder, nsys, live, progress)
    record = evolve(made.session, baseline=compare(settings.baselines, made.profile, again))
    write_record(made.folder, record)
    return evolve(made, session=record)


def _check_command(held: Probe, made: Capture) -> DsprofError | None:
    """Nothing was recorded of a program that ended well, or the ranges of one that uses NVTX are missing."""
    if not held.ranges and (held.opened or any(_probe(export).opened for export in made.exports[1:])):
        nvtx = made.session.versions.get("nvtx", "of the program")
        message = (
            f"The program uses NVTX, and none of its ranges was recorded: {pair(nvtx, made.session.versions['nsys'])}."
        )
        return NothingCaptured(message, PLAIN_REMEDY)
    return (
        nothing_recorded(made.exports[0].name)
        if held.is_empty and made.profile.ending in ("finished", "ended")
        else None
    )


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
    known = _random_models(job)
    if job.model not in known and not Path(job.model).is_dir():
        raise ModelUnusable(
            f"There is no model folder {job.model}.", f"Name a checkpoint's folder, or one of {', '.join(known)}."
        )


def _random_models(job: Job) -> tuple[str, ...]:
    """What --model knows besides folders."""
    return MODELS if job.serve else SIZES


def _begin(settings: Settings, usual_name: str, command: tuple[str, ...], nsys: Path) -> Session:
    """All of the record that can be known before the program runs, so that no recording is lost for want of it."""
    return Session(
        schema=SCHEMA,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        name=name_of(usual_name) if settings.name is None else checked_name(settings.name),
        command=cleaned_command(command),
        ending="unknown",
        exit_code=-1,
        reports=(),
        versions={"dsprof": our_version(), "nsys": nsys_version(nsys), "python": sys.version.split()[0]},
        withheld_variables=clean_environment(os.environ, settings.keep_variables).dropped,
        git_commit=git_commit(),
        ranks=tuple(ProcessRank(told) for told in [rank_variables(os.environ)] if told),
        turn=settings.turn,
    )


def _record(begun: Session, folder: Path, run: Callable[[], Profile]) -> tuple[Capture, Probe]:
    """Record, and write how it ended and on which GPUs; with what the first export holds."""
    try:
        done = run()
    except DsprofError as error:
        leave_record(folder, begun, error)
        raise
    record = evolve(
        begun, ending=done.ending, exit_code=done.exit_code, reports=tuple(report.name for report in done.reports),
        ranks=(*begun.ranks, *done.processes),
    )  # fmt: skip
    write_record(folder, record)
    held = _probe(done.exports[0])
    if not held.is_empty:
        record = evolve(record, driver=held.driver, gpus=held.gpus)
        write_record(folder, record)
    return Capture(folder, record, done.exports, done, recorded=not held.is_empty), held


def _probe(exported: Path) -> Probe:
    """What an export holds, or that of a report which was exported a moment ago."""
    return probe(locate(exported)[1])


def _profile(
    settings: Settings,
    command: Sequence[str],
    folder: Path,
    nsys: Path,
    live: TextIO | None,
    progress: Progress,
    way: Wrapped | None = None,
) -> Profile:
    progress("recording under nsys")
    client = settings.serving.client if settings.serving else ()
    try:
        return profile(_told(settings), command, folder, nsys, live, progress, way)
    finally:
        clean_log(folder / LOG, secrets_of([*command, *client, *settings.profile.beside]))


def _told(settings: Settings) -> ProfileOptions:
    """What nsys is told, with the program's environment."""
    told = settings.profile
    return evolve(told, env={**clean_environment(os.environ, settings.keep_variables).variables, **told.variables})


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


def _check_capture(held: Probe, outcome: Outcome, made: Capture) -> DsprofError | None:
    """A session that served requests has ranges, and one on a GPU has kernels."""
    version = made.session.versions["nsys"]
    worked = bool(outcome.requests or (outcome.served and outcome.served.steps))
    if worked and DOMAIN not in held.domains:
        nvtx = outcome.versions.get("nvtx", "missing")
        return NothingCaptured(f"No NVTX ranges were recorded: {pair(nvtx, version)}.", "See `dsprof doctor`.")
    if outcome.device.startswith("cuda") and worked and not held.kernels:
        return NothingCaptured(
            f"The session ran on {outcome.device_name}, and no kernel was recorded by nsys {version}.",
            "An nsys older than the driver records no CUDA events: take a newer one. See `dsprof doctor`.",
        )
    return None
