"""A running nsys: watched, ended where it or the program must be, and its words told from the program's."""

from __future__ import annotations

import codecs
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, TextIO, cast

from dsprof.capture.options import ProfileOptions, environment_of
from dsprof.capture.rank import rank_variables
from dsprof.errors import DsprofError, ProfileFailed
from dsprof.nsys.command import (
    NO_AGENT,
    remove_shared_memory,
    remove_stale_shared_memory,
    scratch_folder,
    share_session_lock,
)
from dsprof.nsys.processes import age_s, carriers, environment_of_process, family, is_alive

#: What stands between a launcher of ranks and nsys.
RANK = Path(__file__).with_name("rank.py").absolute()
#: The program's output, and nsys's own words, beside the reports.
LOG = "workload.log"
#: Where an installation keeps its own programs: what runs from there is nsys, all else is the program's.
_NSYS_FOLDERS = re.compile(r"/(target|host)-linux-|/linux-desktop-")
#: Seconds between two looks at a running nsys, and for SIGTERM and SIGKILL to show their effect.
_TICK_S, _LAST_PATIENCE_S = 0.25, 10.0
#: Seconds between two looks at which ranks the program's processes are, or so many times as long as a look takes.
_RANKS_TICK_S, _RANKS_SHARE = 0.5, 50
#: Seconds that nsys's helpers, and what the program left running, have to end once nsys is gone.
_GRACE_S = 2.0
#: Bytes free below which a disk is full, and the seconds that nsys then has once the program is gone: it may hang.
FULL = 1 << 20
_FULL_PATIENCE_S = 10.0
#: What the agent writes into the TMPDIR at the moment before it has the program started (2022.4, 2023.4, 2024.2).
_LAUNCH = "nvidia/nsight_systems/quadd_session_*/injection_files/*"

# What nsys says of itself; all versions from 2022.4 to 2024.2 use the same words.
_BAR = re.compile(r"\[\d+/\d+\] \[[=\s]*\d+%\s*\].*|Processing \[[=\s]*\d+%\s*\].*")
_RAW_MADE = re.compile(r"Generating '[^']*\.qdstrm'")
RANGE = re.compile(r"Capture range (started|ended) in the application\.")
_CHATTER = re.compile(rf"{_BAR.pattern}|{_RAW_MADE.pattern}|{RANGE.pattern}|Generated:$|/.*/run[.\w]*\.nsys-rep$")
_STARTS = ("Generating '", "Generated:", "Capture range ", "Processing [", "    /")
#: One of these is in every line of nsys's own that does not name a file of ours.
_TELLING = ("Generat", "Capture range ", "Processing [", "] [")
#: Characters of the longest line that nsys prints, which is some words and a path, and how many of its lines are kept.
_LONGEST, _KEPT_LINES = 8192, 10_000


#: Why we ended the program: at Ctrl-C, at its time limit, or as the window that was to be recorded is over.
Asked = Literal["interrupted", "time-limit", "ended"]


class Run:
    """One nsys with a TMPDIR, a session and a group of its own; leaving the block ends all that it started."""

    def __init__(
        self,
        arguments: list[str],
        options: ProfileOptions,
        partial: Path,
        live: TextIO | None,
        nsys: Path | None = None,
        ranked: bool = False,
    ) -> None:
        """Start it; `nsys`: which one records, where that is not the first word. `ranked`: one nsys for each rank."""
        self._ranked = ranked
        self._stack = ExitStack()
        self.scratch = self._stack.enter_context(scratch_folder())
        self.hung = False
        self.full: Path | None = None  # the disk that was
        self.left: list[str] = []  # names of what the program left running, and we ended
        self.asked: Asked | None = None
        self.interrupted_twice = False
        self.failure: DsprofError | None = None  # why there is nothing to record, where that is not nsys
        self.problems: list[str] = []  # what went wrong beside the recording
        self.seen = False  # the program was
        self.launched = False  # what nsys left says that it was, or was about to be
        self.partial, self._options = partial, options
        self._targets: dict[int, int] = {}  # the program's processes, and when they were started
        self._begin = self._active = self._before = time.monotonic()
        self._after: float | None = None  # the first look since the program is gone
        self._started: float | None = None  # the program was, as far as it was seen
        self.ranks: dict[int, dict[str, int]] = {}  # what launchers told the program's processes, by their numbers
        self._next_ranks = 0.0
        self._steps: list[tuple[signal.Signals, float]] = []
        self._next_step = 0.0
        try:
            if arguments[1:2] == ["profile"] or nsys is not None:
                remove_stale_shared_memory()
                share_session_lock(self.scratch, nsys or Path(arguments[0]))
            is_nsys = nsys is None or arguments[0] == str(nsys)
            self._process = _start(arguments, environment_of(options, self.scratch), is_nsys)
            log = (partial / LOG).open("ab", buffering=0)
        except BaseException:
            self._stack.close()
            raise
        pipe = cast(BinaryIO, self._process.stdout)
        self.output = Output(pipe, log, live or sys.stderr, (partial.name, self.scratch.name))

    def __enter__(self) -> Run:
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
    def took_s(self) -> float | None:
        """Seconds from the program's start to its end, to half a tick; None for one that was too short to be seen."""
        if self._started is None or self._after is None:
            return None
        return (self._active + self._after) / 2 - self._started

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
            if self._started is None:
                self._started = max(self._begin, now - age_s(min(self._targets.values())))
        elif not self.seen:
            self._before = now
        elif self._after is None:
            self._after = now
        if self._active == now and now >= self._next_ranks and not self._ranked:
            self._look_for_ranks()
        running = self._active == now or not self.seen
        limit = self._options.limit_s
        if limit is not None and self.asked is None and running and now - self._begin > limit:
            self._end("time-limit")
        elif self._steps and running and now > self._next_step:
            self._step()
        unkillable = self.asked is not None and not self._steps and running and now > self._next_step
        silent_s = now - max(self._active, self.output.last)
        self.hung = unkillable or silent_s > self._options.import_limit_s or self._is_stuck_for_room(silent_s)

    def _look_for_ranks(self) -> None:
        """Note which ranks the program's processes are by what their launchers told them when they were started."""
        begin = time.monotonic()
        for pid in self._programs(family(self.scratch)):
            if told := rank_variables(environment_of_process(pid)):
                self.ranks[pid] = told
        self._next_ranks = begin + max(_RANKS_TICK_S, _RANKS_SHARE * (time.monotonic() - begin))

    def _is_stuck_for_room(self, silent_s: float) -> bool:
        """Say once that a disk is full; once the program is gone, an nsys that cannot write waits for ever."""
        places = (self.partial, self.scratch)
        with suppress(OSError):  # nsys writes its report there in the end
            self.partial.mkdir(parents=True, exist_ok=True)
        full = next((place.parent for place in places if _free(place) < FULL), None)
        if full and self.full is None:
            self.output.say(f"dsprof: The disk with {full} is full, so the recording may be lost.\n")
            self.full = full
        return full is not None and self._after is not None and silent_s > _FULL_PATIENCE_S

    def _interrupt(self) -> None:
        """Ctrl-C: end the program, or what is left of it faster; once only the import runs, a second one ends it."""
        if self.asked is None:
            self._end("interrupted")
        elif self._steps and self._targets_alive():
            self._step()
        else:
            self.interrupted_twice = self.hung = True

    def _end(self, why: Asked) -> None:
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
        aim = list(self._targets) if self._targets_alive() else []
        if not aim and not self.seen and not self.output.chatter:
            aim = [self._process.pid]  # the program has not been started yet
        for pid in aim:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def _targets_alive(self) -> bool:
        """Is a process of the program there? A look at the known ones is cheap, so the others are sought only then."""
        if not any(is_alive(pid, start) for pid, start in self._targets.items()) or self._steps:
            self._targets = self._programs(family(self.scratch))
        return bool(self._targets)

    def _programs(self, family: dict[int, int]) -> dict[int, int]:
        return {pid: start for pid, start in family.items() if not _is_nsys(pid, self._process.pid)}

    def _clean(self, grace_s: float) -> None:
        """End every process that carries our TMPDIR, and remove that and what the ended ones left in /dev/shm."""
        if grace_s:
            self._ask_to_end()
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
        self._stack.close()

    def _ask_to_end(self) -> None:
        """Ask what the program left running to end: its TMPDIR goes, and the agent that its ranges go to."""
        for pid in self._programs(dict.fromkeys(carriers(self.scratch), 0)):
            with suppress(OSError):
                self.left.append(Path(f"/proc/{pid}/comm").read_text(errors="replace").strip())
                os.kill(pid, signal.SIGTERM)

    def _keep_raw_files(self) -> None:
        """Take what nsys did not import out of the TMPDIR; it removes a raw file once its report is complete."""
        raws = sorted(self.scratch.glob("*.qdstrm"), key=lambda path: path.stat().st_mtime_ns)
        if not raws:
            return
        made = max(len(raws), sum(1 for line in self.output.chatter if _RAW_MADE.search(line)))
        done = made - len(raws)
        for report in report_files(self.partial)[done:] if not self._ranked else ():  # begun, not complete
            report.unlink()
        for number, raw in enumerate(raws, done + 1):
            with suppress(OSError):  # a full disk
                shutil.move(raw, self.partial / ("run.qdstrm" if made == 1 else f"run.{number}.qdstrm"))


class ProgramRun(Run):
    """The program itself, without nsys: watched, and ended, in the same way."""

    def watch(self) -> None:
        """Wait until the program ends, as `Run` waits for nsys."""
        super().watch()
        self._active = self._after = time.monotonic()
        self._started = self._begin

    def _programs(self, family: dict[int, int]) -> dict[int, int]:
        return family


def _start(arguments: list[str], environment: dict[str, str], is_nsys: bool) -> subprocess.Popen[bytes]:
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
        advice = "Name another with --nsys." if is_nsys else "See how it is spelled, and whether it is installed."
        raise ProfileFailed(f"{arguments[0]} cannot be run ({error.strerror}).", advice) from error


def _free(folder: Path) -> int:
    """Bytes free where a folder lies; where that cannot be told, room enough."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return FULL


def _is_nsys(pid: int, group: int) -> bool:
    """Is it nsys or a helper of it? They are in its process group, run from its folder, or stand before a rank's."""
    try:
        if os.getpgid(pid) == group or _NSYS_FOLDERS.search(str(Path(f"/proc/{pid}/exe").readlink())):
            return True
        return os.fsencode(RANK) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:4]
    except OSError:
        return True  # gone


def report_files(partial: Path) -> list[Path]:
    """The files with a report's name, in the order of their numbers, whatever is in them."""
    return sorted((path for path in partial.iterdir() if path.suffix in (".nsys-rep", ".qdrep")), key=numbers_of)


def numbers_of(path: Path) -> tuple[int, ...]:
    """The numbers in the name of a report: (12,) of ``run.12.nsys-rep``, (3, 12) of ``run.r3.12.nsys-rep``."""
    return tuple(int(number) for number in re.findall(r"(?<=\.)[rp]?(\d+)(?=\.)", path.name))


def last_words(log: Path, number: int = 8, longest: int = 300) -> list[str]:
    """The last lines of a log that hold something and are not nsys's chatter; of each the printable beginning."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LONGEST * number))
        text = file.read().decode("utf-8", "replace")
    lines = (line.strip() for line in re.split(r"[\r\n]", text))
    words = [line[:longest] for line in lines if line and not _CHATTER.match(line)][-number:]
    return ["".join(c if c.isprintable() else " " for c in line) for line in words]


class Output:
    """What nsys and the program print: all of it into the log, and live all but nsys's own chatter."""

    def __init__(self, pipe: BinaryIO, log: BinaryIO, live: TextIO | None, own: Sequence[str]) -> None:
        self.last = time.monotonic()  # of the last output
        self.chatter: deque[str] = deque(maxlen=_KEPT_LINES)  # nsys's words without its progress
        self.lines: deque[str] = deque(maxlen=60)  # the last ones, without nsys's progress
        self._pipe, self._log, self._live, self._telling = pipe, log, live, (*_TELLING, *own)
        self._own = own
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._awaited, self.heard = "", False  # a text of the program's, and whether it came
        self._rest, self._held = "", ""  # of a line that has not ended; lines that may be nsys's
        self._shown = 0  # characters of the former
        self._is_cut = False  # is the former the end of a longer line?
        self._thread = threading.Thread(target=self._pass_on, name="dsprof-output", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the last words; a process that left our TMPDIR may hold the pipe, so not for ever."""
        self._thread.join(timeout=5.0)
        self._live = None

    def line_with(self, pattern: re.Pattern[str]) -> str:
        """The first of the last lines in which `pattern` is found, without its full stop; empty if none is."""
        return next((line for line in self.lines if pattern.search(line)), "")[:300].rstrip(".")

    def listen(self, text: str) -> None:
        """Say by `heard` whether the program prints `text`, from now on or in one of the last lines."""
        self._awaited = text
        self.heard = any(text in line for line in self.lines)

    def say(self, sentence: str) -> None:
        """Show a sentence of our own."""
        self._write(sentence)

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
        """Split into lines, also those that a carriage return begins; show what is begun and cannot be nsys's.

        Only what is new is looked through for ends of lines, so the work is linear in what is printed.
        """
        if self._awaited and self._awaited in self._rest + text:
            self.heard = True
        first, *others = re.split(r"(?<=\n)|(?=\r)", text)
        *whole, rest = [line for line in (self._rest + first, *others) if line] or [""]
        if at_end or rest.endswith("\n"):
            whole, rest = [*whole, rest], ""
        self._take_lines(whole)
        self._rest = rest
        self._show_begun()
        self._cut()

    def _take_lines(self, lines: list[str]) -> None:
        if not lines:
            return
        text = "".join(lines)
        if self._held or any(word in text for word in self._telling):
            for line in lines:
                self._line(line)
                self._shown = 0
        else:  # none of them is nsys's
            self._show(text[self._shown :])
            self._shown = 0
            last = (bare for line in reversed(lines) if (bare := line.strip()))
            self.lines.extend(reversed(list(islice(last, self.lines.maxlen))))
        self._is_cut = False

    def _show_begun(self) -> None:
        begun = self._rest[self._shown :]
        last = begun.rfind("G")
        if last >= 0 and _may_be_chatter(begun[last:]):  # nsys goes on in a line that the program did not end
            begun = begun[:last]
        if begun.strip() and not _may_be_chatter(begun):
            self._show(begun)
            self._shown += len(begun)

    def _cut(self) -> None:
        """Hand over what is so far back in a line that has not ended that it cannot be nsys's."""
        away = len(self._rest) - _LONGEST
        if away < _LONGEST:
            return
        if away > self._shown:
            self._show(self._rest[self._shown : away])
        if not self._is_cut and (bare := self._rest[:_LONGEST].strip()):
            self.lines.append(bare)
        self._rest, self._shown, self._is_cut = self._rest[away:], max(0, self._shown - away), True

    def _line(self, line: str) -> None:
        bare = line.strip()
        raw = _RAW_MADE.search(line)
        if _BAR.fullmatch(bare):
            return
        if raw or RANGE.fullmatch(bare) or any(own in line for own in self._own):
            self.chatter.append(bare[-_LONGEST:])
            self._held = ""
            if raw and raw.start():  # the program's last line had no end
                self._show(line[self._shown : raw.start()].rstrip("\r") + "\n")
            return
        if bare == "Generated:":  # shown only if no file of ours follows
            self._show("")
            self._held = line
            self.chatter.append(bare)
            return
        if self._held and not bare and len(self._held) < _LONGEST:
            self._held += line
            return
        if bare:
            self.lines.append(bare)
        self._show(line[self._shown :])

    def _show(self, text: str) -> None:
        text, self._held = self._held + text, ""
        self._write(text)

    def _write(self, text: str) -> None:
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
