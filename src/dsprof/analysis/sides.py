"""What a side of a comparison is: reports, sessions, analyzed folders, baselines, folders and patterns of these."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from attrs import evolve

from dsprof.analysis.analyze import Analysis, analyze_as
from dsprof.analysis.matched_tables import as_matched
from dsprof.analysis.named_rules import NamedRules, rules_of
from dsprof.analysis.options import AnalysisOptions
from dsprof.analysis.parquet import parquet, read_file
from dsprof.analysis.ranks import Ranks, rank_in
from dsprof.analysis.slim import FOLDER, is_slim, read_slim
from dsprof.analysis.stored import RECORD, UNREADABLE, Stored, unsealed
from dsprof.arrays import Ints
from dsprof.compare.recordings import (
    EVENTS,
    KEPT,
    NEEDED,
    OPERATIONS,
    SEQUENCE,
    About,
    Recording,
    operation_tables,
    ranges_by_stage,
)
from dsprof.compare.units import Run
from dsprof.errors import ConfigUnreadable, NothingToCompare, ReportMissing, TablesUnreadable
from dsprof.findings import STRICT_EXITS
from dsprof.ground.documents import parse_json
from dsprof.model.record import RECORD as SESSION
from dsprof.model.record import ModelRecord, find_record, read_record
from dsprof.nsys.folders import own_reports, sessions_in
from dsprof.nsys.reader import Progress
from dsprof.show.summary import RuleLine

#: What has no value of its own in the records of earlier versions.
_MADE = (OPERATIONS.name, SEQUENCE.name)
_SUFFIX = ".dsprof"
#: How sessions call the report in them.
_ANY = "run"
#: Reads a table, or some of its columns.
_Read = Callable[[str, Sequence[str] | None], pa.Table]


#: What names a run, or several.
Named = str | os.PathLike[str] | Analysis


def runs_of(
    paths: Iterable[Named],
    options: AnalysisOptions | None = None,
    progress: Progress = lambda said: None,
) -> list[Run]:
    """The runs that some names mean: reports, sessions, folders of tables, baselines, and patterns; analyses, too.

    Reports that are named after ranks, and were recorded at one time, are one run. Reports are analyzed with the
    `options`; what lies in folders of tables is taken as it is. Raises `NothingToCompare` where there is nothing of a
    name, `TablesUnreadable`, and what `analyze` raises.
    """
    recordings: list[_Found] = []
    for path in paths:
        if isinstance(path, Analysis):
            recordings.append((recording_of(path), path))
        else:
            recordings += _recordings(os.fspath(path), options, progress)
    if not recordings:
        raise NothingToCompare("A side of the comparison is empty.", "Name a report, a session or a folder of tables.")
    return _grouped(recordings)


#: A recording, and its report where it is of one: its collectives can be matched with those of other ranks.
_Found = tuple[Recording, Analysis | None]


# -- from names to recordings -----------------------------------------------------------------------------------


def _recordings(named: str, options: AnalysisOptions | None, progress: Progress) -> Iterator[_Found]:
    """What one name means."""
    for path in _paths(named):
        for one in within(path):
            if is_slim(one):
                yield read_slim(one), None
            elif one.is_dir():
                yield recording_in(one), None
            else:
                progress(f"reading {one.name}")
                analysis = _analyzed(one, options, progress)
                yield recording_of(analysis), analysis


def _analyzed(report: Path, options: AnalysisOptions | None, progress: Progress) -> Analysis:
    try:
        return analyze_as(report, options or AnalysisOptions(tables=WANTED), progress)
    except ReportMissing as error:  # its exit code is that of what is not comparable
        raise NothingToCompare(error.message, error.hint) from error


#: The tables that are wanted of a report.
WANTED = (*KEPT, *EVENTS)


def _paths(named: str) -> list[Path]:
    """The files and folders of a name, which may be a pattern, or that of a baseline."""
    if os.path.exists(named):  # noqa: PTH110  Path raises for a name that is too long
        return [Path(named)]
    if os.path.isdir(baseline := os.path.join(FOLDER, named)):  # noqa: PTH112, PTH118  Path raises for long names
        return [Path(baseline)]
    with suppress(ValueError, RecursionError, OSError):
        if glob.has_magic(named) and (found := sorted(glob.glob(named))):  # noqa: PTH207  a pattern may be absolute
            return [Path(one) for one in found if not Path(one).name.startswith(".")]
    raise NothingToCompare(
        f"There is no file, folder or baseline {named[:200]}, and nothing that fits it as a pattern.",
        "See whether its name is spelled right.",
    )


def within(path: Path) -> list[Path]:
    """What a name leads to: itself, or what lies in it, of slim recordings, tables, reports and sessions."""
    if not os.path.isdir(path) or _has_tables(path) or is_slim(path):  # noqa: PTH112
        return [path]
    inside = sorted(one for one in path.iterdir() if not one.name.startswith(".") and os.path.isdir(one))  # noqa: PTH112
    if slim := [one for one in inside if is_slim(one)]:
        return slim
    if reports := own_reports(path):
        return reports
    if sessions := sessions_in(path):
        return [report for session in sorted(sessions) for report in own_reports(session)]
    if tables := [one for one in inside if _has_tables(one)]:
        return tables
    raise NothingToCompare(
        f"The folder {path} holds no report, no session, no tables and no baseline.",
        "Name what `dsprof capture` or `dsprof analyze` wrote.",
    )


def _has_tables(folder: Path) -> bool:
    return all(os.path.isfile(parquet(folder, name)) for name in NEEDED)  # noqa: PTH113


def _grouped(recordings: Sequence[_Found]) -> list[Run]:
    """Recordings as runs: those of several ranks at one time are one."""
    groups: list[list[_Found]] = []
    for one in recordings:
        for group in groups:
            if all(_together(one[0].about, other[0].about) for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    ordered = (sorted(group, key=lambda one: one[0].about.rank or 0) for group in groups)
    return [Run(tuple(_matched(group))) for group in ordered]


def _matched(group: Sequence[_Found]) -> list[Recording]:
    """The recordings of a run; of several reports with what matching their collectives tells of their busy time."""
    found, analyses = [one for one, _ in group], [analysis for _, analysis in group if analysis is not None]
    if len(found) == 1 or len(analyses) < len(found):
        return found
    return [_told(one, busy) for one, busy in zip(found, Ranks.of(analyses).busy, strict=True)]


def _told(one: Recording, busy: Mapping[str, Mapping[str, Ints]]) -> Recording:
    tables = {
        name: as_matched(name, table, busy, lambda: one.tables["stage_trace"]) for name, table in one.tables.items()
    }
    return evolve(one, tables=tables)


def _together(one: About, other: About) -> bool:
    """Are two the recordings of two ranks of one run?"""
    if one.rank is None or other.rank is None or one.rank == other.rank:
        return False
    if one.began_ns is None or other.began_ns is None:
        return False
    first, second = sorted((one, other), key=lambda about: about.began_ns or 0)
    return (second.began_ns or 0) < (first.began_ns or 0) + first.duration_ns


# -- recordings ------------------------------------------------------------------------------------------------


def recording_of(analysis: Analysis) -> Recording:
    """Of an analysis."""
    results, report = analysis.results, analysis.results.report
    model = _model(analysis.path)

    def read(name: str, columns: Sequence[str] | None) -> pa.Table:
        if isinstance(results, Stored):
            return results.arrow(name, columns)
        table = results.arrow(name)
        return table.select(columns) if columns else table

    tables = _Tables(read, tuple(analysis))
    about = About(
        name=_called(analysis.path),
        sha256=report.sha256,
        gpus=tuple(sorted(gpu.name for gpu in report.gpus)),
        driver=report.driver,
        nsys=report.exporter,
        dsprof=analysis.summary().dsprof,
        graph_mode=report.graph_mode,
        selection=str(report.selection),
        rules=_rules(analysis.rules),
        began_ns=report.session_start_ns,
        duration_ns=report.duration_ns,
        rank=rank_in(analysis.path.name),
        config=model.config if model else {},
        dtype=model.dtype if model else "",
        ranges=tables.ranges(),
        findings=tuple(one.code for one in analysis.findings if one.strict_exit),
    )
    return Recording(about, tables.small())


def recording_in(folder: Path) -> Recording:
    """Of a folder of tables, which may be of an earlier version; what it does not say is not known.

    Raises `TablesUnreadable`.
    """

    def read(name: str, columns: Sequence[str] | None) -> pa.Table:
        try:
            return read_file(parquet(folder, name), columns)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _unreadable(folder, f"{name}: {getattr(error, 'strerror', None) or error}") from error

    there = tuple(name for name in WANTED if os.path.isfile(parquet(folder, name)))  # noqa: PTH113
    tables = _Tables(read, there)
    try:
        small, ranges = Recording(About(folder.name), tables.small()).check(), tables.ranges()
    except (pa.ArrowException, ValueError, LookupError, TypeError) as error:
        raise _unreadable(folder, str(error)) from error
    document = _document(folder)
    report = document.get("summary", {}).get("report", {})
    session = _session(folder)
    written = {key.decode(): value.decode() for key, value in (tables["stage_trace"].schema.metadata or {}).items()}
    gpus = [str(one.get("name", "")) for one in report.get("gpus", ())] or [written.get("dsprof.gpu", "")]
    model = _model(folder.with_suffix(".sqlite")) or _own_model(folder)
    file = str(report.get("file") or folder.name.removesuffix(_SUFFIX))
    about = About(
        name=_called(folder.with_name(file)) if folder.name.endswith(_SUFFIX) else folder.name,
        sha256=str(report.get("sha256") or written.get("dsprof.report_sha256", "")),
        gpus=tuple(sorted(filter(None, gpus))),
        driver=str(report.get("driver") or session.get("driver") or ""),
        nsys=str(report.get("exporter") or written.get("dsprof.nsys_export", "")),
        dsprof=str(document.get("summary", {}).get("dsprof") or written.get("dsprof.version", "")),
        graph_mode=str(report.get("graph_mode", "")),
        selection=written.get("dsprof.selection", ""),
        rules=_rules(_remembered(document)),
        began_ns=report.get("session_start_ns"),
        duration_ns=int(report.get("duration_ns") or 0),
        rank=rank_in(file) if rank_in(file) is not None else rank_in(folder.name),
        config=model.config if model else {},
        dtype=model.dtype if model else "",
        ranges=ranges,
        findings=tuple(
            str(one["code"])
            for one in document.get("summary", {}).get("findings", ())
            if one.get("code") in STRICT_EXITS
        ),
    )
    return Recording(about, small.tables)


def _called(report: Path) -> str:
    """What a report is called: its name without suffix, or that of its folder where a session calls each one so."""
    stem = report.name.partition(".")[0]
    folder = report.absolute().parent.name
    return folder if stem == _ANY and folder else report.name.removesuffix(".xz").removesuffix(".sqlite")


class _Tables(Mapping[str, pa.Table]):
    """Tables that are read when they are asked for; `read` reads one, `there` are those that there are."""

    def __init__(self, read: _Read, there: Sequence[str]) -> None:
        self._read, self._there = read, set(there)
        self._tables: dict[str, pa.Table] = {}

    def __getitem__(self, name: str) -> pa.Table:
        if name not in self:
            raise KeyError(name)
        if name not in self._tables:
            self._tables |= self._operations if name in _MADE else {name: self._read(name, None)}
        return self._tables[name]

    @cached_property
    def _operations(self) -> dict[str, pa.Table]:
        """The tables that are made of those of events."""
        where = ("stage", "stage_instance", "step", "start_ns", "duration_ns")
        kernels = self._read("kern_trace", ("kernel", "family", *where))
        memory = self._read("mem_trace", ("kind", *where)) if "mem_trace" in self._there else None
        return operation_tables(kernels, memory)

    def small(self) -> dict[str, pa.Table]:
        """What is compared, so that nothing holds the events of many reports."""
        return {name: self[name] for name in self if name not in EVENTS}

    def ranges(self) -> dict[str, float]:
        """By stage, NVTX ranges in a unit; empty where it is not known."""
        if "range_trace" not in self._there:
            return {}
        return ranges_by_stage(self._read("range_trace", ("start_ns",)), self["stage_trace"], self["step_trace"])

    def __contains__(self, name: object) -> bool:
        return name in self._there if name not in _MADE else "kern_trace" in self._there

    def __iter__(self) -> Iterator[str]:
        return iter((*sorted(self._there), *(_MADE if "kern_trace" in self._there else ())))

    def __len__(self) -> int:
        return len(list(iter(self)))


# -- what lies beside -------------------------------------------------------------------------------------------


def _document(folder: Path) -> dict[str, Any]:
    """What ``analysis.json`` says; nothing where there is none. Raises `TablesUnreadable` for a damaged one."""
    path = folder / RECORD
    if not os.path.lexists(path):
        return {}
    try:
        found = unsealed(path.read_text(encoding="ascii"))
        if not isinstance(found, dict) or not isinstance(found["summary"]["report"], dict):
            raise ValueError("it is no record of an analysis")
    except UNREADABLE as error:
        raise _unreadable(folder, f"{RECORD}: {getattr(error, 'strerror', None) or error}") from error
    return found


def _remembered(document: Mapping[str, Any]) -> tuple[RuleLine, ...]:
    """The rules that were named for the tables in a folder, as far as they can be told."""
    with suppress(*UNREADABLE):
        return rules_of(unsealed(document["rules"])).lines(NamedRules(), NamedRules(), "")
    return ()


def _rules(lines: Iterable[RuleLine]) -> str:
    return ", ".join(sorted(f"{one.option} {one.value}" for one in lines if one.option != "--model-config"))


def _session(folder: Path) -> dict[str, Any]:
    """The session's record in a folder of tables, or beside it; nothing where there is none."""
    for path in (folder / SESSION, folder.parent / SESSION):
        with suppress(*UNREADABLE):
            found = parse_json(path.read_bytes())
            return found if isinstance(found, dict) else {}
    return {}


def _model(report: Path) -> ModelRecord | None:
    found = find_record(report)
    return found if found is not None and found.config else None


def _own_model(folder: Path) -> ModelRecord | None:
    """The model that a record in the folder itself names."""
    with suppress(ConfigUnreadable):
        if os.path.isfile(folder / SESSION):  # noqa: PTH113
            return read_record(folder / SESSION)
    return None


def _unreadable(folder: Path, reason: str) -> TablesUnreadable:
    return TablesUnreadable(
        f"The tables in {folder} cannot be read: {reason.rstrip('.')}.", "Make them again with `dsprof analyze`."
    )
