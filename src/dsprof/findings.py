"""What a report lacks or hides: a sentence, advice, and the exit code that ``--strict`` ends with."""

from __future__ import annotations

from attrs import frozen

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


def truncated_ranges(ranges: int) -> Finding:
    """Ranges that the end of the capture closed."""
    return _finding(
        "truncated-ranges",
        f"{ranges} NVTX range{_s(ranges)} still open when the capture ended; the end given is the capture's.",
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


def nsys_says(sentence: str) -> Finding:
    """A warning of Nsight Systems itself about the capture."""
    return _finding("nsys-says", f"Nsight Systems says of this capture: {sentence}")


def _counts(rows: dict[str, int]) -> str:
    return ", ".join(f"{words}: {count}" for words, count in rows.items())


def _s(number: int) -> str:
    return " was" if number == 1 else "s were"
