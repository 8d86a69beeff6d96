"""What a run observed on the host: times of stages and steps. GPU times come from the report, not from here."""

from __future__ import annotations

from attrs import define, field


@define
class StageTiming:
    """One prefill or decode as the host saw it; nanoseconds of `time.perf_counter_ns`.

    `tokens`: the prompt's for a prefill, the decode steps for a decode, None where it is not known.
    """

    stage: str
    request: int = 0
    start_ns: int = 0
    duration_ns: int = 0
    tokens: int | None = None


@define
class RequestTiming:
    """One call of `generate()` as the host saw it; `steps_ns` are the durations of its decode steps."""

    request: int
    prompt_tokens: int | None = None
    start_ns: int = 0
    duration_ns: int = 0
    stages: list[StageTiming] = field(factory=list)
    steps_ns: list[int] = field(factory=list)
