"""What a report lacks or hides: a sentence, advice, and the exit code that ``--strict`` ends with."""

from __future__ import annotations

from collections.abc import Mapping

from dsprof.records import frozen

#: Exit codes of ``dsprof analyze --strict``, each for one finding; the lowest of those found is taken.
STRICT_EXITS: dict[str, int] = {
    "no-nvtx": 20,
    "no-cuda": 21,
    "no-api": 22,
    "lost-kernels": 23,
    "orphan-operations": 24,
    "unreconciled": 25,
    "over-roof": 26,
    "impossible-times": 27,
    "impossible-sizes": 28,
}

#: So many ranks are named in one sentence.
_NAMED = 8


@frozen
class Finding:
    """One thing that a reader of the tables must know; `strict_exit` is 0 where nothing is wrong with the data."""

    code: str
    message: str
    hint: str = ""
    strict_exit: int = 0

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def _finding(code: str, message: str, hint: str = "") -> Finding:
    return Finding(code, message, hint, STRICT_EXITS.get(code, 0))


def no_nvtx() -> Finding:
    """Without ranges there are no stages."""
    return _finding(
        "no-nvtx",
        "The report holds no NVTX ranges, so nothing can be told apart by stage.",
        "Record with --trace=cuda,nvtx, and with an nvtx package that this nsys understands.",
    )


def not_selected(what: str) -> Finding:
    """What was selected holds none of something; the report may."""
    return _finding(
        "not-selected",
        f"What is selected holds no {what}.",
        "Without --window, --device and --pid the report may hold some.",
    )


def no_cuda() -> Finding:
    """Without GPU operations all times are the host's."""
    return _finding(
        "no-cuda",
        "The report holds no GPU operations: all times are host times.",
        "On a GPU machine, record with --trace=cuda,nvtx and an nsys that knows the driver.",
    )


def no_api() -> Finding:
    """Without API calls no operation has a launch."""
    return _finding(
        "no-api",
        "The report holds GPU operations but no CUDA API calls, so no kernel can be tied to a range.",
        "Export the whole report again: a cut or filtered file has lost CUPTI_ACTIVITY_KIND_RUNTIME.",
    )


def lost_kernels(lost: int, launches: int, pid: int) -> Finding:
    """Launches whose kernel was not recorded."""
    return _finding(
        "lost-kernels",
        f"{lost} of {launches} kernel launches of process {pid} have no kernel in the report.",
        "Records were lost or the file was cut: shorten the capture, or take an nsys that knows the driver.",
    )


def lost_rank(launches: int, pid: int) -> Finding:
    """All kernels of a process are lost, and those of others are not."""
    return _finding(
        "lost-kernels",
        f"Process {pid} launched {launches} kernels, and none is in the report, where others have theirs: it is no "
        "fast rank, but one whose records were lost.",
        "Shorten the capture, or record each rank by itself with --per-rank.",
    )


def missing_ranks(there: int, expected: int, where: str, named: list[str]) -> Finding:
    """Fewer ranks than there should be; `named`: those that are missing, as far as they are known."""
    missing = f" Missing: {_some(named)}." if named else ""
    return _finding(
        "missing-ranks",
        f"{there} of {expected} ranks {where}.{missing}",
        "Waiting for a rank that is not there is told of nobody: see how it ended, and name its report as well.",
    )


def ranks_twice(twice: Mapping[int, list[str]]) -> Finding:
    """Ranks that several processes were told to be."""
    said = [f"rank {rank} by {' and '.join(names[:_NAMED])}" for rank, names in sorted(twice.items())]
    return _finding(
        "ranks-twice",
        f"Ranks are there twice, as launchers told them: {_some(said)}.",
        "Reports of two runs, or a rank that started another process on a GPU: ranks are then told by what is behind "
        "the environment in the order of trust, or not at all.",
    )


def no_kernels_of_rank(file: str) -> Finding:
    """A report of several that has no kernels."""
    return _finding(
        "no-kernels-of-rank",
        f"{file} has no kernels: it is no fast rank, but one of which nothing was recorded.",
        "See the findings of that report alone.",
    )


def orphan_operations(operations: int, pid: int) -> Finding:
    """Operations whose launch was not recorded."""
    return _finding(
        "orphan-operations",
        f"{operations} GPU operations of process {pid} have no API call in the report; they are in (no stage).",
        "The file was cut to a time window, or records were lost: analyze the whole report.",
    )


def impossible_times(rows: dict[str, int]) -> Finding:
    """Times that no capture can have."""
    return _finding(
        "impossible-times",
        f"Impossible times ({_counts(rows)}): they end before they begin, or lie more than 104 days from the rest. "
        "Where only the end is wrong, they count as lasting 0 ns; else they are left out.",
        "The recording, its export or a tool that rewrote it is at fault: export the report again.",
    )


def impossible_sizes(rows: dict[str, int]) -> Finding:
    """Sizes that no memory can have."""
    return _finding(
        "impossible-sizes",
        f"Impossible sizes ({_counts(rows)}): less than 0 bytes, or more than 9 PB. They count as 0 bytes.",
        "The recording, its export or a tool that rewrote it is at fault: export the report again.",
    )


def more_lost(processes: int) -> Finding:
    """More processes than are worth a sentence each."""
    return _finding("more-lost", f"More of the {processes} processes lost records; they are not named here.")


def graphs_hidden(replays: int) -> Finding:
    """Graph replays that were traced as a whole."""
    return _finding(
        "graphs-hidden",
        f"{replays} CUDA graph replays were traced as a whole: each counts as one kernel, (CUDA graph), and the "
        "kernels inside are not in the report.",
        "Record with --cuda-graph-trace=node to see them.",
    )


def nodes_traced(replays: int, nodes: int, stretch_ns: float, source: str, measured: bool) -> Finding:
    """Graph replays that were traced by their nodes, which takes time; `source`: where how much was measured."""
    return _finding(
        "nodes-traced",
        f"{replays} CUDA graph replays were traced by their nodes ({nodes / replays:.0f} each), stretching the "
        f"gaps by {stretch_ns / 1e3:.2f} us a node in {source}.",
        "" if measured else "An estimate: `dsprof capture --baseline graph` tells.",
    )


def no_baseline(problem: str) -> Finding:
    """The run that should tell what recording costs says nothing."""
    return _finding("no-baseline", problem)


def no_python(marks: int) -> Finding:
    """Python was to be sampled, and no sample can be read; `marks`: how many there are."""
    if not marks:
        return _finding(
            "no-python",
            "Python was to be sampled, and the report holds no sample, so nothing is said of what Python was in.",
            "See whether the recorded process is a Python, and what nsys says of it in the capture's log.",
        )
    return _finding(
        "no-python",
        f"Of {marks} samples of Python none can be read here, so nothing is said of what Python was in.",
        "Analyze the .nsys-rep, with the nsys that recorded it; an export by hand needs --include-blobs=true. Where "
        "that says the same, dsprof does not know what this nsys writes: please report its version.",
    )


def truncated_ranges(ranges: int) -> Finding:
    """Ranges that the end of the capture closed."""
    return _finding(
        "truncated-ranges",
        f"{ranges} NVTX range{_s(ranges)} still open when the capture ended; the end given is the capture's.",
    )


def cut_ranges(ranges: int, stages: int, steps: int, requests: int) -> Finding:
    """Ranges that reach over the edges of the window that was selected."""
    kinds = ((stages, "stage"), (steps, "decode step"), (requests, "request"))
    which = ", ".join(f"{count} {word}{'s' * (count != 1)}" for count, word in kinds if count)
    return _finding(
        "cut-ranges",
        f"{ranges} NVTX range{' reaches' if ranges == 1 else 's reach'} over an edge of --window"
        f"{f' ({which})' if which else ''}: of them counts what is inside, and their times are shorter than they were. "
        "A step or request that is not whole is left out, and a stage where others of its kind are whole.",
    )


def left_out(names: int, ranges: int) -> Finding:
    """Names of ranges that `range_kern_sum` leaves out, because too many ranges of other names are inside of theirs."""
    return _finding(
        "left-out",
        f"range_kern_sum leaves out {names} of the ranges' names ({ranges} ranges): too many ranges of other names are "
        "inside of them. range_trace has them all.",
        "Look for ranges that are pushed and never popped, and name ranges by what they do, not by a number.",
    )


def no_stages(stages: tuple[str, ...]) -> Finding:
    """Ranges, but none that is a stage."""
    return _finding(
        "no-stages",
        f"No range is named like a stage ({', '.join(stages)}), so everything is in (no stage).",
        "Name your own ranges as stages with --stage NAME=REGEX.",
    )


def no_engine(title: str, switch: str) -> Finding:
    """An engine was named, and no range is a step of it; `switch`: what it needs to write them."""
    return _finding("no-engine", f"No range is named like a step of {title}.", switch)


def modes_not_told(steps: int, title: str, because: str) -> Finding:
    """Steps whose mode is not in their names, or no more than a guess."""
    return _finding(
        "modes-not-told",
        f"Of {steps} steps of {title} the mode is not known, or a guess where it ends in ?"
        f"{f': {because}' if because else ''}.",
    )


def drafts(more: int, steps: int, ratio: float) -> Finding:
    """Most steps that generate have several tokens a request."""
    return _finding(
        "drafts",
        f"{more} of {steps} steps that generate schedule several tokens a request, {ratio:.1f} in the mean: drafts are "
        "verified (speculative decoding).",
        "How many are accepted is not in the names: output tokens are told as one a request, which is the least.",
    )


def computed_again(more: int, steps: int, ratio: float) -> Finding:
    """Some steps that generate have many more tokens than requests."""
    return _finding(
        "computed-again",
        f"{more} of {steps} steps that generate schedule {ratio:.0f} times as many tokens as requests: as these are "
        "few, requests that had been preempted were computed again, and no drafts are verified.",
        "Preemption is for want of room in the KV cache: fewer requests at a time, or more memory for it.",
    )


def unfitting(what: str, pattern: str, names: int, fitted: int, near: list[str]) -> Finding:
    """A pattern of the user's that makes no range a stage or a step; `fitted` names it fits, and stages before it had.

    `what`: whose pattern it is; `near`: names of ranges that are like it.
    """
    among = (
        f"{fitted} of {names} range names, which stages before it have" if fitted else f"none of {names} range names"
    )
    like = f"; near: {', '.join(near)}" if near else ""
    return _finding(
        "unfitting",
        f"{what} has no range: its pattern {pattern} fits {among}{like}.",
        "`dsprof table REPORT range_trace` shows the names of all ranges.",
    )


def straddling(calls: int, ranges: int) -> Finding:
    """API calls across the end of a range."""
    return _finding(
        "straddling",
        f"{calls} API calls start in a range and end after it ({ranges} ranges): they belong to it here, and to no "
        "range in Nsight's reports.",
    )


def unreconciled(table: str, found: tuple[int, int], whole: tuple[int, int]) -> Finding:
    """A table whose sums are not the report's; there should never be one."""
    return _finding(
        "unreconciled",
        f"{table} holds {found[0]} kernels of {found[1]} ns, the report {whole[0]} of {whole[1]} ns.",
        "This is an error of dsprof: please report it.",
    )


def warm_up(examples: list[str], more: int) -> Finding:
    """Stages that verdicts, stages and steps leave out, and by what they were told."""
    others = f", and {more} more" if more else ""
    return _finding(
        "warm-up",
        f"Left out as a warm-up (warm_up_by in stage_trace): {'; '.join(examples)}{others}.",
    )


def no_roofs(source: str, reason: str) -> Finding:
    """A model is named, and its roofs cannot be told."""
    return _finding("no-roofs", f"There are no roofs for the model in {source}: {reason}")


def roofs_assume(sentences: str) -> Finding:
    """What the costs of a stage rest on where the model's record does not say it."""
    return _finding("roofs-assume", f"Of the roofs: {sentences}", "A capture of dsprof records both.")


def no_costs(stages: int, reason: str) -> Finding:
    """Stages whose costs cannot be told."""
    return _finding("no-costs", f"{stages} prefills or decodes are left out of the roofs: {reason}.")


def over_roof(stages: int, example: str, source: str) -> Finding:
    """Utilizations above 100 %: one of the numbers is wrong, and none is shown."""
    return _finding(
        "over-roof",
        f"{stages} prefills or decodes would be above a roof, so their utilization is left out: {example}.",
        f"See whether {source} is the model that ran here, whole and in each process, and the GPU the report's.",
    )


def nsys_says(sentence: str, times: int = 1) -> Finding:
    """A warning of Nsight Systems itself about the capture, whose meaning is not known here."""
    often = f" ({times} times)" if times > 1 else ""
    return _finding("nsys-says", f"Nsight Systems says of this capture: {sentence}{often}")


#: By kind what a message of Nsight Systems means, and what to do; {n} stands for what it counts.
_MESSAGES = {
    "hardware-tracing": (
        "CUDA was traced by the GPU's hardware: gaps between kernels are truer than with software tracing, and not to "
        "be compared with those.",
        "Where kernels are missing, record with `-t cuda-sw,nvtx`.",
    ),
    "dropped-events": (
        "Nsight Systems dropped {n} CUDA events whose times on the GPU it did not have when recording stopped.",
        "With hardware tracing record with `-t cuda-sw,nvtx`; else synchronize before the recording stops, or record a "
        "shorter window.",
    ),
    "buffers-full": (
        "Nsight Systems had no room left for CUDA events, so some are missing.",
        "Record a shorter window, or flush more often with --cuda-flush-interval.",
    ),
    "incomplete-events": (
        "Nsight Systems says that not all CUDA events might have been collected.",
        "Let the program end by itself or synchronize before the recording stops, and record a shorter window.",
    ),
    "incomplete-ranges": (
        "Nsight Systems says that not all NVTX events might have been collected.",
        "Let the program end by itself, or record a shorter window.",
    ),
    "unsupported-driver": (
        "This nsys does not know the GPU's driver, and traced with what it has for an older one: CUDA events may be "
        "missing.",
        "Record with a newer nsys.",
    ),
    "cuda-refused": (
        "Nsight Systems could not trace CUDA on this GPU.",
        "Record on a GPU without confidential computing.",
    ),
    "cupti-taken": (
        "Another profiler held CUPTI, so Nsight Systems saw no CUDA events of that process.",
        "Record without torch.profiler or another tool that traces CUDA in the same process.",
    ),
    "cuda-failed": (
        "Tracing of CUDA did not start in the recorded program.",
        "Record with an nsys that knows the driver.",
    ),
    "missing-cuda": (
        "The CUDA driver loads another tool into every process, so CUDA events may be missing.",
        "Remove the file that tells it to: the report's diagnostics name the library.",
    ),
    "lost-samples": (
        "Nsight Systems lost {n} samples of the CPU, so what threads waited for may be wrong.",
        "Record with --sample=none, or sample less often.",
    ),
    "no-samples": (
        "Nsight Systems was not allowed to sample the CPU or see its threads switched.",
        "Lower kernel.perf_event_paranoid, or record with --sample=none --cpuctxsw=none.",
    ),
    "more-said": ("Nsight Systems gives {times} more kinds of warnings.", "The report's diagnostics show them all."),
}


def nsys_means(kind: str, text: str, times: int, number: int | None) -> list[Finding]:
    """What a message of Nsight Systems (see `trace.Message`) says of the data; nothing where that does not matter."""
    if not kind:
        return [nsys_says(text, times)]
    if kind not in _MESSAGES:
        return []
    sentence, hint = _MESSAGES[kind]
    return [_finding(kind, sentence.format(n="some" if number is None else number, times=times), hint)]


def unborn_nodes(kernels: int) -> Finding:
    """Kernels of CUDA graphs, and ranges of modules, but not the capture that says which is of which."""
    return _finding(
        "unborn-nodes",
        f"{kernels} kernels of CUDA graphs are in no module of their own in layer_sum: their graphs were captured "
        "before the recording began.",
        "Record the capture of the graphs too, or with nsys 2026.4 or newer --cuda-graph-trace=node:nvtx-precapture.",
    )


def _some(named: list[str]) -> str:
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    return f"{', '.join(named[:_NAMED])}{more}"


def requests_apart(requests: int) -> Finding:
    """Requests of several ranks that share their collectives, while nothing tells whether they are one."""
    return _finding(
        "requests-apart",
        f"{requests} requests share their collectives with those of other ranks, and nothing tells whether they are "
        "the same ones: each rank has its own row in request_trace.",
        "All-reduces tell tensor parallelism; ranks that share other collectives may serve requests of their own.",
    )


def _counts(rows: dict[str, int]) -> str:
    return ", ".join(f"{words}: {count}" for words, count in rows.items())


def _s(number: int) -> str:
    return " was" if number == 1 else "s were"
