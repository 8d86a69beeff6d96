"""Find nsys, ask its version, export a report with it: every call has its own TMPDIR and its own group."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from dsprof.errors import ExportFailed, NsysMissing, NsysTooOld, OutputRefused
from dsprof.ground.leftovers import clear_leftovers, own_folder
from dsprof.nsys.inputs import Input
from dsprof.nsys.nccl import may_hold_payloads, store_nccl
from dsprof.nsys.processes import end_all, guarded, tmpdir_of
from dsprof.nsys.python_samples import holds_marks, store_samples
from dsprof.nsys.schema import VERSION_TABLES
from dsprof.nsys.sound import read_only, stated_size
from dsprof.records import frozen

Process = subprocess.Popen[bytes]
#: The table that says of an export that dsprof made it.
MARK = "DSPROF_EXPORT"

#: Where NVIDIA's packages, Nsight Compute's folder and `make nsys` put an nsys; the newest is taken.
_USUAL_PLACES = (
    "/opt/nvidia/nsight-systems/*/bin/nsys",
    "/opt/nvidia/nsight-systems*/bin/nsys",
    "/opt/nvidia/nsight-systems-cli/*/bin/nsys",
    "/usr/local/cuda*/bin/nsys",
    "/usr/lib/nsight-systems/bin/nsys",
    "/opt/nvidia/nsight-compute/*/host/target-linux-x64/nsys",
    "~/.cache/dsprof/nsys/*/nsys",
)
_INSTALL = "Install NVIDIA Nsight Systems, or name it with --nsys or DSPROF_NSYS (`make nsys` installs Debian's)."
#: How nsys says that a report is newer than it is: from 2023 on, and in 2022.
_NEWER = re.compile(r"newer than your current version|Version number is invalid: \d")
#: How nsys says that its agent or launcher could not be reached, all of it before it starts the program: seen with
#: 2022.4, 2023.4 and 2024.2 on loaded machines, and after a killed nsys. ("Connection to Agent lost" may come later.)
NO_AGENT = re.compile(
    r"Agent launcher failed|The timeout expired|GetLocalEndpoint\(\)|local_endpoint: "
    r"|^(Connection reset by peer|End of file)$|ProcessWaiterImpl::ProcessWaiterImpl"
)
#: Where nsys keeps its locks when nobody sets TMPDIR.
_USUAL_TMPDIR = Path("/tmp")  # noqa: S108 - nsys's choice
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nsys's choice, not ours
#: How the folders begin that nsys has as TMPDIR.
_SCRATCH = "dsprof-"
#: Seconds after which a session-manager file that no process has mapped is a dead one: nsys maps it at once.
_STALE_S = 5.0
#: Seconds for an export of any size that we have seen, with room; a hung importer is ended after it.
EXPORT_LIMIT_S = 3600.0


@frozen
class Outcome:
    """How an nsys ended, and what it said on both streams."""

    code: int
    said: str


def find_nsys(named: str | None = None) -> Path:
    """The nsys to use: `named`, else ``DSPROF_NSYS``, PATH, the usual folders. Raises `NsysMissing`."""
    for source, choice in (("--nsys", named), ("DSPROF_NSYS", os.environ.get("DSPROF_NSYS"))):
        if choice:
            found = shutil.which(os.path.expanduser(choice))  # noqa: PTH111  Path drops the ./ that says: not PATH
            if found is None:
                raise NsysMissing(f"{source} names {choice}, which is no program that can be run.", _INSTALL)
            return Path(found)
    on_path = shutil.which("nsys")
    if on_path:
        return Path(on_path)
    installed = [path for pattern in _USUAL_PLACES for path in _glob(pattern) if os.access(path, os.X_OK)]
    if not installed:
        raise NsysMissing("This needs nsys, and none was found.", _INSTALL)
    if len(installed) == 1:
        return installed[0]
    return max(installed, key=lambda path: _numbers(nsys_version(path)))


def _glob(pattern: str) -> list[Path]:
    whole = Path(os.path.expanduser(pattern))  # noqa: PTH111  Path raises where there is no home
    return sorted(Path(whole.anchor).glob(str(whole.relative_to(whole.anchor))))


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def nsys_version(nsys: Path) -> str:
    """The version as nsys prints it, like ``2025.3.1.90``; empty where it prints none."""
    try:
        said = run_nsys(nsys, ["--version"], limit_s=60).said
    except NsysMissing:
        return ""
    found = re.search(r"version (\d+(?:\.\d+)+)", said)
    return found.group(1) if found else ""


def run_nsys(
    nsys: Path, arguments: Sequence[str], limit_s: float, started: Callable[[Process], object] = lambda process: None
) -> Outcome:
    """Run nsys to its end, or end it after `limit_s` seconds (exit code 124), with nothing left behind.

    `started` is given the process, which another thread may `kill`.
    An own TMPDIR, because what a killed nsys leaves in a shared one stops later runs on the machine; an own
    process group, so that its helpers end with it; those in groups of their own are known by the TMPDIR.
    """
    with scratch_folder() as folder:
        if arguments[:1] == ["profile"]:
            remove_stale_shared_memory()
            share_session_lock(folder, nsys)
        try:
            process = subprocess.Popen(
                [str(nsys), *arguments],
                env={**os.environ, "TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise NsysMissing(f"{nsys} cannot be run ({error.strerror}).", _INSTALL) from error
        started(process)
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            _end(process)
            return Outcome(124, f"no end after {limit_s:.0f} s")
        except BaseException:
            _end(process)
            raise
    return Outcome(process.returncode, said.decode("utf-8", "replace"))


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A TMPDIR for one run of nsys: no process that has it outlives the block, nor a killed dsprof.

    An agent that stays keeps nsys 2022 from starting again. Those that killed ones of us left are cleared first.
    """
    clear_scratch()
    with own_folder(_SCRATCH) as folder, guarded(folder):
        try:
            yield folder
        finally:
            end_all(folder, 5.0)


def clear_scratch() -> None:
    """Remove the `scratch_folder` of every dsprof that was killed, and end what nsys has there."""
    clear_leftovers(_SCRATCH, Path(tempfile.gettempdir()), end_all)


def share_session_lock(folder: Path, nsys: Path) -> None:
    """Let an nsys 2022 with TMPDIR `folder` wait for others of its version, as it would without one of its own.

    It keeps its sessions in /dev/shm, whatever TMPDIR is, but the lock for them in TMPDIR: of two at once, one in
    seven ended without a report or hung. From 2023 on, both are in TMPDIR.
    """
    version = nsys_version(nsys)
    if not version or _numbers(version)[0] > 2022:
        return
    shared, own = (place / "nvidia" / "nsight_systems" for place in (_USUAL_TMPDIR, folder))
    with suppress(OSError):  # then as without
        for place in (shared, own):
            for part in (place.parent, place):
                part.mkdir(exist_ok=True)
                with suppress(PermissionError):  # another user made it, as open as this
                    part.chmod(0o777)
        lock = shared / f"SessionManager-{version}.lock"
        lock.touch(0o666)
        (own / lock.name).symlink_to(lock)


def remove_stale_shared_memory() -> None:
    """Remove session-manager files of ended runs: a killed nsys 2022 leaves one, and no later one starts.

    nsys from 2023 on has this file in TMPDIR, but 2022 in /dev/shm, whatever TMPDIR is.
    """
    for path in _SHARED_MEMORY.glob("NSys-*"):
        with suppress(OSError):
            status = path.stat()
            old = status.st_uid == os.geteuid() and time.time() - status.st_mtime > _STALE_S
            if old and not _is_in_use(path) and path.stat().st_ino == status.st_ino:  # no new one since we looked
                path.unlink()


def _is_in_use(path: Path) -> bool:
    """Has a process mapped this file, other than what an ended run left, whose TMPDIR is gone?"""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(path) in (process / "maps").read_bytes():
                tmpdir = tmpdir_of(int(process.name))
                if not tmpdir or Path(os.fsdecode(tmpdir)).exists():
                    return True
    return False


def remove_shared_memory(ended: set[int]) -> None:
    """Remove what processes of nsys that were ended with SIGKILL left in /dev/shm; the names hold their numbers."""
    for path in _SHARED_MEMORY.iterdir() if ended and _SHARED_MEMORY.is_dir() else ():
        numbers = {int(number) for number in re.findall(r"(?<=[-_])\d+", path.name)}
        if re.match(r"(sem\.)?(NSys|nsys|quadd)", path.name) and numbers & ended:
            with suppress(OSError):
                path.unlink()


def kill(process: Process) -> None:
    """End a process group at once, from another thread than that which runs it."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _end(process: Process) -> None:
    """End a process group: SIGINT first, which nsys takes for a clean end, then SIGKILL."""
    for number, patience in ((signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, number)
            process.communicate(timeout=patience)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def export(report: Input, target: Path, nsys: Path, command: Sequence[str] = ()) -> None:
    """Export `report` to the SQLite file `target`, which is there afterwards whole or not at all; it replaces nothing.

    The report keeps the environments of the machine's processes, tokens included; the export does not, nor secrets
    of its command line, nor those of `command`, what was recorded, where it is known (see `clean`). It bears the
    mark of dsprof with the report's hash (`made_from`).
    Raises `NsysTooOld`, `ExportFailed`, `OutputRefused`, `ReportChanging`.
    """
    if target.exists():
        raise OutputRefused(f"{target} is there already, and is not replaced.", "Name another file.")
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise OutputRefused(
            f"The export of {report.name} cannot be written to {target.parent} ({error.strerror}).",
            "Copy the report to a folder that you may write to.",
        ) from error
    with folder:
        partial = Path(folder.name, "export.sqlite")
        sha256 = report.sha256
        outcome = run_export(report, nsys, ["--type=sqlite"], partial)
        if not is_whole(partial):
            raise export_error(report.path, nsys, outcome)
        finish_export(report, nsys, partial, command, sha256)
        partial.replace(target)


def run_export(
    report: Input,
    nsys: Path,
    options: Sequence[str],
    target: Path,
    started: Callable[[Process], object] = lambda process: None,
) -> Outcome:
    """Have nsys export `report` to `target`; what it said. `started` as for `run_nsys`.

    Raises `NsysTooOld`, `ExportFailed`, `ReportChanging`.
    """
    words = ["export", *options, "--force-overwrite=true", f"--output={target}", str(report.path.resolve())]
    outcome = run_nsys(nsys, words, EXPORT_LIMIT_S, started)
    report.check()
    if outcome.code != 0:
        raise export_error(report.path, nsys, outcome)
    return outcome


def finish_export(
    report: Input,
    nsys: Path,
    exported: Path,
    command: Sequence[str],
    sha256: str,
    tables: Sequence[str] = (),
    named: Iterable[int] = (),
) -> None:
    """Add to a fresh export what NCCL and Python samples say, take secrets out of it, and mark it as ours.

    `tables`: the options that say which tables it holds, where it holds not all; `named`: ids of the strings that the
    others use. Raises `ExportFailed`.
    """
    from dsprof.nsys.clean import clean  # which loads all that knows secrets, and an export is seldom made

    try:
        _store_payloads(report.path, exported, nsys, tables)
        clean(exported, command, named)
        _mark(exported, sha256)
    except sqlite3.OperationalError as error:
        raise ExportFailed(
            f"The export of {report.name} could not be cleaned of secrets ({error}), and is not kept.",
            "Make room on the disk, here and where temporary files go.",
        ) from error


#: How nsys is asked for payloads, and the file for them: 2025.3 knows the first way, 2023.4 the second alone, and
#: refuses what it does not know at once. Its help need not tell.
_WITH_PAYLOAD = ((("--type=sqlite", "--include-blobs=true"), "again.sqlite"), (("--type=json",), "again.json"))


def _store_payloads(report: Path, partial: Path, nsys: Path, tables: Sequence[str]) -> None:
    """Where the export holds marks of Python samples or ranges of NCCL, ask nsys for their payloads, too.

    Of them only what is read goes into the export. An nsys that fails at it leaves an export without them; schemas,
    without which those of NCCL cannot be read, stand only in SQLite.
    """
    sampled, nccl = holds_marks(partial), may_hold_payloads(partial)
    for options, name in _WITH_PAYLOAD:
        if not (sampled or (nccl and name.endswith(".sqlite"))):
            continue
        again = partial.with_name(name)
        some = tables if name.endswith(".sqlite") else ()
        words = ["export", *options, *some, "--force-overwrite=true", f"--output={again}", str(report.resolve())]
        done = run_nsys(nsys, words, EXPORT_LIMIT_S)
        if done.code == 0 and again.is_file():
            sampled = sampled and not store_samples(partial, again)
            if nccl and again.suffix == ".sqlite":
                store_nccl(partial, again)
        again.unlink(missing_ok=True)


def _mark(exported: Path, sha256: str) -> None:
    """Write into an export that dsprof made it, and of which report."""
    with closing(sqlite3.connect(exported)) as database, database:
        database.execute(f"CREATE TABLE {MARK} (name TEXT, value TEXT)")
        rows = [("REPORT_SHA256", sha256)]
        database.executemany(f"INSERT INTO {MARK} VALUES (?, ?)", rows)  # noqa: S608


def made_from(exported: Path) -> str:
    """The SHA-256 of the report that an export of dsprof was made from; empty for another's."""
    try:
        with closing(read_only(exported)) as database:
            found = database.execute(f"SELECT value FROM {MARK} WHERE name = 'REPORT_SHA256'").fetchone()  # noqa: S608
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return ""
    return str(found[0]) if found else ""


def is_whole(exported: Path) -> bool:
    """Is it an SQLite export to its end? nsys leaves the first tables of a damaged report, a full disk a stump."""
    if not exported.is_file() or exported.stat().st_size < stated_size(exported):
        return False
    try:
        with closing(read_only(exported)) as database:
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except (sqlite3.DatabaseError, UnicodeDecodeError):  # the latter from a message that quotes what is damaged
        return False
    return not names.isdisjoint(VERSION_TABLES)


def export_error(report: Path, nsys: Path, outcome: Outcome) -> ExportFailed | NsysTooOld:
    """The error for an export that failed, by what nsys said."""
    lines = [line.strip() for line in re.split(r"[\r\n]+", outcome.said) if line.strip() and "%" not in line]
    version = nsys_version(nsys) or "of unknown version"
    if any(_NEWER.search(line) for line in lines):
        return NsysTooOld(
            f"{report.name} was written by a newer Nsight Systems than the installed nsys {version}.",
            "Update nsys, name a newer one with --nsys, or export the report where it was recorded.",
        )
    reason = next(
        (line for line in lines if "rror" in line or "ailed" in line),
        lines[-1] if lines else "it said nothing",
    )
    return ExportFailed(
        f"nsys {version} could not export {report.name} (exit code {outcome.code}): {reason[:300].rstrip('.')}.",
        "See whether the report is whole and the disk has room, then try again.",
    )
