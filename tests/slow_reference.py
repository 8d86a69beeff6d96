"""The rules of attribution as anyone would write them first: loops over plain objects, nothing clever, no numpy.

Written from the rules' text and not from `dsprof`, of which it imports nothing, so that the two can be held
against each other. Times are plain integers, a missing value is None, and a table is a list of dicts.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

NO_STAGE, NO_RANGE, GRAPH = "(no stage)", "(no range)", "(CUDA graph)"
PUSH_POP, START_END = "PushPop", "StartEnd"
KERNEL, COPY, SET = "kernel", "copy", "set"
COPY_KINDS = {1: "Host-to-Device", 2: "Device-to-Host", 8: "Device-to-Device"}


@dataclass(frozen=True)
class Range:
    row: int
    name: str
    domain: str
    style: str
    thread: int
    ended_by: int | None
    start: int
    end: int
    payload: int | None = None
    truncated: bool = False


@dataclass(frozen=True)
class Call:
    row: int
    name: str
    thread: int
    correlation: int | None
    start: int
    end: int


@dataclass(frozen=True)
class Op:
    """`what`: KERNEL (of the name `name`), COPY (of the kind `kind`) or SET."""

    row: int
    what: str
    process: int
    correlation: int | None
    start: int
    end: int
    device: int
    stream: int
    name: str = ""
    kind: int = -1
    bytes: int = 0

    @property
    def duration(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Recording:
    """A whole report; `ops` holds the kernels first, as a trace does."""

    ranges: list[Range]
    calls: list[Call]
    ops: list[Op]

    @property
    def kernels(self) -> list[Op]:
        return [op for op in self.ops if op.what == KERNEL]

    @property
    def memops(self) -> list[Op]:
        return [op for op in self.ops if op.what != KERNEL]


# -- identities -------------------------------------------------------------------------------------------


def process_of(thread: int) -> int:
    return thread - thread % 2**24


def pid(thread: int) -> int:
    return thread // 2**24 % 2**24


def tid(thread: int) -> int:
    return thread % 2**24


# -- one launch, one range --------------------------------------------------------------------------------


def call_of(op: Op, calls: list[Call]) -> Call | None:
    """Rule 1: the API call with the same process and correlation id, the earliest of several."""
    same = [
        call
        for call in calls
        if op.correlation is not None and call.correlation == op.correlation and process_of(call.thread) == op.process
    ]
    return min(same, key=lambda call: (call.start, call.row), default=None)


def of_process(one: Range) -> bool:
    """A start/end range that another thread ended belongs to its process."""
    return one.style == START_END and one.ended_by is not None and one.ended_by != one.thread


def covers(one: Range, time: int) -> bool:
    return one.start <= time < one.end


def encloses(one: Range, call: Call) -> bool:
    """Rule 2: the call starts in a range of its thread, or in one that belongs to its process."""
    if of_process(one):
        return process_of(one.thread) == process_of(call.thread) and covers(one, call.start)
    return one.thread == call.thread and covers(one, call.start)


def nearest(ranges: Iterable[Range]) -> Range | None:
    """The latest-starting one; of equal starts the shorter; of equal intervals the later row."""
    return max(ranges, key=lambda one: (one.start, -one.end, one.row), default=None)


def innermost(call: Call, ranges: list[Range]) -> Range | None:
    return nearest(one for one in ranges if encloses(one, call))


def nearest_with_via(thread: int, time: int, candidates: list[Range], anywhere: bool) -> tuple[Range | None, str]:
    """Rule 6: by the own thread; `anywhere`: else by what was open on any thread of the process."""
    point = Call(-1, "", thread, None, time, time)
    found = nearest(one for one in candidates if encloses(one, point))
    if found is not None:
        return found, "process" if of_process(found) else "thread"
    if anywhere:
        neighbours = [one for one in candidates if process_of(one.thread) == process_of(thread)]
        found = nearest(one for one in neighbours if covers(one, time))
    return found, "none" if found is None else "process"


def parent_of(one: Range, ranges: list[Range]) -> Range | None:
    """The nearest range of the same thread, domain and style that contains the whole of this one."""
    containers = []
    for other in ranges:
        same_lane = (other.thread, other.domain, other.style) == (one.thread, one.domain, one.style)
        contains = other.start <= one.start and one.end <= other.end
        same_interval = (other.start, other.end) == (one.start, one.end)
        if same_lane and contains and (not same_interval or other.row < one.row):
            containers.append(other)
    return nearest(containers)


def level_of(one: Range, ranges: list[Range]) -> int:
    parent = parent_of(one, ranges)
    return 0 if parent is None else 1 + level_of(parent, ranges)


# -- sums -------------------------------------------------------------------------------------------------


def busy(ops: Iterable[Op]) -> int:
    """How many nanoseconds at least one of the operations covers, by ticking them off."""
    ticked: set[int] = set()
    for op in ops:
        ticked.update(range(op.start, op.end))
    return len(ticked)


def covered_length(intervals: Iterable[tuple[int, int]]) -> int:
    """The same for intervals too long to tick off."""
    total, reached = 0, None
    for start, end in sorted(intervals):
        if reached is None or start > reached:
            reached = start
        if end > reached:
            total += end - reached
            reached = end
    return total


def total(ops: Iterable[Op]) -> int:
    return sum(op.duration for op in ops)


def figures(values: list[int]) -> dict[str, float]:
    """Nsight's statistics of some durations."""
    return {
        "instances": len(values),
        "total_ns": sum(values),
        "avg_ns": statistics.mean(values),
        "med_ns": statistics.median(values),
        "min_ns": min(values),
        "max_ns": max(values),
        "stddev_ns": statistics.stdev(values) if len(values) > 1 else 0.0,
    }


def percentile(values: list[int], percent: int) -> float:
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def whole(values: list[int | None]) -> int | None:
    """Their sum; None for no values, or where one is missing."""
    known = [value for value in values if value is not None]
    return sum(known) if values and len(known) == len(values) else None


#: Calls that a program makes once as a rule, as their names begin, by what they do.
ONCE = {
    "loading kernels": ("cuLibraryLoad", "cuModuleLoad"),
    "allocating": ("cudaMalloc",),
    "making graphs": ("cudaGraphInstantiate",),
    "making handles": ("cudaStreamCreate",),
}


def usual(values: list[Any]) -> Any:
    """The middle one, the lower of two."""
    return sorted(values)[(len(values) - 1) // 2]


def times_the_usual(value: float, values: list[float]) -> float:
    return value / usual(values) if usual(values) > 0 else 0.0


Cold = dict[str, tuple[int, int]]


def is_warm_up(slower: float, cost: int, mine: Cold, all_of_them: list[Cold]) -> bool:
    """Slower than 1.2 times the usual, and a fiftieth of the time beyond it in what others did not do as much."""
    if slower <= 1.2:
        return False
    beyond = 0
    for what, (calls, spent) in mine.items():
        if calls > usual([one[what][0] for one in all_of_them]):
            beyond += max(spent - usual([one[what][1] for one in all_of_them]), 0)
    return beyond > 0 and beyond >= 0.02 * (cost - cost / slower)


def is_outlier(value: int, peers: list[int]) -> bool:
    """By the modified z-score of Iglewicz and Hoaglin, and notably above a median that is above 0."""
    median = statistics.median(peers)
    deviation = statistics.median([abs(peer - median) for peer in peers])
    return median > 0 and 0.6745 * (value - median) > 3.5 * deviation and value > 1.2 * median


def projection(ops: list[Op]) -> dict[str, int | None]:
    first = min((op.start for op in ops), default=None)
    last = max((op.end for op in ops), default=None)
    return {
        "proj_start_ns": first,
        "proj_end_ns": last,
        "proj_duration_ns": None if first is None else last - first,
    }


# -- tables -----------------------------------------------------------------------------------------------


def launched(rec: Recording) -> list[tuple[Op, Call]]:
    """Every operation that has an API call, with it."""
    pairs = [(op, call_of(op, rec.calls)) for op in rec.ops]
    return [(op, call) for op, call in pairs if call is not None]


def by_start(rows: list) -> list:
    return sorted(rows, key=lambda one: (one.start, one.row))


def events_in_order(ops: list[Op]) -> list[Op]:
    """By start; of one moment by process and correlation id, none first, then by row."""
    return sorted(ops, key=lambda op: (op.start, op.process, op.correlation is not None, op.correlation or 0, op.row))


def range_trace(rec: Recording) -> list[dict]:
    rows = []
    pairs = launched(rec)
    for one in by_start(rec.ranges):
        inside = [(op, call) for op, call in pairs if encloses(one, call)]
        ops, calls = [op for op, _ in inside], {call for _, call in inside}
        kernels = [op for op in ops if op.what == KERNEL]
        parent = parent_of(one, rec.ranges)
        rows.append(
            {
                "row": one.row,
                "parent_row": None if parent is None else parent.row,
                "level": level_of(one, rec.ranges),
                "name": one.name,
                "domain": one.domain,
                "style": one.style,
                "pid": pid(one.thread),
                "tid": tid(one.thread),
                "start_ns": one.start,
                "end_ns": one.end,
                "duration_ns": one.end - one.start,
                "payload": one.payload,
                "truncated": one.truncated,
                **projection(ops),
                "api_calls": len(calls),
                "straddling_calls": sum(call.end > one.end for call in calls),
                "gpu_ops": len(ops),
                "kernels": len(kernels),
                "kernel_total_ns": total(kernels),
                "gpu_busy_ns": busy(ops),
            }
        )
    return rows


class Staged:
    """A recording with `stage_names` (range names that are stages), and what each launch belongs to."""

    def __init__(self, rec: Recording, stage_names: tuple[str, ...], threads: str) -> None:
        self.rec, self.stage_names, self.anywhere = rec, stage_names, threads == "process"
        self.stages = by_start([one for one in rec.ranges if one.name in stage_names])
        self.steps = by_start([one for one in rec.ranges if one.name == "decode.step"])
        self.batches = by_start([one for one in rec.ranges if one.name == "prefill.batch"])
        self.requests = by_start([one for one in rec.ranges if one.name == "request"])
        self.call = {op.row: call_of(op, rec.calls) for op in rec.ops}

    def of_call(self, call: Call) -> tuple[Range | None, str]:
        return nearest_with_via(call.thread, call.start, self.stages, self.anywhere)

    def of_op(self, op: Op) -> tuple[Range | None, str]:
        call = self.call[op.row]
        return (None, "none") if call is None else self.of_call(call)

    def stage_of(self, op: Op) -> str:
        stage = self.of_op(op)[0]
        return NO_STAGE if stage is None else stage.name

    def instance(self, stage: Range) -> int:
        return [one for one in self.stages if one.name == stage.name].index(stage)

    def stage_of_step(self, step: Range) -> Range | None:
        return nearest_with_via(step.thread, step.start, self.stages, self.anywhere)[0]

    def step_number(self, step: Range) -> int:
        """The payload, else the ordinal among the steps of the same stage, from 1."""
        if step.payload is not None:
            return step.payload
        stage = self.stage_of_step(step)
        return [one for one in self.steps if self.stage_of_step(one) == stage].index(step) + 1

    def step_of_call(self, call: Call) -> Range | None:
        step = nearest_with_via(call.thread, call.start, self.steps, self.anywhere)[0]
        return step if step is not None and self.stage_of_step(step) == self.of_call(call)[0] else None

    def step_of(self, op: Op) -> int | None:
        call = self.call[op.row]
        step = None if call is None else self.step_of_call(call)
        return None if step is None else self.step_number(step)

    def own_request(self, stage: Range) -> Range | None:
        return nearest_with_via(stage.thread, stage.start, self.requests, True)[0]

    def pairs(self) -> list[list[Range]]:
        """Prefills and decodes that no request holds, each decode with the prefill before it; by start."""
        alone = [one for one in self.stages if self.own_request(one) is None and one.name in ("prefill", "decode")]
        groups = {one: [one] for one in alone}
        for decode in [one for one in alone if one.name == "decode"]:
            before = [one for one in alone if one.name == "prefill" and one.thread == decode.thread]
            before = [one for one in before if one.start <= decode.start]
            last = before[-1] if before else None  # `alone` is in order of start, then of row
            if last is not None and last.end <= decode.start:
                groups[last].append(decode)
                del groups[decode]
        return [groups[one] for one in alone if one in groups]

    def numbered_requests(self) -> list[tuple[int, Range | None, list[Range]]]:
        """Number, range and stages of every request, by start."""
        found: list[tuple[int, Range | None, list[Range]]] = []
        for ordinal, request in enumerate(self.requests):
            number = ordinal if request.payload is None else request.payload
            found.append((number, request, [one for one in self.stages if self.own_request(one) == request]))
        first = max((number for number, _, _ in found), default=-1) + 1
        found += [(first + ordinal, None, stages) for ordinal, stages in enumerate(self.pairs())]
        return sorted(found, key=lambda one: (one[1] or one[2][0]).start)

    def request_of(self, stage: Range) -> int | None:
        numbers = [number for number, _, stages in self.numbered_requests() if stage in stages]
        return numbers[0] if numbers else None

    def request_trace(self) -> list[dict]:
        return [self.request_row(*one) for one in self.numbered_requests()]

    def request_row(self, number: int, request: Range | None, stages: list[Range]) -> dict:
        around = request or stages[0]
        end = request.end if request else max(one.end for one in stages)
        sums = [self.sums(one) for one in stages]
        row = {
            "request": number,
            "found": "range" if request else "paired",
            "pid": pid(around.thread),
            "tid": tid(around.thread),
            "range_row": request.row if request else None,
            "start_ns": around.start,
            "end_ns": end,
            "e2e_ns": end - around.start,
            "steady": all(self.is_steady(one) for one in stages),
            "stages": len(stages),
            **{column: sum(one[column] for one in sums) for column in (
                "gpu_busy_ns", "launches", "gpu_ops", "kernels", "kernel_total_ns", "memcpy_ns", "sync_ns")},
            **self.latencies(around.start, stages),
        }  # fmt: skip
        row["batch"] = agreed(self.said_batch(one) for one in stages)
        for column in ("prompt_tokens", "new_tokens"):
            row[column] = by_batch(row[column], row["batch"])
        new = row["new_tokens"]
        row["tokens_per_s"] = 1e9 * new / row["e2e_ns"] if new and row["e2e_ns"] else None
        row["limit_tokens_per_s"] = 1e9 * new / row["gpu_busy_ns"] if new and row["gpu_busy_ns"] else None
        return row

    def latencies(self, start: int, stages: list[Range]) -> dict:
        """The tokens of a request, and the times to them; None for what its stages do not say."""
        prefills, decodes = ([one for one in stages if one.name == name] for name in ("prefill", "decode"))
        begun = min((one.start for one in decodes), default=None)
        early = [one for one in prefills if begun is None or one.end <= begun]
        row: dict = dict.fromkeys(("prompt_tokens", "new_tokens", "ttft_host_ns", "ttft_gpu_ns", "tpot_host_ns",
                                   "tpot_gpu_ns", "tpot_busy_ns"))  # fmt: skip
        if not early:
            return row
        row["prompt_tokens"] = whole([self.tokens(one) for one in early])
        if all(self.tokens(one) is None for one in stages):
            return row
        first, first_gpu = max(one.end for one in early), self.last_on_gpu(early)
        row["ttft_host_ns"] = first - start
        row["ttft_gpu_ns"] = None if first_gpu is None else first_gpu - start
        steps = whole([self.tokens(one) for one in decodes])
        if len(early) < len(prefills) or steps is None:
            return row
        row["new_tokens"] = steps + 1
        if steps > 0:
            last_gpu, busy_ns = self.last_on_gpu(decodes), sum(self.sums(one)["gpu_busy_ns"] for one in decodes)
            row["tpot_host_ns"] = (max(one.end for one in decodes) - first) / steps
            if first_gpu is not None and last_gpu is not None and last_gpu >= first_gpu:
                row["tpot_gpu_ns"] = (last_gpu - first_gpu) / steps
            row["tpot_busy_ns"] = busy_ns / steps if busy_ns else None
        return row

    def last_on_gpu(self, stages: list[Range]) -> int | None:
        ends = [self.sums(one)["proj_end_ns"] for one in stages]
        return max((end for end in ends if end is not None), default=None)

    def context(self, step: Range) -> int | None:
        """The prompt's tokens and the step's number, where there is one decode and it comes after the prefills."""
        for _, request, stages in self.numbered_requests():
            stage = self.stage_of_step(step)
            if stage is not None and stage.name == "decode" and stage in stages:
                decodes = [one for one in stages if one.name == "decode"]
                prefills = [one for one in stages if one.name == "prefill"]
                if len(decodes) == 1 and prefills and all(one.end <= stage.start for one in prefills):
                    row = self.latencies((request or stages[0]).start, stages)
                    return None if row["prompt_tokens"] is None else row["prompt_tokens"] + self.step_number(step)
        return None

    # -- warm-up --------------------------------------------------------------------------------------------

    def of_kind(self, stage: Range) -> list[Range]:
        """All instances of the stage in its process."""
        process = process_of(stage.thread)
        return [one for one in self.stages if one.name == stage.name and process_of(one.thread) == process]

    def steps_in(self, stage: Range) -> list[Range]:
        return [step for step in self.steps if self.stage_of_step(step) == stage]

    def cold(self, inside: Callable[[Call], bool]) -> Cold:
        """Calls and host time of what a program does once, in the calls that are `inside`."""
        spent = {}
        for what, names in ONCE.items():
            times = [one.end - one.start for one in self.rec.calls if inside(one) and one.name.startswith(names)]
            spent[what] = (len(times), sum(times))
        first: dict[tuple[int, str], Call] = {}
        for op in self.rec.kernels:
            call, key = self.call[op.row], (op.process, op.name)
            if call is not None and (key not in first or call.start < first[key].start):
                first[key] = call
        longer = []
        for call in filter(inside, first.values()):
            same = [one.end - one.start for one in self.rec.calls if one.name == call.name]
            longer.append(max(int(call.end - call.start - statistics.median(same)), 0))
        return {**spent, "first launches": (len(longer), sum(longer))}

    def is_steady(self, stage: Range) -> bool:
        kind = self.of_kind(stage)
        walls = {one["range_row"]: one["wall_ns"] for one in self.stage_trace(requests=False)}
        steps = [len(self.steps_in(one)) for one in kind]
        tokens = [by_batch(self.tokens(one), self.batch(one)) for one in kind]
        mine, costs = kind.index(stage), [walls[one.row] for one in kind]
        if all(steps):
            each = [cost / count for cost, count in zip(costs, steps, strict=True)]
            slower = times_the_usual(each[mine], each)
        else:
            slower = times_the_usual(costs[mine], costs)
            if all(count is not None and count > 0 for count in tokens):
                each = [cost / count for cost, count in zip(costs, tokens, strict=True)]
                slower = min(slower, times_the_usual(each[mine], each))
        cold = [self.cold(lambda call, one=one: self.of_call(call)[0] == one) for one in kind]
        return not is_warm_up(slower, costs[mine], cold[mine], cold)

    def is_steady_step(self, step: Range) -> bool:
        stage = self.stage_of_step(step)
        if stage is None:
            return True
        steps = self.steps_in(stage)
        costs, mine = [one.end - one.start for one in steps], steps.index(step)
        cold = [self.cold(lambda call, one=one: self.step_of_call(call) == one) for one in steps]
        slower = times_the_usual(costs[mine], costs)
        return self.is_steady(stage) and not is_warm_up(slower, costs[mine], cold[mine], cold)

    def is_outlier(self, step: Range) -> bool:
        peers = [one for one in self.steps if self.stage_of_step(one) == self.stage_of_step(step)]
        peers = [one for one in peers if self.is_steady_step(one)]
        return step in peers and is_outlier(step.end - step.start, [one.end - one.start for one in peers])

    def excess(self, step: Range) -> int | float:
        """By how much the call, or the time outside, that grew most over its median does so in an outlier."""
        peers = [one for one in self.steps if self.stage_of_step(one) == self.stage_of_step(step)]
        spent = [self.host_time(one) for one in peers if self.is_steady_step(one)]
        mine = self.host_time(step)
        return max(mine.get(name, 0) - statistics.median(one.get(name, 0) for one in spent) for one in spent
                   for name in one)  # fmt: skip

    def host_time(self, stage: Range) -> dict[str, int]:
        """The stage's time on its thread by the innermost call at each nanosecond; "" for none."""
        spent: dict[str, int] = {"": 0}
        for now in range(stage.start, stage.end):
            around = [one for one in self.rec.calls if one.thread == stage.thread and one.start <= now < one.end]
            inner = max(around, key=lambda one: (one.start, -one.end, one.row), default=None)
            key = inner.name if inner else ""
            spent[key] = spent.get(key, 0) + 1
        return spent

    def tokens(self, stage: Range) -> int | None:
        steps = [step for step in self.steps if self.stage_of_step(step) == stage]
        return len(steps) if steps else stage.payload

    def said_batch(self, stage: Range) -> int | None:
        """The payload of the first `prefill.batch` in the stage, if it can be a number of sequences."""
        within = [one.payload for one in self.batches if self.stage_of_step(one) == stage]
        return within[0] if within and within[0] is not None and 0 < within[0] <= 1 << 16 else None

    def batch(self, stage: Range) -> int | None:
        """What the stage says, else what the stages of its request agree on."""
        said = self.said_batch(stage)
        own = [stages for _, _, stages in self.numbered_requests() if stage in stages]
        return agreed(map(self.said_batch, own[0])) if said is None and own else said

    def sums(self, stage: Range | None) -> dict[str, int | None]:
        """What was launched in a stage range, or in none."""
        ops = [op for op in self.rec.ops if self.of_op(op)[0] == stage]
        calls = [call for call in self.rec.calls if self.of_call(call)[0] == stage]
        kernels = [op for op in ops if op.what == KERNEL]
        copies = [op for op in ops if op.what == COPY]
        behind = list(self.call.values())
        return {
            **projection(ops),
            "gpu_busy_ns": busy(ops),
            "launches": sum(call in behind for call in calls),
            "gpu_ops": len(ops),
            "kernels": len(kernels),
            "kernel_total_ns": total(kernels),
            "memcpy_ns": total(copies),
            "memcpy_bytes": sum(op.bytes for op in copies),
            "sync_ns": sum(call.end - call.start for call in calls if "Synchronize" in call.name),
        }

    def op_trace(self, ops: list[Op]) -> list[dict]:
        """What `kern_trace` and `mem_trace` have in common."""
        rows = []
        for op in events_in_order(ops):
            call, (stage, via) = self.call[op.row], self.of_op(op)
            inner = None if call is None else innermost(call, self.rec.ranges)
            rows.append(
                {
                    "start_ns": op.start,
                    "end_ns": op.end,
                    "duration_ns": op.duration,
                    "device_id": op.device,
                    "stream_id": op.stream,
                    "pid": pid(op.process),
                    "tid": None if call is None else tid(call.thread),
                    "correlation_id": op.correlation,
                    "api_name": None if call is None else call.name,
                    "api_start_ns": None if call is None else call.start,
                    "api_ns": None if call is None else call.end - call.start,
                    "queue_ns": None if call is None else max(op.start - call.end, 0),
                    "range_row": None if inner is None else inner.row,
                    "stage": NO_STAGE if stage is None else stage.name,
                    "stage_instance": None if stage is None else self.instance(stage),
                    "step": self.step_of(op),
                    "via": via,
                }
            )
        return rows

    def stage_trace(self, requests: bool = True) -> list[dict]:
        rows = []
        for stage in self.stages:
            sums = self.sums(stage)
            done = stage.end if sums["proj_end_ns"] is None else max(stage.end, sums["proj_end_ns"])
            first = sums["proj_start_ns"]
            wall = done - (stage.start if first is None else min(stage.start, first))
            rows.append(
                {
                    "stage": stage.name,
                    "instance": self.instance(stage),
                    "request": self.request_of(stage) if requests else None,
                    "pid": pid(stage.thread),
                    "tid": tid(stage.thread),
                    "range_row": stage.row,
                    "start_ns": stage.start,
                    "end_ns": stage.end,
                    "duration_ns": stage.end - stage.start,
                    "batch": self.batch(stage),
                    "steps": self.tokens(stage) if stage.name == "decode" or self.steps_in(stage) else None,
                    "tokens": by_batch(self.tokens(stage), self.batch(stage)),
                    "wall_ns": wall,
                    "gpu_idle_ns": wall - sums["gpu_busy_ns"],
                    **sums,
                }
            )
        return rows

    def kern_sum(self, stage: str | None = None) -> dict[str, dict[str, float]]:
        """Statistics by kernel name, of one stage or of everything."""
        values: dict[str, list[int]] = {}
        for op in self.rec.kernels:
            if stage is None or self.stage_of(op) == stage:
                values.setdefault(op.name, []).append(op.duration)
        return {name: figures(durations) for name, durations in values.items()}

    def stage_stream_sum(self) -> dict[tuple, dict[str, int]]:
        """By (stage, pid, device, stream), and by (stage, pid, device, None) for the whole device."""
        groups: dict[tuple, list[Op]] = {}
        for op in self.rec.ops:
            for stream in (op.stream, None):
                groups.setdefault((self.stage_of(op), pid(op.process), op.device, stream), []).append(op)
        return {
            key: {
                "gpu_ops": len(ops),
                "kernels": sum(op.what == KERNEL for op in ops),
                "kernel_total_ns": total(op for op in ops if op.what == KERNEL),
                "gpu_total_ns": total(ops),
                "gpu_busy_ns": busy(ops),
            }
            for key, ops in groups.items()
        }


def range_kern_sum(rec: Recording) -> dict[tuple, dict[str, float]]:
    """By (name, domain, style, pid, tid, kernel); a kernel counts once, however many such ranges hold it."""
    groups: dict[tuple, list[tuple[Op, Range | None]]] = {}
    inner: dict[int, Range | None] = {}
    for op in rec.kernels:
        call = call_of(op, rec.calls)
        around = [one for one in rec.ranges if call is not None and encloses(one, call)]
        inner[op.row] = nearest(around)
        for one in around:
            key = (one.name, one.domain, one.style, pid(one.thread), tid(one.thread), op.name)
            groups.setdefault(key, []).append((op, one))
        if not around:
            key = (NO_RANGE, "", None, pid(op.process), None if call is None else tid(call.thread), op.name)
            groups.setdefault(key, []).append((op, None))
    rows = {}
    for key, pairs in groups.items():
        ranges = {one for _, one in pairs if one is not None}
        kernels = {op for op, _ in pairs}
        exclusive = [op for op in kernels if inner[op.row] is None or inner[op.row] in ranges]
        rows[key] = {
            "range_instances": len(ranges),
            **figures([op.duration for op in kernels]),
            "exclusive_instances": len(exclusive),
            "exclusive_total_ns": total(exclusive),
        }
    return rows


def agreed(said: Iterable[int | None]) -> int | None:
    """The one number that all say who say one."""
    different = {number for number in said if number is not None}
    return different.pop() if len(different) == 1 else None


def by_batch(tokens: int | None, batch: int | None) -> int | None:
    """Tokens of all sequences; of one where their number is not known."""
    return None if tokens is None else tokens * (1 if batch is None else batch)
