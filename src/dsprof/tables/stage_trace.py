"""`stage_trace`: every prefill and every decode, on the host and on the GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from dsprof.answers.ends import StageEnds, settled
from dsprof.answers.painting import StageBusy
from dsprof.answers.stages import Stages
from dsprof.answers.waits import WaitedFor
from dsprof.answers.warm_up import EXPLAINED, NOTABLE, ColdTime
from dsprof.arrays import NULL
from dsprof.attribute.ranges import RangeTree
from dsprof.attribute.stages import StageRanges
from dsprof.measures.accounting import Accounts
from dsprof.measures.causes import CAUSES
from dsprof.measures.totals import StageTotals
from dsprof.tables._table import CodedText, Column, Table, integer, name, real, share_pct
from dsprof.trace import pid_of, tid_of
from dsprof.words import DECODE


def build(
    tree: RangeTree,
    staged: StageRanges,
    stages: Stages,
    totals: StageTotals,
    accounts: Accounts,
    cold: ColdTime,
    ends: StageEnds,
    busy: StageBusy,
    waited: WaitedFor,
) -> dict[str, Any]:
    """A row per stage range, by start.

    ::

        host   start |=========== duration ===========| end
        GPU            proj_start |--busy--|  |--busy--|-----|
        wall         |======================================|      wall = busy + idle
        busy                       |compute|  |wait|transfer|      busy = compute + transfer + wait + other
    """
    account = settled(accounts.stages, ends.left)
    projected = np.where(stages.proj_end == NULL, NULL, stages.proj_end - stages.proj_start)
    return {
        "stage": CodedText(stages.code, staged.names),
        "instance": stages.instance,
        "request": stages.request,
        "pid": pid_of(stages.thread),
        "tid": tid_of(stages.thread),
        "range_id": tree.ranges.range_id[stages.range],
        "steady": stages.steady,
        "warm_up_by": CodedText(stages.warm_up.by, tuple(cold.stages)),
        "warm_up_ns": np.where(stages.warm_up.warm, stages.warm_up.more, NULL),
        "start_ns": stages.start,
        "end_ns": stages.end,
        "duration_ns": stages.end - stages.start,
        "batch": np.where(staged.engine_row >= 0, staged.of_engine(staged.engine.requests), stages.batch),
        "steps": np.where(staged.step_count > 0, staged.step_count, np.where(staged.are(DECODE), stages.tokens, NULL)),
        "tokens": stages.all_tokens,
        "proj_start_ns": stages.proj_start,
        "proj_end_ns": stages.proj_end,
        "proj_duration_ns": projected,
        "wall_ns": stages.wall,
        "gpu_busy_ns": stages.busy,
        "gpu_idle_ns": stages.wall - stages.busy,
        "busy_pct": share_pct(stages.busy, stages.wall),
        **{column: values[:-1] for column, values in busy.columns.items()},
        "wait_rank": waited.rank,
        "wait_rank_ns": waited.wait,
        "launches": totals.launches[:-1],
        "graph_launches": totals.graph_launches[:-1],
        "gpu_ops": totals.gpu_ops[:-1],
        "kernels": totals.kernels[:-1],
        "kernel_total_ns": totals.kernel_total_ns[:-1],
        "memcpy_ns": totals.memcpy_ns[:-1],
        "memcpy_bytes": totals.memcpy_bytes[:-1],
        "sync_ns": totals.sync_ns[:-1],
        **{f"idle_{cause}_ns": account[cause] for cause in CAUSES},
        "off_cpu_ns": account.get("off_cpu", np.full(len(staged.rows), NULL)),
    }


#: What the GPU was busy with.
SPLIT = (
    integer("compute_ns", "Of gpu_busy_ns: a kernel ran that is no collective."),
    integer("transfer_ns", "Of the rest: a collective transferred; missing where none has its match.", True),
    integer("wait_ns", "Of the rest: a collective waited for another rank, which is no work; missing as that.", True),
    integer("unmatched_ns", "Of the rest: a collective ran that has no match, so that it may transfer or wait."),
    integer("other_ns", "Of gpu_busy_ns: a copy or a set ran, and no kernel that is no collective."),
)

TABLE = Table(
    "stage_trace",
    "one prefill or one decode",
    (
        name("stage", "The stage: prefill, decode, or one of --stage; of an engine's step its mode."),
        integer("instance", "Which of its stage, from 0 in the order of start."),
        integer("request", "Number of its request in request_trace.", True),
        integer("pid", "Process."),
        integer("tid", "Thread that began it."),
        integer("range_id", "Its row in range_trace."),
        Column(
            "steady",
            f"False for a warm-up: it took more than {NOTABLE} times the usual of its stage in its process (by step "
            f"where there are steps, else as a whole and by token), and {EXPLAINED:.0%} or more of the time beyond the "
            "usual went to what a program does once; and for one that --window cuts, where others are whole.",
            "bool",
        ),
        name("warm_up_by", "Of a warm-up: what it did once that took longest beyond the usual.", nullable=True),
        integer("warm_up_ns", "By how much that took longer than the usual.", True),
        integer("start_ns", "When it began on the host."),
        integer("end_ns", "When it ended on the host."),
        integer("duration_ns", "Time on the host."),
        integer(
            "batch",
            "Sequences that it serves at once; missing where nothing says it. Of an engine's step, its requests.",
            True,
        ),
        integer(
            "steps",
            "Forwards of a token of each sequence: the decode steps in it; of a decode without, its range's payload.",
            True,
        ),
        integer(
            "tokens",
            "Tokens of all its sequences: the decode steps in it, else the range's payload, by batch; those of one "
            "sequence where batch is missing. Of an engine's step, those that are scheduled in it.",
            True,
        ),
        integer("proj_start_ns", "Start of its first GPU operation.", True),
        integer("proj_end_ns", "End of its last GPU operation.", True),
        integer("proj_duration_ns", "Length of its GPU projection.", True),
        integer("wall_ns", "From its begin, on the host as a rule, until host and GPU are both done with it."),
        integer("gpu_busy_ns", "Time covered by at least one of its GPU operations, wait_ns included."),
        integer("gpu_idle_ns", "wall_ns - gpu_busy_ns."),
        real("busy_pct", "gpu_busy_ns in percent of wall_ns."),
        *SPLIT,
        integer("wait_rank", "The number of the rank that it waited for longest, where that is known.", True),
        integer("wait_rank_ns", "How long it waited in collectives that this rank began last.", True),
        integer("launches", "CUDA API calls that put its operations on the GPU."),
        integer("graph_launches", "Those of them that launch a CUDA graph."),
        integer("gpu_ops", "Its GPU operations: kernels, copies, sets, whole graphs."),
        integer("kernels", "Its kernels."),
        integer("kernel_total_ns", "Sum of the kernels' durations."),
        integer("memcpy_ns", "Sum of the copies' durations."),
        integer("memcpy_bytes", "Bytes copied."),
        integer("sync_ns", "Host time in calls that only wait for the GPU."),
        *(integer(f"idle_{cause.name}_ns", f"Of gpu_idle_ns: {cause.meaning}.") for cause in CAUSES.values()),
        integer(
            "off_cpu_ns",
            "Of idle_host_ns: the thread was off the CPU, by the scheduler's switches, or where it has none, in an OS "
            "call that waits; missing where the report has neither.",
            True,
        ),
    ),
    build,
)
