"""Run a program under ``nsys profile``, so that no failure is silent.

nsys ends with 0 when it wrote nothing, when it kept an old file, and when it could not import; so its exit code
is only the program's, and success is a report that is new, begins like one and can be exported.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Literal, TextIO

from attrs import evolve, field

from dsprof.capture.options import ProfileOptions, asked, given
from dsprof.capture.watching import FULL, LOG, RANGE, Run, numbers_of, report_files
from dsprof.capture.ways import Order, RankRecord, Wrapped
from dsprof.errors import DsprofError, ImportHung, NoSpace, OutputExists, OutputRefused, ProfileFailed
from dsprof.ground.leftovers import clear_leftovers, own_folder
from dsprof.model.launched import ProcessRank
from dsprof.nsys.command import NO_AGENT, export
from dsprof.nsys.inputs import Input
from dsprof.nsys.locate import export_into_cache
from dsprof.nsys.side_by_side import jobs_for
from dsprof.records import frozen

Ending = Literal["finished", "failed", "signalled", "interrupted", "time-limit", "ended", "stopped", "unknown"]

#: How every report begins, and the names of what a recording leaves in its folder.
_MAGIC = b"NVIDIA Tegra Profiler Report"
_OUTPUT = re.compile(r"run(\.\w+)*\.(nsys-rep|qdrep|qdstrm|sqlite)")
_IMPORTERS = ("host-linux-*/QdstrmImporter", "linux-desktop-*/QdstrmImporter")
#: How the folder begins that a recording is made in, until it is whole.
PARTIAL = ".partial-"

# What nsys says of itself; all versions from 2022.4 to 2024.2 use the same words.
_NOT_STARTED = re.compile(
    r"^(Executable not found|Program not found|No such file or directory: |Not executable|Unknown executable format)"
)
_REASON = re.compile(r"error|fail|illegal|unrecogni[sz]ed|invalid|cannot|could not|expired|not found", re.IGNORECASE)
_NO_IMPORTER = "importer binary and its dependencies were not found"
_LOST = re.compile("Connection to (the )?Agent lost")
_STUCK = re.compile(rf"{NO_AGENT.pattern}|Failed to probe the process|{_LOST.pattern}")
#: How often nsys is started at most where its agent cannot be reached, and so the program was never started.
_TRIES = 3


@frozen
class LaterExport:
    """The SQLite export of a report, which was exported in parts; `command`: what was recorded, for its secrets."""

    report: Path
    nsys: Path
    command: tuple[str, ...] = field(repr=False)

    def write(self) -> None:
        """Write it beside the report. Raises what `nsys.command.export` does."""
        export(Input(self.report), self.report.with_suffix(".sqlite"), self.nsys, self.command)


@frozen
class Profile:
    """A recording that is whole: reports with an export beside each, the log, and how the program ended.

    `exports`: what to read of each report; the report itself where its export is yet to be written, to `later`.
    `exit_code` is the program's as nsys passes it on: 128 + n for signal n; -1 where `ending` is ``unknown``.
    """

    reports: tuple[Path, ...]
    exports: tuple[Path, ...]
    log: Path
    exit_code: int
    ending: Ending
    #: Reports that ``repeat:N`` asked for, or ranks that there were.
    wanted: int = 1
    #: What each rank said, by number; empty where there is one nsys for all.
    ranks: tuple[RankRecord, ...] = ()
    #: What launchers told the program's processes of ranks, as far as they were seen.
    processes: tuple[ProcessRank, ...] = ()
    #: What went wrong beside the recording, in sentences.
    problems: tuple[str, ...] = ()
    #: Names of the processes that the program left running, and that were ended.
    left: tuple[str, ...] = ()
    #: Seconds that the program ran, to some 0.2 s; None where it was too short, or its end was not seen.
    took_s: float | None = None
    #: Writes the exports that are not there.
    later: tuple[LaterExport, ...] = ()

    def explain(self) -> str:
        """How the program ended, as a sentence without its full stop."""
        sentences = {
            "finished": "the program ended normally",
            "failed": f"the program ended with exit code {self.exit_code}",
            "signalled": f"the program was killed by {signal_name(self.exit_code)}",
            "interrupted": "the program was interrupted, and the report holds what it did until then",
            "time-limit": "the program was ended at the time limit, and the report holds what it did until then",
            "ended": "the server was ended when its window was recorded",
            "stopped": "nsys ended the program when the recording was complete, as it was told to",
            "unknown": "how the program ended is not known, because nsys hung and its import had to be done again",
        }
        left = f"; what it left running was ended: {', '.join(self.left)}" if self.left else ""
        return sentences[self.ending] + (f"; {self.short}" if self.short else "") + left

    @property
    def recorded_ranks(self) -> set[str]:
        """The ranks of which there is a report, as they stand in its name."""
        return {found.group(1) for report in self.reports if (found := re.search(r"\.([rp]\d+)\.", report.name))}

    @property
    def short(self) -> str:
        """By how much fewer reports there are than wanted; empty if there are enough."""
        if self.ranks:
            have, what = len(self.recorded_ranks), "ranks"
        else:
            have, what = len(self.reports), "capture ranges"
        return f"{have} of {self.wanted} {what} were recorded" if have < self.wanted else ""


def profile(
    options: ProfileOptions,
    command: Sequence[str],
    folder: Path,
    nsys: Path,
    live: TextIO | None = None,
    progress: Callable[[str], None] = lambda sentence: None,
    way: Wrapped | None = None,
) -> Profile:
    """Record `command` into ``folder/run.nsys-rep`` (``run.1.nsys-rep``... for ``repeat:N``) and export it.

    The program's output goes to `live` (stderr if None) at once, and to ``folder/workload.log``. Ctrl-C, SIGTERM
    and the time limit end the program, and what was recorded until then is kept. Whatever happens, no process
    and no temporary file is left. The program runs once: an import is done again, and nsys is started again only
    where it said that its agent cannot be reached before there was a program.

    `way`: how nsys and the program stand to each other; nsys around it if None (`capture.ways`).

    Raises `OutputExists`, `OutputRefused`, `NoSpace`, `ProfileFailed`, `ImportHung`, and what `export` raises;
    a recording that failed the check stays as ``run.unchecked.nsys-rep`` or ``run.qdstrm``.
    """
    _check_before(options, folder)
    way = way or Wrapped()
    way.prepare(options, nsys)
    with signals_interrupt(), _partial(folder) as partial:
        run = _record(lambda: way.start(Order(command, options, partial, nsys, live, progress)), progress)
        raws = sorted(partial.glob("*.qdstrm"), key=numbers_of)
        importer = _importer(nsys)
        if raws and importer and not run.died and not run.interrupted_twice and not run.full:
            progress("importing again")
            _import_again(importer, raws, options, partial, live)
        reports = _reports(partial)
        if not reports or run.died or any(raw.exists() for raw in raws):
            raise run.failure or _failure(run, options, raws, importer)
        words = (*command, *way.beside(), *options.beside)
        later = {report.name for report in reports if not _export(report, nsys, words, options.export_later, progress)}
        names = [report.name for report in reports]
        ranks = way.ranks(partial)
        _publish(partial, folder, options)
    return Profile(
        reports=tuple(folder / name for name in names),
        exports=tuple(folder / name if name in later else (folder / name).with_suffix(".sqlite") for name in names),
        log=folder / LOG,
        exit_code=-1 if run.hung and run.asked is None else run.code,
        ending=ending_of(run, options),
        wanted=max((one.size or len(ranks) for one in ranks), default=_wanted(options)),
        ranks=ranks,
        processes=_processes(run, ranks),
        problems=tuple(run.problems),
        left=tuple(run.left),
        took_s=run.took_s,
        later=tuple(LaterExport(folder / name, nsys, words) for name in names if name in later),
    )


def _export(report: Path, nsys: Path, command: Sequence[str], may_wait: bool, progress: Callable[[str], None]) -> bool:
    """Export a report: to SQLite beside it; or, False, a large one in parts into the cache, where SQLite may wait."""
    given = Input(report)
    if may_wait and (jobs := jobs_for(given, nsys)) > 1:
        export_into_cache(given, nsys, jobs, progress, command)
        return False
    progress(f"exporting {report.name}")
    export(given, report.with_suffix(".sqlite"), nsys, command)
    return True


def _processes(run: Run, ranks: Sequence[RankRecord]) -> tuple[ProcessRank, ...]:
    """What launchers told the processes: those of a rank's own report, and those that were seen, by their numbers."""
    of_reports = [ProcessRank(dict(one.variables), report=one.rank) for one in ranks if one.variables]
    return (*of_reports, *(ProcessRank(told, pid) for pid, told in sorted(run.ranks.items())))


def _record(start: Callable[[], Run], progress: Callable[[str], None]) -> Run:
    """Run nsys to its end; again where it failed before it started the program. The log keeps what each try said."""
    for tried in range(1, _TRIES + 1):
        run = start()
        with run:
            run.watch()
        if not run.never_launched:
            break
        if tried < _TRIES:
            progress(f"nsys could not reach its agent, and has not started the program: try {tried + 1} of {_TRIES}")
    return run


# -- before ---------------------------------------------------------------------------------------------


def _check_before(options: ProfileOptions, folder: Path) -> None:
    """Refuse what would go wrong, before the program runs."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputRefused(f"The folder {folder} cannot be made ({error.strerror}).", "Name another.") from error
    _check_free(options, folder)
    for name in ("--output", "-o", "--force-overwrite", "-f"):
        if given(options.extra, name) is not None:
            raise ProfileFailed(f"dsprof itself sets nsys's {name}.", "Leave it out, and name the folder instead.")
    for place in (folder, *_temporary_folders()):
        free = shutil.disk_usage(place).free
        if free < options.minimum_free_bytes:
            raise NoSpace(
                f"{place} has {free // 10**6} MB free, and {options.minimum_free_bytes // 10**6} MB are asked for.",
                "Make room, or name another folder (TMPDIR for the temporary one).",
            )


def _temporary_folders() -> list[Path]:
    """The folder for temporary files, and before it the one that TMPDIR names, which is passed over if it is full."""
    try:
        usual = Path(tempfile.gettempdir())
    except OSError as error:
        raise NoSpace(
            f"No temporary file can be written ({error.strerror}).", "Set TMPDIR to a folder that has room."
        ) from error
    named = Path(os.environ.get("TMPDIR") or usual)
    return [named, usual] if named.is_dir() else [usual]


def _check_free(options: ProfileOptions, folder: Path) -> None:
    """Refuse a folder that holds a recording, unless it may be overwritten."""
    there = _outputs(folder)
    if there and not options.force:
        raise OutputExists(f"{folder} holds {there[0].name} already.", "Name another folder.")


def _outputs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _OUTPUT.fullmatch(path.name))


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, as nsys, in its own session, would outlive us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    taken = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _partial(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` to record into; after a failure what it holds is kept under telling names."""
    rescue(folder)
    try:
        with own_folder(PARTIAL, folder) as partial:
            try:
                yield partial
            except BaseException as error:
                kept = _salvage(partial, folder)
                if kept and isinstance(error, DsprofError):
                    error.hint = f"{error.hint} What was recorded is kept as {', '.join(kept)} in {folder}.".strip()
                raise
            finally:
                with suppress(OSError):
                    (partial / LOG).replace(folder / LOG)
    except OSError as error:
        reason = error.strerror or error
        raise OutputRefused(f"{folder} cannot be written to ({reason}).", "Name another folder.") from error


def rescue(folder: Path) -> bool:
    """Keep what a dsprof that was killed while it recorded into `folder` left in parts; was there anything?"""
    found: list[Path] = []

    def keep(partial: Path) -> None:
        found.append(partial)
        _salvage(partial, folder)
        with suppress(OSError):
            (partial / LOG).replace(folder / LOG)

    clear_leftovers(PARTIAL, folder, keep)
    return bool(found)


def _salvage(partial: Path, folder: Path) -> list[str]:
    """Keep recordings that failed the check; a raw one as it is, a report as ``run.unchecked.nsys-rep``."""
    kept = []
    for path in [*_reports(partial), *sorted(partial.glob("*.qdstrm"))]:
        name = path.name if path.suffix == ".qdstrm" else f"{path.stem}.unchecked{path.suffix}"
        with suppress(OSError):
            path.replace(folder / name)
            kept.append(name)
    return kept


# -- after ----------------------------------------------------------------------------------------------


def _reports(partial: Path) -> list[Path]:
    """The files that begin like a report."""

    def begins_well(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC

    return [path for path in report_files(partial) if begins_well(path)]


def _importer(nsys: Path) -> Path | None:
    """The program of this installation that makes a report of a raw capture."""
    places = [found for parent in nsys.resolve().parents[1:4] for glob in _IMPORTERS for found in parent.glob(glob)]
    return places[0] if places else None


def _import_again(
    importer: Path, raws: Sequence[Path], options: ProfileOptions, partial: Path, live: TextIO | None
) -> None:
    """Import what nsys left raw, as it hung (2022.4) or failed (2024.2, after a SIGKILL, and not the second time).

    Raises `ImportHung`. A raw file is removed once its report is there.
    """
    for raw in raws:
        report = raw.with_suffix(".nsys-rep")
        arguments = [str(importer), "--force-overwrite", "--input-file", str(raw), "--output-file", str(report)]
        run = Run(arguments, evolve(options, limit_s=None), partial, live)
        with run:
            run.watch()
        if run.hung and run.asked is None:
            raise ImportHung(
                f"nsys hung while it imported the recording, and so did a second import of {raw.name}.",
                f"Import it elsewhere with `QdstrmImporter --input-file {raw.name}`.",
            )
        if run.code == 0 and report in _reports(partial):
            raw.unlink()


def _publish(partial: Path, folder: Path, options: ProfileOptions) -> None:
    """Move all that the recording made into `folder`; what was there before goes only now."""
    _check_free(options, folder)
    made = [path for path in partial.iterdir() if path.name != LOG]
    try:
        for old in _outputs(folder):
            old.unlink()
        for path in made:
            path.replace(folder / path.name)
    except OSError as error:
        raise OutputRefused(f"{folder} cannot be written to ({error.strerror}).", "Name another folder.") from error


def signal_name(code: int) -> str:
    """The signal that an exit code of 128 and more tells of."""
    number = code - 128
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def ending_of(run: Run, options: ProfileOptions) -> Ending:
    """How the program ended, from its code as nsys passes it on, and from what it was told."""
    if run.asked is not None:
        return run.asked
    if run.hung:
        return "unknown"
    if run.code == 128 + signal.SIGTERM and _was_stopped(run, options):
        return "stopped"
    if 128 < run.code <= 128 + signal.SIGRTMAX:
        return "signalled"
    return "failed" if run.code else "finished"


def _was_stopped(run: Run, options: ProfileOptions) -> bool:
    """Did nsys end the program, because the duration was over or the capture range at its end?"""
    if any("ended" in line for line in run.output.chatter if RANGE.fullmatch(line)):
        return True
    duration = asked(options, "--duration", None if options.duration_s is None else str(options.duration_s))
    with suppress(ValueError):
        return duration is not None and run.ran_s > float(duration) - 1.0  # nsys may count from before the start
    return False


def _wanted(options: ProfileOptions) -> int:
    """How many reports ``repeat:N`` asks for."""
    end = asked(options, "--capture-range-end", options.capture_range_end)
    found = re.fullmatch(r"repeat(?:-shutdown)?:(\d+)", end or "")
    return int(found.group(1)) if found else 1


def _failure(run: Run, options: ProfileOptions, raws: Sequence[Path], importer: Path | None) -> DsprofError:
    """Why there is no report: the likeliest cause first, with what to do about it."""
    said = " ".join(run.output.lines)
    if run.asked is not None:
        what = {"interrupted": "interrupted", "time-limit": "ended at the time limit"}.get(run.asked, "ended")
        advice = options.range_hint if options.range_hint and not _began(run) else "Give it more time."
        return ProfileFailed(f"The recording was {what} before there was a report.", advice)
    if "No space left on device" in said or run.full or _is_full(run):
        where = f" with {run.full}" if run.full else ""
        return NoSpace(f"The disk{where} became full during the recording.", "Make room, or record for a shorter time.")
    if run.died:
        return ProfileFailed(f"nsys itself was killed by {signal_name(run.code)}.", "See the log, and the memory.")
    if raws and (importer is None or _NO_IMPORTER in said):
        return ProfileFailed(
            "nsys recorded the program, but its importer is missing, so there is only a raw capture.",
            f"Install the whole of Nsight Systems, or import {raws[0].name} where it is, with QdstrmImporter.",
        )
    return _failure_to_record(run, options)


def _began(run: Run) -> bool:
    """Did a capture range begin?"""
    return any(map(RANGE.fullmatch, run.output.chatter))


def _failure_to_record(run: Run, options: ProfileOptions) -> DsprofError:
    if run.hung:
        return ImportHung("nsys hung, and left nothing to import.", "Try again, or take another version of nsys.")
    if not run.seen and (line := run.output.line_with(_NOT_STARTED)):
        return ProfileFailed(
            f"nsys could not start the program: {line}.", "See how it is spelled, and whether it runs without nsys."
        )
    if not run.seen and (line := run.output.line_with(_STUCK)):
        return ProfileFailed(
            f"nsys could not reach its agent: {line}.",
            "Try again when the machine is less busy. A killed nsys may be in the way: end what is left of it, and "
            "remove /dev/shm/NSys-*.",
        )
    kind = asked(options, "--capture-range", options.capture_range)
    chatter = run.output.chatter
    if "Generated:" in chatter and kind not in (None, "none") and not _began(run):
        name = asked(options, "--nvtx-capture", options.nvtx_capture)
        return ProfileFailed(
            f"The capture range {name or kind} never began, so nothing was recorded (exit code {run.code}).",
            options.range_hint
            if options.range_hint and kind == options.capture_range
            else "Name it as range@domain; see with a whole capture whether the program opens it.",
        )
    reason = run.output.line_with(_REASON) or run.output.line_with(re.compile("")) or "it said nothing"
    hint = "The log has all that it said."
    if run.output.line_with(_LOST):
        hint = f"Its own agent broke off, which happens now and then on a busy machine: try again. {hint}"
    return ProfileFailed(f"nsys left no report (exit code {run.code}): {reason}.", hint)


def _is_full(run: Run) -> bool:
    return any(shutil.disk_usage(place).free < FULL for place in (run.partial, run.scratch.parent))
