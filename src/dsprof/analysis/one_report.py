"""One report of several: analyzed into its folder, and a row of what came of it, whatever that is."""

from __future__ import annotations

import errno
import os
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import evolve

from dsprof.analysis.analyze import Analysis, analyze_as
from dsprof.analysis.kept_ranks import keep_ranks, kept_ranks
from dsprof.analysis.options import AnalysisOptions
from dsprof.analysis.ranks import RankReport
from dsprof.analysis.stored import Stored
from dsprof.analysis.which import Named
from dsprof.errors import DsprofError
from dsprof.records import frozen

#: What a row says of a report: analyzed now, found as it was analyzed before, or failed.
NEW, BEFORE, FAILED = "new", "before", "failed"
#: What ends with these numbers is for want of room.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@frozen
class Task:
    """A report to analyze: where to, and in how much memory and how many threads; can be sent to a worker."""

    named: Named
    folder: Path
    options: AnalysisOptions
    threads: int | None = None

    def within(self, memory: int | None, threads: int | None) -> Task:
        """The same with what a worker has, where nothing was asked for."""
        options = self.options.of_one(self.folder, self.options.memory or memory)
        return evolve(self, options=options, threads=self.threads or threads)


@frozen
class Row:
    """What came of a report: a row of `reports.parquet`.

    `status`: ``new``, ``before`` or ``failed``; then `error` is the class, `sentence` what it says and `exit_code` what
    a command of this report alone ends with. `folder`: that of its tables, by its name. `strict_exit`: the code that
    ``--strict`` ends with. `seconds` are the worker's.
    """

    report: str
    run: str
    node: str | None
    rank: int | None
    rank_from: str | None
    status: str
    error: str | None = None
    sentence: str | None = None
    exit_code: int | None = None
    seconds: float = 0.0
    sha256: str | None = None
    gpus: str | None = None
    began_ns: int | None = None
    duration_ns: int | None = None
    kernels: int | None = None
    findings: int | None = None
    strict_exit: int | None = None
    folder: str | None = None
    clock_shift_ns: int | None = None
    clock_drift_ppm: float | None = None
    clock_from: str | None = None
    residual_ns: int | None = None
    worker: str | None = None


def one_report(task: Task) -> Row:
    """Analyze a report into its folder; never raises: what went wrong is in the row."""
    begun = time.perf_counter()
    try:
        row = _analyzed(task)
    except DsprofError as error:
        row = failed(task.named, error, error.exit_code)
    except OSError as error:
        more = " The disk is full." if error.errno in _FULL else ""
        row = failed(task.named, error, 13, more)
    except Exception as error:  # a fault of ours in one report is no reason to lose the others
        last = traceback.extract_tb(error.__traceback__)[-1]
        row = failed(task.named, error, 1, f" ({Path(last.filename).name}, line {last.lineno})")
    return evolve(row, seconds=time.perf_counter() - begun, worker=f"{os.uname().nodename}:{os.getpid()}")


def failed(named: Named, error: BaseException, code: int, more: str = "") -> Row:
    """The row of a report that could not be analyzed."""
    sentence = str(error) if isinstance(error, DsprofError) else f"{error}".strip() or "It says nothing."
    return Row(
        named.name, named.run, named.node, named.rank, named.rank_from, FAILED, type(error).__name__,
        f"{sentence}{more}", code,
    )  # fmt: skip


def _analyzed(task: Task) -> Row:
    analysis = analyze_as(task.named.path, task.options, lambda sentence: None, task.threads)
    before = isinstance(analysis.results, Stored)
    analysis.write()
    _keep_ranks(analysis, task)
    report, findings = analysis.results.report, analysis.findings
    named = task.named
    codes = [found.strict_exit for found in findings if found.strict_exit]
    return Row(
        report=named.name, run=named.run, node=named.node, rank=named.rank, rank_from=named.rank_from,
        status=BEFORE if before else NEW, sha256=report.sha256,
        gpus=", ".join(gpu.name for gpu in report.gpus) or None, began_ns=report.session_start_ns,
        duration_ns=report.duration_ns, kernels=analysis.summary().counts.kernels, findings=len(findings),
        strict_exit=min(codes, default=None), folder=task.folder.name,
    )  # fmt: skip


def _keep_ranks(analysis: Analysis, task: Task) -> None:
    """Keep what is needed of it to match its collectives beside its folder, so that it is not read again for that."""
    made_from: dict[str, Any] = {**analysis.made_from, "sha256": analysis.results.report.sha256}
    path = ranks_file(task.folder)
    if kept_ranks(path, made_from) is not None:
        return
    found = RankReport.of(analysis)
    with suppress(FileNotFoundError):
        path.unlink()
    keep_ranks(found, path, made_from)


def ranks_file(folder: Path) -> Path:
    """Where the collectives of a report are kept, whose tables are in a folder."""
    return folder.with_name(f"{folder.name}.ranks.npz")
