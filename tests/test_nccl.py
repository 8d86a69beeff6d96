"""What NCCL says of its calls in the payload of its ranges: communicator, size, rank; and what follows from it."""

from __future__ import annotations

import json
import lzma
import random
import sqlite3
import struct
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pandas as pd
import pytest

import dsprof
from dsprof.analysis.analyze import Analysis
from dsprof.analysis.ranks import Ranks
from dsprof.answers.collectives import MatchedCollectives
from dsprof.arrays import NULL
from dsprof.attribute.nccl import NcclRanges
from dsprof.measures.collectives import Collectives
from dsprof.nsys.command import export
from dsprof.nsys.inputs import Input
from dsprof.nsys.parts import ReportInParts
from dsprof.nsys.reader import read
from dsprof.nsys.scrub import scrub
from dsprof.trace import NcclCalls
from fake_nsys import REPORT, install
from trace_builder import TraceBuilder

#: Cut from a recording by nsys 2025.3.1 of rank 0 of two on H100s (NCCL of torch 2.11): the first 160 ranges of NCCL
#: with payload and JSON, and the kernels that they launched.
RECORDED = Path(__file__).parent / "data" / "nsys-2025.3-nccl.sqlite.xz"
SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"
KERNEL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(…)"
MILLISECOND = 1_000_000


# -- recorded -------------------------------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "recorded.sqlite"
    path.write_bytes(lzma.decompress(RECORDED.read_bytes()))
    return path


def changed(path: Path, statement: str) -> Path:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)
    return path


def said(calls: NcclCalls) -> list[tuple[int, ...]]:
    columns = [getattr(calls, one.name).tolist() for one in attrs.fields(NcclCalls)]
    return sorted(zip(*columns, strict=True))


def plainly(path: Path) -> list[tuple[int, ...]]:
    """The same from the JSON that nsys wrote beside the payloads, row by row."""
    found = []
    labels = ("NCCL communicator ID", "Message size [bytes]", "No. of ranks", "Rank", "CUDA device")
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT rowid, globalTid, jsonText FROM NVTX_EVENTS WHERE jsonText IS NOT NULL")
        for row, thread, text in rows:
            entries = json.loads(text)
            found.append((row, thread, *(entries.get(label, NULL) for label in labels)))
    return sorted(found)


def test_payloads_are_what_nsys_itself_reads_from_them(recorded: Path) -> None:
    expected = plainly(recorded)
    assert len(expected) > 130
    assert said(read(changed(recorded, "UPDATE NVTX_EVENTS SET jsonText = NULL")).nccl) == expected


def test_json_says_the_same_where_it_is_all_that_there_is(recorded: Path) -> None:
    expected = plainly(recorded)
    assert said(read(changed(recorded, "UPDATE NVTX_EVENTS SET binaryData = NULL")).nccl) == expected
    assert said(read(changed(recorded, "DROP TABLE NVTX_PAYLOAD_SCHEMA_ENTRIES")).nccl) == expected


def test_every_recorded_kernel_has_communicator_size_and_rank(recorded: Path) -> None:
    table = dsprof.analyze(recorded)["collective_trace"]
    assert table["communicator"].nunique() == 2
    assert (len(table), int(table["bytes"].isna().sum())) == (132, 0)
    assert set(table["operation"]) == {"all-reduce", "all-gather", "broadcast"}
    assert set(table.query("operation == 'all-gather'")["bytes"]) == {32_000}  # each in a group of its own
    assert (set(table["rank"]), set(table["rank_from"])) == ({0}, {"NCCL"})


@pytest.mark.parametrize(("name", "communicators"), [("host", 2), ("overlap", 3), ("data", 1), ("node", 2)])
def test_recorded_ranks_are_put_together_by_their_communicators(tmp_path: Path, name: str, communicators: int) -> None:
    """Each collective has the same communicator, operation and size on both ranks, of one report and of two."""
    files = (
        [f"h100x2-{name}.sqlite.xz"] if name == "node" else [f"h100x2-{name}-rank{rank}.sqlite.xz" for rank in (0, 1)]
    )
    analyses = [dsprof.analyze(SAMPLES / file, folder=tmp_path / file, reuse=False) for file in files]
    several = Ranks.of(analyses)
    table = several["collective_trace"]
    assert table[["communicator", "bytes", "ranks"]].notna().all(axis=None)
    assert table["communicator"].nunique() == table["group"].nunique() == communicators
    found = table.groupby(["group", "collective"], observed=True)
    assert (found.size() == 2).all()
    assert found["rank"].agg(lambda ranks: sorted(ranks)).map(lambda ranks: ranks == [0, 1]).all()
    for column in ("communicator", "operation", "bytes"):
        assert found[column].nunique().eq(1).all(), column
    assert set(table["rank_from"]) == {"NCCL"}
    assert (several.unmatched, several.findings) == ((), ())


def test_an_export_of_dsprof_asks_for_payloads_and_keeps_numbers_alone(
    recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a stand-in for nsys 2025.3, which is not at hand."""
    expected = said(read(changed(recorded, "UPDATE NVTX_EVENTS SET jsonText = NULL")).nccl)
    nsys = install(tmp_path / "fake")
    monkeypatch.setenv("FAKE_EXPORT", str(recorded))
    (tmp_path / "run.nsys-rep").write_bytes(REPORT)
    export(Input(tmp_path / "run.nsys-rep"), tmp_path / "run.sqlite", nsys)
    assert not list(tmp_path.glob("*again*"))
    with closing(sqlite3.connect(tmp_path / "run.sqlite")) as database:
        assert database.execute("SELECT count(binaryData) FROM NVTX_EVENTS").fetchone() == (0,)
    assert [row[1:] for row in said(read(tmp_path / "run.sqlite").nccl)] == [row[1:] for row in expected]
    scrub(tmp_path / "run.sqlite", tmp_path / "scrubbed.sqlite")
    assert said(read(tmp_path / "scrubbed.sqlite").nccl) == said(read(tmp_path / "run.sqlite").nccl)


def test_an_export_without_payloads_says_nothing(recorded: Path) -> None:
    changed(recorded, "UPDATE NVTX_EVENTS SET jsonText = NULL, binaryData = NULL")
    assert said(read(recorded).nccl) == []
    table = dsprof.analyze(recorded)["collective_trace"]
    assert table[["communicator", "bytes"]].isna().all(axis=None)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE NVTX_PAYLOAD_SCHEMA_ENTRIES SET name = 'Something else'",
        "UPDATE NVTX_PAYLOAD_SCHEMA_ENTRIES SET type = 75",
        "UPDATE NVTX_PAYLOAD_SCHEMA_ENTRIES SET flags = 16",
        "UPDATE NVTX_PAYLOAD_SCHEMA_ENTRIES SET idx = idx + 1, offset = 1000",
        "UPDATE NVTX_PAYLOAD_SCHEMA_ENTRIES SET offset = 'x', idx = idx + 1",
        "UPDATE NVTX_PAYLOAD_SCHEMA_ENTRIES SET idx = 0",
        "UPDATE NVTX_PAYLOAD_SCHEMA_ENTRIES SET domainId = 7",
        "UPDATE NVTX_EVENTS SET binaryData = zeroblob(56) WHERE binaryData IS NOT NULL",
        "UPDATE NVTX_EVENTS SET binaryData = substr(binaryData, 1, 30)",
        "UPDATE NVTX_EVENTS SET binaryData = x'ff' WHERE binaryData IS NOT NULL",
        "UPDATE NVTX_EVENTS SET binaryData = 'text' WHERE binaryData IS NOT NULL",
        "UPDATE NVTX_EVENTS SET textId = NULL, text = 'Mine' WHERE eventType = 75",
    ],
)
def test_payloads_of_another_form_say_nothing(recorded: Path, change: str) -> None:
    changed(changed(recorded, "UPDATE NVTX_EVENTS SET jsonText = NULL"), change)
    assert said(read(recorded).nccl) == []


@pytest.mark.parametrize("text", ["", "3", "[1]", "{", '{"Rank": "x"}', '{"No. of ranks": -1}', '{"a": {"Rank": 1}}'])
def test_json_of_another_form_says_nothing(recorded: Path, text: str) -> None:
    changed(recorded, "UPDATE NVTX_EVENTS SET binaryData = NULL")
    changed(recorded, f"UPDATE NVTX_EVENTS SET jsonText = '{text}' WHERE jsonText IS NOT NULL")
    assert {value for row in said(read(recorded).nccl) for value in row[2:]} <= {NULL}


def test_damaged_payloads_give_no_number_that_cannot_be(recorded: Path) -> None:
    draw = random.Random(7)
    changed(recorded, "UPDATE NVTX_EVENTS SET jsonText = NULL")
    with closing(sqlite3.connect(recorded)) as database, database:
        rows = database.execute("SELECT rowid, binaryData FROM NVTX_EVENTS WHERE binaryData IS NOT NULL").fetchall()
        for row, blob in rows:
            raw = bytearray(blob)
            for _ in range(draw.randrange(4)):
                raw[draw.randrange(len(raw))] = draw.randrange(256)
            database.execute("UPDATE NVTX_EVENTS SET binaryData = ? WHERE rowid = ?", (bytes(raw), row))
    calls = read(recorded).nccl
    known = calls.rank != NULL
    assert ((calls.rank < calls.ranks) | (calls.ranks == NULL) | ~known).all()
    assert ((calls.bytes >= 0) | (calls.bytes == NULL)).all()
    assert len(dsprof.analyze(recorded)["collective_trace"]) == 132


# -- made -----------------------------------------------------------------------------------------------

_SCHEMAS = {
    1: (("NCCL communicator ID", 18, 0), ("No. of ranks", 5, 8), ("Rank", 5, 12), ("CUDA device", 5, 16)),
    2: (("NCCL communicator ID", 18, 0), ("Message size [bytes]", 22, 8), ("Reduction operation", 99, 16)),
}
_ENTRIES = "NVTX_PAYLOAD_SCHEMA_ENTRIES"


class Made:
    """A made report whose ranges of NCCL have payloads."""

    def __init__(self) -> None:
        self.report = TraceBuilder()
        self._payloads: list[tuple[bytes, int, int, str]] = []

    def call(self, name: str, start: int, end: int, payload: bytes | None = None, pid: int = 1) -> Made:
        self.report.range(name, start, end, domain="NCCL", pid=pid)
        if payload is not None:
            self._payloads.append((payload, start, pid, name))
        return self

    def init(self, communicator: int, rank: int, ranks: int, at: int, pid: int, device: int = 0) -> Made:
        data = struct.pack("<QQQQQiii4x", 1, 1, 24, 32, communicator, ranks, rank, device)
        return self.call("ncclCommInitRank", at, at + 10, data, pid)

    def reduce(self, communicator: int, size: int, at: int, pid: int = 1, name: str = "ncclAllReduce") -> Made:
        """A call that launches a kernel at `at` + 5."""
        return self.call(name, at, at + 20, struct.pack("<QQQQQQi4x", 1, 2, 24, 32, communicator, size, 0), pid)

    def kernel(self, call: int, at: tuple[int, int], pid: int = 1, device: int = 0) -> Made:
        self.report.kernel(KERNEL, at=at, call=(call, call + 5), pid=pid, device=device)
        return self

    def write(self, path: Path, began: int | None = None) -> Path:
        if began is not None:
            self.report.sql("UPDATE TARGET_INFO_SESSION_START_TIME SET utcEpochNs = ?", began)
        self.report.sql(
            f"CREATE TABLE {_ENTRIES} (domainId INTEGER, schemaId INTEGER, idx INTEGER, flags INTEGER, type INTEGER, "
            "name TEXT, offset INTEGER)"
        )
        for number, entries in _SCHEMAS.items():
            for place, (label, kind, offset) in enumerate(entries):
                row = (1, number, place, None, kind, label, offset or None)
                self.report.sql(f"INSERT INTO {_ENTRIES} VALUES (?, ?, ?, ?, ?, ?, ?)", *row)
        for payload, start, pid, _ in self._payloads:
            where = "start = ? AND (globalTid >> 24) & 0xFFFFFF = ? AND eventType = 59"
            self.report.sql(f"UPDATE NVTX_EVENTS SET binaryData = ? WHERE {where}", payload, start, pid)
        return self.report.write(path)


def trace_of(path: Path) -> pd.DataFrame:
    return dsprof.analyze(path, reuse=False)["collective_trace"].sort_values("api_start_ns")


def test_a_call_outside_of_a_group_launches_its_own_kernel(tmp_path: Path) -> None:
    made = Made().reduce(0xA, 4096, 1000).kernel(1005, (1100, 1200)).reduce(0xFFFF_FFFF_FFFF_FFFE, 8, 2000)
    table = trace_of(made.kernel(2005, (2100, 2200)).kernel(3000, (3100, 3200)).write(tmp_path / "x.sqlite"))
    assert table["communicator"].tolist()[:2] == ["0xa", "0xfffffffffffffffe"]
    assert table["bytes"].tolist()[:2] == [4096, 8]
    assert table[["communicator", "bytes"]].iloc[2].isna().all()  # which no call launched


def test_the_end_of_a_group_launches_what_is_in_it(tmp_path: Path) -> None:
    """The communicator is known where all have one, and the size of a call that is alone."""
    made, at = Made(), 0
    for communicators in ((0xA,), (0xA, 0xA), (0xA, 0xB), ()):
        at += 1000
        made.call("ncclGroupStart", at, at + 5)
        for place, one in enumerate(communicators):
            made.reduce(one, 64, at + 100 + 50 * place)
        made.call("ncclGroupStart", at + 300, at + 305).call("ncclGroupEnd", at + 310, at + 320)  # a nested one
        made.call("ncclGroupEnd", at + 400, at + 420).kernel(at + 405, (at + 500, at + 600))
    table = trace_of(made.write(tmp_path / "x.sqlite"))
    assert table["communicator"].tolist()[:2] == ["0xa", "0xa"]
    assert table["communicator"].isna().tolist() == [False, False, True, True]
    assert table["bytes"].isna().tolist() == [False, True, True, True]


def test_of_several_kernels_of_one_call_no_size_is_known(tmp_path: Path) -> None:
    made = Made().reduce(0xA, 64, 1000).kernel(1005, (1100, 1200)).kernel(1011, (1200, 1300))
    table = trace_of(made.write(tmp_path / "x.sqlite"))
    assert table["communicator"].tolist() == ["0xa", "0xa"]
    assert table["bytes"].isna().all()


def test_kernels_of_a_graph_are_of_the_calls_in_which_their_nodes_were_born(tmp_path: Path) -> None:
    """Captured once, launched twice: each node of the launched graph is a copy of one that was captured."""
    made = Made().reduce(0xA, 64, 1000).reduce(0xB, 4096, 2000)
    for number, at in enumerate((1005, 2005), 1):
        made.report.node(100 + number, at=at, pid=1).node(number, at=2500, original=100 + number, pid=1)
    for at in (3000, 4000):
        kernels = [(KERNEL, at + 100 * number, at + 100 * number + 50) for number in (1, 2)]
        made.report.graph(*kernels, call=(at, at + 10), pid=1)
    path = made.write(tmp_path / "x.sqlite")
    for analysis in (dsprof.analyze(path), Analysis.of(ReportInParts(path, 2), path=path)):
        table = analysis["collective_trace"].sort_values("start_ns")
        assert table["communicator"].tolist() == ["0xa", "0xb"] * 2
        assert table["bytes"].tolist() == [64, 4096] * 2
    assert set(dsprof.analyze(path)["kern_sum"]["instances"]) == {4}


def test_an_end_whose_start_came_before_the_recording_tells_nothing(tmp_path: Path) -> None:
    made = Made().reduce(0xB, 64, 900).call("ncclGroupEnd", 1000, 1020).kernel(1005, (1100, 1200))
    made.call("ncclGroupStart", 2000, 2005).reduce(0xA, 64, 2100).call("ncclGroupEnd", 2200, 2220)
    table = trace_of(made.kernel(2205, (2300, 2400)).write(tmp_path / "x.sqlite"))
    assert table["communicator"].isna().tolist() == [True, False]
    assert table["bytes"].tolist()[1] == 64


#: Four ranks, two by two: rank r is in the communicator of its row, and in that of its column.
ROW, COLUMN, WORLD = (0x10, 0x11), (0x20, 0x21), 0x1


def grid(pairs: int = 25, devices: tuple[int, ...] = (2, 3, 0, 1)) -> Made:
    """Ranks whose collectives of both kinds all end at the same moments, so that ends alone tell no group."""
    made = Made()
    for rank in range(4):
        pid, device = 10 + rank, devices[rank]
        made.init(WORLD, rank, 4, 10, pid, device).init(ROW[rank // 2], rank % 2, 2, 30, pid, device)
        for number in range(2 * pairs):
            at = (number + 1) * MILLISECOND
            one = ROW[rank // 2] if number % 2 == 0 else COLUMN[rank % 2]
            made.reduce(one, 128 + number, at, pid).kernel(at + 5, (at + 1000 * (1 + rank), at + 10_000), pid, device)
    return made


def test_ranks_of_different_communicators_are_never_put_together(tmp_path: Path) -> None:
    table = trace_of(grid().write(tmp_path / "grid.sqlite"))
    assert (table["ranks"] == 2).all()
    members = table.groupby("communicator", observed=True)["rank"].agg(lambda ranks: sorted(set(ranks)))
    assert members.to_dict() == {"0x10": [0, 1], "0x11": [2, 3], "0x20": [0, 2], "0x21": [1, 3]}
    assert table.groupby("communicator", observed=True)["group"].nunique().eq(1).all()
    assert table["group"].nunique() == 4
    same = table.groupby(["group", "collective"], observed=True)
    assert same["bytes"].nunique().eq(1).all()
    assert same.size().eq(2).all()
    assert (table["transfer_ns"] + table["wait_ns"] == table["duration_ns"]).all()
    one = table[table["communicator"] == "0x20"].set_index("rank").loc[0].iloc[0]
    assert one["wait_ns"] == 2000  # for rank 2, and not for rank 3, which was later still


def test_a_rank_is_no_group_with_itself(tmp_path: Path) -> None:
    """Its collectives of a communicator, and others of which nothing is known, that end at the same moments."""
    made = Made()
    for number in range(25):
        at = (number + 1) * MILLISECOND
        made.reduce(WORLD, 64, at).kernel(at + 5, (at + 100, at + 900))
        made.kernel(at + 50, (at + 200, at + 900))
    table = trace_of(made.write(tmp_path / "x.sqlite"))
    assert table["communicator"].isna().sum() == 25
    assert table["ranks"].isna().all()


def test_without_communicators_the_same_ends_are_one_group(tmp_path: Path) -> None:
    path = changed(grid().write(tmp_path / "grid.sqlite"), "UPDATE NVTX_EVENTS SET binaryData = NULL")
    assert set(trace_of(path)["ranks"]) == {4}


def test_a_rank_is_that_of_the_largest_communicator_whatever_its_device(tmp_path: Path) -> None:
    table = dsprof.analyze(grid().write(tmp_path / "grid.sqlite"))["rank_sum"]
    assert table[["pid", "rank", "rank_from", "device_id"]].to_numpy().tolist() == [
        [10 + rank, rank, "NCCL", device] for rank, device in enumerate((2, 3, 0, 1))
    ]
    assert (table["matched"] == table["collectives"]).all()


@pytest.mark.parametrize("parts", [2, 9])
def test_communicators_are_the_same_in_parts(tmp_path: Path, parts: int) -> None:
    path = grid().write(tmp_path / "grid.sqlite")
    whole, parted = Analysis.of(read(path), path=path), Analysis.of(ReportInParts(path, parts), path=path)
    for name in ("collective_trace", "collective_sum", "rank_sum"):
        pd.testing.assert_frame_equal(plain(whole[name]), plain(parted[name]), check_exact=True, obj=name)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    texts = [name for name in frame if isinstance(frame[name].dtype, pd.CategoricalDtype)]
    return frame.astype(dict.fromkeys(texts, object))


def test_few_collectives_of_one_communicator_are_matched_by_order_between_hosts(tmp_path: Path) -> None:
    """Three each, and clocks that disagree by an hour: nothing but the communicator says that they are one."""
    analyses = []
    for rank in range(2):
        made = Made().init(WORLD, rank, 2, 10, 7)
        for number in range(3):
            at = (number + 1) * (rank + 1) * MILLISECOND
            made.reduce(WORLD, 64, at, 7).kernel(at + 5, (at + 100, at + 1100 + rank), 7)
        path = made.write(tmp_path / f"host{rank}.sqlite", began=10**18 + rank * 3600 * 10**9)
        analyses.append(dsprof.analyze(path, reuse=False))
    ranks = Ranks.of(analyses)
    table = ranks["rank_sum"]
    assert table["rank"].tolist() == [0, 1]
    assert (table["matched"] == 3).all()
    assert table["wait_ns"].tolist() == [0, 3]
    assert ranks.unmatched == ()


def test_a_rank_that_lacks_one_is_not_matched_by_order(tmp_path: Path) -> None:
    made = Made()
    for rank in range(2):
        made.init(WORLD, rank, 2, 10, 10 + rank)
        for number in range(5 - rank):
            at = (number + 1) * (1 + rank) * MILLISECOND
            made.reduce(WORLD, 64, at, 10 + rank).kernel(at + 5, (at + 100, at + 200), 10 + rank)
    found = dsprof.analyze(made.write(tmp_path / "x.sqlite")).results
    assert found.fact(MatchedCollectives).residual_ns == ()  # type: ignore[attr-defined]


def test_ranks_with_payloads_and_without_are_put_together_by_their_ends(tmp_path: Path) -> None:
    """As an export of dsprof, and another's."""
    paths = []
    for rank in range(2):
        made = Made().init(WORLD, rank, 2, 10, 10 + rank, rank)
        for number in range(30):
            at = (number + 1) * MILLISECOND
            one = WORLD if number % 3 else 0x77
            made.reduce(one, 64, at, 10 + rank).kernel(at + 5, (at + 100 * (1 + rank), at + 900), 10 + rank, rank)
        paths.append(made.write(tmp_path / f"rank{rank}.sqlite"))
    changed(paths[1], "UPDATE NVTX_EVENTS SET binaryData = NULL")
    table = Ranks.of(dsprof.analyze(path, reuse=False) for path in paths)["rank_sum"]
    assert (table["matched"] == 30).all()
    assert table["rank"].tolist() == [0, 1]
    assert table["rank_from"].tolist() == ["NCCL", "device"]


def test_a_larger_world_that_the_launcher_tells_goes_before_a_part_of_it(tmp_path: Path) -> None:
    """The second pair of four ranks, in a report of its own: NCCL knows them as 0 and 1 of two."""
    made, variables = Made(), []
    for rank in range(2):
        made.init(0x5, rank, 2, 10, 10 + rank, rank)
        for number in range(3):
            at = (number + 1) * MILLISECOND
            made.reduce(0x5, 64, at, 10 + rank).kernel(at + 5, (at + 100, at + 900), 10 + rank, rank)
        told = {"RANK": 2 + rank, "WORLD_SIZE": 4}
        variables.append({"pid": 10 + rank, "report": "", "variables": told})
    path = made.write(tmp_path / "run.sqlite")
    record = {"schema": "dsprof.session/1", "reports": ["run.nsys-rep"], "ranks": variables}
    assert dsprof.analyze(path)["rank_sum"]["rank"].tolist() == [0, 1]
    (tmp_path / "session.json").write_text(json.dumps(record))
    table = dsprof.analyze(path)["rank_sum"]
    assert (table["rank"].tolist(), set(table["rank_from"])) == ([2, 3], {"environment"})


def test_each_call_launched_its_kernel(tmp_path: Path) -> None:
    analysis: Any = dsprof.analyze(grid(3).write(tmp_path / "grid.sqlite"), reuse=False).results
    launching, found = analysis.facts[NcclRanges].launching, analysis.fact(Collectives)
    assert len(launching.row) == len(found.names) * len(found.columns["name"]) == 24
    assert np.array_equal(np.sort(found.columns["nccl_call"]), np.arange(24))
