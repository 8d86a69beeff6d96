"""The synthetic reports of benchmarks/synth.py: what is promised is in them, and everybody reads them alike."""

import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import synth

import test_oracle as oracle
from dsprof.analysis.analyze import Analysis, analyze
from nsys_stats import PRIMARY

KERNELS = 20_000
#: Tables whose rows are in no promised order: by groups as they are met in the file.
UNORDERED = {"range_kern_sum"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same report with its rows by start, and in no order."""
    folder = tmp_path_factory.mktemp("synthetic")
    paths = {"by start": folder / "ordered.sqlite", "shuffled": folder / "shuffled.sqlite"}
    for name, path in paths.items():
        synth.make(path, KERNELS, shuffle=name == "shuffled")
    return paths


@pytest.fixture(scope="module")
def analyses(made: dict[str, Path]) -> dict[str, Analysis]:
    return {name: analyze(path) for name, path in made.items()}


@pytest.fixture(scope="module", params=["by start", "shuffled"])
def report(request: pytest.FixtureRequest, made: dict[str, Path]) -> Path:
    return made[request.param]


def one(report: Path, query: str):
    """The only value of the only row."""
    with closing(sqlite3.connect(f"file:{report}?mode=ro", uri=True)) as database:
        ((value,),) = database.execute(query).fetchall()
    return value


# -- what makes them ------------------------------------------------------------------------------------------


def test_a_seed_makes_the_same_bytes(tmp_path, made):
    again, other = tmp_path / "again.sqlite", tmp_path / "other.sqlite"
    synth.make(again, KERNELS)
    synth.make(other, KERNELS, seed=2)
    assert again.read_bytes() == made["by start"].read_bytes()
    assert other.read_bytes() != made["by start"].read_bytes()
    synth.make(again, KERNELS, shuffle=True)
    assert again.read_bytes() == made["shuffled"].read_bytes()


def test_it_says_how_many_kernels_it_made(tmp_path, report):
    said = synth.make(tmp_path / "one.sqlite", KERNELS)
    assert said == one(report, "SELECT count(*) FROM CUPTI_ACTIVITY_KIND_KERNEL") >= KERNELS


def test_rows_are_by_start_or_in_no_order(made):
    backwards = """SELECT count(*) FROM {0} later JOIN {0} earlier ON later.rowid = earlier.rowid + 1
                   WHERE later.start < earlier.start"""
    for table in ("CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "CUPTI_ACTIVITY_KIND_MEMCPY"):
        assert one(made["by start"], backwards.format(table)) == 0
        rows = one(made["shuffled"], f"SELECT count(*) FROM {table}")
        assert one(made["shuffled"], backwards.format(table)) > rows / 3


# -- what is promised -----------------------------------------------------------------------------------------

_PROCESS = "globalTid & ~16777215"
_CALL = f"""FROM CUPTI_ACTIVITY_KIND_KERNEL k LEFT JOIN CUPTI_ACTIVITY_KIND_RUNTIME r
            ON r.correlationId = k.correlationId AND r.{_PROCESS} = k.globalPid"""
_NAME = "(SELECT value FROM StringIds WHERE id = r.nameId)"
_RANGES = "FROM NVTX_EVENTS WHERE eventType IN (59, 60)"


def test_correlation_ids_of_two_processes_collide(report):
    collide = f"""SELECT count(*) FROM (SELECT correlationId FROM CUPTI_ACTIVITY_KIND_RUNTIME
                  GROUP BY 1 HAVING count(DISTINCT {_PROCESS}) = 2)"""
    assert one(report, collide) > KERNELS / 10


def test_a_graph_launch_owns_many_kernels(report):
    owned = f"""SELECT count(*) AS nodes {_CALL} WHERE graphNodeId IS NOT NULL AND {_NAME} LIKE 'cudaGraphLaunch%'
                GROUP BY k.globalPid, k.correlationId"""
    assert one(report, f"SELECT count(*) FROM ({owned})") >= 5
    assert one(report, f"SELECT min(nodes) FROM ({owned})") == synth.LAYERS * synth.STEP_KERNELS
    other = f"SELECT count(*) {_CALL} WHERE graphNodeId IS NOT NULL AND {_NAME} NOT LIKE 'cudaGraphLaunch%'"
    assert one(report, other) == 0


def test_some_kernels_have_no_call(report):
    assert one(report, f"SELECT count(*) {_CALL} WHERE r.start IS NULL") == 3


def test_a_range_is_never_closed(report):
    assert one(report, f"SELECT text {_RANGES} AND end IS NULL") == "never closed"


def test_other_threads_end_some_ranges(report):
    assert one(report, f"SELECT count(*) {_RANGES} AND eventType = 60 AND endGlobalTid != globalTid") >= 1
    assert one(report, f"SELECT count(*) {_RANGES} AND eventType = 60 AND endGlobalTid IS NULL") >= 1


def test_names_are_inline_and_registered(report):
    inline = f"SELECT count(*) {_RANGES} AND text IS NOT NULL AND textId IS NULL AND domainId = 0"
    registered = f"SELECT count(*) {_RANGES} AND text IS NULL AND textId IN (SELECT id FROM StringIds) AND domainId = 1"
    assert one(report, inline) > 100
    assert one(report, registered) > 100
    assert one(report, f"SELECT count(*) {_RANGES}") == one(report, inline) + one(report, registered)
    domains = "SELECT count(*) FROM NVTX_EVENTS WHERE eventType = 75 AND domainId = 1 AND text = 'dsprof'"
    assert one(report, domains) == 2  # in each process


def test_there_are_payloads_and_marks(report):
    assert one(report, f"SELECT count(DISTINCT int64Value) {_RANGES} AND domainId = 1") >= synth.STEPS
    assert one(report, "SELECT count(*) FROM NVTX_EVENTS WHERE eventType = 34") >= 2


def test_there_are_several_streams_devices_and_threads(report):
    counted = """SELECT count(DISTINCT streamId) || ' ' || count(DISTINCT deviceId) || ' ' || count(DISTINCT globalPid)
                 FROM CUPTI_ACTIVITY_KIND_KERNEL"""
    assert one(report, counted) == "3 2 2"
    assert one(report, "SELECT count(DISTINCT globalTid) FROM CUPTI_ACTIVITY_KIND_RUNTIME") == 3
    assert one(report, f"SELECT count(DISTINCT globalTid) {_RANGES}") == 3


def test_a_stream_runs_one_thing_at_a_time_and_after_its_call(report):
    overlaps = """SELECT count(*) FROM (SELECT start < lag(end) OVER (PARTITION BY globalPid, streamId ORDER BY start)
                  AS early FROM CUPTI_ACTIVITY_KIND_KERNEL) WHERE early"""
    assert one(report, overlaps) == 0
    assert one(report, f"SELECT count(*) {_CALL} WHERE k.start < r.end") == 0
    waiting = f"SELECT count(*) {_CALL} WHERE k.start > r.end + 10000"
    assert one(report, waiting) > KERNELS / 25, "some kernels run well after their launches"


def test_durations_are_multiples_of_32(report):
    assert one(report, "SELECT count(*) FROM CUPTI_ACTIVITY_KIND_KERNEL WHERE (end - start) % 32 OR end <= start") == 0


# -- what dsprof says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["by start", "shuffled"])
def test_findings_are_those_that_were_made(analyses, order):
    codes = [found.code for found in analyses[order].findings]
    assert codes == ["truncated-ranges", "orphan-operations", "nodes-traced"]


@pytest.mark.parametrize("order", ["by start", "shuffled"])
def test_the_tables_hold_every_kernel(analyses, made, order):
    count, total = (one(made[order], f"SELECT {what} FROM CUPTI_ACTIVITY_KIND_KERNEL") for what in
                    ("count(*)", "sum(end - start)"))  # fmt: skip
    for table in ("kern_sum", "stage_kern_sum", "stage_family_sum"):
        summed = analyses[order][table]
        assert (summed.instances.sum(), summed.total_ns.sum()) == (count, total), table


def test_requests_are_stages_and_steps(analyses):
    stages = analyses["by start"]["stage_trace"]
    requests = len(stages[stages.stage == "prefill"])
    assert requests >= 4
    assert (stages.stage == "decode").sum() == requests
    assert len(analyses["by start"]["step_trace"]) == requests * synth.STEPS


def numbered_anew(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """All tables, with ranges numbered by thread and time: their range_id is their row in the file."""
    ranges = analysis["range_trace"].sort_values(["pid", "tid", "start_ns", "name"])
    number = pd.Series(range(len(ranges)), index=ranges.range_id, dtype="Int64")
    tables = {}
    for name in analysis:
        frame = analysis[name].copy()
        for column in frame:
            if column in ("range_id", "parent_id"):
                frame[column] = frame[column].map(number).astype("Int64")
            elif isinstance(frame[column].dtype, pd.CategoricalDtype):
                frame[column] = frame[column].astype(object)
        rows = list(frame.columns)
        tables[name] = frame.sort_values(rows, ignore_index=True) if name in UNORDERED else frame
    return tables


def test_shuffling_the_rows_changes_nothing(analyses):
    ordered, shuffled = (numbered_anew(analyses[order]) for order in ("by start", "shuffled"))
    for name, frame in ordered.items():
        pd.testing.assert_frame_equal(frame, shuffled[name], check_exact=True, obj=name)


# -- what nsys says -------------------------------------------------------------------------------------------


class Synthetic(oracle.Bench):
    """The oracle's bench with the synthetic reports on it."""

    def __init__(self, folder: Path, made: dict[str, Path]) -> None:
        super().__init__(folder)
        self._reports = made

    def _export(self, report: str) -> Path:
        return self._reports[report]


@pytest.fixture(scope="module")
def bench(tmp_path_factory, made) -> Synthetic:
    return Synthetic(tmp_path_factory.mktemp("oracle"), made)


COMPARISONS = (
    oracle.test_range_trace_is_nvtx_gpu_proj_trace,
    oracle.test_the_nameless_row_is_everything_outside_of_ranges,
    oracle.test_range_kern_sum_is_nvtx_kern_sum,
    oracle.test_kernels_outside_of_ranges_are_the_nameless_rows,
    oracle.test_kern_sum_is_cuda_gpu_kern_sum,
    oracle.test_mem_sum_is_cuda_gpu_mem_time_sum,
    oracle.test_mem_sum_is_cuda_gpu_mem_size_sum,
    oracle.test_kern_trace_is_cuda_kern_exec_trace,
)


@pytest.mark.nsys
@pytest.mark.parametrize("order", ["by start", "shuffled"])
@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda test: test.__name__.removeprefix("test_"))
def test_nsys_says_the_same(bench, comparison, order):
    comparison(bench, order, PRIMARY)


@pytest.mark.parametrize("order", ["by start", "shuffled"])
def test_which_exceptions_it_needs(bench, order):
    """Only ranges that another thread ended and the one without an end; otherwise every row is the same."""
    cases = bench.plain(order).cases
    assert set().union(*cases.values()) == {oracle.Case.F, oracle.Case.L}
    assert sum(oracle.Case.L in reasons for reasons in cases.values()) == 1
    assert bench.plain(order).nested_twins == set()
