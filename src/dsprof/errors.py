"""Every error that dsprof raises on purpose: a sentence that says what happened, and advice.

::

    DsprofError                 1   the root; caught in one place, the command line
    ├── ReportMissing           3   there is no such file
    ├── ReportEmpty             4   the file holds no bytes
    ├── NotAReport              5   the file is no Nsight Systems report
    ├── NvprofDatabase          6   an nvprof database, the format before Nsight Systems
    ├── ReportDamaged           7   a report, but cut or damaged
    ├── NoReportInFolder        8   a folder without a report, or with several
    ├── NothingRecorded         9   a report with neither NVTX ranges nor CUDA events
    ├── NsysMissing            10   a .nsys-rep needs nsys to export it, and none was found
    ├── NsysTooOld             11   the report is newer than the installed nsys
    ├── ExportFailed           12   nsys could not export the report
    ├── OutputRefused          13   the tables or the file could not be written there
    ├── UnknownTable           14   no table of that name
    ├── RulesUnreadable        15   a file of rules or kernel families, or rules beside the tables, missing or wrong
    ├── ConfigUnreadable       16   the file that should say which model ran does not
    ├── MemoryTooSmall         17   the report cannot be analyzed in so little memory
    ├── FastUnavailable        18   compiled loops were asked for, and numba is missing or does not work
    ├── ReportChanging         19   the report was written to while it was read
    ├── OutputExists           30   a recording or a file is there already, and --force was not given
    ├── NoSpace                31   too little room on the disk to record, or it became full
    ├── ProfileFailed          32   nsys ended without a report of the program
    ├── ImportHung             33   nsys hung while it imported the recording, and again when asked once more
    ├── ScrubRefused           34   a report that cannot be cleaned as asked, or a target that is there
    ├── ScrubFailed            35   the cleaned copy could not be written, or did not stand the check
    ├── ImageUnusable          36   an image to read is missing, or is no image
    ├── ModelUnusable          37   the model is missing, does not load, or has no generate()
    ├── AttentionUnavailable   38   the attention that was asked for cannot be had here
    ├── WorkloadFailed         39   the profiled session ended with an error of its own
    ├── NothingCaptured        40   a capture without our ranges, or without kernels of a GPU that worked
    ├── DeviceUnavailable      41   the device that was asked for is not here
    ├── PatternTooSlow         42   a pattern takes too long to be searched for in the names of the report
    ├── CaptureRefused         43   a name, a pattern or an option that a capture cannot have
    ├── SelectionUnusable      44   rows or columns were asked for that a table cannot give
    ├── BaselineFailed         46   a program was recorded, and its run again to compare with failed
    ├── UnknownEngine          47   no engine of that name
    ├── SelectionEmpty         48   the report holds nothing of the window, devices, processes or step asked for
    ├── ServerFailed           50   a server ended before it was ready, was not ready in time, or was not recorded
    ├── RanksMissing           51   a program of several ranks was recorded, and some left no report
    ├── ReportsFailed          52   of several reports some could not be analyzed; the others are there
    ├── WorkersUnavailable     53   the workers that were asked for cannot be had, or were lost
    ├── NothingToCompare       54   a side of a comparison is empty, or is not there
    ├── TablesUnreadable       55   a folder of tables, or a baseline, is damaged, or lacks what a comparison needs
    ├── RunsFailed             56   of several runs some failed; the others are there
    ├── QueryFailed            57   an SQL statement that may not run, fails or takes too much, or DuckDB is missing
    └── ServingRefused         58   an MCP server without its library or a folder, or asked for a file outside of those

Exit code 2 is the command line's own (a wrong option); 20 and above are findings under ``--strict``,
see `dsprof.findings`.
"""

from __future__ import annotations

from pathlib import Path


class DsprofError(Exception):
    """What happened, in a sentence, and what to do next; `exit_code` is what the command line ends with."""

    exit_code = 1
    #: The file that may hold more of the reason, like the log of a program.
    log: Path | None = None

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ReportMissing(DsprofError):
    """There is no file or folder of that name."""

    exit_code = 3


class ReportEmpty(DsprofError):
    """The file holds no bytes."""

    exit_code = 4


class NotAReport(DsprofError):
    """The file's content is neither an SQLite export nor an Nsight Systems report."""

    exit_code = 5


class NvprofDatabase(DsprofError):
    """An SQLite database that nvprof wrote, whose tables mean other things."""

    exit_code = 6


class ReportDamaged(DsprofError):
    """The file is a report, but it is cut or damaged."""

    exit_code = 7


class NoReportInFolder(DsprofError):
    """The folder holds no report, or several and none of them named ``run``."""

    exit_code = 8


class NothingRecorded(DsprofError):
    """The report holds neither NVTX ranges nor CUDA events."""

    exit_code = 9


class NsysMissing(DsprofError):
    """A ``.nsys-rep`` has to be exported, and no nsys was found."""

    exit_code = 10


class NsysTooOld(DsprofError):
    """The report was written by a newer Nsight Systems than the one that was found."""

    exit_code = 11


class ExportFailed(DsprofError):
    """``nsys export`` ended without a usable export."""

    exit_code = 12


class OutputRefused(DsprofError):
    """The tables, or the file that was asked for, could not be written."""

    exit_code = 13


class UnknownTable(DsprofError):
    """There is no table of that name."""

    exit_code = 14


class UnknownEngine(DsprofError):
    """There is no engine of that name."""

    exit_code = 47


class RulesUnreadable(DsprofError):
    """A file of rules or kernel families cannot be read, a rule in it is wrong, or remembered rules are."""

    exit_code = 15


class MemoryTooSmall(DsprofError):
    """The report cannot be analyzed in as little memory as --memory allows."""

    exit_code = 17


class FastUnavailable(DsprofError):
    """Compiled loops were asked for, and numba is missing or does not work."""

    exit_code = 18


class ReportChanging(DsprofError):
    """The report was written to, or replaced, while it was read: what came of it would be of no report."""

    exit_code = 19


class ConfigUnreadable(DsprofError):
    """The file that should say which model ran cannot be read, or says something else."""

    exit_code = 16


class ScrubRefused(DsprofError):
    """The report cannot be cleaned of personal data in this form, or the copy would overwrite a file."""

    exit_code = 34


class ScrubFailed(DsprofError):
    """The cleaned copy could not be written, or did not stand the check; nothing is left of it."""

    exit_code = 35


class ImageUnusable(DsprofError):
    """An image to read is missing, or is no image."""

    exit_code = 36


class ModelUnusable(DsprofError):
    """The model's folder is missing, does not load, or holds a model without ``generate()``."""

    exit_code = 37


class AttentionUnavailable(DsprofError):
    """The attention implementation that was asked for cannot be had here."""

    exit_code = 38


class WorkloadFailed(DsprofError):
    """The profiled session ended with an error of its own."""

    exit_code = 39


class NothingCaptured(DsprofError):
    """The capture holds none of the ranges that the session opened, or no kernel where a GPU worked."""

    exit_code = 40


class DeviceUnavailable(DsprofError):
    """The device that was asked for is not there, or torch cannot use it."""

    exit_code = 41


class PatternTooSlow(DsprofError):
    """A regular expression of the user's takes too long in the names that the report holds."""

    exit_code = 42


class CaptureRefused(DsprofError):
    """A session's name, a pattern, or what is asked of this nsys, that cannot be; nothing was run."""

    exit_code = 43


class SelectionUnusable(DsprofError):
    """Columns that a table does not have, or a condition that is none."""

    exit_code = 44


class SelectionEmpty(DsprofError):
    """The report holds nothing of the window, the devices, the processes or the step that were asked for."""

    exit_code = 48


class NotPredictable(DsprofError):
    """What a change would bring cannot be told from the report: other kernels, or nothing that it is of."""

    exit_code = 45


class OutputExists(DsprofError):
    """There is a recording or a file of that name already, and overwriting it was not asked for."""

    exit_code = 30


class NoSpace(DsprofError):
    """The disk has too little room for a recording, or became full during one."""

    exit_code = 31


class ProfileFailed(DsprofError):
    """``nsys profile`` ended without a usable report, whatever its exit code said."""

    exit_code = 32


class ImportHung(DsprofError):
    """nsys hung while it imported what it had recorded, and the second try did not end either."""

    exit_code = 33


class BaselineFailed(DsprofError):
    """A program was recorded and analyzed, but its run again, to tell what recording costs, says nothing."""

    exit_code = 46


class ServerFailed(DsprofError):
    """A server that was to be recorded ended before it was ready, was not ready in time, or could not be recorded."""

    exit_code = 50


class RanksMissing(DsprofError):
    """Of a program of several ranks, some were recorded and others left no report."""

    exit_code = 51


class ReportsFailed(DsprofError):
    """Of several reports some could not be analyzed; the results of all others are there."""

    exit_code = 52


class WorkersUnavailable(DsprofError):
    """The workers that should analyze several reports cannot be had, or those that had one were lost."""

    exit_code = 53


class NothingToCompare(DsprofError):
    """A side of a comparison is empty, or is not there."""

    exit_code = 54


class TablesUnreadable(DsprofError):
    """A folder of tables, or a baseline, is damaged, or lacks what a comparison needs."""

    exit_code = 55


class RunsFailed(DsprofError):
    """Of several runs some failed, or were left out after that; the recordings of the others are there."""

    exit_code = 56


class QueryFailed(DsprofError):
    """An SQL statement may not run, fails, or takes too much time or memory; or DuckDB, which runs it, is missing."""

    exit_code = 57


class ServingRefused(DsprofError):
    """The MCP server has no library or no folder to read in, or was asked for a file outside of its folders."""

    exit_code = 58
