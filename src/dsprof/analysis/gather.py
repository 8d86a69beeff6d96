"""The tables of many reports as one dataset, written whole or not at all.

::

    reports.dsprof/
        reports/<name>-<hash>/           the tables of one report, as `dsprof analyze` writes them
        reports/<name>-<hash>.ranks.npz  its collectives, to be matched with those of the others
        tables/reports.parquet           a row for each report, also for those that failed
        tables/<table>.parquet           the rows of all reports, with report, run, node, rank in front
        tables/kern_trace/report=…/…     a table of events, by report, run, node and rank: links to the reports' files
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

import attrs
import numpy as np
import pyarrow as pa
from attrs import evolve
from cattrs import structure

from dsprof.analysis.kept_ranks import kept_ranks
from dsprof.analysis.matched_tables import as_matched
from dsprof.analysis.one_report import FAILED, Row, ranks_file
from dsprof.analysis.parquet import parquet, read_file, write_parquet, writer
from dsprof.analysis.ranks import TABLES as OF_RANKS
from dsprof.analysis.ranks import RankReport, Ranks
from dsprof.analysis.stored import RECORD
from dsprof.analysis.which import BY_PATTERN
from dsprof.answers.identity import RANK_FROM
from dsprof.arrays import NULL, Ints
from dsprof.errors import OutputRefused
from dsprof.facts import Facts
from dsprof.ground.swap import replacing
from dsprof.ground.versions import our_version
from dsprof.records import frozen
from dsprof.show.by_rank import Held, Turn
from dsprof.tables import all_tables
from dsprof.tables._table import SCHEMA_VERSION, CodedText, EventTable, Table, integer, name, real
from dsprof.trace import pid_of

TABLES, REPORTS, REPORTS_TABLE, RECORD_OF_ALL = "tables", "reports", "reports", "reports.json"
SCHEMA = "dsprof.reports/1"
#: What says of a row which report it is of.
WHO = (
    name("report", "The report: its path from the folder that holds all."),
    name("run", "The run that it is of: by --name-pattern, or its path without the rank."),
    name("node", "The node that it was recorded on, where --name-pattern tells it.", True),
    integer("rank", "Its rank: by --name-pattern, or what tells it best; missing without.", True),
)
#: The columns of `reports.parquet`.
REPORT_COLUMNS = (
    *WHO,
    name("rank_from", "What tells the rank: name pattern, NCCL, environment, device, or file name.", True),
    name("status", "new, before (its results were there), or failed."),
    name("error", "Of a failed one: the class of the error.", True),
    name("sentence", "What it says, with advice.", True),
    integer("exit_code", "What `dsprof analyze` of this report alone ends with; missing where it did not fail.", True),
    real("seconds", "How long the worker had it."),
    name("sha256", "The hash of its content.", True),
    name("gpus", "Its GPUs.", True),
    integer("began_ns", "When its capture began, in ns since 1970, UTC; missing where it does not say.", True),
    integer("duration_ns", "How long it is.", True),
    integer("kernels", "Its kernels.", True),
    integer("findings", "How many things there are to know of its data.", True),
    integer("strict_exit", "What --strict ends with for it.", True),
    integer("clock_shift_ns", "What its times are shifted by in collective_trace; missing without a match.", True),
    real("clock_drift_ppm", "What the ends of collectives say that its clock drifts, in us a second.", True),
    name("clock_from", "What tells that: capture begin, or ends of collectives.", True),
    integer("residual_ns", "How far apart the ends of one collective then lie in 95 % of them.", True),
    name("folder", "The folder of its tables in reports/.", True),
    name("worker", "Who analyzed it: host and process.", True),
)  # fmt: skip
_BY_START, _BY_ENDS = "capture begin", "ends of collectives"
#: Rows that a table over all reports has in memory while it is written.
_AT_ONCE = 1 << 18
_METADATA = {"dsprof.table_schema": str(SCHEMA_VERSION)}


@frozen
class Clock:
    """How the times of a report were put on the clock of its run's first; all None where nothing was matched.

    `residual_ns`: how far apart the ends of one collective lie in 95 % of them.
    """

    clock_shift_ns: int | None = None
    clock_drift_ppm: float | None = None
    clock_from: str | None = None
    residual_ns: int | None = None


def gather(out: Path, rows: Sequence[Row], tables: Sequence[str], progress: Callable[[str], None]) -> None:
    """Write `tables/` of a folder whose reports are analyzed; nothing where it is of these very results already.

    Raises `OutputRefused` where it cannot be written, or holds what dsprof did not write.
    """
    made_from = _made_from(out, rows, tables)
    target = out / TABLES
    recorded = _recorded(target)
    if recorded.get("made_from") == made_from:
        ranked = [_of_rank(row, *recorded.get("ranks", {}).get(row.report, (row.rank, row.rank_from))) for row in rows]
        _write_reports(target, ranked, _recorded_clocks(target))
        return
    try:
        with replacing(target, strangers, last=RECORD_OF_ALL) as fresh:
            gathering = _Gathering(out, rows, fresh, progress)
            gathering.write(tables)
            write_parquet(reports_table(gathering.rows, gathering.clocks), parquet(fresh, REPORTS_TABLE))
            files = [*sorted(path.name for path in fresh.iterdir()), RECORD_OF_ALL]
            clocks = {report: attrs.astuple(clock) for report, clock in gathering.clocks.items()}
            record = {"schema": SCHEMA, "made_from": made_from, "files": files, "clocks": clocks,
                      "held": [attrs.asdict(one) for one in gathering.held],
                      "ranks": {row.report: (row.rank, row.rank_from) for row in gathering.rows}}  # fmt: skip
            (fresh / RECORD_OF_ALL).write_text(json.dumps(record), encoding="ascii")
    except OSError as error:
        raise OutputRefused(
            f"The tables cannot be written to {target} ({error.strerror or error}).", "Name another folder with --out."
        ) from error


def _write_reports(target: Path, rows: Sequence[Row], clocks: Mapping[str, Clock]) -> None:
    """Write a row for each report, where all else is as it was."""
    place = target / f".writing-{os.getpid()}"
    try:
        write_parquet(reports_table(rows, clocks), place)
        place.replace(parquet(target, REPORTS_TABLE))
    except OSError as error:
        with suppress(OSError):
            place.unlink()
        raise OutputRefused(
            f"The tables cannot be written to {target} ({error.strerror or error}).", "Name another folder with --out."
        ) from error


def check_folder(out: Path) -> None:
    """See that a folder is ours, or none. Raises `OutputRefused`."""
    try:
        inside = sorted(entry.name for entry in os.scandir(out)) if out.exists() else []
    except OSError as error:
        raise OutputRefused(
            f"{out} cannot be written ({error.strerror}).", "Name another folder with --out."
        ) from error
    others = [one for one in inside if one not in (TABLES, REPORTS) and not one.startswith((f".{TABLES}.", ".nfs"))]
    if others or strangers(out / TABLES):
        raise OutputRefused(
            f"{out} holds {(others or strangers(out / TABLES))[0]}, which dsprof did not write for several reports.",
            "Name a new or an empty folder with --out.",
        )


def strangers(folder: Path) -> list[str]:
    """The names in a folder of tables that dsprof did not write."""
    known = set(_recorded(folder).get("files", ()))
    with suppress(FileNotFoundError):
        names = (entry.name for entry in os.scandir(folder))
        return sorted(one for one in names if one not in known and not one.startswith((".writing-", ".nfs")))
    return []


def _recorded(folder: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = json.loads((folder / RECORD_OF_ALL).read_text(encoding="ascii"))
        if isinstance(found, dict) and found.get("schema") == SCHEMA:
            return found
    return {}


def _recorded_clocks(folder: Path) -> dict[str, Clock]:
    return {report: Clock(*told) for report, told in _recorded(folder).get("clocks", {}).items()}


def _made_from(out: Path, rows: Sequence[Row], tables: Sequence[str]) -> str:
    """A hash of all that tables over all reports depend on."""
    digest = hashlib.sha256(repr((SCHEMA, our_version(), tuple(tables))).encode())
    for row in rows:
        record: Any = None
        if row.folder:
            status = (out / REPORTS / row.folder / RECORD).stat()
            record = status.st_size, status.st_mtime_ns
        digest.update(repr((row.report, row.run, row.node, row.rank, row.folder, record)).encode())
    return digest.hexdigest()


class _Gathering:
    """Writes the tables of some reports into a folder."""

    def __init__(self, out: Path, rows: Sequence[Row], fresh: Path, progress: Callable[[str], None]) -> None:
        self._fresh, self._progress = fresh, progress
        #: All of them, each with its rank once it is known.
        self.rows = list(rows)
        self._folder = {row.report: out / REPORTS / str(row.folder) for row in self._analyzed}
        #: Of each report, what is known of its clock.
        self.clocks: dict[str, Clock] = {}
        self.held: list[Held] = []
        self._busy: dict[str, dict[str, dict[str, Ints]]] = {}

    @property
    def _analyzed(self) -> list[Row]:
        return [row for row in self.rows if row.status != FAILED]

    def write(self, tables: Sequence[str]) -> None:
        """Write the tables; those of ranks first, as matching tells the ranks."""
        self._progress("matching the collectives of all ranks")
        self._match([table for table in tables if table in OF_RANKS])
        for table in tables:
            self._progress(f"gathering {table}")
            if isinstance(all_tables()[table], EventTable):
                self._link(table)
            elif table not in OF_RANKS:
                self._join(table)

    def _join(self, table: str) -> None:
        """The rows of each report behind each other."""
        with _Joined(parquet(self._fresh, table), all_tables()[table]) as joined:
            for row in self._analyzed:
                joined.add(self._told(table, row), [row])

    def _told(self, table: str, row: Row) -> pa.Table:
        """A table of a report, its busy time as matching over all reports of its run tells it."""
        folder = self._folder[row.report]
        found, busy = read_file(parquet(folder, table)), self._busy.get(row.report)
        if busy is None:
            return found
        trace = parquet(folder, "stage_trace")
        return as_matched(table, found, busy, lambda: read_file(trace) if trace.exists() else None)

    def _match(self, tables: Sequence[str]) -> None:
        """Of each run, the tables of its ranks over all its reports."""
        with ExitStack() as stack:
            files = {one: _Joined(parquet(self._fresh, one), all_tables()[one]) for one in tables}
            for file in files.values():
                stack.enter_context(file)
            told = dict[str, Row]()
            for unranked in runs_of(self._analyzed):
                ranks = Ranks(self._rank_report(place, row) for place, row in enumerate(unranked))
                rows = _ranked(unranked, ranks)
                told |= {row.report: row for row in rows}
                for table, file in files.items():
                    found = ranks.arrow(table)
                    file.add(found.drop_columns("report"), rows, _places(found))
                if len(rows) > 1:
                    self._busy |= {row.report: busy for row, busy in zip(rows, ranks.busy, strict=True)}
                self._tell_clocks(rows, ranks)
                self.held += _held(rows, ranks)
            self.rows = [told.get(row.report, row) for row in self.rows]

    def _rank_report(self, place: int, row: Row) -> RankReport:
        """What matching needs of a report, called by its place in its run, and by its rank where that is known."""
        found = kept_ranks(ranks_file(self._folder[row.report]))
        if found is None:
            raise OutputRefused(
                f"What was kept of the collectives of {row.report} cannot be read.", "Analyze it anew with --again."
            )
        return evolve(found, file=f"{place}.{'' if row.rank is None else f'rank{row.rank}'}")

    def _tell_clocks(self, rows: Sequence[Row], ranks: Ranks) -> None:
        for rank in ranks.matched.ranks:
            residual = ranks.residual_ns[rank.group] if rank.group >= 0 else None
            by_ends = rank.clock.by_ends
            clock = Clock(rank.clock.shift_ns, rank.clock.drift * 1e6, _BY_ENDS if by_ends else _BY_START, residual)
            if rank.group >= 0:
                self.clocks[rows[rank.report].report] = clock

    def _link(self, table: str) -> None:
        """Put the file of each report under its report, and its run, node and rank where every report has them."""
        keys = [key for key in ("run", "node", "rank") if all(getattr(row, key) is not None for row in self._analyzed)]
        (self._fresh / table).mkdir()
        for row in self._analyzed:
            folders = (f"{key}={quote(str(getattr(row, key)), safe=' ')}" for key in (*keys, "report"))
            place = self._fresh.joinpath(table, *folders)
            place.mkdir(parents=True, exist_ok=True)
            source, target = parquet(self._folder[row.report], table), place / f"{table}.parquet"
            try:
                target.hardlink_to(source)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, target)


def _ranked(rows: Sequence[Row], ranks: Ranks) -> list[Row]:
    """The rows with what matching tells of their ranks, where a report is of one, and no pattern has named it."""
    found = list(rows)
    for place, row in enumerate(rows):
        of_report = [rank for rank in ranks.matched.ranks if rank.report == place]
        if row.rank_from != BY_PATTERN and len(of_report) == 1 and of_report[0].number != NULL:
            found[place] = _of_rank(row, of_report[0].number, RANK_FROM[of_report[0].number_from])
    return found


def _of_rank(row: Row, rank: int | None, rank_from: str | None) -> Row:
    return evolve(row, rank=rank, rank_from=rank_from)


def _held(rows: Sequence[Row], ranks: Ranks) -> list[Held]:
    """How the ranks of a run waited for each other, stage by stage."""
    named = [(rows[rank.report].report, pid_of(rank.process)) for rank in ranks.matched.ranks]
    return [
        Held(rows[0].run, stage, tuple(named[one.place] for one in held.ranks), held.straggler,
             held.ranks[held.straggler].reason if held.straggler >= 0 else "",
             tuple(Turn(one.straggler, one.reason, one.of, one.first, one.last) for one in held.in_turn))
        for stage, groups in ranks.waits.items() for held in groups
    ]  # fmt: skip


def recorded_waits(out: Path) -> list[Held]:
    """What a folder of several reports remembers of that."""
    return structure(_recorded(out / TABLES).get("held", []), list[Held])


def runs_of(rows: Sequence[Row]) -> list[list[Row]]:
    """The reports of each run, in their order."""
    runs: dict[str, list[Row]] = {}
    for row in rows:
        runs.setdefault(row.run, []).append(row)
    return list(runs.values())


def _places(found: pa.Table) -> Ints:
    """Which report of its run each row is of, by what `_rank_report` calls it."""
    column = found.column("report").combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    named = np.array([int(text.partition(".")[0]) for text in column.dictionary.to_pylist()], np.int64)
    return named[np.from_dlpack(column.indices)] if len(column) else np.zeros(0, np.int64)


def _told(table: pa.Table, rows: Sequence[Row], place: Ints) -> pa.Table:
    """The table with `WHO` in front: of which of the rows each of its own is; a rank that it tells itself comes after.

    Its metadata are those of all reports.
    """
    own = table.column("rank").to_pylist() if "rank" in table.column_names else [None] * len(place)
    ranks = np.array([NULL if row.rank is None else row.rank for row in rows], np.int64)[place]
    told = np.array([NULL if one is None else one for one in own], np.int64)
    if "rank_from" in table.column_names:
        table = _with_what_told(table, rows, place)
    table = table.drop_columns([one for one in ("rank",) if one in table.column_names])
    values: dict[str, Any] = {
        key: CodedText(*_coded([getattr(row, key) for row in rows], place)) for key in ("report", "run", "node")
    } | {"rank": np.where(ranks == NULL, told, ranks)}  # fmt: skip
    front = Table("", "", WHO, lambda: values).arrow(Facts())
    fields = [*front.schema, *table.schema]
    about = {"dsprof.table": (table.schema.metadata or {}).get(b"dsprof.table", b"").decode(), **_METADATA}
    schema = pa.schema(fields, metadata={**about, "dsprof.version": our_version()})
    return pa.Table.from_arrays([*front.columns, *table.columns], schema=schema)


def _with_what_told(table: pa.Table, rows: Sequence[Row], place: Ints) -> pa.Table:
    """The table, whose `rank_from` says of a row what told the rank of its report, where that is known."""
    own = table.column("rank_from").to_pylist()
    by = [rows[report].rank_from or said for report, said in zip(place.tolist(), own, strict=True)]
    column = name("rank_from", "", True)
    made = Table("", "", (column,), lambda: {column.name: CodedText(*_coded(by, np.arange(len(by))))}).arrow(Facts())
    where = table.column_names.index("rank_from")
    return table.set_column(where, table.schema.field(where), made.column(0))


def _coded(texts: Sequence[str | None], place: Ints) -> tuple[Ints, tuple[str, ...]]:
    known = tuple(dict.fromkeys(text for text in texts if text is not None))
    number = {text: code for code, text in enumerate(known)}
    return np.array([-1 if text is None else number[text] for text in texts], np.int64)[place], known


class _Joined(AbstractContextManager["_Joined"]):
    """A file to which tables of one kind go, many of them in one row group: each of those describes all columns."""

    def __init__(self, path: Path, table: Table) -> None:
        self._path, self._table = path, table
        self._waiting: list[tuple[pa.Table, Sequence[Row], Ints]] = []
        self._count = 0
        self._file: BinaryIO | None = None
        self._writer: Any = None

    def add(self, table: pa.Table, rows: Sequence[Row], place: Ints | None = None) -> None:
        """Take a table; `place`: of which of some reports each of its rows is, of the first unless given."""
        self._waiting.append((table, rows, np.zeros(len(table), np.int64) if place is None else place))
        self._count += len(table)
        if self._count >= _AT_ONCE:
            self._write()

    def _write(self) -> None:
        reports = [row for _, rows, _ in self._waiting for row in rows]
        first = np.cumsum([0, *(len(rows) for _, rows, _ in self._waiting)])
        place = [begin + own for begin, (_, _, own) in zip(first, self._waiting, strict=False)]
        whole = pa.concat_tables(table for table, _, _ in self._waiting)
        told = _told(whole.unify_dictionaries(), reports, np.concatenate(place))
        if self._writer is None:
            self._file = self._path.open("wb")
            self._writer = writer(told.schema, self._file)
        if len(told):
            self._writer.write_table(told)
        self._waiting, self._count = [], 0

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None:
                if not self._waiting and self._writer is None:  # no report: its columns all the same
                    self.add(empty(self._table), [])
                if self._waiting:
                    self._write()
        finally:
            if self._writer is not None:
                self._writer.close()
            if self._file is not None:
                self._file.close()


def empty(table: Table) -> pa.Table:
    """A table without rows."""
    values = {
        column.name: CodedText(np.zeros(0, np.int64), ()) if column.kind == "name" else np.zeros(0, np.int64)
        for column in table.columns
    }
    return Table(table.name, table.row, table.columns, lambda: values).arrow(Facts())


def reports_table(rows: Sequence[Row], clocks: Mapping[str, Clock]) -> pa.Table:
    """A row for each report."""
    place = np.arange(len(rows))
    found = [evolve(row, **attrs.asdict(clocks.get(row.report, Clock()))) for row in rows]
    values: dict[str, Any] = {}
    for column in REPORT_COLUMNS:
        said = [getattr(row, column.name) for row in found]
        if column.kind == "name":
            values[column.name] = CodedText(*_coded(said, place))
        else:
            values[column.name] = np.array([NULL if one is None else one for one in said],
                                           np.int64 if column.kind == "int" else np.float64)  # fmt: skip
    return Table(REPORTS_TABLE, "a report", REPORT_COLUMNS, lambda: values).arrow(
        Facts(), {"dsprof.version": our_version()}
    )
