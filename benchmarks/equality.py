"""Are the results equal? What dsprof wrote against what `nsys stats` printed of the same file, and against itself.

Where both differ on purpose (ARCHITECTURE.md, "Where Nsight's reports say something else"), ranges are left out and
counted: those that another thread ended (F), those with calls across their end (G), names nested in themselves (I),
ranges without an end (L). `tests/test_oracle.py` and `tests/test_synth.py` compare these too, range by range, which
takes too long for a million kernels. Kernels outside of all ranges (K) are compared by their totals in `kern_sum`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import nsys_stats
from dsprof.nsys.schema import NVTX, RANGE_TYPES, START_END
from dsprof.words import CUDA_GRAPH

#: Differences of one comparison that are told; the rest is counted.
_TOLD = 3
_WHOSE = ["name", "style", "pid", "tid"]
_PLACE = [*_WHOSE, "start_ns"]
_PROJECTION = {
    "Name": "name", "Style": "style", "PID": "pid", "TID": "tid", "Orig Start (ns)": "start_ns",
    "Orig Duration (ns)": "duration_ns", "Projected Start (ns)": "proj_start_ns",
    "Projected Duration (ns)": "proj_duration_ns", "NumGPUOps": "api_calls",
}  # fmt: skip
_EXACT = {"Total Time (ns)": "total_ns", "Min (ns)": "min_ns", "Max (ns)": "max_ns"}
_ROUNDED = {"Avg (ns)": "avg_ns", "Med (ns)": "med_ns", "StdDev (ns)": "stddev_ns"}


class Compared(NamedTuple):
    """One comparison: how many rows were equal, what was left out of it and why, and where it failed."""

    what: str
    rows: int
    left_out: str
    faults: list[str]


def with_nsys(tables: Path, printed: Path, export: Path) -> list[Compared]:
    """Compare the Parquet files in the folder `tables` with the CSVs ``stats_*.csv`` in the folder `printed`."""
    kernels = pd.read_parquet(tables / "kern_sum.parquet")
    if CUDA_GRAPH in set(kernels["kernel"]):
        why = "the report has CUDA graphs traced as a whole (B2): tests/test_oracle.py compares such reports"
        return [Compared("dsprof and nsys stats", 0, why, [])]
    ranges, odd = _ranges(tables / "range_trace.parquet", export)
    return [
        _kern_sum(kernels, _rows(printed, "cuda_gpu_kern_sum")),
        _range_trace(ranges, odd, printed / "stats_nvtx_gpu_proj_trace.csv"),
        _range_kern_sum(tables, ranges, odd | _twins(ranges), _rows(printed, "nvtx_kern_sum")),
    ]


def _rows(folder: Path, report: str) -> pd.DataFrame:
    """A report of nsys with exact integers and decimals; empty where nsys had nothing to say."""
    path = folder / f"stats_{report}.csv"
    if not path.stat().st_size:
        return pd.DataFrame()
    with path.open(newline="") as file:
        return nsys_stats.parse(file)


# -- kernels ------------------------------------------------------------------------------------------------


def _kern_sum(ours: pd.DataFrame, printed: pd.DataFrame) -> Compared:
    theirs = printed.rename(columns={"Name": "kernel", "Instances": "instances", **_EXACT, **_ROUNDED})
    faults = _statistics(ours, theirs, ["kernel"], ["instances"])
    return Compared("kern_sum and cuda_gpu_kern_sum", len(ours), "", faults)


def _statistics(ours: pd.DataFrame, theirs: pd.DataFrame, keys: list[str], counts: list[str]) -> list[str]:
    """Where rows of statistics differ: integers to the unit, the rest to the digit that nsys printed."""
    exact = [*keys, *counts, *_EXACT.values()]
    if not len(theirs):
        return [f"{len(ours)} rows only in dsprof"] if len(ours) else []
    faults = _unequal(ours[exact], theirs[exact])
    if faults:
        return faults
    both = _plain(ours).merge(_plain(theirs), on=keys, suffixes=("", "_nsys"), validate="one_to_one")
    for column in _ROUNDED.values():
        for row, value, said in zip(both[keys].itertuples(index=False), both[column], both[f"{column}_nsys"],
                                    strict=True):  # fmt: skip
            if not nsys_stats.as_printed(said, value):
                faults.append(f"{tuple(row)}: {column} is {value} in dsprof, {said} in nsys")
    return faults


# -- ranges -------------------------------------------------------------------------------------------------


def _ranges(path: Path, export: Path) -> tuple[pd.DataFrame, npt.NDArray[np.bool_]]:
    """All ranges under the names that nsys prints, and which of them both rules see differently (F, G, L)."""
    names = ["range_id", "domain", *list(_PROJECTION.values()), "straddling_calls"]
    table = pq.read_table(path, columns=names)
    frame = table.to_pandas(integer_object_nulls=False)
    frame["name"] = _full_names(frame)
    for column in ("proj_start_ns", "proj_duration_ns"):  # pandas would make floats of what can be missing
        frame[column] = pc.fill_null(table.column(column), -1).to_numpy()
    with closing(sqlite3.connect(f"file:{export}?mode=ro", uri=True)) as database:
        columns = {row[1] for row in database.execute(f"PRAGMA table_info({NVTX})")}
        handed = f"eventType IN {START_END} AND endGlobalTid != globalTid" if "endGlobalTid" in columns else "0"
        query = f"SELECT rowid FROM {NVTX} WHERE {handed} OR end IS NULL AND eventType IN {RANGE_TYPES}"  # noqa: S608
        odd = [row for (row,) in database.execute(query)]
    return frame, (np.isin(frame["range_id"], odd) | (frame["straddling_calls"] > 0)).to_numpy()


def _full_names(frame: pd.DataFrame) -> npt.NDArray[np.object_]:
    """Names with their domain in front, where that is not the default one."""
    domain, name = frame["domain"].astype(object), frame["name"].astype(object)
    return np.where(domain == "", name, domain + ":" + name)


def _twins(ranges: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Ranges that overlap an earlier one of the same name on the same thread (I)."""
    order = ranges.sort_values([*_WHOSE, "start_ns"])
    end = (order["start_ns"] + order["duration_ns"]).groupby([order[column] for column in _WHOSE]).cummax()
    same = (order[_WHOSE] == order[_WHOSE].shift()).all(axis=1)
    return (same & (order["start_ns"] < end.shift())).reindex(ranges.index).to_numpy()


def _range_trace(ranges: pd.DataFrame, odd: npt.NDArray[np.bool_], path: Path) -> Compared:
    what = "range_trace and nvtx_gpu_proj_trace"
    columns = list(_PROJECTION.values())
    ours = ranges.loc[(ranges["api_calls"] > 0) & ~odd, columns]
    if not path.stat().st_size:
        return Compared(what, 0, "", [f"{len(ours)} rows only in dsprof"] if len(ours) else [])
    integers = {name: "Int64" for name in _PROJECTION if name not in ("Name", "Style")}
    printed = pd.read_csv(path, usecols=list(_PROJECTION), dtype={"Name": str, "Style": str, **integers},
                          keep_default_na=False, na_values={name: ["", "None"] for name in integers})  # fmt: skip
    theirs = _named(printed.rename(columns=_PROJECTION), ranges["name"])
    exceptional = ranges.loc[odd, _PLACE].drop_duplicates()
    theirs = _without(theirs, exceptional, _PLACE)
    return Compared(what, len(ours), _left_out(int(odd.sum()), "ranges"), _unequal(ours, theirs[columns]))


def _named(printed: pd.DataFrame, known: pd.Series) -> pd.DataFrame:
    """The rows of ranges, without the colon that newer versions print before names of the default domain."""
    named = printed[~printed["style"].isin(["", "None"])].copy()
    ours = set(known)
    spelled = {name: name if name in ours else name.removeprefix(":") for name in named["name"].unique()}
    named["name"] = named["name"].map(spelled)
    return named


def _range_kern_sum(tables: Path, ranges: pd.DataFrame, odd: npt.NDArray[np.bool_], printed: pd.DataFrame) -> Compared:
    frame = pd.read_parquet(tables / "range_kern_sum.parquet")
    ours = frame[frame["style"].notna()].copy()
    ours["name"] = _full_names(ours)
    renamed = {"NVTX Range": "name", "Style": "style", "PID": "pid", "TID": "tid", "Kernel Name": "kernel",
               "NVTX Inst": "range_instances", "Kern Inst": "instances", **_EXACT, **_ROUNDED}  # fmt: skip
    theirs = printed.rename(columns=renamed)
    exceptional = ranges.loc[odd, _WHOSE].drop_duplicates()
    ours = _without(ours, exceptional, _WHOSE)
    if len(theirs):
        theirs = _without(_named(theirs, ranges["name"]), exceptional, _WHOSE)
    faults = _statistics(ours, theirs, [*_WHOSE, "kernel"], ["range_instances", "instances"])
    left_out = _left_out(len(exceptional), "range names")
    return Compared("range_kern_sum and nvtx_kern_sum", len(ours), left_out, faults)


def _left_out(count: int, what: str) -> str:
    return f"{count} {what} of the cases F, G, I and L" if count else ""


# -- sets of rows -------------------------------------------------------------------------------------------


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Text as objects and integers as int64, so that rows of both sides can be compared."""
    kept = frame.copy()
    for column in kept:
        if isinstance(kept[column].dtype, pd.CategoricalDtype | pd.StringDtype):
            kept[column] = kept[column].astype(object)
        elif pd.api.types.is_integer_dtype(kept[column]):
            kept[column] = kept[column].fillna(-1).astype(np.int64)
    return kept


def _without(frame: pd.DataFrame, exceptional: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """The rows whose `keys` are not among the exceptional ones."""
    if not len(exceptional):
        return frame
    marked = _plain(frame[keys]).merge(_plain(exceptional), on=keys, how="left", indicator=True)
    return frame[(marked["_merge"] == "left_only").to_numpy()]


def _unequal(ours: pd.DataFrame, theirs: pd.DataFrame) -> list[str]:
    """Rows that one side has more often than the other."""
    sides = [_plain(side).assign(_side=sign) for side, sign in ((ours, 1), (theirs, -1))]
    both = pd.concat(sides, ignore_index=True)
    net = both.groupby(list(ours.columns), sort=False)["_side"].sum()
    wrong = net[net != 0]
    told = [f"only in {'dsprof' if side > 0 else 'nsys'}: {row}" for row, side in wrong.head(_TOLD).items()]
    return [*told, f"and {len(wrong) - _TOLD} more rows"] if len(wrong) > _TOLD else told


# -- dsprof against itself ----------------------------------------------------------------------------------


def tables(one: Path, other: Path) -> list[Compared]:
    """Compare two folders of Parquet files, table by table and column by column: every value must be the same."""
    names = sorted({path.name for folder in (one, other) for path in folder.glob("*.parquet")})
    found = [_table(one / name, other / name) for name in names]
    return found or [Compared(f"tables in {one.name} and {other.name}", 0, "", ["there are no Parquet files"])]


def _table(one: Path, other: Path) -> Compared:
    missing = [path for path in (one, other) if not path.is_file()]
    if missing:
        return Compared(one.stem, 0, "", [f"{path.parent.name} has no {path.name}" for path in missing])
    here, there = pq.ParquetFile(one), pq.ParquetFile(other)
    if not here.schema_arrow.equals(there.schema_arrow):
        return Compared(one.stem, 0, "", ["the columns or their types differ"])
    rows = (here.metadata.num_rows, there.metadata.num_rows)
    if rows[0] != rows[1]:
        return Compared(one.stem, 0, "", [f"{rows[0]} rows and {rows[1]}"])
    faults = [fault for name in here.schema_arrow.names for fault in _column(here, there, name)]
    return Compared(one.stem, rows[0], "", faults)


def _column(here: pq.ParquetFile, there: pq.ParquetFile, name: str) -> Iterator[str]:
    """The first row in which a column differs; a column is read by itself, so that millions of rows fit."""
    one, other = (_flat(file.read(columns=[name]).column(0)) for file in (here, there))
    differ = _differing(*_same_codes(one, other))
    if len(differ):
        row = int(differ[0])
        yield f"{name} in row {row}: {one[row]} and {other[row]}, and {len(differ) - 1} more rows"


def _flat(column: pa.ChunkedArray) -> pa.Array:
    """The column in one piece, whatever pieces it came in."""
    whole = (column.unify_dictionaries() if pa.types.is_dictionary(column.type) else column).combine_chunks()
    return whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole


def _same_codes(one: pa.Array, other: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Dictionary columns as codes of one dictionary; the order of the names is no difference."""
    if not pa.types.is_dictionary(one.type):
        return one, other
    known = pc.unique(pa.concat_arrays([one.dictionary, other.dictionary]))
    codes = [pc.index_in(side.dictionary, known).take(side.indices) for side in (one, other)]
    return codes[0], codes[1]


def _differing(one: pa.Array, other: pa.Array) -> npt.NDArray[np.int64]:
    """Places where two columns differ; a missing value equals a missing one, and NaN a NaN."""
    missing, missing_there = (side.is_null().to_numpy(zero_copy_only=False) for side in (one, other))
    equal = pc.fill_null(pc.equal(one, other), fill_value=False).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(one.type):
        nan, nan_there = (pc.fill_null(pc.is_nan(side), False).to_numpy(zero_copy_only=False) for side in (one, other))
        equal |= nan & nan_there
    return np.flatnonzero(~(equal | (missing & missing_there)))
