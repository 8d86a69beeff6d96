"""Run a program under ``nsys profile``, so that no failure is silent.

nsys ends with 0 when it wrote nothing, when it kept an old file, and when it could not import; so its exit code
is only the program's, and success is a report that is new, begins like one and can be exported.
"""

from __future__ import annotations

import codecs
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Literal, TextIO, cast

from attrs import evolve, field, frozen

from dsprof.errors import DsprofError, ImportHung, NoSpace, OutputExists, OutputRefused, ProfileFailed
from dsprof.nsys.command import (
    NO_AGENT,
    carriers,
    export,
    remove_shared_memory,
    remove_stale_shared_memory,
    run_nsys,
    share_session_lock,
    tmpdir_of,
)

Ending = Literal["finished", "failed", "signalled", "interrupted", "time-limit", "stopped", "unknown"]

#: The program's output, and nsys's own words, beside the reports.
LOG = "workload.log"
#: How every report begins, and the names of what a recording leaves in its folder.
_MAGIC = b"NVIDIA Tegra Profiler Report"
_OUTPUT = re.compile(r"run(\.\w+)*\.(nsys-rep|qdrep|qdstrm|sqlite)")
#: Options that an nsys too old to know them can do without.
_OPTIONAL = ("--sample", "--cpuctxsw", "--cuda-graph-trace")
_SHORT = {"--trace": "-t", "--sample": "-s", "--capture-range": "-c", "--nvtx-capture": "-p", "--duration": "-d"}
#: Where an installation keeps its own programs: what runs from there is nsys, all else is the program's.
_NSYS_FOLDERS = re.compile(r"/(target|host)-linux-|/linux-desktop-")
_IMPORTERS = ("host-linux-*/QdstrmImporter", "linux-desktop-*/QdstrmImporter")
#: Seconds between two looks at a running nsys, and for SIGTERM and SIGKILL to show their effect.
_TICK_S, _LAST_PATIENCE_S = 0.25, 10.0
#: Seconds that nsys's helpers have to end by themselves once nsys is gone.
_GRACE_S = 2.0
#: Bytes free below which a failure is put down to the full disk.
_FULL = 1 << 20

# What nsys says of itself; all versions from 2022.4 to 2024.2 use the same words.
_BAR = re.compile(r"\[\d+/\d+\] \[[=\s]*\d+%\s*\].*|Processing \[[=\s]*\d+%\s*\].*")
_RAW_MADE = re.compile(r"Generating '[^']*\.qdstrm'")
_RANGE = re.compile(r"Capture range (started|ended) in the application\.")
_STARTS = ("Generating '", "Generated:", "Capture range ", "Processing [", "    /")
_NOT_STARTED = re.compile(
    r"^(Executable not found|Program not found|No such file or directory: |Not executable|Unknown executable format)"
)
_REASON = re.compile(r"error|fail|illegal|unrecogni[sz]ed|invalid|cannot|could not|expired|not found", re.IGNORECASE)
_NO_IMPORTER = "importer binary and its dependencies were not found"
_STUCK = re.compile(rf"{NO_AGENT.pattern}|Failed to probe the process|Connection to (the )?Agent lost")
#: What the agent writes into the TMPDIR at the moment before it has the program started (2022.4, 2023.4, 2024.2).
_LAUNCH = "nvidia/nsight_systems/quadd_session_*/injection_files/*"
#: How often nsys is started at most where its agent cannot be reached, and so the program was never started.
_TRIES = 3


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


@frozen
class Profile:
    """A recording that is whole: reports with an export beside each, the log, and how the program ended.

    `exit_code` is the program's as nsys passes it on: 128 + n for signal n; -1 where `ending` is ``unknown``.
    """

    reports: tuple[Path, ...]
    exports: tuple[Path, ...]
    log: Path
    exit_code: int
    ending: Ending
    #: Reports that ``repeat:N`` asked for.
    wanted: int = 1

    def explain(self) -> str:
        """How the program ended, as a sentence without its full stop."""
        sentences = {
            "finished": "the program ended normally",
            "failed": f"the program ended with exit code {self.exit_code}",
            "signalled": f"the program was killed by {_signal_name(self.exit_code)}",
            "interrupted": "the program was interrupted, and the report holds what it did until then",
            "time-limit": "the program was ended at the time limit, and the report holds what it did until then",
            "stopped": "nsys ended the program when the recording was complete, as it was told to",
            "unknown": "how the program ended is not known, because nsys hung and its import had to be done again",
        }
        short = f"; {len(self.reports)} of {self.wanted} capture ranges were recorded"
        return sentences[self.ending] + (short if len(self.reports) < self.wanted else "")


def profile(
    options: ProfileOptions,
    command: Sequence[str],
    folder: Path,
    nsys: Path,
    live: TextIO | None = None,
    progress: Callable[[str], None] = lambda sentence: None,
) -> Profile:
    """Record `command` into ``folder/run.nsys-rep`` (``run.1.nsys-rep``... for ``repeat:N``) and export it.

    The program's output goes to `live` (stderr if None) at once, and to ``folder/workload.log``. Ctrl-C, SIGTERM
    and the time limit end the program, and what was recorded until then is kept. Whatever happens, no process
    and no temporary file is left. The program runs once: an import is done again, and nsys is started again only
    where it said that its agent cannot be reached before there was a program.

    Raises `OutputExists`, `OutputRefused`, `NoSpace`, `ProfileFailed`, `ImportHung`, and what `export` raises;
    a recording that failed the check stays as ``run.unchecked.nsys-rep`` or ``run.qdstrm``.
    """
    _check_before(options, folder)
    arguments = [str(nsys), *_arguments(options, _help(nsys))]
    with _signals_interrupt(), _partial(folder) as partial:
        words = [*arguments, f"--output={_escape(partial / 'run')}", *command]
        run = _record(words, options, partial, live, progress)
        raws = sorted(partial.glob("*.qdstrm"), key=_number)
        importer = _importer(nsys)
        if raws and importer and not run.died and not run.interrupted_twice:
            progress("importing again")
            _import_again(importer, raws, options, partial, live)
        reports = _reports(partial)
        if not reports or run.died or any(raw.exists() for raw in raws):
            raise _failure(run, options, raws, importer)
        for report in reports:
            progress(f"exporting {report.name}")
            export(report, report.with_suffix(".sqlite"), nsys)
        names = [report.name for report in reports]
        _publish(partial, folder, options)
    return Profile(
        reports=tuple(folder / name for name in names),
        exports=tuple((folder / name).with_suffix(".sqlite") for name in names),
        log=folder / LOG,
        exit_code=-1 if run.hung and run.asked is None else run.code,
        ending=_ending(run, options),
        wanted=_wanted(options),
    )


def _record(
    arguments: list[str], options: ProfileOptions, partial: Path, live: TextIO | None, progress: Callable[[str], None]
) -> _Run:
    """Run nsys to its end; again where it failed before it started the program. The log keeps what each try said."""
    for tried in range(1, _TRIES + 1):
        run = _Run(arguments, options, partial, live)
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
        if _given(options.extra, name) is not None:
            raise ProfileFailed(f"dsprof itself sets nsys's {name}.", "Leave it out, and name the folder instead.")
    for place in (folder, Path(tempfile.gettempdir())):
        free = shutil.disk_usage(place).free
        if free < options.minimum_free_bytes:
            raise NoSpace(
                f"{place} has {free // 10**6} MB free, and {options.minimum_free_bytes // 10**6} MB are asked for.",
                "Make room, or name another folder (TMPDIR for the temporary one).",
            )


def _check_free(options: ProfileOptions, folder: Path) -> None:
    """Refuse a folder that holds a recording, unless it may be overwritten."""
    there = _outputs(folder)
    if there and not options.force:
        raise OutputExists(
            f"{folder} holds {there[0].name} already.", "Name another folder, or overwrite with --force."
        )


def _outputs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _OUTPUT.fullmatch(path.name))


def _given(extra: Sequence[str], name: str) -> str | None:
    """The value that the user's own options give to the option `name`; None if it is not among them."""
    for position, word in enumerate(extra):
        if word == name:
            return extra[position + 1] if position + 1 < len(extra) else ""
        if name.startswith("--") and word.startswith(f"{name}="):
            return word.partition("=")[2]
        if not name.startswith("--") and word.startswith(name) and not word.startswith("--"):
            return word[2:]
    return None


def _asked(options: ProfileOptions, name: str, ours: str | None) -> str | None:
    """The value that an option of nsys has in the end: the user's own, else ours."""
    for spelled in (name, _SHORT.get(name)):
        value = _given(options.extra, spelled) if spelled else None
        if value is not None:
            return value
    return ours


@cache
def _help(nsys: Path) -> str:
    """The options that this nsys knows, as it prints them."""
    return run_nsys(nsys, ["profile", "--help"], limit_s=60).said


def _arguments(options: ProfileOptions, known: str) -> list[str]:
    """``profile`` and its options, but for the output; nsys refuses an option that is named twice."""
    ours = {
        "--trace": options.trace,
        "--sample": "none",
        "--cpuctxsw": "none",
        "--cuda-graph-trace": options.cuda_graph_trace,
        "--capture-range": options.capture_range,
        "--capture-range-end": options.capture_range_end,
        "--nvtx-capture": options.nvtx_capture,
        "--duration": None if options.duration_s is None else f"{options.duration_s:g}",
    }
    words = ["profile"]
    for name, value in ours.items():
        unknown = name in _OPTIONAL and "--output" in known and f"{name}=" not in known
        if value is not None and not unknown and _asked(options, name, None) is None:
            words.append(f"{name}={value}")
    return [*words, *options.extra, "--force-overwrite=true"]


def _escape(path: Path) -> str:
    """A path as ``--output`` takes it, which replaces %h, %p and %q{...}."""
    return str(path.absolute()).replace("%", "%%")


def _environment(options: ProfileOptions, scratch: Path) -> dict[str, str]:
    """The program's environment with the run's TMPDIR; a capture range must match any string, too."""
    environment = {**options.env, "TMPDIR": str(scratch)}
    if _asked(options, "--capture-range", options.capture_range) == "nvtx":
        environment.setdefault("NSYS_NVTX_PROFILER_REGISTER_ONLY", "0")
    return environment


@contextmanager
def _signals_interrupt() -> Iterator[None]:
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
    try:
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    except OSError as error:
        raise OutputRefused(f"{folder} cannot be written to ({error.strerror}).", "Name another folder.") from error
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
        shutil.rmtree(partial, ignore_errors=True)


def _salvage(partial: Path, folder: Path) -> list[str]:
    """Keep recordings that failed the check; a raw one as it is, a report as ``run.unchecked.nsys-rep``."""
    kept = []
    for path in [*_reports(partial), *sorted(partial.glob("*.qdstrm"))]:
        name = path.name if path.suffix == ".qdstrm" else f"{path.stem}.unchecked{path.suffix}"
        with suppress(OSError):
            path.replace(folder / name)
            kept.append(name)
    return kept


# -- while it runs --------------------------------------------------------------------------------------


class _Output:
    """What nsys and the program print: all of it into the log, and live all but nsys's own chatter."""

    def __init__(self, pipe: BinaryIO, log: BinaryIO, live: TextIO | None, own: Sequence[str]) -> None:
        self.last = time.monotonic()  # of the last output
        self.chatter: list[str] = []  # nsys's words without its progress
        self.lines: deque[str] = deque(maxlen=60)  # the last ones, without nsys's progress
        self._pipe, self._log, self._live, self._own = pipe, log, live, own
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._rest, self._held = "", ""  # of a line that has not ended; lines that may be nsys's
        self._shown = 0  # characters of the former
        self._thread = threading.Thread(target=self._pass_on, name="dsprof-output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the last words; a process that left our TMPDIR may hold the pipe, so not for ever."""
        self._thread.join(timeout=5.0)
        self._live = None

    def line_with(self, pattern: re.Pattern[str]) -> str:
        """The first of the last lines in which `pattern` is found, without its full stop; empty if none is."""
        return next((line for line in self.lines if pattern.search(line)), "")[:300].rstrip(".")

    def _pass_on(self) -> None:
        log: BinaryIO | None = self._log
        with self._pipe, self._log:
            while data := os.read(self._pipe.fileno(), 1 << 16):
                self.last = time.monotonic()
                try:
                    if log:
                        log.write(data)
                except OSError:  # a full disk: the program must not notice
                    log = None
                self._take(self._decode(data))
            self._take(self._decode(b"", True), at_end=True)

    def _take(self, text: str, at_end: bool = False) -> None:
        """Split into lines, also those that a carriage return begins; show what is begun and cannot be nsys's."""
        *whole, rest = re.split(r"(?<=\n)|(?!\A)(?=\r)", self._rest + text)
        for line in [*whole, rest] if at_end else whole:
            self._line(line)
            self._shown = 0
        self._rest = "" if at_end else rest
        begun = self._rest[self._shown :]
        last = begun.rfind("G")
        if last >= 0 and _may_be_chatter(begun[last:]):  # nsys goes on in a line that the program did not end
            begun = begun[:last]
        if begun.strip() and not _may_be_chatter(begun):
            self._show(begun)
            self._shown += len(begun)

    def _line(self, line: str) -> None:
        bare = line.strip()
        raw = _RAW_MADE.search(line)
        if _BAR.fullmatch(bare):
            return
        if raw or _RANGE.fullmatch(bare) or any(own in line for own in self._own):
            self.chatter.append(bare)
            self._held = ""
            if raw and raw.start():  # the program's last line had no end
                self._show(line[self._shown : raw.start()].rstrip("\r") + "\n")
            return
        if bare == "Generated:" or (self._held and not bare):  # shown only if no file of ours follows
            self._held += line
            if bare:
                self.chatter.append(bare)
            return
        if bare:
            self.lines.append(bare)
        self._show(line[self._shown :])

    def _show(self, text: str) -> None:
        text, self._held = self._held + text, ""
        if self._live is None or not text:
            return
        try:
            encoding = getattr(self._live, "encoding", None) or "utf-8"
            self._live.write(text.encode(encoding, "replace").decode(encoding))
            self._live.flush()
        except (OSError, ValueError):  # nobody looks any more
            self._live = None


def _may_be_chatter(begun: str) -> bool:
    """May this beginning of a line become one of nsys's own?"""
    bare = begun.lstrip("\r\n")
    numbered = re.match(r"\[(\d|$)", bare)
    return bool(numbered) or any(start.startswith(bare) or bare.startswith(start) for start in _STARTS)


class _Run:
    """One nsys with a TMPDIR, a session and a group of its own; leaving the block ends all that it started."""

    def __init__(self, arguments: list[str], options: ProfileOptions, partial: Path, live: TextIO | None) -> None:
        self.scratch = Path(tempfile.mkdtemp(prefix="dsprof-"))
        self.hung = False
        self.asked: Literal["interrupted", "time-limit"] | None = None
        self.interrupted_twice = False
        self.seen = False  # the program was
        self.launched = False  # what nsys left says that it was, or was about to be
        self.partial, self._options = partial, options
        self._targets: list[int] = []
        self._begin = self._active = self._before = time.monotonic()
        self._after: float | None = None  # the first look since the program is gone
        self._steps: list[tuple[signal.Signals, float]] = []
        self._next_step = 0.0
        try:
            if arguments[1:2] == ["profile"]:
                remove_stale_shared_memory()
                share_session_lock(self.scratch, Path(arguments[0]))
            self._process = _start(arguments, _environment(options, self.scratch))
            log = (partial / LOG).open("ab", buffering=0)
        except BaseException:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise
        pipe = cast(BinaryIO, self._process.stdout)
        self.output = _Output(pipe, log, live or sys.stderr, (partial.name, self.scratch.name))

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *error: object) -> None:
        self._clean(0.0 if self.hung or error[0] is not None else _GRACE_S)

    @property
    def code(self) -> int:
        """The exit code as a shell would tell it."""
        code = int(self._process.returncode)
        return 128 - code if code < 0 else code

    @property
    def died(self) -> int:
        """The number of the signal that ended nsys itself, not the program; 0 if none did but ours."""
        return 0 if self.hung else max(0, -int(self._process.returncode))

    @property
    def ran_s(self) -> float:
        """Seconds that the program ran at most: from a look at which it was not there yet to one without it."""
        return (self._after or self._active) - self._before

    @property
    def never_launched(self) -> bool:
        """Is it certain that nsys failed before it started the program?

        The words are those of steps before the start, and its first ones; a program may be too short to be seen,
        but a recording that has begun leaves nsys's chatter, and one that breaks off leaves `_LAUNCH`.
        """
        failed = self.code == 1 and not self.died and not self.hung and self.asked is None
        began = self.seen or self.launched or bool(self.output.chatter)
        return failed and not began and any(NO_AGENT.search(line) for line in list(self.output.lines)[:3])

    def watch(self) -> None:
        """Wait until nsys ends; end the program at Ctrl-C and at the time limit, and nsys where it hangs."""
        while self._process.poll() is None and not self.hung:
            try:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(_TICK_S)
                self._look()
            except KeyboardInterrupt:
                self._interrupt()

    def _look(self) -> None:
        now = time.monotonic()
        if self._targets_alive():
            self.seen, self._active, self._after = True, now, None
        elif not self.seen:
            self._before = now
        elif self._after is None:
            self._after = now
        running = self._active == now or not self.seen
        limit = self._options.limit_s
        if limit is not None and self.asked is None and running and now - self._begin > limit:
            self._end("time-limit")
        elif self._steps and running and now > self._next_step:
            self._step()
        unkillable = self.asked is not None and not self._steps and running and now > self._next_step
        self.hung = unkillable or now - max(self._active, self.output.last) > self._options.import_limit_s

    def _interrupt(self) -> None:
        """Ctrl-C: end the program, or what is left of it faster; once only the import runs, a second one ends it."""
        if self.asked is None:
            self._end("interrupted")
        elif self._steps and self._targets_alive():
            self._step()
        else:
            self.interrupted_twice = self.hung = True

    def _end(self, why: Literal["interrupted", "time-limit"]) -> None:
        """Begin to end the program.

        The signals go to the program, not to nsys: an nsys whose program ends writes its report in all versions,
        while nsys 2023.4 loses it at a second SIGINT, and 2024.2 waits for a program that ignores the first.
        """
        self.asked = why
        self._steps = [
            (signal.SIGINT, self._options.patience_s),
            (signal.SIGTERM, _LAST_PATIENCE_S),
            (signal.SIGKILL, _LAST_PATIENCE_S),
        ]
        self._step()

    def _step(self) -> None:
        number, patience = self._steps.pop(0)
        self._next_step = time.monotonic() + patience
        aim = self._targets if self._targets_alive() else []
        if not aim and not self.seen and not self.output.chatter:
            aim = [self._process.pid]  # the program has not been started yet
        for pid in aim:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _targets_alive(self) -> bool:
        """Is a process of the program there? A look at the known ones is cheap, so the others are sought only then."""
        if not any(tmpdir_of(pid) == os.fsencode(self.scratch) for pid in self._targets) or self._steps:
            self._targets = [pid for pid in carriers(self.scratch) if not _is_nsys(pid, self._process.pid)]
        return bool(self._targets)

    def _clean(self, grace_s: float) -> None:
        """End every process that carries our TMPDIR, and remove that and what the ended ones left in /dev/shm."""
        ended: set[int] = set()
        begin = time.monotonic()
        while (pids := carriers(self.scratch)) and time.monotonic() < begin + grace_s + _LAST_PATIENCE_S:
            if time.monotonic() >= begin + grace_s:
                ended.update(pids)
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)
            time.sleep(0.02)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_PATIENCE_S)
        self.output.close()
        remove_shared_memory(ended)
        self._keep_raw_files()
        self.launched = any(self.scratch.glob(_LAUNCH))
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _keep_raw_files(self) -> None:
        """Take what nsys did not import out of the TMPDIR; it removes a raw file once its report is complete."""
        raws = sorted(self.scratch.glob("*.qdstrm"), key=lambda path: path.stat().st_mtime_ns)
        if not raws:
            return
        made = max(len(raws), sum(1 for line in self.output.chatter if _RAW_MADE.search(line)))
        done = made - len(raws)
        for report in _found(self.partial)[done:]:  # begun, not complete
            report.unlink()
        for number, raw in enumerate(raws, done + 1):
            with suppress(OSError):  # a full disk
                shutil.move(raw, self.partial / ("run.qdstrm" if made == 1 else f"run.{number}.qdstrm"))


def _start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ProfileFailed(f"{arguments[0]} cannot be run ({error.strerror}).", "Name another with --nsys.") from error


def _is_nsys(pid: int, group: int) -> bool:
    """Is it nsys or a helper of it? They are in its process group, or run from its folder."""
    try:
        return os.getpgid(pid) == group or bool(_NSYS_FOLDERS.search(str(Path(f"/proc/{pid}/exe").readlink())))
    except OSError:
        return True  # gone


# -- after ----------------------------------------------------------------------------------------------


def _found(partial: Path) -> list[Path]:
    """The files with a report's name, in the order of their numbers, whatever is in them."""
    return sorted((path for path in partial.iterdir() if path.suffix in (".nsys-rep", ".qdrep")), key=_number)


def _number(path: Path) -> int:
    """The number of ``run.12.nsys-rep``; 0 for ``run.nsys-rep``."""
    found = re.fullmatch(r"run\.(\d+)\.[\w-]+", path.name)
    return int(found.group(1)) if found else 0


def _reports(partial: Path) -> list[Path]:
    """The files that begin like a report."""

    def begins_well(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC

    return [path for path in _found(partial) if begins_well(path)]


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
        run = _Run(arguments, evolve(options, limit_s=None), partial, live)
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


def _signal_name(code: int) -> str:
    number = code - 128
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _ending(run: _Run, options: ProfileOptions) -> Ending:
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


def _was_stopped(run: _Run, options: ProfileOptions) -> bool:
    """Did nsys end the program, because the duration was over or the capture range at its end?"""
    if any("ended" in line for line in run.output.chatter if _RANGE.fullmatch(line)):
        return True
    duration = _asked(options, "--duration", None if options.duration_s is None else str(options.duration_s))
    with suppress(ValueError):
        return duration is not None and run.ran_s > float(duration) - 1.0  # nsys may count from before the start
    return False


def _wanted(options: ProfileOptions) -> int:
    """How many reports ``repeat:N`` asks for."""
    end = _asked(options, "--capture-range-end", options.capture_range_end)
    found = re.fullmatch(r"repeat(?:-shutdown)?:(\d+)", end or "")
    return int(found.group(1)) if found else 1


def _failure(run: _Run, options: ProfileOptions, raws: Sequence[Path], importer: Path | None) -> DsprofError:
    """Why there is no report: the likeliest cause first, with what to do about it."""
    said = " ".join(run.output.lines)
    if run.asked is not None:
        what = "interrupted" if run.asked == "interrupted" else "ended at the time limit"
        return ProfileFailed(f"The recording was {what} before there was a report.", "Give it more time.")
    if "No space left on device" in said or _is_full(run):
        return NoSpace("The disk became full during the recording.", "Make room, or record for a shorter time.")
    if run.died:
        return ProfileFailed(f"nsys itself was killed by {_signal_name(run.code)}.", "See the log, and the memory.")
    if raws and (importer is None or _NO_IMPORTER in said):
        return ProfileFailed(
            "nsys recorded the program, but its importer is missing, so there is only a raw capture.",
            f"Install the whole of Nsight Systems, or import {raws[0].name} where it is, with QdstrmImporter.",
        )
    return _failure_to_record(run, options)


def _failure_to_record(run: _Run, options: ProfileOptions) -> DsprofError:
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
    kind = _asked(options, "--capture-range", options.capture_range)
    chatter = run.output.chatter
    if "Generated:" in chatter and kind not in (None, "none") and not any(map(_RANGE.fullmatch, chatter)):
        name = _asked(options, "--nvtx-capture", options.nvtx_capture)
        return ProfileFailed(
            f"The capture range {name or kind} never began, so nothing was recorded (exit code {run.code}).",
            "Name it as range@domain; see with a whole capture whether the program opens it.",
        )
    reason = run.output.line_with(_REASON) or run.output.line_with(re.compile("")) or "it said nothing"
    return ProfileFailed(f"nsys left no report (exit code {run.code}): {reason}.", "The log has all that it said.")


def _is_full(run: _Run) -> bool:
    return any(shutil.disk_usage(place).free < _FULL for place in (run.partial, run.scratch.parent))
